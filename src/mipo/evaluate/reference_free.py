"""Replies to a reader's own people, where nothing says what is right.

What can be measured without a judge: PMI, retrieval, diversity, length.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from mipo.evaluate.comparisons import retrieval_credit
from mipo.evaluate.diversity import distinct_n, self_bleu, token_lengths
from mipo.lm import sampling
from mipo.lm.prompts import render
from mipo.logprobs import pmi_over_contexts, response_logps

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Example = Mapping[str, Any]


def groups(
    examples: Sequence[Example], contexts: int, *, seed: int = 0
) -> list[list[str]]:
    """Draw, for each example, its own context and other people's.

    Parameters
    ----------
    examples : sequence of dict
        With "context".
    contexts : int
        So many in all, at least 2; fewer where the examples have no more.
    seed : int
        Of the draw.

    Returns
    -------
    list of list of str
        Per example its own context first, then different ones of other examples.

    Raises
    ------
    ValueError
        Unless the examples have at least two different contexts: with one, nobody can
        be told apart.
    """
    known = list(dict.fromkeys(_context(r) for r in examples))
    if len(known) < 2:
        raise ValueError(
            f"{len(examples)} example(s) with {len(known)} different context(s): "
            "conditional PMI and retrieval compare contexts, so the file must have "
            "examples of at least two people"
        )
    if contexts < 2:
        raise ValueError(
            f"contexts={contexts}: give at least 2, the example's own and another one"
        )
    rng = np.random.default_rng((seed, 6))
    crowds = []
    for example in examples:
        own = _context(example)
        others = [c for c in known if c != own]
        size = min(contexts - 1, len(others))
        drawn = rng.choice(len(others), size=size, replace=False)
        crowds.append([own, *(others[i] for i in drawn)])
    return crowds


def _context(example: Example) -> str:
    return example.get("context") or ""


def under_contexts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Example],
    replies: Sequence[str | Sequence[int]],
    contexts: Sequence[Sequence[str]],
    *,
    batch_size: int = 32,
    progress: bool = False,
) -> Tensor:
    """Score each reply under each of its example's contexts.

    Parameters
    ----------
    model, tokenizer
        The policy.
    examples, replies : sequence, length N
        One reply per example, as `mipo.logprobs.response_logps` takes them.
    contexts : sequence of sequence of str, (N, K)
        As `groups` draws them.
    batch_size : int
        Replies per batch.
    progress : bool
        Show a bar.

    Returns
    -------
    Tensor, shape (N, K)
        log p(reply | query, context), nats per reply; column 0: the own context.
    """
    prompts, repeated = [], []
    for example, reply, crowd in zip(examples, replies, contexts, strict=True):
        prompts += [render(tokenizer, example["query"], c) for c in crowd]
        repeated += [reply] * len(crowd)
    logps = response_logps(
        model, tokenizer, prompts, repeated, batch_size=batch_size, progress=progress
    )
    return logps.summed.double().reshape(len(examples), -1)


def measure(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Example],
    *,
    seed: int = 0,
    max_new_tokens: int = 64,
    contexts: int = 8,
    temperature: float = 1.0,
    batch_size: int = 32,
    progress: bool = False,
) -> dict[str, Any]:
    """Sample one reply per example, and measure them without a judge.

    Parameters
    ----------
    model, tokenizer
        The policy.
    examples : sequence of dict
        With "query", "context" and, where there is one, "gold".
    seed, max_new_tokens, temperature, batch_size, progress
        As `mipo.pairs.generate`.
    contexts : int
        People among whom a reply's own one is looked for.

    Returns
    -------
    dict
        JSON values; nats and tokens:

        - "replies": the texts
        - "pmi": conditional PMI of each reply against `contexts` people, nats per
          reply, at most log(contexts)
        - "retrieval": share of replies matched to their own context; "chance": of that
        - "self_bleu": mean over queries (over all replies where no query has two) of
          the replies' self-BLEU, 0..100
        - "distinct": different word pairs over all word pairs (None if no reply has two
          words)
        - "tokens": length of each reply; "empty": share of replies without text; "cut":
          share of replies that were cut at max_new_tokens
        - "gold_logp": log p(gold | query, context), nats per token, of examples that
          have a gold answer; "gold_pmi": its own conditional PMI, nats per reply. None
          where no example has one.
    """
    prompts = [render(tokenizer, r["query"], _context(r)) for r in examples]
    crowds = groups(examples, contexts, seed=seed)
    sampled = sampling.sample(
        model,
        tokenizer,
        prompts,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        seed=seed,
        batch_size=batch_size,
        progress=progress,
    )
    replies = [reply.text for reply in sampled]
    ids = [reply.ids for reply in sampled]
    options = {"batch_size": batch_size, "progress": progress}
    logps = under_contexts(model, tokenizer, examples, ids, crowds, **options)
    has_pairs_of_words = any(reply.split()[1:] for reply in replies)
    results: dict[str, Any] = {
        "replies": replies,
        "pmi": pmi_over_contexts(logps[:, 0], logps).tolist(),
        "retrieval": float(retrieval_credit(logps.numpy()).mean()),
        "chance": 1 / logps.shape[1],
        "tokens": token_lengths(replies, tokenizer).tolist(),
        "empty": float(np.mean([not reply.strip() for reply in replies])),
        "cut": float(np.mean([not reply.finished for reply in sampled])),
        "self_bleu": alike(replies, examples),
        "distinct": distinct_n(replies) if has_pairs_of_words else None,
        "gold_logp": None,
        "gold_pmi": None,
    }
    with_gold = [i for i, r in enumerate(examples) if r.get("gold")]
    if with_gold:
        gold = [examples[i]["gold"] for i in with_gold]
        under = under_contexts(
            model,
            tokenizer,
            [examples[i] for i in with_gold],
            gold,
            [crowds[i] for i in with_gold],
            **options,
        )
        own_prompts = [prompts[i] for i in with_gold]
        own = response_logps(model, tokenizer, own_prompts, gold, batch_size=batch_size)
        results["gold_logp"] = own.mean.tolist()
        results["gold_pmi"] = pmi_over_contexts(under[:, 0], under).tolist()
    return results


def alike(
    replies: Sequence[str], examples: Sequence[Example], *, sample: int = 40
) -> float:
    """Return the self-BLEU (0..100) of replies to one query, mean over queries.

    Parameters
    ----------
    replies, examples : sequence
        One reply per example.
    sample : int
        At most so many replies per query.

    Returns
    -------
    float
        Over queries with two replies or more; of all replies where there is none.
    """
    by_query: dict[str, list[str]] = {}
    for reply, example in zip(replies, examples, strict=True):
        by_query.setdefault(example["query"], []).append(reply)
    shared = [texts for texts in by_query.values() if len(texts) > 1]
    if not shared:
        shared = [list(replies)]
    return float(np.mean([self_bleu(texts, sample=sample) for texts in shared]))
