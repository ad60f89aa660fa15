"""A thin layer over lm-evaluation-harness (the extra `gpu`): its tasks and scores per item, our paired statistics.

Its own comparison of two models treats paired items as independent; ours pairs them by item and by seed.
"""

import importlib.util
import json
from pathlib import Path

import numpy as np

from mipo import evaluate, reasoning_data, store

TASKS = {"gsm8k": ("gsm8k_cot", "exact_match,strict-match"), "arc-challenge": ("arc_challenge", "acc,none"),
         "mmlu": ("mmlu", "acc,none"), "svamp": ("svamp_cot", "exact_match,strict-match")}
LOCAL = Path(__file__).parent / "tasks"  # tasks that the harness does not have


def available():
    """Whether lm-evaluation-harness is installed; if not, accuracy is measured by `reasoning_data` alone."""
    return importlib.util.find_spec("lm_eval") is not None


def require():
    if not available():
        raise ValueError("lm-evaluation-harness is not installed; get it with: pip install -c constraints.txt -e \".[gpu]\"")


def svamp_task(path):
    """The task svamp_cot as a configuration of the harness, reading items from `path` (see `write_items`)."""
    import yaml

    config = yaml.safe_load((LOCAL / "svamp_cot.yaml").read_text(encoding="utf-8"))
    return config | {"dataset_kwargs": {"data_files": {"test": str(path)}}}


def write_items(items, path):
    """Items as the JSONL that svamp_cot reads, with our worked examples in the prompt."""
    rows = [{"prompt": reasoning_data.prompt(item), "gold": item["gold"], "id": item["id"]} for item in items]
    return store.write_whole(path, "".join(json.dumps(row) + "\n" for row in rows))


def run(model, tokenizer, tasks, *, limit=None, batch_size=8, chat=True, seed=0):
    """{task: {item: {metric: score}}} of a model that is in memory; tasks are names or configurations (dicts).

    limit   items per task, None for all      chat   wrap prompts in the model's chat template
    """
    require()
    from lm_eval import evaluator
    from lm_eval.models.huggingface import HFLM

    lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)
    found = evaluator.simple_evaluate(lm, tasks=list(tasks), limit=limit, log_samples=True, apply_chat_template=chat,
                                      bootstrap_iters=0, random_seed=seed, numpy_random_seed=seed,
                                      torch_random_seed=seed, fewshot_random_seed=seed)
    return {task: per_item(rows) for task, rows in found["samples"].items()}


def per_item(rows):
    """{item: {"metric,filter": score}} of the harness's per-sample log of one task."""
    found = {}
    for row in rows:
        scores = {f"{m},{row.get('filter', 'none')}": float(row[m]) for m in row["metrics"]}
        found.setdefault(str(row["doc_id"]), {}).update(scores)
    return found


def scores(found, name):
    """{"task/item": score} of one data set's metric; groups such as mmlu are their subtasks together."""
    task, metric = TASKS[name]
    mine = {f"{t}/{i}": row[metric] for t, rows in found.items() if t == task or t.startswith(f"{task}_")
            for i, row in rows.items() if metric in row}
    if not mine:
        raise ValueError(f"no score {metric!r} of task {task!r} among {', '.join(found) or 'nothing'}")
    return mine


def compare(before, after):
    """Paired difference in accuracy, (mean, low, high): after - before, items paired, resampled whole over seeds.

    before, after   {item: score}, or a list of such, one per seed       errors   other items on one side than on the other
    """
    lists = [side if isinstance(side, list) else [side] for side in (before, after)]
    if len(lists[0]) != len(lists[1]):
        raise ValueError(f"{len(lists[0])} runs before and {len(lists[1])} after; give one per seed on both sides")
    a, b, item, seed = [], [], [], []
    for s, (old, new) in enumerate(zip(*lists, strict=True)):
        if set(old) != set(new):
            raise ValueError(f"seed {s}: {len(set(old) ^ set(new))} items were scored on one side only and have no partner")
        keys = sorted(old)
        a += [new[k] for k in keys]
        b += [old[k] for k in keys]
        item, seed = item + keys, seed + [s] * len(keys)
    return evaluate.paired_bootstrap(np.array(a), np.array(b), [np.array(seed), np.array(item)])
