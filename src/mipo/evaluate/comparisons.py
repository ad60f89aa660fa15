"""Scores against each other, against a truth, or against what a task carries."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtrit

from mipo.evaluate.checks import numbers, same_length
from mipo.evaluate.intervals import t_interval


def win_rate(ours: ArrayLike, theirs: ArrayLike, tol: float = 0.0) -> dict[str, float]:
    """Shares of items where ours scores higher, the same, lower.

    Parameters
    ----------
    ours, theirs : array_like, shape (items,)
        One score per item.
    tol : float
        Scores nearer than this are a tie.

    Returns
    -------
    dict
        "win" (strictly higher), "tie" and "loss", which add up to 1, and "win_or_tie",
        which is what the MIPO paper calls the win rate: equal scores count for the
        model.

    Raises
    ------
    ValueError
        For unequal lengths and values that are not finite.
    """
    ours, theirs = numbers("ours", ours), numbers("theirs", theirs)
    same_length(ours=ours, theirs=theirs)
    gap = ours - theirs
    win = float((gap > tol).mean())
    tie = float((np.abs(gap) <= tol).mean())
    loss = float((gap < -tol).mean())
    return {"win": win, "tie": tie, "loss": loss, "win_or_tie": win + tie}


def coverage(base: ArrayLike, value: ArrayLike, optimum: ArrayLike) -> Any:
    """``1 - |value - optimum| / |base - optimum|``: the part of the way covered.

    Parameters
    ----------
    base, value, optimum : array_like
        Where one started, is, and wants to be; shapes broadcast.

    Returns
    -------
    float or ndarray
        1 at the optimum, 0 at the base, and again 0 as far beyond the optimum as the
        base lies before it: overshoot counts as distance. Below 0: further away than
        the base.

    Raises
    ------
    ValueError
        Where base equals optimum, and for values that are not finite.
    """
    base = numbers("base", base, dims=None)
    value = numbers("value", value, dims=None)
    optimum = numbers("optimum", optimum, dims=None)
    if np.any(base == optimum):
        raise ValueError(
            "coverage: base equals optimum, so there is no distance to cover"
        )
    share = 1 - np.abs(value - optimum) / np.abs(base - optimum)
    return float(share) if share.ndim == 0 else share


def retrieval_credit(
    logps: ArrayLike, own: ArrayLike = 0, tol: float = 1e-4
) -> np.ndarray:
    """Credit per reply in "whose reply is this?".

    Parameters
    ----------
    logps : array_like, shape (N, K)
        Row i: a reply's log-prob under each of K contexts, nats; -inf allowed.
    own : int or array_like, shape (N,)
        Column of the true match, one for all or one each.
    tol : float
        Log-probs so near the highest count as equal, nats.

    Returns
    -------
    ndarray, shape (N,)
        1 if its own context gives the reply the highest log-prob, else 0; with k
        contexts at the top, the own one among them, 1/k: what a fair coin earns.
        Chance is 1/K.

    Raises
    ------
    ValueError
        For another shape and for NaN.
    """
    table = numbers("logps", logps, dims=2, infinite=True)
    best = table >= table.max(1, keepdims=True) - tol  # (N, K)
    return best[np.arange(len(best)), own] / best.sum(1)


def spearman(x: ArrayLike, y: ArrayLike) -> float:
    """Spearman's rank correlation, -1..1; ties at their mean rank.

    Parameters
    ----------
    x, y : array_like, shape (n,)
        Paired values, n ≥ 2.

    Raises
    ------
    ValueError
        Where all values of x or of y are equal, which have no order.
    """
    from scipy.stats import spearmanr  # late: it takes a second to import

    x, y = numbers("x", x, least=2), numbers("y", y, least=2)
    same_length(x=x, y=y)
    for name, values in (("x", x), ("y", y)):
        if np.ptp(values) == 0:
            raise ValueError(f"spearman: all values of {name} are equal, no order")
    return float(spearmanr(x, y).statistic)


def gain_slope(
    information: ArrayLike, gains: ArrayLike, level: float = 0.95
) -> dict[str, Any]:
    """How a gain grows with the information a task carries: slope and rank correlation.

    Parameters
    ----------
    information : array_like, shape (T,)
        Nats per task, T ≥ 3.
    gains : array_like, shape (T,) or (S, T)
        Gain per task, one row per seed.
    level : float
        Confidence level.

    Returns
    -------
    dict
        "slope", "low", "high": least squares, units of the gain per nat. With (S, T)
        the interval is Student's over the seeds' slopes; with (T,) the regression's
        own, with T - 2 degrees of freedom. "slopes": one per row. "spearman": rank
        correlation of the mean gain.

    Raises
    ------
    ValueError
        For T < 3, information that is all equal, unequal lengths.
    """
    x = numbers("information", information, least=3)
    y = np.atleast_2d(numbers("gains", gains, dims=None))  # (S, T)
    if y.ndim != 2 or y.shape[1] != len(x):
        raise ValueError(
            f"gains has shape {np.shape(gains)}; "
            f"expected one gain for each of {len(x)} tasks"
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
        half = _slope_error(centred, y[0], slope, level)
        low, high = slope - half, slope + half
    mean = y.mean(0)
    return {
        "slope": float(slope),
        "low": float(low),
        "high": float(high),
        "slopes": slopes.tolist(),
        "spearman": spearman(x, mean) if np.ptp(mean) > 0 else 0.0,
    }


def _slope_error(
    centred: np.ndarray, y: np.ndarray, slope: float, level: float
) -> float:
    """Half the width of the regression's own interval."""
    free = len(y) - 2
    residual = y - y.mean() - slope * centred
    variance = residual @ residual / free / (centred @ centred)
    return stdtrit(free, (1 + level) / 2) * np.sqrt(variance)


def length_stats(lengths: ArrayLike) -> dict[str, float]:
    """Mean, standard deviation, median, percentiles and maximum of token counts.

    Parameters
    ----------
    lengths : array_like, shape (n,)
        Token counts.

    Returns
    -------
    dict
        "mean", "sd" (n - 1; 0 for one text), "median", "p05", "p95", "max", in tokens.
    """
    lengths = numbers("lengths", lengths)
    low, median, high = np.quantile(lengths, [0.05, 0.5, 0.95])
    return {
        "mean": float(lengths.mean()),
        "sd": float(lengths.std(ddof=1)) if len(lengths) > 1 else 0.0,
        "median": float(median),
        "p05": float(low),
        "p95": float(high),
        "max": float(lengths.max()),
    }
