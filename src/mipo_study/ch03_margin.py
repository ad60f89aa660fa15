"""Chapter 3: random pairs for its identities, gaps at rest, and its exercises.

Gaps are in nats per token. A pair's *target* is the gap that it is asked for: γ in the
code's convention, γ/β in the paper's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mipo import losses
from mipo.theory import margin
from mipo.theory.margin import Margin

Convention = Literal["code", "paper"]
SHOWN = (-0.5, 0.0, 0.5, 1.0, 2.0)  # gaps of the table of weights


@dataclass(frozen=True)
class Pairs:
    """Mean log-probs of B random pairs, nats per token; each of shape (B,).

    The reference agrees with the policy where there is no prompt.
    """

    chosen: Tensor
    rejected: Tensor
    chosen_alone: Tensor  # without the prompt
    rejected_alone: Tensor
    ref_chosen: Tensor
    ref_rejected: Tensor

    @property
    def delta(self) -> Tensor:
        """Δ, the gap of chosen over rejected."""
        return self.chosen - self.rejected

    @property
    def prior_gap(self) -> Tensor:
        """Δ0, the same gap without the prompt."""
        return self.chosen_alone - self.rejected_alone

    @property
    def delta_pmi(self) -> Tensor:
        """Δpmi, from the PMI of each reply."""
        of_chosen = self.chosen - self.chosen_alone
        return of_chosen - (self.rejected - self.rejected_alone)

    @property
    def ref_delta_pmi(self) -> Tensor:
        """Δpmi of the reference."""
        of_chosen = self.ref_chosen - self.chosen_alone
        return of_chosen - (self.ref_rejected - self.rejected_alone)

    @property
    def lifts(self) -> Tensor:
        """min(1, lift of the rejected reply / lift of the chosen one)."""
        of_chosen = torch.exp(self.chosen - self.chosen_alone)
        of_rejected = torch.exp(self.rejected - self.rejected_alone)
        return torch.clamp(of_rejected / of_chosen, max=1.0)


def random_pairs(n: int, seed: int) -> Pairs:
    """Pairs whose mean log-probs are anything between -4 and 0."""
    generator = torch.Generator().manual_seed(seed)
    draws = torch.rand((6, n), generator=generator, dtype=torch.float64)
    return Pairs(*(4 * draws - 4))


def split_apart(pairs: Pairs) -> float:
    """How far Δ is from Δpmi + Δ0; the largest of all pairs."""
    return _largest(pairs.delta - pairs.delta_pmi - pairs.prior_gap)


def bracket_apart(pairs: Pairs, beta: float) -> float:
    """How far DPO's loss is from that of Δpmi less the reference's; nats."""
    of_dpo = losses.dpo(
        pairs.chosen, pairs.rejected, pairs.ref_chosen, pairs.ref_rejected, beta=beta
    )
    gap = pairs.delta_pmi - pairs.ref_delta_pmi
    return _largest(of_dpo - torch.nn.functional.softplus(-beta * gap))


def lifts_apart(pairs: Pairs) -> float:
    """How far the released γ is from the one that is read off the lifts."""
    released = Margin()
    span = released.gamma_max - released.gamma_min
    return _largest(
        losses.gamma_decay(pairs.delta_pmi) - (released.gamma_min + span * pairs.lifts)
    )


def limits_apart() -> float:
    """How far γ is from its limits, at Δpmi far below 0, at 0 and far above."""
    far = torch.tensor([-50.0, 0.0, 60.0], dtype=torch.float64)
    released = Margin()
    high, low = released.gamma_max, released.gamma_min
    limits = torch.tensor([high, high, low], dtype=torch.float64)
    return _largest(losses.gamma_decay(far) - limits)


def weight_apart(pairs: Pairs, convention: Convention) -> float:
    """How far the weight is from the slope of the loss that is trained, over -β."""
    leaf = pairs.chosen.clone().requires_grad_()
    each = losses.rmipo(leaf, pairs.rejected, pairs.delta_pmi, convention=convention)
    (slope,) = torch.autograd.grad(each.sum(), leaf)
    of = Margin(convention=convention)
    return _largest(slope / -of.beta - of.weight(pairs.delta, pairs.delta_pmi))


def _largest(values: Tensor) -> float:
    return float(values.abs().max())


# ---- weights ----


def weight_table(margins: Mapping[str, Margin]) -> pd.DataFrame:
    """Weights at the gaps `SHOWN`, where Δpmi = Δ, and the gap with weight one half."""
    rows = {}
    for name, of in margins.items():
        row = {f"{gap:g}": float(of.weight(gap, gap)) for gap in SHOWN}
        rows[name] = row | {"w = ½ at": of.centre()}
    table = pd.DataFrame(rows).T
    table.index.name = "w at Δ ="
    return table


# ---- where training rests ----


def rest_curve(of: Margin, labels: Iterable[float], prior_gap: float = 0) -> np.ndarray:
    """Gap at rest for each chance p that A is preferred."""
    return np.array([of.rest(p, prior_gap) for p in labels])


def constant_rest(labels: Iterable[float], target: float, beta: float) -> np.ndarray:
    """The same for a constant target: SimPO's, or none at all (0)."""
    gaps = [margin.settled_gap(p, target, target, beta=beta) for p in labels]
    return np.array(gaps)


