"""One look for every figure.

Sizes, colours that colour-blind readers tell apart, seeds as points, lines that carry
their own labels.
"""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.rcsetup import cycler
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

# Inches; 6.5 is the width of the page's text.
WIDE = (6.5, 2.8)
NORMAL = (6.5, 3.6)
TALL = (6.5, 5.2)

Seeds = float | Sequence[float] | np.ndarray  # one number, or one per seed
Values = Mapping[str, Seeds]  # by method, or any text
References = Mapping[str, tuple[float, str]]  # {title of a panel: (value, text)}

_RC = {
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "savefig.facecolor": "white",
    "savefig.transparent": False,
    "figure.dpi": 100,
    "savefig.dpi": 150,
    "figure.constrained_layout.use": True,
    "font.family": "sans-serif",
    # It comes with matplotlib: the same on every machine.
    "font.sans-serif": ["DejaVu Sans"],
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
    "axes.prop_cycle": cycler(color=PALETTE),
    "svg.fonttype": "path",  # letters as outlines: no reader needs the font
    "svg.hashsalt": "mipo",  # the same figure gives the same bytes
}


def use_style() -> None:
    """Set matplotlib's defaults for the study. Calling it twice changes nothing."""
    mpl.rcParams.update(_RC)


def subplots(
    rows: int = 1, cols: int = 1, size: tuple[float, float] = NORMAL, **kwargs: Any
) -> tuple[Figure, Any]:
    """`plt.subplots` in the study's style.

    Parameters
    ----------
    rows, cols : int
        Of axes.
    size : (float, float)
        Inches.
    **kwargs
        Of `plt.subplots`.

    Returns
    -------
    figure : Figure
    axes : Axes or ndarray of Axes
        One axes comes back bare, several as an array.
    """
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

    Returns
    -------
    str
    """
    return _method(name).colour or rest or PALETTE[index % len(PALETTE)]


def arm_marker(name: str) -> str:
    """A method's own marker, the same in every figure; a dot for anything else."""
    return _method(name).marker


def ink(colour: str) -> tuple[float, float, float]:
    """The colour as red, green and blue, dark enough for letters on white.

    Its relative luminance is at most 0.3.
    """
    rgb = np.array(mpl.colors.to_rgb(colour))
    for _ in range(20):
        if rgb**2.2 @ [0.2126, 0.7152, 0.0722] <= 0.3:
            break
        rgb = rgb * 0.93
    red, green, blue = (float(v) for v in rgb)
    return red, green, blue


def strip_points(
    ax: Axes,
    x: float,
    values: Seeds,
    *,
    colour: str = BLUE,
    label: str | None = None,
    marker: str = "o",
    width: float = 0.24,
    horizontal: bool = False,
    level: float = 0.95,
) -> tuple[float, float, float]:
    """Seeds as faint points at x, their mean as a solid one, its t interval as a bar.

    Parameters
    ----------
    ax : Axes
        To draw on.
    x : float
        Position.
    values : array_like, shape (S,)
        One number, of which only the point is drawn, or one per seed.
    colour, label, marker
        Of the mean.
    width : float
        Over which the seeds are spread.
    horizontal : bool
        Whether values run along x, and `x` is a height.
    level : float
        Of the interval.

    Returns
    -------
    (mean, low, high)
    """
    values = np.atleast_1d(np.asarray(values, float))  # (S,)

    def place(position: ArrayLike, value: ArrayLike) -> tuple[Any, Any]:
        return (value, position) if horizontal else (position, value)

    mean = low = high = values[0]
    if len(values) > 1:
        mean, low, high = t_interval(values, level)
        offsets = np.linspace(-width / 2, width / 2, len(values))
        ax.scatter(
            *place(x + offsets, values),
            s=18,
            color=colour,
            alpha=0.4,
            linewidths=0,
            zorder=2,
        )
        ax.plot(
            *place([x, x], [low, high]),
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
        **rim(marker),
        zorder=4,
        label=label,
    )
    return mean, low, high


