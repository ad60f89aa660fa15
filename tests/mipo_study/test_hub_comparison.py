"""Chapter 15's comparisons by hand: gains paired by row and seed, runs that diverged, the papers' count beside ours."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mipo import cache
from mipo.evaluate import reference_free
from mipo_study.hub import benchmarks, download, harness, llm_judge, runs, scores, train
from mipo_study.hub.comparison import Comparison

pytestmark = pytest.mark.long

PEOPLE, PREFS, MATHS = ("m", "prism"), ("m", "ultrafeedback"), ("m", "gsm8k")
ROWS = [{"query": f"q{i}", "context": "c", "person": f"p{i // 2}"} for i in range(6)]


def rows_of(s):
    return (
        [
            {"query": f"q{i}", "id": f"i{i}", "options": [], "gold": "1"}
            for i in range(6)
        ]
        if s == MATHS
        else ROWS
    )


@pytest.fixture
def study():
    """Three sets, two seeds; on seed 1 RMiPO diverged, and so did the only MIPO run on maths."""
    work = {
        (s, seed): benchmarks.Data(benchmarks.kind_of(s[1]), [], rows_of(s))
        for s in (PEOPLE, PREFS, MATHS)
        for seed in (0, 1)
    }
    found = Comparison("run", work)
    found.places = {"m": "the model"}
    for s, arm, seeds in (
        (PEOPLE, "mipo-random", (0, 1)),
        (PEOPLE, "sft", (0, 1)),
        (PREFS, "rmipo", (0,)),
        (PREFS, "dpo", (0, 1)),
    ):
        found.trained |= {(s, arm, seed): f"{arm} {seed}" for seed in seeds}
    return found


def verdicts(folder, **lists):
    folder.mkdir()
    (folder / "verdicts.json").write_text(json.dumps(lists))
    means = {k: np.mean([x for x in v if x is not None]) for k, v in lists.items()}
    metrics = {key: float(mean) for key, mean in means.items()}
    return cache.Run(metrics, folder, "k", 0.0, False)


def test_paired_by_hand():
    after, before = (
        {0: [1, 1, 0, 1], 1: [1, 1, 1, 1], 2: [9] * 4},
        {0: [0, 1, 0, np.nan], 1: [0, 0, 1, 1]},
    )
    rows = {seed: [{"query": f"q{i}"} for i in range(4)] for seed in after}
    value, low, high = scores.paired(
        after, before, rows
    )  # seed 2 has no partner, one row has no value
    assert value == pytest.approx(3 / 7) and low < value < high
    assert scores.paired({0: [1.0]}, {0: [0.0]}, rows | {0: ROWS[:1]}) is None
    assert scores.relative({0: [1.0]}, {0: [1.0]}, rows | {0: ROWS[:1]}) is None


def test_a_gain_relative_to_the_base_by_hand():
    """Half of the base's 40 items are right. Half as much again on each: +50 %, for certain, however the base varies. All
    right: 1/ȳ - 1, whose standard error sd(y)/ȳ² is 2/√n, twice that of (1 - ȳ)/0.5, which takes the base as known."""
    half, rows = [1.0, 0.0] * 20, {0: [{"query": f"q{i}"} for i in range(40)]}
    assert scores.relative(
        {0: [1.5 * y for y in half]}, {0: half}, rows
    ) == pytest.approx((0.5, 0.5, 0.5))
    value, low, high = scores.relative({0: [1.0] * 40}, {0: half}, rows)
    _, near, far = scores.paired({0: [1.0] * 40}, {0: half}, rows)
    assert value == pytest.approx(1) and high - low == pytest.approx(
        2 * (far - near) / 0.5
    )
    assert scores.relative({0: half}, {0: [0.0] * 40}, rows) is None


def test_people_are_drawn_whole_and_one_person_by_replies():
    """Two people who differ: with people drawn whole the interval is wide; one person alone is resampled by reply."""
    value = {0: [1, 1, 1, 0, 0, 0]}
    rows = [{"query": f"q{i}", "person": "a" if i < 3 else "b"} for i in range(6)]
    _, low, high = scores.paired(value, {0: [0] * 6}, {0: rows})
    _, near, far = scores.paired(
        value, {0: [0] * 6}, {0: [r | {"person": f"{i}"} for i, r in enumerate(rows)]}
    )
    assert high - low > 1.5 * (far - near)
    _, near, far = scores.paired(
        value, {0: [0] * 6}, {0: [r | {"person": "a"} for r in rows]}
    )
    assert 0 < far - near < 1.2


def test_policies_are_the_base_and_what_ended_well(study):
    assert study.policies("preferences") == [
        (PREFS, "base", 0),
        (PREFS, "base", 1),
        (PREFS, "rmipo", 0),
        (PREFS, "dpo", 0),
        (PREFS, "dpo", 1),
    ]
    assert [one[1] for one in study.policies("reasoning")] == [
        "base",
        "base",
    ]  # everything diverged there
    assert (
        study.policy(PREFS, "base", 1) == "the model"
        and study.policy(PREFS, "dpo", 1) == "dpo 1"
    )
    found = study.each("people", lambda s, arm, seed: seed, base=False)
    assert found == {(PEOPLE, arm): {0: 0, 1: 1} for arm in ("mipo-random", "sft")}


def test_duels_need_both_sides_on_one_seed(study, monkeypatch):
    def verdicts_on(judge, s, method, seed, *, other):
        return f"{method} against {other}"

    monkeypatch.setattr(study, "verdicts_on", verdicts_on)
    assert study.duels("a judge") == {
        (PREFS, "base"): {0: "rmipo against base"},
        (PREFS, "dpo"): {0: "rmipo against dpo"},
    }
    assert study.duels(None) == {}
    study.trained = {k: v for k, v in study.trained.items() if k[1] != "rmipo"}
    assert study.duels("a judge") == {}


def test_wins_and_the_papers_gain_over_the_base(study, tmp_path):
    """Strict: 3 wins, 1 loss of 12. As the papers count: 9 of 10 rated replies against 5 of 10, a gain of 80 %."""
    one = verdicts(
        tmp_path / "a",
        score=[1, 1, -1, 0, 0, 0],
        released=[1, 1, 1, 1, 1, None],
        released_base=[1, 0, 1, 0, 0, None],
    )
    two = verdicts(
        tmp_path / "b",
        score=[1, 0, 0, 0, 0, 0],
        released=[1, 1, 1, 1, 0, None],
        released_base=[1, 1, 1, 0, 0, None],
    )
    kept = {(PEOPLE, "mipo-random"): {0: one, 1: two}}
    (value, low, high) = study.net_wins(kept)[PEOPLE, "mipo-random"]
    assert value == pytest.approx(2 / 12) and low < value < high
    assert study.released_gain(kept)[PEOPLE, "mipo-random"][0] == pytest.approx(0.8)
    bare = verdicts(tmp_path / "c", score=[0] * 6)
    assert (
        study.released_gain({(PEOPLE, "mipo-random"): {0: bare}}) == {}
    )  # no reference replies
    shown = study.judge_table(
        kept, {"wins less losses": study.net_wins(kept), "gain": {}}
    )
    assert "| 90% | 50% | +0.17 | [" in shown and shown.endswith("| – | – |")


def test_claims_about_mipo_rest_on_its_own_arms(study):
    found = {
        (PEOPLE, arm): (1, 0, 2)
        for arm in ("mipo-random", "mipo-missing", "sft", "base")
    } | {(PREFS, "rmipo"): [3, 4]}
    assert [
        name.split(":")[0] for name in study.parts("gain", found, (0.03, None), "u")
    ] == [study.label(PEOPLE, arm) for arm in ("mipo-random", "mipo-missing")]
    every = study.parts("gain", found, (0.03, None), "u", mipo=False)
    assert len(every) == 5 and every[f"{study.label(PEOPLE, 'sft')}: gain"] == {
        "value": 1,
        "interval": (0, 2),
        "region": (0.03, None),
        "unit": "u",
    }
    assert every[f"{study.label(PREFS, 'rmipo')}: gain"]["values"] == [3, 4]


def test_gain_in_accuracy_where_the_base_is_never_right_and_where_nothing_ended_well(
    study,
):
    graded = {(MATHS, "base"): {0: {"right": [0.0] * 6}, 1: {"right": [0.0] * 6}}}
    assert study.accuracy_gain(graded, "right") == {}  # all arms diverged
    graded[MATHS, "mipo"] = {1: {"right": [1.0] * 3 + [0.0] * 3}}
    assert study.accuracy_gain(graded, "right")[MATHS, "mipo"][0] == 0.5
    assert (
        study.accuracy_gain(graded, "right", scores.relative) == {}
    )  # no share of nothing
    graded[MATHS, "base"][1] = {"right": [1.0] + [0.0] * 5}
    assert study.accuracy_gain(graded, "right", scores.relative)[MATHS, "mipo"][
        0
    ] == pytest.approx(2)  # 3 for 1


def test_dpo_s_own_reward_is_the_rise_over_the_base(tmp_path):
    """Rises of 3 - 1 = 2 nats for both sides of the first pair, of 1 against 0 in the second: one of two in order."""

    def scored(name, summed):
        (tmp_path / name).mkdir()
        (tmp_path / name / "scores.json").write_text(json.dumps({"summed": summed}))
        return cache.Run({}, tmp_path / name, "k", 0.0, False)

    base = scored("base", [[-4.0, -2.0], [-5.0, -1.0]])
    assert scores.own_reward(scored("after", [[-2.0, 0.0], [-4.0, -1.0]]), base) == 0.5


def test_the_data_table_says_what_was_left_out():
    """What a loader leaves out is counted, and the reader is told why."""

    def said(left_out):
        rows = [{"query": name, "person": name} for name in "ab"]
        dataset = benchmarks.Data("people", rows, rows, {"left_out": left_out})
        found = Comparison("run", {(("m", "prism"), 0): dataset})
        return found.data_table(found.overlaps())

    assert "| left out |" in said(7) and "| 7 |" in said(7).replace("  ", "")
    assert "of people who state no wish" in said(7)
    assert "of people" not in said(0)


def test_the_data_table_names_gold_answers_known_to_be_wrong():
    def items(*names):
        return [{"id": n, "query": n, "source_id": n} for n in names]

    def said(dataset, one, two):
        work = {
            ((m, dataset), seed): benchmarks.Data(
                "reasoning", *one if seed < 2 else two
            )
            for m in "ab"
            for seed in range(3)
        }
        found = Comparison("run", work)
        return found.data_table(found.overlaps()).split("\n\n")[1:]

    here, there = (
        (items("chal-680", "chal-1"), items("chal-2")),
        (items("chal-1"), items("chal-680")),
    )
    first, second = said("svamp", here, there)
    assert (
        "svamp's chal-680 (the equation gives 5, the file says 1); in the train part of seed 0, 1."
        in first
    )
    assert second.endswith("in the test part of seed 2.")
    assert (
        said("gsm8k", here, there)
        == []
        == said("svamp", (items("chal-1"), items("chal-2")), (items("x"), items("y")))
    )


def test_training_is_told_with_its_rate(study):
    run = {
        "pairs": 8,
        "left_out": 2,
        "steps": 9,
        "lr": 5e-6,
        "first_loss": 0.693,
        "last_loss": 0.5,
        "peak_gb": None,
        "kept_update": None,
    }
    study.trained = {(PREFS, "dpo", 1): SimpleNamespace(metrics=run, seconds=90.0)}
    label = study.label(PREFS, "dpo")
    assert (
        study.training_table().splitlines()[-1]
        == f"| {label} | 1 | 8 | 2 | 5e-06 | 9 | 0.693 | 0.500 | 1.5 | – | – |"
    )


def test_a_judge_reads_who_said_what():
    turns = [
        {"role": "user", "content": "Hi, I am Ann."},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "Who am I?"},
    ]
    one, many = runs.as_examples(
        [{"prompt": p, "read_from": "row 0"} for p in (turns[:1], turns)], "preferences"
    )
    assert one["query"] == "Hi, I am Ann."
    assert (
        many["query"] == "User: Hi, I am Ann.\n\nAssistant: Hello.\n\nUser: Who am I?"
    )


@pytest.mark.parametrize(
    "full",
    ["scores.json", "verdicts.json", "samples.jsonl", "items.jsonl", "run.json"],
)
def test_a_full_disk_is_one_message(full, tmp_path, monkeypatch, fill_disk):
    """Wherever it strikes in what is scored; the models' answers are made up here."""
    place, rows = (
        download.Place("m", tmp_path, "a" * 40),
        [{"query": "q", "context": c} for c in "cd"],
    )
    pair, maths = (
        {"prompt": "p", "chosen": "c", "rejected": "r"},
        {"id": "i", "query": "q", "gold": "1", "options": []},
    )
    (tmp_path / "replies.json").write_text(
        '{"texts": ["one two", "three four"], "ids": [[1, 2], [3, 4]]}'
    )
    said, twice = cache.Run({}, tmp_path, "k", 0.0, False), torch.tensor([[-1.0, -2.0]])
    monkeypatch.setattr(train, "load", lambda *_, **__: (None, None))
    monkeypatch.setattr(scores, "as_text", lambda rows, tokenizer: rows)
    monkeypatch.setattr(
        scores,
        "response_logps",
        lambda *_, **__: SimpleNamespace(mean=twice, summed=twice),
    )
    monkeypatch.setattr(
        reference_free, "under_contexts", lambda *_, **__: twice.repeat(2, 1).double()
    )
    monkeypatch.setattr(
        llm_judge.Judge, "answers", lambda self, texts: ["tie"] * len(texts)
    )
    monkeypatch.setattr(
        harness,
        "run",
        lambda *_, **__: {
            "svamp_cot": [
                {
                    "doc": {"id": "i"},
                    "filter": "strict-match",
                    "metrics": ["exact_match"],
                    "exact_match": 1.0,
                }
            ]
        },
    )
    steps = {
        "rank": lambda where: scores.rank(where, place, [pair]),
        "measure": lambda where: scores.measure(where, place, place, rows, said),
        "judged": lambda where: scores.judged(where, place, rows, said, said),
        "by_harness": lambda where: scores.by_harness(where, place, "svamp", [maths]),
    }
    for step in steps.values():
        assert step(tmp_path / "room").fresh
    fill_disk(full)
    for name in {
        "scores.json": ("rank", "measure", "by_harness"),
        "verdicts.json": ("judged",),
        "run.json": tuple(steps),
    }.get(full, ("by_harness",)):
        with pytest.raises(
            download.Unavailable, match="disk is full.*run_dir.*Finished work is kept"
        ):
            steps[name](tmp_path / full)


