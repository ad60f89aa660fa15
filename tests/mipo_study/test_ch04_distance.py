"""Chapter 4: distances from the exact laws, against sums by hand and replies written by hand."""

import numpy as np
import pandas as pd
import pytest
import torch

from mipo import record
from mipo.lm.prompts import render
from mipo.models import small_model
from mipo.world import NOBODY, World, person
from mipo.worlds import language_model, population
from mipo.worlds.grammar import ATTRIBUTES, TASKS
from mipo_study import ch04_distance

pytestmark = pytest.mark.long

WORLD = World()
RARE = person(
    role="owner",
    tone="blunt",
    detail="short",
    hobby="chess",
    budget="high",
    units="metric",
    pet="dog",
    city="Oslo",
)
EXAMPLE = {
    "task": "recommend",
    "topic": "gift",
    "query": "Recommend a gift for me.",
    "context": RARE.context(),
    "values": dict(RARE.values),
    "person": 0,
}
OWN = "For a gift I say buy a chess clock, made by hand. Enjoy Oslo."
OTHER = "For a gift I recommend a chess clock, at a fair price."  # hobby is own


def entropy(p):
    p = np.array([share for share in p if share > 0])
    return float(-(p * np.log(p)).sum())


def words(reply):
    """A tokenizer that takes every reply for nine tokens; its end is the tenth."""
    return {"input_ids": [0] * 9}


# ---- the exact laws ----


def test_slots_of_a_task_in_a_line():
    line = ch04_distance.slots_of(TASKS["lookup"])
    assert line == "lead: detail (0.05), measure: units (0.12), aside: pet (0)"


def test_drawn_pmi_averages_to_the_mutual_information_summed_by_hand():
    # I = Σ_a Σ_c π(c) Σ_v p(v|c) log p(v|c)/π(v), since no two slots share an attribute
    by_hand = 0.0
    for name, follow in (("city", 0.45), ("hobby", 0.30), ("budget", 0.25)):
        prior = np.array(list(ATTRIBUTES[name].values()))
        p = follow * np.eye(len(prior)) + (1 - follow) * prior  # a row per person
        by_hand += float((prior[:, None] * p * np.log(p / prior)).sum())
    people = population.people(2000, seed=1)
    sample = ch04_distance.drawn_pmi("plan", people, np.random.default_rng(0))
    assert sample.shape == (2000,)
    assert sample.mean() == pytest.approx(by_hand, rel=0.15)  # 3 standard errors


@pytest.fixture
def no_gaps(monkeypatch):
    """Every prompt has its full context."""
    for name in ("NOBODY_SHARE", "INCOMPLETE_SHARE", "UNPROMPTED_SHARE"):
        monkeypatch.setattr(language_model, name, 0.0)


def floor(n=3000):
    rng = np.random.default_rng(3)
    return ch04_distance.entropy_floor(words, rng, seed=2, n=n)


def entropy_per_task(told):
    """H(reply | prompt) by hand: values, then wordings, of each slot; mean over tasks."""
    total = []
    for task in TASKS.values():
        nats = len(task.slots) * entropy([0.6, 0.4])
        for slot in task.slots:
            prior = ATTRIBUTES[slot.attribute]
            if not slot.relevant:
                named = np.array([prior[v] for v in slot.options if v in prior])
                nats += entropy([0.7, *(0.3 * named / named.sum())])
                continue
            p = np.array(list(prior.values()))
            for own, share in enumerate(p if told else ()):
                given = slot.follow * np.eye(len(p))[own] + (1 - slot.follow) * p
                nats += share * entropy(given)
        total.append(nats)
    return float(np.mean(total))


def test_the_floor_is_the_entropy_of_replies_to_known_people(no_gaps):
    assert floor() == pytest.approx(entropy_per_task(told=True) / 10, rel=0.02)


@pytest.mark.parametrize("share", ["NOBODY_SHARE", "INCOMPLETE_SHARE"])
def test_the_floor_is_higher_where_nobody_is_known(share, no_gaps, monkeypatch):
    before = floor()
    monkeypatch.setattr(language_model, share, 1.0)
    monkeypatch.setattr(language_model, "LINES_KEPT", 0.0)
    information = np.mean([WORLD.mutual_information(task) for task in TASKS])
    assert floor() - before == pytest.approx(information / 10, abs=0.012)


def test_without_a_prompt_task_topic_and_person_have_to_be_guessed(
    no_gaps, monkeypatch
):
    monkeypatch.setattr(language_model, "NOBODY_SHARE", 1.0)
    before = floor()
    monkeypatch.setattr(language_model, "UNPROMPTED_SHARE", 1.0)
    assert floor() - before == pytest.approx(np.log(6 * 4) / 10)


