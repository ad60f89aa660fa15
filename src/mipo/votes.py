"""Votes as a world of two replies: a person's other votes are the context, one vote is the reply."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from mipo.data import render
from mipo.polis import AGREE, DISAGREE, REPLIES, Conversation

SPLITS = {"base": 0.5, "mipo": 0.2, "validation": 0.1, "test": 0.2}  # shares of the people


@dataclass(frozen=True)
class Panel:
    """Which statements are shown, which are asked, and which people serve for what."""

    votes: np.ndarray        # (P, S) int8 of the kept people and statements: 1 agree, -1 disagree, 0 neither
    names: np.ndarray        # (S,) statement ids
    texts: tuple             # (S,)
    asked: np.ndarray        # (S,) bool: asked about, never shown in a context
    rows: dict               # split -> indices into votes
    people: np.ndarray       # (P,) rows of the conversation
    groups: np.ndarray       # (P,) Polis' opinion groups


def panel(conversation: Conversation, *, min_votes: int = 100, min_context: int = 10, ask_every: int = 3,
          seed: int = 0) -> Panel:
    """Choose statements and split people. `seed` moves the split only.

    Statements: accepted by the moderators and with at least `min_votes` agree or disagree votes. Every `ask_every`-th of
    them is asked about and never shown: no context can contain an answer. A pass says "unsure" as well as "next, please":
    it counts as no vote, neither asked nor shown. People: at least `min_context` shown votes and one asked.

    errors  ValueError where too few statements or people are left
    """
    decided = np.where(np.abs(conversation.votes) == 1, conversation.votes, 0).astype(np.int8)  # nan and pass -> 0
    keep = conversation.accepted & (np.abs(decided).sum(0) >= min_votes)
    asked = np.arange(keep.sum()) % ask_every == ask_every - 1
    votes = decided[:, keep]
    people = np.flatnonzero((np.abs(votes[:, ~asked]).sum(1) >= min_context) & (votes[:, asked] != 0).any(1))
    if asked.sum() < 1 or len(people) < 10:
        raise ValueError(f"{conversation.topic}: {keep.sum()} statements with {min_votes} votes and {len(people)} people "
                         f"with {min_context} of them are too few; lower min_votes or min_context")
    order = np.random.default_rng(seed).permutation(len(people))
    ends = np.round(np.cumsum(list(SPLITS.values())) * len(people)).astype(int)
    rows = dict(zip(SPLITS, np.split(order, ends[:-1]), strict=True))
    return Panel(votes[people], conversation.statements[keep], tuple(np.array(conversation.texts, object)[keep]), asked,
                 rows, people, conversation.groups[people])


# ---- votes in words ----

def question(name: int) -> str:
    """The query: a statement's id with a question mark."""
    return f"s{name}?"


def context_text(names, values) -> str:
    """The context: "votes: s12+ s40-", plus for agree, minus for disagree; empty where nothing is known."""
    return " ".join(["votes:", *(f"s{n}{'+' if v > 0 else '-'}" for n, v in zip(names, values, strict=True))]
                    if len(names) else [])


def vocabulary(world: Panel) -> list[str]:
    """Texts that hold every word, for `models.build_tokenizer`."""
    shown = world.names[~world.asked]
    return [context_text(shown, np.ones(len(shown))), context_text(shown, -np.ones(len(shown))),
            *(question(n) for n in world.names[world.asked]), *REPLIES, "\n\n"]


def _context(world: Panel, row: int, size: int, rng) -> str:
    """`size` of a person's shown votes in random order (all, where there are fewer)."""
    known = np.flatnonzero((world.votes[row] != 0) & ~world.asked)
    known = rng.permutation(known)[:size]
    return context_text(world.names[known], world.votes[row, known])


def records(world: Panel, split: str, *, questions: int = 8, max_context: int = 32, seed: int = 0) -> list[dict]:
    """For each person of a split: one context, and up to `questions` of their votes on asked statements.

    Columns: query, context, gold ("agree" or "disagree"), person, statement (both indices into `world.votes`).
    """
    rng = np.random.default_rng(seed)
    out = []
    for row in world.rows[split]:
        context = _context(world, row, max_context, rng)
        held_out = rng.permutation(np.flatnonzero((world.votes[row] != 0) & world.asked))[:questions]
        out += [{"query": question(world.names[s]), "context": context, "gold": REPLIES[int(world.votes[row, s] < 0)],
                 "person": int(row), "statement": int(s)} for s in held_out]
    return out


