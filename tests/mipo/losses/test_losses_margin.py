"""Losses with a margin per pair: RMiPO's with its plug-ins, gamma-PO's and AMaPO's.

What holds of every loss (shapes, extremes, declared properties) is in `test_losses.py`.
"""

from math import exp, inf, log

import pytest
import torch
import torch.nn.functional as F
from losses_help import ZERO, T, grads, random_inputs
from torch.testing import assert_close

from mipo import losses

# the delta_pmi at which RMiPO's margin is halfway from 1.6 to 0.3: 0.95
HALVED = T(log(2))
PLUG_INS = {"dpo_decay": "dpo", "ipo_decay": "ipo", "kto_decay": "kto"}


def many(n=200, seed=0):
    """Token-mean log-probs of n pairs, and delta_pmi of either sign."""
    generator = torch.Generator().manual_seed(seed)
    uniform = torch.rand(3, n, generator=generator, dtype=torch.float64)
    return -3 * uniform[0], -3 * uniform[1], 4 * uniform[2] - 2


# ---- the margin ----


def test_eq_gamma_decay_closed_form():
    """0.3 + 1.3 / 1, / 2 and / 4 at delta_pmi 0, log 2 and log 4; 1.6 below 0."""
    delta_pmi = T(-5.0, 0.0, log(2), log(4))
    assert_close(losses.gamma_decay(delta_pmi), T(1.6, 1.6, 0.95, 0.625))


def test_eq_gamma_decay_closed_form_of_its_scale():
    """The scale is the nats to one e-fold: 1 + 4 / 2 after 3 log 2 nats."""
    got = losses.gamma_decay(T(3 * log(2)), gamma_min=1.0, gamma_max=5.0, scale=3.0)
    assert_close(got, T(3.0))


def test_eq_gamma_decay_limit():
    far = T(-inf, -1e9, 1e9, inf)
    assert_close(losses.gamma_decay(far), T(1.6, 1.6, 0.3, 0.3))
    near = T(-1e9, 0.5)
    assert_close(losses.gamma_decay(near, scale=1e12), T(1.6, 1.6))  # too slow to see
    flat = losses.gamma_decay(far, gamma_min=0.7, gamma_max=0.7)
    assert_close(flat, torch.full_like(far, 0.7))


def test_eq_gamma_decay_property_falls_where_delta_pmi_is_positive():
    delta_pmi = torch.arange(-10, 31, dtype=torch.float64) / 10
    steps = losses.gamma_decay(delta_pmi).diff()
    assert (steps[:10] == 0).all()
    assert (steps[10:] < 0).all()


# ---- rmipo ----


def released(chosen, rejected, delta_pmi):
    """What the authors' trainer computes (github.com/liavonpenn/rmipo, d21db9b).

    In our words; beta is 2, and the margin goes from 1.6 to 0.3.
    """
    positive_part = torch.maximum(delta_pmi, torch.zeros_like(delta_pmi))
    gamma = (0.3 + 1.3 * torch.exp(-positive_part)).detach()
    return -F.logsigmoid(2.0 * ((chosen - rejected) - gamma))


def test_eq_rmipo_closed_form():
    """sigmoid(2 (h - 0.95)) = 3/4 at h = 0.95 + log(3) / 2."""
    low = T(-4.0)
    got = losses.rmipo(low + 0.95 + log(3) / 2, low, HALVED)
    assert_close(got, T(log(4 / 3)))
    below_zero = losses.rmipo(low + 1.6, low, T(-3.0))
    assert_close(below_zero, T(log(2)))


def test_eq_rmipo_closed_form_as_in_the_paper():
    """sigmoid(2 h - 0.95) = 3/4 at h = (0.95 + log 3) / 2."""
    low = T(-4.0)
    chosen = low + (0.95 + log(3)) / 2
    got = losses.rmipo(chosen, low, HALVED, convention="paper")
    assert_close(got, T(log(4 / 3)))


def test_eq_rmipo_reference():
    """Value and gradient of the released code."""
    inputs = many()
    assert_close(losses.rmipo(*inputs), released(*inputs), atol=1e-6, rtol=0)
    ours, theirs = grads(losses.rmipo, *inputs), grads(released, *inputs)
    assert_close(ours[:2], theirs[:2], atol=1e-6, rtol=0)


