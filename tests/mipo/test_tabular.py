"""tables: training by gradient reaches what information.py says in closed form, by another way."""

from math import log

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from mipo import information as info
from mipo.theory import tabular

RNG = np.random.default_rng(0)
P_C = np.array([0.4, 0.3, 0.2, 0.1])
P = RNG.dirichlet(np.ones(5) * 1.5, 4) * 0.95 + 0.01  # (C, Y) positive
Q = info.marginal(P, P_C)


@pytest.mark.parametrize("beta", [0.3, 1.0, 4.0])
def test_train_table_reaches_the_optimum(beta):
    got = tabular.train_table(P, tabular.pair_law(P, Q), beta=beta)
    assert_allclose(got.losses[0], log(2))  # policy = reference
    assert (
        info.kl(info.tilted_optimum(P, info.log_ratio(P, Q), beta), got.policy).max()
        < 1e-8
    )
    assert (np.diff(got.losses) <= 1e-12).all()


def test_train_table_with_another_reference():  # the conditional form: π_ref need not be p
    ref = RNG.dirichlet(np.ones(5) * 5)
    got = tabular.train_table(ref, tabular.pair_law(P, Q), beta=1.0)
    assert (
        info.kl(info.tilted_optimum(ref, info.log_ratio(P, Q), 1.0), got.policy).max()
        < 1e-8
    )


def test_train_table_on_token_means():
    lengths = np.array([3.0, 5, 8, 4, 12])
    got = tabular.train_table(P, tabular.pair_law(P, Q), beta=10.0, lengths=lengths)
    best = info.tilted_optimum(P, info.log_ratio(P, Q), 10.0, lengths)
    assert info.kl(best, got.policy).max() < 1e-8
    assert (
        info.kl(best, info.tilted_optimum(P, info.log_ratio(P, Q), 10.0)).max() > 0.01
    )


def test_gradient_steps_walk_towards_the_optimum():
    got = tabular.train_table(P, tabular.pair_law(P, Q), beta=1.0, steps=30, lr=1.0)
    assert got.path.shape == (31, 4, 5)
    distance = info.kl(info.tilted_optimum(P, info.log_ratio(P, Q), 1.0), got.path).sum(
        -1
    )
    assert (np.diff(distance) < 0).all()


def test_expected_loss_closed_form():  # two replies; only the pair (0, 1) is ever seen; gap log 3
    logps = torch.tensor([0.75, 0.25], dtype=torch.float64).log()
    ref = torch.tensor([0.5, 0.5], dtype=torch.float64).log()
    pairs = torch.tensor([[0.0, 1.0], [0.0, 0.0]], dtype=torch.float64)
    assert_allclose(
        tabular.expected_dpo_loss(logps, ref, pairs, beta=1.0).item(), log(4 / 3)
    )  # -log 3/4


def test_expected_loss_gradient():
    ref, pairs = (
        torch.as_tensor(np.log(P[0])),
        torch.as_tensor(tabular.pair_law(P[0], Q)),
    )
    logits = torch.randn(
        5,
        dtype=torch.float64,
        generator=torch.Generator().manual_seed(0),
        requires_grad=True,
    )
    assert torch.autograd.gradcheck(
        lambda z: tabular.expected_dpo_loss(z.log_softmax(-1), ref, pairs, beta=0.7),
        logits,
    )


@pytest.mark.parametrize("n", [2, 3, 6])
def test_enumeration_equals_the_integral(n):  # two derivations of L_N
    f = RNG.normal(0, 2, P.shape)
    loss = tabular.expected_infonce_loss(torch.as_tensor(f), P, P_C, n).item()
    assert_allclose(log(n) - loss, info.infonce_bound(f, P, P_C, n), atol=1e-10)


def test_multisets_closed_form():  # 2 of 3 values: 6 multisets, 9 orders in all
    counts, log_orders = tabular.multisets(3, 2)
    assert counts.shape == (6, 3) and (counts.sum(1) == 2).all()
    assert_allclose(np.exp(log_orders).sum(), 9)


@pytest.mark.parametrize("n", [2, 4])
def test_train_critic_finds_pmi(n):
    pmi = info.pmi(P, P_C)
    assert_allclose(
        tabular.train_critic(P, P_C, n), pmi - (pmi @ Q)[:, None], atol=1e-4
    )


def test_losses_are_those_of_the_path():
    got = tabular.train_table(P, tabular.pair_law(P, Q), beta=1.0, steps=3, lr=1.0)
    pairs, ref = torch.as_tensor(tabular.pair_law(P, Q)), torch.as_tensor(np.log(P))
    again = [
        tabular.expected_dpo_loss(
            torch.as_tensor(np.log(x)), ref, pairs, beta=1.0
        ).mean()
        for x in got.path
    ]
    assert_allclose(got.losses, again)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: tabular.train_table(P, tabular.pair_law(P, Q), beta=0), "beta"),
        (
            lambda: tabular.train_table(
                [0.5, 0.5, 0.0], np.full((3, 3), 1 / 9), beta=1
            ),
            "p_ref",
        ),
        (lambda: tabular.train_table(P, np.full((3, 3), 1 / 9), beta=1), "pairs"),
        (
            lambda: tabular.train_table(
                P, tabular.pair_law(P, Q), beta=1, steps=9, lr=float("inf")
            ),
            "Lower lr",
        ),
        (lambda: tabular.train_critic(np.eye(2), [0.5, 0.5], 2), "positive"),
        (lambda: tabular.pair_law([0.5, 0.6], [0.5, 0.5]), "chosen"),
    ],
)
def test_bad_input_is_one_clear_error(call, words):
    with pytest.raises(ValueError, match=words):
        call()
