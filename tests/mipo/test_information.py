"""Information in tables: by hand, by scipy, and by brute force from the definition.

Properties are tried on random tables.
"""

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


def random_tables(seed, x=3, y=4):
    """A random p(y|x), shape (x, y), and p(x), shape (x,); all positive."""
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.ones(y), x) * 0.99 + 0.01 / y
    p_x = rng.dirichlet(np.ones(x) * 2)
    return p, p_x


def random_critic(seed, size=1.0):
    return size * np.random.default_rng(seed).normal(size=(3, 4))


def infonce_by_brute_force(f, p, p_x, n):
    """log N - L_N, summed over every (x, y_1, ..., y_N) as the definition says."""
    q = p_x @ p
    loss = 0.0
    for x in range(len(p_x)):
        for ys in product(range(p.shape[1]), repeat=n):
            true, others = ys[0], list(ys[1:])
            chance = p_x[x] * p[x, true] * np.prod(q[others])
            belief = np.exp(f[x, true]) / np.exp(f[x, list(ys)]).sum()
            loss -= chance * np.log(belief)
    return log(n) - loss


# ---- closed forms ----


def test_entropy_closed_form():
    """A fair coin: log 2. Four equal values: 2 log 2. A certain one: 0."""
    assert_allclose(info.entropy([0.5, 0.5]), LOG2)
    assert_allclose(info.entropy([[0.25] * 4, [1, 0, 0, 0]]), [2 * LOG2, 0])


def test_kl_closed_form():
    """3/4 log(3/2) + 1/4 log(1/2); infinite where q misses mass of p."""
    assert_allclose(info.kl([0.75, 0.25], HALF), 0.75 * log(1.5) - 0.25 * LOG2)
    assert info.kl(HALF, [1.0, 0.0]) == inf


@given(seeds)
def test_kl_equals_scipy(seed):
    p, _ = random_tables(seed)
    assert_allclose(info.kl(p[0], p[1]), scipy.stats.entropy(p[0], p[1]), atol=1e-12)
    assert_allclose(info.entropy(p), scipy.stats.entropy(p, axis=-1))


def test_pmi_closed_form():
    """p(y) = 1/2, so PMI is log 0.9 / 0.5 and log 0.1 / 0.5."""
    assert_allclose(info.pmi(BSC, HALF), [[log(1.8), log(0.2)], [log(0.2), log(1.8)]])


def test_pmi_impossible_reply():
    assert info.pmi([[1.0, 0.0], [0.5, 0.5]], HALF)[0, 1] == -inf


@pytest.mark.parametrize(
    "table, nats",
    [
        # symmetric channel: log 2 - H(0.1) = 0.693147 - 0.325083
        (BSC, 0.368064),
        # erasure channel: 1 - erasure, times log 2
        ([[0.75, 0.25, 0], [0, 0.25, 0.75]], 0.75 * LOG2),
        # noiseless
        (np.eye(2), LOG2),
        # independent
        ([[0.3, 0.7], [0.3, 0.7]], 0),
    ],
)
def test_mutual_information_closed_form(table, nats):
    assert_allclose(info.mutual_information(table, HALF), nats, atol=5e-7)


def test_mutual_information_gaussian():
    """I = -1/2 log(1 - rho^2): Cover and Thomas, example 8.5.1."""
    rho = 0.8
    grid = np.linspace(-6, 6, 241)
    points = np.stack(np.meshgrid(grid, grid, indexing="ij"), axis=-1)
    normal = scipy.stats.multivariate_normal([0, 0], [[1, rho], [rho, 1]])
    joint = normal.pdf(points)
    got = info.mutual_information(joint / joint.sum())
    assert_allclose(got, -0.5 * log(1 - rho**2), atol=1e-4)


@given(seeds)
def test_mutual_information_properties(seed):
    """H(X) + H(Y) - H(X,Y); symmetric; E[PMI]; between 0 and both entropies."""
    p, p_x = random_tables(seed)
    mi = info.mutual_information(p, p_x)
    joint = p_x[:, None] * p
    of_x, of_y = info.entropy(p_x), info.entropy(info.marginal(p, p_x))
    of_both = info.entropy(joint.reshape(-1))
    assert_allclose(mi, of_x + of_y - of_both, atol=1e-12)
    assert_allclose(mi, info.mutual_information(joint.T), atol=1e-12)
    assert_allclose(mi, (joint * info.pmi(joint)).sum(), atol=1e-12)
    assert -1e-12 <= mi <= min(of_x, of_y)


