"""The reference pages: every public module of the method has one, and every name is explained."""

import importlib
import inspect
import re

import pytest
import yaml
from building import ROOT

pytestmark = pytest.mark.fast
PAGES = sorted((ROOT / "book" / "api").glob("*.md"))
TEXT = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
MODULES = re.findall(r"^\.\. automodule:: (\S+)$", TEXT, re.M)
CLASSES = re.findall(r"^\.\. autoclass:: (\S+)$", TEXT, re.M)
PUBLIC = "data information logprobs losses models pairs record trainer world cache"


def own_names(name):
    """Public functions and classes that a module defines itself."""
    module = importlib.import_module(name)
    return {
        word: thing
        for word, thing in vars(module).items()
        if not word.startswith("_")
        and (inspect.isfunction(thing) or inspect.isclass(thing))
        and inspect.unwrap(thing).__module__ == name
    }


@pytest.mark.parametrize("name", [*PUBLIC.split(), "evaluate"])
def test_a_public_module_has_its_page(name):
    page = ROOT / "book" / "api" / f"{name}.md"
    assert re.search(rf"^\.\. auto\w+:: mipo\.{name}\b", page.read_text(), re.M)


def test_pages_and_table_of_contents_agree():
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    files = [chapter["file"] for part in toc["parts"] for chapter in part["chapters"]]
    listed = {file for file in files if file.startswith("book/api/")}
    assert listed == {f"book/api/{page.stem}" for page in PAGES}


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith("mipo.")])
def test_every_public_name_is_explained(name):
    assert own_names(name), f"{name} defines nothing that a page could show"
    bare = [
        word for word, thing in own_names(name).items() if not inspect.getdoc(thing)
    ]
    assert bare == [], f"{name}: no docstring"


@pytest.mark.parametrize("path", CLASSES)
def test_classes_exist(path):
    module, _, name = path.rpartition(".")
    assert inspect.isclass(getattr(importlib.import_module(module), name))
