"""Cost of a training step: the formula by hand and against torch's count, the clock, peak memory, runs and searches."""

import gc
import itertools
import math

import numpy as np
import pytest
import scipy.stats
import torch
from torch.testing import assert_close
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

from mipo_study import ch12_cost
from mipo_study.bench import timing

pytestmark = pytest.mark.long

TINY = ch12_cost.Shape(linear=120, layers=1, width=4, hidden=4, vocab=7)
PASSES = {
    "sft": 1.5,
    "dpo": 3.0,
    "dpo-live": 4.0,
    "simpo": 3.0,
    "rmipo": 3.5,
    "reference": 1.0,
}


@pytest.fixture(scope="module")
def small():
    return timing.synthetic(hidden=16, layers=2, heads=2, vocabulary=20, positions=32)


# ---- floating-point operations ----


def test_llama_shape_by_hand():
    # q and o: 4 x 4 each; k and v for one of two heads: 4 x 2 each; three of 4 x 6
    assert (
        ch12_cost.llama_shape(hidden=4, layers=1, heads=2, kv_heads=1, inner=6, vocab=7)
        == TINY
    )
    # Llama-3-8B: 8.03 billion weights, two of 128256 x 4096 outside the layers
    large = ch12_cost.llama_shape(
        hidden=4096, layers=32, heads=32, kv_heads=8, inner=14336, vocab=128256
    )
    assert large.linear + 2 * 128256 * 4096 == pytest.approx(8.03e9, rel=1e-3)


def test_forward_flops_by_hand():
    # 2 * 120 * 5 = 1200; scores and values, 2 * 4 * 25 each: 400; 2 scored positions of 2 * 4 * 7: 112
    assert ch12_cost.forward_flops(TINY, tokens=5, scored=2) == 1200 + 400 + 112


@pytest.mark.parametrize(
    "name, by_hand",
    [
        ("sft", 3 * 1712),
        ("dpo", 6 * 1712),
        ("dpo-live", 8 * 1712),
        ("simpo", 6 * 1712),
        ("reference", 2 * 1712),
        (
            "rmipo",
            6 * 1712 + 2 * (2 * 120 * 3 + 4 * 4 * 9 + 112),
        ),  # each reply alone: 3 tokens, 2 of them scored
    ],
)
def test_step_flops_by_hand(name, by_hand):
    assert (
        ch12_cost.step_flops(TINY, name, prompt=3, reply=2)
        == by_hand
        == ch12_cost.step_costs(TINY, 3, 2)[name]
    )


def test_shape_of_a_model_is_that_of_its_config(tiny_model_dir):
    model = AutoModelForCausalLM.from_pretrained(
        tiny_model_dir, trust_remote_code=False
    )
    c = model.config
    assert ch12_cost.shape_of(model) == ch12_cost.llama_shape(
        hidden=c.hidden_size,
        layers=c.num_hidden_layers,
        heads=c.num_attention_heads,
        kv_heads=c.num_key_value_heads,
        inner=c.intermediate_size,
        vocab=c.vocab_size,
    )


def test_a_model_without_a_head_has_no_shape(tiny_model_dir):
    model = AutoModel.from_pretrained(tiny_model_dir, trust_remote_code=False)
    with pytest.raises(ValueError, match="Model has no LM head"):
        ch12_cost.shape_of(model)


def test_counted_operations_are_those_of_the_formula(tiny_model_dir):
    """Grouped attention heads, a head of its own (Llama), biases and a tied head (Qwen2)."""
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(tiny_model_dir, trust_remote_code=False),
        AutoTokenizer.from_pretrained(tiny_model_dir, trust_remote_code=False),
    )
    made, shape = (
        timing.Bench(model, tokenizer, prompt=21, reply=7, pairs=3),
        ch12_cost.shape_of(model),
    )
    for name in ch12_cost.WORK:
        assert made.flops(name) == pytest.approx(
            ch12_cost.step_flops(shape, name, 21, 7), rel=1e-3
        ), name


