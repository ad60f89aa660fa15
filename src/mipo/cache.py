"""Runs kept by the content of their config, data and code: made once, found again.

A run is a folder of files, ``<run_dir>/runs/<name>-<key>``, and one small file of what
it measured, ``<run_dir>/measured/<name>-<key>.json``, which can be committed
(``results/<scale>/measured``). Who asks for a run gets what it measured; its files are
made again, where they are not, when they are asked for.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import inspect
import json
import math
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from filelock import FileLock, Timeout

from mipo import files
from mipo.files import SOURCE, content_hash, digest, project_root, resolve
from mipo.provenance import provenance, source_state

PACKAGES = ("mipo", "mipo_study")
# They keep numbers, check parameters, show text, fetch files whose commits are in keys,
# or start processes; they change no number.
KEEPERS = (
    "mipo",
    "mipo.numbers",
    "mipo.record",
    "mipo.cache",
    "mipo.files",
    "mipo.parameters",
    "mipo.provenance",
    "mipo.quote",
    "mipo_study",
    "mipo_study.hub.download",
    "mipo_study.hub.launch",
)
Import = ast.Import | ast.ImportFrom
RUN = "run.json"
AGAIN = "again"  # attribute of a cached function: makes the files of its run
MAKERS: dict[str, Callable] = {}  # {name in run.json: cached function}
STARTED = "MIPO_STARTED"  # environment: when the chain started this notebook's kernel
# {folder name: (begun, ended)} of every run loaded or made by this process
USED: dict[str, tuple[float, float]] = {}

# ---- which code counts ----


def module_file(name: str) -> Path | None:
    """mipo.x -> its source file; None where that names no module, but a function."""
    base = SOURCE.joinpath(*name.split("."))
    for file in (base / "__init__.py", base.with_suffix(".py")):
        if file.exists():
            return file
    return None


@functools.lru_cache(maxsize=200)
def imported(source: str, inside: str = "mipo.x") -> set[str]:
    """The modules of ours that a source imports, wherever in it.

    Parameters
    ----------
    source : str
        Text of a module or a notebook.
    inside : str
        The module it belongs to, from which relative imports count.
    """
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
    """The named modules and all of ours that they import, directly or through others.

    Parameters
    ----------
    names : iterable of str
        Dotted names.

    Returns
    -------
    dict
        {module: file}.

    Raises
    ------
    ValueError
        For a name that is no module of ours.
    """
    modules: dict[str, Path] = {}
    todo = list(names)
    while todo:
        name = todo.pop()
        if name in modules:
            continue
        file = module_file(name)
        if file is None:
            raise ValueError(f"code names {name!r}, which is no module of mipo")
        modules[name] = file
        inside = f"{name}.__init__" if file.name == "__init__.py" else name
        todo += imported(file.read_text(encoding="utf-8"), inside)
    return modules


def source_hash(file: Path) -> str:
    """sha256 of what the code does, the same on every Python from 3.11 on.

    Comments, layout and docstrings may change without spoiling a run.
    """
    return _hash_of(file.read_text(encoding="utf-8"))


@functools.lru_cache(maxsize=200)
def _hash_of(source: str) -> str:
    return hashlib.sha256(json.dumps(canonical(ast.parse(source))).encode()).hexdigest()


def canonical(node: Any) -> Any:
    """A syntax tree as lists and texts that no version of Python writes differently.

    A node is its class name and the fields that say something. Left out are
    docstrings, what is empty, and what is no meaning: positions, load or store, the
    hints of a function, the comments of types, the u of u"text". The constant parts of
    an f-string are joined, since versions cut them differently.
    """
    if isinstance(node, list):
        return [canonical(item) for item in node]
    if isinstance(node, ast.Constant):  # ascii: what prints depends on the version
        return ["Constant", type(node.value).__name__, ascii(node.value)]
    if not isinstance(node, ast.AST):
        return ascii(node)
    parts = dict(ast.iter_fields(node))
    for skipped in ("ctx", "type_comment", "type_ignores", "returns"):
        parts.pop(skipped, None)
    if isinstance(node, ast.arg):
        parts.pop("annotation", None)
    if isinstance(node, ast.JoinedStr):
        parts["values"] = _joined(node.values)
    if _has_docstring(node):
        parts["body"] = parts["body"][1:]
    fields = {k: canonical(v) for k, v in parts.items() if v is not None and v != []}
    return [type(node).__name__, sorted(fields.items())]


def _joined(values: Sequence[ast.expr]) -> list[ast.expr]:
    joined: list[ast.expr] = []
    for value in values:
        last = joined[-1] if joined else None
        if isinstance(value, ast.Constant) and isinstance(last, ast.Constant):
            joined[-1] = ast.Constant(f"{last.value}{value.value}")
        else:
            joined.append(value)
    return [v for v in joined if not (isinstance(v, ast.Constant) and v.value == "")]


def _has_docstring(node: ast.AST) -> bool:
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return isinstance(node, kinds) and ast.get_docstring(node, clean=False) is not None


def code_hashes(code: Sequence[ModuleType | str]) -> dict[str, str]:
    """Hashes of the named modules and of what they import, without `KEEPERS`.

    Parameters
    ----------
    code : sequence of modules or names

    Returns
    -------
    dict
        {module: hash}.
    """
    names = [item if isinstance(item, str) else item.__name__ for item in code]
    return {
        name: source_hash(file)
        for name, file in sorted(closure(names).items())
        if name not in KEEPERS
    }


def function_code(function: Callable) -> dict[str, str]:
    """Hashes of the code that a run which `function` makes depends on.

    Of the module it stands in, and of other modules of the study, only what it uses
    counts: functions, classes and constants, and what these use. So a change in one
    experiment does not spoil another's runs. Modules of the method count whole, with
    all that they import, since losses and data sets are found by name.

    Returns
    -------
    dict
        {name of a module, or of what stands in one: hash}.
    """
    module = function.__module__
    symbols, modules, todo = {}, set(), [(module, function.__name__)]
    while todo:
        home, name = todo.pop()
        if f"{home}.{name}" in symbols:
            continue
        statements, imports = _contents(home)
        if name not in statements:
            modules.add(home)  # re-exported or made while importing: all of it counts
            continue
        nodes = statements[name]
        symbols[f"{home}.{name}"] = _digest_of([canonical(node) for node in nodes])
        for used in _used(nodes, imports, home):
            if isinstance(used, str):
                modules.add(used)
            elif used[1] in statements or used[0] != home:
                todo.append(used)
    names = sorted(modules - {module}) if module_file(module) is None else modules
    return symbols | code_hashes(sorted(names))


def _digest_of(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def _contents(module: str) -> tuple[dict[str, list[ast.stmt]], dict[str, Import]]:
    """A module's top-level statements and its imports, both by the names they bind."""
    file = module_file(module) or Path(sys.modules[module].__file__ or "")
    return _contents_of(file.read_text(encoding="utf-8"))


