"""Preferences in the small world: two replies of one model, labelled by the exact checker with Bradley-Terry noise.

Pairs, training with any loss of `mipo.losses`, and what a policy makes of preferences it has not seen; all as records.
"""

import hashlib
import json
import shutil

import numpy as np
from scipy.special import expit

from mipo import cache, files
from mipo.data import render
from mipo.logprobs import prompt_pmi, response_logps
from mipo.losses.declaration import check
from mipo.models import load_model
from mipo.worlds import scoring
from mipo.worlds.language_model import sample_replies
from mipo_study.arms import train_loss
from mipo_study.runs import read_pairs


def worth(replies, records):
    """The checker's score of each reply: its adherence, or -1 outside the grammar."""
    scores = scoring.score(replies, records)
    return np.where(scores["valid"] == 1, scores["adherence"], -1.0)


def label(first, second, records, *, strength=4.0, flips=0.0, seed=0):
    r"""Rows {first_wins, wrong, record} for the prompts whose two replies differ.

    P(first is chosen) = sigmoid(strength · (worth(first) - worth(second))): Bradley-Terry. Then a share `flips` of the
    labels is turned round. `wrong`: the chosen reply is worth less than the rejected one.
    """
    if not 0 <= flips < 0.5:
        raise ValueError(
            f"flips={flips!r}: the share of wrong labels must be at least 0 and below one half"
        )
    if not strength > 0:
        raise ValueError(f"strength={strength!r} must be above 0")
    if not len(first) == len(second) == len(records):
        raise ValueError(
            f"{len(first)} and {len(second)} replies for {len(records)} records"
        )
    rng = np.random.default_rng((seed, 5))
    gap = worth(first, records) - worth(second, records)
    wins = rng.random(len(records)) < expit(strength * gap)
    wins ^= (
        rng.random(len(records)) < flips
    )  # drawn for every row: the same noise at every share
    return [
        {"first_wins": bool(w), "wrong": bool((g if w else -g) < 0), "record": i}
        for i, (w, g) in enumerate(zip(wins, gap, strict=True))
        if first[i] != second[i]
    ]


def preferences(
    run_dir, base, records, *, strength=4.0, flips=0.0, seed=0, progress=True
):
    """Record of labelled pairs in TRL's format, pairs/train.jsonl, with the base model's log-probs as reference.

    Columns beside prompt, chosen, rejected, ref_chosen_logps, ref_rejected_logps: record (index), wrong.
    Metrics: pairs, identical (prompts dropped because both replies read the same), wrong (share of labels against the
    checker), tied (share of pairs between which the checker sees no difference).
    """
    asked = hashlib.sha256(files.dumps(records).encode()).hexdigest()
    config = {"strength": strength, "flips": flips, "seed": seed, "records": asked}

    def make(folder):
        model, tokenizer = load_model(base)
        both = [
            sample_replies(
                model, tokenizer, records, seed=2 * seed + i, progress=progress
            )
            for i in (0, 1)
        ]
        marks = label(*both, records, strength=strength, flips=flips, seed=seed)
        prompts = [
            render(
                tokenizer,
                records[m["record"]]["query"],
                records[m["record"]]["context"],
            )
            for m in marks
        ]
        ordered = [
            [side[m["record"]] for side in (both if m["first_wins"] else both[::-1])]
            for m in marks
        ]
        scored = response_logps(
            model, tokenizer, prompts, ordered, batch_size=256, progress=progress
        ).summed.tolist()
        rows = [
            {
                "prompt": p,
                "chosen": w,
                "rejected": u,
                "ref_chosen_logps": a,
                "ref_rejected_logps": b,
                **m,
            }
            for p, (w, u), (a, b), m in zip(
                prompts, ordered, scored, marks, strict=True
            )
        ]
        files.write_whole(
            folder / "pairs" / "train.jsonl",
            "".join(json.dumps(row) + "\n" for row in rows),
        )
        picked = [records[m["record"]] for m in marks]
        even = worth([w for w, _ in ordered], picked) == worth(
            [u for _, u in ordered], picked
        )
        return {
            "pairs": len(rows),
            "identical": len(records) - len(rows),
            "wrong": float(np.mean([m["wrong"] for m in marks])),
            "tied": float(even.mean()),
        }

    return cache.run_or_load(
        run_dir,
        f"preferences-{seed}",
        config,
        make,
        code=["mipo_study.labelled"],
        inputs={"base": base},
    )


