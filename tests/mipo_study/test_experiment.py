"""Steps of an experiment as runs: trained once and found again, the same people for every policy, tables of many runs."""

import json

import numpy as np
import pytest

from mipo import evaluate, models
from mipo.recipes import RECIPES
from mipo.trainer import PreferenceConfig
from mipo.world import World
from mipo.worlds import population, scoring
from mipo.worlds.language_model import build_tokenizer
from mipo_study import experiment, methods
from mipo_study.experiment import Trial

pytestmark = pytest.mark.long

OWN_PAIRS = ("sft", "mipo-random", "mipo-missing", "context-infonce", "sami")
OWN_PAIRS += ("mi-reward",)
QUICK = {"lr": 1e-3, "batch_size": 4, "progress": False}
ONE = {"n_people": 1, "seed": 0, "progress": False}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A small model with random weights, in hub format."""
    folder, tokenizer = tmp_path_factory.mktemp("base"), build_tokenizer()
    model = models.small_model(tokenizer, hidden=16, layers=1, heads=2, init=0.3)
    for part in (model, tokenizer):
        part.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def pairs(base, tmp_path_factory):
    """{kind of negatives: run of the pairs of two people, six prompts each}."""
    where = tmp_path_factory.mktemp("pairs")
    short = {"per_task": 1, "max_new_tokens": 4, **ONE, "n_people": 2}
    return {
        negatives: experiment.make_pairs(where, base=base, negatives=negatives, **short)
        for negatives in ("random_context", "missing_context")
    }


@pytest.fixture(scope="module")
def labelled(base, tmp_path_factory):
    return experiment.label_pairs(tmp_path_factory.mktemp("labels"), base=base, **ONE)


# ---- pairs ----


def test_chosen_replies_may_be_shared_and_the_placebo_only_swaps(base, tmp_path):
    settings = {"base": base, "negatives": "random_context", "per_task": 2, **ONE}
    plain = experiment.make_pairs(tmp_path, max_new_tokens=4, **settings)
    shared = experiment.make_pairs(tmp_path, max_new_tokens=4, chosen=plain, **settings)
    coin = experiment.make_pairs(tmp_path, max_new_tokens=4, placebo=True, **settings)
    rows = [experiment.read_pairs(run).to_list() for run in (plain, shared, coin)]
    assert rows[0] == rows[1] and len({plain.key, shared.key, coin.key}) == 3
    sides = [[{row["chosen"], row["rejected"]} for row in side] for side in rows]
    assert sides[0] == sides[2] and rows[0] != rows[2]


def test_examples_are_those_of_the_population_and_of_wider_worlds():
    narrow = experiment.examples_of(2, split="test", seed=3, wordings="unseen")
    assert narrow == population.examples(2, split="test", seed=3, wordings="unseen")
    wide = experiment.examples_of(2, split="test", seed=3, width=2)
    assert len(wide) == len(narrow) and wide[0]["context"] != narrow[0]["context"]


# ---- training ----


@pytest.mark.parametrize("name", OWN_PAIRS)
def test_every_method_trains_and_takes_the_same_steps(base, pairs, tmp_path, name):
    settings = {
        "base": base,
        "pairs": pairs[methods.METHODS[name].pairs],
        **methods.setting(name, beta=1.0),
        **QUICK,
    }
    run = experiment.train(tmp_path, **settings)
    assert run.fresh and run.metrics["steps"] == 3  # twelve pairs in batches of four
    assert not experiment.train(tmp_path, **settings).fresh
    policy, _ = models.load_model(run.path / "model")
    start, _ = models.load_model(base)
    weights = zip(policy.parameters(), start.parameters(), strict=True)
    assert any((a != b).any() for a, b in weights)


def test_options_reach_the_trainer(base, labelled, tmp_path):
    settings = {"base": base, "pairs": labelled, "loss": "rmipo", **QUICK}
    plain = experiment.train(tmp_path, **settings)
    warm = experiment.train(tmp_path, margin_warmup=1.0, **settings)
    logs = [experiment.read_log(run) for run in (plain, warm)]
    assert warm.key != plain.key
    assert logs[0][0]["margin/gamma"] >= 0.3 and logs[1][0]["margin/gamma"] == 0


def test_adapters_are_merged(base, labelled, tmp_path):
    settings = {"base": base, "pairs": labelled, **methods.setting("dpo"), **QUICK}
    run = experiment.train(tmp_path, lora_rank=2, **settings)
    names = {file.name for file in (run.path / "model").iterdir()}
    assert "model.safetensors" in names and "adapter_config.json" not in names


def test_a_training_that_diverges_is_a_run_without_a_model(base, labelled, tmp_path):
    settings = {"base": base, "pairs": labelled, "loss": "rmipo"}
    settings |= QUICK | {"lr": 1e38}
    made = experiment.train(tmp_path, **settings)
    assert set(made.metrics) == {"failed"} and "learning rate" in made.metrics["failed"]
    assert [file.name for file in made.path.iterdir()] == ["run.json"]
    again = experiment.train(tmp_path, **settings)
    assert not again.fresh and again.metrics == made.metrics


@pytest.mark.parametrize(
    "setting, message",
    [
        ({"loss": "rmipo", "loss_kwargs": {"gamma": 1.0}}, "no keyword 'gamma'"),
        ({"loss": "mipo"}, "unknown loss 'mipo'"),
    ],
)
def test_wrong_settings_are_errors_and_no_runs(
    base, labelled, tmp_path, setting, message
):
    with pytest.raises(ValueError, match=message):
        experiment.train(tmp_path, base=base, pairs=labelled, **setting, **QUICK)
    assert not list((tmp_path / "runs").glob("train-*"))


def test_a_misspelt_setting_is_an_error(base, labelled, tmp_path):
    with pytest.raises(TypeError, match="batchsize"):
        experiment.train(
            tmp_path, base=base, pairs=labelled, loss="sft", lr=1e-3, batchsize=4
        )


def test_the_recipe_is_that_of_the_release(tmp_path):
    """Source: the configuration that MIPO's authors released: Adam 0.9 / 0.95, clip 1, cosine to a tenth, warm-up 3 %."""
    config = PreferenceConfig(
        output_dir=str(tmp_path), loss="sft", learning_rate=1e-3, **RECIPES["mipo"]
    )
    assert (config.adam_beta1, config.adam_beta2) == (0.9, 0.95)
    assert (config.max_grad_norm, config.warmup_steps) == (1.0, 0.03)
    assert config.lr_scheduler_type == "cosine_with_min_lr"
    assert config.lr_scheduler_kwargs == {"min_lr_rate": 0.1}


