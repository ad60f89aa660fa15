"""What replies of real models are worth, as records: without a judge, on labelled pairs, and by a local judge."""

import hashlib

import numpy as np

from mipo import fit, harness, hub, judge, own, store
from mipo.logprobs import pmi_over_contexts, response_logps
from mipo.preference_file import as_text
from mipo.real import asked_of, key_of, path_of, release, said


def measure(run_dir, policy, base, records, answered, *, contexts=8, seed=0, batch_size=16, progress=True):
    """Record of what people's replies show without a judge; lists per record in scores.json, metrics their means.

    pmi         log p(y|x,c) - log mean over `contexts` people of p(y|x,c') under the policy itself, nats per reply
    retrieval   share of replies whose own context makes them most likely, under the policy itself
    pmi_base, retrieval_base   both under the base model, one yardstick for all
    self_bleu            of the replies, 0..100
    """
    def make(folder):
        crowd, texts, found = own.groups(records, contexts, seed=seed), said(answered), {}
        for end, place in (("", path_of(policy)), ("_base", base.path)):
            with hub.explained("scoring"):
                model, tokenizer = fit.load(place, dtype=fit.best_dtype())
                logps = own.under_contexts(model, tokenizer, records, texts, crowd, batch_size=batch_size, progress=progress)
            found |= {f"pmi{end}": pmi_over_contexts(logps[:, 0], logps).tolist(),
                      f"retrieval{end}": own.retrieval_credit(logps).tolist()}
            del model
            release()
        store.write_whole(folder / "scores.json", store.dumps(found))
        return {k: float(np.mean(v)) for k, v in found.items()} | {"self_bleu": own.alike(texts, records),
                                                                   "chance": 1 / max(map(len, crowd))}

    config = {"contexts": contexts, "seed": seed, "asked": asked_of(records)}
    return store.run_or_load(run_dir, "own-real", config, make, code=["mipo.real_scores"],
                             inputs={"policy": key_of(policy), "base": base.key, "replies": answered})


def rank(run_dir, policy, rows, *, limit=400, batch_size=8, progress=True):
    """Record of a policy on labelled pairs it has not seen: accuracy (mean log-prob of the chosen above the rejected)."""
    rows = rows[:limit]
    key = hashlib.sha256(store.dumps([[r["prompt"], r["chosen"], r["rejected"]] for r in rows]).encode()).hexdigest()

    def make(folder):
        with hub.explained("scoring"):
            model, tokenizer = fit.load(path_of(policy), dtype=fit.best_dtype())
            texts = as_text([r | {"read_from": f"row {i}"} for i, r in enumerate(rows)], tokenizer)
            scored = response_logps(model, tokenizer, [t["prompt"] for t in texts],
                                    [[t["chosen"], t["rejected"]] for t in texts], batch_size=batch_size, progress=progress)
        gap = (scored.mean[:, 0] - scored.mean[:, 1]).double().tolist()
        store.write_whole(folder / "scores.json", store.dumps({"gap": gap}))
        return {"accuracy": float(np.mean([g > 0 for g in gap]))}

    return store.run_or_load(run_dir, "weigh-real", {"rows": key}, make, code=["mipo.real_scores"],
                             inputs={"policy": key_of(policy)})


def judged(run_dir, place, records, ours, theirs, *, scale=False, progress=True):
    """Record of a judge's verdicts on two records of replies, both orders (verdicts.json), and with `scale` its ratings.

    metrics   judge.report, and with `scale` released: share rated at least as high as the records' gold reply. What the
              judge has said is kept in run_dir/verdicts, whatever happens later.
    """
    def make(folder):
        cache = store.resolve(run_dir) / "verdicts" / f"{hashlib.sha256(str(place.key).encode()).hexdigest()[:16]}.jsonl"
        asker = judge.Judge(lambda: fit.load(place.path, dtype=fit.best_dtype()), place.key, cache, progress=progress)
        with hub.explained(place.name):
            found = judge.compare(asker, records, said(ours), said(theirs))
            metrics = judge.report(found, said(ours), said(theirs))
            if scale:
                known = [i for i, r in enumerate(records) if r.get("gold")]
                rows = [records[i] for i in known]
                mine = judge.rate(asker, rows, [said(ours)[i] for i in known])
                metrics["released"] = judge.released_win_rate(mine, judge.rate(asker, rows, [r["gold"] for r in rows]))
        store.write_whole(folder / "verdicts.json", store.dumps({**found, "score": found["score"].tolist()}))
        return metrics

    made = store.run_or_load(run_dir, "judge-real", {"scale": scale, "asked": asked_of(records)}, make,
                             code=["mipo.real_scores"], inputs={"judge": place.key, "ours": ours, "theirs": theirs})
    release()
    return made


def by_harness(run_dir, policy, dataset, items, *, limit, seed=0, batch_size=8):
    """Record of lm-evaluation-harness on a policy, its score of every item in scores.json; metrics: accuracy, items."""
    def make(folder):
        tasks = [harness.TASKS[dataset][0]]
        if dataset == "svamp":
            tasks = [harness.svamp_task(harness.write_items(items, folder / "items.jsonl"))]
        with hub.explained("lm-evaluation-harness"):
            model, tokenizer = fit.load(path_of(policy), dtype=fit.best_dtype())
            found = harness.run(model, tokenizer, tasks, limit=limit or None, batch_size=batch_size, seed=seed)
        store.write_whole(folder / "scores.json", store.dumps(found))
        values = list(harness.scores(found, dataset).values())
        return {"accuracy": float(np.mean(values)), "items": len(values)}

    config = {"dataset": dataset, "limit": limit, "seed": seed}
    made = store.run_or_load(run_dir, "harness", config, make, code=["mipo.real_scores"],
                             inputs={"policy": key_of(policy)})
    release()
    return made
