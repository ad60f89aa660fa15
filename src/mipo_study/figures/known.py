"""Figure of chapter 14: how well people are known from text."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING

from mipo_study.figures.style import (
    BLUE,
    GREY,
    ORANGE,
    edge_text,
    reference_line,
    subplots,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from mipo.numbers import Number

Panel = Mapping[str, "Number"]


def known_from_text(panels: Mapping[str, Panel], chance: Mapping[str, float]) -> Figure:
    """A panel per question, a row per guesser, with its interval and chance's level.

    Parameters
    ----------
    panels : dict
        {title with unit: {guesser: number}}. A guesser whose name begins with "encoder"
        is drawn in another colour.
    chance : dict
        {title: what guessing earns}, a dashed line.

    Returns
    -------
    Figure
    """
    rows = max(map(len, panels.values()))
    size = (6.5, 1.2 + 0.32 * rows)
    fig, axes = subplots(1, len(panels), size, squeeze=False)
    for ax, (title, numbers) in zip(axes[0], panels.items(), strict=True):
        for row, (name, number) in enumerate(numbers.items()):
            colour = ORANGE if name.startswith("encoder") else BLUE
            if number.low is not None:
                ax.plot([number.low, number.high], [row, row], color=colour)
            ax.plot(number.mean, row, "o", color=colour)
            edge_text(ax, row, f"{number.mean:.2f}", colour)
        ax.set_yticks(range(len(numbers)), list(numbers))
        ax.set_ylim(len(numbers) - 0.5, -0.5)
        ax.grid(axis="y", visible=False)
        ax.tick_params(axis="y", length=0)
        ax.set_xlabel(textwrap.fill(title, 30))
        reference_line(ax, chance[title], axis="x", colour=GREY)
    return fig
