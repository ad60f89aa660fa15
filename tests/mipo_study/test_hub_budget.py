"""Forecasts: parameters as the models have them, memory and minutes by hand, and advice that would help."""

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config

from mipo import cache
from mipo_study.book import plan
from mipo_study.hub import budget, download
from mipo_study.hub.budget import Shape, Work
from mipo_study.hub.meter import Meter

SEVEN = Shape(7e9, 28, 3584, 150_000, 1024, "seven")
ONE = Work("people", n_train=1000, n_test=200, methods=1, seeds=1, new_tokens=512)


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


def test_minutes_by_hand():
    """Full, with checkpointing: 8·P operations per token, 2·P for the reference; 1000 pairs of 2·500 tokens on an H100."""
    want = 1e6 * (8 + 2) * 7e9 / (989e12 * 0.35) / 60
    assert budget.training_minutes(
        SEVEN, "H100", pairs=1000, tokens=500
    ) == pytest.approx(want)
    assert budget.reading_minutes(SEVEN, "H100", tokens=1e6) == pytest.approx(want / 5)
    want = (
        16 * 100 * 14e9 / (600e9 * 0.4) / 60
    )  # 1000 replies, 64 at a time: 16 rounds; an A10 reads 600 GB/s
    assert budget.sampling_minutes(
        SEVEN, "A10", replies=1000, new_tokens=100
    ) == pytest.approx(want)
    want = 16 * 100 * 0.03 / 60  # an H100 would read faster than a step can be started
    assert budget.sampling_minutes(
        SEVEN, "H100", replies=1000, new_tokens=100
    ) == pytest.approx(want)


def test_every_step_is_counted():
    """Two methods and three seeds, each with items of its own: six runs and three times the base model. So nine sets of
    replies, and 4·(9 + 3) + 2·6 verdicts an item: four wishes, of the reference replies, too, and two orders."""
    work = Work(
        "people",
        n_train=640,
        n_test=64,
        methods=2,
        seeds=3,
        new_tokens=100,
        prompt_tokens=0,
        per_prompt=3,
    )
    found = budget.minutes(work, "H100", SEVEN, SEVEN)
    step = 0.03 / 60
    one = budget.training_minutes(SEVEN, "H100", pairs=640, tokens=50)
    assert found["training"] == pytest.approx(3 * 30 * 100 * step + 6 * one) and set(
        found
    ) == set(budget.STEPS)
    shared = budget.minutes(work, "H100", SEVEN, SEVEN, cards=4)
    assert found["training"] - shared["training"] == pytest.approx(6 * one * 3 / 4)
    assert found["replies"] == pytest.approx(9 * 100 * step)
    assert found["scoring"] == pytest.approx(
        budget.reading_minutes(SEVEN, "H100", tokens=2 * 9 * 8 * 64 * 50)
    )
    judging = budget.sampling_minutes(
        SEVEN, "H100", replies=64 * 60, new_tokens=8, prompt_tokens=100, batch=16
    )
    assert found["judging"] == pytest.approx(judging) and found["harness"] == 0
    whole = budget.forecast(work, SEVEN, SEVEN)
    assert (
        whole["H100"]["minutes"] == pytest.approx(sum(found.values()))
        and whole["H100"]["steps"] == found
    )
    shared = budget.forecast(work, SEVEN, SEVEN, cards=4, epochs=2, lora_rank=16)[
        "H100"
    ]["steps"]  # as the meter takes them
    assert shared == budget.minutes(
        work, "H100", SEVEN, SEVEN, cards=4, epochs=2, lora_rank=16
    )
    maths = Work(
        "reasoning",
        n_train=1,
        n_test=1,
        methods=2,
        seeds=3,
        new_tokens=1,
        prompt_tokens=100,
        harness=320,
    )
    tested = budget.minutes(maths, "H100", SEVEN)[
        "harness"
    ]  # six policies, the base on three draws, 16 items side by side
    assert tested == pytest.approx(
        9 * 20 * 256 * step
        + budget.reading_minutes(SEVEN, "H100", tokens=9 * 320 * 100)
    )


