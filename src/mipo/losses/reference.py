"""Losses on log-ratios against a reference model."""

import math

import torch
import torch.nn.functional as F

from mipo.losses.declare import (
    FAR,
    declare,
    is_number,
    not_negative,
    positive,
    same_shape,
)


@declare(
    takes="pair",
    logps="sum",
    needs={"reference"},
    limits=[
        (0.0, lambda h, n, beta: math.log(2)),
        (FAR, lambda h, n, beta: 0.0),
        (-FAR, lambda h, n, beta: -beta * h),
    ],
)
def dpo(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta):
    r"""-log sigmoid(beta * h),   h = (chosen - rejected) - (ref_chosen - ref_rejected).

    theory  notebook 02                                  source  arXiv:2305.18290, eq. 7
    shapes  four times (B,) -> (B,)                      units   nats, SUMMED over reply tokens; beta in 1/nats
    limits  h = 0: log 2;   h -> -inf: -beta h;   h -> inf: 0
    errors  ValueError for beta <= 0 and for shapes that differ
    """
    positive(beta=beta)
    same_shape(
        ndim=1,
        chosen_logps=chosen_logps,
        rejected_logps=rejected_logps,
        ref_chosen_logps=ref_chosen_logps,
        ref_rejected_logps=ref_rejected_logps,
    )
    h = (chosen_logps - ref_chosen_logps) - (
        rejected_logps - ref_rejected_logps
    )  # (B,) gap of log-ratios, nats
    return F.softplus(-beta * h)  # -log sigmoid, safe for large |h|


@declare(
    takes="pair",
    logps="mean",
    needs={"reference"},
    limits=[
        (0.0, lambda h, n, beta: math.log(2)),
        (FAR, lambda h, n, beta: 0.0),
        (-FAR, lambda h, n, beta: -beta * h),
    ],
)
def dpo_norm(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta
):
    r"""Length-normalised DPO: ``dpo`` on token MEANS.

    theory  arXiv:2405.14734, section 2.2, argues for means   source  TRL's loss_type "sigmoid_norm"
    shapes  four times (B,) -> (B,)                           units   nats per token; beta in tokens/nat, so larger
    limits, errors  as ``dpo``
    """
    return dpo(
        chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, beta=beta
    )


@declare(
    takes="pair",
    logps="mean",
    needs={"reference"},
    limits=[
        (0.0, lambda h, n, tau: 1 / (4 * tau**2)),
        (FAR, lambda h, n, tau: (h - 1 / (2 * tau)) ** 2),
    ],
)
def ipo(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, tau):
    r"""(h - 1 / (2 tau))^2,   h = (chosen - rejected) - (ref_chosen - ref_rejected).

    theory  the gap is pulled to a finite value          source  arXiv:2310.12036, eq. 17
    shapes  four times (B,) -> (B,)                      units   nats per token: token MEANS, as the authors advise and
                                                                 as TRL does (its ``beta`` is tau here); loss in nats^2
    limits  h = 0: 1/(4 tau^2);   h = 1/(2 tau): 0, the minimum
    errors  ValueError for tau <= 0 and for shapes that differ
    """
    positive(tau=tau)
    same_shape(
        ndim=1,
        chosen_logps=chosen_logps,
        rejected_logps=rejected_logps,
        ref_chosen_logps=ref_chosen_logps,
        ref_rejected_logps=ref_rejected_logps,
    )
    h = (chosen_logps - ref_chosen_logps) - (
        rejected_logps - ref_rejected_logps
    )  # (B,) nats per token
    return (h - 1 / (2 * tau)) ** 2


@declare(
    takes="pair",
    logps="sum",
    needs={"reference", "mismatched"},
    bounds=(0.0, 1.0),
    limits=[
        (
            0.0,
            lambda h, n, desirable_weight, undesirable_weight, **_: (
                (desirable_weight + undesirable_weight) / 4
            ),
        ),
        (FAR, lambda h, n, **_: 0.0),
        (
            -FAR,
            lambda h, n, desirable_weight, undesirable_weight, **_: (
                (desirable_weight + undesirable_weight) / 2
            ),
        ),
    ],
)
def kto(
    chosen_logps,
    rejected_logps,
    ref_chosen_logps,
    ref_rejected_logps,
    kl,
    *,
    beta=0.1,
    desirable_weight=1.0,
    undesirable_weight=1.0,
):
    r"""[w_d (1 - sigmoid(beta (r_w - z))) + w_u (1 - sigmoid(beta (z - r_l)))] / 2,   r = logps - ref_logps.

    z = max(0, mean of ``kl`` over the batch), without gradient: each reply is judged against what the policy has
    moved on average, not against its partner, so a "pair" is two rows that share a prompt. The trainer takes ``kl`` from
    the chosen replies, each after another row's prompt; TRL takes it from chosen and rejected ones.

    theory  losses weigh more than gains                 source  arXiv:2402.01306, eq. 8; defaults and weights as TRL's
    shapes  five times (B,) -> (B,)                      units   nats, SUMMED over reply tokens; ``kl`` is the log-ratio
                                                                 of another prompt's reply; loss at most the mean weight
    limits  nothing learned: (w_d + w_u)/4;   all right: 0;   all wrong: (w_d + w_u)/2
    errors  ValueError for beta <= 0, a weight below 0 and shapes that differ
    """
    positive(beta=beta)
    not_negative(
        desirable_weight=desirable_weight, undesirable_weight=undesirable_weight
    )
    same_shape(
        ndim=1,
        chosen_logps=chosen_logps,
        rejected_logps=rejected_logps,
        ref_chosen_logps=ref_chosen_logps,
        ref_rejected_logps=ref_rejected_logps,
        kl=kl,
    )
    z = kl.mean().clamp(min=0).detach()  # nats
    good = torch.sigmoid(
        beta * (z - (chosen_logps - ref_chosen_logps))
    )  # 1 - sigmoid(x) = sigmoid(-x)
    bad = torch.sigmoid(beta * ((rejected_logps - ref_rejected_logps) - z))
    return (desirable_weight * good + undesirable_weight * bad) / 2  # (B,)


