"""The build: foreign text is shown and never obeyed; old addresses lead to the new."""

import json

import nbformat
import pytest
from bs4 import BeautifulSoup
from building import ROOT, chain, notebook, small_project
from nbformat.v4 import new_code_cell, new_output

from mipo_study.book import plan, stage

pytestmark = pytest.mark.long

SECRET = "the-secret-of-this-machine"
HOSTILE = """
Before <script>document.title = "broken in"</script> after <b onclick="x()">bold</b>

<script>document.title = "broken in"</script>

<div><img src=x onerror="document.title=1"></div>

```{{raw}} html
:file: {secret}
```

```{{raw}} html
<script>document.title = "broken in"</script>
```

~~~{{csv-table}} Table
:file: {secret}
~~~

:::{{raw}} html
<script>document.title = "broken in"</script>
:::

> ```{{include}} {secret}
> ```

```{{literalinclude}} ../../../../../../../../../../../..{secret}
```

```{{eval-rst}}
.. raw:: html
   :file: {secret}

.. include:: {secret}

.. csv-table:: T
   :file: {secret}
```

{{raw-html}}`<script>document.title = "broken in"</script>` {{download}}`x <{secret}>`
"""


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """The page of a notebook that prints HOSTILE, as Markdown and as plain text."""
    root = small_project(tmp_path_factory.mktemp("hostile") / "project")
    (root / "quick").touch()
    secret = root / "secret.txt"
    secret.write_text(f"{SECRET}\n")
    text = json.dumps(HOSTILE.format(secret=secret))
    book = notebook("01-first", "c01-one")
    after_a_figure = new_code_cell(
        f"nb.figure(plt.figure(), 'f', alt='An empty one')\nnb.say({text})"
    )
    cells = [new_code_cell(f"nb.say({text})"), new_code_cell(f"print({text})")]
    book.cells[-1:-1] = [*cells, after_a_figure]
    nbformat.write(book, root / "notebooks" / "01-first.ipynb")
    config = root / "configs" / "laptop.yml"
    config.write_text("01-first:\n  beta: 0.7\n")
    done = chain("book", root=root)
    assert done.returncode == 0, done.stdout + done.stderr
    html = root / "runs" / "laptop" / "book" / "_build" / "html"
    return html


def test_no_script_of_an_output_is_alive(hostile):
    text = (hostile / "notebooks" / "01-first.html").read_text(encoding="utf-8")
    page = BeautifulSoup(text, "html.parser")
    scripts = [str(script) for script in page.find_all("script")]
    assert not [script for script in scripts if "broken in" in script]
    assert not page.find_all(attrs={"onerror": True})
    assert not page.find_all(attrs={"onclick": "x()"})
    shown = page.find("article").get_text()
    assert shown.count('<script>document.title = "broken in"</script>') >= 3


def test_no_file_of_this_machine_is_in_the_book(hostile):
    files = [file for file in hostile.rglob("*") if file.is_file()]
    assert not [file for file in files if SECRET.encode() in file.read_bytes()]


def test_pages_of_ours_may_not_use_raw_html_or_files_either(hostile):
    """What stage.harmless lets through, docutils refuses: -W then stops the build."""
    conf = (hostile.parents[1] / "docutils.conf").read_text()
    assert "raw_enabled: false" in conf and "file_insertion_enabled: false" in conf
    root = hostile.parents[4]
    page = root / "book" / "index.md"
    page.write_text("# Index\n\n```{raw} html\n<script>1</script>\n```\n")
    done = chain("book", root=root)
    assert done.returncode
    assert '"raw" directive disabled' in done.stderr


@pytest.mark.parametrize(
    "text, shown",
    [
        ("```{raw} html", "```text html"),
        ("> ~~~~ {csv-table}", "> ~~~~text"),
        (":::{note}", ":::text"),
        ("{ref}`x`", "&#123;ref}`x`"),
        ("a {b} `c` $x_{i}$", "a {b} `c` $x_{i}$"),
        ("| a | `{1}` |", "| a | `{1}` |"),
    ],
)
def test_directives_and_roles_become_text(text, shown):
    assert stage.harmless(text) == shown


