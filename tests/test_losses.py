"""Each loss: closed form, gradient, limit, invariance, shape error, extremes; and every property that it declares."""

import inspect
from math import exp, inf, log, nan

import pytest
import torch
from torch.testing import assert_close

from mipo import losses

KEYWORDS = {
    "dpo": {"beta": 0.5},
    "dpo_norm": {"beta": 5.0},
    "ipo": {"tau": 0.25},
    "simpo": {"beta": 2.0, "gamma": 0.5},
    "infonca": {"beta": 0.5},
    "sami": {},
    "context_infonce": {"temperature": 2.0},
    "sft": {},
}
SHAPES = {"candidates": (3, 4), "contexts": (3, 4), "matrix": (3, 4, 4)}
ALL = sorted(losses.LOSSES)


def T(*values):
    return torch.tensor(values, dtype=torch.float64)


def n_inputs(loss):
    return sum(p.kind is not p.KEYWORD_ONLY for p in inspect.signature(loss).parameters.values())


def random_inputs(loss, seed=0, grad=False):
    gen = torch.Generator().manual_seed(seed)
    shape = SHAPES.get(loss.takes, (3,))
    draws = [-3 * torch.rand(shape, generator=gen, dtype=torch.float64) for _ in range(n_inputs(loss))]
    return [x.requires_grad_(grad) for x in draws]


def inputs_at_gap(loss, h, n=3):
    """Log-probs in which what is right is ahead of everything else by h nats; the references are 0."""
    right, wrong = (T(h), T(0.0))
    if loss.takes == "chosen":
        return [right]
    if loss.takes == "matrix":
        return [h * torch.eye(n, dtype=torch.float64)[None]]
    if loss.takes in ("candidates", "contexts"):
        first = torch.cat([right, wrong.expand(n - 1)])[None]
        return [first, torch.zeros_like(first)][: n_inputs(loss)]
    return [right, wrong, T(0.0), T(0.0)][: n_inputs(loss)]


def test_every_loss_is_covered_here():
    assert set(KEYWORDS) == set(losses.LOSSES)


# ---- what every loss declares ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_declared_limits_are_reached(name):
    loss, kw = losses.get(name), KEYWORDS[name]
    assert loss.limits
    for h, value in loss.limits:
        n = 2 if loss.takes == "pair" else 3
        got = loss(*inputs_at_gap(loss, h), **kw)
        assert_close(got, torch.full_like(got, value(h, n, **kw)), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ALL)
def test_declared_bounds_hold_and_are_approached(name):
    loss, kw = losses.get(name), KEYWORDS[name]
    low, high = loss.bounds
    seen = torch.cat([loss(*(10**s * x for x in random_inputs(loss, s)), **kw) for s in range(4)])
    assert seen.min() >= low and seen.max() <= high
    best = 1 / (2 * kw["tau"]) if name == "ipo" else 0.0 if name == "sft" else losses.FAR
    assert abs(loss(*inputs_at_gap(loss, best), **kw).min() - low) < 1e-9  # the lower bound is tight


@pytest.mark.parametrize("name", ALL)
def test_declared_needs_match_the_arguments(name):
    loss = losses.get(name)
    args = [p.name for p in inspect.signature(loss).parameters.values() if p.kind is not p.KEYWORD_ONLY]
    assert ("reference" in loss.needs) == any(a.startswith("ref_") for a in args)
    assert ("cross" in loss.needs) == (loss.takes in ("contexts", "matrix"))
    assert loss.needs <= {"reference", "cross"}
    word = "MEANS" if loss.logps == "mean" else "SUMMED"
    assert loss.logps in ("sum", "mean") and word in loss.__doc__  # the docstring says the same


@pytest.mark.parametrize("name", ALL)
def test_shape_is_one_value_per_row(name):
    loss = losses.get(name)
    assert loss(*random_inputs(loss), **KEYWORDS[name]).shape == (3,)


# ---- the kinds that are the same for all -----------------------------------------------------------------------------


def _gradient(name):
    loss, kw = losses.get(name), KEYWORDS[name]
    assert torch.autograd.gradcheck(lambda *x: loss(*x, **kw), random_inputs(loss, grad=True))


def _invariance_rows(name):
    """Rows do not know of each other: a permuted batch gives the permuted losses."""
    loss, kw = losses.get(name), KEYWORDS[name]
    x, order = random_inputs(loss), [2, 0, 1]
    assert_close(loss(*(t[order] for t in x), **kw), loss(*x, **kw)[order])


