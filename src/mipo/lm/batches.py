"""From preference data in TRL's format to token rows: a set of sequences per pair.

The order of a set depends on what a loss takes. "chosen": the chosen reply. "pair" and
"candidates": the chosen reply, then the K rejected ones, all after the row's prompt.
"contexts" and "matrix": every reply after every prompt (the row's own, then
``rejected_prompt``), prompt by prompt.

A reply that a model sampled keeps its tokens: where a row has them (``chosen_tokens``,
``rejected_tokens``), they are trained on, and the text is not tokenised again.

Beside a set there may be rows that are scored without gradient, its sides. "marginal":
the set's replies without their prompt. "mismatched": the chosen reply of the row
before that has another prompt, after this row's prompt.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from torch import Tensor

from mipo.lm.prompts import (
    TEMPLATE_COLUMNS,
    render_messages,
    turn_behind,
    without_nulls,
    wrapping,
)
from mipo.lm.reference import REFERENCE_COLUMNS, Reference
from mipo.lm.sampling import TOKEN_COLUMNS, reply_of
from mipo.lm.shared_prompt import collate_shared, groups_of
from mipo.lm.tokens import (
    check_lengths,
    check_vocabulary,
    collate,
    encode_many,
    end_ids,
    is_ids,
    join,
    max_positions,
)
from mipo.logprobs import marginal_row, start_token
from mipo.losses.declaration import Loss

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = [
    "REFERENCE_COLUMNS",
    "Reference",
    "TokenBatches",
    "TokenSets",
    "collate_sets",
    "prepare",
]

LOG = logging.getLogger(__name__)

Row = tuple[list[int], list[int]]  # prompt ids, reply ids
Score = Callable[[list[Row]], Tensor]  # summed log-probs under the reference, nats


class TokenSets(torch.utils.data.Dataset):
    """Sets of token rows with their reference log-probs.

    Item i is a dict: "rows" holds n (prompt ids, reply ids); "ref" n summed reference
    log-probs in nats, or None; and each side an item of the same kind, under its name.

    Parameters
    ----------
    sets : list of lists of (prompt ids, reply ids)
        Equally many rows in each.
    ref : Tensor, shape (sets, n), optional
        Summed reference log-probs, nats.
    sides : dict of TokenSets, optional
        Rows that are scored beside each set.
    """

    def __init__(
        self,
        sets: list[list[Row]],
        ref: Tensor | None = None,
        sides: dict[str, TokenSets] | None = None,
    ) -> None:
        self.sets, self.ref, self.sides = sets, ref, sides or {}

    def __len__(self) -> int:
        return len(self.sets)

    def lengths(self, shared: bool) -> list[int]:
        """Tokens that a batch pays for each set.

        Parameters
        ----------
        shared : bool
            True: replies share their prompt, so each token counts once. False: each row
            counts as many as the longest of its set.

        Returns
        -------
        list of int
        """
        count = _shared_length if shared else _padded_length
        return [count(rows) for rows in self.sets]

    def __getitem__(self, index: int) -> dict:
        ref = None if self.ref is None else self.ref[index]
        sides = {name: side[index] for name, side in self.sides.items()}
        return {"rows": self.sets[index], "ref": ref, **sides}


def _padded_length(rows: list[Row]) -> int:
    return len(rows) * max(len(head) + len(tail) for head, tail in rows)


def _shared_length(rows: list[Row]) -> int:
    groups = groups_of([rows])
    prompts = sum(len(head) for head, _ in groups)
    return prompts + sum(len(tail) for _, tail in rows)


class TokenBatches:
    """Batches of indices of about equally many tokens.

    Parameters
    ----------
    lengths : list of int
        Tokens of each item.
    budget : int
        The longest item times their number is at most this; one that exceeds it alone
        comes alone.
    seed : int
        Of the order.
    window : int
        Items among which those of like length are put together.

    Notes
    -----
    Every epoch cuts anew: indices are shuffled, sorted by length within windows, and
    cut; then the batches are shuffled.
    """

    def __init__(
        self, lengths: list[int], budget: int, seed: int = 0, window: int = 2048
    ) -> None:
        self.lengths, self.budget = lengths, budget
        self.seed, self.window = seed, window
        self.epoch = 0
        self.count = len(self._cut(0))  # of the first epoch; later ones differ by a few

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that is cut next."""
        self.epoch = epoch

    def _cut(self, epoch: int) -> list[list[int]]:
        rng = torch.Generator().manual_seed(1_000_003 * self.seed + epoch)
        order = torch.randperm(len(self.lengths), generator=rng).tolist()
        batches = []
        for start in range(0, len(order), self.window):
            some = order[start : start + self.window]
            batches += self._pack(sorted(some, key=lambda i: self.lengths[i]))
        shuffled = torch.randperm(len(batches), generator=rng).tolist()
        return [batches[i] for i in shuffled]

    def _pack(self, indices: Sequence[int]) -> list[list[int]]:
        """Indices from short to long, cut so that each batch keeps the budget."""
        batches, batch = [], []
        for i in indices:
            if batch and (len(batch) + 1) * self.lengths[i] > self.budget:
                batches.append(batch)
                batch = []
            batch.append(i)
        return [*batches, batch]

    def __iter__(self) -> Iterator[list[int]]:
        yield from self._cut(self.epoch)
        self.epoch += 1

    def __len__(self) -> int:
        return self.count


