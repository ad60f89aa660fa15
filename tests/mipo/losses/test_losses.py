"""What every loss declares, and the losses of MIPO's comparison.

Each loss has a closed form, a gradient, a limit and an invariance, worked out by hand.
`test_losses_margin.py` and `test_losses_kin.py` have the other losses.
"""

import re
from itertools import product
from math import exp, inf, log, nan
from pathlib import Path

import pytest
import torch
from losses_help import (
    ALL,
    NEEDED_FOR,
    NO_NUMBERS,
    ZERO,
    T,
    grads,
    inputs_at_gap,
    policy_logps,
    policy_names,
    random_inputs,
    settings,
)
from torch.testing import assert_close

from mipo import losses
from mipo.losses.declaration import FAR, check, declare, inputs_of

every_loss = pytest.mark.parametrize("name", ALL)


@every_loss
def test_every_loss_is_covered_here(name):
    files = Path(__file__).parent.glob("test_*.py")
    text = "".join(file.read_text() for file in files)
    written = set(re.findall(r"def test_eq_(\w+)\(", text))
    for kind in ("closed_form", "gradient", "limit", "invariance"):
        wanted = {f"{name}_{kind}"}
        if name.endswith("_decay"):  # the plug-ins share tests
            wanted.add(f"decay_{kind}")
        assert written & wanted, f"no test_eq_{name}_{kind}"


# ---- what every loss declares ----


@every_loss
def test_declared_limits_are_reached(name):
    loss = losses.get(name)
    assert loss.limits
    for gap, limit in loss.limits.items():
        value = loss(*inputs_at_gap(loss, gap), **settings(name))
        expected = torch.full_like(value, limit)
        assert_close(value, expected, rtol=1e-12, atol=1e-12)


@every_loss
@pytest.mark.parametrize("power", range(4))
def test_declared_bounds_hold(name, power):
    loss = losses.get(name)
    low, high = loss.bounds
    inputs = random_inputs(loss, seed=power)
    for i, argument in enumerate(inputs_of(loss)):
        if argument.endswith("logps"):
            inputs[i] = 10**power * inputs[i]
    value = loss(*inputs, **settings(name))
    assert value.min() >= low
    assert value.max() <= high


@every_loss
def test_declared_bounds_are_approached(name):
    loss, keywords = losses.get(name), settings(name)
    low, high = loss.bounds
    best = loss(*inputs_at_gap(loss, loss.lowest_at), **keywords).min()
    worst = loss(*inputs_at_gap(loss, -FAR), **keywords).max()
    assert abs(best - low) < 1e-9
    if high < inf:
        assert abs(worst - high) < 1e-9
    else:
        assert worst > 100


@every_loss
def test_declared_needs_match_the_arguments(name):
    loss = losses.get(name)
    own = {"logps"}
    if loss.takes == "pair":
        own = {"chosen_logps", "rejected_logps"}
    if loss.takes == "chosen":
        own = {"chosen_logps"}
    arguments = set(inputs_of(loss))
    assert own <= arguments
    needs = {NEEDED_FOR[argument] for argument in arguments - own}
    assert needs == loss.needs - {"cross"}
    assert ("cross" in loss.needs) == (loss.takes in ("contexts", "matrix"))


@every_loss
def test_the_docstring_says_sums_or_means_as_declared(name):
    loss = losses.get(name)
    word = {"sum": "SUMMED", "mean": "MEANS"}[loss.logps]
    assert word in loss.__doc__


@every_loss
def test_shape_is_one_value_per_row(name):
    loss = losses.get(name)
    assert loss(*random_inputs(loss), **settings(name)).shape == (3,)


# ---- what is the same for all ----


