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
from typing import TYPE_CHECKING, Literal

import numpy as np
from torch import Tensor

from mipo import logprobs
from mipo.baselines.reinforce import Example, ReinforceConfig, reinforce, shuffled
from mipo.lm import tokens
from mipo.lm.prompts import render
from mipo.lm.tokens import Row
from mipo.losses.declaration import at_least

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


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
    under_others: list[Row] = []  # each reply after its prompt with each context
    for i, example in enumerate(batch):
        query = example["query"]
        prompts = [render(tokenizer, query, context) for context in contexts[i]]
        heads = tokens.token_ids(tokenizer, prompts)
        for _, reply in rows[i * k : (i + 1) * k]:
            under_others += [(head, reply) for head in heads]
    names = [f"{j} under another example's context" for j in range(len(under_others))]
    tokens.check_lengths(under_others, tokens.max_positions(reference), names)

    pad_id = tokenizer.pad_token_id or 0
    own = logprobs.score_rows(reference, rows, pad_id=pad_id).summed
    others = logprobs.score_rows(reference, under_others, pad_id=pad_id).summed
    pmi = logprobs.pmi_over_contexts(own, others.reshape(len(rows), n))
    return own, pmi


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


def train_mi_reward(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Example],
    config: ReinforceConfig,
    *,
    contexts_per_marginal: int = 8,
    marginal: Literal["contexts", "missing"] = "contexts",
) -> list[dict[str, float]]:
    """Train `model` in place by REINFORCE with a leave-one-out baseline.

    Parameters
    ----------
    model, tokenizer
        The policy; π_ref is a frozen copy of it as given.
    examples : sequence of dict
        Examples with "query" and "context"; each step takes the next of them,
        reshuffled every round.
    config : ReinforceConfig
        How it is trained.
    contexts_per_marginal : int
        Contexts drawn for each prompt, from those of all examples, its own allowed.
    marginal : {"contexts", "missing"}
        "contexts": π_ref(y|x) is a mean over the drawn contexts. "missing": what the
        model says without context.

    Returns
    -------
    list of dict
        One per step, as of `mipo.baselines.reinforce.reinforce`.

    Raises
    ------
    ValueError
        For examples that cannot be trained with.
    FloatingPointError
        For values that are not finite.
    """
    at_least(1, contexts_per_marginal=contexts_per_marginal)
    _check_examples(examples, marginal)
    rng = np.random.default_rng((config.seed, 6))
    order = shuffled(rng, len(examples), config.steps * config.batch_size)
    pool = [example.get("context") or "" for example in examples]

    def score(
        reference: PreTrainedModel, batch: Sequence[Example], rows: Sequence[Row]
    ) -> tuple[Tensor, Tensor]:
        drawn = rng.integers(len(pool), size=(len(batch), contexts_per_marginal))
        contexts = [[pool[i] for i in row] for row in drawn]
        if marginal == "missing":
            contexts = [[""]] * len(batch)
        return score_pmi(reference, tokenizer, batch, rows, contexts)

    ordered = [examples[i] for i in order]
    return reinforce(model, tokenizer, ordered, score, config, name="mi_reward")
