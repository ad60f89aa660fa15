"""Public data sets as examples: people with preferences, maths and multiple choice, labelled pairs of replies.

Nothing is fetched unless a data set is asked for by name. Each is read at a pinned commit (`download.PINNED`), or from a local
folder in the hub's own layout. Which of their fields the papers wrote into their prompts is not published: what we take
is said at each function.
"""

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

    parts      {name: (configuration, split)}          megabytes   of what is downloaded, about
    columns    those that are read, where there are many more; none: all
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


def kind_of(name):
    """people, reasoning or preferences; ValueError for an unknown name."""
    if Path(name).suffix == ".jsonl":
        return "people"
    if name not in SOURCES:
        raise ValueError(
            f"data set {name!r}: expected one of {', '.join(SOURCES)}, or the path of a .jsonl file"
        )
    return SOURCES[name].kind


@dataclass
class Data:
    """Examples to train on and to test on, with where they come from (`source`, JSON)."""

    kind: str
    train: list
    test: list
    source: dict = field(default_factory=dict)


def load(name, *, folder="", n_train=0, n_test=200, seed=0):
    """A data set by name, or a reader's own .jsonl, as Data; n_train 0: all there are.

    kind "people"       examples with query, context, gold (the reply that the person chose, or None), person, wishes
    kind "reasoning"    items of `hub.answers`
    kind "preferences"  rows with prompt (messages), chosen, rejected
    folder              read the files there instead of the hub's (see `files_of`)
    People are split, not their examples: nobody is in both parts. Other data sets keep their own split, and training items
    that are also test items are dropped and counted.
    errors  ValueError for an unknown name or a missing column; download.Unavailable where the files cannot be had
    """
    kind_of(name)
    if Path(name).suffix == ".jsonl":
        examples = [
            {**e, "person": e.get("person") or e["context"], "wishes": [e["context"]]}
            for e in data.read_jsonl(name)
        ]
        about = {"file": Path(name).name, "licence": "yours"}
        return split_people(
            examples, n_train=n_train, n_test=n_test, seed=seed, source=about
        )
    source = SOURCES[name]
    rows, sha = fetch(name, folder)
    about = {"repo": source.repo, "commit": sha, "licence": source.licence}
    if source.kind == "people":
        examples = PEOPLE[name](**rows)
        return split_people(
            examples, n_train=n_train, n_test=n_test, seed=seed, source=about
        )
    if source.kind == "preferences":
        parts = {part: preferences(rows[part]) for part in ("train", "test")}
    else:
        parts = {
            part: answers.items(name, rows[part], part) for part in ("train", "test")
        }
    known = {_same(r) for r in parts["test"]}
    train = [r for r in parts["train"] if _same(r) not in known]
    about |= {"dropped": len(parts["train"]) - len(train)}
    rng = random.Random(f"{name} {seed}")
    picked = {
        part: rng.sample(side, min(n, len(side)) if n else len(side))
        for part, side, n in (
            ("train", train, n_train),
            ("test", parts["test"], n_test),
        )
    }
    return Data(source.kind, picked["train"], picked["test"], about)


def files_of(name, folder):
    """Where a data set lies in a folder: in a subfolder of its name (as in MIPO_DATA, or in the hub's layout), or itself."""
    if not Path(folder).is_dir():
        raise ValueError(f"data folder {folder}: there is no such folder")
    own = Path(folder) / name
    return own if own.is_dir() else Path(folder)


def fetch(name, folder=""):
    """({part: rows}, commit) of a data set, the columns that are read: the pinned commit, "" for a local folder."""
    if folder and answers.is_raw(name, folder):
        return answers.read_raw(name, folder), ""
    if not folder:
        sha = download.PINNED[SOURCES[name].repo]
        return _at(name, sha), sha
    with (
        tempfile.TemporaryDirectory() as fresh
    ):  # datasets caches a folder by its name, and would miss that it changed
        return _read(name, path=str(files_of(name, folder)), cache_dir=fresh), ""


@functools.lru_cache(
    maxsize=1
)  # the next seed draws from the same rows; more data sets at once would fill the memory
def _at(name, sha):
    return _read(name, path=SOURCES[name].repo, revision=sha)


def _read(name, **where):
    from datasets import load_dataset

    found = {}
    for part, (config, split) in SOURCES[name].parts.items():
        with download.explained(where["path"], kind="dataset"):
            rows = load_dataset(name=config, split=split, **where)
            wanted = list(SOURCES[name].columns)
            if wanted and set(wanted) <= set(
                rows.column_names
            ):  # else `need` says which is missing, and which there are
                rows = rows.select_columns(wanted)
            found[part] = [dict(row) for row in rows]
    return found


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


def wording(row):
    """What a person or an item asks, without the words that a prompt puts around it."""
    return row.get("message") or row.get("query") or row["prompt"][-1]["content"]


def unit(row):
    """What is drawn whole when an interval is computed: a person, or an item where nobody asks."""
    return str(row.get("person") or row.get("id") or wording(row))


