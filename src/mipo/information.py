"""Information in exact tables: PMI, mutual information, bounds on it, and the policy that tilting by it gives.

Everything is numpy in float64 and in nats. A table p(y|x) has shape (X, Y), one row per x; where there is a context c,
p(y|x,c) has shape (X, C, Y). Leading axes broadcast. Training such tables by gradient lives in `mipo.theory.tabular`.
"""

import numpy as np
from scipy.optimize import brentq
from scipy.special import logsumexp, rel_entr, softmax, xlogy


def _probabilities(p, name, ndim=1):
    """p as float64 if it is non-negative and sums to 1 along its last axis; ValueError otherwise."""
    p = np.asarray(p, dtype=np.float64)
    if p.ndim < ndim:
        raise ValueError(f"{name}: expected at least {ndim} axes, got shape {p.shape}")
    if not np.all(np.isfinite(p)) or np.any(p < 0):
        raise ValueError(f"{name}: probabilities must be finite and not negative")
    off = np.max(np.abs(p.sum(-1) - 1)) if p.size else 1.0
    if off > 1e-6:
        raise ValueError(
            f"{name}: must sum to 1 along the last axis; off by {off:.2g}. Divide by the sum first"
        )
    return p


def _positive(value, name):
    if not (np.isfinite(value) and value > 0):
        raise ValueError(f"{name}: must be a positive number, got {value}")
    return float(value)


def _log(p):
    with np.errstate(divide="ignore"):
        return np.log(p)


def split_joint(joint):
    """p(x,y) (X, Y) -> (p(y|x) (X, Y), p(x) (X,)). ValueError if some x has probability 0: drop its row."""
    joint = np.asarray(joint, dtype=np.float64)
    _probabilities(joint.reshape(-1), "joint")
    p_x = joint.sum(-1)
    if np.any(p_x == 0):
        raise ValueError(
            "joint: a row has probability 0, so p(y|x) is not defined there. Drop the row"
        )
    return joint / p_x[:, None], p_x


def entropy(p):
    """H = -Σ p log p over the last axis, nats. (..., Y) -> (...)."""
    p = _probabilities(p, "p")
    return -xlogy(p, p).sum(-1)


def kl(p, q):
    """KL(p‖q) = Σ p log(p/q) over the last axis, nats; inf where q misses mass of p. (..., Y) -> (...)."""
    return rel_entr(_probabilities(p, "p"), _probabilities(q, "q")).sum(-1)


def marginal(p_y_given_c, p_c):
    """q(y) = Σ_c p(c)·p(y|c): the law of replies to a random context. (..., C, Y), (..., C) -> (..., Y)."""
    p, p_c = _probabilities(p_y_given_c, "p_y_given_c", 2), _probabilities(p_c, "p_c")
    if p.shape[-2] != p_c.shape[-1]:
        raise ValueError(
            f"p_c: {p_c.shape[-1]} weights for {p.shape[-2]} rows of p_y_given_c"
        )
    return np.einsum("...cy,...c->...y", p, p_c)


def leave_one_out(p_y_given_c, p_c):
    """q_-c(y) = (q(y) - p(c)·p(y|c)) / (1 - p(c)): the marginal when c' ≠ c is forced. (..., C, Y) -> (..., C, Y)."""
    q, p, p_c = (
        marginal(p_y_given_c, p_c),
        np.asarray(p_y_given_c, float),
        np.asarray(p_c, float),
    )
    if np.any(p_c >= 1):
        raise ValueError(
            "p_c: a context has probability 1, so there is no other to draw"
        )
    left = np.maximum(
        q[..., None, :] - p_c[..., None] * p, 0
    )  # (..., C, Y); rounding may dip below 0
    return left / left.sum(-1, keepdims=True)


