"""A thin layer over lm-evaluation-harness (the extra `gpu`): its tasks, our items.

Its tasks read the very items that we test on, from a file: they come from the pinned
commit, or the reader's folder, and nothing is fetched besides. Its own comparison of
two models treats paired items as independent; `hub.scores` pairs them.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from mipo import files
from mipo.lm.prompts import on_one_day
from mipo_study.hub import answers

if TYPE_CHECKING:
    from lm_eval.api.model import LM
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# {data set: (task, metric)}
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
# Parts that are not for the test.
OTHER_PARTS = ("training_split", "validation_split")
EXAMPLE_PARTS = ("fewshot_split", "fewshot_config")


def available() -> bool:
    """Whether lm-evaluation-harness is installed; else `hub.answers` alone measures."""
    return importlib.util.find_spec("lm_eval") is not None


def require() -> None:
    """ValueError with the command that installs it, where it is not installed."""
    if not available():
        raise ValueError(
            "lm-evaluation-harness is not installed; get it with: pip install -c "
            'constraints.txt -e ".[gpu]"'
        )


def version_of(dataset: str) -> dict[str, Any]:
    """What besides its items names a task in a key: the harness's version, our file."""
    require()
    version: dict[str, Any] = {"lm_eval": importlib.metadata.version("lm_eval")}
    if dataset == "svamp":
        version["task"] = configuration(dataset)
    return version


def rows_of(dataset: str, items: Sequence[Mapping], shots: int = 8) -> list[dict]:
    """Items in the columns that the tasks read, each with its id.

    Parameters
    ----------
    dataset : str
        A key of `TASKS`.
    items : sequence of dict
        Of `hub.answers`.
    shots : int
        Worked examples for SVAMP, whose prompts are ours.

    Returns
    -------
    list of dict

    Raises
    ------
    ValueError
        For a data set that has no task.
    """

    def columns(item: Mapping) -> dict[str, Any]:
        query, gold, options = item["query"], item["gold"], item["options"]
        if dataset == "svamp":
            return {"prompt": answers.prompt(item, shots), "gold": gold}
        if dataset == "gsm8k":
            return {"question": query, "answer": f"#### {gold}"}
        if dataset == "arc-challenge":
            labels = list(answers.LETTERS[: len(options)])
            choices = {"text": options, "label": labels}
            return {"question": query, "answerKey": gold, "choices": choices}
        if dataset == "mmlu":
            return {
                "question": query,
                "choices": options,
                "subject": item["subject"],
                "answer": answers.LETTERS.index(gold),
            }
        raise ValueError(f"{dataset!r} has no task; those with one: {', '.join(TASKS)}")

    return [{"id": item["id"], **columns(item)} for item in items]


def tasks(dataset: str, rows: Sequence[Mapping], folder: str | Path) -> list[dict]:
    """Configurations of the harness's tasks on rows.

    Parameters
    ----------
    dataset : str
        A key of `TASKS`.
    rows : sequence of dict
        Of `rows_of`.
    folder : path
        Where they are written to.

    Returns
    -------
    list of dict
        One; for MMLU one for each subject.
    """
    by_subject = defaultdict(list)
    for row in rows:
        by_subject[row.get("subject", "")].append(row)
    configurations = []
    for subject, part in by_subject.items():
        name = f"items-{subject}.jsonl" if subject else "items.jsonl"
        file = files.write_whole(Path(folder) / name, files.lines(part))
        source = {
            "dataset_path": "json",
            "dataset_name": None,
            "test_split": "test",
            "dataset_kwargs": {"data_files": {"test": str(file)}},
        }
        configurations.append(configuration(dataset, subject) | source)
    return configurations


def configuration(dataset: str, subject: str = "") -> dict[str, Any]:
    """A task as it stands in the harness's file, without the parts not for the test.

    Parameters
    ----------
    dataset : str
        A key of `TASKS`. MMLU is asked without examples, as is its default.
    subject : str
        Of MMLU.

    Returns
    -------
    dict
    """
    if dataset == "svamp":
        return _read(LOCAL / "svamp_cot.yaml")
    require()
    import lm_eval

    place = Path(lm_eval.__file__).parent / "tasks"
    task = _read(place / FILES[dataset].format(subject))
    dropped = OTHER_PARTS + (EXAMPLE_PARTS if dataset == "mmlu" else ())
    return {name: value for name, value in task.items() if name not in dropped}


