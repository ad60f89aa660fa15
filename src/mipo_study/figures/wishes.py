"""Figures of chapter 14: wishes that are followed, and what it costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from mipo_study.figures.style import (
    WIDE,
    arm_colour,
    arm_marker,
    subplots,
)
from mipo_study.figures.training import adherence_by_arm
from mipo_study.methods import label

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from mipo_study.figures.style import Values


def adherence(values: Values, *, base: float) -> Figure:
    """Adherence of each policy: seeds as points, mean and 95 % t interval.

    Parameters
    ----------
    values : dict
        {policy: one share per seed}.
    base : float
        The untrained model's, a dashed line.

    Returns
    -------
    Figure
    """
    return adherence_by_arm(
        values,
        base=base,
        xlabel="adherence (share of wishes followed, undamaged, without long copies)",
    )


def by_wish(shares: pd.DataFrame) -> Figure:
    """Adherence to each wish, a row per wish, sorted by the first policy.

    Parameters
    ----------
    shares : DataFrame
        Index: wish. A column of shares per policy.

    Returns
    -------
    Figure
    """
    shares = shares.sort_values(shares.columns[0], ascending=False)
    rows = np.arange(len(shares))
    fig, ax = subplots(size=(6.5, 1.2 + 0.24 * len(shares)))
    ax.hlines(rows, shares.min(axis=1), shares.max(axis=1), color="#DDDDDD", zorder=1)
    for k, arm in enumerate(map(str, shares.columns)):
        ax.scatter(
            shares[arm],
            rows,
            color=arm_colour(arm, k),
            marker=arm_marker(arm),
            label=label(arm),
            zorder=2,
        )
    ax.set_yticks(rows, [name.replace("_", " ") for name in shares.index])
    ax.set_ylim(len(shares) - 0.5, -0.5)
    ax.set_xlim(left=0)
    ax.set_xlabel("adherence (share of replies to people with this wish)")
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderaxespad=0.2)
    return fig


def along(paths: Sequence[pd.DataFrame], stops: Sequence[int]) -> Figure:
    """What a training gains and damages on its way; seeds thin, their mean thick.

    Parameters
    ----------
    paths : sequence of DataFrame
        Of `ch14_found.path_of`, one per seed, all with the same steps.
    stops : sequence of int
        Step at which the rule stops, a dot on each seed's line.

    Returns
    -------
    Figure
    """
    panels = {
        "adherence (share)": "adherence",
        "within limits (share)": "within",
        "PMI (nats per reply)": "pmi",
    }
    fig, axes = subplots(1, len(panels), WIDE)
    colour = arm_colour("mipo-lora")
    for ax, (title, column) in zip(axes, panels.items(), strict=True):
        lines = [path[column] for path in paths]
        for line, stop in zip(lines, stops, strict=True):
            ax.plot(line.index, line, color=colour, alpha=0.3, lw=0.8)
            ax.scatter(stop, line[stop], color=colour, s=24)
        ax.plot(lines[0].index, np.mean(lines, axis=0), color=colour)
        ax.set_title(title)
        ax.set_xlabel("step")
    return fig
