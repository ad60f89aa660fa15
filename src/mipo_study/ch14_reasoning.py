"""Chapter 14, reasoning: what policies have right that learn from their own replies.

Word problems (SVAMP) and multiple choice (MMLU) are asked of a small model, near its
floor. Items, prompts and answers are those of chapter 15 (`mipo_study.hub.answers`), a
reply ends where lm-evaluation-harness ends it, and multiple choice is its task too. A
`trial` trains a policy, asks it, and lets the weights go.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from scipy.special import ndtri

from mipo import jsonl
from mipo.cache import Run, cached
from mipo.evaluate import wilson_interval
from mipo.files import digest, dumps, lines, write_whole
from mipo.lm import sampling
from mipo.lm.prompts import render, render_messages
from mipo.lm.row_scores import score_rows
from mipo.lm.sampling import Reply
from mipo.lm.tokens import encode_many
from mipo.models import load_model
from mipo.pairs import flip_by_coin, shares_of, synthesise_pairs
from mipo_study import ch14_found, ch14_real_model, ch14_wishes, experiment, methods
from mipo_study.experiment import Policy
from mipo_study.hub import answers, benchmarks, protocol, runs, scores

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from mipo.numbers import Number
    from mipo.record import Notebook

Item = Mapping[str, Any]
Gain = tuple[float, float, float]  # value, low, high

TASKS = {"svamp": "SVAMP (word problems)", "mmlu": "MMLU (multiple choice)"}
SHOTS = 4  # worked examples before a word problem; see the notes of `solve`
TOKENS = 64  # of a reply, at most
# Where the harness ends a reply: what follows is a question that the model invents.
ENDS = ("New question:", "Question:")
BATCH = 64  # replies sampled, or rows scored, at a time
PAIRS_PER_STEP = 8
LORA_RANK = 16
RATE = 2e-4  # of training on word problems
SELECT = 100  # word problems set apart, on which settings may be tried
SHOWN = 6  # replies whose text is kept
CHANCE = {"mmlu": ", a guess 25%"}
LARGEST = 0.2  # gain in accuracy that the paper reports, as a share of the base's
ARMS = {
    "wishes": "MIPO on wishes",
    "wishes-placebo": "placebo on wishes",
    "problems": "MIPO on word problems",
    "problems-placebo": "placebo on word problems",
}


# ---- questions ----


@cached("reasoning-questions")
def draw(
    folder: Path, *, n_svamp: int, n_mmlu: int, split: str = "test", progress: bool
) -> dict[str, Any]:
    """Run of the questions that are asked, and of those that may be learned from.

    Parameters
    ----------
    n_svamp, n_mmlu : int
        How many word problems and how many multiple choices are asked.
    split : str
        "test", or "select" for word problems set apart.

    Returns
    -------
    Run
        Files: test.jsonl, the questions; train.jsonl, further word problems. Metrics:
        svamp, mmlu, train (how many of each), left_out (word problems whose gold answer
        is wrong), overlap (share of the tested word problems that have eight words in a
        row in common with one to learn from), digest.

    Notes
    -----
    Questions are drawn by a digest of what they ask, so their order in a file does not
    matter: SVAMP as published and as the hub has it give the same ones. Word problems
    about the same thing, which begin alike, are drawn together.
    """
    known = pool("svamp")
    problems = [item for item in known if not _known_wrong(item)]
    first, rest = problems[:n_svamp], problems[n_svamp:]
    apart, train = rest[:SELECT], rest[SELECT:]
    chosen = first if split == "test" else apart
    choices = pool("mmlu")[:n_mmlu] if split == "test" else []
    test = [*chosen, *choices]
    write_whole(folder / "test.jsonl", lines(test))
    write_whole(folder / "train.jsonl", lines(train))
    learned, tested = ([item["query"] for item in part] for part in (train, chosen))
    return {
        "svamp": len(chosen),
        "mmlu": len(test) - len(chosen),
        "train": len(train),
        "left_out": len(known) - len(problems),
        "overlap": answers.overlap(learned, tested)["phrases"],
        "digest": digest(test),
    }


def pool(name: str) -> list[dict[str, Any]]:
    """All questions of a data set that are tested or learned from, in a fixed order.

    Parameters
    ----------
    name : str
        "svamp" (both of its parts) or "mmlu" (its test part). Read from ``MIPO_DATA``
        where it is there, else from the hub at the pinned commit.

    Returns
    -------
    list of dict
        As of `hub.answers.items`; the id says what is asked, not where it stood.

    Raises
    ------
    download.Unavailable
        Where the files cannot be had.
    """
    rows, _ = benchmarks.fetch(name, _folder(name))
    parts = ("train", "test") if name == "svamp" else ("test",)
    items = [item for part in parts for item in answers.items(name, rows[part], part)]
    named = {_name(item): {**item, "id": _name(item)} for item in items}
    return sorted(named.values(), key=lambda item: (_topic(item), item["id"]))


def at_hand() -> bool:
    """Whether all questions are in ``MIPO_DATA``, so that nothing is downloaded."""
    return all(_folder(name) for name in TASKS)


def _folder(name: str) -> str:
    """``MIPO_DATA`` where it has the data set as published; else ""."""
    root = os.environ.get("MIPO_DATA", "")
    return root if root and answers.is_raw(name, root) else ""


def _topic(item: Item) -> str:
    """What variations of a word problem have in common: how they begin, no numbers."""
    if item["options"]:
        return ""
    return digest(re.findall("[a-z]+", item["query"].lower())[:5])


def _name(item: Item) -> str:
    """What names a question wherever it stands."""
    return f"{item['task']}-{digest([item['query'], list(item['options'])])[:16]}"


def _known_wrong(item: Item) -> bool:
    return (item["task"], item.get("source_id")) in answers.KNOWN_WRONG


def read(questions: Run, part: str = "test") -> list[dict[str, Any]]:
    """The questions of a run of `draw`: "test", or "train"."""
    return jsonl.rows(questions.path / f"{part}.jsonl")


# ---- replies ----


def ended(
    tokenizer: PreTrainedTokenizerBase, reply: Reply, ends: Sequence[str] = ENDS
) -> Reply:
    """A reply up to the first question that the model invents, as the harness ends it.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
        Of the model.
    reply : Reply
        As it was sampled.
    ends : sequence of str
        What opens an invented question.

    Returns
    -------
    Reply
        The same where nothing is invented; else its first tokens, one at least, without
        an end and without white space before the question.
    """
    places = [reply.text.find(end) for end in ends if end in reply.text]
    if not places:
        return reply
    length = len(reply.text[: min(places)].rstrip())
    kept = 1
    while len(_text(tokenizer, reply.ids[: kept + 1])) <= length:
        kept += 1
    return Reply(_text(tokenizer, reply.ids[:kept]), reply.ids[:kept], finished=False)


def _text(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=True))


def solve(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    items: Sequence[Item],
    *,
    shots: int = SHOTS,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    progress: bool = False,
) -> tuple[list[Reply], dict[str, float]]:
    """Replies to word problems, greedy as the harness has it.

    Parameters
    ----------
    model, tokenizer
        The policy.
    items : sequence of dict
        Of `hub.answers`.
    shots : int
        Worked examples; see `hub.answers.prompt`.
    temperature, top_p, seed
        See `mipo.lm.sampling.sample`.

    Returns
    -------
    replies : list of Reply
        Each up to its end; see `ended`.
    shares : dict
        invented: of replies that went on to a question of their own; cut: of those
        that came to no end within `TOKENS`.

    Notes
    -----
    Of 100 problems set apart SmolLM2-135M has 1, 1 and 4 right with 0, 2 and 4 worked
    examples (replies of at most 96 tokens, bfloat16); `SHOTS` was chosen by that, the
    same for all policies. They were drawn before problems that begin alike were kept
    together, so some of them may be among those that are asked now.
    """
    prompts = [render(tokenizer, answers.prompt(item, shots)) for item in items]
    whole = sampling.sample(
        model,
        tokenizer,
        prompts,
        max_new_tokens=TOKENS,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        batch_size=BATCH,
        progress=progress,
    )
    replies = [ended(tokenizer, reply) for reply in whole]
    invented = [kept is not reply for kept, reply in zip(replies, whole, strict=True)]
    done = [reply.finished for reply in whole]
    cut = [not (new or end) for new, end in zip(invented, done, strict=True)]
    return replies, {"invented": float(np.mean(invented)), "cut": float(np.mean(cut))}


def choice_prompt(tokenizer: PreTrainedTokenizerBase, item: Item) -> str:
    """A multiple choice as the harness's MMLU asks it: the next token is a letter."""
    subject = item["subject"].replace("_", " ")
    told = (
        f"The following are multiple choice questions (with answers) about {subject}."
    )
    lettered = zip(answers.LETTERS, item["options"], strict=False)
    options = [f"{letter}. {text}" for letter, text in lettered]
    asked = "\n".join([item["query"], *options, "Answer:"])
    talk = [
        {"role": "system", "content": f"{told}\n\n"},
        {"role": "user", "content": asked},
    ]
    return render_messages(tokenizer, talk)


