"""What every notebook keeps to: stored bare, fits the page, few parameters, simple code.

`pytest -s` prints the syntax nodes a statement of each. Think Bayes has 8 to 9 of them,
LLMs-from-scratch 11 to 13.
"""

import ast
import json
import re

import pytest
from building import ROOT, results_of, run_cells

from mipo_study.book.stage import LEAD

COLUMNS = 80  # what a page shows without scrolling
SIMPLE = 13.0  # syntax nodes a statement, on average
FEW = 12  # parameters
# Syntax nodes a statement of the notebooks that are yet to be rewritten: each number is
# an upper bound and may only fall; one that is not above SIMPLE leaves the table.
DENSE = {
    "06-mipo-training": 16.5,
    "07-personalisation": 18.4,
    "08-reasoning": 15.0,
    "09-rmipo-training": 18.2,
    "10-mi-ingredient": 16.6,
    "11-tuning-free": 16.7,
    "12-cost": 17.4,
    "13-real-people": 19.7,
    "15-gpu-models": 13.2,
    "16-scaling": 14.7,
}
EXAMPLES = (
    "01-information",
    "02-dpo-is-pmi",
    "03-gamma-decay",
    "04-small-world",
    "05-pair-synthesis",
    "18-own-users",
)
FILES = sorted((ROOT / "notebooks").glob("*.ipynb"))
BOOKS = {file.stem: json.loads(file.read_bytes()) for file in FILES}
every_notebook = pytest.mark.parametrize("name", BOOKS)


def code_cells(name):
    return [cell for cell in BOOKS[name]["cells"] if cell["cell_type"] == "code"]


def python(name):
    """The code of each cell without IPython's magics."""
    for cell in code_cells(name):
        lines = "".join(cell["source"]).splitlines()
        yield "\n".join(
            line for line in lines if not line.lstrip().startswith(("%", "!"))
        )


def density(sources):
    """Syntax nodes over statements, each statement with all that is in it."""
    every = [node for source in sources for node in ast.walk(ast.parse(source))]
    nodes = [node for node in every if not isinstance(node, ast.Module)]
    return len(nodes) / sum(isinstance(node, ast.stmt) for node in nodes)


def parameters(name):
    """The source of the parameters cell."""
    cells = BOOKS[name]["cells"]
    tagged = [c for c in cells if "parameters" in c["metadata"].get("tags", [])]
    assert len(tagged) == 1, f"{name}: {len(tagged)} cells are tagged parameters"
    return ast.parse("".join(tagged[0]["source"])).body


@every_notebook
def test_stored_without_outputs(name):
    for cell in code_cells(name):
        bare = not cell["outputs"] and cell["execution_count"] is None
        assert bare, f"{name}: strip it (nbstripout --keep-id)"


@every_notebook
def test_names_its_kernel(name):
    kernel = BOOKS[name]["metadata"].get("kernelspec", {})
    assert kernel.get("name") == "python3", f"{name}: save it once in JupyterLab"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_stored_as_jupyterlab_stores_it(file):
    """Else the first edit by hand changes lines that nobody touched."""
    text = file.read_text(encoding="utf-8")
    layout = {"indent": 1, "sort_keys": True, "ensure_ascii": False}
    assert text == json.dumps(json.loads(text), **layout) + "\n"


@every_notebook
def test_one_figure_at_most_opens_the_page(name):
    tagged = [c for c in code_cells(name) if LEAD in c["metadata"].get("tags", [])]
    assert len(tagged) <= 1
    for cell in tagged:
        assert "nb.figure(" in "".join(cell["source"])
    question = "**Question.**" in "".join(BOOKS[name]["cells"][0]["source"])
    assert question, f"{name}: the first cell asks the question"


@every_notebook
def test_no_path_of_a_machine(name):
    text = "\n".join(python(name))
    assert not re.search(r"[\"']/(home|root|tmp|Users|mnt)/", text)


@every_notebook
def test_every_cell_runs_or_fails_in_the_open(name):
    """A cell transformer once made later cells silently empty."""
    assert "input_transformers" not in "\n".join(python(name))


@every_notebook
def test_code_fits_the_page(name):
    lines = [line for source in python(name) for line in source.splitlines()]
    wide = [line for line in lines if len(line) > COLUMNS]
    assert wide == [], f"{name}: wider than {COLUMNS} columns"


@every_notebook
def test_parameters_are_plain_literals_that_say_what_they_are(name):
    for line in parameters(name):
        assert isinstance(line, ast.Assign), ast.unparse(line)
        ast.literal_eval(line.value)
    names = [line.targets[0].id for line in parameters(name)]
    assert names[:2] == ["run_dir", "scale"], "the chain sets these two"


def starting_call(name):
    """The statements before the one that makes the notebook's record, and its call."""
    statements = [line for source in python(name) for line in ast.parse(source).body]
    for i, line in enumerate(statements):
        if isinstance(line, ast.Assign) and "record.Notebook(" in ast.unparse(line):
            return statements[:i], line.value
    pytest.fail(f"{name}: nothing checks its parameters")


@every_notebook
def test_no_parameter_is_used_before_all_are_checked(name):
    """`record.Notebook` checks them; `-p threads 0` must not reach torch before."""
    before, call = starting_call(name)
    names = {line.targets[0].id for line in parameters(name)}
    loads = [
        node.id
        for line in before
        for node in ast.walk(line)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
    ]
    assert names.isdisjoint(loads), f"{name}: put them behind record.Notebook(...)"
    start = f"record.Notebook('{name}', run_dir=run_dir, scale=scale"
    assert ast.unparse(call).startswith(start)
    # what is computed for the call itself may not trust a parameter either
    risky = (ast.comprehension, ast.Subscript, ast.BinOp)
    assert not any(isinstance(node, risky) for node in ast.walk(call))


@every_notebook
def test_statements_are_simple(name):
    value = density(python(name))
    print(f"{name}: {value:.1f} syntax nodes a statement")
    limit = DENSE.get(name, SIMPLE)
    assert value <= limit, f"{name}: {value:.1f} nodes a statement, {limit} allowed"


def test_the_table_of_dense_notebooks_holds_no_simple_one():
    assert all(limit > SIMPLE for limit in DENSE.values())
    assert set(DENSE) <= set(BOOKS)


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_examples_have_few_parameters(name):
    assert len(parameters(name)) <= FEW


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_examples_define_no_wrappers(name):
    for source in python(name):
        for node in ast.walk(ast.parse(source)):
            is_wrapper = isinstance(node, (ast.FunctionDef, ast.Lambda))
            assert not is_wrapper, f"{name}: {ast.unparse(node)[:60]} belongs in src"


def test_density_counts_what_it_says():
    assert density(["x = 1"]) == 4  # Assign, Name, Store, Constant
    assert density(["x = 1", "x = y"]) == 4.5  # Load as well
    assert density(["if x:\n    y = 1"]) == 3.5  # If, Name, Load and the four


@pytest.mark.long
def test_cost_of_the_readers_own_model(tiny_qwen2, tmp_path):
    """Chapter 12 measures any model; its claim is about the published one only."""
    small = {"lengths": [[24, 8], [16, 16]], "pairs": 1, "repetitions": 6}
    run_cells("12-cost", tmp_path, model=str(tiny_qwen2), threads=1, **small)
    results = results_of("12-cost", tmp_path)
    assert results["own"]
    assert results["claims"]["c23-cheaper"]["status"] is None
    assert results["numbers"]["flops-apart"]["mean"] < 1e-3
