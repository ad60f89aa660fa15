"""Which code, machine and versions made a result."""

from __future__ import annotations

import datetime
import importlib
import importlib.metadata
import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from mipo.files import SOURCE, project_root

VERSIONS = (
    "torch",
    "transformers",
    "trl",
    "peft",
    "datasets",
    "numpy",
    "scipy",
    "matplotlib",
)


def git(*arguments: str) -> str:
    """What git says of the project; nothing where there is no git or no repository."""
    plain = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    command = ["git", *arguments]
    try:
        done = subprocess.run(
            command, cwd=project_root(), env=plain, capture_output=True, check=False
        )
    except OSError:  # git is not installed, or may not be run
        return ""
    text = done.stdout.decode(errors="replace").strip()
    return text if done.returncode == 0 else ""


def source_state() -> dict[str, Any]:
    """Commit of this project, and whether its files differ from the commit.

    Returns
    -------
    dict
        commit: 12 digits, or "no commit" where the code is not in a repository of its
        own (an archive, a package, a folder within another project); dirty: whether a
        tracked file was changed or an untracked one lies among the sources.
    """
    top = git("rev-parse", "--show-toplevel")
    own = bool(top) and Path(top).resolve() == project_root().resolve()
    if not own or not SOURCE.is_relative_to(Path(top).resolve()):
        return {"commit": "no commit", "dirty": False}
    changed = git("status", "--porcelain", "--untracked-files=no")
    added = git("ls-files", "--others", "--exclude-standard", "--", str(SOURCE))
    commit = git("rev-parse", "--short=12", "HEAD") or "no commit"
    return {"commit": commit, "dirty": bool(changed or added)}


def machine() -> str:
    """The kind of machine, never its name."""
    info = Path("/proc/cpuinfo")  # Linux; platform knows it elsewhere
    text = info.read_text() if info.exists() else ""
    named = re.search(r"model name\s*:\s*(.+)", text)
    name = named.group(1).strip() if named else platform.processor()
    affinity = getattr(os, "sched_getaffinity", None)  # macOS and Windows lack it
    cores = len(affinity(0)) if affinity else os.cpu_count()
    return f"{name or platform.machine()}, {cores} cores"


def peak_memory() -> float:
    """GB that this process has held at most."""
    memory = psutil.Process().memory_info()
    peak = getattr(memory, "peak_wset", None) or _peak_unix() or memory.rss
    return round(peak / 2**30, 2)


def _peak_unix() -> int:
    """Bytes held at most, by the standard library; psutil has it on Windows only."""
    if os.name == "nt":
        return 0
    getrusage = importlib.import_module("resource").getrusage
    peak = getrusage(0).ru_maxrss  # 0: this process
    return peak if platform.system() == "Darwin" else peak * 1024


def versions() -> dict[str, str]:
    """Versions of Python and of those of `VERSIONS` that are installed."""
    installed = {"python": platform.python_version()}
    for name in VERSIONS:
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return installed


def provenance(state: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Code, date, machine and versions.

    Parameters
    ----------
    state : dict, optional
        `source_state()` as it was before the work; by default as it is now.
    """
    torch = sys.modules.get("torch")  # what has not imported it computed on no GPU
    gpu = torch.cuda.get_device_name() if torch and torch.cuda.is_available() else None
    return {
        **(source_state() if state is None else state),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": machine(),
        "gpu": gpu,
        "versions": versions(),
    }
