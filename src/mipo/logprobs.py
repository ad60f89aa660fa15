"""From text to nats: tokens, and the log-probabilities that a causal language model gives to replies.

A reply's log-prob is log pi(reply tokens + end of sequence | prompt tokens), in nats. Only reply positions reach the
LM head, so that no (rows, tokens, vocabulary) tensor is ever made.
"""

from collections import Counter
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm


@dataclass(frozen=True)
class LogProbs:
    """Summed log-probs in nats and token counts of replies: shapes (R,), or (R, K) for K replies to each prompt."""

    summed: Tensor
    tokens: Tensor

    @property
    def mean(self) -> Tensor:
        """Nats per token."""
        return self.summed / self.tokens


def max_positions(model) -> int | None:
    """The longest sequence that the model was built for, or None where its config does not say."""
    config = model.config.get_text_config() if hasattr(model.config, "get_text_config") else model.config
    return getattr(config, "max_position_embeddings", None)


def encode_many(
    tokenizer, prompts: Sequence[str], replies: Sequence[str], max_length: int | None = None, *,
    special: bool = True, eos: bool = True, names: Sequence | None = None,
) -> list[tuple[list[int], list[int]]]:  # fmt: skip
    """(prompt ids, reply ids) of each row, the same ids that TRL makes of its standard format.

    The end-of-sequence token is appended to the reply unless the text has it. Prompt and reply are tokenised together
    and the reply is what follows the prompt's own tokens, so that a tokenizer may treat the reply as a continuation.
    Where tokens would merge across the boundary (TRL warns and shortens the prompt there), the two are tokenised
    separately instead: the model samples after the prompt's own tokens, and is trained after the same ones.
    ``max_length`` cuts the end of a reply, as TRL does; a prompt that leaves no room for it is a ValueError.
    ``special`` and ``eos`` False leave out the tokenizer's own special tokens and the end of sequence;
    ``names`` says what errors call each row.
    """
    names = names or range(len(prompts))
    _check_texts(tokenizer, prompts, replies, eos, names)
    end = tokenizer.eos_token if eos else ""
    replies = [r if r.endswith(end) else r + end for r in replies]

    def ids(texts, special=special):
        return tokenizer(texts, add_special_tokens=special, verbose=False)["input_ids"] if texts else []

    distinct = list(dict.fromkeys(prompts))
    prompt_ids = dict(zip(distinct, ids(distinct), strict=True))
    for text, row in prompt_ids.items():  # some tokenizers close every text; a prompt goes on
        if row and row[-1] == tokenizer.eos_token_id and tokenizer.eos_token and not text.endswith(tokenizer.eos_token):
            prompt_ids[text] = row[:-1]
    joint = ids([p + r for p, r in zip(prompts, replies, strict=True)])
    rows = []
    for i, (prompt, reply) in enumerate(zip(prompts, replies, strict=True)):
        head = prompt_ids[prompt]
        tail = joint[i][len(head) :] if joint[i][: len(head)] == head else ids([reply], special=False)[0]
        if max_length is not None:
            if len(head) >= max_length:
                raise ValueError(
                    f"row {names[i]}: the prompt has {len(head)} tokens and max_length is {max_length}, which leaves"
                    " no room for the reply; raise max_length or shorten the context"
                )
            tail = tail[: max_length - len(head)]
        if not head or not tail:
            raise ValueError(f"row {names[i]}: {'the reply' if head else 'the prompt'} has no token; give it some text")
        rows.append((head, tail))
    return rows


def encode(tokenizer, prompt: str, reply: str, max_length: int | None = None) -> tuple[list[int], list[int]]:
    """(prompt ids, reply ids) of one row; see ``encode_many``."""
    return encode_many(tokenizer, [prompt], [reply], max_length)[0]


def _check_texts(tokenizer, prompts, replies, eos, names) -> None:
    if len(prompts) != len(replies):
        raise ValueError(f"{len(prompts)} prompts but {len(replies)} replies; give one reply (or list) per prompt")
    if eos and not tokenizer.eos_token:
        raise ValueError("the tokenizer has no end-of-sequence token; set tokenizer.eos_token")
    for name, texts in (("prompt", prompts), ("reply", replies)):
        for i, text in enumerate(texts):
            if not isinstance(text, str):
                raise ValueError(f"row {names[i]}: the {name} must be text; got {type(text).__name__}")


