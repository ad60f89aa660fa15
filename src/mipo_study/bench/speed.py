"""`make bench`: pairs per second and peak memory of `PreferenceTrainer.train()` beside TRL's trainers and a plain one.

One run: every contestant trains on the same pairs from the same weights, in turns, so that a machine that slows down slows
all alike. Only ratios within a run are meant to be read. Written to results/bench/<device>.json.
"""

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
from dataclasses import asdict, dataclass

import numpy as np
import torch
from datasets import Dataset
from tqdm import tqdm
from transformers import Qwen2Config, Qwen2ForCausalLM

from mipo import files, models, provenance
from mipo.data import render
from mipo.trainer import PreferenceConfig, PreferenceTrainer
from mipo.world import World
from mipo.worlds import language_model, population
from mipo_study import ch12_cost
from mipo_study.bench import sampling, timing
from mipo_study.experiment import lora
from mipo_study.methods import METHODS, settings_of

# hidden, inner, layers, heads, heads of keys and values, vocabulary. sources: config.json of each model on the hub
SHAPES = {
    "7M": (256, 704, 4, 4, 2, 16000),
    "Qwen2.5-0.5B": (896, 4864, 24, 14, 2, 151936),
    "Qwen2.5-1.5B": (1536, 8960, 28, 12, 2, 151936),
    "Qwen2.5-7B": (3584, 18944, 28, 28, 4, 152064),
}
RATE = 1e-6  # weights hardly move: every step does the same work
PEAK = {
    "H200": 989e12,
    "H100": 989e12,
    "A100": 312e12,
}  # dense bf16 operations per second, from the makers' data sheets


@dataclass(frozen=True)
class Case:
    """What is trained on what: tokens of prompt and reply, negatives, batch; prompt 0 is the small world's own text."""

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
        what = (
            "the small world's lengths"
            if not self.prompt
            else f"{self.shape}, {self.prompt} / {self.reply}"
        )
        return (
            what
            + f", K = {self.negatives}" * (self.negatives > 1)
            + f", LoRA {self.lora}" * (self.lora > 0)
        )

    def peers(self) -> tuple[str, ...]:
        """Who competes: with several negatives, TRL has no trainer."""
        return ("infonca", "infonca-separate") if self.negatives > 1 else tuple(PEERS)


STEPS = {
    128: 6,
    512: 2,
    2048: 1,
}  # by length of the prompt: so that a call takes seconds
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


# ---- contestants: (what it is, the loss and whether prompts are shared) ----


class PlainTrainer(PreferenceTrainer):
    """What one writes first: every reply with its own prompt, logits at every position, log-softmax, gather."""

    def compute_loss(
        self, model, inputs, return_outputs=False, num_items_in_batch=None
    ):
        ids, mask = inputs["input_ids"], inputs["reply_mask"][:, 1:]
        logits = model(
            input_ids=ids, attention_mask=inputs["attention_mask"], use_cache=False
        ).logits[:, :-1]
        picked = (
            logits.float().log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
        )  # (B, T - 1)
        chosen, rejected = (picked * mask).sum(1).reshape(inputs["members"], -1)
        return self.loss_fn(
            chosen, rejected, *inputs["ref"], **self.args.loss_kwargs
        ).mean()


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
# name of a ratio: (slower, faster); more is better, except that of RMiPO's price
RATIOS = {
    "DPO: TRL / ours": ("trl-dpo", "dpo"),
    "DPO: plain / ours": ("plain-dpo", "dpo"),
    "DPO: separate / shared prompts": ("dpo-separate", "dpo"),
    "SimPO: TRL / ours": ("trl-simpo", "simpo"),
    "RMiPO / SimPO": ("rmipo", "simpo"),
    "K negatives: separate / shared prompts": ("infonca-separate", "infonca"),
}


