"""Chapter 14, the runs: people with wishes, a real language model, and its trainings.

A `trial` trains a policy, asks it, measures its replies under the model as it was, and
lets the weights go: what is kept is small. Which settings and people a trial has is the
affair of `mipo_study.ch14_real_model`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mipo.cache import Run, cached
from mipo.evaluate.comparisons import retrieval_credit
from mipo.evaluate.diversity import self_bleu
from mipo.evaluate.reference_free import groups, under_contexts
from mipo.files import dumps, write_whole
from mipo.lm import sampling
from mipo.lm.prompts import render, render_messages
from mipo.logprobs import pmi_over_contexts, response_logps
from mipo.models import load_model
from mipo.pairs import flip_by_coin, shares_of, synthesise_pairs
from mipo.worlds import wish_checks, wish_data, wishes
from mipo_study import experiment
from mipo_study.experiment import Policy

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from mipo.lm.sampling import Reply

Example = Mapping[str, Any]
TOKENS = 64  # of a reply, at most
BATCH = 64  # replies sampled at a time
PAIRS_PER_STEP = 8
SCORED = 80  # replies of a request, at most, whose PMI is measured
CONTEXTS = 8  # among which a reply must find its own; the most that PMI can be is log 8
SPAN = 4  # words; a run of so many that occurs twice counts as a repetition
NOTED = "Thank you, I will keep that in mind."  # the reply to wishes in an earlier turn
SHOWN = 6  # replies of a request whose text is kept, but where all of `SCORED` are
DIGITS = 4  # of numbers that are kept


# ---- pairs ----


@cached("wish-pairs-{negatives}-{seed}", inputs=["base"])
def make_pairs(
    folder: Path,
    *,
    base: str,
    negatives: str,
    seed: int,
    n_people: int,
    house: bool = False,
    dtype: str = "bfloat16",
    progress: bool,
) -> dict[str, Any]:
    """Run of MIPO's pairs, which the model makes for people who have wishes.

    Parameters
    ----------
    base : str
        The model that answers; see `mipo.models.load_model`.
    negatives : str
        See `mipo.pairs.synthesise_pairs`.
    seed, n_people, house
        See `mipo.worlds.wishes.examples`; each person asks once.
    dtype : str
        In which the model samples.

    Returns
    -------
    Run
        Pairs as `experiment.read_pairs` finds them. Metrics: pairs, collisions,
        identical, and the shares of cut and respelt replies.
    """
    model, tokenizer = load_model(base, dtype=dtype)
    examples = wishes.examples(n_people, split="mipo", seed=seed, house=house)
    pairs = synthesise_pairs(
        model,
        tokenizer,
        examples,
        negatives=negatives,
        max_new_tokens=TOKENS,
        seed=seed,
        batch_size=BATCH,
        progress=progress,
    )
    experiment.write_pairs(pairs, folder)
    return {
        "pairs": len(pairs),
        "collisions": int(sum(pairs["collision"])),
        "identical": int(sum(pairs["identical"])),
        **shares_of(pairs),
    }


# ---- one policy: trained, asked, measured ----


@cached(
    "wishes-{name}-{seed}",
    inputs=["base", "pairs"],
    keep=["scores.json", "replies.json", "log.json"],
)
def trial(
    folder: Path,
    *,
    name: str,
    base: str,
    seed: int,
    requests: Sequence[Mapping[str, Any]],
    pairs: Run | None = None,
    setting: Mapping[str, Any] | None = None,
    lr: float = 0.0,
    epochs: float = 1.0,
    lora_rank: int = 16,
    n_pairs: int | None = None,
    placebo: bool = False,
    decoding: Mapping[str, Any] | None = None,
    dtype: str = "bfloat16",
    bf16: bool = False,
    progress: bool,
) -> dict[str, Any]:
    """Run of one policy: what it answered, and what the untrained model makes of it.

    The weights are not kept.

    Parameters
    ----------
    name : str
        Of the policy, for the run's own name.
    base : str
        The model that is trained and that measures.
    seed : int
        Order of the pairs, adapters, people who ask, and replies.
    requests : sequence of dict
        What is asked; see `ask`.
    pairs : Run, optional
        Of `make_pairs`.
    setting : dict, optional
        Loss and options of the training, as `methods.setting` gives them; None: nothing
        is trained.
    lr, epochs, lora_rank
        See `experiment.train_on`.
    n_pairs : int, optional
        The first so many pairs are learned from.
    placebo : bool
        Chosen and rejected are assigned by coin.
    decoding : dict, optional
        temperature, and alpha of context-aware decoding.
    dtype : str
        Of sampling. What is measured is measured in float32.
    bf16 : bool
        Train in bfloat16 too: then a reply's log-prob depends on its batch, by 0.3 nats
        and more, and the first loss is not log 2.

    Returns
    -------
    Run
        Metrics: those of training, or failed; "alike <request>", see `alike`. Files:
        scores.json, {request: {column: values}}, see `measure`; replies.json, {request:
        some texts}; log.json, the training's steps.
    """
    policy, metrics = base, {}
    write_whole(folder / "log.json", "[]")
    if setting is not None and pairs is not None:
        rows: Any = experiment.read_pairs(pairs)
        if n_pairs is not None:
            rows = rows.select(range(min(n_pairs, len(rows))))
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
                bf16=bf16,
                use_cpu=not torch.cuda.is_available(),
                **setting,
            )
        except FloatingPointError as error:
            shutil.rmtree(folder / "trainer", ignore_errors=True)
            write_whole(folder / "scores.json", "{}")
            write_whole(folder / "replies.json", "{}")
            return {"failed": str(error)}
        policy = folder / "model"
    try:
        scores, texts, variety = _answer_all(
            policy, base, requests, seed, dtype, decoding or {}, progress
        )
    finally:
        shutil.rmtree(folder / "model", ignore_errors=True)
    write_whole(folder / "scores.json", dumps(scores))
    write_whole(folder / "replies.json", json.dumps(texts, ensure_ascii=False))
    return metrics | variety


def _answer_all(
    policy: str | Path,
    base: str,
    requests: Sequence[Mapping[str, Any]],
    seed: int,
    dtype: str,
    decoding: Mapping[str, Any],
    progress: bool,
) -> tuple[dict[str, dict], dict[str, list], dict[str, float]]:
    """Scores, texts and likeness of the replies to every request."""
    answers = {}
    model, tokenizer = load_model(policy, dtype=dtype)
    for request in requests:
        examples = ask(request, seed)
        answers[request["name"]] = (
            examples,
            reply_to(model, tokenizer, examples, request, seed, decoding, progress),
        )
    model, tokenizer = load_model(base)  # bfloat16 is off by 0.07 nats a token
    scores, texts, variety = {}, {}, {}
    for request in requests:
        examples, replies = answers[request["name"]]
        if request.get("draws", 1) > 1:
            examples, replies = _best(model, tokenizer, examples, replies, request)
        rows = measure(model, tokenizer, examples, replies, request, seed)
        scores[request["name"]] = columns_of(rows)
        if request.get("each", 1) > 1 or request.get("together"):
            variety[f"alike {request['name']}"] = alike(examples, replies, request)
        shown = SCORED if _is_scored(request) else SHOWN
        texts[request["name"]] = _texts(examples[:shown], replies[:shown])
    return scores, texts, variety


def _is_scored(request: Mapping[str, Any]) -> bool:
    """Whether PMI and retrieval are measured, which facts have not."""
    return request.get("scored", True) and "told" not in request


def columns_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, list]:
    """{column: values} of rows; a column that the last rows lack is shorter."""
    columns: dict[str, list] = {}
    for row in rows:
        for name, value in row.items():
            short = round(value, DIGITS) if isinstance(value, float) else value
            columns.setdefault(name, []).append(short)
    return columns


def _texts(
    examples: Sequence[Example], replies: Sequence[Reply]
) -> list[dict[str, str]]:
    """Replies as text, each with its context and query."""
    return [
        {"context": e["context"], "query": e["query"], "reply": reply.text}
        for e, reply in zip(examples, replies, strict=True)
    ]


# ---- asking ----


def ask(request: Mapping[str, Any], seed: int) -> list[dict[str, Any]]:
    """The examples of a request.

    Parameters
    ----------
    request : dict
        "name", and either "told" (see `wishes.facts`) or the keywords of
        `wishes.examples`: n_people, split, condition, house. Beside these:
        "stated", where the wishes stand: "before" the question, in an "earlier" turn,
        or "nowhere"; "draws", from how many replies the best by PMI is taken; "each",
        how many replies each example gets; "together", to ask all people what the first
        one asks; "scored", False to leave out PMI and retrieval.
    seed : int
        Of the people.

    Returns
    -------
    list of dict
    """
    if "told" in request:
        return wishes.facts(request["told"])
    keywords = ("n_people", "split", "condition", "house")
    given = {key: request[key] for key in keywords if key in request}
    examples = wishes.examples(**given, seed=9000 + seed)
    if request.get("together"):
        examples = [{**e, "query": examples[0]["query"]} for e in examples]
    return [e for e in examples for _ in range(request.get("each", 1))]


def prompt_of(
    tokenizer: PreTrainedTokenizerBase, example: Example, stated: str = "before"
) -> str:
    """The prompt of an example, with its wishes where `stated` says; see `ask`."""
    query, context = example["query"], example["context"]
    if stated == "nowhere":
        return render(tokenizer, query)
    if stated == "before":
        return render(tokenizer, query, context)
    talk = [
        {"role": "user", "content": context},
        {"role": "assistant", "content": NOTED},
        {"role": "user", "content": query},
    ]
    return render_messages(tokenizer, talk)


def reply_to(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Example],
    request: Mapping[str, Any],
    seed: int,
    decoding: Mapping[str, Any],
    progress: bool,
) -> list[Reply]:
    """A policy's replies to a request: `draws` of them in a row for each example."""
    stated = request.get("stated", "before")
    asked = _repeated(examples, request)
    prompts = [prompt_of(tokenizer, example, stated) for example in asked]
    how = dict(decoding)
    if how.get("alpha"):
        how["contrast_prompts"] = [
            prompt_of(tokenizer, example, "nowhere") for example in asked
        ]
    return sampling.sample(
        model,
        tokenizer,
        prompts,
        max_new_tokens=TOKENS // 2 if "told" in request else TOKENS,
        seed=seed,
        batch_size=BATCH,
        progress=progress,
        **how,
    )


