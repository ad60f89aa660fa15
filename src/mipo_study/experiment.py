"""One way to run an experiment in the small world.

Its steps are a base model, pairs, training and evaluation. Each step is a run: made
once for its settings, inputs and code, then found again. `run_many` makes a table of
runs, several at a time, and gives a DataFrame back.

A step is written as ``step(folder, *, progress, **settings)``, which writes files and
returns metrics. It is called as ``step(run_dir, **settings)``, where `run_dir` is where
runs are kept, and gives a `Run`; see `mipo.cache.cached`.
"""

from __future__ import annotations

import itertools
import json
import logging
import math
import multiprocessing
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import forkserver
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mipo import evaluate as statistics
from mipo import jsonl
from mipo.cache import Run, RunFile, cached
from mipo.files import dumps, read_json, write_whole
from mipo.models import load_model, require_finite
from mipo.recipes import RECIPES
from mipo.worlds import population, scoring

if TYPE_CHECKING:
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from mipo.record import Notebook

Example = Mapping[str, Any]
Policy = Run | RunFile | Path | str  # a hub name, if it is a text

# ---- base models and pairs ----


@cached("base-{without}-{seed}")
def base_model(
    folder: Path,
    *,
    seed: int,
    steps: int,
    batch_size: int,
    lr: float,
    without: str = "marginal",
    progress: bool,
) -> dict[str, Any]:
    """Run of a base model of the small world, in `path / "model"`.

    Parameters
    ----------
    seed, steps, batch_size, lr, without
        See `mipo.worlds.language_model.train_base`.

    Returns
    -------
    Run
        Metrics: losses (nats per token, one per step), parameters.
    """
    from mipo.worlds.language_model import train_base

    model, tokenizer, losses = train_base(
        steps=steps,
        batch_size=batch_size,
        lr=lr,
        seed=seed,
        without=without,
        progress=progress,
    )
    save(model, tokenizer, folder)
    return {"losses": losses, "parameters": model.num_parameters()}


def examples_of(
    n_people: int,
    *,
    split: str,
    seed: int,
    per_task: int = 1,
    wordings: str = "seen",
    width: int = 1,
) -> list[dict[str, Any]]:
    """Prompts of n people of a split, each with its person; in lives of `width` places.

    Parameters
    ----------
    n_people : int
        How many people; each asks every task `per_task` times.
    split : str
        "mipo", "select" or "test": no person is in two of them.
    seed : int
        Who they are and what they ask.
    wordings : str
        Question wordings, "seen" or "unseen" in MIPO's pairs.
    width : int
        Places of the world, 1 in the small world itself; see `mipo.worlds.wide`.

    Returns
    -------
    list of dict
        As of `mipo.worlds.population.examples`.
    """
    examples = population.examples(
        n_people, split=split, per_task=per_task, wordings=wordings, seed=seed
    )
    if width == 1:
        return examples
    from mipo.worlds import wide

    return wide.widen(examples, width, split=split, seed=seed)


