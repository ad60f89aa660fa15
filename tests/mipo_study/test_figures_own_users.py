"""Figures of chapter 18: what is marked is what was computed."""

import math

import pytest
from matplotlib import pyplot as plt

from mipo_study.figures import own_users as draw


def test_mean_and_ceiling_are_marked():
    fig = draw.dependence([-1.0, 0.0, 1.0, 2.0], math.log(8))
    lines = [line.get_xdata()[0] for line in fig.axes[0].lines]
    assert lines == pytest.approx([0, 0.5, math.log(8)])
    assert " mean 0.50" in [text.get_text() for text in fig.axes[0].texts]
    counted = sum(bar.get_height() for bar in fig.axes[0].patches)
    assert counted == 4, "no reply is left out"
    plt.close(fig)


def test_persons_are_sorted_and_the_winners_counted():
    gains = {"MIPO, random": [0.3, -0.1, 0.2, 0.5], "RMiPO": [-0.2, -0.1, 0.0, 0.4]}
    fig = draw.gain_by_person(gains, "gain (nats)")
    first, second = fig.axes
    widths = [bar.get_width() for bar in first.patches]
    assert widths == pytest.approx([-0.1, 0.2, 0.3, 0.5])
    assert first.get_title("left") == "MIPO, random: 75% gain"
    assert second.get_title("left") == "RMiPO: 25% gain", "no change is no gain"
    assert second.get_xlabel() == "gain (nats)"
    plt.close(fig)
