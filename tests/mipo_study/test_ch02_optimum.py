"""Chapter 2: what its cells call, against hand and a second way."""

import numpy as np
import pandas as pd
import pytest

from mipo import information as info
from mipo_study import ch02_optimum as ch02

P_C = np.array([0.4, 0.3, 0.2, 0.1])
CROWD = np.array([0.06, 0.06, 0.08, 0.10, 0.40, 0.30])
P = ch02.followers(4, CROWD, 0.5)
Q = info.marginal(P, P_C)


def test_followers_by_hand():
    assert P[0] == pytest.approx([0.53, 0.03, 0.04, 0.05, 0.2, 0.15])
    assert ch02.own_share(P, P_C) == pytest.approx(
        0.4 * 0.53 + 0.3 * 0.53 + 0.2 * 0.54 + 0.1 * 0.55
    )


def test_loss_curves_agree_and_start_at_log_two():
    dpo, quiz = ch02.loss_curves(np.array([-2.0, 0.0, 3.0]), beta=0.7)
    assert dpo == pytest.approx(quiz)
    assert dpo[1] == pytest.approx(np.log(2))
    assert dpo[0] == pytest.approx(np.log(1 + np.exp(1.4)))


def test_the_chain_falls_and_is_known_at_its_ends():
    rows = ch02.chain(P, P_C, [0.2, 1.0, 1e6])
    assert (np.diff(rows, axis=1) <= 0).all()
    assert rows[-1] == pytest.approx(rows[-1, 2], abs=1e-5)  # no tilt left
    assert ch02.largest_rise_in_the_chain(20, np.random.default_rng(1)) <= 1e-10


def test_own_sharpened_replies_leave_nothing():
    values = ch02.information_over_beta(P, P_C, info.sharpen(P, 0.5), [1.0])
    assert values == pytest.approx([0], abs=1e-12)


def test_random_contexts_pass_and_others_fail():
    laws = {"forced": info.leave_one_out(P, P_C)}
    values = ch02.p_values(P, P_C, laws, draws=4000, seeds=range(20))
    assert 0.2 < values["random"].mean() < 0.8
    assert values["forced"].max() < 1e-6


def test_counts_are_of_own_context_and_rejected_reply():
    counts = ch02.random_context_counts(P, P_C, 40000, np.random.default_rng(0))
    assert counts.sum() == 40000
    expected = P_C[:, None] * Q
    assert counts / 40000 == pytest.approx(expected, abs=0.01)


def test_forcing_matters_less_with_more_contexts():
    few, many = ch02.forcing_cost(4, 0.3), ch02.forcing_cost(20, 0.3)
    assert few > many > 0


# ---- rejected replies and wishes ----


def test_nearest_is_exact_where_the_negative_is_the_wanted_law():
    """The tilt at β = 0.7 wants the marginal, so the marginal reaches it at 0.7."""
    wanted = info.tilted_optimum(P, info.pmi(P, P_C), 0.7)
    found = ch02.nearest(P, P_C, np.tile(Q, (4, 1)), wanted)
    assert found.beta == pytest.approx(0.7, abs=1e-6)
    assert found.policy_away < 1e-12
    assert found.law_away < 1e-12


def test_nearest_beats_every_beta_that_one_might_try():
    wanted = ch02.followers(4, CROWD, 0.9)
    found = ch02.nearest(P, P_C, np.tile(Q, (4, 1)), wanted)
    assert found.law_away > ch02.AWAY
    for beta in np.geomspace(0.1, 20, 25):
        reached = ch02.optimum(P, Q, beta)
        assert P_C @ info.kl(wanted, reached) >= found.policy_away - 1e-12


def test_training_reaches_what_is_wanted():
    assert ch02.farthest_from_wanted(3, np.random.default_rng(0)) < 1e-8


# ---- chosen replies ----


def test_a_tilt_goes_as_far_as_it_is_told():
    gains = np.random.default_rng(0).normal(size=P.shape)
    tilted = ch02.at_distance(P, gains, 0.2)
    assert info.kl(tilted, P) == pytest.approx([0.2] * 4)
    odds = np.log(tilted / P) - np.log(tilted / P)[:, :1]
    strength = odds[:, 1:] / (gains - gains[:, :1])[:, 1:]
    assert np.ptp(strength, axis=1) == pytest.approx([0] * 4, abs=1e-9)
    assert (strength > 0).all()


