"""Losses on the likelihoods themselves, without a reference and without a margin that adapts."""

import math

import torch
import torch.nn.functional as F

from mipo.losses.declare import (
    FAR,
    LARGEST,
    declare,
    is_number,
    not_negative,
    positive,
    same_shape,
)

CERTAIN = -1e-7  # nats per token; a reply as likely as this counts as certain, where odds would be infinite


@declare(
    takes="chosen",
    logps="sum",
    limits=[(0.0, lambda h, n: 0.0), (-FAR, lambda h, n: -h)],
)
def sft(chosen_logps):
    r"""-chosen_logps: the negative log-likelihood of the chosen reply.

    theory  cross-entropy of whole replies: its optimum is the law of the chosen replies, which a mean over tokens
            would tilt towards short ones
    shapes  (B,) -> (B,)                                 units   nats, SUMMED over reply tokens
    limits  certain reply: 0;   linear
    errors  ValueError for a shape other than (B,)
    """
    same_shape(ndim=1, chosen_logps=chosen_logps)
    return -chosen_logps


@declare(
    takes="pair",
    logps="sum",
    needs={"lengths"},
    limits=[
        (0.0, lambda h, n, **_: math.log(2)),
        (FAR, lambda h, n, **_: 0.0),
        (-FAR, lambda h, n, beta, alpha: -beta * h - alpha * h),
    ],
)
def cpo(chosen_logps, rejected_logps, chosen_tokens, *, beta=0.1, alpha=1.0):
    r"""-log sigmoid(beta * (chosen - rejected)) - alpha * chosen / L_w.

    theory  DPO without its reference, held to the data  source  arXiv:2401.08417, eq. 6; defaults as TRL's (cpo_alpha)
    shapes  three times (B,) -> (B,)                     units   nats, SUMMED over reply tokens; the second term is nats
                                                                 per token (TRL averages it over the batch's tokens)
    limits  alpha = 0: ``dpo`` with an equal reference
    errors  ValueError for beta <= 0, alpha < 0 and shapes that differ
    """
    positive(beta=beta)
    not_negative(alpha=alpha)
    same_shape(
        ndim=1,
        chosen_logps=chosen_logps,
        rejected_logps=rejected_logps,
        chosen_tokens=chosen_tokens,
    )
    return F.softplus(
        -beta * (chosen_logps - rejected_logps)
    ) - alpha * chosen_logps / chosen_tokens.clamp(min=1)


@declare(
    takes="pair",
    logps="mean",
    limits=[
        (FAR, lambda h, n, **_: 0.0),
        (
            -FAR,
            lambda h, n, beta: (
                -h - beta * (h - CERTAIN + math.log(-math.expm1(CERTAIN)))
            ),
        ),
    ],
)
def orpo(chosen_logps, rejected_logps, *, beta=0.1):
    r"""-chosen - beta * log sigmoid(log odds(chosen) - log odds(rejected)),   log odds(l) = l - log(1 - e^l).

    theory  supervised learning with an odds ratio       source  arXiv:2403.07691, eq. 6 (its lambda); default as TRL's
    shapes  twice (B,) -> (B,)                           units   nats per token: token MEANS (TRL's first term also
                                                                 covers the prompt's tokens; ours the reply's)
    limits  equal replies: -chosen + beta log 2
    errors  ValueError for beta <= 0 and shapes that differ
    """
    positive(beta=beta)
    same_shape(ndim=1, chosen_logps=chosen_logps, rejected_logps=rejected_logps)
    odds = _log_odds(chosen_logps) - _log_odds(rejected_logps)
    return -chosen_logps + beta * F.softplus(-odds)


def _log_odds(logps):
    logps = logps.clamp(max=CERTAIN)
    return logps - torch.log(-torch.expm1(logps))


@declare(
    takes="pair",
    logps="mean",
    bounds=(-1.0, 1.0),
    limits=[
        (0.0, lambda h, n: 0.0),
        (FAR, lambda h, n: -1.0),
        (-FAR, lambda h, n: 1.0),
    ],
)
def simper(chosen_logps, rejected_logps):
    r"""-exp(chosen) + exp(rejected): inverse perplexities, nothing to tune but the learning rate.

    theory  a bounded loss                               source  arXiv:2502.00883
    shapes  twice (B,) -> (B,)                           units   nats per token: token MEANS; loss between -1 and 1
    errors  ValueError for shapes that differ
    """
    same_shape(ndim=1, chosen_logps=chosen_logps, rejected_logps=rejected_logps)
    return torch.exp(rejected_logps) - torch.exp(chosen_logps)


@declare(
    takes="pair",
    logps="mean",
    limits=[
        (0.0, lambda h, n, gamma, **_: math.log1p(math.exp(gamma))),
        (FAR, lambda h, n, **_: 0.0),
    ],
)
def alphapo(chosen_logps, rejected_logps, *, alpha=0.25, beta=2.5, gamma=0.1):
    r"""-log sigmoid(beta * (r_w - r_l) - gamma),   r = (1 - exp(-alpha * logps)) / alpha.

    theory  SimPO with a bent reward: alpha > 0 punishes unlikely replies more than logarithmically
    source  arXiv:2501.03884; defaults of its Mistral-Instruct run as TRL lists them
    shapes  twice (B,) -> (B,)                           units   nats per token: token MEANS; gamma is raw, as SimPO's
    limits  alpha -> 0: ``simpo``
    errors  ValueError for beta <= 0, alpha = 0, alpha or gamma that are no finite numbers, and shapes that differ
    """
    positive(beta=beta)
    for name, value in (("alpha", alpha), ("gamma", gamma)):
        if not is_number(value):
            raise ValueError(f"{name} must be a finite number; got {value!r}")
    if alpha == 0:
        raise ValueError("alpha must not be 0: that is loss 'simpo'")
    same_shape(ndim=1, chosen_logps=chosen_logps, rejected_logps=rejected_logps)

    def reward(logps):
        return -torch.expm1((-alpha * logps).clamp(max=LARGEST)) / alpha

    return F.softplus(gamma - beta * (reward(chosen_logps) - reward(rejected_logps)))
