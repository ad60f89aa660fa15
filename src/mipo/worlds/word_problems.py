"""Word problems and multiple choice of the small world.

Their texts, the replies they ask for, and how a reply is graded. A reply shows its work
and marks its answer: "So 7 + 5 = 12 (done)", or "So 7 + 5 = 12 (B: 12)" where options
were given. So the first fault of a wrong reply can be read off its text. The
probabilities are worked out in `mipo.worlds.word_problem_law`.
"""

from __future__ import annotations

import itertools
import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mipo import models

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PLUS, MINUS, TIMES = "+", "-", "x"
LETTERS = ("A", "B", "C", "D")
DONE = "done"  # the mark of an answer that is no letter
SHRUG = "I am not sure"
# exhaustive and mutually exclusive; lucky: the answer is right though the work is not
TYPES = (
    "right",
    "lucky",
    "elsewhere",
    "operation",
    "slip",
    "letter",
    "format",
    "empty",
)
SORTS = {"open": "open problems", "choice": "multiple choice"}
NAMES = {
    "base": (
        "Ada",
        "Ben",
        "Cleo",
        "Dan",
        "Eva",
        "Finn",
        "Gina",
        "Hugo",
        "Ida",
        "Jon",
        "Kim",
        "Leo",
    ),
    "mipo": ("Ada", "Ben", "Cleo", "Dan", "Eva", "Finn"),
    "select": ("Gina", "Hugo", "Ida"),
    "test": ("Jon", "Kim", "Leo"),
}
THINGS = ("apples", "books", "coins", "shells", "stamps", "plums")
HIGHEST = 85  # numbers that have a token: 0 to this


@dataclass(frozen=True)
class Kind:
    """A plan of one or two operations.

    Parameters
    ----------
    operations : tuple of str
        One after another.
    ranges : tuple of (low, high)
        Of each operand, both included.
    misread : str
        The last operation, misread.
    favourite : tuple of int
        The operands that come to mind when the problem was not read.
    """

    operations: tuple[str, ...]
    ranges: tuple[tuple[int, int], ...]
    misread: str
    favourite: tuple[int, ...]

    def plan(self, misread: bool = False) -> tuple[str, ...]:
        """Return the operations, the last one misread if so."""
        return (*self.operations[:-1], self.misread) if misread else self.operations

    def operands(self) -> np.ndarray:
        """Return every tuple of operands, (N, operands); problems draw them evenly."""
        values = (range(low, high + 1) for low, high in self.ranges)
        return np.array(list(itertools.product(*values)))


KINDS = {
    "sum": Kind((PLUS,), ((2, 9), (2, 9)), TIMES, (5, 5)),
    "difference": Kind((MINUS,), ((11, 18), (2, 9)), PLUS, (15, 5)),
    "product": Kind((TIMES,), ((2, 9), (2, 9)), PLUS, (2, 5)),
    "two steps": Kind((PLUS, MINUS), ((4, 9), (4, 9), (2, 4)), PLUS, (5, 5, 2)),
}
# by kind and manner (how it is told): one sentence per operand, then the question
TEXTS = {
    ("sum", "plain"): (
        "{name} has {a} {thing}.",
        "{name} buys {b} more.",
        "How many {thing} in all?",
    ),
    ("sum", "tricky"): (
        "There are {a} {thing} in a bag.",
        "There are {b} {thing} in a box.",
        "How many {thing} has {name}?",
    ),
    ("sum", "long"): (
        "On the way to the market {name} counted {a} {thing}.",
        "Later, after a long talk, {name} counted {b} more.",
        "What did {name} write down that night?",
    ),
    ("difference", "plain"): (
        "{name} has {a} {thing}.",
        "{name} gives away {b}.",
        "How many {thing} are left?",
    ),
    ("difference", "tricky"): (
        "{name} has {a} {thing}.",
        "That is {b} more than Bo has.",
        "How many {thing} has Bo?",
    ),
    ("difference", "long"): (
        "When the ship came in, {name} found {a} {thing}.",
        "By dawn, so the story goes, the sea had {b} of them.",
        "What did {name} tell the captain?",
    ),
    ("product", "plain"): (
        "{name} has {a} boxes.",
        "Each box holds {b} {thing}.",
        "How many {thing} in all?",
    ),
    ("product", "tricky"): (
        "{name} packs {a} bags.",
        "{name} adds {b} {thing} to each.",
        "How many {thing} are packed?",
    ),
    ("product", "long"): (
        "At the fair {name} ran {a} stalls, rain or shine.",
        "Every stall, as the rule says, showed {b} {thing}.",
        "What did {name} tell the mayor?",
    ),
    ("two steps", "plain"): (
        "{name} has {a} {thing}.",
        "{name} buys {b} more.",
        "Then {name} loses {c}.",
        "How many {thing} are left?",
    ),
    ("two steps", "tricky"): (
        "{name} has {a} {thing}.",
        "{name} buys {b} more.",
        "Now {name} has {c} more than Bo.",
        "How many {thing} has Bo?",
    ),
    ("two steps", "long"): (
        "Before the feast {name} laid out {a} {thing}.",
        "A cousin, late as ever, brought {b} more.",
        "The dog, unseen, took {c} of them.",
        "What did {name} tell the guests?",
    ),
}
MANNERS = {"plain": 0.70, "tricky": 0.15, "long": 0.15}  # shares of the problems
LEVELS = {kind: {"kind": kind} for kind in KINDS} | {
    f"told {manner}": {"manner": manner} for manner in MANNERS
}
STEP = r"(\d+) ([+x-]) (\d+) = (\d+)"
REPLY = re.compile(rf"So {STEP}(?:, {STEP})?(?: \((?:(done)|([A-D]): (\d+))\))?")