def pmi(p_y_given_x, p_x=None):
    """PMI(x;y) = log p(y|x) - log p(y), nats.

    source   Fano 1961; Church and Hanks 1990 named it
    shapes   (X, Y), (X,) -> (X, Y); with p_x=None the first argument is the joint p(x,y)
    limits   independent: 0 everywhere;  y impossible under x: -inf
    """
    p, p_x = (
        split_joint(p_y_given_x)
        if p_x is None
        else (np.asarray(p_y_given_x, float), p_x)
    )
    q = marginal(p, p_x)[..., None, :]
    return np.where(p > 0, _log(p) - _log(np.where(q > 0, q, 1)), -np.inf)


def mutual_information(p_y_given_x, p_x=None):
    """I(X;Y) = Σ p(x) KL(p(y|x)‖p(y)) = E[PMI], nats, 0 to min(H(X), H(Y)). As `pmi`; (..., X, Y) -> (...)."""
    p, p_x = (
        split_joint(p_y_given_x)
        if p_x is None
        else (np.asarray(p_y_given_x, float), p_x)
    )
    return (np.asarray(p_x) * kl(p, marginal(p, p_x)[..., None, :])).sum(-1)


# ---- bounds on I(X;Y) from a critic f(x,y) ----


def infonce(scores):
    """log N + f_0 - log Σ_j exp f_j: one term of the InfoNCE bound per row; index 0 is the true y. (B, N) -> (B,).

    theory  eq-infonce (01-information); van den Oord 2018, Poole 2019        units  nats, never above log N
    """
    scores = np.asarray(scores, float)
    if scores.ndim != 2 or scores.shape[1] < 2:
        raise ValueError(
            f"scores: expected (B, N) with N ≥ 2, got shape {scores.shape}"
        )
    return np.log(scores.shape[1]) + scores[:, 0] - logsumexp(scores, axis=1)


def infonce_bound(critic, p_y_given_x, p_x, n):
    """log N - L_N(f), exact: L_N = -E log(e^f(x,y_1) / Σ_j e^f(x,y_j)), y_1 ~ p(y|x), the other N-1 ~ p(y). Nats.

    With a = e^f(x,y_1) and S the sum of the others, log(a+S) = ∫ (e^-t - e^-t(a+S)) dt/t, and E e^-tS is a power: one
    integral over log t replaces |Y|^(N-1) terms. The trapezoid rule is exact to rounding for such an integrand.
    shapes   critic (X, Y), p_y_given_x (X, Y), p_x (X,) -> scalar;  f = -inf only where p(y|x) = 0
    """
    p, p_x, f = (
        _probabilities(p_y_given_x, "p_y_given_x", 2),
        _probabilities(p_x, "p_x"),
        np.asarray(critic, float),
    )
    if f.shape != p.shape:
        raise ValueError(
            f"critic: shape {f.shape} does not match p_y_given_x {p.shape}"
        )
    if n < 2 or n != int(n):
        raise ValueError(
            f"n: a contrast needs a whole number of at least 2 candidates, got {n}"
        )
    if np.any(np.isnan(f)) or np.any(f == np.inf) or np.any((f == -np.inf) & (p > 0)):
        raise ValueError(
            "critic: must be finite wherever p(y|x) > 0, and never nan or +inf"
        )
    f = f - f.max(-1, keepdims=True)  # c(x) cancels in the softmax
    lowest = f[p > 0].min()
    u = np.arange(
        -40 - np.log(n), 5 - lowest, 0.1
    )  # log t; both ends have decayed below 1e-17
    at = np.exp(
        np.minimum(f[..., None] + u, 700)
    )  # (X, Y, T) = t·e^f, kept below overflow
    phi = np.einsum(
        "y,xyt->xt", marginal(p, p_x), np.exp(-at)
    )  # (X, T) = E e^-t·exp f(x,y)
    integrand = np.exp(-np.exp(np.minimum(u, 700))) - np.exp(-at) * phi[:, None] ** (
        n - 1
    )  # (X, Y, T)
    expected_log_sum = 0.1 * integrand.sum(-1)  # (X, Y)
    gain = np.where(p > 0, np.where(p > 0, f, 0) - expected_log_sum, 0)
    return float(np.log(n) + (p_x[:, None] * p * gain).sum())


