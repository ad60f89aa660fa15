"""The known law of replies to word problems: which errors are made how often, what MIPO must make of them (numpy, nats).

A reply is drawn in this order, and its probability is the product:

    form (full, cut short, a shrug) · operands and plan given the problem · each result given the sum as written
    · the letter given the last result and the options

Only the second and the last factor read the problem. So a slip has the PMI of the right result, and no tilt by PMI can tell
them apart. All replies to a problem are enumerated (`Replies`), so every share below is exact.
"""

import functools
import zlib
from dataclasses import dataclass, field

import numpy as np

from mipo.worlds import word_problems
from mipo.worlds.word_problems import KINDS, LETTERS, MANNERS, MINUS, PLUS, TIMES, TYPES

OFFSETS = (0, -1, 1, -2, 2)  # of a result: right first
HARD = {
    PLUS: 0.10,
    MINUS: 0.20,
    TIMES: 0.35,
}  # share of the sums that are misremembered
EASY_LAW = (0.92, 0.03, 0.03, 0.01, 0.01)
HARD_LAW = (0.35, 0.55, 0.10 / 3)  # right, the misremembered result, each of the others


@dataclass(frozen=True)
class Habits:
    """How often the base model errs. `elsewhere` and `misread` by manner: shares of problems, independent of each other."""

    elsewhere: dict = field(
        default_factory=lambda: {"plain": 0.03, "tricky": 0.03, "long": 0.65}
    )
    favourite: float = (
        0.70  # of the operands from elsewhere are the favourite ones, the rest any
    )
    misread: dict = field(
        default_factory=lambda: {"plain": 0.04, "tricky": 0.55, "long": 0.04}
    )
    cut: float = 0.04  # of the replies stop after the work
    empty: float = 0.04  # are a shrug
    letter: float = 0.20  # of the letters are drawn blindly

    def forms(self):
        return {"full": 1 - self.cut - self.empty, "cut": self.cut, "empty": self.empty}


BASE = Habits()


