"""Files that are written whole or not at all, and runs that are kept by the content of their config, data and code."""

from __future__ import annotations

import datetime
import fcntl
import functools
import hashlib
import importlib.metadata
import json
import math
import os
import platform
import re
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from mipo.sources import PACKAGE, code_hashes

VERSIONS = ("torch", "transformers", "trl", "peft", "datasets", "numpy", "scipy", "matplotlib")


def project_root() -> Path:
    """The folder with the notebooks: ``MIPO_ROOT``, else where the package was installed from, else the current one."""
    if os.environ.get("MIPO_ROOT"):
        return Path(os.environ["MIPO_ROOT"]).resolve()
    source = PACKAGE.parents[1]
    return source if (source / "pyproject.toml").exists() else Path.cwd()


def resolve(path: str | Path) -> Path:
    """A relative path counts from the project's root, so a notebook may run from any folder."""
    return Path(path) if Path(path).is_absolute() else project_root() / path


# ---- files ----

def plain(value: Any) -> Any:
    """What json cannot write itself: numpy and torch scalars and arrays, paths."""
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def dumps(value: Any) -> str:
    return json.dumps(value, sort_keys=True, indent=1, default=plain, allow_nan=False, ensure_ascii=False) + "\n"


def refuse_nan(value: Any, where: str) -> None:
    """Raise a ValueError that names the field holding a NaN or an infinity; None is the way to say 'no number'."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            refuse_nan(item, f"{where}.{key}")
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            refuse_nan(item, f"{where}[{i}]")
    elif hasattr(value, "tolist"):
        refuse_nan(value.tolist(), where)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{where} is {value}: a record keeps finite numbers only; did the run diverge? Use None where "
                         "there is no number.")


def write_whole(path: str | Path, text: str | bytes) -> Path:
    """Write beside the target, flush to disk, then rename: a reader sees the old file or the new, never half of one."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with open(partial, "wb") as file:
        file.write(text.encode() if isinstance(text, str) else text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
    return path


def read_json(path: str | Path) -> Any:
    """One clear error instead of a traceback from json."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid JSON ({error}); delete it and run again") from None


def sync(*paths: Path) -> None:
    for path in paths:
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)


def content_hash(path: str | Path) -> str:
    """sha256 of a file, or of a folder's relative names and contents."""
    path, found = Path(path), hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
        found.update(f"{file.relative_to(path) if path.is_dir() else ''}\0".encode())
        state = file.stat()
        found.update(_file_hash(file, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns))
    return found.hexdigest()


@functools.lru_cache(maxsize=10_000)
def _file_hash(path: Path, *state: int) -> bytes:
    """sha256 of a file as it is now: what tells that it was changed is part of what is remembered."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def digest(value: Any) -> str:
    """sha256 of a JSON value."""
    return hashlib.sha256(dumps(value).encode()).hexdigest()


def lines(rows: Iterable[dict]) -> str:
    """Rows as JSONL."""
    return "".join(json.dumps(row) + "\n" for row in rows)


# ---- provenance ----

def git(*args: str) -> str:
    done = subprocess.run(["git", *args], cwd=project_root(), capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def machine() -> str:
    """The kind of machine, never its name."""
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.+)", info.read_text()) if info.exists() else None
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{found.group(1).strip() if found else platform.machine()}, {cores} cores"


def peak_memory() -> float:
    """GB that this process has held at most."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**30 if platform.system() == "Darwin" else 2**20), 2)


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in VERSIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def provenance() -> dict[str, Any]:
    torch = sys.modules.get("torch")               # what has not imported it has not computed on a GPU
    gpu = torch.cuda.get_device_name() if torch and torch.cuda.is_available() else None
    return {"commit": git("rev-parse", "--short=12", "HEAD") or "no commit",
            "dirty": bool(git("status", "--porcelain", "--untracked-files=no")),
            "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
            "machine": machine(), "gpu": gpu, "versions": versions()}


# ---- runs ----

@dataclass(frozen=True)
class Record:
    """One kept run. ``fresh`` tells whether this call made it; ``seconds`` what making it took."""

    metrics: dict
    path: Path
    key: str
    seconds: float
    fresh: bool


def input_hash(value: Any, field: str) -> str:
    if isinstance(value, Record):
        return value.key
    if Path(value).exists():
        return content_hash(value)
    if isinstance(value, Path):
        raise ValueError(f"input {field!r}: {value} does not exist")
    return f"name:{value}"                         # a hub model or data set, known by its name


def load(folder: Path, key: str) -> Record | None:
    """The record, or None when it is absent or a file of it is missing or was cut."""
    try:
        kept = json.loads((folder / "record.json").read_text(encoding="utf-8"))
        whole = kept["key"] == key and all((folder / f).stat().st_size == n for f, n in kept["files"].items())
        return Record(kept["metrics"], folder, key, kept["seconds"], False) if whole else None
    except (OSError, ValueError, KeyError):
        return None


STARTED = "MIPO_STARTED"                           # environment: when the chain started this notebook's kernel
USED: dict[str, tuple[float, float]] = {}          # {folder name: (begun, ended)} of every record loaded or made here


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """Seconds covered by spans of time, what overlaps counted once: runs made side by side took no longer than one."""
    total, reached = 0.0, -math.inf
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return total


def run_or_load(run_dir: str | Path, name: str, config: dict, make: Callable[[Path], dict], *,
                code: Sequence[ModuleType | str], inputs: Mapping[str, Any] | None = None) -> Record:
    """Load the run with this name, config, inputs and code, or make it: whole or not at all.

    make(folder) may write files into its folder and returns JSON metrics (finite; None for 'no number').
    inputs: path (hashed by content), Record (by its key), or a hub name (by its name).
    code: the modules whose sources count, with every mipo module they import.
    """
    if not re.fullmatch(r"[\w.+-]+", name):
        raise ValueError(f"record name {name!r}: use letters, digits and . _ + - only")
    refuse_nan(config, f"{name}: config")
    parts = {"name": name, "config": config, "code": code_hashes(code),
             "inputs": {field: input_hash(value, field) for field, value in (inputs or {}).items()}}
    key = digest(parts)
    records = resolve(run_dir) / "records"
    folder, partial = records / f"{name}-{key[:16]}", records / f".{name}-{key[:16]}.partial"
    (records / ".locks").mkdir(parents=True, exist_ok=True)
    with open(records / ".locks" / f"{name}-{key[:16]}", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)           # a second process waits for the first, then loads what it made
        found = load(folder, key)
        if found is not None:
            ended = (folder / "record.json").stat().st_mtime
            USED[folder.name] = (ended - found.seconds, ended)
            return found
        for old in (folder, partial):              # cut by a crash, or emptied by hand
            shutil.rmtree(old, ignore_errors=True)
        partial.mkdir()
        start = time.perf_counter()
        metrics = make(partial)
        refuse_nan(metrics, f"{name}: metrics")
        seconds = round(time.perf_counter() - start, 3)
        files = {str(f.relative_to(partial)): f.stat().st_size for f in sorted(partial.rglob("*")) if f.is_file()}
        text = dumps({**parts, "key": key, "metrics": metrics, "seconds": seconds, "files": files, **provenance()})
        write_whole(partial / "record.json", text)
        sync(*partial.rglob("*"), partial)
        os.rename(partial, folder)
        sync(records)                              # the rename itself reaches the disk
        USED[folder.name] = (time.time() - seconds, time.time())
        return Record(json.loads(text)["metrics"], folder, key, seconds, True)
