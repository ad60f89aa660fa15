"""Stages the executed notebooks and the prose, then builds the book from them.

Warnings are errors. Text that a notebook prints may be anybody's: in it no HTML, no
directive and no role is obeyed (see `harmless`, `DOCUTILS` and _config.yml).
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mipo.files import dumps, project_root, unseal, write_whole
from mipo_study.book import fill
from mipo_study.book.plan import Step, file_digest, read_or_empty
from mipo_study.book.results import best_results, claim_label, load_claims

LIVE_CODE = re.compile(
    r"\s*<script[^>]*"
    r"(?:>const THEBE_JS_URL[^<]*| src=\"[^\"]*sphinx-thebe[^\"]*\">)</script>"
)
DOCUTILS = "[general]\nraw_enabled: false\nfile_insertion_enabled: false\n"
DIRECTIVE = re.compile(r"([`~:]{3,})[ \t]*\{[^}\n]*\}")
ROLE = re.compile(r"\{([A-Za-z][\w:.+-]*)\}(?=`)")
# Addresses of the first edition, and what they are called now.
MOVED = {
    "notebooks/10-tuning-free": "notebooks/11-tuning-free",
    "notebooks/11-cost": "notebooks/12-cost",
    "notebooks/12-real-people": "notebooks/13-real-people",
    "notebooks/13-real-models": "notebooks/15-gpu-models",
    "notebooks/14-scaling": "notebooks/16-scaling",
    "book/add-a-method": "book/contributing",
    "book/log": "book/changelog",
}
PAGES_OF_THE_ROOT = ("CHANGELOG.md", "CONTRIBUTING.md")
LEAD = "lead-figure"  # tag of the cell whose figure opens the page
INJECTED = "injected-parameters"


def index_page(scale: str) -> Path:
    """The book's first page, as seen from the project's root."""
    return Path(f"runs/{scale}/book/_build/html/index.html")


def unlink_absent(text: str, absent: set[str]) -> str:
    """A link to a page that this scale does not have becomes plain words.

    Other dead links stay errors.
    """

    def replace(match: re.Match) -> str:
        return match.group(1) if Path(match.group(2)).stem in absent else match.group(0)

    return re.sub(r"\[([^\]]+)\]\(([^)#\s]+\.(?:ipynb|md))(?:#[^)]*)?\)", replace, text)


# ---- notebooks ----


def provenance_line(result: dict) -> str:
    """Scale, commit, date, minutes and machine, under the title of a notebook."""
    changed = " with uncommitted changes" if result["dirty"] else ""
    return (
        f"[This run: scale {result['scale']}, commit {result['commit']}{changed}, "
        f"{result['date']}, {result['seconds_cold'] / 60:.1f} minutes on "
        f"{result['machine']}.]{{.provenance}}"
    )


def footer(results: list[dict]) -> str:
    """The same for the whole book, under every page."""
    if not results:
        return ""
    last = max(results, key=lambda result: result["date"])
    minutes = sum(result["seconds_cold"] for result in results) / 60
    return (
        f'<div class="provenance">Built from a run at scale {last["scale"]}: '
        f"commit {last['commit']}, {last['date']}, {minutes:.0f} minutes in all on "
        f"{last['machine']}.</div>"
    )


def titled(source: str, line: str) -> str:
    """Put a line under the first heading."""
    heading = re.match(r"\s*#\s[^\n]*", source)
    if not heading:
        return source
    return f"{heading.group().rstrip()}\n\n{line}\n\n{source[heading.end() :].lstrip()}"


def lead(cells: Iterable[Any]) -> str:
    """The figure that opens the page, what it shows, and where it is made.

    Empty where the tagged cell made none in this run.
    """
    for cell in cells:
        if LEAD not in cell.metadata.get("tags", []):
            continue
        outputs = cell.get("outputs", [])
        for output, after in zip(outputs, [*outputs[1:], {}], strict=False):
            about = output.get("metadata", {}).get("mipo")
            if about:
                image = fill.image(f"../figures/{about['file']}", about["alt"])
                shows = "".join(after.get("data", {}).get("text/markdown", ""))
                link = f"[How it is made](#fig-{Path(about['file']).stem})"
                return f"{image}\n\n{harmless(shows)} {link}"
    return ""


def opened(source: str, figure: str) -> str:
    """Put the opening figure under the question, the page's first paragraph."""
    if not figure:
        return source
    paragraphs = source.split("\n\n")
    bold = (i for i, text in enumerate(paragraphs) if text.startswith("**Question.**"))
    place = next(bold, 0) + 1  # without a question: under the title
    return "\n\n".join([*paragraphs[:place], figure, *paragraphs[place:]])


