"""Each loss: closed form, gradient, limit, invariance, shape error, extremes; and every property that it declares.

Here: what holds of all losses, and the losses of MIPO's comparison; `test_losses_margin.py` and `test_losses_kin.py`
have the others.
"""

import re
from math import exp, inf, log, nan
from pathlib import Path

import pytest
import torch
from losses_help import (
    ALL,
    NEEDED_FOR,
    NO_NUMBERS,
    T,
    inputs_at_gap,
    policy_logps,
    policy_names,
    random_inputs,
    settings,
)
from torch.testing import assert_close

from mipo import losses
from mipo.losses.declaration import FAR, check, declare, inputs_of


def test_every_loss_is_covered_here():
    files = Path(__file__).parent.glob("test_*.py")
    text = "".join(file.read_text() for file in files)
    written = set(re.findall(r"def test_eq_(\w+)\(", text))
    for name in ALL:  # shape error and extremes are the same for all, below; plug-ins share tests called "decay"
        for kind in ("closed_form", "gradient", "limit", "invariance"):
            shared = [f"decay_{kind}"] if name.endswith("_decay") else []
            assert written.intersection([f"{name}_{kind}", *shared]), (
                f"no test_eq_{name}_{kind}"
            )


# ---- what every loss declares ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_declared_limits_are_reached(name):
    loss = losses.get(name)
    assert loss.limits
    for gap, limit in loss.limits.items():
        value = loss(*inputs_at_gap(loss, gap), **settings(name))
        expected = torch.full_like(value, limit)
        assert_close(value, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ALL)
def test_declared_bounds_hold_and_are_approached(name):
    loss, kw = losses.get(name), settings(name)
    low, high = loss.bounds
    for power in range(4):
        inputs = [
            10**power * x if arg.endswith("logps") else x
            for arg, x in zip(inputs_of(loss), random_inputs(loss, power), strict=True)
        ]
        value = loss(*inputs, **kw)
        assert value.min() >= low and value.max() <= high
    best = loss(*inputs_at_gap(loss, loss.lowest_at), **kw).min()
    assert abs(best - low) < 1e-9  # the lower bound is tight
    worst = loss(*inputs_at_gap(loss, -FAR), **kw).max()
    assert abs(worst - high) < 1e-9 if high < inf else worst > 100  # so is the upper


@pytest.mark.parametrize("name", ALL)
def test_declared_needs_match_the_arguments(name):
    loss = losses.get(name)
    own = {"pair": {"chosen_logps", "rejected_logps"}, "chosen": {"chosen_logps"}}.get(
        loss.takes, {"logps"}
    )
    args = set(inputs_of(loss))
    assert own <= args
    assert {NEEDED_FOR[arg] for arg in args - own} == loss.needs - {"cross"}
    assert ("cross" in loss.needs) == (loss.takes in ("contexts", "matrix"))
    word = "MEANS" if loss.logps == "mean" else "SUMMED"
    assert (
        loss.logps in ("sum", "mean") and word in loss.__doc__
    )  # the docstring says the same


@pytest.mark.parametrize("name", ALL)
def test_shape_is_one_value_per_row(name):
    loss = losses.get(name)
    assert loss(*random_inputs(loss), **settings(name)).shape == (3,)


# ---- the kinds that are the same for all -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_every_gradient_is_that_of_finite_differences_unless_frozen(name):
    """A frozen margin moves with the log-probs, and its gradient does not: there the two must differ."""
    loss, kw = losses.get(name), settings(name)
    x = random_inputs(loss)
    names = inputs_of(loss)
    free = {
        arg: t.requires_grad_()
        for arg, t in zip(names, x, strict=True)
        if arg in policy_names(loss)
    }

    def value(*logps):
        return loss(
            *(
                {
                    **dict(zip(names, x, strict=True)),
                    **dict(zip(free, logps, strict=True)),
                }.values()
            ),
            **kw,
        )

    assert (
        torch.autograd.gradcheck(
            value, (*free.values(),), raise_exception=not loss.frozen
        )
        != loss.frozen
    )


@pytest.mark.parametrize("name", ALL)
def test_every_batch_may_be_reordered_and_most_may_be_split(name):
    loss, kw = losses.get(name), settings(name)
    x, order = random_inputs(loss), [2, 0, 1]
    whole = loss(*x, **kw)
    assert_close(loss(*(t[order] for t in x), **kw), whole[order])
    alone = torch.cat([loss(*(t[i : i + 1] for t in x), **kw) for i in range(3)])
    assert torch.allclose(alone, whole) is not loss.batchwise


