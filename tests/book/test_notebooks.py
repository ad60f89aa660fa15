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
SMALL_09 = {
    "losses": ["dpo", "kto", "rmipo"],
    "seeds": [0],
    "max_new_tokens": 8,
    "batch_size": 6,
    "held_out": 0.2,
    "learning_rate": 0.001,
    "threads": 1,
}


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


@pytest.mark.parametrize(
    "kind, talk",
    [("tiny_qwen2", True), ("tiny_llama", False)],
    ids=["conversational", "standard"],
)
def test_the_readers_own_preferences(kind, talk, request, records_list, tmp_path):
    """Chapter 9 on a JSONL in either of TRL's formats; a fault in the file is named before anything is trained."""

    def write(name, rows):
        (tmp_path / name).write_text(
            "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8"
        )
        return str(tmp_path / name)

    sides = [(f"Yes, {r['query'].lower()}", "No.") for r in records_list]
    rows = [
        {"prompt": f"{r['context']} {r['query']}", "chosen": good, "rejected": bad}
        for r, (good, bad) in zip(records_list, sides, strict=True)
    ]
    if talk:
        rows = [
            {
                "prompt": [{"role": "user", "content": r["prompt"]}],
                **{
                    k: [{"role": "assistant", "content": r[k]}]
                    for k in ("chosen", "rejected")
                },
            }
            for r in rows
        ]
    own = {"model": str(request.getfixturevalue(kind)), **SMALL_09}
    found = run(
        "09-rmipo-training", tmp_path, preferences=write("own.jsonl", rows), **own
    )
    assert (
        found["own"]
        and not found["claims"]
        and {"own-gaps", "own-gamma"} <= set(found["figures"])
    )
    for name in ("base", *SMALL_09["losses"]):
        assert {f"accuracy-{name}", f"tokens-{name}", f"chosen-drift-{name}"} <= set(
            found["numbers"]
        )
    assert found["numbers"]["chosen-drift-base"]["mean"] == pytest.approx(0, abs=1e-4)
    bad = write("bad.jsonl", [*rows[:2], rows[2] | {"rejected": rows[2]["chosen"]}])
    with pytest.raises(
        Exception, match='bad.jsonl, line 3.*"chosen" equals "rejected"'
    ):
        run("09-rmipo-training", tmp_path, preferences=bad, **own)
