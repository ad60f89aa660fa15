r"""Preference losses: one formula, one pure function, one name everywhere.

Every loss takes log-probabilities in nats, one number per reply, and returns one loss per pair, shape ``(B,)``, without
reduction. Hyperparameters are keyword-only. Shapes must agree exactly: nothing is broadcast. Names follow the field:
``chosen_logps`` is log pi(y_w | x), ``ref_*`` the same under the reference. Each function declares by ``@declare``

- ``takes``: "pair", "chosen", "candidates" (B, N), "contexts" (B, N) or "matrix" (B, N, N),
- ``logps``: "sum" or "mean" over the reply's tokens, the end-of-sequence token included,
- ``needs``: what the trainer must supply beyond that: "reference" (ref_*), "cross" (replies under each other's prompts),
  "marginal" (delta_pmi), "lengths" (chosen_tokens, rejected_tokens), "mismatched" (kl), "moments" (gap_mean, gap_std),
- ``bounds``: smallest and largest value over all log-probs <= 0,
- ``limits``: pairs (h, value) in terms of the gap h by which what is right beats everything else; ``value`` is a
  function of h, n (the number of alternatives) and the loss's own keywords,
- ``frozen``: it makes a margin from its own log-probs that gradients do not see.

To add a loss, write the function and decorate it: the trainer, the property test and ``get`` find it by its name.

===============  =====================================================================================
``reference``    against a reference model: dpo, dpo_norm, ipo, kto, rdpo, alphadpo
``margin``       log-prob gap against a margin: simpo, rmipo, gammapo, amapo; gamma_decay and its plug-ins
``likelihood``   likelihoods without a reference: sft, cpo, orpo, simper, alphapo
``contrast``     more than two alternatives: infonca, sami, context_infonce
===============  =====================================================================================
"""

from mipo.losses.contrast import context_infonce, infonca, sami
from mipo.losses.declare import FAR, LOSSES, check, declare, default, get, inputs_of
from mipo.losses.likelihood import alphapo, cpo, orpo, sft, simper
from mipo.losses.margin import (
    amapo,
    amapo_margin,
    dpo_decay,
    gamma_decay,
    gammapo,
    gammapo_margin,
    ipo_decay,
    kto_decay,
    rmipo,
    simpo,
)
from mipo.losses.reference import alphadpo, dpo, dpo_norm, ipo, kto, rdpo

__all__ = [
    "FAR",
    "LOSSES",
    "alphadpo",
    "alphapo",
    "amapo",
    "amapo_margin",
    "check",
    "context_infonce",
    "cpo",
    "declare",
    "default",
    "dpo",
    "dpo_decay",
    "dpo_norm",
    "gamma_decay",
    "gammapo",
    "gammapo_margin",
    "get",
    "infonca",
    "inputs_of",
    "ipo",
    "ipo_decay",
    "kto",
    "kto_decay",
    "orpo",
    "rdpo",
    "rmipo",
    "sami",
    "sft",
    "simper",
    "simpo",
]
