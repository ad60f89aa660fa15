"""Figures of chapter 14: wishes that are followed, and what it costs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mipo_study.figures.training import adherence_by_arm

if TYPE_CHECKING:
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
        xlabel="adherence (share of wishes followed in own words, undamaged)",
    )
