"""Which settings a method is tried at: expected lists are written out by hand."""

import pytest

from mipo_study import ch14_labelled, ch14_real_model, ch14_search, methods

STRENGTHS = {**ch14_labelled.STRENGTHS, **ch14_real_model.STRENGTHS}
GRID = [(r, n) for r in (1.0, 2.0, 4.0) for n in (0, 1)]


def test_every_method_starts_with_as_many_settings_as_any_other():
    arms = [ch14_real_model.rates_of(arm) for arm in ch14_real_model.ARMS]
    for rates in (*arms, ch14_labelled.RATES):
        assert len(ch14_search.start(rates)) == 6
    assert ch14_search.start([1.0, 2.0]) == [(1.0, 0), (1.0, 1), (2.0, 0), (2.0, 1)]


@pytest.mark.parametrize("method", STRENGTHS)
def test_four_strengths_stand_on_a_line(method):
    """One below the first two, one above; then the first two with two passes."""
    assert methods.method(method).loss
    strengths = STRENGTHS[method]
    values = [next(iter(strength.values())) for strength in strengths]
    assert values[2] < values[0] < values[1] < values[3]
    twice = [{**strength, "epochs": 2.0} for strength in strengths[:2]]
    assert strengths[4:] in ([], twice)


@pytest.mark.parametrize(
    ("tried", "best", "more"),
    [
        (GRID, (4.0, 0), [(8.0, 0), (8.0, 1)]),
        (GRID, (1.0, 1), [(0.5, 0), (0.5, 1)]),
        (GRID, (2.0, 0), [(2.0, 2), (2.0, 4)]),
        (GRID, (2.0, 1), [(2.0, 3), (2.0, 5)]),
        ([*GRID, (2.0, 2)], (2.0, 2), [(4.0, 2), (1.0, 2)]),
        ([*GRID, (2.0, 2), (4.0, 2), (1.0, 2)], (1.0, 2), [(0.5, 2)]),
        ([*GRID, (2.0, 2), (4.0, 2), (1.0, 2)], (2.0, 2), []),
        ([(2.0**k, 0) for k in range(5)], (16.0, 0), [(16.0, 2), (16.0, 4)]),  # enough
        ([(2.0**k, 2) for k in range(5)], (16.0, 2), []),
    ],
)
def test_what_lies_beyond_the_best_setting(tried, best, more):
    assert ch14_search.beyond(tried, best, strengths=6) == more
    four = [(rate, number) for rate, number in more if number < 4]
    assert ch14_search.beyond(tried, best, strengths=4) == four


def test_settings_grow_until_nothing_lies_beyond_the_best():
    tried = {"dpo": list(GRID), "sft": [*GRID, (2.0, 2)]}
    best = {"dpo": (4.0, 0), "sft": (2.0, 0)}
    how = {"best": best, "strengths": {"dpo": "0123", "sft": "0123"}}
    assert ch14_search.grown(tried, **how)
    assert tried == {"dpo": [*GRID, (8.0, 0), (8.0, 1)], "sft": [*GRID, (2.0, 2)]}
    assert ch14_search.grown(tried, **how)
    assert tried["dpo"][-1] == (4.0, 2)
    assert not ch14_search.grown(tried, **how)


@pytest.mark.parametrize(
    ("tried", "best", "edge"),
    [
        (GRID, (2.0, 0), True),
        ([*GRID, (2.0, 2)], (2.0, 0), False),
        ([*GRID, (2.0, 2)], (2.0, 1), True),
        ([*GRID, (4.0, 2)], (4.0, 0), True),
        ([*GRID, (2.0, 2), (1.0, 2), (4.0, 2)], (2.0, 2), True),
    ],
)
def test_a_best_setting_at_an_edge_is_said(tried, best, edge):
    assert ch14_search.at_edge(tried, best) is edge