@dataclass(frozen=True)
class Problem:
    """One test item.

    Parameters
    ----------
    kind, manner : str
        What is to be worked out, a key of `KINDS`, and how it is told, of `MANNERS`.
    operands : tuple of int
        Its numbers.
    name, thing : str
        Who has what.
    options : tuple of int
        Four values, lettered A to D; () where the number itself is asked for.
    """

    kind: str
    manner: str
    operands: tuple[int, ...]
    name: str
    thing: str
    options: tuple[int, ...] = ()

    def text(self, without: int | None = None) -> str:
        """Return what is asked.

        Parameters
        ----------
        without : int, optional
            Leave out the sentence of this operand (0, 1, …).
        """
        words = {"name": self.name, "thing": self.thing}
        numbers = dict(zip("abc", self.operands, strict=False))
        templates = TEXTS[self.kind, self.manner]
        sentences = [
            template.format(**words, **numbers)
            for i, template in enumerate(templates)
            if i != without
        ]
        if self.options:
            lettered = zip(LETTERS, self.options, strict=True)
            sentences.append("Options:" + "".join(option(x, v) for x, v in lettered))
        return " ".join(sentences)

    def results(self, misread: bool = False) -> tuple[int, ...]:
        """Return the result of each step, without slips."""
        return chain(KINDS[self.kind].plan(misread), self.operands)

    @property
    def gold(self) -> str:
        """The right answer, as `answer_of` reads it: a number as text, or a letter."""
        value = self.results()[-1]
        return LETTERS[self.options.index(value)] if self.options else str(value)

    @property
    def sort(self) -> str:
        """One of `SORTS`."""
        return "choice" if self.options else "open"

    def fits(
        self,
        *,
        sort: str | None = None,
        kind: str | None = None,
        manner: str | None = None,
    ) -> bool:
        """Return whether it is of this sort, kind and manner; None is any."""
        if sort not in (None, self.sort):
            return False
        return kind in (None, self.kind) and manner in (None, self.manner)


def option(letter: str, value: int) -> str:
    """Return a value with its letter, as listed and as chosen; one token."""
    return f" ({letter}: {value})"


def apply(operation: str, a: int, b: int) -> int:
    """Return the result of one operation."""
    return {PLUS: a + b, MINUS: a - b, TIMES: a * b}[operation]


def chain(plan: Sequence[str], operands: Sequence[int]) -> tuple[int, ...]:
    """Return the results of a plan, step after step.

    Examples
    --------
    >>> chain(("+", "-"), (7, 5, 3))
    (12, 9)
    """
    left, results = operands[0], []
    for operation, b in zip(plan, operands[1:], strict=True):
        left = apply(operation, left, b)
        results.append(int(left))
    return tuple(results)


def write(
    plan: Sequence[str],
    operands: Sequence[int],
    results: Sequence[int],
    mark: str | None = None,
) -> str:
    """Return a reply: the work and the mark of the answer.

    Parameters
    ----------
    plan, operands, results
        One result per operation.
    mark : str, optional
        `DONE`, or a letter, which gets the last result; None: no mark.
    """
    steps, left = [], operands[0]
    for operation, b, result in zip(plan, operands[1:], results, strict=True):
        steps.append(f"{left} {operation} {b} = {result}")
        left = result
    work = "So " + ", ".join(steps)
    if mark in LETTERS:
        return work + option(mark, left)
    return f"{work} ({mark})" if mark else work


# ---- problems ----


def problem(
    rng: np.random.Generator,
    names: Sequence[str] = NAMES["base"],
    *,
    kind: str | None = None,
    choice: bool | None = None,
) -> Problem:
    """Draw one problem.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of chance; manners are drawn as `MANNERS` says.
    names : sequence of str
        Who may have things.
    kind : str, optional
        One of `KINDS`; None: all equally frequent.
    choice : bool, optional
        Whether it is multiple choice; None: half of them are.
    """
    kind = kind or list(KINDS)[rng.integers(len(KINDS))]
    shares = np.cumsum(list(MANNERS.values()))
    manner = list(MANNERS)[int(np.searchsorted(shares, rng.random() * 0.999999))]
    operands = draw_operands(KINDS[kind], rng)
    name = names[int(rng.integers(len(names)))]
    thing = THINGS[rng.integers(len(THINGS))]
    lettered = rng.random() < 0.5 if choice is None else choice
    item = Problem(kind, manner, operands, name, thing)
    if not lettered:
        return item
    return Problem(kind, manner, operands, name, thing, _options(item, rng))


