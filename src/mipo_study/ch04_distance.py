"""Chapter 4: how far a base model is from the exact laws of the small world.

Tables have a row per reply. Column "base" names the base model, "task" and "person" the
prompt. Information and log-probabilities are in nats.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mipo.evaluate import t_interval
from mipo.lm.prompts import render
from mipo.logprobs import response_logps
from mipo.numbers import Number
from mipo.world import NOBODY, World
from mipo.worlds import language_model, population, scoring
from mipo.worlds.grammar import TASKS, Task, parse
from mipo.worlds.population import Person

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from mipo.record import Notebook

    Loaded = tuple[PreTrainedModel, PreTrainedTokenizerBase]

Example = Mapping[str, Any]

# ---- the exact laws ----


def slots_of(task: Task) -> str:
    """The slots of a task, each with its attribute and follow rate, in a line."""
    slots = [f"{slot.name}: {slot.attribute} ({slot.follow:g})" for slot in task.slots]
    return ", ".join(slots)


def drawn_pmi(
    task: str, people: Sequence[Person], rng: np.random.Generator
) -> np.ndarray:
    """PMI of a fresh reply to each person; its mean estimates I(Y; C | X = task).

    Parameters
    ----------
    task : str
        What they ask.
    people : sequence of Person, length n
        Drawn from the prior.
    rng : numpy.random.Generator
        Draws the replies.

    Returns
    -------
    ndarray, shape (n,)
        Nats.
    """
    world = World()
    marginal = world.marginal(task)
    pmi = []
    for who in people:
        law = world.law(task, who)
        values = law.sample(rng)
        pmi.append(law.log_prob(values) - marginal.log_prob(values))
    return np.array(pmi)


def entropy_floor(
    tokenizer: PreTrainedTokenizerBase,
    rng: np.random.Generator,
    *,
    seed: int,
    n: int = 3000,
) -> float:
    """The lowest mean loss on text drawn as the base model's training text is.

    Parameters
    ----------
    tokenizer
        Counts the tokens of replies.
    rng : numpy.random.Generator
        Draws prompts and replies.
    seed : int
        Of the people who ask.
    n : int
        Replies drawn.

    Returns
    -------
    float
        Nats per token, the end of a reply being one.

    Notes
    -----
    Monte Carlo of -log p over the mean length. A reply without any prompt costs more:
    nothing tells which task and topic it answers, nor whom. The topics of a task are
    equally likely, and a reply shows which it is.
    """
    world, names = World(), list(TASKS)
    nats = tokens = 0.0
    for resident in population.people(n, split="base", seed=seed):
        u = rng.random()
        task = TASKS[names[rng.integers(len(names))]]
        who = _as_told(resident, u, rng)
        reply = world.sample(task.name, who, task.topics[0], rng)
        log_prob = world.log_prob(reply, task.name, who)
        nats -= log_prob
        tokens += len(tokenizer(reply)["input_ids"]) + 1
        if rng.random() < language_model.UNPROMPTED_SHARE:
            anybody = world.log_prob(reply, task.name)
            fitting = _share_of_topics(reply, task)
            nats += log_prob - anybody + np.log(len(names) / fitting)
    return nats / tokens


def _as_told(who: Person, u: float, rng: np.random.Generator) -> Person:
    """What a training prompt says of a person, as u decides: all, nothing, or most."""
    nobody = language_model.NOBODY_SHARE
    if u < nobody:
        return NOBODY
    if u < nobody + language_model.INCOMPLETE_SHARE:
        return language_model.incomplete(who, rng)
    return who


def _share_of_topics(reply: str, task: Task) -> float:
    """Chance that a topic of the task, drawn evenly, is the reply's."""
    fits = [parse(reply, task, topic=topic) is not None for topic in task.topics]
    return float(np.mean(fits))


# ---- the model's replies ----


def score_table(
    replies: Mapping[tuple[str, str], Sequence[str]],
    prompts: Mapping[str, Sequence[Example]],
) -> pd.DataFrame:
    """The replies of several base models to several lists of examples, scored.

    Parameters
    ----------
    replies : dict
        {(base, name of a list): replies, one per example}.
    prompts : dict
        {name of a list: examples}.

    Returns
    -------
    pandas.DataFrame
        base, prompts, task, person, context, query, reply; valid (1 inside the grammar,
        else 0); adherence (share of slots); pmi (nats, NaN outside the grammar).
    """
    world, rows = World(), []
    for (base, name), texts in replies.items():
        scores = scoring.score(texts, prompts[name])
        for number, example in enumerate(prompts[name]):
            reply, valid = texts[number], scores["valid"][number]
            who = scoring.as_person(example)
            row: dict[str, Any] = {"base": base, "prompts": name}
            row |= {key: example[key] for key in ("task", "person", "context", "query")}
            row |= {"reply": reply, "valid": valid}
            row["adherence"] = scores["adherence"][number]
            row["pmi"] = world.pmi(reply, example["task"], who) if valid else np.nan
            rows.append(row)
    return pd.DataFrame(rows)


def adherence_by_task(scores: pd.DataFrame) -> pd.DataFrame:
    """Mean adherence; a row per task, a column per base model."""
    groups = scores.groupby(["task", "base"], sort=False)["adherence"]
    means = groups.agg(_mean).unstack("base")
    return means.reindex(list(TASKS))


def exact_by_task(examples: Sequence[Example]) -> pd.Series:
    """Expected adherence of the exact law to each task's examples."""
    exact = {}
    for task in TASKS:
        of_task = [example for example in examples if example["task"] == task]
        exact[task] = float(scoring.exact_adherence(of_task).mean())
    return pd.Series(exact)