def followed(cases: Sequence[tuple[float, float]], of: Margin) -> list[float]:
    """Gaps after following the update from 0, step by step.

    Parameters
    ----------
    cases : sequence of (p, Δ0)
        Chance that A is preferred, and the gap without the prompt.
    of : Margin
        Its settings.

    Returns
    -------
    list of float
        Nats per token.
    """
    wins = torch.tensor([[[0, p], [1 - p, 0]] for p, _ in cases], dtype=torch.float64)
    prior = torch.tensor([[gap, 0] for _, gap in cases], dtype=torch.float64)
    start = torch.zeros(len(cases), 2, dtype=torch.float64)
    even = torch.ones(len(cases), dtype=torch.float64)
    last = margin.follow(start, wins, even, of, prior)[-1]
    return (last[:, 0] - last[:, 1]).tolist()


def followed_apart(cases: Sequence[tuple[float, float]], of: Margin) -> float:
    """How far the closed form, at the targets at rest, is from the followed gaps."""
    largest = 0.0
    for (p, prior_gap), d in zip(cases, followed(cases, of), strict=True):
        of_a = float(of.target(d - prior_gap))
        of_b = float(of.target(prior_gap - d))
        closed = margin.settled_gap(p, of_a, of_b, beta=of.beta)
        largest = max(largest, abs(closed - d))
    return largest


@dataclass(frozen=True)
class Descent:
    """The expected loss of one prompt with two replies, and the update on it.

    Attributes
    ----------
    gaps, losses : ndarray, shape (S,)
        The loss against the gap of A over B.
    lowest, rest : (float, float)
        Gap and loss where the loss is lowest, and where the update rests.
    path : ndarray, shape (T,)
        Loss along the update, from the lowest on.
    slope : float
        Of the loss at rest, γ not held fixed, nats per unit of a logit.
    push : float
        The update at rest; 0.
    """

    gaps: np.ndarray
    losses: np.ndarray
    lowest: tuple[float, float]
    rest: tuple[float, float]
    path: np.ndarray
    slope: float
    push: float


