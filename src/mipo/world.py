"""The small world: people, tasks and replies whose probabilities are known exactly.

Every law of replies here is a product of small tables, one per group of slots that
share an attribute::

    p(y | x, c) = Π_groups table[values of the group's slots] · Π_slots p(wording)

so log-probabilities, PMI, I(Y; C | X = task), the optimum of MIPO and its adherence are
closed forms (numpy, nats). Slots of one attribute are independent given the person and
dependent without the person, which is why sequences and single tokens tilt differently.
"""

import functools
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from mipo.worlds.grammar import (
    ASIDE_RATE,
    ATTRIBUTES,
    SILENT,
    TASKS,
    WORDINGS,
    Slot,
    Task,
    find_task,
    parse,
    write,
)
from mipo.worlds.population import NOBODY, Person, examples, person

__all__ = ["NOBODY", "TASKS", "Law", "Person", "World", "examples", "person"]

Values = tuple[str, ...]  # one per slot, in the task's order
Table = tuple[tuple[int, ...], np.ndarray]  # slot indices, probabilities


@dataclass(frozen=True)
class Law:
    """A distribution over the slot values of a task.

    Parameters
    ----------
    task : Task
        The task whose replies it is about.
    groups : tuple of (slot indices, table)
        Independent groups of slots; the axes of a table are in the order of its slots.
    """

    task: Task
    groups: tuple[Table, ...]

    def log_prob(self, values: Values) -> float:
        """Return log p of the slot values, nats; wordings not included.

        Parameters
        ----------
        values : tuple of str
            One per slot, in the task's order.
        """
        with np.errstate(divide="ignore"):
            logs = [np.log(self._probability(group, values)) for group in self.groups]
        return float(sum(logs))

    def _probability(self, group: Table, values: Values) -> float:
        slots, table = group
        place = tuple(_index(self.task.slots[i], values[i]) for i in slots)
        return table[place]

    def slot(self, i: int) -> np.ndarray:
        """Return the marginal distribution of slot i, (V,).

        Raises
        ------
        ValueError
            For a slot that the task has not.
        """
        for slots, table in self.groups:
            if i in slots:
                others = [axis for axis, j in enumerate(slots) if j != i]
                return table.sum(axis=tuple(others))
        raise ValueError(f"task {self.task.name} has no slot {i}")

    def kl(self, other: "Law") -> float:
        """Return KL(self ‖ other), nats; both are laws of one task."""
        pairs = zip(self.groups, other.groups, strict=True)
        return float(sum(_kl(p, q) for (_, p), (_, q) in pairs))

    def adherence(self, who: Person) -> float:
        """Return the expected share of relevant slots that state the person's value."""
        hits = []
        for i, slot in enumerate(self.task.slots):
            if slot.relevant:
                own = _index(slot, who[slot.attribute])
                hits.append(self.slot(i)[own])
        return float(np.mean(hits))

    def sample(self, rng: np.random.Generator) -> Values:
        """Draw one tuple of slot values."""
        values = {}
        for slots, table in self.groups:
            place = np.unravel_index(_draw(table.ravel(), rng), table.shape)
            for i, k in zip(slots, place, strict=True):
                values[i] = _values(self.task.slots[i])[k]
        return tuple(values[i] for i in range(len(self.task.slots)))


