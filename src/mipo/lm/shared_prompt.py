"""A prompt is computed once for all its replies, which do not see each other.

The numbers are those of separate rows, and nothing is padded but what attention reads.
All tokens of a batch stand in one row. Here a prompt ``p1 p2 p3`` has the replies
``a1 a2 a3`` and ``b1 b2``, and a prompt ``q1 q2 q3 q4`` has the reply ``c1 c2 c3``::

             prompts, each without   reply parts: the last prompt token,
             its last token          then the reply without its last
    reads     p1 p2   q1 q2 q3        p3 a1 a2    p3 b1    q4 c1 c2
    predicts                          a1 a2 a3    b1 b2    c1 c2 c3

So all predictions lie in the last columns, and the last layer is computed for them
alone: of a prompt it only needs keys and values. For attention the row is spread out
into one padded row per prompt, and its result is gathered back::

                  P columns     R columns
    first row      p1 p2 .       p3 a1 a2 p3 b1
    second row     q1 q2 q3      q4 c1 c2 .  .

A reply token sees its prompt and its own reply up to itself: ``b1`` sees p1, p2, its
own p3 and itself, but neither a1 nor a2, nor the p3 before them.

Other modules use four names: `groups_of` and `collate_shared` make a batch, `sharing`
lets a model read it, `why_not` says for which models that is not exact.
"""

import itertools
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedConfig
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

LOG = logging.getLogger(__name__)
NAME = "shared_prompt"  # of the attention function
# Up to so many tokens of a prompt, one call of attention for prompts and replies is
# faster than two.
SHORT = 64
TESTED = ("llama", "mistral", "qwen2", "qwen3")

Row = tuple[list[int], list[int]]  # prompt ids, reply ids
Group = tuple[list[int], list[tuple[int, list[int]]]]  # prompt ids, numbered replies


def groups_of(sets: Sequence[Sequence[Row]]) -> list[Group]:
    """Rows that stand beside each other and have the same prompt, as one group.

    Parameters
    ----------
    sets : sequence of sequences of (prompt ids, reply ids)
        B sets with equally many rows.

    Returns
    -------
    list of (prompt ids, list of (number, reply ids))
        Reply j of set i has the number j * B + i, so that the first replies of all sets
        come first, then all second ones.
    """
    groups = []
    for i, rows in enumerate(sets):
        numbered = [
            (j * len(sets) + i, head, tail) for j, (head, tail) in enumerate(rows)
        ]
        for head, same in itertools.groupby(numbered, key=lambda row: row[1]):
            groups.append((head, [(number, tail) for number, _, tail in same]))
    return groups


def collate_shared(groups: Sequence[Group]) -> dict:
    """One batch of grouped rows.

    Parameters
    ----------
    groups : sequence of (prompt ids, list of (number, reply ids))
        G prompts; their replies have M tokens and are numbered from 0. See `groups_of`.

    Returns
    -------
    dict
        With N tokens read in all, P the most tokens of a prompt without its last, and R
        the most tokens of all replies to one prompt:

        input_ids, position_ids : Tensor, shape (1, N)
            What is read, and where each token stands in its own row.
        target, row : Tensor, shape (M,)
            The token that each of the last M predicts, and the number of its reply.
        tokens : Tensor, shape (replies,)
            Length of each reply, in the order of their numbers.
        prompts : int
            N - M, the tokens of the prompts.
        spread : Tensor, shape (G, P + R)
            Which of the N tokens stands there, 0 where none does.
        gather : Tensor, shape (N,)
            The place of each token in the flattened `spread`.
        shared_mask : Tensor of bool, shape (G, 1, R, P + R)
            True where a reply token may look. For short prompts the P rows of the
            prompt come first, (G, 1, P + R, P + R).
    """
    heads = [head[:-1] for head, _ in groups]
    lengths = np.array([len(head) for head in heads])
    prompt = lengths.max()  # P
    width = prompt + max(_reply_tokens(group) for group in groups)  # P + R
    parts = sorted(_reply_parts(groups))
    ids = heads + [reads for _, _, _, reads, _ in parts]
    positions = [0] * len(heads) + [lengths[g] for _, g, _, _, _ in parts]
    places = [g * width for g in range(len(heads))]
    places += [g * width + prompt + at for _, g, at, _, _ in parts]
    tokens = np.array([len(predicts) for *_, predicts in parts])
    numbers = np.array([number for number, *_ in parts])
    gather = _count_from(places, ids)
    spread = np.zeros(len(heads) * width, dtype=int)
    spread[gather] = np.arange(len(gather))
    owner = np.zeros_like(spread)  # 1 + number of the reply; 0: a prompt, or nothing
    owner[gather[lengths.sum() :]] = np.repeat(numbers, tokens) + 1
    owner = torch.from_numpy(owner).reshape(len(heads), -1)[:, prompt:]
    arrays = {
        "input_ids": np.concatenate(ids).astype(int)[None],
        "position_ids": _count_from(positions, ids)[None],
        "target": np.concatenate([predicts for *_, predicts in parts]).astype(int),
        "row": np.repeat(numbers, tokens),
        "tokens": tokens,
        "spread": spread.reshape(len(heads), -1),
        "gather": gather,
    }
    batch = {key: torch.from_numpy(value) for key, value in arrays.items()}
    batch["shared_mask"] = _mask(owner, torch.from_numpy(lengths), prompt)
    return batch | {"prompts": int(lengths.sum())}


