"""DPO's kin: KTO, R-DPO, alpha-DPO with a reference; CPO, ORPO, SimPER, AlphaPO without.

What holds of every loss (shapes, extremes, declared properties) is in `test_losses.py`.
"""

from math import exp, log

import pytest
import torch
import torch.nn.functional as F
from losses_help import T, grads, random_inputs
from torch.testing import assert_close

from mipo import losses
from mipo.losses.declaration import check

# ---- kto ----


@pytest.mark.parametrize(
    "desirable, undesirable, loss",
    [(1, 1, 3 / 8), (2, 1, 1 / 2), (0, 1, 1 / 4), (1, 0, 1 / 8)],
)
def test_eq_kto_closed_form(desirable, undesirable, loss):
    """z = 1 and beta 1: r - z = log 3 of the chosen reply leaves 1/4, r = z leaves 1/2.

    Each counts half, times its weight.
    """
    chosen, rejected = T(1 + log(3) - 5), T(1.0 - 7)
    weights = {"desirable_weight": desirable, "undesirable_weight": undesirable}
    got = losses.kto(chosen, rejected, T(-5.0), T(-7.0), T(1.0), beta=1.0, **weights)
    assert_close(got, T(loss))


@pytest.mark.parametrize("kl, z", [((-3.0, 5.0), 1.0), ((-3.0, 1.0), 0.0)])
def test_eq_kto_closed_form_of_z(kl, z):
    """z is the MEAN of kl over the batch, and no less than 0."""
    refs = T(-5.0, -5.0), T(-7.0, -7.0)
    chosen, rejected = refs[0] + z + log(3), refs[1] + z
    got = losses.kto(chosen, rejected, *refs, T(*kl), beta=1.0)
    assert_close(got, T(3 / 8, 3 / 8))


def test_eq_kto_gradient():
    """At r = z of both replies: beta / 4 each, halved and weighted; none through z."""
    weights = {"desirable_weight": 1.5, "undesirable_weight": 0.5}
    inputs = T(-3.0), T(-5.0), T(-5.0), T(-7.0), T(2.0)
    slopes = grads(losses.kto, *inputs, beta=0.4, **weights)
    assert_close(slopes[0], T(-0.05 * 1.5))
    assert_close(slopes[1], T(0.05 * 0.5))
    assert slopes[4] is None  # kl


def test_eq_kto_limit():
    """Small beta: 1/2 - beta h / 8 with the h of DPO; z drops out."""
    chosen, rejected, ref_chosen, ref_rejected, kl = random_inputs(losses.kto)
    logps = chosen, rejected, ref_chosen, ref_rejected
    h = (chosen - rejected) - (ref_chosen - ref_rejected)
    want = 0.5 - 1e-4 * h / 8
    for z in (kl, kl + 3):
        assert_close(losses.kto(*logps, z, beta=1e-4), want, atol=1e-10, rtol=0)


def test_eq_kto_invariance():
    """Only log-ratios count, and only against z; a swap gives 1 - loss."""
    chosen, rejected, ref_chosen, ref_rejected, kl = random_inputs(losses.kto)
    refs = ref_chosen, ref_rejected
    loss = losses.kto(chosen, rejected, *refs, kl)
    shifted = losses.kto(chosen - 1, rejected - 2, ref_chosen - 1, ref_rejected - 2, kl)
    assert_close(shifted, loss)
    assert_close(losses.kto(chosen + 1, rejected + 1, *refs, kl + 1), loss)

    swapped = losses.kto(rejected, chosen, ref_rejected, ref_chosen, kl)
    assert_close(loss + swapped, torch.ones_like(loss))  # sigmoid(x) + sigmoid(-x)


# ---- rdpo ----


