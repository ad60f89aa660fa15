"""The base model of the small world: its vocabulary, its training text, and its distance from the exact laws."""

from mipo import models
from mipo.data import render
from mipo.lm import sampling
from mipo.world import World
from mipo.worlds import population
from mipo.worlds.grammar import ATTRIBUTES, TASKS, phrases, write
from mipo.worlds.population import NOBODY, Person

NOBODY_SHARE = 0.15  # of training examples come without any context
INCOMPLETE_SHARE = 0.1  # come with a context that lacks a quarter of its attributes
UNPROMPTED_SHARE = 0.06  # are replies alone, after the token that begins a sequence: text without a prompt


def build_tokenizer():
    """The small world's tokenizer: a line of a profile, or a piece of a sentence between two choices, is one token.

    So a slot of the grammar is one token of the reply, and what holds slot by slot holds token by token.
    """
    lines = [
        population.profile({a: [v]}) for a, prior in ATTRIBUTES.items() for v in prior
    ]
    pieces = [p for task in TASKS for p in phrases(task)]
    known = [*lines, *(" " + line for line in lines), *pieces]
    return models.build_tokenizer([*known, "\n\n"], phrases=known)


def training_examples(
    world, tokenizer, *, split="base", pool=4000, seed=0, sharp=None, replies=1
):
    """A function (rng, n) -> n fresh pairs (prompt, reply) drawn from the world's exact laws.

    With `sharp` the replies to a person come from the optimum at that β instead: lessons in which reading the context
    pays off at once. A share of the examples has no context, or one that lacks a quarter of its lines, or no prompt at all:
    so the model knows how likely a reply is whoever asks whatever, as one that has read plain text does. Each prompt is
    answered `replies` times in a row, since replies to one prompt share its cost.
    """
    residents = population.people(pool, split=split, seed=seed)
    names = list(TASKS)

    def examples(rng, n):
        found = []
        while len(found) < n:
            who = residents[rng.integers(len(residents))]
            u = rng.random()
            if u < NOBODY_SHARE:
                who = NOBODY
            elif u < NOBODY_SHARE + INCOMPLETE_SHARE:
                who = Person(tuple(v for v in who.values if rng.random() > 0.25))
            task = TASKS[names[rng.integers(len(names))]]
            topic = task.topics[rng.integers(len(task.topics))]
            query = task.queries[rng.integers(len(task.queries))].format(topic=topic)
            law = (
                world.optimum(task.name, who, sharp)
                if sharp and who.values
                else world.law(task.name, who)
            )
            alone = rng.random() < UNPROMPTED_SHARE
            prompt = (
                tokenizer.eos_token
                if alone
                else render(tokenizer, query, who.context())
            )
            found += [
                (prompt, write(task, topic, law.sample(rng), rng))
                for _ in range(replies)
            ]
        return found[:n]

    return examples


def train_base(
    *, steps=1700, batch_size=32, lr=1.2e-3, seed=0, without="marginal", progress=True
):
    """(model, tokenizer, losses): a Llama of 1.0 M parameters trained from scratch on the small world's replies.

    Embeddings start large and learn forty times as fast: tied and this narrow, they must grow before the model can be
    sure of what does not come next. The first quarter of the steps are lessons at β = 1/4 (see training_examples).
    """
    tokenizer = build_tokenizer()
    model = models.small_model(
        tokenizer, hidden=256, layers=2, heads=4, inner=256, init=0.06, seed=seed
    )
    world = World(without)
    examples, lessons = (
        training_examples(world, tokenizer, seed=1000 + seed, sharp=s, replies=4)
        for s in (None, 0.25)
    )
    losses = models.pretrain(
        model,
        tokenizer,
        examples,
        lessons=lessons,
        steps=steps,
        batch_size=batch_size,
        lr=lr,
        embedding_rate=40.0,
        lesson_share=0.25,
        seed=seed,
        progress=progress,
    )
    return model, tokenizer, losses


def sample_replies(
    model, tokenizer, records, *, seed=0, contexts=None, max_new_tokens=24, **settings
):
    """One reply per record (to `contexts` instead of the record's own, if given); settings as sampling.generate."""
    contexts = contexts or [r["context"] for r in records]
    prompts = [
        render(tokenizer, r["query"], c) for r, c in zip(records, contexts, strict=True)
    ]
    return sampling.generate(
        model, tokenizer, prompts, max_new_tokens=max_new_tokens, seed=seed, **settings
    )
