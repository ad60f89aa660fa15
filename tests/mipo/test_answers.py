"""pass@k against every subset, votes and log-odds by hand."""

import itertools
import math

import numpy as np
import pytest

from mipo.evaluate.answers import log_odds, majority, pass_at_k


@pytest.mark.parametrize("c", range(6))
@pytest.mark.parametrize("k", range(1, 6))
def test_pass_at_k_is_the_share_of_subsets_with_a_right_reply(c, k):
    samples = [1] * c + [0] * (5 - c)
    expected = np.mean([any(s) for s in itertools.combinations(samples, k)])
    assert pass_at_k([samples], k)[0] == pytest.approx(expected, abs=1e-12)


def test_pass_at_k_by_hand_and_its_limits():
    assert pass_at_k([[1, 0, 0, 0]], 2)[0] == pytest.approx(
        0.5
    )  # 3 of 6 pairs hold the right one
    np.testing.assert_allclose(pass_at_k([[1, 1, 0, 0], [0, 0, 0, 0]], 1), [0.5, 0.0])
    with pytest.raises(ValueError, match="k is 3"):
        pass_at_k([[1, 0]], 3)


def test_pass_at_k_is_unbiased():
    rng = np.random.default_rng(0)
    drawn = pass_at_k(rng.random((40000, 6)) < 0.3, 4).mean()
    assert drawn == pytest.approx(
        1 - 0.7**4, abs=0.005
    )  # the plug-in 1 - (1 - c/n)^k would be off by 0.04


def test_majority_by_hand():
    assert majority(
        [["3", "4", "4"], ["5", "3", "3", "5"], [None, None, "7"], [None]]
    ) == ["4", "5", "7", None]


def test_log_odds_by_hand():
    assert log_odds(9, 4, 20) == pytest.approx(math.log(9.5 / 4.5)) and math.isfinite(
        log_odds(5, 0, 20)
    )
    with pytest.raises(ValueError, match="not counts"):
        log_odds(21, 0, 20)
