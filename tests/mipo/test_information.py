"""information: against values worked out by hand, scipy, and brute force written here; properties on random tables."""

from itertools import product
from math import inf, log

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy.spatial.distance import jensenshannon

from mipo import information as info

LOG2 = log(2)
BSC = np.array([[0.9, 0.1], [0.1, 0.9]])  # binary symmetric channel, flips 1 in 10
HALF = np.array([0.5, 0.5])
seeds = st.integers(0, 2**32 - 1)


def tables(seed, x=3, y=4, lead=()):
    """A random p(y|x) (*lead, x, y) and p(x) (x,), all positive."""
    rng = np.random.default_rng(seed)
    return rng.dirichlet(np.ones(y), (*lead, x)) * 0.99 + 0.01 / y, rng.dirichlet(
        np.ones(x) * 2
    )


def infonce_by_brute_force(f, p, p_x, n):
    """log N - L_N by summing over every tuple (x, y_1, ..., y_N), straight from the definition."""
    q, total = p_x @ p, 0.0
    for x in range(len(p_x)):
        for ys in product(range(p.shape[1]), repeat=n):
            weight = p_x[x] * p[x, ys[0]] * np.prod(q[list(ys[1:])])
            total += weight * (f[x, ys[0]] - np.log(np.exp(f[x, list(ys)]).sum()))
    return log(n) + total


# ---- closed forms ----


def test_entropy_closed_form():  # fair coin log 2; 4 equal values 2 log 2; certain 0
    assert_allclose(info.entropy([0.5, 0.5]), LOG2)
    assert_allclose(info.entropy([[0.25] * 4, [1, 0, 0, 0]]), [2 * LOG2, 0])


def test_kl_closed_form():  # 3/4 log(3/2) + 1/4 log(1/2), by hand
    assert_allclose(info.kl([0.75, 0.25], HALF), 0.75 * log(1.5) - 0.25 * LOG2)
    assert info.kl(HALF, [1.0, 0.0]) == inf


@given(seeds)
def test_kl_equals_scipy(seed):
    p, _ = tables(seed)
    assert_allclose(info.kl(p[0], p[1]), scipy.stats.entropy(p[0], p[1]), atol=1e-12)
    assert_allclose(info.entropy(p), scipy.stats.entropy(p, axis=-1))


def test_pmi_closed_form():  # p(y) = 1/2, so PMI is log 0.9/0.5 and log 0.1/0.5
    assert_allclose(info.pmi(BSC, HALF), [[log(1.8), log(0.2)], [log(0.2), log(1.8)]])


def test_pmi_impossible_reply():
    assert info.pmi([[1.0, 0.0], [0.5, 0.5]], HALF)[0, 1] == -inf


@pytest.mark.parametrize(
    "table, value",
    [
        (BSC, 0.368064),  # log 2 - H(0.1) = 0.693147 - 0.325083
        (
            [[0.75, 0.25, 0], [0, 0.25, 0.75]],
            0.75 * LOG2,
        ),  # erasure channel: 1 - erasure, times log 2
        (np.eye(2), LOG2),
        ([[0.3, 0.7], [0.3, 0.7]], 0),  # noiseless; independent
    ],
)
def test_mutual_information_closed_form(table, value):
    assert_allclose(info.mutual_information(table, HALF), value, atol=5e-7)


def test_mutual_information_gaussian():  # I = -1/2 log(1 - rho²), Cover and Thomas, ex. 8.5.1
    grid, rho = np.linspace(-6, 6, 241), 0.8
    z = np.stack(np.meshgrid(grid, grid, indexing="ij"), -1)
    joint = scipy.stats.multivariate_normal([0, 0], [[1, rho], [rho, 1]]).pdf(z)
    assert_allclose(
        info.mutual_information(joint / joint.sum()), -0.5 * log(1 - rho**2), atol=1e-4
    )


@given(seeds)
def test_mutual_information_properties(seed):
    p, p_x = tables(seed)
    mi, q = info.mutual_information(p, p_x), info.marginal(p, p_x)
    joint = p_x[:, None] * p
    assert_allclose(
        mi,
        info.entropy(p_x) + info.entropy(q) - info.entropy(joint.reshape(-1)),
        atol=1e-12,
    )
    assert_allclose(mi, info.mutual_information(joint.T), atol=1e-12)  # symmetric
    assert_allclose(mi, (joint * info.pmi(joint)).sum(), atol=1e-12)  # E[PMI]
    assert -1e-12 <= mi <= min(info.entropy(p_x), info.entropy(q))


