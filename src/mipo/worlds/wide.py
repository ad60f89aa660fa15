"""The small world made larger: people who are different in each place of their life.

A life has `width` places (work, home, …), and in each the person has attributes of
their own, drawn like those of a person of the small world. A query names one place, and
the reply follows that place's lines alone. So a life of n places has a profile of 8·n
lines, and the laws of replies are those of the small world, exactly:
p(y | x, c) = p(y | x, c at the place). Information, optimum and adherence of a task do
not depend on the width; what grows is what a model has to know and read. At width 1 no
place is named, and the texts are the small world's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mipo import models
from mipo.lm.prompts import render
from mipo.world import World
from mipo.worlds import language_model, population
from mipo.worlds.grammar import ATTRIBUTES, TASKS, phrases, write
from mipo.worlds.population import NOBODY, Person

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PLACES = (
    "work",
    "home",
    "school",
    "club",
    "market",
    "garden",
    "studio",
    "office",
    "library",
    "clinic",
    "theatre",
    "harbour",
    "station",
    "airport",
    "hotel",
    "farm",
    "museum",
    "gallery",
    "stadium",
    "bakery",
    "bank",
    "factory",
    "forest",
    "beach",
    "village",
    "island",
    "castle",
    "kitchen",
    "workshop",
    "court",
    "camp",
    "church",
)
REPLY = 24  # tokens sampled for a reply, with its end

Life = tuple[Person, ...]  # one per place


def check_width(width: int) -> None:
    """Raise a ValueError unless there are names for so many places."""
    if width not in range(1, len(PLACES) + 1):
        raise ValueError(f"width={width!r}: a life has 1 to {len(PLACES)} places")


def context(life: Sequence[Person]) -> str:
    """Return the profile of a life as text; at width 1 the person's own.

    Parameters
    ----------
    life : sequence of Person
        One per place.

    Raises
    ------
    ValueError
        For a life of more places than there are names for.
    """
    check_width(len(life))
    if len(life) == 1:
        return life[0].context()
    lines = []
    for place, who in zip(PLACES, life, strict=False):
        lines += [_line(place, attribute, value) for attribute, value in who.values]
    return " ".join(lines)


def ask(query: str, place: int, width: int) -> str:
    """Return the query at a place of a life; at width 1 the query itself."""
    check_width(width)
    return query if width == 1 else f"At {PLACES[place]}: {query}"


def _line(place: str, attribute: str, value: str) -> str:
    return f"At {place}, {attribute}: {value}."


def build_tokenizer(width: int) -> PreTrainedTokenizerBase:
    """Return the small world's tokenizer with one more token per line and per place.

    See `mipo.worlds.language_model.build_tokenizer`, which it is at width 1.
    """
    check_width(width)
    if width == 1:
        return language_model.build_tokenizer()
    places = PLACES[:width]
    lines = [
        _line(place, attribute, value)
        for place in places
        for attribute, prior in ATTRIBUTES.items()
        for value in prior
    ]
    known = [
        *lines,
        *(" " + line for line in lines),
        *(f"At {place}: " for place in places),
        *(piece for task in TASKS for piece in phrases(task)),
    ]
    return models.build_tokenizer([*known, "\n\n"], phrases=known)


def positions(width: int) -> int:
    """Return the places for tokens that a model of this world needs.

    For profile, query and reply; at least the small world's 256.
    """
    return max(256, 8 * width + 8 + REPLY)


def training_examples(
    world: World,
    tokenizer: PreTrainedTokenizerBase,
    width: int,
    *,
    split: str = "base",
    pool: int = 4000,
    seed: int = 0,
    sharp: float | None = None,
    replies: int = 1,
) -> language_model.Lessons:
    """Return a function (rng, n) -> n pairs (prompt, reply) from the exact laws.

    As `mipo.worlds.language_model.training_examples`, which it is at width 1. A share
    of the lives is unknown, or lacks a quarter of its lines, or there is no prompt at
    all, in the same shares.

    Parameters
    ----------
    world, tokenizer, split, pool, seed, sharp, replies
        As there.
    width : int
        Places of a life.
    """
    check_width(width)
    if width == 1:
        return language_model.training_examples(
            world,
            tokenizer,
            split=split,
            pool=pool,
            seed=seed,
            sharp=sharp,
            replies=replies,
        )
    residents = population.people(pool, split=split, seed=seed)

    def examples(rng: np.random.Generator, n: int) -> list[tuple[str, str]]:
        pairs: list[tuple[str, str]] = []
        while len(pairs) < n:
            drawn = rng.integers(len(residents), size=width)
            life = _as_told(tuple(residents[i] for i in drawn), rng)
            place = int(rng.integers(width))
            task, topic, query = language_model.draw_query(rng)
            law = language_model.law_of(world, task, life[place], sharp)
            alone = rng.random() < language_model.UNPROMPTED_SHARE
            if alone:
                prompt = tokenizer.eos_token
            else:
                prompt = render(tokenizer, ask(query, place, width), context(life))
            for _ in range(replies):
                pairs.append((prompt, write(task, topic, law.sample(rng), rng)))
        return pairs[:n]

    return examples


def _as_told(life: Life, rng: np.random.Generator) -> Life:
    """What a training prompt says of a life: everything, nothing, or most."""
    u = rng.random()
    if u < language_model.NOBODY_SHARE:
        return (NOBODY,) * len(life)
    if u < language_model.NOBODY_SHARE + language_model.INCOMPLETE_SHARE:
        return tuple(language_model.incomplete(who, rng) for who in life)
    return life


def widen(
    examples: list[dict[str, Any]], width: int, *, split: str, seed: int
) -> list[dict[str, Any]]:
    """Move examples of the small world into lives of `width` places.

    The same people, each at one place drawn for them. Their other places are people of
    the same `split`, so a random context is an exact draw from the marginal and no one
    crosses over.

    Parameters
    ----------
    examples : list of dict
        As `mipo.worlds.population.examples` makes them.
    width : int
        Places of a life; 1 changes nothing.
    split, seed
        Of the people at the other places.

    Returns
    -------
    list of dict
        "values", and with them every exact score, stay as they are; "place" is added.
    """
    check_width(width)
    if width == 1:
        return examples
    rng = np.random.default_rng((seed, 6))
    people = sorted({r["person"] for r in examples})
    others = iter(
        population.people(len(people) * width, split=split, seed=500_000 + seed)
    )
    lives = {}
    for who in people:
        place = int(rng.integers(width))
        lives[who] = place, [next(others) for _ in range(width)]
    return [_moved(example, *lives[example["person"]]) for example in examples]


def _moved(
    example: dict[str, Any], place: int, others: Sequence[Person]
) -> dict[str, Any]:
    who = Person(tuple(example["values"].items()))
    life = [*others[:place], who, *others[place + 1 :]]
    query = ask(example["query"], place, len(life))
    return {**example, "query": query, "context": context(life), "place": place}
