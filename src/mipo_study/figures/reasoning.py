"""Figures of reasoning: which errors go, accuracy, pass@k, β, and gains."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from mipo.numbers import Number
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
    Seeds,
    Values,
    edge_text,
    end_labels,
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


def type_bars(panels: Mapping[str, Mapping[str, Sequence[float]]]) -> Figure:
    """Stacked bars: the share of each type of reply, one bar per policy.

    Parameters
    ----------
    panels : dict
        {sort of problem: {policy: 8 shares in the order of `TYPES`}}, the same policies
        in each panel.

    Returns
    -------
    Figure

    Raises
    ------
    ValueError
        Where two panels have other policies.
    """
    names = list(next(iter(panels.values())))
    size = (6.5, 1.5 + 0.3 * len(names))
    fig, axes = subplots(1, len(panels), size, squeeze=False, sharey=True)
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
    handles = axes[0, 0].get_legend_handles_labels()
    fig.legend(*handles, loc="outside upper center", ncols=4)
    return fig


def by_level(
    values: Mapping[str, Values], *, exact: Mapping[str, float] | None = None
) -> Figure:
    """Accuracy of each policy at each level: seeds, their mean and 95 % t interval.

    Parameters
    ----------
    values : dict
        {level of difficulty: {policy: one per seed}}.
    exact : dict, optional
        {level: accuracy of the base's exact law}, black lines.

    Returns
    -------
    Figure
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


def method_rows(values: Mapping[str, Values]) -> Figure:
    """Accuracy of every method: seeds, mean and interval along x.

    Parameters
    ----------
    values : dict
        {sort of problem: {method: one number, or one per seed}}.

    Returns
    -------
    Figure
    """
    names = list(next(iter(values.values())))
    size = (6.5, 1.1 + 0.3 * len(names))
    fig, axes = subplots(1, len(values), size, squeeze=False, sharey=True)
    for ax, (title, row) in zip(axes[0], values.items(), strict=True):
        for y, name in enumerate(names):
            mean, *_ = strip_points(
                ax, y, row[name], colour=colour(name), horizontal=True
            )
            edge_text(ax, y, f"{mean:.2f}", colour(name))
        ax.set(title=title, xlabel="accuracy (share of problems)")
        ax.set_yticks(range(len(names)), [label(n) for n in names])
        ax.grid(axis="y", visible=False)
    axes[0, 0].invert_yaxis()
    return fig


def pass_curves(ks: Sequence[int], curves: Values) -> Figure:
    """pass@k against k, one line per policy, each seed thin.

    Parameters
    ----------
    ks : sequence of int, length K
        Replies per problem.
    curves : dict
        {policy: pass@k, shape (S, K) over seeds, or (K,)}.

    Returns
    -------
    Figure
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


def beta_curves(
    grid: Sequence[float] | np.ndarray,
    exact: Mapping[str, np.ndarray],
    *,
    measured: Mapping[str, Mapping[float, Seeds]] | None = None,
) -> Figure:
    """Accuracy against β: lines for the exact optimum, points for trained policies.

    Parameters
    ----------
    grid : array_like, shape (B,)
        Values of β, 1/nats.
    exact : dict
        {name: accuracy at the optimum, shape (B,)}.
    measured : dict, optional
        {name: {β: one per seed}}.

    Returns
    -------
    Figure
    """
    fig, ax = subplots(size=(6.5, 3.4))
    shades = dict(zip(exact, (BLUE, VERMILLION, PURPLE), strict=False))
    ends = []
    for name, values in exact.items():
        ax.plot(grid, values, color=shades[name])
        ends.append((grid[-1], values[-1], name, shades[name]))
        for beta, seeds in (measured or {}).get(name, {}).items():
            strip_points(ax, beta, seeds, colour=shades[name], width=0)
    ax.set_xscale("log")
    ticks = [t for t in (0.1, 0.25, 0.5, 1, 2, 4, 8, 16) if grid[0] <= t <= grid[-1]]
    ax.set_xticks(ticks, [f"{t:g}" for t in ticks])
    ax.minorticks_off()
    ax.set(xlabel="β (1/nats): pull towards the base model", ylabel="share")
    end_labels(ax, ends)
    return fig


def odds_change(
    exact: Mapping[str, Mapping[str, float]], measured: Mapping[str, Values]
) -> Figure:
    """Change of the log-odds of a right reply against each error.

    Above 0 the error goes, at 0 it stays. A type that only some panels have keeps its
    row in all of them.

    Parameters
    ----------
    exact : dict
        {panel: {type: change at the exact optimum, nats}}.
    measured : dict
        {panel: {type: one per seed, nats}}.

    Returns
    -------
    Figure
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
    line = Line2D([], [], color=BLACK, lw=1.6, label="exact optimum")
    fig.legend(handles=[line], loc="outside upper right")
    return fig


# ---- in words ----


def changes(
    before: Sequence[float], after: Sequence[float], types: Sequence[str] = TYPES
) -> str:
    """Shares of types of replies before and after.

    Parameters
    ----------
    before, after : sequence of float, length 8
        Shares in the order of `TYPES`.
    types : sequence of str
        Of which it speaks.

    Returns
    -------
    str
        Such as "slip of the sum 0.150 → 0.160, …".
    """
    changed = []
    for name in types:
        i = TYPES.index(name)
        changed.append(f"{MEANING[name]} {before[i]:.3f} → {after[i]:.3f}")
    return ", ".join(changed)


def verdicts(change: Mapping[str, Number], optimum: Mapping[str, float]) -> str:
    """Which errors became rarer against right replies, and which commoner.

    Parameters
    ----------
    change : dict
        {type: change of log-odds, nats}, above 0 where the error is rarer; judged by
        its interval.
    optimum : dict
        {type: change at the exact optimum, nats}.

    Returns
    -------
    str
    """
    neither = "no change that this run could tell"
    groups: dict[str, list[str]] = {"rarer": [], "commoner": [], neither: []}
    for name, number in sorted(change.items(), key=lambda item: -item[1].mean):
        low, high = number.interval
        word = neither
        if (low or 0) > 0:
            word = "rarer"
        elif (high or 0) < 0:
            word = "commoner"
        groups[word].append(f"{MEANING[name]} {number} (optimum {optimum[name]:.2f})")
    parts = [f"{word}: {', '.join(names)}" for word, names in groups.items() if names]
    return "; ".join(parts)


def gain_rows(found: pd.DataFrame) -> Figure:
    """Gains over an untrained model with their intervals, a panel per kind of question.

    Parameters
    ----------
    found : pandas.DataFrame
        Of `ch14_reasoning.table`, in points of 100. A pale bar reaches as far as the
        smallest difference that the sample can detect.

    Returns
    -------
    Figure
    """
    trained = found.dropna(subset=["gain"])
    titles = list(trained.questions.unique())
    size = (6.5, 1.2 + 0.32 * trained.policy.nunique())
    fig, axes = subplots(1, len(titles), size, squeeze=False, sharey=True)
    for ax, title in zip(axes[0], titles, strict=True):
        rows = trained[trained.questions == title]
        places = range(len(rows))
        mean, low, high = (100 * rows[name] for name in ("gain", "low", "high"))
        least = 100 * rows.detectable.astype(float).fillna(0.0)
        ax.barh(places, 2 * least, left=-least, height=0.6, color=LIGHT, alpha=0.5)
        ax.hlines(places, low, high, color=BLUE, lw=1.6)
        ax.plot(mean, places, "o", color=BLUE)
        ax.axvline(0, color=GREY, ls="--", lw=1.2, zorder=1)
        ax.set(title=title, xlabel="gain (points of 100)")
        ax.set_yticks(places, rows.policy)
        ax.grid(axis="y", visible=False)
    axes[0, 0].invert_yaxis()
    return fig
