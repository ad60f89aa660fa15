"""Chapter 14, reasoning: which questions, where a reply ends, what letters are worth, what a sample can see."""

import json

import numpy as np
import pandas as pd
import pytest
from datasets import Dataset

from mipo import packaged, record
from mipo.lm.sampling import Reply
from mipo.models import load_model
from mipo.numbers import interval_of
from mipo_study import ch14_reasoning
from mipo_study.hub import harness


@pytest.fixture
def data(monkeypatch, mipo_data):
    monkeypatch.setenv("MIPO_DATA", str(mipo_data))


@pytest.fixture(scope="module")
def stand_in():
    return load_model(packaged.STAND_IN)


# ---- questions ----


def test_who_is_tested_is_not_learned_from_and_the_wrong_gold_answer_is_left_out(
    data, tmp_path
):
    run = ch14_reasoning.draw(tmp_path, n_svamp=400, n_mmlu=50)
    test, train = ch14_reasoning.read(run), ch14_reasoning.read(run, "train")
    again = ch14_reasoning.draw(tmp_path, n_svamp=400, n_mmlu=50, split="select")
    select = ch14_reasoning.read(again)
    parts = [{item["id"] for item in part} for part in (test, train, select)]
    assert [len(part) for part in parts] == [450, 499, 100]
    assert len(set.union(*parts)) == 450 + 499 + 100
    # SVAMP has 1000 problems: 400 + 100 + 499 and chal-680, whose gold answer is wrong.
    assert run.metrics["left_out"] == 1
    assert "chal-680" not in {item.get("source_id") for item in [*test, *train]}
    assert run.metrics["overlap"] < 0.2  # drawn one by one it is 0.78


def test_questions_do_not_depend_on_their_order_in_the_file(data, monkeypatch):
    first = ch14_reasoning.pool("svamp")
    fetch = ch14_reasoning.benchmarks.fetch

    def turned(name, folder):
        rows, commit = fetch(name, folder)
        return {"train": rows["test"][::-1], "test": rows["train"]}, commit

    monkeypatch.setattr(ch14_reasoning.benchmarks, "fetch", turned)
    assert ch14_reasoning.pool("svamp") == first


# ---- where a reply ends ----


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("1 + 1 = 2.\n#### 2\n\nQuestion: A bat?\n#### 9", "1 + 1 = 2.\n#### 2"),
        ("#### 2\nNew question: A bat?", "#### 2"),
        ("#### 2\nNew question: A bat?\nQuestion: A ball?", "#### 2"),
        ("#### 2", "#### 2"),
        ("Question: why?", "Q"),  # one token at least, here a byte
    ],
)
def test_a_reply_ends_where_the_model_invents_a_question(stand_in, text, kept):
    _, tokenizer = stand_in
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    reply = ch14_reasoning.ended(tokenizer, Reply(text, ids, finished=True))
    assert reply.text == kept
    assert tokenizer.decode(reply.ids) == kept
    assert reply.finished == (text == kept)


def test_the_harness_ends_a_reply_at_the_same_words():
    task = harness.configuration("svamp")
    assert tuple(task["generation_kwargs"]["until"]) == ch14_reasoning.ENDS


def test_what_is_asked_of_a_word_problem(monkeypatch, stand_in):
    """Two of three replies go on to another question; one of them has no end."""
    _, tokenizer = stand_in
    texts = ["#### 3\nQuestion: Why?\n#### 4", "#### 5", "#### 6\nQuestion: W"]
    whole = [
        Reply(text, tokenizer(text, add_special_tokens=False)["input_ids"], done)
        for text, done in zip(texts, (True, True, False), strict=True)
    ]
    monkeypatch.setattr(ch14_reasoning.sampling, "sample", lambda *_, **__: whole)
    items = [{"query": "1 + 2?", "options": []}] * 3
    replies, shares = ch14_reasoning.solve(None, tokenizer, items)
    assert [reply.text for reply in replies] == ["#### 3", "#### 5", "#### 6"]
    assert shares == {"invented": pytest.approx(2 / 3), "cut": 0.0}


# ---- multiple choice ----

CHOICES = [
    {
        "id": f"mmlu-{i}",
        "task": "mmlu",
        "query": query,
        "options": options,
        "gold": "B",
        "subject": subject,
    }
    for i, (query, options, subject) in enumerate(
        [
            ("What pumps blood?", ["lung", "heart", "skin", "bone"], "anatomy"),
            ("Who wrote it?", ["Ann", "Bob", "Cy", "Di"], "high_school_us_history"),
        ]
    )
]


