"""DPO's kin: KTO, R-DPO and alpha-DPO against a reference; CPO, ORPO, SimPER and AlphaPO without one.

Shape errors, extremes and declared properties of all losses are in `test_losses.py`.
"""

from math import exp, log

import pytest
import torch
from losses_help import T, grads, random_inputs
from torch.testing import assert_close

from mipo import losses
from mipo.losses.declaration import check

# ---- kto -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "weights, value",
    [((1, 1), 3 / 8), ((2, 1), 1 / 2), ((0, 1), 1 / 4), ((1, 0), 1 / 8)],
)
def test_eq_kto_closed_form(weights, value):
    """z = 1: r_w - z = log 3 leaves 1/4 at beta 1, r_l = z leaves 1/2; each counts half, times its weight."""
    kw = dict(zip(("desirable_weight", "undesirable_weight"), weights, strict=True))
    x = T(1 + log(3) - 5), T(1.0 - 7), T(-5.0), T(-7.0)
    assert_close(losses.kto(*x, T(1.0), beta=1.0, **kw), T(value))


def test_eq_kto_closed_form_of_z():
    """z is the MEAN of kl, and no less than 0: kl -3 and 5 give 1, kl -3 and 1 give 0."""
    x = T(1 + log(3), log(3)) - 5, T(1.0, 0.0) - 7, T(-5.0, -5.0), T(-7.0, -7.0)
    assert_close(losses.kto(*x, T(-3.0, 5.0), beta=1.0)[0], T(3 / 8)[0])
    assert_close(losses.kto(*x, T(-3.0, 1.0), beta=1.0)[1], T(3 / 8)[0])


def test_eq_kto_gradient():
    """At r_w = r_l = z: beta / 4 each, halved and weighted; none through z."""
    kw = {"beta": 0.4, "desirable_weight": 1.5, "undesirable_weight": 0.5}
    gw, gu, _, _, none = grads(
        losses.kto, T(-3.0), T(-5.0), T(-5.0), T(-7.0), T(2.0), **kw
    )
    assert_close(gw, T(-0.05 * 1.5)), assert_close(gu, T(0.05 * 0.5))
    assert none is None


def test_eq_kto_limit():
    """Small beta: 1/2 - beta h / 8 with the h of DPO; z drops out."""
    w, u, rw, ru, kl = random_inputs(losses.kto)
    want = 0.5 - 1e-4 * ((w - u) - (rw - ru)) / 8
    for z in (kl, kl + 3):
        assert_close(losses.kto(w, u, rw, ru, z, beta=1e-4), want, atol=1e-10, rtol=0)


def test_eq_kto_invariance():
    w, u, rw, ru, kl = random_inputs(losses.kto)
    value = losses.kto(w, u, rw, ru, kl)
    assert_close(
        losses.kto(w - 1, u - 2, rw - 1, ru - 2, kl), value
    )  # only log-ratios count
    assert_close(losses.kto(w + 1, u + 1, rw, ru, kl + 1), value)  # and only against z
    assert_close(
        value + losses.kto(u, w, ru, rw, kl), torch.ones(3, dtype=torch.float64)
    )  # sigmoid(x) + sigmoid(-x)


# ---- rdpo ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "tokens, value", [((12, 2), log(4 / 3)), ((2, 12), log(4)), ((5, 5), log(2))]
)
def test_eq_rdpo_closed_form(tokens, value):
    """beta h = 0 and 10 tokens at log(3) / 10 each: a LONGER winner is explained by its length: little is left."""
    counts = [T(float(n)) for n in tokens]
    assert_close(
        losses.rdpo(
            T(-4.0), T(-6.0), T(-3.0), T(-5.0), *counts, beta=0.5, alpha=log(3) / 10
        ),
        T(value),
    )


def test_eq_rdpo_closed_form_at_its_optimum():
    """pi ~ ref exp((r - alpha L) / beta) solves r - alpha L - beta KL; there the loss is -log sigmoid(r_w - r_l)."""
    ref, reward, length = T(-2.0, -1.0, -3.0), T(0.3, 1.1, -0.4), T(7.0, 3.0, 11.0)
    logps = torch.log_softmax(ref + (reward - 0.2 * length) / 0.7, dim=0)
    w, u = [0, 1, 2], [1, 2, 0]
    got = losses.rdpo(
        logps[w], logps[u], ref[w], ref[u], length[w], length[u], beta=0.7, alpha=0.2
    )
    assert_close(got, -torch.log(1 / (1 + torch.exp(reward[u] - reward[w]))))


