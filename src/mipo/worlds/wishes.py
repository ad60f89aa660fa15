"""People with wishes that a program can check, and what they ask a language model.

A person has a name, work, a hobby and so on, and two wishes. The context states the
wishes in words; whether a reply follows them is seen by `mipo.worlds.wish_checks`. So
the adherence of a real language model is measured without a judge.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mipo.worlds import wish_data as data
from mipo.worlds.wish_checks import without_copies
from mipo.worlds.wish_data import SHARES, WISHES, WORDINGS

CONDITIONS = (
    "plain",
    "misapplied",
    "noisy",
    "incomplete",
    "ambiguous",
    "conflicting",
)
RARE = 0.25  # a rare wish is drawn so many times as often as a common one
TYPOS = 0.3  # share of the words of a noisy context in which two letters swap places
EACH = 2  # wishes of a person


@dataclass(frozen=True)
class Person:
    """Someone with values of their own and wishes.

    Attributes
    ----------
    values : dict
        name, job, hobby, place, pet, opening, closing.
    wishes : tuple of str
        Keys of `WISHES`.
    """

    values: Mapping[str, str]
    wishes: tuple[str, ...]


def part_of(values: Sequence[str], split: str) -> list[str]:
    """The part of a list that belongs to a split; see `wish_data.SHARES`."""
    start, stop = SHARES[split]
    unit = len(values) // 16
    return list(values[start * unit : stop * unit])


def people(
    n: int, *, split: str, seed: int = 0, entered: Sequence[str] = data.ENTERED
) -> list[Person]:
    """Draw people of a split, each with two wishes that do not contradict one another.

    Parameters
    ----------
    n : int
        How many.
    split : {"choose", "mipo", "select", "test"}
        No name, work, hobby, city, pet or phrase is in two of them.
    seed : int
        The same seed gives the same people.
    entered : sequence of str
        Wishes that people can have. Rare ones are drawn `RARE` times as often as the
        others, but in "choose" as often, since every wish is tried there.

    Raises
    ------
    ValueError
        For another split, and for fewer than two wishes that go together.
    """
    _require(split, SHARES, "split")
    if not any(agree(one, other) for one in entered for other in entered):
        raise ValueError(f"no two of these wishes go together: {', '.join(entered)}")
    rng = np.random.default_rng((seed, 11))
    return [_person(rng, split, entered) for _ in range(n)]


def _require(name: str, choices: Any, what: str) -> None:
    if name not in choices:
        raise ValueError(f"{what}={name!r}: choose one of {', '.join(choices)}")


def _person(rng: np.random.Generator, split: str, entered: Sequence[str]) -> Person:
    values = _values(rng, split)
    rare = 1.0 if split == "choose" else RARE
    weights = np.array([rare if WISHES[name].rare else 1.0 for name in entered])
    weights /= weights.sum()
    wishes: list[str] = []
    while len(wishes) < EACH:
        drawn = rng.choice(list(entered), size=EACH, p=weights).tolist()
        wishes = drawn if agree(*drawn) else []
    return Person(values, tuple(wishes))


def _values(rng: np.random.Generator, split: str) -> dict[str, str]:
    lists = {
        "name": data.NAMES,
        "job": list(data.JOBS),
        "hobby": list(data.HOBBIES),
        "place": data.PLACES,
        "pet": data.PETS,
        "opening": data.OPENINGS,
        "closing": data.CLOSINGS,
    }
    return {
        key: str(rng.choice(part_of(values, split))) for key, values in lists.items()
    }


def agree(name: str, other: str) -> bool:
    """Whether one person can have both wishes."""
    contradict = other == WISHES[name].against or name == WISHES[other].against
    return name != other and not contradict


def value_of(name: str, values: Mapping[str, str]) -> str:
    """What the check of a wish looks for, of a person's values; "" where nothing."""
    wish = WISHES[name]
    own = values.get(wish.value, "")
    if wish.value == "job":
        return data.JOBS[own]
    if wish.value == "hobby":
        return data.HOBBIES[own]
    if wish.value == "pet":
        return own.partition("|")[2]
    return own