def test_a_tilt_that_cannot_go_so_far_goes_as_far_as_it_can():
    (tilted,) = ch02.at_distance(np.array([[0.5, 0.5]]), np.array([[1.0, 0.0]]), 0.9)
    assert tilted[0] > 0.999  # KL is at most log 2


def test_displaced_rows_have_every_case_and_own_replies_fall():
    rows = ch02.displaced(5, np.random.default_rng(0))
    assert rows.groupby("case").size().to_dict() == dict.fromkeys(ch02.CASES, 20)
    own = rows[rows["case"] != "labels, equal KL"]
    assert own["rise"].max() < 0
    labelled = rows[rows["case"] == "labels, equal KL"]
    assert labelled["rise"].max() > 0
    assert rows["falls"].between(0, 1).all()
    assert rows["entropy"].between(0, np.log(20)).all()


def test_rank_correlations_by_hand():
    """Ranks 1 2 3 against 1 2 3, and against 2 3 1: 1 and -1/2."""
    rows = pd.DataFrame({"entropy": [0.1, 0.5, 0.9], "rise": [-3.0, -2.0, -1.0]})
    rows["falls"] = [0.4, 0.8, 0.1]
    found = ch02.rank_correlations(rows.assign(case="one", seed=7))
    assert found.loc[("one", 7)].to_dict() == pytest.approx({"rise": 1, "falls": -0.5})


# ---- what else is shown ----


def test_slopes_at_the_start():
    slopes = ch02.slopes_at_the_start(P, P_C)
    assert slopes["SFT on own replies"] < 1e-15
    assert slopes["InfoNCE over contexts, T = 1"] < 1e-15
    assert slopes["InfoNCE over contexts, T = 8"] > 1e-3
    assert slopes["InfoNCE over contexts, T = 100"] > 1e-4
    # p(c)·(p - q)/2 at its largest: the first person's favourite
    largest = np.abs(P_C[:, None] * (P - Q) / 2).max()
    assert slopes["DPO, random context"] == pytest.approx(largest)


def test_slots_of_one_attribute_are_not_decoded_token_by_token():
    alike, shared = ch02.two_slots(0.8).values()
    assert ch02.token_gap(alike, 1.0) < 1e-12
    assert ch02.token_gap(shared, 1.0) == pytest.approx(0.0146, abs=5e-4)
    # after a right first slot the marginal says 0.68 : 0.32, after a wrong one 0.32 : 0.68
    assert np.exp(ch02.second_normaliser(shared)) == pytest.approx(
        [0.64 / 0.68 + 0.04 / 0.32, 0.64 / 0.32 + 0.04 / 0.68]
    )


def test_few_pairs_leave_the_optimum_again_and_all_pairs_do_not():
    rng = np.random.default_rng(0)
    away = ch02.distances_on_the_way(P, P_C, [50], 3, 100, rng)
    assert away["50 pairs"].shape == (100, 3)
    assert away["50 pairs"][-1].mean() > away["50 pairs"].mean(1).min()
    assert (np.diff(away["all pairs"][:, 0]) < 0).all()


def test_cold_samplers_favour_favourites():
    sampler, target = ch02.own_shares_by_temperature(P, P_C, [0.5, 1.0])
    assert sampler[1] == pytest.approx(ch02.own_share(P, P_C))
    assert target[1] == pytest.approx(ch02.own_share(ch02.optimum(P, Q, 1.0), P_C))
    assert sampler[0] > sampler[1]


def test_the_answers_of_the_exercises():
    assert ch02.moved_by_dropping_equal_pairs(P, P_C) < 1e-6
    assert ch02.student_of(P, P_C) == "the teacher"
    twice = ch02.own_share(ch02.two_rounds(P, P_C), P_C)
    assert twice > ch02.own_share(ch02.optimum(P, Q, 1.0), P_C)
