"""Chapter 11, what tuning is worth: grids of one size, regret, search curves.

A run that diverged counts as adherence 0 with every reply broken (see
`experiment.Trial`), so nothing here is missing.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import comb
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from mipo import losses
from mipo.losses.declaration import keyword
from mipo_study.methods import settings_of

SEARCHED = ("dpo", "simpo", "rmipo")
# Of RMiPO's margin, constants in its released code.
KNOBS = ("gamma_min", "gamma_max", "scale")


@dataclass(frozen=True)
class Point:
    """One setting of a search: a column of its heat map is a rate, a row the rest.

    Attributes
    ----------
    method : str
        One of `SEARCHED`.
    lr, beta : float
        Learning rate, and the loss's β.
    margin : str
        What is set beside them, in words.
    more : tuple of (str, float)
        Further keywords of the loss, as sorted items.
    """

    method: str
    lr: float
    beta: float
    margin: str = ""
    more: tuple[tuple[str, float], ...] = ()

    @property
    def setting(self) -> dict[str, Any]:
        """Keywords of `experiment.train` without the rate: the loss and its own."""
        return {
            "loss": self.method,
            "loss_kwargs": {"beta": self.beta, **dict(self.more)},
        }

    @property
    def row(self) -> str:
        """All but the learning rate, in words."""
        beta = f"β = {self.beta:g}"
        return f"{self.margin}, {beta}" if self.margin else beta

    @property
    def name(self) -> str:
        """Words for the names of numbers, e.g. simpo-beta-2-gamma-1-lr-0.00015."""
        values = [("beta", self.beta), *self.more, ("lr", self.lr)]
        words = [f"{key.replace('_', '-')}-{value:g}" for key, value in values]
        return "-".join([self.method, *words])

    def at(self, factor: float) -> Point:
        """The same at `factor` times the learning rate, to three significant digits."""
        return replace(self, lr=float(f"{factor * self.lr:.3g}"))


def dpo(lr: float, beta: float) -> Point:
    """DPO by its β, 1/nats."""
    return Point("dpo", lr, beta)


def simpo(lr: float, beta: float, ratio: float) -> Point:
    """SimPO by its authors' γ/β, the gap at which a pair is half learned.

    Parameters
    ----------
    lr : float
        Learning rate.
    beta : float
        Of the loss.
    ratio : float
        γ/β, nats per token; γ is kept to six significant digits.
    """
    gamma = float(f"{ratio * beta:.6g}")
    return Point("simpo", lr, beta, f"γ/β = {ratio:g}", (("gamma", gamma),))


def rmipo(lr: float, beta: float, margin: Sequence[float]) -> Point:
    """RMiPO, in the code's convention, by its margin.

    Parameters
    ----------
    lr : float
        Learning rate.
    beta : float
        Of the loss.
    margin : (γ_min, γ_max, scale)
        Nats per token. Keywords that equal the loss's own are left out, so that the
        published setting finds the runs of chapter 9.
    """
    given = dict(zip(KNOBS, margin, strict=True))
    words = f"γ {given['gamma_min']:g}–{given['gamma_max']:g}, scale {given['scale']:g}"
    own = dict(zip(KNOBS, _published_margin(), strict=True))
    changed = sorted((key, value) for key, value in given.items() if value != own[key])
    return Point("rmipo", lr, beta, words, tuple(changed))


def published(lr: float) -> dict[str, Point]:
    """Each method's setting in protocol "published", at a learning rate of ours."""
    kwargs = {name: settings_of(name).kwargs for name in SEARCHED}
    ratio = kwargs["simpo"]["gamma"] / kwargs["simpo"]["beta"]
    return {
        "dpo": dpo(lr, kwargs["dpo"]["beta"]),
        "simpo": simpo(lr, kwargs["simpo"]["beta"], ratio),
        "rmipo": rmipo(lr, kwargs["rmipo"]["beta"], _published_margin()),
    }


def _published_margin() -> list[float]:
    kwargs = settings_of("rmipo").kwargs
    return [keyword(losses.rmipo, key, kwargs) for key in KNOBS]


def grids(
    rates: Sequence[float],
    *,
    dpo_betas: Sequence[float],
    betas: Sequence[float],
    ratios: Sequence[float],
    margins: Sequence[Sequence[float]],
) -> dict[str, list[Point]]:
    """The points of each method's grid: every learning rate with every other setting.

    Parameters
    ----------
    rates : sequence of float
        Learning rates of all methods.
    dpo_betas : sequence of float
        Of DPO, 1/nats.
    betas : sequence of float
        Of SimPO, with every ratio, and of RMiPO, with every margin.
    ratios : sequence of float
        γ/β of SimPO, nats per token.
    margins : sequence of (γ_min, γ_max, scale)
        Of RMiPO, nats per token.

    Returns
    -------
    dict
        {method: its points}, as many for each.

    Raises
    ------
    ValueError
        For budgets that differ, a setting given twice, and published settings that lie
        outside the grid.
    """
    grids = {
        "dpo": [dpo(lr, b) for b in dpo_betas for lr in rates],
        "simpo": [simpo(lr, b, r) for r in ratios for b in betas for lr in rates],
        "rmipo": [rmipo(lr, b, m) for m in margins for b in betas for lr in rates],
    }
    sizes = {name: len(points) for name, points in grids.items()}
    if len(set(sizes.values())) > 1:
        raise ValueError(
            f"the methods must have equal budgets; the grids have {sizes} points"
        )
    for name, default in published(rates[0]).items():
        if len(set(grids[name])) < len(grids[name]):
            raise ValueError(f"{name}: a setting stands in the grid twice")
        if default not in grids[name]:
            raise ValueError(
                f"{name}: its published setting {default.setting['loss_kwargs']} "
                "is not in the grid"
            )
    return grids


