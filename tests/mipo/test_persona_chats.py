"""Persona chats: which rows are talks, what is drawn, and where the file comes from."""

import csv

import pytest

from mipo import network
from mipo.worlds import persona_chats

TALK = "User 1: Hi!\nUser 2: Hello, I bake.\nUser 1: Nice."


def write(path, *rows, header=persona_chats.COLUMNS):
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def test_a_row_is_a_talk_of_two_people(tmp_path):
    path = write(tmp_path / "a.csv", ["I run.\n\nI sing. ", "I bake.", TALK])
    talks, left_out = persona_chats.read(path)
    assert left_out == 0
    assert talks == [
        persona_chats.Talk(
            (("I run.", "I sing."), ("I bake.",)),
            ("Hi!", "Hello, I bake.", "Nice."),
            0,
        )
    ]


@pytest.mark.parametrize(
    "said",
    [
        "User 2: Hi!\nUser 1: Hello.",
        "User 1: Hi!\nUser 1: Hello?\nUser 2: Yes.",
        "User 1: Hi!\n[Later]\nUser 2: Yes.",
        "User 1: Hi!\nUser 2: Hello,\nmy friend.",
        "User 1: Hi!\nUser 2:\nUser 1: Hello?",
        "User 1: Hi!",
        "",
    ],
)
def test_other_rows_are_left_out_and_counted(tmp_path, said):
    path = write(tmp_path / "a.csv", ["I run.", "I bake.", said], ["a", "b", TALK])
    talks, left_out = persona_chats.read(path)
    assert left_out == 1
    assert [talk.row for talk in talks] == [1]


def test_another_header_is_refused(tmp_path):
    path = write(tmp_path / "a.csv", header=["persona", "talk", "x"])
    with pytest.raises(ValueError, match=r"a\.csv: the columns are \['persona'"):
        persona_chats.read(path)


def talk(row, persona, turns):
    said = tuple(f"{row}.{i}" for i in range(turns))
    return persona_chats.Talk((("I run.",), (persona,)), said, row)


def test_drawn_talks_are_long_enough_and_of_different_people():
    talks = [talk(0, "a", 4), talk(1, "a", 4), talk(2, "b", 3), talk(3, "c", 5)]
    drawn = persona_chats.draw(talks, 9, turns=4, seed=0)
    assert sorted(t.personas[1][0] for t in drawn) == ["a", "c"]
    assert {len(t.turns) for t in drawn} == {4}
    many = [talk(i, str(i), 2) for i in range(50)]
    first = persona_chats.draw(many, 5, turns=2, seed=0)
    assert first == persona_chats.draw(many, 5, turns=2, seed=0)
    assert first != persona_chats.draw(many, 5, turns=2, seed=1)


def test_a_file_that_is_not_the_pinned_one_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("MIPO_DATA", str(tmp_path))
    folder = tmp_path / persona_chats.FOLDER
    folder.mkdir()
    write(folder / "Synthetic-Persona-Chat_test.csv")
    with pytest.raises(ValueError, match="is not the pinned 531356d642b4"):
        persona_chats.file("test")
    with pytest.raises(ValueError, match="'train' is none of valid, test"):
        persona_chats.file("train")


def test_without_the_file_and_a_network_the_error_says_what_to_do(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("MIPO_DATA", str(tmp_path))
    monkeypatch.setenv("MIPO_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert not persona_chats.at_hand("test")
    with pytest.raises(network.Unavailable, match="set MIPO_DATA to a folder with"):
        persona_chats.file("test")


def test_the_real_file(mipo_data):
    """Counted apart: the file has 968 rows below its header, of which 30 are no talks."""
    talks, left_out = persona_chats.read(persona_chats.file("test"))
    assert len(talks) + left_out == 968
    assert left_out == 30
    assert talks[0].turns[0].startswith("Hi")
