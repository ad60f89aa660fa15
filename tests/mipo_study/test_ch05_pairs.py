"""Contrasts: counted on pairs written by hand, and the expected values against Monte Carlo from the exact laws."""

import numpy as np
import pytest
from datasets import Dataset

from mipo.world import NOBODY, World
from mipo.worlds import population, scoring
from mipo_study import ch05_pairs

pytestmark = pytest.mark.long

WORLD = World()
VALUES = {
    "role": "owner",
    "tone": "blunt",
    "detail": "short",
    "hobby": "chess",
    "budget": "high",
    "units": "metric",
    "pet": "dog",
    "city": "Oslo",
}
RECORD = {"task": "recommend", "topic": "gift", "values": VALUES, "context": "a"}
OWN = "For a gift I say buy a chess clock, made by hand. Enjoy Oslo."  # every slot states the person's own value
OTHER = "For a gift I recommend a chess clock, at a fair price."  # hobby as before; tone, budget, aside differ


def by_hand(rejected=OTHER):
    return Dataset.from_list(
        [
            {
                "example": 0,
                "chosen": OWN,
                "rejected": rejected,
                "rejected_context": "b"
                if isinstance(rejected, str)
                else ["b"] * len(rejected),
            }
        ]
    )


def sampled(examples, rng):
    """Pairs from the exact laws: chosen from p(y|x,c), rejected from the marginal."""
    return Dataset.from_list(
        [
            {
                "example": i,
                "rejected_context": "",
                "chosen": WORLD.sample(
                    r["task"], scoring.as_person(r), r["topic"], rng
                ),
                "rejected": WORLD.sample(r["task"], NOBODY, r["topic"], rng),
            }
            for i, r in enumerate(examples)
        ]
    )


@pytest.fixture(scope="module")
def drawn():
    examples = population.examples(500, split=None, seed=0)
    return sampled(examples, np.random.default_rng(0)), examples


def test_counts_by_hand():
    pairs = by_hand()
    assert dict(ch05_pairs.differing(pairs, [RECORD])) == {
        "budget": 1,
        "hobby": 0,
        "tone": 1,
        "aside": 1,
    }
    assert dict(ch05_pairs.own_values(pairs, [RECORD], "chosen")) == {
        "budget": 1,
        "hobby": 1,
        "tone": 1,
        "aside": 1,
    }
    assert dict(ch05_pairs.own_values(pairs, [RECORD], "rejected")) == {
        "budget": 0,
        "hobby": 1,
        "tone": 0,
        "aside": 0,
    }


def test_replies_outside_the_grammar_are_left_out():
    pairs = by_hand("No idea.")
    assert dict(ch05_pairs.differing(pairs, [RECORD])) == {}
    assert np.isnan(ch05_pairs.pmi(pairs, [RECORD], "rejected")).all()


def test_pmi_by_hand():
    """log (f + (1 - f)π)/π per slot that states its own value (follow rates and priors of the grammar)."""
    prior, follow = np.array([0.15, 0.10, 0.15]), np.array([0.2, 0.5, 0.4])
    expected = np.log((follow + (1 - follow) * prior) / prior).sum()
    assert ch05_pairs.pmi(by_hand(), [RECORD], "chosen")[0] == pytest.approx(expected)


def test_k_negatives_give_k_rows():
    both = ch05_pairs.reply_table(by_hand([OTHER, OWN]), [RECORD], "rejected")
    assert both["reply"].tolist() == [OTHER, OWN]
    assert ch05_pairs.differing(by_hand([OTHER, OWN]), [RECORD])["tone"] == 0.5


def test_expected_values_meet_monte_carlo(drawn):
    pairs, examples = drawn
    differ, expected = (
        ch05_pairs.differing(pairs, examples),
        ch05_pairs.expected_differing(examples),
    )
    assert list(differ.index) == list(expected.index)
    for (
        label,
        share,
    ) in expected.items():  # at least 500 slots each: five standard errors
        assert differ[label] == pytest.approx(share, abs=5 * 0.5 / np.sqrt(500))
    gaps = ch05_pairs.pmi(pairs, examples, "chosen") - ch05_pairs.pmi(
        pairs, examples, "rejected"
    )
    assert gaps.mean() == pytest.approx(
        ch05_pairs.expected_gap(examples), abs=5 * gaps.std() / np.sqrt(len(gaps))
    )
    same = np.mean(
        [a == b for a, b in zip(pairs["chosen"], pairs["rejected"], strict=True)]
    )
    expected = ch05_pairs.expected_identical(examples)
    assert same == pytest.approx(expected, abs=5 * np.sqrt(expected / len(examples)))


def test_collisions_by_hand():
    """Contexts a, a, b: own one is drawn with chance 2/3, 2/3, 1/3; mean 5/9. Two draws: 1 - (1 - p)²."""
    examples = [{"context": c} for c in "aab"]
    assert ch05_pairs.expected_collisions(examples) == pytest.approx(5 / 9)
    assert ch05_pairs.expected_collisions(examples, k=2) == pytest.approx(
        (8 / 9 + 8 / 9 + 5 / 9) / 3
    )


def test_same_law_accepts_the_marginal_and_rejects_another(drawn):
    pairs, examples = drawn
    alike = ch05_pairs.same_law(pairs["chosen"], pairs["rejected"], examples)
    assert (
        set(alike) == set(scoring.TASKS) and min(alike.values()) > 1e-4
    )  # chosen replies mix to the marginal, too
    rng, usual = np.random.default_rng(1), World("default")
    other = [usual.sample(r["task"], NOBODY, r["topic"], rng) for r in examples]
    assert max(ch05_pairs.same_law(pairs["chosen"], other, examples).values()) < 1e-6


def test_same_law_has_uniform_p_values():
    """Under the null, about a tenth of the p-values lie below 0.1 (15 runs of six tasks)."""
    rng, examples, below = (
        np.random.default_rng(2),
        population.examples(100, split=None, seed=3),
        [],
    )
    for _ in range(15):
        a, b = (
            [WORLD.sample(r["task"], NOBODY, r["topic"], rng) for r in examples]
            for _ in range(2)
        )
        below += [p < 0.1 for p in ch05_pairs.same_law(a, b, examples).values()]
    assert 0.01 < np.mean(below) < 0.23


def test_quiz_by_hand():
    """Round 1: e² against 1, log 2 + 2 - log(e² + 1). Round 2: a tie, worth half."""
    quiz = ch05_pairs.play_quiz(np.array([[2.0, 0.0], [1.0, 1.0]]))
    certified = [np.log(2) + 2 - np.log(np.e**2 + 1), 0.0]
    half = 1.96 * np.std(certified) / np.sqrt(2)
    assert quiz["right"] == 0.75
    assert quiz["certified"] == pytest.approx(np.mean(certified))
    assert quiz["interval"][1] == pytest.approx(np.mean(certified) + half)


# ---- exercises ----


def test_a_short_reply_with_few_values_is_wasted_most():
    """lookup has three slots, the only task with so few values."""
    assert ch05_pairs.most_wasted_task(n_people=3) == "lookup"


def test_a_shared_attribute_is_no_longer_told_apart():
    assert ch05_pairs.attributes_told_apart("email", shared="tone") == {"detail"}
    told_apart = ch05_pairs.attributes_told_apart("email", shared="hobby")
    assert told_apart == {"tone", "detail"}  # the aside is about nobody