@every_loss
def test_every_gradient_is_that_of_finite_differences_unless_frozen(name):
    """A frozen margin moves with the log-probs, its gradient does not: they differ."""
    loss = losses.get(name)
    inputs = dict(zip(inputs_of(loss), random_inputs(loss), strict=True))
    free = policy_names(loss)

    def value(*logps):
        moved = inputs | dict(zip(free, logps, strict=True))
        return loss(*moved.values(), **settings(name))

    logps = [inputs[argument].requires_grad_() for argument in free]
    equal = torch.autograd.gradcheck(value, logps, raise_exception=not loss.frozen)
    assert equal is not loss.frozen


@every_loss
def test_every_batch_may_be_reordered_and_most_may_be_split(name):
    loss, keywords = losses.get(name), settings(name)
    inputs = random_inputs(loss)
    whole = loss(*inputs, **keywords)

    order = [2, 0, 1]
    reordered = loss(*(x[order] for x in inputs), **keywords)
    assert_close(reordered, whole[order])

    rows = [loss(*(x[i : i + 1] for x in inputs), **keywords) for i in range(3)]
    assert torch.allclose(torch.cat(rows), whole) is not loss.batchwise


@every_loss
def test_every_wrong_shape_is_an_error(name):
    loss, keywords = losses.get(name), settings(name)
    inputs = random_inputs(loss)
    one_too_many, one_too_few = inputs[0][:, None], inputs[0][0]
    for wrong in (one_too_many, one_too_few):
        with pytest.raises(ValueError, match="shape"):
            loss(wrong, *inputs[1:], **keywords)
    for i in range(1, len(inputs)):  # (1,) against (3,) would broadcast silently
        wrong = [*inputs[:i], inputs[i][:1], *inputs[i + 1 :]]
        with pytest.raises(ValueError, match="shape"):
            loss(*wrong, **keywords)


def extreme_inputs(loss, h, shift, end):
    """In float32: two gaps, all log-probs shifted, every other input at one end."""
    rows = zip(inputs_at_gap(loss, h), inputs_at_gap(loss, 0.0), strict=True)
    inputs = []
    for argument, pair in zip(inputs_of(loss), rows, strict=True):
        batch = torch.cat(pair)
        if argument.endswith("logps"):
            batch = batch + shift
        elif argument.endswith(("tokens", "std")):  # not below 0
            batch = torch.full_like(batch, max(end, 0.0))
        else:
            batch = torch.full_like(batch, end)
        inputs.append(batch.float())
    return inputs


@every_loss
@pytest.mark.parametrize("h", [-1e4, 0.0, 1e4])
def test_every_extreme_has_a_finite_value_and_gradient(name, h):
    loss = losses.get(name)
    for shift, end in product([0.0, -1e4], [-1e4, 0.0, 1e4]):
        inputs = extreme_inputs(loss, h, shift, end)
        free = [logps.requires_grad_() for logps in policy_logps(loss, inputs)]
        value = loss(*inputs, **settings(name))
        assert value.isfinite().all()
        for gradient in torch.autograd.grad(value.sum(), free):
            assert gradient.isfinite().all()


@pytest.mark.parametrize("n", [1, 3])
def test_contrasts_need_two_alternatives_and_a_square_matrix(n):
    alone = {"infonca": (n, 1), "context_infonce": (n, 1), "sami": (n, 1, 1)}
    for name, shape in alone.items():
        loss = losses.get(name)
        inputs = [torch.zeros(shape) for _ in inputs_of(loss)]
        with pytest.raises(ValueError, match="at least 2"):
            loss(*inputs, **settings(name))
    with pytest.raises(ValueError, match="square"):
        losses.sami(torch.zeros(n, 2, 4))


# ---- dpo ----


@pytest.mark.parametrize(
    "h, loss", [(0, log(2)), (log(3), log(4 / 3)), (-log(3), log(4))]
)
def test_eq_dpo_closed_form(h, loss):
    """sigmoid(log 3) = 3/4."""
    assert_close(losses.dpo(T(h), ZERO, ZERO, ZERO, beta=1.0), T(loss))
    # log-ratios -1 and -2h - 1, a gap of 2h, which beta = 1/2 halves
    ref_rejected = T(2 * h - 6.0)
    got = losses.dpo(T(-5.0), T(-7.0), T(-4.0), ref_rejected, beta=0.5)
    assert_close(got, T(loss))


