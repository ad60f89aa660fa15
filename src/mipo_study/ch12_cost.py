"""What training with each loss costs: floating-point operations by formula, and the cost of runs and of searches.

`mipo_study.bench.timing` measures the same steps.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import comb

import numpy as np
from torch import nn

from mipo.numbers import Number


@dataclass(frozen=True)
class Method:
    """What is done with a pair, in forward passes over its sequences; a backward pass is worth two.

    loss, kwargs   of `mipo.losses`; loss None: nothing is trained
    replies        sequences per pair: 2, or 1 where only the chosen reply is read
    passes         over prompt and reply: 3 for training (forward and backward), 1 for scoring, 4 for both
    alone          over the reply without its prompt
    """

    loss: str | None
    kwargs: dict = field(default_factory=dict)
    replies: int = 2
    passes: int = 3
    alone: int = 0


METHODS = {
    "sft": Method("sft", replies=1),
    "dpo": Method(
        "dpo", {"beta": 0.1}
    ),  # the reference's log-probs are a column of the data set
    "dpo-live": Method(
        "dpo", {"beta": 0.1}, passes=4
    ),  # a second model scores every batch
    "simpo": Method("simpo", {"beta": 2.0, "gamma": 1.0}),
    "rmipo": Method("rmipo", alone=1),
    "reference": Method(None, passes=1),  # what makes that column, once per pair
}


def method(name: str) -> Method:
    if name not in METHODS:
        raise ValueError(f"unknown method {name!r}; methods are {', '.join(METHODS)}")
    return METHODS[name]


# ---- floating-point operations ----


@dataclass(frozen=True)
class Shape:
    """What decides the work of a dense decoder.

    linear   weights of all linear layers, without the LM head        layers
    width    heads x head dimension                                   hidden, vocab   of the LM head
    """

    linear: int
    layers: int
    width: int
    hidden: int
    vocab: int


def llama_shape(*, hidden, layers, heads, kv_heads, inner, vocab) -> Shape:
    """Shape of a Llama or Mistral from its config: four projections and three feed-forward matrices per layer."""
    kv = hidden // heads * kv_heads
    return Shape(
        layers * hidden * (2 * hidden + 2 * kv + 3 * inner),
        layers,
        hidden,
        hidden,
        vocab,
    )


def shape_of(model) -> Shape:
    """Shape of any model whose work is done by ``nn.Linear`` and attention."""
    config, head = model.config.get_text_config(), model.get_output_embeddings()
    linear = sum(
        m.weight.numel()
        for m in model.modules()
        if isinstance(m, nn.Linear) and m is not head
    )
    vocab, hidden = head.weight.shape
    size = (
        getattr(config, "head_dim", None)
        or config.hidden_size // config.num_attention_heads
    )
    return Shape(
        linear,
        config.num_hidden_layers,
        config.num_attention_heads * size,
        hidden,
        vocab,
    )


def forward_flops(shape: Shape, tokens: int, scored: int) -> int:
    r"""2·linear·T + 4·layers·width·T² + 2·hidden·vocab·R of one sequence; a multiplication and an addition are two.

    tokens   T, of the whole sequence                       scored   R, the positions that reach the LM head
    The middle term is attention, scores and weighted values, over all T² pairs of positions: a kernel that leaves out
    the half which a causal mask hides does less. Embeddings, norms, activations and the optimiser are not counted.
    """
    attention = 4 * shape.layers * shape.width * tokens**2
    return (
        2 * shape.linear * tokens + attention + 2 * shape.hidden * shape.vocab * scored
    )


def step_flops(shape: Shape, name: str, prompt: int, reply: int) -> int:
    """Of a training step, per pair: passes·F(P + R) + alone·F(1 + R) for each reply of the pair.

    prompt, reply   P and R, tokens; without its prompt a reply follows the token that begins a sequence
    """
    m = method(name)
    whole, alone = (
        forward_flops(shape, prompt + reply, reply),
        forward_flops(shape, 1 + reply, reply),
    )
    return m.replies * (m.passes * whole + m.alone * alone)


def step_costs(shape: Shape, prompt: int, reply: int) -> dict[str, int]:
    """`step_flops` of every method: what `total` and `saving` take."""
    return {name: step_flops(shape, name, prompt, reply) for name in METHODS}


# ---- what a run and a search cost ----


def total(costs: Mapping, name: str, *, runs: int = 1, epochs: int = 1) -> np.ndarray:
    """Cost of `runs` training runs of `epochs` passes each, per pair, in the unit of `costs`.

    costs    of a step per pair by method, in seconds or operations: a number, or one per repetition
    "dpo" scores the reference once for all passes of all runs; the others pay for what they need in every step.
    """
    method(name)
    steps = runs * epochs * np.asarray(costs[name], float)
    return steps + np.asarray(costs["reference"], float) if name == "dpo" else steps


def saving(
    costs: Mapping,
    name: str,
    against: str,
    *,
    runs: int = 1,
    rates: int = 1,
    epochs: int = 1,
) -> np.ndarray:
    """1 - cost of `name` / cost of `against`, a share: what the first saves.

    rates   learning rates that both try        runs   settings that `against` tries at each, where `name` tries one
    """
    return 1 - total(costs, name, runs=rates, epochs=epochs) / total(
        costs, against, runs=rates * runs, epochs=epochs
    )


def middle(values, unit: str = "", level: float = 0.95) -> Number:
    """The median with a distribution-free interval: the k-th smallest and the k-th largest of n values.

    k is the largest for which 1 - 2·P(Bin(n, 1/2) < k) is at least `level`; that takes 6 values at 95 %.
    """
    values = np.sort(np.asarray(values, float).ravel())
    n, tail, k = len(values), 0.0, 0
    while k < n and 1 - 2 * (tail + comb(n, k) / 2**n) >= level:
        tail += comb(n, k) / 2**n
        k += 1
    if k == 0:
        raise ValueError(
            f"{n} repetitions are too few for a {level:.0%} interval of the median; use 6 or more"
        )
    low, high = float(values[k - 1]), float(values[n - k])
    return Number(
        float(np.median(values)), low, high, n, values.tolist(), unit, "median"
    )
