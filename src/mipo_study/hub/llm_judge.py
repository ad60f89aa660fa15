"""A local model as judge: two replies in both orders, or one reply on a scale from 1 to 5; verdicts are cached in a file.

A judge is a model with its own taste. So its taste is reported beside its verdicts: how often it prefers what it reads
first, how often what is longer, and how often it contradicts itself when the replies change places.
"""

import hashlib
import json
import re
from pathlib import Path

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


class Judge:
    """Asks a model greedily and remembers every answer in `cache` (JSONL), written batch by batch: a crash loses one batch.

    loader   () -> (model, tokenizer), called only when something has not been asked before
    key      names the judge in the cache, so that another judge asks anew
    called   what a reader calls it, for messages
    """

    def __init__(self, loader, key, cache, *, called="", batch_size=32, progress=False):
        self.loader, self.key, self.cache, self.called = (
            loader,
            str(key),
            Path(cache),
            called or str(key),
        )
        self.settings = {
            "max_new_tokens": 8,
            "batch_size": batch_size,
            "progress": progress,
        }
        self._loaded, self._known = None, self._read()

    def _read(self):
        """What the cache holds; a last line that a crash cut short is left out."""
        known = {}
        lines = (
            self.cache.read_text(encoding="utf-8").splitlines()
            if self.cache.exists()
            else []
        )
        for line in lines:
            try:
                row = json.loads(line)
                known[row["asked"]] = row["said"]
            except (json.JSONDecodeError, KeyError):
                continue
        return known

    def say(self, texts):
        """The judge's raw answer to each text, from the cache where it was given before."""
        asked = [
            hashlib.sha256(f"{self.key}\0{t}".encode()).hexdigest()[:32] for t in texts
        ]
        new = list(
            {a: i for i, a in enumerate(asked) if a not in self._known}.values()
        )  # each text once
        size = self.settings["batch_size"] * 8
        for start in range(0, len(new), size):
            part = new[start : start + size]
            self._loaded = self._loaded or self.loader()
            model, tokenizer = self._loaded
            said = sampling.generate(
                model,
                tokenizer,
                [render(tokenizer, texts[i]) for i in part],
                temperature=0.0,
                names=[f"judge, case {i}" for i in part],
                **self.settings,
            )
            self.cache.parent.mkdir(parents=True, exist_ok=True)
            with open(self.cache, "a", encoding="utf-8") as file:
                if file.tell() and not self.cache.read_bytes().endswith(b"\n"):
                    file.write("\n")
                file.writelines(
                    json.dumps({"asked": asked[i], "said": y}) + "\n"
                    for i, y in zip(part, said, strict=True)
                )
            self._known |= {asked[i]: y for i, y in zip(part, said, strict=True)}
        return [self._known[a] for a in asked]


def verdict(text):
    """ "A", "B" or "tie", or None where the answer is not in form."""
    found = re.match(r"\W*(?:reply\s+|answer:?\s*)?(A|B|tie)\b", text.strip(), re.I)
    return (
        None if not found else "tie" if found[1].lower() == "tie" else found[1].upper()
    )


def rating(text):
    """1 to 5, or None where the answer is not in form."""
    found = re.match(r"\D{0,12}?\b([1-5])\b(?!\d|\.\d)", text.strip())
    return int(found[1]) if found else None


def wishes_of(record):
    return record.get("wishes") or [record.get("context") or "none stated"]


def check_form(answers, judge, limit=0.2):
    """ValueError if more than `limit` of the answers are not in form; what was asked stays in the cache."""
    lost = sum(a is None for a in answers)
    if answers and lost > limit * len(answers):
        raise ValueError(
            f"judge {judge.called}: {lost} of {len(answers)} answers are not in the form that was asked for "
            "(A, B or tie; 1 to 5). Choose a stronger instruction-tuned judge, with -p judge NAME, or leave it "
            f'out with -p judge "". What it said is kept in {judge.cache.name} of the run\'s folder.'
        )


