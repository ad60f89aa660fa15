"""Chosen and rejected assigned by coin: no finding may then hold. A file of its own, since it is the longest test."""

import pytest
from building import run_notebook as run

from mipo_study.book.results import load_claims

pytestmark = pytest.mark.long

SMALL_10 = {
    "search": True,
    "search_seeds": [0, 1],
    "learning_rates": [0.00045, 0.00135],
    "row_rates": [0.00045],
    "dpo_betas": [0.1],
    "betas": [2.0],
    "ratios": [0.5],
    "margins": [[0.3, 1.6, 1.0]],
    "n_select": 5,
    "n_test": 20,
}
SMALL_14 = {
    "grid": [["0.1M", 1], ["0.3M", 1]],
    "steps": 250,
    "n_people": 12,
    "per_task": 1,
    "n_test": 20,
    "n_inside": 1,
}
MECHANICAL = {
    "c19-gamma-settles",
    "c25-early-instability",
    "c26-reweighting",
}  # about γ itself, whatever the labels say
NEEDS_ALL = {
    "c09-contrast-matters",
    "c13-lora",
    "c20-rmipo-beats-kin",
}  # judged only where all those arms are trained


# slow: nine chapters, and fewer or shorter runs would find nothing, coin or not
@pytest.mark.slow
@pytest.mark.timeout(1800)  # about 150 short runs of training, one after another
def test_a_placebo_leaves_no_finding_at_holds(tmp_path):
    """Chosen and rejected assigned by coin: whatever chapters 6 to 11 and 16 then find, it is not the method."""
    few, coin = {"seeds": [0, 1, 2], "threads": 1, "scale": "laptop"}, {"placebo": True}
    run("04-small-world", tmp_path, steps=350, n_people=10, draws=300, threads=1)
    run(
        "05-pair-synthesis",
        tmp_path,
        **few,
        **coin,
        n_people=16,
        per_task=1,
        n_extra=12,
    )
    found = run(
        "06-mipo-training",
        tmp_path,
        **few,
        arms=["sft", "mipo-random", "mipo-missing"],
        n_select=5,
        n_test=20,
    )
    found["claims"] |= run(
        "07-personalisation", tmp_path, **few, n_people=12, draws=2, contexts=3
    )["claims"]
    found["claims"] |= run(
        "09-rmipo-training",
        tmp_path,
        **few,
        **coin,
        n_people=8,
        n_unseen=4,
        n_test=12,
        flips=[0.4],
        losses=["dpo", "simpo", "rmipo"],
        mipo_pairs=True,
    )["claims"]
    found["claims"] |= run(
        "10-mi-ingredient",
        tmp_path,
        **few,
        n_unseen=4,
        n_test=12,
        plugs=["dpo", "ipo", "kto"],
        controls=["none", "shuffled", "constant", "frozen", "drop", "released"],
        warm=True,
    )["claims"]
    found["claims"] |= run("11-tuning-free", tmp_path, **few, **SMALL_10)["claims"]
    found["claims"] |= run("16-scaling", tmp_path, **few, **coin, **SMALL_14)["claims"]
    found["claims"] |= run(
        "08-reasoning",
        tmp_path,
        **few,
        **coin,
        base_steps=40,
        n_pairs=48,
        n_test=60,
        n_exact=60,
    )["claims"]
    findings = {
        slug: claim["status"]
        for slug, claim in found["claims"].items()
        if claim["kind"] == "finding" and slug not in MECHANICAL
    }
    chapters = (
        "06-mipo-training",
        "07-personalisation",
        "08-reasoning",
        "09-rmipo-training",
        "10-mi-ingredient",
        "11-tuning-free",
        "16-scaling",
    )
    assert (
        set(findings)
        == {c["slug"] for c in load_claims() if c.get("notebook") in chapters}
        - MECHANICAL
        - NEEDS_ALL
    )
    assert None not in findings.values()
    assert "holds" not in findings.values(), findings