# ---- which contexts a reply is contrasted with ----


def test_leave_one_out_closed_form():
    """Of two contexts, the other one is all that is left."""
    assert_allclose(info.leave_one_out(BSC, [0.2, 0.8]), BSC[::-1])


@given(seeds)
def test_leave_one_out_mixes_back(seed):
    """q = p(c) p(.|c) + (1 - p(c)) q_-c for every c."""
    p, p_c = random_tables(seed)
    own = p_c[:, None] * p
    others = (1 - p_c)[:, None] * info.leave_one_out(p, p_c)
    q = np.broadcast_to(info.marginal(p, p_c), p.shape)
    assert_allclose(own + others, q, atol=1e-12)


# ---- bounds ----


@pytest.mark.parametrize("n", [2, 3, 4])
@given(seed=seeds)
@settings(max_examples=8)
def test_infonce_bound_equals_brute_force(n, seed):
    p, p_x = random_tables(seed)
    f = random_critic(seed, size=3)
    by_hand = infonce_by_brute_force(f, p, p_x, n)
    assert_allclose(info.infonce_bound(f, p, p_x, n), by_hand, atol=1e-10)


@pytest.mark.parametrize("n", [2, 5, 100])
def test_infonce_bound_noiseless(n):
    """Only ties cost: L_N = E log(1 + K), K ~ Binomial(N - 1, 1/4) others alike."""
    p, p_x = np.eye(4), np.full(4, 0.25)
    k = np.arange(n)
    chance = scipy.stats.binom(n - 1, 0.25).pmf(k)
    loss = (chance * np.log1p(k)).sum()
    got = info.infonce_bound(info.pmi(p, p_x), p, p_x, n)
    assert_allclose(got, log(n) - loss, atol=1e-10)


def test_infonce_bound_equals_samples():
    """Within four standard errors of 200,000 contrasts."""
    p, p_x = random_tables(3)
    f = info.pmi(p, p_x)
    rng = np.random.default_rng(0)
    terms = info.infonce(info.sample_scores(f, p, p_x, 200_000, 4, rng))
    error = terms.std() / 200_000**0.5
    assert abs(terms.mean() - info.infonce_bound(f, p, p_x, 4)) < 4 * error


@given(seeds, st.sampled_from([2, 3, 8, 64]), st.floats(0, 30))
@settings(max_examples=60)
def test_infonce_bound_properties(seed, n, size):
    """Any critic stays below PMI's bound, that below log N and I; c(x) cancels."""
    p, p_x = random_tables(seed)
    f = random_critic(seed, size)
    value = info.infonce_bound(f, p, p_x, n)
    best = info.infonce_bound(info.pmi(p, p_x), p, p_x, n)
    assert value <= best + 1e-10
    assert best <= log(n) + 1e-10
    assert best <= info.mutual_information(p, p_x) + 1e-10

    c_of_x = 7 * np.arange(3.0)[:, None]
    assert_allclose(info.infonce_bound(f + c_of_x, p, p_x, n), value, atol=1e-9)


def test_infonce_closed_form():
    """Equal scores: 0. A sure winner: log N. A sure loser: log N + f_0."""
    assert_allclose(info.infonce(np.zeros((2, 5))), 0, atol=1e-12)
    scores = [[900.0, 0, 0], [-900.0, -2000, 0]]
    assert_allclose(info.infonce(scores), [log(3), log(3) - 900])


def test_infonce_of_two_is_dpo():
    """log 2 - infonce = -log sigmoid(f_0 - f_1)."""
    torch = pytest.importorskip("torch")
    from mipo.losses import dpo

    h = torch.tensor([-3.0, 0.0, 0.4, 8.0], dtype=torch.float64)
    zero = torch.zeros_like(h)
    loss = dpo(h, zero, zero, zero, beta=0.5).numpy()
    scores = np.column_stack([0.5 * h.numpy(), np.zeros(4)])
    assert_allclose(loss, LOG2 - info.infonce(scores), rtol=1e-12)