def say(wording: str, values: Mapping[str, str]) -> str:
    """A wording with a person's values in it."""
    kind, _, name = values["pet"].partition("|")
    return wording.format(**{**values, "pet": f"{kind} called {name}"})


def fits(name: str, task: str) -> bool:
    """Whether a wish applies to what is asked.

    A wish that speaks to the person is out of place in a message to somebody else, and
    no wish but those made for it applies where only a fact, code or a translation is
    asked for.
    """
    wish = WISHES[name]
    if wish.tasks:
        return task in wish.tasks
    if data.TASKS[task].to_me:
        return True
    return task in ("email", "product") and not wish.personal


def misfits(name: str, task: str) -> bool:
    """Whether a wish that speaks to the person is out of place in what is asked."""
    return WISHES[name].personal and not data.TASKS[task].to_me


def examples(
    n_people: int,
    *,
    split: str,
    seed: int = 0,
    condition: str = "plain",
    entered: Sequence[str] = data.ENTERED,
    house: bool = False,
) -> list[dict[str, Any]]:
    """One question of each of n people with wishes.

    Parameters
    ----------
    n_people, split, seed, entered
        See `people`.
    condition : str
        "plain": wishes that fit the question; people of the split "mipo" ask anything,
        as people do. "misapplied": wishes that do not fit. "noisy": letters of the
        context are swapped, but for those of names that a check looks for.
        "incomplete": one wish is not stated, nor checked. "ambiguous": wishes are
        hinted at. "conflicting": a wish that fits is also contradicted, before or after
        it by chance.
    house : bool
        A house style that holds for everybody stands before the question.

    Returns
    -------
    list of dict
        "query" and "context" (text), "gold" (None), "person" (an index), "task",
        "values", and "wishes": list of {"wish", "value"}, what is to be checked and
        what the check looks for.

    Raises
    ------
    ValueError
        For another split or condition.
    """
    _require(condition, CONDITIONS, "condition")
    rng = np.random.default_rng((seed, 12))
    if condition == "misapplied":
        entered = [name for name in entered if WISHES[name].personal]
    rows = []
    for i, who in enumerate(people(n_people, split=split, seed=seed, entered=entered)):
        row = _example(rng, who, split, condition)
        if house:
            style = _wording(rng, data.HOUSE.wordings, split)
            row["query"] = f"{style}\n\n{row['query']}"
        rows.append({**row, "person": i, "gold": None})
    return rows


def _example(
    rng: np.random.Generator, who: Person, split: str, condition: str
) -> dict[str, Any]:
    task = _task(rng, who, split, condition)
    topic = str(rng.choice(part_of(data.TASKS[task].topics, split)))
    query = _wording(rng, data.TASKS[task].wordings, split).format(topic=topic)
    counts = misfits if condition == "misapplied" else fits
    stated = rng.permutation(who.wishes).tolist()
    stated.sort(key=lambda name: not counts(name, task))  # one that counts is first
    if condition == "incomplete":
        stated = stated[:1]
    lines = [_stated(rng, name, who, split, condition) for name in stated]
    if condition == "conflicting":
        lines.append(_contradiction(rng, stated[0], who, split))
    rng.shuffle(lines)
    context = " ".join(lines)
    if condition == "noisy":
        context = misspell(context, rng, spare=_names(who.values))
    wishes = [
        {"wish": name, "value": value_of(name, who.values)}
        for name in who.wishes
        if name in stated and counts(name, task)
    ]
    return {
        "query": query,
        "context": context,
        "task": task,
        "wishes": wishes,
        "values": dict(who.values),
    }


def _names(values: Mapping[str, str]) -> set[str]:
    """The words of a person's values."""
    return set(re.findall(r"\w+", " ".join(values.values())))


