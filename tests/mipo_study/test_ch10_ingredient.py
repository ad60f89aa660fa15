"""The margin on pairs whose truth is known: exact Δpmi by hand, weights against a constant margin, steadiness."""

import math

import numpy as np
import pytest

from mipo.data import render
from mipo.logprobs import response_logps
from mipo.models import small_model
from mipo.theory.margin import Margin
from mipo.world import World
from mipo.worlds import population
from mipo.worlds.grammar import TASKS
from mipo.worlds.language_model import build_tokenizer
from mipo.worlds.scoring import as_person
from mipo_study import ch10_ingredient

WORLD = World()


@pytest.fixture(scope="module")
def pairs():
    examples, rng = (
        population.examples(8, split="mipo", seed=1),
        np.random.default_rng(0),
    )
    said = [
        [WORLD.sample(r["task"], as_person(r), r["topic"], rng) for r in examples]
        for _ in range(2)
    ]
    rows = [
        {"chosen": a, "rejected": b, "example": i}
        for i, (a, b) in enumerate(zip(*said, strict=True))
    ]
    return rows, examples


def test_exact_delta_pmi_is_the_person_s_pmi_plus_what_lengths_leave(pairs):
    """By another way: PMI(y) = World.pmi + log(tasks · topics), divided by the tokens that a model would score."""
    rows, examples = pairs
    tokenizer = build_tokenizer()
    found = ch10_ingredient.exact_delta_pmi(rows, examples, tokenizer)
    model = small_model(tokenizer, hidden=16, layers=1, heads=2)
    for row, value in zip(rows, found, strict=True):
        r, pmi = examples[row["example"]], {}
        for side in ("chosen", "rejected"):
            prompt = render(tokenizer, r["query"], r["context"])
            tokens = response_logps(
                model, tokenizer, [prompt], [row[side]]
            ).tokens.item()
            given_away = math.log(len(TASKS) * len(TASKS[r["task"]].topics))
            pmi[side] = (
                WORLD.pmi(row[side], r["task"], as_person(r)) + given_away
            ) / tokens
        assert value == pytest.approx(pmi["chosen"] - pmi["rejected"], abs=1e-9)


def test_a_sentence_gives_its_task_and_topic_away(pairs):
    """So p(y) has one term: under every other task or topic the same reply is impossible."""
    rows, examples = pairs
    for row in rows[:6]:
        possible = [
            (task, topic)
            for task in TASKS
            for topic in TASKS[task].topics
            if np.isfinite(WORLD.log_prob(row["chosen"], task, topic=topic))
        ]
        assert possible == [
            (examples[row["example"]]["task"], examples[row["example"]]["topic"])
        ]


def test_a_reply_outside_the_grammar_or_off_topic_has_no_exact_pmi(pairs):
    rows, examples = pairs
    other = next(
        i
        for i, r in enumerate(examples)
        if r["task"] == examples[0]["task"] and r["topic"] != examples[0]["topic"]
    )
    broken = [
        rows[0] | {"chosen": "no sentence"},
        rows[0] | {"rejected": rows[other]["chosen"]},
        rows[0],
    ]
    found = ch10_ingredient.exact_delta_pmi(broken, examples, build_tokenizer())
    assert np.isnan(found[:2]).all() and np.isfinite(found[2])


def test_agreement_of_a_line_and_without_the_unknown():
    exact = np.array([0.0, 1.0, 2.0, np.nan])
    assert ch10_ingredient.agreement(exact, 3 * exact + 1) == {
        "r": pytest.approx(1),
        "slope": pytest.approx(3),
        "pairs": 3,
    }
    assert ch10_ingredient.agreement([0, 0, 1, 1], [0, 1, 0, 1])["r"] == pytest.approx(
        0
    )
    for bad in ([1.0, np.nan], [1.0, 1.0]):
        with pytest.raises(ValueError, match="at least 2"):
            ch10_ingredient.agreement(bad, [0.0, 1.0])


def test_reweighting_by_hand():
    """Two pairs: γ = 1.6 at Δpmi ≤ 0 and 0.3 + 1.3/2 = 0.95 at Δpmi = log 2; their mean is 1.275; β = 2."""

    def w(gamma, gap):
        return 1 / (1 + math.exp(-2 * (gamma - gap)))

    found = ch10_ingredient.reweighting([-0.4, 1.0], [-3.0, math.log(2)])
    assert found["hard"] == pytest.approx(w(1.6, -0.4) / w(1.275, -0.4))
    assert found["learned"] == pytest.approx(w(0.95, 1.0) / w(1.275, 1.0))
    assert found["learned"] < 1 < found["hard"]
    both = (w(1.6, -0.4) + w(0.95, 1.0)) / (w(1.275, -0.4) + w(1.275, 1.0))
    assert found["all"] == pytest.approx(both)


def test_reweighting_limits():
    """A margin that does not decay changes nothing; the paper's asks for γ/β; a group without pairs has no ratio."""
    gap = np.linspace(-1, 2, 7)
    assert ch10_ingredient.reweighting(
        gap, gap, Margin(gamma_min=0.5, gamma_max=0.5)
    ) == {k: pytest.approx(1) for k in ("learned", "hard", "all")}
    assert ch10_ingredient.reweighting([0.5, 1.0], [0.0, 1.0])["hard"] is None
    code, paper = (
        ch10_ingredient.reweighting(gap, gap, Margin(convention=c))
        for c in ("code", "paper")
    )
    assert paper["learned"] != pytest.approx(code["learned"]) and paper["learned"] < 1


def test_unrest_by_hand():
    log = [{"margin/gamma_std": s} for s in (3, 1, 2, 2, 4, 2, 1, 2, 100, 2)]
    assert ch10_ingredient.unrest(log, "gamma", share=0.2) == (
        5.0,
        4.0,
    )  # medians of 9 1, and of 4 4 16 4 1 4 10000 4
    for few in ([], log[:1]):
        with pytest.raises(ValueError, match="cannot be split"):
            ch10_ingredient.unrest(few, "gamma")


def test_means_and_curves_read_the_log():
    log = [
        {
            "margin/gamma": g,
            "margin/gamma_std": 0.1,
            "margin/delta_pmi": 0.2,
            "margin/delta_pmi_std": 0.3,
            "loss": 9.0,
        }
        for g in (1.5, 1.3)
    ]
    assert ch10_ingredient.mean_of(log, "gamma") == pytest.approx(1.4)
    assert ch10_ingredient.mean_of(log, "delta_pmi_std") == pytest.approx(0.3)
    assert (
        ch10_ingredient.mean_of([], "gamma") == 1.6
        and ch10_ingredient.mean_of([], "gamma_std") == 0
    )
    assert ch10_ingredient.curve(log) == {
        "gamma": [1.5, 1.3],
        "gamma_std": [0.1, 0.1],
        "delta_pmi": [0.2, 0.2],
        "delta_pmi_std": [0.3, 0.3],
    }
