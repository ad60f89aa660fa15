"""Chapter 10: exact Δpmi of labelled pairs, and how RMiPO's margin weighs them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import ArrayLike

from mipo.evaluate import token_lengths
from mipo.theory.margin import Margin
from mipo.world import World
from mipo.worlds.grammar import TASKS
from mipo.worlds.scoring import as_person

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SIDES = ("chosen", "rejected")


def exact_delta_pmi(
    rows: Sequence[Mapping],
    examples: Sequence[Mapping],
    tokenizer: PreTrainedTokenizerBase,
) -> np.ndarray:
    r"""Exact PMI of the chosen reply less that of the rejected one, per token.

    Parameters
    ----------
    rows : sequence of dict
        Labelled pairs: chosen, rejected, and example, their place in `examples`.
    examples : sequence of dict
        The prompts that the pairs answer.
    tokenizer : PreTrainedTokenizerBase
        Counts the tokens of a reply.

    Returns
    -------
    ndarray, shape (n,)
        Nats per token; nan where a reply is no sentence of the grammar.

    Notes
    -----
    PMI(y) = (log p(y|x,c) - log p(y)) / L, where p(y) = p(y|task) / (tasks · topics) is
    what a reader of replies without prompts learns, since a sentence gives its task and
    topic away, and L counts the tokens of the reply, its end included. eq-pmi-per-token
    in chapter 10.
    """
    pmis = {side: _exact_pmi(rows, side, examples, tokenizer) for side in SIDES}
    return pmis["chosen"] - pmis["rejected"]


def _exact_pmi(
    rows: Sequence[Mapping],
    side: str,
    examples: Sequence[Mapping],
    tokenizer: PreTrainedTokenizerBase,
) -> np.ndarray:
    world = World()
    tokens = token_lengths([row[side] for row in rows], tokenizer) + 1
    pmis = []
    for row, length in zip(rows, tokens, strict=True):
        example, reply = examples[row["example"]], row[side]
        task, topic = example["task"], example["topic"]
        with_prompt = world.log_prob(reply, task, as_person(example), topic=topic)
        if not np.isfinite(with_prompt):
            pmis.append(np.nan)
            continue
        prompts = len(TASKS) * len(TASKS[task].topics)
        alone = world.log_prob(reply, task, topic=topic) - np.log(prompts)
        pmis.append((with_prompt - alone) / length)
    return np.array(pmis)


def agreement(exact: ArrayLike, model: ArrayLike) -> dict[str, float]:
    """How well a model's Δpmi follows the exact one, over pairs where both are known.

    Parameters
    ----------
    exact, model : array_like, shape (n,)
        Nats per token; nan where a value is not known.

    Returns
    -------
    dict
        r (Pearson's correlation), slope (least squares, of the model's on the exact),
        pairs (how many).

    Raises
    ------
    ValueError
        Where fewer than two pairs are known, or all are alike.
    """
    x, y = np.asarray(exact, float), np.asarray(model, float)
    known = np.isfinite(x) & np.isfinite(y)
    x, y = x[known], y[known]
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        raise ValueError(
            f"{len(x)} pair(s) whose two values are known and vary; "
            "a correlation needs at least 2"
        )
    return {
        "r": float(np.corrcoef(x, y)[0, 1]),
        "slope": float(np.polyfit(x, y, 1)[0]),
        "pairs": len(x),
    }


def reweighting(
    gap: ArrayLike, delta_pmi: ArrayLike, margin: Margin = Margin()
) -> dict[str, float | None]:
    r"""Mean weight under γ(Δpmi) over that under a constant target of the same mean.

    Parameters
    ----------
    gap, delta_pmi : array_like, shape (n,)
        Of each pair, nats per token.
    margin : Margin
        RMiPO's.

    Returns
    -------
    dict
        learned: over pairs that the policy ranks as labelled (gap Δ > 0); hard: over
        the others; all. 1: the decay changes nothing; None where there is no such pair.

    Notes
    -----
    w = 1 - σ(β·(Δ - target)); eq-weight in chapter 3.
    """
    delta = torch.tensor(np.asarray(gap, float))  # (n,)
    target = margin.target(np.asarray(delta_pmi, float))
    decaying = torch.sigmoid(margin.beta * (target - delta))
    constant = torch.sigmoid(margin.beta * (target.mean() - delta))
    every = torch.ones_like(delta, dtype=torch.bool)
    groups = {"learned": delta > 0, "hard": delta <= 0, "all": every}
    ratios: dict[str, float | None] = {}
    for name, rows in groups.items():
        ratio = decaying[rows].mean() / constant[rows].mean()
        ratios[name] = float(ratio) if rows.any() else None
    return ratios


def curve(log: Sequence[Mapping]) -> dict[str, list[float]]:
    """γ and Δpmi at each step of a run, and their spread among its pairs (`_std`)."""
    names = ("gamma", "gamma_std", "delta_pmi", "delta_pmi_std")
    return {name: logged(log, name) for name in names}


def logged(log: Sequence[Mapping], name: str) -> list[float]:
    """What a run logged as margin/<name>, a value per step."""
    return [row[f"margin/{name}"] for row in log]


def mean_of(log: Sequence[Mapping], name: str) -> float:
    """Mean of what a run logged; of a diverged run, whose log is empty, γ_max or 0."""
    if not log:
        return Margin().gamma_max if name == "gamma" else 0.0
    return float(np.mean(logged(log, name)))


def unrest(
    log: Sequence[Mapping], name: str, share: float = 0.2
) -> tuple[float, float]:
    """Variance of a signal among a step's pairs, early and late.

    Parameters
    ----------
    log : sequence of dict
        A row per step with the standard deviation over its pairs as margin/<name>_std.
    name : str
        "gamma" or "delta_pmi".
    share : float
        Of the steps that count as early.

    Returns
    -------
    early, late : float
        Medians over steps, since one broken reply among a step's pairs outweighs the
        variance of all others; nats² per token².

    Raises
    ------
    ValueError
        Where one of the two parts would have no step.
    """
    cut = max(1, round(share * len(log)))
    if len(log) < 2 or cut >= len(log):
        raise ValueError(f"{len(log)} step(s) cannot be split at share {share!r}")
    variance = np.array(logged(log, f"{name}_std")) ** 2
    return float(np.median(variance[:cut])), float(np.median(variance[cut:]))
