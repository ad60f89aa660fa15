"""Chapter 3: what its cells call, against hand and a second way."""

import math

import numpy as np
import pytest
import torch

from mipo.theory.margin import Margin
from mipo_study import ch03_margin as ch03

CODE, PAPER = Margin(), Margin(convention="paper")
BOTH = pytest.mark.parametrize("of", [CODE, PAPER], ids=["code", "paper"])


def pair(*logps):
    """One pair from its six log-probs, in the order of the fields."""
    return ch03.Pairs(*(torch.tensor([x], dtype=torch.float64) for x in logps))


# chosen -1 and rejected -2 with the prompt, -3 and -2.5 without it
ONE = pair(-1.0, -2.0, -3.0, -2.5, -1.5, -2.25)


def test_gaps_of_a_pair_by_hand():
    assert float(ONE.delta) == 1.0
    assert float(ONE.prior_gap) == -0.5
    assert float(ONE.delta_pmi) == 1.5  # 2 for the chosen reply, 1/2 for the other
    assert float(ONE.ref_delta_pmi) == 1.25  # 3/2 and 1/4
    assert float(ONE.lifts) == pytest.approx(math.exp(0.5 - 2))
    turned = pair(-2.0, -1.0, -2.5, -3.0, -1.0, -1.0)
    assert float(turned.lifts) == 1.0  # the rejected reply is lifted more


def test_the_three_statements_hold_on_random_pairs():
    pairs = ch03.random_pairs(200, seed=3)
    assert ch03.split_apart(pairs) < 1e-14
    assert ch03.bracket_apart(pairs, beta=0.7) < 1e-12
    assert ch03.lifts_apart(pairs) < 1e-12
    assert ch03.limits_apart() < 1e-12
    assert -4 <= float(pairs.chosen.min()) <= float(pairs.chosen.max()) <= 0


def test_what_dpo_sees_of_a_pair_by_hand():
    """1 nat ahead where the reference is 3/4 ahead; the same from the two Δpmi."""
    gap = float(ONE.delta_pmi - ONE.ref_delta_pmi)
    assert gap == pytest.approx(1 - 0.75)
    assert ch03.bracket_apart(ONE, beta=2.0) < 1e-12


@pytest.mark.parametrize("convention", ["code", "paper"])
def test_weight_is_the_slope(convention):
    assert ch03.weight_apart(ch03.random_pairs(100, seed=1), convention) < 1e-12


def test_weight_table_by_hand():
    """σ(2·(1.6 + 1/2)) and σ(2·(0.8 + 1/2)); the centre solves Δ = 0.3 + 1.3·e^-Δ."""
    table = ch03.weight_table({"code": CODE, "paper": PAPER})
    assert table.loc["code", "-0.5"] == pytest.approx(1 / (1 + math.exp(-4.2)))
    assert table.loc["paper", "-0.5"] == pytest.approx(1 / (1 + math.exp(-2.6)))
    centre = table.loc["code", "w = ½ at"]
    assert centre == pytest.approx(0.3 + 1.3 * math.exp(-centre))


# ---- where training rests ----


def test_rest_without_a_margin_is_the_label_s_log_odds():
    curve = ch03.constant_rest([0.5, 0.75], 0.0, beta=2.0)
    assert curve == pytest.approx([0, math.log(3) / 2])


@BOTH
def test_curves_and_following_agree(of):
    curve = ch03.rest_curve(of, [0.3, 0.8], prior_gap=0.4)
    assert ch03.followed([(0.3, 0.4), (0.8, 0.4)], of) == pytest.approx(curve, abs=1e-9)
    assert ch03.followed_apart([(0.3, 0.4), (0.8, -0.2)], of) < 1e-9


@BOTH
def test_the_update_leaves_the_lowest_loss_and_rests_above_it(of):
    seen = ch03.descent(of, 0.6, 0.5)
    assert seen.push < 1e-12
    assert seen.losses.min() == pytest.approx(seen.lowest[1], abs=1e-9)
    assert seen.rest[0] == pytest.approx(of.rest(0.6, 0.5))
    assert seen.rest[1] > seen.lowest[1]
    assert seen.path[0] == pytest.approx(seen.lowest[1], abs=1e-9)
    assert seen.path[-1] == pytest.approx(seen.rest[1], abs=1e-3)


