"""Preference optimisation by mutual information: what MIPO and RMiPO do.

The public names are loaded when they are first used: ``import mipo`` is instant.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for editors and type checkers, which run nothing
    from mipo.data import load as load
    from mipo.logprobs import response_logps as response_logps
    from mipo.models import load_model as load_model
    from mipo.models import small_model as small_model
    from mipo.pairs import generate as generate
    from mipo.pairs import synthesise_pairs as synthesise_pairs
    from mipo.record import Notebook as Notebook
    from mipo.trainer import PreferenceConfig as PreferenceConfig
    from mipo.trainer import PreferenceTrainer as PreferenceTrainer
    from mipo.world import World as World

__version__ = "0.5.0"

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


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"mipo.{_HOMES[name]}"), name)
    if name in _MODULES:
        return importlib.import_module(f"mipo.{name}")
    raise AttributeError(f"module 'mipo' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