@pytest.mark.parametrize("name", ALL)
def test_every_wrong_shape_is_an_error(name):
    loss, kw = losses.get(name), settings(name)
    x = random_inputs(loss)
    for bad in (x[0][:, None], x[0][0]):  # one dimension too many, one too few
        with pytest.raises(ValueError, match="shape"):
            loss(bad, *x[1:], **kw)
    for i in range(1, len(x)):  # (1,) against (3,) would broadcast silently
        with pytest.raises(ValueError, match="shape"):
            loss(*x[:i], x[i][:1], *x[i + 1 :], **kw)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("h", [-1e4, 0.0, 1e4])
def test_every_extreme_has_a_finite_value_and_gradient(name, h):
    loss, kw = losses.get(name), settings(name)
    batch = [
        torch.cat(pair)
        for pair in zip(*(inputs_at_gap(loss, g) for g in (h, 0.0)), strict=True)
    ]
    low = [
        x - 1e4 if arg.endswith("logps") else x
        for arg, x in zip(inputs_of(loss), batch, strict=True)
    ]
    for end in (
        -1e4,
        0.0,
        1e4,
    ):  # of delta_pmi, kl, moments and token counts, which are not below 0
        ends = {
            arg: max(end, 0.0) if arg.endswith(("tokens", "std")) else end
            for arg in NEEDED_FOR
        }
        for x in (batch, low):
            x = [
                t.float()
                if arg.endswith("logps")
                else torch.full_like(t, ends[arg]).float()
                for arg, t in zip(inputs_of(loss), x, strict=True)
            ]
            free = [t.requires_grad_() for t in policy_logps(loss, x)]
            value = loss(*x, **kw)
            assert torch.isfinite(value).all()
            assert all(
                torch.isfinite(g).all() for g in torch.autograd.grad(value.sum(), free)
            )


@pytest.mark.parametrize("n", [1, 3])
def test_contrasts_need_two_alternatives_and_a_square_matrix(n):
    for name, shape in (
        ("infonca", (n, 1)),
        ("context_infonce", (n, 1)),
        ("sami", (n, 1, 1)),
    ):
        loss = losses.get(name)
        with pytest.raises(ValueError, match="at least 2"):
            loss(*(torch.zeros(shape) for _ in inputs_of(loss)), **settings(name))
    with pytest.raises(ValueError, match="square"):
        losses.sami(torch.zeros(n, 2, 4))


# ---- dpo -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "h, value", [(0, log(2)), (log(3), log(4 / 3)), (-log(3), log(4))]
)
def test_eq_dpo_closed_form(h, value):  # sigmoid(log 3) = 3/4
    assert_close(losses.dpo(T(h), T(0.0), T(0.0), T(0.0), beta=1.0), T(value))
    assert_close(
        losses.dpo(T(-5.0), T(-7.0), T(-4.0), T(2 * h - 6.0), beta=0.5), T(value)
    )  # gap 2h


def test_eq_dpo_gradient():
    w, u = T(-3.0).requires_grad_(), T(-5.0).requires_grad_()
    value = losses.dpo(
        w, u, T(-4.0), T(-4.0), beta=0.5
    )  # beta h = 1; d/dw = -beta sigmoid(-1), d/du the opposite
    gw, gl = torch.autograd.grad(value, (w, u))
    assert_close(gw, T(-0.5 / (1 + exp(1))))
    assert_close(gl, -gw)


def test_eq_dpo_limit():
    """Small beta: log 2 - beta h / 2, the first-order term."""
    h = 3.0
    got = losses.dpo(T(h), T(0.0), T(0.0), T(0.0), beta=1e-4)
    assert_close(got, T(log(2) - 1e-4 * h / 2), atol=1e-7, rtol=0)


def test_eq_dpo_invariance():
    w, u, rw, rl = random_inputs(losses.dpo)
    assert_close(
        losses.dpo(w + 1, u + 1, rw, rl, beta=2.0), losses.dpo(w, u, rw, rl, beta=2.0)
    )  # only gaps count
    assert_close(
        losses.dpo(w + 1, u, rw + 1, rl, beta=2.0), losses.dpo(w, u, rw, rl, beta=2.0)
    )
    swapped = losses.dpo(u, w, rl, rw, beta=2.0)  # loss(h) - loss(-h) = -beta h
    assert_close(
        losses.dpo(w, u, rw, rl, beta=2.0) - swapped, -2.0 * ((w - u) - (rw - rl))
    )


# ---- dpo_norm --------------------------------------------------------------------------------------------------------


