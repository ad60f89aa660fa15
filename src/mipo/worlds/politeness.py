"""Labelled pairs: an answer, and the same answer rewritten politely or impolitely.

The instruction data with preferences of Sebastian Raschka's "LLMs from scratch", and a
small program that says whether a reply is polite or rude.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

from mipo.files import file_hash
from mipo.network import Unavailable, downloads, offline

COMMIT = "28c65cdfbc3338e2e040016eea4b7fdf556e4d57"
FILE = "ch07/04_preference-tuning-with-dpo/instruction-data-with-preference.json"
URL = f"https://raw.githubusercontent.com/rasbt/LLMs-from-scratch/{COMMIT}/{FILE}"
SHA256 = "305315abf14f65fa42c01a0877572f832606571c2a7d49f152ac1d758b16756e"
FOLDER = "llms-from-scratch-instructions"  # in MIPO_DATA and in the cache
LICENCE = (
    "Instruction data with preferences from <https://github.com/rasbt/LLMs-from-"
    "scratch>, copyright 2023-2026 Sebastian Raschka, Apache-2.0."
)
PARTS = {"train": 60, "select": 15, "test": 25}  # per cent of the instructions
COLUMNS = ("instruction", "input", "output", "chosen", "rejected")

# ---- where the file comes from ----


def file() -> Path:
    """The file of pairs, from ``MIPO_DATA`` or else downloaded once (0.4 MB).

    Returns
    -------
    Path

    Raises
    ------
    Unavailable
        Without a local copy and without a network; ``HF_HUB_OFFLINE=1`` counts as none.
    ValueError
        Where its SHA-256 is not the pinned one.
    """
    places = [downloads() / FOLDER / FILE]
    if os.environ.get("MIPO_DATA"):
        places.insert(0, Path(os.environ["MIPO_DATA"]) / FOLDER / FILE)
    found = next((place for place in places if place.is_file()), None)
    path = found or _download(places[-1])
    actual = file_hash(path)
    if actual != SHA256:
        raise ValueError(
            f"{path}: SHA-256 {actual[:12]}… is not the pinned {SHA256[:12]}…; "
            f"fetch it from {URL}"
        )
    return path


def _download(path: Path) -> Path:
    import pooch

    way_out = f"set MIPO_DATA to a folder with {FOLDER}/{FILE}"
    if offline():
        raise Unavailable(
            f"labelled pairs: no local copy and HF_HUB_OFFLINE is set; {way_out}, "
            "or allow the download"
        )
    pooch.get_logger().setLevel("ERROR")  # its messages name local paths
    try:
        pooch.retrieve(
            URL,
            f"sha256:{SHA256}",
            fname=path.name,
            path=path.parent,
            downloader=pooch.HTTPDownloader(timeout=20),  # pyrefly: ignore
        )
    except OSError as error:  # requests' errors are OSErrors
        raise Unavailable(
            f"labelled pairs: could not be downloaded ({type(error).__name__}); "
            f"{way_out}, or try again with a network"
        ) from None
    return path


# ---- what it holds ----


def read(path: Path | None = None) -> list[dict[str, Any]]:
    """Every row of the file.

    Parameters
    ----------
    path : Path, optional
        None: `file`.

    Returns
    -------
    list of dict
        query (the instruction and, in a paragraph of its own, its input), chosen,
        rejected, output (the answer that was rewritten), part (see `PARTS`), and kind:
        "rude" (the rejected reply is the answer rewritten impolitely, the chosen one
        the answer itself), "polite" (the chosen reply is the answer rewritten politely,
        the rejected one the answer itself) or "equal" (both are the answer).

    Raises
    ------
    ValueError
        Naming the row, for one without its texts, and for one of which neither side is
        the answer.
    """
    path = path or file()
    rows = json.loads(path.read_text(encoding="utf-8"))
    return [_pair(row, f"{path.name}, row {i + 1}") for i, row in enumerate(rows)]


def _pair(row: dict[str, Any], where: str) -> dict[str, Any]:
    for name in COLUMNS:
        if not isinstance(row.get(name), str):
            raise ValueError(f'{where}: "{name}" is missing or no text')
    query = "\n\n".join(filter(None, (row["instruction"], row["input"])))
    kept = {name: row[name] for name in ("output", "chosen", "rejected")}
    return {
        "query": query,
        **kept,
        "part": part(row["instruction"]),
        "kind": _kind(row, where),
    }


def _kind(row: dict[str, str], where: str) -> str:
    """Which side was rewritten."""
    if row["chosen"] == row["rejected"]:
        return "equal"
    if row["chosen"] == row["output"]:
        return "rude"
    if row["rejected"] == row["output"]:
        return "polite"
    raise ValueError(f'{where}: neither "chosen" nor "rejected" is "output"')


def part(instruction: str) -> str:
    """The part of an instruction: the same for all that differ in marks and case only.

    Parameters
    ----------
    instruction : str
        Without its input, so that no instruction is in two parts.

    Returns
    -------
    str
        A key of `PARTS`.
    """
    plain = " ".join(re.findall(r"\w+", instruction.lower()))
    digest = hashlib.sha256(plain.encode()).hexdigest()
    place = int(digest, 16) % 100
    for name, share in PARTS.items():
        if place < share:
            return name
        place -= share
    raise AssertionError("the shares of PARTS are 100 together")


def pairs(name: str) -> list[dict[str, Any]]:
    """The pairs of a part whose two replies differ.

    Parameters
    ----------
    name : str
        A key of `PARTS`.

    Returns
    -------
    list of dict
        As of `read`, in the order of the file.

    Raises
    ------
    ValueError
        For an unknown part.
    """
    if name not in PARTS:
        raise ValueError(f"part: there is no {name!r}; parts: {', '.join(PARTS)}")
    return [row for row in read() if row["part"] == name and row["kind"] != "equal"]


# ---- who is polite ----

# Phrases of rewritten replies of the part "train", where no answer has them.
POLITE_PHRASES = (
    r"(?:happy|glad|pleased|delighted) to",
    r"if i may",
    r"kindly",
    r"please",
    r"thank(?:s| you)",
    r"i'm afraid",
    r"polite(?:ly)?",
    r"respectfully",
    r"for your reference",
)
RUDE_PHRASES = (
    r"obviously",
    r"duh",
    r"(?:freaking|damn|darn|stupid|crappy)",
    r"(?:genius|brain dead)",
    r"ridiculously",
    r"get (?:it|a grip|with)",
    r"look it up",
    r"i'll tell you",
    r"not that hard",
    r"(?:if you must|in case you didn't) know",
    r"(?:goodness'|pete's) sake",
    r"next time",
    r"stop bothering",
    r"^look",
    r"okay$",
    r"already$",
)


def _pattern(phrases: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile(rf"\b(?:{'|'.join(phrases)})\b")


_POLITE, _RUDE = _pattern(POLITE_PHRASES), _pattern(RUDE_PHRASES)


def is_rude(reply: str) -> bool:
    """Whether a reply has a phrase of insult, impatience or condescension."""
    return bool(_RUDE.search(_plain(reply)))


def is_polite(reply: str) -> bool:
    """Whether a reply has a phrase of courtesy, and none that is rude."""
    return bool(_POLITE.search(_plain(reply))) and not is_rude(reply)


def _plain(reply: str) -> str:
    """Words in lower case, with single spaces and without marks."""
    return " ".join(re.findall(r"[\w']+", reply.lower().replace("’", "'")))