@pytest.mark.long
def test_letters_are_worth_what_the_harness_says(monkeypatch, tmp_path, stand_in):
    """Prompts and log-probs of lm-evaluation-harness's own MMLU, in the chat template."""
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)
    model, tokenizer = stand_in
    rows = harness.rows_of("mmlu", CHOICES)
    log = harness.run(model, tokenizer, harness.tasks("mmlu", rows, tmp_path))
    theirs = {row["doc"]["id"]: row for task in log.values() for row in task}
    ours = ch14_reasoning.letter_logps(model, tokenizer, CHOICES)
    for item, logps in zip(CHOICES, ours, strict=True):
        row = theirs[item["id"]]
        asked = [prompt for prompt, _ in row["arguments"]]
        assert set(asked) == {ch14_reasoning.choice_prompt(tokenizer, item)}
        found = np.array([float(answer[0][0]) for answer in row["resps"]])
        # The harness scores the line break before the letter too, the same for all.
        assert logps - logps[0] == pytest.approx(found - found[0], abs=1e-3)


def test_the_likeliest_letter_is_chosen(monkeypatch):
    logps = np.array([[-1.0, -2.0, -3.0, -0.5], [-1.0, -2.0, -3.0, -4.0]])
    monkeypatch.setattr(ch14_reasoning, "letter_logps", lambda *_, **__: logps)
    assert ch14_reasoning.choose(None, None, CHOICES) == ["D", "A"]


# ---- statistics ----


class Stored:
    """A run that has answered some questions."""

    def __init__(self, **right):
        self.right = {
            f"{task}-{i}": float(done)
            for task, answers in right.items()
            for i, done in enumerate(answers)
        }

    def read(self, name):
        assert name == "answers.json"
        return json.dumps({"right": self.right})


def trials_of(before, after):
    """One untrained run and one run per seed of MIPO on wishes, of SVAMP alone."""
    calls = {("base", 0): Stored(svamp=before)}
    calls |= {("wishes", seed): Stored(svamp=right) for seed, right in enumerate(after)}
    index = pd.MultiIndex.from_tuples(calls, names=["arm", "seed"])
    return pd.DataFrame({"run": list(calls.values())}, index=index)


def test_gains_are_paired_by_question():
    """By hand: of ten questions two are right before; after, these and one or two more."""
    before = [1, 1] + [0] * 8
    after = [[1, 1, 1] + [0] * 7, [1, 1, 0, 1, 1] + [0] * 5]
    trials = trials_of(before, after)
    points = ch14_reasoning.gain(trials, "wishes", "svamp")
    share = ch14_reasoning.gain(trials, "wishes", "svamp", relative=True)
    assert points[0] == pytest.approx(0.15)  # (1 + 2) / 2 of 10
    assert share[0] == pytest.approx(0.75)  # of two
    assert points[1] < points[0] < points[2]
    nothing = trials_of([0] * 10, after)
    undefined = ch14_reasoning.gain(nothing, "wishes", "svamp", relative=True)
    assert np.isnan(undefined).all()
    found = {"svamp": undefined, "mmlu": share}
    (part,) = ch14_reasoning.parts(found, (0.01, None), "share").values()
    assert part["value"] == share[0] and part["interval"] == share[1:]


def test_a_sample_in_which_no_answer_differs_is_no_proof():
    """By hand: Wilson's limit of 0 of 10 is z²/(10 + z²), 3.8415/13.8415."""
    alike = trials_of([1] * 2 + [0] * 8, [[1] * 2 + [0] * 8] * 2)
    points = ch14_reasoning.gain(alike, "wishes", "svamp")
    share = ch14_reasoning.gain(alike, "wishes", "svamp", relative=True)
    assert points == pytest.approx((0, -0.27754, 0.27754), abs=1e-4)
    assert share == pytest.approx((0, -1.38767, 1.38767), abs=1e-4)  # of 0.2


def test_the_smallest_difference_that_is_found_four_times_of_five():
    """By hand: 0.1 ± 1.96 · 0.02 has a standard error of 0.02; 1.960 + 0.842 = 2.802 of them.

    z quantiles from any table of the normal law: 1.959964, 0.841621.
    """
    found = ch14_reasoning.detectable((0.1, 0.1 - 0.0391993, 0.1 + 0.0391993))
    assert found == pytest.approx(2.801585 * 0.02, abs=1e-6)
    assert np.isnan(ch14_reasoning.detectable((0.0, 0.0, 0.0)))


def test_a_true_difference_of_that_size_is_found_four_times_of_five():
    """By simulation: estimates of standard error 1 about the smallest detectable one."""
    least = ch14_reasoning.detectable((0.0, -1.959964, 1.959964))
    estimates = np.random.default_rng(0).normal(least, 1, 100_000)
    assert np.mean(estimates > 1.959964) == pytest.approx(0.8, abs=0.005)


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [
        (0.01, 0.2, "rises"),
        (-0.2, -0.01, "falls"),
        (-0.01, 0.2, "not detectable"),
        (0.0, 0.0, "not detectable"),
        (None, None, "not detectable"),
    ],
)
def test_what_may_be_said_of_a_gain(low, high, word):
    assert ch14_reasoning.word(low, high) == word


# ---- all of it, on the stand-in ----


