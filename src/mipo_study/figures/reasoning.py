"""Figures of chapter 8: which errors go, accuracy by method and difficulty, pass@k, and β."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from mipo.worlds.word_problems import TYPES
from mipo_study.figures.style import (
    BLACK,
    BLUE,
    GREY,
    LIGHT,
    OLIVE,
    ORANGE,
    PURPLE,
    SKY,
    VERMILLION,
    end_labels,
    ink,
    strip_points,
    subplots,
)
from mipo_study.methods import METHODS, label

# Rows of the figure of methods, from top to bottom.
ORDER = (
    "base",
    "sft",
    "mipo",
    "mipo-partial",
    "cold",
    "greedy",
    "vote",
    "cad-alone",
    "cad-partial",
    "verifier",
)
FAULTS = {
    "right": BLUE,
    "lucky": SKY,
    "elsewhere": VERMILLION,
    "operation": ORANGE,
    "slip": PURPLE,
    "letter": OLIVE,
    "format": GREY,
    "empty": LIGHT,
}
MEANING = {
    "right": "right",
    "lucky": "right by luck",
    "elsewhere": "numbers from elsewhere",
    "operation": "wrong operation",
    "slip": "slip of the sum",
    "letter": "wrong letter",
    "format": "wrong format",
    "empty": "no attempt",
}


def colour(name: str) -> str:
    """A method's own colour; black where the table of methods has none."""
    entry = METHODS.get(name)
    return entry.colour if entry and entry.colour else BLACK


def type_bars(panels: dict) -> Figure:
    """Stacked bars: the share of each type of reply, one bar per policy, one panel per sort of problem.

    panels  {title: {policy: (8,) shares in the order of TYPES}}, the same policies in each panel
    """
    names = list(next(iter(panels.values())))
    fig, axes = subplots(
        1, len(panels), (6.5, 1.5 + 0.3 * len(names)), squeeze=False, sharey=True
    )
    for ax, (title, bars) in zip(axes[0], panels.items(), strict=True):
        if list(bars) != names:
            raise ValueError(
                f"panel {title!r} has bars {list(bars)}; the first has {names}"
            )
        left = np.zeros(len(names))
        for i, name in enumerate(TYPES):
            width = np.array([bars[b][i] for b in names])
            ax.barh(
                range(len(names)),
                width,
                left=left,
                color=FAULTS[name],
                label=MEANING[name],
                height=0.75,
                edgecolor="white",
                linewidth=0.5,
            )
            left += width
        ax.set(xlim=(0, 1), title=title, xlabel="share of replies")
        ax.set_yticks(range(len(names)), [label(b) for b in names])
        ax.grid(axis="y", visible=False)
    axes[0, 0].invert_yaxis()
    fig.legend(
        *axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=4
    )
    return fig


def by_level(values: dict, *, exact: dict | None = None) -> Figure:
    """Accuracy of each policy at each level of difficulty: seeds as points, mean and 95 % t interval.

    values  {level: {policy: one per seed}}        exact  {level: accuracy of the base's exact law}, black lines
    """
    fig, ax = subplots(size=(6.5, 3.4))
    names = list(next(iter(values.values())))
    for x, (level, row) in enumerate(values.items()):
        for k, name in enumerate(names):
            at = x + 0.8 * ((k + 0.5) / len(names) - 0.5)
            strip_points(
                ax,
                at,
                row[name],
                colour=colour(name),
                width=0.05,
                label=label(name) if x == 0 else None,
            )
        if exact:
            ax.plot(
                [x - 0.42, x + 0.42],
                [exact[level]] * 2,
                color=BLACK,
                lw=1.2,
                zorder=1,
                label="base's exact law" if x == 0 else None,
            )
    ax.set_xticks(range(len(values)), values)
    ax.set_ylabel("accuracy (share of replies)")
    ax.grid(axis="x", visible=False)
    fig.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return fig


def method_rows(values: dict) -> Figure:
    """Accuracy of every method on open problems and on multiple choice: seeds, mean and interval along x.

    values  {title: {method: one number, or one per seed}}
    """
    names = list(next(iter(values.values())))
    fig, axes = subplots(
        1, len(values), (6.5, 1.1 + 0.3 * len(names)), squeeze=False, sharey=True
    )
    for ax, (title, row) in zip(axes[0], values.items(), strict=True):
        for y, name in enumerate(names):
            mean, *_ = strip_points(
                ax, y, row[name], colour=colour(name), horizontal=True
            )
            ax.annotate(
                f"{mean:.2f}",
                (1, y),
                xycoords=ax.get_yaxis_transform(),
                xytext=(4, 0),
                fontsize=9,
                textcoords="offset points",
                va="center",
                color=ink(colour(name)),
            )
        ax.set(title=title, xlabel="accuracy (share of problems)")
        ax.set_yticks(range(len(names)), [label(n) for n in names])
        ax.grid(axis="y", visible=False)
    axes[0, 0].invert_yaxis()
    return fig