def _reply_tokens(group: Group) -> int:
    """Tokens of all replies to a prompt."""
    return sum(len(tail) for _, tail in group[1])


def _reply_parts(groups: Sequence[Group]) -> Iterator[tuple]:
    """(number, group, place among its replies, what is read, what is predicted)."""
    for g, (head, tails) in enumerate(groups):
        at = 0
        for number, tail in tails:
            yield number, g, at, [head[-1], *tail][: len(tail)], tail
            at += len(tail)


def _count_from(starts: Sequence[int], like: Sequence[Sequence]) -> np.ndarray:
    """start, start + 1, … for each start, as many as there are in each of `like`."""
    runs = [
        np.arange(start, start + len(one))
        for start, one in zip(starts, like, strict=True)
    ]
    return np.concatenate(runs)


def _mask(owner: Tensor, lengths: Tensor, prompt: int) -> Tensor:
    """(G, 1, R, P + R): a reply token sees its prompt and its own past.

    Where prompts are short, P rows for the prompts' own tokens come first.
    """
    g, r = owner.shape
    before = torch.arange(prompt) < lengths[:, None]  # (G, P)
    past = torch.ones(r, r, dtype=torch.bool).tril()
    own = (owner[:, :, None] == owner[:, None, :]) & past  # (G, R, R)
    mask = torch.cat([before[:, None].expand(-1, r, -1), own], dim=2)
    if prompt <= SHORT:
        causal = torch.ones(prompt, prompt + r, dtype=torch.bool).tril()
        mask = torch.cat([causal.expand(g, -1, -1), mask], dim=1)
    return mask[:, None]


def shared_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    shared_rows: tuple[Tensor, Tensor] | None = None,
    **kwargs,
) -> tuple[Tensor, None]:
    """Scaled dot-product attention that also reads shared rows.

    Parameters
    ----------
    module : Module
        The attention layer.
    query, key, value : Tensor, shape (1, heads, N, d)
        Of all tokens of a batch.
    attention_mask : Tensor
        The `shared_mask` of `collate_shared`.
    shared_rows : (spread, gather), optional
        See `collate_shared`; without them this is transformers' own attention.
    **kwargs
        Of transformers' own attention.

    Returns
    -------
    output : Tensor, shape (1, N, heads, d)
    weights : None

    Notes
    -----
    Long prompts take two calls, the prompts among themselves and the replies on
    everything; short ones take one. The last layer leaves long prompts out, since
    nobody reads what it would say there.
    """
    if shared_rows is None or attention_mask is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, **kwargs
        )
    spread, gather = shared_rows
    query, key, value = (_spread_out(x, spread) for x in (query, key, value))
    # P, or 0 where the mask has rows for the prompts.
    prompt = attention_mask.shape[-1] - attention_mask.shape[-2]
    ours = query[:, :, prompt:] if prompt else query
    # (G, R or P + R, heads, d)
    out, _ = sdpa_attention_forward(module, ours, key, value, attention_mask, **kwargs)
    if prompt and module.layer_idx == module.config.num_hidden_layers - 1:
        out = F.pad(out, (0, 0, 0, 0, prompt, 0))
    elif prompt:
        q, k, v = (x[:, :, :prompt] for x in (query, key, value))
        causal: dict[str, Any] = {**kwargs, "is_causal": True}
        heads, _ = sdpa_attention_forward(module, q, k, v, None, **causal)
        out = torch.cat([heads, out], dim=1)
    return out.flatten(0, 1).index_select(0, gather)[None], None


def _spread_out(states: Tensor, spread: Tensor) -> Tensor:
    """(1, heads, N, d) -> (G, heads, P + R, d): one padded row per prompt."""
    chosen = states[0].index_select(1, spread.flatten())
    return chosen.unflatten(1, spread.shape).transpose(0, 1)


ALL_ATTENTION_FUNCTIONS.register(NAME, shared_attention)
ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, sdpa_mask)


def why_not(model: Any) -> str | None:
    """Why prompts cannot be shared exactly by this model, or None where they can."""
    inner = _base(model)
    config = inner.config.get_text_config()
    adapters = getattr(model, "peft_config", {}).values()
    if any(getattr(adapter, "is_prompt_learning", False) for adapter in adapters):
        return "its adapter puts virtual tokens before each row"
    if config.model_type not in TESTED:
        return (
            f"it is a {config.model_type!r}, and sharing was tested on "
            f"{', '.join(TESTED)}"
        )
    if config._attn_implementation not in ("sdpa", NAME):
        return (
            f"its attention is {config._attn_implementation!r}, and only 'sdpa' takes "
            "the mask"
        )
    if len(set((getattr(inner, "hf_device_map", None) or {}).values())) > 1:
        return "its layers lie on several devices"
    if _is_sliding(config):
        return "its layers do not all look at the whole prompt (sliding window)"
    replaced = _replaced_attention(inner)
    if replaced:
        return f"an adapter put {replaced} in the place of its attention"
    return None


