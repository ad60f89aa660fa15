"""Chapter 14, labelled pairs: RMiPO and its kin on a real model, told to be polite.

The pairs are those of `mipo.worlds.politeness`. A `trial` trains a policy on some of
them, scores held-out pairs, asks held-out questions, and lets the weights go: what is
kept is small. Below it stand the settings that are tried, and the tables.
"""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mipo.cache import cached
from mipo.evaluate import paired_bootstrap
from mipo.files import dumps, write_whole
from mipo.lm import sampling
from mipo.lm.prompts import render
from mipo.logprobs import response_logps
from mipo.models import load_model, require_finite
from mipo.numbers import interval_of
from mipo.recipes import RECIPES
from mipo.theory.margin import Margin
from mipo.trainer import PreferenceConfig, PreferenceTrainer
from mipo.worlds import politeness, wish_checks
from mipo_study import ch14_found, ch14_search, ch14_wishes, experiment, methods
from mipo_study.figures.style import arm_panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from mipo.cache import Run
    from mipo.lm.sampling import Reply
    from mipo.record import Notebook

Pair = Mapping[str, Any]
SIDES = ("chosen", "rejected")
LORA_RANK = 16
TOKENS = 40  # of a reply, at most
PAIRS_PER_STEP = 4  # so that few pairs make enough steps

# ---- one policy: trained, scored, asked ----


class Weighing(PreferenceTrainer):
    """A trainer that remembers what each pair was like when it was trained on.

    Attributes
    ----------
    seen : dict of list
        A list per step, a number per pair, nats per token: "gap" (Δ, the mean log-prob
        of the chosen reply less that of the rejected one), and "delta_pmi" for losses
        that read it, or what stands in its place.
    """

    seen: dict[str, list[list[float]]]

    def __init__(self, **given: Any):
        super().__init__(**given)
        self.seen = {}

    def _keep_metrics(
        self,
        summed: Tensor,
        tokens: Tensor,
        ref: Tensor | None,
        extra: dict[str, Tensor],
    ) -> None:
        super()._keep_metrics(summed, tokens, ref, extra)
        chosen, rejected = (summed / tokens)[:2]
        columns = {"gap": chosen - rejected, **extra}
        for name in ("gap", "delta_pmi"):
            if name in columns:
                numbers = [round(x, ch14_wishes.DIGITS) for x in columns[name].tolist()]
                self.seen.setdefault(name, []).append(numbers)


@cached(
    "labelled-{name}-{seed}",
    inputs=["base"],
    keep=["order.json", "scores.json", "replies.json", "seen.json"],
)
def trial(
    folder: Path,
    *,
    name: str,
    base: str,
    seed: int,
    part: str,
    n_pairs: int,
    n_scored: int,
    n_asked: int,
    setting: Mapping[str, Any] | None = None,
    lr: float = 0.0,
    progress: bool,
) -> dict[str, Any]:
    """Run of one policy: what it makes of held-out pairs, and what it answers.

    The weights are not kept.

    Parameters
    ----------
    name : str
        Of the policy, for the run's own name.
    base : str
        The model that is trained and that measures.
    seed : int
        Which pairs are learned from, their order, adapters, and replies.
    part : {"select", "test"}
        Of the pairs that are scored and the questions that are asked.
    n_pairs, n_scored, n_asked : int
        Pairs that are learned from, once; pairs that are scored; questions, if any.
    setting : dict, optional
        Loss and options of the training, as `methods.setting` gives them; None: nothing
        is trained.
    lr : float
        The highest learning rate.

    Returns
    -------
    Run
        Metrics: steps, first_loss, last_loss; or failed. Files: order.json, {chosen,
        rejected, chosen_tokens, rejected_tokens: a value per pair}, log-probs summed,
        nats; scores.json, {column: values}, see `measure`; replies.json; seen.json, see
        `Weighing`.
    """
    metrics: dict[str, Any] = {}
    seen: dict[str, list] = {}
    model, tokenizer = load_model(base)
    if setting is not None:
        rows = draw(n_pairs, seed, tokenizer)
        try:
            model, metrics, seen = train(
                model, tokenizer, rows, setting, lr, seed, folder, progress
            )
        except FloatingPointError as error:
            metrics = {"failed": str(error)}
        finally:
            shutil.rmtree(folder / "trainer", ignore_errors=True)
    order, columns, texts = {}, {}, []
    held_out = politeness.pairs(part)
    if "failed" not in metrics:
        order = score(model, tokenizer, spread(held_out, n_scored))
    if n_asked and "failed" not in metrics:
        asked = spread(held_out, n_asked)
        replies = answer(model, tokenizer, asked, seed, progress)
        measurer = load_model(base)[0] if setting is not None else model
        found = measure(measurer, tokenizer, asked, replies)
        columns = ch14_wishes.columns_of(found)
        texts = [reply.text for reply in replies]
    write_whole(folder / "order.json", dumps(order))
    write_whole(folder / "scores.json", dumps(columns))
    write_whole(folder / "replies.json", json.dumps(texts, ensure_ascii=False))
    write_whole(folder / "seen.json", dumps(seen))
    return metrics


