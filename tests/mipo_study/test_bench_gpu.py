"""The script for a GPU, rehearsed without one: every stage on tiny models."""

import json

import pytest

from mipo.losses import LOSSES
from mipo_study.bench import gpu

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory):
    """What the script wrote; of the losses two are trained."""
    folder = tmp_path_factory.mktemp("gpu")
    every = gpu.settings()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIPO_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(gpu, "settings", lambda: {k: every[k] for k in ("dpo", "simpo")})
        gpu.main(["--toy", "--out", str(folder)])
    stages = ("wishes", "parity", "sampler", "speed")
    texts = {
        stage: next(folder.glob(f"*-{stage}.json")).read_text() for stage in stages
    }
    return {stage: json.loads(text) for stage, text in texts.items()}


def test_every_stage_says_where_and_how_long(rehearsed):
    for stage, found in rehearsed.items():
        assert found[stage] and found["seconds"] >= 0
        assert found["device"].startswith("cpu") and found["versions"]["torch"]


def test_the_headline_arms_are_asked(rehearsed):
    assert set(rehearsed["wishes"]["wishes"]) == {"base", "best-of", "mipo-lora"}


def test_both_precisions_start_alike(rehearsed):
    """DPO starts at log 2 in both; after a step in bfloat16 they differ a little."""
    found = rehearsed["parity"]["parity"]["dpo"]
    assert found["float32"][0] == pytest.approx(0.693147, abs=1e-4)
    assert found["bfloat16"] == pytest.approx(found["float32"], abs=1e-2)
    assert found["bfloat16"] != found["float32"]


def test_all_losses_of_pairs_of_replies_are_compared():
    """Context losses read pairs of another kind; others are the theory's own."""
    assert set(LOSSES) - set(gpu.settings()) == {"context_infonce", "sami", "dpo_norm"}


def test_ours_and_trls_take_part(rehearsed):
    [case] = rehearsed["speed"]["speed"]["cases"]
    assert set(case["seconds"]) == set(gpu.CONTESTANTS)
    assert set(rehearsed["sampler"]["sampler"]["2"]) == {"ours", "generate"}
