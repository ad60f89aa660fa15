"""Runs that are kept by the content of their config, data and code: made once, whole or not at all, and found again."""

from __future__ import annotations

import ast
import fcntl
import functools
import hashlib
import inspect
import json
import math
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from mipo.files import (
    SOURCE,
    content_hash,
    digest,
    dumps,
    refuse_nan,
    resolve,
    sync,
    write_whole,
)
from mipo.provenance import provenance

PACKAGES = ("mipo", "mipo_study")
# They keep numbers, fetch files whose commits are in keys, or start processes; they change no number.
KEEPERS = (
    "mipo",
    "mipo.numbers",
    "mipo.record",
    "mipo.cache",
    "mipo.files",
    "mipo.provenance",
    "mipo_study",
    "mipo_study.hub.download",
    "mipo_study.hub.launch",
)


def module_file(name: str) -> Path | None:
    """mipo.x -> its source file, None when there is no such module (a function imported by name)."""
    base = SOURCE.joinpath(*name.split("."))
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
    return {
        name for name in names if name.split(".")[0] in PACKAGES and module_file(name)
    }


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
        if isinstance(
            node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        ):
            if node.body and ast.get_docstring(node, clean=False) is not None:
                node.body[0] = ast.Pass()
    return hashlib.sha256(ast.unparse(tree).encode()).hexdigest()


def code_hashes(code: Sequence[ModuleType | str]) -> dict[str, str]:
    """{module: hash} of the closure, without the modules that only keep records."""
    names = [item if isinstance(item, str) else item.__name__ for item in code]
    return {
        name: source_hash(file)
        for name, file in sorted(closure(names).items())
        if name not in KEEPERS
    }


@dataclass(frozen=True)
class Run:
    """One kept run. ``fresh`` tells whether this call made it; ``seconds`` what making it took."""

    metrics: dict
    path: Path
    key: str
    seconds: float
    fresh: bool


def input_hash(value: Any, field: str) -> str:
    if isinstance(value, Run):
        return value.key
    if Path(value).exists():
        return content_hash(value)
    if isinstance(value, Path):
        raise ValueError(f"input {field!r}: {value} does not exist")
    return f"name:{value}"  # a hub model or data set, known by its name


def load(folder: Path, key: str) -> Run | None:
    """The record, or None when it is absent or a file of it is missing or was cut."""
    try:
        kept = json.loads((folder / "record.json").read_text(encoding="utf-8"))
        whole = kept["key"] == key and all(
            (folder / f).stat().st_size == n for f, n in kept["files"].items()
        )
        return (
            Run(kept["metrics"], folder, key, kept["seconds"], False) if whole else None
        )
    except (OSError, ValueError, KeyError):
        return None


STARTED = "MIPO_STARTED"  # environment: when the chain started this notebook's kernel
USED: dict[
    str, tuple[float, float]
] = {}  # {folder name: (begun, ended)} of every record loaded or made here


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """Seconds covered by spans of time, what overlaps counted once: runs made side by side took no longer than one."""
    total, reached = 0.0, -math.inf
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return total


def run_or_load(
    run_dir: str | Path,
    name: str,
    config: dict,
    make: Callable[[Path], dict],
    *,
    code: Sequence[ModuleType | str],
    inputs: Mapping[str, Any] | None = None,
) -> Run:
    """Load the run with this name, config, inputs and code, or make it: whole or not at all.

    make(folder) may write files into its folder and returns JSON metrics (finite; None for 'no number').
    inputs: path (hashed by content), Run (by its key), or a hub name (by its name).
    code: the modules whose sources count, with every mipo module they import.
    """
    if not re.fullmatch(r"[\w.+-]+", name):
        raise ValueError(f"record name {name!r}: use letters, digits and . _ + - only")
    refuse_nan(config, f"{name}: config")
    parts = {
        "name": name,
        "config": config,
        "code": code_hashes(code),
        "inputs": {
            field: input_hash(value, field) for field, value in (inputs or {}).items()
        },
    }
    key = digest(parts)
    records = resolve(run_dir) / "records"
    folder, partial = (
        records / f"{name}-{key[:16]}",
        records / f".{name}-{key[:16]}.partial",
    )
    (records / ".locks").mkdir(parents=True, exist_ok=True)
    with open(records / ".locks" / f"{name}-{key[:16]}", "w") as lock:
        fcntl.flock(
            lock, fcntl.LOCK_EX
        )  # a second process waits for the first, then loads what it made
        found = load(folder, key)
        if found is not None:
            ended = (folder / "record.json").stat().st_mtime
            USED[folder.name] = (ended - found.seconds, ended)
            return found
        for old in (folder, partial):  # cut by a crash, or emptied by hand
            shutil.rmtree(old, ignore_errors=True)
        partial.mkdir()
        start = time.perf_counter()
        metrics = make(partial)
        refuse_nan(metrics, f"{name}: metrics")
        seconds = round(time.perf_counter() - start, 3)
        files = {
            str(f.relative_to(partial)): f.stat().st_size
            for f in sorted(partial.rglob("*"))
            if f.is_file()
        }
        text = dumps(
            {
                **parts,
                "key": key,
                "metrics": metrics,
                "seconds": seconds,
                "files": files,
                **provenance(),
            }
        )
        write_whole(partial / "record.json", text)
        sync(*partial.rglob("*"), partial)
        os.rename(partial, folder)
        sync(records)  # the rename itself reaches the disk
        USED[folder.name] = (time.time() - seconds, time.time())
        return Run(json.loads(text)["metrics"], folder, key, seconds, True)


def cached(name: str, *, inputs: Sequence[str] = (), keep: Sequence[str] = ()):
    """Make a run of a function that writes files into a folder and returns metrics.

    ``make(folder, *, progress, **settings)`` becomes ``make(run_dir, *, progress=True,
    **settings) -> Run``: made once for its settings, inputs and code, then found again.

    Parameters
    ----------
    name : str
        Name of the run; ``{setting}`` stands for the value of a setting.
    inputs : sequence of str
        Settings that are a Run, a path (known by its content) or a hub name.
    keep : sequence of str
        Small files of the folder that are kept with the metrics.
    """

    def decorate(make: Callable[..., dict]) -> Callable[..., Run]:
        signature = inspect.signature(make)

        @functools.wraps(make)
        def found(run_dir, *, progress=True, **settings):
            bound = signature.bind(None, progress=progress, **settings)
            bound.apply_defaults()
            every = dict(bound.arguments)
            del every[next(iter(signature.parameters))], every["progress"]
            given = {key: every[key] for key in inputs if every[key] is not None}
            config = {key: value for key, value in every.items() if key not in inputs}
            return run_or_load(
                run_dir,
                name.format(**every),
                config,
                functools.partial(make, progress=progress, **every),
                code=[make.__module__],
                inputs=given,
            )

        return found

    return decorate
