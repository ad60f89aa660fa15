"""The tables of the prose pages: claims, times, versions, speed, real models."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Collection, Iterable, Mapping

import pandas as pd

from mipo.files import project_root, read_json
from mipo_study.book.results import (
    GPU,
    Results,
    claim_label,
    claim_status,
    load_claims,
    measured,
    outdated,
)
from mipo_study.results import committed
from mipo_study.tables import MISSING, markdown

NOTHING = "*(no number yet)*"
WORDS = ("holds", "in part", "undecided", "fails", "not judged", "open")

Staged = Mapping[str, Collection[str]]  # {notebook: its figures} of the pages built


def table(rows: Iterable[Mapping]) -> str:
    """Rows as Markdown, minutes with a decimal; a sentence where there are none.

    All columns are our own Markdown: nothing in them is written by others.
    """
    frame = pd.DataFrame(list(rows))
    if frame.empty:
        return NOTHING
    formats = {str(name): ".1f" for name in frame.select_dtypes("number")}
    ours = set(map(str, frame.columns)) - set(formats)
    return markdown(frame, formats, markup=ours)


# ---- claims ----


def claims(results: Results, staged: Staged) -> str:
    """Every claim with its status, its number and where it is measured.

    Below it stand the further chapters that have measured it.
    """
    rows = []
    for claim in load_claims():
        rows.append(claim_row(claim, results, staged))
        for chapter in claim.get("also", []):
            if claim_status(claim, results, chapter)[1]:
                rows.append(claim_row(claim, results, staged, chapter))
    return table(rows)


def claim_row(
    claim: dict, results: Results, staged: Staged, also: str | None = None
) -> dict[str, str]:
    """A claim's line: its words, whose they are, status, number, place.

    Parameters
    ----------
    claim : dict
        Of book/claims.yml.
    results : dict
        Result files.
    staged : dict
        {notebook: its figures} of the pages that the book has.
    also : str, optional
        A further chapter that has measured the claim, and that the line is about.
    """
    status, measurement = claim_status(claim, results, also)
    place = where(claim, measurement, staged, also)
    if measurement:
        place += f", scale {results[also or claim['notebook']]['scale']}"
    words = f"the same claim in {chapter_words(also)}" if also else claim["claim"]
    return {
        "claim": f"**{claim['slug'].split('-')[0]}** {words}",
        "who says so": claim["who"],
        "status": f"**{status}**",
        "measured": measured(measurement) if measurement else MISSING,
        "where": place,
    }


def chapter_words(name: str) -> str:
    """A notebook's name as words: chapter 14 (real model)."""
    number, *words = name.split("-")
    return f"chapter {int(number)} ({' '.join(words)})"


def where(
    claim: dict, measurement: dict | None, staged: Staged, also: str | None = None
) -> str:
    """Links to a claim's cell and figure; the chapter to come where there is none.

    Parameters
    ----------
    claim : dict
        Of book/claims.yml.
    measurement : dict or None
        The claim in the chapter's results.
    staged : dict
        {notebook: its figures} of the pages that the book has.
    also : str, optional
        The further chapter that measured it.
    """
    if measurement is None and "open" in claim:
        return f"open: {claim['open']}"
    name = also or claim["notebook"]
    if measurement is None:
        return f"{name}, not run at this scale"
    if name not in staged:
        return name
    label = claim_label(claim["slug"], name, claim["notebook"])
    link = f"{{ref}}`{name} <{label}>`"
    figure = measurement.get("figure")
    if figure not in staged[name]:  # a scale may not draw what the published run did
        return link
    return f"{link}, {{ref}}`figure <fig-{name.split('-')[0]}-{figure}>`"


def claims_summary(results: Results) -> str:
    """Counts in words, failures as plain as successes."""
    count = Counter(claim_status(claim, results)[0] for claim in load_claims())
    parts = [f"{word} {count[word]}" for word in WORDS if count[word]]
    return f"{count.total()} claims: {', '.join(parts)}."


# ---- times and versions ----


def times(results: Results) -> str:
    """Minutes and machine of each chapter, and what has changed since."""
    return table(
        {
            "notebook": name,
            "minutes": result["seconds_cold"] / 60,
            "machine": result["machine"],
            "made": f"scale {result['scale']}, {result['date'][:10]}, "
            f"{result['commit']}",
            "changed since": ", ".join(outdated(result)) or "nothing",
        }
        for name, result in results.items()
    )


# The first words of the names of runs, by what is done in them.
WORK = {
    "base models": ("base",),
    "making pairs": ("pairs", "preferences", "data"),
    "training": ("train", "polis"),
    "replies and scores": (
        *("examine", "weigh", "answers", "own", "judge", "harness"),
        *("replies", "rank", "measure", "margins"),
    ),
    "timing": ("cost", "engine"),
}


def work(results: Results) -> str:
    """Where the time goes: minutes of each kind of run, and of the notebook itself."""
    return table(
        work_row(name, result) for name, result in results.items() if "work" in result
    )


def work_row(name: str, result: dict) -> dict[str, str | float]:
    """A notebook's line: minutes of each kind of run, the rest, and all."""
    row: dict[str, str | float] = {"notebook": name}
    for column, kinds in WORK.items():
        seconds = sum(result["work"].get(kind, 0) for kind in kinds)
        row[column] = seconds / 60 if seconds else math.nan
    row["the notebook itself"] = result["seconds_outside"] / 60
    row["minutes in all"] = result["seconds_cold"] / 60
    return row


def versions(results: Results) -> str:
    """The versions of packages that the results were made with."""
    seen: dict[str, set[str]] = {}
    for result in results.values():
        for package, version in result["versions"].items():
            seen.setdefault(package, set()).add(version)
    return table(
        {"package": package, "version": ", ".join(sorted(seen[package]))}
        for package in sorted(seen)
    )