@cached("pairs-{negatives}-{seed}", inputs=["base", "chosen"])
def make_pairs(
    folder: Path,
    *,
    base: Policy,
    negatives: str,
    seed: int,
    n_people: int,
    per_task: int,
    split: str = "mipo",
    wordings: str = "seen",
    width: int = 1,
    k: int = 1,
    temperature: float = 1.0,
    top_p: float = 1.0,
    max_new_tokens: int = 40,
    chosen: Policy | None = None,
    placebo: bool = False,
    progress: bool,
) -> dict[str, Any]:
    """Run of MIPO's pairs, made by the base model for its own people, in `pairs_file`.

    Parameters
    ----------
    base : Run, path or hub name
        The model that answers.
    negatives, k, temperature, top_p, max_new_tokens
        See `mipo.pairs.synthesise_pairs`.
    n_people, per_task, split, wordings, width
        Who asks what; see `examples_of`.
    seed : int
        People, queries and replies.
    chosen : Run or path, optional
        Pairs of the same prompts whose chosen replies are taken instead of sampled.
    placebo : bool
        Chosen and rejected are assigned by coin.

    Returns
    -------
    Run
        Metrics: pairs, collisions, identical (how many); cut, respelt (shares of
        replies, see `mipo.pairs.shares_of`).
    """
    from mipo.pairs import as_sampled, flip_by_coin, shares_of, synthesise_pairs

    model, tokenizer = load_model(model_folder(base))
    examples = examples_of(
        n_people,
        split=split,
        seed=seed,
        per_task=per_task,
        wordings=wordings,
        width=width,
    )
    replies = None if chosen is None else as_sampled(read_pairs(chosen), "chosen")
    pairs = synthesise_pairs(
        model,
        tokenizer,
        examples,
        negatives=negatives,
        k=k,
        temperature=temperature,
        top_p=top_p,
        max_new_tokens=max_new_tokens,
        seed=seed,
        chosen=replies,
        progress=progress,
    )
    if placebo:
        pairs = flip_by_coin(pairs, seed)
    write_pairs(pairs, folder)
    return {
        "pairs": len(pairs),
        "collisions": int(sum(pairs["collision"])),
        "identical": int(sum(pairs["identical"])),
        **shares_of(pairs),
    }


@cached("preferences-{seed}", inputs=["base"])
def label_pairs(
    folder: Path,
    *,
    base: Policy,
    seed: int,
    n_people: int,
    split: str = "mipo",
    wordings: str = "seen",
    people_seed: int | None = None,
    width: int = 1,
    strength: float = 4.0,
    flips: float = 0.0,
    progress: bool,
) -> dict[str, Any]:
    """Run of labelled preferences between two replies to each prompt, in `pairs_file`.

    Labels are the checker's with Bradley-Terry noise. Columns beside prompt, chosen and
    rejected: the ids that were sampled, the base model's log-probs (ref_chosen_logps
    and ref_rejected_logps, nats, summed over tokens), example (the prompt's index),
    wrong (the label goes against the checker).

    Parameters
    ----------
    base : Run, path or hub name
        The model that answers.
    seed : int
        Replies and labels.
    n_people, split, wordings, people_seed, width
        Who asks what; see `examples_of`. people_seed is `seed` if not given.
    strength, flips
        Of the labels; see `mipo_study.labels.label`.

    Returns
    -------
    Run
        Metrics: pairs; identical (prompts dropped because both replies read the same);
        wrong, tied (shares of labels against the checker, and of pairs between which it
        sees no difference); cut, respelt (shares of replies, see
        `mipo.lm.sampling.shares`).
    """
    from mipo_study import labels

    examples = examples_of(
        n_people,
        split=split,
        seed=seed if people_seed is None else people_seed,
        wordings=wordings,
        width=width,
    )
    model, tokenizer = load_model(model_folder(base))
    rows, metrics = labels.labelled_pairs(
        model,
        tokenizer,
        examples,
        strength=strength,
        flips=flips,
        seed=seed,
        progress=progress,
    )
    write_whole(folder / PAIRS, "".join(json.dumps(row) + "\n" for row in rows))
    return metrics


# ---- training ----


