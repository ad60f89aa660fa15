"""`make bench`: every contestant trains, on the same losses; ratios, tokens and utilisation by hand."""

import dataclasses
import json
import statistics

import pytest
import torch
from torch.testing import assert_close

from mipo_study.bench import sampling as speed_sampling
from mipo_study.bench import speed
from mipo_study.bench.speed import Case
from mipo_study.book import tables

pytestmark = pytest.mark.long

CPU = torch.device("cpu")
# three cases, seven contestants and two repetitions: half a minute of set-ups; `make
# test` runs one case of them, and each contestant's losses
repeated = pytest.mark.slow
TINY = {"tiny": (16, 32, 2, 2, 1, 60)}
PAIR, SETS = (
    Case("tiny", 12, 6, batch=2, steps=1),
    Case("tiny", 12, 6, negatives=3, batch=2, steps=1),
)


@pytest.fixture(scope="module")
def found():
    return speed.run(
        [PAIR, SETS, Case("tiny", 12, 6, batch=2, steps=1, lora=2)],
        2,
        CPU,
        shapes=TINY,
        progress=False,
    )


@repeated
def test_every_contestant_is_timed_in_every_repetition_and_the_file_holds_it(found):
    pairs, sets, adapters = found["cases"]
    assert set(pairs["seconds"]) == set(adapters["seconds"]) == set(speed.PEERS)
    assert (
        set(sets["seconds"]) == {"infonca", "infonca-separate"}
        and "LoRA 2" in adapters["name"]
    )
    for case in found["cases"]:
        assert all(
            len(times) == 2 and min(times) > 0 for times in case["seconds"].values()
        )
        assert min(case["peak"].values()) > 0 and case["longest"] == 12
    kept = json.loads(json.dumps(found))
    assert kept["cases"] == found["cases"] and found["device"].startswith("cpu-")
    assert set(pairs["ratios"]) == set(speed.RATIOS) - {
        "K negatives: separate / shared prompts"
    }


@pytest.mark.parametrize("case", [PAIR, SETS], ids=["K=1", "K=3"])
def test_contestants_have_the_same_loss_step_by_step(case, tmp_path, monkeypatch):
    """TRL and the plain trainer compute what ours computes: a faster wrong answer would win unnoticed.

    Three steps at a rate that moves the weights: the second loss depends on the first gradient.
    """
    case = dataclasses.replace(case, steps=3)
    monkeypatch.setattr(speed, "RATE", 1e-2)
    model, tokenizer, data = speed.build(case, CPU, TINY)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(
                0.3
                * torch.randn(
                    p.shape, generator=torch.Generator().manual_seed(p.numel())
                )
            )

    def losses_of(name):
        trainer = speed.contestant(
            name, case, model, tokenizer, data, str(tmp_path / name), CPU
        )
        trainer.train()
        return torch.tensor(
            [row["loss"] for row in trainer.state.log_history if "loss" in row]
        )

    groups = [("dpo", "trl-dpo", "plain-dpo", "dpo-separate"), ("simpo", "trl-simpo")]
    for same in groups if case.negatives == 1 else [("infonca", "infonca-separate")]:
        found = torch.stack([losses_of(name) for name in same])  # (contestants, steps)
        assert_close(found, found[:1].expand_as(found), rtol=0, atol=1e-3)
        assert found.shape[1] == 3 and found[0].std() > 0.02, (
            "the steps must change the loss"
        )


def test_a_contestant_that_needs_too_much_memory_leaves_the_others_their_numbers(
    monkeypatch,
):
    three = ("trl-dpo", "plain-dpo", "dpo")
    monkeypatch.setattr(speed, "PEERS", {name: speed.PEERS[name] for name in three})
    honest = speed.contestant

    def contestant(name, *rest):
        if name == "plain-dpo":
            raise torch.OutOfMemoryError("too much")
        return honest(name, *rest)

    monkeypatch.setattr(speed, "contestant", contestant)
    kept = []
    found = speed.run([PAIR], 1, CPU, shapes=TINY, progress=False, keep=kept.append)
    case = found["cases"][0]
    assert case["failed"] == ["plain-dpo"] and set(case["seconds"]) == set(
        speed.PEERS
    ) - {"plain-dpo"}
    assert (
        "DPO: plain / ours" not in case["ratios"]
        and "DPO: TRL / ours" in case["ratios"]
    )
    assert kept == [found]  # what was measured is handed over after each case


