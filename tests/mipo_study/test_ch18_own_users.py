"""Chapter 18's measures by hand: gains with whole persons, replies side by side."""

import math
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