def one_parameters_cell(cells: Iterable[Any]) -> list[Any]:
    """What the runner injected, in one cell with the defaults that it replaces."""
    joined: list[Any] = []
    for cell in cells:
        if INJECTED in cell.metadata.get("tags", []) and joined:
            values = cell.source.removeprefix("# Parameters\n")
            joined[-1].source += f"\n\n# set by this run\n{values}"
        else:
            joined.append(cell)
    return joined


def harmless(text: str) -> str:
    """Markdown that a notebook printed, without directives and roles."""
    text = DIRECTIVE.sub(r"\1text", text)
    return ROLE.sub(r"&#123;\1}", text)


def figure_cell(output: Any, figures: Path) -> Any:
    """A figure as an image with an alt text, which an output cannot carry."""
    from nbformat.v4 import new_markdown_cell

    about = output.metadata["mipo"]
    write_whole(figures / about["file"], "".join(output.data["image/svg+xml"]))
    label = f"(fig-{Path(about['file']).stem})="
    image = fill.image(f"../figures/{about['file']}", about["alt"])
    return new_markdown_cell(f"{label}\n{image}")


def split_outputs(cell: Any, figures: Path) -> list[Any]:
    """A code cell, its figures as images, and what was printed after each of them."""
    from nbformat.v4 import new_code_cell, new_markdown_cell

    hiding = {"hide-cell", "remove-cell", "hide-output", "remove-output"}
    hidden = hiding & set(cell.metadata.get("tags", []))
    cells, outputs, cell.outputs = [cell], cell.outputs, []
    for output in outputs:
        data, last = output.get("data", {}), cells[-1]
        if output.output_type == "stream" and output.name == "stderr":
            continue
        if "text/markdown" in data:
            data["text/markdown"] = harmless("".join(data["text/markdown"]))
        about = output.get("metadata", {}).get("mipo")
        if about and not hidden:
            cells.append(figure_cell(output, figures))
            continue
        if about:  # folded with its cell: one alt text for the cell's images
            output.metadata.pop("mipo")
            cell.metadata["mystnb"] = {"image": {"alt": about["alt"]}}
        if last.cell_type == "markdown" and "text/markdown" in data:
            cells.append(new_markdown_cell(data["text/markdown"]))
            continue
        if last.cell_type == "markdown":
            cells.append(new_code_cell("", metadata={"tags": ["remove-input"]}))
        cells[-1].outputs.append(output)
    return cells


def cleaned(cell: Any) -> Any:
    """A cell without what the runner wrote into it."""
    import nbformat

    tags = [t for t in cell.metadata.get("tags", []) if t != "papermill-error-cell-tag"]
    kept = {key: cell.metadata[key] for key in ("mystnb",) if key in cell.metadata}
    if tags:
        kept["tags"] = tags
    cell.metadata = nbformat.from_dict(kept)
    return cell


def labels_of(cell: Any, chapter: str, homes: Mapping[str, str]) -> list[str]:
    """Labels of the claims that a cell of a chapter measures.

    Parameters
    ----------
    cell : notebook cell
        Tagged claim-<slug>.
    chapter : str
        The notebook that has it.
    homes : dict
        {slug: the claim's own notebook}.
    """
    tags = [t for t in cell.metadata.get("tags", []) if t.startswith("claim-")]
    slugs = [tag.removeprefix("claim-") for tag in tags]
    return [claim_label(slug, chapter, homes.get(slug, chapter)) for slug in slugs]


