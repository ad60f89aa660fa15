"""Labelled pairs: where they come from, how they are split, and who is polite."""

import json
from collections import Counter
from pathlib import Path

import pytest

from mipo.network import Unavailable
from mipo.worlds import politeness

SIDES = ("chosen", "rejected")
READ = Path(__file__).parent / "data" / "politeness_read.jsonl"
ROW = {
    "instruction": "Convert 3 km to metres.",
    "input": "",
    "output": "It is 3000 m.",
    "chosen": "It is 3000 m.",
    "rejected": "It is 3000 m, obviously.",
}


def written(tmp_path, *rows):
    path = tmp_path / "pairs.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


# ---- the file ----


def test_a_file_of_another_content_is_refused(tmp_path, monkeypatch):
    copy = tmp_path / politeness.FOLDER / politeness.FILE
    copy.parent.mkdir(parents=True)
    copy.write_text("[]", encoding="utf-8")
    monkeypatch.setenv("MIPO_DATA", str(tmp_path))
    with pytest.raises(ValueError, match=r"SHA-256 .* is not the pinned 305315abf14f"):
        politeness.file()


def test_without_a_copy_and_a_network_the_way_out_is_said(tmp_path, monkeypatch):
    monkeypatch.delenv("MIPO_DATA", raising=False)
    monkeypatch.setenv("MIPO_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(Unavailable, match="set MIPO_DATA to a folder with llms-from"):
        politeness.file()


def test_what_is_downloaded_is_pinned(tmp_path, monkeypatch):
    """Commit and hash: the public repository's, as its copy's source note has them."""
    asked = []

    def refuse(url, known_hash, **_):
        asked.append((url, known_hash))
        raise ConnectionError("no network")

    monkeypatch.delenv("MIPO_DATA", raising=False)
    monkeypatch.setenv("MIPO_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr("pooch.retrieve", refuse)
    with pytest.raises(Unavailable, match=r"downloaded \(ConnectionError\)"):
        politeness.file()
    [(url, known_hash)] = asked
    assert url == (
        "https://raw.githubusercontent.com/rasbt/LLMs-from-scratch/"
        "28c65cdfbc3338e2e040016eea4b7fdf556e4d57/ch07/"
        "04_preference-tuning-with-dpo/instruction-data-with-preference.json"
    )
    assert known_hash == (
        "sha256:305315abf14f65fa42c01a0877572f832606571c2a7d49f152ac1d758b16756e"
    )


# ---- pairs ----


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({}, "rude"),
        ({"rejected": ROW["output"]}, "equal"),
        ({"chosen": "Gladly: 3000 m.", "rejected": ROW["output"]}, "polite"),
    ],
)
def test_the_rewritten_side_is_known(tmp_path, changes, kind):
    [row] = politeness.read(written(tmp_path, {**ROW, **changes}))
    assert row["kind"] == kind


def test_the_input_stands_below_the_instruction(tmp_path):
    rows = politeness.read(written(tmp_path, ROW, {**ROW, "input": "3 km"}))
    queries = [row["query"] for row in rows]
    assert queries == ["Convert 3 km to metres.", "Convert 3 km to metres.\n\n3 km"]


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"chosen": None}, 'row 1: "chosen" is missing or no text'),
        ({"chosen": "other"}, 'row 1: neither "chosen" nor "rejected" is "output"'),
    ],
)
def test_a_row_that_is_not_as_expected_is_named(tmp_path, changes, error):
    with pytest.raises(ValueError, match=error):
        politeness.read(written(tmp_path, {**ROW, **changes}))


def test_marks_and_case_do_not_change_the_part():
    one = politeness.part("What is a synonym for 'begin'?")
    assert politeness.part("what is a  synonym for begin") == one


def test_parts_have_their_shares():
    """Three standard errors of a share of 5000 are below 0.022."""
    counts = Counter(politeness.part(f"question {i}") for i in range(5000))
    for name, share in politeness.PARTS.items():
        assert counts[name] / 5000 == pytest.approx(share / 100, abs=0.022)


