"""Where a gain comes from, and how it changes with the size of the model: pure functions of measured numbers."""

import numpy as np


def tilted_mean(values, pmi, beta):
    r"""Mean over prompts of Σ_k w_k v_k / Σ_k w_k, w = exp(PMI/β): (P, K), (P, K) nats -> number.

    Replies k sampled from π make it an estimate of E_{π*}[v] under π* ∝ π·exp(PMI/β), the optimum of MIPO whose base model
    is π (chapter 2). Self-normalised, so too near to the plain mean by a term of order 1/K.
    errors  ValueError for shapes that differ or β not above 0
    """
    values, pmi = np.asarray(values, float), np.asarray(pmi, float)
    if values.shape != pmi.shape or values.ndim != 2:
        raise ValueError(
            f"values {values.shape} and pmi {pmi.shape} must have one shape (prompts, replies)"
        )
    if not beta > 0:
        raise ValueError(f"beta must be positive, got {beta}")
    weights = np.exp((pmi - pmi.max(1, keepdims=True)) / beta)
    return float(((weights * values).sum(1) / weights.sum(1)).mean())


def parts_of_gain(before, after, law):
    r"""{part: (S,)} of a gain G = A₁ - A₀ in adherence, seed by seed; two ways to cut it, each adds up to G.

    repaired + said       A = v·a with v the share of valid replies and a adherence among them:
                          repaired = (v₁ - v₀)·(a₀ + a₁)/2, said = (a₁ - a₀)·(v₀ + v₁)/2
    caught_up + beyond    with the exact law's adherence L: caught_up = L - A₀, what the base model lacks of the law it was
                          trained on; beyond = A₁ - L
    before, after  lists of metrics with adherence and valid        law  list of L
    """
    a0, a1 = (
        np.array([m["adherence"] for m in side], float) for side in (before, after)
    )
    v0, v1 = (np.array([m["valid"] for m in side], float) for side in (before, after))
    law = np.asarray(law, float)
    if not len(a0) == len(a1) == len(law):
        raise ValueError(
            f"{len(a0)} before, {len(a1)} after and {len(law)} of the law: one of each per seed"
        )
    among0, among1 = (
        np.divide(a, v, out=np.zeros_like(a), where=v > 0)
        for a, v in ((a0, v0), (a1, v1))
    )
    return {
        "gain": a1 - a0,
        "repaired": (v1 - v0) * (among0 + among1) / 2,
        "said": (among1 - among0) * (v0 + v1) / 2,
        "caught_up": law - a0,
        "beyond": a1 - law,
    }


def slopes(parameters, table):
    """Least-squares slope per tenfold parameters of each seed: (Z,) sizes and (Z, S) values -> (S,), units of the values.

    errors  ValueError for fewer than two sizes, shapes that differ, sizes that are all equal
    """
    x, y = np.log10(np.asarray(parameters, float)), np.asarray(table, float)
    if y.ndim != 2 or len(x) != len(y) or len(x) < 2 or np.ptp(x) == 0:
        raise ValueError(
            f"need values (sizes, seeds) for at least two different sizes; got {y.shape} for {len(x)} sizes"
        )
    centred = x - x.mean()
    return centred @ (y - y.mean(0)) / (centred @ centred)


def shares(gain, base, goal):
    """gain / (goal - base) seed by seed: the part of the headroom that was won, (S,).

    errors  ValueError where the base model is at the goal or beyond, so that there is no headroom to share
    """
    gain, room = (
        np.asarray(gain, float),
        np.asarray(goal, float) - np.asarray(base, float),
    )
    if (room <= 0).any():
        raise ValueError(f"no headroom: goal less base is {room.min():.3g}")
    return gain / room
