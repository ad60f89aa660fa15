"""What a loss declares about itself, the table of all losses, and their checks.

`declare` explains the words. The trainer supplies what a loss declares that it needs,
and one set of tests measures every declared property of every loss in the table.
"""

import functools
import inspect
import math
from collections.abc import Callable, Collection, Mapping
from typing import Any, Literal, Protocol, TypeVar, cast

import torch
from torch import Tensor

FAR = 1e4  # nats; so far that a softplus equals its asymptote in float64
LARGEST = 40.0  # exponents are cut here: beyond any use, and float32 stays finite

Takes = Literal["pair", "chosen", "candidates", "contexts", "matrix"]
DIMENSIONS = {"pair": 1, "chosen": 1, "candidates": 2, "contexts": 2, "matrix": 3}
WANTED_SHAPES = {1: "(B,)", 2: "(B, N)", 3: "(B, N, N)"}


class Loss(Protocol):
    """A function of log-probs with what it has declared; see `declare`."""

    __name__: str
    takes: Takes
    logps: Literal["sum", "mean"]
    needs: frozenset[str]
    example: Mapping[str, Any]
    limits: Mapping[float, float]
    bounds: tuple[float, float]
    lowest_at: float
    frozen: bool
    batchwise: bool

    def __call__(self, *inputs: Tensor, **keywords: Any) -> Tensor:
        """One loss per pair."""
        ...


LOSSES: dict[str, Loss] = {}
Function = TypeVar("Function", bound=Callable[..., Tensor])


def declare(
    *,
    takes: Takes,
    logps: Literal["sum", "mean"],
    needs: Collection[str] = (),
    example: Mapping[str, Any] | None = None,
    limits: Mapping[float, float],
    bounds: tuple[float, float] = (0.0, math.inf),
    lowest_at: float = FAR,
    frozen: bool = False,
    batchwise: bool = False,
) -> Callable[[Function], Function]:
    """Register a loss under its own name, with what it needs and promises.

    A declared loss refuses inputs whose shapes differ: nothing is broadcast.

    Parameters
    ----------
    takes : {"pair", "chosen", "candidates", "contexts", "matrix"}
        What the log-probs are of: a chosen and a rejected reply, each (B,); the
        chosen reply alone, (B,); N replies to one prompt, the chosen first, (B, N);
        one reply under N contexts, its own first, (B, N); N replies under N prompts,
        (B, N, N), index [b, prompt, reply].
    logps : {"sum", "mean"}
        Whether log-probs are summed over the reply's tokens or averaged; the
        end-of-sequence token counts. The docstring says SUMMED or MEANS.
    needs : collection of str
        What the trainer must supply beyond the policy's own log-probs:
        "reference" (ref_*), "cross" (replies under each other's prompts),
        "marginal" (delta_pmi), "lengths" (chosen_tokens, rejected_tokens),
        "mismatched" (kl), "moments" (gap_mean, gap_std).
    example : mapping, optional
        Keywords with which the tests try the loss, where it has no default or the
        default would hide something; the other keywords keep their defaults.
    limits : mapping from float to float
        Loss at some gaps by which what is right beats everything else, in nats, for
        the keywords of `example`. Use 0, `FAR` and ``-FAR``. A contrast of more than
        two alternatives is tried with three.
    bounds : pair of float
        Smallest and largest value over all log-probs up to 0, for `example`.
    lowest_at : float
        Gap at which the lower bound is reached.
    frozen : bool
        The loss makes a margin from its own log-probs that gradients do not see.
    batchwise : bool
        Rows of a batch know of each other, so a batch cannot be split.

    Returns
    -------
    callable
        A decorator for the loss.

    Examples
    --------
    >>> @declare(
    ...     takes="pair",
    ...     logps="mean",
    ...     example={"beta": 2.0},
    ...     limits={0: 1, FAR: 0, -FAR: 1 + 2 * FAR},
    ... )
    ... def hinge(chosen_logps, rejected_logps, *, beta):
    ...     return (1 - beta * (chosen_logps - rejected_logps)).clamp(min=0)
    >>> hinge(torch.zeros(1), torch.zeros(1), beta=2.0)
    tensor([1.])
    >>> del LOSSES["hinge"]
    """

    def attach(function: Function) -> Function:
        names = inputs_of(function)

        @functools.wraps(function)
        def checked(*inputs, **keywords):
            tensors = dict(zip(names, inputs, strict=False))
            tensors |= {name: keywords[name] for name in names if name in keywords}
            same_shape(ndim=DIMENSIONS[takes], **tensors)
            if takes not in ("pair", "chosen"):
                _alternatives(tensors[names[0]])
            return function(*inputs, **keywords)

        loss = cast(Loss, checked)
        loss.takes, loss.logps = takes, logps
        loss.needs = frozenset(needs)
        loss.example = dict(example or {})
        loss.limits, loss.bounds = dict(limits), bounds
        loss.lowest_at = lowest_at
        loss.frozen, loss.batchwise = frozen, batchwise
        LOSSES[function.__name__] = loss
        return cast(Function, checked)

    return attach


