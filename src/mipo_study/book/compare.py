"""Do my numbers agree with the published ones? Mine beside the published interval."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence

from mipo.files import project_root
from mipo.numbers import Number, fmt
from mipo_study.book.plan import SCALES, clone, suggestion
from mipo_study.book.results import outdated, results_in

EXACT = 1e-3  # relative: an exact number agrees when three digits do


def verdict(mine: Number, published: Number) -> str:
    """Whether a number agrees with the published one.

    Parameters
    ----------
    mine, published : Number

    Returns
    -------
    str
        "inside": my mean lies in the published 95 % interval; "overlaps": only my
        interval reaches it; "outside"; "no interval": none was published.

    Notes
    -----
    An exact published number has no width. Then mine agrees when it differs by at most
    one part in a thousand.
    """
    low, high = published.low, published.high
    if low is None or high is None:
        return "no interval"
    slack = EXACT * max(abs(low), abs(high)) + 1e-9 if low == high else 0.0
    low, high = low - slack, high + slack
    if low <= mine.mean <= high:
        return "inside"
    if mine.low is None or mine.high is None:
        return "outside"
    return "overlaps" if mine.low <= high and mine.high >= low else "outside"


def rows(mine: dict, published: dict) -> list[tuple[str, str, str, str]]:
    """The numbers that two runs of a notebook have in common.

    Parameters
    ----------
    mine, published : dict
        Result files.

    Returns
    -------
    list of (name, mine, published, verdict)
    """
    table = []
    for name, number in sorted(mine["numbers"].items()):
        if name in published["numbers"]:
            a, b = Number(**number), Number(**published["numbers"][name])
            interval = f"[{fmt(b.low)}, {fmt(b.high)}]"
            if b.low is None:
                interval = fmt(b.mean)
            row = (name, str(a), f"{interval} {b.unit}".strip(), verdict(a, b))
            table.append(row)
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
            lines.append(f"  {name:44} {ours:>32}   published {theirs:>28}   {word}")
            count[word] += 1
    parts = [f"{n} {word}" for word, n in sorted(count.items())]
    lines.append(
        f"{', '.join(parts) or 'no number to compare'}. The interval says where the "
        "published mean may lie. A run of fewer seeds is less certain itself, so some "
        "of its numbers fall outside without anything being wrong."
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
