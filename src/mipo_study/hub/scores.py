"""What replies of real models are worth, as records: without a judge, on labelled pairs, and by a local judge."""

import numpy as np

from mipo import evaluate, files
from mipo.evaluate import reference_free
from mipo.logprobs import pmi_over_contexts, prompt_pmi, response_logps
from mipo.preference_data import as_text
from mipo_study.hub import benchmarks, harness, llm_judge
from mipo_study.hub.runs import digest_of, model_of, read_replies, run_or_load

# ---- numbers ----


def aligned(after, before, rows):
    """(values after, before, levels of clusters) of {seed: values} twice and {seed: test rows}; None for less than two rows.

    A seed that one side lacks, or a row where a value is NaN, is left out. Seeds are drawn whole, and so are people (items,
    where nobody asks).
    """
    found = [
        (seed, x, y, benchmarks.unit(row), f"{seed} {i}")
        for seed in after
        if seed in before
        for i, (x, y, row) in enumerate(
            zip(after[seed], before[seed], rows[seed], strict=True)
        )
        if not np.isnan(x) and not np.isnan(y)
    ]
    if len(found) < 2:
        return None
    seed, x, y, unit, place = map(np.array, zip(*found, strict=True))
    levels = (
        [seed, unit] if len(set(unit)) > 1 else [seed, place]
    )  # of one person alone, the replies
    return x, y, levels


def paired(after, before, rows):
    """(value, low, high): the mean of after - before with its interval, see `aligned`."""
    found = aligned(after, before, rows)
    return found and evaluate.paired_bootstrap(*found)


def relative(after, before, rows):
    """(value, low, high) of the gain as a share of the mean before, see `aligned`; None where that mean is 0.

    Both means are estimates, so the interval is that of their ratio, to first order (delta method): the one of
    x/ȳ - (x̄/ȳ)·y/ȳ, whose mean is 0.
    """
    found = aligned(after, before, rows)
    if found is None or not found[1].mean():
        return None
    x, y, levels = found
    ratio = x.mean() / y.mean()
    _, low, high = evaluate.paired_bootstrap(x / y.mean(), ratio * y / y.mean(), levels)
    return float(ratio - 1), float(ratio - 1 + low), float(ratio - 1 + high)


def own_reward(after, before):
    """Share of pairs in the order of DPO's own reward log π(y|x)/π_ref(y|x), from two records of `rank`, tuned and base."""
    gap = [
        np.subtract(*np.array(files.read_json(r.path / "scores.json")["summed"]).T)
        for r in (after, before)
    ]
    return float(np.mean(gap[0] > gap[1]))


def verdicts_of(record, key="score"):
    """Per item of a record of `judged`: its strict score, or with "released", "released_base" the papers' win; NaN: none."""
    return np.array(files.read_json(record.path / "verdicts.json")[key], dtype=float)


# ---- records ----


def measure(
    run_dir,
    policy,
    base,
    records,
    answered,
    *,
    contexts=8,
    seed=0,
    batch_size=16,
    progress=True,
):
    """Record of what people's replies show without a judge; lists per record in scores.json, metrics their means.

    pmi         log p(y|x,c) - log mean over `contexts` people of p(y|x,c') under the policy itself, nats per reply
    retrieval   share of replies whose own context makes them most likely, under the policy itself
    pmi_base, retrieval_base   both under the base model, one yardstick for all
    self_bleu            of the replies, 0..100
    """

    def make(folder):
        crowd, texts, found, under = (
            reference_free.groups(records, contexts, seed=seed),
            read_replies(answered),
            {},
            {},
        )
        for end, scorer in (("", policy), ("_base", base)):
            if scorer.key not in under:  # the base model is its own yardstick
                under[scorer.key] = reference_free.under_contexts(
                    *model_of(scorer),
                    records,
                    texts,
                    crowd,
                    batch_size=batch_size,
                    progress=progress,
                )
            logps = under[scorer.key]
            found |= {
                f"pmi{end}": pmi_over_contexts(logps[:, 0], logps).tolist(),
                f"retrieval{end}": reference_free.retrieval_credit(logps).tolist(),
            }
        files.write_whole(folder / "scores.json", files.dumps(found))
        return {k: float(np.mean(v)) for k, v in found.items()} | {
            "self_bleu": reference_free.alike(texts, records),
            "chance": 1 / max(map(len, crowd)),
        }

    config = {"contexts": contexts, "seed": seed, "asked": digest_of(records)}
    return run_or_load(
        run_dir,
        "measure-hub",
        config,
        make,
        doing="scoring",
        code=["mipo_study.hub.scores"],
        inputs={"policy": policy.key, "base": base.key, "replies": answered},
    )


def rank(run_dir, policy, rows, *, batch_size=16, progress=True):
    """Record of a policy on labelled pairs it has not seen: accuracy (mean log-prob of the chosen above the rejected).

    scores.json   mean, summed: [chosen, rejected] per pair, nats per token and per reply (see `own_reward`)
    """

    def make(folder):
        model, tokenizer = model_of(policy)
        texts = as_text(rows, tokenizer)
        scored = response_logps(
            model,
            tokenizer,
            [t["prompt"] for t in texts],
            [[t["chosen"], t["rejected"]] for t in texts],
            batch_size=batch_size,
            progress=progress,
        )
        files.write_whole(
            folder / "scores.json",
            files.dumps(
                {"mean": scored.mean.tolist(), "summed": scored.summed.tolist()}
            ),
        )
        return {
            "accuracy": float((scored.mean[:, 0] > scored.mean[:, 1]).double().mean())
        }

    return run_or_load(
        run_dir,
        "rank-hub",
        {"rows": digest_of(rows, ("prompt", "chosen", "rejected"))},
        make,
        doing="scoring",
        code=["mipo_study.hub.scores"],
        inputs={"policy": policy.key},
    )


