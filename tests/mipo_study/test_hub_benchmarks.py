"""Public data sets as examples: fixtures in the hub's layout and with its columns, and the real files under MIPO_DATA."""

import hub_fixtures
import pytest

from mipo import files, jsonl
from mipo_study.hub import benchmarks, download


def people_of(examples):
    return {r["person"] for r in examples}


def test_prism(tmp_path):
    found = benchmarks.load(
        "prism", folder=hub_fixtures.prism(tmp_path / "p"), n_test=6, seed=1
    )
    assert (
        found.kind == "people"
        and len(found.train) + len(found.test) == 18
        and len(found.test) == 6
    )
    assert (
        not people_of(found.train) & people_of(found.test)
        and found.source["people"] == 6
    )
    one = next(
        r
        for r in found.train + found.test
        if r["person"] == "u1" and "Question 2" in r["query"]
    )
    assert one["gold"] == "Yes, 1." and one["wishes"][0] == "Talk like a teacher."
    # u1 rates trait k with 10·((1 + k) % 8): safest (5 + 1 = 6), personal (7), and of the rest diversity (5)
    assert one["wishes"][1:] == [
        f"It matters to me that a reply {benchmarks.TRAITS[t]}."
        for t in ("personalisation", "safety", "diversity")
    ]
    assert (
        one["context"].startswith("What this person has asked for:\n- Talk like")
        and "Later" not in one["query"]
    )
    assert (
        one["message"] == benchmarks.wording(one) == "Question 2 of 1?"
        and one["query"] != one["message"]
    )
    silent = next(
        r for r in found.train + found.test if r["person"] == "u0"
    )  # wrote nothing of their own
    assert len(silent["wishes"]) == 3


def test_community_alignment_takes_other_choices_as_context(tmp_path):
    found = benchmarks.load(
        "community-alignment", folder=hub_fixtures.community(tmp_path / "c"), n_test=6
    )
    every = found.train + found.test
    assert found.source["left_out"] == 1 == 4 * 3 - len(every)
    assert not people_of(found.train) & people_of(found.test)  # one row is in French
    one = next(r for r in every if r["person"] == "a2" and r["query"] == "Ask 1?")
    assert (
        one["gold"] == "b 2 1"
        and one["wishes"] == ["2 likes 0", "2 likes 2"]
        and "2 likes 1" not in one["context"]
    )


def test_multifaceted_bench(tmp_path):
    found = benchmarks.load(
        "multifaceted-bench", folder=hub_fixtures.multifaceted(tmp_path / "m"), n_test=2
    )
    assert (
        len(found.test) == 2
        and found.test[0]["wishes"][0].startswith("tone")
        and found.test[0]["gold"].startswith("Do")
    )


def test_reasoning_drops_what_is_tested_and_numbers_parse(tmp_path):
    found = benchmarks.load(
        "gsm8k", folder=hub_fixtures.gsm8k(tmp_path / "g"), n_test=0
    )
    assert (
        found.source["dropped"] == 1 and len(found.train) == 7 and len(found.test) == 5
    )
    assert {i["gold"] for i in found.test} == {
        str(2 * i + 1000) for i in range(7, 12)
    }  # "1,014" is not 1
    assert not {i["query"] for i in found.train} & {i["query"] for i in found.test}
    some = benchmarks.load("gsm8k", folder=tmp_path / "g", n_train=3, n_test=2, seed=5)
    assert (len(some.train), len(some.test)) == (3, 2)


def test_arc_letters_options_keyed_by_number(tmp_path):
    found = benchmarks.load(
        "arc-challenge", folder=hub_fixtures.arc(tmp_path / "a"), n_test=0
    )
    golds = {i["query"]: (i["gold"], i["released_gold"]) for i in found.test}
    assert golds["Which is 6?"] == ("C", "3") and golds["Which is 7?"] == ("D", "D")


def test_ultrafeedback_leaves_out_equal_replies(tmp_path):
    found = benchmarks.load(
        "ultrafeedback", folder=hub_fixtures.ultrafeedback(tmp_path / "u"), n_test=3
    )
    assert (
        found.kind == "preferences" and len(found.train) == 9 and len(found.test) == 3
    )
    rows = sum(map(len, benchmarks.fetch("ultrafeedback", tmp_path / "u")[0].values()))
    assert found.source["left_out"] > 0
    whole = benchmarks.load("ultrafeedback", folder=tmp_path / "u", n_test=0)
    dropped = found.source["left_out"] + found.source["dropped"]
    assert rows == len(whole.train) + len(whole.test) + dropped
    assert (
        found.train[0]["prompt"][-1]["role"] == "user"
        and len(found.train[0]["chosen"]) == 1
    )