@cached("train-{loss}", inputs=["base", "pairs"], keep=["log.json"])
def train(
    folder: Path,
    *,
    base: Policy,
    pairs: Policy,
    loss: str,
    loss_kwargs: Mapping[str, Any] | None = None,
    lr: float,
    epochs: float = 1.0,
    batch_size: int = 24,
    seed: int = 0,
    lora_rank: int = 0,
    recipe: str = "mipo",
    marginal: str = "policy",
    first_token: str = "start",
    margin_warmup: float = 0.0,
    progress: bool,
) -> dict[str, Any]:
    """Run of one training: the policy is `path / "model"`, its steps are in `read_log`.

    Every method takes the same number of optimiser steps, pairs · epochs / batch_size,
    with the same recipe. A training that diverged is a result too: its metrics are
    {"failed": why}, and it has no model.

    Parameters
    ----------
    base : Run, path or hub name
        The model to start from, which is also the reference.
    pairs : Run or path
        See `make_pairs` and `label_pairs`; or a JSONL file.
    loss, loss_kwargs
        A loss of `mipo.losses` and its keywords, as `methods.setting` gives them; or
        "mi_reward", which samples its own replies to the prompts of the pairs.
    lr : float
        The highest learning rate.
    epochs, batch_size, seed, lora_rank
        Passes over the pairs, pairs per step, order of the pairs, rank of LoRA adapters
        (0: all weights).
    recipe : str
        Of the optimiser: a key of `mipo.recipes.RECIPES`.
    marginal, first_token, margin_warmup
        See `mipo.trainer.PreferenceConfig`.

    Returns
    -------
    Run
        Metrics: steps, first_loss, last_loss; or failed.
    """
    rows = read_pairs(pairs)
    start: dict[str, Any] = {
        "folder": folder,
        "base": base,
        "lr": lr,
        "epochs": epochs,
        "batch_size": batch_size,
        "seed": seed,
        "progress": progress,
    }
    try:
        if loss == "mi_reward":
            return _reinforce(rows.to_list(), **start, **(loss_kwargs or {}))
        return train_on(
            rows,
            **start,
            loss=loss,
            loss_kwargs=loss_kwargs,
            lora_rank=lora_rank,
            recipe=recipe,
            marginal=marginal,
            first_token=first_token,
            margin_warmup=margin_warmup,
        )
    except FloatingPointError as error:
        shutil.rmtree(folder / "trainer", ignore_errors=True)
        return {"failed": str(error)}


def train_on(
    rows: Dataset,
    *,
    folder: Path,
    base: Policy,
    loss: str,
    loss_kwargs: Mapping[str, Any] | None,
    lr: float,
    epochs: float = 1.0,
    batch_size: int = 24,
    seed: int = 0,
    lora_rank: int = 0,
    recipe: str = "mipo",
    progress: bool = True,
    **options: Any,
) -> dict[str, Any]:
    """Train a model on pairs and save it in `folder`; returns the metrics of `train`.

    Parameters
    ----------
    rows : Dataset
        Of pairs, as `mipo.trainer.PreferenceTrainer` reads them.
    folder : Path
        Of the run.
    options
        Of `mipo.trainer.PreferenceConfig`; the others are those of `train`.

    Returns
    -------
    dict

    Raises
    ------
    FloatingPointError
        Where the loss or the weights are no finite numbers.
    """
    from mipo.trainer import PreferenceConfig, PreferenceTrainer

    model, tokenizer = load_model(model_folder(base))
    config = PreferenceConfig(
        output_dir=str(folder / "trainer"),
        loss=loss,
        loss_kwargs=dict(loss_kwargs or {}),
        learning_rate=lr,
        num_train_epochs=epochs,
        per_device_train_batch_size=batch_size,
        seed=seed,
        logging_steps=1,
        disable_tqdm=not progress,
        ref_cache_dir=str(folder.parents[1] / "cache" / "ref-logps"),
        **RECIPES[recipe],
        **options,
    )
    adapters = lora(lora_rank) if lora_rank else None
    trainer = PreferenceTrainer(
        model=model,
        args=config,
        train_dataset=rows,
        processing_class=tokenizer,
        peft_config=adapters,
    )
    trainer.train()
    model = trainer.model.merge_and_unload() if adapters else trainer.model
    shutil.rmtree(folder / "trainer", ignore_errors=True)
    log = [row for row in trainer.state.log_history if "loss" in row]
    require_finite(model, loss, lr)
    save(model, tokenizer, folder, log)
    return _summary(log)


