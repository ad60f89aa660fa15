"""The reader's own preferences: a JSONL in TRL's format, checked and split.

Standard format: prompt, chosen and rejected are text. Conversational format: prompt is
a list of messages {"role", "content"} that ends with the user's; chosen and rejected
are one message of the assistant each, as a list. Further columns are left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mipo import files, jsonl
from mipo.lm.prompts import TEMPLATE_COLUMNS, render_messages, without_nulls

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


COLUMNS = ("prompt", "chosen", "rejected")
_MESSAGES = re.compile(r"""\s*\[\s*\{\s*["'](role|content)["']\s*:""")
_LEAST = (
    "preferences need at least 2 different prompts, one to train on and one to hold out"
)


def read(path: str | Path) -> list[dict]:
    """Preferences as the file has them, each text or messages.

    Parameters
    ----------
    path : str or Path
        A relative one counts from the project's root.

    Returns
    -------
    list of dict
        With prompt, chosen, rejected, and read_from (file and line).

    Raises
    ------
    ValueError
        Naming file and line: what `mipo.jsonl.read` refuses; a column that is missing,
        neither text nor messages, messages written as text, or empty; chosen equal to
        rejected; a column that is meant for the chat template. Also for fewer than 2
        different prompts, and replies that all begin with their prompt.
    """
    path = files.resolve(path)
    rows = [_preference(row, where) for where, row in jsonl.read(path, "preferences")]
    if len({_key(row) for row in rows}) < 2:
        raise ValueError(f"{path}: {len(rows)} row(s); {_LEAST}")
    if all(_repeats_prompt(row) for row in rows):
        raise ValueError(
            f'{path}: "chosen" and "rejected" begin with "prompt" in every row, so it '
            "would be read twice; leave it out of the replies"
        )
    return rows


def _repeats_prompt(row: dict) -> bool:
    prompt, *replies = (row[name] for name in COLUMNS)
    return isinstance(prompt, str) and all(y.startswith(prompt) for y in replies)


def _preference(row: dict, where: str) -> dict:
    """The checked columns of one row."""
    for name in COLUMNS:
        if name not in row:
            raise ValueError(
                f'{where}: column "{name}" is missing; '
                f"the line has {', '.join(row) or 'none'}"
            )
    for name in TEMPLATE_COLUMNS:
        if row.get(name):
            raise ValueError(
                f'{where}: column "{name}" would change the prompt, and is not read '
                "here; give the rows to mipo.PreferenceTrainer, which passes it to the "
                "chat template"
            )
    check = _check_messages if isinstance(row["prompt"], list) else _check_text
    for name in COLUMNS:
        check(row[name], name, where)
    if row["chosen"] == row["rejected"]:
        raise ValueError(
            f'{where}: "chosen" equals "rejected", so there is nothing to learn; '
            "leave the line out"
        )
    columns = {name: without_nulls(row[name]) for name in COLUMNS}
    return columns | {"read_from": where}


def _check_text(value: object, name: str, where: str) -> None:
    is_list = isinstance(value, list)
    hint = (
        'where it is a list of messages, "prompt" must be one too (without the reply)'
        if is_list
        else ""
    )
    text = jsonl.require_text(value, name, where, hint)
    if _MESSAGES.match(text):
        raise ValueError(
            f'{where}: "{name}" is a list of messages written as text; write it as a '
            "list"
        )


def _check_messages(value: object, name: str, where: str) -> None:
    if not isinstance(value, list) or not value:
        raise ValueError(
            f'{where}: "prompt" is a list of messages, so "{name}" must be one too, '
            "and not empty"
        )
    for message in value:
        if not isinstance(message, dict) or not {"role", "content"} <= set(message):
            raise ValueError(
                f'{where}: each message of "{name}" needs "role" and "content"'
            )
        _check_text(message["role"], f"{name}: role", where)
        _check_text(message["content"], f"{name}: content", where)
    roles = [message["role"] for message in value]
    if name == "prompt" and roles[-1] != "user":
        raise ValueError(
            f'{where}: "prompt" must end with a message of the user; '
            f"its roles are {', '.join(roles)}"
        )
    if name != "prompt" and roles != ["assistant"]:
        raise ValueError(
            f'{where}: "{name}" must be one message of the assistant; '
            f"its roles are {', '.join(roles)}"
        )


def _key(row: dict) -> str:
    """What tells one prompt from another, text or messages."""
    return json.dumps(row["prompt"], sort_keys=True)


def as_text(
    rows: Sequence[Mapping[str, Any]], tokenizer: PreTrainedTokenizerBase
) -> list[dict]:
    """Preferences with rendered prompts and plain replies; text stays as it is.

    Parameters
    ----------
    rows : sequence of dict
        As `read` gives them.
    tokenizer : PreTrainedTokenizerBase
        Of the model that is to be trained.

    Returns
    -------
    list of dict
        With prompt (text that is ready for the reply), chosen and rejected (text). The
        model's end-of-sequence token is added later, where replies are tokenised (see
        `mipo.lm.tokens.encode_many`).

    Raises
    ------
    ValueError
        Naming the line whose conversation the model's chat template refuses.
    """
    return [
        {
            "prompt": written(row["prompt"], tokenizer, row["read_from"]),
            "chosen": _reply_text(row["chosen"]),
            "rejected": _reply_text(row["rejected"]),
        }
        for row in rows
    ]


def _reply_text(reply: str | list[dict]) -> str:
    return reply if isinstance(reply, str) else reply[0]["content"]


def written(
    prompt: str | list[dict], tokenizer: PreTrainedTokenizerBase, where: str
) -> str:
    """A prompt as text, which it may be already; see `mipo.lm.prompts`."""
    if isinstance(prompt, str):
        return prompt
    return render_messages(tokenizer, prompt, where)


def split(
    rows: list[dict], *, share: float = 0.1, seed: int = 0
) -> tuple[list[dict], list[dict]]:
    """Preferences to train on, and preferences whose prompts training never sees.

    Parameters
    ----------
    rows : list of dict
        As `read` gives them.
    share : float
        Of the different prompts, drawn at random and held out; at least one is, and at
        least one is left.
    seed : int
        Of the draw.

    Returns
    -------
    train, unseen : list of dict
        Rows of one prompt stay together. Both keep the file's order.

    Raises
    ------
    ValueError
        For a share outside 0 to 1, and for fewer than 2 different prompts.
    """
    if not 0 < share < 1:
        raise ValueError(
            f"share={share!r}: the held-out share must lie between 0 and 1"
        )
    prompts = list(dict.fromkeys(_key(row) for row in rows))
    if len(prompts) < 2:
        raise ValueError(
            f"{len(rows)} row(s) with {len(prompts)} different prompt(s); {_LEAST}"
        )
    count = min(max(1, round(share * len(prompts))), len(prompts) - 1)
    order = np.random.default_rng((seed, 9)).permutation(len(prompts))
    held_out = {prompts[i] for i in order[:count]}
    train = [row for row in rows if _key(row) not in held_out]
    unseen = [row for row in rows if _key(row) in held_out]
    return train, unseen
