"""Public data sets: people with preferences, maths and multiple choice, labelled pairs.

Nothing is fetched unless a data set is asked for by name. Each is read at a pinned
commit (`download.PINNED`), or from a local folder in the hub's own layout. Which of
their fields the papers wrote into their prompts is not published: what we take is said
at each function.
"""

from __future__ import annotations

import functools
import random
import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
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
    repo : str
        On the hub.
    parts : dict
        {name: (configuration, split)}.
    kind : str
        "people", "reasoning" or "preferences".
    megabytes : float
        Of what is downloaded, about.
    licence : str
        Its name.
    columns : tuple of str
        Those that are read, where there are many more; () is all.
    """

    repo: str
    parts: dict[str, tuple[str | None, str]]
    kind: str
    megabytes: float
    licence: str
    columns: tuple[str, ...] = ()


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


# What of a data set is no example, and why.
LEFT_OUT = {
    "prism": "conversations without a first message, or of people who state no wish",
    "community-alignment": "conversations in other languages, without a message or a "
    "choice, or of people who give no reason for another choice",
    "ultrafeedback": "rows whose replies are equal or empty, or that nobody asks",
}


def kind_of(name: str) -> str:
    """The kind of a data set.

    Parameters
    ----------
    name : str
        A key of `SOURCES`, or the path of a .jsonl file, which holds people.

    Returns
    -------
    str
        "people", "reasoning" or "preferences".

    Raises
    ------
    ValueError
        For another name.
    """
    if Path(name).suffix == ".jsonl":
        return "people"
    if name not in SOURCES:
        raise ValueError(
            f"data set {name!r}: expected one of {', '.join(SOURCES)}, or the path of "
            "a .jsonl file"
        )
    return SOURCES[name].kind


@dataclass
class Data:
    """Rows of a data set.

    Attributes
    ----------
    kind : str
        "people", "reasoning" or "preferences".
    train, test : list of dict
        Rows to train on and to test on; see `load`.
    source : dict
        Where they come from, as JSON; "left_out" counts rows that are no example (see
        `LEFT_OUT`), "dropped" items to train on that are also test items.
    """

    kind: str
    train: list[dict]
    test: list[dict]
    source: dict[str, Any] = field(default_factory=dict)


def load(
    name: str, *, folder: str = "", n_train: int = 0, n_test: int = 200, seed: int = 0
) -> Data:
    """A data set by name, or a reader's own .jsonl.

    People are split, not their examples: nobody is in both parts. Other data sets keep
    their own split, and training items that are also test items are dropped and
    counted.

    Parameters
    ----------
    name : str
        A key of `SOURCES`, or the path of a .jsonl file.
    folder : str
        Read the files there instead of the hub's (see `files_of`).
    n_train, n_test : int
        The most to take; 0 takes all there are.
    seed : int
        Of the draw.

    Returns
    -------
    Data
        kind "people": examples with query, context, gold (the reply that the person
        chose, or None), person, wishes; "reasoning": items of `hub.answers`;
        "preferences": rows with prompt (messages), chosen, rejected.

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
    about: dict[str, Any] = {"repo": source.repo, "commit": sha}
    about["licence"] = source.licence
    asked = sum(len(part) for key, part in rows.items() if key != "survey")
    if kind == "people":
        examples = PEOPLE[name](**rows)
        about["left_out"] = asked - len(examples)
        return split_people(examples, source=about, **sizes)
    if kind == "preferences":
        train, test = preferences(rows["train"]), preferences(rows["test"])
    else:
        train = answers.items(name, rows["train"], "train")
        test = answers.items(name, rows["test"], "test")
    about["left_out"] = asked - len(train) - len(test)
    in_test = {_same(row) for row in test}
    unseen = [row for row in train if _same(row) not in in_test]
    about["dropped"] = len(train) - len(unseen)
    rng = random.Random(f"{name} {seed}")
    train = rng.sample(unseen, min(n_train or len(unseen), len(unseen)))
    test = rng.sample(test, min(n_test or len(test), len(test)))
    return Data(kind, train, test, about)


