"""Sampling from large models: continuous batching of transformers where it is there and faster, else `mipo.sampling`.

Continuous batching starts a new prompt as soon as a reply ends, instead of waiting for the longest of a batch. It does not
keep one stream of random numbers per prompt, so replies to the same seed are alike in law, not in letters.
"""

import logging
import time

import torch

from mipo import sampling

LOG = logging.getLogger(__name__)
ENGINES = ("auto", "batched", "continuous")


def generate(model, tokenizer, prompts, *, engine="auto", max_new_tokens=64, temperature=1.0, top_p=1.0, seed=0,
             batch_size=64, names=None, progress=False):
    """(replies, engine that was used); see `sampling.generate` for the keywords.

    engine   "batched": `sampling.generate`; "continuous": transformers' generate_batch; "auto": on a GPU whichever was
             faster on the first prompts (see `faster`), elsewhere "batched"
    errors   ValueError for an unknown engine, or "continuous" where the model has none
    """
    if engine not in ENGINES:
        raise ValueError(f"engine={engine!r}: choose one of {', '.join(ENGINES)}")
    if engine == "continuous" and not hasattr(model, "generate_batch"):
        raise ValueError(f"{type(model).__name__} has no continuous batching; use engine=\"batched\"")
    settings = dict(max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, seed=seed)
    ways = {"batched": lambda part: sampling.generate(model, tokenizer, part, batch_size=batch_size, progress=progress,
                                                      names=names, **settings),
            "continuous": lambda part: continuous(model, tokenizer, part, **settings)}
    if engine == "auto":
        engine = "batched"
        if next(model.parameters()).is_cuda and hasattr(model, "generate_batch") and len(prompts) > 2 * batch_size:
            engine = faster({k: (lambda k=k: ways[k](prompts[:2 * batch_size])) for k in ways})
    return ways[engine](list(prompts)), engine


def faster(ways):
    """The name of the quickest of {name: function}; each runs twice and the second run counts; one that raises loses."""
    times = {}
    for name, run in ways.items():
        try:
            run()
            start = time.perf_counter()
            run()
            times[name] = time.perf_counter() - start
        except Exception as error:  # an engine that this model or version cannot do is no way, but no reason to stop
            LOG.warning("sampling engine %s does not work here: %s", name, error)
    if not times:
        raise RuntimeError(f"none of {', '.join(ways)} can sample from this model")
    return min(times, key=times.get)


def continuous(model, tokenizer, prompts, *, max_new_tokens, temperature, top_p, seed):
    """One reply per rendered prompt by transformers' continuous batching, as text without special tokens."""
    from transformers import GenerationConfig
    from transformers.generation import ContinuousBatchingConfig

    ids = [tokenizer(p)["input_ids"] for p in prompts]
    config = GenerationConfig(max_new_tokens=max_new_tokens, do_sample=temperature > 0, temperature=temperature or None,
                              top_p=top_p if temperature else None, top_k=0 if temperature else None,
                              eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    torch.manual_seed(seed)
    was_training = model.training
    model.eval()
    found = model.generate_batch(inputs=ids, generation_config=config,
                                 continuous_batching_config=ContinuousBatchingConfig(seed=seed), progress_bar=False)
    model.train(was_training)
    if len(found) != len(prompts):
        raise RuntimeError(f"continuous batching gave {len(found)} replies to {len(prompts)} prompts")
    by_place = [out.generated_tokens for out in found.values()]  # generate_batch keeps the order of its inputs
    return [tokenizer.decode(tokens, skip_special_tokens=True) for tokens in by_place]