def letter_logps(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    items: Sequence[Item],
    *,
    progress: bool = False,
) -> np.ndarray:
    """Log-probs of the four letters of multiple choices, nats, (questions, 4)."""
    letters = answers.LETTERS[:4]
    prompts = [choice_prompt(tokenizer, item) for item in items]
    each = [prompt for prompt in prompts for _ in letters]
    rows = encode_many(tokenizer, each, list(letters) * len(items))
    first = [(head, tail[:1]) for head, tail in rows]  # what ends the turn is not asked
    pad = tokenizer.pad_token_id or 0
    found = score_rows(model, first, pad_id=pad, batch_size=BATCH, progress=progress)
    return found.summed.double().numpy().reshape(-1, len(letters))


def choose(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    items: Sequence[Item],
    *,
    progress: bool = False,
) -> list[str]:
    """The likeliest letter of each multiple choice."""
    logps = letter_logps(model, tokenizer, items, progress=progress)
    return [answers.LETTERS[place] for place in logps.argmax(1)]


# ---- pairs, trainings, answers ----


@cached("reasoning-pairs-{seed}", inputs=["base", "questions"])
def make_pairs(
    folder: Path,
    *,
    base: str,
    questions: Run,
    seed: int,
    n_pairs: int,
    shots: int = SHOTS,
    dtype: str = "bfloat16",
    progress: bool,
) -> dict[str, Any]:
    """Run of MIPO's pairs for word problems, as released for SVAMP.

    The chosen reply answers the problem, the rejected one another problem. Both end
    where a question is invented.

    Parameters
    ----------
    base : str
        The model that answers.
    questions : Run
        Of `draw`: of its problems to learn from, `n_pairs` are drawn.
    seed : int
        Of the draw, the replies and who stands in for whom.
    n_pairs, shots
        How many pairs; worked examples in each prompt.
    dtype : str
        In which the model samples.

    Returns
    -------
    Run
        Pairs as `experiment.read_pairs` finds them. Metrics: pairs, identical; shares
        of `solve`, and respelt.
    """
    known = read(questions, "train")
    items = random.Random(seed).sample(known, min(n_pairs, len(known)))
    model, tokenizer = load_model(base, dtype=dtype)
    how = protocol.sampling_of("svamp")
    replies, shares = solve(
        model,
        tokenizer,
        items,
        shots=shots,
        temperature=how["temperature"],
        top_p=how["top_p"],
        seed=seed,
        progress=progress,
    )
    pairs = synthesise_pairs(
        model,
        tokenizer,
        runs.as_examples(items, "reasoning", shots),
        negatives=protocol.negatives_for("reasoning", "mipo"),
        seed=seed,
        chosen=[reply.ids for reply in replies],
    )
    experiment.write_pairs(pairs, folder)
    return {
        "pairs": len(pairs),
        "identical": int(sum(pairs["identical"])),
        "respelt": shares_of(pairs)["respelt"],
        **shares,
    }