def _repeated(examples: Sequence[Example], request: Mapping[str, Any]) -> list[Example]:
    """Each example as often as it gets a reply to choose from."""
    return [example for example in examples for _ in range(request.get("draws", 1))]


def _best(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Example],
    replies: Sequence[Reply],
    request: Mapping[str, Any],
) -> tuple[list[Example], list[Reply]]:
    """Of each example's replies the one with the highest PMI with its wishes."""
    draws = request["draws"]
    repeated = _repeated(examples, request)
    own = _logps(model, tokenizer, repeated, replies, stated="before")
    alone = _logps(model, tokenizer, repeated, replies, stated="nowhere")
    best = (own - alone).reshape(-1, draws).argmax(1)
    chosen = [replies[i * draws + int(j)] for i, j in enumerate(best)]
    return list(examples), chosen


def _logps(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Example],
    replies: Sequence[Reply],
    *,
    stated: str,
) -> np.ndarray:
    """log p(reply | prompt), nats, with the wishes where `stated` says."""
    prompts = [prompt_of(tokenizer, example, stated) for example in examples]
    ids = [reply.ids for reply in replies]
    scores = response_logps(model, tokenizer, prompts, ids, batch_size=BATCH)
    return scores.summed.double().numpy()


# ---- measuring ----


def measure(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Example],
    replies: Sequence[Reply],
    request: Mapping[str, Any],
    seed: int,
) -> list[dict[str, Any]]:
    """A row of numbers per reply.

    Parameters
    ----------
    model, tokenizer
        The untrained model, which measures.
    examples, replies : sequence
        One reply per example.
    request : dict
        What was asked; see `ask`.
    seed : int
        Of the contexts among which a reply must find its own.

    Returns
    -------
    list of dict
        finished, words, tokens; repeats (share of runs of four words that occur twice);
        alone (log-prob without the wishes, nats per token); person, task; wishes
        (names), follows and own (whether each is followed, also in own words); house
        (whether the house style is); of the first `SCORED` pmi (nats per reply) and
        match (credit for finding its own context among `CONTEXTS`). For facts: right,
        mistaken.
    """
    alone = _logps(model, tokenizer, examples, replies, stated="nowhere")
    rows = []
    for example, reply, logp in zip(examples, replies, alone, strict=True):
        terms = wish_checks.words(reply.text)
        row: dict[str, Any] = {
            "finished": reply.finished,
            "words": len(terms),
            "tokens": len(reply.ids),
            "repeats": repeats(terms),
            "alone": float(logp) / max(1, len(reply.ids)),
        }
        if "told" in request:
            said = reply.text.lower()
            row["right"] = example["gold"].lower() in said
            row["mistaken"] = example["mistake"].lower() in said
        else:
            row |= _wishes(example, reply)
        rows.append(row)
    if _is_scored(request):
        some = examples[:SCORED]
        ids = [reply.ids for reply in replies[:SCORED]]
        crowds = groups(some, CONTEXTS, seed=seed)
        under = under_contexts(model, tokenizer, some, ids, crowds, batch_size=BATCH)
        pmi = pmi_over_contexts(under[:, 0], under).tolist()
        for row, nats, credit in zip(rows, pmi, retrieval_credit(under), strict=False):
            row |= {"pmi": nats, "match": float(credit)}
    return rows


