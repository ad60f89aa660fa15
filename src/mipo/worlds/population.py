"""The people of the small world: drawing them, splitting them, and writing their contexts well or badly."""

import itertools
import zlib
from dataclasses import dataclass

import numpy as np

from mipo.worlds.grammar import ATTRIBUTES, TASKS

SPLITS = {
    "base": 0.5,
    "mipo": 0.25,
    "select": 0.08,
    "test": 0.17,
}  # shares of the 5 184 combinations of values
SEEN_WORDINGS = 4  # of the six wordings of a query; the last two are kept for testing


@dataclass(frozen=True)
class Person:
    """Attribute values, as a tuple of (attribute, value) in the order of ATTRIBUTES; those left out are unknown."""

    values: tuple

    def __getitem__(self, attribute):
        return dict(self.values).get(attribute)

    @property
    def log_prior(self):
        """log p(c), nats: how usual this person is."""
        return float(sum(np.log(ATTRIBUTES[a][v]) for a, v in self.values))

    @property
    def split(self):
        """Which part of the study the person belongs to, by a hash of the values: no twin crosses over."""
        u = zlib.crc32(repr(self.values).encode()) / 2**32
        for name, share in SPLITS.items():
            u -= share
            if u < 0:
                return name
        return name

    def context(self):
        """The profile as text; the empty string when nothing is known."""
        return profile({a: [v] for a, v in self.values})


NOBODY = Person(())


def person(**values):
    """Person from keywords, e.g. person(tone="formal"); attributes left out are unknown."""
    for a, v in values.items():
        if v not in ATTRIBUTES.get(a, {}):
            raise ValueError(
                f"no such attribute and value: {a}={v!r}; attributes are {', '.join(ATTRIBUTES)}"
            )
    return Person(tuple((a, values[a]) for a in ATTRIBUTES if a in values))


def everybody():
    """All combinations of attribute values, as Persons."""
    for values in itertools.product(*ATTRIBUTES.values()):
        yield Person(tuple(zip(ATTRIBUTES, values, strict=True)))


def people(n, *, split=None, seed=0):
    """n Persons drawn from the prior, those of one split only if it is named; the same seed gives the same people."""
    if split not in (None, *SPLITS):
        raise ValueError(f"no split {split!r}; splits are {', '.join(SPLITS)}")
    rng, found = np.random.default_rng(seed), []
    while len(found) < n:  # one batch of n at a time, attribute by attribute
        columns = [
            rng.choice(list(p), size=n, p=list(p.values())).tolist()
            for p in ATTRIBUTES.values()
        ]
        crowd = (
            Person(tuple(zip(ATTRIBUTES, row, strict=True)))
            for row in zip(*columns, strict=True)
        )
        found += [who for who in crowd if split in (None, who.split)]
    return found[:n]


def profile(values):
    """Text of a profile {attribute: [values]}; two values of one attribute make a conflicting context."""
    return " ".join(
        f"{a.capitalize()}: {v}." for a in ATTRIBUTES for v in values.get(a, ())
    )


def context(who, *, kind="full", rate=0.25, rng=None):
    """The person's profile as text, written well or badly.

    full         all that is known
    incomplete   each attribute left out with probability `rate`
    noisy        each value replaced by another one, drawn evenly, with probability `rate`
    conflicting  each attribute stated twice, the second time with another value, with probability `rate`
    """
    stated = {}
    for a, v in who.values:
        hit = kind != "full" and rng.random() < rate
        other = (
            str(rng.choice([o for o in ATTRIBUTES[a] if o != v]))
            if hit and kind != "incomplete"
            else None
        )
        if kind == "full" or not hit:
            stated[a] = [v]
        elif kind == "noisy":
            stated[a] = [other]
        elif kind == "conflicting":
            stated[a] = [v, other]
        elif kind != "incomplete":
            raise ValueError(
                f"kind={kind!r}: choose full, incomplete, noisy or conflicting"
            )
    return profile(stated)


def records(
    n_people,
    *,
    split,
    tasks=None,
    per_task=1,
    wordings="seen",
    kind="full",
    rate=0.25,
    seed=0,
):
    """Records of the small world: each person asks each task `per_task` times, on a topic and in words drawn at random.

    A record has query and context (text), and for the checkers task, topic, wording, person (an index) and values
    (the true attributes, whatever the context says). `wordings` is "seen" (the first four) or "unseen" (the last two).
    """
    if wordings not in ("seen", "unseen"):
        raise ValueError(f"wordings={wordings!r}: choose 'seen' or 'unseen'")
    rng, found = np.random.default_rng((seed, 1)), []
    pool = (
        slice(None, SEEN_WORDINGS) if wordings == "seen" else slice(SEEN_WORDINGS, None)
    )
    for i, who in enumerate(people(n_people, split=split, seed=seed)):
        for name in tasks or TASKS:
            for _ in range(per_task):
                topic, wording = (
                    str(rng.choice(TASKS[name].topics)),
                    str(rng.choice(TASKS[name].queries[pool])),
                )
                found.append(
                    {
                        "query": wording.format(topic=topic),
                        "context": context(who, kind=kind, rate=rate, rng=rng),
                        "task": name,
                        "topic": topic,
                        "wording": wording,
                        "person": i,
                        "values": dict(who.values),
                    }
                )
    return found