def compare(judge, records, ours, theirs):
    """Verdicts on pairs of replies, both orders: {"score": (n,) 1 win, 0 tie, -1 loss, "first": [...], "second": [...]}.

    A win needs both orders: a judge that changes its mind when the replies change places has seen no difference, and that
    is a tie. An answer out of form counts as "tie" in its order; more than `limit` of them are a ValueError.
    """

    def ask(a_side, b_side):
        return judge.say(
            [
                PAIR.format(wishes="\n".join(wishes_of(r)), query=r["query"], a=a, b=b)
                for r, a, b in zip(records, a_side, b_side, strict=True)
            ]
        )

    first, second = [
        [verdict(t) for t in side] for side in (ask(ours, theirs), ask(theirs, ours))
    ]
    check_form(first + second, judge)
    value = {"A": 1, "B": -1, "tie": 0, None: 0}
    both = np.array(
        [[value[v], -value[w]] for v, w in zip(first, second, strict=True)]
    ).reshape(-1, 2)
    score = np.where(both[:, 0] == both[:, 1], both[:, 0], 0)
    return {"score": score, "first": first, "second": second}


def report(found, ours, theirs):
    """Shares of a comparison: win, tie, loss, win_or_tie (ties as wins); and what the judge's taste is.

    position   share of the pairs with a decided verdict in both orders where the reply shown first won both times, less
               that where the second did: 0 is fair, 1 always the first
    agreement  share of pairs with the same verdict in both orders
    length     share of wins and losses that went to the longer reply (words); 0.5 is fair, None where there is none
    unformed   share of answers out of form
    """
    first, second, score = found["first"], found["second"], np.asarray(found["score"])
    decided = [
        (v, w)
        for v, w in zip(first, second, strict=True)
        if v in ("A", "B") and w in ("A", "B")
    ]
    slot = [(v == w == "A") - (v == w == "B") for v, w in decided]
    turned = {"A": "B", "B": "A", "tie": "tie"}
    same = [
        v is not None and turned[v] == w for v, w in zip(first, second, strict=True)
    ]
    gap = np.array(
        [len(a.split()) - len(b.split()) for a, b in zip(ours, theirs, strict=True)]
    )
    told = score * np.sign(gap)
    told = told[told != 0]
    return evaluate.win_rate(score, np.zeros(len(score))) | {
        "position": float(np.mean(slot)) if slot else 0.0,
        "agreement": float(np.mean(same)),
        "length": float((told > 0).mean()) if len(told) else None,
        "longer": float((gap > 0).mean()),
        "unformed": float(np.mean([a is None for a in first + second])),
    }


def rate(judge, records, replies, *, limit=0.2, missing=None):
    """Mean rating 1..5 of each reply over the person's wishes, (n,), as the released evaluation; NaN where all are missing.

    missing   what an answer out of form counts as, None: it is left out (see `OUT_OF_FORM`)
    """
    asked = [
        (i, SCALE.format(wish=w, query=r["query"], reply=y))
        for i, (r, y) in enumerate(zip(records, replies, strict=True))
        for w in wishes_of(r)
    ]
    answers = [rating(t) for t in judge.say([text for _, text in asked])]
    check_form(answers, judge, limit)
    marks = [[] for _ in records]
    for (i, _), a in zip(asked, answers, strict=True):
        value = missing if a is None else a
        if value is not None:
            marks[i].append(value)
    return np.array([np.mean(m) if m else np.nan for m in marks])


def released_wins(ours, reference):
    """The papers' wins, (n,): 1 where ours is rated at least as high as the reference, else 0; NaN without a rating."""
    ours, reference = np.asarray(ours, float), np.asarray(reference, float)
    return np.where(np.isnan(ours) | np.isnan(reference), np.nan, ours >= reference)


def released_win_rate(ours, reference):
    """Share of rated items that are won as the papers count: ties win."""
    wins = released_wins(ours, reference)
    if np.isnan(wins).all():
        raise ValueError("no item has a rating of both replies")
    return float(np.nanmean(wins))
