"""From text to tokens: prompt ids and reply ids of each row, checked and collated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from mipo.lm.prompts import NO_END, reply_text, wrapping

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
    replies: Sequence[str | Sequence[int]],
    max_length: int | None = None,
    *,
    names: Sequence | None = None,
) -> list[Row]:
    """Tokenise rows: each reply as the model would have written it.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
        Of the model.
    prompts : sequence of str
        Rendered text.
    replies : sequence of str, or of list of int
        One reply to each prompt: its text, or the ids that were sampled, the end of a
        finished reply in them. Ids stay as they are.
    max_length : int, optional
        Cuts the end of a reply, as TRL does.
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
    Behind a prompt that the chat template rendered, a reply is what the template writes
    up to the end of its turn (`mipo.lm.prompts.reply_text`): the ids are those of the
    same conversation in messages. Behind other text the ids are those that TRL makes of
    its standard format.
    """
    _check_replies(prompts, replies, names or range(len(prompts)))
    around = wrapping(tokenizer)
    turns = [
        reply_text(tokenizer, prompt, reply, around)
        if isinstance(reply, str)
        else reply
        for prompt, reply in zip(prompts, replies, strict=True)
    ]
    return join(tokenizer, prompts, turns, max_length, names=names)


def join(
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    turns: Sequence[str | Sequence[int]],
    max_length: int | None = None,
    *,
    names: Sequence | None = None,
) -> list[Row]:
    """Tokenise prompts and what the chat template writes behind them.

    Parameters
    ----------
    tokenizer, prompts, max_length, names
        As in `encode_many`.
    turns : sequence of str, or of list of int
        One to each prompt, with the end where it has one; ids stay as they are.

    Returns
    -------
    list of (prompt ids, reply ids)
        One row per prompt.

    Raises
    ------
    ValueError
        For what has no token, and a prompt that leaves no room for the reply.

    Notes
    -----
    Prompt and turn are tokenised together and the reply is what follows the prompt's
    own tokens, so that a tokenizer may treat the reply as a continuation. Where tokens
    would merge across the boundary (TRL warns and shortens the prompt there), the two
    are tokenised separately instead: the model samples after the prompt's own tokens,
    and is trained after the same ones.
    """
    names = names or range(len(prompts))
    distinct = list(dict.fromkeys(prompts))
    known = dict(zip(distinct, token_ids(tokenizer, distinct), strict=True))
    heads = [known[prompt] for prompt in prompts]
    tails = _turn_ids(tokenizer, prompts, turns, heads)
    rows = []
    for name, head, tail in zip(names, heads, tails, strict=True):
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


def _turn_ids(
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    turns: Sequence[str | Sequence[int]],
    heads: Sequence[list[int]],
) -> list[list[int]]:
    """Ids of each turn behind its prompt, whose ids are `heads`."""
    texts = {i: turn for i, turn in enumerate(turns) if isinstance(turn, str)}
    both = [prompts[i] + turn for i, turn in texts.items()]
    joint = dict(zip(texts, token_ids(tokenizer, both), strict=True))
    tails = []
    for i, (turn, head) in enumerate(zip(turns, heads, strict=True)):
        if not isinstance(turn, str):
            tails.append(list(turn))
        elif joint[i][: len(head)] == head:
            tails.append(joint[i][len(head) :])
        else:
            tails += token_ids(tokenizer, [turn], special=False)
    return tails


def token_ids(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], special: bool = True
) -> list[list[int]]:
    """Ids of rendered prompts, or of texts: the same wherever they are needed.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
        Of the model.
    texts : sequence of str
        Any.
    special : bool
        False leaves out the tokenizer's own special tokens.

    Returns
    -------
    list of list of int
        A beginning of sequence that the text writes is not doubled, and an end that the
        tokenizer adds to every text is left out: a prompt goes on, and a reply has its
        own.
    """
    if not texts:
        return []
    encoded = tokenizer(list(texts), add_special_tokens=special, verbose=False)
    rows = [list(ids) for ids in encoded["input_ids"]]
    if not special:
        return rows
    start = tokenizer.bos_token_id
    begin = [1 if start is not None and ids[:2] == [start] * 2 else 0 for ids in rows]
    stop = -1 if _adds_end(tokenizer) else None
    return [ids[first:stop] for first, ids in zip(begin, rows, strict=True)]


def _adds_end(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer closes every text."""
    closed, bare = (
        tokenizer("a", add_special_tokens=special)["input_ids"]
        for special in (True, False)
    )
    end = [tokenizer.eos_token_id]
    return bool(len(closed) > len(bare) and closed[-1:] == end != bare[-1:])


