"""Information in exact tables.

PMI, mutual information, bounds on it, and the policy that tilting by it gives.
Everything is numpy in float64 and in nats. A table p(y|x) has shape (X, Y), one row per
x; where there is a context c, p(y|x,c) has shape (X, C, Y). Leading axes broadcast.
Training such tables by gradient lives in `mipo.theory.tabular`.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.special import logsumexp, rel_entr, softmax, xlogy


def _probabilities(p: ArrayLike, name: str, ndim: int = 1) -> np.ndarray:
    """p as float64 if it is non-negative and sums to 1 along its last axis."""
    p = np.asarray(p, dtype=np.float64)
    if p.ndim < ndim:
        raise ValueError(f"{name}: expected at least {ndim} axes, got shape {p.shape}")
    if not np.all(np.isfinite(p)) or np.any(p < 0):
        raise ValueError(f"{name}: probabilities must be finite and not negative")
    off = np.max(np.abs(p.sum(-1) - 1)) if p.size else 1.0
    if off > 1e-6:
        raise ValueError(
            f"{name}: must sum to 1 along the last axis; off by {off:.2g}. "
            "Divide by the sum first"
        )
    return p


def _positive(value: float, name: str) -> float:
    if not (np.isfinite(value) and value > 0):
        raise ValueError(f"{name}: must be a positive number, got {value}")
    return float(value)


def _log(p: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.log(p)


def _log_where_positive(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """log p - log q, -inf where p = 0, whatever q is there."""
    safe_q = np.where(q > 0, q, 1)
    return np.where(p > 0, _log(p) - _log(safe_q), -np.inf)


def split_joint(joint: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Split p(x,y) into p(y|x) and p(x).

    Parameters
    ----------
    joint : array_like, shape (X, Y)
        Probabilities that sum to 1.

    Returns
    -------
    p_y_given_x : ndarray, shape (X, Y)
    p_x : ndarray, shape (X,)

    Raises
    ------
    ValueError
        If some x has probability 0, so that p(y|x) is not defined: drop its row.
    """
    joint = np.asarray(joint, dtype=np.float64)
    _probabilities(joint.reshape(-1), "joint")
    p_x = joint.sum(-1)
    if np.any(p_x == 0):
        raise ValueError(
            "joint: a row has probability 0, so p(y|x) is not defined there. "
            "Drop the row"
        )
    return joint / p_x[:, None], p_x


def entropy(p: ArrayLike) -> np.ndarray:
    """Entropy H = -Σ p log p over the last axis.

    Parameters
    ----------
    p : array_like, shape (..., Y)
        Probabilities.

    Returns
    -------
    ndarray, shape (...)
        Nats, 0 to log Y.
    """
    p = _probabilities(p, "p")
    return -xlogy(p, p).sum(-1)


def kl(p: ArrayLike, q: ArrayLike) -> np.ndarray:
    """KL(p‖q) = Σ p log(p/q) over the last axis.

    Parameters
    ----------
    p, q : array_like, shape (..., Y)
        Probabilities.

    Returns
    -------
    ndarray, shape (...)
        Nats; inf where q misses mass of p.
    """
    return rel_entr(_probabilities(p, "p"), _probabilities(q, "q")).sum(-1)


def marginal(p_y_given_c: ArrayLike, p_c: ArrayLike) -> np.ndarray:
    """q(y) = Σ_c p(c)·p(y|c): the law of replies to a random context.

    Parameters
    ----------
    p_y_given_c : array_like, shape (..., C, Y)
        Law of replies to each context.
    p_c : array_like, shape (..., C)
        Probability of each context.

    Returns
    -------
    ndarray, shape (..., Y)
        Probabilities.

    Raises
    ------
    ValueError
        For what are no probabilities and numbers of contexts that differ.
    """
    p = _probabilities(p_y_given_c, "p_y_given_c", 2)
    p_c = _probabilities(p_c, "p_c")
    if p.shape[-2] != p_c.shape[-1]:
        raise ValueError(
            f"p_c: {p_c.shape[-1]} weights for {p.shape[-2]} rows of p_y_given_c"
        )
    return np.einsum("...cy,...c->...y", p, p_c)


