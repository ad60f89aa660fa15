"""Figures of chapter 3: the margin, its weight, where training rests."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from mipo.theory.margin import SIMPO_TUNED, Margin
from mipo_study.figures.style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    NORMAL,
    ORANGE,
    PURPLE,
    VERMILLION,
    WIDE,
    end_labels,
    ink,
    subplots,
)

SERIES = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE)


def decay_curve(
    delta_pmi: np.ndarray,
    targets: Mapping[str, np.ndarray],
    marks: Mapping[str, tuple[float, float]],
) -> Figure:
    """The gap that a pair is asked for, against Δpmi.

    Parameters
    ----------
    delta_pmi : ndarray, shape (S,)
        Nats per token.
    targets : dict
        {loss: gap asked for, shape (S,)}, nats per token; the first is drawn solid.
    marks : dict
        {text: (Δpmi, gap)} of single pairs.

    Returns
    -------
    Figure
    """
    fig, ax = subplots(size=WIDE)
    entries = []
    looks = zip(
        targets.items(), (BLUE, VERMILLION, GREY), ("-", "--", ":"), strict=True
    )
    for (name, values), colour, line in looks:
        ax.plot(delta_pmi, values, color=colour, ls=line, lw=2)
        entries.append((delta_pmi[-1], values[-1], name, colour))
    for text, (x, y) in marks.items():
        ax.plot(x, y, "o", color=BLACK, ms=6, zorder=5)
        ax.annotate(text, (x, y), xytext=(9, 5), textcoords="offset points", fontsize=9)
    top = max(values.max() for values in targets.values())
    ax.set(
        xlabel="Δpmi, nats per token",
        ylabel="gap asked for,\nnats per token",
        xlim=(delta_pmi[0], delta_pmi[-1]),
        ylim=(0, 1.25 * top),
    )
    end_labels(ax, entries)
    return fig


def loss_surfaces(
    delta: np.ndarray,
    delta_pmi: np.ndarray,
    losses: Mapping[str, np.ndarray],
    halves: Mapping[str, np.ndarray],
) -> Figure:
    """The loss over Δ and Δpmi, one panel per convention.

    Parameters
    ----------
    delta : ndarray, shape (D,)
        Nats per token.
    delta_pmi : ndarray, shape (P,)
        Nats per token.
    losses : dict
        {convention: loss, shape (P, D)}, nats.
    halves : dict
        {convention: Δ at which the weight is 1/2, shape (P,)}.

    Returns
    -------
    Figure
    """
    fig, axes = subplots(1, len(losses), size=NORMAL, sharey=True)
    levels = np.arange(0, np.ceil(max(v.max() for v in losses.values())) + 0.01, 0.5)
    for ax, (name, values) in zip(axes, losses.items(), strict=True):
        filled = ax.contourf(delta, delta_pmi, values, levels=levels, cmap="Blues")
        ax.plot(halves[name], delta_pmi, color=VERMILLION, lw=2)
        ax.plot(delta, delta, color=BLACK, ls=":", lw=1.2)
        ax.annotate(
            "w = ½",
            (halves[name][-1], delta_pmi[-1]),
            xytext=(5, -5),
            textcoords="offset points",
            fontsize=9,
            color=ink(VERMILLION),
            va="top",
        )
        ax.annotate(
            "Δpmi = Δ",
            (1.7, 1.7),
            xytext=(8, 0),
            textcoords="offset points",
            fontsize=9,
            va="center",
        )
        ax.set(
            xlabel="Δ, nats per token",
            title=name,
            xlim=(delta[0], delta[-1]),
            ylim=(delta_pmi[0], delta_pmi[-1]),
        )
        ax.grid(False)
    axes[0].set_ylabel("Δpmi, nats per token")
    fig.colorbar(filled, ax=axes, label="loss, nats", ticks=levels[::4])
    return fig


def weights(
    delta: np.ndarray,
    at_once: Mapping[str, np.ndarray],
    by_pmi: Mapping[str, np.ndarray],
) -> Figure:
    """The weight of a pair against Δ.

    Parameters
    ----------
    delta : ndarray, shape (S,)
        Nats per token.
    at_once : dict
        {name: weight where Δpmi = Δ, shape (S,)}, left.
    by_pmi : dict
        {name: weight at a fixed Δpmi, shape (S,)}, right.

    Returns
    -------
    Figure
    """
    fig, axes = subplots(1, 2, size=(6.5, 3.3), sharey=True)
    panels = {"Δpmi = Δ": at_once, "code, Δpmi fixed": by_pmi}
    colours = (BLUE, VERMILLION, GREY, GREEN)
    lines = ("-", "--", ":", "-.")
    for ax, (title, curves) in zip(axes, panels.items(), strict=True):
        looks = zip(curves.items(), colours, lines, strict=False)
        for (name, values), colour, line in looks:
            ax.plot(delta, values, color=colour, ls=line, label=name, lw=2)
        ax.axhline(0.5, color=GREY, lw=0.8)
        ax.set(
            xlabel="Δ, nats per token",
            title=title,
            xlim=(delta[0], delta[-1]),
            ylim=(-0.02, 1.05),
        )
        ax.legend(loc="upper right", borderaxespad=0.1, handlelength=1.8)
    axes[0].set_ylabel("weight w = 1 − σ")
    return fig


def resting_gaps(
    p: np.ndarray,
    curves: Mapping[str, np.ndarray],
    dots: tuple[np.ndarray, np.ndarray],
    prior_gaps: np.ndarray,
    tilts: Mapping[str, np.ndarray],
) -> Figure:
    """The gap at which training rests.

    Parameters
    ----------
    p : ndarray, shape (S,)
        The label's probability.
    curves : dict
        {loss: gap at rest, shape (S,)}, left, nats per token.
    dots : (ndarray, ndarray)
        p and gap where the update was followed step by step.
    prior_gaps : ndarray, shape (T,)
        Gap without the prompt, nats per token.
    tilts : dict
        {loss: gap at rest, shape (T,)}, right, nats per token.

    Returns
    -------
    Figure
    """
    fig, axes = subplots(1, 2, size=(6.5, 3.5))
    for (name, values), colour, line in zip(
        curves.items(),
        (GREY, BLACK, VERMILLION, BLUE),
        (":", "-.", "--", "-"),
        strict=True,
    ):
        axes[0].plot(p, values, color=colour, ls=line, label=name, lw=2)
    axes[0].plot(*dots, "o", color=BLACK, mfc="none", ms=6, label="followed")
    axes[0].set(
        xlabel="chance p that A is preferred",
        ylabel="gap of A over B at rest,\nnats per token",
        xlim=(p[0], p[-1]),
        title="equally likely unprompted",
    )
    axes[0].legend(loc="upper left", borderaxespad=0.1)
    for (name, values), colour in zip(tilts.items(), SERIES, strict=False):
        axes[1].plot(
            prior_gaps,
            values,
            color=colour,
            label=name,
            ls="--" if name.startswith("SimPO") else "-",
        )
    axes[1].set(
        xlabel="gap without the prompt, Δ₀",
        title="one reply likelier unprompted",
        xlim=(prior_gaps[0], prior_gaps[-1]),
    )
    top = max(v.max() for v in tilts.values())
    axes[1].set_ylim(top=top + 0.75 * (top - min(v.min() for v in tilts.values())))
    axes[1].legend(loc="upper left", borderaxespad=0.1)
    for ax in axes:
        ax.axhline(0, color=GREY, lw=0.8)
    return fig


def rising_loss(
    gap: np.ndarray,
    loss: np.ndarray,
    start: tuple[float, float],
    rest: tuple[float, float],
    path: np.ndarray,
) -> Figure:
    """Left the loss against the gap, right the loss along the update.

    Parameters
    ----------
    gap, loss : ndarray, shape (S,)
        Nats per token, and nats.
    start, rest : (float, float)
        Gap and loss at the lowest loss, and where the update rests.
    path : ndarray, shape (T,)
        Loss after each step, nats.

    Returns
    -------
    Figure
    """
    fig, axes = subplots(1, 2, size=(6.5, 3.2), width_ratios=(1.3, 1))
    axes[0].plot(gap, loss, color=BLUE)
    for (x, y), text, colour, shift, side in (
        (start, "lowest loss", GREEN, (4, -16), "left"),
        (rest, "update rests", VERMILLION, (-9, -3), "right"),
    ):
        axes[0].plot(x, y, "o", color=colour, ms=7, zorder=5)
        axes[0].annotate(
            text,
            (x, y),
            xytext=shift,
            textcoords="offset points",
            fontsize=9,
            color=ink(colour),
            ha=side,
        )
    low, high = loss.min(), loss.max()
    axes[0].set(
        xlabel="gap of A over B, nats per token",
        ylabel="expected loss, nats",
        xlim=(gap[0], gap[-1]),
        ylim=(low - 0.2 * (high - low), high + 0.05 * (high - low)),
    )
    axes[1].plot(np.arange(len(path)), path, color=BLUE)
    axes[1].set(
        xlabel="steps of the update",
        title="from the lowest loss on",
        xlim=(0, len(path) - 1),
    )
    axes[1].ticklabel_format(useOffset=False)
    return fig


def reach(
    ranges: Mapping[str, tuple[float, float]], tuned: Mapping[str, float]
) -> Figure:
    """Raw γ that each convention can reach, with SimPO's tuned values.

    Parameters
    ----------
    ranges : dict
        {convention: (low, high)}, bars.
    tuned : dict
        {set-up: raw γ}, lines.

    Returns
    -------
    Figure
    """
    fig, ax = subplots(size=(6.5, 2.6))
    for row, ((name, (low, high)), colour) in enumerate(
        zip(ranges.items(), (VERMILLION, BLUE), strict=True)
    ):
        bar = ax.barh(row, high - low, left=low, height=0.5, color=colour, alpha=0.85)
        text = f"{low:.2g} to {high:.2g}"
        ax.bar_label(bar, [text], padding=5, fontsize=9)
    for i, (name, raw) in enumerate(sorted(tuned.items(), key=lambda item: item[1])):
        ax.axvline(raw, color=BLACK, ls=":", lw=1.2)
        ax.annotate(
            name,
            (raw, -0.62 - 0.42 * (i % 2)),
            xytext=(3, 0),
            textcoords="offset points",
            fontsize=9,
            va="center",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},
        )
    ax.set(
        yticks=range(len(ranges)),
        yticklabels=ranges,
        xlabel="raw γ in SimPO's β·Δ − γ (no unit)",
        ylim=(1.5, -1.35),
        xlim=(0, 1.2 * max(high for _, high in ranges.values())),
    )
    ax.grid(axis="y", visible=False)
    return fig


def units(
    delta_pmi: np.ndarray,
    gammas: Mapping[str, np.ndarray],
    tokens: np.ndarray,
    paired: Mapping[str, np.ndarray],
) -> Figure:
    """Left the margin by scale, right how a weight changes with the tokenizer.

    Parameters
    ----------
    delta_pmi : ndarray, shape (S,)
        Nats per token.
    gammas : dict
        {scale: γ, shape (S,)}.
    tokens : ndarray, shape (T,)
        Tokens per word.
    paired : dict
        {name: weight of one pair, shape (T,)}.

    Returns
    -------
    Figure
    """
    fig, axes = subplots(1, 2, size=(6.5, 3.3))
    entries = []
    for (name, values), colour in zip(gammas.items(), SERIES, strict=False):
        axes[0].plot(delta_pmi, values, color=colour)
        entries.append((delta_pmi[-1], values[-1], name, colour))
    axes[0].set(
        xlabel="Δpmi, nats per token",
        title="γ, by scale",
        xlim=(delta_pmi[0], delta_pmi[-1]),
        ylim=(0, 1.1 * max(v.max() for v in gammas.values())),
    )
    for (name, values), colour, line in zip(
        paired.items(), (BLUE, VERMILLION, GREY), ("-", "--", ":"), strict=True
    ):
        axes[1].plot(tokens, values, color=colour, ls=line, label=name)
    axes[1].set_xscale("log", base=2)
    axes[1].set(
        xlabel="tokens per word",
        title="weight of one pair",
        xticks=(0.5, 1, 2, 4),
        ylim=(0, 1.02),
        xticklabels=("½", "1", "2", "4"),
        xlim=(tokens[0], tokens[-1]),
    )
    axes[1].minorticks_off()
    axes[1].legend(loc="lower right")
    end_labels(axes[0], entries)
    return fig


def tuned_table(code: Margin, paper: Margin) -> str:
    """SimPO's tuned values as Markdown, with the Δpmi at which a margin is the same.

    Parameters
    ----------
    code, paper : Margin
        RMiPO's margin in either convention, each in its own unit.

    Returns
    -------
    str
    """

    def needed(margin: Margin, gamma: float) -> str:
        pmi = margin.needed_pmi(gamma)
        if np.isnan(pmi):
            return "out of reach"
        return "never quite" if np.isinf(pmi) else f"{pmi:.2f}"

    head = (
        "| SimPO's set-up | β | γ/β | raw γ | Δpmi at which the paper's γ = raw γ "
        "| Δpmi at which the code's γ = γ/β |"
    )
    rows = [head, "|---|---|---|---|---|---|"]
    for name, (beta, ratio, raw) in SIMPO_TUNED.items():
        set_up = f"| {name} | {beta:g} | {ratio:g} | {raw:g} "
        rows.append(f"{set_up}| {needed(paper, raw)} | {needed(code, ratio)} |")
    return "\n".join(rows)
