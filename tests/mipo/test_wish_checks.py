"""What each checker of a wish passes and fails, and how well it agrees with a reader."""

import json
import re
from collections import defaultdict
from pathlib import Path

import emoji
import nltk
import pytest
import syllapy

from mipo.worlds import wish_checks as checks
from mipo.worlds.wish_checks import without_copies
from mipo.worlds.wish_data import UNSEEN, WISHES
from mipo.worlds.wishes import follows

ROOT = Path(__file__).parents[2]
READ = Path(__file__).parent / "data" / "wishes_read.jsonl"
SMILE = "\N{GRINNING FACE}"
FAMILY = "\N{MAN}\u200d\N{WOMAN}\u200d\N{GIRL}"  # one emoji of three and two joiners

# (wish, value, reply): each is what a person with the wish would take
PASSES = [
    ("greet", "Ana", "Hello Ana, here you are."),
    ("greet", "Ana", "ANA! Here you are."),
    ("greet", "Ana", "**Ana**, here you are."),
    ("greet", "Ana", "“Hi there, Ana”"),
    ("greet", "Ana", "Dear Ana\r\nHere you are."),
    ("work", "cook_ cooking recipe", "As a cook you know how a loan works."),
    ("work", "cook_ cooking recipe", "Cooks know it."),
    ("work", "cook_ cooking recipe", "It is like a list of RECIPES."),
    ("hobby", "surf_ surfing", "Think of surfing."),
    ("place", "Cork", "There are museums in Cork."),
    ("place", "Cork", "THERE ARE MUSEUMS IN CORK."),
    ("place", "Cork", "there are museums in cork."),
    ("pet", "Star", "Star’s stable needs insurance."),
    ("bullets", "", "Here:\n- one\n- two"),
    ("bullets", "", "* **One**: this\r\n* **Two**: that"),
    ("bullets", "", "• one\n  • two"),
    ("numbered", "", "1. one\n2. two"),
    ("numbered", "", "1) one\r\n2) two"),
    ("numbered", "", "**1.** one\n**2.** two"),
    ("one_sentence", "", "Inflation is a rise of 3.5 percent in prices."),
    ("one_sentence", "", "He said “no.”"),
    ("short", "", "word " * 20),
    ("lower_case", "", "no capitals, 3 times. é"),
    ("capitals", "", "ONLY CAPITALS, 3 TIMES. É"),
    ("question", "", "It rains. Do you see?"),
    ("question", "", "It rains. “Do you see?”"),
    ("question", "", f"It rains. Do you see? {SMILE}"),
    ("question", "", f"Do you see?{FAMILY}\r\n"),
    ("begins", "In short", "In short, no."),
    ("begins", "In short", "“In short: no.”"),
    ("begins", "In short", "# IN SHORT\nno."),
    ("signs", "Ciao", "It rains. Ciao!"),
    ("signs", "Ciao", "It rains.\r\n\r\nCiao, dear Ana\r\n"),
    ("excited", "", "Great! You will love it!"),
    ("excited", "", "You will love it!"),
    ("formal", "", "Dear Madam, it is a rise in prices."),
    ("formal", "", "SIR, IT RISES."),
    ("formal", "", "It is the shop's price, ma’am."),
    ("polite", "", "Thank you for asking."),
    ("polite", "", "PLEASE sit."),
    ("pirate", "", "Arrr, it be a loan."),
    ("pirate", "", "Ye landlubber."),
    ("emoji", "", f"It rains {SMILE}"),
    ("emoji", "", FAMILY),
    (
        "emoji",
        "",
        "It rains \N{REGIONAL INDICATOR SYMBOL LETTER F}\N{REGIONAL INDICATOR SYMBOL LETTER R}",
    ),
    ("example", "", "For example, rent."),
    ("example", "", "Costs rise, e.g. rent."),
    ("example", "", "Here’s an example: rent."),
    ("bold", "", "Prices **rise**."),
    ("bold", "", "**Prices rise:** they do."),
    ("titled", "", "# Prices\r\nThey rise."),
    ("titled", "", "**Prices**\n\nThey rise."),
    ("no_commas", "", "Prices rise. So do wages."),
    ("quoted", "", '"Prices rise."'),
    ("quoted", "", "“Prices rise.”\r\n"),
    ("postscript", "", "Prices rise.\n\nP.S. So do wages."),
    ("postscript", "", "Prices rise.\r\n**P.S.** So do wages."),
    ("postscript", "", "Prices rise. PS: So do wages."),
    ("easy", "", "The cat sat on the mat. It was a big cat."),
    ("type_hints", "", "def add(a: int, b: int) -> int:\n    return a + b"),
    ("type_hints", "", "def add(a, b) -> float: ..."),
    ("type_hints", "", "total: int = 0"),
    ("formal_you", "", "Où habitez-vous ?"),
    ("formal_you", "", "Votre livre est ici."),
]