def draw(
    n_pairs: int, seed: int, tokenizer: PreTrainedTokenizerBase
) -> list[dict[str, str]]:
    """So many pairs of the part "train", drawn without replacement, for the trainer."""
    rows = politeness.pairs("train")
    places = np.random.default_rng((seed, 14)).permutation(len(rows))
    return [
        {
            "prompt": render(tokenizer, rows[i]["query"]),
            "chosen": rows[i]["chosen"],
            "rejected": rows[i]["rejected"],
        }
        for i in places[:n_pairs]
    ]


def spread(rows: Sequence[Pair], n: int) -> list[Pair]:
    """So many rows, evenly spaced; all, where there are no more."""
    places = np.linspace(0, len(rows) - 1, min(n, len(rows))).round().astype(int)
    return [rows[i] for i in places]


def train(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Mapping[str, str]],
    setting: Mapping[str, Any],
    lr: float,
    seed: int,
    folder: Path,
    progress: bool,
) -> tuple[PreTrainedModel, dict[str, Any], dict[str, list]]:
    """Train adapters on pairs, once, and merge them.

    It is `experiment.train_on` with a trainer that remembers its pairs, and without a
    copy of the weights on disk.

    Returns
    -------
    model : PreTrainedModel
        The policy.
    metrics : dict
        steps, first_loss, last_loss.
    seen : dict
        See `Weighing`.

    Raises
    ------
    FloatingPointError
        Where the loss or the weights are no finite numbers.
    """
    options = dict(setting)
    config = PreferenceConfig(
        output_dir=str(folder / "trainer"),
        loss=options.pop("loss"),
        loss_kwargs=dict(options.pop("loss_kwargs")),
        learning_rate=lr,
        num_train_epochs=1,
        per_device_train_batch_size=PAIRS_PER_STEP,
        seed=seed,
        logging_steps=1,
        disable_tqdm=not progress,
        use_cpu=not torch.cuda.is_available(),
        bf16=False,
        ref_cache_dir=str(folder.parents[1] / "cache" / "ref-logps"),
        **RECIPES["mipo"],
        **options,
    )
    trainer = Weighing(
        model=model,
        args=config,
        train_dataset=list(rows),
        processing_class=tokenizer,
        peft_config=experiment.lora(LORA_RANK),
    )
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    merged = trainer.model.merge_and_unload()
    require_finite(merged, config.loss, lr)
    metrics = {
        "steps": len(losses),
        "first_loss": losses[0],
        "last_loss": losses[-1],
    }
    return merged, metrics, trainer.seen