def test_a_card_that_is_too_small_stops_with_advice_that_fits():
    policy = Shape.named("Qwen/Qwen2.5-7B-Instruct")
    full = budget.forecast(ONE, policy)
    assert (
        full["H200"]["fits"]
        and not full["H100"]["fits"]
        and full["run"]["download_gb"] == pytest.approx(15.24)
    )
    with pytest.raises(
        budget.TooSmall, match="needs?.*GB, and X has 24 GB.*lora_rank 16.*H200.*fsdp"
    ):
        budget.check(full, ("X", 24), policy)
    light = budget.forecast(ONE, policy, lora_rank=16, batch=16)
    budget.check(light, ("X", 26), policy, lora_rank=16)  # the advice helps
    budget.check(full, ("X", 160), policy)
    shared = budget.forecast(
        ONE, policy, shards=4
    )  # and so do four cards that share the weights
    budget.check(shared, ("X", 45), policy, shards=4)
    with pytest.raises(budget.TooSmall) as error:
        budget.check(shared, ("X", 24), policy, shards=4)
    assert "fsdp" not in str(error.value)


def test_without_a_card_only_a_small_model_goes_on():
    policy = Shape.named("Qwen/Qwen2.5-0.5B-Instruct")
    with pytest.raises(
        budget.TooSmall,
        match="494 million parameters, and this machine has no GPU.*RTX 4090.*50 million",
    ):
        budget.check(budget.forecast(ONE, policy), None, policy)
    small = Shape(40e6, 8, 512, 32_000, 1024)
    budget.check(budget.forecast(ONE, small), None, small)


def test_without_a_card_the_judge_must_be_small_too():
    small, judge = (
        Shape(40e6, 8, 512, 32_000, 1024),
        Shape.named("Qwen/Qwen2.5-7B-Instruct"),
    )
    with pytest.raises(
        budget.TooSmall,
        match='Qwen2.5-7B-Instruct has 7620 million.*no GPU.*-p judge "", to do without',
    ):
        budget.check(budget.forecast(ONE, small, judge), None, small, judge)
    budget.check(budget.forecast(ONE, small, small), None, small, small)
    budget.check(budget.forecast(ONE, small, judge), ("X", 80), small, judge)


def test_two_checkpoints_lie_side_by_side_for_a_moment(tmp_path):
    """transformers writes the new one before it deletes the old: weights and two moments in float32, 24 bytes each."""
    from transformers import Trainer, TrainingArguments

    assert budget.forecast(ONE, SEVEN)["run"]["checkpoint_gb"] == pytest.approx(24 * 7)
    assert budget.forecast(ONE, SEVEN, lora_rank=16)["run"]["checkpoint_gb"] == 0
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
    plans = [budget.forecast(ONE, SEVEN)] * 2
    assert budget.disk_mb(plans, tmp_path) == pytest.approx(28_000 + 168_000)
    for name in (
        "records/train-dpo-real-1/model.safetensors",
        "records/.train-dpo-real-2.partial/model.safetensors",
        "checkpoints/1/optimizer.pt",
        "records/judge-real-1/verdicts.json",
    ):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(b"0" * 2_000_000)
    assert budget.disk_mb(plans, tmp_path) == pytest.approx(28_000 + 168_000 - 3 * 2)
    assert (
        budget.disk_mb([{"run": {"results_gb": 0.001, "checkpoint_gb": 0.0}}], tmp_path)
        == 0
    )


def test_a_judge_that_does_not_fit_is_named():
    policy, judge = (
        Shape.named("Qwen/Qwen2.5-0.5B-Instruct"),
        Shape.named("Qwen/Qwen2.5-14B-Instruct"),
    )
    with pytest.raises(budget.TooSmall, match="a smaller judge") as error:
        budget.check(budget.forecast(ONE, policy, judge), ("X", 24), policy)
    assert "lora_rank" not in str(error.value)  # training is not what is too large


