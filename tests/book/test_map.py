"""The map of claims, in both directions, for any number of claims.

Every sentence of book/claims.yml has its cell, function, tests, equation, figure and
number, and every cell and published number of a claim has its sentence.
"""

import ast
import json
import re
from pkgutil import resolve_name

import nbformat
import pytest
import yaml
from building import ROOT

from mipo_study.book import stage, tables

CLAIMS = yaml.safe_load((ROOT / "book" / "claims.yml").read_text(encoding="utf-8"))
WRITTEN = [claim for claim in CLAIMS if "notebook" in claim]
REQUIRED = {"slug", "claim", "who", "kind"}
PLACES = {
    "notebook",
    "equations",
    "functions",
    "tests",
    "metric",
    "also",
    "unpublished",
}
STATUS = ("holds", "fails", "undecided", "in part")


def read_all(folder, end):
    files = sorted((ROOT / folder).glob(f"*.{end}"))
    return {file.stem: json.loads(file.read_bytes()) for file in files}


BOOKS = read_all("notebooks", "ipynb")
PUBLISHED = read_all("results/full", "json")


def source(name, kind):
    """The text of all cells of one kind of a notebook."""
    cells = [cell for cell in BOOKS[name]["cells"] if cell["cell_type"] == kind]
    return "\n\n".join("".join(cell["source"]) for cell in cells)


def tags(name):
    """The tags `claim-...` of a notebook's cells, in order."""
    metadata = [cell["metadata"] for cell in BOOKS[name]["cells"]]
    found = [tag for one in metadata for tag in one.get("tags", [])]
    return [tag for tag in found if tag.startswith("claim-")]


def without_magics(code):
    """Python only: `%` and `!` lines are IPython's."""
    lines = code.splitlines()
    return "\n".join(line for line in lines if not line.lstrip().startswith(("%", "!")))


def is_claim(node):
    is_method = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    return is_method and node.func.attr == "claim"


def claimed(name):
    """{slug: kind} of the nb.claim(...) calls of a notebook."""
    tree = ast.parse(without_magics(source(name, "code")))
    kinds = {}
    for call in filter(is_claim, ast.walk(tree)):
        words = {word.arg: word.value for word in call.keywords}
        kind = ast.literal_eval(words["kind"]) if "kind" in words else "finding"
        kinds[ast.literal_eval(call.args[0])] = kind
    return kinds


def ids(claims):
    return [claim["slug"] for claim in claims]


def each(claims):
    """One test per claim, named after its slug."""
    return pytest.mark.parametrize("claim", claims, ids=ids(claims))


# ---- from the map to the pages ----


def test_claims_are_numbered_from_one_without_a_gap():
    numbers = [slug.split("-")[0] for slug in ids(CLAIMS)]
    assert numbers == [f"c{i:02d}" for i in range(1, len(CLAIMS) + 1)]


@each(CLAIMS)
def test_a_claim_says_what_it_must_and_nothing_unknown(claim):
    slug = claim["slug"]
    assert re.fullmatch(r"c\d\d(-[a-z0-9]+)+", slug), f"{slug}: write cNN-some-words"
    missing = REQUIRED - claim.keys()
    assert not missing, f"{slug}: book/claims.yml lacks {missing}"
    unknown = claim.keys() - REQUIRED - PLACES - {"open"}
    assert not unknown, f"{slug}: book/claims.yml has unknown {unknown}"
    assert claim["kind"] in ("identity", "finding"), f"{slug}: {claim['kind']}"


@each(CLAIMS)
def test_a_claim_is_measured_or_names_the_chapter_to_come(claim):
    slug = claim["slug"]
    assert ("notebook" in claim) != ("open" in claim), f"{slug}: notebook or open"
    if "open" in claim:
        chapter = claim["open"]
        assert re.fullmatch(r"\d\d(-[a-z0-9]+)+", chapter), f"{slug}: {chapter}"
        assert chapter not in BOOKS, f"{slug}: its chapter {chapter} is written"
        rest = claim.keys() - REQUIRED - {"open"}
        assert not rest, f"{slug} is open, so {rest} cannot be said yet"


@each(WRITTEN)
def test_a_claim_has_its_cell(claim):
    slug, name = claim["slug"], claim["notebook"]
    assert name in BOOKS, f"{slug}: there is no notebook {name}"
    count = tags(name).count(f"claim-{slug}")
    assert count == 1, f"{name}: {count} cells are tagged claim-{slug}"
    kind = claimed(name).get(slug)
    assert kind == claim["kind"], f"{name} calls {slug} {kind}"


@each(WRITTEN)
def test_a_claim_has_its_functions(claim):
    assert claim.get("metric"), f"{claim['slug']}: say what is measured (metric)"
    assert claim.get("functions"), f"{claim['slug']}: name its functions"
    for path in claim["functions"]:
        thing = resolve_name(path)  # mipo.losses.dpo, mipo.world.World.pmi
        assert callable(thing), f"{claim['slug']}: {path} is no function"


