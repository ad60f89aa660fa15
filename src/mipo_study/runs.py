"""Training runs and examinations in the small world as records: made once, whole or not at all, and found again."""

import hashlib
import json
import logging
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import forkserver

from mipo import cache, files, jsonl
from mipo.models import load_model
from mipo.pairs import flip_by_coin, synthesise_pairs
from mipo.worlds import population, scoring
from mipo.worlds.language_model import sample_replies, train_base
from mipo_study.arms import ARMS, train_arm


def base_model(
    run_dir, *, seed, without="marginal", steps, batch_size, lr, progress=True
):
    """Record of a base model of the small world, in `path / "model"`; metrics: losses, parameters. See base.train_base."""
    config = {
        "steps": steps,
        "batch_size": batch_size,
        "lr": lr,
        "seed": seed,
        "without": without,
    }

    def make(folder):
        model, tokenizer, losses = train_base(**config, progress=progress)
        for part in (model, tokenizer):
            part.save_pretrained(folder / "model")
        return {"losses": losses, "parameters": model.num_parameters()}

    return cache.run_or_load(
        run_dir,
        f"base-{without}-{seed}",
        config,
        make,
        code=["mipo.worlds.language_model"],
    )


def synthesise(
    run_dir,
    base,
    records,
    *,
    negatives,
    seed,
    placebo=False,
    loaded=None,
    chosen=None,
    progress=True,
    **settings,
):
    """Record of the pairs that a base model makes of `records`, in pairs/train.jsonl; see pairs.synthesise_pairs.

    base      folder or hub name of the model; `loaded` (model, tokenizer) if it is in memory already
    placebo   chosen and rejected are assigned by coin
    metrics   pairs, collisions, identical: how many
    """
    asked = hashlib.sha256(files.dumps(records).encode()).hexdigest()
    config = {
        **settings,
        "negatives": negatives,
        "seed": seed,
        "placebo": placebo,
        "records": asked,
    }

    def make(folder):
        made = synthesise_pairs(
            *(loaded or load_model(base)),
            records,
            negatives=negatives,
            seed=seed,
            chosen=chosen,
            progress=progress,
            **settings,
        )
        made = flip_by_coin(made, seed) if placebo else made
        (folder / "pairs").mkdir()
        made.to_json(folder / "pairs" / "train.jsonl")
        return {
            "pairs": len(made),
            "collisions": int(sum(made["collision"])),
            "identical": int(sum(made["identical"])),
        }

    return cache.run_or_load(
        run_dir,
        f"pairs-{negatives}-{seed}",
        config,
        make,
        code=["mipo_study.runs"],
        inputs={"base": base},
    )


def train(
    run_dir,
    arm,
    base,
    pairs,
    *,
    lr,
    beta,
    epochs,
    batch_size,
    seed,
    lora_rank=0,
    progress=True,
):
    """Record of one training run; its `path / "model"` is the policy in hub format.

    base   folder of the base model      pairs   JSONL of preference pairs (see mipo.pairs)
    """
    beta = beta if ARMS[arm].takes_beta else None
    config = {
        "arm": arm,
        "lr": lr,
        "beta": beta,
        "epochs": epochs,
        "batch_size": batch_size,
        "seed": seed,
        "lora_rank": lora_rank,
    }

    def make(folder):
        rows = read_pairs(pairs)
        return train_arm(
            arm,
            base,
            rows,
            folder,
            **{k: v for k, v in config.items() if k != "arm"},
            records=rows.to_list(),
            cache=files.resolve(run_dir) / "cache" / "ref-logps",
            progress=progress,
        )

    return cache.run_or_load(
        run_dir,
        f"train-{arm}",
        config,
        make,
        code=["mipo_study.arms"],
        inputs={"base": base, "pairs": pairs},
    )


def examine(
    run_dir,
    policy,
    *,
    split,
    n_people,
    seed,
    beta=1.0,
    wordings="unseen",
    alpha=0.0,
    progress=True,
):
    """Record of a policy's replies to people of a split (replies.jsonl), and their mean exact scores.

    Metrics: adherence and valid (shares), kl (nats per reply to the optimum at `beta`, over valid replies). alpha > 0
    decodes with context-aware decoding against the prompt without context. The same seed asks the same people
    for every policy.
    """
    config = {
        "split": split,
        "n_people": n_people,
        "seed": seed,
        "beta": beta,
        "wordings": wordings,
        "alpha": alpha,
    }

    def make(folder):
        model, tokenizer = load_model(policy)
        records = population.records(
            n_people, split=split, wordings=wordings, seed=7000 + seed
        )
        contrast = (
            {"contrast_prompts": bare(tokenizer, records), "alpha": alpha}
            if alpha
            else {}
        )
        replies = sample_replies(
            model, tokenizer, records, seed=seed, progress=progress, **contrast
        )
        scores = scoring.score(replies, records)
        rows = [
            {"reply": y, **r, "adherence": a, "valid": v}
            for y, r, a, v in zip(
                replies, records, scores["adherence"], scores["valid"], strict=True
            )
        ]
        (folder / "replies.jsonl").write_text(
            "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8"
        )
        kl = (
            scoring.kl_to_optimum(model, tokenizer, replies, records, beta=beta)
            if scores["valid"].any()
            else None
        )
        return {
            "adherence": float(scores["adherence"].mean()),
            "valid": float(scores["valid"].mean()),
            "kl": kl,
        }

    return cache.run_or_load(
        run_dir,
        f"examine-{split}",
        config,
        make,
        code=["mipo_study.runs"],
        inputs={"policy": policy},
    )


def side_by_side(function, calls, *, workers=2):
    """Make the records of `function(**call)` for each call in `workers` processes of one thread each.

    As fast as one process of two threads on two cores; it pays where there are more cores than a small model can use.
    Nothing is returned: what was made is a record, which `function` finds when it is called again. On Linux one server
    imports everything, once, and the processes are forked from it: importing takes as long as a short run. A single call
    is left to the caller; the server imports meanwhile.
    """
    context = multiprocessing.get_context(
        "forkserver" if sys.platform == "linux" else "spawn"
    )
    if calls and workers > 1 and sys.platform == "linux":
        context.set_forkserver_preload(
            [function.__module__, "mipo_study.runs", "mipo.trainer"]
        )  # heeded the first time
        forkserver.ensure_running()
    if workers > 1 and len(calls) > 1:
        with ProcessPoolExecutor(
            workers, mp_context=context, initializer=_one_thread
        ) as pool:
            for future in [pool.submit(_make, function, call) for call in calls]:
                future.result()


def _one_thread():
    import torch
    from datasets import disable_progress_bars
    from transformers.utils import logging as their_logging

    torch.set_num_threads(1)
    their_logging.disable_progress_bar(), disable_progress_bars()
    logging.getLogger("mipo").setLevel(
        logging.ERROR
    )  # nobody reads a worker's warnings; chapters count what they are about


def _make(function, call):
    function(**call, progress=False)


def exact(*, split, n_people, seed, beta=None, wordings="unseen"):
    """Expected adherence of the exact law (beta None) or of the optimum at β, on the people that `examine` asks."""
    records = population.records(
        n_people, split=split, wordings=wordings, seed=7000 + seed
    )
    return float(scoring.exact_adherence(records, beta=beta).mean())


def read_pairs(path):
    """Pairs from the JSONL of `synthesise` as a Dataset."""
    from datasets import Dataset

    return Dataset.from_list(jsonl.rows(path))


def bare(tokenizer, records):
    """The records' prompts without their context."""
    from mipo.data import render

    return [render(tokenizer, r["query"]) for r in records]
