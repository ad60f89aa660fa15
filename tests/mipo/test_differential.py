"""Rejected laws and displaced replies against hand and training; losses that stand still against automatic slopes."""

from math import log

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from mipo import information as info
from mipo import losses
from mipo.theory import differential, standstill, tabular

RNG = np.random.default_rng(0)
P = 0.9 * RNG.dirichlet(np.ones(5), 3) + 0.02  # (C, Y) positive
WANTED = 0.9 * RNG.dirichlet(np.ones(5), 3) + 0.02
P_C = np.array([0.5, 0.3, 0.2])
Q = info.marginal(P, P_C)
seeds = st.integers(0, 2**32 - 1)


def laws(seed, rows=2):
    return 0.9 * np.random.default_rng(seed).dirichlet(np.ones(4), rows) + 0.025


# ---- the rejected law ----


def test_rejected_law_closed_form():
    """1/2·(1/2 : 9/10) against 1/2·(1/2 : 1/10) is 1 to 9; at β = 1/2 its root, 1 to 3."""
    at = differential.rejected_law
    assert_allclose(at([0.5, 0.5], [0.9, 0.1], 1.0), [0.1, 0.9])
    assert_allclose(at([0.5, 0.5], [0.9, 0.1], 0.5), [0.25, 0.75])
    # chosen 3 to 1: 3/4·1 against 1/4·9 is 3 to 9
    assert_allclose(at([0.5, 0.5], [0.9, 0.1], 1.0, [0.75, 0.25]), [0.25, 0.75])


@given(seeds, st.floats(0.1, 5))
def test_rejected_law_turns_the_optimum_round(seed, beta):
    p, wanted = laws(seed)
    rejected = differential.rejected_law(p, wanted, beta)
    reached = info.tilted_optimum(p, info.log_ratio(p, rejected), beta)
    assert_allclose(reached, wanted, rtol=1e-9)


def test_rejected_law_of_the_tilt_by_pmi_is_the_marginal():
    for beta in (0.5, 1.0, 3.0):
        tilt = info.tilted_optimum(P, info.pmi(P, P_C), beta)
        found = differential.rejected_law(P, tilt, beta)
        assert_allclose(found, np.tile(Q, (3, 1)))


def test_rejected_law_of_no_change_is_the_chosen_law():
    assert_allclose(differential.rejected_law(P, P, 0.7), P)
    assert_allclose(differential.rejected_law(P, P, 0.7, WANTED), WANTED)


@pytest.mark.parametrize("beta", [0.5, 2.0])
def test_training_on_the_rejected_law_ends_at_the_wanted_policy(beta):
    pairs = tabular.pair_law(P, differential.rejected_law(P, WANTED, beta))
    reached = tabular.train_table(P, pairs, beta=beta, steps=400).policy
    assert info.kl(WANTED, reached).max() < 1e-8


# ---- the law of the change, and the chosen replies ----


def test_differential_law_closed_form():
    """3/4 : 1/2 and 1/4 : 1/2 are 3 to 1; a change by nothing is even."""
    assert_allclose(
        differential.differential_law([0.5, 0.5], [0.75, 0.25]), [0.75, 0.25]
    )
    assert_allclose(differential.differential_law([0.8, 0.2], [0.5, 0.5]), [0.2, 0.8])
    assert_allclose(differential.differential_law(P, P), np.full((3, 5), 0.2))


def test_displacement_closed_form():
    """1/4·log(1/2) + 3/4·log(3/2) of replies that are chosen one in four."""
    found = differential.displacement([0.25, 0.75], [0.5, 0.5], [0.25, 0.75])
    assert_allclose(found, 0.25 * log(0.5) + 0.75 * log(1.5))


@given(seeds)
def test_own_replies_fall_by_a_divergence_and_the_policy_s_own_rise_by_one(seed):
    p, policy = laws(seed)
    falls = differential.displacement(p, p, policy)
    rises = differential.displacement(policy, p, policy)
    assert_allclose(falls, -info.kl(p, policy), atol=1e-12)
    assert_allclose(rises, info.kl(policy, p), atol=1e-12)


@given(seeds)
def test_displacement_of_own_replies_is_jensen_s_gap(seed):
    """log E[q] - E[log q] under the reference: the chapter's second way to write it."""
    p, policy = laws(seed)
    q = differential.differential_law(p, policy)
    gap = np.log(p @ q) - p @ np.log(q)
    assert differential.displacement(p, p, policy) == pytest.approx(-gap, abs=1e-12)


def test_labelled_pairs_by_hand():
    """p = (3/4, 1/4), σ(log 3) = 3/4: 9/16 and 1/16 of equals, 2·3/16·(3/4 and 1/4)."""
    pairs = differential.labelled_pairs([0.75, 0.25], [log(3), 0.0])
    assert_allclose(pairs, [[9 / 16, 9 / 32], [3 / 32, 1 / 16]])
    assert_allclose(pairs.sum(), 1)


