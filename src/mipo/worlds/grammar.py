"""The sentences of the small world.

Who lives there (attributes), what they ask (tasks), how replies are worded (slots): the
data, and the way between text and slot values (`write`, `parse`). The probabilities are
worked out in `mipo.world`.

A reply is a skeleton whose slots are filled one after another. A slot belongs to one
attribute; it states the person's own value with probability `follow` and otherwise
draws a value from the population, whoever asks. Each value has two wordings that
nobody's attributes influence. An *aside* has follow = 0: it names a pet or a city at
random, so it is irrelevant to the person.
"""

import functools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

Wordings = tuple[str, str]  # of one value of a slot

# Priors are uneven on purpose: a blunt, well-off chess player from Oslo is rare.
ATTRIBUTES = {
    "role": {"programmer": 0.50, "owner": 0.30, "teenager": 0.20},
    "tone": {"friendly": 0.50, "formal": 0.35, "blunt": 0.15},
    "detail": {"short": 0.65, "detailed": 0.35},
    "hobby": {"cooking": 0.40, "running": 0.30, "music": 0.20, "chess": 0.10},
    "budget": {"low": 0.50, "middle": 0.35, "high": 0.15},
    "units": {"metric": 0.70, "imperial": 0.30},
    "pet": {"dog": 0.50, "cat": 0.30, "none": 0.20},
    "city": {"Paris": 0.40, "Lagos": 0.30, "Lima": 0.20, "Oslo": 0.10},
}

WORDINGS = (0.6, 0.4)  # probability of the first and second wording of a value
SILENT = "-"  # the value of an aside that says nothing


@dataclass(frozen=True)
class Slot:
    """One choice in a reply.

    Parameters
    ----------
    name : str
        Its place in the skeleton.
    attribute : str
        The attribute of the person that it speaks of.
    follow : float
        Probability that it states the person's own value.
    options : dict
        From an attribute value to its two wordings.
    """

    name: str
    attribute: str
    follow: float
    options: dict[str, Wordings] = field(hash=False)

    @property
    def relevant(self) -> bool:
        """Whether the slot depends on the person."""
        return self.follow > 0


@dataclass(frozen=True)
class Task:
    """What is asked, about which topics, and the skeleton of the reply.

    Parameters
    ----------
    name : str
        Its key in `TASKS`.
    skeleton : str
        The reply, with braces for the topic and the slots.
    topics, queries : tuple of str
        What may be asked about, and in which words; the last two queries are kept for
        testing.
    slots : tuple of Slot
        In the order of the skeleton.
    """

    name: str
    skeleton: str
    topics: tuple[str, ...]
    queries: tuple[str, ...]
    slots: tuple[Slot, ...]

    def slot(self, name: str) -> Slot:
        """Return the slot of that name."""
        return next(slot for slot in self.slots if slot.name == name)


def _slot(name: str, attribute: str, follow: float, **options: Wordings) -> Slot:
    return Slot(name, attribute, follow, options)


def _aside(attribute: str, wordings: dict[str, Wordings]) -> Slot:
    silence = {SILENT: ("", " That is it.")}
    return Slot("aside", attribute, 0.0, silence | wordings)


PET_ASIDE = _aside(
    "pet",
    {
        "dog": (" Greetings to the dog.", " Dogs are great."),
        "cat": (" Greetings to the cat.", " Cats are great."),
    },
)
CITY_ASIDE = _aside(
    "city",
    {city: (f" Enjoy {city}.", f" {city} is lovely.") for city in ATTRIBUTES["city"]},
)
# how often an aside says something; which value it names follows the prior
ASIDE_RATE = 0.3

EMAIL = Task(
    name="email",
    skeleton="{greeting} {ask} the {topic}{reason}. {closing}.{aside}",
    topics=("report", "invoice", "contract", "photos"),
    queries=(
        "Write an email asking Sam for the {topic}.",
        "Ask Sam for the {topic} by email.",
        "I need an email to Sam about the {topic}.",
        "Draft a note to Sam: please send the {topic}.",
        "Sam owes me the {topic}, write to him.",
        "Email Sam, the {topic} is late.",
    ),
    slots=(
        _slot(
            "greeting",
            "tone",
            follow=0.50,
            friendly=("Hey Sam,", "Hi Sam,"),
            formal=("Dear Mr Lee,", "Good morning Mr Lee,"),
            blunt=("Sam,", "Lee,"),
        ),
        _slot(
            "ask",
            "tone",
            follow=0.40,
            friendly=("could you please send me", "would you mind sharing"),
            formal=("I kindly request", "I would appreciate"),
            blunt=("send me", "I need"),
        ),
        _slot(
            "reason",
            "detail",
            follow=0.35,
            short=("", " today"),
            detailed=(
                " because the client is waiting",
                " so that we can finish before Friday",
            ),
        ),
        _slot(
            "closing",
            "tone",
            follow=0.45,
            friendly=("Cheers", "Thanks a lot"),
            formal=("Kind regards", "Yours sincerely"),
            blunt=("Waiting", "No excuses"),
        ),
        PET_ASIDE,
    ),
)

