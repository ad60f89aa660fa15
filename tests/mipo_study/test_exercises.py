"""Answers to exercises: right, wrong, missing, of the wrong kind."""

import pytest

from mipo_study.exercises import check

RIGHT, WRONG = "Right.", "Not yet. Try again, or open the solution."


def test_no_answer_is_neither_right_nor_wrong():
    assert check(None, 0.37) == "Not answered yet."


@pytest.mark.parametrize(
    "answer, right, verdict",
    [
        (0.37, 0.3679, RIGHT),
        (0.38, 0.3679, WRONG),
        (1, 1.0, RIGHT),
        (" Usual ", "usual", RIGHT),
        ("unusual", "usual", WRONG),
        ({"DV", "NWJ"}, {"NWJ", "DV"}, RIGHT),
        ({"DV"}, {"NWJ", "DV"}, WRONG),
        ([2, 4], [2, 4], RIGHT),
        ([4, 2], [2, 4], WRONG),
        ([2], [2, 4], WRONG),
    ],
)
def test_right_and_wrong(answer, right, verdict):
    assert check(answer, right, within=0.01) == verdict


def test_the_verdict_does_not_tell_the_answer():
    assert "0.3679" not in check(5, 0.3679)


@pytest.mark.parametrize(
    "answer, right, expected",
    [("0.37", 0.37, "a number"), (3, "usual", "a text"), ("DV", {"DV"}, "a set")],
)
def test_an_answer_of_another_kind_is_named(answer, right, expected):
    with pytest.raises(TypeError, match=f"expected {expected}.*got"):
        check(answer, right)
