"""What the tests of losses share: inputs for any of them, and what holds of all."""

from math import inf, nan

import torch

from mipo import losses
from mipo.losses.declaration import inputs_of, keywords_of

NEEDED_FOR = {  # the tensors beyond the policy's own log-probs, and the word in `needs` that promises them
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
AT_REST = {
    "chosen_tokens": 1.0,
    "rejected_tokens": 1.0,
    "gap_std": 1.0,
}  # delta_pmi, kl and gap_mean: 0
NO_NUMBERS = [nan, inf, "0.1", None, True]
ALL = sorted(losses.LOSSES)


def T(*values):
    return torch.tensor(values, dtype=torch.float64)


def settings(name):
    """Every keyword of a loss: its defaults, and those of its declared example."""
    loss = losses.get(name)
    return keywords_of(loss) | loss.example


def random_inputs(loss, seed=0):
    """Log-probs between -3 and 0, three rows; pairs of either order, token counts from 1 to 9, a kl above 0."""
    gen = torch.Generator().manual_seed(seed)
    ranges = {
        "delta_pmi": (-1, 2),
        "kl": (0, 3),
        "gap_mean": (-1, 1),
        "gap_std": (0.5, 2),
    }

    def draw(name):
        u = torch.rand(SHAPES.get(loss.takes, (3,)), generator=gen, dtype=torch.float64)
        if name.endswith("tokens"):
            return 1 + (9 * u).floor()
        low, high = ranges.get(name, (-3, 0))
        return low + (high - low) * u

    return [draw(name) for name in inputs_of(loss)]


def policy_names(loss):
    """Those of the inputs that gradients reach: the log-probs of the policy."""
    return [
        name
        for name in inputs_of(loss)
        if name.endswith("logps") and not name.startswith("ref_")
    ]


def policy_logps(loss, inputs):
    known = dict(zip(inputs_of(loss), inputs, strict=True))
    return [known[name] for name in policy_names(loss)]


def grads(loss, *inputs, **kwargs):
    """Gradient of the summed loss at every input, whatever it is; None where no gradient arrives."""
    inputs = [x.detach().clone().requires_grad_() for x in inputs]
    return torch.autograd.grad(loss(*inputs, **kwargs).sum(), inputs, allow_unused=True)


def inputs_at_gap(loss, h, n=3):
    """Log-probs in which what is right is ahead of everything else by h nats; the rest as if nothing had happened."""
    right, wrong = min(h, 0.0), min(-h, 0.0)
    if "reference" in loss.needs:  # log-ratios, of either sign
        right, wrong = h / 2, -h / 2
    if loss.takes == "chosen":
        return [T(-abs(h))]
    if loss.takes == "matrix":
        return [wrong + (right - wrong) * torch.eye(n, dtype=torch.float64)[None]]
    if loss.takes in ("candidates", "contexts"):
        first = T(right, *[wrong] * (n - 1))[None]
        return [first, torch.zeros_like(first)][: len(inputs_of(loss))]
    known = {"chosen_logps": right, "rejected_logps": wrong, **AT_REST}
    return [T(known.get(name, 0.0)) for name in inputs_of(loss)]