def test_eq_dpo_norm_closed_form():
    """Replies of 4 and 2 tokens with log-ratios 8 and 2 nats: means 2 and 1, so sigmoid(beta)."""
    got = losses.dpo_norm(
        T(-8.0) / 4, T(-2.0) / 2, T(-16.0) / 4, T(-4.0) / 2, beta=log(3)
    )
    assert_close(got, T(log(4 / 3)))


def test_eq_dpo_norm_gradient():
    w = T(-2.0).requires_grad_()
    (g,) = torch.autograd.grad(
        losses.dpo_norm(w, T(-2.0), T(-1.0), T(-1.0), beta=10.0), w
    )
    assert_close(g, T(-5.0))  # at h = 0: -beta / 2


def test_eq_dpo_norm_limit():
    """Replies of one token each: mean and sum are one, so DPO."""
    x = random_inputs(losses.dpo)
    assert_close(losses.dpo_norm(*x, beta=0.7), losses.dpo(*x, beta=0.7))


def test_eq_dpo_norm_invariance():
    """Two replies written twice over (log-probs and lengths doubled) keep their loss, unlike under sums."""
    summed, tokens = (
        [T(-6.0, -9.0), T(-4.0, -3.0), T(-5.0, -8.0), T(-7.0, -2.0)],
        T(3.0, 2.0),
    )
    once = losses.dpo_norm(*(s / tokens for s in summed), beta=2.0)
    assert_close(
        losses.dpo_norm(*(2 * s / (2 * tokens) for s in summed), beta=2.0), once
    )
    assert not torch.allclose(
        losses.dpo(*(2 * s for s in summed), beta=2.0), losses.dpo(*summed, beta=2.0)
    )


# ---- ipo -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "h, tau, value",
    [(0.0, 0.5, 1.0), (1.0, 0.5, 0.0), (3.0, 0.5, 4.0), (-1.0, 0.1, 36.0)],
)
def test_eq_ipo_closed_form(h, tau, value):  # (h - 1/(2 tau))^2 by hand
    assert_close(losses.ipo(T(h - 2.0), T(-3.0), T(-4.0), T(-5.0), tau=tau), T(value))


def test_eq_ipo_gradient():
    w, u = T(-1.0).requires_grad_(), T(-2.0).requires_grad_()
    gw, gl = torch.autograd.grad(losses.ipo(w, u, T(0.0), T(0.0), tau=0.1), (w, u))
    assert_close(gw, T(-8.0))  # 2 (1 - 5)
    assert_close(gl, T(8.0))


def test_eq_ipo_limit():
    """Large tau: the target vanishes, h^2 is left."""
    w, u, rw, rl = random_inputs(losses.ipo)
    assert_close(
        losses.ipo(w, u, rw, rl, tau=1e9), ((w - u) - (rw - rl)) ** 2, atol=1e-7, rtol=0
    )


def test_eq_ipo_invariance():
    w, u, rw, rl = random_inputs(losses.ipo)
    assert_close(
        losses.ipo(w + 1, u + 1, rw + 2, rl + 2, tau=0.3),
        losses.ipo(w, u, rw, rl, tau=0.3),
    )
    below, above = losses.ipo(
        T(4.5, 5.5), T(0.0, 0.0), T(0.0, 0.0), T(0.0, 0.0), tau=0.1
    )
    assert_close(below, above)  # symmetric about 1 / (2 tau) = 5


# ---- simpo -----------------------------------------------------------------------------------------------------------


def test_eq_simpo_closed_form():
    """beta 2, gap log 3, gamma log 3: sigmoid(2 log 3 - log 3) = 3/4."""
    assert_close(
        losses.simpo(T(log(3) - 1), T(-1.0), beta=2.0, gamma=log(3)), T(log(4 / 3))
    )
    assert_close(losses.simpo(T(-1.0), T(-1.0), beta=2.0, gamma=log(3)), T(log(4)))


def test_eq_simpo_gradient():
    w, u = T(-1.0).requires_grad_(), T(-1.5).requires_grad_()
    gw, gl = torch.autograd.grad(losses.simpo(w, u, beta=2.0, gamma=1.0), (w, u))
    assert_close(gw, T(-1.0))  # beta h = gamma: -beta / 2
    assert_close(gl, T(1.0))


def test_eq_simpo_limit():
    """gamma = 0 is DPO without a reference."""
    w, u = random_inputs(losses.simpo)
    zero = torch.zeros_like(w)
    assert_close(
        losses.simpo(w, u, beta=1.5, gamma=0.0), losses.dpo(w, u, zero, zero, beta=1.5)
    )


