"""Public data sets: people with preferences, maths and multiple choice, labelled pairs.

Nothing is fetched unless a data set is asked for by name. Each is read at a pinned commit
(`download.PINNED`), or from a local folder in the hub's own layout. Which of their fields
the papers wrote into their prompts is not published: what we take is said at each function.
"""

from __future__ import annotations

import functools
import random
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mipo import data
from mipo_study.hub import answers, download


@dataclass(frozen=True)
class Source:
    """Where a data set lies.

    Attributes
    ----------
    parts : dict
        {name: (configuration, split)}.
    megabytes : float
        Of what is downloaded, about.
    columns : tuple of str
        Those that are read, where there are many more; none: all.
    """

    repo: str
    parts: dict
    kind: str  # people, reasoning or preferences
    megabytes: float
    licence: str
    columns: tuple = ()


COMMUNITY = (
    "annotator_id",
    "assigned_lang",
    "first_turn_prompt",
    "first_turn_preferred_response",
    "first_turn_feedback",
)


SOURCES = {
    "prism": Source(
        "HannahRoseKirk/prism-alignment",
        {"survey": ("survey", "train"), "conversations": ("conversations", "train")},
        "people",
        65,
        "CC BY 4.0; model replies CC BY-NC 4.0",
    ),
    "community-alignment": Source(
        "facebook/community-alignment-dataset",
        {"conversations": (None, "train")},
        "people",
        1500,
        "CC BY 4.0",
        (*COMMUNITY, *(f"first_turn_response_{x}" for x in "abcd")),
    ),
    "multifaceted-bench": Source(
        "kaist-ai/Multifaceted-Bench",
        {"rows": (None, "train")},
        "people",
        10,
        "CC BY 4.0",
    ),
    "gsm8k": Source(
        "openai/gsm8k",
        {"train": ("main", "train"), "test": ("main", "test")},
        "reasoning",
        5,
        "MIT",
    ),
    "svamp": Source(
        "ChilleD/SVAMP",
        {"train": (None, "train"), "test": (None, "test")},
        "reasoning",
        1,
        "MIT",
    ),
    "arc-challenge": Source(
        "allenai/ai2_arc",
        {"train": ("ARC-Challenge", "train"), "test": ("ARC-Challenge", "test")},
        "reasoning",
        1,
        "CC BY-SA 4.0",
    ),
    "mmlu": Source(
        "cais/mmlu",
        {"train": ("all", "validation"), "test": ("all", "test")},
        "reasoning",
        55,
        "MIT",
    ),
    "ultrafeedback": Source(
        "HuggingFaceH4/ultrafeedback_binarized",
        {"train": (None, "train_prefs"), "test": (None, "test_prefs")},
        "preferences",
        650,
        "MIT",
        ("chosen", "rejected"),
    ),
}


def kind_of(name: str) -> str:
    """people, reasoning or preferences; ValueError for an unknown name."""
    if Path(name).suffix == ".jsonl":
        return "people"
    if name not in SOURCES:
        raise ValueError(
            f"data set {name!r}: expected one of {', '.join(SOURCES)}, or the path of a "
            ".jsonl file"
        )
    return SOURCES[name].kind


@dataclass
class Data:
    """Rows to train on and to test on, with where they come from (`source`, JSON)."""

    kind: str
    train: list
    test: list
    source: dict = field(default_factory=dict)


def load(
    name: str, *, folder: str = "", n_train: int = 0, n_test: int = 200, seed: int = 0
) -> Data:
    """A data set by name, or a reader's own .jsonl.

    People are split, not their examples: nobody is in both parts. Other data sets keep
    their own split, and training items that are also test items are dropped and counted.

    Parameters
    ----------
    folder : str
        Read the files there instead of the hub's (see `files_of`).
    n_train, n_test : int
        The most to take; 0 takes all there are.

    Returns
    -------
    Data
        kind "people": examples with query, context, gold (the reply that the person chose,
        or None), person, wishes; "reasoning": items of `hub.answers`; "preferences": rows
        with prompt (messages), chosen, rejected.

    Raises
    ------
    ValueError
        For an unknown name or a missing column.
    download.Unavailable
        Where the files cannot be had.
    """
    sizes = {"n_train": n_train, "n_test": n_test, "seed": seed}
    kind = kind_of(name)
    if Path(name).suffix == ".jsonl":
        about = {"file": Path(name).name, "licence": "yours"}
        return split_people(own_users(name), source=about, **sizes)
    source = SOURCES[name]
    rows, sha = fetch(name, folder)
    about = {"repo": source.repo, "commit": sha, "licence": source.licence}
    if kind == "people":
        return split_people(PEOPLE[name](**rows), source=about, **sizes)
    if kind == "preferences":
        train, test = (preferences(rows[part]) for part in ("train", "test"))
    else:
        train, test = (
            answers.items(name, rows[part], part) for part in ("train", "test")
        )
    in_test = {_same(row) for row in test}
    unseen = [row for row in train if _same(row) not in in_test]
    about["dropped"] = len(train) - len(unseen)
    rng = random.Random(f"{name} {seed}")
    train = rng.sample(unseen, min(n_train or len(unseen), len(unseen)))
    test = rng.sample(test, min(n_test or len(test), len(test)))
    return Data(kind, train, test, about)


