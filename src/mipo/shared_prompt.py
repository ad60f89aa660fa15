"""One row per prompt with all its replies: the prompt is computed once, and replies do not see each other.

A row is laid out as [prompt without its last token, padded to P | last prompt token, reply 1 | last prompt token,
reply 2 | …, padded to R]. Every reply part starts at the prompt's last position, so all predictions lie in the last R
columns. There the last layer is computed and nowhere else: of the prompt it only needs keys and values. The numbers are
those of separate rows.
"""

import itertools
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

NAME = "shared_prompt"  # of the attention function
TESTED = ("llama", "mistral", "qwen2", "qwen3")


def groups_of(sets: list[list[tuple]]) -> list[tuple]:
    """[(prompt ids, [(number, reply ids), …]), …] of sets of (prompt ids, reply ids).

    Neighbours of a set with the same prompt are one group. Reply j of set i has the number j·B + i.
    """
    return [(head, [(j * len(sets) + i, tail) for j, (_, tail) in same]) for i, rows in enumerate(sets)
            for head, same in itertools.groupby(enumerate(rows), key=lambda row: row[1][0])]  # fmt: skip


def collate_shared(groups: list[tuple], pad_id: int = 0) -> dict[str, Tensor] | None:
    """One batch of `groups_of` rows, or None where separate rows hold no more tokens than shared ones.

    input_ids, position_ids  (G, P + R)     shared_mask  (G, 1, R, P + R), True where a reply token may look
    source  (M,) place of the predicting token in the flattened (G, R)     target  (M,) the token predicted
    row     (M,) number of its reply, ascending     tokens  (replies,) length of each
    """
    replies = sum(len(tails) for _, tails in groups)
    prompt = max(len(head) for head, _ in groups) - 1  # P
    width = max(sum(len(tail) for _, tail in tails) for _, tails in groups)  # R
    longest = max(len(head) + len(tail) for head, tails in groups for _, tail in tails)
    if len(groups) * (prompt + width) >= replies * (longest - 1):
        return None
    ids = np.full((len(groups), prompt + width), pad_id)
    position, part = np.zeros_like(ids), np.zeros_like(ids)  # part 0: prompt or padding
    tokens, found = np.zeros(replies, dtype=int), []
    for g, (head, tails) in enumerate(groups):
        last, at = len(head) - 1, prompt
        ids[g, :last], position[g, :last] = head[:-1], range(last)
        for number, tail in tails:
            span = slice(at, at + len(tail))
            ids[g, span] = [head[-1], *tail[:-1]]
            position[g, span], part[g, span] = range(last, last + len(tail)), number + 1
            found += [(number, g * width + at - prompt + t, token) for t, token in enumerate(tail)]
            tokens[number], at = len(tail), at + len(tail)
    row, source, target = np.array(sorted(found)).T
    lengths = np.array([len(head) - 1 for head, _ in groups])
    return {
        "input_ids": torch.from_numpy(ids), "position_ids": torch.from_numpy(position),
        "shared_mask": _mask(torch.from_numpy(part[:, prompt:]), torch.from_numpy(lengths), prompt),
        "source": torch.from_numpy(source), "target": torch.from_numpy(target), "row": torch.from_numpy(row),
        "tokens": torch.from_numpy(tokens),
    }  # fmt: skip


def _mask(part: Tensor, lengths: Tensor, prompt: int) -> Tensor:
    """(G, 1, R, P + R): a reply token sees its prompt and its own past."""
    r = part.shape[1]
    before = torch.arange(prompt) < lengths[:, None]  # (G, P)
    own = (part[:, :, None] == part[:, None, :]) & torch.ones(r, r, dtype=torch.bool).tril()  # (G, R, R)
    return torch.cat([before[:, None].expand(-1, r, -1), own], dim=2)[:, None]


def shared_attention(module, query, key, value, attention_mask, **kwargs):
    """SDPA, and for a shared mask (G, 1, R, P + R) in two parts: prompts among themselves, and replies on everything.

    query, key, value (G, heads, P + R, d) -> (G, P + R, heads, d). The last layer leaves the prompts out.
    """
    if attention_mask is None or attention_mask.shape[-2] == query.shape[2]:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    prompt = query.shape[2] - attention_mask.shape[-2]
    replies, _ = sdpa_attention_forward(module, query[:, :, prompt:], key, value, attention_mask, **kwargs)
    if prompt == 0:
        return replies, None
    if module.layer_idx == module.config.num_hidden_layers - 1:
        return F.pad(replies, (0, 0, 0, 0, prompt, 0)), None
    past = [x[:, :, :prompt] for x in (query, key, value)]
    heads, _ = sdpa_attention_forward(module, *past, None, **{**kwargs, "is_causal": True})
    return torch.cat([heads, replies], dim=1), None


ALL_ATTENTION_FUNCTIONS.register(NAME, shared_attention)
ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, sdpa_mask)


def why_not(model) -> str | None:
    """Why prompts cannot be shared exactly by this model, or None where they can."""
    inner = _base(model)
    config = inner.config.get_text_config()
    if any(getattr(c, "is_prompt_learning", False) for c in getattr(model, "peft_config", {}).values()):
        return "its adapter puts virtual tokens before each row"
    if config.model_type not in TESTED:
        return f"it is a {config.model_type!r}, and sharing was tested on {', '.join(TESTED)}"
    if config._attn_implementation not in ("sdpa", NAME):
        return f"its attention is {config._attn_implementation!r}, and only 'sdpa' takes the mask"
    kinds = getattr(config, "layer_types", None)
    sliding = getattr(config, "sliding_window", None) if kinds is None else set(kinds) != {"full_attention"}
    return "its layers do not all look at the whole prompt (sliding window)" if sliding else None


def _base(model):
    """The model itself, without DistributedDataParallel and adapters."""
    inner = getattr(model, "module", model)
    return inner.get_base_model() if hasattr(inner, "peft_config") else inner


@contextmanager
def sharing(model, batch: dict[str, Tensor]):
    """Within it the model reads shared rows; with activation checkpointing they are read again after it, too."""
    inner = _base(model)
    config = inner.config.get_text_config()
    before, again = config._attn_implementation, inner.training and getattr(inner, "is_activation_checkpointing", False)
    config._attn_implementation = NAME
    prompt = batch["shared_mask"].shape[-1] - batch["shared_mask"].shape[-2]
    try:
        with ExitStack() as hooks:
            for module in [] if again or not prompt else _last_layer(inner):
                hooks.enter_context(_replies_only(module, prompt))
            yield
    finally:
        config._attn_implementation = NAME if again else before


def _last_layer(model):
    """Modules of the last layer that work on each position alone, where they have the usual names."""
    layer = model.get_decoder().layers[-1] if hasattr(model.get_decoder(), "layers") else None
    attention = getattr(layer, "self_attn", None)
    parts = [getattr(layer, "mlp", None), getattr(attention, "q_proj", None), getattr(attention, "o_proj", None)]
    return [part for part in parts if part is not None]


@contextmanager
def _replies_only(module, prompt: int):
    """Let a module work on the last columns only; zeros stand for the first `prompt` ones, which nobody reads."""
    handles = [module.register_forward_pre_hook(lambda _, args: (args[0][:, prompt:], *args[1:])),
               module.register_forward_hook(lambda _, args, out: F.pad(out, (0, 0, prompt, 0)))]  # fmt: skip
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
