"""The small world's judge: scores replies exactly, and a policy against the optimum."""

import functools

import numpy as np

from mipo.data import render
from mipo.information import mutual_information
from mipo.logprobs import conditional_pmi, response_logps
from mipo.world import World
from mipo.worlds.grammar import SILENT, TASKS, parse
from mipo.worlds.population import Person


def score(replies, records):
    """Arrays (n,) per reply: valid, adherence (share of relevant slots that state the person's value; 0 if not valid),
    fits (all of them do), speaks (the aside names something), own (the aside names the person's own irrelevant value)."""
    if len(replies) != len(records):
        raise ValueError(f"{len(replies)} replies for {len(records)} records")
    world = World()
    out = {
        name: np.zeros(len(replies))
        for name in ("valid", "adherence", "fits", "speaks", "own")
    }
    for i, (y, r) in enumerate(zip(replies, records, strict=True)):
        parsed = parse(y, r["task"], topic=r["topic"])
        if parsed is None:
            continue
        who = as_person(r)
        said, aside = parsed[0][-1], TASKS[r["task"]].slots[-1]
        out["valid"][i] = 1
        out["adherence"][i] = world.adherence(y, r["task"], who)
        out["fits"][i] = out["adherence"][i] == 1
        out["speaks"][i] = said != SILENT
        out["own"][i] = said == who[aside.attribute]
    return out


def as_person(record):
    """The Person behind a record of the small world."""
    return Person(tuple(record["values"].items()))


def exact_adherence(records, *, beta=None, **optimum):
    """Expected adherence (n,) of the exact law p(y|x,c), or of the optimum at β; see World.optimum for the keywords."""
    world = World()
    laws = (
        world.law(r["task"], as_person(r))
        if beta is None
        else world.optimum(r["task"], as_person(r), beta, **optimum)
        for r in records
    )
    return np.array(
        [law.adherence(as_person(r)) for law, r in zip(laws, records, strict=True)]
    )


def exact_information(records, *, beta=None):
    """I(Y; C | X) in nats per reply where C is one of the records' people, each as likely: mean over the records' tasks.

    Of the exact law (beta None) or of the optimum at β. It is what `information` estimates for a policy.
    """
    world, people = World(), list({r["person"]: as_person(r) for r in records}.values())
    per_task = []
    for task in sorted({r["task"] for r in records}):
        laws = [
            world.law(task, who) if beta is None else world.optimum(task, who, beta)
            for who in people
        ]
        joint = np.stack(
            [
                functools.reduce(np.multiply.outer, [t for _, t in law.groups]).ravel()
                for law in laws
            ]
        )  # (C, Y)
        per_task.append(
            mutual_information(joint, np.full(len(people), 1 / len(people)))
        )
    return float(np.mean(per_task))


def kl_to_optimum(model, tokenizer, replies, records, *, beta):
    """Monte Carlo KL(π ‖ π*_β) in nats per reply over the valid replies, which must have been sampled from the model."""
    world = World()
    valid = [
        i
        for i, (y, r) in enumerate(zip(replies, records, strict=True))
        if parse(y, r["task"], topic=r["topic"])
    ]
    if not valid:
        raise ValueError(
            "no reply is inside the grammar, so the distance to the optimum is not defined"
        )
    prompts = [
        render(tokenizer, records[i]["query"], records[i]["context"]) for i in valid
    ]
    ours = response_logps(
        model, tokenizer, prompts, [replies[i] for i in valid], batch_size=128
    ).summed.numpy()
    best = [
        world.log_prob(replies[i], records[i]["task"], as_person(records[i]), beta=beta)
        for i in valid
    ]
    return float(np.mean(ours - np.array(best)))


def information(model, tokenizer, replies, records, *, contexts):
    """The policy's own I(Y; C | X) by Monte Carlo, nats per reply: mean of log π(y|x,c) - log mean_c' π(y|x,c').

    `contexts` are the c' of the marginal; with n of them the value is at most log n.
    """
    return float(
        conditional_pmi(
            model, tokenizer, records, replies, contexts=contexts, batch_size=256
        ).mean()
    )
