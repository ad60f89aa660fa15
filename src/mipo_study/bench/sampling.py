"""Sampling under the clock: batches of prompts beside one prompt at a time.

How many prompts share a matrix product changes how it is rounded, and so now and then a
reply; these are counted too.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from tqdm import tqdm

from mipo import models
from mipo.data import render
from mipo.lm import sampling
from mipo.worlds import language_model, population

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BATCHES = (256, 16, 1)  # prompts at a time


def replies_by_batch(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    batches: Sequence[int] = BATCHES,
    *,
    max_new_tokens: int = 16,
) -> tuple[dict[int, list[str]], dict[int, float]]:
    """Sample the same prompts with the same seed in batches of several sizes.

    Parameters
    ----------
    model, tokenizer
        The policy.
    prompts : sequence of str
        As the model reads them.
    batches : sequence of int
        Prompts at a time.
    max_new_tokens : int
        Of a reply.

    Returns
    -------
    replies : dict
        {batch size: a reply per prompt}.
    seconds : dict
        {batch size: for all prompts}.
    """
    replies, seconds = {}, {}
    for size in tqdm(batches, desc="sampling", unit="batch size"):
        begin = time.perf_counter()
        replies[size] = sampling.generate(
            model,
            tokenizer,
            prompts,
            batch_size=size,
            max_new_tokens=max_new_tokens,
            seed=0,
        )
        seconds[size] = time.perf_counter() - begin
    return replies, seconds


def measure(
    device: torch.device,
    n: int = 512,
    batches: Sequence[int] = BATCHES,
    dtypes: Sequence[str] = ("float32", "bfloat16"),
) -> dict[str, dict[str, Any]]:
    """Speed of sampling, and replies that the batch changed, by precision.

    Parameters
    ----------
    device : torch.device
        Where the model runs.
    n : int
        Prompts, of the small world.
    batches : sequence of int
        Prompts at a time.
    dtypes : sequence of str
        Precisions, by their names in torch.

    Returns
    -------
    dict
        {precision: prompts (how many), and by batch size seconds (for all of them) and
        differ (how many replies are unlike those of the smallest batch)}.

    Notes
    -----
    A model of the small world's shape with random weights draws nearly at random among
    its words. The cumulative distribution then has as many close steps as it can have,
    so replies of real models differ less.
    """
    tokenizer = language_model.build_tokenizer()
    examples = population.examples(n, split="mipo", seed=0)[:n]
    prompts = [render(tokenizer, e["query"], e["context"]) for e in examples]
    results = {}
    for dtype in dtypes:
        model = models.small_model(tokenizer, hidden=256, layers=2, heads=4, inner=256)
        torch.nn.Module.to(model, device, getattr(torch, dtype))
        replies, seconds = replies_by_batch(model, tokenizer, prompts, batches)
        alone = replies[min(batches)]
        differ = {
            str(size): sum(a != b for a, b in zip(some, alone, strict=True))
            for size, some in replies.items()
        }
        results[dtype] = {
            "prompts": len(prompts),
            "seconds": {str(size): value for size, value in seconds.items()},
            "differ": differ,
        }
    return results