def check_lengths(rows, limit: int | None, names: Sequence | None = None) -> None:
    """ValueError for the first row longer than ``limit`` tokens; ``names`` says what to call each row."""
    for i, (head, tail) in enumerate(rows):
        if limit is not None and len(head) + len(tail) > limit:
            raise ValueError(
                f"row {names[i] if names else i}: prompt ({len(head)} tokens) and reply ({len(tail)} tokens) together"
                f" exceed the model's {limit} positions; shorten the context, or set max_length={limit} to cut replies"
            )


def collate(rows: Sequence[tuple[list[int], list[int]]], pad_id: int = 0) -> dict[str, Tensor]:
    """One batch, padded on the right to its longest row: input_ids, attention_mask and reply_mask, each (B, T)."""
    longest = max(len(head) + len(tail) for head, tail in rows)
    ids = np.full((len(rows), longest), pad_id, dtype=np.int64)
    seen, reply = np.zeros_like(ids), np.zeros_like(ids)
    for i, (head, tail) in enumerate(rows):
        p, n = len(head), len(head) + len(tail)
        ids[i, :p], ids[i, p:n] = head, tail
        seen[i, :n], reply[i, p:n] = 1, 1
    arrays = {"input_ids": ids, "attention_mask": seen, "reply_mask": reply}
    return {key: torch.from_numpy(value) for key, value in arrays.items()}


@contextmanager
def _head_sees(model, rows: Tensor, cols: Tensor, length: int):
    """Let the LM head see positions (rows, cols) only; whatever the model does around its head stays as it is.

    A hook, and not the head's weight, because of PEFT adapters on the head and models that scale or cap their logits.
    """

    def gather(_module, args):
        hidden = args[0]  # (B, T, H); prompt-learning adapters put virtual tokens in front
        if hidden.dim() != 3 or hidden.shape[1] < length:
            return None
        return (hidden[rows, cols + hidden.shape[1] - length].unsqueeze(0), *args[1:])  # (1, M, H)

    inner = getattr(model, "module", model)  # under DistributedDataParallel
    head = inner.get_output_embeddings() if hasattr(inner, "get_output_embeddings") else None
    handle = head.register_forward_pre_hook(gather) if head is not None else None
    try:
        yield
    finally:
        if handle is not None:
            handle.remove()


def token_logps(model, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """(log-probs of every reply token in nats (M,), the row each belongs to (M,)), with gradient.

    Rows are padded on the right, where a causal model cannot look back from: no attention mask is needed.
    """
    ids, mask = batch["input_ids"], batch["reply_mask"]
    length = ids.shape[1]
    rows, cols = mask[:, 1:].nonzero(as_tuple=True)  # position t predicts token t + 1
    with _head_sees(model, rows, cols, length):
        logits = model(input_ids=ids, use_cache=False).logits
    if logits.shape[:2] == (1, len(rows)):
        logits = logits[0]  # (M, V)
    else:  # the head was out of reach: the model has scored every position
        logits = logits[rows, cols + logits.shape[1] - length]
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    return -F.cross_entropy(logits, ids[rows, cols + 1], reduction="none"), rows


def sequence_logps(model, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """(summed log-probs in nats (B,), reply tokens (B,)) of a collated batch, with gradient."""
    logps, rows = token_logps(model, batch)
    n = batch["input_ids"].shape[0]
    return logps.new_zeros(n).index_add(0, rows, logps), batch["reply_mask"][:, 1:].sum(dim=1)


@torch.no_grad()
def score_rows(model, rows, *, pad_id: int = 0, batch_size: int = 32, progress: bool = False) -> LogProbs:
    """``sequence_logps`` of many token rows without gradient, in batches of similar length, in the order given."""
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i][0]) - len(rows[i][1]))
    device = next(model.parameters()).device
    summed, tokens = None, torch.zeros(len(rows), dtype=torch.long)
    was_training = model.training
    model.eval()
    try:
        with tqdm(total=len(rows), desc="log-probs", unit="reply", disable=not progress) as bar:
            for start in range(0, len(rows), batch_size):
                index = order[start : start + batch_size]
                batch = {k: v.to(device) for k, v in collate([rows[i] for i in index], pad_id).items()}
                values, counts = sequence_logps(model, batch)
                summed = values.new_zeros(len(rows), device="cpu") if summed is None else summed
                summed[index], tokens[index] = values.cpu(), counts.cpu()
                bar.update(len(index))
    finally:
        model.train(was_training)
    return LogProbs(torch.zeros(0) if summed is None else summed, tokens)


