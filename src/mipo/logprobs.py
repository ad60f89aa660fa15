"""From tokens to nats: the log-probabilities that a causal language model gives to replies, and their PMI.

A reply's log-prob is log pi(reply tokens + end of sequence | prompt tokens), in nats. Only reply positions reach the
LM head, so that no (rows, tokens, vocabulary) tensor is ever made, nor one of (reply tokens, vocabulary) where it is large.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from tqdm import tqdm

from mipo.lm.shared_prompt import collate_shared, sharing, why_not
from mipo.lm.tokens import check_lengths, collate, encode_many, max_positions

LARGE = 2**26  # logits (256 MB in float32): more are made in chunks
CHUNK = 2**24


@dataclass(frozen=True)
class LogProbs:
    """Summed log-probs in nats and token counts of replies: shapes (R,), or (R, K) for K replies to each prompt."""

    summed: Tensor
    tokens: Tensor

    @property
    def mean(self) -> Tensor:
        """Nats per token."""
        return self.summed / self.tokens


def token_logps(model, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """(log-probs of every reply token in nats (M,), the row each belongs to (M,), ascending), with gradient.

    Separate rows are padded on the right, where a causal model cannot look back from: no attention mask is needed. Shared
    rows (`shared_prompt.collate_shared`) give the same numbers.
    """
    ids = batch["input_ids"]
    length = ids.shape[1]
    if "shared_mask" in batch:
        if not len(batch["target"]):  # replies of one token whose first is not scored
            return torch.zeros(0, device=ids.device), batch["row"]
        inputs = {
            "input_ids": ids,
            "position_ids": batch["position_ids"],
            "attention_mask": batch["shared_mask"],
        }
        with sharing(model, batch):
            inputs["shared_rows"] = (batch["spread"], batch["gather"])
            replies = len(batch["target"])  # the last layer may have left out the rest
            logps = _score(
                model, inputs, lambda x: x[0, -replies:], batch["target"], replies
            )
        return logps, batch["row"]
    rows, cols = batch["reply_mask"][:, 1:].nonzero(
        as_tuple=True
    )  # position t predicts token t + 1
    pick = lambda x: x[rows, cols + x.shape[1] - length]  # noqa: E731  prompt-learning adapters put virtual tokens in front
    return _score(model, {"input_ids": ids}, pick, ids[rows, cols + 1], length), rows


def _score(model, inputs: dict, pick, targets: Tensor, length: int) -> Tensor:
    """log-probs of `targets` (M,) at the positions that `pick` takes from (B, T, ...): the LM head sees these only.

    A hook before the head does it, and not the head's weight, because of PEFT adapters on the head and models that scale
    or cap their logits. Where the logits would be large they are made in chunks, and again when gradients need them.
    """
    inner = getattr(model, "module", model)  # under DistributedDataParallel
    head = (
        inner.get_output_embeddings()
        if hasattr(inner, "get_output_embeddings")
        else None
    )
    large = (
        head is not None
        and len(targets) * head.weight.shape[0] > LARGE
        and not _bends_logits(inner.config)
    )
    kept = {}

    def gather(_module, args):
        hidden = args[0]  # (B, T, H)
        if hidden.dim() != 3 or hidden.shape[1] < length:
            return None
        kept["hidden"] = pick(hidden)  # (M, H)
        return (kept["hidden"][: 0 if large else None].unsqueeze(0), *args[1:])

    handle = head.register_forward_pre_hook(gather) if head is not None else None
    try:
        logits = model(**inputs, use_cache=False).logits
    finally:
        if handle is not None:
            handle.remove()
    if (
        "hidden" not in kept
    ):  # the head was out of reach: the model has scored every position
        return _nats(pick(logits), targets)
    if not large:
        return _nats(logits[0], targets)
    rows = max(1, CHUNK // logits.shape[-1])
    parts = zip(kept["hidden"].split(rows), targets.split(rows), strict=True)
    return torch.cat(
        [
            checkpoint(lambda h, t: _nats(head(h), t), h, t, use_reentrant=False)
            for h, t in parts
        ]
    )


def _bends_logits(config) -> bool:
    """Whether the model scales or caps what its head returns."""
    text = config.get_text_config()
    return any(
        getattr(text, name, None)
        for name in ("final_logit_softcapping", "logit_scale", "logits_scaling")
    )


def _nats(logits: Tensor, targets: Tensor) -> Tensor:
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    return -F.cross_entropy(logits, targets, reduction="none")  # (M,)


def sequence_logps(model, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """(summed log-probs in nats (B,), reply tokens (B,)) of a collated batch, with gradient."""
    logps, rows = token_logps(model, batch)
    return sum_rows(logps, rows, batch), batch["tokens"]


def sum_rows(logps: Tensor, rows: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """Token log-probs (M,) summed within each of the batch's rows: (B,)."""
    return logps.new_zeros(len(batch["tokens"])).index_add(0, rows, logps)


