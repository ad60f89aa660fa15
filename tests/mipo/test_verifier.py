"""The verifier's reward: what it pays, and that training raises it."""

import numpy as np
import pytest

from mipo import models
from mipo.baselines import reinforce, verifier
from mipo.baselines.reinforce import ReinforceConfig
from mipo.data import render
from mipo.lm.tokens import encode_many
from mipo.worlds import word_problems
from mipo.worlds.word_problems import Problem

pytestmark = pytest.mark.long

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


def test_training_needs_problems():
    tokenizer = word_problems.build_tokenizer()
    model = models.small_model(tokenizer, hidden=16, layers=1, heads=2)
    config = ReinforceConfig(beta=0.1, lr=1e-3, steps=1)
    with pytest.raises(ValueError, match="problems must be .* at least 1"):
        verifier.train_verifier(model, tokenizer, [], config)


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
    config = ReinforceConfig(
        beta=0.05,
        lr=1e-3,
        steps=40,
        batch_size=4,
        max_new_tokens=16,
        progress=False,
    )
    log = verifier.train_verifier(model, tokenizer, [SUM], config)
    reward = [row["reward"] for row in log]
    kl = [row["kl"] for row in log]
    assert 0.2 < np.mean(reward[:5]) < 0.8
    assert np.mean(reward[-5:]) > np.mean(reward[:5]) + 0.2
    assert abs(kl[0]) < 1e-5
    assert np.mean(kl[-5:]) > 0.05


def test_each_step_asks_the_next_problems_and_pays_for_their_own_answers(monkeypatch):
    """Six steps of two over the problems 2 + 5, 3 + 5, 4 + 5: rounds of three.

    Each problem gets two replies: its own answer, and that of 2 + 5.
    """
    problems = [Problem("sum", "plain", (a, 5), "Ada", "apples") for a in (2, 3, 4)]
    tokenizer = word_problems.build_tokenizer()
    model = models.small_model(tokenizer, hidden=16, layers=1, heads=2)
    queries = []

    def sample(model, tokenizer, batch, k, max_new_tokens, seed):
        prompts, replies = [], []
        for example in batch:
            queries.append(example["query"])
            prompts += [render(tokenizer, example["query"])] * k
            for a in (example["problem"].operands[0], 2):
                replies.append(f"So {a} + 5 = {a + 5} (done)")
        return encode_many(tokenizer, prompts, replies)

    monkeypatch.setattr(reinforce, "sample_rows", sample)
    config = ReinforceConfig(
        beta=0.1, lr=1e-9, steps=6, batch_size=2, k=2, progress=False
    )
    log = verifier.train_verifier(model, tokenizer, problems, config)

    texts = {problem.text() for problem in problems}
    for start in range(0, 12, 3):
        assert set(queries[start : start + 3]) == texts
    for step, row in enumerate(log):
        batch = queries[2 * step : 2 * step + 2]
        both_right = batch.count(problems[0].text())
        assert row["reward"] == 0.5 + both_right / 4
