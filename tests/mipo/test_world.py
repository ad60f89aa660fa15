"""The small world's closed forms against enumeration, Monte Carlo and hand calculation."""

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


def by_enumeration(task, who):
    """p(values | person) straight from the definition: a product over slots of follow·1[own] + (1 - follow)·prior."""
    slots, table = TASKS[task].slots, {}
    for values in all_values(task):
        p = 1.0
        for slot, value in zip(slots, values, strict=True):
            prior = ATTRIBUTES[slot.attribute]
            if slot.follow == 0:
                speaks = {v: prior[v] for v in slot.options if v != grammar.SILENT}
                p *= (
                    0.7
                    if value == grammar.SILENT
                    else 0.3 * speaks[value] / sum(speaks.values())
                )
            else:
                p *= (
                    slot.follow * (value == who[slot.attribute])
                    + (1 - slot.follow) * prior[value]
                )
        table[values] = p
    return table


@pytest.mark.parametrize("task", TASKS)
def test_law_equals_the_definition_and_sums_to_one(task):
    table = by_enumeration(task, RARE)
    assert math.isclose(sum(table.values()), 1, abs_tol=1e-12)
    law = WORLD.law(task, RARE)
    for values, p in table.items():
        assert math.isclose(law.log_prob(values), math.log(p), abs_tol=1e-12)


