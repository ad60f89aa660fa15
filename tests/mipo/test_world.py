"""The small world's closed forms: by enumeration, by Monte Carlo and by hand."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from mipo.world import NOBODY, World, person
from mipo.worlds import grammar, population
from mipo.worlds.grammar import ATTRIBUTES, TASKS, parse, write

WORLD = World()
RARE = population.person(
    role="teenager",
    tone="blunt",
    detail="detailed",
    hobby="chess",
    budget="high",
    units="imperial",
    pet="none",
    city="Oslo",
)


def all_values(task):
    return list(itertools.product(*(tuple(s.options) for s in TASKS[task].slots)))


def log_probs(law, replies):
    """Of replies, given as the values of their slots."""
    return np.array([law.log_prob(values) for values in replies])


def by_enumeration(task, who):
    """{values: p(values | person)}, a product over slots as the definition says."""
    table = {}
    for values in all_values(task):
        p = 1.0
        for slot, value in zip(TASKS[task].slots, values, strict=True):
            p *= chance_of(value, slot, who)
        table[values] = p
    return table


def chance_of(value, slot, who):
    """follow·1[own] + (1 - follow)·prior; an aside speaks in 0.3 of replies."""
    prior = ATTRIBUTES[slot.attribute]
    if slot.relevant:
        own = value == who[slot.attribute]
        return slot.follow * own + (1 - slot.follow) * prior[value]
    if value == grammar.SILENT:
        return 0.7
    spoken = [prior[v] for v in slot.options if v != grammar.SILENT]
    return 0.3 * prior[value] / sum(spoken)


@pytest.mark.parametrize("task", TASKS)
def test_law_equals_the_definition_and_sums_to_one(task):
    table = by_enumeration(task, RARE)
    assert math.isclose(sum(table.values()), 1, abs_tol=1e-12)
    law = WORLD.law(task, RARE)
    for values, p in table.items():
        assert math.isclose(law.log_prob(values), math.log(p), abs_tol=1e-12)


@pytest.mark.parametrize("task", ["email", "explain"])
def test_marginal_is_the_average_over_everybody(task):
    """Σ_c p(c) p(y|x,c) over all 5,184 persons, for about seven replies."""
    every = all_values(task)
    few = every[:: max(1, len(every) // 7)]
    total = np.zeros(len(few))
    for who in population.everybody():
        total += math.exp(who.log_prior) * np.exp(log_probs(WORLD.law(task, who), few))
    marginal = np.exp(log_probs(WORLD.marginal(task), few))
    np.testing.assert_allclose(total, marginal, rtol=1e-9)


@pytest.mark.parametrize("task", ["email", "lookup"])
def test_mutual_information_is_the_mean_pmi(task):
    """By enumeration of persons and replies, where the closed form adds up groups."""
    replies = all_values(task)
    q = log_probs(WORLD.marginal(task), replies)
    relevant = sorted({s.attribute for s in TASKS[task].slots if s.relevant})
    total = 0.0
    for values in itertools.product(*(ATTRIBUTES[name] for name in relevant)):
        profile = dict(zip(relevant, values, strict=True))
        share = math.prod(ATTRIBUTES[name][value] for name, value in profile.items())
        p = log_probs(WORLD.law(task, person(**profile)), replies)
        total += share * float(np.exp(p) @ (p - q))
    assert math.isclose(WORLD.mutual_information(task), total, rel_tol=1e-9)


def test_mutual_information_of_one_slot_by_hand():
    """lookup: measure follows units with 0.12, lead follows detail with 0.05."""

    def of_slot(follow, prior):
        nats = 0.0
        for own, share in prior.items():
            for stated, q in prior.items():
                p = follow * (own == stated) + (1 - follow) * q
                nats += share * p * math.log(p / q)
        return nats

    expected = of_slot(0.12, ATTRIBUTES["units"]) + of_slot(0.05, ATTRIBUTES["detail"])
    assert math.isclose(WORLD.mutual_information("lookup"), expected, rel_tol=1e-12)


def test_pmi_is_a_difference_of_log_probs_and_averages_to_the_information():
    rng, task = np.random.default_rng(0), "recommend"
    pmis = []
    for who in population.people(4000, seed=3):
        reply = WORLD.sample(task, who, "gift", rng)
        pmi = WORLD.pmi(reply, task, who)
        gap = WORLD.log_prob(reply, task, who) - WORLD.log_prob(reply, task)
        assert math.isclose(pmi, gap, abs_tol=1e-12)
        pmis.append(pmi)
    error = np.std(pmis) / math.sqrt(len(pmis))
    assert abs(np.mean(pmis) - WORLD.mutual_information(task)) < 4 * error


def test_samples_follow_the_law():
    rng = np.random.default_rng(1)
    replies = [WORLD.sample("lookup", RARE, "tower", rng) for _ in range(4000)]
    table = by_enumeration("lookup", RARE)
    counts = dict.fromkeys(table, 0)
    for reply in replies:
        values, _ = parse(reply, "lookup")
        counts[values] += 1
    expected = 4000 * np.array(list(table.values()))
    assert stats.chisquare(list(counts.values()), expected).pvalue > 1e-3


def test_adherence_of_a_law_is_the_mean_over_its_samples_and_by_hand():
    """The analogy of `explain`, for a teenager: 0.5 + 0.5·0.2 = 0.6."""
    law = WORLD.law("explain", RARE)
    index = [s.name for s in TASKS["explain"].slots].index("analogy")
    assert math.isclose(law.slot(index)[2], 0.6)
    rng = np.random.default_rng(2)
    sampled = []
    for _ in range(3000):
        reply = WORLD.sample("explain", RARE, "caching", rng)
        sampled.append(WORLD.adherence(reply, "explain", RARE))
    error = np.std(sampled) / math.sqrt(3000)
    assert abs(np.mean(sampled) - law.adherence(RARE)) < 4 * error


@pytest.mark.parametrize("task", ["email", "explain", "plan"])
@pytest.mark.parametrize("beta", [0.5, 1.0, 3.0])
def test_optimum_equals_enumeration(task, beta):
    """π* ∝ p^(1+1/β) q^(-1/β) over all replies, normalised by summing them."""
    values = all_values(task)
    p = log_probs(WORLD.law(task, RARE), values)
    q = log_probs(WORLD.marginal(task), values)
    log_weights = p + (p - q) / beta
    expected = log_weights - np.logaddexp.reduce(log_weights)
    got = log_probs(WORLD.optimum(task, RARE, beta), values)
    np.testing.assert_allclose(got, expected, atol=1e-9)


def test_token_level_optimum_equals_stepwise_enumeration():
    """Context-aware decoding slot after slot, on the two role slots of `explain`."""
    prior, alpha = ATTRIBUTES["role"], 2.0
    roles = list(prior)

    def slots_of(own):
        """Laws of the two slots, with follow 0.5 and 0.4, for a person of that role."""
        laws = []
        for follow in (0.5, 0.4):
            law = [follow * (r == own) + (1 - follow) * prior[r] for r in roles]
            laws.append(np.array(law))
        return laws

    first_p, second_p = slots_of("owner")
    joint_q = sum(prior[role] * np.outer(*slots_of(role)) for role in roles)
    first_q = joint_q.sum(1)
    second_q = joint_q / joint_q.sum(1, keepdims=True)  # a row per first value
    first = first_p * (first_p / first_q) ** alpha
    first /= first.sum()
    second = second_p * (second_p / second_q) ** alpha
    second /= second.sum(1, keepdims=True)

    owner = person(role="owner")
    law = WORLD.optimum("explain", owner, 1 / alpha, level="token")
    (table,) = [table for slots, table in law.groups if len(slots) == 2]
    np.testing.assert_allclose(table, first[:, None] * second, atol=1e-12)


def test_the_two_levels_of_the_optimum_differ_where_slots_share_an_attribute():
    def distance(task, who, beta):
        token = WORLD.optimum(task, who, beta, level="token")
        return token.kl(WORLD.optimum(task, who, beta))

    assert distance("explain", person(role="owner"), 0.5) > 1e-3
    assert distance("lookup", RARE, 0.5) < 1e-12


def test_optimum_limits_and_errors():
    """β → ∞: stay at the reference. β → 0: only what is most personal."""
    base = WORLD.law("plan", RARE)
    assert WORLD.optimum("plan", RARE, 1e6).kl(base) < 1e-9
    assert WORLD.optimum("plan", RARE, 0.05).adherence(RARE) > 0.999
    with pytest.raises(ValueError, match="beta must be positive"):
        WORLD.optimum("plan", RARE, 0)


def test_irrelevant_slots_do_not_move():
    for task in TASKS:
        aside = len(TASKS[task].slots) - 1
        tilted = WORLD.optimum(task, RARE, 0.2).slot(aside)
        untilted = WORLD.law(task, NOBODY).slot(aside)
        np.testing.assert_allclose(tilted, untilted, atol=1e-12)


def test_law_of_nobody_is_a_choice():
    generic = World("default")
    assert generic.law("email", NOBODY).kl(WORLD.law("email", NOBODY)) > 0.1
    assert generic.marginal("email").kl(WORLD.marginal("email")) < 1e-12
    assert generic.law("email", RARE).kl(WORLD.law("email", RARE)) < 1e-12
    missing = generic.optimum("email", RARE, 1.0, negative="missing_context")
    assert missing.kl(generic.optimum("email", RARE, 1.0)) > 0.01
    with pytest.raises(ValueError, match="marginal"):
        World("average")


@pytest.mark.parametrize("task", TASKS)
def test_text_and_values_are_one_to_one(task):
    rng = np.random.default_rng(0)
    values = all_values(task)
    seen = set()
    for v in values:
        w = tuple(int(x) for x in rng.integers(2, size=len(v)))
        reply = write(task, TASKS[task].topics[0], v, wordings=w)
        assert parse(reply, task) == (v, w)
        seen.add(reply)
    assert len(seen) == len(values)


GOOD = "The tower is 300 metres high."


def test_a_reply_is_written_and_scored_by_hand():
    """To a detailed, imperial person, lead 0.95·0.65 and measure 0.88·0.7.

    The aside is silent, 0.7, and each of three slots has its first wording, 0.6.
    """
    values = ("short", "metric", grammar.SILENT)
    assert write("lookup", "tower", values, wordings=(0, 0, 0)) == GOOD
    by_hand = math.log(0.95 * 0.65 * 0.88 * 0.7 * 0.7 * 0.6**3)
    assert math.isclose(WORLD.log_prob(GOOD, "lookup", RARE), by_hand, abs_tol=1e-12)
    assert not WORLD.fits(GOOD, "lookup", RARE)
    assert WORLD.fits(GOOD, "lookup", person(detail="short", units="metric"))


def test_replies_outside_the_grammar_and_off_topic():
    assert WORLD.log_prob("The tower is tall.", "lookup", RARE) == -math.inf
    assert WORLD.log_prob(GOOD, "lookup", RARE, topic="dam") == -math.inf
    assert WORLD.adherence("", "lookup", RARE) == 0
    with pytest.raises(ValueError, match="not a reply"):
        WORLD.pmi("nonsense", "lookup", RARE)
    with pytest.raises(ValueError, match="no task 'emial'"):
        WORLD.law("emial")


def test_world_is_as_the_study_needs_it():
    """Many uneven attributes, tasks of all degrees, slots that share an attribute."""
    assert len(ATTRIBUTES) >= 6
    for prior in ATTRIBUTES.values():
        assert max(prior.values()) > min(prior.values())

    most_alike = {}
    for name, task in TASKS.items():
        attributes = [slot.attribute for slot in task.slots]
        most_alike[name] = max(map(attributes.count, attributes))
    assert max(most_alike.values()) > 1

    information = {task: WORLD.mutual_information(task) for task in TASKS}
    assert max(information.values()) > 20 * min(information.values())
    assert min(information, key=information.get) == "lookup"


# ---- people ----


def test_splits_are_disjoint_and_have_their_shares():
    shares = dict.fromkeys(population.SPLITS, 0)
    for who in population.everybody():
        shares[who.split] += 1 / 5184
    for name, share in population.SPLITS.items():
        assert abs(shares[name] - share) < 0.02
    seen = {who.values for who in population.people(300, split="base")}
    assert not seen & {who.values for who in population.people(300, split="test")}


def test_people_follow_the_prior_and_the_seed():
    crowd = population.people(3000, seed=1)
    assert crowd == population.people(3000, seed=1)
    share = np.mean([who["tone"] == "blunt" for who in crowd])
    assert abs(share - 0.15) < 4 * math.sqrt(0.15 * 0.85 / 3000)


def test_contexts_written_badly():
    rng = np.random.default_rng(0)
    assert population.context(RARE).startswith("Role: teenager. Tone: blunt.")
    assert population.context(RARE, kind="incomplete", rate=1.0, rng=rng) == ""
    noisy = population.context(RARE, kind="noisy", rate=1.0, rng=rng)
    both = population.context(RARE, kind="conflicting", rate=1.0, rng=rng)
    assert noisy.count(":") == 8
    assert both.count(":") == 16
    for _, value in RARE.values:
        assert f" {value}." not in noisy
        assert f" {value}." in both
    with pytest.raises(ValueError, match="kind="):
        population.context(RARE, kind="rude", rate=1.0, rng=rng)


def test_examples_are_reproducible_and_split_by_wording():
    unseen = population.examples(5, split="test", wordings="unseen", seed=2)
    again = population.examples(5, split="test", wordings="unseen", seed=2)
    assert unseen == again
    assert len(unseen) == 5 * len(TASKS)
    for example in unseen:
        assert example["wording"] in TASKS[example["task"]].queries[-2:]
    of_unseen = {example["wording"] for example in unseen}
    for example in population.examples(50, split="mipo"):
        assert example["wording"] not in of_unseen


@pytest.mark.parametrize("wrong", [{"split": "train"}, {"wordings": "new"}])
def test_examples_of_an_unknown_kind_are_refused(wrong):
    (value,) = wrong.values()
    with pytest.raises(ValueError, match=value):
        population.examples(1, **{"split": "mipo", **wrong})