def first_tokens(logps: Tensor, rows: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """The log-prob of each row's first reply token: (B,) from (M,); `rows` ascend and every row has a token."""
    return logps[
        torch.searchsorted(
            rows.contiguous(), torch.arange(len(batch["tokens"]), device=rows.device)
        )
    ]


@torch.no_grad()
def score_rows(
    model, rows, *, pad_id: int = 0, batch_size: int = 32, progress: bool = False
) -> LogProbs:
    """``sequence_logps`` of many token rows without gradient, in the order given.

    Batches hold rows of similar length; rows with one prompt are computed together where the model allows it.
    """
    shares = why_not(model) is None
    device = next(model.parameters()).device
    summed, tokens = None, torch.zeros(len(rows), dtype=torch.long)
    was_training = model.training
    model.eval()
    try:
        with tqdm(
            total=len(rows), desc="log-probs", unit="reply", disable=not progress
        ) as bar:
            for index in _batches(rows, batch_size):
                batch = (
                    collate_shared(_same_prompts(rows, index))
                    if shares
                    else collate([rows[i] for i in index], pad_id)
                )
                values, counts = sequence_logps(model, _on(batch, device))
                summed = (
                    values.new_zeros(len(rows), device="cpu")
                    if summed is None
                    else summed
                )
                summed[index], tokens[index] = values.cpu(), counts.cpu()
                bar.update(len(index))
    finally:
        model.train(was_training)
    return LogProbs(torch.zeros(0) if summed is None else summed, tokens)


def _on(batch: dict, device) -> dict:
    return {k: v.to(device) if isinstance(v, Tensor) else v for k, v in batch.items()}


def _batches(rows, size: int) -> list[list[int]]:
    """Indices of rows in batches, longest first; rows with one prompt are neighbours."""
    longest = {}
    for head, tail in rows:
        longest[tuple(head)] = max(longest.get(tuple(head), 0), len(tail))

    def place(i):
        head, tail = rows[i]
        return -len(head) - longest[tuple(head)], head, -len(tail)

    order = sorted(range(len(rows)), key=place)
    return [order[start : start + size] for start in range(0, len(order), size)]


def _same_prompts(rows, index: list[int], most: int = 16) -> list[tuple]:
    """The batch's rows as groups (prompt ids, [(place in the batch, reply ids), …]) of at most `most` replies."""
    groups = []
    for place, i in enumerate(index):
        head, tail = rows[i]
        if not groups or groups[-1][0] != head or len(groups[-1][1]) == most:
            groups.append((head, []))
        groups[-1][1].append((place, tail))
    return groups


def response_logps(
    model,
    tokenizer,
    prompts: list[str],
    replies,
    *,
    batch_size=32,
    max_length: int | None = None,
    progress=False,
) -> LogProbs:
    """Log-probs of replies to prompts (rendered text), without gradient, in the order given.

    replies  one text per prompt -> shapes (R,); a list of K texts per prompt -> shapes (R, K)
    errors   ValueError where a row is longer than the model's positions (or see ``encode_many`` for max_length)
    """
    many = len(replies) > 0 and not isinstance(replies[0], str)
    k = len(replies[0]) if many else 1
    if many and any(isinstance(r, str) or len(r) != k for r in replies):
        raise ValueError(
            f"every prompt needs the same number of replies; the first has {k}"
        )
    flat = [text for group in replies for text in group] if many else list(replies)
    if len(prompts) != len(replies):
        raise ValueError(
            f"{len(prompts)} prompts but {len(replies)} replies; give one reply (or list) per prompt"
        )
    rows = encode_many(
        tokenizer, [p for p in prompts for _ in range(k)], flat, max_length
    )
    check_lengths(rows, max_positions(model), names=[i // k for i in range(len(rows))])
    out = score_rows(
        model,
        rows,
        pad_id=tokenizer.pad_token_id or 0,
        batch_size=batch_size,
        progress=progress,
    )
    return (
        LogProbs(out.summed.reshape(-1, k), out.tokens.reshape(-1, k)) if many else out
    )


# ---- PMI per token of a reply, as RMiPO uses it: log pi(y|x) - log pi(y), the reply alone without any prompt ----

FIRST_TOKEN = ("start", "drop", "released")


def marginal_row(
    reply: list[int], start: int, first_token: str = "start"
) -> tuple[list[int], list[int]]:
    """(head, tail) that scores a reply's tokens without their prompt; see `response_pmi` for `first_token`.

    start   id of the token that begins a sequence
    """
    if first_token not in FIRST_TOKEN:
        raise ValueError(
            f"first_token must be one of {', '.join(FIRST_TOKEN)}; got {first_token!r}"
        )
    return ([start], reply) if first_token == "start" else (reply[:1], reply[1:])


def response_pmi(summed, tokens, first, alone, *, first_token: str = "start") -> Tensor:
    r"""log pi(y|x) - log pi(y) per token: (R,), nats per token, from summed log-probs.

    summed, tokens, first   log pi(y|x), number of tokens L, and log pi(y_1|x): each (R,)
    alone                   log-probs without the prompt, summed over what `marginal_row` scores: (R,)
    The first token has no predecessor once the prompt is gone. Three ways to deal with that:
    "start"     it follows the sequence-start token: both terms are means over L tokens
    "drop"      it is left out of both terms: means over the other L - 1
    "released"  as the released code has it: with the prompt a mean over L, without over L - 1
    A reply of one token has nothing left to compare in "drop" and "released"; its PMI is 0 there.
    """
    if first_token == "start":
        return (summed - alone) / tokens
    rest = (tokens - 1).clamp(min=1)
    with_prompt = (
        summed / tokens if first_token == "released" else (summed - first) / rest
    )
    return torch.where(tokens > 1, with_prompt - alone / rest, torch.zeros_like(summed))


def start_token(tokenizer) -> int:
    """Id of the token that begins a sequence: BOS, or the end-of-sequence token where there is none (as GPT-2)."""
    return (
        tokenizer.eos_token_id
        if tokenizer.bos_token_id is None
        else tokenizer.bos_token_id
    )


def prompt_pmi(
    model,
    tokenizer,
    prompts: list[str],
    replies: list[str],
    *,
    first_token="start",
    batch_size=64,
    progress=False,
) -> Tensor:
    """`response_pmi` of replies to rendered prompts under a model, without gradient: (R,), nats per token."""
    rows = encode_many(tokenizer, prompts, replies)
    check_lengths(rows, max_positions(model))
    options = {
        "pad_id": tokenizer.pad_token_id or 0,
        "batch_size": batch_size,
        "progress": progress,
    }
    full = score_rows(model, rows, **options)
    only = score_rows(
        model, [(head, tail[:1]) for head, tail in rows], **options
    )  # the first token alone
    alone = score_rows(
        model,
        [marginal_row(tail, start_token(tokenizer), first_token) for _, tail in rows],
        **options,
    )
    return response_pmi(
        full.summed, full.tokens, only.summed, alone.summed, first_token=first_token
    )


def pmi_over_contexts(
    own: Tensor, under: Tensor, weights: Tensor | None = None
) -> Tensor:
    r"""log pi(y|x,c) - log Σ_k w_k·pi(y|x,c_k): (R,), from (R,) and (R, K), nats per reply; w_k = 1/K unless given.

    At most log K where c is one of the K equally likely contexts. The mean over K random contexts is an unbiased
    estimate of pi(y|x), so the PMI comes out too large on average (Jensen), less so as K grows.
    """
    if own.dim() != 1 or under.dim() != 2 or len(own) != len(under):
        raise ValueError(
            f"need log-probs of shapes (R,) and (R, K); got {tuple(own.shape)} and {tuple(under.shape)}"
        )
    weights = (
        torch.ones(under.shape[1], dtype=under.dtype) if weights is None else weights
    )
    return own - torch.logsumexp(
        under + (weights / weights.sum()).log().to(under), dim=1
    )


def conditional_pmi(
    model,
    tokenizer,
    records: list[dict],
    replies: list[str],
    marginal: str = "contexts",
    *,
    contexts: Sequence[str] | None = None,
    batch_size: int = 32,
    max_length: int | None = None,
    progress=False,
) -> Tensor:
    r"""log pi(y | x, c) - log pi(y | x) of each reply to its record's query x and context c: (R,), nats per reply.

    marginal="contexts": pi(y | x) is the average of pi(y | x, c') over ``contexts``, by default those of all records,
    each as often as it occurs; the value is at most log(number of contexts) where c is one of them.
    marginal="missing": pi(y | x) is what the model says without any context, which is the marginal only for a model
    that was trained so.
    cost     R x (distinct contexts) replies are scored for "contexts", R for "missing"
    """
    from mipo.data import render

    if marginal not in ("contexts", "missing"):
        raise ValueError(f"marginal must be 'contexts' or 'missing'; got {marginal!r}")
    if len(records) != len(replies):
        raise ValueError(
            f"{len(records)} records but {len(replies)} replies; give one reply per record"
        )
    options = {"batch_size": batch_size, "max_length": max_length, "progress": progress}

    def score(cs):  # one reply per record, each under its own choice of context
        prompts = [
            render(tokenizer, r["query"], c) for r, c in zip(records, cs, strict=True)
        ]
        return response_logps(model, tokenizer, prompts, replies, **options).summed

    own = [r.get("context", "") for r in records]
    if marginal == "missing":
        return score(own) - score([""] * len(records))
    counts = Counter(own if contexts is None else contexts)
    weights = torch.tensor(list(counts.values()), dtype=torch.float64)
    under = torch.stack(
        [score([c] * len(records)).double() for c in counts], dim=1
    )  # (R, C)
    return pmi_over_contexts(score(own), under, weights).float()
