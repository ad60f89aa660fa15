"""Votes as a world of two replies: other votes are the context, one is the reply."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from mipo.lm.prompts import render
from mipo.lm.tokens import token_ids
from mipo.worlds import polis
from mipo.worlds.polis import AGREE, DISAGREE, REPLIES, Conversation

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SPLITS = {"base": 0.5, "mipo": 0.2, "validation": 0.1, "test": 0.2}  # shares of people


Ids = Sequence[int] | np.ndarray  # of statements


@dataclass(frozen=True)
class Panel:
    """Which statements are shown, which are asked about, and who serves for what.

    Attributes
    ----------
    votes : ndarray of int8, shape (P, S)
        Of the people and statements that are kept: 1 agree, -1 disagree, 0 neither.
    names : ndarray, shape (S,)
        Statement ids.
    texts : tuple of str, length S
        What each statement says.
    held_out : ndarray of bool, shape (S,)
        Asked about, and so never shown in a context.
    rows : dict
        {split: rows of `votes`}.
    people : ndarray, shape (P,)
        Rows of the conversation.
    groups : ndarray, shape (P,)
        Polis' opinion groups.
    """

    votes: np.ndarray
    names: np.ndarray
    texts: tuple[str, ...]
    held_out: np.ndarray
    rows: dict[str, np.ndarray]
    people: np.ndarray
    groups: np.ndarray


def panel(
    conversation: Conversation,
    *,
    min_votes: int = 100,
    min_context: int = 10,
    ask_every: int = 3,
    seed: int = 0,
) -> Panel:
    """Choose statements and split people.

    Parameters
    ----------
    conversation : Conversation
        As `polis.read` gives it.
    min_votes : int
        Agree or disagree votes that a statement needs, beside the moderators' yes.
    min_context : int
        Shown votes that a person needs, beside one vote that is asked about.
    ask_every : int
        Of so many statements the last is asked about and never shown, so that no
        context can contain an answer.
    seed : int
        Of the split; nothing else depends on it.

    Returns
    -------
    Panel

    Raises
    ------
    ValueError
        Where too few statements or people are left.

    Notes
    -----
    A pass says "unsure" as well as "next, please". It counts as no vote, neither asked
    about nor shown.
    """
    is_vote = np.abs(conversation.votes) == 1  # neither a pass nor NaN
    decided = np.where(is_vote, conversation.votes, 0).astype(np.int8)
    keep = conversation.accepted & (np.abs(decided).sum(0) >= min_votes)
    held_out = np.arange(keep.sum()) % ask_every == ask_every - 1
    votes = decided[:, keep]
    has_context = np.abs(votes[:, ~held_out]).sum(1) >= min_context
    people = np.flatnonzero(has_context & (votes[:, held_out] != 0).any(1))
    if held_out.sum() < 1 or len(people) < 10:
        raise ValueError(
            f"{conversation.topic}: {keep.sum()} statements with {min_votes} votes and "
            f"{len(people)} people with {min_context} of them are too few; lower "
            "min_votes or min_context"
        )
    order = np.random.default_rng(seed).permutation(len(people))
    ends = np.round(np.cumsum(list(SPLITS.values())) * len(people)).astype(int)
    return Panel(
        votes=votes[people],
        names=conversation.statements[keep],
        texts=tuple(np.array(conversation.texts, object)[keep]),
        held_out=held_out,
        rows=dict(zip(SPLITS, np.split(order, ends[:-1]), strict=True)),
        people=people,
        groups=conversation.groups[people],
    )


def places(world: Panel) -> tuple[np.ndarray, np.ndarray]:
    """The map of people: the two principal components of their votes.

    Parameters
    ----------
    world : Panel

    Returns
    -------
    places : ndarray, shape (P, 2)
        Where each person lies.
    shares : ndarray, shape (2,)
        Of the variance, per component.

    Notes
    -----
    A vote counts as its distance from the statement's mean, a missing one as none. As
    in Polis' own map, a person's row is scaled up by √(statements / votes cast), lest
    those who voted little all lie in the middle.
    """
    cast = world.votes != 0
    mean = world.votes.sum(0) / cast.sum(0)  # (S,)
    centred = np.where(cast, world.votes - mean, 0.0)
    scaled = centred * np.sqrt(cast.shape[1] / cast.sum(1, keepdims=True))
    variance, axes = np.linalg.eigh(centred.T @ centred)  # ascending
    axes = axes[:, :-3:-1]  # (S, 2)
    # Eigenvectors leave the sign open: the largest entry is positive.
    axes = axes * np.sign(axes[np.abs(axes).argmax(0), [0, 1]])
    return scaled @ axes, variance[:-3:-1] / variance.sum()


# ---- votes in words ----


def question(name: int) -> str:
    """The query: a statement's id with a question mark."""
    return f"s{name}?"


