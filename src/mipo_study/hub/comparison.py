"""What chapter 15 compares: policies by model, data set, method, seed; and tables."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mipo.cache import Run
from mipo.record import Notebook
from mipo_study import methods, tables
from mipo_study.hub import answers, benchmarks, llm_judge, runs, scores
from mipo_study.hub.download import Place

Set = tuple[str, str]  # a model and a data set
Arm = tuple[Set, str]  # a set and a method; "base" is the model itself
Gain = tuple[float, float, float]  # value, low, high
BySeed = Mapping[int, Any]

# {metric of `scores.measure`: (title of a panel, unit)}
PEOPLE = {
    "pmi": ("conditional PMI, own model (nats)", "nats per reply"),
    "pmi_base": ("conditional PMI, base model (nats)", "nats per reply"),
    "retrieval": ("retrieval, own model (share)", "of replies"),
    "retrieval_base": ("retrieval, base model (share)", "of replies"),
    "self_bleu": ("self-BLEU (0 to 100)", "points of 100"),
}
# {key of `answers.grades`: name of the number}
READINGS = {
    "right": "accuracy",
    "any form": "accuracy-any-form",
    "released": "accuracy-released",
}
# {metric of `llm_judge.report`: heading of a column}
JUDGE = {
    "position": "position bias",
    "agreement": "same verdict in both orders",
    "length": "decided for the longer",
    "longer": "longer than the other",
    "unformed": "out of form",
    "released": "rated at least as the reference",
    "released_base": "the base model's so rated",
}


class Comparison:
    """The policies of some sets, what they replied and what that is worth.

    Parameters
    ----------
    run_dir : path
        Where finished work is kept.
    work : dict
        {(set, seed): benchmarks.Data}.
    shots : int
        Worked examples in the prompts for maths.

    Attributes
    ----------
    places : dict
        {model: Place}, filled by who has them.
    trained : dict
        {(set, method, seed): Run} of the trainings that ended well, likewise.
    answers : dict
        {(set, method, seed): Run} of replies, from `answer`.

    Notes
    -----
    A set is (model, data set), an arm (set, method). What is measured for each policy
    has the form {arm: {seed: ...}}, and gains {arm: (value, low, high)}.
    """

    def __init__(
        self,
        run_dir: str | Path,
        work: Mapping[tuple[Set, int], benchmarks.Data],
        *,
        shots: int = 8,
    ):
        self.run_dir = run_dir
        self.work = work
        self.shots = shots
        self.sets = list(dict.fromkeys(s for s, _ in work))
        self.places: dict[str, Place] = {}
        self.trained: dict[tuple[Set, str, int], Run] = {}
        self.answers: dict[tuple[Set, str, int], Run] = {}

    # ---- names ----

    def label(self, s: Set, method: str) -> str:
        """What a policy is called: its method, and among several sets its set, too."""
        name = methods.label(method)
        if len(self.sets) == 1:
            return name
        return f"{name}, {short(s[0])}, {short(s[1])}"

    def slug(self, s: Set, *words: str) -> str:
        """The name of a number: words, and among several sets the set, too."""
        own = [short(part).lower().replace(".", "_") for part in s]
        return "-".join([*words, *(own if len(self.sets) > 1 else [])])

    # ---- who there is, and what they say ----

    def policy(self, s: Set, method: str, seed: int) -> Place | Run:
        """The model of a set, or the training of a method on it."""
        return self.places[s[0]] if method == "base" else self.trained[s, method, seed]

    def rows(self, s: Set, seed: int) -> Sequence[dict]:
        """The test part of a set."""
        return self.work[s, seed].test

    def examples(self, s: Set, seed: int, part: str = "test") -> Sequence[dict]:
        """A part of a set as prompts."""
        dataset = self.work[s, seed]
        return runs.as_examples(getattr(dataset, part), dataset.kind, self.shots)

    def replies(self, s: Set, method: str, seed: int) -> list[str]:
        """A policy's replies, one per test row."""
        return runs.read_replies(self.answers[s, method, seed])

    def policies(self, kind: str = "") -> list[tuple[Set, str, int]]:
        """Every policy, in each set the base model first.

        Parameters
        ----------
        kind : str
            Of one kind of data set only; "" is all.

        Returns
        -------
        list of (set, method, seed)
        """
        policies = []
        for s in self.sets:
            if kind and benchmarks.kind_of(s[1]) != kind:
                continue
            trained = [method for where, method, _ in self.trained if where == s]
            seeds = [seed for where, seed in self.work if where == s]
            for method in ("base", *dict.fromkeys(trained)):
                for seed in seeds:
                    if method == "base" or (s, method, seed) in self.trained:
                        policies.append((s, method, seed))
        return policies

    def answer(self, sampling: Mapping[Set, Mapping], **how: Any) -> None:
        """Every policy replies to its test prompts.

        Parameters
        ----------
        sampling : dict
            {set: keywords of `serving.generate`}.
        **how
            Keywords of `runs.make_replies`.
        """
        for s, method, seed in self.policies():
            self.answers[s, method, seed] = runs.make_replies(
                self.run_dir,
                self.policy(s, method, seed),
                self.examples(s, seed),
                seed=seed,
                sampling=sampling[s],
                **how,
            )

    def each(
        self, kind: str, look: Callable[[Set, str, int], Any], *, base: bool = True
    ) -> dict[Arm, dict[int, Any]]:
        """Look at the policies of one kind of data set.

        Parameters
        ----------
        kind : str
            As in `policies`.
        look : callable
            Given set, method and seed.
        base : bool
            Whether at base models, too.

        Returns
        -------
        dict
            {arm: {seed: what `look` gives}}.
        """
        views: dict[Arm, dict[int, Any]] = {}
        for s, method, seed in self.policies(kind):
            if base or method != "base":
                views.setdefault((s, method), {})[seed] = look(s, method, seed)
        return views

    # ---- measuring ----

    def measure(self, *, contexts: int, **how: Any) -> dict[Arm, dict[int, dict]]:
        """Metrics of the policies on people.

        Parameters
        ----------
        contexts, **how
            See `scores.measure`.

        Returns
        -------
        dict
            {arm: {seed: metrics}}.
        """

        def look(s: Set, method: str, seed: int) -> dict:
            run = scores.measure(
                self.run_dir,
                self.policy(s, method, seed),
                self.places[s[0]],
                self.examples(s, seed),
                self.answers[s, method, seed],
                contexts=contexts,
                seed=seed,
                **how,
            )
            return run.metrics

        return self.each("people", look)

    def verdicts_on(
        self,
        judge: Place,
        s: Set,
        method: str,
        seed: int,
        *,
        other: str = "base",
        **how: Any,
    ) -> Run:
        """A judge's verdicts on two policies' replies to the same prompts.

        Parameters
        ----------
        judge : Place
            The judge's model.
        s, method, seed
            Of the policy.
        other : str
            Method of the one it is held against.
        **how
            Keywords of `scores.judged`.

        Returns
        -------
        Run
        """
        return scores.judged(
            self.run_dir,
            judge,
            self.examples(s, seed),
            self.answers[s, method, seed],
            self.answers[s, other, seed],
            missing=llm_judge.OUT_OF_FORM.get(s[1]),
            **how,
        )

    def verdicts(self, judge: Place | None, **how: Any) -> dict[Arm, dict[int, Run]]:
        """Verdicts on every trained policy against its base, on people.

        Parameters
        ----------
        judge : Place, optional
            None: no verdicts.
        **how
            Keywords of `scores.judged`.

        Returns
        -------
        dict
            {arm: {seed: Run}}.
        """
        if judge is None:
            return {}

        def look(s: Set, method: str, seed: int) -> Run:
            return self.verdicts_on(judge, s, method, seed, rated=True, **how)

        return self.each("people", look, base=False)

    def duels(self, judge: Place | None, **how: Any) -> dict[Arm, dict[int, Run]]:
        """Verdicts on RMiPO against each rival, where RMiPO ended well on that seed.

        Parameters
        ----------
        judge, **how
            See `verdicts`.

        Returns
        -------
        dict
            {arm of the rival: {seed: Run}}.
        """
        if judge is None:
            return {}
        duels: dict[Arm, dict[int, Run]] = {}
        for s, rival, seed in self.policies("preferences"):
            if rival != "rmipo" and (s, "rmipo", seed) in self.trained:
                run = self.verdicts_on(judge, s, "rmipo", seed, other=rival, **how)
                duels.setdefault((s, rival), {})[seed] = run
        return duels

    def grades(self) -> dict[Arm, dict[int, dict]]:
        """`answers.grades` of the policies on reasoning."""

        def look(s: Set, method: str, seed: int) -> dict[str, list]:
            return answers.grades(self.replies(s, method, seed), self.rows(s, seed))

        return self.each("reasoning", look)

    def harness_scores(self, n: int, **how: Any) -> dict[Arm, dict[int, dict]]:
        """The harness's scores of the policies on reasoning.

        Parameters
        ----------
        n : int
            Of the first n items; the others get NaN. 0: none at all.
        **how
            Keywords of `scores.by_harness`.

        Returns
        -------
        dict
            {arm: {seed: {"right": one score per item}}}.
        """

        def look(s: Set, method: str, seed: int) -> dict[str, list[float]]:
            rows = self.rows(s, seed)
            policy = self.policy(s, method, seed)
            settings = {"shots": self.shots, **how}
            run = scores.by_harness(self.run_dir, policy, s[1], rows[:n], **settings)
            by_id = json.loads(run.read("scores.json"))
            return {"right": [by_id.get(row["id"], np.nan) for row in rows]}

        return self.each("reasoning", look) if n else {}

    def ranks(self, **how: Any) -> dict[Arm, dict[int, Run]]:
        """`scores.rank` of the policies on labelled pairs."""

        def look(s: Set, method: str, seed: int) -> Run:
            policy = self.policy(s, method, seed)
            return scores.rank(self.run_dir, policy, self.rows(s, seed), **how)

        return self.each("preferences", look)

    # ---- gains ----

    def gain(
        self,
        after: BySeed,
        before: BySeed,
        s: Set,
        look: Callable[..., Gain | None] = scores.paired,
    ) -> Gain | None:
        """The gain of one side over another on the test rows of a set.

        Parameters
        ----------
        after, before : dict
            {seed: one value per row}.
        s : (str, str)
            The set.
        look : callable
            `scores.paired` or `scores.relative`.

        Returns
        -------
        (value, low, high) or None
        """
        return look(after, before, {seed: self.rows(s, seed) for seed in after})

    def net_wins(self, verdicts: Mapping[Arm, Mapping[int, Run]]) -> dict[Arm, Gain]:
        """Strict wins less losses, each as a share of the items."""
        gains = {}
        for arm, by_seed in verdicts.items():
            won = {seed: scores.verdicts_of(run) for seed, run in by_seed.items()}
            even = {seed: 0 * values for seed, values in won.items()}
            gains[arm] = self.gain(won, even, arm[0])
        return {arm: gain for arm, gain in gains.items() if gain}

    def released_gain(
        self, verdicts: Mapping[Arm, Mapping[int, Run]]
    ) -> dict[Arm, Gain]:
        """Gain in the papers' win rate, as a share of the base's.

        Where replies were rated and the base wins some.
        """

        def side(by_seed: Mapping[int, Run], key: str) -> dict[int, np.ndarray]:
            return {seed: scores.verdicts_of(run, key) for seed, run in by_seed.items()}

        gains = {}
        for arm, by_seed in verdicts.items():
            if all("released" in run.metrics for run in by_seed.values()):
                after = side(by_seed, "released")
                before = side(by_seed, "released_base")
                gains[arm] = self.gain(after, before, arm[0], scores.relative)
        return {arm: gain for arm, gain in gains.items() if gain}

    def accuracy_gain(
        self,
        grades: Mapping[Arm, BySeed],
        key: str,
        look: Callable[..., Gain | None] = scores.paired,
    ) -> dict[Arm, Gain]:
        """Gain of each method over the base, item by item.

        Parameters
        ----------
        grades : dict
            {arm: {seed: lists per item}}.
        key : str
            Which list.
        look : callable
            See `gain`.

        Returns
        -------
        dict
            {arm: gain}, where there is one.
        """

        def side(arm: Arm) -> dict[int, list[float]]:
            return {seed: graded[key] for seed, graded in grades[arm].items()}

        gains = {}
        for arm in grades:
            if arm[1] != "base":
                base = side((arm[0], "base"))
                gains[arm] = self.gain(side(arm), base, arm[0], look)
        return {arm: gain for arm, gain in gains.items() if gain}

    # ---- numbers, parts of claims, what figures draw ----

    def by_seed(self, values: Mapping[Arm, BySeed], key: str) -> dict[Arm, dict]:
        """One metric of each policy by seed, the mean of it where it is a list."""
        return {
            arm: {seed: float(np.mean(one[key])) for seed, one in by_seed.items()}
            for arm, by_seed in values.items()
        }

    def keep_numbers(
        self, nb: Notebook, name: str, values: Mapping[Arm, BySeed | Gain], unit: str
    ) -> None:
        """Keep a number for each policy.

        Parameters
        ----------
        nb : Notebook
            That keeps them.
        name : str
            First word of their names.
        values : dict
            {arm: {seed: value} or gain}.
        unit : str
            Of the numbers.
        """
        for (s, method), value in values.items():
            slug = self.slug(s, name, method)
            if isinstance(value, Mapping):
                nb.number(slug, list(value.values()), unit)
            else:
                nb.number(slug, value[0], unit, interval=value[1:])

    def parts(
        self,
        what: str,
        values: Mapping[Arm, Gain | list],
        region: tuple[float | None, float | None],
        unit: str,
        *,
        mipo: bool = True,
    ) -> dict[str, dict]:
        """Parts of a claim.

        Parameters
        ----------
        what : str
            Of which they speak.
        values : dict
            {arm: gain, or one value per seed}.
        region, unit
            See `Notebook.claim`.
        mipo : bool
            Whether the claim is about MIPO: then only its own methods are evidence.

        Returns
        -------
        dict
            {part: keywords of `Notebook.claim`}.
        """
        parts = {}
        for (s, method), value in values.items():
            if mipo and not method.startswith("mipo"):
                continue
            part: dict[str, Any] = {"region": region, "unit": unit}
            if isinstance(value, list):
                part["values"] = value
            else:
                part |= {"value": value[0], "interval": value[1:]}
            parts[f"{self.label(s, method)}: {what}"] = part
        return parts

    def labelled(self, values: Mapping[Arm, BySeed]) -> dict[str, list]:
        """{label: [value per seed]}."""
        return {
            self.label(*arm): list(by_seed.values()) for arm, by_seed in values.items()
        }

    def shares(self, verdicts: Mapping[Arm, Mapping[int, Run]]) -> dict[str, dict]:
        """{label: mean metrics}, for `figures.world.win_tie_loss`."""
        return {self.label(*arm): means(by_seed) for arm, by_seed in verdicts.items()}

    def errors(self, grades: Mapping[Arm, BySeed]) -> dict[str, dict[str, float]]:
        """{label: {kind of error: share of items}}, for `figures.real.error_types`."""
        errors = {}
        for arm, by_seed in grades.items():
            kinds = [kind for graded in by_seed.values() for kind in graded["error"]]
            shares = pd.Series(kinds).value_counts(normalize=True)
            row = shares.reindex(answers.ERRORS, fill_value=0.0)
            errors[self.label(*arm)] = row.to_dict()
        return errors

    # ---- tables and sentences, in Markdown ----

    def overlaps(self) -> dict[Set, list[dict]]:
        """`answers.overlap` of the wordings of training and test part, per seed."""
        overlaps: dict[Set, list[dict]] = {}
        for (s, _), dataset in self.work.items():
            train = [benchmarks.wording(row) for row in dataset.train]
            test = [benchmarks.wording(row) for row in dataset.test]
            overlaps.setdefault(s, []).append(answers.overlap(train, test))
        return overlaps

    def data_table(self, overlaps: Mapping[Set, list[dict]]) -> str:
        """The data of each set's first seed, and what of its test was trained on.

        Then what was left out, and why, and a sentence for each item whose gold answer
        is known to be wrong.
        """
        rows, reasons = [], []
        for s, by_seed in overlaps.items():
            dataset = next(d for (where, _), d in self.work.items() if where == s)
            shared = pd.DataFrame(by_seed).mean()
            left_out = dataset.source.get("left_out", 0)
            if left_out:
                reasons.append(
                    f"Left out of {short(s[1])}: {benchmarks.LEFT_OUT[s[1]]}."
                )
            rows.append(
                {
                    "data set": short(s[1]),
                    "commit": dataset.source.get("commit", "")[:12] or "local files",
                    "train": len(dataset.train),
                    "test": len(dataset.test),
                    "left out": left_out,
                    "dropped": dataset.source.get("dropped", 0),
                    "same prompt": shared["same"],
                    "eight words": shared["phrases"],
                }
            )
        formats = {"same prompt": ".1%", "eight words": ".1%"}
        table = tables.markdown(pd.DataFrame(rows), formats)
        return "\n\n".join([table, *dict.fromkeys(reasons), *self.known_wrong()])

    def known_wrong(self) -> list[str]:
        """A sentence for each item drawn whose gold answer is known to be wrong."""
        sentences = []
        drawn = {
            (s[1], row.get("source_id"), part, seed)
            for (s, seed), dataset in self.work.items()
            for part in ("train", "test")
            for row in getattr(dataset, part)
        }
        for (name, item), why in answers.KNOWN_WRONG.items():
            for part in ("train", "test"):
                where = [name, item, part]
                seeds = sorted(seed for *one, seed in drawn if one == where)
                if seeds:
                    sentences.append(
                        "Known to be wrong, and kept since published numbers count it: "
                        f"{name}'s {item} ({why}); in the {part} part of seed "
                        f"{', '.join(map(str, seeds))}."
                    )
        return sentences

    def training_table(self) -> str:
        """A row per training that ended well."""
        rows = []
        for (s, method, seed), run in self.trained.items():
            metrics = run.metrics
            rows.append(
                {
                    "method": self.label(s, method),
                    "seed": seed,
                    "pairs": metrics["pairs"],
                    "left out": metrics["left_out"],
                    "learning rate": metrics["lr"],
                    "steps": metrics["steps"],
                    "first loss": metrics["first_loss"],
                    "last loss": metrics["last_loss"],
                    "minutes": run.seconds / 60,
                    "GB": metrics["peak_gb"],
                    "update left in bfloat16": metrics["kept_update"],
                }
            )
        formats = {
            "first loss": ".3f",
            "last loss": ".3f",
            "minutes": ".1f",
            "GB": ".0f",
            "update left in bfloat16": ".0%",
        }
        return tables.markdown(pd.DataFrame(rows), formats)

    def own_view(
        self, values: Mapping[str, Mapping[Arm, BySeed]], chance: float
    ) -> str:
        """A sentence on what the policies say of themselves.

        Parameters
        ----------
        values : dict
            {metric of `PEOPLE`: {arm: {seed: value}}}.
        chance : float
            Of retrieval.
        """
        each = []
        for arm, nats in values["pmi"].items():
            own = np.mean(list(nats.values()))
            matched = np.mean(list(values["retrieval"][arm].values()))
            each.append(f"{self.label(*arm)} {own:.2f} nats, retrieval {matched:.0%}")
        return (
            f"Chance of retrieval is {chance:.2f}. Self-BLEU near 100 would mean that "
            "replies are all alike. Under the policy itself: " + "; ".join(each) + "."
        )

    def judge_table(
        self,
        verdicts: Mapping[Arm, Mapping[int, Run]],
        gains: Mapping[str, Mapping[Arm, Gain]],
    ) -> str:
        """The judge's habits beside its verdicts.

        Parameters
        ----------
        verdicts : dict
            {arm: {seed: Run}}.
        gains : dict
            {heading of a column: {arm: gain}}.
        """
        rows = []
        for arm, by_seed in verdicts.items():
            metrics = means(by_seed)
            row: dict[str, Any] = {"": self.label(*arm)}
            row |= {heading: metrics.get(key) for key, heading in JUDGE.items()}
            for heading, column in gains.items():
                value, *interval = column.get(arm, (None,))
                row[heading] = value
                row["interval, " + heading] = tuple(interval) or None
            rows.append(row)
        formats = {heading: ".0%" for heading in JUDGE.values()}
        formats[JUDGE["position"]] = "+.2f"
        for heading in gains:
            formats |= {heading: "+.2f", "interval, " + heading: "+.2f"}
        return tables.markdown(pd.DataFrame(rows), formats)

    def accuracies(
        self,
        grades: Mapping[Arm, BySeed],
        gains: Mapping[str, Mapping[Arm, Gain]],
    ) -> str:
        """A line for each policy: accuracy in three readings, gains in two of them.

        Parameters
        ----------
        grades : dict
            {arm: {seed: `answers.grades`}}.
        gains : dict
            {"right" and "any form": {arm: gain}}.
        """
        lines = []
        for arm, by_seed in grades.items():
            shares = {
                key: np.mean([np.mean(graded[key]) for graded in by_seed.values()])
                for key in READINGS
            }
            line = (
                f"- {self.label(*arm)}: right {shares['right']:.1%}, in any form "
                f"{shares['any form']:.1%}, as released {shares['released']:.1%}"
            )
            if arm in gains["right"]:
                strict, free = (gains[key][arm] for key in ("right", "any form"))
                interval = "{:+.1%} ({:+.1%} to {:+.1%})"
                line += f"; over the base {interval.format(*strict)}, in any form "
                line += interval.format(*free)
            lines.append(line)
        return "\n".join(lines)


def means(by_seed: Mapping[int, Run]) -> dict[str, float]:
    """Each metric's mean over seeds, NaN where no seed has a number for it."""
    table = pd.DataFrame([run.metrics for run in by_seed.values()])
    return table.astype(float).mean().to_dict()


def short(name: str) -> str:
    """The last part of a hub name or a path."""
    return name.rstrip("/").split("/")[-1]