def test_a_shared_prompt_spares_operations_and_not_those_of_the_replies_alone(small):
    separate, shared = (
        timing.Bench(*small, prompt=20, reply=4, pairs=2, share=share)
        for share in (False, True)
    )
    extra = [made.flops("rmipo") - made.flops("simpo") for made in (separate, shared)]
    assert (
        0.75 * extra[0] < extra[1] < extra[0]
    )  # a reply alone: its last token predicts nothing, 5 positions become 4
    for name in ("simpo", "reference", "dpo-live"):
        assert shared.flops(name) < 0.7 * separate.flops(
            name
        )  # (20 + 2 * 4) / (2 * 24) = 0.58, and attention
    assert (
        0.6 * separate.flops("sft") < shared.flops("sft") < separate.flops("sft")
    )  # one reply: only the last layer spares


# ---- what a run and a search cost ----


def test_total_by_hand():
    assert ch12_cost.total(PASSES, "simpo", runs=2, epochs=3) == 18
    assert (
        ch12_cost.total(PASSES, "dpo", runs=2, epochs=3) == 18 + 1
    )  # the reference once for all
    assert ch12_cost.total(PASSES, "dpo-live", runs=2, epochs=3) == 24


def test_saving_by_hand():
    assert ch12_cost.saving(PASSES, "rmipo", "dpo-live") == pytest.approx(1 / 8)
    assert ch12_cost.saving(PASSES, "rmipo", "dpo") == pytest.approx(
        1 / 8
    )  # one epoch: the cache is used once
    assert ch12_cost.saving(PASSES, "rmipo", "dpo", epochs=3) == pytest.approx(
        1 - 3.5 / (10 / 3)
    )
    assert ch12_cost.saving(PASSES, "rmipo", "simpo") == pytest.approx(-1 / 6)
    assert ch12_cost.saving(
        PASSES, "rmipo", "simpo", runs=12, rates=3
    ) == pytest.approx(1 - 3.5 / 36)
    assert ch12_cost.saving(PASSES, "rmipo", "dpo", runs=3, rates=2) == pytest.approx(
        1 - 7 / (18 + 1)
    )


def test_saving_takes_repetitions_one_by_one():
    costs = {"rmipo": [1.0, 3.0], "dpo": [1.0, 3.0], "reference": [1.0, 1.0]}
    assert_close(
        torch.as_tensor(ch12_cost.saving(costs, "rmipo", "dpo")),
        torch.tensor([0.5, 0.25], dtype=torch.float64),
    )


@pytest.mark.parametrize("epochs", [2, 3, 10])
def test_a_cache_used_twice_leaves_less_than_15_percent(epochs):
    assert ch12_cost.saving(
        PASSES | {"rmipo": 3.0}, "rmipo", "dpo", epochs=epochs
    ) == pytest.approx(1 / (3 * epochs + 1))
    assert 1 / (3 * epochs + 1) < 0.15


def test_middle_is_the_median_and_its_order_statistics():
    assert ch12_cost.middle([3, 1, 2, 6, 5, 4], "s").interval == (
        1,
        6,
    )  # six values: smallest and largest, 96.9 %
    number = ch12_cost.middle(range(1, 13))
    assert (number.mean, number.low, number.high, number.n) == (6.5, 3, 10, 12)
    for n in (6, 12, 25, 40):  # covers at least 95 %, one step further in would not
        k = int(ch12_cost.middle(range(1, n + 1)).low)
        covers = [1 - 2 * scipy.stats.binom.cdf(i - 1, n, 0.5) for i in (k, k + 1)]
        assert covers[0] >= 0.95 > covers[1]
    with pytest.raises(ValueError, match="5 repetitions are too few"):
        ch12_cost.middle([1.0] * 5)


# ---- measured ----


