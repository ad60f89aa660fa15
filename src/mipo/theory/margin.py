"""RMiPO's margin worked out.

Which gap it asks for, where its weight is one half, and where training comes to rest.
Everything is exact. Curves and tables are torch in float64, so that they can be
differentiated; single numbers are floats. Gaps are in nats per token. What is trained
is `mipo.losses.rmipo`; here are its consequences.

==============  ========================================================================
``delta``       Δ = ℓ(y_w|x) - ℓ(y_l|x), ℓ the mean log-prob per token
``delta_pmi``   Δpmi = Δ - Δ0, where Δ0 (`prior_gap`) is the same difference without the
                prompt
``target``      the gap that a pair is asked for: γ(Δpmi) for convention "code",
                γ(Δpmi)/β for "paper"
==============  ========================================================================
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.special import lambertw
from torch import Tensor

from mipo import losses

# SimPO's tuned settings {set-up: (β, γ/β, raw γ as first printed)}. Source: README of
# princeton-nlp/SimPO at 005072f for β and γ/β; arXiv:2405.14734 for γ. The ratios are
# rounded: β·(γ/β) is 0.25 and 1.375 where 0.3 and 1.4 are printed.
SIMPO_TUNED = {
    "Mistral-Base": (2.0, 0.8, 1.6),
    "Mistral-Instruct": (2.5, 0.1, 0.3),
    "Llama3-Base": (2.0, 0.5, 1.0),
    "Llama3-Instruct": (2.5, 0.55, 1.4),
}


Values = ArrayLike | Tensor


def _tensor(values: Values) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float64)


def _zeros_like(values: Tensor) -> Tensor:
    return torch.zeros(values.numel(), dtype=torch.float64)


@dataclass(frozen=True)
class Margin:
    """The settings of one margin; gamma_min = gamma_max is SimPO.

    Parameters
    ----------
    beta, gamma_min, gamma_max, scale, convention
        Keywords of `mipo.losses.rmipo`, which says what is wrong with them.
    """

    beta: float = 2.0
    gamma_min: float = 0.3
    gamma_max: float = 1.6
    scale: float = 1.0
    convention: str = "code"

    def __post_init__(self):
        self.loss([0.0], [0.0])  # settings are checked there

    def loss(self, delta: Values, delta_pmi: Values) -> Tensor:
        """`mipo.losses.rmipo` as a function of the two gaps; γ has no gradient.

        Parameters
        ----------
        delta, delta_pmi : array_like
            Gaps, nats per token; shapes broadcast.

        Returns
        -------
        Tensor
            Nats, of the same shape.
        """
        delta, delta_pmi = torch.broadcast_tensors(_tensor(delta), _tensor(delta_pmi))
        flat = losses.rmipo(
            delta.reshape(-1), _zeros_like(delta), delta_pmi.reshape(-1), **asdict(self)
        )
        return flat.reshape(delta.shape)

    def gamma(self, delta_pmi: Values) -> Tensor:
        """`mipo.losses.gamma_decay` with these settings."""
        return losses.gamma_decay(
            _tensor(delta_pmi),
            gamma_min=self.gamma_min,
            gamma_max=self.gamma_max,
            scale=self.scale,
        )

    def target(self, delta_pmi: Values) -> Tensor:
        """Return the gap asked for, nats per token.

        γ ("code") or γ/β ("paper"); this is SimPO's γ/β in either case.
        """
        return self.gamma(delta_pmi) / self._divisor()

    def weight(self, delta: Values, delta_pmi: Values) -> Tensor:
        """w = 1 - σ(β·(Δ - target)), in 0..1: the slope of the loss in Δ is -β·w.

        γ HAS a gradient here.

        Parameters
        ----------
        delta, delta_pmi : array_like
            Gaps, nats per token; shapes broadcast.

        Notes
        -----
        eq-weight (03-gamma-decay). Δ = target: 1/2. Δ -> -inf: 1. Δ -> inf: 0.
        """
        return torch.sigmoid(self.beta * (self.target(delta_pmi) - _tensor(delta)))

    def needed_pmi(self, gamma: float) -> float:
        """Return the Δpmi at which γ(Δpmi) = gamma, nats per token.

        It is scale·log((γ_max - γ_min)/(gamma - γ_min)).

        Parameters
        ----------
        gamma : float
            γ_max: 0 (and below). γ_min: inf, never quite reached. Outside
            [γ_min, γ_max]: nan.
        """
        if not self.gamma_min <= gamma <= self.gamma_max:
            return math.nan
        if gamma == self.gamma_min:
            return math.inf
        ratio = (self.gamma_max - self.gamma_min) / (gamma - self.gamma_min)
        return self.scale * math.log(ratio)

    def centre(self, prior_gap: float = 0.0) -> float:
        """Return the Δ at which w = 1/2 when Δpmi = Δ - prior_gap moves with Δ.

        Parameters
        ----------
        prior_gap : float
            Δ0, nats per token.

        Returns
        -------
        float
            Nats per token.

        Notes
        -----
        Solves Δ = target(Δ - prior_gap): target(0) if that is at most prior_gap;
        otherwise, with k = 1 ("code") or β ("paper") and r = γ_max - γ_min,
        Δ = γ_min/k + s·W(r/(s·k)·e^((prior_gap - γ_min/k)/s)), W Lambert's function.
        """
        low, high = self.gamma_min / self._divisor(), self.gamma_max / self._divisor()
        if high <= prior_gap or low == high:
            return high
        growth = math.exp((prior_gap - low) / self.scale)
        w = lambertw((high - low) / self.scale * growth).real
        return low + self.scale * float(w)

    def rest(self, p: float, prior_gap: float = 0.0) -> float:
        """Return the gap d between replies A and B at which the update rests.

        Parameters
        ----------
        p : float
            Chance that labels prefer A, between 0 and 1.
        prior_gap : float
            Δ0, nats per token, held fixed.

        Returns
        -------
        float
            Nats per token.

        Raises
        ------
        ValueError
            Unless 0 < p < 1.

        Notes
        -----
        eq-fixed-point (03-gamma-decay): the root of
        p·w(d, d - Δ0) - (1-p)·w(-d, Δ0 - d). It falls strictly in d, so there is one
        root, no further from log(p/(1-p))/β than the largest target.
        """
        middle = _log_odds(p) / self.beta
        largest = max(abs(self.gamma_min), abs(self.gamma_max)) / self._divisor()
        reach = largest + 1e-9

        def push(d: float) -> float:
            towards = p * self.weight(d, d - prior_gap)
            away = (1 - p) * self.weight(-d, prior_gap - d)
            return float(towards - away)

        root: Any = brentq(push, middle - reach, middle + reach, xtol=1e-14, rtol=1e-14)
        return float(root)

    def _divisor(self) -> float:
        return 1.0 if self.convention == "code" else self.beta

    def safe_rate(self) -> float:
        """Return 1 over the largest slope of `update` between two replies."""
        spread = (self.gamma_max - self.gamma_min) / self._divisor() / self.scale
        return 2 / self.beta / (1 + spread)


def _log_odds(p: float) -> float:
    if not 0 < p < 1:
        raise ValueError(
            "p must lie strictly between 0 and 1, else the gap grows for ever; "
            f"got {p!r}"
        )
    return math.log(p) - math.log1p(-p)


def settled_gap(p: float, target_a: float, target_b: float, *, beta: float) -> float:
    r"""Closed form of where two replies settle.

    Parameters
    ----------
    p : float
        Chance that labels say "A over B", between 0 and 1.
    target_a, target_b : float
        Gaps a and b, nats per token, that "A over B" and "B over A" ask for.
    beta : float
        Steepness, tokens/nat; above 0.

    Returns
    -------
    float
        d, nats per token.

    Raises
    ------
    ValueError
        Unless 0 < p < 1 and β > 0.

    Notes
    -----
    eq-settled (03-gamma-decay), with L = log(p/(1-p)):
    d = (a - b)/2 + (L/2 + arsinh(e^(β(a + b)/2)·sinh(L/2)))/β.
    a = b = 0: L/β, Bradley-Terry. p = 1/2: (a - b)/2. a = b -> inf, p > 1/2:
    a + log(p/(1-p) - 1)/β.
    """
    if not beta > 0:
        raise ValueError(f"beta must be above 0; got {beta!r}")
    half = _log_odds(p) / 2
    growth = math.exp(beta * (target_a + target_b) / 2)
    amplified = math.asinh(growth * math.sinh(half))
    return (target_a - target_b) / 2 + (half + amplified) / beta


# ---- policies as tables: one reply is one token, a row of logits per prompt ----


def bradley_terry(rewards: Values) -> Tensor:
    """Chance that the pair is (i chosen, j rejected).

    Every pair is equally often, and labelled σ(r_i - r_j).

    Parameters
    ----------
    rewards : array_like, shape (X, Y)
        Nats.

    Returns
    -------
    Tensor, shape (X, Y, Y)
        Each prompt's table sums to 1, its diagonal is 0.
    """
    rewards = _tensor(rewards)
    off_diagonal = 1 - torch.eye(rewards.shape[-1])
    preferred = torch.sigmoid(rewards[..., :, None] - rewards[..., None, :])
    wins = preferred * off_diagonal
    return wins / wins.sum((-2, -1), keepdim=True)


def gaps(
    logits: Tensor, p_x: Tensor, prior: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return Δ and Δpmi of every pair "i over j".

    Parameters
    ----------
    logits : Tensor, shape (X, Y)
        The policy.
    p_x : Tensor, shape (X,)
        Weights of prompts.
    prior : Tensor, shape (Y,) or (X, Y), optional
        Log-probs of the replies without prompt; None: the policy's own,
        log Σ_x p(x)·π(y|x).

    Returns
    -------
    delta, delta_pmi : Tensor, shape (X, Y, Y)
        Nats.
    """
    logp = logits.log_softmax(-1)
    if prior is None:
        prior = torch.logsumexp(p_x.log()[:, None] + logp, 0)
    delta = logp[:, :, None] - logp[:, None, :]
    prior_gap = prior[..., :, None] - prior[..., None, :]
    return delta, delta - prior_gap


