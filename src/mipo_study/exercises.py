"""Says whether an answer to an exercise is right, without giving the answer away."""

from __future__ import annotations

from typing import Any

import numpy as np


def check(answer: Any, right: Any, *, within: float = 0.0) -> str:
    """A sentence about an answer.

    Parameters
    ----------
    answer : number, text, set or list of numbers
        What the reader wrote; None: nothing yet.
    right : the same
        The right answer.
    within : float
        How far a number may be away, in its own unit.

    Returns
    -------
    str
        "Not answered yet.", "Right." or a hint that does not tell the answer.

    Raises
    ------
    TypeError
        Where the answer is of another kind than the right one, such as a text in place
        of a number.
    """
    if answer is None:
        return "Not answered yet."
    if isinstance(right, str):
        _expect(answer, str, "a text")
        is_right = answer.strip().lower() == right.lower()
    elif isinstance(right, (set, frozenset)):
        _expect(answer, (set, frozenset), "a set of names")
        is_right = answer == right
    elif isinstance(right, (list, tuple)):
        _expect(answer, (list, tuple), f"a list of {len(right)} numbers")
        is_right = len(answer) == len(right) and _all_close(answer, right, within)
    else:
        _expect(answer, (int, float, np.number), "a number")
        is_right = _all_close(answer, right, within)
    return "Right." if is_right else "Not yet. Try again, or open the solution."


def _expect(answer: Any, kinds: type | tuple[type, ...], what: str) -> None:
    if not isinstance(answer, kinds):
        raise TypeError(f"answer: expected {what}, got {answer!r}")


def _all_close(answer: Any, right: Any, within: float) -> bool:
    return bool(np.allclose(answer, right, rtol=0, atol=within + 1e-9))
