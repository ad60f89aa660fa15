"""From tokens to nats, with gradient: the log-probs of the replies of one batch.

Only reply positions reach the LM head, so that no (rows, tokens, vocabulary) tensor is
ever made, nor one of (reply tokens, vocabulary) where it is large.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mipo.lm.shared_prompt import sharing

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

LARGE = 2**26  # logits (256 MB in float32): more are made in chunks
CHUNK = 2**24

Batch = dict[str, Any]


def token_logps(model: PreTrainedModel, batch: Batch) -> tuple[Tensor, Tensor]:
    """Score every reply token of a batch, with gradient.

    Parameters
    ----------
    model : PreTrainedModel
        Or one with adapters, or under DistributedDataParallel.
    batch : dict of Tensor
        Of `mipo.lm.tokens.collate`: separate rows, padded on the right, where a causal
        model cannot look back from, so that no attention mask is needed. Or of
        `mipo.lm.shared_prompt.collate_shared`: replies that share their prompt, which
        give the same numbers.

    Returns
    -------
    logps : Tensor, shape (M,)
        Log-prob of each reply token, nats.
    rows : Tensor, shape (M,)
        The row each belongs to, ascending.
    """
    if "shared_mask" in batch:
        return _shared_logps(model, batch), batch["row"]
    ids = batch["input_ids"]
    length = ids.shape[1]
    # position t predicts token t + 1
    rows, columns = batch["reply_mask"][:, 1:].nonzero(as_tuple=True)

    def pick(x: Tensor) -> Tensor:
        # prompt-learning adapters put virtual tokens in front
        return x[rows, columns + x.shape[1] - length]

    logps = _score(model, {"input_ids": ids}, pick, ids[rows, columns + 1], length)
    return logps, rows


def _shared_logps(model: PreTrainedModel, batch: Batch) -> Tensor:
    ids, targets = batch["input_ids"], batch["target"]
    replies = len(targets)
    if not replies:  # replies of one token whose first is not scored
        return torch.zeros(0, device=ids.device)
    inputs = {
        "input_ids": ids,
        "position_ids": batch["position_ids"],
        "attention_mask": batch["shared_mask"],
        "shared_rows": (batch["spread"], batch["gather"]),
    }

    def pick(x: Tensor) -> Tensor:
        return x[0, -replies:]  # the last layer may have left out the rest

    with sharing(model, batch):
        return _score(model, inputs, pick, targets, replies)


def _score(
    model: PreTrainedModel,
    inputs: Batch,
    pick: Callable[[Tensor], Tensor],
    targets: Tensor,
    length: int,
) -> Tensor:
    """Log-probs of `targets` (M,) at the positions that `pick` takes from (B, T, ...).

    The LM head sees these positions only. A hook before the head does it, and not the
    head's weight, because of PEFT adapters on the head and models that scale or cap
    their logits. Where the logits would be large they are made in chunks, and again
    when gradients need them.
    """
    inner = getattr(model, "module", model)  # under DistributedDataParallel
    has_head = hasattr(inner, "get_output_embeddings")
    # Any: a linear layer, or one with adapters
    head: Any = inner.get_output_embeddings() if has_head else None
    large = _is_large(head, inner, len(targets))
    picked: list[Tensor] = []  # (M, H), once the hook has run

    def keep_replies(_module: nn.Module, args: tuple) -> tuple | None:
        hidden = args[0]  # (B, T, H)
        if hidden.dim() != 3 or hidden.shape[1] < length:
            return None
        picked.append(pick(hidden))
        for_head = picked[-1][:0] if large else picked[-1]
        return (for_head.unsqueeze(0), *args[1:])

    hook = head.register_forward_pre_hook(keep_replies) if head is not None else None
    try:
        logits = model(**inputs, use_cache=False).logits
    finally:
        if hook is not None:
            hook.remove()
    if not picked:  # the head was out of reach: every position has been scored
        return _nats(pick(logits), targets)
    if not large:
        return _nats(logits[0], targets)
    return _in_chunks(head, picked[-1], targets, size=max(1, CHUNK // logits.shape[-1]))


def _is_large(head: Any, model: PreTrainedModel, positions: int) -> bool:
    if head is None or positions * head.weight.shape[0] <= LARGE:
        return False
    return not _bends_logits(model.config)


def _bends_logits(config: PreTrainedConfig) -> bool:
    """Whether the model scales or caps what its head returns."""
    names = ("final_logit_softcapping", "logit_scale", "logits_scaling")
    text = config.get_text_config()
    return any(getattr(text, name, None) for name in names)


def _in_chunks(head: Any, hidden: Tensor, targets: Tensor, size: int) -> Tensor:
    def nats(part: Tensor, target: Tensor) -> Tensor:
        return _nats(head(part), target)

    parts = zip(hidden.split(size), targets.split(size), strict=True)
    return torch.cat([checkpoint(nats, *part, use_reentrant=False) for part in parts])


def _nats(logits: Tensor, targets: Tensor) -> Tensor:
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    return -F.cross_entropy(logits, targets, reduction="none")  # (M,)


def sequence_logps(model: PreTrainedModel, batch: Batch) -> tuple[Tensor, Tensor]:
    """Score the replies of a batch, with gradient.

    Parameters
    ----------
    model, batch
        As in `token_logps`.

    Returns
    -------
    summed : Tensor, shape (B,)
        Log-prob of each reply, summed over its tokens, nats.
    tokens : Tensor, shape (B,)
        Tokens of each reply.
    """
    logps, rows = token_logps(model, batch)
    return sum_rows(logps, rows, batch), batch["tokens"]


def sum_rows(logps: Tensor, rows: Tensor, batch: Batch) -> Tensor:
    """Return token log-probs (M,) summed within each of the batch's rows, (B,)."""
    return logps.new_zeros(len(batch["tokens"])).index_add(0, rows, logps)


def first_tokens(logps: Tensor, rows: Tensor, batch: Batch) -> Tensor:
    """Return the log-prob of each row's first reply token, (B,), from (M,).

    `rows` ascend and every row has a token.
    """
    every_row = torch.arange(len(batch["tokens"]), device=rows.device)
    return logps[torch.searchsorted(rows.contiguous(), every_row)]
