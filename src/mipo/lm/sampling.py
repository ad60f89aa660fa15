"""Sampling replies from a model: batched, cached, and reproducible prompt by prompt.

The i-th prompt of a call has its own stream of random numbers, so a seed gives it the
same reply however the prompts are batched, up to near-ties that the shape of a matrix
product rounds differently (`mipo_study.bench.sampling` counts them). A token is drawn
by inverting the cumulative distribution at one uniform number: one number per token, at
any temperature.

A reply keeps the tokens that were sampled: its text may be written in other ones, and a
reply that was cut has no end.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from mipo.lm.shared_prompt import why_not
from mipo.lm.tokens import (
    check_embeddings,
    encode_many,
    end_ids,
    max_positions,
    token_ids,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

HEAD = 256  # of the most likely tokens are looked at before all are sorted
LEAST_PREFIX = 16  # tokens: what is shorter is read with each prompt
DROPPED = 1 / 8  # of the rows are done: they are computed no longer


# Ids of sampled replies in a file of pairs; chosen_ids is TRL's own name within.
TOKEN_COLUMNS = ("chosen_tokens", "rejected_tokens")


class Reply(NamedTuple):
    """What a model said.

    Attributes
    ----------
    text : str
        Without special tokens.
    ids : list of int
        The tokens as they were sampled, up to the end and with it.
    finished : bool
        False for a reply that was cut at max_new_tokens, and so has no end.
    """

    text: str
    ids: list[int]
    finished: bool


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    **settings: Any,
) -> list[str]:
    """Sample one reply per rendered prompt, as text without special tokens.

    Parameters
    ----------
    model, tokenizer, prompts, **settings
        As in `sample`.

    Returns
    -------
    list of str
        In the order of the prompts.
    """
    return [reply.text for reply in sample(model, tokenizer, prompts, **settings)]


@torch.no_grad()
def sample(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    *,
    max_new_tokens: int = 64,
    temperature: float = 1.0,
    top_p: float = 1.0,
    seed: int = 0,
    batch_size: int = 256,
    contrast_prompts: Sequence[str] | None = None,
    alpha: float = 0.0,
    names: Sequence[str] | None = None,
    share_prefix: bool = True,
    progress: bool = False,
) -> list[Reply]:
    """Sample one reply per rendered prompt.

    Parameters
    ----------
    model, tokenizer
        The policy; its dropout is off meanwhile.
    prompts : sequence of str
        Rendered text.
    max_new_tokens : int
        A reply is cut there.
    temperature : float
        0 is greedy; 1 samples from the model itself, as the theory of the study
        assumes.
    top_p : float
        Keep the smallest set of tokens whose probability reaches it.
    seed : int
        With the prompt's number, it names the prompt's own random stream.
    batch_size : int
        Prompts per batch, of similar length.
    contrast_prompts : sequence of str, optional
        For context-aware decoding (arXiv:2305.14739), one per prompt.
    alpha : float
        Its strength: logits (1 + α)·logits(prompt) - α·logits(contrast).
    names : sequence of str, optional
        What errors call each prompt; None: its number.
    share_prefix : bool
        Read what the prompts of a batch begin with once, where that is exact.
    progress : bool
        Show a bar.

    Returns
    -------
    list of Reply
        In the order of the prompts.

    Raises
    ------
    ValueError
        For an impossible setting, an empty prompt, one that leaves no room for a reply
        in the model's context, and a token that the model has no embedding of.
    """
    if temperature < 0 or not 0 < top_p <= 1:
        raise ValueError(
            f"need temperature >= 0 and 0 < top_p <= 1, got {temperature} and {top_p}"
        )
    sides = [prompts]
    if contrast_prompts is not None and alpha:
        sides.append(contrast_prompts)
    ids = [token_ids(tokenizer, side) for side in sides]
    for side in ids:
        called = names or [f"prompt {i}" for i in range(len(side))]
        _check_lengths(side, model, max_new_tokens, called)
        check_embeddings([(row, []) for row in side], tokenizer, model, "prompts")
    order = sorted(range(len(prompts)), key=lambda i: len(ids[0][i]))
    replies = [Reply("", [], False)] * len(order)
    ends, pad = end_ids(tokenizer, model), tokenizer.pad_token_id
    if pad is None:
        pad = ends[0]  # any will do: nothing attends to it
    was_training = model.training
    model.eval()
    bar = tqdm(total=len(order), desc="sampling", unit="reply", disable=not progress)
    try:
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            uniforms = _uniforms(seed, rows, max_new_tokens)
            states = [
                _State(model, [side[i] for i in rows], pad, share_prefix)
                for side in ids
            ]
            sampled = _decode(states, uniforms, ends, temperature, top_p, alpha)
            for i, tokens in zip(rows, sampled, strict=True):
                replies[i] = reply_of(tokenizer, tokens, ends)
            bar.update(len(rows))
    finally:
        bar.close()
        model.train(was_training)
    return replies


def _uniforms(seed: int, rows: Sequence[int], size: int) -> np.ndarray:
    """Numbers in 0..1, (B, size): each prompt's from its own stream."""
    streams = [np.random.Generator(np.random.Philox(key=(seed, i))) for i in rows]
    return np.stack([stream.random(size) for stream in streams])


