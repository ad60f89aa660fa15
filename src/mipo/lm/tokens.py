"""From text to tokens: prompt ids and reply ids of each row, checked and collated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Row = tuple[list[int], list[int]]  # ids of the prompt, and of the reply with its end


def max_positions(model: PreTrainedModel) -> int | None:
    """Return the longest sequence that the model was built for.

    None where its config does not say.
    """
    config: Any = model.config
    if hasattr(config, "get_text_config"):
        config = config.get_text_config()
    return getattr(config, "max_position_embeddings", None)


def encode_many(
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    replies: Sequence[str],
    max_length: int | None = None,
    *,
    special: bool = True,
    eos: bool = True,
    names: Sequence | None = None,
) -> list[Row]:
    """Tokenise rows, to the same ids that TRL makes of its standard format.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
        Of the model.
    prompts, replies : sequence of str
        Rendered prompts, and one reply to each.
    max_length : int, optional
        Cuts the end of a reply, as TRL does.
    special, eos : bool
        False leaves out the tokenizer's own special tokens, and the end of sequence,
        which is else appended to a reply unless the text has it.
    names : sequence, optional
        What errors call each row; None: its number.

    Returns
    -------
    list of (prompt ids, reply ids)
        One row per prompt.

    Raises
    ------
    ValueError
        For what is no text or has no token, and a prompt that leaves no room for the
        reply.

    Notes
    -----
    Prompt and reply are tokenised together and the reply is what follows the prompt's
    own tokens, so that a tokenizer may treat the reply as a continuation. Where tokens
    would merge across the boundary (TRL warns and shortens the prompt there), the two
    are tokenised separately instead: the model samples after the prompt's own tokens,
    and is trained after the same ones.
    """
    names = names or range(len(prompts))
    _check_texts(tokenizer, prompts, replies, eos, names)
    end = tokenizer.eos_token if eos else ""
    replies = [r if r.endswith(end) else r + end for r in replies]
    heads = _prompt_ids(tokenizer, prompts, special)
    both = [p + r for p, r in zip(prompts, replies, strict=True)]
    rows = []
    joint = _ids(tokenizer, both, special)
    for name, prompt, reply, ids in zip(names, prompts, replies, joint, strict=True):
        head = heads[prompt]
        if ids[: len(head)] == head:
            tail = ids[len(head) :]
        else:
            tail = _ids(tokenizer, [reply], special=False)[0]
        if max_length is not None:
            if len(head) >= max_length:
                raise ValueError(
                    f"row {name}: the prompt has {len(head)} tokens and max_length is "
                    f"{max_length}, which leaves no room for the reply; "
                    "raise max_length or shorten the context"
                )
            tail = tail[: max_length - len(head)]
        if not head or not tail:
            culprit = "the reply" if head else "the prompt"
            raise ValueError(f"row {name}: {culprit} has no token; give it some text")
        rows.append((head, tail))
    return rows


def _ids(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], special: bool
) -> list[list[int]]:
    if not texts:
        return []
    encoded = tokenizer(list(texts), add_special_tokens=special, verbose=False)
    return encoded["input_ids"]


def _prompt_ids(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], special: bool
) -> dict[str, list[int]]:
    """Ids of each distinct prompt, without an end that its text has not."""
    distinct = list(dict.fromkeys(prompts))
    heads = dict(zip(distinct, _ids(tokenizer, distinct, special), strict=True))
    end = tokenizer.eos_token
    for text, ids in heads.items():
        closed = ids and ids[-1] == tokenizer.eos_token_id
        if closed and end and not text.endswith(end):
            heads[text] = ids[:-1]  # some tokenizers close every text; a prompt goes on
    return heads


def encode(
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    reply: str,
    max_length: int | None = None,
) -> Row:
    """Return (prompt ids, reply ids) of one row; see `encode_many`."""
    return encode_many(tokenizer, [prompt], [reply], max_length)[0]


def _check_texts(
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    replies: Sequence[str],
    eos: bool,
    names: Sequence,
) -> None:
    if len(prompts) != len(replies):
        raise ValueError(
            f"{len(prompts)} prompts but {len(replies)} replies; "
            "give one reply (or list) per prompt"
        )
    if eos and not tokenizer.eos_token:
        raise ValueError(
            "the tokenizer has no end-of-sequence token; set tokenizer.eos_token"
        )
    for kind, texts in (("prompt", prompts), ("reply", replies)):
        for name, text in zip(names, texts, strict=True):
            if not isinstance(text, str):
                raise ValueError(
                    f"row {name}: the {kind} must be text; got {type(text).__name__}"
                )


def check_lengths(
    rows: Sequence[Row], limit: int | None, names: Sequence | None = None
) -> None:
    """Raise a ValueError for the first row that is longer than a limit.

    Parameters
    ----------
    rows : sequence of (prompt ids, reply ids)
        Of `encode_many`.
    limit : int, optional
        Tokens; None: no limit.
    names : sequence, optional
        What the error calls each row; None: its number.
    """
    if limit is None:
        return
    for i, (head, tail) in enumerate(rows):
        if len(head) + len(tail) > limit:
            raise ValueError(
                f"row {names[i] if names else i}: prompt ({len(head)} tokens) and "
                f"reply ({len(tail)} tokens) together exceed the model's {limit} "
                f"positions; shorten the context, or set max_length={limit} to cut "
                "replies"
            )


def collate(rows: Sequence[Row], pad_id: int = 0) -> dict[str, Tensor]:
    """Put rows into one batch, padded on the right.

    Parameters
    ----------
    rows : sequence of (prompt ids, reply ids), length B
        Of `encode_many`.
    pad_id : int
        Fills shorter rows.

    Returns
    -------
    dict of Tensor
        "input_ids", "attention_mask" and "reply_mask", each (B, T); "tokens" (B,) of
        the replies.
    """
    longest = max(len(head) + len(tail) for head, tail in rows)
    ids = np.full((len(rows), longest), pad_id, dtype=np.int64)
    attended, reply = np.zeros_like(ids), np.zeros_like(ids)
    for i, (head, tail) in enumerate(rows):
        begin, end = len(head), len(head) + len(tail)
        ids[i, :begin], ids[i, begin:end] = head, tail
        attended[i, :end], reply[i, begin:end] = 1, 1
    arrays = {
        "input_ids": ids,
        "attention_mask": attended,
        "reply_mask": reply,
        "tokens": reply[:, 1:].sum(axis=1),
    }
    return {name: torch.from_numpy(array) for name, array in arrays.items()}
