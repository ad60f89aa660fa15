"""Chapter 14: what counts as followed, which wishes enter, which settings are tried."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from datasets import Dataset

from mipo import packaged
from mipo.lm.sampling import Reply
from mipo.models import load_model
from mipo.numbers import Number
from mipo.record import Notebook
from mipo.worlds.wish_data import UNSEEN, WISHES
from mipo_study import (
    ch14_along,
    ch14_found,
    ch14_real_model,
    ch14_wishes,
    experiment,
)
from mipo_study.ch14_found import Limits

LIMITS = Limits(alone=-4.0, repeats=0.2, words=3)
SOUND = {"alone": -3.0, "repeats": 0.0, "words": 20, "finished": True}


class Stored:
    """A run that has measured some rows."""

    def __init__(self, metrics=None, **requests):
        self.metrics = metrics or {}
        self.requests = requests

    def read(self, name):
        assert name == "scores.json"
        columns = {k: ch14_wishes.columns_of(v) for k, v in self.requests.items()}
        return json.dumps(columns)


def row(follows, own=None, **changes):
    done = {"follows": follows, "own": follows if own is None else own}
    return {**SOUND, **done, "wishes": ["greet"] * len(follows), **changes}


def test_rows_come_back_as_they_were_kept_to_four_digits():
    rows = [row([True], pmi=1.23456), row([False, True])]  # pmi of the first ones only
    kept = ch14_found.rows_of(Stored(plain=rows), "plain")
    assert kept == [row([True], pmi=1.2346), row([False, True])]


def test_adherence_counts_own_words_within_the_limits():
    """By hand: six wishes; four pass, one of them copied, another in a broken reply."""
    rows = [
        row([True, True], own=[True, False]),
        row([True], repeats=0.5),
        row([False, False]),
        row([True]),
    ]
    found = ch14_found.adherence(Stored(plain=rows), "plain", LIMITS)
    assert found == {"adherence": 2 / 6, "raw": 4 / 6, "within": 3 / 4}


@pytest.mark.parametrize(
    ("changes", "holds"),
    [
        ({}, True),
        ({"alone": -4.0, "repeats": 0.2, "words": 3}, True),
        ({"alone": -4.01}, False),
        ({"repeats": 0.21}, False),
        ({"words": 2}, False),
    ],
)
def test_limits_are_inclusive(changes, holds):
    assert LIMITS.holds({**SOUND, **changes}) is holds


def test_limits_are_what_one_reply_in_forty_passes():
    """numpy's quantiles of 0..100: 2.5 and 97.5."""
    rows = [{"alone": -i, "repeats": i / 100, "words": i} for i in range(101)]
    limits = ch14_found.limits_of(rows)
    assert limits == pytest.approx((-97.5, 0.975, 2.5))


def test_a_diverged_training_follows_nothing():
    diverged = Stored({"failed": "the loss is nan"})
    found = ch14_found.adherence(diverged, "plain", LIMITS)
    assert found == {"adherence": 0.0, "raw": 0.0, "within": 0.0}
    assert math.isnan(ch14_found.mean_of(Stored(), "plain", "words"))
    unasked = ch14_found.adherence(Stored(), "plain", LIMITS)
    assert all(map(math.isnan, unasked.values()))


def trials_of(**arms):
    """A table of trials: {arm: {seed: run}}."""
    runs = {
        (arm, seed): run for arm, seeds in arms.items() for seed, run in seeds.items()
    }
    index = pd.MultiIndex.from_tuples(runs, names=["arm", "seed"])
    return pd.DataFrame({"run": list(runs.values())}, index=index)


