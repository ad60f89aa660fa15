"""Losses on the gap of token-mean log-probs against a margin.

The margin of RMiPO, what else it plugs into, and margins that the batch decides.
"""

from math import exp, inf, log, log1p
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from mipo.losses.declaration import (
    FAR,
    LARGEST,
    declare,
    finite,
    positive,
    same_shape,
)
from mipo.losses.reference import dpo, ipo, kto


@declare(
    takes="pair",
    logps="mean",
    example={"beta": 2.0, "gamma": 0.5},
    limits={0: log1p(exp(0.5)), FAR: 0, -FAR: 0.5 + 2 * FAR},
)
def simpo(
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    *,
    beta: float,
    gamma: float | Tensor,
) -> Tensor:
    """Simple preference optimisation (SimPO): no reference, a target margin.

    The loss is ``-log sigmoid(beta * h - gamma)``, with ``h = chosen - rejected``.

    Parameters
    ----------
    chosen_logps, rejected_logps : Tensor, shape (B,)
        Log-probs of the chosen and the rejected reply; nats per token, token MEANS.
    beta : float
        Steepness, tokens/nat; above 0.
    gamma : float or Tensor, shape (B,)
        The RAW margin, without unit, as TRL's ``simpo_gamma``; the authors' table lists
        gamma / beta.

    Returns
    -------
    Tensor, shape (B,)
        Loss of each pair; no mean is taken.

    Raises
    ------
    ValueError
        For beta <= 0, a gamma that is no finite number, and shapes that differ.

    Notes
    -----
    It is log(1 + e^gamma) at h = 0, approaches ``gamma - beta * h`` as h falls, and 0
    as h grows. Source: arXiv:2405.14734, eq. 6.

    Examples
    --------
    The second pair just meets its margin, so it costs log 2.

    >>> chosen = torch.tensor([-1.0, -0.5])
    >>> rejected = torch.tensor([-1.0, -1.0])
    >>> simpo(chosen, rejected, beta=2.0, gamma=1.0)
    tensor([1.3133, 0.6931])
    """
    positive(beta=beta)
    if isinstance(gamma, Tensor):
        same_shape(ndim=1, chosen_logps=chosen_logps, gamma=gamma)
    else:
        finite(gamma=gamma)
    h = chosen_logps - rejected_logps  # (B,) nats per token
    return F.softplus(gamma - beta * h)


def gamma_decay(
    delta_pmi: Tensor,
    *,
    gamma_min: float = 0.3,
    gamma_max: float = 1.6,
    scale: float = 1.0,
) -> Tensor:
    """RMiPO's margin: it decays as the chosen reply gains in PMI on the rejected one.

    The margin is ``gamma_min + (gamma_max - gamma_min) * exp(-max(0, delta_pmi) /
    scale)``.

    Parameters
    ----------
    delta_pmi : Tensor
        PMI of the chosen less PMI of the rejected reply with the prompt, any shape;
        nats per token.
    gamma_min, gamma_max : float
        The margin of pairs that the prompt tells apart well, and of those that it does
        not.
    scale : float
        How fast it decays, nats per token; above 0.

    Returns
    -------
    Tensor
        Margins, of the same shape.

    Raises
    ------
    ValueError
        For scale <= 0, bounds that are no finite numbers, gamma_min > gamma_max.

    Notes
    -----
    It is gamma_max for every delta_pmi <= 0. Derived in notebook 03.
    Source: arXiv:2604.24804; the constants are the ends of SimPO's search grid, and
    scale = 1 is implied there.

    Examples
    --------
    >>> gamma_decay(torch.tensor([-1.0, 0.0, log(2)]))
    tensor([1.6000, 1.6000, 0.9500])
    """
    positive(scale=scale)
    finite(gamma_min=gamma_min, gamma_max=gamma_max)
    if gamma_min > gamma_max:
        raise ValueError(
            f"gamma_min must be at most gamma_max; got {gamma_min!r} and {gamma_max!r}"
        )
    decay = torch.exp(-delta_pmi.clamp(min=0) / scale)
    return gamma_min + (gamma_max - gamma_min) * decay


