"""A prompt is computed once for all its replies, which do not see each other; nothing is padded but what attention reads.

All tokens of a batch stand in one row: [prompts, each without its last token | reply parts], where a reply part is the
last prompt token and the reply without its last. So all predictions lie in the last M columns. There the last layer is
computed and nowhere else: of a prompt it only needs keys and values. Attention spreads the row out into one padded row per
prompt and takes it back. The numbers are those of separate rows.
"""

import itertools
import logging
import math
import time
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

LOG = logging.getLogger(__name__)
NAME = "shared_prompt"  # of the attention function
SHORT = 64  # tokens of a prompt up to which one call of attention for prompts and replies is faster than two
TESTED = ("llama", "mistral", "qwen2", "qwen3")


def groups_of(sets: list[list[tuple]]) -> list[tuple]:
    """[(prompt ids, [(number, reply ids), …]), …] of sets of (prompt ids, reply ids).

    Neighbours of a set with the same prompt are one group. Reply j of set i has the number j·B + i.
    """
    return [
        (head, [(j * len(sets) + i, tail) for j, (_, tail) in same])
        for i, rows in enumerate(sets)
        for head, same in itertools.groupby(enumerate(rows), key=lambda row: row[1][0])
    ]


def collate_shared(groups: list[tuple]) -> dict:
    """One batch of `groups_of` rows: G prompts with M reply tokens, N tokens in all.

    input_ids, position_ids  (1, N)         target, row  (M,) token that each of the last M predicts; number of its reply
    tokens   (replies,) length of each      prompts      N - M
    spread   (G, P + R) which of the N stands there, 0 where none does      gather  (N,) its place in the flattened spread
    shared_mask  (G, 1, R, P + R), True where a reply part may look; with rows for a short prompt, too
    """
    lengths = np.array([len(head) - 1 for head, _ in groups])
    width = max(sum(len(tail) for _, tail in tails) for _, tails in groups)  # R
    prompt = lengths.max()  # P
    replies = []  # (number, group, first place in the group's reply part, reply)
    for g, (_, tails) in enumerate(groups):
        starts = itertools.accumulate((len(tail) for _, tail in tails), initial=0)
        replies += [
            (number, g, at, tail)
            for (number, tail), at in zip(tails, starts, strict=False)
        ]
    replies.sort()
    ids = [head[:-1] for head, _ in groups] + [
        [groups[g][0][-1], *tail][: len(tail)] for _, g, _, tail in replies
    ]
    starts = [0] * len(groups) + [lengths[g] for _, g, _, _ in replies]
    places = [g * (prompt + width) for g in range(len(groups))]
    places += [g * (prompt + width) + prompt + at for _, g, at, _ in replies]
    tokens = np.array([len(tail) for *_, tail in replies])
    number = np.array([number for number, *_ in replies])
    gather = _runs(places, ids)
    spread = np.zeros(len(groups) * (prompt + width), dtype=int)
    part = spread.copy()  # 0: a prompt, or nothing
    spread[gather] = np.arange(len(gather))
    part[gather[lengths.sum() :]] = np.repeat(number, tokens) + 1
    part = torch.from_numpy(part).reshape(len(groups), -1)[:, prompt:]
    arrays = {
        "input_ids": np.concatenate(ids).astype(int)[None],
        "position_ids": _runs(starts, ids)[None],
        "target": np.concatenate([tail for *_, tail in replies]).astype(int),
        "row": np.repeat(number, tokens),
        "tokens": tokens,
        "spread": spread.reshape(len(groups), -1),
        "gather": gather,
    }
    found = {key: torch.from_numpy(value) for key, value in arrays.items()}
    return found | {
        "shared_mask": _mask(part, torch.from_numpy(lengths), prompt),
        "prompts": int(lengths.sum()),
    }


def _runs(starts, like) -> np.ndarray:
    """start, start + 1, … for each start, as long as each of `like`."""
    return np.concatenate(
        [
            np.arange(start, start + len(one))
            for start, one in zip(starts, like, strict=True)
        ]
    )


def _mask(part: Tensor, lengths: Tensor, prompt: int) -> Tensor:
    """(G, 1, R, P + R): a reply token sees its prompt and its own past. Where prompts are short, P rows for them on top."""
    g, r = part.shape
    before = torch.arange(prompt) < lengths[:, None]  # (G, P)
    own = (part[:, :, None] == part[:, None, :]) & torch.ones(
        r, r, dtype=torch.bool
    ).tril()  # (G, R, R)
    mask = torch.cat([before[:, None].expand(-1, r, -1), own], dim=2)
    if prompt <= SHORT:
        past = torch.ones(prompt, prompt + r, dtype=torch.bool).tril()
        mask = torch.cat([past.expand(g, -1, -1), mask], dim=1)
    return mask[:, None]