# ---- evaluation and trials ----


def test_the_same_people_are_asked_whatever_the_policy(base, tmp_path):
    run = experiment.evaluate(
        tmp_path, policy=base, split="test", n_people=3, seed=1, progress=False
    )
    people = [row["values"] for row in experiment.read_replies(run)]
    expected = population.examples(3, split="test", wordings="unseen", seed=7001)
    assert people == [example["values"] for example in expected]
    assert run.metrics["valid"] == 0  # random weights say nothing
    scores = experiment.read_scores(run)
    assert len(scores["adherence"]) == len(scores["tokens"]) == len(expected)


def test_every_reply_is_written_with_its_own_scores(base, tmp_path, monkeypatch):
    def sampled(model, tokenizer, examples, **settings):
        world, rng = World(), np.random.default_rng(0)
        replies = []
        for example in examples:
            who = scoring.as_person(example)
            reply = world.sample(example["task"], who, example["topic"], rng)
            replies.append(reply if rng.random() < 0.7 else "No idea.")
        return replies

    monkeypatch.setattr("mipo.worlds.language_model.sample_replies", sampled)
    run = experiment.evaluate(
        tmp_path, policy=base, split="test", n_people=3, seed=1, progress=False
    )
    rows, scores = experiment.read_replies(run), experiment.read_scores(run)
    own = scoring.score([row["reply"] for row in rows], rows)
    for key in ("adherence", "valid"):
        column = [row[key] for row in rows]
        assert column == scores[key] == own[key].tolist()
        assert len(set(column)) > 1
        assert run.metrics[key] == pytest.approx(np.mean(column))


def test_the_exact_law_adheres_less_than_its_optimum():
    law = experiment.exact(split="test", n_people=3, seed=1)
    optimum = experiment.exact(split="test", n_people=3, seed=1, beta=0.5)
    assert 0.4 < law < optimum < 1


def trial(base, labelled, tmp_path, setting, lr=1e-3):
    return experiment.trial(
        tmp_path,
        base=base,
        pairs=labelled,
        seed=0,
        split="test",
        n_people=1,
        setting=setting,
        lr=lr,
        batch_size=3,
        unseen=labelled,
        progress=False,
    )


