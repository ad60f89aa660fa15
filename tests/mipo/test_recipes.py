"""The rates of each step, by hand and as a trainer takes them."""

import math

import pytest

from mipo.recipes import MIPO, RMIPO, rates

pytestmark = pytest.mark.fast


def test_a_warm_up_then_a_cosine():
    """10 steps at 2: the warm-up takes one, rounded up from 0.3 and from 1."""
    cosine = [0.5 * (1 + math.cos(math.pi * step / 9)) for step in range(9)]
    assert rates(2.0, 10, RMIPO) == pytest.approx([0, *(2 * c for c in cosine)])
    lifted = [0.1 + 0.9 * c for c in cosine]
    assert rates(2.0, 10, MIPO) == pytest.approx([0, *(2 * c for c in lifted)])


def test_a_longer_warm_up_rises_evenly():
    assert rates(1.0, 100, MIPO)[:4] == pytest.approx([0, 1 / 3, 2 / 3, 1])


def test_one_step_has_the_rate_0():
    assert rates(1.0, 1, MIPO) == rates(1.0, 1, RMIPO) == [0.0]


def test_the_published_training_moves_a_weight_by_7e_5():
    """250 steps of 4 pairs at 5e-7, as chapter 18 says; 0.55 is the mean of the cosine."""
    assert sum(rates(5e-7, 250, MIPO)) == pytest.approx(250 * 5e-7 * 0.55, rel=0.03)
    assert f"{sum(rates(5e-7, 250, MIPO)):.0e}" == "7e-05"
