"""`make bench`: speed and memory of `PreferenceTrainer.train()` beside TRL's trainers.

One run: every contestant, a plain trainer among them, trains on the same pairs from the
same weights, in turns, so that a machine that slows down slows all alike. Only ratios
within a run are meant to be read. Written to results/bench/<device>.json.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import gc
import io
import os
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from tqdm import tqdm
from transformers import Qwen2Config, Qwen2ForCausalLM, Trainer

from mipo import files, models, provenance
from mipo.data import render
from mipo.trainer import PreferenceConfig, PreferenceTrainer
from mipo.world import World
from mipo.worlds import language_model, population
from mipo_study import ch12_cost
from mipo_study.bench import sampling, timing
from mipo_study.experiment import lora
from mipo_study.methods import METHODS, settings_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# hidden, inner, layers, heads, heads of keys and values, vocabulary.
# Source: config.json of each model on the hub.
Shape = tuple[int, int, int, int, int, int]
SHAPES: dict[str, Shape] = {
    "7M": (256, 704, 4, 4, 2, 16000),
    "Qwen2.5-0.5B": (896, 4864, 24, 14, 2, 151936),
    "Qwen2.5-1.5B": (1536, 8960, 28, 12, 2, 151936),
    "Qwen2.5-7B": (3584, 18944, 28, 28, 4, 152064),
}
RATE = 1e-6  # weights hardly move: every step does the same work
# Dense bf16 operations per second, from the makers' data sheets.
PEAK = {"H200": 989e12, "H100": 989e12, "A100": 312e12}


@dataclass(frozen=True)
class Case:
    """What is trained on what.

    Attributes
    ----------
    shape : str
        Of the model: a key of `SHAPES`.
    prompt, reply : int
        Tokens; prompt 0 stands for the small world's own model and sentences.
    negatives : int
        Rejected replies per pair.
    batch, steps : int
        Pairs of a step, and steps of a training.
    lora : int
        Rank of adapters; 0 trains every weight.
    dtype : str
        Precision, by its name in torch.
    """

    shape: str = "7M"
    prompt: int = 0
    reply: int = 0
    negatives: int = 1
    batch: int = 4
    steps: int = 2
    lora: int = 0
    dtype: str = "float32"

    @property
    def name(self) -> str:
        """The case in words."""
        words = ["the small world's lengths"]
        if self.prompt:
            words = [self.shape, f"{self.prompt} / {self.reply}"]
        if self.negatives > 1:
            words.append(f"K = {self.negatives}")
        if self.lora:
            words.append(f"LoRA {self.lora}")
        return ", ".join(words)

    def peers(self) -> tuple[str, ...]:
        """Who competes; with several negatives, TRL has no trainer."""
        return ("infonca", "infonca-separate") if self.negatives > 1 else tuple(PEERS)


# By length of the prompt, such that a call takes seconds.
STEPS = {128: 6, 512: 2, 2048: 1}
CPU = [
    Case(batch=24, steps=64),
    *(Case("7M", p, r, steps=STEPS[p]) for p in STEPS for r in (64, 128)),
    *(Case("7M", p, 64, k, steps=STEPS[p]) for p in (128, 512) for k in (4, 8)),
]
GPU = [
    Case(s, p, 128, steps=8, lora=rank, dtype="bfloat16")
    for s in ("Qwen2.5-0.5B", "Qwen2.5-1.5B", "Qwen2.5-7B")
    for p in STEPS
    for rank in (0, 16)
]
GPU += [Case("Qwen2.5-0.5B", 512, 128, k, steps=8, dtype="bfloat16") for k in (4, 8)]


# ---- contestants ----


class PlainTrainer(PreferenceTrainer):
    """What one writes first.

    Every reply has its own prompt, logits are computed at every position, then
    log-softmax and gather.
    """

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """Mean loss of a batch."""
        ids, mask = inputs["input_ids"], inputs["reply_mask"][:, 1:]
        outputs = model(
            input_ids=ids, attention_mask=inputs["attention_mask"], use_cache=False
        )
        logps = outputs.logits[:, :-1].float().log_softmax(-1)
        tokens = logps.gather(-1, ids[:, 1:, None])[..., 0]  # (B, T - 1)
        chosen, rejected = (tokens * mask).sum(1).reshape(inputs["members"], -1)
        keywords = self.args.loss_kwargs
        return self.loss_fn(chosen, rejected, *inputs["ref"], **keywords).mean()


PEERS = {
    "dpo": "this study, DPO",
    "trl-dpo": "TRL's DPOTrainer, reference cached",
    "plain-dpo": "plain transformers, DPO",
    "dpo-separate": "this study, DPO, each reply with its own prompt",
    "simpo": "this study, SimPO",
    "trl-simpo": "TRL's CPOTrainer, SimPO",
    "rmipo": "this study, RMiPO",
}
OURS = {
    name: (METHODS[name].loss, dict(settings_of(name).kwargs))
    for name in ("dpo", "simpo", "rmipo")
}
OURS["infonca"] = ("infonca", {"beta": 0.1})
# {ratio: (slower, faster)}; more is better, except that of RMiPO's price.
RATIOS = {
    "DPO: TRL / ours": ("trl-dpo", "dpo"),
    "DPO: plain / ours": ("plain-dpo", "dpo"),
    "DPO: separate / shared prompts": ("dpo-separate", "dpo"),
    "SimPO: TRL / ours": ("trl-simpo", "simpo"),
    "RMiPO / SimPO": ("rmipo", "simpo"),
    "K negatives: separate / shared prompts": ("infonca-separate", "infonca"),
}


def contestant(
    name: str,
    case: Case,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    data: Dataset,
    folder: str,
    device: torch.device,
) -> Trainer:
    """A trainer that is ready to train, on its own copy of the model.

    Parameters
    ----------
    name : str
        One of ``case.peers()``.
    case : Case
    model, tokenizer, data
        As `build` makes them.
    folder : str
        Where the trainer may write.
    device : torch.device
        Of the model.
    """
    common = {
        "output_dir": folder,
        "max_steps": case.steps,
        "per_device_train_batch_size": case.batch,
        "learning_rate": RATE,
        "seed": 0,
        "logging_steps": max(1, case.steps // 2),
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": device.type == "cpu",
        "bf16": False,
        "gradient_checkpointing": False,
        "max_length": None,
    }
    given = {
        "model": copy.deepcopy(model),
        "train_dataset": data,
        "processing_class": tokenizer,
        "peft_config": lora(case.lora) if case.lora else None,
    }
    if name == "trl-dpo":
        from trl import DPOConfig, DPOTrainer

        args = DPOConfig(**common, beta=0.1, precompute_ref_log_probs=True)
        return DPOTrainer(args=args, **given)
    if name == "trl-simpo":
        from trl.experimental.cpo import CPOConfig, CPOTrainer

        simpo = {"loss_type": "simpo", "cpo_alpha": 0.0, "simpo_gamma": 1.0}
        return CPOTrainer(args=CPOConfig(**common, beta=2.0, **simpo), **given)
    kind = PlainTrainer if name.startswith("plain") else PreferenceTrainer
    loss, kwargs = OURS[name.removeprefix("plain-").removesuffix("-separate")]
    args = PreferenceConfig(
        **common,
        loss=loss,
        loss_kwargs=kwargs,
        share_prompts=kind is PreferenceTrainer and not name.endswith("-separate"),
        compare_sharing=False,
    )
    return kind(args=args, **given)


# ---- the models and the pairs ----

Material = tuple["PreTrainedModel", "PreTrainedTokenizerBase", Dataset]


def build(
    case: Case, device: torch.device, shapes: Mapping[str, Shape] = SHAPES
) -> Material:
    """Model, tokenizer and pairs of a case.

    Parameters
    ----------
    case : Case
    device : torch.device
        Where the model is.
    shapes : dict
        {name: shape} that the case may name.

    Returns
    -------
    model : PreTrainedModel
        With random weights.
    tokenizer : PreTrainedTokenizerBase
    pairs : Dataset
        prompt, chosen and rejected as text: random words, or sentences of the small
        world.
    """
    n = case.batch * case.steps
    if not case.prompt:
        model, tokenizer, rows = _small_world(n)
    else:
        model, tokenizer, rows = _random_words(case, n, device, shapes[case.shape])
    torch.nn.Module.to(model, device)
    return model, tokenizer, Dataset.from_list(rows)


def _small_world(
    n: int,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, list[dict[str, Any]]]:
    tokenizer = language_model.build_tokenizer()
    model = models.small_model(tokenizer, hidden=256, layers=2, heads=4, inner=256)
    world, rng = World(), np.random.default_rng(0)
    rows = []
    for example in population.examples(n, split="mipo", seed=0)[:n]:
        task, topic = example["task"], example["topic"]
        row = {
            "prompt": render(tokenizer, example["query"], example["context"]),
            "chosen": world.sample(task, population.NOBODY, topic, rng),
            "rejected": world.sample(task, population.NOBODY, topic, rng),
        }
        rows.append(row)
    return model, tokenizer, rows


def _random_words(
    case: Case, n: int, device: torch.device, shape: Shape
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, list[dict[str, Any]]]:
    hidden, inner, layers, heads, kv_heads, vocabulary = shape
    words = [f"w{i}" for i in range(min(vocabulary, 16000) - len(models.SPECIAL))]
    tokenizer = models.build_tokenizer([" ".join(words)])
    config = Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=4096,
        tie_word_embeddings=case.shape != "Qwen2.5-7B",
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    torch.manual_seed(0)
    with torch.device(device):
        model = Qwen2ForCausalLM(config)
    torch.nn.Module.to(model, getattr(torch, case.dtype))
    rng = np.random.default_rng(0)

    def text(count: int) -> str:
        drawn = rng.integers(len(words), size=count)
        return "".join(f" {words[i]}" for i in drawn)

    rows = []
    length = case.reply - 1  # the end of sequence is a token
    for _ in range(n):
        prompt, chosen = text(case.prompt), text(length)
        rejected = [text(length) for _ in range(case.negatives)]
        one = case.negatives == 1
        row = {
            "prompt": prompt,
            "chosen": chosen,
            "rejected": rejected[0] if one else rejected,
        }
        rows.append(row)
    return model, tokenizer, rows


# ---- the clock ----


def measure(
    case: Case,
    repetitions: int,
    device: torch.device,
    *,
    shapes: Mapping[str, Shape] = SHAPES,
    contestants: Sequence[str] = (),
    bar: tqdm | None = None,
) -> dict[str, Any]:
    """Let all contestants of a case train in turns.

    Parameters
    ----------
    case : Case
    repetitions : int
        Trainings of each under the clock, after one that measures memory.
    device, shapes
        See `build`.
    contestants : sequence of str
        Who competes; nobody stands for ``case.peers()``.
    bar : tqdm, optional
        Moves on with every training.

    Returns
    -------
    dict
        seconds, {contestant: per step, of each repetition}; peak, {contestant: bytes};
        failed, those that need more memory than there is and take no further turns;
        flops_per_pair of DPO, None with adapters, which spare the gradients of weights
        that the formula counts; and the case itself.
    """
    material = build(case, device, shapes)
    model, tokenizer, data = material
    names = list(contestants or case.peers())
    seconds: dict[str, list[float]] = {name: [] for name in names}
    peak: dict[str, float] = {}
    failed: list[str] = []
    for turn in range(-1, repetitions):
        first = max(turn, 0) % len(names)
        for name in names[first:] + names[:first]:
            if name in failed:
                continue
            try:
                value = _train(name, case, material, device, clocked=turn >= 0)
            except torch.OutOfMemoryError:
                failed.append(name)
                continue
            if turn < 0:
                peak[name] = value
            else:
                seconds[name].append(value)
            if bar is not None:
                bar.update()
    flops = None
    if case.prompt and not case.lora:
        shape = ch12_cost.shape_of(model)
        flops = ch12_cost.step_flops(shape, "dpo", case.prompt, case.reply)
    longest = max(len(tokenizer(text)["input_ids"]) for text in data["prompt"])
    for name in failed:
        del seconds[name]
    return {
        "name": case.name,
        **asdict(case),
        "parameters": model.num_parameters(),
        "failed": failed,
        "peak": peak,
        "seconds": seconds,
        "flops_per_pair": flops,
        "longest": longest,
    }


def _train(
    name: str, case: Case, material: Material, device: torch.device, *, clocked: bool
) -> float:
    """One training: its seconds per step if it is clocked, else its peak in bytes."""
    gc.collect()  # the trainer before this one is a circle of references
    with tempfile.TemporaryDirectory() as folder, hushed():
        trainer = contestant(name, case, *material, folder, device)
        if not clocked:
            return timing.peak_bytes(trainer.train, device)
        begin = time.perf_counter()
        trainer.train()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return (time.perf_counter() - begin) / case.steps


@contextlib.contextmanager
def hushed() -> Iterator[None]:
    """Trainers print their logs; the bar is what a reader wants to see."""
    before = os.environ.get("TQDM_DISABLE")
    os.environ["TQDM_DISABLE"] = "1"
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        del os.environ["TQDM_DISABLE"]
        if before is not None:
            os.environ["TQDM_DISABLE"] = before


def ratios(result: Mapping[str, Any]) -> dict[str, list[float]]:
    """The ratios of `RATIOS` whose contestants took part, as [median, lowest, highest].

    Parameters
    ----------
    result : dict
        Of `measure`; the three are taken over its repetitions.
    """
    seconds = result["seconds"]
    table = {}
    for name, (slow, fast) in RATIOS.items():
        if slow in seconds and fast in seconds:
            pairs = zip(seconds[slow], seconds[fast], strict=True)
            values = [a / b for a, b in pairs]
            table[name] = [statistics.median(values), min(values), max(values)]
    return table


def memory_ratios(result: Mapping[str, Any]) -> dict[str, float]:
    """Peak bytes of the slower over those of the faster, for the same ratios."""
    peak = result["peak"]
    return {
        name: peak[slow] / peak[fast]
        for name, (slow, fast) in RATIOS.items()
        if slow in peak and fast in peak
    }


def token_ratio(case: Mapping[str, Any]) -> float:
    """Tokens of separate rows over tokens of shared ones.

    (K + 1)(P + R) / (P + (K + 1)R) with P, R and K of the case.
    """
    p, r, n = case["prompt"], case["reply"], case["negatives"] + 1
    return n * (p + r) / (p + n * r)


def utilisation(result: Mapping[str, Any], device: str) -> float | None:
    """The share of what a device can do that our DPO step gets out of it.

    Parameters
    ----------
    result : dict
        Of `measure`.
    device : str
        See `device_name`.

    Returns
    -------
    float or None
        Operations that separate rows would need, per second, over those of `PEAK`; None
        for another device and where the operations are not known. A prompt counts once
        per reply, as everybody counts, so sharing prompts shows as a gain.
    """
    known = [peak for name, peak in PEAK.items() if name.lower() in device]
    if not known or not result["flops_per_pair"] or "dpo" not in result["seconds"]:
        return None
    seconds = statistics.median(result["seconds"]["dpo"])
    return result["flops_per_pair"] * result["batch"] / seconds / known[0]


def device_name(device: torch.device) -> str:
    """The kind of device, never the name of a machine: cpu-2-threads, nvidia-h200."""
    if device.type == "cuda":
        return re.sub(r"[^a-z0-9]+", "-", torch.cuda.get_device_name(device).lower())
    return f"cpu-{torch.get_num_threads()}-threads"


def run(
    cases: Sequence[Case],
    repetitions: int,
    device: torch.device,
    *,
    shapes: Mapping[str, Shape] = SHAPES,
    contestants: Sequence[str] = (),
    progress: bool = True,
    keep: Callable[[dict[str, Any]], Any] = lambda results: None,
) -> dict[str, Any]:
    """Measure cases, one after another.

    Parameters
    ----------
    cases : sequence of Case
    repetitions, device, shapes, contestants
        See `measure`.
    progress : bool
        Show a bar.
    keep : callable
        Is given what there is after each case.

    Returns
    -------
    dict
        What results/bench/<device>.json holds, but for sampling.
    """
    kind, results = device_name(device), []
    setting = {
        "device": kind,
        "threads": torch.get_num_threads(),
        "repetitions": repetitions,
        "of": RATIOS,
        **provenance.provenance(),
    }
    trainings = sum(len(contestants or case.peers()) for case in cases)
    trainings *= repetitions + 1
    with tqdm(total=trainings, unit="run", disable=not progress) as bar:
        for case in cases:
            bar.set_description(case.name)
            result = measure(
                case,
                repetitions,
                device,
                shapes=shapes,
                contestants=contestants,
                bar=bar,
            )
            result["ratios"] = ratios(result)
            result["memory_ratios"] = memory_ratios(result)
            result["mfu"] = utilisation(result, kind)
            if case.negatives > 1:
                result["token_ratio"] = token_ratio(result)
            results.append(result)
            keep(setting | {"cases": results})
    return setting | {"cases": results}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run ``python -m mipo_study.bench.speed``."""
    summary = __doc__.splitlines()[0]
    parser = argparse.ArgumentParser("python -m mipo_study.bench.speed", None, summary)
    usual = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--device", default=usual)
    parser.add_argument("--only", default="", help="cases whose name holds this text")
    given = parser.parse_args(arguments)
    device = torch.device(given.device)
    every = GPU if device.type == "cuda" else CPU
    cases = [case for case in every if given.only in case.name]
    if not cases or given.repetitions < 1:
        raise SystemExit(
            f"Error: no case holds {given.only!r}, or "
            f"repetitions={given.repetitions} is below 1"
        )
    place = "runs" if given.only else "results"  # a part is not a result
    file = files.project_root() / place / "bench" / f"{device_name(device)}.json"
    partial = file.with_name(f"{file.name}.partial")

    def keep(results: dict[str, Any]) -> None:  # what is measured survives a crash
        files.write_whole(partial, files.dumps(results))

    results = run(cases, given.repetitions, device, keep=keep)
    if not given.only:
        results["sampling"] = sampling.measure(device)
    files.write_whole(file, files.dumps(results))
    partial.unlink()
    for case in results["cases"]:
        for name, (middle, low, high) in case["ratios"].items():
            sys.stdout.write(
                f"{case['name']:32} {name:40} {middle:6.2f} ({low:.2f} to {high:.2f}), "
                f"memory {case['memory_ratios'][name]:.2f}\n"
            )
    sys.stdout.write(f"-> {file.relative_to(files.project_root())}\n")


if __name__ == "__main__":
    main()