@pytest.mark.parametrize("convention, unit", [("code", 2.0), ("paper", 1.0)])
def test_eq_rmipo_gradient(convention, unit):
    """-beta sigmoid(unit * gamma - beta h) at the chosen reply; none by delta_pmi."""
    chosen, rejected, delta_pmi = many()
    gamma = 0.3 + 1.3 * torch.exp(-delta_pmi.clamp(min=0))
    slope = -2 * torch.sigmoid(unit * gamma - 2 * (chosen - rejected))
    got = grads(losses.rmipo, chosen, rejected, delta_pmi, convention=convention)
    assert_close(got[0], slope)
    assert_close(got[1], -slope)
    assert got[2] is None  # the margin is no function of the policy


@pytest.mark.parametrize("convention, unit", [("code", 3.0), ("paper", 1.0)])
def test_eq_rmipo_limit(convention, unit):
    """SimPO with its RAW gamma per pair; without decay, with one gamma for all."""
    chosen, rejected, delta_pmi = many()
    bounds = {"gamma_min": 0.2, "gamma_max": 0.9}

    def rmipo(delta_pmi, **settings):
        settings = {"beta": 3.0, "convention": convention, **bounds, **settings}
        return losses.rmipo(chosen, rejected, delta_pmi, **settings)

    def simpo(gamma):
        return losses.simpo(chosen, rejected, beta=3.0, gamma=unit * gamma)

    decayed = 0.2 + 0.7 * torch.exp(-delta_pmi.clamp(min=0) / 0.5)
    assert_close(rmipo(delta_pmi, scale=0.5), simpo(decayed))
    assert_close(rmipo(delta_pmi, scale=1e12), simpo(0.9))
    assert_close(rmipo(delta_pmi, gamma_min=0.9), simpo(0.9))
    assert_close(rmipo(torch.full_like(delta_pmi, inf)), simpo(0.2))
    assert_close(rmipo(torch.full_like(delta_pmi, -inf)), simpo(0.9))


def test_eq_rmipo_invariance():
    """Only the gap counts; a margin of 0.95 instead of 1.6 is worth 0.65 of it."""
    chosen, rejected, delta_pmi = many()
    loss = losses.rmipo(chosen, rejected, delta_pmi)
    assert_close(losses.rmipo(chosen - 1, rejected - 1, delta_pmi), loss)

    half = HALVED.expand(200)
    full_margin = losses.rmipo(chosen + 0.65, rejected, -half)
    assert_close(losses.rmipo(chosen, rejected, half), full_margin)


def test_eq_rmipo_property_asks_less_of_what_the_prompt_tells_apart():
    chosen, rejected, delta_pmi = many()
    loss = losses.rmipo(chosen, rejected, delta_pmi)
    relief = loss - losses.rmipo(chosen, rejected, delta_pmi + 1)
    assert (relief[delta_pmi > -1] > 0).all()
    assert (relief[delta_pmi <= -1] == 0).all()  # still below 0: the full margin