# Near misses: the thing is spoken of, or almost there.
FAILURES = [
    ("greet", "Ana", "Paul, here you are."),
    ("greet", "Ana", "I'm Ana, your assistant."),
    ("greet", "Ana", "Hello, I’m Ana."),
    ("greet", "Ana", "Ana is a helpful assistant."),
    ("greet", "Ana", "1. Ana - a goddess"),
    ("greet", "Ana", "Hello Anabel, here you are."),
    ("greet", "Ana", "Ana says hello to you."),
    ("greet", "Ana", "Here you are, as you wished it. Ana, farewell."),
    ("work", "cook_ cooking recipe", "Browsers keep cookies."),
    ("work", "cook_ cooking recipe", "It was overcooked."),
    ("hobby", "surf_ surfing", "The surface is wet."),
    ("place", "Cork", "Draw the cork out of the bottle."),
    ("place", "Cork", "Corky is a dog."),
    ("pet", "Star", "The film stars a horse."),
    ("pet", "Star", "STARS are far."),
    ("bullets", "", "- only one"),
    ("bullets", "", "* * *\n- - -"),
    ("bullets", "", "| a | b |\n| - | - |\n| 1 | 2 |"),
    ("bullets", "", "1. one\n2. two"),
    ("bullets", "", "**One** and\n**two**"),
    ("bullets", "", "one - two - three"),
    ("numbered", "", "1. only one"),
    ("numbered", "", "First 1. one 2. two"),
    ("numbered", "", "1.5 percent\n2.5 percent"),
    ("numbered", "", "1999. A year\n2000. Another"),
    ("one_sentence", "", "It rains. It pours."),
    ("one_sentence", "", "It rains. And"),
    ("one_sentence", "", "It\nrains."),
    ("one_sentence", "", "Sure! It rains."),
    ("short", "", "word " * 21),
    ("lower_case", "", "almost Lower"),
    ("lower_case", "", "1, 2, 3."),
    ("capitals", "", "ALMOST UPPEr"),
    ("capitals", "", "1, 2, 3."),
    ("question", "", "Do you see? It rains."),
    ("question", "", "Do you see?!."),
    ("begins", "Look", "Looking at it, no."),
    ("begins", "In short", "Well, in short, no."),
    ("signs", "Ciao", "Ciao! It is raining here."),
    ("signs", "Ciao", "It rains. Ciaobella"),
    ("excited", "", "Sure! It rains."),
    ("excited", "", "It rains."),
    ("formal", "", "Dear Ana, it is a rise in prices."),
    ("formal", "", "Ask Sir Walter."),
    ("formal", "", "Dear Madam, it’s a rise in prices."),
    ("formal", "", "Dear Madam, we don't know."),
    ("formal", "", "Desire is a rise."),
    ("polite", "", "It pleases me. The thankless job."),
    ("pirate", "", "A pirate sails the sea in an array of ships."),
    ("pirate", "", "Yes, yellow."),
    ("emoji", "", "It rains :-) (c) ~ → é 漢"),
    ("example", "", 'Say "for example" more often.'),
    ("example", "", "It is an example of craft."),
    ("bold", "", "Put it in **bold**."),
    ("bold", "", "2 ** 3 ** 4"),
    ("bold", "", "*Prices* rise."),
    ("bold", "", "****"),
    ("titled", "", "# Prices"),
    ("titled", "", "Prices rise.\n# Wages"),
    ("titled", "", "**Prices** rise.\nWages too."),
    ("no_commas", "", "Prices, wages."),
    ("quoted", "", '"Prices" rise and so do "wages"'),
    ("quoted", "", "'Prices rise.'"),
    ("quoted", "", '"Prices rise.'),
    ("quoted", "", '"..."'),
    ("postscript", "", "Please add a P.S. to it."),
    ("postscript", "", "Prices rise.\nP.S."),
    ("postscript", "", "GPS. So do wages."),
    ("easy", "", "Inflation constitutes continuously deteriorating purchasing capabilities."),
    ("easy", "", "The cat sat."),
    ("type_hints", "", "Returns:\n    int: the sum"),
    ("type_hints", "", "def add(a, b):\n    return a + b"),
    ("type_hints", "", "A -> B. Note: list of numbers."),
    ("formal_you", "", "Où habites-tu ? Et vous ?"),
    ("formal_you", "", 'I used the polite "vous" for you.'),
    ("formal_you", "", "Où est-il ?"),
]  # fmt: skip

