"""Metrics against values by hand, from printed tables and other libraries; intervals against simulated coverage."""

import subprocess
import sys
from math import inf, log, nan, sqrt

import numpy as np
import pytest
from scipy import stats

from mipo import evaluate as e

# ---- intervals ----


def test_t_interval_closed_form():
    mean, low, high = e.t_interval(
        [1, 2, 3]
    )  # s = 1; printed t_{2, 0.975} = 4.30265; / √3 = 2.48414
    assert (mean, low, high) == pytest.approx((2, 2 - 2.48414, 2 + 2.48414), abs=1e-5)


def test_t_interval_equals_scipy():
    values = np.random.default_rng(0).normal(size=7)
    low, high = stats.t.interval(0.9, 6, values.mean(), stats.sem(values))
    assert e.t_interval(values, level=0.9)[1:] == pytest.approx((low, high), rel=1e-12)


@pytest.mark.parametrize(
    "k, n, low, high",
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_interval_printed_values(
    k, n, low, high
):  # Newcombe (1998), Statistics in Medicine 17, method 3
    assert e.wilson_interval(k, n) == pytest.approx((k / n, low, high), abs=5e-5)


def test_paired_bootstrap_is_paired():
    a = np.random.default_rng(0).normal(size=50) * 100
    assert e.paired_bootstrap(a + 0.25, a) == pytest.approx(
        (0.25, 0.25, 0.25), abs=1e-9
    )  # noise shared: no width left


def test_paired_bootstrap_sign():
    d, low, high = e.paired_bootstrap([3, 4, 5, 4] * 5, [1, 1, 1, 1] * 5)
    assert d == pytest.approx(3) and 2 < low < 3 < high < 4


def test_paired_bootstrap_equals_scipy_when_items_are_many():
    rng = np.random.default_rng(1)
    a, b = rng.exponential(size=2000), rng.exponential(size=2000) * 0.5
    theirs = stats.bootstrap(
        (a, b),
        lambda x, y: np.mean(x - y),
        paired=True,
        vectorized=False,
        n_resamples=2000,
        method="percentile",
        rng=rng,
    ).confidence_interval
    assert e.paired_bootstrap(a, b)[1:] == pytest.approx(
        tuple(theirs), abs=0.006
    )  # a tenth of the width


def test_paired_bootstrap_resamples_clusters_whole():
    rng = np.random.default_rng(2)
    a, b, people = rng.normal(size=30), rng.normal(size=30), np.arange(30)
    once = e.paired_bootstrap(a, b, people)
    ten_times = e.paired_bootstrap(
        np.repeat(a, 10), np.repeat(b, 10), np.repeat(people, 10)
    )
    assert ten_times == pytest.approx(
        once, abs=1e-12
    )  # copying a person's items tells nothing new about people
    loose = e.paired_bootstrap(np.repeat(a, 10), np.repeat(b, 10))
    assert loose[2] - loose[1] < 0.5 * (
        once[2] - once[1]
    )  # √10 too narrow when clusters are ignored


def test_paired_bootstrap_one_seed_leaves_people():
    a, people = np.random.default_rng(3).normal(size=20), np.arange(20)
    assert e.paired_bootstrap(a, 0 * a, [np.zeros(20), people]) == e.paired_bootstrap(
        a, 0 * a, people
    )


def covers(rng, seeds, people, per, seed_sd, person_sd, runs):
    """Share of intervals that contain the true difference 0 when the same people answer under every seed."""
    s, p = (
        np.repeat(np.arange(seeds), people * per),
        np.tile(np.repeat(np.arange(people), per), seeds),
    )
    hits = 0
    for run in range(runs):
        d = (
            seed_sd * rng.normal(size=seeds)[s]
            + person_sd * rng.normal(size=people)[p]
            + 0.5 * rng.normal(size=len(s))
        )
        levels = [x for x, many in ((s, seeds > 1), (p, people > 1)) if many]
        _, low, high = e.paired_bootstrap(d, np.zeros_like(d), levels, n=400, seed=run)
        hits += low <= 0 <= high
    return hits / runs


@pytest.mark.parametrize(
    "seeds, people, per, seed_sd, person_sd",
    [
        (1, 12, 4, 0.0, 1.0),
        (1, 40, 1, 0.0, 1.0),
        (3, 1, 20, 1.0, 0.0),
        (3, 30, 2, 0.5, 1.0),
        (5, 30, 2, 1.0, 1.0),
    ],
)
def test_paired_bootstrap_coverage(seeds, people, per, seed_sd, person_sd):
    share = covers(
        np.random.default_rng(4), seeds, people, per, seed_sd, person_sd, runs=300
    )
    assert (
        0.91 <= share <= 0.995
    )  # 95 % ± 3 standard errors of 300 runs (1.3 points each), wide side allowed


def test_plain_percentiles_of_three_seeds_do_not_cover():
    rng, hits = np.random.default_rng(5), 0
    for _ in range(1000):
        x = rng.normal(size=3)
        low, high = np.quantile(
            x[rng.integers(3, size=(400, 3))].mean(1), [0.025, 0.975]
        )
        hits += low <= 0 <= high
    assert (
        0.68 < hits / 1000 < 0.80
    )  # exactly 1 - 2·2^-3 = 75 % lie within [min, max], which bounds it


# ---- comparing ----


def test_win_rate_by_hand():
    rates = e.win_rate([5, 3, 3, 1], [4, 3, 3, 2])
    assert rates == {"win": 0.25, "tie": 0.5, "loss": 0.25, "win_or_tie": 0.75}


def test_win_rate_swap_and_tolerance():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=99), rng.normal(size=99)
    assert e.win_rate(a, b)["win"] == e.win_rate(b, a)["loss"]
    assert e.win_rate([1.0, 2.0], [1.05, 1.0], tol=0.1) == {
        "win": 0.5,
        "tie": 0.5,
        "loss": 0.0,
        "win_or_tie": 1.0,
    }


