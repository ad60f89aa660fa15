"""Where a gain comes from: every expected number by hand, or from numpy or the exact world."""

import numpy as np
import pytest

from mipo.world import World
from mipo.worlds.population import people
from mipo_study import ch16_gains


def test_tilted_mean_by_hand_and_its_limits():
    values, pmi = [[1.0, 0.0], [0.0, 1.0]], [[np.log(3), 0.0], [0.0, 0.0]]
    assert ch16_gains.tilted_mean(values, pmi, 1.0) == pytest.approx(
        (3 / 4 + 1 / 2) / 2
    )
    assert ch16_gains.tilted_mean(values, pmi, 0.5) == pytest.approx(
        (9 / 10 + 1 / 2) / 2
    )  # weights 3² and 1
    assert ch16_gains.tilted_mean(values, pmi, 1e9) == pytest.approx(
        0.5
    )  # no tilt: the plain mean
    assert ch16_gains.tilted_mean([[0.3]], [[800.0]], 0.1) == pytest.approx(
        0.3
    )  # one reply; no overflow


def test_tilted_mean_finds_the_optimum_of_the_exact_law():
    world, rng = World(), np.random.default_rng(0)
    slots = world.law("recommend").task.slots
    fits, pmis, true = [], [], []
    for who in people(40, seed=5):
        law = world.law("recommend", who)
        said = [law.sample(rng) for _ in range(200)]
        fits.append(
            [
                np.mean(
                    [
                        v == who[s.attribute]
                        for s, v in zip(slots, y, strict=True)
                        if s.relevant
                    ]
                )
                for y in said
            ]
        )
        pmis.append(
            [law.log_prob(y) - world.marginal("recommend").log_prob(y) for y in said]
        )
        true.append(world.optimum("recommend", who, 1.0).adherence(who))
    assert (
        abs(ch16_gains.tilted_mean(fits, pmis, 1.0) - np.mean(true))
        < 0.02
        < np.mean(true) - np.mean(fits)
    )


def test_tilted_mean_refuses_other_shapes_and_beta_zero():
    with pytest.raises(ValueError, match="one shape"):
        ch16_gains.tilted_mean([[1.0, 2.0]], [[1.0]], 1.0)
    with pytest.raises(ValueError, match="beta must be positive"):
        ch16_gains.tilted_mean([[1.0]], [[1.0]], 0.0)


def test_parts_of_gain_by_hand_and_both_cuts_add_up():
    before = [{"adherence": 0.5, "valid": 0.8}, {"adherence": 0.0, "valid": 0.0}]
    after = [{"adherence": 0.7, "valid": 0.9}, {"adherence": 0.4, "valid": 0.5}]
    found = ch16_gains.parts_of_gain(before, after, [0.6, 0.6])
    assert found["gain"] == pytest.approx([0.2, 0.4])
    assert found["caught_up"] == pytest.approx([0.1, 0.6]) and found[
        "beyond"
    ] == pytest.approx([0.1, -0.2])
    assert found["repaired"] == pytest.approx(
        [0.1 * (0.625 + 7 / 9) / 2, 0.5 * 0.4]
    )  # nothing valid before: a is 0
    assert found["said"] == pytest.approx([(7 / 9 - 0.625) * 0.85, 0.8 * 0.25])
    for cut in (("caught_up", "beyond"), ("repaired", "said")):
        assert sum(found[part] for part in cut) == pytest.approx(found["gain"])
    with pytest.raises(ValueError, match="2 before, 2 after and 1 of the law"):
        ch16_gains.parts_of_gain(before, after, [0.6])


def test_slopes_by_hand_and_against_numpy():
    assert ch16_gains.slopes(
        [1e6, 1e7, 1e8], [[0.2, 0.0], [0.1, 0.1], [0.0, 0.2]]
    ) == pytest.approx([-0.1, 0.1])
    sizes, table = [2.6e5, 9.9e5, 3.2e6], np.random.default_rng(0).normal(size=(3, 4))
    assert ch16_gains.slopes(sizes, table) == pytest.approx(
        np.polyfit(np.log10(sizes), table, 1)[0]
    )
    for bad in (
        ([1e6], [[0.1]]),
        ([1e6, 1e6], [[0.1], [0.2]]),
        ([1e6, 1e7], [[0.1]]),
        ([1e6, 1e7], [0.1, 0.2]),
    ):
        with pytest.raises(ValueError, match="at least two different sizes"):
            ch16_gains.slopes(*bad)


def test_shares_by_hand():
    assert ch16_gains.shares([0.1, 0.1], [0.5, 0.6], [0.7, 0.7]) == pytest.approx(
        [0.5, 1.0]
    )
    with pytest.raises(ValueError, match="no headroom"):
        ch16_gains.shares([0.1], [0.7], [0.7])
