"""Runs of real models in miniature: training in one process and two, resuming, adapters, replies, pairs, verdicts."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig

from mipo import fit, hub, real, real_scores, store
from mipo.hub import Place

TALK = {"chosen": "Yes, I will bring bread.", "rejected": "No."}
SETTINGS = dict(lr=1e-3, epochs=2, batch_size=4, micro_batch=2, max_length=200, lora_rank=0, seed=0, save_every=100,
                progress=False)
GREEDY = {"temperature": 0.0, "top_p": 1.0, "max_new_tokens": 5}


def roomy(folder, target, positions=8192):
    """The tiny model with room for long prompts; its positions are rotary, so that nothing else changes."""
    shutil.copytree(folder, target)
    config = AutoConfig.from_pretrained(target)
    config.max_position_embeddings = positions
    config.save_pretrained(target)
    return target


@pytest.fixture
def base(tiny_model_dir):
    return Place(str(tiny_model_dir), tiny_model_dir)


@pytest.fixture
def made(tmp_path):
    rows = [{"prompt": [{"role": "user", "content": f"Bring bread {i}?"}],
             "chosen": [{"role": "assistant", "content": TALK["chosen"] + "!" * (i % 3)}],
             "rejected": [{"role": "assistant", "content": TALK["rejected"] + "." * i}]} for i in range(12)]
    return real.labelled(tmp_path / "run", rows, seed=0)


def weights(record):
    return load_file(record.path / "model" / "model.safetensors")


def losses(record):
    return [row["loss"] for row in json.loads((record.path / "log.json").read_text())]


def test_training_starts_at_log_2_and_is_found_again(base, made, tmp_path):
    first = real.train(tmp_path / "run", real.PREFERENCES["dpo"], base, made, **SETTINGS)
    assert first.fresh and first.metrics["steps"] == 6 and first.metrics["first_loss"] == pytest.approx(0.6931, abs=1e-4)
    assert losses(first)[-1] < losses(first)[0] and not (tmp_path / "run" / "checkpoints").glob("*/checkpoint-*") == []
    smaller = {**SETTINGS, "micro_batch": 1, "checkpointing": False}  # how it is computed is not part of the key
    assert not real.train(tmp_path / "run", real.PREFERENCES["dpo"], base, made, **smaller).fresh
    assert real.train(tmp_path / "run", real.PREFERENCES["dpo"], base, made, **{**SETTINGS, "seed": 1}).fresh


def test_smaller_pieces_give_the_same_run(tiny_qwen2, made, tmp_path):
    """Tolerance: sums of float32 in another order, over six steps."""
    base, runs = Place(str(tiny_qwen2), tiny_qwen2), []
    for i, pieces in enumerate(({"micro_batch": 4}, {"micro_batch": 1}, {"micro_batch": 2, "checkpointing": False})):
        runs.append(real.train(tmp_path / f"{i}", real.PREFERENCES["rmipo"], base, made, **{**SETTINGS, **pieces}))
    for other in runs[1:]:
        assert losses(other) == pytest.approx(losses(runs[0]), abs=2e-4)


def test_a_cut_run_goes_on_from_its_checkpoint(tiny_qwen2, made, tmp_path, monkeypatch):
    base, dpo = Place(str(tiny_qwen2), tiny_qwen2), real.PREFERENCES["dpo"]
    whole = real.train(tmp_path / "whole", dpo, base, made, **SETTINGS)
    steps, original = [], fit.PreferenceTrainer.training_step

    def count(self, *args, **kwargs):
        steps.append(self.state.global_step)
        if len(steps) == 9:  # in the fifth of six steps
            raise KeyboardInterrupt
        return original(self, *args, **kwargs)

    monkeypatch.setattr(fit.PreferenceTrainer, "training_step", count)
    settings = {**SETTINGS, "save_every": 2}
    with pytest.raises(KeyboardInterrupt):
        real.train(tmp_path / "run", dpo, base, made, **settings)
    assert not list((tmp_path / "run" / "records").glob("train-*"))
    kept = list((tmp_path / "run" / "checkpoints").glob("*/checkpoint-*"))
    assert [p.name for p in kept] == ["checkpoint-4"]
    (kept[0].parent / "checkpoint-9").mkdir()  # cut while it was written
    again = real.train(tmp_path / "run", dpo, base, made, **settings)
    assert steps[9:] == [4, 4, 5, 5] and again.metrics["steps"] == 6
    assert not list((tmp_path / "run" / "checkpoints").glob("*/checkpoint-*"))
    for name, value in weights(whole).items():
        torch.testing.assert_close(weights(again)[name], value, atol=1e-6, rtol=0)


def test_two_processes_do_as_one(tiny_llama, made, tmp_path):
    """DDP on two CPU processes, each with half of the batch, against one with all of it: losses within 1e-4 nats, weights
    within 1e-4 (Adam divides by gradients near zero, where the order of sums shows)."""
    base, dpo = Place(str(tiny_llama), tiny_llama), real.PREFERENCES["dpo"]
    one = real.train(tmp_path / "one", dpo, base, made, **SETTINGS)
    two = real.train(tmp_path / "two", dpo, base, made, **SETTINGS, launch="configs/accelerate/two-cpus.yaml")
    assert (one.metrics["processes"], two.metrics["processes"]) == (1, 2)
    assert one.metrics["steps"] == two.metrics["steps"] == 6
    assert losses(two) == pytest.approx(losses(one), abs=1e-4)
    for name, value in weights(one).items():
        torch.testing.assert_close(weights(two)[name], value, atol=1e-4, rtol=0)


def test_a_launch_that_fails_says_why(tiny_llama, made, tmp_path):
    base, odd = Place(str(tiny_llama), tiny_llama), {**SETTINGS, "batch_size": 3, "micro_batch": 1}
    with pytest.raises(RuntimeError, match=r"batch_size=3 is no multiple of micro_batch=1 times 2 process"):
        real.train(tmp_path, real.PREFERENCES["dpo"], base, made, **odd, launch="configs/accelerate/two-cpus.yaml")
