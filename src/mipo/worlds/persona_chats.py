"""Talks of two people who each have a few lines about themselves.

The test and validation files of Synthetic-Persona-Chat (Jandaghi et al. 2023,
arXiv:2312.10007): language models wrote the talks, people wrote the lines. CC BY 4.0.
"""

from __future__ import annotations

import csv
import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mipo.files import file_hash
from mipo.network import Unavailable, downloads, offline

COMMIT = "1f367a0f05d388ca96ebbbc9e5752ab19ac76510"
URL = (
    "https://raw.githubusercontent.com/google-research-datasets/"
    f"Synthetic-Persona-Chat/{COMMIT}/data"
)
LICENCE = (
    "Synthetic-Persona-Chat, Jandaghi et al. 2023 (arXiv:2312.10007), CC BY 4.0: "
    "<https://github.com/google-research-datasets/Synthetic-Persona-Chat>."
)
SHA256 = {
    "valid": "e8128d2b7b0eed8064715cb1d71cdd241a3fa28ddf6fb80ece5c8156c1fd819d",
    "test": "531356d642b426ef8fc4d65446330cb34c7b473a4cf482ad12a8cf7838fe52a8",
}
FOLDER = "synthetic-persona-chat"
COLUMNS = ["user 1 personas", "user 2 personas", "Best Generated Conversation"]
_TURN = re.compile(r"User ([12]):\s*(\S.*)")


@dataclass(frozen=True)
class Talk:
    """One talk, which user 1 begins; the two then take turns.

    Attributes
    ----------
    personas : (tuple of str, tuple of str)
        The lines of user 1, and of user 2.
    turns : tuple of str
        What is said: by user 1 at even places, by user 2 at odd ones.
    row : int
        Of the file, counted from 0 below its header.
    """

    personas: tuple[tuple[str, ...], tuple[str, ...]]
    turns: tuple[str, ...]
    row: int


# ---- where the files come from ----


def file(split: str = "test") -> Path:
    """The file of a split, fetched once (2 MB) where it is not here.

    Parameters
    ----------
    split : {"test", "valid"}
        Which part.

    Returns
    -------
    Path
        In ``MIPO_DATA/synthetic-persona-chat``, else in `mipo.network.downloads`.

    Raises
    ------
    ValueError
        For another split, and a file whose SHA-256 is not the pinned one.
    Unavailable
        Without a local copy and without a network; ``HF_HUB_OFFLINE=1`` counts as none.
    """
    if split not in SHA256:
        raise ValueError(f"split {split!r} is none of {', '.join(SHA256)}")
    path = _local(split)
    if not path.is_file():
        _download(path, split)
    found, pinned = file_hash(path), SHA256[split]
    if found != pinned:
        raise ValueError(
            f"{path}: SHA-256 {found[:12]}… is not the pinned {pinned[:12]}…; delete "
            "it and run again"
        )
    return path


def at_hand(split: str = "test") -> bool:
    """Whether the file is here already, so that nothing would be fetched."""
    return _local(split).is_file()


def _local(split: str) -> Path:
    name = f"Synthetic-Persona-Chat_{split}.csv"
    root = os.environ.get("MIPO_DATA")
    here = Path(root or "") / FOLDER / name
    return here if root and here.is_file() else downloads() / FOLDER / name


def _download(path: Path, split: str) -> None:
    """Fetch a file, whole or not at all."""
    import pooch

    advice = f"set MIPO_DATA to a folder with {FOLDER}/{path.name}"
    if offline():
        raise Unavailable(
            f"the persona chats are not on this machine and HF_HUB_OFFLINE is set; "
            f"{advice}"
        )
    pooch.get_logger().setLevel("ERROR")  # its messages put local paths on the page
    try:
        pooch.retrieve(
            f"{URL}/{path.name}",
            f"sha256:{SHA256[split]}",
            fname=path.name,
            path=path.parent,
            downloader=pooch.HTTPDownloader(timeout=20),  # pyrefly: ignore
        )
    except OSError as error:  # requests' errors are OSErrors
        raise Unavailable(
            f"{path.name} could not be downloaded ({type(error).__name__}); {advice}"
        ) from None


# ---- what they hold ----


def read(path: str | Path) -> tuple[list[Talk], int]:
    """The talks of a file.

    Parameters
    ----------
    path : str or Path
        As `file` gives it.

    Returns
    -------
    talks : list of Talk
        In the file's order.
    left_out : int
        Rows that are no such talk: stage directions, a turn of several lines, the same
        person twice in a row, begun by user 2.

    Raises
    ------
    ValueError
        For another header, naming file and columns.
    """
    with Path(path).open(encoding="utf-8", newline="") as lines:
        header, *rows = csv.reader(lines)
    if header != COLUMNS:
        raise ValueError(f"{path}: the columns are {header}, not {COLUMNS}")
    talks = [_talk(i, *row) for i, row in enumerate(rows)]
    whole = [talk for talk in talks if talk is not None]
    return whole, len(talks) - len(whole)


def _talk(row: int, first: str, second: str, said: str) -> Talk | None:
    """A row's talk, or None where it is not one."""
    found = [_TURN.fullmatch(line) for line in _lines(said)]
    turns = [match for match in found if match]
    speakers = [match[1] for match in turns]
    in_turn = speakers == ["1", "2"] * (len(turns) // 2) + ["1"] * (len(turns) % 2)
    if len(turns) < len(found) or not in_turn or len(turns) < 2:
        return None
    personas = (tuple(_lines(first)), tuple(_lines(second)))
    return Talk(personas, tuple(match[2] for match in turns), row)


def _lines(text: str) -> list[str]:
    """The lines that say something."""
    return [line.strip() for line in text.split("\n") if line.strip()]


def draw(talks: list[Talk], n: int, *, turns: int, seed: int) -> list[Talk]:
    """Some talks of so many turns or more, each of another second user.

    Parameters
    ----------
    talks : list of Talk
        Of `read`.
    n : int
        How many; fewer where there are no more.
    turns : int
        The fewest; what is said later is cut off.
    seed : int
        Of the draw.

    Returns
    -------
    list of Talk
    """
    long = {talk.personas[1]: talk for talk in talks if len(talk.turns) >= turns}
    known = list(long.values())
    order = np.random.default_rng((seed, 14)).permutation(len(known))[:n]
    return [
        Talk(known[i].personas, known[i].turns[:turns], known[i].row) for i in order
    ]
