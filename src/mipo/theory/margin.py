"""RMiPO's margin worked out: which gap it asks for, where its weight is one half, and where training comes to rest.

Everything is exact. Curves and tables are torch in float64, so that they can be differentiated; single numbers are
floats. Gaps are in nats per token. What is trained is `losses.rmipo`; here are its consequences.

    delta      Δ = ℓ(y_w|x) - ℓ(y_l|x), ℓ the mean log-prob per token
    delta_pmi  Δpmi = Δ - Δ0, where Δ0 (`prior_gap`) is the same difference without the prompt
    target     the gap that a pair is asked for: γ(Δpmi) for convention "code", γ(Δpmi)/β for "paper"
"""

import math
from dataclasses import asdict, dataclass

import numpy as np
import torch
from scipy.optimize import brentq
from scipy.special import lambertw
from torch import Tensor

from mipo import losses

# SimPO's tuned settings {set-up: (β, γ/β, raw γ as first printed)}. source: README of princeton-nlp/SimPO at 005072f
# for β and γ/β; arXiv:2405.14734 for γ. The ratios are rounded: β·(γ/β) is 0.25 and 1.375 where 0.3 and 1.4 are printed.
SIMPO_TUNED = {
    "Mistral-Base": (2.0, 0.8, 1.6),
    "Mistral-Instruct": (2.5, 0.1, 0.3),
    "Llama3-Base": (2.0, 0.5, 1.0),
    "Llama3-Instruct": (2.5, 0.55, 1.4),
}


def _tensor(values) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float64)


@dataclass(frozen=True)
class Margin:
    """The settings of one margin; gamma_min = gamma_max is SimPO. Errors: those of `losses.rmipo`."""

    beta: float = 2.0
    gamma_min: float = 0.3
    gamma_max: float = 1.6
    scale: float = 1.0
    convention: str = "code"

    def __post_init__(self):
        self.loss([0.0], [0.0])

    def loss(self, delta, delta_pmi) -> Tensor:
        """`losses.rmipo` as a function of the two gaps; γ has no gradient. Same shapes -> the same, nats."""
        delta, delta_pmi = torch.broadcast_tensors(_tensor(delta), _tensor(delta_pmi))
        flat = losses.rmipo(
            delta.reshape(-1),
            torch.zeros(delta.numel(), dtype=torch.float64),
            delta_pmi.reshape(-1),
            **asdict(self),
        )
        return flat.reshape(delta.shape)

    def gamma(self, delta_pmi) -> Tensor:
        """`losses.gamma_decay` with these settings."""
        return losses.gamma_decay(
            _tensor(delta_pmi),
            gamma_min=self.gamma_min,
            gamma_max=self.gamma_max,
            scale=self.scale,
        )

    def target(self, delta_pmi) -> Tensor:
        """The gap asked for, nats per token: γ ("code") or γ/β ("paper"); this is SimPO's γ/β in either case."""
        return self.gamma(delta_pmi) / self._divisor()

    def weight(self, delta, delta_pmi) -> Tensor:
        """w = 1 - σ(β·(Δ - target)), in 0..1: the slope of the loss in Δ is -β·w. γ HAS a gradient here.

        theory  eq-weight (03-gamma-decay)         limits  Δ = target: 1/2;  Δ -> -inf: 1;  Δ -> inf: 0
        """
        return torch.sigmoid(self.beta * (self.target(delta_pmi) - _tensor(delta)))

    def needed_pmi(self, gamma: float) -> float:
        """The Δpmi at which γ(Δpmi) = gamma: scale·log((γ_max - γ_min)/(gamma - γ_min)), nats per token.

        limits  gamma = γ_max: 0 (and below);  gamma = γ_min: inf, never quite reached;  outside [γ_min, γ_max]: nan
        """
        if not self.gamma_min <= gamma <= self.gamma_max:
            return math.nan
        if gamma == self.gamma_min:
            return math.inf
        return self.scale * math.log(
            (self.gamma_max - self.gamma_min) / (gamma - self.gamma_min)
        )

    def centre(self, prior_gap: float = 0.0) -> float:
        """The Δ at which w = 1/2 when Δpmi = Δ - prior_gap moves with Δ, nats per token.

        Solves Δ = target(Δ - prior_gap): target(0) if that is at most prior_gap; otherwise, with k = 1 ("code") or β
        ("paper") and r = γ_max - γ_min, Δ = γ_min/k + s·W(r/(s·k)·e^((prior_gap - γ_min/k)/s)), W Lambert's function.
        """
        low, high = self.gamma_min / self._divisor(), self.gamma_max / self._divisor()
        if high <= prior_gap or low == high:
            return high
        return low + self.scale * float(
            lambertw(
                (high - low) / self.scale * math.exp((prior_gap - low) / self.scale)
            ).real
        )

    def rest(self, p: float, prior_gap: float = 0.0) -> float:
        """Gap d between replies A and B at which the update rests if labels prefer A with chance p, nats per token.

        The root of p·w(d, d - Δ0) - (1-p)·w(-d, Δ0 - d), Δ0 = prior_gap held fixed. It falls strictly in d, so there is
        one root, no further from log(p/(1-p))/β than the largest target.
        theory  eq-rest (03-gamma-decay)           errors  ValueError unless 0 < p < 1
        """
        middle = _log_odds(p) / self.beta
        reach = max(abs(self.gamma_min), abs(self.gamma_max)) / self._divisor() + 1e-9

        def push(d):
            return float(
                p * self.weight(d, d - prior_gap)
                - (1 - p) * self.weight(-d, prior_gap - d)
            )

        return float(
            brentq(push, middle - reach, middle + reach, xtol=1e-14, rtol=1e-14)
        )

    def _divisor(self):
        return 1.0 if self.convention == "code" else self.beta