def answer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Pair],
    seed: int,
    progress: bool,
) -> list[Reply]:
    """A policy's own replies to the questions of some pairs."""
    return sampling.sample(
        model,
        tokenizer,
        [render(tokenizer, row["query"]) for row in rows],
        max_new_tokens=TOKENS,
        seed=seed,
        batch_size=ch14_wishes.BATCH,
        progress=progress,
    )


def score(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Pair]
) -> dict[str, list[float]]:
    """Log-probs of both replies of some pairs, summed, nats; and their tokens."""
    prompts = [render(tokenizer, row["query"]) for row in rows]
    found = {}
    for side in SIDES:
        replies = [row[side] for row in rows]
        scores = response_logps(
            model, tokenizer, prompts, replies, batch_size=ch14_wishes.BATCH
        )
        found[side] = scores.summed.double().tolist()
        found[f"{side}_tokens"] = scores.tokens.tolist()
    return found


def measure(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Pair],
    replies: Sequence[Reply],
) -> list[dict[str, Any]]:
    """A row of numbers per reply.

    Parameters
    ----------
    model, tokenizer
        The untrained model, which measures.
    rows, replies : sequence
        What was asked, and the reply.

    Returns
    -------
    list of dict
        finished, words, repeats (share of runs of four words that occur twice), alone
        (log-prob after the question, nats per token), polite, rude.
    """
    prompts = [render(tokenizer, row["query"]) for row in rows]
    ids = [reply.ids for reply in replies]
    scores = response_logps(
        model, tokenizer, prompts, ids, batch_size=ch14_wishes.BATCH
    )
    found = []
    for reply, logp in zip(replies, scores.summed.tolist(), strict=True):
        terms = wish_checks.words(reply.text)
        found.append(
            {
                "finished": reply.finished,
                "words": len(terms),
                "repeats": ch14_wishes.repeats(terms),
                "alone": logp / max(1, len(reply.ids)),
                "polite": politeness.is_polite(reply.text),
                "rude": politeness.is_rude(reply.text),
            }
        )
    return found


# ---- which settings are compared ----

RIVALS = ("dpo", "ipo", "orpo", "simpo")
METHODS = ("rmipo", *RIVALS)
RATES = (5e-5, 1e-4, 2e-4)
# Two that are tried at every rate, then one below the first and one above the second.
STRENGTHS: dict[str, list[dict[str, float]]] = {
    "rmipo": [{"beta": beta} for beta in (2.0, 10.0, 0.4, 50.0)],
    "dpo": [{"beta": beta} for beta in (0.03, 0.1, 0.01, 0.3)],
    "ipo": [{"tau": tau} for tau in (0.1, 0.5, 0.02, 2.5)],
    "orpo": [{"beta": beta} for beta in (0.1, 1.0, 0.01, 10.0)],
    "simpo": [{"beta": beta, "gamma": beta / 2} for beta in (2.0, 10.0, 0.4, 50.0)],
}
SCALES = (0.1, 1.0, 10.0)  # of Δpmi in γ, nats per token; 1 as published
CONTROLS = ("none", "shuffled", "constant")
SOUND = 0.8  # of a setting's replies must lie within the limits, to be chosen
MOVED = 0.1  # of the mean weight; γ that moves a pair's by less is not put to the test
SEARCH_SEED = 100


class Plan(NamedTuple):
    """How much is run.

    Attributes
    ----------
    n_pairs : int
        That each policy learns from.
    n_scored, n_asked : int
        Held-out pairs and questions.
    n_tried : int
        Questions in the search.
    seeds : tuple of int
        Each draws pairs, adapters and replies anew.
    scales : tuple of float
        See `SCALES`.
    searched : bool
        Whether settings are chosen; if not, each method takes its first strength at the
        middle rate.
    """

    n_pairs: int
    n_scored: int = 128
    n_asked: int = 48
    n_tried: int = 24
    seeds: tuple[int, ...] = (0, 1, 2)
    scales: tuple[float, ...] = SCALES
    searched: bool = True


