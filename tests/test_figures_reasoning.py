"""Figures of chapter 8: what is drawn is what was given; every axis has its words."""

import numpy as np
import pytest
from matplotlib import pyplot as plt

from mipo.arithmetic import TYPES
from mipo.figures import reasoning as draw

SHARES = np.array([0.5, 0.05, 0.1, 0.1, 0.15, 0.02, 0.04, 0.04])
ARMS = ["base", "sft", "mipo", "verifier"]


def seeds(mean, n=3):
    return list(mean + 0.01 * np.arange(n))


CASES = {
    "type_bars": lambda: draw.type_bars({"open": {a: SHARES for a in ARMS}, "choice": {a: SHARES[::-1] for a in ARMS}}),
    "by_level": lambda: draw.by_level({lv: {a: seeds(0.5) for a in ARMS} for lv in ("sum", "product")},
                                      exact={"sum": 0.5, "product": 0.4}),
    "method_rows": lambda: draw.method_rows({s: {a: seeds(0.5) for a in ARMS} for s in ("open", "choice")}),
    "pass_curves": lambda: draw.pass_curves([1, 2, 4], {a: [[0.5, 0.6, 0.7], [0.5, 0.65, 0.8]] for a in ARMS}),
    "beta_curves": lambda: draw.beta_curves(np.geomspace(0.1, 8, 5), {"open": np.linspace(0.7, 0.5, 5), "sums": [0.8] * 5},
                                            measured={"open": {1.0: seeds(0.6)}}),
    "odds_change": lambda: draw.odds_change({"open": {"slip": 0.0, "letter": np.nan}}, {"open": {"slip": seeds(0.0),
                                                                                                 "letter": [np.nan]}}),
}


@pytest.mark.parametrize("name", CASES)
def test_axes_have_words_and_letters_a_readable_size(name):
    fig = CASES[name]()
    fig.canvas.draw()
    for ax in fig.axes:
        assert ax.get_xlabel() or ax.get_xticklabels()[0].get_text()
        sizes = [t.get_fontsize() for t in (*ax.get_xticklabels(), *ax.get_yticklabels(), ax.xaxis.label)]
        assert min(sizes) >= 8
    assert fig.get_size_inches()[0] == 6.5
    plt.close(fig)


def test_bars_are_the_shares():
    fig = CASES["type_bars"]()
    first = [patch for patch in fig.axes[0].patches][::len(ARMS)]
    np.testing.assert_allclose([bar.get_width() for bar in first], SHARES)
    np.testing.assert_allclose([bar.get_x() for bar in first], np.concatenate([[0], np.cumsum(SHARES)[:-1]]))
    plt.close(fig)
    with pytest.raises(ValueError, match="panel 'b'"):
        draw.type_bars({"a": {"base": SHARES}, "b": {"sft": SHARES}})


def test_every_type_has_its_colour_and_word():
    assert set(draw.FAULTS) == set(draw.MEANING) == set(TYPES) and len(set(draw.FAULTS.values())) == len(TYPES)
    assert set(draw.LABELS) == set(draw.COLOURS) and len(set(draw.COLOURS.values())) == len(draw.COLOURS)


def test_curves_go_through_the_values():
    fig = CASES["pass_curves"]()
    thick = [line for line in fig.axes[0].lines if line.get_marker() == "o"]
    np.testing.assert_allclose(thick[0].get_ydata(), [0.5, 0.625, 0.75])
    plt.close(fig)