def along(points: Sequence[Point], point: Point, axis: str) -> list[Point]:
    """The points that differ from `point` at most in one axis.

    Parameters
    ----------
    points : sequence of Point
        Of any methods.
    point : Point
        Through which the line goes.
    axis : str
        "lr", "beta" (for SimPO γ/β stays, not γ) or "margin".

    Raises
    ------
    ValueError
        For another axis.
    """
    axes = {"lr", "beta", "margin"}
    if axis not in axes:
        raise ValueError(f"axis={axis!r}: choose one of {', '.join(sorted(axes))}")
    same = operator.attrgetter("method", *(axes - {axis}))
    return [p for p in points if same(p) == same(point)]


# ---- measures: adherence in, adherence out (shares of slots) ----


def choose(
    scores: Mapping[Hashable, float], favourite: Hashable | None = None
) -> Hashable:
    """The key of the highest score; among equals the favourite, else the first.

    Raises
    ------
    ValueError
        For no scores, and for one that is no finite number.
    """
    _finite(list(scores.values()))
    highest = max(scores.values())
    best = [key for key, score in scores.items() if score == highest]
    return favourite if favourite in best else best[0]


def regret(best: ArrayLike, got: ArrayLike) -> np.ndarray:
    """What a choice costs, seed by seed: the best score less the one got.

    Parameters
    ----------
    best, got : array_like, shape (S,)
        One score per seed.

    Returns
    -------
    ndarray, shape (S,)
        Above 0 where something else would have done better on new people.

    Raises
    ------
    ValueError
        For lengths that differ and for values that are no finite numbers.
    """
    highest, ours = _finite(best), _finite(got)
    if highest.shape != ours.shape:
        raise ValueError(
            f"{highest.shape} and {ours.shape}: one value per seed on each side"
        )
    return highest - ours


def good_share(scores: ArrayLike, within: float) -> float:
    """Share of a grid's points that are at most `within` below its best, 1/n to 1."""
    if within < 0:
        raise ValueError(f"within={within!r} must be at least 0")
    values = _finite(scores)
    return float(np.mean(values >= values.max() - within - 1e-12))


def expected_best(scores: ArrayLike, payoff: ArrayLike | None = None) -> np.ndarray:
    r"""What the best of k points is worth, drawn at random from n, for k = 1 to n.

    Parameters
    ----------
    scores : array_like, shape (n,)
        By which the best is chosen.
    payoff : array_like, shape (n,), optional
        What the chosen point brings; the scores themselves if not given. With a second
        measurement of the same points the curve has no winner's curse. Equal scores
        share their chance evenly.

    Returns
    -------
    ndarray, shape (n,)
        In the unit of the payoff.

    Raises
    ------
    ValueError
        For lengths that differ and for values that are no finite numbers.

    Notes
    -----
    E_k = sum_i payoff_(i) C(i - 1, k - 1) / C(n, k), points sorted by score: of all
    C(n, k) draws, the i-th smallest score is the largest in C(i - 1, k - 1). Without
    replacement, so E_n is the best of the grid. eq-search in chapter 11, after Dodge et
    al. (2019), "Show your work", arXiv:1909.03004, who draw with replacement.
    """
    values = _finite(scores)
    worth = values if payoff is None else _finite(payoff)
    if values.shape != worth.shape:
        raise ValueError(f"{len(values)} scores and {len(worth)} payoffs")
    _, rank = np.unique(values, return_inverse=True)
    mean_payoff = np.bincount(rank, worth) / np.bincount(rank)
    even = mean_payoff[rank]  # (n,) equal scores share their payoff
    return _chances(len(values)) @ even[np.argsort(values, kind="stable")]


@lru_cache(maxsize=8)
def _chances(n: int) -> np.ndarray:
    """P(the i-th smallest of n is the best of k), shape (n, n), row k, column i."""
    return np.array(
        [[comb(i, k - 1) / comb(n, k) for i in range(n)] for k in range(1, n + 1)]
    )


def runs_needed(curve: ArrayLike, level: float) -> int | None:
    """The runs of a search that a setting of this level saves.

    Parameters
    ----------
    curve : array_like, shape (n,)
        Of `expected_best`.
    level : float
        In the unit of the curve.

    Returns
    -------
    int or None
        The smallest k with ``curve[k - 1] >= level``; None where no k has it.
    """
    reached = np.flatnonzero(_finite(curve) >= level)
    return int(reached[0]) + 1 if len(reached) else None


def crossed(per_seed: Iterable[ArrayLike]) -> np.ndarray:
    """`expected_best` chosen on one seed and paid on another, for every pair of seeds.

    Parameters
    ----------
    per_seed : iterable of array_like, shape (S, n)
        Scores of the n points.

    Returns
    -------
    ndarray, shape (S·(S - 1), n)
        One seed alone has no other to be paid on: then it pays itself, (1, n).
    """
    rows = [_finite(row) for row in per_seed]
    if len(rows) == 1:
        return expected_best(rows[0])[None]
    both = itertools.permutations(rows, 2)
    return np.array([expected_best(chosen, paid) for chosen, paid in both])


def _finite(values: ArrayLike) -> np.ndarray:
    """The values as floats (n,), or a ValueError that names the first bad one."""
    array = np.asarray(values, float)
    if array.ndim != 1 or not len(array):
        raise ValueError(f"expected a list of numbers; got shape {array.shape}")
    for place in np.flatnonzero(~np.isfinite(array)):
        raise ValueError(
            f"value {place} is {array[place]}: a run that diverged counts as 0, "
            "it is not missing"
        )
    return array