def update(
    logits: Tensor,
    wins: Tensor,
    p_x: Tensor,
    margin: Margin,
    prior: Tensor | None = None,
) -> Tensor:
    """E[w·∇Δ]: where a gradient step moves the logits, divided by β.

    Of a step on the expected loss, γ detached. γ is not detached inside, so that this
    field can itself be differentiated.

    Parameters
    ----------
    logits, p_x, prior
        As in `gaps`.
    wins : Tensor, shape (X, Y, Y)
        As of `bradley_terry`.
    margin : Margin
        Its settings.

    Returns
    -------
    Tensor, shape (X, Y)
        Moves of the logits.

    Notes
    -----
    eq-fixed-point (03-gamma-decay).
    """
    weight = margin.weight(*gaps(logits, p_x, prior))
    push = p_x[:, None, None] * wins * weight  # (X, Y, Y): i gains what j loses
    return push.sum(2) - push.sum(1)


def expected_loss(
    logits: Tensor,
    wins: Tensor,
    p_x: Tensor,
    margin: Margin,
    prior: Tensor | None = None,
    *,
    detach: bool = True,
) -> Tensor:
    """E[rmipo], nats per pair.

    Parameters
    ----------
    logits, wins, p_x, margin, prior
        As in `update`.
    detach : bool
        False lets gradients see γ, which the method does not: the same value.
    """
    delta, delta_pmi = gaps(logits, p_x, prior)
    if detach:
        each = margin.loss(delta, delta_pmi)
    else:
        gamma = margin.beta * margin.target(delta_pmi).reshape(-1)
        flat = losses.simpo(
            delta.reshape(-1), _zeros_like(delta), beta=margin.beta, gamma=gamma
        )
        each = flat.reshape(delta.shape)
    return (p_x[:, None, None] * wins * each).sum()


