"""The one reader of JSONL: a JSON object per line, in UTF-8, or one clear error."""

import json
import math
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MOST_LEVELS = 64  # of lists and objects in each other; the deepest of ours is 4
_SIXTY_FOUR_BITS = 2**63
_LINE_END = re.compile(rb"\r\n|\n|\r")  # no others: a text may hold U+2028 as it is
_INVISIBLE = {"Cc", "Cf", "Zl", "Zp", "Zs", "Mn", "Me"}  # categories of Unicode


def read(path: str | Path, holds: str = "rows") -> Iterator[tuple[str, dict]]:
    """Read a JSONL file line by line.

    Parameters
    ----------
    path : str or Path
        Blank lines in it are skipped, a byte order mark at its beginning is dropped.
    holds : str
        What the file should hold, for the error where it does not exist.

    Yields
    ------
    where : str
        File and line, for the errors of later steps.
    row : dict
        The line's object.

    Raises
    ------
    ValueError
        Naming file and line, and the field where one is at fault: no such file, not
        UTF-8, not JSON, not an object, a field given twice, a number that is NaN,
        infinite or beyond 64 bits, half a surrogate pair, too many levels.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(
            f"{path}: there is no such file; give the path of a JSONL file of {holds}"
        )
    for number, line in enumerate(_LINE_END.split(path.read_bytes()), start=1):
        where = f"{path}, line {number}"
        text = _decode(line, where, first=number == 1).strip()
        if text:
            yield where, _parse(text, where)


def rows(path: str | Path) -> list[dict]:
    """All rows of a JSONL file, without saying where they stand; see `read`."""
    return [row for _, row in read(path)]


def require_text(value: Any, field: str, where: str, hint: str = "") -> str:
    """A field's value, if it is text that somebody could read.

    Parameters
    ----------
    value : Any
        As it stands in the file.
    field, where : str
        The field's name, and file and line.
    hint : str
        What to do where it is no text, after a semicolon.

    Returns
    -------
    str
        The value itself.

    Raises
    ------
    ValueError
        Where it is no text, or nothing of it can be seen.
    """
    if not isinstance(value, str):
        raise ValueError(
            f'{where}: field "{field}" must be text, got {kind(value)}'
            + (f"; {hint}" if hint else "")
        )
    if is_blank(value):
        raise ValueError(f'{where}: field "{field}" is empty')
    return value


def is_blank(text: str) -> bool:
    """Whether nothing of a text can be seen: spaces, controls, zero-width marks."""
    return all(unicodedata.category(char) in _INVISIBLE for char in text)


def kind(value: Any) -> str:
    """What a JSON value is, in JSON's own words."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    names = {dict: "an object", list: "an array", str: "text"}
    return names.get(type(value), "a number")


def _decode(line: bytes, where: str, *, first: bool) -> str:
    """One line as text; a NUL byte gives away UTF-16."""
    try:
        text = line.decode("utf-8-sig" if first else "utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{where}: byte {error.start + 1} is not UTF-8; save the file as UTF-8"
        ) from None
    if "\0" in text:
        raise ValueError(
            f"{where}: NUL bytes, so this is not UTF-8 text (UTF-16?); "
            "save the file as UTF-8"
        )
    return text


def _parse(text: str, where: str) -> dict:
    """One line of JSON as an object without faults."""

    def unique(pairs: list[tuple[str, Any]]) -> dict:
        names = [name for name, _ in pairs]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise _Fault(f'field "{twice[0]}" is given twice; keep one')
        return dict(pairs)

    try:
        row = json.loads(text, object_pairs_hook=unique, parse_int=_integer)
    except _Fault as fault:
        raise ValueError(f"{where}: {fault}") from None
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{where}: not JSON ({error.msg} at character {error.pos + 1}); "
            "write one complete JSON object per line"
        ) from None
    except RecursionError:
        raise ValueError(f"{where}: {_TOO_DEEP}") from None
    if not isinstance(row, dict):
        raise ValueError(
            f'{where}: expected a JSON object such as {{"query": "…"}}, got {kind(row)}'
        )
    for name, value in row.items():
        fault = _fault(name) or _fault(value)
        if fault:
            shown = name.encode("ascii", "backslashreplace").decode()
            raise ValueError(f'{where}: field "{shown}": {fault}')
    return row


class _Fault(Exception):
    """What is wrong with a line, before it is known where that line stands."""


_TOO_DEEP = f"more than {MOST_LEVELS} lists and objects in each other"


def _integer(digits: str) -> int | float:
    """An integer; one far beyond 64 bits is infinite, which `_fault` then refuses."""
    return int(digits) if len(digits) <= 20 else math.inf


def _fault(value: Any, level: int = 1) -> str:
    """What is wrong with a value, in words; empty where nothing is."""
    if isinstance(value, str):
        whole = value.isascii() or not any("\ud800" <= c <= "\udfff" for c in value)
        return "" if whole else "half a surrogate pair, which is no character"
    if isinstance(value, (int, float)):
        small = math.isfinite(value) and abs(value) < _SIXTY_FOUR_BITS
        fine = small or (isinstance(value, float) and math.isfinite(value))
        return "" if fine else "a number that is NaN, infinite or beyond 64 bits"
    if not isinstance(value, (dict, list)):
        return ""
    if level > MOST_LEVELS:
        return _TOO_DEEP
    parts = [*value, *value.values()] if isinstance(value, dict) else value
    faults = (_fault(part, level + 1) for part in parts)
    return next((fault for fault in faults if fault), "")
