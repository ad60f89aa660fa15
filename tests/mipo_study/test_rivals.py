"""The rivals of chapter 9: settings that every loss accepts, tuning factors, and how a run is judged."""

import json

import numpy as np
import pytest

from mipo import evaluate, losses, models
from mipo.losses.declaration import keyword
from mipo.trainer import PreferenceConfig
from mipo.worlds import population
from mipo.worlds.language_model import build_tokenizer
from mipo_study import labelled, rivals
from mipo_study.rivals import CONTROLS, PLUGGED, RIVALS, WARM, Outcome

ALL = {**RIVALS, **CONTROLS, **{f"{n}+": r for n, r in PLUGGED.items()}, "warm": WARM}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder, tokenizer = tmp_path_factory.mktemp("base"), build_tokenizer()
    for part in (
        models.small_model(tokenizer, hidden=16, layers=1, heads=2, init=0.3),
        tokenizer,
    ):
        part.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def pairs(base, tmp_path_factory):
    asked = population.records(3, split="mipo", tasks=["lookup", "email"], seed=0)
    return (
        labelled.preferences(
            tmp_path_factory.mktemp("p"), base, asked, progress=False
        ).path
        / "pairs"
        / "train.jsonl"
    )


@pytest.mark.parametrize("name", [n for n in ALL if n != "constant"])
def test_every_setting_is_one_that_loss_and_trainer_accept(name, tmp_path):
    for factor in ALL[name].factors([0.333, 1.0, 3.0]):
        setting = ALL[name].setting(factor)
        options = {k: v for k, v in setting.items() if k not in ("loss", "loss_kwargs")}
        PreferenceConfig(
            output_dir=str(tmp_path),
            loss=setting["loss"],
            loss_kwargs=setting["loss_kwargs"],
            **options,
        )


@pytest.mark.parametrize("name", RIVALS)
def test_published_values_are_the_losses_own_defaults_where_they_have_one(name):
    """What is written in RIVALS is written in mipo.losses too, beside its source; SimPO's and DPO's have no default."""
    loss = losses.get(RIVALS[name].loss)
    for key, value in RIVALS[name].kwargs.items():
        if (name, key) not in (
            ("dpo", "beta"),
            ("ipo", "tau"),
            ("simpo", "beta"),
            ("simpo", "gamma"),
            ("rmipo-paper", "convention"),
        ):
            assert keyword(loss, key, {}) == value, key


def test_the_knob_is_moved_by_its_factor_and_nothing_else():
    assert RIVALS["simpo"].setting(3.0)["loss_kwargs"] == {"beta": 2.0, "gamma": 3.0}
    assert RIVALS["dpo"].setting(0.333)["loss_kwargs"] == {"beta": 0.0333}
    assert RIVALS["rmipo"].setting()["loss_kwargs"] == {"beta": 2.0}
    assert RIVALS["simper"].setting(3.0)["loss_kwargs"] == {} and RIVALS[
        "simper"
    ].factors([0.3, 1, 3]) == [1.0]


def test_a_constant_margin_is_rmipo_s_without_decay():
    import torch

    gap, other = torch.linspace(-2, 2, 9), torch.zeros(9)
    setting = rivals.constant(1.43)
    same = losses.rmipo(gap, other, gap, gamma_min=1.43, gamma_max=1.43)
    torch.testing.assert_close(
        losses.get(setting["loss"])(gap, other, **setting["loss_kwargs"]), same
    )
    flat = rivals.flat("dpo", 1.43)
    assert flat["loss"] == "dpo_decay" and flat["loss_kwargs"] == {
        "beta": 0.1,
        "gamma_min": 1.43,
        "gamma_max": 1.43,
    }


def outcome(adherence, valid=None):
    valid = valid or [1.0] * len(adherence)
    scored = enumerate(zip(adherence, valid, strict=True))
    rows = [
        {"adherence": a, "valid": v, "reply": "Hi " * (i + 1)} for i, (a, v) in scored
    ]
    return Outcome(None, {"adherence": float(np.mean(adherence))}, rows, {})


def test_wins_ties_and_losses_by_hand():
    """A broken reply has adherence 0, and loses all the same against a sentence of adherence 0."""
    ours, theirs = (
        outcome([1.0, 0.5, 0.0, 0.0]),
        outcome([0.5, 0.5, 0.0, 0.5], valid=[1, 1, 0, 1]),
    )
    assert rivals.against(ours, theirs) == {
        "win": 0.5,
        "tie": 0.25,
        "loss": 0.25,
        "win_or_tie": 0.75,
    }
    mirrored = rivals.against(theirs, ours)
    assert (mirrored["win"], mirrored["loss"]) == (0.25, 0.5)
    assert rivals.against(ours, theirs) == evaluate.win_rate(
        [1, 0.5, 0, 0], [0.5, 0.5, -1, 0.5]
    )