@given(seeds)
def test_dv_nwj_jsd_are_bounds(seed):
    """NWJ ≤ DV ≤ I, tight at PMI + 1 and PMI + constant; JSD by scipy."""
    p, p_x = random_tables(seed)
    mi, pmi = info.mutual_information(p, p_x), info.pmi(p, p_x)
    f = random_critic(seed)

    def exact(bound, critic):
        return info.exact_bound(bound, critic, p, p_x)

    assert exact(info.nwj, f) <= exact(info.dv, f) + 1e-12
    assert exact(info.dv, f) <= mi + 1e-12
    assert_allclose(exact(info.dv, pmi + 3), mi, atol=1e-12)
    assert_allclose(exact(info.nwj, pmi + 1), mi, atol=1e-12)

    joint, shuffled = (p_x[:, None] * p).ravel(), np.outer(p_x, p_x @ p).ravel()
    highest = 2 * jensenshannon(joint, shuffled) ** 2 - 2 * LOG2  # scipy, nats
    assert_allclose(exact(info.jsd, pmi), highest, atol=1e-12)
    assert exact(info.jsd, f) <= highest + 1e-12


def test_bounds_of_samples_closed_form():
    """Two samples each: means 2 and log of mean 2; 2 - 3/2; -2 log 2."""
    assert_allclose(info.dv([1.0, 3.0], [0.0, log(3)]), 2 - LOG2)
    assert_allclose(info.nwj([1.0, 3.0], [1.0, 1 + log(2)]), 2 - 1.5)
    assert_allclose(info.jsd([0.0, 0.0], [0.0, 0.0]), -2 * LOG2)


def test_sample_scores_follow_the_law():
    """The score names its cell of the table; one x per row."""
    p, p_x = random_tables(5)
    cells = np.arange(12.0).reshape(3, 4)
    rng = np.random.default_rng(1)
    drawn = info.sample_scores(cells, p, p_x, 40_000, 3, rng).astype(int)
    joint, shuffled = (p_x[:, None] * p).ravel(), np.outer(p_x, p_x @ p).ravel()
    for column, law in enumerate([joint, shuffled, shuffled]):
        counts = np.bincount(drawn[:, column], minlength=12)
        assert scipy.stats.chisquare(counts, law * 40_000).pvalue > 1e-3
    x = drawn // 4
    assert (x == x[:, :1]).all()


# ---- the optimum ----


def test_tilted_optimum_closed_form():
    """Odds 1 : 1 times 3^(1/beta): 3 : 1 and 9 : 1."""
    ratio = [log(3), 0.0]
    assert_allclose(info.tilted_optimum(HALF, ratio, 1.0), [0.75, 0.25])
    assert_allclose(info.tilted_optimum(HALF, ratio, 0.5), [0.9, 0.1])


@given(seeds, st.floats(0.05, 20))
def test_tilted_optimum_properties(seed, beta):
    p, p_c = random_tables(seed)
    ratio = info.log_ratio(p, info.marginal(p, p_c))

    def optimum(ratio, beta, reference=p):
        return info.tilted_optimum(reference, ratio, beta)

    best = optimum(ratio, beta)
    assert_allclose(optimum(ratio + 5, beta), best, rtol=1e-9)  # c(x) cancels
    assert_allclose(optimum(0 * ratio, beta), p, atol=1e-12)
    assert_allclose(optimum(ratio, 1e9), p, atol=1e-6)
    half_way = optimum(ratio, 2 * beta)
    in_two_steps = optimum(ratio, 2 * beta, reference=half_way)
    assert_allclose(in_two_steps, best, atol=1e-12)  # tilts add up


@given(seeds, st.floats(0.05, 20))
def test_tilted_optimum_with_equal_lengths(seed, beta):
    """Means over L tokens each: beta / L."""
    p, p_c = random_tables(seed)
    ratio = info.log_ratio(p, info.marginal(p, p_c))
    got = info.tilted_optimum(p, ratio, beta, lengths=np.full(4, 3.0))
    assert_allclose(got, info.tilted_optimum(p, ratio, beta / 3), atol=1e-9)


