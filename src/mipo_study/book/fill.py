"""Fills the prose pages from result files: numbers, figures, and the tables of claims, times and versions."""

from __future__ import annotations

import json
import os
import re
import statistics
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from mipo.cache import code_hashes
from mipo.files import project_root, read_json, write_whole
from mipo.numbers import Number, fmt
from mipo_study.results import committed

MISSING = "*(no number yet)*"
WORDS = ("holds", "in part", "undecided", "fails", "not judged", "open")


def load_claims() -> list[dict]:
    """book/claims.yml, in order."""
    import yaml

    return yaml.safe_load(
        (project_root() / "book" / "claims.yml").read_text(encoding="utf-8")
    )


def results_in(folder: Path) -> dict[str, dict]:
    return {file.stem: read_json(file) for file in sorted(folder.glob("[0-9]*.json"))}


def best_results(scale: str) -> dict[str, dict]:
    """The published run (results/full, else results/gpu) where one ran the chapter, else this scale's own run.

    A run at scale full skips chapter 15, so what stands for it is its run on a GPU; chapter 16 stands with its full run.
    """
    root = project_root()
    own, *published = (
        results_in(root / place)
        for place in (f"runs/{scale}/results", "results/gpu", "results/full")
    )
    ran = [
        {name: kept for name, kept in found.items() if not kept.get("skipped")}
        for found in published
    ]
    return own | ran[0] | ran[1]


def outdated(result: dict) -> list[str]:
    """The modules that changed since a result was made."""
    now = {}
    for name in result.get("code", {}):
        try:
            now |= code_hashes([name])
        except ValueError:
            now[name] = "gone"
    return sorted(
        name for name, kept in result.get("code", {}).items() if now.get(name) != kept
    )


# ---- tables ----


def claim_status(claim: dict, results: dict[str, dict]) -> tuple[str, dict | None]:
    """(holds | in part | undecided | fails | not judged | open, what was measured or None)."""
    found = (
        results.get(claim.get("notebook", ""), {}).get("claims", {}).get(claim["slug"])
    )
    if found is None:
        return "open", None
    return found["status"] or "not judged", found


def measured(found: dict) -> str:
    if "parts" not in found:
        return str(Number(**found["number"]))
    return "; ".join(
        f"{name}: {Number(**part['number'])} ({part['status'] or 'not judged'})"
        for name, part in found["parts"].items()
    )


def where(
    claim: dict, found: dict | None, page: str, staged: Mapping[str, Collection[str]]
) -> str:
    """Links to the claim's cell and its figure; the chapter to come where there is none yet."""
    if found is None:
        return (
            f"open: {claim['open']}"
            if "open" in claim
            else f"{claim['notebook']}, not run at this scale"
        )
    name = claim["notebook"]
    if name not in staged:
        return name
    shown = (
        found.get("figure") in staged[name]
    )  # a scale may not draw what the published run did
    figure = (
        f", {{ref}}`figure <fig-{name.split('-')[0]}-{found['figure']}>`"
        if shown
        else ""
    )
    return f"{{ref}}`{name} <claim-{claim['slug']}>`{figure}"


def claims_table(
    results: dict[str, dict], page: str, staged: Mapping[str, Collection[str]]
) -> str:
    rows = [
        "| claim | who says so | status | measured | where |",
        "|---|---|---|---|---|",
    ]
    for claim in load_claims():
        status, found = claim_status(claim, results)
        number = measured(found) if found else "–"
        scale = f", scale {results[claim['notebook']]['scale']}" if found else ""
        cells = [
            f"**{claim['slug'].split('-')[0]}** {claim['claim']}",
            claim["who"],
            f"**{status}**",
            number,
            where(claim, found, page, staged) + scale,
        ]
        rows.append(
            "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"
        )
    return "\n".join(rows)


def claims_summary(
    results: dict[str, dict], page: str, staged: Mapping[str, Collection[str]]
) -> str:
    """Counts in words, failures as plain as successes."""
    count = Counter(claim_status(claim, results)[0] for claim in load_claims())
    return (
        f"{count.total()} claims: "
        + ", ".join(f"{word} {count[word]}" for word in WORDS if count[word])
        + "."
    )


def times_table(
    results: dict[str, dict], page: str, staged: Mapping[str, Collection[str]]
) -> str:
    rows = [
        "| notebook | minutes | machine | made | changed since |",
        "|---|---|---|---|---|",
    ]
    for name, result in results.items():
        rows.append(
            f"| {name} | {result['seconds_cold'] / 60:.1f} | {result['machine']} | scale {result['scale']}, "
            f"{result['date'][:10]}, {result['commit']} | {', '.join(outdated(result)) or 'nothing'} |"
        )
    return "\n".join(rows) if len(rows) > 2 else MISSING


WORK = {
    "base models": ("base",),
    "making pairs": ("pairs", "preferences", "data"),
    "training": ("train", "polis"),
    "asking and scoring": ("examine", "weigh", "answers", "own", "judge", "harness"),
    "timing": ("cost", "engine"),
}  # first words of records' names


