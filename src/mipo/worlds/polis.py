"""Polis: what real people voted on each other's statements, read from any export."""

from __future__ import annotations

import csv
import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mipo.jsonl import is_blank
from mipo.network import downloads, offline

COMMIT = "0bc2ce0f32c673f68da20b57bce15c457aa787b5"
URL = f"https://raw.githubusercontent.com/compdemocracy/openData/{COMMIT}"
LICENCE = (
    "Data was gathered using the Polis software (compdemocracy.org/polis) and is "
    "sub-licensed under CC BY 4.0 with Attribution to The Computational Democracy "
    "Project. The data and more information about how the data was collected can be "
    "found at <https://github.com/compdemocracy/openData>."
)
FILES = ("comments.csv", "participants-votes.csv", "summary.csv")
SHA256 = {  # conversation: comments.csv, participants-votes.csv, summary.csv
    "15-per-hour-seattle": (
        "23306ea084fbecf5e924e78da03b13cd3ad289e5f9b533b658b8caa59f5c1981",
        "324e6b36a08dd1020afd9483731a5fa6311cfe8229cc0b434201489d447f720d",
        "7d7c5cb5baf3a4e2f81e041fd53eb12eac5837abf2a9c7b98c1cb0e03a4b2921",
    ),
    "american-assembly.bowling-green": (
        "b5d72fbb1b15d66c624da51849aef3d5691358b6ec646035b9ca41c6b9f936f0",
        "63c6e30c36d9f5338516f3a0c77b08e3518c20b707b321e26c54cd6218a2ab4d",
        "35cd93ea32bdc0926351ca093de981ef1af9043fc563d837ef082d509cb89141",
    ),
    "bg2050-volunteers": (
        "1df85d984c87cd350f76ca62218a389e865eaf90a514687980b3b249aa79a360",
        "6248c42dc31a6579933b459b4347a2f344e3ba8fd8b0046c71d29409796b9762",
        "6e2ee82b81601d36f59b66ff8ae88ae4f4096bda805750a6f83385f4ca74b07c",
    ),
    "brexit-consensus": (
        "f9a341a6acadd8277458ed1ec1280508450dcc53f23cfdad9baf92a538bbd74c",
        "6b0c991962566a450735362208be1e1459485b57f5e13ba36501f3c8eabea349",
        "1ace30cbb65cca8f090e95e06dae15c4c24bd1328f6bc803108b4facc03c7ebf",
    ),
    "london.youth.policing": (
        "61bdfdc160b0ff59f28d2823d9ccdd3472823df151ba9963f0035f723f7dcba7",
        "b990257294b52d3cc8e93e5ab1468e5a54824e72aada9545377d5bb30dbaa396",
        "1b635595cd0ba41f147064f9f09bc6c136aab497cb01425d76e36b96c98ae8e4",
    ),
    "scoop-hivemind.affordable-housing": (
        "f559586c28eb933d1954df35b7b449af011754393d0d835f82d4c29a40c712eb",
        "6093abe7445a57ee7ada598951c14e922ca8415ca9f5c9b48e4ff68bcdce6870",
        "9ce32b1fa68ec6e42254fab46e609c07e8dd55274e31e91f03c48d6aa689b6bf",
    ),
    "scoop-hivemind.biodiversity": (
        "de84b8c9d9b4b70d4929ee0603aa242ba60f53cc456dbf03a62719f1abc16165",
        "58aaff458ef8dc5679e683e990c8aab3c56bcca82a7929b06b1559d4a04f29e0",
        "d4200eed905ad960a254a894923fd1753e1ca61145084356697957795585f2a5",
    ),
    "scoop-hivemind.freshwater": (
        "508001134c37e424c074a53391ab02f807b0045ae233d63324cba8aa173bc843",
        "00f7a9565ffc21b729495d97bce573a585b05cffb552130ea416f348d9284b00",
        "c1f21e14c6d37451adc064df5bef54822477cb87e85f58f133c50271b9c25aca",
    ),
    "scoop-hivemind.taxes": (
        "cf53851ef9475bae8e8f493da7ef167feac69c893e6b730a14c1b8e3465dd4c5",
        "2922308b181957bf63f8bf619973e93709d72c2dd41ac14370cca5632f2d5ea8",
        "d093104dc6080fa43ebbc9e1156ec6367d70f54b2e4041fced795ced651d2da3",
    ),
    "ssis.land-bank-farmland.2rumnecbeh.2021-08-01": (
        "32999cfd0d28b4de2d14af463b9554a3c5d5e29453b93a5d45e7f92a034525ca",
        "53dee2b88eecad44b02539b651430c2eb8930e6a566bca0b6edb5bab7f78edbb",
        "a606972c8089c758ddc8915999eef1a8f77b87d1c3251296b49cc14bf22f27c7",
    ),
}