def test_eq_dpo_gradient():
    """beta h = 1, so the slope is -beta sigmoid(-1) at the chosen reply."""
    slopes = grads(losses.dpo, T(-3.0), T(-5.0), T(-4.0), T(-4.0), beta=0.5)
    chosen, rejected = slopes[:2]
    assert_close(chosen, T(-0.5 / (1 + exp(1))))
    assert_close(rejected, -chosen)


def test_eq_dpo_limit():
    """Small beta: log 2 - beta h / 2, the first-order term."""
    got = losses.dpo(T(3.0), ZERO, ZERO, ZERO, beta=1e-4)
    assert_close(got, T(log(2) - 1e-4 * 3 / 2), atol=1e-7, rtol=0)


def test_eq_dpo_invariance():
    """Only the gap counts; a swap changes the loss by beta h."""
    chosen, rejected, ref_chosen, ref_rejected = random_inputs(losses.dpo)
    refs = ref_chosen, ref_rejected
    loss = losses.dpo(chosen, rejected, *refs, beta=2.0)
    both_up = losses.dpo(chosen + 1, rejected + 1, *refs, beta=2.0)
    assert_close(both_up, loss)
    with_its_reference = losses.dpo(
        chosen + 1, rejected, ref_chosen + 1, ref_rejected, beta=2.0
    )
    assert_close(with_its_reference, loss)

    swapped = losses.dpo(rejected, chosen, ref_rejected, ref_chosen, beta=2.0)
    h = (chosen - rejected) - (ref_chosen - ref_rejected)
    assert_close(loss - swapped, -2.0 * h)


# ---- dpo_norm ----


def test_eq_dpo_norm_closed_form():
    """Log-ratios 8 of 4 tokens and 2 of 2 tokens: means 2 and 1, so sigmoid(beta)."""
    chosen, ref_chosen = T(-8.0) / 4, T(-16.0) / 4
    rejected, ref_rejected = T(-2.0) / 2, T(-4.0) / 2
    got = losses.dpo_norm(chosen, rejected, ref_chosen, ref_rejected, beta=log(3))
    assert_close(got, T(log(4 / 3)))


def test_eq_dpo_norm_gradient():
    """At h = 0: -beta / 2."""
    slopes = grads(losses.dpo_norm, T(-2.0), T(-2.0), T(-1.0), T(-1.0), beta=10.0)
    assert_close(slopes[0], T(-5.0))


def test_eq_dpo_norm_limit():
    """Replies of one token each: mean and sum are one, so DPO."""
    inputs = random_inputs(losses.dpo)
    got = losses.dpo_norm(*inputs, beta=0.7)
    assert_close(got, losses.dpo(*inputs, beta=0.7))


def test_eq_dpo_norm_invariance():
    """Replies written twice over keep their loss, unlike under sums."""
    tokens = T(3.0, 2.0)
    once = [T(-6.0, -9.0), T(-4.0, -3.0), T(-5.0, -8.0), T(-7.0, -2.0)]
    twice = [2 * logps for logps in once]
    means = [logps / tokens for logps in once]
    means_of_twice = [logps / (2 * tokens) for logps in twice]
    got = losses.dpo_norm(*means_of_twice, beta=2.0)
    assert_close(got, losses.dpo_norm(*means, beta=2.0))

    summed_once, summed_twice = (
        losses.dpo(*once, beta=2.0),
        losses.dpo(*twice, beta=2.0),
    )
    assert not torch.allclose(summed_once, summed_twice)


# ---- ipo ----


@pytest.mark.parametrize(
    "h, tau, loss",
    [(0.0, 0.5, 1.0), (1.0, 0.5, 0.0), (3.0, 0.5, 4.0), (-1.0, 0.1, 36.0)],
)
def test_eq_ipo_closed_form(h, tau, loss):
    """(h - 1 / (2 tau))^2 by hand; log-ratios h + 2 and 2."""
    got = losses.ipo(T(h - 2.0), T(-3.0), T(-4.0), T(-5.0), tau=tau)
    assert_close(got, T(loss))