def leave_one_out(p_y_given_c: ArrayLike, p_c: ArrayLike) -> np.ndarray:
    """``(q(y) - p(c)·p(y|c)) / (1 - p(c))``: the marginal where c' ≠ c is forced.

    Parameters
    ----------
    p_y_given_c : array_like, shape (..., C, Y)
        Law of replies to each context.
    p_c : array_like, shape (..., C)
        Probability of each context.

    Returns
    -------
    ndarray, shape (..., C, Y)
        One marginal for each context.

    Raises
    ------
    ValueError
        Where a context has probability 1, so that there is no other to draw.
    """
    q = marginal(p_y_given_c, p_c)
    p = np.asarray(p_y_given_c, float)
    p_c = np.asarray(p_c, float)
    if np.any(p_c >= 1):
        raise ValueError(
            "p_c: a context has probability 1, so there is no other to draw"
        )
    # rounding may dip below 0
    others = np.maximum(q[..., None, :] - p_c[..., None] * p, 0)  # (..., C, Y)
    return others / others.sum(-1, keepdims=True)


def _conditional(
    p_y_given_x: ArrayLike, p_x: ArrayLike | None
) -> tuple[np.ndarray, ArrayLike]:
    """p(y|x) and p(x), from themselves or from a joint."""
    if p_x is None:
        return split_joint(p_y_given_x)
    return np.asarray(p_y_given_x, float), p_x


def pmi(p_y_given_x: ArrayLike, p_x: ArrayLike | None = None) -> np.ndarray:
    """Pointwise mutual information PMI(x;y) = log p(y|x) - log p(y).

    Parameters
    ----------
    p_y_given_x : array_like, shape (X, Y)
        Law of y for each x; the joint p(x,y) where `p_x` is left out.
    p_x : array_like, shape (X,), optional
        Probability of each x.

    Returns
    -------
    ndarray, shape (X, Y)
        Nats. Independent: 0 everywhere. y impossible under x: -inf.

    Notes
    -----
    Source: Fano 1961; Church and Hanks 1990 named it.

    Examples
    --------
    Two people, each with a favourite that they choose nine times in ten. A favourite is
    1.8 times as likely from its person as from anybody, and log 1.8 is 0.59.

    >>> pmi([[0.9, 0.1], [0.1, 0.9]], [0.5, 0.5]).round(2)
    array([[ 0.59, -1.61],
           [-1.61,  0.59]])
    """
    p, p_x = _conditional(p_y_given_x, p_x)
    return _log_where_positive(p, marginal(p, p_x)[..., None, :])


def mutual_information(
    p_y_given_x: ArrayLike, p_x: ArrayLike | None = None
) -> np.ndarray:
    """I(X;Y) = Σ p(x) KL(p(y|x)‖p(y)) = E[PMI].

    Parameters
    ----------
    p_y_given_x : array_like, shape (..., X, Y)
        Law of y for each x; the joint p(x,y) where `p_x` is left out.
    p_x : array_like, shape (X,), optional
        Probability of each x.

    Returns
    -------
    ndarray, shape (...)
        Nats, 0 to min(H(X), H(Y)).

    Examples
    --------
    >>> float(mutual_information([[0.9, 0.1], [0.1, 0.9]], [0.5, 0.5]).round(4))
    0.3681
    """
    p, p_x = _conditional(p_y_given_x, p_x)
    divergence = kl(p, marginal(p, p_x)[..., None, :])
    return (np.asarray(p_x) * divergence).sum(-1)


# ---- bounds on I(X;Y) from a critic f(x,y) ----