def collate_sets(items: list[dict], pad_id: int, share: bool = False) -> dict[str, Any]:
    """One batch of sets.

    Parameters
    ----------
    items : list of dict
        B items of `TokenSets`.
    pad_id : int
        Fills up rows that do not share their prompt.
    share : bool
        Whether replies to one prompt share it; then nothing is padded.

    Returns
    -------
    dict
        First members of all sets, then all second members, and so on. "members" is n,
        "ref" has shape (n, B), and each side is a batch of its own under its name.
    """
    n = len(items[0]["rows"])
    if share:
        rows = collate_shared(groups_of([item["rows"] for item in items]))
    else:
        rows = collate([item["rows"][j] for j in range(n) for item in items], pad_id)
    batch: dict[str, Any] = {**rows, "members": n}
    if items[0]["ref"] is not None:
        batch["ref"] = torch.stack([item["ref"] for item in items], dim=1)
    for name in items[0].keys() - {"rows", "ref"}:
        batch[name] = collate_sets([item[name] for item in items], pad_id, share)
    return batch


def prepare(
    dataset: Dataset | list[dict],
    tokenizer: PreTrainedTokenizerBase,
    model: PreTrainedModel,
    loss: Loss,
    *,
    name: str,
    max_length: int | None,
    reference: Score,
    first_token: str = "start",
    frozen_marginal: bool = False,
) -> TokenSets:
    """Tokenise a data set for a loss.

    Parameters
    ----------
    dataset : Dataset or list of dict
        In TRL's standard or conversational format; the ids of sampled replies in
        `mipo.lm.sampling.TOKEN_COLUMNS`, None where they are not known.
    tokenizer, model
        Of the policy.
    loss : function
        One of `mipo.losses`.
    name : str
        What errors call the data set.
    max_length : int, optional
        Tokens of a row; longer replies are cut.
    reference : callable
        Gives summed reference log-probs of rows; called where the loss needs them and
        no column has them.
    first_token, frozen_marginal
        See `mipo.trainer.PreferenceConfig`.

    Returns
    -------
    TokenSets

    Raises
    ------
    ValueError
        Naming data set and row: columns that are missing or do not fit the loss, ids
        that say something else than their reply, pairs that are all identical, rows
        that are too long, log-probs that are not finite.
    """
    dataset, columns = _read(dataset, loss, name)
    conversational = isinstance(columns["prompt"][0], list)  # messages, not text
    prompts, replies = _prompts_and_replies(columns, loss, conversational, name)
    size = len(replies[0])
    sampled = _sampled_ids(dataset, replies, name)
    _check_sampled(sampled, replies, tokenizer, model, name)
    if conversational:
        options = _template_options(dataset, name)
        prompts, replies = _render(tokenizer, prompts, replies, options, name)
    triples = [
        (i, prompt, ids or reply)
        for i in range(len(replies))
        for prompt in prompts[i]
        for ids, reply in zip(sampled[i], replies[i], strict=True)
    ]
    labels = [f"{i} of {name}" for i, _, _ in triples]
    encode = join if conversational else encode_many
    flat = encode(
        tokenizer,
        [prompt for _, prompt, _ in triples],
        [reply for _, _, reply in triples],
        max_length,
        names=labels,
    )
    check_lengths(flat, max_positions(model), labels)
    check_vocabulary(flat, tokenizer, model, name)
    members = len(flat) // len(replies)
    sets = [flat[i : i + members] for i in range(0, len(flat), members)]
    _check_contrast(loss, sets, size, name)
    sides = {}
    if "marginal" in loss.needs:
        start = start_token(tokenizer)
        alone = [
            [marginal_row(tail, start, first_token) for _, tail in rows]
            for rows in sets
        ]
        ref = _score(reference, alone) if frozen_marginal else None
        sides["marginal"] = TokenSets(alone, ref)
    if "mismatched" in loss.needs:
        moved = _mismatched(sets, loss, model, name)
        sides["mismatched"] = TokenSets(moved, _score(reference, moved))
    ref = None
    if "reference" in loss.needs:
        ref = _given(dataset, members, name)
        ref = _score(reference, sets) if ref is None else ref
    return TokenSets(sets, ref, sides)


