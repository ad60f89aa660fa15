"""Studies of real models as records: data, replies, pairs, training. Each is made once and found again.

A policy is a `download.Place` (the model as it was) or the Record of a training run. What only says how a run is computed
(micro_batch, checkpointing, launch) is not part of its key: a run that did not fit may be repeated in smaller pieces.
"""

import gc
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from mipo import cache, files
from mipo.data import render
from mipo.evaluate.diversity import token_lengths
from mipo.preference_data import written
from mipo_study.hub import answers, benchmarks, download, serving
from mipo_study.hub import launch as launcher
from mipo_study.hub import train as fit
from mipo_study.hub.recipes import METHODS, batch_of

# ---- records ----


def run_or_load(
    run_dir,
    name,
    config,
    make,
    *,
    doing,
    what="",
    code=("mipo_study.hub.runs",),
    inputs=None,
):
    """`cache.run_or_load` with `download.explained` around all of it, since the record itself may find the disk full, too.

    doing, what   the step of the work, a key of `download.SMALLER` (or "dataset"), and what messages call it
    """
    with download.explained(what or doing, kind=doing):
        return cache.run_or_load(run_dir, name, config, make, code=code, inputs=inputs)


# ---- data ----


def data(run_dir, name, *, folder="", n_train, n_test, seed=0):
    """hub_data.Data as a record, so that a run without network finds what an earlier one read."""
    source, inputs, sha = benchmarks.SOURCES.get(name), {}, ""
    if source is None:
        inputs = {"file": files.resolve(name)}
    elif folder:
        inputs = {"folder": benchmarks.files_of(name, folder)}
    else:
        sha = download.PINNED[source.repo]
    config = {
        "name": name if source else "own",
        "commit": sha,
        "n_train": n_train,
        "n_test": n_test,
        "seed": seed,
    }

    def make(target):
        found = benchmarks.load(
            str(inputs.get("file", name)),
            folder=folder,
            n_train=n_train,
            n_test=n_test,
            seed=seed,
        )
        for part in ("train", "test"):
            files.write_whole(
                target / f"{part}.jsonl", files.lines(getattr(found, part))
            )
        return {
            "kind": found.kind,
            "train": len(found.train),
            "test": len(found.test),
            "source": found.source,
        }

    kept = run_or_load(
        run_dir,
        "data",
        config,
        make,
        doing="dataset",
        what=name,
        code=["mipo_study.hub.benchmarks"],
        inputs=inputs,
    )
    rows = {part: _lines(kept.path / f"{part}.jsonl") for part in ("train", "test")}
    return benchmarks.Data(
        kept.metrics["kind"], rows["train"], rows["test"], kept.metrics["source"]
    )


def _lines(path):
    return [
        json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()
    ]


def as_records(rows, kind, shots=8):
    """What is asked, {query, context}: people's records as they are, items as prompts; for preferences also `messages`."""
    if kind == "reasoning":
        return [{"query": answers.prompt(item, shots), "context": ""} for item in rows]
    if kind == "preferences":
        return [
            {
                "query": talk(r["prompt"]),
                "context": "",
                "messages": r["prompt"],
                "read_from": r["read_from"],
            }
            for r in rows
        ]
    return rows


def talk(messages):
    """Messages as a judge reads them: one as it is, several with who said each."""
    if len(messages) == 1:
        return messages[0]["content"]
    return "\n\n".join(f"{m['role'].capitalize()}: {m['content']}" for m in messages)


def rendered(tokenizer, record):
    """The prompt of a record as text: its query and context, or all messages of its talk."""
    if "messages" in record:
        return written(record["messages"], tokenizer, record["read_from"])
    return render(tokenizer, record["query"], record["context"])


def fitting(
    found, tokenizer, positions=None, judge=None, *, max_new_tokens, max_length, shots=8
):
    """A Data without the rows that a model's context has no room for; `source` counts them by part, "no_room".

    positions, judge   tokens in the policy's and the judge's context, None where nothing is known of it
    A prompt needs room for a reply, sampled or (in the test) labelled; to train on, it must be shorter than `max_length`. A
    person's message is asked in others' contexts as well, so people's prompts count twice. A judge reads two replies and its
    question (300 tokens), which its own tokenizer may cut a quarter finer.
    """
    limit, judge = positions or float("inf"), judge or float("inf")

    def fits(row, part):
        asked, written = _lengths(tokenizer, row, found.kind, shots)
        prompt = asked * (2 if found.kind == "people" else 1)
        if part == "train":
            return prompt + max_new_tokens <= limit and asked < max_length
        return (
            prompt + max(max_new_tokens, written) <= limit
            and 1.25 * (asked + 2 * max_new_tokens) + 300 <= judge
        )

    kept = {
        part: [row for row in getattr(found, part) if fits(row, part)]
        for part in ("train", "test")
    }
    lost = {part: len(getattr(found, part)) - len(rows) for part, rows in kept.items()}
    for part in kept:
        if not kept[part]:
            raise ValueError(
                f"no {part} prompt leaves room for {max_new_tokens} tokens of reply (max_length {max_length}, "
                f"context {limit}, of the judge {judge}): lower max_new_tokens or shots, raise max_length, or "
                "take another model or judge"
            )
    return replace(found, **kept, source=found.source | {"no_room": lost})


