"""Policies and critics written down as tables, trained on the exact, expected loss.

No sampling noise is left, so what training by gradient reaches can be compared with
theory to many digits. Torch, float64.
"""

from collections.abc import Callable
from itertools import combinations_with_replacement
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.special import gammaln
from torch import Tensor

from mipo import information, losses


class Trained(NamedTuple):
    """What training of a table reached, and how.

    Parameters
    ----------
    policy : ndarray, shape (..., Y)
        The last policy.
    losses : ndarray, shape (steps + 1,)
        Nats per pair.
    path : ndarray, shape (steps + 1, ..., Y)
        Every policy, the start included.
    """

    policy: np.ndarray
    losses: np.ndarray
    path: np.ndarray


def pair_law(chosen: ArrayLike, rejected: ArrayLike) -> np.ndarray:
    """Law of an independent pair: w(i,j) = p(y_w=i)·q(y_l=j).

    Parameters
    ----------
    chosen, rejected : array_like, shape (..., Y)
        Probabilities p and q.

    Returns
    -------
    ndarray, shape (..., Y, Y)
        Sums to 1.
    """
    p = information._probabilities(chosen, "chosen")
    q = information._probabilities(rejected, "rejected")
    return p[..., :, None] * q[..., None, :]


def expected_dpo_loss(
    logps: Tensor,
    ref_logps: Tensor,
    pairs: Tensor,
    *,
    beta: float,
    lengths: Tensor | None = None,
) -> Tensor:
    """Σ_ij w(i,j)·dpo(i, j): the population loss of a table.

    Parameters
    ----------
    logps, ref_logps : Tensor, shape (..., Y)
        Log-probs under policy and reference, nats.
    pairs : Tensor, shape (..., Y, Y)
        Weights w, index (chosen, rejected).
    beta : float
        As in `mipo.losses.dpo`.
    lengths : Tensor, shape (Y,), optional
        Tokens: log-probs are divided by them first, the length-normalised DPO.

    Returns
    -------
    Tensor, shape (...)
        Nats.
    """
    if lengths is not None:
        logps, ref_logps = logps / lengths, ref_logps / lengths
    each = losses.dpo(
        _chosen(logps, pairs),
        _rejected(logps, pairs),
        _chosen(ref_logps, pairs),
        _rejected(ref_logps, pairs),
        beta=beta,
    )
    return (pairs * each.reshape(pairs.shape)).sum((-2, -1))


def _chosen(logps: Tensor, pairs: Tensor) -> Tensor:
    return logps[..., :, None].expand(pairs.shape).flatten()


def _rejected(logps: Tensor, pairs: Tensor) -> Tensor:
    return logps[..., None, :].expand(pairs.shape).flatten()


def train_table(
    p_ref: ArrayLike,
    pairs: ArrayLike,
    *,
    beta: float,
    steps: int = 200,
    lr: float | None = None,
    lengths: ArrayLike | None = None,
) -> Trained:
    """Train a softmax table, started at p_ref, on `expected_dpo_loss`.

    Parameters
    ----------
    p_ref : array_like, shape (..., Y)
        The reference, positive everywhere.
    pairs : array_like, shape (..., Y, Y)
        Weights: ``pair_law(p, q)``, or counts of real pairs divided by their number.
    beta, lengths
        As in `expected_dpo_loss`.
    steps : int
        At most so many.
    lr : float, optional
        None: L-BFGS to convergence. A number: plain gradient steps on the sum over
        tables, to see the way there.

    Returns
    -------
    Trained
        The policy, its losses and its path.

    Raises
    ------
    ValueError
        For β ≤ 0, a p_ref with zeros, whose log-ratios are not finite, and other
        shapes.
    """
    beta = information._positive(beta, "beta")
    p_ref = information._probabilities(p_ref, "p_ref")
    if np.any(p_ref <= 0):
        raise ValueError(
            "p_ref: must be positive everywhere; drop the replies it never gives"
        )
    weights = torch.as_tensor(np.array(pairs, dtype=np.float64))
    replies = p_ref.shape[-1]
    if weights.shape[-2:] != (replies, replies):
        raise ValueError(
            f"pairs: expected (..., Y, Y) with Y = {replies}, "
            f"got {tuple(weights.shape)}"
        )
    ref = torch.as_tensor(np.log(np.broadcast_to(p_ref, weights.shape[:-1])))
    tokens = None
    if lengths is not None:
        tokens = torch.as_tensor(np.array(lengths, dtype=np.float64))
    logits = ref.clone().requires_grad_()

    def loss() -> Tensor:
        logps = logits.log_softmax(-1)
        return expected_dpo_loss(logps, ref, weights, beta=beta, lengths=tokens)

    return _minimise(logits, loss, steps, lr, float(weights.sum()))


