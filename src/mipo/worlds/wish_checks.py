"""Small programs that tell whether a reply follows a wish.

Each takes the reply as text, and whether the model had ended it: a reply that was cut
cannot be said to end with a question. Those with a `value` look for what is the
person's own: their name, their work, the word they want to read.
"""

from __future__ import annotations

import re
from collections.abc import Callable

Check = Callable[[str, bool, str], bool]  # reply, finished, value

_BULLET = re.compile(r"^[ \t]*[-*•–●▪◦‣][ \t]+(?=.*\w)", re.MULTILINE)
_NUMBERED = re.compile(r"^[ \t]*[*_]*\d{1,2}[.)][*_]*[ \t]+\S", re.MULTILINE)
_EMOJI = re.compile("[\U0001f1e6-\U0001faff\u231a-\u23ff\u2600-\u27bf\u2b1b-\u2b55]")
_SENTENCE_END = re.compile(r"[.!?][\"'”’)\]]*(?=\s|$)")
# A possessive 's is no contraction.
_CONTRACTION = re.compile(
    r"\b(?:\w+['’](?:t|re|ve|ll|d|m)"
    r"|(?:he|she|it|that|what|who|where|here|there|how|let)['’]s)\b",
    re.IGNORECASE,
)
_GREETING = frozenset(
    "hello hi hey dear welcome greetings howdy ahoy good morning afternoon evening "
    "day".split()
)
_INTRODUCING = frozenset("me i'm i’m am is".split())
# "Sir Walter" is spoken of, not to.
_ADDRESS = re.compile(
    r"\b(?:[Ss]ir|SIR|[Mm]adam|MADAM|[Mm]a['’]am|[Ee]steemed)\b(?! [A-Z][a-z])"
)
_PIRATE = re.compile(
    r"\b(?:y?arr+|ahoy|avast|matey|mateys|hearties|aye|ye|yer|cap['’]n|landlubbers?"
    r"|scurvy|yo[- ]ho|shiver me)\b",
    re.IGNORECASE,
)
# In quotation marks, "for example" is only spoken of.
_EXAMPLE = re.compile(
    r"(?<![\"“'‘])\b(?:for example|for instance|e\.g\.|here(?:['’]s| is) an example)"
    r"(?![,:.]?[\"”'’])",
    re.IGNORECASE,
)
# The wish itself has "**bold**" in it.
_BOLD = re.compile(r"\*\*(?!bold\*\*)[^*\s](?:[^*\n]*[^*\s])?\*\*", re.IGNORECASE)
_POSTSCRIPT = re.compile(r"(?:^|[.!?\n])[\"'”’)\]]*\s*[*_(]*P\.?\s?S\b[.:,*_)]*\s+\w")
_TYPE_HINT = re.compile(
    r"\bdef \w+\([^)]*\w:[ \t]*\w"
    r"|\)[ \t]*->[ \t]*\w"
    r"|^[ \t]*\w+:[ \t]*(?:int|str|float|bool|list|dict)\b.*=",
    re.MULTILINE,
)
_QUOTED_WORD = re.compile(r"[\"“«'‘]\s*\w+\s*[\"”»'’]")
_SILENT_E = re.compile(
    r"(?:[^aeiouyl]|[aeiouy]l)(?:e|(?<![sxzcgh])es|(?<![td])ed)$", re.IGNORECASE
)
_VOWELS = re.compile(r"[aeiouy]+")


def words(text: str) -> list[str]:
    """The words of a text, without the marks around them."""
    return re.findall(r"[\w'’-]*\w", text)


def bullets(reply: str, finished: bool, value: str) -> bool:
    """Two lines or more begin with a bullet."""
    return len(_BULLET.findall(reply)) >= 2


def numbered(reply: str, finished: bool, value: str) -> bool:
    """Two lines or more begin with a number."""
    return len(_NUMBERED.findall(reply)) >= 2


def one_sentence(reply: str, finished: bool, value: str) -> bool:
    """The reply is finished, on one line, and its one end of a sentence is its last."""
    text = reply.strip()
    ends = [match.end() for match in _SENTENCE_END.finditer(text)]
    one = ends == [len(text)] and "\n" not in text
    return finished and one and bool(words(text))


def lower_case(reply: str, finished: bool, value: str) -> bool:
    """No letter is a capital."""
    return any(c.isalpha() for c in reply) and reply == reply.lower()


def capitals(reply: str, finished: bool, value: str) -> bool:
    """Every letter is a capital."""
    return any(c.isalpha() for c in reply) and reply == reply.upper()


def ends_with_question(reply: str, finished: bool, value: str) -> bool:
    """The reply is finished and its last mark is a question mark."""
    return finished and re.sub(r"[^\w.!?…]+$", "", reply).endswith("?")


def greets(reply: str, finished: bool, value: str) -> bool:
    """The person's name is among the first five words, and it is called.

    It comes after a greeting or before a mark, and nobody is introduced by it.
    """
    first = [word.lower() for word in words(reply)[:5]]
    if value.lower() not in first:
        return False
    before = first[: first.index(value.lower())]
    if before and before[-1] in _INTRODUCING:
        return False
    called = rf"\b{re.escape(value)}\b[\"'”’*]*(?:[,.!?]|$)"
    spoken = re.search(called, reply, re.IGNORECASE | re.MULTILINE)
    at_once = spoken is not None and len(words(reply[: spoken.start()])) < 5
    return at_once or not _GREETING.isdisjoint(before)


def signs(reply: str, finished: bool, value: str) -> bool:
    """The reply is finished, and the word is among its last three."""
    last = words(reply)[-3:]
    return finished and value.lower() in [word.lower() for word in last]


