"""Files written whole or not at all, JSON read with one clear error, and digests."""

from __future__ import annotations

import functools
import glob
import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).resolve().parents[1]  # the folder that holds the packages


def project_root() -> Path:
    """The folder with the notebooks.

    ``MIPO_ROOT``, else the clone the package was installed from, else the current
    folder.
    """
    if os.environ.get("MIPO_ROOT"):
        return Path(os.environ["MIPO_ROOT"]).resolve()
    source = SOURCE.parent
    return source if (source / "pyproject.toml").exists() else Path.cwd()


def resolve(path: str | Path) -> Path:
    """An absolute path; a relative one counts from the project's root.

    So a notebook may run from any folder.
    """
    return Path(path) if Path(path).is_absolute() else project_root() / path


# ---- files ----


def plain(value: Any) -> Any:
    """A numpy or torch scalar or array, or a path, as JSON can write it.

    Raises
    ------
    TypeError
        For any other type.
    """
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def dumps(value: Any) -> str:
    """A JSON value as text: keys sorted, indented, with a line end.

    Raises
    ------
    ValueError
        For NaN and infinity.
    """
    text = json.dumps(
        value,
        sort_keys=True,
        indent=1,
        default=plain,
        allow_nan=False,
        ensure_ascii=False,
    )
    return text + "\n"


def refuse_nan(value: Any, where: str) -> None:
    """Refuse NaN and infinity, anywhere within a JSON value; None means "no number".

    Parameters
    ----------
    value : Any
        Dicts, lists, numbers, texts, arrays.
    where : str
        What the value is called in the error.

    Raises
    ------
    ValueError
        Naming the field.
    """
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
            f"{where} is {value}: a run keeps finite numbers only; did the run "
            "diverge? Use None where there is no number."
        )


def write_whole(path: str | Path, text: str | bytes) -> Path:
    """Write a file so that a reader sees the old one or the new, never half of one.

    It is written beside the target, flushed to disk, then renamed.

    Parameters
    ----------
    path : path
        The target; its folder is made.
    text : str or bytes
        All of the file; text as UTF-8.

    Returns
    -------
    Path
        The target.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_left_behind(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with open(partial, "wb") as file:
            file.write(text.encode() if isinstance(text, str) else text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    return path


def _remove_left_behind(path: Path) -> None:
    """Halves of this file whose writer was killed."""
    import psutil

    for partial in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):
        writer = partial.name.split(".")[-2]
        if writer.isdigit() and not psutil.pid_exists(int(writer)):
            partial.unlink(missing_ok=True)


def remove(path: Path) -> None:
    """Remove a file, a link (never what it leads to) or a folder, if it is there."""
    if path.is_symlink() or path.is_file():
        path.unlink(missing_ok=True)
    elif path.exists():
        shutil.rmtree(path, ignore_errors=True)


def sync(*paths: Path) -> None:
    """Flush files and folders to disk.

    Windows opens no folder, and flushes only what is writable.
    """
    windows = os.name == "nt"
    for path in paths:
        if windows and path.is_dir():
            continue
        handle = os.open(path, os.O_RDWR if windows else os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def read_json(path: str | Path) -> Any:
    """What a JSON file holds.

    Raises
    ------
    ValueError
        One clear error that names the file, instead of a traceback from json.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} is not valid JSON ({error}); delete it and run again"
        ) from None


# ---- digests ----


def seal(document: Mapping) -> str:
    """A JSON object as text, with a digest of all else that it holds."""
    plain = json.loads(dumps(document))
    return dumps({**plain, "digest": digest(plain)})


def unseal(path: str | Path, *, must: bool = True) -> dict:
    """What `seal` wrote, without the digest.

    Parameters
    ----------
    path : path
        Of the JSON file.
    must : bool
        False: a file that carries no digest is read as it is.

    Raises
    ------
    ValueError
        Naming the file if it is no JSON object or was changed.
    """
    document = read_json(path)
    if not isinstance(document, dict):
        raise ValueError(f"{path} does not hold a JSON object")
    known = document.pop("digest", None)
    if known is None and not must:
        return document
    if known != digest(document):
        raise ValueError(f"{path} was changed after it was written")
    return document


def content_hash(path: str | Path) -> str:
    """sha256 of a file, or of a folder's relative names and contents."""
    path, content = Path(path), hashlib.sha256()
    folder = path.is_dir()
    inside = sorted(p for p in path.rglob("*") if p.is_file())
    for file in inside if folder else [path]:
        name = file.relative_to(path).as_posix() if folder else ""
        content.update(f"{name}\0".encode())
        content.update(bytes.fromhex(file_hash(file)))
    return content.hexdigest()


def file_hash(path: Path) -> str:
    """sha256 of a file, read again by this process only if it changed."""
    state = path.stat()
    times = (state.st_mtime_ns, state.st_ctime_ns)
    return _file_hash(path, state.st_ino, state.st_size, *times)


@functools.lru_cache(maxsize=10_000)
def _file_hash(path: Path, *state: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(value: Any) -> str:
    """sha256 of a JSON value."""
    return hashlib.sha256(dumps(value).encode()).hexdigest()


def lines(rows: Iterable[dict]) -> str:
    """Rows as JSONL."""
    return "".join(json.dumps(row) + "\n" for row in rows)
