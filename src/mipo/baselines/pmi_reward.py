"""The baseline "a mutual-information reward": PMI by on-policy reinforcement.

What MIPO reaches offline. A sampled reply y earns
r(x, c, y) = log π_ref(y|x,c) - log π_ref(y|x), in nats
(`mipo.logprobs.pmi_over_contexts`; one column for the missing context). The objective
of one prompt is, with π* = π_ref·exp(r/β) / Z::

    E_π[r] - β·KL(π ‖ π_ref) = -β·E_π[log π - log π_ref - r/β]
                             = -β·KL(π ‖ π*) + β·log Z.

So its optimum is π* ∝ π_ref(y|x,c)^(1+1/β)·π_ref(y|x)^(-1/β), that of DPO on MIPO's
pairs; only the way there differs.

MIPO's released code masks the whole prompt when it scores replies, by mistake: its
reward is near 0, save for the first reply token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from mipo import logprobs
from mipo.baselines.reinforce import Example, check_settings, reinforce, shuffled
from mipo.lm import tokens
from mipo.lm.prompts import render
from mipo.lm.tokens import Row

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def train_mi_reward(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Example],
    *,
    beta: float,
    lr: float,
    steps: int,
    batch_size: int = 16,
    k: int = 4,
    contexts_per_marginal: int = 8,
    marginal: str = "contexts",
    max_new_tokens: int = 64,
    seed: int = 0,
    progress: bool = True,
) -> list[dict[str, float]]:
    """Train `model` in place by REINFORCE with a leave-one-out baseline.

    Parameters
    ----------
    model, tokenizer
        The policy; π_ref is a frozen copy of it as given.
    examples : sequence of dict
        Examples with "query" and "context"; each step takes the next `batch_size` of
        them, reshuffled every round.
    beta : float
        Weight of KL(π ‖ π_ref).
    lr, steps, batch_size
        As in the other arms: Adam betas 0.9 / 0.95, warm-up 3 %, cosine to a tenth,
        clip norm 1; no dropout.
    k : int
        Replies sampled per prompt at temperature 1; one that is cut at
        `max_new_tokens` is scored without an end.
    contexts_per_marginal : int
        Contexts drawn for each prompt, from those of all examples, its own allowed.
    marginal : {"contexts", "missing"}
        "contexts": π_ref(y|x) is a mean over the drawn contexts. "missing": what the
        model says without context.
    max_new_tokens, seed, progress
        Of the sampling, and of the bar.

    Returns
    -------
    list of dict
        One per step, as of `mipo.baselines.reinforce.reinforce`.

    Raises
    ------
    ValueError
        For settings and examples that cannot be trained with.
    FloatingPointError
        For values that are not finite.
    """
    check_settings(
        beta=beta,
        lr=lr,
        steps=(steps, 1),
        batch_size=(batch_size, 1),
        k=(k, 2),
        contexts_per_marginal=(contexts_per_marginal, 1),
        max_new_tokens=(max_new_tokens, 1),
    )
    _check_examples(examples, marginal)
    rng = np.random.default_rng((seed, 6))
    order = shuffled(rng, len(examples), steps * batch_size)
    pool = [example.get("context") or "" for example in examples]

    def score(
        reference: PreTrainedModel, batch: Sequence[Example], rows: Sequence[Row]
    ) -> tuple[Tensor, Tensor]:
        drawn = rng.integers(len(pool), size=(batch_size, contexts_per_marginal))
        contexts = [[pool[i] for i in row] for row in drawn]
        if marginal == "missing":
            contexts = [[""]] * batch_size
        return score_pmi(reference, tokenizer, batch, rows, contexts)

    return reinforce(
        model,
        tokenizer,
        [examples[i] for i in order],
        score,
        beta=beta,
        lr=lr,
        steps=steps,
        k=k,
        max_new_tokens=max_new_tokens,
        seed=seed,
        progress=progress,
        name="mi_reward",
    )


def _check_examples(examples: Sequence[Example], marginal: str) -> None:
    if marginal not in ("contexts", "missing"):
        raise ValueError(f"marginal must be 'contexts' or 'missing'; got {marginal!r}")
    if not len(examples):
        raise ValueError("need at least one example")
    for i, example in enumerate(examples):
        if not isinstance(example.get("query"), str):
            raise ValueError(f'example {i}: field "query" is missing or not text')
    contexts = {example.get("context") or "" for example in examples}
    if contexts == {""} or (marginal == "contexts" and len(contexts) == 1):
        raise ValueError(
            "every example has the same context, so the reward is 0 for every reply; "
            "give each its own"
        )


def score_pmi(
    reference: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    batch: Sequence[Example],
    rows: Sequence[Row],
    contexts: Sequence[Sequence[str]],
) -> tuple[Tensor, Tensor]:
    """Score rows under the reference, without gradient.

    Parameters
    ----------
    reference, tokenizer
        π_ref.
    batch : sequence of dict, length B
        Examples of the step.
    rows : sequence of (prompt ids, reply ids), length B·k
        k replies to each, prompt after prompt.
    contexts : sequence of sequence of str, (B, n)
        The contexts of each example's marginal.

    Returns
    -------
    logps, rewards : Tensor, shape (B·k,)
        log π_ref(y|x,c), and the PMI of the reply with its context, nats.
    """
    n = len(contexts[0])
    k = len(rows) // len(batch)
    under: list[Row] = []
    for i, (example, crowd) in enumerate(zip(batch, contexts, strict=True)):
        prompts = [render(tokenizer, example["query"], context) for context in crowd]
        encoded = tokens.encode_many(tokenizer, prompts, [""] * n)
        for _, tail in rows[i * k : (i + 1) * k]:
            under += [(head, tail) for head, _ in encoded]
    names = [f"{j} under another example's context" for j in range(len(under))]
    tokens.check_lengths(under, tokens.max_positions(reference), names)
    pad_id = tokenizer.pad_token_id or 0
    own = logprobs.score_rows(reference, rows, pad_id=pad_id).summed
    others = logprobs.score_rows(reference, under, pad_id=pad_id).summed
    pmi = logprobs.pmi_over_contexts(own, others.reshape(len(rows), n))
    return own, pmi