def follow(
    logits: Tensor,
    wins: Tensor,
    p_x: Tensor,
    margin: Margin,
    prior: Tensor | None = None,
    *,
    steps: int = 20000,
    rate: float | None = None,
    tolerance: float = 1e-13,
) -> Tensor:
    """Follow `update` until no logit moves by `tolerance`.

    Parameters
    ----------
    logits, wins, p_x, margin, prior
        As in `update`; training starts at `logits`.
    steps : int
        At most so many.
    rate : float, optional
        None: 1 over the largest slope that the update can have between two replies, so
        that no step overshoots.
    tolerance : float
        A step that is smaller is the last.

    Returns
    -------
    Tensor, shape (steps + 1, X, Y)
        Logits of every policy on the way.
    """
    path = [logits]
    if rate is None:
        rate = margin.safe_rate()
    for _ in range(steps):
        move = rate * update(path[-1], wins, p_x, margin, prior)
        path.append(path[-1] + move)
        if move.abs().max() < tolerance:
            break
    return torch.stack(path)


def rotation(
    logits: Tensor,
    wins: Tensor,
    p_x: Tensor,
    margin: Margin,
    prior: Tensor | None = None,
) -> float:
    """How much the update turns: the largest imaginary part of its eigenvalues.

    Parameters
    ----------
    logits, wins, p_x, margin, prior
        As in `update`.

    Returns
    -------
    float
        Among the eigenvalues of the update's Jacobian, relative to the largest modulus.
        Above 0: the update turns. Near rest, descent on a smooth function has real
        eigenvalues in whatever coordinates: its Jacobian is a positive definite matrix
        times a symmetric one.
    """

    def field(flat: Tensor) -> Tensor:
        return update(flat.reshape(logits.shape), wins, p_x, margin, prior).reshape(-1)

    jacobian = torch.autograd.functional.jacobian(field, logits.reshape(-1))
    values = torch.linalg.eigvals(jacobian).numpy()
    return float(np.abs(values.imag).max() / np.abs(values).max())
