"""The law of replies: sums to one, is what is sampled, and its optimum does to each error what the theory says."""

from collections import Counter

import numpy as np
import pytest

from mipo.worlds import word_problem_law, word_problems
from mipo.worlds.word_problem_law import BASE, replies
from mipo.worlds.word_problems import KINDS, MANNERS, TYPES, Problem

SUM = Problem("sum", "plain", (7, 5), "Ada", "apples")
CHOICE = Problem("sum", "long", (7, 5), "Ada", "apples", (35, 12, 13, 10))
TWO = Problem("two steps", "tricky", (7, 5, 3), "Ben", "books")
DIFFERENCE = Problem("difference", "tricky", (14, 6), "Ben", "books")
ALL = (SUM, CHOICE, TWO, DIFFERENCE)


def type_of(name, row):
    return row.kind == TYPES.index(name)


@pytest.mark.parametrize("asked", ALL, ids=lambda p: f"{p.kind}-{p.manner}")
def test_all_replies_are_enumerated_once(asked):
    found = replies(asked)
    for log_law in (
        found.log_p,
        found.log_q["partial"],
        found.optimum(1.0),
        found.sharpened(0.5),
        found.rewarded(1.0),
    ):
        assert np.exp(log_law).sum() == pytest.approx(1)
    assert found.shares().sum() == pytest.approx(1)


def test_probability_of_the_right_reply_by_hand():
    """sum, plain: 0.92 full · operands (0.97 own + 0.03 · 0.3 / 64 by chance) · 0.96 not misread · p(12 | 7 + 5)."""
    expected = (
        0.92
        * (0.97 + 0.03 * 0.3 / 64)
        * 0.96
        * word_problem_law.result_law("+", 7, 5)[0]
    )
    found = replies(SUM)
    assert np.exp(found.log_p[type_of("right", found)]).sum() == pytest.approx(expected)
    assert found.shares()[TYPES.index("empty")] == pytest.approx(0.04)
    found = replies(
        CHOICE
    )  # long: 0.65 of the replies are about other numbers; 0.8 + 0.2 / 4 name the right letter
    expected = (
        0.92
        * (0.35 + 0.65 * 0.3 / 64)
        * 0.96
        * word_problem_law.result_law("+", 7, 5)[0]
        * 0.85
    )
    assert np.exp(found.log_p[type_of("right", found)]).sum() == pytest.approx(expected)


@pytest.mark.parametrize("asked", ALL, ids=lambda p: f"{p.kind}-{p.manner}")
def test_samples_have_the_enumerated_shares(asked):
    rng, n = np.random.default_rng(0), 4000
    drawn = Counter(
        word_problems.grade(word_problem_law.sample(asked, rng), asked)
        for _ in range(n)
    )
    for name, share in zip(TYPES, replies(asked).shares(), strict=True):
        assert drawn[name] / n == pytest.approx(
            share, abs=4.5 * np.sqrt(share / n) + 1e-9
        ), name


def test_the_marginal_is_the_mean_over_all_problems():
    """p(operands, plan) of sum and product problems, averaged over every problem one by one."""
    total = np.zeros(len(word_problem_law.work("sum").misread))
    for own in KINDS["sum"].operands():
        for manner, share in MANNERS.items():
            total += share / 64 / 4 * word_problem_law.set_up("sum", manner, own)
            product = word_problem_law.set_up("product", manner, own)
            rows = word_problem_law.work("product")
            by_key = {
                (*o, m): p
                for o, m, p in zip(
                    map(tuple, rows.operands), rows.misread, product, strict=True
                )
            }
            mine = word_problem_law.work(
                "sum"
            )  # 7 + 5 is the misread product, 7 x 5 the misread sum
            total += (
                share
                / 64
                / 4
                * np.array(
                    [
                        by_key[(*o, not m)]
                        for o, m in zip(
                            map(tuple, mine.operands), mine.misread, strict=True
                        )
                    ]
                )
            )
    np.testing.assert_allclose(word_problem_law._marginal("sum"), total, rtol=1e-10)


@pytest.mark.parametrize("asked", [SUM, TWO, DIFFERENCE], ids=lambda p: p.kind)
@pytest.mark.parametrize("negatives", ["random_prompt", "partial"])
def test_no_tilt_by_pmi_tells_a_slip_from_a_right_result(asked, negatives):
    found = replies(asked)
    right, slip = TYPES.index("right"), TYPES.index("slip")
    before = found.shares()[right] / found.shares()[slip]
    after = found.shares(found.optimum(0.3, negatives))
    lucky = (
        found.shares()[TYPES.index("lucky")] > 1e-3
    )  # slips that cancel belong to no side
    assert after[right] / after[slip] == pytest.approx(
        before, rel=1e-9 if not lucky else 0.02
    )
    cold = found.shares(found.sharpened(0.5))
    assert abs(cold[right] / cold[slip] / before - 1) > 0.05  # a lower temperature does