def test_eq_rdpo_gradient():
    gw, gu, *_ = grads(
        losses.rdpo,
        T(-8.0),
        T(-6.0),
        T(-4.0),
        T(-4.0),
        T(14.0),
        T(4.0),
        beta=0.5,
        alpha=0.1,
    )
    (
        assert_close(gw, T(-0.25)),
        assert_close(gu, T(0.25)),
    )  # -1 + 1 = 0: half of the steepest


def test_eq_rdpo_limit():
    *x, nw, nu = random_inputs(losses.rdpo)
    for got in (
        losses.rdpo(*x, nw, nw, beta=0.5, alpha=2.0),
        losses.rdpo(*x, nw, nu, beta=0.5, alpha=0),
    ):
        assert_close(got, losses.dpo(*x, beta=0.5))


def test_eq_rdpo_invariance():
    """Only differences count: of log-ratios and of lengths, where a token is worth alpha / beta nats."""
    w, u, rw, ru, nw, nu = random_inputs(losses.rdpo)
    kw = {"beta": 0.5, "alpha": 0.1}
    value = losses.rdpo(w, u, rw, ru, nw, nu, **kw)
    assert_close(losses.rdpo(w - 1, u - 1, rw - 2, ru - 2, nw + 4, nu + 4, **kw), value)
    assert_close(losses.rdpo(w - 1, u, rw, ru, nw + 5, nu, **kw), value)


# ---- alphadpo --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "mean, std, ref_gap, margin",
    [
        (-1.0, 2.0, 0.0, 0.75),  # h = 1, z = 1: 0.5 + 0.25
        (0.0, 4.0, -1.0, 0.625),  # h = 1 - (-1) = 2, z = 1/2
        (3.0, 1.0, 0.0, 0.0),  # z = -2
    ],
)
def test_eq_alphadpo_closed_form(mean, std, ref_gap, margin):
    """d = 1 and beta (1 - margin) = log 3 leaves 3/4."""
    x = T(-2.0), T(-3.0), T(-4.0 + ref_gap), T(-4.0), T(mean), T(std)
    assert_close(
        losses.alphadpo(*x, beta=log(3) / (1 - margin), gamma0=0.5, alpha=0.25),
        T(log(4 / 3)),
    )


def test_eq_alphadpo_gradient():
    """That of SimPO with the margin worked out beforehand: none through it, to references or to moments."""
    w, u, rw, ru, mean, std = x = random_inputs(losses.alphadpo)
    kw = {"beta": 2.0, "gamma0": 0.4, "alpha": 0.3}
    gamma = 2.0 * (0.4 + 0.3 * ((w - u - rw + ru) - mean) / std)
    got = grads(losses.alphadpo, *x, **kw)
    for ours, theirs in zip(
        got, grads(losses.simpo, w, u, beta=2.0, gamma=gamma), strict=False
    ):
        assert_close(ours, theirs)
    assert got[2:] == (None,) * 4
    kw = {"beta": 3.0, "gamma0": 0.5, "alpha": 1}
    gw, gu, *_ = grads(
        losses.alphadpo, T(-2.0), T(-3.0), T(-4.0), T(-4.0), T(0.0), T(2.0), **kw
    )
    assert_close(gw, T(-1.5)), assert_close(gu, T(1.5))  # d = 1 = margin: -beta / 2


def test_eq_alphadpo_limit():
    """alpha = 0, or a pair that stands at the mean: SimPO with gamma = beta * gamma0."""
    w, u, rw, ru, mean, std = random_inputs(losses.alphadpo)
    simpo = losses.simpo(w, u, beta=2.0, gamma=0.8)
    assert_close(
        losses.alphadpo(w, u, rw, ru, mean, std, beta=2.0, gamma0=0.4, alpha=0), simpo
    )
    assert_close(
        losses.alphadpo(
            w, u, rw, ru, w - u - rw + ru, std, beta=2.0, gamma0=0.4, alpha=0.3
        ),
        simpo,
    )