def infonce(scores: ArrayLike) -> np.ndarray:
    """One term of the InfoNCE bound per row: log N + f_0 - log Σ_j exp f_j.

    Parameters
    ----------
    scores : array_like, shape (B, N)
        Critic of N ≥ 2 candidates; index 0 is the true y.

    Returns
    -------
    ndarray, shape (B,)
        Nats, never above log N.

    Raises
    ------
    ValueError
        For another shape.

    Notes
    -----
    eq-infonce (01-information). Sources: van den Oord 2018, Poole 2019.
    """
    scores = np.asarray(scores, float)
    if scores.ndim != 2 or scores.shape[1] < 2:
        raise ValueError(
            f"scores: expected (B, N) with N ≥ 2, got shape {scores.shape}"
        )
    return np.log(scores.shape[1]) + scores[:, 0] - logsumexp(scores, axis=1)


def infonce_bound(
    critic: ArrayLike, p_y_given_x: ArrayLike, p_x: ArrayLike, n: int
) -> float:
    """InfoNCE's bound log N - L_N(f), exact.

    Parameters
    ----------
    critic : array_like, shape (X, Y)
        f(x,y); -inf only where p(y|x) = 0.
    p_y_given_x : array_like, shape (X, Y)
        Law of y for each x.
    p_x : array_like, shape (X,)
        Probability of each x.
    n : int
        Candidates N ≥ 2.

    Returns
    -------
    float
        Nats, at most log N and at most I(X;Y).

    Raises
    ------
    ValueError
        For shapes that differ, n < 2, and a critic that is not finite.

    Notes
    -----
    L_N = -E log(e^f(x,y_1) / Σ_j e^f(x,y_j)), y_1 ~ p(y|x), the other N-1 ~ p(y). With
    a = e^f(x,y_1) and S the sum of the others, log(a+S) = ∫ (e^-t - e^-t(a+S)) dt/t,
    and E e^-tS is a power: one integral over log t replaces ``|Y|^(N-1)`` terms. The
    trapezoid rule is exact to rounding for such an integrand.

    Examples
    --------
    The perfect critic of two people who never say the same: two candidates certify
    little of the log 2 that there is, for half of the time they are alike.

    >>> told_apart = [[1.0, 0.0], [0.0, 1.0]]
    >>> p_x = [0.5, 0.5]
    >>> critic = pmi(told_apart, p_x)
    >>> round(infonce_bound(critic, told_apart, p_x, n=2), 4)
    0.3466
    >>> round(infonce_bound(critic, told_apart, p_x, n=64), 4)
    0.6853
    """
    p = _probabilities(p_y_given_x, "p_y_given_x", 2)
    p_x = _probabilities(p_x, "p_x")
    f = np.asarray(critic, float)
    _check_critic(f, p, n)
    f = f - f.max(-1, keepdims=True)  # c(x) cancels in the softmax
    lowest = f[p > 0].min()
    log_t = np.arange(-40 - np.log(n), 5 - lowest, 0.1)  # at both ends below 1e-17
    # t·e^f and t, kept below overflow
    t_f = np.exp(np.minimum(f[..., None] + log_t, 700))  # (X, Y, T)
    t = np.exp(np.minimum(log_t, 700))
    of_one = np.einsum("y,xyt->xt", marginal(p, p_x), np.exp(-t_f))  # E e^(-t·e^f)
    of_all = np.exp(-t_f) * of_one[:, None] ** (n - 1)
    expected_log_sum = 0.1 * (np.exp(-t) - of_all).sum(-1)  # (X, Y)
    f_true = np.where(p > 0, f, 0)
    gain = np.where(p > 0, f_true - expected_log_sum, 0)
    return float(np.log(n) + (p_x[:, None] * p * gain).sum())


def _check_critic(f: np.ndarray, p: np.ndarray, n: int) -> None:
    if f.shape != p.shape:
        raise ValueError(
            f"critic: shape {f.shape} does not match p_y_given_x {p.shape}"
        )
    if n < 2 or n != int(n):
        raise ValueError(
            f"n: a contrast needs a whole number of at least 2 candidates, got {n}"
        )
    impossible = np.isnan(f) | (f == np.inf) | ((f == -np.inf) & (p > 0))
    if np.any(impossible):
        raise ValueError(
            "critic: must be finite wherever p(y|x) > 0, and never nan or +inf"
        )


