"""A local model as judge: two replies in both orders, or one on a scale from 1 to 5.

A judge is a model with its own taste. So its taste is reported beside its verdicts: how
often it prefers what it reads first, how often what is longer, and how often it
contradicts itself when the replies change places.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mipo import evaluate
from mipo.data import render
from mipo.lm import sampling

PAIR = (
    "A person wrote the message below. Two assistants replied. Decide which reply does better what this person asks "
    "for; a longer reply is not better for being longer.\n\n[Wishes of the person]\n{wishes}\n\n[Message]\n{query}\n\n"
    "[Reply A]\n{a}\n\n[Reply B]\n{b}\n\nAnswer with one word: A, B or tie."
)
SCALE = (
    "Rate how well the reply below respects one wish of the person who asked. 1: it is a general reply, the wish is "
    "ignored. 5: it fully respects the wish.\n\n[Wish]\n{wish}\n\n[Message]\n{query}\n\n[Reply]\n{reply}\n\n"
    "Answer with one number from 1 to 5."
)
# What the released scripts make of a rating that is out of form; for any other data set it is left out.
OUT_OF_FORM = {"community-alignment": 0, "multifaceted-bench": 0}


VALUES = {"A": 1, "B": -1, "tie": 0, None: 0}
OTHER_ORDER = {"A": "B", "B": "A", "tie": "tie"}


class Judge:
    """Asks a model greedily and remembers every answer in a file, batch by batch.

    Parameters
    ----------
    loader : callable
        () -> (model, tokenizer), called only when something has not been asked before.
    key : str
        Names the judge in the file, so that another judge asks anew.
    cache : path
        JSONL of answers; a crash loses one batch.
    called : str
        What a reader calls it, for messages.
    """

    def __init__(
        self,
        loader: Callable[[], tuple],
        key: str,
        cache: str | Path,
        *,
        called: str = "",
        batch_size: int = 32,
        progress: bool = False,
    ):
        self.loader, self.key, self.cache = loader, str(key), Path(cache)
        self.called = called or str(key)
        self.settings = {
            "max_new_tokens": 8,
            "batch_size": batch_size,
            "progress": progress,
        }
        self._loaded: tuple | None = None
        self._answers = self._read()

    def _read(self) -> dict[str, str]:
        """What the file holds; a last line that a crash cut short is left out."""
        answers = {}
        lines = []
        if self.cache.exists():
            lines = self.cache.read_text(encoding="utf-8").split("\n")
        for line in lines:
            try:
                row = json.loads(line)
                answers[row["prompt"]] = row["reply"]
            except (json.JSONDecodeError, KeyError, TypeError):
                continue
        return answers

    def say(self, texts: Sequence[str]) -> list[str]:
        """The judge's raw answer to each text, from the file where it was given before."""
        keys = [self._key_of(text) for text in texts]
        new = {k: i for i, k in enumerate(keys) if k not in self._answers}
        places = list(new.values())  # each text once
        size = self.settings["batch_size"] * 8
        for start in range(0, len(places), size):
            part = places[start : start + size]
            self._loaded = self._loaded or self.loader()
            model, tokenizer = self._loaded
            replies = sampling.generate(
                model,
                tokenizer,
                [render(tokenizer, texts[i]) for i in part],
                temperature=0.0,
                names=[f"judge, case {i}" for i in part],
                **self.settings,
            )
            self._keep({keys[i]: y for i, y in zip(part, replies, strict=True)})
        return [self._answers[key] for key in keys]

    def _key_of(self, text: str) -> str:
        return hashlib.sha256(f"{self.key}\0{text}".encode()).hexdigest()[:32]

    def _keep(self, answers: Mapping[str, str]) -> None:
        self.cache.parent.mkdir(parents=True, exist_ok=True)
        with open(self.cache, "a", encoding="utf-8") as file:
            if file.tell() and not self.cache.read_bytes().endswith(b"\n"):
                file.write("\n")
            for key, reply in answers.items():
                file.write(json.dumps({"prompt": key, "reply": reply}) + "\n")
        self._answers |= answers


def verdict(text: str) -> str | None:
    """ "A", "B" or "tie", or None where the answer is not in form."""
    form = r"\W*(?:reply\s+|answer:?\s*)?(A|B|tie)\b"
    match = re.match(form, text.strip(), re.I)
    if not match:
        return None
    word = match[1].lower()
    return word if word == "tie" else word.upper()


def rating(text: str) -> int | None:
    """1 to 5, or None where the answer is not in form."""
    match = re.match(r"\D{0,12}?\b([1-5])\b(?!\d|\.\d)", text.strip())
    return int(match[1]) if match else None


def wishes_of(example: Mapping[str, Any]) -> list[str]:
    """What a person wants: the wishes of the data set, or the whole context."""
    return example.get("wishes") or [example.get("context") or "none stated"]