@functools.lru_cache(maxsize=100)
def _contents_of(
    source: str,
) -> tuple[dict[str, list[ast.stmt]], dict[str, Import]]:
    statements: dict[str, list[ast.stmt]] = {}
    imports: dict[str, Import] = {}
    for node in ast.parse(source).body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            imports |= _bound(node)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            statements.setdefault(node.name, []).append(node)
        else:
            for name in ast.walk(node):
                if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store):
                    statements.setdefault(name.id, []).append(node)
    return statements, imports


def _bound(node: Import) -> dict[str, Import]:
    """{local name: an import of that name alone}."""
    alone: dict[str, Import] = {}
    for alias in node.names:
        local = alias.asname or alias.name.split(".")[0]
        if isinstance(node, ast.Import):
            alone[local] = ast.Import(names=[alias])
        else:
            alone[local] = ast.ImportFrom(node.module, [alias], node.level)
    return alone


def _used(
    nodes: Sequence[ast.stmt], imports: Mapping[str, Import], home: str
) -> Iterator[str | tuple[str, str]]:
    """What statements use: (module, name) where it stands in the study, or a module."""
    inside = {}
    for node in nodes:
        for child in ast.walk(node):
            if isinstance(child, (ast.Import, ast.ImportFrom)):
                inside |= _bound(child)
    imports = {**imports, **inside}
    for node in nodes:
        for child in ast.walk(node):
            if isinstance(child, ast.Attribute) and isinstance(child.value, ast.Name):
                for module in _modules(imports.get(child.value.id), home):
                    study = module.split(".")[0] == "mipo_study"
                    yield (module, child.attr) if study else module
            elif isinstance(child, ast.Name) and child.id not in imports:
                yield (home, child.id)
            elif isinstance(child, ast.Name):
                node_of = imports[child.id]
                for module in _modules(node_of, home):
                    known = module.split(".")[-1] == _original(node_of)
                    study = module.split(".")[0] == "mipo_study"
                    if not study:
                        yield module
                    elif not known:
                        yield (module, _original(node_of))


