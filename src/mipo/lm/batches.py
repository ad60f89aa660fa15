"""From preference data in TRL's format to token rows, one set of sequences per pair, with reference log-probs.

The order of a set: "chosen": the chosen reply. "pair" and "candidates": chosen, then the K rejected ones, all after the
row's prompt. "contexts" and "matrix": every reply after every prompt (own, then ``rejected_prompt``), prompt by prompt.
Beside a set there may be rows that are scored without gradient ("sides"): "marginal", the set's replies without their
prompt, and "mismatched", the previous row's chosen reply after this row's prompt.
"""

import hashlib
import json
import logging
import os
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mipo.lm.shared_prompt import collate_shared, groups_of
from mipo.lm.tokens import check_lengths, collate, encode_many, max_positions
from mipo.logprobs import marginal_row, score_rows, start_token

LOG = logging.getLogger(__name__)
REFERENCE_COLUMNS = ("ref_chosen_logps", "ref_rejected_logps")


class TokenSets(torch.utils.data.Dataset):
    """Item i: {"rows": n (prompt ids, reply ids), "ref": n summed reference log-probs in nats, or None}.

    ``sides`` adds, under each side's name, an item of the same kind.
    """

    def __init__(
        self,
        sets: list[list[tuple]],
        ref: Tensor | None = None,
        sides: dict | None = None,
    ):
        self.sets, self.ref, self.sides = sets, ref, sides or {}  # ref: (rows, n)

    def __len__(self):
        return len(self.sets)

    def lengths(self, shared: bool) -> list[int]:
        """Tokens of each set: with shared prompts as they are, with separate rows as many as its longest row has, each."""
        if not shared:
            return [
                len(rows) * max(len(head) + len(tail) for head, tail in rows)
                for rows in self.sets
            ]
        return [
            sum(
                len(head) + sum(len(tail) for _, tail in tails)
                for head, tails in groups_of([rows])
            )
            for rows in self.sets
        ]

    def __getitem__(self, index: int) -> dict:
        ref = None if self.ref is None else self.ref[index]
        sides = {name: side[index] for name, side in self.sides.items()}
        return {"rows": self.sets[index], "ref": ref, **sides}


class TokenBatches:
    """Batches of indices: the longest times their number is at most ``budget``; one that exceeds it comes alone.

    Every epoch cuts anew: indices are shuffled, sorted by length within windows of many batches, cut; then the batches are
    shuffled.
    """

    def __init__(
        self, lengths: list[int], budget: int, seed: int = 0, window: int = 2048
    ):
        self.lengths, self.budget, self.seed, self.window, self.epoch = (
            lengths,
            budget,
            seed,
            window,
            0,
        )
        self.count = len(self._cut(0))  # of the first epoch; later ones differ by a few

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def _cut(self, epoch: int) -> list[list[int]]:
        rng = torch.Generator().manual_seed(1_000_003 * self.seed + epoch)
        order, batches = torch.randperm(len(self.lengths), generator=rng).tolist(), []
        for start in range(0, len(order), self.window):
            batch = []
            for i in sorted(
                order[start : start + self.window], key=lambda i: self.lengths[i]
            ):
                if batch and (len(batch) + 1) * self.lengths[i] > self.budget:
                    batches.append(batch)
                    batch = []
                batch.append(i)
            batches.append(batch)
        return [
            batches[i] for i in torch.randperm(len(batches), generator=rng).tolist()
        ]

    def __iter__(self):
        yield from self._cut(self.epoch)
        self.epoch += 1

    def __len__(self) -> int:
        return self.count


