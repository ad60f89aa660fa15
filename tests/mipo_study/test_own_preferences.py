"""A reader's preference file through training: prepared once, trained, weighed."""

import json

import pytest
import torch

from mipo import jsonl, models
from mipo.logprobs import response_logps
from mipo_study import labelled, own_preferences

PLAIN = {
    "prompt": "What is a loan?",
    "chosen": "Money to be paid back.",
    "rejected": "A fish.",
}
TALK = {
    "prompt": [{"role": "user", "content": "What is a loan?"}],
    "chosen": [{"role": "assistant", "content": "Money to be paid back."}],
    "rejected": [{"role": "assistant", "content": "A fish."}],
}


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def many(row, n):
    """n rows that ask about different things, in the format of `row`."""

    def numbered(prompt, i):
        if isinstance(prompt, str):
            return f"{prompt} {i}"
        return [{**m, "content": f"{m['content']} {i}"} for m in prompt]

    return [row | {"prompt": numbered(row["prompt"], i)} for i in range(n)]


@pytest.mark.parametrize("row", [PLAIN, TALK], ids=["standard", "conversational"])
def test_a_file_is_prepared_once_trains_and_is_weighed(tiny_model_dir, tmp_path, row):
    path = write(tmp_path / "p.jsonl", many(row, 8))

    def prepare():
        return own_preferences.prepare(
            tmp_path, tiny_model_dir, path, share=0.25, progress=False
        )

    made = prepare()
    assert (
        made.metrics == {"train": 6, "unseen": 2} and made.fresh and not prepare().fresh
    )
    train, unseen = (
        made.path / "pairs" / f"{part}.jsonl" for part in ("train", "unseen")
    )
    rows = jsonl.rows(unseen)
    model, tokenizer = models.load_model(tiny_model_dir, device="cpu")
    direct = response_logps(
        model,
        tokenizer,
        [row["prompt"] for row in rows],
        [row["chosen"] for row in rows],
    ).summed
    torch.testing.assert_close(
        torch.tensor([row["ref_chosen_logps"] for row in rows]),
        direct,
        atol=1e-3,
        rtol=0,
    )
    run = labelled.train(
        tmp_path,
        "rmipo",
        str(tiny_model_dir),
        train,
        lr=1e-3,
        batch_size=3,
        progress=False,
    )
    seen = labelled.weigh(tmp_path, run.path / "model", unseen, progress=False)
    assert run.metrics["steps"] == 2 and set(labelled.gaps(seen)) == {
        "gap",
        "ratio_gap",
        "delta_pmi",
    }
    write(path, many(row, 9))
    assert prepare().fresh  # another file, another record


def test_a_trial_says_what_became_of_the_file(tiny_qwen2, tmp_path):
    path = write(tmp_path / "p.jsonl", many(TALK, 8))

    def trial(setting, lr=1e-3):
        return own_preferences.trial(
            tmp_path,
            str(tiny_qwen2),
            path,
            setting,
            lr=lr,
            batch_size=3,
            share=0.25,
            max_new_tokens=4,
            progress=False,
        )

    before, after = trial(None), trial({"loss": "dpo", "loss_kwargs": {"beta": 0.1}})
    assert before["policy"] == str(tiny_qwen2) and before["metrics"][
        "chosen_drift"
    ] == pytest.approx(0, abs=1e-4)
    assert (
        after["metrics"]["first_loss"] == pytest.approx(0.6931, abs=1e-3)
        and len(after["gaps"]["gap"]) == 2
    )
    assert (after["metrics"]["train"], after["metrics"]["unseen"]) == (
        6,
        2,
    ) and 0 <= after["metrics"]["tokens"] <= 12
    gone = trial({"loss": "dpo", "loss_kwargs": {"beta": 0.1}}, lr=1e38)
    assert (
        gone["policy"] is None
        and "learning rate" in gone["failed"]
        and gone["gaps"] == {}
    )
