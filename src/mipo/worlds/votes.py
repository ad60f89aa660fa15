"""Votes as a world of two replies: a person's other votes are the context, one vote is the reply."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from mipo.lm.prompts import render
from mipo.worlds import polis
from mipo.worlds.polis import AGREE, DISAGREE, REPLIES, Conversation

SPLITS = {
    "base": 0.5,
    "mipo": 0.2,
    "validation": 0.1,
    "test": 0.2,
}  # shares of the people


@dataclass(frozen=True)
class Panel:
    """Which statements are shown, which are asked, and which people serve for what."""

    votes: (
        np.ndarray
    )  # (P, S) int8 of the kept people and statements: 1 agree, -1 disagree, 0 neither
    names: np.ndarray  # (S,) statement ids
    texts: tuple  # (S,)
    asked: np.ndarray  # (S,) bool: asked about, never shown in a context
    rows: dict  # split -> indices into votes
    people: np.ndarray  # (P,) rows of the conversation
    groups: np.ndarray  # (P,) Polis' opinion groups


def panel(
    conversation: Conversation,
    *,
    min_votes: int = 100,
    min_context: int = 10,
    ask_every: int = 3,
    seed: int = 0,
) -> Panel:
    """Choose statements and split people. `seed` moves the split only.

    Statements: accepted by the moderators and with at least `min_votes` agree or disagree votes. Every `ask_every`-th
    of them is asked about and never shown: no context can contain an answer. A pass says "unsure" as well as "next,
    please": it counts as no vote, neither asked nor shown. People: at least `min_context` shown votes and one asked.

    errors  ValueError where too few statements or people are left
    """
    decided = np.where(np.abs(conversation.votes) == 1, conversation.votes, 0).astype(
        np.int8
    )  # nan and pass -> 0
    keep = conversation.accepted & (np.abs(decided).sum(0) >= min_votes)
    asked = np.arange(keep.sum()) % ask_every == ask_every - 1
    votes = decided[:, keep]
    people = np.flatnonzero(
        (np.abs(votes[:, ~asked]).sum(1) >= min_context) & (votes[:, asked] != 0).any(1)
    )
    if asked.sum() < 1 or len(people) < 10:
        raise ValueError(
            f"{conversation.topic}: {keep.sum()} statements with {min_votes} votes and {len(people)} "
            f"people with {min_context} of them are too few; lower min_votes or min_context"
        )
    order = np.random.default_rng(seed).permutation(len(people))
    ends = np.round(np.cumsum(list(SPLITS.values())) * len(people)).astype(int)
    rows = dict(zip(SPLITS, np.split(order, ends[:-1]), strict=True))
    return Panel(
        votes[people],
        conversation.statements[keep],
        tuple(np.array(conversation.texts, object)[keep]),
        asked,
        rows,
        people,
        conversation.groups[people],
    )


def places(world: Panel) -> tuple[np.ndarray, np.ndarray]:
    """The map of people: two principal components (P, 2) and their shares of the variance (2,).

    A vote counts as its distance from the statement's mean, a missing one as none; as in Polis' own map, a person's row
    is scaled up by √(statements / votes cast), lest those who voted little all lie in the middle.
    """
    cast = world.votes != 0
    mean = world.votes.sum(0) / cast.sum(0)  # (S,)
    centred = np.where(cast, world.votes - mean, 0.0)
    scaled = centred * np.sqrt(cast.shape[1] / cast.sum(1, keepdims=True))
    spread, axes = np.linalg.eigh(centred.T @ centred)  # ascending
    axes = axes[:, :-3:-1]  # (S, 2)
    axes = axes * np.sign(
        axes[np.abs(axes).argmax(0), [0, 1]]
    )  # eigenvectors leave the sign open
    return scaled @ axes, spread[:-3:-1] / spread.sum()


# ---- votes in words ----


def question(name: int) -> str:
    """The query: a statement's id with a question mark."""
    return f"s{name}?"


def context_text(names, values) -> str:
    """The context: "votes: s12+ s40-", plus for agree, minus for disagree; empty where nothing is known."""
    return " ".join(
        [
            "votes:",
            *(
                f"s{n}{'+' if v > 0 else '-'}"
                for n, v in zip(names, values, strict=True)
            ),
        ]
        if len(names)
        else []
    )


def vocabulary(world: Panel) -> list[str]:
    """Texts that hold every word, for `models.build_tokenizer`."""
    shown = world.names[~world.asked]
    return [
        context_text(shown, np.ones(len(shown))),
        context_text(shown, -np.ones(len(shown))),
        *(question(n) for n in world.names[world.asked]),
        *REPLIES,
        "\n\n",
    ]


