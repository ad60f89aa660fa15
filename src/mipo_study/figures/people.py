"""Figures of real people's votes: their map, and what MIPO changes for whom."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from mipo_study.figures.style import (
    BLUE,
    GREEN,
    GREY,
    LIGHT,
    NORMAL,
    PALETTE,
    TALL,
    VERMILLION,
    Seeds,
    Values,
    arm_colour,
    arm_marker,
    edge_text,
    strip_points,
    subplots,
)
from mipo_study.methods import label

# predictors that only this chapter has; the others keep the study's colours
OWN = {
    "majority": LIGHT,
    "no context": "#8C564B",
    "other's context": "#E69F00",
    "sharpened": GREEN,
}


def colour_of(arm: str) -> str:
    """A predictor's colour."""
    return OWN.get(arm, arm_colour(arm))


def people_map(
    places: np.ndarray, groups: np.ndarray, shares: np.ndarray, counts: np.ndarray
) -> Figure:
    """Every person as a point, near those who vote alike, coloured by opinion group.

    Parameters
    ----------
    places : ndarray, shape (P, 2)
        Principal components.
    groups : ndarray, shape (P,)
        Polis' groups, -1 for none.
    shares : ndarray, shape (2,)
        Of the variance, 0 to 1.
    counts : ndarray, shape (P,)
        Votes cast: the more, the larger the point.

    Returns
    -------
    Figure
    """
    fig, ax = subplots(size=NORMAL)
    size = 4 + 40 * np.sqrt(np.asarray(counts) / max(counts))
    for group in sorted(set(np.asarray(groups).tolist())):
        mine = np.asarray(groups) == group
        colour = LIGHT if group < 0 else PALETTE[group % len(PALETTE)]
        name = "no group" if group < 0 else f"group {'ABCDEFGH'[group]}"
        ax.scatter(
            *places[mine].T,
            s=size[mine],
            color=colour,
            alpha=0.55,
            linewidths=0,
            label=f"{name}: {mine.sum()}",
        )
    ax.set_xlabel(f"first component ({shares[0]:.0%} of the variance)")
    ax.set_ylabel(f"second ({shares[1]:.0%})")
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1), markerscale=1.5)
    return fig


def measures(metrics: Mapping[str, Values]) -> Figure:
    """One panel per measure, one row per predictor, every seed a point.

    Parameters
    ----------
    metrics : dict
        {title: {predictor: one value per seed}}.

    Returns
    -------
    Figure
    """
    arms = list(next(iter(metrics.values())))
    size = (6.5, 1.2 + 0.3 * len(arms))
    fig, axes = subplots(1, len(metrics), size, sharey=True, squeeze=False)
    for ax, (title, values) in zip(axes[0], metrics.items(), strict=True):
        for row, arm in enumerate(arms):
            mean, _, _ = strip_points(
                ax,
                row,
                values[arm],
                colour=colour_of(arm),
                marker=arm_marker(arm),
                horizontal=True,
            )
            edge_text(ax, row, f"{mean:.3f}", colour_of(arm), shift=2)
        ax.set_xlabel(title.replace(" of ", "\nof "))
        ax.locator_params(axis="x", nbins=3)
        ax.grid(axis="y", visible=False)
        ax.tick_params(axis="y", length=0)
    axes[0][0].set_yticks(range(len(arms)), [label(a) for a in arms])
    axes[0][0].set_ylim(len(arms) - 0.5, -0.5)
    return fig


def reach(optimum: np.ndarray, trained: np.ndarray, beta: float) -> Figure:
    """How far each vote's log-odds should move, and how far training moved them.

    Parameters
    ----------
    optimum, trained : ndarray, shape (N,)
        Change at the exact optimum, and after training, nats.
    beta : float
        Of both.

    Returns
    -------
    Figure
    """
    fig, ax = subplots(size=NORMAL)
    optimum, trained = np.asarray(optimum), np.asarray(trained)
    ax.scatter(optimum, trained, s=8, color=BLUE, alpha=0.25, linewidths=0)
    ends = np.quantile(optimum, [0.002, 0.998])
    slope, shift = np.polyfit(optimum, trained, 1)
    ax.plot(ends, ends, color=GREY, ls="--", lw=1.2, label="exact optimum")
    ax.plot(
        ends, slope * ends + shift, color=VERMILLION, label=f"fit: slope {slope:.2f}"
    )
    ax.set_xlim(*ends)
    ax.set_ylim(*np.quantile(trained, [0.002, 0.998]))
    ax.set_xlabel(f"change of log-odds at the optimum, β = {beta:g} (nats)")
    ax.set_ylabel("change after training (nats)")
    ax.legend(loc="upper left")
    return fig


