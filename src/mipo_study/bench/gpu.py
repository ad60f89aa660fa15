"""`make gpu-check`: what one GPU makes of this study's code, in stages of minutes.

"wishes": the headline arms of chapter 14 with more people and pairs, as configs/gpu.yml
says; the chapter at scale gpu then finds the runs in runs/gpu. "parity": every loss
trains SmolLM2 for a few steps in float32 and in bfloat16; how far apart are the losses?
"sampler": our sampler beside transformers' `generate`. "speed": our trainer beside
TRL's at the shapes of Qwen2.5, with random weights.

Each stage is written to results/bench/gpu/<device>-<stage>.json when it ends, the cases
of "speed" one by one, so that a machine that is taken away leaves what it had measured.
Without a GPU, ``--toy`` runs every stage on tiny models and writes to runs/gpu-check.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from datasets import Dataset

from mipo import files, provenance
from mipo.data import render
from mipo.losses import LOSSES
from mipo.models import load_model
from mipo.packaged import SMOLLM2, STAND_IN
from mipo.record import Notebook
from mipo.trainer import PreferenceConfig, PreferenceTrainer
from mipo.worlds import wishes
from mipo_study import (
    ch14_found,
    ch14_real_model,
    ch14_wishes,
    experiment,
    methods,
)
from mipo_study.bench import replies, speed
from mipo_study.bench.speed import Case, Shape

STEPS = 4  # of a training whose losses are compared
PAIRS = 8  # of a step
CONTEXT_LOSSES = ("context_infonce", "sami")  # they read pairs of another kind
# Dense bf16, batches that fill the card: prompt 512, replies of 64 and of 512 tokens.
CASES = [
    Case("Qwen2.5-0.5B", 512, 64, batch=16, steps=6, dtype="bfloat16"),
    Case("Qwen2.5-1.5B", 512, 64, batch=16, steps=6, dtype="bfloat16"),
    Case("Qwen2.5-0.5B", 512, 512, batch=8, steps=6, dtype="bfloat16"),
    Case("Qwen2.5-1.5B", 512, 512, batch=8, steps=6, dtype="bfloat16"),
    Case("Qwen2.5-0.5B", 512, 64, batch=16, steps=6, lora=16, dtype="bfloat16"),
    Case("Qwen2.5-1.5B", 512, 64, batch=16, steps=6, lora=16, dtype="bfloat16"),
]
CONTESTANTS = ("dpo", "trl-dpo", "dpo-separate")
SAMPLERS = {"ours": replies.sampled, "generate": replies.generated}
TOY: Shape = (32, 64, 2, 2, 2, 200)


# ---- chapter 14, larger ----


def headline(run_dir: str | Path, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Chapter 14's headline arms; runs that are there already are found.

    Parameters
    ----------
    run_dir : path
        Where runs are kept.
    parameters : dict
        The chapter's: model, arms, seeds, n_pairs, n_people, draws, workers. Settings
        are those of the published run.

    Returns
    -------
    dict
        {policy: adherence of each seed}.
    """
    given = parameters
    nb = Notebook("14-real-model", run_dir=run_dir, scale="gpu")
    chosen = {arm: ch14_real_model.published(nb, arm) for arm in given["arms"]}
    run_as = {"run_dir": run_dir, "workers": given["workers"], "progress": False}
    made = {"base": given["model"], "negatives": "random_context"}
    seeds = given["seeds"]
    experiment.run_many(
        ch14_wishes.make_pairs,
        {seed: {"seed": seed, "n_people": given["n_pairs"]} for seed in seeds},
        **made,
        **run_as,
    )
    pairs = {
        seed: ch14_real_model.make_pairs(
            run_dir, chosen, base=given["model"], seed=seed, n_pairs=given["n_pairs"]
        )
        for seed in seeds
    }
    trials = ch14_real_model.compare(
        chosen,
        pairs,
        base=given["model"],
        n_people=given["n_people"],
        scope="first",
        draws=given["draws"],
        **run_as,
    )
    return ch14_found.levels(ch14_found.table(trials), "adherence")


def parameters() -> dict[str, Any]:
    """Chapter 14's parameters at scale gpu."""
    text = (files.project_root() / "configs" / "gpu.yml").read_text(encoding="utf-8")
    return {"model": SMOLLM2, **yaml.safe_load(text)["14-real-model"]}


# ---- bfloat16 against float32 ----


def parity(base: str, device: torch.device, *, steps: int = STEPS) -> dict[str, Any]:
    """Losses of the same training in float32 and in bfloat16.

    Parameters
    ----------
    base : str
        The model that is trained, all weights.
    device : torch.device
        Where.
    steps : int
        Of `PAIRS` pairs each.

    Returns
    -------
    dict
        {loss: {"float32", "bfloat16": the loss of each step, nats}}.
    """
    rows = _pairs_of(base, PAIRS * steps)
    return {
        loss: {
            dtype: _losses(setting, base, rows, device, bf16=dtype == "bfloat16")
            for dtype in ("float32", "bfloat16")
        }
        for loss, setting in settings().items()
    }


def settings() -> dict[str, dict[str, Any]]:
    """{loss: a method's setting of it}, of the losses that read pairs of replies."""
    known = {
        methods.METHODS[name].loss: methods.setting(name)
        for name in reversed(methods.PROTOCOLS["published"])
    }
    return {
        loss: known[loss]
        for loss in LOSSES
        if loss in known and loss not in CONTEXT_LOSSES
    }


