"""REINFORCE with a leave-one-out baseline: the loop of every reward.

Why not ``trl.RLOOTrainer``: at its defaults it has the same estimator (KL in the
reward, per reply; advantages not normalised), but it draws from one global random
stream where the study has one per prompt, hands replies to the reward as text, so that
a reply that was cut is scored with an end it never sampled, and needs π_ref twice, for
the reward and for the KL.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from mipo import logprobs, recipes
from mipo.lm import tokens
from mipo.lm.prompts import render
from mipo.lm.sampling import sample
from mipo.lm.tokens import Row
from mipo.losses.declaration import at_least, positive

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Example = Mapping[str, Any]
# (π_ref, examples of the step, rows) -> log π_ref(y|x,c) and reward of each row, (B·k,)
Score = Callable[
    ["PreTrainedModel", Sequence[Example], Sequence[Row]], tuple[Tensor, Tensor]
]


@dataclass(frozen=True, kw_only=True)
class ReinforceConfig:
    """How a policy is trained, whatever the reward.

    Parameters
    ----------
    beta : float
        Weight of KL(π ‖ π_ref), in the unit of the reward per nat; above 0.
    lr : float
        Peak learning rate of AdamW with MIPO's recipe: betas 0.9 and 0.95, warm-up 3 %,
        cosine to a tenth, clip norm 1, no dropout.
    steps, batch_size : int
        Optimiser steps, and prompts of each.
    k : int
        Replies sampled per prompt at temperature 1; at least 2.
    max_new_tokens : int
        A reply that is cut there is scored without an end.
    seed : int
        Of the order of examples and of the sampling.
    progress : bool
        Show a bar.

    Raises
    ------
    ValueError
        For a number out of range.
    """

    beta: float
    lr: float
    steps: int
    batch_size: int = 16
    k: int = 4
    max_new_tokens: int = 64
    seed: int = 0
    progress: bool = True

    def __post_init__(self) -> None:
        positive(beta=self.beta, lr=self.lr)
        at_least(1, steps=self.steps, batch_size=self.batch_size)
        at_least(1, max_new_tokens=self.max_new_tokens)
        at_least(2, k=self.k)


def leave_one_out(rewards: Tensor) -> Tensor:
    """Reward minus the mean reward of the other replies to the prompt.

    Parameters
    ----------
    rewards : Tensor, shape (B, k)
        Of k ≥ 2 replies to each prompt, nats.

    Returns
    -------
    Tensor, shape (B, k)
        Nats, not normalised: dividing by the standard deviation would change the
        objective, so the optimum would no longer be π*.

    Raises
    ------
    ValueError
        For another shape.

    Notes
    -----
    Source: Kool et al. 2019; Ahmadian et al., arXiv:2402.14740.
    """
    if rewards.dim() != 2 or rewards.shape[1] < 2:
        raise ValueError(
            "need rewards of shape (B, k) with k of at least 2; "
            f"got {tuple(rewards.shape)}"
        )
    k = rewards.shape[1]
    return (rewards - rewards.mean(dim=1, keepdim=True)) * (k / (k - 1))


def surrogate(
    logps: Tensor, ref_logps: Tensor, rewards: Tensor, *, beta: float
) -> Tensor:
    r"""-(1/k) Σ_i A_i·log π(y_i), A = leave_one_out(r - β·(log π - log π_ref)).

    Parameters
    ----------
    logps, ref_logps : Tensor, shape (B, k)
        Log-probs of k replies to each prompt under policy and reference, nats, summed
        over reply tokens.
    rewards : Tensor, shape (B, k)
        Nats.
    beta : float
        Weight of KL(π ‖ π_ref).

    Returns
    -------
    Tensor, shape (B,)
        A has no gradient. In expectation the gradient is that of
        -(E_π[r] - β·KL(π ‖ π_ref)); the value means nothing.

    Notes
    -----
    The KL acts on whole replies, through the reward: the further term in its gradient,
    β·E_π[∇log π], is 0.
    """
    regularised = rewards - beta * (logps - ref_logps)
    advantages = leave_one_out(regularised.detach())
    return -(advantages * logps).mean(dim=1)


def shuffled(rng: np.random.Generator, n: int, wanted: int) -> np.ndarray:
    """Return `wanted` numbers below n, round after round of all of them.

    Each round is in another order.
    """
    rounds = math.ceil(wanted / n)
    return np.concatenate([rng.permutation(n) for _ in range(rounds)])[:wanted]


def reinforce(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Example],
    score: Score,
    config: ReinforceConfig,
    *,
    name: str,
) -> list[dict[str, float]]:
    """Train `model` in place: sample replies, reward them, step down `surrogate`.

    Parameters
    ----------
    model, tokenizer
        The policy; π_ref is a frozen copy of it as given.
    examples : sequence of dict, length steps · batch_size
        Examples in the order of training.
    score : callable
        (π_ref, examples of the step, rows) -> log π_ref(y|x,c) and reward of each row,
        without gradient, (B·k,) both.
    config : ReinforceConfig
        How it is trained.
    name : str
        What the bar calls the training.

    Returns
    -------
    list of dict
        One per step: "step"; "reward" and "kl", nats per reply, means over the batch
        before the update; "loss" = beta * kl - reward.

    Raises
    ------
    FloatingPointError
        For values that are not finite.
    """
    beta, size, k = config.beta, config.batch_size, config.k
    was_training = model.training
    model.eval()  # no dropout: replies are scored by the policy that sampled them
    reference = copy.deepcopy(model).requires_grad_(False)
    optimiser, schedule = recipes.optimiser(model, lr=config.lr, steps=config.steps)
    log, rows = [], []
    bar = tqdm(
        range(config.steps),
        desc=f"training ({name})",
        unit="step",
        disable=not config.progress,
    )
    for step in bar:
        batch = examples[step * size : (step + 1) * size]
        seed = config.seed * 1_000_003 + step
        rows = sample_rows(model, tokenizer, batch, k, config.max_new_tokens, seed)
        ref_logps, rewards = score(reference, batch, rows)
        ref_logps, rewards = ref_logps.reshape(size, k), rewards.reshape(size, k)
        logps = _policy_logps(model, tokenizer, rows).reshape(size, k)  # nats

        surrogate(logps, ref_logps, rewards, beta=beta).mean().backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0).item()
        reward = rewards.mean().item()
        kl = (logps.detach() - ref_logps).mean().item()
        if not all(map(math.isfinite, (reward, kl, norm))):
            _diverged(
                f"step {step + 1} is not finite: "
                f"reward {reward}, kl {kl}, gradient norm {norm}"
            )
        loss = beta * kl - reward
        log.append({"step": step + 1, "reward": reward, "kl": kl, "loss": loss})
        optimiser.step()
        schedule.step()
        optimiser.zero_grad(set_to_none=True)
        bar.set_postfix(reward=f"{reward:.3f}", kl=f"{kl:.3f}", refresh=False)
    _check_finite(model, rows[0][0], f"after step {config.steps}")
    model.train(was_training)
    return log


def _diverged(what: str) -> NoReturn:
    raise FloatingPointError(
        f"{what}; lower the learning rate or raise beta, or check the model's weights"
    )


@torch.no_grad()
def _check_finite(model: PreTrainedModel, ids: list[int], when: str) -> None:
    logits = model(input_ids=torch.tensor([ids], device=model.device)).logits
    if not torch.isfinite(logits).all():
        _diverged(f"the model's logits are not finite {when}")


def sample_rows(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    batch: Sequence[Example],
    k: int,
    max_new_tokens: int,
    seed: int,
) -> list[Row]:
    """Sample k replies to each example, prompt after prompt, as token rows."""
    prompts = []
    for example in batch:
        prompt = render(tokenizer, example["query"], example.get("context") or "")
        prompts += [prompt] * k
    heads = tokens.token_ids(tokenizer, prompts)
    _check_finite(model, heads[0], "when sampling")
    replies = sample(
        model, tokenizer, prompts, max_new_tokens=max_new_tokens, seed=seed
    )
    return [(head, reply.ids) for head, reply in zip(heads, replies, strict=True)]


def _policy_logps(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row]
) -> Tensor:
    """log π(y|x,c) of each row, with gradient: (B·k,), nats."""
    batch = tokens.collate(rows, tokenizer.pad_token_id or 0)
    on_device = {name: tensor.to(model.device) for name, tensor in batch.items()}
    return logprobs.sequence_logps(model, on_device)[0].cpu()
