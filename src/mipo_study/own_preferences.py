"""What a loss makes of the reader's own preferences: prepared once, trained, weighed."""

import json

from mipo import cache, files, jsonl
from mipo.evaluate.diversity import token_lengths
from mipo.lm import sampling
from mipo.logprobs import response_logps
from mipo.models import load_model
from mipo.preference_data import as_text, read, split
from mipo_study import labelled


def prepare(run_dir, base, path, *, share=0.1, seed=0, progress=True):
    """Record of a reader's preferences, ready for labelled.train and labelled.weigh, with the base model's log-probs.

    Files: pairs/train.jsonl and pairs/unseen.jsonl with prompt, chosen, rejected (text), ref_chosen_logps and
    ref_rejected_logps (nats, summed over reply tokens). Metrics: train, unseen (rows).
    """
    rows = read(path)  # a broken file fails before anything is loaded

    def make(folder):
        model, tokenizer = load_model(base)
        parts = dict(
            zip(("train", "unseen"), split(rows, share=share, seed=seed), strict=True)
        )
        for name, part in parts.items():
            texts = as_text(part, tokenizer)
            both = [[row["chosen"], row["rejected"]] for row in texts]
            scored = response_logps(
                model,
                tokenizer,
                [row["prompt"] for row in texts],
                both,
                progress=progress,
            ).summed
            lines = [
                row | {"ref_chosen_logps": a, "ref_rejected_logps": b}
                for row, (a, b) in zip(texts, scored.tolist(), strict=True)
            ]
            files.write_whole(folder / "pairs" / f"{name}.jsonl", files.lines(lines))
        return {name: len(part) for name, part in parts.items()}

    return cache.run_or_load(
        run_dir,
        f"preferences-own-{seed}",
        {"share": share, "seed": seed},
        make,
        code=["mipo_study.own_preferences"],
        inputs={"base": base, "file": files.resolve(path)},
    )


def trial(
    run_dir,
    base,
    path,
    setting,
    *,
    lr,
    epochs=1.0,
    batch_size=24,
    seed=0,
    lora_rank=0,
    share=0.1,
    max_new_tokens=64,
    progress=True,
):
    """What one loss makes of a reader's preferences; setting None: the base model as it is. A dict:

    policy     its folder, None where it diverged (then only `failed` says why)
    metrics    rows trained on and held out (train, unseen), those of labelled.train and labelled.weigh, and tokens:
               mean length of a sampled reply to the held-out prompts (64 of them at most)
    gaps       lists of labelled.weigh over the held-out pairs
    """
    file = prepare(run_dir, base, path, share=share, seed=seed, progress=progress)
    pairs = {
        part: str(file.path / "pairs" / f"{part}.jsonl") for part in ("train", "unseen")
    }
    policy, metrics = str(base), dict(file.metrics)
    if setting is not None:
        made = labelled.train(
            run_dir,
            base=base,
            pairs=pairs["train"],
            lr=lr,
            epochs=epochs,
            batch_size=batch_size,
            seed=seed,
            lora_rank=lora_rank,
            progress=progress,
            **setting,
        )
        if "failed" in made.metrics:
            return {
                "policy": None,
                "failed": made.metrics["failed"],
                "metrics": metrics,
                "gaps": {},
            }
        policy, metrics = str(made.path / "model"), metrics | made.metrics
    seen = labelled.weigh(run_dir, policy, pairs["unseen"], progress=progress)
    length = _length(
        run_dir,
        policy,
        pairs["unseen"],
        seed=seed,
        max_new_tokens=max_new_tokens,
        progress=progress,
    )
    return {
        "policy": policy,
        "failed": "",
        "metrics": metrics | seen.metrics | length.metrics,
        "gaps": labelled.gaps(seen),
    }


def _length(run_dir, policy, unseen, *, progress, **settings):
    """Record of the mean length in tokens of a policy's replies to held-out prompts."""

    def make(folder):
        model, tokenizer = load_model(policy)
        prompts = list(dict.fromkeys(row["prompt"] for row in jsonl.rows(unseen)))[:64]
        said = sampling.generate(
            model, tokenizer, prompts, batch_size=16, progress=progress, **settings
        )
        files.write_whole(folder / "replies.json", json.dumps(said))
        return {"tokens": float(token_lengths(said, tokenizer).mean())}

    return cache.run_or_load(
        run_dir,
        "own-replies",
        settings,
        make,
        code=["mipo.lm.sampling"],
        inputs={"policy": policy, "unseen": unseen},
    )