def test_what_the_gpu_scale_expects_is_what_the_formulas_say():
    """configs/gpu.yml: minutes on an H100 or H200, GB on the card, MB of results and two checkpoints, GB of weights."""
    section, expected = (
        plan.read_config("gpu")["15-gpu-models"],
        plan.read_config("gpu")["expected"]["15-gpu-models"],
    )
    policy, judge, found = (
        Shape.named(section["model"]),
        Shape.named(section["judge"]),
        [],
    )
    for name, dataset in [(section["model"], section["dataset"]), *section["more"]]:
        assert name == section["model"]
        work = budget.work_of(
            dataset,
            section["methods"],
            seeds=len(section["seeds"]),
            **{
                k: section[k]
                for k in ("n_train", "n_test", "shots", "contexts", "harness")
            },
        )
        found.append(
            budget.forecast(
                work,
                policy,
                judge if work.kind != "reasoning" else None,
                micro_batch=section["micro_batch"],
                max_length=section["max_length"],
            )
        )
    run = [f["run"] for f in found]
    for card in ("H100", "H200"):
        assert sum(f[card]["minutes"] for f in found) == pytest.approx(
            expected["minutes"], rel=0.01
        )
    assert max(r["gb"] for r in run) == pytest.approx(expected["memory_gb"], rel=0.01)
    disk = 1000 * (sum(r["results_gb"] for r in run) + run[0]["checkpoint_gb"])
    assert disk == pytest.approx(expected["disk_mb"], rel=0.01)
    weights = max(r["download_gb"] for r in run)
    assert f"about {weights:.0f} GB of weights" in expected["download"]


def test_work_by_hand():
    """PRISM with every method: replies without context and under others', beside the own; SVAMP: no others' replies."""
    size = dict(n_train=1000, n_test=200, seeds=3, shots=8)
    prism, svamp = (
        budget.work_of("prism", ["all"], **size),
        budget.work_of("svamp", **size, harness=500),
    )
    assert (
        prism.methods,
        prism.per_prompt,
        prism.runs,
        prism.harness,
        prism.new_tokens,
    ) == (3, 3, 9, 0, 512)
    assert (svamp.methods, svamp.per_prompt, svamp.prompt_tokens, svamp.harness) == (
        1,
        1,
        630,
        200,
    )
    assert budget.work_of("ultrafeedback", **size).per_prompt == 0
    assert budget.work_of("arc-challenge", **size | {"n_test": 0}).n_test == 1319


def test_the_table_has_a_row_per_card():
    table = budget.table(budget.forecast(ONE, Shape.named("Qwen/Qwen2.5-7B-Instruct")))
    assert table.count("\n") == 1 + len(budget.GPUS) and "does not fit" in table


def test_the_meter_counts_every_record_and_scales_the_forecast(monkeypatch):
    """Forecast for two sets together: 60 minutes of training, 40 of replies. What it takes here is another matter."""
    used = {
        "data-1": (0.0, 60.0),
        "pairs-1": (60.0, 180.0),
        "train-1": (180.0, 360.0),
    }  # begun, ended
    monkeypatch.setattr(cache, "USED", used)
    meter = Meter(
        [{"training": 40.0, "replies": 30.0}, {"training": 20.0, "replies": 10.0}]
    )
    assert str(meter) == "6.0 minutes so far"
    assert (
        str(meter.after("training", 30)) == "6.0 minutes so far, about 14.0 to go"
    )  # 30 of 100 are done
    used["train-2"] = (400.0, 520.0)
    assert (
        str(meter.after("training")) == "8.0 minutes so far, about 5.3 to go"
    )  # 60 of 100
    used["answers-1"] = (520.0, 640.0)
    assert str(meter.after("replies")) == "10.0 minutes so far, about 0.0 to go"
