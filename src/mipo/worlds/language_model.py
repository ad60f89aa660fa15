"""The base model of the small world: its vocabulary, its training text, its replies."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mipo import models
from mipo.lm import sampling
from mipo.lm.prompts import render
from mipo.world import Law, World
from mipo.worlds import population
from mipo.worlds.grammar import ATTRIBUTES, TASKS, Task, phrases, write
from mipo.worlds.population import NOBODY, Person

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

NOBODY_SHARE = 0.15  # of training examples come without any context
INCOMPLETE_SHARE = 0.1  # come with a context that lacks a quarter of its attributes
LINES_KEPT = 0.75  # of an incomplete context
UNPROMPTED_SHARE = 0.06  # are replies alone, after the token that begins a sequence

Lessons = Callable[[np.random.Generator, int], list[tuple[str, str]]]


def build_tokenizer() -> PreTrainedTokenizerBase:
    """Return the small world's tokenizer.

    A line of a profile, or a piece of a sentence between two choices, is one token. So
    a slot of the grammar is one token of the reply, and what holds slot by slot holds
    token by token.
    """
    lines = [
        population.profile({attribute: [value]})
        for attribute, prior in ATTRIBUTES.items()
        for value in prior
    ]
    pieces = [piece for task in TASKS for piece in phrases(task)]
    known = [*lines, *(" " + line for line in lines), *pieces]
    return models.build_tokenizer([*known, "\n\n"], phrases=known)


def training_examples(
    world: World,
    tokenizer: PreTrainedTokenizerBase,
    *,
    split: str = "base",
    pool: int = 4000,
    seed: int = 0,
    sharp: float | None = None,
    replies: int = 1,
) -> Lessons:
    """Return a function that draws pairs from the world's exact laws.

    A share of the pairs has no context, or one that lacks a quarter of its lines, or no
    prompt at all: so the model knows how likely a reply is whoever asks whatever, as
    one that has read plain text does.

    Parameters
    ----------
    world : World
        Its laws.
    tokenizer
        Renders the prompts.
    split, pool, seed
        The people who ask: `pool` Persons of the `split`.
    sharp : float, optional
        Replies to a person come from the optimum at this β: lessons in which reading
        the context pays off at once.
    replies : int
        Each prompt is answered so many times in a row, since replies to one prompt
        share its cost.

    Returns
    -------
    callable
        (rng, n) -> n fresh pairs (prompt, reply).
    """
    residents = population.people(pool, split=split, seed=seed)

    def examples(rng: np.random.Generator, n: int) -> list[tuple[str, str]]:
        pairs: list[tuple[str, str]] = []
        while len(pairs) < n:
            who = _as_told(residents[rng.integers(len(residents))], rng)
            task, topic, query = draw_query(rng)
            law = law_of(world, task, who, sharp)
            alone = rng.random() < UNPROMPTED_SHARE
            if alone:
                prompt = tokenizer.eos_token
            else:
                prompt = render(tokenizer, query, who.context())
            for _ in range(replies):
                pairs.append((prompt, write(task, topic, law.sample(rng), rng)))
        return pairs[:n]

    return examples


def draw_query(rng: np.random.Generator) -> tuple[Task, str, str]:
    """Draw a task, a topic and a query, each evenly."""
    names = list(TASKS)
    task = TASKS[names[rng.integers(len(names))]]
    topic = task.topics[rng.integers(len(task.topics))]
    query = task.queries[rng.integers(len(task.queries))]
    return task, topic, query.format(topic=topic)


def law_of(world: World, task: Task, who: Person, sharp: float | None) -> Law:
    """Return the law of replies to a person; of lessons where `sharp` is given."""
    if sharp and who.values:
        return world.optimum(task.name, who, sharp)
    return world.law(task.name, who)


def _as_told(who: Person, rng: np.random.Generator) -> Person:
    """What a training prompt says of a person: everything, nothing, or most."""
    u = rng.random()
    if u < NOBODY_SHARE:
        return NOBODY
    if u < NOBODY_SHARE + INCOMPLETE_SHARE:
        return incomplete(who, rng)
    return who


def incomplete(who: Person, rng: np.random.Generator) -> Person:
    """Return the person without a quarter of the lines, drawn at random."""
    return Person(tuple(v for v in who.values if rng.random() > 1 - LINES_KEPT))


def train_base(
    *,
    steps: int = 1700,
    batch_size: int = 32,
    lr: float = 1.2e-3,
    seed: int = 0,
    without: str = "marginal",
    progress: bool = True,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, list[float]]:
    """Train a Llama of 1.0 M parameters from scratch on the small world's replies.

    Parameters
    ----------
    steps, batch_size, lr, seed
        Of the training.
    without : {"marginal", "default"}
        As in `mipo.world.World`.
    progress : bool
        Show a bar.

    Returns
    -------
    model, tokenizer, losses
        Losses in nats per token, one per step.

    Notes
    -----
    Embeddings start large and learn forty times as fast: tied and this narrow, they
    must grow before the model can be sure of what does not come next. The first quarter
    of the steps are lessons at β = 1/4 (see `training_examples`).
    """
    tokenizer = build_tokenizer()
    model = models.small_model(
        tokenizer, hidden=256, layers=2, heads=4, inner=256, init=0.06, seed=seed
    )
    world = World(without)
    source = {"seed": 1000 + seed, "replies": 4}
    examples = training_examples(world, tokenizer, **source)
    lessons = training_examples(world, tokenizer, sharp=0.25, **source)
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


def sample(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Mapping[str, Any]],
    *,
    seed: int = 0,
    contexts: Sequence[str] | None = None,
    max_new_tokens: int = 24,
    **settings: Any,
) -> list[sampling.Reply]:
    """Sample one reply per example.

    Parameters
    ----------
    model, tokenizer
        The policy.
    examples : sequence of dict
        Examples of the small world.
    seed, max_new_tokens, **settings
        As in `mipo.lm.sampling.sample`.
    contexts : sequence of str, optional
        One per example, in place of its own.

    Returns
    -------
    list of Reply
    """
    contexts = contexts or [r["context"] for r in examples]
    prompts = [
        render(tokenizer, example["query"], context)
        for example, context in zip(examples, contexts, strict=True)
    ]
    return sampling.sample(
        model, tokenizer, prompts, max_new_tokens=max_new_tokens, seed=seed, **settings
    )


def sample_replies(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Mapping[str, Any]],
    **settings: Any,
) -> list[str]:
    """Sample one reply per example, as text.

    Parameters
    ----------
    model, tokenizer, examples, **settings
        As in `sample`.

    Returns
    -------
    list of str
    """
    return [reply.text for reply in sample(model, tokenizer, examples, **settings)]
