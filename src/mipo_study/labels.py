"""Preferences in the small world: two replies of one model, labelled by its checker.

The labels carry Bradley-Terry noise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.special import expit

from mipo.data import render
from mipo.lm.sampling import shares
from mipo.logprobs import prompt_pmi, response_logps
from mipo.pairs import as_sampled
from mipo.worlds import scoring
from mipo.worlds.language_model import sample

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Example = Mapping[str, Any]


def worth(replies: Sequence[str], examples: Sequence[Example]) -> np.ndarray:
    """The checker's score of each reply: adherence, or -1 outside the grammar; (n,)."""
    scores = scoring.score(replies, examples)
    return np.where(scores["valid"] == 1, scores["adherence"], -1.0)


def label(
    first: Sequence[str],
    second: Sequence[str],
    examples: Sequence[Example],
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
        first_wins; wrong (the chosen reply is worth less); example (index of the
        prompt).

    Raises
    ------
    ValueError
        For a strength or share out of range, and lists of unequal length.

    Notes
    -----
    P(first is chosen) = sigmoid(strength · (worth(first) - worth(second))):
    Bradley and Terry (1952), "Rank analysis of incomplete block designs".
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
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Example],
    *,
    strength: float,
    flips: float,
    seed: int,
    progress: bool = True,
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Two replies to the prompt of each example, and which of them is chosen.

    Parameters
    ----------
    model, tokenizer
        What answers, at temperature 1.
    examples : sequence of dict
        Each with query and context.
    strength, flips
        Of the labels; see `label`.
    seed : int
        Of the replies and the labels.
    progress : bool
        Show bars.

    Returns
    -------
    rows : list of dict
        prompt, chosen, rejected; chosen_tokens and rejected_tokens, their ids as
        sampled; ref_chosen_logps and ref_rejected_logps, the model's own log-probs
        (nats, summed over tokens); example, wrong, first_wins.
    metrics : dict
        pairs; identical (prompts dropped); wrong, tied (shares); cut, respelt (shares
        of replies, see `mipo.lm.sampling.shares`).
    """
    first, second = (
        sample(model, tokenizer, examples, seed=2 * seed + i, progress=progress)
        for i in (0, 1)
    )
    marks = label(
        [reply.text for reply in first],
        [reply.text for reply in second],
        examples,
        strength=strength,
        flips=flips,
        seed=seed,
    )
    prompts, replies = [], []
    for mark in marks:
        i = mark["example"]
        prompts.append(render(tokenizer, examples[i]["query"], examples[i]["context"]))
        both = [first[i], second[i]]
        replies.append(both if mark["first_wins"] else both[::-1])
    ids = [[reply.ids for reply in both] for both in replies]
    logps = response_logps(
        model, tokenizer, prompts, ids, batch_size=256, progress=progress
    ).summed.tolist()
    rows = []
    for i, mark in enumerate(marks):
        row = {"prompt": prompts[i]}
        row["chosen"], row["rejected"] = (reply.text for reply in replies[i])
        row["chosen_tokens"], row["rejected_tokens"] = ids[i]
        row["ref_chosen_logps"], row["ref_rejected_logps"] = logps[i]
        rows.append(row | mark)
    answered = [examples[row["example"]] for row in rows]
    chosen, rejected = ([both[side] for both in replies] for side in (0, 1))
    chosen_worth = worth([reply.text for reply in chosen], answered)
    rejected_worth = worth([reply.text for reply in rejected], answered)
    return rows, {
        "pairs": len(rows),
        "identical": len(examples) - len(rows),
        "wrong": float(np.mean([mark["wrong"] for mark in marks])),
        "tied": float(np.mean(chosen_worth == rejected_worth)),
        **shares(tokenizer, [*prompts, *prompts], [*chosen, *rejected]),
    }


def gaps(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Dataset,
    *,
    first_token: str = "start",
    progress: bool = True,
) -> tuple[dict[str, list], dict[str, float]]:
    """What a policy makes of labelled pairs.

    Parameters
    ----------
    model, tokenizer
        The policy.
    rows : Dataset
        Pairs of `labelled_pairs`.
    first_token : str
        How the first token counts in PMI; see `mipo.logprobs.response_pmi`.
    progress : bool
        Show bars.

    Returns
    -------
    columns : dict of list
        One number per pair, nats per token: gap (mean log-prob of the chosen less that
        of the rejected), ratio_gap (the same against the base model), delta_pmi; and,
        where the pairs say `wrong`, right (the label does not go against the checker).
    metrics : dict
        accuracy, ratio_accuracy (shares of pairs with a gap above 0); chosen_drift,
        rejected_drift (mean log-prob less the base model's, nats per token).
    """
    prompts = rows["prompt"][:]
    logps, drifts, pmis = {}, {}, {}
    for side in ("chosen", "rejected"):
        replies = as_sampled(rows, side)
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
