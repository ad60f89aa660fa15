"""Chapter 14: what the runs on a real language model found.

Shares of wishes that are followed within limits of damage, by reply, by wish, by policy
and along a training; see `mipo_study.ch14_wishes` for the runs.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.special import ndtri

from mipo.evaluate import paired_bootstrap
from mipo.worlds.wish_checks import words
from mipo.worlds.wish_data import WISHES
from mipo_study import methods, tables
from mipo_study.figures.style import arm_panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from mipo.cache import Run
    from mipo.record import Notebook

CONDITIONS = ("noisy", "incomplete", "ambiguous", "conflicting")
BEST_OF = {  # {policy: its best reply of n}
    "base": "best-of",
    "mipo-lora": "best-of-lora",
}
POLICY_OF = {best: policy for policy, best in BEST_OF.items()}
KINDS = ("content", "form", "register", "level", "length")  # of wishes
LONG = 5  # letters of a word that tells what a question is about
LEVEL, POWER = 0.05, 0.8  # of what a sample can detect
TAIL = 0.025  # of the untrained model's replies lie beyond each limit of damage
TOLERATED = 0.1  # of the replies may leave the limits before a training is stopped


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


# ---- the replies of a run ----


def losses(beside: Run) -> tuple[np.ndarray, np.ndarray]:
    """Our losses and TRL's, nats, step by step, of `ch14_wishes.beside_trl`."""
    return np.array(beside.metrics["ours"]), np.array(beside.metrics["trl"])


def rows_of(run: Run, request: str) -> list[dict[str, Any]]:
    """The rows of a request; none where the training diverged."""
    return unpacked(json.loads(run.read("scores.json")).get(request, {}))


