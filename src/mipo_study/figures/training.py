"""Figures of chapter 6: what training does to adherence, validity and distance.

Distance is that from the exact optimum.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from mipo_study.figures.style import (
    BLACK,
    GREY,
    NORMAL,
    WIDE,
    Seeds,
    Values,
    arm_colour,
    arm_marker,
    arm_rows,
    end_labels,
    ink,
    reference_line,
    rim,
    settled,
    strip_points,
    subplots,
)
from mipo_study.methods import label

ADHERENCE = "adherence (share of slots that follow the person)"
Level = tuple[float, float]


def _seeds(values: ArrayLike) -> np.ndarray:
    """(points, seeds) from (points,) or (points, seeds)."""
    values = np.asarray(values, float)
    return values[:, None] if values.ndim == 1 else values


def _log_ticks(ax: Axes, values: np.ndarray) -> None:
    """A logarithmic x axis whose ticks are exactly the values that were run."""

    def text(value: float) -> str:
        if value >= 1e-3:
            return f"{value:g}"
        if value >= 1e-4:
            return f"{value * 1e4:g}e-4"
        return f"{value:.2g}".replace("e-0", "e-")

    ax.set_xscale("log")
    ax.set_xticks(values, [text(value) for value in values])
    ax.minorticks_off()


def adherence_by_arm(
    values: Values,
    *,
    base: float,
    optimum: float | None = None,
    xlabel: str = ADHERENCE,
    text: str = "exact optimum",
) -> Figure:
    """Adherence of each arm: seeds as points, mean and 95 % t interval.

    Parameters
    ----------
    values : dict
        {arm: one per seed}.
    base, optimum : float
        Levels in the same unit, dashed lines.
    xlabel : str
        Title of the axis.
    text : str
        What the optimum is called.

    Returns
    -------
    Figure
    """
    fig, ax = subplots(size=(6.5, 1.2 + 0.34 * len(values)))
    arm_rows(ax, values)
    low, high = ax.get_xlim()
    close = False  # the two texts would overlap
    if optimum is not None:
        span = max(high, optimum) - min(low, base)
        close = abs(optimum - base) < 0.3 * span
    for value, name, colour, side in (
        (base, "base", GREY, "right"),
        (optimum, text, BLACK, "left"),
    ):
        if value is not None:
            ax.axvline(value, color=colour, ls="--", lw=1.2, zorder=1)
            ax.annotate(
                f"{name} {value:.2f}",
                (value, 1),
                xycoords=ax.get_xaxis_transform(),
                xytext=(0, 3),
                textcoords="offset points",
                ha=side if close else "center",
                va="bottom",
                fontsize=9,
                color=colour,
            )
    ax.set_xlabel(xlabel)
    return fig


def beta_sweep(
    beta: ArrayLike,
    measured: Mapping[str, ArrayLike],
    *,
    optimum: tuple[ArrayLike, ArrayLike],
    base: float | None = None,
    invalid: Mapping[str, ArrayLike] | None = None,
) -> Figure:
    """Adherence over β against the exact optimum, and below it invalid replies.

    Parameters
    ----------
    beta : array_like, shape (B,)
        The values that were run, 1/nats.
    measured : dict
        {arm: adherence, shape (B,) or (B, S) over seeds}.
    optimum : (array_like, array_like)
        Grid of β, and the exact optimum's adherence at each.
    base : float, optional
        Adherence before training.
    invalid : dict, optional
        {arm: share of invalid replies, shapes as `measured`}.

    Returns
    -------
    Figure
    """
    rows = 2 if invalid else 1
    fig, axes = subplots(
        rows,
        1,
        (6.5, 3.4 + 1.5 * (rows - 1)),
        squeeze=False,
        sharex=True,
        gridspec_kw={"height_ratios": [2.2, 1][:rows]},
    )
    top = axes[0, 0]
    beta = np.asarray(beta, float)
    grid, best = (np.asarray(line) for line in optimum)
    top.plot(grid, best, color=BLACK, zorder=1)
    ends = [(grid[-1], best[-1], "exact optimum", BLACK)]
    panels = [(top, measured)]
    if invalid:
        panels.append((axes[1, 0], invalid))
    for ax, lines in panels:
        for k, (arm, values) in enumerate(lines.items()):
            values, colour = _seeds(values), arm_colour(arm, k)
            # Side by side on the logarithmic axis.
            shift = 1 + 0.035 * (k - (len(lines) - 1) / 2)
            ax.plot(beta * shift, values.mean(1), color=colour, alpha=0.6)
            for b, v in zip(beta, values, strict=True):
                strip_points(
                    ax,
                    b * shift,
                    v,
                    colour=colour,
                    marker=arm_marker(arm),
                    width=0,
                )
            if ax is top:
                ends.append((beta[-1] * shift, values[-1].mean(), label(arm), colour))
    if base is not None:
        reference_line(top, base, "base", at=0.0)
    top.set_ylabel("adherence (share of slots)")
    axes[-1, 0].set_xlabel("β (1/nats): pull towards the base model")
    if invalid:
        axes[1, 0].set_ylabel("outside\ngrammar (share)")
    _log_ticks(axes[-1, 0], beta)
    end_labels(top, ends)
    return fig


def training_curves(
    curves: Mapping[str, Mapping[str, ArrayLike]], *, smooth: int = 1
) -> Figure:
    """Loss and margin over optimiser steps; a preference loss starts at log 2.

    Parameters
    ----------
    curves : dict
        {arm: {"step": (T,), "loss": (T,) or (S, T), "margin": the same, optional}},
        nats; seeds thin, their mean thick.
    smooth : int
        Width of a running mean over steps; 1 is none.

    Returns
    -------
    Figure
    """
    with_margin = any("margin" in curve for curve in curves.values())
    panels = ["loss", "margin"] if with_margin else ["loss"]
    fig, axes = subplots(1, len(panels), WIDE, squeeze=False)
    for ax, panel in zip(axes[0], panels, strict=True):
        for k, (arm, curve) in enumerate(curves.items()):
            if panel not in curve:
                continue
            colour = arm_colour(arm, k)
            raw = np.atleast_2d(np.asarray(curve[panel], float))  # (S, T)
            values = np.stack([_running_mean(row, smooth) for row in raw])
            if len(values) > 1:
                ax.plot(curve["step"], values.T, color=colour, alpha=0.25, lw=0.8)
            ax.plot(curve["step"], values.mean(0), color=colour, label=label(arm))
        ax.set_xlabel("step")
    axes[0, 0].set_title("loss (nats)")
    reference_line(axes[0, 0], np.log(2), "log 2")
    if len(panels) > 1:
        axes[0, 1].set_title("margin, chosen − rejected (nats)")
        reference_line(axes[0, 1], 0.0)
    if len(curves) > 1:
        fig.legend(
            *axes[0, 0].get_legend_handles_labels(),
            loc="outside upper center",
            ncols=min(len(curves), 5),
        )
    return fig


def _running_mean(values: np.ndarray, width: int) -> np.ndarray:
    """Mean over the last `width` steps, fewer at the start: the first value stays."""
    total = np.cumsum(np.concatenate([[0.0], values]))
    end = np.arange(1, len(values) + 1)
    start = np.maximum(end - width, 0)
    return (total[end] - total[start]) / (end - start)


def lr_grid(
    rates: ArrayLike,
    adherence: Mapping[str, ArrayLike],
    invalid: Mapping[str, ArrayLike],
    *,
    base: float | None = None,
    chosen: Mapping[str, float] | None = None,
) -> Figure:
    """Adherence and share of replies outside the grammar at each learning rate.

    Parameters
    ----------
    rates : array_like, shape (L,)
        Learning rates.
    adherence, invalid : dict
        {arm: shares, shape (L,) or (L, S) over seeds}.
    base : float, optional
        Adherence before training.
    chosen : dict, optional
        {arm: learning rate that the people set apart chose}, ringed.

    Returns
    -------
    Figure
    """
    fig, axes = subplots(1, 2, (6.5, 3.2))
    rates = np.asarray(rates, float)
    ends = []
    for ax, lines in zip(axes, (adherence, invalid), strict=True):
        for k, (arm, values) in enumerate(lines.items()):
            values, colour = _seeds(values), arm_colour(arm, k)
            ax.plot(
                rates,
                values.mean(1),
                color=colour,
                marker=arm_marker(arm),
                markersize=5,
            )
            if values.shape[1] > 1:
                ax.scatter(
                    np.repeat(rates, values.shape[1]),
                    values.ravel(),
                    s=10,
                    color=colour,
                    alpha=0.35,
                    lw=0,
                )
            if chosen and arm in chosen:
                i = int(np.argmin(np.abs(np.log(rates / chosen[arm]))))
                ax.plot(
                    rates[i],
                    values[i].mean(),
                    "o",
                    ms=12,
                    mfc="none",
                    mec=colour,
                    mew=1.2,
                )
            if ax is axes[1]:
                ends.append((rates[-1], values[-1].mean(), label(arm), colour))
        _log_ticks(ax, rates)
        ax.set_xlabel("learning rate")
    axes[0].set_title("adherence (share of slots)")
    axes[1].set_title("outside the grammar (share)")
    if base is not None:
        reference_line(axes[0], base, "base", at=0.0, above=False)
    end_labels(axes[1], ends)
    return fig


def tradeoff(
    points: Mapping[str, tuple[Seeds, Seeds]],
    *,
    base: Level | None = None,
    optimum: Level | None = None,
    xlabel: str = "replies outside the grammar (share)",
    ylabel: str = "adherence (share of slots)",
) -> Figure:
    """What an arm gains against what it breaks; up and left is better.

    Parameters
    ----------
    points : dict
        {arm: (x, y)}, each one number or one per seed; the mean is larger and named.
    base, optimum : (float, float), optional
        Of the base model and of the exact optimum.
    xlabel, ylabel : str
        Titles of the axes.

    Returns
    -------
    Figure
    """
    fig, ax = subplots(size=NORMAL)
    marks = dict(points)
    if base:
        marks["base"] = base
    if optimum:
        marks["optimum"] = optimum
    ends = []
    for k, (arm, (x, y)) in enumerate(marks.items()):
        x, y = np.atleast_1d(x), np.atleast_1d(y)
        colour = arm_colour(arm, k)
        if len(x) > 1:
            ax.scatter(x, y, s=14, color=colour, alpha=0.4, lw=0)
        size = 110 if arm == "optimum" else 55
        ax.scatter(
            x.mean(),
            y.mean(),
            s=size,
            color=colour,
            marker=arm_marker(arm),
            **rim(arm_marker(arm)),
            zorder=4,
        )
        ends.append((x.mean(), y.mean(), label(arm), colour))
    ax.set_xlabel(xlabel)
    ax.set_ylabel(ylabel)
    ax.margins(x=0.1, y=0.1)
    _beside(ax, ends)
    return fig


def _beside(
    ax: Axes, entries: Sequence[tuple[float, float, str, str]], *, gap: float = 11.5
) -> None:
    """Names right of their points, stacked where two points share a place."""
    dpi = settled(ax).dpi
    pixels = ax.transData.transform([(x, y) for x, y, *_ in entries])
    points = pixels * 72 / dpi  # of 1/72 inch
    boxes: list[tuple[float, float, float]] = []  # left, height, width
    for i in np.argsort(points[:, 1]):
        left, height = points[i]
        x, y, text, colour = entries[i]
        width = 6 * len(text)
        for other, level, room in sorted(boxes, key=lambda box: box[1]):
            beside = left < other + room and other < left + width
            if beside and abs(height - level) < gap:
                height = level + gap
        boxes.append((left, height, width))
        ax.annotate(
            text,
            (x, y),
            xytext=(8, height - points[i, 1]),
            textcoords="offset points",
            color=ink(colour),
            fontsize=9,
            va="center",
            annotation_clip=False,
        )


def kl_to_optimum(values: Values, *, log: bool = False) -> Figure:
    """KL from each arm's policy to the exact optimum; 0 is the optimum itself.

    Parameters
    ----------
    values : dict
        {arm: one per seed}, nats per reply.
    log : bool
        Logarithmic axis, for arms that differ by factors.

    Returns
    -------
    Figure
    """
    fig, ax = subplots(size=(6.5, 1.2 + 0.34 * len(values)))
    arm_rows(ax, values)
    if log:
        ax.set_xscale("log")
    else:
        ax.set_xlim(left=0)
    ax.set_xlabel("KL to the exact optimum (nats per reply)")
    return fig