def _read(
    dataset: Dataset | list[dict], loss: Loss, name: str
) -> tuple[Dataset, dict[str, list]]:
    """The data set and those of its columns that the loss needs, as lists."""
    if isinstance(dataset, list):
        dataset = Dataset.from_list(dataset)
    if not isinstance(dataset, Dataset):
        raise ValueError(
            f"{name} must be a datasets.Dataset or a list of rows; "
            f"got {type(dataset).__name__}"
        )
    if len(dataset) == 0:
        raise ValueError(f"{name} is empty; give at least one pair")
    needed = ["prompt", "chosen"]
    needed += ["rejected"] if loss.takes != "chosen" else []
    needed += ["rejected_prompt"] if "cross" in loss.needs else []
    for column in needed:
        if column not in dataset.column_names:
            raise ValueError(
                f"{name} has no column {column!r}, which loss {loss.__name__!r} needs; "
                f"it has {dataset.column_names}"
            )
    return dataset, {column: without_nulls(list(dataset[column])) for column in needed}


def _prompts_and_replies(
    columns: dict[str, list], loss: Loss, conversational: bool, name: str
) -> tuple[list[list], list[list]]:
    """Of each row, the prompts and the replies that the loss compares."""
    _check_one_format(columns, conversational, name)
    replies = _groups(columns, "chosen", "rejected", conversational, name)
    if conversational:
        _check_messages(columns["prompt"], replies, name)
    n = len(replies[0])
    if loss.takes == "pair" and n != 2:
        raise ValueError(
            f"loss {loss.__name__!r} takes one rejected reply per row, but {name} has "
            f"{n - 1}; use loss 'infonca'"
        )
    if "cross" not in loss.needs:
        return [[prompt] for prompt in columns["prompt"]], replies
    prompts = _groups(columns, "prompt", "rejected_prompt", conversational, name)
    if len(prompts[0]) != n:
        raise ValueError(
            f"{name}: {len(prompts[0]) - 1} rejected_prompt but {n - 1} rejected "
            "replies per row"
        )
    return prompts, replies


def _check_one_format(
    columns: dict[str, list], conversational: bool, name: str
) -> None:
    """Refuse rows that are text in one column and messages in another."""
    for column, values in columns.items():
        for i, value in enumerate(values):
            first = value[0] if isinstance(value, list) and value else value
            first = first[0] if isinstance(first, list) and first else first
            if first is None or first == []:
                continue  # what is missing or empty is named later
            if isinstance(first, dict) != conversational:
                raise ValueError(
                    f"row {i} of {name}: {column!r} is not "
                    f"{'messages' if conversational else 'text'} as the first row's "
                    "'prompt' is; give all columns as text, or all as lists of messages"
                )