@pytest.mark.parametrize(
    "name, part, columns",
    [
        ("ultrafeedback", "test", {"chosen", "rejected"}),
        (
            "community-alignment",
            "conversations",
            {*benchmarks.COMMUNITY, *(f"first_turn_response_{x}" for x in "abcd")},
        ),
    ],
)
def test_large_sets_are_read_once_and_without_the_columns_that_nobody_needs(
    name, part, columns, tmp_path, monkeypatch
):
    """Three seeds of a set of the hub: its files are turned into rows once; they give what the whole rows would."""
    import datasets

    make = {
        "ultrafeedback": hub_fixtures.ultrafeedback,
        "community-alignment": hub_fixtures.community,
    }[name]
    folder, read, real = make(tmp_path / "x"), [], datasets.load_dataset
    expected = [
        benchmarks.load(name, folder=folder, n_test=2, seed=seed) for seed in range(3)
    ]

    def load(path, name, split, revision):
        read.append((path, split, revision))
        found = real(str(folder), name=name, split=split, cache_dir=str(tmp_path / "c"))
        return found.add_column("long", ["x"] * sizes[split])

    sizes = {"train": 12, "train_prefs": 10, "test_prefs": 5}
    monkeypatch.setattr(datasets, "load_dataset", load)
    source = benchmarks.SOURCES[name]
    monkeypatch.setitem(download.PINNED, source.repo, "a" * 40)
    benchmarks._at.cache_clear()
    found = [benchmarks.load(name, n_test=2, seed=seed) for seed in range(3)]
    assert read == [
        (source.repo, split, "a" * 40) for _, split in source.parts.values()
    ]
    assert [(d.train, d.test) for d in found] == [(d.train, d.test) for d in expected]
    assert set(benchmarks.fetch(name)[0][part][0]) == columns
    monkeypatch.setitem(download.PINNED, source.repo, "b" * 40)
    benchmarks.load(name, n_test=2)  # another commit is read anew
    assert {row[2] for row in read} == {"a" * 40, "b" * 40}
    benchmarks._at.cache_clear()


def test_every_data_set_is_pinned():
    assert {source.repo for source in benchmarks.SOURCES.values()} <= set(
        download.PINNED
    )


def rewrite(file, change):
    """Write the rows of a file as `change(number, row)` leaves them."""
    rows = jsonl.rows(file)
    for i, row in enumerate(rows):
        change(i, row)
    file.write_text(files.lines(rows))


def spoil_prism(folder):
    def talk(i, row):
        row["conversation_history"] = row["conversation_history"] if i else []

    def person(i, row):
        row |= {"system_string": " ", "stated_prefs": {}} if i == 5 else {}

    rewrite(folder / "conversations.jsonl", talk)
    rewrite(folder / "survey.jsonl", person)


def mend_prism(folder):
    def talk(_, row):
        said = {"turn": 0, "role": "user", "content": "Ask?"}
        row["conversation_history"] = row["conversation_history"] or [said]

    def person(_, row):
        row["system_string"] = row["system_string"].strip() or "Be kind."

    rewrite(folder / "conversations.jsonl", talk)
    rewrite(folder / "survey.jsonl", person)


def spoil_community(folder):
    """Three rows a person; the very first is in French as it is."""
    spoilt = {
        1: {"first_turn_prompt": ""},  # so the third has no other choice beside it
        3: {"first_turn_preferred_response": None},
        6: {"first_turn_feedback": ""},
        7: {"first_turn_feedback": " "},  # so the ninth has no other reason
    }
    rewrite(folder / "train.jsonl", lambda i, row: row.update(spoilt.get(i, {})))


def mend_community(folder):
    def mend(i, row):
        row["assigned_lang"] = "en"
        row["first_turn_prompt"] = row["first_turn_prompt"] or "Ask?"
        row["first_turn_preferred_response"] = "response_b"
        row["first_turn_feedback"] = row["first_turn_feedback"].strip() or f"{i}"

    rewrite(folder / "train.jsonl", mend)


