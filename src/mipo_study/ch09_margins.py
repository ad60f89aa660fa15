"""Chapter 9: RMiPO's margin on unseen pairs; published numbers beside ours."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike

from mipo.theory.margin import Margin
from mipo_study.methods import method

# AlpacaEval 2, length-controlled win rate in %: Mistral-Base, Mistral-Instruct,
# Llama3-Base, Llama3-Instruct. Source: README of princeton-nlp/SimPO at 005072f, v0.1.
# CPO is left out: there its rows repeat KTO's or IPO's.
SIMPO_TABLE = {
    "dpo": (15.1, 26.8, 18.2, 40.3),
    "ipo": (11.8, 20.3, 14.4, 35.6),
    "kto": (13.1, 24.5, 14.2, 33.1),
    "rdpo": (17.4, 27.3, 17.6, 41.1),
    "orpo": (14.7, 24.5, 12.2, 28.5),
    "simpo": (21.4, 32.1, 22.0, 44.7),
}
SYMBOLS = {"beta": "β", "tau": "τ", "gamma": "γ", "gamma0": "γ₀"}


def gamma(delta_pmi: ArrayLike, margin: Margin = Margin()) -> np.ndarray:
    """γ of each pair, by `mipo.losses.gamma_decay`.

    Parameters
    ----------
    delta_pmi : array_like, shape (n,)
        Nats per token.
    margin : Margin

    Returns
    -------
    ndarray, shape (n,)
        Nats per token.
    """
    return margin.gamma(np.asarray(delta_pmi, float)).numpy()


def nearest(value: float, known: Iterable[float]) -> float:
    """Distance of a number from the nearest of the known ones."""
    return float(min(abs(value - k) for k in known))


def knob(name: str, factor: float) -> str:
    """A method's knob at so many times its published value, in words; – without one."""
    tuned = method(name).knob
    return f"{SYMBOLS[tuned]} × {factor:g}" if tuned else "–"
