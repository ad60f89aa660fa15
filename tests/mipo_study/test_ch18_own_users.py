"""Chapter 18's measures by hand: gains with whole persons, replies side by side."""

import json
import math
import re
from types import SimpleNamespace

import pandas as pd
import pytest
from chat_tokenizers import build

from mipo.lm.tokens import token_ids
from mipo_study import ch18_own_users as own


def rows(method, values):
    """Three persons with two examples each."""
    persons = ["a", "a", "b", "b", "c", "c"]
    return pd.DataFrame(
        {
            "method": method,
            "person": persons,
            "context": [f"I am {p}." for p in persons],
            "query": [f"q{i % 2}" for i in range(6)],
            "reply": [f"{method} {i}" for i in range(6)],
            "pmi": values,
        }
    )


BASE = rows("base", [0.0, 0.2, 0.1, 0.1, 0.0, 0.2])


def test_the_gain_is_after_less_before():
    after = rows("RMiPO", [0.5, 0.7, 0.6, 0.6, 0.5, 0.7])
    table = own.gains(pd.concat([BASE, after], ignore_index=True), ["pmi"])
    base, trained = table.to_dict("records")
    assert base["mean"] == pytest.approx(0.1) and math.isnan(base["gain"])
    assert trained["mean"] == pytest.approx(0.6)
    gain = [trained[name] for name in ("gain", "low", "high")]
    assert gain == pytest.approx([0.5] * 3), "each example gains the same"


def test_persons_are_drawn_whole():
    """One person gains everything: an interval over six examples would be narrower."""
    after = rows("RMiPO", [1.0, 1.2, 0.1, 0.1, 0.0, 0.2])
    whole = pd.concat([BASE, after], ignore_index=True)
    alone = whole.assign(person=[str(i) for i in range(6)] * 2)
    widths = []
    for table in (own.gains(whole, ["pmi"]), own.gains(alone, ["pmi"])):
        widths.append((table.high - table.low).max())
    assert widths[0] > 1.5 * widths[1]


def test_one_person_has_no_interval():
    both = pd.concat([BASE, rows("RMiPO", [0.5] * 6)], ignore_index=True)
    table = own.gains(both[both.person == "a"].reset_index(drop=True), ["pmi"])
    assert table["gain"].isna().all() and table["mean"].tolist() == [0.1, 0.5]


def test_replies_stand_beside_each_other():
    both = pd.concat([BASE, rows("RMiPO", [0.0] * 6)], ignore_index=True)
    table = own.side_by_side(both, n=2)
    assert table["who"].tolist() == ["I am a.", "I am b."]
    assert table["base"].tolist() == ["base 0", "base 3"]
    assert table["RMiPO"].tolist() == ["RMiPO 0", "RMiPO 3"]


def test_a_pair_is_shown_as_text_in_either_format():
    plain = {"prompt": "p", "chosen": "c", "rejected": "r", "person": "x"}
    talk = {
        name: [{"role": "user", "content": text}]
        for name, text in plain.items()
        if name != "person"
    }
    assert own.pair_texts(plain) == own.pair_texts(talk)
    assert own.pair_texts(plain) == {"prompt": "p", "chosen": "c", "rejected": "r"}


# ---- exercises ----


def test_the_largest_pmi_is_the_log_of_the_users():
    assert own.largest_pmi(2) == pytest.approx(math.log(2))
    assert own.largest_pmi(8) == pytest.approx(math.log(8))


def test_fewer_persons_widen_the_interval():
    after = rows("RMiPO", [1.0, 1.2, 0.1, 0.1, 0.5, 0.7])
    both = pd.concat([BASE, after], ignore_index=True)
    assert own.widening(both, persons=3) == 1, "all three"
    table = own.gains(both, ["pmi"])
    two = own.gains(both[both.person.isin(["a", "b"])].reset_index(drop=True), ["pmi"])
    width, width_of_two = ((t.high - t.low).max() for t in (table, two))
    assert own.widening(both, persons=2) == pytest.approx(width_of_two / width)


def test_without_training_there_is_nothing_to_widen():
    assert math.isnan(own.widening(BASE, persons=2))


