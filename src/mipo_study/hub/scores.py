"""What replies of hub models are worth: without a judge, on labelled pairs, judged."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from mipo import evaluate, files
from mipo.cache import Run
from mipo.evaluate import reference_free
from mipo.logprobs import pmi_over_contexts, prompt_pmi, response_logps
from mipo.preference_data import as_text
from mipo_study.hub import benchmarks, harness, llm_judge
from mipo_study.hub.download import Place
from mipo_study.hub.runs import (
    Policy,
    digest_of,
    model_of,
    read_ids,
    read_replies,
    run_or_load,
)

BySeed = Mapping[int, Any]  # {seed: one value per test row}
Gain = tuple[float, float, float]  # value, low, high
PAIR = ("prompt", "chosen", "rejected")

# ---- gains with intervals ----


def aligned(
    after: BySeed, before: BySeed, rows: BySeed
) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]] | None:
    """Values of two sides item by item, with the levels of their clusters.

    Parameters
    ----------
    after, before : dict
        {seed: one value per test row}.
    rows : dict
        {seed: test rows}.

    Returns
    -------
    (after, before, levels) or None
        None for less than two items. A seed that one side lacks is left out, and so is
        a row where a value is NaN. Seeds are drawn whole, and so are people (items,
        where nobody asks).
    """
    items = []
    for seed in after:
        if seed not in before:
            continue
        sides = zip(after[seed], before[seed], rows[seed], strict=True)
        for i, (x, y, row) in enumerate(sides):
            if not (np.isnan(x) or np.isnan(y)):
                items.append((seed, x, y, benchmarks.unit(row), f"{seed} {i}"))
    if len(items) < 2:
        return None
    seeds, x, y, units, places = map(np.array, zip(*items, strict=True))
    one_person = len(set(units)) == 1
    return x, y, [seeds, places if one_person else units]


def paired(after: BySeed, before: BySeed, rows: BySeed) -> Gain | None:
    """The mean of after - before.

    Parameters
    ----------
    after, before, rows
        See `aligned`.

    Returns
    -------
    (value, low, high) or None
        None for less than two items.
    """
    sides = aligned(after, before, rows)
    return evaluate.paired_bootstrap(*sides) if sides else None


def relative(after: BySeed, before: BySeed, rows: BySeed) -> Gain | None:
    r"""The gain as a share of the mean before.

    Parameters
    ----------
    after, before, rows
        See `aligned`.

    Returns
    -------
    (value, low, high) or None
        None for less than two items, and where the mean before is 0.

    Notes
    -----
    Both means are estimates, so the interval is that of their ratio, to first order
    (delta method): the one of x/ȳ - (x̄/ȳ)·y/ȳ, whose mean is 0.
    """
    sides = aligned(after, before, rows)
    if sides is None or not sides[1].mean():
        return None
    x, y, levels = sides
    ratio = x.mean() / y.mean()
    _, low, high = evaluate.paired_bootstrap(x / y.mean(), ratio * y / y.mean(), levels)
    return float(ratio - 1), float(ratio - 1 + low), float(ratio - 1 + high)


def own_reward(after: Run, before: Run) -> float:
    """Share of pairs in the order of DPO's own reward log π(y|x)/π_ref(y|x).

    Parameters
    ----------
    after, before : Run
        Of `rank`, for the policy and for the base model.
    """
    gaps = []
    for run in (after, before):
        summed = np.array(json.loads(run.read("scores.json"))["summed"])
        gaps.append(summed[:, 0] - summed[:, 1])
    return float(np.mean(gaps[0] > gaps[1]))


def verdicts_of(run: Run, key: str = "score") -> np.ndarray:
    """Scores in a run of `judged`, one per item.

    Parameters
    ----------
    run : Run
        Of `judged`.
    key : str
        "score", the strict one; "released" or "released_base", the papers' win.

    Returns
    -------
    ndarray, shape (n,)
        NaN where there is none.
    """
    return np.array(json.loads(run.read("verdicts.json"))[key], dtype=float)


# ---- runs ----


def measure(
    run_dir: str | Path,
    policy: Policy,
    base: Place,
    examples: Sequence[Mapping],
    replies: Run,
    *,
    contexts: int = 8,
    seed: int = 0,
    batch_size: int = 16,
    progress: bool = True,
) -> Run:
    """Run of what people's replies show without a judge.

    Parameters
    ----------
    run_dir : path
        Where runs are kept.
    policy, base : Place or Run
        Who replied, and the model it was trained from.
    examples : sequence of dict
        What the replies answer.
    replies : Run
        Of `runs.make_replies`.
    contexts : int
        People whose contexts a reply is scored under, its own person's among them.
    seed : int
        Of the draw of the others.
    batch_size : int
        Texts scored at once.
    progress : bool
        Show a bar.

    Returns
    -------
    Run
        Lists per example in scores.json; metrics are their means, and chance. pmi: log
        p(y|x,c) - log mean over `contexts` people of p(y|x,c') under the policy itself,
        nats per reply; retrieval: share of replies whose own context makes them most
        likely, under the policy itself; pmi_base, retrieval_base: both under the base
        model, one yardstick for all; self_bleu of the replies, 0 to 100.
    """

    def make(folder: Path) -> dict:
        crowd = reference_free.groups(examples, contexts, seed=seed)
        sampled = read_ids(replies)
        values: dict[str, list[float]] = {}
        by_scorer = {}
        for end, scorer in (("", policy), ("_base", base)):
            if scorer.key not in by_scorer:  # the base model is its own yardstick
                model, tokenizer = model_of(scorer)
                by_scorer[scorer.key] = reference_free.under_contexts(
                    model,
                    tokenizer,
                    examples,
                    sampled,
                    crowd,
                    batch_size=batch_size,
                    progress=progress,
                )
            logps = by_scorer[scorer.key]
            values[f"pmi{end}"] = pmi_over_contexts(logps[:, 0], logps).tolist()
            credit = evaluate.retrieval_credit(logps.numpy())
            values[f"retrieval{end}"] = credit.tolist()
        files.write_whole(folder / "scores.json", files.dumps(values))
        means = {name: float(np.mean(column)) for name, column in values.items()}
        return means | {
            "self_bleu": reference_free.alike(read_replies(replies), examples),
            "chance": 1 / max(map(len, crowd)),
        }

    return run_or_load(
        run_dir,
        "measure-hub",
        {"contexts": contexts, "seed": seed, "prompts": digest_of(examples)},
        make,
        doing="scoring",
        code=["mipo_study.hub.scores"],
        inputs={"policy": policy.key, "base": base.key, "replies": replies},
        keep=["scores.json"],
    )


def rank(
    run_dir: str | Path,
    policy: Policy,
    rows: Sequence[Mapping],
    *,
    batch_size: int = 16,
    progress: bool = True,
) -> Run:
    """Run of a policy on labelled pairs that it has not seen.

    Parameters
    ----------
    run_dir : path
        Where runs are kept.
    policy : Place or Run
        Whose log-probs rank them.
    rows : sequence of dict
        Of `benchmarks.preferences`.
    batch_size : int
        Texts scored at once.
    progress : bool
        Show a bar.

    Returns
    -------
    Run
        Metric accuracy: share of pairs whose chosen reply has the higher mean log-prob.
        scores.json has mean and summed, [chosen, rejected] per pair, nats per token and
        per reply.
    """

    def make(folder: Path) -> dict:
        model, tokenizer = model_of(policy)
        texts = as_text(rows, tokenizer)
        logps = response_logps(
            model,
            tokenizer,
            [text["prompt"] for text in texts],
            [[text["chosen"], text["rejected"]] for text in texts],
            batch_size=batch_size,
            progress=progress,
        )
        values = {"mean": logps.mean.tolist(), "summed": logps.summed.tolist()}
        files.write_whole(folder / "scores.json", files.dumps(values))
        right = logps.mean[:, 0] > logps.mean[:, 1]
        return {"accuracy": float(right.double().mean())}

    return run_or_load(
        run_dir,
        "rank-hub",
        {"rows": digest_of(rows, PAIR)},
        make,
        doing="scoring",
        code=["mipo_study.hub.scores"],
        inputs={"policy": policy.key},
        keep=["scores.json"],
    )


def margins(
    run_dir: str | Path,
    policy: Policy,
    rows: Sequence[Mapping],
    *,
    batch_size: int = 16,
    progress: bool = True,
) -> list[float]:
    """Δpmi of labelled pairs under a policy, nats per token; RMiPO's γ decays with it.

    Parameters
    ----------
    run_dir, policy, rows, batch_size, progress
        See `rank`.

    Returns
    -------
    list of float
        One per row. PMI of a reply is its log-prob given the prompt less that without
        one.
    """

    def make(folder: Path) -> dict:
        model, tokenizer = model_of(policy)
        texts = as_text(rows, tokenizer)

        def pmi(side: str) -> Tensor:
            return prompt_pmi(
                model,
                tokenizer,
                [text["prompt"] for text in texts],
                [text[side] for text in texts],
                batch_size=batch_size,
                progress=progress,
            )

        delta = (pmi("chosen") - pmi("rejected")).double().tolist()
        files.write_whole(folder / "delta_pmi.json", files.dumps(delta))
        return {"delta_pmi": float(np.mean(delta))}

    run = run_or_load(
        run_dir,
        "margins-hub",
        {"rows": digest_of(rows, PAIR)},
        make,
        doing="scoring",
        code=["mipo_study.hub.scores"],
        inputs={"policy": policy.key},
        keep=["delta_pmi.json"],
    )
    return json.loads(run.read("delta_pmi.json"))


def judged(
    run_dir: str | Path,
    place: Place,
    examples: Sequence[Mapping],
    ours: Run,
    theirs: Run,
    *,
    rated: bool = False,
    missing: int | None = None,
    batch_size: int = 32,
    progress: bool = True,
) -> Run:
    """Run of a judge's verdicts on two runs of replies, both orders, in verdicts.json.

    The judge's answers are kept in run_dir/verdicts, whatever happens later.

    Parameters
    ----------
    run_dir : path
        Where runs are kept.
    place : Place
        The judge.
    examples : sequence of dict
        What the replies answer.
    ours, theirs : Run
        Of `runs.make_replies`.
    rated : bool
        Also rate the replies to examples with a gold reply, as the papers do.
    missing : int, optional
        What a rating out of form counts as, see `llm_judge.OUT_OF_FORM`.
    batch_size : int
        Texts judged at once.
    progress : bool
        Show a bar.

    Returns
    -------
    Run
        Metrics of `llm_judge.report`; with `rated` also released, released_base: share
        of our and of their replies rated at least as high as the gold reply.
    """
    with_gold = [i for i, e in enumerate(examples) if rated and e.get("gold")]

    def make(folder: Path) -> dict:
        our_texts, their_texts = read_replies(ours), read_replies(theirs)
        name = f"{files.digest(place.key)[:16]}.jsonl"
        judge = llm_judge.Judge(
            lambda: model_of(place),
            place.key,
            files.resolve(run_dir) / "verdicts" / name,
            name=place.name,
            batch_size=batch_size,
            progress=progress,
        )
        verdicts = llm_judge.compare(judge, examples, our_texts, their_texts)
        metrics = llm_judge.report(verdicts, our_texts, their_texts)
        verdicts["score"] = verdicts["score"].tolist()
        if with_gold:
            questions = [examples[i] for i in with_gold]
            gold = [example["gold"] for example in questions]
            reference = llm_judge.rate(judge, questions, gold, missing=missing)
            sides = {"released": our_texts, "released_base": their_texts}
            for key, texts in sides.items():
                replies = [texts[i] for i in with_gold]
                marks = llm_judge.rate(judge, questions, replies, missing=missing)
                metrics[key] = llm_judge.released_win_rate(marks, reference)
                wins = llm_judge.released_wins(marks, reference).tolist()
                column: list[float | None] = [None] * len(examples)
                for i, win in zip(with_gold, wins, strict=True):
                    column[i] = none_if_nan(win)
                verdicts[key] = column
        files.write_whole(folder / "verdicts.json", files.dumps(verdicts))
        return metrics

    fields = ("query", "context", "wishes", "gold")
    return run_or_load(
        run_dir,
        "judge-hub",
        {
            "rated": bool(with_gold),
            "missing": missing,
            "prompts": digest_of(examples, fields),
        },
        make,
        doing="judging",
        what=f"the judge {place.name}",
        code=["mipo_study.hub.scores"],
        inputs={"judge": place.key, "ours": ours, "theirs": theirs},
        keep=["verdicts.json"],
    )


def none_if_nan(value: float) -> float | None:
    """JSON has no NaN."""
    return None if np.isnan(value) else value


def by_harness(
    run_dir: str | Path,
    policy: Policy,
    dataset: str,
    items: Sequence[Mapping[str, Any]],
    *,
    shots: int = 8,
    batch_size: int = 16,
) -> Run:
    """Run of lm-evaluation-harness on a policy and our items.

    Parameters
    ----------
    run_dir : path
        Where runs are kept.
    policy : Place or Run
        Who replies.
    dataset : str
        A key of `harness.TASKS`.
    items : sequence of dict
        Of `hub.answers`.
    shots : int
        Worked examples in the prompts of svamp_cot, which are ours; the harness's own
        tasks keep theirs.
    batch_size : int
        Prompts at once.

    Returns
    -------
    Run
        The score of each item, by its id, in scores.json; prompts and replies in
        samples.jsonl, a line per item and filter, as the harness logs them. Metrics:
        accuracy, items.

    Raises
    ------
    ValueError
        Where the harness left out an item, or is not installed.
    """
    rows = harness.rows_of(dataset, items, shots)

    def make(folder: Path) -> dict:
        tasks = harness.tasks(dataset, rows, folder)
        model, tokenizer = model_of(policy)
        samples = harness.run(model, tokenizer, tasks, batch_size=batch_size)
        scores = harness.scores(samples, dataset)
        lost = [row["id"] for row in rows if row["id"] not in scores]
        if lost:  # a pair needs both sides
            raise ValueError(
                f"lm-evaluation-harness scored {len(scores)} of {len(rows)} items of "
                f"{dataset}; not {lost[0]}"
            )
        files.write_whole(folder / "samples.jsonl", harness.as_lines(samples))
        files.write_whole(folder / "scores.json", files.dumps(scores))
        return {"accuracy": float(np.mean(list(scores.values()))), "items": len(scores)}

    config = {"dataset": dataset, "items": files.digest(rows)}
    return run_or_load(
        run_dir,
        "harness-hub",
        config | harness.version_of(dataset),
        make,
        doing="scoring",
        what="lm-evaluation-harness",
        code=["mipo_study.hub.scores"],
        inputs={"policy": policy.key},
        keep=["scores.json"],
    )
