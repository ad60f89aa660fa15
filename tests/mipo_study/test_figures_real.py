"""Figure of chapter 15: shares are drawn as given, and must add up."""

import pytest
from matplotlib import pyplot as plt

from mipo_study.figures import real as draw

SHARES = {
    "base": {"right": 0.5, "format": 0.3, "arithmetic": 0.2, "wrong option": 0.0},
    "MIPO": {"right": 0.75, "format": 0.0, "arithmetic": 0.05, "off topic": 0.2},
}


def test_bars_are_as_long_as_the_shares():
    fig = draw.error_types(SHARES)
    bars = [
        (round(p.get_y() + 0.36), round(p.get_width(), 6)) for p in fig.axes[0].patches
    ]
    assert sorted(w for row, w in bars if row == 0 and w) == [0.2, 0.3, 0.5]
    assert sorted(w for row, w in bars if row == 1 and w) == [0.05, 0.2, 0.75]
    texts = [t.get_text() for t in fig.axes[0].texts]
    assert (
        "75 %" in texts
        and "5 %" not in texts
        and fig.axes[0].get_xlabel() == "share of test items"
    )
    assert [t.get_text() for t in fig.axes[0].get_legend().get_texts()] == [
        "right",
        "format",
        "off topic",
        "arithmetic",
    ]
    plt.close(fig)


def test_shares_that_do_not_add_up():
    with pytest.raises(ValueError, match="base: the shares add up to 0.5"):
        draw.error_types({"base": {"right": 0.5}})
    with pytest.raises(ValueError, match="at least one policy"):
        draw.error_types({})
