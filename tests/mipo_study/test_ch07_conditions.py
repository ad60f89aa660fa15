"""Conditions, exact chances and scores of notebook 07, against enumeration and hand-made cases."""

import numpy as np
import pandas as pd
import pytest

from mipo.lm.sampling import Reply
from mipo.world import World
from mipo.worlds import population, scoring
from mipo.worlds.grammar import TASKS, write
from mipo_study import ch07_conditions


def test_conditions_draw_from_their_split_and_wordings():
    for name, settings in ch07_conditions.CONDITIONS.items():
        examples = ch07_conditions.examples_of(name, n_people=3, per_task=2, seed=5)
        assert len(examples) == 3 * 2 * len(TASKS)
        assert {scoring.as_person(r).split for r in examples} == {settings["split"]}
        for r in examples:
            place = TASKS[r["task"]].queries.index(r["wording"])
            assert (place < population.SEEN_WORDINGS) == (
                settings["wordings"] == "seen"
            )


def test_same_people_in_conditions_of_one_split():
    full, noisy = (
        ch07_conditions.examples_of(c, n_people=4, per_task=1, seed=2)
        for c in ("unseen", "noisy")
    )
    assert [r["values"] for r in full] == [r["values"] for r in noisy]
    assert any(a["context"] != b["context"] for a, b in zip(full, noisy, strict=True))


def test_again_repeats_each_prompt_and_closely_adds_conditions():
    asked = ch07_conditions.all_examples(
        n_people=4, per_task=1, draws=3, seed=0, closely=False
    )
    assert (
        set(asked) == {"unseen", "again"} and len(asked["again"]) == 72
    )  # 24 prompts, fewer than 48
    assert asked["again"][0] == asked["again"][2] != asked["again"][3]
    assert set(
        ch07_conditions.all_examples(n_people=4, per_task=1, draws=3, seed=0)
    ) == {*ch07_conditions.CONDITIONS, "again"}


def test_unknown_condition_names_the_known_ones():
    with pytest.raises(ValueError, match="unseen people"):
        ch07_conditions.examples_of("unsen", n_people=1, per_task=1, seed=0)


def test_stated_reads_back_what_context_wrote():
    for who in population.people(20, seed=3):
        assert ch07_conditions.described_person(who.context()) == who
    assert ch07_conditions.described_person("") == population.NOBODY
    both = ch07_conditions.described_person(
        "Role: owner. Tone: blunt. Tone: formal. Pet: cat."
    )
    assert both == population.person(
        role="owner", pet="cat"
    )  # nothing says which tone is true


def test_exact_adherence_with_true_contexts_is_the_law_and_falls_with_wrong_ones():
    full = ch07_conditions.examples_of("unseen", n_people=30, per_task=1, seed=0)
    np.testing.assert_allclose(
        ch07_conditions.exact_adherence_to_truth(full), scoring.exact_adherence(full)
    )
    noisy = ch07_conditions.examples_of("noisy", n_people=30, per_task=1, seed=0)
    assert (
        ch07_conditions.exact_adherence_to_truth(noisy).mean()
        < scoring.exact_adherence(full).mean() - 0.02
    )


def test_exact_adherence_with_a_wrong_value_by_hand():
    # lookup: two relevant slots. detail is left out: law 0.05 + 0.95·p(v) averaged over people gives back the prior,
    # 0.65 at "short"; units stated "imperial" but truly "metric": 0.88 · 0.7
    record = {
        "task": "lookup",
        "context": "Units: imperial.",
        "values": {"detail": "short", "units": "metric"},
    }
    np.testing.assert_allclose(
        ch07_conditions.exact_adherence_to_truth([record]), [(0.65 + 0.88 * 0.7) / 2]
    )


def test_chance_of_own_by_hand():
    rows = [{"task": "email", "values": {"pet": pet}} for pet in ("dog", "cat", "none")]
    rows.append({"task": "plan", "values": {"pet": "dog", "city": "Oslo"}})
    rows.append({"task": "recommend", "values": {"pet": "dog", "city": "Oslo"}})
    # an aside speaks with 0.3; dog : cat = 0.5 : 0.3; cities 0.4, 0.3, 0.2, 0.1
    np.testing.assert_allclose(
        ch07_conditions.chance_of_own(rows),
        [0.3 * 5 / 8, 0.3 * 3 / 8, 0, 0.3 * 5 / 8, 0.03],
    )
    assert [ch07_conditions.aside(r) for r in rows] == [
        "pet",
        "pet",
        "pet",
        "pet",
        "city",
    ]


def test_chance_of_own_is_what_sampled_replies_show():
    rng, world = np.random.default_rng(0), World()
    rows = population.examples(60, split="test", per_task=8, seed=1)
    replies = [
        world.sample(r["task"], scoring.as_person(r), r["topic"], rng) for r in rows
    ]
    seen, expected = (
        scoring.score(replies, rows)["own"].mean(),
        ch07_conditions.chance_of_own(rows).mean(),
    )
    assert abs(seen - expected) < 4 * np.sqrt(expected / len(rows))


def test_unusual_marks_the_lowest_quarter_of_people():
    rows = population.examples(40, split=None, seed=0)
    marked = ch07_conditions.unusual(rows)
    prior = np.array([scoring.as_person(r).log_prior for r in rows])
    assert marked.mean() == pytest.approx(0.25, abs=0.08)
    assert prior[marked].max() < prior[~marked].min()