def _check_lengths(
    ids: Sequence[Sequence[int]],
    model: PreTrainedModel,
    max_new_tokens: int,
    names: Sequence[str],
) -> None:
    limit = max_positions(model) or float("inf")
    for name, tokens in zip(names, ids, strict=True):
        if not tokens:
            raise ValueError(f"{name}: the prompt is empty")
        if len(tokens) + max_new_tokens > limit:
            raise ValueError(
                f"{name}: the prompt has {len(tokens)} tokens; with max_new_tokens="
                f"{max_new_tokens} that is more than the model's context of {limit}: "
                "shorten its context or lower max_new_tokens"
            )


class _State:
    """A left-padded batch of prompts with its key-value cache.

    What all prompts begin with is read once. Its keys and values then stand before the
    padding of each row.
    """

    def __init__(
        self, model: PreTrainedModel, ids: list[list[int]], pad: int, share: bool = True
    ):
        self.model = model
        self.cache: Any = None
        shared = common_prefix(model, ids) if share else 0
        if shared:
            self._read_once(ids[0][:shared], len(ids))
            ids = [row[shared:] for row in ids]
        width = max(map(len, ids))
        before = [1] * shared
        tokens = [[pad] * (width - len(row)) + row for row in ids]
        mask = [before + [0] * (width - len(row)) + [1] * len(row) for row in ids]
        self.tokens = torch.tensor(tokens, device=model.device)  # (B, T)
        self.mask = torch.tensor(mask, device=model.device)  # (B, shared + T)
        self.position = (self.mask.cumsum(-1) - 1).clamp(min=0)[:, shared:]

    def _read_once(self, prefix: list[int], rows: int) -> None:
        """Fill the cache with what `rows` prompts begin with."""
        tokens = torch.tensor([prefix], device=self.model.device)
        out = self.model(input_ids=tokens, use_cache=True, logits_to_keep=1)
        self.cache = out.past_key_values
        self.cache.batch_repeat_interleave(rows)

    def logits(self) -> Tensor:
        """Logits of the next token, (B, V)."""
        out = self.model(
            input_ids=self.tokens,
            attention_mask=self.mask,
            position_ids=self.position,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self.cache = out.past_key_values
        return out.logits[:, -1].double()

    def append(self, token: Tensor) -> None:
        """Take the next token of each row, (B,)."""
        self.tokens = token[:, None]
        self.mask = torch.cat([self.mask, torch.ones_like(self.tokens)], dim=1)
        self.position = self.position[:, -1:] + 1

    @property
    def can_drop(self) -> bool:
        """Whether rows can be left out of the cache, which not every kind allows."""
        return hasattr(self.cache, "batch_select_indices")

    def keep(self, rows: Tensor) -> None:
        """Go on with some rows only."""
        self.cache.batch_select_indices(rows)
        self.tokens = self.tokens[rows]
        self.mask = self.mask[rows]
        self.position = self.position[rows]


def common_prefix(model: PreTrainedModel, ids: list[list[int]]) -> int:
    """How many tokens of prompts are read once for all of them.

    Parameters
    ----------
    model : PreTrainedModel
        0 for the kinds that look at the past by place, not by position, see
        `mipo.lm.shared_prompt.why_not`.
    ids : list of list of int
        Prompts, not empty.

    Returns
    -------
    int
        What all begin with; a token of each is left over. 0 below `LEAST_PREFIX`.
    """
    first, last = min(ids), max(ids)
    most = min(map(len, ids)) - 1
    same = [one == other for one, other in zip(first[:most], last[:most], strict=True)]
    length = same.index(False) if False in same else most
    worth = len(ids) > 1 and length >= LEAST_PREFIX and why_not(model) is None
    return length if worth else 0


def _decode(
    states: list[_State],
    uniforms: np.ndarray,
    ends: list[int],
    temperature: float,
    top_p: float,
    alpha: float,
) -> list[list[int]]:
    """Token ids per row; what follows the first of `ends` is a filling."""
    rows, steps = uniforms.shape
    device = states[0].mask.device
    numbers = torch.tensor(uniforms, device=device)
    stops = torch.tensor(ends, device=device)
    tokens = torch.full((rows, steps), ends[0], device=device)
    live = torch.arange(rows, device=device)  # rows that are computed
    done = torch.zeros(rows, dtype=torch.bool, device=device)  # of them
    for step in range(steps):
        logits = states[0].logits()
        if len(states) == 2:
            logits = (1 + alpha) * logits - alpha * states[1].logits()
        token = pick(logits, numbers[live, step], temperature, top_p)
        token = torch.where(done, ends[0], token)
        tokens[live, step] = token
        done |= torch.isin(token, stops)
        finished = int(done.sum())
        if finished == len(done):
            break
        for state in states:
            state.append(token)
        if finished >= DROPPED * len(done) and states[0].can_drop:
            going = (~done).nonzero()[:, 0]
            live, done = live[going], done[going]
            for state in states:
                state.keep(going)
    return tokens.tolist()


def reply_of(
    tokenizer: PreTrainedTokenizerBase, tokens: list[int], ends: list[int]
) -> Reply:
    """The reply that sampled tokens hold, up to the first that is an end."""
    stop = next((i for i, token in enumerate(tokens) if token in ends), len(tokens))
    text = str(tokenizer.decode(tokens[:stop], skip_special_tokens=True))
    return Reply(text, tokens[: stop + 1], finished=stop < len(tokens))


def respelt(
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    replies: Sequence[Reply],
) -> list[bool]:
    """Whether the text of each reply is written in other tokens than were sampled.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
        Of the model.
    prompts : sequence of str
        Rendered text.
    replies : sequence of Reply
        One per prompt. Of one that was cut, the tokens that it has count.

    Returns
    -------
    list of bool
    """
    rows = encode_many(tokenizer, prompts, [reply.text for reply in replies])
    pairs = zip(rows, replies, strict=True)
    return [
        (ids if reply.finished else ids[: len(reply.ids)]) != reply.ids
        for (_, ids), reply in pairs
    ]


def shares(
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    replies: Sequence[Reply],
) -> dict[str, float]:
    """Shares of replies that are not what they seem.

    Parameters
    ----------
    tokenizer, prompts, replies
        As in `respelt`.

    Returns
    -------
    dict
        "cut": of those that were cut at max_new_tokens; "respelt": of those whose text
        is written in other tokens than were sampled.
    """
    return {
        "cut": float(np.mean([not reply.finished for reply in replies])),
        "respelt": float(np.mean(respelt(tokenizer, prompts, replies))),
    }


def pick(
    logits: Tensor, uniform: Tensor, temperature: float = 1.0, top_p: float = 1.0
) -> Tensor:
    """Return the token at which the cumulative distribution passes a number.

    Parameters
    ----------
    logits : Tensor, shape (B, V)
        Of the next token.
    uniform : Tensor, shape (B,)
        Numbers in 0..1.
    temperature, top_p : float
        As in `generate`.

    Returns
    -------
    Tensor, shape (B,)
        Token ids.
    """
    if temperature == 0:
        return logits.argmax(-1)
    law = torch.softmax(logits / temperature, dim=-1)
    probs, tokens, sure = _most_likely(law, HEAD)
    reached = functional.pad(probs.cumsum(-1), (1, 0)).gather(-1, sure[:, None])[:, 0]
    beyond = reached <= (uniform * law.sum(-1) if top_p == 1 else top_p)
    token = _invert(law, probs, tokens, uniform, top_p)
    if beyond.any():
        rest = law[beyond]
        probs, tokens = rest.sort(dim=-1, descending=True, stable=True)
        token[beyond] = _invert(rest, probs, tokens, uniform[beyond], top_p)
    return token


def _most_likely(law: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """The first `size` tokens of a stable sort by probability, which is slow in full.

    Returns probabilities and tokens, and of how many the order is sure: of those as
    likely as the last, some may have been left out.
    """
    chosen = law.topk(min(size, law.shape[-1]), dim=-1).indices.sort(dim=-1).values
    probs, places = law.gather(-1, chosen).sort(dim=-1, descending=True, stable=True)
    sure = (probs > probs[:, -1:]).sum(-1)
    if size >= law.shape[-1]:
        sure = torch.full_like(sure, law.shape[-1])
    return probs, chosen.gather(-1, places), sure


def _invert(
    law: Tensor, probs: Tensor, tokens: Tensor, uniform: Tensor, top_p: float
) -> Tensor:
    """The token at which the cumulative distribution, most likely first, passes u."""
    total = law.sum(-1, keepdim=True)
    if top_p < 1:
        probs = torch.where(probs.cumsum(-1) - probs < top_p, probs, 0.0)
        total = probs.cumsum(-1)[:, -1:]
    index = torch.searchsorted(probs.cumsum(-1), uniform[:, None] * total, right=True)
    # a uniform that rounds to 1 must not fall off the end
    last = (probs > 0).sum(-1, keepdim=True) - 1
    return tokens.gather(-1, torch.minimum(index, last))[:, 0]
