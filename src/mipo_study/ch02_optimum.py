"""Chapter 2: optima for several rejected laws, what was sampled, and its exercises.

Contexts C and replies Y; every table has a row of replies for each context, and the
first C replies are the contexts' own favourites. Information is in nats.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import scipy.stats
import torch
from scipy.optimize import brentq, minimize_scalar

from mipo import information as info
from mipo import losses
from mipo.theory import differential, standstill, tabular

# The regions of claims c36 and c37, written down before either was measured.
AWAY = 0.01  # nats: a rejected law that far from the wanted one is another law
AGAINST = -0.1  # rank correlation of entropy and rise, at most, if the claim is right

# ---- DPO is a quiz ----


class Pairs(NamedTuple):
    """Log-probs of B pairs, in the order in which the losses take them; nats."""

    chosen: torch.Tensor
    rejected: torch.Tensor
    ref_chosen: torch.Tensor
    ref_rejected: torch.Tensor


def random_pairs(n: int, rng: np.random.Generator) -> Pairs:
    """Pairs whose log-probs are anything between -12 and -1 nats."""
    return Pairs(*torch.as_tensor(rng.uniform(-12, -1, (4, n))))


def loss_curves(h: np.ndarray, beta: float) -> tuple[np.ndarray, np.ndarray]:
    """DPO's loss at each gap h of the log-ratios, and log 2 less InfoNCE with N = 2."""
    gap, zero = torch.as_tensor(h), torch.zeros(len(h), dtype=torch.float64)
    dpo = losses.dpo(gap, zero, zero, zero, beta=beta).numpy()
    scores = np.column_stack([beta * h, 0 * h])
    return dpo, np.log(2) - info.infonce(scores)


# ---- the world of the chapter ----


def followers(contexts: int, crowd: np.ndarray, follow: float) -> np.ndarray:
    """Each context's own favourite with probability `follow`, else the crowd's law."""
    own = np.eye(contexts, len(crowd))
    return follow * own + (1 - follow) * crowd


def own_share(policy: np.ndarray, p_c: np.ndarray) -> float:
    """Share of replies that are the favourite of their own context."""
    return float((p_c * np.diagonal(policy)).sum())


def optimum(p: np.ndarray, rejected: np.ndarray, beta: float) -> np.ndarray:
    """DPO's optimum with own replies chosen and this law rejected."""
    return info.tilted_optimum(p, info.log_ratio(p, rejected), beta)


# ---- information rises, or falls ----


def chain(p: np.ndarray, p_c: np.ndarray, betas: Iterable[float]) -> np.ndarray:
    """I of the optimum, PMI that the reference reads there, and I of the reference.

    Returns
    -------
    ndarray, shape (len(betas), 3)
        With random contexts; each row falls.
    """
    start = float(info.mutual_information(p, p_c))
    rows = []
    for beta in betas:
        best = optimum(p, info.marginal(p, p_c), beta)
        reached = float(info.mutual_information(best, p_c))
        rows.append([reached, info.expected_pmi(best, p, p_c), start])
    return np.array(rows)


def largest_rise_in_the_chain(worlds: int, rng: np.random.Generator) -> float:
    """How far the chain is ever out of order, over random worlds; at most 0: never."""
    largest = -np.inf
    for _ in range(worlds):
        p = 0.98 * rng.dirichlet(np.ones(5), 3) + 0.004
        p_c = rng.dirichlet(np.ones(3))
        (row,) = chain(p, p_c, [rng.uniform(0.1, 5)])
        largest = max(largest, np.diff(row).max())
    return float(largest)


def information_over_beta(
    p: np.ndarray, p_c: np.ndarray, rejected: np.ndarray, betas: Iterable[float]
) -> np.ndarray:
    """I of the optimum for one rejected law, for each β."""
    values = [info.mutual_information(optimum(p, rejected, b), p_c) for b in betas]
    return np.array(values)


# ---- which law do rejected replies follow? ----


def random_context_counts(
    p: np.ndarray, p_c: np.ndarray, draws: int, rng: np.random.Generator
) -> np.ndarray:
    """Draw own and other context independently, then a reply to the other one.

    Returns
    -------
    ndarray, shape (C, Y)
        How often each reply was rejected for each own context.
    """
    contexts, replies = p.shape
    own, other = rng.choice(contexts, (2, draws), p=p_c)
    below = p.cumsum(-1)[other] < rng.random((draws, 1))
    reply = below.sum(-1).clip(max=replies - 1)
    counts = np.bincount(own * replies + reply, minlength=contexts * replies)
    return counts.reshape(contexts, replies)


