"""The known law of replies to word problems: which errors are made how often.

A reply is drawn in this order, and its probability is the product:

- form (full, cut short, a shrug)
- operands and plan given the problem
- each result given the sum as written
- the letter given the last result and the options

Only the second and the last factor read the problem. So a slip has the PMI of the right
result, and no tilt by PMI can tell them apart. All replies to a problem are enumerated
(`Replies`), so every share below is exact: numpy, in nats.
"""

import functools
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mipo.worlds import word_problems
from mipo.worlds.word_problems import (
    KINDS,
    LETTERS,
    MANNERS,
    MINUS,
    PLUS,
    TIMES,
    TYPES,
    Problem,
    draw_operands,
)

OFFSETS = (0, -1, 1, -2, 2)  # of a result: right first
HARD = {PLUS: 0.10, MINUS: 0.20, TIMES: 0.35}  # share of sums that are misremembered
EASY_LAW = (0.92, 0.03, 0.03, 0.01, 0.01)
HARD_LAW = (0.35, 0.55, 0.10 / 3)  # right, the misremembered result, each of the others

SetUp = tuple[tuple[int, ...], tuple[str, ...]]  # operands and plan
Steps = tuple[tuple[int, ...], tuple[int, ...], float]  # results, offsets, probability


def _default(**shares: float) -> Any:
    return field(default_factory=lambda: dict(shares))


@dataclass(frozen=True)
class Habits:
    """How often the base model errs.

    Parameters
    ----------
    elsewhere, misread : dict
        By manner: shares of problems whose operands come from elsewhere, and whose last
        operation is misread; independent of each other.
    favourite : float
        Share of the operands from elsewhere that are the favourite ones; the rest any.
    cut, empty : float
        Shares of replies that stop after the work, and that are a shrug.
    letter : float
        Share of the letters that are drawn blindly.
    """

    elsewhere: dict[str, float] = _default(plain=0.03, tricky=0.03, long=0.65)
    favourite: float = 0.70
    misread: dict[str, float] = _default(plain=0.04, tricky=0.55, long=0.04)
    cut: float = 0.04
    empty: float = 0.04
    letter: float = 0.20

    def forms(self) -> dict[str, float]:
        """Return the share of each form of reply."""
        return {"full": 1 - self.cut - self.empty, "cut": self.cut, "empty": self.empty}


BASE = Habits()


