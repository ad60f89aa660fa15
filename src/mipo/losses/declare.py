"""What every loss declares about itself, the table of all losses, and the checks of settings and shapes."""

import inspect
import math
from collections.abc import Callable

import torch
from torch import Tensor

LOSSES: dict[str, Callable[..., Tensor]] = {}
FAR = 1e4  # nats; far enough that a softplus equals its asymptote in float64
LARGEST = 40.0  # exponents are cut here: beyond any use, and float32 stays finite


def declare(*, takes, logps, needs=(), bounds=(0.0, math.inf), limits=(), frozen=False):
    """Attach what a loss needs and promises, and register it under its own name. See `mipo.losses` for the words."""

    def attach(loss):
        loss.takes, loss.logps, loss.needs = takes, logps, frozenset(needs)
        loss.bounds, loss.limits, loss.frozen = bounds, tuple(limits), frozen
        LOSSES[loss.__name__] = loss
        return loss

    return attach


def get(name: str) -> Callable[..., Tensor]:
    """The loss called ``name``; a ValueError lists the known names otherwise."""
    if name not in LOSSES:
        raise ValueError(
            f"unknown loss {name!r}; known losses: {', '.join(sorted(LOSSES))}"
        )
    return LOSSES[name]


def inputs_of(loss) -> list[str]:
    """Names of the tensors that a loss takes, in order; the trainer supplies them by these names."""
    return [
        p.name
        for p in inspect.signature(loss).parameters.values()
        if p.kind is not p.KEYWORD_ONLY
    ]


def default(loss, key: str, kwargs: dict):
    """What a keyword of a loss is worth: as given, else its default."""
    return (
        kwargs[key]
        if key in kwargs
        else inspect.signature(loss).parameters[key].default
    )


def check(name: str, kwargs: dict) -> Callable[..., Tensor]:
    """The loss called ``name``, after trying its keywords on zeros: wrong settings fail here and not in training."""
    loss = get(name)
    keywords = {
        p.name: p
        for p in inspect.signature(loss).parameters.values()
        if p.kind is p.KEYWORD_ONLY
    }
    known = ", ".join(keywords) or "none"
    for key in kwargs:
        if key not in keywords:
            raise ValueError(
                f"loss {name!r} has no keyword {key!r}; its keywords: {known}"
            )
    for key, p in keywords.items():
        if p.default is p.empty and key not in kwargs:
            raise ValueError(
                f"loss {name!r} needs the keyword {key!r} (loss_kwargs={{{key!r}: ...}}); got {kwargs}"
            )
    shape = {"candidates": (1, 2), "contexts": (1, 2), "matrix": (1, 2, 2)}.get(
        loss.takes, (1,)
    )
    loss(*(torch.zeros(shape) for _ in inputs_of(loss)), **kwargs)
    return loss


def same_shape(*, ndim: int, **tensors: Tensor) -> None:
    """ValueError unless all tensors have one shape of ``ndim`` dimensions: nothing is broadcast."""
    shapes = {name: tuple(t.shape) for name, t in tensors.items()}
    if len(set(shapes.values())) > 1 or len(next(iter(shapes.values()))) != ndim:
        want = {1: "(B,)", 2: "(B, N)", 3: "(B, N, N)"}[ndim]
        raise ValueError(f"the inputs must all have one shape {want}; got {shapes}")


def is_number(value) -> bool:
    return (
        not isinstance(value, bool)
        and isinstance(value, (int, float))
        and math.isfinite(value)
    )


def positive(**numbers) -> None:
    """ValueError for a setting that is not a finite number above 0."""
    for name, value in numbers.items():
        if not is_number(value) or value <= 0:
            raise ValueError(f"{name} must be a finite number above 0; got {value!r}")


def not_negative(**numbers) -> None:
    """ValueError for a setting that is not a finite number of at least 0."""
    for name, value in numbers.items():
        if not is_number(value) or value < 0:
            raise ValueError(
                f"{name} must be a finite number of at least 0; got {value!r}"
            )


def alternatives(logps: Tensor) -> None:
    """ValueError where there is nothing to choose between."""
    if logps.shape[-1] < 2:
        raise ValueError(
            f"a contrast needs at least 2 alternatives (last dimension); got shape {tuple(logps.shape)}"
        )
