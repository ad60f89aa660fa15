"""README: its numbers come from the result files; its links and commands work, the long ones at smoke scale."""

import json
import math
import re
import shlex
import subprocess
import sys

import pytest
from building import ROOT

from mipo.numbers import Number, interval_of
from mipo_study.book import compare, fill

README = (ROOT / "README.md").read_text(encoding="utf-8")
PROSE = [ROOT / "README.md", *sorted((ROOT / "book").glob("*.md"))]


def commands(text):
    """The lines of the bash blocks, without their comments."""
    lines = "\n".join(re.findall(r"```bash\n(.*?)```", text, re.S)).splitlines()
    return [
        line.split("  #")[0].strip()
        for line in lines
        if line.strip() and not line.startswith("#")
    ]


def test_readme_is_made_from_its_template_and_the_published_results():
    assert fill.readme() == README, "run: python -m mipo_study.book.fill"
    template = (ROOT / fill.README).read_text(encoding="utf-8")
    typed = re.findall(r"\d+(?:\.\d+)? (?:points|nats)\b", template)
    assert not typed, "a typed result"


def test_links_and_images_are_there():
    published = (ROOT / "results" / "full" / "06-mipo-training.json").exists()
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if not target.startswith("http") and (
            published or not target.startswith("results/")
        ):
            assert (ROOT / target).exists(), target
    assert all(len(alt.split()) > 3 for alt in re.findall(r"!\[([^\]]*)\]", README))


def test_first_screen_has_question_figure_answer_commands_and_three_ways():
    first = README.split("## What is here")[0]
    order = [
        "**Can a",
        "![",
        "**The answer",
        "make book ",
        "minutes",
        "**Read**",
        "**Rerun**",
        "**Teach**",
    ]
    places = [first.index(word) for word in order]
    assert places == sorted(places)


@pytest.mark.parametrize("file", PROSE, ids=lambda file: file.name)
def test_make_targets_and_notebooks_in_the_prose_exist(file):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    text = file.read_text(encoding="utf-8")
    for target in re.findall(
        r"`?make ([a-z]+)[ `]",
        "\n".join(commands(text) + re.findall(r"`make [^`]+`", text)),
    ):
        assert re.search(rf"^{target}:", makefile, re.M), target
    for name in re.findall(r"papermill notebooks/(\S+)\.ipynb", text):
        assert (ROOT / "notebooks" / f"{name}.ipynb").exists(), name


@pytest.mark.long
def test_papermill_lines_of_the_theory_pages_run(tmp_path):
    """Chapter 1 with all the options that the lines give, in one run."""
    lines = {
        line
        for file in PROSE
        for line in commands(file.read_text(encoding="utf-8"))
        if line.startswith("papermill notebooks/01")
    }
    options = [word for line in lines for word in shlex.split(line)[3:]]
    assert options
    start, out = ["papermill", "notebooks/01-information.ipynb"], tmp_path / "out.ipynb"
    assert all(shlex.split(line)[:2] == start for line in lines)
    small = f"-p run_dir {tmp_path} -p seeds 3 -p critics 2 --no-progress-bar"
    command = [sys.executable, "-m", *start, str(out), *options, *small.split()]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert out.exists()


@pytest.mark.parametrize(
    "mine, published, word",
    [
        ((0.5, 0.4, 0.6, 3), (0.5, 0.4, 0.6, 3), "inside"),
        ((0.64, None, None, 3), (0.5, 0.4, 0.6, 3), "inside"),  # 0.5 ± 0.1 · √2
        ((0.65, None, None, 3), (0.5, 0.4, 0.6, 3), "outside"),
        ((0.69, None, None, 1), (0.5, 0.4, 0.6, 3), "inside"),  # 0.5 ± 0.1 · √4
        ((0.29, None, None, 1), (0.5, 0.4, 0.6, 3), "outside"),
        ((0.5004, 0.5004, 0.5004, 1), (0.5, 0.5, 0.5, 1), "inside"),
        ((0.51, 0.51, 0.51, 1), (0.5, 0.5, 0.5, 1), "outside"),
        ((0.5, 0.4, 0.6, 3), (0.5, None, None, 1), "no interval"),
    ],
)
def test_verdicts(mine, published, word):
    numbers = (Number(*one, values=[]) for one in (mine, published))
    assert compare.verdict(*numbers) == word


def test_where_a_new_seed_is_expected_by_the_formula_of_prediction():
    """Seeds 1, 2, 6: mean 3, s² = 7, and t of two degrees of freedom is 4.3027."""
    published = interval_of([1.0, 2.0, 6.0])
    half = 4.30265 * math.sqrt(7) * math.sqrt(1 / 3 + 1 / 2)
    low, high = compare.expected(interval_of([0.0, 0.0]), published)
    assert (low, high) == pytest.approx((3 - half, 3 + half), abs=1e-4)


def test_compare_names_what_is_older_than_its_code(tmp_path, monkeypatch):
    monkeypatch.setenv("MIPO_ROOT", str(tmp_path))
    number = {
        "mean": 0.5,
        "low": 0.4,
        "high": 0.6,
        "n": 3,
        "values": [0.4, 0.5, 0.6],
        "unit": "nats",
        "note": "",
    }
    for folder, mean in (("runs/laptop/results", 0.55), ("results/full", 0.5)):
        (tmp_path / folder).mkdir(parents=True)
        kept = {
            "numbers": {"mi": number | {"mean": mean}},
            "date": "2026-01-01",
            "code": {"mipo.losses": "old"},
        }
        (tmp_path / folder / "01-one.json").write_text(json.dumps(kept))
    text = compare.compare("laptop")
    assert "older than the code it used: mipo.losses" in text
    assert re.search(
        r"mi +0\.55 \[0\.4, 0\.6\] nats +expected +\[0\.359, 0\.641\] nats +inside",
        text,
    )
    with pytest.raises(ValueError, match="make book SCALE=full"):
        compare.compare("full")
