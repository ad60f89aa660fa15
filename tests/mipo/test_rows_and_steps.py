"""A row counts the same whatever the batches, and a training that goes on from a checkpoint is the whole one."""

import copy

import pytest
import torch
from torch.testing import assert_close
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

from mipo import losses
from mipo.data import render
from mipo.trainer import PreferenceConfig, PreferenceTrainer

pytestmark = pytest.mark.long

REPLIES = ["Yes.", "No, never.", "I am a baker, and it is late.", "b", "Two children."]


@pytest.fixture(scope="module")
def tokenizer(tiny_qwen2):
    return AutoTokenizer.from_pretrained(tiny_qwen2, trust_remote_code=False)


@pytest.fixture(scope="module")
def base(tiny_qwen2):
    return AutoModelForCausalLM.from_pretrained(
        tiny_qwen2, dtype=torch.float32, trust_remote_code=False
    )


@pytest.fixture(scope="module")
def rows(tokenizer, examples_list):
    """Eleven, so that no batch size but 1 and 11 divides them."""
    prompts = [render(tokenizer, e["query"], e["context"]) for e in examples_list]
    return [
        {
            "prompt": prompts[i],
            "chosen": REPLIES[i % 5],
            "rejected": REPLIES[(i + 1 + i % 3) % 5],
            "rejected_prompt": prompts[i + 1],
        }
        for i in range(11)
    ]


@pytest.fixture
def make(base, tokenizer, rows, tmp_path):
    def make(loss="dpo", eval_dataset=None, callbacks=None, **settings):
        kwargs = dict(losses.LOSSES[loss].example)
        common = {
            "output_dir": str(tmp_path / "run"),
            "ref_cache_dir": str(tmp_path / "ref-logps"),
            "loss": loss,
            "loss_kwargs": kwargs,
            "per_device_train_batch_size": 4,
            "learning_rate": 2e-3,
            "logging_steps": 1,
            "use_cpu": True,
            "disable_tqdm": True,
        }
        return PreferenceTrainer(
            model=copy.deepcopy(base),
            args=PreferenceConfig(**{**common, **settings}),
            train_dataset=rows,
            eval_dataset=eval_dataset,
            processing_class=tokenizer,
            callbacks=callbacks,
        )

    return make


class Stop(TrainerCallback):
    """Ends a training after a step, as a kill does."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step == self.step


def logged(trainer, name):
    return [row[name] for row in trainer.state.log_history if name in row]


def assert_resumes(make, tmp_path, **settings):
    saves = {"save_strategy": "steps", "save_steps": 1}
    settings = {"num_train_epochs": 2, **saves, **settings}
    whole = make(**settings, output_dir=str(tmp_path / "whole"))
    whole.train()
    make(**settings, callbacks=[Stop(4)]).train()
    again = make(**settings)
    again.train(resume_from_checkpoint=True)
    assert logged(again, "loss") == pytest.approx(logged(whole, "loss"), rel=1e-6)
    for a, b in zip(again.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("loss", sorted(losses.LOSSES))
def test_a_resumed_training_ends_at_the_same_weights(make, tmp_path, loss):
    """Whatever a loss keeps between steps is in the checkpoint, alphadpo's moments among it."""
    assert_resumes(make, tmp_path, loss=loss)


@pytest.mark.parametrize(
    "settings",
    [
        {"loss": "rmipo", "margin_warmup": 0.9},
        {"loss": "rmipo", "marginal": "frozen"},
        {"loss": "alphadpo", "gradient_accumulation_steps": 2, "num_train_epochs": 4},
        {"batch_tokens": 300},
    ],
)
def test_so_it_does_whatever_the_schedule(make, tmp_path, settings):
    assert_resumes(make, tmp_path, **settings)


@pytest.mark.parametrize("loss", ["dpo", "rmipo", "sami", "sft"])
def test_metrics_are_means_over_rows_whatever_the_batches(make, rows, loss):
    """Eleven rows in batches of 4, 4 and 3 have the metrics of one batch of eleven."""
    common = {"loss": loss, "eval_dataset": rows}
    sizes = (11, 4, 10)
    found = [make(**common, per_device_eval_batch_size=size) for size in sizes]
    together, *cut = [trainer.evaluate() for trainer in found]
    timed = ("runtime", "per_second", "preparation_time")
    names = [name for name in together if not name.endswith(timed)]
    assert "eval_loss" in names and len(names) > 1
    for metrics in cut:
        for name in names:
            assert metrics[name] == pytest.approx(together[name], rel=1e-4), name


@pytest.mark.parametrize(
    "settings",
    [
        {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 3},
        {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 6},
        {"batch_tokens": 400, "gradient_accumulation_steps": 11},
    ],
)
def test_a_step_cut_into_batches_is_the_step(make, settings):
    """As in keras 20241: the last of the batches is smaller, and its rows count as much."""
    one = make("rmipo", per_device_train_batch_size=11, num_train_epochs=1)
    cut = make("rmipo", num_train_epochs=1, **settings)
    one.train(), cut.train()
    assert one.state.global_step == cut.state.global_step == 1
    (whole, _), (pieces, _) = one.state.log_history, cut.state.log_history
    for name in whole.keys() - {"epoch"}:
        assert pieces[name] == pytest.approx(whole[name], rel=1e-3), name
    for a, b in zip(one.model.parameters(), cut.model.parameters(), strict=True):
        assert_close(a, b, atol=2e-5, rtol=0)


def test_what_is_logged_of_several_steps_is_the_mean_over_their_rows(make):
    """At a rate of 0 an epoch in batches of 4, 4 and 3 has the metrics of one of eleven."""
    still = {"num_train_epochs": 1, "learning_rate": 0.0}
    one = make("rmipo", per_device_train_batch_size=11, **still)
    cut = make("rmipo", logging_steps=3, **still)
    one.train(), cut.train()
    for name in ("loss", "margin/gamma", "margin/gamma_std", "rewards/margins"):
        assert logged(cut, name) == pytest.approx(logged(one, name), rel=1e-4), name


def test_each_evaluation_set_has_its_own_names(make, rows):
    sets = {"near": rows[:4], "far": rows[4:]}
    trainer = make("rmipo", eval_dataset=sets, per_device_eval_batch_size=3)
    found = trainer.evaluate()
    for name, part in sets.items():
        alone = make("rmipo", eval_dataset=part).evaluate()
        for metric in ("loss", "rewards/margins", "margin/delta_pmi"):
            assert found[f"eval_{name}_{metric}"] == pytest.approx(
                alone[f"eval_{metric}"], rel=1e-4
            )
    assert "eval_rewards/margins" not in found
    assert len(trainer.state.log_history) == 2
    assert not any(
        "eval_near_loss" in row and "eval_far_loss" in row
        for row in trainer.state.log_history
    )


def test_evaluation_takes_nothing_from_what_training_logs(make, rows):
    """Evaluated between two logs, training's own rows still count once and alone."""
    plain = make("rmipo", max_steps=4, logging_steps=4)
    watched = make(
        "rmipo",
        eval_dataset=rows[:3],
        eval_strategy="steps",
        eval_steps=1,
        max_steps=4,
        logging_steps=4,
    )
    plain.train(), watched.train()
    for name in ("loss", "rewards/margins"):
        assert logged(watched, name) == logged(plain, name) and logged(plain, name)