@pytest.mark.parametrize(
    "tokens, loss", [((12, 2), log(4 / 3)), ((2, 12), log(4)), ((5, 5), log(2))]
)
def test_eq_rdpo_closed_form(tokens, loss):
    """beta h = 0, and 10 tokens at log(3) / 10 each.

    A LONGER winner is explained by its length, so little is left to learn.
    """
    lengths = [T(float(n)) for n in tokens]
    logps = T(-4.0), T(-6.0), T(-3.0), T(-5.0)
    got = losses.rdpo(*logps, *lengths, beta=0.5, alpha=log(3) / 10)
    assert_close(got, T(loss))


def test_eq_rdpo_closed_form_at_its_optimum():
    """pi ∝ ref exp((reward - alpha L) / beta) solves reward - alpha L - beta KL.

    There the loss is that of the rewards alone, -log sigmoid(their difference).
    """
    beta, alpha = 0.7, 0.2
    ref, reward, length = T(-2.0, -1.0, -3.0), T(0.3, 1.1, -0.4), T(7.0, 3.0, 11.0)
    logps = torch.log_softmax(ref + (reward - alpha * length) / beta, dim=0)
    chosen, rejected = [0, 1, 2], [1, 2, 0]
    got = losses.rdpo(
        logps[chosen],
        logps[rejected],
        ref[chosen],
        ref[rejected],
        length[chosen],
        length[rejected],
        beta=beta,
        alpha=alpha,
    )
    assert_close(got, -F.logsigmoid(reward[chosen] - reward[rejected]))


def test_eq_rdpo_gradient():
    """beta h = -1 and alpha times 10 tokens = 1 cancel: half of the steepest, beta."""
    inputs = T(-8.0), T(-6.0), T(-4.0), T(-4.0), T(14.0), T(4.0)
    slopes = grads(losses.rdpo, *inputs, beta=0.5, alpha=0.1)
    assert_close(slopes[0], T(-0.25))
    assert_close(slopes[1], T(0.25))


def test_eq_rdpo_limit():
    """Equal lengths, or tokens that cost nothing: DPO."""
    *logps, chosen_tokens, rejected_tokens = random_inputs(losses.rdpo)
    dpo = losses.dpo(*logps, beta=0.5)
    equal = losses.rdpo(*logps, chosen_tokens, chosen_tokens, beta=0.5, alpha=2.0)
    assert_close(equal, dpo)
    free = losses.rdpo(*logps, chosen_tokens, rejected_tokens, beta=0.5, alpha=0)
    assert_close(free, dpo)


def test_eq_rdpo_invariance():
    """Only differences count; a token is worth alpha / beta = 0.2 nats."""
    chosen, rejected, ref_chosen, ref_rejected, *lengths = random_inputs(losses.rdpo)
    chosen_tokens, rejected_tokens = lengths
    strength = {"beta": 0.5, "alpha": 0.1}
    refs = ref_chosen, ref_rejected
    loss = losses.rdpo(chosen, rejected, *refs, *lengths, **strength)

    logps = chosen - 1, rejected - 1, ref_chosen - 2, ref_rejected - 2
    longer = chosen_tokens + 4, rejected_tokens + 4
    assert_close(losses.rdpo(*logps, *longer, **strength), loss)
    five_more = chosen_tokens + 5, rejected_tokens
    assert_close(losses.rdpo(chosen - 1, rejected, *refs, *five_more, **strength), loss)


# ---- alphadpo ----


@pytest.mark.parametrize(
    "gap_mean, gap_std, ref_gap, margin",
    [
        (-1.0, 2.0, 0.0, 0.75),  # h = 1, z = 1: 0.5 + 0.25
        (0.0, 4.0, -1.0, 0.625),  # h = 1 - (-1) = 2, z = 1/2
        (3.0, 1.0, 0.0, 0.0),  # z = -2
    ],
)
def test_eq_alphadpo_closed_form(gap_mean, gap_std, ref_gap, margin):
    """A gap of 1 and beta (1 - margin) = log 3 leave 3/4."""
    inputs = T(-2.0), T(-3.0), T(-4.0 + ref_gap), T(-4.0), T(gap_mean), T(gap_std)
    beta = log(3) / (1 - margin)
    got = losses.alphadpo(*inputs, beta=beta, gamma0=0.5, alpha=0.25)
    assert_close(got, T(log(4 / 3)))


