"""Figures of chapter 16: whatever is measured at several sizes, by parameters."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import pyplot as plt
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
    Seeds,
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
Point = tuple[float, Seeds, bool]  # parameters, values, measured here


def short(parameters: float) -> str:
    """A number of parameters in words: 0.26M, 101M."""
    millions = parameters / 1e6
    return f"{millions:.2g}M" if millions < 10 else f"{millions:.0f}M"


def by_size(
    panels: Mapping[str, Mapping[str, Sequence[Point]]],
    *,
    lines: Mapping[str, Mapping[str, float]] | None = None,
    height: float = 3.3,
) -> Figure:
    """Small multiples against parameters (log scale), one line per series.

    Parameters
    ----------
    panels : dict
        {title: {series: [(parameters, values, here), …]}}; values one number or one per
        seed; a point that was not measured here is hollow. Series that `LOOKS` knows
        look the same in every figure.
    lines : dict, optional
        {title: {text: level}}, dashed.
    height : float
        Inches.

    Returns
    -------
    Figure

    Raises
    ------
    ValueError
        Without a single point.
    """
    if not any(any(table.values()) for table in panels.values()):
        raise ValueError("nothing to draw: no size was measured")
    fig, axes = subplots(1, len(panels), (6.5, height), squeeze=False)
    keys, elsewhere = {}, False
    for ax, (title, table) in zip(axes[0], panels.items(), strict=True):
        for k, (series, unsorted) in enumerate(table.items()):
            points = sorted(unsorted, key=lambda point: point[0])
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
        hollow = Line2D([], [], ls="", marker="o", mfc="white", mec=ink(GREY))
        hollow.set_label("from a committed run")
        handles.append(hollow)
    fig.legend(handles=handles, loc="outside upper center", ncols=min(4, len(handles)))
    return fig


def _line(
    ax: Axes, points: Sequence[Point], colour: str, marker: str, shift: float
) -> None:
    """One series: a thin line through the means, points on it.

    x is log10 of the parameters, moved by `shift`.
    """
    x = [np.log10(n) + shift for n, _, _ in points]
    means = [np.mean(values) for _, values, _ in points]
    ax.plot(x, means, color=colour, lw=1.0, zorder=1)
    looks = {"colour": colour, "marker": marker}
    for at, (_, values, here) in zip(x, points, strict=True):
        mean, _, _ = strip_points(ax, at, values, width=0.05, **looks)
        if not here:
            white = {"color": "white", "marker": marker, "linewidths": 0}
            ax.scatter(at, mean, s=16, zorder=5, **white)


def _ticks(ax: Axes, parameters: Sequence[float]) -> None:
    """One tick per size, one for sizes within a fifth of each other.

    Names that lie close together stand at an angle.
    """
    ticks = [
        n for i, n in enumerate(parameters) if i == 0 or n > 1.2 * parameters[i - 1]
    ]
    x = np.log10(parameters)
    ax.set_xticks(np.log10(ticks), [short(n) for n in ticks])
    if len(ticks) > 3:
        tilted = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"}
        plt.setp(ax.get_xticklabels(), **tilted)
    ax.set_xlim(x.min() - 0.2, x.max() + 0.2)
    ax.set_xlabel("parameters")
