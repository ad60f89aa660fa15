"""Figures of chapter 11: what each setting of a grid reaches, what searching brings, what not searching costs."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from mipo_study.figures.rmipo import colour_of
from mipo_study.figures.style import (
    BLACK,
    GREY,
    ORANGE,
    end_labels,
    ink,
    reference_line,
    strip_points,
    subplots,
)


def rate(lr: float) -> str:
    """A learning rate, short: 1.5e-4."""
    digits, power = f"{lr:.2e}".split("e")
    return f"{float(digits):g}e{int(power)}"


def rate_lines(
    rates: np.ndarray,
    adherence: dict,
    broken: dict,
    *,
    base: float,
    chosen: dict | None = None,
) -> Figure:
    """Adherence and share of broken replies against the learning rate, all else as published; seeds as points.

    rates   (L,)        adherence, broken  {method: (L, S)} over seeds
    chosen  {method: learning rate that did best among people set apart}, ringed        base  adherence before training
    """
    fig, axes = subplots(1, 2, (6.5, 3.2))
    rates, ends = np.asarray(rates, float), []
    for ax, lines in zip(axes, (adherence, broken), strict=True):
        for k, (method, values) in enumerate(lines.items()):
            values, colour = np.asarray(values, float), colour_of(method, k)
            ax.plot(rates, values.mean(1), "o-", color=colour)
            if values.shape[1] > 1:
                ax.scatter(
                    np.repeat(rates, values.shape[1]),
                    values.ravel(),
                    s=10,
                    color=colour,
                    alpha=0.35,
                    lw=0,
                )
            if ax is axes[0] and method in (chosen or {}):
                i = int(np.argmin(np.abs(np.log(rates / chosen[method]))))
                ax.plot(
                    rates[i],
                    values[i].mean(),
                    "o",
                    ms=12 + 3 * k,
                    mfc="none",
                    mec=colour,
                    mew=1.2,
                )
            if ax is axes[1]:
                ends.append((rates[-1], values[-1].mean(), method, colour))
        ax.set_xscale("log")
        ax.set_xticks(
            rates,
            [rate(lr) for lr in rates],
            rotation=40,
            ha="right",
            rotation_mode="anchor",
        )
        ax.minorticks_off()
        ax.set_xlabel("learning rate")
    axes[0].set_title("adherence (share of slots)")
    axes[1].set_title("outside the grammar (share)")
    reference_line(axes[0], base, "base", at=0.0)
    end_labels(axes[1], ends)
    return fig


def heat_map(
    rows: Sequence[str],
    rates: np.ndarray,
    table: np.ndarray,
    *,
    base: float,
    broken: np.ndarray | None = None,
    limit: float = 0.1,
    marks: dict | None = None,
) -> Figure:
    """Adherence over settings (rows) and learning rates: blue above the base model, red below, hatched where broken.

    rows     (R,) words        rates  (L,)        table  (R, L) shares of slots, NaN where nothing was run
    broken   (R, L) shares of replies outside the grammar; more than `limit` is hatched
    marks    {"published" or "best": (row, column)}, framed
    """
    table = np.asarray(table, float)
    fig, ax = subplots(size=(6.5, 1.5 + 0.34 * len(rows)))
    reach = 1.4 * max(
        0.05, np.nanmax(np.append(table, base)) - base
    )  # the deepest blue is too dark to read on
    ax.imshow(table, cmap="RdBu", vmin=base - reach, vmax=base + reach, aspect="auto")
    for (i, j), value in np.ndenumerate(table):
        ax.text(
            j,
            i,
            "–" if np.isnan(value) else f"{value:.3f}",
            ha="center",
            va="center",
            fontsize=9,
            bbox={"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.8},
        )
        if broken is not None and broken[i][j] > limit:
            ax.add_patch(
                Rectangle(
                    (j - 0.5, i - 0.5),
                    1,
                    1,
                    fill=False,
                    hatch="////",
                    edgecolor="white",
                    lw=0,
                )
            )
    for name, colour, inset in (("published", BLACK, 0.0), ("best", ORANGE, 0.07)):
        if name in (marks or {}):
            i, j = marks[name]
            ax.add_patch(
                Rectangle(
                    (j - 0.47 + inset, i - 0.45 + inset),
                    0.94 - 2 * inset,
                    0.9 - 2 * inset,
                    fill=False,
                    edgecolor=colour,
                    lw=2.2,
                    zorder=4,
                )
            )
    ax.set(
        xticks=range(len(rates)),
        yticks=range(len(rows)),
        yticklabels=rows,
        xlabel="learning rate",
    )
    ax.set_xticklabels([rate(lr) for lr in rates])
    ax.grid(False)
    ax.tick_params(length=0)
    keys = [
        Patch(fill=False, edgecolor=BLACK, lw=2.2, label="as published"),
        Patch(fill=False, edgecolor=ORANGE, lw=2.2, label="best of the grid"),
        Patch(
            facecolor="#C0504D",
            hatch="////",
            edgecolor="white",
            label=f"over {limit:.0%} of replies broken",
        ),
    ]
    fig.legend(handles=keys, loc="outside upper center", ncols=3)
    return fig


def search_curves(
    curves: dict, *, levels: dict | None = None, short: dict | None = None
) -> Figure:
    """What the best of k random settings is worth: a thin line per way to choose and pay, their mean a thick one.

    curves   {method: (D, n)} adherence for k = 1 .. n, shares of slots
    short    the same over the learning rates alone, dashed        levels  {text: adherence} to be reached
    """
    fig, ax = subplots(size=(6.5, 3.8))
    ends, most = [], max(np.shape(rows)[1] for rows in curves.values())
    for k, (method, rows) in enumerate(curves.items()):
        rows, colour = np.asarray(rows, float), colour_of(method, k)
        runs = np.arange(1, rows.shape[1] + 1)
        ax.plot(runs, rows.T, color=colour, alpha=0.3, lw=0.8)
        ax.plot(runs, rows.mean(0), color=colour)
        ends.append((runs[-1], rows.mean(0)[-1], method, colour))
        if method in (short or {}):
            mean = np.asarray(short[method], float).mean(0)
            ax.plot(
                np.arange(1, len(mean) + 1),
                mean,
                color=colour,
                ls=(0, (4, 2)),
                marker="o",
                ms=3.5,
            )
    for k, (text, value) in enumerate(
        sorted((levels or {}).items(), key=lambda item: item[1])
    ):
        reference_line(
            ax, value, text, at=0.01, colour=(GREY, BLACK)[k % 2], above=k > 0
        )  # the lowest below its line
    ax.set_xscale("log", base=2)
    ticks = [2**i for i in range(12) if 2**i < 0.8 * most] + [most]
    ax.set_xticks(ticks, [str(t) for t in ticks])
    ax.minorticks_off()
    ax.set(
        xlabel="runs: settings tried, drawn at random from the grid",
        ylabel="adherence (share of slots)",
    )
    if short:
        keys = [
            Line2D([], [], color=GREY, label="all settings searched"),
            Line2D(
                [],
                [],
                color=GREY,
                ls=(0, (4, 2)),
                marker="o",
                ms=3.5,
                label="learning rate alone",
            ),
        ]
        fig.legend(handles=keys, loc="outside upper center", ncols=2)
    end_labels(ax, ends)
    return fig


def regret_bars(groups: dict, *, allowed: float | None = None) -> Figure:
    """Regret per method, one group of bars per kind of not searching: bar and number the mean, points the seeds.

    groups   {kind: {method: one per seed}}, adherence lost against the best of the method's grid, shares of slots
    allowed  largest regret that still counts as none
    """
    rows = sum(len(group) + 0.6 for group in groups.values())
    fig, ax = subplots(size=(6.5, 1.0 + 0.3 * rows))
    at, places, names = 0.0, [], []
    for kind, group in groups.items():
        ax.annotate(
            kind,
            (0, at),
            xycoords=ax.get_yaxis_transform(),
            xytext=(2, 0),
            textcoords="offset points",
            va="center",
            fontsize=9.5,
            fontweight="bold",
            zorder=5,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
        )
        for k, (method, values) in enumerate(group.items()):
            at += 0.9
            colour = colour_of(method, k)
            ax.barh(at, np.mean(values), height=0.62, color=colour, alpha=0.25)
            mean, _, _ = strip_points(ax, at, values, colour=colour, horizontal=True)
            ax.annotate(
                f"{mean:.3f}".replace("-", "\N{MINUS SIGN}"),
                (1, at),
                xycoords=ax.get_yaxis_transform(),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize=9,
                color=ink(colour),
            )
            places.append(at)
            names.append(method)
        at += 1.1
    ax.set_yticks(places, names)
    ax.set_ylim(at - 0.5, -0.5)
    ax.axvline(0, color=BLACK, lw=1)
    if allowed is not None:
        ax.axvline(allowed, color=GREY, ls="--", lw=1.2)
    ax.grid(axis="y", visible=False)
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel(
        "regret on test people (share of slots)"
        + (f"; dashed: {allowed:g}" if allowed is not None else "")
    )
    return fig
