"""Figures of chapter 14 on labelled pairs: margins and weights while RMiPO trains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from mipo_study.figures.style import WIDE, subplots
from mipo_study.methods import BLUE, ORANGE, VERMILLION

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from mipo_study.figures.style import Values

TITLES = {"gamma": "γ (nats per token)", "weight": "weight w = 1 − σ"}


def margins(curves: Mapping[str, Mapping[str, Values]]) -> Figure:
    """γ and the weights step by step: mean and standard deviation of a step's pairs.

    Parameters
    ----------
    curves : dict
        {label: {"gamma", "gamma_std", "weight", "weight_std": shape (T,)}}; γ in nats
        per token, weights from 0 to 1. At most three.

    Returns
    -------
    Figure
    """
    fig, axes = subplots(1, 2, WIDE)
    for ax, (name, title) in zip(axes, TITLES.items(), strict=True):
        looks = zip((VERMILLION, BLUE, ORANGE), ("-", "--", ":"), strict=True)
        for (label, curve), (colour, line) in zip(curves.items(), looks, strict=False):
            mean, std = np.array(curve[name]), np.array(curve[f"{name}_std"])
            step = np.arange(len(mean)) + 1
            ax.plot(step, mean, color=colour, ls=line, label=label)
            ax.fill_between(
                step, mean - std, mean + std, color=colour, alpha=0.15, lw=0
            )
        ax.set(xlabel="training step", ylabel=title)
    axes[1].set_ylim(-0.02, 1.02)
    axes[0].legend(loc="best", borderaxespad=0.2)
    return fig
