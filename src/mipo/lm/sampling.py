"""Sampling replies from a model: batched, cached, and reproducible prompt by prompt.

The i-th prompt of a call has its own stream of random numbers, so a seed gives it the same reply however the prompts are
batched, up to near-ties that the shape of a matrix product rounds differently (counted by `speed_sampling`). A token is
drawn by inverting the cumulative distribution at one uniform number: one number per token, at any temperature.
"""

import numpy as np
import torch
from tqdm import tqdm

from mipo.lm.tokens import max_positions


@torch.no_grad()
def generate(
    model,
    tokenizer,
    prompts,
    *,
    max_new_tokens=64,
    temperature=1.0,
    top_p=1.0,
    seed=0,
    batch_size=256,
    contrast_prompts=None,
    alpha=0.0,
    names=None,
    progress=False,
):
    """One reply per rendered prompt, as text without special tokens.

    temperature     0 is greedy; 1 samples from the model itself, as the theory of the study assumes
    top_p           keep the smallest set of tokens whose probability reaches top_p
    contrast_prompts, alpha   context-aware decoding (arXiv:2305.14739): logits (1 + α)·logits(prompt) - α·logits(contrast)
    names           what errors call each prompt, else its number
    Raises ValueError for an empty prompt, or one that leaves no room for a reply in the model's context.
    """
    if temperature < 0 or not 0 < top_p <= 1:
        raise ValueError(
            f"need temperature >= 0 and 0 < top_p <= 1, got {temperature} and {top_p}"
        )
    prompts = [list(prompts)] + (
        [list(contrast_prompts)] if contrast_prompts is not None and alpha else []
    )
    ids = [[tokenizer(p)["input_ids"] for p in side] for side in prompts]
    for side in ids:
        _check_lengths(
            side,
            model,
            max_new_tokens,
            names or [f"prompt {i}" for i in range(len(side))],
        )
    order = sorted(range(len(ids[0])), key=lambda i: len(ids[0][i]))
    replies = [None] * len(order)
    was_training = model.training
    model.eval()
    try:
        with tqdm(
            total=len(order), desc="sampling", unit="reply", disable=not progress
        ) as bar:
            for start in range(0, len(order), batch_size):
                rows = order[start : start + batch_size]
                uniforms = np.stack(
                    [
                        np.random.Generator(np.random.Philox(key=(seed, i))).random(
                            max_new_tokens
                        )
                        for i in rows
                    ]
                )
                states = [
                    _State(model, [side[i] for i in rows], tokenizer.pad_token_id)
                    for side in ids
                ]
                said = _decode(
                    states, uniforms, tokenizer.eos_token_id, temperature, top_p, alpha
                )
                for i, tokens in zip(rows, said, strict=True):
                    replies[i] = tokenizer.decode(tokens, skip_special_tokens=True)
                bar.update(len(rows))
    finally:
        model.train(was_training)
    return replies


def _check_lengths(ids, model, max_new_tokens, names):
    limit = max_positions(model) or float("inf")
    for name, tokens in zip(names, ids, strict=True):
        if not tokens:
            raise ValueError(f"{name}: the prompt is empty")
        if len(tokens) + max_new_tokens > limit:
            raise ValueError(
                f"{name}: the prompt has {len(tokens)} tokens; with max_new_tokens={max_new_tokens} that is "
                f"more than the model's context of {limit}: shorten its context or lower max_new_tokens"
            )


class _State:
    """A left-padded batch of prompts with its key-value cache; `logits()` gives those of the next token."""

    def __init__(self, model, ids, pad):
        width = max(map(len, ids))
        self.model, device = model, model.device
        self.tokens = torch.tensor(
            [[pad] * (width - len(x)) + x for x in ids], device=device
        )  # (B, T)
        self.mask = torch.tensor(
            [[0] * (width - len(x)) + [1] * len(x) for x in ids], device=device
        )  # (B, T)
        self.position = (self.mask.cumsum(-1) - 1).clamp(min=0)
        self.cache = None

    def logits(self):
        out = self.model(
            input_ids=self.tokens,
            attention_mask=self.mask,
            position_ids=self.position,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self.cache = out.past_key_values
        return out.logits[:, -1].double()  # (B, V)

    def append(self, token):
        self.tokens = token[:, None]
        self.mask = torch.cat([self.mask, torch.ones_like(self.tokens)], dim=1)
        self.position = self.position[:, -1:] + 1


def _decode(states, uniforms, eos, temperature, top_p, alpha):
    """Token ids per row, up to and without the end token."""
    rows, steps = uniforms.shape
    uniforms = torch.tensor(uniforms, device=states[0].mask.device)
    done = torch.zeros(rows, dtype=torch.bool, device=uniforms.device)
    out = []
    for t in range(steps):
        logits = states[0].logits()
        if len(states) == 2:
            logits = (1 + alpha) * logits - alpha * states[1].logits()
        token = torch.where(done, eos, pick(logits, uniforms[:, t], temperature, top_p))
        out.append(token)
        done |= token == eos
        if done.all():
            break
        for state in states:
            state.append(token)
    tokens = torch.stack(out, dim=1).tolist()
    return [row[: row.index(eos)] if eos in row else row for row in tokens]


def pick(logits, uniform, temperature=1.0, top_p=1.0):
    """The token (B,) at which the cumulative distribution of `logits` (B, V) passes `uniform` (B,)."""
    if temperature == 0:
        return logits.argmax(-1)
    probs, tokens = torch.softmax(logits / temperature, dim=-1).sort(
        dim=-1, descending=True, stable=True
    )
    if top_p < 1:
        probs = torch.where(probs.cumsum(-1) - probs < top_p, probs, 0.0)
    cumulative = probs.cumsum(-1)
    index = torch.searchsorted(
        cumulative, uniform[:, None] * cumulative[:, -1:], right=True
    )
    last = (probs > 0).sum(
        -1, keepdim=True
    ) - 1  # a uniform that rounds to 1 must not fall off the end
    return tokens.gather(-1, torch.minimum(index, last))[:, 0]