# ---- which contexts a reply is contrasted with ----


def test_leave_one_out_closed_form():  # two contexts: the other one is all that is left
    assert_allclose(info.leave_one_out(BSC, [0.2, 0.8]), BSC[::-1])


@given(seeds)
def test_leave_one_out_mixes_back(
    seed,
):  # q = p(c) p(.|c) + (1 - p(c)) q_-c for every c
    p, p_c = tables(seed)
    back = p_c[:, None] * p + (1 - p_c)[:, None] * info.leave_one_out(p, p_c)
    assert_allclose(back, np.broadcast_to(info.marginal(p, p_c), p.shape), atol=1e-12)


# ---- bounds ----


@pytest.mark.parametrize("n", [2, 3, 4])
@given(seed=seeds)
@settings(max_examples=8)
def test_infonce_bound_equals_brute_force(n, seed):
    p, p_x = tables(seed)
    f = np.random.default_rng(seed).normal(0, 3, p.shape)
    assert_allclose(
        info.infonce_bound(f, p, p_x, n),
        infonce_by_brute_force(f, p, p_x, n),
        atol=1e-10,
    )


@pytest.mark.parametrize("n", [2, 5, 100])
def test_infonce_bound_noiseless(
    n,
):  # L_N = E log(1 + Binomial(N-1, 1/4)): only ties cost
    k = np.arange(n)
    loss = (scipy.stats.binom(n - 1, 0.25).pmf(k) * np.log1p(k)).sum()
    p_x = np.full(4, 0.25)
    assert_allclose(
        info.infonce_bound(info.pmi(np.eye(4), p_x), np.eye(4), p_x, n),
        log(n) - loss,
        atol=1e-10,
    )


def test_infonce_bound_equals_samples():
    p, p_x = tables(3)
    f = info.pmi(p, p_x)
    terms = info.infonce(
        info.sample_scores(f, p, p_x, 200_000, 4, np.random.default_rng(0))
    )
    assert (
        abs(terms.mean() - info.infonce_bound(f, p, p_x, 4))
        < 4 * terms.std() / 200_000**0.5
    )


@given(seeds, st.sampled_from([2, 3, 8, 64]), st.floats(0, 30))
@settings(max_examples=60)
def test_infonce_bound_properties(
    seed, n, size
):  # any critic stays below log N and I; c(x) changes nothing
    p, p_x = tables(seed)
    f = size * np.random.default_rng(seed).normal(size=p.shape)
    value = info.infonce_bound(f, p, p_x, n)
    best = info.infonce_bound(info.pmi(p, p_x), p, p_x, n)
    assert (
        value <= best + 1e-10
        and best <= min(log(n), info.mutual_information(p, p_x)) + 1e-10
    )
    assert_allclose(
        info.infonce_bound(f + np.arange(3.0)[:, None] * 7, p, p_x, n), value, atol=1e-9
    )


def test_infonce_closed_form():  # equal scores: 0; sure winner: log N; sure loser: log N + f_0
    assert_allclose(info.infonce(np.zeros((2, 5))), 0, atol=1e-12)
    assert_allclose(
        info.infonce([[900.0, 0, 0], [-900.0, -2000, 0]]), [log(3), log(3) - 900]
    )


def test_infonce_of_two_is_dpo():  # log 2 - infonce = -log sigmoid(f_0 - f_1)
    torch = pytest.importorskip("torch")
    from mipo.losses import dpo

    h = torch.tensor([-3.0, 0.0, 0.4, 8.0], dtype=torch.float64)
    zero = torch.zeros_like(h)
    scores = np.column_stack([0.5 * h.numpy(), np.zeros(4)])
    assert_allclose(
        dpo(h, zero, zero, zero, beta=0.5).numpy(),
        LOG2 - info.infonce(scores),
        rtol=1e-12,
    )


@given(seeds)
def test_dv_nwj_jsd_are_bounds(seed):
    p, p_x = tables(seed)
    mi, score, f = (
        info.mutual_information(p, p_x),
        info.pmi(p, p_x),
        np.random.default_rng(seed).normal(size=p.shape),
    )
    assert (
        info.exact_bound(info.nwj, f, p, p_x)
        <= info.exact_bound(info.dv, f, p, p_x) + 1e-12
        <= mi + 2e-12
    )
    assert_allclose(info.exact_bound(info.dv, score + 3, p, p_x), mi, atol=1e-12)
    assert_allclose(info.exact_bound(info.nwj, score + 1, p, p_x), mi, atol=1e-12)
    joint, apart = (p_x[:, None] * p).ravel(), np.outer(p_x, p_x @ p).ravel()
    top = 2 * jensenshannon(joint, apart) ** 2 - 2 * LOG2  # scipy, nats
    assert_allclose(info.exact_bound(info.jsd, score, p, p_x), top, atol=1e-12)
    assert info.exact_bound(info.jsd, f, p, p_x) <= top + 1e-12


