"""Result files as the pages read them: this scale's own run and the published ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mipo.cache import code_hashes
from mipo.files import project_root, unseal
from mipo.numbers import Number

GPU = "15-gpu-models"
Results = Mapping[str, dict]  # {notebook: its result file}


def load_claims() -> list[dict]:
    """book/claims.yml, in order."""
    import yaml

    file = project_root() / "book" / "claims.yml"
    return yaml.safe_load(file.read_text(encoding="utf-8"))


def results_in(folder: Path) -> dict[str, dict]:
    """{notebook: its result file} of a folder.

    Results of the first edition carry no digest and are read as they are.

    Raises
    ------
    ValueError
        For a file that was changed after it was written.
    """
    result_files = sorted(folder.glob("[0-9]*.json"))
    try:
        return {file.stem: unseal(file, must=False) for file in result_files}
    except ValueError as error:
        advice = "restore it from git, or delete it and run its chapter again"
        raise ValueError(f"{error}; {advice}") from None


def best_results(scale: str) -> dict[str, dict]:
    """The published results of each chapter, else this scale's own.

    Results of scale full stand before those of scale gpu; a run that was skipped
    stands for nothing (chapter 15 at scale full).
    """
    root = project_root()
    best = results_in(root / "runs" / scale / "results")
    for place in ("gpu", "full"):
        for name, result in results_in(root / "results" / place).items():
            if not result.get("skipped"):
                best[name] = result
    return best


def outdated(result: dict) -> list[str]:
    """The modules that changed since a result was made."""
    changed = []
    for name, then in result.get("code", {}).items():
        try:
            now = code_hashes([name])[name]
        except (ValueError, KeyError):
            now = "gone"
        if now != then:
            changed.append(name)
    return sorted(changed)


def claim_label(slug: str, chapter: str, home: str) -> str:
    """The label of a claim's cell, which is unique in the book.

    Parameters
    ----------
    slug : str
        Of the claim.
    chapter : str
        The notebook that has the cell.
    home : str
        The claim's own notebook: there the label is the cell's tag, in others it has
        the chapter's number, too.
    """
    if chapter == home:
        return f"claim-{slug}"
    return f"claim-{chapter.split('-')[0]}-{slug}"


def claim_status(
    claim: dict, results: Results, chapter: str | None = None
) -> tuple[str, dict | None]:
    """The word that a claim has got.

    Parameters
    ----------
    claim : dict
        Of book/claims.yml.
    results : dict
        Result files.
    chapter : str, optional
        The notebook that is asked, the claim's own by default.

    Returns
    -------
    status : str
        holds, in part, undecided, fails, not judged or open.
    measurement : dict or None
        The claim in its chapter's results.
    """
    result = results.get(chapter or claim.get("notebook", ""), {})
    measurement = result.get("claims", {}).get(claim["slug"])
    if measurement is None:
        return "open", None
    return measurement["status"] or "not judged", measurement


def measured(measurement: dict) -> str:
    """The measured value, with each part's status where a claim has parts."""
    if "parts" not in measurement:
        return str(Number(**measurement["number"]))
    parts = []
    for name, part in measurement["parts"].items():
        status = part["status"] or "not judged"
        parts.append(f"{name}: {Number(**part['number'])} ({status})")
    return "; ".join(parts)