def test_wins_and_the_smallest_difference_by_hand():
    """Two wishes against one, one against one, and a broken reply against one."""
    ours = [row([True, True]), row([True]), row([True], words=1)]
    theirs = [row([True, False]), row([True]), row([True])]
    trials = trials_of(base={0: Stored(plain=theirs)}, mipo={0: Stored(plain=ours)})
    gaps = ch14_found.gaps(trials, "mipo")
    assert gaps.tolist() == [1, 0, -1]
    wins = ch14_found.strict_wins(gaps)
    assert wins == {"win": 1 / 3, "tie": 1 / 3, "loss": 1 / 3}
    # normal quantiles 1.9600 and 0.8416, s = 1, n = 3
    error = ch14_found.standard_error(gaps)
    assert error == pytest.approx(1 / math.sqrt(3))
    least = ch14_found.detectable(error)
    assert least == pytest.approx((1.95996 + 0.84162) / math.sqrt(3), abs=1e-4)


def test_a_diverged_training_loses_every_question_that_the_base_follows():
    theirs = Stored(plain=[row([True]), row([False])])
    trials = trials_of(base={0: theirs}, mipo={0: Stored({"failed": "nan"})})
    assert ch14_found.gaps(trials, "mipo").tolist() == [-1, 0]


def test_adherence_by_wish_counts_all_seeds_within_each_seeds_limits():
    """One reply of the base is shortest: the limit of its seed."""
    base = [row([True]), row([False], wishes=["work"], words=1)]
    seeds = {0: Stored(plain=base), 1: Stored(plain=[row([False]), row([True])])}
    trials = trials_of(base=seeds, mipo={0: Stored(plain=[row([True]), row([True])])})
    shares = ch14_found.by_wish(trials, ["base", "mipo"])
    assert shares.base.to_dict() == {"greet": 2 / 3, "work": 0.0}
    assert shares.mipo["greet"] == 1.0 and math.isnan(shares.mipo["work"])
    assert shares.n.to_dict() == {"greet": 3, "work": 1}


def test_a_wish_enters_by_the_rule():
    """At the edges of 5 and 80 %, and of half as often unasked."""
    asked = {name: [0, 100] for name in WISHES}
    bare = {name: [0, 100] for name in WISHES}
    asked |= {"greet": [5, 100], "work": [4, 100], "hobby": [80, 100]}
    asked |= {"place": [81, 100], "pet": [40, 100], "bullets": [40, 100]}
    bare |= {"pet": [20, 100], "bullets": [21, 100]}
    asked |= {name: [40, 100] for name in UNSEEN}
    rates = ch14_real_model.entering(Stored(asked), Stored(bare))
    assert set(rates.index[rates.enters]) == {"greet", "hobby", "pet"}


def test_a_strength_is_shown_at_the_best_of_its_rates():
    keys = [("sft", 1e-4, 0), ("sft", 2e-4, 0), ("mipo-lora", 4e-4, 5), ("base", 0, 0)]
    index = pd.MultiIndex.from_tuples(keys, names=["arm", "rate", "strength"])
    shares = {"adherence": [0.2, 0.3, 0.4, 0.1], "raw": 0.5, "within": 0.9}
    searched = pd.DataFrame(shares, index=index)
    best = ch14_real_model.best(searched, "sft")
    assert best == (2e-4, 0) and list(map(type, best)) == [float, int]
    shown = ch14_real_model.by_strength(searched)
    assert shown.values.tolist() == [
        ["SFT", "epochs 1", 2, 2e-4, 0.3, 0.5, 0.9],
        ["MIPO, LoRA", "beta 0.1, epochs 2", 1, 4e-4, 0.4, 0.5, 0.9],
    ]


def test_replies_that_belong_together_are_compared():
    """Copies have self-BLEU 100; the two people's replies share no word."""
    examples = [{"person": 0}, {"person": 0}, {"person": 1}, {"person": 1}]
    texts = ["one two three four five"] * 2 + ["six seven eight nine ten"] * 2
    replies = [Reply(text, [1], finished=True) for text in texts]
    each = ch14_wishes.alike(examples, replies, {"each": 2})
    together = ch14_wishes.alike(examples[1:3], replies[1:3], {"together": True})
    assert each == pytest.approx(100)
    assert together < 10
    assert math.isnan(ch14_wishes.alike(examples[:1], replies[:1], {"each": 2}))


