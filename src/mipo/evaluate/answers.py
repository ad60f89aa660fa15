"""Many answers to one question: pass@k, the majority's answer, and accuracy, item by item (numpy)."""

from collections import Counter

import numpy as np


def pass_at_k(correct, k):
    r"""P(at least one of k samples is right), an unbiased estimate per item from n samples of which c are right.

    1 - C(n - c, k) / C(n, k) = 1 - Π_{i = n-c+1}^{n} (1 - k/i)

    shapes  correct: (items, n) of 0 and 1, n ≥ k        returns  (items,), shares
    source  Chen et al. 2021, arXiv:2107.03374, eq. 1; 1 - (1 - c/n)^k would be biased
    """
    correct = np.asarray(correct, float)
    if correct.ndim != 2 or not 1 <= k <= correct.shape[1]:
        raise ValueError(
            f"correct has shape {correct.shape} and k is {k}; need (items, n) with 1 <= k <= n"
        )
    n = correct.shape[1]
    failed = [
        np.prod(1 - k / np.arange(n - c + 1, n + 1)) for c in range(n + 1)
    ]  # C(n - c, k) / C(n, k), 0 if n - c < k
    failed = np.where(n - np.arange(n + 1) < k, 0.0, failed)
    return 1 - failed[correct.sum(1).astype(int)]


def majority(answers):
    """The most frequent answer of each item, the first to be given among equals; None where nothing was answered.

    answers  one list per item, of hashable answers or None (a sample without an answer has no vote)
    """
    counted = [Counter(a for a in row if a is not None) for row in answers]
    return [max(votes, key=votes.get) if votes else None for votes in counted]


def log_odds(part, other, items):
    """log(part/other) of two counts out of `items`, with half an item added to each, so that none is infinite."""
    if not 0 <= part <= items or not 0 <= other <= items or items < 1:
        raise ValueError(f"{part} and {other} are not counts of {items} items")
    return float(np.log((part + 0.5) / (other + 0.5)))
