"""Forecasts: parameters as the models have them, memory and minutes by hand, and advice that would help."""

import pytest
from transformers import AutoModelForCausalLM

from mipo import budget
from mipo.budget import Shape

SEVEN = Shape(7e9, 28, 3584, 150_000, 1024)
SIZE = dict(n_train=1000, n_test=200, methods=1, seeds=1, new_tokens=512)


def test_parameters_are_counted_as_the_model_has_them(tiny_model_dir):
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    assert Shape.of(tiny_model_dir).parameters == model.num_parameters()


@pytest.mark.parametrize("name, size", [("Qwen/Qwen2.5-1.5B-Instruct", 1.544e9), ("org/Model-13b-chat", 13e9),
                                        ("meta-llama/Llama-3.2-3B-Instruct", 3.15e9)])
def test_sizes_are_read_from_names(name, size):
    assert Shape.named(name).parameters == size


def test_a_name_without_a_size_says_so():
    with pytest.raises(ValueError, match="says no size such as 1.5B"):
        Shape.named("org/gpt2")


def test_memory_by_hand():
    """16 bytes a parameter and (2·28 + 34)·4096·3584 of activations for 2 pairs of 1024 tokens, and 3 GB around them."""
    kept = 90 * 4096 * 3584 / 1e9
    assert budget.training_gb(SEVEN, micro_batch=2, max_length=1024) == pytest.approx(112 + kept + 3)
    light = budget.training_gb(SEVEN, lora_rank=16, micro_batch=2, max_length=1024)
    assert light == pytest.approx(14 + 16 * 14 * 16 * 3584 * 28 / 1e9 + kept + 3)
    assert budget.training_gb(SEVEN, checkpointing=False) > budget.training_gb(SEVEN)


def test_minutes_by_hand():
    """Full, with checkpointing: 8·P operations per token, 2·P for the reference; 1000 pairs of 2·500 tokens on an H100."""
    want = 1e6 * (8 + 2) * 7e9 / (989e12 * 0.35) / 60
    assert budget.training_minutes(SEVEN, "H100", pairs=1000, tokens=500) == pytest.approx(want)
    want = 16 * 100 * 14e9 / (3350e9 * 0.4) / 60  # 1000 replies, 64 at a time: 16 rounds
    assert budget.sampling_minutes(SEVEN, "H100", replies=1000, new_tokens=100) == pytest.approx(want)


def test_a_card_that_is_too_small_stops_with_advice_that_fits():
    name = "Qwen/Qwen2.5-7B-Instruct"
    plan = budget.forecast(name, **SIZE)
    assert plan["H200"]["fits"] and not plan["H100"]["fits"] and plan["run"]["download_gb"] == pytest.approx(15.24)
    with pytest.raises(budget.TooSmall, match="needs?.*GB, and X has 24 GB.*lora_rank 16.*H200.*fsdp"):
        budget.check(name, plan, ("X", 24))
    light = budget.forecast(name, **SIZE, lora_rank=16, batch=16)
    budget.check(name, light, ("X", 26), lora_rank=16)  # the advice helps
    budget.check(name, plan, ("X", 160))
    budget.check(name, plan, None)  # no card: a CPU takes as long as it takes


def test_a_judge_that_does_not_fit_is_named():
    plan = budget.forecast("Qwen/Qwen2.5-0.5B-Instruct", judge="Qwen/Qwen2.5-14B-Instruct", **SIZE)
    with pytest.raises(budget.TooSmall, match="a smaller judge") as error:
        budget.check("Qwen/Qwen2.5-0.5B-Instruct", plan, ("X", 24))
    assert "lora_rank" not in str(error.value)  # training is not what is too large


def test_the_table_has_a_row_per_card():
    table = budget.table(budget.forecast("Qwen/Qwen2.5-7B-Instruct", **SIZE))
    assert table.count("\n") == 1 + len(budget.GPUS) and "does not fit" in table