def _average(values, weights):
    values = np.asarray(values, float).reshape(-1)
    if weights is None:
        return values.mean()
    weights = np.asarray(weights, float).reshape(-1)
    return (values[weights > 0] * weights[weights > 0]).sum()  # 0·(-inf) counts as 0


def dv(joint, product, joint_weights=None, product_weights=None):
    """Donsker-Varadhan: E_joint[f] - log E_product[e^f] ≤ I, tight at f = PMI + constant.

    joint and product are critic scores (any shape, flattened): samples, or a whole table with its probabilities as
    weights, which gives the exact value. Nats. From samples it is biased upwards, for the log of a mean lies below.
    """
    product = np.asarray(product, float).reshape(-1)
    b = (
        np.full(product.size, 1 / product.size)
        if product_weights is None
        else np.asarray(product_weights).reshape(-1)
    )
    return float(_average(joint, joint_weights) - logsumexp(product, b=b))


def nwj(joint, product, joint_weights=None, product_weights=None):
    """Nguyen-Wainwright-Jordan: E_joint[f] - E_product[e^(f-1)] ≤ I, tight at f = PMI + 1 only. As `dv`; nats."""
    return float(
        _average(joint, joint_weights)
        - _average(np.exp(np.asarray(product, float) - 1), product_weights)
    )


def jsd(joint, product, joint_weights=None, product_weights=None):
    """-E_joint[softplus(-f)] - E_product[softplus(f)] ≤ 2·JSD(joint‖product) - 2 log 2, tight at f = PMI. Nats.

    A lower bound on a different divergence, at most 0: it finds the right critic but does not say how large I is.
    """
    return float(
        -_average(np.logaddexp(0, -np.asarray(joint, float)), joint_weights)
        - _average(np.logaddexp(0, np.asarray(product, float)), product_weights)
    )


def exact_bound(bound, critic, p_y_given_x, p_x):
    """Value of `dv`, `nwj` or `jsd` with every (x,y) of the table counted by its probability; nats."""
    p, p_x = _probabilities(p_y_given_x, "p_y_given_x", 2), _probabilities(p_x, "p_x")
    return bound(critic, critic, p_x[:, None] * p, p_x[:, None] * marginal(p, p_x))


def sample_scores(critic, p_y_given_x, p_x, size, n, rng):
    """Critic scores of `size` contrasts: x ~ p(x), y_0 ~ p(y|x), y_1.. ~ p(y), independent -> (size, n)."""
    p, p_x = _probabilities(p_y_given_x, "p_y_given_x", 2), _probabilities(p_x, "p_x")
    x = rng.choice(len(p_x), size, p=p_x)
    true = (
        (p.cumsum(-1)[x] < rng.random((size, 1))).sum(-1).clip(max=p.shape[1] - 1)
    )  # (size,)
    other = rng.choice(p.shape[1], (size, n - 1), p=marginal(p, p_x))
    return np.asarray(critic, float)[x[:, None], np.column_stack([true, other])]


# ---- the policy that a contrast of p against q asks for ----


def log_ratio(p, q):
    """log p(y) - log q(y), -inf where p = 0. ValueError where p > 0 = q: no finite policy is optimal there. Nats."""
    p, q = np.broadcast_arrays(_probabilities(p, "p"), _probabilities(q, "q"))
    if np.any((p > 0) & (q == 0)):
        raise ValueError(
            "q: is 0 where p is not; the optimum would put all its mass there. Smooth q first"
        )
    return np.where(p > 0, _log(p) - _log(np.where(q > 0, q, 1)), -np.inf)


