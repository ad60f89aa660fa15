"""Runs of the reasoning chapter: pairs, examination and weights on a tiny model; what is graded is what was said."""

import math
import re

import numpy as np
import pytest
import torch

from mipo import models
from mipo.data import render
from mipo.worlds import word_problems
from mipo.worlds.word_problems import TYPES, Problem
from mipo_study import ch08_word_problems, experiment

pytestmark = pytest.mark.long

TWO = Problem("two steps", "plain", (7, 5, 3), "Ben", "books")
PROBLEMS = word_problems.problems(6, split="mipo", seed=1)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sums")
    made = ch08_word_problems.base_model(
        folder, seed=0, steps=3, batch_size=8, hidden=16, progress=False
    )
    assert len(made.metrics["losses"]) == 3
    return folder, made


def test_training_examples_are_answers_to_their_prompts():
    tokenizer, rng = word_problems.build_tokenizer(), np.random.default_rng(0)
    rows = ch08_word_problems.training_examples(tokenizer)(rng, 400)
    prompts = [p for p, _ in rows]
    assert len(rows) == 400 and all(
        prompts[i] == prompts[i - i % 4] for i in range(400)
    )  # four replies to each
    assert 0.01 < np.mean([p == tokenizer.eos_token for p in prompts]) < 0.15
    assert all(
        word_problems.REPLY.fullmatch(reply) or reply == word_problems.SHRUG
        for _, reply in rows
    )


def test_a_fifth_of_the_training_prompts_lack_an_operand(monkeypatch):
    """And the reply is drawn from the law of the prompt as it is read."""
    calls = []

    def sample(problem, rng, without):
        calls.append((problem, without))
        return word_problems.SHRUG

    monkeypatch.setattr(ch08_word_problems.word_problem_law, "sample", sample)
    tokenizer = word_problems.build_tokenizer()
    examples = ch08_word_problems.training_examples(tokenizer, replies=1)
    rows = examples(np.random.default_rng(0), 1000)
    partial = np.mean([without is not None for _, without in calls])
    assert partial == pytest.approx(0.2, abs=4 * np.sqrt(0.2 * 0.8 / 1000))
    for (prompt, _), (problem, without) in zip(rows, calls, strict=True):
        text = render(tokenizer, problem.text(without=without))
        assert prompt in (text, tokenizer.eos_token)


def test_lessons_name_the_letter_of_the_right_result():
    rows = ch08_word_problems.lessons(word_problems.build_tokenizer())(
        np.random.default_rng(0), 81
    )
    assert (
        len(rows) == 21 and len({prompt for prompt, _ in rows}) > 15
    )  # a quarter of 81, rounded up
    for prompt, reply in rows:
        assert " " + " ".join(reply.split(" ")[-2:]) in prompt  # " (B: 12)"
        for a, operation, b, r in re.findall(r"(\d+) ([+x-]) (\d+) = (\d+)", reply):
            assert word_problems.apply(operation, int(a), int(b)) == int(r)


def test_an_option_starts_near_its_number():
    tokenizer = word_problems.build_tokenizer()
    before, after = (
        models.small_model(tokenizer, hidden=16, layers=1, heads=2, seed=0)
        for _ in range(2)
    )
    ch08_word_problems.prime(after, tokenizer)
    at, old, new = (
        tokenizer.convert_tokens_to_ids,
        before.lm_head.weight,
        after.lm_head.weight,
    )
    torch.testing.assert_close(
        new[at(" (B: 12)")], old[at(" (B: 12)")] + old[at(" 12")]
    )
    assert (new[at(" 12")] == old[at(" 12")]).all()


@pytest.mark.parametrize("negatives", ["random_prompt", "partial"])
def test_pairs_have_the_right_prompts(base, negatives):
    run_dir, model = base
    settings = {"base": model, "n_problems": 6, "seed": 1, "progress": False}
    made = ch08_word_problems.make_pairs(run_dir, negatives=negatives, **settings)
    rows = experiment.read_pairs(made).to_list()
    tokenizer = word_problems.build_tokenizer()
    assert [r["prompt"] for r in rows] == [
        render(tokenizer, p.text()) for p in PROBLEMS
    ]
    for i, (row, p) in enumerate(zip(rows, PROBLEMS, strict=True)):
        if negatives == "partial":
            shorter = [
                render(tokenizer, p.text(without=j)) for j in range(len(p.operands))
            ]
            assert row["rejected_prompt"] in shorter
        else:
            assert row["rejected"] in [
                r["chosen"] for j, r in enumerate(rows) if j != i
            ]
    again = ch08_word_problems.make_pairs(run_dir, negatives=negatives, **settings)
    assert not again.fresh
    with pytest.raises(ValueError, match="negatives='missing'"):
        ch08_word_problems.make_pairs(run_dir, negatives="missing", **settings)


