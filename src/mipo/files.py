"""Files that are written whole or not at all, JSON that is read with one clear error, and the hash of what they hold."""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).resolve().parents[1]  # the folder that holds the packages


def project_root() -> Path:
    """The folder with the notebooks: ``MIPO_ROOT``, else where the package was installed from, else the current one."""
    if os.environ.get("MIPO_ROOT"):
        return Path(os.environ["MIPO_ROOT"]).resolve()
    source = SOURCE.parent
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
    return (
        json.dumps(
            value,
            sort_keys=True,
            indent=1,
            default=plain,
            allow_nan=False,
            ensure_ascii=False,
        )
        + "\n"
    )


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
        raise ValueError(
            f"{where} is {value}: a record keeps finite numbers only; did the run diverge? Use None where "
            "there is no number."
        )


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
        raise ValueError(
            f"{path} is not valid JSON ({error}); delete it and run again"
        ) from None


def sync(*paths: Path) -> None:
    for path in paths:
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)


def content_hash(path: str | Path) -> str:
    """sha256 of a file, or of a folder's relative names and contents."""
    path, found = Path(path), hashlib.sha256()
    for file in (
        sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    ):
        found.update(f"{file.relative_to(path) if path.is_dir() else ''}\0".encode())
        state = file.stat()
        found.update(
            _file_hash(
                file, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns
            )
        )
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