def spoil_ultrafeedback(folder):
    """The very first row has two equal replies as it is."""

    def spoil(i, row):
        if i == 1:
            row["rejected"][-1]["content"] = " "
        if i == 2:
            row["chosen"][:-1] = []

    rewrite(folder / "train.jsonl", spoil)


def mend_ultrafeedback(folder):
    def mend(i, row):
        row["chosen"][:-1] = [{"role": "user", "content": f"Say {i}."}]
        row["rejected"][-1]["content"] = f"{i}"

    rewrite(folder / "train.jsonl", mend)


def test_what_is_no_example_is_counted(tmp_path):
    """A talk without a message, and those of people who wish nothing."""
    folder = hub_fixtures.prism(tmp_path / "p")
    spoil_prism(folder)
    found = benchmarks.load("prism", folder=folder, n_test=4)
    assert found.source["left_out"] == 1 + 3
    assert found.source["people"] == 5
    assert "u5" not in people_of(found.train + found.test)


@pytest.mark.parametrize(
    "name, make, spoil, mend, left_out",
    [
        ("prism", hub_fixtures.prism, spoil_prism, mend_prism, 1 + 3),
        (
            "community-alignment",
            hub_fixtures.community,
            spoil_community,
            mend_community,
            1 + (1 + 1) + 1 + 1,
        ),
        (
            "ultrafeedback",
            hub_fixtures.ultrafeedback,
            spoil_ultrafeedback,
            mend_ultrafeedback,
            1 + 1 + 1,
        ),
    ],
)
def test_who_mends_what_is_said_of_rows_left_out_has_them_all(
    tmp_path, name, make, spoil, mend, left_out
):
    """Each reason that `LEFT_OUT` gives for a data set occurs once, and then none."""
    folder = make(tmp_path / "x")
    spoil(folder)
    rows = benchmarks.fetch(name, folder)[0]
    every = sum(len(part) for key, part in rows.items() if key != "survey")
    for mended, lost in ((False, left_out), (True, 0)):
        if mended:
            mend(folder)
        found = benchmarks.load(name, folder=folder, n_test=every)
        assert found.source["left_out"] == lost
        dropped = found.source.get("dropped", 0)
        assert len(found.train) + len(found.test) == every - lost - dropped


def test_who_mends_what_an_own_file_is_refused_for_has_every_example(tmp_path):
    """The errors' own advice, one after the other."""
    file = tmp_path / "users.jsonl"
    rows = [{"prompt": f"q{i}", "context": "c", "person": i % 2} for i in range(6)]

    def refused(*words):
        file.write_text(files.lines(rows))
        with pytest.raises(ValueError) as error:
            benchmarks.load(str(file), n_test=2)
        assert all(word in str(error.value) for word in words)

    refused('line 1: field "query" is missing; rename "prompt" to "query"')
    rows = [{"query": row.pop("prompt"), **row} for row in rows]
    refused('line 1: "person" must be text, got 0; put it in double quotes')
    rows = [row | {"person": str(row["person"])} for row in rows]
    refused("6 examples of 2 person(s)", "at least three people are needed")
    rows += [{"query": "q6", "context": "c", "person": "2"}]
    file.write_text(files.lines(rows))
    found = benchmarks.load(str(file), n_test=3)
    assert len(benchmarks.own_users(file)) == 7 and found.source["people"] == 3


def test_a_person_may_have_several_contexts_and_share_one(tmp_path):
    """Three people are three (AKT 9), though contexts change, and two are alike."""
    rows = [
        {"query": f"q{i}", "context": "new here" if i < 2 else f"c{i}", "person": p}
        for i, p in enumerate(["ann", "ben", "ann", "cem"] * 3)
    ]
    file = tmp_path / "users.jsonl"
    file.write_text(files.lines(rows))
    for seed in range(5):
        found = benchmarks.load(str(file), n_test=4, seed=seed)
        assert found.source["people"] == 3
        assert not people_of(found.train) & people_of(found.test)
        assert people_of(found.train + found.test) == {"ann", "ben", "cem"}


@pytest.mark.parametrize("person", [3, 3.0, ["u3"], False])
def test_a_person_is_text_or_not_known(tmp_path, person):
    """As pandas writes numbers; a missing one is null, and who has a context is one."""
    rows = [{"query": "q", "context": "c", "person": one} for one in (None, person)]
    file = tmp_path / "users.jsonl"
    file.write_text(files.lines(rows[:1]))
    assert benchmarks.own_users(file)[0]["person"] == "c"
    file.write_text(files.lines(rows))
    with pytest.raises(ValueError, match='users.jsonl, line 2: "person" must be text'):
        benchmarks.own_users(file)


