"""The baseline that knows the answers: on-policy reinforcement of replies that a verifier finds right.

A sampled reply earns 1 if its answer is right, else 0. The objective E_π[r] - β·KL(π ‖ π_ref) has the optimum
π* ∝ π_ref·exp(r/β): the odds of each right reply against each wrong one grow by the same e^(1/β), whatever the fault.
Estimator and optimiser are those of `mipo.baselines.pmi_reward` (leave-one-out, KL in the reward).
"""

import math

import numpy as np
import torch

from mipo import logprobs
from mipo.baselines import pmi_reward
from mipo.worlds import word_problems


def is_right(reply, asked):
    """Whether the reply's answer is right, in the form asked for: 1.0 or 0.0."""
    return float(word_problems.grade(reply, asked) in ("right", "lucky"))


def train_verifier(
    model,
    tokenizer,
    problems,
    *,
    beta,
    lr,
    steps,
    batch_size=8,
    k=4,
    max_new_tokens=16,
    seed=0,
    progress=True,
):
    """Train `model` in place by REINFORCE with a leave-one-out baseline on `is_right`; one dict per step.

    problems    each step takes the next batch_size of them, reshuffled every round
    beta, k, lr as in `mipo.baselines.pmi_reward.train_mi_reward`, which has the same loop
    returns     step, reward and kl (means over the batch, before the update), loss = beta·kl - reward
    errors      ValueError for settings; FloatingPointError for values that are not finite
    """
    for name, value in (("beta", beta), ("lr", lr)):
        if not 0 < value < math.inf:
            raise ValueError(f"{name} must be a finite number above 0; got {value!r}")
    if k < 2 or steps < 1 or batch_size < 1 or not len(problems):
        raise ValueError(
            f"need k >= 2, and steps, batch_size and problems >= 1; got k={k}, steps={steps}, "
            f"batch_size={batch_size}, {len(problems)} problems"
        )
    order = pmi_reward.shuffled(
        np.random.default_rng((seed, 7)), len(problems), steps * batch_size
    )
    records = [
        word_problems.record_of(problems[i]) | {"asked": problems[i]} for i in order
    ]

    def score(reference, batch, rows):
        said = [tokenizer.decode(tail, skip_special_tokens=True) for _, tail in rows]
        right = [is_right(y, batch[i // k]["asked"]) for i, y in enumerate(said)]
        own = logprobs.score_rows(reference, rows, pad_id=tokenizer.pad_token_id).summed
        return own, torch.tensor(right).to(own)

    return pmi_reward.reinforce(
        model,
        tokenizer,
        records,
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
