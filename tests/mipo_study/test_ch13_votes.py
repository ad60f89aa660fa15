"""Chapter 13: gains by hand; base models, pairs and policies of an invented town."""

from types import SimpleNamespace

import invented_town
import numpy as np
import pytest
from numpy.testing import assert_allclose

from mipo.numbers import interval_of
from mipo.worlds import polis, votes
from mipo_study import ch13_votes, experiment
from mipo_study.figures import people

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def talk(tmp_path_factory):
    """The export of an invented town."""
    return invented_town.write(tmp_path_factory.mktemp("talk"))


@pytest.fixture(scope="module")
def shared(talk, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("runs")
    who = {"talk": talk, "min_votes": 20, "split": 0, "progress": False}
    base = ch13_votes.base_model(run_dir, **who, layers=1, hidden=16, steps=40, lr=1e-2)
    return {"run_dir": run_dir, **who, "base": base, "seed": 0}


@pytest.fixture(scope="module")
def own_pairs(shared):
    return ch13_votes.make_pairs(**shared, questions=3)


TRAINING = {"loss": "dpo", "loss_kwargs": {"beta": 1.0}, "lr": 1e-2, "batch_size": 4}


def test_a_base_model_says_what_the_crowd_and_nobody_answers(talk, shared):
    world = ch13_votes.town(talk, 20, 0)
    for name in ("crowd.json", "nobody.json"):
        table = ch13_votes.read_table(shared["base"], name)
        assert table.shape == (world.held_out.sum(), 2)
        assert ((table > 0) & (table < 1)).all()


def test_pairs_differ_and_need_no_vote(talk, shared, own_pairs):
    rows = experiment.read_pairs(own_pairs).to_list()
    mipo_people = len(ch13_votes.town(talk, 20, 0).rows["mipo"])
    assert own_pairs.metrics["prompts"] == 3 * mipo_people
    assert own_pairs.metrics["useful"] == len(rows) > 0
    assert all(row["chosen"] != row["rejected"] for row in rows)


def test_votes_cast_are_chosen(talk, shared):
    run = ch13_votes.cast_votes(**shared, questions=3)
    rows = experiment.read_pairs(run).to_list()
    world = ch13_votes.town(talk, 20, 0)
    cast = votes.examples(world, "mipo", questions=3, seed=0)
    assert run.metrics["pairs"] == len(rows) == len(cast)
    assert [row["chosen"] for row in rows] == [vote["gold"] for vote in cast]
    assert all({row["chosen"], row["rejected"]} == set(votes.REPLIES) for row in rows)


def test_nobody_is_both_in_test_and_validation(talk):
    test, validation = ch13_votes.held_out(talk, 20, 0, seed=0)
    people = {vote["person"] for vote in test}
    assert people.isdisjoint(vote["person"] for vote in validation)


def test_a_policy_is_found_again_and_made_alike(talk, shared, own_pairs, tmp_path):
    asked = shared | TRAINING | {"pairs_run": own_pairs}
    run = ch13_votes.train(**asked)
    assert 0 < run.metrics["validation"] < 1
    assert not ch13_votes.train(**asked).fresh
    [chances] = ch13_votes.chances_on_test([run])
    test, _ = ch13_votes.held_out(talk, 20, 0, seed=0)
    assert chances.shape == (len(test), 2)
    # The same seed, the same numbers; nothing of the trainer stays.
    again = ch13_votes.train(**asked | {"run_dir": tmp_path})
    assert again.metrics == run.metrics and again.fresh
    assert not (run.path / "trainer").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"placebo": True},
        {"loss": "rmipo", "loss_kwargs": {}},
        {"loss_kwargs": {"beta": 0.1}},
        {"lr": 1e-3},
    ],
)
def test_what_is_set_changes_the_policy(shared, own_pairs, change):
    asked = shared | TRAINING | {"pairs_run": own_pairs}
    plain, changed = ch13_votes.train(**asked), ch13_votes.train(**asked | change)
    assert changed.metrics["validation"] != plain.metrics["validation"]


def test_the_export_is_read_as_it_is(talk):
    read = polis.read(talk)
    size = (invented_town.PEOPLE, invented_town.STATEMENTS)
    assert read.votes.shape == size


def test_measures_of_a_predictor_by_hand():
    numbers = {}
    nb = SimpleNamespace(
        number=lambda name, values, unit: numbers.update({name: (values, unit)})
    )
    examples = [[{"gold": "agree", "person": 0}, {"gold": "disagree", "person": 1}]]
    chances = [np.array([[0.8, 0.2], [0.6, 0.4]])]
    ch13_votes.report(nb, "base", chances, examples)
    assert numbers["chance-base"] == (pytest.approx([0.6]), "of votes")
    assert numbers["accuracy-base"] == ([0.5], "of votes")
    loss = -(np.log(0.8) + np.log(0.4)) / 2
    assert numbers["log-loss-base"] == (pytest.approx([loss]), "nats per vote")