def _shape_error(name):
    loss, kw = losses.get(name), KEYWORDS[name]
    x = random_inputs(loss)
    for bad in (x[0][:, None], x[0][0]):  # one dimension too many, one too few
        with pytest.raises(ValueError, match="shape"):
            loss(bad, *x[1:], **kw)
    for i in range(1, len(x)):  # (1,) against (3,) would broadcast silently
        with pytest.raises(ValueError, match="shape"):
            loss(*x[:i], x[i][:1], *x[i + 1 :], **kw)


def _extremes(name):
    loss, kw = losses.get(name), KEYWORDS[name]
    for h in (-1e4, 1e4):
        x = [t.float().requires_grad_() for t in inputs_at_gap(loss, h)]
        value = loss(*x, **kw)
        assert torch.isfinite(value).all()
        assert all(torch.isfinite(g).all() for g in torch.autograd.grad(value.sum(), x))


def test_eq_dpo_extremes():
    _extremes("dpo")


def test_eq_dpo_norm_extremes():
    _extremes("dpo_norm")


def test_eq_ipo_extremes():
    _extremes("ipo")


def test_eq_simpo_extremes():
    _extremes("simpo")


def test_eq_infonca_extremes():
    _extremes("infonca")


def test_eq_sami_extremes():
    _extremes("sami")


def test_eq_context_infonce_extremes():
    _extremes("context_infonce")


def test_eq_sft_extremes():
    _extremes("sft")


def test_eq_dpo_shape_error():
    _shape_error("dpo")


def test_eq_dpo_norm_shape_error():
    _shape_error("dpo_norm")


def test_eq_ipo_shape_error():
    _shape_error("ipo")


def test_eq_simpo_shape_error():
    _shape_error("simpo")


def test_eq_infonca_shape_error():
    _shape_error("infonca")
    with pytest.raises(ValueError, match="at least 2"):
        losses.infonca(torch.zeros(3, 1), torch.zeros(3, 1), beta=1.0)


def test_eq_sami_shape_error():
    _shape_error("sami")
    with pytest.raises(ValueError, match="square"):
        losses.sami(torch.zeros(3, 2, 4))
    with pytest.raises(ValueError, match="at least 2"):
        losses.sami(torch.zeros(3, 1, 1))


def test_eq_context_infonce_shape_error():
    _shape_error("context_infonce")
    with pytest.raises(ValueError, match="at least 2"):
        losses.context_infonce(torch.zeros(3, 1))


def test_eq_sft_shape_error():
    _shape_error("sft")


# ---- dpo -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("h, value", [(0, log(2)), (log(3), log(4 / 3)), (-log(3), log(4))])
def test_eq_dpo_closed_form(h, value):  # sigmoid(log 3) = 3/4
    assert_close(losses.dpo(T(h), T(0.0), T(0.0), T(0.0), beta=1.0), T(value))
    assert_close(losses.dpo(T(-5.0), T(-7.0), T(-4.0), T(2 * h - 6.0), beta=0.5), T(value))  # gap 2h


def test_eq_dpo_gradient():
    w, u = T(-3.0).requires_grad_(), T(-5.0).requires_grad_()
    value = losses.dpo(w, u, T(-4.0), T(-4.0), beta=0.5)  # beta h = 1; d/dw = -beta sigmoid(-1), d/du the opposite
    gw, gl = torch.autograd.grad(value, (w, u))
    assert_close(gw, T(-0.5 / (1 + exp(1))))
    assert_close(gl, -gw)
    _gradient("dpo")


def test_eq_dpo_limit():
    """Small beta: log 2 - beta h / 2, the first-order term."""
    h = 3.0
    got = losses.dpo(T(h), T(0.0), T(0.0), T(0.0), beta=1e-4)
    assert_close(got, T(log(2) - 1e-4 * h / 2), atol=1e-7, rtol=0)


def test_eq_dpo_invariance():
    _invariance_rows("dpo")
    w, u, rw, rl = random_inputs(losses.dpo)
    assert_close(losses.dpo(w + 1, u + 1, rw, rl, beta=2.0), losses.dpo(w, u, rw, rl, beta=2.0))  # only gaps count
    assert_close(losses.dpo(w + 1, u, rw + 1, rl, beta=2.0), losses.dpo(w, u, rw, rl, beta=2.0))
    swapped = losses.dpo(u, w, rl, rw, beta=2.0)  # loss(h) - loss(-h) = -beta h
    assert_close(losses.dpo(w, u, rw, rl, beta=2.0) - swapped, -2.0 * ((w - u) - (rw - rl)))


