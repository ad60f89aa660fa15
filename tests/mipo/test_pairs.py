"""Pairs: TRL's columns, the law of the negatives, collisions counted, the placebo's coin."""

import subprocess
import sys

import numpy as np
import pytest
from datasets import Dataset

from mipo import jsonl, models, pairs
from mipo.lm import sampling
from mipo.worlds import population
from mipo.worlds.language_model import build_tokenizer

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def tiny():
    tokenizer = build_tokenizer()
    return models.small_model(
        tokenizer, hidden=16, layers=1, heads=2, seed=0
    ), tokenizer


@pytest.fixture(scope="module")
def examples():
    return population.examples(8, split="mipo", tasks=["email", "lookup"], seed=1)


def make(tiny, examples, **settings):
    return pairs.synthesise_pairs(*tiny, examples, max_new_tokens=4, **settings)


def test_columns_and_prompts(tiny, examples):
    made = make(tiny, examples)
    assert {"prompt", "chosen", "rejected", "rejected_prompt"} <= set(made.column_names)
    for row, r in zip(made, examples, strict=True):
        assert (
            row["prompt"]
            == f"<|user|>{r['context']}\n\n{r['query']}<|end|><|assistant|>"
        )
        assert (
            row["rejected_prompt"]
            == f"<|user|>{row['rejected_context']}\n\n{r['query']}<|end|><|assistant|>"
        )
        assert row["rejected_context"] in {r["context"] for r in examples}
    assert made.to_list() == make(tiny, examples).to_list()
    assert made["chosen"] != make(tiny, examples, seed=1)["chosen"]


def test_random_context_is_drawn_evenly_and_own_context_is_counted(tiny):
    """c' is independent of c: over many rows each context is drawn as often as it occurs, own ones included."""
    draws = np.array(pairs.draw_partners(40, "random_context", k=500, seed=0))
    assert draws.shape == (40, 500)
    counts = np.bincount(draws.ravel(), minlength=40)
    assert abs(counts - 500).max() < 5 * np.sqrt(500)
    assert (draws == np.arange(40)[:, None]).any()
    two = population.examples(
        1, split="mipo", tasks=["lookup"], per_task=6, seed=0
    )  # one person: c' = c always
    assert all(make(tiny, two)["collision"])


def test_missing_context_asks_nobody(tiny, examples):
    made = make(tiny, examples, negatives="missing_context")
    assert set(made["rejected_context"]) == {""} and not any(made["collision"])
    assert (
        made[0]["rejected_prompt"]
        == f"<|user|>{examples[0]['query']}<|end|><|assistant|>"
    )


def test_random_prompt_never_takes_the_rows_own_reply():
    for k in (1, 3):
        draws = pairs.draw_partners(6, "random_prompt", k=k, seed=0)
        assert all(i not in row and len(set(row)) == k for i, row in enumerate(draws))
    with pytest.raises(ValueError, match="needs more than 3 examples"):
        pairs.draw_partners(3, "random_prompt", k=3, seed=0)


def test_random_prompt_reuses_chosen_replies(tiny, examples):
    made = make(tiny, examples, negatives="random_prompt")
    of = dict(zip(made["prompt"], made["chosen"], strict=True))
    assert all(row["rejected"] == of[row["rejected_prompt"]] for row in made)


def test_given_prompts_are_what_the_rejected_replies_answer(tiny, examples):
    """With the prompts of "missing_context" given by hand, the pairs are those."""
    missing = make(tiny, examples, negatives="missing_context")
    given = make(tiny, examples, rejected_prompts=missing["rejected_prompt"][:])
    for column in ("chosen", "rejected", "rejected_prompt", "identical", "collision"):
        assert given[column][:] == missing[column][:]


def test_both_sides_keep_the_ids_that_were_sampled(tiny, examples):
    model, tokenizer = tiny
    made = make(tiny, examples, negatives="random_prompt")
    how = {"max_new_tokens": 4, "seed": 0}
    said = sampling.sample(model, tokenizer, made["prompt"][:], **how)
    assert made["chosen_tokens"] == [reply.ids for reply in said]
    assert made["chosen"] == [reply.text for reply in said]
    of = dict(zip(made["prompt"], made["chosen_tokens"], strict=True))
    assert all(row["rejected_tokens"] == of[row["rejected_prompt"]] for row in made)
    cut = [not reply.finished for reply in said]
    of = dict(zip(made["prompt"], cut, strict=True))
    want = [of[row["prompt"]] + of[row["rejected_prompt"]] for row in made]
    assert made["cut"] == want and sum(want) > len(made)
    assert pairs.shares_of(made)["cut"] == sum(want) / (2 * len(made))


def test_pairs_are_found_again_as_they_were_written(tiny, examples, tmp_path):
    for k in (1, 2):
        made = make(tiny, examples, k=k)
        made.to_json(tmp_path / "train.jsonl")
        found = Dataset.from_list(jsonl.rows(tmp_path / "train.jsonl"))
        assert found.to_list() == made.to_list()
        some = found.filter(lambda row: row["example"] % 2)
        for side in ("chosen", "rejected"):
            assert pairs.as_sampled(some, side) == made[f"{side}_tokens"][1::2]