def context_text(names: Ids, values: Sequence[float] | np.ndarray) -> str:
    """The context, such as "votes: s12+ s40-"; empty where no vote is known.

    Parameters
    ----------
    names : sequence or ndarray of int
        Statement ids.
    values : sequence or ndarray of float
        Above 0 for agree, else disagree.

    Returns
    -------
    str
    """
    if not len(names):
        return ""
    marks = [
        f"s{name}{'+' if value > 0 else '-'}"
        for name, value in zip(names, values, strict=True)
    ]
    return " ".join(["votes:", *marks])


def vocabulary(world: Panel) -> list[str]:
    """Texts that hold every word, for `mipo.models.build_tokenizer`."""
    shown = world.names[~world.held_out]
    return [
        context_text(shown, np.ones(len(shown))),
        context_text(shown, -np.ones(len(shown))),
        *(question(name) for name in world.names[world.held_out]),
        *REPLIES,
        "\n\n",
    ]


def _context(world: Panel, row: int, size: int, rng: np.random.Generator) -> str:
    """`size` of a person's shown votes in random order; all, where there are fewer."""
    known = np.flatnonzero((world.votes[row] != 0) & ~world.held_out)
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
    """Examples of the people of a split: one context each, and some statements.

    Parameters
    ----------
    world : Panel
    split : str
        A key of `SPLITS`.
    questions : int
        Statements that each person is asked about, or as many as there are.
    answered : bool
        True asks about statements that the person voted on, with the vote as gold.
        False asks about any, without gold, since MIPO needs prompts only.
    max_context : int
        Votes in a context.
    seed : int
        Of what is shown and asked.

    Returns
    -------
    list of dict
        With query, context, gold, person (row of the conversation), statement (id) and
        column (place among the statements that are asked about).
    """
    rng = np.random.default_rng(seed)
    rows = []
    for row in world.rows[split]:
        context = _context(world, row, max_context, rng)
        votes = world.votes[row]
        candidates = np.flatnonzero(world.held_out & ((votes != 0) | (not answered)))
        for s in rng.permutation(candidates)[:questions]:
            example = {
                "query": question(world.names[s]),
                "context": context,
                "gold": REPLIES[int(votes[s] < 0)] if answered else None,
                "person": int(world.people[row]),
                "statement": int(world.names[s]),
                "column": int(world.held_out[:s].sum()),
            }
            rows.append(example)
    return rows


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


def contexts_of(examples: Sequence[dict]) -> list[str]:
    """One context per person, in the order of the examples."""
    return list({e["person"]: e["context"] for e in examples}.values())


def shuffled(examples: Sequence[dict], *, seed: int = 0) -> list[dict]:
    """The same questions under another person's context.

    Parameters
    ----------
    examples : sequence of dict
    seed : int
        Of who gets whose context; nobody keeps their own.

    Returns
    -------
    list of dict

    Raises
    ------
    ValueError
        For a lone person.
    """
    own = {e["person"]: e["context"] for e in examples}
    if len(own) < 2:
        raise ValueError("contexts of fewer than two people cannot be exchanged")
    order = np.random.default_rng(seed).permutation(list(own))
    # One cycle through everybody.
    other = dict(zip(order, np.roll(order, 1), strict=True))
    return [{**e, "context": own[other[e["person"]]]} for e in examples]