def _context(world: Panel, row: int, size: int, rng) -> str:
    """`size` of a person's shown votes in random order (all, where there are fewer)."""
    known = np.flatnonzero((world.votes[row] != 0) & ~world.asked)
    known = rng.permutation(known)[:size]
    return context_text(world.names[known], world.votes[row, known])


def examples(
    world: Panel,
    split: str,
    *,
    questions: int = 8,
    answered: bool = True,
    max_context: int = 32,
    seed: int = 0,
) -> list[dict]:
    """For each person of a split: one context, and `questions` asked statements.

    answered=True: statements that the person voted on (up to as many as there are), with the vote as gold.
    answered=False: any asked statements and no gold, since MIPO needs prompts only.
    Columns: query, context, gold, person (row of the conversation), statement (id), column (place among the asked).
    """
    rng = np.random.default_rng(seed)
    out = []
    for row in world.rows[split]:
        context = _context(world, row, max_context, rng)
        votes = world.votes[row]
        for s in rng.permutation(
            np.flatnonzero(world.asked & ((votes != 0) | (not answered)))
        )[:questions]:
            out.append(
                {
                    "query": question(world.names[s]),
                    "context": context,
                    "gold": REPLIES[int(votes[s] < 0)] if answered else None,
                    "person": int(world.people[row]),
                    "statement": int(world.names[s]),
                    "column": int(world.asked[:s].sum()),
                }
            )
    return out


def load(
    conversation: str | Path = "american-assembly.bowling-green",
    *,
    split: str = "test",
    min_votes: int = 100,
    seed: int = 0,
    **settings,
) -> list[dict]:
    """Examples of a conversation by its name or folder, for ``data.load("polis")``.

    Parameters
    ----------
    conversation : str or Path
        See `polis.folder`.
    split : str
        A key of `SPLITS`.
    min_votes : int
        See `panel`.
    seed : int
        Of the split, and of what is asked.
    **settings
        Further keywords of `examples`.

    Returns
    -------
    list of dict
        See `examples`.
    """
    talk = polis.read(polis.folder(conversation))
    world = panel(talk, min_votes=min_votes, seed=seed)
    return examples(world, split, seed=seed, **settings)


def contexts_of(recs: list[dict]) -> list[str]:
    """One context per person, in the order of the records."""
    return list({r["person"]: r["context"] for r in recs}.values())


def shuffled(recs: list[dict], *, seed: int = 0) -> list[dict]:
    """The same questions under another person's context, nobody keeps their own; ValueError for a lone person."""
    own = {r["person"]: r["context"] for r in recs}
    if len(own) < 2:
        raise ValueError("contexts of fewer than two people cannot be exchanged")
    order = np.random.default_rng(seed).permutation(list(own))
    other = dict(
        zip(order, np.roll(order, 1), strict=True)
    )  # one cycle through everybody
    return [{**r, "context": own[other[r["person"]]]} for r in recs]


def training_examples(
    world: Panel, tokenizer, *, max_context: int = 32, missing: float = 0.1
):
    """Fresh (prompt, reply) pairs of the base people for `models.pretrain`: callable(rng, n).

    Each takes a random vote and a random number of the person's other votes; a share `missing` has no context at all,
    so that the model knows what people in general say.
    """
    rows = world.rows["base"]
    who, what = np.nonzero((world.votes[rows] != 0) & world.asked)

    def draw(rng: np.random.Generator, n: int) -> list[tuple[str, str]]:
        out = []
        for i in rng.integers(len(who), size=n):
            size = 0
            if rng.random() >= missing:
                size = int(rng.integers(1, max_context + 1))
            row, s = rows[who[i]], what[i]
            prompt = render(
                tokenizer, question(world.names[s]), _context(world, row, size, rng)
            )
            out.append((prompt, REPLIES[int(world.votes[row, s] < 0)]))
        return out

    return draw


# ---- probabilities ----


@torch.no_grad()
def _under(model, tokenizer, context: str, names) -> np.ndarray:
    """(Q, 2): chances of both votes on the statements `names` under one context, which is read once for all of them."""
    tokens = [
        tokenizer(reply, add_special_tokens=False)["input_ids"][0] for reply in REPLIES
    ]
    first = render(tokenizer, question(names[0]), context)
    prompts = [
        first.replace(question(names[0]), question(n)) for n in names
    ]  # a context holds no question mark
    ids = torch.tensor(
        tokenizer(prompts)["input_ids"], device=model.device
    )  # (Q, T): they differ in one token
    shared = (
        int((ids == ids[0]).all(0).long().cumprod(0).sum())
        if len(ids) > 1
        else ids.shape[1] - 1
    )
    cache = model(
        input_ids=ids[:1, :shared], use_cache=True, logits_to_keep=1
    ).past_key_values
    cache.batch_repeat_interleave(len(ids))
    logits = model(
        input_ids=ids[:, shared:], past_key_values=cache, logits_to_keep=1
    ).logits[:, -1]
    return torch.softmax(logits.double(), -1)[:, tokens].cpu().numpy()


