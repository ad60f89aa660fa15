"""From text to nats: log-probs that a causal language model gives to replies; PMI.

A reply's log-prob is log pi(reply tokens + end of turn | prompt tokens), in nats. A
reply is given as text, or as the ids that were sampled (`mipo.lm.sampling.Reply.ids`),
which has the end only where the model said it.
How tokens are scored stands in `mipo.lm.reply_logps` (with gradient) and
`mipo.lm.row_scores` (many rows, without).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mipo.lm.reply_logps import first_tokens, sequence_logps, sum_rows, token_logps
from mipo.lm.row_scores import LogProbs, score_rows
from mipo.lm.tokens import (
    check_embeddings,
    check_lengths,
    encode_many,
    is_ids,
    max_positions,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = [
    "FIRST_TOKEN",
    "LogProbs",
    "conditional_pmi",
    "first_tokens",
    "marginal_row",
    "pmi_over_contexts",
    "prompt_pmi",
    "response_logps",
    "response_pmi",
    "score_rows",
    "sequence_logps",
    "start_token",
    "sum_rows",
    "token_logps",
]

FIRST_TOKEN = ("start", "drop", "released")


def response_logps(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    replies: Sequence[Any],
    *,
    batch_size: int = 32,
    max_length: int | None = None,
    progress: bool = False,
) -> LogProbs:
    """Score replies to prompts, without gradient, in the order given.

    Parameters
    ----------
    model, tokenizer
        The policy.
    prompts : sequence of str, length R
        Rendered text.
    replies : sequence
        One reply per prompt, or a list of K replies per prompt. A reply is text, or a
        list of token ids (of a sampled one, `mipo.lm.sampling.Reply.ids`).
    batch_size : int
        Replies per batch.
    max_length : int, optional
        Tokens of prompt and reply at which a reply is cut; see
        `mipo.lm.tokens.encode_many`.
    progress : bool
        Show a bar.

    Returns
    -------
    LogProbs
        Of shapes (R,), or (R, K).

    Raises
    ------
    ValueError
        Where a row is longer than the model's positions, where the model has no
        embedding of a token, and for numbers of replies that differ.
    """
    k = _check_counts(replies)
    if len(prompts) != len(replies):
        raise ValueError(
            f"{len(prompts)} prompts but {len(replies)} replies; "
            "give one reply (or list) per prompt"
        )
    groups = replies if k else [[text] for text in replies]
    flat: list[Any] = [text for group in groups for text in group]
    repeats = k or 1
    rows = encode_many(
        tokenizer, [p for p in prompts for _ in range(repeats)], flat, max_length
    )
    names = [i // repeats for i in range(len(rows))]
    check_lengths(rows, max_positions(model), names=names)
    check_embeddings(rows, tokenizer, model, "prompts and replies")
    scores = score_rows(
        model,
        rows,
        pad_id=tokenizer.pad_token_id or 0,
        batch_size=batch_size,
        progress=progress,
    )
    if not k:
        return scores
    return LogProbs(scores.summed.reshape(-1, k), scores.tokens.reshape(-1, k))


def _check_counts(replies: Sequence) -> int:
    """Number of replies to each prompt where they are lists; 0 where each has one."""
    if not len(replies) or _is_reply(replies[0]):
        return 0
    k = len(replies[0])
    if any(_is_reply(group) or len(group) != k for group in replies):
        raise ValueError(
            f"every prompt needs the same number of replies; the first has {k}"
        )
    return k


def _is_reply(value: Any) -> bool:
    return isinstance(value, str) or is_ids(value)


# ---- PMI per token of a reply, as RMiPO uses it: log pi(y|x) - log pi(y) ----


def marginal_row(
    reply: list[int], start: int, first_token: str = "start"
) -> tuple[list[int], list[int]]:
    """Return the row (head, tail) that scores a reply's tokens without their prompt.

    Parameters
    ----------
    reply : list of int
        Its token ids.
    start : int
        Id of the token that begins a sequence.
    first_token : {"start", "drop", "released"}
        See `response_pmi`.

    Raises
    ------
    ValueError
        For another `first_token`.
    """
    if first_token not in FIRST_TOKEN:
        raise ValueError(
            f"first_token must be one of {', '.join(FIRST_TOKEN)}; got {first_token!r}"
        )
    return ([start], reply) if first_token == "start" else (reply[:1], reply[1:])


def response_pmi(
    summed: Tensor,
    tokens: Tensor,
    first: Tensor,
    alone: Tensor,
    *,
    first_token: str = "start",
) -> Tensor:
    r"""Log pi(y|x) - log pi(y) per token, from summed log-probs.

    Parameters
    ----------
    summed, tokens, first : Tensor, shape (R,)
        log pi(y|x), the number of tokens L, and log pi(y_1|x).
    alone : Tensor, shape (R,)
        Log-probs without the prompt, summed over what `marginal_row` scores.
    first_token : {"start", "drop", "released"}
        The first token has no predecessor once the prompt is gone. "start": it follows
        the sequence-start token; both terms are means over L tokens. "drop": it is left
        out of both terms; means over the other L - 1. "released": as the released code
        has it; with the prompt a mean over L, without over L - 1.

    Returns
    -------
    Tensor, shape (R,)
        Nats per token. A reply of one token has nothing left to compare in "drop" and
        "released"; its PMI is 0 there.
    """
    if first_token == "start":
        return (summed - alone) / tokens
    rest = (tokens - 1).clamp(min=1)
    released = first_token == "released"
    with_prompt = summed / tokens if released else (summed - first) / rest
    return torch.where(tokens > 1, with_prompt - alone / rest, torch.zeros_like(summed))


def start_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the id of the token that begins a sequence.

    BOS, or the end-of-sequence token where there is none (as GPT-2).
    """
    if tokenizer.bos_token_id is None:
        return tokenizer.eos_token_id
    return tokenizer.bos_token_id


