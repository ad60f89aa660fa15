"""Figures of chapter 12: cost of a step of each loss, and what a search adds."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mipo.numbers import Number
from mipo_study import methods
from mipo_study.figures.style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    LIGHT,
    ORANGE,
    PURPLE,
    edge_text,
    end_labels,
    ink,
    reference_line,
    subplots,
)
from mipo_study.methods import METHODS

# Two ways to run DPO, and a pass of the reference model, are told apart here only.
LABELS = {
    "dpo": "DPO, reference cached",
    "dpo-live": "DPO, reference live",
    "reference": "reference pass",
}
COLOURS = {name: METHODS[name].colour for name in ("sft", "dpo", "simpo", "rmipo")}
COLOURS |= {"dpo-live": PURPLE, "reference": GREY}
Lengths = tuple[int, int]  # tokens of prompt and reply
Curve = tuple[np.ndarray, np.ndarray]  # x and y


def label(method: str) -> str:
    """What figures call a method."""
    return LABELS.get(method) or methods.label(method)


def lengths_label(lengths: Lengths) -> str:
    """What figures call lengths of prompt and reply."""
    return f"prompt {lengths[0]}, reply {lengths[1]}"


def _method_rows(ax: Axes, methods: Sequence[str], *, names: bool) -> None:
    ax.set_yticks(
        range(len(methods)),
        [label(m) for m in methods] if names else [""] * len(methods),
    )
    ax.set_ylim(len(methods) - 0.5, -0.5)
    ax.grid(axis="y", visible=False)
    ax.tick_params(axis="y", length=0)


def ratios(
    times: Mapping[Lengths, Mapping[str, Number]],
    operations: Mapping[Lengths, Mapping[str, float]],
) -> Figure:
    """Time of each method's step over that of a SimPO step, one panel per lengths.

    Parameters
    ----------
    times : dict
        {(prompt, reply) in tokens: {method: median ratio with its interval}}.
    operations : dict
        {(prompt, reply): {method: ratio of operations}}, crosses.

    Returns
    -------
    Figure

    Raises
    ------
    ValueError
        Where nothing is to be drawn.
    """
    if not times or not all(times.values()):
        raise ValueError("nothing to draw: give at least one method at one length")
    methods = list(next(iter(times.values())))
    fig, axes = subplots(
        1, len(times), (6.5, 1.4 + 0.3 * len(methods)), squeeze=False, sharex=True
    )
    for k, (ax, (lengths, row)) in enumerate(zip(axes[0], times.items(), strict=True)):
        for y, (name, number) in enumerate(row.items()):
            ax.plot(
                number.interval,
                (y, y),
                color=COLOURS[name],
                lw=1.8,
                solid_capstyle="butt",
                zorder=3,
            )
            ax.plot(
                number.mean,
                y,
                "o",
                color=COLOURS[name],
                mec="white",
                mew=0.6,
                ms=6.5,
                zorder=4,
            )
            ax.plot(
                operations[lengths][name], y, "x", color=BLACK, ms=6, mew=1.3, zorder=5
            )
            edge_text(ax, y, f"{number.mean:.2f}", COLOURS[name], shift=3)
        ax.axvline(1, color=GREY, ls="--", lw=1.1, zorder=1)
        _method_rows(ax, methods, names=k == 0)
        ax.set_title(f"{lengths[0]} + {lengths[1]} tokens", loc="center")
        ax.locator_params(axis="x", nbins=4)
    fig.supxlabel(
        "time of a step / time of a SimPO step (prompt + reply); "
        "×: the same in operations",
        fontsize=10,
    )
    return fig


def operations(
    counted: Mapping[str, Sequence[float]], predicted: Mapping[str, Sequence[float]]
) -> Figure:
    """Operations that torch counted against those of the formula, logarithmic axes.

    Parameters
    ----------
    counted, predicted : dict
        {method: one per lengths}, billions per pair.

    Returns
    -------
    Figure
    """
    fig, ax = subplots(size=(6.5, 3.4))
    for name, values in counted.items():
        ax.scatter(
            predicted[name],
            values,
            s=34,
            color=COLOURS[name],
            edgecolor="white",
            lw=0.6,
            zorder=3,
            label=label(name),
        )
    every = np.concatenate([np.asarray(row) for row in predicted.values()])
    ends = np.array([every.min() / 1.3, every.max() * 1.3])
    ax.plot(ends, ends, color=GREY, ls="--", lw=1.1, zorder=1)
    ax.set_xscale("log")
    ax.set_yscale("log")
    steps = [m * 10.0**k for k in range(-6, 9) for m in (1, 2, 5)]
    ticks = [t for t in steps if ends[0] <= t <= ends[1]]
    ax.set_xticks(ticks, [f"{t:g}" for t in ticks])
    ax.set_yticks(ticks, [f"{t:g}" for t in ticks])
    ax.minorticks_off()
    ax.set_xlabel("by the formula (billion operations per pair)")
    ax.set_ylabel("counted (billion\noperations per pair)")
    fig.legend(loc="outside right center")
    return fig


def memory(
    resident: Mapping[Lengths, Mapping[str, float]],
    peak: Mapping[Lengths, Mapping[str, float]],
) -> Figure:
    """Megabytes at the peak of a step.

    Parameters
    ----------
    resident : dict
        {(prompt, reply): {method: MB that stay between steps}}, dark.
    peak : dict
        {(prompt, reply): {method: MB at the peak}}; what is beyond is light.

    Returns
    -------
    Figure
    """
    methods = list(next(iter(peak.values())))
    fig, axes = subplots(
        1, len(peak), (6.5, 1.6 + 0.3 * len(methods)), squeeze=False, sharex=True
    )
    for k, (ax, (lengths, row)) in enumerate(zip(axes[0], peak.items(), strict=True)):
        for y, (name, value) in enumerate(row.items()):
            bottom = resident[lengths][name]
            ax.barh(y, bottom, color=COLOURS[name], height=0.62, zorder=2)
            ax.barh(
                y,
                value - bottom,
                left=bottom,
                color=COLOURS[name],
                alpha=0.4,
                height=0.62,
                zorder=2,
            )
            edge_text(ax, y, f"{value:.1f}", COLOURS[name], shift=3)
        _method_rows(ax, methods, names=k == 0)
        ax.set_title(f"{lengths[0]} + {lengths[1]} tokens", loc="center")
        ax.locator_params(axis="x", nbins=4)
    fig.supxlabel(
        "peak of a step (MB); dark: weights and optimiser state,\n"
        "light: gradients and activations",
        fontsize=10,
    )
    return fig


def savings(
    curves: Mapping[str, Curve],
    points: Mapping[str, Sequence[tuple[float, Number]]],
    *,
    claimed: float,
    marks: Mapping[str, float] | None = None,
) -> Figure:
    """What RMiPO saves against the share of a sequence that is reply.

    Parameters
    ----------
    curves : dict
        {what it is compared with: (shares, savings)}, in operations.
    points : dict
        {the same: [(share, median with its interval)]}, in measured time.
    claimed : float
        The saving above which the claim holds.
    marks : dict, optional
        {text: share}, vertical lines.

    Returns
    -------
    Figure
    """
    fig, ax = subplots(size=(6.5, 3.8))
    colours = dict(zip(curves, (PURPLE, BLUE, GREEN, ORANGE), strict=False))
    for name, (x, y) in curves.items():
        ax.plot(x, y, color=colours[name])
        shift = 0.008 * (list(curves).index(name) - (len(curves) - 1) / 2)
        for share, number in points.get(name, ()):
            ax.plot(
                (share + shift,) * 2,
                number.interval,
                color=colours[name],
                lw=1.8,
                zorder=3,
            )
            ax.plot(
                share + shift,
                number.mean,
                "o",
                color=colours[name],
                mec="white",
                mew=0.6,
                ms=6.5,
                zorder=4,
            )
    ax.set_xlim(0, 1)
    top = max(0.3, ax.get_ylim()[1])
    ax.set_ylim(top=top)
    ax.axhspan(claimed, top, color=LIGHT, alpha=0.35, lw=0, zorder=0)
    ax.annotate(
        f"claimed: {claimed:.0%} or more",
        (0.995, top),
        xycoords=("axes fraction", "data"),
        xytext=(0, -3),
        textcoords="offset points",
        ha="right",
        va="top",
        fontsize=9,
        color=ink(GREY),
    )
    ax.axhline(0, color=GREY, lw=1.1, zorder=1)
    for text, share in (marks or {}).items():
        reference_line(ax, share, text, axis="x", at=0.0)
    ax.yaxis.set_major_formatter("{x:.0%}")
    ax.xaxis.set_major_formatter("{x:.0%}")
    ax.set_xlabel("share of the sequence's tokens that is reply")
    ax.set_ylabel("saving of RMiPO (share of\nthe other's time per pair)")
    ends = [(x[-1], y[-1], f"against {n}", colours[n]) for n, (x, y) in curves.items()]
    end_labels(ax, ends)
    return fig


def search(
    runs: Sequence[int],
    lines: Mapping[str, Sequence[float]],
    *,
    own: float,
    claimed: float,
    marks: Mapping[str, tuple[str, int]] | None = None,
) -> Figure:
    """Cost of a search against the settings it tries at each learning rate.

    RMiPO tries one.

    Parameters
    ----------
    runs : sequence of int, length N
        Settings per learning rate.
    lines : dict
        {method: cost, length N}, in SimPO runs per learning rate.
    own : float
        RMiPO's cost in the same unit.
    claimed : float
        The saving that is claimed.
    marks : dict, optional
        {text: (method, settings)} of searches that were published.

    Returns
    -------
    Figure
    """
    fig, ax = subplots(size=(6.5, 3.6))
    for name, y in lines.items():
        ax.plot(runs, y, color=COLOURS[name], marker="o", ms=3.5)
    ax.axhline(own, color=COLOURS["rmipo"], zorder=2)
    ax.axhline(own / (1 - claimed), color=COLOURS["rmipo"], ls="--", lw=1.1, zorder=2)
    ax.set_yscale("log")
    top = 1.05 * max(map(max, lines.values()))
    ticks = [t for t in (1, 2, 3, 5, 10, 20) if t <= top]
    ax.set_yticks(ticks, map(str, ticks))
    ax.minorticks_off()
    ax.set_xticks(runs)
    ax.grid(axis="x", visible=False)
    for text, (name, n) in (marks or {}).items():
        y = lines[name][list(runs).index(n)]
        ax.plot(n, y, "o", ms=10, mfc="none", mec=ink(COLOURS[name]), mew=1.3, zorder=4)
        ax.annotate(
            text,
            (n, y),
            xytext=(0, -20),
            textcoords="offset points",
            ha="center",
            fontsize=9,
            color=ink(COLOURS[name]),
        )
    ax.set_xlabel("settings tried at each learning rate (runs)")
    ax.set_ylabel("total (SimPO runs\nper learning rate)")
    ax.set_xlim(right=runs[-1] + 0.5)
    last, edge, colour = float(runs[-1]), runs[-1] + 0.5, COLOURS["rmipo"]
    ends = [(last, y[-1], label(name), COLOURS[name]) for name, y in lines.items()]
    ends.append((edge, own, "RMiPO, one setting", colour))
    ends.append((edge, own / (1 - claimed), f"above: saves {claimed:.0%}", colour))
    end_labels(ax, ends)
    return fig
