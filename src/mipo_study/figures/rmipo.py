"""Figures of chapters 9 and 10: RMiPO against its kin, its margin, wrong labels."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mipo_study.figures.style import (
    BLACK,
    BLUE,
    GREY,
    NORMAL,
    PURPLE,
    SKY,
    VERMILLION,
    WIDE,
    References,
    Values,
    arm_colour,
    arm_panels,
    reference_line,
    settled,
    spread,
    strip_points,
    subplots,
)


def colour_of(label: str, index: int = 0) -> str:
    """The method's own colour, the same in every figure; others take turns."""
    return arm_colour(label, rest=(SKY, PURPLE, GREY)[index % 3])


def rows(
    panels: Mapping[str, Values], *, reference: References | None = None
) -> Figure:
    """`style.arm_panels` with three decimals; what has no colour of its own is grey.

    Where all values are shares the axes end with 0 and 1, though intervals may not.

    Parameters
    ----------
    panels, reference
        See `style.arm_panels`.

    Returns
    -------
    Figure
    """
    digits = dict.fromkeys(panels, 3)
    fig = arm_panels(panels, reference=reference, digits=digits, height=0.27, rest=GREY)
    for ax, values in zip(fig.axes, panels.values(), strict=True):
        if all(0 <= np.min(v) and np.max(v) <= 1 for v in values.values()):
            low, high = ax.get_xlim()
            ax.set_xlim(max(low, -0.03), min(high, 1.03))
    return fig


def exact_pmi(
    exact: np.ndarray,
    model: Mapping[str, np.ndarray],
    agreement: Mapping[str, Mapping[str, float]],
) -> Figure:
    """The base model's Δpmi of each pair against the exact one.

    Parameters
    ----------
    exact : ndarray, shape (n,)
        Nats per token.
    model : dict
        {way to score the first token: Δpmi, shape (n,)}, one panel each.
    agreement : dict
        {the same: {"r": correlation, ...}}.

    Returns
    -------
    Figure
    """
    size = (6.5, 2.7)
    fig, axes = subplots(1, len(model), size, sharex=True, sharey=True, squeeze=False)
    low, high = np.nanmin(exact), np.nanmax(exact)
    for ax, (name, values) in zip(axes[0], model.items(), strict=True):
        ax.plot([low, high], [low, high], color=BLACK, ls="--", lw=1)
        ax.scatter(exact, values, s=9, color=BLUE, alpha=0.35, lw=0)
        ax.set_title(f"“{name}”: r = {agreement[name]['r']:.2f}")
        ax.set_xlabel("exact Δpmi\n(nats per token)")
    axes[0, 0].set_ylabel("base model's Δpmi\n(nats per token)")
    return fig


def gap_density(
    gaps: Mapping[str, np.ndarray],
    *,
    bins: int = 50,
    unit: str = "log-prob gap of chosen over rejected, less the base model's "
    "(nats per token)",
) -> Figure:
    """Density of the reward gap over held-out pairs; right of 0 a pair is ranked right.

    Parameters
    ----------
    gaps : dict
        {label: gap, shape (n,)}, one line each.
    bins : int
        Of the histogram.
    unit : str
        Title of the horizontal axis.

    Returns
    -------
    Figure
    """
    fig, ax = subplots(size=WIDE)
    values = np.concatenate([np.asarray(v, float) for v in gaps.values()])
    low, high = np.quantile(values, [0.005, 0.995])
    edges = np.linspace(low, high, bins + 1)
    for k, (label, v) in enumerate(gaps.items()):
        ax.hist(
            np.clip(v, edges[0], edges[-1]),
            edges,
            density=True,
            histtype="step",
            lw=1.7,
            color=colour_of(label, k),
            label=label,
        )
    ax.axvline(0, color=BLACK, lw=1)
    ax.set(xlabel=unit, ylabel="density", xlim=(edges[0], edges[-1]))
    ax.legend(loc="upper left", borderaxespad=0.2)
    return fig


def gamma_density(
    panels: Mapping[str, Mapping[str, np.ndarray]],
    tuned: Mapping[str, Mapping[str, float]],
    *,
    bins: int = 45,
) -> Figure:
    """Density of γ over held-out pairs, with the values tuned for SimPO.

    Parameters
    ----------
    panels : dict
        {title of an axis: {label: γ, shape (n,)}}.
    tuned : dict
        {title: {set-up: value}}, dotted lines.
    bins : int
        Of the histogram.

    Returns
    -------
    Figure
    """
    fig, axes = subplots(1, len(panels), (6.5, 3.7), squeeze=False, sharey=True)
    for ax, (title, lines) in zip(axes[0], panels.items(), strict=True):
        top = max(max(np.max(v) for v in lines.values()), *tuned[title].values())
        edges = np.linspace(0, 1.02 * top, bins + 1)
        for k, (label, v) in enumerate(lines.items()):
            colour = colour_of(label, k)
            each = np.full(len(v), 1 / len(v))
            filled = {"histtype": "stepfilled", "alpha": 0.3}
            line = {"histtype": "step", "lw": 1.6, "label": label}
            ax.hist(v, edges, weights=each, color=colour, **filled)
            ax.hist(v, edges, weights=each, color=colour, **line)
        ax.set_xlabel(title)
        ax.set_xlim(0, edges[-1])
        _names_above(ax, tuned[title])
    axes[0, 0].set_ylabel("share of held-out pairs")
    handles = axes[0, 0].get_legend_handles_labels()
    fig.legend(*handles, loc="outside lower center", ncols=2)
    return fig