def fake(durations, drift=lambda tick: 1.0):
    """(steps, clock, order): steps that only move the clock, each by its duration times the drift of that moment."""
    now, ticks, order = [0.0], itertools.count(), []

    def step(name):
        order.append(name)
        now[0] += durations[name] * drift(next(ticks))

    return (
        {name: lambda name=name: step(name) for name in durations},
        lambda: now[0],
        order,
    )


def test_interleaved_runs_every_step_in_every_repetition_and_begins_with_another():
    steps, clock, order = fake({"a": 1.0, "b": 2.0, "c": 3.0})
    seconds = timing.interleaved(steps, 4, clock=clock)
    assert (
        "".join(order) == "abc" + "abc" + "bca" + "cab" + "abc"
    )  # the first round is not timed
    assert seconds == {"a": [1.0] * 4, "b": [2.0] * 4, "c": [3.0] * 4}


def test_ratios_survive_a_machine_that_slows_down():
    steps, clock, _ = fake({"rmipo": 3.5, "simpo": 3.0}, drift=lambda tick: 1.02**tick)
    seconds = timing.interleaved(steps, 24, clock=clock)
    assert seconds["simpo"][-1] > 2 * seconds["simpo"][0]
    ratio = ch12_cost.middle(np.divide(seconds["rmipo"], seconds["simpo"]))
    assert ratio.low <= 3.5 / 3 <= ratio.high and ratio.mean == pytest.approx(
        3.5 / 3, rel=0.03
    )
    apart = np.mean(seconds["rmipo"][12:]) / np.mean(
        seconds["simpo"][:12]
    )  # one after the other
    assert apart > 1.3 * 3.5 / 3


def test_interleaved_waits_before_it_reads_the_clock():
    done, now = [], [0.0]

    def sync():  # what was handed to the device takes a second
        now[0] += len(done)
        done.clear()

    assert timing.interleaved(
        {"a": lambda: done.append(1)}, 2, clock=lambda: now[0], sync=sync
    ) == {"a": [1.0, 1.0]}


@pytest.mark.parametrize(
    "name, loss, kwargs",
    [
        ("dpo", "dpo", {"beta": 0.1}),  # TRL's default
        ("dpo-live", "dpo", {"beta": 0.1}),
        ("simpo", "simpo", {"beta": 2.0, "gamma": 1.0}),  # SimPO's README: γ/β 0.5
        ("rmipo", "rmipo", {"beta": 2.0}),  # RMiPO's configurations
    ],
)
def test_the_clock_runs_the_published_settings(small, name, loss, kwargs):
    cpu = torch.device("cpu")
    trainer = timing._trainer(*small, ch12_cost.WORK[name], cpu, False)
    assert (trainer.args.loss, trainer.args.loss_kwargs) == (loss, kwargs)


def test_a_measurement_is_found_again(small, tmp_path):
    few = {"prompt": 8, "reply": 4, "pairs": 1, "repetitions": 2}
    about = {"machine": "here"}
    first = timing.measured(tmp_path, *small, about=about, **few)
    assert timing.measured(tmp_path, *small, about=about, **few) == first
    there = timing.measured(tmp_path, *small, about={"machine": "there"}, **few)
    assert there["flops"] == first["flops"] and there["seconds"] != first["seconds"]


def test_peak_bytes_by_hand(capfd):
    def step():
        first = torch.empty(250_000)  # 1 MB, gone before
        del first
        second = torch.empty(500_000)  # 2 MB, and
        third = torch.empty(125_000)  # half a MB beside it
        del second, third

    assert timing.peak_bytes(step) == pytest.approx(2.5e6, abs=1e3)
    assert capfd.readouterr().err == ""


def test_peak_bytes_does_not_count_what_an_earlier_step_left_behind():
    """4 MB in a circle, out of reach, are freed by the collection that the step's own work sets off."""
    circle = [torch.empty(1_000_000)]
    circle.append(circle)
    del circle

    def step():
        gc.collect()
        torch.empty(250_000)

    assert timing.peak_bytes(step) == pytest.approx(1e6, abs=1e3)


