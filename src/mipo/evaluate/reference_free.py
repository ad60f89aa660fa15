"""Replies to a reader's own people, where nothing says what is right: what can be measured without a judge."""

import numpy as np

from mipo.data import render
from mipo.evaluate import retrieval_credit
from mipo.evaluate.diversity import distinct_n, self_bleu, token_lengths
from mipo.lm import sampling
from mipo.logprobs import pmi_over_contexts, response_logps


def groups(records, contexts, *, seed=0):
    """Per record its own context, then `contexts` - 1 different ones of other records (fewer if there are no more).

    Raises ValueError unless the records have at least two different contexts: with one, nobody can be told apart.
    """
    known = list(dict.fromkeys(r.get("context") or "" for r in records))
    if len(known) < 2:
        raise ValueError(
            f"{len(records)} record(s) with {len(known)} different context(s): conditional PMI and "
            "retrieval compare contexts, so the file must have records of at least two people"
        )
    if contexts < 2:
        raise ValueError(
            f"contexts={contexts}: give at least 2, the record's own and another one"
        )
    rng, found = np.random.default_rng((seed, 6)), []
    for r in records:
        own = r.get("context") or ""
        others = [c for c in known if c != own]
        drawn = rng.choice(
            len(others), size=min(contexts - 1, len(others)), replace=False
        )
        found.append([own, *(others[i] for i in drawn)])
    return found


def under_contexts(
    model, tokenizer, records, replies, contexts, *, batch_size=32, progress=False
):
    """log p(reply | query, context) under each of a record's contexts: (N, K), nats per reply; column 0: its own."""
    prompts = [
        render(tokenizer, r["query"], c)
        for r, group in zip(records, contexts, strict=True)
        for c in group
    ]
    repeated = [y for y, group in zip(replies, contexts, strict=True) for _ in group]
    logps = response_logps(
        model, tokenizer, prompts, repeated, batch_size=batch_size, progress=progress
    ).summed
    return logps.double().reshape(len(records), -1)


def measure(
    model,
    tokenizer,
    records,
    *,
    seed=0,
    max_new_tokens=64,
    contexts=8,
    temperature=1.0,
    batch_size=32,
    progress=False,
):
    """One sampled reply per record, and what can be said of them without a judge; JSON values, nats and tokens.

    pmi          conditional PMI of each reply against `contexts` people, nats per reply, at most log(contexts)
    retrieval    share of replies matched to their own context among `contexts`; chance = 1/contexts
    self_bleu    mean over queries (or over all replies where no query has two) of the replies' self-BLEU, 0..100
    distinct     different word pairs over all word pairs (None if no reply has two words)
    tokens       length of each reply; empty: share of replies without text
    gold_logp    log p(gold | query, context) in nats per token of records that have a gold answer, else None;
    gold_pmi     the gold answer's own conditional PMI, nats per reply
    """
    prompts = [render(tokenizer, r["query"], r.get("context") or "") for r in records]
    crowd = groups(records, contexts, seed=seed)
    replies = sampling.generate(
        model,
        tokenizer,
        prompts,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        seed=seed,
        batch_size=batch_size,
        progress=progress,
    )
    score = {"batch_size": batch_size, "progress": progress}
    logps = under_contexts(model, tokenizer, records, replies, crowd, **score)
    found = {
        "replies": replies,
        "pmi": pmi_over_contexts(logps[:, 0], logps).tolist(),
        "retrieval": float(retrieval_credit(logps).mean()),
        "chance": 1 / logps.shape[1],
        "tokens": token_lengths(replies, tokenizer).tolist(),
        "empty": float(np.mean([not y.strip() for y in replies])),
        "self_bleu": alike(replies, records),
        "distinct": distinct_n(replies)
        if any(y.split()[1:] for y in replies)
        else None,
        "gold_logp": None,
        "gold_pmi": None,
    }
    known = [i for i, r in enumerate(records) if r.get("gold")]
    if known:
        rows, gold = [records[i] for i in known], [records[i]["gold"] for i in known]
        under = under_contexts(
            model, tokenizer, rows, gold, [crowd[i] for i in known], **score
        )
        own = response_logps(
            model, tokenizer, [prompts[i] for i in known], gold, batch_size=batch_size
        )
        found |= {
            "gold_logp": own.mean.tolist(),
            "gold_pmi": pmi_over_contexts(under[:, 0], under).tolist(),
        }
    return found


def alike(replies, records, *, sample=40):
    """Self-BLEU (0..100) of replies to one query, mean over queries with two or more; of all replies if none has."""
    by_query = {}
    for y, r in zip(replies, records, strict=True):
        by_query.setdefault(r["query"], []).append(y)
    shared = [texts for texts in by_query.values() if len(texts) > 1] or [list(replies)]
    return float(np.mean([self_bleu(texts, sample=sample) for texts in shared]))