@pytest.mark.parametrize(
    "value, share",
    [(0.56, 0), (0.82, 1), (0.69, 0.5), (0.95, 0.5), (1.08, 0), (0.43, -0.5)],
)
def test_coverage_by_hand(
    value, share
):  # base 0.56, optimum 0.82: half way is 0.69, overshoot by half the way is 0.95
    assert e.coverage(0.56, value, 0.82) == pytest.approx(share)


def test_coverage_broadcasts():
    assert e.coverage(0.0, [0.5, 1.0, 1.5], 1.0) == pytest.approx([0.5, 1.0, 0.5])


def test_retrieval_credit_by_hand():
    logps = [
        [
            -1,
            -3,
            -3,
        ],  # rows are replies: the own context is best; another one is; the own ties with another
        [-5, -9, -2],
        [-2, -9, -2],
    ]
    assert e.retrieval_credit(logps, own=[0, 1, 2]) == pytest.approx([1, 0, 0.5])
    assert e.retrieval_credit(logps) == pytest.approx(
        [1, 0, 0.5]
    )  # column 0 is everybody's own
    assert e.retrieval_credit([[-1.0, -1, -1], [0, 5e-5, -1]]) == pytest.approx(
        [1 / 3, 1 / 2]
    )  # ties within 1e-4


def test_retrieval_of_an_uninformative_model_is_chance():
    assert e.retrieval_credit(
        np.zeros((8, 8)), own=np.arange(8)
    ).mean() == pytest.approx(1 / 8)
    assert e.retrieval_credit(np.full((4, 3), -inf)).mean() == pytest.approx(1 / 3)


def test_spearman_equals_scipy_with_ties():
    x, y = [1, 2, 2, 4, 5, 7], [2, 1, 1, 3, 9, 3]
    assert e.spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)
    assert e.spearman([1, 2, 3], [8, 4, 2]) == pytest.approx(-1)


