"""Losses with a margin per pair: RMiPO's (with its plug-ins into DPO, IPO and KTO), gamma-PO's and AMaPO's.

Shape errors, extremes and declared properties of all losses are in `test_losses.py`.
"""

from math import exp, inf, log

import pytest
import torch
import torch.nn.functional as F
from losses_help import T, grads, random_inputs
from torch.testing import assert_close

from mipo import losses

HALVED = T(
    log(2)
)  # the delta_pmi at which RMiPO's margin is halfway from 1.6 to 0.3: 0.95
PLUG_INS = {"dpo_decay": "dpo", "ipo_decay": "ipo", "kto_decay": "kto"}


def many(n=200, seed=0):
    """Token-mean log-probs of n pairs, and delta_pmi of either sign."""
    gen = torch.Generator().manual_seed(seed)
    w, u, s = torch.rand(3, n, generator=gen, dtype=torch.float64)
    return -3 * w, -3 * u, 4 * s - 2


# ---- the margin ------------------------------------------------------------------------------------------------------


def test_eq_gamma_decay_closed_form():
    """0.3 + 1.3 / 1, / 2, / 4 at delta_pmi 0, log 2, log 4; no more than 1.6 below 0."""
    assert_close(
        losses.gamma_decay(T(-5.0, 0.0, log(2), log(4))), T(1.6, 1.6, 0.95, 0.625)
    )
    got = losses.gamma_decay(
        T(3 * log(2)), gamma_min=1.0, gamma_max=5.0, scale=3.0
    )  # scale: nats to one e-fold
    assert_close(got, T(3.0))


def test_eq_gamma_decay_limit():
    x = T(-inf, -1e9, 0.5, 1e9, inf)
    assert_close(losses.gamma_decay(x)[[0, 1, 3, 4]], T(1.6, 1.6, 0.3, 0.3))
    assert_close(
        losses.gamma_decay(x[1:3], scale=1e12), T(1.6, 1.6)
    )  # so slow that nothing decays
    assert_close(
        losses.gamma_decay(x, gamma_min=0.7, gamma_max=0.7), torch.full_like(x, 0.7)
    )


def test_eq_gamma_decay_property_falls_where_delta_pmi_is_positive():
    steps = losses.gamma_decay(torch.arange(-10, 31, dtype=torch.float64) / 10).diff()
    assert (steps[:10] == 0).all() and (steps[10:] < 0).all()


# ---- rmipo -----------------------------------------------------------------------------------------------------------


def released(w, u, delta_pmi):
    """What the authors' trainer computes (github.com/liavonpenn/rmipo, d21db9b), in our words: beta 2, 0.3 to 1.6."""
    gamma = (
        0.3 + 1.3 * torch.exp(-torch.maximum(delta_pmi, torch.zeros_like(delta_pmi)))
    ).detach()
    return -F.logsigmoid(2.0 * ((w - u) - gamma))


def test_eq_rmipo_closed_form():
    """Margin 0.95: sigmoid(2 (h - 0.95)) = 3/4 at 0.95 + log(3)/2; sigmoid(2 h - 0.95) = 3/4 at (0.95 + log 3)/2."""
    low = T(-4.0)
    assert_close(losses.rmipo(low + 0.95 + log(3) / 2, low, HALVED), T(log(4 / 3)))
    assert_close(
        losses.rmipo(low + (0.95 + log(3)) / 2, low, HALVED, convention="paper"),
        T(log(4 / 3)),
    )
    assert_close(losses.rmipo(low + 1.6, low, T(-3.0)), T(log(2)))  # delta_pmi < 0: 1.6
    x = many()
    assert_close(losses.rmipo(*x), released(*x), atol=1e-6, rtol=0)


@pytest.mark.parametrize("convention, unit", [("code", 2.0), ("paper", 1.0)])
def test_eq_rmipo_gradient(
    convention, unit
):  # d/dw = -beta sigmoid(unit * gamma - beta h)
    *logps, delta_pmi = many()
    w, u, none = grads(losses.rmipo, *logps, delta_pmi, convention=convention)
    assert (
        none is None
    )  # the margin is no function of the policy, even where delta_pmi wants a gradient
    gamma = 0.3 + 1.3 * torch.exp(-delta_pmi.clamp(min=0))
    want = -2 * torch.sigmoid(unit * gamma - 2 * (logps[0] - logps[1]))
    assert_close(w, want), assert_close(u, -want)
    if convention == "code":
        for ours, theirs in zip(
            (w, u), grads(released, *logps, delta_pmi)[:2], strict=True
        ):
            assert_close(ours, theirs, atol=1e-6, rtol=0)


