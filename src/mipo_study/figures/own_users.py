"""Figures of chapter 18: how much a reply owes its reader, and how that rises."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from mipo_study.figures.style import BLACK, GREY, arm_colour, subplots


def dependence(pmi: Sequence[float], ceiling: float, *, bins: int = 40) -> Figure:
    """Conditional PMI of each reply, with 0 and the highest possible value marked.

    Parameters
    ----------
    pmi : sequence of float
        Nats per reply.
    ceiling : float
        log of the number of contexts that are compared, nats.
    bins : int
        Of the histogram.

    Returns
    -------
    Figure
    """
    values = np.asarray(pmi, float)
    fig, ax = subplots(size=(6.5, 2.6))
    lowest = min(values.min(), -0.5)
    ax.hist(values, np.linspace(lowest, ceiling, bins + 1), color=GREY, alpha=0.6)
    ax.axvline(0, color=BLACK, lw=1)
    ax.axvline(values.mean(), color=BLACK, ls="--", lw=1.4)
    ax.axvline(ceiling, color=BLACK, ls=":", lw=1.4)
    ax.margins(y=0.15)
    top = ax.get_ylim()[1]
    ax.text(values.mean(), top, f" mean {values.mean():.2f}", va="top")
    ax.text(ceiling, top, "ceiling ", va="top", ha="right")
    ax.set_xlabel("conditional PMI of a reply (nats)")
    ax.set_ylabel("replies")
    return fig


def gain_by_person(gains: Mapping[str, Sequence[float]], unit: str) -> Figure:
    """Each person's gain over the base model, sorted; left of 0 a person loses.

    Parameters
    ----------
    gains : dict
        {method: one value per person}.
    unit : str
        Title of the horizontal axis.

    Returns
    -------
    Figure
    """
    size = (6.5, 2.8)
    fig, axes = subplots(1, len(gains), size, sharex=True, sharey=True, squeeze=False)
    for k, (ax, (name, values)) in enumerate(zip(axes[0], gains.items(), strict=True)):
        ordered = np.sort(np.asarray(values, float))
        rows = np.arange(len(ordered))
        colour = arm_colour(name, k)
        ax.barh(rows, ordered, color=colour, height=0.8)
        ax.axvline(0, color=BLACK, lw=1)
        ax.set_title(f"{name}: {np.mean(ordered > 0):.0%} gain")
        ax.set_xlabel(unit)
    axes[0, 0].set_ylabel("persons, sorted")
    return fig
