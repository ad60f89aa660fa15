"""What several test files share: the chain, a small project of two notebooks, and a notebook run."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

# nbformat and papermill are imported where they are used: two seconds, which the
# fast tests of the book's sources need not wait for
ROOT = Path(__file__).resolve().parents[1]


def chain(*arguments, root=ROOT, **more):
    """python -m mipo_study.book.run, as make calls it."""
    return subprocess.run(
        [sys.executable, "-m", "mipo_study.book.run", *arguments],
        env={**os.environ, "MIPO_ROOT": str(root)},
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
        **more,
    )


def environment(**more):
    """os.environ without what this `make test` was called with, which is not for another make."""
    ours = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "ARGS", "JOBS", "SCALE", "DRY")
    return {k: v for k, v in os.environ.items() if k not in ours} | more


PARAMETERS = """run_dir = "runs/hand"  # where results go
scale = "hand"
beta = 0.5  # 1/nats
steps = 3
seeds = [0, 1]
model = None
threads = 1"""
START = """import sys
import time
import matplotlib
matplotlib.use("agg")
import matplotlib.pyplot as plt
from mipo import files, record
nb = record.Notebook("NAME", run_dir=run_dir, scale=scale)
print("to", "stderr", file=sys.stderr)
"""
RUN = """def make(folder):
    (folder / "x.txt").write_text("half")
    if not (files.project_root() / "quick").exists():
        time.sleep(60)
    return {"a": beta}
r = record.run_or_load(run_dir, "slow", {"beta": beta}, make, code=["mipo.files"])"""
FIGURE = """fig, ax = plt.subplots()
ax.plot([1, 2])
nb.figure(fig, "line", alt="A line [straight] from 1 to 2", shows=f"It rises; $\\\\beta$ is {beta}.")"""
CLAIM = (
    'nb.number("beta", beta, "1/nats")\n'
    'nb.claim("%s", value=beta, region=(0, None), unit="1/nats", figure="line")'
)

INDEX = """# Index

{{ claims_summary() }} Beta is {{ number("01-first/beta") }}, {{ number("01-first/beta", "percent") }}; {{ number("02-second/none") }}.
See [the second](../notebooks/02-second.ipynb) and [a third](../notebooks/03-third.ipynb).

{{ claims() }}

{{ figure("01-first/line") }}

{{ times() }}

{{ versions() }}

```{bibliography}
:cited:
```
"""


def notebook(name, slug, *, need=None, extra=""):
    from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

    cells = [
        new_markdown_cell(f"# What is {name}?\n\nWords."),
        new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}),
        new_code_cell(START.replace("NAME", name) + extra),
        new_code_cell(RUN),
        new_code_cell(f'nb.need("{need}", "thing").name' if need else "1 + 1"),
        new_code_cell('nb.artifact("thing", r.path / "x.txt").name'),
        new_code_cell(FIGURE),
        new_code_cell(CLAIM % slug, metadata={"tags": [f"claim-{slug}"]}),
        new_code_cell("nb.close().name"),
    ]
    book = new_notebook(cells=cells)
    book.metadata["kernelspec"] = {
        "name": "python3",
        "display_name": "Python 3",
        "language": "python",
    }
    return book


def small_project(where):
    """Two notebooks, the second needs the first; this project's own Snakefile and book configuration."""
    import nbformat

    for folder in ("notebooks", "configs", "book"):
        (where / folder).mkdir(parents=True)
    for file in ("Snakefile", "_config.yml"):
        shutil.copy(ROOT / file, where / file)
    shutil.copytree(ROOT / "book" / "_static", where / "book" / "_static")
    shutil.copy(ROOT / "book" / "references.bib", where / "book" / "references.bib")
    nbformat.write(
        notebook("01-first", "c01-one"), where / "notebooks" / "01-first.ipynb"
    )
    nbformat.write(
        notebook("02-second", "c02-two", need="01-first"),
        where / "notebooks" / "02-second.ipynb",
    )
    (where / "configs" / "laptop.yml").write_text(
        "01-first:\n  beta: 0.7\n02-second:\n  beta: 1\n"
    )
    (where / "book" / "claims.yml").write_text(
        "- {slug: c01-one, claim: One., who: a, kind: finding, notebook: 01-first}\n"
        "- {slug: c02-two, claim: Two., who: b, kind: finding, notebook: 02-second}\n"
        "- {slug: c03-three, claim: Three., who: b, kind: finding, open: 03 third}\n"
    )
    (where / "book" / "index.md").write_text(INDEX)
    (where / "_toc.yml").write_text(
        "format: jb-book\nroot: book/index\nparts:\n- caption: A\n  chapters:\n  - file: notebooks/01-first\n"
        "  - file: notebooks/02-second\n  - file: notebooks/03-third\n"
    )
    return where


def run_notebook(name, folder, **parameters):
    """Execute a notebook with these parameters by papermill; its results as a dict."""
    import papermill

    papermill.execute_notebook(
        str(ROOT / "notebooks" / f"{name}.ipynb"),
        str(folder / f"{name}.ipynb"),
        cwd=str(ROOT),
        progress_bar=False,
        parameters={"run_dir": str(folder / "run"), **parameters},
        request_save_on_cell_execute=False,  # as long as the work, in a small one
    )
    return results_of(name, folder)


def run_cells(name, folder, **parameters):
    """A notebook's cells in this process, in a shell of their own; what they show as Markdown.

    As `run_notebook`, but an error in a cell is raised as it is, and a kernel's start
    and imports, ten seconds, are spared.
    """
    from IPython.core.interactiveshell import InteractiveShell
    from IPython.utils.capture import capture_output
    from papermill.iorw import load_notebook_node
    from papermill.parameterize import parameterize_notebook
    from traitlets.config import Config

    book = load_notebook_node(str(ROOT / "notebooks" / f"{name}.ipynb"))
    given = {"run_dir": str(folder / "run"), **parameters}
    book = parameterize_notebook(book, given)
    quiet = Config({"HistoryManager": {"enabled": False}})
    shell = InteractiveShell.instance(config=quiet)
    try:
        with contextlib.chdir(ROOT), capture_output() as shown:
            for cell in book.cells:
                if cell.cell_type == "code":
                    shell.run_cell(cell.source, store_history=True).raise_error()
    finally:
        InteractiveShell.clear_instance()
    return "\n".join(output.data.get("text/markdown", "") for output in shown.outputs)


def results_of(name, folder):
    """What the notebook NAME wrote when it ran in `folder`."""
    file = folder / "run" / "results" / f"{name}.json"
    return json.loads(file.read_text(encoding="utf-8"))
