"""Preference pairs that a model makes by itself.

The reply to the right prompt is chosen, the reply to another prompt is rejected. Both
keep the ids that were sampled (`mipo.lm.sampling.TOKEN_COLUMNS`), and they are trained
on, with no end behind a reply that was cut.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from datasets import Dataset

from mipo.lm.prompts import render
from mipo.lm.sampling import TOKEN_COLUMNS, Reply, reply_of, respelt, sample
from mipo.lm.sampling import generate as generate  # a public name of this module
from mipo.lm.tokens import end_ids

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

LOG = logging.getLogger(__name__)
THOUGHT = "<think>"  # what opens the thought of a model that thinks before it replies
NEGATIVES = ("random_context", "missing_context", "random_prompt")
REJECTED_STREAM = 1_000_003  # added to the seed: rejected replies have their own noise


def synthesise_pairs(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Mapping[str, Any]],
    *,
    negatives: str = "random_context",
    k: int = 1,
    temperature: float = 1.0,
    top_p: float = 1.0,
    max_new_tokens: int = 64,
    seed: int = 0,
    batch_size: int = 256,
    chosen: Sequence[str | Sequence[int]] | None = None,
    rejected_prompts: Sequence[str] | None = None,
    progress: bool = False,
) -> Dataset:
    r"""MIPO's pairs in TRL's standard preference format, one row per example.

    Parameters
    ----------
    model, tokenizer
        What answers; see `mipo.models.load_model`.
    examples : sequence of dict
        Each with query and, where there is one, context.
    negatives : str
        What the rejected reply y_l answers:
        "random_context", the query with a context c' drawn from those of all examples,
        its own allowed: an exact sample of the marginal Σ_c' p(c') π(y|x, c');
        "missing_context", the query alone: the marginal only if the model answers
        nobody as it answers everybody;
        "random_prompt", another example: its chosen reply, never the row's own.
    k : int
        Rejected replies per row; above 1 the columns rejected, rejected_prompt and
        rejected_context are lists.
    temperature, top_p, max_new_tokens, batch_size
        Of sampling; see `mipo.lm.sampling.sample`.
    seed : int
        Of the replies and of who stands in for whom.
    chosen : sequence of str, or of list of int, optional
        Replies to the examples' own prompts, where they have been sampled before: as
        `as_sampled` reads them from pairs.
    rejected_prompts : sequence of str, optional
        Prompts that the rejected replies answer, one per example, instead of
        `negatives`.
    progress : bool
        Show a bar while sampling.

    Returns
    -------
    datasets.Dataset
        prompt, chosen, rejected; chosen_tokens, rejected_tokens (ids as sampled; None
        of a reply that was given as text); rejected_prompt (what y_l answers); query,
        context, rejected_context; example (the example's index); collision (y_l answers
        the row's own prompt); identical (y_l reads like the chosen reply); cut, respelt
        (how many of the row's replies were cut at max_new_tokens, and how many have
        text that is written in other tokens than were sampled).

    Raises
    ------
    ValueError
        Without examples, for unknown negatives, for replies or prompts that are not one
        per example, and when every rejected reply equals its chosen one, so that there
        is nothing to learn.
    """
    if negatives not in NEGATIVES:
        raise ValueError(
            f"negatives={negatives!r}: choose one of {', '.join(NEGATIVES)}"
        )
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    if not len(examples):
        raise ValueError("need at least one example")
    sampling = {
        "temperature": temperature,
        "top_p": top_p,
        "max_new_tokens": max_new_tokens,
        "batch_size": batch_size,
        "progress": progress,
    }
    names = [e.get("read_from") or f"example {i}" for i, e in enumerate(examples)]
    queries = [example["query"] for example in examples]
    own_contexts = [example.get("context") or "" for example in examples]
    prompts = [
        render(tokenizer, query, context)
        for query, context in zip(queries, own_contexts, strict=True)
    ]
    if chosen is None:
        best = sample(model, tokenizer, prompts, seed=seed, names=names, **sampling)
    else:
        best = _given(model, tokenizer, chosen)
    if len(best) != len(examples):
        raise ValueError(f"{len(best)} chosen replies for {len(examples)} examples")

    # Of the rejected replies, k each: the contexts, and the prompts they answer.
    rejected: list[list[Reply]] = []
    if rejected_prompts is not None:
        k = 1
        contexts = [[""] for _ in examples]
        answered = [[prompt] for prompt in rejected_prompts]
        labels = [f"{name}, rejected prompt" for name in names]
    elif negatives == "random_prompt":  # their replies are there already
        partners = draw_partners(len(examples), negatives, k=k, seed=seed)
        contexts = _at(partners, own_contexts)
        answered = _at(partners, prompts)
        rejected = _at(partners, best)
        labels = []
    else:
        contexts, labels = _other_contexts(negatives, own_contexts, names, k, seed)
        answered = [
            [render(tokenizer, query, context) for context in row]
            for query, row in zip(queries, contexts, strict=True)
        ]
    if len(answered) != len(examples):
        raise ValueError(
            f"{len(answered)} rejected prompts for {len(examples)} examples"
        )
    if not rejected:
        replies = sample(
            model,
            tokenizer,
            [prompt for row in answered for prompt in row],
            seed=seed + REJECTED_STREAM,
            names=labels,
            **sampling,
        )
        rejected = [replies[i : i + k] for i in range(0, len(replies), k)]
    _require_a_difference(best, rejected)
    marks = _marks(tokenizer, prompts, answered, best, rejected)
    _say_shares(best, rejected, marks)

    def single(row: list) -> Any:
        return row if k > 1 else row[0]

    return Dataset.from_list(
        [
            {
                "prompt": prompts[i],
                "chosen": best[i].text,
                "rejected": single([reply.text for reply in rejected[i]]),
                "chosen_tokens": best[i].ids or None,
                "rejected_tokens": single([reply.ids or None for reply in rejected[i]]),
                "rejected_prompt": single(answered[i]),
                "query": queries[i],
                "context": own_contexts[i],
                "rejected_context": single(contexts[i]),
                "example": i,
                "collision": prompts[i] in answered[i],
                "identical": best[i].text in [reply.text for reply in rejected[i]],
                **marks[i],
            }
            for i in range(len(examples))
        ]
    )


def _given(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    replies: Sequence[str | Sequence[int]],
) -> list[Reply]:
    """Replies that were sampled before; those known as text alone have no ids."""
    ends = end_ids(tokenizer, model)
    return [
        Reply(reply, [], finished=True)
        if isinstance(reply, str)
        else reply_of(tokenizer, list(reply), ends)
        for reply in replies
    ]


def _marks(
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[str],
    answered: list[list[str]],
    best: list[Reply],
    rejected: list[list[Reply]],
) -> list[dict[str, int]]:
    """Of each row, how many replies were cut, and how many are written otherwise."""
    rows = range(len(prompts))
    said = [
        (i, prompt, reply)
        for i in rows
        for prompt, reply in zip(
            [prompts[i], *answered[i]], [best[i], *rejected[i]], strict=True
        )
        if reply.ids
    ]
    other = respelt(
        tokenizer, [prompt for _, prompt, _ in said], [reply for *_, reply in said]
    )
    marks = [{"cut": 0, "respelt": 0} for _ in rows]
    for (i, _, reply), differs in zip(said, other, strict=True):
        marks[i]["cut"] += not reply.finished
        marks[i]["respelt"] += differs
    return marks


def _say_shares(
    best: list[Reply], rejected: list[list[Reply]], marks: list[dict[str, int]]
) -> None:
    """Warn where replies are not what they seem: thoughts, cut, in other tokens."""
    replies = [*best, *(reply for row in rejected for reply in row)]
    counts = {
        f"open with a thought ({THOUGHT}), which counts as a part of them and of "
        "max_new_tokens; switch thinking off in the chat template, or take an Instruct "
        "model": sum(reply.text.lstrip().startswith(THOUGHT) for reply in replies),
        "were cut at max_new_tokens, so they have no end to be trained on; raise it to "
        "have more of them finished": sum(mark["cut"] for mark in marks),
        "have text that the tokenizer writes in other tokens than were sampled; those "
        "that were sampled are trained on": sum(mark["respelt"] for mark in marks),
    }
    for what, count in counts.items():
        if count:
            LOG.warning("%d of %d replies %s", count, len(replies), what)


def as_sampled(pairs: Dataset, side: str) -> list:
    """The replies of one side of pairs, as the model said them.

    Parameters
    ----------
    pairs : Dataset
        In TRL's standard format.
    side : {"chosen", "rejected"}
        Which.

    Returns
    -------
    list of str, or of list of int; or of lists of those
        The ids that were sampled, where the pairs have them; else the text. As
        `mipo.logprobs.response_logps` takes them.
    """
    tokens = f"{side}_tokens"
    texts = pairs[side][:]
    if tokens not in pairs.column_names:
        return texts
    return [
        [one or text for one, text in zip(ids, reply, strict=True)]
        if isinstance(reply, list)
        else ids or reply
        for ids, reply in zip(pairs[tokens][:], texts, strict=True)
    ]


def shares_of(pairs: Dataset) -> dict[str, float]:
    """Shares of replies that are not what they seem.

    Parameters
    ----------
    pairs : Dataset
        Of `synthesise_pairs`.

    Returns
    -------
    dict
        "cut": of those that were cut at max_new_tokens; "respelt": of those whose text
        is written in other tokens than were sampled.
    """
    rejected = pairs[0]["rejected"]
    each = 1 + (len(rejected) if isinstance(rejected, list) else 1)
    replies = each * len(pairs)
    return {name: sum(pairs[name]) / replies for name in ("cut", "respelt")}


def _at(partners: list[list[int]], values: Sequence[Any]) -> list[list[Any]]:
    """The values of each row's partners."""
    return [[values[j] for j in row] for row in partners]


def _other_contexts(
    negatives: str, own: list[str], names: list[str], k: int, seed: int
) -> tuple[list[list[str]], list[str]]:
    """k contexts per example, and for errors a description of each, in one list."""
    if negatives == "missing_context":
        described = [f"{name}, with no context" for name in names for _ in range(k)]
        return [[""] * k for _ in own], described
    partners = draw_partners(len(own), negatives, k=k, seed=seed)
    described = [
        f"{name}, with the context of {names[j]}"
        for name, row in zip(names, partners, strict=True)
        for j in row
    ]
    return _at(partners, own), described


def _require_a_difference(
    chosen: Sequence[Reply], rejected: Sequence[Sequence[Reply]]
) -> None:
    rows = zip(chosen, rejected, strict=True)
    if all(reply.text == best.text for best, row in rows for reply in row):
        raise ValueError(
            "all pairs are identical: every rejected reply equals its chosen one; "
            "raise the temperature, or check that the examples have different contexts"
        )


def draw_partners(
    n: int, negatives: str, *, k: int = 1, seed: int = 0
) -> list[list[int]]:
    """Which examples stand in for each of n examples in its k rejected replies.

    Parameters
    ----------
    n : int
        Examples.
    negatives : str
        "random_context": any of the n, the example itself included, drawn evenly and
        independently; "random_prompt": k different examples, never the example itself.
    k : int
        Rejected replies of each.
    seed : int
        Of the draw.

    Returns
    -------
    list of n lists of k
        Indices.

    Raises
    ------
    ValueError
        For "random_prompt" with k or fewer examples, and negatives of another kind,
        for which nobody stands in.
    """
    if negatives not in ("random_context", "random_prompt"):
        raise ValueError(f"negatives={negatives!r}: no other example stands in for one")
    rng = np.random.default_rng((seed, 2))
    if negatives == "random_context":
        return rng.integers(n, size=(n, k)).tolist()
    if n <= k:
        raise ValueError(
            f"random_prompt with k={k} needs more than {k} examples, got {n}"
        )
    others = [rng.choice(n - 1, size=k, replace=False) for _ in range(n)]
    # Indices from the row's own on move up by one, which skips the row's own.
    return [[int(j + (j >= i)) for j in row] for i, row in enumerate(others)]


def flip_by_coin(pairs: Dataset, seed: int = 0) -> Dataset:
    """The placebo: in each row a fair coin decides if chosen and rejected swap places.

    Parameters
    ----------
    pairs : Dataset
        Of `synthesise_pairs`, k = 1.
    seed : int
        Of the coin.

    Returns
    -------
    Dataset
        The same rows and columns.

    Raises
    ------
    ValueError
        For pairs with several rejected replies per row.
    """
    if len(pairs) and isinstance(pairs[0]["rejected"], list):
        raise ValueError("the placebo needs one rejected reply per row (k = 1)")
    heads = np.random.default_rng((seed, 3)).random(len(pairs)) < 0.5
    swapped: dict[str, list] = {}
    for left, right in (("chosen", "rejected"), TOKEN_COLUMNS):
        if left in pairs.column_names:
            rows = list(zip(heads, pairs[left][:], pairs[right][:], strict=True))
            swapped[left] = [b if head else a for head, a, b in rows]
            swapped[right] = [a if head else b for head, a, b in rows]
    for column, values in swapped.items():
        others: Any = pairs.remove_columns(column)
        pairs = others.add_column(column, values)
    return pairs
