"""What is logged while a preference loss trains, under TRL's names: means over rows."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mipo.losses import gamma_decay
from mipo.losses.declaration import Loss, keyword

MARGIN_KEYWORDS = ("gamma_min", "gamma_max", "scale")
SPREAD = ("margin/gamma", "margin/delta_pmi")  # whose standard deviation is logged, too


class RowMetrics:
    """Values of rows, kept until their means over all of them are asked for.

    So every row counts the same, however the rows were cut into batches.
    """

    def __init__(self) -> None:
        self.batches: dict[str, list[Tensor]] = defaultdict(list)

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Keep the values of a batch, each (B,)."""
        for name, column in values.items():
            self.batches[name].append(column.detach())

    def means(self) -> dict[str, float]:
        """Means over all rows, and a standard deviation for the names in `SPREAD`."""
        found = {}
        for name, columns in self.batches.items():
            rows = torch.cat(columns)
            found[name] = rows.mean().item()
            if name in SPREAD:
                found[f"{name}_std"] = rows.std(correction=0).item()
        return found

    def clear(self) -> None:
        """Begin anew."""
        self.batches.clear()


def preference_metrics(
    loss: Loss,
    keywords: Mapping[str, Any],
    summed: Tensor,
    tokens: Tensor,
    ref: Tensor | None,
) -> dict[str, Tensor]:
    """Return log-probs and rewards of a batch's rows.

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
    dict of Tensor, shape (B,)
        Rewards are beta times the summed log-ratio, or without a reference times the
        loss's own log-prob; of several rejected replies the mean.
    """
    k = replies_of(loss, len(summed))
    metrics = {"logps/chosen": summed[0]}
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
        "logps/rejected": summed[1:k].mean(dim=0),
        "rewards/chosen": chosen,
        "rewards/rejected": rejected.mean(dim=0),
        "rewards/accuracies": right.float(),
        "rewards/margins": chosen - rejected.mean(dim=0),
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
    """Return Δpmi of a batch's rows and the margin that it gives.

    Parameters
    ----------
    loss, keywords
        A loss with RMiPO's margin, and its keywords.
    delta_pmi : Tensor, shape (B,)
        Nats per token.

    Returns
    -------
    dict of Tensor, shape (B,)
    """
    kwargs = {name: keyword(loss, name, keywords) for name in MARGIN_KEYWORDS}
    gamma = gamma_decay(delta_pmi, **kwargs)
    return {"margin/gamma": gamma, "margin/delta_pmi": delta_pmi}