def _same(row):
    """What makes two rows the same question: its words, in lower case."""
    return " ".join(
        [
            *wording(row).lower().split(),
            *(str(o).lower() for o in row.get("options", ())),
        ]
    )


def need(row, names, where):
    """ValueError naming the columns that a row of a data set should have and has not."""
    gone = [n for n in names if n not in row]
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


def wishes_as_context(wishes):
    return (
        "What this person has asked for:\n" + "\n".join(f"- {w}" for w in wishes)
        if wishes
        else ""
    )


def prism(survey, conversations, top=3):
    """PRISM: the opening message of each conversation; gold is the reply that the person rated highest.

    The wishes are what the person wrote that a model should do (`system_string`), and the `top` of the eight traits that
    they rated most important.
    """
    wishes = {}
    for row in survey:
        need(row, ("user_id", "system_string", "stated_prefs"), "prism, survey")
        rated = {
            k: v
            for k, v in (row["stated_prefs"] or {}).items()
            if k in TRAITS and isinstance(v, (int, float))
        }
        best = sorted(rated, key=lambda k: (-rated[k], k))[:top]
        own = (row["system_string"] or "").strip()
        wishes[row["user_id"]] = ([own] if own else []) + [
            f"It matters to me that a reply {TRAITS[k]}." for k in best
        ]
    examples = []
    for row in conversations:
        need(row, ("user_id", "conversation_history"), "prism, conversations")
        first = [t for t in row["conversation_history"] if t.get("turn", 0) == 0]
        asked = next((t["content"] for t in first if t["role"] == "user"), "")
        gold = next(
            (
                t["content"]
                for t in first
                if t["role"] == "model" and t.get("if_chosen")
            ),
            None,
        )
        mine = wishes.get(row["user_id"])
        if asked and asked.strip() and mine:
            examples.append(
                {
                    "query": f"Reply to this message in two or three sentences.\n\n{asked.strip()}",
                    "message": asked.strip(),
                    "context": wishes_as_context(mine),
                    "gold": gold,
                    "person": row["user_id"],
                    "wishes": mine,
                }
            )
    return examples


def community_alignment(conversations, top=3, language="en"):
    """Community Alignment: first turns; gold is the reply that the person preferred.

    The wishes are what the same person wrote after their *other* choices (`first_turn_feedback`), `top` of them.
    """
    rows = []
    for row in conversations:
        need(row, COMMUNITY, "community-alignment")
        choice = row["first_turn_preferred_response"] or ""
        if (
            row["assigned_lang"] == language
            and row["first_turn_prompt"]
            and choice[-1:] in tuple("abcd")
        ):
            rows.append((row, row.get(f"first_turn_response_{choice[-1]}")))
    said = defaultdict(list)
    for i, (row, _) in enumerate(rows):
        if (row["first_turn_feedback"] or "").strip():
            said[row["annotator_id"]].append((i, row["first_turn_feedback"].strip()))
    examples = []
    for i, (row, gold) in enumerate(rows):
        wishes = [text for j, text in said[row["annotator_id"]] if j != i][:top]
        if wishes:
            context = "\n".join(
                [
                    "Why this person chose a reply at other times:",
                    *(f"- {w}" for w in wishes),
                ]
            )
            examples.append(
                {
                    "query": row["first_turn_prompt"].strip(),
                    "gold": gold and gold.replace("<|end_of_text|>", ""),
                    "context": context,
                    "person": row["annotator_id"],
                    "wishes": wishes,
                }
            )
    return examples


def multifaceted_bench(rows):
    """Multifaceted-Bench: the system message is the context, the set of preferences behind it the wishes."""
    examples = []
    for i, row in enumerate(rows):
        need(
            row,
            ("system", "prompt", "reference_answer", "preference_set"),
            "multifaceted-bench",
        )
        wishes = [
            p["preference"] for p in row["preference_set"] or () if p.get("preference")
        ]
        examples.append(
            {
                "query": row["prompt"].strip(),
                "context": row["system"].strip(),
                "gold": row["reference_answer"],
                "person": f"{i}",
                "wishes": wishes or [row["system"].strip()],
            }
        )
    return examples


PEOPLE = {
    "prism": prism,
    "community-alignment": community_alignment,
    "multifaceted-bench": multifaceted_bench,
}


# ---- labelled preferences ----


def preferences(rows):
    """UltraFeedback, binarised: rows in TRL's conversational format; equal or empty replies are left out."""
    found = []
    for i, row in enumerate(rows):
        need(row, ("chosen", "rejected"), "ultrafeedback")
        prompt, chosen, rejected = (
            row["chosen"][:-1],
            row["chosen"][-1:],
            row["rejected"][-1:],
        )
        texts = [
            side[0]["content"].strip() if side else "" for side in (chosen, rejected)
        ]
        if (
            prompt
            and all(texts)
            and texts[0] != texts[1]
            and prompt[-1]["role"] == "user"
        ):
            found.append(
                {
                    "prompt": prompt,
                    "chosen": chosen,
                    "rejected": rejected,
                    "read_from": f"ultrafeedback, row {i}",
                }
            )
    return found
