"""Numbers with intervals, how they are printed, and a claim's status."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mipo.files import plain, refuse_nan


def status(
    interval: tuple[float | None, float | None] | None,
    region: tuple[float | None, float | None],
) -> str:
    """Compare an interval with the claimed region.

    Parameters
    ----------
    interval : (low, high), optional
        None, or an end of None: there is no interval.
    region : (low, high)
        Ends included; None is no limit.

    Returns
    -------
    str
        "holds": interval inside the region. "fails": wholly outside. "undecided": it
        straddles, or there is no interval. One that is a single point on an end is
        undecided: two arms that are alike in every seed are neither more nor less.

    Raises
    ------
    ValueError
        For an interval or a region whose low end is above its high end.

    Notes
    -----
    Source: the study's rule for findings.
    """
    lowest = -math.inf if region[0] is None else region[0]
    highest = math.inf if region[1] is None else region[1]
    if not lowest <= highest:
        raise ValueError(f"region {region}: its low end is above its high end")
    low, high = interval or (None, None)
    if low is None or high is None:
        return "undecided"
    if not low <= high:
        raise ValueError(f"interval {interval}: its low end is above its high end")
    if low == high in (lowest, highest) and lowest < highest:
        return "undecided"
    if lowest <= low and high <= highest:
        return "holds"
    return "fails" if high < lowest or low > highest else "undecided"


def together(parts: Sequence[str]) -> str:
    """One status for a claim's parts.

    Parameters
    ----------
    parts : sequence of str
        A status each, at least one.

    Returns
    -------
    str
        Theirs if they agree; "in part" where some hold; else "undecided".
    """
    if len(set(parts)) == 1:
        return parts[0]
    return "in part" if "holds" in parts else "undecided"


def fmt(x: float | None) -> str:
    """Three significant digits, whole numbers whole; an en dash for None."""
    if x is None:
        return "–"
    if x == 0 or (float(x).is_integer() and abs(x) < 1e6):
        return f"{x:.0f}"
    return f"{x:.0f}" if 999.5 <= abs(x) < 1e6 else f"{x:.3g}"


@dataclass(frozen=True, repr=False)
class Number:
    """A mean with its 95 % interval.

    Attributes
    ----------
    mean : float
        In `unit`.
    low, high : float or None
        Ends of the interval: None for a lone seed, the mean itself where it is exact.
    n : int
        How many values it is the mean of.
    values : list of float
        One per seed; an exact number alone.
    unit : str
        "nats", "tokens", "%" or whatever else it counts.
    note : str
        What a reader of the table should know.
    """

    mean: float
    low: float | None
    high: float | None
    n: int
    values: list[float]
    unit: str = ""
    note: str = ""

    def __str__(self) -> str:
        unit = f" {self.unit}" if self.unit else ""
        if self.low is None or self.low == self.high:
            return f"{fmt(self.mean)}{unit}"
        return f"{fmt(self.mean)} [{fmt(self.low)}, {fmt(self.high)}]{unit}"

    __repr__ = __str__  # what a cell shows whose last line is a number

    def __float__(self) -> float:
        return float(self.mean)

    @property
    def interval(self) -> tuple[float | None, float | None]:
        """Low and high."""
        return (self.low, self.high)


def interval_of(
    values: Any, unit: str = "", note: str = "", interval: Sequence[float] | None = None
) -> Number:
    """A number with its interval.

    Parameters
    ----------
    values : Number, float, or sequence of float
        A Number is returned as it is; a float is exact; a sequence has one value per
        seed.
    unit, note : str
        See `Number`.
    interval : (low, high), optional
        Instead of the exact number's, or of the 95 % t interval over seeds.

    Returns
    -------
    Number

    Raises
    ------
    ValueError
        For NaN, infinity, and no value at all.
    """
    if isinstance(values, Number):
        return values
    values = plain(values) if hasattr(values, "tolist") else values
    refuse_nan(values, "values")
    several = isinstance(values, (list, tuple))
    seeds = [float(v) for v in (values if several else [values])]
    if not seeds:
        raise ValueError("a number needs at least one value")
    mean = sum(seeds) / len(seeds)
    low, high = None, None
    if interval is not None:
        low, high = (float(end) for end in interval)
    elif not several:
        low, high = mean, mean
    elif len(seeds) > 1:
        from mipo.evaluate import t_interval  # one formula, one function

        mean, low, high = (float(v) for v in t_interval(seeds))
    return Number(mean, low, high, len(seeds), seeds, unit, note)