AGREE, PASS, DISAGREE = 1, 0, -1  # an empty cell: the person never saw the statement
REPLIES = ("agree", "disagree")

_DIGITS = re.compile(r"[0-9]{1,18}")  # what 64 bits hold for sure
_NUMBER = re.compile(r"([0-9]{1,18})(?:\.0+)?")  # pandas writes 1.0 beside empty cells
_MODERATED = {"1": True, "1.0": True, "0": False, "0.0": False}
_MODERATED |= {"-1": False, "-1.0": False}
_LONGEST_SHOWN = 40  # characters of a cell that an error shows


class DataUnavailable(RuntimeError):
    """The votes are neither in MIPO_DATA nor in the cache, and cannot be downloaded."""


# ---- where the files come from ----


def folder(conversation: str | Path) -> Path:
    """The folder with the files of a conversation.

    Parameters
    ----------
    conversation : str or Path
        The path of an export, or the name of a pinned public conversation.

    Returns
    -------
    Path
        A path as it is; for a name the folder ``MIPO_DATA/polis/<name>``, else the
        pinned public files, downloaded once.

    Raises
    ------
    ValueError
        For an unknown name, or a file whose SHA-256 is not the pinned one.
    DataUnavailable
        Without a local copy and without a network; ``HF_HUB_OFFLINE=1`` counts as none.
    """
    if (Path(conversation) / FILES[1]).is_file():
        return Path(conversation)
    name = str(conversation)
    if name not in SHA256:
        raise ValueError(
            f'Polis conversation "{name}": neither a folder with {FILES[1]} '
            f"nor one of {', '.join(SHA256)}"
        )
    root = os.environ.get("MIPO_DATA")
    if root and (Path(root) / "polis" / name / FILES[1]).is_file():
        here = Path(root) / "polis" / name
        for file, pinned in zip(FILES, SHA256[name], strict=True):
            _check_hash(here / file, pinned)
        return here
    return _download(name)


def at_hand(conversation: str | Path) -> bool:
    """Whether the files are here already, so that nothing would be downloaded."""
    name, root = str(conversation), os.environ.get("MIPO_DATA")
    places = [Path(name), _cache() / name]
    if root:
        places.append(Path(root) / "polis" / name)
    return any(all((place / file).is_file() for file in FILES[:2]) for place in places)


def _cache() -> Path:
    return downloads() / "polis"


def _check_hash(path: Path, pinned: str) -> None:
    if not path.is_file():
        raise ValueError(f"{path}: the file is missing")
    actual = hashlib.sha256(path.read_bytes()).hexdigest()
    if actual != pinned:
        raise ValueError(
            f"{path}: SHA-256 {actual[:12]}… is not the pinned {pinned[:12]}…; "
            f"fetch it from {URL}, or give your own export as a folder"
        )


def _download(name: str) -> Path:
    """The three files in the user's cache, fetched once (2 MB), each whole or not."""
    import pooch

    here = _cache() / name
    missing = [file for file in FILES if not (here / file).is_file()]
    if missing and offline():
        raise DataUnavailable(
            f"{name}: no local copy of {missing[0]} and HF_HUB_OFFLINE is set; "
            "set MIPO_DATA to a folder with polis/, or allow the download"
        )
    # Its messages would put local paths on the page.
    pooch.get_logger().setLevel("ERROR")
    for file, pinned in zip(FILES, SHA256[name], strict=True):
        if file in missing:
            _fetch(f"{URL}/{name}/{file}", here / file, pinned, name)
        _check_hash(here / file, pinned)
    return here


def _fetch(url: str, path: Path, pinned: str, name: str) -> None:
    import pooch

    try:
        pooch.retrieve(
            url,
            f"sha256:{pinned}",
            fname=path.name,
            path=path.parent,
            downloader=pooch.HTTPDownloader(timeout=20),  # pyrefly: ignore
        )
    except OSError as error:  # requests' errors are OSErrors
        raise DataUnavailable(
            f"{name}: {path.name} could not be downloaded ({type(error).__name__}); "
            "set MIPO_DATA to a folder with polis/, or try again with a network"
        ) from None


# ---- what they hold ----


@dataclass(frozen=True)
class Conversation:
    """One Polis export: P people who voted on S statements.

    Attributes
    ----------
    topic, url : str
        As the summary gives them.
    people : ndarray, shape (P,)
        Participant ids, text.
    groups : ndarray, shape (P,)
        Opinion group that Polis found, -1 where it gave none.
    statements : ndarray, shape (S,)
        Statement ids.
    texts : tuple of str, length S
        What each statement says.
    accepted : ndarray of bool, shape (S,)
        Moderated to 1, so that participants went on seeing it.
    votes : ndarray of float32, shape (P, S)
        1 agree, -1 disagree, 0 pass, NaN never seen.
    """

    topic: str
    url: str
    people: np.ndarray
    groups: np.ndarray
    statements: np.ndarray
    texts: tuple[str, ...]
    accepted: np.ndarray
    votes: np.ndarray


