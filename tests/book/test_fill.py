"""Pages are templates: numbers, figures and tables come from result files, or it is said."""

import json
import re
import time

import pytest
from building import ROOT

from mipo import cache, files, record
from mipo_study.book import fill, results, tables

MEAN = {"mean": 0.4567, "low": 0.4, "high": 0.5, "n": 3, "values": [0.4, 0.5, 0.47]}
EXACT = {"mean": 2.0, "low": 2.0, "high": 2.0, "n": 1, "values": [2.0], "unit": "nats"}
LONE = {"mean": 0.25, "low": None, "high": None, "n": 1, "values": [0.25]}


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A project with two notebooks, two claims and no results."""
    monkeypatch.setenv("MIPO_ROOT", str(tmp_path))
    for name in ("06-x", "07-y", "15-gpu-models", "13-real-people", "16-scaling"):
        write(tmp_path / "notebooks" / f"{name}.ipynb", {"cells": []})
    row = {"who": "MIPO", "kind": "finding"}
    claims = [
        {"slug": "c06-x", "claim": "Six.", "notebook": "06-x", **row},
        {"slug": "c07-y", "claim": "Seven.", "open": "17 open questions", **row},
        {"slug": "c12-z", "claim": "Twelve.", "notebook": "16-scaling", **row},
    ]
    write(tmp_path / "book" / "claims.yml", claims)
    return tmp_path


def write(file, content):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content), encoding="utf-8")


def result(scale="laptop", **more):
    numbers = {"share": MEAN, "mi": EXACT, "lone": LONE}
    figure = {"file": "figures/06-line.svg", "alt": 'A "line", rising'}
    about = {"scale": scale, "skipped": "", "claims": {}}
    return {"numbers": numbers, "figures": {"line": figure}, **about, **more}


def claim(status="holds", **more):
    return {"status": status, "number": EXACT, "figure": "line", **more}


def page(found=None, staged=None, name="book/page.md", scale="laptop"):
    found = {"06-x": result()} if found is None else found
    return fill.Page(name, found, scale, staged or {})


# ---- numbers, statuses, figures ----


@pytest.mark.parametrize(
    "call, text",
    [
        ('number("06-x/share")', "0.457 [0.4, 0.5]"),
        ('number("06-x/mi")', "2 nats"),
        ('number("06-x/share", "mean")', "0.457"),
        ('number("06-x/share", "low")', "0.4"),
        ('number("06-x/share", "high")', "0.5"),
        ('number("06-x/share", "percent")', "46 %"),
        ('number("06-x/share", "percent1")', "45.7 %"),
        ('number("06-x/share", "range")', "40 to 50 %"),
        ('number("06-x/lone", "range")', tables.NOTHING),
        ('number("06-x/not-at-this-scale")', tables.NOTHING),
        ('number("07-y/not-run-yet")', tables.NOTHING),
        ('status("c06")', "not judged yet"),
        ('figure("07-y/line")', "*(the figure comes with the first full run)*"),
    ],
)
def test_what_a_page_may_ask_for(root, call, text):
    assert fill.fill(f"So: {{{{ {call} }}}}.", page()) == f"So: {text}."


def test_a_status_is_that_of_the_claim_with_this_number(root):
    found = {"06-x": result(claims={"c06-x": claim("in part")})}
    assert fill.fill('{{ status("c06") }}', page(found)) == "in part"


def test_a_figure_comes_with_its_alt_text_from_where_it_is_staged(root):
    image = fill.fill('{{ figure("06-x/line") }}', page())
    assert "{image} ../figures/06-line.svg\n" in image
    assert r':alt: "A \"line\", rising"' in image
    write(root / "results" / "full" / "06-x.json", result("full"))
    published = fill.fill('{{ figure("06-x/line") }}', page())
    assert "{image} ../published/06-line.svg\n" in published


@pytest.mark.parametrize(
    "call, message",
    [
        ("nmber()", "'nmber' is undefined"),
        ("share", "'share' is undefined"),
        ('number("06-z/share")', "'06-z/share': there is no notebook '06-z'"),
        ('number("06-x/share", "per cent")', "'per cent' is no form of a number"),
        ('status("c99")', "there is no claim 'c99'"),
        ('number("06-x/share"', "expected ')'"),
        ("number()", "missing 1 required positional argument"),
        ("%} {%", "unexpected"),
    ],
)
def test_what_is_asked_wrongly_is_one_error_with_page_and_line(root, call, message):
    with pytest.raises(ValueError) as error:
        fill.fill(f"One.\n\nThree: {{{{ {call} }}}}\n", page())
    text = str(error.value)
    assert text.startswith("book/page.md, line 3: ") and message in text
    assert "(a page has number, status, figure," in text


def test_published_results_must_have_what_a_page_asks_for(root):
    found = {"06-x": result("full")}
    with pytest.raises(ValueError, match="line 1: .*did you mean 'share'"):
        fill.fill('{{ number("06-x/shar") }}', page(found))


def test_what_is_no_template_stays_as_it_is(root):
    text = "{#anchor}\n{ref}`x` {number} $x_{i}$ <https://a.b> {.class}\n\n"
    assert fill.fill(text, page()) == text


def test_every_page_fits_the_published_results():
    """Each number, figure and claim that a page asks for is there, or not run yet."""
    found = results.best_results("laptop")
    for file in (ROOT / "book").rglob("*.md"):
        name = file.relative_to(ROOT).as_posix()
        text = fill.fill(file.read_text(encoding="utf-8"), page(found, name=name))
        assert "{{" not in text


# ---- tables ----


def test_claims_with_links_to_the_pages_that_are_built(root):
    found = {"06-x": result(claims={"c06-x": claim("holds")})}
    table = tables.claims(found, {"06-x": {"line"}})
    place = "{ref}`06-x <claim-c06-x>`, {ref}`figure <fig-06-line>`, scale laptop"
    row = f"| **c06** Six. | MIPO | **holds** | 2 nats | {place} |"
    assert row in table.splitlines()
    assert "| **c07** Seven. | MIPO | **open** | – | open: 17 open questions |" in table
    assert "16-scaling, not run at this scale |" in table
    assert "| 06-x, scale laptop |" in tables.claims(found, {})
    no_figure = tables.claims(found, {"06-x": set()})
    assert "| {ref}`06-x <claim-c06-x>`, scale laptop |" in no_figure


def test_a_claim_has_a_line_for_each_further_chapter_that_measured_it(root):
    one = {"slug": "c06-x", "claim": "Six.", "notebook": "06-x", "who": "MIPO"}
    one["also"] = ["14-real-model", "15-gpu-models", "16-scaling"]
    two = {"slug": "c12-z", "claim": "Twelve.", "notebook": "16-scaling", "who": "us"}
    write(root / "book" / "claims.yml", [one, two])
    found = {
        "06-x": result(claims={"c06-x": claim("holds")}),
        "14-real-model": result("full", claims={"c06-x": claim("fails", number=MEAN)}),
        "15-gpu-models": result("full", skipped="no model"),
    }
    staged = {"06-x": {"line"}, "14-real-model": {"line"}, "15-gpu-models": set()}
    own = "{ref}`06-x <claim-c06-x>`, {ref}`figure <fig-06-line>`, scale laptop"
    there = "{ref}`14-real-model <claim-14-c06-x>`, {ref}`figure <fig-14-line>`"
    same = "the same claim in chapter 14 (real model)"
    assert tables.claims(found, staged).splitlines()[2:] == [
        f"| **c06** Six. | MIPO | **holds** | 2 nats | {own} |",
        f"| **c06** {same} | MIPO | **fails** | 0.457 [0.4, 0.5] | {there}, scale full |",
        "| **c12** Twelve. | us | **open** | – | 16-scaling, not run at this scale |",
    ]
    assert tables.claims_summary(found) == "2 claims: holds 1, open 1."
    unmeasured = {"14-real-model": found["14-real-model"]}
    first, second, _ = tables.claims(unmeasured, {}).splitlines()[2:]
    assert "**open** | – | 06-x, not run at this scale |" in first
    assert second.endswith("| 14-real-model, scale full |")


def test_the_summary_counts_failures_as_plainly(root):
    found = {"06-x": result(claims={"c06-x": claim("fails")})}
    assert tables.claims_summary(found) == "3 claims: fails 1, open 2."
    parts = {"one": {"number": EXACT, "status": "holds"}}
    parts |= {"two": {"number": MEAN, "status": None}}
    text = results.measured({"parts": parts})
    assert text == "one: 2 nats (holds); two: 0.457 [0.4, 0.5] (not judged)"


def test_where_the_time_goes_by_hand():
    work = {"train": 90.0, "polis": 30.0, "examine": 6.0}
    done = {"06-x": {"work": work, "seconds_outside": 60.0, "seconds_cold": 150.0}}
    last = tables.work({**done, "07-y": {}}).splitlines()[-1]
    assert last == "| 06-x | – | – | 2.0 | 0.1 | – | 1.0 | 2.5 |"
    assert tables.work({"07-y": {}}) == tables.NOTHING


def test_where_the_time_goes_is_asked_of_this_build(root):
    mine = {"work": {"train": 60.0}, "seconds_outside": 30.0, "seconds_cold": 90.0}
    write(root / "runs" / "smoke" / "results" / "06-x.json", mine)
    published = {"06-x": {**mine, "work": {"train": 6000.0}}}
    text = fill.fill("{{ work() }}", page(published, scale="smoke"))
    assert text.splitlines()[-1] == "| 06-x | – | – | 1.0 | – | – | 0.5 | 1.5 |"


def test_every_kind_of_run_has_its_column():
    """A new kind of run would be missing from the table of times."""
    files = [*(ROOT / "src").rglob("*.py"), *(ROOT / "notebooks").glob("*.ipynb")]
    text = "\n".join(file.read_text(encoding="utf-8") for file in files)
    named = set(re.findall(r'run_or_load\(\s*[\w.]+,\s*f?\\?"(\w+)', text))
    assert named and named <= {kind for kinds in tables.WORK.values() for kind in kinds}


def test_versions_that_differ_are_all_named():
    found = {"a": {"versions": {"torch": "2.1"}}, "b": {"versions": {"torch": "2.0"}}}
    assert tables.versions(found).splitlines()[-1] == "| torch | 2.0, 2.1 |"
    assert tables.versions({}) == tables.NOTHING


# ---- which run stands for a chapter ----


def test_a_chapter_that_was_skipped_hides_no_run(root):
    """Full stands before gpu, gpu before this scale; a skipped run for nothing."""
    skipped = {
        "runs/laptop/results": ("13-real-people", "15-gpu-models"),
        "results/gpu": (),
        "results/full": ("13-real-people", "15-gpu-models"),
    }
    for place, names in skipped.items():
        scale = place.split("/")[1]
        for name in ("15-gpu-models", "16-scaling"):
            why = "no model" if name in names else ""
            write(root / place / f"{name}.json", result(scale, skipped=why))
        if names:
            file = root / place / "13-real-people.json"
            write(file, result(scale, skipped="no votes"))
    best = results.best_results("laptop")
    assert {name: found["scale"] for name, found in best.items()} == {
        "13-real-people": "laptop",
        "15-gpu-models": "gpu",
        "16-scaling": "full",
    }


def test_real_models_are_open_until_a_run_is_committed(root, monkeypatch):
    monkeypatch.setenv(cache.STARTED, str(time.time()))  # as the chain starts it
    row = {"who": "MIPO", "kind": "finding"}
    also = {"slug": "c06-personalises", "claim": "MIPO personalises.", **row}
    other = {"slug": "c07-other", "claim": "Other.", **row}
    claims = [also | {"also": ["15-gpu-models"]}, other]
    write(root / "book" / "claims.yml", claims)
    table = tables.real_models()
    assert "| c06 MIPO personalises. | MIPO | open: not run yet | – |" in table
    assert "c07" not in table
    said = "Chapter 15 has not been run on real weights yet."
    assert tables.real_models_sentence() == said
    gpu = record.Notebook(
        "15-gpu-models", run_dir="runs/gpu", scale="gpu", published="gpu"
    )
    values = [0.19, 0.2, 0.21]
    gpu.claim("c06-personalises", values=values, region=(0, None), unit="share")
    kept = files.unseal(gpu.close())
    kept |= {
        "seconds_cold": 7230.0,
        "gpu": "NVIDIA H200",
        "machine": "a CPU, 16 cores",
        "commit": "abc123",
        "dirty": False,
        "date": "2026-01-02 03:04 UTC",
        "versions": kept["versions"] | {"torch": "2.8.0", "transformers": "5.1"},
    }
    write(root / "results" / "gpu" / "15-gpu-models.json", kept)
    assert "| holds | 0.2 " in tables.real_models()
    assert tables.real_models_sentence() == (
        "A run of 2026-01-02 03:04 UTC is committed: 120 minutes on NVIDIA H200 "
        "(a CPU, 16 cores), commit abc123, torch 2.8.0, transformers 5.1."
    )


def test_the_modules_that_changed_since_are_named(monkeypatch):
    monkeypatch.setattr(results, "code_hashes", lambda names: {names[0]: "new"})
    result = {"code": {"mipo.a": "old", "mipo.b": "new"}}
    assert results.outdated(result) == ["mipo.a"]
