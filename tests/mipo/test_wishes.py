"""People with wishes: what is shared between splits, what goes together, what each condition does."""

import itertools
import json
import re
from collections import Counter

import numpy as np
import pytest

from mipo import data
from mipo.worlds import wish_data, wishes
from mipo.worlds.wish_data import HOUSE, SHARES, TASKS, WISHES, WORDINGS

PAIRS = list(itertools.combinations(SHARES, 2))


def statements(row, wordings=range(6)):
    """{wish: every way in which it can be stated for the person of an example}."""
    return {
        name: [wishes.say(wish.wordings[i], row["values"]) for i in wordings]
        for name, wish in WISHES.items()
    }


def stated(row, who):
    """The wishes of a person that the context of an example states."""
    said = statements(row)
    return [
        name for name in who.wishes if any(one in row["context"] for one in said[name])
    ]


# ------------------------------------------------------------------------------- splits


@pytest.mark.parametrize("one, other", PAIRS)
@pytest.mark.parametrize(
    "words",
    [
        wish_data.NAMES,
        list(wish_data.JOBS),
        list(wish_data.HOBBIES),
        wish_data.PLACES,
        wish_data.PETS,
        wish_data.OPENINGS,
        wish_data.CLOSINGS,
        *(task.topics for task in TASKS.values()),
    ],
    ids=lambda words: words[0][:15],
)
def test_no_value_and_no_topic_is_in_two_splits(words, one, other):
    assert len(words) % 16 == 0
    assert len(set(words)) == len(words)
    mine, theirs = wishes.part_of(words, one), wishes.part_of(words, other)
    assert mine and theirs and not set(mine) & set(theirs)


def test_the_splits_use_every_value():
    parts = [wishes.part_of(wish_data.NAMES, split) for split in SHARES]
    assert sorted(sum(parts, [])) == sorted(wish_data.NAMES)
    assert [len(part) for part in parts] == [16, 24, 8, 16]  # quarters of 64 names


@pytest.mark.parametrize("one, other", PAIRS)
def test_no_wording_is_in_two_splits(one, other):
    """But "choose", where nothing is trained, reads the wordings of "mipo"."""
    (start, stop), (begin, end) = WORDINGS[one], WORDINGS[other]
    shared = set(range(start, stop)) & set(range(begin, end))
    assert shared == ({0, 1, 2} if {one, other} == {"choose", "mipo"} else set())


def test_six_wordings_each_once():
    kinds = [*WISHES.values(), *TASKS.values(), HOUSE]
    assert {len(kind.wordings) for kind in kinds} == {6}
    said = Counter(wording for kind in kinds for wording in kind.wordings)
    assert said.most_common(1)[0][1] == 1
    assert not {wish.vague for wish in WISHES.values()} & set(said)


@pytest.mark.parametrize("one, other", PAIRS)
def test_drawn_examples_share_nothing(one, other):
    """The same, seen from outside: by whom and what is in the examples."""

    def seen(split):
        rows = wishes.examples(150, split=split, seed=3)
        queries = {row["query"] for row in rows}
        values = {(key, value) for row in rows for key, value in row["values"].items()}
        return queries, values

    (queries, values), (others, their_values) = seen(one), seen(other)
    assert not queries & others
    assert not values & their_values


def test_no_pet_and_no_city_is_called_like_a_person():
    pets = {pet.partition("|")[2] for pet in wish_data.PETS}
    assert not pets & set(wish_data.NAMES)
    assert not set(wish_data.PLACES) & (set(wish_data.NAMES) | pets)
    assert len(pets) == 16


# ------------------------------------------------------------------------------- people


@pytest.mark.parametrize("split", SHARES)
def test_people_have_two_wishes_that_go_together(split):
    for who in wishes.people(1500, split=split, seed=1):
        one, other = who.wishes
        assert one != other
        assert other != WISHES[one].against and one != WISHES[other].against