def response_logps(
    model, tokenizer, prompts: list[str], replies, *, batch_size=32, max_length: int | None = None, progress=False
) -> LogProbs:
    """Log-probs of replies to prompts (rendered text), without gradient, in the order given.

    replies  one text per prompt -> shapes (R,); a list of K texts per prompt -> shapes (R, K)
    errors   ValueError where a row is longer than the model's positions (or see ``encode_many`` for max_length)
    """
    many = len(replies) > 0 and not isinstance(replies[0], str)
    k = len(replies[0]) if many else 1
    if many and any(isinstance(r, str) or len(r) != k for r in replies):
        raise ValueError(f"every prompt needs the same number of replies; the first has {k}")
    flat = [text for group in replies for text in group] if many else list(replies)
    if len(prompts) != len(replies):
        raise ValueError(f"{len(prompts)} prompts but {len(replies)} replies; give one reply (or list) per prompt")
    rows = encode_many(tokenizer, [p for p in prompts for _ in range(k)], flat, max_length)
    check_lengths(rows, max_positions(model), names=[i // k for i in range(len(rows))])
    out = score_rows(model, rows, pad_id=tokenizer.pad_token_id or 0, batch_size=batch_size, progress=progress)
    return LogProbs(out.summed.reshape(-1, k), out.tokens.reshape(-1, k)) if many else out


def pmi_over_contexts(own: Tensor, under: Tensor, weights: Tensor | None = None) -> Tensor:
    r"""log pi(y|x,c) - log Σ_k w_k·pi(y|x,c_k): (R,), from (R,) and (R, K), nats per reply; w_k = 1/K unless given.

    At most log K where c is one of the K equally likely contexts. The mean over K random contexts is an unbiased
    estimate of pi(y|x), so the PMI comes out too large on average (Jensen), less so as K grows.
    """
    if own.dim() != 1 or under.dim() != 2 or len(own) != len(under):
        raise ValueError(f"need log-probs of shapes (R,) and (R, K); got {tuple(own.shape)} and {tuple(under.shape)}")
    weights = torch.ones(under.shape[1], dtype=under.dtype) if weights is None else weights
    return own - torch.logsumexp(under + (weights / weights.sum()).log().to(under), dim=1)


def conditional_pmi(
    model, tokenizer, records: list[dict], replies: list[str], marginal: str = "contexts", *,
    contexts: Sequence[str] | None = None, batch_size: int = 32, max_length: int | None = None, progress=False,
) -> Tensor:  # fmt: skip
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
        raise ValueError(f"{len(records)} records but {len(replies)} replies; give one reply per record")
    options = {"batch_size": batch_size, "max_length": max_length, "progress": progress}

    def score(cs):  # one reply per record, each under its own choice of context
        prompts = [render(tokenizer, r["query"], c) for r, c in zip(records, cs, strict=True)]
        return response_logps(model, tokenizer, prompts, replies, **options).summed

    own = [r.get("context", "") for r in records]
    if marginal == "missing":
        return score(own) - score([""] * len(records))
    counts = Counter(own if contexts is None else contexts)
    weights = torch.tensor(list(counts.values()), dtype=torch.float64)
    under = torch.stack([score([c] * len(records)).double() for c in counts], dim=1)  # (R, C)
    return pmi_over_contexts(score(own), under, weights).float()
