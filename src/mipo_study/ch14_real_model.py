"""Chapter 14: which policies are compared on a real language model, and what they do.

The runs are made in `mipo_study.ch14_wishes`; here are their settings, the choice among
them, and the tables of what they found.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from mipo import packaged
from mipo.worlds.wish_data import UNSEEN, WISHES
from mipo_study import ch14_wishes, experiment, methods
from mipo_study.ch14_wishes import trial
from mipo_study.figures.style import arm_panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from mipo.cache import Run
    from mipo.record import Notebook

FULL = "mipo-random"  # the arm that trains all weights
LORA_RANK = 16  # of the others
LORA_RATES = (1e-4, 2e-4, 4e-4)
FULL_RATES = (1e-5, 2e-5, 4e-5)
SEARCH_PAIRS = 128
TAIL = 0.025  # of the untrained model's replies lie beyond each limit of damage
LEAST, MOST, BARE = 0.05, 0.8, 0.5  # the rule by which wishes enter, see `entering`
STRENGTHS: dict[str, list[dict[str, Any]]] = {
    "sft": [{"epochs": 1.0}, {"epochs": 2.0}],
    "mipo-random": [{"beta": 0.03}, {"beta": 0.1}],
    "mipo-lora": [{"beta": 0.03}, {"beta": 0.1}],
    "mipo-missing": [{"beta": 0.03}, {"beta": 0.1}],
    "context-infonce": [{"temperature": 10.0}, {"temperature": 100.0}],
    "sami": [{"epochs": 1.0}, {"epochs": 2.0}],
    "rmipo": [{"beta": 2.0}, {"beta": 10.0}],
}
ARMS = tuple(STRENGTHS)
NEGATIVES = {"mipo-missing": "missing_context"}  # the others: random_context
DECODED = {
    "cold": {"temperature": 0.5},
    "greedy": {"temperature": 0.0},
    "cad": {"alpha": 0.5},
    "cad-strong": {"alpha": 1.0},
}
CONDITIONS = ("noisy", "incomplete", "ambiguous", "conflicting")


class Limits(NamedTuple):
    """What a reply may look like before it counts as damaged.

    Attributes
    ----------
    alone : float
        The least log-prob under the untrained model without the wishes, nats per token.
    repeats : float
        The largest share of repeated runs of four words.
    words : float
        The fewest words.
    """

    alone: float
    repeats: float
    words: float

    def holds(self, row: Mapping[str, Any]) -> bool:
        """Whether a row of `ch14_wishes.measure` lies within the limits."""
        readable = row["alone"] >= self.alone and row["repeats"] <= self.repeats
        return bool(readable and row["words"] >= self.words)


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
    n_people: int, *, split: str = "test", scope: str = "first"
) -> list[dict[str, Any]]:
    """What a policy is asked; see `ch14_wishes.ask`.

    Parameters
    ----------
    n_people : int
        Who ask with wishes that apply; half as many in each of the other requests.
    split : str
        "select" to choose settings, "test" for what is reported.
    scope : {"search", "first", "all"}
        "search": only wishes that apply, not scored. "first": also wishes that do not,
        and facts. "all": also wishes written badly, stated earlier or not at all, a
        house style, and several replies.
    """
    plain = {"name": "plain", "n_people": n_people, "split": split}
    if scope == "search":
        return [{**plain, "scored": False}]
    fewer = {"n_people": n_people // 2, "split": split, "scored": False}
    asked = [
        plain,
        {**fewer, "name": "misapplied", "condition": "misapplied"},
        {"name": "told nothing", "told": "nothing"},
        {"name": "told right", "told": "right"},
        {"name": "told wrong", "told": "wrong"},
    ]
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


def rates_of(arm: str) -> tuple[float, ...]:
    """The learning rates that are tried for an arm."""
    return FULL_RATES if arm == FULL else LORA_RATES


def grid(arms: Iterable[str]) -> dict[tuple, dict[str, Any]]:
    """Every setting of the search: three rates by two strengths for each arm."""
    settings = {}
    for arm in arms:
        for rate in rates_of(arm):
            for number, strength in enumerate(STRENGTHS[arm]):
                settings[arm, rate, number] = training(arm, rate, strength)
    return settings


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
    calls = {
        key: {"name": f"try-{key[0]}", "pairs": pairs[key[0]], **common, **keywords}
        for key, keywords in grid(arms).items()
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
    found = [adherence(run, "plain", limits) for run in runs.run]
    return runs.join(pd.DataFrame(found, index=runs.index))


def best(searched: pd.DataFrame, arm: str) -> tuple[float, int]:
    """Rate and number of the strength at which an arm is most adherent."""
    return searched.adherence[arm].idxmax()


# ---- what a run found ----


def rows_of(run: Run, request: str) -> list[dict[str, Any]]:
    """The rows of a request; none where the training diverged."""
    columns = json.loads(run.read("scores.json")).get(request, {})
    rows: list[dict[str, Any]] = [{} for _ in columns.get("finished", ())]
    for name, values in columns.items():
        for row, value in zip(rows, values, strict=False):  # of the first only: pmi
            row[name] = value
    return rows


def replies_of(run: Run, request: str) -> list[dict[str, str]]:
    """Some replies as text, each with its context and query."""
    return json.loads(run.read("replies.json")).get(request, [])


def before_and_after(
    trials: pd.DataFrame, arm: str, seed: int
) -> list[tuple[str, str, str]]:
    """Prompts, the untrained model's replies and an arm's, in the order asked."""
    before = replies_of(trials.run["base", seed], "plain")
    after = replies_of(trials.run[arm, seed], "plain")
    return [
        (f"{old['context']} {old['query']}", old["reply"], new["reply"])
        for old, new in zip(before, after, strict=False)  # a diverged arm has none
    ]


def limits_of(rows: Sequence[Mapping[str, Any]]) -> Limits:
    """Limits of damage: what one reply in forty of the untrained model passes."""
    frame = pd.DataFrame(rows)
    return Limits(
        float(frame.alone.quantile(TAIL)),
        float(frame.repeats.quantile(1 - TAIL)),
        float(frame.words.quantile(TAIL)),
    )


def adherence(run: Run, request: str, limits: Limits) -> dict[str, float]:
    """Shares of the wishes that are followed.

    Parameters
    ----------
    run : Run
        Of `trial`.
    request : str
        What was asked.
    limits : Limits
        Of damage.

    Returns
    -------
    dict
        adherence: followed in own words, in a reply within the limits; raw: followed
        anyhow; within: share of the replies that lie within the limits. A diverged
        training has 0 of each; NaN where the request was not made.
    """
    rows = rows_of(run, request)
    if not rows and "failed" not in run.metrics:
        return dict.fromkeys(("adherence", "raw", "within"), float("nan"))
    raw = [done for row in rows for done in row["follows"]]
    clean = [done and limits.holds(row) for row in rows for done in row["own"]]
    within = [limits.holds(row) for row in rows]
    return {
        "adherence": float(np.mean(clean)) if clean else 0.0,
        "raw": float(np.mean(raw)) if raw else 0.0,
        "within": float(np.mean(within)) if within else 0.0,
    }


def by_wish(runs: Iterable[Run], limits: Mapping[int, Limits]) -> pd.Series:
    """Adherence to each wish, all seeds together."""
    done: dict[str, list[bool]] = {}
    for run, bound in zip(runs, limits.values(), strict=True):
        for row in rows_of(run, "plain"):
            for name, followed in zip(row["wishes"], row["own"], strict=True):
                done.setdefault(name, []).append(followed and bound.holds(row))
    return pd.Series({name: np.mean(values) for name, values in done.items()})


def mean_of(run: Run, request: str, column: str) -> float:
    """Mean of a column over the replies to a request; NaN where it was not made."""
    values = [row[column] for row in rows_of(run, request) if column in row]
    return float(np.mean(values)) if values else float("nan")


def strict_wins(ours: Run, theirs: Run, limits: Limits) -> dict[str, float]:
    """How often our reply follows more wishes than theirs to the same question.

    Returns
    -------
    dict
        win, tie, loss: shares of the questions; a damaged reply follows nothing.
    """
    counts = []
    for run in (ours, theirs):
        rows = rows_of(run, "plain")
        counts.append([sum(row["own"]) * limits.holds(row) for row in rows])
    ours_done, theirs_done = counts
    gaps = np.subtract(ours_done, theirs_done)
    return {
        "win": float((gaps > 0).mean()),
        "tie": float((gaps == 0).mean()),
        "loss": float((gaps < 0).mean()),
    }


# ---- the comparison ----

UNTRAINED = ("base", "best-of", *DECODED)
MEASURES = {
    "adherence": "of wishes",
    "raw": "of wishes",
    "within": "of replies",
    "alone": "nats per token",
    "repeats": "of runs of four words",
    "words": "words",
    "pmi": "nats per reply",
    "match": "of replies",
    "misapplied": "of wishes",
    "swayed": "of questions",
    **dict.fromkeys(CONDITIONS, "of wishes"),
    "earlier": "of wishes",
    "unstated": "of wishes",
    "house": "of replies",
    "alike one person": "points of self-BLEU",
    "alike one question": "points of self-BLEU",
}


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
    requests: Sequence[Mapping[str, Any]],
    decoded: Sequence[str],
    draws: int,
    **run_as: Any,
) -> pd.DataFrame:
    """Trials of the untrained model, its decodings, and every arm at its setting.

    Parameters
    ----------
    chosen : dict
        {arm: (rate, number of the strength)}.
    pairs : dict
        {seed: {arm: run of pairs}}.
    base, requests
        See `trial`.
    decoded : sequence of str
        Keys of `DECODED`.
    draws : int
        Replies of which the untrained model's own PMI chooses one; 1: no such rival.
    run_as
        run_dir, workers and progress of `experiment.run_many`.

    Returns
    -------
    pandas.DataFrame
        Index: arm, seed. Column run.
    """
    plain = [requests[0]]
    calls: dict[tuple[str, int], dict[str, Any]] = {}
    for seed, runs in pairs.items():
        common = {"base": base, "seed": seed}
        calls["base", seed] = {"name": "base", "requests": requests, **common}
        for arm, (rate, strength) in chosen.items():
            calls[arm, seed] = {
                "name": arm,
                "pairs": runs[arm],
                "requests": requests,
                **training(arm, rate, STRENGTHS[arm][strength]),
                **common,
            }
        for name in decoded:
            calls[name, seed] = {
                "name": name,
                "requests": plain,
                "decoding": DECODED[name],
                **common,
            }
        if draws > 1:
            many = [{**plain[0], "draws": draws}]
            calls["best-of", seed] = {"name": "best-of", "requests": many, **common}
    return experiment.run_many(trial, calls, index=["arm", "seed"], **run_as)


def table(trials: pd.DataFrame) -> pd.DataFrame:
    """The measures of every trial; see `MEASURES`.

    Parameters
    ----------
    trials : pandas.DataFrame
        Of `compare`. Limits of damage are those of the untrained model's replies to the
        same people.

    Returns
    -------
    pandas.DataFrame
        Index: arm, seed. NaN where a request was not made.
    """
    rows = {}
    runs: dict[Any, Run] = trials.run.to_dict()
    for (arm, seed), run in runs.items():
        bound = limits_of(rows_of(runs["base", seed], "plain"))
        columns = ("alone", "repeats", "words", "pmi", "match")
        row: dict[str, float] = adherence(run, "plain", bound)
        row |= {column: mean_of(run, "plain", column) for column in columns}
        row["misapplied"] = adherence(run, "misapplied", bound)["raw"]
        row["swayed"] = mean_of(run, "told wrong", "mistaken")
        for kind in (*CONDITIONS, "earlier", "unstated"):
            row[kind] = adherence(run, kind, bound)["adherence"]
        row["house"] = mean_of(run, "house", "house")
        for way in ("alike one person", "alike one question"):
            row[way] = run.metrics.get(way, float("nan"))
        rows[arm, seed] = row
    frame = pd.DataFrame.from_dict(rows, orient="index")
    frame.index = pd.MultiIndex.from_tuples(frame.index, names=["arm", "seed"])
    return frame.sort_index()


def keep_measures(nb: Notebook, found: pd.DataFrame) -> None:
    """Keep what `table` found as numbers `<measure>-<arm>`; gaps are left out."""
    for arm in found.index.unique("arm"):
        for measure, unit in MEASURES.items():
            values = found[measure][arm]
            if values.notna().all():
                name = f"{measure}-{arm}".replace(" ", "-")
                nb.number(name, values.to_list(), unit)


def levels(found: pd.DataFrame, column: str) -> dict[str, list[float]]:
    """{policy: one number per seed} of a column of `table`."""
    arms = found.index.unique("arm")
    return {arm: found[column][arm].to_list() for arm in arms}


def rise(found: pd.DataFrame, arm: str, column: str) -> list[float]:
    """What an arm has more of than the untrained model, seed by seed."""
    return (found[column][arm] - found[column]["base"]).to_list()


def gain(found: pd.DataFrame, arm: str) -> list[float]:
    """An arm's gain in adherence, as a share of the untrained model's."""
    before = found.adherence["base"].mean()
    return [more / before if before else 0.0 for more in rise(found, arm, "adherence")]


def asked_of(found: pd.DataFrame, arm: str, columns: Iterable[str]) -> list[str]:
    """The columns of `table` that an arm and the untrained model were asked for."""
    return [
        column for column in columns if found.loc[["base", arm], column].notna().all()
    ]


def leads(
    found: pd.DataFrame, ours: str, rivals: Iterable[str]
) -> dict[str, list[float]]:
    """By how much an arm is more adherent than each rival that there is, by seed."""
    arms = found.index.unique("arm")
    there = [rival for rival in rivals if rival in arms and ours in arms]
    own = found.adherence
    return {rival: (own[ours] - own[rival]).to_list() for rival in there}


def parts(
    values: Mapping[str, Sequence[float]],
    region: tuple[float | None, float | None],
    unit: str,
) -> dict[str, dict[str, Any]]:
    """Parts of a claim, {name: its keywords}, all with one region and unit."""
    return {
        methods.label(name): {"values": seeds, "region": region, "unit": unit}
        for name, seeds in values.items()
    }


def panels(found: pd.DataFrame, measures: Mapping[str, str]) -> Figure:
    """A panel per measure, a row per policy; see `style.arm_panels`.

    Parameters
    ----------
    found : pandas.DataFrame
        Of `table`.
    measures : dict
        {title: column}.
    """
    return arm_panels(
        {title: levels(found, column) for title, column in measures.items()},
        digits={title: 0 for title, column in measures.items() if column == "words"},
    )


def borrowed(nb: Notebook, levels: Mapping[str, Any]) -> dict[str, list[float]]:
    """Adherence of the arms that this run leaves out, of the published run."""
    found = {}
    for arm in (*UNTRAINED, *ARMS):
        number = nb.published(f"adherence-{arm}")
        if arm not in levels and number is not None:
            found[arm] = number.values
    return found
