"""Chapter 18: a reader's own users, preferences and model, trained and measured.

Everything is cached by `mipo_study.hub.runs`: a run goes on where it stopped.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from transformers.utils import logging

from mipo import evaluate, files, preference_data, recipes
from mipo.cache import Run
from mipo.evaluate import token_lengths
from mipo.lm.tokens import token_ids
from mipo.losses import gamma_decay
from mipo.recipes import RECIPES
from mipo.worlds import population
from mipo_study import methods, tables
from mipo_study.hub import benchmarks, download, runs, scores
from mipo_study.hub.download import Place

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from mipo.record import Notebook

UNKNOWN_SHARE = 0.02  # of tokens: above it a model cannot read the users' words
TEST_SHARE = 1 / 3  # of the examples, whole users at a time
HELD_OUT = 0.2  # share of the prompts of the preferences
BATCH = 12  # pairs per step, at most
LEAST_STEPS = 8  # fewer pairs make smaller batches, not fewer steps than this
FEW_PAIRS = 100  # below it a gain can hardly be told from chance
LEAST_PAIRS = 10  # fewer held-out pairs say nothing

# The small world's model has a million parameters and takes large steps; models of the
# hub take TRL's rate for DPO, those between ten times it, and adapters ten times more.
TINY, MIDDLING = 5e6, 5e8  # parameters
TINY_RATE, MIDDLING_RATE, HUB_RATE = 4.5e-4, 1e-5, 1e-6
# The sum of the rates, which is about as far as Adam moves a weight; the published MIPO
# training (5e-7 at most, 250 steps) has 7e-5. Adapters need ten times as much.
LEAST_TRAVEL = 3e-5

# {measure: (title in tables, unit)}; the untrained model judges unless said otherwise.
MEASURES = {
    "pmi": ("conditional PMI (nats)", "nats per reply"),
    "match": ("match (share)", "of replies"),
    "own_pmi": ("PMI, by the policy itself", "nats per reply"),
    "own_match": ("match, by the policy itself", "of replies"),
    "right": ("chosen is likelier (share)", "of pairs"),
    "gap": ("chosen less rejected (nats)", "nats per token"),
}


# ---- who and what ----


def base_model(nb: Notebook, model: str = "") -> Place:
    """The model to start from: the reader's, or the base model of chapter 4.

    Parameters
    ----------
    nb : Notebook
        Knows where runs are kept and what chapter 4 left.
    model : str
        Hub name or folder; "": chapter 4's.

    Raises
    ------
    FileNotFoundError
        Where chapter 4 has not run; it says how to run it.
    download.Unavailable
        Where a hub model cannot be had.
    """
    if nb.scale != "hand":  # bars are for people
        logging.disable_progress_bar()
    if not model:
        folder = nb.need("04-small-world", "base-0")
        return Place("the small world's model", Path(folder))
    return download.model(model, run_dir=nb.run_dir)


def example_users(
    run_dir: str | Path, *, n_people: int = 90, per_task: int = 2, seed: int = 0
) -> Path:
    """Write users of the small world as a reader's file would be.

    Parameters
    ----------
    run_dir : str or Path
        Where runs are kept.
    n_people, per_task, seed : int
        See `mipo.worlds.population.examples`.

    Returns
    -------
    Path
        A JSONL file with query, context and person on each line.
    """
    examples = population.examples(n_people, split="mipo", per_task=per_task, seed=seed)
    rows = [
        {
            "context": example["context"],
            "query": example["query"],
            "person": f"user {example['person']}",
        }
        for example in examples
    ]
    path = files.resolve(run_dir) / "own-users" / f"example-{n_people}-{per_task}.jsonl"
    return files.write_whole(path, files.lines(rows))


def read_users(path: str | Path, base: Place) -> list[dict]:
    """Examples of a JSONL file, each with its person, checked against the model.

    Parameters
    ----------
    path : str or Path
        One object a line: query, and optionally context, person and gold. Without a
        person, whoever has the same context is one.
    base : Place
        The model that is to read them.

    Raises
    ------
    ValueError
        Names file and line, or the share of words that the model does not know.
    """
    rows = benchmarks.own_users(path)
    for row in rows:
        row["person"] = row["person"] or "nobody"
    require_known_words(base, rows, Path(path).name)
    return rows


def require_known_words(base: Place, examples: Sequence[dict], where: str) -> None:
    """Refuse examples that a model cannot read.

    Parameters
    ----------
    base : Place
        The model.
    examples : sequence of dict
        With query and context.
    where : str
        Their file, for the error.

    Raises
    ------
    ValueError
        For more than `UNKNOWN_SHARE` of unknown tokens; says what to do.
    """
    _, tokenizer = runs.model_of(base)
    prompts = [runs.prompt_text(tokenizer, example) for example in examples]
    _require_known(base, prompts, where)


def _require_known(base: Place, texts: Sequence[str], where: str) -> None:
    _, tokenizer = runs.model_of(base)
    unknown = tokenizer.unk_token_id
    ids = [token for row in token_ids(tokenizer, texts) for token in row]
    share = ids.count(unknown) / len(ids) if unknown is not None else 0.0
    if share > UNKNOWN_SHARE:
        raise ValueError(
            f"{share:.0%} of the tokens in {where} are unknown to {base.name}: give a "
            "model that knows these words, with -p model NAME (a hub name or a folder)"
        )


def split_users(
    examples: Sequence[dict], *, seed: int = 0
) -> tuple[list[dict], list[dict]]:
    """Examples to train on and to test on; no person is in both.

    Parameters
    ----------
    examples : sequence of dict
        With person.
    seed : int
        Of who is in which part.

    Returns
    -------
    train, test : list of dict

    Raises
    ------
    ValueError
        For fewer than three persons: one to train on, two to be told apart.
    """
    n_test = max(2, round(TEST_SHARE * len(examples)))
    parts = benchmarks.split_people(examples, n_test=n_test, seed=seed)
    return parts.train, parts.test


def used_contexts(before: pd.DataFrame) -> str:
    """Whether the base model's replies depend on their users, in words.

    Parameters
    ----------
    before : pandas.DataFrame
        Of `Workshop.measure` for the base model.

    Returns
    -------
    str
        A warning where neither conditional PMI nor match is above what chance gives, by
        intervals that draw whole persons; else a sentence that says so.
    """
    persons = before["person"].to_numpy()
    found = {}
    for column, chance in (("pmi", 0.0), ("match", before["chance"].iloc[0])):
        by_chance = np.full(len(before), chance)
        values = before[column].to_numpy()
        found[column] = evaluate.paired_bootstrap(values, by_chance, persons)
    mean = before[["pmi", "match"]].mean()
    chance = before["chance"].iloc[0]
    measured = (
        f"conditional PMI {mean['pmi']:.2f} nats, match {mean['match']:.0%} where a "
        f"guess gets {chance:.0%}, over {before['person'].nunique()} users"
    )
    if any(low > 0 for _, low, _ in found.values()):
        return f"The base model uses the contexts ({measured})."
    return (
        f"**The base model does not seem to use the contexts** ({measured}). Replies "
        "to the right and to another context then differ by chance only, and pairs "
        "made of them teach nothing about users: give contexts that a reply could "
        "show, more users, or a better model."
    )


# ---- training and measuring ----


def batch_of(pairs: int) -> int:
    """Pairs per step: `BATCH`, or fewer, so that there are `LEAST_STEPS` steps."""
    return max(1, min(BATCH, pairs // LEAST_STEPS))


@dataclass
class Workshop:
    """One base model and what has been made of it.

    Attributes
    ----------
    run_dir : Path
        Where finished work is kept.
    base : Place
        The model before training.
    learning_rate : float
        0 takes 4.5e-4 below 5 million parameters, 1e-5 below 500 million, 1e-6 above;
        adapters of the latter two take ten times as much.
    lora_rank : int
        Rank of adapters; 0 trains every weight.
    max_new_tokens : int
        Of a reply.
    seed : int
        Of sampling and training.
    progress : bool
        Whether to show bars.
    policies : dict
        By name: the base model, and every policy that was trained.
    """

    run_dir: Path
    base: Place
    learning_rate: float = 0.0
    lora_rank: int = 0
    max_new_tokens: int = 64
    seed: int = 0
    progress: bool = False
    policies: dict[str, Place | Run] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.policies = {"base": self.base}

    @property
    def parameters(self) -> int:
        """Of the base model."""
        model, _ = runs.model_of(self.base)
        return model.num_parameters()

    @property
    def small(self) -> bool:
        """Whether the model is small enough for large steps and large batches."""
        return self.parameters < TINY

    @property
    def rate(self) -> float:
        """The highest learning rate of every method."""
        if self.learning_rate:
            return self.learning_rate
        if self.small:
            return TINY_RATE
        usual = MIDDLING_RATE if self.parameters < MIDDLING else HUB_RATE
        return usual * (10 if self.lora_rank else 1)

    @property
    def sampling(self) -> dict[str, Any]:
        """Keywords of `runs.make_pairs` and `runs.make_replies`."""
        return {
            "temperature": 1.0,
            "top_p": 1.0,
            "max_new_tokens": self.max_new_tokens,
            "engine": "batched",
        }

    def pairs(
        self, examples: Sequence[dict], negatives: str = "random_context"
    ) -> list[dict]:
        """The base model's own pairs.

        Parameters
        ----------
        examples : sequence of dict
            With query and context.
        negatives : str
            A kind of rejected replies, see `mipo.pairs.synthesise_pairs`.

        Returns
        -------
        list of dict
            prompt, chosen and rejected, as messages.
        """
        run = self._pairs(examples, negatives)
        return runs.read_pairs(run)

    def _pairs(self, examples: Sequence[dict], negatives: str) -> Run:
        return runs.make_pairs(
            self.run_dir,
            self.base,
            examples,
            negatives,
            seed=self.seed,
            sampling=self.sampling,
            progress=self.progress,
        )

    def preferences(
        self, path: str | Path, train: Sequence[dict], test: Sequence[dict]
    ) -> tuple[list[dict], list[dict]]:
        """Labelled pairs to train on and to hold out.

        Parameters
        ----------
        path : str or Path
            A JSONL file in one of TRL's two preference formats; whole prompts are held
            out. "": the base model's own pairs for the users, so RMiPO needs no labels.
        train, test : sequence of dict
            The users' examples.

        Returns
        -------
        train, held_out : list of dict

        Raises
        ------
        ValueError
            As `mipo.preference_data.read`, and for words that the model does not know.
        """
        if path:
            rows = preference_data.read(path)
            _, tokenizer = runs.model_of(self.base)
            texts: list[str] = []
            for row in preference_data.as_text(rows, tokenizer):
                texts += [row[name] for name in preference_data.COLUMNS]
            _require_known(self.base, texts, Path(path).name)
            for row in rows:
                row["person"] = json.dumps(row["prompt"])
            return preference_data.split(rows, share=HELD_OUT, seed=self.seed)
        parts = []
        for examples in (train, test):
            pairs = self.pairs(examples)
            for i, pair in enumerate(pairs):
                pair["read_from"] = f"own pair {i}"
                pair["person"] = json.dumps(pair["prompt"])
            parts.append(pairs)
        return parts[0], parts[1]

    def _learned_from(
        self, name: str, users: Sequence[dict], preferences: Sequence[dict]
    ) -> Run:
        """The run of pairs that a method learns from."""
        method = methods.method(name)
        if method.pairs == "labelled":
            return runs.labelled_pairs(self.run_dir, preferences)
        return self._pairs(users, method.pairs)

    def plan(
        self, name: str, users: Sequence[dict], preferences: Sequence[dict]
    ) -> dict[str, Any]:
        """What a training will do, before it is done.

        Parameters
        ----------
        name, users, preferences
            As in `train`.

        Returns
        -------
        dict
            method, pairs, batch (pairs per step), steps, updates (steps whose rate is
            above 0), highest_rate, and travel: the sum of the rates, about as far as
            Adam moves a weight.
        """
        pairs = self._learned_from(name, users, preferences).metrics["pairs"]
        batch = batch_of(pairs)
        steps = math.ceil(pairs / batch)
        recipe = RECIPES[methods.settings_of(name).recipe]
        rates = recipes.rates(self.rate, steps, recipe)
        return {
            "method": name,
            "pairs": pairs,
            "batch": batch,
            "steps": steps,
            "updates": sum(rate > 0 for rate in rates),
            "highest_rate": max(rates),
            "travel": sum(rates),
        }

    def warnings(self, plans: Sequence[Mapping[str, Any]]) -> str:
        """What speaks against trainings, before they are done.

        Parameters
        ----------
        plans : sequence of dict
            Of `plan`.

        Returns
        -------
        str
            A paragraph for each training that can teach nothing, and one where the
            pairs are few; empty where all is well.
        """
        times = 10 if self.lora_rank else 1
        said = []
        for plan in plans:
            label = methods.label(plan["method"])
            if not plan["updates"]:
                said.append(
                    f"**{label} will learn nothing:** its one step is the first of the "
                    "warm-up, whose rate is 0. Give more pairs."
                )
            elif plan["travel"] < times * LEAST_TRAVEL:
                said.append(
                    f"**{label} will hardly learn anything:** its rates add up to "
                    f"{plan['travel']:.0e}, those of the published training to 7e-05"
                    f"{', and adapters need ten times as much' * (times > 1)}. Give "
                    "more users, or a higher `learning_rate`."
                )
        fewest = min((plan["pairs"] for plan in plans), default=FEW_PAIRS)
        if fewest < FEW_PAIRS:
            said.append(
                f"**There are only {fewest} pairs.** With fewer than {FEW_PAIRS}, a "
                "gain can hardly be told from chance: read what follows as a trial."
            )
        return "\n\n".join(said)

    def train(
        self, name: str, users: Sequence[dict], preferences: Sequence[dict]
    ) -> dict[str, Any]:
        """Train a method on what it learns from, and keep its policy.

        Parameters
        ----------
        name : str
            A method of `mipo_study.methods`: one that makes its own pairs learns from
            the users, the others from the preferences.
        users : sequence of dict
            Examples.
        preferences : sequence of dict
            Pairs of `preferences`.

        Returns
        -------
        dict
            pairs, left_out (pairs with an empty reply or two equal ones), seconds;
            steps, first_loss, last_loss, or failed: why the training diverged.
        """
        method = methods.method(name)
        setting = methods.settings_of(name)
        pairs = self._learned_from(name, users, preferences)
        run = runs.train_policy(
            self.run_dir,
            method.loss,
            setting,
            self.base,
            pairs,
            lr=self.rate,
            epochs=1.0,
            batch_size=batch_of(pairs.metrics["pairs"]),
            micro_batch=BATCH if self.small else 2,
            max_length=2048,
            lora_rank=self.lora_rank,
            seed=self.seed,
            checkpointing=not self.small,
            progress=self.progress,
        )
        if "failed" not in run.metrics:
            self.policies[name] = run
        return {**pairs.metrics, **run.metrics, "seconds": run.seconds}

    def replies(self, name: str, examples: Sequence[dict]) -> list[str]:
        """One reply of a policy to each example."""
        return runs.read_replies(self._replies(name, examples))

    def _replies(self, name: str, examples: Sequence[dict]) -> Run:
        return runs.make_replies(
            self.run_dir,
            self.policies[name],
            examples,
            seed=self.seed + 1,
            sampling=self.sampling,
            progress=self.progress,
        )

    def measure(self, name: str, examples: Sequence[dict]) -> pd.DataFrame:
        """A row per reply of a policy to examples.

        Parameters
        ----------
        name : str
            A key of `policies`.
        examples : sequence of dict
            Of the test users.

        Returns
        -------
        pandas.DataFrame
            method, person, query, context, reply, tokens; pmi (nats, under the base
            model, against seven other users' contexts), match (share: 1 where the reply
            fits its own context best), own_pmi and own_match (the same under the
            policy); self_bleu (of all replies, points of 100) and chance (what a guess
            gets of match).
        """
        replies = self._replies(name, examples)
        run = scores.measure(
            self.run_dir,
            self.policies[name],
            self.base,
            examples,
            replies,
            seed=self.seed,
            progress=self.progress,
        )
        values = json.loads(run.read("scores.json"))
        _, tokenizer = runs.model_of(self.base)
        texts = runs.read_replies(replies)
        return pd.DataFrame(
            {
                "method": methods.label(name),
                "person": [example["person"] for example in examples],
                "query": [example["query"] for example in examples],
                "context": [example["context"] for example in examples],
                "reply": texts,
                "tokens": token_counts(texts, tokenizer),
                "pmi": values["pmi_base"],
                "match": values["retrieval_base"],
                "own_pmi": values["pmi"],
                "own_match": values["retrieval"],
                "self_bleu": run.metrics["self_bleu"],
                "chance": run.metrics["chance"],
            }
        )

    def rank(self, name: str, rows: Sequence[dict]) -> pd.DataFrame:
        """A row per labelled pair that nobody was trained on.

        Parameters
        ----------
        name : str
            A key of `policies`.
        rows : sequence of dict
            Held-out pairs of `preferences`.

        Returns
        -------
        pandas.DataFrame
            method, person (the prompt); gap (chosen less rejected, nats per token),
            right (gap > 0), risen (gap above the base model's) and gamma (RMiPO's
            margin under this policy, nats per token).
        """
        how = {"progress": self.progress}
        run = scores.rank(self.run_dir, self.policies[name], rows, **how)
        base = scores.rank(self.run_dir, self.base, rows, **how)
        margins = scores.margins(self.run_dir, self.policies[name], rows, **how)
        gap, before = (gaps_of(one) for one in (run, base))
        return pd.DataFrame(
            {
                "method": methods.label(name),
                "person": [row["person"] for row in rows],
                "gap": gap,
                "right": (gap > 0).astype(float),
                "risen": (gap > before).astype(float),
                "gamma": gamma_decay(torch.tensor(margins)).tolist(),
            }
        )


def token_counts(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Length of each reply in tokens."""
    return token_lengths(list(texts), tokenizer).tolist()


