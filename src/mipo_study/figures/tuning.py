"""Figures of chapter 11: settings of a grid, gains of a search, costs of none."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from mipo_study.figures.rmipo import colour_of
from mipo_study.figures.style import (
    BLACK,
    GREY,
    ORANGE,
    Values,
    edge_text,
    end_labels,
    reference_line,
    strip_points,
    subplots,
)


def rate(lr: float) -> str:
    """A learning rate, short: 1.5e-4."""
    digits, power = f"{lr:.2e}".split("e")
    return f"{float(digits):g}e{int(power)}"


def rate_lines(
    rates: Sequence[float] | np.ndarray,
    adherence: Mapping[str, np.ndarray],
    broken: Mapping[str, np.ndarray],
    *,
    base: float,
    chosen: Mapping[str, float] | None = None,
) -> Figure:
    """Adherence and share of broken replies against the learning rate.

    All else is as published.

    Parameters
    ----------
    rates : array_like, shape (L,)
        Learning rates.
    adherence, broken : dict
        {method: shares, shape (L, S) over seeds}.
    base : float
        Adherence before training.
    chosen : dict, optional
        {method: learning rate that did best among people set apart}, ringed.

    Returns
    -------
    Figure
    """
    fig, axes = subplots(1, 2, (6.5, 3.2))
    rates = np.asarray(rates, float)
    ends = []
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
            if ax is axes[0] and chosen and method in chosen:
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
    rates: Sequence[float] | np.ndarray,
    table: np.ndarray,
    *,
    base: float,
    broken: np.ndarray | None = None,
    limit: float = 0.1,
    marks: Mapping[str, tuple[int, int]] | None = None,
) -> Figure:
    """Adherence over settings and learning rates: blue above the base, red below.

    Parameters
    ----------
    rows : sequence of str, length R
        Settings in words.
    rates : array_like, shape (L,)
        Learning rates.
    table : ndarray, shape (R, L)
        Shares of slots, NaN where nothing was run.
    base : float
        Adherence before training.
    broken : ndarray, shape (R, L), optional
        Shares of replies outside the grammar.
    limit : float
        Above it a cell is hatched.
    marks : dict, optional
        {"published" or "best": (row, column)}, framed.

    Returns
    -------
    Figure
    """
    table = np.asarray(table, float)
    fig, ax = subplots(size=(6.5, 1.5 + 0.34 * len(rows)))
    # The deepest blue is too dark to read on.
    reach = 1.4 * max(0.05, np.nanmax(np.append(table, base)) - base)
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
            cell = Rectangle((j - 0.5, i - 0.5), 1, 1)
            cell.set(fill=False, hatch="////", edgecolor="white", lw=0)
            ax.add_patch(cell)
    for name, colour, inset in (("published", BLACK, 0.0), ("best", ORANGE, 0.07)):
        if marks and name in marks:
            i, j = marks[name]
            corner = (j - 0.47 + inset, i - 0.45 + inset)
            frame = Rectangle(corner, 0.94 - 2 * inset, 0.9 - 2 * inset)
            frame.set(fill=False, edgecolor=colour, lw=2.2, zorder=4)
            ax.add_patch(frame)
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
    curves: Mapping[str, np.ndarray],
    *,
    levels: Mapping[str, float] | None = None,
    short: Mapping[str, np.ndarray] | None = None,
) -> Figure:
    """What the best of k random settings is worth, a line per way to choose and pay.

    Parameters
    ----------
    curves : dict
        {method: adherence for k = 1 .. n, shape (D, n)}; their mean is thick.
    levels : dict, optional
        {text: adherence} to be reached.
    short : dict, optional
        The same as `curves` over the learning rates alone, dashed.

    Returns
    -------
    Figure
    """
    fig, ax = subplots(size=(6.5, 3.8))
    most = max(np.shape(rows)[1] for rows in curves.values())
    ends = []
    for k, (method, rows) in enumerate(curves.items()):
        rows, colour = np.asarray(rows, float), colour_of(method, k)
        runs = np.arange(1, rows.shape[1] + 1)
        ax.plot(runs, rows.T, color=colour, alpha=0.3, lw=0.8)
        ax.plot(runs, rows.mean(0), color=colour)
        ends.append((runs[-1], rows.mean(0)[-1], method, colour))
        if short and method in short:
            mean = np.asarray(short[method], float).mean(0)
            ax.plot(
                np.arange(1, len(mean) + 1),
                mean,
                color=colour,
                ls=(0, (4, 2)),
                marker="o",
                ms=3.5,
            )
    ascending = sorted((levels or {}).items(), key=lambda item: item[1])
    for k, (text, value) in enumerate(ascending):
        shade = (GREY, BLACK)[k % 2]
        # The lowest has its text below its line.
        reference_line(ax, value, text, at=0.01, colour=shade, above=k > 0)
    ax.set_xscale("log", base=2)
    ticks = [2**i for i in range(12) if 2**i < 0.8 * most] + [most]
    ax.set_xticks(ticks, [str(t) for t in ticks])
    ax.minorticks_off()
    ax.set(
        xlabel="runs: settings tried, drawn at random from the grid",
        ylabel="adherence (share of slots)",
    )
    if short:
        whole = Line2D([], [], color=GREY, label="all settings searched")
        dashed = Line2D([], [], color=GREY, ls=(0, (4, 2)), marker="o", ms=3.5)
        dashed.set_label("learning rate alone")
        fig.legend(handles=[whole, dashed], loc="outside upper center", ncols=2)
    end_labels(ax, ends)
    return fig


def regret_bars(
    groups: Mapping[str, Values], *, allowed: float | None = None
) -> Figure:
    """Regret per method: bar and number the mean, points the seeds.

    Parameters
    ----------
    groups : dict
        {kind of not searching: {method: one per seed}}: adherence lost against the best
        of the method's grid, shares of slots.
    allowed : float, optional
        The largest regret that still counts as none.

    Returns
    -------
    Figure
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
            edge_text(ax, at, f"{mean:.3f}".replace("-", "\N{MINUS SIGN}"), colour)
            places.append(at)
            names.append(method)
        at += 1.1
    ax.set_yticks(places, names)
    ax.set_ylim(at - 0.5, -0.5)
    ax.axvline(0, color=BLACK, lw=1)
    text = "regret on test people (share of slots)"
    if allowed is not None:
        ax.axvline(allowed, color=GREY, ls="--", lw=1.2)
        text = f"{text}; dashed: {allowed:g}"
    ax.grid(axis="y", visible=False)
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel(text)
    return fig