def law_counts(
    law: np.ndarray, p_c: np.ndarray, draws: int, rng: np.random.Generator
) -> np.ndarray:
    """The same for rejected replies of any law, one row per own context."""
    chance = p_c[:, None] * law
    return rng.multinomial(draws, chance.ravel()).reshape(chance.shape)


def p_value(counts: np.ndarray, p_c: np.ndarray, q: np.ndarray) -> float:
    """Of a chi-square test that own context and rejected reply follow p(c)·q(y)."""
    expected = counts.sum() * p_c[:, None] * q
    return float(scipy.stats.chisquare(counts.ravel(), expected.ravel()).pvalue)


def p_values(
    p: np.ndarray,
    p_c: np.ndarray,
    laws: Mapping[str, np.ndarray],
    draws: int,
    seeds: Iterable[int],
) -> dict[str, np.ndarray]:
    """Tests of random contexts and of other rejected laws, one per seed."""
    q = info.marginal(p, p_c)
    values: dict[str, list[float]] = {"random": [], **{name: [] for name in laws}}
    for seed in seeds:
        rng = np.random.default_rng([seed, 5])
        counts = random_context_counts(p, p_c, draws, rng)
        values["random"].append(p_value(counts, p_c, q))
        for name, law in laws.items():
            counts = law_counts(law, p_c, draws, rng)
            values[name].append(p_value(counts, p_c, q))
    return {name: np.array(each) for name, each in values.items()}


def forcing_cost(contexts: int, follow: float) -> float:
    """KL of the optimum from the one where c' ≠ c is forced, at β = 1, nats.

    All contexts are equally frequent; a reply is the context's own with probability
    `follow`, else anybody's.
    """
    p_c = np.full(contexts, 1 / contexts)
    p = followers(contexts, p_c, follow)
    free = optimum(p, info.marginal(p, p_c), 1.0)
    forced = optimum(p, info.leave_one_out(p, p_c), 1.0)
    return float(info.kl(free, forced).mean())


# ---- which rejected law leads where one wants? ----


class Nearest(NamedTuple):
    """The best that one kind of rejected replies can do for a wanted policy."""

    beta: float  # at which DPO's optimum comes nearest
    policy_away: float  # KL from the wanted policy to that optimum, nats
    law_away: float  # KL from the rejected law to the one that is wanted there, nats


def nearest(
    p: np.ndarray, p_c: np.ndarray, rejected: np.ndarray, wanted: np.ndarray
) -> Nearest:
    """Tune β so that DPO's optimum with these rejected replies comes nearest.

    Parameters
    ----------
    p, wanted : ndarray, shape (C, Y)
        The reference, which also writes the chosen replies, and the wanted policy.
    p_c : ndarray, shape (C,)
        Probability of each context: distances are means over contexts.
    rejected : ndarray, shape (C, Y)
        Law of the rejected replies.

    Returns
    -------
    Nearest
    """

    def policy_away(log_beta: float) -> float:
        reached = optimum(p, rejected, float(np.exp(log_beta)))
        return float(p_c @ info.kl(wanted, reached))

    grid = np.linspace(np.log(0.05), np.log(50), 60)
    best = int(np.argmin([policy_away(value) for value in grid]))
    low, high = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    found = minimize_scalar(
        policy_away, bounds=(low, high), method="bounded", options={"xatol": 1e-10}
    )
    beta = float(np.exp(found.x))
    policy_off = max(float(found.fun), 0.0)  # rounding may dip below 0
    law = differential.rejected_law(p, wanted, beta)
    law_away = float(p_c @ info.kl(rejected, law))
    return Nearest(beta, policy_off, law_away)


def farthest_from_wanted(worlds: int, rng: np.random.Generator) -> float:
    """Train on the wanted rejected law in random worlds: the largest KL left, nats."""
    largest = 0.0
    for _ in range(worlds):
        p, wanted = 0.9 * rng.dirichlet(np.ones(5), 2) + 0.02
        beta = rng.uniform(0.5, 2)
        pairs = tabular.pair_law(p, differential.rejected_law(p, wanted, beta))
        reached = tabular.train_table(p, pairs, beta=beta).policy
        largest = max(largest, float(info.kl(wanted, reached)))
    return largest


# ---- what becomes of the chosen replies? ----

EVEN = (0.1, 3.0)  # Dirichlet parameters of the laws, drawn evenly on a log scale
DISTANCE = 0.2  # nats: KL(π*‖π_ref) at which strengths are compared
CASES = {
    "any wanted policy": "any",
    "MIPO, β = 1": "mipo",
    "MIPO, equal KL": "mipo_equal",
    "labels, equal KL": "labels",
}  # case: short name


