"""Log-probs of what one side says in a talk, which is read once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mipo.lm.prompts import render_messages
from mipo.lm.reply_logps import token_logps
from mipo.lm.row_scores import LogProbs, score_rows
from mipo.lm.tokens import (
    Row,
    check_embeddings,
    check_lengths,
    collate,
    encode_many,
    max_positions,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@torch.no_grad()
def turn_logps(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    talk: Sequence[Mapping[str, str]],
) -> LogProbs:
    """Score every turn of the assistant, given all that was said before it.

    Parameters
    ----------
    model, tokenizer
        The policy; the tokenizer has a chat template.
    talk : sequence of dict
        Messages, each with "role" and "content".

    Returns
    -------
    LogProbs
        Of shapes (T,), one entry for each turn of the assistant.

    Raises
    ------
    ValueError
        For a talk without such a turn, or with more tokens than the model's positions.

    Notes
    -----
    The numbers are those of `mipo.logprobs.response_logps` with the talk up to each
    turn as its prompt. Since each prompt is the beginning of the next, one pass over
    the whole talk gives them all; a template that writes earlier turns differently once
    the talk goes on is read turn by turn.
    """
    messages = [dict(message) for message in talk]
    places = [i for i, message in enumerate(talk) if message["role"] == "assistant"]
    if not places:
        raise ValueError("the talk has no turn of the assistant, so nothing to score")
    prompts = [render_messages(tokenizer, messages[:i]) for i in places]
    turns = [messages[i]["content"] for i in places]
    rows = encode_many(tokenizer, prompts, turns)
    check_lengths(rows, max_positions(model))
    check_embeddings(rows, tokenizer, model, "the talk")
    if not _one_begins_the_next(rows):
        return score_rows(model, rows, pad_id=tokenizer.pad_token_id or 0)
    first, whole = len(rows[0][0]), [*rows[-1][0], *rows[-1][1]]
    logps = _in_one_pass(model, (whole[:first], whole[first:]))
    spans = [(len(head) - first, len(tail)) for head, tail in rows]
    summed = [logps[start : start + length].sum() for start, length in spans]
    lengths = [length for _, length in spans]
    return LogProbs(torch.stack(summed), torch.tensor(lengths))


def _in_one_pass(model: PreTrainedModel, row: Row) -> Tensor:
    """Log-prob of each token behind a row's head, nats; dropout is off meanwhile."""
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    try:
        batch = {name: part.to(device) for name, part in collate([row]).items()}
        logps, _ = token_logps(model, batch)
    finally:
        model.train(was_training)
    return logps.cpu()


def _one_begins_the_next(rows: Sequence[Row]) -> bool:
    """Whether each row, its reply in it, begins the next one's prompt."""
    said = [[*head, *tail] for head, tail in rows]
    return all(
        head[: len(before)] == before
        for (before, _), (_, (head, _)) in pairwise(zip(said, rows, strict=True))
    )