@cached(
    "reasoning-{name}-{seed}",
    inputs=["base", "questions", "pairs"],
    keep=["answers.json", "log.json"],
)
def trial(
    folder: Path,
    *,
    name: str,
    base: str,
    questions: Run,
    seed: int,
    pairs: Run | None = None,
    setting: Mapping[str, Any] | None = None,
    lr: float = 0.0,
    epochs: float = 1.0,
    lora_rank: int = LORA_RANK,
    placebo: bool = False,
    shots: int = SHOTS,
    dtype: str = "bfloat16",
    progress: bool,
) -> dict[str, Any]:
    """Run of one policy: trained, asked all questions, and let go.

    Parameters
    ----------
    name : str
        Of the policy, for the run's own name.
    base : str
        The model that is trained.
    questions : Run
        Of `draw`.
    seed : int
        Order of the pairs, and adapters. Questions and replies have no chance in them.
    pairs : Run, optional
        Of `make_pairs` here or in `ch14_wishes`; None: nothing is trained.
    setting, lr, epochs, lora_rank, placebo
        See `ch14_wishes.trial`; training is in float32, as there.
    shots : int
        Worked examples before a word problem.
    dtype : str
        Of sampling. Letters are scored in float32.

    Returns
    -------
    Run
        Metrics: those of training, or failed; svamp, mmlu (shares that are right);
        invented, cut (see `solve`). Files: answers.json, see `asked`; log.json, the
        training's steps. A diverged training has nothing right.
    """
    policy: Policy = base
    metrics: dict[str, Any] = {}
    items = read(questions)
    write_whole(folder / "log.json", "[]")
    if pairs is not None:
        rows: Any = experiment.read_pairs(pairs)
        try:
            metrics = experiment.train_on(
                flip_by_coin(rows, seed) if placebo else rows,
                folder=folder,
                base=base,
                lr=lr,
                epochs=epochs,
                batch_size=PAIRS_PER_STEP,
                seed=seed,
                lora_rank=lora_rank,
                progress=progress,
                bf16=False,
                use_cpu=not torch.cuda.is_available(),
                **(setting or {}),
            )
        except FloatingPointError as error:
            shutil.rmtree(folder / "trainer", ignore_errors=True)
            nothing = {item["id"]: 0.0 for item in items}
            write_whole(folder / "answers.json", dumps({"right": nothing}))
            return {"failed": str(error), **dict.fromkeys(TASKS, 0.0)}
        policy = folder / "model"
    try:
        found, shares = asked(policy, items, shots, dtype, progress)
    finally:
        shutil.rmtree(folder / "model", ignore_errors=True)
    write_whole(folder / "answers.json", json.dumps(found, ensure_ascii=False))
    return metrics | shares