def _wishes(example: Example, reply: Reply) -> dict[str, Any]:
    done = {"finished": reply.finished}
    house = wish_data.HOUSE.check(reply.text, reply.finished, wish_data.HOUSE_WORD)
    return {
        "person": example["person"],
        "task": example["task"],
        "wishes": [wish["wish"] for wish in example["wishes"]],
        "follows": wishes.adherence(reply.text, example, **done),
        "own": wishes.adherence(reply.text, example, own_words=True, **done),
        "house": house,
    }


def alike(
    examples: Sequence[Example], replies: Sequence[Reply], request: Mapping[str, Any]
) -> float:
    """Self-BLEU of the replies that belong together, points of 100.

    Parameters
    ----------
    examples, replies : sequence
        One reply per example.
    request : dict
        With "each", the several replies to one person belong together, and the mean
        over people is taken; else all replies do.

    Returns
    -------
    float
        NaN where no two replies have words.
    """
    together: dict[Any, list[str]] = {}
    for example, reply in zip(examples, replies, strict=True):
        person = example["person"] if request.get("each", 1) > 1 else None
        if wish_checks.words(reply.text):
            together.setdefault(person, []).append(reply.text)
    points = [self_bleu(texts) for texts in together.values() if len(texts) > 1]
    return float(np.mean(points)) if points else float("nan")


