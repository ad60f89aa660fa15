"""Figures of chapter 2: what is drawn is what was given, and a reader can read it."""

import numpy as np
import pytest
from figure_checks import assert_readable
from matplotlib import pyplot as plt

from mipo_study.figures import theory

STEPS = np.linspace(0, 1, 101)
PANELS = {
    "rejected: for a random person": {
        "certified": 0.2 * STEPS,
        "information": 0.44 + 0.5 * STEPS,
        "limit": 0.44,
    },
    "rejected: own, sharpened": {
        "certified": 0.1 * STEPS,
        "information": 0.44 * (1 - STEPS),
        "limit": 0.27,
    },
}
AWAY = {
    "tilt by PMI": {"untrained": 0.178, "random": 0.0, "missing": 0.059},
    "favourite, 9 of 10": {"untrained": 0.33, "random": 0.035, "missing": 0.03},
}
RNG = np.random.default_rng(0)
ENTROPY = RNG.uniform(1, 3, 1200)
CASES = {
    name: (ENTROPY, 0.3 * (ENTROPY - 3.1) + 0.1 * RNG.normal(size=1200))
    for name in ("any wanted policy", "MIPO, β = 1", "MIPO, equal KL", "labels")
}
FIGURES = {
    "loss_and_information": lambda: theory.loss_and_information(PANELS),
    "nearest_optima": lambda: theory.nearest_optima(AWAY, "untrained"),
    "displaced_replies": lambda: theory.displaced_replies(CASES),
}


@pytest.mark.parametrize("name", FIGURES)
def test_figure_is_readable(name):
    fig = FIGURES[name]()
    assert_readable(fig)
    plt.close(fig)


def test_lines_of_the_first_figure_are_those_that_were_given():
    fig = theory.loss_and_information(PANELS)
    plt.close(fig)
    for ax, values in zip(fig.axes, PANELS.values(), strict=True):
        drawn = {line.get_label(): line.get_ydata() for line in ax.lines}
        assert np.array_equal(drawn["policy: I(Y;C|X)"], values["information"])
        assert np.array_equal(drawn["certified: log 2 − L"], values["certified"])
        assert set(drawn["most it can certify"]) == {values["limit"]}
        assert set(drawn["reference: I(Y;C|X)"]) == {values["information"][0]}


def test_bars_are_as_long_as_the_distances():
    fig = theory.nearest_optima(AWAY, "untrained")
    plt.close(fig)
    for ax, values in zip(fig.axes, AWAY.values(), strict=True):
        assert [bar.get_width() for bar in ax.patches] == list(values.values())


def test_medians_are_of_all_points_though_only_some_are_drawn():
    fig = theory.displaced_replies(CASES)
    plt.close(fig)
    points, line = fig.axes[0].lines[:2]
    assert len(points.get_xdata()) == 400
    order = np.argsort(ENTROPY)
    first = CASES["any wanted policy"][1][order][:150]
    assert line.get_ydata()[0] == pytest.approx(np.median(first), abs=0.02)