def test_our_trainer_and_trls_have_the_same_losses(tmp_path):
    """On the stand-in; replies that are finished and written as sampled."""
    rows = [
        {"prompt": "<|im_start|>user\nHi", "chosen": f"yes {i}", "rejected": "no"}
        for i in range(4)
    ]
    marked = Dataset.from_list([{**row, "cut": 0, "respelt": 0} for row in rows])
    experiment.write_pairs(marked, tmp_path)
    pairs = experiment.pairs_file(tmp_path / experiment.PAIRS)
    losses = ch14_wishes.beside_trl(
        tmp_path / "runs",
        base=packaged.STAND_IN,
        pairs=pairs,
        n_pairs=4,
        beta=0.1,
        lr=1e-3,
    ).metrics
    assert losses["ours"] == pytest.approx(losses["trl"], abs=1e-4)
    assert losses["ours"][0] == pytest.approx(math.log(2), abs=1e-5)
    assert losses["ours"][1] != pytest.approx(math.log(2), abs=1e-5)


def test_leads_over_the_rivals_that_there_are():
    """Of 1 + 2 + 1 + 2 wishes we follow 1 + 2 + 1 + 1, SFT 1 + 0 + 0 + 1."""
    ours = {
        0: Stored(plain=[row([True]), row([True, True])]),
        1: Stored(plain=[row([True]), row([False, True])]),
    }
    theirs = {
        0: Stored(plain=[row([True]), row([False, False])]),
        1: Stored(plain=[row([False]), row([True, False])]),
    }
    trials = trials_of(base=theirs, mipo=ours, sft=theirs)
    leads = ch14_found.leads(trials, "mipo", ["sft", "sami"])
    value, low, high = leads["sft"]
    assert set(leads) == {"sft"} and value == pytest.approx(3 / 6)
    assert low < value < high
    part = ch14_found.lead_parts(leads)["SFT"]
    assert part["value"] == value and part["interval"] == (low, high)
    best = [row([True]), row([True, True])]
    seeds = {0: Stored(plain=[row([True]), row([False, False])], **{"best of": best})}
    found = ch14_found.of_the_best(trials_of(base=seeds))
    assert found["self-scored"][0] == pytest.approx(2 / 3)


def test_the_interval_of_a_lead_draws_seeds_whole():
    """One seed wins all 30 questions, the other loses all: any mean is possible.

    Sixty questions drawn one by one would have a standard error of 1/√60 = 0.13.
    """
    win, lose = ([row([done])] * 30 for done in (True, False))
    ours = {0: Stored(plain=win), 1: Stored(plain=lose)}
    theirs = {0: Stored(plain=lose), 1: Stored(plain=win)}
    trials = trials_of(base=theirs, mipo=ours, sft=theirs)
    value, low, high = ch14_found.leads(trials, "mipo", ["sft"])["sft"]
    assert value == 0 and low < -1 and high > 1


def test_gains_and_rises_by_seed():
    index = pd.MultiIndex.from_product([["base", "mipo", "sft"], [0, 1]])
    shares = [0.1, 0.2, 0.5, 0.4, 0.25, 0.5]
    found = pd.DataFrame({"adherence": shares}, index=index.set_names(["arm", "seed"]))
    renamed = found.rename({"mipo": "mipo-lora", "sft": "mipo-random"})
    light, less = ch14_found.light_and_whole(renamed).values()
    assert light == pytest.approx([0.4, 0.2])
    assert less == pytest.approx([0.4 - 0.8 * 0.15, 0.2 - 0.8 * 0.3])
    assert ch14_found.rise(found, "mipo", "adherence") == pytest.approx([0.4, 0.2])
    # the mean of the untrained model is 0.15
    assert ch14_found.gain(found, "mipo") == pytest.approx([0.4 / 0.15, 0.2 / 0.15])