def test_eq_ipo_gradient():
    """2 (h - 1 / (2 tau)) = 2 (1 - 5)."""
    slopes = grads(losses.ipo, T(-1.0), T(-2.0), ZERO, ZERO, tau=0.1)
    assert_close(slopes[0], T(-8.0))
    assert_close(slopes[1], T(8.0))


def test_eq_ipo_limit():
    """Large tau: the target vanishes, h^2 is left."""
    chosen, rejected, ref_chosen, ref_rejected = random_inputs(losses.ipo)
    h = (chosen - rejected) - (ref_chosen - ref_rejected)
    got = losses.ipo(chosen, rejected, ref_chosen, ref_rejected, tau=1e9)
    assert_close(got, h**2, atol=1e-7, rtol=0)


def test_eq_ipo_invariance():
    """Only the gap counts, and the loss is symmetric about 1 / (2 tau) = 5."""
    chosen, rejected, ref_chosen, ref_rejected = random_inputs(losses.ipo)
    loss = losses.ipo(chosen, rejected, ref_chosen, ref_rejected, tau=0.3)
    shifted = losses.ipo(
        chosen + 1, rejected + 1, ref_chosen + 2, ref_rejected + 2, tau=0.3
    )
    assert_close(shifted, loss)

    zero = T(0.0, 0.0)
    below, above = losses.ipo(T(4.5, 5.5), zero, zero, zero, tau=0.1)
    assert_close(below, above)


# ---- simpo ----


def test_eq_simpo_closed_form():
    """Gap log 3, beta 2, gamma log 3: sigmoid(2 log 3 - log 3) = 3/4. Gap 0: 1/4."""
    chosen, rejected = T(log(3) - 1, -1.0), T(-1.0, -1.0)
    got = losses.simpo(chosen, rejected, beta=2.0, gamma=log(3))
    assert_close(got, T(log(4 / 3), log(4)))


def test_eq_simpo_gradient():
    """Where beta h = gamma: -beta / 2."""
    chosen, rejected = grads(losses.simpo, T(-1.0), T(-1.5), beta=2.0, gamma=1.0)
    assert_close(chosen, T(-1.0))
    assert_close(rejected, T(1.0))


def test_eq_simpo_limit():
    """gamma = 0 is DPO without a reference."""
    chosen, rejected = random_inputs(losses.simpo)
    zero = torch.zeros_like(chosen)
    got = losses.simpo(chosen, rejected, beta=1.5, gamma=0.0)
    assert_close(got, losses.dpo(chosen, rejected, zero, zero, beta=1.5))


def test_eq_simpo_invariance():
    """Only the gap counts. gamma is RAW: 0.5 is a gap of 0.25 at beta 2."""
    chosen, rejected = random_inputs(losses.simpo)
    loss = losses.simpo(chosen, rejected, beta=2.0, gamma=0.5)
    assert_close(losses.simpo(chosen + 1, rejected + 1, beta=2.0, gamma=0.5), loss)

    ahead = losses.simpo(chosen + 0.25, rejected, beta=2.0, gamma=0.5)
    assert_close(ahead, losses.simpo(chosen, rejected, beta=2.0, gamma=0.0))


# ---- infonca ----


def test_eq_infonca_closed_form():
    """Odds 2 : 1 : 1 after the reference is taken off: 1/2."""
    logps, ref = T(log(2) - 3, -4.0, -5.0), T(-3.0, -4.0, -5.0)
    assert_close(losses.infonca(logps[None], ref[None], beta=1.0), T(log(2)))


def test_eq_infonca_gradient():
    """beta (softmax - one-hot)."""
    zero = T(0.0, 0.0, 0.0, 0.0)[None]
    slopes = grads(losses.infonca, zero, zero, beta=2.0)
    assert_close(slopes[0], T(-1.5, 0.5, 0.5, 0.5)[None])