def missing_nats(
    models: Mapping[str, Loaded],
    examples: Sequence[Example],
    rng: np.random.Generator,
) -> pd.DataFrame:
    """Replies drawn from the world, and how likely the world and each model find them.

    Parameters
    ----------
    models : dict
        {base: (model, tokenizer)}.
    examples : sequence of dict
        One reply is drawn for each; all models read the same replies.
    rng : numpy.random.Generator
        Draws them.

    Returns
    -------
    pandas.DataFrame
        base, task, person, exact and model (log-probabilities, nats); missing, exact
        less model, whose mean estimates KL(world ‖ model) per reply.
    """
    world = World()
    replies, exact = [], []
    for example in examples:
        task, who = example["task"], scoring.as_person(example)
        reply = world.sample(task, who, example["topic"], rng)
        replies.append(reply)
        exact.append(world.log_prob(reply, task, who))

    prompted = pd.DataFrame(list(examples))[["task", "person"]]
    tables = []
    for base, (model, tokenizer) in models.items():
        prompts = [render(tokenizer, e["query"], e["context"]) for e in examples]
        scored = response_logps(model, tokenizer, prompts, replies, batch_size=128)
        table = prompted.assign(base=base, exact=exact, model=scored.summed.numpy())
        tables.append(table)
    joined = pd.concat(tables, ignore_index=True)
    return joined.assign(missing=joined["exact"] - joined["model"])


def slot_frequencies(
    replies: Sequence[str], examples: Sequence[Example]
) -> pd.DataFrame:
    """How often replies fill each slot with each value, and how often the marginal.

    Parameters
    ----------
    replies : sequence of str
        One per example; those outside the grammar are left out.
    examples : sequence of dict
        What they answer.

    Returns
    -------
    pandas.DataFrame
        task, slot, value, exact, frequency (shares of the slot's values); no rows for
        a task without a valid reply.
    """
    world, rows = World(), []
    for task in TASKS.values():
        values = _values(replies, examples, task)
        if not values:
            continue
        for place, slot in enumerate(task.slots):
            exact = world.marginal(task.name).slot(place)
            stated = [value[place] for value in values]
            for option, share in zip(slot.options, exact, strict=True):
                frequency = stated.count(option) / len(stated)
                rows.append((task.name, slot.name, option, share, frequency))
    columns = ["task", "slot", "value", "exact", "frequency"]
    return pd.DataFrame(rows, columns=columns)


def _values(
    replies: Sequence[str], examples: Sequence[Example], task: Task
) -> list[tuple[str, ...]]:
    """Slot values of the valid replies to a task."""
    parsed = []
    for reply, example in zip(replies, examples, strict=True):
        if example["task"] == task.name:
            parsed.append(parse(reply, task))
    return [pair[0] for pair in parsed if pair is not None]


def expected_noise(frequencies: pd.DataFrame, n: int) -> float:
    """Mean distance of frequencies from their probabilities, if replies follow the law.

    Parameters
    ----------
    frequencies : pandas.DataFrame
        Of `slot_frequencies`; only the column exact, p, counts.
    n : int
        Replies per slot.

    Returns
    -------
    float
        Mean of √(2p(1 - p) / πn), the normal approximation.
    """
    p = frequencies["exact"]
    return float(np.sqrt(2 / np.pi * p * (1 - p) / n).mean())


# ---- numbers ----


def report(
    nb: Notebook, name: str, table: pd.DataFrame, column: str, unit: str, note: str = ""
) -> Number:
    """Keep the mean of a column as a number of the notebook, with its 95 % interval.

    The interval is over base models where there are several, else over people.

    Parameters
    ----------
    nb : Notebook
        Keeps it.
    name, unit, note : str
        Of the number.
    table : pandas.DataFrame
        A row per reply, with columns base and person.
    column : str
        What is averaged.

    Returns
    -------
    Number
    """
    bases = [rows for _, rows in table.groupby("base", sort=False)]
    if len(bases) > 1:
        means = [_mean(rows[column]) for rows in bases]
        return nb.number(name, means, unit, note=note)
    means = table.groupby("person")[column].agg(_mean)
    mean, *interval = t_interval(means)
    note = note or "interval over people"
    return nb.number(name, mean, unit, interval=interval, note=note)


def _mean(values: pd.Series) -> float:
    return float(values.to_numpy().mean())


# ---- exercises ----


def information_about(people: Mapping[str, Person], task: str) -> dict[str, float]:
    """What replies to a task tell about each person: KL(p(·|x,c) ‖ p(·|x)), nats."""
    world = World()
    marginal = world.marginal(task)
    return {name: world.law(task, who).kl(marginal) for name, who in people.items()}


def tone_counted_thrice() -> float:
    """Nats by which a product over slots overstates the PMI of a friendly *email*.

    All three slots of tone state "friendly", to a friendly person. The product takes
    the slots for independent on average over people, too.
    """
    world = World()
    marginal = world.marginal("email")
    slots, together = next(group for group in marginal.groups if len(group[0]) == 3)
    friendly = list(TASKS["email"].slots[0].options).index("friendly")
    apart = [marginal.slot(place)[friendly] for place in slots]
    return float(np.log(together[friendly, friendly, friendly] / np.prod(apart)))


def optimum_adherence(
    world: World, people: Sequence[Person], *, beta: float = 1.0
) -> float:
    """Mean adherence, over people and tasks, of the optimum against what nobody gets.

    Parameters
    ----------
    world : World
        Says what nobody gets.
    people : sequence of Person
        Who is served.
    beta : float
        Of the optimum.

    Returns
    -------
    float
        Share of slots.
    """
    shares = []
    for who in people:
        for task in TASKS:
            law = world.optimum(task, who, beta, negative="missing_context")
            shares.append(law.adherence(who))
    return float(np.mean(shares))
