"""Losses over more than two alternatives: N replies to a prompt, one reply under N contexts, or both ways."""

import math

import torch.nn.functional as F

from mipo.losses.declare import FAR, alternatives, declare, positive, same_shape


@declare(
    takes="candidates",
    logps="sum",
    needs={"reference"},
    limits=[
        (0.0, lambda h, n, beta: math.log(n)),
        (FAR, lambda h, n, beta: 0.0),
        (-FAR, lambda h, n, beta: -beta * h + math.log(n - 1)),
    ],
)
def infonca(logps, ref_logps, *, beta):
    r"""-log softmax(beta * (logps - ref_logps)) at index 0, the chosen reply.

    theory  N = 2 is ``dpo``; InfoNCE over N replies     source  arXiv:2402.05369, with a one-hot target
    shapes  twice (B, N) -> (B,)                         units   nats, SUMMED over reply tokens; beta in 1/nats
    limits  all equal: log N;   chosen far ahead: 0;   chosen far behind by h: beta |h| + log(N - 1)
    errors  ValueError for beta <= 0, N < 2 and shapes that differ
    """
    positive(beta=beta)
    same_shape(ndim=2, logps=logps, ref_logps=ref_logps)
    alternatives(logps)
    return -F.log_softmax(beta * (logps - ref_logps), dim=1)[:, 0]  # (B,)


@declare(
    takes="matrix",
    logps="mean",
    needs={"cross"},
    limits=[
        (0.0, lambda h, n: math.log(n)),
        (FAR, lambda h, n: 0.0),
        (-FAR, lambda h, n: -h + math.log(n - 1)),
    ],
)
def sami(logps):
    r"""(row + column cross-entropy) / 2 of log pi(reply j | prompt i); the right entries are (i, i).

    theory  symmetric InfoNCE between prompts and replies   source  arXiv:2404.14313
    shapes  (B, N, N), index [b, prompt, reply] -> (B,)     units   nats per token: token MEANS, as the original; the
                                                                    code released with MIPO sums instead
    limits  all equal: log N;   diagonal far ahead: 0;   diagonal far behind by h: |h| + log(N - 1)
    errors  ValueError for a matrix that is not square and for N < 2
    """
    same_shape(ndim=3, logps=logps)
    alternatives(logps)
    if logps.shape[1] != logps.shape[2]:
        raise ValueError(
            f"logps must be square, (B, N prompts, N replies); got shape {tuple(logps.shape)}"
        )
    rows = F.log_softmax(logps, dim=2).diagonal(
        dim1=1, dim2=2
    )  # (B, N) which reply fits prompt i
    columns = F.log_softmax(logps, dim=1).diagonal(
        dim1=1, dim2=2
    )  # (B, N) which prompt fits reply j
    return -(rows + columns).mean(dim=1) / 2


@declare(
    takes="contexts",
    logps="sum",
    needs={"cross"},
    limits=[
        (0.0, lambda h, n, temperature: math.log(n)),
        (FAR, lambda h, n, temperature: 0.0),
        (-FAR, lambda h, n, temperature: -h / temperature + math.log(n - 1)),
    ],
)
def context_infonce(logps, *, temperature=1.0):
    r"""-log softmax(logps / temperature) at index 0: one reply under N contexts, its own first.

    theory  InfoNCE over contexts: no reference          source  the InfoNCE baseline of arXiv:2603.19294
    shapes  (B, N) -> (B,)                               units   nats, SUMMED over reply tokens; temperature in nats
    names   the code released with MIPO fixes temperature = 100 on summed log-probs; 1 is InfoNCE proper
    limits  all equal: log N;   own context far ahead: 0;   far behind by h: |h| / temperature + log(N - 1)
    errors  ValueError for temperature <= 0 and N < 2
    """
    positive(temperature=temperature)
    same_shape(ndim=2, logps=logps)
    alternatives(logps)
    return -F.log_softmax(logps / temperature, dim=1)[:, 0]  # (B,)