def gaps_of(run: Run) -> np.ndarray:
    """Mean log-prob of the chosen reply less the rejected one's, of each pair.

    Parameters
    ----------
    run : Run
        Of `mipo_study.hub.scores.rank`.

    Returns
    -------
    ndarray, shape (pairs,)
        Nats per token.
    """
    means = np.array(json.loads(run.read("scores.json"))["mean"])
    return means[:, 0] - means[:, 1]


# ---- before and after ----


def gains(rows: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Mean of each measure by method, and its gain over the base model.

    Parameters
    ----------
    rows : pandas.DataFrame
        Of `Workshop.measure` or `Workshop.rank`, all methods below each other, with the
        same examples in the same order.
    columns : sequence of str
        The measures.

    Returns
    -------
    pandas.DataFrame
        method, measure, mean, gain, low, high. The interval is a paired bootstrap that
        draws whole persons; NaN for the base model, and where there is one person only.
    """
    base = rows[rows.method == methods.label("base")]
    table = []
    for name, part in rows.groupby("method", sort=False):
        for column in columns:
            gain = (math.nan,) * 3
            if name != methods.label("base") and part.person.nunique() > 1:
                after, before = part[column].to_numpy(), base[column].to_numpy()
                persons = part.person.to_numpy()
                gain = evaluate.paired_bootstrap(after, before, persons)
            row = {"method": name, "measure": column, "mean": part[column].mean()}
            table.append(row | dict(zip(("gain", "low", "high"), gain, strict=True)))
    return pd.DataFrame(table)


def side_by_side(rows: pd.DataFrame, n: int = 4) -> pd.DataFrame:
    """Replies of all methods to the same examples.

    Parameters
    ----------
    rows : pandas.DataFrame
        As `gains` takes them.
    n : int
        Persons, at most. Of the first the first part of their examples is shown, of the
        second the second, and so on.

    Returns
    -------
    pandas.DataFrame
        who, query, and a column per method.
    """
    base = rows[rows.method == methods.label("base")].reset_index(drop=True)
    places = []
    for k, (_, part) in enumerate(base.groupby("person", sort=False)):
        if k < n:
            places.append(part.index[k * len(part) // n])
    columns: dict[str, Any] = {
        "who": [base.context.iloc[i] or base.person.iloc[i] for i in places],
        "query": [base["query"].iloc[i] for i in places],
    }
    for name, part in rows.groupby("method", sort=False):
        columns[str(name)] = [part.reply.iloc[i] for i in places]
    return pd.DataFrame(columns)


def gain_table(table: pd.DataFrame) -> str:
    """The table of `gains` in Markdown, measures by their titles."""
    titles = {measure: title for measure, (title, _) in MEASURES.items()}
    shown = table.replace({"measure": titles})
    formats = {"mean": ".3f", "gain": "+.3f", "low": "+.3f", "high": "+.3f"}
    return tables.markdown(shown, formats)


def keep_numbers(nb: Notebook, table: pd.DataFrame) -> None:
    """Keep the table of `gains` as numbers, such as pmi-base and pmi-gain-rmipo."""
    slugs = {methods.label(name): name for name in methods.METHODS}
    for row in table.to_dict("records"):
        _, unit = MEASURES[row["measure"]]
        measure, slug = row["measure"].replace("_", "-"), slugs[row["method"]]
        nb.number(f"{measure}-{slug}", row["mean"], unit)
        if not math.isnan(row["gain"]):
            interval = (row["low"], row["high"])
            nb.number(f"{measure}-gain-{slug}", row["gain"], unit, interval=interval)


def pair_texts(pair: Mapping[str, Any]) -> dict[str, str]:
    """Prompt, chosen and rejected of a pair as text, whatever its format."""
    texts = {}
    for column in ("prompt", "chosen", "rejected"):
        value = pair[column]
        texts[column] = value if isinstance(value, str) else runs.transcript(value)
    return texts


def plan_table(plans: Sequence[Mapping[str, Any]]) -> str:
    """The plans of `Workshop.plan` in Markdown."""
    table = pd.DataFrame(plans)
    table["method"] = [methods.label(name) for name in table["method"]]
    titles = {
        "batch": "pairs per step",
        "updates": "steps with a rate above 0",
        "highest_rate": "highest rate",
        "travel": "sum of the rates",
    }
    table = table.rename(columns=titles)
    return tables.markdown(table, {"highest rate": ".1e", "sum of the rates": ".1e"})


def diverged(table: pd.DataFrame) -> str:
    """A sentence for each training that has diverged, or that none has.

    Parameters
    ----------
    table : pandas.DataFrame
        method, and what `Workshop.train` gives.
    """
    if "failed" not in table:
        return "No training diverged."
    failed = table.dropna(subset="failed")
    return "\n\n".join(
        f"**{methods.label(row['method'])} diverged:** {row['failed']}"
        for row in failed.to_dict("records")
    )


# ---- answers of the exercises ----


def largest_pmi(users: int) -> float:
    """The largest conditional PMI of a reply among so many users, nats.

    A reply that only its own user could get.
    """
    p = np.zeros(users)
    p[0] = 1.0
    return float(np.log(p[0] / p.mean()))


def widening(replies: pd.DataFrame, persons: int) -> float:
    """How much wider the interval of the gain in PMI is with the first few persons.

    Parameters
    ----------
    replies : pandas.DataFrame
        Of `Workshop.measure`, all methods below each other.
    persons : int
        How many are kept.

    Returns
    -------
    float
        Width with them over width with all, of the method with the widest interval; NaN
        without a trained method.
    """
    few = replies["person"].isin(replies["person"].unique()[:persons])
    widths = []
    for rows in (replies[few].reset_index(drop=True), replies):
        table = gains(rows, ["pmi"])
        widths.append((table["high"] - table["low"]).max())
    return float(widths[0] / widths[1])