@BOTH
def test_the_slope_at_rest_is_that_of_the_loss(of):
    """The first of two logits moves the gap one to one; central differences."""
    seen = ch03.descent(of, 0.6, 0.5)
    step = seen.gaps[1] - seen.gaps[0]
    near = np.interp([seen.rest[0] - step, seen.rest[0] + step], seen.gaps, seen.losses)
    assert seen.slope == pytest.approx((near[1] - near[0]) / (2 * step), rel=0.02)


def test_a_constant_margin_rests_at_its_lowest_loss():
    seen = ch03.descent(Margin(gamma_min=0.5, gamma_max=0.5), 0.6, 0.5)
    assert seen.slope == pytest.approx(0, abs=1e-12)
    assert seen.rest[0] == pytest.approx(seen.lowest[0], abs=0.01)


@BOTH
def test_the_update_turns_with_the_policy_s_own_popularity_only(of):
    turning = ch03.turning(of)
    assert turning["policy"] > 0.01
    assert turning["frozen"] < 1e-9


# ---- conventions and units ----


@pytest.mark.parametrize("convention", ["code", "paper"])
def test_each_convention_is_simpo(convention):
    assert ch03.simpo_apart(ch03.random_pairs(100, seed=1), convention) < 1e-12


def test_conventions_differ_by_at_most_the_margin():
    """softplus is 1-Lipschitz: the code's loss is larger by at most (β - 1)·γ."""
    pairs = ch03.random_pairs(400, seed=1)
    assert ch03.conventions_apart(pairs, 1.0) == pytest.approx(0, abs=1e-12)
    assert 1.4 < ch03.conventions_apart(pairs, 2.0) <= 1.6
    assert ch03.conventions_apart(pairs, 3.0) <= 3.2


@BOTH
def test_more_tokens_and_smaller_lengths_are_the_same_loss(of):
    other = ch03.retokenised(of, 3.0)
    pairs = ch03.random_pairs(50, seed=2)
    same = other.loss(pairs.delta / 3, pairs.delta_pmi / 3)
    assert torch.allclose(same, of.loss(pairs.delta, pairs.delta_pmi))


# ---- exercises ----


def test_light_though_misranked_by_hand():
    """Misranked by 1: with Δpmi = 2, γ is 0.48 and the pair lighter than under 1."""
    delta = torch.tensor([-1.0, -1.0, -1.0, 1.0], dtype=torch.float64)
    delta_pmi = torch.tensor([2.0, 2.0, 0.0, 2.0], dtype=torch.float64)
    zero = torch.zeros(4, dtype=torch.float64)
    pairs = ch03.Pairs(delta, zero, delta - delta_pmi, zero, zero, zero)
    assert pairs.delta_pmi.tolist() == delta_pmi.tolist()
    assert ch03.light_though_misranked(pairs, CODE, 1.0) == 0.5


def test_the_indifferent_say_what_their_neighbours_like_under_rmipo_only():
    simpo = Margin(gamma_min=0.5, gamma_max=0.5)
    assert ch03.says_a(simpo) == pytest.approx(0.5)
    for of in (CODE, PAPER):
        says = ch03.says_a(of)
        assert says > 0.52
        popular = 0.2 * says + 0.8 * other_people(of, says)
        gap = math.log(popular / (1 - popular))
        d = math.log(says / (1 - says))
        assert of.rest(0.5, gap) == pytest.approx(d, abs=1e-6)


def other_people(of, says):
    """Chance of A to the others, from the fixed point they share with `says`."""
    from scipy.optimize import brentq

    def off(share):
        popular = 0.2 * says + 0.8 * share
        gap = math.log(popular / (1 - popular))
        return of.rest(0.9, gap) - math.log(share / (1 - share))

    return brentq(off, 0.5, 1 - 1e-9)