def vote_probs(model, tokenizer, recs: list[dict]) -> np.ndarray:
    """(N, 2): the chances that the model replies "agree" and "disagree", exact, nothing is sampled.

    The chance is that of the reply's first token. The rest up to one goes to replies that are no vote.
    """
    out = np.empty((len(recs), 2))
    groups: dict[str, list[int]] = {}
    for i, r in enumerate(recs):
        groups.setdefault(r["context"], []).append(i)
    for context, members in groups.items():
        out[members] = _under(
            model, tokenizer, context, [recs[i]["statement"] for i in members]
        )
    return out


def statement_means(model, tokenizer, world: Panel, contexts: list[str]) -> np.ndarray:
    r"""(Q, 2): q(y | x) of every asked statement, the mean of the model's chances of both votes over `contexts`."""
    names = world.names[world.asked]
    total = sum(_under(model, tokenizer, c, names) for c in contexts)
    return np.asarray(total / len(contexts))


def by_statement(means: np.ndarray, recs: list[dict]) -> np.ndarray:
    """(N, 2): the row of each record's statement in means (Q, 2)."""
    return means[[r["column"] for r in recs]]


def optimum(ref: np.ndarray, marginal: np.ndarray, beta: float) -> np.ndarray:
    r"""π* ∝ π_ref^{1 + 1/β} q^{-1/β} over the two votes.

    shapes  ref, marginal: (..., 2) -> (..., 2), sums to one over the last axis
    limits  β → ∞: π_ref;  q = π_ref: π_ref        errors  ValueError for β ≤ 0
    """
    if not beta > 0:
        raise ValueError(f"beta must be positive, got {beta}")
    logits = (1 + 1 / beta) * np.log(ref) - np.log(marginal) / beta
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def sharpened(ref: np.ndarray, beta: float) -> np.ndarray:
    """π_ref^{1 + 1/β}, normalised: the optimum without its marginal, which is sampling at temperature β/(1 + β)."""
    return optimum(ref, np.full_like(ref, 0.5), beta)


def divergence(p: np.ndarray, q: np.ndarray) -> float:
    """Mean KL(p ‖ q) over records in nats, both (N, 2) normalised to the two votes first."""
    p, q = p / p.sum(1, keepdims=True), q / q.sum(1, keepdims=True)
    return float((p * np.log(p / q)).sum(1).mean())


def majority(world: Panel) -> np.ndarray:
    """(Q, 2): shares of agree and disagree among the base people; one vote of each kind is added (Laplace)."""
    base = world.votes[world.rows["base"]][:, world.asked]
    counts = np.stack(
        [(base == AGREE).sum(0) + 1, (base == DISAGREE).sum(0) + 1], axis=1
    )
    return counts / counts.sum(1, keepdims=True)


def scores(probs: np.ndarray, recs: list[dict]) -> dict[str, np.ndarray]:
    """Per record: accuracy (0/1; a tie counts half), log-loss (nats), chance of sampling the right vote."""
    gold = np.array([REPLIES.index(r["gold"]) for r in recs])  # 0 agree, 1 disagree
    mine = probs[np.arange(len(gold)), gold]
    other = probs[np.arange(len(gold)), 1 - gold]
    return {
        "accuracy": (mine > other) + 0.5 * (mine == other),
        "log_loss": -np.log(mine),
        "chance": mine,
    }


def means(probs: list[np.ndarray], recs: list[list[dict]], metric: str) -> list[float]:
    """The mean score of each seed: probs and recs hold one entry per seed."""
    return [
        float(scores(p, r)[metric].mean()) for p, r in zip(probs, recs, strict=True)
    ]


def gain_by(
    classes: list[np.ndarray],
    ours: list,
    theirs: list,
    recs: list,
    metric: str = "chance",
) -> np.ndarray:
    """(classes, seeds): mean gain of `ours` over `theirs` per class of records; classes: (N,) integers per seed."""
    n = 1 + max(int(c.max()) for c in classes)
    gains = [
        scores(a, r)[metric] - scores(b, r)[metric]
        for a, b, r in zip(ours, theirs, recs, strict=True)
    ]
    return np.array(
        [
            [
                g[c == i].mean() if (c == i).any() else 0.0
                for g, c in zip(gains, classes, strict=True)
            ]
            for i in range(n)
        ]
    )