def read(path: str | Path) -> Conversation:
    """Read an export.

    Parameters
    ----------
    path : str or Path
        A folder with comments.csv, participants-votes.csv and summary.csv.

    Returns
    -------
    Conversation

    Raises
    ------
    ValueError
        Naming file, line and column: a missing file or column; a cell that is no vote,
        no number or too long; an id twice or missing; a statement without text; a
        person whose votes are not as many as n-agree and n-disagree say; bytes that are
        no text.

    Notes
    -----
    Polis' database has -1 for agree, its export 1. The two counts tell which of them
    lies before us; in all ten public conversations they are right for everybody.

    A file that a spreadsheet or pandas has saved again is read as well: a byte order
    mark, any line ends, whole numbers as 1.0, lines of empty cells.
    """
    path = Path(path)
    comments, ballots, about = (path / file for file in FILES)
    summary = {row[0]: row[1] for _, row in _rows(about) if len(row) > 1}
    statements = _statements(comments)
    needed = ("participant", "group-id", "n-agree", "n-disagree")
    header, people = _cells(ballots, needed)
    ids = _statement_ids(header, statements, ballots)
    column = {name: j for j, name in enumerate(header)}
    votes = _votes(people, ids, [column[i] for i in ids], ballots)
    lines = [line for line, _ in people]
    who = [_id(row[column["participant"]]) for _, row in people]
    if "" in who:
        raise ValueError(
            f"{ballots}, line {lines[who.index('')]}, column participant: the cell is "
            "empty"
        )
    _refuse_twice(who, lines, "participant", ballots)
    counts = {
        name: _numbers(people, column[name], name, ballots)
        for name in ("n-agree", "n-disagree")
    }
    agree, disagree = counts["n-agree"], counts["n-disagree"]
    _check_counts(votes, agree, disagree, lines, ballots)
    return Conversation(
        topic=summary.get("topic", path.name),
        url=summary.get("url", ""),
        people=np.array(who),
        groups=_numbers(people, column["group-id"], "group-id", ballots, missing=-1),
        statements=np.array([int(i) for i in ids]),
        texts=tuple(statements[i]["comment-body"] for i in ids),
        accepted=np.array([_MODERATED[statements[i]["moderated"]] for i in ids]),
        votes=votes,
    )


def _statements(path: Path) -> dict[str, dict[str, str]]:
    """{id: row} of comments.csv."""
    header, rows = _cells(path, ("comment-id", "moderated", "comment-body"))
    statements = {}
    for line, cells in rows:
        row = dict(zip(header, cells, strict=True))
        name = _id(row["comment-id"])
        if row["moderated"] not in _MODERATED:
            raise ValueError(
                f'{path}, line {line}, column moderated: "{_shown(row["moderated"])}" '
                "is none of 1, 0 and -1"
            )
        if name in statements:
            raise ValueError(
                f"{path}, line {line}: comment-id {_shown(name)} is given twice"
            )
        if is_blank(row["comment-body"]):
            raise ValueError(
                f"{path}, line {line}: statement {_shown(name)} has no text"
            )
        statements[name] = row
    return statements


def _statement_ids(header: Sequence[str], statements: dict, path: Path) -> list[str]:
    """The columns that are statements, in the file's order."""
    ids = [name for name in header if name.isdigit()]
    if not ids:
        raise ValueError(f"{path}: no column is a statement id")
    for name in ids:
        if not _DIGITS.fullmatch(name):
            raise ValueError(
                f"{path}, line 1: column {_shown(name)} is no statement id, which has "
                "at most 18 digits"
            )
        if name not in statements:
            raise ValueError(f"{path}: statement {name} is not in {FILES[0]}")
    return ids


def _id(cell: str) -> str:
    """An id as Polis writes it: 12, where a table has made it 12.0."""
    number = _NUMBER.fullmatch(cell)
    return number[1] if number else cell.strip()


def _refuse_twice(
    names: Sequence[str], lines: Sequence[int], what: str, path: Path
) -> None:
    first = {}
    for name, line in zip(names, lines, strict=True):
        if name in first:
            raise ValueError(
                f"{path}, line {line}: {what} {_shown(name)} is given twice, first in "
                f"line {first[name]}"
            )
        first[name] = line


