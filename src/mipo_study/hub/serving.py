"""Sampling from large models: transformers' continuous batching, or `mipo.lm.sampling`.

Continuous batching starts a new prompt as soon as a reply ends, instead of waiting for
the longest of a batch. It does not keep one stream of random numbers per prompt, so
replies to the same seed are alike in law, not in letters.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from mipo.lm import sampling
from mipo.lm.tokens import end_ids, token_ids

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

LOG = logging.getLogger(__name__)
ENGINES = ("batched", "continuous")


def check_engine(engine: str) -> str:
    """The engine, if there is one of that name; ValueError otherwise."""
    if engine not in ENGINES:
        raise ValueError(f"engine={engine!r}: choose one of auto, {', '.join(ENGINES)}")
    return engine


def sample(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    *,
    engine: str = "batched",
    max_new_tokens: int = 64,
    temperature: float = 1.0,
    top_p: float = 1.0,
    seed: int = 0,
    batch_size: int = 64,
    names: Sequence[str] | None = None,
    progress: bool = False,
) -> list[sampling.Reply]:
    """One reply per rendered prompt.

    Parameters
    ----------
    model, tokenizer, prompts, max_new_tokens, temperature, top_p, seed
        See `sampling.sample`.
    engine : str
        "batched": `sampling.sample`; "continuous": transformers' generate_batch.
        `choose` says which is faster.
    batch_size, names, progress
        See `sampling.sample`; "continuous" has no use for them.

    Returns
    -------
    list of Reply
        In the order of the prompts.

    Raises
    ------
    ValueError
        For an unknown engine, or "continuous" where the model has none.
    """
    if check_engine(engine) == "batched":
        return sampling.sample(
            model,
            tokenizer,
            prompts,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
            batch_size=batch_size,
            names=names,
            progress=progress,
        )
    if not hasattr(model, "generate_batch"):
        raise ValueError(
            f'{type(model).__name__} has no continuous batching; use engine="batched"'
        )
    return continuous(
        model,
        tokenizer,
        prompts,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
    )


def choose(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    *,
    batch_size: int = 64,
    names: Sequence[str] | None = None,
    max_new_tokens: int = 64,
    **settings: Any,
) -> str:
    """The faster engine on the first two batches; "batched" where there is no GPU.

    Parameters
    ----------
    model, tokenizer, prompts, batch_size, names, max_new_tokens, **settings
        See `sample`.

    Returns
    -------
    str
        One of `ENGINES`.

    Notes
    -----
    Each runs a few tokens first, to warm up. "batched" is what the other is measured
    against, so its errors are errors of the run; an error of "continuous" says only
    that this model or version cannot do it.
    """
    count = 2 * batch_size
    on_gpu = next(model.parameters()).is_cuda
    if not (on_gpu and hasattr(model, "generate_batch") and len(prompts) > count):
        return "batched"
    part = list(prompts[:count])
    settings |= {"batch_size": batch_size, "names": names and list(names[:count])}

    def timed(engine: str, longest: int) -> float:
        """Seconds that it takes."""
        how: dict[str, Any] = {"max_new_tokens": longest, **settings}
        start = time.perf_counter()
        sample(model, tokenizer, part, engine=engine, **how)
        return time.perf_counter() - start

    seconds: dict[str, float] = {}
    for engine in ENGINES:
        try:
            timed(engine, min(8, max_new_tokens))
            seconds[engine] = timed(engine, max_new_tokens)
        except Exception as error:
            if engine == "batched":
                raise
            LOG.warning("continuous batching does not work here: %s", error)
    return min(seconds, key=lambda engine: seconds[engine])


def continuous(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    temperature: float,
    top_p: float,
    seed: int,
) -> list[sampling.Reply]:
    """One reply per rendered prompt by transformers' continuous batching.

    Parameters
    ----------
    model, tokenizer, prompts, max_new_tokens, temperature, top_p, seed
        See `sampling.sample`.

    Returns
    -------
    list of Reply

    Raises
    ------
    RuntimeError
        Where a prompt has no reply.
    """
    from transformers import GenerationConfig
    from transformers.generation import ContinuousBatchingConfig

    ends = end_ids(tokenizer, model)
    config = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=temperature > 0,
        temperature=temperature or None,
        top_p=top_p if temperature else None,
        top_k=0 if temperature else None,
        eos_token_id=ends,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(seed)
    was_training = model.training
    model.eval()
    sampler: Any = model  # hints of PreTrainedModel do not show generate_batch
    outputs = sampler.generate_batch(
        inputs=token_ids(tokenizer, prompts),
        generation_config=config,
        continuous_batching_config=ContinuousBatchingConfig(seed=seed),
        progress_bar=False,
    )
    model.train(was_training)
    if len(outputs) != len(prompts):
        raise RuntimeError(
            f"continuous batching gave {len(outputs)} replies to {len(prompts)} prompts"
        )
    # generate_batch keeps the order of its inputs.
    return [
        sampling.reply_of(tokenizer, output.generated_tokens, ends)
        for output in outputs.values()
    ]