def repeats(terms: Sequence[str]) -> float:
    """Share of the runs of four words that occurred before; 0 for fewer words."""
    runs = [tuple(terms[i : i + SPAN]) for i in range(len(terms) - SPAN + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


# ---- beside TRL ----


@cached("wishes-beside-trl", inputs=["base", "pairs"])
def beside_trl(
    folder: Path,
    *,
    base: str,
    pairs: Policy,
    n_pairs: int,
    beta: float,
    lr: float,
    progress: bool,
) -> dict[str, Any]:
    """Run of the same pairs trained by our trainer and by TRL's ``DPOTrainer``.

    Pairs whose replies are finished, and whose text is written in the tokens that were
    sampled: TRL reads text. All weights are trained, in float32, two pairs a step.

    Parameters
    ----------
    base, pairs
        See `trial`.
    n_pairs : int
        The first so many of such pairs.
    beta, lr
        Of DPO and of AdamW.

    Returns
    -------
    Run
        Metrics: ours, trl: the loss of each step, nats.
    """
    from transformers.trainer_callback import PrinterCallback
    from trl import DPOConfig, DPOTrainer

    from mipo.trainer import PreferenceConfig, PreferenceTrainer

    rows: Any = experiment.read_pairs(pairs)
    rows = rows.filter(lambda row: row["cut"] == 0 and row["respelt"] == 0)
    rows = rows.select(range(min(n_pairs, len(rows))))
    texts = rows.select_columns(["prompt", "chosen", "rejected"])
    shared: dict[str, Any] = {
        "output_dir": str(folder / "trainer"),
        "learning_rate": lr,
        "per_device_train_batch_size": 2,
        "num_train_epochs": 1,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,
        "seed": 0,
        "disable_tqdm": not progress,
    }
    losses = {}
    for name in ("ours", "trl"):
        model, tokenizer = load_model(base, device="cpu")
        data = {"train_dataset": texts, "processing_class": tokenizer}
        if name == "ours":
            config = PreferenceConfig(loss="dpo", loss_kwargs={"beta": beta}, **shared)
            trainer: Any = PreferenceTrainer(model=model, args=config, **data)
        else:
            theirs = DPOConfig(beta=beta, max_length=None, **shared)
            trainer = DPOTrainer(model=model, args=theirs, **data)
            trainer.remove_callback(PrinterCallback)  # pages show no logs
        trainer.train()
        log = trainer.state.log_history
        losses[name] = [row["loss"] for row in log if "loss" in row]
    shutil.rmtree(folder / "trainer", ignore_errors=True)
    return losses


# ---- which wishes enter ----


@cached("wish-rates-{asked}-{seed}", inputs=["base"])
def try_wishes(
    folder: Path,
    *,
    base: str,
    asked: bool,
    seed: int,
    n_people: int,
    dtype: str = "bfloat16",
    progress: bool,
) -> dict[str, Any]:
    """Run of replies of the untrained model to the people who serve nothing else.

    Parameters
    ----------
    base, dtype
        See `trial`.
    asked : bool
        Whether the wishes stand in the prompt.
    seed, n_people
        See `wishes.examples`; any wish is tried.

    Returns
    -------
    Run
        Metrics: {wish: [replies that follow it, replies that could]}: asked, of people
        who have the wish; else of everybody whose question it fits. File replies.json.
    """
    model, tokenizer = load_model(base, dtype=dtype)
    examples = wishes.examples(
        n_people, split="choose", seed=seed, entered=tuple(wish_data.WISHES)
    )
    request = {"stated": "before" if asked else "nowhere"}
    replies = reply_to(model, tokenizer, examples, request, seed, {}, progress)
    counts = {name: [0, 0] for name in wish_data.WISHES}
    for example, reply in zip(examples, replies, strict=True):
        own = [wish["wish"] for wish in example["wishes"]]
        fitting = [n for n in counts if wishes.fits(n, example["task"])]
        for name in own if asked else fitting:
            value = wishes.value_of(name, example["values"])
            done = {"finished": reply.finished}
            followed = wishes.follows(name, value, reply.text, **done)
            counts[name][0] += int(followed)
            counts[name][1] += 1
    kept = _texts(examples, replies)
    write_whole(folder / "replies.json", json.dumps(kept, ensure_ascii=False))
    return counts