def shared_attention(
    module, query, key, value, attention_mask, shared_rows=None, **kwargs
):
    """SDPA; for shared rows in two parts: prompts among themselves, and replies on everything. Short prompts in one.

    query, key, value (1, heads, N, d) -> (1, N, heads, d); shared_rows: (spread, gather) of `collate_shared`. The last
    layer leaves long prompts out.
    """
    if shared_rows is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, **kwargs
        )
    spread, gather = shared_rows
    prompt = (
        attention_mask.shape[-1] - attention_mask.shape[-2]
    )  # P, or 0 where the mask has rows for prompts
    query, key, value = (
        x[0]
        .index_select(1, spread.flatten())
        .unflatten(1, spread.shape)
        .transpose(0, 1)
        for x in (query, key, value)
    )  # (G, heads, P + R, d)
    ours = query[:, :, prompt:] if prompt else query
    out, _ = sdpa_attention_forward(
        module, ours, key, value, attention_mask, **kwargs
    )  # (G, R or P + R, heads, d)
    if prompt and module.layer_idx == module.config.num_hidden_layers - 1:
        out = F.pad(out, (0, 0, 0, 0, prompt, 0))
    elif prompt:
        past = [x[:, :, :prompt] for x in (query, key, value)]
        causal: dict[str, Any] = {**kwargs, "is_causal": True}
        heads, _ = sdpa_attention_forward(module, *past, None, **causal)
        out = torch.cat([heads, out], dim=1)
    return out.flatten(0, 1).index_select(0, gather)[None], None


ALL_ATTENTION_FUNCTIONS.register(NAME, shared_attention)
ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, sdpa_mask)


def why_not(model) -> str | None:
    """Why prompts cannot be shared exactly by this model, or None where they can."""
    inner = _base(model)
    config = inner.config.get_text_config()
    if any(
        getattr(c, "is_prompt_learning", False)
        for c in getattr(model, "peft_config", {}).values()
    ):
        return "its adapter puts virtual tokens before each row"
    if config.model_type not in TESTED:
        return f"it is a {config.model_type!r}, and sharing was tested on {', '.join(TESTED)}"
    if config._attn_implementation not in ("sdpa", NAME):
        return f"its attention is {config._attn_implementation!r}, and only 'sdpa' takes the mask"
    if len(set((getattr(inner, "hf_device_map", None) or {}).values())) > 1:
        return "its layers lie on several devices"
    kinds = getattr(config, "layer_types", None)
    sliding = (
        getattr(config, "sliding_window", None)
        if kinds is None
        else set(kinds) != {"full_attention"}
    )
    return (
        "its layers do not all look at the whole prompt (sliding window)"
        if sliding
        else None
    )


def pays(step, sync=None, clock=time.perf_counter) -> bool:
    """Whether step(True), with shared prompts, takes no longer than step(False): the best of three each, after one untimed.

    sync     waits for what a GPU was given
    errors   torch.OutOfMemoryError where both ways need more memory than there is; one that does counts as slow
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
            seconds[share] = min(seconds[share], clock() - begin if turn else math.inf)
    shared, apart = seconds.values()
    if math.isinf(shared) and math.isinf(apart):
        raise torch.OutOfMemoryError(
            "one batch needs more memory than there is; lower per_device_train_batch_size, or "
            "set activation_checkpointing=True"
        )
    LOG.warning(
        "a step takes %.3g s with shared prompts and %.3g s without; the faster way is taken",
        shared,
        apart,
    )
    return shared <= apart


def _base(model):
    """The model itself, without DistributedDataParallel and adapters."""
    inner = getattr(model, "module", model)
    return inner.get_base_model() if hasattr(inner, "peft_config") else inner


@contextmanager
def sharing(model, batch: dict[str, Any]):
    """Within it the model reads shared rows; with activation checkpointing they are read again after it, too."""
    inner = _base(model)
    config = inner.config.get_text_config()
    before, again = (
        config._attn_implementation,
        inner.training and getattr(inner, "is_activation_checkpointing", False),
    )
    config._attn_implementation = NAME
    try:
        with ExitStack() as stack:
            if batch["prompts"] and not again:
                stack.enter_context(
                    _replies_only(inner.get_decoder().layers[-1], batch["prompts"])
                )
            yield
    finally:
        config._attn_implementation = NAME if again else before


@contextmanager
def _replies_only(layer, prompts: int):
    """Let a layer return the columns after the first `prompts`, whose keys and values are all that is needed of them."""

    def forward(hidden_states, **kwargs):
        seen = layer.self_attn(
            hidden_states=layer.input_layernorm(hidden_states), **kwargs
        )[0]  # (1, M, H)
        hidden_states = hidden_states[:, prompts:] + seen
        return hidden_states + layer.mlp(layer.post_attention_layernorm(hidden_states))

    late = lambda _, args: (args[0][:, prompts:], *args[1:])  # noqa: E731
    query, out = layer.self_attn.q_proj, layer.self_attn.o_proj
    handles = [
        query.register_forward_pre_hook(late),
        out.register_forward_pre_hook(late),
        query.register_forward_hook(
            lambda _, args, made: F.pad(made, (0, 0, prompts, 0))
        ),
    ]
    before = vars(layer).get(
        "forward"
    )  # accelerate puts one there for a model that it has placed
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