def asked(
    policy: Policy, items: Sequence[Item], shots: int, dtype: str, progress: bool
) -> tuple[dict[str, dict], dict[str, float]]:
    """What a policy answers.

    Parameters
    ----------
    policy, items, shots, dtype, progress
        See `trial`.

    Returns
    -------
    found : dict
        "right": {question: 0 or 1}; "error": {word problem: which, of
        `hub.answers.ERRORS`}; "letter": {multiple choice: which}; "reply": {word
        problem: text} of the first `SHOWN`.
    shares : dict
        svamp, mmlu (that are right); invented, cut (see `solve`).
    """
    by_task = {task: [i for i in items if i["task"] == task] for task in TASKS}
    sums, choices = by_task["svamp"], by_task["mmlu"]
    weights = experiment.model_folder(policy)
    speaker = load_model(weights, dtype=dtype)
    replies, shares = solve(*speaker, sums, shots=shots, progress=progress)
    letters = choose(*load_model(weights), choices, progress=progress)
    texts = [reply.text for reply in replies]
    graded = answers.grades(texts, sums)
    right = {i["id"]: kind for i, kind in zip(sums, graded["right"], strict=True)}
    chosen = {i["id"]: letter for i, letter in zip(choices, letters, strict=True)}
    right |= {i["id"]: float(chosen[i["id"]] == i["gold"]) for i in choices}
    ids = [item["id"] for item in sums]
    found = {
        "right": right,
        "error": dict(zip(ids, graded["error"], strict=True)),
        "letter": chosen,
        "reply": dict(zip(ids[:SHOWN], texts, strict=False)),
    }
    for task, own in by_task.items():
        if own:
            shares[task] = float(np.mean([right[item["id"]] for item in own]))
    return found, shares


