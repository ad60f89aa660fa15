"""From log-probs to the named inputs of a loss.

Δpmi and its controls, running moments, and the call itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mipo.logprobs import response_pmi, sequence_logps
from mipo.losses.declaration import Loss, inputs_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MARGINALS = ("policy", "frozen", "shuffled", "none")
SIDES = ("marginal", "mismatched")


@torch.no_grad()
def score_sides(
    model: PreTrainedModel, inputs: Mapping[str, Any], marginal: str = "policy"
) -> dict[str, Tensor]:
    """Score the rows that a batch has beside its sets.

    To be called before the sets are scored: their gradients need memory, and these rows
    would need theirs on top.

    Parameters
    ----------
    model : PreTrainedModel
        The policy.
    inputs : mapping
        A batch of `mipo.lm.batches.collate_sets`.
    marginal : {"policy", "frozen", "shuffled", "none"}
        As in `delta_pmi`; "frozen" and "none" need no scores.

    Returns
    -------
    dict of Tensor
        Summed log-probs, nats: "marginal" (2, B), "mismatched" (1, B).
    """
    scores = {}
    for name in SIDES:
        needless = name == "marginal" and marginal in ("frozen", "none")
        if name in inputs and not needless:
            summed = sequence_logps(model, inputs[name])[0]
            scores[name] = summed.reshape(inputs[name]["members"], -1)
    return scores


def delta_pmi(
    alone: Tensor,
    counts: Tensor,
    summed: Tensor,
    tokens: Tensor,
    first: Tensor,
    *,
    marginal: str = "policy",
    first_token: str = "start",
) -> Tensor:
    r"""PMI of the chosen less PMI of the rejected reply, or a control in its place.

    Parameters
    ----------
    alone, counts : Tensor, shape (2, B)
        Log-probs of the replies without their prompts, nats, and how many tokens they
        cover.
    summed, tokens, first : Tensor, shape (2, B)
        Of the replies after their prompts; see `mipo.logprobs.response_pmi`.
    marginal : {"policy", "frozen", "shuffled", "none"}
        What stands for log pi(y). "policy": the reply alone under the policy as it is.
        "frozen": under the policy before training. "shuffled": another pair's of the
        batch. "none": no marginal, which leaves the gap of mean log-probs itself.
    first_token : {"start", "drop", "released"}
        As in `mipo.logprobs.response_pmi`.

    Returns
    -------
    Tensor, shape (B,)
        Nats per token.
    """
    if marginal == "none":
        return summed[0] / tokens[0] - summed[1] / tokens[1]
    if marginal == "shuffled":
        if alone.shape[1] < 2:
            raise ValueError(
                "marginal='shuffled' takes the marginal of another pair of the batch, "
                "and a batch has one pair only; give a batch size that leaves none "
                "alone"
            )
        scored = counts.clamp(min=1)
        # per token, so that lengths stay where they are
        alone = (alone / scored).roll(1, dims=1) * scored
    chosen, rejected = response_pmi(
        summed, tokens, first, alone, first_token=first_token
    )
    return chosen - rejected


@dataclass
class Moments:
    """Running mean and standard deviation of a gap, smoothed over steps.

    Parameters
    ----------
    momentum : float
        Weight of the past.
    values : Tensor, shape (2,), optional
        Mean and standard deviation; None: the first batch starts them.
    """

    momentum: float = 0.9
    values: Tensor | None = None

    def __call__(self, gap: Tensor, update: bool = True) -> tuple[Tensor, Tensor]:
        """Return the moments before this batch, each (B,); then smooth its own in."""
        spread = gap.std() if len(gap) > 1 else torch.ones_like(gap[0])
        now = torch.stack([gap.mean(), spread])
        before = now if self.values is None else self.values
        if update:
            self.values = self.momentum * before + (1 - self.momentum) * now
        mean, std = before
        return mean.expand(len(gap)), std.expand(len(gap))


def apply_loss(
    loss: Loss,
    kwargs: Mapping[str, Any],
    summed: Tensor,
    tokens: Tensor,
    ref: Tensor | None,
    **extra: Tensor,
) -> Tensor:
    """Call a loss on the log-probs of a batch.

    Parameters
    ----------
    loss, kwargs
        A loss of `mipo.losses` and its keywords.
    summed, tokens : Tensor, shape (members, B)
        Summed log-probs in nats and token counts, in the order of `mipo.lm.batches`.
    ref : Tensor, shape (members, B), optional
        Summed log-probs under the reference, where the loss needs them.
    **extra : Tensor, shape (B,)
        What else a loss of pairs takes, by name.

    Returns
    -------
    Tensor
        One value per contrast.
    """
    mean = loss.logps == "mean"
    logps = summed / tokens if mean else summed
    if ref is not None and mean:
        ref = ref / tokens
    if loss.takes == "chosen":
        return loss(logps[0], **kwargs)
    if loss.takes == "pair":
        inputs = _inputs_of_pairs(logps, tokens, ref) | extra
        return loss(*(inputs[name] for name in inputs_of(loss)), **kwargs)
    if loss.takes == "candidates":
        refs = [] if ref is None else [ref.T]
        return loss(logps.T, *refs, **kwargs)
    n = round(logps.shape[0] ** 0.5)
    matrix = logps.reshape(n, n, -1).permute(2, 0, 1)  # (B, prompt, reply)
    if loss.takes == "matrix":
        return loss(matrix, **kwargs)
    # reply j: its own context to index 0; every reply counts, chosen or rejected
    own_first = [matrix[:, :, j].roll(-j, dims=1) for j in range(n)]
    return loss(torch.cat(own_first), **kwargs)  # (N * B,)


def _inputs_of_pairs(
    logps: Tensor, tokens: Tensor, ref: Tensor | None
) -> dict[str, Tensor]:
    inputs = {}
    for i, side in enumerate(("chosen", "rejected")):
        inputs[f"{side}_logps"], inputs[f"{side}_tokens"] = logps[i], tokens[i]
        if ref is not None:
            inputs[f"ref_{side}_logps"] = ref[i]
    return inputs
