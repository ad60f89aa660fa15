"""Chapter 11, what tuning is worth: grids of one size, regret, search curves.

A run that diverged counts as adherence 0 with every reply broken (see
`experiment.Trial`), so nothing here is missing.
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import comb

import numpy as np

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
    more : tuple
        Further keywords of the loss, as sorted items.
    """

    method: str
    lr: float
    beta: float
    margin: str = ""
    more: tuple = ()

    @property
    def setting(self) -> dict:
        """Keywords of `experiment.train` but for the rate: the loss and its keywords."""
        return {
            "loss": self.method,
            "loss_kwargs": {"beta": self.beta, **dict(self.more)},
        }

    @property
    def row(self) -> str:
        """All but the learning rate, in words."""
        return (
            f"{self.margin}, β = {self.beta:g}" if self.margin else f"β = {self.beta:g}"
        )

    @property
    def name(self) -> str:
        """Words for the names of numbers, e.g. simpo-beta-2-gamma-1-lr-0.00015."""
        values = [("beta", self.beta), *self.more, ("lr", self.lr)]
        words = [f"{key.replace('_', '-')}-{value:g}" for key, value in values]
        return "-".join([self.method, *words])

    def at(self, factor: float) -> Point:
        """The same with `factor` times the learning rate, to three significant digits."""
        return replace(self, lr=float(f"{factor * self.lr:.3g}"))


def dpo(lr: float, beta: float) -> Point:
    """DPO by its β, 1/nats."""
    return Point("dpo", lr, beta)


def simpo(lr: float, beta: float, ratio: float) -> Point:
    """SimPO by its authors' γ/β: the gap, nats per token, at which a pair is half learned."""
    gamma = float(f"{ratio * beta:.6g}")
    return Point("simpo", lr, beta, f"γ/β = {ratio:g}", (("gamma", gamma),))


def rmipo(lr: float, beta: float, margin: Sequence[float]) -> Point:
    """RMiPO, in the code's convention, by its margin (γ_min, γ_max, scale), nats per token.

    Keywords that equal the loss's own are left out: so the published setting finds the
    runs of chapter 9.
    """
    given = dict(zip(KNOBS, margin, strict=True))
    words = f"γ {given['gamma_min']:g}–{given['gamma_max']:g}, scale {given['scale']:g}"
    own = dict(zip(KNOBS, _published_margin(), strict=True))
    changed = sorted((key, value) for key, value in given.items() if value != own[key])
    return Point("rmipo", lr, beta, words, tuple(changed))


def published(lr: float) -> dict[str, Point]:
    """The setting of protocol "published" of each method, at a learning rate of ours."""
    kwargs = {name: settings_of(name).kwargs for name in SEARCHED}
    ratio = kwargs["simpo"]["gamma"] / kwargs["simpo"]["beta"]
    return {
        "dpo": dpo(lr, kwargs["dpo"]["beta"]),
        "simpo": simpo(lr, kwargs["simpo"]["beta"], ratio),
        "rmipo": rmipo(lr, kwargs["rmipo"]["beta"], _published_margin()),
    }


def _published_margin():
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
    axis : str
        "lr", "beta" (for SimPO γ/β stays, not γ) or "margin".
    """
    axes = {"lr", "beta", "margin"}
    if axis not in axes:
        raise ValueError(f"axis={axis!r}: choose one of {', '.join(sorted(axes))}")
    same = ["method", *sorted(axes - {axis})]
    return [
        p
        for p in points
        if all(getattr(p, name) == getattr(point, name) for name in same)
    ]


# ---- measures: adherence in, adherence out (shares of slots) ----


def choose(scores: Mapping[Hashable, float], favourite: Hashable = None) -> Hashable:
    """The key with the highest score; of equals the favourite if it is one, else the first."""
    _finite(list(scores.values()))
    if scores.get(favourite) == max(scores.values()):
        return favourite
    return max(scores, key=scores.get)


def regret(best, got) -> np.ndarray:
    """best - got, seed by seed: (S,) and (S,) -> (S,).

    Below 0 where what was chosen does worse on new people.
    """
    best, got = _finite(best), _finite(got)
    if best.shape != got.shape:
        raise ValueError(
            f"{best.shape} and {got.shape}: one value per seed on each side"
        )
    return best - got


def good_share(scores, within: float) -> float:
    """Share of a grid's points that are at most `within` below its best, 1/n to 1."""
    if within < 0:
        raise ValueError(f"within={within!r} must be at least 0")
    scores = _finite(scores)
    return float(np.mean(scores >= scores.max() - within - 1e-12))


def expected_best(scores, payoff=None) -> np.ndarray:
    r"""What the best of k points is worth, drawn at random from a grid of n, k = 1 to n.

    Parameters
    ----------
    scores : (n,)
        By which the best is chosen.
    payoff : (n,), optional
        What the chosen point brings; the scores themselves if not given. With a second
        measurement of the same points the curve has no winner's curse. Equal scores
        share their chance evenly.

    Returns
    -------
    (n,)

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
    scores = _finite(scores)
    payoff = scores if payoff is None else _finite(payoff)
    if scores.shape != payoff.shape:
        raise ValueError(f"{len(scores)} scores and {len(payoff)} payoffs")
    values, rank = np.unique(scores, return_inverse=True)
    mean_payoff = np.bincount(rank, payoff) / np.bincount(rank)
    even = mean_payoff[rank]  # (n,) equal scores share their payoff
    return _chances(len(scores)) @ even[np.argsort(scores, kind="stable")]


@lru_cache(maxsize=8)
def _chances(n: int) -> np.ndarray:
    """(n, n): in row k - 1, column i - 1 the chance that the i-th smallest is the best of k."""
    return np.array(
        [[comb(i, k - 1) / comb(n, k) for i in range(n)] for k in range(1, n + 1)]
    )


def runs_needed(curve, level: float) -> int | None:
    """Smallest k with curve[k - 1] >= level, what a setting of this level saves; or None."""
    reached = np.flatnonzero(_finite(curve) >= level)
    return int(reached[0]) + 1 if len(reached) else None


def crossed(per_seed) -> np.ndarray:
    """`expected_best` chosen on one seed and paid on another, for every pair of seeds.

    Parameters
    ----------
    per_seed : (S, n)
        Scores of the n points.

    Returns
    -------
    (S·(S - 1), n)
        One seed alone has no other to be paid on: then it pays itself, (1, n).
    """
    rows = [_finite(row) for row in per_seed]
    if len(rows) == 1:
        return expected_best(rows[0])[None]
    both = itertools.permutations(rows, 2)
    return np.array([expected_best(chosen, paid) for chosen, paid in both])


def _finite(values) -> np.ndarray:
    values = np.asarray(values, float)
    if values.ndim != 1 or not len(values):
        raise ValueError(f"expected a list of numbers; got shape {values.shape}")
    for place in np.flatnonzero(~np.isfinite(values)):
        raise ValueError(
            f"value {place} is {values[place]}: a run that diverged counts as 0, "
            "it is not missing"
        )
    return values
