"""Chapter 13, real people's votes: base models, pairs, policies, gains."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mipo import evaluate, models, pairs
from mipo.cache import Run, cached
from mipo.data import render
from mipo.files import dumps, write_whole
from mipo.numbers import Number
from mipo.worlds import polis, votes
from mipo_study import experiment
from mipo_study.experiment import Policy

if TYPE_CHECKING:
    from mipo.record import Notebook

# What a prediction is worth, and in which unit; see `votes.scores`.
METRICS = {"chance": "of votes", "accuracy": "of votes", "log_loss": "nats per vote"}


@functools.lru_cache(maxsize=8)
def town(talk: Path, min_votes: int, split: int) -> votes.Panel:
    """The people of a conversation, divided.

    Parameters
    ----------
    talk : Path
        Folder of a Polis export.
    min_votes : int
        Agree or disagree votes that a statement needs.
    split : int
        Seed of who trains the base model, who MIPO, and who is kept for the test.

    Returns
    -------
    Panel
        See `mipo.worlds.votes.panel`.
    """
    return votes.panel(polis.read(talk), min_votes=min_votes, seed=split)


@cached("polis-base-{split}", inputs=["talk"], keep=["crowd.json", "nobody.json"])
def base_model(
    folder: Path,
    *,
    talk: Path,
    min_votes: int,
    split: int,
    layers: int,
    hidden: int,
    steps: int,
    lr: float,
    progress: bool,
) -> dict[str, Any]:
    """Run of a model that predicts a base person's vote from their other votes.

    Files: model; crowd.json (Q, 2), its mean answer to each statement over the contexts
    of the MIPO people; nobody.json (Q, 2), its answer without a context.

    Parameters
    ----------
    talk, min_votes, split
        See `town`; `split` is also the seed of the model.
    layers, hidden, steps, lr
        Size of the model, its training steps and learning rate.

    Returns
    -------
    Run
        Metrics: loss_at_end (nats per token, mean of 50 steps), parameters.
    """
    world = town(talk, min_votes, split)
    tokenizer = models.build_tokenizer(votes.vocabulary(world))
    model = models.small_model(
        tokenizer, hidden=hidden, layers=layers, heads=4, seed=split
    )
    losses = models.pretrain(
        model,
        tokenizer,
        votes.training_examples(world, tokenizer),
        steps=steps,
        batch_size=64,
        lr=lr,
        seed=split,
        progress=progress,
    )
    experiment.save(model, tokenizer, folder)
    contexts = votes.contexts_of(votes.examples(world, "mipo", seed=split))
    crowd = votes.statement_means(model, tokenizer, world, contexts)
    write_table(folder / "crowd.json", crowd)
    nobody = votes.statement_means(model, tokenizer, world, [""])
    write_table(folder / "nobody.json", nobody)
    loss = float(np.mean(losses[-50:]))
    return {"loss_at_end": loss, "parameters": model.num_parameters()}


@cached("polis-pairs-{seed}", inputs=["talk", "base"])
def make_pairs(
    folder: Path,
    *,
    talk: Path,
    min_votes: int,
    split: int,
    base: Policy,
    seed: int,
    questions: int,
    progress: bool,
) -> dict[str, Any]:
    """Run of MIPO's pairs: `questions` statements are put to each MIPO person.

    Pairs whose two replies are alike are left out: they give no gradient, since their
    log-ratio is zero whatever the model.

    Parameters
    ----------
    talk, min_votes, split
        See `town`.
    base : Run or path
        The model that answers.
    seed : int
        Which statements, and the replies.
    questions : int
        Statements of each person, at most.

    Returns
    -------
    Run
        Pairs as `experiment.read_pairs` finds them. Metrics: prompts, useful (pairs
        that are kept), collisions; cut, respelt (shares of replies, see
        `mipo.pairs.shares_of`).
    """
    world = town(talk, min_votes, split)
    prompts = votes.examples(
        world, "mipo", questions=questions, answered=False, seed=seed
    )
    model, tokenizer = models.load_model(experiment.model_folder(base), device="cpu")
    every = pairs.synthesise_pairs(
        model, tokenizer, prompts, max_new_tokens=2, seed=seed, progress=progress
    )
    useful = every.filter(lambda row: not row["identical"])
    # pyrefly: ignore[bad-argument-type]  # its decorators hide the Dataset
    experiment.write_pairs(useful, folder)
    return {
        "prompts": len(every),
        "useful": len(useful),
        "collisions": int(sum(every["collision"])),
        **pairs.shares_of(every),
    }


@cached("polis-votes-{seed}", inputs=["talk", "base"])
def cast_votes(
    folder: Path,
    *,
    talk: Path,
    min_votes: int,
    split: int,
    base: Policy,
    seed: int,
    questions: int,
    progress: bool,
) -> dict[str, Any]:
    """Run of preferences: a MIPO person's own vote is chosen, the other rejected.

    Parameters
    ----------
    talk, min_votes, split
        See `town`.
    base : Run or path
        The model whose tokenizer writes the prompts.
    seed : int
        Which votes.
    questions : int
        Votes of each person, at most.

    Returns
    -------
    Run
        Pairs as `experiment.read_pairs` finds them. Metrics: pairs.
    """
    from datasets import Dataset

    world = town(talk, min_votes, split)
    _, tokenizer = models.load_model(experiment.model_folder(base), device="cpu")
    rows = []
    for example in votes.examples(world, "mipo", questions=questions, seed=seed):
        prompt = render(tokenizer, example["query"], example["context"])
        [other] = [reply for reply in votes.REPLIES if reply != example["gold"]]
        rows.append({"prompt": prompt, "chosen": example["gold"], "rejected": other})
    experiment.write_pairs(Dataset.from_list(rows), folder)
    return {"pairs": len(rows)}


def held_out(
    talk: Path, min_votes: int, split: int, seed: int
) -> tuple[list[dict], list[dict]]:
    """Eight held-out votes of each person who is kept for the test, or for validation.

    Parameters
    ----------
    talk, min_votes, split
        See `town`.
    seed : int
        Which votes, and the contexts.

    Returns
    -------
    test, validation : list of dict
        See `mipo.worlds.votes.examples`.
    """
    world = town(talk, min_votes, split)
    test = votes.examples(world, "test", seed=1000 + seed)
    return test, votes.examples(world, "validation", seed=2000 + seed)


@cached("polis-{loss}-{seed}", inputs=["talk", "base", "pairs_run"], keep=["test.json"])
def train(
    folder: Path,
    *,
    talk: Path,
    min_votes: int,
    split: int,
    base: Policy,
    pairs_run: Policy,
    seed: int,
    loss: str,
    loss_kwargs: Mapping[str, Any] | None,
    lr: float,
    batch_size: int,
    placebo: bool = False,
    progress: bool,
) -> dict[str, Any]:
    """Run of one pass over pairs with a loss of `mipo.losses`; see `experiment.train`.

    Files: model; test.json (N, 2), the new chances on the test votes.

    Parameters
    ----------
    talk, min_votes, split
        See `town`.
    pairs_run : Run
        Of `make_pairs` or `cast_votes`.
    base, seed, loss, loss_kwargs, lr, batch_size
        See `experiment.train`.
    placebo : bool
        Chosen and rejected are assigned by coin.

    Returns
    -------
    Run
        Metrics: those of `experiment.train`, and validation (mean chance of the right
        vote among validation people).
    """
    rows = experiment.read_pairs(pairs_run)
    metrics = experiment.train_on(
        pairs.flip_by_coin(rows, seed) if placebo else rows,
        folder=folder,
        base=base,
        loss=loss,
        loss_kwargs=loss_kwargs,
        lr=lr,
        batch_size=batch_size,
        seed=seed,
        progress=progress,
        use_cpu=True,
    )
    model, tokenizer = models.load_model(folder / "model", device="cpu")
    test, validation = held_out(talk, min_votes, split, seed)
    write_table(folder / "test.json", votes.vote_probs(model, tokenizer, test))
    chances = votes.vote_probs(model, tokenizer, validation)
    [right] = votes.means([chances], [validation], "chance")
    return metrics | {"validation": right}


def write_table(file: Path, table: np.ndarray) -> None:
    """A table of numbers as JSON, every digit of them."""
    write_whole(file, dumps(table.tolist()))


def read_table(run: Run, name: str) -> np.ndarray:
    """What `write_table` wrote among a run's files."""
    return np.array(json.loads(run.read(name)))