def test_a_readers_own_file(examples_jsonl):
    found = benchmarks.load(str(examples_jsonl), n_test=6)
    assert (
        not people_of(found.train) & people_of(found.test)
        and found.source["people"] == 5
    )


@pytest.mark.parametrize(
    "name, message",
    [("prismm", "expected one of prism"), ("x.csv", "path of a .jsonl")],
)
def test_unknown_names(name, message):
    with pytest.raises(ValueError, match=message):
        benchmarks.load(name)


def test_people_need_a_test_part(examples_jsonl):
    with pytest.raises(ValueError, match="n_test=0: people have no test part"):
        benchmarks.load(str(examples_jsonl), n_test=0)


def test_a_folder_may_hold_several_data_sets(tmp_path):
    hub_fixtures.prism(tmp_path / "prism"), hub_fixtures.arc(tmp_path / "arc-challenge")
    assert benchmarks.load("prism", folder=tmp_path, n_test=4).kind == "people"
    assert len(benchmarks.load("arc-challenge", folder=tmp_path, n_test=0).test) == 6
    with pytest.raises(ValueError, match="no such folder"):
        benchmarks.files_of("prism", tmp_path / "gone")


def test_what_is_drawn_whole():
    talk = {"prompt": [{"role": "user", "content": "Hi"}]}
    assert [
        benchmarks.unit(r)
        for r in ({"person": "p", "query": "q"}, {"id": "i", "query": "q"}, talk)
    ] == ["p", "i", "Hi"]


def test_a_missing_column_is_named(tmp_path):
    folder = hub_fixtures.write(
        tmp_path / "m",
        {"train.jsonl": [{"system": "s", "prompt": "p"}]},
        [("default", "train", "train.jsonl")],
    )
    with pytest.raises(
        ValueError,
        match="multifaceted-bench: column reference_answer, preference_set is missing",
    ):
        benchmarks.load("multifaceted-bench", folder=folder)


def test_a_missing_column_of_a_large_set_is_named_beside_those_that_are_there(tmp_path):
    rows = [{"prompt": "p", "chosen": [], "refused": []}]
    folder = hub_fixtures.write(
        tmp_path / "u",
        {"a.jsonl": rows, "b.jsonl": rows},
        [("default", "train_prefs", "a.jsonl"), ("default", "test_prefs", "b.jsonl")],
    )
    with pytest.raises(
        ValueError,
        match="ultrafeedback: column rejected is missing; it has prompt, chosen, refused",
    ):
        benchmarks.load("ultrafeedback", folder=folder)


def test_two_people_are_too_few(tmp_path):
    with pytest.raises(ValueError, match="at least three people"):
        benchmarks.split_people([{"person": p} for p in "aabb"], n_test=2)


@pytest.mark.parametrize("n_test", [2, 4, 5])
def test_a_test_part_has_two_people_to_tell_apart(n_test):
    """Three people of ten examples each: the first alone would fill the test part."""
    examples = [{"person": p, "i": i} for p in "abc" for i in range(10)]
    found = benchmarks.split_people(examples, n_test=n_test)
    assert (
        len(found.test) == n_test
        and len(people_of(found.test)) == 2
        and len(found.train) == 10
    )
    assert not people_of(found.train) & people_of(found.test)


def test_without_network_the_message_says_how_to_go_on(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(
        download.Unavailable,
        match="HannahRoseKirk/prism-alignment.*(HF_HUB_OFFLINE|cannot be reached)",
    ):
        benchmarks.load("prism")


@pytest.mark.parametrize(
    "name, sizes, dropped",
    [("gsm8k", (7473, 1319), 0), ("svamp", (700, 300), 0), ("mmlu", (1503, 14042), 28)],
)
def test_real_files(mipo_data, name, sizes, dropped):
    """Every gold answer parses; no question is in both parts. Counts: the data's publications; MMLU's validation part
    has 1531 items, of which 28 are also test items."""
    found = benchmarks.load(name, folder=mipo_data, n_test=0)
    assert (len(found.train), len(found.test)) == sizes and found.source[
        "dropped"
    ] == dropped
    assert not {benchmarks._same(i) for i in found.train} & {
        benchmarks._same(i) for i in found.test
    }
    assert all(i["gold"] for i in found.train + found.test)