def plan(n_pairs: int) -> Plan:
    """The plan for so many pairs; fewer than 32 make a rehearsal that finds nothing."""
    if n_pairs >= 32:
        return Plan(n_pairs)
    return Plan(
        n_pairs, n_scored=8, n_asked=4, seeds=(0,), scales=(1.0,), searched=False
    )


def with_strength(method: str, strength: Mapping[str, float]) -> dict[str, Any]:
    """A method's setting, with some keywords of its loss changed."""
    given = methods.setting(method)
    return given | {"loss_kwargs": given["loss_kwargs"] | strength}


def search(size: Plan, *, base: str, **run_as: Any) -> pd.DataFrame:
    """Trials of every setting on the part "select": three rates by two strengths each.

    Beside these, what lies beyond a method's best setting, see `ch14_search.beyond`.

    Parameters
    ----------
    size : Plan
        How much is run.
    base : str
        The model.
    run_as
        run_dir, workers and progress of `experiment.run_many`.

    Returns
    -------
    pandas.DataFrame
        Index: method, rate, strength (number of the method's). The measures of
        `measures`.
    """
    common = {
        "base": base,
        "seed": SEARCH_SEED,
        "part": "select",
        "n_pairs": size.n_pairs,
        "n_scored": size.n_scored,
        "n_asked": size.n_tried,
    }
    where = {key: run_as[key] for key in ("run_dir", "progress")}
    start = trial(name="try-base", **common, **where)
    tried = {method: ch14_search.start(RATES) for method in METHODS}
    while True:
        calls = {
            (method, rate, number): {
                "name": f"try-{method}",
                "setting": with_strength(method, STRENGTHS[method][number]),
                "lr": rate,
            }
            for method in METHODS
            for rate, number in tried[method]
        }
        index = ["method", "rate", "strength"]
        runs = experiment.run_many(trial, calls, index=index, **common, **run_as)
        rows = [measures(run, start) for run in runs.run]
        found = pd.DataFrame(rows, index=runs.index).sort_index()
        chosen = {method: best(found, method) for method in METHODS}
        if not ch14_search.grown(tried, chosen, STRENGTHS):
            return found


def best(searched: pd.DataFrame, method: str) -> tuple[float, int]:
    """Rate and number of the strength that order most held-out pairs as labelled.

    Only settings count of whose replies `SOUND` or more lie within the limits of
    damage; where none does, the one with most such replies.
    """
    rows = searched.loc[method]
    sound = rows[rows.within >= SOUND]
    place: Any = sound.order.idxmax() if len(sound) else rows.within.idxmax()
    rate, number = place
    return float(rate), int(number)


def compare(
    chosen: Mapping[str, tuple[float, int]], size: Plan, *, base: str, **run_as: Any
) -> pd.DataFrame:
    """Trials of the untrained model and of every method at its setting, on the test.

    Parameters
    ----------
    chosen : dict
        {method: (rate, number of the strength)}.
    size, base, run_as
        See `search`.

    Returns
    -------
    pandas.DataFrame
        Index: method, seed. Column run.
    """
    calls: dict[tuple[str, int], dict[str, Any]] = {}
    for seed in size.seeds:
        calls["base", seed] = {"name": "base", "seed": seed}
        for method, (rate, number) in chosen.items():
            calls[method, seed] = {
                "name": method,
                "seed": seed,
                "setting": with_strength(method, STRENGTHS[method][number]),
                "lr": rate,
            }
    return experiment.run_many(
        trial, calls, index=["method", "seed"], **_on_test(size, base), **run_as
    )


def _on_test(size: Plan, base: str) -> dict[str, Any]:
    return {
        "base": base,
        "part": "test",
        "n_pairs": size.n_pairs,
        "n_scored": size.n_scored,
        "n_asked": size.n_asked,
    }


# ---- is it the mutual information? ----


