"""Word problems: their truth by hand, every fault of a reply by hand, and text that survives the tokenizer."""

import numpy as np
import pytest

from mipo.data import render
from mipo.worlds import word_problems
from mipo.worlds.word_problems import TYPES, Problem, grade

SUM = Problem("sum", "plain", (7, 5), "Ada", "apples")
CHOICE = Problem("sum", "plain", (7, 5), "Ada", "apples", (35, 12, 13, 10))
TWO = Problem("two steps", "plain", (7, 5, 3), "Ben", "books")


@pytest.mark.parametrize(
    "asked, reply, expected",
    [
        (SUM, "So 7 + 5 = 12 (done)", "right"),
        (SUM, "So 8 + 4 = 12 (done)", "lucky"),  # other numbers, the same sum
        (SUM, "So 8 + 5 = 13 (done)", "elsewhere"),
        (SUM, "So 5 + 7 = 13 (done)", "elsewhere"),  # not in the order told
        (SUM, "So 7 x 5 = 35 (done)", "operation"),
        (SUM, "So 7 x 5 = 36 (done)", "operation"),  # the first fault counts
        (SUM, "So 7 + 5 = 13 (done)", "slip"),
        (SUM, "So 7 + 5 = 12 (E: 12)", "format"),
        (SUM, "So 7 + 5 = 12 (B: 12)", "format"),  # no letter was asked for
        (SUM, "So 7 + 5 = 12", "format"),
        (SUM, "12", "format"),
        (SUM, "So 7 + 5 = 12 (done) (done)", "format"),
        (CHOICE, "So 7 + 5 = 12 (B: 12) (done)", "format"),
        (SUM, "I am not sure", "empty"),
        (CHOICE, "So 7 + 5 = 12 (B: 12)", "right"),
        (CHOICE, "So 7 + 5 = 12 (C: 12)", "letter"),
        (CHOICE, "So 7 + 5 = 13 (B: 13)", "lucky"),
        (CHOICE, "So 7 + 5 = 13 (C: 13)", "slip"),
        (CHOICE, "So 7 + 5 = 12 (done)", "format"),  # a letter was asked for
        (CHOICE, "So 7 + 5 = 13 (B: 12)", "format"),  # the letter is not the result's
        (CHOICE, "So 8 + 5 = 13, 13 - 1 = 12 (B: 12)", "lucky"),
        (TWO, "So 7 + 5 = 12, 12 - 3 = 9 (done)", "right"),
        (TWO, "So 7 + 5 = 13, 13 - 3 = 10 (done)", "slip"),
        (TWO, "So 7 + 5 = 13, 13 - 3 = 9 (done)", "lucky"),  # two slips that cancel
        (TWO, "So 7 + 5 = 12, 12 + 3 = 15 (done)", "operation"),
        (TWO, "So 7 + 5 = 12 (done)", "operation"),  # stopped half-way
        (TWO, "So 7 + 5 = 12, 13 - 3 = 10 (done)", "format"),  # the steps do not join
        (TWO, "So 7 + 5 = 12, 12 - 4 = 8 (done)", "elsewhere"),
        (SUM, "So 7 + 5 = 12, 12 - 3 = 9 (done)", "elsewhere"),
    ],
)
def test_grade_by_hand(asked, reply, expected):
    assert grade(reply, asked) == expected and expected in TYPES


def test_truth_by_hand():
    assert (
        SUM.results() == (12,)
        and SUM.results(misread=True) == (35,)
        and SUM.gold == "12"
    )
    assert (
        CHOICE.gold == "B"
        and TWO.results() == (12, 9)
        and TWO.results(misread=True) == (12, 15)
    )
    stated = {
        "So 7 + 5 = 12 (B: 12)": "B",
        "So 7 + 5 = 12 (done)": "12",
        "So 7 + 5 = 12, 12 - 3 = 9 (done)": "9",
        "So 7 + 5 = 12": None,
        "I am not sure": None,
    }
    assert {reply: word_problems.answer_of(reply) for reply in stated} == stated


def test_text_and_its_partial_forms():
    assert CHOICE.text() == (
        "Ada has 7 apples. Ada buys 5 more. How many apples in all? "
        "Options: (A: 35) (B: 12) (C: 13) (D: 10)"
    )
    assert (
        TWO.text(without=1)
        == "Ben has 7 books. Then Ben loses 3. How many books are left?"
    )


def test_problems_have_one_right_option_and_names_of_their_split():
    for split in ("mipo", "select", "test"):
        found = word_problems.problems(400, split=split, seed=3)
        assert {p.name for p in found} == set(word_problems.NAMES[split])
        assert {p.kind for p in found} == set(word_problems.KINDS) and {
            p.manner for p in found
        } == set(word_problems.MANNERS)
        for p in found:
            assert not p.options or (
                len(set(p.options)) == 4 and p.options.count(p.results()[-1]) == 1
            )
            assert all(
                0 <= v <= word_problems.HIGHEST
                for v in (*p.options, *p.results(), *p.results(misread=True))
            )
        assert 0.4 < np.mean([bool(p.options) for p in found]) < 0.6
    parts = [set(word_problems.NAMES[s]) for s in ("mipo", "select", "test")]
    assert (
        set.union(*parts) == set(word_problems.NAMES["base"])
        and sum(map(len, parts)) == 12
    )
    with pytest.raises(ValueError, match="split='tset'"):
        word_problems.problems(3, split="tset")


def test_problems_are_the_same_for_the_same_seed():
    assert (
        word_problems.problems(20, seed=1)
        == word_problems.problems(20, seed=1)
        != word_problems.problems(20, seed=2)
    )


def test_two_problems_never_read_the_same_unless_they_are():
    told = {}
    for p in word_problems.problems(3000, seed=0):
        assert told.setdefault(p.text(), p) == p
    for (
        kind,
        manner,
    ) in (
        word_problems.TEXTS
    ):  # also with one operand hidden the kind and the manner can be told
        p = Problem(
            kind,
            manner,
            tuple(low for low, _ in word_problems.KINDS[kind].ranges),
            "Ada",
            "apples",
        )
        for j in range(len(p.operands)):
            assert told.setdefault(p.text(without=j), (kind, manner, j)) == (
                kind,
                manner,
                j,
            )


def test_tokenizer_joins_back_and_knows_every_token():
    tokenizer = word_problems.build_tokenizer()
    for p in word_problems.problems(300, split="mipo", seed=0):
        for text in (
            render(tokenizer, p.text()),
            render(tokenizer, p.text(without=1)),
            word_problems.write(
                word_problems.KINDS[p.kind].operations, p.operands, p.results(), "B"
            ),
            word_problems.SHRUG,
        ):
            ids = tokenizer(text)["input_ids"]
            assert tokenizer.unk_token_id not in ids and tokenizer.decode(ids) == text
    assert (
        len(tokenizer("So 7 + 5 = 12 (B: 12)")["input_ids"]) == 7
    )  # a number is one token
