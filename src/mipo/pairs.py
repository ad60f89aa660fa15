"""Preference pairs a model makes by itself: chosen answered with the right context, rejected with another or none."""

import numpy as np
from datasets import Dataset

from mipo.data import render
from mipo.lm.sampling import generate

NEGATIVES = ("random_context", "missing_context", "random_prompt")


def synthesise_pairs(
    model,
    tokenizer,
    records,
    *,
    negatives="random_context",
    k=1,
    temperature=1.0,
    top_p=1.0,
    max_new_tokens=64,
    seed=0,
    batch_size=256,
    chosen=None,
    progress=False,
):
    """MIPO's pairs as a Dataset in TRL's standard preference format, one row per record.

    negatives  "random_context"  y_l ~ π(·|x, c') with c' drawn from the contexts of all records, c' = c allowed:
                                 an exact sample of the marginal Σ_c' p(c') π(·|x, c')
               "missing_context" y_l ~ π(·|x): the marginal only if the model answers nobody as it answers everybody
               "random_prompt"   y_l is the chosen reply of another record (never the row's own)
    k          rejected replies per row; for k > 1 the columns rejected, rejected_prompt, rejected_context are lists
    chosen     the replies to the records' own prompts, where they have been sampled before

    Columns: prompt, chosen, rejected; rejected_prompt (what y_l was the answer to); query, context, rejected_context;
    record (index); collision (a negative was given the row's own prompt); identical (a negative reads like the chosen).
    Raises ValueError without records, or when every rejected reply equals its chosen one (nothing to learn from).
    """
    if negatives not in NEGATIVES:
        raise ValueError(
            f"negatives={negatives!r}: choose one of {', '.join(NEGATIVES)}"
        )
    if k < 1 or not len(records):
        raise ValueError(
            "need at least one record" if k >= 1 else f"k must be at least 1, got {k}"
        )
    settings = dict(
        temperature=temperature,
        top_p=top_p,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        progress=progress,
    )
    prompts = [render(tokenizer, r["query"], r.get("context") or "") for r in records]
    names = [r.get("read_from") or f"record {i}" for i, r in enumerate(records)]
    if chosen is None:
        chosen = generate(model, tokenizer, prompts, seed=seed, names=names, **settings)
    if len(chosen) != len(records):
        raise ValueError(f"{len(chosen)} chosen replies for {len(records)} records")
    draws = _draws(
        len(records), k, negatives, np.random.default_rng((seed, 2))
    )  # (n, k) indices of other records
    contexts = [
        ["" if j is None else records[j].get("context") or "" for j in row]
        for row in draws
    ]
    if negatives == "random_prompt":
        asked = [[prompts[j] for j in row] for row in draws]
        rejected = [[chosen[j] for j in row] for row in draws]
    else:
        asked = [
            [render(tokenizer, r["query"], c) for c in row]
            for r, row in zip(records, contexts, strict=True)
        ]
        twice = [
            f"{names[i]}, with {'no context' if j is None else 'the context of ' + names[j]}"
            for i, row in enumerate(draws)
            for j in row
        ]
        flat = generate(
            model,
            tokenizer,
            [p for row in asked for p in row],
            seed=seed + 1_000_003,
            names=twice,
            **settings,
        )
        rejected = [flat[i * k : (i + 1) * k] for i in range(len(records))]
    if all(y == chosen[i] for i, row in enumerate(rejected) for y in row):
        raise ValueError(
            "all pairs are identical: every rejected reply equals its chosen one; raise the temperature, or "
            "check that the records have different contexts"
        )

    def one(row):
        return row if k > 1 else row[0]

    return Dataset.from_list(
        [
            {
                "prompt": prompts[i],
                "chosen": chosen[i],
                "rejected": one(rejected[i]),
                "rejected_prompt": one(asked[i]),
                "query": r["query"],
                "context": r.get("context") or "",
                "rejected_context": one(contexts[i]),
                "record": i,
                "collision": prompts[i] in asked[i],
                "identical": chosen[i] in rejected[i],
            }
            for i, r in enumerate(records)
        ]
    )


def _draws(n, k, negatives, rng):
    if negatives == "missing_context":
        return [[None] * k for _ in range(n)]
    if negatives == "random_context":
        return rng.integers(n, size=(n, k)).tolist()
    if n <= k:
        raise ValueError(
            f"random_prompt with k={k} needs more than {k} records, got {n}"
        )
    others = [rng.choice(n - 1, size=k, replace=False) for _ in range(n)]
    return [
        [int(j + (j >= i)) for j in row] for i, row in enumerate(others)
    ]  # skips the row's own reply


def flip_by_coin(pairs, seed=0):
    """The placebo: chosen and rejected change places in each row with probability one half."""
    heads = np.random.default_rng((seed, 3)).random(len(pairs)) < 0.5
    swap = {"chosen": "rejected", "rejected": "chosen"}
    columns = {c: pairs[c] for c in swap}
    if len(pairs) and isinstance(pairs[0]["rejected"], list):
        raise ValueError("the placebo needs one rejected reply per row (k = 1)")
    for c, other in swap.items():
        values = [
            b if h else a
            for a, b, h in zip(columns[c], columns[other], heads, strict=True)
        ]
        pairs = pairs.remove_columns(c).add_column(c, values)
    return pairs