# ---- dpo_norm --------------------------------------------------------------------------------------------------------


def test_eq_dpo_norm_closed_form():
    """Replies of 4 and 2 tokens with log-ratios 8 and 2 nats: means 2 and 1, so sigmoid(beta)."""
    got = losses.dpo_norm(T(-8.0) / 4, T(-2.0) / 2, T(-16.0) / 4, T(-4.0) / 2, beta=log(3))
    assert_close(got, T(log(4 / 3)))


def test_eq_dpo_norm_gradient():
    w = T(-2.0).requires_grad_()
    (g,) = torch.autograd.grad(losses.dpo_norm(w, T(-2.0), T(-1.0), T(-1.0), beta=10.0), w)
    assert_close(g, T(-5.0))  # at h = 0: -beta / 2
    _gradient("dpo_norm")


def test_eq_dpo_norm_limit():
    """Replies of one token each: mean and sum are one, so DPO."""
    x = random_inputs(losses.dpo)
    assert_close(losses.dpo_norm(*x, beta=0.7), losses.dpo(*x, beta=0.7))


def test_eq_dpo_norm_invariance():
    """Two replies written twice over (log-probs and lengths doubled) keep their loss, unlike under sums."""
    _invariance_rows("dpo_norm")
    summed, tokens = [T(-6.0, -9.0), T(-4.0, -3.0), T(-5.0, -8.0), T(-7.0, -2.0)], T(3.0, 2.0)
    once = losses.dpo_norm(*(s / tokens for s in summed), beta=2.0)
    assert_close(losses.dpo_norm(*(2 * s / (2 * tokens) for s in summed), beta=2.0), once)
    assert not torch.allclose(losses.dpo(*(2 * s for s in summed), beta=2.0), losses.dpo(*summed, beta=2.0))


# ---- ipo -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("h, tau, value", [(0.0, 0.5, 1.0), (1.0, 0.5, 0.0), (3.0, 0.5, 4.0), (-1.0, 0.1, 36.0)])
def test_eq_ipo_closed_form(h, tau, value):  # (h - 1/(2 tau))^2 by hand
    assert_close(losses.ipo(T(h - 2.0), T(-3.0), T(-4.0), T(-5.0), tau=tau), T(value))


def test_eq_ipo_gradient():
    w, u = T(-1.0).requires_grad_(), T(-2.0).requires_grad_()
    gw, gl = torch.autograd.grad(losses.ipo(w, u, T(0.0), T(0.0), tau=0.1), (w, u))
    assert_close(gw, T(-8.0))  # 2 (1 - 5)
    assert_close(gl, T(8.0))
    _gradient("ipo")


def test_eq_ipo_limit():
    """Large tau: the target vanishes, h^2 is left."""
    w, u, rw, rl = random_inputs(losses.ipo)
    assert_close(losses.ipo(w, u, rw, rl, tau=1e9), ((w - u) - (rw - rl)) ** 2, atol=1e-7, rtol=0)


def test_eq_ipo_invariance():
    _invariance_rows("ipo")
    w, u, rw, rl = random_inputs(losses.ipo)
    assert_close(losses.ipo(w + 1, u + 1, rw + 2, rl + 2, tau=0.3), losses.ipo(w, u, rw, rl, tau=0.3))
    below, above = losses.ipo(T(4.5, 5.5), T(0.0, 0.0), T(0.0, 0.0), T(0.0, 0.0), tau=0.1)
    assert_close(below, above)  # symmetric about 1 / (2 tau) = 5


# ---- simpo -----------------------------------------------------------------------------------------------------------


def test_eq_simpo_closed_form():
    """beta 2, gap log 3, gamma log 3: sigmoid(2 log 3 - log 3) = 3/4."""
    assert_close(losses.simpo(T(log(3) - 1), T(-1.0), beta=2.0, gamma=log(3)), T(log(4 / 3)))
    assert_close(losses.simpo(T(-1.0), T(-1.0), beta=2.0, gamma=log(3)), T(log(4)))


def test_eq_simpo_gradient():
    w, u = T(-1.0).requires_grad_(), T(-1.5).requires_grad_()
    gw, gl = torch.autograd.grad(losses.simpo(w, u, beta=2.0, gamma=1.0), (w, u))
    assert_close(gw, T(-1.0))  # beta h = gamma: -beta / 2
    assert_close(gl, T(1.0))
    _gradient("simpo")


