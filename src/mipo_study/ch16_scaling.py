"""Models of 0.1 M to 100 M parameters in small worlds of any width, and their runs.

Everything is float32 on every device: the largest model needs no less, and distances of
a hundredth of a nat stay exact.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mipo import models
from mipo.cache import Run, cached
from mipo.data import render
from mipo.logprobs import conditional_pmi, pmi_over_contexts, response_logps
from mipo.world import World
from mipo.worlds import scoring, wide
from mipo.worlds.language_model import sample, sample_replies
from mipo_study import experiment, methods
from mipo_study.ch16_gains import tilted_mean
from mipo_study.experiment import Policy, Trial

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from mipo.numbers import Number

# Chapter 4's share of lessons, their β, and the width of its model.
LESSONS, LESSON_BETA, WIDE = 0.25, 0.25, 256
PROTOCOL = "small-world"
# What this chapter calls its methods, and their entries in the table of methods.
METHODS = {"mipo": "mipo-random", "dpo": "dpo", "rmipo": "rmipo"}


@dataclass(frozen=True)
class Size:
    """Shape of a Llama with heads of 64 and feed-forward layers as wide as the model.

    It has about 7·layers·hidden² parameters.
    """

    hidden: int
    layers: int


SIZES = {
    "0.1M": Size(64, 2),
    "0.3M": Size(128, 2),
    "1M": Size(256, 2),
    "3M": Size(384, 3),
    "10M": Size(576, 4),
    "30M": Size(832, 6),
    "100M": Size(1344, 8),
}
Cell = tuple[str, int]  # size of the model, width of its world


def size_of(name: str) -> Size:
    """The Size of that name.

    Raises
    ------
    ValueError
        For a name that is not in `SIZES`.
    """
    methods.require([name], SIZES, "size")
    return SIZES[name]


def entry(name: str) -> str:
    """A method's entry in the table of methods.

    Raises
    ------
    ValueError
        For a name that this chapter does not train.
    """
    methods.require([name], METHODS, "method")
    return METHODS[name]


def label(name: str) -> str:
    """What readers see: MIPO, or a method whose pairs the checker labelled."""
    return "MIPO" if name == "mipo" else f"{methods.label(entry(name))}, checked"


def is_checked(name: str) -> bool:
    """Whether a method learns from pairs labelled by the checker, not from its own."""
    return methods.METHODS[entry(name)].pairs == "labelled"


def beta_of(name: str) -> float:
    """β of a method, 1/nats."""
    return methods.settings_of(entry(name), PROTOCOL).kwargs["beta"]


def lr_of(name: str) -> float:
    """A method's learning rate at one million parameters."""
    lr = methods.settings_of(entry(name), PROTOCOL).lr
    if lr is None:
        raise ValueError(f"protocol {PROTOCOL!r} sets no learning rate for {name!r}")
    return lr


def cells_of(grid: Iterable[Sequence], names: Collection[str]) -> list[Cell]:
    """Sizes and widths from small to large, narrow worlds first.

    Parameters
    ----------
    grid : iterable of (size, width)
        Keys of `SIZES`, and places of the world.
    names : collection of str
        Keys of `METHODS`.

    Raises
    ------
    ValueError
        For a size, width or method that does not exist, and without mipo.
    """
    cells = [(size, width) for size, width in grid]
    for size, width in cells:
        size_of(size)
        wide.check_width(width)
    methods.require(names, METHODS, "methods")
    if "mipo" not in names:
        raise ValueError(
            f"methods={names}: mipo must be among them, the question is about its gain"
        )
    return sorted(cells, key=lambda cell: (cell[1], size_of(cell[0]).hidden))