# probabilities of the joint scores and of the product scores
Weights = tuple[ArrayLike, ArrayLike]


def _average(values: ArrayLike, weights: ArrayLike | None) -> np.floating:
    values = np.asarray(values, float).reshape(-1)
    if weights is None:
        return values.mean()
    weights = np.asarray(weights, float).reshape(-1)
    counted = weights > 0  # 0·(-inf) counts as 0
    return (values[counted] * weights[counted]).sum()


def dv(joint: ArrayLike, product: ArrayLike, weights: Weights | None = None) -> float:
    """Donsker-Varadhan: E_joint[f] - log E_product[e^f] ≤ I.

    Parameters
    ----------
    joint, product : array_like
        Critic scores of pairs that belong together, and of shuffled ones; any shape,
        flattened.
    weights : (array_like, array_like), optional
        Probabilities of the joint scores and of the product scores, for the exact value
        on a whole table; see `exact_bound`. None: samples, all equal.

    Returns
    -------
    float
        Nats; tight at f = PMI + constant. From samples it is biased upwards, for the
        log of a mean lies below.
    """
    of_joint, of_product = weights or (None, None)
    product = np.asarray(product, float).reshape(-1)
    if of_product is None:
        of_product = np.full(product.size, 1 / product.size)
    log_mean = logsumexp(product, b=np.asarray(of_product).reshape(-1))
    return float(_average(joint, of_joint) - log_mean)


def nwj(joint: ArrayLike, product: ArrayLike, weights: Weights | None = None) -> float:
    """Nguyen-Wainwright-Jordan: E_joint[f] - E_product[e^(f-1)] ≤ I.

    Parameters
    ----------
    joint, product, weights
        As in `dv`.

    Returns
    -------
    float
        Nats; tight at f = PMI + 1 only.
    """
    of_joint, of_product = weights or (None, None)
    growth = np.exp(np.asarray(product, float) - 1)
    return float(_average(joint, of_joint) - _average(growth, of_product))


def jsd(joint: ArrayLike, product: ArrayLike, weights: Weights | None = None) -> float:
    """-E_joint[softplus(-f)] - E_product[softplus(f)] ≤ 2·JSD(joint‖product) - 2 log 2.

    Parameters
    ----------
    joint, product, weights
        As in `dv`.

    Returns
    -------
    float
        Nats, at most 0; tight at f = PMI. A lower bound on a different divergence: it
        finds the right critic but does not say how large I is.
    """
    of_joint, of_product = weights or (None, None)
    missed = np.logaddexp(0, -np.asarray(joint, float))
    fooled = np.logaddexp(0, np.asarray(product, float))
    return float(-_average(missed, of_joint) - _average(fooled, of_product))


def exact_bound(
    bound: Callable[..., float],
    critic: ArrayLike,
    p_y_given_x: ArrayLike,
    p_x: ArrayLike,
) -> float:
    """Value of a bound with every (x,y) of the table counted by its probability.

    Parameters
    ----------
    bound : callable
        `dv`, `nwj` or `jsd`; it takes scores of both kinds, and their probabilities.
    critic : array_like, shape (X, Y)
        f(x,y).
    p_y_given_x, p_x : array_like, shapes (X, Y) and (X,)
        The law of y for each x, and of x.

    Returns
    -------
    float
        Nats.
    """
    p = _probabilities(p_y_given_x, "p_y_given_x", 2)
    p_x = _probabilities(p_x, "p_x")
    joint = p_x[:, None] * p
    product = p_x[:, None] * marginal(p, p_x)
    return bound(critic, critic, (joint, product))