@pytest.mark.parametrize(
    "wrong",
    [
        {"gamma_min": 1.7},
        {"gamma_min": 0.5, "gamma_max": 0.4},
        {"gamma_max": inf},
        {"beta": 0.0},
        {"beta": -2.0},
        {"scale": 0.0},
        {"scale": -1.0},
        {"convention": "authors"},
    ],
)
def test_eq_rmipo_setting_error(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        losses.rmipo(*many(), **wrong)


# ---- its plug-ins: dpo_decay, ipo_decay, kto_decay ----


def test_eq_dpo_decay_closed_form():
    """Margin 0.95 without unit: beta h = 0.95 + log 3 leaves sigmoid(log 3) = 3/4."""
    h = (0.95 + log(3)) / 0.1
    got = losses.dpo_decay(T(h - 30), T(-10.0), T(-25.0), T(-5.0), HALVED)
    assert_close(got, T(log(4 / 3)))


def test_eq_ipo_decay_closed_form():
    """The target 1 / (2 * 0.5) = 1 moves up to 1.95."""
    h, zero = T(0.0, 0.95, 1.95, 2.95), T(0.0, 0.0, 0.0, 0.0)
    refs = zero - 2, zero - 1
    got = losses.ipo_decay(h - 5, zero - 4, *refs, HALVED.expand(4), tau=0.5)
    assert_close(got, T(1.95**2, 1.0, 0.0, 1.0))


def test_eq_kto_decay_closed_form():
    """z = 2, beta 0.1, and each side owes 0.475.

    beta (r - z) = 0.475 + log 3 of the chosen reply leaves 1/4, and beta (z - r) =
    0.475 of the rejected one leaves 1/2: half their sum is 3/8.
    """
    chosen_ratio = 2 + (0.475 + log(3)) / 0.1
    rejected_ratio = 2 - 0.475 / 0.1
    chosen, rejected = T(chosen_ratio - 30), T(rejected_ratio - 9)
    got = losses.kto_decay(chosen, rejected, T(-30.0), T(-9.0), T(2.0), HALVED)
    assert_close(got, T(3 / 8))


@pytest.mark.parametrize("delta_pmi", [-1.0, 0.5, 3.0])
def test_eq_decay_gradient(delta_pmi):
    """Where a pair just meets its margin; the opposite at the rejected reply.

    DPO: beta h = gamma, slope -beta / 2. IPO: h one below its target, slope -2. KTO:
    gamma / 2 on each side of z, slope -beta / 8.
    """
    gamma = 0.3 + 1.3 * exp(-max(delta_pmi, 0))
    refs, delta_pmi = (ZERO, ZERO), T(delta_pmi)
    of_dpo = grads(losses.dpo_decay, T(gamma / 0.1), ZERO, *refs, delta_pmi)
    assert_close(of_dpo[:2], (T(-0.05), T(0.05)))
    of_ipo = grads(losses.ipo_decay, T(5 + gamma - 1), ZERO, *refs, delta_pmi)
    assert_close(of_ipo[:2], (T(-2.0), T(2.0)))
    chosen, rejected, kl = T(2 + gamma / 0.2), T(2 - gamma / 0.2), T(2.0)
    of_kto = grads(losses.kto_decay, chosen, rejected, *refs, kl, delta_pmi)
    assert_close(of_kto[:2], (T(-0.0125), T(0.0125)))
    for gradients in (of_dpo, of_ipo, of_kto):
        assert gradients[-1] is None  # none by delta_pmi


@pytest.mark.parametrize("name, plain", PLUG_INS.items())
def test_eq_decay_limit(name, plain):
    """No margin: the loss it is plugged into. No decay: one gamma for every pair."""
    loss, base = losses.get(name), losses.get(plain)
    strength = {k: v for k, v in base.example.items() if not k.endswith("weight")}
    *inputs, delta_pmi = random_inputs(loss)
    without = loss(*inputs, delta_pmi, **strength, gamma_min=0, gamma_max=0)
    assert_close(without, base(*inputs, **strength))

    of_no_pmi = loss(*inputs, delta_pmi - 9, **strength, gamma_max=0.8)
    for flat in ({"gamma_min": 0.8}, {"gamma_min": 0.1, "scale": 1e12}):
        got = loss(*inputs, delta_pmi, **strength, gamma_max=0.8, **flat)
        assert_close(got, of_no_pmi)


@pytest.mark.parametrize("name", PLUG_INS)
def test_eq_decay_invariance(name):
    """Only log-ratios count; a larger delta_pmi asks for less, from 0 on."""
    loss = losses.get(name)
    chosen, rejected, ref_chosen, ref_rejected, *others = random_inputs(loss)
    *kl, delta_pmi = others
    value = loss(chosen, rejected, ref_chosen, ref_rejected, *others)
    shifted = loss(chosen - 2, rejected - 1, ref_chosen - 2, ref_rejected - 1, *others)
    assert_close(shifted, value)

    def at(delta_pmi):
        return loss(chosen, rejected, ref_chosen, ref_rejected, *kl, delta_pmi)

    assert_close(at(delta_pmi - 9), at(delta_pmi * 0))
    assert (at(delta_pmi + 2) < value).all()


# ---- gammapo ----


def gaps_of_64():
    """beta = 10 times the gap of 64 pairs."""
    chosen, rejected, _ = many(64)
    return 10 * (chosen - rejected)


def test_eq_gammapo_closed_form():
    """Gaps of 60 and -60: sigmoid(m - gap) is 0 and 1.

    So p is as 1 : exp(-gamma0 / tau) = 3 : 1, and the margins gamma0 2 p are 6 and 2.
    """
    tau = 4 / log(3)
    margin = losses.gammapo_margin(T(60.0, -60.0), gamma0=4.0, tau=tau)
    assert_close(margin, T(6.0, 2.0), atol=1e-4, rtol=0)
    chosen, rejected = T(-1.0, -7.0), T(-7.0, -1.0)
    got = losses.gammapo(chosen, rejected, beta=10.0, gamma0=4.0, tau=tau)
    assert_close(got, T(0.0, 62.0), atol=1e-4, rtol=0)


# the authors' runs, and one in which margins move far
each_setting = pytest.mark.parametrize(
    "gamma0, tau", [(4.0, 10.0), (5.0, 20.0), (3.0, 3.0), (0.375, 10.0), (4.0, 1.0)]
)


@each_setting
def test_eq_gammapo_closed_form_of_its_margin(gamma0, tau):
    """The margins solve p ∝ exp(-gamma0 / tau * sigmoid(m - gap)), m = gamma0 n p."""
    gap = gaps_of_64().requires_grad_()
    margin = losses.gammapo_margin(gap, gamma0=gamma0, tau=tau)
    assert not margin.requires_grad
    assert_close(margin.mean(), T(gamma0)[0])
    slope = torch.sigmoid(margin - gap.detach())
    p = torch.softmax(-gamma0 / tau * slope, dim=0)
    assert_close(margin, gamma0 * 64 * p, atol=1e-4, rtol=0)


@each_setting
def test_gammapo_gives_confident_pairs_more_margin(gamma0, tau):
    gap = gaps_of_64()
    margin = losses.gammapo_margin(gap, gamma0=gamma0, tau=tau)
    assert (margin[gap.argsort()].diff() > -1e-9).all()
    assert margin.max() > margin.min() + 1e-3


def test_gammapo_says_where_its_margins_do_not_settle():
    with pytest.raises(ValueError, match="tau=0.1; take a larger tau"):
        losses.gammapo_margin(gaps_of_64(), gamma0=4.0, tau=0.1)


def assert_held_fixed(loss, margin, chosen, rejected, beta):
    """Value and gradients are SimPO's with a margin worked out beforehand."""
    simpo = losses.simpo(chosen, rejected, beta=beta, gamma=margin)
    assert_close(loss(chosen, rejected), simpo)
    ours = grads(loss, chosen, rejected)
    assert_close(ours, grads(losses.simpo, chosen, rejected, beta=beta, gamma=margin))


def test_eq_gammapo_gradient():
    """Alone, a pair keeps gamma0: beta h = 10 * 0.4 = 4 = gamma0, slope -beta / 2."""
    chosen, rejected = grads(losses.gammapo, T(-1.0), T(-1.4))
    assert_close(chosen, T(-5.0))
    assert_close(rejected, T(5.0))


def test_eq_gammapo_gradient_does_not_see_the_margin():
    chosen, rejected, _ = many(8)
    settings = {"gamma0": 1.5, "tau": 5.0}
    margin = losses.gammapo_margin(3 * (chosen - rejected), **settings)

    def gammapo(chosen, rejected):
        return losses.gammapo(chosen, rejected, beta=3.0, **settings)

    assert_held_fixed(gammapo, margin, chosen, rejected, beta=3.0)


def test_eq_gammapo_limit():
    """Moving margins costs too much, or there is nowhere to move them: SimPO."""
    chosen, rejected, _ = many(8)

    def simpo(chosen, rejected):
        return losses.simpo(chosen, rejected, beta=10.0, gamma=4.0)

    dear = losses.gammapo(chosen, rejected, tau=1e9)
    assert_close(dear, simpo(chosen, rejected))
    alone = chosen[:1], rejected[:1]
    assert_close(losses.gammapo(*alone), simpo(*alone))
    equal_gaps = rejected + 0.3, rejected
    assert_close(losses.gammapo(*equal_gaps), simpo(*equal_gaps))


def test_eq_gammapo_invariance():
    """Only gaps count, and beta only by beta times the gap."""
    chosen, rejected, _ = many(8)
    settings = {"gamma0": 1.5, "tau": 5.0}
    loss = losses.gammapo(chosen, rejected, beta=3.0, **settings)
    shifted = losses.gammapo(chosen - 1, rejected - 1, beta=3.0, **settings)
    assert_close(shifted, loss)
    halved = losses.gammapo(chosen / 2, rejected / 2, beta=6.0, **settings)
    assert_close(halved, loss)


# ---- amapo ----


@pytest.mark.parametrize(
    "gaps, margins",
    [
        # mean 1, std 2: the last is one std below, z = 1, exp(z * mean)
        ((3.0, 1.0, -1.0), (0.0, 0.0, exp(1))),
        # mean -1
        ((-3.0, -1.0, 1.0), (exp(-1), 0.0, 0.0)),
        # mean 1, std sqrt(3)
        ((0.0, 3.0, 0.0), (exp(3**-0.5), 0.0, exp(3**-0.5))),
        # no spread, whatever the mean is rounded to
        ((2.0,), (0.0,)),
        ((0.1, 0.1, 0.1), (0.0, 0.0, 0.0)),
        ((0.7,) * 7, (0.0,) * 7),
    ],
)
def test_eq_amapo_closed_form(gaps, margins):
    """-log sigmoid(x) = log(1 + e^-x) at x = beta (h - margin)."""
    gap, margin = T(*gaps), T(*margins)
    assert_close(losses.amapo_margin(gap), margin)
    rejected = torch.full_like(gap, -5)
    got = losses.amapo(rejected + gap, rejected, beta=1.5)
    assert_close(got, torch.log1p(torch.exp(-1.5 * (gap - margin))))


def test_eq_amapo_gradient():
    """-sigmoid(margin - h) at beta 1, with margins 0, 0 and e as above."""
    chosen, rejected = T(-1.0, -3.0, -5.0), T(-4.0, -4.0, -4.0)
    slopes = grads(losses.amapo, chosen, rejected, beta=1.0)
    want = T(-1 / (1 + exp(3)), -1 / (1 + exp(1)), -1 / (1 + exp(-exp(1) - 1)))
    assert_close(slopes[0], want)


def test_eq_amapo_gradient_does_not_see_the_margin():
    chosen, rejected, _ = many(8)
    margin = losses.amapo_margin((chosen - rejected).requires_grad_())
    assert not margin.requires_grad

    def amapo(chosen, rejected):
        return losses.amapo(chosen, rejected, beta=1.5)

    assert_held_fixed(amapo, 1.5 * margin, chosen, rejected, beta=1.5)


@pytest.mark.parametrize("gap", [0.1, 0.3, 0.7])
def test_eq_amapo_limit(gap):
    """Pairs with equal gaps, or one alone: SimPO without a margin."""
    chosen, rejected, _ = many(7)
    for pairs in [(rejected + gap, rejected), (chosen[:1], rejected[:1])]:
        assert_close(losses.amapo(*pairs), losses.simpo(*pairs, beta=2.0, gamma=0.0))


def test_eq_amapo_invariance():
    """Only the gaps count."""
    chosen, rejected, _ = many(8)
    shifted = losses.amapo(chosen - 1, rejected - 1)
    assert_close(shifted, losses.amapo(chosen, rejected))


def test_eq_amapo_property_margins_grow_below_the_mean():
    """With a positive mean gap: the further a pair is behind, the larger its margin."""
    chosen, rejected, _ = many(8)
    gap = (chosen - rejected).sort().values
    gap = gap - gap.mean() + 0.5
    margin = losses.amapo_margin(gap)
    below = gap < gap.mean()
    assert (margin.diff() <= 0).all()
    assert (margin[below] > 1).all()
    assert (margin[~below] == 0).all()
