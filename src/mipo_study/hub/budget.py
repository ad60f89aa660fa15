"""What training a hub model needs, by formula: memory of the card, downloads, disk.

Good for telling a card that will do from one that will not. Minutes are forecast for a
processor, where they decide whether to begin; what a run has taken stands in its
results.
"""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import psutil
import torch

from mipo.packaged import is_packaged
from mipo_study import tables
from mipo_study.hub import download

# Memory in GB, from the vendors' data sheets.
CARDS = {
    "RTX 3090, RTX 4090, A10": 24,
    "A100 40GB": 40,
    "L40S": 48,
    "A100 80GB, H100": 80,
    "H200": 141,
}
SPARE = 0.9  # share of a card that may be planned with
OVERHEAD_GB = 2.0  # CUDA itself, fragmentation, the framework's buffers
CHUNK_GB = 1.0  # logits, made in chunks (see mipo.logprobs)
SYSTEM_GB = 0.5  # Python and torch, on a machine without a card
PROMPT = 200  # tokens of a prompt, where nothing is known of them
# Share of the speed of a large matrix product that the work reaches on a processor,
# set by eye from runs of a model of 135 million parameters on two cores.
TRAINING_SHARE, SAMPLING_SHARE = 0.6, 0.3
JUDGE_LENGTH = 1024  # tokens of two replies and the question about them
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


# ---- sizes of models ----


