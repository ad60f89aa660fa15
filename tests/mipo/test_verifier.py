"""The verifier's reward: what it pays, and that training raises it."""

import numpy as np
import pytest

from mipo import models
from mipo.baselines import reinforce, verifier
from mipo.data import render
from mipo.lm.tokens import encode_many
from mipo.worlds import word_problems
from mipo.worlds.word_problems import Problem

SUM = Problem("sum", "plain", (7, 5), "Ada", "apples")
CHOICE = Problem("sum", "plain", (7, 5), "Ada", "apples", (35, 12, 13, 10))


def test_only_a_right_answer_in_the_right_form_is_paid():
    paid = {
        "So 7 + 5 = 12 (done)": 1.0,
        "So 8 + 4 = 12 (done)": 1.0,
        "So 7 + 5 = 13 (done)": 0.0,
        "So 7 + 5 = 12": 0.0,
        "12": 0.0,
        word_problems.SHRUG: 0.0,
    }
    assert {y: verifier.is_right(y, SUM) for y in paid} == paid
    paid = {
        "So 7 + 5 = 12 (B: 12)": 1.0,
        "So 7 + 5 = 13 (B: 13)": 1.0,
        "So 7 + 5 = 13 (C: 13)": 0.0,
        "(B: 12)": 0.0,
    }
    assert {y: verifier.is_right(y, CHOICE) for y in paid} == paid


@pytest.mark.parametrize("wrong", [{"beta": 0}, {"lr": -1.0}, {"k": 1}, {"steps": 0}])
def test_settings_are_refused(wrong):
    tokenizer = word_problems.build_tokenizer()
    model = models.small_model(tokenizer, hidden=16, layers=1, heads=2)
    with pytest.raises(ValueError):
        verifier.train_verifier(
            model, tokenizer, [SUM], **({"beta": 0.1, "lr": 1e-3, "steps": 1} | wrong)
        )


def test_training_raises_the_reward():
    """A model that answers one problem in two ways learns to give the right one."""
    tokenizer = word_problems.build_tokenizer()
    model = models.small_model(
        tokenizer, hidden=32, layers=1, heads=2, init=0.06, seed=0
    )
    replies = ["So 7 + 5 = 12 (done)", "So 7 + 5 = 13 (done)"]
    prompt = render(tokenizer, SUM.text())
    models.pretrain(
        model,
        tokenizer,
        lambda rng, n: [(prompt, replies[rng.integers(2)]) for _ in range(n)],
        steps=80,
        batch_size=16,
        lr=3e-3,
        embedding_rate=10.0,
        progress=False,
    )
    log = verifier.train_verifier(
        model,
        tokenizer,
        [SUM],
        beta=0.05,
        lr=1e-3,
        steps=40,
        batch_size=4,
        k=4,
        progress=False,
    )
    reward = [row["reward"] for row in log]
    assert (
        0.2 < np.mean(reward[:5]) < 0.8
        and np.mean(reward[-5:]) > np.mean(reward[:5]) + 0.2
    )
    assert abs(log[0]["kl"]) < 1e-5 and np.mean([row["kl"] for row in log[-5:]]) > 0.05


def test_each_step_asks_the_next_problems_and_pays_for_their_own_answers(monkeypatch):
    """Six steps of two over three problems: rounds of three, and a reply is right only for the problem it was given to."""
    problems = [Problem("sum", "plain", (a, 5), "Ada", "apples") for a in (2, 3, 4)]
    tokenizer = word_problems.build_tokenizer()
    model = models.small_model(tokenizer, hidden=16, layers=1, heads=2)
    asked = []

    def sample(model, tokenizer, batch, k, max_new_tokens, seed):
        asked.extend(r["query"] for r in batch)
        answers = [
            f"So {a} + 5 = {a + 5} (done)"
            for r in batch
            for a in (r["problem"].operands[0], 2)
        ]
        return encode_many(
            tokenizer,
            [render(tokenizer, r["query"]) for r in batch for _ in range(k)],
            answers,
        )

    monkeypatch.setattr(reinforce, "sample_rows", sample)
    log = verifier.train_verifier(
        model,
        tokenizer,
        problems,
        beta=0.1,
        lr=1e-9,
        steps=6,
        batch_size=2,
        k=2,
        progress=False,
    )
    texts = [p.text() for p in problems]
    assert all(set(asked[i : i + 3]) == set(texts) for i in range(0, 12, 3))
    first = [asked[2 * i : 2 * i + 2].count(texts[0]) for i in range(6)]
    assert [row["reward"] for row in log] == [0.5 + n / 4 for n in first]
