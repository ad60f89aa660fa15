"""Log-probs of many token rows without gradient, in batches of similar length."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from tqdm import tqdm

from mipo.lm.reply_logps import Batch, sequence_logps
from mipo.lm.shared_prompt import collate_shared, why_not
from mipo.lm.tokens import Row, collate

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MOST_REPLIES = 16  # to one prompt, computed together


@dataclass(frozen=True)
class LogProbs:
    """Log-probs of replies and their lengths.

    Parameters
    ----------
    summed : Tensor, shape (R,) or (R, K)
        Summed over reply tokens, nats; K replies to each prompt.
    tokens : Tensor, of the same shape
        Tokens of each reply.
    """

    summed: Tensor
    tokens: Tensor

    @property
    def mean(self) -> Tensor:
        """Nats per token."""
        return self.summed / self.tokens


@torch.no_grad()
def score_rows(
    model: PreTrainedModel,
    rows: Sequence[Row],
    *,
    pad_id: int = 0,
    batch_size: int = 32,
    share: bool = True,
    progress: bool = False,
) -> LogProbs:
    """Score many token rows without gradient, in the order given.

    Parameters
    ----------
    model : PreTrainedModel
        Its dropout is off meanwhile.
    rows : sequence of (prompt ids, reply ids), length R
        As `mipo.lm.tokens.encode_many` makes them.
    pad_id : int
        Fills shorter rows.
    batch_size : int
        Rows per batch; a batch holds rows of similar length, and rows with one prompt
        are computed together where the model allows it.
    share : bool
        False computes every row with a prompt of its own.
    progress : bool
        Show a bar.

    Returns
    -------
    LogProbs
        Of shapes (R,).
    """
    shares = share and why_not(model) is None
    device = next(model.parameters()).device
    parts, order = [], []
    was_training = model.training
    model.eval()
    bar = tqdm(total=len(rows), desc="log-probs", unit="reply", disable=not progress)
    try:
        for index in _batches(rows, batch_size):
            if shares:
                batch = collate_shared(_same_prompts(rows, index))
            else:
                batch = collate([rows[i] for i in index], pad_id)
            summed, tokens = sequence_logps(model, _on(batch, device))
            parts.append((summed.cpu(), tokens.cpu()))
            order += index
            bar.update(len(index))
    finally:
        bar.close()
        model.train(was_training)
    return _in_order(parts, order)


def _in_order(parts: list[tuple[Tensor, Tensor]], order: list[int]) -> LogProbs:
    """The batches' numbers, put back where their rows stand."""
    if not parts:
        return LogProbs(torch.zeros(0), torch.zeros(0, dtype=torch.long))
    place = torch.tensor(order).argsort()
    summed, tokens = (torch.cat(column) for column in zip(*parts, strict=True))
    return LogProbs(summed[place], tokens.long()[place])


def _on(batch: Batch, device: torch.device) -> Batch:
    return {k: v.to(device) if isinstance(v, Tensor) else v for k, v in batch.items()}


def _batches(rows: Sequence[Row], size: int) -> Iterable[list[int]]:
    """Indices of rows in batches, longest first; one prompt's rows are neighbours."""
    longest: dict[tuple[int, ...], int] = {}
    for head, tail in rows:
        prompt = tuple(head)
        longest[prompt] = max(longest.get(prompt, 0), len(tail))

    def place(i: int) -> tuple:
        head, tail = rows[i]
        return -len(head) - longest[tuple(head)], head, -len(tail)

    order = sorted(range(len(rows)), key=place)
    return [order[start : start + size] for start in range(0, len(order), size)]


def _same_prompts(
    rows: Sequence[Row], index: list[int], most: int = MOST_REPLIES
) -> list[tuple]:
    """The batch's rows as groups (prompt ids, [(place in the batch, reply ids), …])."""
    groups: list[tuple] = []
    for place, i in enumerate(index):
        head, tail = rows[i]
        if not groups or groups[-1][0] != head or len(groups[-1][1]) == most:
            groups.append((head, []))
        groups[-1][1].append((place, tail))
    return groups
