"""What the papers set: losses with their settings, pairs per step, and how the released scripts sample each data set."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Method:
    """A loss of `mipo.losses`, the kind of rejected replies it trains on, and whose settings it takes (see `fit`)."""

    loss: str
    negatives: str = ""  # "" for labelled pairs
    loss_kwargs: dict = field(default_factory=dict)
    recipe: str = "mipo"
    lr: float = 5e-7


# Settings: MIPO's release (β 0.1, learning rate 5e-7); RMiPO's and SimPO's tables (β 2.0; γ/β 0.25 is SimPO's default;
# DPO as SimPO's authors tuned it, β 0.01 and 5e-7).
PEOPLE = {
    "mipo-random": Method("dpo", "random_context", {"beta": 0.1}),
    "mipo-missing": Method("dpo", "missing_context", {"beta": 0.1}),
    "sft": Method("sft", "random_context"),
}  # on the pairs of the first: none are sampled for it
REASONING = {
    "mipo": Method("dpo", "random_prompt", {"beta": 0.1}),
    "sft": Method("sft", "random_prompt"),
}
PREFERENCES = {
    "rmipo": Method("rmipo", "", {"beta": 2.0}, "rmipo", 1e-6),
    "dpo": Method("dpo", "", {"beta": 0.01}, "rmipo"),
    "simpo": Method("simpo", "", {"beta": 2.0, "gamma": 0.5}, "rmipo", 1e-6),
}
METHODS = {"people": PEOPLE, "reasoning": REASONING, "preferences": PREFERENCES}


def arms(kind, methods=()):
    """Names of the methods to train on a kind of data: the first without `methods`, every one for ["all"].

    What is meant for another kind is passed over.   errors   ValueError for a name that no kind has, or where none is left
    """
    known = METHODS[kind]
    if not methods or list(methods) == ["all"]:
        return list(known) if methods else list(known)[:1]
    strange = [m for m in methods if not any(m in table for table in METHODS.values())]
    chosen = [m for m in known if m in methods]
    if strange or not chosen:
        raise ValueError(
            f'methods {strange or list(methods)}: {kind} data take {", ".join(known)}; or ["all"]'
        )
    return chosen


def batch_of(kind, batch_size=0):
    """Pairs per step: as published without batch_size, 4 for MIPO and 128 for RMiPO and its rivals."""
    return batch_size or (128 if kind == "preferences" else 4)


# How the released scripts sample: temperature, top-p, longest reply. MMLU has no script: as ARC, its nearest kin.
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


def sampling_of(dataset, *, temperature=-1.0, max_new_tokens=0):
    """Keywords of `serving.generate`: as released for the data set unless temperature (>= 0), max_new_tokens are given."""
    released = SAMPLING.get(dataset, (1.0, 1.0, 256))
    return {
        "temperature": released[0] if temperature < 0 else temperature,
        "top_p": released[1],
        "max_new_tokens": max_new_tokens or released[2],
    }
