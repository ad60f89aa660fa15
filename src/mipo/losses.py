r"""Preference losses: one formula, one pure function, one name everywhere.

Every loss takes log-probabilities in nats, one number per reply, and returns one loss per pair, shape ``(B,)``, without
reduction. Hyperparameters are keyword-only. Shapes must agree exactly: nothing is broadcast. Names follow the field:
``chosen_logps`` is log pi(y_w | x), ``ref_*`` the same under the reference. Each function declares by ``@declare``

- ``needs``: what the trainer must supply beyond the policy's log-probs: "reference", or "cross" (replies under
  each other's prompts),
- ``logps``: "sum" or "mean" over the reply's tokens, the end-of-sequence token included,
- ``takes``: "pair", "chosen", "candidates" (B, N), "contexts" (B, N) or "matrix" (B, N, N),
- ``bounds``: smallest and largest value over all log-probs <= 0,
- ``limits``: pairs (h, value) in terms of the gap h by which what is right beats everything else; ``value`` is a
  function of h, n (the number of alternatives) and the loss's own keywords.

To add a loss, write the function and decorate it: the trainer, the property test and ``get`` find it by its name.
"""

import inspect
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

LOSSES: dict[str, Callable[..., Tensor]] = {}
FAR = 1e4  # nats; far enough that a softplus equals its asymptote in float64


def declare(*, takes, logps, needs=(), bounds=(0.0, math.inf), limits=()):
    """Attach what a loss needs and promises, and register it under its own name."""

    def attach(loss):
        loss.takes, loss.logps, loss.needs = takes, logps, frozenset(needs)
        loss.bounds, loss.limits = bounds, tuple(limits)
        LOSSES[loss.__name__] = loss
        return loss

    return attach


def get(name: str) -> Callable[..., Tensor]:
    """The loss called ``name``; a ValueError lists the known names otherwise."""
    if name not in LOSSES:
        raise ValueError(f"unknown loss {name!r}; known losses: {', '.join(sorted(LOSSES))}")
    return LOSSES[name]


def check(name: str, kwargs: dict) -> Callable[..., Tensor]:
    """The loss called ``name``, after trying its keywords on zeros: wrong settings fail here and not in training."""
    loss = get(name)
    params = inspect.signature(loss).parameters.values()
    keywords = {p.name: p for p in params if p.kind is p.KEYWORD_ONLY}
    known = ", ".join(keywords) or "none"
    for key in kwargs:
        if key not in keywords:
            raise ValueError(f"loss {name!r} has no keyword {key!r}; its keywords: {known}")
    for key, p in keywords.items():
        if p.default is p.empty and key not in kwargs:
            raise ValueError(f"loss {name!r} needs the keyword {key!r} (loss_kwargs={{{key!r}: ...}}); got {kwargs}")
    shape = {"candidates": (1, 2), "contexts": (1, 2), "matrix": (1, 2, 2)}.get(loss.takes, (1,))
    loss(*(torch.zeros(shape) for p in params if p.kind is not p.KEYWORD_ONLY), **kwargs)
    return loss


def _same_shape(*, ndim: int, **tensors: Tensor) -> None:
    shapes = {name: tuple(t.shape) for name, t in tensors.items()}
    if len(set(shapes.values())) > 1 or len(next(iter(shapes.values()))) != ndim:
        want = {1: "(B,)", 2: "(B, N)", 3: "(B, N, N)"}[ndim]
        raise ValueError(f"log-probs must all have one shape {want}; got {shapes}")


def _positive(**numbers) -> None:
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
            raise ValueError(f"{name} must be a finite number above 0; got {value!r}")


def _alternatives(logps: Tensor) -> None:
    if logps.shape[-1] < 2:
        raise ValueError(f"a contrast needs at least 2 alternatives (last dimension); got shape {tuple(logps.shape)}")


def _log_n_minus_one(n: int) -> float:
    return math.log(n - 1)