def draw_operands(kind: Kind, rng: np.random.Generator) -> tuple[int, ...]:
    """Draw the operands of a kind, each evenly."""
    return tuple(int(rng.integers(low, high + 1)) for low, high in kind.ranges)


def _options(item: Problem, rng: np.random.Generator) -> tuple[int, ...]:
    """Four values in random order.

    The right one, two near misses, and the result of the misread operation or a third
    near miss.
    """
    right, misread = item.results()[-1], item.results(misread=True)[-1]
    near = right + (1 if rng.random() < 0.5 else -1)
    less_near = right + (2 if rng.random() < 0.5 else -2)
    third = misread if misread not in (right, near, less_near) else right + 3
    return tuple(int(v) for v in rng.permutation([right, near, less_near, third]))


def problems(n: int, *, split: str = "test", seed: int = 0) -> list[Problem]:
    """Draw problems whose names belong to a split.

    Parameters
    ----------
    n : int
        How many.
    split : {"mipo", "select", "test", "base"}
        "mipo": pairs are made of these.
    seed : int
        Of the draw.

    Raises
    ------
    ValueError
        For another split.
    """
    if split not in NAMES:
        raise ValueError(f"split={split!r}: choose one of {', '.join(NAMES)}")
    rng = np.random.default_rng((seed, 8, list(NAMES).index(split)))
    return [problem(rng, NAMES[split]) for _ in range(n)]


def example_of(item: Problem) -> dict[str, Any]:
    """Return the problem as an example of `mipo.data`."""
    return {"query": item.text(), "context": "", "gold": item.gold}


# ---- grading ----


class _Read(NamedTuple):
    """What stands in a reply; `joined`: its parts fit together."""

    operands: tuple[int, ...]
    plan: tuple[str, ...]
    results: tuple[int, ...]
    joined: bool
    letter: str | None
    done: str | None


def _read(reply: str) -> _Read | None:
    match = REPLY.fullmatch(reply)
    if match is None:
        return None
    a, first, b, r, left, second, c, s, done, letter, value = match.groups()
    joined = value in (None, s or r) and left in (None, r)
    if second is None:
        operands, plan, results = (int(a), int(b)), (first,), (int(r),)
    else:
        operands, plan = (int(a), int(b), int(c)), (first, second)
        results = (int(r), int(s))
    return _Read(operands, plan, results, joined, letter, done)


def answer_of(reply: str) -> str | None:
    """Return the answer that a reply marks.

    Returns
    -------
    str or None
        A letter; the last result as text where it is marked as `DONE`; else None.
    """
    read = _read(reply)
    if read is None:
        return None
    if read.letter:
        return read.letter
    return str(read.results[-1]) if read.done else None


def grade(reply: str, item: Problem) -> str:
    """Return one of `TYPES`: "right", "lucky", or the first fault of the reply.

    Parameters
    ----------
    reply : str
        Any text.
    item : Problem
        What was asked.

    Notes
    -----
    "empty": it shrugs. "format": no work, no mark, or not the one that was asked for.
    "elsewhere": the operands are not this problem's. "operation": they are, but another
    plan was carried out. "slip": the plan is right, a result is not. "letter": all work
    is right, the letter is not. "lucky": the answer is right in spite of a fault.
    """
    if reply == SHRUG:
        return "empty"
    read = _read(reply)
    if read is None or not read.joined:
        return "format"
    lettered, done = bool(read.letter), bool(read.done)
    if lettered != bool(item.options) or done == lettered:
        return "format"
    fault = _fault(read, item)
    if answer_of(reply) == item.gold:
        return "lucky" if fault else "right"
    return fault or "letter"


def _fault(read: _Read, item: Problem) -> str:
    """The first fault of the work, "" if there is none."""
    if read.operands != item.operands[: len(read.operands)]:
        return "elsewhere"
    if read.plan != KINDS[item.kind].operations:  # too short a plan is a wrong one
        return "operation"
    left = read.operands[0]
    steps = zip(read.plan, read.operands[1:], read.results, strict=True)
    for operation, b, result in steps:
        if result != apply(operation, left, b):
            return "slip"
        left = result
    return ""


# ---- tokens ----


def build_tokenizer() -> PreTrainedTokenizerBase:
    """Return the tokenizer of this world.

    A number, a name, an option with its letter, or a piece of a sentence between two of
    them is one token.
    """
    pieces = set()
    for sentences in TEXTS.values():
        for sentence in sentences:
            parts = list(string.Formatter().parse(sentence))
            pieces |= {text.rstrip() for text, *_ in parts if text.strip()}
    names = [*NAMES["base"], *THINGS]
    numbers = range(HIGHEST + 1)
    known = [
        *pieces,
        *(" " + piece for piece in pieces if piece[0].isupper()),
        *names,
        *(" " + name for name in names),
        *(f" {i}" for i in numbers),
        *(option(letter, i) for letter in LETTERS for i in numbers),
        " Options:",
        *(f" {operation}" for operation in (PLUS, MINUS, TIMES)),
        "So",
        " =",
        ",",
        f" ({DONE})",
        SHRUG,
    ]
    return models.build_tokenizer(known, phrases=known)
