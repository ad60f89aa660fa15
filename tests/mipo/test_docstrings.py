"""Public functions are documented as numpydoc, as they are called.

Those of the method, and of the study those of figures and larger models.

Examples in docstrings are run.
"""

import doctest
import importlib
import inspect
import pkgutil
import warnings

import pytest
from numpydoc.docscrape import NumpyDocString

import mipo
from mipo_study import figures, hub


def modules_of(package):
    found = pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    return [module.name for module in found]


METHOD = modules_of(mipo)
STUDY = modules_of(figures) + modules_of(hub)


def functions_of(module):
    """(name, function) of the public functions and methods that a module defines."""
    for name, value in vars(module).items():
        own = getattr(value, "__module__", None) == module.__name__
        if not own or name.startswith("_"):
            continue
        if inspect.isclass(value):
            for attribute, method in vars(value).items():
                if inspect.isfunction(method) and not attribute.startswith("_"):
                    yield f"{name}.{attribute}", method
        elif inspect.isfunction(value):
            yield name, value


def documented(function):
    """Names in the Parameters section; a warning of numpydoc is an error.

    That there is a docstring at all is what ruff asks (D1).
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        parsed = NumpyDocString(inspect.getdoc(function) or "")
    names = [name for entry in parsed["Parameters"] for name in entry.name.split(",")]
    return {name.strip().lstrip("*") for name in names}


@pytest.mark.parametrize("name", METHOD + STUDY)
def test_parameters_are_those_of_the_signature(name):
    """A Parameters section names every parameter, and none that there is not."""
    for label, function in functions_of(importlib.import_module(name)):
        names = documented(function)
        parameters = set(inspect.signature(function).parameters) - {"self"}
        if names:
            assert names == parameters, label


@pytest.mark.parametrize("name", METHOD)
def test_examples_give_what_they_show(name):
    result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0


def test_examples_of_losses_are_found():
    """They hide behind a decorator: 6 lines of simpo, gamma_decay and rmipo."""
    assert doctest.testmod(importlib.import_module("mipo.losses.margin")).attempted == 6


def test_a_parameter_that_is_left_out_is_seen():
    def scaled(values, factor):
        """Return scaled values.

        Parameters
        ----------
        values : list
            Numbers.
        """

    assert documented(scaled) == {"values"}