def rule(
    name: str, *, lr: float = 1.2e-3, embedding_lr: float = 0.048, init: float = 0.06
) -> dict[str, float]:
    """Learning rates and initial weights of a size, from chapter 4's by μP's rule.

    Parameters
    ----------
    name : str
        The size.
    lr, embedding_lr, init : float
        Chapter 4's: of hidden layers, of embeddings, and standard deviation of the
        initial weights.

    Returns
    -------
    dict
        lr; embedding_rate, how many times as fast embeddings learn; init.

    Notes
    -----
    With h the width of the layers and Adam: lr ∝ 1/h, so that a step moves what a layer
    computes as much at every width; init ∝ 1/√h, so that it starts at one scale;
    embeddings, whose input is one token whatever h, keep their rate. arXiv:2203.03466.
    Not μP's: embeddings, tied to the output, start at 1/√h as well, and no factor
    stands before the output.
    """
    ratio = WIDE / size_of(name).hidden
    return {
        "lr": lr * ratio,
        "embedding_rate": embedding_lr / (lr * ratio),
        "init": init * math.sqrt(ratio),
    }


def carried(lr: float, name: str) -> float:
    """A learning rate chosen at 1 M parameters, for all weights of another size.

    Parameters
    ----------
    lr : float
        The chosen rate.
    name : str
        The size.

    Returns
    -------
    float
        lr · 256/h, to three significant digits.
    """
    return float(f"{lr * WIDE / size_of(name).hidden:.3g}")


def steps_of(width: int, steps: int) -> int:
    """Training steps in a world of this width: `steps` · √width.

    They are the same at every size, so that all models read the same text.
    """
    return round(steps * math.sqrt(width))


