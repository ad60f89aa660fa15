"""The layer over lm-evaluation-harness: its logs are paired by item; where it is installed, tasks run on a tiny model."""

import json
from pathlib import Path

import pytest
import yaml
from test_real import roomy

from mipo import fit, harness, hub_data, reasoning_data

LOG = [{"doc_id": 0, "metrics": ["exact_match"], "filter": "strict-match", "exact_match": 1.0},
       {"doc_id": 0, "metrics": ["exact_match"], "filter": "flexible-extract", "exact_match": 1.0},
       {"doc_id": 1, "metrics": ["exact_match"], "filter": "strict-match", "exact_match": 0}]


def test_scores_per_item():
    found = {"gsm8k_cot": harness.per_item(LOG)}
    assert harness.scores(found, "gsm8k") == {"gsm8k_cot/0": 1.0, "gsm8k_cot/1": 0.0}
    groups = {"mmlu_law": {"0": {"acc,none": 1.0}}, "mmlu_art": {"0": {"acc,none": 0.0}}}
    assert harness.scores(groups, "mmlu") == {"mmlu_law/0": 1.0, "mmlu_art/0": 0.0}
    with pytest.raises(ValueError, match="no score 'acc,none' of task 'arc_challenge' among gsm8k_cot"):
        harness.scores(found, "arc-challenge")


def test_compare_pairs_items_and_refuses_other_ones():
    before = [{f"{i}": float(i % 2) for i in range(40)} for _ in range(3)]
    after = [{f"{i}": 1.0 for i in range(40)} for _ in range(3)]
    value, low, high = harness.compare(before, after)
    assert value == 0.5 and 0.3 < low < 0.5 < high < 0.7
    assert harness.compare(before[0], after[0])[0] == 0.5
    with pytest.raises(ValueError, match="seed 0: 2 items"):
        harness.compare({"a": 1.0, "b": 0.0}, {"a": 1.0, "c": 0.0})
    with pytest.raises(ValueError, match="3 runs before and 1 after"):
        harness.compare(before, after[:1])


def test_the_local_task_is_complete():
    config = harness.svamp_task("items.jsonl")
    assert config["task"] == harness.TASKS["svamp"][0] and config["dataset_kwargs"]["data_files"]["test"] == "items.jsonl"
    assert yaml.safe_load((harness.LOCAL / "svamp_cot.yaml").read_text())["test_split"] == "test"


def test_without_it_the_message_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(harness, "available", lambda: False)
    with pytest.raises(ValueError, match=r"pip install.*\[gpu\]"):
        harness.run(None, None, ["gsm8k_cot"])


@pytest.mark.skipif(not harness.available(), reason="lm-evaluation-harness is not installed (the extra gpu)")
def test_tasks_run_on_a_tiny_model_and_the_real_files(tiny_qwen2, mipo_data, tmp_path):
    """SVAMP by our task and GSM8K by the harness's own, read from local files; a random model is right nowhere."""
    model, tokenizer = fit.load(roomy(tiny_qwen2, tmp_path / "m"), dtype="float32", device="cpu")
    items = hub_data.load("svamp", folder=mipo_data, n_test=3).test
    svamp = harness.svamp_task(harness.write_items(items, tmp_path / "items.jsonl"))
    svamp["generation_kwargs"]["max_gen_toks"] = 4
    import lm_eval

    theirs = yaml.safe_load((Path(lm_eval.__file__).parent / "tasks" / "gsm8k" / "gsm8k-cot.yaml").read_text())
    gsm = theirs | {"dataset_path": "json", "dataset_name": None, "num_fewshot": 1,
                    "dataset_kwargs": {"data_files": {"test": str(mipo_data / "gsm8k" / "test.jsonl")}},
                    "generation_kwargs": {"max_gen_toks": 4, "until": ["Q:"], "do_sample": False}}
    found = harness.run(model, tokenizer, [svamp, gsm], limit=3)
    assert set(found) == {"svamp_cot", "gsm8k_cot"}
    for name in ("svamp", "gsm8k"):
        scores = harness.scores(found, name)
        assert len(scores) == 3 and set(scores.values()) <= {0.0, 1.0}
    kept = [json.loads(line) for line in (tmp_path / "items.jsonl").read_text().splitlines()]
    assert [row["prompt"] for row in kept] == [reasoning_data.prompt(item) for item in items]
