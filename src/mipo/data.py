"""Records (context, query, gold) from the small world, Polis or the reader's own JSONL, and prompts made from them."""

from __future__ import annotations

import difflib
import json
import os
from pathlib import Path

FIELDS = ("context", "query", "gold")
# names that other data sets use for the query: worth a hint, never guessed
_OTHER_NAMES = {"prompt", "question", "instruction", "input", "text", "message"}


def offline() -> bool:
    """Whether the hub's own switch, HF_HUB_OFFLINE, forbids the network."""
    return os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on")


def load(name: str | Path, **kwargs) -> list[dict]:
    """Records by name: "world" (mipo.world), "polis" (mipo.worlds.polis), or the path of a .jsonl file.

    A record is a dict with "query" (str), "context" (str, may be empty), "gold" (str or None) and any further
    columns of its source. Keywords travel to the source's own function.

    errors  ValueError for an unknown name or a broken file; polis.DataUnavailable where the votes cannot be had
    """
    if str(name) == "world":
        from mipo import world

        return world.records(**kwargs)
    if str(name) == "polis":
        from mipo.worlds import polis

        return polis.records(**kwargs)
    if Path(name).suffix == ".jsonl":
        return read_jsonl(name, **kwargs)
    near = difflib.get_close_matches(str(name).lower(), ["world", "polis"], n=1)
    hint = f'; did you mean "{near[0]}"?' if near else ""
    raise ValueError(
        f'records "{name}": expected "world", "polis" or the path of a file that ends in .jsonl{hint}'
    )


def read_jsonl(path: str | Path) -> list[dict]:
    """Records from a JSONL file: UTF-8, one JSON object per line, "query" required, "context" and "gold" optional.

    Blank lines are skipped, further fields are kept as they are. Missing context becomes "", missing gold None;
    "read_from" names file and line, for the errors of later steps.

    errors  ValueError naming file and line: not UTF-8, not JSON, not an object, field missing, empty, of the wrong
            type, twice, or with a name so close to a known one that it must be a slip; also an empty file
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(
            f"{path}: there is no such file; give the path of a JSONL file of records"
        )
    records = []
    for number, raw in enumerate(path.read_bytes().split(b"\n"), start=1):
        where = f"{path}, line {number}"
        text = _decode(raw, where, first=number == 1).strip()
        if text:
            records.append(_record(_parse(text, where), where))
    if not records:
        raise ValueError(
            f'{path}: the file holds no record; write one JSON object with a "query" per line'
        )
    return records


def _decode(raw: bytes, where: str, *, first: bool) -> str:
    """One line as text; a byte order mark is dropped, a NUL byte gives away UTF-16."""
    try:
        text = raw.decode("utf-8-sig" if first else "utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{where}: byte {error.start + 1} is not UTF-8; save the file as UTF-8"
        ) from None
    if "\0" in text:
        raise ValueError(
            f"{where}: NUL bytes, so this is not UTF-8 text (UTF-16?); save the file as UTF-8"
        )
    return text


def _parse(text: str, where: str) -> dict:
    """One line of JSON as a dict; a field given twice is an error, since JSON would keep the last in silence."""

    def unique(pairs):
        names = [key for key, _ in pairs]
        twice = sorted({key for key in names if names.count(key) > 1})
        if twice:
            raise ValueError(f'{where}: field "{twice[0]}" is given twice; keep one')
        return dict(pairs)

    try:
        value = json.loads(text, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{where}: not JSON ({error.msg} at character {error.pos + 1}); "
            "write one complete JSON object per line"
        ) from None
    if not isinstance(value, dict):
        raise ValueError(
            f'{where}: expected a JSON object such as {{"query": "…"}}, got {_kind(value)}'
        )
    return value


def _record(row: dict, where: str) -> dict:
    """A checked record: known fields have the right type, slips in field names are errors."""
    for name in row:
        if name not in FIELDS:
            near = difflib.get_close_matches(
                name.lower().strip(), FIELDS, n=1, cutoff=0.75
            )
            if near:
                raise ValueError(
                    f'{where}: unknown field "{name}"; did you mean "{near[0]}"?'
                )
    if "query" not in row:
        others = sorted(_OTHER_NAMES & set(row))
        hint = f'; rename "{others[0]}" to "query"' if others else ""
        raise ValueError(f'{where}: field "query" is missing{hint}')
    for name in FIELDS:
        value = row.get(name)
        optional = name != "query"
        if not (isinstance(value, str) or (optional and value is None)):
            raise ValueError(
                f'{where}: field "{name}" must be text, got {_kind(value)}; put it in double quotes'
            )
    if not row["query"].strip():
        raise ValueError(
            f'{where}: field "query" is empty; write what the model is asked'
        )
    return {
        **row,
        "context": row.get("context") or "",
        "query": row["query"],
        "gold": row.get("gold"),
        "read_from": where,
    }


def _kind(value) -> str:
    """What a JSON value is, in JSON's own words."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return {dict: "an object", list: "an array", str: "text"}.get(
        type(value), "a number"
    )


def render(tokenizer, query: str, context: str = "") -> str:
    """The prompt as text: one user turn "{context}\\n\\n{query}" in the tokenizer's chat template, ready for a reply.

    tokenizer(prompt) then gives the right ids: where tokenizing would add a second BOS to the one that the template
    writes (Llama 3 does both), the template's own is cut.

    errors  ValueError where the tokenizer has no chat template, or query or context is not text
    """
    for name, value in (("query", query), ("context", context)):
        if not isinstance(value, str):
            raise ValueError(f"render: {name} must be text, got {type(value).__name__}")
    if not getattr(tokenizer, "chat_template", None):
        name = getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__
        raise ValueError(
            f"tokenizer {name} has no chat template, so a prompt cannot be written as a user's turn; "
            "use an Instruct model, or set tokenizer.chat_template"
        )
    content = f"{context}\n\n{query}" if context else query
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": content}],
        tokenize=False,
        add_generation_prompt=True,
    )
    bos = tokenizer.bos_token
    if (
        bos
        and text.startswith(bos)
        and tokenizer(text)["input_ids"][:2] == [tokenizer.bos_token_id] * 2
    ):
        text = text[len(bos) :]
    return text
