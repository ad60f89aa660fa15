"""The layer over lm-evaluation-harness: its scores by item; its tasks run on a tiny model and our items."""

import json

import hub_fixtures
import pytest
from hub_fixtures import roomy

from mipo import files
from mipo_study.hub import answers, benchmarks, harness, train
from mipo_study.hub import scores as real_scores
from mipo_study.hub.download import Place

pytestmark = pytest.mark.long


@pytest.fixture(autouse=True)
def brief(monkeypatch):
    """Without the harness's report on the machine, which starts a dozen processes."""
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)


LOG = [
    {
        "doc": {"id": "a"},
        "metrics": ["exact_match"],
        "filter": "strict-match",
        "exact_match": 1.0,
    },
    {
        "doc": {"id": "a"},
        "metrics": ["exact_match"],
        "filter": "flexible-extract",
        "exact_match": 1.0,
    },
    {
        "doc": {"id": "b"},
        "metrics": ["exact_match"],
        "filter": "strict-match",
        "exact_match": 0,
    },
]


def test_scores_per_item():
    found = {"gsm8k_cot": LOG}
    assert harness.scores(found, "gsm8k") == {"a": 1.0, "b": 0.0}
    groups = {
        f"mmlu_{subject}": [{"doc": {"id": i}, "metrics": ["acc"], "acc": value}]
        for subject, i, value in (("law", "x", 1), ("art", "y", 0))
    }
    assert harness.scores(groups, "mmlu") == {"x": 1.0, "y": 0.0}
    with pytest.raises(
        ValueError, match="no score 'acc,none' of task 'arc_challenge' among gsm8k_cot"
    ):
        harness.scores(found, "arc-challenge")


def test_without_it_the_message_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(harness, "available", lambda: False)
    with pytest.raises(ValueError, match=r"pip install.*\[gpu\]"):
        harness.run(None, None, ["gsm8k_cot"])


def test_rows_are_our_items_in_the_columns_that_the_tasks_read():
    (row,) = harness.rows_of(
        "arc-challenge", [{"id": "i", "query": "q", "gold": "B", "options": ["x", "y"]}]
    )
    assert row == {
        "id": "i",
        "question": "q",
        "answerKey": "B",
        "choices": {"text": ["x", "y"], "label": ["A", "B"]},
    }
    sums = [{"id": "i", "query": "q?", "gold": "1005", "options": []}]
    assert harness.rows_of("gsm8k", sums) == [
        {"id": "i", "question": "q?", "answer": "#### 1005"}
    ]
    assert harness.rows_of("svamp", sums, shots=2)[0]["prompt"] == answers.prompt(
        sums[0], 2
    )  # not 8


def items_of(name, mipo_data, tmp_path):
    """Three test items: from the real files where there are some; MMLU's of two subjects."""
    if name == "arc-challenge":
        return benchmarks.load(
            name, folder=hub_fixtures.arc(tmp_path / "a"), n_test=3
        ).test
    rows = benchmarks.load(name, folder=mipo_data, n_test=0).test
    return rows[:2] + rows[-1:]