def _task(rng: np.random.Generator, who: Person, split: str, condition: str) -> str:
    """What the person asks; where it is measured, something that a wish applies to."""
    if split == "mipo":
        return str(rng.choice(list(data.TASKS)))
    counts = misfits if condition == "misapplied" else fits
    wish = str(rng.choice(who.wishes))
    return str(rng.choice([task for task in data.TASKS if counts(wish, task)]))


def _wording(rng: np.random.Generator, wordings: Sequence[str], split: str) -> str:
    start, stop = WORDINGS[split]
    return str(rng.choice(wordings[start:stop]))


def _stated(
    rng: np.random.Generator, name: str, who: Person, split: str, condition: str
) -> str:
    if condition == "ambiguous":
        return say(WISHES[name].vague, who.values)
    return say(_wording(rng, WISHES[name].wordings, split), who.values)


def _contradiction(rng: np.random.Generator, name: str, who: Person, split: str) -> str:
    """The same wish with somebody else's value, or the wish that stands against it."""
    wish = WISHES[name]
    if not wish.value:
        return say(_wording(rng, WISHES[wish.against].wordings, split), who.values)
    values = who.values
    while values[wish.value] == who.values[wish.value]:
        values = _values(rng, split)
    return say(_wording(rng, wish.wordings, split), values)


def misspell(text: str, rng: np.random.Generator, spare: Collection[str] = ()) -> str:
    """A text in which two neighbouring letters of some words have swapped places.

    Parameters
    ----------
    text : str
        Words between spaces.
    rng : numpy.random.Generator
    spare : collection of str
        Words that stay as they are.
    """
    typed = []
    for word in text.split(" "):
        known = any(part in spare for part in re.findall(r"\w+", word))
        if len(word) > 3 and not known and rng.random() < TYPOS:
            i = int(rng.integers(1, len(word) - 2))
            word = word[:i] + word[i + 1] + word[i] + word[i + 2 :]
        typed.append(word)
    return " ".join(typed)


def facts(told: str = "nothing") -> list[dict[str, Any]]:
    """Questions with a true answer, beside a context that states an answer.

    Parameters
    ----------
    told : {"nothing", "right", "wrong"}
        Which answer the context states.

    Returns
    -------
    list of dict
        "query", "context", "gold" (the true answer), "mistake" (the other one).

    Raises
    ------
    ValueError
        For another kind of context.
    """
    _require(told, ("nothing", "right", "wrong"), "told")
    rows = []
    for fact in data.FACTS:
        answer = {"nothing": "", "right": fact.right, "wrong": fact.wrong}[told]
        claim = fact.claim.format(answer=answer) if answer else ""
        rows.append(
            {
                "query": fact.question,
                "context": claim,
                "gold": fact.right,
                "mistake": fact.wrong,
            }
        )
    return rows


def follows(name: str, value: str, reply: str, *, finished: bool = True) -> bool:
    """Whether a reply follows a wish.

    Parameters
    ----------
    name : str
        A key of `WISHES`.
    value : str
        What the check looks for; see `value_of`.
    reply : str
        The reply as text.
    finished : bool
        Whether the model ended it.
    """
    return WISHES[name].check(reply, finished, value)


def adherence(
    reply: str,
    example: Mapping[str, Any],
    *,
    finished: bool = True,
    own_words: bool = False,
) -> list[bool]:
    """Whether a reply follows each wish of its example.

    Parameters
    ----------
    reply : str
        The reply as text.
    example : dict
        Of `examples`.
    finished : bool
        Whether the model ended the reply.
    own_words : bool
        Runs of five or more words that the reply copies from the wishes are taken out
        before it is checked.
    """
    text = without_copies(reply, example["context"]) if own_words else reply
    return [
        follows(wish["wish"], wish["value"], text, finished=finished)
        for wish in example["wishes"]
    ]