@pytest.mark.parametrize("task", ["email", "explain"])
def test_marginal_is_the_average_over_everybody(task):
    """Σ_c p(c) p(y|x,c) over all 5 184 persons, for a few replies, against the product form."""
    values = all_values(task)[:: max(1, len(all_values(task)) // 7)]
    total = np.zeros(len(values))
    for who in population.everybody():
        law = WORLD.law(task, who)
        total += math.exp(who.log_prior) * np.exp([law.log_prob(v) for v in values])
    np.testing.assert_allclose(
        total, np.exp([WORLD.marginal(task).log_prob(v) for v in values]), rtol=1e-9
    )


@pytest.mark.parametrize("task", ["email", "lookup"])
def test_mutual_information_is_the_mean_pmi(task):
    """I(Y;C|X) by enumeration of persons and replies, where the closed form adds up groups."""
    replies, total = all_values(task), 0.0
    q = np.array([WORLD.marginal(task).log_prob(v) for v in replies])
    relevant = {s.attribute for s in TASKS[task].slots if s.relevant}
    for combination in itertools.product(
        *(ATTRIBUTES[a].items() for a in sorted(relevant))
    ):
        who = person(
            **dict(zip(sorted(relevant), (v for v, _ in combination), strict=True))
        )
        p = np.array([WORLD.law(task, who).log_prob(v) for v in replies])
        total += math.prod(w for _, w in combination) * float(np.exp(p) @ (p - q))
    assert math.isclose(WORLD.mutual_information(task), total, rel_tol=1e-9)


def test_mutual_information_of_one_slot_by_hand():
    """lookup: measure follows units with 0.12 (prior 0.7/0.3), lead follows detail with 0.05 (prior 0.65/0.35)."""

    def one(follow, prior):
        information = 0.0
        for own, weight in prior.items():
            for said, q in prior.items():
                p = follow * (own == said) + (1 - follow) * q
                information += weight * p * math.log(p / q)
        return information

    expected = one(0.12, ATTRIBUTES["units"]) + one(0.05, ATTRIBUTES["detail"])
    assert math.isclose(WORLD.mutual_information("lookup"), expected, rel_tol=1e-12)


def test_pmi_is_a_difference_of_log_probs_and_averages_to_the_information():
    rng, task, total = np.random.default_rng(0), "recommend", []
    for who in population.people(4000, seed=3):
        reply = WORLD.sample(task, who, "gift", rng)
        pmi = WORLD.pmi(reply, task, who)
        assert math.isclose(
            pmi,
            WORLD.log_prob(reply, task, who) - WORLD.log_prob(reply, task),
            abs_tol=1e-12,
        )
        total.append(pmi)
    error = np.std(total) / math.sqrt(len(total))
    assert abs(np.mean(total) - WORLD.mutual_information(task)) < 4 * error


def test_samples_follow_the_law():
    rng = np.random.default_rng(1)
    replies = [WORLD.sample("lookup", RARE, "tower", rng) for _ in range(4000)]
    table = by_enumeration("lookup", RARE)
    counts = {v: 0 for v in table}
    for y in replies:
        counts[parse(y, "lookup")[0]] += 1
    assert (
        stats.chisquare(
            list(counts.values()), 4000 * np.array(list(table.values()))
        ).pvalue
        > 1e-3
    )


def test_adherence_of_a_law_is_the_mean_over_its_samples_and_by_hand():
    """A teenager with follow 0.5 and prior 0.2: 0.5 + 0.5·0.2 = 0.6 for the analogy of `explain`."""
    law = WORLD.law("explain", RARE)
    index = [s.name for s in TASKS["explain"].slots].index("analogy")
    assert math.isclose(law.slot(index)[2], 0.6)
    rng = np.random.default_rng(2)
    sampled = [
        WORLD.adherence(WORLD.sample("explain", RARE, "caching", rng), "explain", RARE)
        for _ in range(3000)
    ]
    assert abs(np.mean(sampled) - law.adherence(RARE)) < 4 * np.std(
        sampled
    ) / math.sqrt(3000)


@pytest.mark.parametrize("task", ["email", "explain", "plan"])
@pytest.mark.parametrize("beta", [0.5, 1.0, 3.0])
def test_optimum_equals_enumeration(task, beta):
    """π* ∝ p^(1+1/β) q^(-1/β) over all replies, normalised by summing them."""
    values = all_values(task)
    p = np.array([WORLD.law(task, RARE).log_prob(v) for v in values])
    q = np.array([WORLD.marginal(task).log_prob(v) for v in values])
    log_weights = p + (p - q) / beta
    expected = log_weights - np.logaddexp.reduce(log_weights)
    law = WORLD.optimum(task, RARE, beta)
    np.testing.assert_allclose([law.log_prob(v) for v in values], expected, atol=1e-9)


def test_token_level_optimum_equals_stepwise_enumeration():
    """Context-aware decoding slot after slot, on the two role slots of `explain`, written out by hand."""
    prior, alpha = ATTRIBUTES["role"], 2.0
    roles = list(prior)
    follow = (0.5, 0.4)
    own = "owner"
    p = [np.array([f * (r == own) + (1 - f) * prior[r] for r in roles]) for f in follow]
    joint_q = sum(
        prior[c]
        * np.outer(
            *[
                np.array([f * (r == c) + (1 - f) * prior[r] for r in roles])
                for f in follow
            ]
        )
        for c in roles
    )
    first = p[0] * (p[0] / joint_q.sum(1)) ** alpha
    first /= first.sum()
    second = p[1] * (p[1] / (joint_q / joint_q.sum(1, keepdims=True))) ** alpha
    second /= second.sum(1, keepdims=True)
    law = WORLD.optimum("explain", person(role=own), 1 / alpha, level="token")
    table = next(t for g, t in law.groups if len(g) == 2)
    np.testing.assert_allclose(table, first[:, None] * second, atol=1e-12)
    sequence = WORLD.optimum("explain", person(role=own), 1 / alpha)
    assert law.kl(sequence) > 1e-3  # shared attribute: the two levels differ
    assert (
        WORLD.optimum("lookup", RARE, 0.5, level="token").kl(
            WORLD.optimum("lookup", RARE, 0.5)
        )
        < 1e-12
    )


def test_optimum_limits_and_errors():
    base = WORLD.law("plan", RARE)
    assert (
        WORLD.optimum("plan", RARE, 1e6).kl(base) < 1e-9
    )  # β → ∞: stay at the reference
    assert (
        WORLD.optimum("plan", RARE, 0.05).adherence(RARE) > 0.999
    )  # β → 0: only what is most personal
    with pytest.raises(ValueError, match="beta must be positive"):
        WORLD.optimum("plan", RARE, 0)


def test_irrelevant_slots_do_not_move():
    for task in TASKS:
        last = len(TASKS[task].slots) - 1
        tilted = WORLD.optimum(task, RARE, 0.2).slot(last)
        np.testing.assert_allclose(
            tilted, WORLD.law(task, NOBODY).slot(last), atol=1e-12
        )


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


def test_replies_outside_the_grammar_and_off_topic():
    good = write(
        "lookup", "tower", ("short", "metric", grammar.SILENT), wordings=(0, 0, 0)
    )
    assert good == "The tower is 300 metres high."
    assert WORLD.log_prob("The tower is tall.", "lookup", RARE) == -math.inf
    assert WORLD.log_prob(good, "lookup", RARE, topic="dam") == -math.inf
    assert WORLD.adherence("", "lookup", RARE) == 0
    assert not WORLD.fits(good, "lookup", RARE)
    assert WORLD.fits(good, "lookup", person(detail="short", units="metric"))
    # by hand: lead (0.95·0.65), measure (0.88·0.7), aside 0.7, wordings 0.6³; the person is detailed and imperial
    assert math.isclose(
        WORLD.log_prob(good, "lookup", RARE),
        math.log(0.95 * 0.65 * 0.88 * 0.7 * 0.7 * 0.6**3),
        abs_tol=1e-12,
    )
    with pytest.raises(ValueError, match="not a reply"):
        WORLD.pmi("nonsense", "lookup", RARE)
    with pytest.raises(ValueError, match="no task 'emial'"):
        WORLD.law("emial")


def test_world_is_as_the_study_needs_it():
    assert len(ATTRIBUTES) >= 6 and all(
        max(p.values()) > min(p.values()) for p in ATTRIBUTES.values()
    )
    shared = [
        t
        for t in TASKS.values()
        if any(sum(s.attribute == o.attribute for o in t.slots) > 1 for s in t.slots)
    ]
    assert shared, "some task must have two slots that share an attribute"
    information = {t: WORLD.mutual_information(t) for t in TASKS}
    assert max(information.values()) > 20 * min(information.values())
    assert min(information, key=information.get) == "lookup"


# ---- people -----------------------------------------------------------------------------------------------------------


def test_splits_are_disjoint_and_have_their_shares():
    shares = {name: 0 for name in population.SPLITS}
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
    assert noisy.count(":") == 8 and not any(f" {v}." in noisy for _, v in RARE.values)
    both = population.context(RARE, kind="conflicting", rate=1.0, rng=rng)
    assert both.count(":") == 16 and all(f" {v}." in both for _, v in RARE.values)
    with pytest.raises(ValueError, match="kind="):
        population.context(RARE, kind="rude", rate=1.0, rng=rng)


def test_records_are_reproducible_and_split_by_wording():
    a, b = (
        population.examples(5, split="test", wordings="unseen", seed=2)
        for _ in range(2)
    )
    assert a == b and len(a) == 5 * len(TASKS)
    assert all(r["wording"] in TASKS[r["task"]].queries[-2:] for r in a)
    assert {r["wording"] for r in population.examples(50, split="mipo")}.isdisjoint(
        {r["wording"] for r in a}
    )
    for name, value in {"split": "train", "wordings": "new"}.items():
        with pytest.raises(ValueError, match=value):
            population.examples(1, **{"split": "mipo", name: value})