EXPLAIN = Task(
    name="explain",
    skeleton="{opening} {topic} is like {analogy}. It {benefit}, {example}.{aside}",
    topics=("caching", "encryption", "indexing", "compression"),
    queries=(
        "Explain {topic} to me.",
        "What is {topic}?",
        "Help me understand {topic}.",
        "How does {topic} work?",
        "I keep hearing about {topic}, what is it?",
        "Tell me about {topic}.",
    ),
    slots=(
        _slot(
            "opening",
            "detail",
            follow=0.30,
            short=("In short,", "Briefly,"),
            detailed=("To explain it fully,", "Step by step,"),
        ),
        _slot(
            "analogy",
            "role",
            follow=0.50,
            programmer=("a lookup table", "a pure function with memory"),
            owner=("stock kept near the till", "a well run warehouse"),
            teenager=("saving your progress in a game", "a packed school bag"),
        ),
        _slot(
            "benefit",
            "role",
            follow=0.40,
            programmer=("cuts latency", "saves CPU time"),
            owner=("cuts costs", "keeps customers happy"),
            teenager=("means less waiting", "makes your phone faster"),
        ),
        _slot(
            "example",
            "hobby",
            follow=0.20,
            cooking=("as in a good kitchen", "like a recipe you know"),
            running=("as on a race day", "like pacing a long run"),
            music=("as in a rehearsed song", "like a band with a setlist"),
            chess=("as in a planned endgame", "like a known opening"),
        ),
        CITY_ASIDE,
    ),
)

SUMMARISE = Task(
    name="summarise",
    skeleton="{start} the {topic} says that {focus}{more}.{aside}",
    topics=("meeting", "article", "book", "film"),
    queries=(
        "Summarise the {topic}.",
        "What was the {topic} about?",
        "Give me the main point of the {topic}.",
        "Sum up the {topic} for me.",
        "I missed the {topic}, what did it say?",
        "The {topic}, in a sentence?",
    ),
    slots=(
        _slot(
            "start",
            "tone",
            follow=0.20,
            friendly=("Happy to help:", "Sure thing:"),
            formal=("Please find the summary:", "It is my pleasure:"),
            blunt=("Summary:", "Here:"),
        ),
        _slot(
            "focus",
            "role",
            follow=0.25,
            programmer=("the design should stay simple", "the tests must come first"),
            owner=("profits depend on trust", "small firms can grow"),
            teenager=("friends matter most", "trying new things pays off"),
        ),
        _slot(
            "more",
            "detail",
            follow=0.40,
            short=("", ", no more"),
            detailed=(", and it gives three examples", ", with numbers for every year"),
        ),
        PET_ASIDE,
    ),
)

RECOMMEND = Task(
    name="recommend",
    skeleton="For a {topic} I {strength} {item}, {price}.{aside}",
    topics=("gift", "treat", "reward", "present"),
    queries=(
        "Recommend a {topic} for me.",
        "What should I buy as a {topic}?",
        "Suggest a {topic} I would like.",
        "I want to buy a {topic}, any ideas?",
        "Which {topic} would suit me?",
        "Name a good {topic}.",
    ),
    slots=(
        _slot(
            "strength",
            "tone",
            follow=0.20,
            friendly=("would happily pick", "would love to suggest"),
            formal=("recommend", "would advise"),
            blunt=("say buy", "say get"),
        ),
        _slot(
            "item",
            "hobby",
            follow=0.50,
            cooking=("a cast-iron pan", "a sharp knife"),
            running=("trail shoes", "a running watch"),
            music=("a small keyboard", "good headphones"),
            chess=("a wooden board", "a chess clock"),
        ),
        _slot(
            "price",
            "budget",
            follow=0.40,
            low=("which costs very little", "often found second-hand"),
            middle=("at a fair price", "neither cheap nor dear"),
            high=("the finest on the market", "made by hand"),
        ),
        CITY_ASIDE,
    ),
)

PLAN = Task(
    name="plan",
    skeleton="For the {topic}: {place}, then {activity} {cost}.{aside}",
    topics=("weekend", "holiday", "evening", "birthday"),
    queries=(
        "Plan my {topic}.",
        "What could I do on my {topic}?",
        "Give me a plan for the {topic}.",
        "Ideas for the {topic}?",
        "How should I spend the {topic}?",
        "Help me plan the {topic}.",
    ),
    slots=(
        _slot(
            "place",
            "city",
            follow=0.45,
            Paris=("walk along the Seine", "visit the Louvre"),
            Lagos=("swim at Tarkwa Bay", "see the Nike gallery"),
            Lima=("stroll through Miraflores", "see the Larco museum"),
            Oslo=("hike around Sognsvann", "visit the opera house"),
        ),
        _slot(
            "activity",
            "hobby",
            follow=0.30,
            cooking=("cook dinner with friends", "try a new recipe"),
            running=("run five kilometres", "jog at sunset"),
            music=("hear a live band", "play some songs"),
            chess=("play two blitz games", "join a chess club"),
        ),
        _slot(
            "cost",
            "budget",
            follow=0.25,
            low=("for free", "for a few coins"),
            middle=("for a modest sum", "at a fair cost"),
            high=("with no limit on cost", "with a private guide"),
        ),
        PET_ASIDE,
    ),
)