# ---- speed ----


def bench() -> str:
    """Tables per device of results/bench: times, peak memory and sampling."""
    files = sorted((project_root() / "results" / "bench").glob("*.json"))
    return "\n".join(bench_device(read_json(file)) for file in files) or NOTHING


def bench_device(run: dict) -> str:
    """The tables of one file of results/bench, a table per ratio."""
    blocks = [
        f"### {run['device']}\n{run['machine']}, {run['threads']} threads, "
        f"{run['repetitions']} repetitions, {run['date'][:10]}, commit {run['commit']}."
    ]
    names = dict.fromkeys(name for case in run["cases"] for name in case["ratios"])
    for name in names:
        second = run["of"][name][1]
        cases = [case for case in run["cases"] if name in case["ratios"]]
        rows = [bench_row(case, name, second) for case in cases]
        blocks.append(f"**{name}**\n\n{table(rows)}")
    failed = [case for case in run["cases"] if case["failed"]]
    if failed:
        lines = [f"{case['name']}: {', '.join(case['failed'])}" for case in failed]
        blocks.append(f"Needed more memory than there is: {'; '.join(lines)}.")
    blocks.append(f"**Sampling**\n\n{table(sampling_rows(run['sampling']))}")
    return "\n\n".join(blocks) + "\n"


def bench_row(case: dict, name: str, second: str) -> dict[str, str]:
    """A case's line in the table of a ratio.

    Parameters
    ----------
    case : dict
        Of a file of results/bench.
    name : str
        The ratio.
    second : str
        The contestant whose time and memory others are divided by.
    """
    median, low, high = case["ratios"][name]
    time = f"{median:.2f} ({low:.2f} to {high:.2f})"
    if case.get("token_ratio"):
        share = median / case["token_ratio"]
        time += f"; {share:.0%} of the token ratio {case['token_ratio']:.2f}"
    pairs = case["batch"] / statistics.median(case["seconds"][second])
    used = f"{pairs:.1f}, {case['peak'][second] / 1e6:.0f}"
    if case["mfu"] and second == "dpo":
        used += f"; {case['mfu']:.0%} of the device's operations"
    return {
        "case": case["name"],
        "time, median (lowest to highest)": time,
        "peak memory": f"{case['memory_ratios'][name]:.2f}",
        "second: pairs/s, MB": used,
    }


def sampling_rows(sampling: dict) -> list[dict[str, str]]:
    """Prompts per second by batch size, and replies that the batch's shape changed."""
    rows = []
    for precision, run in sampling.items():
        for size, seconds in run["seconds"].items():
            unlike = f"{run['differ'][size]} of {run['prompts']}"
            row = {
                "precision": precision,
                "prompts at a time": size,
                "prompts per second": f"{run['prompts'] / seconds:.0f}",
                "replies unlike one at a time": unlike,
            }
            rows.append(row)
    return rows


def bench_replies() -> str:
    """A table per device of results/bench/real: replies of a real model."""
    folder = project_root() / "results" / "bench" / "real"
    found = [replies_device(read_json(file)) for file in sorted(folder.glob("*.json"))]
    return "\n".join(found) or NOTHING


def replies_device(run: dict) -> str:
    """The table of one file of results/bench/real, a row per case and ratio."""
    rows = []
    for case, found in run["cases"].items():
        for name, (median, low, high) in found["ratios"].items():
            row = {"prompts": f"{found['prompts']} {case}", "ratio": name}
            row["median (lowest to highest)"] = (
                f"{median:.2f} ({low:.2f} to {high:.2f})"
            )
            rows.append(row)
    speeds = run["cases"]["questions"]["tokens per second"]
    said = ", ".join(f"{name}: {speed:.0f}" for name, speed in speeds.items())
    apart = run["bfloat16_apart"]
    load = "" if run["load_before"] is None else f", load {run['load_before']:.1f}"
    head = (
        f"### {run['device']}, {run['model']}\n{run['machine']}, {run['threads']} "
        f"threads{load}, {run['date'][:10]}, commit {run['commit']}."
    )
    below = (
        f"Tokens per second of a processor, questions: {said}. Log-probabilities in "
        f"bfloat16 lie {apart['mean']:.3f} nats a token from those in float32 on "
        f"average, {apart['largest']:.2f} at most."
    )
    return f"{head}\n\n{table(rows)}\n\n{below}\n"


# ---- real models ----


def real_models() -> str:
    """The claims that are also to be held against real models.

    They are open until a run on a GPU is committed in results/gpu.
    """
    results = {GPU: committed(GPU, "gpu") or {}}
    rows = []
    for claim in load_claims():
        if GPU in claim.get("also", []):
            status, measurement = claim_status(claim, results, GPU)
            row = {
                "claim": f"{claim['slug'].split('-')[0]} {claim['claim']}",
                "who says so": claim["who"],
                "on real models": status if measurement else "open: not run yet",
                "measured": measured(measurement) if measurement else MISSING,
            }
            rows.append(row)
    return table(rows)


def real_models_sentence() -> str:
    """Which run of chapter 15 is committed and how it was made, or that none is."""
    run = committed(GPU, "gpu")
    if run is None:
        return "Chapter 15 has not been run on real weights yet."
    changed = " with uncommitted changes" if run["dirty"] else ""
    return (
        f"A run of {run['date']} is committed: {run['seconds_cold'] / 60:.0f} minutes "
        f"on {run['gpu'] or 'no GPU'} ({run['machine']}), commit "
        f"{run['commit']}{changed}, torch {run['versions']['torch']}, transformers "
        f"{run['versions']['transformers']}."
    )