def _minimise(
    logits: Tensor,
    loss: Callable[[], Tensor],
    steps: int,
    lr: float | None,
    weight: float = 1.0,
) -> Trained:
    """Lower the sum of the tables' losses, and keep every step.

    By L-BFGS (lr None) or gradient descent; `weight`: of all pairs.
    """
    optimizer = _optimizer(logits, lr)

    def closure() -> Any:
        optimizer.zero_grad()
        value = loss().sum()
        value.backward()
        return value

    def policy() -> np.ndarray:
        return logits.detach().softmax(-1).numpy().copy()

    path, values = [policy()], []
    for step in range(steps):
        before: Any = optimizer.step(closure)  # the loss before the step
        values.append(float(before.detach()) / weight)
        path.append(policy())
        if not np.isfinite(path[-1]).all():
            raise ValueError(f"step {step}: the loss is not finite. Lower lr")
        if lr is None and step > 0 and values[-2] == values[-1]:
            break
    with torch.no_grad():
        values.append(float(loss().sum()) / weight)
    return Trained(path[-1], np.array(values), np.stack(path))


def _optimizer(logits: Tensor, lr: float | None) -> torch.optim.Optimizer:
    if lr is not None:
        return torch.optim.SGD([logits], lr=lr)
    return torch.optim.LBFGS(
        [logits],
        max_iter=20,
        line_search_fn="strong_wolfe",
        tolerance_grad=1e-12,
        tolerance_change=1e-16,
    )


def multisets(y: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Ways to draw n of y values, order ignored.

    Parameters
    ----------
    y, n : int
        Values, and draws.

    Returns
    -------
    counts : ndarray, shape (M, y)
        How often each value is drawn.
    log_orders : ndarray, shape (M,)
        Log of how many orders each way has.
    """
    ways = list(combinations_with_replacement(range(y), n))
    draws = np.array(ways).reshape(-1, n)  # (M, n)
    counts = (draws[..., None] == np.arange(y)).sum(1)
    return counts, gammaln(n + 1) - gammaln(counts + 1).sum(-1)


def expected_infonce_loss(
    critic: Tensor, p_y_given_x: np.ndarray, p_x: np.ndarray, n: int
) -> Tensor:
    """L_N by enumeration of all negatives.

    The same number as `mipo.information.infonce_bound` gives, by another way.

    Parameters
    ----------
    critic : Tensor, shape (X, Y)
        f(x,y), finite.
    p_y_given_x, p_x : ndarray, shapes (X, Y) and (X,)
        Law of y for each x, and of x.
    n : int
        Candidates; there is one term per multiset of N - 1.

    Returns
    -------
    Tensor
        Scalar, nats.
    """
    counts, log_orders = multisets(p_y_given_x.shape[1], n - 1)
    q = information.marginal(p_y_given_x, p_x)
    log_weight = torch.as_tensor(log_orders + counts @ np.log(q))  # (M,)
    log_counts = torch.as_tensor(np.log(np.where(counts > 0, counts, 1e-300)))  # (M, Y)
    negatives = torch.logsumexp(log_counts + critic[:, None, :], -1)  # (X, M)
    total = torch.logaddexp(critic[:, :, None], negatives[:, None, :])  # (X, Y, M)
    each = (log_weight.exp() * (total - critic[:, :, None])).sum(-1)  # (X, Y)
    return (torch.as_tensor(p_x[:, None] * p_y_given_x) * each).sum()


def train_critic(
    p_y_given_x: ArrayLike, p_x: ArrayLike, n: int, *, steps: int = 60
) -> np.ndarray:
    """Return the table f(x,y) that minimises the exact InfoNCE loss, from zero.

    Parameters
    ----------
    p_y_given_x, p_x : array_like, shapes (X, Y) and (X,)
        Law of y for each x, positive everywhere, and of x.
    n : int
        Candidates.
    steps : int
        At most so many.

    Returns
    -------
    ndarray, shape (X, Y)
        Nats. Fixed only up to c(x): each row's mean under p(y) is set to 0.

    Raises
    ------
    ValueError
        For a law with zeros, where the best critic is not finite.
    """
    p = information._probabilities(p_y_given_x, "p_y_given_x", 2)
    p_x = information._probabilities(p_x, "p_x")
    if np.any(p <= 0):
        raise ValueError(
            "p_y_given_x: must be positive everywhere, "
            "else the best critic is not finite"
        )
    critic = torch.zeros(p.shape, dtype=torch.float64, requires_grad=True)
    _minimise(critic, lambda: expected_infonce_loss(critic, p, p_x, n), steps, None)
    f = critic.detach().numpy()
    return f - (f @ information.marginal(p, p_x))[:, None]