@pytest.mark.parametrize("name", sorted(harness.TASKS))
def test_every_task_reads_our_items_and_nothing_else(
    name, tiny_qwen2, mipo_data, tmp_path, monkeypatch
):
    """Offline: nothing is fetched. Prompts hold our questions; a random model is right nowhere in sums."""
    whole = harness.configuration

    def small(*args):  # few tokens and one worked example, for speed
        config = whole(*args)
        config.setdefault("generation_kwargs", {})["max_gen_toks"] = 4
        return config | ({"num_fewshot": 1} if name == "gsm8k" else {})

    monkeypatch.setattr(harness, "configuration", small)
    items, base = (
        items_of(name, mipo_data, tmp_path),
        Place("m", roomy(tiny_qwen2, tmp_path / "m")),
    )
    found = real_scores.by_harness(tmp_path / "run", base, name, items, shots=1)
    scores = files.read_json(found.path / "scores.json")
    assert set(scores) == {i["id"] for i in items} and set(scores.values()) <= {
        0.0,
        1.0,
    }
    written = "".join(f.read_text() for f in sorted(found.path.glob("items*.jsonl")))
    assert all(json.dumps(i["query"])[1:-1] in written for i in items)
    log = [
        json.loads(line)
        for line in (found.path / "samples.jsonl").read_text().splitlines()
    ]
    assert {row["id"] for row in log} == set(scores) and all(
        row["resps"] for row in log
    )  # what the policy said
    assert all(
        any(json.dumps(i["query"])[1:-1] in json.dumps(row["arguments"]) for row in log)
        for i in items
    )
    assert not real_scores.by_harness(
        tmp_path / "run", base, name, items, shots=1
    ).fresh
    assert real_scores.by_harness(
        tmp_path / "run", base, name, items[:2], shots=1
    ).fresh  # the items are in the key


def test_a_task_and_the_harness_s_version_are_in_the_key(monkeypatch, tmp_path):
    """Our own task's file is: another regex is another score. Of the harness's own tasks its version says what they are."""
    item = {"id": "a", "query": "q", "gold": "1", "options": []}
    monkeypatch.setattr(
        harness, "run", lambda *_, **__: {"svamp_cot": LOG[:1], "gsm8k_cot": LOG[:1]}
    )
    monkeypatch.setattr(train, "load", lambda *_, **__: (None, None))

    def fresh(name):
        return real_scores.by_harness(
            tmp_path / "run", Place("m", tmp_path, "a" * 40), name, [item]
        ).fresh

    assert fresh("svamp") and fresh("gsm8k") and not fresh("svamp")
    text = (harness.LOCAL / "svamp_cot.yaml").read_text()
    (tmp_path / "svamp_cot.yaml").write_text(text.replace("####", "Answer:"))
    monkeypatch.setattr(harness, "LOCAL", tmp_path)
    assert fresh("svamp") and not fresh("gsm8k")
    monkeypatch.setattr(harness.importlib.metadata, "version", lambda name: "9.9")
    assert fresh("gsm8k")


def test_an_item_without_a_score_is_refused(monkeypatch, tmp_path):
    """It would have no partner when a policy is compared with the base model."""
    monkeypatch.setattr(harness, "run", lambda *_, **__: {"svamp_cot": LOG[:1]})
    monkeypatch.setattr(train, "load", lambda *_, **__: (None, None))
    items = [{"id": i, "query": "q", "gold": "1", "options": []} for i in "ab"]
    with pytest.raises(ValueError, match="scored 1 of 2 items of svamp; not b"):
        real_scores.by_harness(
            tmp_path / "run", Place("m", tmp_path, "a" * 40), "svamp", items
        )


def test_the_harness_sees_a_right_answer(mipo_data, tmp_path, monkeypatch):
    """A model that always gives the gold answer is right everywhere: ids, golds and filters fit together."""
    from lm_eval.api.model import LM

    class Oracle(LM):
        def __init__(self, golds):
            super().__init__()
            self.golds = golds

        def generate_until(self, requests):
            return [
                f"The answer is {self.golds[r.doc['id']]}.\n#### {self.golds[r.doc['id']]}"
                for r in requests
            ]

        def loglikelihood(self, requests):
            return [
                (
                    0.0 if r.idx == "ABCDE".index(self.golds[r.doc["id"]]) else -9.0,
                    False,
                )
                for r in requests
            ]

        loglikelihood_rolling = None

    for name in harness.TASKS:
        items = items_of(name, mipo_data, tmp_path)
        tasks = harness.tasks(name, harness.rows_of(name, items, 1), tmp_path / name)
        found = harness.logs_of(Oracle({i["id"]: i["gold"] for i in items}), tasks)
        assert harness.scores(found, name) == {i["id"]: 1.0 for i in items}, name
