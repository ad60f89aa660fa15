"""Figures of chapter 16: every size has its tick, what was measured elsewhere is hollow, nothing to draw is an error."""

import numpy as np
import pytest
from matplotlib.colors import to_hex

from mipo_study.figures import scaling


def drawn(fig):
    fig.canvas.draw()
    return fig.axes


def test_sizes_are_ticks_and_levels_are_where_they_should_be():
    panels = {
        "gain": {"MIPO": [(1e6, [0.1, 0.2, 0.3], True), (2.6e5, 0.4, True)]},
        "distance": {"same world": [(1e6, [0.1], True), (1.01e8, [0.2], True)]},
    }
    left, right = drawn(scaling.by_size(panels, lines={"gain": {"optimum": 0.25}}))
    assert left.get_xticks() == pytest.approx(np.log10([2.6e5, 1e6]))
    assert [t.get_text() for t in left.get_xticklabels()] == ["0.26M", "1M"]
    assert [t.get_text() for t in right.get_xticklabels()] == ["1M", "101M"]
    means = left.lines[0].get_ydata()
    assert list(means) == pytest.approx([0.4, 0.2])  # in the order of size
    assert any(list(line.get_ydata()) == [0.25, 0.25] for line in left.lines)


def test_sizes_of_two_worlds_that_are_nearly_alike_share_a_tick():
    found = {
        "same world": [(9.86e5, [0.1], True), (3.2e6, [0.1], True)],
        "world grows too": [(9.99e5, [0.2], True)],
    }
    (ax,) = drawn(scaling.by_size({"gain": found}))
    assert [t.get_text() for t in ax.get_xticklabels()] == ["0.99M", "3.2M"]


def test_points_measured_elsewhere_are_hollow():
    def white(here):
        axes = drawn(
            scaling.by_size(
                {"gain": {"MIPO": [(1e6, [0.1, 0.2], here), (1e7, [0.1, 0.3], True)]}}
            )
        )[0]
        return sum(
            to_hex(c.get_facecolor()[0]) == "#ffffff"
            for c in axes.collections
            if len(c.get_facecolor())
        )

    assert white(False) == 1 and white(True) == 0


def test_nothing_to_draw_is_an_error():
    for panels in ({}, {"gain": {}}, {"gain": {"MIPO": []}}):
        with pytest.raises(ValueError, match="nothing to draw"):
            scaling.by_size(panels)
