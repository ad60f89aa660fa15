"""Word problems and multiple choice of the small world: their texts, the replies they ask for, and how a reply is graded.

A reply shows its work and marks its answer: "So 7 + 5 = 12 (done)", or "So 7 + 5 = 12 (B: 12)" where options were given.
So the first fault of a wrong reply can be read off its text. The probabilities are worked out in `mipo.worlds.word_problem_law`.
"""

import itertools
import re
import string
from dataclasses import dataclass

import numpy as np

from mipo import models

PLUS, MINUS, TIMES = "+", "-", "x"
LETTERS = ("A", "B", "C", "D")
DONE = "done"  # the mark of an answer that is no letter
SHRUG = "I am not sure"
# Exhaustive and mutually exclusive. lucky: the answer is right though the work is not.
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
    """A plan of one or two operations. `ranges`: operands from low to high; `misread`: the last operation, misread."""

    operations: tuple
    ranges: tuple
    misread: str
    favourite: tuple  # the operands that come to mind when the problem was not read

    def plan(self, misread=False):
        return (*self.operations[:-1], self.misread) if misread else self.operations

    def operands(self):
        """Every tuple of operands, (N, operands); problems draw them evenly."""
        return np.array(
            list(
                itertools.product(*(range(low, high + 1) for low, high in self.ranges))
            )
        )


KINDS = {
    "sum": Kind((PLUS,), ((2, 9), (2, 9)), TIMES, (5, 5)),
    "difference": Kind((MINUS,), ((11, 18), (2, 9)), PLUS, (15, 5)),
    "product": Kind((TIMES,), ((2, 9), (2, 9)), PLUS, (2, 5)),
    "two steps": Kind((PLUS, MINUS), ((4, 9), (4, 9), (2, 4)), PLUS, (5, 5, 2)),
}
# manner: how it is told. One sentence per operand, then the question.
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
    """One test item. `options` are four values, lettered A to D, or () where the number itself is asked for."""

    kind: str
    manner: str
    operands: tuple
    name: str
    thing: str
    options: tuple = ()

    def text(self, without=None):
        """What is asked; `without` leaves out the sentence of one operand (0, 1, …)."""
        words = {
            "name": self.name,
            "thing": self.thing,
            **dict(zip("abc", self.operands, strict=False)),
        }
        sentences = [s.format(**words) for s in TEXTS[self.kind, self.manner]]
        kept = [s for i, s in enumerate(sentences) if i != without]
        listed = "".join(
            option(x, v) for x, v in zip(LETTERS, self.options, strict=False)
        )
        return " ".join(kept) + (" Options:" + listed if listed else "")

    def results(self, misread=False):
        """The result of each step, without slips."""
        return chain(KINDS[self.kind].plan(misread), self.operands)

    @property
    def gold(self):
        """The right answer, as `answer_of` reads it: a number as text, or a letter."""
        value = self.results()[-1]
        return LETTERS[self.options.index(value)] if self.options else str(value)

    @property
    def sort(self):
        """One of SORTS."""
        return "choice" if self.options else "open"

    def fits(self, *, sort=None, kind=None, manner=None):
        """Whether it is of this sort, kind and manner; None is any."""
        return (
            sort in (None, self.sort)
            and kind in (None, self.kind)
            and manner in (None, self.manner)
        )


def option(letter, value):
    """A value with its letter, as it is listed and as it is chosen; one token."""
    return f" ({letter}: {value})"


def apply(operation, a, b):
    return {PLUS: a + b, MINUS: a - b, TIMES: a * b}[operation]


def chain(plan, operands):
    """Results of a plan, step after step: (+, -) on (7, 5, 3) gives (12, 9)."""
    results = [operands[0]]
    for operation, b in zip(plan, operands[1:], strict=True):
        results.append(apply(operation, results[-1], b))
    return tuple(int(r) for r in results[1:])


def write(plan, operands, results, mark=None):
    """A reply: the work and, unless None, the mark of the answer, which is DONE or a letter with the last result."""
    steps, left = [], operands[0]
    for operation, b, r in zip(plan, operands[1:], results, strict=True):
        steps.append(f"{left} {operation} {b} = {r}")
        left = r
    return (
        "So "
        + ", ".join(steps)
        + (option(mark, left) if mark in LETTERS else f" ({mark})" if mark else "")
    )


# ---- problems -----------------------------------------------------------------------------------------------------------