def test_a_run_that_diverged_loses_everything_and_is_never_the_best():
    gone = Outcome(
        None, {"failed": "the loss is nan", "adherence": 0.0, "valid": 0.0}, [], {}
    )
    assert (
        gone.failed
        and gone.log() == []
        and rivals.against(gone, outcome([0.0]))["loss"] == 1
    )
    assert rivals.best({"a": [gone, outcome([0.9])], "b": [outcome([0.5])]}) == "b"


def test_longer_counts_tokens_of_replies_to_the_same_prompts():
    class Words:
        def __call__(self, texts, add_special_tokens):
            return {"input_ids": [text.split() for text in texts]}

    short, long = outcome([1, 1]), outcome([1, 1])
    for row in long.replies:
        row["reply"] += "a b"
    assert (
        rivals.longer(long, short, Words()) == 2
        and rivals.longer(short, short, Words()) == 0
    )


def test_compete_trains_examines_weighs_and_is_found_again(base, pairs, tmp_path):
    def run(setting, lr=1e-3):
        return rivals.compete(
            tmp_path,
            str(base),
            pairs=str(pairs),
            seed=0,
            split="test",
            n_people=1,
            setting=setting,
            lr=lr,
            epochs=1,
            batch_size=3,
            unseen=str(pairs),
            progress=False,
        )

    made = run(RIVALS["rmipo"].setting())
    assert {"steps", "adherence", "valid", "accuracy", "chosen_drift"} <= set(
        made.metrics
    ) and not made.failed
    assert (
        len(made.replies) == 6
        and len(made.gaps["delta_pmi"]) == 6
        and len(made.log()) == 2
    )
    before = sorted((tmp_path / "runs").iterdir())
    assert (
        run(RIVALS["rmipo"].setting()).metrics == made.metrics
        and sorted((tmp_path / "runs").iterdir()) == before
    )
    untrained = run(None)
    assert untrained.policy == base and untrained.metrics[
        "chosen_drift"
    ] == pytest.approx(0, abs=1e-4)
    assert (
        json.loads((made.policy.parent / "run.json").read_text())["config"]["loss"]
        == "rmipo"
    )
    lost = run(RIVALS["rmipo"].setting(), lr=1e38)
    assert lost.failed and lost.metrics["adherence"] == 0 and not lost.replies


def test_measures_are_one_value_per_seed_and_leave_out_what_a_diverged_run_lacks():
    class Words:
        def __call__(self, texts, add_special_tokens):
            return {"input_ids": [text.split() for text in texts]}

    def scored(adherence, **more):
        made = outcome(adherence)
        return Outcome(None, {**made.metrics, "valid": 1.0, **more}, made.replies, {})

    gone = Outcome(None, {"failed": "nan", "adherence": 0.0, "valid": 0.0}, [], {})
    start = scored([0.5, 0.5])
    fine = scored(
        [1.0, 0.5],
        accuracy=0.7,
        ratio_accuracy=0.6,
        chosen_drift=-0.1,
        rejected_drift=-0.2,
    )
    found = rivals.measures([fine], [start], Words())
    assert found["adherence"] == ([0.75], "of slots") and found["broken"] == (
        [0.0],
        "of replies",
    )
    assert (found["win"][0], found["tie"][0], found["loss"][0], found["longer"][0]) == (
        [0.5],
        [0.5],
        [0.0],
        [0.0],
    )
    assert found["ratio-accuracy"] == ([0.6], "of held-out pairs") and found[
        "chosen-drift"
    ][0] == [-0.1]
    mixed = rivals.measures([fine, gone], [start, start], Words())
    assert set(mixed) == {"adherence", "broken", "win", "tie", "loss"}
    assert mixed["adherence"][0] == [0.75, 0.0] and mixed["loss"][0] == [0.0, 1.0]


def test_a_table_is_markdown_and_unknown_names_are_named():
    assert rivals.table(["", "a"], [["x", "1"]]) == "|  | a |\n| --- | --- |\n| x | 1 |"
    rivals.known(losses=(["dpo"], RIVALS), controls=([], CONTROLS))
    with pytest.raises(
        ValueError, match="controls: there is no 'dpo'; choose from none, shuffled"
    ):
        rivals.known(losses=(["dpo"], RIVALS), controls=(["dpo"], CONTROLS))
