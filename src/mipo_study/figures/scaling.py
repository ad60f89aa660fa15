"""Figures of chapter 16: anything that is measured at several model sizes, against the number of parameters."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from mipo_study.figures.style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    INDIGO,
    OLIVE,
    ORANGE,
    PURPLE,
    SKY,
    VERMILLION,
    ink,
    strip_points,
    subplots,
)

LOOKS = {
    "base": (GREY, "o"),
    "MIPO": (BLUE, "D"),
    "DPO, checked": (VERMILLION, "s"),
    "RMiPO, checked": (GREEN, "^"),
    "caught up": (ORANGE, "o"),
    "beyond the law": (SKY, "s"),
    "repaired": (OLIVE, "v"),
    "same world": (BLACK, "o"),
    "world grows too": (PURPLE, "P"),
    "promised": (INDIGO, "X"),
}
OTHER = (GREY, ".")


def short(parameters: float) -> str:
    """A number of parameters in words: 0.26M, 101M."""
    return (
        f"{parameters / 1e6:.2g}M" if parameters < 1e7 else f"{parameters / 1e6:.0f}M"
    )


def by_size(panels: dict, *, lines: dict | None = None, height: float = 3.3) -> Figure:
    """Small multiples against parameters (log scale): one line per series, seeds as points with t intervals.

    panels  {title: {series: [(parameters, values, here), …]}}; values one number or one per seed; `here` False draws the
            point hollow: it was measured elsewhere. Series that LOOKS knows look the same in every figure
    lines   {title: {text: level}}, dashed
    errors  ValueError without a single point
    """
    if not panels or not any(
        points for table in panels.values() for points in table.values()
    ):
        raise ValueError("nothing to draw: no size was measured")
    fig, axes = subplots(1, len(panels), (6.5, height), squeeze=False)
    keys, elsewhere = {}, False
    for ax, (title, table) in zip(axes[0], panels.items(), strict=True):
        for k, (series, points) in enumerate(
            (s, sorted(p, key=lambda q: q[0])) for s, p in table.items()
        ):
            colour, marker = LOOKS.get(series, OTHER)
            _line(ax, points, colour, marker, shift=0.035 * (k - (len(table) - 1) / 2))
            keys[series] = Line2D([], [], color=colour, marker=marker, label=series)
            elsewhere |= not all(here for _, _, here in points)
        _ticks(ax, sorted({n for points in table.values() for n, _, _ in points}))
        ax.set_title(title)
        for text, level in (lines or {}).get(title, {}).items():
            ax.axhline(level, color=GREY, ls="--", lw=1.2, zorder=0)
            ax.annotate(
                text,
                (1, level),
                xycoords=ax.get_yaxis_transform(),
                xytext=(3, 0),
                textcoords="offset points",
                va="center",
                fontsize=9,
                color=GREY,
            )
    handles = [*keys.values()]
    if elsewhere:
        handles.append(
            Line2D(
                [],
                [],
                ls="",
                marker="o",
                mfc="white",
                mec=ink(GREY),
                label="from a committed run",
            )
        )
    fig.legend(handles=handles, loc="outside upper center", ncols=min(4, len(handles)))
    return fig


def _line(
    ax: Axes, points: Sequence[tuple], colour: str, marker: str, shift: float
) -> None:
    """One series: a thin line through the means, points on it; x is log10 of the parameters, moved by `shift`."""
    x = [np.log10(n) + shift for n, _, _ in points]
    ax.plot(
        x, [np.mean(values) for _, values, _ in points], color=colour, lw=1.0, zorder=1
    )
    for at, (_, values, here) in zip(x, points, strict=True):
        mean, _, _ = strip_points(
            ax, at, values, colour=colour, marker=marker, width=0.05
        )
        if not here:
            ax.scatter(
                at, mean, s=16, color="white", marker=marker, linewidths=0, zorder=5
            )


def _ticks(ax: Axes, parameters: Sequence[float]) -> None:
    """One tick per size, one for sizes within a fifth of each other; names that lie close together stand at an angle."""
    named = [
        n for i, n in enumerate(parameters) if i == 0 or n > 1.2 * parameters[i - 1]
    ]
    x, crowded = np.log10(parameters), len(named) > 3
    how = dict(rotation=40, ha="right", rotation_mode="anchor") if crowded else {}
    ax.set_xticks(np.log10(named), [short(n) for n in named], **how)
    ax.set_xlim(x.min() - 0.2, x.max() + 0.2)
    ax.set_xlabel("parameters")
