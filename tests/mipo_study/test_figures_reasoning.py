"""Figures of reasoning: what is drawn is what was given; every axis has its words."""

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt

from mipo.numbers import interval_of
from mipo.worlds.word_problems import TYPES
from mipo_study.figures import reasoning as draw

SHARES = np.array([0.5, 0.05, 0.1, 0.1, 0.15, 0.02, 0.04, 0.04])
ARMS = ["base", "sft", "mipo", "verifier"]


def seeds(mean, n=3):
    return list(mean + 0.01 * np.arange(n))


GAINS = pd.DataFrame(
    [
        {"questions": task, "policy": policy, "gain": 0.02, "low": -0.01, "high": 0.05}
        | {"detectable": least}
        for task in ("sums", "choice")
        for policy, least in (("MIPO", 0.043), ("placebo", None))
    ]
    + [{"questions": "sums", "policy": "untrained"}]
)
CASES = {
    "gain_rows": lambda: draw.gain_rows(GAINS),
    "type_bars": lambda: draw.type_bars(
        {"open": {a: SHARES for a in ARMS}, "choice": {a: SHARES[::-1] for a in ARMS}}
    ),
    "by_level": lambda: draw.by_level(
        {lv: {a: seeds(0.5) for a in ARMS} for lv in ("sum", "product")},
        exact={"sum": 0.5, "product": 0.4},
    ),
    "method_rows": lambda: draw.method_rows(
        {s: {a: seeds(0.5) for a in ARMS} for s in ("open", "choice")}
    ),
    "pass_curves": lambda: draw.pass_curves(
        [1, 2, 4], {a: [[0.5, 0.6, 0.7], [0.5, 0.65, 0.8]] for a in ARMS}
    ),
    "beta_curves": lambda: draw.beta_curves(
        np.geomspace(0.1, 8, 5),
        {"open": np.linspace(0.7, 0.5, 5), "sums": [0.8] * 5},
        measured={"open": {1.0: seeds(0.6)}},
    ),
    "odds_change": lambda: draw.odds_change(
        {"open": {"slip": 0.1}, "choice": {"slip": 0.2, "elsewhere": 0.3}},
        {
            "open": {"slip": seeds(0.0)},
            "choice": {"slip": seeds(0.1), "elsewhere": seeds(0.2)},
        },
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_axes_have_words_and_letters_a_readable_size(name):
    fig = CASES[name]()
    fig.canvas.draw()
    for ax in fig.axes:
        assert ax.get_xlabel() or ax.get_xticklabels()[0].get_text()
        sizes = [
            t.get_fontsize()
            for t in (*ax.get_xticklabels(), *ax.get_yticklabels(), ax.xaxis.label)
        ]
        assert min(sizes) >= 8
    assert fig.get_size_inches()[0] == 6.5
    plt.close(fig)


def test_bars_are_the_shares():
    fig = CASES["type_bars"]()
    first = [patch for patch in fig.axes[0].patches][:: len(ARMS)]
    np.testing.assert_allclose([bar.get_width() for bar in first], SHARES)
    np.testing.assert_allclose(
        [bar.get_x() for bar in first], np.concatenate([[0], np.cumsum(SHARES)[:-1]])
    )
    plt.close(fig)
    with pytest.raises(ValueError, match="panel 'b'"):
        draw.type_bars({"a": {"base": SHARES}, "b": {"sft": SHARES}})


def test_every_type_has_its_colour_and_word():
    assert set(draw.FAULTS) == set(draw.MEANING) == set(TYPES) and len(
        set(draw.FAULTS.values())
    ) == len(TYPES)
    colours = [draw.colour(name) for name in draw.ORDER]
    assert len(set(colours)) == len(draw.ORDER) and draw.BLACK not in colours


def test_an_error_has_one_row_in_every_panel():
    fig = CASES["odds_change"]()
    left, right = fig.axes
    assert [t.get_text() for t in left.get_yticklabels()] == [
        draw.MEANING[t] for t in ("elsewhere", "slip")
    ]
    marks = [
        [
            (line.get_xdata()[0], np.mean(line.get_ydata()))
            for line in ax.lines
            if line.get_color() == draw.BLACK
        ]
        for ax in (left, right)
    ]
    assert marks == [[(0.1, 1)], [(0.2, 1), (0.3, 0)]]
    plt.close(fig)


def test_words_follow_the_measurement():
    went = {
        "elsewhere": interval_of([0.9, 1.0, 1.1]),
        "letter": interval_of([-0.2, 0.0, 0.3]),
        "slip": interval_of([-0.5, -0.4, -0.3]),
        "empty": interval_of([0.4]),
    }  # one seed tells nothing
    found = draw.verdicts(went, dict.fromkeys(went, 2.5)).split("; ")
    assert [part.split(":")[0] for part in found] == [
        "rarer",
        "commoner",
        "no change that this run could tell",
    ]
    assert (
        "numbers from elsewhere 1 [" in found[0]
        and "(optimum 2.50)" in found[0]
        and "slip of the sum -0.4 [" in found[1]
    )
    assert "no attempt" in found[2] and "wrong letter" in found[2]
    assert (
        draw.changes(SHARES, SHARES[::-1], ("slip",)) == "slip of the sum 0.150 → 0.100"
    )


def test_curves_go_through_the_values():
    fig = CASES["pass_curves"]()
    thick = [line for line in fig.axes[0].lines if line.get_marker() == "o"]
    np.testing.assert_allclose(thick[0].get_ydata(), [0.5, 0.625, 0.75])
    plt.close(fig)


def test_a_gain_stands_with_its_interval_over_what_would_not_be_seen():
    fig = CASES["gain_rows"]()
    left, right = fig.axes
    assert [ax.get_title("left") for ax in fig.axes] == ["sums", "choice"]
    names = [text.get_text() for text in left.get_yticklabels()]
    assert names == ["MIPO", "placebo"]
    segments = right.collections[0].get_segments()
    np.testing.assert_allclose([row[:, 0] for row in segments], [[-1, 5]] * 2)
    widths = [bar.get_width() for bar in right.patches]
    np.testing.assert_allclose(widths, [8.6, 0])
    plt.close(fig)
