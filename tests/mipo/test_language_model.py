"""The base model's vocabulary and training text, and a short training that must learn."""

import numpy as np
import pytest

from mipo import models
from mipo.world import World
from mipo.worlds import language_model, population
from mipo.worlds.grammar import ATTRIBUTES, TASKS, parse, write

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def tokenizer():
    return language_model.build_tokenizer()


def test_every_sentence_of_the_world_survives_the_tokenizer(tokenizer):
    rng = np.random.default_rng(0)
    for task in TASKS.values():
        for who in population.people(40, seed=1):
            topic = str(rng.choice(task.topics))
            asked = str(rng.choice(task.queries)).format(topic=topic)
            for text in (
                World().sample(task.name, who, topic, rng),
                f"{who.context()}\n\n{asked}",
            ):
                ids = tokenizer(text)["input_ids"]
                assert (
                    tokenizer.unk_token_id not in ids and tokenizer.decode(ids) == text
                )


def test_spoilt_contexts_are_in_the_vocabulary(tokenizer):
    rng = np.random.default_rng(0)
    for kind in ("incomplete", "noisy", "conflicting"):
        for who in population.people(30, seed=2):
            text = population.context(who, kind=kind, rate=0.5, rng=rng)
            assert tokenizer.unk_token_id not in tokenizer(text)["input_ids"]


def test_a_change_of_one_slot_changes_one_token(tokenizer):
    """What holds slot by slot then holds token by token: chapter 2's token-level optimum is one of slots."""
    for a, b in (("metric", "imperial"), ("imperial", "metric")):
        ids = [
            tokenizer(write("lookup", "tower", ["short", v, "-"], wordings=[0, 0, 0]))[
                "input_ids"
            ]
            for v in (a, b)
        ]
        assert (
            len(ids[0]) == len(ids[1])
            and sum(x != y for x, y in zip(*ids, strict=True)) == 1
        )


def test_training_examples_are_the_worlds(tokenizer):
    examples = language_model.training_examples(World(), tokenizer, pool=50, seed=0)(
        np.random.default_rng(0), 800
    )
    assert examples == language_model.training_examples(
        World(), tokenizer, pool=50, seed=0
    )(np.random.default_rng(0), 800)
    assert all(any(parse(reply, task) for task in TASKS) for _, reply in examples)
    asked = [prompt for prompt, _ in examples if prompt != tokenizer.eos_token]
    alone = 1 - len(asked) / len(examples)
    assert abs(alone - language_model.UNPROMPTED_SHARE) < 4 * np.sqrt(
        0.06 * 0.94 / 800
    )  # four standard errors
    nobody = np.mean(
        [
            not any(f"{a.capitalize()}: " in prompt for a in ATTRIBUTES)
            for prompt in asked
        ]
    )
    assert abs(nobody - language_model.NOBODY_SHARE) < 4 * np.sqrt(0.15 * 0.85 / 750)
    known = {who.context() for who in population.people(50, split="base", seed=0)}
    full = [
        prompt
        for prompt, _ in examples
        if all(f"{a.capitalize()}: " in prompt for a in ATTRIBUTES)
    ]
    assert full and all(any(context in prompt for context in known) for prompt in full)


def test_training_lowers_the_loss_and_follows_its_seed():
    model, _, losses = language_model.train_base(
        steps=30, batch_size=16, seed=0, progress=False
    )
    again = language_model.train_base(steps=30, batch_size=16, seed=0, progress=False)[
        2
    ]
    assert losses == again and np.mean(losses[-3:]) < 0.8 * losses[0]
    assert 0.5e6 < model.num_parameters() < 2e6  # "about 1 M"


def test_sample_replies_asks_with_the_contexts_it_is_given(tokenizer):
    model = models.small_model(tokenizer, hidden=16, layers=1, heads=2, seed=0)
    examples = population.examples(3, split=None, tasks=["lookup"], seed=0)
    own = language_model.sample_replies(model, tokenizer, examples, seed=0)
    assert own == language_model.sample_replies(
        model, tokenizer, examples, seed=0, contexts=[r["context"] for r in examples]
    )
    assert own != language_model.sample_replies(model, tokenizer, examples, seed=1)
