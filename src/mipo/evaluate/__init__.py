"""Metrics and how sure they are: intervals, paired differences, win rates, diversity, retrieval, calibration."""

import numpy as np
from scipy.special import ndtri, stdtrit

from mipo.evaluate.diversity import (
    compression_ratio,
    distinct_n,
    self_bleu,
    self_bleu_signature,
    token_lengths,
)

__all__ = [
    "brier",
    "calibration",
    "compression_ratio",
    "coverage",
    "distinct_n",
    "gain_slope",
    "length_stats",
    "log_loss",
    "paired_bootstrap",
    "retrieval_credit",
    "self_bleu",
    "self_bleu_signature",
    "spearman",
    "t_interval",
    "token_lengths",
    "wilson_interval",
    "win_rate",
]


def _numbers(
    name: str, values, *, least: int = 1, dims: int | None = 1, infinite: bool = False
) -> np.ndarray:
    """values as a float array, or a ValueError that names what is wrong and where."""
    array = np.asarray(values, float)
    if dims is not None and array.ndim != dims:
        raise ValueError(
            f"{name} has shape {array.shape}; expected {dims} dimension(s)"
        )
    if array.shape and len(array) < least:
        raise ValueError(f"{name} has {len(array)} value(s); give at least {least}")
    bad = np.isnan(array) | (False if infinite else np.isinf(array))
    if bad.any():
        index = ", ".join(str(i) for i in np.argwhere(bad)[0])
        where = f"{name}[{index}]" if array.shape else name
        raise ValueError(
            f"{where} is {array[bad][0]}; leave out or repair values that are not finite numbers"
        )
    return array


