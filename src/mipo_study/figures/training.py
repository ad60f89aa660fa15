"""Figures of notebook 06: what training does to adherence, validity and the distance from the exact optimum."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from mipo_study.figures.style import (
    BLACK,
    GREY,
    NORMAL,
    WIDE,
    arm_colour,
    arm_marker,
    arm_rows,
    end_labels,
    ink,
    reference_line,
    strip_points,
    subplots,
)
from mipo_study.methods import label

ADHERENCE = "adherence (share of slots that follow the person)"


def _seeds(values: ArrayLike) -> np.ndarray:
    """(points, seeds) from (points,) or (points, seeds)."""
    values = np.asarray(values, float)
    return values[:, None] if values.ndim == 1 else values


def _log_ticks(ax: Axes, values: np.ndarray) -> None:
    """A logarithmic x axis whose ticks are exactly the values that were run."""
    ax.set_xscale("log")
    ax.set_xticks(
        values,
        [
            f"{v:g}"
            if v >= 1e-3
            else f"{v:.2g}".replace("e-0", "e-")
            if v < 1e-4
            else f"{v * 1e4:g}e-4"
            for v in values
        ],
    )
    ax.minorticks_off()


def adherence_by_arm(
    values: dict,
    *,
    base: float,
    optimum: float | None = None,
    xlabel: str = ADHERENCE,
    text: str = "exact optimum",
) -> Figure:
    """Adherence of each arm: seeds as points, mean and 95 % t interval; dashed lines at the base and the exact optimum.

    values  {arm: one per seed}        base, optimum  exact or measured levels, same unit as the values
    """
    fig, ax = subplots(size=(6.5, 1.2 + 0.34 * len(values)))
    arm_rows(ax, values)
    low, high = ax.get_xlim()
    close = optimum is not None and abs(optimum - base) < 0.3 * (
        max(high, optimum) - min(low, base)
    )
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
    measured: dict,
    *,
    optimum: tuple,
    base: float | None = None,
    invalid: dict | None = None,
) -> Figure:
    """Measured adherence over β against the curve of the exact optimum; below it the share of invalid replies, if any.

    beta      (B,) the values that were run        measured, invalid  {arm or label: (B,) or (B, S) over seeds}
    optimum   (β grid, adherence of the exact optimum at each)        base  adherence before training
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
    top, beta = axes[0, 0], np.asarray(beta, float)
    top.plot(*optimum, color=BLACK, zorder=1)
    ends = [(optimum[0][-1], optimum[1][-1], "exact optimum", BLACK)]
    panels = [(top, measured)] + ([(axes[1, 0], invalid)] if invalid else [])
    for ax, lines in panels:
        for k, (arm, values) in enumerate(lines.items()):
            values, colour = _seeds(values), arm_colour(arm, k)
            shift = 1 + 0.035 * (
                k - (len(lines) - 1) / 2
            )  # side by side on the log axis
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


def training_curves(curves: dict, *, smooth: int = 1) -> Figure:
    """Loss and margin over optimiser steps; a preference loss starts at log 2, where the policy is still the reference.

    curves  {arm: {"step": (T,), "loss": (T,) or (S, T), "margin": the same, optional}}; seeds thin, their mean thick
    smooth  width of a running mean over steps, 1 = none
    """
    panels = (
        ["loss", "margin"] if any("margin" in c for c in curves.values()) else ["loss"]
    )
    fig, axes = subplots(1, len(panels), WIDE, squeeze=False)
    for ax, panel in zip(axes[0], panels, strict=True):
        for k, (arm, curve) in enumerate(curves.items()):
            if panel not in curve:
                continue
            colour, values = (
                arm_colour(arm, k),
                np.atleast_2d(np.asarray(curve[panel], float)),
            )  # (S, T)
            values = np.stack([_running_mean(v, smooth) for v in values])
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
    """Mean over the last `width` steps, fewer at the start, so that the first value stays what it was."""
    total = np.cumsum(np.concatenate([[0.0], values]))
    end = np.arange(1, len(values) + 1)
    start = np.maximum(end - width, 0)
    return (total[end] - total[start]) / (end - start)


def lr_grid(
    rates: np.ndarray,
    adherence: dict,
    invalid: dict,
    *,
    base: float | None = None,
    chosen: dict | None = None,
) -> Figure:
    """Adherence and share of replies outside the grammar at each learning rate, one line per arm.

    rates   (L,) learning rates        adherence, invalid  {arm: (L,) or (L, S) over seeds}
    chosen  {arm: learning rate that the people set apart chose}, ringed        base  adherence before training
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
            if arm in (chosen or {}):
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
    points: dict,
    *,
    base: tuple | None = None,
    optimum: tuple | None = None,
    xlabel: str = "replies outside the grammar (share)",
    ylabel: str = "adherence (share of slots)",
) -> Figure:
    """What an arm gains against what it breaks: each seed a point, the mean larger and named. Up and left is better.

    points         {arm: (x, y)} with x and y one number or one per seed
    base, optimum  (x, y) of the base model and of the exact optimum
    """
    fig, ax = subplots(size=NORMAL)
    marks = {
        **points,
        **({"base": base} if base else {}),
        **({"optimum": optimum} if optimum else {}),
    }
    ends = []
    for k, (arm, (x, y)) in enumerate(marks.items()):
        x, y, colour = np.atleast_1d(x), np.atleast_1d(y), arm_colour(arm, k)
        if len(x) > 1:
            ax.scatter(x, y, s=14, color=colour, alpha=0.4, lw=0)
        size = 110 if arm == "optimum" else 55
        ax.scatter(
            x.mean(),
            y.mean(),
            s=size,
            color=colour,
            marker=arm_marker(arm),
            edgecolor="white",
            lw=0.6,
            zorder=4,
        )
        ends.append((x.mean(), y.mean(), label(arm), colour))
    ax.set_xlabel(xlabel)
    ax.set_ylabel(ylabel)
    ax.margins(x=0.1, y=0.1)
    _beside(ax, ends)
    return fig


def _beside(ax: Axes, entries: Any, *, gap: float = 11.5) -> None:
    """Names right of their points; where two points share a place, the names are stacked instead of overprinted."""
    ax.figure.canvas.draw()
    pixels = (
        ax.transData.transform([e[:2] for e in entries]) * 72 / ax.figure.dpi
    )  # points of 1/72 inch
    placed = []
    for i in np.argsort(pixels[:, 1]):
        x, y = pixels[i]
        width = 6 * len(entries[i][2])
        for other_x, other_y, other_width in sorted(placed, key=lambda p: p[1]):
            if (
                x < other_x + other_width
                and other_x < x + width
                and abs(y - other_y) < gap
            ):
                y = other_y + gap
        placed.append((x, y, width))
        ax.annotate(
            entries[i][2],
            entries[i][:2],
            xytext=(8, y - pixels[i, 1]),
            textcoords="offset points",
            color=ink(entries[i][3]),
            fontsize=9,
            va="center",
            annotation_clip=False,
        )


def kl_to_optimum(values: dict, *, log: bool = False) -> Figure:
    """KL from each arm's policy to the exact optimum, nats per reply; 0 is the optimum itself.

    values  {arm: one per seed}        log  logarithmic axis, when arms differ by factors
    """
    fig, ax = subplots(size=(6.5, 1.2 + 0.34 * len(values)))
    arm_rows(ax, values)
    if log:
        ax.set_xscale("log")
    else:
        ax.set_xlim(left=0)
    ax.set_xlabel("KL to the exact optimum (nats per reply)")
    return fig