@declare(
    takes="pair",
    logps="mean",
    needs={"marginal"},
    example={"beta": 1.5, "gamma_min": 0.2, "gamma_max": 1.1, "scale": 0.7},
    limits={0: log1p(exp(1.5 * 1.1)), FAR: 0, -FAR: 1.5 * (1.1 + FAR)},
)
def rmipo(
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    delta_pmi: Tensor,
    *,
    beta: float = 2.0,
    gamma_min: float = 0.3,
    gamma_max: float = 1.6,
    scale: float = 1.0,
    convention: Literal["code", "paper"] = "code",
) -> Tensor:
    """RMiPO: `simpo` with a margin per pair, ``gamma = gamma_decay(delta_pmi)``.

    With ``h = chosen - rejected`` the loss is ``-log sigmoid(beta * (h - gamma))``, as
    the authors' trainer computes it (``convention="code"``), or ``-log sigmoid(beta * h
    - gamma)``, as the paper's stationarity condition has it (``convention="paper"``).

    Parameters
    ----------
    chosen_logps, rejected_logps : Tensor, shape (B,)
        Log-probs of the chosen and the rejected reply; nats per token, token MEANS.
    delta_pmi : Tensor, shape (B,)
        As in `gamma_decay`; it gets no gradient.
    beta : float
        Steepness, tokens/nat; above 0.
    gamma_min, gamma_max, scale : float
        As in `gamma_decay`; the margin is in nats per token for "code" and without unit
        for "paper".
    convention : {"code", "paper"}
        Whether beta multiplies the margin.

    Returns
    -------
    Tensor, shape (B,)
        Loss of each pair; no mean is taken.

    Raises
    ------
    ValueError
        For beta <= 0, scale <= 0, gamma_min > gamma_max, an unknown convention, shapes
        that differ.

    Notes
    -----
    The margin gets no gradient. Derived in notebook 03. Source: arXiv:2604.24804 and
    its released code.

    Examples
    --------
    Equal replies, of which the prompt tells the second pair apart by 2 nats per token:
    less is asked of it.

    >>> equal = torch.tensor([-1.0, -1.0])
    >>> rmipo(equal, equal, torch.tensor([0.0, 2.0]))
    tensor([3.2400, 1.2783])
    """
    positive(beta=beta)
    if convention not in ("code", "paper"):
        raise ValueError(f"convention must be 'code' or 'paper'; got {convention!r}")
    gamma = gamma_decay(
        delta_pmi.detach(), gamma_min=gamma_min, gamma_max=gamma_max, scale=scale
    )  # (B,)
    if convention == "code":
        gamma = beta * gamma
    return simpo(chosen_logps, rejected_logps, beta=beta, gamma=gamma)


# ---- the same margin in other losses: each pair must clear gamma more ----


@declare(
    takes="pair",
    logps="sum",
    needs={"reference", "marginal"},
    example={"beta": 0.3, "gamma_min": 0.2, "gamma_max": 1.1, "scale": 0.7},
    limits={0: log1p(exp(1.1)), FAR: 0, -FAR: 1.1 + 0.3 * FAR},
)
def dpo_decay(
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    delta_pmi: Tensor,
    *,
    beta: float = 0.1,
    gamma_min: float = 0.3,
    gamma_max: float = 1.6,
    scale: float = 1.0,
) -> Tensor:
    """DPO with RMiPO's margin: ``-log sigmoid(beta * h - gamma_decay(delta_pmi))``.

    Parameters
    ----------
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps : Tensor, (B,)
        As in `dpo`: nats, SUMMED over reply tokens.
    delta_pmi : Tensor, shape (B,)
        As in `gamma_decay`, nats per token; it gets no gradient.
    beta : float
        As in `dpo`; above 0.
    gamma_min, gamma_max, scale : float
        As in `gamma_decay`; the margin has no unit here.

    Returns
    -------
    Tensor, shape (B,)
        Loss of each pair; no mean is taken.

    Raises
    ------
    ValueError
        As `dpo` and `gamma_decay`.
    """
    positive(beta=beta)
    gamma = gamma_decay(
        delta_pmi.detach(), gamma_min=gamma_min, gamma_max=gamma_max, scale=scale
    )
    return dpo(
        chosen_logps - gamma / beta,
        rejected_logps,
        ref_chosen_logps,
        ref_rejected_logps,
        beta=beta,
    )