@declare(
    takes="pair", logps="sum", needs={"reference"},
    limits=[(0.0, lambda h, n, beta: math.log(2)), (FAR, lambda h, n, beta: 0.0), (-FAR, lambda h, n, beta: -beta * h)],
)  # fmt: skip
def dpo(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta):
    r"""-log sigmoid(beta * h),   h = (chosen - rejected) - (ref_chosen - ref_rejected).

    theory  notebook 02                                  source  arXiv:2305.18290, eq. 7
    shapes  four times (B,) -> (B,)                      units   nats, SUMMED over reply tokens; beta in 1/nats
    limits  h = 0: log 2;   h -> -inf: -beta h;   h -> inf: 0
    errors  ValueError for beta <= 0 and for shapes that differ
    """
    _positive(beta=beta)
    _same_shape(
        ndim=1, chosen_logps=chosen_logps, rejected_logps=rejected_logps,
        ref_chosen_logps=ref_chosen_logps, ref_rejected_logps=ref_rejected_logps,
    )  # fmt: skip
    h = (chosen_logps - ref_chosen_logps) - (rejected_logps - ref_rejected_logps)  # (B,) gap of log-ratios, nats
    return F.softplus(-beta * h)  # -log sigmoid, safe for large |h|


@declare(
    takes="pair", logps="mean", needs={"reference"},
    limits=[(0.0, lambda h, n, beta: math.log(2)), (FAR, lambda h, n, beta: 0.0), (-FAR, lambda h, n, beta: -beta * h)],
)  # fmt: skip
def dpo_norm(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, beta):
    r"""Length-normalised DPO: ``dpo`` on token MEANS.

    theory  arXiv:2405.14734, section 2.2, argues for means   source  TRL's loss_type "sigmoid_norm"
    shapes  four times (B,) -> (B,)                           units   nats per token; beta in tokens/nat, so larger
    limits, errors  as ``dpo``
    """
    return dpo(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, beta=beta)


@declare(
    takes="pair", logps="mean", needs={"reference"},
    limits=[(0.0, lambda h, n, tau: 1 / (4 * tau**2)), (FAR, lambda h, n, tau: (h - 1 / (2 * tau)) ** 2)],
)  # fmt: skip
def ipo(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, *, tau):
    r"""(h - 1 / (2 tau))^2,   h = (chosen - rejected) - (ref_chosen - ref_rejected).

    theory  the gap is pulled to a finite value          source  arXiv:2310.12036, eq. 17
    shapes  four times (B,) -> (B,)                      units   nats per token: token MEANS, as the authors advise and
                                                                 as TRL does (its ``beta`` is tau here); loss in nats^2
    limits  h = 0: 1/(4 tau^2);   h = 1/(2 tau): 0, the minimum
    errors  ValueError for tau <= 0 and for shapes that differ
    """
    _positive(tau=tau)
    _same_shape(
        ndim=1, chosen_logps=chosen_logps, rejected_logps=rejected_logps,
        ref_chosen_logps=ref_chosen_logps, ref_rejected_logps=ref_rejected_logps,
    )  # fmt: skip
    h = (chosen_logps - ref_chosen_logps) - (rejected_logps - ref_rejected_logps)  # (B,) nats per token
    return (h - 1 / (2 * tau)) ** 2


@declare(
    takes="pair", logps="mean",
    limits=[
        (0.0, lambda h, n, beta, gamma: math.log1p(math.exp(gamma))),
        (FAR, lambda h, n, beta, gamma: 0.0),
        (-FAR, lambda h, n, beta, gamma: gamma - beta * h),
    ],
)  # fmt: skip
def simpo(chosen_logps, rejected_logps, *, beta, gamma):
    r"""-log sigmoid(beta * h - gamma),   h = chosen - rejected.

    theory  no reference; a target margin                source  arXiv:2405.14734, eq. 6
    shapes  twice (B,) -> (B,)                           units   nats per token: token MEANS; gamma has no unit
    names   gamma is the RAW margin, as TRL's ``simpo_gamma``; the authors' table lists gamma / beta
    limits  h = 0: log(1 + e^gamma);   h -> -inf: gamma - beta h;   h -> inf: 0
    errors  ValueError for beta <= 0, a gamma that is no finite number, and shapes that differ
    """
    _positive(beta=beta)
    if isinstance(gamma, bool) or not isinstance(gamma, (int, float)) or not math.isfinite(gamma):
        raise ValueError(f"gamma must be a finite number; got {gamma!r}")
    _same_shape(ndim=1, chosen_logps=chosen_logps, rejected_logps=rejected_logps)
    return F.softplus(gamma - beta * (chosen_logps - rejected_logps))  # (B,)