def sample_scores(
    critic: ArrayLike,
    p_y_given_x: ArrayLike,
    p_x: ArrayLike,
    size: int,
    n: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Draw critic scores of contrasts: x ~ p(x), y_0 ~ p(y|x), y_1.. ~ p(y).

    Parameters
    ----------
    critic : array_like, shape (X, Y)
        f(x,y).
    p_y_given_x, p_x : array_like, shapes (X, Y) and (X,)
        The law of y for each x, and of x.
    size, n : int
        Contrasts, and candidates of each.
    rng : numpy.random.Generator
        Source of chance.

    Returns
    -------
    ndarray, shape (size, n)
        Scores; index 0 is the true y. Draws are independent.
    """
    p = _probabilities(p_y_given_x, "p_y_given_x", 2)
    p_x = _probabilities(p_x, "p_x")
    replies = p.shape[1]
    x = rng.choice(len(p_x), size, p=p_x)
    below = p.cumsum(-1)[x] < rng.random((size, 1))
    true = below.sum(-1).clip(max=replies - 1)  # (size,)
    others = rng.choice(replies, (size, n - 1), p=marginal(p, p_x))
    candidates = np.column_stack([true, others])
    return np.asarray(critic, float)[x[:, None], candidates]


# ---- the policy that a contrast of p against q asks for ----


def log_ratio(p: ArrayLike, q: ArrayLike) -> np.ndarray:
    """Log-ratio log p(y) - log q(y), -inf where p = 0.

    Parameters
    ----------
    p, q : array_like, shape (..., Y)
        Laws of chosen and of rejected replies.

    Returns
    -------
    ndarray, shape (..., Y)
        Nats.

    Raises
    ------
    ValueError
        Where p > 0 = q: no finite policy is optimal there.
    """
    p, q = np.broadcast_arrays(_probabilities(p, "p"), _probabilities(q, "q"))
    if np.any((p > 0) & (q == 0)):
        raise ValueError(
            "q: is 0 where p is not; the optimum would put all its mass there. "
            "Smooth q first"
        )
    return _log_where_positive(p, q)


def tilted_optimum(
    p_ref: ArrayLike,
    log_ratio: ArrayLike,
    beta: float,
    lengths: ArrayLike | None = None,
) -> np.ndarray:
    r"""π*(y) = π_ref(y)·exp(log_ratio(y)/β) / Z: what DPO learns from pairs.

    Parameters
    ----------
    p_ref : array_like, shape (..., Y)
        The reference.
    log_ratio : array_like, shape (..., Y)
        log p/q, chosen ~ p and rejected ~ q; nats.
    beta : float
        Strength of the pull towards the reference, 1/nats; above 0.
    lengths : array_like, shape (Y,), optional
        Tokens L(y) of each reply: the optimum of DPO on token MEANS,
        log π* = log π_ref + L(y)·(log_ratio(y) + k)/β, where the constant k no longer
        cancels and is found from Σ π* = 1.

    Returns
    -------
    ndarray, shape (..., Y)
        Probabilities.

    Raises
    ------
    ValueError
        For beta ≤ 0, lengths that are not positive, and a log_ratio of nan or +inf
        where p_ref > 0.

    Notes
    -----
    eq-optimum (02-dpo-is-pmi). β -> inf: π_ref. β -> 0: all mass on the largest
    log_ratio.

    Examples
    --------
    A reply three times as likely among the chosen as among the rejected gains three to
    one at β = 1, nine to one at β = 1/2.

    >>> even, ratio = [0.5, 0.5], [np.log(3), 0.0]
    >>> tilted_optimum(even, ratio, beta=1.0)
    array([0.75, 0.25])
    >>> tilted_optimum(even, ratio, beta=0.5)
    array([0.9, 0.1])
    """
    beta = _positive(beta, "beta")
    p_ref, ratio = np.broadcast_arrays(
        _probabilities(p_ref, "p_ref"), np.asarray(log_ratio, float)
    )
    possible = p_ref > 0
    if np.any(possible & (np.isnan(ratio) | (ratio == np.inf))):
        raise ValueError("log_ratio: must not be nan or +inf where p_ref > 0")
    base = np.where(possible, _log(p_ref), -np.inf)
    ratio = np.where(possible, ratio, 0)
    if lengths is None:
        return softmax(base + ratio / beta, axis=-1)
    lengths = _positive_lengths(lengths, p_ref.shape[-1])
    logits = base + lengths * ratio / beta  # (..., Y)
    optimum = np.empty_like(logits)
    for row in np.ndindex(logits.shape[:-1]):
        optimum[row] = _normalised_by_length(logits[row], lengths)
    return optimum / optimum.sum(-1, keepdims=True)


def _positive_lengths(lengths: ArrayLike, replies: int) -> np.ndarray:
    lengths = np.asarray(lengths, float)
    if lengths.shape != (replies,) or np.any(lengths <= 0):
        raise ValueError(
            f"lengths: expected {replies} positive numbers of tokens, "
            f"got shape {lengths.shape}"
        )
    return lengths


def _normalised_by_length(logits: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """exp(logits + lengths·k) with the k at which it sums to 1."""

    def log_total(k: float) -> float:
        return logsumexp(logits + lengths * k)

    # the log of the sum changes by at least min L per unit of k
    bound = (np.abs(logsumexp(logits)) + 1) / lengths.min()
    k = brentq(log_total, -bound, bound, xtol=1e-14)
    return np.exp(logits + lengths * k)


def sharpen(p: ArrayLike, temperature: float) -> np.ndarray:
    """p_T(y) = p(y)^(1/T) / Z: the law of a sampler at temperature T.

    Parameters
    ----------
    p : array_like, shape (..., Y)
        Probabilities.
    temperature : float
        T > 0; T = 1: p itself.

    Returns
    -------
    ndarray, shape (..., Y)
        Probabilities.
    """
    log_p = _log(_probabilities(p, "p"))
    return softmax(log_p / _positive(temperature, "temperature"), axis=-1)


def token_tilted(p: ArrayLike, q: ArrayLike, alpha: float) -> np.ndarray:
    """Context-aware decoding slot by slot, each step normalised on its own.

    Each step is ∝ p(token|before)^(1+α) · q(token|before)^-α.

    Parameters
    ----------
    p, q : array_like, shape (..., A, B)
        Joint laws of a reply of two slots, with and without context, all positive.
    alpha : float
        Strength α of the tilt.

    Returns
    -------
    ndarray, shape (..., A, B)
        Probabilities. Equal to the sequence-level tilt p·(p/q)^α / Z if and only if the
        second step's normaliser does not depend on the first slot.

    Raises
    ------
    ValueError
        For another shape and tables that are not positive.

    Notes
    -----
    Source: arXiv:2305.14739 for the decoding rule.
    """
    p, q = np.broadcast_arrays(np.asarray(p, float), np.asarray(q, float))
    if p.ndim < 2 or np.any(p <= 0) or np.any(q <= 0):
        raise ValueError("p, q: expected positive tables of shape (..., A, B)")
    first_p, first_q = p.sum(-1), q.sum(-1)  # (..., A)
    second_p, second_q = p / first_p[..., None], q / first_q[..., None]
    first = softmax((1 + alpha) * np.log(first_p) - alpha * np.log(first_q), axis=-1)
    second = softmax((1 + alpha) * np.log(second_p) - alpha * np.log(second_q), axis=-1)
    return first[..., None] * second


def expected_pmi(policy: ArrayLike, p_ref: ArrayLike, p_c: ArrayLike) -> float:
    """E_c E_{y~policy(.|c)}[PMI_ref(c;y)]: what the reference reads out of replies.

    Parameters
    ----------
    policy, p_ref : array_like, shape (C, Y)
        Law of replies to each context.
    p_c : array_like, shape (C,)
        Probability of each context.

    Returns
    -------
    float
        Nats; at most I of the policy, for p_ref(c|y) is one guess at the policy's
        p(c|y).

    Notes
    -----
    Source: Barber and Agakov 2003.
    """
    policy = _probabilities(policy, "policy", 2)
    weights = np.asarray(p_c)[:, None] * policy
    return float(_average(pmi(p_ref, p_c), weights))
