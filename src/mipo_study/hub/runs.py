"""Studies of hub models as cached runs: data, replies, pairs, training.

A policy is a `download.Place` (the model as it was) or the Run of a training. What only
says how a run is computed (micro_batch, checkpointing, launch) is not part of its key:
a run that did not fit may be repeated in smaller pieces.
"""

from __future__ import annotations

import gc
import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mipo import cache, files, jsonl
from mipo.cache import Run
from mipo.data import render
from mipo.evaluate.diversity import token_lengths
from mipo.lm.sampling import TOKEN_COLUMNS, shares
from mipo.lm.tokens import encode_many, token_ids
from mipo.pairs import REJECTED_STREAM, draw_partners
from mipo.preference_data import written
from mipo_study import methods
from mipo_study.hub import (
    answers,
    benchmarks,
    download,
    launch,
    protocol,
    serving,
    train,
)
from mipo_study.hub.download import Place
from mipo_study.methods import Setting

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Policy = Place | Run
Example = Mapping[str, Any]
PAIRS = Path("pairs") / "train.jsonl"
SMALL = 50_000  # tokens of replies, at most, that are kept with what was measured


def run_or_load(
    run_dir: str | Path,
    name: str,
    config: Mapping[str, Any],
    make: Callable[[Path], dict],
    *,
    doing: str,
    what: str = "",
    code: Sequence[str] = ("mipo_study.hub.runs",),
    inputs: Mapping[str, Any] | None = None,
    keep: Sequence[str] = (),
) -> Run:
    """`cache.run_or_load`, with `download.explained` around all of it.

    Parameters
    ----------
    run_dir, name, config, make, code, inputs, keep
        See `cache.run_or_load`.
    doing : str
        The step of the work, a key of `download.SMALLER`, or "dataset".
    what : str
        What messages call it; "" is `doing`.

    Returns
    -------
    Run

    Raises
    ------
    download.Unavailable
        Where the hub, the disk or the card is at fault; it says what to do.
    """
    with download.explained(what or doing, kind=doing):
        return cache.run_or_load(
            run_dir, name, dict(config), make, code=code, inputs=inputs, keep=keep
        )


# ---- data ----


def data(
    run_dir: str | Path,
    name: str,
    *,
    folder: str = "",
    n_train: int,
    n_test: int,
    seed: int = 0,
) -> benchmarks.Data:
    """`benchmarks.load` as a run: a later start needs no network.

    Parameters
    ----------
    run_dir : path
        Where runs are kept.
    name, folder, n_train, n_test, seed
        See `benchmarks.load`.

    Returns
    -------
    Data
    """
    source = benchmarks.SOURCES.get(name)
    inputs: dict[str, Any] = {}
    commit = ""
    if source is None:
        inputs["file"] = files.resolve(name)
    elif folder:
        inputs["folder"] = benchmarks.files_of(name, folder)
    else:
        commit = download.PINNED[source.repo]
    draw = {"n_train": n_train, "n_test": n_test, "seed": seed}
    config = {"name": name if source else "own", "commit": commit, **draw}

    def make(target: Path) -> dict:
        place = str(inputs.get("file", name))
        loaded = benchmarks.load(place, folder=folder, **draw)
        for part in ("train", "test"):
            lines = files.lines(getattr(loaded, part))
            files.write_whole(target / f"{part}.jsonl", lines)
        return {
            "kind": loaded.kind,
            "train": len(loaded.train),
            "test": len(loaded.test),
            "source": loaded.source,
        }

    run = run_or_load(
        run_dir,
        "data-hub",
        config,
        make,
        doing="dataset",
        what=name,
        code=["mipo_study.hub.benchmarks"],
        inputs=inputs,
    )
    return benchmarks.Data(
        kind=run.metrics["kind"],
        train=jsonl.rows(run.path / "train.jsonl"),
        test=jsonl.rows(run.path / "test.jsonl"),
        source=run.metrics["source"],
    )