def at_scale(method: str, strength: Mapping[str, float], scale: float) -> dict:
    """RMiPO's or a control's setting, with Δpmi over `scale` in its margin.

    The published scale, 1, is left out, so that the runs of `compare` are found.
    """
    more = {} if scale == 1 else {"scale": scale}
    return with_strength(method, {**strength, **more})


def ingredient(
    chosen: tuple[float, int], size: Plan, *, base: str, **run_as: Any
) -> pd.DataFrame:
    """RMiPO at every scale, and its controls, all at RMiPO's rate and β, on the test.

    Parameters
    ----------
    chosen : (float, int)
        RMiPO's rate and number of the strength.
    size, base, run_as
        See `search`.

    Returns
    -------
    pandas.DataFrame
        Index: method ("rmipo" and `CONTROLS`), scale, seed. Columns: run; margin, the
        `Margin` that RMiPO has at this scale.
    """
    rate, number = chosen
    strength = STRENGTHS["rmipo"][number]
    run_as = {**_on_test(size, base), **run_as, "index": ["method", "scale", "seed"]}
    run_as.pop("n_asked")
    ours, controls = {}, {}
    for scale, seed in itertools.product(size.scales, size.seeds):
        same = {"seed": seed, "lr": rate, "n_asked": 0}
        for method in ("rmipo", "none", "shuffled"):
            calls = ours if method == "rmipo" else controls
            given = at_scale(method, strength, scale)
            calls[method, scale, seed] = {**same, "name": method, "setting": given}
        if scale == 1:  # the same run as of `compare`
            ours["rmipo", scale, seed]["n_asked"] = size.n_asked
    runs = experiment.run_many(trial, ours, **run_as)
    for (_, scale, seed), run in runs.run.to_dict().items():
        seen = seen_by(run)
        if seen:  # a diverged training saw none
            gamma = float(margin(strength, scale).gamma(seen["delta_pmi"]).mean())
            controls["constant", scale, seed] = {
                "seed": seed,
                "lr": rate,
                "n_asked": 0,
                "name": "constant",
                "setting": methods.constant_margin(gamma, beta=strength["beta"]),
            }
    return pd.concat([runs, experiment.run_many(trial, controls, **run_as)])


def margin(strength: Mapping[str, float], scale: float) -> Margin:
    """RMiPO's margin at a strength and a scale of Δpmi."""
    return Margin(scale=scale, beta=strength["beta"])


def seen_by(run: Run) -> dict[str, np.ndarray]:
    """What the pairs were like when they were trained on: arrays (steps, pairs).

    See `Weighing`. Steps that have fewer pairs than the first are left out.
    """
    seen = json.loads(run.read("seen.json"))
    return {
        name: np.array([step for step in steps if len(step) == len(steps[0])])
        for name, steps in seen.items()
    }


def curve(run: Run, shape: Margin) -> dict[str, np.ndarray]:
    """γ and weights at each step of an RMiPO training: means and standard deviations.

    Returns
    -------
    dict
        gamma, gamma_std (nats per token), weight, weight_std: shape (steps,).
    """
    seen = seen_by(run)
    gamma = shape.gamma(seen["delta_pmi"]).numpy()
    weight = shape.weight(seen["gap"], seen["delta_pmi"]).numpy()
    return {
        "gamma": gamma.mean(1),
        "gamma_std": gamma.std(1),
        "weight": weight.mean(1),
        "weight_std": weight.std(1),
    }


def moved(run: Run, shape: Margin) -> float:
    r"""By how much γ moves a pair's weight from that under a constant γ, on average.

    Parameters
    ----------
    run : Run
        Of an RMiPO training.
    shape : Margin
        That it trained with.

    Returns
    -------
    float
        Of the mean weight under a constant γ of the same mean: 0 if γ does not vary, or
        the training diverged.

    Notes
    -----
    mean |σ(β(γ_i - Δ_i)) - σ(β(γ̄ - Δ_i))| / mean σ(β(γ̄ - Δ_i)), over the pairs i as
    they were when they were trained on; eq-weight in chapter 3.
    """
    seen = seen_by(run)
    if not seen:
        return 0.0  # diverged
    gap = torch.tensor(seen["gap"])
    target = shape.target(seen["delta_pmi"])
    decaying = torch.sigmoid(shape.beta * (target - gap))
    constant = torch.sigmoid(shape.beta * (target.mean() - gap))
    return float((decaying - constant).abs().mean() / constant.mean())


