"""The map of claims, in both directions: every sentence has its cell, function, test, equation and number; and back."""

import ast
import importlib
import json
import re

import pytest
import yaml
from building import ROOT

from mipo_study.book import fill as pages

CLAIMS = yaml.safe_load((ROOT / "book" / "claims.yml").read_text(encoding="utf-8"))
WRITTEN = [claim for claim in CLAIMS if "notebook" in claim]


def read_all(folder, end):
    return {
        file.stem: json.loads(file.read_bytes())
        for file in sorted((ROOT / folder).glob(f"*.{end}"))
    }


BOOKS, RESULTS = read_all("notebooks", "ipynb"), read_all("results/full", "json")


def source(name, kind):
    return "\n\n".join(
        "".join(cell["source"])
        for cell in BOOKS[name]["cells"]
        if cell["cell_type"] == kind
    )


def tags(name):
    every = [
        tag for cell in BOOKS[name]["cells"] for tag in cell["metadata"].get("tags", [])
    ]
    return [tag for tag in every if tag.startswith("claim-")]


def claimed(name):
    """{slug: kind} of the nb.claim(...) calls of a notebook."""
    code = "\n".join(
        line
        for line in source(name, "code").splitlines()
        if not line.lstrip().startswith(("%", "!"))
    )
    calls = [
        node
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "claim"
    ]
    given = [{word.arg: word.value for word in call.keywords} for call in calls]
    kinds = [
        ast.literal_eval(words["kind"]) if "kind" in words else "finding"
        for words in given
    ]
    return dict(
        zip([ast.literal_eval(call.args[0]) for call in calls], kinds, strict=True)
    )


def ids(claims):
    return [claim["slug"] for claim in claims]


def test_the_map_names_every_claim_once_in_order():
    assert [slug.split("-")[0] for slug in ids(CLAIMS)] == [
        f"c{i:02d}" for i in range(1, 36)
    ]
    for claim in CLAIMS:
        assert {"claim", "who", "kind"} <= set(claim) and claim["kind"] in (
            "identity",
            "finding",
        ), claim["slug"]
        assert ("notebook" in claim) != ("open" in claim), (
            f"{claim['slug']}: either a notebook or a chapter to come"
        )


def test_an_open_claim_names_a_chapter_that_is_not_there():
    there = {name.split("-")[0] for name in BOOKS}
    for claim in CLAIMS:
        assert "open" not in claim or claim["open"].split()[0] not in there, (
            f"{claim['slug']}: its chapter is written"
        )


@pytest.mark.parametrize("claim", WRITTEN, ids=ids(WRITTEN))
def test_a_claim_has_its_cell(claim):
    name = claim["notebook"]
    assert name in BOOKS, f"{claim['slug']}: notebook {name} is missing"
    assert tags(name).count(f"claim-{claim['slug']}") == 1
    assert claimed(name).get(claim["slug"]) == claim["kind"]


@pytest.mark.parametrize("claim", WRITTEN, ids=ids(WRITTEN))
def test_a_claim_has_its_function_and_tests(claim):
    assert claim.get("functions") and claim.get("tests") and claim.get("metric"), claim[
        "slug"
    ]
    for path in claim["functions"]:
        package, module, *names = path.split(
            "."
        )  # mipo.losses.dpo, or a method: mipo.world.World.pmi
        thing = importlib.import_module(f"{package}.{module}")
        for name in names:
            thing = getattr(thing, name)
        assert names and callable(thing), path
    for test in claim["tests"]:
        file, _, name = test.partition("::")
        text = (ROOT / file).read_text(encoding="utf-8")
        assert re.search(rf"^def {re.escape(name)}\(", text, re.M), test


@pytest.mark.parametrize("claim", WRITTEN, ids=ids(WRITTEN))
def test_an_identity_has_its_equation(claim):
    labels = claim.get("equations", [])
    assert labels or claim["kind"] == "finding", (
        f"{claim['slug']}: an identity names the equations it stands on"
    )
    pages = "\n".join(source(name, "markdown") for name in BOOKS)
    for label in labels:
        assert re.search(rf"\$\$\s*\({label}\)|:label:\s*{label}\b", pages), (
            f"{claim['slug']}: no equation {label}"
        )


@pytest.mark.parametrize("name", sorted(BOOKS))
def test_every_claim_of_a_notebook_is_on_the_map(name):
    known = {claim["slug"] for claim in WRITTEN if claim["notebook"] == name}
    also = {claim["slug"] for claim in CLAIMS if name in claim.get("also", [])}
    assert {tag.removeprefix("claim-") for tag in tags(name)} <= known | also
    assert set(claimed(name)) <= known | also
    assert also <= set(claimed(name)), (
        f"{name} has no cell for {also - set(claimed(name))}"
    )


@pytest.mark.parametrize(
    "claim",
    [claim for claim in WRITTEN if claim["notebook"] in RESULTS],
    ids=lambda claim: claim["slug"],
)
def test_a_published_claim_has_status_number_and_figure(claim):
    result = RESULTS[claim["notebook"]]
    found = result["claims"][claim["slug"]]
    assert found["status"] in ("holds", "fails", "undecided", "in part")
    assert claim["kind"] == "finding" or found["status"] == "holds"
    rows = found["parts"].values() if "parts" in found else [found]
    for row in rows:
        assert row["number"]["low"] is not None, (
            f"{claim['slug']}: a published number has its interval"
        )
        assert row["region"] != [None, None], f"{claim['slug']}: any value would do"
    file = ROOT / "results" / "full" / result["figures"][found["figure"]]["file"]
    assert file.exists()


def test_published_results_are_full_runs_of_notebooks_that_exist():
    for name, result in RESULTS.items():
        assert name in BOOKS and result["scale"] == "full" and not result["own"], name


@pytest.mark.parametrize("name", sorted(BOOKS))
def test_notebooks_are_stored_without_outputs_or_paths(name):
    for cell in BOOKS[name]["cells"]:
        assert not cell.get("outputs") and not cell.get("execution_count"), (
            f"{name}: strip it (nbstripout)"
        )
    text = source(name, "code")
    assert not re.search(r"[\"']/(home|root|tmp|Users|mnt)/", text)
    assert "claim-" not in text or name in {claim["notebook"] for claim in WRITTEN}


def test_a_figure_that_this_scale_does_not_draw_is_not_linked():
    found = {
        "figure": "lora",
        "number": {"mean": 1.0, "low": 1.0, "high": 1.0, "n": 1, "values": [1.0]},
        "status": "holds",
    }
    claim = {"slug": "c13-lora", "notebook": "06-mipo-training"}
    shown = pages.where(claim, found, "book/claims.md", {"06-mipo-training": {"lora"}})
    assert "<fig-06-lora>" in shown and "<claim-c13-lora>" in shown
    absent = pages.where(
        claim, found, "book/claims.md", {"06-mipo-training": {"headline"}}
    )
    assert "fig-06" not in absent and "<claim-c13-lora>" in absent
    assert pages.where(claim, found, "book/claims.md", {}) == "06-mipo-training"
