"""Losses on the gap of token-mean log-probs against a margin; the margin of RMiPO and what else it plugs into."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from mipo.losses.declare import FAR, LARGEST, declare, is_number, positive, same_shape
from mipo.losses.reference import dpo, ipo, kto


@declare(
    takes="pair",
    logps="mean",
    limits=[
        (0.0, lambda h, n, beta, gamma: math.log1p(math.exp(gamma))),
        (FAR, lambda h, n, beta, gamma: 0.0),
        (-FAR, lambda h, n, beta, gamma: gamma - beta * h),
    ],
)
def simpo(chosen_logps, rejected_logps, *, beta, gamma):
    r"""-log sigmoid(beta * h - gamma),   h = chosen - rejected.

    theory  no reference; a target margin                source  arXiv:2405.14734, eq. 6
    shapes  twice (B,) -> (B,); gamma may be (B,)        units   nats per token: token MEANS; gamma has no unit
    names   gamma is the RAW margin, as TRL's ``simpo_gamma``; the authors' table lists gamma / beta
    limits  h = 0: log(1 + e^gamma);   h -> -inf: gamma - beta h;   h -> inf: 0
    errors  ValueError for beta <= 0, a gamma that is no finite number, and shapes that differ
    """
    positive(beta=beta)
    each = {"gamma": gamma} if isinstance(gamma, Tensor) else {}
    if not each and not is_number(gamma):
        raise ValueError(
            f"gamma must be a finite number, or a tensor with one per pair; got {gamma!r}"
        )
    same_shape(ndim=1, chosen_logps=chosen_logps, rejected_logps=rejected_logps, **each)
    return F.softplus(gamma - beta * (chosen_logps - rejected_logps))  # (B,)


def gamma_decay(delta_pmi, *, gamma_min=0.3, gamma_max=1.6, scale=1.0):
    r"""gamma_min + (gamma_max - gamma_min) * exp(-max(0, delta_pmi) / scale).

    The margin of a pair whose chosen reply is tied to the prompt more strongly than its rejected one by ``delta_pmi``.

    theory  notebook 03                                  source  arXiv:2604.24804; the constants are the ends of SimPO's
                                                                 search grid, and scale = 1 is implied there
    shapes  any -> the same                              units   delta_pmi and scale in nats per token
    limits  delta_pmi <= 0: gamma_max;   delta_pmi -> inf: gamma_min
    errors  ValueError for scale <= 0, bounds that are no finite numbers, gamma_min > gamma_max
    """
    positive(scale=scale)
    if not (is_number(gamma_min) and is_number(gamma_max) and gamma_min <= gamma_max):
        raise ValueError(
            f"gamma_min must be at most gamma_max, both finite; got {gamma_min!r} and {gamma_max!r}"
        )
    return gamma_min + (gamma_max - gamma_min) * torch.exp(
        -delta_pmi.clamp(min=0) / scale
    )


@declare(
    takes="pair",
    logps="mean",
    needs={"marginal"},
    limits=[
        (
            0.0,
            lambda h, n, beta, gamma_max, **_: math.log1p(math.exp(beta * gamma_max)),
        ),
        (FAR, lambda h, n, **_: 0.0),
        (-FAR, lambda h, n, beta, gamma_max, **_: beta * (gamma_max - h)),
    ],
)
def rmipo(
    chosen_logps,
    rejected_logps,
    delta_pmi,
    *,
    beta=2.0,
    gamma_min=0.3,
    gamma_max=1.6,
    scale=1.0,
    convention="code",
):
    r"""``simpo`` with a margin per pair: g = gamma_decay(delta_pmi), held fixed, and h = chosen - rejected.

    convention="code": -log sigmoid(beta * (h - g)), as the authors' trainer computes it
    convention="paper": -log sigmoid(beta * h - g), as the paper's stationarity condition has it

    theory  notebook 03                                  source  arXiv:2604.24804 and its released code
    shapes  three times (B,) -> (B,)                     units   nats per token: token MEANS; g is in nats per token for
                                                                 "code" and without unit for "paper"
    limits  (at delta_pmi = 0, "code") h = 0: log(1 + e^(beta gamma_max));   h -> -inf: beta (gamma_max - h)
    errors  ValueError for beta <= 0, scale <= 0, gamma_min > gamma_max, an unknown convention, shapes that differ
    """
    positive(beta=beta)
    if convention not in ("code", "paper"):
        raise ValueError(f"convention must be 'code' or 'paper'; got {convention!r}")
    same_shape(
        ndim=1,
        chosen_logps=chosen_logps,
        rejected_logps=rejected_logps,
        delta_pmi=delta_pmi,
    )
    gamma = gamma_decay(
        delta_pmi.detach(), gamma_min=gamma_min, gamma_max=gamma_max, scale=scale
    )  # (B,)
    return simpo(
        chosen_logps,
        rejected_logps,
        beta=beta,
        gamma=beta * gamma if convention == "code" else gamma,
    )


# ---- the same margin in other losses: each asks gamma more of the pair before it is content ----


@declare(
    takes="pair",
    logps="sum",
    needs={"reference", "marginal"},
    limits=[
        (0.0, lambda h, n, gamma_max, **_: math.log1p(math.exp(gamma_max))),
        (FAR, lambda h, n, **_: 0.0),
        (-FAR, lambda h, n, beta, gamma_max, **_: gamma_max - beta * h),
    ],
)
def dpo_decay(
    chosen_logps,
    rejected_logps,
    ref_chosen_logps,
    ref_rejected_logps,
    delta_pmi,
    *,
    beta=0.1,
    gamma_min=0.3,
    gamma_max=1.6,
    scale=1.0,
):
    r"""-log sigmoid(beta * h - gamma_decay(delta_pmi)),   h as in ``dpo``.

    shapes  five times (B,) -> (B,)                      units   nats, SUMMED over reply tokens; delta_pmi in nats per
                                                                 token; gamma without unit
    limits, errors  as ``dpo`` and ``gamma_decay``
    """
    positive(beta=beta)
    handicap = _margin(chosen_logps, delta_pmi, gamma_min, gamma_max, scale)
    return dpo(
        chosen_logps - handicap / beta,
        rejected_logps,
        ref_chosen_logps,
        ref_rejected_logps,
        beta=beta,
    )


@declare(
    takes="pair",
    logps="mean",
    needs={"reference", "marginal"},
    limits=[(0.0, lambda h, n, tau, gamma_max, **_: (gamma_max + 1 / (2 * tau)) ** 2)],
)
def ipo_decay(
    chosen_logps,
    rejected_logps,
    ref_chosen_logps,
    ref_rejected_logps,
    delta_pmi,
    *,
    tau=0.1,
    gamma_min=0.3,
    gamma_max=1.6,
    scale=1.0,
):
    r"""(h - 1 / (2 tau) - gamma_decay(delta_pmi))^2,   h as in ``ipo``: the target of each pair moves up by its margin.

    shapes  five times (B,) -> (B,)                      units   nats per token: token MEANS; gamma too
    limits, errors  as ``ipo`` and ``gamma_decay``
    """
    handicap = _margin(chosen_logps, delta_pmi, gamma_min, gamma_max, scale)
    return ipo(
        chosen_logps - handicap,
        rejected_logps,
        ref_chosen_logps,
        ref_rejected_logps,
        tau=tau,
    )


@declare(
    takes="pair",
    logps="sum",
    needs={"reference", "mismatched", "marginal"},
    bounds=(0.0, 1.0),
    limits=[
        (0.0, lambda h, n, gamma_max, **_: 1 / (1 + math.exp(-gamma_max / 2))),
        (FAR, lambda h, n, **_: 0.0),
        (-FAR, lambda h, n, **_: 1.0),
    ],
)
def kto_decay(
    chosen_logps,
    rejected_logps,
    ref_chosen_logps,
    ref_rejected_logps,
    kl,
    delta_pmi,
    *,
    beta=0.1,
    gamma_min=0.3,
    gamma_max=1.6,
    scale=1.0,
):
    r"""``kto`` in which each reply of a pair must clear its side of z by gamma_decay(delta_pmi) / 2.

    KTO has no gap of a pair. So the margin is shared: beta (r_w - z) and beta (z - r_l) must each exceed gamma / 2,
    which together ask beta (r_w - r_l) > gamma, as the other losses do.

    shapes  six times (B,) -> (B,)                       units   nats, SUMMED over reply tokens; delta_pmi in nats per
                                                                 token; gamma without unit
    limits, errors  as ``kto`` and ``gamma_decay``
    """
    positive(beta=beta)
    same_shape(ndim=1, chosen_logps=chosen_logps, rejected_logps=rejected_logps)
    half = _margin(chosen_logps, delta_pmi, gamma_min, gamma_max, scale) / (2 * beta)
    return kto(
        chosen_logps - half,
        rejected_logps + half,
        ref_chosen_logps,
        ref_rejected_logps,
        kl,
        beta=beta,
    )


def _margin(chosen_logps, delta_pmi, gamma_min, gamma_max, scale):
    same_shape(ndim=1, chosen_logps=chosen_logps, delta_pmi=delta_pmi)
    return gamma_decay(
        delta_pmi.detach(), gamma_min=gamma_min, gamma_max=gamma_max, scale=scale
    )


# ---- margins that the batch decides ----


@declare(
    takes="pair",
    logps="mean",
    frozen=True,
    limits=[
        (
            0.0,
            lambda h, n, gamma0, **_: math.log1p(math.exp(gamma0)),
        ),  # a batch of one keeps gamma0
        (FAR, lambda h, n, **_: 0.0),
        (-FAR, lambda h, n, beta, gamma0, **_: gamma0 - beta * h),
    ],
)
def gammapo(chosen_logps, rejected_logps, *, beta=10.0, gamma0=4.0, tau=10.0):
    r"""-log sigmoid(beta * h - m),   h = chosen - rejected,   m = gammapo_margin(beta * h), held fixed.

    theory  a fixed sum of margins, dealt out anew       source  arXiv:2506.03690; defaults of its Llama-3-8B run, where
                                                                 the margin is written as gamma0 / beta = 0.4. There a
                                                                 queue of past gaps joins the batch; here the batch alone
    shapes  twice (B,) -> (B,)                           units   nats per token: token MEANS; gamma0 without unit
    limits  tau -> inf: ``simpo`` with gamma = gamma0
    errors  ValueError for beta, gamma0 or tau <= 0 and shapes that differ
    """
    positive(beta=beta, gamma0=gamma0, tau=tau)
    same_shape(ndim=1, chosen_logps=chosen_logps, rejected_logps=rejected_logps)
    gap = beta * (chosen_logps - rejected_logps)
    return F.softplus(gammapo_margin(gap, gamma0=gamma0, tau=tau) - gap)


def gammapo_margin(gap, *, gamma0, tau, steps=500):
    r"""Margins m = gamma0 * n * p, where p minimises mean_i softplus(m_i - gap_i) + tau * KL(p || uniform): (B,) -> (B,).

    The derivative of the first term by p_i is gamma0 * sigmoid(m_i - gap_i), so at the optimum p_i is proportional to
    exp(-gamma0 / tau * sigmoid(m_i - gap_i)): confident pairs get MORE margin, and the mean stays gamma0. From the uniform
    p, at most ``steps`` mirror-descent steps towards it, shorter ones where they overshoot. No gradient.

    errors  ValueError where that does not suffice
    """
    gap, n, rate, before = gap.detach(), gap.shape[0], 0.5, math.inf
    log_p = torch.full_like(gap, -math.log(n))
    for _ in range(steps):
        goal = torch.log_softmax(
            -gamma0 / tau * torch.sigmoid(gamma0 * n * log_p.exp() - gap), dim=0
        )
        away = (goal - log_p).abs().max().item()
        if away < 1e-5:
            return gamma0 * n * log_p.exp()
        rate, before = (rate / 2 if away > before else rate), away
        log_p = torch.log_softmax(log_p + rate * (goal - log_p), dim=0)
    raise ValueError(
        f"γ-PO's margins do not settle at gamma0={gamma0:g} and tau={tau:g}; take a larger tau"
    )


@declare(
    takes="pair",
    logps="mean",
    frozen=True,
    limits=[
        (0.0, lambda h, n, **_: math.log(2)),  # a batch of one has no margin
        (FAR, lambda h, n, **_: 0.0),
        (-FAR, lambda h, n, beta: -beta * h),
    ],
)
def amapo(chosen_logps, rejected_logps, *, beta=2.0):
    r"""-log sigmoid(beta * (h - m)),   h = chosen - rejected,   m = amapo_margin(h), held fixed.

    theory  more push for what is misranked              source  arXiv:2511.09385 and its released code; beta 2 to 3
    shapes  twice (B,) -> (B,)                           units   nats per token: token MEANS
    limits  a batch of equal gaps: ``simpo`` with gamma = 0
    errors  ValueError for beta <= 0 and shapes that differ
    """
    positive(beta=beta)
    same_shape(ndim=1, chosen_logps=chosen_logps, rejected_logps=rejected_logps)
    gap = chosen_logps - rejected_logps
    return F.softplus(beta * (amapo_margin(gap) - gap))


def amapo_margin(gap):
    r"""exp(z * mean) for pairs below the batch's mean gap, z = (mean - gap) / std; 0 for the others: (B,) -> (B,).

    Nats per token, no gradient. Misranked pairs get MORE margin once the mean gap is positive.
    """
    gap = gap.detach()
    mean = gap.mean()
    below = (
        mean - gap > 1e-6 * gap.abs().max()
    )  # by more than rounding: equal gaps have no margin
    std = gap.std() if len(gap) > 1 else torch.ones_like(mean)
    z = torch.where(below, (mean - gap) / std, torch.zeros_like(gap))
    return torch.where(
        below, torch.exp((z * mean).clamp(max=LARGEST)), torch.zeros_like(gap)
    )