def as_examples(rows: Sequence[dict], kind: str, shots: int = 8) -> Sequence[dict]:
    """Rows of a data set as examples.

    Parameters
    ----------
    rows : sequence of dict
        Of `benchmarks.load`.
    kind : str
        "people", "reasoning" or "preferences".
    shots : int
        Worked examples in the prompts of items.

    Returns
    -------
    sequence of dict
        With query and context. People's rows are examples already; preferences keep
        their `messages` beside the query that a judge reads.
    """
    if kind == "reasoning":
        return [{"query": answers.prompt(item, shots), "context": ""} for item in rows]
    if kind == "preferences":
        return [
            {
                "query": transcript(row["prompt"]),
                "context": "",
                "messages": row["prompt"],
                "read_from": row["read_from"],
            }
            for row in rows
        ]
    return rows


def transcript(messages: Sequence[Mapping[str, str]]) -> str:
    """Messages as a judge reads them: one as it is, several with their speakers."""
    if len(messages) == 1:
        return messages[0]["content"]
    return "\n\n".join(f"{m['role'].capitalize()}: {m['content']}" for m in messages)


def prompt_text(tokenizer: PreTrainedTokenizerBase, example: Example) -> str:
    """An example's prompt: its query and context, or all messages of its talk."""
    if "messages" in example:
        return written(example["messages"], tokenizer, example["read_from"])
    return render(tokenizer, example["query"], example["context"])


def that_fit(
    dataset: benchmarks.Data,
    tokenizer: PreTrainedTokenizerBase,
    positions: int | None = None,
    judge: int | None = None,
    *,
    max_new_tokens: int,
    max_length: int,
    shots: int = 8,
) -> benchmarks.Data:
    """The data without rows that a model's context has no room for.

    Parameters
    ----------
    dataset : Data
        Of `benchmarks.load`.
    tokenizer : PreTrainedTokenizerBase
        Of the policy.
    positions, judge : int, optional
        Tokens in the policy's and the judge's context; None where it is not known.
    max_new_tokens : int
        The longest sampled reply.
    max_length : int
        Tokens of a prompt and its reply in training.
    shots : int
        See `as_examples`.

    Returns
    -------
    Data
        Its source counts what was left out, by part, under "no_room".

    Raises
    ------
    ValueError
        Where no row of a part is left.

    Notes
    -----
    A prompt needs room for a reply, sampled or (in the test part) labelled; to train
    on, it must be shorter than `max_length`. People's messages stand in others'
    contexts as well, so their prompts count twice. A judge reads two replies and its
    question (300 tokens), which its own tokenizer may cut a quarter finer.
    """
    room = positions or math.inf
    judges_room = judge or math.inf

    def fits(part: str, length: int, longest_reply: int) -> bool:
        prompt = length * (2 if dataset.kind == "people" else 1)
        if part == "train":
            return prompt + max_new_tokens <= room and length < max_length
        question = 1.25 * (length + 2 * max_new_tokens) + 300
        reply = max(max_new_tokens, longest_reply)
        return prompt + reply <= room and question <= judges_room

    def fitting(part: str) -> list[dict]:
        rows = getattr(dataset, part)
        lengths = _lengths(tokenizer, rows, dataset.kind, shots)
        return [row for row, n in zip(rows, lengths, strict=True) if fits(part, *n)]

    train, test = fitting("train"), fitting("test")
    for part, rows in (("train", train), ("test", test)):
        if not rows:
            raise ValueError(
                f"no {part} prompt leaves room for {max_new_tokens} tokens of reply "
                f"(max_length {max_length}, context {room}, of the judge "
                f"{judges_room}): lower max_new_tokens or shots, raise max_length, or "
                "take another model or judge"
            )
    lost = {
        "train": len(dataset.train) - len(train),
        "test": len(dataset.test) - len(test),
    }
    source = {**dataset.source, "no_room": lost}
    return replace(dataset, train=train, test=test, source=source)