def test_eq_alphadpo_invariance():
    """A common shift changes nothing; h counts against its moments only; the margin grows with the pair's standing."""
    w, u, rw, ru, mean, std = random_inputs(losses.alphadpo)
    value = losses.alphadpo(w, u, rw, ru, mean, std)
    assert_close(losses.alphadpo(w - 1, u - 1, rw - 2, ru - 2, mean, std), value)
    assert_close(losses.alphadpo(w, u, rw - 1, ru, mean + 1, std), value)
    assert (losses.alphadpo(w, u, rw - 1, ru, mean, std) > value).all()


# ---- cpo -------------------------------------------------------------------------------------------------------------


def test_eq_cpo_closed_form():
    """Gap log 3: log 4/3; and half of 8 nats over 4 tokens."""
    assert_close(
        losses.cpo(T(-8.0), T(-8 - log(3)), T(4.0), beta=1.0, alpha=0.5),
        T(log(4 / 3) + 1.0),
    )


def test_eq_cpo_gradient():
    gw, gu, _ = grads(losses.cpo, T(-6.0), T(-6.0), T(3.0), beta=0.4, alpha=1.5)
    assert_close(gw, T(-0.2 - 0.5)), assert_close(gu, T(0.2))  # -beta / 2 - alpha / 3


def test_eq_cpo_limit():
    """alpha = 0: DPO without a reference. beta -> 0: log 2 and supervised learning per token."""
    w, u, n = random_inputs(losses.cpo)
    assert_close(
        losses.cpo(w, u, n, beta=0.4, alpha=0), losses.dpo(w, u, 0 * w, 0 * u, beta=0.4)
    )
    assert_close(
        losses.cpo(w, u, n, beta=1e-12, alpha=2.0), log(2) + 2 * losses.sft(w / n)
    )


def test_eq_cpo_invariance():
    """A common shift moves the second term alone."""
    w, u, n = random_inputs(losses.cpo)
    got = losses.cpo(w - 2, u - 2, n, beta=0.4, alpha=1.5)
    assert_close(got, losses.cpo(w, u, n, beta=0.4, alpha=1.5) + 3 / n)


# ---- orpo ------------------------------------------------------------------------------------------------------------


def test_eq_orpo_closed_form():
    """p = 3/4 and 1/4: odds 3 and 1/3, their ratio 9, sigmoid(log 9) = 9/10."""
    assert_close(
        losses.orpo(T(log(3 / 4)), T(log(1 / 4)), beta=2.0),
        T(log(4 / 3) + 2 * log(10 / 9)),
    )


def test_eq_orpo_gradient():
    """-1 - beta (1 - 9/10) / (1 - 3/4) and beta (1 - 9/10) / (1 - 1/4), as log odds have slope 1 / (1 - p)."""
    gw, gu = grads(losses.orpo, T(log(3 / 4)), T(log(1 / 4)), beta=2.0)
    assert_close(gw, T(-1.8)), assert_close(gu, T(0.8 / 3))


def test_eq_orpo_limit():
    """Unlikely replies, whose odds are their probabilities: cpo per token, with the terms' weights exchanged."""
    w, u, one = T(-30.0, -31.0), T(-31.0, -30.5), T(1.0, 1.0)
    assert_close(
        losses.orpo(w, u, beta=0.3),
        0.3 * losses.cpo(w, u, one, beta=1.0, alpha=0) + losses.sft(w),
    )
    assert_close(losses.orpo(w / 9, u / 9, beta=1e-12), losses.sft(w / 9))


def test_eq_orpo_invariance():
    """Odds of what does not happen are the inverse: p_w, p_l and 1 - p_l, 1 - p_w have one odds ratio."""
    w, u = random_inputs(losses.orpo)
    not_u, not_w = torch.log1p(-u.exp()), torch.log1p(-w.exp())
    assert_close(
        losses.orpo(not_u, not_w, beta=0.7) + not_u, losses.orpo(w, u, beta=0.7) + w
    )


# ---- simper ----------------------------------------------------------------------------------------------------------


def test_eq_simper_closed_form():
    assert_close(
        losses.simper(T(log(1 / 2)), T(log(1 / 8))), T(-3 / 8)
    )  # inverse perplexities 1/2 and 1/8