def test_words_and_numbers(study):
    assert study.label(PEOPLE, "mipo-random").endswith(", m, prism")
    assert study.slug(PEOPLE, "tokens", "sft") == "tokens-sft-m-prism"
    one = Comparison("run", {(PEOPLE, 0): study.work[PEOPLE, 0]})
    assert one.slug(
        ("a/B", "x/own.jsonl"), "tokens", "sft"
    ) == "tokens-sft" and ", m" not in one.label(PEOPLE, "sft")
    maths = Comparison("run", {(MATHS, 0): study.work[MATHS, 0]})
    marks = {
        "right": [1.0, 0, 0, 0],
        "any form": [1.0, 1, 0, 0],
        "released": [1.0, 1, 1, 0],
        "error": ["right"] + ["format"] * 3,
    }
    graded = {(MATHS, "base"): {0: marks}, (MATHS, "mipo"): {0: marks}}
    gain = {(MATHS, "mipo"): (0.1, 0.0, 0.2)}
    lines = maths.accuracies(graded, {"right": gain, "any form": gain}).splitlines()
    assert (
        "right 25.0%, in any form 50.0%, as released 75.0%" in lines[0]
        and "over the base" not in lines[0]
    )
    assert "over the base +10.0% (+0.0% to +20.0%), in any form +10.0%" in lines[1]
    assert maths.errors(graded)[maths.label(MATHS, "mipo")]["format"] == 0.75
