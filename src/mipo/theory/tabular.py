"""Policies and critics written down as tables, and trained by gradient on the exact, expected loss.

No sampling noise is left, so what training reaches can be compared with theory to many digits. Torch, float64.
"""

from itertools import combinations_with_replacement
from typing import NamedTuple

import numpy as np
import torch
from scipy.special import gammaln

from mipo import information, losses


class Trained(NamedTuple):
    """policy (..., Y); losses (steps+1,) nats per pair; path (steps+1, ..., Y): every policy, the start included."""

    policy: np.ndarray
    losses: np.ndarray
    path: np.ndarray


def pair_law(chosen, rejected):
    """Law of an independent pair: w(i,j) = p(y_w=i)·q(y_l=j). (..., Y), (..., Y) -> (..., Y, Y), sums to 1."""
    chosen = information._probabilities(chosen, "chosen")
    rejected = information._probabilities(rejected, "rejected")
    return chosen[..., :, None] * rejected[..., None, :]


def expected_dpo_loss(logps, ref_logps, pairs, *, beta, lengths=None):
    """Σ_ij w(i,j)·dpo(i, j): the population loss of a table. (..., Y), (..., Y), (..., Y, Y) tensors -> (...), nats.

    lengths (Y,) tokens given: log-probs are divided by them first, the length-normalised DPO.
    """
    if lengths is not None:
        logps, ref_logps = logps / lengths, ref_logps / lengths
    chosen, rejected = (
        logps[..., :, None].expand(pairs.shape),
        logps[..., None, :].expand(pairs.shape),
    )
    ref_c, ref_r = (
        ref_logps[..., :, None].expand(pairs.shape),
        ref_logps[..., None, :].expand(pairs.shape),
    )
    each = losses.dpo(
        chosen.flatten(),
        rejected.flatten(),
        ref_c.flatten(),
        ref_r.flatten(),
        beta=beta,
    )
    return (pairs * each.reshape(pairs.shape)).sum((-2, -1))


def train_table(p_ref, pairs, *, beta, steps=200, lr=None, lengths=None):
    """A softmax table, started at p_ref, trained on `expected_dpo_loss` -> Trained.

    pairs   (..., Y, Y) weights: `pair_law(p, q)`, or counts of real pairs divided by their number
    lr      None: L-BFGS to convergence;  a number: plain gradient steps on the sum over tables, to see the way there
    errors  ValueError for β ≤ 0 or a p_ref with zeros, whose log-ratios are not finite
    """
    beta = information._positive(beta, "beta")
    p_ref = information._probabilities(p_ref, "p_ref")
    if np.any(p_ref <= 0):
        raise ValueError(
            "p_ref: must be positive everywhere; drop the replies it never gives"
        )
    pairs = torch.as_tensor(np.array(pairs, dtype=np.float64))
    if pairs.shape[-2:] != (p_ref.shape[-1],) * 2:
        raise ValueError(
            f"pairs: expected (..., Y, Y) with Y = {p_ref.shape[-1]}, got {tuple(pairs.shape)}"
        )
    ref = torch.as_tensor(np.log(np.broadcast_to(p_ref, pairs.shape[:-1])))
    tokens = (
        None
        if lengths is None
        else torch.as_tensor(np.array(lengths, dtype=np.float64))
    )
    logits = ref.clone().requires_grad_()

    def loss():
        return expected_dpo_loss(
            logits.log_softmax(-1), ref, pairs, beta=beta, lengths=tokens
        )

    return _minimise(logits, loss, steps, lr, float(pairs.sum()))


def _minimise(logits, loss, steps, lr, weight=1.0):
    """Sum of the tables' losses by L-BFGS (lr None) or gradient descent; keeps every step. weight: of all pairs."""
    if lr is None:
        optimizer = torch.optim.LBFGS(
            [logits],
            max_iter=20,
            line_search_fn="strong_wolfe",
            tolerance_grad=1e-12,
            tolerance_change=1e-16,
        )
    else:
        optimizer = torch.optim.SGD([logits], lr=lr)

    def closure():
        optimizer.zero_grad()
        value = loss().sum()
        value.backward()
        return value

    policy = lambda: logits.detach().softmax(-1).numpy().copy()  # noqa: E731
    path, values = [policy()], []
    for step in range(steps):
        values.append(
            float(optimizer.step(closure).detach()) / weight
        )  # the loss before the step
        path.append(policy())
        if not np.isfinite(path[-1]).all():
            raise ValueError(f"step {step}: the loss is not finite. Lower lr")
        if lr is None and step > 0 and values[-2] == values[-1]:
            break
    with torch.no_grad():
        values.append(float(loss().sum()) / weight)
    return Trained(path[-1], np.array(values), np.stack(path))


def multisets(y, n):
    """Ways to draw n of y values, order ignored, and how many orders each has -> counts (M, y), log orders (M,)."""
    draws = np.array(list(combinations_with_replacement(range(y), n))).reshape(
        -1, n
    )  # (M, n)
    counts = (draws[..., None] == np.arange(y)).sum(1)
    return counts, gammaln(n + 1) - gammaln(counts + 1).sum(-1)


def expected_infonce_loss(critic, p_y_given_x, p_x, n):
    """L_N by enumeration of all negatives: the same number as `information.infonce_bound`, by another way; torch, nats.

    critic (X, Y) tensor, finite; p_y_given_x (X, Y), p_x (X,) arrays -> scalar tensor. Terms: one per multiset of N-1.
    """
    counts, log_orders = multisets(p_y_given_x.shape[1], n - 1)
    q = information.marginal(p_y_given_x, p_x)
    log_weight = torch.as_tensor(log_orders + counts @ np.log(q))  # (M,)
    log_counts = torch.as_tensor(np.log(np.where(counts > 0, counts, 1e-300)))  # (M, Y)
    others = torch.logsumexp(
        log_counts + critic[:, None, :], -1
    )  # (X, M) of the negatives
    total = torch.logaddexp(critic[:, :, None], others[:, None, :])  # (X, Y, M)
    each = (log_weight.exp() * (total - critic[:, :, None])).sum(-1)  # (X, Y)
    return (torch.as_tensor(p_x[:, None] * p_y_given_x) * each).sum()


def train_critic(p_y_given_x, p_x, n, *, steps=60):
    """The table f(x,y) that minimises the exact InfoNCE loss with N candidates, from zero. -> (X, Y) array, nats.

    Fixed only up to c(x): each row is returned with its mean under p(y) set to 0.
    """
    p, p_x = (
        information._probabilities(p_y_given_x, "p_y_given_x", 2),
        information._probabilities(p_x, "p_x"),
    )
    if np.any(p <= 0):
        raise ValueError(
            "p_y_given_x: must be positive everywhere, else the best critic is not finite"
        )
    critic = torch.zeros(p.shape, dtype=torch.float64, requires_grad=True)
    _minimise(critic, lambda: expected_infonce_loss(critic, p, p_x, n), steps, None)
    f = critic.detach().numpy()
    return f - (f @ information.marginal(p, p_x))[:, None]