def test_training_on_labelled_pairs_ends_at_the_tilt_by_the_reward():
    rewards = RNG.normal(size=P.shape)
    pairs = differential.labelled_pairs(P, rewards)
    reached = tabular.train_table(P, pairs, beta=2.0, steps=400).policy
    assert info.kl(info.tilted_optimum(P, rewards, 2.0), reached).max() < 1e-8


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: differential.rejected_law(P, WANTED, 0.0), "beta"),
        (lambda: differential.rejected_law([1.0, 0.0], [0.5, 0.5], 1.0), "p_ref"),
        (lambda: differential.rejected_law([0.5, 0.5], [1.0, 0.0], 1.0), "wanted"),
        (lambda: differential.rejected_law(P, WANTED, 1.0, np.eye(3, 5)), "chosen"),
        (lambda: differential.differential_law(P, np.eye(3, 5)), "policy"),
        (lambda: differential.displacement(P, np.eye(3, 5), P), "p_ref"),
        (lambda: differential.labelled_pairs([0.5, 0.6], [0.0, 0.0]), "p:"),
    ],
)
def test_bad_input_is_one_clear_error(call, words):
    with pytest.raises(ValueError, match=words):
        call()


# ---- losses that stand still ----


def logs(p):
    return torch.as_tensor(np.log(p))


def test_sft_loss_closed_form():
    """Two contexts, half each: -(log 3/4 + log 1/4)/2 of replies that are certain."""
    table = logs(np.array([[0.75, 0.25], [0.75, 0.25]]))
    loss = standstill.expected_sft_loss(table, np.eye(2), [0.5, 0.5])
    assert loss.item() == pytest.approx(-(log(0.75) + log(0.25)) / 2)


def test_context_loss_closed_form():
    """Replies 3 to 1 and 1 to 3: half of the pairs are one context twice, log 2; else 3/4 cost log 4/3 and 1/4 log 4."""
    p = np.array([[0.75, 0.25], [0.25, 0.75]])
    loss = standstill.expected_context_loss(logs(p), p, [0.5, 0.5], temperature=1.0)
    told_apart = 0.75 * log(4 / 3) + 0.25 * log(4)
    assert loss.item() == pytest.approx(0.5 * log(2) + 0.5 * told_apart)


def test_context_loss_counts_every_case():
    """The same by a loop over cases, with the loss of one reply at a time."""
    table, total = logs(WANTED), 0.0
    for own, other, y in np.ndindex(3, 3, 5):
        both = torch.stack([table[own, y], table[other, y]])[None]
        cost = losses.context_infonce(both, temperature=8.0).item()
        total += P_C[own] * P_C[other] * P[own, y] * cost
    loss = standstill.expected_context_loss(table, P, P_C, temperature=8.0)
    assert loss.item() == pytest.approx(total)


def test_pair_loss_starts_at_log_two_and_certifies_no_more_than_the_reference_has():
    start = standstill.expected_pair_loss(logs(P), P, P_C, beta=0.5)
    assert start.item() == pytest.approx(log(2))
    best = info.tilted_optimum(P, info.pmi(P, P_C), 0.5)
    end = standstill.expected_pair_loss(logs(best), P, P_C, beta=0.5).item()
    bound = info.infonce_bound(info.pmi(P, P_C), P, P_C, 2)
    assert log(2) - end == pytest.approx(bound)  # the quiz with the perfect critic


def test_slope_at_closed_form():
    """Softmax: the slope of -log p_0 in the logits is p less one where the reply is."""
    found = standstill.slope_at([[0.75, 0.25]], lambda logps: -logps[0, 0])
    assert_allclose(found, [[-0.25, 0.25]])


def context_slope(temperature):
    """eq-standstill, in the log-probs, then through the softmax: g - p·Σg."""
    root = P ** (1 / temperature)
    s = root[:, None] / (root[:, None] + root[None])  # own, other, reply
    each = P[None] * s - P[:, None] * (1 - s)
    slope = np.einsum("c,d,cdy->cy", P_C, P_C, each) / temperature
    return slope - P * slope.sum(-1, keepdims=True)


@pytest.mark.parametrize("temperature", [1.0, 8.0, 100.0])
def test_slope_of_the_context_loss_is_that_of_the_chapter(temperature):
    def loss(logps):
        return standstill.expected_context_loss(logps, P, P_C, temperature=temperature)

    found = standstill.slope_at(P, loss)
    assert_allclose(found, context_slope(temperature), atol=1e-15)
    assert (np.abs(found).max() < 1e-15) == (temperature == 1.0)


def test_own_replies_teach_nothing_by_sft_and_something_by_dpo():
    def sft(logps):
        return standstill.expected_sft_loss(logps, P, P_C)

    def dpo(logps):
        return standstill.expected_pair_loss(logps, P, P_C, beta=1.0)

    assert np.abs(standstill.slope_at(P, sft)).max() < 1e-15
    # at the start each pair pulls by half: p(c)·(q - p)/2, through DPO's β = 1
    assert_allclose(standstill.slope_at(P, dpo), P_C[:, None] * (Q - P) / 2)