def test_what_stands_beside_a_verdict():
    """Seeds 1, 2, 3: error 1/√3, times 2.8016. An interval of ±1.96 has an error of 1."""
    by_seed = ch14_found.parts({"base": [1.0, 2.0, 3.0], "sft": [1.0]}, (0, None), "m")
    drawn = ch14_found.lead_parts({"sami": (0.0, -1.95996, 1.95996)}, "m")
    said = ch14_found.caveat(by_seed | drawn)
    assert "135 M parameters, 4-bit weights" in said and "1.6 to 2.8 m." in said
    assert "found" not in ch14_found.caveat(ch14_found.parts({"a": [1.0]}, (0, 1), "m"))


def test_wishes_where_they_belong_are_weighed_as_where_they_do_not():
    """Greet 1 of 2, pet 1 of 1; out of place: greet thrice, pet once, and work."""
    rows = [
        row([True], wishes=["greet"]),
        row([False], wishes=["greet"]),
        row([True], wishes=["pet"]),
    ]
    names = ["greet", "greet", "greet", "pet", "work"]
    elsewhere = [row([False], wishes=[name]) for name in names]
    assert ch14_found.in_place(rows, elsewhere) == pytest.approx((3 * 0.5 + 1) / 4)
    assert math.isnan(ch14_found.in_place(rows, []))
    kinds = ch14_found.by_kind([*rows, row([True], wishes=["bullets"])], LIMITS)
    assert kinds["content wishes"] == pytest.approx(2 / 3)
    assert kinds["form wishes"] == 1.0 and math.isnan(kinds["length wishes"])


def test_a_reply_is_on_topic_if_it_has_a_long_word_of_the_question():
    assert ch14_found.on_topic("How do I keep tomatoes fresh?", "Tomatoes like shade.")
    assert not ch14_found.on_topic("How do I keep tomatoes fresh?", "How I keep bees")


def test_repeats_by_hand():
    """Five runs of four words in "a b c d a b c d": the last repeats the first."""
    assert ch14_wishes.repeats("a b c d a b c d".split()) == pytest.approx(1 / 5)
    assert ch14_wishes.repeats(["a", "b"]) == 0


def test_wishes_may_stand_in_an_earlier_turn_or_nowhere():
    _, tokenizer = load_model(packaged.STAND_IN)
    example = {"query": "What is rain?", "context": "Use bullets."}
    before = ch14_wishes.prompt_of(tokenizer, example)
    earlier = ch14_wishes.prompt_of(tokenizer, example, "earlier")
    nowhere = ch14_wishes.prompt_of(tokenizer, example, "nowhere")
    assert before.count("<|im_start|>user") == 1
    assert "Use bullets.\n\nWhat is rain?" in before
    assert earlier.count("<|im_start|>user") == 2
    assert earlier.index("Use bullets.") < earlier.index(ch14_wishes.NOTED)
    assert "Use bullets." not in nowhere


def test_each_draw_is_contrasted_with_its_own_question(monkeypatch):
    _, tokenizer = load_model(packaged.STAND_IN)
    seen = {}
    monkeypatch.setattr(
        ch14_wishes.sampling,
        "sample",
        lambda model, tokenizer, prompts, **how: seen.update(how, prompts=prompts),
    )
    examples = [{"query": q, "context": "Use bullets."} for q in ("Rain?", "Sun?")]
    how = {"alpha": 0.5}
    ch14_wishes.reply_to(None, tokenizer, examples, {"draws": 2}, 0, how, False)
    assert len(seen["prompts"]) == len(seen["contrast_prompts"]) == 4
    for prompt, bare in zip(seen["prompts"], seen["contrast_prompts"], strict=True):
        assert ("Rain?" in prompt) == ("Rain?" in bare)
        assert "bullets" in prompt and "bullets" not in bare


