"""Losses on log-ratios against a reference model."""

from math import exp, log, log1p

import torch
import torch.nn.functional as F
from torch import Tensor

from mipo.losses.declaration import FAR, declare, finite, not_negative, positive


@declare(
    takes="pair",
    logps="sum",
    needs={"reference"},
    example={"beta": 0.5},
    limits={0: log(2), FAR: 0, -FAR: 0.5 * FAR},
)
def dpo(
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    *,
    beta: float,
) -> Tensor:
    """Direct preference optimisation (DPO).

    The loss is ``-log sigmoid(beta * h)``, where ``h = (chosen - ref_chosen) -
    (rejected - ref_rejected)`` is how far the chosen reply gained on the rejected one.

    Parameters
    ----------
    chosen_logps, rejected_logps : Tensor, shape (B,)
        Log-probs of the chosen and the rejected reply under the policy; nats, SUMMED
        over reply tokens.
    ref_chosen_logps, ref_rejected_logps : Tensor, shape (B,)
        The same under the reference.
    beta : float
        Strength of the pull towards the reference, 1/nats; above 0.

    Returns
    -------
    Tensor, shape (B,)
        Loss of each pair; no mean is taken.

    Raises
    ------
    ValueError
        For beta <= 0 and for shapes that differ.

    Notes
    -----
    It is log 2 at h = 0, approaches ``-beta * h`` as h falls, and 0 as h grows. Derived
    in notebook 02. Source: arXiv:2305.18290, eq. 7.

    Examples
    --------
    At a gap of log 3 nats, sigmoid(h) is 3/4.

    >>> zero = torch.zeros(2)
    >>> gap = torch.tensor([0.0, log(3)])
    >>> dpo(gap, zero, zero, zero, beta=1.0)
    tensor([0.6931, 0.2877])
    """
    positive(beta=beta)
    chosen_ratio = chosen_logps - ref_chosen_logps  # (B,) nats
    rejected_ratio = rejected_logps - ref_rejected_logps
    h = chosen_ratio - rejected_ratio
    return F.softplus(-beta * h)  # -log sigmoid, safe for large |h|


@declare(
    takes="pair",
    logps="mean",
    needs={"reference"},
    example={"beta": 5.0},
    limits={0: log(2), FAR: 0, -FAR: 5 * FAR},
)
def dpo_norm(
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    *,
    beta: float,
) -> Tensor:
    """Length-normalised DPO: `dpo` on token MEANS.

    Parameters
    ----------
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps : Tensor, (B,)
        As in `dpo`, but nats per token, token MEANS.
    beta : float
        As in `dpo`, but tokens/nat, so larger; above 0.

    Returns
    -------
    Tensor, shape (B,)
        Loss of each pair; no mean is taken.

    Raises
    ------
    ValueError
        As `dpo`.

    Notes
    -----
    TRL calls it loss_type "sigmoid_norm". Section 2.2 of arXiv:2405.14734 argues for
    means.
    """
    return dpo(
        chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, beta=beta
    )


@declare(
    takes="pair",
    logps="mean",
    needs={"reference"},
    example={"tau": 0.25},
    limits={0: 4, FAR: (FAR - 2) ** 2},
    lowest_at=2,
)
def ipo(
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    *,
    tau: float,
) -> Tensor:
    """Identity preference optimisation (IPO): the gap is pulled to a finite value.

    The loss is ``(h - 1 / (2 * tau))^2``, with h as in `dpo`.

    Parameters
    ----------
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps : Tensor, (B,)
        As in `dpo`, but nats per token, token MEANS, as the authors advise and as TRL
        does.
    tau : float
        The gap is pulled to 1 / (2 tau) nats per token; above 0. TRL calls it beta.

    Returns
    -------
    Tensor, shape (B,)
        Loss of each pair, (nats per token)^2; no mean is taken.

    Raises
    ------
    ValueError
        For tau <= 0 and for shapes that differ.

    Notes
    -----
    It is 1 / (4 tau^2) at h = 0, and 0 at h = 1 / (2 tau), its minimum.
    Source: arXiv:2310.12036, eq. 17.
    """
    positive(tau=tau)
    chosen_ratio = chosen_logps - ref_chosen_logps  # (B,) nats per token
    rejected_ratio = rejected_logps - ref_rejected_logps
    h = chosen_ratio - rejected_ratio
    return (h - 1 / (2 * tau)) ** 2


