"""From text to tokens: prompt ids and reply ids of each row, checked and collated into batches."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def max_positions(model) -> int | None:
    """The longest sequence that the model was built for, or None where its config does not say."""
    config = (
        model.config.get_text_config()
        if hasattr(model.config, "get_text_config")
        else model.config
    )
    return getattr(config, "max_position_embeddings", None)


def encode_many(
    tokenizer,
    prompts: Sequence[str],
    replies: Sequence[str],
    max_length: int | None = None,
    *,
    special: bool = True,
    eos: bool = True,
    names: Sequence | None = None,
) -> list[tuple[list[int], list[int]]]:
    """(prompt ids, reply ids) of each row, the same ids that TRL makes of its standard format.

    The end-of-sequence token is appended to the reply unless the text has it. Prompt and reply are tokenised together
    and the reply is what follows the prompt's own tokens, so that a tokenizer may treat the reply as a continuation.
    Where tokens would merge across the boundary (TRL warns and shortens the prompt there), the two are tokenised
    separately instead: the model samples after the prompt's own tokens, and is trained after the same ones.
    ``max_length`` cuts the end of a reply, as TRL does; a prompt that leaves no room for it is a ValueError.
    ``special`` and ``eos`` False leave out the tokenizer's own special tokens and the end of sequence;
    ``names`` says what errors call each row.
    """
    names = names or range(len(prompts))
    _check_texts(tokenizer, prompts, replies, eos, names)
    end = tokenizer.eos_token if eos else ""
    replies = [r if r.endswith(end) else r + end for r in replies]

    def ids(texts, special=special):
        return (
            tokenizer(texts, add_special_tokens=special, verbose=False)["input_ids"]
            if texts
            else []
        )

    distinct = list(dict.fromkeys(prompts))
    prompt_ids = dict(zip(distinct, ids(distinct), strict=True))
    for (
        text,
        row,
    ) in prompt_ids.items():  # some tokenizers close every text; a prompt goes on
        if (
            row
            and row[-1] == tokenizer.eos_token_id
            and tokenizer.eos_token
            and not text.endswith(tokenizer.eos_token)
        ):
            prompt_ids[text] = row[:-1]
    joint = ids([p + r for p, r in zip(prompts, replies, strict=True)])
    rows = []
    for i, (prompt, reply) in enumerate(zip(prompts, replies, strict=True)):
        head = prompt_ids[prompt]
        tail = (
            joint[i][len(head) :]
            if joint[i][: len(head)] == head
            else ids([reply], special=False)[0]
        )
        if max_length is not None:
            if len(head) >= max_length:
                raise ValueError(
                    f"row {names[i]}: the prompt has {len(head)} tokens and max_length is {max_length}, which leaves"
                    " no room for the reply; raise max_length or shorten the context"
                )
            tail = tail[: max_length - len(head)]
        if not head or not tail:
            raise ValueError(
                f"row {names[i]}: {'the reply' if head else 'the prompt'} has no token; give it some text"
            )
        rows.append((head, tail))
    return rows


def encode(
    tokenizer, prompt: str, reply: str, max_length: int | None = None
) -> tuple[list[int], list[int]]:
    """(prompt ids, reply ids) of one row; see ``encode_many``."""
    return encode_many(tokenizer, [prompt], [reply], max_length)[0]


def _check_texts(tokenizer, prompts, replies, eos, names) -> None:
    if len(prompts) != len(replies):
        raise ValueError(
            f"{len(prompts)} prompts but {len(replies)} replies; give one reply (or list) per prompt"
        )
    if eos and not tokenizer.eos_token:
        raise ValueError(
            "the tokenizer has no end-of-sequence token; set tokenizer.eos_token"
        )
    for name, texts in (("prompt", prompts), ("reply", replies)):
        for i, text in enumerate(texts):
            if not isinstance(text, str):
                raise ValueError(
                    f"row {names[i]}: the {name} must be text; got {type(text).__name__}"
                )


def check_lengths(rows, limit: int | None, names: Sequence | None = None) -> None:
    """ValueError for the first row longer than ``limit`` tokens; ``names`` says what to call each row."""
    for i, (head, tail) in enumerate(rows):
        if limit is not None and len(head) + len(tail) > limit:
            raise ValueError(
                f"row {names[i] if names else i}: prompt ({len(head)} tokens) and reply ({len(tail)} tokens) together"
                f" exceed the model's {limit} positions; shorten the context, or set max_length={limit} to cut replies"
            )


def collate(
    rows: Sequence[tuple[list[int], list[int]]], pad_id: int = 0
) -> dict[str, Tensor]:
    """One batch, padded on the right: input_ids, attention_mask and reply_mask, each (B, T); tokens (B,) of the replies."""
    longest = max(len(head) + len(tail) for head, tail in rows)
    ids = np.full((len(rows), longest), pad_id, dtype=np.int64)
    seen, reply = np.zeros_like(ids), np.zeros_like(ids)
    for i, (head, tail) in enumerate(rows):
        p, n = len(head), len(head) + len(tail)
        ids[i, :p], ids[i, p:n] = head, tail
        seen[i, :n], reply[i, p:n] = 1, 1
    arrays = {
        "input_ids": ids,
        "attention_mask": seen,
        "reply_mask": reply,
        "tokens": reply[:, 1:].sum(axis=1),
    }
    return {key: torch.from_numpy(value) for key, value in arrays.items()}
