"""Judges: verdicts and ratings are read as written, both orders count, taste is reported, what was said is kept."""

import json

import numpy as np
import pytest

from mipo.lm import sampling
from mipo_study.hub import llm_judge
from mipo_study.hub.llm_judge import Judge

RECORDS = [
    {"query": f"q{i}", "context": "c", "wishes": ["be kind", "be brief"]}
    for i in range(4)
]
OURS, THEIRS = ["a long reply here"] * 4, ["short"] * 4


class Said(Judge):
    """A judge whose answers are a function of the text; counts what it was asked."""

    def __init__(self, answer, tmp_path, key="k"):
        self.answer, self.asked = answer, []
        super().__init__(lambda: None, key, tmp_path / "said.jsonl")

    def answers(self, texts):
        self.asked += texts
        return [self.answer(t) for t in texts]


def prefers(word):
    """Takes the side whose reply holds the word, tie if both or none."""

    def answer(text):
        a, b = (
            word in text.split(f"[Reply {side}]\n")[1].split("\n\n")[0] for side in "AB"
        )
        return "tie" if a == b else "A" if a else "B"

    return answer


@pytest.mark.parametrize(
    "text, want",
    [
        ("A", "A"),
        (" b.", "B"),
        ("**Tie**", "tie"),
        ("Reply B is better", "B"),
        ("Answer: A", "A"),
        ("Apples", None),
        ("I think A", None),
        ("", None),
        ("C", None),
    ],
)
def test_verdict(text, want):
    assert llm_judge.verdict(text) == want


@pytest.mark.parametrize(
    "text, want",
    [
        ("4", 4),
        ("Rating: 5", 5),
        (" 3.", 3),
        ("10", None),
        ("4.5", None),
        ("0", None),
        ("six", None),
        ("", None),
        ("**2**", 2),
    ],
)
def test_rating(text, want):
    assert llm_judge.rating(text) == want


def test_a_fair_judge_gives_wins_in_both_orders(tmp_path):
    found = llm_judge.compare(Said(prefers("long"), tmp_path), RECORDS, OURS, THEIRS)
    assert (
        found["score"].tolist() == [1] * 4
        and set(found["first"]) == {"A"}
        and set(found["second"]) == {"B"}
    )
    told = llm_judge.report(found, OURS, THEIRS)
    assert (
        told["win"],
        told["position"],
        told["agreement"],
        told["length"],
        told["longer"],
    ) == (1, 0, 1, 1, 1)
    found = llm_judge.compare(Said(prefers("short"), tmp_path), RECORDS, OURS, THEIRS)
    assert (
        found["score"].tolist() == [-1] * 4
        and llm_judge.report(found, OURS, THEIRS)["length"] == 0
    )


def test_a_judge_that_takes_the_first_has_seen_no_difference(tmp_path):
    found = llm_judge.compare(Said(lambda t: "A", tmp_path), RECORDS, OURS, THEIRS)
    told = llm_judge.report(found, OURS, THEIRS)
    assert (told["tie"], told["win_or_tie"], told["position"], told["agreement"]) == (
        1,
        1,
        1,
        0,
    ) and told["length"] is None


def test_one_order_alone_is_no_win(tmp_path):
    found = llm_judge.compare(
        Said(lambda t: "A" if "[Reply A]\na long" in t else "tie", tmp_path),
        RECORDS,
        OURS,
        THEIRS,
    )
    assert (
        found["score"].tolist() == [0] * 4
        and llm_judge.report(found, OURS, THEIRS)["position"] == 0
    )


def test_the_wishes_stand_in_the_question(tmp_path):
    asker = Said(lambda t: "tie", tmp_path)
    llm_judge.compare(asker, RECORDS[:1], OURS[:1], THEIRS[:1])
    assert len(asker.asked) == 2 and all(
        "be kind\nbe brief" in t and "q0" in t for t in asker.asked
    )
    assert "none stated" in llm_judge.wishes_of({"context": ""})


def test_ratings_are_means_over_wishes_and_ties_win_as_released(tmp_path):
    asker = Said(lambda t: "5" if "be kind" in t else "2", tmp_path)
    ours = llm_judge.rate(asker, RECORDS, OURS)
    assert ours.tolist() == [3.5] * 4 and llm_judge.released_win_rate(
        ours, [3.5, 4, 3, np.nan]
    ) == pytest.approx(2 / 3)
    np.testing.assert_array_equal(
        llm_judge.released_wins(ours, [3.5, 4, 3, np.nan]), [1, 0, 1, np.nan]
    )
    with pytest.raises(ValueError, match="no item has a rating"):
        llm_judge.released_win_rate([np.nan], [1])


def test_ratings_out_of_form(tmp_path):
    asker = Said(lambda t: "5" if "be kind" in t else "?", tmp_path)
    assert (
        llm_judge.rate(asker, RECORDS, OURS, limit=0.5).tolist() == [5.0] * 4
    )  # left out, as released for PRISM
    assert (
        llm_judge.rate(asker, RECORDS, OURS, limit=0.5, missing=0).tolist() == [2.5] * 4
    )  # or 0, for Community Alignment
    with pytest.raises(
        ValueError,
        match="4 of 8 answers are not in the form.*-p judge NAME.*kept in said.jsonl",
    ):
        llm_judge.rate(asker, RECORDS, OURS, limit=0.4)


def test_answers_are_cached_and_survive_a_crash(tmp_path, monkeypatch):
    calls = []

    def generate(model, tokenizer, prompts, **settings):
        calls.append(len(prompts))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return [f"A {p}" for p in prompts]

    monkeypatch.setattr(sampling, "generate", generate)
    monkeypatch.setattr(llm_judge, "render", lambda tokenizer, text: text)
    answers = tmp_path / "v" / "said.jsonl"

    def make(key="k"):
        return Judge(lambda: (None, None), key, answers, batch_size=1)

    texts = [f"t{i}" for i in range(20)] + ["t0"]
    with pytest.raises(KeyboardInterrupt):
        make().answers(texts)
    assert calls == [
        8,
        8,
        4,
    ]  # 20 different texts, 8 at a time; the first two batches are kept
    with open(tmp_path / "v" / "said.jsonl", "a") as file:
        file.write('{"prompt": "cut')
    assert make().answers(texts)[-1] == "A t0" and calls[3:] == [4]
    assert (
        len(make().answers(texts)) == 21 and len(calls) == 4
    )  # nothing new: the model is not even loaded
    rows = (tmp_path / "v" / "said.jsonl").read_text().splitlines()
    assert sum("reply" in row for row in rows) == 20 and json.loads(rows[-1])["reply"]
    make("other").answers(["t0"])
    assert calls[-1] == 1  # another judge answers for itself
