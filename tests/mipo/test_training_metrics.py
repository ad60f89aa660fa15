"""What is logged, worked out by hand: means over rows."""

from math import exp

import pytest
import torch
from torch.testing import assert_close

from mipo import losses
from mipo.lm.training_metrics import (
    RowMetrics,
    margin_metrics,
    preference_metrics,
    replies_of,
)


def T(*values):
    return torch.tensor(values, dtype=torch.float64)


def means_of(*batches):
    rows = RowMetrics()
    for batch in batches:
        rows.add(batch)
    return rows.means()


def test_a_row_counts_the_same_in_a_batch_of_any_size():
    """1, 2, 3 and 6 have the mean 3, though the means of their batches have 4."""
    column = "margin/gamma"
    means = means_of({column: T(1.0, 2.0, 3.0)}, {column: T(6.0)})
    assert means[column] == 3
    assert means[f"{column}_std"] == pytest.approx(3.5**0.5)  # (4 + 1 + 0 + 9) / 4


@pytest.mark.parametrize(
    "name, members, replies",
    [("sft", 1, 1), ("dpo", 2, 2), ("infonca", 4, 4), ("sami", 9, 3)],
)
def test_replies_to_the_rows_own_prompt_come_first(name, members, replies):
    """Three replies under three prompts are nine members, three of them its own."""
    assert replies_of(losses.get(name), members) == replies


def test_rewards_of_two_pairs_against_a_reference():
    """Log-ratios 3 and 1 in the first pair, 0 and 2 in the second; beta 0.5."""
    summed, ref = T([-2.0, -4.0], [-3.0, -5.0]), T([-5.0, -4.0], [-4.0, -7.0])
    tokens = torch.ones(2, 2, dtype=torch.float64)
    loss = losses.get("dpo")
    metrics = preference_metrics(loss, {"beta": 0.5}, summed, tokens, ref)
    expected = {
        "logps/chosen": -3.0,
        "logps/rejected": -4.0,
        "rewards/chosen": 0.75,
        "rewards/rejected": 0.75,
        "rewards/accuracies": 0.5,
        "rewards/margins": 0.0,
    }
    assert means_of(metrics) == expected


def test_a_loss_over_prompts_counts_replies_to_its_own_prompt_only():
    """Of four members the last two stand under the other prompt."""
    summed = T([-1.0], [-3.0], [-100.0], [-200.0])
    metrics = preference_metrics(
        losses.get("sami"), {}, summed, torch.full_like(summed, 2.0), None
    )
    assert metrics["logps/rejected"] == -3.0
    assert metrics["rewards/margins"] == 1.0  # means over two tokens: -0.5 and -1.5


def test_the_margin_and_its_spread_over_the_batch():
    delta_pmi = T(-1.0, 1.0)
    found = margin_metrics(losses.get("rmipo"), {"gamma_min": 0.6}, delta_pmi)
    decayed = 0.6 + exp(-1)  # between 0.6 and the default of 1.6
    assert_close(found["margin/gamma"], T(1.6, decayed))
    means = means_of(found)
    assert means["margin/gamma"] == pytest.approx((1.6 + decayed) / 2)
    assert means["margin/gamma_std"] == pytest.approx((1.6 - decayed) / 2)
    assert means["margin/delta_pmi"] == 0 and means["margin/delta_pmi_std"] == 1
