"""The judge: scores by hand, exact adherence by hand and by sampling, and the measures that ask a model."""

import numpy as np
import pytest

from mipo import models
from mipo.world import World
from mipo.worlds import language_model, population, scoring

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
RECORD = {
    "task": "recommend",
    "topic": "gift",
    "values": VALUES,
    "query": "Recommend a gift for me.",
    "context": "",
}


@pytest.fixture(scope="module")
def tiny():
    tokenizer = language_model.build_tokenizer()
    return models.small_model(
        tokenizer, hidden=16, layers=1, heads=2, seed=0
    ), tokenizer


@pytest.mark.parametrize(
    "reply, valid, adherence, fits, speaks, own",
    [
        (
            "For a gift I say buy a chess clock, made by hand. Enjoy Oslo.",
            1,
            1,
            1,
            1,
            1,
        ),
        (
            "For a gift I say buy a chess clock, made by hand. Enjoy Lima.",
            1,
            1,
            1,
            1,
            0,
        ),  # an aside is not adherence
        (
            "For a gift I recommend a chess clock, at a fair price.",
            1,
            1 / 3,
            0,
            0,
            0,
        ),  # hobby, but not tone, budget
        (
            "For a treat I say buy a chess clock, made by hand.",
            0,
            0,
            0,
            0,
            0,
        ),  # off topic
        ("Buy a chess clock.", 0, 0, 0, 0, 0),
    ],
)
def test_score_by_hand(reply, valid, adherence, fits, speaks, own):
    found = scoring.score([reply], [RECORD])
    expected = {
        "valid": valid,
        "adherence": adherence,
        "fits": fits,
        "speaks": speaks,
        "own": own,
    }
    assert {k: v[0] for k, v in found.items()} == pytest.approx(expected)


def test_score_refuses_unequal_lengths():
    with pytest.raises(ValueError, match="1 replies for 2 examples"):
        scoring.score(["a"], [RECORD, RECORD])


def test_exact_adherence_by_hand():
    """Mean of f + (1 - f)·π over the slots of 'recommend': tone 0.2 & 15 %, hobby 0.5 & 10 %, budget 0.4 & 15 %."""
    expected = np.mean([0.2 + 0.8 * 0.15, 0.5 + 0.5 * 0.10, 0.4 + 0.6 * 0.15])
    assert scoring.exact_adherence([RECORD])[0] == pytest.approx(expected)


def test_exact_adherence_of_the_optimum_is_that_of_the_world():
    who = scoring.as_person(RECORD)
    assert scoring.exact_adherence([RECORD], beta=0.5)[0] == World().optimum(
        "recommend", who, 0.5
    ).adherence(who)
    assert (
        scoring.exact_adherence([RECORD], beta=0.5)[0]
        > scoring.exact_adherence([RECORD], beta=5)[0]
    )


def test_exact_adherence_meets_sampled_scores():
    examples, rng = (
        population.examples(200, split=None, seed=0),
        np.random.default_rng(0),
    )
    replies = [
        World().sample(r["task"], scoring.as_person(r), r["topic"], rng)
        for r in examples
    ]
    gap = scoring.score(replies, examples)["adherence"] - scoring.exact_adherence(
        examples
    )
    assert abs(gap.mean()) < 4 * gap.std() / np.sqrt(len(gap))


def test_kl_to_optimum_is_a_mean_of_log_ratios(tiny):
    """One valid reply and one that is not: log π(y) - log π*(y) of the valid one, π from a softmax by hand."""
    import torch

    reply = "For a gift I say buy a chess clock, made by hand."
    model, tokenizer = tiny
    prompt = f"<|user|>{RECORD['query']}<|end|><|assistant|>"
    ids = tokenizer(prompt + reply + "<|end|>", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        logs = torch.log_softmax(model(ids).logits[0, :-1].double(), -1)
    ours = float(
        logs.gather(-1, ids[0, 1:, None])[
            len(tokenizer(prompt)["input_ids"]) - 1 :
        ].sum()
    )
    best = World().log_prob(reply, "recommend", scoring.as_person(RECORD), beta=1.0)
    found = scoring.kl_to_optimum(
        model, tokenizer, [reply, "Nothing."], [RECORD, RECORD], beta=1.0
    )
    assert found == pytest.approx(ours - best, abs=1e-4)
    with pytest.raises(ValueError, match="no reply is inside the grammar"):
        scoring.kl_to_optimum(model, tokenizer, ["Nothing."], [RECORD], beta=1.0)


def test_information_is_bounded_by_the_number_of_contexts(tiny):
    """With one context, which is the example's own, there is nothing to tell apart: 0. With n of them at most log n."""
    examples = population.examples(2, split=None, tasks=["lookup"], seed=0)
    replies = ["The tower is 300 metres high."] * 2
    alone = scoring.information(
        *tiny, replies, [examples[0]] * 2, contexts=[examples[0]["context"]]
    )
    assert alone == pytest.approx(0, abs=1e-5)
    assert scoring.information(
        *tiny, replies, examples, contexts=[r["context"] for r in examples]
    ) <= np.log(2)


def test_exact_information_by_hand():
    """Two people in 'lookup' who differ in units: KL of each to their mean over the slot's values, all else alike."""
    world, metric = World(), {**RECORD, "task": "lookup", "person": 0}
    imperial = {**metric, "person": 1, "values": {**VALUES, "units": "imperial"}}
    p, q = (
        world.law("lookup", scoring.as_person(r)).slot(1) for r in (metric, imperial)
    )
    by_hand = np.mean([np.sum(x * np.log(x / ((p + q) / 2))) for x in (p, q)])
    assert scoring.exact_information([metric, imperial]) == pytest.approx(by_hand)
    assert scoring.exact_information([metric, imperial, metric]) == pytest.approx(
        by_hand
    )  # people count once
    assert scoring.exact_information([metric, imperial], beta=0.5) > by_hand
    assert scoring.exact_information([metric, imperial], beta=1e-3) == pytest.approx(
        np.log(2), rel=1e-3
    )
    assert scoring.exact_information([metric]) == pytest.approx(0)


def test_exact_information_of_many_people_is_the_worlds():
    """Among many people drawn from the prior it approaches I(Y; C | X = task), which the world has in closed form."""
    examples = population.examples(3000, split=None, tasks=["recommend"], seed=4)
    assert scoring.exact_information(examples) == pytest.approx(
        World().mutual_information("recommend"), rel=0.03
    )