def test_gain_slope_one_row_equals_scipy():
    x, y = [0.0, 0.4, 1.1, 1.9, 2.5], [0.01, 0.05, 0.04, 0.13, 0.12]
    theirs = stats.linregress(x, y)
    mine = e.gain_slope(x, y)
    half = stats.t.ppf(0.975, 3) * theirs.stderr
    assert (mine["slope"], mine["low"], mine["high"]) == pytest.approx(
        (theirs.slope, theirs.slope - half, theirs.slope + half), rel=1e-9
    )
    assert mine["spearman"] == pytest.approx(0.8)  # ranks 1 3 2 5 4: 1 - 6·4 / (5·24)


def test_gain_slope_over_seeds():
    x = np.array([0.0, 1.0, 2.0])
    result = e.gain_slope(
        x, [0.1 * x, 0.2 * x + 1, 0.3 * x - 1]
    )  # slopes by construction
    assert result["slopes"] == pytest.approx([0.1, 0.2, 0.3])
    assert (result["slope"], result["low"], result["high"]) == pytest.approx(
        (0.2, 0.2 - 0.1 * 2.48414, 0.2 + 0.1 * 2.48414), abs=1e-5
    )  # as in the t interval of 1, 2, 3
    assert result["spearman"] == pytest.approx(1)


# ---- diversity and length ----


def test_self_bleu_by_hand():
    assert e.self_bleu(["a b c d", "a b c d"]) == pytest.approx(100)
    assert e.self_bleu(["yes", "yes"]) == pytest.approx(
        100
    )  # shorter than four words: scored up to its own length
    assert e.self_bleu(["a b c d", "e f g h"]) == 0
    # matches of 1-, 2-, 3-, 4-grams: 4/5, 3/4, 2/3, 1/2; their product is 1/5, both ways round
    assert e.self_bleu(["a b c d e", "a b c d x"]) == pytest.approx(100 * 0.2**0.25)


def test_self_bleu_sample_is_seeded():
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(list("abcdef"), 12)) for _ in range(30)]
    few = [e.self_bleu(texts, sample=8, seed=s) for s in (0, 0, 1)]
    assert few[0] == few[1] != few[2]
    assert (
        e.self_bleu(texts, sample=30) == e.self_bleu(texts, sample=None) > few[0]
    )  # more references, higher score
    assert "tok:13a" in e.self_bleu_signature() and "version" in e.self_bleu_signature()


def test_distinct_n_by_hand():
    assert e.distinct_n(["a b a b", "a b"], n=2) == pytest.approx(
        2 / 4
    )  # ab ba ab | ab: two kinds of four
    assert e.distinct_n(["a b a b", "a b"], n=1) == pytest.approx(2 / 6)


def test_compression_ratio_orders():
    rng = np.random.default_rng(0)
    varied = ["".join(rng.choice(list("abcdefghijklmnop"), 40)) for _ in range(50)]
    assert e.compression_ratio([varied[0]] * 50) > 10 * e.compression_ratio(varied)
    assert (
        e.compression_ratio(varied) < 2
    )  # 16 equally likely letters carry 4 of 8 bits: 2 at best, less the overhead


def test_lengths():
    assert e.token_lengths(["one two", "", "a b  c"]).tolist() == [2, 0, 3]
    letters = lambda texts, add_special_tokens: {"input_ids": [list(t) for t in texts]}  # noqa: E731
    assert e.token_lengths(["ab", "c"], letters).tolist() == [2, 1]
    stats_ = e.length_stats([2, 4, 6])
    assert (stats_["mean"], stats_["sd"], stats_["median"], stats_["max"]) == (
        4,
        2,
        4,
        6,
    )


# ---- probabilities ----


def test_log_loss_and_brier_by_hand():
    assert e.log_loss([0.5, 0.25], [1, 0]) == pytest.approx((log(2) + log(4 / 3)) / 2)
    assert e.brier([0.5, 0.25], [1, 0]) == pytest.approx((0.25 + 0.0625) / 2)
    three = [[0.2, 0.3, 0.5], [1.0, 0.0, 0.0]]
    assert e.log_loss(three, [2, 0]) == pytest.approx(log(2) / 2)
    assert e.brier(three, [2, 0]) == pytest.approx((0.04 + 0.09 + 0.25) / 2)
    assert e.log_loss([1.0], [0]) == inf