def _same_length(**arrays) -> None:
    lengths = {name: len(a) for name, a in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(
            "unequal lengths: " + ", ".join(f"{k} has {v}" for k, v in lengths.items())
        )


# ---- intervals ----


def t_interval(values, level: float = 0.95) -> tuple[float, float, float]:
    r"""Mean and Student interval: mean ± t_{n-1} · s / √n with s² = Σ(v - mean)² / (n - 1).

    shapes   values: (n,), n ≥ 2, one per seed        units  those of the values
    returns  (mean, low, high)        errors  fewer than 2 values, NaN or infinite values
    source   Student (1908), "The probable error of a mean"; a percentile bootstrap of 3 seeds covers far less
    """
    values = _numbers("values", values, least=2)
    half = (
        stdtrit(len(values) - 1, (1 + level) / 2)
        * values.std(ddof=1)
        / np.sqrt(len(values))
    )
    return (
        float(values.mean()),
        float(values.mean() - half),
        float(values.mean() + half),
    )


def wilson_interval(
    successes: int, n: int, level: float = 0.95
) -> tuple[float, float, float]:
    r"""A share k/n and Wilson's interval: (k + z²/2 ± z√(k(n - k)/n + z²/4)) / (n + z²), z the normal quantile.

    units   shares in 0..1; independent items        errors  n < 1, k outside 0..n
    source  Wilson (1927), "Probable inference, the law of succession, and statistical inference"
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(
            f"{successes} successes of {n} items is not a share; need n >= 1 and 0 <= successes <= n"
        )
    z = ndtri((1 + level) / 2)
    centre, half = (
        successes + z**2 / 2,
        z * np.sqrt(successes * (n - successes) / n + z**2 / 4),
    )
    return (
        successes / n,
        float((centre - half) / (n + z**2)),
        float((centre + half) / (n + z**2)),
    )


def _levels(clusters, items: int) -> list[np.ndarray]:
    """Cluster numbers 0..G-1 of each item, one array per level that has at least two clusters."""
    if clusters is None:
        clusters = [np.arange(items)]
    elif not (
        isinstance(clusters, (list, tuple))
        and len(clusters)
        and np.ndim(clusters[0]) == 1
    ):
        clusters = [clusters]
    levels = []
    for k, ids in enumerate(clusters):
        if len(ids) != items:
            raise ValueError(
                f"clusters level {k} has {len(ids)} ids for {items} items; give one id per item"
            )
        numbers = np.unique(np.asarray(ids), return_inverse=True)[1]
        if numbers.max() > 0:
            levels.append(numbers)
    if not levels:
        raise ValueError(
            "paired_bootstrap needs at least 2 items in at least 2 clusters; there is only one"
        )
    return levels


def paired_bootstrap(
    a, b, clusters=None, n: int = 2000, seed: int = 0, level: float = 0.95
) -> tuple[float, float, float]:
    r"""Mean of a - b over paired items, with a bootstrap interval that resamples clusters whole.

    clusters  None: items are independent. One array of ids: items of one id (a person, a prompt) move together.
              A list of arrays, e.g. [seeds, people]: seeds and people are drawn independently and an item counts
              (times its seed is drawn) · (times its person is drawn): the same people answer under every seed, so
              their noise does not average out over seeds (pigeonhole bootstrap). A level with one cluster is held
              fixed: the interval is then about that seed alone.
    interval  percentiles q, stretched about the estimate d to d + k(q - d), k = t_df/z · √(Σ v_l G_l/(G_l-1) / Σ v_l).
              v_l is the variance from resampling level l alone, G_l its number of clusters and df Satterthwaite's
              (Σ v_l)² / Σ v_l²/(G_l - 1). Plain percentiles of 3 seeds cover 73 %; k → 1 with many clusters.
              Errs on the wide side where items differ at random within a crossing of levels.
    shapes    a, b: (items,)        units  those of a and b        returns  (difference, low, high)
    errors    unequal lengths, NaN, fewer than two clusters
    sources   Owen (2007), "The pigeonhole bootstrap"; Hesterberg (2015), arXiv:1411.5279, on the missing factor
    """
    a, b = _numbers("a", a), _numbers("b", b)
    _same_length(a=a, b=b)
    difference, levels, rng = (
        a - b,
        _levels(clusters, len(a)),
        np.random.default_rng(seed),
    )
    alone, joint = [], np.empty(n)
    weights = []  # per level (n, G): how often each cluster is drawn
    for ids in levels:
        size = ids.max() + 1
        weights.append(
            rng.multinomial(size, np.full(size, 1 / size), size=n).astype(float)
        )
        sums, counts = np.bincount(ids, difference), np.bincount(ids)  # (G,)
        alone.append((weights[-1] @ sums) / (weights[-1] @ counts))
    for start in range(0, n, 100):  # in slices, to keep (draws, items) small
        w = np.prod(
            [
                w[start : start + 100][:, ids]
                for w, ids in zip(weights, levels, strict=True)
            ],
            axis=0,
        )
        with np.errstate(
            invalid="ignore"
        ):  # sparse crossings can leave a draw without items
            joint[start : start + 100] = (w @ difference) / w.sum(1)
    d, sizes = float(difference.mean()), np.array([ids.max() + 1 for ids in levels])
    v = np.array([x.var() for x in alone])  # (levels,)
    if v.sum() == 0 and np.nanstd(joint) == 0:
        return d, d, d
    v = v if v.sum() > 0 else np.ones_like(v)
    df = v.sum() ** 2 / (v**2 / (sizes - 1)).sum()
    k = (
        stdtrit(df, (1 + level) / 2)
        / ndtri((1 + level) / 2)
        * np.sqrt((v * sizes / (sizes - 1)).sum() / v.sum())
    )
    low, high = np.nanquantile(joint, [(1 - level) / 2, (1 + level) / 2])
    return d, float(d + k * (low - d)), float(d + k * (high - d))


# ---- comparing with a truth, or with each other ----


def win_rate(ours, theirs, tol: float = 0.0) -> dict[str, float]:
    """Shares of items where ours scores higher, the same, lower: win + tie + loss = 1.

    win_or_tie = win + tie is what the MIPO paper calls the win rate: equal scores count for the model. `win` is strict.
    shapes  ours, theirs: (items,), one score per item        tol  scores nearer than this are a tie
    """
    ours, theirs = _numbers("ours", ours), _numbers("theirs", theirs)
    _same_length(ours=ours, theirs=theirs)
    gap = ours - theirs
    win, loss = float((gap > tol).mean()), float((gap < -tol).mean())
    tie = float((np.abs(gap) <= tol).mean())
    return {"win": win, "tie": tie, "loss": loss, "win_or_tie": win + tie}


def coverage(base, value, optimum):
    """1 - |value - optimum| / |base - optimum|: the part of the way from base to optimum that was covered.

    1 at the optimum, 0 at the base, and again 0 as far beyond the optimum as the base lies before it: overshoot
    counts as distance. Below 0: further away than the base. Plain number(s); scalars or arrays that broadcast.
    """
    base, value, optimum = (
        _numbers(k, v, dims=None)
        for k, v in (("base", base), ("value", value), ("optimum", optimum))
    )
    if np.any(base == optimum):
        raise ValueError(
            "coverage: base equals optimum, so there is no distance to cover"
        )
    share = 1 - np.abs(value - optimum) / np.abs(base - optimum)
    return float(share) if share.ndim == 0 else share


def retrieval_credit(logps, own=0, tol: float = 1e-4) -> np.ndarray:
    """Credit per reply in "whose reply is this?": 1 if its own context gives it the highest log-prob, else 0.

    With k contexts within `tol` nats of the highest, the own one among them, the credit is 1/k: what a fair coin earns.
    shapes  logps: (N, K), row i a reply under each of K contexts, nats, -inf allowed; own: the column of the true match,
            one for all or (N,)
    returns (N,) in 0..1; chance is 1/K
    """
    logps = _numbers("logps", logps, dims=2, infinite=True)
    best = logps >= logps.max(1, keepdims=True) - tol  # (N, K)
    return best[np.arange(len(best)), own] / best.sum(1)


def spearman(x, y) -> float:
    """Spearman's rank correlation, -1..1: Pearson's correlation of the ranks, ties at their mean rank."""
    from scipy.stats import rankdata  # late: scipy.stats is slow to import

    x, y = _numbers("x", x, least=2), _numbers("y", y, least=2)
    _same_length(x=x, y=y)
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        raise ValueError(
            "spearman: all values of "
            + ("x" if np.ptp(x) == 0 else "y")
            + " are equal, no order"
        )
    return float(np.corrcoef(rankdata(x), rankdata(y))[0, 1])


def gain_slope(information, gains, level: float = 0.95) -> dict:
    """How a gain grows with the information a task carries: least-squares slope and rank correlation.

    shapes   information: (T,) nats per task        gains: (T,), or (S, T) with one row per seed
    returns  {"slope", "low", "high", "slopes", "spearman"}; slope in units of the gain per nat. With (S, T) the
             interval is Student's over the seeds' slopes; with (T,) it is the regression's own, with T - 2 degrees of
             freedom. "spearman" is that of the mean gain.        errors  T < 3, all information equal, unequal lengths
    """
    x = _numbers("information", information, least=3)
    y = _numbers("gains", gains, dims=None)
    y = np.atleast_2d(y)  # (S, T)
    if y.ndim != 2 or y.shape[1] != len(x):
        raise ValueError(
            f"gains has shape {np.shape(gains)}; expected one gain for each of {len(x)} tasks"
        )
    if np.ptp(x) == 0:
        raise ValueError(
            "gain_slope: all tasks carry the same information, so there is no slope"
        )
    centred = x - x.mean()
    slopes = (y - y.mean(1, keepdims=True)) @ centred / (centred @ centred)  # (S,)
    if len(slopes) > 1:
        slope, low, high = t_interval(slopes, level)
    else:
        slope = slopes[0]
        rest = y[0] - y[0].mean() - slope * centred
        half = stdtrit(len(x) - 2, (1 + level) / 2) * np.sqrt(
            rest @ rest / (len(x) - 2) / (centred @ centred)
        )
        low, high = slope - half, slope + half
    mean = y.mean(0)
    rank = spearman(x, mean) if np.ptp(mean) > 0 else 0.0
    return {
        "slope": float(slope),
        "low": float(low),
        "high": float(high),
        "slopes": slopes.tolist(),
        "spearman": rank,
    }


# ---- length ----


def length_stats(lengths) -> dict[str, float]:
    """Mean, standard deviation (n - 1), median, 5th and 95th percentile and maximum of token counts, in tokens."""
    lengths = _numbers("lengths", lengths)
    low, median, high = np.quantile(lengths, [0.05, 0.5, 0.95])
    return {
        "mean": float(lengths.mean()),
        "sd": float(lengths.std(ddof=1)) if len(lengths) > 1 else 0.0,
        "median": float(median),
        "p05": float(low),
        "p95": float(high),
        "max": float(lengths.max()),
    }


# ---- probabilities against outcomes ----


def _forecast(probabilities, labels) -> tuple[np.ndarray, np.ndarray]:
    """(N, K) probabilities and (N,) labels 0..K-1; (N,) probabilities are those of label 1."""
    p, y = (
        _numbers("probabilities", probabilities, dims=None),
        _numbers("labels", labels),
    )
    if p.ndim not in (1, 2):
        raise ValueError(
            f"probabilities has shape {p.shape}; expected (items,) or (items, classes)"
        )
    _same_length(probabilities=p, labels=y)
    p = np.stack([1 - p, p], 1) if p.ndim == 1 else p  # (N, K)
    wrong = np.flatnonzero(((p < 0) | (p > 1)).any(1) | (np.abs(p.sum(1) - 1) > 1e-4))
    if len(wrong):
        raise ValueError(
            f"probabilities[{wrong[0]}] is {p[wrong[0]].tolist()}; expected shares that add up to 1"
        )
    wrong = np.flatnonzero((y != np.round(y)) | (y < 0) | (y >= p.shape[1]))
    if len(wrong):
        raise ValueError(
            f"labels[{wrong[0]}] is {y[wrong[0]]:g}; expected a whole number in 0..{p.shape[1] - 1}"
        )
    return p, y.astype(int)


def log_loss(probabilities, labels) -> float:
    """Mean of -log p(label), nats per item; infinite if something happened that had probability 0.

    shapes  probabilities: (N,) of label 1, or (N, K)        labels: (N,) in 0..K-1
    """
    p, y = _forecast(probabilities, labels)
    with np.errstate(divide="ignore"):
        return float(-np.log(p[np.arange(len(y)), y]).mean())


def brier(probabilities, labels) -> float:
    """Brier score. (N,): mean (p - y)², 0..1. (N, K): mean Σ_k (p_k - [y = k])², 0..2, twice the former at K = 2.

    source  Brier (1950), "Verification of forecasts expressed in terms of probability"
    """
    p, y = _forecast(probabilities, labels)
    score = ((p - np.eye(p.shape[1])[y]) ** 2).sum(1).mean()
    return float(score / 2 if np.ndim(probabilities) == 1 else score)


def calibration(probabilities, labels, bins: int = 10) -> dict:
    """Predicted against observed share of label 1 in equal-width bins of the prediction; empty bins are left out.

    returns  {"predicted", "observed", "count"} per bin, and "ece" = Σ count/N · |observed - predicted|, 0..1
    shapes   probabilities: (N,) of label 1        labels: (N,) of 0 and 1
    """
    if np.ndim(probabilities) != 1 or bins < 1:
        raise ValueError(
            "calibration takes probabilities of label 1, shape (items,), and bins >= 1"
        )
    p, y = _forecast(probabilities, labels)
    p = p[:, 1]
    bin_of = np.minimum((p * bins).astype(int), bins - 1)
    count = np.bincount(bin_of, minlength=bins)
    kept = count > 0
    predicted = np.bincount(bin_of, p, minlength=bins)[kept] / count[kept]
    observed = np.bincount(bin_of, y, minlength=bins)[kept] / count[kept]
    ece = float((count[kept] / len(p) * np.abs(observed - predicted)).sum())
    return {
        "predicted": predicted.tolist(),
        "observed": observed.tolist(),
        "count": count[kept].tolist(),
        "ece": ece,
    }