def training_examples(
    world: Panel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_context: int = 32,
    missing: float = 0.1,
) -> Callable[[np.random.Generator, int], list[tuple[str, str]]]:
    """Fresh pairs (prompt, reply) of the base people, for `mipo.models.pretrain`.

    Parameters
    ----------
    world : Panel
    tokenizer : PreTrainedTokenizerBase
        With a chat template.
    max_context : int
        Each pair takes a random vote, and a random number of the person's other votes.
    missing : float
        Share of pairs without any context, so that the model knows what people in
        general say.

    Returns
    -------
    callable
        ``draw(rng, n)`` gives n pairs.
    """
    rows = world.rows["base"]
    who, what = np.nonzero((world.votes[rows] != 0) & world.held_out)

    def draw(rng: np.random.Generator, n: int) -> list[tuple[str, str]]:
        pairs = []
        for i in rng.integers(len(who), size=n):
            size = 0
            if rng.random() >= missing:
                size = int(rng.integers(1, max_context + 1))
            row, s = rows[who[i]], what[i]
            context = _context(world, row, size, rng)
            prompt = render(tokenizer, question(world.names[s]), context)
            pairs.append((prompt, REPLIES[int(world.votes[row, s] < 0)]))
        return pairs

    return draw


# ---- probabilities ----


@torch.no_grad()
def _under(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    context: str,
    names: Ids,
) -> np.ndarray:
    """(Q, 2): chances of both votes on statements; their context is read once."""
    replies = [
        tokenizer(reply, add_special_tokens=False)["input_ids"][0] for reply in REPLIES
    ]
    first = render(tokenizer, question(names[0]), context)
    # A context holds no question mark, so only the query is replaced.
    prompts = [first.replace(question(names[0]), question(name)) for name in names]
    # (Q, T): they differ in one token.
    ids = torch.tensor(token_ids(tokenizer, prompts), device=model.device)
    shared = _common_start(ids)
    cache = model(
        input_ids=ids[:1, :shared], use_cache=True, logits_to_keep=1
    ).past_key_values
    cache.batch_repeat_interleave(len(ids))
    logits = model(
        input_ids=ids[:, shared:], past_key_values=cache, logits_to_keep=1
    ).logits[:, -1]
    return torch.softmax(logits.double(), -1)[:, replies].cpu().numpy()


def _common_start(ids: Tensor) -> int:
    """Tokens with which all rows begin; of a lone row, all but the last."""
    if len(ids) == 1:
        return ids.shape[1] - 1
    return int((ids == ids[0]).all(0).long().cumprod(0).sum())


def vote_probs(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[dict],
) -> np.ndarray:
    """The chances that a model replies "agree" and "disagree", exactly.

    Parameters
    ----------
    model, tokenizer
        Of the small models of chapter 13.
    examples : sequence of dict
        As the function `examples` makes them.

    Returns
    -------
    ndarray, shape (N, 2)
        Chances of the reply's first token; the rest up to one goes to replies that are
        no vote. Nothing is sampled.
    """
    chances = np.empty((len(examples), 2))
    groups: dict[str, list[int]] = {}
    for i, example in enumerate(examples):
        groups.setdefault(example["context"], []).append(i)
    for context, members in groups.items():
        names = [examples[i]["statement"] for i in members]
        chances[members] = _under(model, tokenizer, context, names)
    return chances


def statement_means(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    world: Panel,
    contexts: Sequence[str],
) -> np.ndarray:
    r"""The marginal q(y | x): the model's mean chances of both votes over contexts.

    Parameters
    ----------
    model, tokenizer
        See `vote_probs`.
    world : Panel
    contexts : sequence of str
        Over which the mean is taken.

    Returns
    -------
    ndarray, shape (Q, 2)
        Per statement that is asked about.
    """
    names = world.names[world.held_out]
    total = sum(_under(model, tokenizer, context, names) for context in contexts)
    return np.asarray(total / len(contexts))


def by_statement(means: np.ndarray, examples: Sequence[dict]) -> np.ndarray:
    """The row of each example's statement: `means` (Q, 2) as (N, 2)."""
    return means[[example["column"] for example in examples]]