def displaced(worlds: int, rng: np.random.Generator, replies: int = 20) -> pd.DataFrame:
    """Entropy of q ∝ π*/π_ref and the rise of the chosen log-probs, in random worlds.

    Parameters
    ----------
    worlds : int
        Worlds of four contexts.
    rng : numpy.random.Generator
        Source of chance.
    replies : int
        Of each world.

    Returns
    -------
    DataFrame
        One row per context, world and one of `CASES`: case, entropy of q, rise (the
        mean over chosen replies, nats), falls (the share of chosen replies that became
        less likely).
    """
    rows = []
    for _ in range(worlds):
        for case, chosen, p, policy in _cases(rng, replies):
            law = differential.differential_law(p, policy)
            values = {
                "entropy": info.entropy(law),
                "rise": differential.displacement(chosen, p, policy),
                "falls": (chosen * (policy < p)).sum(-1),
            }
            rows.append(pd.DataFrame(values).assign(case=case))
    return pd.concat(rows, ignore_index=True)


def _random_laws(rng: np.random.Generator, replies: int) -> np.ndarray:
    """Laws of four contexts, from peaked to even."""
    low, high = np.log(EVEN)
    even = np.exp(rng.uniform(low, high))
    laws = rng.dirichlet(np.full(replies, even), 4)
    return 0.99 * laws + 0.01 / replies


def _cases(rng: np.random.Generator, replies: int) -> Iterable[tuple]:
    """(case, law of the chosen replies, reference, optimum) of one random world."""
    p, p_c = _random_laws(rng, replies), rng.dirichlet(np.full(4, 2.0))
    yield "any wanted policy", p, p, _random_laws(rng, replies)
    pmi = info.pmi(p, p_c)
    yield "MIPO, β = 1", p, p, info.tilted_optimum(p, pmi, 1.0)
    yield "MIPO, equal KL", p, p, at_distance(p, pmi, DISTANCE)
    rewards = rng.normal(size=p.shape)
    winners = differential.labelled_pairs(p, rewards).sum(-1)
    yield "labels, equal KL", winners, p, at_distance(p, rewards, DISTANCE)


def at_distance(p: np.ndarray, gains: np.ndarray, distance: float) -> np.ndarray:
    """Tilt each row of p by its gains until KL(tilted‖p) is `distance` nats.

    A row that cannot get so far is tilted as far as it goes.
    """
    tilted = np.empty_like(p)
    for row in range(len(p)):
        tilted[row] = _row_at_distance(p[row], gains[row], distance)
    return tilted


def _row_at_distance(p: np.ndarray, gains: np.ndarray, distance: float) -> np.ndarray:
    def beyond(log_strength: float) -> float:
        tilted = info.tilted_optimum(p, gains, float(np.exp(-log_strength)))
        return float(info.kl(tilted, p)) - distance

    weakest, strongest = -12.0, 3.0  # further out, probabilities underflow
    if beyond(strongest) <= 0:
        return info.tilted_optimum(p, gains, float(np.exp(-strongest)))
    found: Any = brentq(beyond, weakest, strongest, xtol=1e-12)
    return info.tilted_optimum(p, gains, float(np.exp(-found)))


def rank_correlations(rows: pd.DataFrame) -> pd.DataFrame:
    """Spearman's rank correlation of the entropy with rise and falls.

    Parameters
    ----------
    rows : DataFrame
        As of `displaced`, with a column seed.

    Returns
    -------
    DataFrame
        Indexed by case and seed; columns rise and falls.
    """
    found = {}
    for key, group in rows.groupby(["case", "seed"]):
        found[key] = {
            name: scipy.stats.spearmanr(group["entropy"], group[name]).statistic
            for name in ("rise", "falls")
        }
    frame = pd.DataFrame(found).T
    frame.index.names = ["case", "seed"]
    return frame


# ---- losses that cannot move ----


def slopes_at_the_start(
    p: np.ndarray, p_c: np.ndarray, temperatures: Sequence[float] = (1, 8, 100)
) -> dict[str, float]:
    """The largest slope of each expected loss where training starts, nats per logit."""
    here = {"p_ref": p, "p_c": p_c}
    every: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "SFT on own replies": partial(standstill.expected_sft_loss, **here),
        "DPO, random context": partial(standstill.expected_pair_loss, **here, beta=1.0),
    }
    for temperature in temperatures:
        every[f"InfoNCE over contexts, T = {temperature:g}"] = partial(
            standstill.expected_context_loss, **here, temperature=temperature
        )
    slopes = {name: standstill.slope_at(p, loss) for name, loss in every.items()}
    return {name: float(np.abs(slope).max()) for name, slope in slopes.items()}