@pytest.mark.parametrize("convention", ["code", "paper"])
def test_eq_rmipo_limit(convention):
    """SimPO with its RAW gamma per pair; where the margin does not decay, with one gamma for all."""
    w, u, s = many()
    kw = {"beta": 3.0, "gamma_min": 0.2, "gamma_max": 0.9}

    def rmipo(delta_pmi=s, **more):
        return losses.rmipo(w, u, delta_pmi, **{**kw, **more}, convention=convention)

    def simpo(gamma):
        return losses.simpo(
            w, u, beta=3.0, gamma=3.0 * gamma if convention == "code" else gamma
        )

    assert_close(rmipo(scale=0.5), simpo(0.2 + 0.7 * torch.exp(-s.clamp(min=0) / 0.5)))
    assert_close(rmipo(scale=1e12), simpo(0.9))
    assert_close(rmipo(gamma_min=0.9), simpo(0.9))
    assert_close(rmipo(torch.full_like(s, inf)), simpo(0.2))
    assert_close(rmipo(torch.full_like(s, -inf)), simpo(0.9))


def test_eq_rmipo_invariance():
    w, u, s = many()
    assert_close(
        losses.rmipo(w - 1, u - 1, s), losses.rmipo(w, u, s)
    )  # only the gap counts
    half = HALVED.expand(200)
    assert_close(
        losses.rmipo(w, u, half), losses.rmipo(w + 0.65, u, -half)
    )  # margins 0.95 and 1.6
    more = losses.rmipo(w, u, s) - losses.rmipo(
        w, u, s + 1
    )  # tied to the prompt more strongly: less is asked
    assert (more[s > -1] > 0).all() and (more[s <= -1] == 0).all()


