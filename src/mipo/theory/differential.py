"""Differential information: which rejected replies lead DPO to a wanted policy.

And what becomes of the chosen replies there. Tables of laws over the same Y replies, in
numpy and float64; leading axes broadcast. Source: arXiv:2505.23761, whose chosen
replies come from the reference, as MIPO's do.
"""

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit, softmax

from mipo.information import _positive, _probabilities


def _positive_law(p: ArrayLike, name: str) -> np.ndarray:
    p = _probabilities(p, name)
    if np.any(p <= 0):
        raise ValueError(
            f"{name}: must be positive everywhere, so that log-ratios are finite"
        )
    return p


def _log_ratio(p_ref: ArrayLike, policy: ArrayLike, name: str) -> np.ndarray:
    """log policy - log π_ref, both positive everywhere."""
    reference = _positive_law(p_ref, "p_ref")
    return np.log(_positive_law(policy, name)) - np.log(reference)


def rejected_law(
    p_ref: ArrayLike, wanted: ArrayLike, beta: float, chosen: ArrayLike | None = None
) -> np.ndarray:
    """π_l ∝ p·(π_ref/π*)^β: the rejected law that makes DPO's optimum a wanted π*.

    Parameters
    ----------
    p_ref, wanted : array_like, shape (..., Y)
        The reference and the wanted policy, positive everywhere.
    beta : float
        DPO's pull towards the reference, 1/nats; above 0.
    chosen : array_like, shape (..., Y), optional
        Law p of the chosen replies; None: the reference's own.

    Returns
    -------
    ndarray, shape (..., Y)
        Probabilities.

    Raises
    ------
    ValueError
        For beta ≤ 0 and laws with zeros.

    Notes
    -----
    eq-rejected-law (02-dpo-is-pmi). wanted = p_ref: the law of the chosen replies, so
    that a pair says nothing. Source: arXiv:2505.23761.

    Examples
    --------
    Replies come evenly, and nine to one is wanted. At β = 1 the rejected ones have to
    be one to nine.

    >>> rejected_law([0.5, 0.5], [0.9, 0.1], beta=1.0)
    array([0.1, 0.9])
    """
    beta = _positive(beta, "beta")
    gain = _log_ratio(p_ref, wanted, "wanted")
    source = _positive_law(p_ref if chosen is None else chosen, "chosen")
    return softmax(np.log(source) - beta * gain, axis=-1)


def differential_law(p_ref: ArrayLike, policy: ArrayLike) -> np.ndarray:
    """q ∝ policy/π_ref: which replies carry the evidence that turns one into the other.

    Parameters
    ----------
    p_ref, policy : array_like, shape (..., Y)
        Laws, positive everywhere.

    Returns
    -------
    ndarray, shape (..., Y)
        Probabilities. policy = p_ref: uniform, the largest entropy that there is.

    Raises
    ------
    ValueError
        For laws with zeros.

    Notes
    -----
    Source: arXiv:2505.23761, where it is called the differential information
    distribution.
    """
    return softmax(_log_ratio(p_ref, policy, "policy"), axis=-1)


def displacement(chosen: ArrayLike, p_ref: ArrayLike, policy: ArrayLike) -> np.ndarray:
    """E_chosen[log policy - log π_ref]: the mean rise of the chosen log-probs.

    Parameters
    ----------
    chosen, p_ref, policy : array_like, shape (..., Y)
        Law of the chosen replies, the reference and the trained policy; the last two
        are positive everywhere.

    Returns
    -------
    ndarray, shape (...)
        Nats; negative where the chosen replies became less likely.

    Raises
    ------
    ValueError
        For a p_ref or a policy with zeros.

    Notes
    -----
    chosen = p_ref: -KL(p_ref‖policy), never above 0. chosen = policy: KL(policy‖p_ref),
    never below 0.

    Examples
    --------
    >>> even, sharp = [0.5, 0.5], [0.9, 0.1]
    >>> float(displacement(even, even, sharp).round(3))
    -0.511
    >>> float(displacement(sharp, even, sharp).round(3))
    0.368
    """
    law = _probabilities(chosen, "chosen")
    return (law * _log_ratio(p_ref, policy, "policy")).sum(-1)


def labelled_pairs(p: ArrayLike, rewards: ArrayLike) -> np.ndarray:
    """Law of a pair of own replies with a Bradley-Terry label.

    w(i,j) = 2·p(i)·p(j)·σ(r_i - r_j): both replies come from p, and i was preferred.

    Parameters
    ----------
    p : array_like, shape (..., Y)
        Law of both replies.
    rewards : array_like, shape (..., Y)
        Nats.

    Returns
    -------
    ndarray, shape (..., Y, Y)
        Index (chosen, rejected); sums to 1. Its sum over the second index is the law of
        the chosen replies. DPO's optimum on it is π_ref·exp(r/β) / Z.

    Examples
    --------
    Two even replies, the first preferred three times in four.

    >>> labelled_pairs([0.5, 0.5], [np.log(3), 0.0])
    array([[0.25 , 0.375],
           [0.125, 0.25 ]])
    """
    p = _probabilities(p, "p")
    rewards = np.asarray(rewards, dtype=np.float64)
    preferred = expit(rewards[..., :, None] - rewards[..., None, :])
    return 2 * p[..., :, None] * p[..., None, :] * preferred
