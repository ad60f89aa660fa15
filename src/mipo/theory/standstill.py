"""Losses of a whole table in expectation, and their slope where training starts.

A table has a row of replies for each context. Its own replies are the data, as in MIPO.
A loss whose slope is zero at the reference can teach that model nothing. Torch, in
float64; the losses are those of `mipo.losses`.
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from mipo import information, losses
from mipo.theory import tabular


def expected_sft_loss(logps: Tensor, p_ref: ArrayLike, p_c: ArrayLike) -> Tensor:
    """E[sft] on the reference's own replies.

    Parameters
    ----------
    logps : Tensor, shape (C, Y)
        Log-probs of the table, nats.
    p_ref : array_like, shape (C, Y)
        Law of the replies, one row per context.
    p_c : array_like, shape (C,)
        Probability of each context.

    Returns
    -------
    Tensor
        Scalar, nats.
    """
    weights = torch.as_tensor(np.asarray(p_c)[:, None] * np.asarray(p_ref))
    each = losses.sft(logps.flatten()).reshape(logps.shape)
    return (weights * each).sum()


def expected_context_loss(
    logps: Tensor, p_ref: ArrayLike, p_c: ArrayLike, *, temperature: float
) -> Tensor:
    """E[context_infonce] over which of two contexts a reply was written for.

    Parameters
    ----------
    logps, p_ref, p_c
        See `expected_sft_loss`; both contexts are drawn from p_c independently.
    temperature : float
        As in `mipo.losses.context_infonce`.

    Returns
    -------
    Tensor
        Scalar, nats.

    Notes
    -----
    At temperature 1 and logps = log p_ref, the slope in every log-prob is 0: with s the
    softmax, p(y|c)·(1 - s) = p(y|c')·s.
    """
    p, p_c = np.asarray(p_ref), np.asarray(p_c)
    contexts, replies = p.shape
    chance = np.einsum("c,d,cy->cdy", p_c, p_c, p)  # own context, other one, reply
    shape = (contexts, contexts, replies)
    own = logps[:, None, :].expand(shape)
    other = logps[None, :, :].expand(shape)
    both = torch.stack([own, other], -1).reshape(-1, 2)
    each = losses.context_infonce(both, temperature=temperature).reshape(shape)
    return (torch.as_tensor(chance) * each).sum()


def expected_pair_loss(
    logps: Tensor, p_ref: ArrayLike, p_c: ArrayLike, *, beta: float
) -> Tensor:
    """E[dpo] on MIPO's pairs: own replies against those to a random context.

    Parameters
    ----------
    logps, p_ref, p_c
        See `expected_sft_loss`; p_ref is DPO's reference, too.
    beta : float
        As in `mipo.losses.dpo`.

    Returns
    -------
    Tensor
        Scalar, nats.
    """
    rejected = information.marginal(p_ref, p_c)
    pairs = torch.as_tensor(tabular.pair_law(p_ref, rejected))
    ref_logps = torch.as_tensor(np.log(np.asarray(p_ref)))
    each = tabular.expected_dpo_loss(logps, ref_logps, pairs, beta=beta)
    return (torch.as_tensor(np.asarray(p_c)) * each).sum()


def slope_at(p: ArrayLike, loss: Callable[[Tensor], Tensor]) -> np.ndarray:
    """Gradient of a loss in a table's logits, at the table p.

    Parameters
    ----------
    p : array_like, shape (C, Y)
        A policy, positive everywhere.
    loss : callable
        Takes the log-probs, shape (C, Y), and returns a scalar.

    Returns
    -------
    ndarray, shape (C, Y)
        Nats per unit of a logit; all 0: the table is a stationary point.

    Examples
    --------
    >>> slope_at([[0.75, 0.25]], lambda logps: -logps[0, 0])
    array([[-0.25,  0.25]])
    """
    logits = torch.as_tensor(np.log(np.asarray(p, dtype=np.float64)))
    logits = logits.requires_grad_()
    (slope,) = torch.autograd.grad(loss(logits.log_softmax(-1)), logits)
    return slope.numpy()
