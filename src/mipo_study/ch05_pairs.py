"""Chapter 5: what chosen and rejected replies differ in.

It is read off pairs, and expected under the exact laws of the small world. Tables have
a row per reply (`reply_table`) or per slot of a reply (`slot_table`). A slot speaks
about an attribute of the person, or about nobody: then it is an "aside".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mipo.evaluate import token_lengths
from mipo.information import infonce
from mipo.logprobs import response_logps
from mipo.pairs import as_sampled
from mipo.world import NOBODY, Law, World
from mipo.worlds import population
from mipo.worlds.grammar import TASKS, WORDINGS, Slot, parse
from mipo.worlds.scoring import as_person

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Example = Mapping[str, Any]
ASIDE = "aside"


def replies_of(pair: Mapping[str, Any], side: str) -> list[str]:
    """The replies of one side of a pair: one chosen, one or several rejected."""
    replies = pair[side]
    return replies if isinstance(replies, list) else [replies]


def reply_table(pairs: Dataset, examples: Sequence[Example], side: str) -> pd.DataFrame:
    """One row for each reply of a side.

    Parameters
    ----------
    pairs : Dataset
        Of `mipo.pairs.synthesise_pairs` on the examples.
    side : str
        "chosen" or "rejected".

    Returns
    -------
    pandas.DataFrame
        task, reply, pmi: the exact PMI with the example's person, nats; NaN outside the
        grammar.
    """
    world, rows = World(), []
    for pair in pairs.to_list():
        example = examples[pair["example"]]
        task, topic = example["task"], example["topic"]
        for reply in replies_of(pair, side):
            valid = parse(reply, task, topic=topic) is not None
            pmi = world.pmi(reply, task, as_person(example)) if valid else np.nan
            rows.append({"task": task, "reply": reply, "pmi": pmi})
    return pd.DataFrame(rows)


def slot_table(pairs: Dataset, examples: Sequence[Example], side: str) -> pd.DataFrame:
    """One row for each slot of each valid reply of a side.

    Parameters
    ----------
    pairs, examples, side
        As in `reply_table`; replies outside the grammar are left out.

    Returns
    -------
    pandas.DataFrame
        pair (row number), slot (its place in the reply), attribute, value (what it
        states), own (it is the person's own value).
    """
    rows = []
    for number, pair in enumerate(pairs.to_list()):
        example = examples[pair["example"]]
        slots = TASKS[example["task"]].slots
        for reply in replies_of(pair, side):
            parsed = parse(reply, example["task"], topic=example["topic"])
            if parsed is None:
                continue
            for place, (slot, value) in enumerate(zip(slots, parsed[0], strict=True)):
                rows.append(
                    {
                        "pair": number,
                        "slot": place,
                        "attribute": attribute_of(slot),
                        "value": value,
                        "own": value == example["values"][slot.attribute],
                    }
                )
    return pd.DataFrame(rows, columns=["pair", "slot", "attribute", "value", "own"])


def attribute_of(slot: Slot) -> str:
    """What a slot speaks about: its attribute, or ASIDE."""
    return slot.attribute if slot.relevant else ASIDE


def differing(pairs: Dataset, examples: Sequence[Example]) -> pd.Series:
    """Share of slots that chosen and rejected reply fill differently, by attribute.

    Parameters
    ----------
    pairs : Dataset
        Those with a reply outside the grammar are left out.
    examples : sequence of dict
        That the pairs were made from.

    Returns
    -------
    pandas.Series
    """
    sides = [slot_table(pairs, examples, side) for side in ("chosen", "rejected")]
    both = sides[0].merge(sides[1], on=["pair", "slot", "attribute"])
    differs = both["value_x"] != both["value_y"]
    return in_order(differs.groupby(both["attribute"]).mean())


def own_values(pairs: Dataset, examples: Sequence[Example], side: str) -> pd.Series:
    """Share of slots in which a side states the person's own value, by attribute.

    Parameters
    ----------
    pairs, examples, side
        As in `reply_table`.

    Returns
    -------
    pandas.Series
    """
    slots = slot_table(pairs, examples, side)
    return in_order(slots["own"].astype(float).groupby(slots["attribute"]).mean())


def in_order(shares: pd.Series) -> pd.Series:
    """By attribute in alphabetical order, the aside last."""
    return shares.reindex(sorted(shares.index, key=lambda name: (name == ASIDE, name)))


def pmi(pairs: Dataset, examples: Sequence[Example], side: str) -> np.ndarray:
    """Exact PMI of the replies of a side, nats, (n,); NaN outside the grammar."""
    return reply_table(pairs, examples, side)["pmi"].to_numpy()


def mean_pmi(pairs: Dataset, examples: Sequence[Example], side: str) -> float:
    """Mean exact PMI of the valid replies of a side, nats."""
    return float(np.nanmean(pmi(pairs, examples, side)))


def mean_tokens(
    pairs: Dataset,
    examples: Sequence[Example],
    side: str,
    tokenizer: PreTrainedTokenizerBase,
) -> float:
    """Mean length of the replies of a side, tokens."""
    return float(token_lengths(pairs[side][:], tokenizer).mean())


def over_runs(
    measure: Callable[..., float | pd.Series],
    pairs: Mapping[tuple[str, int], Dataset],
    examples: Mapping[int, Sequence[Example]],
    **keywords: Any,
) -> pd.DataFrame | pd.Series:
    """A measure of this module for the pairs of several runs.

    Parameters
    ----------
    measure : callable
        `differing`, `own_values`, `mean_pmi` or `mean_tokens`.
    pairs : dict
        {(negatives, seed): Dataset}.
    examples : dict
        {seed: examples}.
    keywords
        Of the measure.

    Returns
    -------
    pandas.DataFrame or Series
        A row per run, with index negatives and seed; a column per attribute where the
        measure has several, 0 where a run has no such slot.
    """
    index = pd.MultiIndex.from_tuples(pairs, names=["negatives", "seed"])
    values = [measure(pairs[key], examples[key[1]], **keywords) for key in pairs]
    if isinstance(values[0], float):
        return pd.Series(values, index=index)
    frame = pd.DataFrame(values).reindex(columns=attributes(examples))
    return frame.fillna(0.0).set_axis(index)


def attributes(examples: Mapping[int, Sequence[Example]]) -> list[str]:
    """What the slots of all examples' tasks speak about, the aside last."""
    tasks = {example["task"] for asked in examples.values() for example in asked}
    names = {attribute_of(slot) for task in tasks for slot in TASKS[task].slots}
    return sorted(names, key=lambda name: (name == ASIDE, name))


def model_gap(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Dataset
) -> np.ndarray:
    """By how much a model finds the chosen reply likelier than the rejected one.

    Parameters
    ----------
    model, tokenizer
        What scores them.
    pairs : Dataset
        Both replies are scored after the chosen one's prompt, by the tokens that were
        sampled.

    Returns
    -------
    ndarray, shape (n,)
        Differences of log-probs, nats, summed over tokens.
    """
    prompts = pairs["prompt"][:]
    chosen, rejected = (
        response_logps(model, tokenizer, prompts, as_sampled(pairs, side)).summed
        for side in ("chosen", "rejected")
    )
    return (chosen.double() - rejected.double()).numpy()


# ---- what the exact laws expect ----


def expected_differing(examples: Sequence[Example]) -> pd.Series:
    """`differing` under the exact laws, the rejected reply drawn from the marginal.

    Parameters
    ----------
    examples : sequence of dict
        Of the small world.

    Returns
    -------
    pandas.Series
        By attribute, the mean over slots of 1 - Σ_v p(v|c)·p(v).
    """
    world, rows = World(), []
    for example in examples:
        law, marginal = _laws(world, example)
        for place, slot in enumerate(TASKS[example["task"]].slots):
            same = float(law.slot(place) @ marginal.slot(place))
            rows.append({"attribute": attribute_of(slot), "differs": 1 - same})
    return in_order(pd.DataFrame(rows).groupby("attribute")["differs"].mean())


def _laws(world: World, example: Example) -> tuple[Law, Law]:
    """The exact law of an example's replies, and the marginal over people."""
    task = example["task"]
    return world.law(task, as_person(example)), world.marginal(task)


def expected_gap(examples: Sequence[Example]) -> float:
    """Mean PMI of chosen less rejected replies under the exact laws, nats.

    Parameters
    ----------
    examples : sequence of dict
        Of the small world.

    Returns
    -------
    float
        KL(p ‖ q) + KL(q ‖ p) on average: p the law of an example, q the marginal.
    """
    world, gaps = World(), []
    for example in examples:
        law, marginal = _laws(world, example)
        gaps.append(law.kl(marginal) + marginal.kl(law))
    return float(np.mean(gaps))


def expected_counts(examples: Mapping[int, Sequence[Example]]) -> dict[str, float]:
    """How many collisions and identical pairs random contexts are expected to give.

    Parameters
    ----------
    examples : dict
        {seed: examples}, with one rejected reply each.

    Returns
    -------
    dict
        collisions, identical: numbers of pairs, all seeds together.
    """
    collisions, identical = 0.0, 0.0
    for asked in examples.values():
        collisions += expected_collisions(asked) * len(asked)
        identical += expected_identical(asked) * len(asked)
    return {"collisions": collisions, "identical": identical}


def expected_identical(examples: Sequence[Example]) -> float:
    """Chance that a reply from p(y|x,c) and one from the marginal are the same text.

    Parameters
    ----------
    examples : sequence of dict
        Of the small world.

    Returns
    -------
    float
        Mean over examples of Π_slots Σ_wordings p² · Π_groups Σ_v p(v|c)·p(v).
    """
    world = World()
    same_wording = float(np.sum(np.square(WORDINGS)))
    total = 0.0
    for example in examples:
        law, marginal = _laws(world, example)
        same_values = [
            np.sum(ours * theirs)
            for (_, ours), (_, theirs) in zip(law.groups, marginal.groups, strict=True)
        ]
        slots = len(TASKS[example["task"]].slots)
        total += same_wording**slots * np.prod(same_values)
    return float(total / len(examples))


def expected_collisions(examples: Sequence[Example], k: int = 1) -> float:
    """Chance that at least one of k random contexts is the row's own.

    Parameters
    ----------
    examples : sequence of dict
        Contexts are drawn evenly from theirs.
    k : int
        Rejected replies per row.

    Returns
    -------
    float
        Mean over examples.
    """
    contexts = [example["context"] for example in examples]
    counts = Counter(contexts)
    missed = [(1 - counts[context] / len(contexts)) ** k for context in contexts]
    return float(np.mean([1 - share for share in missed]))


# ---- a test that needs no exact law ----


def same_law(
    replies: Sequence[str],
    others: Sequence[str],
    examples: Sequence[Example],
    other_examples: Sequence[Example] | None = None,
) -> dict[str, float]:
    """Chi-square test that two lists of replies fill the slots alike, task by task.

    Parameters
    ----------
    replies, others : sequence of str
        The two lists.
    examples, other_examples : sequence of dict
        What they answer, one each; the second list answers the first's if not given.

    Returns
    -------
    dict
        {task: p-value}, for tasks in which something can be compared.

    Notes
    -----
    Slots that share an attribute are counted jointly; cells seen fewer than ten times
    in both lists together are merged. Groups of slots are independent on average over
    people, so their statistics and degrees of freedom add up.
    """
    from scipy.stats import chi2  # late: scipy.stats is slow to import

    world, p_values = World(), {}
    for task in TASKS:
        sides = [
            _values(replies, examples, task),
            _values(others, other_examples or examples, task),
        ]
        statistic, freedom = 0.0, 0
        for slots, _ in world.marginal(task).groups:
            table = _table([_joint(side, slots) for side in sides])  # (2, cells)
            if table.shape[1] > 1:
                expected = table.sum(1, keepdims=True) * table.sum(0) / table.sum()
                statistic += float(((table - expected) ** 2 / expected).sum())
                freedom += table.shape[1] - 1
        if freedom:
            p_values[task] = float(chi2.sf(statistic, freedom))
    return p_values


def _values(
    replies: Sequence[str], examples: Sequence[Example], task: str
) -> list[tuple[str, ...]]:
    """Values of the valid replies to one task, a tuple over slots each."""
    values = []
    for reply, example in zip(replies, examples, strict=True):
        if example["task"] == task:
            parsed = parse(reply, task, topic=example["topic"])
            if parsed is not None:
                values.append(parsed[0])
    return values


def _joint(
    values: Sequence[tuple[str, ...]], slots: Sequence[int]
) -> list[tuple[str, ...]]:
    """The values of some slots only."""
    return [tuple(value[i] for i in slots) for value in values]


def _table(sides: Sequence[Sequence[tuple[str, ...]]], least: int = 10) -> np.ndarray:
    """Counts of two lists, (2, cells); rare cells are merged into a last one."""
    counts = [Counter(side) for side in sides]
    cells = sorted(set().union(*counts))
    table = np.array([[count[cell] for cell in cells] for count in counts], float)
    table = table.reshape(2, -1)
    often = table.sum(0) >= least
    rare = table[:, ~often].sum(1, keepdims=True)
    common = table[:, often]
    return np.concatenate([common, rare], axis=1) if rare.sum() else common


def generic_replies(examples: Sequence[Example], seed: int) -> list[str]:
    """Replies of a world whose generic reply is a default: a control for `same_law`."""
    rng, usual = np.random.default_rng(seed), World("default")
    return [usual.sample(e["task"], NOBODY, e["topic"], rng) for e in examples]


def corrected(p_values: Mapping[str, float]) -> float:
    """Bonferroni: the smallest p-value times their number, at most 1."""
    smallest = min(p_values.values(), default=1.0)
    return min(1.0, max(len(p_values), 1) * smallest)


def contrast(pairs: Dataset, examples: Sequence[Example]) -> dict[str, float]:
    """What tells the two sides of pairs apart, in one row of a table.

    Parameters
    ----------
    pairs, examples
        As in `reply_table`.

    Returns
    -------
    dict
        Share of identical pairs; share of slots, asides left out, in which either side
        states the person's own value; mean gap in exact PMI, nats.
    """
    own = {}
    for side in ("chosen", "rejected"):
        shares = own_values(pairs, examples, side).drop(ASIDE, errors="ignore")
        own[f"own values, {side}"] = float(shares.mean())
    gap = pmi(pairs, examples, "chosen") - pmi(pairs, examples, "rejected")
    return {
        "identical": float(np.mean(pairs["identical"])),
        **own,
        "PMI gap (nats)": float(pd.Series(gap).mean()),
    }


# ---- the quiz: which of N replies was written for this person? ----


def play_quiz(pmi: np.ndarray) -> dict[str, Any]:
    """How often the exact PMI picks the right reply of N, and what InfoNCE certifies.

    Parameters
    ----------
    pmi : ndarray, shape (R, N)
        Exact PMI of N replies with one person in each of R rounds, nats; the first
        reply is the right one.

    Returns
    -------
    dict
        right (share of rounds, ties shared evenly), certified (mean bound, nats),
        interval (95 %, normal).
    """
    bounds = np.asarray(infonce(pmi))  # (R,)
    best = pmi == pmi.max(axis=1, keepdims=True)
    right = best[:, 0] / best.sum(axis=1)
    mean = float(np.mean(bounds))
    half = float(1.96 * np.std(bounds) / np.sqrt(len(bounds)))
    return {
        "right": float(np.mean(right)),
        "certified": mean,
        "interval": (mean - half, mean + half),
    }


# ---- answers of the exercises ----


def most_wasted_task(n_people: int) -> str:
    """The task whose pairs are identical most often, by the exact laws."""
    identical = {}
    for task in TASKS:
        some = population.examples(n_people, split="mipo", tasks=[task], seed=1)
        identical[task] = expected_identical(some)
    return max(identical, key=identical.__getitem__)


def attributes_told_apart(task: str, shared: str) -> set[str]:
    """What the two replies of a pair depend on, if both persons share an attribute."""
    relevant = {slot.attribute for slot in TASKS[task].slots if slot.relevant}
    return relevant - {shared}