def prompt_pmi(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    replies: Sequence[str | Sequence[int]],
    *,
    first_token: str = "start",
    batch_size: int = 64,
    progress: bool = False,
) -> Tensor:
    """Return `response_pmi` of replies to rendered prompts, without gradient.

    Parameters
    ----------
    model, tokenizer
        The policy.
    prompts, replies : sequence, length R
        One reply per prompt, as in `response_logps`.
    first_token : {"start", "drop", "released"}
        As in `response_pmi`.
    batch_size, progress
        As in `response_logps`.

    Returns
    -------
    Tensor, shape (R,)
        Nats per token.
    """
    rows = encode_many(tokenizer, prompts, replies)
    check_lengths(rows, max_positions(model))
    check_embeddings(rows, tokenizer, model, "prompts and replies")
    start = start_token(tokenizer)

    def score(rows: list[tuple[list[int], list[int]]]) -> LogProbs:
        return score_rows(
            model,
            rows,
            pad_id=tokenizer.pad_token_id or 0,
            batch_size=batch_size,
            progress=progress,
        )

    full = score(rows)
    first = score([(head, tail[:1]) for head, tail in rows])
    alone = score([marginal_row(tail, start, first_token) for _, tail in rows])
    return response_pmi(
        full.summed, full.tokens, first.summed, alone.summed, first_token=first_token
    )


# ---- PMI of a reply with its context: log pi(y|x,c) - log pi(y|x) ----


def pmi_over_contexts(
    own: Tensor, under: Tensor, weights: Tensor | None = None
) -> Tensor:
    r"""Log pi(y|x,c) - log Σ_k w_k·pi(y|x,c_k).

    Parameters
    ----------
    own : Tensor, shape (R,)
        log pi(y|x,c), nats per reply.
    under : Tensor, shape (R, K)
        log pi(y|x,c_k) for K contexts.
    weights : Tensor, shape (K,), optional
        w_k, up to a factor; None: 1/K each.

    Returns
    -------
    Tensor, shape (R,)
        Nats per reply; at most log K where c is one of the K equally likely contexts.

    Raises
    ------
    ValueError
        For other shapes.

    Notes
    -----
    The mean over K random contexts is an unbiased estimate of pi(y|x), so the PMI comes
    out too large on average (Jensen), less so as K grows.
    """
    if own.dim() != 1 or under.dim() != 2 or len(own) != len(under):
        raise ValueError(
            "need log-probs of shapes (R,) and (R, K); "
            f"got {tuple(own.shape)} and {tuple(under.shape)}"
        )
    if weights is None:
        weights = torch.ones(under.shape[1], dtype=under.dtype)
    log_weights = (weights / weights.sum()).log().to(under)
    return own - torch.logsumexp(under + log_weights, dim=1)


def conditional_pmi(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Mapping[str, Any]],
    replies: Sequence[str | Sequence[int]],
    marginal: str = "contexts",
    *,
    contexts: Sequence[str] | None = None,
    batch_size: int = 32,
    max_length: int | None = None,
    progress: bool = False,
) -> Tensor:
    r"""Log pi(y | x, c) - log pi(y | x) of each reply to its example's query x.

    Parameters
    ----------
    model, tokenizer
        The policy.
    examples : sequence of dict, length R
        Examples with "query" x and "context" c.
    replies : sequence, length R
        One per example, as in `response_logps`.
    marginal : {"contexts", "missing"}
        "contexts": pi(y | x) is the average of pi(y | x, c') over `contexts`.
        "missing": it is what the model says without any context, which is the marginal
        only for a model that was trained so.
    contexts : sequence of str, optional
        The c' of the marginal, each as often as it occurs; None: those of all examples.
    batch_size, max_length, progress
        As in `response_logps`.

    Returns
    -------
    Tensor, shape (R,)
        Nats per reply; at most log(number of contexts) where c is one of them.

    Raises
    ------
    ValueError
        For another `marginal` and unequal numbers.

    Notes
    -----
    R times (distinct contexts) replies are scored for "contexts", R for "missing".
    """
    from mipo.lm.prompts import render

    if marginal not in ("contexts", "missing"):
        raise ValueError(f"marginal must be 'contexts' or 'missing'; got {marginal!r}")
    if len(examples) != len(replies):
        raise ValueError(
            f"{len(examples)} examples but {len(replies)} replies; "
            "give one reply per example"
        )

    def score(contexts_of_rows: Sequence[str]) -> Tensor:
        prompts = [
            render(tokenizer, example["query"], context)
            for example, context in zip(examples, contexts_of_rows, strict=True)
        ]
        scores = response_logps(
            model,
            tokenizer,
            prompts,
            replies,
            batch_size=batch_size,
            max_length=max_length,
            progress=progress,
        )
        return scores.summed

    n = len(examples)
    own = [example.get("context", "") for example in examples]
    if marginal == "missing":
        return score(own) - score([""] * n)
    counts = Counter(own if contexts is None else contexts)
    weights = torch.tensor(list(counts.values()), dtype=torch.float64)
    columns = [score([context] * n).double() for context in counts]
    under = torch.stack(columns, dim=1)  # (R, C)
    return pmi_over_contexts(score(own), under, weights).float()
