"""Figures of real people's votes: the map of people, what MIPO changes, for whom and at which beta."""

from collections.abc import Sequence

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
    arm_colour,
    arm_marker,
    ink,
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
    return OWN.get(arm, arm_colour(arm))


def people_map(
    places: np.ndarray, groups: np.ndarray, shares: np.ndarray, counts: np.ndarray
) -> Figure:
    """Every person as a point, near those who vote alike, coloured by Polis' opinion group.

    places  (P, 2) principal components        groups  (P,), -1 for none        shares  (2,) variance explained, 0..1
    counts  (P,) votes cast: the more, the larger the point
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


def measures(metrics: dict) -> Figure:
    """One panel per measure, one row per predictor, every seed a point; metrics: {title: {arm: one value per seed}}."""
    arms = list(next(iter(metrics.values())))
    fig, axes = subplots(
        1, len(metrics), (6.5, 1.2 + 0.3 * len(arms)), sharey=True, squeeze=False
    )
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
            ax.annotate(
                f"{mean:.3f}",
                (1, row),
                xycoords=ax.get_yaxis_transform(),
                xytext=(2, 0),
                va="center",
                textcoords="offset points",
                fontsize=9,
                color=ink(colour_of(arm)),
            )
        ax.set_xlabel(title.replace(" of ", "\nof "))
        ax.locator_params(axis="x", nbins=3)
        ax.grid(axis="y", visible=False)
        ax.tick_params(axis="y", length=0)
    axes[0][0].set_yticks(range(len(arms)), [label(a) for a in arms])
    axes[0][0].set_ylim(len(arms) - 0.5, -0.5)
    return fig


def reach(wanted: np.ndarray, got: np.ndarray, beta: float) -> Figure:
    """How far each vote's log-odds should move at the exact optimum, and how far training moved them: nats, (N,)."""
    fig, ax = subplots(size=NORMAL)
    wanted, got = np.asarray(wanted), np.asarray(got)
    ax.scatter(wanted, got, s=8, color=BLUE, alpha=0.25, linewidths=0)
    ends = np.quantile(wanted, [0.002, 0.998])
    slope, shift = np.polyfit(wanted, got, 1)
    ax.plot(ends, ends, color=GREY, ls="--", lw=1.2, label="exact optimum")
    ax.plot(
        ends, slope * ends + shift, color=VERMILLION, label=f"fit: slope {slope:.2f}"
    )
    ax.set_xlim(*ends)
    ax.set_ylim(*np.quantile(got, [0.002, 0.998]))
    ax.set_xlabel(f"change of log-odds at the optimum, β = {beta:g} (nats)")
    ax.set_ylabel("change after training (nats)")
    ax.legend(loc="upper left")
    return fig


def calibration_curves(curves: dict) -> Figure:
    """Observed against predicted share of agreement; curves: {arm: what evaluate.calibration returns}."""
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


def by_division(centres: np.ndarray, gains: dict, labels: Sequence[str]) -> Figure:
    """Change of the chance of the right vote, per class of how divided people are over the statement.

    centres  (B,) positions        gains  {arm: (B, seeds)}        labels  (B,) names of the classes
    """
    fig, ax = subplots(size=NORMAL)
    for k, (arm, values) in enumerate(gains.items()):
        colour, offset = colour_of(arm), (k - (len(gains) - 1) / 2) * 0.22
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


def beta_sweep(metrics: dict, base: dict) -> Figure:
    """One panel per metric over beta: lines for what is computed exactly, points with intervals for what was trained.

    metrics  {title: {arm: {beta: values per seed}}}        base  {title: value at beta → ∞}
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