@declare(
    takes="pair",
    logps="mean",
    needs={"reference", "marginal"},
    example={"tau": 0.25, "gamma_min": 0.2, "gamma_max": 1.1, "scale": 0.7},
    limits={0: (1.1 + 2) ** 2},
    lowest_at=2 + 1.1,
)
def ipo_decay(
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    delta_pmi: Tensor,
    *,
    tau: float = 0.1,
    gamma_min: float = 0.3,
    gamma_max: float = 1.6,
    scale: float = 1.0,
) -> Tensor:
    """IPO with RMiPO's margin: ``(h - 1 / (2 * tau) - gamma_decay(delta_pmi))^2``.

    The gap to which a pair is pulled moves up by its margin.

    Parameters
    ----------
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps : Tensor, (B,)
        As in `ipo`: nats per token, token MEANS.
    delta_pmi : Tensor, shape (B,)
        As in `gamma_decay`, nats per token; it gets no gradient.
    tau : float
        As in `ipo`; above 0.
    gamma_min, gamma_max, scale : float
        As in `gamma_decay`; the margin is in nats per token here.

    Returns
    -------
    Tensor, shape (B,)
        Loss of each pair; no mean is taken.

    Raises
    ------
    ValueError
        As `ipo` and `gamma_decay`.
    """
    gamma = gamma_decay(
        delta_pmi.detach(), gamma_min=gamma_min, gamma_max=gamma_max, scale=scale
    )
    return ipo(
        chosen_logps - gamma,
        rejected_logps,
        ref_chosen_logps,
        ref_rejected_logps,
        tau=tau,
    )


@declare(
    takes="pair",
    logps="sum",
    needs={"reference", "mismatched", "marginal"},
    example={"beta": 0.2, "gamma_min": 0.2, "gamma_max": 1.1, "scale": 0.7},
    limits={0: 1 / (1 + exp(-1.1 / 2)), FAR: 0, -FAR: 1},
    bounds=(0.0, 1.0),
    batchwise=True,
)
def kto_decay(
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    kl: Tensor,
    delta_pmi: Tensor,
    *,
    beta: float = 0.1,
    gamma_min: float = 0.3,
    gamma_max: float = 1.6,
    scale: float = 1.0,
) -> Tensor:
    """KTO with RMiPO's margin: each reply must clear its side of z by half of it.

    KTO knows no gap of a pair, so the two replies share the margin: ``beta * (r - z)``
    of the chosen reply and ``beta * (z - r)`` of the rejected one must each exceed half
    of gamma. Together they ask for a gap of gamma, as the other losses do.

    Parameters
    ----------
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps : Tensor, (B,)
        As in `kto`: nats, SUMMED over reply tokens.
    kl : Tensor, shape (B,)
        As in `kto`, nats.
    delta_pmi : Tensor, shape (B,)
        As in `gamma_decay`, nats per token; it gets no gradient.
    beta : float
        As in `kto`; above 0.
    gamma_min, gamma_max, scale : float
        As in `gamma_decay`; the margin has no unit here.

    Returns
    -------
    Tensor, shape (B,)
        Loss of each pair; no mean is taken.

    Raises
    ------
    ValueError
        As `kto` and `gamma_decay`.
    """
    positive(beta=beta)
    gamma = gamma_decay(
        delta_pmi.detach(), gamma_min=gamma_min, gamma_max=gamma_max, scale=scale
    )
    half = gamma / (2 * beta)
    return kto(
        chosen_logps - half,
        rejected_logps + half,
        ref_chosen_logps,
        ref_rejected_logps,
        kl,
        beta=beta,
    )


# ---- margins that the batch decides ----


@declare(
    takes="pair",
    logps="mean",
    example={"beta": 3.0, "gamma0": 1.5, "tau": 5.0},
    # a batch of one keeps gamma0
    limits={0: log1p(exp(1.5)), FAR: 0, -FAR: 1.5 + 3 * FAR},
    frozen=True,
    batchwise=True,
)
def gammapo(
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    *,
    beta: float = 10.0,
    gamma0: float = 4.0,
    tau: float = 10.0,
) -> Tensor:
    """Gamma-PO: `simpo` with a fixed sum of margins, dealt out anew in each batch.

    With ``h = chosen - rejected`` the loss is ``-log sigmoid(beta * h - margin)``; the
    ``margin = gammapo_margin(beta * h)`` gets no gradient.

    Parameters
    ----------
    chosen_logps, rejected_logps : Tensor, shape (B,)
        Log-probs of the chosen and the rejected reply; nats per token, token MEANS.
    beta : float
        Steepness, tokens/nat; above 0.
    gamma0 : float
        Mean margin, without unit; above 0.
    tau : float
        Price of margins that are not equal; above 0.

    Returns
    -------
    Tensor, shape (B,)
        Loss of each pair; no mean is taken.

    Raises
    ------
    ValueError
        For beta, gamma0 or tau <= 0 and shapes that differ.

    Notes
    -----
    tau -> inf: `simpo` with gamma = gamma0. Source: arXiv:2506.03690; defaults of its
    Llama-3-8B run, where the margin is written as gamma0 / beta = 0.4. There a queue of
    past gaps joins the batch; here the batch alone.
    """
    positive(beta=beta, gamma0=gamma0, tau=tau)
    gap = beta * (chosen_logps - rejected_logps)
    margin = gammapo_margin(gap, gamma0=gamma0, tau=tau)
    return F.softplus(margin - gap)


