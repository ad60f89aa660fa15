"""Chapter 7: what a policy is asked, what its replies are worth, and what is exact.

A condition is a set of prompts. Policies of one seed reply to the very same prompts
with the same random numbers, so that their scores can be compared prompt by prompt.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mipo.cache import Run, cached
from mipo.evaluate import win_rate
from mipo.evaluate.diversity import (
    compression_ratio,
    distinct_n,
    self_bleu,
    token_lengths,
)
from mipo.files import write_whole
from mipo.lm.sampling import Reply
from mipo.models import load_model
from mipo.world import World
from mipo.worlds import population, scoring
from mipo.worlds.grammar import ATTRIBUTES, TASKS
from mipo.worlds.language_model import sample
from mipo.worlds.population import Person
from mipo_study.experiment import Policy, model_folder

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Example = Mapping[str, Any]

CONDITIONS: dict[str, dict[str, Any]] = {
    "unseen": {"split": "test", "wordings": "unseen"},
    "unseen people": {"split": "test", "wordings": "seen"},
    "unseen wordings": {"split": "mipo", "wordings": "unseen"},
    "seen": {"split": "mipo", "wordings": "seen"},
    "incomplete": {"split": "test", "wordings": "unseen", "kind": "incomplete"},
    "noisy": {"split": "test", "wordings": "unseen", "kind": "noisy"},
    "conflicting": {"split": "test", "wordings": "unseen", "kind": "conflicting"},
}
# How varied are replies to one prompt? So many prompts are repeated.
REPEATED, REPEATED_PROMPTS = "again", 48
# Kept of each reply beside its adherence, 1 or 0; see `scoring.score`.
MARKS = ("valid", "speaks", "own")


# ---- prompts ----


def examples_of(
    condition: str, *, n_people: int, per_task: int, seed: int
) -> list[dict]:
    """Examples of a condition; the same seed gives the same people in all of one split.

    Parameters
    ----------
    condition : str
        A key of `CONDITIONS`.
    n_people, per_task, seed : int
        How many people, their prompts per task, and who they are.

    Returns
    -------
    list of dict

    Raises
    ------
    ValueError
        For an unknown condition.
    """
    if condition not in CONDITIONS:
        known = ", ".join(CONDITIONS)
        raise ValueError(f"no condition {condition!r}; conditions are {known}")
    return population.examples(
        n_people, per_task=per_task, seed=seed, **CONDITIONS[condition]
    )


def all_examples(
    *, n_people: int, per_task: int, draws: int, seed: int, closely: bool = True
) -> dict[str, list[dict]]:
    """Examples of every condition.

    Parameters
    ----------
    n_people : int
        Of "unseen"; the other conditions have half as many.
    per_task, seed : int
        Prompts per person and task; who they are.
    draws : int
        Replies to each prompt of "again", which repeats the first prompts of "unseen",
        each `draws` times in a row.
    closely : bool
        Whether there are other conditions than "unseen" and "again".

    Returns
    -------
    dict
        {condition: examples}.
    """
    who = {"per_task": per_task, "seed": seed}
    examples = {"unseen": examples_of("unseen", n_people=n_people, **who)}
    if closely:
        half = max(2, n_people // 2)
        for condition in list(CONDITIONS)[1:]:
            examples[condition] = examples_of(condition, n_people=half, **who)
    first = examples["unseen"][:REPEATED_PROMPTS]
    examples[REPEATED] = [example for example in first for _ in range(draws)]
    return examples


def among(examples: Sequence[Example], contexts: int) -> list[Example]:
    """The examples of the first people: those whose I(Y; C | X) is measured."""
    return [example for example in examples if example["person"] < contexts]


# ---- replies and scores ----


@cached("conditions", inputs=["policy"], keep=["scores.json"])
def reply_in_conditions(
    folder: Path,
    *,
    policy: Policy,
    contexts: int,
    n_people: int,
    per_task: int,
    draws: int,
    seed: int,
    closely: bool = True,
    progress: bool,
) -> dict[str, Any]:
    """Run of a policy's replies in every condition at temperature 1, and their scores.

    Parameters
    ----------
    policy : Run, path or hub name
        What replies.
    contexts : int
        So many people of "unseen" are told apart by their replies.
    n_people, per_task, draws, seed, closely
        Of the prompts; see `all_examples`. The seed is that of the replies as well.

    Returns
    -------
    Run
        Metrics: information, the policy's own I(Y; C | X) among the first `contexts`
        people (nats per reply); tokens (mean length); self_bleu, distinct, compression
        (see `variety`); within (self-BLEU of replies to one prompt, 0 to 100).
    """
    model, tokenizer = load_model(model_folder(policy))
    examples = all_examples(
        n_people=n_people, per_task=per_task, draws=draws, seed=seed, closely=closely
    )
    every = [example for part in examples.values() for example in part]
    said = sample(model, tokenizer, every, seed=seed, progress=progress)
    sampled, begin = {}, 0
    for condition, part in examples.items():
        sampled[condition] = said[begin : begin + len(part)]
        begin += len(part)
    replies = {name: [one.text for one in part] for name, part in sampled.items()}
    write_whole(folder / "replies.json", json.dumps(replies))
    scores = {name: _scores(replies[name], part) for name, part in examples.items()}
    write_whole(folder / "scores.json", json.dumps(scores))
    unseen, prompts = replies["unseen"], examples["unseen"]
    repeated = replies[REPEATED]
    by_prompt = [repeated[i : i + draws] for i in range(0, len(repeated), draws)]
    return {
        "information": _information(
            model, tokenizer, sampled["unseen"], prompts, contexts
        ),
        "tokens": float(token_lengths(unseen, tokenizer).mean()),
        **variety(unseen, prompts),
        "within": float(np.mean([self_bleu(texts) for texts in by_prompt])),
    }


def _scores(replies: Sequence[str], examples: Sequence[Example]) -> dict[str, list]:
    scores = scoring.score(replies, examples)
    marks = {name: scores[name].astype(int).tolist() for name in MARKS}
    return {"adherence": scores["adherence"].tolist(), **marks}


def _information(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    replies: Sequence[Reply],
    examples: Sequence[Example],
    contexts: int,
) -> float:
    few = among(examples, contexts)
    rows = zip(replies, examples, strict=True)
    theirs = [reply.ids for reply, example in rows if example["person"] < contexts]
    people = {example["person"]: example["context"] for example in few}
    return scoring.information(
        model, tokenizer, theirs, few, contexts=list(people.values())
    )


def variety(
    replies: Sequence[str], examples: Sequence[Example], *, sample: int = 40
) -> dict[str, float]:
    """How alike replies of different people to one task are: means over tasks.

    Parameters
    ----------
    replies, examples : sequences of length n
        One reply per example.
    sample : int
        At most so many replies of a task are compared by self-BLEU.

    Returns
    -------
    dict
        self_bleu (0 to 100), distinct (share of distinct word pairs), compression.

    Raises
    ------
    ValueError
        Where no task has two replies of at least two words.
    """
    by_task = {task: [] for task in TASKS}
    for reply, example in zip(replies, examples, strict=True):
        if len(reply.split()) > 1:
            by_task[example["task"]].append(reply)
    compared = [texts for texts in by_task.values() if len(texts) > 1]
    if not compared:
        raise ValueError("variety: no task has two replies of at least two words")
    bleu = [self_bleu(texts, sample=sample) for texts in compared]
    distinct = [distinct_n(texts, 2) for texts in compared]
    compression = [compression_ratio(texts) for texts in compared]
    return {
        "self_bleu": float(np.mean(bleu)),
        "distinct": float(np.mean(distinct)),
        "compression": float(np.mean(compression)),
    }


def read_replies(run: Run) -> dict[str, list[str]]:
    """{condition: replies} of `reply_in_conditions`."""
    return json.loads(run.read("replies.json"))


def read_scores(run: Run) -> dict[str, dict[str, list]]:
    """{condition: {adherence, valid, speaks, own}} of `reply_in_conditions`."""
    return json.loads(run.read("scores.json"))


def score_table(
    runs: Mapping[tuple[str, int], Run],
    examples: Mapping[int, Mapping[str, Sequence[Example]]],
) -> pd.DataFrame:
    """Scores of all replies, a row each.

    Parameters
    ----------
    runs : mapping
        {(method, seed): run of `reply_in_conditions`}.
    examples : mapping
        {seed: {condition: examples}}.

    Returns
    -------
    pandas.DataFrame
        Columns: method, seed, condition, task, aside (see `aside`), unusual (see
        `unusual`), adherence, valid, speaks, own.
    """
    parts = []
    for (method, seed), run in runs.items():
        for condition, scores in read_scores(run).items():
            asked = examples[seed][condition]
            part = pd.DataFrame(scores)
            part["method"], part["seed"], part["condition"] = method, seed, condition
            part["task"] = [example["task"] for example in asked]
            part["aside"] = [aside(example) for example in asked]
            part["unusual"] = unusual(asked)
            parts.append(part)
    return pd.concat(parts, ignore_index=True)


def by_seed(rows: pd.DataFrame, column: str = "adherence") -> pd.DataFrame:
    """Mean of a column of `score_table`: one row per seed, one column per method."""
    means: dict[str, dict[int, float]] = {}
    for (method, seed), part in rows.groupby(["method", "seed"], sort=False):
        means.setdefault(method, {})[seed] = float(part[column].to_numpy().mean())
    return pd.DataFrame(means)


def gains(rows: pd.DataFrame) -> pd.DataFrame:
    """Adherence less that of the base model on the same prompts, seed by seed."""
    adherence = by_seed(rows)
    return adherence.drop(columns="base").sub(adherence["base"], axis=0)


def win_rates(rows: pd.DataFrame) -> pd.DataFrame:
    """How often each method's replies beat those of the base model to the same prompts.

    Parameters
    ----------
    rows : pandas.DataFrame
        Of `score_table`.

    Returns
    -------
    pandas.DataFrame
        win, tie, loss, win_or_tie (shares), with index method and seed.
    """
    scores = {
        key: part.adherence.to_numpy()
        for key, part in rows.groupby(["method", "seed"], sort=False)
    }
    rates = {
        (method, seed): win_rate(adherence, scores["base", seed])
        for (method, seed), adherence in scores.items()
        if method != "base"
    }
    return pd.DataFrame(rates).T.rename_axis(["method", "seed"])


def replies_against_themselves(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores of every reply to a prompt beside every other reply to the same prompt.

    Parameters
    ----------
    scores : ndarray, shape (prompts, draws)
        Of replies of one policy.

    Returns
    -------
    first, second : ndarray, shape (prompts · draws · (draws - 1),)
        What a policy that changes nothing would be compared by.
    """
    draws = scores.shape[1]
    different = ~np.eye(draws, dtype=bool)  # no reply is compared with itself
    first = np.repeat(scores[:, :, None], draws, axis=2)
    second = np.repeat(scores[:, None, :], draws, axis=1)
    return first[:, different].ravel(), second[:, different].ravel()