ENDED = ("one_sentence", "short", "question", "signs", "quoted")


@pytest.mark.parametrize("wish, value, reply", PASSES)
def test_what_passes(wish, value, reply):
    assert follows(wish, value, reply)


@pytest.mark.parametrize("wish, value, reply", FAILURES)
def test_near_misses_fail(wish, value, reply):
    assert not follows(wish, value, reply)


def test_every_wish_has_replies_on_both_sides():
    for rows in (PASSES, FAILURES):
        assert {wish for wish, _, _ in rows} == set(WISHES)


@pytest.mark.parametrize("wish, value, reply", PASSES)
def test_a_cut_reply_fails_where_the_end_counts(wish, value, reply):
    only_sentence = wish == "excited" and reply.count("!") == 1
    ends = wish in ENDED or only_sentence
    assert follows(wish, value, reply, finished=False) == (not ends)


@pytest.mark.parametrize("wish, value, reply", PASSES)
def test_line_breaks_of_another_system_change_nothing(wish, value, reply):
    plain = reply.replace("\r\n", "\n")
    assert follows(wish, value, plain)
    assert follows(wish, value, plain.replace("\n", "\r\n"))


VALUES = {"greet": "Ana", "work": "cook_", "hobby": "chess", "place": "Cork",
          "pet": "Rex", "begins": "In short", "signs": "Ciao"}  # fmt: skip


@pytest.mark.parametrize("wish", WISHES)
@pytest.mark.parametrize("reply", ["", " \n", "\r\n", "..."])
def test_an_empty_reply_follows_nothing(wish, reply):
    assert not follows(wish, VALUES.get(wish, ""), reply)


def test_one_word_follows_little():
    passed = {wish for wish in WISHES if follows(wish, VALUES.get(wish, ""), "yes")}
    assert passed == {"short", "lower_case", "no_commas"}


# ------------------------------------------------------------- other people's checkers


@pytest.fixture(scope="module")
def ifeval():
    """IFEval's checkers (Zhou et al. 2023), without the fetch that their import makes."""
    patch = pytest.MonkeyPatch()
    patch.setattr(nltk, "download", lambda *args, **settings: True)
    import langdetect
    from if_verifiable.ifeval import instructions

    patch.setattr(langdetect.DetectorFactory, "seed", 0)
    yield instructions
    patch.undo()


ENGLISH = (
    "the harbour closes at nine tonight because of the storm that comes from the sea"
)
TEXTS = [
    ENGLISH,
    ENGLISH.upper(),
    ENGLISH.capitalize() + ".",
    f"{ENGLISH}, they say",
    f'"{ENGLISH}"',
    f'"{ENGLISH}',
    f"* {ENGLISH}\n* {ENGLISH}",
    f"- {ENGLISH}\n- {ENGLISH}",
    f"{ENGLISH}.\n\nP.S. take a coat.",
    f"the **harbour** closes; {ENGLISH}",
    f"{ENGLISH}\n{ENGLISH.upper()}",
    f"{ENGLISH} and from the wide land",  # twenty words
    f"{ENGLISH} and from the wide land too",
    "Farewell. " + ENGLISH,
    ENGLISH + ". Farewell",
]


