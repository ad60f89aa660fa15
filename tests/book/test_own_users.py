"""Chapter 18 on a reader's users, preferences and model, as a reader would run it."""

import json
import shutil

import pytest
from building import results_of, run_cells

from mipo_study import ch18_own_users as own

pytestmark = pytest.mark.long

NAME = "18-own-users"
SMALL = {"max_new_tokens": 8, "learning_rate": 0.001, "threads": 1}


def run(folder, **parameters):
    """The notebook's results, and all that it shows as Markdown."""
    shown = run_cells(NAME, folder, **SMALL, **parameters)
    return results_of(NAME, folder), shown


def write(path, rows):
    lines = [json.dumps(row) + "\n" for row in rows]
    path.write_text("".join(lines), encoding="utf-8")
    return str(path)


def pairs(conversational):
    rows = [
        {
            "prompt": f"Explain what a loan of {i} is.",
            "chosen": "A loan is money that you give back." + " Soon." * (i % 3),
            "rejected": "Dear friend, when does it open?" + " No." * i,
        }
        for i in range(12)
    ]
    if not conversational:
        return rows
    return [
        {
            name: [
                {"role": "user" if name == "prompt" else "assistant", "content": text}
            ]
            for name, text in row.items()
        }
        for row in rows
    ]


@pytest.mark.parametrize(
    "kind, conversational", [("tiny_qwen2", True), ("tiny_llama", False)]
)
def test_users_preferences_and_model(
    kind, conversational, request, examples_list, tmp_path
):
    """What is measured, and that hostile text of a user is shown, not obeyed."""
    hostile = {"context": "<script>x</script> | *c*", "query": "`{ref}`", "person": "h"}
    users = [{**example} for example in examples_list] + [hostile] * 4
    results, shown = run(
        tmp_path,
        model=str(request.getfixturevalue(kind)),
        users=write(tmp_path / "users.jsonl", users),
        seed=8,  # the hostile user is among those who are set apart
        preferences=write(tmp_path / "pairs.jsonl", pairs(conversational)),
    )
    numbers = {name: number["mean"] for name, number in results["numbers"].items()}
    assert results["own"] and not results["claims"]
    assert numbers["queries-to-train-on"] + numbers["queries-to-test-on"] == len(users)
    for policy in ("base", "mipo-random", "rmipo"):
        assert 0 <= numbers[f"match-{policy}"] <= 1
        assert 0 <= numbers[f"right-{policy}"] <= 1
        assert numbers[f"tokens-{policy}"] > 0
    gain = numbers["pmi-rmipo"] - numbers["pmi-base"]
    assert numbers["pmi-gain-rmipo"] == pytest.approx(gain, abs=1e-9)
    assert set(results["figures"]) == {"before", "gains", "length", "margins"}
    assert "&#60;script&#62;" in shown and "<script>" not in shown


def test_a_model_alone_answers_the_example(tiny_qwen2, tmp_path):
    results, _ = run(tmp_path, model=str(tiny_qwen2), methods=["sft"], n_people=4)
    assert "pmi-sft" in results["numbers"] and "pmi-rmipo" not in results["numbers"]


@pytest.fixture
def small_world(tmp_path):
    """What chapter 4 leaves, untrained: a model that knows the small world's words."""
    from mipo import models
    from mipo.worlds import language_model

    tokenizer = language_model.build_tokenizer()
    model = models.small_model(tokenizer, hidden=32, layers=1, heads=2)
    folder = tmp_path / "base"
    for part in (model, tokenizer):
        part.save_pretrained(folder)
    index = tmp_path / "run" / "artifacts" / "04-small-world.json"
    index.parent.mkdir(parents=True)
    index.write_text(json.dumps({"base-0": str(folder)}))
    return folder


def test_the_example_trains_on_what_the_model_says(small_world, tmp_path):
    results, shown = run(tmp_path, n_people=6)
    assert not results["own"]
    assert results["numbers"]["queries-to-train-on"]["mean"] == 48  # 4 of 6 users
    assert "first_loss" in shown and "0.693" in shown


def test_words_that_the_small_world_does_not_know_are_refused(
    small_world, examples_jsonl, tmp_path
):
    message = r"\d+% of the tokens in examples.jsonl are unknown.*-p model NAME"
    with pytest.raises(Exception, match=message):
        run(tmp_path, users=str(examples_jsonl))


def test_without_chapter_4_it_says_how_to_make_it(tmp_path):
    with pytest.raises(Exception, match="papermill notebooks/04-small-world.ipynb"):
        run(tmp_path)


@pytest.mark.parametrize(
    "rows, message",
    [
        ([{"question": "Hi"}], 'line 1: field "query" is missing.*rename "question"'),
        (
            [{"query": "Hi", "context": "a", "person": 3}],
            '"person" must be text, got 3',
        ),
        (
            [{"query": "Hi", "context": c} for c in "aabb"],
            "4 examples of 2 person.*at least three people",
        ),
    ],
)
def test_a_fault_in_the_users_is_named(rows, message, tiny_qwen2, tmp_path):
    base = own.Place("tiny", tiny_qwen2)
    path = write(tmp_path / "users.jsonl", rows)
    with pytest.raises(ValueError, match=message):
        own.split_users(own.read_users(path, base))


def test_a_fault_in_the_preferences_is_named(tiny_qwen2, tmp_path):
    workshop = own.Workshop(tmp_path, own.Place("tiny", tiny_qwen2))
    path = write(tmp_path / "pairs.jsonl", [{"prompt": "p", "chosen": "c"}])
    with pytest.raises(ValueError, match='line 1: column "rejected" is missing'):
        workshop.preferences(path, [], [])


def test_preferences_in_words_that_the_small_world_does_not_know_are_refused(
    small_world, tmp_path
):
    """Before anything is sampled or trained, and not as a loss that stays at log 2."""
    workshop = own.Workshop(tmp_path, own.Place("the small world's", small_world))
    rows = [
        {"prompt": f"What is loan {i}?", "chosen": "Debt.", "rejected": "A fish."}
        for i in range(3)
    ]
    path = write(tmp_path / "pairs.jsonl", rows)
    with pytest.raises(
        ValueError, match=r"\d+% of the tokens in pairs.jsonl are unkno"
    ):
        workshop.preferences(path, [], [])


def test_an_unknown_method_is_named(tiny_qwen2, tmp_path):
    workshop = own.Workshop(tmp_path, own.Place("tiny", tiny_qwen2))
    with pytest.raises(
        ValueError, match="there is no 'mipo-randon'; did you mean 'mipo-random'"
    ):
        workshop.train("mipo-randon", [], [])


def test_a_training_that_diverges_is_said(tiny_qwen2, examples_list, tmp_path):
    """The others go on; the policy that is lost is not measured."""
    shutil.rmtree(tmp_path / "run", ignore_errors=True)
    place = own.Place("tiny", tiny_qwen2)
    workshop = own.Workshop(
        tmp_path, place, learning_rate=1e38, max_new_tokens=8, seed=1
    )
    users = [{**e, "person": e["context"] or "nobody"} for e in examples_list]
    metrics = workshop.train("mipo-random", users, [])
    assert "failed" in metrics and list(workshop.policies) == ["base"]
    table = own.pd.DataFrame([{"method": "mipo-random", **metrics}])
    assert own.diverged(table).startswith("**MIPO, random diverged:** ")