def test_eq_simpo_limit():
    """gamma = 0 is DPO without a reference."""
    w, u = random_inputs(losses.simpo)
    zero = torch.zeros_like(w)
    assert_close(losses.simpo(w, u, beta=1.5, gamma=0.0), losses.dpo(w, u, zero, zero, beta=1.5))


def test_eq_simpo_invariance():
    _invariance_rows("simpo")
    w, u = random_inputs(losses.simpo)
    assert_close(losses.simpo(w + 1, u + 1, beta=2.0, gamma=0.5), losses.simpo(w, u, beta=2.0, gamma=0.5))
    assert_close(losses.simpo(w + 0.25, u, beta=2.0, gamma=0.5), losses.simpo(w, u, beta=2.0, gamma=0.0))  # RAW gamma


# ---- infonca ---------------------------------------------------------------------------------------------------------


def test_eq_infonca_closed_form():
    """Weights 2 : 1 : 1 after the reference is taken off: 1/2."""
    got = losses.infonca(T(log(2) - 3, -4.0, -5.0)[None], T(-3.0, -4.0, -5.0)[None], beta=1.0)
    assert_close(got, T(log(2)))


def test_eq_infonca_gradient():
    x = torch.zeros(1, 4, dtype=torch.float64, requires_grad=True)
    (g,) = torch.autograd.grad(losses.infonca(x, torch.zeros(1, 4, dtype=torch.float64), beta=2.0).sum(), x)
    assert_close(g, T(-1.5, 0.5, 0.5, 0.5)[None])  # beta (softmax - one-hot)
    _gradient("infonca")


def test_eq_infonca_limit():
    """N = 2 is DPO."""
    w, u, rw, rl = random_inputs(losses.dpo)
    got = losses.infonca(torch.stack([w, u], 1), torch.stack([rw, rl], 1), beta=0.7)
    assert_close(got, losses.dpo(w, u, rw, rl, beta=0.7))


def test_eq_infonca_invariance():
    _invariance_rows("infonca")
    x, ref = random_inputs(losses.infonca)
    assert_close(losses.infonca(x[:, [0, 3, 1, 2]], ref[:, [0, 3, 1, 2]], beta=2.0), losses.infonca(x, ref, beta=2.0))
    assert_close(losses.infonca(x + 5, ref - 5, beta=2.0), losses.infonca(x, ref, beta=2.0))


# ---- sami ------------------------------------------------------------------------------------------------------------


def test_eq_sami_closed_form():
    """Rows [2 1; 1 1] as odds: row losses log 3/2, log 2; columns the same; mean of rows and columns (log 3) / 2."""
    assert_close(losses.sami(T(log(2), 0.0, 0.0, 0.0).reshape(1, 2, 2)), T(log(3) / 2))


def test_eq_sami_closed_form_rows_and_columns_differ():
    """Odds [1 3; 1 1]: rows log 4 and log 2, columns log 2 and log 4: a mean of (log 8) / 2."""
    assert_close(losses.sami(T(0.0, log(3), 0.0, 0.0).reshape(1, 2, 2)), T(log(8) / 2))
    x = T(0.0, log(3), 0.0, log(2)).reshape(1, 2, 2)  # odds [1 3; 1 2]: rows 4, 3/2; columns 2, 5/2
    assert_close(losses.sami(x), T((log(4) + log(3 / 2) + log(2) + log(5 / 2)) / 4))


def test_eq_sami_gradient():
    x = torch.zeros(1, 2, 2, dtype=torch.float64, requires_grad=True)
    (g,) = torch.autograd.grad(losses.sami(x).sum(), x)
    assert_close(g, T(-0.25, 0.25, 0.25, -0.25).reshape(1, 2, 2))  # (softmax - one-hot) / N, rows and columns averaged
    _gradient("sami")


def test_eq_sami_limit():
    """With columns that carry nothing to choose, it is half log N plus half the row cross-entropy of each prompt."""
    x = T(2.0, 0.0).repeat(2, 1)[None]  # both prompts rank the replies alike: columns are uniform
    rows = torch.nn.functional.cross_entropy(x[0], torch.tensor([0, 1]))
    assert_close(losses.sami(x), (rows / 2 + log(2) / 2)[None])