@pytest.mark.parametrize(
    "bad",
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
def test_eq_rmipo_setting_error(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        losses.rmipo(*many(), **bad)


# ---- its plug-ins: dpo_decay, ipo_decay, kto_decay -------------------------------------------------------------------


def test_eq_dpo_decay_closed_form():
    """Margin 0.95 without unit: beta h = 0.95 + log 3 leaves sigmoid(log 3) = 3/4."""
    h = (0.95 + log(3)) / 0.1
    assert_close(
        losses.dpo_decay(T(h - 30), T(-10.0), T(-25.0), T(-5.0), HALVED), T(log(4 / 3))
    )


def test_eq_ipo_decay_closed_form():
    """The target 1 / (2 * 0.5) = 1 moves up to 1.95: losses 1.95^2, 1, 0, 1 at gaps 0, 0.95, 1.95, 2.95."""
    h, zero = T(0.0, 0.95, 1.95, 2.95), torch.zeros(4, dtype=torch.float64)
    got = losses.ipo_decay(
        h - 5, zero - 4, zero - 2, zero - 1, HALVED.expand(4), tau=0.5
    )
    assert_close(got, T(1.95**2, 1.0, 0.0, 1.0))


def test_eq_kto_decay_closed_form():
    """z = 2. Each side owes 0.475: beta (r_w - z) = 0.475 + log 3 leaves 1/4, beta (z - r_l) = 0.475 leaves 1/2."""
    r_w, r_l = 2 + (0.475 + log(3)) / 0.1, 2 - 4.75
    assert_close(
        losses.kto_decay(T(r_w - 30), T(r_l - 9), T(-30.0), T(-9.0), T(2.0), HALVED),
        T(3 / 8),
    )


@pytest.mark.parametrize(
    "name, at_margin, slope",
    [  # where beta h = gamma (for kto: gamma / 2 on each side of z)
        ("dpo_decay", lambda g: (g / 0.1, 0), -0.05),
        ("ipo_decay", lambda g: (5 + g - 1, 0), -2.0),
        ("kto_decay", lambda g: (2 + g / 0.2, 2 - g / 0.2), -0.0125),
    ],
    ids=PLUG_INS,
)
def test_eq_decay_gradient(name, at_margin, slope):
    """Chosen: -beta/2 (DPO), -beta/8 (KTO), 2 (h - 5 - gamma) = -2 (IPO); the opposite at the rejected reply."""
    for s in (-1.0, 0.5, 3.0):
        r_w, r_l = map(float, at_margin(0.3 + 1.3 * exp(-max(s, 0))))
        kl = [T(2.0)] * (name == "kto_decay")
        gw, gu, *_, none = grads(
            losses.get(name), T(r_w), T(r_l), T(0.0), T(0.0), *kl, T(s)
        )
        assert_close(gw, T(slope)), assert_close(gu, T(-slope))
        assert none is None  # delta_pmi


@pytest.mark.parametrize("name, plain", PLUG_INS.items())
def test_eq_decay_limit(name, plain):
    """No margin: the loss it is plugged into. A margin that does not decay: gamma for every pair."""
    loss, base, kw = losses.get(name), losses.get(plain), losses.get(plain).example
    kw = {k: v for k, v in kw.items() if not k.endswith("weight")}
    *x, delta_pmi = random_inputs(loss)
    assert_close(loss(*x, delta_pmi, **kw, gamma_min=0, gamma_max=0), base(*x, **kw))
    for flat in ({"gamma_min": 0.8}, {"scale": 1e12}):
        assert_close(
            loss(*x, delta_pmi, **kw, gamma_max=0.8, **{"gamma_min": 0.1, **flat}),
            loss(*x, delta_pmi - 9, **kw, gamma_max=0.8),
        )


@pytest.mark.parametrize("name", PLUG_INS)
def test_eq_decay_invariance(name):
    """A common shift of a reply's log-prob and its reference changes nothing; a larger delta_pmi asks for less."""
    loss = losses.get(name)
    w, u, rw, ru, *kl, delta_pmi = random_inputs(loss)
    value = loss(w, u, rw, ru, *kl, delta_pmi)
    assert_close(loss(w - 2, u - 1, rw - 2, ru - 1, *kl, delta_pmi), value)
    assert_close(
        loss(w, u, rw, ru, *kl, delta_pmi - 9), loss(w, u, rw, ru, *kl, delta_pmi * 0)
    )
    assert (loss(w, u, rw, ru, *kl, delta_pmi + 2) < value).all()


# ---- gammapo ---------------------------------------------------------------------------------------------------------


def test_eq_gammapo_closed_form():
    """Gaps +-60: sigmoid(m - gap) is 0 and 1, so p is as 1 : exp(-gamma0 / tau) = 3 : 1 and gamma0 2 p = 6 and 2."""
    got = losses.gammapo(
        T(-1.0, -7.0), T(-7.0, -1.0), beta=10.0, gamma0=4.0, tau=4 / log(3)
    )
    margin = losses.gammapo_margin(T(60.0, -60.0), gamma0=4.0, tau=4 / log(3))
    assert_close(margin, T(6.0, 2.0), atol=1e-4, rtol=0)
    assert_close(got, T(0.0, 62.0), atol=1e-4, rtol=0)


# the authors' runs, and one in which margins move far
@pytest.mark.parametrize(
    "gamma0, tau", [(4.0, 10.0), (5.0, 20.0), (3.0, 3.0), (0.375, 10.0), (4.0, 1.0)]
)
def test_eq_gammapo_closed_form_of_its_margin(gamma0, tau):
    gap = 10 * (many(64)[0] - many(64)[1])
    margin = losses.gammapo_margin(gap.requires_grad_(), gamma0=gamma0, tau=tau)
    assert not margin.requires_grad
    assert_close(margin.mean(), T(gamma0)[0])
    p = torch.softmax(
        -gamma0 / tau * torch.sigmoid(margin - gap), dim=0
    )  # where the derivative is the same for all
    assert_close(margin, gamma0 * 64 * p.detach(), atol=1e-4, rtol=0)
    assert (
        margin[gap.argsort()].diff() > -1e-9
    ).all() and margin.max() > margin.min() + 1e-3  # confident: more


def test_gammapo_says_where_its_margins_do_not_settle():
    with pytest.raises(ValueError, match="tau=0.1; take a larger tau"):
        losses.gammapo_margin(10 * (many(64)[0] - many(64)[1]), gamma0=4.0, tau=0.1)


def _held(loss, margin, x, beta):
    """The loss and its gradients are those of SimPO with the margin worked out beforehand: gradients do not see it."""
    kw = {"beta": beta, "gamma": margin}
    assert_close(loss(*x), losses.simpo(*x, **kw))
    for ours, theirs in zip(
        grads(loss, *x), grads(losses.simpo, *x, **kw), strict=True
    ):
        assert_close(ours, theirs)


def test_eq_gammapo_gradient():
    w, u, _ = many(8)
    margin = losses.gammapo_margin(3 * (w - u), gamma0=1.5, tau=5.0)
    _held(
        lambda *x: losses.gammapo(*x, beta=3.0, gamma0=1.5, tau=5.0),
        margin,
        (w, u),
        beta=3.0,
    )
    gw, gu = grads(
        losses.gammapo, T(-1.0), T(-1.4)
    )  # alone it keeps gamma0: beta h = 10 * 0.4 = 4 = gamma0
    assert_close(gw, T(-5.0)), assert_close(gu, T(5.0))


def test_eq_gammapo_limit():
    """Moving margins costs too much, or there is nowhere to move them: SimPO."""
    w, u, _ = many(8)
    assert_close(
        losses.gammapo(w, u, tau=1e9), losses.simpo(w, u, beta=10.0, gamma=4.0)
    )
    assert_close(
        losses.gammapo(w[:1], u[:1]), losses.simpo(w[:1], u[:1], beta=10.0, gamma=4.0)
    )
    assert_close(
        losses.gammapo(u + 0.3, u), losses.simpo(u + 0.3, u, beta=10.0, gamma=4.0)
    )


def test_eq_gammapo_invariance():
    """Only the gaps count, and beta, gamma0 only as beta * gap and gamma0."""
    w, u, _ = many(8)
    kw = {"gamma0": 1.5, "tau": 5.0}
    assert_close(
        losses.gammapo(w - 1, u - 1, beta=3.0, **kw),
        losses.gammapo(w, u, beta=3.0, **kw),
    )
    assert_close(
        losses.gammapo(w / 2, u / 2, beta=6.0, **kw),
        losses.gammapo(w, u, beta=3.0, **kw),
    )


# ---- amapo -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "gaps, margins",
    [
        (
            (3.0, 1.0, -1.0),
            (0, 0, exp(1)),
        ),  # mean 1, std 2: z = 1 for the last, exp(z * mean)
        ((-3.0, -1.0, 1.0), (exp(-1), 0, 0)),  # mean -1
        ((0.0, 3.0, 0.0), (exp(3**-0.5), 0, exp(3**-0.5))),  # mean 1, std sqrt(3)
        ((2.0,), (0,)),
        ((0.1, 0.1, 0.1), (0, 0, 0)),
        ((0.7,) * 7, (0,) * 7),  # no spread, whatever the mean is rounded to
    ],
)
def test_eq_amapo_closed_form(gaps, margins):
    assert_close(losses.amapo_margin(T(*gaps)), T(*map(float, margins)))
    got = losses.amapo(T(*gaps) - 5, torch.full_like(T(*gaps), -5), beta=1.5)
    want = [
        max(-x, 0) + log(1 + exp(-abs(x)))
        for x in (1.5 * (h - m) for h, m in zip(gaps, margins, strict=True))
    ]
    assert_close(got, T(*want))


def test_eq_amapo_gradient():
    w, u, _ = many(8)
    _held(
        lambda *x: losses.amapo(*x, beta=1.5),
        1.5 * losses.amapo_margin(w - u),
        (w, u),
        beta=1.5,
    )
    assert not losses.amapo_margin((w - u).requires_grad_()).requires_grad
    gw, _ = grads(
        losses.amapo, T(3.0, 1.0, -1.0) - 4, T(-4.0, -4.0, -4.0), beta=1.0
    )  # -sigmoid(m - h)
    assert_close(
        gw, T(-1 / (1 + exp(3)), -1 / (1 + exp(1)), -1 / (1 + exp(-exp(1) - 1)))
    )


def test_eq_amapo_limit():
    """Pairs with equal gaps, or one alone: SimPO without a margin."""
    w, u, _ = many(7)
    for same in (0.1, 0.3, 0.7):
        assert_close(
            losses.amapo(u + same, u), losses.simpo(u + same, u, beta=2.0, gamma=0.0)
        )
    assert_close(
        losses.amapo(w[:1], u[:1]), losses.simpo(w[:1], u[:1], beta=2.0, gamma=0.0)
    )


def test_eq_amapo_invariance():
    """Only the gaps count. With a positive mean gap, the further a pair is behind, the larger its margin."""
    w, u, _ = many(8)
    assert_close(losses.amapo(w - 1, u - 1), losses.amapo(w, u))
    gap = (w - u - (w - u).mean() + 0.5).sort().values
    margin = losses.amapo_margin(gap)
    assert (
        (margin.diff() <= 0).all()
        and (margin > 0).equal(gap < gap.mean())
        and (margin[gap < gap.mean()] > 1).all()
    )