def _replaced_attention(inner: Any) -> str:
    """Class of an attention that is not the model's own; "" where all are."""
    for layer in inner.get_decoder().layers:
        if not hasattr(layer.self_attn, "q_proj"):
            return type(layer.self_attn).__name__
    return ""


def _is_sliding(config: PreTrainedConfig) -> bool:
    """Whether some layer looks at a part of the past only."""
    kinds = getattr(config, "layer_types", None)
    if kinds is None:
        return bool(getattr(config, "sliding_window", None))
    return set(kinds) != {"full_attention"}


def pays(
    step: Callable[[bool], object],
    sync: Callable[[], object] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> bool:
    """Whether a step with shared prompts takes no longer than one without.

    Parameters
    ----------
    step : callable
        ``step(True)`` shares prompts, ``step(False)`` does not.
    sync : callable, optional
        Waits for what a GPU was given.
    clock : callable
        Seconds.

    Returns
    -------
    bool
        By the best of three steps each, after one that is not timed. A way that needs
        more memory than there is counts as slow.

    Raises
    ------
    torch.OutOfMemoryError
        Where both ways need more memory than there is.
    """
    seconds = {True: math.inf, False: math.inf}
    for turn in range(4):
        for share in seconds:
            begin = clock()
            try:
                step(share)
                if sync is not None:
                    sync()
            except torch.OutOfMemoryError:
                continue
            if turn:
                seconds[share] = min(seconds[share], clock() - begin)
    shared, apart = seconds.values()
    if math.isinf(shared) and math.isinf(apart):
        raise torch.OutOfMemoryError(
            "one batch needs more memory than there is; lower "
            "per_device_train_batch_size, or set activation_checkpointing=True"
        )
    LOG.warning(
        "a step takes %.3g s with shared prompts and %.3g s without; "
        "the faster way is taken",
        shared,
        apart,
    )
    return shared <= apart


def _base(model: Any) -> Any:
    """The model itself, without DistributedDataParallel and adapters."""
    inner = getattr(model, "module", model)
    return inner.get_base_model() if hasattr(inner, "peft_config") else inner


@contextmanager
def sharing(model: Any, batch: dict) -> Iterator[None]:
    """Let a model read the shared rows of a batch.

    Parameters
    ----------
    model : Module
        For which `why_not` is None.
    batch : dict
        As `collate_shared` makes it.

    Notes
    -----
    With activation checkpointing the rows are read again after this context has ended,
    in the backward pass. So the attention function then stays, and the last layer is
    computed for all tokens.
    """
    inner = _base(model)
    config = inner.config.get_text_config()
    checkpointing = getattr(inner, "is_activation_checkpointing", False)
    again = inner.training and checkpointing
    before = config._attn_implementation
    config._attn_implementation = NAME
    try:
        with ExitStack() as stack:
            if batch["prompts"] and not again:
                last = inner.get_decoder().layers[-1]
                stack.enter_context(_replies_only(last, batch["prompts"]))
            yield
    finally:
        config._attn_implementation = NAME if again else before


@contextmanager
def _replies_only(layer: Any, prompts: int) -> Iterator[None]:
    """Let a layer compute the columns after the first `prompts` alone.

    Of those first ones it makes keys and values, which is all that is needed.
    """

    def forward(hidden_states: Tensor, **kwargs) -> Tensor:
        normed = layer.input_layernorm(hidden_states)
        attended = layer.self_attn(hidden_states=normed, **kwargs)[0]  # (1, M, H)
        hidden_states = hidden_states[:, prompts:] + attended
        return hidden_states + layer.mlp(layer.post_attention_layernorm(hidden_states))

    def cut_input(_: torch.nn.Module, args: tuple) -> tuple:
        return args[0][:, prompts:], *args[1:]

    def pad_output(_: torch.nn.Module, args: tuple, output: Tensor) -> Tensor:
        return F.pad(output, (0, 0, prompts, 0))

    query, out = layer.self_attn.q_proj, layer.self_attn.o_proj
    handles = [
        query.register_forward_pre_hook(cut_input),
        out.register_forward_pre_hook(cut_input),
        query.register_forward_hook(pad_output),
    ]
    # accelerate puts a forward there for a model that it has placed.
    before = vars(layer).get("forward")
    layer.forward = forward
    try:
        yield
    finally:
        if before is None:
            del layer.forward
        else:
            layer.forward = before
        for handle in handles:
            handle.remove()
