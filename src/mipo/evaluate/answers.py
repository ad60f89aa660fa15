"""Many answers to one question: pass@k, the majority's answer, log-odds."""

from collections import Counter
from collections.abc import Hashable, Iterable

import numpy as np
from numpy.typing import ArrayLike


def pass_at_k(correct: ArrayLike, k: int) -> np.ndarray:
    r"""P(at least one of k samples is right), an unbiased estimate per item.

    Parameters
    ----------
    correct : array_like, shape (items, n)
        0 or 1 for each of n ≥ k samples.
    k : int
        Samples that one may give.

    Returns
    -------
    ndarray, shape (items,)
        Shares.

    Raises
    ------
    ValueError
        For another shape and k outside 1..n.

    Notes
    -----
    1 - C(n - c, k) / C(n, k) = 1 - Π_{i = n-c+1}^{n} (1 - k/i), c of n samples right;
    1 - (1 - c/n)^k would be biased. Source: Chen et al. 2021, arXiv:2107.03374, eq. 1.
    """
    right = np.asarray(correct, float)
    if right.ndim != 2 or not 1 <= k <= right.shape[1]:
        raise ValueError(
            f"correct has shape {right.shape} and k is {k}; "
            "need (items, n) with 1 <= k <= n"
        )
    n = right.shape[1]
    wrong = n - np.arange(n + 1)  # for c = 0..n
    all_wrong = [np.prod(1 - k / np.arange(w + 1, n + 1)) for w in wrong]
    all_wrong = np.where(wrong < k, 0.0, all_wrong)  # C(n - c, k) / C(n, k)
    return 1 - all_wrong[right.sum(1).astype(int)]


def majority(answers: Iterable[Iterable[Hashable | None]]) -> list[Hashable | None]:
    """Return the most frequent answer of each item, the first to be given among equals.

    Parameters
    ----------
    answers : list of list
        Hashable answers, or None: a sample without an answer has no vote.

    Returns
    -------
    list
        One answer per item; None where nothing was answered.
    """
    return [_most_frequent(row) for row in answers]


def _most_frequent(answers: Iterable[Hashable | None]) -> Hashable | None:
    votes = Counter(answer for answer in answers if answer is not None)
    return max(votes, key=lambda answer: votes[answer]) if votes else None


def log_odds(part: float, other: float, items: int) -> float:
    """Return log(part/other) of two counts out of `items`, never infinite.

    Half an item is added to each count.

    Raises
    ------
    ValueError
        For counts outside 0..items.
    """
    if not 0 <= part <= items or not 0 <= other <= items or items < 1:
        raise ValueError(f"{part} and {other} are not counts of {items} items")
    return float(np.log((part + 0.5) / (other + 0.5)))