@dataclass(frozen=True)
class World:
    """Exact probabilities of replies.

    Parameters
    ----------
    without : {"marginal", "default"}
        Law of replies to nobody. "marginal": p(y|x) = Σ_c p(c) p(y|x,c). "default":
        every slot takes its most usual value with probability 0.9, as a helpful
        assistant does that was never told to imagine an average user.

    Raises
    ------
    ValueError
        For another `without`; the methods raise one for an unknown task.

    Examples
    --------
    >>> from mipo.world import World, person
    >>> world, formal = World(), person(tone="formal", detail="short")
    >>> reply = "Dear Mr Lee, I kindly request the report. Kind regards."
    >>> round(world.pmi(reply, "email", formal), 2)
    1.17
    """

    without: str = "marginal"

    def __post_init__(self):
        if self.without not in ("marginal", "default"):
            raise ValueError(
                f"without={self.without!r}: choose 'marginal' or 'default'"
            )

    # ---- laws ----

    @functools.lru_cache(maxsize=20000)  # noqa: B019  a World is small and lives long
    def law(self, task: str | Task, who: Person = NOBODY) -> Law:
        """Return p(y | x, c); attributes left out are averaged over their prior.

        Parameters
        ----------
        task : str or Task
            What is asked, x.
        who : Person
            Whom it is answered to, c.
        """
        task = find_task(task)
        generic = who == NOBODY and self.without == "default"
        table = _generic_table if generic else _group_table
        groups = _groups(task)
        return Law(task, tuple((g, table(task, g, who)) for g in groups))

    def marginal(self, task: str | Task) -> Law:
        """Return p(y | x) = Σ_c p(c) p(y | x, c), whatever `without` is."""
        if self.without == "default":
            return World("marginal").law(find_task(task).name)
        return self.law(task)

    def optimum(
        self,
        task: str | Task,
        who: Person,
        beta: float,
        *,
        level: str = "sequence",
        negative: str = "random_context",
    ) -> Law:
        """Return π* ∝ p · (p/q)^(1/β), the policy that MIPO aims at.

        Parameters
        ----------
        task, who
            As in `law`.
        beta : float
            Strength of the pull towards the base model, 1/nats; above 0.
        level : {"sequence", "token"}
            "sequence": tilt whole replies (what DPO's optimum is). "token": tilt slot
            after slot, each step normalised on its own (context-aware decoding with
            α = 1/β).
        negative : {"random_context", "missing_context"}
            Law q of rejected replies: the marginal, or the law of nobody.

        Raises
        ------
        ValueError
            For beta ≤ 0.
        """
        if not beta > 0:
            raise ValueError(f"beta must be positive, got {beta}")
        p = self.law(task, who)
        q = self.marginal(task) if negative == "random_context" else self.law(task)
        tilt = _tilt if level == "sequence" else _tilt_stepwise
        pairs = zip(p.groups, q.groups, strict=True)
        return Law(p.task, tuple((g, tilt(a, b, 1 / beta)) for (g, a), (_, b) in pairs))

    # ---- replies ----

    def log_prob(
        self,
        reply: str,
        task: str | Task,
        who: Person = NOBODY,
        *,
        topic: str | None = None,
        beta: float | None = None,
    ) -> float:
        """Return log p(reply | task, person), nats, wordings included.

        Parameters
        ----------
        reply : str
            Any text.
        task, who
            As in `law`.
        topic : str, optional
            The topic that the reply must have.
        beta : float, optional
            The log-probability under the optimum π*_β instead; see `optimum`.

        Returns
        -------
        float
            -inf for a reply outside the grammar or off topic.
        """
        parsed, name = parse(reply, task, topic=topic), find_task(task).name
        if parsed is None:
            return -np.inf
        values, wordings = parsed
        law = self.law(name, who) if beta is None else self.optimum(name, who, beta)
        log_wordings = np.log(np.take(WORDINGS, wordings))
        return law.log_prob(values) + float(np.sum(log_wordings))

    def pmi(self, reply: str, task: str | Task, who: Person) -> float:
        """Return log p(y|x,c)/p(y|x), nats.

        How much likelier the reply is for this person than for the average one.

        Parameters
        ----------
        reply : str
            A reply of the grammar.
        task, who
            As in `law`.

        Raises
        ------
        ValueError
            For a reply outside the grammar.
        """
        parsed = parse(reply, task)
        name = find_task(task).name
        if parsed is None:
            raise ValueError(f"not a reply of task {name}: {reply!r}")
        values = parsed[0]
        own, average = self.law(name, who), self.marginal(name)
        return own.log_prob(values) - average.log_prob(values)

    def mutual_information(self, task: str | Task) -> float:
        """``I(Y; C | X = task) = Σ_c p(c) KL(p(·|x,c) ‖ p(·|x))``, nats.

        Groups add up, since attributes are independent.
        """
        task = find_task(task)
        total = 0.0
        for group, q in self.marginal(task.name).groups:
            attribute = task.slots[group[0]].attribute
            for value, prior in ATTRIBUTES[attribute].items():
                p = _group_table(task, group, person(**{attribute: value}))
                total += prior * _kl(p, q)
        return total

    def adherence(self, reply: str, task: str | Task, who: Person) -> float:
        """Return the share of relevant slots that state the person's own value.

        0 for a reply outside the grammar.
        """
        parsed = parse(reply, task)
        if parsed is None:
            return 0.0
        stated = zip(find_task(task).slots, parsed[0], strict=True)
        hits = [value == who[s.attribute] for s, value in stated if s.relevant]
        return float(np.mean(hits))

    def fits(self, reply: str, task: str | Task, who: Person) -> bool:
        """Return whether every relevant slot states the person's own value."""
        return self.adherence(reply, task, who) == 1.0

    def sample(
        self, task: str | Task, who: Person, topic: str, rng: np.random.Generator
    ) -> str:
        """Draw one reply from p(y | x, c)."""
        values = self.law(find_task(task).name, who).sample(rng)
        return write(task, topic, values, rng)