def test_eq_sami_invariance():
    _invariance_rows("sami")
    (x,) = random_inputs(losses.sami)
    order = [2, 0, 3, 1]
    assert_close(losses.sami(x[:, order][:, :, order]), losses.sami(x))  # pairs renamed
    assert_close(losses.sami(x.transpose(1, 2)), losses.sami(x))  # prompts and replies exchanged
    assert_close(losses.sami(x + 5), losses.sami(x))


# ---- context_infonce -------------------------------------------------------------------------------------------------


def test_eq_context_infonce_closed_form():
    """Likelihood 2 : 1 : 1 under three contexts: 1/2; at temperature 100 a gap of 100 log 3 gives 3/4."""
    assert_close(losses.context_infonce(T(log(2), 0.0, 0.0)[None]), T(log(2)))
    assert_close(losses.context_infonce(T(-50.0, -50 - 100 * log(3))[None], temperature=100.0), T(log(4 / 3)))


def test_eq_context_infonce_gradient():
    x = torch.zeros(1, 4, dtype=torch.float64, requires_grad=True)
    (g,) = torch.autograd.grad(losses.context_infonce(x, temperature=0.5).sum(), x)
    assert_close(g, T(-1.5, 0.5, 0.5, 0.5)[None])
    _gradient("context_infonce")


def test_eq_context_infonce_limit():
    """It is InfoNCA with beta = 1 / temperature and a reference that does not care."""
    (x,) = random_inputs(losses.context_infonce)
    assert_close(losses.context_infonce(x, temperature=4.0), losses.infonca(x, torch.zeros_like(x), beta=0.25))


def test_eq_context_infonce_invariance():
    _invariance_rows("context_infonce")
    (x,) = random_inputs(losses.context_infonce)
    assert_close(losses.context_infonce(x[:, [0, 3, 2, 1]]), losses.context_infonce(x))
    assert_close(losses.context_infonce(x - 7), losses.context_infonce(x))


# ---- sft -------------------------------------------------------------------------------------------------------------


def test_eq_sft_closed_form():
    assert_close(losses.sft(T(-3.5, 0.0)), T(3.5, 0.0))


def test_eq_sft_gradient():
    x = T(-3.0, -2.0).requires_grad_()
    (g,) = torch.autograd.grad(losses.sft(x).sum(), x)
    assert_close(g, T(-1.0, -1.0))
    _gradient("sft")


def test_eq_sft_limit():
    """Averaged over samples of p it is the cross-entropy, whose least value is the entropy: here log 2."""
    assert_close(losses.sft(T(log(0.5), log(0.5))).mean(), T(log(2))[0])


def test_eq_sft_invariance():
    _invariance_rows("sft")


# ---- settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0, -1.0, nan, inf, "0.1", None, True])
@pytest.mark.parametrize(
    "name, key",
    [("dpo", "beta"), ("dpo_norm", "beta"), ("ipo", "tau"), ("simpo", "beta"), ("infonca", "beta"),
     ("context_infonce", "temperature")],
)  # fmt: skip
def test_a_setting_that_must_be_positive_is_named(name, key, value):
    with pytest.raises(ValueError, match=key):
        losses.check(name, {**KEYWORDS[name], key: value})


def test_gamma_must_be_a_number():
    assert losses.check("simpo", {"beta": 1, "gamma": 0}) is losses.simpo
    with pytest.raises(ValueError, match="gamma"):
        losses.check("simpo", {"beta": 1.0, "gamma": nan})


def test_unknown_names_are_errors_that_list_the_known_ones():
    with pytest.raises(ValueError, match="unknown loss 'doo'.*dpo"):
        losses.check("doo", {})
    with pytest.raises(ValueError, match="no keyword 'betta'.*beta"):
        losses.check("dpo", {"betta": 0.1})
    with pytest.raises(ValueError, match="needs the keyword 'beta'"):
        losses.check("dpo", {})
    assert losses.check("context_infonce", {}) is losses.context_infonce  # a default is enough


def test_nan_goes_through_and_is_not_hidden():
    assert torch.isnan(losses.dpo(T(nan), T(0.0), T(0.0), T(0.0), beta=1.0)).all()


def test_a_new_loss_needs_only_its_own_lines():
    @losses.declare(takes="pair", logps="mean", limits=[(0.0, lambda h, n, margin: margin)])
    def hinge_for_test(chosen_logps, rejected_logps, *, margin=1.0):
        return torch.relu(margin - (chosen_logps - rejected_logps))

    try:
        assert losses.check("hinge_for_test", {}) is hinge_for_test
    finally:
        del losses.LOSSES["hinge_for_test"]