def test_words_are_counted_in_the_tokens_that_a_model_is_asked_with(monkeypatch):
    """An end that the tokenizer adds to every text is none of them."""
    tokenizer = build("mistral", adds_end=True)
    example = {"query": "漢", "context": "", "read_from": "r"}
    prompt = own.runs.prompt_text(tokenizer, example)
    (ids,) = token_ids(tokenizer, [prompt])
    share = ids.count(tokenizer.unk_token_id) / len(ids)
    monkeypatch.setattr(own.runs, "model_of", lambda base: (None, tokenizer))
    monkeypatch.setattr(own, "UNKNOWN_SHARE", share - 1e-9)
    base = SimpleNamespace(name="small")
    with pytest.raises(ValueError, match="are unknown to small"):
        own.require_known_words(base, [example], "mine.jsonl")
    monkeypatch.setattr(own, "UNKNOWN_SHARE", share)
    own.require_known_words(base, [example], "mine.jsonl")


# ---- what is said before training ----


@pytest.mark.parametrize(
    "pairs, batch",
    [(1, 1), (13, 1), (20, 2), (96, 12), (500, 12)],  # a pair, 8 steps, 12 at most
)
def test_few_pairs_make_small_batches_not_few_steps(pairs, batch):
    assert own.batch_of(pairs) == batch


def plan_of(**changes):
    whole = {"method": "mipo-random", "pairs": 500, "updates": 40, "travel": 1e-4}
    return {**whole, **changes}


@pytest.mark.parametrize(
    "plan, lora_rank, said",
    [
        (plan_of(updates=0, travel=0.0), 0, "will learn nothing.*rate is 0"),
        (plan_of(travel=1e-6), 0, "will hardly learn.*add up to 1e-06"),
        (plan_of(), 16, "add up to 1e-04.*adapters need ten times as much"),
        (plan_of(pairs=13), 0, "only 13 pairs"),
    ],
)
def test_what_can_teach_nothing_is_said(plan, lora_rank, said):
    workshop = own.Workshop(None, own.Place("x", None), lora_rank=lora_rank)
    assert re.search(said, workshop.warnings([plan_of(), plan]))


def test_a_training_that_is_large_enough_is_not_warned_of():
    workshop = own.Workshop(None, own.Place("x", None))
    assert workshop.warnings([plan_of()]) == ""


def test_a_plan_is_what_the_training_does(tiny_qwen2, examples_list, tmp_path):
    """Steps and rates beforehand are those that the trainer logs."""
    users = [{"person": "a", "context": "", **example} for example in examples_list]
    place = own.Place("tiny", tiny_qwen2)
    workshop = own.Workshop(tmp_path, place, max_new_tokens=4, learning_rate=1e-3)
    plan = workshop.plan("mipo-random", users, [])
    assert plan["batch"] == plan["pairs"] // own.LEAST_STEPS == 2
    done = workshop.train("mipo-random", users, [])
    log = json.loads(workshop.policies["mipo-random"].read("log.json"))
    rates = [row["learning_rate"] for row in log]
    assert done["steps"] == plan["steps"] == len(rates)
    assert plan["updates"] == sum(rate > 0 for rate in rates) < len(rates)
    assert plan["highest_rate"] == pytest.approx(max(rates))
    assert plan["travel"] == pytest.approx(sum(rates))


@pytest.mark.parametrize(
    "values, match, said",
    [
        ([0.1, -0.1, 0.1, -0.1, 0.0, 0.0], 0.5, "does not seem to use the contexts"),
        ([1.0, 1.2, 1.1, 1.1, 1.0, 1.2], 0.5, "uses the contexts (conditional PMI 1.1"),
        ([0.1, -0.1, 0.1, -0.1, 0.0, 0.0], 1.0, "uses the contexts"),
    ],
)
def test_contexts_that_the_base_does_not_use_are_said(values, match, said):
    """Three persons; a guess is right in half the cases."""
    before = rows("base", values).assign(match=match, chance=0.5)
    assert said in own.used_contexts(before)


def test_the_default_rate_goes_by_size(monkeypatch):
    workshop = own.Workshop(None, own.Place("x", None))
    for size, rate, adapter in (
        (1e6, 4.5e-4, 4.5e-4),
        (1.35e8, 1e-5, 1e-4),
        (1.5e9, 1e-6, 1e-5),
    ):
        monkeypatch.setattr(own.Workshop, "parameters", size)
        workshop.lora_rank = 0
        assert workshop.rate == pytest.approx(rate)
        workshop.lora_rank = 16
        assert workshop.rate == pytest.approx(adapter)
