"""The small world: people, tasks and replies whose probabilities are all known exactly (numpy, nats).

Every law of replies here is a product of small tables, one per group of slots that share an attribute:

    p(y | x, c) = Π_groups table[values of the group's slots] · Π_slots p(wording)

so log-probabilities, PMI, I(Y; C | X = task), the optimum of MIPO and its adherence are closed forms. Slots of one attribute
are independent given the person and dependent without him, which is why sequences and single tokens tilt differently.
"""

import functools
from dataclasses import dataclass

import numpy as np

from mipo.worlds.grammar import (
    ASIDE_RATE,
    ATTRIBUTES,
    SILENT,
    TASKS,
    WORDINGS,
    find_task,
    parse,
    write,
)
from mipo.worlds.population import NOBODY, Person, person, records

__all__ = ["NOBODY", "TASKS", "Law", "Person", "World", "person", "records"]


@dataclass(frozen=True)
class Law:
    """A distribution over the slot values of a task: `groups` are (slot indices, table), table axes in that order."""

    task: object
    groups: tuple

    def log_prob(self, values):
        """log p of the slot values (a tuple in the task's order), nats; wordings not included."""
        with np.errstate(divide="ignore"):
            return float(
                sum(
                    np.log(
                        table[
                            tuple(_index(self.task.slots[i], values[i]) for i in slots)
                        ]
                    )
                    for slots, table in self.groups
                )
            )

    def slot(self, i):
        """Marginal distribution (V,) of slot i."""
        for slots, table in self.groups:
            if i in slots:
                return table.sum(axis=tuple(k for k, j in enumerate(slots) if j != i))
        raise ValueError(f"task {self.task.name} has no slot {i}")

    def kl(self, other):
        """KL(self ‖ other), nats."""
        return float(
            sum(
                _kl(p, q)
                for (_, p), (_, q) in zip(self.groups, other.groups, strict=True)
            )
        )

    def adherence(self, who):
        """Expected share of the relevant slots that state the person's own value."""
        hits = [
            self.slot(i)[_index(s, who[s.attribute])]
            for i, s in enumerate(self.task.slots)
            if s.relevant
        ]
        return float(np.mean(hits))

    def sample(self, rng):
        """One tuple of slot values; `rng` is a numpy Generator."""
        values = [None] * len(self.task.slots)
        for slots, table in self.groups:
            drawn = np.unravel_index(_draw(table.ravel(), rng), table.shape)
            for i, k in zip(slots, drawn, strict=True):
                values[i] = _values(self.task.slots[i])[k]
        return tuple(values)


@dataclass(frozen=True)
class World:
    """Exact probabilities of replies. `without` is the law of replies to nobody: "marginal" or a generic "default".

    marginal: p(y|x) = Σ_c p(c) p(y|x,c). default: every slot takes its most usual value with probability 0.9,
    as a helpful assistant does that was never told to imagine an average user.
    """

    without: str = "marginal"

    def __post_init__(self):
        if self.without not in ("marginal", "default"):
            raise ValueError(
                f"without={self.without!r}: choose 'marginal' or 'default'"
            )

    # ---- laws -------------------------------------------------------------------------------------------------------

    @functools.lru_cache(maxsize=20000)
    def law(self, task, who=NOBODY):
        """p(y | x, c) as a Law; attributes the person leaves out are averaged over their prior."""
        task = find_task(task)
        if who == NOBODY and self.without == "default":
            return Law(
                task,
                tuple(
                    (g, _outer([_generic(task.slots[i]) for i in g]))
                    for g in _groups(task)
                ),
            )
        return Law(task, tuple((g, _group_table(task, g, who)) for g in _groups(task)))

    def marginal(self, task):
        """p(y | x) = Σ_c p(c) p(y | x, c), whatever the law of replies to nobody."""
        return (
            World("marginal").law(find_task(task).name)
            if self.without == "default"
            else self.law(task)
        )

    def optimum(self, task, who, beta, *, level="sequence", negative="random_context"):
        """π* ∝ p · (p/q)^(1/β), the policy that MIPO aims at, as a Law.

        level     "sequence": tilt whole replies (what DPO's optimum is); "token": tilt slot after slot, each step
                  normalised on its own (context-aware decoding with α = 1/β)
        negative  law q of rejected replies: "random_context" is the marginal, "missing_context" the law of nobody
        """
        if not beta > 0:
            raise ValueError(f"beta must be positive, got {beta}")
        p = self.law(task, who)
        q = self.marginal(task) if negative == "random_context" else self.law(task)
        tilt = _tilt if level == "sequence" else _tilt_stepwise
        return Law(
            p.task,
            tuple(
                (g, tilt(a, b, 1 / beta))
                for (g, a), (_, b) in zip(p.groups, q.groups, strict=True)
            ),
        )

    # ---- replies ----------------------------------------------------------------------------------------------------

    def log_prob(self, reply, task, who=NOBODY, *, topic=None, beta=None):
        """log p(reply | task, person), nats, wordings included; -inf for a reply outside the grammar or off topic.

        With `beta` it is the log-probability under the optimum π*_β of `optimum`.
        """
        parsed, name = parse(reply, task, topic=topic), find_task(task).name
        if parsed is None:
            return -np.inf
        law = self.law(name, who) if beta is None else self.optimum(name, who, beta)
        return law.log_prob(parsed[0]) + float(
            np.sum(np.log(np.take(WORDINGS, parsed[1])))
        )

    def pmi(self, reply, task, who):
        """log p(y|x,c)/p(y|x), nats: how much likelier the reply is for this person than for the average one."""
        parsed = parse(reply, task)
        if parsed is None:
            raise ValueError(f"not a reply of task {find_task(task).name}: {reply!r}")
        name = find_task(task).name
        return self.law(name, who).log_prob(parsed[0]) - self.marginal(name).log_prob(
            parsed[0]
        )

    def mutual_information(self, task):
        """I(Y; C | X = task) = Σ_c p(c) KL(p(·|x,c) ‖ p(·|x)), nats; groups add up since attributes are independent."""
        task, total = find_task(task), 0.0
        for g, q in self.marginal(task.name).groups:
            attribute = task.slots[g[0]].attribute
            for value, prior in ATTRIBUTES[attribute].items():
                total += prior * _kl(
                    _group_table(task, g, person(**{attribute: value})), q
                )
        return total

    def adherence(self, reply, task, who):
        """Share of the relevant slots that state the person's own value; 0 for a reply outside the grammar."""
        parsed = parse(reply, task)
        if parsed is None:
            return 0.0
        slots = find_task(task).slots
        return float(
            np.mean(
                [
                    v == who[s.attribute]
                    for s, v in zip(slots, parsed[0], strict=True)
                    if s.relevant
                ]
            )
        )

    def fits(self, reply, task, who):
        """True if every relevant slot states the person's own value."""
        return self.adherence(reply, task, who) == 1.0

    def sample(self, task, who, topic, rng):
        """One reply drawn from p(y | x, c)."""
        return write(task, topic, self.law(find_task(task).name, who).sample(rng), rng)


