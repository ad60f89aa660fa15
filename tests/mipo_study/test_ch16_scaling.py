"""Models of any size: the rules, training that equals chapter 4's, and examples that say what they claim."""

import inspect
import math

import numpy as np
import pytest
import torch

from mipo import models
from mipo.lm.sampling import Reply
from mipo.numbers import Number
from mipo.world import World
from mipo.worlds import language_model, scoring, wide
from mipo.worlds.grammar import TASKS
from mipo_study import ch16_scaling, experiment

pytestmark = pytest.mark.long

RUNS = "runs"
SMALL = {"size": "0.1M", "width": 2, "seed": 0}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(run_dir, record of a base model of four steps in a world of width 2)."""
    folder = tmp_path_factory.mktemp("runs")
    return folder, ch16_scaling.base_model(folder, **SMALL, steps=3, progress=False)


def test_sizes_are_what_their_names_say():
    tokenizer = wide.build_tokenizer(1)
    for name, shape in ch16_scaling.SIZES.items():
        with torch.device("meta"):
            model = models.small_model(
                tokenizer,
                hidden=shape.hidden,
                layers=shape.layers,
                heads=shape.hidden // 64,
                inner=shape.hidden,
            )
        assert model.num_parameters() == pytest.approx(
            1e6 * float(name[:-1]), rel=0.3
        ), name
    with pytest.raises(ValueError, match="no '2M'; choose from 0.1M"):
        ch16_scaling.size_of("2M")


def test_the_rule_is_chapter_4_at_a_million_and_scales_as_stated():
    """1/h for rates, 1/√h for initial weights, embeddings as they are (arXiv:2203.03466, for Adam)."""
    one, tenth = ch16_scaling.rule("1M"), ch16_scaling.rule("0.1M")  # h = 256 and 64
    assert (
        one["lr"]
        == inspect.signature(language_model.train_base).parameters["lr"].default
    )
    assert one == pytest.approx({"lr": 1.2e-3, "embedding_rate": 40.0, "init": 0.06})
    assert tenth["lr"] == pytest.approx(4 * one["lr"]) and tenth[
        "init"
    ] == pytest.approx(2 * one["init"])
    assert tenth["lr"] * tenth["embedding_rate"] == pytest.approx(
        one["lr"] * one["embedding_rate"]
    )
    assert (
        ch16_scaling.carried(1.5e-4, "1M") == 1.5e-4
        and ch16_scaling.carried(1.5e-4, "0.1M") == 6e-4
    )
    assert [ch16_scaling.steps_of(w, 1700) for w in (1, 4, 16)] == [1700, 3400, 6800]


def test_a_base_model_is_found_again_and_says_what_it_is(made):
    folder, record = made
    again = ch16_scaling.base_model(folder, **SMALL, steps=3, progress=False)
    assert record.fresh and not again.fresh
    assert (
        len(record.metrics["losses"]) == 4
        and record.metrics["device"] == ch16_scaling.device_name()
    )  # 3·√2 steps
    model, tokenizer = models.load_model(record.path / "model")
    assert model.num_parameters() == record.metrics["parameters"] and len(
        tokenizer
    ) > len(language_model.build_tokenizer())


@pytest.mark.skipif(
    torch.cuda.is_available(), reason="on a GPU this size is trained there"
)
def test_a_million_parameters_at_width_one_is_chapter_4_s_record(tmp_path):
    own = experiment.base_model(
        tmp_path, seed=0, steps=2, batch_size=32, lr=1.2e-3, progress=False
    )
    found = ch16_scaling.base_model(
        tmp_path, size="1M", width=1, seed=0, steps=2, progress=False
    )
    assert found.key == own.key and not found.fresh


def test_law_distance_is_zero_at_the_law_and_grows_by_what_a_model_lacks(
    made, monkeypatch
):
    examples = ch16_scaling.examples_of(3, 2, split="test", seed=0, wordings="seen")
    seen = {}

    def exact(model, tokenizer, prompts, replies, **more):
        seen["replies"] = replies
        logps = [
            World().log_prob(y, r["task"], scoring.as_person(r), topic=r["topic"])
            for y, r in zip(replies, examples, strict=True)
        ]
        return type(
            "LogProbs",
            (),
            {"summed": torch.tensor(logps, dtype=torch.float64) - missing},
        )

    monkeypatch.setattr(ch16_scaling, "response_logps", exact)
    tokenizer = wide.build_tokenizer(2)
    for missing in (0.0, 0.3):
        assert ch16_scaling.law_distance(None, tokenizer, examples) == pytest.approx(
            missing, abs=1e-9
        )
    assert scoring.score(seen["replies"], examples)["valid"].all()


def test_scores_agree_with_the_other_chapters_at_width_one(tmp_path):
    model, tokenizer = ch16_scaling.build("0.1M", 1)
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "model")
    asked = dict(split="test", n_people=2, seed=0, progress=False)
    mine = ch16_scaling.evaluate(tmp_path, policy=tmp_path / "model", width=1, **asked)
    theirs = experiment.evaluate(tmp_path, policy=tmp_path / "model", **asked)
    for key in ("adherence", "valid"):
        assert mine.metrics[key] == theirs.metrics[key]
    assert mine.metrics["law_distance"] > 5  # random weights


def test_prospect_of_the_exact_law_is_its_information_and_optimum(made, monkeypatch):
    """A model that answers by the exact law: rows, people and weights must find each other."""
    folder, record = made
    world, rng = World(), np.random.default_rng(0)
    asked = {}

    def say(model, tokenizer, rows, **more):
        asked["rows"] = rows
        asked["texts"] = [
            world.sample(r["task"], scoring.as_person(r), r["topic"], rng) for r in rows
        ]
        return [Reply(text, [i], True) for i, text in enumerate(asked["texts"])]

    def pmi(model, tokenizer, rows, replies, *, contexts, **more):
        assert len(set(contexts)) == 24 and not set(contexts) & {
            r["context"] for r in rows
        }
        return torch.tensor(
            [
                world.pmi(asked["texts"][i], r["task"], scoring.as_person(r))
                for (i,), r in zip(replies, rows, strict=True)
            ]
        )

    monkeypatch.setattr(ch16_scaling, "sample", say)
    monkeypatch.setattr(ch16_scaling, "conditional_pmi", pmi)
    found = ch16_scaling.prospect(
        folder,
        policy=record,
        width=2,
        split="test",
        n_people=20,
        seed=0,
        beta=1.0,
        draws=64,
        progress=False,
    ).metrics
    examples = asked["rows"][::64]
    assert len(examples) == 120 and {r["task"] for r in examples} == set(TASKS)
    assert found["adherence"] == pytest.approx(
        scoring.exact_adherence(examples).mean(), abs=0.02
    )
    assert found["own_optimum"] == pytest.approx(
        scoring.exact_adherence(examples, beta=1.0).mean(), abs=0.02
    )
    exact = [
        world.law(r["task"], scoring.as_person(r)).kl(world.marginal(r["task"]))
        for r in examples
    ]
    assert found["information"] == pytest.approx(np.mean(exact), abs=0.05)


def test_the_excess_of_information_against_one_stranger_by_closed_form():
    """One stranger c' in place of the marginal: E log p(y|c)/p(y|c') - E log p(y|c)/p(y) = KL(p_c ‖ p_c') - KL(p_c ‖ p)."""
    world, seed = World(), 3
    other = scoring.as_person(
        ch16_scaling.examples_of(1, 1, split="test", seed=8000 + seed, wordings="seen")[
            0
        ]
    )
    expected = []
    for r in ch16_scaling.examples_of(10, 1, split="test", seed=7000 + seed):
        law = world.law(r["task"], scoring.as_person(r))
        expected.append(
            law.kl(world.law(r["task"], other)) - law.kl(world.marginal(r["task"]))
        )
    found = ch16_scaling.excess_of_prospect(
        split="test", n_people=10, seed=seed, beta=1.0, draws=200, contexts=1
    )
    assert (
        found["information"] == pytest.approx(np.mean(expected), abs=0.05)
        and np.mean(expected) > 0.2
    )


def test_more_strangers_and_more_draws_come_nearer_to_the_truth():
    excess = [
        ch16_scaling.excess_of_prospect(
            split="test", n_people=10, seed=0, beta=1.0, draws=d, contexts=c
        )
        for d, c in ((16, 2), (16, 32), (2, 32))
    ]
    assert excess[0]["information"] > 4 * abs(excess[1]["information"])
    assert excess[2]["own_optimum"] < excess[1]["own_optimum"] - 0.02 < 0


def settings(record, method, **more):
    return {
        "base": record,
        "method": method,
        "split": "test",
        "n_asked": 2,
        "n_people": 2,
        "per_task": 1,
        "batch_size": 6,
        **SMALL,
        **more,
        "progress": False,
    }


@pytest.mark.parametrize("method", ch16_scaling.METHODS)
def test_a_trial_trains_evaluates_and_is_found_again(made, method):
    folder, record = made
    first = ch16_scaling.trial(folder, **settings(record, method)).metrics
    before = {path.name for path in (folder / RUNS).iterdir()}
    assert set(first) == {"adherence", "valid", "law_distance"} and math.isfinite(
        first["law_distance"]
    )
    assert ch16_scaling.trial(folder, **settings(record, method)).metrics == first
    assert {path.name for path in (folder / RUNS).iterdir()} == before
    moved = ch16_scaling.trial(folder, **settings(record, method, factor=3.0)).metrics
    assert moved["law_distance"] != first["law_distance"]


@pytest.mark.parametrize("method", ch16_scaling.METHODS)
def test_a_run_that_diverges_counts_as_broken(made, method, monkeypatch):
    folder, record = made

    def stop(*args, **settings):
        raise FloatingPointError("the loss is nan")

    monkeypatch.setattr(experiment, "train_on", stop)
    found = ch16_scaling.trial(folder, **settings(record, method, factor=2.0)).metrics
    assert found == {
        "adherence": 0.0,
        "valid": 0.0,
        "law_distance": None,
        "failed": "the loss is nan",
    }


def test_the_placebo_turns_mipo_s_pairs(made):
    folder, record = made
    made = [
        ch16_scaling.make_pairs(
            folder,
            base=record,
            method="mipo",
            width=2,
            seed=0,
            n_people=2,
            per_task=1,
            placebo=p,
            progress=False,
        )
        for p in (False, True)
    ]
    rows = [experiment.read_pairs(pairs) for pairs in made]
    same = np.equal(rows[0]["chosen"][:], rows[1]["chosen"][:])
    assert rows[0]["prompt"][:] == rows[1]["prompt"][:] and not same.all()


def test_an_unknown_method_is_named(made):
    with pytest.raises(
        ValueError, match="no 'simpo'; did you mean 'mipo'. There are mipo, dpo, rmipo"
    ):
        ch16_scaling.trial(made[0], **settings(made[1], "simpo")).metrics


def test_the_grid_is_sorted_and_checked():
    grid = [["1M", 2], ["1M", 1], ["0.3M", 1], ["0.3M", 2]]
    assert ch16_scaling.cells_of(grid, ["mipo"]) == [
        ("0.3M", 1),
        ("1M", 1),
        ("0.3M", 2),
        ("1M", 2),
    ]
    for wrong, message in (
        ((grid, ["dpo"]), "mipo must be among them"),
        ((grid, ["mipo", "simpo"]), "no 'simpo'"),
        (([["2M", 1]], ["mipo"]), "no '2M'"),
        (([["1M", 33]], ["mipo"]), "1 to 32 places"),
    ):
        with pytest.raises(ValueError, match=message):
            ch16_scaling.cells_of(*wrong)


def test_sizes_read_their_cells_from_the_names_of_numbers():
    """Two runs: the later one wins, the growing world starts from the smallest model."""
    elsewhere = {
        "parameters-0.1M-w1": Number(1e5, None, None, 1, [1e5]),
        "parameters-0.3M-w2": Number(3e5, None, None, 1, [3e5]),
        "gain-mipo-0.1M-w1": Number(0.3, None, None, 1, [0.3]),
    }
    here = {
        "parameters-1M-w1": Number(1e6, None, None, 1, [1e6]),
        "gain-mipo-0.1M-w1": Number(0.2, None, None, 1, [0.2]),
        "gain-mipo-0.3M-w2": Number(0.1, None, None, 1, [0.1]),
        "gain-mipo-slope": Number(9.0, None, None, 1, [9.0]),
    }
    sizes = ch16_scaling.Sizes([(elsewhere, False), (here, True)])
    assert sizes.points("gain-mipo") == [(1e5, [0.2], True)]
    assert sizes.points("gain-mipo", "grows") == [
        (1e5, [0.2], True),
        (3e5, [0.1], True),
    ]
    assert sizes.ends("gain-mipo", "grows") == "0.200 to 0.100"
