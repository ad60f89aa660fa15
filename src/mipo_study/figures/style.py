"""One look for every figure: sizes, colour-blind safe colours, seeds as points, lines that carry their own labels."""

import textwrap
from collections.abc import Iterable
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from mipo.evaluate import t_interval
from mipo_study.methods import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    INDIGO,
    LIGHT,
    METHODS,
    OLIVE,
    ORANGE,
    PURPLE,
    SKY,
    VERMILLION,
    Method,
    label,
)

__all__ = [
    "BLACK",
    "BLUE",
    "GREEN",
    "GREY",
    "INDIGO",
    "LIGHT",
    "OLIVE",
    "ORANGE",
    "PURPLE",
    "SKY",
    "VERMILLION",
]

PALETTE = (BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY, OLIVE, INDIGO)

WIDE, NORMAL, TALL = (
    (6.5, 2.8),
    (6.5, 3.6),
    (6.5, 5.2),
)  # inches; 6.5 is the width of the page's text

_RC = {
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "savefig.facecolor": "white",
    "savefig.transparent": False,
    "figure.dpi": 100,
    "savefig.dpi": 150,
    "figure.constrained_layout.use": True,
    "font.family": "sans-serif",
    "font.sans-serif": [
        "DejaVu Sans"
    ],  # comes with matplotlib: the same on every machine
    "font.size": 10,
    "axes.labelsize": 10,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#444444",
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.8,
    "lines.linewidth": 1.6,
    "lines.markersize": 5,
    "axes.prop_cycle": mpl.cycler(color=PALETTE),
    "svg.fonttype": "path",  # letters as outlines: no reader needs the font
    "svg.hashsalt": "mipo",
}  # the same figure gives the same bytes


def use_style() -> None:
    """Set matplotlib's defaults for the study. Calling it twice changes nothing."""
    mpl.rcParams.update(_RC)


def subplots(
    rows: int = 1, cols: int = 1, size: tuple[float, float] = NORMAL, **kwargs
) -> tuple[Figure, Any]:
    """`plt.subplots` in the study's style; size in inches. One axes comes back bare, several as an array."""
    use_style()
    return plt.subplots(rows, cols, figsize=size, **kwargs)


def _method(name: str) -> Method:
    """The method of that name or label; anything else is drawn like one of no look."""
    labelled = {method.label: method for method in METHODS.values()}
    return METHODS.get(name) or labelled.get(name) or Method(name)


def arm_colour(name: str, index: int = 0, rest: str = "") -> str:
    """A method's own colour, the same in every figure.

    Parameters
    ----------
    name : str
        A method's name or label, or anything else.
    index : int
        What has no colour of its own takes this number of the palette,
    rest : str
        or this colour, if given.
    """
    return _method(name).colour or rest or PALETTE[index % len(PALETTE)]


def arm_marker(name: str) -> str:
    """A method's own marker, the same in every figure; a dot for anything else."""
    return _method(name).marker


def ink(colour: str) -> tuple[float, float, float]:
    """The colour, darkened until letters in it stand out from white (relative luminance at most 0.3)."""
    rgb = np.array(mpl.colors.to_rgb(colour))
    for _ in range(20):
        if rgb**2.2 @ [0.2126, 0.7152, 0.0722] <= 0.3:
            break
        rgb = rgb * 0.93
    return tuple(float(v) for v in rgb)


def strip_points(
    ax: Axes,
    x: float,
    values: ArrayLike,
    *,
    colour: str = BLUE,
    label: str | None = None,
    marker: str = "o",
    width: float = 0.24,
    horizontal: bool = False,
    level: float = 0.95,
) -> tuple[float, float, float]:
    """Every seed as a faint point at position x, their mean as a solid one with its t interval as a bar.

    values  one number, or one per seed        returns  (mean, low, high); with one seed only the point is drawn
    """
    values = np.atleast_1d(np.asarray(values, float))  # (S,)
    mean, low, high = t_interval(values, level) if len(values) > 1 else (values[0],) * 3
    offsets = (
        np.linspace(-width / 2, width / 2, len(values))
        if len(values) > 1
        else np.zeros(1)
    )

    def place(position: float, value: float) -> tuple[float, float]:
        return (value, position) if horizontal else (position, value)

    if len(values) > 1:
        ax.scatter(
            *place(x + offsets, values),
            s=18,
            color=colour,
            alpha=0.4,
            linewidths=0,
            zorder=2,
        )
        ax.plot(
            *place(np.array([x, x]), np.array([low, high])),
            color=colour,
            lw=1.6,
            zorder=3,
            solid_capstyle="butt",
        )
    ax.scatter(
        *place(x, mean),
        s=40,
        color=colour,
        marker=marker,
        edgecolor="white",
        linewidths=0.6,
        zorder=4,
        label=label,
    )
    return mean, low, high


def reference_line(
    ax: Axes,
    value: float,
    text: str = "",
    *,
    axis: str = "y",
    colour: str = GREY,
    ls: str = "--",
    at: float = 1.0,
    above: bool = True,
) -> None:
    """A line across the axes at `value` of `axis`, with its text on it; `at` in 0..1 places the text along the line."""
    if axis == "y":
        ax.axhline(value, color=colour, ls=ls, lw=1.2, zorder=1)
        ax.annotate(
            text,
            (at, value),
            xycoords=ax.get_yaxis_transform(),
            xytext=(0, 2 if above else -2),
            textcoords="offset points",
            ha="right" if at > 0.5 else "left",
            va="bottom" if above else "top",
            color=colour,
            fontsize=9,
        )
    else:
        ax.axvline(value, color=colour, ls=ls, lw=1.2, zorder=1)
        ax.annotate(
            text,
            (value, at),
            xycoords=ax.get_xaxis_transform(),
            xytext=(3 if above else -3, 0),
            textcoords="offset points",
            ha="left" if above else "right",
            va="top" if at > 0.5 else "bottom",
            color=colour,
            fontsize=9,
        )