def build(
    name: str, width: int, *, seed: int = 0
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model and tokenizer of a size for a world of this width, with random weights."""
    size, tokenizer = size_of(name), wide.build_tokenizer(width)
    model = models.small_model(
        tokenizer,
        hidden=size.hidden,
        layers=size.layers,
        heads=size.hidden // 64,
        inner=size.hidden,
        init=rule(name)["init"],
        max_length=wide.positions(width),
        seed=seed,
    )
    return model, tokenizer


def device_name(device: str | None = None) -> str:
    """What computes: the GPU's name, or "CPU"."""
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return torch.cuda.get_device_name() if str(device).startswith("cuda") else "CPU"


# ---- base models ----


def base_model(
    run_dir: str | Path,
    *,
    size: str,
    width: int,
    seed: int,
    steps: int,
    batch_size: int = 32,
    progress: bool | None = None,
) -> Run:
    """Run of a base model, in `path / "model"`.

    On a CPU, size 1M at width 1 is chapter 4's own base model, and its run.

    Parameters
    ----------
    run_dir : path
        Where runs are kept.
    size, width : str, int
        Of the model and of its world.
    steps : int
        At width 1; see `steps_of`.
    seed, batch_size, progress
        See `experiment.base_model`.

    Returns
    -------
    Run
        Metrics: losses (nats per token, one per step), parameters, device.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    given = {"seed": seed, "batch_size": batch_size, "lr": rule(size)["lr"]}
    if (size, width, device) == ("1M", 1, "cpu"):
        return experiment.base_model(run_dir, steps=steps, progress=progress, **given)
    return _base_model(
        run_dir,
        size=size,
        width=width,
        steps=steps_of(width, steps),
        device=device,
        progress=progress,
        **given,
    )


@cached("base-{size}-{width}-{seed}")
def _base_model(
    folder: Path,
    *,
    size: str,
    width: int,
    seed: int,
    steps: int,
    batch_size: int,
    lr: float,
    device: str,
    progress: bool,
) -> dict[str, Any]:
    model, tokenizer = build(size, width, seed=seed)
    examples, lessons = (
        wide.training_examples(
            World(), tokenizer, width, seed=1000 + seed, sharp=sharp, replies=4
        )
        for sharp in (None, LESSON_BETA)
    )
    losses = models.pretrain(
        model,
        tokenizer,
        examples,
        lessons=lessons,
        lesson_share=LESSONS,
        steps=steps,
        batch_size=batch_size,
        lr=lr,
        embedding_rate=rule(size)["embedding_rate"],
        seed=seed,
        device=device,
        progress=progress,
    )
    experiment.save(model, tokenizer, folder)
    return {
        "losses": losses,
        "parameters": model.num_parameters(),
        "device": device_name(device),
    }


# ---- what a policy knows and could become ----


def examples_of(
    n_people: int, width: int, *, split: str, seed: int, wordings: str = "unseen"
) -> list[dict]:
    """Prompts for policies; a seed asks the same people at every width.

    See `experiment.examples_of`.
    """
    return experiment.examples_of(
        n_people, split=split, seed=seed, wordings=wordings, width=width
    )


@cached("evaluate-{split}-{width}", inputs=["policy"])
def evaluate(
    folder: Path,
    *,
    policy: Policy,
    width: int,
    split: str,
    n_people: int,
    seed: int,
    progress: bool,
) -> dict[str, float]:
    """Run of a policy's exact scores on people of a split.

    Parameters
    ----------
    policy : Run or path
        The model that answers.
    width, split, n_people, seed
        Who asks it, and the replies; see `examples_of`.

    Returns
    -------
    Run
        Metrics: adherence, valid (shares); law_distance: Monte Carlo KL(exact law ‖
        policy), nats per reply, on one reply of the law to each prompt.
    """
    model, tokenizer = models.load_model(experiment.model_folder(policy))
    examples = examples_of(n_people, width, split=split, seed=7000 + seed)
    replies = sample_replies(model, tokenizer, examples, seed=seed, progress=progress)
    scores = scoring.score(replies, examples)
    return {
        "adherence": float(scores["adherence"].mean()),
        "valid": float(scores["valid"].mean()),
        "law_distance": law_distance(model, tokenizer, examples, seed=seed),
    }


def law_distance(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Mapping],
    *,
    seed: int = 0,
) -> float:
    """Monte Carlo KL(exact law ‖ policy), nats per reply.

    Parameters
    ----------
    model, tokenizer
        The policy π.
    examples : sequence of dict
        Of the small world, of any width.
    seed : int
        Of the draws.

    Notes
    -----
    KL(p ‖ π) = E_p[log p(y|x,c) - log π(y|x,c)], over one draw y of the law p per
    example.
    """
    world, rng = World(), np.random.default_rng((seed, 8))
    replies, exact = [], []
    for example in examples:
        person, task = scoring.as_person(example), example["task"]
        replies.append(world.sample(task, person, example["topic"], rng))
        exact.append(world.log_prob(replies[-1], task, person))
    prompts = [render(tokenizer, e["query"], e["context"]) for e in examples]
    logps = response_logps(model, tokenizer, prompts, replies, batch_size=256).summed
    return float(np.mean(np.array(exact) - logps.double().numpy()))


@cached("prospect-{split}-{width}", inputs=["policy"])
def prospect(
    folder: Path,
    *,
    policy: Policy,
    width: int,
    split: str,
    n_people: int,
    seed: int,
    beta: float,
    draws: int = 16,
    contexts: int = 24,
    progress: bool,
) -> dict[str, float]:
    """Run of what a base model could become, at the optimum of its *own* law.

    Each of the people asks each task once. `draws` replies are sampled to each prompt
    and weighted by exp(PMI/β), with PMI under the model against the profiles of
    `contexts` strangers.

    Parameters
    ----------
    policy : Run or path
        The base model.
    width, split, n_people, seed
        Who asks it, and the replies; see `examples_of`.
    beta : float
        1/nats.
    draws, contexts : int
        See above.

    Returns
    -------
    Run
        Metrics: information (nats per reply, too high by what `excess_of_prospect`
        finds), adherence (as sampled), own_optimum (see `ch16_gains.tilted_mean`).
    """
    model, tokenizer = models.load_model(experiment.model_folder(policy))
    examples = examples_of(n_people, width, split=split, seed=7000 + seed)
    profiles = [e["context"] for e in _strangers(contexts, width, split, seed)]
    repeated = [example for example in examples for _ in range(draws)]  # (P·K,)
    replies = sample(model, tokenizer, repeated, seed=1000 + seed, progress=progress)
    texts = [reply.text for reply in replies]
    worth = scoring.score(texts, repeated)["adherence"].reshape(-1, draws)
    ids = [reply.ids for reply in replies]
    pmi = conditional_pmi(
        model, tokenizer, repeated, ids, contexts=profiles, batch_size=512
    )
    pmi = pmi.double().numpy()
    return {
        "information": float(pmi.mean()),
        "adherence": float(worth.mean()),
        "own_optimum": tilted_mean(worth, pmi.reshape(-1, draws), beta),
    }


def _strangers(n: int, width: int, split: str, seed: int) -> list[dict]:
    """One example of each of n people whom `prospect` does not ask."""
    others = examples_of(n, width, split=split, seed=8000 + seed, wordings="seen")
    return list({example["person"]: example for example in others}.values())


def excess_of_prospect(
    *,
    split: str,
    n_people: int,
    seed: int,
    beta: float,
    draws: int = 16,
    contexts: int = 24,
) -> dict[str, float]:
    """By how much `prospect` misses the truth of a model that knows the exact law.

    Parameters
    ----------
    split, n_people, seed, beta, draws, contexts
        See `prospect`; the width is 1.

    Returns
    -------
    dict
        information (nats per reply), own_optimum (of slots): measured less exact.

    Notes
    -----
    The mean over a few strangers is an unbiased estimate of p(y|x), but its logarithm
    is too small on average (Jensen), so information comes out too high; few draws pull
    the optimum towards the plain mean. Both are as large at every width.
    """
    world, rng = World(), np.random.default_rng((seed, 9))
    strangers = [scoring.as_person(e) for e in _strangers(contexts, 1, split, seed)]
    excess = []
    for example in examples_of(n_people, 1, split=split, seed=7000 + seed):
        task, person = example["task"], scoring.as_person(example)
        law, marginal = world.law(task, person), world.marginal(task)
        replies = [law.sample(rng) for _ in range(draws)]
        own = torch.tensor([law.log_prob(reply) for reply in replies])
        laws = [world.law(task, other) for other in strangers]
        under = torch.tensor([[other.log_prob(y) for other in laws] for y in replies])
        pmi = pmi_over_contexts(own, under).numpy()  # (K,), as a model's is measured
        exact = own.numpy() - [marginal.log_prob(reply) for reply in replies]
        slots = law.task.slots
        relevant = [i for i, slot in enumerate(slots) if slot.relevant]
        worth = [
            np.mean([reply[i] == person[slots[i].attribute] for i in relevant])
            for reply in replies
        ]
        goal = world.optimum(task, person, beta).adherence(person)
        excess.append((np.mean(pmi - exact), tilted_mean([worth], [pmi], beta) - goal))
    information, own_optimum = np.array(excess).mean(0).tolist()
    return {"information": information, "own_optimum": own_optimum}


# ---- training on ----


def make_pairs(
    run_dir: str | Path,
    *,
    base: Policy,
    method: str,
    width: int,
    seed: int,
    n_people: int,
    per_task: int,
    placebo: bool = False,
    progress: bool | None = None,
) -> Run:
    """Run of the pairs that a method learns from.

    They are MIPO's own, as in chapter 5, or labelled by the checker, as in chapter 9.

    Parameters
    ----------
    run_dir : path
        Where runs are kept.
    base : Run or path
        The model that answers.
    method : str
        A key of `METHODS`.
    width, n_people, per_task, seed : int
        Who asks what, and the replies; see `experiment.examples_of`.
    placebo : bool
        Chosen and rejected of MIPO's pairs are assigned by coin; checked pairs have no
        placebo.
    progress : bool, optional
        Show bars; None: by hand only, see `mipo.cache.cached`.
    """
    shared = {"base": base, "seed": seed, "n_people": n_people, "width": width}
    if is_checked(method):
        return experiment.label_pairs(run_dir, progress=progress, **shared)
    return experiment.make_pairs(
        run_dir,
        negatives="random_context",
        per_task=per_task,
        placebo=placebo,
        progress=progress,
        **shared,
    )


def trial(
    run_dir: str | Path,
    *,
    base: Policy,
    method: str,
    size: str,
    width: int,
    seed: int,
    split: str,
    n_asked: int,
    n_people: int,
    per_task: int = 4,
    factor: float = 1.0,
    epochs: float = 1.0,
    batch_size: int = 24,
    placebo: bool = False,
    progress: bool | None = None,
) -> Trial:
    """What became of one training run from a base model.

    Parameters
    ----------
    run_dir : path
        Where runs are kept.
    base : Run or path
        The model to start from.
    method : str
        A key of `METHODS`.
    size, width : str, int
        Of the model and of its world.
    seed : int
        Of pairs, training and evaluation.
    n_people, per_task : int
        Who learns: people of the pairs, and queries of each per task.
    split, n_asked : str, int
        Who is asked afterwards.
    factor : float
        The learning rate, times the rule's.
    epochs, batch_size
        See `experiment.train`.
    placebo, progress
        See `make_pairs`.

    Returns
    -------
    Trial
        Metrics of `evaluate`. A run that diverged answers nothing: adherence and valid
        are 0, law_distance is None, and `failed` says why.
    """
    pairs = make_pairs(
        run_dir,
        base=base,
        method=method,
        width=width,
        seed=seed,
        n_people=n_people,
        per_task=per_task,
        placebo=placebo,
        progress=progress,
    )
    policy = experiment.train(
        run_dir,
        base=base,
        pairs=pairs,
        **methods.setting(entry(method), protocol=PROTOCOL),
        lr=carried(factor * lr_of(method), size),
        epochs=epochs,
        batch_size=batch_size,
        seed=seed,
        progress=progress,
    )
    if "failed" in policy.metrics:
        broken = {"adherence": 0.0, "valid": 0.0, "law_distance": None}
        return Trial(None, {**broken, **policy.metrics}, {}, {})
    scores = evaluate(
        run_dir,
        policy=policy,
        width=width,
        split=split,
        n_people=n_asked,
        seed=seed,
        progress=progress,
    )
    return Trial(policy, scores.metrics, {}, {})


# ---- sizes of this run and of committed ones ----


def tag(cell: Cell) -> str:
    """How numbers name a cell: 1M-w1."""
    return f"{cell[0]}-w{cell[1]}"


def cell_of(name: str, what: str) -> Cell | None:
    """The cell that a number `what-<tag>` is about, or None if it is another number."""
    size, _, width = name.removeprefix(f"{what}-").rpartition("-w")
    if name.startswith(f"{what}-") and size in SIZES and width.isdigit():
        return size, int(width)
    return None


class Sizes:
    """Numbers by size and width, of this run and of committed ones.

    Parameters
    ----------
    runs : sequence of (numbers, here)
        {name: Number} of each run, and whether it is this one; later runs win.
    parameters : dict, optional
        {cell: parameters}; read from the runs if not given.
    """

    def __init__(
        self,
        runs: Sequence[tuple[Mapping[str, Number], bool]],
        parameters: Mapping[Cell, float] | None = None,
    ):
        self.runs = list(runs)
        if parameters is None:
            table = self.table("parameters")
            parameters = {cell: number.mean for cell, (number, _) in table.items()}
        self.parameters = dict(parameters)

    def table(self, what: str) -> dict[Cell, tuple[Number, bool]]:
        """{cell: (Number, measured in this run)} of the numbers `what-<tag>`."""
        table = {}
        for numbers, here in self.runs:
            for name, number in numbers.items():
                cell = cell_of(name, what)
                if cell is not None:
                    table[cell] = (number, here)
        return table

    def of_world(self, world: str) -> set[Cell]:
        """The cells of one world.

        Parameters
        ----------
        world : str
            "same": one and the same world; "grows": a world that grows with the model,
            from the smallest model on.
        """
        same = {cell for cell in self.parameters if cell[1] == 1}
        if world == "same":
            return same
        wider = set(self.parameters) - same
        smallest = sorted(same, key=lambda cell: self.parameters[cell])[:1]
        return wider | set(smallest)

    def points(
        self, what: str, world: str = "same"
    ) -> list[tuple[float, list[float], bool]]:
        """What `figures.scaling.by_size` draws of each cell of a world.

        Parameters
        ----------
        what : str
            The number is `what-<tag>`.
        world : str
            See `of_world`.

        Returns
        -------
        list of (parameters, values, here)
            here: measured in this run.
        """
        cells = self.of_world(world)
        return [
            (self.parameters[cell], number.values, here)
            for cell, (number, here) in self.table(what).items()
            if cell in cells
        ]

    def ends(self, what: str, world: str) -> str:
        """Means at the smallest and the largest model of a world, in words."""
        points = sorted(self.points(what, world), key=lambda point: point[0])
        first, last = (np.mean(values) for _, values, _ in (points[0], points[-1]))
        return f"{first:.3f} to {last:.3f}"