def _names_above(ax: Axes, marks: Mapping[str, float]) -> None:
    """A dotted line at each value; its name stands above, apart from close ones."""
    dpi = settled(ax).dpi
    pixels = ax.transData.transform([(v, 0) for v in marks.values()])[:, 0]
    points = pixels * 72 / dpi
    shifts = spread(points, 13) - points
    for (name, value), dx in zip(marks.items(), shifts, strict=True):
        ax.axvline(value, color=BLACK, ls=":", lw=1.2)
        ax.annotate(
            name,
            (value, 1),
            xycoords=ax.get_xaxis_transform(),
            xytext=(dx, 3),
            textcoords="offset points",
            rotation=60,
            fontsize=8.5,
            color=GREY,
            ha="left",
            va="bottom",
        )


def weights(
    gap: np.ndarray,
    weight: np.ndarray,
    constant: tuple[np.ndarray, np.ndarray],
    ratios: Values,
) -> Figure:
    """Left each pair's weight against its gap, right the ratio of mean weights.

    Parameters
    ----------
    gap, weight : ndarray, shape (n,)
        Of pairs with γ(Δpmi): nats per token, and 0 to 1.
    constant : (ndarray, ndarray)
        Gaps, and the weight at each with a constant γ.
    ratios : dict
        {group of pairs: one per seed}.

    Returns
    -------
    Figure
    """
    fig, axes = subplots(1, 2, NORMAL, width_ratios=(1.6, 1))
    ax = axes[0]
    ax.scatter(gap, weight, s=13, color=VERMILLION, alpha=0.5, lw=0, label="γ(Δpmi)")
    ax.plot(*constant, color=BLACK, lw=1.4, label="constant γ, same mean")
    ax.axvline(0, color=GREY, lw=0.8)
    ax.set(
        xlabel="gap Δ of a held-out pair (nats per token)",
        ylabel="weight w = 1 − σ",
        ylim=(-0.02, 1.05),
    )
    fig.legend(loc="outside upper left", ncols=2)
    for x, (group, values) in enumerate(ratios.items()):
        strip_points(axes[1], x, values, colour=VERMILLION)
    axes[1].axhline(1, color=BLACK, ls="--", lw=1)
    axes[1].set_xticks(range(len(ratios)), ratios)
    axes[1].set_xlim(-0.6, len(ratios) - 0.4)
    axes[1].grid(axis="x", visible=False)
    axes[1].set_ylabel("mean weight over that\nof the constant γ")
    return fig


def unrest(curves: Mapping[str, Mapping[str, np.ndarray]], *, cut: float) -> Figure:
    """γ and Δpmi step by step: means over a step's pairs, and one standard deviation.

    Parameters
    ----------
    curves : dict
        {label: {"gamma", "gamma_std", "delta_pmi", "delta_pmi_std": shape (T,)}}, nats
        per token.
    cut : float
        A step that is marked.

    Returns
    -------
    Figure
    """
    fig, axes = subplots(1, 2, WIDE)
    panels = zip(
        axes,
        ("gamma", "delta_pmi"),
        ("γ (nats per token)", "Δpmi (nats per token)"),
        strict=True,
    )
    for ax, name, title in panels:
        for k, (label, curve) in enumerate(curves.items()):
            mean = np.array(curve[name])
            std = np.array(curve[f"{name}_std"])
            step = np.arange(len(mean)) + 1
            colour, line = (VERMILLION, BLUE)[k % 2], ("-", "--")[k % 2]
            ax.plot(step, mean, color=colour, label=label, ls=line)
            low, high = mean - std, mean + std
            ax.fill_between(step, low, high, color=colour, alpha=0.15, lw=0)
        ax.axvline(cut + 0.5, color=GREY, ls=":", lw=1.2)
        ax.set(xlabel="training step", ylabel=title)
    axes[0].legend(loc="lower right", borderaxespad=0.2)
    return fig


def wrong_labels(
    shares: np.ndarray, lines: Mapping[str, np.ndarray], *, base: float
) -> Figure:
    """Adherence against the share of labels that were flipped; means joined.

    Parameters
    ----------
    shares : ndarray, shape (F,)
        Of flipped labels.
    lines : dict
        {label: adherence, shape (F, seeds)}.
    base : float
        Adherence before training.

    Returns
    -------
    Figure
    """
    fig, ax = subplots(size=NORMAL)
    step = 0.012
    for k, (label, values) in enumerate(lines.items()):
        x = np.asarray(shares, float) + step * (k - (len(lines) - 1) / 2)
        colour = colour_of(label, k)
        means = [
            strip_points(ax, a, v, colour=colour, width=0)[0]
            for a, v in zip(x, values, strict=True)
        ]
        ax.plot(x, means, color=colour, label=label)
    reference_line(ax, base, f"base {base:.2f}", at=0.5)
    ax.set_xticks(list(shares), [f"{100 * s:.0f} %" for s in shares])
    ax.set(xlabel="labels turned round", ylabel="adherence (share of slots)")
    fig.legend(loc="outside upper center", ncols=len(lines))
    return fig