def tilted_optimum(p_ref, log_ratio, beta, lengths=None):
    r"""π*(y) = π_ref(y)·exp(log_ratio(y)/β) / Z: what DPO learns from chosen ~ p, rejected ~ q, log_ratio = log p/q.

    theory   eq-optimum (02-dpo-is-pmi)         shapes  (..., Y), (..., Y), lengths (Y,) tokens -> (..., Y)
    limits   β -> inf: π_ref;  β -> 0: all mass on the largest log_ratio
    lengths  given: the optimum of DPO on token MEANS, log π* = log π_ref + L(y)·(log_ratio(y) + k)/β, where the
             constant k no longer cancels and is found from Σ π* = 1.
    """
    beta = _positive(beta, "beta")
    p_ref, ratio = np.broadcast_arrays(
        _probabilities(p_ref, "p_ref"), np.asarray(log_ratio, float)
    )
    if np.any((np.isnan(ratio) | (ratio == np.inf)) & (p_ref > 0)):
        raise ValueError("log_ratio: must not be nan or +inf where p_ref > 0")
    base = np.where(p_ref > 0, _log(p_ref), -np.inf)
    if lengths is None:
        return softmax(base + np.where(p_ref > 0, ratio, 0) / beta, axis=-1)
    lengths = np.asarray(lengths, float)
    if lengths.shape != p_ref.shape[-1:] or np.any(lengths <= 0):
        raise ValueError(
            f"lengths: expected {p_ref.shape[-1]} positive numbers of tokens, got shape {lengths.shape}"
        )
    logits = base + lengths * np.where(p_ref > 0, ratio, 0) / beta  # (..., Y)
    out = np.empty_like(logits)
    for row in np.ndindex(logits.shape[:-1]):
        bound = (
            np.abs(logsumexp(logits[row])) + 1
        ) / lengths.min()  # log Σ changes by at least min L per unit
        k = brentq(
            lambda k, row=row: logsumexp(logits[row] + lengths * k),
            -bound,
            bound,
            xtol=1e-14,
        )
        out[row] = np.exp(logits[row] + lengths * k)
    return out / out.sum(-1, keepdims=True)


def sharpen(p, temperature):
    """p_T(y) = p(y)^(1/T) / Z: the law of a sampler at temperature T > 0. (..., Y) -> (..., Y). T = 1: p."""
    return softmax(
        _log(_probabilities(p, "p")) / _positive(temperature, "temperature"), axis=-1
    )


def token_tilted(p, q, alpha):
    """Context-aware decoding slot by slot: each step ∝ p(token|before)^(1+α)·q(token|before)^-α, normalised there.

    p, q     joint laws of a reply of two slots, with and without context, (..., A, B), all positive -> (..., A, B)
    equals   the sequence-level tilt p·(p/q)^α / Z if and only if the second step's normaliser does not depend on the
             first slot. source: arXiv 2305.14739 for the decoding rule.
    """
    p, q = np.broadcast_arrays(np.asarray(p, float), np.asarray(q, float))
    if p.ndim < 2 or np.any(p <= 0) or np.any(q <= 0):
        raise ValueError("p, q: expected positive tables of shape (..., A, B)")
    first_p, first_q = p.sum(-1), q.sum(-1)  # (..., A)
    first = softmax((1 + alpha) * np.log(first_p) - alpha * np.log(first_q), axis=-1)
    second = softmax(
        (1 + alpha) * np.log(p / first_p[..., None])
        - alpha * np.log(q / first_q[..., None]),
        axis=-1,
    )
    return first[..., None] * second


def expected_pmi(policy, p_ref, p_c):
    """E_c E_{y~policy(.|c)}[PMI_ref(c;y)], nats: what the reference's own reading of a reply says about its context.

    Barber and Agakov 2003: at most I of the policy, for p_ref(c|y) is one guess at the policy's p(c|y). (C, Y) each.
    """
    policy, scores = _probabilities(policy, "policy", 2), pmi(p_ref, p_c)
    weight = np.asarray(p_c)[:, None] * policy
    return float(_average(scores, weight))
