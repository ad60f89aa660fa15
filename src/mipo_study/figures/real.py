"""Figures of chapter 15: which errors a model makes, before and after."""

from collections.abc import Mapping

from matplotlib.figure import Figure

from mipo_study.figures.style import (
    BLUE,
    GREY,
    LIGHT,
    ORANGE,
    PURPLE,
    VERMILLION,
    subplots,
)

WHITE_ON = ("right", "arithmetic", "wrong option")  # dark bars
COLOURS = {
    "right": BLUE,
    "format": LIGHT,
    "off topic": ORANGE,
    "arithmetic": VERMILLION,
    "reasoning": PURPLE,
    "wrong option": GREY,
}


def error_types(shares: Mapping[str, Mapping[str, float]]) -> Figure:
    """One bar per policy, cut into right answers and kinds of errors.

    Parameters
    ----------
    shares : dict
        {label: {kind of `hub.answers.ERRORS`: share}}, each adding up to 1; those of
        7 % and more are written out.

    Returns
    -------
    Figure

    Raises
    ------
    ValueError
        Where nothing is to be drawn, or shares do not add up.
    """
    if not shares:
        raise ValueError("nothing to draw: give at least one policy")
    fig, ax = subplots(size=(6.5, 1.5 + 0.4 * len(shares)))
    kinds = [k for k in COLOURS if any(row.get(k) for row in shares.values())]
    for row, (label, share) in enumerate(shares.items()):
        total = sum(share.values())
        if abs(total - 1) > 1e-6:
            raise ValueError(f"{label}: the shares add up to {total:g}, not 1")
        left = 0.0
        for kind in kinds:
            width = share.get(kind, 0.0)
            ax.barh(
                row,
                width,
                left=left,
                color=COLOURS[kind],
                edgecolor="white",
                height=0.72,
                label=kind if row == 0 else None,
            )
            if width >= 0.07:
                ax.text(
                    left + width / 2,
                    row,
                    f"{100 * width:.0f} %",
                    ha="center",
                    va="center",
                    fontsize=9,
                    color="white" if kind in WHITE_ON else "black",
                )
            left += width
    ax.set_yticks(range(len(shares)), list(shares))
    ax.set_ylim(len(shares) - 0.5, -0.5)
    ax.set_xlim(0, 1)
    ax.grid(visible=False)
    ax.set_xlabel("share of test items")
    ax.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=6,
        borderaxespad=0.2,
        columnspacing=1.0,
        handlelength=1.2,
    )
    return fig
