"""RMiPO's margin on pairs whose truth is known: the exact Δpmi, where γ lies, what it does to weights, how steady."""

import numpy as np
import torch

from mipo.evaluate.diversity import token_lengths
from mipo.theory.margin import Margin
from mipo.world import World
from mipo.worlds.grammar import TASKS
from mipo.worlds.scoring import as_person


def exact_delta_pmi(rows, records, tokenizer):
    r"""Exact PMI of the chosen reply less that of the rejected one, per token: (n,); nan where a reply is no sentence.

    PMI(y) = (log p(y|x,c) - log p(y)) / L,   p(y) = p(y|task) / (tasks · topics): what a reader of replies without
    prompts learns, since a sentence gives its task and topic away. L: tokens of the reply, its end included.

    rows     dicts with chosen, rejected and record, the number of theirs in `records`        units  nats per token
    """
    world = World()

    def pmi(reply, record, tokens):
        task, topic, who = record["task"], record["topic"], as_person(record)
        with_prompt = world.log_prob(reply, task, who, topic=topic)
        if not np.isfinite(with_prompt):
            return np.nan
        alone = world.log_prob(reply, task, topic=topic) - np.log(
            len(TASKS) * len(TASKS[task].topics)
        )
        return (with_prompt - alone) / tokens

    sides = []
    for side in ("chosen", "rejected"):
        tokens = token_lengths([row[side] for row in rows], tokenizer) + 1
        sides.append(
            np.array(
                [
                    pmi(row[side], records[row["record"]], n)
                    for row, n in zip(rows, tokens, strict=True)
                ]
            )
        )
    return sides[0] - sides[1]


def agreement(exact, model):
    """{r, slope, pairs} of a model's Δpmi on the exact one: Pearson's correlation, least-squares slope, without nan."""
    exact, model = np.asarray(exact, float), np.asarray(model, float)
    known = np.isfinite(exact) & np.isfinite(model)
    if known.sum() < 2 or np.ptp(exact[known]) == 0 or np.ptp(model[known]) == 0:
        raise ValueError(
            f"{known.sum()} pair(s) whose two values are known and vary; a correlation needs at least 2"
        )
    x, y = exact[known], model[known]
    return {
        "r": float(np.corrcoef(x, y)[0, 1]),
        "slope": float(np.polyfit(x, y, 1)[0]),
        "pairs": int(known.sum()),
    }


def gamma(delta_pmi, margin=Margin()):
    """γ of each pair as an array; see losses.gamma_decay."""
    return margin.gamma(torch.tensor(np.asarray(delta_pmi, float))).numpy()


def nearest(value, known):
    """Distance of a number from the nearest of the known ones."""
    return float(min(abs(value - k) for k in known))


def reweighting(gap, delta_pmi, margin=Margin()):
    r"""Mean weight w = 1 - σ(β·(Δ - target)) under γ(Δpmi), divided by that under a constant target of the same mean.

    learned: over pairs that the policy ranks as labelled (gap Δ > 0); hard: over the others. 1: the decay changes
    nothing; None where there is no such pair. all: over all pairs.

    shapes  twice (n,)        units  gap and delta_pmi in nats per token
    """
    gap, target = (
        torch.tensor(np.asarray(gap, float)),
        margin.target(np.asarray(delta_pmi, float)),
    )
    ours, plain = (
        torch.sigmoid(margin.beta * (level - gap)) for level in (target, target.mean())
    )
    groups = {
        "learned": gap > 0,
        "hard": gap <= 0,
        "all": torch.ones_like(gap, dtype=bool),
    }
    return {
        name: float(ours[kept].mean() / plain[kept].mean()) if kept.any() else None
        for name, kept in groups.items()
    }


def curve(log):
    """{gamma, gamma_std, delta_pmi, delta_pmi_std: one value per step} of what a run logged, for the figure."""
    names = [f"{name}{end}" for name in ("gamma", "delta_pmi") for end in ("", "_std")]
    return {name: [row[f"margin/{name}"] for row in log] for name in names}


def mean_of(log, name):
    """Mean over the steps of what a run logged as margin/<name>; of a diverged run, whose log is empty: γ_max or 0."""
    if not log:
        return Margin().gamma_max if name == "gamma" else 0.0
    return float(np.mean([row[f"margin/{name}"] for row in log]))


def unrest(log, name, share=0.2):
    """(early, late) variance of a signal among a step's pairs: median over the first `share` of the steps, and rest.

    name  "gamma" or "delta_pmi": `log` has the standard deviation over each step's pairs as margin/<name>_std. Medians,
          since one broken reply among a step's pairs outweighs the variance of all others.
    """
    cut = max(1, round(share * len(log)))
    if len(log) < 2 or cut >= len(log):
        raise ValueError(f"{len(log)} step(s) cannot be split at share {share!r}")
    variance = np.array([row[f"margin/{name}_std"] for row in log]) ** 2
    return float(np.median(variance[:cut])), float(np.median(variance[cut:]))