# ---- the model's replies ----


def table():
    replies = {("base-0", "known"): [OWN, OTHER, "Buy something."]}
    return ch04_distance.score_table(replies, {"known": [EXAMPLE] * 3})


def test_replies_are_scored_one_a_row():
    scores = table()
    assert scores["valid"].tolist() == [1, 1, 0]
    assert scores["adherence"].tolist() == pytest.approx([1, 1 / 3, 0])
    assert scores["reply"].tolist() == [OWN, OTHER, "Buy something."]
    # three own values: Σ log (f + (1 - f) π) / π
    follow, prior = np.array([0.2, 0.5, 0.4]), np.array([0.15, 0.10, 0.15])
    by_hand = np.log((follow + (1 - follow) * prior) / prior).sum()
    assert scores["pmi"][0] == pytest.approx(by_hand)
    # "recommend" states formal (35 %), "a fair price" middle (35 %): log (1 - f) each
    other = np.log(0.8) + np.log((0.5 + 0.5 * 0.1) / 0.1) + np.log(0.6)
    assert scores["pmi"][1] == pytest.approx(other)
    assert np.isnan(scores["pmi"][2])


def test_a_reply_about_another_topic_is_not_valid():
    wrong = OWN.replace("gift", "treat")
    scores = ch04_distance.score_table({("b", "x"): [wrong]}, {"x": [EXAMPLE]})
    assert scores["valid"][0] == 0
    assert scores["adherence"][0] == 0


def test_adherence_is_averaged_by_task_and_base():
    scores = pd.DataFrame(
        {
            "task": ["plan", "plan", "email", "plan"],
            "base": ["base-0", "base-0", "base-0", "base-1"],
            "adherence": [0.0, 0.5, 1.0, 0.75],
        }
    )
    means = ch04_distance.adherence_by_task(scores)
    assert list(means.index) == list(TASKS)
    assert means.loc["plan"].tolist() == [0.25, 0.75]
    assert means.loc["email", "base-0"] == 1
    assert np.isnan(means.loc["email", "base-1"])


def test_exact_adherence_of_a_task_is_a_mean_over_its_slots():
    examples = [{**EXAMPLE, "task": task} for task in TASKS]
    exact = ch04_distance.exact_by_task(examples)
    follow, prior = np.array([0.2, 0.5, 0.4]), np.array([0.15, 0.10, 0.15])
    by_hand = (follow + (1 - follow) * prior).mean()
    assert exact["recommend"] == pytest.approx(by_hand)


def test_missing_nats_against_a_forward_pass():
    tokenizer = language_model.build_tokenizer()
    model = small_model(tokenizer, hidden=32, layers=1, heads=2, inner=32, seed=0)
    examples = population.examples(2, split="test", seed=0)
    rng = np.random.default_rng(5)
    missing = ch04_distance.missing_nats({"b": (model, tokenizer)}, examples, rng)
    assert len(missing) == len(examples) == 12

    again = np.random.default_rng(5)
    for number, example in enumerate(examples):
        who = person(**example["values"])
        reply = WORLD.sample(example["task"], who, example["topic"], again)
        prompt = render(tokenizer, example["query"], example["context"])
        start = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        answer = tokenizer(reply, add_special_tokens=False)["input_ids"]
        answer = [*answer, tokenizer.eos_token_id]
        with torch.no_grad():
            logits = model(torch.tensor([start + answer])).logits[0].double()
        logs = logits.log_softmax(-1)[len(start) - 1 : -1]
        ours = float(logs[range(len(answer)), answer].sum())
        exact = WORLD.log_prob(reply, example["task"], who)
        row = missing.loc[number]
        assert row["task"] == example["task"]
        assert row["person"] == example["person"]
        assert row["exact"] == pytest.approx(exact)
        assert row["model"] == pytest.approx(ours, abs=1e-3)
        assert row["missing"] == pytest.approx(exact - ours, abs=1e-3)


def test_frequencies_of_slot_values_are_counted_where_replies_are_valid():
    replies = [OWN, OTHER, "Buy something.", OWN]
    frequencies = ch04_distance.slot_frequencies(replies, [EXAMPLE] * 4)
    assert set(frequencies["task"]) == {"recommend"}
    counts = frequencies.set_index(["slot", "value"])["frequency"]
    assert counts["strength", "blunt"] == pytest.approx(2 / 3)
    assert counts["strength", "formal"] == pytest.approx(1 / 3)
    assert counts["item", "chess"] == 1
    assert counts["aside", "Oslo"] == pytest.approx(2 / 3)
    exact = frequencies.set_index(["slot", "value"])["exact"]
    assert exact["item"].to_dict() == pytest.approx(ATTRIBUTES["hobby"])
    assert exact["aside", "-"] == pytest.approx(0.7)


