"""Runs of the small world: trained once and found again; the same people for every policy; NaN weights refused."""

import pytest

from mipo import models, pairs
from mipo.worlds import population
from mipo.worlds.language_model import build_tokenizer
from mipo_study import arms, runs, several


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder, tokenizer = tmp_path_factory.mktemp("base"), build_tokenizer()
    model = models.small_model(tokenizer, hidden=16, layers=1, heads=2, init=0.1)
    for part in (model, tokenizer):
        part.save_pretrained(folder)
    records = population.records(3, split="mipo", tasks=["lookup", "email"], seed=0)
    pairs.synthesise_pairs(model, tokenizer, records, max_new_tokens=4).to_json(
        folder / "pairs.jsonl"
    )
    return folder


@pytest.mark.parametrize("arm", arms.ARMS)
def test_every_arm_trains_and_takes_the_same_steps(base, tmp_path, arm):
    def settings(seed):
        return dict(
            lr=1e-3, beta=1.0, epochs=1, batch_size=4, seed=seed, progress=False
        )

    run = runs.train(tmp_path, arm, base, base / "pairs.jsonl", **settings(0))
    assert run.fresh and run.metrics["steps"] == 2  # six pairs in batches of four
    assert not runs.train(
        tmp_path, arm, base, base / "pairs.jsonl", **settings(0)
    ).fresh
    model, _ = models.load_model(run.path / "model")
    start, _ = models.load_model(base)
    assert any(
        (a != b).any()
        for a, b in zip(model.parameters(), start.parameters(), strict=True)
    )


def test_the_same_people_are_asked_whatever_the_policy(base, tmp_path):
    asked = dict(split="test", n_people=3, seed=1, progress=False)
    run = runs.examine(tmp_path, base, **asked)
    rows = [row["values"] for row in runs.read_pairs(run.path / "replies.jsonl")]
    expected = population.records(3, split="test", wordings="unseen", seed=7001)
    assert (
        rows == [r["values"] for r in expected] and run.metrics["valid"] == 0
    )  # random weights say nothing
    assert (
        0.4
        < runs.exact(split="test", n_people=3, seed=1)
        < runs.exact(split="test", n_people=3, seed=1, beta=0.5)
        < 1
    )


def test_weights_that_are_not_finite_are_never_saved(base, tmp_path):
    rows = runs.read_pairs(base / "pairs.jsonl")
    with pytest.raises(FloatingPointError):
        arms.train_arm(
            "sft", base, rows, tmp_path, lr=1e30, batch_size=2, progress=False
        )
    assert not (tmp_path / "model").exists()


def test_unknown_arm_is_named(base, tmp_path):
    with pytest.raises(ValueError, match="no arm 'mipo'"):
        arms.train_arm("mipo", base, None, tmp_path, lr=1e-3)


def test_runs_side_by_side_are_the_runs_one_by_one(base, tmp_path):
    calls = {
        f"seed {s}": dict(
            run_dir=str(tmp_path / "two"),
            arm="mipo-random",
            base=str(base),
            seed=s,
            lr=1e-3,
            beta=1.0,
            pairs=str(base / "pairs.jsonl"),
            epochs=1,
            batch_size=4,
        )
        for s in (0, 1)
    }
    made = several.every(runs.train, calls, workers=2, progress=False)
    assert (
        list(made) == ["seed 0", "seed 1"]
        and len({one.key for one in made.values()}) == 2
    )
    for name, call in calls.items():
        alone = runs.train(**{**call, "run_dir": str(tmp_path / "one")}, progress=False)
        assert not made[name].fresh and alone.fresh and made[name].key == alone.key
        assert made[name].metrics["last_loss"] == pytest.approx(
            alone.metrics["last_loss"], abs=1e-6
        )


def test_settings_are_those_of_the_release(tmp_path):
    """Source: the configuration that MIPO's authors released: Adam 0.9 / 0.95, clip 1, cosine to a tenth, warm-up 3 %."""
    args = arms.settings(tmp_path, loss="dpo", lr=1e-3, loss_kwargs={"beta": 0.3})
    assert (
        args.adam_beta1,
        args.adam_beta2,
        args.max_grad_norm,
        args.warmup_steps,
    ) == (0.9, 0.95, 1.0, 0.03)
    assert args.lr_scheduler_kwargs == {"min_lr_rate": 0.1} and args.loss_kwargs == {
        "beta": 0.3
    }
    assert (args.num_train_epochs, args.learning_rate) == (1, 1e-3)