def test_bounds_of_samples_closed_form():  # two samples each, by hand
    assert_allclose(info.dv([1.0, 3.0], [0.0, log(3)]), 2 - LOG2)
    assert_allclose(info.nwj([1.0, 3.0], [1.0, 1 + log(2)]), 2 - 1.5)
    assert_allclose(info.jsd([0.0, 0.0], [0.0, 0.0]), -2 * LOG2)


def test_sample_scores_follow_the_law():
    p, p_x = tables(5)
    codes = np.arange(12.0).reshape(3, 4)  # the score names its cell
    s = info.sample_scores(codes, p, p_x, 40_000, 3, np.random.default_rng(1)).astype(
        int
    )
    joint, apart = (p_x[:, None] * p).ravel(), np.outer(p_x, p_x @ p).ravel()
    for column, law in ((0, joint), (1, apart), (2, apart)):
        assert (
            scipy.stats.chisquare(
                np.bincount(s[:, column], minlength=12), law * 40_000
            ).pvalue
            > 1e-3
        )
    assert (s // 4 == s[:, :1] // 4).all()  # one x per row


# ---- the optimum ----


def test_tilted_optimum_closed_form():  # odds 1:1 times 3^(1/β): 3:1 and 9:1
    ratio = [log(3), 0.0]
    assert_allclose(info.tilted_optimum(HALF, ratio, 1.0), [0.75, 0.25])
    assert_allclose(info.tilted_optimum(HALF, ratio, 0.5), [0.9, 0.1])


@given(seeds, st.floats(0.05, 20))
def test_tilted_optimum_properties(seed, beta):
    p, p_c = tables(seed)
    ratio = info.log_ratio(p, info.marginal(p, p_c))
    assert_allclose(
        info.tilted_optimum(p, ratio + 5, beta),
        info.tilted_optimum(p, ratio, beta),
        rtol=1e-9,
    )  # + c(x)
    assert_allclose(info.tilted_optimum(p, 0 * ratio, beta), p, atol=1e-12)
    twice = info.tilted_optimum(
        info.tilted_optimum(p, ratio, 2 * beta), ratio, 2 * beta
    )
    assert_allclose(
        twice, info.tilted_optimum(p, ratio, beta), atol=1e-12
    )  # tilts add up
    assert_allclose(info.tilted_optimum(p, ratio, 1e9), p, atol=1e-6)
    same = info.tilted_optimum(
        p, ratio, beta, lengths=np.full(4, 3.0)
    )  # equal lengths: β/L
    assert_allclose(same, info.tilted_optimum(p, ratio, beta / 3), atol=1e-9)


@given(seeds, st.floats(0.3, 5))
def test_tilted_optimum_with_lengths(
    seed, beta
):  # β·(log π* - log π_ref)/L - log p/q is one constant per row
    p, p_c = tables(seed)
    ratio, lengths = info.log_ratio(p, info.marginal(p, p_c)), np.array([1.0, 2, 5, 9])
    best = info.tilted_optimum(p, ratio, beta, lengths)
    assert_allclose(best.sum(-1), 1)
    gap = beta * (np.log(best) - np.log(p)) / lengths - ratio
    assert_allclose(gap, gap[:, :1] + 0 * gap, atol=1e-8)


def test_sharpen_closed_form():  # 0.8:0.2 at T = 1/2 is 16:1
    assert_allclose(info.sharpen([0.8, 0.2], 0.5), [16 / 17, 1 / 17])
    assert_allclose(info.sharpen([0.8, 0.2], 1.0), [0.8, 0.2])


@given(seeds, st.floats(0.1, 10))
def test_information_never_falls_at_the_optimum(
    seed, beta
):  # I(π*) ≥ E_π*[PMI_ref] ≥ I(π_ref)
    p, p_c = tables(seed)
    best = info.tilted_optimum(p, info.pmi(p, p_c), beta)
    middle = info.expected_pmi(best, p, p_c)
    assert info.mutual_information(best, p_c) >= middle - 1e-10
    assert middle >= info.mutual_information(p, p_c) - 1e-10


def test_expected_pmi_closed_form():  # the reference itself: its own MI; always flipped: log 0.2
    assert_allclose(
        info.expected_pmi(BSC, BSC, HALF), info.mutual_information(BSC, HALF)
    )
    assert_allclose(info.expected_pmi(np.eye(2)[::-1], BSC, HALF), log(0.2))


# ---- token by token ----


@given(seeds, st.floats(0, 3))
def test_token_tilt_of_independent_slots(
    seed, alpha
):  # slots independent with and without context: KL 0
    p, _ = tables(seed, x=4, y=3)
    with_c, without = np.outer(p[0], p[1]), np.outer(p[2], p[3])
    whole = (
        info.tilted_optimum(with_c.ravel(), np.log(with_c / without).ravel(), 1 / alpha)
        if alpha > 0.01
        else None
    )
    if whole is not None:
        assert_allclose(
            info.token_tilted(with_c, without, alpha).ravel(), whole, atol=1e-10
        )
    assert_allclose(info.token_tilted(with_c, without, 0), with_c, atol=1e-12)


def test_token_tilt_of_a_shared_attribute():
    """Both slots show one binary attribute, right 3 times in 4. α = 1, by hand, in units of 1/16.

    p = 9 3 3 1, q = 5 3 3 5. Whole: p²/q = 81/5, 3, 3, 1/5 -> sum 112/5. By token: first slot 3/4² : 1/4² = 9:1;
    second after a right one 3/4²/(5/8) : 1/4²/(3/8) = 27:5, after a wrong one 3/4²/(3/8) : 1/4²/(5/8) = 15:1.
    """
    p, q = np.array([[9, 3], [3, 1]]) / 16, np.array([[5, 3], [3, 5]]) / 16
    whole = info.tilted_optimum(p.ravel(), np.log(p / q).ravel(), 1.0).reshape(2, 2)
    by_token = info.token_tilted(p, q, 1.0)
    assert_allclose(whole, np.array([[81, 15], [15, 1]]) / 112)
    assert_allclose(
        by_token, [[0.9 * 27 / 32, 0.9 * 5 / 32], [0.1 * 15 / 16, 0.1 / 16]]
    )
    assert info.kl(whole.ravel(), by_token.ravel()) > 0.005


# ---- bad input ----


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: info.entropy([0.5, 0.6]), "sum to 1"),
        (lambda: info.entropy([1.5, -0.5]), "not negative"),
        (lambda: info.mutual_information(BSC, [0.2, 0.3, 0.5]), "3 weights for 2 rows"),
        (lambda: info.split_joint([[0.5, 0.5], [0.0, 0.0]]), "Drop the row"),
        (lambda: info.leave_one_out(BSC, [1.0, 0.0]), "no other"),
        (lambda: info.tilted_optimum(HALF, [0.0, 1.0], 0.0), "beta"),
        (lambda: info.tilted_optimum(HALF, [0.0, inf], 1.0), "log_ratio"),
        (lambda: info.tilted_optimum(HALF, [0.0, 1.0], 1.0, lengths=[1.0]), "lengths"),
        (lambda: info.log_ratio(HALF, [1.0, 0.0]), "Smooth q"),
        (lambda: info.sharpen(HALF, -1), "temperature"),
        (lambda: info.infonce(np.zeros((4, 1))), "N ≥ 2"),
        (lambda: info.infonce_bound(BSC, BSC, HALF, 1), "at least 2"),
        (lambda: info.infonce_bound(np.zeros((3, 2)), BSC, HALF, 2), "does not match"),
        (lambda: info.infonce_bound(np.full((2, 2), -inf), BSC, HALF, 2), "finite"),
        (lambda: info.token_tilted(np.eye(2), np.eye(2), 1.0), "positive"),
    ],
)
def test_bad_input_is_one_clear_error(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_extremes_stay_finite():
    """Scores of ±1e3. By hand, N = 2: a tie (1 in 2) costs log 2, a wrong reply (1 in 10) met by the right one 2000."""
    f = np.array([[1e3, -1e3], [-1e3, 1e3]])
    assert_allclose(
        info.infonce_bound(f, BSC, HALF, 2), LOG2 - 0.5 * LOG2 - 0.1 * 0.5 * 2000
    )
    assert np.isfinite(
        [info.exact_bound(b, f, BSC, HALF) for b in (info.jsd, info.dv)]
    ).all()
