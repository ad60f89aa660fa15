"""Chapter 1: its curves against closed forms, its samples against the exact bounds."""

import numpy as np
import pytest

from mipo import information as info
from mipo_study import ch01_bounds

TWO = np.array([0.5, 0.5])
TOY = np.array([[0.9, 0.1], [0.1, 0.9]])
TOY_MI = 0.9 * np.log(1.8) + 0.1 * np.log(0.2)  # 0.368 nats
PMI = info.pmi(TOY, TWO)


def test_a_critic_that_knows_nothing_certifies_nothing():
    curve = ch01_bounds.infonce_curve(np.zeros((2, 2)), TOY, TWO, [2, 8])
    assert np.allclose(curve, 0, atol=1e-9)


def test_the_best_critic_certifies_more_with_more_candidates():
    curve = ch01_bounds.infonce_curve(PMI, TOY, TWO, [2, 4, 64])
    assert (np.diff(curve) > 0).all()
    assert TOY_MI - 0.01 < curve[-1] < TOY_MI


def test_scaled_curves_start_at_nothing_and_are_tight_at_one():
    curves = ch01_bounds.scaled_curves([0, 1, 2], PMI, TOY, TWO)
    assert curves["DV"][:2] == pytest.approx([0, TOY_MI])
    assert curves["NWJ"][:2] == pytest.approx([0, TOY_MI])
    assert curves["JSD"][0] == pytest.approx(-2 * np.log(2))
    for values in curves.values():
        assert values[1] == max(values)
    assert curves["NWJ"][2] < curves["DV"][2]


def test_sampled_bounds_come_near_the_truth_where_there_are_many_pairs():
    sampled = ch01_bounds.sampled_bounds(PMI, TOY, TWO, [4, 4000], range(5))
    assert set(sampled) == {"DV", "NWJ", "InfoNCE, N = 8"}
    for values in sampled.values():
        assert values.shape == (2, 5)
    assert sampled["NWJ"][1].mean() == pytest.approx(TOY_MI, abs=0.03)
    exact = info.infonce_bound(PMI, TOY, TWO, 8)
    assert sampled["InfoNCE, N = 8"][1].mean() == pytest.approx(exact, abs=0.03)


def test_a_sample_depends_on_its_own_seed_and_size_only():
    one = ch01_bounds.sampled_bounds(PMI, TOY, TWO, [16], [3])
    many = ch01_bounds.sampled_bounds(PMI, TOY, TWO, [4, 16], [2, 3])
    assert one["DV"][0, 0] == many["DV"][1, 1]


def test_a_critic_fitted_to_noise_is_fooled_by_one_over_two_n():
    """(|X| - 1)(|Y| - 1) / 2n = 1/2n for two by two."""
    reported = ch01_bounds.fitted_to_noise(TWO, TWO, [200], range(400))
    assert reported.shape == (1, 400)
    assert reported.mean() == pytest.approx(1 / 400, rel=0.25)


def test_the_answers_of_the_exercises():
    assert ch01_bounds.nwj_loss(TOY, TWO) == pytest.approx(np.exp(-1))
    assert ch01_bounds.changed_by_a_shift(TOY, TWO) == {"DV", "NWJ", "JSD"}


def test_candidates_needed_are_enough_and_half_of_them_are_not():
    p_x = np.full(4, 0.25)
    (n,) = ch01_bounds.candidates_needed([0.9], p_x)
    p = 0.9 * np.eye(4) + 0.1 * p_x
    wanted = 0.95 * info.mutual_information(p, p_x)
    at_half, at_n = ch01_bounds.infonce_curve(info.pmi(p, p_x), p, p_x, [n // 2, n])
    assert at_half <= wanted < at_n


def test_a_contrast_that_nothing_certifies_is_an_error():
    with pytest.raises(ValueError, match="follow = 0.9.*candidates"):
        ch01_bounds.candidates_needed([0.9], np.full(4, 0.25), share=1.0)