@pytest.mark.parametrize(
    "wish, value, theirs, settings",
    [
        ("lower_case", "", "LowercaseLettersEnglishChecker", {}),
        ("capitals", "", "CapitalLettersEnglishChecker", {}),
        ("no_commas", "", "CommaChecker", {}),
        ("quoted", "", "QuotationChecker", {}),
        ("bullets", "", "BulletListChecker", {"num_bullets": 2}),
        ("postscript", "", "PostscriptChecker", {"postscript_marker": "P.S."}),
        ("bold", "", "HighlightSectionChecker", {"num_highlights": 1}),
        ("short", "", "NumberOfWords", {"num_words": 21, "relation": "less than"}),
        ("signs", "Farewell", "EndChecker", {"end_phrase": "Farewell"}),
    ],
)
def test_the_checkers_of_ifeval_say_the_same(ifeval, wish, value, theirs, settings):
    checker = getattr(ifeval, theirs)("wish")
    checker.build_description(**settings)
    ours = [follows(wish, value, text) for text in TEXTS]
    assert ours == [bool(checker.check_following(text)) for text in TEXTS]
    assert len(set(ours)) == 2


# Letters, digits and signs in squares, single arrows, cards: nobody takes them for
# pictures between words.
NO_PICTURES = re.compile(
    "[0-9#*\u00a9\u00ae\u203c-\u2199\u21a9-\u21aa\u24c2\u25aa-\u25fe\u2934-\u2935"
    "\u2b05-\u2b07\u3030-\u303d\u3297-\u3299\U0001f004-\U0001f0cf\U0001f170-\U0001f19a]"
)


def test_every_emoji_of_unicode_is_one():
    ready = emoji.STATUS["fully_qualified"]
    known = [char for char, row in emoji.EMOJI_DATA.items() if row["status"] == ready]
    missed = [char for char in known if not checks.emoji(char, True, "")]
    assert len(known) > 3500
    assert [char for char in missed if not NO_PICTURES.match(char)] == []


# -------------------------------------------------------------------------- reading age


@pytest.mark.parametrize(
    "text, words, sentences, syllables",
    [
        ("The cat sat on the mat. It was a big cat.", 11, 2, 11),
        ("A library explains simple tables.", 5, 1, 1 + 3 + 2 + 2 + 2),
        ("She walked home! Why? Nobody wanted makes.", 7, 3, 1 + 1 + 1 + 1 + 3 + 2 + 1),
    ],
)
def test_reading_grade_by_hand(text, words, sentences, syllables):
    """Kincaid et al. 1975; words, sentences and syllables counted by hand."""
    expected = 0.39 * words / sentences + 11.8 * syllables / words - 15.59
    assert checks.grade(text) == pytest.approx(expected, abs=1e-12)


def test_reading_grade_of_one_known_sentence():
    # 6 words, 1 sentence, 6 syllables: 2.34 + 11.8 - 15.59
    assert checks.grade("The cat sat on the mat.") == pytest.approx(-1.45)


def test_syllables_as_in_a_dictionary():
    """Against syllapy's list of words, which people counted."""
    common = (
        "the a cat table tables simple makes walked wanted houses coffee library money "
        "people water little garden because morning number whole smile agreed continue "
        "banana happy sunny river bread bakery window yellow story name names time rain "
        "rainbow light train library player engine nine tree three school chair doctor"
    ).split()
    ours = [checks.syllables(word) for word in common]
    theirs = [syllapy.count(word) for word in common]
    agree = [one == other for one, other in zip(ours, theirs, strict=True)]
    assert sum(agree) / len(agree) >= 0.95
    assert len(set(ours)) >= 3


# ---------------------------------------------------------------------- copies of a wish

WISH = "I am a cook. Relate it to my work, please."


@pytest.mark.parametrize(
    "reply, left",
    [
        ("relate it to my work", []),
        ("Relate it to MY work!", ["!"]),
        ("So: relate it, to my - work. Yes.", ["So:", ",", "-", ".", "Yes."]),
        ("Well. I am a cook relate", ["Well."]),
        ("relate it to my soup", ["relate", "it", "to", "my", "soup"]),  # only four
        ("it to my work relate", ["it", "to", "my", "work", "relate"]),  # other order
        ("I am a cook. Relate it to my work, please.", [".", ",", "."]),
        ("I am a cook relate it to my soup", ["soup"]),  # runs that overlap
        ("a cook\r\nrelate it to me", ["me"]),
        ("", []),
    ],
)
def test_copied_runs_are_taken_out(reply, left):
    assert without_copies(reply, WISH).split() == left


