r"""Preference losses: one formula, one pure function, one name everywhere.

Every loss takes log-probabilities in nats, one number per reply, and returns one loss
per pair, shape ``(B,)``, without reduction. Hyperparameters are keyword-only. Shapes
must agree exactly: nothing is broadcast. Names follow the field: ``chosen_logps`` is
log pi(y_w | x), ``ref_*`` the same under the reference.

To add a loss, write the function in the file of its kin and decorate it with
``@declare``: the trainer, the tests of declared properties, ``get`` and this package
find it by its name. `mipo.losses.declaration.declare` explains what is declared.

================  ======================================================================
``reference``     against a reference model: dpo, dpo_norm, ipo, kto, rdpo, alphadpo
``margin``        log-prob gap against a margin: simpo, rmipo, gammapo, amapo;
                  gamma_decay and its plug-ins dpo_decay, ipo_decay, kto_decay
``likelihood``    likelihoods without a reference: sft, cpo, orpo, simper, alphapo
``contrast``      more than two alternatives: infonca, sami, context_infonce
``declaration``   what a loss declares, and the checks of settings and shapes
================  ======================================================================
"""

from typing import TYPE_CHECKING

from mipo.losses import contrast, likelihood, margin, reference
from mipo.losses.declaration import LOSSES, get
from mipo.losses.margin import amapo_margin, gamma_decay, gammapo_margin

if TYPE_CHECKING:  # for editors and type checkers, which run nothing
    from mipo.losses.contrast import *  # noqa: F403
    from mipo.losses.likelihood import *  # noqa: F403
    from mipo.losses.margin import *  # noqa: F403
    from mipo.losses.reference import *  # noqa: F403

globals().update(LOSSES)  # every declared loss is exported under its name

__all__ = [  # noqa: PLE0604, PLE0605
    "LOSSES",
    "amapo_margin",
    "gamma_decay",
    "gammapo_margin",
    "get",
    *LOSSES,
]
FAMILIES = (contrast, likelihood, margin, reference)
