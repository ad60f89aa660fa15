"""Sampling under the clock: batches beside one prompt at a time, and the replies that the shape of a batch changes."""

import time

import torch
from tqdm import tqdm

from mipo import models
from mipo.data import render
from mipo.lm import sampling
from mipo.worlds import language_model, population

BATCHES = (256, 16, 1)


def replies_by_batch(
    model, tokenizer, prompts, batches=BATCHES, *, max_new_tokens=16
) -> tuple[dict, dict]:
    """({batch size: replies}, {batch size: seconds}) of the same prompts and seed."""
    said, seconds = {}, {}
    for size in tqdm(batches, desc="sampling", unit="batch size"):
        begin = time.perf_counter()
        said[size] = sampling.generate(
            model,
            tokenizer,
            prompts,
            batch_size=size,
            max_new_tokens=max_new_tokens,
            seed=0,
        )
        seconds[size] = time.perf_counter() - begin
    return said, seconds


def measure(
    device: torch.device, n: int = 512, batches=BATCHES, dtypes=("float32", "bfloat16")
) -> dict:
    """{dtype: {"prompts", "seconds": {batch: s}, "differ": {batch: replies unlike those of one prompt at a time}}}.

    A model of the small world's shape with random weights draws nearly at random among its words: the cumulative
    distribution then has as many close steps as it can have, so real models differ less.
    """
    tokenizer, found = language_model.build_tokenizer(), {}
    prompts = [
        render(tokenizer, r["query"], r["context"])
        for r in population.examples(n, split="mipo", seed=0)[:n]
    ]
    for dtype in dtypes:
        model = models.small_model(
            tokenizer, hidden=256, layers=2, heads=4, inner=256
        ).to(device, getattr(torch, dtype))
        said, seconds = replies_by_batch(model, tokenizer, prompts, batches)
        alone = said[min(batches)]
        differ = {
            size: sum(a != b for a, b in zip(replies, alone, strict=True))
            for size, replies in said.items()
        }
        found[dtype] = {
            "prompts": len(prompts),
            "seconds": {str(k): v for k, v in seconds.items()},
            "differ": {str(k): v for k, v in differ.items()},
        }
    return found
