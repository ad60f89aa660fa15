"""Chapter 8: a base model of the word problems, its pairs, a verifier's reward, grades.

Training on pairs is `mipo_study.experiment.train`, as everywhere.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from mipo import logprobs, models
from mipo.baselines.reinforce import ReinforceConfig
from mipo.baselines.verifier import train_verifier
from mipo.cache import Run, cached
from mipo.data import render
from mipo.evaluate.answers import log_odds, majority
from mipo.files import dumps, write_whole
from mipo.lm import sampling
from mipo.pairs import flip_by_coin, shares_of, synthesise_pairs
from mipo.worlds import word_problem_law, word_problems
from mipo.worlds.word_problems import KINDS, TYPES, Problem
from mipo_study import experiment
from mipo_study.experiment import Policy
from mipo_study.methods import METHODS

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Texts = Callable[[np.random.Generator, int], list[tuple[str, str]]]
PARTIAL_SHARE = 0.2  # of training examples lack the sentence of one operand
# Are replies alone, so that the model knows how likely a reply is whatever was asked.
UNPROMPTED_SHARE = 0.06
MAX_NEW_TOKENS = 16
TRAINED = ("sft", "mipo", "mipo-partial")  # on pairs; entries of the table of methods


def negatives_of(name: str) -> str:
    """Whose pairs a method trains on; SFT reads the chosen replies of MIPO's."""
    return METHODS["mipo" if name == "sft" else name].pairs


# ---- base models ----


def training_examples(tokenizer: PreTrainedTokenizerBase, *, replies: int = 4) -> Texts:
    """What the base model is trained on: replies drawn from the exact law.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
        Renders the prompts.
    replies : int
        To each prompt.

    Returns
    -------
    callable
        (rng, n) -> n fresh pairs (prompt, reply).
    """

    def examples(rng: np.random.Generator, n: int) -> list[tuple[str, str]]:
        rows: list[tuple[str, str]] = []
        while len(rows) < n:
            problem, u = word_problems.problem(rng), rng.random()
            hidden = None
            if u < PARTIAL_SHARE:
                hidden = int(rng.integers(len(problem.operands)))
            prompt = render(tokenizer, problem.text(without=hidden))
            if u > 1 - UNPROMPTED_SHARE:
                prompt = tokenizer.eos_token
            for _ in range(replies):
                reply = word_problem_law.sample(problem, rng, without=hidden)
                rows.append((prompt, reply))
        return rows[:n]

    return examples


