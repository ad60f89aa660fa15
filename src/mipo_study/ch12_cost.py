"""Chapter 12: what training with each loss costs, by formula, and the cost of searches.

`mipo_study.bench.timing` measures the same steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import comb
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike
from torch import nn

from mipo.numbers import Number
from mipo_study.methods import require

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Work:
    """What is done with a pair, in forward passes; a backward pass is worth two.

    Attributes
    ----------
    method : str
        Whose loss and settings: a name of `methods.METHODS`; "": nothing is trained.
    replies : int
        Sequences per pair: 2, or 1 where only the chosen reply is read.
    passes : int
        Over prompt and reply: 3 for training (forward and backward), 1 for scoring, 4
        for both.
    alone : int
        Over the reply without its prompt.
    """

    method: str
    replies: int = 2
    passes: int = 3
    alone: int = 0


WORK = {
    "sft": Work("sft", replies=1),
    # The reference's log-probs are a column of the data set …
    "dpo": Work("dpo"),
    # … or a second model scores every batch.
    "dpo-live": Work("dpo", passes=4),
    "simpo": Work("simpo"),
    "rmipo": Work("rmipo", alone=1),
    # What makes that column, once per pair.
    "reference": Work("", passes=1),
}


def work(name: str) -> Work:
    """What a method does with a pair.

    Raises
    ------
    ValueError
        For a name that the table does not have.
    """
    require([name], WORK)
    return WORK[name]


# ---- floating-point operations ----


@dataclass(frozen=True)
class Shape:
    """What decides the work of a dense decoder.

    Attributes
    ----------
    linear : int
        Weights of all linear layers, without the LM head.
    layers : int
        How many.
    width : int
        Heads times head dimension.
    hidden, vocab : int
        Of the LM head.
    """

    linear: int
    layers: int
    width: int
    hidden: int
    vocab: int


def llama_shape(
    *, hidden: int, layers: int, heads: int, kv_heads: int, inner: int, vocab: int
) -> Shape:
    """Shape of a Llama or Mistral from its config.

    Parameters
    ----------
    hidden, layers, heads, kv_heads, inner, vocab : int
        hidden_size, num_hidden_layers, num_attention_heads, num_key_value_heads,
        intermediate_size and vocab_size there.

    Notes
    -----
    Each layer has four projections and three feed-forward matrices.
    """
    kv = hidden // heads * kv_heads
    linear = layers * hidden * (2 * hidden + 2 * kv + 3 * inner)
    return Shape(linear, layers, hidden, hidden, vocab)


def shape_of(model: PreTrainedModel) -> Shape:
    """Shape of any model whose work is done by ``nn.Linear`` and attention.

    Raises
    ------
    ValueError
        For a model without an LM head.
    """
    config, head = model.config.get_text_config(), model.get_output_embeddings()
    if head is None:
        kind = type(model).__name__
        raise ValueError(f"{kind} has no LM head, so it can be no policy")
    layers = [
        module
        for module in model.modules()
        if isinstance(module, nn.Linear) and module is not head
    ]
    linear = sum(layer.weight.numel() for layer in layers)
    vocab, hidden = head.weight.shape
    heads = config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    return Shape(linear, config.num_hidden_layers, heads * size, hidden, vocab)


def forward_flops(shape: Shape, tokens: int, scored: int) -> int:
    r"""Operations of a forward pass over one sequence.

    Parameters
    ----------
    shape : Shape
        Of the model.
    tokens : int
        T, of the whole sequence.
    scored : int
        R, the positions that reach the LM head.

    Returns
    -------
    int
        Floating-point operations.

    Notes
    -----
    2·linear·T + 4·layers·width·T² + 2·hidden·vocab·R; a multiplication and an addition
    are two. The middle term is attention, scores and weighted values, over all T² pairs
    of positions: a kernel that leaves out the half which a causal mask hides does less.
    Embeddings, norms, activations and the optimiser are not counted. eq-cost-forward in
    chapter 12.
    """
    linear = 2 * shape.linear * tokens
    attention = 4 * shape.layers * shape.width * tokens**2
    head = 2 * shape.hidden * shape.vocab * scored
    return linear + attention + head


def step_flops(shape: Shape, name: str, prompt: int, reply: int) -> int:
    """Operations of a training step, per pair.

    Parameters
    ----------
    shape : Shape
        Of the model.
    name : str
        A key of `WORK`.
    prompt, reply : int
        P and R, tokens; without its prompt a reply follows the token that begins a
        sequence.

    Notes
    -----
    passes·F(P + R) + alone·F(1 + R) for each reply of the pair, F of `forward_flops`.
    """
    done = work(name)
    whole = forward_flops(shape, prompt + reply, reply)
    alone = forward_flops(shape, 1 + reply, reply)
    return done.replies * (done.passes * whole + done.alone * alone)


def step_costs(shape: Shape, prompt: int, reply: int) -> dict[str, int]:
    """`step_flops` of every method: what `total` and `saving` take."""
    return {name: step_flops(shape, name, prompt, reply) for name in WORK}


# ---- what a run and a search cost ----


def total(
    costs: Mapping[str, ArrayLike], name: str, *, runs: int = 1, epochs: int = 1
) -> np.ndarray:
    """Cost of training runs per pair, in the unit of `costs`.

    Parameters
    ----------
    costs : mapping
        Of a step per pair by method, in seconds or operations: a number, or one per
        repetition.
    name : str
        A key of `WORK`. "dpo" scores the reference once for all passes of all runs; the
        others pay for what they need in every step.
    runs, epochs : int
        Training runs, and passes of each over the data.

    Returns
    -------
    ndarray
        A number, or one per repetition.
    """
    work(name)
    steps = runs * epochs * np.asarray(costs[name], float)
    return steps + np.asarray(costs["reference"], float) if name == "dpo" else steps


def saving(
    costs: Mapping[str, ArrayLike],
    name: str,
    against: str,
    *,
    runs: int = 1,
    rates: int = 1,
    epochs: int = 1,
) -> np.ndarray:
    """What a method saves against another: 1 - its cost over the other's, a share.

    Parameters
    ----------
    costs, epochs
        See `total`.
    name, against : str
        Keys of `WORK`.
    rates : int
        Learning rates that both try.
    runs : int
        Settings that `against` tries at each of them, where `name` tries one.

    Returns
    -------
    ndarray
        At most 1; below 0 where the method costs more. One per repetition.
    """
    ours = total(costs, name, runs=rates, epochs=epochs)
    theirs = total(costs, against, runs=rates * runs, epochs=epochs)
    return 1 - ours / theirs


def middle(values: ArrayLike, unit: str = "", level: float = 0.95) -> Number:
    """The median with a distribution-free interval.

    Parameters
    ----------
    values : array_like
        Repetitions, of any shape.
    unit : str
        Of the values.
    level : float
        Of the interval, a share.

    Raises
    ------
    ValueError
        For fewer repetitions than the level takes, 6 at 95 %.

    Notes
    -----
    The interval reaches from the k-th smallest to the k-th largest of n values, where k
    is the largest for which 1 - 2·P(Bin(n, 1/2) < k) is at least `level`.
    """
    ranked = np.sort(np.asarray(values, float).ravel())
    n, tail, k = len(ranked), 0.0, 0
    while k < n and 1 - 2 * (tail + comb(n, k) / 2**n) >= level:
        tail += comb(n, k) / 2**n
        k += 1
    if k == 0:
        raise ValueError(
            f"{n} repetitions are too few for a {level:.0%} interval of the median; "
            "use 6 or more"
        )
    low, high = float(ranked[k - 1]), float(ranked[n - k])
    median = float(np.median(ranked))
    return Number(median, low, high, n, ranked.tolist(), unit, "median")
