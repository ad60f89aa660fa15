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
from mipo.baselines.reinforce import Example, ReinforceConfig, reinforce, shuffled
from mipo.lm.tokens import Row
from mipo.losses.declaration import at_least
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
    config: ReinforceConfig,
) -> list[dict[str, float]]:
    """Train `model` in place by REINFORCE on `is_right`.

    Parameters
    ----------
    model, tokenizer
        The policy; π_ref is a frozen copy of it as given.
    problems : sequence of Problem
        Each step takes the next of them, reshuffled every round.
    config : ReinforceConfig
        How it is trained.

    Returns
    -------
    list of dict
        One per step, as of `mipo.baselines.reinforce.reinforce`.

    Raises
    ------
    ValueError
        Without problems.
    FloatingPointError
        For values that are not finite.
    """
    at_least(1, problems=len(problems))
    rng = np.random.default_rng((config.seed, 7))
    order = shuffled(rng, len(problems), config.steps * config.batch_size)
    items = [problems[i] for i in order]
    examples = [word_problems.example_of(item) | {"problem": item} for item in items]

    def score(
        reference: PreTrainedModel, batch: Sequence[Example], rows: Sequence[Row]
    ) -> tuple[Tensor, Tensor]:
        rewards = []
        for i, (_, tail) in enumerate(rows):
            reply = str(tokenizer.decode(tail, skip_special_tokens=True))
            problem = batch[i // config.k]["problem"]
            rewards.append(is_right(reply, problem))
        pad_id = tokenizer.pad_token_id
        own = logprobs.score_rows(reference, rows, pad_id=pad_id).summed
        return own, torch.tensor(rewards).to(own)

    return reinforce(model, tokenizer, examples, score, config, name="verifier")
