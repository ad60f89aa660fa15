"""The one table of methods: their pairs, their settings by protocol, their looks.

A method is a loss of `mipo.losses` with the pairs that it reads. Its settings depend on
whose protocol is followed, so they stand in `PROTOCOLS`, each with its source:

    setting("simpo")                              as its authors recommend to start
    setting("simpo", protocol="simpo-release")    as their released configuration has it
    setting("mipo-random", beta=1.0)              a protocol's setting with another β
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mipo.parameters import suggestion

# Okabe & Ito (2008), "Color Universal Design", with two readable stand-ins at the end:
# its yellow vanishes on white.
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILLION, PURPLE = "#0072B2", "#D55E00", "#CC79A7"
OLIVE, INDIGO, GREY, LIGHT, WINE = "#9A8B00", "#332288", "#777777", "#BDBDBD", "#882255"


@dataclass(frozen=True)
class Method:
    """One way to train a policy, or to decode without training.

    Attributes
    ----------
    label : str
        What readers see.
    loss : str
        A loss of `mipo.losses`, or "mi_reward" or "verifier", which reinforce replies
        that they sample themselves; "" where nothing is trained.
    pairs : str
        What it learns from: the kind of rejected replies that `mipo.pairs` makes, or
        "labelled" for preferences between two replies to the same prompt.
    knob : str
        The keyword of the loss that its users are told to tune; "" where there is none.
    options : dict
        Settings of the trainer beside the loss: marginal, first_token, margin_warmup.
    colour, marker : str
        How figures draw it; "" takes the next colour of the palette.
    """

    label: str
    loss: str = ""
    pairs: str = ""
    knob: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    colour: str = ""
    marker: str = "o"


def _rmipo(label: str, **options: Any) -> Method:
    return Method(label, "rmipo", "labelled", "beta", options)


METHODS: dict[str, Method] = {
    # Nothing is trained.
    "base": Method("base", colour=GREY),
    "cad": Method("CAD", colour=VERMILLION, marker="X"),
    "optimum": Method("exact optimum", colour=BLACK, marker="*"),
    "placebo": Method("placebo", colour=LIGHT, marker="."),
    "cold": Method("base, lower temperature", colour=PURPLE),
    "greedy": Method("base, greedy", colour=OLIVE),
    "best-of": Method("best of n by PMI", colour=GREEN, marker=">"),
    "best-of-lora": Method("best of n of MIPO, LoRA", colour=INDIGO, marker=">"),
    "published": Method("MIPO as published", colour=BLUE, marker="1"),
    "mipo-bf16": Method("MIPO, LoRA, bfloat16", colour=INDIGO, marker="+"),
    "cad-strong": Method("CAD, stronger", colour=VERMILLION, marker="x"),
    "vote": Method("base, majority vote", colour=WINE),
    "cad-alone": Method("CAD, no prompt", colour=VERMILLION),
    "cad-partial": Method("CAD, partial prompt", colour=INDIGO),
    # The model's own pairs.
    "sft": Method("SFT", "sft", "random_context", colour=ORANGE, marker="s"),
    "mipo-random": Method(
        "MIPO, random", "dpo", "random_context", "beta", colour=BLUE, marker="D"
    ),
    "mipo-missing": Method(
        "MIPO, missing", "dpo", "missing_context", "beta", colour=SKY, marker="d"
    ),
    "mipo-lora": Method(
        "MIPO, LoRA", "dpo", "random_context", "beta", colour=INDIGO, marker="P"
    ),
    "mipo": Method("MIPO, other question", "dpo", "random_prompt", "beta", colour=BLUE),
    "mipo-partial": Method(
        "MIPO, partial prompt", "dpo", "partial", "beta", colour=SKY
    ),
    "infonca": Method(
        "InfoNCA", "infonca", "random_context", "beta", colour=GREEN, marker="^"
    ),
    "context-infonce": Method(
        "InfoNCE", "context_infonce", "random_context", colour=WINE, marker="v"
    ),
    "sami": Method("SAMI", "sami", "random_context", colour=PURPLE, marker="<"),
    "mi-reward": Method(
        "MI reward", "mi_reward", "random_context", "beta", colour=OLIVE, marker=">"
    ),
    "verifier": Method("verifier reward", "verifier", colour=GREEN),
    # Preferences between two replies to one prompt.
    "dpo": Method("DPO", "dpo", "labelled", "beta", colour=BLUE),
    "ipo": Method("IPO", "ipo", "labelled", "tau"),
    "kto": Method("KTO", "kto", "labelled", "beta"),
    "rdpo": Method("R-DPO", "rdpo", "labelled", "beta"),
    "cpo": Method("CPO", "cpo", "labelled", "beta"),
    "orpo": Method("ORPO", "orpo", "labelled", "beta"),
    "simpo": Method("SimPO", "simpo", "labelled", "gamma", colour=GREEN),
    "simper": Method("SimPER", "simper", "labelled"),
    "alphapo": Method("AlphaPO", "alphapo", "labelled", "beta"),
    "alphadpo": Method("αDPO", "alphadpo", "labelled", "gamma0"),
    "gammapo": Method("γ-PO", "gammapo", "labelled", "gamma0"),
    "amapo": Method("AMaPO", "amapo", "labelled", "beta"),
    "rmipo": Method("RMiPO", "rmipo", "labelled", "beta", colour=VERMILLION),
    "rmipo-paper": Method(
        "RMiPO, paper's γ", "rmipo", "labelled", "beta", colour=ORANGE
    ),
    # RMiPO with its mutual information taken out or changed.
    "none": _rmipo("Δ instead of Δpmi", marginal="none"),
    "shuffled": _rmipo("another pair's marginal", marginal="shuffled"),
    "constant": Method("constant γ, same mean", "simpo", "labelled"),
    "frozen": _rmipo("base model's marginal", marginal="frozen"),
    "drop": _rmipo("first token left out", first_token="drop"),
    "released": _rmipo("first token as released", first_token="released"),
    "warm": _rmipo("RMiPO, warm-up", margin_warmup=0.2),
    # RMiPO's margin in other losses.
    "dpo-decay": Method("DPO + γ", "dpo_decay", "labelled", "beta"),
    "ipo-decay": Method("IPO + γ", "ipo_decay", "labelled", "tau"),
    "kto-decay": Method("KTO + γ", "kto_decay", "labelled", "beta"),
}

# What chapter 9 holds against RMiPO, and chapter 10 takes out of it or puts elsewhere.
KIN = ("dpo", "ipo", "kto", "rdpo", "cpo", "orpo", "simpo", "simper", "alphapo")
KIN += ("alphadpo", "gammapo", "amapo", "rmipo", "rmipo-paper")
CONTROLS = ("none", "shuffled", "constant", "frozen", "drop", "released")
PLUGGED = ("dpo", "ipo", "kto")


@dataclass(frozen=True)
class Setting:
    """What a protocol sets for one method.

    Attributes
    ----------
    kwargs : dict
        Keywords of its loss.
    lr : float or None
        Learning rate; None where the protocol names none.
    recipe : str
        Of the optimiser: a key of `mipo.recipes.RECIPES`.
    """

    kwargs: Mapping[str, Any] = field(default_factory=dict)
    lr: float | None = None
    recipe: str = "mipo"


_RMIPO = {"beta": 2.0}
PROTOCOLS: dict[str, dict[str, Setting]] = {
    # Each paper's own values; what is not named keeps the loss's default, whose source
    # stands beside it in mipo.losses. SimPO: β 2.0 and γ/β 0.5, where its README
    # recommends to start; γ is raw, γ/β · β = 1.0. Chapters 6 and 8 have a parameter
    # `beta` of their own, which they give to `setting`.
    "published": {
        "sft": Setting(),
        "mipo-random": Setting({"beta": 0.1}),
        "mipo-missing": Setting({"beta": 0.1}),
        "mipo-lora": Setting({"beta": 0.1}),
        "mipo": Setting({"beta": 0.1}),
        "mipo-partial": Setting({"beta": 0.1}),
        "infonca": Setting({"beta": 0.1}),
        "context-infonce": Setting(),
        "sami": Setting(),
        "mi-reward": Setting({"beta": 0.1}),
        "dpo": Setting({"beta": 0.1}),
        "ipo": Setting({"tau": 0.1}),
        "kto": Setting({"beta": 0.1}),
        "rdpo": Setting({"beta": 0.1}),
        "cpo": Setting({"beta": 0.1}),
        "orpo": Setting({"beta": 0.1}),
        "simpo": Setting({"beta": 2.0, "gamma": 1.0}),
        "simper": Setting(),
        "alphapo": Setting({"beta": 2.5}),
        "alphadpo": Setting({"gamma0": 0.6}),
        "gammapo": Setting({"gamma0": 4.0}),
        "amapo": Setting({"beta": 2.0}),
        "rmipo": Setting(_RMIPO),
        "rmipo-paper": Setting(_RMIPO | {"convention": "paper"}),
        **{name: Setting(_RMIPO) for name in CONTROLS if name != "constant"},
        "warm": Setting(_RMIPO),
        "dpo-decay": Setting({"beta": 0.1}),
        "ipo-decay": Setting({"tau": 0.1}),
        "kto-decay": Setting({"beta": 0.1}),
    },
    # Learning rates at 1 M parameters, chosen on people set apart in chapters 6 and 9;
    # β of MIPO is 1, where the exact optimum is not extreme.
    "small-world": {
        "mipo-random": Setting({"beta": 1.0}, lr=1.5e-4),
        "dpo": Setting({"beta": 0.1}, lr=4.5e-4),
        "rmipo": Setting(_RMIPO, lr=4.5e-4),
    },
    # MIPO's released scripts: β 0.1, learning rate 5e-7.
    "mipo-release": {
        "mipo-random": Setting({"beta": 0.1}, lr=5e-7),
        "mipo-missing": Setting({"beta": 0.1}, lr=5e-7),
        "mipo": Setting({"beta": 0.1}, lr=5e-7),
        "sft": Setting(lr=5e-7),
    },
    # RMiPO's table, and SimPO's, which it takes its rivals from: SimPO's configuration
    # has γ/β 0.25, raw γ 0.5; DPO as SimPO's authors tuned it.
    "simpo-release": {
        "rmipo": Setting(_RMIPO, lr=1e-6, recipe="rmipo"),
        "dpo": Setting({"beta": 0.01}, lr=5e-7, recipe="rmipo"),
        "simpo": Setting({"beta": 2.0, "gamma": 0.5}, lr=1e-6, recipe="rmipo"),
    },
}


def method(name: str) -> Method:
    """The method of that name.

    Raises
    ------
    ValueError
        For a name that the table does not have.
    """
    require([name])
    return METHODS[name]


def require(
    names: Iterable[str | float],
    choices: Iterable[str | float] = METHODS,
    parameter: str = "method",
) -> None:
    """Refuse what is none of the choices.

    Parameters
    ----------
    names : iterable of str or float
        What a reader wants.
    choices : iterable of str or float
        What there is; every method by default.
    parameter : str
        Where the names come from, for the message.

    Raises
    ------
    ValueError
        For the first that is no choice.
    """
    choices = list(choices)
    for name in names:
        if name not in choices:
            hint = suggestion(str(name), map(str, choices))
            raise ValueError(f"{parameter}: there is no {name!r}{hint}")


def settings_of(name: str, protocol: str = "published") -> Setting:
    """A method's settings in a protocol.

    Raises
    ------
    ValueError
        For an unknown protocol, and for a method that the protocol does not set.
    """
    require([protocol], PROTOCOLS, "protocol")
    require([name], PROTOCOLS[protocol], f"method in protocol {protocol!r}")
    return PROTOCOLS[protocol][name]


def setting(
    name: str,
    *,
    protocol: str = "published",
    beta: float | None = None,
    factor: float = 1.0,
) -> dict[str, Any]:
    """One method's keywords of `experiment.train`: loss, loss_kwargs, trainer options.

    Parameters
    ----------
    name : str
        A method that is trained.
    protocol : str
        Whose settings: a key of `PROTOCOLS`.
    beta : float, optional
        1/nats; instead of the protocol's β. Methods without a β keep what they have.
    factor : float
        The method's knob at so many times its value, to three significant digits.

    Returns
    -------
    dict

    Raises
    ------
    ValueError
        For an unknown method or protocol, and for a method that the protocol does not
        set.
    """
    entry = method(name)
    kwargs = dict(settings_of(name, protocol).kwargs)
    if beta is not None and "beta" in kwargs:
        kwargs["beta"] = beta
    if entry.knob and factor != 1.0:
        value = factor * kwargs[entry.knob]
        kwargs[entry.knob] = float(f"{value:.3g}")
    return {"loss": entry.loss, "loss_kwargs": kwargs, **entry.options}


def factors(name: str, grid: Iterable[float]) -> list[float]:
    """The factors worth trying: the grid for a method with a knob, else only 1."""
    return list(grid) if method(name).knob else [1.0]


def constant_margin(gamma: float, *, beta: float = 2.0) -> dict[str, Any]:
    """SimPO with RMiPO's mean margin.

    Parameters
    ----------
    gamma : float
        RMiPO's mean γ, nats per token.
    beta : float
        Of both.

    Returns
    -------
    dict
        Setting as of `setting`; SimPO's raw γ is β·γ, to four digits.
    """
    return {
        "loss": "simpo",
        "loss_kwargs": {"beta": beta, "gamma": round(beta * gamma, 4)},
    }


def flat_margin(name: str, gamma: float) -> dict[str, Any]:
    """RMiPO's margin in another loss, but the same for every pair.

    Parameters
    ----------
    name : str
        One of `PLUGGED`.
    gamma : float
        The margin, nats per token.

    Returns
    -------
    dict
        Setting as of `setting`, in which γ no longer decays.
    """
    plugged = setting(f"{name}-decay")
    level = round(gamma, 4)
    margin = {"gamma_min": level, "gamma_max": level}
    return plugged | {"loss_kwargs": plugged["loss_kwargs"] | margin}


def label(name: str) -> str:
    """The name that readers see; what is no method keeps its own."""
    return METHODS[name].label if name in METHODS else name