def _log_odds(p):
    if not 0 < p < 1:
        raise ValueError(
            f"p must lie strictly between 0 and 1, else the gap grows for ever; got {p!r}"
        )
    return math.log(p) - math.log1p(-p)


def settled_gap(p: float, target_a: float, target_b: float, *, beta: float) -> float:
    r"""Closed form of where two replies settle if "A over B" (chance p) asks for target_a, "B over A" for target_b.

    d = (a - b)/2 + (L/2 + arsinh(e^(β(a + b)/2)·sinh(L/2)))/β,   L = log(p/(1-p))

    theory  eq-settled (03-gamma-decay)            units   d, a, b in nats per token
    limits  a = b = 0: L/β, Bradley-Terry;   p = 1/2: (a - b)/2;   a = b -> inf, p > 1/2: a + log(p/(1-p) - 1)/β
    errors  ValueError unless 0 < p < 1 and β > 0
    """
    if not beta > 0:
        raise ValueError(f"beta must be above 0; got {beta!r}")
    half = _log_odds(p) / 2
    amplified = math.asinh(math.exp(beta * (target_a + target_b) / 2) * math.sinh(half))
    return (target_a - target_b) / 2 + (half + amplified) / beta


# ---- policies as tables: one reply is one token, a row of logits per prompt ----


def bradley_terry(rewards) -> Tensor:
    """Chance that the pair is (i chosen, j rejected): every pair equally often, labelled σ(r_i - r_j).

    shapes  (X, Y) rewards in nats -> (X, Y, Y); each prompt's table sums to 1, its diagonal is 0
    """
    rewards = _tensor(rewards)
    wins = torch.sigmoid(rewards[..., :, None] - rewards[..., None, :]) * (
        1 - torch.eye(rewards.shape[-1])
    )
    return wins / wins.sum((-2, -1), keepdim=True)


def gaps(
    logits: Tensor, p_x: Tensor, prior: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """(Δ, Δpmi) of every pair "i over j": (X, Y) logits, (X,) weights of prompts -> twice (X, Y, Y), nats.

    prior  (Y,) log-probs of the replies without prompt, or (X, Y); None: the policy's own, log Σ_x p(x)·π(y|x)
    """
    logp = logits.log_softmax(-1)
    if prior is None:
        prior = torch.logsumexp(p_x.log()[:, None] + logp, 0)
    delta = logp[:, :, None] - logp[:, None, :]
    return delta, delta - (prior[..., :, None] - prior[..., None, :])


def update(
    logits: Tensor,
    wins: Tensor,
    p_x: Tensor,
    margin: Margin,
    prior: Tensor | None = None,
) -> Tensor:
    """E[w·∇Δ]: where a gradient step on the expected loss, γ detached, moves the logits, divided by β. -> (X, Y).

    theory  eq-fixed-point (03-gamma-decay)        shapes  wins (X, Y, Y) as `bradley_terry`, p_x (X,)
    γ is not detached inside, so that this field can itself be differentiated.
    """
    push = (
        p_x[:, None, None] * wins * margin.weight(*gaps(logits, p_x, prior))
    )  # (X, Y, Y): i gains what j loses
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
    """E[rmipo], nats per pair. detach=False lets gradients see γ, which the method does not: the same value."""
    delta, delta_pmi = gaps(logits, p_x, prior)
    each = (
        margin.loss(delta, delta_pmi)
        if detach
        else losses.simpo(
            delta.reshape(-1),
            torch.zeros(delta.numel(), dtype=torch.float64),
            beta=margin.beta,
            gamma=margin.beta * margin.target(delta_pmi).reshape(-1),
        ).reshape(delta.shape)
    )
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
    """Steps of `update` until no logit moves by `tolerance`: every policy on the way, (steps+1, X, Y) logits.

    rate  None: 1 over the largest slope that the update can have between two replies, so that no step overshoots
    """
    path = [logits]
    if rate is None:
        rate = (
            2
            / margin.beta
            / (
                1
                + (margin.gamma_max - margin.gamma_min)
                / margin._divisor()
                / margin.scale
            )
        )
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
    """Largest imaginary part among the eigenvalues of the update's Jacobian, relative to the largest modulus.

    Above 0: the update turns. Near rest, descent on a smooth function has real eigenvalues in whatever coordinates: its
    Jacobian is a positive definite matrix times a symmetric one.
    """

    def field(flat):
        return update(flat.reshape(logits.shape), wins, p_x, margin, prior).reshape(-1)

    values = torch.linalg.eigvals(
        torch.autograd.functional.jacobian(field, logits.reshape(-1))
    ).numpy()
    return float(np.abs(values.imag).max() / np.abs(values).max())
