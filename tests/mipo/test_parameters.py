"""Every parameter of every notebook refuses what it cannot take, before anything runs."""

import math
import shlex
import types

import pytest
import yaml
from building import ROOT
from papermill.cli import _resolve_type
from papermill.translators import PythonTranslator

from mipo import cache, parameters, record
from mipo.parameters import Rule, assigned, check_parameters, rule_of
from mipo_study.book import plan

NOTEBOOKS = sorted(file.stem for file in (ROOT / "notebooks").glob("[0-9]*.ipynb"))
DEFAULTS = {name: assigned(parameters.parameters_cell(name)) for name in NOTEBOOKS}
PARAMETERS = [(book, name) for book in NOTEBOOKS for name in DEFAULTS[book]]


def refused(book, name, value):
    """The message; None where the value is taken."""
    try:
        given = {name: value}
        check_parameters(DEFAULTS[book], given, book, notebook=book, papermill=True)
    except ValueError as error:
        return str(error)
    return None


def example(book, name):
    return rule_of(name, DEFAULTS[book][name], book).like


# ---- every parameter ----


@pytest.mark.parametrize("book, name", PARAMETERS)
def test_every_parameter_is_declared_and_takes_its_default(book, name):
    """A new parameter is declared in `mipo.parameters.RULES`, with its range."""
    assert f"{book}.{name}" in parameters.RULES or name in parameters.RULES
    assert refused(book, name, DEFAULTS[book][name]) is None


@pytest.mark.parametrize("book, name", PARAMETERS)
def test_every_parameter_refuses_another_type(book, name):
    like = example(book, name)
    values = {"text": "[0]", "mapping": {"a": 1}, "none": None, "bool": True}
    values |= {"number": 2.5, "whole": 2024, "list": [[[]]], "empty text": ""}
    own = {bool: {"bool"}, str: {"text", "empty text"}, list: set()}
    own |= {int: {"whole"}, float: {"whole", "number"}}
    for kind in values.keys() - own[type(like)]:
        message = refused(book, name, values[kind])
        assert message, f"{name} takes {values[kind]!r}"
        assert message.startswith(f"{book}: {name} is ") and "papermill: -" in message


NUMBERS = [
    (book, name)
    for book, name in PARAMETERS
    if isinstance(example(book, name), (int, float))
    and not isinstance(example(book, name), bool)
]
LISTS = [(b, name) for b, name in PARAMETERS if isinstance(example(b, name), list)]


@pytest.mark.parametrize("book, name", NUMBERS)
def test_no_number_is_infinite(book, name):
    for value in (math.nan, math.inf, -math.inf, 10**400, -(10**400)):
        assert refused(book, name, value)


@pytest.mark.parametrize("book, name", NUMBERS)
def test_numbers_below_their_range_are_refused(book, name):
    if name != "prior_gap":  # a gap has two signs
        assert refused(book, name, -2 if isinstance(example(book, name), int) else -0.5)


@pytest.mark.parametrize("book, name", LISTS)
def test_lists_refuse_elements_of_another_kind(book, name):
    first = example(book, name)[0]
    wrong = [None, {}, True] + ([1] if isinstance(first, (str, list)) else ["a"])
    wrong += [[]] if isinstance(first, list) else [[first]]
    numbers = isinstance(first, (int, float))
    wrong += [math.nan, math.inf, -1.5, 10**400] if numbers else []
    wrong += [2.5] if isinstance(first, int) else []
    for element in wrong:
        assert refused(book, name, [element]), f"{name} takes {[element]!r}"
        assert refused(book, name, [first, element]), f"{name} takes {element!r}"


@pytest.mark.parametrize("book, name", LISTS)
def test_only_lists_that_may_be_empty_are(book, name):
    empty = rule_of(name, DEFAULTS[book][name], book).empty
    assert bool(refused(book, name, [])) is not empty


# ---- by hand ----