def work_table(
    results: dict[str, dict], page: str, staged: Mapping[str, Collection[str]]
) -> str:
    """Where the time goes: minutes of each kind of record, and of the notebook around them."""
    rows = [
        "| notebook | "
        + " | ".join(WORK)
        + " | the notebook itself | minutes in all |",
        "|---" * (len(WORK) + 3) + "|",
    ]
    for name, result in results.items():
        if "work" in result:
            minutes = [
                sum(result["work"].get(kind, 0) for kind in kinds) / 60
                for kinds in WORK.values()
            ]
            minutes += [result["seconds_outside"] / 60, result["seconds_cold"] / 60]
            rows.append(
                f"| {name} | "
                + " | ".join(f"{m:.1f}" if m else "–" for m in minutes)
                + " |"
            )
    return "\n".join(rows) if len(rows) > 2 else MISSING


def versions_table(
    results: dict[str, dict], page: str, staged: Mapping[str, Collection[str]]
) -> str:
    found: dict[str, set] = {}
    for result in results.values():
        for package, version in result["versions"].items():
            found.setdefault(package, set()).add(version)
    rows = ["| package | version |", "|---|---|"]
    rows += [
        f"| {package} | {', '.join(sorted(seen))} |"
        for package, seen in sorted(found.items())
    ]
    return "\n".join(rows) if found else MISSING


def bench_table(
    results: dict[str, dict], page: str, staged: Mapping[str, Collection[str]]
) -> str:
    """Tables per device of results/bench: ratios of times and of peak memory, then sampling."""
    text = []
    for file in sorted((project_root() / "results" / "bench").glob("*.json")):
        found = read_json(file)
        names = list(
            dict.fromkeys(name for case in found["cases"] for name in case["ratios"])
        )
        text += [
            f"### {found['device']}",
            f"{found['machine']}, {found['threads']} threads, {found['repetitions']} "
            f"repetitions, {found['date'][:10]}, commit {found['commit']}.",
            "",
        ]
        for name in names:
            text += [
                f"**{name}**",
                "",
                "| case | time, median (lowest to highest) | peak memory | second: pairs/s, MB |",
                "|---|---|---|---|",
            ]
            text += [
                _bench_row(case, name, found["of"][name][1])
                for case in found["cases"]
                if name in case["ratios"]
            ]
            text.append("")
        failed = [
            f"{case['name']}: {', '.join(case['failed'])}"
            for case in found["cases"]
            if case["failed"]
        ]
        text += (
            ["Needed more memory than there is: " + "; ".join(failed) + ".", ""]
            if failed
            else []
        )
        text += _sampling_rows(found["sampling"])
    return "\n".join(text) or MISSING


REAL = "15-gpu-models"


def real_models_table(
    results: dict[str, dict], page: str, staged: Mapping[str, Collection[str]]
) -> str:
    """The claims that are also to be held against real models: open until a run on a GPU is committed in results/gpu."""
    found = (committed(REAL, "gpu") or {"claims": {}})["claims"]
    rows = ["| claim | who says so | on real models | measured |", "|---|---|---|---|"]
    for claim in load_claims():
        if REAL in claim.get("also", []):
            kept = found.get(claim["slug"])
            status, value = (
                (kept["status"] or "not judged", measured(kept))
                if kept
                else ("open: not run yet", "–")
            )
            rows.append(
                f"| {claim['slug'].split('-')[0]} {claim['claim']} | {claim['who']} | {status} | {value} |"
            )
    return "\n".join(rows)


def real_models_said(
    results: dict[str, dict], page: str, staged: Mapping[str, Collection[str]]
) -> str:
    """One sentence: which run of real models is committed, and how it was made, or that there is none."""
    kept = committed(REAL, "gpu")
    if kept is None:
        return "Nothing has been run on real weights yet."
    changed = " with uncommitted changes" if kept["dirty"] else ""
    return (
        f"A run of {kept['date']} is committed: {kept['seconds_cold'] / 60:.0f} minutes on {kept['gpu'] or 'no GPU'} "
        f"({kept['machine']}), commit {kept['commit']}{changed}, torch {kept['versions']['torch']}, transformers "
        f"{kept['versions']['transformers']}."
    )


def _bench_row(case: dict, name: str, second: str) -> str:
    (middle, low, high), memory = case["ratios"][name], case["memory_ratios"][name]
    pairs = case["batch"] / statistics.median(case["seconds"][second])
    tokens = case.get("token_ratio")
    share = f"; {middle / tokens:.0%} of the token ratio {tokens:.2f}" if tokens else ""
    used = (
        f"; {case['mfu']:.0%} of the device's operations"
        if case["mfu"] and second == "dpo"
        else ""
    )
    return (
        f"| {case['name']} | {middle:.2f} ({low:.2f} to {high:.2f}){share} | {memory:.2f} | "
        f"{pairs:.1f}, {case['peak'][second] / 1e6:.0f}{used} |"
    )


