"""What the tests of losses share: inputs for any of them, and what holds of all."""

from math import inf, nan

import torch

from mipo import losses
from mipo.losses.declaration import inputs_of, keywords_of

ALL = sorted(losses.LOSSES)
NO_NUMBERS = [nan, inf, "0.1", None, True]
# inputs beyond the policy's own log-probs, and the word in `needs` that promises them
NEEDED_FOR = {
    "ref_logps": "reference",
    "ref_chosen_logps": "reference",
    "ref_rejected_logps": "reference",
    "delta_pmi": "marginal",
    "kl": "mismatched",
    "chosen_tokens": "lengths",
    "rejected_tokens": "lengths",
    "gap_mean": "moments",
    "gap_std": "moments",
}
SHAPES = {"candidates": (3, 4), "contexts": (3, 4), "matrix": (3, 4, 4)}
RANGES = {"delta_pmi": (-1, 2), "kl": (0, 3), "gap_mean": (-1, 1), "gap_std": (0.5, 2)}
# where nothing has happened yet; the other inputs are 0 there
AT_REST = {"chosen_tokens": 1.0, "rejected_tokens": 1.0, "gap_std": 1.0}


def T(*values):
    """A vector in float64."""
    return torch.tensor(values, dtype=torch.float64)


ZERO = T(0.0)


def settings(name):
    """Every keyword of a loss: its defaults, and those of its declared example."""
    loss = losses.get(name)
    return keywords_of(loss) | loss.example


def random_inputs(loss, seed=0):
    """Three rows of every input: log-probs from -3 to 0, token counts from 1 to 9."""
    generator = torch.Generator().manual_seed(seed)
    shape = SHAPES.get(loss.takes, (3,))
    inputs = []
    for name in inputs_of(loss):
        uniform = torch.rand(shape, generator=generator, dtype=torch.float64)
        low, high = RANGES.get(name, (-3, 0))
        if name.endswith("tokens"):
            inputs.append(1 + (9 * uniform).floor())
        else:
            inputs.append(low + (high - low) * uniform)
    return inputs


def policy_names(loss):
    """Those of the inputs that gradients reach: the log-probs of the policy."""
    logps = [name for name in inputs_of(loss) if name.endswith("logps")]
    return [name for name in logps if not name.startswith("ref_")]


def policy_logps(loss, inputs):
    """The inputs that gradients reach."""
    named = dict(zip(inputs_of(loss), inputs, strict=True))
    return [named[name] for name in policy_names(loss)]


def grads(loss, *inputs, **kwargs):
    """Gradient of the summed loss by every input; None where none arrives."""
    inputs = [x.detach().clone().requires_grad_() for x in inputs]
    total = loss(*inputs, **kwargs).sum()
    return torch.autograd.grad(total, inputs, allow_unused=True)


def inputs_at_gap(loss, h, n=3):
    """One row in which what is right is ahead of everything else by h nats.

    A contrast has n alternatives. Every other input is at rest.
    """
    right, wrong = min(h, 0.0), min(-h, 0.0)  # log-probs are not above 0
    if "reference" in loss.needs:  # log-ratios may have either sign
        right, wrong = h / 2, -h / 2
    if loss.takes == "chosen":
        return [T(-abs(h))]
    if loss.takes == "matrix":
        identity = torch.eye(n, dtype=torch.float64)[None]
        return [wrong + (right - wrong) * identity]
    if loss.takes in ("candidates", "contexts"):
        logps = T(right, *[wrong] * (n - 1))[None]
        reference = torch.zeros_like(logps)
        return [logps, reference][: len(inputs_of(loss))]
    known = {"chosen_logps": right, "rejected_logps": wrong, **AT_REST}
    return [T(known.get(name, 0.0)) for name in inputs_of(loss)]
