"""The people of the small world: drawing, splitting, and writing their contexts."""

import itertools
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mipo.worlds.grammar import ATTRIBUTES, TASKS

# shares of the 5 184 combinations of values
SPLITS = {"base": 0.5, "mipo": 0.25, "select": 0.08, "test": 0.17}
SEEN_WORDINGS = 4  # of the six wordings of a query; the last two are kept for testing


@dataclass(frozen=True)
class Person:
    """Someone of whom some or all attribute values are known.

    Parameters
    ----------
    values : tuple of (attribute, value)
        In the order of `ATTRIBUTES`; those left out are unknown.
    """

    values: tuple[tuple[str, str], ...]

    def __getitem__(self, attribute: str) -> str | None:
        return dict(self.values).get(attribute)

    @property
    def log_prior(self) -> float:
        """log p(c), nats: how usual this person is."""
        return float(sum(np.log(ATTRIBUTES[a][v]) for a, v in self.values))

    @property
    def split(self) -> str:
        """Which part of the study the person belongs to.

        By a hash of the values: no twin crosses over.
        """
        u = zlib.crc32(repr(self.values).encode()) / 2**32
        *first, last = SPLITS
        for name in first:
            u -= SPLITS[name]
            if u < 0:
                return name
        return last

    def context(self) -> str:
        """Return the profile as text; the empty string when nothing is known."""
        return profile({attribute: [value] for attribute, value in self.values})


NOBODY = Person(())


def person(**values: str) -> Person:
    """Return the Person of these attributes, e.g. ``person(tone="formal")``.

    Parameters
    ----------
    **values : str
        Attributes; those left out are unknown.

    Raises
    ------
    ValueError
        For an attribute or a value that there is not.
    """
    for attribute, value in values.items():
        if value not in ATTRIBUTES.get(attribute, {}):
            raise ValueError(
                f"no such attribute and value: {attribute}={value!r}; "
                f"attributes are {', '.join(ATTRIBUTES)}"
            )
    return Person(tuple((a, values[a]) for a in ATTRIBUTES if a in values))


def everybody() -> Iterator[Person]:
    """Yield all combinations of attribute values."""
    for values in itertools.product(*ATTRIBUTES.values()):
        yield Person(tuple(zip(ATTRIBUTES, values, strict=True)))


def people(n: int, *, split: str | None = None, seed: int = 0) -> list[Person]:
    """Draw Persons from the prior.

    Parameters
    ----------
    n : int
        How many.
    split : {"base", "mipo", "select", "test"}, optional
        Those of one split only.
    seed : int
        The same seed gives the same people.

    Raises
    ------
    ValueError
        For another split.
    """
    if split not in (None, *SPLITS):
        raise ValueError(f"no split {split!r}; splits are {', '.join(SPLITS)}")
    rng = np.random.default_rng(seed)
    residents: list[Person] = []
    while len(residents) < n:  # one batch of n at a time, attribute by attribute
        columns = []
        for prior in ATTRIBUTES.values():
            drawn = rng.choice(list(prior), size=n, p=list(prior.values()))
            columns.append(drawn.tolist())
        for values in zip(*columns, strict=True):
            who = Person(tuple(zip(ATTRIBUTES, values, strict=True)))
            if split in (None, who.split):
                residents.append(who)
    return residents[:n]


def profile(values: Mapping[str, Sequence[str]]) -> str:
    """Return the text of a profile.

    Parameters
    ----------
    values : mapping from attribute to list of values
        Two values of one attribute make a conflicting context.
    """
    lines = [
        f"{attribute.capitalize()}: {value}."
        for attribute in ATTRIBUTES
        for value in values.get(attribute, ())
    ]
    return " ".join(lines)


def context(
    who: Person,
    *,
    kind: str = "full",
    rate: float = 0.25,
    rng: np.random.Generator | None = None,
) -> str:
    """Return a person's profile as text, written well or badly.

    Parameters
    ----------
    who : Person
        Whose profile.
    kind : {"full", "incomplete", "noisy", "conflicting"}
        "full": all that is known. "incomplete": attributes are left out. "noisy":
        values are replaced by another one, drawn evenly. "conflicting": attributes are
        stated twice, the second time with another value.
    rate : float
        Probability that this befalls an attribute.
    rng : numpy.random.Generator, optional
        Source of chance; "full" needs none.

    Raises
    ------
    ValueError
        For another kind.
    """
    if kind == "full":
        return who.context()
    if kind not in ("incomplete", "noisy", "conflicting"):
        raise ValueError(
            f"kind={kind!r}: choose full, incomplete, noisy or conflicting"
        )
    if rng is None:
        raise ValueError(f"kind={kind!r} is drawn: give a generator, rng")
    stated = {}
    for attribute, value in who.values:
        if rng.random() >= rate:
            stated[attribute] = [value]
        elif kind == "noisy":
            stated[attribute] = [_another(attribute, value, rng)]
        elif kind == "conflicting":
            stated[attribute] = [value, _another(attribute, value, rng)]
    return profile(stated)


def _another(attribute: str, value: str, rng: np.random.Generator) -> str:
    return str(rng.choice([v for v in ATTRIBUTES[attribute] if v != value]))


def examples(
    n_people: int,
    *,
    split: str,
    tasks: Sequence[str] | None = None,
    per_task: int = 1,
    wordings: str = "seen",
    kind: str = "full",
    rate: float = 0.25,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Return examples of the small world: each person asks each task.

    Parameters
    ----------
    n_people, split, seed
        As in `people`.
    tasks : sequence of str, optional
        Names of tasks; None: all.
    per_task : int
        So many times, each on a topic and in words drawn at random.
    wordings : {"seen", "unseen"}
        The first four queries of a task, or the last two.
    kind, rate
        As in `context`.

    Returns
    -------
    list of dict
        "query" and "context" (text), and for the checkers "task", "topic", "wording",
        "person" (an index) and "values" (the true attributes, whatever the context
        says).

    Raises
    ------
    ValueError
        For other wordings, splits and kinds.
    """
    if wordings not in ("seen", "unseen"):
        raise ValueError(f"wordings={wordings!r}: choose 'seen' or 'unseen'")
    seen = wordings == "seen"
    pool = slice(None, SEEN_WORDINGS) if seen else slice(SEEN_WORDINGS, None)
    rng = np.random.default_rng((seed, 1))
    drawn = []
    for i, who in enumerate(people(n_people, split=split, seed=seed)):
        for name in [task for task in tasks or TASKS for _ in range(per_task)]:
            topic = str(rng.choice(TASKS[name].topics))
            wording = str(rng.choice(TASKS[name].queries[pool]))
            example = {
                "query": wording.format(topic=topic),
                "context": context(who, kind=kind, rate=rate, rng=rng),
                "task": name,
                "topic": topic,
                "wording": wording,
                "person": i,
                "values": dict(who.values),
            }
            drawn.append(example)
    return drawn