def chances_on_test(runs: Iterable[Run]) -> list[np.ndarray]:
    """The new chances on the test votes, one (N, 2) per run of `train`."""
    return [read_table(run, "test.json") for run in runs]


def report(
    nb: Notebook,
    name: str,
    chances: Sequence[np.ndarray],
    examples: Sequence[Sequence[dict]],
) -> None:
    """Keep the three measures of a predictor as numbers `<metric>-<name>`.

    Parameters
    ----------
    nb : Notebook
        What keeps the numbers.
    name : str
        Of the predictor.
    chances : sequence of ndarray, shape (N, 2)
        Of the two votes, one array per seed.
    examples : sequence of list of dict
        The votes to be predicted, of each seed.
    """
    for metric, unit in METRICS.items():
        values = votes.means(chances, examples, metric)
        nb.number(f"{metric}-{name}".replace("_", "-"), values, unit)


def gains_by_division(
    chances: Mapping[str, Sequence[np.ndarray]],
    arms: Iterable[str],
    examples: Sequence[Sequence[dict]],
    edges: Sequence[float],
    metric: str = "chance",
) -> tuple[list[str], dict[str, np.ndarray]]:
    """Mean gain over the base model, by how divided the base people are.

    Parameters
    ----------
    chances : dict
        {predictor: chances of the two votes, one (N, 2) per seed}; with "base", and
        "majority", whose rows say how large the minority is.
    arms : iterable of str
        Predictors that are compared with "base".
    examples : sequence of list of dict
        The votes to be predicted, of each seed.
    edges : sequence of float
        Of the classes: shares of the minority, from 0 to 0.5.
    metric : str
        See `gain`.

    Returns
    -------
    labels : list of str, length B
        Of the classes in which every seed has a vote to predict; some conversations
        have no such statement.
    gains : dict
        {predictor: gain, shape (B, seeds)}.
    """
    base, count = chances["base"], len(edges) - 1
    kind = [np.digitize(p.min(1), edges[1:-1]) for p in chances["majority"]]
    there = [i for i in range(count) if all((of == i).any() for of in kind)]
    labels = [f"{edges[i]:.0%}–{edges[i + 1]:.0%}" for i in there]
    gains = {
        arm: votes.gain_by(kind, chances[arm], base, examples, metric, count=count)
        for arm in arms
    }
    return labels, {arm: values[there] for arm, values in gains.items()}