def _lengths(tokenizer, row, kind, shots):
    """Tokens of a row's prompt, and of the longer of its labelled replies (0 where it has none)."""
    (record,) = as_records([row], kind, shots)
    written = (
        [row[side][0]["content"] for side in ("chosen", "rejected")]
        if kind == "preferences"
        else []
    )
    asked, *replies = tokenizer([rendered(tokenizer, record), *written], verbose=False)[
        "input_ids"
    ]
    return len(asked), max(map(len, replies), default=-1) + 1  # and its end


# ---- replies and pairs ----


def path_of(policy):
    return policy.path / "model" if isinstance(policy, cache.Run) else policy.path


_HELD = {}  # {key: (model, tokenizer)}, one at most


def model_of(policy):
    """(model, tokenizer), held until another is asked for: a card has room for one, and many ask for the same in turn."""
    if policy.key not in _HELD:
        release()
        _HELD[policy.key] = fit.load(path_of(policy), dtype=fit.best_dtype())
    return _HELD[policy.key]


def release():
    """Let go of the model that is held and give its memory back to the card."""
    _HELD.clear()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def asked_of(records, fields=("query", "context")):
    return files.digest([[r.get(f) for f in fields] for r in records])


def asking(tokenizer, records):
    """Rendered prompts of records, and what errors call each, as keywords of `serving`."""
    return {
        "prompts": [rendered(tokenizer, r) for r in records],
        "names": [r.get("read_from") or f"record {i}" for i, r in enumerate(records)],
    }


def engine_of(run_dir, base, records, *, sampling, engine="auto", batch_size=64):
    """`engine`, or for "auto" the faster one, timed once on the base model and kept.

    It belongs into `sampling`, and so into the key of every reply: a base and its policies must be sampled alike. So
    whoever lowers `batch_size` keeps what was chosen, and with it the replies that are there.
    """
    if engine != "auto":
        return serving.known(engine)

    def make(folder):
        model, tokenizer = model_of(base)
        asked = asking(tokenizer, records)
        return {
            "engine": serving.choose(
                model, tokenizer, batch_size=batch_size, **asked, **sampling
            )
        }

    config = {**sampling, "dtype": fit.best_dtype(), "asked": asked_of(records)}
    return run_or_load(
        run_dir,
        "engine-real",
        config,
        make,
        doing="sampling",
        inputs={"base": base.key},
    ).metrics["engine"]


def replies(run_dir, policy, records, *, seed, sampling, batch_size=64, progress=True):
    """Record of a policy's replies to records, in replies.json; metrics: tokens (mean length), empty (share).

    sampling   keywords of `serving.generate`: temperature, top_p, max_new_tokens, engine
    """
    config = {
        **sampling,
        "seed": seed,
        "dtype": fit.best_dtype(),
        "asked": asked_of(records),
    }

    def make(folder):
        model, tokenizer = model_of(policy)
        said = serving.generate(
            model,
            tokenizer,
            **asking(tokenizer, records),
            seed=seed,
            batch_size=batch_size,
            progress=progress,
            **sampling,
        )
        files.write_whole(folder / "replies.json", files.dumps(said))
        return {
            "tokens": float(token_lengths(said, tokenizer).mean()),
            "empty": float(np.mean([not y.strip() for y in said])),
        }

    return run_or_load(
        run_dir,
        "answers-real",
        config,
        make,
        doing="sampling",
        inputs={"policy": policy.key},
    )


def said(record):
    return files.read_json(record.path / "replies.json")


def negatives_of(records, kind, seed):
    """Per record what the rejected reply answers: {query, context}; for "random_prompt" the number of another record.

    "random_context" draws from the contexts of all records, the own one included: an exact sample of the marginal.
    "random_prompt" is a derangement: no reply is set against itself.
    """
    rng, n = np.random.default_rng((seed, 2)), len(records)
    if kind == "missing_context":
        return [{"query": r["query"], "context": ""} for r in records]
    if kind == "random_context":
        return [
            {"query": r["query"], "context": records[j]["context"]}
            for r, j in zip(records, rng.integers(n, size=n), strict=True)
        ]
    if n < 2:
        raise ValueError("random_prompt needs at least two records")
    order = rng.permutation(
        n
    )  # one cycle through all records, so that nobody meets itself
    other = np.empty(n, dtype=int)
    other[order] = np.roll(order, 1)
    return other.tolist()