def test_a_control_differs_from_the_arm_it_copies_in_one_thing():
    chosen = {"mipo-lora": (2e-4, 1)}
    found = ch14_real_model.settings(chosen, ch14_real_model.CONTROLS)
    arm = found["mipo-lora"]
    assert found["placebo"] == {**arm, "placebo": True}
    assert found["mipo-bf16"] == {**arm, "bf16": True}
    published = found["published"]  # arXiv 2603.19294, its release: 5e-7, all weights
    assert (published["lr"], published["lora_rank"]) == (5e-7, 0)
    assert published["setting"]["loss_kwargs"]["beta"] == 0.1
    with pytest.raises(ValueError, match="placebo copies mipo-lora: add that to arms"):
        ch14_real_model.settings({"sft": (2e-4, 1)}, ["placebo"])


def test_headline_policies_have_all_seeds_and_requests_the_others_three(monkeypatch):
    made = {}

    def run_many(function, calls, **kwargs):
        made.update(calls)

    monkeypatch.setattr(ch14_real_model.experiment, "run_many", run_many)
    arms = ["mipo-lora", "sami", "placebo"]
    ch14_real_model.compare(
        {"mipo-lora": (2e-4, 1), "sami": (2e-4, 0)},
        {seed: dict.fromkeys(arms, f"pairs {seed}") for seed in range(5)},
        base="model",
        n_people=20,
        scope="all",
        controls=["placebo"],
        decoded=["cold"],
        draws=4,
    )
    seeds = {}
    for name, seed in made:
        seeds.setdefault(name, []).append(seed)
    three, five = [0, 1, 2], [0, 1, 2, 3, 4]
    rest = dict.fromkeys(["sami", "placebo", "cold"], three)
    assert seeds == {"base": five, "mipo-lora": five, **rest}
    asked = {
        name: [request["name"] for request in made[name, 0]["requests"]]
        for name in seeds
    }
    assert asked["base"] == asked["mipo-lora"]
    assert {"best of", "noisy"} <= set(asked["base"])
    late = [request["name"] for request in made["base", 4]["requests"]]
    assert set(asked["base"]) - set(late) == {"best of"}
    assert asked["sami"] == asked["placebo"] and "best of" not in asked["sami"]
    assert "noisy" not in asked["sami"] and asked["cold"] == ["plain"]
    assert made["sami", 1]["pairs"] == "pairs 1" and "pairs" not in made["cold", 1]


def test_the_rule_stops_before_the_first_step_with_too_much_damage():
    within = [0.95, 0.9, 0.86, 0.84, 0.95]
    path = pd.DataFrame({"within": within, "adherence": [1, 2, 5, 3, 4]})
    path.index = [0, 8, 16, 24, 32]
    assert ch14_found.stop(path) == 16
    assert ch14_found.stop(path, tolerated=0.2) == 32
    path["pmi"] = [0.0, 1.0, 2.0, 2.5, 2.75]
    parts = ch14_found.past_the_stop([path])
    assert [part["values"] for part in parts.values()] == [[1], [0.75]]
    sound = path.iloc[:3]  # ends before the stop
    assert ch14_found.past_the_stop([path, sound]) == parts
    assert not ch14_found.past_the_stop([sound])