def test_what_is_left_keeps_its_lines():
    assert without_copies("One\n\n- two", WISH) == "One\n\n- two"
    copied = "One\n\n- relate it to my work\n- two"
    assert without_copies(copied, WISH).splitlines()[-1] == "- two"
    assert without_copies(copied, WISH).startswith("One\n\n- ")


def test_a_source_shorter_than_a_run_takes_nothing():
    assert without_copies("Use bullet points.", "Use bullet points.") == (
        "Use bullet points."
    )


def test_the_length_of_a_run_can_be_set():
    assert without_copies(
        "Use bullet points.", "use bullet points", span=3
    ).split() == ["."]


# ------------------------------------------------------- precision and recall as read

# {wish: (precision, recall)} of the 343 replies in data/wishes_read.jsonl, which were
# read one by one, and weighted by how many replies of the model each stands for; None
# where no reply passed or none should have.
AS_READ = {
    "greet": (0.789, 1.0),
    "work": (1.0, 1.0),
    "hobby": (1.0, 1.0),
    "place": (1.0, 1.0),
    "pet": (0.862, 1.0),
    "bullets": (1.0, 1.0),
    "numbered": (1.0, 1.0),
    "one_sentence": (1.0, 1.0),
    "short": (1.0, 1.0),
    "lower_case": (1.0, 1.0),
    "capitals": (None, None),
    "question": (1.0, 1.0),
    "begins": (1.0, 1.0),
    "signs": (None, None),
    "excited": (0.959, 1.0),
    "formal": (0.778, 1.0),
    "polite": (0.778, 1.0),
    "pirate": (0.667, 0.186),
    "emoji": (1.0, 1.0),
    "example": (0.872, 1.0),
    "bold": (1.0, 1.0),
    "titled": (None, 0.0),
    "no_commas": (1.0, 1.0),
    "quoted": (1.0, 1.0),
    "postscript": (0.772, 1.0),
    "easy": (0.693, 0.744),
    "type_hints": (1.0, 1.0),
    "formal_you": (1.0, 1.0),
    "all": (0.927, 0.89),
}


@pytest.fixture(scope="module")
def read():
    with open(READ, encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def precision_and_recall(rows):
    weight = defaultdict(float)
    for row in rows:
        passed = follows(
            row["wish"], row["value"], row["reply"], finished=row["finished"]
        )
        weight[passed, row["label"]] += row["weight"]
    said, true = (
        weight[True, True] + weight[True, False],
        weight[True, True] + weight[False, True],
    )
    return (
        weight[True, True] / said if said else None,
        weight[True, True] / true if true else None,
    )


def test_the_replies_that_were_read(read):
    assert len(read) == 343
    assert {row["wish"] for row in read} == set(WISHES) == set(AS_READ) - {"all"}
    assert 0.3 < sum(row["label"] for row in read) / len(read) < 0.5


@pytest.mark.parametrize("wish", AS_READ)
def test_no_checker_is_worse_than_when_it_was_read(read, wish):
    rows = [row for row in read if wish in (row["wish"], "all")]
    for found, known in zip(precision_and_recall(rows), AS_READ[wish], strict=True):
        assert (found is None) == (known is None)
        if known is not None:
            assert found >= known - 5e-4  # known has three digits


def test_the_data_card_says_what_was_read(read):
    card = (ROOT / "book" / "data-cards.md").read_text(encoding="utf-8")
    for wish, known in AS_READ.items():
        counted = sum(wish in (row["wish"], "all") for row in read)
        shares = ["–" if one is None else f"{one:.2f}" for one in known]
        assert f"| {wish} | {counted} | {' | '.join(shares)} |" in card


def test_checks_that_miss_most_are_named():
    recalls = {wish: recall for wish, (_, recall) in AS_READ.items()}
    missed = {w for w, recall in recalls.items() if recall is not None and recall < 0.5}
    assert missed == set(UNSEEN)
