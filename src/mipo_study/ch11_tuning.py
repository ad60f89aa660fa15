"""What tuning is worth: grids of equal size for each method, the regret of settings that nobody tuned, search curves.

A run that diverged counts as adherence 0 with every reply broken (see `rivals.compete`), so nothing here is missing.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import comb

import numpy as np

from mipo import losses
from mipo.losses.declaration import keyword
from mipo_study.rivals import RIVALS

METHODS = {"dpo": "DPO", "simpo": "SimPO", "rmipo": "RMiPO"}
KNOBS = (
    "gamma_min",
    "gamma_max",
    "scale",
)  # of RMiPO's margin, constants in its released code


@dataclass(frozen=True)
class Point:
    """One setting of a search: a column of its heat map is a learning rate, a row everything else.

    margin   what is set beside β and the learning rate, in words
    more     further keywords of the loss, as sorted items
    """

    method: str
    lr: float
    beta: float
    margin: str = ""
    more: tuple = ()

    @property
    def setting(self) -> dict:
        """What `rivals.compete` takes: the loss and its keywords."""
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
        return "-".join(
            [
                self.method,
                *(f"{key.replace('_', '-')}-{value:g}" for key, value in values),
            ]
        )

    def at(self, factor: float) -> "Point":
        """The same with `factor` times the learning rate, to three significant digits."""
        return replace(self, lr=float(f"{factor * self.lr:.3g}"))


def dpo(lr: float, beta: float) -> Point:
    return Point("dpo", lr, beta)


def simpo(lr: float, beta: float, ratio: float) -> Point:
    """SimPO by its authors' γ/β, `ratio`, in nats per token: the gap at which a pair counts as half learned."""
    return Point(
        "simpo",
        lr,
        beta,
        f"γ/β = {ratio:g}",
        (("gamma", float(f"{ratio * beta:.6g}")),),
    )


def rmipo(lr: float, beta: float, margin: Sequence[float]) -> Point:
    """RMiPO (the released code's convention) with margin = (γ_min, γ_max, scale), all in nats per token.

    Keywords that equal the loss's own are left out: so the published setting finds the records of chapter 9.
    """
    given = dict(zip(KNOBS, margin, strict=True))
    words = f"γ {given['gamma_min']:g}–{given['gamma_max']:g}, scale {given['scale']:g}"
    own = dict(zip(KNOBS, _published_margin(), strict=True))
    return Point(
        "rmipo",
        lr,
        beta,
        words,
        tuple(sorted((k, v) for k, v in given.items() if v != own[k])),
    )


def published(lr: float) -> dict[str, Point]:
    """{method: Point} of the published defaults, those of `rivals.RIVALS`, at a learning rate of ours."""
    kwargs = {m: RIVALS[m].kwargs for m in METHODS}
    return {
        "dpo": dpo(lr, kwargs["dpo"]["beta"]),
        "simpo": simpo(
            lr,
            kwargs["simpo"]["beta"],
            kwargs["simpo"]["gamma"] / kwargs["simpo"]["beta"],
        ),
        "rmipo": rmipo(lr, kwargs["rmipo"]["beta"], _published_margin()),
    }


def _published_margin():
    return [keyword(losses.rmipo, key, RIVALS["rmipo"].kwargs) for key in KNOBS]


def grids(
    rates: Sequence[float],
    *,
    dpo_betas: Sequence[float],
    betas: Sequence[float],
    ratios: Sequence[float],
    margins: Sequence[Sequence[float]],
) -> dict[str, list[Point]]:
    """{method: points of its grid}: every learning rate with every other setting, and the same number for each method.

    betas    of SimPO (with every ratio γ/β) and of RMiPO (with every margin)
    errors   ValueError for budgets that differ, a setting given twice, and defaults that lie outside the grid
    """
    found = {
        "dpo": [dpo(lr, b) for b in dpo_betas for lr in rates],
        "simpo": [simpo(lr, b, r) for r in ratios for b in betas for lr in rates],
        "rmipo": [rmipo(lr, b, m) for m in margins for b in betas for lr in rates],
    }
    sizes = {method: len(points) for method, points in found.items()}
    if len(set(sizes.values())) > 1:
        raise ValueError(
            f"the methods must have equal budgets; the grids have {sizes} points"
        )
    for method, default in published(rates[0]).items():
        if len(set(found[method])) < len(found[method]):
            raise ValueError(f"{method}: a setting stands in the grid twice")
        if default not in found[method]:
            raise ValueError(
                f"{method}: its published setting {default.setting['loss_kwargs']} is not in the grid"
            )
    return found


