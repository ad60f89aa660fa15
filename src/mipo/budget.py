"""What a run of a real model will cost, by formula: memory on the card, minutes per kind of GPU, downloads, disk.

Forecasts, not measurements: expect them within a factor of two. Each assumption stands in `ASSUMED`, each formula at its
function; what a run did cost is in its records.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path

# memory GB, dense bfloat16 TFLOP/s, memory bandwidth GB/s: vendors' data sheets
GPUS = {"RTX 3090": (24, 71, 936), "RTX 4090": (24, 165, 1008), "A10": (24, 125, 600),
        "L40S": (48, 362, 864), "A100 40GB": (40, 312, 1555), "A100 80GB": (80, 312, 2039), "H100": (80, 989, 3350),
        "H200": (141, 989, 4800)}
ASSUMED = {
    "training_share": 0.35,   # of the peak that training reaches
    "reading_share": 0.4,     # of the bandwidth that sampling reaches, one pass over the weights per token of a batch
    "overhead_gb": 2.0,       # CUDA itself, fragmentation, the framework's buffers
    "chunk_gb": 1.0,          # logits, made in chunks (see mipo.logprobs)
    "spare": 0.9,             # share of the card that may be planned with
}
CHECKED_SIZES = {"0.5B": 0.494e9, "1B": 1.236e9, "1.5B": 1.544e9, "3B": 3.15e9, "7B": 7.62e9, "8B": 8.03e9, "14B": 14.8e9}


class TooSmall(ValueError):
    """The card is too small for this run, with what would fit."""


@dataclass(frozen=True)
class Shape:
    """Sizes of a decoder-only model; `of` reads them from config.json, `named` guesses them from a name such as …-1.5B-…"""

    parameters: float
    layers: int
    hidden: int
    vocabulary: int
    kv: int  # width of keys and values together, per layer

    @classmethod
    def of(cls, folder):
        c = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
        heads = c["num_attention_heads"]
        head = c.get("head_dim") or c["hidden_size"] // heads
        kv = 2 * c.get("num_key_value_heads", heads) * head
        layer = 2 * heads * head * c["hidden_size"] + kv * c["hidden_size"] + 3 * c["hidden_size"] * c["intermediate_size"]
        layer += 2 * c["hidden_size"] + (kv + heads * head if c.get("model_type") == "qwen2" else 0)  # norms, Qwen2's biases
        table = c["vocab_size"] * c["hidden_size"] * (1 if c.get("tie_word_embeddings") else 2)
        total = c["num_hidden_layers"] * layer + table + c["hidden_size"]
        return cls(total, c["num_hidden_layers"], c["hidden_size"], c["vocab_size"], kv)

    @classmethod
    def named(cls, name):
        """From the size in the name; layers and widths as of Llama and Qwen2.5 models of that size."""
        found = re.findall(r"(?<![\w.])(\d+(?:\.\d+)?)[Bb](?![a-z])", str(name))
        if not found:
            raise ValueError(f"{name}: the name says no size such as 1.5B; download it first, or give a folder")
        size = CHECKED_SIZES.get(f"{found[-1]}B", float(found[-1]) * 1e9)
        hidden = 64 * round((size / 12 / 28)**0.5 / 64)
        return cls(size, 28, max(hidden, 512), 150_000, max(hidden // 4, 256))


def shape(name):
    return Shape.of(name) if (Path(name) / "config.json").is_file() else Shape.named(name)


def training_gb(shape, *, lora_rank=0, micro_batch=1, max_length=1024, checkpointing=True):
    r"""GB on one card while training on pairs: weights, gradients, Adam's two moments, activations, logits.

    Full: float32 weights, gradients and moments, 16 bytes per parameter (bfloat16 weights would swallow steps of a small
    learning rate whole). LoRA: bfloat16 weights, 2 bytes per parameter, and 16 bytes per adapter weight, about
    2·7·rank·hidden per layer. Activations in bfloat16, S = 2·micro_batch·max_length tokens: with checkpointing
    2·layers·S·hidden for the kept inputs and 34·S·hidden for the layer at work; without, 34·layers·S·hidden (Korthikanti
    et al., arXiv:2205.05198, without its attention term, which fused kernels do not keep).
    """
    tokens = 2 * micro_batch * max_length
    adapter = 14 * lora_rank * shape.hidden * shape.layers
    weights = 2 * shape.parameters + 16 * adapter if lora_rank else 16 * shape.parameters
    kept = 2 * shape.layers + 34 if checkpointing else 34 * shape.layers
    return (weights + kept * tokens * shape.hidden) / 1e9 + ASSUMED["chunk_gb"] + ASSUMED["overhead_gb"]


def sampling_gb(shape, *, batch=64, length=1024):
    """GB while sampling in bfloat16: weights, keys and values of `batch` rows of `length` tokens, float64 logits twice."""
    cache = 2 * shape.layers * shape.kv * batch * length
    return (2 * shape.parameters + cache + 16 * batch * shape.vocabulary) / 1e9 + ASSUMED["overhead_gb"]


def training_minutes(shape, gpu, *, pairs, tokens, epochs=1.0, lora_rank=0, checkpointing=True):
    """Minutes to train on `pairs` with two replies of `tokens` in all each, at ASSUMED["training_share"] of the peak.

    Operations per token: 2·P forward (again with checkpointing), 2·P backward to activations, 2·P to weights (not for
    LoRA); and the reference's log-probs, 2·P, once.
    """
    per_token = 2 * shape.parameters * (2 + bool(checkpointing) + (not lora_rank))
    total = 2 * pairs * tokens * (epochs * per_token + 2 * shape.parameters)
    return total / (GPUS[gpu][1] * 1e12 * ASSUMED["training_share"]) / 60


def sampling_minutes(shape, gpu, *, replies, new_tokens, batch=64):
    """Minutes to sample replies, `batch` side by side: each step reads the weights once, at a share of the bandwidth."""
    steps = -(-replies // batch) * new_tokens
    return steps * 2 * shape.parameters / (GPUS[gpu][2] * 1e9 * ASSUMED["reading_share"]) / 60


def forecast(name, *, judge="", n_train, n_test, methods, seeds, new_tokens, prompt_tokens=300, negatives_sampled=True,
             lora_rank=0, micro_batch=1, max_length=1024, checkpointing=True, epochs=1.0, batch=64):
    """{gpu: {"gb", "minutes", "fits"}} and, under "run", what does not depend on the card: downloads and disk, GB."""
    policy, table = shape(name), {}
    train = training_gb(policy, lora_rank=lora_rank, micro_batch=micro_batch, max_length=max_length,
                        checkpointing=checkpointing)
    needs = [train, sampling_gb(policy, batch=batch, length=prompt_tokens + new_tokens)]
    judged = shape(judge) if judge else None
    if judged:
        needs.append(sampling_gb(judged, batch=32, length=1024))
    for gpu, (memory, *_) in GPUS.items():
        minutes = sampling_minutes(policy, gpu, replies=seeds * (n_train * (1 + negatives_sampled) + n_test * (1 + methods)),
                                   new_tokens=new_tokens, batch=batch)
        minutes += seeds * methods * training_minutes(policy, gpu, pairs=n_train, tokens=prompt_tokens + new_tokens / 2,
                                                      epochs=epochs, lora_rank=lora_rank, checkpointing=checkpointing)
        if judged:
            minutes += sampling_minutes(judged, gpu, replies=4 * seeds * methods * n_test, new_tokens=8, batch=32)
        table[gpu] = {"gb": max(needs), "minutes": minutes, "fits": max(needs) <= ASSUMED["spare"] * memory}
    weights = [s for s, n in ((policy, name), (judged, judge)) if s and not Path(n).is_dir()]
    saved = 14 * lora_rank * policy.hidden * policy.layers * 4 if lora_rank else 2 * policy.parameters
    kept = 0 if lora_rank else 12 * policy.parameters  # a checkpoint holds weights and moments
    return table | {"run": {"download_gb": sum(2 * s.parameters for s in weights) / 1e9,
                            "disk_gb": (seeds * methods * saved + kept) / 1e9, "gb": max(needs), "train_gb": train}}


def card():
    """(name, memory in GB) of the first GPU, or None."""
    import torch

    if not torch.cuda.is_available():
        return None
    found = torch.cuda.get_device_properties(0)
    return found.name, found.total_memory / 1e9


def check(name, forecast, found, *, lora_rank=0, micro_batch=1, max_length=1024):
    """TooSmall with advice if the card (name, GB) holds less than the forecast needs; nothing for found=None (CPU)."""
    need = forecast["run"]["gb"]
    if found is None or need <= ASSUMED["spare"] * found[1]:
        return
    policy, ways = shape(name), []
    room = ASSUMED["spare"] * found[1]
    light = training_gb(policy, lora_rank=16, micro_batch=1, max_length=min(max_length, 1024))
    tight = forecast["run"]["train_gb"] > room
    if tight and not lora_rank and light <= room:
        ways.append(f"-p lora_rank 16 (about {light:.0f} GB)")
    small = training_gb(policy, lora_rank=lora_rank, micro_batch=1, max_length=min(max_length, 1024))
    if tight and small <= room and (micro_batch > 1 or max_length > 1024):
        ways.append(f"-p micro_batch 1 -p max_length 1024 (about {small:.0f} GB)")
    if not tight:
        ways.append("a smaller judge, or fewer replies side by side (-p sample_batch 16)")
    ways.append("a smaller model, such as Qwen/Qwen2.5-0.5B-Instruct")
    fitting = [g for g, row in forecast.items() if g in GPUS and row["fits"]]
    if fitting:
        ways.append(f"one of these cards: {', '.join(fitting)}")
    ways.append("several cards, with -p launch configs/accelerate/fsdp.yaml")
    raise TooSmall(f"{name} would need about {need:.0f} GB, and {found[0]} has {found[1]:.0f} GB. Ways out: "
                   + "; ".join(ways))


def table(forecast):
    """The forecast as a Markdown table."""
    rows = ["| GPU | memory of the card, GB | needed, GB | about minutes |", "|---|---|---|---|"]
    for gpu, row in forecast.items():
        if gpu in GPUS:
            minutes = f"{row['minutes']:.0f}" if row["fits"] else "does not fit"
            rows.append(f"| {gpu} | {GPUS[gpu][0]} | {row['gb']:.0f} | {minutes} |")
    return "\n".join(rows)