def pass_curves(ks, curves: dict) -> Figure:
    """pass@k against k, one line per policy, each seed thin.

    ks  (K,)        curves  {policy: (S, K) over seeds, or (K,)}
    """
    fig, ax = subplots(size=(6.5, 3.2))
    ends = []
    for name, values in curves.items():
        values = np.atleast_2d(np.asarray(values, float))  # (S, K)
        if len(values) > 1:
            ax.plot(ks, values.T, color=colour(name), alpha=0.25, lw=0.8)
        ax.plot(ks, values.mean(0), "o-", color=colour(name))
        ends.append((ks[-1], values[:, -1].mean(), label(name), colour(name)))
    ax.set_xscale("log", base=2)
    ax.set_xticks(ks, [str(k) for k in ks])
    ax.minorticks_off()
    ax.set(xlabel="k (replies per problem)", ylabel="pass@k (share of problems)")
    end_labels(ax, ends)
    return fig


def beta_curves(grid, exact: dict, *, measured: dict | None = None) -> Figure:
    """Accuracy against β: lines for the exact optimum, points for trained policies.

    grid  (B,) values of β, 1/nats        exact  {name: (B,)}        measured  {name: {β: one per seed}}
    """
    fig, ax = subplots(size=(6.5, 3.4))
    shades, ends = dict(zip(exact, (BLUE, VERMILLION, PURPLE), strict=False)), []
    for name, values in exact.items():
        ax.plot(grid, values, color=shades[name])
        ends.append((grid[-1], values[-1], name, shades[name]))
        for beta, found in (measured or {}).get(name, {}).items():
            strip_points(ax, beta, found, colour=shades[name], width=0)
    ax.set_xscale("log")
    ticks = [t for t in (0.1, 0.25, 0.5, 1, 2, 4, 8, 16) if grid[0] <= t <= grid[-1]]
    ax.set_xticks(ticks, [f"{t:g}" for t in ticks])
    ax.minorticks_off()
    ax.set(xlabel="β (1/nats): pull towards the base model", ylabel="share")
    end_labels(ax, ends)
    return fig


def odds_change(exact: dict, measured: dict) -> Figure:
    """Change of the log-odds of a right reply against each error, nats: above 0 the error goes, at 0 it stays.

    exact  {panel: {type: change at the exact optimum}}        measured  {panel: {type: one per seed}}
    A type that only some panels have keeps its row in all of them.
    """
    names = sorted({name for row in exact.values() for name in row}, key=TYPES.index)
    fig, axes = subplots(1, len(exact), (6.5, 3.0), squeeze=False, sharey=True)
    for ax, (title, row) in zip(axes[0], exact.items(), strict=True):
        for name, value in row.items():
            y = names.index(name)
            ax.plot([value, value], [y - 0.3, y + 0.3], color=BLACK, lw=1.6)
            strip_points(
                ax,
                y,
                measured[title][name],
                colour=FAULTS[name] if name != "empty" else GREY,
                horizontal=True,
            )
        ax.axvline(0, color=GREY, ls="--", lw=1.2, zorder=1)
        ax.set_yticks(range(len(names)), [MEANING[name] for name in names])
        ax.set(
            title=title, xlabel="right against this error:\nchange of log-odds (nats)"
        )
        ax.grid(axis="y", visible=False)
    axes[0, 0].invert_yaxis()
    fig.legend(
        handles=[Line2D([], [], color=BLACK, lw=1.6, label="exact optimum")],
        loc="outside upper right",
    )
    return fig


# ---- in words ----


def changes(before, after, types=TYPES) -> str:
    """Shares of replies before and after, (8,) each, for some types: "slip of the sum 0.150 → 0.160, …"."""
    return ", ".join(
        f"{MEANING[t]} {before[TYPES.index(t)]:.3f} → {after[TYPES.index(t)]:.3f}"
        for t in types
    )


def verdicts(went: dict, goal: dict) -> str:
    """Which errors became rarer against right replies, which commoner, and of which neither can be told.

    went  {type: Number, change of log-odds}, judged by its interval        goal  {type: change at the exact optimum}
    """
    said = {"rarer": [], "commoner": [], "no change that this run could tell": []}
    for t, number in sorted(went.items(), key=lambda item: -item[1].mean):
        low, high = number.interval
        word = (
            "rarer"
            if (low or 0) > 0
            else "commoner"
            if (high or 0) < 0
            else "no change that this run could tell"
        )
        said[word].append(f"{MEANING[t]} {number} (optimum {goal[t]:.2f})")
    return "; ".join(
        f"{word}: {', '.join(found)}" for word, found in said.items() if found
    )