def own_users(path: str | Path) -> list[dict]:
    """A reader's users, examples of a .jsonl file.

    Who has the same context is one person, unless "person" is given. The context is the
    one wish.

    Raises
    ------
    ValueError
        As `mipo.data.read_jsonl`, and for a person that is no text.
    """
    examples = []
    for example in data.read_jsonl(path):
        context, person = example["context"], example.get("person")
        if not isinstance(person, str | None):
            raise ValueError(
                f'{example["read_from"]}: "person" must be text, got {person!r}; put '
                "it in double quotes"
            )
        examples.append({**example, "person": person or context, "wishes": [context]})
    return examples


def files_of(name: str, folder: str | Path) -> Path:
    """Where a data set lies in a folder: in a subfolder of its name, or itself."""
    if not Path(folder).is_dir():
        raise ValueError(f"data folder {folder}: there is no such folder")
    own = Path(folder) / name
    return own if own.is_dir() else Path(folder)


def fetch(name: str, folder: str | Path = "") -> tuple[dict[str, list[dict]], str]:
    """All rows of a data set.

    Parameters
    ----------
    name : str
        A key of `SOURCES`.
    folder : path
        Where its files lie; "" takes the pinned commit from the hub.

    Returns
    -------
    rows : dict
        {part: rows}.
    commit : str
        "" for a local folder.

    Raises
    ------
    ValueError
        Where there is no such folder.
    download.Unavailable
        Where the files cannot be had.
    """
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
def _at(name: str, sha: str) -> dict[str, list[dict]]:
    return _read(name, path=SOURCES[name].repo, revision=sha)