def _sampling_rows(found: dict) -> list[str]:
    """Table lines: prompts per second by batch size, and how many replies the batch's shape changed."""
    rows = [
        "**Sampling**",
        "",
        "| precision | prompts at a time | prompts per second | replies unlike one at a time |",
        "|---|---|---|---|",
    ]
    return (
        rows
        + [
            f"| {dtype} | {size} | {one['prompts'] / s:.0f} | {one['differ'][size]} of {one['prompts']} |"
            for dtype, one in found.items()
            for size, s in one["seconds"].items()
        ]
        + [""]
    )


TABLES: dict[str, Callable[[dict, str, Mapping], str]] = {
    "claims": claims_table,
    "claims-summary": claims_summary,
    "times": times_table,
    "versions": versions_table,
    "work": work_table,
    "bench": bench_table,
    "real-models": real_models_table,
    "real-models-said": real_models_said,
}


# ---- substitution ----


def number_text(
    results: dict[str, dict], notebook: str, name: str, form: str = ""
) -> str:
    """'' mean with interval and unit · mean · low · high · percent · percent1 · range (in percent) · claim (its status)."""
    result = results.get(notebook, {})
    if form == "claim":
        return result.get("claims", {}).get(name, {}).get("status") or "not judged yet"
    kept = result.get("numbers", {}).get(name)
    if kept is None:
        return MISSING
    if form in ("percent", "percent1"):
        return f"{100 * kept['mean']:.{len(form) - 7}f} %"
    if form == "range":
        return (
            f"{100 * kept['low']:.0f} to {100 * kept['high']:.0f} %"
            if kept["low"] is not None
            else MISSING
        )
    return fmt(kept[form]) if form else str(Number(**kept))


def figure_text(
    results: dict[str, dict], notebook: str, name: str, page: str, scale: str
) -> str:
    """An image with its own alt text, from the folder that the staging copies figures to."""
    figure = results.get(notebook, {}).get("figures", {}).get(name)
    if figure is None:
        return "*(the figure comes with the first full run)*"
    root = project_root()
    base = (
        root / "results" / "full"
        if (root / "results" / "full" / f"{notebook}.json").exists()
        else root / "runs" / scale / "results"
    )
    folder = "published" if base.name == "full" else "figures"
    target = os.path.relpath(f"{folder}/{Path(figure['file']).name}", Path(page).parent)
    return image(target, figure["alt"])


def image(target: str, alt: str) -> str:
    """An image whose alt text is taken as it is, whatever Markdown would make of it."""
    return f"```{{image}} {target}\n:alt: {json.dumps(' '.join(alt.split()), ensure_ascii=False)}\n```"


def fill(
    text: str,
    results: dict[str, dict],
    *,
    page: str,
    scale: str,
    staged: Mapping[str, Collection[str]],
) -> str:
    """Replace {{ claims }}, {{ number NOTEBOOK NAME [form] }}, {{ figure NOTEBOOK NAME }} in a prose page.

    staged: {notebook: names of its figures} of the pages that are built
    """

    def replace(match: re.Match) -> str:
        word, *rest = match.group(1).split()
        if (
            word in TABLES and not rest
        ):  # where the time goes is asked of this build, not of the published run
            own = (
                results_in(project_root() / "runs" / scale / "results")
                if word == "work"
                else results
            )
            return TABLES[word](own, page, staged)
        if word == "number" and len(rest) in (2, 3):
            return number_text(results, *rest)
        if word == "figure" and len(rest) == 2:
            return figure_text(results, *rest, page, scale)
        raise ValueError(
            f"{page}: {match.group(0)} is none of: {', '.join(TABLES)}, number NOTEBOOK NAME [form], "
            "figure NOTEBOOK NAME"
        )

    return re.sub(r"\{\{\s*([^{}]+?)\s*\}\}", replace, text)


COMMENT = re.compile(r"<!-- (?P<what>[^<>]+?) -->(?P<text>.*?)<!-- / -->", re.S)


def refresh(text: str, results: dict[str, dict]) -> str:
    """README's numbers stand between <!-- NOTEBOOK NAME form --> and <!-- / -->: write them anew."""

    def replace(match: re.Match) -> str:
        summary = match["what"] == "claims"
        value = (
            claims_summary(results, "", {})
            if summary
            else number_text(results, *match["what"].split())
        )
        return f"<!-- {match['what']} -->{value}<!-- / -->"

    return COMMENT.sub(replace, text)


def main() -> None:
    """python -m mipo_study.book.fill: write the published numbers into README.md."""
    readme = project_root() / "README.md"
    text = readme.read_text(encoding="utf-8")
    write_whole(readme, refresh(text, results_in(project_root() / "results" / "full")))


if __name__ == "__main__":
    main()