def optimum(ref: np.ndarray, marginal: np.ndarray, beta: float) -> np.ndarray:
    r"""MIPO's optimum over the two votes.

    Parameters
    ----------
    ref, marginal : ndarray, shape (..., 2)
        Chances of both votes under the reference policy, and their marginal.
    beta : float
        Pull towards the reference, 1/nats; above 0.

    Returns
    -------
    ndarray, shape (..., 2)
        Sums to one over the last axis.

    Raises
    ------
    ValueError
        For beta <= 0.

    Notes
    -----
    π* ∝ π_ref^(1 + 1/β) · q^(-1/β). It is π_ref for β → ∞ and for q = π_ref. Chapter 02
    derives it.
    """
    if not beta > 0:
        raise ValueError(f"beta must be positive, got {beta}")
    logits = (1 + 1 / beta) * np.log(ref) - np.log(marginal) / beta
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def sharpened(ref: np.ndarray, beta: float) -> np.ndarray:
    """The optimum without its marginal: π_ref^(1 + 1/β), normalised.

    It is what sampling at temperature β / (1 + β) does to an untrained model.
    """
    return optimum(ref, np.full_like(ref, 0.5), beta)


def divergence(p: np.ndarray, q: np.ndarray) -> float:
    """Mean KL(p ‖ q) over examples.

    Parameters
    ----------
    p, q : ndarray, shape (N, 2)
        Normalised to the two votes first.

    Returns
    -------
    float
        Nats.
    """
    p, q = p / p.sum(1, keepdims=True), q / q.sum(1, keepdims=True)
    return float((p * np.log(p / q)).sum(1).mean())


def majority(world: Panel) -> np.ndarray:
    """Shares of agree and disagree among the base people, (Q, 2).

    One vote of each kind is added (Laplace), so that no share is 0.
    """
    base = world.votes[world.rows["base"]][:, world.held_out]
    kinds = [(base == vote).sum(0) + 1 for vote in (AGREE, DISAGREE)]
    counts = np.stack(kinds, axis=1)
    return counts / counts.sum(1, keepdims=True)


def scores(probs: np.ndarray, examples: Sequence[dict]) -> dict[str, np.ndarray]:
    """How well chances predict the votes.

    Parameters
    ----------
    probs : ndarray, shape (N, 2)
        Chances of both votes.
    examples : sequence of dict
        With gold.

    Returns
    -------
    dict of ndarray, shape (N,)
        accuracy (0 or 1; a tie counts half), log_loss (nats) and chance (of sampling
        the right vote).
    """
    gold = np.array([REPLIES.index(example["gold"]) for example in examples])
    rows = np.arange(len(gold))
    right, wrong = probs[rows, gold], probs[rows, 1 - gold]
    return {
        "accuracy": (right > wrong) + 0.5 * (right == wrong),
        "log_loss": -np.log(right),
        "chance": right,
    }


def means(
    probs: Sequence[np.ndarray], examples: Sequence[Sequence[dict]], metric: str
) -> list[float]:
    """The mean of a metric of `scores`, per seed; one entry of both lists per seed."""
    return [
        float(scores(p, rows)[metric].mean())
        for p, rows in zip(probs, examples, strict=True)
    ]


def gain_by(
    classes: Sequence[np.ndarray],
    ours: Sequence[np.ndarray],
    theirs: Sequence[np.ndarray],
    examples: Sequence[Sequence[dict]],
    metric: str = "chance",
    *,
    count: int,
) -> np.ndarray:
    """Mean gain of one policy over another, per class of examples.

    Parameters
    ----------
    classes : sequence of ndarray of int, shape (N,)
        The class of each example, 0, 1, …; one array per seed.
    ours, theirs : sequence of ndarray, shape (N, 2)
        Chances of both votes.
    examples : sequence of sequences of dict
    metric : str
        A key of `scores`.
    count : int
        Number of classes.

    Returns
    -------
    ndarray, shape (count, seeds)
        NaN where a seed has no example of a class.
    """
    gains = np.full((count, len(classes)), np.nan)
    rows = zip(classes, ours, theirs, examples, strict=True)
    for seed, (of_seed, a, b, of_person) in enumerate(rows):
        gain = scores(a, of_person)[metric] - scores(b, of_person)[metric]
        for i in range(count):
            members = of_seed == i
            if members.any():
                gains[i, seed] = gain[members].mean()
    return gains