def own_users(path: str | Path) -> list[dict]:
    """A reader's users: whoever has the same context is one person, unless it is named."""
    return [
        {
            **example,
            "person": example.get("person") or example["context"],
            "wishes": [example["context"]],
        }
        for example in data.read_jsonl(path)
    ]


def files_of(name: str, folder: str | Path) -> Path:
    """Where a data set lies in a folder: in a subfolder of its name, or itself."""
    if not Path(folder).is_dir():
        raise ValueError(f"data folder {folder}: there is no such folder")
    own = Path(folder) / name
    return own if own.is_dir() else Path(folder)


def fetch(name: str, folder: str | Path = "") -> tuple[dict[str, list[dict]], str]:
    """({part: rows}, commit) of a data set: the pinned commit, "" for a local folder."""
    if folder and answers.is_raw(name, folder):
        return answers.read_raw(name, folder), ""
    if not folder:
        sha = download.PINNED[SOURCES[name].repo]
        return _at(name, sha), sha
    # datasets caches a folder by its name, and would miss that it changed.
    with tempfile.TemporaryDirectory() as fresh:
        return _read(name, path=str(files_of(name, folder)), cache_dir=fresh), ""


# The next seed draws from the same rows; more data sets at once would fill the memory.
@functools.lru_cache(maxsize=1)
def _at(name, sha):
    return _read(name, path=SOURCES[name].repo, revision=sha)


def _read(name, **where):
    from datasets import load_dataset

    wanted = list(SOURCES[name].columns)
    parts = {}
    for part, (config, split) in SOURCES[name].parts.items():
        with download.explained(where["path"], kind="dataset"):
            rows = load_dataset(name=config, split=split, **where)
            # Else `need` says which column is missing, and which there are.
            if wanted and set(wanted) <= set(rows.column_names):
                rows = rows.select_columns(wanted)
            parts[part] = [dict(row) for row in rows]
    return parts