def test_eq_alphadpo_gradient():
    """Where the gap is 1 = margin: -beta / 2."""
    inputs = T(-2.0), T(-3.0), T(-4.0), T(-4.0), T(0.0), T(2.0)
    slopes = grads(losses.alphadpo, *inputs, beta=3.0, gamma0=0.5, alpha=1)
    assert_close(slopes[0], T(-1.5))
    assert_close(slopes[1], T(1.5))


def test_eq_alphadpo_gradient_does_not_see_the_margin():
    """Gradients are SimPO's with a margin worked out beforehand; no others."""
    chosen, rejected, ref_chosen, ref_rejected, gap_mean, gap_std = inputs = (
        random_inputs(losses.alphadpo)
    )
    h = (chosen - rejected) - (ref_chosen - ref_rejected)
    gamma = 2.0 * (0.4 + 0.3 * (h - gap_mean) / gap_std)
    simpo = grads(losses.simpo, chosen, rejected, beta=2.0, gamma=gamma)
    got = grads(losses.alphadpo, *inputs, beta=2.0, gamma0=0.4, alpha=0.3)
    assert_close(got[:2], simpo)
    assert got[2:] == (None,) * 4


def test_eq_alphadpo_limit():
    """alpha = 0, or a pair that stands at the mean: SimPO, gamma = beta * gamma0."""
    *logps, gap_mean, gap_std = random_inputs(losses.alphadpo)
    chosen, rejected, ref_chosen, ref_rejected = logps
    h = (chosen - rejected) - (ref_chosen - ref_rejected)
    simpo = losses.simpo(chosen, rejected, beta=2.0, gamma=0.8)
    settings = {"beta": 2.0, "gamma0": 0.4}
    assert_close(losses.alphadpo(*logps, gap_mean, gap_std, alpha=0, **settings), simpo)
    assert_close(losses.alphadpo(*logps, h, gap_std, alpha=0.3, **settings), simpo)


def test_eq_alphadpo_invariance():
    """A common shift cancels, h counts against its mean only."""
    *logps, gap_mean, gap_std = random_inputs(losses.alphadpo)
    chosen, rejected, ref_chosen, ref_rejected = logps
    loss = losses.alphadpo(*logps, gap_mean, gap_std)
    shifted = chosen - 1, rejected - 1, ref_chosen - 2, ref_rejected - 2
    assert_close(losses.alphadpo(*shifted, gap_mean, gap_std), loss)
    h_up = chosen, rejected, ref_chosen - 1, ref_rejected
    assert_close(losses.alphadpo(*h_up, gap_mean + 1, gap_std), loss)


def test_eq_alphadpo_property_margin_grows_with_the_standing():
    *logps, gap_mean, gap_std = random_inputs(losses.alphadpo)
    chosen, rejected, ref_chosen, ref_rejected = logps
    loss = losses.alphadpo(*logps, gap_mean, gap_std)
    h_up = chosen, rejected, ref_chosen - 1, ref_rejected
    assert (losses.alphadpo(*h_up, gap_mean, gap_std) > loss).all()


# ---- cpo ----


def test_eq_cpo_closed_form():
    """Gap log 3: log 4/3; and half of 8 nats over 4 tokens."""
    chosen, rejected = T(-8.0), T(-8 - log(3))
    got = losses.cpo(chosen, rejected, T(4.0), beta=1.0, alpha=0.5)
    assert_close(got, T(log(4 / 3) + 1.0))


def test_eq_cpo_gradient():
    """-beta / 2 at equal replies, and -alpha over 3 tokens at the chosen one."""
    slopes = grads(losses.cpo, T(-6.0), T(-6.0), T(3.0), beta=0.4, alpha=1.5)
    assert_close(slopes[0], T(-0.2 - 0.5))
    assert_close(slopes[1], T(0.2))