@declare(
    takes="candidates", logps="sum", needs={"reference"},
    limits=[
        (0.0, lambda h, n, beta: math.log(n)),
        (FAR, lambda h, n, beta: 0.0),
        (-FAR, lambda h, n, beta: -beta * h + _log_n_minus_one(n)),
    ],
)  # fmt: skip
def infonca(logps, ref_logps, *, beta):
    r"""-log softmax(beta * (logps - ref_logps)) at index 0, the chosen reply.

    theory  N = 2 is ``dpo``; InfoNCE over N replies     source  arXiv:2402.05369, with a one-hot target
    shapes  twice (B, N) -> (B,)                         units   nats, SUMMED over reply tokens; beta in 1/nats
    limits  all equal: log N;   chosen far ahead: 0;   chosen far behind by h: beta |h| + log(N - 1)
    errors  ValueError for beta <= 0, N < 2 and shapes that differ
    """
    _positive(beta=beta)
    _same_shape(ndim=2, logps=logps, ref_logps=ref_logps)
    _alternatives(logps)
    return -F.log_softmax(beta * (logps - ref_logps), dim=1)[:, 0]  # (B,)


@declare(
    takes="matrix", logps="mean", needs={"cross"},
    limits=[
        (0.0, lambda h, n: math.log(n)),
        (FAR, lambda h, n: 0.0),
        (-FAR, lambda h, n: -h + _log_n_minus_one(n)),
    ],
)  # fmt: skip
def sami(logps):
    r"""(row + column cross-entropy) / 2 of log pi(reply j | prompt i); the right entries are (i, i).

    theory  symmetric InfoNCE between prompts and replies   source  arXiv:2404.14313
    shapes  (B, N, N), index [b, prompt, reply] -> (B,)     units   nats per token: token MEANS, as the original; the
                                                                    code released with MIPO sums instead
    limits  all equal: log N;   diagonal far ahead: 0;   diagonal far behind by h: |h| + log(N - 1)
    errors  ValueError for a matrix that is not square and for N < 2
    """
    _same_shape(ndim=3, logps=logps)
    _alternatives(logps)
    if logps.shape[1] != logps.shape[2]:
        raise ValueError(f"logps must be square, (B, N prompts, N replies); got shape {tuple(logps.shape)}")
    rows = F.log_softmax(logps, dim=2).diagonal(dim1=1, dim2=2)  # (B, N) which reply fits prompt i
    columns = F.log_softmax(logps, dim=1).diagonal(dim1=1, dim2=2)  # (B, N) which prompt fits reply j
    return -(rows + columns).mean(dim=1) / 2


@declare(
    takes="contexts", logps="sum", needs={"cross"},
    limits=[
        (0.0, lambda h, n, temperature: math.log(n)),
        (FAR, lambda h, n, temperature: 0.0),
        (-FAR, lambda h, n, temperature: -h / temperature + _log_n_minus_one(n)),
    ],
)  # fmt: skip
def context_infonce(logps, *, temperature=1.0):
    r"""-log softmax(logps / temperature) at index 0: one reply under N contexts, its own first.

    theory  InfoNCE over contexts: no reference          source  the InfoNCE baseline of arXiv:2603.19294
    shapes  (B, N) -> (B,)                               units   nats, SUMMED over reply tokens; temperature in nats
    names   the code released with MIPO fixes temperature = 100 on summed log-probs; 1 is InfoNCE proper
    limits  all equal: log N;   own context far ahead: 0;   far behind by h: |h| / temperature + log(N - 1)
    errors  ValueError for temperature <= 0 and N < 2
    """
    _positive(temperature=temperature)
    _same_shape(ndim=2, logps=logps)
    _alternatives(logps)
    return -F.log_softmax(logps / temperature, dim=1)[:, 0]  # (B,)


@declare(takes="chosen", logps="sum", limits=[(0.0, lambda h, n: 0.0), (-FAR, lambda h, n: -h)])
def sft(chosen_logps):
    r"""-chosen_logps: the negative log-likelihood of the chosen reply.

    theory  cross-entropy of whole replies: its optimum is the law of the chosen replies, which a mean over tokens
            would tilt towards short ones
    shapes  (B,) -> (B,)                                 units   nats, SUMMED over reply tokens
    limits  certain reply: 0;   linear
    errors  ValueError for a shape other than (B,)
    """
    _same_shape(ndim=1, chosen_logps=chosen_logps)
    return -chosen_logps
