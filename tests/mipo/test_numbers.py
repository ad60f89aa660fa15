"""Numbers with intervals, how they are printed, and the rule of a claim's status."""

import pytest

from mipo.numbers import Number, fmt, interval_of, status, together


@pytest.mark.parametrize(
    "interval, region, word",
    [
        ((0.1, 0.2), (0, None), "holds"),
        ((0.0, 0.2), (0, None), "holds"),
        ((-0.1, 0.2), (0, None), "undecided"),
        ((0.0, 0.0), (0, None), "undecided"),
        ((0.0, 0.0), (None, 0), "undecided"),
        ((0.0, 0.0), (0, 0), "holds"),
        ((0.0, 0.0), (-1, 1), "holds"),
        ((-0.2, -0.1), (0, None), "fails"),
        ((0.1, 0.2), (None, 0.05), "fails"),
        ((0.1, 0.2), (0.15, 0.3), "undecided"),
        (None, (0, None), "undecided"),
        ((None, None), (0, None), "undecided"),
    ],
)
def test_status(interval, region, word):
    assert status(interval, region) == word


def test_status_refuses_what_is_upside_down():
    with pytest.raises(ValueError, match="region"):
        status((0, 1), (2, 1))
    with pytest.raises(ValueError, match="interval"):
        status((1, 0), (0, 1))


@pytest.mark.parametrize(
    "parts, word",
    [
        (["holds", "holds"], "holds"),
        (["fails", "fails"], "fails"),
        (["holds", "fails"], "in part"),
        (["holds", "undecided"], "in part"),
        (["fails", "undecided"], "undecided"),
    ],
)
def test_together(parts, word):
    assert together(parts) == word


def test_interval_over_seeds():
    number = interval_of(
        [1.0, 2.0, 3.0], "nats"
    )  # t(0.975; 2) = 4.3027, s = 1: half width 4.3027 / sqrt(3) = 2.4841
    assert number.mean == 2.0 and number.low == pytest.approx(2 - 2.4841, abs=1e-4)
    assert number.high == pytest.approx(2 + 2.4841, abs=1e-4) and number.n == 3


def test_one_seed_has_no_interval_and_an_exact_number_is_its_own():
    assert interval_of([0.5]).interval == (None, None)
    assert interval_of(0.5).interval == (0.5, 0.5)
    assert interval_of(0.5, interval=(0.4, 0.7)).interval == (0.4, 0.7)


@pytest.mark.parametrize(
    "x, text",
    [
        (0.12345, "0.123"),
        (12.0, "12"),
        (1234.6, "1235"),
        (0.0, "0"),
        (None, "–"),
        (1.5e-9, "1.5e-09"),
    ],
)
def test_fmt(x, text):
    assert fmt(x) == text


def test_number_reads_well():
    assert (
        str(Number(0.5, 0.25, 0.75, 3, [0.25, 0.5, 0.75], "nats"))
        == "0.5 [0.25, 0.75] nats"
    )
    assert repr(Number(0.5, 0.5, 0.5, 1, [0.5], "nats")) == "0.5 nats"
    assert float(Number(0.5, None, None, 1, [0.5])) == 0.5