def examples(world: Panel, tokenizer, *, max_context: int = 32, missing: float = 0.1):
    """Fresh (prompt, reply) pairs of the base people for `models.pretrain`: callable(rng, n).

    Each takes a random vote and a random number of the person's other votes; a share `missing` has no context at all, so
    that the model knows what people in general say.
    """
    rows = world.rows["base"]
    who, what = np.nonzero((world.votes[rows] != 0) & world.asked)

    def draw(generator: torch.Generator, n: int) -> list[tuple[str, str]]:
        rng = np.random.default_rng(int(torch.randint(2**62, (1,), generator=generator)))
        out = []
        for i in rng.integers(len(who), size=n):
            size = 0 if rng.random() < missing else rng.integers(1, max_context + 1)
            row, s = rows[who[i]], what[i]
            prompt = render(tokenizer, question(world.names[s]), _context(world, row, size, rng))
            out.append((prompt, REPLIES[int(world.votes[row, s] < 0)]))
        return out

    return draw


# ---- probabilities ----

@torch.no_grad()
def vote_probs(model, tokenizer, recs: list[dict], *, batch_size: int = 256) -> np.ndarray:
    """(N, 2): the chances that the model replies "agree" and "disagree", exact; they need not sum to one.

    The chance of the reply's first token; what else the model may do with the end of the reply is left out.
    """
    tokens = [tokenizer(reply, add_special_tokens=False)["input_ids"][0] for reply in REPLIES]
    ids = tokenizer([render(tokenizer, r["query"], r["context"]) for r in recs])["input_ids"] if recs else []
    out = np.empty((len(recs), 2))
    by_length: dict[int, list[int]] = {}
    for i, row in enumerate(ids):
        by_length.setdefault(len(row), []).append(i)           # rows of one length need no padding
    for members in by_length.values():
        for start in range(0, len(members), batch_size):
            part = members[start:start + batch_size]
            batch = torch.tensor([ids[i] for i in part], device=model.device)
            logits = model(input_ids=batch, use_cache=False, logits_to_keep=1).logits[:, -1]
            out[part] = torch.softmax(logits.double(), -1)[:, tokens].cpu().numpy()
    return out


def average_probs(model, tokenizer, recs: list[dict], contexts: list[str]) -> np.ndarray:
    r"""(N, 2): q(y | x), the mean over `contexts` of the chances of both votes on each record's statement."""
    queries = sorted({r["query"] for r in recs})
    grid = [{"query": q, "context": c} for q in queries for c in contexts]
    means = vote_probs(model, tokenizer, grid).reshape(len(queries), len(contexts), 2).mean(1)      # (queries, 2)
    where = {q: i for i, q in enumerate(queries)}
    return means[[where[r["query"]] for r in recs]]


def optimum(ref: np.ndarray, marginal: np.ndarray, beta: float) -> np.ndarray:
    r"""π* ∝ π_ref^{1 + 1/β} q^{-1/β} over the two votes.

    shapes  ref, marginal: (N, 2) -> (N, 2), rows sum to one     limits  β → ∞: π_ref;  q = π_ref: π_ref
    errors  ValueError for β ≤ 0                                  source  theory chapter, eq-mipo-optimum
    """
    if not beta > 0:
        raise ValueError(f"beta must be positive, got {beta}")
    logits = (1 + 1 / beta) * np.log(ref) - np.log(marginal) / beta
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


def majority(world: Panel, recs: list[dict]) -> np.ndarray:
    """(N, 2): shares of agree and disagree among the base people on each record's statement, one vote of each added."""
    base = world.votes[world.rows["base"]]
    agree, disagree = (base == AGREE).sum(0) + 1, (base == DISAGREE).sum(0) + 1
    share = (agree / (agree + disagree))[[r["statement"] for r in recs]]
    return np.stack([share, 1 - share], axis=1)


def right(recs: list[dict]) -> np.ndarray:
    """(N,) index of the gold vote: 0 agree, 1 disagree."""
    return np.array([REPLIES.index(r["gold"]) for r in recs])


def scores(probs: np.ndarray, recs: list[dict]) -> dict[str, np.ndarray]:
    """Per record: accuracy (0/1; a tie counts half), log-loss (nats), chance of sampling the right vote."""
    gold = right(recs)
    mine = probs[np.arange(len(gold)), gold]
    other = probs[np.arange(len(gold)), 1 - gold]
    return {"accuracy": (mine > other) + 0.5 * (mine == other), "log_loss": -np.log(mine), "chance": mine}
