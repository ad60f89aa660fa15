"""Chapter 1: curves of bounds over N, scale and sample size, and its exercises."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from mipo import information as info

CANDIDATES = 8  # N of the sampled InfoNCE
LONGEST_SEARCH = 2**15  # candidates


def infonce_curve(
    critic: np.ndarray, p: np.ndarray, p_x: np.ndarray, ns: Sequence[int]
) -> np.ndarray:
    """The exact InfoNCE bound of one critic for each number of candidates.

    Parameters
    ----------
    critic, p : ndarray, shape (X, Y)
        f(x, y) and p(y|x).
    p_x : ndarray, shape (X,)
        Probability of each x.
    ns : sequence of int
        Numbers of candidates.

    Returns
    -------
    ndarray, shape (len(ns),)
        Nats.
    """
    return np.array([info.infonce_bound(critic, p, p_x, n) for n in ns])


def scaled_curves(
    scales: Sequence[float], pmi: np.ndarray, p: np.ndarray, p_x: np.ndarray
) -> dict[str, list[float]]:
    """Value of each bound at a critic of the right shape and the wrong scale.

    Parameters
    ----------
    scales : sequence of float
        Factors s.
    pmi, p : ndarray, shape (X, Y)
        PMI(x; y) and p(y|x).
    p_x : ndarray, shape (X,)
        Probability of each x.

    Returns
    -------
    dict
        {"DV" | "NWJ" | "N = 2" | "N = 16" | "JSD": nats, one per scale}; the critic is
        s·PMI, for NWJ s·PMI + 1.
    """
    curves: dict[str, list[float]] = {
        name: [] for name in ("DV", "NWJ", "N = 2", "N = 16", "JSD")
    }
    for s in scales:
        critic = s * pmi
        curves["DV"].append(info.exact_bound(info.dv, critic, p, p_x))
        curves["NWJ"].append(info.exact_bound(info.nwj, critic + 1, p, p_x))
        curves["N = 2"].append(info.infonce_bound(critic, p, p_x, 2))
        curves["N = 16"].append(info.infonce_bound(critic, p, p_x, 16))
        curves["JSD"].append(info.exact_bound(info.jsd, critic, p, p_x))
    return curves


def sampled_bounds(
    pmi: np.ndarray,
    p: np.ndarray,
    p_x: np.ndarray,
    sizes: Sequence[int],
    seeds: Iterable[int],
) -> dict[str, np.ndarray]:
    """Each bound at its best critic, estimated from independent samples.

    Parameters
    ----------
    pmi, p : ndarray, shape (X, Y)
        PMI(x; y) and p(y|x).
    p_x : ndarray, shape (X,)
        Probability of each x.
    sizes : sequence of int
        Pairs in a sample.
    seeds : iterable of int
        One sample of each size per seed.

    Returns
    -------
    dict
        {"DV" | "NWJ" | "InfoNCE, N = 8": ndarray of shape (len(sizes), seeds)}, nats.
    """
    seeds = list(seeds)
    shape = (len(sizes), len(seeds))
    dv, nwj, infonce = np.empty(shape), np.empty(shape), np.empty(shape)
    for row, column in np.ndindex(shape):
        size = sizes[row]
        rng = np.random.default_rng([seeds[column], size])
        scores = info.sample_scores(pmi, p, p_x, size, CANDIDATES, rng)
        real, shuffled = scores[:, 0], scores[:, 1]
        dv[row, column] = info.dv(real, shuffled)
        nwj[row, column] = info.nwj(real + 1, shuffled + 1)
        infonce[row, column] = info.infonce(scores).mean()
    return {"DV": dv, "NWJ": nwj, f"InfoNCE, N = {CANDIDATES}": infonce}


def fitted_to_noise(
    p_x: np.ndarray, p_y: np.ndarray, sizes: Sequence[int], seeds: Iterable[int]
) -> np.ndarray:
    """What DV reports of independent x and y with a critic fitted to the same sample.

    Parameters
    ----------
    p_x, p_y : ndarray, shapes (X,) and (Y,)
        The two laws; they are independent, so the truth is 0.
    sizes : sequence of int
        Pairs in a sample.
    seeds : iterable of int
        One sample of each size per seed.

    Returns
    -------
    ndarray, shape (len(sizes), seeds)
        Nats: the mutual information of the empirical frequencies.
    """
    independent = np.outer(p_x, p_y)
    seeds = list(seeds)
    reported = np.empty((len(sizes), len(seeds)))
    for row, column in np.ndindex(reported.shape):
        size = sizes[row]
        rng = np.random.default_rng([seeds[column], size])
        counts = rng.multinomial(size, independent.ravel())
        counts = counts.reshape(independent.shape)
        seen = counts[counts.sum(1) > 0]  # people who are in the sample at all
        reported[row, column] = info.mutual_information(seen / size)
    return reported


# ---- exercises ----


def nwj_loss(p: np.ndarray, p_x: np.ndarray) -> float:
    """Nats that NWJ loses when its critic is PMI without the added 1."""
    truth = float(info.mutual_information(p, p_x))
    return truth - info.exact_bound(info.nwj, info.pmi(p, p_x), p, p_x)


def changed_by_a_shift(p: np.ndarray, p_x: np.ndarray) -> set[str]:
    """The bounds whose value changes when c(x) is added to their best critic."""
    pmi = info.pmi(p, p_x)
    shift = np.linspace(-1, 1, len(p))[:, None]
    values = {}
    for name, bound, added in (
        ("DV", info.dv, 0),
        ("NWJ", info.nwj, 1),
        ("JSD", info.jsd, 0),
    ):
        best = info.exact_bound(bound, pmi + added, p, p_x)
        values[name] = best - info.exact_bound(bound, pmi + added + shift, p, p_x)
    best = info.infonce_bound(pmi, p, p_x, CANDIDATES)
    values["InfoNCE"] = best - info.infonce_bound(pmi + shift, p, p_x, CANDIDATES)
    return {name for name, nats in values.items() if abs(nats) > 1e-6}


def candidates_needed(
    follow: Iterable[float], p_x: np.ndarray, share: float = 0.95
) -> list[int]:
    """The least N, among powers of two, that certifies a share of the information.

    Parameters
    ----------
    follow : iterable of float
        Chances that a person takes their favourite; nobody has a second choice.
    p_x : ndarray, shape (X,)
        Probability of each person; reversed it is how anybody replies.
    share : float
        Share of I(X;Y) to be certified.

    Returns
    -------
    list of int
        One N for each chance.
    """
    return [_least_power_of_two(chance, p_x, share) for chance in follow]


def _least_power_of_two(chance: float, p_x: np.ndarray, share: float) -> int:
    p = chance * np.eye(len(p_x)) + (1 - chance) * p_x[::-1]
    wanted = share * float(info.mutual_information(p, p_x))
    critic, n = info.pmi(p, p_x), 2
    while info.infonce_bound(critic, p, p_x, n) <= wanted:
        n *= 2
        if n > LONGEST_SEARCH:
            raise ValueError(f"follow = {chance}: more than {n // 2} candidates")
    return n