@each(WRITTEN)
def test_a_claim_has_its_tests(claim):
    assert claim.get("tests"), f"{claim['slug']}: name the tests of its functions"
    for test in claim["tests"]:
        file, _, name = test.partition("::")
        assert (ROOT / file).exists(), f"{claim['slug']}: there is no {file}"
        text = (ROOT / file).read_text(encoding="utf-8")
        assert re.search(rf"^def {re.escape(name)}\(", text, re.M), test


@each(WRITTEN)
def test_an_identity_has_its_equation(claim):
    labels = claim.get("equations", [])
    slug, kind = claim["slug"], claim["kind"]
    assert labels or kind == "finding", f"{slug}: name the equations it stands on"
    text = "\n".join(source(name, "markdown") for name in BOOKS)
    for label in labels:
        here = re.search(rf"\$\$\s*\({label}\)|:label:\s*{label}\b", text)
        assert here, f"{slug}: no equation {label}"


def published(claim):
    """What the published run measured for a claim, or None."""
    claims = PUBLISHED.get(claim["notebook"], {}).get("claims", {})
    return claims.get(claim["slug"])


@each(WRITTEN)
def test_a_claim_is_published_unless_the_map_says_it_is_not(claim):
    """`unpublished: true` stands in claims.yml until a full run measured the claim."""
    waits = claim.get("unpublished", False)
    is_there = published(claim) is not None
    # A claim whose chapter was never published waits for the chapter's first full run.
    expected = claim["notebook"] in PUBLISHED and not waits
    assert is_there == expected, (
        f"{claim['slug']}: results/full {'has' if is_there else 'lacks'} it, "
        f"and book/claims.yml says unpublished: {str(waits).lower()}"
    )


PUBLISHED_CLAIMS = [claim for claim in WRITTEN if published(claim)]


@each(PUBLISHED_CLAIMS)
def test_a_published_claim_has_a_status(claim):
    measured = published(claim)
    assert measured["status"] in STATUS
    assert claim["kind"] == "finding" or measured["status"] == "holds"


@each(PUBLISHED_CLAIMS)
def test_a_published_claim_has_its_number_with_an_interval(claim):
    measured = published(claim)
    for row in measured.get("parts", {"": measured}).values():
        assert row["number"]["low"] is not None, f"{claim['slug']}: no interval"
        assert row["region"] != [None, None], f"{claim['slug']}: any value would do"


@each(PUBLISHED_CLAIMS)
def test_a_published_claim_has_its_figure(claim):
    figures = PUBLISHED[claim["notebook"]]["figures"]
    figure = figures[published(claim)["figure"]]
    assert (ROOT / "results" / "full" / figure["file"]).exists()


# ---- from the pages to the map ----


@pytest.mark.parametrize("name", sorted(BOOKS))
def test_every_claim_of_a_notebook_is_on_the_map(name):
    own = {claim["slug"] for claim in WRITTEN if claim["notebook"] == name}
    also = {claim["slug"] for claim in CLAIMS if name in claim.get("also", [])}
    assert {tag.removeprefix("claim-") for tag in tags(name)} <= own | also
    assert set(claimed(name)) <= own | also
    absent = also - set(claimed(name))
    assert not absent, f"{name} has no cell for {absent}"


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_published_results_are_full_runs_of_notebooks_that_exist(name):
    result = PUBLISHED[name]
    assert name in BOOKS
    assert result["scale"] == "full"
    assert not result["own"]


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_every_published_claim_is_on_the_map(name):
    own = {claim["slug"] for claim in WRITTEN if claim["notebook"] == name}
    also = {claim["slug"] for claim in CLAIMS if name in claim.get("also", [])}
    assert set(PUBLISHED[name]["claims"]) <= own | also


def test_every_cell_of_a_claim_has_a_label_of_its_own():
    """Sphinx says nothing of labels that two pages share; the last page gets the links."""
    homes = {claim["slug"]: claim["notebook"] for claim in WRITTEN}
    labels = []
    for name, book in BOOKS.items():
        for cell in nbformat.from_dict(book["cells"]):
            labels += stage.labels_of(cell, name, homes)
    assert len(labels) > len(WRITTEN)
    assert len(labels) == len(set(labels))
    assert {f"claim-{slug}" for slug in homes} <= set(labels)


def test_a_figure_that_this_scale_does_not_draw_is_not_linked():
    number = {"mean": 1.0, "low": 1.0, "high": 1.0, "n": 1, "values": [1.0]}
    measured = {"figure": "lora", "number": number, "status": "holds"}
    claim = {"slug": "c13-lora", "notebook": "06-mipo-training"}

    def link(staged):
        return tables.where(claim, measured, staged)

    drawn = link({"06-mipo-training": {"lora"}})
    assert "<fig-06-lora>" in drawn and "<claim-c13-lora>" in drawn
    other = link({"06-mipo-training": {"headline"}})
    assert "fig-06" not in other and "<claim-c13-lora>" in other
    assert link({}) == "06-mipo-training"