def test_whatever_is_contradicted_exists():
    """A wish without a value of its own is contradicted by another wish."""
    for name, wish in WISHES.items():
        assert wish.against in {*WISHES, ""} - {name}
        assert bool(wish.value) != bool(wish.against)


def expected_shares(weights):
    """How often each wish is met, of two drawn until they go together; by enumeration."""
    total = Counter()
    for one, other in itertools.permutations(weights, 2):
        against = {WISHES[one].against, WISHES[other].against}
        if not against & {one, other}:
            total[one] += weights[one] * weights[other]
            total[other] += weights[one] * weights[other]
    everything = sum(total.values())
    return {name: 2 * count / everything for name, count in total.items()}


@pytest.mark.parametrize("split, rare", [("mipo", 0.25), ("choose", 1.0)])
def test_rare_wishes_are_rare_but_where_wishes_are_chosen(split, rare):
    n = 4000
    drawn = Counter()
    for who in wishes.people(n, split=split, entered=tuple(WISHES)):
        drawn.update(who.wishes)
    weights = {name: rare if wish.rare else 1.0 for name, wish in WISHES.items()}
    for name, share in expected_shares(weights).items():
        error = 4.5 * np.sqrt(share * (1 - share) / n)
        assert abs(drawn[name] / n - share) < error, name


def test_only_the_wishes_that_entered_are_drawn():
    entered = ("greet", "bullets", "emoji")
    people = wishes.people(100, split="test", entered=entered)
    assert {name for who in people for name in who.wishes} == set(entered)


def test_wishes_that_do_not_go_together_are_refused():
    with pytest.raises(ValueError, match="go together: lower_case, capitals"):
        wishes.people(3, split="test", entered=("lower_case", "capitals"))
    with pytest.raises(ValueError, match="go together: greet"):
        wishes.people(3, split="test", entered=("greet",))