def end_ids(
    tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel | None = None
) -> list[int]:
    """Ids of the tokens at which a reply ends.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
        Of the model.
    model : PreTrainedModel, optional
        Its generation config may name further ones (Gemma, Phi and Llama 3 do).

    Returns
    -------
    list of int
        First the one with which the chat template ends a turn.

    Raises
    ------
    ValueError
        Where neither of the three has an end.
    """
    end = wrapping(tokenizer).end
    ends: list[Any] = [tokenizer.convert_tokens_to_ids(end)] if end else []
    ends.append(tokenizer.eos_token_id)
    config = getattr(model, "generation_config", None)
    named = getattr(config, "eos_token_id", None)
    ends += named if isinstance(named, list) else [named]
    found = list(dict.fromkeys(i for i in ends if i is not None))
    if not found:
        raise ValueError(NO_END)
    return found


def encode(
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    reply: str,
    max_length: int | None = None,
) -> Row:
    """Return (prompt ids, reply ids) of one row; see `encode_many`."""
    return encode_many(tokenizer, [prompt], [reply], max_length)[0]


def is_ids(reply: object) -> bool:
    """Whether a reply is given as token ids."""
    if not isinstance(reply, Sequence) or isinstance(reply, str) or not len(reply):
        return False
    return all(isinstance(token, int) for token in reply)


def _check_replies(
    prompts: Sequence[str], replies: Sequence[str | Sequence[int]], names: Sequence
) -> None:
    if len(prompts) != len(replies):
        raise ValueError(
            f"{len(prompts)} prompts but {len(replies)} replies; "
            "give one reply (or list) per prompt"
        )
    for name, prompt, reply in zip(names, prompts, replies, strict=True):
        if not isinstance(prompt, str):
            raise ValueError(
                f"row {name}: the prompt must be text; got {type(prompt).__name__}"
            )
        if not isinstance(reply, str) and not is_ids(reply):
            raise ValueError(
                f"row {name}: the reply must be text, or the ids of its tokens; "
                f"got {type(reply).__name__}"
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


def check_embeddings(
    rows: Sequence[Row],
    tokenizer: PreTrainedTokenizerBase,
    model: PreTrainedModel,
    name: str,
) -> None:
    """Raise a ValueError where the model has no embedding of an id.

    Parameters
    ----------
    rows : sequence of (prompt ids, reply ids)
        Of `encode_many`.
    tokenizer, model
        Of the policy.
    name : str
        What the error calls the rows.
    """
    size = _vocabulary(model)
    largest = max((max(head + tail) for head, tail in rows), default=-1)
    if size is not None and largest >= size:
        token = tokenizer.convert_ids_to_tokens(largest)
        raise ValueError(
            f"{name}: token {token!r} has id {largest}, and the model has embeddings "
            f"for {size} tokens; call model.resize_token_embeddings(len(tokenizer))"
        )


UNKNOWN = 0.5  # share of tokens above which a text is not in the tokenizer's language


def check_vocabulary(
    rows: Sequence[Row],
    tokenizer: PreTrainedTokenizerBase,
    model: PreTrainedModel,
    name: str,
) -> None:
    """Refuse rows whose tokens the tokenizer or the model does not know.

    Parameters
    ----------
    rows : sequence of (prompt ids, reply ids)
        Of `encode_many`.
    tokenizer, model
        Of the policy.
    name : str
        What errors call the rows' data set.

    Raises
    ------
    ValueError
        Where the model has no embedding of an id, and where more than half of the
        tokens are the unknown token.
    """
    check_embeddings(rows, tokenizer, model, name)
    ids = np.concatenate([np.asarray(head + tail) for head, tail in rows])
    unknown = tokenizer.unk_token_id
    ours = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    known = unknown is None or unknown in ours  # GPT-2 has one token for all of them
    share = 0.0 if known else float((ids == unknown).mean())
    if share > UNKNOWN:
        raise ValueError(
            f"{share:.0%} of the tokens of {name} are unknown to the tokenizer, which "
            "was made for other texts; give the model that is to read them"
        )


def _vocabulary(model: PreTrainedModel) -> int | None:
    """Tokens that a model has embeddings for; None where it does not say."""
    embeddings = getattr(model, "get_input_embeddings", lambda: None)()
    return getattr(embeddings, "num_embeddings", None)


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