def shifts(runs: pd.Series, strength: Mapping[str, float]) -> dict[float, list[float]]:
    """{scale: `moved` of RMiPO, by seed}.

    Parameters
    ----------
    runs : pandas.Series
        RMiPO's runs of `ingredient`, by scale and seed.
    strength : dict
        That they trained with.
    """
    found: dict[float, list[float]] = {}
    for (scale, _), run in runs.to_dict().items():
        found.setdefault(scale, []).append(moved(run, margin(strength, scale)))
    return found


def curves(
    runs: pd.Series, strength: Mapping[str, float], seed: int
) -> dict[str, dict[str, np.ndarray]]:
    """{"scale s": `curve`} of one seed's trainings, without those that diverged."""
    found = {}
    for scale in runs.index.unique("scale"):
        run = runs[scale, seed]
        if seen_by(run):
            found[f"scale {scale:g}"] = curve(run, margin(strength, scale))
    return found


def told(
    found: pd.DataFrame, moves: Mapping[float, Sequence[float]]
) -> dict[float, bool]:
    """At which scales these trainings can tell what γ is worth.

    Parameters
    ----------
    found : pandas.DataFrame
        Of `table`, of the runs of `ingredient`.
    moves : dict
        Of `shifts`.

    Returns
    -------
    dict
        {scale: whether γ moves the weights by `MOVED` or more, and RMiPO orders more
        pairs than a coin does, beyond its interval}.
    """
    answers = {}
    for scale, values in moves.items():
        gain = interval_of((found.order["rmipo", scale] - 0.5).to_list(), "of pairs")
        learns = gain.low is not None and gain.low > 0
        answers[scale] = learns and float(np.mean(values)) >= MOVED
    return answers


def lost(found: pd.DataFrame, control: str, scale: float) -> list[float]:
    """What a control loses of RMiPO's mean gain in order over a coin, by seed.

    Parameters
    ----------
    found : pandas.DataFrame
        Of `table`, of the runs of `ingredient`.
    control : str
        One of `CONTROLS`.
    scale : float
        See `SCALES`.

    Returns
    -------
    list of float
        Empty where RMiPO gains nothing.
    """
    ours = found.order["rmipo", scale]
    gain = ours.mean() - 0.5
    if gain <= 0:
        return []
    return ((ours - found.order[control, scale]) / gain).to_list()


# ---- what a run found ----

MEASURES = {
    "order": "of held-out pairs",
    "order-per-token": "of held-out pairs",
    "likelier": "of held-out pairs",
    "likelier-per-token": "of held-out pairs",
    "chosen-drift": "nats per token",
    "polite": "of replies",
    "polite-anyhow": "of replies",
    "rude": "of replies",
    "within": "of replies",
    "alone": "nats per token",
    "repeats": "of runs of four words",
    "words": "words",
    "cut": "of replies",
}

SHOWN = ("order", "likelier-per-token", "polite", "rude", "within")
SHOWN += ("words", "alone")
# What a verdict looks at: the reward of DPO and IPO, that of RMiPO and SimPO, and what
# nobody is trained for.
COMPARED = {
    "order": "of held-out pairs",
    "likelier-per-token": "of held-out pairs",
    "polite": "of replies",
}


