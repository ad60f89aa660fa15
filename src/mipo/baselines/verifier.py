"""The baseline that knows the answers: a verifier's reward, on policy.

A sampled reply earns 1 if its answer is right, else 0. The objective
E_π[r] - β·KL(π ‖ π_ref) has the optimum π* ∝ π_ref·exp(r/β): the odds of each right
reply against each wrong one grow by the same e^(1/β), whatever the fault. Estimator and
optimiser are those of `mipo.baselines.reinforce`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from mipo import logprobs
from mipo.baselines.reinforce import Example, check_settings, reinforce, shuffled
from mipo.lm.tokens import Row
from mipo.worlds import word_problems
from mipo.worlds.word_problems import Problem

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def is_right(reply: str, item: Problem) -> float:
    """Return 1.0 if the reply's answer is right, in the form asked for; else 0.0."""
    return float(word_problems.grade(reply, item) in ("right", "lucky"))


def train_verifier(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    problems: Sequence[Problem],
    *,
    beta: float,
    lr: float,
    steps: int,
    batch_size: int = 8,
    k: int = 4,
    max_new_tokens: int = 16,
    seed: int = 0,
    progress: bool = True,
) -> list[dict[str, float]]:
    """Train `model` in place by REINFORCE on `is_right`.

    Parameters
    ----------
    model, tokenizer
        The policy; π_ref is a frozen copy of it as given.
    problems : sequence of Problem
        Each step takes the next `batch_size` of them, reshuffled every round.
    beta, lr, steps, batch_size, k, max_new_tokens, seed, progress
        As in `mipo.baselines.pmi_reward.train_mi_reward`, which has the same loop.

    Returns
    -------
    list of dict
        One per step, as of `mipo.baselines.reinforce.reinforce`.

    Raises
    ------
    ValueError
        For settings that cannot be trained with.
    FloatingPointError
        For values that are not finite.
    """
    check_settings(
        beta=beta,
        lr=lr,
        steps=(steps, 1),
        batch_size=(batch_size, 1),
        k=(k, 2),
        max_new_tokens=(max_new_tokens, 1),
        problems=(len(problems), 1),
    )
    rng = np.random.default_rng((seed, 7))
    order = shuffled(rng, len(problems), steps * batch_size)
    items = [problems[i] for i in order]
    examples = [word_problems.example_of(item) | {"problem": item} for item in items]

    def score(
        reference: PreTrainedModel, batch: Sequence[Example], rows: Sequence[Row]
    ) -> tuple[Tensor, Tensor]:
        rewards = []
        for i, (_, tail) in enumerate(rows):
            reply = str(tokenizer.decode(tail, skip_special_tokens=True))
            rewards.append(is_right(reply, batch[i // k]["problem"]))
        pad_id = tokenizer.pad_token_id
        own = logprobs.score_rows(reference, rows, pad_id=pad_id).summed
        return own, torch.tensor(rewards).to(own)

    return reinforce(
        model,
        tokenizer,
        examples,
        score,
        beta=beta,
        lr=lr,
        steps=steps,
        k=k,
        seed=seed,
        max_new_tokens=max_new_tokens,
        progress=progress,
        name="verifier",
    )
