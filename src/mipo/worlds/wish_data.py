"""Who has which wishes, and what they ask: the words of the world of wishes.

Lists are cut into parts by `SHARES`, so that nobody's name, work or question is met
again in another part of the study.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mipo.worlds import wish_checks as checks
from mipo.worlds.wish_checks import Check

# Parts of every list of people and topics, and which wordings each part reads: "choose"
# decides which wishes enter, "mipo" is trained on, "select" sets strengths and rates.
SHARES = {"choose": (0, 4), "mipo": (4, 10), "select": (10, 12), "test": (12, 16)}
WORDINGS = {"choose": (0, 3), "mipo": (0, 3), "select": (3, 4), "test": (4, 6)}

NAMES = (
    "Ana Ben Chloe David Elif Felix Grace Hugo Ines Jonas Kira Leo Mina Noah Olga "
    "Paul Rosa Sam Tara Umar Vera Will Yara Zoe Amir Bea Carlos Dora Emil Fatima "
    "Goran Hanna Ivan Julia Karim Lena Marco Nadia Omar Petra Quinn Rami Sofia Tom "
    "Ursula Victor Wanda Xavier Yusuf Zara Alba Boris Clara Dario Esme Farid Gita "
    "Henrik Iris Jamal Klara Lars Maya Nils"
).split()

# {work: stems that its words begin with; a word with _ stands alone or in the plural}
JOBS = {
    "cook": "cook_ cooking cooked kitchen recipe chef ingredient soup",
    "gardener": "garden plant soil seed",
    "carpenter": "wood carpent timber hammer",
    "nurse": "nurse_ nursing patients hospital_",
    "pilot": "pilot airplane flight fly_ flying aircraft",
    "baker": "bake baking bread dough oven flour_",
    "farmer": "farm crop harvest cattle",
    "dentist": "dentist dental teeth tooth",
    "tailor": "tailor_ tailoring sew_ sewing sewn fabric stitch cloth",
    "sailor": "sail ship_ boat",
    "plumber": "plumb pipe leak drain",
    "barber": "barber hair shav haircut",
    "beekeeper": "beek bee_ hive_ honey",
    "librarian": "librar book_ shelf",
    "electrician": "electric wire_ wiring circuit socket",
    "florist": "florist flower bouquet",
    "mechanic": "mechanic_ engine_ gear_",
    "lifeguard": "lifeguard swim pool beach rescue",
    "jeweller": "jewel gold_ gem_ gemstone",
    "bus driver": "drive_ driving driver_ passenger route_",
    "photographer": "photo_ photogra camera lens picture",
    "shepherd": "sheep shepherd flock lamb_",
    "firefighter": "fire_ firef smoke flame_ hose_",
    "violinist": "violin music orchestra concert_",
    "miner": "miner_ mines mining tunnel coal",
    "brewer": "brew beer_ hops_ malt_",
    "weaver": "weav loom thread_ yarn",
    "judge": "judge_ court_ courtroom verdict",
    "astronomer": "astronom telescope planet",
    "postman": "postm mail_ letter_ parcel",
    "vet": "vet_ veterinar animal",
    "mason": "mason stone brick mortar",
}

HOBBIES = {
    "football": "football soccer",
    "chess": "chess pawn checkmate",
    "gardening": "garden plant soil seed",
    "cycling": "cyclist cycling bike biking bicycle pedal",
    "knitting": "knit yarn needle_ wool",
    "surfing": "surf_ surfing surfer surfboard wave_ ocean",
    "baking": "bake baking bread cake oven dough",
    "hiking": "hik trail_",
    "fishing": "fish bait",
    "painting": "paint canvas brush",
    "dancing": "danc rhythm",
    "poker": "poker bluff",
    "climbing": "climb rope cliff",
    "tennis": "tennis racket",
    "sailing": "sail boat",
    "astronomy": "astronom planet telescope",
}

PLACES = (
    "Lisbon Oslo Lima Lagos Quito Kyoto Porto Turin Cork Graz Bergen Malaga Leeds "
    "Ghent Basel Nantes"
).split()

PETS = (
    "dog|Rex,cat|Misty,parrot|Polly,horse|Star,rabbit|Clover,dog|Bruno,cat|Pepper,"
    "tortoise|Speedy,dog|Luna,hamster|Nibbles,cat|Oscar,goat|Daisy,dog|Biscuit,"
    "cat|Simba,pony|Merry,duck|Waddles"
).split(",")

CLOSINGS = (
    "Cheers,Farewell,Onwards,Ciao,Goodbye,Shalom,Adieu,Toodles,Godspeed,Regards,"
    "Namaste,Cordially,Aloha,Respectfully,Hugs,Bye"
).split(",")

OPENINGS = (
    "In short,Well now,Listen,Right then,To begin,Look,Good news,Here goes,Okay so,"
    "Imagine,Let me see,First things first,Picture this,Honestly,Frankly,In a nutshell"
).split(",")


@dataclass(frozen=True)
class Wish:
    """Something a person wants of every reply, and a program that sees it.

    Attributes
    ----------
    kind : str
        "form", "content", "register", "level" or "length".
    check : callable
        See `mipo.worlds.wish_checks`.
    wordings : tuple of six str
        The first three are for training, one is for selection, two are for the test.
    vague : str
        The same wish, hinted at.
    value : str
        Which of a person's own values fills the {slot}; "" where there is none.
    personal : bool
        Whether it speaks to the person: out of place in a message to somebody else, and
        where only a fact, code or a translation was asked for.
    against : str
        A wish that contradicts it, for those without a value of their own.
    tasks : tuple of str
        The only tasks it fits; () for all that it can.
    rare : bool
        Few people have it.
    """

    kind: str
    check: Check
    wordings: tuple[str, ...]
    vague: str
    value: str = ""
    personal: bool = False
    against: str = ""
    tasks: tuple[str, ...] = ()
    rare: bool = False


WISHES = {
    "greet": Wish(
        "content",
        checks.greets,
        (
            "My name is {name}. Greet me by name.",
            "I'm {name}; please begin by greeting me by name.",
            "Call me {name} at the start of every reply.",
            "I am {name}. Say hello to me by name first.",
            "You are talking to {name}: start with a greeting that uses the name.",
            "{name} is my name, and I like to be greeted with it.",
        ),
        "I am {name}, and I like a personal touch.",
        value="name",
        personal=True,
    ),
    "work": Wish(
        "content",
        checks.mentions_any,
        (
            "I am a {job}. Relate it to my work.",
            "I work as a {job}; explain things with my trade.",
            "As a {job} I want a link to my job in every answer.",
            "I'm a {job}, so compare it with what I do at work.",
            "Speak to me as to a {job}: tie your answer to that work.",
            "My trade is that of a {job}. Use it in what you say.",
        ),
        "I am a {job} and like things close to home.",
        value="job",
        personal=True,
    ),
    "hobby": Wish(
        "content",
        checks.mentions_any,
        (
            "I love {hobby}; use it to make your point.",
            "My hobby is {hobby}. Put it into your answer.",
            "Compare things with {hobby}, which I love.",
            "I spend my weekends on {hobby}: make use of that.",
            "Bring in {hobby}, my favourite pastime.",
            "I live for {hobby}, so draw your comparisons from there.",
        ),
        "In my free time it is all {hobby}.",
        value="hobby",
        personal=True,
    ),
    "place": Wish(
        "content",
        checks.mentions,
        (
            "I live in {place}. Mention my city.",
            "My home is {place}; name it in your answer.",
            "I am from {place}. Refer to the city where you can.",
            "I'm based in {place}, so bring my city up.",
            "Since I live in {place}, work the city into your reply.",
            "{place} is where I live. Say its name.",
        ),
        "I have lived in {place} all my life and am fond of it.",
        value="place",
        personal=True,
    ),
    "pet": Wish(
        "content",
        checks.mentions,
        (
            "I have a {pet}. Mention it by name.",
            "My {pet} must come up in your answer, by name.",
            "Bring my {pet} into your reply, with its name.",
            "Please say something about my {pet}, by name.",
            "Name my {pet} somewhere in what you write.",
            "There is a {pet} in my life: let its name appear.",
        ),
        "My {pet} goes wherever I go.",
        value="pet",
        personal=True,
    ),
    "bullets": Wish(
        "form",
        checks.bullets,
        (
            "Use bullet points.",
            "Answer with a bulleted list.",
            "Please write in bullet points.",
            "Give me bullet points.",
            "I want bullet points, not paragraphs.",
            "Set your answer out as bullets.",
        ),
        "I like answers that I can tick off.",
        against="one_sentence",
    ),
    "numbered": Wish(
        "form",
        checks.numbered,
        (
            "Use a numbered list.",
            "Number your points.",
            "Please answer in numbered steps.",
            "Give me a numbered list.",
            "I want every point to have a number.",
            "Set your answer out as numbered items.",
        ),
        "I like to see where I am, first things first.",
        against="one_sentence",
    ),
    "one_sentence": Wish(
        "length",
        checks.one_sentence,
        (
            "Answer in one sentence.",
            "Use a single sentence.",
            "Please keep it to one sentence.",
            "Give me just one sentence.",
            "I want no more than a sentence.",
            "Say it all in one sentence.",
        ),
        "I am in a great hurry.",
        against="numbered",
    ),
    "short": Wish(
        "length",
        checks.short,
        (
            "Use at most twenty words.",
            "Keep it under twenty words.",
            "Please answer in twenty words or fewer.",
            "Give me no more than twenty words.",
            "I want a very short answer: twenty words at most.",
            "Say it in less than twenty words.",
        ),
        "My screen is tiny.",
        against="numbered",
    ),
    "lower_case": Wish(
        "form",
        checks.lower_case,
        (
            "Write in lower case only.",
            "Use no capital letters.",
            "Please write everything in lowercase.",
            "Give me lower-case letters only.",
            "I want small letters throughout, no capitals.",
            "type it all in lower case.",
        ),
        "capital letters shout at me.",
        against="capitals",
        rare=True,
    ),
    "capitals": Wish(
        "form",
        checks.capitals,
        (
            "Write in capital letters only.",
            "USE CAPITAL LETTERS ONLY.",
            "Please write everything in capitals.",
            "Give me upper-case letters only.",
            "I want capitals throughout.",
            "TYPE IT ALL IN CAPITALS.",
        ),
        "SMALL LETTERS ARE HARD FOR ME TO READ.",
        against="lower_case",
        rare=True,
    ),
    "question": Wish(
        "form",
        checks.ends_with_question,
        (
            "End with a question.",
            "Finish your answer with a question to me.",
            "Please close with a question.",
            "Ask me something at the end.",
            "I want the last sentence to be a question.",
            "Conclude by asking me a question.",
        ),
        "I like to be kept talking.",
        personal=True,
        against="one_sentence",
    ),
    "begins": Wish(
        "form",
        checks.begins,
        (
            'Begin with the words "{opening}".',
            'Start your reply with "{opening}".',
            'Your first words must be "{opening}".',
            'Open with "{opening}".',
            'I want every reply to start with "{opening}".',
            'Let "{opening}" be how you begin.',
        ),
        'I always say "{opening}" myself.',
        value="opening",
    ),
    "signs": Wish(
        "form",
        checks.signs,
        (
            'Sign off with "{closing}".',
            'End your reply with the word "{closing}".',
            'Your last word must be "{closing}".',
            'Close with "{closing}".',
            'I want every reply to end with "{closing}".',
            'Let "{closing}" be the last word.',
        ),
        'I always end with "{closing}" myself.',
        value="closing",
    ),
    "excited": Wish(
        "register",
        checks.excited,
        (
            "Sound excited, with exclamation marks!",
            "Be enthusiastic! Use exclamation marks!",
            "Please write with a lot of excitement!",
            "Give me energy and exclamation marks!",
            "I want you to sound thrilled!",
            "Cheer me up with excited sentences!",
        ),
        "What a wonderful day it is!",
        against="formal",
    ),
    "formal": Wish(
        "register",
        checks.formal,
        (
            "Be formal and address me as Sir or Madam.",
            "Write formally, with a form of address such as Dear Madam.",
            "Please be very formal: Sir or Madam.",
            "Address me formally, as Sir.",
            "I want a formal tone and to be called Madam.",
            "Use the formal address Dear Sir.",
        ),
        "At court one minds one's manners.",
        personal=True,
        against="excited",
        rare=True,
    ),
    "polite": Wish(
        "register",
        checks.polite,
        (
            "Be polite: say please and thank you.",
            "Please use please and thank you.",
            "Mind your manners: please and thank you.",
            "Say please or thank you to me.",
            "I want polite answers with a please or a thank you.",
            "Use a please or a thank you.",
        ),
        "Manners matter to me.",
        personal=True,
        against="pirate",
    ),
    "pirate": Wish(
        "register",
        checks.pirate,
        (
            "Talk like a pirate.",
            "Speak as a pirate would.",
            "Please answer in pirate speech.",
            "Give me pirate talk.",
            "I want to hear a pirate.",
            "Write it the way a pirate speaks.",
        ),
        "I fly the skull and crossbones.",
        against="formal",
        rare=True,
    ),
    "emoji": Wish(
        "register",
        checks.emoji,
        (
            "Use emoji.",
            "Put emojis into your answer 😀.",
            "Please add emoji.",
            "Give me some emoji 🎉.",
            "I want to see emojis.",
            "Decorate it with emoji.",
        ),
        "I text with pictures 🌻.",
        against="formal",
    ),
    "example": Wish(
        "content",
        checks.example,
        (
            "Give an example.",
            "Add an example that starts with 'For example'.",
            "Please include an example.",
            "Show me an example.",
            "I want an example in every answer.",
            "Illustrate it with a 'for instance'.",
        ),
        "I understand things when I see a case.",
        against="short",
    ),
    "bold": Wish(
        "form",
        checks.bold,
        (
            "Put key words in **bold**.",
            "Use **bold** for what matters.",
            "Please mark the main words in **bold**.",
            "Give me **bold** key words.",
            "I want the important words in **bold**.",
            "Make the main point **bold**.",
        ),
        "I only read what stands out.",
        against="lower_case",
        rare=True,
    ),
    "titled": Wish(
        "form",
        checks.titled,
        (
            "Start with a title.",
            "Put a heading first, marked with #.",
            "Please begin with a title line in **bold**.",
            "Give it a title.",
            "I want a heading on top.",
            "Put a # title above your answer.",
        ),
        "I file everything by its name.",
        against="one_sentence",
        rare=True,
    ),
    "no_commas": Wish(
        "form",
        checks.no_commas,
        (
            "Use no commas.",
            "Do not use any commas.",
            "Please leave out commas.",
            "Give me text without commas.",
            "I want no comma at all.",
            "Write it without a single comma.",
        ),
        "Short bites please. No pauses.",
        against="greet",
        rare=True,
    ),
    "quoted": Wish(
        "form",
        checks.quoted,
        (
            'Put your whole reply in "double quotes".',
            "Wrap your answer in double quotation marks.",
            "Please begin and end with a double quotation mark.",
            'Give me the reply between " and ".',
            "I want the entire answer in quotation marks.",
            "Set all of it in double quotes.",
        ),
        '"I like to be quoted."',
        against="bullets",
        rare=True,
    ),
    "postscript": Wish(
        "form",
        checks.postscript,
        (
            'Add a postscript that starts with "P.S."',
            "End with a P.S.",
            "Please add a P.S. at the end.",
            "Give me a P.S. too.",
            "I want a P.S. below every answer.",
            'Finish with one more thought after "P.S."',
        ),
        "I always have an afterthought.",
        against="one_sentence",
        rare=True,
    ),
    "easy": Wish(
        "level",
        checks.easy,
        (
            "I am seven years old. Use short words.",
            "I'm in first grade, so use easy words.",
            "Please write for a small child, in short sentences.",
            "I am six. Keep the words simple.",
            "Write so that a seven-year-old can read it.",
            "I have just learned to read: use short words and sentences.",
        ),
        "I am seven.",
        personal=True,
        against="formal",
    ),
    "type_hints": Wish(
        "form",
        checks.type_hints,
        (
            "In code, use type hints.",
            "I annotate types in my Python.",
            "Please write Python with type annotations.",
            "Give every argument a type hint.",
            "I want typed signatures in code.",
            "Use Python's type annotations.",
        ),
        "My code base is strict.",
        against="short",
        tasks=("code",),
    ),
    "formal_you": Wish(
        "register",
        checks.formal_you,
        (
            "In French, address people as vous.",
            "Use the polite vous in French.",
            "Please keep French formal, with vous.",
            "Say vous, never tu.",
            "I want vous in every French text.",
            "French readers should be called vous.",
        ),
        "My French readers are older than I am.",
        against="excited",
        tasks=("translate",),
    ),
}


@dataclass(frozen=True)
class Task:
    """A kind of question.

    Attributes
    ----------
    wordings : tuple of six str
        As of `Wish`.
    topics : tuple of 16 str
        What fills {topic}; cut into parts by `SHARES`.
    to_me : bool
        Whether the reply speaks to the person who asks.
    """

    wordings: tuple[str, ...]
    topics: Sequence[str]
    to_me: bool = True


def _topics(text: str) -> tuple[str, ...]:
    return tuple(topic.strip() for topic in text.split("|"))


PASSAGES = (
    "The library opens at nine. On Mondays it stays shut, because the staff sort the "
    "returned books.|Our train was late, so we missed the ferry. We spent the night "
    "at the harbour and took the first boat.|The team lost its captain in March. It "
    "still won nine of its last ten games.|A new bakery sells bread from old grain. "
    "Queues form before six in the morning.|The town will close Mill Street for a "
    "month. New pipes are laid, and buses take the bridge.|Sales of umbrellas "
    "doubled in June. It rained on twenty-four days, more than ever before.|The "
    "school garden won a prize. Pupils grew beans, pumpkins and three kinds of "
    "mint.|The museum lost a painting in a fire. A copy by a student hangs in its "
    "place now.|The river froze in January. People skated to work, and the ferryman "
    "sold tea.|A farmer found a Roman coin in his field. He gave it to the town and "
    "got a plaque.|The choir needs tenors. Practice is on Thursdays, and no one is "
    "turned away.|The lighthouse runs by itself since 1990. Its last keeper still "
    "visits on Sundays.|The clinic moved to a larger house. Parking is free, and the "
    "lift works at last.|Two cats live in the station. Travellers feed them, and the "
    "guards pretend not to see it.|The bridge was painted red by mistake. The town "
    "liked it, so red it stays.|The market moves indoors in winter. Stalls are "
    "cheaper, but there are fewer of them."
)

TASKS = {
    "explain": Task(
        (
            "Explain {topic}.",
            "Explain {topic} to me.",
            "What is {topic}?",
            "Help me understand {topic}.",
            "Tell me what {topic} is.",
            "How would you describe {topic}?",
        ),
        _topics(
            "inflation|a rainbow|gravity|a loan|photosynthesis|an earthquake|a vaccine|"
            "the water cycle|a magnet|insurance|a solar eclipse|evolution|recycling|"
            "a volcano|electricity|the stock market"
        ),
    ),
    "teach": Task(
        (
            "How can I explain {topic}?",
            "I must explain {topic}. How do I put it?",
            "Give me a way to teach {topic}.",
            "How do I make {topic} clear?",
            "What is a good way to teach {topic}?",
            "I want to teach {topic}. What do I say?",
        ),
        _topics(
            "fractions to a teenager|recursion to a programmer|taxes to a shop owner|"
            "savings to a teenager|testing to a programmer|pricing to a shop owner|"
            "percentages to a teenager|version control to a programmer|cash flow to a "
            "shop owner|voting to a teenager|caching to a programmer|stock keeping to "
            "a shop owner|probability to a teenager|a database to a programmer|rent to "
            "a shop owner|a budget to a teenager"
        ),
    ),
    "summarise": Task(
        (
            "Summarise this: {topic}",
            "Sum up for me: {topic}",
            "What is the main point? {topic}",
            "Put this briefly: {topic}",
            "What does this say? {topic}",
            "Tell me what matters here: {topic}",
        ),
        _topics(PASSAGES),
    ),
    "recommend": Task(
        (
            "Recommend {topic}.",
            "Can you recommend {topic}?",
            "I am looking for {topic}. What do you suggest?",
            "Suggest {topic}.",
            "What would you pick for me: {topic}?",
            "I need {topic}. Any idea?",
        ),
        _topics(
            "a book for the train|a film for tonight|a cheap dinner|a weekend trip|"
            "a gift for a friend|a language to learn|a board game|a plant for a dark "
            "room|a podcast|a way to relax|a breakfast|a sport for the winter|"
            "a song for a party|a museum|a recipe with rice|a game for the car"
        ),
    ),
    "advise": Task(
        (
            "How do I {topic}?",
            "Tell me how to {topic}.",
            "What is the best way to {topic}?",
            "I want to {topic}. How?",
            "Give me advice: I want to {topic}.",
            "How should I go about it if I want to {topic}?",
        ),
        _topics(
            "sleep better|save money|learn faster|make friends|keep a diary|eat less "
            "sugar|stay warm|clean a window|prepare for a job interview|stop being "
            "late|pack a suitcase|wake up early|remember names|save water|"
            "write a speech|calm down before an exam"
        ),
    ),
    "email": Task(
        (
            "Write a short e-mail to {topic}.",
            "Draft a brief message to {topic}.",
            "Compose a note to {topic}.",
            "Write to {topic} for me.",
            "Word a short letter to {topic}.",
            "What can I send to {topic}? Write it.",
        ),
        _topics(
            "my landlord about a leak|my boss about a day off|a teacher about "
            "homework|my neighbour about noise|a hotel about a room|a friend about a "
            "birthday|my bank about a card|a client about a delay|the council about a "
            "street lamp|a colleague about lunch|my coach about training|a shop about "
            "a refund|my cousin about a wedding|a museum about tickets|my doctor about "
            "an appointment|a publisher about a manuscript"
        ),
        to_me=False,
    ),
    "product": Task(
        (
            "Write a line to sell {topic}.",
            "Write product copy for {topic}.",
            "Describe {topic} for our shop window.",
            "Advertise {topic}.",
            "Write what the label of {topic} says.",
            "How would an advert praise {topic}?",
        ),
        _topics(
            "a mug to students|boots to hikers|a lamp to readers|a bike to commuters|"
            "a tent to families|tea to office workers|a watch to runners|a bag to "
            "travellers|headphones to gamers|soap to new parents|a pan to beginners|"
            "a scarf to skiers|a desk to writers|seeds to city people|a chair to "
            "pensioners|a kite to children"
        ),
        to_me=False,
    ),
    "fact": Task(
        (
            "What is the capital of {topic}? The name only.",
            "Name the capital of {topic}, nothing else.",
            "Which city is the capital of {topic}? One word.",
            "Capital of {topic}? Just the name.",
            "Give only the name of the capital of {topic}.",
            "The capital of {topic} is which city? Name it and no more.",
        ),
        _topics(
            "France|Italy|Spain|Germany|Japan|Egypt|Russia|Greece|Portugal|Canada|"
            "Norway|Poland|Austria|China|Ireland|Peru"
        ),
        to_me=False,
    ),
    "code": Task(
        (
            "Write a Python function that {topic}. Code only.",
            "Give me Python code only: a function that {topic}.",
            "Python, no comment: a function that {topic}.",
            "I need a Python function that {topic}. Just the code.",
            "Only code: a Python function that {topic}.",
            "Show the Python source of a function that {topic}, and nothing else.",
        ),
        _topics(
            "adds two numbers|reverses a string|finds the largest number|counts "
            "words|doubles a number|joins two lists|removes spaces|squares a number|"
            "finds the mean|counts vowels|sorts a list|checks for even numbers|"
            "converts miles|prints a name|sums a list|removes duplicates"
        ),
        to_me=False,
    ),
    "translate": Task(
        (
            'Translate into French: "{topic}"',
            'Put into French: "{topic}"',
            'Give the French for "{topic}"',
            'How is this in French: "{topic}"',
            'Say in French, and nothing else: "{topic}"',
            'French, please: "{topic}"',
        ),
        _topics(
            "Where do you live?|Can you help me?|How are you?|Do you have a room?|"
            "What do you want?|You are very kind.|Are you coming tonight?|Do you like "
            "tea?|Where are you going?|You have a letter.|Can you hear me?|You may sit "
            "down.|Do you know him?|You are late.|Have you eaten?|Your book is here."
        ),
        to_me=False,
    ),
}


@dataclass(frozen=True)
class Fact:
    """A question with a true answer and one that people mistake for it.

    Attributes
    ----------
    question : str
    claim : str
        A sentence with {answer} in it.
    right, wrong : str
        Two words that fill it.
    """

    question: str
    claim: str
    right: str
    wrong: str


def _facts(question: str, claim: str, answers: str) -> list[Fact]:
    """Facts of one kind, from lines of "subject: right, wrong"."""
    rows = []
    for line in answers.split("|"):
        subject, _, words = line.strip().partition(": ")
        right, wrong = words.split(", ")
        asked = question.format(subject=subject)
        stated = claim.replace("{subject}", subject)
        rows.append(Fact(asked, stated, right, wrong))
    return rows


# None of these is asked in a task: they are for contexts that state something false.
FACTS = [
    *_facts(
        "What is the capital of {subject}?",
        "The capital of {subject} is {answer}.",
        "Australia: Canberra, Sydney|Turkey: Ankara, Istanbul|Brazil: Brasilia, Rio|"
        "Switzerland: Bern, Zurich|Morocco: Rabat, Casablanca|India: Delhi, Mumbai|"
        "Vietnam: Hanoi, Saigon|Kenya: Nairobi, Mombasa|Cuba: Havana, Santiago|"
        "Sweden: Stockholm, Gothenburg|Hungary: Budapest, Debrecen|"
        "Finland: Helsinki, Turku",
    ),
    *_facts(
        "Who wrote {subject}?",
        "{subject} was written by {answer}.",
        "Hamlet: Shakespeare, Dickens|War and Peace: Tolstoy, Chekhov|"
        "Pride and Prejudice: Austen, Bronte|The Odyssey: Homer, Virgil|"
        "Don Quixote: Cervantes, Borges|Frankenstein: Shelley, Stoker|"
        "Oliver Twist: Dickens, Twain|Faust: Goethe, Schiller",
    ),
    *_facts(
        "What is the largest {subject}?",
        "The largest {subject} is {answer}.",
        "planet of the solar system: Jupiter, Saturn|ocean: Pacific, Atlantic|"
        "animal: whale, elephant|continent: Asia, Africa",
    ),
    *_facts(
        "What is the chemical symbol of {subject}?",
        "The chemical symbol of {subject} is {answer}.",
        "gold: Au, Gd|iron: Fe, Ir|silver: Ag, Si|sodium: Na, So",
    ),
    *_facts(
        "On which continent is {subject}?",
        "{subject} is in {answer}.",
        "Egypt: Africa, Asia|Chile: America, Europe|Nepal: Asia, Africa|"
        "Portugal: Europe, America",
    ),
]

# What a shop wants of every reply, whoever asks.
HOUSE = Wish(
    "content",
    checks.mentions,
    (
        'You write for the Harbour shop. Say "Harbour" in every reply.',
        'House style: the word "Harbour" stands in every answer.',
        'Our shop is called "Harbour", and each of our replies says so.',
        'As the voice of our shop, mention its name, "Harbour".',
        'You are the voice of our shop: always name it, "Harbour".',
        'Style guide: each reply names our shop, "Harbour".',
    ),
    "",
)
HOUSE_WORD = "Harbour"

# Checks that miss more than half of the replies that follow the wish (data card).
UNSEEN = ("pirate", "titled")

# Frozen before anything was trained, by the rule of chapter 14 on people and questions
# that serve nothing else: followed between 5 and 80 % of the time when asked, at most
# half as often when not, and not in `UNSEEN`.
ENTERED = (
    "greet",
    "work",
    "hobby",
    "place",
    "pet",
    "bullets",
    "numbered",
    "one_sentence",
    "short",
    "excited",
    "formal",
    "polite",
    "emoji",
    "example",
    "bold",
    "no_commas",
    "postscript",
    "easy",
    "formal_you",
)