def _original(node: Import) -> str:
    return node.names[0].name.split(".")[-1]


def _modules(node: Import | None, home: str) -> set[str]:
    """The module of ours that an import of one name leads to: the longest there is."""
    if node is None:
        return set()
    source = ast.unparse(ast.fix_missing_locations(node))
    modules = imported(source, f"{home}.x")
    return {max(modules, key=len)} - set(PACKAGES) if modules else set()


# ---- runs ----


@dataclass(frozen=True)
class Run:
    """One kept run.

    Attributes
    ----------
    metrics : dict
        What it measured.
    folder : Path
        Where its files lie, or will lie; `path` is the folder with the files in it.
    key : str
        Digest of its name, config, inputs and code.
    seconds : float
        What making it took.
    fresh : bool
        Whether this call made it.
    content : str
        Digest of its files; "" where that is not known.
    texts : dict
        {name: text} of the small files that are kept with the metrics.
    make : callable, optional
        Makes the files where they are not here.
    """

    metrics: dict
    folder: Path
    key: str
    seconds: float
    fresh: bool
    content: str = ""
    texts: Mapping[str, str] = field(default_factory=dict, repr=False)
    make: Callable[[], Run] | None = field(default=None, repr=False, compare=False)

    @property
    def path(self) -> Path:
        """The folder of its files, which are made if only the measurement is here."""
        if not self.folder.is_dir():
            self._make()
        return self.folder

    def _make(self) -> None:
        name = self.folder.name
        if self.make is None:
            raise FileNotFoundError(
                f"the files of run {name} are not here, only what it measured; ask the "
                "function that made it for the run, then for its path"
            )
        _say(f"{name}: its files are asked for and not here; making them again.")
        again = self.make()
        if again.metrics != self.metrics:
            _say(f"{name}: made again, its numbers differ from those measured before.")
        elif self.content and again.content != self.content:
            _say(
                f"{name}: made again, its files differ from those measured before, as "
                "another machine's can. Runs that read the first ones are found as if "
                "they had read these."
            )

    def read(self, name: str) -> str:
        """Text of one of its files, by name; a kept one is read without the others."""
        if name in self.texts and not self.folder.is_dir():
            return self.texts[name]
        return (self.path / name).read_text(encoding="utf-8")

    def __truediv__(self, name: str | Path) -> RunFile:
        return RunFile(self, Path(name).as_posix())

    def __getstate__(self) -> dict:
        """Another process gets the maker only if that is a function with a name."""
        known = getattr(self.make, "func", None) in (_again, _make_found)
        return {**self.__dict__, "make": self.make if known else None}


@dataclass(frozen=True)
class RunFile(os.PathLike):
    """A file or folder of a run, `run / "model"`: a path, made when it is opened.

    Attributes
    ----------
    run : Run
        Whose file it is.
    name : str
        Its path within the run's folder.
    """

    run: Run
    name: str

    def __fspath__(self) -> str:
        return str(self.run.path / self.name)

    __str__ = __fspath__

    @property
    def key(self) -> str:
        """What names it in keys of other runs: the run's key, without the file."""
        return f"{self.run.key}/{self.name}"


def _again(function: Callable, run_dir: Any, settings: dict) -> Run:
    return getattr(function, AGAIN)(run_dir, **settings)


def input_hash(value: Any, name: str) -> str:
    """What stands for an input in a key.

    Parameters
    ----------
    value : Run, RunFile, path or str
        A run, a file of one and a path within one's folder count by the run's key;
        another path by its content; a text that is no path is a hub name.
    name : str
        What errors call it.

    Returns
    -------
    str

    Raises
    ------
    ValueError
        For a path that does not exist, or lies in a run whose files were changed.
    """
    if isinstance(value, (Run, RunFile)):
        return value.key
    path = Path(value)
    if not path.exists():
        if isinstance(value, Path):
            raise ValueError(f"input {name!r}: {value} does not exist")
        return f"name:{value}"
    for folder in (path, *path.parents):
        if (folder / RUN).is_file():
            key = read_run(folder)["key"]
            inside = path.relative_to(folder).as_posix()
            return key if inside == "." else f"{key}/{inside}"
    return content_hash(path)