def gammapo_margin(
    gap: Tensor, *, gamma0: float, tau: float, steps: int = 500
) -> Tensor:
    """Margins of mean gamma0 that favour confident pairs.

    The margins are ``m = gamma0 * n * p``, where p is the law over the n pairs that
    minimises ``mean(softplus(m - gap)) + tau * KL(p || uniform)``.

    Parameters
    ----------
    gap : Tensor, shape (B,)
        beta times the log-prob gap of each pair of the batch; it gets no gradient.
    gamma0, tau : float
        As in `gammapo`.
    steps : int
        At most so many steps of mirror descent.

    Returns
    -------
    Tensor, shape (B,)
        Margins; their mean is gamma0.

    Raises
    ------
    ValueError
        Where `steps` do not suffice.

    Notes
    -----
    The derivative of the first term by p_i is gamma0 * sigmoid(m_i - gap_i). So at the
    optimum p_i is proportional to exp(-gamma0 / tau * sigmoid(m_i - gap_i)): confident
    pairs get MORE margin. Mirror descent starts at the uniform p, and halves its step
    where it overshoots.
    """
    gap = gap.detach()
    n = gap.shape[0]
    log_p = torch.full_like(gap, -log(n))
    rate, last_distance = 0.5, inf
    for _ in range(steps):
        margin = gamma0 * n * log_p.exp()
        slope = torch.sigmoid(margin - gap)
        goal = torch.log_softmax(-gamma0 / tau * slope, dim=0)
        distance = (goal - log_p).abs().max().item()
        if distance < 1e-5:
            return margin
        if distance > last_distance:
            rate = rate / 2
        last_distance = distance
        log_p = torch.log_softmax(log_p + rate * (goal - log_p), dim=0)
    raise ValueError(
        f"γ-PO's margins do not settle at gamma0={gamma0:g} and tau={tau:g}; "
        "take a larger tau"
    )


@declare(
    takes="pair",
    logps="mean",
    example={"beta": 1.5},
    limits={0: log(2), FAR: 0, -FAR: 1.5 * FAR},  # a batch of one has no margin
    frozen=True,
    batchwise=True,
)
def amapo(chosen_logps: Tensor, rejected_logps: Tensor, *, beta: float = 2.0) -> Tensor:
    """AMaPO: `simpo` with a margin for pairs that lie below the batch's mean gap.

    With ``h = chosen - rejected`` the loss is ``-log sigmoid(beta * (h - margin))``.
    The ``margin = amapo_margin(h)`` gets no gradient.

    Parameters
    ----------
    chosen_logps, rejected_logps : Tensor, shape (B,)
        Log-probs of the chosen and the rejected reply; nats per token, token MEANS.
    beta : float
        Steepness, tokens/nat; above 0. The authors take 2 to 3.

    Returns
    -------
    Tensor, shape (B,)
        Loss of each pair; no mean is taken.

    Raises
    ------
    ValueError
        For beta <= 0 and shapes that differ.

    Notes
    -----
    A batch of equal gaps: `simpo` with gamma = 0. Source: arXiv:2511.09385 and its
    released code.
    """
    positive(beta=beta)
    gap = chosen_logps - rejected_logps
    return F.softplus(beta * (amapo_margin(gap) - gap))


def amapo_margin(gap: Tensor) -> Tensor:
    """Margins ``exp(mean * z)`` below the batch's mean gap, 0 for the other pairs.

    ``z = (mean - gap) / std`` says how far below, in standard deviations of the batch.

    Parameters
    ----------
    gap : Tensor, shape (B,)
        Log-prob gap of each pair of the batch, nats per token; it gets no gradient.

    Returns
    -------
    Tensor, shape (B,)
        Margins, nats per token. Misranked pairs get MORE margin once the mean gap is
        positive.
    """
    gap = gap.detach()
    mean = gap.mean()
    # by more than rounding: equal gaps have no margin
    below = mean - gap > 1e-6 * gap.abs().max()
    std = gap.std() if len(gap) > 1 else torch.ones_like(mean)
    zero = torch.zeros_like(gap)
    z = torch.where(below, (mean - gap) / std, zero)
    margin = torch.exp((z * mean).clamp(max=LARGEST))
    return torch.where(below, margin, zero)
