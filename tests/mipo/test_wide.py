"""Worlds of any width: width 1 is the small world itself; wider ones keep its laws, place by place."""

import re

import numpy as np
import pytest

from mipo.data import render
from mipo.world import World
from mipo.worlds import language_model, population, scoring
from mipo.worlds import wide as lives
from mipo.worlds.grammar import ATTRIBUTES, TASKS, parse
from mipo.worlds.population import Person

pytestmark = pytest.mark.long


def life_of(text):
    """{place: Person} read back from a profile."""
    found = {}
    for place, a, v in re.findall(r"At (\w+), (\w+): (\w+)\.", text):
        found.setdefault(place, {})[a] = v
    return {
        place: Person(tuple((a, values[a]) for a in ATTRIBUTES if a in values))
        for place, values in found.items()
    }


def test_width_one_is_the_small_world():
    tokenizer, examples = (
        lives.build_tokenizer(1),
        population.examples(3, split="test", seed=0),
    )
    assert tokenizer.get_vocab() == language_model.build_tokenizer().get_vocab()
    assert (
        lives.widen(examples, 1, split="test", seed=0) == examples
        and lives.positions(1) == 256
    )
    mine, theirs = (
        make(np.random.default_rng(0), 40)
        for make in (
            lives.training_examples(World(), tokenizer, 1, seed=3, replies=2),
            language_model.training_examples(World(), tokenizer, seed=3, replies=2),
        )
    )
    assert mine == theirs


@pytest.mark.parametrize("width", [2, 16])
def test_wide_texts_survive_the_tokenizer_and_a_line_is_a_token(width):
    tokenizer = lives.build_tokenizer(width)
    for r in lives.widen(
        population.examples(4, split="test", seed=0), width, split="test", seed=0
    ):
        ids = tokenizer(r["context"])["input_ids"]
        assert len(ids) == 8 * width and tokenizer.decode(ids) == r["context"]
        prompt = tokenizer(render(tokenizer, r["query"], r["context"]))["input_ids"]
        assert tokenizer.unk_token_id not in prompt and len(
            prompt
        ) + lives.REPLY <= lives.positions(width)


def test_replies_follow_the_place_that_is_asked_about():
    """Adherence of the training replies to the asked place is the law's; to the other place it is that of a stranger."""
    width, world = 2, World()
    examples = lives.training_examples(
        world, lives.build_tokenizer(width), width, seed=0
    )(np.random.default_rng(0), 4000)
    own, other, expected = [], [], []
    for prompt, reply in examples:
        life = life_of(prompt)
        asked = re.search(r"At (\w+): ", prompt)
        if asked is None or [len(who.values) for who in life.values()] != [8, 8]:
            continue  # unprompted, unknown or incomplete
        task = next(t for t in TASKS if parse(reply, t))
        there = lives.PLACES[1 - lives.PLACES.index(asked[1])]
        own.append(world.adherence(reply, task, life[asked[1]]))
        other.append(world.adherence(reply, task, life[there]))
        expected.append(world.law(task, life[asked[1]]).adherence(life[asked[1]]))
    error = np.std(own) / np.sqrt(len(own))
    assert len(own) > 2000 and abs(np.mean(own) - np.mean(expected)) < 4 * error
    assert np.mean(other) < np.mean(own) - 10 * error


def test_shares_of_unknown_and_incomplete_lives_are_the_small_worlds():
    examples = lives.training_examples(World(), lives.build_tokenizer(2), 2, seed=0)(
        np.random.default_rng(1), 2000
    )
    lines = [
        sum(len(who.values) for who in life_of(prompt).values())
        for prompt, _ in examples
        if "At " in prompt
    ]
    assert abs(
        np.mean([n == 0 for n in lines]) - language_model.NOBODY_SHARE
    ) < 4 * np.sqrt(0.15 * 0.85 / len(lines))
    assert abs(
        np.mean([0 < n < 16 for n in lines]) - language_model.INCOMPLETE_SHARE
    ) < 4 * np.sqrt(0.1 * 0.9 / len(lines))
    assert abs(
        1 - len(lines) / len(examples) - language_model.UNPROMPTED_SHARE
    ) < 4 * np.sqrt(0.06 * 0.94 / len(examples))


def test_widened_records_keep_people_scores_and_splits():
    plain = population.examples(40, split="select", seed=1)
    wide = lives.widen(plain, 3, split="select", seed=1)
    assert [r["values"] for r in wide] == [r["values"] for r in plain]
    assert np.array_equal(
        scoring.exact_adherence(wide, beta=1.0),
        scoring.exact_adherence(plain, beta=1.0),
    )
    contexts, places = {}, set()
    for r in wide:
        life = life_of(r["context"])
        assert list(life) == list(lives.PLACES[:3]) and all(
            who.split == "select" for who in life.values()
        )
        assert dict(life[lives.PLACES[r["place"]]].values) == r["values"]
        assert r["query"].startswith(f"At {lives.PLACES[r['place']]}: ")
        contexts.setdefault(r["person"], set()).add(r["context"])
        places.add(r["place"])
    assert all(len(texts) == 1 for texts in contexts.values()) and places == {
        0,
        1,
        2,
    }  # one life each, asked anywhere
    assert (
        wide
        == lives.widen(plain, 3, split="select", seed=1)
        != lives.widen(plain, 3, split="select", seed=2)
    )


@pytest.mark.parametrize("width", [0, 33, 1.5])
def test_a_width_without_names_is_an_error(width):
    with pytest.raises(ValueError, match="a life has 1 to 32 places"):
        lives.build_tokenizer(width)