def read_run(folder: Path, key: str = "") -> dict:
    """What run.json holds, if it and every file of the run are as they were written.

    Parameters
    ----------
    folder : Path
        Of the run.
    key : str
        The key that the run must have; "" is any.

    Returns
    -------
    dict
        name, config, inputs, code, key, metrics, begun, seconds, files, provenance, and
        read, {input: digest of its files} of the runs that it was made from.

    Raises
    ------
    ValueError
        Naming the file that is missing or was changed.
    """
    try:
        about = files.unseal(folder / RUN)
    except OSError as error:
        raise ValueError(f"{folder.name}/{RUN} cannot be read ({error})") from None
    if about["key"] != (key or about["key"]):
        raise ValueError(f"{folder.name}/{RUN} belongs to another run")
    for name, sha in about["files"].items():
        file = folder / name
        if not file.is_file():
            raise ValueError(f"{folder.name}/{name} is missing")
        if files.file_hash(file) != sha:
            raise ValueError(f"{folder.name}/{name} was changed after it was written")
    return about


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """Seconds covered by spans of time; what overlaps is counted once.

    Parameters
    ----------
    spans : iterable of (float, float)
        Begin and end of each, seconds. Runs made side by side take no longer than one.
    """
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
    code: Sequence[ModuleType | str] | Mapping[str, str],
    inputs: Mapping[str, Any] | None = None,
    keep: Sequence[str] = (),
    again: Callable[[], Run] | None = None,
    files_too: bool = False,
    maker: str = "",
) -> Run:
    """Load the run with this name, config, inputs and code, or make it.

    It is made whole or not at all. It is looked for among the runs of `run_dir`, then
    among what was measured there, then in what is committed, ``results/*/measured``.

    Parameters
    ----------
    run_dir : path
        Where runs are kept; relative to the project's root.
    name : str
        Letters, digits and . _ + - only; the folder's name begins with it.
    config : dict
        JSON values that decide the result.
    make : callable
        make(folder) may write files into the folder and returns JSON metrics (finite;
        None for "no number").
    code : sequence of modules or names, or dict
        Their sources count, with every module of the two packages that they import; or
        hashes by name, as `function_code` gives them.
    inputs : dict
        {name: Run, file of a run, path (known by its content), or hub name}.
    keep : sequence of str
        Small text files of the folder that are kept with the metrics; see `Run.read`.
    again : callable, optional
        Makes the files for a Run that was found without them; by default this call.
    files_too : bool
        Whether a measurement without the files is not enough.
    maker : str
        Name in `MAKERS` of the function that makes such runs, for `find`.

    Returns
    -------
    Run

    Raises
    ------
    ValueError
        For a name, a config or metrics that cannot be kept, and unknown modules.
    """
    if not re.fullmatch(r"[\w.+-]+", name):
        raise ValueError(f"run name {name!r}: use letters, digits and . _ + - only")
    files.refuse_nan(config, f"{name}: config")
    hashes = {key: input_hash(value, key) for key, value in (inputs or {}).items()}
    about = {"name": name, "config": config, "inputs": hashes}
    about |= {"code": dict(code) if isinstance(code, Mapping) else code_hashes(code)}
    key = digest(about)
    label = f"{name}-{key[:16]}"
    home = resolve(run_dir)
    remake = functools.partial(run_or_load, run_dir, name, config, make, code=code)
    remake = functools.partial(remake, inputs=inputs, keep=keep, files_too=True)
    with _locked(home, label):  # a second process waits, then loads what the first made
        wanted = home / "wanted" / label
        damaged = False
        try:
            document = _load(home, label, key, keep)
        except ValueError as error:
            _say(f"{error}; the run is made anew.")
            document, damaged = None, True
        if document is None and not (files_too or damaged or wanted.exists()):
            document = _load_measured(home, label, key)
        fresh = document is None
        if document is None:
            about |= {"key": key, "maker": maker}
            document = _make_run(home, label, about, make, keep, inputs or {})
            wanted.unlink(missing_ok=True)
    USED[label] = (document["begun"], document["begun"] + document["seconds"])
    return Run(
        metrics=document["metrics"],
        folder=home / "runs" / label,
        key=key,
        seconds=document["seconds"],
        fresh=fresh,
        content=_content(document),
        texts=document.get("texts", {}),
        make=again or remake,
    )


def _locked(home: Path, label: str) -> FileLock:
    locks = home / "runs" / ".locks"
    try:
        locks.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        advice = f"run_dir {home} cannot be written: {error.strerror}; name another"
        raise OSError(error.errno, advice) from None
    return FileLock(locks / label)


