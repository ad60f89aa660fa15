"""The reader's own preferences: a JSONL in TRL's standard or conversational format, checked, split, ready to train.

Standard: prompt, chosen and rejected are text. Conversational: prompt is a list of messages {"role", "content"} that
ends with the user's; chosen and rejected are one assistant message each, as a list. Further columns are left out.
"""

import json

import numpy as np

from mipo import cache, data, files
from mipo.evaluate.diversity import token_lengths
from mipo.lm import sampling
from mipo.logprobs import response_logps
from mipo.models import load_model
from mipo_study import labelled, runs

COLUMNS = ("prompt", "chosen", "rejected")
_LEAST = (
    "preferences need at least 2 different prompts, one to train on and one to hold out"
)


def read(path):
    """Rows {prompt, chosen, rejected, read_from} of a JSONL file, each text or messages as the file has it.

    errors  ValueError naming file and line: no such file, not UTF-8, not JSON, a column missing, neither text nor
            messages, empty, chosen equal to rejected; fewer than 2 different prompts
    """
    path = files.resolve(path)
    if not path.is_file():
        raise ValueError(
            f"{path}: there is no such file; give the path of a JSONL file of preferences"
        )
    rows = []
    for number, raw in enumerate(path.read_bytes().split(b"\n"), start=1):
        where = f"{path}, line {number}"
        text = data._decode(raw, where, first=number == 1).strip()
        if text:
            rows.append(_check(data._parse(text, where), where))
    if len({_key(row) for row in rows}) < 2:
        raise ValueError(f"{path}: {len(rows)} row(s); {_LEAST}")
    return rows


def _check(row, where):
    for name in COLUMNS:
        if name not in row:
            raise ValueError(
                f'{where}: column "{name}" is missing; the line has {", ".join(row) or "none"}'
            )
    talk = isinstance(row["prompt"], list)
    for name in COLUMNS:
        _check_messages(row[name], name, where) if talk else _check_text(
            row[name], name, where
        )
    if row["chosen"] == row["rejected"]:
        raise ValueError(
            f'{where}: "chosen" equals "rejected", so there is nothing to learn; leave the line out'
        )
    return {name: row[name] for name in COLUMNS} | {"read_from": where}


def _check_text(value, name, where):
    if not isinstance(value, str):
        hint = (
            '; where it is a list of messages, "prompt" must be one too (without the reply)'
            if isinstance(value, list)
            else ""
        )
        raise ValueError(
            f'{where}: "{name}" must be text, got {data._kind(value)}{hint}'
        )
    if not value.strip():
        raise ValueError(f'{where}: "{name}" is empty')


def _check_messages(value, name, where):
    if not isinstance(value, list) or not value:
        raise ValueError(
            f'{where}: "prompt" is a list of messages, so "{name}" must be one too, and not empty'
        )
    for message in value:
        if not isinstance(message, dict) or not {"role", "content"} <= set(message):
            raise ValueError(
                f'{where}: each message of "{name}" needs "role" and "content"'
            )
        _check_text(message["role"], f"{name}: role", where)
        _check_text(message["content"], f"{name}: content", where)
    roles = [message["role"] for message in value]
    if name == "prompt" and roles[-1] != "user":
        raise ValueError(
            f'{where}: "prompt" must end with a message of the user; its roles are {", ".join(roles)}'
        )
    if name != "prompt" and roles != ["assistant"]:
        raise ValueError(
            f'{where}: "{name}" must be one message of the assistant; its roles are {", ".join(roles)}'
        )


def _key(row):
    return json.dumps(row["prompt"], sort_keys=True)


def as_text(rows, tokenizer):
    """Rows whose prompt is rendered text, ready for the reply, and whose replies are text; text stays as it is.

    The model's own end-of-sequence token follows each reply, added where it is tokenised (see tokens.encode_many).
    """

    def reply(value):
        return value if isinstance(value, str) else value[0]["content"]

    return [
        {
            "prompt": written(row["prompt"], tokenizer, row["read_from"]),
            "chosen": reply(row["chosen"]),
            "rejected": reply(row["rejected"]),
        }
        for row in rows
    ]


def written(prompt, tokenizer, where):
    """A prompt as text, which may be that already; as in data.render, a BOS that tokenizing would add once more is cut."""
    if isinstance(prompt, str):
        return prompt
    try:
        text = tokenizer.apply_chat_template(
            prompt, tokenize=False, add_generation_prompt=True
        )
    except (
        Exception
    ) as error:  # templates raise what they like, e.g. where roles must alternate
        raise ValueError(
            f"{where}: the model's chat template refuses this prompt ({error})"
        ) from None
    bos = tokenizer.bos_token
    twice = (
        bos
        and text.startswith(bos)
        and tokenizer(text)["input_ids"][:2] == [tokenizer.bos_token_id] * 2
    )
    return text[len(bos) :] if twice else text


def split(rows, *, share=0.1, seed=0):
    """(train, unseen): whole prompts drawn at random until `share` of them, at least one, is held out.

    Rows of one prompt stay together, so that no prompt is seen in training. Both keep the file's order.
    """
    if not 0 < share < 1:
        raise ValueError(
            f"share={share!r}: the held-out share must lie between 0 and 1"
        )
    known = list(dict.fromkeys(_key(row) for row in rows))
    if len(known) < 2:
        raise ValueError(
            f"{len(rows)} row(s) with {len(known)} different prompt(s); {_LEAST}"
        )
    count = min(max(1, round(share * len(known))), len(known) - 1)
    held = {
        known[i]
        for i in np.random.default_rng((seed, 9)).permutation(len(known))[:count]
    }
    return [row for row in rows if _key(row) not in held], [
        row for row in rows if _key(row) in held
    ]


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
        code=["mipo.preference_data"],
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
        prompts = list(dict.fromkeys(runs.read_pairs(unseen)["prompt"]))[:64]
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