def result_law(operation: str, a: int, b: int) -> np.ndarray:
    """Return p(result) of one written sum, at `OFFSETS` from the right one, (5,).

    The same sums are misremembered for ever.
    """
    key = zlib.crc32(f"{a}{operation}{b}".encode())
    if key % 1000 >= 1000 * HARD[operation]:
        return np.array(EASY_LAW)
    law = np.full(5, HARD_LAW[2])
    law[0], law[1 + key // 1000 % 4] = HARD_LAW[:2]
    return law


def sample(
    item: Problem,
    rng: np.random.Generator,
    habits: Habits = BASE,
    without: int | None = None,
) -> str:
    """Draw one reply from p(y | x).

    Parameters
    ----------
    item : Problem
        What is asked, x.
    rng : numpy.random.Generator
        Source of chance.
    habits : Habits
        How often errors are made.
    without : int, optional
        Number of the operand that the problem does not state.
    """
    u = rng.random()
    if u < habits.empty:
        return word_problems.SHRUG
    operands = _written_operands(item, rng, habits, without)
    plan = KINDS[item.kind].plan(rng.random() < habits.misread[item.manner])
    results, left = [], operands[0]
    for operation, b in zip(plan, operands[1:], strict=True):
        offset = OFFSETS[rng.choice(5, p=result_law(operation, left, b))]
        left = word_problems.apply(operation, left, b) + offset
        results.append(left)
    mark = word_problems.DONE
    if item.options:
        mark = LETTERS[_letter(item, left, habits, rng)]
    cut = u < habits.empty + habits.cut
    return word_problems.write(plan, operands, results, None if cut else mark)


def _written_operands(
    item: Problem, rng: np.random.Generator, habits: Habits, without: int | None
) -> Sequence[int]:
    kind = KINDS[item.kind]
    if rng.random() < habits.elsewhere[item.manner]:
        favoured = rng.random() < habits.favourite
        return kind.favourite if favoured else draw_operands(kind, rng)
    operands = list(item.operands)
    if without is not None:
        operands[without] = draw_operands(kind, rng)[without]
    return operands


def _letter(item: Problem, value: int, habits: Habits, rng: np.random.Generator) -> int:
    blind = value not in item.options or rng.random() < habits.letter
    return int(rng.integers(4)) if blind else item.options.index(value)


# ---- exact enumeration ----


@dataclass(frozen=True)
class Work:
    """Every way to work on a kind of problem, one row each.

    Parameters
    ----------
    operands : ndarray, shape (R, d)
    misread : ndarray of bool, shape (R,)
    results, offsets : ndarray, shape (R, steps)
        What is written, and how far from right.
    log_results : ndarray, shape (R,)
        log p(results | operands, plan), nats.
    """

    operands: np.ndarray
    misread: np.ndarray
    results: np.ndarray
    offsets: np.ndarray
    log_results: np.ndarray


@functools.cache
def work(kind: str) -> Work:
    """Return all rows of `Work` for a kind of problem."""
    rows = []
    for misread in (False, True):
        plan = KINDS[kind].plan(misread)
        for operands in KINDS[kind].operands():
            for steps in _chains(plan, operands[0], operands[1:]):
                rows.append((operands, misread, *steps))
    operands, misread, results, offsets, p = zip(*rows, strict=True)
    return Work(
        operands=np.array(operands),
        misread=np.array(misread),
        results=np.array(results),
        offsets=np.array(offsets),
        log_results=np.log(p),
    )


def _chains(plan: Sequence[str], left: int, others: Sequence[int]) -> list[Steps]:
    """Every way through the plan."""
    if not plan:
        return [((), (), 1.0)]
    right = word_problems.apply(plan[0], left, others[0])
    law = result_law(plan[0], left, others[0])
    chains: list[Steps] = []
    for offset, p in zip(OFFSETS, law, strict=True):
        result = right + offset
        for results, offsets, rest in _chains(plan[1:], result, others[1:]):
            chains.append(((result, *results), (offset, *offsets), float(p * rest)))
    return chains


def set_up(
    kind: str,
    manner: str,
    own: Sequence[int] | None,
    habits: Habits = BASE,
    without: int | None = None,
) -> np.ndarray:
    """Return p(operands, plan | problem) of each row of ``work(kind)``, (R,).

    Parameters
    ----------
    kind, manner : str
        Of the problem.
    own : sequence of int, optional
        Its operands; None: averaged over all problems of the kind.
    habits : Habits
        How often errors are made.
    without : int, optional
        Number of the operand that the problem does not state.
    """
    rows, ranges = work(kind), KINDS[kind].ranges
    sizes = [high - low + 1 for low, high in ranges]
    count = np.prod(sizes)
    if own is None:
        given = np.full(len(rows.misread), 1 / count)
    else:
        stated = [i for i in range(len(ranges)) if i != without]
        ways = 1 if without is None else sizes[without]
        same = rows.operands[:, stated] == np.array(own)[stated]
        given = same.all(1) / ways
    favourite = (rows.operands == KINDS[kind].favourite).all(1)
    elsewhere = habits.favourite * favourite + (1 - habits.favourite) / count
    p, m = habits.elsewhere[manner], habits.misread[manner]
    p_plan = np.where(rows.misread, m, 1 - m)
    return ((1 - p) * given + p * elsewhere) * p_plan


@functools.cache
def _marginal(kind: str) -> np.ndarray:
    """p(operands, plan) over all problems, for the rows of `work(kind)`: (R,)."""
    total = np.zeros(len(work(kind).misread))
    for other in KINDS:
        if KINDS[other].ranges != KINDS[kind].ranges:
            continue
        mixed = np.zeros(len(work(other).misread))
        for manner, share in MANNERS.items():
            mixed += share * set_up(other, manner, None)
        p_of = dict(zip(_set_ups(other), mixed, strict=True))
        total += [p_of.get(key, 0.0) / len(KINDS) for key in _set_ups(kind)]
    return total


def _set_ups(kind: str) -> list[SetUp]:
    """Operands and plan of each row of `work(kind)`.

    By these, rows of two kinds are the same reply.
    """
    rows = work(kind)
    pairs = zip(rows.operands.tolist(), rows.misread, strict=True)
    return [(tuple(operands), KINDS[kind].plan(m)) for operands, m in pairs]


@dataclass(frozen=True)
class Replies:
    """All replies that the base law gives to one problem, one row each.

    Parameters
    ----------
    problem : Problem
        What is asked.
    log_p : ndarray, shape (R,)
        log p(y | x), nats.
    log_q : dict of ndarray, shape (R,)
        Log of the law of rejected replies. "random_prompt": p(y) over all problems;
        "partial": one operand hidden.
    kind : ndarray, shape (R,)
        Index into `TYPES`.
    answer : ndarray, shape (R,)
        What is answered: the number, the letter's index, or -1.
    correct : ndarray of bool, shape (R,)
        Answered right.
    """

    problem: Problem
    log_p: np.ndarray
    log_q: dict[str, np.ndarray]
    kind: np.ndarray
    answer: np.ndarray
    correct: np.ndarray

    def optimum(self, beta: float, negatives: str = "random_prompt") -> np.ndarray:
        """Return log π* ∝ log p·(p/q)^(1/β), (R,).

        Parameters
        ----------
        beta : float
            Strength of the pull towards the base law; above 0.
        negatives : {"random_prompt", "partial"}
            Key of `log_q`.

        Raises
        ------
        ValueError
            For beta ≤ 0.
        """
        if not beta > 0:
            raise ValueError(f"beta must be positive, got {beta}")
        return _normalise(self.log_p + (self.log_p - self.log_q[negatives]) / beta)

    def sharpened(self, temperature: float) -> np.ndarray:
        """Return log of p^(1/T), normalised, (R,): a lower temperature."""
        return _normalise(self.log_p / temperature)

    def rewarded(self, beta: float) -> np.ndarray:
        """Return log of p·exp(correct/β), normalised, (R,).

        The optimum of a verifier's reward with KL weight β.
        """
        return _normalise(self.log_p + self.correct / beta)

    def shares(self, log_policy: np.ndarray | None = None) -> np.ndarray:
        """Return the probability of each of `TYPES` under a policy, (8,).

        Parameters
        ----------
        log_policy : ndarray, shape (R,), optional
            On these rows; None: the base law.
        """
        p = np.exp(self._policy(log_policy))
        return np.bincount(self.kind, p, minlength=len(TYPES))

    def mode(self, log_policy: np.ndarray | None = None) -> bool:
        """Return whether the single most probable reply answers right."""
        return bool(self.correct[np.argmax(self._policy(log_policy))])

    def vote(self, log_policy: np.ndarray | None = None) -> bool:
        """Return whether the most probable answer is right.

        It is what a majority vote tends to.
        """
        stated = self.answer >= 0
        p = np.exp(self._policy(log_policy)[stated])
        winner = np.bincount(self.answer[stated], p).argmax()
        return bool(self.correct[self.answer == winner].any())

    def _policy(self, log_policy: np.ndarray | None) -> np.ndarray:
        return self.log_p if log_policy is None else log_policy


def _normalise(log_weights: np.ndarray) -> np.ndarray:
    top = log_weights.max()
    return log_weights - top - np.log(np.exp(log_weights - top).sum())


def replies(item: Problem) -> Replies:
    """Return all replies to a problem under the base habits.

    With their exact probabilities and types.

    Parameters
    ----------
    item : Problem
        What is asked.
    """
    rows = work(item.kind)
    n = len(rows.misread)
    fault_type, faulty = _faults(item, rows)
    answers, log_answers = _answers(item, rows.results[:, -1])  # (R, A) both
    gold = LETTERS.index(item.gold) if item.options else int(item.gold)
    correct = answers == gold
    faulty = faulty[:, None]
    if_right = np.where(faulty, TYPES.index("lucky"), TYPES.index("right"))
    if_wrong = np.where(faulty, fault_type[:, None], TYPES.index("letter"))
    types = np.where(correct, if_right, if_wrong)
    # another problem is as often multiple choice as not, and its options are in any
    # order: p(letter) is 1/4
    blind = np.full_like(log_answers, np.log(0.5 / answers.shape[1]))
    own, partial, others = (
        log_set_up + rows.log_results for log_set_up in _log_set_ups(item)
    )
    log_q = {
        "random_prompt": _in_all_forms(others, blind),
        "partial": _in_all_forms(partial, log_answers),
    }
    cut, empty = np.full(n, TYPES.index("format")), [TYPES.index("empty")]
    return Replies(
        problem=item,
        log_p=_in_all_forms(own, log_answers),
        log_q=log_q,
        kind=np.concatenate([types.ravel(), cut, empty]),
        answer=np.concatenate([answers.ravel(), np.full(n + 1, -1)]),
        correct=np.concatenate([correct.ravel(), np.zeros(n + 1, bool)]),
    )


def _log_set_ups(item: Problem) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """log p(operands, plan): of this problem, with one operand hidden, of any; (R,)."""
    kind, manner, operands = item.kind, item.manner, item.operands
    own = set_up(kind, manner, operands)
    hidden = [set_up(kind, manner, operands, without=j) for j in range(len(operands))]
    return np.log(own), np.log(np.mean(hidden, 0)), np.log(_marginal(kind))


def _answers(item: Problem, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What may be answered after each row, and its log-probability, (R, A) both."""
    if not item.options:
        return last[:, None], np.zeros((len(last), 1))
    letters = np.tile(np.arange(4), (len(last), 1))
    return letters, _log_letters(item, last)


def _in_all_forms(log_work: np.ndarray, log_answers: np.ndarray) -> np.ndarray:
    """Log-probs of all replies: full ones, then those cut short, then the shrug."""
    forms = BASE.forms()
    full = np.log(forms["full"]) + log_work[:, None] + log_answers
    cut = np.log(forms["cut"]) + log_work
    return np.concatenate([full.ravel(), cut, [np.log(forms["empty"])]])


def _faults(item: Problem, rows: Work) -> tuple[np.ndarray, np.ndarray]:
    """Type of the first fault in the work, and whether there is one, both (R,)."""
    elsewhere = (rows.operands != np.array(item.operands)).any(1)
    slipped = (rows.offsets != 0).any(1)
    names = ("elsewhere", "operation", "slip")
    types = np.select(
        [elsewhere, rows.misread, slipped], [TYPES.index(name) for name in names], 0
    )
    return types, elsewhere | rows.misread | slipped


def _log_letters(item: Problem, last: np.ndarray) -> np.ndarray:
    """log p(letter | last result, options), (R, 4).

    Blind where the result is not among the options.
    """
    hit = last[:, None] == np.array(item.options)
    known = hit.any(1, keepdims=True)
    p = np.where(known, (1 - BASE.letter) * hit + BASE.letter / 4, 0.25)
    return np.log(p)


def sums_right(item: Problem) -> float:
    """Return p(every result right | the right sum is written).

    What no tilt by PMI can change where the number is asked for.
    """
    p, left = 1.0, item.operands[0]
    operations = KINDS[item.kind].operations
    for operation, b in zip(operations, item.operands[1:], strict=True):
        p *= result_law(operation, left, b)[0]
        left = word_problems.apply(operation, left, b)
    return float(p)


def listed(n: int, *, split: str = "test", seed: int = 0) -> list[Replies]:
    """Return `replies` to each of n problems of a split."""
    items = word_problems.problems(n, split=split, seed=seed)
    return [replies(item) for item in items]


def mean_shares(
    laws: Sequence[Replies],
    policy: Callable[[Replies], np.ndarray] | None = None,
    **which: str,
) -> np.ndarray:
    """Return the mean share of each type over the listed problems, (8,).

    Parameters
    ----------
    laws : sequence of Replies
        Listed problems.
    policy : callable, optional
        From a law to log-probs of its rows, e.g. ``lambda law: law.optimum(1.0)``.
    **which : str
        Only problems that fit; see `mipo.worlds.word_problems.Problem.fits`.

    Raises
    ------
    ValueError
        Where no problem fits.
    """
    shares = [
        law.shares(policy(law) if policy else None)
        for law in laws
        if law.problem.fits(**which)
    ]
    if not shares:
        raise ValueError(
            f"none of {len(laws)} listed problems fits {which}: list more of them"
        )
    return np.mean(shares, 0)


def odds(shares: np.ndarray, name: str) -> float:
    """Return the log-odds of a right reply against one of type `name`, nats."""
    return float(np.log(shares[TYPES.index("right")] / shares[TYPES.index(name)]))


def fallen(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Return the part that each type of error has in what became rarer, (8,).

    Parameters
    ----------
    before, after : ndarray, shape (8,)
        Shares of each of `TYPES`.

    Returns
    -------
    ndarray, shape (8,)
        Sums to 1, or is 0 where nothing fell.
    """
    fall = np.clip(np.subtract(before, after), 0, None)
    fall[: TYPES.index("lucky") + 1] = 0
    return fall / (fall.sum() or 1)


def accuracy(shares: np.ndarray) -> Any:
    """Return the share of right answers, lucky ones included."""
    return shares[..., TYPES.index("right")] + shares[..., TYPES.index("lucky")]
