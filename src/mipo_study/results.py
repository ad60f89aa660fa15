"""What is committed in results/: the published runs of each scale."""

from __future__ import annotations

from mipo.files import project_root, unseal


def committed(notebook: str, scale: str) -> dict | None:
    """The result file of a notebook at a scale, or None where nothing was run yet."""
    file = project_root() / "results" / scale / f"{notebook}.json"
    return unseal(file, must=False) if file.exists() else None
