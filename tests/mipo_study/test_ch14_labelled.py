"""Chapter 14, labelled pairs: settings, orders, weights, and one small training."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from datasets import Dataset

from mipo import packaged
from mipo.lm.prompts import render
from mipo.logprobs import response_logps
from mipo.losses.declaration import check
from mipo.models import load_model
from mipo.theory.margin import Margin
from mipo.worlds import politeness
from mipo_study import ch14_labelled, experiment, methods

STAND_IN = packaged.STAND_IN


class Stored:
    """A run that has left some files."""

    def __init__(self, metrics=None, **files):
        self.metrics = metrics or {}
        self.files = files

    def read(self, name):
        return json.dumps(self.files[name.removesuffix(".json")])


def policy(chosen, rejected, **metrics):
    """A run that gave these log-probs to replies of two and of four tokens."""
    tokens = {"chosen_tokens": [2] * len(chosen), "rejected_tokens": [4] * len(chosen)}
    return Stored(metrics, order={"chosen": chosen, "rejected": rejected, **tokens})


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


@pytest.fixture
def pairs(monkeypatch):
    """Eight pairs of each part, in place of the file."""
    rows = [
        {
            "query": f"What is {i}?",
            "output": f"It is {i}.",
            "chosen": f"It is {i}.",
            "rejected": f"Obviously {i}, get it?",
            "part": part,
            "kind": "rude",
        }
        for part in politeness.PARTS
        for i in range(8)
    ]
    monkeypatch.setattr(politeness, "read", lambda: rows)
    return rows


# ---- settings ----


def test_every_setting_of_every_method_is_possible():
    assert set(ch14_labelled.STRENGTHS) == set(ch14_labelled.METHODS)
    for method, strengths in ch14_labelled.STRENGTHS.items():
        for strength in strengths:
            given = ch14_labelled.with_strength(method, strength)
            check(given["loss"], given["loss_kwargs"])
            assert strength.items() <= given["loss_kwargs"].items()


def test_the_published_scale_is_left_out_so_that_runs_are_found():
    plain = ch14_labelled.at_scale("rmipo", {"beta": 2.0}, 1.0)
    assert plain == ch14_labelled.with_strength("rmipo", {"beta": 2.0})
    control = ch14_labelled.at_scale("none", {"beta": 10.0}, 0.1)
    assert control["loss_kwargs"] == {"beta": 10.0, "scale": 0.1}
    assert control["marginal"] == "none"


def searched(order, within=(1.0, 1.0, 1.0)):
    """A search of one method with three rates and one strength."""
    keys = [("dpo", rate, 0) for rate in (1e-4, 2e-4, 4e-4)]
    index = pd.MultiIndex.from_tuples(keys, names=["method", "rate", "strength"])
    return pd.DataFrame({"order": order, "within": within}, index=index)


@pytest.mark.parametrize(
    ("found", "best"),
    [
        (searched((0.5, 0.7, 0.6)), (2e-4, 0)),
        (searched((0.5, 0.7, 0.8)), (4e-4, 0)),
        (searched((0.5, 0.7, 0.8), (1.0, 0.8, 0.79)), (2e-4, 0)),
        (searched((0.5, 0.7, 0.8), (0.1, 0.2, 0.3)), (4e-4, 0)),
    ],
)
def test_the_best_setting_orders_most_and_is_not_damaged(found, best):
    assert ch14_labelled.best(found, "dpo") == best


# ---- what a run found ----


def test_order_by_hand():
    """Gaps of -1, 1, 0 become 0, 1, 1: up, as before, up; per token likewise."""
    start = policy([-4.0, -3.0, -4.0], [-3.0, -4.0, -4.0])
    now = policy([-3.0, -3.0, -3.0], [-3.0, -4.0, -4.0])
    found = ch14_labelled.ordered(now, start)
    assert found["order"] == pytest.approx((1 + 0.5 + 1) / 3)
    assert found["order-per-token"] == pytest.approx((1 + 0.5 + 1) / 3)
    assert found["likelier"] == pytest.approx(2 / 3)
    assert found["likelier-per-token"] == 0  # -3/2 against -3/4, and so on
    assert found["chosen-drift"] == pytest.approx((1 + 0 + 1) / 2 / 3)


def test_an_untrained_model_orders_as_a_coin_does():
    start = policy([-4.0, -3.0], [-3.0, -4.0])
    assert ch14_labelled.ordered(start, start)["order"] == 0.5


def test_a_diverged_training_orders_as_a_coin_does_and_says_nothing():
    diverged = Stored({"failed": "the loss is nan"})
    found = ch14_labelled.measures(diverged, Stored())
    assert set(found) == set(ch14_labelled.MEASURES)
    assert found["order"] == found["likelier-per-token"] == 0.5
    assert found["polite"] == found["within"] == 0


def said(**changes):
    """Columns of four sound replies, with changes."""
    sound = {"alone": [-2.0] * 4, "repeats": [0.0] * 4, "words": [9] * 4}
    marks = {"finished": [True] * 4, "polite": [False] * 4, "rude": [False] * 4}
    return Stored(scores={**sound, **marks, **changes})


def test_polite_replies_count_where_they_are_not_damaged():
    run = said(
        polite=[True, True, False, False],
        rude=[False, False, True, False],
        alone=[-9.0, -2.0, -2.0, -2.0],
        finished=[True, False, True, True],
    )
    found = ch14_labelled.spoken(run, said())
    assert found["polite"] == 1 / 4
    assert found["polite-anyhow"] == 2 / 4
    assert found["within"] == 3 / 4
    assert found["rude"] == found["cut"] == 1 / 4


def test_what_rmipo_leads_by_is_paired_by_seed():
    """Of four pairs RMiPO raises all on one seed and two on the other; rivals none."""
    low, high = [-3.0] * 4, [-1.0] * 4
    start = policy(low, low)
    runs = {
        (name, s): policy(low, high) for name in ch14_labelled.RIVALS for s in (0, 1)
    }
    runs |= {("base", s): start for s in (0, 1)}
    runs |= {("rmipo", 0): policy(high, low)}
    runs |= {("rmipo", 1): policy([*high[:2], *low[:2]], [*low[:2], *high[:2]])}
    ahead = ch14_labelled.leads(pd.Series(runs), "order")
    assert set(ahead) == {"dpo", "ipo", "orpo", "simpo"}
    for value, below, above in ahead.values():
        assert value == pytest.approx((1 + 0.5) / 2)
        assert below < value < above
    diverged = Stored({"failed": "the loss is nan"})
    assert ch14_labelled.each(diverged, start, "order").tolist() == [0.5] * 4


def test_measures_are_means_of_each_pair_and_reply():
    run = said(polite=[True, True, False, False], alone=[-9.0, -2.0, -2.0, -2.0])
    polite = ch14_labelled.each(run, said(), "polite")
    assert polite.mean() == ch14_labelled.spoken(run, said())["polite"] == 1 / 4
    start = policy([-4.0, -3.0, -4.0], [-3.0, -4.0, -4.0])
    now = policy([-3.0, -3.0, -3.0], [-3.0, -4.0, -4.0])
    found = ch14_labelled.ordered(now, start)
    for column in ("order", "likelier-per-token"):
        each = ch14_labelled.each(now, start, column)
        assert each.mean() == pytest.approx(found[column])


def test_what_one_seed_can_tell_by_hand():
    """Standard error of a difference of two shares of 98 at one half: 0.0714; times 2.8016."""
    size = ch14_labelled.Plan(64, n_scored=98)
    assert ch14_labelled.detectable(size) == pytest.approx(2.80159 / 14, abs=1e-4)


class Published:
    """A notebook with some published numbers."""

    def __init__(self, **numbers):
        self.numbers = numbers

    def published(self, name):
        mean = self.numbers.get(name.replace("-", "_"))
        return None if mean is None else SimpleNamespace(mean=mean)


def test_what_the_published_run_found_is_read():
    nb = Published(labelled_order_rmipo=0.7, labelled_moved_1=0.25)
    found = ch14_labelled.settled(nb)
    assert found.loc["RMiPO"].to_dict() == {"order": 0.7}
    assert "scale 1: 25.0%" in ch14_labelled.settled_moves(nb)
    assert "not been run" in ch14_labelled.settled_moves(Published())
    assert ch14_labelled.settled(Published()).empty


# ---- γ and weights ----

TWO = Stored(seen={"gap": [[0.5, -0.5]], "delta_pmi": [[0.0, 50.0]]})


def test_what_gamma_does_to_weights_by_hand():
    """γ is 1.6 and 0.3, so 0.95 on average; β is 2, and Δ is 0.5 and -0.5."""
    first, second = sigmoid(2 * (1.6 - 0.5)), sigmoid(2 * (0.3 + 0.5))
    constant = sigmoid(2 * (0.95 - 0.5)), sigmoid(2 * (0.95 + 0.5))
    by_hand = (first - constant[0] + constant[1] - second) / sum(constant)
    assert ch14_labelled.moved(TWO, Margin()) == pytest.approx(by_hand)
    found = ch14_labelled.curve(TWO, Margin())
    assert found["gamma"] == pytest.approx([0.95])
    assert found["gamma_std"] == pytest.approx([0.65])
    assert found["weight"] == pytest.approx([(first + second) / 2])
    assert found["weight_std"] == pytest.approx([(first - second) / 2])


def test_a_scale_at_which_gamma_cannot_move():
    """γ ≈ 1.6 - 1.3·Δpmi/scale, 1.6 and 1.59935 at scale 10⁵; and no γ that varies."""
    assert ch14_labelled.moved(TWO, Margin(scale=1e5)) < 1e-4
    assert ch14_labelled.moved(TWO, Margin(gamma_min=1.0, gamma_max=1.0)) == 0


def test_steps_that_are_short_are_left_out():
    run = Stored(seen={"gap": [[1.0, 2.0], [3.0, 4.0], [5.0]]})
    assert ch14_labelled.seen_by(run)["gap"].tolist() == [[1.0, 2.0], [3.0, 4.0]]


def test_what_a_control_loses_by_hand():
    """RMiPO gains 0.2 on a coin on average; its control lies 0.1 and 0.2 below."""
    keys = [(m, 1.0, s) for m in ("rmipo", "none") for s in (0, 1)]
    index = pd.MultiIndex.from_tuples(keys, names=["method", "scale", "seed"])
    found = pd.DataFrame({"order": [0.6, 0.8, 0.5, 0.6]}, index=index).sort_index()
    assert ch14_labelled.lost(found, "none", 1.0) == pytest.approx([0.5, 1.0])
    worse = pd.DataFrame({"order": [0.5, 0.4, 0.5, 0.6]}, index=index).sort_index()
    assert ch14_labelled.lost(worse, "none", 1.0) == []


def test_a_diverged_training_moves_no_weight():
    assert ch14_labelled.moved(Stored(seen={}), Margin()) == 0


def test_where_it_can_be_told():
    """γ must move weights by a tenth, and RMiPO must gain beyond its interval."""
    orders = {1.0: (0.7, 0.72, 0.71), 0.1: (0.7, 0.72, 0.71), 10.0: (0.4, 0.6, 0.8)}
    keys = [("rmipo", scale, seed) for scale in orders for seed in range(3)]
    index = pd.MultiIndex.from_tuples(keys, names=["method", "scale", "seed"])
    found = pd.DataFrame({"order": sum(orders.values(), ())}, index=index).sort_index()
    moves = {1.0: [0.1, 0.1, 0.2], 0.1: [0.1, 0.1, 0.05], 10.0: [0.3, 0.3, 0.3]}
    assert ch14_labelled.told(found, moves) == {1.0: True, 0.1: False, 10.0: False}


# ---- a training ----


def test_rows_are_spread_over_all_there_are():
    rows = list(range(9))
    assert ch14_labelled.spread(rows, 3) == [0, 4, 8]
    assert ch14_labelled.spread(rows, 99) == rows


def test_a_seed_draws_its_own_pairs_without_replacement(pairs):
    _, tokenizer = load_model(STAND_IN)
    first, second = (
        [row["chosen"] for row in ch14_labelled.draw(6, seed, tokenizer)]
        for seed in (0, 1)
    )
    assert len(set(first)) == len(set(second)) == 6
    assert first != second


def test_what_was_seen_at_the_first_step_is_the_untrained_model_s(pairs, tmp_path):
    """The first four gaps are gaps of mean log-probs of four of the pairs."""
    run = ch14_labelled.trial(
        tmp_path,
        name="rmipo",
        base=STAND_IN,
        seed=0,
        part="test",
        n_pairs=8,
        n_scored=8,
        n_asked=2,
        setting=methods.setting("rmipo"),
        lr=1e-2,
        progress=False,
    )
    model, tokenizer = load_model(STAND_IN)
    rows = ch14_labelled.draw(8, 0, tokenizer)
    prompts = [row["prompt"] for row in rows]
    own = [
        response_logps(model, tokenizer, prompts, [row[side] for row in rows]).mean
        for side in ("chosen", "rejected")
    ]
    gaps = (own[0] - own[1]).numpy()
    seen = json.loads(run.read("seen.json"))
    assert np.shape(seen["gap"]) == np.shape(seen["delta_pmi"]) == (2, 4)
    for gap in seen["gap"][0]:
        assert np.abs(gaps - gap).min() < 2e-4  # kept to four digits
    assert run.metrics["steps"] == 2
    assert len(json.loads(run.read("replies.json"))) == 2
    scores = json.loads(run.read("scores.json"))
    assert set(scores) >= {"polite", "rude", "alone", "repeats", "words", "finished"}


def test_it_trains_as_the_other_chapters_do(pairs, tmp_path):
    """The same first and last loss as of `experiment.train_on`."""
    model, tokenizer = load_model(STAND_IN)
    rows = ch14_labelled.draw(8, 0, tokenizer)
    given = ch14_labelled.with_strength("simpo", {"beta": 10.0, "gamma": 5.0})
    place = tmp_path / "runs" / "here"
    place.mkdir(parents=True)
    _, ours, _ = ch14_labelled.train(
        model, tokenizer, rows, given, 1e-2, 0, place, False
    )
    theirs = experiment.train_on(
        Dataset.from_list(rows),
        folder=place,
        base=STAND_IN,
        lr=1e-2,
        batch_size=ch14_labelled.PAIRS_PER_STEP,
        seed=0,
        lora_rank=ch14_labelled.LORA_RANK,
        progress=False,
        use_cpu=True,
        **given,
    )
    assert ours == pytest.approx(theirs, abs=1e-5)
    assert ours["first_loss"] != pytest.approx(ours["last_loss"], abs=1e-3)


def test_a_rehearsal_runs_every_method_and_control(pairs, tmp_path):
    """One seed and one scale; the constant γ is the mean of what RMiPO had."""
    size = ch14_labelled.plan(8)
    run_as = {"run_dir": tmp_path, "workers": 1, "progress": False}
    chosen = {method: (1e-3, 0) for method in ("rmipo", "dpo")}
    trials = ch14_labelled.compare(chosen, size, base=STAND_IN, **run_as)
    found = ch14_labelled.table(trials, trials.run["base"])
    assert set(found.columns) == set(ch14_labelled.MEASURES)
    assert found.notna().all(axis=None)
    assert found.order["base", 0] == 0.5
    again = ch14_labelled.ingredient(chosen["rmipo"], size, base=STAND_IN, **run_as)
    assert set(again.index.unique("method")) == {"rmipo", *ch14_labelled.CONTROLS}
    assert again.run["rmipo", 1.0, 0].path == trials.run["rmipo", 0].path
    orders = ch14_labelled.table(again, trials.run["base"])
    assert orders.order.notna().all()
    assert orders.polite.isna().to_dict()["none", 1.0, 0]  # nothing was asked
    seen = ch14_labelled.seen_by(again.run["rmipo", 1.0, 0])
    level = float(Margin().gamma(seen["delta_pmi"]).mean())
    about = json.loads((again.run["constant", 1.0, 0].path / "run.json").read_text())
    kwargs = about["config"]["setting"]["loss_kwargs"]
    assert kwargs["gamma"] == pytest.approx(2.0 * level, abs=1e-4)


def test_prompts_are_written_by_the_template(pairs):
    _, tokenizer = load_model(STAND_IN)
    [row] = ch14_labelled.draw(1, 0, tokenizer)
    queries = [render(tokenizer, f"What is {i}?") for i in range(8)]
    assert row["prompt"] in queries
