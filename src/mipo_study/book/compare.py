"""Do my numbers agree with the published ones? Mine beside where they are expected."""

from __future__ import annotations

import argparse
import math
from collections import Counter
from collections.abc import Sequence

from mipo.files import project_root
from mipo.numbers import Number, fmt
from mipo_study.book.plan import SCALES, clone, suggestion
from mipo_study.book.results import outdated, results_in

EXACT = 1e-3  # relative: an exact number agrees when three digits do


def expected(mine: Number, published: Number) -> tuple[float, float] | None:
    """Where a new mean is expected, 95 times in 100; None without an interval.

    Parameters
    ----------
    mine, published : Number

    Returns
    -------
    (float, float), optional
        The prediction interval for the mean of as many seeds as mine has: the published
        interval, stretched about its mean.

    Notes
    -----
    A t interval is mean ± t·s/√n. A new mean of m seeds varies by itself as well, so it
    lies in mean ± t·s·√(1/n + 1/m), which is √(1 + n/m) times as wide. An exact number
    has no width; there, one part in a thousand is.
    """
    low, high = published.low, published.high
    if low is None or high is None:
        return None
    wider = math.sqrt(1 + published.n / mine.n)
    slack = EXACT * max(abs(low), abs(high)) + 1e-9 if low == high else 0.0
    below, above = published.mean - low, high - published.mean
    return (
        published.mean - wider * below - slack,
        published.mean + wider * above + slack,
    )


def verdict(mine: Number, published: Number) -> str:
    """Whether a number agrees with the published one.

    Returns
    -------
    str
        "inside": my mean lies where it is `expected`; "outside"; "no interval": none
        was published.
    """
    interval = expected(mine, published)
    if interval is None:
        return "no interval"
    return "inside" if interval[0] <= mine.mean <= interval[1] else "outside"


def rows(mine: dict, published: dict) -> list[tuple[str, str, str, str]]:
    """The numbers that two runs of a notebook have in common.

    Parameters
    ----------
    mine, published : dict
        Result files.

    Returns
    -------
    list of (name, mine, where it is expected, verdict)
    """
    table = []
    for name, number in sorted(mine["numbers"].items()):
        if name in published["numbers"]:
            a, b = Number(**number), Number(**published["numbers"][name])
            interval = expected(a, b)
            where = fmt(b.mean)
            if interval is not None and b.low != b.high:
                where = "[{}, {}]".format(*map(fmt, interval))
            table.append((name, str(a), f"{where} {b.unit}".strip(), verdict(a, b)))
    return table


def compare(scale: str) -> str:
    """A table of this scale's numbers beside the published ones, as text.

    Raises
    ------
    ValueError
        Where nothing was run at this scale, and outside a clone.
    """
    root = project_root()
    mine = results_in(root / "runs" / scale / "results")
    published = results_in(root / "results" / "full")
    if not (mine or published):
        clone()
    if not mine:
        raise ValueError(f"runs/{scale} holds no results yet: make book SCALE={scale}")
    lines, count = [], Counter()
    for notebook, result in mine.items():
        if notebook not in published:
            lines.append(f"{notebook}: nothing published yet")
            continue
        lines.append(f"{notebook}  ({edition(published[notebook])})")
        for name, ours, theirs, word in rows(result, published[notebook]):
            lines.append(f"  {name:44} {ours:>32}   expected {theirs:>28}   {word}")
            count[word] += 1
    parts = [f"{n} {word}" for word, n in sorted(count.items())]
    lines.append(
        f"{', '.join(parts) or 'no number to compare'}. Expected is the 95 % "
        "prediction interval for a mean of as many seeds as mine: one number in twenty "
        "falls outside without anything being wrong, and more where a run asks fewer "
        "people."
    )
    if scale == "smoke":
        lines.append(
            "Smoke runs are far too short to agree: they only show that all of it runs."
        )
    return "\n".join(lines)


def edition(result: dict) -> str:
    """When a result was published, and which of its modules changed since."""
    old = outdated(result)
    words = f"published {result['date'][:10]}"
    return f"{words}; older than the code it used: {', '.join(old)}" if old else words


def main(arguments: Sequence[str] | None = None) -> None:
    """Run ``python -m mipo_study.book.compare``."""
    parser = argparse.ArgumentParser(
        prog="python -m mipo_study.book.compare", description=__doc__
    )
    parser.add_argument("--scale", default="laptop")
    scale = parser.parse_args(arguments).scale
    try:
        if scale not in SCALES:
            raise ValueError(f"SCALE={scale} is no scale{suggestion(scale, SCALES)}")
        print(compare(scale))
    except ValueError as error:
        raise SystemExit(f"Error: {error}") from None


if __name__ == "__main__":
    main()