@pytest.mark.parametrize(
    "book, name, value, says",
    [
        ("06-mipo-training", "seeds", "[0]", "-y 'seeds: [0]'"),
        ("06-mipo-training", "seeds", [0, 0], "none twice"),
        ("06-mipo-training", "seeds", [2**32], "from 0 to 4294967295"),
        ("06-mipo-training", "seeds", [-1], "from 0 to"),
        ("06-mipo-training", "run_dir", 2024, "it takes text, not empty"),
        ("06-mipo-training", "run_dir", " ", "not empty"),
        ("18-own-users", "methods", "all", "it takes a list of texts"),
        ("05-pair-synthesis", "placebo", "false", "it takes True or False"),
        ("05-pair-synthesis", "n_people", 0, "a whole number from 1"),
        ("03-gamma-decay", "beta", 0, "a number above 0"),
        ("03-gamma-decay", "label", 1.01, "from 0 to 1"),
        ("09-rmipo-training", "flips", [0.5], "below 0.5"),
        ("12-cost", "lengths", [[96]], "lists like [96, 32]"),
        ("12-cost", "lengths", [[96, 0]], "at least 1"),
        ("12-cost", "dtype", "float8", "one of float32, bfloat16"),
        ("16-scaling", "grid", [[1, "0.3M"]], "lists like"),
        ("01-information", "scale", "nope", "one of smoke, laptop, full, gpu, hand"),
        ("01-information", "threads", 1025, "from 1 to 1024"),
    ],
)
def test_refusals_say_what_is_taken_and_how_to_pass_it(book, name, value, says):
    message = refused(book, name, value)
    assert message.startswith(f"{book}: {name} is {value!r}") and says in message


@pytest.mark.parametrize(
    "book, name, value",
    [
        ("03-gamma-decay", "beta", 1),
        ("06-mipo-training", "seeds", (0, 2**32 - 1)),
        ("06-mipo-training", "betas", []),
        ("15-gpu-models", "temperature", -1.0),
        ("15-gpu-models", "n_test", 0),
        ("09-rmipo-training", "flips", [0, 0.49]),
        ("12-cost", "lengths", [[96, 32], (8, 8)]),
    ],
)
def test_what_is_right_is_taken(book, name, value):
    assert refused(book, name, value) is None


def test_a_parameter_that_is_not_declared_takes_what_its_default_takes():
    defaults = {"knob": 0.5, "name": "x", "thing": None, "many": []}
    taken = {"knob": 2, "name": "", "thing": [1], "many": "a"}
    check_parameters(defaults, taken, "here")
    for value in ("2", True, math.nan):
        with pytest.raises(ValueError, match="here: knob is"):
            check_parameters(defaults, {"knob": value}, "here")
    with pytest.raises(ValueError, match="unknown parameter 'knub'; did you mean 'kn"):
        check_parameters(defaults, {"knub": 1}, "here")


def test_yaml_numbers_that_are_text_are_explained():
    with pytest.raises(ValueError, match="YAML reads 1e-3 as text"):
        check_parameters({"beta": 0.1}, {"beta": "1e-3"}, "configs/x.yml")


def test_a_rule_reads_well():
    assert str(Rule(1, low=1, high=9)) == "a whole number from 1 to 9"
    assert str(Rule([0.1], above=0, empty=True)) == "a list of numbers above 0"
    assert str(Rule(0.1, above=0, also=(0,))) == "a number above 0, or 0"
    assert str(Rule([""])) == "a list of texts, not empty"


@pytest.mark.parametrize("scale", parameters.SCALES)
def test_the_configs_pass(scale):
    for step in plan.steps(scale).values():
        plan.check_step(step)


# ---- in a kernel ----


@pytest.fixture
def kernel(monkeypatch):
    """kernel(*cells): they have been executed here, as a notebook's."""

    def executed(*cells):
        names = {"In": ["", *cells]}
        for cell in cells:
            exec(cell, names)
        shell = types.SimpleNamespace(user_ns=names)
        monkeypatch.setattr("IPython.get_ipython", lambda: shell)

    return executed


CELL = 'run_dir = "runs/hand"\nscale = "hand"\nseeds = [0, 1]\nbeta = 1.0\n'


def check():
    parameters.check_notebook("06-mipo-training")


def test_papermills_cell_is_held_against_the_one_before(kernel):
    kernel(CELL, "# Parameters\nseeds = [3]\n", "nb = 1")
    check()
    kernel(CELL, '# Parameters\nseeds = "[0]"\n', "nb = 1")
    with pytest.raises(ValueError, match="06-mipo-training: seeds is"):
        check()
    kernel(CELL, "# Parameters\nsedes = [0]\n", "nb = 1")
    with pytest.raises(ValueError, match="unknown parameter 'sedes'; did you mean 'se"):
        check()
    kernel(CELL, '# Parameters\nbeta = float("nan")\n', "nb = 1")
    with pytest.raises(ValueError, match="beta is nan"):
        check()


def test_a_readers_copy_may_have_parameters_of_its_own(kernel):
    kernel(CELL + "mine = 3\n", "# Parameters\nmine = 4\n")
    check()
    kernel(CELL + "mine = 3\n", '# Parameters\nmine = "4"\n')
    with pytest.raises(ValueError, match="mine is '4', text"):
        check()