def collate_sets(items: list[dict], pad_id: int, share: bool = False) -> dict:
    """One batch: first members of all sets, then all second members, and so on; ``ref`` has shape (members, B).

    Each side is a batch of its own under its name. With ``share``, replies to one prompt share it, and nothing
    is padded.
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
    dataset,
    tokenizer,
    model,
    loss,
    *,
    name: str,
    max_length: int | None,
    reference,
    first_token: str = "start",
    frozen_marginal: bool = False,
) -> TokenSets:
    """Tokenise a data set for ``loss``; ``reference(rows)`` is called where the loss needs it and no column has it.

    first_token, frozen_marginal   see `mipo.trainer.PreferenceConfig`
    """
    dataset, data = _read(dataset, loss, name)
    cross = "cross" in loss.needs
    talk = isinstance(data["prompt"][0], list)  # messages, not text
    replies = _groups(data, "chosen", "rejected", talk, name)
    prompts = (
        _groups(data, "prompt", "rejected_prompt", talk, name)
        if cross
        else [[p] for p in data["prompt"]]
    )
    n = len(replies[0])
    if loss.takes == "pair" and n != 2:
        raise ValueError(
            f"loss {loss.__name__!r} takes one rejected reply per row, but {name} has {n - 1}; use loss 'infonca'"
        )
    if cross and len(prompts[0]) != n:
        raise ValueError(
            f"{name}: {len(prompts[0]) - 1} rejected_prompt but {n - 1} rejected replies per row"
        )
    if talk:
        prompts, replies = _render(tokenizer, prompts, replies, name)
    _check_contrast(loss, prompts, replies, name)
    triples = [
        (i, p, r) for i in range(len(replies)) for p in prompts[i] for r in replies[i]
    ]
    labels = [f"{i} of {name}" for i, _, _ in triples]
    flat = encode_many(
        tokenizer,
        [p for _, p, _ in triples],
        [r for _, _, r in triples],
        max_length,
        special=not talk,
        eos=not talk,
        names=labels,
    )
    check_lengths(flat, max_positions(model), labels)
    size = len(flat) // len(replies)
    sets = [flat[i : i + size] for i in range(0, len(flat), size)]
    sides = {}
    if "marginal" in loss.needs:
        start = start_token(tokenizer)
        alone = [
            [marginal_row(tail, start, first_token) for _, tail in group]
            for group in sets
        ]
        sides["marginal"] = TokenSets(
            alone, _score(reference, alone) if frozen_marginal else None
        )
    if "mismatched" in loss.needs:
        moved = _mismatched(sets, loss, model, name)
        sides["mismatched"] = TokenSets(moved, _score(reference, moved))
    ref = None
    if "reference" in loss.needs:
        given = [
            column for column in REFERENCE_COLUMNS if column in dataset.column_names
        ]
        if len(given) == 1:
            raise ValueError(
                f"{name} has {given[0]!r} alone; give both of {REFERENCE_COLUMNS}, or neither"
            )
        ref = _given(dataset, size, name) if given else _score(reference, sets)
    return TokenSets(sets, ref, sides)


def _read(dataset, loss, name) -> tuple[Dataset, dict]:
    """The data set and those of its columns that the loss needs, as lists."""
    if isinstance(dataset, list):
        dataset = Dataset.from_list(dataset)
    if not isinstance(dataset, Dataset):
        raise ValueError(
            f"{name} must be a datasets.Dataset or a list of rows; got {type(dataset).__name__}"
        )
    if len(dataset) == 0:
        raise ValueError(f"{name} is empty; give at least one pair")
    need = (
        ["prompt", "chosen"]
        if loss.takes == "chosen"
        else ["prompt", "chosen", "rejected"]
    )
    need += ["rejected_prompt"] if "cross" in loss.needs else []
    for column in need:
        if column not in dataset.column_names:
            raise ValueError(
                f"{name} has no column {column!r}, which loss {loss.__name__!r} needs; it has {dataset.column_names}"
            )
    return dataset, {column: list(dataset[column]) for column in need}


def _mismatched(sets, loss, model, name) -> list[list[tuple]]:
    """The chosen reply of the row before, after each row's prompt."""
    if len(sets) < 2:
        raise ValueError(
            f"{name}: loss {loss.__name__!r} needs at least 2 rows, to pair a prompt with another's reply"
        )
    moved = [[(sets[i][0][0], sets[i - 1][0][1])] for i in range(len(sets))]
    check_lengths(
        [group[0] for group in moved],
        max_positions(model),
        [f"{i} of {name}" for i in range(len(moved))],
    )
    return moved


def _score(reference, sets) -> Tensor:
    """Reference log-probs of all members of all sets: (rows, members)."""
    return reference([row for group in sets for row in group]).reshape(len(sets), -1)


def _groups(data: dict, first: str, rest: str, talk: bool, name: str) -> list[list]:
    """[first, rest_1 .. rest_K] of each row; K must be the same everywhere."""
    if rest not in data:
        return [[value] for value in data[first]]
    groups = []
    for i, (one, others) in enumerate(zip(data[first], data[rest], strict=True)):
        many = isinstance(others, list) and (
            not talk or not others or isinstance(others[0], list)
        )
        groups.append([one, *(others if many else [others])])
        if len(groups[i]) != len(groups[0]) or len(groups[i]) < 2:
            raise ValueError(
                f"row {i} of {name}: {len(groups[i]) - 1} entries in {rest!r}, but the first row has"
                f" {len(groups[0]) - 1}; every row needs the same number, at least 1"
            )
    return groups