def stage_notebook(
    step: Step, target: Path, absent: set[str], homes: Mapping[str, str]
) -> None:
    """Copy an executed notebook as a page: anchors, figures, provenance.

    Parameters
    ----------
    step : Step
        That has run.
    target : Path
        Root of the staged tree.
    absent : set of str
        Notebooks that this scale does not have.
    homes : dict
        {slug: the claim's own notebook}.
    """
    import nbformat
    from nbformat.v4 import new_markdown_cell

    book: Any = nbformat.read(step.output, as_version=4)
    figure = lead(book.cells)
    cells = []
    for cell in map(cleaned, one_parameters_cell(book.cells)):
        labels = labels_of(cell, step.name, homes)
        cells += [new_markdown_cell(f"({label})=") for label in labels]
        if cell.cell_type == "code":
            cells += split_outputs(cell, target / "figures")
        else:
            cell.source = unlink_absent(cell.source, absent)
            cells.append(cell)
    if cells and cells[0].cell_type == "markdown":
        line = provenance_line(unseal(step.result))
        cells[0].source = opened(titled(cells[0].source, line), figure)
    book.cells = cells
    kept = {k: v for k, v in book.metadata.items() if k != "papermill"}
    book.metadata = nbformat.from_dict(kept)
    write_whole(target / "notebooks" / f"{step.name}.ipynb", nbformat.writes(book))


# ---- the tree ----


def read_yaml(name: str) -> dict:
    """A YAML file of the project."""
    import yaml

    return yaml.safe_load((project_root() / name).read_text(encoding="utf-8"))


def write_yaml(file: Path, content: dict) -> None:
    """Write a YAML file, its keys in their order."""
    import yaml

    write_whole(file, yaml.safe_dump(content, sort_keys=False))


def toc_of(target: Path) -> dict:
    """_toc.yml without the pages that this scale does not have."""
    toc = read_yaml("_toc.yml")

    def there(chapter: dict) -> bool:
        ends = (".md", ".ipynb", ".rst")
        return any((target / f"{chapter['file']}{end}").exists() for end in ends)

    for part in toc["parts"]:
        part["chapters"] = [chapter for chapter in part["chapters"] if there(chapter)]
    toc["parts"] = [part for part in toc["parts"] if part["chapters"]]
    return toc


def chapters_of(toc: dict) -> set[str]:
    """Names of the notebooks in a table of contents."""
    files = [chapter["file"] for part in toc["parts"] for chapter in part["chapters"]]
    return {Path(file).stem for file in files if file.startswith("notebooks/")}


def stage(scale: str, plan: Mapping[str, Step]) -> Path:
    """Lay out runs/<scale>/book like the repository, filled and ready to be built.

    Parameters
    ----------
    scale : str
        A name of `plan.SCALES`.
    plan : dict
        Its steps, all of which have run.

    Returns
    -------
    Path
        Root of the staged tree.
    """
    root, target = project_root(), project_root() / "runs" / scale / "book"
    own = {name: unseal(root / step.result) for name, step in plan.items()}
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(root / "book", target / "book")
    for page in filter(Path.exists, (root / name for name in PAGES_OF_THE_ROOT)):
        shutil.copy(page, target / "book" / page.name.lower())
    config = read_yaml("_config.yml")
    options = config["sphinx"]["config"]["html_theme_options"]
    options["extra_footer"] = footer(list(own.values()))
    write_yaml(target / "_config.yml", config)
    write_whole(target / "docutils.conf", DOCUTILS)
    published = root / "results" / "full" / "figures"
    if published.exists():
        shutil.copytree(published, target / "published")
    for figure in (root / "runs" / scale / "results" / "figures").glob("*.svg"):
        write_whole(target / "figures" / figure.name, figure.read_bytes())
    absent = chapters_of(read_yaml("_toc.yml")) - set(plan)
    homes = {c["slug"]: c["notebook"] for c in load_claims() if "notebook" in c}
    for step in plan.values():
        stage_notebook(step, target, absent, homes)
    staged = {name: set(result["figures"]) for name, result in own.items()}
    results = best_results(scale)
    for file in sorted((target / "book").rglob("*.md")):
        name = file.relative_to(target).as_posix()
        page = fill.Page(name, results, scale, staged)
        text = fill.fill(file.read_text(encoding="utf-8"), page)
        file.write_text(unlink_absent(text, absent), encoding="utf-8")
    write_yaml(target / "_toc.yml", toc_of(target))
    return target