def test_eq_cpo_limit():
    """alpha = 0: DPO without a reference. beta -> 0: log 2 and SFT per token."""
    chosen, rejected, tokens = random_inputs(losses.cpo)
    zero = torch.zeros_like(chosen)
    without_sft = losses.cpo(chosen, rejected, tokens, beta=0.4, alpha=0)
    assert_close(without_sft, losses.dpo(chosen, rejected, zero, zero, beta=0.4))
    without_dpo = losses.cpo(chosen, rejected, tokens, beta=1e-12, alpha=2.0)
    assert_close(without_dpo, log(2) + 2 * losses.sft(chosen / tokens))


def test_eq_cpo_invariance():
    """A common shift moves the second term alone: 2 nats times 1.5 per token."""
    chosen, rejected, tokens = random_inputs(losses.cpo)
    strength = {"beta": 0.4, "alpha": 1.5}
    loss = losses.cpo(chosen, rejected, tokens, **strength)
    shifted = losses.cpo(chosen - 2, rejected - 2, tokens, **strength)
    assert_close(shifted, loss + 3 / tokens)


# ---- orpo ----


def test_eq_orpo_closed_form():
    """p = 3/4 and 1/4: odds 3 and 1/3, their ratio 9, sigmoid(log 9) = 9/10."""
    got = losses.orpo(T(log(3 / 4)), T(log(1 / 4)), beta=2.0)
    assert_close(got, T(log(4 / 3) + 2 * log(10 / 9)))


def test_eq_orpo_gradient():
    """Log odds have slope 1 / (1 - p), and 1 - sigmoid(log 9) = 1/10.

    So -1 - beta / 10 / (1 - 3/4) at the chosen reply, beta / 10 / (1 - 1/4) at the
    rejected one.
    """
    chosen, rejected = grads(losses.orpo, T(log(3 / 4)), T(log(1 / 4)), beta=2.0)
    assert_close(chosen, T(-1.8))
    assert_close(rejected, T(0.8 / 3))


def test_eq_orpo_limit():
    """Odds of unlikely replies are their probabilities: CPO, with weights exchanged."""
    chosen, rejected, one = T(-30.0, -31.0), T(-31.0, -30.5), T(1.0, 1.0)
    cpo = losses.cpo(chosen, rejected, one, beta=1.0, alpha=0)
    got = losses.orpo(chosen, rejected, beta=0.3)
    assert_close(got, 0.3 * cpo + losses.sft(chosen))

    without_odds = losses.orpo(chosen / 9, rejected / 9, beta=1e-12)
    assert_close(without_odds, losses.sft(chosen / 9))


def test_eq_orpo_invariance():
    """Odds of what does not happen are the inverse.

    So p and q have the odds ratio of 1 - q and 1 - p.
    """
    chosen, rejected = random_inputs(losses.orpo)
    not_chosen, not_rejected = torch.log1p(-chosen.exp()), torch.log1p(-rejected.exp())
    odds_term = losses.orpo(chosen, rejected, beta=0.7) + chosen
    turned = losses.orpo(not_rejected, not_chosen, beta=0.7) + not_rejected
    assert_close(turned, odds_term)


# ---- simper ----


def test_eq_simper_closed_form():
    """Inverse perplexities 1/2 and 1/8."""
    assert_close(losses.simper(T(log(1 / 2)), T(log(1 / 8))), T(-3 / 8))


def test_eq_simper_gradient():
    """The inverse perplexities themselves."""
    chosen, rejected = grads(losses.simper, T(log(1 / 2)), T(log(1 / 8)))
    assert_close(chosen, T(-1 / 2))
    assert_close(rejected, T(1 / 8))


def test_eq_simper_limit():
    """Nearly certain replies: e^x = 1 + x, the plain gap."""
    got = losses.simper(T(-1e-6), T(-3e-6))
    assert_close(got, T(-2e-6), atol=1e-11, rtol=0)


