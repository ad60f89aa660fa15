"""Chapter 13 by Papermill, as a reader would run it: tiny models, small files in the hub's layout, no network, no GPU."""

import hub_fixtures
import pytest
from test_notebooks import run
from test_real import parrot, roomy

SMALL = {"judge": "", "seeds": [0, 1], "n_train": 8, "n_test": 4, "max_new_tokens": 6, "batch_size": 4, "micro_batch": 2,
         "max_length": 4096, "contexts": 3, "lr": 0.001, "temperature": 1.0, "harness": 0, "shots": 1, "threads": 1}
NAME = "13-real-models"


def test_people(tiny_qwen2, tmp_path):
    data = hub_fixtures.prism(tmp_path / "data")
    found = run(NAME, tmp_path, model=str(roomy(tiny_qwen2, tmp_path / "m")), dataset="prism", data_dir=str(data),
                **SMALL | {"judge": str(parrot(tiny_qwen2, tmp_path / "judge"))})
    assert found["numbers"]["net-wins-mipo-random"]["mean"] == 0 and "verdicts" in found["figures"]  # both orders: ties
    assert {"pmi-base", "pmi-mipo-random", "pmi-base-mipo-random", "retrieval-mipo-random", "self-bleu-base", "tokens-base",
            "overlap-prism", "training-minutes"} <= set(found["numbers"])
    assert not found["claims"] and {"people", "length"} <= set(found["figures"]) and not found["skipped"]


def test_reasoning(tiny_llama, tmp_path):
    data = hub_fixtures.gsm8k(tmp_path / "data")
    found = run(NAME, tmp_path, model=str(roomy(tiny_llama, tmp_path / "m")), dataset="gsm8k", data_dir=str(data), **SMALL)
    assert {"accuracy-base", "accuracy-mipo", "accuracy-gain-mipo", "accuracy-released-mipo"} <= set(found["numbers"])
    assert "errors" in found["figures"]


def test_labelled_preferences_with_every_method(tiny_qwen2, tmp_path):
    data = hub_fixtures.ultrafeedback(tmp_path / "data")
    found = run(NAME, tmp_path, model=str(roomy(tiny_qwen2, tmp_path / "m")), dataset="ultrafeedback", data_dir=str(data),
                methods=["all"], **SMALL)
    assert {f"ranked-{m}" for m in ("base", "rmipo", "dpo", "simpo")} <= set(found["numbers"])
    assert "ranked" in found["figures"]


def test_without_a_model_it_says_that_nothing_was_run(tmp_path):
    found = run(NAME, tmp_path, threads=1)
    assert found["skipped"] == "No model was given." and not found["numbers"] and not found["claims"]


def test_an_unknown_data_set_stops_first(tmp_path):
    with pytest.raises(Exception, match="expected one of prism"):
        run(NAME, tmp_path, dataset="prisma", threads=1)