def test_a_training_is_asked_on_its_way(tmp_path):
    base = packaged.STAND_IN
    pairs = ch14_wishes.make_pairs(
        tmp_path, base=base, negatives="random_context", seed=0, n_people=24
    )
    request = ch14_real_model.requests(6)[0]
    run = ch14_along.along(
        tmp_path,
        base=base,
        pairs=pairs,
        seed=0,
        request=request,
        n_pairs=24,
        every=2,
        **ch14_real_model.training("mipo-lora", 1e-2, {"beta": 0.1}),
    )
    assert run.metrics["steps"] == [0, 2, 3]
    assert run.metrics["loss"][0] == pytest.approx(math.log(2), abs=1e-5)
    path = ch14_found.path_of(run)
    assert list(path.index) == [0, 2, 3]
    untrained = ch14_wishes.trial(
        tmp_path, name="base", base=base, seed=0, requests=[request], dtype="float32"
    )
    before = ch14_found.rows_of(untrained, "plain")
    assert path.alone[0] == pytest.approx(np.mean([row["alone"] for row in before]))
    assert path.alone[3] != path.alone[0]


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """A trial of the stand-in with every kind of request, trained on six pairs."""
    folder = tmp_path_factory.mktemp("runs")
    base = packaged.STAND_IN
    pairs = ch14_wishes.make_pairs(
        folder, base=base, negatives="random_context", seed=0, n_people=6
    )
    requests = ch14_real_model.requests(4, scope="all", draws=2)
    run = ch14_wishes.trial(
        folder,
        name="mipo-lora",
        base=base,
        seed=0,
        requests=requests,
        pairs=pairs,
        **ch14_real_model.training("mipo-lora", 1e-3, {"beta": 0.1}),
    )
    return run, requests


def test_every_request_has_its_rows_and_no_weights_are_kept(asked):
    run, requests = asked
    assert not (run.path / "model").exists()
    for request in requests:
        rows = ch14_found.rows_of(run, request["name"])
        expected = 32 if "told" in request else request["n_people"]
        assert len(rows) == expected * request.get("each", 1), request["name"]
        assert all(np.isfinite(line["alone"]) for line in rows)
    plain = ch14_found.rows_of(run, "plain")
    assert all(line["pmi"] <= math.log(ch14_wishes.CONTEXTS) for line in plain)
    assert len(ch14_found.replies_of(run, "plain")) == 4


def test_the_best_of_several_has_the_highest_pmi(monkeypatch):
    """By hand: PMI 1 and 4 for the first example, 1 and 0 for the second."""
    replies = [Reply(text, [1], finished=True) for text in "abcd"]
    logps = {"before": [-3.0, -1.0, -2.0, -9.0], "nowhere": [-4.0, -5.0, -3.0, -9.0]}
    monkeypatch.setattr(
        ch14_wishes, "_logps", lambda *_, stated: np.array(logps[stated])
    )
    _, best = ch14_wishes._best(None, None, ["x", "y"], replies, {"draws": 2})
    assert [reply.text for reply in best] == ["b", "c"]


def test_measures_of_a_policy_are_of_this_run_or_of_the_published_one(tmp_path):
    """SFT lacks one of the two, so it is left out; MIPO's come from another run."""
    nb = Notebook("14-real-model", run_dir=tmp_path, scale="hand")
    nb.number("raw-base", [0.1, 0.2], "of wishes")
    nb.number("misapplied-base", [0.3, 0.4], "of wishes")
    nb.number("raw-sft", [0.5, 0.6], "of wishes")
    before = {"raw-mipo-lora": 0.7, "misapplied-mipo-lora": 0.8, "raw-base": 0.9}
    published = {
        name: Number(value, None, None, 1, [value], "of wishes")
        for name, value in before.items()
    }
    nb.published = lambda name, notebook="": published.get(name)
    assert ch14_found.by_policy(nb, ("misapplied", "raw")) == {
        "base": {"misapplied": [0.3, 0.4], "raw": [0.1, 0.2]},
        "mipo-lora": {"misapplied": [0.8], "raw": [0.7]},
    }


def test_an_overview_has_a_row_per_policy():
    measured = {"base": {"raw": [0.1, 0.3]}, "mipo-lora": {"raw": [0.5]}}
    said = ch14_found.overview(measured, {"raw": ".0%"})
    assert "| policy | raw |" in said and "| base | 20% |" in said
    assert "| MIPO, LoRA | 50% |" in said
    assert ch14_found.overview({}, {"raw": ".0%"}).startswith("| policy | raw |")