def test_replies_that_were_sampled_before_keep_their_ids(tiny, examples):
    made = make(tiny, examples)
    again = make(tiny, examples, chosen=pairs.as_sampled(made, "chosen"))
    assert again.to_list() == made.to_list()
    for negatives in ("random_context", "random_prompt"):
        text = make(tiny, examples, chosen=made["chosen"][:], negatives=negatives)
        assert text["chosen"] == made["chosen"]
        assert set(text["chosen_tokens"]) == {None}
        assert pairs.as_sampled(text, "chosen") == made["chosen"]
        unknown = [ids is None for ids in text["rejected_tokens"]]
        assert all(unknown) if negatives == "random_prompt" else not any(unknown)
    two = make(tiny, examples, chosen=made["chosen"][:], negatives=negatives, k=2)
    assert pairs.as_sampled(two, "rejected") == two["rejected"]


def test_replies_that_were_cut_or_read_otherwise_are_counted(tiny, examples, caplog):
    """By hand: one is cut, one is finished, one is written otherwise than it is read."""
    _, tokenizer = tiny
    word, end = tokenizer.convert_tokens_to_ids(["Summary:", tokenizer.eos_token])
    left_out = tokenizer.pad_token_id  # of a text
    rest = len(examples) - 2
    said = [
        [word],
        [word, left_out, end],
        *[[left_out, word, end], [end]] * (rest // 2),
    ]
    made = make(tiny, examples, chosen=said, negatives="random_prompt")
    partners = pairs.draw_partners(len(examples), "random_prompt", seed=0)
    counts = {
        "cut": [1, 0, *[0, 0] * (rest // 2)],
        "respelt": [0, 1, *[1, 0] * (rest // 2)],
    }
    for name, of in counts.items():
        assert made[name] == [of[i] + of[j] for i, (j,) in enumerate(partners)]
        total = f"{sum(made[name])} of {2 * len(examples)} replies"
        what = {"cut": "were cut at max_new_tokens", "respelt": "have text that"}[name]
        assert f"{total} {what}" in caplog.text
        assert pairs.shares_of(made)[name] == sum(made[name]) / (2 * len(examples))


def test_k_negatives_are_lists(tiny, examples):
    made = make(tiny, examples, k=3)
    assert all(len(row["rejected"]) == len(row["rejected_prompt"]) == 3 for row in made)


def test_replies_that_open_with_a_thought_are_counted(tiny, examples, caplog):
    """A thinking model spends its tokens on the thought (trl 5824)."""
    replies = ["<think> well", *["Yes."] * (len(examples) - 1)]
    make(tiny, examples, chosen=replies)
    assert f"1 of {2 * len(examples)} replies open with a thought" in caplog.text


def test_coin_swaps_about_half_and_nothing_else(tiny, examples):
    made = make(tiny, examples * 10)
    flipped = pairs.flip_by_coin(made, seed=0)
    swapped = [
        a["chosen"] == b["rejected"] and a["rejected"] == b["chosen"]
        for a, b in zip(made, flipped, strict=True)
    ]
    same = [a["chosen"] == b["chosen"] for a, b in zip(made, flipped, strict=True)]
    assert (
        all(x or y for x, y in zip(swapped, same, strict=True))
        and 50 < sum(swapped) < 110
    )
    assert flipped["prompt"] == made["prompt"]
    sides = ("chosen", "rejected")
    of = {tuple(row[f"{side}_tokens"]): row[side] for row in made for side in sides}
    for side in sides:
        told = [of[tuple(ids)] for ids in flipped[f"{side}_tokens"]]
        assert told == flipped[side]
    assert not len(pairs.flip_by_coin(made.select([]), seed=0))
    plain = made.remove_columns(sampling.TOKEN_COLUMNS)
    assert pairs.flip_by_coin(plain, seed=0)["chosen"] == flipped["chosen"]


def test_nobody_stands_in_where_the_context_is_missing():
    with pytest.raises(ValueError, match="missing_context"):
        pairs.draw_partners(3, "missing_context")


def test_clear_errors(tiny, examples):
    with pytest.raises(ValueError, match="1 rejected prompts for 16 examples"):
        make(tiny, examples, rejected_prompts=["Hello"])
    with pytest.raises(ValueError, match="at least one example"):
        make(tiny, [])
    with pytest.raises(ValueError, match="random_contexts"):
        make(tiny, examples, negatives="random_contexts")
    with pytest.raises(ValueError, match="all pairs are identical"):
        make(
            tiny,
            population.examples(1, split="mipo", tasks=["lookup"], seed=0),
            temperature=0,
        )


def test_trl_dpo_command_trains_on_the_pairs_as_they_are(tiny, examples, tmp_path):
    """`trl dpo` reads the JSONL that the chain writes, without conversion."""
    model, tokenizer = tiny
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "data").mkdir()
    make(tiny, examples).to_json(tmp_path / "data" / "train.jsonl")
    command = [
        sys.executable,
        "-m",
        "trl.scripts.dpo",
        "--dataset_name",
        str(tmp_path / "data"),
        "--model_name_or_path",
        str(tmp_path / "model"),
        "--output_dir",
        str(tmp_path / "out"),
        "--max_steps",
        "2",
        "--use_cpu",
        "true",
        "--bf16",
        "false",
        "--report_to",
        "none",
        "--per_device_train_batch_size",
        "4",
        "--logging_steps",
        "1",
        "--save_strategy",
        "no",
        "--eval_strategy",
        "no",
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=240, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "0.6931" in done.stdout + done.stderr  # DPO starts at log 2