def _read(name: str, **where: Any) -> dict[str, list[dict]]:
    from datasets import load_dataset

    wanted = list(SOURCES[name].columns)
    parts = {}
    for part, (config, split) in SOURCES[name].parts.items():
        with download.explained(where["path"], kind="dataset"):
            rows = load_dataset(name=config, split=split, **where)
            # Else `need` says which column is missing, and which there are.
            if wanted and set(wanted) <= set(rows.column_names or ()):
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
    examples (at most half of all): of one alone nobody could be told apart. Where there
    are more than `n_test`, each person keeps as many as the others.

    Parameters
    ----------
    examples : sequence of dict
        Each with its person.
    n_train : int
        The most to train on; 0 takes all.
    n_test : int
        The most to test on.
    seed : int
        Of the draw.
    source : dict, optional
        Where they come from; the number of people is added.

    Returns
    -------
    Data

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
            f"{len(examples)} examples of {len(by_person)} person(s), n_test={n_test}: "
            "at least three people are needed, one to train on and two to tell apart "
            "in the test part"
        )
    people = list(by_person)
    random.Random(seed).shuffle(people)
    most = min(n_test, len(examples) // 2)
    train: list[dict] = []
    to_test: list[tuple[int, dict]] = []  # with its number among the person's own
    for i, person in enumerate(people):
        last_to_train_on = person == people[-1] and not train
        room = i < 2 or len(to_test) < most and not last_to_train_on
        if room:
            to_test += enumerate(by_person[person])
        else:
            train += by_person[person]
    # Everybody's first example, then everybody's second.
    to_test.sort(key=lambda numbered: numbered[0])
    test = [example for _, example in to_test]
    about = {**(source or {}), "people": len(people)}
    return Data("people", train[: n_train or None], test[:n_test], about)


def wording(row: Mapping) -> str:
    """What a person or an item asks, without the words that a prompt puts around it."""
    return row.get("message") or row.get("query") or row["prompt"][-1]["content"]


def unit(row: Mapping) -> str:
    """What is drawn whole for an interval: a person, or an item where nobody asks."""
    return str(row.get("person") or row.get("id") or wording(row))


def _same(row: Mapping) -> str:
    """What makes two rows the same question: its words, in lower case."""
    options = [str(option).lower() for option in row.get("options", ())]
    return " ".join([*wording(row).lower().split(), *options])


def need(row: Mapping, names: Sequence[str], where: str) -> None:
    """Ask that a row has these columns.

    Parameters
    ----------
    row : dict
        Of a data set.
    names : sequence of str
        Columns.
    where : str
        What the error calls the data set.

    Raises
    ------
    ValueError
        Naming the columns that are missing.
    """
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

    Parameters
    ----------
    survey, conversations : sequence of dict
        Rows of its two parts.
    top : int
        Traits that count as wishes.

    Returns
    -------
    list of dict
        Examples. Gold is the reply that the person rated highest. The wishes are what
        the person wrote that a model should do (`system_string`), and the `top` of the
        eight traits that they rated most important.

    Raises
    ------
    ValueError
        Naming a missing column.
    """
    wishes = {}
    for row in survey:
        need(row, ("user_id", "system_string", "stated_prefs"), "prism, survey")
        wishes[row["user_id"]] = _prism_wishes(row, top)
    examples = []
    for row in conversations:
        need(row, ("user_id", "conversation_history"), "prism, conversations")
        message, gold = _prism_opening(row)
        own = wishes.get(row["user_id"])
        if message and own:
            task = "Reply to this message in two or three sentences."
            examples.append(
                {
                    "query": f"{task}\n\n{message}",
                    "message": message,
                    "context": wishes_as_context(own),
                    "gold": gold,
                    "person": row["user_id"],
                    "wishes": own,
                }
            )
    return examples


def _prism_wishes(row: Mapping, top: int) -> list[str]:
    """What a person wrote that a model should do, then their highest traits."""
    stated = (row["system_string"] or "").strip()
    ratings = {
        trait: value
        for trait, value in (row["stated_prefs"] or {}).items()
        if trait in TRAITS and isinstance(value, (int, float))
    }
    best = sorted(ratings, key=lambda trait: (-ratings[trait], trait))[:top]
    traits = [f"It matters to me that a reply {TRAITS[trait]}." for trait in best]
    return [stated, *traits] if stated else traits


def _prism_opening(row: Mapping) -> tuple[str, str | None]:
    """A conversation's first message, "" for none, and the reply that was chosen."""
    first = [t for t in row["conversation_history"] if t.get("turn", 0) == 0]
    messages = [t["content"] for t in first if t["role"] == "user"]
    replies = [t for t in first if t["role"] == "model"]
    chosen = [t["content"] for t in replies if t.get("if_chosen")]
    message = (messages[0] or "").strip() if messages else ""
    return message, chosen[0] if chosen else None


def community_alignment(
    conversations: Sequence[Mapping], top: int = 3, language: str = "en"
) -> list[dict]:
    """Community Alignment: first turns.

    Parameters
    ----------
    conversations : sequence of dict
        Its rows.
    top : int
        Wishes per example, at most.
    language : str
        Conversations in others are left out.

    Returns
    -------
    list of dict
        Examples. Gold is the reply that the person preferred. The wishes are what the
        same person wrote after their *other* choices (`first_turn_feedback`).

    Raises
    ------
    ValueError
        Naming a missing column.
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
    """Multifaceted-Bench.

    Parameters
    ----------
    rows : sequence of dict
        Its rows.

    Returns
    -------
    list of dict
        Examples. The context is the system message, the wishes are the set of
        preferences behind it.

    Raises
    ------
    ValueError
        Naming a missing column.
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


PEOPLE: dict[str, Callable[..., list[dict]]] = {
    "prism": prism,
    "community-alignment": community_alignment,
    "multifaceted-bench": multifaceted_bench,
}


# ---- labelled preferences ----


def preferences(rows: Sequence[Mapping]) -> list[dict]:
    """UltraFeedback, binarised.

    Parameters
    ----------
    rows : sequence of dict
        Its rows.

    Returns
    -------
    list of dict
        Rows in TRL's conversational format, without those whose replies are equal or
        empty.

    Raises
    ------
    ValueError
        Naming a missing column.
    """
    pairs = []
    for i, row in enumerate(rows):
        need(row, ("chosen", "rejected"), "ultrafeedback")
        prompt, chosen = row["chosen"][:-1], row["chosen"][-1:]
        rejected = row["rejected"][-1:]
        sides = {"chosen": chosen, "rejected": rejected}
        better, worse = (
            side[0]["content"].strip() if side else "" for side in sides.values()
        )
        asks = prompt and prompt[-1]["role"] == "user"
        if asks and better and worse and better != worse:
            place = f"ultrafeedback, row {i}"
            pairs.append({"prompt": prompt, **sides, "read_from": place})
    return pairs