def spread(positions: ArrayLike, gap: float) -> np.ndarray:
    """Nearest positions in the same order that lie at least `gap` apart: labels that do not overlap."""
    positions = np.asarray(positions, float)
    order, placed = np.argsort(positions, kind="stable"), positions.copy()
    groups = [[i] for i in order]
    centre = lambda g: np.mean([positions[i] for i in g])  # noqa: E731
    merged = True
    while (
        merged
    ):  # neighbours that would touch become one block around their common centre
        merged = False
        for k in range(len(groups) - 1):
            a, b = groups[k], groups[k + 1]
            if centre(b) - centre(a) < gap * (len(a) + len(b)) / 2 - 1e-12:
                groups[k : k + 2], merged = [a + b], True
                break
    for group in groups:
        placed[group] = centre(group) + gap * (
            np.arange(len(group)) - (len(group) - 1) / 2
        )
    return placed


def end_labels(
    ax: Axes,
    entries: Iterable[tuple[float, float, str, str]],
    *,
    points: float = 11.5,
    fontsize: float = 9,
) -> None:
    """Write each line's name at its right end instead of a legend. Call after the limits are final.

    entries  (x, y, text, colour) of the lines' last points, in data units       points  least distance of two names
    """
    entries = list(entries)
    if not entries:
        return
    ax.figure.canvas.draw()  # settles layout, so that data units can be turned into points
    x, y = np.array([(e[0], e[1]) for e in entries], float).T
    pixels = ax.transData.transform(np.stack([x, y], 1))  # (L, 2)
    shift = (
        (spread(pixels[:, 1], points * ax.figure.dpi / 72) - pixels[:, 1])
        * 72
        / ax.figure.dpi
    )
    for entry, dy in zip(entries, shift, strict=True):
        ax.annotate(
            entry[2],
            entry[:2],
            xytext=(6, dy),
            textcoords="offset points",
            color=ink(entry[3]),
            fontsize=fontsize,
            va="center",
            ha="left",
            annotation_clip=False,
        )


def arm_rows(
    ax: Axes,
    values: dict,
    *,
    digits: int | None = 2,
    names: bool = True,
    rest: str = "",
) -> None:
    """One row per method, the first on top: seeds, mean and interval along x.

    Parameters
    ----------
    values : dict
        {method or any text: one number, or one per seed}.
    digits : int, optional
        Decimals of the mean, written at the right edge; None writes none.
    names : bool
        Whether the rows are named at the left.
    rest : str
        Colour of what has none of its own; by default the palette in turn.
    """
    for row, (name, seeds) in enumerate(values.items()):
        colour = arm_colour(name, row, rest)
        mean, _, _ = strip_points(
            ax, row, seeds, colour=colour, marker=arm_marker(name), horizontal=True
        )
        if digits is not None:
            ax.annotate(
                f"{mean:.{digits}f}".replace("-", "\N{MINUS SIGN}"),
                (1, row),
                xycoords=ax.get_yaxis_transform(),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize=9,
                color=ink(colour),
            )
    labels = [label(name) if names else "" for name in values]
    ax.set_yticks(range(len(values)), labels)
    ax.set_ylim(len(values) - 0.5, -0.5)
    ax.grid(axis="y", visible=False)
    ax.tick_params(axis="y", length=0)


def arm_panels(
    metrics: dict,
    *,
    reference: dict | None = None,
    digits: dict | None = None,
    height: float = 0.3,
    rest: str = "",
) -> Figure:
    """Small multiples: one panel per metric, one row per method, the same in all panels.

    Parameters
    ----------
    metrics : dict
        {title with unit: {method or any text: one number, or one per seed}}; at most
        three panels fit the page.
    reference : dict, optional
        {title: (value, text)}: a dashed line.
    digits : dict, optional
        {title: decimals}; 2 unless given.
    height : float
        Of a row, inches.
    rest : str
        See `arm_rows`.

    Raises
    ------
    ValueError
        Where nothing is to be drawn, or the rows of two panels differ.
    """
    if not metrics or not all(metrics.values()):
        raise ValueError("nothing to draw: every metric needs at least one arm")
    arms = list(next(iter(metrics.values())))
    size = (6.5, 1.3 + height * len(arms))
    fig, axes = subplots(1, len(metrics), size, squeeze=False)
    for ax, (title, values) in zip(axes[0], metrics.items(), strict=True):
        if list(values) != arms:
            raise ValueError(
                f"metric {title!r} has arms {list(values)}; the first metric has {arms}"
            )
        decimals = (digits or {}).get(title, 2)
        arm_rows(ax, values, names=ax is axes[0, 0], digits=decimals, rest=rest)
        ax.set_xlabel(textwrap.fill(title, 60 // len(metrics) - 2))
        ax.locator_params(axis="x", nbins=4 if len(metrics) < 3 else 3)
        if title in (reference or {}):
            value, text = reference[title]
            ax.axvline(value, color=GREY, ls="--", lw=1.2, zorder=1)
            ax.annotate(
                text,
                (value, 1),
                xycoords=ax.get_xaxis_transform(),
                xytext=(0, 3),
                textcoords="offset points",
                ha="center",
                va="bottom",
                fontsize=9,
                color=GREY,
            )
    return fig
