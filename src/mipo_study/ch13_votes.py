"""The runs of the chapter on real people, each a record: base model, pairs, MIPO; and the gain with its interval."""

import json
import shutil
from pathlib import Path

import numpy as np

from mipo import evaluate, models, pairs
from mipo.data import render
from mipo.trainer import PreferenceTrainer
from mipo.worlds import votes
from mipo_study.arms import settings


def make_base(
    folder: Path,
    world: votes.Panel,
    *,
    layers: int,
    hidden: int,
    steps: int,
    lr: float,
    seed: int,
    progress: bool,
) -> dict:
    """Train a base model on the base people; files: model/, and its mean vote per statement as crowd.npy, nobody.npy.

    crowd.npy (Q, 2) is the mean over the contexts of the MIPO people, nobody.npy (Q, 2) the answer without a context.
    """
    tokenizer = models.build_tokenizer(votes.vocabulary(world))
    model = models.small_model(
        tokenizer, hidden=hidden, layers=layers, heads=4, seed=seed
    )
    losses = models.pretrain(
        model,
        tokenizer,
        votes.training_examples(world, tokenizer),
        steps=steps,
        batch_size=64,
        lr=lr,
        seed=seed,
        progress=progress,
    )
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    crowd = votes.contexts_of(votes.examples(world, "mipo", seed=seed))
    np.save(folder / "crowd.npy", votes.statement_means(model, tokenizer, world, crowd))
    np.save(folder / "nobody.npy", votes.statement_means(model, tokenizer, world, [""]))
    return {
        "loss_at_end": float(np.mean(losses[-50:])),
        "parameters": model.num_parameters(),
    }


def make_pairs(
    folder: Path,
    world: votes.Panel,
    base: Path,
    *,
    questions: int,
    seed: int,
    progress: bool,
) -> dict:
    """Put `questions` statements to each MIPO person; file: pairs.json, without pairs whose two replies are alike.

    Alike replies give no gradient: their log-ratio is zero whatever the model.
    """
    prompts = votes.examples(
        world, "mipo", questions=questions, answered=False, seed=seed
    )
    model, tokenizer = models.load_model(base / "model", device="cpu")
    made = pairs.synthesise_pairs(
        model, tokenizer, prompts, max_new_tokens=2, seed=seed, progress=progress
    )
    useful = [row for row in made.to_list() if not row["identical"]]
    (folder / "pairs.json").write_text(json.dumps(useful))
    return {
        "prompts": len(made),
        "useful": len(useful),
        "collisions": int(sum(made["collision"])),
    }


def make_preferences(
    folder: Path, world: votes.Panel, base: Path, *, questions: int, seed: int
) -> dict:
    """The votes that the MIPO people cast on asked statements, each preferred to the other vote; file: pairs.json."""
    _, tokenizer = models.load_model(base / "model", device="cpu")
    cast = votes.examples(world, "mipo", questions=questions, seed=seed)
    rows = [
        {
            "prompt": render(tokenizer, r["query"], r["context"]),
            "chosen": r["gold"],
            "rejected": next(v for v in votes.REPLIES if v != r["gold"]),
        }
        for r in cast
    ]
    (folder / "pairs.json").write_text(json.dumps(rows))
    return {"pairs": len(rows)}


def held_out(world: votes.Panel, seed: int) -> tuple[list[dict], list[dict]]:
    """(test, validation): eight held-out votes of each person of either split, to be predicted from their others."""
    return votes.examples(world, "test", seed=1000 + seed), votes.examples(
        world, "validation", seed=2000 + seed
    )


def make_policy(
    folder: Path,
    world: votes.Panel,
    base: Path,
    rows: Path,
    *,
    loss: str,
    loss_kwargs: dict,
    lr: float,
    batch_size: int,
    placebo: bool,
    seed: int,
    progress: bool,
) -> dict:
    """One pass over the pairs with a loss of `mipo.losses`; file: test.npy (N, 2), the new chances on the test records.

    Metric: the mean chance of the right vote on the validation records.
    """
    from datasets import Dataset

    model, tokenizer = models.load_model(base / "model", device="cpu")
    data = Dataset.from_list(json.loads((rows / "pairs.json").read_text()))
    args = settings(
        folder,
        loss=loss,
        loss_kwargs=loss_kwargs,
        lr=lr,
        batch_size=batch_size,
        seed=seed,
        use_cpu=True,
        disable_tqdm=not progress,
    )
    data = pairs.flip_by_coin(data, seed) if placebo else data
    PreferenceTrainer(
        model=model, args=args, train_dataset=data, processing_class=tokenizer
    ).train()
    shutil.rmtree(args.output_dir, ignore_errors=True)
    models.require_finite(model, f"{loss} on votes", lr)
    test, validation = held_out(world, seed)
    np.save(folder / "test.npy", votes.vote_probs(model, tokenizer, test))
    return {
        "validation": votes.means(
            [votes.vote_probs(model, tokenizer, validation)], [validation], "chance"
        )[0]
    }


def gain(ours: list, theirs: list, recs: list, metric: str) -> dict:
    """Mean gain of `ours` over `theirs`, positive is better, with its interval: keywords for `Notebook.claim`.

    Seeds and people are resampled, each person whole: the same people answer under every seed, so their noise does not
    average out over seeds. ours, theirs: one (N, 2) per seed; recs: the records of each seed.
    """
    sign = -1 if metric == "log_loss" else 1
    a, b = (
        np.concatenate(
            [sign * votes.scores(p, r)[metric] for p, r in zip(side, recs, strict=True)]
        )
        for side in (ours, theirs)
    )
    seeds = np.concatenate([np.full(len(r), i) for i, r in enumerate(recs)])
    people = np.array([x["person"] for r in recs for x in r])
    value, low, high = evaluate.paired_bootstrap(a, b, clusters=[seeds, people])
    return {
        "value": value,
        "interval": (low, high),
        "unit": "nats per vote" if metric == "log_loss" else "of votes",
    }