def test_random_prompts_mend_letters_and_partial_ones_do_not():
    found = replies(CHOICE)
    right, letter = TYPES.index("right"), TYPES.index("letter")
    odds = {
        n: (s := found.shares(n if n is None else found.optimum(1.0, n)))[right]
        / s[letter]
        for n in (None, "random_prompt", "partial")
    }
    assert odds["partial"] == pytest.approx(odds[None])
    # (p/p')^2 / (q/q') = (0.85/0.05)^2 for the letter of one reply; three wrong letters share the error
    assert odds[None] == pytest.approx(0.85 / 0.15) and odds[
        "random_prompt"
    ] == pytest.approx((0.85 / 0.05) ** 2 / 3)


def test_a_misread_difference_grows_because_only_such_prompts_give_it():
    """Odds wrong : right = 0.55/0.45 before. As the wrong sum is rarer elsewhere, PMI prefers it."""
    found = replies(DIFFERENCE)
    before, after = found.shares(), found.shares(found.optimum(1.0))
    right, wrong = TYPES.index("right"), TYPES.index("operation")
    assert after[wrong] / after[right] > 3 * before[wrong] / before[right]


def test_accuracy_moves_with_the_covariance_of_being_right_and_pmi():
    found = replies(CHOICE)
    pmi, s, step = found.log_p - found.log_q["random_prompt"], 0.7, 1e-4  # s = 1/beta
    p = np.exp(found.optimum(1 / s))
    covariance = (p * found.correct * pmi).sum() - (p * found.correct).sum() * (
        p * pmi
    ).sum()
    up, down = (
        np.exp(found.optimum(1 / (s + d)))[found.correct].sum() for d in (step, -step)
    )
    assert (up - down) / (2 * step) == pytest.approx(covariance, rel=1e-5)


def test_rewarded_by_hand_and_the_mode():
    found = replies(SUM)
    right = found.shares()[:2].sum()
    assert word_problem_law.accuracy(
        found.shares(found.rewarded(0.5))
    ) == pytest.approx(right * np.exp(2) / (right * np.exp(2) + 1 - right))
    assert (
        found.mode()
        and found.vote()
        and not replies(DIFFERENCE).mode()
        and not replies(DIFFERENCE).vote()
    )


def test_the_base_is_right_about_half_the_time():
    laws = word_problem_law.listed(80, seed=0)
    shares = word_problem_law.mean_shares(laws)
    assert 0.4 < word_problem_law.accuracy(shares) < 0.6
    for name in ("elsewhere", "operation", "slip"):
        assert shares[TYPES.index(name)] > 0.05
    parts = [
        word_problem_law.mean_shares(laws, sort=sort)
        * sum(law.problem.sort == sort for law in laws)
        for sort in word_problems.SORTS
    ]
    np.testing.assert_allclose(sum(parts) / 80, shares)
    with pytest.raises(
        ValueError, match="none of 80 listed problems fits {'kind': 'sums'}"
    ):
        word_problem_law.mean_shares(laws, kind="sums")


def test_odds_and_what_went_by_hand():
    before, after = np.zeros(8), np.zeros(8)
    for name, was, now in (
        ("right", 0.4, 0.6),
        ("lucky", 0.1, 0.0),
        ("elsewhere", 0.2, 0.05),
        ("slip", 0.2, 0.15),
        ("letter", 0.1, 0.2),
    ):
        before[TYPES.index(name)], after[TYPES.index(name)] = was, now
    assert word_problem_law.odds(before, "slip") == pytest.approx(np.log(2))
    assert word_problem_law.odds(after, "letter") == pytest.approx(np.log(3))
    went = word_problem_law.fallen(
        before, after
    )  # 0.15 and 0.05; luck is no error, and letters grew
    assert went[TYPES.index("elsewhere")] == pytest.approx(0.75) and went[
        TYPES.index("slip")
    ] == pytest.approx(0.25)
    assert (
        went.sum() == pytest.approx(1)
        and word_problem_law.fallen(before, before).sum() == 0
    )


def test_sums_right_by_hand():
    assert word_problem_law.sums_right(SUM) == word_problem_law.result_law("+", 7, 5)[0]
    assert word_problem_law.sums_right(TWO) == pytest.approx(
        word_problem_law.result_law("+", 7, 5)[0]
        * word_problem_law.result_law("-", 12, 3)[0]
    )
    hard = [
        word_problem_law.result_law("x", a, b)[0] < 0.5
        for a in range(2, 10)
        for b in range(2, 10)
    ]
    assert 0.2 < np.mean(hard) < 0.5


def test_forms_and_their_shares():
    assert BASE.forms() == pytest.approx({"full": 0.92, "cut": 0.04, "empty": 0.04})


@pytest.mark.parametrize("kind", KINDS)
def test_a_favourite_sum_is_a_known_one(kind):
    assert (
        word_problem_law.sums_right(
            Problem(kind, "plain", KINDS[kind].favourite, "Ada", "apples")
        )
        > 0.8
    )