def test_a_trial_trains_evaluates_scores_pairs_and_is_found_again(
    base, labelled, tmp_path
):
    made = trial(base, labelled, tmp_path, methods.setting("rmipo"))
    pairs = labelled.metrics["pairs"]
    assert {"steps", "adherence", "valid", "accuracy"} <= set(made.metrics)
    assert not made.failed and len(made.scores["adherence"]) == 6
    assert len(made.gaps["delta_pmi"]) == pairs and len(made.log()) == -(-pairs // 3)
    before = sorted((tmp_path / "runs").iterdir())
    again = trial(base, labelled, tmp_path, methods.setting("rmipo"))
    assert again.metrics == made.metrics
    assert sorted((tmp_path / "runs").iterdir()) == before
    config = json.loads((made.policy.path / "run.json").read_text())["config"]
    assert config["loss"] == "rmipo"


def test_the_base_model_is_a_trial_without_training(base, labelled, tmp_path):
    untrained = trial(base, labelled, tmp_path, None)
    assert untrained.policy == base
    assert untrained.metrics["chosen_drift"] == pytest.approx(0, abs=1e-4)


def test_a_trial_that_diverges_has_adherence_0(base, labelled, tmp_path):
    lost = trial(base, labelled, tmp_path, methods.setting("rmipo"), lr=1e38)
    assert lost.failed and lost.metrics["adherence"] == 0 and not lost.scores
    assert lost.policy is None and lost.log() == []


# ---- many runs ----


def test_runs_side_by_side_are_the_runs_one_by_one(base, pairs, tmp_path):
    settings = {"base": base, "pairs": pairs["random_context"], "lr": 1e-3}
    settings |= methods.setting("mipo-random", beta=1.0) | {"batch_size": 4}
    calls = {("mipo", s): {"seed": s} for s in (0, 1)}
    table = experiment.run_many(
        experiment.train,
        calls,
        run_dir=tmp_path / "two",
        index=["method", "seed"],
        workers=2,
        progress=False,
        **settings,
    )
    assert table.index.names == ["method", "seed"] and list(table.index) == list(calls)
    assert len({run.key for run in table.run}) == 2
    for (_, s), row in table.iterrows():
        alone = experiment.train(tmp_path / "one", seed=s, progress=False, **settings)
        assert not row.run.fresh and alone.fresh and row.run.key == alone.key
        assert row.last_loss == pytest.approx(alone.metrics["last_loss"], abs=1e-6)


def test_one_name_is_a_plain_index_and_no_calls_are_an_empty_table(tmp_path):
    def double(run_dir, *, x, progress):
        return type("Run", (), {"metrics": {"twice": 2 * x}})()

    table = experiment.run_many(double, {3: {"x": 3}, 1: {"x": 1}}, run_dir=tmp_path)
    assert table.index.name == "seed" and table.twice.to_dict() == {3: 6, 1: 2}
    assert experiment.run_many(double, {}, run_dir=tmp_path).empty


# ---- what trials are worth, by hand ----


def scored(adherence, valid=None, **more):
    valid = valid or [1.0] * len(adherence)
    tokens = list(range(1, len(adherence) + 1))
    columns = {"adherence": adherence, "valid": valid, "tokens": tokens}
    metrics = {"adherence": float(np.mean(adherence)), "valid": float(np.mean(valid))}
    return Trial("policy", metrics | more, columns, {})


GONE = Trial(None, {"failed": "nan", "adherence": 0.0, "valid": 0.0}, {}, {})


def test_wins_ties_and_losses_by_hand():
    """A broken reply has adherence 0, and loses all the same against a sentence of adherence 0."""
    ours = scored([1.0, 0.5, 0.0, 0.0])
    theirs = scored([0.5, 0.5, 0.0, 0.5], valid=[1, 1, 0, 1])
    expected = {"win": 0.5, "tie": 0.25, "loss": 0.25, "win_or_tie": 0.75}
    assert experiment.compare_replies(ours, theirs) == expected
    mirrored = experiment.compare_replies(theirs, ours)
    assert (mirrored["win"], mirrored["loss"]) == (0.25, 0.5)
    by_hand = evaluate.win_rate([1, 0.5, 0, 0], [0.5, 0.5, -1, 0.5])
    assert experiment.compare_replies(ours, theirs) == by_hand


def test_a_run_that_diverged_loses_everything():
    assert experiment.compare_replies(GONE, scored([0.0]))["loss"] == 1
    assert experiment.tokens_longer(GONE, scored([0.0])) is None


def test_longer_counts_tokens_of_replies_to_the_same_prompts():
    short, long = scored([1, 1]), scored([1, 1])
    long.scores["tokens"] = [4, 3]  # against 1 and 2
    assert experiment.tokens_longer(long, short) == 2
    assert experiment.tokens_longer(short, short) == 0


def test_measures_are_one_value_per_seed_and_leave_out_what_a_diverged_run_lacks():
    start = scored([0.5, 0.5])
    more = {"accuracy": 0.7, "ratio_accuracy": 0.6}
    more |= {"chosen_drift": -0.1, "rejected_drift": -0.2}
    fine = scored([1.0, 0.5], **more)
    values = experiment.measures([fine], [start])
    assert values["adherence"] == ([0.75], "of slots")
    assert values["broken"] == ([0.0], "of replies")
    assert [values[k][0] for k in ("win", "tie", "loss")] == [[0.5], [0.5], [0.0]]
    assert values["longer"][0] == [0.0]
    assert values["ratio-accuracy"] == ([0.6], "of held-out pairs")
    assert values["chosen-drift"][0] == [-0.1]
    mixed = experiment.measures([fine, GONE], [start, start])
    assert set(mixed) == {"adherence", "broken", "win", "tie", "loss"}
    assert mixed["adherence"][0] == [0.75, 0.0] and mixed["loss"][0] == [0.0, 1.0]
