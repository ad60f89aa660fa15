"""Sampling from large models: transformers' continuous batching where that is faster, else `mipo.lm.sampling`.

Continuous batching starts a new prompt as soon as a reply ends, instead of waiting for the longest of a batch. It does not
keep one stream of random numbers per prompt, so replies to the same seed are alike in law, not in letters.
"""

import logging
import time

import torch

from mipo.lm import sampling

LOG = logging.getLogger(__name__)
ENGINES = ("batched", "continuous")


def known(engine):
    if engine not in ENGINES:
        raise ValueError(f"engine={engine!r}: choose one of auto, {', '.join(ENGINES)}")
    return engine


def generate(
    model,
    tokenizer,
    prompts,
    *,
    engine="batched",
    max_new_tokens=64,
    temperature=1.0,
    top_p=1.0,
    seed=0,
    batch_size=64,
    names=None,
    progress=False,
):
    """One reply per rendered prompt; see `sampling.generate` for the keywords.

    engine   "batched": `sampling.generate`; "continuous": transformers' generate_batch; `choose` says which is faster
    errors   ValueError for an unknown engine, or "continuous" where the model has none
    """
    settings = dict(
        max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, seed=seed
    )
    if known(engine) == "batched":
        return sampling.generate(
            model,
            tokenizer,
            prompts,
            batch_size=batch_size,
            names=names,
            progress=progress,
            **settings,
        )
    if not hasattr(model, "generate_batch"):
        raise ValueError(
            f'{type(model).__name__} has no continuous batching; use engine="batched"'
        )
    return continuous(model, tokenizer, prompts, **settings)


def choose(
    model,
    tokenizer,
    prompts,
    *,
    batch_size=64,
    names=None,
    max_new_tokens=64,
    **settings,
):
    """The faster engine on the first two batches, each after a few tokens of warming up; "batched" where there is no GPU.

    "batched" is what the other is measured against, so its errors are errors of the run; an error of "continuous" says
    only that this model or version cannot do it.
    """
    count = 2 * batch_size
    if not (
        next(model.parameters()).is_cuda
        and hasattr(model, "generate_batch")
        and len(prompts) > count
    ):
        return "batched"
    part, settings = (
        list(prompts[:count]),
        {"batch_size": batch_size, "names": names and list(names[:count]), **settings},
    )
    times = {}
    for engine in ENGINES:
        try:
            generate(
                model,
                tokenizer,
                part,
                engine=engine,
                max_new_tokens=min(8, max_new_tokens),
                **settings,
            )
            start = time.perf_counter()
            generate(
                model,
                tokenizer,
                part,
                engine=engine,
                max_new_tokens=max_new_tokens,
                **settings,
            )
            times[engine] = time.perf_counter() - start
        except Exception as error:
            if engine == "batched":
                raise
            LOG.warning("continuous batching does not work here: %s", error)
    return min(times, key=times.get)


def continuous(model, tokenizer, prompts, *, max_new_tokens, temperature, top_p, seed):
    """One reply per rendered prompt by transformers' continuous batching, as text without special tokens."""
    from transformers import GenerationConfig
    from transformers.generation import ContinuousBatchingConfig

    ids = [tokenizer(p)["input_ids"] for p in prompts]
    config = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=temperature > 0,
        temperature=temperature or None,
        top_p=top_p if temperature else None,
        top_k=0 if temperature else None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(seed)
    was_training = model.training
    model.eval()
    found = model.generate_batch(
        inputs=ids,
        generation_config=config,
        continuous_batching_config=ContinuousBatchingConfig(seed=seed),
        progress_bar=False,
    )
    model.train(was_training)
    if len(found) != len(prompts):
        raise RuntimeError(
            f"continuous batching gave {len(found)} replies to {len(prompts)} prompts"
        )
    by_place = [
        out.generated_tokens for out in found.values()
    ]  # generate_batch keeps the order of its inputs
    return [tokenizer.decode(tokens, skip_special_tokens=True) for tokens in by_place]