def train(
    run_dir,
    loss,
    base,
    pairs,
    *,
    lr,
    loss_kwargs=None,
    epochs=1.0,
    batch_size=24,
    seed=0,
    progress=True,
    **options,
):
    """Record of one training run with any loss; `path / "model"` is the policy, log.json what each step logged.

    pairs     JSONL with prompt, chosen, rejected as text; columns ref_chosen_logps and ref_rejected_logps are used
    options   first_token, marginal, margin_warmup of `mipo.trainer.PreferenceConfig`; lora_rank
    A run that diverged (a loss or weights that are no finite numbers) is a result too: its metrics are {"failed": why},
    and it has no model. Wrong settings and data raise a ValueError as ever.
    """
    config = {
        "loss": loss,
        "lr": lr,
        "loss_kwargs": loss_kwargs or {},
        "epochs": epochs,
        "batch_size": batch_size,
        "seed": seed,
        **options,
    }
    check(loss, config["loss_kwargs"])

    def make(folder):
        keywords = {k: v for k, v in config.items() if k != "loss"}
        try:
            return train_loss(
                loss,
                base,
                read_pairs(pairs),
                folder,
                progress=progress,
                cache=files.resolve(run_dir) / "cache" / "ref-logps",
                **keywords,
            )
        except FloatingPointError as error:
            shutil.rmtree(folder / "trainer", ignore_errors=True)
            return {"failed": str(error)}

    return cache.run_or_load(
        run_dir,
        f"train-{loss}",
        config,
        make,
        code=["mipo_study.arms"],
        inputs={"base": base, "pairs": pairs},
    )


def weigh(run_dir, policy, pairs, *, first_token="start", limit=400, progress=True):
    """Record of what a policy makes of labelled pairs it has not seen (the first `limit`), in gaps.json.

    gaps.json    lists, one number per pair, nats per token: gap (mean log-prob of the chosen less that of the
                 rejected), ratio_gap (the same against the base model), delta_pmi; and, where the pairs say `wrong`,
                 right (the label does not go against the checker)
    metrics      accuracy and ratio_accuracy (share of pairs with a gap above 0, labels as given), chosen_drift and
                 rejected_drift (mean log-prob less the base model's, nats per token)
    """

    def make(folder):
        model, tokenizer = load_model(policy)
        rows = read_pairs(pairs)
        rows = rows.select(range(min(limit, len(rows))))
        prompts, replies = rows["prompt"][:], [rows["chosen"][:], rows["rejected"][:]]
        sides = [
            response_logps(
                model, tokenizer, prompts, side, batch_size=256, progress=progress
            )
            for side in replies
        ]
        drift = [
            side.mean - _column(rows, f"ref_{name}_logps") / side.tokens
            for side, name in zip(sides, ("chosen", "rejected"), strict=True)
        ]
        pmi = [
            prompt_pmi(
                model, tokenizer, prompts, side, first_token=first_token, batch_size=256
            )
            for side in replies
        ]
        gap, ratio = sides[0].mean - sides[1].mean, drift[0] - drift[1]
        lists = {"gap": gap, "ratio_gap": ratio, "delta_pmi": pmi[0] - pmi[1]}
        known = (
            {"right": [not w for w in rows["wrong"]]}
            if "wrong" in rows.column_names
            else {}
        )
        found = {name: values.double().tolist() for name, values in lists.items()}
        files.write_whole(folder / "gaps.json", files.dumps(found | known))
        return {
            "accuracy": float((gap > 0).double().mean()),
            "ratio_accuracy": float((ratio > 0).double().mean()),
            "chosen_drift": float(drift[0].mean()),
            "rejected_drift": float(drift[1].mean()),
        }

    return cache.run_or_load(
        run_dir,
        "weigh",
        {"first_token": first_token, "limit": limit},
        make,
        code=["mipo_study.labelled"],
        inputs={"policy": policy, "pairs": pairs},
    )


def _column(rows, name):
    import torch

    return torch.tensor(rows[name][:])


def gaps(record):
    """The lists that `weigh` left: {name: list}."""
    return files.read_json(record.path / "gaps.json")
