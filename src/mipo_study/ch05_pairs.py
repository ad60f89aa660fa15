"""What chosen and rejected replies differ in: read off pairs, and expected under the exact laws of the small world."""

from collections import Counter

import numpy as np

from mipo.world import World
from mipo.worlds.grammar import TASKS, WORDINGS, parse
from mipo.worlds.scoring import as_person


def rows(pairs):
    """One dict per negative: record, chosen, rejected, rejected_context; a row with k negatives gives k dicts."""
    found = []
    for row in pairs.to_list():
        several = isinstance(row["rejected"], list)
        for i, y in enumerate(row["rejected"] if several else [row["rejected"]]):
            found.append(
                {
                    "record": row["record"],
                    "chosen": row["chosen"],
                    "rejected": y,
                    "rejected_context": row["rejected_context"][i]
                    if several
                    else row["rejected_context"],
                }
            )
    return found


def _labels(task):
    """What a slot speaks about: its attribute, or 'aside' where the person does not matter."""
    return [s.attribute if s.relevant else "aside" for s in TASKS[task].slots]


def differing(pairs, records):
    """{attribute or 'aside': share of its slots that chosen and rejected fill differently}; both replies valid."""
    seen = Counter(), Counter()
    for row in rows(pairs):
        r = records[row["record"]]
        both = [
            parse(row[side], r["task"], topic=r["topic"])
            for side in ("chosen", "rejected")
        ]
        if None not in both:
            for label, a, b in zip(
                _labels(r["task"]), both[0][0], both[1][0], strict=True
            ):
                seen[0][label] += a != b
                seen[1][label] += 1
    return _shares(*seen)


def expected_differing(records):
    """`differing` under the exact laws, the rejected reply drawn from the marginal: 1 - Σ_v p(v|c)·p(v), per slot."""
    world, seen = World(), (Counter(), Counter())
    for r in records:
        p, q = world.law(r["task"], as_person(r)), world.marginal(r["task"])
        for i, label in enumerate(_labels(r["task"])):
            seen[0][label] += 1 - float(p.slot(i) @ q.slot(i))
            seen[1][label] += 1
    return _shares(*seen)


def own_values(pairs, records, side):
    """{attribute or 'aside': share of its slots in which the replies of a side state the person's own value}."""
    seen = Counter(), Counter()
    for row in rows(pairs):
        r = records[row["record"]]
        parsed = parse(row[side], r["task"], topic=r["topic"])
        if parsed is not None:
            for label, slot, v in zip(
                _labels(r["task"]), TASKS[r["task"]].slots, parsed[0], strict=True
            ):
                seen[0][label] += v == r["values"][slot.attribute]
                seen[1][label] += 1
    return _shares(*seen)


def _shares(hits, slots):
    return {
        label: hits[label] / n
        for label, n in sorted(slots.items(), key=lambda x: (x[0] == "aside", x[0]))
    }


def pmi(pairs, records, side):
    """Exact PMI (n,) of the chosen (or rejected) replies with their record's person, nats; NaN outside the grammar."""
    world, found = World(), []
    for row in rows(pairs):
        r = records[row["record"]]
        valid = parse(row[side], r["task"], topic=r["topic"]) is not None
        found.append(world.pmi(row[side], r["task"], as_person(r)) if valid else np.nan)
    return np.array(found)


def expected_gap(records):
    """Mean PMI of chosen minus rejected replies under the exact laws: KL(p ‖ q) + KL(q ‖ p), q the marginal; nats."""
    world = World()
    laws = [
        (world.law(r["task"], as_person(r)), world.marginal(r["task"])) for r in records
    ]
    return float(np.mean([p.kl(q) + q.kl(p) for p, q in laws]))


def expected_identical(records):
    """Chance that a reply from p(y|x,c) and one from the marginal are the same text, mean over records."""
    world, same = World(), float(np.sum(np.square(WORDINGS)))
    total = 0.0
    for r in records:
        p, q = world.law(r["task"], as_person(r)), world.marginal(r["task"])
        slots = len(TASKS[r["task"]].slots)
        total += same**slots * np.prod(
            [np.sum(a * b) for (_, a), (_, b) in zip(p.groups, q.groups, strict=True)]
        )
    return float(total / len(records))


def expected_collisions(records, k=1):
    """Chance that at least one of k contexts, each drawn evenly from those of all records, is the row's own."""
    contexts = [r["context"] for r in records]
    counts = Counter(contexts)
    return float(np.mean([1 - (1 - counts[c] / len(contexts)) ** k for c in contexts]))


def same_law(replies_a, replies_b, records_a, records_b=None):
    """{task: p-value} of a two-sample chi-square test that both lists of replies fill the slots alike.

    Slots that share an attribute are counted jointly; cells seen fewer than ten times in both lists are merged. Groups
    of slots are independent on average over people, so their statistics and degrees of freedom add up.
    """
    from scipy.stats import chi2  # late: scipy.stats is slow to import

    found = {}
    for name, task in TASKS.items():
        sides = [
            _values(y, r, name)
            for y, r in ((replies_a, records_a), (replies_b, records_b or records_a))
        ]
        statistic, freedom = 0.0, 0
        for slots, _ in World().marginal(name).groups:
            table = _table(
                [[tuple(v[i] for i in slots) for v in side] for side in sides]
            )  # (2, cells)
            if table.shape[1] > 1:
                expected = table.sum(1, keepdims=True) * table.sum(0) / table.sum()
                statistic += float(((table - expected) ** 2 / expected).sum())
                freedom += table.shape[1] - 1
        if freedom:
            found[name] = float(chi2.sf(statistic, freedom))
    return found


def _values(replies, records, task):
    parsed = (
        parse(y, task, topic=r["topic"])
        for y, r in zip(replies, records, strict=True)
        if r["task"] == task
    )
    return [p[0] for p in parsed if p]


def _table(sides, least=10):
    counts = [Counter(side) for side in sides]
    cells = sorted(set().union(*counts))
    table = np.array([[c[cell] for cell in cells] for c in counts], float).reshape(
        2, -1
    )
    often = table.sum(0) >= least
    rare = table[:, ~often].sum(1, keepdims=True)
    return (
        np.concatenate([table[:, often], rare], axis=1)
        if rare.sum()
        else table[:, often]
    )
