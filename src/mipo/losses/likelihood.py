"""Losses on the likelihoods themselves: no reference, no margin that adapts."""

from math import exp, expm1, log, log1p

import torch
import torch.nn.functional as F
from torch import Tensor

from mipo.losses.declaration import (
    FAR,
    LARGEST,
    declare,
    finite,
    not_negative,
    positive,
)

# nats per token; a reply as likely as this counts as certain, where odds are infinite
CERTAIN = -1e-7


@declare(takes="chosen", logps="sum", limits={0: 0, -FAR: FAR}, lowest_at=0)
def sft(chosen_logps: Tensor) -> Tensor:
    """Supervised fine-tuning (SFT): ``-chosen``, the negative log-likelihood.

    Parameters
    ----------
    chosen_logps : Tensor, shape (B,)
        Log-probs of the chosen replies; nats, SUMMED over reply tokens.

    Returns
    -------
    Tensor, shape (B,)
        Loss of each reply, nats; no mean is taken.

    Raises
    ------
    ValueError
        For a shape other than (B,).

    Notes
    -----
    Cross-entropy of whole replies: its optimum is the law of the chosen replies, which
    a mean over tokens would tilt towards short ones. Linear; a certain reply: 0.
    """
    return -chosen_logps


@declare(
    takes="pair",
    logps="sum",
    needs={"lengths"},
    example={"beta": 0.4, "alpha": 0.6},
    limits={0: log(2), FAR: 0, -FAR: 0.4 * FAR + 0.6 * FAR},
)
def cpo(
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    chosen_tokens: Tensor,
    *,
    beta: float = 0.1,
    alpha: float = 1.0,
) -> Tensor:
    """Contrastive preference optimisation (CPO): DPO without a reference, plus SFT.

    The loss is ``-log sigmoid(beta * (chosen - rejected)) - alpha * chosen /
    chosen_tokens``; the second term holds the policy to the data.

    Parameters
    ----------
    chosen_logps, rejected_logps : Tensor, shape (B,)
        Log-probs of the chosen and the rejected reply; nats, SUMMED over reply tokens.
    chosen_tokens : Tensor, shape (B,)
        Length of the chosen reply, tokens.
    beta : float
        Steepness, 1/nats; above 0.
    alpha : float
        Weight of the likelihood term, which is in nats per token; at least 0.

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
    alpha = 0: `dpo` with an equal reference. TRL averages the second term over the
    batch's tokens. Source: arXiv:2401.08417, eq. 6; defaults as TRL's (cpo_alpha).
    """
    positive(beta=beta)
    not_negative(alpha=alpha)
    preference = F.softplus(-beta * (chosen_logps - rejected_logps))
    return preference - alpha * chosen_logps / chosen_tokens.clamp(min=1)


def _log_odds(logps: Tensor) -> Tensor:
    logps = logps.clamp(max=CERTAIN)
    return logps - torch.log(-torch.expm1(logps))


@declare(
    takes="pair",
    logps="mean",
    example={"beta": 0.7},
    limits={
        FAR: 0,
        -FAR: FAR + 0.7 * (FAR + CERTAIN - log(-expm1(CERTAIN))),
    },
)
def orpo(chosen_logps: Tensor, rejected_logps: Tensor, *, beta: float = 0.1) -> Tensor:
    """Odds-ratio preference optimisation (ORPO): SFT plus an odds ratio.

    The loss is ``-chosen - beta * log sigmoid(log_odds(chosen) - log_odds(rejected))``,
    with ``log_odds(l) = l - log(1 - exp(l))``.

    Parameters
    ----------
    chosen_logps, rejected_logps : Tensor, shape (B,)
        Log-probs of the chosen and the rejected reply; nats per token, token MEANS.
    beta : float
        Weight of the odds ratio (lambda in the paper); above 0.

    Returns
    -------
    Tensor, shape (B,)
        Loss of each pair, nats per token; no mean is taken.

    Raises
    ------
    ValueError
        For beta <= 0 and shapes that differ.

    Notes
    -----
    Equal replies: -chosen + beta log 2. TRL's first term also covers the prompt's
    tokens; ours the reply's. Source: arXiv:2403.07691, eq. 6; default as TRL's.
    """
    positive(beta=beta)
    log_odds_ratio = _log_odds(chosen_logps) - _log_odds(rejected_logps)
    return -chosen_logps + beta * F.softplus(-log_odds_ratio)


@declare(
    takes="pair",
    logps="mean",
    limits={0: 0, FAR: -1, -FAR: 1},
    bounds=(-1.0, 1.0),
)
def simper(chosen_logps: Tensor, rejected_logps: Tensor) -> Tensor:
    """SimPER: ``exp(rejected) - exp(chosen)``, a difference of inverse perplexities.

    Bounded, with nothing to tune but the learning rate.

    Parameters
    ----------
    chosen_logps, rejected_logps : Tensor, shape (B,)
        Log-probs of the chosen and the rejected reply; nats per token, token MEANS.

    Returns
    -------
    Tensor, shape (B,)
        Loss of each pair, between -1 and 1; no mean is taken.

    Raises
    ------
    ValueError
        For shapes that differ.

    Notes
    -----
    Source: arXiv:2502.00883.
    """
    return torch.exp(rejected_logps) - torch.exp(chosen_logps)


def _bent(logps: Tensor, alpha: float) -> Tensor:
    return -torch.expm1((-alpha * logps).clamp(max=LARGEST)) / alpha


@declare(
    takes="pair",
    logps="mean",
    example={"alpha": 0.5, "beta": 1.5, "gamma": 0.3},
    limits={0: log1p(exp(0.3)), FAR: 0},
)
def alphapo(
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    *,
    alpha: float = 0.25,
    beta: float = 2.5,
    gamma: float = 0.1,
) -> Tensor:
    """AlphaPO: `simpo` with a bent reward.

    The loss is ``-log sigmoid(beta * (r_chosen - r_rejected) - gamma)``, with the
    reward ``r = (1 - exp(-alpha * logps)) / alpha``. An alpha above 0 punishes unlikely
    replies more than logarithmically.

    Parameters
    ----------
    chosen_logps, rejected_logps : Tensor, shape (B,)
        Log-probs of the chosen and the rejected reply; nats per token, token MEANS.
    alpha : float
        Bend of the reward, tokens/nat; not 0.
    beta : float
        Steepness, tokens/nat; above 0.
    gamma : float
        Raw margin as in `simpo`, without unit.

    Returns
    -------
    Tensor, shape (B,)
        Loss of each pair; no mean is taken.

    Raises
    ------
    ValueError
        For beta <= 0, alpha = 0, alpha or gamma that are no finite numbers, and shapes
        that differ.

    Notes
    -----
    alpha -> 0: `simpo`. Source: arXiv:2501.03884; defaults of its Mistral-Instruct run
    as TRL lists them.
    """
    positive(beta=beta)
    finite(alpha=alpha, gamma=gamma)
    if alpha == 0:
        raise ValueError("alpha must not be 0: that is loss 'simpo'")
    chosen = _bent(chosen_logps, alpha)
    rejected = _bent(rejected_logps, alpha)
    return F.softplus(gamma - beta * (chosen - rejected))
