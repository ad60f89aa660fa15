"""Do my numbers agree with the published ones? Mine, the published interval, inside or not."""

from __future__ import annotations

import argparse

from mipo.files import project_root
from mipo.numbers import Number, fmt
from mipo_study.book.plan import SCALES, clone, suggestion
from mipo_study.book.results import outdated, results_in

EXACT = 1e-3  # relative: an exact number agrees when three digits do


def verdict(mine: Number, published: Number) -> str:
    """inside: my mean lies in the published 95 % interval · overlaps: only my interval reaches it · outside.

    An exact published number has no width; then mine agrees when it differs by at most one part in a thousand.
    """
    low, high = published.interval
    if low is None:
        return "no interval"
    slack = EXACT * max(abs(low), abs(high)) + 1e-9 if low == high else 0.0
    if low - slack <= mine.mean <= high + slack:
        return "inside"
    if mine.low is not None and mine.low <= high + slack and mine.high >= low - slack:
        return "overlaps"
    return "outside"


def rows(mine: dict, published: dict) -> list[tuple[str, str, str, str]]:
    """(number, mine, published, verdict) for the numbers that both runs of a notebook hold."""
    out = []
    for name, kept in sorted(mine["numbers"].items()):
        if name in published["numbers"]:
            a, b = Number(**kept), Number(**published["numbers"][name])
            interval = (
                f"[{fmt(b.low)}, {fmt(b.high)}]" if b.low is not None else fmt(b.mean)
            )
            out.append((name, str(a), f"{interval} {b.unit}".strip(), verdict(a, b)))
    return out


def compare(scale: str) -> str:
    root = project_root()
    mine = results_in(root / "runs" / scale / "results")
    published = results_in(root / "results" / "full")
    if not (mine or published):
        clone()
    if not mine:
        raise ValueError(f"runs/{scale} holds no results yet: make book SCALE={scale}")
    lines, count = [], {}
    for notebook, result in mine.items():
        if notebook not in published:
            lines.append(f"{notebook}: nothing published yet")
            continue
        old = outdated(published[notebook])
        lines.append(
            f"{notebook}  (published {published[notebook]['date'][:10]}"
            + (f"; older than the code it used: {', '.join(old)}" if old else "")
            + ")"
        )
        for name, a, b, word in rows(result, published[notebook]):
            lines.append(f"  {name:44} {a:>32}   published {b:>28}   {word}")
            count[word] = count.get(word, 0) + 1
    total = (
        ", ".join(f"{n} {word}" for word, n in sorted(count.items()))
        or "no number to compare"
    )
    lines.append(
        f"{total}. The interval says where the published mean may lie. A run of fewer seeds is less certain itself,"
        " so some of its numbers fall outside without anything being wrong."
    )
    if scale == "smoke":
        lines.append(
            "Smoke runs are far too short to agree: they only show that everything runs."
        )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
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
