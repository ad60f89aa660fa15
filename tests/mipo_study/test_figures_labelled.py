"""Figures of chapter 14 on labelled pairs: what is drawn is what was computed."""

import numpy as np
import pytest
from matplotlib import pyplot as plt

from mipo_study.figures import labelled as draw


def test_each_scale_is_a_line_with_a_band_of_one_standard_deviation():
    curve = {
        "gamma": np.array([1.6, 1.0]),
        "gamma_std": np.array([0.0, 0.4]),
        "weight": np.array([0.9, 0.5]),
        "weight_std": np.array([0.1, 0.2]),
    }
    fig = draw.margins({"scale 0.1": curve, "scale 1": curve})
    for ax, means, bands in zip(
        fig.axes, ([1.6, 1.0], [0.9, 0.5]), ([0.0, 0.4], [0.1, 0.2]), strict=True
    ):
        assert len(ax.lines) == len(ax.collections) == 2
        assert ax.lines[0].get_xydata() == pytest.approx(
            np.array([[1, means[0]], [2, means[1]]])
        )
        edge = ax.collections[0].get_paths()[0].vertices[:, 1]
        assert edge.max() == pytest.approx(max(np.add(means, bands)))
        assert edge.min() == pytest.approx(min(np.subtract(means, bands)))
    labels = [text.get_text() for text in fig.axes[0].get_legend().get_texts()]
    assert labels == ["scale 0.1", "scale 1"]
    plt.close(fig)
