"""Figure of people known from text: points, intervals and chance lie where they should."""

import pytest
from matplotlib import pyplot as plt

from mipo.numbers import interval_of
from mipo_study.figures.known import known_from_text

SHARE = "share of turns"
AREA = "area under the curve"


def test_points_intervals_and_chance_are_drawn():
    panels = {
        SHARE: {
            "model": interval_of(0.4, "of turns", interval=(0.3, 0.5)),
            "encoder": interval_of([0.6], "of turns"),
        },
        AREA: {"own votes": interval_of(0.55, "of pairs", interval=(0.4, 0.7))},
    }
    fig = known_from_text(panels, {SHARE: 0.125, AREA: 0.5})
    left, right = fig.axes
    drawn = [(list(line.get_xdata()), line.get_color()) for line in left.lines]
    model, encoder = drawn[0][1], drawn[2][1]
    assert model != encoder
    expected = [([0.3, 0.5], model), ([0.4], model), ([0.6], encoder)]
    assert drawn[:3] == expected
    assert drawn[3][0] == [0.125, 0.125]
    assert list(right.lines[-1].get_xdata()) == [0.5, 0.5]
    assert [label.get_text() for label in left.get_yticklabels()] == [
        "model",
        "encoder",
    ]
    assert [text.get_text() for text in left.texts][:2] == ["0.40", "0.60"]
    assert left.get_xlabel().replace("\n", " ") == SHARE
    assert left.get_ylim()[0] > left.get_ylim()[1]  # the first row on top
    plt.close(fig)


def test_a_question_without_its_chance_is_an_error():
    with pytest.raises(KeyError, match=SHARE):
        known_from_text({SHARE: {"model": interval_of(0.4)}}, {})
    plt.close("all")
