"""What notebook 07 asks a policy in the small world, and what its replies are worth: conditions, replies, exact scores.

A condition is a set of prompts. Policies of one seed answer the very same prompts with the same random numbers, so that
their scores can be compared prompt by prompt.
"""

import json
from pathlib import Path

import numpy as np

from mipo import cache
from mipo.evaluate.diversity import (
    compression_ratio,
    distinct_n,
    self_bleu,
    token_lengths,
)
from mipo.models import load_model
from mipo.world import World
from mipo.worlds import population, scoring
from mipo.worlds.grammar import ATTRIBUTES, TASKS
from mipo.worlds.language_model import sample_replies
from mipo.worlds.population import Person

CONDITIONS = {
    "unseen": {"split": "test", "wordings": "unseen"},
    "unseen people": {"split": "test", "wordings": "seen"},
    "unseen wordings": {"split": "mipo", "wordings": "unseen"},
    "seen": {"split": "mipo", "wordings": "seen"},
    "incomplete": {"split": "test", "wordings": "unseen", "kind": "incomplete"},
    "noisy": {"split": "test", "wordings": "unseen", "kind": "noisy"},
    "conflicting": {"split": "test", "wordings": "unseen", "kind": "conflicting"},
}
AGAIN, AGAIN_PROMPTS = (
    "again",
    48,
)  # so many prompts, each many times: how varied are the replies to one person?


def prompts(condition, *, n_people, per_task, seed):
    """Records of a condition; the same seed gives the same people in all conditions of one split."""
    if condition not in CONDITIONS:
        raise ValueError(
            f"no condition {condition!r}; conditions are {', '.join(CONDITIONS)}"
        )
    return population.records(
        n_people, per_task=per_task, seed=seed, **CONDITIONS[condition]
    )


def all_prompts(*, n_people, per_task, draws, seed, closely=True):
    """{condition: records}: "unseen" at full size, the others with half the people (only if `closely`), and AGAIN.

    AGAIN repeats the first AGAIN_PROMPTS prompts of "unseen", each `draws` times in a row.
    """
    found = {
        c: prompts(
            c,
            n_people=n_people if c == "unseen" else max(2, n_people // 2),
            per_task=per_task,
            seed=seed,
        )
        for c in (CONDITIONS if closely else ["unseen"])
    }
    return found | {
        AGAIN: [r for r in found["unseen"][:AGAIN_PROMPTS] for _ in range(draws)]
    }


def answers(run_dir, policy, *, contexts, progress=True, **sheet):
    """Record of `answer`: a policy's replies to all prompts of a sheet (n_people, per_task, draws, seed, closely)."""
    return cache.run_or_load(
        run_dir,
        "answers",
        {**sheet, "contexts": contexts},
        lambda folder: answer(
            policy, folder, contexts=contexts, progress=progress, **sheet
        ),
        code=["mipo_study.ch07_conditions"],
        inputs={"policy": policy},
    )


def answer(policy, folder, *, contexts, draws, seed, progress=False, **size):
    """Let the policy (a model folder) answer all prompts at temperature 1; writes folder/replies.json, returns metrics.

    size         keywords of `all_prompts`
    information  the policy's own I(Y; C | X) where C is one of the first `contexts` people of "unseen", nats per reply
    """
    model, tokenizer = load_model(policy)
    asked = all_prompts(draws=draws, seed=seed, **size)
    flat = [r for records in asked.values() for r in records]
    replies = sample_replies(model, tokenizer, flat, seed=seed, progress=progress)
    cuts = np.cumsum([len(records) for records in asked.values()])[:-1]
    said = {
        c: list(part)
        for c, part in zip(
            asked, np.split(np.array(replies, dtype=object), cuts), strict=True
        )
    }
    (Path(folder) / "replies.json").write_text(json.dumps(said))
    few = among(asked["unseen"], contexts)
    spoken = [
        y
        for y, r in zip(said["unseen"], asked["unseen"], strict=True)
        if r["person"] < contexts
    ]
    people = list({r["person"]: r["context"] for r in few}.values())
    info = scoring.information(model, tokenizer, spoken, few, contexts=people)
    tokens = token_lengths(said["unseen"], tokenizer).mean()
    return {
        "information": info,
        "tokens": float(tokens),
        **variety(said["unseen"], asked["unseen"]),
        "within": float(
            np.mean(
                [
                    self_bleu(said[AGAIN][i : i + draws])
                    for i in range(0, len(said[AGAIN]), draws)
                ]
            )
        ),
    }


def among(records, contexts):
    """The records of the first `contexts` people: those whose I(Y; C | X) is measured."""
    return [r for r in records if r["person"] < contexts]


def variety(replies, records, *, sample=40):
    """How alike replies of different people to one task are (task means): self-BLEU 0..100, distinct-2, compression."""
    by_task = [
        [
            y
            for y, r in zip(replies, records, strict=True)
            if r["task"] == task and y.split()[1:]
        ]
        for task in TASKS
    ]
    by_task = [texts for texts in by_task if len(texts) > 1]
    if not by_task:
        raise ValueError("variety: no task has two replies of at least two words")
    return {
        "self_bleu": float(
            np.mean([self_bleu(texts, sample=sample) for texts in by_task])
        ),
        "distinct": float(np.mean([distinct_n(texts, 2) for texts in by_task])),
        "compression": float(np.mean([compression_ratio(texts) for texts in by_task])),
    }


def scores(folder, asked):
    """{condition: arrays of scoring.score} of the replies that `answer` left in the folder."""
    said = json.loads((Path(folder) / "replies.json").read_text())
    return {c: scoring.score(said[c], records) for c, records in asked.items()}


def replies(folder):
    """{condition: replies} that `answer` left in the folder."""
    return json.loads((Path(folder) / "replies.json").read_text())


# ---- what is exact ----


def unusual(records, share=0.25):
    """(n,) True for records of the least usual people: log p(c) in the lowest `share` of the records' people."""
    people = {r["person"]: scoring.as_person(r).log_prior for r in records}
    edge = np.quantile(list(people.values()), share)
    return np.array([people[r["person"]] <= edge for r in records])


def stated(context):
    """The Person that a context describes; an attribute stated twice is left out, since nothing says which is true."""
    said = {}
    for line in context.split(". "):
        if line:
            name, _, value = line.rstrip(".").partition(": ")
            said.setdefault(name.lower(), []).append(value)
    return Person(
        tuple((a, said[a][0]) for a in ATTRIBUTES if len(said.get(a, ())) == 1)
    )


def exact_adherence_to_truth(records):
    """Expected adherence (n,) to the true person when p(y | x, c) is given the stated context, true or not."""
    world = World()
    return np.array(
        [
            world.law(r["task"], stated(r["context"])).adherence(scoring.as_person(r))
            for r in records
        ]
    )


def aside(record):
    """The attribute of the record's aside, which has nothing to do with the task: "pet" or "city"."""
    return TASKS[record["task"]].slots[-1].attribute


def chance_of_own(records):
    """Exact chance (n,) that an aside names the person's own value although nothing depends on the person."""
    world, found = World(), []
    for r in records:
        slots, value = TASKS[r["task"]].slots, r["values"][aside(r)]
        law = world.law(r["task"]).slot(len(slots) - 1)
        found.append(
            law[list(slots[-1].options).index(value)]
            if value in slots[-1].options
            else 0.0
        )
    return np.array(found)
