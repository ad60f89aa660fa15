"""What the tests of losses share: the settings each is tried with, inputs for any of them, what holds of all."""

import inspect
from math import inf, nan

import torch

from mipo import losses

KEYWORDS = {  # where the defaults would hide something, or there are none; the others keep their defaults
    "dpo": {"beta": 0.5},
    "dpo_norm": {"beta": 5.0},
    "ipo": {"tau": 0.25},
    "kto": {
        "beta": 0.2,
        "desirable_weight": 1.2,
        "undesirable_weight": 0.8,
    },  # mean 1, where the bound is declared
    "rdpo": {"beta": 0.5, "alpha": 0.3},
    "alphadpo": {"beta": 2.0, "gamma0": 0.4, "alpha": 0.3},
    "simpo": {"beta": 2.0, "gamma": 0.5},
    "rmipo": {"beta": 1.5, "gamma_min": 0.2, "gamma_max": 1.1, "scale": 0.7},
    "dpo_decay": {"beta": 0.3, "gamma_min": 0.2, "gamma_max": 1.1, "scale": 0.7},
    "ipo_decay": {"tau": 0.25, "gamma_min": 0.2, "gamma_max": 1.1, "scale": 0.7},
    "kto_decay": {"beta": 0.2, "gamma_min": 0.2, "gamma_max": 1.1, "scale": 0.7},
    "gammapo": {"beta": 3.0, "gamma0": 1.5, "tau": 5.0},
    "amapo": {"beta": 1.5},
    "cpo": {"beta": 0.4, "alpha": 0.6},
    "orpo": {"beta": 0.7},
    "simper": {},
    "alphapo": {"alpha": 0.5, "beta": 1.5, "gamma": 0.3},
    "infonca": {"beta": 0.5},
    "sami": {},
    "context_infonce": {"temperature": 2.0},
    "sft": {},
}
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
    """Every keyword of a loss: its defaults, and what KEYWORDS says."""
    params = inspect.signature(losses.get(name)).parameters.values()
    return {p.name: p.default for p in params if p.kind is p.KEYWORD_ONLY} | KEYWORDS[
        name
    ]


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

    return [draw(name) for name in losses.inputs_of(loss)]


def policy_names(loss):
    """Those of the inputs that gradients reach: the log-probs of the policy."""
    return [
        name
        for name in losses.inputs_of(loss)
        if name.endswith("logps") and not name.startswith("ref_")
    ]


def policy_logps(loss, inputs):
    known = dict(zip(losses.inputs_of(loss), inputs, strict=True))
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
        return [first, torch.zeros_like(first)][: len(losses.inputs_of(loss))]
    known = {"chosen_logps": right, "rejected_logps": wrong, **AT_REST}
    return [T(known.get(name, 0.0)) for name in losses.inputs_of(loss)]