def _lengths(
    tokenizer: PreTrainedTokenizerBase, rows: Sequence[dict], kind: str, shots: int
) -> list[tuple[int, int]]:
    """Tokens of each row's prompt, and of the longer of its labelled replies or 0.

    Replies count as they are trained on: with what the chat template puts before them,
    and their end.
    """
    prompts, _ = prompts_of(tokenizer, as_examples(rows, kind, shots))
    longest = [0] * len(rows)
    for side in ("chosen", "rejected") if kind == "preferences" else ():
        replies = [row[side][0]["content"] for row in rows]
        tails = [tail for _, tail in encode_many(tokenizer, prompts, replies)]
        longest = [max(n, len(tail)) for n, tail in zip(longest, tails, strict=True)]
    heads = token_ids(tokenizer, prompts)
    return [(len(head), n) for head, n in zip(heads, longest, strict=True)]


# ---- replies ----


def folder_of(policy: Policy) -> Path:
    """Where a policy's weights lie."""
    return policy.path / "model" if isinstance(policy, Run) else policy.path


# {key of the policy: its model and tokenizer}, one at most
_IN_MEMORY: dict[str, tuple[PreTrainedModel, PreTrainedTokenizerBase]] = {}


def model_of(policy: Policy) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A policy's model and tokenizer.

    They stay in memory until another policy's are wanted: a card has room for one.
    """
    if policy.key not in _IN_MEMORY:
        release()
        loaded = train.load(folder_of(policy), dtype=train.best_dtype())
        _IN_MEMORY[policy.key] = loaded
    return _IN_MEMORY[policy.key]


def release() -> None:
    """Let go of the model in memory and give its room back to the card."""
    _IN_MEMORY.clear()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def digest_of(
    examples: Sequence[Example], fields: Sequence[str] = ("query", "context")
) -> str:
    """What names examples in a key: a digest of these fields."""
    return files.digest([[e.get(name) for name in fields] for e in examples])


def prompts_of(
    tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example]
) -> tuple[list[str], list[str]]:
    """Prompts of examples, and what errors call each."""
    names = [e.get("read_from") or f"example {i}" for i, e in enumerate(examples)]
    prompts = [prompt_text(tokenizer, example) for example in examples]
    return prompts, names


def engine_of(
    run_dir: str | Path,
    base: Place,
    examples: Sequence[Example],
    *,
    sampling: Mapping[str, Any],
    engine: str = "auto",
    batch_size: int = 64,
) -> str:
    """`engine`, or for "auto" the faster one, timed once on the base model and kept.

    Parameters
    ----------
    run_dir : path
        Where runs are kept.
    base : Place
        The base model.
    examples : sequence of dict
        On whose prompts it is timed.
    sampling : dict
        Keywords of `serving.sample`.
    engine : str
        "auto", or one of `serving.ENGINES`.
    batch_size : int
        Prompts at once. Whoever lowers it keeps what was chosen, and with it the
        replies that are there.

    Returns
    -------
    str
        One of `serving.ENGINES`. It belongs into `sampling`, and so into the key of
        every reply: a base and its policies must be sampled alike.
    """
    if engine != "auto":
        return serving.check_engine(engine)

    def make(folder: Path) -> dict:
        model, tokenizer = model_of(base)
        prompts, names = prompts_of(tokenizer, examples)
        faster = serving.choose(
            model, tokenizer, prompts, names=names, batch_size=batch_size, **sampling
        )
        return {"engine": faster}

    config = {**sampling, "dtype": train.best_dtype(), "prompts": digest_of(examples)}
    run = run_or_load(
        run_dir,
        "engine-hub",
        config,
        make,
        doing="sampling",
        inputs={"base": base.key},
    )
    return run.metrics["engine"]


def make_replies(
    run_dir: str | Path,
    policy: Policy,
    examples: Sequence[Example],
    *,
    seed: int,
    sampling: Mapping[str, Any],
    batch_size: int = 64,
    progress: bool = True,
) -> Run:
    """Run of a policy's replies to examples, in replies.json.

    Parameters
    ----------
    run_dir : path
        Where runs are kept.
    policy : Place or Run
        Who replies.
    examples : sequence of dict
        To what.
    seed : int
        Of the sampling.
    sampling : dict
        Keywords of `serving.sample`: temperature, top_p, max_new_tokens, engine.
    batch_size : int
        Prompts at once.
    progress : bool
        Show a bar.

    Returns
    -------
    Run
        Metrics: tokens (mean length of a reply); empty, cut (at max_new_tokens) and
        respelt (its text is written in other tokens than were sampled), shares of
        replies.
    """
    config = {
        **sampling,
        "seed": seed,
        "dtype": train.best_dtype(),
        "prompts": digest_of(examples),
    }

    def make(folder: Path) -> dict:
        model, tokenizer = model_of(policy)
        prompts, names = prompts_of(tokenizer, examples)
        replies = serving.sample(
            model,
            tokenizer,
            prompts,
            names=names,
            seed=seed,
            batch_size=batch_size,
            progress=progress,
            **sampling,
        )
        texts = [reply.text for reply in replies]
        ids = [reply.ids for reply in replies]
        said = files.dumps({"texts": texts, "ids": ids})
        files.write_whole(folder / "replies.json", said)
        return {
            "tokens": float(token_lengths(texts, tokenizer).mean()),
            "empty": float(np.mean([not text.strip() for text in texts])),
            **shares(tokenizer, prompts, replies),
        }

    small = len(examples) * sampling["max_new_tokens"] <= SMALL
    return run_or_load(
        run_dir,
        "replies-hub",
        config,
        make,
        doing="sampling",
        inputs={"policy": policy.key},
        keep=["replies.json"] if small else [],
    )


def read_replies(run: Run) -> list[str]:
    """The replies of a run of `make_replies`, one per example."""
    return json.loads(run.read("replies.json"))["texts"]


def read_ids(run: Run) -> list[list[int]]:
    """The tokens of the replies of a run of `make_replies`, as they were sampled."""
    return json.loads(run.read("replies.json"))["ids"]


# ---- pairs ----


def negatives_of(examples: Sequence[Example], kind: str, seed: int) -> list[dict]:
    """What each example's rejected reply answers, an example again.

    Parameters
    ----------
    examples : sequence of dict
        With query and context.
    kind : str
        "random_context" draws from the contexts of all examples, the own one included;
        "missing_context" leaves it out; "random_prompt" takes another example whole,
        evenly drawn and never the own one.
    seed : int
        Of the draw, see `mipo.pairs.draw_partners`.

    Returns
    -------
    list of dict
    """
    contexts = [""] * len(examples)
    if kind != "missing_context":
        rows = draw_partners(len(examples), kind, seed=seed)
        partners = [examples[j] for (j,) in rows]
        if kind == "random_prompt":
            return [dict(partner) for partner in partners]
        contexts = [partner["context"] for partner in partners]
    return [
        {"query": example["query"], "context": context}
        for example, context in zip(examples, contexts, strict=True)
    ]


def make_pairs(
    run_dir: str | Path,
    base: Place,
    examples: Sequence[Example],
    kind: str,
    *,
    seed: int,
    sampling: Mapping[str, Any],
    batch_size: int = 64,
    progress: bool = True,
) -> Run:
    """Run of the base model's own preference pairs, in pairs/train.jsonl.

    Parameters
    ----------
    run_dir, base, examples, seed, sampling, batch_size, progress
        See `make_replies`.
    kind : str
        What rejected replies answer, see `negatives_of`.

    Returns
    -------
    Run
        Metrics: pairs, and left_out: pairs with an empty reply or with two equal ones.

    Raises
    ------
    ValueError
        Where no pair is left.
    """

    def replies(answered: Sequence[Example], seed: int) -> Run:
        return make_replies(
            run_dir,
            base,
            answered,
            seed=seed,
            sampling=sampling,
            batch_size=batch_size,
            progress=progress,
        )

    chosen = replies(examples, seed)
    rejected = None
    if kind != "random_prompt":  # whose rejected replies are others' chosen ones
        negatives = negatives_of(examples, kind, seed)
        rejected = replies(negatives, seed + REJECTED_STREAM)

    def make(folder: Path) -> dict:
        better, their_ids = read_replies(chosen), read_ids(chosen)
        if rejected is None:
            partners = draw_partners(len(examples), kind, seed=seed)
            worse = [better[j] for (j,) in partners]
            ids = [their_ids[j] for (j,) in partners]
        else:
            worse, ids = read_replies(rejected), read_ids(rejected)
        rows = [
            conversational(example, better[i], worse[i])
            | dict(zip(TOKEN_COLUMNS, (their_ids[i], ids[i]), strict=True))
            for i, example in enumerate(examples)
            if better[i] != worse[i] and better[i].strip() and worse[i].strip()
        ]
        if not rows:
            raise ValueError(
                "no pair is left: rejected replies equal chosen ones, or are empty; "
                "raise the temperature"
            )
        files.write_whole(folder / PAIRS, files.lines(rows))
        return {"pairs": len(rows), "left_out": len(examples) - len(rows)}

    inputs = {"chosen": chosen}
    if rejected:
        inputs["rejected"] = rejected
    return run_or_load(
        run_dir,
        f"pairs-{kind}-hub",
        {"kind": kind, "seed": seed, "prompts": digest_of(examples)},
        make,
        doing="sampling",
        what="making pairs",
        inputs=inputs,
    )


def conversational(example: Example, chosen: str, rejected: str) -> dict:
    """A pair in TRL's conversational format."""
    context, query = example["context"], example["query"]
    content = f"{context}\n\n{query}" if context else query
    return {
        "prompt": [{"role": "user", "content": content}],
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": rejected}],
    }


