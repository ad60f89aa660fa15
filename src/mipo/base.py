"""The base model of the small world: its vocabulary, its training text, and its distance from the exact laws."""

import numpy as np

from mipo import models, population, sampling
from mipo.data import render
from mipo.grammar import ATTRIBUTES, TASKS, parse, write
from mipo.population import NOBODY, Person
from mipo.world import World

NOBODY_SHARE = 0.15      # of training examples come without any context
INCOMPLETE_SHARE = 0.15  # come with a context that lacks a quarter of its attributes


def vocabulary_text():
    """Texts that hold every word the world can say or ask."""
    for attribute, prior in ATTRIBUTES.items():
        for value in prior:
            line = population.profile({attribute: [value]})
            yield from (line, f"{line} {line}\n\n")
    for task in TASKS.values():
        for topic in task.topics:
            yield from (f"\n\n{q.format(topic=topic)}" for q in task.queries)
            yield from (q.format(topic=topic) for q in task.queries)
            for slot in task.slots:
                for value in slot.options:
                    values = [value if s is slot else next(iter(s.options)) for s in task.slots]
                    yield from (write(task, topic, values, wordings=[w] * len(values)) for w in (0, 1))
                    yield write(task, topic, values, wordings=[int(s is not slot) for s in task.slots])


def training_examples(world, tokenizer, *, split="base", pool=4000, seed=0):
    """A function (rng, n) -> n fresh pairs (prompt, reply) drawn from the world's exact laws."""
    residents = population.people(pool, split=split, seed=seed)
    names = list(TASKS)

    def examples(rng, n):
        found = []
        for _ in range(n):
            who = residents[rng.integers(len(residents))]
            u = rng.random()
            if u < NOBODY_SHARE:
                who = NOBODY
            elif u < NOBODY_SHARE + INCOMPLETE_SHARE:
                who = Person(tuple(v for v in who.values if rng.random() > 0.25))
            task = TASKS[names[rng.integers(len(names))]]
            topic = task.topics[rng.integers(len(task.topics))]
            query = task.queries[rng.integers(len(task.queries))].format(topic=topic)
            found.append((render(tokenizer, query, who.context()), world.sample(task.name, who, topic, rng)))
        return found

    return examples


def train_base(*, steps=450, batch_size=64, lr=4e-3, seed=0, without="marginal", progress=True):
    """(model, tokenizer, losses): a Llama trained from scratch on the small world's replies."""
    tokenizer = models.build_tokenizer(vocabulary_text())
    model = models.small_model(tokenizer, seed=seed)
    examples = training_examples(World(without), tokenizer, seed=1000 + seed)
    losses = models.pretrain(model, tokenizer, examples, steps=steps, batch_size=batch_size, lr=lr, seed=seed,
                             progress=progress)
    return model, tokenizer, losses


def sample_replies(model, tokenizer, records, *, seed=0, temperature=1.0, contexts=None, **settings):
    """One reply per record (to `contexts` instead of the record's own, if given)."""
    contexts = contexts or [r["context"] for r in records]
    prompts = [render(tokenizer, r["query"], c) for r, c in zip(records, contexts, strict=True)]
    return sampling.generate(model, tokenizer, prompts, max_new_tokens=40, seed=seed, temperature=temperature, **settings)


def invalid_share(replies, records):
    """Share of replies outside the grammar or off topic."""
    return float(np.mean([parse(y, r["task"], topic=r["topic"]) is None for y, r in zip(replies, records, strict=True)]))
