"""Stages the executed notebooks and the prose, then builds the book from them with warnings as errors."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from mipo.files import dumps, project_root, read_json, write_whole
from mipo_study.book import fill
from mipo_study.book.plan import Step


BOOK = Path(__file__).parent
LIVE_CODE = re.compile(
    r"\s*<script[^>]*(?:>const THEBE_JS_URL[^<]*| src=\"[^\"]*sphinx-thebe[^\"]*\">)</script>"
)


def index_page(scale: str) -> Path:
    return Path(f"runs/{scale}/book/_build/html/index.html")


def unlink_absent(text: str, absent: set[str]) -> str:
    """A link to a page of the book that this scale does not have becomes plain words; other dead links stay errors."""

    def replace(match: re.Match) -> str:
        return match.group(1) if Path(match.group(2)).stem in absent else match.group(0)

    return re.sub(r"\[([^\]]+)\]\(([^)#\s]+\.(?:ipynb|md))(?:#[^)]*)?\)", replace, text)


# ---- notebooks ----


def provenance_line(result: dict) -> str:
    """Scale, commit, date, minutes and kind of machine, under the title of every notebook page."""
    changed = " with uncommitted changes" if result["dirty"] else ""
    return (
        f"[This run: scale {result['scale']}, commit {result['commit']}{changed}, {result['date']}, "
        f"{result['seconds_cold'] / 60:.1f} minutes on {result['machine']}.]{{.provenance}}"
    )


def footer(results: list[dict]) -> str:
    """The same for the whole book, under every page."""
    if not results:
        return ""
    last = max(results, key=lambda result: result["date"])
    minutes = sum(result["seconds_cold"] for result in results) / 60
    return (
        f'<div class="provenance">Built from a run at scale {last["scale"]}: commit {last["commit"]}, '
        f"{last['date']}, {minutes:.0f} minutes in all on {last['machine']}.</div>"
    )


def titled(source: str, line: str) -> str:
    """Put a line under the first heading."""
    return re.sub(
        r"\A(\s*#\s[^\n]*\n?)",
        lambda m: f"{m.group(1).rstrip()}\n\n{line}\n\n",
        source,
        count=1,
    )


def split_outputs(cell: Any, figures: Path, name: str) -> list[Any]:
    """A code cell followed by its figures as images with alt text, and by what was printed after them.

    Figures become Markdown images because an output cannot carry an alt text of its own.
    """
    from nbformat.v4 import new_code_cell, new_markdown_cell

    cells, current = [cell], cell
    hidden = {"hide-cell", "remove-cell", "hide-output", "remove-output"} & set(
        cell.metadata.get("tags", [])
    )
    outputs, cell.outputs = cell.outputs, []
    for output in outputs:
        if output.output_type == "stream" and output.name == "stderr":
            continue
        about = output.get("metadata", {}).pop("mipo", None)
        data = output.get("data", {})
        if (
            about and hidden
        ):  # stays folded with its cell: one alt text for the cell's images
            cell.metadata["mystnb"] = {"image": {"alt": about["alt"]}}
        if about and not hidden:
            text = data["image/svg+xml"]
            write_whole(
                figures / about["file"],
                text if isinstance(text, str) else "".join(text),
            )
            label = f"fig-{Path(about['file']).stem}"
            cells.append(
                new_markdown_cell(
                    f"({label})=\n{fill.image('../figures/' + about['file'], about['alt'])}"
                )
            )
            current = None
        elif current is None and "text/markdown" in data:
            cells.append(new_markdown_cell("".join(data["text/markdown"])))
        else:
            if current is None:
                current = new_code_cell("", metadata={"tags": ["remove-input"]})
                cells.append(current)
            current.outputs.append(output)
    return cells


def stage_notebook(step: Step, target: Path, absent: set[str]) -> None:
    """Copy an executed notebook without what the runner wrote into it."""
    import nbformat
    from nbformat.v4 import new_markdown_cell

    book = nbformat.read(step.output, as_version=4)
    result = read_json(step.result)
    cells = []
    for cell in book.cells:
        tags = [
            tag
            for tag in cell.metadata.get("tags", [])
            if tag != "papermill-error-cell-tag"
        ]
        if "injected-parameters" in tags:
            tags.append("hide-input")
        keep = {
            key: value
            for key, value in cell.metadata.items()
            if key in ("mystnb", "slideshow")
        }
        if cell.cell_type == "markdown":
            cell.source = unlink_absent(cell.source, absent)
        cell.metadata = nbformat.from_dict({**keep, **({"tags": tags} if tags else {})})
        for tag in tags:
            if tag.startswith("claim-"):
                cells.append(new_markdown_cell(f"({tag})="))
        cells += (
            split_outputs(cell, target / "figures", step.name)
            if cell.cell_type == "code"
            else [cell]
        )
    if cells and cells[0].cell_type == "markdown":
        cells[0].source = titled(cells[0].source, provenance_line(result))
    book.cells = cells
    book.metadata = nbformat.from_dict(
        {
            key: book.metadata[key]
            for key in ("kernelspec", "language_info")
            if key in book.metadata
        }
    )
    write_whole(target / "notebooks" / f"{step.name}.ipynb", nbformat.writes(book))


# ---- the tree ----


def read_toc() -> dict:
    import yaml

    return yaml.safe_load((project_root() / "_toc.yml").read_text(encoding="utf-8"))


def toc_of(target: Path) -> dict:
    """_toc.yml without the pages that this scale does not have."""
    toc = read_toc()

    def there(chapter: dict) -> bool:
        return any(
            (target / f"{chapter['file']}{end}").exists() for end in (".md", ".ipynb")
        )

    for part in toc["parts"]:
        part["chapters"] = [chapter for chapter in part["chapters"] if there(chapter)]
    toc["parts"] = [part for part in toc["parts"] if part["chapters"]]
    return toc


def stage(scale: str, plan: dict[str, Step]) -> Path:
    """Lay out runs/<scale>/book like the repository: prose filled with numbers, executed notebooks, figures."""
    import yaml

    root, target = project_root(), project_root() / "runs" / scale / "book"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(root / "book", target / "book")
    config = yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8"))
    options = config["sphinx"]["config"]["html_theme_options"]
    options["extra_footer"] = footer(
        [read_json(root / step.result) for step in plan.values()]
    )
    write_whole(target / "_config.yml", yaml.safe_dump(config, sort_keys=False))
    if (root / "results" / "full" / "figures").exists():
        shutil.copytree(root / "results" / "full" / "figures", target / "published")
    for figure in (root / "runs" / scale / "results" / "figures").glob("*.svg"):
        write_whole(target / "figures" / figure.name, figure.read_bytes())
    absent = {
        Path(chapter["file"]).stem
        for part in read_toc()["parts"]
        for chapter in part["chapters"]
        if chapter["file"].startswith("notebooks/")
    } - set(plan)
    for step in plan.values():
        stage_notebook(step, target, absent)
    results = fill.best_results(scale)
    staged = {
        step.name: set(read_json(root / step.result)["figures"])
        for step in plan.values()
    }
    for page in sorted((target / "book").rglob("*.md")):
        name = str(page.relative_to(target))
        text = fill.fill(
            page.read_text(encoding="utf-8"),
            results,
            page=name,
            scale=scale,
            staged=staged,
        )
        page.write_text(unlink_absent(text, absent), encoding="utf-8")
    write_whole(target / "_toc.yml", yaml.safe_dump(toc_of(target), sort_keys=False))
    return target


def content(scale: str, plan: dict[str, Step]) -> str:
    """A hash of everything the book is made of."""
    root = project_root()
    files = [
        root / "_config.yml",
        root / "_toc.yml",
        BOOK / "stage.py",
        BOOK / "fill.py",
        *(root / "book").rglob("*"),
        *(root / "results" / "full").rglob("*"),
        *(root / step.output for step in plan.values()),
        *(root / step.result for step in plan.values()),
    ]
    digest = hashlib.sha256()
    for file in sorted(f for f in files if f.is_file()):
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def up_to_date(scale: str, plan: dict[str, Step]) -> bool:
    marker = project_root() / "runs" / scale / "book.json"
    return (
        marker.exists()
        and (project_root() / index_page(scale)).exists()
        and read_json(marker)["content"] == content(scale, plan)
    )


def build(scale: str, plan: dict[str, Step]) -> Path:
    """Run Jupyter Book over the staged tree; its warnings end the build and are shown."""
    root = project_root()
    before = content(scale, plan)
    target = stage(scale, plan)
    command = [
        sys.executable,
        "-c",
        "from jupyter_book.cli.main import main; main()",
        "build",
        f"runs/{scale}/book",
        "-W",
        "--keep-going",
        "-n",
    ]
    done = subprocess.run(
        command, cwd=root, capture_output=True, text=True, check=False
    )
    log = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr)
    write_whole(root / "runs" / scale / "book.log", log)
    index = root / index_page(scale)
    if done.returncode or not index.exists():
        wrong = [
            line.replace(f"{target}/", "")
            for line in log.splitlines()
            if re.search("WARNING|ERROR|Error", line)
        ]
        raise ValueError(
            f"the book was not built (all of it in runs/{scale}/book.log):\n"
            + "\n".join(wrong[:30])
        )
    for page in index.parent.rglob(
        "*.html"
    ):  # live code would be fetched from another host; it is off
        page.write_text(
            LIVE_CODE.sub("", page.read_text(encoding="utf-8")), encoding="utf-8"
        )
    write_whole(root / "runs" / scale / "book.json", dumps({"content": before}))
    return index