def result_law(operation, a, b):
    """p(result) of one written sum, at OFFSETS from the right one: (5,). The same sums are misremembered for ever."""
    key = zlib.crc32(f"{a}{operation}{b}".encode())
    if key % 1000 >= 1000 * HARD[operation]:
        return np.array(EASY_LAW)
    law = np.full(5, HARD_LAW[2])
    law[0], law[1 + key // 1000 % 4] = HARD_LAW[:2]
    return law


def sample(asked, rng, habits=BASE, without=None):
    """One reply drawn from p(y | x); `without` is the number of the operand that the problem does not state."""
    u = rng.random()
    if u < habits.empty:
        return word_problems.SHRUG
    kind = KINDS[asked.kind]
    if rng.random() < habits.elsewhere[asked.manner]:
        favoured = rng.random() < habits.favourite
        operands = kind.favourite if favoured else _draw_operands(kind, rng)
    else:
        operands = list(asked.operands)
        if without is not None:
            operands[without] = _draw_operands(kind, rng)[without]
    plan, results, left = (
        kind.plan(rng.random() < habits.misread[asked.manner]),
        [],
        operands[0],
    )
    for operation, b in zip(plan, operands[1:], strict=True):
        offset = OFFSETS[rng.choice(5, p=result_law(operation, left, b))]
        left = word_problems.apply(operation, left, b) + offset
        results.append(left)
    mark = (
        LETTERS[_letter(asked, left, habits, rng)]
        if asked.options
        else word_problems.DONE
    )
    return word_problems.write(
        plan, operands, results, None if u < habits.empty + habits.cut else mark
    )


def _draw_operands(kind, rng):
    return tuple(int(rng.integers(low, high + 1)) for low, high in kind.ranges)


def _letter(asked, value, habits, rng):
    blind = value not in asked.options or rng.random() < habits.letter
    return int(rng.integers(4)) if blind else asked.options.index(value)


# ---- exact enumeration --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Work:
    """Every way to work on a kind of problem, R rows: operands (R, d), misread (R,), results (R, steps), offsets likewise.

    log_results  (R,) log p(results | operands, plan)
    """

    operands: np.ndarray
    misread: np.ndarray
    results: np.ndarray
    offsets: np.ndarray
    log_results: np.ndarray


@functools.cache
def work(kind):
    """All rows of Work for a kind of problem."""
    rows = {
        name: []
        for name in ("operands", "misread", "results", "offsets", "log_results")
    }
    for misread in (False, True):
        for operands in KINDS[kind].operands():
            for results, offsets, p in _chains(
                KINDS[kind].plan(misread), operands[0], operands[1:]
            ):
                for name, value in zip(
                    rows, (operands, misread, results, offsets, p), strict=True
                ):
                    rows[name].append(value)
    rows["log_results"] = np.log(rows["log_results"])
    return Work(**{name: np.array(values) for name, values in rows.items()})


def _chains(plan, left, others):
    """(results, offsets, probability) of every way through the plan."""
    if not plan:
        return [((), (), 1.0)]
    found, right = [], word_problems.apply(plan[0], left, others[0])
    for offset, p in zip(OFFSETS, result_law(plan[0], left, others[0]), strict=True):
        for results, offsets, rest in _chains(plan[1:], right + offset, others[1:]):
            found.append(((right + offset, *results), (offset, *offsets), p * rest))
    return found


def set_up(kind, manner, own, habits=BASE, without=None):
    """p(operands, plan | problem) of each row of `work(kind)`: (R,). own None: averaged over all problems of the kind."""
    rows, ranges = work(kind), KINDS[kind].ranges
    count = np.prod([high - low + 1 for low, high in ranges])
    if own is None:
        given = np.full(len(rows.misread), 1 / count)
    else:
        fixed = [i for i in range(len(ranges)) if i != without]
        free = 1 if without is None else ranges[without][1] - ranges[without][0] + 1
        given = (rows.operands[:, fixed] == np.array(own)[fixed]).all(1) / free
    away = (
        habits.favourite * (rows.operands == KINDS[kind].favourite).all(1)
        + (1 - habits.favourite) / count
    )
    p, m = habits.elsewhere[manner], habits.misread[manner]
    return ((1 - p) * given + p * away) * np.where(rows.misread, m, 1 - m)


@functools.cache
def _marginal(kind):
    """p(operands, plan) over all problems of all kinds, for the rows of `work(kind)`, base habits: (R,)."""
    total = np.zeros(len(work(kind).misread))
    for other in KINDS:
        if KINDS[other].ranges != KINDS[kind].ranges:
            continue
        mixed = sum(
            share * set_up(other, manner, None) for manner, share in MANNERS.items()
        )
        found = dict(zip(_set_ups(other), mixed, strict=True))
        total += [found.get(key, 0.0) / len(KINDS) for key in _set_ups(kind)]
    return total


def _set_ups(kind):
    """(operands, plan) of each row of `work(kind)`, by which rows of two kinds are the same reply."""
    rows = work(kind)
    return [
        (tuple(o), KINDS[kind].plan(m))
        for o, m in zip(rows.operands.tolist(), rows.misread, strict=True)
    ]


@dataclass(frozen=True)
class Replies:
    """All replies that the base law gives to one problem, `asked`, one row each.

    log_p   log p(y | x), nats        kind      index into TYPES
    log_q   log of the law of rejected replies: {"random_prompt": p(y) over all problems, "partial": one operand hidden}
    answer  what is answered: the number, the letter's index, or -1        correct   answered right
    """

    asked: word_problems.Problem
    log_p: np.ndarray
    log_q: dict
    kind: np.ndarray
    answer: np.ndarray
    correct: np.ndarray

    def optimum(self, beta, negatives="random_prompt"):
        """log π*: p·(p/q)^(1/β), normalised."""
        if not beta > 0:
            raise ValueError(f"beta must be positive, got {beta}")
        return _normalise(self.log_p + (self.log_p - self.log_q[negatives]) / beta)

    def sharpened(self, temperature):
        """log of p^(1/T), normalised: a lower temperature, reply by reply."""
        return _normalise(self.log_p / temperature)

    def rewarded(self, beta):
        """log of p·exp(correct/β), normalised: the optimum of a verifier's reward with KL weight β."""
        return _normalise(self.log_p + self.correct / beta)

    def shares(self, log_policy=None):
        """Probability of each of TYPES under a policy on these rows (the base law, if None): (8,)."""
        p = np.exp(self.log_p if log_policy is None else log_policy)
        return np.bincount(self.kind, p, minlength=len(TYPES))

    def mode(self, log_policy=None):
        """Whether the single most probable reply answers right."""
        return bool(
            self.correct[np.argmax(self.log_p if log_policy is None else log_policy)]
        )

    def vote(self, log_policy=None):
        """Whether the most probable answer is right: what a majority vote tends to."""
        stated = self.answer >= 0
        mass = np.bincount(
            self.answer[stated],
            np.exp((self.log_p if log_policy is None else log_policy)[stated]),
        )
        return bool(self.correct[self.answer == mass.argmax()].any())


def _normalise(log_weights):
    top = log_weights.max()
    return log_weights - top - np.log(np.exp(log_weights - top).sum())


def replies(asked):
    """All replies to a problem under the base habits, with their exact probabilities and types."""
    rows = work(asked.kind)
    log = {
        "p": np.log(set_up(asked.kind, asked.manner, asked.operands))
        + rows.log_results,
        "random_prompt": np.log(_marginal(asked.kind)) + rows.log_results,
        "partial": np.log(
            np.mean(
                [
                    set_up(asked.kind, asked.manner, asked.operands, without=j)
                    for j in range(len(asked.operands))
                ],
                0,
            )
        )
        + rows.log_results,
    }
    kind, fault = _faults(asked, rows)
    forms, last, n = BASE.forms(), rows.results[:, -1], len(rows.misread)
    if asked.options:
        chosen, log_letter = (
            np.tile(np.arange(4), (n, 1)),
            _log_letters(asked, last),
        )  # (R, 4) both
    else:
        chosen, log_letter = last[:, None], np.zeros((n, 1))
    right = chosen == (LETTERS.index(asked.gold) if asked.options else int(asked.gold))
    typed = np.where(
        right,
        np.where(fault[:, None], TYPES.index("lucky"), TYPES.index("right")),
        np.where(fault[:, None], kind[:, None], TYPES.index("letter")),
    )
    # another problem is as often multiple choice as not, and its options are in any order: p(letter) is 1/4
    answered = {
        "p": log_letter,
        "partial": log_letter,
        "random_prompt": np.full_like(log_letter, np.log(0.5 / chosen.shape[1])),
    }

    def table(name):
        full = np.log(forms["full"]) + log[name][:, None] + answered[name]
        return np.concatenate(
            [full.ravel(), np.log(forms["cut"]) + log[name], [np.log(forms["empty"])]]
        )

    return Replies(
        asked,
        table("p"),
        {name: table(name) for name in ("random_prompt", "partial")},
        np.concatenate(
            [typed.ravel(), np.full(n, TYPES.index("format")), [TYPES.index("empty")]]
        ),
        np.concatenate([chosen.ravel(), np.full(n + 1, -1)]),
        np.concatenate([right.ravel(), np.zeros(n + 1, bool)]),
    )


def _faults(asked, rows):
    """(type of the first fault in the work, whether there is one), both (R,)."""
    away = (rows.operands != np.array(asked.operands)).any(1)
    slipped = (rows.offsets != 0).any(1)
    kind = np.select(
        [away, rows.misread, slipped],
        [TYPES.index(t) for t in ("elsewhere", "operation", "slip")],
        0,
    )
    return kind, away | rows.misread | slipped


def _log_letters(asked, last):
    """log p(letter | last result, options), (R, 4): blind where the result is not among the options."""
    hit = last[:, None] == np.array(asked.options)
    return np.log(
        np.where(
            hit.any(1, keepdims=True), (1 - BASE.letter) * hit + BASE.letter / 4, 0.25
        )
    )


def sums_right(asked):
    """p(every result right | the right sum is written): what no tilt by PMI can change where the number is asked for."""
    p, left = 1.0, asked.operands[0]
    for operation, b in zip(
        KINDS[asked.kind].operations, asked.operands[1:], strict=True
    ):
        p, left = (
            p * result_law(operation, left, b)[0],
            word_problems.apply(operation, left, b),
        )
    return float(p)


def listed(n, *, split="test", seed=0):
    """`replies` to each of n problems of a split."""
    return [replies(p) for p in word_problems.problems(n, split=split, seed=seed)]


def mean_shares(laws, policy=None, **which):
    """Mean share of each type over the listed problems that fit `which`, (8,); policy: e.g. lambda law: law.optimum(1.0)."""
    kept = [
        law.shares(policy(law) if policy else None)
        for law in laws
        if law.asked.fits(**which)
    ]
    if not kept:
        raise ValueError(
            f"none of {len(laws)} listed problems fits {which}: list more of them"
        )
    return np.mean(kept, 0)


def odds(shares, name):
    """Log-odds of a right reply against one of type `name`, nats."""
    return float(np.log(shares[TYPES.index("right")] / shares[TYPES.index(name)]))


def fallen(before, after):
    """Of what became rarer between two tables of shares (8,), the part of each type of error: (8,), sums to 1 or is 0."""
    fall = np.clip(np.subtract(before, after), 0, None)
    fall[: TYPES.index("lucky") + 1] = 0
    return fall / (fall.sum() or 1)


def accuracy(shares):
    """Share of right answers, lucky ones included."""
    return shares[..., TYPES.index("right")] + shares[..., TYPES.index("lucky")]