@dataclass(frozen=True)
class Shape:
    """Sizes of a decoder-only model.

    Attributes
    ----------
    parameters : float
        How many.
    layers, hidden, vocabulary : int
        Layers, width, tokens.
    kv : int
        Width of keys and values together, per layer.
    name : str
        On the hub, or a folder.
    positions : int, optional
        The longest context; None where it is not known.
    """

    parameters: float
    layers: int
    hidden: int
    vocabulary: int
    kv: int
    name: str = ""
    positions: int | None = None

    @classmethod
    def of(cls, folder: str | Path, name: str = "") -> Shape:
        """From config.json, as transformers builds the model, without its weights.

        Parameters
        ----------
        folder : path
            That holds config.json.
        name : str
            What messages call it; "" is the folder.

        Returns
        -------
        Shape
        """
        from transformers import AutoConfig, AutoModelForCausalLM

        whole = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        config = whole.get_text_config()
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
        heads = config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // heads
        return cls(
            parameters=model.num_parameters(),
            layers=config.num_hidden_layers,
            hidden=config.hidden_size,
            vocabulary=config.vocab_size,
            kv=2 * (getattr(config, "num_key_value_heads", None) or heads) * width,
            name=name or str(folder),
            positions=getattr(config, "max_position_embeddings", None),
        )

    @classmethod
    def named(cls, name: str) -> Shape:
        """From the size in the name; layers and widths as of models of that size.

        Parameters
        ----------
        name : str
            Such as "Qwen/Qwen2.5-1.5B-Instruct".

        Returns
        -------
        Shape

        Raises
        ------
        ValueError
            For a name that says no size.
        """
        size = size_in(name)
        if size is None:
            raise ValueError(
                f"{name}: the name says no size such as 1.5B or 135M; download it "
                "first, or give a folder"
            )
        hidden = 64 * round((size / 12 / 28) ** 0.5 / 64)
        kv = max(hidden // 4, 256)
        return cls(size, 28, max(hidden, 512), 150_000, kv, str(name))


def size_in(name: str) -> float | None:
    """Parameters that a name speaks of: "…-1.5B-…", "…-135M"; None if of none.

    Billions go before millions, which may be the length of a context.
    """
    for unit, factor in (("Bb", 1e9), ("Mm", 1e6)):
        sizes = re.findall(rf"(?<![\w.])(\d+(?:\.\d+)?)[{unit}](?![a-z])", str(name))
        if sizes and factor == 1e9:
            return CHECKED_SIZES.get(f"{sizes[-1]}B", float(sizes[-1]) * factor)
        if sizes:
            return float(sizes[-1]) * factor
    return None


@functools.lru_cache(maxsize=50)
def shape(
    name: str, revision: str = "", run_dir: str | None = None, *, ask: bool = True
) -> Shape:
    """The Shape of a model by its config.json, which the hub is asked for.

    Parameters
    ----------
    name, revision, run_dir
        See `download.config`.
    ask : bool
        Whether to ask; else, and without an answer, it is read from the name.

    Returns
    -------
    Shape

    Raises
    ------
    download.Unavailable
        Where there is no answer and the name says no size.
    """
    if not ask:
        return Shape.named(name)
    try:
        return Shape.of(download.config(name, revision, run_dir=run_dir), str(name))
    except download.Unavailable:  # a gated model, no network: what comes next says so
        if size_in(name) is None:
            raise
        return Shape.named(name)


# ---- memory ----


def training_gb(
    shape: Shape,
    *,
    lora_rank: int = 0,
    micro_batch: int = 1,
    max_length: int = 1024,
    checkpointing: bool = True,
    shards: int = 1,
) -> float:
    r"""GB on one card while training: weights, gradients, Adam, activations, logits.

    Parameters
    ----------
    shape : Shape
        Of the policy.
    lora_rank : int
        0 is full fine-tuning.
    micro_batch : int
        Pairs at once.
    max_length : int
        Tokens of a prompt and its reply.
    checkpointing : bool
        Whether activations are computed again instead of held.
    shards : int
        Cards that share the weights and what belongs to them.

    Returns
    -------
    float

    Notes
    -----
    Full: float32 weights, gradients and two moments, 16 bytes per parameter (bfloat16
    weights would swallow steps of a small learning rate whole). LoRA: bfloat16 weights,
    2 bytes per parameter, and 16 bytes per adapter weight, about 2·7·rank·hidden per
    layer.

    Activations in bfloat16, S = 2·micro_batch·max_length tokens: with checkpointing
    2·layers·S·hidden for the inputs of the layers and 34·S·hidden for the layer at
    work; without, 34·layers·S·hidden (Korthikanti et al., arXiv:2205.05198, without its
    attention term, which fused kernels do not hold).

    While it scores the reference, each card holds the weights whole (4 or 2 bytes).
    """
    tokens = 2 * micro_batch * max_length
    adapter = 14 * lora_rank * shape.hidden * shape.layers
    full = 16 * shape.parameters
    light = 2 * shape.parameters + 16 * adapter
    weights = (light if lora_rank else full) / shards
    whole = (2 if lora_rank else 4) * shape.parameters
    values = 2 * shape.layers + 34 if checkpointing else 34 * shape.layers
    activations = values * tokens * shape.hidden
    return (max(weights, whole) + activations) / 1e9 + CHUNK_GB + OVERHEAD_GB


def sampling_gb(shape: Shape, *, batch: int = 64, length: int = 1024) -> float:
    """GB while sampling in bfloat16: weights, keys and values, float64 logits twice.

    Parameters
    ----------
    shape : Shape
        Of the model.
    batch, length : int
        Rows side by side, and tokens of prompt and reply in each.

    Returns
    -------
    float
    """
    cache = 2 * shape.layers * shape.kv * batch * length
    logits = 16 * batch * shape.vocabulary
    return (2 * shape.parameters + cache + logits) / 1e9 + OVERHEAD_GB


@dataclass(frozen=True)
class Need:
    """What the runs on one data set need, GB.

    Attributes
    ----------
    card : float
        The most that a card holds at once; `training` is that of the training alone.
    download : float
        Weights that are fetched, at most.
    results, checkpoint : float
        Disk for all policies, and for two checkpoints of one run: transformers writes
        the new one before it deletes the old.
    """

    card: float
    training: float
    download: float
    results: float
    checkpoint: float


def need(
    policy: Shape,
    judge: Shape | None = None,
    *,
    runs: int = 1,
    longest: int = 1024,
    lora_rank: int = 0,
    micro_batch: int = 1,
    max_length: int = 1024,
    checkpointing: bool = True,
    shards: int = 1,
    sample_batch: int = 64,
    score_batch: int = 16,
) -> Need:
    """What `runs` trainings of a policy need, with their replies and verdicts.

    Parameters
    ----------
    policy, judge : Shape
        Without a judge, no verdicts.
    runs : int
        Trainings.
    longest : int
        Tokens of a prompt and its sampled reply.
    lora_rank, micro_batch, max_length, checkpointing, shards
        See `training_gb`.
    sample_batch, score_batch : int
        Replies sampled, and texts judged, side by side.

    Returns
    -------
    Need
    """
    training = training_gb(
        policy,
        lora_rank=lora_rank,
        micro_batch=micro_batch,
        max_length=max_length,
        checkpointing=checkpointing,
        shards=shards,
    )
    card = max(training, sampling_gb(policy, batch=sample_batch, length=longest))
    if judge:
        card = max(card, sampling_gb(judge, batch=score_batch, length=JUDGE_LENGTH))
    models = [shape for shape in (policy, judge) if shape]
    fetched = [s for s in models if not (Path(s.name).is_dir() or is_packaged(s.name))]
    adapter = 4 * 14 * lora_rank * policy.hidden * policy.layers
    saved = adapter if lora_rank else 2 * policy.parameters
    checkpoint = 0 if lora_rank else 2 * 12 * policy.parameters
    return Need(
        card=card,
        training=training,
        download=sum(2 * s.parameters for s in fetched) / 1e9,
        results=runs * saved / 1e9,
        checkpoint=checkpoint / 1e9,
    )


def disk_mb(needs: Iterable[Need], run_dir: str | Path) -> float:
    """MB of disk that all training runs still need.

    Parameters
    ----------
    needs : iterable of Need
        One per data set.
    run_dir : path
        What an earlier start has left there is taken off.

    Returns
    -------
    float
    """
    needs, run_dir = list(needs), Path(run_dir)
    results = sum(one.results for one in needs)
    checkpoint = max(one.checkpoint for one in needs)  # one run's at a time
    there = [*run_dir.glob("runs/*train-*-hub*"), run_dir / "checkpoints"]
    return max(0.0, 1000 * (results + checkpoint) - download.held(*there))


# ---- the card that is here ----


def card() -> tuple[str, float] | None:
    """(name, memory in GB) of the first GPU, or None."""
    if not torch.cuda.is_available():
        return None
    gpu = torch.cuda.get_device_properties(0)
    return gpu.name, gpu.total_memory / 1e9


def fitting(gb: float) -> list[str]:
    """Kinds of cards with so much memory to spare."""
    return [name for name, memory in CARDS.items() if gb <= SPARE * memory]


def check(
    wanted: Need,
    here: tuple[str, float] | None,
    policy: Shape,
    judge: Shape | None = None,
    *,
    lora_rank: int = 0,
    micro_batch: int = 1,
    max_length: int = 1024,
    shards: int = 1,
) -> None:
    """Stop before anything is downloaded where the card cannot do it.

    Parameters
    ----------
    wanted : Need
        Of all runs.
    here : (str, float), optional
        Name and GB of the card; None: there is none.
    policy, judge : Shape
        The models.
    lora_rank, micro_batch, max_length, shards
        As wanted, see `training_gb`; they decide on the advice.

    Raises
    ------
    TooSmall
        With advice, if the card holds less than is needed; where there is none, if the
        machine's memory does. How long it will take is no reason: see `minutes`.
    """
    kinds = fitting(wanted.card)
    cards = [f"one of these cards: {', '.join(kinds)}"] if kinds else []
    if here is None:
        _require_memory(wanted, policy, judge, cards)
        return
    name, memory = here
    room = SPARE * memory
    if wanted.card <= room:
        return
    ways = []
    length = min(max_length, 1024)
    tight = wanted.training > room
    light = training_gb(policy, lora_rank=16, max_length=length)
    small = training_gb(policy, lora_rank=lora_rank, max_length=length, shards=shards)
    if tight and not lora_rank and light <= room:
        ways.append(f"-p lora_rank 16 (about {light:.0f} GB)")
    if tight and small <= room and (micro_batch > 1 or max_length > 1024):
        ways.append(f"-p micro_batch 1 -p max_length 1024 (about {small:.0f} GB)")
    if not tight:
        ways.append(
            "a smaller judge, or fewer replies side by side "
            "(-p sample_batch 16 -p score_batch 4)"
        )
    ways += ["a smaller model, such as Qwen/Qwen2.5-0.5B-Instruct", *cards]
    if tight and shards == 1:
        ways.append("several cards, with -p launch configs/accelerate/fsdp.yaml")
    raise TooSmall(
        f"{policy.name} would need about {wanted.card:.0f} GB, and {name} has "
        f"{memory:.0f} GB. Ways out: {'; '.join(ways)}"
    )


def _require_memory(
    wanted: Need, policy: Shape, judge: Shape | None, cards: list[str]
) -> None:
    """TooSmall where a machine without a GPU has too little memory."""
    memory = psutil.virtual_memory().total / 1e9
    # The formulas are those of bfloat16 on a card; a processor holds float32.
    larger = max(shape.parameters for shape in (policy, judge) if shape)
    needed = wanted.card - OVERHEAD_GB + SYSTEM_GB + 2 * larger / 1e9
    if needed <= SPARE * memory:
        return
    smaller = "a smaller model, such as smollm2-135m"
    ways = [*cards, smaller, '-p model "", to read on']
    if judge:
        ways.append('-p judge "", to do without one')
    raise TooSmall(
        f"{policy.name} would need about {needed:.0f} GB, and this machine has no GPU "
        f"and {memory:.0f} GB of memory. Ways out: {'; '.join(ways)}"
    )


# ---- time, on a processor ----


def speed(seconds: float = 0.3) -> float:
    """Operations per second of a large float32 matrix product on this processor.

    Parameters
    ----------
    seconds : float
        How long it is measured.

    Returns
    -------
    float
        With as many threads as torch has now.
    """
    matrix = torch.ones(1024, 1024)
    matrix @ matrix
    begin, done = time.perf_counter(), 0
    while time.perf_counter() - begin < seconds:
        matrix @ matrix
        done += 1
    return 2 * 1024**3 * done / (time.perf_counter() - begin)


def minutes(
    policy: Shape,
    judge: Shape | None = None,
    *,
    operations: float,
    runs: int,
    seeds: int,
    pairs: int,
    tests: int,
    reply: int,
    epochs: float = 1.0,
    contexts: int = 0,
) -> float:
    r"""Minutes that the runs on one data set take without a GPU, roughly.

    Parameters
    ----------
    policy, judge : Shape
        The models.
    operations : float
        Per second, see `speed`.
    runs, seeds : int
        Trainings in all, and base models that are measured too.
    pairs, tests : int
        To train on, and prompts to test on, in each run.
    reply : int
        Tokens of a reply, at most.
    epochs : float
        Passes over the pairs.
    contexts : int
        People among whom a reply is told apart.

    Returns
    -------
    float
        Good for telling minutes from hours from days.

    Notes
    -----
    A token costs 2N operations forward and 4N backward with N parameters. A pair has
    two prompts and two replies, read once more for the reference and once more where
    activations are computed twice: 10N a token. Sampling is slower, since each token
    waits for the one before it.
    """
    n, length = policy.parameters, PROMPT + reply
    training = runs * pairs * epochs * 2 * length * 10 * n
    sampled = seeds * 2 * pairs + (runs + seeds) * tests
    sampling = sampled * length * 2 * n
    # each policy tells replies apart by itself, and the base does it for all
    scoring = (2 * runs + seeds) * tests * contexts * length * 2 * n
    judging = runs * 2 * tests * JUDGE_LENGTH * 2 * judge.parameters if judge else 0.0
    reading = (training + scoring + judging) / TRAINING_SHARE
    return (reading + sampling / SAMPLING_SHARE) / operations / 60


def duration(minutes: float) -> str:
    """Minutes in words, to two digits: "4 minutes", "3.5 hours", "12 days"."""
    if minutes < 1:
        return "less than a minute"
    if minutes < 90:
        return f"{minutes:.0f} minutes"
    hours = minutes / 60
    if hours < 48:
        return f"{hours:.2g} hours"
    return f"{hours / 24:,.0f} days"


def table(wanted: Need) -> str:
    """Which cards hold what is wanted, in Markdown."""
    able = fitting(wanted.card)
    cards = pd.DataFrame({"GPU": list(CARDS), "memory, GB": list(CARDS.values())})
    cards["needed, GB"] = wanted.card
    cards[""] = ["fits" if name in able else "does not fit" for name in CARDS]
    return tables.markdown(cards, {"needed, GB": ".0f"})