def split_people(
    examples: Sequence[dict],
    *,
    n_train: int = 0,
    n_test: int,
    seed: int = 0,
    source: Mapping[str, Any] | None = None,
) -> Data:
    """Examples to train on and to test on; nobody is in both parts.

    Whole persons, two at least, are drawn into the test part until it has `n_test`
    examples (at most half of all): of one alone nobody could be told apart. Where there are
    more than `n_test`, each person keeps as many as the others.

    Parameters
    ----------
    examples : sequence of dict
        Each with its person.
    n_train : int
        The most to train on; 0 takes all.

    Raises
    ------
    ValueError
        For fewer than three persons, or a test part of none or one.
    """
    by_person = defaultdict(list)
    for example in examples:
        by_person[example["person"]].append(example)
    if not n_test:
        raise ValueError(
            "n_test=0: people have no test part of their own, so say how many examples "
            "to test on"
        )
    if len(by_person) < 3 or n_test == 1:
        raise ValueError(
            f"{len(examples)} examples of {len(by_person)} person(s), n_test={n_test}: at "
            "least three people are needed, one to train on and two to tell apart in the "
            "test part"
        )
    people = list(by_person)
    random.Random(seed).shuffle(people)
    most = min(n_test, len(examples) // 2)
    test, train = [], []
    for i, person in enumerate(people):
        last_to_train_on = person == people[-1] and not train
        room = i < 2 or len(test) < most and not last_to_train_on
        (test if room else train).extend(enumerate(by_person[person]))
    # Everybody's first example, then everybody's second.
    test.sort(key=lambda numbered: numbered[0])
    train, test = ([example for _, example in part] for part in (train, test))
    about = {**(source or {}), "people": len(people)}
    return Data("people", train[: n_train or None], test[:n_test], about)


def wording(row: Mapping) -> str:
    """What a person or an item asks, without the words that a prompt puts around it."""
    return row.get("message") or row.get("query") or row["prompt"][-1]["content"]


def unit(row: Mapping) -> str:
    """What is drawn whole for an interval: a person, or an item where nobody asks."""
    return str(row.get("person") or row.get("id") or wording(row))


def _same(row):
    """What makes two rows the same question: its words, in lower case."""
    options = [str(option).lower() for option in row.get("options", ())]
    return " ".join([*wording(row).lower().split(), *options])


def need(row: Mapping, names: Sequence[str], where: str) -> None:
    """ValueError naming the columns that a row should have and has not."""
    gone = [name for name in names if name not in row]
    if gone:
        raise ValueError(
            f"{where}: column {', '.join(gone)} is missing; it has {', '.join(row)}"
        )


# ---- people ----

TRAITS = {
    "values": "reflects my values or culture",
    "creativity": "is creative and inspiring",
    "fluency": "is well written",
    "factuality": "sticks to facts and informs me",
    "diversity": "sums up several points of view",
    "safety": "is safe and harms nobody",
    "personalisation": "learns from our talks and feels personal",
    "helpfulness": "is helpful and to the point",
}


def wishes_as_context(wishes: Sequence[str]) -> str:
    """Wishes as a list under one heading; "" for none."""
    if not wishes:
        return ""
    return "\n".join(["What this person has asked for:", *(f"- {w}" for w in wishes)])


def prism(
    survey: Sequence[Mapping], conversations: Sequence[Mapping], top: int = 3
) -> list[dict]:
    """PRISM: the opening message of each conversation.

    Gold is the reply that the person rated highest. The wishes are what the person wrote
    that a model should do (`system_string`), and the `top` of the eight traits that they
    rated most important.
    """
    wishes = {}
    for row in survey:
        need(row, ("user_id", "system_string", "stated_prefs"), "prism, survey")
        stated = (row["system_string"] or "").strip()
        rated = {
            trait: value
            for trait, value in (row["stated_prefs"] or {}).items()
            if trait in TRAITS and isinstance(value, (int, float))
        }
        best = sorted(rated, key=lambda trait: (-rated[trait], trait))[:top]
        matters = [f"It matters to me that a reply {TRAITS[trait]}." for trait in best]
        wishes[row["user_id"]] = [stated, *matters] if stated else matters
    examples = []
    for row in conversations:
        need(row, ("user_id", "conversation_history"), "prism, conversations")
        first = [t for t in row["conversation_history"] if t.get("turn", 0) == 0]
        messages = [t["content"] for t in first if t["role"] == "user"]
        chosen = [
            t["content"] for t in first if t["role"] == "model" and t.get("if_chosen")
        ]
        message = (messages[0] or "").strip() if messages else ""
        own = wishes.get(row["user_id"])
        if message and own:
            task = "Reply to this message in two or three sentences."
            examples.append(
                {
                    "query": f"{task}\n\n{message}",
                    "message": message,
                    "context": wishes_as_context(own),
                    "gold": chosen[0] if chosen else None,
                    "person": row["user_id"],
                    "wishes": own,
                }
            )
    return examples


def community_alignment(
    conversations: Sequence[Mapping], top: int = 3, language: str = "en"
) -> list[dict]:
    """Community Alignment: first turns; gold is the reply that the person preferred.

    The wishes are what the same person wrote after their *other* choices
    (`first_turn_feedback`), `top` of them.
    """
    turns = []
    for row in conversations:
        need(row, COMMUNITY, "community-alignment")
        letter = (row["first_turn_preferred_response"] or "")[-1:]
        ours = row["assigned_lang"] == language and row["first_turn_prompt"]
        if ours and letter in tuple("abcd"):
            turns.append((row, row.get(f"first_turn_response_{letter}")))
    reasons = defaultdict(list)
    for i, (row, _) in enumerate(turns):
        reason = (row["first_turn_feedback"] or "").strip()
        if reason:
            reasons[row["annotator_id"]].append((i, reason))
    examples = []
    for i, (row, gold) in enumerate(turns):
        person = row["annotator_id"]
        wishes = [reason for j, reason in reasons[person] if j != i][:top]
        if wishes:
            heading = "Why this person chose a reply at other times:"
            examples.append(
                {
                    "query": row["first_turn_prompt"].strip(),
                    "gold": gold and gold.replace("<|end_of_text|>", ""),
                    "context": "\n".join([heading, *(f"- {w}" for w in wishes)]),
                    "person": person,
                    "wishes": wishes,
                }
            )
    return examples


def multifaceted_bench(rows: Sequence[Mapping]) -> list[dict]:
    """Multifaceted-Bench: the system message is the context.

    The wishes are the set of preferences behind it.
    """
    columns = ("system", "prompt", "reference_answer", "preference_set")
    examples = []
    for i, row in enumerate(rows):
        need(row, columns, "multifaceted-bench")
        context = row["system"].strip()
        stated = [p.get("preference") for p in row["preference_set"] or ()]
        examples.append(
            {
                "query": row["prompt"].strip(),
                "context": context,
                "gold": row["reference_answer"],
                "person": f"{i}",
                "wishes": [wish for wish in stated if wish] or [context],
            }
        )
    return examples


PEOPLE = {
    "prism": prism,
    "community-alignment": community_alignment,
    "multifaceted-bench": multifaceted_bench,
}


# ---- labelled preferences ----


def preferences(rows: Sequence[Mapping]) -> list[dict]:
    """UltraFeedback, binarised: rows in TRL's conversational format.

    Equal or empty replies are left out.
    """
    kept = []
    for i, row in enumerate(rows):
        need(row, ("chosen", "rejected"), "ultrafeedback")
        prompt, chosen = row["chosen"][:-1], row["chosen"][-1:]
        rejected = row["rejected"][-1:]
        replies = [
            side[0]["content"].strip() if side else "" for side in (chosen, rejected)
        ]
        asked = prompt and prompt[-1]["role"] == "user"
        if asked and all(replies) and replies[0] != replies[1]:
            kept.append(
                {
                    "prompt": prompt,
                    "chosen": chosen,
                    "rejected": rejected,
                    "read_from": f"ultrafeedback, row {i}",
                }
            )
    return kept
