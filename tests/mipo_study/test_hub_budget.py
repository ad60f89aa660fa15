"""Needs: parameters as the models have them, memory by hand, advice that would help."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config

from mipo_study.book import plan
from mipo_study.hub import benchmarks, budget, download, protocol
from mipo_study.hub.budget import Shape, need

SEVEN = Shape(7e9, 28, 3584, 150_000, 1024, "seven")


def test_parameters_are_counted_as_the_model_has_them(tiny_model_dir):
    model = AutoModelForCausalLM.from_pretrained(
        tiny_model_dir, trust_remote_code=False
    )
    found = Shape.of(tiny_model_dir)
    assert found.parameters == model.num_parameters()
    assert found.positions == model.config.max_position_embeddings
    assert (found.layers, found.hidden, found.kv) == (
        2,
        32,
        2 * 2 * 8,
    )  # two heads of keys, of values, each 8 wide


@pytest.mark.parametrize(
    "name, size",
    [
        ("Qwen/Qwen2.5-1.5B-Instruct", 1.544e9),
        ("org/Model-13b-chat", 13e9),
        ("meta-llama/Llama-3.2-3B-Instruct", 3.15e9),
        ("org/SmolLM2-135M", 135e6),
        ("Qwen/Qwen2.5-7B-Instruct-1M", 7.62e9),
    ],
)
def test_sizes_are_read_from_names(name, size):
    assert Shape.named(name).parameters == size


def test_a_name_without_a_size_is_read_from_its_configuration(tmp_path, monkeypatch):
    """GPT-2 has 124 439 808 parameters, and names its sizes in its own way."""
    GPT2Config().save_pretrained(tmp_path / "fetched")
    monkeypatch.setattr(
        download, "config", lambda name, revision, run_dir: tmp_path / "fetched"
    )
    found = budget.shape("openai-community/gpt2")
    assert (
        found.parameters == 124_439_808 and found.layers == 12 and found.kv == 2 * 768
    )
    assert found.name == "openai-community/gpt2"


def test_where_nothing_can_be_asked_the_name_must_do(tmp_path):
    assert (
        budget.shape("org/Model-3B", run_dir=str(tmp_path)).parameters == 3.15e9
    )  # tests have no network
    with pytest.raises(download.Unavailable, match="org/gpt2 is not on this machine"):
        budget.shape("org/gpt2", run_dir=str(tmp_path))
    with pytest.raises(ValueError, match="says no size such as 1.5B"):
        Shape.named("org/gpt2")


def test_memory_by_hand():
    """16 bytes a parameter and (2·28 + 34)·4096·3584 of activations for 2 pairs of 1024 tokens, and 3 GB around them."""
    kept = 90 * 4096 * 3584 / 1e9
    assert budget.training_gb(SEVEN, micro_batch=2, max_length=1024) == pytest.approx(
        112 + kept + 3
    )
    light = budget.training_gb(SEVEN, lora_rank=16, micro_batch=2, max_length=1024)
    assert light == pytest.approx(14 + 16 * 14 * 16 * 3584 * 28 / 1e9 + kept + 3)
    assert budget.training_gb(SEVEN, checkpointing=False) > budget.training_gb(SEVEN)
    assert budget.training_gb(SEVEN, micro_batch=2, shards=2) == pytest.approx(
        56 + kept + 3
    )
    assert budget.training_gb(SEVEN, micro_batch=2, shards=8) == pytest.approx(
        28 + kept + 3
    )  # whole in float32 at first


def test_a_card_that_is_too_small_stops_with_advice_that_fits():
    policy = Shape.named("Qwen/Qwen2.5-7B-Instruct")
    full = need(policy)
    assert budget.fitting(full.card) == ["H200"] and full.download == pytest.approx(
        15.24
    )
    with pytest.raises(
        budget.TooSmall, match="needs?.*GB, and X has 24 GB.*lora_rank 16.*H200.*fsdp"
    ):
        budget.check(full, ("X", 24), policy)
    light = need(policy, lora_rank=16, sample_batch=16)
    budget.check(light, ("X", 26), policy, lora_rank=16)  # the advice helps
    budget.check(full, ("X", 160), policy)
    shared = need(policy, shards=4)  # and so do four cards that share the weights
    budget.check(shared, ("X", 45), policy, shards=4)
    with pytest.raises(budget.TooSmall) as error:
        budget.check(shared, ("X", 24), policy, shards=4)
    assert "fsdp" not in str(error.value)


@pytest.fixture
def sixteen_gb(monkeypatch):
    memory = SimpleNamespace(total=16e9)
    monkeypatch.setattr(budget.psutil, "virtual_memory", lambda: memory)


def test_without_a_card_memory_decides_not_time(sixteen_gb):
    policy = Shape.named("Qwen/Qwen2.5-7B-Instruct")
    with pytest.raises(
        budget.TooSmall, match="no GPU and 16 GB of memory.*H200.*smollm2-135m"
    ):
        budget.check(need(policy), None, policy)
    small = Shape(1.35e8, 30, 576, 49_152, 384)
    budget.check(need(small), None, small)


def test_without_a_card_the_judge_must_fit_too(sixteen_gb):
    small = Shape(1.35e8, 30, 576, 49_152, 384)
    judge = Shape.named("Qwen/Qwen2.5-7B-Instruct")
    with pytest.raises(budget.TooSmall, match='16 GB.*-p judge "", to do without'):
        budget.check(need(small, judge), None, small, judge)
    budget.check(need(small, small), None, small, small)
    budget.check(need(small, judge), ("X", 80), small, judge)


def test_minutes_by_hand():
    """N = 1e6, 100 + PROMPT tokens, 1e9 operations a second; each term alone."""
    shape, length = Shape(1e6, 2, 64, 1000, 32), budget.PROMPT + 100
    how = {"operations": 1e9, "seeds": 0, "reply": 100}
    training = budget.minutes(shape, runs=3, pairs=10, tests=0, **how)
    seconds = 3 * 10 * 2 * length * 10e6 / 0.6 / 1e9
    assert training == pytest.approx(seconds / 60)
    tested = budget.minutes(shape, runs=3, pairs=0, tests=20, **how)
    assert tested == pytest.approx(3 * 20 * length * 2e6 / 0.3 / 1e9 / 60)
    told = budget.minutes(shape, runs=3, pairs=0, tests=20, contexts=8, **how)
    apart = 2 * 3 * 20 * 8 * length * 2e6 / 0.6 / 1e9 / 60
    assert told - tested == pytest.approx(apart)
    judged = budget.minutes(shape, shape, runs=3, pairs=0, tests=20, **how)
    verdicts = 3 * 2 * 20 * 1024 * 2e6 / 0.6 / 1e9 / 60
    assert judged - tested == pytest.approx(verdicts)


@pytest.mark.parametrize(
    "minutes, text",
    [
        (0.2, "less than a minute"),
        (42.4, "42 minutes"),
        (200, "3.3 hours"),
        (60_000, "42 days"),
    ],
)
def test_a_duration_in_words(minutes, text):
    assert budget.duration(minutes) == text


def test_the_speed_is_that_of_a_product():
    assert 1e8 < budget.speed(0.05) < 1e14


def test_two_checkpoints_lie_side_by_side_for_a_moment(tmp_path):
    """transformers writes the new one before it deletes the old: weights and two moments in float32, 24 bytes each."""
    from transformers import Trainer, TrainingArguments

    assert need(SEVEN).checkpoint == pytest.approx(24 * 7)
    assert need(SEVEN, lora_rank=16).checkpoint == 0
    most, original = [], Trainer._save_optimizer_and_scheduler

    class Looking(Trainer):
        def _save_optimizer_and_scheduler(self, output_dir):
            original(self, output_dir)
            most.append(len(list(tmp_path.glob("checkpoint-*/optimizer.pt"))))

    rows = [{"input_ids": [1.0], "labels": 0.0}] * 3
    args = TrainingArguments(
        str(tmp_path),
        save_steps=1,
        save_total_limit=1,
        per_device_train_batch_size=1,
        max_steps=3,
        use_cpu=True,
        disable_tqdm=True,
        report_to=[],
    )
    Looking(Line(), args, train_dataset=rows).train()
    assert most == [1, 2, 2] and len(list(tmp_path.glob("checkpoint-*"))) == 1


class Line(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def forward(self, input_ids, labels):
        return {"loss": (self.layer(input_ids) - labels).square().mean()}


def test_a_run_that_was_cut_needs_less_room_when_it_goes_on(tmp_path):
    """Two sets with one run each: 2·14 GB of results and 168 GB of checkpoints; of both some is there, of a judge nothing
    counts."""
    plans = [need(SEVEN)] * 2
    assert budget.disk_mb(plans, tmp_path) == pytest.approx(28_000 + 168_000)
    for name in (
        "runs/train-dpo-hub-1/model.safetensors",
        "runs/.train-dpo-hub-2.partial/model.safetensors",
        "checkpoints/1/optimizer.pt",
        "runs/judge-hub-1/verdicts.json",
    ):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(b"0" * 2_000_000)
    assert budget.disk_mb(plans, tmp_path) == pytest.approx(28_000 + 168_000 - 3 * 2)
    assert (
        budget.disk_mb([replace(plans[0], results=0.001, checkpoint=0)], tmp_path) == 0
    )


def test_a_judge_that_does_not_fit_is_named():
    policy, judge = (
        Shape.named("Qwen/Qwen2.5-0.5B-Instruct"),
        Shape.named("Qwen/Qwen2.5-14B-Instruct"),
    )
    with pytest.raises(budget.TooSmall, match="a smaller judge") as error:
        budget.check(need(policy, judge), ("X", 24), policy)
    assert "lora_rank" not in str(error.value)  # training is not what is too large


def test_what_the_gpu_scale_expects_is_what_the_formulas_say():
    """configs/gpu.yml: GB on the card, MB of results and two checkpoints, GB of weights."""
    config = plan.read_config("gpu")
    section, expected = config["15-gpu-models"], config["expected"]["15-gpu-models"]
    policy, judge = Shape.named(section["model"]), Shape.named(section["judge"])
    needs = []
    for name, dataset in [(section["model"], section["dataset"]), *section["more"]]:
        assert name == section["model"]
        kind = benchmarks.kind_of(dataset)
        methods = protocol.methods_for(kind, section["methods"])
        needs.append(
            need(
                policy,
                judge if kind != "reasoning" else None,
                runs=len(methods) * len(section["seeds"]),
                longest=300 + protocol.sampling_of(dataset)["max_new_tokens"],
                micro_batch=section["micro_batch"],
                max_length=section["max_length"],
            )
        )
    largest = max(one.card for one in needs)
    assert largest == pytest.approx(expected["memory_gb"], rel=0.01)
    disk = 1000 * (sum(one.results for one in needs) + needs[0].checkpoint)
    assert disk == pytest.approx(expected["disk_mb"], rel=0.01)
    weights = max(one.download for one in needs)
    assert f"about {weights:.0f} GB of weights" in expected["download"]


def test_the_table_has_a_row_per_card():
    table = budget.table(need(Shape.named("Qwen/Qwen2.5-7B-Instruct")))
    assert table.count("\n") == 1 + len(budget.CARDS)
    assert "does not fit" in table and "| H200 | 141 |" in table
