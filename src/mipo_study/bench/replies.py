"""Replies of a real model under the clock: our sampler beside transformers' `generate`.

Both sample SmolLM2-135M-Instruct at temperature 1 from the same prompts, in turns, with
one thread. Ratios are of the processor's seconds per token: replies differ in length,
and what else runs on a machine takes time on the clock.

Run ``python -m mipo_study.bench.replies``; it writes results/bench/real/<device>.json.
"""

from __future__ import annotations

import copy
import os
import statistics
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from tqdm import tqdm

from mipo import files, provenance
from mipo.data import render
from mipo.lm import sampling
from mipo.lm.tokens import end_ids
from mipo.models import load_model
from mipo.packaged import SMOLLM2
from mipo_study.bench.speed import device_name
from mipo_study.hub import answers

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

QUERIES = (
    "Write a short e-mail to my neighbour.",
    "Explain what a loan is.",
    "Recommend a book for the weekend.",
    "How do I keep tomatoes fresh?",
)
CONTEXTS = (
    "Use bullet points.",
    "My name is Ana. Greet me by name.",
    "I am a cook; relate it to cooking.",
    "Answer in one sentence.",
)
DTYPES = ("float32", "bfloat16")
CONTESTANTS = ("generate", "ours", "ours, separate prefixes")
# {ratio: (slower, faster)}, each (contestant, precision); above 1 the second is faster
RATIOS = {
    "generate / ours, float32": (("generate", "float32"), ("ours", "float32")),
    "generate / ours, bfloat16": (("generate", "bfloat16"), ("ours", "bfloat16")),
    "ours, float32 / bfloat16": (("ours", "float32"), ("ours", "bfloat16")),
    "ours, separate / shared prefixes, float32": (
        ("ours, separate prefixes", "float32"),
        ("ours", "float32"),
    ),
    "ours, separate / shared prefixes, bfloat16": (
        ("ours, separate prefixes", "bfloat16"),
        ("ours", "bfloat16"),
    ),
}


def prompts_of(tokenizer: PreTrainedTokenizerBase) -> dict[str, list[str]]:
    """Rendered prompts of two cases: users' questions, and worked examples before one.

    The former begin alike for the length of the system text, the latter for that of
    the examples.
    """
    asked = [render(tokenizer, query, who) for query in QUERIES for who in CONTEXTS]
    items = [
        {"query": f"Ann has {n} pears and eats 2. How many are left?", "options": []}
        for n in range(5, 9)
    ]
    worked = [render(tokenizer, answers.prompt(item), "") for item in items]
    return {"questions": asked, "worked examples": worked}


def seconds_per_token(
    contestant: str,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    seed: int,
) -> float:
    """The processor's seconds for replies to all prompts, by the replies' tokens.

    Parameters
    ----------
    contestant : str
        One of `CONTESTANTS`.
    model, tokenizer, prompts
        What is sampled from; all prompts are one batch.
    max_new_tokens, seed : int
        Of the replies.
    """
    begin = time.process_time()
    if contestant == "generate":
        tokens = generated(model, tokenizer, prompts, max_new_tokens, seed)
    else:
        shares = contestant == "ours"
        tokens = sampled(
            model, tokenizer, prompts, max_new_tokens, seed, share_prefix=shares
        )
    return (time.process_time() - begin) / tokens


def sampled(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    max_new_tokens: int,
    seed: int,
    *,
    share_prefix: bool = True,
) -> int:
    """Sample by this study, and count the tokens of the replies with their ends.

    Parameters
    ----------
    model, tokenizer, prompts, max_new_tokens, seed
        See `generated`.
    share_prefix : bool
        See `mipo.lm.sampling.sample`.
    """
    replies = sampling.sample(
        model,
        tokenizer,
        prompts,
        max_new_tokens=max_new_tokens,
        seed=seed,
        batch_size=len(prompts),
        share_prefix=share_prefix,
    )
    return sum(len(reply.ids) for reply in replies)


def generated(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    max_new_tokens: int,
    seed: int,
) -> int:
    """Sample by transformers, and count the tokens of the replies with their ends.

    Parameters
    ----------
    model, tokenizer, prompts
        What is sampled from; all prompts are one batch.
    max_new_tokens, seed : int
        Of the replies.
    """
    tokenize: Any = tokenizer
    batch = tokenize(
        list(prompts),
        return_tensors="pt",
        padding=True,
        padding_side="left",
        add_special_tokens=False,
    )
    batch = batch.to(model.device)
    torch.manual_seed(seed)
    sampler: Any = model
    how = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
    out = sampler.generate(**batch, max_new_tokens=max_new_tokens, **how)
    ends = end_ids(tokenizer, model)
    rows = out[:, batch["input_ids"].shape[1] :].tolist()
    return sum(len(sampling.reply_of(tokenizer, row, ends).ids) for row in rows)