def labelled_pairs(run_dir: str | Path, rows: Sequence[Mapping]) -> Run:
    """Run of labelled preferences, in pairs/train.jsonl."""
    columns = ("prompt", "chosen", "rejected")
    pairs = [{name: row[name] for name in columns} for row in rows]

    def make(folder: Path) -> dict:
        files.write_whole(folder / PAIRS, files.lines(pairs))
        return {"pairs": len(pairs), "left_out": 0}

    return run_or_load(
        run_dir,
        "pairs-labelled-hub",
        {"rows": files.digest(pairs)},
        make,
        doing="sampling",
        what="making pairs",
    )


def read_pairs(run: Run) -> list[dict]:
    """The pairs of a run of `make_pairs` or `labelled_pairs`."""
    return jsonl.rows(run.path / PAIRS)


# ---- training ----


def train_policy(
    run_dir: str | Path,
    loss: str,
    setting: Setting,
    base: Place,
    pairs: Run,
    *,
    lr: float,
    epochs: float,
    batch_size: int,
    micro_batch: int,
    max_length: int,
    lora_rank: int,
    seed: int,
    checkpointing: bool = True,
    launcher: str = "",
    save_every: int = 200,
    progress: bool = True,
) -> Run:
    """Run of one training; the policy is in `path / "model"`, its losses in log.json.

    Parameters
    ----------
    run_dir : path
        Where runs are kept.
    loss : str
        A loss of `mipo.losses`.
    setting : methods.Setting
        Keywords of the loss, and the recipe of the optimiser.
    base : Place
        The model to train.
    pairs : Run
        Of `make_pairs` or `labelled_pairs`.
    lr, epochs, batch_size, seed
        Of the training; a batch is in pairs.
    micro_batch : int
        Pairs on one card at once.
    max_length : int
        Tokens of a prompt and its reply, which is cut there.
    lora_rank : int
        0 trains all weights.
    checkpointing : bool
        Whether activations are computed again instead of held.
    launcher : str
        A configuration of accelerate starts several processes; "" trains in this one.
    save_every : int
        Steps between checkpoints.
    progress : bool
        Show a bar.

    Returns
    -------
    Run
        A training that diverged is a result too: its metrics are {"failed": why}.

    Notes
    -----
    A training that was cut goes on from its last checkpoint.
    """
    config = {
        "loss": loss,
        "loss_kwargs": dict(setting.kwargs),
        "recipe": setting.recipe,
        "lr": lr,
        "epochs": epochs,
        "batch_size": batch_size,
        "max_length": max_length,
        "lora_rank": lora_rank,
        "seed": seed,
        "dtype": train.best_dtype(),
    }
    # Checkpoints lie in a folder with the run's name until that is whole.
    checkpoints = files.resolve(run_dir) / "checkpoints"

    def make(folder: Path) -> dict:
        release()
        spec = config | {
            "base": str(base.path),
            "pairs": str(pairs.path / PAIRS),
            "folder": str(folder),
            "checkpoints": str(checkpoints / folder.stem.removeprefix(".")),
            "micro_batch": micro_batch,
            "checkpointing": checkpointing,
            "save_every": save_every,
            "progress": progress,
        }
        try:
            return launch.run(spec, launcher)
        except FloatingPointError as error:
            return {"failed": str(error)}

    run = run_or_load(
        run_dir,
        f"train-{loss}-hub",
        config,
        make,
        doing="training",
        what=f"training {loss}",
        code=["mipo_study.hub.train"],
        inputs={"base": base.key, "pairs": pairs},
        keep=["log.json"],
    )
    shutil.rmtree(checkpoints / run.folder.name, ignore_errors=True)
    return run