def descent(of: Margin, p: float, prior_gap: float, steps: int = 60) -> Descent:
    """Follow the update from the gap with the lowest loss.

    Parameters
    ----------
    of : Margin
        Its settings.
    p : float
        Chance that A is preferred.
    prior_gap : float
        Δ0.
    steps : int
        Of the update.

    Returns
    -------
    Descent
    """

    def loss(gap: Tensor) -> Tensor:
        of_a = of.loss(gap, gap - prior_gap)
        of_b = of.loss(-gap, prior_gap - gap)
        return p * of_a + (1 - p) * of_b

    def logits(gap: float) -> Tensor:
        return torch.tensor([[gap, 0.0]], dtype=torch.float64)

    rest = of.rest(p, prior_gap)
    gaps = torch.linspace(rest - 2, rest + 2, 801, dtype=torch.float64)
    values = loss(gaps)
    lowest = float(gaps[values.argmin()])
    world = (
        torch.tensor([[[0, p], [1 - p, 0]]], dtype=torch.float64),
        torch.ones(1, dtype=torch.float64),
        of,
        torch.tensor([prior_gap, 0.0], dtype=torch.float64),
    )
    path = margin.follow(logits(lowest), *world, steps=steps, rate=0.2)[:, 0]
    leaf = logits(rest).requires_grad_()
    (slope,) = torch.autograd.grad(
        margin.expected_loss(leaf, *world, detach=False), leaf
    )
    there = torch.tensor([lowest, rest], dtype=torch.float64)
    at_lowest, at_rest = loss(there).tolist()
    return Descent(
        gaps.numpy(),
        values.numpy(),
        (lowest, at_lowest),
        (rest, at_rest),
        loss(path[:, 0] - path[:, 1]).numpy(),
        float(slope[0, 0]),
        float(margin.update(logits(rest), *world).abs().max()),
    )


def turning(of: Margin) -> dict[str, float]:
    """How much the update turns near rest in a world whose rewards go round.

    Three prompts, three replies, Bradley-Terry labels with rewards 2, 1 and 0 in
    rotation.

    Returns
    -------
    dict
        {"policy" (ℓ0 of the policy in training) | "frozen": as `margin.rotation`}.
    """
    wins = margin.bradley_terry([[2, 1, 0], [0, 2, 1], [1, 0, 2]])
    even = torch.full((3,), 1 / 3, dtype=torch.float64)
    start = torch.zeros(3, 3, dtype=torch.float64)
    calm = margin.follow(start, wins, even, of)[-1]
    alike = torch.zeros(3, dtype=torch.float64)
    return {
        "policy": margin.rotation(calm, wins, even, of),
        "frozen": margin.rotation(calm, wins, even, of, alike),
    }


# ---- conventions and units ----


def simpo_apart(pairs: Pairs, convention: Convention) -> float:
    """How far RMiPO is from SimPO with the raw γ of that convention; nats."""
    gamma = losses.gamma_decay(pairs.delta_pmi)
    raw = gamma * 2.0 if convention == "code" else gamma
    ours = losses.rmipo(
        pairs.chosen, pairs.rejected, pairs.delta_pmi, convention=convention
    )
    theirs = losses.simpo(pairs.chosen, pairs.rejected, beta=2.0, gamma=raw)
    return _largest(ours - theirs)


def conventions_apart(pairs: Pairs, beta: float) -> float:
    """The largest of the code's loss less the paper's; nats."""
    code, paper = (
        losses.rmipo(
            pairs.chosen, pairs.rejected, pairs.delta_pmi, beta=beta, convention=name
        )
        for name in ("code", "paper")
    )
    return float((code - paper).max())


def retokenised(of: Margin, k: float) -> Margin:
    """The settings with which k times as many tokens give the same loss.

    Every length shrinks by k; the paper's γ has none.
    """
    length = k if of.convention == "code" else 1.0
    return replace(
        of,
        beta=of.beta * k,
        gamma_min=of.gamma_min / length,
        gamma_max=of.gamma_max / length,
        scale=of.scale / k,
    )


# ---- answers of the exercises ----


def light_though_misranked(pairs: Pairs, of: Margin, constant: float) -> float:
    """Share of pairs that are misranked and yet weigh less than under a constant γ."""
    fixed = replace(of, gamma_min=constant, gamma_max=constant)
    weight = of.weight(pairs.delta, pairs.delta_pmi)
    lighter = weight < fixed.weight(pairs.delta, pairs.delta_pmi)
    return float((lighter & (pairs.delta < 0)).double().mean())


def says_a(of: Margin) -> float:
    """Chance of A to people who are indifferent, a fifth; the others prefer A 9 : 1."""
    wins = margin.bradley_terry([[0, 0], [np.log(9), 0]])
    shares = torch.tensor([0.2, 0.8], dtype=torch.float64)
    start = torch.zeros(2, 2, dtype=torch.float64)
    last = margin.follow(start, wins, shares, of)[-1]
    return float(last.softmax(-1)[0, 0])
