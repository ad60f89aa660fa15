"""Where a gain comes from, and how it changes with the size of the model.

Pure functions of measured numbers.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike


def tilted_mean(values: ArrayLike, pmi: ArrayLike, beta: float) -> float:
    r"""Mean of a value of replies under weights exp(PMI/β), over prompts.

    Parameters
    ----------
    values : array_like, shape (prompts, replies)
        What is averaged.
    pmi : array_like, shape (prompts, replies)
        Of the same replies, nats.
    beta : float
        1/nats; above 0.

    Returns
    -------
    float
        In the unit of the values.

    Raises
    ------
    ValueError
        For shapes that differ, and for beta <= 0.

    Notes
    -----
    Mean over prompts of Σ_k w_k v_k / Σ_k w_k, w = exp(PMI/β). With replies sampled
    from π it estimates E_{π*}[v] under π* ∝ π·exp(PMI/β), the optimum of MIPO whose
    base model is π (chapter 2). It is self-normalised, so it is too near to the plain
    mean by a term of order 1/K, for K replies.
    """
    v, nats = np.asarray(values, float), np.asarray(pmi, float)
    if v.shape != nats.shape or v.ndim != 2:
        raise ValueError(
            f"values {v.shape} and pmi {nats.shape} must have one shape "
            "(prompts, replies)"
        )
    if not beta > 0:
        raise ValueError(f"beta must be positive, got {beta}")
    weights = np.exp((nats - nats.max(1, keepdims=True)) / beta)
    return float(((weights * v).sum(1) / weights.sum(1)).mean())


def parts_of_gain(
    before: Sequence[Mapping[str, float]],
    after: Sequence[Mapping[str, float]],
    law: ArrayLike,
) -> dict[str, np.ndarray]:
    r"""The parts of a gain in adherence, seed by seed, cut in two ways.

    Parameters
    ----------
    before, after : sequence of dict
        Metrics of each seed: adherence, and valid, the share of valid replies.
    law : array_like, shape (S,)
        Adherence of the exact law.

    Returns
    -------
    dict of ndarray, shape (S,)
        gain = repaired + said = caught_up + beyond, shares of slots.

    Raises
    ------
    ValueError
        For numbers of seeds that differ.

    Notes
    -----
    A = v·a, where v is the share of valid replies and a the adherence among them:
    repaired = (v₁ - v₀)·(a₀ + a₁)/2 and said = (a₁ - a₀)·(v₀ + v₁)/2.

    With L the adherence of the exact law, caught_up = L - A₀ is what the base model
    lacks of the law that it was trained on, and beyond = A₁ - L.
    """
    goal = np.asarray(law, float)
    if not len(before) == len(after) == len(goal):
        raise ValueError(
            f"{len(before)} before, {len(after)} after and {len(goal)} of the law: "
            "one of each per seed"
        )
    all0, valid0, among0 = _adherence(before)
    all1, valid1, among1 = _adherence(after)
    return {
        "gain": all1 - all0,
        "repaired": (valid1 - valid0) * (among0 + among1) / 2,
        "said": (among1 - among0) * (valid0 + valid1) / 2,
        "caught_up": goal - all0,
        "beyond": all1 - goal,
    }


def _adherence(
    metrics: Sequence[Mapping[str, float]],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Adherence, share of valid replies, adherence among these (0 where none is)."""
    adherence = np.array([row["adherence"] for row in metrics], float)
    valid = np.array([row["valid"] for row in metrics], float)
    nothing = np.zeros_like(adherence)
    return adherence, valid, np.divide(adherence, valid, out=nothing, where=valid > 0)


def slopes(parameters: ArrayLike, table: ArrayLike) -> np.ndarray:
    """Least-squares slope of each seed against the size of the model.

    Parameters
    ----------
    parameters : array_like, shape (Z,)
        Numbers of parameters.
    table : array_like, shape (Z, S)
        A value per size and seed.

    Returns
    -------
    ndarray, shape (S,)
        Units of the values per tenfold parameters.

    Raises
    ------
    ValueError
        For fewer than two sizes, shapes that differ, and sizes that are all equal.
    """
    x, y = np.log10(np.asarray(parameters, float)), np.asarray(table, float)
    if y.ndim != 2 or len(x) != len(y) or len(x) < 2 or np.ptp(x) == 0:
        raise ValueError(
            "need values (sizes, seeds) for at least two different sizes; "
            f"got {y.shape} for {len(x)} sizes"
        )
    centred = x - x.mean()
    return centred @ (y - y.mean(0)) / (centred @ centred)


def shares(gain: ArrayLike, base: ArrayLike, goal: ArrayLike) -> np.ndarray:
    """The part of the headroom that was won: gain / (goal - base).

    Parameters
    ----------
    gain, base, goal : array_like
        Of each seed, in one unit; shapes broadcast.

    Raises
    ------
    ValueError
        Where the base model is at the goal or beyond, so that there is no headroom.
    """
    room = np.asarray(goal, float) - np.asarray(base, float)
    if (room <= 0).any():
        raise ValueError(f"no headroom: goal less base is {room.min():.3g}")
    return np.asarray(gain, float) / room
