"""Chapters 5 to 11 on the reader's own model and data, and the placebo: by Papermill, as a reader would run them."""

import json

import papermill
import pytest
from building import ROOT

from mipo.pages import load_claims

SMALL_05 = {"n_extra": 8, "max_new_tokens": 8, "seeds": [0]}
SMALL_06 = {"arms": ["mipo-random", "mipo-missing"], "seeds": [0], "max_new_tokens": 8, "batch_size": 8, "threads": 1}
SMALL_07 = {"arms": ["mipo-random"], "seeds": [0], "threads": 1}
SMALL_09 = {"losses": ["dpo", "kto", "rmipo"], "seeds": [0], "max_new_tokens": 8, "batch_size": 6, "held_out": 0.2,
            "learning_rate": 0.001, "threads": 1}
SMALL_10 = {"search": True, "search_seeds": [0, 1], "learning_rates": [0.00045, 0.00135], "row_rates": [0.00045],
            "dpo_betas": [0.1], "betas": [2.0], "ratios": [0.5], "margins": [[0.3, 1.6, 1.0]], "n_select": 5, "n_test": 20}
MECHANICAL = {"c19-gamma-settles", "c25-early-instability", "c26-reweighting"}  # about γ itself, whatever the labels say
NEEDS_ALL = {"c09-contrast-matters", "c13-lora", "c20-rmipo-beats-kin"}  # judged only where all those arms are trained


def run(name, folder, **parameters):
    """Execute a notebook with these parameters; its results as a dict."""
    out = folder / f"{name}.ipynb"
    papermill.execute_notebook(str(ROOT / "notebooks" / f"{name}.ipynb"), str(out), cwd=str(ROOT), progress_bar=False,
                               parameters={"run_dir": str(folder / "run"), **parameters})
    return json.loads((folder / "run" / "results" / f"{name}.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("kind", ["tiny_qwen2", "tiny_llama"])
def test_the_readers_own_model_and_people(kind, request, records_jsonl, tmp_path):
    own = {"model": str(request.getfixturevalue(kind)), "records": str(records_jsonl)}
    pairs = run("05-pair-synthesis", tmp_path, **own, **SMALL_05)
    trained = run("06-mipo-training", tmp_path, **own, **SMALL_06)
    after = run("07-personalisation", tmp_path, **own, **SMALL_07)
    for result in (pairs, trained, after):
        assert result["own"] and not any(claim["status"] for claim in result["claims"].values())
    assert trained["numbers"]["trl-difference"]["mean"] < 1e-4
    assert after["numbers"], "chapter 7 must measure something where nothing says what is right"


def test_a_placebo_leaves_no_finding_at_holds(tmp_path):
    """Chosen and rejected assigned by coin: whatever chapters 6, 7, 9 and 10 then find, it is not the method."""
    few = {"seeds": [0, 1, 2], "placebo": True, "threads": 1, "scale": "laptop"}
    run("04-small-world", tmp_path, steps=350, n_people=10, draws=300, threads=1)
    run("05-pair-synthesis", tmp_path, **few, n_people=16, per_task=1, n_extra=12)
    found = run("06-mipo-training", tmp_path, **few, arms=["sft", "mipo-random", "mipo-missing"], n_select=5, n_test=20)
    found["claims"] |= run("07-personalisation", tmp_path, **few, n_people=12, draws=2, contexts=3)["claims"]
    found["claims"] |= run("09-rmipo-training", tmp_path, **few, n_people=8, n_unseen=4, n_test=12, flips=[0.4],
                           losses=["dpo", "ipo", "kto", "simpo", "rmipo"], plugs=["dpo", "ipo", "kto"], mipo_pairs=True,
                           controls=["none", "shuffled", "constant", "frozen", "drop", "released"], warm=True)["claims"]
    found["claims"] |= run("10-tuning-free", tmp_path, **few, **SMALL_10)["claims"]
    findings = {slug: claim["status"] for slug, claim in found["claims"].items()
                if claim["kind"] == "finding" and slug not in MECHANICAL}
    chapters = ("06-mipo-training", "07-personalisation", "09-rmipo-training", "10-tuning-free")
    assert set(findings) == {c["slug"] for c in load_claims() if c.get("notebook") in chapters} - MECHANICAL - NEEDS_ALL
    assert None not in findings.values()
    assert "holds" not in findings.values(), findings


def test_cost_of_the_readers_own_model(tiny_qwen2, tmp_path):
    found = run("11-cost", tmp_path, model=str(tiny_qwen2), lengths=[[24, 8], [16, 16]], pairs=1, repetitions=6, threads=1)
    assert found["own"] and found["claims"]["c23-cheaper"]["status"] is None
    assert found["numbers"]["flops-apart"]["mean"] < 1e-3


@pytest.mark.parametrize("kind, talk", [("tiny_qwen2", True), ("tiny_llama", False)], ids=["conversational", "standard"])
def test_the_readers_own_preferences(kind, talk, request, records_list, tmp_path):
    """Chapter 9 on a JSONL in either of TRL's formats; a fault in the file is named before anything is trained."""
    def write(name, rows):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return str(tmp_path / name)

    sides = [(f"Yes, {r['query'].lower()}", "No.") for r in records_list]
    rows = [{"prompt": f"{r['context']} {r['query']}", "chosen": good, "rejected": bad}
            for r, (good, bad) in zip(records_list, sides, strict=True)]
    if talk:
        rows = [{"prompt": [{"role": "user", "content": r["prompt"]}],
                 **{k: [{"role": "assistant", "content": r[k]}] for k in ("chosen", "rejected")}} for r in rows]
    own = {"model": str(request.getfixturevalue(kind)), **SMALL_09}
    found = run("09-rmipo-training", tmp_path, preferences=write("own.jsonl", rows), **own)
    assert found["own"] and not found["claims"] and {"own-gaps", "own-gamma"} <= set(found["figures"])
    for name in ("base", *SMALL_09["losses"]):
        assert {f"accuracy-{name}", f"tokens-{name}", f"chosen-drift-{name}"} <= set(found["numbers"])
    assert found["numbers"]["chosen-drift-base"]["mean"] == pytest.approx(0, abs=1e-4)
    bad = write("bad.jsonl", [*rows[:2], rows[2] | {"rejected": rows[2]["chosen"]}])
    with pytest.raises(Exception, match="bad.jsonl, line 3.*\"chosen\" equals \"rejected\""):
        run("09-rmipo-training", tmp_path, preferences=bad, **own)