def contestant(name, case, model, tokenizer, data, folder, device):
    """A trainer that is ready to train, on its own copy of the model."""
    common = dict(
        output_dir=folder,
        max_steps=case.steps,
        per_device_train_batch_size=case.batch,
        learning_rate=RATE,
        seed=0,
        logging_steps=max(1, case.steps // 2),
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=device.type == "cpu",
        bf16=False,
        gradient_checkpointing=False,
        max_length=None,
    )
    given = dict(
        model=copy.deepcopy(model),
        train_dataset=data,
        processing_class=tokenizer,
        peft_config=lora(case.lora) if case.lora else None,
    )
    if name == "trl-dpo":
        from trl import DPOConfig, DPOTrainer

        return DPOTrainer(
            args=DPOConfig(**common, beta=0.1, precompute_ref_log_probs=True), **given
        )
    if name == "trl-simpo":
        from trl.experimental.cpo import CPOConfig, CPOTrainer

        return CPOTrainer(
            args=CPOConfig(
                **common, loss_type="simpo", cpo_alpha=0.0, beta=2.0, simpo_gamma=1.0
            ),
            **given,
        )
    kind = PlainTrainer if name.startswith("plain") else PreferenceTrainer
    loss, kwargs = OURS[name.removeprefix("plain-").removesuffix("-separate")]
    shared = kind is PreferenceTrainer and not name.endswith("-separate")
    return kind(
        args=PreferenceConfig(
            **common,
            loss=loss,
            loss_kwargs=kwargs,
            share_prompts=shared,
            compare_sharing=False,
        ),
        **given,
    )


# ---- the models and the pairs ----


def build(case, device, shapes=SHAPES):
    """(model, tokenizer, pairs as text) of a case: random weights, random words, or the small world's sentences."""
    n = case.batch * case.steps
    if not case.prompt:
        tokenizer = language_model.build_tokenizer()
        model = models.small_model(tokenizer, hidden=256, layers=2, heads=4, inner=256)
        examples, world = population.examples(n, split="mipo", seed=0)[:n], World()
        rng = np.random.default_rng(0)
        said = [
            [
                world.sample(r["task"], population.NOBODY, r["topic"], rng)
                for _ in range(2)
            ]
            for r in examples
        ]
        rows = [
            {
                "prompt": render(tokenizer, r["query"], r["context"]),
                "chosen": a,
                "rejected": b,
            }
            for r, (a, b) in zip(examples, said, strict=True)
        ]
    else:
        hidden, inner, layers, heads, kv, vocabulary = shapes[case.shape]
        words = [f"w{i}" for i in range(min(vocabulary, 16000) - len(models.SPECIAL))]
        tokenizer = models.build_tokenizer([" ".join(words)])
        torch.manual_seed(0)
        with torch.device(device):
            model = Qwen2ForCausalLM(
                Qwen2Config(
                    vocab_size=vocabulary,
                    hidden_size=hidden,
                    intermediate_size=inner,
                    num_hidden_layers=layers,
                    num_attention_heads=heads,
                    num_key_value_heads=kv,
                    max_position_embeddings=4096,
                    tie_word_embeddings=case.shape != "Qwen2.5-7B",
                    eos_token_id=tokenizer.eos_token_id,
                    pad_token_id=tokenizer.pad_token_id,
                    bos_token_id=None,
                )
            ).to(getattr(torch, case.dtype))
        rng = np.random.default_rng(0)

        def text(count):
            return "".join(" " + words[i] for i in rng.integers(len(words), size=count))

        k = case.negatives
        rows = [
            {
                "prompt": text(case.prompt),
                "chosen": text(case.reply - 1),
                "rejected":  # the end of sequence is a token
                text(case.reply - 1)
                if k == 1
                else [text(case.reply - 1) for _ in range(k)],
            }
            for _ in range(n)
        ]
    return model.to(device), tokenizer, Dataset.from_list(rows)


# ---- the clock ----


def measure(case, repetitions, device, *, shapes=SHAPES, bar=None) -> dict:
    """{"seconds": {peer: [per step, each repetition]}, "peak": {peer: bytes}, …} of one case; the first turn is not kept.

    A contestant that needs more memory than there is stands under "failed" and takes no further turns.
    """
    model, tokenizer, data = build(case, device, shapes)
    names, failed = list(case.peers()), []
    seconds, peak = {name: [] for name in names}, {}

    def train(name, clocked):
        gc.collect()  # the trainer before this one is a circle of references
        with tempfile.TemporaryDirectory() as folder, _hushed():
            trainer = contestant(name, case, model, tokenizer, data, folder, device)
            if not clocked:
                return timing.peak_bytes(trainer.train, device)
            begin = time.perf_counter()
            trainer.train()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            return (time.perf_counter() - begin) / case.steps

    for turn in range(-1, repetitions):
        at = max(turn, 0) % len(names)
        for name in [name for name in names[at:] + names[:at] if name not in failed]:
            try:
                found = train(name, turn >= 0)
            except torch.OutOfMemoryError:
                failed.append(name)
                continue
            if turn < 0:
                peak[name] = found
            else:
                seconds[name].append(found)
            if bar:
                bar.update()
    whole = (
        case.prompt and not case.lora
    )  # an adapter spares the gradients of the weights, which the formula counts
    flops = (
        ch12_cost.step_flops(ch12_cost.shape_of(model), "dpo", case.prompt, case.reply)
        if whole
        else None
    )
    return {
        "name": case.name,
        **asdict(case),
        "parameters": model.num_parameters(),
        "failed": failed,
        "peak": peak,
        "seconds": {
            name: times for name, times in seconds.items() if name not in failed
        },
        "flops_per_pair": flops,
        "longest": max(len(tokenizer(row["prompt"])["input_ids"]) for row in data),
    }


@contextlib.contextmanager
def _hushed():
    """Trainers print their logs; the bar is what a reader wants to see."""
    before = os.environ.get("TQDM_DISABLE")
    os.environ["TQDM_DISABLE"] = "1"
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        os.environ.pop("TQDM_DISABLE") if before is None else os.environ.__setitem__(
            "TQDM_DISABLE", before
        )


def ratios(found: dict) -> dict[str, list[float]]:
    """{name: [median, lowest, highest over repetitions]} of the ratios whose contestants took part."""
    s = found["seconds"]
    kept = {
        name: [a / b for a, b in zip(s[slow], s[fast], strict=True)]
        for name, (slow, fast) in RATIOS.items()
        if slow in s and fast in s
    }
    return {name: [statistics.median(v), min(v), max(v)] for name, v in kept.items()}


def memory_ratios(found: dict) -> dict[str, float]:
    """Peak bytes of the first over those of the second, for the same pairs of contestants as in `ratios`."""
    peak = found["peak"]
    return {
        name: peak[slow] / peak[fast]
        for name, (slow, fast) in RATIOS.items()
        if slow in peak and fast in peak
    }


def token_ratio(case: dict) -> float:
    """(K + 1)(P + R) / (P + (K + 1)R): tokens of separate rows over tokens of shared ones."""
    p, r, n = case["prompt"], case["reply"], case["negatives"] + 1
    return n * (p + r) / (p + n * r)


def utilisation(found: dict, device: str) -> float | None:
    """Operations that separate rows would need, per second of our DPO step, over what the device can do; None: unknown.

    The numerator counts a prompt once per reply, as everybody does, so sharing prompts shows as a gain.
    """
    known = [peak for name, peak in PEAK.items() if name.lower() in device]
    if not known or not found["flops_per_pair"] or "dpo" not in found["seconds"]:
        return None
    return (
        found["flops_per_pair"]
        * found["batch"]
        / statistics.median(found["seconds"]["dpo"])
        / known[0]
    )


def device_name(device: torch.device) -> str:
    """cpu-2-threads, nvidia-h200: the kind of device, never the name of a machine."""
    if device.type == "cuda":
        return re.sub(r"[^a-z0-9]+", "-", torch.cuda.get_device_name(device).lower())
    return f"cpu-{torch.get_num_threads()}-threads"


def run(
    cases,
    repetitions: int,
    device: torch.device,
    *,
    shapes=SHAPES,
    progress=True,
    keep=lambda found: None,
) -> dict:
    """The content of results/bench/<device>.json; `keep` is given what there is after each case."""
    kind, done = device_name(device), []
    setting = {
        "device": kind,
        "threads": torch.get_num_threads(),
        "repetitions": repetitions,
        "of": RATIOS,
        **provenance.provenance(),
    }
    with tqdm(
        total=sum(len(c.peers()) for c in cases) * (repetitions + 1),
        unit="run",
        disable=not progress,
    ) as bar:
        for case in cases:
            bar.set_description(case.name)
            found = measure(case, repetitions, device, shapes=shapes, bar=bar)
            found |= {
                "ratios": ratios(found),
                "memory_ratios": memory_ratios(found),
                "mfu": utilisation(found, kind),
            }
            if case.negatives > 1:
                found["token_ratio"] = token_ratio(found)
            done.append(found)
            keep(setting | {"cases": done})
    return setting | {"cases": done}


def main(arguments=None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m mipo_study.bench.speed", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu"
    )
    parser.add_argument(
        "--only", default="", help="only cases whose name holds this text"
    )
    given = parser.parse_args(arguments)
    device = torch.device(given.device)
    cases = [
        case
        for case in (GPU if device.type == "cuda" else CPU)
        if given.only in case.name
    ]
    if not cases or given.repetitions < 1:
        raise SystemExit(
            f"Error: no case holds {given.only!r}, or repetitions={given.repetitions} is below 1"
        )
    folder = (
        files.project_root() / ("runs" if given.only else "results") / "bench"
    )  # a part is not a result
    file = folder / f"{device_name(device)}.json"
    partial = file.with_name(
        file.name + ".partial"
    )  # what is measured survives a crash
    found = run(
        cases,
        given.repetitions,
        device,
        keep=lambda found: files.write_whole(partial, files.dumps(found)),
    )
    if not given.only:
        found["sampling"] = sampling.measure(device)
    files.write_whole(file, files.dumps(found))
    partial.unlink()
    for case in found["cases"]:
        for name, (middle, low, high) in case["ratios"].items():
            sys.stdout.write(
                f"{case['name']:32} {name:40} {middle:6.2f} ({low:.2f} to {high:.2f}), "
                f"memory {case['memory_ratios'][name]:.2f}\n"
            )
    sys.stdout.write(f"-> {file.relative_to(files.project_root())}\n")


if __name__ == "__main__":
    main()