def test_an_old_address_leads_to_the_new_page(tmp_path):
    html = tmp_path / "html"
    (html / "notebooks").mkdir(parents=True)
    (html / "notebooks" / "12-cost.html").write_text("<p>Cost</p>")
    stage.finish(html)
    text = (html / "notebooks" / "11-cost.html").read_text()
    page = BeautifulSoup(text, "html.parser")
    refresh = page.find("meta", attrs={"http-equiv": "refresh"})
    assert refresh["content"] == "0; url=12-cost.html"
    assert page.find("link", rel="canonical")["href"] == "12-cost.html"
    assert page.find("a")["href"] == "12-cost.html"
    # a page that this scale does not have has no forwarding page either
    assert not (html / "notebooks" / "14-scaling.html").exists()


def test_every_new_address_is_a_page_and_no_old_one_is():
    pages = (ROOT / "_toc.yml").read_text(encoding="utf-8").split()
    for old, new in stage.MOVED.items():
        assert new in pages
        assert old not in pages


def test_a_page_that_was_changed_is_built_again(hostile, monkeypatch):
    root = hostile.parents[4]
    monkeypatch.setenv("MIPO_ROOT", str(root))
    steps = plan.steps("laptop")
    content = stage.content("laptop", steps)
    marker = {"content": content, "pages": stage.pages_digest("laptop")}
    (root / "runs" / "laptop" / "book.json").write_text(json.dumps(marker))
    assert stage.up_to_date("laptop", steps)
    page = hostile / "notebooks" / "01-first.html"
    page.write_text(page.read_text() + " ")
    assert not stage.up_to_date("laptop", steps)


def figure_output(name, alt="What is to be seen"):
    about = {"alt": alt, "file": f"{name}.svg"}
    return new_output(
        "display_data", {"image/svg+xml": "<svg/>"}, metadata={"mipo": about}
    )


def said(text):
    return new_output("display_data", {"text/markdown": text})


def test_the_tagged_figure_opens_the_page():
    outputs = [said("first"), figure_output("01-f"), said("It shows 3. ```{raw} html")]
    tagged = new_code_cell("", outputs=outputs, metadata={"tags": ["lead-figure"]})
    other = new_code_cell("", outputs=[figure_output("01-other")])
    figure = stage.lead([other, tagged])
    assert "../figures/01-f.svg" in figure and '"What is to be seen"' in figure
    assert "It shows 3. ```text html [How it is made](#fig-01-f)" in figure
    page = "# Title\n\n**Question.** Why\nso?\n\n**Needs** time.\n"
    parts = stage.opened(page, figure).split("\n\n")
    assert parts[1] == "**Question.** Why\nso?" and parts[2].startswith("```{image}")
    assert parts[-1] == "**Needs** time.\n"


def test_a_figure_that_was_not_made_opens_nothing():
    tagged = new_code_cell("", metadata={"tags": ["lead-figure"]})
    assert stage.lead([tagged]) == ""
    page = "# Title\n\n**Question.** Why?\n"
    assert stage.opened(page, "") == page


@pytest.mark.parametrize(
    "name, label", [("06-own", "claim-c06-x"), ("14-other", "claim-14-c06-x")]
)
def test_two_chapters_with_one_claim_have_two_labels(
    tmp_path, monkeypatch, name, label
):
    monkeypatch.chdir(tmp_path)
    step = plan.Step(name, "laptop", {}, {})
    cells = [
        new_code_cell("1"),
        new_code_cell("2", metadata={"tags": ["claim-c06-x"]}),
        new_code_cell("3", metadata={"tags": ["claim-not-on-the-map"]}),
    ]
    (tmp_path / step.output).parent.mkdir(parents=True)
    nbformat.write(nbformat.v4.new_notebook(cells=cells), step.output)
    stage.stage_notebook(step, tmp_path / "book", set(), {"c06-x": "06-own"})
    page = nbformat.read(tmp_path / "book" / "notebooks" / f"{name}.ipynb", 4)
    texts = [cell.source for cell in page.cells]
    assert texts == ["1", f"({label})=", "2", "(claim-not-on-the-map)=", "3"]


def test_injected_parameters_stand_with_the_defaults():
    cells = [
        new_code_cell("beta = 0.1", metadata={"tags": ["parameters"]}),
        new_code_cell("# Parameters\nbeta = 1.0", metadata={"tags": [stage.INJECTED]}),
        new_code_cell("beta"),
    ]
    first, last = stage.one_parameters_cell(cells)
    assert first.source == "beta = 0.1\n\n# set by this run\nbeta = 1.0"
    assert last.source == "beta"