@pytest.mark.parametrize(
    "how",
    [{}, {"temperature": 0.0}, {"alpha": 0.5}, {"alpha": 0.5, "contrast": "partial"}],
)
def test_every_reply_is_graded(base, how):
    run_dir, model = base
    made = ch08_word_problems.evaluate(
        run_dir,
        policy=model,
        split="test",
        n_problems=5,
        seed=2,
        k=3,
        progress=False,
        **how,
    )
    marks = ch08_word_problems.Grades(made, split="test", n_problems=5, seed=2)
    assert marks.types.shape == (5, 3) and marks.shares().sum() == pytest.approx(1)
    assert made.metrics["accuracy"] == pytest.approx(marks.accuracy())
    lettered = np.array([bool(p.options) for p in marks.problems])
    assert (marks.where(sort="choice") == lettered).all() and (
        marks.where(sort="open") == ~lettered
    ).all()
    if "temperature" in how:  # greedy: all replies to a problem are the same
        assert (marks.types == marks.types[:, :1]).all()


def test_graded_by_hand(base, tmp_path, monkeypatch):
    run_dir, model = base
    asked = word_problems.problems(2, split="test", seed=2)
    plans = [
        word_problems.write(
            word_problems.KINDS[p.kind].operations,
            p.operands,
            p.results(),
            p.gold if p.options else word_problems.DONE,
        )
        for p in asked
    ]
    said = [
        plans[0],
        word_problems.SHRUG,
        plans[0],
        plans[1],
        "no",
        word_problems.SHRUG,
    ]
    monkeypatch.setattr(ch08_word_problems.sampling, "generate", lambda *a, **k: said)
    made = ch08_word_problems.evaluate(
        tmp_path, policy=model, split="test", n_problems=2, seed=2, k=3, progress=False
    )
    marks = ch08_word_problems.Grades(made, split="test", n_problems=2, seed=2)
    right, empty, wrong = (TYPES.index(t) for t in ("right", "empty", "format"))
    assert marks.types.tolist() == [[right, empty, right], [right, wrong, empty]]
    assert marks.accuracy() == 0.5 and marks.vote() == 1.0
    assert marks.odds("empty") == pytest.approx(
        np.log(3.5 / 2.5)
    )  # three right, two empty, half an item added to each
    only = {"kind": asked[0].kind, "manner": asked[0].manner, "sort": asked[0].sort}
    assert not asked[1].fits(**only) and marks.accuracy(**only) == pytest.approx(2 / 3)
    marks.answers[0] = ["no", "no", asked[0].gold]
    assert marks.vote() == 0.5 and marks.vote(**only) == 0.0


def test_sums_are_scored_under_the_right_work(base, tmp_path):
    """p(12 | … So 7 + 5 =) · p(9 | … 12 - 3 =), each from the logits after the equals sign."""
    _, run = base
    policy, tokenizer = models.load_model(run.path / "model")
    rows = ch08_word_problems.result_rows(tokenizer, TWO)
    prompt = render(tokenizer, TWO.text())
    assert [tokenizer.decode(head) for head, _ in rows] == [
        prompt + "So 7 + 5 =",
        prompt + "So 7 + 5 = 12, 12 - 3 =",
    ]
    assert [tokenizer.decode(tail) for _, tail in rows] == [" 12", " 9"]
    made = ch08_word_problems.score_sums(
        tmp_path, policy=run, split="test", n_problems=4, seed=0, progress=False
    )
    expected = []
    for p in word_problems.problems(4, split="test", seed=0):
        logps = [
            policy(torch.tensor([head])).logits[0, -1].log_softmax(-1)[tail[0]].item()
            for head, tail in ch08_word_problems.result_rows(tokenizer, p)
        ]
        expected += [] if p.options else [math.exp(sum(logps))]
    assert 0 < len(expected) < 4 and made.metrics["open"] == pytest.approx(
        np.mean(expected), rel=1e-4
    )


def test_reinforce_is_a_run(base):
    run_dir, model = base
    made = ch08_word_problems.reinforce(
        run_dir,
        base=model,
        n_problems=6,
        lr=1e-3,
        beta=0.1,
        batch_size=2,
        k=2,
        progress=False,
    )
    assert made.metrics["steps"] == 3 and (made.path / "model" / "config.json").exists()


def test_the_search_takes_the_most_right_and_counts_what_diverged_as_nothing(
    base, tmp_path, monkeypatch
):
    """Three rates: one diverges, of the others the second answers more problems right."""
    _, model = base

    def train(run_dir, *, lr, seed, progress):
        metrics = {"failed": "the loss is nan"} if lr == 1.0 else {}
        return type("Run", (), {"metrics": metrics, "lr": lr})()

    class Marks:
        def __init__(self, lr):
            self.lr = lr

        def accuracy(self):
            return {0.1: 0.2, 0.2: 0.4}[self.lr]

    def grade(policies, **settings):
        assert settings["split"] == "select"
        return {key: Marks(run.lr) for key, run in policies.items()}

    monkeypatch.setattr(ch08_word_problems, "grade_many", grade)
    calls = {(lr, s): {"lr": lr, "seed": s} for lr in (0.1, 1.0, 0.2) for s in (0, 1)}
    best = ch08_word_problems.search(train, calls, run_dir=tmp_path, n_problems=5)
    assert best == (0.2,)


def test_relative_gain_by_hand():
    assert ch08_word_problems.relative_gain([0.5, 0.0], [0.6, 0.3]) == pytest.approx(
        [0.2, 0.0]
    )
