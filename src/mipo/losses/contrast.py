"""Losses over more than two alternatives.

N replies to a prompt, one reply under N contexts, or both ways.
"""

from math import log

import torch.nn.functional as F
from torch import Tensor

from mipo.losses.declaration import FAR, declare, positive


@declare(
    takes="candidates",
    logps="sum",
    needs={"reference"},
    example={"beta": 0.5},
    limits={0: log(3), FAR: 0, -FAR: 0.5 * FAR + log(2)},
)
def infonca(logps: Tensor, ref_logps: Tensor, *, beta: float) -> Tensor:
    """InfoNCA: InfoNCE over N replies to one prompt, against a reference.

    The loss is ``-log softmax(beta * (logps - ref_logps))`` at the chosen reply.

    Parameters
    ----------
    logps, ref_logps : Tensor, shape (B, N)
        Log-probs of N replies under policy and reference, the chosen one first; nats,
        SUMMED over reply tokens.
    beta : float
        Strength of the pull towards the reference, 1/nats; above 0.

    Returns
    -------
    Tensor, shape (B,)
        Loss of each prompt, nats; no mean is taken.

    Raises
    ------
    ValueError
        For beta <= 0, N < 2 and shapes that differ.

    Notes
    -----
    N = 2 is `dpo`. All equal: log N. Chosen far ahead: 0. Chosen far behind by h:
    ``beta |h| + log(N - 1)``. Source: arXiv:2402.05369, with a one-hot target.
    """
    positive(beta=beta)
    return -F.log_softmax(beta * (logps - ref_logps), dim=1)[:, 0]  # (B,)


@declare(
    takes="matrix",
    logps="mean",
    needs={"cross"},
    limits={0: log(3), FAR: 0, -FAR: FAR + log(2)},
)
def sami(logps: Tensor) -> Tensor:
    """SAMI: symmetric InfoNCE between N prompts and their replies.

    The loss is the mean of two cross-entropies: which reply belongs to a prompt, and
    which prompt to a reply. Reply i belongs to prompt i.

    Parameters
    ----------
    logps : Tensor, shape (B, N, N)
        Log-probs, index [b, prompt, reply]; nats per token, token MEANS as in the
        original (the code released with MIPO sums instead).

    Returns
    -------
    Tensor, shape (B,)
        Loss of each matrix, nats per token; no mean is taken.

    Raises
    ------
    ValueError
        For a matrix that is not square and for N < 2.

    Notes
    -----
    All equal: log N. Diagonal far ahead: 0. Diagonal far behind by h:
    ``|h| + log(N - 1)``. Source: arXiv:2404.14313.
    """
    if logps.shape[1] != logps.shape[2]:
        raise ValueError(
            "logps must be square, (B, N prompts, N replies); "
            f"got shape {tuple(logps.shape)}"
        )
    which_reply = F.log_softmax(logps, dim=2).diagonal(dim1=1, dim2=2)  # (B, N)
    which_prompt = F.log_softmax(logps, dim=1).diagonal(dim1=1, dim2=2)  # (B, N)
    return -(which_reply + which_prompt).mean(dim=1) / 2


@declare(
    takes="contexts",
    logps="sum",
    needs={"cross"},
    example={"temperature": 2.0},
    limits={0: log(3), FAR: 0, -FAR: FAR / 2 + log(2)},
)
def context_infonce(logps: Tensor, *, temperature: float = 1.0) -> Tensor:
    """InfoNCE over the contexts of one reply: the InfoNCE baseline of MIPO.

    The loss is ``-log softmax(logps / temperature)`` at the reply's own context.

    Parameters
    ----------
    logps : Tensor, shape (B, N)
        Log-probs of one reply under N contexts, its own first; nats, SUMMED over
        reply tokens.
    temperature : float
        In nats; above 0. 1 is InfoNCE proper; the code released with MIPO fixes 100.

    Returns
    -------
    Tensor, shape (B,)
        Loss of each reply, nats; no mean is taken.

    Raises
    ------
    ValueError
        For temperature <= 0 and N < 2.

    Notes
    -----
    All equal: log N. Own context far ahead: 0. Far behind by h:
    ``|h| / temperature + log(N - 1)``. Source: arXiv:2603.19294.
    """
    positive(temperature=temperature)
    return -F.log_softmax(logps / temperature, dim=1)[:, 0]  # (B,)
