"""From log-probs to the named inputs of a loss: Δpmi and its controls, running moments, and the call itself."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mipo.logprobs import response_pmi, sequence_logps
from mipo.losses.declaration import inputs_of

MARGINALS = ("policy", "frozen", "shuffled", "none")


@torch.no_grad()
def score_sides(model, inputs: dict, marginal: str = "policy") -> dict[str, Tensor]:
    """Summed log-probs of the rows that a batch has beside its sets, {"marginal": (2, B), "mismatched": (1, B)}.

    To be called before the sets are scored: their gradients need memory, and these rows would need theirs on top.
    """
    skip = {"marginal"} if marginal in ("frozen", "none") else set()
    return {
        name: sequence_logps(model, inputs[name])[0].reshape(
            inputs[name]["members"], -1
        )
        for name in ("marginal", "mismatched")
        if name in inputs and name not in skip
    }


def delta_pmi(
    alone,
    counts,
    summed,
    tokens,
    first,
    *,
    marginal: str = "policy",
    first_token: str = "start",
) -> Tensor:
    r"""PMI of the chosen less PMI of the rejected reply, or a control in its place: (B,), nats per token.

    alone, counts           log-probs of the replies without their prompts, and how many tokens they cover: each (2, B)
    summed, tokens, first   of the replies after their prompts, see `logprobs.response_pmi`: each (2, B)
    marginal                what stands for log pi(y): "policy", the reply alone under the policy as it is; "frozen",
                            under the policy before training; "shuffled", another pair's of the batch; "none", no
                            marginal, which leaves the gap of mean log-probs itself
    """
    if marginal == "none":
        return summed[0] / tokens[0] - summed[1] / tokens[1]
    if marginal == "shuffled":
        scored = counts.clamp(min=1)
        alone = (alone / scored).roll(
            1, dims=1
        ) * scored  # per token, so that lengths stay where they are
    chosen, rejected = response_pmi(
        summed, tokens, first, alone, first_token=first_token
    )
    return chosen - rejected


@dataclass
class Moments:
    """Running mean and standard deviation of a gap, smoothed over steps; the first batch starts them."""

    momentum: float = 0.9
    values: Tensor | None = None  # (2,)

    def __call__(self, gap: Tensor, update: bool = True) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation as they are before this batch, each (B,); then smooths the batch's own in."""
        now = torch.stack(
            [gap.mean(), gap.std() if len(gap) > 1 else torch.ones_like(gap[0])]
        )
        before = now if self.values is None else self.values
        if update:
            self.values = self.momentum * before + (1 - self.momentum) * now
        mean, std = before
        return mean.expand(len(gap)), std.expand(len(gap))


def apply_loss(
    loss,
    kwargs: dict,
    summed: Tensor,
    tokens: Tensor,
    ref: Tensor | None,
    **extra: Tensor,
) -> Tensor:
    """``loss`` on log-probs of shape (members, B) in the order of ``mipo.lm.batches``: one value per contrast.

    extra   what else a loss of pairs takes, by name, each (B,)
    """
    mean = loss.logps == "mean"
    logps = summed / tokens if mean else summed
    refs = [] if "reference" not in loss.needs else [ref / tokens if mean else ref]
    if loss.takes == "chosen":
        return loss(logps[0], **kwargs)
    if loss.takes == "pair":
        known = {"chosen_logps": logps[0], "rejected_logps": logps[1], **extra}
        known |= {"chosen_tokens": tokens[0], "rejected_tokens": tokens[1]}
        known |= {
            f"ref_{which}_logps": row
            for r in refs
            for which, row in zip(("chosen", "rejected"), r, strict=True)
        }
        return loss(*(known[name] for name in inputs_of(loss)), **kwargs)
    if loss.takes == "candidates":
        return loss(logps.T, *(r.T for r in refs), **kwargs)
    n = round(logps.shape[0] ** 0.5)
    matrix = logps.reshape(n, n, -1).permute(2, 0, 1)  # (B, prompt, reply)
    if loss.takes == "matrix":
        return loss(matrix, **kwargs)
    own_first = [
        matrix[:, :, j].roll(-j, dims=1) for j in range(n)
    ]  # reply j: its own context to index 0
    return loss(
        torch.cat(own_first), **kwargs
    )  # (N * B,) every reply counts, chosen or rejected