def _reinforce(
    examples: Sequence[Example],
    *,
    folder: Path,
    base: Policy,
    beta: float,
    lr: float,
    epochs: float,
    batch_size: int,
    seed: int,
    progress: bool,
) -> dict[str, Any]:
    from mipo.baselines.pmi_reward import train_mi_reward
    from mipo.baselines.reinforce import ReinforceConfig

    model, tokenizer = load_model(model_folder(base))
    config = ReinforceConfig(
        beta=beta,
        lr=lr,
        steps=math.ceil(len(examples) / batch_size * epochs),
        k=4,  # four replies to each prompt: as many sampled replies as pairs, twice
        batch_size=max(1, batch_size // 4),
        seed=seed,
        progress=progress,
    )
    log = train_mi_reward(model, tokenizer, examples, config)
    require_finite(model, "mi-reward", lr)
    save(model, tokenizer, folder, log)
    return _summary(log)


def lora(rank: int) -> LoraConfig:
    """LoRA on every linear layer, alpha twice the rank."""
    from peft import LoraConfig  # only LoRA needs it

    return LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear")


def _summary(log: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    first, last = log[0]["loss"], log[-1]["loss"]
    return {"steps": len(log), "first_loss": first, "last_loss": last}


# ---- evaluation ----


@cached("evaluate-{split}", inputs=["policy"], keep=["scores.json"])
def evaluate(
    folder: Path,
    *,
    policy: Policy,
    split: str,
    n_people: int,
    seed: int,
    beta: float = 1.0,
    wordings: str = "unseen",
    alpha: float = 0.0,
    progress: bool,
) -> dict[str, Any]:
    """Run of a policy's replies to people of a split, and their exact scores.

    The same seed asks the same people of every policy. Files: `read_replies` gives the
    replies, `read_scores` their scores.

    Parameters
    ----------
    policy : Run, path or hub name
        What answers.
    split, n_people, seed, wordings
        Who asks what; see `examples_of`.
    beta : float
        1/nats; the optimum that `kl` is measured against.
    alpha : float
        Above 0: context-aware decoding against the prompt without its context.

    Returns
    -------
    Run
        Metrics: adherence, valid (shares); kl (nats per reply from the policy to the
        optimum, over valid replies; None where there is none).
    """
    from mipo.worlds.language_model import sample_replies

    model, tokenizer = load_model(model_folder(policy))
    examples = examples_of(n_people, split=split, seed=7000 + seed, wordings=wordings)
    contrast: dict[str, Any] = {}
    if alpha:
        bare = prompts_without_context(tokenizer, examples)
        contrast = {"contrast_prompts": bare, "alpha": alpha}
    replies = sample_replies(
        model, tokenizer, examples, seed=seed, progress=progress, **contrast
    )
    scores = scoring.score(replies, examples)
    _write_replies(folder, replies, examples, scores, tokenizer)
    kl = None
    if scores["valid"].any():
        kl = scoring.kl_to_optimum(model, tokenizer, replies, examples, beta=beta)
    adherence, valid = scores["adherence"].mean(), scores["valid"].mean()
    return {"adherence": float(adherence), "valid": float(valid), "kl": kl}


def _write_replies(
    folder: Path,
    replies: Sequence[str],
    examples: Sequence[Example],
    scores: Mapping[str, np.ndarray],
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    columns = {
        "adherence": scores["adherence"].tolist(),
        "valid": scores["valid"].tolist(),
        "tokens": statistics.token_lengths(replies, tokenizer).tolist(),
    }
    rows = []
    for i, (reply, example) in enumerate(zip(replies, examples, strict=True)):
        marks = {key: columns[key][i] for key in ("adherence", "valid")}
        rows.append({"reply": reply, **example, **marks})
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    write_whole(folder / "replies.jsonl", lines)
    write_whole(folder / "scores.json", dumps(columns))


@cached("score-pairs", inputs=["policy", "pairs"], keep=["gaps.json"])
def score_pairs(
    folder: Path,
    *,
    policy: Policy,
    pairs: Policy,
    first_token: str = "start",
    limit: int = 400,
    progress: bool,
) -> dict[str, Any]:
    """Run of what a policy makes of labelled pairs that it has not seen.

    Parameters
    ----------
    policy : Run, path or hub name
        What scores them.
    pairs : Run or path
        Of `label_pairs`.
    first_token : str
        How the first token counts in PMI; see `mipo.logprobs.response_pmi`.
    limit : int
        So many pairs are scored: the first.

    Returns
    -------
    Run
        `read_gaps` has one number per pair. Metrics: accuracy, ratio_accuracy (shares
        of pairs with a gap above 0, and with a gap above the base model's; labels as
        given); chosen_drift, rejected_drift (mean log-prob less the base model's, nats
        per token).
    """
    from mipo_study import labels

    rows = read_pairs(pairs)
    first = rows.select(range(min(limit, len(rows))))
    model, tokenizer = load_model(model_folder(policy))
    gaps, metrics = labels.gaps(
        model,
        tokenizer,
        first,  # pyrefly: ignore[bad-argument-type]  # its decorators hide the Dataset
        first_token=first_token,
        progress=progress,
    )
    write_whole(folder / "gaps.json", dumps(gaps))
    return metrics


def exact(
    *,
    split: str,
    n_people: int,
    seed: int,
    beta: float | None = None,
    wordings: str = "unseen",
) -> float:
    """Expected adherence of the exact law, or of an optimum, to who asks in `evaluate`.

    Parameters
    ----------
    split, n_people, seed, wordings
        Who asks what, as in `evaluate`.
    beta : float, optional
        1/nats; of the optimum. None: the exact law itself.

    Returns
    -------
    float
        Share of slots.
    """
    examples = examples_of(n_people, split=split, seed=7000 + seed, wordings=wordings)
    return float(scoring.exact_adherence(examples, beta=beta).mean())


# ---- a trial: train, evaluate, score pairs ----


@dataclass(frozen=True)
class Trial:
    """What became of one training.

    A training that diverged answers nothing: its adherence and valid are 0.

    Attributes
    ----------
    policy : Run, path or hub name, or None
        What answered; None where training diverged.
    metrics : dict
        Of `train` and `evaluate`, and of `score_pairs` where pairs were scored.
    scores : dict
        {adherence, valid, tokens}: one number per reply; empty where it diverged.
    gaps : dict
        {gap, ratio_gap, delta_pmi}: one number per pair; empty where none were scored.
    """

    policy: Policy | None
    metrics: dict[str, Any]
    scores: dict[str, list]
    gaps: dict[str, list]

    @property
    def failed(self) -> str:
        """Why training diverged, or an empty text."""
        return self.metrics.get("failed", "")

    def log(self) -> list[dict]:
        """What each training step logged; empty where training diverged."""
        return [] if self.policy is None else read_log(self.policy)


def trial(
    run_dir: str | Path,
    *,
    base: Policy,
    pairs: Policy | None,
    seed: int,
    split: str,
    n_people: int,
    setting: Mapping[str, Any] | None,
    lr: float | None = None,
    epochs: float = 1.0,
    batch_size: int = 24,
    beta: float = 1.0,
    unseen: Policy | None = None,
    progress: bool = True,
) -> Trial:
    """Train on pairs, evaluate on people of a split, score the pairs `unseen` if given.

    Parameters
    ----------
    run_dir : path
        Where runs are kept.
    base, pairs, seed
        See `train`; nothing is read from pairs where setting is None.
    split, n_people
        Who asks; see `evaluate`.
    setting : dict or None
        Keywords of `train`, as `methods.setting` gives them; None: the base as it is.
    lr, epochs, batch_size
        See `train`; a setting may have its own.
    beta : float
        1/nats; the optimum that `kl` is measured against.
    unseen : Run or path, optional
        Labelled pairs that the policy does not train on; see `score_pairs`.
    progress : bool
        Show bars.

    Returns
    -------
    Trial
    """
    policy: Policy = base
    metrics: dict[str, Any] = {}
    if setting is not None:
        common = {"lr": lr, "epochs": epochs, "batch_size": batch_size}
        trained = train(
            run_dir,
            base=base,
            pairs=pairs,
            seed=seed,
            progress=progress,
            **(common | dict(setting)),
        )
        policy, metrics = trained, dict(trained.metrics)
        if "failed" in metrics:
            return Trial(None, metrics | {"adherence": 0.0, "valid": 0.0}, {}, {})
    replies = evaluate(
        run_dir,
        policy=policy,
        split=split,
        n_people=n_people,
        seed=seed,
        beta=beta,
        progress=progress,
    )
    metrics |= replies.metrics
    gaps = {}
    if unseen is not None:
        scored = score_pairs(run_dir, policy=policy, pairs=unseen, progress=progress)
        metrics |= scored.metrics
        gaps = read_gaps(scored)
    return Trial(policy, metrics, read_scores(replies), gaps)


# ---- many runs ----


def compare(
    settings: Mapping[Any, Mapping[str, Any] | None],
    inputs: Mapping[int, Mapping[str, Any]],
    *,
    index: str | Sequence[str] = "method",
    **shared: Any,
) -> pd.DataFrame:
    """Trials of every setting on every seed; see `trial` and `run_many`.

    Parameters
    ----------
    settings : dict
        {name: setting of `trial`}; names are tuples where `index` has several parts.
    inputs : dict
        {seed: keywords of `trial`}: base, pairs and, where pairs are scored, unseen.
    index : str or sequence of str
        What the names are.
    shared : keywords
        run_dir, workers and progress of `run_many`, and the rest of `trial`.

    Returns
    -------
    pandas.DataFrame
        A row per name and seed: the trial's metrics, and the `Trial` itself as `run`.
    """
    calls = {}
    for name, setting in settings.items():
        key = name if isinstance(name, tuple) else (name,)
        for seed, keywords in inputs.items():
            calls[*key, seed] = {"setting": setting, "seed": seed, **keywords}
    names = [index] if isinstance(index, str) else list(index)
    return run_many(trial, calls, index=[*names, "seed"], **shared)


def grid(**columns: Iterable) -> list[tuple]:
    """Every combination of the columns' values, the first column slowest.

    Examples
    --------
    >>> grid(method=["dpo", "rmipo"], seed=[0, 1])
    [('dpo', 0), ('dpo', 1), ('rmipo', 0), ('rmipo', 1)]
    """
    return list(itertools.product(*columns.values()))


def run_many(
    function: Callable[..., Any],
    settings: Mapping[Any, Mapping[str, Any]],
    *,
    run_dir: str | Path,
    index: str | Sequence[str] = "seed",
    workers: int = 1,
    progress: bool = True,
    **shared: Any,
) -> pd.DataFrame:
    """A table of runs, made `workers` at a time; what was made before is found.

    Parameters
    ----------
    function : callable
        A run of this module or of a chapter's, e.g. `train`.
    settings : dict
        {key: keywords} of each call; keys are tuples where `index` has several names.
    run_dir : path
        Where runs are kept.
    index : str or sequence of str
        Names of the keys' parts, which become the table's index.
    workers : int
        Processes of one thread each. Runs side by side show no progress bars.
    shared : keywords
        Of every call.

    Returns
    -------
    pandas.DataFrame
        A row per key: the run's metrics as columns, and the run itself as `run`.
    """
    calls = {
        key: {"run_dir": run_dir, **shared, **keywords}
        for key, keywords in settings.items()
    }
    _side_by_side(function, list(calls.values()), workers)
    runs = [function(**call, progress=progress) for call in calls.values()]
    rows = [{**run.metrics, "run": run} for run in runs]
    names = [index] if isinstance(index, str) else list(index)
    keys = [key if isinstance(key, tuple) else (key,) for key in calls]
    if not keys:
        return pd.DataFrame(rows)
    if len(names) > 1:
        labels = pd.MultiIndex.from_tuples(keys, names=names)
    else:
        labels = pd.Index([key[0] for key in keys], name=names[0])
    return pd.DataFrame(rows, index=labels)


def _side_by_side(
    function: Callable[..., Any], calls: Sequence[dict[str, Any]], workers: int
) -> None:
    """Make the runs of all calls in `workers` processes; the caller then finds them.

    As fast as one process of two threads on two cores; it pays where there are more
    cores than a small model can use. On Linux one server imports everything, once, and
    the processes are forked from it: importing takes as long as a short run. A single
    call is left to the caller; the server imports meanwhile.
    """
    linux = sys.platform == "linux"
    context = multiprocessing.get_context("forkserver" if linux else "spawn")
    if calls and workers > 1 and linux:
        needed = [function.__module__, "mipo_study.experiment", "mipo.trainer"]
        context.set_forkserver_preload(needed)  # heeded the first time
        forkserver.ensure_running()
    if workers > 1 and len(calls) > 1:
        with ProcessPoolExecutor(
            workers, mp_context=context, initializer=_one_thread
        ) as pool:
            for future in [pool.submit(_make, function, call) for call in calls]:
                future.result()


def _one_thread() -> None:
    import torch
    from datasets import disable_progress_bars
    from transformers.utils import logging as their_logging

    torch.set_num_threads(1)
    their_logging.disable_progress_bar()
    disable_progress_bars()
    # Nobody reads a worker's warnings; chapters count what they are about.
    logging.getLogger("mipo").setLevel(logging.ERROR)


def _make(function: Callable[..., Any], call: Mapping[str, Any]) -> None:
    function(**call, progress=False)


# ---- files of runs ----

PAIRS = Path("pairs") / "train.jsonl"


def model_folder(policy: Policy) -> str:
    """Folder or hub name of a run's model, of a folder, or of a name."""
    return str(policy.path / "model" if isinstance(policy, Run) else policy)


def pairs_file(pairs: Policy) -> Path:
    """The JSONL file of a run of pairs; a path stays as it is."""
    return pairs.path / PAIRS if isinstance(pairs, Run) else Path(pairs)


def read_pairs(pairs: Policy) -> Dataset:
    """The pairs of a run or of a JSONL file, as a Dataset."""
    from datasets import Dataset

    return Dataset.from_list(jsonl.rows(pairs_file(pairs)))


def write_pairs(pairs: Dataset, folder: Path) -> None:
    """Write a Dataset of pairs where `read_pairs` finds it."""
    (folder / PAIRS).parent.mkdir(parents=True, exist_ok=True)
    pairs.to_json(folder / PAIRS)


def save(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    log: Sequence[Mapping[str, Any]] | None = None,
) -> None:
    """Save model and tokenizer in `folder / "model"`, and what training logged."""
    for part in (model, tokenizer):
        part.save_pretrained(folder / "model")
    if log is not None:
        write_whole(folder / "log.json", json.dumps(log))


def read_log(policy: Policy) -> list[dict[str, Any]]:
    """What each training step logged."""
    if isinstance(policy, Run):
        return json.loads(policy.read("log.json"))
    return read_json(Path(model_folder(policy)).parent / "log.json")


def read_replies(run: Run) -> list[dict[str, Any]]:
    """The rows of `evaluate`: reply, the example it answers, adherence, valid."""
    return jsonl.rows(run.path / "replies.jsonl")


def read_scores(run: Run) -> dict[str, list]:
    """{adherence, valid, tokens} of `evaluate`, one number per reply."""
    return json.loads(run.read("scores.json"))


def read_gaps(run: Run) -> dict[str, list]:
    """{gap, ratio_gap, delta_pmi, …} of `score_pairs`, one number per pair."""
    return json.loads(run.read("gaps.json"))


def prompts_without_context(
    tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example]
) -> list[str]:
    """The examples' prompts without their context."""
    from mipo.data import render

    return [render(tokenizer, example["query"]) for example in examples]


# ---- what trials are worth ----


def compare_replies(ours: Trial, theirs: Trial) -> dict[str, float]:
    """How often our replies win, tie and lose against theirs to the same prompts.

    Parameters
    ----------
    ours, theirs : Trial
        Of one seed. The higher adherence wins; a reply outside the grammar counts as
        -1. Where ours diverged, it loses every time.

    Returns
    -------
    dict
        win, tie, loss, win_or_tie: shares.
    """
    if not ours.scores:  # diverged: worse than whatever the other says
        return {"win": 0.0, "tie": 0.0, "loss": 1.0, "win_or_tie": 0.0}
    return statistics.win_rate(_worth(ours), _worth(theirs))


def _worth(trial: Trial) -> list[float]:
    adherence, valid = np.array(trial.scores["adherence"]), trial.scores["valid"]
    return np.where(np.array(valid) == 1, adherence, -1.0).tolist()


def tokens_longer(ours: Trial, theirs: Trial) -> float | None:
    """By how many tokens our replies are longer than theirs on average.

    Parameters
    ----------
    ours, theirs : Trial
        Of one seed, so that both answer the same prompts.

    Returns
    -------
    float or None
        None where ours diverged.
    """
    if not ours.scores:
        return None
    return float(np.mean(np.subtract(ours.scores["tokens"], theirs.scores["tokens"])))


def measures(
    trials: Sequence[Trial], starts: Sequence[Trial]
) -> dict[str, tuple[list, str]]:
    """One method's trials beside those of the base model, seed by seed.

    Parameters
    ----------
    trials, starts : sequence of Trial
        Of the method and of the base model, one per seed.

    Returns
    -------
    dict
        {measure: (value per seed, unit)}: adherence, broken; win, tie, loss and longer
        against the base model's replies; and where pairs were scored accuracy,
        ratio-accuracy, chosen-drift, rejected-drift. What a diverged run does not have
        is left out.
    """
    seeds = list(zip(trials, starts, strict=True))
    won = [compare_replies(*pair) for pair in seeds]
    values: dict[str, tuple[list, str]] = {
        "adherence": ([t.metrics["adherence"] for t in trials], "of slots"),
        "broken": ([1 - t.metrics["valid"] for t in trials], "of replies"),
        "win": ([w["win"] for w in won], "of replies"),
        "tie": ([w["tie"] for w in won], "of replies"),
        "loss": ([w["loss"] for w in won], "of replies"),
        "longer": ([tokens_longer(*pair) for pair in seeds], "tokens"),
    }
    for key in ("accuracy", "ratio_accuracy", "chosen_drift", "rejected_drift"):
        unit = "of held-out pairs" if "accuracy" in key else "nats per token"
        column = [t.metrics.get(key) for t in trials]
        values[key.replace("_", "-")] = (column, unit)
    return {key: entry for key, entry in values.items() if None not in entry[0]}


def report(nb: Notebook, name: str, trials: pd.Series, starts: pd.Series) -> None:
    """Keep the `measures` of a method as numbers `<measure>-<name>`; say what diverged.

    Parameters
    ----------
    nb : Notebook
        What keeps the numbers.
    name : str
        Of the method.
    trials, starts : pandas.Series
        Trials of the method and of the base model, by seed.
    """
    beside = measures(trials.to_list(), starts[trials.index].to_list())
    for key, (values, unit) in beside.items():
        nb.number(f"{key}-{name}", values, unit)
    for seed, trial in trials.items():
        if trial.failed:
            nb.say(
                f"**Diverged**: {name}, seed {seed}: {trial.failed}. "
                "It counts as adherence 0."
            )


def pooled_gaps(trials: Iterable[Trial], name: str) -> np.ndarray:
    """One column of the trials' gaps, all seeds in one array; see `Trial.gaps`."""
    return np.array([gap for trial in trials for gap in trial.gaps.get(name, [])])