@pytest.fixture(scope="module")
def found(tmp_path_factory, mipo_data):
    """The stand-in, and what it learns from 16 wishes and from 16 problems."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIPO_DATA", str(mipo_data))
        questions = ch14_reasoning.draw(folder, n_svamp=4, n_mmlu=6)
    return ch14_reasoning.compare(
        folder,
        base=packaged.STAND_IN,
        questions=questions,
        seeds=[0],
        wishes=(1e-2, 1),
        n_pairs=16,
        arms=["wishes", "problems-placebo"],
    )


def test_every_arm_is_asked_the_same_and_keeps_no_weights(found):
    names = [("base", 0), ("wishes", 0), ("problems-placebo", 0)]
    assert found.index.to_list() == names
    base = found.run["base", 0]
    for task, n in {"svamp": 4, "mmlu": 6}.items():
        asked = ch14_reasoning.right_of(base, task)
        assert len(asked) == n
        assert set(asked.values()) <= {0.0, 1.0}
        for run in found.run:
            assert list(ch14_reasoning.right_of(run, task)) == list(asked)
    for run in found.run:
        assert not (run.path / "model").exists()


def test_training_starts_at_log_2(found):
    trained = found.drop("base", level="arm")
    assert trained.first_loss.to_list() == pytest.approx([np.log(2)] * 2, abs=1e-4)


def test_a_table_is_read_off_the_numbers_kept(found, tmp_path):
    nb = record.Notebook("14-real-model", run_dir=tmp_path)
    ch14_reasoning.keep(nb, found)
    shown = ch14_reasoning.table(nb.numbers.get)
    assert len(shown) == 2 * 3
    mmlu = shown[shown.questions == ch14_reasoning.TASKS["mmlu"]].set_index("policy")
    assert mmlu.right["untrained"] == found.mmlu["base", 0]
    assert mmlu.right["MIPO on wishes"] == found.mmlu["wishes"].mean()
    more = mmlu.right["MIPO on wishes"] - mmlu.right["untrained"]
    assert mmlu.gain["MIPO on wishes"] == pytest.approx(more)
    assert ch14_reasoning.table(lambda name: None).empty


def numbers_of(least):
    """400 questions of which 40 are right; gains that are detected from `least` on."""
    numbers = {
        "mmlu-base": interval_of(0.1, "of questions"),
        "mmlu-n": interval_of(400, "questions"),
        "mmlu-detectable-wishes": interval_of(0.01, "of questions"),
        "mmlu-detectable-problems": interval_of(least, "of questions"),
        "invented-base": interval_of(0.64, "of replies"),
    }
    return numbers.get


def test_what_a_sample_can_see_is_said_by_number():
    """By hand: 0.04 is 40 % of the 0.1 that are right, 0.02 is 20 %."""
    told = ch14_reasoning.reading(numbers_of(0.04))
    assert "MMLU" in told and "SVAMP" not in told
    assert "10.0% right, a guess 25%" in told
    assert "detected is 4.0 points of 100, 40% of that" in told
    assert "20%, would not be seen either" in told and "64%" in told
    assert "20%, would be seen" in ch14_reasoning.reading(numbers_of(0.02))
    assert ch14_reasoning.reading(lambda name: None) == ""


@pytest.fixture
def rows_seen(monkeypatch):
    """Every training gets eight pairs, and diverges; what each was given."""
    pairs = Dataset.from_dict(
        {"chosen": list("abcdefgh"), "rejected": list("ABCDEFGH")}
    )
    seen = []

    def diverge(rows, **_):
        seen.append(rows)
        raise FloatingPointError("the loss is nan")

    monkeypatch.setattr(ch14_reasoning.experiment, "train_on", diverge)
    monkeypatch.setattr(ch14_reasoning.experiment, "read_pairs", lambda _: pairs)
    item = {"id": "svamp-1", "task": "svamp"}
    monkeypatch.setattr(ch14_reasoning, "read", lambda _: [item])
    return seen


@pytest.mark.parametrize("placebo", [False, True])
def test_a_diverged_training_has_nothing_right(rows_seen, tmp_path, placebo):
    base = packaged.STAND_IN
    keywords = {"name": "x", "base": base, "seed": 3, "pairs": base, "questions": base}
    run = ch14_reasoning.trial(tmp_path, placebo=placebo, **keywords)
    assert run.metrics["failed"] == "the loss is nan"
    assert ch14_reasoning.right_of(run, "svamp") == {"svamp-1": 0.0}
    # mipo.pairs: a coin of stream (seed, 3) swaps where it falls below a half
    heads = np.random.default_rng((3, 3)).random(8) < 0.5
    chosen = [
        low.upper() if head else low
        for low, head in zip("abcdefgh", heads, strict=True)
    ]
    (rows,) = rows_seen
    assert rows["chosen"][:] == (chosen if placebo else list("abcdefgh"))
    assert 0 < sum(heads) < 8