def test_eq_simpo_invariance():
    w, u = random_inputs(losses.simpo)
    assert_close(
        losses.simpo(w + 1, u + 1, beta=2.0, gamma=0.5),
        losses.simpo(w, u, beta=2.0, gamma=0.5),
    )
    assert_close(
        losses.simpo(w + 0.25, u, beta=2.0, gamma=0.5),
        losses.simpo(w, u, beta=2.0, gamma=0.0),
    )  # RAW gamma


# ---- infonca ---------------------------------------------------------------------------------------------------------


def test_eq_infonca_closed_form():
    """Weights 2 : 1 : 1 after the reference is taken off: 1/2."""
    got = losses.infonca(
        T(log(2) - 3, -4.0, -5.0)[None], T(-3.0, -4.0, -5.0)[None], beta=1.0
    )
    assert_close(got, T(log(2)))


def test_eq_infonca_gradient():
    x = torch.zeros(1, 4, dtype=torch.float64, requires_grad=True)
    (g,) = torch.autograd.grad(
        losses.infonca(x, torch.zeros(1, 4, dtype=torch.float64), beta=2.0).sum(), x
    )
    assert_close(g, T(-1.5, 0.5, 0.5, 0.5)[None])  # beta (softmax - one-hot)


def test_eq_infonca_limit():
    """N = 2 is DPO."""
    w, u, rw, rl = random_inputs(losses.dpo)
    got = losses.infonca(torch.stack([w, u], 1), torch.stack([rw, rl], 1), beta=0.7)
    assert_close(got, losses.dpo(w, u, rw, rl, beta=0.7))


def test_eq_infonca_invariance():
    x, ref = random_inputs(losses.infonca)
    assert_close(
        losses.infonca(x[:, [0, 3, 1, 2]], ref[:, [0, 3, 1, 2]], beta=2.0),
        losses.infonca(x, ref, beta=2.0),
    )
    assert_close(
        losses.infonca(x + 5, ref - 5, beta=2.0), losses.infonca(x, ref, beta=2.0)
    )


# ---- sami ------------------------------------------------------------------------------------------------------------


def test_eq_sami_closed_form():
    """Rows [2 1; 1 1] as odds: row losses log 3/2, log 2; columns the same; mean of rows and columns (log 3) / 2."""
    assert_close(losses.sami(T(log(2), 0.0, 0.0, 0.0).reshape(1, 2, 2)), T(log(3) / 2))


def test_eq_sami_closed_form_rows_and_columns_differ():
    """Odds [1 3; 1 1]: rows log 4 and log 2, columns log 2 and log 4: a mean of (log 8) / 2."""
    assert_close(losses.sami(T(0.0, log(3), 0.0, 0.0).reshape(1, 2, 2)), T(log(8) / 2))
    x = T(0.0, log(3), 0.0, log(2)).reshape(
        1, 2, 2
    )  # odds [1 3; 1 2]: rows 4, 3/2; columns 2, 5/2
    assert_close(losses.sami(x), T((log(4) + log(3 / 2) + log(2) + log(5 / 2)) / 4))


def test_eq_sami_gradient():
    x = torch.zeros(1, 2, 2, dtype=torch.float64, requires_grad=True)
    (g,) = torch.autograd.grad(losses.sami(x).sum(), x)
    assert_close(
        g, T(-0.25, 0.25, 0.25, -0.25).reshape(1, 2, 2)
    )  # (softmax - one-hot) / N, rows and columns averaged


def test_eq_sami_limit():
    """With columns that carry nothing to choose, it is half log N plus half the row cross-entropy of each prompt."""
    x = T(2.0, 0.0).repeat(2, 1)[
        None
    ]  # both prompts rank the replies alike: columns are uniform
    rows = torch.nn.functional.cross_entropy(x[0], torch.tensor([0, 1]))
    assert_close(losses.sami(x), (rows / 2 + log(2) / 2)[None])


def test_eq_sami_invariance():
    (x,) = random_inputs(losses.sami)
    order = [2, 0, 3, 1]
    assert_close(losses.sami(x[:, order][:, :, order]), losses.sami(x))  # pairs renamed
    assert_close(
        losses.sami(x.transpose(1, 2)), losses.sami(x)
    )  # prompts and replies exchanged
    assert_close(losses.sami(x + 5), losses.sami(x))


# ---- context_infonce -------------------------------------------------------------------------------------------------