def get(name: str) -> Loss:
    """Return the loss of that name; a ValueError lists the known names otherwise."""
    if name not in LOSSES:
        known = ", ".join(sorted(LOSSES))
        raise ValueError(f"unknown loss {name!r}; known losses: {known}")
    return LOSSES[name]


def inputs_of(loss: Callable) -> list[str]:
    """Return the names of the tensors that a loss takes, in order.

    The trainer supplies them by these names.
    """
    parameters = inspect.signature(loss).parameters.values()
    return [p.name for p in parameters if p.kind is not p.KEYWORD_ONLY]


def keywords_of(loss: Callable) -> dict[str, Any]:
    """Return the keywords of a loss with their defaults, `Parameter.empty` if none."""
    parameters = inspect.signature(loss).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def keyword(loss: Callable, name: str, given: Mapping[str, Any]) -> Any:
    """Return what a keyword of a loss is worth: as given, else its default."""
    return given[name] if name in given else keywords_of(loss)[name]


def check(name: str, keywords: Mapping[str, Any]) -> Loss:
    """Return the loss of that name after trying its keywords on zeros.

    So wrong settings fail here and not in training.

    Raises
    ------
    ValueError
        For an unknown loss, an unknown, missing or impossible keyword.
    """
    loss = get(name)
    known = keywords_of(loss)
    for key in keywords:
        if key not in known:
            raise ValueError(
                f"loss {name!r} has no keyword {key!r}; its keywords: "
                f"{', '.join(known) or 'none'}"
            )
    for key, default in known.items():
        if default is inspect.Parameter.empty and key not in keywords:
            raise ValueError(
                f"loss {name!r} needs the keyword {key!r} "
                f"(loss_kwargs={{{key!r}: ...}}); got {dict(keywords)}"
            )
    shape = (1, 2, 2)[: DIMENSIONS[loss.takes]]
    loss(*(torch.zeros(shape) for _ in inputs_of(loss)), **keywords)
    return loss


def same_shape(*, ndim: int, **tensors: Tensor) -> None:
    """Raise a ValueError unless all tensors have one shape of `ndim` dimensions."""
    shapes = {name: tuple(t.shape) for name, t in tensors.items()}
    one_shape = len(set(shapes.values())) <= 1
    if not one_shape or any(len(shape) != ndim for shape in shapes.values()):
        wanted = WANTED_SHAPES[ndim]
        raise ValueError(f"the inputs must all have one shape {wanted}; got {shapes}")


def _alternatives(logps: Tensor) -> None:
    if logps.shape[-1] < 2:
        raise ValueError(
            "a contrast needs at least 2 alternatives (last dimension); "
            f"got shape {tuple(logps.shape)}"
        )


# ---- settings ----


def is_number(value: object) -> bool:
    """Return whether the value is a finite int or float, and no bool."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value)


def finite(**settings: Any) -> None:
    """Raise a ValueError for a setting that is not a finite number."""
    for name, value in settings.items():
        if not is_number(value):
            raise ValueError(f"{name} must be a finite number; got {value!r}")


def positive(**settings: Any) -> None:
    """Raise a ValueError for a setting that is not a finite number above 0."""
    for name, value in settings.items():
        if not is_number(value) or value <= 0:
            raise ValueError(f"{name} must be a finite number above 0; got {value!r}")


def not_negative(**settings: Any) -> None:
    """Raise a ValueError for a setting that is not a finite number of at least 0."""
    for name, value in settings.items():
        if not is_number(value) or value < 0:
            raise ValueError(
                f"{name} must be a finite number of at least 0; got {value!r}"
            )


def at_least(least: int, **counts: Any) -> None:
    """Raise a ValueError for a count that is not a whole number of at least `least`."""
    for name, value in counts.items():
        whole = isinstance(value, int) and not isinstance(value, bool)
        if not whole or value < least:
            raise ValueError(
                f"{name} must be a whole number of at least {least}; got {value!r}"
            )