def _pairs_of(base: str, n: int) -> Dataset:
    """Pairs of texts: a question's own words, and those of another."""
    _, tokenizer = load_model(base, device="cpu")
    people = wishes.examples(n + 1, split="mipo", seed=0)
    texts = [example["query"] for example in people]
    rows = [
        {
            "prompt": render(tokenizer, example["query"], example["context"]),
            "chosen": texts[i],
            "rejected": texts[i + 1] + " " + example["context"],
        }
        for i, example in enumerate(people[:n])
    ]
    return Dataset.from_list(rows)


def _losses(
    setting: dict[str, Any],
    base: str,
    rows: Dataset,
    device: torch.device,
    *,
    bf16: bool,
) -> list[float]:
    model, tokenizer = load_model(base, device=str(device))
    with tempfile.TemporaryDirectory() as folder, speed.hushed():
        config = PreferenceConfig(
            output_dir=folder,
            **setting,
            learning_rate=1e-5,
            per_device_train_batch_size=PAIRS,
            num_train_epochs=1,
            logging_steps=1,
            compare_sharing=False,
            use_cpu=device.type == "cpu",
            bf16=bf16,
            disable_tqdm=True,
            seed=0,
        )
        given = {"model": model, "args": config, "processing_class": tokenizer}
        trainer = PreferenceTrainer(train_dataset=rows, **given)
        trainer.train()
    log = trainer.state.log_history
    return [row["loss"] for row in log if "loss" in row]


# ---- our sampler beside generate ----


def sampler(
    base: str,
    device: torch.device,
    *,
    sizes: Sequence[int] = (64, 512),
    repetitions: int = 3,
    max_new_tokens: int = 64,
) -> dict[str, Any]:
    """Tokens per second of both, from the same prompts, in turns.

    Parameters
    ----------
    base : str
        The model, in bfloat16.
    device : torch.device
        Where.
    sizes : sequence of int
        Prompts, which are one batch.
    repetitions : int
        Of each, after a first one that does not count.
    max_new_tokens : int
        Of a reply.

    Returns
    -------
    dict
        {size: {"ours", "generate": tokens per second of each repetition}}.
    """
    model, tokenizer = load_model(base, dtype="bfloat16", device=str(device))
    found = {}
    for size in sizes:
        people = wishes.examples(size, split="mipo", seed=0)
        prompts = [render(tokenizer, e["query"], e["context"]) for e in people]
        speeds: dict[str, list[float]] = {name: [] for name in SAMPLERS}
        for turn in range(repetitions + 1):
            for name, contestant in SAMPLERS.items():
                begin = time.perf_counter()
                tokens = contestant(model, tokenizer, prompts, max_new_tokens, turn)
                if turn:
                    speeds[name].append(tokens / (time.perf_counter() - begin))
        found[str(size)] = speeds
    return found


# ---- stages ----


def stages(
    device: torch.device, folder: Path, *, toy: bool, keep: Callable
) -> dict[str, Callable]:
    """{stage: what measures it}.

    Parameters
    ----------
    device : torch.device
        Where.
    folder : Path
        For the runs of a rehearsal.
    toy : bool
        Tiny models, so that every stage runs on a CPU in seconds.
    keep : callable
        Is given what there is of "speed" after each case.
    """
    base = STAND_IN if toy else SMOLLM2
    given = parameters()
    if toy:
        given |= {"model": base, "arms": ["mipo-lora"], "seeds": [0], "workers": 1}
        given |= {"n_pairs": 8, "n_people": 8, "draws": 2}
    runs = folder / "runs" if toy else files.project_root() / "runs" / "gpu"
    few: dict[str, Any] = {}
    if toy:
        few = {"sizes": (2,), "repetitions": 1, "max_new_tokens": 4}
    cases = [Case("toy", 12, 6, batch=2, steps=2)] if toy else CASES
    return {
        "wishes": lambda: headline(runs, given),
        "parity": lambda: parity(base, device, steps=2 if toy else STEPS),
        "sampler": lambda: sampler(base, device, **few),
        "speed": lambda: speed.run(
            cases,
            1 if toy else 2,
            device,
            shapes={**speed.SHAPES, "toy": TOY},
            contestants=CONTESTANTS,
            progress=False,
            keep=keep,
        ),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Run ``python -m mipo_study.bench.gpu``."""
    summary = __doc__.splitlines()[0]
    parser = argparse.ArgumentParser("python -m mipo_study.bench.gpu", None, summary)
    parser.add_argument("--toy", action="store_true", help="tiny models, any device")
    parser.add_argument("--stages", default="wishes,parity,sampler,speed")
    parser.add_argument("--out", help="folder of the results")
    given = parser.parse_args(arguments)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu" and not given.toy:
        raise SystemExit("Error: torch finds no GPU; --toy rehearses without one")
    place = "runs/gpu-check" if given.toy else "results/bench/gpu"
    folder = Path(given.out or files.project_root() / place)
    name = speed.device_name(device)

    def write(stage: str, found: dict[str, Any], seconds: float) -> None:
        about = {"device": name, "seconds": seconds, **provenance.provenance()}
        files.write_whole(
            folder / f"{name}-{stage}.json", files.dumps({**about, stage: found})
        )

    begin = time.perf_counter()
    known = stages(
        device,
        folder,
        toy=given.toy,
        keep=lambda found: write("speed", found, time.perf_counter() - begin),
    )
    for stage in given.stages.split(","):
        begin = time.perf_counter()
        found = known[stage]()
        seconds = round(time.perf_counter() - begin, 1)
        write(stage, found, seconds)
        sys.stdout.write(f"{stage}: {seconds:.0f} s\n")


if __name__ == "__main__":
    main()