@given(seeds, st.floats(0.3, 5))
def test_tilted_optimum_with_lengths(seed, beta):
    """beta (log pi* - log pi_ref) / L - log p/q is one constant per row."""
    p, p_c = random_tables(seed)
    ratio = info.log_ratio(p, info.marginal(p, p_c))
    lengths = np.array([1.0, 2, 5, 9])
    best = info.tilted_optimum(p, ratio, beta, lengths)
    assert_allclose(best.sum(-1), 1)
    constant = beta * (np.log(best) - np.log(p)) / lengths - ratio
    assert_allclose(constant, np.tile(constant[:, :1], 4), atol=1e-8)


def test_sharpen_closed_form():
    """0.8 : 0.2 at T = 1/2 is 16 : 1."""
    assert_allclose(info.sharpen([0.8, 0.2], 0.5), [16 / 17, 1 / 17])
    assert_allclose(info.sharpen([0.8, 0.2], 1.0), [0.8, 0.2])


@given(seeds, st.floats(0.1, 10))
def test_information_never_falls_at_the_optimum(seed, beta):
    """I(pi*) ≥ E_pi*[PMI_ref] ≥ I(pi_ref)."""
    p, p_c = random_tables(seed)
    best = info.tilted_optimum(p, info.pmi(p, p_c), beta)
    middle = info.expected_pmi(best, p, p_c)
    assert info.mutual_information(best, p_c) >= middle - 1e-10
    assert middle >= info.mutual_information(p, p_c) - 1e-10


def test_expected_pmi_closed_form():
    """The reference itself: its own information. Always flipped: log 0.2."""
    own = info.mutual_information(BSC, HALF)
    assert_allclose(info.expected_pmi(BSC, BSC, HALF), own)
    assert_allclose(info.expected_pmi(np.eye(2)[::-1], BSC, HALF), log(0.2))


# ---- token by token ----


@given(seeds, st.floats(0.01, 3))
def test_token_tilt_of_independent_slots(seed, alpha):
    """Slots independent with and without context: the tilt of whole replies."""
    p, _ = random_tables(seed, x=4, y=3)
    with_context, without = np.outer(p[0], p[1]), np.outer(p[2], p[3])
    ratio = np.log(with_context / without)
    whole = info.tilted_optimum(with_context.ravel(), ratio.ravel(), 1 / alpha)
    by_token = info.token_tilted(with_context, without, alpha)
    assert_allclose(by_token.ravel(), whole, atol=1e-10)

    untilted = info.token_tilted(with_context, without, 0)
    assert_allclose(untilted, with_context, atol=1e-12)


def test_token_tilt_of_a_shared_attribute():
    """Both slots show one binary attribute, right 3 times in 4; alpha = 1, by hand.

    In units of 1/16, p is 9 3 3 1 and q is 5 3 3 5. Whole replies: p^2 / q = 81/5, 3,
    3, 1/5, which sum to 112/5. By token: the first slot is 3/4^2 : 1/4^2 = 9 : 1. The
    second is 3/4^2 / (5/8) : 1/4^2 / (3/8) = 27 : 5 after a right one, and
    3/4^2 / (3/8) : 1/4^2 / (5/8) = 15 : 1 after a wrong one.
    """
    p, q = np.array([[9, 3], [3, 1]]) / 16, np.array([[5, 3], [3, 5]]) / 16
    ratio = np.log(p / q)
    whole = info.tilted_optimum(p.ravel(), ratio.ravel(), 1.0)
    assert_allclose(whole, np.array([81, 15, 15, 1]) / 112)

    by_token = info.token_tilted(p, q, 1.0)
    after_right, after_wrong = np.array([27, 5]) / 32, np.array([15, 1]) / 16
    assert_allclose(by_token, [0.9 * after_right, 0.1 * after_wrong])
    assert info.kl(whole, by_token.ravel()) > 0.005


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
        (lambda: info.tilted_optimum(HALF, [0.0, 1.0], 1.0, lengths=[1, 0]), "lengths"),
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
    """Scores of 1000 and -1000, N = 2, by hand.

    A tie, 1 in 2, costs log 2; a wrong reply, 1 in 10, that meets the right one 2000.
    """
    f = np.array([[1e3, -1e3], [-1e3, 1e3]])
    loss = 0.5 * LOG2 + 0.1 * 0.5 * 2000
    assert_allclose(info.infonce_bound(f, BSC, HALF, 2), LOG2 - loss)
    for bound in (info.jsd, info.dv):
        assert np.isfinite(info.exact_bound(bound, f, BSC, HALF))