def test_eq_infonca_limit():
    """N = 2 is DPO."""
    chosen, rejected, ref_chosen, ref_rejected = random_inputs(losses.dpo)
    logps = torch.stack([chosen, rejected], dim=1)
    refs = torch.stack([ref_chosen, ref_rejected], dim=1)
    got = losses.infonca(logps, refs, beta=0.7)
    want = losses.dpo(chosen, rejected, ref_chosen, ref_rejected, beta=0.7)
    assert_close(got, want)


def test_eq_infonca_invariance():
    """Rejected replies may be reordered; a common shift of either argument cancels."""
    logps, refs = random_inputs(losses.infonca)
    loss = losses.infonca(logps, refs, beta=2.0)
    order = [0, 3, 1, 2]
    assert_close(losses.infonca(logps[:, order], refs[:, order], beta=2.0), loss)
    assert_close(losses.infonca(logps + 5, refs - 5, beta=2.0), loss)


# ---- sami ----


@pytest.mark.parametrize(
    "odds, losses_of_rows_and_columns",
    [
        ([[2, 1], [1, 1]], [log(3 / 2), log(2), log(3 / 2), log(2)]),
        ([[1, 3], [1, 1]], [log(4), log(2), log(2), log(4)]),
        ([[1, 3], [1, 2]], [log(4), log(3 / 2), log(2), log(5 / 2)]),
    ],
)
def test_eq_sami_closed_form(odds, losses_of_rows_and_columns):
    """Minus the log of the diagonal's share of its row, and of its column."""
    logps = torch.tensor(odds, dtype=torch.float64).log()
    assert_close(losses.sami(logps[None]), T(sum(losses_of_rows_and_columns) / 4))


def test_eq_sami_gradient():
    """(softmax - one-hot) / N, rows and columns averaged."""
    (slopes,) = grads(losses.sami, torch.zeros(1, 2, 2, dtype=torch.float64))
    assert_close(slopes[0], torch.stack([T(-0.25, 0.25), T(0.25, -0.25)]))


def test_eq_sami_limit():
    """Prompts that rank the replies alike: columns are uniform and cost log N each."""
    logps = T(2.0, 0.0).repeat(2, 1)
    rows = torch.nn.functional.cross_entropy(logps, torch.tensor([0, 1]))
    assert_close(losses.sami(logps[None]), (rows / 2 + log(2) / 2)[None])


def test_eq_sami_invariance():
    """Pairs may be renamed, prompts and replies exchanged, all log-probs shifted."""
    (logps,) = random_inputs(losses.sami)
    loss = losses.sami(logps)
    order = [2, 0, 3, 1]
    assert_close(losses.sami(logps[:, order][:, :, order]), loss)
    assert_close(losses.sami(logps.transpose(1, 2)), loss)
    assert_close(losses.sami(logps + 5), loss)


# ---- context_infonce ----


def test_eq_context_infonce_closed_form():
    """Odds 2 : 1 : 1 give 1/2; a gap of 100 log 3 at temperature 100 gives 3/4."""
    assert_close(losses.context_infonce(T(log(2), 0.0, 0.0)[None]), T(log(2)))
    logps = T(-50.0, -50 - 100 * log(3))[None]
    assert_close(losses.context_infonce(logps, temperature=100.0), T(log(4 / 3)))


def test_eq_context_infonce_gradient():
    """(softmax - one-hot) / temperature."""
    zero = T(0.0, 0.0, 0.0, 0.0)[None]
    (slopes,) = grads(losses.context_infonce, zero, temperature=0.5)
    assert_close(slopes, T(-1.5, 0.5, 0.5, 0.5)[None])


def test_eq_context_infonce_limit():
    """It is InfoNCA with beta = 1 / temperature and a reference that does not care."""
    (logps,) = random_inputs(losses.context_infonce)
    got = losses.context_infonce(logps, temperature=4.0)
    assert_close(got, losses.infonca(logps, torch.zeros_like(logps), beta=0.25))


