"""Preferences in the small world: two replies of one model, labelled by the exact checker with Bradley-Terry noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from scipy.special import expit

from mipo.data import render
from mipo.logprobs import prompt_pmi, response_logps
from mipo.worlds import scoring
from mipo.worlds.language_model import sample_replies


def worth(replies: Sequence[str], examples: Sequence[Mapping]) -> np.ndarray:
    """The checker's score of each reply: its adherence, or -1 outside the grammar; (n,)."""
    scores = scoring.score(replies, examples)
    return np.where(scores["valid"] == 1, scores["adherence"], -1.0)


def label(
    first: Sequence[str],
    second: Sequence[str],
    examples: Sequence[Mapping],
    *,
    strength: float = 4.0,
    flips: float = 0.0,
    seed: int = 0,
) -> list[dict[str, Any]]:
    r"""Which of two replies is chosen, for the prompts whose two replies differ.

    Parameters
    ----------
    first, second : sequence of str
        Two replies to the prompt of each example.
    strength : float
        Log-odds of the label per unit of worth; above 0.
    flips : float
        Share of labels that are turned round on top, below one half.
    seed : int
        Of the labels.

    Returns
    -------
    list of dict
        first_wins; wrong (the chosen reply is worth less); example (the prompt's index).

    Notes
    -----
    P(first is chosen) = sigmoid(strength · (worth(first) - worth(second))):
    Bradley and Terry.
    """
    if not 0 <= flips < 0.5:
        raise ValueError(
            f"flips={flips!r}: the share of wrong labels must be at least 0 "
            "and below one half"
        )
    if not strength > 0:
        raise ValueError(f"strength={strength!r} must be above 0")
    if not len(first) == len(second) == len(examples):
        raise ValueError(
            f"{len(first)} and {len(second)} replies for {len(examples)} examples"
        )
    rng = np.random.default_rng((seed, 5))
    gap = worth(first, examples) - worth(second, examples)
    wins = rng.random(len(examples)) < expit(strength * gap)
    # Drawn for every row: the same noise at every share.
    wins ^= rng.random(len(examples)) < flips
    lead = np.where(wins, gap, -gap)
    return [
        {"first_wins": bool(wins[i]), "wrong": bool(lead[i] < 0), "example": i}
        for i in range(len(examples))
        if first[i] != second[i]
    ]


def labelled_pairs(
    model,
    tokenizer,
    examples: Sequence[Mapping],
    *,
    strength: float,
    flips: float,
    seed: int,
    progress: bool = True,
) -> tuple[list[dict], dict[str, float]]:
    """Rows of labelled pairs and the metrics of `experiment.label_pairs`."""
    first, second = (
        sample_replies(model, tokenizer, examples, seed=2 * seed + i, progress=progress)
        for i in (0, 1)
    )
    marks = label(first, second, examples, strength=strength, flips=flips, seed=seed)
    prompts, replies = [], []
    for mark in marks:
        i = mark["example"]
        prompts.append(render(tokenizer, examples[i]["query"], examples[i]["context"]))
        both = [first[i], second[i]]
        replies.append(both if mark["first_wins"] else both[::-1])
    logps = response_logps(
        model, tokenizer, prompts, replies, batch_size=256, progress=progress
    ).summed.tolist()
    rows = [
        {
            "prompt": prompt,
            "chosen": chosen,
            "rejected": rejected,
            "ref_chosen_logps": chosen_logp,
            "ref_rejected_logps": rejected_logp,
            **mark,
        }
        for prompt, (chosen, rejected), (chosen_logp, rejected_logp), mark in zip(
            prompts, replies, logps, marks, strict=True
        )
    ]
    answered = [examples[mark["example"]] for mark in marks]
    chosen_worth = worth([chosen for chosen, _ in replies], answered)
    rejected_worth = worth([rejected for _, rejected in replies], answered)
    return rows, {
        "pairs": len(rows),
        "identical": len(examples) - len(rows),
        "wrong": float(np.mean([mark["wrong"] for mark in marks])),
        "tied": float(np.mean(chosen_worth == rejected_worth)),
    }


def gaps(
    model, tokenizer, rows, *, first_token: str = "start", progress: bool = True
) -> tuple[dict[str, list], dict[str, float]]:
    """What a policy makes of labelled pairs: one number per pair, and the metrics of `experiment.score_pairs`.

    Returns
    -------
    dict
        Nats per token: gap (mean log-prob of the chosen less that of the rejected),
        ratio_gap (the same against the base model), delta_pmi; and, where the pairs say
        `wrong`, right (the label does not go against the checker).
    dict
        accuracy, ratio_accuracy, chosen_drift, rejected_drift.
    """
    prompts = rows["prompt"][:]
    logps, drifts, pmis = {}, {}, {}
    for side in ("chosen", "rejected"):
        replies = rows[side][:]
        scored = response_logps(
            model, tokenizer, prompts, replies, batch_size=256, progress=progress
        )
        logps[side] = scored.mean
        reference = torch.tensor(rows[f"ref_{side}_logps"][:])
        drifts[side] = scored.mean - reference / scored.tokens
        pmis[side] = prompt_pmi(
            model, tokenizer, prompts, replies, first_token=first_token, batch_size=256
        )
    gap = logps["chosen"] - logps["rejected"]
    ratio_gap = drifts["chosen"] - drifts["rejected"]
    delta_pmi = pmis["chosen"] - pmis["rejected"]
    columns = {
        "gap": gap.double().tolist(),
        "ratio_gap": ratio_gap.double().tolist(),
        "delta_pmi": delta_pmi.double().tolist(),
    }
    if "wrong" in rows.column_names:
        columns["right"] = [not wrong for wrong in rows["wrong"]]
    return columns, {
        "accuracy": float((gap > 0).double().mean()),
        "ratio_accuracy": float((ratio_gap > 0).double().mean()),
        "chosen_drift": float(drifts["chosen"].mean()),
        "rejected_drift": float(drifts["rejected"].mean()),
    }