@declare(
    takes="pair",
    logps="sum",
    needs={"reference", "lengths"},
    limits=[
        (0.0, lambda h, n, **_: math.log(2)),
        (FAR, lambda h, n, **_: 0.0),
        (-FAR, lambda h, n, beta, **_: -beta * h),
    ],
)
def rdpo(
    chosen_logps,
    rejected_logps,
    ref_chosen_logps,
    ref_rejected_logps,
    chosen_tokens,
    rejected_tokens,
    *,
    beta=0.1,
    alpha=0.05,
):
    r"""-log sigmoid(beta * h + alpha * (L_w - L_l)),   h as in ``dpo``, L the reply's tokens.

    The optimum of reward - alpha L - beta KL has reward beta * log-ratio + alpha L, which gives the sign: where the
    longer reply won, its length already explains part of that, and less is learned. Some code has the opposite sign.

    theory  DPO with a price on length                   source  arXiv:2403.19159; alpha from the lower end of the usual
                                                                 search (0.05 to 1)
    shapes  six times (B,) -> (B,)                       units   nats, SUMMED over reply tokens; alpha in nats per token
    limits  equal lengths: ``dpo``
    errors  ValueError for beta <= 0, alpha < 0 and shapes that differ
    """
    positive(beta=beta)
    not_negative(alpha=alpha)
    same_shape(
        ndim=1,
        chosen_logps=chosen_logps,
        chosen_tokens=chosen_tokens,
        rejected_tokens=rejected_tokens,
    )
    extra = alpha * (
        chosen_tokens - rejected_tokens
    )  # (B,) what length explains, in units of beta * nats
    return dpo(
        chosen_logps + extra / beta,
        rejected_logps,
        ref_chosen_logps,
        ref_rejected_logps,
        beta=beta,
    )


@declare(
    takes="pair",
    logps="mean",
    needs={"reference", "moments"},
    frozen=True,
    limits=[
        (0.0, lambda h, n, beta, gamma0, **_: math.log1p(math.exp(beta * gamma0))),
        (FAR, lambda h, n, **_: 0.0),
        (-FAR, lambda h, n, beta, gamma0, alpha: -beta * (h - gamma0 - alpha * h)),
    ],
)
def alphadpo(
    chosen_logps,
    rejected_logps,
    ref_chosen_logps,
    ref_rejected_logps,
    gap_mean,
    gap_std,
    *,
    beta=2.5,
    gamma0=0.6,
    alpha=0.2,
):
    r"""-log sigmoid(beta * (d - m)),   d = chosen - rejected,   m = gamma0 + alpha * (h - gap_mean) / gap_std.

    h is the gap of log-ratios against the reference, ``gap_mean`` and ``gap_std`` its running moments (the trainer
    smooths them over steps with momentum 0.9). The margin m is held fixed; it GROWS with the pair's standing.

    theory  SimPO with a margin per pair                 source  arXiv:2410.10148; defaults of its Llama-3-Instruct run
    shapes  six times (B,) -> (B,)                       units   nats per token: token MEANS; gamma0 and alpha too
    limits  alpha = 0: ``simpo`` with gamma = beta * gamma0
    errors  ValueError for beta <= 0, gamma0 or alpha that are no finite numbers, and shapes that differ
    """
    positive(beta=beta)
    for name, value in (("gamma0", gamma0), ("alpha", alpha)):
        if not is_number(value):
            raise ValueError(f"{name} must be a finite number; got {value!r}")
    same_shape(
        ndim=1,
        chosen_logps=chosen_logps,
        rejected_logps=rejected_logps,
        ref_chosen_logps=ref_chosen_logps,
        ref_rejected_logps=ref_rejected_logps,
        gap_mean=gap_mean,
        gap_std=gap_std,
    )
    h = (chosen_logps - ref_chosen_logps) - (
        rejected_logps - ref_rejected_logps
    )  # (B,) nats per token
    z = (h - gap_mean) / gap_std.clamp(min=1e-6)
    margin = (gamma0 + alpha * z).detach()
    return F.softplus(beta * (margin - (chosen_logps - rejected_logps)))