# ---- tables -----------------------------------------------------------------------------------------------------------


def _values(slot):
    return tuple(slot.options)


def _index(slot, value):
    return _values(slot).index(value)


@functools.cache
def _groups(task):
    """Slot indices that share an attribute, in order of first appearance."""
    by = {}
    for i, s in enumerate(task.slots):
        by.setdefault(s.attribute, []).append(i)
    return tuple(map(tuple, by.values()))


def _population(slot):
    """What the slot says when it does not follow the person: the attribute's prior; an aside is mostly silent."""
    prior = ATTRIBUTES[slot.attribute]
    if slot.relevant:
        return np.array([prior[v] for v in _values(slot)])
    named = np.array([prior[v] if v != SILENT else 0.0 for v in _values(slot)])
    table = ASIDE_RATE * named / named.sum()
    table[_index(slot, SILENT)] = 1 - ASIDE_RATE
    return table


def _generic(slot, weight=0.9):
    population = _population(slot)
    return (
        weight * np.eye(len(population))[population.argmax()]
        + (1 - weight) * population
    )


def _slot_table(slot, value):
    """p(slot | own value), (V,)."""
    population = _population(slot)
    if not slot.relevant:
        return population
    return (
        slot.follow * np.eye(len(population))[_index(slot, value)]
        + (1 - slot.follow) * population
    )


def _group_table(task, group, who):
    slots = [task.slots[i] for i in group]
    own = who[slots[0].attribute]
    if own is not None or not slots[0].relevant:
        return _outer([_slot_table(s, own) for s in slots])
    prior = ATTRIBUTES[slots[0].attribute]
    return sum(p * _outer([_slot_table(s, v) for s in slots]) for v, p in prior.items())


def _outer(vectors):
    return functools.reduce(np.multiply.outer, vectors)


def _kl(p, q):
    return float(np.sum(np.where(p > 0, p * np.log(np.where(p > 0, p, 1) / q), 0.0)))


def _tilt(p, q, alpha):
    tilted = p * (p / q) ** alpha
    return tilted / tilted.sum()


def _tilt_stepwise(p, q, alpha):
    """Tilt p(v1), then p(v2|v1), …: each conditional on its own; equals `_tilt` when slots are independent under q."""
    if p.ndim == 1:
        return _tilt(p, q, alpha)
    rest = tuple(range(1, p.ndim))
    first = _tilt(p.sum(axis=rest), q.sum(axis=rest), alpha)
    return np.stack(
        [
            f * _tilt_stepwise(a / a.sum(), b / b.sum(), alpha)
            for f, a, b in zip(first, p, q, strict=True)
        ]
    )


def _draw(table, rng):
    return int(
        min(
            np.searchsorted(np.cumsum(table), rng.random() * table.sum(), side="right"),
            len(table) - 1,
        )
    )