def rim(marker: str) -> dict[str, Any]:
    """How the edge of a point is drawn: white round a filled marker, else its lines."""
    if marker in Line2D.filled_markers:
        return {"edgecolor": "white", "linewidths": 0.6}
    return {"linewidths": 1.6}


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
    """A line across the axes, with its text on it.

    Parameters
    ----------
    ax : Axes
        To draw on.
    value : float
        Where it crosses `axis`.
    text : str
        Its name.
    axis : str
        "y" for a horizontal line, "x" for a vertical one.
    colour, ls
        Of the line.
    at : float
        Place of the text along the line, 0 to 1.
    above : bool
        Whether the text stands above the line, or right of it.
    """
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
    """The nearest positions in the same order that lie at least `gap` apart.

    Parameters
    ----------
    positions : array_like, shape (L,)
        Where labels would stand.
    gap : float
        In the same unit.

    Returns
    -------
    ndarray, shape (L,)
    """
    positions = np.asarray(positions, float)
    order = np.argsort(positions, kind="stable")
    groups = [[i] for i in order]

    def touch(a: list, b: list) -> bool:
        room = gap * (len(a) + len(b)) / 2
        return positions[b].mean() - positions[a].mean() < room - 1e-12

    # Neighbours that would touch become one block around their common centre.
    merged = True
    while merged:
        merged = False
        for k in range(len(groups) - 1):
            a, b = groups[k], groups[k + 1]
            if touch(a, b):
                groups[k : k + 2] = [a + b]
                merged = True
                break
    places = positions.copy()
    for group in groups:
        steps = np.arange(len(group)) - (len(group) - 1) / 2
        places[group] = positions[group].mean() + gap * steps
    return places


def end_labels(
    ax: Axes,
    entries: Iterable[tuple[float, float, str, str]],
    *,
    points: float = 11.5,
    fontsize: float = 9,
) -> None:
    """Write each line's name at its right end instead of a legend.

    Call it after the limits of the axes are final.

    Parameters
    ----------
    ax : Axes
        To draw on.
    entries : iterable of (x, y, text, colour)
        The lines' last points, in data units.
    points : float
        Least distance of two names, 1/72 inch.
    fontsize : float
        Of the names.
    """
    entries = list(entries)
    if not entries:
        return
    dpi = settled(ax).dpi
    x, y = np.array([(e[0], e[1]) for e in entries], float).T
    pixels = ax.transData.transform(np.stack([x, y], 1))  # (L, 2)
    shift = (spread(pixels[:, 1], points * dpi / 72) - pixels[:, 1]) * 72 / dpi
    for (x_end, y_end, text, colour), dy in zip(entries, shift, strict=True):
        ax.annotate(
            text,
            (x_end, y_end),
            xytext=(6, dy),
            textcoords="offset points",
            color=ink(colour),
            fontsize=fontsize,
            va="center",
            ha="left",
            annotation_clip=False,
        )


def settled(ax: Axes) -> Figure:
    """The axes' figure, drawn, so that data units can be turned into pixels."""
    figure = cast(Figure, ax.figure)
    figure.canvas.draw()
    return figure


def edge_text(
    ax: Axes, y: float, text: str, colour: str = BLACK, *, shift: float = 4
) -> None:
    """Text at the right edge of the axes, `shift` points of 1/72 inch beyond it."""
    ax.annotate(
        text,
        (1, y),
        xycoords=ax.get_yaxis_transform(),
        xytext=(shift, 0),
        textcoords="offset points",
        va="center",
        fontsize=9,
        color=ink(colour),
    )


def arm_rows(
    ax: Axes,
    values: Values,
    *,
    digits: int | None = 2,
    names: bool = True,
    rest: str = "",
) -> None:
    """One row per method, the first on top: seeds, mean and interval along x.

    Parameters
    ----------
    ax : Axes
        To draw on.
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
            text = f"{mean:.{digits}f}".replace("-", "\N{MINUS SIGN}")
            edge_text(ax, row, text, colour)
    labels = [label(name) if names else "" for name in values]
    ax.set_yticks(range(len(values)), labels)
    ax.set_ylim(len(values) - 0.5, -0.5)
    ax.grid(axis="y", visible=False)
    ax.tick_params(axis="y", length=0)


def arm_panels(
    metrics: Mapping[str, Values],
    *,
    reference: References | None = None,
    digits: Mapping[str, int] | None = None,
    height: float = 0.3,
    rest: str = "",
) -> Figure:
    """Small multiples: a panel per metric, a row per method, the same in all panels.

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

    Returns
    -------
    Figure

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
        if reference and title in reference:
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