def _load(home: Path, label: str, key: str, keep: Sequence[str]) -> dict | None:
    """run.json, or None where the run is absent; ValueError where it was changed."""
    folder = home / "runs" / label
    if not os.path.lexists(folder):
        return None
    about = read_run(folder, key)
    if not (home / "measured" / f"{label}.json").is_file():
        _write_measured(home, label, about, keep)
    return about


def _load_measured(home: Path, label: str, key: str) -> dict | None:
    """What the run measured, here or as committed, or None."""
    for file in _measurements(home, label):
        try:
            document = files.unseal(file)
        except (ValueError, OSError) as error:
            _say(f"{error}; it is not used.")
            continue
        if document["key"] == key:
            return document
    return None


def _make_run(
    home: Path,
    label: str,
    about: dict,
    make: Callable,
    keep: Sequence[str],
    inputs: Mapping[str, Any],
) -> dict:
    folder, partial = home / "runs" / label, home / "runs" / f".{label}.partial"
    _sweep(home / "runs", label)
    files.remove(folder)
    files.remove(partial)
    partial.mkdir()
    state = source_state()  # asked before the work, which may take hours
    begun, start = time.time(), time.perf_counter()
    try:
        metrics = make(partial)
        seconds = round(time.perf_counter() - start, 3)
        files.refuse_nan(metrics, f"{about['name']}: metrics")
        about |= {"metrics": metrics, "begun": round(begun, 3), "seconds": seconds}
        about |= {"files": _hashes(partial), "read": _digests(inputs)}
        about |= provenance(state)
        files.write_whole(partial / RUN, files.seal(about))
        files.sync(*partial.rglob("*"), partial)
        os.rename(partial, folder)
    except BaseException:
        files.remove(partial)
        raise
    files.sync(folder.parent)  # the rename itself reaches the disk
    about = files.unseal(folder / RUN)
    _write_measured(home, label, about, keep)
    return about


def _hashes(folder: Path) -> dict[str, str]:
    inside = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(f.relative_to(folder).as_posix()): files.file_hash(f) for f in inside}


def _content(document: Mapping[str, Any]) -> str:
    """Digest of a run's files, from run.json or from what it measured."""
    there = document.get("files")
    return digest(there) if there is not None else document.get("content", "")


def _digests(inputs: Mapping[str, Any]) -> dict[str, str]:
    """{input: digest of its files} of the inputs that are runs with files here."""
    runs = {
        name: value.run if isinstance(value, RunFile) else value
        for name, value in inputs.items()
    }
    return {
        name: _content(files.unseal(run.folder / RUN))
        for name, run in runs.items()
        if isinstance(run, Run) and (run.folder / RUN).is_file()
    }


def _write_measured(home: Path, label: str, about: dict, keep: Sequence[str]) -> None:
    folder = home / "runs" / label
    there = [name for name in keep if (folder / name).is_file()]
    texts = {name: (folder / name).read_text(encoding="utf-8") for name in there}
    measured = {key: value for key, value in about.items() if key != "files"}
    measured["content"] = _content(about)
    target = home / "measured" / f"{label}.json"
    files.write_whole(target, files.seal({**measured, "texts": texts}))


def _sweep(runs: Path, label: str) -> None:
    """Remove what killed processes left half made; what is being made is locked."""
    for partial in runs.glob(".*.partial"):
        other = partial.name[1 : -len(".partial")]
        if other == label:
            continue
        try:
            with FileLock(runs / ".locks" / other, timeout=0):
                files.remove(partial)
        except (Timeout, OSError):
            continue


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# ---- what was measured, for others ----


def find(run_dir: str | Path, label: str, advice: str = "") -> Run | None:
    """A run by its folder's name, as an earlier notebook left it, or None.

    Where only its measurement is here, its files are made when they are asked for.

    Parameters
    ----------
    run_dir : path
        Where runs are kept.
    label : str
        Name of the run's folder.
    advice : str
        What to do where the files are asked for and cannot be made.

    Returns
    -------
    Run or None

    Raises
    ------
    ValueError
        Naming the file of the run that was changed.
    """
    home = resolve(run_dir)
    folder, key = home / "runs" / label, label.rpartition("-")[2]
    if folder.is_dir():
        document = read_run(folder)
    else:
        there = _measurements(home, label)
        document = files.unseal(there[0]) if there else None
    if document is None or document["key"][:16] != key:
        return None
    return Run(
        metrics=document["metrics"],
        folder=folder,
        key=document["key"],
        seconds=document["seconds"],
        fresh=False,
        content=_content(document),
        texts=document.get("texts", {}),
        make=functools.partial(_make_found, run_dir, label, advice),
    )