def mentions(reply: str, finished: bool, value: str) -> bool:
    """The name stands in the reply as a word of its own, with its capital.

    Small letters do where the whole reply is in small letters, and all capitals do.
    """
    spellings = [value, value.upper(), *([value.lower()] if reply.islower() else [])]
    return any(re.search(rf"\b{re.escape(name)}\b", reply) for name in spellings)


def mentions_any(reply: str, finished: bool, value: str) -> bool:
    """One of several stems, parted by spaces, begins a word of the reply.

    A stem with a "_" behind it is a word of its own, or its plural.
    """
    stems = "|".join(map(re.escape, value.split())).replace("_", r"s?\b")
    return re.search(rf"\b(?:{stems})", reply, re.IGNORECASE) is not None


def begins(reply: str, finished: bool, value: str) -> bool:
    """The reply begins with the words."""
    first = rf"[\W_]*{re.escape(value)}\b"
    return re.match(first, reply, re.IGNORECASE) is not None


def excited(reply: str, finished: bool, value: str) -> bool:
    """Two exclamation marks or more, or one that ends the only sentence."""
    ends = [match.group()[0] for match in _SENTENCE_END.finditer(reply)]
    return reply.count("!") >= 2 or (finished and ends == ["!"])


def emoji(reply: str, finished: bool, value: str) -> bool:
    """At least one emoji."""
    return _EMOJI.search(reply) is not None


def example(reply: str, finished: bool, value: str) -> bool:
    """Says "for example", "for instance", "e.g." or "here is an example"."""
    return _EXAMPLE.search(reply) is not None


def pirate(reply: str, finished: bool, value: str) -> bool:
    """Uses a word that pirates say in films."""
    return _PIRATE.search(reply) is not None


def bold(reply: str, finished: bool, value: str) -> bool:
    """At least one passage between double asterisks, other than the word bold."""
    return _BOLD.search(reply) is not None


def titled(reply: str, finished: bool, value: str) -> bool:
    """The first line is a heading or in double asterisks, and more follows."""
    first, _, rest = reply.strip().partition("\n")
    marked = first.startswith("#") or re.fullmatch(r"\*\*[^*]+\*\*:?", first.strip())
    return bool(marked) and bool(rest.strip())


def no_commas(reply: str, finished: bool, value: str) -> bool:
    """There is no comma."""
    return bool(words(reply)) and "," not in reply


def quoted(reply: str, finished: bool, value: str) -> bool:
    """The whole reply stands in one pair of double quotation marks."""
    whole = re.fullmatch(r'["“][^"“”]+["”]', reply.strip()) is not None
    return finished and whole and bool(words(reply))


def postscript(reply: str, finished: bool, value: str) -> bool:
    """A line or a sentence begins with P.S., and something follows."""
    return _POSTSCRIPT.search(reply) is not None


def polite(reply: str, finished: bool, value: str) -> bool:
    """Says please or thank you."""
    return re.search(r"\b(?:please|thank you|thanks)\b", reply, re.I) is not None


def formal(reply: str, finished: bool, value: str) -> bool:
    """Calls the reader sir or madam, and contracts nothing."""
    return _ADDRESS.search(reply) is not None and _CONTRACTION.search(reply) is None


def short(reply: str, finished: bool, value: str) -> bool:
    """The reply is finished and has at most twenty words."""
    return finished and 0 < len(words(reply)) <= 20


def easy(reply: str, finished: bool, value: str) -> bool:
    """Reading grade of Flesch and Kincaid of at most 4."""
    return len(words(reply)) >= 5 and grade(reply) <= 4


def type_hints(reply: str, finished: bool, value: str) -> bool:
    """A Python signature or variable with a type."""
    return _TYPE_HINT.search(reply) is not None


def formal_you(reply: str, finished: bool, value: str) -> bool:
    """Says vous and never tu; a single word in quotation marks is only spoken of."""
    said = set(re.findall(r"[^\W\d_]+", _QUOTED_WORD.sub(" ", reply).lower()))
    familiar = said & {"tu", "toi", "te", "ton", "ta", "tes"}
    return bool(said & {"vous", "votre", "vos"}) and not familiar


def syllables(word: str) -> int:
    """Groups of vowels, a silent e of the last one left out; at least one."""
    silent = _SILENT_E.search(word) is not None
    return max(1, len(_VOWELS.findall(word.lower())) - silent)


def grade(text: str) -> float:
    """Reading grade of Flesch and Kincaid.

    Notes
    -----
    0.39 words/sentences + 11.8 syllables/words - 15.59 (Kincaid et al. 1975). Syllables
    are counted by groups of vowels.
    """
    terms = words(text)
    sentences = max(1, len(_SENTENCE_END.findall(text)))
    sounds = sum(map(syllables, terms))
    return 0.39 * len(terms) / sentences + 11.8 * sounds / len(terms) - 15.59


def without_copies(reply: str, source: str, span: int = 5) -> str:
    """A reply without the runs of words that it shares with another text.

    Parameters
    ----------
    reply : str
        What is left keeps its line breaks and marks.
    source : str
        For example the wishes of the person.
    span : int
        Runs of so many words or more are taken out; case and marks do not count.

    Returns
    -------
    str
    """
    said = [word.lower() for word in words(source)]
    runs = {tuple(said[i : i + span]) for i in range(len(said) - span + 1)}
    places = [match.span() for match in re.finditer(r"[\w'’-]*\w", reply)]
    spoken = [reply[a:b].lower() for a, b in places]
    copied: set[int] = set()
    for i in range(len(spoken) - span + 1):
        if tuple(spoken[i : i + span]) in runs:
            copied.update(range(i, i + span))
    kept, at = [], 0
    for i, (a, b) in enumerate(places):
        if i in copied:
            kept.append(reply[at:a])
            at = b
    return "".join([*kept, reply[at:]])
