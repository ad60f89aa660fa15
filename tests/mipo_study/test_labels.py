"""Labels: Bradley-Terry frequencies, flips, runs of labelled pairs, and what a policy makes of them."""

import json

import numpy as np
import pytest
import torch

from mipo import models
from mipo.logprobs import response_logps, start_token
from mipo.world import World
from mipo.worlds import population
from mipo.worlds.language_model import build_tokenizer
from mipo.worlds.scoring import as_person
from mipo_study import experiment, labels

pytestmark = pytest.mark.long

WORLD = World()
ONE = {"n_people": 1, "seed": 4, "progress": False}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A small model with random weights, in hub format."""
    folder, tokenizer = tmp_path_factory.mktemp("base"), build_tokenizer()
    for part in (
        models.small_model(tokenizer, hidden=16, layers=1, heads=2, init=0.3),
        tokenizer,
    ):
        part.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def asked():
    return population.examples(3, split="mipo", tasks=["lookup", "email"], seed=0)


@pytest.fixture(scope="module")
def pairs(base, tmp_path_factory):
    """Run of labelled pairs of one person."""
    where = tmp_path_factory.mktemp("pairs")
    return experiment.label_pairs(where, base=base, **ONE)


@pytest.fixture(scope="module")
def crowd():
    """6000 examples with two sampled replies each, and their worth by World.adherence; one reply in six is no sentence."""
    examples = population.examples(1000, split="mipo", seed=3)
    rng = np.random.default_rng(1)
    sides = [
        [WORLD.sample(r["task"], as_person(r), r["topic"], rng) for r in examples]
        for _ in range(2)
    ]
    sides[1][::6] = ["no sentence of this world"] * len(sides[1][::6])
    worth = [
        [
            WORLD.adherence(y, r["task"], as_person(r))
            for y, r in zip(side, examples, strict=True)
        ]
        for side in sides
    ]
    worth[1][::6] = [-1.0] * len(worth[1][::6])
    return examples, sides, np.array(worth)


def outside(hits, p, n):
    """Standard errors by which a count is away from its binomial expectation."""
    return abs(hits - n * p) / max(np.sqrt(n * p * (1 - p)), 1e-9)


def test_worth_is_adherence_and_minus_one_outside_the_grammar(crowd):
    examples, sides, worth = crowd
    for side, expected in zip(sides, worth, strict=True):
        np.testing.assert_allclose(labels.worth(side, examples), expected)


@pytest.mark.parametrize("flips", [0.0, 0.3])
def test_labels_have_bradley_terry_frequencies(crowd, flips):
    """P(first) = σ(strength · gap), turned round with probability `flips`: in each group of equal gaps within 4 errors."""
    examples, sides, worth = crowd
    marks = labels.label(*sides, examples, strength=2.0, flips=flips, seed=5)
    won, gap = (
        np.array([m["first_wins"] for m in marks]),
        (worth[0] - worth[1])[[m["example"] for m in marks]],
    )
    groups = [
        g for g in np.unique(gap.round(6)) if (np.abs(gap - g) < 1e-6).sum() >= 40
    ]
    assert len(groups) > 8 and {0.0} < {float(g) for g in groups}
    for g in groups:
        kept = np.abs(gap - g) < 1e-6
        p = 1 / (1 + np.exp(-2.0 * g))
        assert (
            outside(won[kept].sum(), (1 - flips) * p + flips * (1 - p), kept.sum()) < 4
        ), g


def test_wrong_means_chosen_is_worth_less(crowd):
    examples, sides, worth = crowd
    for m in labels.label(*sides, examples, flips=0.2, seed=1):
        first, second = worth[:, m["example"]]
        assert m["wrong"] == ((first < second) if m["first_wins"] else (second < first))


def test_flips_turn_the_same_labels_and_more_as_their_share_grows(crowd):
    examples, sides, _ = crowd
    wins = {
        f: np.array(
            [m["first_wins"] for m in labels.label(*sides, examples, flips=f, seed=2)]
        )
        for f in (0.0, 0.1, 0.2, 0.4)
    }
    turned = {f: wins[f] != wins[0.0] for f in (0.1, 0.2, 0.4)}
    assert (
        not (turned[0.1] & ~turned[0.2]).any()
        and not (turned[0.2] & ~turned[0.4]).any()
    )
    for f, kept in turned.items():
        assert outside(kept.sum(), f, len(kept)) < 4
    again = np.array(
        [m["first_wins"] for m in labels.label(*sides, examples, flips=0.2, seed=2)]
    )
    other = np.array(
        [m["first_wins"] for m in labels.label(*sides, examples, flips=0.2, seed=3)]
    )
    assert (again == wins[0.2]).all() and (other != wins[0.2]).any()


def test_identical_replies_make_no_pair(asked):
    said = [
        WORLD.sample(r["task"], as_person(r), r["topic"], np.random.default_rng(i))
        for i, r in enumerate(asked)
    ]
    other = [y if i in (1, 4) else "something else" for i, y in enumerate(said)]
    assert [m["example"] for m in labels.label(said, other, asked)] == [0, 2, 3, 5]


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"flips": 0.5}, "below one half"),
        ({"flips": -0.1}, "at least 0"),
        ({"strength": 0.0}, "must be above 0"),
    ],
)
def test_wrong_settings_are_named(asked, settings, message):
    with pytest.raises(ValueError, match=message):
        labels.label(["a"] * 6, ["b"] * 6, asked, **settings)


def test_numbers_of_replies_must_agree(asked):
    with pytest.raises(ValueError, match="6 and 5 replies for 6 examples"):
        labels.label(["a"] * 6, ["b"] * 5, asked)


def test_labelled_pairs_are_made_once_and_carry_the_reference(base, pairs):
    where = pairs.path.parents[1]
    again = experiment.label_pairs(where, base=base, **ONE)
    assert pairs.fresh and not again.fresh and again.key == pairs.key
    turned = experiment.label_pairs(where, base=base, flips=0.4, **ONE)
    assert turned.key != pairs.key
    rows = experiment.read_pairs(pairs)
    prompts = experiment.examples_of(1, split="mipo", seed=4)
    assert len(rows) == pairs.metrics["pairs"]
    assert len(rows) + pairs.metrics["identical"] == len(prompts)
    # random weights: neither reply is a sentence
    end = build_tokenizer().eos_token_id
    assert pairs.metrics["tied"] == 1 and pairs.metrics["wrong"] == 0
    sides = [rows["chosen_tokens"][:], rows["rejected_tokens"][:]]
    unfinished = [ids[-1] != end for side in sides for ids in side]
    assert pairs.metrics["cut"] == np.mean(unfinished) > 0
    model, tokenizer = models.load_model(base)
    for side in ("chosen", "rejected"):
        direct = response_logps(
            model, tokenizer, rows["prompt"][:], rows[f"{side}_tokens"][:]
        ).summed.tolist()
        assert rows[f"ref_{side}_logps"][:] == pytest.approx(direct, abs=1e-3)


def by_hand(model, head, tail):
    """log p of each token that was sampled, from one plain forward pass: list of nats."""
    with torch.no_grad():
        logits = model(torch.tensor([head + tail])).logits[0].double()
    return [
        float(torch.log_softmax(logits[len(head) + i - 1], -1)[t])
        for i, t in enumerate(tail)
    ]


def test_gaps_against_numbers_by_hand(base, pairs, tmp_path):
    """The policy differs from the base model, so that drifts are not zero; every number from plain forward passes."""
    tokenizer = build_tokenizer()
    policy = models.small_model(
        tokenizer, hidden=16, layers=1, heads=2, init=0.3, seed=7
    )
    for part in (policy, tokenizer):
        part.save_pretrained(tmp_path / "policy")
    found = experiment.score_pairs(
        tmp_path, policy=tmp_path / "policy", pairs=pairs, limit=4, progress=False
    )
    model, tokenizer = models.load_model(base)
    lists = {"gap": [], "ratio_gap": [], "delta_pmi": [], "drift": []}
    for row in experiment.read_pairs(pairs).select(range(4)):
        mean, old, alone = {}, {}, {}
        for side in ("chosen", "rejected"):
            prompt = tokenizer(row["prompt"])["input_ids"]
            said = row[f"{side}_tokens"]
            mean[side] = np.mean(by_hand(policy, prompt, said))
            old[side] = np.mean(by_hand(model, prompt, said))
            alone[side] = np.mean(by_hand(policy, [start_token(tokenizer)], said))
        lists["gap"].append(mean["chosen"] - mean["rejected"])
        lists["ratio_gap"].append(lists["gap"][-1] - (old["chosen"] - old["rejected"]))
        lists["delta_pmi"].append(
            lists["gap"][-1] - (alone["chosen"] - alone["rejected"])
        )
        lists["drift"].append(mean["chosen"] - old["chosen"])
    gaps = experiment.read_gaps(found)
    for name in ("gap", "ratio_gap", "delta_pmi"):
        assert gaps[name] == pytest.approx(lists[name], abs=1e-4), name
    assert gaps["right"] == [True] * 4
    assert found.metrics["accuracy"] == np.mean([g > 0 for g in lists["gap"]])
    assert found.metrics["ratio_accuracy"] == np.mean(
        [g > 0 for g in lists["ratio_gap"]]
    )
    assert found.metrics["chosen_drift"] == pytest.approx(
        np.mean(lists["drift"]), abs=1e-4
    )


def test_the_base_model_has_not_drifted_and_pairs_need_not_say_what_is_wrong(
    base, pairs, tmp_path
):
    rows = [
        {k: v for k, v in row.items() if k != "wrong"}
        for row in experiment.read_pairs(pairs)
    ]
    (tmp_path / "plain.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows)
    )
    found = experiment.score_pairs(
        tmp_path, policy=base, pairs=tmp_path / "plain.jsonl", progress=False
    )
    assert set(experiment.read_gaps(found)) == {"gap", "ratio_gap", "delta_pmi"}
    assert found.metrics["chosen_drift"] == pytest.approx(0, abs=1e-4)
    assert experiment.read_gaps(found)["ratio_gap"] == pytest.approx(
        [0] * len(rows), abs=1e-4
    )