def test_eq_simper_gradient():
    gw, gu = grads(losses.simper, T(log(1 / 2)), T(log(1 / 8)))
    assert_close(gw, T(-1 / 2)), assert_close(gu, T(1 / 8))


def test_eq_simper_limit():
    """Nearly certain replies: e^x = 1 + x, the plain gap."""
    assert_close(losses.simper(T(-1e-6), T(-3e-6)), T(-2e-6), atol=1e-11, rtol=0)


def test_eq_simper_invariance():
    """Odd under a swap; a common shift only scales it."""
    w, u = random_inputs(losses.simper)
    assert_close(losses.simper(u, w), -losses.simper(w, u))
    assert_close(losses.simper(w - 2, u - 2), exp(-2) * losses.simper(w, u))


# ---- alphapo ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "alpha, beta, gamma",
    [(1.0, 1.0, 2 - log(3)), (-1.0, 4 * (log(3) + 0.2), 0.2), (2.0, log(3) / 6, 0.0)],
)
def test_eq_alphapo_closed_form(alpha, beta, gamma):
    """p = 1/2 and 1/4 have r = 1 - 1/p = -1, -3 at alpha 1, p - 1 at -1, (1 - 1/p^2) / 2 at 2: gaps 2, 1/4, 6."""
    got = losses.alphapo(
        T(log(1 / 2)), T(log(1 / 4)), alpha=alpha, beta=beta, gamma=gamma
    )
    assert_close(got, T(log(4 / 3)))  # beta gap - gamma = log 3


def test_eq_alphapo_gradient():
    """beta gap = 2 = gamma: -beta / 2 times the slope of r, p^-alpha: 2 and 4."""
    gw, gu = grads(
        losses.alphapo, T(log(1 / 2)), T(log(1 / 4)), alpha=1.0, beta=1.0, gamma=2.0
    )
    assert_close(gw, T(-1.0)), assert_close(gu, T(2.0))


def test_eq_alphapo_limit():
    """alpha -> 0: SimPO with the same raw gamma. alpha = -1: a softplus of SimPER."""
    w, u = random_inputs(losses.alphapo)
    got = losses.alphapo(w, u, alpha=1e-7, beta=2.5, gamma=0.3)
    assert_close(got, losses.simpo(w, u, beta=2.5, gamma=0.3), atol=1e-5, rtol=0)
    want = torch.nn.functional.softplus(2.5 * losses.simper(w, u))
    assert_close(losses.alphapo(w, u, alpha=-1, beta=2.5, gamma=0), want)


def test_eq_alphapo_invariance():
    """A common shift by c is a larger beta, by e^(-alpha c); a swap changes the loss by beta gap."""
    w, u = random_inputs(losses.alphapo)
    kw = {"alpha": 0.5, "gamma": 0.3}
    assert_close(
        losses.alphapo(w - 1, u - 1, beta=2.0, **kw),
        losses.alphapo(w, u, beta=2 * exp(0.5), **kw),
    )
    gap = 2 * (torch.exp(-0.5 * u) - torch.exp(-0.5 * w))
    kw["gamma"] = 0
    assert_close(losses.alphapo(w, u, **kw) - losses.alphapo(u, w, **kw), -2.5 * gap)


def test_eq_alphapo_extremes_cut():
    """The reward goes on as defined down to 40 / alpha nats per token, which no reply reaches."""
    got = losses.alphapo(T(-0.1), T(-150.0), alpha=-0.25, beta=1.0, gamma=0.0)
    assert_close(got, T(log(1 + exp(4 * (exp(-37.5) - exp(-0.025))))))
    w, u = losses.alphapo(
        T(-150.0, -159.0), T(-0.1, -0.1), alpha=0.25, beta=1.0, gamma=0.0
    )
    assert_close(w, 4 * (torch.exp(T(37.5)) - torch.exp(T(0.025)))[0])
    assert_close(u, 4 * (torch.exp(T(39.75)) - torch.exp(T(0.025)))[0])


# ---- settings --------------------------------------------------------------------------------------------------------


def test_alphapo_without_bend_is_simpo_by_name():
    with pytest.raises(ValueError, match="alpha must not be 0.*simpo"):
        check("alphapo", {"alpha": 0})