def problem(rng, names=NAMES["base"], *, kind=None, choice=None):
    """One problem: kinds are equally frequent, half are multiple choice, manners as MANNERS; rng is a numpy Generator."""
    kind = kind or list(KINDS)[rng.integers(len(KINDS))]
    manner = list(MANNERS)[
        int(np.searchsorted(np.cumsum(list(MANNERS.values())), rng.random() * 0.999999))
    ]
    operands = tuple(
        int(rng.integers(low, high + 1)) for low, high in KINDS[kind].ranges
    )
    asked = Problem(
        kind,
        manner,
        operands,
        names[rng.integers(len(names))],
        THINGS[rng.integers(len(THINGS))],
    )
    lettered = rng.random() < 0.5 if choice is None else choice
    return (
        Problem(kind, manner, operands, asked.name, asked.thing, _options(asked, rng))
        if lettered
        else asked
    )


def _options(asked, rng):
    """The right value, two near misses and the result of the misread operation (or a third near miss), in random order."""
    right, misread = asked.results()[-1], asked.results(misread=True)[-1]
    near = [
        right + (1 if rng.random() < 0.5 else -1),
        right + (2 if rng.random() < 0.5 else -2),
    ]
    third = misread if misread not in (right, *near) else right + 3
    return tuple(int(v) for v in rng.permutation([right, *near, third]))


def problems(n, *, split="test", seed=0):
    """n problems whose names belong to a split: "mipo" (pairs are made of these), "select" or "test"."""
    if split not in NAMES:
        raise ValueError(f"split={split!r}: choose one of {', '.join(NAMES)}")
    rng = np.random.default_rng((seed, 8, list(NAMES).index(split)))
    return [problem(rng, NAMES[split]) for _ in range(n)]


def record_of(asked):
    """The problem as a record of `mipo.data`."""
    return {"query": asked.text(), "context": "", "gold": asked.gold}


# ---- grading ------------------------------------------------------------------------------------------------------------


def _read(reply):
    """(operands, plan, results as written, joined, letter, done) of a reply, or None; joined: the parts fit together."""
    found = REPLY.fullmatch(reply)
    if found is None:
        return None
    a, first, b, r, left, second, c, s, done, letter, value = found.groups()
    joined = value in (None, s or r) and left in (None, r)
    if second is None:
        return (int(a), int(b)), (first,), (int(r),), joined, letter, done
    return (
        (int(a), int(b), int(c)),
        (first, second),
        (int(r), int(s)),
        joined,
        letter,
        done,
    )


def answer_of(reply):
    """The answer that a reply marks, as text: a letter, the last result where it is marked as DONE, else None."""
    read = _read(reply)
    if read is None:
        return None
    return read[4] or (str(read[2][-1]) if read[5] else None)


def grade(reply, asked):
    """One of TYPES: the first fault of the reply, or "right"; "lucky" where the answer is right in spite of a fault.

    empty      it shrugs                               format     no work, no mark, or not the one that was asked for
    elsewhere  the operands are not this problem's     operation  they are, but another plan was carried out
    slip       the plan is right, a result is not      letter     all work is right, the letter is not
    """
    if reply == SHRUG:
        return "empty"
    read = _read(reply)
    if read is None:
        return "format"
    operands, plan, results, joined, letter, done = read
    if not joined or bool(letter) != bool(asked.options) or bool(done) == bool(letter):
        return "format"
    fault = _fault(operands, plan, results, asked)
    if answer_of(reply) == asked.gold:
        return "lucky" if fault else "right"
    return fault or "letter"


def _fault(operands, plan, results, asked):
    if operands != asked.operands[: len(operands)]:
        return "elsewhere"
    if plan != KINDS[asked.kind].operations:  # too short a plan is a wrong one
        return "operation"
    left = operands[0]
    for operation, b, r in zip(plan, operands[1:], results, strict=True):
        if r != apply(operation, left, b):
            return "slip"
        left = r
    return ""


# ---- tokens -------------------------------------------------------------------------------------------------------------


def build_tokenizer():
    """A number, a name, an option with its letter, or a piece of a sentence between two of them is one token."""
    pieces = set()
    for sentences in TEXTS.values():
        for sentence in sentences:
            parts = list(string.Formatter().parse(sentence))
            pieces |= {text.rstrip() for text, *_ in parts if text.strip()}
    names = [*NAMES["base"], *THINGS]
    known = [
        *pieces,
        *(" " + p for p in pieces if p[0].isupper()),
        *names,
        *(" " + n for n in names),
        *(f" {i}" for i in range(HIGHEST + 1)),
        *(option(x, i) for x in LETTERS for i in range(HIGHEST + 1)),
        " Options:",
        *(f" {op}" for op in (PLUS, MINUS, TIMES)),
        "So",
        " =",
        ",",
        f" ({DONE})",
        SHRUG,
    ]
    return models.build_tokenizer(known, phrases=known)
