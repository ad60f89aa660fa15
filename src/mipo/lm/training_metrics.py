"""What is logged of a batch while a preference loss trains, under TRL's names."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from mipo.losses import gamma_decay
from mipo.losses.declaration import Loss, keyword

MARGIN_KEYWORDS = ("gamma_min", "gamma_max", "scale")


def preference_metrics(
    loss: Loss,
    keywords: Mapping[str, Any],
    summed: Tensor,
    tokens: Tensor,
    ref: Tensor | None,
) -> dict[str, Tensor]:
    """Return mean log-probs and rewards of a batch.

    Parameters
    ----------
    loss : Loss
        A loss of `mipo.losses`.
    keywords : mapping
        Its keywords.
    summed, tokens : Tensor, shape (members, B)
        Summed log-probs in nats and token counts, in the order of `mipo.lm.batches`.
    ref : Tensor, shape (members, B), optional
        Summed log-probs under the reference.

    Returns
    -------
    dict of Tensor
        Scalars. Rewards are beta times the summed log-ratio, or without a reference
        times the loss's own log-prob.
    """
    k = replies_of(loss, len(summed))
    metrics = {"logps/chosen": summed[0].mean()}
    if k == 1:
        return metrics
    if ref is not None:
        base = summed - ref
    else:
        base = summed / tokens if loss.logps == "mean" else summed
    beta = keywords.get("beta", keywords.get("tau", 1.0))
    rewards = beta * base[:k]
    chosen, rejected = rewards[0], rewards[1:]
    right = chosen > rejected.amax(dim=0)
    return metrics | {
        "logps/rejected": summed[1:k].mean(),
        "rewards/chosen": chosen.mean(),
        "rewards/rejected": rejected.mean(),
        "rewards/accuracies": right.float().mean(),
        "rewards/margins": (chosen - rejected.mean(dim=0)).mean(),
    }


def replies_of(loss: Loss, members: int) -> int:
    """Return how many of a set's members are replies to the row's own prompt.

    They come first.
    """
    if loss.takes == "chosen":
        return 1
    return round(members**0.5) if "cross" in loss.needs else members


def margin_metrics(
    loss: Loss, keywords: Mapping[str, Any], delta_pmi: Tensor
) -> dict[str, Tensor]:
    """Return mean and spread of Δpmi and of the margin that it gives.

    Parameters
    ----------
    loss, keywords
        A loss with RMiPO's margin, and its keywords.
    delta_pmi : Tensor, shape (B,)
        Nats per token.
    """
    kwargs = {name: keyword(loss, name, keywords) for name in MARGIN_KEYWORDS}
    gamma = gamma_decay(delta_pmi, **kwargs)
    return {
        "margin/gamma": gamma.mean(),
        "margin/gamma_std": gamma.std(correction=0),
        "margin/delta_pmi": delta_pmi.mean(),
        "margin/delta_pmi_std": delta_pmi.std(correction=0),
    }
