"""A local model as judge: two replies in both orders, or one on a scale from 1 to 5.

A judge is a model with its own taste. So its taste is reported beside its verdicts: how
often it prefers what it reads first, how often what is longer, and how often it
contradicts itself when the replies change places.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mipo import evaluate
from mipo.data import render
from mipo.evaluate.diversity import token_lengths
from mipo.lm import sampling

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PAIR = (
    "A person wrote the message below. Two assistants replied. Decide which reply does "
    "better what this person asks for; a longer reply is not better for being longer."
    "\n\n[Wishes of the person]\n{wishes}\n\n[Message]\n{query}"
    "\n\n[Reply A]\n{a}\n\n[Reply B]\n{b}"
    "\n\nAnswer with one word: A, B or tie."
)
SCALE = (
    "Rate how well the reply below respects one wish of the person who asked. 1: it is "
    "a general reply, the wish is ignored. 5: it fully respects the wish."
    "\n\n[Wish]\n{wish}\n\n[Message]\n{query}\n\n[Reply]\n{reply}"
    "\n\nAnswer with one number from 1 to 5."
)
# What the released scripts make of a rating that is out of form; for any other data set
# it is left out.
OUT_OF_FORM = {"community-alignment": 0, "multifaceted-bench": 0}


VALUES = {"A": 1, "B": -1, "tie": 0, None: 0}
OTHER_ORDER = {"A": "B", "B": "A", "tie": "tie"}


class Judge:
    """Asks a model greedily and remembers every answer in a file, batch by batch.

    Parameters
    ----------
    loader : callable
        () -> (model, tokenizer), called only for a text without an answer in the file.
    key : str
        Names the judge in the file, so that another judge asks anew.
    cache : path
        JSONL of answers; a crash loses one batch.
    name : str
        What a reader calls it, for messages; "" is the key.
    batch_size : int
        Texts at once.
    progress : bool
        Show a bar.
    """

    def __init__(
        self,
        loader: Callable[[], tuple[PreTrainedModel, PreTrainedTokenizerBase]],
        key: str,
        cache: str | Path,
        *,
        name: str = "",
        batch_size: int = 32,
        progress: bool = False,
    ):
        self.loader = functools.cache(loader)
        self.key = str(key)
        self.cache = Path(cache)
        self.name = name or self.key
        self.batch_size = batch_size
        self.progress = progress
        self._answers = self._read()

    def _read(self) -> dict[str, str]:
        """What the file holds; a last line that a crash cut short is left out."""
        if not self.cache.exists():
            return {}
        answers = {}
        for line in self.cache.read_text(encoding="utf-8").split("\n"):
            try:
                row = json.loads(line)
                answers[row["prompt"]] = row["reply"]
            except (json.JSONDecodeError, KeyError, TypeError):
                continue
        return answers

    def answers(self, texts: Sequence[str]) -> list[str]:
        """The judge's raw answer to each text, from the file where it is there."""
        keys = [self._key_of(text) for text in texts]
        new = {k: i for i, k in enumerate(keys) if k not in self._answers}
        places = list(new.values())  # each text once
        size = self.batch_size * 8
        for start in range(0, len(places), size):
            part = places[start : start + size]
            model, tokenizer = self.loader()
            replies = sampling.generate(
                model,
                tokenizer,
                [render(tokenizer, texts[i]) for i in part],
                temperature=0.0,
                names=[f"judge, case {i}" for i in part],
                max_new_tokens=8,
                batch_size=self.batch_size,
                progress=self.progress,
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
    """An answer as "A", "B" or "tie"; None where it is not in form."""
    form = r"\W*(?:reply\s+|answer:?\s*)?(A|B|tie)\b"
    match = re.match(form, text.strip(), re.I)
    if not match:
        return None
    word = match[1].lower()
    return word if word == "tie" else word.upper()


def rating(text: str) -> int | None:
    """An answer as 1 to 5; None where it is not in form."""
    match = re.match(r"\D{0,12}?\b([1-5])\b(?!\d|\.\d)", text.strip())
    return int(match[1]) if match else None


def wishes_of(example: Mapping[str, Any]) -> list[str]:
    """What a person wants: the wishes of the data set, or the whole context."""
    return example.get("wishes") or [example.get("context") or "none stated"]


def check_form(answers: Sequence, judge: Judge, limit: float = 0.2) -> None:
    """Stop where too many answers are out of form; they stay in the judge's file.

    Parameters
    ----------
    answers : sequence
        None for what is out of form.
    judge : Judge
        Who answered.
    limit : float
        The share of them that is put up with.

    Raises
    ------
    ValueError
        For more.
    """
    lost = sum(answer is None for answer in answers)
    if answers and lost > limit * len(answers):
        raise ValueError(
            f"judge {judge.name}: {lost} of {len(answers)} answers are not in the "
            "form that was asked for (A, B or tie; 1 to 5). Choose a stronger "
            "instruction-tuned judge, with -p judge NAME, or leave it out with "
            f'-p judge "". What it said is kept in {judge.cache.name} of the run\'s '
            "folder."
        )


def compare(
    judge: Judge,
    examples: Sequence[Mapping],
    ours: Sequence[str],
    theirs: Sequence[str],
) -> dict[str, Any]:
    """Verdicts on pairs of replies, in both orders.

    Parameters
    ----------
    judge : Judge
        Who reads them.
    examples : sequence of dict
        What the replies answer, shape (n,).
    ours, theirs : sequence of str
        One reply each per example.

    Returns
    -------
    dict
        "score", shape (n,): 1 win, 0 tie, -1 loss; "first", "second": the verdict with
        our reply as A, and with theirs as A.

    Raises
    ------
    ValueError
        See `check_form`.

    Notes
    -----
    A win needs both orders: a judge that changes its mind when the replies change
    places has seen no difference, and that is a tie. An answer out of form counts as a
    tie in its order.
    """

    def verdicts_of(a_side: Sequence[str], b_side: Sequence[str]) -> list[str | None]:
        prompts = [
            PAIR.format(wishes="\n".join(wishes_of(e)), query=e["query"], a=a, b=b)
            for e, a, b in zip(examples, a_side, b_side, strict=True)
        ]
        return [verdict(text) for text in judge.answers(prompts)]

    first = verdicts_of(ours, theirs)
    second = verdicts_of(theirs, ours)
    check_form(first + second, judge)
    values = np.array([VALUES[v] for v in first], dtype=int)
    swapped = np.array([-VALUES[v] for v in second], dtype=int)
    score = np.where(values == swapped, values, 0)
    return {"score": score, "first": first, "second": second}


def report(
    verdicts: Mapping[str, Any], ours: Sequence[str], theirs: Sequence[str]
) -> dict[str, float | None]:
    """Shares of a comparison, and what the judge's taste is.

    Parameters
    ----------
    verdicts : dict
        Of `compare`.
    ours, theirs : sequence of str
        The replies.

    Returns
    -------
    dict
        win, tie, loss, win_or_tie (ties as wins). position: share of the pairs decided
        in both orders where the reply shown first won both times, less that where the
        second did; 0 is fair, 1 always the first. agreement: share of pairs with the
        same verdict in both orders. length: share of wins and losses that went to the
        longer reply (words), None where there is none; longer: share of our replies
        that are longer. unformed: share of answers out of form.
    """
    first, second = verdicts["first"], verdicts["second"]
    score = np.asarray(verdicts["score"])
    both = list(zip(first, second, strict=True))
    decided = [(v, w) for v, w in both if {v, w} <= {"A", "B"}]
    slots = [(v == w == "A") - (v == w == "B") for v, w in decided]
    same = [v is not None and OTHER_ORDER[v] == w for v, w in both]
    gap = token_lengths(ours) - token_lengths(theirs)  # words
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
    judge : Judge
        Who rates them.
    examples : sequence of dict
        What the replies answer, shape (n,).
    replies : sequence of str
        One per example.
    limit : float
        See `check_form`.
    missing : int, optional
        What an answer out of form counts as; None leaves it out (see `OUT_OF_FORM`).

    Returns
    -------
    ndarray, shape (n,)
        NaN where all are missing.

    Raises
    ------
    ValueError
        See `check_form`.
    """
    places, prompts = [], []
    for i, (example, reply) in enumerate(zip(examples, replies, strict=True)):
        for wish in wishes_of(example):
            places.append(i)
            prompts.append(SCALE.format(wish=wish, query=example["query"], reply=reply))
    ratings = [rating(text) for text in judge.answers(prompts)]
    check_form(ratings, judge, limit)
    by_example: list[list[int]] = [[] for _ in examples]
    for i, mark in zip(places, ratings, strict=True):
        value = missing if mark is None else mark
        if value is not None:
            by_example[i].append(value)
    return np.array([np.mean(marks) if marks else np.nan for marks in by_example])


def released_wins(ours: ArrayLike, reference: ArrayLike) -> np.ndarray:
    """The papers' wins: a reply wins if it is rated at least as high as the reference.

    Parameters
    ----------
    ours, reference : array_like, shape (n,)
        Ratings, NaN for none.

    Returns
    -------
    ndarray, shape (n,)
        1 or 0; NaN where a rating is missing.
    """
    mine, theirs = np.asarray(ours, float), np.asarray(reference, float)
    unrated = np.isnan(mine) | np.isnan(theirs)
    return np.where(unrated, np.nan, mine >= theirs)


def released_win_rate(ours: ArrayLike, reference: ArrayLike) -> float:
    """Share of rated items that are won as the papers count: ties win.

    Parameters
    ----------
    ours, reference : array_like, shape (n,)
        Ratings, NaN for none.

    Raises
    ------
    ValueError
        Where no item has a rating of both.
    """
    wins = released_wins(ours, reference)
    if np.isnan(wins).all():
        raise ValueError("no item has a rating of both replies")
    return float(np.nanmean(wins))