@declare(
    takes="pair",
    logps="sum",
    needs={"reference", "mismatched"},
    example={"beta": 0.2, "desirable_weight": 1.2, "undesirable_weight": 0.8},
    limits={0: 0.5, FAR: 0, -FAR: 1},
    bounds=(0.0, 1.0),
    batchwise=True,
)
def kto(
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    kl: Tensor,
    *,
    beta: float = 0.1,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> Tensor:
    """Kahneman-Tversky optimisation (KTO), on the two replies of a pair.

    Each reply is judged on its own, not against its partner, so a "pair" is two rows
    that share a prompt. With the log-ratio ``r = logps - ref_logps``, a chosen reply
    costs ``1 - sigmoid(beta * (r - z))`` and a rejected one ``1 - sigmoid(beta * (z -
    r))``; the loss is half their weighted sum. The reference point
    ``z = max(0, mean(kl))`` is how far the policy has moved on average; it gets no
    gradient.

    Parameters
    ----------
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps : Tensor, (B,)
        As in `dpo`: nats, SUMMED over reply tokens.
    kl : Tensor, shape (B,)
        Log-ratio of another prompt's reply, nats. The trainer takes it from the chosen
        replies, each after another row's prompt; TRL from chosen and rejected ones.
    beta : float
        Steepness, 1/nats; above 0.
    desirable_weight, undesirable_weight : float
        Weights of chosen and of rejected replies; at least 0.

    Returns
    -------
    Tensor, shape (B,)
        Loss of each pair, at most the mean weight; no mean is taken.

    Raises
    ------
    ValueError
        For beta <= 0, a weight below 0 and shapes that differ.

    Notes
    -----
    It is half the mean weight where nothing is learned, 0 where all is right, and the
    mean weight where all is wrong. Source: arXiv:2402.01306, eq. 8; defaults and
    weights as TRL's.
    """
    positive(beta=beta)
    not_negative(
        desirable_weight=desirable_weight, undesirable_weight=undesirable_weight
    )
    z = kl.mean().clamp(min=0).detach()  # nats
    chosen_ratio = chosen_logps - ref_chosen_logps  # (B,) nats
    rejected_ratio = rejected_logps - ref_rejected_logps
    chosen = torch.sigmoid(beta * (z - chosen_ratio))  # 1 - sigmoid(x) = sigmoid(-x)
    rejected = torch.sigmoid(beta * (rejected_ratio - z))
    return (desirable_weight * chosen + undesirable_weight * rejected) / 2


@declare(
    takes="pair",
    logps="sum",
    needs={"reference", "lengths"},
    example={"beta": 0.5, "alpha": 0.3},
    limits={0: log(2), FAR: 0, -FAR: 0.5 * FAR},
)
def rdpo(
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    chosen_tokens: Tensor,
    rejected_tokens: Tensor,
    *,
    beta: float = 0.1,
    alpha: float = 0.05,
) -> Tensor:
    """R-DPO: DPO with a price on length.

    The loss is ``-log sigmoid(beta * h + alpha * (chosen_tokens - rejected_tokens))``,
    with h as in `dpo`.

    Parameters
    ----------
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps : Tensor, (B,)
        As in `dpo`: nats, SUMMED over reply tokens.
    chosen_tokens, rejected_tokens : Tensor, shape (B,)
        Lengths of the replies, tokens.
    beta : float
        As in `dpo`; above 0.
    alpha : float
        Price of a token, 1/tokens; at least 0.

    Returns
    -------
    Tensor, shape (B,)
        Loss of each pair; no mean is taken.

    Raises
    ------
    ValueError
        For beta <= 0, alpha < 0 and shapes that differ.

    Notes
    -----
    The optimum of reward - alpha L - beta KL has reward beta * log-ratio + alpha L,
    which gives the sign: where the longer reply won, its length already explains part
    of that, and less is learned. Some code has the opposite sign. Equal lengths: `dpo`.
    Source: arXiv:2403.19159; alpha from the lower end of the usual search (0.05 to 1).
    """
    positive(beta=beta)
    not_negative(alpha=alpha)
    explained = alpha * (chosen_tokens - rejected_tokens)  # (B,) by length alone
    return dpo(
        chosen_logps + explained / beta,
        rejected_logps,
        ref_chosen_logps,
        ref_rejected_logps,
        beta=beta,
    )


@declare(
    takes="pair",
    logps="mean",
    needs={"reference", "moments"},
    example={"beta": 2.0, "gamma0": 0.4, "alpha": 0.3},
    limits={0: log1p(exp(0.8)), FAR: 0, -FAR: 2 * (FAR + 0.4 - 0.3 * FAR)},
    frozen=True,
)
def alphadpo(
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    gap_mean: Tensor,
    gap_std: Tensor,
    *,
    beta: float = 2.5,
    gamma0: float = 0.6,
    alpha: float = 0.2,
) -> Tensor:
    """Alpha-DPO: SimPO with a margin that GROWS with the pair's standing.

    The loss is ``-log sigmoid(beta * (chosen - rejected - margin))``, where
    ``margin = gamma0 + alpha * (h - gap_mean) / gap_std`` gets no gradient and h is as
    in `dpo`.

    Parameters
    ----------
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps : Tensor, (B,)
        As in `dpo`, but nats per token, token MEANS.
    gap_mean, gap_std : Tensor, shape (B,)
        Running moments of h, nats per token; the trainer smooths them over steps with
        momentum 0.9.
    beta : float
        Steepness, tokens/nat; above 0.
    gamma0, alpha : float
        Margin of an average pair and its growth, nats per token.

    Returns
    -------
    Tensor, shape (B,)
        Loss of each pair; no mean is taken.

    Raises
    ------
    ValueError
        For beta <= 0, gamma0 or alpha that are no finite numbers, and shapes that
        differ.

    Notes
    -----
    alpha = 0: `simpo` with gamma = beta * gamma0. Source: arXiv:2410.10148; defaults of
    its Llama-3-Instruct run.
    """
    positive(beta=beta)
    finite(gamma0=gamma0, alpha=alpha)
    chosen_ratio = chosen_logps - ref_chosen_logps  # (B,) nats per token
    rejected_ratio = rejected_logps - ref_rejected_logps
    h = chosen_ratio - rejected_ratio
    standing = (h - gap_mean) / gap_std.clamp(min=1e-6)
    margin = (gamma0 + alpha * standing).detach()
    return F.softplus(beta * (margin - (chosen_logps - rejected_logps)))
