"""A thin layer over lm-evaluation-harness (the extra `gpu`): its tasks, our items, its score of each item.

Its tasks read the very items that we test on, from a file: so they come from the pinned commit, or the reader's folder, and
nothing is fetched besides. Its own comparison of two models treats paired items as independent; `real_scores` pairs them.
"""

import importlib.metadata
import importlib.util
import json
from pathlib import Path

from mipo import files
from mipo_study.hub import answers

TASKS = {
    "gsm8k": ("gsm8k_cot", "exact_match,strict-match"),
    "arc-challenge": ("arc_challenge", "acc,none"),
    "mmlu": ("mmlu", "acc,none"),
    "svamp": ("svamp_cot", "exact_match,strict-match"),
}
LOCAL = Path(__file__).parent / "tasks"  # tasks that the harness does not have
FILES = {
    "gsm8k": "gsm8k/gsm8k-cot.yaml",
    "arc-challenge": "arc/arc_challenge.yaml",
    "mmlu": "mmlu/default/mmlu_{}.yaml",
}


def available():
    """Whether lm-evaluation-harness is installed; if not, accuracy is measured by `hub.answers` alone."""
    return importlib.util.find_spec("lm_eval") is not None


def require():
    if not available():
        raise ValueError(
            'lm-evaluation-harness is not installed; get it with: pip install -c constraints.txt -e ".[gpu]"'
        )


def known_by(dataset):
    """What besides its items names a data set's task in a record's key: the harness's version, or our own file's content."""
    require()
    version = {"lm_eval": importlib.metadata.version("lm_eval")}
    return version | ({"task": configuration(dataset)} if dataset == "svamp" else {})


def rows_of(dataset, items, shots=8):
    """Items in the columns that the tasks read, each with its id; `shots` examples for SVAMP, whose prompts are ours."""
    make = {
        "svamp": lambda item: {
            "prompt": answers.prompt(item, shots),
            "gold": item["gold"],
        },
        "gsm8k": lambda item: {
            "question": item["query"],
            "answer": f"#### {item['gold']}",
        },
        "arc-challenge": lambda item: {
            "question": item["query"],
            "answerKey": item["gold"],
            "choices": {
                "text": item["options"],
                "label": list(answers.LETTERS[: len(item["options"])]),
            },
        },
        "mmlu": lambda item: {
            "question": item["query"],
            "choices": item["options"],
            "subject": item["subject"],
            "answer": answers.LETTERS.index(item["gold"]),
        },
    }[dataset]
    return [{"id": item["id"], **make(item)} for item in items]


def tasks(dataset, rows, folder):
    """Configurations of the harness's tasks on `rows` (see `rows_of`), written to `folder`; MMLU is one for each subject."""
    groups = {}
    for row in rows:
        groups.setdefault(row.get("subject", ""), []).append(row)
    found = []
    for subject, part in groups.items():
        file = files.write_whole(
            Path(folder) / f"items{subject and '-' + subject}.jsonl", files.lines(part)
        )
        found.append(
            configuration(dataset, subject)
            | {
                "dataset_path": "json",
                "dataset_name": None,
                "test_split": "test",
                "dataset_kwargs": {"data_files": {"test": str(file)}},
            }
        )
    return found


def configuration(dataset, subject=""):
    """A task of the harness as it stands in its file, without the parts that are not for the test."""
    if dataset == "svamp":
        return _read(LOCAL / "svamp_cot.yaml")
    require()
    import lm_eval

    found = _read(
        Path(lm_eval.__file__).parent / "tasks" / FILES[dataset].format(subject)
    )
    return {
        k: v
        for k, v in found.items()
        if k not in ("training_split", "validation_split")
        and not (k in ("fewshot_split", "fewshot_config") and dataset == "mmlu")
    }  # without examples, as is its default


def _read(file):
    """A task's YAML, with what it includes."""
    import yaml

    config = yaml.safe_load(file.read_text(encoding="utf-8"))
    return (
        (_read(file.parent / config.pop("include")) | config)
        if "include" in config
        else config
    )


def run(model, tokenizer, tasks, *, batch_size=8):
    """{task: its log} of a model that is in memory, a row per item and filter; tasks are configurations (dicts)."""
    require()
    from lm_eval.models.huggingface import HFLM

    return evaluated(
        HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size),
        tasks,
        chat=True,
    )


def evaluated(lm, tasks, *, chat=False):
    """As `run`, of a model as the harness has it; chat: prompts are wrapped in the model's chat template."""
    from lm_eval import evaluator
    from lm_eval.tasks import TaskManager

    found = evaluator.simple_evaluate(
        lm,
        tasks=list(tasks),
        log_samples=True,
        apply_chat_template=chat,
        bootstrap_iters=0,
        task_manager=TaskManager(include_defaults=False),
    )  # ours are whole: none to list
    return found["samples"]


def as_lines(samples):
    """The log as JSONL: per item and filter the prompts that were asked, what the model said to each, and the scores."""
    return "".join(
        json.dumps(
            {
                "task": task,
                "id": row["doc"]["id"],
                **{k: v for k, v in row.items() if k != "doc"},
            },
            default=str,
        )
        + "\n"
        for task, rows in samples.items()
        for row in rows
    )


def per_item(rows):
    """{item's id: {"metric,filter": score}} of the harness's per-sample log of one task."""
    found = {}
    for row in rows:
        scores = {
            f"{m},{row.get('filter', 'none')}": float(row[m]) for m in row["metrics"]
        }
        found.setdefault(row["doc"]["id"], {}).update(scores)
    return found


def scores(samples, name):
    """{item: score} of one data set's metric; MMLU's subjects are one data set together."""
    task, metric = TASKS[name]
    mine = {
        i: row[metric]
        for t, rows in samples.items()
        if t == task or t.startswith(f"{task}_")
        for i, row in per_item(rows).items()
        if metric in row
    }
    if not mine:
        raise ValueError(
            f"no score {metric!r} of task {task!r} among {', '.join(samples) or 'nothing'}"
        )
    return mine
