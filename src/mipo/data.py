"""Examples (context, query, gold): from the study's worlds or the reader's own file."""

import difflib
from pathlib import Path

from mipo import jsonl, worlds
from mipo.lm.prompts import render

__all__ = ["FIELDS", "load", "read_jsonl", "render"]

FIELDS = ("context", "query", "gold")
MISSING_ALLOWED = ("context", "person")
# Names that other data sets use for the query: worth a hint, never guessed.
_OTHER_NAMES = {"prompt", "question", "instruction", "input", "text", "message"}


def load(name: str | Path, **settings) -> list[dict]:
    """Examples by the name of their source.

    Parameters
    ----------
    name : str or Path
        "world" (`mipo.world`), "polis" (`mipo.worlds.polis`), "wishes"
        (`mipo.worlds.wishes`), or the path of a file that ends in .jsonl.
    **settings
        Keywords of the source's own function.

    Returns
    -------
    list of dict
        Each has "query" (text), "context" (text, may be empty), "gold" (text or None)
        and whatever else its source knows.

    Raises
    ------
    ValueError
        For an unknown name or a broken file.
    mipo.worlds.polis.DataUnavailable
        Where the votes cannot be had.
    """
    if str(name) in worlds.SOURCES:
        return worlds.examples(str(name), **settings)
    if Path(name).suffix == ".jsonl":
        return read_jsonl(name, **settings)
    known = list(worlds.SOURCES)
    near = difflib.get_close_matches(str(name).lower(), known, n=1)
    hint = f'; did you mean "{near[0]}"?' if near else ""
    expected = ", ".join(f'"{source}"' for source in known)
    raise ValueError(
        f'examples "{name}": expected {expected} or the path of a file that ends in '
        f".jsonl{hint}"
    )


def read_jsonl(path: str | Path) -> list[dict]:
    """Examples from a JSONL file of the reader.

    Parameters
    ----------
    path : str or Path
        UTF-8, one JSON object per line. "query" is required, "context" and "gold" are
        optional, and further fields are kept as they are.

    Returns
    -------
    list of dict
        A missing context becomes "", a missing gold None; "read_from" names file and
        line, for the errors of later steps.

    Raises
    ------
    ValueError
        Naming file and line: what `mipo.jsonl.read` refuses; a field that is missing,
        empty, no text, or so close to a known name that it must be a slip. Also for a
        file without any example.
    """
    examples = [_example(row, where) for where, row in jsonl.read(path, "examples")]
    if not examples:
        raise ValueError(
            f"{path}: the file holds no example; write one JSON object with a "
            '"query" per line'
        )
    return examples


def _example(row: dict, where: str) -> dict:
    """A checked example of one row."""
    for name in set(row) - set(FIELDS):
        _refuse_slip(name, where)
    if "query" not in row:
        others = sorted(_OTHER_NAMES & set(row))
        hint = f'; rename "{others[0]}" to "query"' if others else ""
        raise ValueError(f'{where}: field "query" is missing{hint}')
    jsonl.require_text(row["query"], "query", where, "put it in double quotes")
    for name in ("context", "gold"):
        value = row.get(name)
        if value is not None and not isinstance(value, str):
            raise ValueError(
                f'{where}: field "{name}" must be text, got {jsonl.kind(value)}; '
                "put it in double quotes"
            )
    for name in MISSING_ALLOWED:
        if str(row.get(name)).lower() == "nan":
            raise ValueError(
                f'{where}: field "{name}" is "{row[name]}", which pandas writes where '
                "a value is missing; write null, or leave the field out"
            )
    context, gold = row.get("context") or "", row.get("gold")
    return {**row, "context": context, "gold": gold, "read_from": where}


def _refuse_slip(name: str, where: str) -> None:
    near = difflib.get_close_matches(name.lower().strip(), FIELDS, n=1, cutoff=0.75)
    if near:
        raise ValueError(f'{where}: unknown field "{name}"; did you mean "{near[0]}"?')
