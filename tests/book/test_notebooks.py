"""Chapters 5 to 12 and 16 on the reader's own model and data; by Papermill, as a reader would run them."""

import json

import papermill
import pytest
from building import ROOT

SMALL_05 = {"n_extra": 8, "max_new_tokens": 8, "seeds": [0]}
SMALL_06 = {
    "arms": ["mipo-random", "mipo-missing"],
    "seeds": [0],
    "max_new_tokens": 8,
    "batch_size": 8,
    "threads": 1,
}
SMALL_07 = {"arms": ["mipo-random"], "seeds": [0], "threads": 1}


def run(name, folder, **parameters):
    """Execute a notebook with these parameters; its results as a dict."""
    out = folder / f"{name}.ipynb"
    papermill.execute_notebook(
        str(ROOT / "notebooks" / f"{name}.ipynb"),
        str(out),
        cwd=str(ROOT),
        progress_bar=False,
        parameters={"run_dir": str(folder / "run"), **parameters},
    )
    return json.loads(
        (folder / "run" / "results" / f"{name}.json").read_text(encoding="utf-8")
    )


@pytest.mark.parametrize("kind", ["tiny_qwen2", "tiny_llama"])
def test_the_readers_own_model_and_people(kind, request, records_jsonl, tmp_path):
    own = {"model": str(request.getfixturevalue(kind)), "records": str(records_jsonl)}
    pairs = run("05-pair-synthesis", tmp_path, **own, **SMALL_05)
    trained = run("06-mipo-training", tmp_path, **own, **SMALL_06)
    after = run("07-personalisation", tmp_path, **own, **SMALL_07)
    for result in (pairs, trained, after):
        assert result["own"] and not any(
            claim["status"] for claim in result["claims"].values()
        )
    assert trained["numbers"]["trl-difference"]["mean"] < 1e-4
    assert after["numbers"], (
        "chapter 7 must measure something where nothing says what is right"
    )


def test_cost_of_the_readers_own_model(tiny_qwen2, tmp_path):
    found = run(
        "12-cost",
        tmp_path,
        model=str(tiny_qwen2),
        lengths=[[24, 8], [16, 16]],
        pairs=1,
        repetitions=6,
        threads=1,
    )
    assert found["own"] and found["claims"]["c23-cheaper"]["status"] is None
    assert found["numbers"]["flops-apart"]["mean"] < 1e-3