def lessons(tokenizer: PreTrainedTokenizerBase, *, replies: int = 4) -> Texts:
    """As `training_examples`, for the first steps: multiple choice without errors.

    So letters are looked up early. There is one reply to a prompt and n / `replies`
    prompts: a step sees as many problems as later on.
    """

    def examples(rng: np.random.Generator, n: int) -> list[tuple[str, str]]:
        rows = []
        for _ in range(-(-n // replies)):
            problem = word_problems.problem(rng, choice=True)
            reply = word_problems.write(
                KINDS[problem.kind].operations,
                problem.operands,
                problem.results(),
                problem.gold,
            )
            rows.append((render(tokenizer, problem.text()), reply))
        return rows

    return examples


@torch.no_grad()
def prime(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Let the token of an option, " (B: 12)", start near that of its number.

    Then a result finds its option by likeness, in one layer; separate tokens need two,
    and 600 steps did not teach them.
    """
    weights = cast(torch.Tensor, model.get_input_embeddings().weight)
    numbers = range(word_problems.HIGHEST + 1)
    for letter, number in itertools.product(word_problems.LETTERS, numbers):
        option = word_problems.option(letter, number)
        own = tokenizer.convert_tokens_to_ids(option)
        weights[own] += weights[tokenizer.convert_tokens_to_ids(f" {number}")]


def train_base(
    *,
    steps: int,
    batch_size: int = 64,
    lr: float = 2e-3,
    seed: int = 0,
    hidden: int = 128,
    progress: bool = True,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, list[float]]:
    """A small Llama trained from scratch on the exact law of replies.

    Parameters
    ----------
    steps, batch_size, lr, seed
        See `mipo.models.pretrain`; a quarter of the steps are `lessons`.
    hidden : int
        Width of the model, which has two layers.
    progress : bool
        Show a bar.

    Returns
    -------
    model, tokenizer
    losses : list of float
        Nats per token, one per step.
    """
    tokenizer = word_problems.build_tokenizer()
    model = models.small_model(
        tokenizer,
        hidden=hidden,
        layers=2,
        heads=4,
        inner=2 * hidden,
        max_length=64,
        init=0.06,
        seed=seed,
    )
    prime(model, tokenizer)
    losses = models.pretrain(
        model,
        tokenizer,
        training_examples(tokenizer),
        lessons=lessons(tokenizer),
        steps=steps,
        batch_size=batch_size,
        lr=lr,
        embedding_rate=10.0,
        lesson_share=0.25,
        seed=seed,
        progress=progress,
    )
    return model, tokenizer, losses


@cached("base-sums-{seed}")
def base_model(
    folder: Path,
    *,
    seed: int,
    steps: int,
    batch_size: int = 64,
    lr: float = 2e-3,
    hidden: int = 128,
    progress: bool,
) -> dict[str, Any]:
    """Run of a base model, in `path / "model"`; settings as of `train_base`.

    Returns
    -------
    Run
        Metrics: losses (nats per token, one per step), parameters.
    """
    model, tokenizer, losses = train_base(
        seed=seed,
        steps=steps,
        batch_size=batch_size,
        lr=lr,
        hidden=hidden,
        progress=progress,
    )
    experiment.save(model, tokenizer, folder)
    return {"losses": losses, "parameters": model.num_parameters()}


# ---- pairs ----


def hidden_operand(problems: Sequence[Problem], seed: int) -> list[int]:
    """Which operand each partial prompt hides, drawn once per problem: (n,)."""
    rng = np.random.default_rng((seed, 9))
    return [int(rng.integers(len(problem.operands))) for problem in problems]


def partial_prompts(
    tokenizer: PreTrainedTokenizerBase, problems: Sequence[Problem], seed: int
) -> list[str]:
    """The problems' prompts, each without the sentence of one operand."""
    hidden = hidden_operand(problems, seed)
    return [
        render(tokenizer, problem.text(without=operand))
        for problem, operand in zip(problems, hidden, strict=True)
    ]


@cached("pairs-sums-{negatives}-{seed}", inputs=["base"])
def make_pairs(
    folder: Path,
    *,
    base: Policy,
    negatives: str,
    n_problems: int,
    seed: int,
    placebo: bool = False,
    progress: bool,
) -> dict[str, Any]:
    """Run of MIPO's pairs from a base model's replies at temperature 1.

    They are read by `experiment.read_pairs`.

    Parameters
    ----------
    base : Run, path or hub name
        The model that answers.
    negatives : str
        "random_prompt": the rejected reply answers another problem; "partial": it
        answers the problem with one operand hidden.
    n_problems, seed : int
        Problems of the split "mipo".
    placebo : bool
        Chosen and rejected are assigned by coin.

    Returns
    -------
    Run
        Metrics: pairs, identical (how many); cut, respelt (shares of replies, see
        `mipo.pairs.shares_of`).

    Raises
    ------
    ValueError
        For other negatives.
    """
    if negatives not in ("random_prompt", "partial"):
        raise ValueError(
            f"negatives={negatives!r}: choose 'random_prompt' or 'partial'"
        )
    model, tokenizer = models.load_model(experiment.model_folder(base))
    problems = word_problems.problems(n_problems, split="mipo", seed=seed)
    law: dict[str, Any] = {"negatives": "random_prompt"}
    if negatives == "partial":
        law = {"rejected_prompts": partial_prompts(tokenizer, problems, seed)}
    pairs = synthesise_pairs(
        model,
        tokenizer,
        [word_problems.example_of(problem) for problem in problems],
        max_new_tokens=MAX_NEW_TOKENS,
        seed=seed,
        progress=progress,
        **law,
    )
    pairs = flip_by_coin(pairs, seed) if placebo else pairs
    experiment.write_pairs(pairs, folder)
    identical = int(sum(pairs["identical"]))
    return {"pairs": len(pairs), "identical": identical, **shares_of(pairs)}


# ---- a verifier's reward ----


@cached("train-verifier", inputs=["base"], keep=["log.json"])
def reinforce(
    folder: Path,
    *,
    base: Policy,
    n_problems: int,
    lr: float,
    beta: float,
    epochs: float = 1.0,
    batch_size: int = 8,
    k: int = 4,
    seed: int = 0,
    progress: bool,
) -> dict[str, Any]:
    """Run of training on a verifier's reward; `path / "model"` is the policy.

    A training that diverged is a result too: its metrics are {"failed": why}, and it
    has no model.

    Parameters
    ----------
    base : Run, path or hub name
        The model to start from, which is also the reference.
    n_problems, seed : int
        Problems of the split "mipo".
    lr, beta, batch_size, k
        See `mipo.baselines.verifier.train_verifier`.
    epochs : float
        Passes over the problems.

    Returns
    -------
    Run
        Metrics: steps, first_reward, last_reward (mean share of right replies); or
        failed.
    """
    model, tokenizer = models.load_model(experiment.model_folder(base))
    problems = word_problems.problems(n_problems, split="mipo", seed=seed)
    config = ReinforceConfig(
        beta=beta,
        lr=lr,
        batch_size=batch_size,
        k=k,
        max_new_tokens=16,
        seed=seed,
        steps=round(epochs * len(problems) / batch_size),
        progress=progress,
    )
    try:
        log = train_verifier(model, tokenizer, problems, config)
    except FloatingPointError as error:
        return {"failed": str(error)}
    experiment.save(model, tokenizer, folder, log)
    first, last = log[0]["reward"], log[-1]["reward"]
    return {"steps": len(log), "first_reward": first, "last_reward": last}


# ---- grades ----


@cached("evaluate-sums-{split}", inputs=["policy"], keep=["grades.json"])
def evaluate(
    folder: Path,
    *,
    policy: Policy,
    split: str,
    n_problems: int,
    seed: int,
    k: int = 1,
    temperature: float = 1.0,
    alpha: float = 0.0,
    contrast: str = "alone",
    progress: bool,
) -> dict[str, Any]:
    """Run of k replies to each of n problems of a split, and their `Grades`.

    The same seed asks the same problems of every policy.

    Parameters
    ----------
    policy : Run, path or hub name
        What replies.
    split, n_problems, seed
        See `mipo.worlds.word_problems.problems`.
    k : int
        Replies to each problem.
    temperature : float
        0 is greedy.
    alpha : float
        Above 0: strength of context-aware decoding.
    contrast : str
        What it decodes against: "alone", no prompt, or "partial".

    Returns
    -------
    Run
        Metrics: accuracy, and the share of each type of reply.
    """
    model, tokenizer = models.load_model(experiment.model_folder(policy))
    items = word_problems.problems(n_problems, split=split, seed=seed)
    problems = [problem for problem in items for _ in range(k)]
    against: dict[str, Any] = {}
    if alpha:
        bare = [tokenizer.eos_token] * len(problems)
        if contrast == "partial":
            bare = partial_prompts(tokenizer, problems, seed)
        against = {"alpha": alpha, "contrast_prompts": bare}
    replies = sampling.generate(
        model,
        tokenizer,
        [render(tokenizer, problem.text()) for problem in problems],
        seed=seed,
        max_new_tokens=MAX_NEW_TOKENS,
        temperature=temperature,
        progress=progress,
        **against,
    )
    grades = [
        TYPES.index(word_problems.grade(reply, problem))
        for reply, problem in zip(replies, problems, strict=True)
    ]
    answers = [word_problems.answer_of(reply) for reply in replies]
    rows = {
        "types": np.reshape(grades, (-1, k)).tolist(),
        "answers": [answers[i : i + k] for i in range(0, len(answers), k)],
    }
    write_whole(folder / "grades.json", dumps(rows))
    shares = np.bincount(grades, minlength=len(TYPES)) / len(grades)
    by_type = dict(zip(TYPES, shares.tolist(), strict=True))
    return {"accuracy": float(word_problem_law.accuracy(shares))} | by_type


class Grades:
    """The grades of an `evaluate`, problem by problem.

    Methods take `which`: sort, kind and manner of the problems that count, as in
    `word_problems.Problem.fits`; all of them without.

    Attributes
    ----------
    types : ndarray, shape (n, k)
        Of each reply, as indices into TYPES.
    answers : list
        n lists of k answers.
    problems : list of Problem
    """

    def __init__(self, run: Run, *, split: str, n_problems: int, seed: int):
        rows = json.loads(run.read("grades.json"))
        self.types, self.answers = np.array(rows["types"]), rows["answers"]
        self.problems = word_problems.problems(n_problems, split=split, seed=seed)

    @property
    def correct(self) -> np.ndarray:
        """(n, k) of booleans."""
        return self.types <= TYPES.index("lucky")

    def where(self, **which: str) -> np.ndarray:
        """(n,) of booleans: the problems that count."""
        return np.array([problem.fits(**which) for problem in self.problems])

    def counts(self, **which: str) -> np.ndarray:
        """How many replies are of each type: (8,)."""
        types = self.types[self.where(**which)]
        return np.bincount(types.ravel(), minlength=len(TYPES))

    def shares(self, **which: str) -> np.ndarray:
        """Share of each type: (8,)."""
        counts = self.counts(**which)
        return counts / max(1, counts.sum())

    def accuracy(self, **which: str) -> float:
        """Share of right replies."""
        return float(word_problem_law.accuracy(self.shares(**which)))

    def odds(self, name: str, **which: str) -> float:
        """Log-odds of a right reply against one of type `name`, nats."""
        counts = self.counts(**which)
        right, wrong = counts[TYPES.index("right")], counts[TYPES.index(name)]
        return log_odds(right, wrong, counts.sum())

    def by_problem(self, **which: str) -> np.ndarray:
        """Share of right replies to each problem that counts."""
        return self.correct[self.where(**which)].mean(1)

    def vote(self, **which: str) -> float:
        """Share of the problems whose majority answers right."""
        votes = zip(majority(self.answers), self.problems, strict=True)
        right = [vote == p.gold for vote, p in votes if p.fits(**which)]
        return float(np.mean(right))


def grade_many(
    policies: Mapping[tuple, Policy],
    *,
    run_dir: str | Path,
    split: str,
    n_problems: int,
    workers: int = 1,
    **how: Any,
) -> dict[tuple, Grades]:
    """Grade several policies.

    Parameters
    ----------
    policies : mapping
        {(…, seed): Run or path}; the last part of a key is the seed of its problems.
    run_dir, workers
        See `experiment.run_many`.
    split, n_problems
        See `mipo.worlds.word_problems.problems`.
    how : keywords
        Further settings of `evaluate`.

    Returns
    -------
    dict
        {key: Grades}.
    """
    size: dict[str, Any] = {"split": split, "n_problems": n_problems}
    calls = {key: {"policy": p, "seed": key[-1]} for key, p in policies.items()}
    if not calls:
        return {}
    names = [f"part{i}" for i in range(len(next(iter(calls))))]
    runs = experiment.run_many(
        evaluate,
        calls,
        run_dir=run_dir,
        index=names,
        workers=workers,
        **size,
        **how,
    )
    return {
        key: Grades(run, seed=key[-1], **size)
        for key, run in zip(calls, runs["run"], strict=True)
    }


def search(
    train: Callable[..., Run],
    calls: Mapping[tuple, Mapping[str, Any]],
    *,
    run_dir: str | Path,
    n_problems: int,
    workers: int = 1,
) -> tuple:
    """The setting whose policies answer most problems of "select" right.

    Parameters
    ----------
    train : callable
        `experiment.train` or `reinforce`.
    calls : mapping
        {(*setting, seed): keywords of train}.
    run_dir, workers
        See `experiment.run_many`.
    n_problems : int
        Problems of "select", for each seed.

    Returns
    -------
    tuple
        The best setting, a key without its seed; of equals the first. A run that
        diverged has accuracy 0.
    """
    settings = list(dict.fromkeys(key[:-1] for key in calls))
    if len(settings) == 1:
        return settings[0]
    policies = train_many(train, calls, run_dir=run_dir, workers=workers)
    grades = grade_many(
        policies,
        run_dir=run_dir,
        split="select",
        n_problems=n_problems,
        workers=workers,
    )
    scores: dict[tuple, list[float]] = {setting: [] for setting in settings}
    for key in calls:
        score = grades[key].accuracy() if key in grades else 0.0
        scores[key[:-1]].append(score)
    return max(settings, key=lambda setting: np.mean(scores[setting]))


def train_many(
    train: Callable[..., Run],
    calls: Mapping[tuple, Mapping[str, Any]],
    *,
    run_dir: str | Path,
    workers: int = 1,
    **shared: Any,
) -> dict[tuple, Run]:
    """{key: Run} of trainings; what diverged is left out.

    Parameters
    ----------
    train, calls, run_dir, workers
        As in `search`.
    shared : keywords
        Of every call.
    """
    if not calls:
        return {}
    names = [f"part{i}" for i in range(len(next(iter(calls))))]
    runs = experiment.run_many(
        train, calls, run_dir=run_dir, index=names, workers=workers, **shared
    )
    trained = zip(calls, runs["run"], strict=True)
    return {key: run for key, run in trained if "failed" not in run.metrics}


def relative_gain(before: Sequence[float], after: Sequence[float]) -> list[float]:
    """after / before - 1, seed by seed; 0 where there was nothing before."""
    pairs = zip(before, after, strict=True)
    return [new / old - 1 if old else 0.0 for old, new in pairs]


# ---- the right result, once the right sum is written ----


@cached("score-sums-{split}", inputs=["policy"])
def score_sums(
    folder: Path,
    *,
    policy: Policy,
    split: str,
    n_problems: int,
    seed: int,
    progress: bool,
) -> dict[str, float]:
    """Run of p(every result right | the right sum is written), without sampling.

    Parameters
    ----------
    policy : Run, path or hub name
        What is scored.
    split, n_problems, seed
        See `mipo.worlds.word_problems.problems`.

    Returns
    -------
    Run
        Metrics: open, the mean over the problems that ask for a number. Of those with
        options it would not be the same question: the letter reads the problem again.
    """
    model, tokenizer = models.load_model(experiment.model_folder(policy))
    items = word_problems.problems(n_problems, split=split, seed=seed)
    problems = [problem for problem in items if not problem.options]
    numbers, rows = [], []
    for number, problem in enumerate(problems):
        for row in result_rows(tokenizer, problem):
            numbers.append(number)
            rows.append(row)
    logps = logprobs.score_rows(
        model,
        rows,
        pad_id=tokenizer.pad_token_id,
        batch_size=256,
        progress=progress,
    ).summed
    total = np.exp(np.bincount(numbers, logps.double().numpy()))
    return {"open": float(total.mean())}


def result_rows(
    tokenizer: PreTrainedTokenizerBase, problem: Problem
) -> list[tuple[list[int], list[int]]]:
    """Token ids of each step of the right work.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
        Makes the ids.
    problem : Problem
        What is worked out.

    Returns
    -------
    list of (list of int, list of int)
        (prompt and work up to an equals sign, the right result), one per step.
    """
    prompt, plan = render(tokenizer, problem.text()), KINDS[problem.kind].operations
    work = word_problems.write(plan, problem.operands, problem.results())
    steps = work.split(" = ")  # ["So 7 + 5", "12, 12 - 3", "9"]
    cuts = [" = ".join(steps[: i + 1]) + " =" for i in range(len(plan))]
    return [
        (tokenizer(prompt + cut)["input_ids"], tokenizer(f" {r}")["input_ids"])
        for cut, r in zip(cuts, problem.results(), strict=True)
    ]
