"""What the released scripts do on each kind of data: methods, batches, sampling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mipo_study import methods


@dataclass(frozen=True)
class Protocol:
    """How one kind of data is trained on.

    Attributes
    ----------
    name : str
        A key of `methods.PROTOCOLS`, which holds the settings.
    methods : tuple of str
        Names in `methods.METHODS`; the first is trained where nothing is said.
    batch_size : int
        Pairs per step.
    negatives : str
        What the rejected replies of every method answer; "" follows the method.
    """

    name: str
    methods: tuple[str, ...]
    batch_size: int
    negatives: str = ""


# SFT trains on the chosen replies of MIPO's first kind of pairs: it samples none.
PROTOCOLS = {
    "people": Protocol("mipo-release", ("mipo-random", "mipo-missing", "sft"), 4),
    "reasoning": Protocol("mipo-release", ("mipo", "sft"), 4, "random_prompt"),
    "preferences": Protocol("simpo-release", ("rmipo", "dpo", "simpo"), 128),
}


def methods_for(kind: str, wanted: Sequence[str] = ()) -> list[str]:
    """Names of the methods to train on a kind of data.

    Parameters
    ----------
    kind : str
        people, reasoning or preferences.
    wanted : sequence of str
        Empty: the first method. ["all"]: every one. Names that are meant for another
        kind are passed over.

    Returns
    -------
    list of str
        In the protocol's order.

    Raises
    ------
    ValueError
        For a name that no kind has, or where none is left.
    """
    known = PROTOCOLS[kind].methods
    if not wanted:
        return list(known[:1])
    if list(wanted) == ["all"]:
        return list(known)
    everywhere = {name for other in PROTOCOLS.values() for name in other.methods}
    strange = [name for name in wanted if name not in everywhere]
    chosen = [name for name in known if name in wanted]
    if strange or not chosen:
        raise ValueError(
            f"methods {strange or list(wanted)}: {kind} data take {', '.join(known)}; "
            'or ["all"]'
        )
    return chosen


def setting_of(kind: str, method: str) -> methods.Setting:
    """What the kind's protocol sets for a method: loss keywords, rate, recipe."""
    return methods.settings_of(method, PROTOCOLS[kind].name)


def negatives_for(kind: str, method: str) -> str:
    """What a method's rejected replies answer; "labelled" where they are given."""
    return PROTOCOLS[kind].negatives or methods.method(method).pairs


def batch_of(kind: str, batch_size: int = 0) -> int:
    """Pairs per step: as published without batch_size."""
    return batch_size or PROTOCOLS[kind].batch_size


# Temperature, top-p and longest reply of the released scripts. MMLU has none: it goes
# with ARC, its nearest kin.
SAMPLING = {
    "prism": (0.1, 0.9, 512),
    "community-alignment": (0.1, 0.9, 512),
    "multifaceted-bench": (0.1, 0.9, 1024),
    "gsm8k": (0.1, 0.9, 1024),
    "svamp": (0.1, 0.9, 1024),
    "arc-challenge": (1.0, 0.9, 1024),
    "mmlu": (1.0, 0.9, 1024),
    "ultrafeedback": (0.7, 0.9, 1024),
}
OWN_SAMPLING = (1.0, 1.0, 256)


def sampling_of(
    dataset: str, *, temperature: float = -1.0, max_new_tokens: int = 0
) -> dict[str, Any]:
    """Keywords of `serving.generate`, as released for the data set.

    Parameters
    ----------
    dataset : str
        A key of `SAMPLING`; any other name is a reader's own.
    temperature : float
        Instead of the released one, where it is not negative.
    max_new_tokens : int
        Instead of the released longest reply, where it is not 0.

    Returns
    -------
    dict
        temperature, top_p, max_new_tokens.
    """
    released, top_p, longest = SAMPLING.get(dataset, OWN_SAMPLING)
    return {
        "temperature": released if temperature < 0 else temperature,
        "top_p": top_p,
        "max_new_tokens": max_new_tokens or longest,
    }