def along(points: Sequence[Point], point: Point, axis: str) -> list[Point]:
    """The points that differ from `point` at most in axis "lr", "beta" (for SimPO γ/β stays, not γ) or "margin"."""
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
    """The key with the highest score. Of equals the favourite if it is one of them, else the first."""
    _finite(list(scores.values()))
    top = max(scores.values())
    return (
        favourite
        if scores.get(favourite) == top
        else next(key for key in scores if scores[key] == top)
    )


def regret(best, got) -> np.ndarray:
    """best - got, seed by seed: (S,) and (S,) -> (S,). Below 0 where what was chosen does worse on new people."""
    best, got = _finite(best), _finite(got)
    if best.shape != got.shape:
        raise ValueError(
            f"{best.shape} and {got.shape}: one value per seed on each side"
        )
    return best - got


def good_share(scores, within: float) -> float:
    """Share of the grid's points that are at most `within` below its best: (n,) -> a number in 1/n .. 1."""
    if within < 0:
        raise ValueError(f"within={within!r} must be at least 0")
    scores = _finite(scores)
    return float(np.mean(scores >= scores.max() - within - 1e-12))


def expected_best(scores, payoff=None) -> np.ndarray:
    r"""What the best of k different points, drawn at random from a grid of n, is worth: (n,) -> (n,), for k = 1 .. n.

    E_k = sum_i payoff_(i) * C(i - 1, k - 1) / C(n, k), with points sorted by score: of all C(n, k) draws, the i-th
    smallest score is the largest in C(i - 1, k - 1). Without replacement, so E_n is the best of the grid.

    payoff   what the chosen point brings, the scores themselves if not given. With a second measurement of the same
             points the curve has no winner's curse. Equal scores share their chance evenly.
    source   as Dodge et al. (2019), "Show your work", arXiv:1909.03004, who draw with replacement
    errors   ValueError for lengths that differ and for values that are no finite numbers
    """
    scores = _finite(scores)
    payoff = scores if payoff is None else _finite(payoff)
    if scores.shape != payoff.shape:
        raise ValueError(f"{len(scores)} scores and {len(payoff)} payoffs")
    values, rank = np.unique(scores, return_inverse=True)
    even = (np.bincount(rank, payoff) / np.bincount(rank))[
        rank
    ]  # (n,) mean payoff of those with the same score
    return _chances(len(scores)) @ even[np.argsort(scores, kind="stable")]


@lru_cache(maxsize=8)
def _chances(n: int) -> np.ndarray:
    """(n, n): row k - 1, column i - 1 is the chance that the i-th smallest of n is the largest of k drawn."""
    return np.array(
        [[comb(i, k - 1) / comb(n, k) for i in range(n)] for k in range(1, n + 1)]
    )


def runs_needed(curve, level: float) -> int | None:
    """The smallest k with curve[k - 1] >= level, None where no k has it: what a setting of this level saves."""
    reached = np.flatnonzero(_finite(curve) >= level)
    return int(reached[0]) + 1 if len(reached) else None


def crossed(per_seed) -> np.ndarray:
    """`expected_best` chosen on one seed and paid on another, for every ordered pair of seeds: (S, n) -> (S·(S-1), n).

    One seed alone has no other to be paid on: then it pays itself, (1, n) -> (1, n).
    """
    rows = [_finite(row) for row in per_seed]
    if len(rows) == 1:
        return expected_best(rows[0])[None]
    return np.array(
        [
            expected_best(a, b)
            for i, a in enumerate(rows)
            for j, b in enumerate(rows)
            if i != j
        ]
    )


def _finite(values) -> np.ndarray:
    values = np.asarray(values, float)
    if values.ndim != 1 or not len(values):
        raise ValueError(f"expected a list of numbers; got shape {values.shape}")
    if not np.isfinite(values).all():
        where = int(np.flatnonzero(~np.isfinite(values))[0])
        raise ValueError(
            f"value {where} is {values[where]}: a run that diverged counts as 0, it is not missing"
        )
    return values