def margins(run_dir, policy, rows, *, batch_size=16, progress=True) -> list[float]:
    """Δpmi of labelled pairs under a policy, nats per token: what RMiPO's γ decays with.

    PMI of a reply is its log-prob given the prompt less that without one.
    """

    def make(folder):
        model, tokenizer = model_of(policy)
        texts = as_text(rows, tokenizer)
        prompts = [text["prompt"] for text in texts]
        how = {"batch_size": batch_size, "progress": progress}
        chosen, rejected = (
            prompt_pmi(model, tokenizer, prompts, [t[side] for t in texts], **how)
            for side in ("chosen", "rejected")
        )
        delta = (chosen - rejected).double().tolist()
        files.write_whole(folder / "delta_pmi.json", files.dumps(delta))
        return {"delta_pmi": float(np.mean(delta))}

    run = run_or_load(
        run_dir,
        "margins-hub",
        {"rows": digest_of(rows, ("prompt", "chosen", "rejected"))},
        make,
        doing="scoring",
        code=["mipo_study.hub.scores"],
        inputs={"policy": policy.key},
    )
    return files.read_json(run.path / "delta_pmi.json")


def judged(
    run_dir,
    place,
    records,
    ours,
    theirs,
    *,
    rated=False,
    missing=None,
    batch_size=32,
    progress=True,
):
    """Record of a judge's verdicts on two records of replies, both orders, per item in verdicts.json.

    metrics   llm_judge.report, and with `rated` (where a record has a gold reply to be held against) released,
              released_base: share of our and of their replies rated at least as high as it
    missing   what a rating out of form counts as, see llm_judge.OUT_OF_FORM
    What the judge has said is kept in run_dir/verdicts, whatever happens later.
    """
    mine, other = read_replies(ours), read_replies(theirs)
    known = [i for i, r in enumerate(records) if r.get("gold")] if rated else []

    def make(folder):
        cache = (
            files.resolve(run_dir)
            / "verdicts"
            / f"{files.digest(place.key)[:16]}.jsonl"
        )
        asker = llm_judge.Judge(
            lambda: model_of(place),
            place.key,
            cache,
            called=place.name,
            batch_size=batch_size,
            progress=progress,
        )
        found = llm_judge.compare(asker, records, mine, other)
        metrics, found = (
            llm_judge.report(found, mine, other),
            {**found, "score": found["score"].tolist()},
        )
        if known:
            rows, gold = (
                [records[i] for i in known],
                [records[i]["gold"] for i in known],
            )
            reference = llm_judge.rate(asker, rows, gold, missing=missing)
            for key, texts in (("released", mine), ("released_base", other)):
                marks = llm_judge.rate(
                    asker, rows, [texts[i] for i in known], missing=missing
                )
                metrics[key] = llm_judge.released_win_rate(marks, reference)
                wins = dict(
                    zip(
                        known,
                        llm_judge.released_wins(marks, reference).tolist(),
                        strict=True,
                    )
                )
                found[key] = [
                    None if np.isnan(wins.get(i, np.nan)) else wins[i]
                    for i in range(len(records))
                ]
        files.write_whole(folder / "verdicts.json", files.dumps(found))
        return metrics

    config = {
        "rated": bool(known),
        "missing": missing,
        "asked": digest_of(records, ("query", "context", "wishes", "gold")),
    }
    return run_or_load(
        run_dir,
        "judge-hub",
        config,
        make,
        doing="judging",
        what=f"the judge {place.name}",
        code=["mipo_study.hub.scores"],
        inputs={"judge": place.key, "ours": ours, "theirs": theirs},
    )


def by_harness(run_dir, policy, dataset, items, *, shots=8, batch_size=16):
    """Record of lm-evaluation-harness on a policy and our items, its score of each by the item's id in scores.json.

    samples.jsonl   what was asked and what the policy said, a line per item and filter, as the harness logs it
    shots           worked examples in the prompts of svamp_cot, which are ours; the harness's own tasks keep theirs
    """
    rows = harness.rows_of(dataset, items, shots)

    def make(folder):
        tasks = harness.tasks(dataset, rows, folder)
        samples = harness.run(*model_of(policy), tasks, batch_size=batch_size)
        found = harness.scores(samples, dataset)
        lost = [row["id"] for row in rows if row["id"] not in found]
        if lost:  # a pair needs both sides
            raise ValueError(
                f"lm-evaluation-harness scored {len(found)} of {len(rows)} items of {dataset}; not {lost[0]}"
            )
        files.write_whole(folder / "samples.jsonl", harness.as_lines(samples))
        files.write_whole(folder / "scores.json", files.dumps(found))
        return {"accuracy": float(np.mean(list(found.values()))), "items": len(found)}

    config = {
        "dataset": dataset,
        "items": files.digest(rows),
        **harness.known_by(dataset),
    }
    return run_or_load(
        run_dir,
        "harness-hub",
        config,
        make,
        doing="scoring",
        what="lm-evaluation-harness",
        code=["mipo_study.hub.scores"],
        inputs={"policy": policy.key},
    )