def pairs(
    run_dir, base, records, kind, *, seed, sampling, batch_size=64, progress=True
):
    """Record of the base model's own preference pairs, pairs/train.jsonl; identical ones are left out and counted."""
    common = dict(sampling=sampling, batch_size=batch_size, progress=progress)
    chosen = replies(run_dir, base, records, seed=seed, **common)
    drawn = negatives_of(records, kind, seed)
    other = (
        None
        if kind == "random_prompt"
        else replies(run_dir, base, drawn, seed=seed + 1_000_003, **common)
    )

    def make(folder):
        yes = said(chosen)
        no = [yes[j] for j in drawn] if other is None else said(other)
        rows = [
            {
                "prompt": [
                    {
                        "role": "user",
                        "content": f"{r['context']}\n\n{r['query']}"
                        if r["context"]
                        else r["query"],
                    }
                ],
                "chosen": [{"role": "assistant", "content": y}],
                "rejected": [{"role": "assistant", "content": u}],
            }
            for r, y, u in zip(records, yes, no, strict=True)
            if y != u and y.strip() and u.strip()
        ]
        if not rows:
            raise ValueError(
                "no pair is left: rejected replies equal chosen ones, or are empty; raise the temperature"
            )
        files.write_whole(folder / "pairs" / "train.jsonl", files.lines(rows))
        return {"pairs": len(rows), "left_out": len(records) - len(rows)}

    inputs = {"chosen": chosen} | ({"rejected": other} if other else {})
    config = {"kind": kind, "seed": seed, "asked": asked_of(records)}
    return run_or_load(
        run_dir,
        f"pairs-real-{kind}",
        config,
        make,
        doing="sampling",
        what="making pairs",
        inputs=inputs,
    )


def labelled(run_dir, rows):
    """Record of labelled preferences as pairs/train.jsonl."""
    kept = [{k: r[k] for k in ("prompt", "chosen", "rejected")} for r in rows]

    def make(folder):
        files.write_whole(folder / "pairs" / "train.jsonl", files.lines(kept))
        return {"pairs": len(rows), "left_out": 0}

    config = {"rows": files.digest(kept)}
    return run_or_load(
        run_dir,
        "pairs-real-labelled",
        config,
        make,
        doing="sampling",
        what="making pairs",
    )


# ---- training ----


def train(
    run_dir,
    method,
    base,
    made,
    *,
    lr,
    epochs,
    batch_size,
    micro_batch,
    max_length,
    lora_rank,
    seed,
    loss_kwargs=None,
    checkpointing=True,
    launch="",
    save_every=200,
    progress=True,
):
    """Record of one training run of `method` (a Method) on the pairs of a record; the policy is in `path / "model"`.

    launch   "" trains here, in one process on one card; a configuration of accelerate starts it on several
    A run that diverged is a result too: its metrics are {"failed": why}. A run that was cut goes on from its checkpoint.
    """
    config = {
        "loss": method.loss,
        "loss_kwargs": method.loss_kwargs | (loss_kwargs or {}),
        "recipe": method.recipe,
        "lr": lr,
        "epochs": epochs,
        "batch_size": batch_size,
        "max_length": max_length,
        "lora_rank": lora_rank,
        "seed": seed,
        "dtype": fit.best_dtype(),
    }
    checkpoints = (
        files.resolve(run_dir) / "checkpoints"
    )  # in a folder with the record's name, until that is whole

    def make(folder):
        release()
        mine = checkpoints / folder.stem.removeprefix(".")
        spec = config | {
            "base": str(base.path),
            "pairs": str(made.path / "pairs" / "train.jsonl"),
            "folder": str(folder),
            "checkpoints": str(mine),
            "micro_batch": micro_batch,
            "checkpointing": checkpointing,
            "save_every": save_every,
            "progress": progress,
        }
        try:
            return launcher.run(spec, launch)
        except FloatingPointError as error:
            return {"failed": str(error)}

    found = run_or_load(
        run_dir,
        f"train-{method.loss}-real",
        config,
        make,
        doing="training",
        what=f"training {method.loss}",
        code=["mipo_study.hub.train"],
        inputs={"base": base.key, "pairs": made},
    )
    shutil.rmtree(checkpoints / found.path.name, ignore_errors=True)
    return found


def tune(
    run_dir,
    base,
    found,
    name,
    *,
    seed,
    sampling,
    shots=8,
    lr=0.0,
    beta=0.0,
    batch_size=0,
    sample_batch=64,
    **how,
):
    """Record of a method's training run on a Data, its pairs made first; lr, beta, batch_size 0: as published.

    how   keywords of `train`. Adapters take ten times the learning rate, as TRL advises.
    """
    method = METHODS[found.kind][name]
    if method.negatives:
        made = pairs(
            run_dir,
            base,
            as_records(found.train, found.kind, shots),
            method.negatives,
            seed=seed,
            sampling=sampling,
            batch_size=sample_batch,
            progress=how["progress"],
        )
    else:
        made = labelled(run_dir, found.train)
    rate = method.lr * (
        10 if how["lora_rank"] else 1
    )  # published rates are of full fine-tuning; TRL's advice for adapters
    return train(
        run_dir,
        method,
        base,
        made,
        seed=seed,
        lr=lr or rate,
        batch_size=batch_of(found.kind, batch_size),
        loss_kwargs={"beta": beta} if beta and "beta" in method.loss_kwargs else None,
        **how,
    )