def _check_messages(prompts: list, replies: list[list], name: str) -> None:
    """Refuse a prompt or reply that is no list of messages."""
    for i, (prompt, group) in enumerate(zip(prompts, replies, strict=True)):
        for kind, talk in [("prompt", prompt), *(("reply", reply) for reply in group)]:
            messages = talk if isinstance(talk, list) and talk else [None]
            if not all(isinstance(message, dict) for message in messages):
                raise ValueError(
                    f"row {i} of {name}: the {kind} must be a list of messages; "
                    f"got {talk!r}"
                )


def _groups(
    columns: dict[str, list], first: str, rest: str, conversational: bool, name: str
) -> list[list]:
    """[first, rest_1 .. rest_K] of each row; K must be the same everywhere."""
    if rest not in columns:
        return [[value] for value in columns[first]]
    groups: list[list] = []
    rows = zip(columns[first], columns[rest], strict=True)
    for i, (one, others) in enumerate(rows):
        groups.append(
            [one, *(others if _is_many(others, conversational) else [others])]
        )
        if len(groups[i]) != len(groups[0]) or len(groups[i]) < 2:
            raise ValueError(
                f"row {i} of {name}: {len(groups[i]) - 1} entries in {rest!r}, but the "
                f"first row has {len(groups[0]) - 1}; every row needs the same number, "
                "at least 1"
            )
    return groups


def _is_many(others: Any, conversational: bool) -> bool:
    """Whether a cell holds several replies; one in messages is a list, too."""
    if not isinstance(others, list):
        return False
    return not conversational or not others or isinstance(others[0], list)


def _sampled_ids(dataset: Dataset, replies: list[list], name: str) -> list[list]:
    """Of each row, the ids of each of its replies; None where they are not known."""
    chosen, rejected = (
        list(dataset[column])
        if column in dataset.column_names
        else [None] * len(dataset)
        for column in TOKEN_COLUMNS
    )
    rows = []
    for i, group in enumerate(replies):
        rest = rejected[i]
        many = isinstance(rest, list) and not is_ids(rest)
        row = [chosen[i], *(rest if many else [rest] * (len(group) - 1))]
        if len(group) == 1:
            row = row[:1]
        if len(row) != len(group):
            raise ValueError(
                f"row {i} of {name}: {TOKEN_COLUMNS[1]!r} holds the ids of "
                f"{len(row) - 1} replies, and 'rejected' has {len(group) - 1}"
            )
        rows.append(row)
    return rows


def _check_sampled(
    sampled: list[list],
    replies: list[list],
    tokenizer: PreTrainedTokenizerBase,
    model: PreTrainedModel,
    name: str,
) -> None:
    """Refuse ids that say something else than the reply that stands beside them."""
    known = [
        (i, ids, reply)
        for i, row in enumerate(sampled)
        for ids, reply in zip(row, replies[i], strict=True)
        if ids is not None
    ]
    ends = end_ids(tokenizer, model) if known else []
    for i, ids, reply in known:
        text = reply[0].get("content") if isinstance(reply, list) else reply
        if not is_ids(ids) or reply_of(tokenizer, ids, ends).text != text:
            raise ValueError(
                f"row {i} of {name}: the ids in {' and '.join(TOKEN_COLUMNS)} are "
                "not those of the replies under this tokenizer; leave these columns "
                "out where replies were changed, or sampled by another model"
            )


def _template_options(dataset: Dataset, name: str) -> list[dict[str, Any]]:
    """What each row gives its template beside the messages, as TRL passes it on."""
    rows: list[dict[str, Any]] = [{} for _ in range(len(dataset))]
    for column in TEMPLATE_COLUMNS:
        if column not in dataset.column_names:
            continue
        for i, value in enumerate(dataset[column]):
            try:
                read = json.loads(value) if isinstance(value, str) else value
            except json.JSONDecodeError as error:
                raise ValueError(f"row {i} of {name}: {column!r}: {error}") from None
            given = without_nulls(read)
            rows[i] |= {"tools": given} if column == "tools" else given or {}
    return rows


