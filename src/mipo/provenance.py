"""Which code, machine and versions made a result."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import re
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

from mipo.files import project_root

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


def git(*args: str) -> str:
    done = subprocess.run(
        ["git", *args], cwd=project_root(), capture_output=True, text=True, check=False
    )
    return done.stdout.strip() if done.returncode == 0 else ""


def machine() -> str:
    """The kind of machine, never its name."""
    info = Path("/proc/cpuinfo")
    found = (
        re.search(r"model name\s*:\s*(.+)", info.read_text()) if info.exists() else None
    )
    cores = (
        len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count()
    )
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
    torch = sys.modules.get(
        "torch"
    )  # what has not imported it has not computed on a GPU
    gpu = torch.cuda.get_device_name() if torch and torch.cuda.is_available() else None
    return {
        "commit": git("rev-parse", "--short=12", "HEAD") or "no commit",
        "dirty": bool(git("status", "--porcelain", "--untracked-files=no")),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": machine(),
        "gpu": gpu,
        "versions": versions(),
    }