def test_variety_is_full_for_copies_and_low_for_different_replies():
    rows = population.examples(6, split=None, tasks=["email"], seed=0)
    rng = np.random.default_rng(0)
    values = [
        [str(rng.choice(list(s.options))) for s in TASKS["email"].slots] for _ in rows
    ]
    varied = [write("email", "report", v, rng) for v in values]
    copies = ch07_conditions.variety([varied[0]] * 6, rows)
    assert copies["self_bleu"] == pytest.approx(100)
    found = ch07_conditions.variety(varied, rows)
    assert found["self_bleu"] < 80 and found["distinct"] > copies["distinct"]
    assert found["compression"] < copies["compression"]
    with pytest.raises(ValueError, match="no task has two replies"):
        ch07_conditions.variety(["one"] * 6, rows)


@pytest.fixture
def exact_policy(monkeypatch):
    """A policy that is the exact law; its own information is said to be a quarter."""
    world, rng = World(), np.random.default_rng(4)
    said = []

    def sample(model, tokenizer, examples, *, seed, progress):
        begin = len(said)
        for e in examples:
            text = world.sample(e["task"], scoring.as_person(e), e["topic"], rng)
            said.append(Reply(text, [len(said)], finished=True))
        return said[begin:]

    def information(model, tokenizer, replies, examples, *, contexts):
        assert len(contexts) == 2 and {e["context"] for e in examples} == set(contexts)
        texts = [said[place].text for (place,) in replies]
        assert scoring.score(texts, examples)["valid"].all()  # each to its own prompt
        return 0.25

    class Words:
        def __call__(self, texts, **_):
            return {"input_ids": [text.split() for text in texts]}

    monkeypatch.setattr(ch07_conditions, "load_model", lambda name: (None, Words()))
    monkeypatch.setattr(ch07_conditions, "sample", sample)
    monkeypatch.setattr(scoring, "information", information)


SIZE = {"n_people": 4, "per_task": 1, "draws": 2}


def reply(tmp_path, **more):
    return ch07_conditions.reply_in_conditions(
        tmp_path, policy="policy", contexts=2, seed=0, progress=False, **SIZE, **more
    )


def test_replies_and_scores_are_kept_with_the_run(exact_policy, tmp_path):
    run = reply(tmp_path)
    assert run.metrics["information"] == 0.25
    assert run.metrics["tokens"] > 5
    assert 0 < run.metrics["within"] <= 100
    examples = ch07_conditions.all_examples(**SIZE, seed=0)
    replies = ch07_conditions.read_replies(run)
    sizes = {condition: len(part) for condition, part in examples.items()}
    assert {condition: len(part) for condition, part in replies.items()} == sizes
    scores = ch07_conditions.read_scores(run)
    for condition, part in examples.items():
        expected = scoring.score(replies[condition], part)
        assert all(expected["valid"])
        assert set(scores[condition]) == {"adherence", "valid", "speaks", "own"}
        for name, values in scores[condition].items():
            assert values == expected[name].tolist()
    again = reply(tmp_path)
    assert not again.fresh and again.metrics == run.metrics


def test_the_table_of_scores_has_a_row_per_reply(exact_policy, tmp_path):
    runs = {
        ("base", 0): reply(tmp_path),
        ("sft", 0): reply(tmp_path, closely=False),
    }
    examples = {0: ch07_conditions.all_examples(**SIZE, seed=0)}
    table = ch07_conditions.score_table(runs, examples)
    counts = table.groupby(["method", "condition"]).size()
    assert counts["sft"].to_dict() == {"unseen": 24, "again": 48}
    assert counts["base"]["noisy"] == 12
    noisy = table[(table.method == "base") & (table.condition == "noisy")]
    assert noisy.task.to_list() == [e["task"] for e in examples[0]["noisy"]]
    rare = ch07_conditions.unusual(examples[0]["noisy"])
    assert noisy.unusual.to_list() == rare.tolist()
    scores = ch07_conditions.read_scores(runs["base", 0])["noisy"]
    assert noisy.own.to_list() == scores["own"]


def scores_by_hand():
    """Two methods, two seeds, two prompts each."""
    rows = [
        ("base", 0, [0.5, 0.0]),
        ("base", 7, [1.0, 1.0]),
        ("sft", 0, [1.0, 0.0]),
        ("sft", 7, [0.5, 1.0]),
    ]
    return pd.DataFrame(
        {"method": m, "seed": s, "adherence": a} for m, s, both in rows for a in both
    )


def test_means_gains_and_wins_by_hand():
    rows = scores_by_hand()
    assert ch07_conditions.by_seed(rows).to_dict() == {
        "base": {0: 0.25, 7: 1.0},
        "sft": {0: 0.5, 7: 0.75},
    }
    assert ch07_conditions.gains(rows).to_dict() == {"sft": {0: 0.25, 7: -0.25}}
    rates = ch07_conditions.win_rates(rows)
    assert rates.loc[("sft", 0)].to_dict() == {
        "win": 0.5,
        "tie": 0.5,
        "loss": 0.0,
        "win_or_tie": 1.0,
    }
    assert rates.loc[("sft", 7), "loss"] == 0.5


def test_a_reply_is_never_compared_with_itself():
    first, second = ch07_conditions.replies_against_themselves(
        np.array([[1, 2, 3], [4, 5, 6]])
    )
    pairs = set(zip(first.tolist(), second.tolist(), strict=True))
    assert pairs == {(1, 2), (1, 3), (2, 1), (2, 3), (3, 1), (3, 2)} | {
        (4, 5),
        (4, 6),
        (5, 4),
        (5, 6),
        (6, 4),
        (6, 5),
    }
    assert len(first) == 12


def test_the_mean_over_seeds_counts_every_seed_alike():
    groups = [[1.0], [2.0, 4.0]]
    assert ch07_conditions.mean_over(np.array, groups) == 2.0