def test_percent():
    assert ch13_votes.percent(interval_of(0.5)) == "50.0% [50.0%, 50.0%]"
    assert ch13_votes.percent(interval_of([0.123])) == "12.3%"


def test_gain_by_hand_and_its_sign():
    examples = [
        [{"gold": "agree", "person": i} for i in range(4)],
        [{"gold": "agree", "person": i} for i in range(4)],
    ]
    theirs = [np.full((4, 2), 0.5)] * 2
    ours = [
        np.array([[0.6, 0.4], [0.8, 0.2]] * 2),
        np.array([[0.7, 0.3], [0.9, 0.1]] * 2),
    ]
    found = ch13_votes.gain(ours, theirs, examples, "chance")
    assert_allclose(found["value"], 0.25)  # mean of 0.1, 0.3, 0.2, 0.4
    assert (
        found["interval"][0] < 0.25 < found["interval"][1]
        and found["unit"] == "of votes"
    )
    assert_allclose(
        ch13_votes.gain(ours, theirs, examples, "log_loss")[
            "value"
        ],  # less loss is a gain
        np.log([0.6, 0.8, 0.7, 0.9]).mean() - np.log(0.5),
    )
    assert ch13_votes.gain(theirs, ours, examples, "log_loss")["value"] < 0


EDGES = [0, 0.1, 0.2, 0.3, 0.4, 0.5]


def test_gains_by_division_leave_out_classes_without_votes():
    """An empty class was told as "+0.000", and the figure had more labels than rows."""
    most = np.array([[0.95, 0.05], [0.04, 0.96], [0.65, 0.35]])
    chances = {
        "majority": [most, most[[2, 0]]],
        "base": [np.full((3, 2), 0.5), np.full((2, 2), 0.5)],
        "a": [
            np.array([[0.6, 0.4], [0.3, 0.7], [0.9, 0.1]]),
            np.array([[0.4, 0.6], [0.5, 0.5]]),
        ],
    }
    agree, disagree = {"gold": "agree"}, {"gold": "disagree"}
    examples = [[agree, agree, agree], [disagree, agree]]
    labels, gains = ch13_votes.gains_by_division(chances, ["a"], examples, EDGES)
    assert labels == ["0%–10%", "30%–40%"] and list(gains) == ["a"]
    # first seed: (0.1 - 0.2) / 2 and 0.4; second: 0 and 0.1
    assert_allclose(gains["a"], [[-0.05, 0.0], [0.4, 0.1]], atol=1e-12)
    _, hits = ch13_votes.gains_by_division(chances, ["a"], examples, EDGES, "accuracy")
    # against a tie, which counts half
    assert_allclose(hits["a"], [[0.0, 0.0], [0.5, 0.5]], atol=1e-12)
    chances["majority"][1] = most[[2, 2]]  # one seed has no vote of the first class
    labels, gains = ch13_votes.gains_by_division(chances, ["a"], examples, EDGES)
    assert labels == ["30%–40%"]
    assert_allclose(gains["a"], [[0.4, 0.05]], atol=1e-12)


@pytest.mark.parametrize("name", ["brexit-consensus", "scoop-hivemind.taxes"])
def test_no_statement_of_these_conversations_divides_people_evenly(
    mipo_data, monkeypatch, name
):
    """At the chapter's own settings; its figure shows the four classes there are."""
    monkeypatch.setenv("MIPO_DATA", str(mipo_data))
    talk = polis.folder(name)
    most = votes.majority(ch13_votes.town(talk, 100, 0))
    tests = [ch13_votes.held_out(talk, 100, 0, seed)[0] for seed in (0, 1)]
    majority = [votes.by_statement(most, test) for test in tests]
    chances = {
        "majority": majority,
        "base": majority,
        "sharpened": [votes.sharpened(probs, 1.0) for probs in majority],
    }
    labels, gains = ch13_votes.gains_by_division(chances, ["sharpened"], tests, EDGES)
    assert labels == ["0%–10%", "10%–20%", "20%–30%", "30%–40%"]
    # by hand, with p of the vote cast: p² / (p² + (1 - p)²) - p
    expected = {}
    for seed, test in enumerate(tests):
        for vote, both in zip(test, majority[seed], strict=True):
            p = both[votes.REPLIES.index(vote["gold"])]
            key = (int(10 * both.min()), seed)
            gained = p**2 / (p**2 + (1 - p) ** 2) - p
            expected.setdefault(key, []).append(gained)
    assert {i for i, _ in expected} == {0, 1, 2, 3}
    table = [[np.mean(expected[i, seed]) for seed in (0, 1)] for i in range(4)]
    assert_allclose(gains["sharpened"], table)
    figure = people.by_division(np.arange(4), gains, labels)
    shown = [text.get_text() for text in figure.axes[0].get_xticklabels()]
    assert shown == labels
