"""Chapter 14: which settings a method is tried at.

A setting is a learning rate and the number of a strength in the method's list. The
first two strengths are tried at three rates, and what lies beyond the best as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Setting = tuple[float, int]
FIRST = (0, 1)  # strengths that are tried at every rate
# {number of a strength: of those beyond it}: a weaker or a stronger one, and the same
# with twice the passes over the pairs
FURTHER = {0: (2, 4), 1: (3, 5)}
MOST_RATES = 5  # that are tried at a strength


def start(rates: Sequence[float]) -> list[Setting]:
    """The settings that are tried first: every rate by two strengths."""
    return [(rate, number) for rate in rates for number in FIRST]


def beyond(tried: Sequence[Setting], best: Setting, strengths: int) -> list[Setting]:
    """Settings on the far side of the best one.

    Parameters
    ----------
    tried : sequence of (rate, number)
        So far.
    best : (rate, number)
        Among those.
    strengths : int
        How many the method has.

    Returns
    -------
    list of (rate, number)
        Where the best rate is the highest or the lowest at its strength, twice or half
        of it, up to `MOST_RATES` of them, at both of the first strengths or at the one
        beyond. Else the strengths beyond the best one, at the best rate.
    """
    rate, number = best
    rates = [r for r, n in tried if n == number]
    ends = ((2 * rate, max(rates)), (rate / 2, min(rates)))
    further = [outside for outside, end in ends if rate == end]
    if further and len(rates) < MOST_RATES:
        numbers = FIRST if number in FIRST else (number,)
        return [(r, n) for r in further for n in numbers]
    return [(rate, n) for n in FURTHER.get(number, ()) if n < strengths]


def grown(
    tried: dict[str, list[Setting]],
    best: Mapping[str, Setting],
    strengths: Mapping[str, Sequence],
) -> bool:
    """Add what lies `beyond` each method's best setting; whether anything was added.

    Parameters
    ----------
    tried : dict
        {method: settings}; they grow.
    best : dict
        {method: setting}.
    strengths : dict
        {method: its strengths}.
    """
    found = False
    for method, settings in tried.items():
        further = beyond(settings, best[method], len(strengths[method]))
        more = [setting for setting in further if setting not in settings]
        settings += more
        found |= bool(more)
    return found


def at_edge(tried: Sequence[Setting], best: Setting) -> bool:
    """Whether a rate or a strength beyond the best setting was not tried."""
    rate, number = best
    rates = [r for r, n in tried if n == number]
    inside = min(rates) < rate < max(rates)
    return not inside or not {n for _, n in tried} & set(FURTHER.get(number, ()))