LOOKUP = Task(
    name="lookup",
    skeleton="{lead} {topic} is {measure}.{aside}",
    topics=("tower", "bridge", "hill", "dam"),
    queries=(
        "How high is the {topic}?",
        "Look up the height of the {topic}.",
        "What is the height of the {topic}?",
        "Tell me how high the {topic} is.",
        "The {topic}, how high is it?",
        "Find the height of the {topic}.",
    ),
    slots=(
        _slot(
            "lead",
            "detail",
            follow=0.05,
            short=("The", "Answer: the"),
            detailed=("According to the records, the", "As measured last year, the"),
        ),
        _slot(
            "measure",
            "units",
            follow=0.12,
            metric=("300 metres high", "30000 centimetres high"),
            imperial=("984 feet high", "328 yards high"),
        ),
        PET_ASIDE,
    ),
)

TASKS = {
    task.name: task for task in (EMAIL, EXPLAIN, RECOMMEND, PLAN, SUMMARISE, LOOKUP)
}


def find_task(task: str | Task) -> Task:
    """Return a task by name; a Task is returned as it is.

    Raises
    ------
    ValueError
        Names the known tasks.
    """
    if isinstance(task, Task):
        return task
    if task not in TASKS:
        raise ValueError(f"no task {task!r}; tasks are {', '.join(TASKS)}")
    return TASKS[task]


def write(
    task: str | Task,
    topic: str,
    values: Sequence[str],
    rng: np.random.Generator | None = None,
    wordings: Sequence[int] | None = None,
) -> str:
    """Return the reply with these slot values.

    Parameters
    ----------
    task : str or Task
        What is asked.
    topic : str
        What about.
    values : sequence of str
        One per slot.
    rng : numpy.random.Generator, optional
        Draws the wordings that are not given.
    wordings : sequence of int, optional
        0 or 1 per slot.
    """
    task = find_task(task)
    if wordings is None:
        if rng is None:
            raise ValueError("write: give the wordings, or a generator to draw them")
        wordings = [int(rng.random() >= WORDINGS[0]) for _ in values]
    words = {
        slot.name: slot.options[value][wording]
        for slot, value, wording in zip(task.slots, values, wordings, strict=True)
    }
    return task.skeleton.format(topic=topic, **words)


def parse(
    reply: str, task: str | Task, *, topic: str | None = None
) -> tuple[tuple[str, ...], tuple[int, ...]] | None:
    """Read the slot values and wordings of a reply.

    Parameters
    ----------
    reply : str
        Any text.
    task : str or Task
        What was asked.
    topic : str, optional
        The topic that the reply must have.

    Returns
    -------
    (values, wordings) or None
        Each a tuple over slots; None for a reply outside the grammar or off topic.
    """
    task = find_task(task)
    match = _pattern(task.name).fullmatch(reply)
    if match is None or (topic is not None and match["topic"] != topic):
        return None
    choices = [_phrases(task.name, s.name)[match[s.name]] for s in task.slots]
    values, wordings = zip(*choices, strict=True)
    return values, wordings


@functools.cache
def _phrases(task: str, slot: str) -> dict[str, tuple[str, int]]:
    """Value and wording of each text that the slot may have."""
    choices = {}
    for value, texts in TASKS[task].slot(slot).options.items():
        for wording, text in enumerate(texts):
            choices[text] = (value, wording)
    return choices


@functools.cache
def _pattern(task: str) -> re.Pattern[str]:
    """A regular expression with a named group per slot, and one for the topic."""
    groups = {"{topic}": _any_of("topic", TASKS[task].topics)}
    for slot in TASKS[task].slots:
        longest_first = sorted(_phrases(task, slot.name), key=len, reverse=True)
        groups["{" + slot.name + "}"] = _any_of(slot.name, longest_first)
    parts = re.split(r"(\{\w+\})", TASKS[task].skeleton)
    return re.compile("".join(groups.get(part, re.escape(part)) for part in parts))


def _any_of(name: str, texts: Iterable[str]) -> str:
    return f"(?P<{name}>" + "|".join(re.escape(text) for text in texts) + ")"


def phrases(task: str | Task) -> Iterator[str]:
    """Yield the pieces that replies and queries of a task are made of.

    Each has the space before it: one choice, one piece.
    """
    task = find_task(task)
    choices: dict[str, Iterable[str]] = {"topic": task.topics}
    for slot in task.slots:
        choices[slot.name] = [text for both in slot.options.values() for text in both]
    for template in (task.skeleton, *task.queries):
        space = ""
        for part in re.split(r"(\{\w+\})", template):
            if part.startswith("{"):
                yield from (space + text for text in choices[part[1:-1]] if text)
            else:
                if part.removesuffix(" "):
                    yield part.removesuffix(" ")
                space = " " if part.endswith(" ") else ""