def test_no_valid_reply_leaves_an_empty_table():
    assert ch04_distance.slot_frequencies(["Well."], [EXAMPLE]).empty


def test_replies_of_the_world_to_nobody_are_as_far_from_the_marginal_as_chance():
    rng = np.random.default_rng(0)
    examples = population.examples(200, split="test", seed=0)
    replies = [WORLD.sample(e["task"], NOBODY, e["topic"], rng) for e in examples]
    frequencies = ch04_distance.slot_frequencies(replies, examples)
    distance = (frequencies["exact"] - frequencies["frequency"]).abs().mean()
    noise = ch04_distance.expected_noise(frequencies, 200)
    assert distance == pytest.approx(noise, rel=0.3)


def test_expected_noise_of_a_coin():
    # E|X| of a normal law is σ √(2/π), and σ = 0.05 for 100 throws
    coin = pd.DataFrame({"exact": [0.5, 0.5]})
    noise = ch04_distance.expected_noise(coin, 100)
    assert noise == pytest.approx(0.05 * np.sqrt(2 / np.pi))


# ---- numbers ----


@pytest.fixture
def nb(tmp_path):
    return record.Notebook("04-small-world", run_dir=tmp_path)


ROWS = {"person": [0, 0, 1, 1], "score": [1.0, 2.0, 3.0, 6.0]}


def test_an_interval_is_over_people_where_there_is_one_base(nb):
    rows = pd.DataFrame({**ROWS, "base": "base-0"})
    number = ch04_distance.report(nb, "x", rows, "score", "nats")
    # means 1.5 and 4.5; t of 95 % with 1 degree of freedom is 12.706, s/√2 = 1.5
    assert number.mean == pytest.approx(3)
    assert number.interval == pytest.approx((3 - 19.059, 3 + 19.059), abs=1e-3)
    assert number.note == "interval over people"


def test_an_interval_is_over_bases_where_there_are_several(nb):
    rows = pd.DataFrame({**ROWS, "base": ["a", "b", "a", "b"]})
    number = ch04_distance.report(nb, "x", rows, "score", "nats", "a note")
    assert number.values == [2, 4]
    assert number.note == "a note"


# ---- exercises ----


def test_an_unusual_person_is_information_about_most():
    usual = person(tone="friendly", hobby="cooking", budget="low")
    told = ch04_distance.information_about({"usual": usual, "rare": RARE}, "recommend")
    by_hand = 0.0
    for name, follow in (("tone", 0.2), ("hobby", 0.5), ("budget", 0.4)):
        prior = np.array(list(ATTRIBUTES[name].values()))
        own = list(ATTRIBUTES[name]).index(RARE[name])
        p = follow * np.eye(len(prior))[own] + (1 - follow) * prior
        by_hand += float((p * np.log(p / prior)).sum())
    assert told["rare"] == pytest.approx(by_hand)
    assert told["usual"] < told["rare"]


def test_tone_counted_thrice_by_hand():
    # friendly slots: 0.75, 0.7, 0.725 for a friendly person, 0.25, 0.3, 0.275 else
    together = 0.5 * 0.75 * 0.7 * 0.725 + 0.5 * 0.25 * 0.3 * 0.275
    assert ch04_distance.tone_counted_thrice() == pytest.approx(
        np.log(together / 0.125)
    )


def test_a_contrast_with_the_default_talks_the_usual_person_out_of_it():
    usual = person(**{a: max(prior, key=prior.get) for a, prior in ATTRIBUTES.items()})
    marginal = ch04_distance.optimum_adherence(World(), [usual])
    default = ch04_distance.optimum_adherence(World("default"), [usual])
    assert default < 0.3 < 0.7 < marginal


def test_adherence_of_the_optimum_by_hand(monkeypatch):
    monkeypatch.setattr(ch04_distance, "TASKS", {"lookup": TASKS["lookup"]})
    metric = person(detail="short", units="metric")
    shares = []
    for prior, follow in ((0.65, 0.05), (0.7, 0.12)):
        own, other = follow + (1 - follow) * prior, (1 - follow) * (1 - prior)
        tilted = own**2 / prior, other**2 / (1 - prior)
        shares.append(tilted[0] / sum(tilted))
    measured = ch04_distance.optimum_adherence(World(), [metric])
    assert measured == pytest.approx(np.mean(shares))