def test_sampling_counts_replies_that_the_batch_changed(monkeypatch):
    said = {4: ["a", "b", "x"], 1: ["a", "b", "c"]}
    monkeypatch.setattr(
        speed_sampling, "replies_by_batch", lambda *a: (said, {4: 1.0, 1: 2.0})
    )
    found = speed_sampling.measure(CPU, 3, dtypes=("float32",))["float32"]
    assert found == {
        "prompts": 3,
        "seconds": {"4": 1.0, "1": 2.0},
        "differ": {"4": 1, "1": 0},
    }


def test_ratios_by_hand():
    found = {
        "seconds": {"trl-dpo": [4.0, 6.0, 9.0], "dpo": [1.0, 2.0, 2.0]},
        "peak": {"trl-dpo": 30, "dpo": 10},
    }
    assert speed.ratios(found) == {"DPO: TRL / ours": [4.0, 3.0, 4.5]}
    assert speed.memory_ratios(found) == {"DPO: TRL / ours": 3.0}


def test_tokens_by_hand():
    """P = 512, R = 64, K = 4: five rows of 576 tokens are 2880; shared 512 + 5 * 64 = 832."""
    assert speed.token_ratio({"prompt": 512, "reply": 64, "negatives": 4}) == 2880 / 832


def test_utilisation_by_hand():
    """2 pairs of 989e12 operations in 4 s on a device of 989e12 per second: half of what it can do."""
    found = {"flops_per_pair": 989e12, "batch": 2, "seconds": {"dpo": [9.0, 4.0, 3.0]}}
    assert speed.utilisation(found, "nvidia-h200") == 0.5
    assert speed.utilisation(found, "cpu-2-threads") is None
    assert speed.utilisation(found | {"flops_per_pair": None}, "nvidia-h200") is None


def test_cases_are_those_that_the_study_names():
    lengths = {(c.prompt, c.reply) for c in speed.CPU if c.negatives == 1}
    assert lengths == {(0, 0)} | {(p, r) for p in (128, 512, 2048) for r in (64, 128)}
    assert {c.negatives for c in speed.CPU} == {1, 4, 8} and {
        c.dtype for c in speed.CPU
    } == {"float32"}
    assert {c.shape for c in speed.GPU} <= set(speed.SHAPES) and {
        c.dtype for c in speed.GPU
    } == {"bfloat16"}
    assert len({c.name for c in speed.CPU}) == len(speed.CPU) and len(
        {c.name for c in speed.GPU}
    ) == len(speed.GPU)


def test_wrong_settings_stop_at_once():
    for wrong in (["--only", "no such case"], ["--repetitions", "0"]):
        with pytest.raises(SystemExit, match="Error: no case"):
            speed.main(["--device", "cpu", *wrong])


@repeated
def test_the_table_shows_every_device(found, tmp_path, monkeypatch):
    monkeypatch.setenv("MIPO_ROOT", str(tmp_path))
    assert tables.bench() == tables.NOTHING
    sampling = {
        "float32": {"prompts": 512, "seconds": {"16": 2.0}, "differ": {"16": 3}}
    }
    (tmp_path / "results" / "bench").mkdir(parents=True)
    (tmp_path / "results" / "bench" / "some-device.json").write_text(
        json.dumps(found | {"sampling": sampling})
    )
    text = tables.bench()
    pairs, sets, _ = found["cases"]
    assert "| float32 | 16 | 256 | 3 of 512 |" in text  # 512 prompts in two seconds
    speed_of = PAIR.batch / statistics.median(pairs["seconds"]["simpo"])
    assert f"{speed_of:.1f}, {pairs['peak']['simpo'] / 1e6:.0f}" in text
    assert (
        f"of the token ratio {4 * 18 / (12 + 4 * 6):.2f}" in text and "2.00" in text
    )  # K = 3, 12 / 6
    assert (
        pairs["name"] in text
        and f"{pairs['ratios']['RMiPO / SimPO'][0]:.2f}" in text
        and found["device"] in text
    )
