"""A Polis export of people of two kinds: even statements please one, odd the other."""

import csv
from pathlib import Path

import numpy as np

PEOPLE, STATEMENTS = 80, 24


def write(folder: Path) -> Path:
    """Write the three files; one vote in ten is not of the person's kind."""
    rng = np.random.default_rng(0)
    kinds, numbers = np.arange(PEOPLE) % 2, range(STATEMENTS)
    tables = {
        "comments.csv": [
            ["timestamp", "comment-id", "author-id", "agrees", "disagrees"]
            + ["moderated", "comment-body"],
            *([1, n, 0, 1, 1, 1, f"statement {n}"] for n in numbers),
        ],
        "participants-votes.csv": [
            ["participant", "group-id", "n-comments", "n-votes", "n-agree"]
            + ["n-disagree", *numbers],
        ],
        "summary.csv": [["topic", "An invented town"]],
    }
    for person, kind in enumerate(kinds):
        sides = np.where((np.arange(STATEMENTS) + kind) % 2 == 0, 1, -1)
        cast = np.where(rng.random(STATEMENTS) < 0.1, -sides, sides)
        counts = [STATEMENTS, (cast == 1).sum(), (cast == -1).sum()]
        tables["participants-votes.csv"].append([person, kind, 0, *counts, *cast])
    for name, rows in tables.items():
        with (folder / name).open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(rows)
    return folder