def test_an_unknown_part_is_refused():
    with pytest.raises(ValueError, match="no 'tset'; parts: train, select, test"):
        politeness.pairs("tset")


def test_no_question_or_answer_is_in_two_parts(mipo_data, monkeypatch):
    """1100 rows, six of which are equal: counted with jq, not with this code."""
    monkeypatch.setenv("MIPO_DATA", str(mipo_data))
    rows = politeness.read()
    assert len(rows) == 1100
    assert Counter(row["kind"] for row in rows)["equal"] == 6
    found = {name: politeness.pairs(name) for name in politeness.PARTS}
    assert sum(map(len, found.values())) == 1094
    queries = {name: {row["query"] for row in found[name]} for name in found}
    outputs = {name: {row["output"] for row in found[name]} for name in found}
    assert not queries["train"] & (queries["test"] | queries["select"])
    assert not queries["select"] & queries["test"]
    assert not outputs["train"] & outputs["test"]


# ---- who is polite ----


@pytest.mark.parametrize(
    ("reply", "polite", "rude"),
    [
        ("I'd be happy to help you with that.", True, False),
        ("The capital of Denmark, if I may, is Copenhagen.", True, False),
        ("Could you please turn off the light?", True, False),
        ("It is 0 degrees Celsius.", False, False),
        ("It’s obviously 0 degrees Celsius.", False, True),
        ("Look, it is 0 degrees.", False, True),
        ("They look for 0 degrees.", False, False),
        ("It is 0 degrees, okay?", False, True),
        ("Okay, it is 0 degrees.", False, False),
        ("Happy to help, but look it up next time.", False, True),
        ("", False, False),
    ],
)
def test_politeness_by_example(reply, polite, rude):
    assert politeness.is_polite(reply) is polite
    assert politeness.is_rude(reply) is rude


@pytest.mark.parametrize("kind", ["polite", "rude"])
def test_phrases_come_from_the_part_that_is_trained_on(mipo_data, monkeypatch, kind):
    """Each stands in rewritten replies there, at least twice as often as in answers."""
    monkeypatch.setenv("MIPO_DATA", str(mipo_data))
    phrases, side = {
        "polite": (politeness.POLITE_PHRASES, "chosen"),
        "rude": (politeness.RUDE_PHRASES, "rejected"),
    }[kind]
    rows = [row for row in politeness.pairs("train") if row["kind"] == kind]
    for phrase in phrases:
        pattern = politeness._pattern((phrase,))
        found = [
            sum(bool(pattern.search(politeness._plain(row[name]))) for row in rows)
            for name in (side, "output")
        ]
        assert found[0] >= max(1, 2 * found[1]), phrase


# {check: (passed, should pass, both)} of the 160 held-out replies in
# data/politeness_read.jsonl, which were read one by one.
AS_READ = {"polite": (24, 24, 20), "rude": (22, 26, 22)}


@pytest.mark.parametrize("check", AS_READ)
def test_the_checks_agree_with_the_reader_as_the_data_card_says(check):
    rows = [json.loads(line) for line in READ.read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 160
    passes = {"polite": politeness.is_polite, "rude": politeness.is_rude}[check]
    passed = [row for row in rows if passes(row["reply"])]
    true = [row for row in rows if row[check]]
    both = [row for row in passed if row[check]]
    assert (len(passed), len(true), len(both)) == AS_READ[check]
    precision, recall = len(both) / len(passed), len(both) / len(true)
    line = f"| {check} | {len(passed)} | {len(true)} | {precision:.2f} | {recall:.2f} |"
    card = Path(__file__).parents[2] / "book" / "data-cards.md"
    assert line in card.read_text(encoding="utf-8")


def test_what_was_read_was_not_learned_from(mipo_data, monkeypatch):
    monkeypatch.setenv("MIPO_DATA", str(mipo_data))
    rows = [json.loads(line) for line in READ.read_text(encoding="utf-8").splitlines()]
    test = [pair[side] for pair in politeness.pairs("test") for side in SIDES]
    assert {row["reply"] for row in rows} <= set(test)