def check_form(answers: Sequence, judge: Judge, limit: float = 0.2) -> None:
    """Stop where too many answers are out of form; they stay in the judge's file.

    Raises
    ------
    ValueError
        For more than `limit` of them.
    """
    lost = sum(answer is None for answer in answers)
    if answers and lost > limit * len(answers):
        raise ValueError(
            f"judge {judge.called}: {lost} of {len(answers)} answers are not in the form "
            "that was asked for (A, B or tie; 1 to 5). Choose a stronger instruction-tuned "
            'judge, with -p judge NAME, or leave it out with -p judge "". What it said is '
            f"kept in {judge.cache.name} of the run's folder."
        )


def compare(
    judge: Judge,
    examples: Sequence[Mapping],
    ours: Sequence[str],
    theirs: Sequence[str],
) -> dict[str, Any]:
    """Verdicts on pairs of replies, in both orders.

    A win needs both orders: a judge that changes its mind when the replies change places
    has seen no difference, and that is a tie. An answer out of form counts as a tie in its
    order.

    Returns
    -------
    dict
        score, shape (n,): 1 win, 0 tie, -1 loss; first, second: the verdict with our reply
        as A, and with theirs as A.

    Raises
    ------
    ValueError
        See `check_form`.
    """

    def ask(a_side, b_side):
        prompts = [
            PAIR.format(wishes="\n".join(wishes_of(e)), query=e["query"], a=a, b=b)
            for e, a, b in zip(examples, a_side, b_side, strict=True)
        ]
        return [verdict(text) for text in judge.say(prompts)]

    first, second = ask(ours, theirs), ask(theirs, ours)
    check_form(first + second, judge)
    straight = np.array([VALUES[v] for v in first], dtype=int)
    turned = np.array([-VALUES[v] for v in second], dtype=int)
    score = np.where(straight == turned, straight, 0)
    return {"score": score, "first": first, "second": second}


def report(
    verdicts: Mapping[str, Any], ours: Sequence[str], theirs: Sequence[str]
) -> dict[str, float | None]:
    """Shares of a comparison, and what the judge's taste is.

    Returns
    -------
    dict
        win, tie, loss, win_or_tie (ties as wins). position: share of the pairs decided in
        both orders where the reply shown first won both times, less that where the second
        did; 0 is fair, 1 always the first. agreement: share of pairs with the same verdict
        in both orders. length: share of wins and losses that went to the longer reply
        (words), None where there is none; longer: share of our replies that are longer.
        unformed: share of answers out of form.
    """
    first, second = verdicts["first"], verdicts["second"]
    score = np.asarray(verdicts["score"])
    both = list(zip(first, second, strict=True))
    decided = [(v, w) for v, w in both if {v, w} <= {"A", "B"}]
    slots = [(v == w == "A") - (v == w == "B") for v, w in decided]
    same = [v is not None and OTHER_ORDER[v] == w for v, w in both]
    gap = np.array(
        [len(a.split()) - len(b.split()) for a, b in zip(ours, theirs, strict=True)]
    )
    to_longer = score * np.sign(gap)
    to_longer = to_longer[to_longer != 0]
    shares = evaluate.win_rate(score, np.zeros(len(score)))
    return shares | {
        "position": float(np.mean(slots)) if slots else 0.0,
        "agreement": float(np.mean(same)),
        "length": float((to_longer > 0).mean()) if len(to_longer) else None,
        "longer": float((gap > 0).mean()),
        "unformed": float(np.mean([answer is None for answer in first + second])),
    }


def rate(
    judge: Judge,
    examples: Sequence[Mapping],
    replies: Sequence[str],
    *,
    limit: float = 0.2,
    missing: int | None = None,
) -> np.ndarray:
    """Mean rating, 1 to 5, of each reply over its person's wishes, as released.

    Parameters
    ----------
    missing : int, optional
        What an answer out of form counts as; None leaves it out (see `OUT_OF_FORM`).

    Returns
    -------
    ndarray, shape (n,)
        NaN where all are missing.
    """
    places, prompts = [], []
    for i, (example, reply) in enumerate(zip(examples, replies, strict=True)):
        for wish in wishes_of(example):
            places.append(i)
            prompts.append(SCALE.format(wish=wish, query=example["query"], reply=reply))
    ratings = [rating(text) for text in judge.say(prompts)]
    check_form(ratings, judge, limit)
    marks: list[list[int]] = [[] for _ in examples]
    for i, given in zip(places, ratings, strict=True):
        value = missing if given is None else given
        if value is not None:
            marks[i].append(value)
    return np.array([np.mean(mark) if mark else np.nan for mark in marks])


def released_wins(ours: Sequence[float], reference: Sequence[float]) -> np.ndarray:
    """The papers' wins: 1 where ours is rated at least as high as the reference, else 0.

    NaN without a rating.
    """
    mine, theirs = np.asarray(ours, float), np.asarray(reference, float)
    unrated = np.isnan(mine) | np.isnan(theirs)
    return np.where(unrated, np.nan, mine >= theirs)


def released_win_rate(ours: Sequence[float], reference: Sequence[float]) -> float:
    """Share of rated items that are won as the papers count: ties win."""
    wins = released_wins(ours, reference)
    if np.isnan(wins).all():
        raise ValueError("no item has a rating of both replies")
    return float(np.nanmean(wins))