def test_eq_simper_invariance():
    """Odd under a swap; a common shift only scales it."""
    chosen, rejected = random_inputs(losses.simper)
    loss = losses.simper(chosen, rejected)
    assert_close(losses.simper(rejected, chosen), -loss)
    assert_close(losses.simper(chosen - 2, rejected - 2), exp(-2) * loss)


# ---- alphapo ----


@pytest.mark.parametrize(
    "alpha, gap",
    [
        (1.0, 2.0),  # r = 1 - 1/p: -1 and -3
        (-1.0, 1 / 4),  # r = p - 1: -1/2 and -3/4
        (2.0, 6.0),  # r = (1 - 1/p^2) / 2: -3/2 and -15/2
    ],
)
@pytest.mark.parametrize("gamma", [0.0, 0.2])
def test_eq_alphapo_closed_form(alpha, gap, gamma):
    """p = 1/2 and 1/4; beta gap - gamma = log 3 leaves 3/4."""
    beta = (log(3) + gamma) / gap
    chosen, rejected = T(log(1 / 2)), T(log(1 / 4))
    got = losses.alphapo(chosen, rejected, alpha=alpha, beta=beta, gamma=gamma)
    assert_close(got, T(log(4 / 3)))


def test_eq_alphapo_gradient():
    """beta gap = 2 = gamma: -beta / 2 times the slope of r, p^-alpha: 2 and 4."""
    settings = {"alpha": 1.0, "beta": 1.0, "gamma": 2.0}
    slopes = grads(losses.alphapo, T(log(1 / 2)), T(log(1 / 4)), **settings)
    assert_close(slopes[0], T(-1.0))
    assert_close(slopes[1], T(2.0))


def test_eq_alphapo_limit():
    """alpha -> 0: SimPO with the same raw gamma. alpha = -1: a softplus of SimPER."""
    chosen, rejected = random_inputs(losses.alphapo)
    nearly_straight = losses.alphapo(chosen, rejected, alpha=1e-7, beta=2.5, gamma=0.3)
    simpo = losses.simpo(chosen, rejected, beta=2.5, gamma=0.3)
    assert_close(nearly_straight, simpo, atol=1e-5, rtol=0)

    got = losses.alphapo(chosen, rejected, alpha=-1, beta=2.5, gamma=0)
    assert_close(got, F.softplus(2.5 * losses.simper(chosen, rejected)))


def test_eq_alphapo_invariance():
    """A shift by -1 is a beta larger by e^alpha; a swap costs beta times the gap."""
    chosen, rejected = random_inputs(losses.alphapo)
    shifted = losses.alphapo(chosen - 1, rejected - 1, alpha=0.5, beta=2.0, gamma=0.3)
    beta = 2.0 * exp(0.5)
    got = losses.alphapo(chosen, rejected, alpha=0.5, beta=beta, gamma=0.3)
    assert_close(shifted, got)

    settings = {"alpha": 0.5, "beta": 2.5, "gamma": 0}
    loss = losses.alphapo(chosen, rejected, **settings)
    swapped = losses.alphapo(rejected, chosen, **settings)
    gap = 2 * (torch.exp(-0.5 * rejected) - torch.exp(-0.5 * chosen))
    assert_close(loss - swapped, -2.5 * gap)


def test_eq_alphapo_extremes_cut():
    """The reward is cut below -40 / |alpha| nats, which no reply reaches."""
    settings = {"beta": 1.0, "gamma": 0.0}
    got = losses.alphapo(T(-0.1), T(-150.0), alpha=-0.25, **settings)
    assert_close(got, T(log(1 + exp(4 * (exp(-37.5) - exp(-0.025))))))

    unlikely, likely = T(-150.0, -159.0), T(-0.1, -0.1)
    got = losses.alphapo(unlikely, likely, alpha=0.25, **settings)
    assert_close(got, 4 * (torch.exp(T(37.5, 39.75)) - exp(0.025)))


def test_alphapo_without_bend_is_simpo_by_name():
    with pytest.raises(ValueError, match="alpha must not be 0.*simpo"):
        check("alphapo", {"alpha": 0})