# ---- whole replies against token by token ----


class Slots(NamedTuple):
    """A reply of two slots for one person, with and without knowing the person."""

    law: np.ndarray  # (A, B)
    marginal: np.ndarray  # (A, B)


def two_slots(right: float = 0.8) -> dict[str, Slots]:
    """Two slots, each right with the same chance, of different or of one attribute.

    An attribute has two values, equally frequent; with different attributes the
    marginal is even, with a shared one both slots are right or wrong together.
    """
    each = np.array([right, 1 - right])
    law = np.outer(each, each)
    shared = (law + law[::-1, ::-1]) / 2
    even = np.full((2, 2), 0.25)
    return {
        "different attributes": Slots(law, even),
        "shared attribute": Slots(law, shared),
    }


def token_gap(slots: Slots, alpha: float) -> float:
    """KL from decoding token by token to the tilt of whole replies, nats."""
    by_token = info.token_tilted(slots.law, slots.marginal, alpha).ravel()
    ratio = np.log(slots.law / slots.marginal).ravel()
    whole = info.tilted_optimum(slots.law.ravel(), ratio, 1 / alpha)
    return float(info.kl(by_token, whole))


def second_normaliser(slots: Slots, alpha: float = 1.0) -> np.ndarray:
    """Log normaliser of the second step after each first slot, nats."""
    p = slots.law / slots.law.sum(-1, keepdims=True)
    q = slots.marginal / slots.marginal.sum(-1, keepdims=True)
    return np.log((p ** (1 + alpha) * q**-alpha).sum(-1))


# ---- few pairs, many steps ----


def distances_on_the_way(
    p: np.ndarray,
    p_c: np.ndarray,
    sizes: Sequence[int],
    seeds: int,
    steps: int,
    rng: np.random.Generator,
) -> dict[str, np.ndarray]:
    """KL of the true optimum from tables that are trained on few sampled pairs, β = 1.

    Returns
    -------
    dict
        {"50 pairs": ndarray of shape (steps, seeds), …, "all pairs": (steps, 1)}, nats,
        means over contexts.
    """
    q = info.marginal(p, p_c)
    best = optimum(p, q, 1.0)
    law = p_c[:, None, None] * tabular.pair_law(p, q)
    heaps = {}
    for n in sizes:
        drawn = rng.multinomial(n, law.ravel(), size=seeds) / n
        heaps[f"{n} pairs"] = drawn.reshape(seeds, *law.shape)
    heaps["all pairs"] = law[None]
    away = {}
    for name, pairs in heaps.items():
        path = tabular.train_table(p, pairs, beta=1.0, steps=steps, lr=2.0).path
        away[name] = (p_c * info.kl(best, path)).sum(-1)[1:]
    return away


# ---- temperature ----


def own_shares_by_temperature(
    p: np.ndarray, p_c: np.ndarray, temperatures: Iterable[float]
) -> tuple[list[float], list[float]]:
    """Own share of the sampler and of the optimum at β = 1, at each temperature."""
    sampler, reached = [], []
    for temperature in temperatures:
        cold = info.sharpen(p, temperature)
        ratio = info.log_ratio(cold, info.marginal(cold, p_c))
        sampler.append(own_share(cold, p_c))
        reached.append(own_share(info.tilted_optimum(p, ratio, 1.0), p_c))
    return sampler, reached


# ---- answers of the exercises ----


def moved_by_dropping_equal_pairs(p: np.ndarray, p_c: np.ndarray) -> float:
    """KL between the optima with and without pairs of equal replies, nats."""
    q = info.marginal(p, p_c)
    differing = tabular.pair_law(p, q) * (1 - np.eye(p.shape[-1]))
    reached = tabular.train_table(p, differing, beta=1.0).policy
    return float(info.kl(optimum(p, q, 1.0), reached).max())


def student_of(p: np.ndarray, p_c: np.ndarray) -> str:
    """Where a model that ignores the context ends on another's pairs, at β = 1."""
    q = info.marginal(p, p_c)
    student = tabular.train_table(q, tabular.pair_law(p, q), beta=1.0).policy
    return "the teacher" if info.kl(p, student).max() < 1e-6 else "elsewhere"


def two_rounds(p: np.ndarray, p_c: np.ndarray) -> np.ndarray:
    """MIPO twice at β = 2: the second round starts at the first optimum."""
    once = optimum(p, info.marginal(p, p_c), 2.0)
    return optimum(once, info.marginal(once, p_c), 2.0)
