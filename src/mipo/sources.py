"""Which modules of this package a module uses, and a hash of what their code does: what of a record's key is code."""

from __future__ import annotations

import ast
import functools
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType

PACKAGE = Path(__file__).resolve().parent
# They keep numbers, fetch files whose commits are in keys, or start processes; they change no number.
KEEPERS = ("mipo", "mipo.numbers", "mipo.record", "mipo.sources", "mipo.store", "mipo.hub", "mipo.launch")


def module_file(name: str) -> Path | None:
    """mipo.x -> its source file, None when there is no such module (a function imported by name)."""
    base = PACKAGE.joinpath(*name.split(".")[1:])
    for file in (base / "__init__.py", base.with_suffix(".py")):
        if file.exists():
            return file
    return None


@functools.lru_cache(maxsize=200)
def imported(source: str, inside: str = "mipo.x") -> set[str]:
    """The mipo modules that a source imports, wherever in it; ``inside`` is the module it belongs to."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            stem = inside.rsplit(".", node.level)[0] if node.level else ""
            base = ".".join(part for part in (stem, node.module) if part)
            names |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return {name for name in names if name.split(".")[0] == "mipo" and module_file(name)}


def closure(names: Iterable[str]) -> dict[str, Path]:
    """The named modules and every mipo module they import, directly or through others: {module: file}."""
    found: dict[str, Path] = {}
    todo = list(names)
    while todo:
        name = todo.pop()
        if name in found:
            continue
        file = module_file(name)
        if file is None:
            raise ValueError(f"code names {name!r}, which is no module of mipo")
        found[name] = file
        inside = f"{name}.__init__" if file.name == "__init__.py" else name
        todo += imported(file.read_text(encoding="utf-8"), inside)
    return found


def source_hash(file: Path) -> str:
    """sha256 of what the code does: comments, blank lines and docstrings may change without spoiling a run."""
    return _hash_of(file.read_text(encoding="utf-8"))


@functools.lru_cache(maxsize=200)
def _hash_of(source: str) -> str:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            if node.body and ast.get_docstring(node, clean=False) is not None:
                node.body[0] = ast.Pass()
    return hashlib.sha256(ast.unparse(tree).encode()).hexdigest()


def code_hashes(code: Sequence[ModuleType | str]) -> dict[str, str]:
    """{module: hash} of the closure, without the modules that only keep records."""
    names = [item if isinstance(item, str) else item.__name__ for item in code]
    names = [name if name.split(".")[0] == "mipo" else f"mipo.{name}" for name in names]
    return {name: source_hash(file) for name, file in sorted(closure(names).items()) if name not in KEEPERS}