def _rows(path: Path) -> list[tuple[int, list[str]]]:
    """(line number, cells) of a CSV file in UTF-8.

    csv counts lines itself, so that the numbers survive line breaks inside cells.
    """
    if not path.is_file():
        raise ValueError(
            f"{path}: the file is missing; a Polis export has {', '.join(FILES)}"
        )
    reader: Any = None
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            rows = [(reader.line_num, row) for row in reader if any(row)]
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: byte {error.start + 1} is not UTF-8; save it as CSV in UTF-8"
        ) from None
    except csv.Error as error:  # such as a cell that a missing quote makes endless
        raise ValueError(f"{path}, line {reader.line_num}: {error}") from None
    for line, row in rows:
        if any("\0" in cell for cell in row):
            raise ValueError(
                f"{path}, line {line}: NUL bytes, so this is not text in UTF-8"
            )
    return rows


def _cells(path: Path, needed: Sequence[str]) -> tuple[list[str], list]:
    """Header and rows (line number, cells), all of the header's length."""
    rows = _rows(path)
    header = rows[0][1] if rows else []
    absent = [name for name in needed if name not in header]
    if absent:
        hint = _separator_hint(header)
        raise ValueError(f'{path}, line 1: column "{absent[0]}" is missing{hint}')
    if len(set(header)) < len(header):
        twice = min(name for name in header if header.count(name) > 1)
        raise ValueError(f'{path}, line 1: column "{_shown(twice)}" is given twice')
    for line, row in rows[1:]:
        if len(row) != len(header):
            raise ValueError(
                f"{path}, line {line}: {len(row)} cells where the header has "
                f"{len(header)}"
            )
    if len(rows) < 2:
        raise ValueError(f"{path}: the file has no row below its header")
    return header, rows[1:]


def _separator_hint(header: Sequence[str]) -> str:
    """Advice where a spreadsheet has put something else than commas between cells."""
    first = header[0] if header else ""
    other = next((mark for mark in (";", "\t") if mark in first), None)
    if first.startswith("sep="):
        return "; delete the line that begins with sep="
    return f"; cells are separated by {other!r}: save it with commas" if other else ""


def _numbers(
    rows: Sequence, place: int, name: str, path: Path, missing: int | None = None
) -> np.ndarray:
    """A column of whole numbers; an empty cell is `missing`, where that is given."""
    numbers = []
    for line, row in rows:
        cell = row[place]
        if cell == "" and missing is not None:
            numbers.append(missing)
            continue
        number = _NUMBER.fullmatch(cell)
        if not number:
            raise ValueError(
                f'{path}, line {line}, column {name}: "{_shown(cell)}" is no whole '
                "number of at most 18 digits"
            )
        numbers.append(int(number[1]))
    return np.array(numbers)


_VOTES = {
    "": np.nan,
    "1": 1.0,
    "0": 0.0,
    "-1": -1.0,
    "1.0": 1.0,
    "0.0": 0.0,
    "-1.0": -1.0,
}


def _votes(
    rows: Sequence, ids: Sequence[str], places: Sequence[int], path: Path
) -> np.ndarray:
    """The cells of the statements' columns, (people, statements) float32."""
    votes = np.empty((len(rows), len(places)), dtype=np.float32)
    for i, (line, row) in enumerate(rows):
        cells = [row[j] for j in places]
        try:
            votes[i] = [_VOTES[cell] for cell in cells]
        except KeyError:
            name, cell = next(
                pair for pair in zip(ids, cells, strict=True) if pair[1] not in _VOTES
            )
            raise ValueError(
                f'{path}, line {line}, column {name}: "{_shown(cell)}" is no vote; '
                "expected 1, 0, -1 or nothing"
            ) from None
    return votes


def _check_counts(
    votes: np.ndarray,
    agree: np.ndarray,
    disagree: np.ndarray,
    lines: Sequence[int],
    path: Path,
) -> None:
    """Everybody's votes are as many as n-agree and n-disagree say."""
    stated = np.stack([agree, disagree], axis=1)  # (P, 2)
    counted = np.stack(
        [(votes == AGREE).sum(1), (votes == DISAGREE).sum(1)], axis=1
    )  # (P, 2)
    wrong = (stated != counted).any(1)
    if not wrong.any():
        return
    i = int(wrong.argmax())
    flipped = (stated == counted[:, ::-1]).all(1).mean() > 0.5
    hint = "; the sign is flipped: 1 must be agree, -1 disagree" if flipped else ""
    raise ValueError(
        f"{path}, line {lines[i]}: n-agree {stated[i, 0]} and n-disagree "
        f"{stated[i, 1]} contradict the votes, which are {counted[i, 0]} and "
        f"{counted[i, 1]}; so it is for {wrong.sum()} of {len(wrong)} people{hint}"
    )


def _shown(cell: str) -> str:
    """A cell as an error shows it."""
    whole = len(cell) <= _LONGEST_SHOWN
    return cell if whole else f"{cell[:_LONGEST_SHOWN]}… ({len(cell)} characters)"
