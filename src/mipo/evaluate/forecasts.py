"""Probabilities against outcomes: log loss, Brier score, calibration."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from mipo.evaluate.checks import numbers, same_length


def log_loss(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Mean of -log p(label), nats per item.

    Parameters
    ----------
    probabilities : array_like, shape (N,) or (N, K)
        Probability of label 1, or of every label.
    labels : array_like, shape (N,)
        What happened, 0..K-1.

    Returns
    -------
    float
        Infinite if something happened that had probability 0.

    Raises
    ------
    ValueError
        For probabilities that do not add up to 1, and labels outside 0..K-1.
    """
    p, label = _forecast(probabilities, labels)
    with np.errstate(divide="ignore"):
        return float(-np.log(p[np.arange(len(label)), label]).mean())


def brier(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Brier score: mean squared distance of the forecast from what happened.

    Parameters
    ----------
    probabilities : array_like, shape (N,) or (N, K)
        Probability of label 1, or of every label.
    labels : array_like, shape (N,)
        What happened, 0..K-1.

    Returns
    -------
    float
        (N,): mean (p - y)², 0..1. (N, K): mean Σ_k (p_k - [y = k])², 0..2, twice the
        former at K = 2.

    Raises
    ------
    ValueError
        As `log_loss`.

    Notes
    -----
    Source: Brier (1950), "Verification of forecasts expressed in terms of probability".
    """
    p, label = _forecast(probabilities, labels)
    outcome = np.eye(p.shape[1])[label]
    score = ((p - outcome) ** 2).sum(1).mean()
    return float(score / 2 if np.ndim(probabilities) == 1 else score)


def calibration(
    probabilities: ArrayLike, labels: ArrayLike, bins: int = 10
) -> dict[str, Any]:
    """Predicted against observed share of label 1 in bins of the prediction.

    Parameters
    ----------
    probabilities : array_like, shape (N,)
        Probability of label 1.
    labels : array_like, shape (N,)
        0 or 1.
    bins : int
        Bins of equal width; empty ones are left out.

    Returns
    -------
    dict
        "predicted", "observed", "count" per bin, and
        "ece" = ``Σ count/N · |observed - predicted|``, 0..1.

    Raises
    ------
    ValueError
        For another shape, bins < 1, and as `log_loss`.
    """
    if np.ndim(probabilities) != 1 or bins < 1:
        raise ValueError(
            "calibration takes probabilities of label 1, shape (items,), and bins >= 1"
        )
    both, label = _forecast(probabilities, labels)
    p = both[:, 1]
    bin_of = np.minimum((p * bins).astype(int), bins - 1)
    counts = np.bincount(bin_of, minlength=bins)
    filled = counts > 0
    count = counts[filled]
    predicted = np.bincount(bin_of, p, minlength=bins)[filled] / count
    observed = np.bincount(bin_of, label, minlength=bins)[filled] / count
    error = (count / len(p) * np.abs(observed - predicted)).sum()
    return {
        "predicted": predicted.tolist(),
        "observed": observed.tolist(),
        "count": count.tolist(),
        "ece": float(error),
    }


def _forecast(
    probabilities: ArrayLike, labels: ArrayLike
) -> tuple[np.ndarray, np.ndarray]:
    """(N, K) probabilities and (N,) labels; (N,) probabilities are those of label 1."""
    p = numbers("probabilities", probabilities, dims=None)
    y = numbers("labels", labels)
    if p.ndim not in (1, 2):
        raise ValueError(
            f"probabilities has shape {p.shape}; expected (items,) or (items, classes)"
        )
    same_length(probabilities=p, labels=y)
    if p.ndim == 1:
        p = np.stack([1 - p, p], 1)  # (N, 2)
    no_share = ((p < 0) | (p > 1)).any(1)
    off = np.abs(p.sum(1) - 1) > 1e-4
    wrong = np.flatnonzero(no_share | off)
    if len(wrong):
        raise ValueError(
            f"probabilities[{wrong[0]}] is {p[wrong[0]].tolist()}; "
            "expected shares that add up to 1"
        )
    classes = p.shape[1]
    wrong = np.flatnonzero((y != np.round(y)) | (y < 0) | (y >= classes))
    if len(wrong):
        raise ValueError(
            f"labels[{wrong[0]}] is {y[wrong[0]]:g}; "
            f"expected a whole number in 0..{classes - 1}"
        )
    return p, y.astype(int)
