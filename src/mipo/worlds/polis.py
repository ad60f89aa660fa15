"""Polis: what real people voted on each other's statements, read from any Polis export, as records for the study."""

from __future__ import annotations

import csv
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mipo.network import offline

COMMIT = "0bc2ce0f32c673f68da20b57bce15c457aa787b5"
URL = f"https://raw.githubusercontent.com/compdemocracy/openData/{COMMIT}"
LICENCE = (
    "Data was gathered using the Polis software (compdemocracy.org/polis) and is sub-licensed under CC BY 4.0 "
    "with Attribution to The Computational Democracy Project. The data and more information about how the data "
    "was collected can be found at <https://github.com/compdemocracy/openData>."
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


class DataUnavailable(RuntimeError):
    """The votes are neither in MIPO_DATA nor in the cache, and they cannot be downloaded now."""


def folder(conversation: str | Path) -> Path:
    """The folder of a conversation: a path as it is, else MIPO_DATA/polis/<name>, else the pinned public files.

    errors  ValueError for an unknown name or a file whose SHA-256 is not the pinned one; DataUnavailable where there
            is no local copy and no network (HF_HUB_OFFLINE=1 counts as none)
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
    places = [
        Path(name),
        _cache() / name,
        *([Path(root) / "polis" / name] if root else []),
    ]
    return any(all((place / file).is_file() for file in FILES[:2]) for place in places)


def _cache() -> Path:
    import pooch

    return Path(pooch.os_cache("mipo")) / "polis"


def _check_hash(path: Path, pinned: str) -> None:
    if not path.is_file():
        raise ValueError(f"{path}: the file is missing")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != pinned:
        raise ValueError(
            f"{path}: SHA-256 {found[:12]}… is not the pinned {pinned[:12]}…; fetch it from {URL}, "
            "or give your own export as a folder"
        )


def _download(name: str) -> Path:
    """The three files in the user's cache, fetched once (2 MB); pooch writes each whole or not at all."""
    import pooch

    here = _cache() / name
    missing = [f for f in FILES if not (here / f).is_file()]
    if missing and offline():
        raise DataUnavailable(
            f"{name}: no local copy of {missing[0]} and HF_HUB_OFFLINE is set; "
            "set MIPO_DATA to a folder with polis/, or allow the download"
        )
    pooch.get_logger().setLevel(
        "ERROR"
    )  # its messages would put local paths on the page
    for file, pinned in zip(FILES, SHA256[name], strict=True):
        if file in missing:
            try:
                pooch.retrieve(
                    f"{URL}/{name}/{file}",
                    f"sha256:{pinned}",
                    fname=file,
                    path=here,
                    downloader=pooch.HTTPDownloader(timeout=20),
                )
            except OSError as error:  # requests' errors are OSErrors
                raise DataUnavailable(
                    f"{name}: {file} could not be downloaded ({type(error).__name__}); "
                    "set MIPO_DATA to a folder with polis/, or try again with a network"
                ) from None
        _check_hash(here / file, pinned)
    return here


@dataclass(frozen=True)
class Conversation:
    """One Polis export. votes: (people, statements), 1 agree, -1 disagree, 0 pass, nan never seen."""

    topic: str
    url: str
    people: np.ndarray  # (P,) participant ids
    groups: np.ndarray  # (P,) opinion group given by Polis, -1 where it gave none
    statements: np.ndarray  # (S,) statement ids
    texts: tuple  # (S,) what the statement says
    accepted: np.ndarray  # (S,) bool: moderated to 1, so participants went on seeing it
    votes: np.ndarray  # (P, S) float32


def read(path: str | Path) -> Conversation:
    """Read an export folder (comments.csv, participants-votes.csv, summary.csv).

    errors  ValueError naming file, line and column: missing file or column, a vote that is not 1, 0, -1 or empty,
            an id twice, a statement without text, votes whose sign contradicts the column n-agree
    """
    path = Path(path)
    summary = {row[0]: row[1] for _, row in _rows(path / FILES[2]) if len(row) > 1}
    columns, comments = _cells(
        path / FILES[0], ("comment-id", "moderated", "comment-body")
    )
    known = {}
    for line, cells in comments:
        row = dict(zip(columns, cells, strict=True))
        if row["comment-id"] in known:
            raise ValueError(
                f"{path / FILES[0]}, line {line}: comment-id {row['comment-id']} is given twice"
            )
        known[row["comment-id"]] = row
    header, people = _cells(
        path / FILES[1], ("participant", "group-id", "n-agree", "n-disagree")
    )
    where = {name: j for j, name in enumerate(header)}
    ids = [name for name in header if name.isdigit()]
    unknown = [i for i in ids if i not in known]
    if not ids or unknown:
        what = (
            f"statement {unknown[0]} is not in {FILES[0]}"
            if unknown
            else "no column is a statement id"
        )
        raise ValueError(f"{path / FILES[1]}: {what}")
    votes = _votes(people, ids, [where[i] for i in ids], path / FILES[1])
    who, group, agree, disagree = (
        np.array([row[where[name]] for _, row in people])
        for name in ("participant", "group-id", "n-agree", "n-disagree")
    )
    if len(set(who)) < len(who):
        raise ValueError(f"{path / FILES[1]}: a participant is given twice")
    _check_sign(votes, agree.astype(int), disagree.astype(int), path / FILES[1])
    return Conversation(
        topic=summary.get("topic", path.name),
        url=summary.get("url", ""),
        people=who,
        groups=np.array([int(g) if g else -1 for g in group]),
        statements=np.array([int(i) for i in ids]),
        texts=tuple(known[i]["comment-body"] for i in ids),
        accepted=np.array([known[i]["moderated"] == "1" for i in ids]),
        votes=votes,
    )


def _rows(path: Path):
    """(line number, cells) of a CSV file in UTF-8; csv's own line numbers survive line breaks inside cells."""
    if not path.is_file():
        raise ValueError(
            f"{path}: the file is missing; a Polis export has {', '.join(FILES)}"
        )
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            return [(reader.line_num, row) for row in reader if row]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: byte {error.start + 1} is not UTF-8") from None


def _cells(path: Path, needed: tuple) -> tuple:
    """Header and rows (line number, cells), all of the header's length."""
    rows = _rows(path)
    header = rows[0][1] if rows else []
    absent = [name for name in needed if name not in header]
    if absent:
        raise ValueError(f'{path}, line 1: column "{absent[0]}" is missing')
    twice = (
        sorted({name for name in header if header.count(name) > 1})
        if len(set(header)) < len(header)
        else []
    )
    if twice:
        raise ValueError(f'{path}, line 1: column "{twice[0]}" is given twice')
    for line, row in rows[1:]:
        if len(row) != len(header):
            raise ValueError(
                f"{path}, line {line}: {len(row)} cells where the header has {len(header)}"
            )
    if len(rows) < 2:
        raise ValueError(f"{path}: the file has no row below its header")
    return header, rows[1:]


_VOTES = {
    "": np.nan,
    "1": 1.0,
    "0": 0.0,
    "-1": -1.0,
    "1.0": 1.0,
    "0.0": 0.0,
    "-1.0": -1.0,
}


def _votes(rows: list, ids: list, columns: list, path: Path) -> np.ndarray:
    """The cells of the statements' columns as numbers, (people, statements) float32."""
    votes = np.empty((len(rows), len(columns)), dtype=np.float32)
    for i, (line, row) in enumerate(rows):
        try:
            votes[i] = [_VOTES[row[j]] for j in columns]
        except KeyError as bad:
            name = next(
                name
                for name, j in zip(ids, columns, strict=True)
                if row[j] not in _VOTES
            )
            raise ValueError(
                f'{path}, line {line}, column {name}: "{bad.args[0]}" is no vote; '
                "expected 1, 0, -1 or nothing"
            ) from None
    return votes


def _check_sign(
    votes: np.ndarray, agree: np.ndarray, disagree: np.ndarray, path: Path
) -> None:
    """Polis' database has -1 for agree, its export +1: n-agree tells which one lies before us."""
    claimed = np.stack([agree, disagree], axis=1)  # (P, 2)
    counted = np.stack(
        [(votes == AGREE).sum(1), (votes == DISAGREE).sum(1)], axis=1
    )  # (P, 2)
    wrong = (claimed != counted).any(1)
    if wrong.mean() > 0.5:
        flipped = (claimed == counted[:, ::-1]).all(1).mean() > 0.5
        raise ValueError(
            f"{path}: n-agree and n-disagree contradict the votes of {wrong.mean():.0%} of the people"
            + ("; the sign is flipped: 1 must be agree, -1 disagree" if flipped else "")
        )