# ---- the build ----


def digest_of(files: Iterable[Path]) -> str:
    """A hash of the files' names and contents."""
    digest = hashlib.sha256()
    for file in sorted(file for file in files if file.is_file()):
        digest.update(f"{file.name} {file_digest(file)}\n".encode())
    return digest.hexdigest()


def content(scale: str, plan: Mapping[str, Step]) -> str:
    """A hash of everything the book is made of; the API pages are made of src."""
    root = project_root()
    code = Path(__file__).parents[2]
    outputs = [Path(f) for step in plan.values() for f in (step.output, step.result)]
    return digest_of(
        [
            *(root / name for name in ("_config.yml", "_toc.yml")),
            *(root / name for name in PAGES_OF_THE_ROOT),
            *(root / file for file in outputs),
            *(root / "book").rglob("*"),
            *(root / "results").glob("*/*.json"),
            *(root / "results" / "full" / "figures").glob("*"),
            *code.rglob("*.py"),
        ]
    )


def pages_digest(scale: str) -> str:
    """A hash of the pages that were built."""
    return digest_of((project_root() / index_page(scale)).parent.rglob("*.html"))


def up_to_date(scale: str, plan: Mapping[str, Step]) -> bool:
    """Whether the book is there, untouched, and made of today's content."""
    marker = read_or_empty(project_root() / "runs" / scale / "book.json")
    if not (project_root() / index_page(scale)).exists():
        return False
    now = {"content": content(scale, plan), "pages": pages_digest(scale)}
    return marker == now


def build(scale: str, plan: Mapping[str, Step]) -> Path:
    """Stage the book and run Jupyter Book over it.

    Parameters
    ----------
    scale, plan
        See `stage`.

    Returns
    -------
    Path
        The first page.

    Raises
    ------
    ValueError
        Shows the warnings and errors that ended the build.
    """
    root = project_root()
    before = content(scale, plan)
    target = stage(scale, plan)
    # the first two: see run.execute
    command = (
        "import sys; sys.modules.setdefault('rfc3987_syntax', None); "
        "from jupyter_book.cli.main import main; main()"
    )
    options = ["build", f"runs/{scale}/book", "-W", "--keep-going", "-n"]
    done = subprocess.run(
        [sys.executable, "-c", command, *options],
        cwd=root,
        env={**os.environ, "DOCUTILSCONFIG": str(target / "docutils.conf")},
        capture_output=True,
        text=True,
        check=False,
    )
    log = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr)
    write_whole(root / "runs" / scale / "book.log", log)
    index = root / index_page(scale)
    if done.returncode or not index.exists():
        lines = [
            line for line in log.splitlines() if re.search("WARNING|[Ee]rror", line)
        ]
        wrong = "\n".join(lines[:30]).replace(f"{target}/", "")
        where = f"runs/{scale}/book.log"
        raise ValueError(f"the book was not built (all of it in {where}):\n{wrong}")
    finish(index.parent)
    marker = {"content": before, "pages": pages_digest(scale)}
    write_whole(root / "runs" / scale / "book.json", dumps(marker))
    return index


def finish(html: Path) -> None:
    """Take out what would load code from another host; forward the old addresses."""
    for page in html.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        page.write_text(LIVE_CODE.sub("", text), encoding="utf-8")
    for old, new in MOVED.items():
        if (html / f"{new}.html").exists():
            name = f"{Path(new).name}.html"
            write_whole(html / f"{old}.html", forward(name))


def forward(address: str) -> str:
    """A page that leads to another one in its folder, by itself and by a link."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="refresh" content="0; url={address}">\n'
        f'<link rel="canonical" href="{address}">\n<title>This page has moved</title>\n'
        f'</head>\n<body><p>This page has moved to <a href="{address}">{address}</a>.'
        "</p></body>\n</html>\n"
    )
