"""The verifier's reward: what it pays, and that training raises it."""

import numpy as np
import pytest

from mipo import arithmetic, models, verifier
from mipo.arithmetic import Problem

SUM = Problem("sum", "plain", (7, 5), "Ada", "apples")
CHOICE = Problem("sum", "plain", (7, 5), "Ada", "apples", (35, 12, 13, 10))


def test_only_a_right_answer_in_the_right_form_is_paid():
    paid = {"So 7 + 5 = 12 (done)": 1.0, "So 8 + 4 = 12 (done)": 1.0, "So 7 + 5 = 13 (done)": 0.0,
            "So 7 + 5 = 12": 0.0, "12": 0.0, arithmetic.SHRUG: 0.0}
    assert {y: verifier.is_right(y, SUM) for y in paid} == paid
    assert verifier.is_right("So 7 + 5 = (B) 12", CHOICE) == 1 and verifier.is_right("(B)", CHOICE) == 0


@pytest.mark.parametrize("wrong", [{"beta": 0}, {"lr": -1.0}, {"k": 1}, {"steps": 0}])
def test_settings_are_refused(wrong):
    tokenizer = arithmetic.build_tokenizer()
    model = models.small_model(tokenizer, hidden=16, layers=1, heads=2)
    with pytest.raises(ValueError):
        verifier.train_verifier(model, tokenizer, [SUM], **({"beta": 0.1, "lr": 1e-3, "steps": 1} | wrong))


def test_training_raises_the_reward():
    """A model that answers one problem in two ways learns to give the right one."""
    tokenizer = arithmetic.build_tokenizer()
    model = models.small_model(tokenizer, hidden=32, layers=1, heads=2, init=0.06, seed=0)
    replies = ["So 7 + 5 = 12 (done)", "So 7 + 5 = 13 (done)"]
    prompt = verifier.reward.render(tokenizer, SUM.text())
    models.pretrain(model, tokenizer, lambda rng, n: [(prompt, replies[rng.integers(2)]) for _ in range(n)], steps=80,
                    batch_size=16, lr=3e-3, embedding_rate=10.0, progress=False)
    log = verifier.train_verifier(model, tokenizer, [SUM], beta=0.05, lr=1e-3, steps=40, batch_size=4, k=4, progress=False)
    reward = [row["reward"] for row in log]
    assert 0.2 < np.mean(reward[:5]) < 0.8 and np.mean(reward[-5:]) > np.mean(reward[:5]) + 0.2
    assert abs(log[0]["kl"]) < 1e-5 and np.mean([row["kl"] for row in log[-5:]]) > 0.05
