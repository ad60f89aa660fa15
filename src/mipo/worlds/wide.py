"""The small world made larger: people who are different in each place of their life, so profiles grow in lines.

A life has `width` places (work, home, …), and in each the person has attributes of their own, drawn like those of a person
of the small world. A query names one place, and the reply follows that place's lines alone. So a life of n places has a
profile of 8·n lines, and the laws of replies are those of the small world, exactly: p(y | x, c) = p(y | x, c at the place).
Information, optimum and adherence of a task do not depend on the width; what grows is what a model has to know and read.
At width 1 no place is named, and the texts are the small world's own.
"""

import numpy as np

from mipo import models
from mipo.data import render
from mipo.worlds import language_model, population
from mipo.worlds.grammar import ATTRIBUTES, TASKS, phrases, write
from mipo.worlds.population import NOBODY, Person

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


def check_width(width):
    """ValueError unless `width` is a number of places that there are names for."""
    if width not in range(1, len(PLACES) + 1):
        raise ValueError(f"width={width!r}: a life has 1 to {len(PLACES)} places")


def context(life):
    """The profile of a life, a tuple of one Person per place, as text; at width 1 the person's own."""
    check_width(len(life))
    if len(life) == 1:
        return life[0].context()
    return " ".join(
        _line(place, a, v)
        for place, who in zip(PLACES, life, strict=False)
        for a, v in who.values
    )


def ask(query, place, width):
    """The query at place number `place` of a life; at width 1 the query itself."""
    check_width(width)
    return query if width == 1 else f"At {PLACES[place]}: {query}"


def _line(place, attribute, value):
    return f"At {place}, {attribute}: {value}."


def build_tokenizer(width):
    """The small world's tokenizer (language_model.build_tokenizer) with one more token per line of a wider profile, and per place."""
    check_width(width)
    if width == 1:
        return language_model.build_tokenizer()
    lines = [
        _line(p, a, v)
        for p in PLACES[:width]
        for a, prior in ATTRIBUTES.items()
        for v in prior
    ]
    known = [
        *lines,
        *(" " + line for line in lines),
        *(f"At {p}: " for p in PLACES[:width]),
        *(piece for task in TASKS for piece in phrases(task)),
    ]
    return models.build_tokenizer([*known, "\n\n"], phrases=known)


def positions(width):
    """Places for tokens that a model of this world needs: profile, query and reply, at least the small world's 256."""
    return max(256, 8 * width + 8 + REPLY)


def training_examples(
    world, tokenizer, width, *, split="base", pool=4000, seed=0, sharp=None, replies=1
):
    """A function (rng, n) -> n pairs (prompt, reply) from the exact laws; as language_model.training_examples, which it is at width 1.

    A share of the lives is unknown, or lacks a quarter of its lines, or there is no prompt at all, in the same shares.
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
    residents, names = population.people(pool, split=split, seed=seed), list(TASKS)

    def examples(rng, n):
        found = []
        while len(found) < n:
            life = _known(
                tuple(residents[i] for i in rng.integers(len(residents), size=width)),
                rng,
            )
            place, task = (
                int(rng.integers(width)),
                TASKS[names[rng.integers(len(names))]],
            )
            topic = task.topics[rng.integers(len(task.topics))]
            query = task.queries[rng.integers(len(task.queries))].format(topic=topic)
            who = life[place]
            law = (
                world.optimum(task.name, who, sharp)
                if sharp and who.values
                else world.law(task.name, who)
            )
            alone = rng.random() < language_model.UNPROMPTED_SHARE
            prompt = (
                tokenizer.eos_token
                if alone
                else render(tokenizer, ask(query, place, width), context(life))
            )
            found += [
                (prompt, write(task, topic, law.sample(rng), rng))
                for _ in range(replies)
            ]
        return found[:n]

    return examples


def _known(life, rng):
    """What a training prompt tells of a life: everything, nothing, or three lines in four."""
    u = rng.random()
    if u < language_model.NOBODY_SHARE:
        return (NOBODY,) * len(life)
    if u < language_model.NOBODY_SHARE + language_model.INCOMPLETE_SHARE:
        return tuple(
            Person(tuple(v for v in who.values if rng.random() > 0.25)) for who in life
        )
    return life


def widen(records, width, *, split, seed):
    """Records of population.records moved into lives of `width` places: the same people, each at one place drawn for them.

    Their other places are people of the same `split`, so a random context is an exact draw from the marginal and no one
    crosses over. `values`, and with them every exact score, stay as they are; `place` is added. Width 1 changes nothing.
    """
    check_width(width)
    if width == 1:
        return records
    rng = np.random.default_rng((seed, 6))
    people = sorted({r["person"] for r in records})
    others = iter(
        population.people(len(people) * width, split=split, seed=500_000 + seed)
    )
    lives = {
        i: (int(rng.integers(width)), [next(others) for _ in range(width)])
        for i in people
    }
    found = []
    for r in records:
        place, life = lives[r["person"]]
        life = [
            Person(tuple(r["values"].items())) if k == place else who
            for k, who in enumerate(life)
        ]
        found.append(
            {
                **r,
                "query": ask(r["query"], place, width),
                "context": context(life),
                "place": place,
            }
        )
    return found