def compare(
    run_dir: str | Path,
    *,
    base: str,
    questions: Run,
    seeds: Sequence[int],
    wishes: tuple[float, int],
    n_pairs: int,
    arms: Sequence[str] = tuple(ARMS),
    workers: int = 1,
    progress: bool = False,
) -> pd.DataFrame:
    """Trials of the untrained model, of MIPO on wishes and on word problems.

    Parameters
    ----------
    run_dir, workers, progress
        See `experiment.run_many`.
    base : str
        The model.
    questions : Run
        Of `draw`.
    seeds : sequence of int
        Each has its own pairs and training.
    wishes : (float, int)
        Rate and number of the strength of `ch14_real_model`'s headline arm.
    n_pairs : int
        That each training learns from.
    arms : sequence of str
        Keys of `ARMS`.

    Returns
    -------
    pandas.DataFrame
        Index: arm ("base", and the arms), seed. The metrics of `trial`, and the run.
    """
    common: dict[str, Any] = {"base": base, "questions": questions}
    make = {"run_dir": run_dir, "base": base, "progress": progress}
    calls: dict[tuple[str, int], dict[str, Any]] = {}
    calls["base", 0] = {"name": "base", "seed": 0, **common}
    settings = trainings(wishes)
    for seed in seeds:
        pairs = {
            "wishes": ch14_wishes.make_pairs(
                negatives="random_context", seed=seed, n_people=n_pairs, **make
            ),
            "problems": make_pairs(
                questions=questions, seed=seed, n_pairs=n_pairs, **make
            ),
        }
        for arm in arms:
            what, _, placebo = arm.partition("-")
            own = {"name": arm, "seed": seed, "pairs": pairs[what]}
            own["placebo"] = bool(placebo)
            calls[arm, seed] = {**own, **settings[what], **common}
    return experiment.run_many(
        trial,
        calls,
        run_dir=run_dir,
        index=["arm", "seed"],
        workers=workers,
        progress=progress,
    )


def trainings(wishes: tuple[float, int]) -> dict[str, dict[str, Any]]:
    """Keywords of `trial` that train on wishes and on word problems."""
    rate, number = wishes
    strength = ch14_real_model.STRENGTHS["mipo-lora"][number]
    return {
        "wishes": ch14_real_model.training("mipo-lora", rate, strength),
        "problems": {"setting": methods.setting("mipo"), "lr": RATE},
    }


# ---- what was found ----


def right_of(run: Run, task: str) -> dict[str, float]:
    """{question: 0 or 1} of a task."""
    found = json.loads(run.read("answers.json"))["right"]
    return {name: done for name, done in found.items() if name.startswith(f"{task}-")}


def gain(trials: pd.DataFrame, arm: str, task: str, *, relative: bool = False) -> Gain:
    """How much more an arm has right than the untrained model, of the same questions.

    Parameters
    ----------
    trials : pandas.DataFrame
        Of `compare`.
    arm, task : str
        Keys of `ARMS` and `TASKS`.
    relative : bool
        As a share of what the untrained model has right; NaN where that is nothing.

    Returns
    -------
    value, low, high : float
        With the 95 % interval of `hub.scores.paired` or `.relative`, over questions and
        seeds.

    Notes
    -----
    Where no answer differs, the bootstrap's interval is a point. A gain is at most the
    share of questions whose answer differs, so Wilson's limit of 0 of n is taken.
    """
    runs_of: dict[int, Run] = trials.run[arm].to_dict()
    after = {seed: right_of(run, task) for seed, run in runs_of.items()}
    before = right_of(trials.run["base", 0], task)
    rows = [{"id": name} for name in before]
    measure = scores.relative if relative else scores.paired
    found = measure(
        {seed: [values[row["id"]] for row in rows] for seed, values in after.items()},
        {seed: list(before.values()) for seed in after},
        dict.fromkeys(after, rows),
    )
    if found is None:
        return (float("nan"),) * 3
    value, low, high = found
    if low == high:
        most = wilson_interval(0, len(rows))[2]
        if relative:
            most /= sum(before.values()) / len(before)
        low, high = value - most, value + most
    return value, low, high


def detectable(gain: Gain) -> float:
    """The smallest true difference that a sample like this one finds.

    Parameters
    ----------
    gain : (value, low, high)
        An estimate with its 95 % interval.

    Returns
    -------
    float
        See `ch14_found.detectable`; NaN where the interval is a point, since then no
        answer differed and the sample does not know its own noise.
    """
    _, low, high = gain
    error = (high - low) / 2 / ndtri(1 - ch14_found.LEVEL / 2)
    return ch14_found.detectable(error) if error else float("nan")


def word(low: float | None, high: float | None) -> str:
    """What a gain's interval lets one say: "rises", "falls" or "not detectable"."""
    if low is not None and low > 0:
        return "rises"
    return "falls" if high is not None and high < 0 else "not detectable"