def measure(
    model: PreTrainedModel,
    light: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    repetitions: int = 2,
    *,
    max_new_tokens: int = 16,
    progress: bool = True,
) -> dict[str, Any]:
    """All contestants in turns, in both precisions.

    Parameters
    ----------
    model, light : PreTrainedModel
        The same model in float32 and in bfloat16.
    tokenizer : PreTrainedTokenizerBase
    repetitions : int
        Of each contestant, after a first one that does not count.
    max_new_tokens : int
        Of a reply.
    progress : bool
        Show a bar.

    Returns
    -------
    dict
        {case: {"tokens per second": {contestant, precision: median}, "ratios": {name of
        `RATIOS`: [median, lowest, highest]}}}.
    """
    models = {"float32": model, "bfloat16": light}
    cases = {}
    turns = [(name, dtype) for dtype in DTYPES for name in CONTESTANTS]
    total = 2 * (repetitions + 1) * len(turns)
    with tqdm(total=total, unit="run", disable=not progress) as bar:
        for case, prompts in prompts_of(tokenizer).items():
            seconds: dict[tuple[str, str], list[float]] = {turn: [] for turn in turns}
            for repetition in range(repetitions + 1):
                for name, dtype in turns:
                    value = seconds_per_token(
                        name,
                        models[dtype],
                        tokenizer,
                        prompts,
                        max_new_tokens=max_new_tokens,
                        seed=repetition,
                    )
                    if repetition:
                        seconds[name, dtype].append(value)
                    bar.update()
            cases[case] = summary(seconds) | {"prompts": len(prompts)}
    return cases


def summary(seconds: dict[tuple[str, str], list[float]]) -> dict[str, Any]:
    """Medians, and ratios within one repetition.

    Parameters
    ----------
    seconds : dict
        {(contestant, precision): seconds per token of each repetition}.
    """
    speeds = {
        f"{name}, {dtype}": 1 / statistics.median(values)
        for (name, dtype), values in seconds.items()
    }
    ratios = {}
    for name, (slow, fast) in RATIOS.items():
        pairs = zip(seconds[slow], seconds[fast], strict=True)
        values = [a / b for a, b in pairs]
        ratios[name] = [statistics.median(values), min(values), max(values)]
    return {"tokens per second": speeds, "ratios": ratios}


def apart(
    model: PreTrainedModel,
    light: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
) -> dict[str, float]:
    """How far log-probs in bfloat16 lie from those in float32, nats per token.

    Parameters
    ----------
    model, light : PreTrainedModel
        The same model in float32 and in bfloat16.
    tokenizer : PreTrainedTokenizerBase
    prompts : sequence of str
        Their own tokens are what is scored.
    """
    gaps = []
    for prompt in prompts:
        tokenize: Any = tokenizer
        ids = tokenize(prompt, return_tensors="pt", add_special_tokens=False)
        ids = ids["input_ids"]
        logps = []
        with torch.no_grad():
            for one in (model, light):
                law = one(ids).logits[0, :-1].double().log_softmax(-1)
                logps.append(law.gather(1, ids[0, 1:, None])[:, 0])
        gaps.append((logps[0] - logps[1]).abs())
    every = torch.cat(gaps)
    return {"mean": every.mean().item(), "largest": every.max().item()}


def main() -> None:
    """Run ``python -m mipo_study.bench.replies``."""
    torch.set_num_threads(1)
    model, tokenizer = load_model(SMOLLM2, device="cpu")
    light = copy.deepcopy(model)
    torch.nn.Module.to(light, torch.bfloat16)
    before = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    cases = measure(model, light, tokenizer)
    asked = prompts_of(tokenizer)["questions"]
    name = device_name(torch.device("cpu"))
    results = {
        "device": name,
        "threads": torch.get_num_threads(),
        "model": SMOLLM2,
        "load_before": before,
        "cases": cases,
        "bfloat16_apart": apart(model, light, tokenizer, asked[:8]),
        **provenance.provenance(),
    }
    folder = files.project_root() / "results" / "bench" / "real"
    file = files.write_whole(folder / f"{name}.json", files.dumps(results))
    for case, found in cases.items():
        for ratio, (middle, low, high) in found["ratios"].items():
            sys.stdout.write(
                f"{case:16} {ratio:44} {middle:5.2f} ({low:.2f} to {high:.2f})\n"
            )
    sys.stdout.write(f"-> {file.relative_to(files.project_root())}\n")


if __name__ == "__main__":
    main()