def _render(
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[list],
    replies: list[list],
    options: list[dict[str, Any]],
    name: str,
) -> tuple[list[list[str]], list[list[str]]]:
    """Messages as text: what the template writes up to the reply, and then for it."""
    around = wrapping(tokenizer)
    heads, turns = [], []
    for i, (own, group) in enumerate(zip(prompts, replies, strict=True)):
        where, more = f"row {i} of {name}", options[i]
        heads.append(
            [render_messages(tokenizer, prompt, where, **more) for prompt in own]
        )
        turns.append(
            [
                turn_behind(tokenizer, own[0], reply, around, where, **more)
                for reply in group
            ]
        )
    return heads, turns


def _check_contrast(loss: Loss, sets: list[list[Row]], replies: int, name: str) -> None:
    """Refuse data that teach nothing; warn where some pairs do not.

    What counts is the tokens that are trained on: two texts may be cut before they
    differ.
    """
    if loss.takes == "chosen":
        return
    same = sum(_all_equal([tail for _, tail in rows[:replies]]) for rows in sets)
    if same == len(sets):
        raise ValueError(
            f"{name}: all pairs are identical (rejected equals chosen in every row, up "
            "to max_length): nothing to learn"
        )
    if same:
        LOG.warning(
            "%d of %d pairs of %s teach nothing: rejected equals chosen, up to "
            "max_length",
            same,
            len(sets),
            name,
        )
    prompts_equal = (_all_equal([head for head, _ in rows]) for rows in sets)
    if "cross" in loss.needs and all(prompts_equal):
        raise ValueError(
            f"{name}: rejected_prompt equals prompt in every row, and "
            f"{loss.__name__!r} contrasts prompts"
        )


def _all_equal(rows: list[list[int]]) -> bool:
    return all(row == rows[0] for row in rows)


def _mismatched(
    sets: list[list[Row]], loss: Loss, model: PreTrainedModel, name: str
) -> list[list[Row]]:
    """The chosen reply of the row before that has another prompt, after each prompt."""
    prompts = [rows[0][0] for rows in sets]
    if all(prompt == prompts[0] for prompt in prompts):
        raise ValueError(
            f"{name}: loss {loss.__name__!r} needs at least 2 rows with different "
            "prompts, to pair a prompt with another's reply"
        )
    rows = []
    for i, prompt in enumerate(prompts):
        before = (i - step for step in range(1, len(sets)))
        other = next(j for j in before if prompts[j] != prompt)
        rows.append((prompt, sets[other][0][1]))
    labels = [f"{i} of {name}" for i in range(len(rows))]
    check_lengths(rows, max_positions(model), labels)
    return [[row] for row in rows]


def _score(reference: Score, sets: list[list[Row]]) -> Tensor:
    """Reference log-probs of all members of all sets: (sets, members)."""
    flat = [row for rows in sets for row in rows]
    return reference(flat).reshape(len(sets), -1)


def _given(dataset: Dataset, size: int, name: str) -> Tensor | None:
    """Reference log-probs from the data set's own columns, (rows, size); else None."""
    given = [one for one in REFERENCE_COLUMNS if one in dataset.column_names]
    if not given:
        return None
    if len(given) == 1:
        raise ValueError(
            f"{name} has {given[0]!r} alone; give both of {REFERENCE_COLUMNS}, "
            "or neither"
        )
    chosen, rejected = (list(dataset[column]) for column in REFERENCE_COLUMNS)
    rows = [
        [one, *(others if isinstance(others, list) else [others])]
        for one, others in zip(chosen, rejected, strict=True)
    ]
    if any(len(row) != size for row in rows):
        raise ValueError(
            f"{name}: {REFERENCE_COLUMNS[1]!r} must have one number per rejected reply"
        )
    values = torch.tensor(rows, dtype=torch.float32)
    wrong = (~torch.isfinite(values)).any(dim=1).nonzero()
    if len(wrong):
        raise ValueError(
            f"row {int(wrong[0])} of {name}: a reference log-prob is NaN or infinite"
        )
    return values