def measures(run: Run, start: Run) -> dict[str, float]:
    """The measures of one run; see `MEASURES`.

    Parameters
    ----------
    run, start : Run
        Of a policy, and of the untrained model on the same pairs and questions.

    Returns
    -------
    dict
        order, order-per-token: share of the pairs of whose replies the chosen one
        gained more log-prob on the untrained model than the rejected one (half a pair
        where neither did); likelier, likelier-per-token: share whose chosen reply has
        the higher log-prob; chosen-drift: what the chosen replies gained, nats per
        token. polite: share of the policy's own replies that are polite and within the
        limits, which are what one reply in forty of the untrained model passes;
        polite-anyhow, rude, within; the means alone, repeats, words; cut; all these
        only where something was asked. A diverged training orders as a coin does, and
        none of its replies counts.
    """
    if "failed" in run.metrics:
        zero = dict.fromkeys(MEASURES, 0.0)
        coin = ("order", "order-per-token", "likelier", "likelier-per-token")
        return zero | dict.fromkeys(coin, 0.5)
    asked = bool(json.loads(run.read("replies.json")))
    return ordered(run, start) | (spoken(run, start) if asked else {})


def _gaps(run: Run) -> dict[str, np.ndarray]:
    """Log-prob of the chosen less that of the rejected reply, and of the chosen one."""
    columns = json.loads(run.read("order.json"))
    chosen, rejected = (np.array(columns[side]) for side in SIDES)
    tokens = {side: np.array(columns[f"{side}_tokens"]) for side in SIDES}
    means = chosen / tokens["chosen"], rejected / tokens["rejected"]
    return {"": chosen - rejected, "-per-token": means[0] - means[1], "own": means[0]}


def ordered(run: Run, start: Run) -> dict[str, float]:
    """The measures on held-out pairs; see `measures`."""
    now, before = _gaps(run), _gaps(start)
    found = {"chosen-drift": float(np.mean(now["own"] - before["own"]))}
    for way in ("", "-per-token"):
        found[f"order{way}"] = float(np.mean(_raised(now[way], before[way])))
        found[f"likelier{way}"] = float(np.mean(now[way] > 0))
    return found


def _raised(now: np.ndarray, before: np.ndarray) -> np.ndarray:
    """1 for each pair whose gap rose, 0 where it fell, one half where neither."""
    return (np.sign(now - before) + 1) / 2


def spoken(run: Run, start: Run) -> dict[str, float]:
    """The measures of a policy's own replies; see `measures`."""
    rows = _replies(run)
    limits = ch14_found.limits_of(_replies(start))
    within = np.array([limits.holds(row) for row in rows])
    means = pd.DataFrame(rows).mean()
    polite = np.array([row["polite"] for row in rows])
    return {
        "polite": float(np.mean(polite & within)),
        "polite-anyhow": float(polite.mean()),
        "within": float(within.mean()),
        "cut": float(1 - means["finished"]),
        **{name: float(means[name]) for name in ("rude", "alone", "repeats", "words")},
    }


def each(run: Run, start: Run, column: str) -> np.ndarray:
    """A measure of `COMPARED`, pair by pair or reply by reply.

    Parameters
    ----------
    run, start : Run
        See `measures`.
    column : str
        A key of `COMPARED`.
    """
    if column == "polite":
        rows = _replies(run) if "failed" not in run.metrics else []
        limits = ch14_found.limits_of(_replies(start))
        none = [0.0] * len(_replies(start))
        return np.array([float(r["polite"] and limits.holds(r)) for r in rows] or none)
    before = _gaps(start)
    if "failed" in run.metrics:
        return np.full(len(before[""]), 0.5)
    now = _gaps(run)
    if column == "order":
        return _raised(now[""], before[""])
    return (now["-per-token"] > 0).astype(float)


def _replies(run: Run) -> list[dict[str, Any]]:
    """A row per reply, as `measure` gave it."""
    return ch14_found.unpacked(json.loads(run.read("scores.json")))