def test_brier_binary_is_half_of_the_two_class_form():
    p, y = np.array([0.1, 0.7, 0.4]), [0, 1, 1]
    assert e.brier(np.stack([1 - p, p], 1), y) == pytest.approx(2 * e.brier(p, y))


def test_calibration_by_hand():
    result = e.calibration(
        [0.1, 0.3, 0.9, 1.0], [0, 1, 1, 1], bins=2
    )  # bins: {0.1, 0.3} and {0.9, 1.0}
    assert result["predicted"] == pytest.approx([0.2, 0.95]) and result[
        "observed"
    ] == pytest.approx([0.5, 1.0])
    assert result["count"] == [2, 2] and result["ece"] == pytest.approx(
        0.5 * 0.3 + 0.5 * 0.05
    )


def test_calibration_of_a_true_forecast():
    rng = np.random.default_rng(0)
    p = rng.random(40_000)
    assert e.calibration(p, rng.random(40_000) < p)["ece"] < 3 * sqrt(0.25 / 4000)


# ---- errors ----


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: e.t_interval([]), "0 value"),
        (lambda: e.t_interval([1.0]), "at least 2"),
        (lambda: e.t_interval([1, 2, nan]), r"values\[2\] is nan"),
        (lambda: e.t_interval([[1, 2]]), "shape"),
        (lambda: e.wilson_interval(3, 2), "3 successes of 2"),
        (lambda: e.paired_bootstrap([1, 2], [1]), "a has 2, b has 1"),
        (lambda: e.paired_bootstrap([], []), "0 value"),
        (lambda: e.paired_bootstrap([1, nan], [1, 1]), r"a\[1\]"),
        (lambda: e.paired_bootstrap([1, 2], [1, 1], ["x", "x"]), "only one"),
        (
            lambda: e.paired_bootstrap([1, 2], [1, 1], [[0, 1], [0]]),
            "level 1 has 1 ids for 2",
        ),
        (lambda: e.win_rate([1, 2], [1]), "unequal"),
        (lambda: e.win_rate([1], [inf]), r"theirs\[0\] is inf"),
        (lambda: e.coverage(0.5, 0.6, 0.5), "base equals optimum"),
        (lambda: e.coverage(0.5, nan, 0.6), "value is nan"),
        (lambda: e.retrieval_credit(np.zeros(3)), r"\(3,\)"),
        (lambda: e.retrieval_credit([[0, nan], [0, 0]]), r"logps\[0, 1\]"),
        (lambda: e.spearman([1, 1], [1, 2]), "of x are equal"),
        (lambda: e.gain_slope([1, 2, 3], [1, 2]), "each of 3 tasks"),
        (lambda: e.gain_slope([1, 1, 1], [1, 2, 3]), "same information"),
        (lambda: e.self_bleu(["a"]), "at least 2"),
        (lambda: e.self_bleu("abc"), "one string"),
        (lambda: e.distinct_n(["a"], 2), "2 words"),
        (lambda: e.distinct_n(["a", None]), r"texts\[1\] is NoneType"),
        (lambda: e.compression_ratio([""]), "empty"),
        (lambda: e.length_stats([]), "0 value"),
        (lambda: e.log_loss([0.5, 1.2], [0, 1]), r"probabilities\[1\]"),
        (lambda: e.log_loss([0.5], [2]), r"labels\[0\] is 2"),
        (lambda: e.brier([[0.5, 0.6]], [0]), "add up to 1"),
        (lambda: e.calibration([[0.5, 0.5]], [0]), "shape"),
    ],
)
def test_errors_say_where(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_import_is_light():
    code = "import sys, mipo.evaluate; sys.exit(any(m in sys.modules for m in ('torch', 'scipy.stats', 'sacrebleu')))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
