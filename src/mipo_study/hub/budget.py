"""What a run of a real model will cost, by formula: memory on the card, minutes per kind of GPU, downloads, disk.

Forecasts that no run has been held against yet: good for choosing a card, no promise. Each assumption stands in `ASSUMED`,
each formula at its function; what a run did cost is in its records, and `mipo_study.hub.meter` adds them up while it lasts.
"""

import functools
import re
from dataclasses import dataclass
from pathlib import Path

import torch

from mipo_study.hub import benchmarks, download, recipes

# memory GB, dense bfloat16 TFLOP/s, memory bandwidth GB/s: vendors' data sheets
GPUS = {
    "RTX 3090": (24, 71, 936),
    "RTX 4090": (24, 165, 1008),
    "A10": (24, 125, 600),
    "L40S": (48, 362, 864),
    "A100 40GB": (40, 312, 1555),
    "A100 80GB": (80, 312, 2039),
    "H100": (80, 989, 3350),
    "H200": (141, 989, 4800),
}
ASSUMED = {
    "training_share": 0.35,  # of the peak that training reaches
    "reading_share": 0.4,  # of the bandwidth that sampling reaches, one pass over the weights per token of a batch
    "step_seconds": 0.03,  # that one token of a batch takes at least: layers are started one by one, logits are sorted
    "wishes": 4,  # of a person, each rated by the judge on its own
    "overhead_gb": 2.0,  # CUDA itself, fragmentation, the framework's buffers
    "chunk_gb": 1.0,  # logits, made in chunks (see mipo.logprobs)
    "spare": 0.9,  # share of the card that may be planned with
}
STEPS = ("training", "replies", "scoring", "judging", "harness")
WITHOUT_GPU = 50e6  # parameters of a model that a CPU trains in hours, not weeks
CHECKED_SIZES = {
    "0.5B": 0.494e9,
    "1B": 1.236e9,
    "1.5B": 1.544e9,
    "3B": 3.15e9,
    "7B": 7.62e9,
    "8B": 8.03e9,
    "14B": 14.8e9,
}


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
    name: str = ""
    positions: int | None = None  # the longest context; None: not known

    @classmethod
    def of(cls, folder, name=""):
        """As transformers builds the model, without memory for its weights."""
        from transformers import AutoConfig, AutoModelForCausalLM

        c = AutoConfig.from_pretrained(
            folder, trust_remote_code=False
        ).get_text_config()
        with torch.device("meta"):
            parameters = AutoModelForCausalLM.from_config(
                c, trust_remote_code=False
            ).num_parameters()
        heads = c.num_attention_heads
        head = getattr(c, "head_dim", None) or c.hidden_size // heads
        kv = 2 * (getattr(c, "num_key_value_heads", None) or heads) * head
        return cls(
            parameters,
            c.num_hidden_layers,
            c.hidden_size,
            c.vocab_size,
            kv,
            name or str(folder),
            getattr(c, "max_position_embeddings", None),
        )

    @classmethod
    def named(cls, name):
        """From the size in the name; layers and widths as of Llama and Qwen2.5 models of that size."""
        size = size_in(name)
        if size is None:
            raise ValueError(
                f"{name}: the name says no size such as 1.5B or 135M; download it first, or give a folder"
            )
        hidden = 64 * round((size / 12 / 28) ** 0.5 / 64)
        return cls(
            size, 28, max(hidden, 512), 150_000, max(hidden // 4, 256), str(name)
        )


def size_in(name):
    """Parameters that a name speaks of, None if of none: "…-1.5B-…", "…-135M"; billions go before millions (contexts)."""
    for unit, factor in (("Bb", 1e9), ("Mm", 1e6)):
        found = re.findall(rf"(?<![\w.])(\d+(?:\.\d+)?)[{unit}](?![a-z])", str(name))
        if found:
            return CHECKED_SIZES.get(
                f"{found[-1]}B" if factor == 1e9 else "", float(found[-1]) * factor
            )
    return None


@functools.lru_cache(maxsize=50)
def shape(name, revision="", run_dir=None, *, ask=True):
    """The Shape of a model, by its config.json, which the hub is asked for; by its name without `ask`, or with no answer.

    errors  download.Unavailable where there is no answer and the name says no size
    """
    if not ask:
        return Shape.named(name)
    try:
        return Shape.of(download.config(name, revision, run_dir=run_dir), str(name))
    except (
        download.Unavailable
    ):  # a gated model, no network: what comes next will say so
        if size_in(name) is None:
            raise
        return Shape.named(name)


def training_gb(
    shape, *, lora_rank=0, micro_batch=1, max_length=1024, checkpointing=True, shards=1
):
    r"""GB on one card while training on pairs: weights, gradients, Adam's two moments, activations, logits.

    Full: float32 weights, gradients and moments, 16 bytes per parameter (bfloat16 weights would swallow steps of a small
    learning rate whole). LoRA: bfloat16 weights, 2 bytes per parameter, and 16 bytes per adapter weight, about
    2·7·rank·hidden per layer. Activations in bfloat16, S = 2·micro_batch·max_length tokens: with checkpointing
    2·layers·S·hidden for the kept inputs and 34·S·hidden for the layer at work; without, 34·layers·S·hidden (Korthikanti
    et al., arXiv:2205.05198, without its attention term, which fused kernels do not keep). `shards` cards share the
    weights and what belongs to them; but each holds them whole (4 or 2 bytes) while it scores the reference.
    """
    tokens = 2 * micro_batch * max_length
    adapter = 14 * lora_rank * shape.hidden * shape.layers
    weights = (
        2 * shape.parameters + 16 * adapter if lora_rank else 16 * shape.parameters
    )
    weights = max(weights / shards, (2 if lora_rank else 4) * shape.parameters)
    kept = 2 * shape.layers + 34 if checkpointing else 34 * shape.layers
    return (
        (weights + kept * tokens * shape.hidden) / 1e9
        + ASSUMED["chunk_gb"]
        + ASSUMED["overhead_gb"]
    )


def sampling_gb(shape, *, batch=64, length=1024):
    """GB while sampling in bfloat16: weights, keys and values of `batch` rows of `length` tokens, float64 logits twice."""
    cache = 2 * shape.layers * shape.kv * batch * length
    return (
        2 * shape.parameters + cache + 16 * batch * shape.vocabulary
    ) / 1e9 + ASSUMED["overhead_gb"]


def training_minutes(
    shape, gpu, *, pairs, tokens, epochs=1.0, lora_rank=0, checkpointing=True
):
    """Minutes to train on `pairs` with two replies of `tokens` in all each, at ASSUMED["training_share"] of the peak.

    Operations per token: 2·P forward (again with checkpointing), 2·P backward to activations, 2·P to weights (not for
    LoRA); and the reference's log-probs, 2·P, once.
    """
    per_token = 2 * shape.parameters * (2 + bool(checkpointing) + (not lora_rank))
    total = 2 * pairs * tokens * (epochs * per_token + 2 * shape.parameters)
    return total / (GPUS[gpu][1] * 1e12 * ASSUMED["training_share"]) / 60


def reading_minutes(shape, gpu, *, tokens):
    """Minutes to score tokens, 2·P operations each, at the share of the peak that training reaches."""
    return (
        2
        * shape.parameters
        * tokens
        / (GPUS[gpu][1] * 1e12 * ASSUMED["training_share"])
        / 60
    )


def sampling_minutes(shape, gpu, *, replies, new_tokens, prompt_tokens=0, batch=64):
    """Minutes to read prompts and sample replies, `batch` side by side, each batch until its longest reply is whole.

    A step reads the weights once, at a share of the bandwidth, and takes at least ASSUMED["step_seconds"].
    """
    step = max(
        2 * shape.parameters / (GPUS[gpu][2] * 1e9 * ASSUMED["reading_share"]),
        ASSUMED["step_seconds"],
    )
    return -(-replies // batch) * new_tokens * step / 60 + reading_minutes(
        shape, gpu, tokens=replies * prompt_tokens
    )


@dataclass(frozen=True)
class Work:
    """How much is to be done on one data set: prompts, policies, replies, and how they are scored."""

    kind: str  # people, reasoning or preferences
    n_train: int
    n_test: int
    methods: int
    seeds: int
    new_tokens: int  # of a reply, at most
    prompt_tokens: int = 300
    per_prompt: int = 2  # replies sampled to each training prompt, for the pairs
    contexts: int = 8  # people among whom a reply is told apart
    harness: int = 0  # items of lm-evaluation-harness
    choices: bool = False  # whether those are multiple choice

    @property
    def runs(self):
        return self.methods * self.seeds


def work_of(
    dataset,
    methods=(),
    *,
    n_train,
    n_test,
    seeds,
    shots=8,
    contexts=8,
    harness=0,
    max_new_tokens=0,
):
    """What chapter 15 does with one data set, as Work; where 0 prompts stand for all there are, GSM8K's 7473 and 1319.

    A prompt is taken as 300 tokens, of reasoning as 150 and 60 for each worked example.
    """
    kind = benchmarks.kind_of(dataset)
    arms, choices = recipes.arms(kind, methods), dataset in ("arc-challenge", "mmlu")
    drawn = {recipes.METHODS[kind][arm].negatives for arm in arms} - {
        "random_prompt"
    }  # those need no replies of their own
    length = 300 if kind != "reasoning" else 150 if choices else 150 + 60 * shots
    return Work(
        kind,
        n_train or 7473,
        n_test or 1319,
        len(arms),
        seeds,
        recipes.sampling_of(dataset, max_new_tokens=max_new_tokens)["max_new_tokens"],
        prompt_tokens=length,
        per_prompt=0 if kind == "preferences" else 1 + len(drawn),
        contexts=contexts,
        choices=choices,
        harness=min(harness, n_test or 1319) if kind == "reasoning" else 0,
    )


def minutes(
    work,
    gpu,
    policy,
    judge=None,
    *,
    epochs=1.0,
    lora_rank=0,
    checkpointing=True,
    batch=64,
    score_batch=16,
    cards=1,
):
    """{step: minutes} for each of `STEPS`, on one card but for the training itself; its pairs are counted with it.

    Each seed has its own items, so the base model answers, too, once for each. Loading models is not counted, nor is the
    trial of engines (four times the first two batches at most).
    """
    asked, answered = (
        dict(new_tokens=work.new_tokens, prompt_tokens=work.prompt_tokens, batch=batch),
        work.runs + work.seeds,
    )
    text = (
        work.prompt_tokens + work.new_tokens / 2
    )  # a prompt and a reply of middling length
    pairs = sampling_minutes(
        policy, gpu, replies=work.seeds * work.n_train * work.per_prompt, **asked
    )
    one = training_minutes(
        policy,
        gpu,
        pairs=work.n_train,
        tokens=text,
        epochs=epochs,
        lora_rank=lora_rank,
        checkpointing=checkpointing,
    )
    found = {
        "training": pairs + work.runs * one / cards,
        "replies": sampling_minutes(
            policy, gpu, replies=answered * work.n_test, **asked
        ),
    }
    # people: under the policy itself and under the base, in each of the contexts; preferences: both replies of a pair
    each = {"people": 2 * work.contexts, "preferences": 2, "reasoning": 0}[work.kind]
    found["scoring"] = reading_minutes(
        policy, gpu, tokens=each * answered * work.n_test * text
    )
    found["judging"] = 0.0
    if judge:  # two orders for each run; for people also marks for each wish of each reply, and of the reference replies
        marks = (
            ASSUMED["wishes"] * (answered + work.seeds) if work.kind == "people" else 0
        )
        verdicts = work.n_test * (2 * work.runs + marks)
        found["judging"] = sampling_minutes(
            judge,
            gpu,
            replies=verdicts,
            new_tokens=8,
            batch=score_batch,
            prompt_tokens=work.prompt_tokens + work.new_tokens,
        )
    tested = answered * work.harness
    if work.choices:  # four options, each read after the question
        found["harness"] = reading_minutes(
            policy, gpu, tokens=4 * tested * work.prompt_tokens
        )
    else:  # the harness stops a reply after 256 tokens
        found["harness"] = sampling_minutes(
            policy,
            gpu,
            replies=tested,
            new_tokens=256,
            batch=score_batch,
            prompt_tokens=work.prompt_tokens,
        )
    return found


def forecast(
    work,
    policy,
    judge=None,
    *,
    lora_rank=0,
    micro_batch=1,
    max_length=1024,
    checkpointing=True,
    cards=1,
    shards=1,
    batch=64,
    score_batch=16,
    epochs=1.0,
):
    """{gpu: {"gb", "steps", "minutes", "fits"}} (see `minutes`) and, under "run", what does not depend on the card, GB."""
    train = training_gb(
        policy,
        lora_rank=lora_rank,
        micro_batch=micro_batch,
        max_length=max_length,
        checkpointing=checkpointing,
        shards=shards,
    )
    needs = [
        train,
        sampling_gb(policy, batch=batch, length=work.prompt_tokens + work.new_tokens),
    ]
    needs += [sampling_gb(judge, batch=score_batch, length=1024)] if judge else []
    how = dict(
        epochs=epochs,
        lora_rank=lora_rank,
        checkpointing=checkpointing,
        batch=batch,
        score_batch=score_batch,
        cards=cards,
    )
    steps = {gpu: minutes(work, gpu, policy, judge, **how) for gpu in GPUS}
    table = {
        gpu: {
            "gb": max(needs),
            "steps": steps[gpu],
            "minutes": sum(steps[gpu].values()),
            "fits": max(needs) <= ASSUMED["spare"] * memory,
        }
        for gpu, (memory, *_) in GPUS.items()
    }
    fetched = [s for s in (policy, judge) if s and not Path(s.name).is_dir()]
    saved = (
        14 * lora_rank * policy.hidden * policy.layers * 4
        if lora_rank
        else 2 * policy.parameters
    )
    # while a run lasts: weights and moments, twice, since a checkpoint is whole before the one before it is deleted
    kept = 0 if lora_rank else 2 * 12 * policy.parameters
    return table | {
        "run": {
            "download_gb": sum(2 * s.parameters for s in fetched) / 1e9,
            "gb": max(needs),
            "train_gb": train,
            "results_gb": work.runs * saved / 1e9,
            "checkpoint_gb": kept / 1e9,
        }
    }


def disk_mb(plans, run_dir):
    """MB that the training runs of all plans (see `forecast`) still need, less what an earlier start has left in run_dir."""
    runs, run_dir = [plan["run"] for plan in plans], Path(run_dir)
    whole = sum(r["results_gb"] for r in runs) + max(
        r["checkpoint_gb"] for r in runs
    )  # one run's at a time
    return max(
        0.0,
        1000 * whole
        - download.held(
            *run_dir.glob("records/*train-*-hub*"), run_dir / "checkpoints"
        ),
    )


def card():
    """(name, memory in GB) of the first GPU, or None."""
    if not torch.cuda.is_available():
        return None
    found = torch.cuda.get_device_properties(0)
    return found.name, found.total_memory / 1e9


def check(
    forecast,
    found,
    policy,
    judge=None,
    *,
    lora_rank=0,
    micro_batch=1,
    max_length=1024,
    shards=1,
):
    """TooSmall with advice if the card (name, GB) holds less than the forecast needs, or there is none (None)."""
    fitting = ", ".join(g for g, row in forecast.items() if g in GPUS and row["fits"])
    cards = [f"one of these cards: {fitting}"] if fitting else []
    for shape, without in (
        (policy, '-p model "", to read on'),
        (judge, '-p judge "", to do without one'),
    ):
        if found is None and shape and shape.parameters > WITHOUT_GPU:
            ways = [
                *cards,
                f"a model of at most {WITHOUT_GPU / 1e6:.0f} million parameters",
                without,
            ]
            raise TooSmall(
                f"{shape.name} has {shape.parameters / 1e6:.0f} million parameters, and this machine has no GPU: "
                f"that would take weeks. Ways out: {'; '.join(ways)}"
            )
    need, room = (
        forecast["run"]["gb"],
        ASSUMED["spare"] * found[1] if found else float("inf"),
    )
    if need <= room:
        return
    tight, ways, short = forecast["run"]["train_gb"] > room, [], min(max_length, 1024)
    light = training_gb(policy, lora_rank=16, max_length=short)
    if tight and not lora_rank and light <= room:
        ways.append(f"-p lora_rank 16 (about {light:.0f} GB)")
    small = training_gb(policy, lora_rank=lora_rank, max_length=short, shards=shards)
    if tight and small <= room and (micro_batch > 1 or max_length > 1024):
        ways.append(f"-p micro_batch 1 -p max_length 1024 (about {small:.0f} GB)")
    if not tight:
        ways.append(
            "a smaller judge, or fewer replies side by side (-p sample_batch 16 -p score_batch 4)"
        )
    ways += ["a smaller model, such as Qwen/Qwen2.5-0.5B-Instruct", *cards]
    if tight and shards == 1:
        ways.append("several cards, with -p launch configs/accelerate/fsdp.yaml")
    raise TooSmall(
        f"{policy.name} would need about {need:.0f} GB, and {found[0]} has {found[1]:.0f} GB. Ways out: "
        + "; ".join(ways)
    )


def table(forecast):
    """The forecast as a Markdown table."""
    rows = [
        "| GPU | memory of the card, GB | needed, GB | about minutes |",
        "|---|---|---|---|",
    ]
    for gpu, row in forecast.items():
        if gpu in GPUS:
            minutes = f"{row['minutes']:.0f}" if row["fits"] else "does not fit"
            rows.append(f"| {gpu} | {GPUS[gpu][0]} | {row['gb']:.0f} | {minutes} |")
    return "\n".join(rows)