def table(trials: pd.DataFrame, starts: pd.Series) -> pd.DataFrame:
    """The measures of every trial.

    Parameters
    ----------
    trials : pandas.DataFrame
        Of `compare` or `ingredient`.
    starts : pandas.Series
        Runs of the untrained model, by seed.

    Returns
    -------
    pandas.DataFrame
        With the index of `trials`; see `MEASURES`.
    """
    rows = [
        measures(run, starts[key[-1]])
        for key, run in zip(trials.index, trials.run, strict=True)
    ]
    return pd.DataFrame(rows, index=trials.index).sort_index()


def keep_measures(nb: Notebook, found: pd.DataFrame) -> None:
    """Keep what `table` found as numbers `labelled-<measure>-<method>`."""
    for method in found.index.unique("method"):
        for name, unit in MEASURES.items():
            values = found[name][method].to_list()
            nb.number(f"labelled-{name}-{method}", values, unit)


def leads(runs: pd.Series, column: str) -> dict[str, tuple[float, float, float]]:
    """By how much RMiPO is ahead of each rival in a measure.

    Parameters
    ----------
    runs : pandas.Series
        Of `compare`, by method and seed.
    column : str
        A key of `COMPARED`.

    Returns
    -------
    dict
        {rival: (value, low, high)}; the 95 % interval draws seeds whole, and pairs or
        questions, which are the same on every seed.
    """
    seeds = runs["rmipo"].index
    values = {
        method: [each(runs[method, s], runs["base", s], column) for s in seeds]
        for method in METHODS
    }
    size = len(values["rmipo"][0])
    levels = [np.repeat(seeds, size), np.tile(np.arange(size), len(seeds))]
    ours = np.concatenate(values["rmipo"])
    return {
        rival: paired_bootstrap(ours, np.concatenate(values[rival]), levels)
        for rival in RIVALS
    }


def settled(nb: Notebook) -> pd.DataFrame:
    """The published run's means of each method's measures; empty where there is none.

    Returns
    -------
    pandas.DataFrame
        Index: method's label; columns: `MEASURES`.
    """
    rows = {}
    for method in ("base", *METHODS):
        numbers = {n: nb.published(f"labelled-{n}-{method}") for n in MEASURES}
        means = {name: number.mean for name, number in numbers.items() if number}
        if means:
            rows[methods.label(method)] = means
    return pd.DataFrame.from_dict(rows, orient="index")


def settled_moves(nb: Notebook) -> str:
    """What the published run found on γ at each scale, in a sentence."""
    found = {}
    for scale in SCALES:
        number = nb.published(f"labelled-moved-{scale:g}")
        if number:
            found[f"scale {scale:g}"] = number.mean
    if not found:
        return "The controls have not been run yet."
    words = ", ".join(f"{name}: {share:.1%}" for name, share in found.items())
    return f"In the published run γ moved a weight by so much of the mean one: {words}."


def detectable(size: Plan) -> float:
    """The smallest difference in order between two policies that one seed finds.

    Notes
    -----
    See `ch14_found.detectable`. The error is √(2·p(1 - p)/n) at p = 1/2, n the held-out
    pairs: as if the two policies were scored on different pairs; on the same ones it is
    smaller.
    """
    return ch14_found.detectable(np.sqrt(2 * 0.25 / size.n_scored))


def panels(found: pd.DataFrame, columns: Mapping[str, str]) -> Figure:
    """A panel per measure, a row per method; see `style.arm_panels`.

    Parameters
    ----------
    found : pandas.DataFrame
        Of `table`, of the runs of `compare`.
    columns : dict
        {title: a key of `MEASURES`}.
    """
    order = ["base", *METHODS]
    there = [name for name in order if name in found.index.unique("method")]
    return arm_panels(
        {
            title: {name: found[column][name].to_list() for name in there}
            for title, column in columns.items()
        }
    )


def examples(n: int = 2) -> pd.DataFrame:
    """The first n held-out pairs of each kind."""
    frame = pd.DataFrame(politeness.pairs("test"))
    some = frame.groupby("kind", sort=False).head(n)
    return some.sort_values("kind")[["query", "chosen", "rejected"]]
