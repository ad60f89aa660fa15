"""Settings by seed: who is trained on what, which numbers a method leaves, what diverged."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from mipo_study import experiment
from mipo_study.experiment import Trial


def trial(adherence, *, gaps=(), failed=""):
    if failed:
        metrics = {"failed": failed, "adherence": 0.0, "valid": 0.0}
        return Trial(None, metrics, {}, {})
    scores = {"adherence": adherence, "valid": [1] * len(adherence)}
    scores["tokens"] = [5] * len(adherence)
    metrics = {"adherence": float(np.mean(adherence)), "valid": 1.0}
    return Trial("policy", metrics, scores, {"gap": list(gaps)} if gaps else {})


def test_every_setting_meets_every_seed_with_its_inputs(monkeypatch, tmp_path):
    calls = []

    def make(run_dir, **keywords):
        calls.append(keywords)
        return trial([keywords["seed"] / 10])

    monkeypatch.setattr(experiment, "trial", make)
    settings = {("dpo", 0.1): {"loss": "dpo"}, ("base", 0.0): None}
    inputs = {0: {"base": "a"}, 3: {"base": "b"}}
    table = experiment.compare(
        settings, inputs, index=["method", "lr"], run_dir=tmp_path, split="test"
    )
    assert list(table.index.names) == ["method", "lr", "seed"]
    dpo = table.adherence.xs(("dpo", 0.1), level=["method", "lr"])
    assert dpo.to_dict() == {0: 0.0, 3: 0.3}
    asked = [(call["setting"], call["seed"], call["base"]) for call in calls]
    assert asked == [
        ({"loss": "dpo"}, 0, "a"),
        ({"loss": "dpo"}, 3, "b"),
        (None, 0, "a"),
        (None, 3, "b"),
    ]
    assert {call["split"] for call in calls} == {"test"}


def test_a_setting_may_have_its_own_rate(monkeypatch, tmp_path):
    asked = []

    def train(run_dir, **keywords):
        asked.append((keywords["loss"], keywords["lr"], keywords["epochs"]))
        return SimpleNamespace(metrics={"failed": "nan"})

    monkeypatch.setattr(experiment, "train", train)
    who = {"base": "a", "pairs": "b", "seed": 0, "split": "test", "n_people": 1}
    for setting in ({"loss": "dpo"}, {"loss": "dpo", "lr": 0.3}):
        gone = experiment.trial(tmp_path, **who, setting=setting, lr=0.1, epochs=2)
        assert gone.failed == "nan" and gone.metrics["adherence"] == 0
    assert asked == [("dpo", 0.1, 2), ("dpo", 0.3, 2)]


def test_a_report_keeps_numbers_by_seed_and_says_what_diverged():
    numbers, said = {}, []
    nb = SimpleNamespace(
        number=lambda name, values, unit: numbers.update({name: values}),
        say=said.append,
    )
    starts = pd.Series({0: trial([0.5, 0.5]), 1: trial([0.2, 0.2])})
    ours = pd.Series({1: trial([0.2, 0.6]), 0: trial([1.0, 0.0])})
    experiment.report(nb, "dpo", ours, starts)
    assert numbers["adherence-dpo"] == pytest.approx([0.4, 0.5])  # seeds 1, 0
    # Seed 1: a tie and a win; seed 0: a win and a loss.
    assert (numbers["win-dpo"], numbers["tie-dpo"]) == ([0.5, 0.5], [0.5, 0.0])
    assert numbers["loss-dpo"] == [0.0, 0.5] and not said
    gone = pd.Series({0: trial([], failed="loss is nan")})
    experiment.report(nb, "ipo", gone, starts)
    assert numbers["adherence-ipo"] == [0.0] and numbers["loss-ipo"] == [1.0]
    assert "longer-ipo" not in numbers
    assert said == ["**Diverged**: ipo, seed 0: loss is nan. It counts as adherence 0."]


def test_gaps_of_all_seeds_are_pooled_but_for_what_diverged():
    trials = [trial([1], gaps=[0.1, 0.2]), trial([], failed="x"), trial([1], gaps=[3])]
    assert experiment.pooled_gaps(trials, "gap").tolist() == [0.1, 0.2, 3]
    assert experiment.pooled_gaps(trials[1:2], "gap").size == 0