def train_method(
    run_dir: str | Path,
    base: Place,
    dataset: benchmarks.Data,
    name: str,
    *,
    seed: int,
    sampling: Mapping[str, Any],
    shots: int = 8,
    lr: float = 0.0,
    beta: float = 0.0,
    batch_size: int = 0,
    sample_batch: int = 64,
    **how: Any,
) -> Run:
    """Run of a method's training on a data set, its pairs made first.

    Parameters
    ----------
    run_dir : path
        Where runs are kept.
    base : Place
        The base model.
    dataset : Data
        Whose training part is used.
    name : str
        A key of `methods.METHODS`.
    seed : int
        Of pairs and training.
    sampling : dict
        Keywords of `serving.sample`, for the pairs.
    shots : int
        See `as_examples`.
    lr, beta, batch_size : float
        0 takes what was published. Adapters then learn at ten times the rate, as TRL
        advises: published rates are those of full fine-tuning.
    sample_batch : int
        Prompts at once while sampling.
    **how
        Keywords of `train_policy`.

    Returns
    -------
    Run
        See `train_policy`; its metrics also count pairs, and pairs left_out.

    Raises
    ------
    ValueError
        Where no learning rate was published and none is given.
    """
    kind = dataset.kind
    setting = protocol.setting_of(kind, name)
    if beta and "beta" in setting.kwargs:
        setting = replace(setting, kwargs={**setting.kwargs, "beta": beta})
    if not lr and setting.lr is None:
        raise ValueError(f"{name}: no learning rate was published for {kind}; give lr")
    negatives = protocol.negatives_for(kind, name)
    if negatives == "labelled":
        pairs = labelled_pairs(run_dir, dataset.train)
    else:
        pairs = make_pairs(
            run_dir,
            base,
            as_examples(dataset.train, kind, shots),
            negatives,
            seed=seed,
            sampling=sampling,
            batch_size=sample_batch,
            progress=how["progress"],
        )
    published = (setting.lr or 0.0) * (10 if how["lora_rank"] else 1)
    run = train_policy(
        run_dir,
        methods.method(name).loss,
        setting,
        base,
        pairs,
        seed=seed,
        lr=lr or published,
        batch_size=protocol.batch_of(kind, batch_size),
        **how,
    )
    return replace(run, metrics={**pairs.metrics, **run.metrics})