def calibration_curves(curves: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Observed against predicted share of agreement, one panel per predictor.

    Parameters
    ----------
    curves : dict
        {predictor: what `evaluate.calibration` returns}.

    Returns
    -------
    Figure
    """
    fig, axes = subplots(1, len(curves), (6.5, 2.9), sharey=True, squeeze=False)
    for ax, (arm, c) in zip(axes[0], curves.items(), strict=True):
        ax.plot([0, 1], [0, 1], color=GREY, ls="--", lw=1.2)
        colour = colour_of(arm)
        ax.plot(c["predicted"], c["observed"], color=colour, lw=1.2)
        ax.scatter(
            c["predicted"],
            c["observed"],
            s=6 + 0.12 * np.asarray(c["count"]),
            color=colour,
            zorder=3,
        )
        ax.set_title(f"{label(arm)}: error {c['ece']:.3f}")
        ax.set_xlabel("predicted chance of “agree”")
        ax.set_aspect("equal")
    axes[0][0].set_ylabel("share who agreed")
    return fig


def by_division(
    centres: np.ndarray, gains: Mapping[str, np.ndarray], labels: Sequence[str]
) -> Figure:
    """Change of the chance of the right vote, by how divided people are.

    Parameters
    ----------
    centres : ndarray, shape (B,)
        Positions of the classes of statements.
    gains : dict
        {predictor: change, shape (B, seeds)}.
    labels : sequence of str, length B
        Names of the classes.

    Returns
    -------
    Figure
    """
    fig, ax = subplots(size=NORMAL)
    for k, (arm, values) in enumerate(gains.items()):
        colour = colour_of(arm)
        offset = (k - (len(gains) - 1) / 2) * 0.22
        for i, (x, v) in enumerate(zip(centres, values, strict=True)):
            strip_points(
                ax,
                x + offset,
                v,
                colour=colour,
                width=0.1,
                label=label(arm) if i == 0 else None,
            )
    ax.axhline(0, color=GREY, lw=1)
    ax.set_xticks(centres, labels)
    ax.set_xlabel("share of people in the minority on the statement")
    ax.set_ylabel("change of the chance\nof the right vote")
    fig.legend(loc="outside upper center", ncol=len(gains))
    return fig


def beta_sweep(
    metrics: Mapping[str, Mapping[str, Mapping[float, Seeds]]],
    base: Mapping[str, float],
) -> Figure:
    """One panel per metric over β: exact values as lines, trained ones as points.

    Parameters
    ----------
    metrics : dict
        {title: {predictor: {β: values per seed}}}.
    base : dict
        {title: value at β → ∞}.

    Returns
    -------
    Figure
    """
    fig, axes = subplots(1, len(metrics), (TALL[0], 3.2), squeeze=False)
    for ax, (title, arms) in zip(axes[0], metrics.items(), strict=True):
        for arm, by_beta in arms.items():
            betas = sorted(by_beta)
            if arm.startswith("mipo"):
                for i, b in enumerate(betas):
                    strip_points(
                        ax,
                        np.log2(b),
                        by_beta[b],
                        colour=colour_of(arm),
                        marker=arm_marker(arm),
                        label=label(arm) if i == 0 else None,
                    )
            else:
                ax.plot(
                    np.log2(betas),
                    [np.mean(by_beta[b]) for b in betas],
                    color=colour_of(arm),
                    label=label(arm),
                )
        ax.axhline(base[title], color=GREY, ls="--", lw=1.2, label="base")
        ticks = sorted({b for arm in arms.values() for b in arm})
        ax.set_xticks(np.log2(ticks), [f"{b:g}" for b in ticks])
        ax.set_xlabel("β")
        ax.set_title(title.replace(" of ", "\nof "), fontsize=10)
    fig.legend(
        *axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncol=4
    )
    return fig