# ---- tables ----


def _values(slot: Slot) -> Values:
    return tuple(slot.options)


def _index(slot: Slot, value: str | None) -> int:
    return _values(slot).index(value)


@functools.cache
def _groups(task: Task) -> tuple[tuple[int, ...], ...]:
    """Slot indices that share an attribute, in order of first appearance."""
    by_attribute: dict[str, list[int]] = {}
    for i, slot in enumerate(task.slots):
        by_attribute.setdefault(slot.attribute, []).append(i)
    return tuple(tuple(indices) for indices in by_attribute.values())


def _population(slot: Slot) -> np.ndarray:
    """What the slot says when it does not follow the person, (V,).

    The attribute's prior; an aside is mostly silent.
    """
    prior = ATTRIBUTES[slot.attribute]
    if slot.relevant:
        return np.array([prior[v] for v in _values(slot)])
    named = np.array([prior[v] if v != SILENT else 0.0 for v in _values(slot)])
    table = ASIDE_RATE * named / named.sum()
    table[_index(slot, SILENT)] = 1 - ASIDE_RATE
    return table


def _generic(slot: Slot, weight: float = 0.9) -> np.ndarray:
    population = _population(slot)
    usual = np.eye(len(population))[population.argmax()]
    return weight * usual + (1 - weight) * population


def _slot_table(slot: Slot, value: str | None) -> np.ndarray:
    """p(slot | own value), (V,)."""
    population = _population(slot)
    if not slot.relevant:
        return population
    own = np.eye(len(population))[_index(slot, value)]
    return slot.follow * own + (1 - slot.follow) * population


def _group_table(task: Task, group: tuple[int, ...], who: Person) -> np.ndarray:
    slots = [task.slots[i] for i in group]
    own = who[slots[0].attribute]
    if own is not None or not slots[0].relevant:
        return _outer(_slot_table(s, own) for s in slots)
    prior = ATTRIBUTES[slots[0].attribute]
    terms = [p * _outer(_slot_table(s, v) for s in slots) for v, p in prior.items()]
    return sum(terms, np.zeros_like(terms[0]))


def _generic_table(task: Task, group: tuple[int, ...], _who: Person) -> np.ndarray:
    return _outer(_generic(task.slots[i]) for i in group)


def _outer(vectors: Iterable[np.ndarray]) -> np.ndarray:
    return functools.reduce(np.multiply.outer, vectors)


def _kl(p: np.ndarray, q: np.ndarray) -> float:
    safe_p = np.where(p > 0, p, 1)
    return float(np.sum(np.where(p > 0, p * np.log(safe_p / q), 0.0)))


def _tilt(p: np.ndarray, q: np.ndarray, alpha: float) -> np.ndarray:
    tilted = p * (p / q) ** alpha
    return tilted / tilted.sum()


def _tilt_stepwise(p: np.ndarray, q: np.ndarray, alpha: float) -> np.ndarray:
    """Tilt p(v1), then p(v2|v1), …: each conditional on its own.

    Equals `_tilt` when slots are independent under q.
    """
    if p.ndim == 1:
        return _tilt(p, q, alpha)
    rest = tuple(range(1, p.ndim))
    first = _tilt(p.sum(axis=rest), q.sum(axis=rest), alpha)
    rows = [
        weight * _tilt_stepwise(a / a.sum(), b / b.sum(), alpha)
        for weight, a, b in zip(first, p, q, strict=True)
    ]
    return np.stack(rows)


def _draw(table: np.ndarray, rng: np.random.Generator) -> int:
    u = rng.random() * table.sum()
    k = np.searchsorted(np.cumsum(table), u, side="right")
    return int(min(k, len(table) - 1))