def test_memory_a_live_reference_keeps_the_weights_twice(small):
    model, tokenizer = small
    made = timing.Bench(model, tokenizer, prompt=8, reply=4, pairs=2)
    timing.interleaved(made.steps, 0)  # AdamW's state comes with the first step
    weights = sum(t.numel() * 4 for t in (*model.parameters(), *model.buffers()))
    moments = sum(2 * 4 * p.numel() + 4 for p in model.parameters())
    memory = {name: made.memory(name) for name in ch12_cost.WORK}
    assert memory["simpo"][0] == weights + moments == memory["rmipo"][0]
    assert memory["dpo-live"][0] == 2 * weights + moments
    assert memory["reference"][0] == weights
    assert memory["rmipo"][1] == pytest.approx(
        memory["simpo"][1], rel=1e-3
    )  # replies alone come first and are freed
    assert all(peak > kept for kept, peak in memory.values())


def test_steps_train_and_the_reference_pass_does_not(small):
    model, tokenizer = small
    made = timing.Bench(model, tokenizer, prompt=8, reply=4, pairs=2)
    for name, step in made.steps.items():
        before = [p.detach().clone() for p in model.parameters()]
        step()
        moved = any(
            not torch.equal(p, q)
            for p, q in zip(model.parameters(), before, strict=True)
        )
        assert moved == (name != "reference"), name
        assert model.training and all(p.grad is None for p in model.parameters())


def test_a_live_reference_scores_the_rows_of_the_step(small, monkeypatch):
    """Its log-probs reach the loss: with the policy as it was, DPO starts at log 2."""
    model, tokenizer = small
    made, seen = (
        timing.Bench(
            model, tokenizer, prompt=8, reply=4, pairs=2, methods=["dpo-live"]
        ),
        [],
    )
    compute = timing.PreferenceTrainer.compute_loss
    monkeypatch.setattr(
        timing.PreferenceTrainer,
        "compute_loss",
        lambda *args, **kwargs: seen.append(compute(*args, **kwargs)) or seen[-1],
    )
    made.steps["dpo-live"]()
    assert seen[0].item() == pytest.approx(math.log(2), abs=1e-6)


def test_measure_has_every_method_and_says_it_per_pair(small):
    model, tokenizer = small
    one, three = (
        timing.measure(model, tokenizer, prompt=8, reply=4, pairs=n, repetitions=2)
        for n in (1, 3)
    )
    for kind in ("seconds", "flops", "predicted", "kept", "peak"):
        assert list(one[kind]) == list(ch12_cost.WORK)
    assert (
        one["flops"]
        == three["flops"]
        == {k: float(v) for k, v in one["predicted"].items()}
    )
    assert (
        one["kept"] == three["kept"] and one["peak"]["simpo"] < three["peak"]["simpo"]
    )
    assert all(len(times) == 2 and min(times) > 0 for times in one["seconds"].values())


@pytest.mark.parametrize(
    "change, words",
    [
        (
            {"methods": ["simpo", "simop"]},
            "there is no 'simop'; did you mean 'simpo'",
        ),
        (
            {"prompt": 30, "reply": 3},
            r"prompt \(30 tokens\) and reply \(3 tokens\) together exceed the model's 32 positions",
        ),
        ({"pairs": 0}, "pairs=0: each must be at least 1"),
        ({"reply": 0}, "reply=0"),
    ],
)
def test_errors_name_what_is_wrong(small, change, words):
    with pytest.raises(ValueError, match=words):
        timing.Bench(*small, **{"prompt": 8, "reply": 4, "pairs": 1, **change})


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: ch12_cost.total(PASSES, "dop"), "there is no 'dop'"),
        (lambda: ch12_cost.step_flops(TINY, "rimpo", 3, 2), "there is no 'rimpo'"),
        (lambda: timing.synthetic(vocabulary=5), "vocabulary=5 must be above 5"),
    ],
)
def test_errors_of_the_formulas(call, words):
    with pytest.raises(ValueError, match=words):
        call()