# ---- what is exact ----


def mean_over(
    function: Callable[[Sequence[Example]], np.ndarray],
    groups: Sequence[Sequence[Example]],
) -> float:
    """Mean over seeds of a function's mean over the seed's examples.

    Parameters
    ----------
    function : callable
        Gives one number per example.
    groups : sequence
        The examples of each seed.

    Returns
    -------
    float
    """
    return float(np.mean([function(examples).mean() for examples in groups]))


def unusual(examples: Sequence[Example], share: float = 0.25) -> np.ndarray:
    """Which examples are of the least usual people.

    Parameters
    ----------
    examples : sequence of dict, length n
        Of any people.
    share : float
        Share of people, those with the lowest log p(c).

    Returns
    -------
    ndarray of bool, shape (n,)
    """
    prior = {e["person"]: scoring.as_person(e).log_prior for e in examples}
    edge = np.quantile(list(prior.values()), share)
    return np.array([prior[e["person"]] <= edge for e in examples])


def described_person(context: str) -> Person:
    """The person that a context describes.

    An attribute stated twice is left out, since nothing says which is true.
    """
    values: dict[str, list[str]] = {}
    for line in context.split(". "):
        if line:
            name, _, value = line.rstrip(".").partition(": ")
            values.setdefault(name.lower(), []).append(value)
    once = [(a, values[a][0]) for a in ATTRIBUTES if len(values.get(a, ())) == 1]
    return Person(tuple(once))


def exact_adherence_to_truth(examples: Sequence[Example]) -> np.ndarray:
    """Expected adherence to the true person under p(y | x, stated context); (n,)."""
    world = World()
    adherence = []
    for example in examples:
        law = world.law(example["task"], described_person(example["context"]))
        adherence.append(law.adherence(scoring.as_person(example)))
    return np.array(adherence)


def aside(example: Example) -> str:
    """Attribute of the aside, which has nothing to do with the task: pet or city."""
    return TASKS[example["task"]].slots[-1].attribute


def chance_of_own(examples: Sequence[Example]) -> np.ndarray:
    """Exact chance that an aside names the person's own value; (n,).

    Nothing about the aside depends on the person.
    """
    world = World()
    chances = []
    for example in examples:
        slots = TASKS[example["task"]].slots
        options = list(slots[-1].options)
        law = world.law(example["task"]).slot(len(slots) - 1)
        value = example["values"][aside(example)]
        chances.append(law[options.index(value)] if value in options else 0.0)
    return np.array(chances)
