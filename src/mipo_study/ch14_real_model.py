"""Chapter 14: which policies are compared on a real language model, and what they do.

The runs are made in `mipo_study.ch14_wishes`; here are their settings, the choice among
them, and the trials; `mipo_study.ch14_found` says what they found.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from mipo import packaged
from mipo.worlds.wish_data import ENTERED, UNSEEN, WISHES
from mipo_study import ch14_search, ch14_wishes, experiment, methods
from mipo_study.ch14_along import along
from mipo_study.ch14_found import (
    BEST_OF,
    CONDITIONS,
    adherence,
    limits_of,
    rows_of,
)
from mipo_study.ch14_wishes import trial

if TYPE_CHECKING:
    from mipo.cache import Run
    from mipo.record import Notebook

FULL = "mipo-random"  # the arm that trains all weights
LIGHT = "mipo-lora"  # the arm that the controls copy
LORA_RANK = 16  # of all arms but `FULL`
LORA_RATES = (2e-4, 4e-4, 8e-4)
FULL_RATES = (2e-5, 4e-5, 8e-5)
SEARCH_PAIRS = 128
LONG = 4.0  # epochs of a training that is watched
EVERY = 8  # steps from one asking to the next
LEAST, MOST, BARE = 0.05, 0.8, 0.5  # the rule by which wishes enter, see `entering`


def _strengths(name: str, *values: float) -> list[dict[str, Any]]:
    """Values of a loss's keyword, then the first two with two passes over the pairs.

    For `ch14_search.FURTHER`: the third lies below the first, the fourth above the
    second.
    """
    once = [{name: value} for value in values]
    return once + [{**strength, "epochs": 2.0} for strength in once[:2]]


BETAS = _strengths("beta", 0.03, 0.1, 0.01, 0.3)
PASSES: list[dict[str, Any]] = [{"epochs": n} for n in (1.0, 2.0, 0.5, 4.0)]
STRENGTHS: dict[str, list[dict[str, Any]]] = {
    "sft": PASSES,
    "mipo-random": BETAS,
    "mipo-lora": BETAS,
    "mipo-missing": BETAS,
    "context-infonce": _strengths("temperature", 10.0, 100.0, 1.0, 1000.0),
    "sami": PASSES,
    "rmipo": _strengths("beta", 2.0, 10.0, 0.4, 50.0),
}
ARMS = tuple(STRENGTHS)
HEADLINE = ("base", "sft", FULL, LIGHT)  # on every seed
FEW = 3  # seeds of the others
CONTROLS = ("placebo", "published", "mipo-bf16")
PUBLISHED = (5e-7, {"beta": 0.1})  # MIPO's own rate and strength; all weights
NEGATIVES = {"mipo-missing": "missing_context"}  # the others: random_context
DECODED = {
    "cold": {"temperature": 0.5},
    "greedy": {"temperature": 0.0},
    "cad": {"alpha": 0.5},
    "cad-strong": {"alpha": 1.0},
}


# ---- which wishes enter ----


def entering(asked: Run, bare: Run) -> pd.DataFrame:
    """Each wish, how often it is followed when asked and when not, and if it enters.

    Parameters
    ----------
    asked, bare : Run
        Of `ch14_wishes.try_wishes`.

    Returns
    -------
    pandas.DataFrame
        Index: wish. kind; asked, bare (shares of replies), n (replies when asked),
        enters: followed by 5 to 80 % when asked, at most half as often when not, by a
        check that sees most of the replies that follow it.
    """
    rows = {}
    for name, wish in WISHES.items():
        passed, of = asked.metrics[name]
        unasked, among = bare.metrics[name]
        share, chance = passed / max(1, of), unasked / max(1, among)
        rows[name] = {
            "kind": wish.kind,
            "asked": share,
            "bare": chance,
            "n": of,
            "enters": LEAST <= share <= MOST
            and chance <= BARE * share
            and name not in UNSEEN,
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def try_wishes(
    base: str, *, n_people: int, run_dir: str | Path, workers: int, progress: bool
) -> pd.DataFrame:
    """`entering` for a model, asked by n people, and unasked by half as many."""
    runs = experiment.run_many(
        ch14_wishes.try_wishes,
        {
            True: {"asked": True, "n_people": n_people},
            False: {"asked": False, "n_people": n_people // 2},
        },
        index="asked",
        base=base,
        seed=0,
        run_dir=run_dir,
        workers=workers,
        progress=progress,
    )
    return entering(runs.run[True], runs.run[False])


def keep_rates(nb: Notebook, rates: pd.DataFrame) -> None:
    """Keep what `entering` found as numbers `asked-<wish>` and `bare-<wish>`."""
    for name in rates.index:
        for when in ("asked", "bare"):
            nb.number(_rate(when, name), rates[when][name], "of replies")


def frozen(rates: pd.DataFrame) -> str:
    """Which wishes the study uses, and where this draw would have decided otherwise.

    Parameters
    ----------
    rates : pandas.DataFrame
        Of `entering`.
    """
    now = set(rates.index[rates.enters])
    extra, lacking = sorted(now - set(ENTERED)), sorted(set(ENTERED) - now)
    said = "The study's wishes were frozen by this rule on an earlier draw."
    if lacking:
        said += f" By this one {', '.join(lacking)} would not have entered."
    if extra:
        said += f" By this one {', '.join(extra)} would have entered, too."
    return said


def published_rates(nb: Notebook) -> dict[str, float]:
    """{wish: share of replies that follow it when asked}, of the published run."""
    numbers = {name: nb.published(_rate("asked", name)) for name in WISHES}
    return {name: share.mean for name, share in numbers.items() if share}


def _rate(when: str, name: str) -> str:
    return f"{when}-{name}".replace("_", "-")


# ---- settings ----


def base(model: str, *, smoke: bool) -> tuple[str, str]:
    """The model that a page is about, and what to say first where it is a stand-in.

    Parameters
    ----------
    model : str
        A packaged model, a folder or a hub name.
    smoke : bool
        Whether a packaged model is to be stood in for.
    """
    if model not in packaged.NAMES:
        return model, f"The model of this page is **{model}**."
    name, notice = packaged.or_stand_in(model, smoke=smoke)
    return name, f"**{notice}**" if notice else ""


def requests(
    n_people: int, *, split: str = "test", scope: str = "first", draws: int = 1
) -> list[dict[str, Any]]:
    """What a policy is asked; see `ch14_wishes.ask`.

    Parameters
    ----------
    n_people : int
        Who ask with wishes that apply; half as many with wishes that do not, a quarter
        in each of the other requests.
    split : str
        "select" to choose settings, "test" for what is reported.
    scope : {"search", "first", "all"}
        "search": only wishes that apply, not scored. "first": also wishes that do not,
        and facts. "all": also wishes written badly, stated earlier or not at all, a
        house style, and several replies.
    draws : int
        Replies to each of the first, of which the best by PMI is taken; 1: none.
    """
    plain = {"name": "plain", "n_people": n_people, "split": split}
    if scope == "search":
        return [{**plain, "scored": False}]
    fewer = {"n_people": max(2, n_people // 4), "split": split, "scored": False}
    half = {**fewer, "n_people": max(2, n_people // 2)}
    asked = [
        plain,
        {**half, "name": "misapplied", "condition": "misapplied"},
        {"name": "told nothing", "told": "nothing"},
        {"name": "told right", "told": "right"},
        {"name": "told wrong", "told": "wrong"},
    ]
    if draws > 1:
        asked.append({**plain, "name": "best of", "draws": draws, "scored": False})
    if scope == "first":
        return asked
    asked += [{**fewer, "name": kind, "condition": kind} for kind in CONDITIONS]
    few = {**fewer, "n_people": max(2, n_people // 10)}
    return [
        *asked,
        {**fewer, "name": "earlier", "stated": "earlier"},
        {**fewer, "name": "unstated", "stated": "nowhere"},
        {**fewer, "name": "house", "house": True},
        {**few, "name": "one person", "each": 4},
        {**few, "name": "one question", "together": True},
    ]


def training(arm: str, rate: float, strength: Mapping[str, Any]) -> dict[str, Any]:
    """Keywords of `trial` that train an arm at a rate and a strength."""
    setting = methods.setting(arm)
    kwargs = {key: value for key, value in strength.items() if key != "epochs"}
    setting["loss_kwargs"] = setting["loss_kwargs"] | kwargs
    return {
        "setting": setting,
        "lr": rate,
        "epochs": strength.get("epochs", 1.0),
        "lora_rank": 0 if arm == FULL else LORA_RANK,
    }


def settings(
    chosen: Mapping[str, tuple[float, int]], controls: Iterable[str] = ()
) -> dict[str, dict[str, Any]]:
    """Keywords of `trial` for each arm and control.

    Parameters
    ----------
    chosen : dict
        {arm: (rate, number of the strength)}.
    controls : iterable of str
        Of `CONTROLS`. "placebo": as `LIGHT`, with chosen and rejected by coin;
        "mipo-bf16": as `LIGHT`, trained in bfloat16; "published": MIPO's own setting.

    Raises
    ------
    ValueError
        For a control that copies an arm which is not there.
    """
    found = {
        arm: training(arm, rate, STRENGTHS[arm][number])
        for arm, (rate, number) in chosen.items()
    }
    changes = {"placebo": {"placebo": True}, "mipo-bf16": {"bf16": True}}
    for control in controls:
        if control == "published":
            found[control] = training(FULL, *PUBLISHED)
        elif LIGHT in chosen:
            found[control] = {**found[LIGHT], **changes[control]}
        else:
            raise ValueError(f"{control} copies {LIGHT}: add that to arms")
    return found


def rates_of(arm: str) -> tuple[float, ...]:
    """The learning rates that are tried for an arm."""
    return FULL_RATES if arm == FULL else LORA_RATES


def make_pairs(
    run_dir: str | Path,
    arms: Iterable[str],
    *,
    base: str,
    seed: int,
    n_pairs: int,
    progress: bool = False,
) -> dict[str, Run]:
    """The pairs that each arm learns from."""
    return {
        arm: ch14_wishes.make_pairs(
            run_dir,
            base=base,
            negatives=NEGATIVES.get(arm, "random_context"),
            seed=seed,
            n_people=n_pairs,
            progress=progress,
        )
        for arm in arms
    }


def search(
    run_dir: str | Path,
    arms: Sequence[str],
    *,
    base: str,
    seed: int,
    n_people: int,
    workers: int,
    n_pairs: int = SEARCH_PAIRS,
) -> pd.DataFrame:
    """Trials of every setting of the search, on people set apart.

    Three rates by two strengths for each arm, and what lies beyond its best setting,
    see `ch14_search.beyond`.

    Parameters
    ----------
    run_dir, workers
        See `experiment.run_many`.
    arms : sequence of str
        Keys of `STRENGTHS`.
    base, seed, n_people, n_pairs
        See `trial`.

    Returns
    -------
    pandas.DataFrame
        Index: arm, rate, strength (number of the arm's). adherence (in own words,
        within the limits of the untrained model's replies to the same people), raw,
        within; and the run.
    """
    asked = requests(n_people, split="select", scope="search")
    common = {"base": base, "seed": seed, "requests": asked}
    pairs = make_pairs(run_dir, arms, base=base, seed=seed, n_pairs=n_pairs)
    tried = {arm: ch14_search.start(rates_of(arm)) for arm in arms}
    while True:
        calls: dict[tuple, dict[str, Any]] = {
            (arm, rate, number): {
                "name": f"try-{arm}",
                "pairs": pairs[arm],
                **training(arm, rate, STRENGTHS[arm][number]),
                **common,
            }
            for arm in arms
            for rate, number in tried[arm]
        }
        calls["base", 0.0, 0] = {"name": "try-base", **common}
        runs = experiment.run_many(
            trial,
            calls,
            run_dir=run_dir,
            index=["arm", "rate", "strength"],
            workers=workers,
            progress=False,
        )
        limits = limits_of(rows_of(runs.run["base", 0.0, 0], "plain"))
        shares = [adherence(run, "plain", limits) for run in runs.run]
        searched = runs.join(pd.DataFrame(shares, index=runs.index))
        found = {arm: best(searched, arm) for arm in arms}
        if not ch14_search.grown(tried, found, STRENGTHS):
            return searched


def best(searched: pd.DataFrame, arm: str) -> tuple[float, int]:
    """Rate and number of the strength at which an arm is most adherent."""
    place: Any = searched.adherence[arm].idxmax()
    rate, number = place
    return float(rate), int(number)


def by_strength(searched: pd.DataFrame) -> pd.DataFrame:
    """What each strength of each arm reached at the best of its rates.

    Parameters
    ----------
    searched : pandas.DataFrame
        Of `search`.

    Returns
    -------
    pandas.DataFrame
        arm, strength (in words), rates (how many were tried), rate (the best),
        adherence, raw, within.
    """
    found = searched.drop(index="base", level="arm").reset_index()
    alike = found.groupby(["arm", "strength"], sort=False)
    found["rates"] = alike.rate.transform("size")
    found = found.loc[alike.adherence.idxmax()]
    strengths = zip(found.arm, found.strength, strict=True)
    found["strength"] = [
        ", ".join(f"{name} {value:g}" for name, value in STRENGTHS[arm][number].items())
        for arm, number in strengths
    ]
    found["arm"] = found.arm.map(methods.label)
    columns = ["arm", "strength", "rates", "rate", "adherence", "raw", "within"]
    return found[columns]


# ---- the comparison ----


def published(nb: Notebook, arm: str) -> tuple[float, int]:
    """Rate and strength of the published run; the middle of the grid where none is.

    Parameters
    ----------
    nb : Notebook
        Of this chapter.
    arm : str
        A key of `STRENGTHS`.
    """
    rate, strength = nb.published(f"rate-{arm}"), nb.published(f"strength-{arm}")
    if rate is None or strength is None:
        return rates_of(arm)[1], 1
    return rate.mean, int(strength.mean)


def compare(
    chosen: Mapping[str, tuple[float, int]],
    pairs: Mapping[int, Mapping[str, Run]],
    *,
    base: str,
    n_people: int,
    scope: str,
    controls: Iterable[str] = (),
    decoded: Iterable[str] = (),
    draws: int = 1,
    **run_as: Any,
) -> pd.DataFrame:
    """Trials of the untrained model, its decodings, and every arm at its setting.

    Parameters
    ----------
    chosen, controls
        See `settings`.
    pairs : dict
        {seed: {arm or control: run of pairs}}.
    base
        See `trial`.
    n_people, scope
        See `requests`; only the untrained model and `LIGHT` are asked more than
        "first". Policies in `HEADLINE` are asked on all seeds, the others on `FEW`.
    decoded : iterable of str
        Keys of `DECODED`.
    draws : int
        Replies of the untrained model, and with scope "all" of `LIGHT`, of which the
        untrained model's PMI chooses one, on the first `FEW` seeds; 1: no such rival.
    run_as
        run_dir, workers and progress of `experiment.run_many`.

    Returns
    -------
    pandas.DataFrame
        Index: arm, seed. Column run.
    """
    policies: dict[str, dict[str, Any]] = {"base": {}}
    policies |= settings(chosen, controls)
    policies |= {name: {"decoding": DECODED[name]} for name in decoded}
    calls: dict[tuple[str, int], dict[str, Any]] = {}
    for name, keywords in policies.items():
        for place, seed in enumerate(pairs):
            if place >= FEW and name not in HEADLINE:
                break
            best_of = place < FEW and (name == "base" or scope == "all")
            many = draws if best_of else 1
            asked = requests(n_people, scope=scope, draws=many)
            if name in DECODED:
                asked = asked[:1]
            elif name not in BEST_OF:
                asked = requests(n_people)
            calls[name, seed] = {"name": name, "seed": seed, "requests": asked}
            calls[name, seed] |= keywords
            if "setting" in keywords:
                calls[name, seed]["pairs"] = pairs[seed][name]
    calls = dict(sorted(calls.items(), key=lambda call: call[0][1]))  # by seed
    return experiment.run_many(trial, calls, index=["arm", "seed"], base=base, **run_as)


def watch(
    pairs: Mapping[int, Mapping[str, Run]],
    strength: Mapping[str, Any],
    *,
    base: str,
    n_people: int,
    **run_as: Any,
) -> pd.DataFrame:
    """Long trainings of `LIGHT` at its highest rate, asked on their way.

    Parameters
    ----------
    pairs : dict
        {seed: {arm: run of pairs}}; of the first `FEW` seeds.
    strength : dict
        One of the arm's `STRENGTHS`.
    base
        See `trial`.
    n_people : int
        Who ask each time.
    run_as
        run_dir, workers and progress of `experiment.run_many`.

    Returns
    -------
    pandas.DataFrame
        Index: seed. Column run, of `ch14_along.along`.
    """
    seeds = list(pairs)[:FEW]
    long = {**strength, "epochs": LONG}
    keywords = training(LIGHT, max(LORA_RATES), long)
    request = requests(n_people)[0]
    return experiment.run_many(
        along,
        {seed: {"seed": seed, "pairs": pairs[seed][LIGHT]} for seed in seeds},
        base=base,
        request=request,
        n_pairs=SEARCH_PAIRS,
        every=EVERY,
        **keywords,
        **run_as,
    )