def percent(number: Number) -> str:
    """A share as a percentage, with its interval where it has one."""
    if number.low is None or number.high is None:
        return f"{number.mean:.1%}"
    return f"{number.mean:.1%} [{number.low:.1%}, {number.high:.1%}]"


def gain(
    ours: Sequence[np.ndarray],
    theirs: Sequence[np.ndarray],
    examples: Sequence[Sequence[dict]],
    metric: str,
) -> dict[str, Any]:
    """Mean gain of `ours` over `theirs`, positive is better, with its interval.

    Parameters
    ----------
    ours, theirs : sequence of ndarray, shape (N, 2)
        Chances of the two votes, one array per seed.
    examples : sequence of list of dict
        The votes to be predicted, of each seed.
    metric : str
        "chance", "accuracy" or "log_loss"; see `votes.scores`.

    Returns
    -------
    dict
        Keywords of a claim's part: value, interval, unit.

    Notes
    -----
    Seeds and people are resampled, each person whole: the same people answer under
    every seed, so their noise does not average out over seeds.
    """
    sign = -1 if metric == "log_loss" else 1
    sides = []
    for chances in (ours, theirs):
        by_seed = zip(chances, examples, strict=True)
        scores = [sign * votes.scores(*seed)[metric] for seed in by_seed]
        sides.append(np.concatenate(scores))
    seeds = np.concatenate([np.full(len(some), i) for i, some in enumerate(examples)])
    people = np.array([example["person"] for some in examples for example in some])
    value, low, high = evaluate.paired_bootstrap(*sides, clusters=[seeds, people])
    return {"value": value, "interval": (low, high), "unit": METRICS[metric]}
