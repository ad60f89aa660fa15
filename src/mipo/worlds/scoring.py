"""The small world's judge: scores replies exactly, and a policy against the optimum."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mipo.information import mutual_information
from mipo.lm.prompts import render
from mipo.logprobs import conditional_pmi, response_logps
from mipo.world import World
from mipo.worlds.grammar import SILENT, TASKS, parse
from mipo.worlds.population import Person

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Example = Mapping[str, Any]


def score(replies: Sequence[str], examples: Sequence[Example]) -> dict[str, np.ndarray]:
    """Score replies to examples of the small world.

    Parameters
    ----------
    replies : sequence of str, length n
        One per example.
    examples : sequence of dict, length n
        As `mipo.worlds.population.examples` makes them.

    Returns
    -------
    dict of ndarray, shape (n,)
        "valid": inside the grammar and on topic. "adherence": share of relevant slots
        that state the person's value; 0 if not valid. "fits": all of them do. "speaks":
        the aside names something. "own": it names the person's own irrelevant value.

    Raises
    ------
    ValueError
        For unequal numbers of replies and examples.
    """
    if len(replies) != len(examples):
        raise ValueError(f"{len(replies)} replies for {len(examples)} examples")
    world = World()
    names = ("valid", "adherence", "fits", "speaks", "own")
    scores = {name: np.zeros(len(replies)) for name in names}
    for i, (reply, example) in enumerate(zip(replies, examples, strict=True)):
        task, who = example["task"], as_person(example)
        parsed = parse(reply, task, topic=example["topic"])
        if parsed is None:
            continue
        aside, value = TASKS[task].slots[-1], parsed[0][-1]
        adherence = world.adherence(reply, task, who)
        scores["valid"][i] = 1
        scores["adherence"][i] = adherence
        scores["fits"][i] = adherence == 1
        scores["speaks"][i] = value != SILENT
        scores["own"][i] = value == who[aside.attribute]
    return scores


def as_person(example: Example) -> Person:
    """Return the Person behind an example of the small world."""
    return Person(tuple(example["values"].items()))


def exact_adherence(
    examples: Sequence[Example], *, beta: float | None = None, **optimum: str
) -> np.ndarray:
    """Return the expected adherence of an exact law, one per example.

    Parameters
    ----------
    examples : sequence of dict, length n
        Examples of the small world.
    beta : float, optional
        Of the optimum; None: the law p(y|x,c) itself.
    **optimum : str
        ``level`` and ``negative`` of `mipo.world.World.optimum`.

    Returns
    -------
    ndarray, shape (n,)
        Shares.
    """
    world = World()
    shares = []
    for example in examples:
        who = as_person(example)
        if beta is None:
            law = world.law(example["task"], who)
        else:
            law = world.optimum(example["task"], who, beta, **optimum)
        shares.append(law.adherence(who))
    return np.array(shares)


def exact_information(
    examples: Sequence[Example], *, beta: float | None = None
) -> float:
    """Return I(Y; C | X) of an exact law, mean over the examples' tasks.

    It is what `information` estimates for a policy.

    Parameters
    ----------
    examples : sequence of dict
        C is one of their people, each as likely.
    beta : float, optional
        Of the optimum; None: the law p(y|x,c) itself.

    Returns
    -------
    float
        Nats per reply.
    """
    world = World()
    people = list({r["person"]: as_person(r) for r in examples}.values())
    even = np.full(len(people), 1 / len(people))
    per_task = []
    for task in sorted({r["task"] for r in examples}):
        if beta is None:
            laws = [world.law(task, who) for who in people]
        else:
            laws = [world.optimum(task, who, beta) for who in people]
        tables = [[table for _, table in law.groups] for law in laws]
        joint = [functools.reduce(np.multiply.outer, t).ravel() for t in tables]
        per_task.append(mutual_information(np.stack(joint), even))  # (C, Y)
    return float(np.mean(per_task))


def kl_to_optimum(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    replies: Sequence[str],
    examples: Sequence[Example],
    *,
    beta: float,
) -> float:
    """Estimate KL(π ‖ π*_β) by Monte Carlo over the valid replies.

    Parameters
    ----------
    model, tokenizer
        The policy π.
    replies : sequence of str
        One per example, sampled from the model.
    examples : sequence of dict
        Examples of the small world.
    beta : float
        Of the optimum.

    Returns
    -------
    float
        Nats per reply.

    Raises
    ------
    ValueError
        Where no reply is inside the grammar.
    """
    world = World()
    prompts, valid, best = [], [], []
    for reply, example in zip(replies, examples, strict=True):
        task, topic = example["task"], example["topic"]
        if parse(reply, task, topic=topic) is None:
            continue
        prompts.append(render(tokenizer, example["query"], example["context"]))
        valid.append(reply)
        best.append(world.log_prob(reply, task, as_person(example), beta=beta))
    if not valid:
        raise ValueError(
            "no reply is inside the grammar, "
            "so the distance to the optimum is not defined"
        )
    ours = response_logps(model, tokenizer, prompts, valid, batch_size=128)
    return float(np.mean(ours.summed.numpy() - np.array(best)))


def information(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    replies: Sequence[str | Sequence[int]],
    examples: Sequence[Example],
    *,
    contexts: Sequence[str],
) -> float:
    """Estimate the policy's own I(Y; C | X) by Monte Carlo.

    Parameters
    ----------
    model, tokenizer
        The policy π.
    replies : sequence
        One per example, sampled from the model; ids or text, as
        `mipo.logprobs.response_logps` takes them.
    examples : sequence of dict
        Examples of the small world.
    contexts : sequence of str
        The c' of the marginal.

    Returns
    -------
    float
        Mean of log π(y|x,c) - log mean_c' π(y|x,c'), nats per reply; at most log n for
        n contexts.
    """
    pmi = conditional_pmi(
        model,
        tokenizer,
        list(examples),
        list(replies),
        contexts=contexts,
        batch_size=256,
    )
    return float(pmi.mean())