def _render(tokenizer, prompts, replies, name):
    """Messages to text: what the chat template writes before the reply, and what it adds for the reply."""

    def text(messages, **options):
        return tokenizer.apply_chat_template(messages, tokenize=False, **options)

    written, tails = [], []
    for i, (heads, group) in enumerate(zip(prompts, replies, strict=True)):
        written.append([text(head, add_generation_prompt=True) for head in heads])
        full = [text(heads[0] + reply) for reply in group]
        if any(not f.startswith(written[i][0]) for f in full):
            raise ValueError(
                f"row {i} of {name}: the chat template writes the prompt differently once a reply follows;"
                " render the prompts yourself and use the standard format (text columns)"
            )
        tails.append([f[len(written[i][0]) :] for f in full])
    return written, tails


def _check_contrast(loss, prompts, replies, name):
    if loss.takes == "chosen":
        return
    same = sum(len(set(map(str, group))) == 1 for group in replies)
    if same == len(replies):
        raise ValueError(
            f"{name}: all pairs are identical (rejected equals chosen in every row): nothing to learn"
        )
    if same:
        LOG.warning(
            "%d of %d pairs of %s teach nothing: rejected equals chosen",
            same,
            len(replies),
            name,
        )
    if "cross" in loss.needs and all(
        len(set(map(str, group))) == 1 for group in prompts
    ):
        raise ValueError(
            f"{name}: rejected_prompt equals prompt in every row, and {loss.__name__!r} contrasts prompts"
        )


def _given(dataset, size, name) -> Tensor:
    """Reference log-probs from the data set's own columns, shape (rows, size)."""
    chosen, rejected = (list(dataset[column]) for column in REFERENCE_COLUMNS)
    rows = [
        [c, *(r if isinstance(r, list) else [r])]
        for c, r in zip(chosen, rejected, strict=True)
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


class Reference:
    """Summed log-probs of token rows under the policy as it is before training, cached on disk by content.

    The key covers weights, model config, precision, token ids and where each reply begins; the chat template acts
    through the ids. A file is written whole (rename); one that cannot be read is made anew. Once ``closed`` (training
    has begun) only what is cached can be had.
    """

    def __init__(self, model, pad_id: int, args):
        self.model, self.pad_id, self.args = model, pad_id, args
        self.weights: str | None = None
        self.closed = False
        self.folder = Path(args.ref_cache_dir or Path(args.output_dir) / "ref-logps")

    def __call__(self, rows: list[tuple[list[int], list[int]]]) -> Tensor:
        path = self.folder / f"{self._key(rows)}.safetensors"
        summed = _read_checked(path)
        if summed is not None:
            return summed
        if self.closed:
            raise ValueError(
                "the policy has been trained since, so reference log-probs of new data cannot be computed any more;"
                f" pass the data as eval_dataset when the trainer is made, or with the columns {REFERENCE_COLUMNS}"
            )
        dtype = torch.bfloat16 if self.args.bf16 else torch.float16
        half = self.args.bf16 or self.args.fp16
        with torch.autocast(self.args.device.type, dtype=dtype, enabled=bool(half)):
            summed = score_rows(
                self.model,
                rows,
                pad_id=self.pad_id,
                batch_size=self.args.ref_batch_size,
                progress=not self.args.disable_tqdm,
            ).summed
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        save_file({"summed": summed}, partial, {"sha256": _tensor_hash(summed)})
        os.replace(partial, path)
        return summed

    def _key(self, rows) -> str:
        self.weights = self.weights or _weights_hash(self.model)
        half = [bool(self.args.bf16), bool(self.args.fp16)]
        return hashlib.sha256(
            json.dumps([self.weights, half, rows]).encode()
        ).hexdigest()[:32]


def _read_checked(path: Path) -> Tensor | None:
    """Log-probs as they were written; None where the file is missing, cut or changed."""
    try:
        with safe_open(path, framework="pt") as file:
            summed = file.get_tensor("summed")
            known = (file.metadata() or {}).get("sha256")
    except (OSError, SafetensorError, KeyError):
        return None
    return summed if known == _tensor_hash(summed) else None


def _tensor_hash(tensor: Tensor) -> str:
    data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.sha256(data.numpy().tobytes()).hexdigest()


def _weights_hash(model) -> str:
    config = {
        k: v
        for k, v in model.config.to_dict().items()
        if k not in ("_name_or_path", "transformers_version")
    }
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(
            tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        )
    return digest.hexdigest()
