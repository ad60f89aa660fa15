"""The code part of a run's key: what the function uses, and nothing else of its module."""

import importlib
import sys

import pytest

from mipo import cache

EXPERIMENT = """
import math
from mipo import losses
from mipo_study.chapter import LIMIT, helper
from mipo_study import chapter

STEPS = 3
UNUSED = 4

def train(folder, *, lr, progress):
    def inner():
        from mipo.numbers import fmt
        return fmt(lr)
    return {"steps": STEPS * _half(lr), "limit": LIMIT, "n": chapter.count(), "x": inner()}

def _half(x):
    return helper(x) / 2

def evaluate(folder, *, policy, progress):
    return {"loss": losses.dpo}
"""
CHAPTER = """
LIMIT = 10
OTHER = 20

def helper(x):
    return x + 1

def count():
    return OTHER

def unrelated():
    return 1
"""


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A package mipo_study of two modules; write(name, text) changes one and imports it anew."""
    folder = tmp_path / "mipo_study"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (tmp_path / "mipo").symlink_to(cache.SOURCE / "mipo")
    monkeypatch.setattr(cache, "SOURCE", tmp_path)
    for name in [m for m in sys.modules if m.split(".")[0] == "mipo_study"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(name, text):
        (folder / f"{name}.py").write_text(text)
        for module in ("experiment", "chapter"):
            sys.modules.pop(f"mipo_study.{module}", None)
        importlib.invalidate_caches()

    write("chapter", CHAPTER)
    write("experiment", EXPERIMENT)
    yield write
    for name in [m for m in sys.modules if m.split(".")[0] == "mipo_study"]:
        sys.modules.pop(name)


def code(name="train"):
    module = importlib.import_module("mipo_study.experiment")
    return cache.function_code(getattr(module, name))


def test_it_names_what_the_function_uses(study):
    study("experiment", EXPERIMENT)
    names = {n for n in code() if n.startswith("mipo_study")}
    assert names == {
        "mipo_study.experiment.train",
        "mipo_study.experiment.STEPS",
        "mipo_study.experiment._half",
        "mipo_study.chapter.LIMIT",
        "mipo_study.chapter.helper",
        "mipo_study.chapter.count",
        "mipo_study.chapter.OTHER",
    }


def test_modules_of_the_method_count_whole_and_with_what_they_import(study):
    assert "mipo.losses.margin" in code("evaluate")
    assert "mipo.losses.margin" not in code("train")


@pytest.mark.parametrize(
    "module, old, new",
    [
        ("experiment", "STEPS = 3", "STEPS = 5"),
        ("experiment", "/ 2", "/ 3"),
        ("experiment", '"limit": LIMIT', '"limit": 2 * LIMIT'),
        ("chapter", "LIMIT = 10", "LIMIT = 11"),
        ("chapter", "return x + 1", "return x - 1"),
        ("chapter", "OTHER = 20", "OTHER = 21"),
    ],
)
def test_what_is_used_changes_the_code(study, module, old, new):
    before = code()
    text = {"experiment": EXPERIMENT, "chapter": CHAPTER}[module]
    study(module, text.replace(old, new))
    assert code() != before


@pytest.mark.parametrize(
    "module, old, new",
    [
        ("experiment", "UNUSED = 4", "UNUSED = 5"),
        ("experiment", '{"loss": losses.dpo}', '{"loss": losses.ipo}'),
        ("experiment", "import math\n", "import math\nimport json\n"),
        ("chapter", "return 1\n", "return 2\n"),
        ("chapter", "LIMIT = 10", "LIMIT = 10  # why"),
    ],
)
def test_what_is_not_used_does_not(study, module, old, new):
    before = code()
    text = {"experiment": EXPERIMENT, "chapter": CHAPTER}[module]
    study(module, text.replace(old, new))
    assert code() == before


def test_the_runs_of_the_study_are_keyed_by_what_makes_them():
    """A base model's key knows the small world and the trainer of small models, not how policies are scored."""
    from mipo_study import experiment

    base = cache.function_code(experiment.base_model)
    assert "mipo.worlds.language_model" in base and "mipo.models" in base
    assert "mipo_study.experiment.save" in base
    others = ("mipo_study.experiment.evaluate", "mipo_study.experiment.train")
    assert not set(others) & set(base)
    assert "mipo.trainer" in cache.function_code(experiment.train)