def unpacked(columns: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Rows of `ch14_wishes.columns_of`; the last ones lack a column that is shorter."""
    rows: list[dict[str, Any]] = [{} for _ in columns.get("finished", ())]
    for name, values in columns.items():
        for row, value in zip(rows, values, strict=False):
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
    """`shares_of` a request; NaN where it was not made, 0 where the training diverged.

    Parameters
    ----------
    run : Run
        Of `trial`.
    request : str
        What was asked.
    limits : Limits
        Of damage.
    """
    rows = rows_of(run, request)
    if not rows and "failed" not in run.metrics:
        return dict.fromkeys(("adherence", "raw", "within"), float("nan"))
    return shares_of(rows, limits)


def shares_of(rows: Sequence[Mapping[str, Any]], limits: Limits) -> dict[str, float]:
    """Shares of the wishes that are followed.

    Parameters
    ----------
    rows : sequence of dict
        Of `ch14_wishes.measure`.
    limits : Limits
        Of damage.

    Returns
    -------
    dict
        adherence: followed in own words, in a reply within the limits; raw: followed
        anyhow; within: share of the replies that lie within the limits; 0 without rows.
    """
    raw = [done for row in rows for done in row["follows"]]
    clean = [done and limits.holds(row) for row in rows for done in row["own"]]
    within = [limits.holds(row) for row in rows]
    return {
        "adherence": float(np.mean(clean)) if clean else 0.0,
        "raw": float(np.mean(raw)) if raw else 0.0,
        "within": float(np.mean(within)) if within else 0.0,
    }


def by_wish(trials: pd.DataFrame, arms: Iterable[str]) -> pd.DataFrame:
    """Adherence to each wish, all seeds together.

    Parameters
    ----------
    trials : pandas.DataFrame
        Of `ch14_real_model.compare`.
    arms : iterable of str
        Of its index.

    Returns
    -------
    pandas.DataFrame
        Index: wish. A column per arm, and n: how often the first was asked.
    """
    done: list[dict[str, Any]] = []
    for arm in arms:
        for seed, run in trials.run[arm].items():
            bound = bounds(trials, seed)
            for row in rows_of(run, "plain"):
                whole = bound.holds(row)
                done += [
                    {"arm": arm, "wish": name, "followed": own and whole}
                    for name, own in zip(row["wishes"], row["own"], strict=True)
                ]
    counted = pd.DataFrame(done, columns=["arm", "wish", "followed"])
    groups = counted.groupby(["wish", "arm"], sort=False).followed
    shares = groups.mean().astype(float).unstack()[list(arms)]
    return shares.assign(n=groups.size().unstack()[next(iter(arms))])


def bounds(trials: pd.DataFrame, seed: int) -> Limits:
    """Limits of damage of a seed: the untrained model's, for the same people."""
    return limits_of(rows_of(trials.run["base", seed], "plain"))


def mean_of(run: Run, request: str, column: str) -> float:
    """Mean of a column over the replies to a request; NaN where it was not made."""
    values = [row[column] for row in rows_of(run, request) if column in row]
    return float(np.mean(values)) if values else float("nan")


def followed(trials: pd.DataFrame, arm: str, seed: int) -> np.ndarray:
    """Wishes that each reply follows without long copies, (n,); a damaged one: none.

    Parameters
    ----------
    trials : pandas.DataFrame
        Of `ch14_real_model.compare`.
    arm : str
        Of its index, or a value of `BEST_OF`.
    seed : int
        Of its index.

    Returns
    -------
    ndarray
        A diverged training follows nothing; empty where nothing was asked.
    """
    request = "best of" if arm in POLICY_OF else "plain"
    policy = POLICY_OF.get(arm, arm)
    if (policy, seed) not in trials.index:
        return np.zeros(0)
    run, bound = trials.run[policy, seed], bounds(trials, seed)
    if "failed" in run.metrics:
        return np.zeros(len(rows_of(trials.run["base", seed], "plain")))
    rows = rows_of(run, request)
    return np.array([sum(row["own"]) * bound.holds(row) for row in rows])


def gaps_of(trials: pd.DataFrame, ours: str, theirs: str) -> dict[int, np.ndarray]:
    """{seed: how many wishes more our reply follows than theirs, per question}.

    Parameters
    ----------
    trials, ours, theirs
        See `followed`.
    """
    sides = {
        seed: [followed(trials, arm, seed) for arm in (ours, theirs)]
        for seed in trials.index.unique("seed")
    }
    return {
        seed: ours - theirs
        for seed, (ours, theirs) in sides.items()
        if len(ours) and len(theirs)
    }


def gaps(trials: pd.DataFrame, ours: str, theirs: str = "base") -> np.ndarray:
    """`gaps_of` all seeds together, shape (n,)."""
    return np.concatenate([*gaps_of(trials, ours, theirs).values(), np.zeros(0)])


def leads(
    trials: pd.DataFrame, ours: str, rivals: Iterable[str]
) -> dict[str, tuple[float, float, float]]:
    """By how much an arm is more adherent than each rival that there is.

    Parameters
    ----------
    trials, ours
        See `followed`.
    rivals : iterable of str
        Arms, too.

    Returns
    -------
    dict
        {rival: (value, low, high)}, of wishes. The 95 % interval draws seeds whole, and
        questions: with three seeds, a t interval over seeds may rest on luck.
    """
    found = {}
    for rival in rivals:
        seeds = gaps_of(trials, ours, rival)
        if not seeds:
            continue
        asked = [
            len(row["own"])
            for seed in seeds
            for row in rows_of(trials.run["base", seed], "plain")
        ]
        more = np.concatenate(list(seeds.values())) / np.mean(asked)
        seed_of = np.repeat(list(seeds), [len(values) for values in seeds.values()])
        levels = [seed_of, np.arange(len(more))]
        found[rival] = paired_bootstrap(more, np.zeros_like(more), levels)
    return found


def strict_wins(gaps: np.ndarray) -> dict[str, float]:
    """Shares of questions at which we follow more wishes, as many, and fewer.

    Parameters
    ----------
    gaps : ndarray
        Of `gaps`.
    """
    return {
        "win": float((gaps > 0).mean()),
        "tie": float((gaps == 0).mean()),
        "loss": float((gaps < 0).mean()),
    }


def keep_wins(
    nb: Notebook, gaps: Mapping[str, np.ndarray]
) -> dict[str, dict[str, float]]:
    """`strict_wins` of every arm, kept as numbers `wins-<arm>` and `losses-<arm>`."""
    wins = {arm: strict_wins(values) for arm, values in gaps.items()}
    for arm, shares in wins.items():
        nb.number(f"wins-{arm}", shares["win"], "of questions")
        nb.number(f"losses-{arm}", shares["loss"], "of questions")
    return wins


def detectable(error: float, *, level: float = LEVEL, power: float = POWER) -> float:
    r"""The smallest true difference that a sample like this one finds.

    Parameters
    ----------
    error : float
        Standard error of the difference; see `standard_error`.
    level : float
        Of the two-sided test.
    power : float
        How often the difference must be found.

    Returns
    -------
    float
        In the unit of the error.

    Notes
    -----
    :math:`(z_{1-level/2} + z_{power})` times the error, 2.8 at 5 % and 80 %. Source:
    Cohen (1988), "Statistical power analysis for the behavioral sciences".
    """
    return float((ndtri(1 - level / 2) + ndtri(power)) * error)


def standard_error(gaps: np.ndarray) -> float:
    """Of the mean of gaps, one per question."""
    return float(gaps.std(ddof=1) / np.sqrt(len(gaps)))


# ---- all policies ----

MEASURES = {
    "adherence": "of wishes",
    "raw": "of wishes",
    "within": "of replies",
    "alone": "nats per token",
    "repeats": "of runs of four words",
    "words": "words",
    "cut": "of replies",
    "topic": "of replies",
    "pmi": "nats per reply",
    "match": "of replies",
    **{f"{kind} wishes": "of wishes" for kind in KINDS},
    "in place": "of wishes",
    "misapplied": "of wishes",
    "right": "of questions",
    "swayed": "of questions",
    **dict.fromkeys(CONDITIONS, "of wishes"),
    "earlier": "of wishes",
    "unstated": "of wishes",
    "house": "of replies",
    "alike one person": "points of self-BLEU",
    "alike one question": "points of self-BLEU",
}


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
        bound = bounds(trials, seed)
        rows[arm, seed] = _measures(run, bound)
        if arm in BEST_OF and rows_of(run, "best of"):
            rows[BEST_OF[arm], seed] = _plain(run, "best of", bound)
    frame = pd.DataFrame.from_dict(rows, orient="index")
    frame.index = pd.MultiIndex.from_tuples(frame.index, names=["arm", "seed"])
    return frame.sort_index()


def _plain(run: Run, request: str, bound: Limits) -> dict[str, float]:
    """The measures of the replies to one request."""
    columns = ("alone", "repeats", "words", "pmi", "match")
    means = {column: mean_of(run, request, column) for column in columns}
    said = replies_of(run, request)
    about = [on_topic(each["query"], each["reply"]) for each in said]
    return {
        **adherence(run, request, bound),
        **means,
        "cut": 1 - mean_of(run, request, "finished"),
        "topic": float(np.mean(about)) if about else float("nan"),
        **by_kind(rows_of(run, request), bound),
    }


def _measures(run: Run, bound: Limits) -> dict[str, float]:
    """The measures of all requests."""
    row = _plain(run, "plain", bound)
    row["in place"] = in_place(rows_of(run, "plain"), rows_of(run, "misapplied"))
    row["misapplied"] = adherence(run, "misapplied", bound)["raw"]
    row["right"] = mean_of(run, "told nothing", "right")
    row["swayed"] = mean_of(run, "told wrong", "mistaken")
    for kind in (*CONDITIONS, "earlier", "unstated"):
        row[kind] = adherence(run, kind, bound)["adherence"]
    row["house"] = mean_of(run, "house", "house")
    for way in ("alike one person", "alike one question"):
        row[way] = run.metrics.get(way, float("nan"))
    return row


def on_topic(query: str, reply: str) -> bool:
    """Whether a reply has any word of the question of `LONG` letters or more."""
    about = {word.lower() for word in words(query) if len(word) >= LONG}
    return bool(about & {word.lower() for word in words(reply)})


def by_kind(rows: Sequence[Mapping[str, Any]], limits: Limits) -> dict[str, float]:
    """Adherence to the wishes of each kind, {"<kind> wishes": share}; NaN for none."""
    done: dict[str, list[bool]] = {f"{kind} wishes": [] for kind in KINDS}
    for row in rows:
        whole = limits.holds(row)
        for name, own in zip(row["wishes"], row["own"], strict=True):
            done[f"{WISHES[name].kind} wishes"].append(own and whole)
    return {
        kind: float(np.mean(values)) if values else float("nan")
        for kind, values in done.items()
    }


def in_place(
    rows: Sequence[Mapping[str, Any]], out_of_place: Sequence[Mapping[str, Any]]
) -> float:
    """Share followed where they belong, of the wishes asked where they do not.

    Parameters
    ----------
    rows, out_of_place : sequence of dict
        Of `ch14_wishes.measure`, of wishes that fit the question and that do not.

    Returns
    -------
    float
        The mean over the latter's wishes of how often each is followed in the former;
        NaN where no wish is in both.
    """
    shares = {name: np.mean(done) for name, done in _by_name(rows).items()}
    there = [
        shares[name]
        for name, done in _by_name(out_of_place).items()
        if name in shares
        for _ in done
    ]
    return float(np.mean(there)) if there else float("nan")


def _by_name(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[bool]]:
    """{wish: whether each reply followed it, copied or not}."""
    done: dict[str, list[bool]] = {}
    for row in rows:
        for name, followed in zip(row["wishes"], row["follows"], strict=True):
            done.setdefault(name, []).append(followed)
    return done


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
    """What an arm has more of than the untrained model, by seed that both have."""
    return (found[column][arm] - found[column]["base"]).dropna().to_list()


def gain(found: pd.DataFrame, arm: str) -> list[float]:
    """An arm's gain in adherence, as a share of the untrained model's mean."""
    before = found.adherence["base"].mean()
    return [more / before if before else 0.0 for more in rise(found, arm, "adherence")]


def light_and_whole(found: pd.DataFrame) -> dict[str, list[float]]:
    """Parts of the claim that adapters are enough, {part: one number per seed}."""
    light = np.array(rise(found, "mipo-lora", "adherence"))
    whole = np.array(rise(found, "mipo-random", "adherence"))
    return {
        "gain of LoRA": light.tolist(),
        "gain of LoRA less 80 % of the full one": (light - 0.8 * whole).tolist(),
    }


def of_the_best(trials: pd.DataFrame) -> dict[str, tuple[float, float, float]]:
    """What the best of n replies is ahead of a single one, as `leads` says it."""
    titles = {"base": "self-scored", "mipo-lora": "a trained policy as a black box"}
    ahead = {
        titles[policy]: leads(trials, best, [policy])
        for policy, best in BEST_OF.items()
        if policy in trials.index.unique("arm")
    }
    return {title: lead for title, of in ahead.items() for lead in of.values()}


def asked_of(found: pd.DataFrame, arm: str, columns: Iterable[str]) -> list[str]:
    """The columns of `table` that an arm and the untrained model were asked for."""
    return [
        column for column in columns if found.loc[["base", arm], column].notna().all()
    ]


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


def lead_parts(
    leads: Mapping[str, tuple[float, float, float]], unit: str = "of wishes"
) -> dict[str, dict[str, Any]]:
    """Parts of a claim that `leads` are above 0."""
    return {
        methods.label(name): {
            "value": value,
            "interval": (low, high),
            "region": (0, None),
            "unit": unit,
        }
        for name, (value, low, high) in leads.items()
    }


def caveat(parts: Mapping[str, Mapping[str, Any]]) -> str:
    """What stands beside a verdict: which model it is about, and what could be seen.

    Parameters
    ----------
    parts : dict
        Of `parts` or `lead_parts`.

    Returns
    -------
    str
        With the smallest difference that the parts' samples detect, from the spread
        over seeds, or from the interval; without those that know no spread.
    """
    least: dict[str, list[float]] = {}
    for part in parts.values():
        if "interval" in part:
            low, high = part["interval"]
            error = (high - low) / 2 / ndtri(1 - LEVEL / 2)
        else:
            values = np.array(part["values"])
            error = standard_error(values) if len(values) > 1 else 0.0
        if error:
            least.setdefault(part["unit"], []).append(detectable(error))
    spans = [
        f"{min(found):.2g} {unit}"
        if len(found) == 1
        else f"{min(found):.2g} to {max(found):.2g} {unit}"
        for unit, found in least.items()
    ]
    model = "*One English model of 135 M parameters, 4-bit weights.*"
    if not spans:
        return model
    return (
        f"{model} The smallest difference that is found four times in five, part by "
        f"part: {'; '.join(spans)}."
    )


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
    for arm in methods.METHODS:
        number = nb.published(f"adherence-{arm}")
        if arm not in levels and number is not None:
            found[arm] = number.values
    return found


def by_policy(
    nb: Notebook, measures: Sequence[str]
) -> dict[str, dict[str, list[float]]]:
    """Measures of every policy: of this run, else of the published one.

    Parameters
    ----------
    nb : Notebook
        That has kept `keep_measures`.
    measures : sequence of str
        Keys of `MEASURES`.

    Returns
    -------
    dict
        {policy: {measure: one number per seed}}; without the policies that lack one.
    """
    found = {}
    for arm in methods.METHODS:
        names = {m: f"{m}-{arm}".replace(" ", "-") for m in measures}
        numbers = {
            measure: nb.numbers.get(name) or nb.published(name)
            for measure, name in names.items()
        }
        if all(numbers.values()):
            found[arm] = {m: number.values for m, number in numbers.items() if number}
    return found


def overview(
    measured: Mapping[str, Mapping[str, Sequence[float]]], formats: Mapping[str, str]
) -> str:
    """A table of `by_policy`: a row per policy, means over seeds."""
    rows = {
        methods.label(arm): {name: np.mean(values) for name, values in own.items()}
        for arm, own in measured.items()
    }
    frame = pd.DataFrame.from_dict(rows, orient="index").reindex(columns=list(formats))
    frame.index.name = "policy"
    return tables.markdown(frame, formats, index=True)


# ---- along a training ----


def path_of(run: Run) -> pd.DataFrame:
    """What a training gained and damaged, step by step.

    Parameters
    ----------
    run : Run
        Of `along`.

    Returns
    -------
    pandas.DataFrame
        Index: step. adherence, raw, within (see `ch14_real_model.shares_of`; the limits
        are those of the untrained policy, step 0), alone (nats per token), repeats,
        words, pmi (nats per reply).
    """
    rows = {
        int(step): unpacked(columns)
        for step, columns in json.loads(run.read("scores.json")).items()
    }
    limits = limits_of(rows[0])
    path = {step: shares_of(rows[step], limits) | _means(rows[step]) for step in rows}
    return pd.DataFrame.from_dict(path, orient="index").sort_index()


def _means(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    columns = ("alone", "repeats", "words", "pmi")
    return {
        column: float(np.mean([row[column] for row in rows if column in row]))
        for column in columns
    }


def stop(path: pd.DataFrame, tolerated: float = TOLERATED) -> int:
    """The step at which a rule stops that needs no labels.

    Parameters
    ----------
    path : pandas.DataFrame
        Of `path_of`.
    tolerated : float
        Share of replies.

    Returns
    -------
    int
        The last step before the share of replies within the limits of damage has
        fallen by more than `tolerated`. The limits come from the untrained model's
        replies, so no reply has to be checked for what was wished.
    """
    fallen = path.within.iloc[0] - path.within > tolerated
    return int(path.index[~fallen.cummax()].max())


def past_the_stop(paths: Iterable[pd.DataFrame]) -> dict[str, dict[str, Any]]:
    """Parts of the claim that training overfits, from the stop to the last step.

    Parameters
    ----------
    paths : iterable of DataFrame
        Of `path_of`, one per seed; those that never stop do not count.

    Returns
    -------
    dict
        {part: its keywords}; empty where every training ended before its stop.
    """
    past = [path for path in paths if stop(path) < path.index[-1]]
    if not past:
        return {}
    ends = [(path.loc[stop(path)], path.iloc[-1]) for path in past]
    lost = [float(at.adherence - end.adherence) for at, end in ends]
    gained = [float(end.pmi - at.pmi) for at, end in ends]
    wishes = parts({"adherence lost past the stop": lost}, (0, None), "of wishes")
    nats = {"information gained past the stop": gained}
    return wishes | parts(nats, (0, None), "nats per reply")