def _measurements(home: Path, label: str) -> list[Path]:
    """Files of what a run measured, by its name or a pattern: here, committed."""
    committed = project_root().glob(f"results/*/measured/{label}.json")
    return [*sorted((home / "measured").glob(f"{label}.json")), *sorted(committed)]


def _make_found(run_dir: str | Path, label: str, advice: str) -> Run:
    """Make the files of a run that `find` found, from what its measurement says.

    Raises
    ------
    FileNotFoundError
        With the advice, where the run's function, its code as it was or one of its
        inputs is not here. The notebook that asks for the run then makes it.
    """
    home = resolve(run_dir)
    about = files.unseal(_measurements(home, label)[0])
    make = MAKERS.get(about.get("maker", ""))
    inputs = {name: _input(run_dir, value) for name, value in about["inputs"].items()}
    same = make is not None and function_code(inspect.unwrap(make)) == about["code"]
    if make is None or not same or None in inputs.values():
        files.write_whole(home / "wanted" / label, "")
        raise FileNotFoundError(advice or f"{home / 'runs' / label} is not here")
    return getattr(make, AGAIN)(run_dir, **about["config"], **inputs)


def _input(run_dir: str | Path, value: str) -> Run | RunFile | str | None:
    """The input that `input_hash` has written so; None where it cannot be known."""
    kind, _, name = value.partition(":")
    if kind == "name":
        return name
    key, _, inside = value.partition("/")
    home = resolve(run_dir)
    there = [
        *(home / "runs").glob(f"*-{key[:16]}"),
        *_measurements(home, f"*-{key[:16]}"),
    ]
    run = find(run_dir, there[0].name.removesuffix(".json")) if there else None
    if run is None or run.key != key:
        return None
    return run / inside if inside else run


def measured(run_dir: str | Path) -> list[Path]:
    """The files of what was measured by the runs that the results in `run_dir` used.

    Returns
    -------
    list of Path
        Of `run_dir` itself, or already committed for a scale of the same name; those
        borrowed from another scale's are left where they are.
    """
    home = resolve(run_dir)
    used: set[str] = set()
    for result in sorted((home / "results").glob("*.json")):
        used |= set(files.unseal(result, must=False).get("runs", []))
    committed = project_root() / "results" / home.name / "measured"
    places = [
        [p / f"{label}.json" for p in (home / "measured", committed)]
        for label in sorted(used)
    ]
    first = [next((f for f in place if f.is_file()), None) for place in places]
    return [file for file in first if file is not None]


def cached(
    name: str, *, inputs: Sequence[str] = (), keep: Sequence[str] = ()
) -> Callable[[Callable[..., dict]], Callable[..., Run]]:
    """Make a run of a function that writes files into a folder and returns metrics.

    ``make(folder, *, progress, **settings)`` becomes ``make(run_dir, *, progress=None,
    **settings) -> Run``: made once for its settings, inputs and code, then found again.
    Without `progress`, bars are shown by hand and not in a kernel of the chain.

    Parameters
    ----------
    name : str
        Name of the run; ``{setting}`` stands for the value of a setting.
    inputs : sequence of str
        Settings that are a Run, a path (known by its content) or a hub name.
    keep : sequence of str
        Small files of the folder that are kept with the metrics.

    Returns
    -------
    callable
        The decorator.
    """

    def decorate(make: Callable[..., dict]) -> Callable[..., Run]:
        signature = inspect.signature(make)
        maker = f"{make.__module__}.{make.__qualname__}"

        def run_of(
            run_dir: str | Path,
            *,
            files_too: bool = False,
            progress: bool | None = None,
            **settings: Any,
        ) -> Run:
            if progress is None:  # nobody watches a kernel that the chain started
                progress = STARTED not in os.environ
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
                code=function_code(make),
                inputs=given,
                keep=keep,
                again=functools.partial(_again, decorated, run_dir, settings),
                files_too=files_too,
                maker=maker,
            )

        @functools.wraps(make)
        def decorated(
            run_dir: str | Path, *, progress: bool | None = None, **settings: Any
        ) -> Run:
            return run_of(run_dir, progress=progress, **settings)

        again = functools.partial(run_of, files_too=True, progress=False)
        setattr(decorated, AGAIN, again)
        MAKERS[maker] = decorated
        return decorated

    return decorate