@pytest.mark.parametrize(
    "call, words",
    [
        (
            lambda: wishes.people(1, split="train"),
            "split='train': choose one of choose",
        ),
        (lambda: wishes.examples(1, split="tests"), "split='tests'"),
        (
            lambda: wishes.examples(1, split="test", condition="wrong"),
            "condition='wrong': choose one of plain, misapplied",
        ),
        (lambda: wishes.facts("maybe"), "told='maybe': choose one of nothing"),
    ],
)
def test_an_unknown_name_is_refused(call, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        call()


# ----------------------------------------------------------------------------- examples


@pytest.mark.parametrize("condition", wishes.CONDITIONS)
@pytest.mark.parametrize("split", SHARES)
def test_the_same_seed_gives_the_same_examples(split, condition):
    settings = {"split": split, "condition": condition}
    first = wishes.examples(20, seed=5, **settings)
    assert first == wishes.examples(20, seed=5, **settings)
    others = [wishes.examples(20, seed=seed, **settings) for seed in range(4)]
    texts = {json.dumps(rows) for rows in others}
    assert len(texts) == 4


def test_more_people_begin_with_the_same_people():
    few = wishes.people(5, split="test", seed=2)
    assert wishes.people(9, split="test", seed=2)[:5] == few


@pytest.mark.parametrize("condition", wishes.CONDITIONS)
def test_the_fields_of_an_example(condition):
    rows = wishes.examples(40, split="test", condition=condition)
    assert [row["person"] for row in rows] == list(range(40))
    for row in rows:
        assert set(row) == {
            "query", "context", "gold", "person", "task", "values", "wishes"
        }  # fmt: skip
        assert row["gold"] is None and row["query"].strip() and row["context"].strip()
        assert "{" not in row["query"] + row["context"]
    assert json.loads(json.dumps(rows)) == rows


@pytest.mark.parametrize("condition", sorted({*wishes.CONDITIONS} - {"misapplied"}))
@pytest.mark.parametrize("split", ["choose", "select", "test"])
def test_something_is_measured_on_every_question(split, condition):
    for row in wishes.examples(100, split=split, condition=condition):
        assert row["wishes"]
        assert all(wishes.fits(wish["wish"], row["task"]) for wish in row["wishes"])


def test_people_who_train_ask_anything():
    rows = wishes.examples(600, split="mipo")
    assert {row["task"] for row in rows} == set(TASKS)
    assert any(not row["wishes"] for row in rows)


@pytest.mark.parametrize(
    "split, wordings",
    [("choose", range(3)), ("mipo", range(3)), ("select", [3]), ("test", [4, 5])],
)
def test_plain_examples_state_both_wishes_in_the_words_of_their_split(split, wordings):
    rows = wishes.examples(120, split=split, seed=4)
    orders = Counter()
    for row, who in zip(rows, wishes.people(120, split=split, seed=4), strict=True):
        said = statements(row, wordings)
        forms = {
            f"{one} {other}": order
            for order, names in enumerate([who.wishes, who.wishes[::-1]])
            for one, other in itertools.product(*(said[name] for name in names))
        }
        assert row["context"] in forms
        orders[forms[row["context"]]] += 1
        asked = TASKS[row["task"]]
        topics = wishes.part_of(asked.topics, split)
        queries = [
            asked.wordings[i].format(topic=topic) for i in wordings for topic in topics
        ]
        assert row["query"] in queries
    assert min(orders.values()) > 60 - 4 * np.sqrt(30)  # either wish comes first


def test_what_a_check_looks_for():
    values = {
        "name": "Ana",
        "job": "cook",
        "hobby": "chess",
        "place": "Cork",
        "pet": "dog|Rex",
        "opening": "Look",
        "closing": "Bye",
    }
    found = {name: wishes.value_of(name, values) for name in WISHES}
    assert {name: value for name, value in found.items() if value} == {
        "greet": "Ana",
        "work": wish_data.JOBS["cook"],
        "hobby": wish_data.HOBBIES["chess"],
        "place": "Cork",
        "pet": "Rex",
        "begins": "Look",
        "signs": "Bye",
    }
    assert wishes.say(WISHES["pet"].wordings[0], values) == (
        "I have a dog called Rex. Mention it by name."
    )


@pytest.mark.parametrize(
    "name, task, fitting, misfitting",
    [
        ("greet", "explain", True, False),
        ("greet", "email", False, True),
        ("greet", "fact", False, True),
        ("bullets", "explain", True, False),
        ("bullets", "email", True, False),
        ("bullets", "fact", False, False),
        ("bullets", "code", False, False),
        ("type_hints", "code", True, False),
        ("type_hints", "explain", False, False),
        ("formal_you", "translate", True, False),
        ("formal_you", "code", False, False),
    ],
)
def test_where_a_wish_applies(name, task, fitting, misfitting):
    assert wishes.fits(name, task) == fitting
    assert wishes.misfits(name, task) == misfitting


def test_every_wish_applies_to_some_question_and_none_both_ways():
    for name, wish in WISHES.items():
        fitting = {task for task in TASKS if wishes.fits(name, task)}
        out_of_place = {task for task in TASKS if wishes.misfits(name, task)}
        assert fitting and not fitting & out_of_place
        assert bool(out_of_place) == wish.personal


# --------------------------------------------------------------------------- conditions

N = 400


def made(condition, split="test", seed=6):
    rows = wishes.examples(N, split=split, seed=seed, condition=condition)
    return list(zip(rows, wishes.people(N, split=split, seed=seed), strict=True))


def test_incomplete_lacks_exactly_one_wish():
    missing = Counter()
    for row, who in made("incomplete"):
        told = stated(row, who)
        assert len(told) == 1
        assert row["context"] in statements(row)[told[0]]
        missing[who.wishes.index(told[0])] += 1
    assert min(missing.values()) > N / 2 - 4 * np.sqrt(N / 4)  # either by chance


def test_what_is_not_stated_is_not_checked():
    for row, who in made("incomplete"):
        assert [wish["wish"] for wish in row["wishes"]] == stated(row, who)


def test_conflicting_has_one_statement_more_at_any_place():
    first = 0
    for row, who in made("conflicting"):
        assert stated(row, who) in ([*who.wishes], [*who.wishes[::-1]])
        said = statements(row)
        left = row["context"]
        for name in who.wishes:
            left = left.replace(max((s for s in said[name] if s in left), key=len), "|")
        rival = re.sub(r"[|\s]+", " ", left).strip()
        assert rival
        places = [
            i for i, mark in enumerate(re.findall(r"\||[^|]+", left)) if mark == "|"
        ]
        first += places[0] > 0
    assert abs(first - N / 3) < 4 * np.sqrt(N * 2 / 9)  # of three places


def test_the_rival_contradicts_a_wish_of_the_person():
    """It is the wish that stands against it, or the same wish with another's value.

    And the wish is one that is checked.
    """
    for row, _ in made("conflicting"):
        checked = [wish["wish"] for wish in row["wishes"]]
        rivals = [WISHES[name].against for name in checked if WISHES[name].against]
        said = statements(row)
        against = any(one in row["context"] for name in rivals for one in said[name])
        own = [WISHES[name] for name in checked if WISHES[name].value]
        other_value = any(another_value(row, wish) for wish in own)
        assert against or other_value


def another_value(row, wish):
    """Whether a context has somebody else's value in the words of a wish."""
    lists = {
        "name": wish_data.NAMES,
        "job": list(wish_data.JOBS),
        "hobby": list(wish_data.HOBBIES),
        "place": wish_data.PLACES,
        "pet": wish_data.PETS,
        "opening": wish_data.OPENINGS,
        "closing": wish_data.CLOSINGS,
    }
    others = [one for one in lists[wish.value] if one != row["values"][wish.value]]
    return any(
        wishes.say(wording, {**row["values"], wish.value: one}) in row["context"]
        for one in others
        for wording in wish.wordings
    )


def test_noisy_contexts_keep_the_names_that_are_looked_for():
    for row, who in made("noisy"):
        for name in who.wishes:
            wish = WISHES[name]
            if wish.value and any("{" in text for text in wish.wordings):
                value = row["values"][wish.value].rpartition("|")[2]
                assert value in row["context"]


def test_noisy_contexts_keep_every_letter():
    plain = " ".join(WISHES["bullets"].wordings) + " I'm Ana; a b cd efg!"
    rng = np.random.default_rng(0)
    typed = [wishes.misspell(plain, rng) for _ in range(200)]
    shares = []
    for text in typed:
        pairs = list(zip(plain.split(" "), text.split(" "), strict=True))
        for before, after in pairs:
            assert sorted(before) == sorted(after)
            assert (before[0], before[-1]) == (after[0], after[-1])
            assert before == after or len(before) > 3
            moved = [
                i for i, (a, b) in enumerate(zip(before, after, strict=True)) if a != b
            ]
            assert moved in ([], [*range(moved[0], moved[0] + 2)] if moved else [])
        # two equal letters swap unseen, as in "need"
        can = [
            (a, b) for a, b in pairs if len(a) > 3 and len(set(a[1:-1])) == len(a) - 2
        ]
        shares.append(np.mean([a != b for a, b in can]))
    assert np.mean(shares) == pytest.approx(wishes.TYPOS, abs=0.03)


def test_noisy_examples_are_plain_ones_with_typing_errors():
    [(row, _), *_] = made("noisy")
    [(plain, _), *_] = made("plain")
    assert row["query"] == plain["query"]  # only what the person says of themselves
    typed, meant = row["context"].split(" "), plain["context"].split(" ")
    assert [sorted(word) for word in typed] == [sorted(word) for word in meant]
    noisy = [row["context"] for row, _ in made("noisy")]
    assert np.mean([len(stated(row, who)) < 2 for row, who in made("noisy")]) > 0.7
    assert len(set(noisy)) > N / 2


def test_ambiguous_contexts_only_hint():
    for row, who in made("ambiguous"):
        assert stated(row, who) == []
        hints = [wishes.say(WISHES[name].vague, row["values"]) for name in who.wishes]
        assert row["context"] in (" ".join(hints), " ".join(hints[::-1]))


@pytest.mark.parametrize("split", ["choose", "select", "test"])
def test_misapplied_wishes_speak_to_the_person(split):
    rows = wishes.examples(N, split=split, condition="misapplied")
    assert len({row["task"] for row in rows}) > 2
    for row in rows:
        assert not TASKS[row["task"]].to_me
        assert row["wishes"]
        assert all(WISHES[wish["wish"]].personal for wish in row["wishes"])


def test_the_house_style_stands_before_every_question():
    rows = wishes.examples(50, split="test", house=True)
    plain = wishes.examples(50, split="test")
    for row in rows:
        style, _, query = row["query"].partition("\n\n")
        assert style in HOUSE.wordings[4:6] and query
        assert wish_data.HOUSE_WORD in style
    assert rows[0]["query"].endswith(plain[0]["query"])
    assert rows[0]["context"] == plain[0]["context"]


# ---------------------------------------------------------------- adherence, facts, load


def test_adherence_of_each_wish_of_an_example():
    example = {
        "context": "My name is Ana. Greet me by name. Use bullet points.",
        "wishes": [
            {"wish": "greet", "value": "Ana"},
            {"wish": "question", "value": ""},
        ],
    }
    assert wishes.adherence("Hello Ana, are you well?", example) == [True, True]
    assert wishes.adherence("Hello Ana, are you", example, finished=False) == [
        True,
        False,
    ]
    assert wishes.adherence("Are you well?", example) == [False, True]


def test_own_words_takes_copies_out_first():
    example = {
        "context": "Ask me. Say thank you to me please.",
        "wishes": [{"wish": "polite", "value": ""}],
    }
    copied = "Say thank you to me please."
    assert wishes.adherence(copied, example) == [True]
    assert wishes.adherence(copied, example, own_words=True) == [False]
    assert wishes.adherence("Thank you!", example, own_words=True) == [True]


def terms(text):
    return re.findall(r"\w+", text.lower())


def test_the_answers_of_a_fact_do_not_contain_one_another():
    facts = wishes.facts()
    assert len(facts) == len({row["query"] for row in facts}) == 32
    for row in facts:
        gold, mistake = row["gold"].lower(), row["mistake"].lower()
        assert gold not in mistake and mistake not in gold
        assert not {gold, mistake} & set(terms(row["query"]))


def test_what_the_context_of_a_fact_states():
    nothing, right, wrong = (
        wishes.facts(told) for told in ("nothing", "right", "wrong")
    )
    for bare, true, false in zip(nothing, right, wrong, strict=True):
        assert bare["context"] == ""
        for row, is_said, is_not in [
            (true, "gold", "mistake"),
            (false, "mistake", "gold"),
        ]:
            assert row[is_said].lower() in terms(row["context"])
            assert row[is_not].lower() not in terms(row["context"])
            assert {**row, "context": ""} == bare


def test_no_fact_is_asked_as_a_task():
    asked = {
        wording.format(topic=topic)
        for task in TASKS.values()
        for wording in task.wordings
        for topic in task.topics
    }
    assert not asked & {row["query"] for row in wishes.facts()}
    capitals = [row["query"] for row in wishes.facts() if "capital" in row["query"]]
    assert not any(land in query for land in TASKS["fact"].topics for query in capitals)


def test_a_source_of_examples():
    rows = data.load("wishes", split="test", n_people=7, seed=2)
    assert rows == wishes.examples(7, split="test", seed=2)
    with pytest.raises(ValueError, match='did you mean "wishes"'):
        data.load("wishs")