@pytest.mark.parametrize(
    "book, name, typed",
    [
        ("05-pair-synthesis", "seeds", "[0]"),
        ("05-pair-synthesis", "seeds", "0"),
        ("05-pair-synthesis", "run_dir", "2024"),
        ("05-pair-synthesis", "placebo", "false"),
        ("08-reasoning", "placebo", "no"),
        ("10-mi-ingredient", "warm", "off"),
        ("15-gpu-models", "checkpointing", "false"),
        ("05-pair-synthesis", "n_people", "2.5"),
        ("05-pair-synthesis", "temperature", "hot"),
        ("05-pair-synthesis", "temperature", "nan"),
        ("06-mipo-training", "learning_rates", "0.001"),
        ("06-mipo-training", "threads", "0"),
        ("01-information", "seeds", "True"),
        ("15-gpu-models", "model", "None"),
    ],
)
def test_what_is_typed_after_p_is_refused_as_papermill_passes_it(
    kernel, book, name, typed
):
    """`papermill ... -p name typed`: papermill guesses the type and writes a cell."""
    value = _resolve_type(typed)
    cell = PythonTranslator.codify({name: value})
    kernel(parameters.parameters_cell(book), cell)
    with pytest.raises(ValueError, match=rf"{book}: {name} is .*it takes "):
        parameters.check_notebook(book)


def test_a_hint_can_be_pasted_into_a_shell():
    """papermill -y '...': the list stands in single quotes, so it holds none."""
    for book, name in LISTS:
        hint = refused(book, name, 0).split("papermill: ")[1].removesuffix(")")
        flag, yml = shlex.split(hint)
        assert flag == "-y"
        assert yaml.safe_load(yml) == {name: example(book, name)}


def test_what_is_edited_by_hand_is_checked_as_well(kernel):
    kernel(CELL.replace("[0, 1]", "0"))
    with pytest.raises(ValueError, match="seeds is 0, a whole number"):
        check()
    kernel(CELL, "x = 1", "seeds = []")
    with pytest.raises(ValueError, match=r"seeds is \[\]; it takes a list"):
        check()


def test_the_notebook_checks_before_anything_else(kernel, tmp_path, monkeypatch):
    monkeypatch.setenv("MIPO_ROOT", str(tmp_path))
    kernel(CELL, '# Parameters\nbeta = "hot"\n')
    with pytest.raises(ValueError, match="beta is 'hot'"):
        record.Notebook("06-mipo-training")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("given", [{"run_dir": ""}, {"scale": "nope"}])
def test_run_dir_and_scale_are_checked_everywhere(given):
    with pytest.raises(ValueError, match=next(iter(given))):
        record.Notebook("06-mipo-training", **given)


# ---- a run by hand never writes over the chain's ----


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.setenv("MIPO_ROOT", str(tmp_path))
    monkeypatch.delenv(cache.STARTED, raising=False)
    return tmp_path


@pytest.mark.parametrize("scale", ["hand", "laptop", "full"])
@pytest.mark.parametrize("where", ["runs/laptop", "runs/laptop/", "runs/./laptop/x"])
def test_by_hand_the_chains_folder_is_refused(where, scale, project):
    with pytest.raises(ValueError, match="belongs to `make book SCALE=laptop`"):
        record.Notebook("06-mipo-training", run_dir=where, scale=scale)
    with pytest.raises(ValueError, match="belongs to"):
        record.Notebook("06-mipo-training", run_dir=project / where, scale=scale)
    assert list(project.iterdir()) == []


def test_the_chain_writes_to_its_own_scale_only(project, monkeypatch):
    monkeypatch.setenv(cache.STARTED, "0")
    record.Notebook("06-mipo-training", run_dir="runs/laptop", scale="laptop")
    for scale in ("hand", "full"):
        with pytest.raises(ValueError, match="belongs to"):
            record.Notebook("06-mipo-training", run_dir="runs/laptop", scale=scale)


@pytest.mark.parametrize("where", ["runs/hand", "runs/mine", "elsewhere/laptop"])
def test_by_hand_every_other_folder_is_free(where, project):
    record.Notebook("06-mipo-training", run_dir=where)


def test_this_file_sees_every_notebook():
    assert len(NOTEBOOKS) > 14
    assert all({"run_dir", "scale"} <= set(DEFAULTS[book]) for book in NOTEBOOKS)
