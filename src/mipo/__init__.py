"""Preference optimisation by mutual information: what MIPO and RMiPO do.

The public names are loaded when they are first used, so that ``import mipo`` is instant.
"""

import importlib

__version__ = "0.4.0"

_HOMES = {
    "Notebook": "record",
    "PreferenceConfig": "trainer",
    "PreferenceTrainer": "trainer",
    "World": "world",
    "generate": "pairs",
    "load": "data",
    "load_model": "models",
    "response_logps": "logprobs",
    "small_model": "models",
    "synthesise_pairs": "pairs",
}
_MODULES = (
    "data",
    "evaluate",
    "information",
    "logprobs",
    "losses",
    "models",
    "pairs",
    "record",
    "trainer",
    "world",
)
__all__ = sorted([*_HOMES, *_MODULES])


def __getattr__(name):
    if name in _HOMES:
        return getattr(importlib.import_module(f"mipo.{_HOMES[name]}"), name)
    if name in _MODULES:
        return importlib.import_module(f"mipo.{name}")
    raise AttributeError(f"module 'mipo' has no attribute {name!r}")


def __dir__():
    return __all__