def test_eq_context_infonce_closed_form():
    """Likelihood 2 : 1 : 1 under three contexts: 1/2; at temperature 100 a gap of 100 log 3 gives 3/4."""
    assert_close(losses.context_infonce(T(log(2), 0.0, 0.0)[None]), T(log(2)))
    assert_close(
        losses.context_infonce(T(-50.0, -50 - 100 * log(3))[None], temperature=100.0),
        T(log(4 / 3)),
    )


def test_eq_context_infonce_gradient():
    x = torch.zeros(1, 4, dtype=torch.float64, requires_grad=True)
    (g,) = torch.autograd.grad(losses.context_infonce(x, temperature=0.5).sum(), x)
    assert_close(g, T(-1.5, 0.5, 0.5, 0.5)[None])


def test_eq_context_infonce_limit():
    """It is InfoNCA with beta = 1 / temperature and a reference that does not care."""
    (x,) = random_inputs(losses.context_infonce)
    assert_close(
        losses.context_infonce(x, temperature=4.0),
        losses.infonca(x, torch.zeros_like(x), beta=0.25),
    )


def test_eq_context_infonce_invariance():
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


def test_eq_sft_limit():
    """Averaged over samples of p it is the cross-entropy, whose least value is the entropy: here log 2."""
    assert_close(losses.sft(T(log(0.5), log(0.5))).mean(), T(log(2))[0])


def test_eq_sft_invariance():
    """A reply in two parts costs what its parts cost."""
    first, second = T(-3.0, -2.0), T(-1.0, -7.0)
    assert_close(losses.sft(first + second), losses.sft(first) + losses.sft(second))


# ---- settings --------------------------------------------------------------------------------------------------------


def _wrong_settings():
    """(loss, keyword, value) for each keyword that must be above 0, or at least 0, or a number at all."""
    for name in ALL:
        for key in settings(name):
            above = key in ("beta", "tau", "scale", "temperature") or (name, key) == (
                "gammapo",
                "gamma0",
            )
            at_least = key.endswith("weight") or (name, key) in (
                ("rdpo", "alpha"),
                ("cpo", "alpha"),
            )
            own = (
                ["other"]
                if key == "convention"
                else [0, -1.0]
                if above
                else [-1.0]
                if at_least
                else []
            )
            yield from ((name, key, value) for value in own + NO_NUMBERS)


@pytest.mark.parametrize("name, key, value", list(_wrong_settings()))
def test_a_wrong_setting_is_named(name, key, value):
    with pytest.raises(ValueError, match=key):
        check(name, {**settings(name), key: value})


def test_settings_at_their_ends_are_allowed():
    for name, kwargs in {
        "simpo": {"beta": 1, "gamma": 0},
        "rdpo": {"alpha": 0},
        "cpo": {"alpha": 0.0},
        "rmipo": {},
        "kto": {"desirable_weight": 0},
        "dpo_decay": {"gamma_min": 0, "gamma_max": 0},
    }.items():
        assert check(name, kwargs) is losses.get(name)


def test_unknown_names_are_errors_that_list_the_known_ones():
    with pytest.raises(ValueError, match="unknown loss 'doo'.*dpo"):
        check("doo", {})
    with pytest.raises(ValueError, match="no keyword 'betta'.*beta"):
        check("dpo", {"betta": 0.1})
    with pytest.raises(ValueError, match="needs the keyword 'beta'"):
        check("dpo", {})
    assert check("context_infonce", {}) is losses.context_infonce  # a default is enough


def test_only_losses_and_margins_are_exported():
    """Every declared loss is exported under its name; the machinery of declaring is not."""
    margins = {"gamma_decay", "gammapo_margin", "amapo_margin"}
    assert set(losses.__all__) == {*losses.LOSSES, *margins, "LOSSES", "get"}
    assert all(getattr(losses, name) is losses.get(name) for name in ALL)
    for noise in ("FAR", "check", "declare", "default", "inputs_of"):
        assert not hasattr(losses, noise)


def test_nan_goes_through_and_is_not_hidden():
    assert torch.isnan(losses.dpo(T(nan), T(0.0), T(0.0), T(0.0), beta=1.0)).all()


def test_a_new_loss_needs_only_its_own_lines():
    @declare(takes="pair", logps="mean", limits={0: 1})
    def hinge_for_test(chosen_logps, rejected_logps, *, margin=1.0):
        return torch.relu(margin - (chosen_logps - rejected_logps))

    try:
        assert check("hinge_for_test", {}) is hinge_for_test
        with pytest.raises(ValueError, match=r"one shape \(B,\).*rejected_logps"):
            hinge_for_test(T(0.0), T(0.0, 1.0))
    finally:
        del losses.LOSSES["hinge_for_test"]