def keep(nb: Notebook, trials: pd.DataFrame) -> None:
    """Keep what was found as numbers, which `table` reads.

    Parameters
    ----------
    nb : Notebook
        Of the chapter.
    trials : pandas.DataFrame
        Of `compare`.
    """
    base = trials.run["base", 0]
    nb.number("invented-base", trials.invented["base", 0], "of replies")
    for task in TASKS:
        right = right_of(base, task).values()
        share = wilson_interval(int(sum(right)), len(right))
        nb.number(f"{task}-n", len(right), "questions")
        nb.number(f"{task}-base", share[0], "of questions", interval=share[1:])
        for arm in trials.index.unique("arm").drop("base"):
            nb.number(f"{task}-{arm}", trials[task][arm].to_list(), "of questions")
            found = gain(trials, arm, task)
            nb.number(
                f"{task}-gain-{arm}", found[0], "of questions", interval=found[1:]
            )
            least = detectable(found)
            if np.isfinite(least):
                nb.number(f"{task}-detectable-{arm}", least, "of questions")


def table(get: Callable[[str], Number | None]) -> pd.DataFrame:
    """Accuracies and gains of every policy, from the numbers that `keep` kept.

    Parameters
    ----------
    get : callable
        ``nb.numbers.get``, or ``nb.published`` for those of the published run.

    Returns
    -------
    pandas.DataFrame
        questions, policy, right, gain, low, high, detectable, found; empty where there
        are no numbers.
    """
    rows: list[dict[str, Any]] = []
    for task, title in TASKS.items():
        base = get(f"{task}-base")
        if base is None:
            continue
        asked = {"questions": title, "policy": "untrained", "right": base.mean}
        rows.append({**asked, "found": ""})
        for arm, label in ARMS.items():
            share, more = get(f"{task}-{arm}"), get(f"{task}-gain-{arm}")
            least = get(f"{task}-detectable-{arm}")
            if share is None or more is None:
                continue
            row = {"questions": title, "policy": label, "right": share.mean}
            row |= {"gain": more.mean, "low": more.low, "high": more.high}
            row["detectable"] = least.mean if least else None
            rows.append({**row, "found": word(more.low, more.high)})
    return pd.DataFrame(rows)


def reading(get: Callable[[str], Number | None]) -> str:
    """What the untrained model has right, and which gains this sample can detect.

    Parameters
    ----------
    get : callable
        See `table`.

    Returns
    -------
    str
        A sentence or two for each task that was asked.
    """
    told = []
    for task, title in TASKS.items():
        base, n = get(f"{task}-base"), get(f"{task}-n")
        if base is None or n is None:
            continue
        told.append(
            f"{title}: of {n} the untrained model has {base.mean:.1%} right"
            f"{CHANCE.get(task, '')}."
        )
        known = [get(f"{task}-detectable-{arm}") for arm in ("wishes", "problems")]
        least = max([number.mean for number in known if number], default=0.0)
        if least and base.mean:
            share = least / base.mean
            seen = "would be seen" if share <= LARGEST else "would not be seen either"
            told.append(
                f"The smallest gain that is detected is {100 * least:.1f} points of "
                f"100, {share:.0%} of that; the largest that the paper reports, "
                f"{LARGEST:.0%}, {seen}."
            )
    invented = get("invented-base")
    if invented:
        told.append(
            f"Of its replies to word problems {invented.mean:.0%} went on to a "
            "question of their own, and were ended there."
        )
    return " ".join(told)


def gains(trials: pd.DataFrame, arm: str, *, relative: bool = False) -> dict[str, Gain]:
    """`gain` of an arm in every task."""
    return {task: gain(trials, arm, task, relative=relative) for task in TASKS}


def parts(
    found: Mapping[str, Gain], region: tuple[float | None, float | None], unit: str
) -> dict[str, dict[str, Any]]:
    """Parts of a claim, one for each task whose gain is a number.

    Parameters
    ----------
    found : dict
        Of `gains`.
    region, unit
        See `mipo.record.Notebook.claim`.

    Returns
    -------
    dict
        {part: its keywords}.
    """
    common = {"region": region, "unit": unit}
    return {
        TASKS[task]: {"value": more[0], "interval": more[1:], **common}
        for task, more in found.items()
        if np.isfinite(more).all()
    }