def test_eq_context_infonce_invariance():
    """Other contexts may be reordered; a common shift cancels."""
    (logps,) = random_inputs(losses.context_infonce)
    loss = losses.context_infonce(logps)
    assert_close(losses.context_infonce(logps[:, [0, 3, 2, 1]]), loss)
    assert_close(losses.context_infonce(logps - 7), loss)


# ---- sft ----


def test_eq_sft_closed_form():
    assert_close(losses.sft(T(-3.5, 0.0)), T(3.5, 0.0))


def test_eq_sft_gradient():
    (slopes,) = grads(losses.sft, T(-3.0, -2.0))
    assert_close(slopes, T(-1.0, -1.0))


def test_eq_sft_limit():
    """Its mean over samples of a law is at least the entropy of the law: here log 2."""
    fair_coin = T(log(0.5), log(0.5))
    assert_close(losses.sft(fair_coin).mean(), T(log(2))[0])


def test_eq_sft_invariance():
    """A reply in two parts costs what its parts cost."""
    first, second = T(-3.0, -2.0), T(-1.0, -7.0)
    assert_close(losses.sft(first + second), losses.sft(first) + losses.sft(second))


# ---- settings ----

ABOVE_ZERO = {"beta", "tau", "scale", "temperature", "gammapo gamma0"}
AT_LEAST_ZERO = {"desirable_weight", "undesirable_weight", "rdpo alpha", "cpo alpha"}


def wrong_settings():
    """(loss, keyword, value) for every keyword of every loss."""
    for name in ALL:
        for keyword in settings(name):
            names = {keyword, f"{name} {keyword}"}
            wrong = list(NO_NUMBERS)
            if names & ABOVE_ZERO:
                wrong += [0, -1.0]
            if names & AT_LEAST_ZERO:
                wrong += [-1.0]
            if keyword == "convention":
                wrong += ["other"]
            for value in wrong:
                yield name, keyword, value


@pytest.mark.parametrize("name, keyword, value", list(wrong_settings()))
def test_a_wrong_setting_is_named(name, keyword, value):
    with pytest.raises(ValueError, match=keyword):
        check(name, {**settings(name), keyword: value})


@pytest.mark.parametrize(
    "name, keywords",
    [
        ("simpo", {"beta": 1, "gamma": 0}),
        ("rdpo", {"alpha": 0}),
        ("cpo", {"alpha": 0.0}),
        ("rmipo", {}),
        ("kto", {"desirable_weight": 0}),
        ("dpo_decay", {"gamma_min": 0, "gamma_max": 0}),
    ],
)
def test_settings_at_their_ends_are_allowed(name, keywords):
    assert check(name, keywords) is losses.get(name)


def test_unknown_names_are_errors_that_list_the_known_ones():
    with pytest.raises(ValueError, match="unknown loss 'doo'.*dpo"):
        check("doo", {})
    with pytest.raises(ValueError, match="no keyword 'betta'.*beta"):
        check("dpo", {"betta": 0.1})
    with pytest.raises(ValueError, match="needs the keyword 'beta'"):
        check("dpo", {})
    assert check("context_infonce", {}) is losses.context_infonce  # a default is enough


def test_only_losses_and_margins_are_exported():
    """Every declared loss is exported under its name; how it is declared is not."""
    margins = {"gamma_decay", "gammapo_margin", "amapo_margin"}
    assert set(losses.__all__) == {*losses.LOSSES, *margins, "LOSSES", "get"}
    for name in ALL:
        assert getattr(losses, name) is losses.get(name)
    for name in ("FAR", "check", "declare", "default", "inputs_of"):
        assert not hasattr(losses, name)


def test_nan_goes_through_and_is_not_hidden():
    assert losses.dpo(T(nan), ZERO, ZERO, ZERO, beta=1.0).isnan().all()


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