def _read(file: Path) -> dict[str, Any]:
    """A task's YAML, with what it includes."""
    config = yaml.safe_load(file.read_text(encoding="utf-8"))
    if "include" not in config:
        return config
    return _read(file.parent / config.pop("include")) | config


def run(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tasks: Iterable[Mapping],
    *,
    batch_size: int = 8,
) -> dict[str, list[dict]]:
    """Evaluate a model that is in memory, its prompts in its chat template.

    Parameters
    ----------
    model, tokenizer
        The policy.
    tasks : iterable of dict
        Configurations, see `tasks`.
    batch_size : int
        Prompts at once.

    Returns
    -------
    dict
        {task: its log, a row per item and filter}.
    """
    require()
    from lm_eval.models.huggingface import HFLM

    template = tokenizer.get_chat_template()
    policy = HFLM(
        pretrained=model,
        # Its hint names two subclasses; any tokenizer does.
        tokenizer=tokenizer,  # pyrefly: ignore[bad-argument-type]
        batch_size=batch_size,
        chat_template_args={"chat_template": on_one_day(template)},
    )
    return logs_of(policy, tasks, chat=True)


def logs_of(
    lm: LM, tasks: Iterable[Mapping], *, chat: bool = False
) -> dict[str, list[dict]]:
    """As `run`, of a model as the harness has it.

    Parameters
    ----------
    lm : lm_eval.api.model.LM
        The model.
    tasks : iterable of dict
        Configurations, see `tasks`.
    chat : bool
        Whether prompts are wrapped in the model's chat template.

    Returns
    -------
    dict
    """
    from lm_eval import evaluator
    from lm_eval.tasks import TaskManager

    results = evaluator.simple_evaluate(
        lm,
        tasks=list(tasks),
        log_samples=True,
        apply_chat_template=chat,
        bootstrap_iters=0,
        # Our configurations are whole: no other task is to be listed.
        task_manager=TaskManager(include_defaults=False),
    )
    return results["samples"]


def as_lines(samples: Mapping[str, Sequence[Mapping]]) -> str:
    """The log as JSONL: per item and filter the prompts, the replies and the scores."""
    lines = []
    for task, rows in samples.items():
        for row in rows:
            logged = {name: value for name, value in row.items() if name != "doc"}
            line = {"task": task, "id": row["doc"]["id"], **logged}
            lines.append(json.dumps(line, default=str) + "\n")
    return "".join(lines)


def per_item(rows: Iterable[Mapping]) -> dict[str, dict[str, float]]:
    """Scores in the log of one task.

    Returns
    -------
    dict
        {item's id: {"metric,filter": score}}.
    """
    by_item: dict[str, dict[str, float]] = {}
    for row in rows:
        kind = row.get("filter", "none")
        values = {f"{name},{kind}": float(row[name]) for name in row["metrics"]}
        by_item.setdefault(row["doc"]["id"], {}).update(values)
    return by_item


def scores(samples: Mapping[str, Sequence[Mapping]], name: str) -> dict[str, float]:
    """Scores of one data set's metric; MMLU's subjects count as one.

    Parameters
    ----------
    samples : dict
        Of `run`.
    name : str
        A key of `TASKS`.

    Returns
    -------
    dict
        {item's id: score}.

    Raises
    ------
    ValueError
        Where the log has no such score.
    """
    task, metric = TASKS[name]
    own = {}
    for logged, rows in samples.items():
        if logged == task or logged.startswith(f"{task}_"):
            for item, row in per_item(rows).items():
                if metric in row:
                    own[item] = row[metric]
    if not own:
        raise ValueError(
            f"no score {metric!r} of task {task!r} among "
            f"{', '.join(samples) or 'nothing'}"
        )
    return own
