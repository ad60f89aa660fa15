"""What a notebook leaves behind: numbers with intervals, claims with a status, figures with alt texts, artifacts."""

from __future__ import annotations

import io
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mipo.store import (
    SPENT_BEFORE,
    Record,
    code_hashes,
    dumps,
    imported,
    plain,
    project_root,
    provenance,
    read_json,
    refuse_nan,
    resolve,
    run_or_load,
    write_whole,
)

__all__ = ["Notebook", "Number", "Record", "fmt", "interval_of", "run_or_load", "status", "together"]

JUDGED = ("laptop", "full", "gpu")                 # smoke draws no conclusion; by hand, parameters are the reader's


def status(interval: tuple[float, float] | None, region: tuple[float | None, float | None]) -> str:
    """holds: interval inside the region · fails: wholly outside · undecided: it straddles, or there is no interval.

    region = (low, high), ends included; None is no limit. Source: the study's rule for findings.
    """
    low, high = (-math.inf if region[0] is None else region[0]), (math.inf if region[1] is None else region[1])
    if not low <= high:
        raise ValueError(f"region {region}: its low end is above its high end")
    if interval is None or None in interval:
        return "undecided"
    if not interval[0] <= interval[1]:
        raise ValueError(f"interval {interval}: its low end is above its high end")
    if low <= interval[0] and interval[1] <= high:
        return "holds"
    return "fails" if interval[1] < low or interval[0] > high else "undecided"


def together(parts: Sequence[str]) -> str:
    """One word for several parts: holds or fails when all do, 'in part' when some hold, else undecided."""
    if len(set(parts)) == 1:
        return parts[0]
    return "in part" if "holds" in parts else "undecided"


def fmt(x: float | None) -> str:
    """Three significant digits, whole numbers whole; an en dash where there is no number."""
    if x is None:
        return "–"
    if x == 0 or (float(x).is_integer() and abs(x) < 1e6):
        return f"{x:.0f}"
    return f"{x:.3g}" if not 1e3 <= abs(x) < 1e6 else f"{x:.0f}"


@dataclass(frozen=True)
class Number:
    """A mean with its 95 % interval; low and high are None for one lone seed, equal to the mean when exact."""

    mean: float
    low: float | None
    high: float | None
    n: int
    values: list[float]
    unit: str = ""
    note: str = ""

    def __str__(self) -> str:
        unit = f" {self.unit}" if self.unit else ""
        if self.low is None or self.low == self.high:
            return f"{fmt(self.mean)}{unit}"
        return f"{fmt(self.mean)} [{fmt(self.low)}, {fmt(self.high)}]{unit}"

    def __float__(self) -> float:
        return float(self.mean)

    @property
    def interval(self) -> tuple[float | None, float | None]:
        return (self.low, self.high)


def interval_of(values: Any, unit: str = "", note: str = "", interval: Sequence[float] | None = None) -> Number:
    """A float is exact; a list is seeds: mean with a 95 % t interval over them; a given interval is kept."""
    if isinstance(values, Number):
        return values
    values = plain(values) if hasattr(values, "tolist") else values
    refuse_nan(values, "values")
    if not isinstance(values, (list, tuple)):
        low, high = interval if interval is not None else (values, values)
        return Number(float(values), float(low), float(high), 1, [float(values)], unit, note)
    seeds = [float(v) for v in values]
    if not seeds:
        raise ValueError("a number needs at least one value")
    mean = sum(seeds) / len(seeds)
    if interval is None and len(seeds) == 1:
        return Number(mean, None, None, 1, seeds, unit, note)
    if interval is None:
        from mipo.evaluate import t_interval  # one formula, one function

        mean, *interval = (float(v) for v in t_interval(seeds))
    return Number(mean, float(interval[0]), float(interval[1]), len(seeds), seeds, unit, note)


def show(markdown: str, data: Mapping[str, Any] | None = None, metadata: Mapping[str, Any] | None = None) -> None:
    """Display rich output in a kernel, plain text elsewhere."""
    from IPython import get_ipython
    from IPython.display import display

    if get_ipython() is None:
        print(markdown)
    else:
        bundle = {"text/plain": markdown, **(data or {"text/markdown": markdown})}
        display(bundle, raw=True, metadata=dict(metadata or {}))


def svg(fig: Any) -> str:
    """The figure as SVG: the same figure gives the same bytes."""
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "mipo", "svg.fonttype": "path"}):
        fig.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, facecolor="white",
                    bbox_inches="tight")
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + "\n"


class Notebook:
    """Collects what one notebook finds and writes it, whole, on close().

    own=True (the reader's model or records): numbers and figures are kept, claims get no status.
    """

    def __init__(self, name: str, *, run_dir: str | Path = "runs/hand", scale: str = "hand", own: bool = False):
        self.name, self.number_of, self.scale, self.own = name, name.split("-")[0], scale, own
        self.run_dir, self.given_run_dir = resolve(run_dir), str(run_dir)
        self.numbers: dict[str, Number] = {}
        self.claims: dict[str, dict] = {}
        self.figures: dict[str, dict] = {}
        self.start, self.loaded = time.perf_counter(), len(SPENT_BEFORE)

    # ---- numbers and words ----

    def number(self, name: str, values: Any, unit: str, *, note: str = "",
               interval: Sequence[float] | None = None) -> Number:
        """Keep a number: a float is exact, a list is one value per seed (t interval), or give its interval."""
        try:
            self.numbers[name] = interval_of(values, unit, note, interval)
        except ValueError as error:
            raise ValueError(f"number {name!r}: {error}") from None
        return self.numbers[name]

    def say(self, markdown: str) -> None:
        """Show Markdown with computed numbers in it."""
        show(markdown)

    def published(self, name: str) -> Number | None:
        """The same number in the published run (results/full), None when it is not there."""
        file = project_root() / "results" / "full" / f"{self.name}.json"
        kept = read_json(file)["numbers"].get(name) if file.exists() else None
        return Number(**kept) if kept else None

    # ---- claims ----

    def judged(self) -> bool:
        return self.scale in JUDGED and not self.own

    def claim(self, slug: str, *, value: Any = None, values: Any = None, interval: Sequence[float] | None = None,
              region: tuple[float | None, float | None] = (None, None), unit: str = "", figure: str | None = None,
              parts: Mapping[str, Mapping] | None = None, kind: str = "finding", statement: str = "") -> str | None:
        """Hold a measurement against the claimed region; show it; keep it. Returns the status, None when not judged.

        value: exact number or Number · values: one per seed · interval: with value · parts: {name: these keywords}.
        An identity that does not hold raises; a finding never does.
        """
        if kind not in ("identity", "finding"):
            raise ValueError(f"claim {slug}: kind {kind!r} is neither 'identity' nor 'finding'")
        own_part = {} if parts else {"": {"value": value, "values": values, "interval": interval, "region": region,
                                          "unit": unit}}
        rows = {name: self._measure(slug, **part) for name, part in (parts or own_part).items()}
        found = together([row["status"] for row in rows.values()])
        if kind == "identity" and found != "holds":
            raise AssertionError(f"{slug} is an identity and must hold: {rows}")
        judged = found if self.judged() else None
        for row in rows.values():
            row["status"] = row["status"] if self.judged() else None
        first = next(iter(rows.values()))
        self.claims[slug] = {**({"parts": rows} if parts else first), "status": judged, "kind": kind,
                             "figure": figure, "statement": statement}
        show(self._box(slug, rows, judged, statement))
        return judged

    def _measure(self, slug: str, *, value=None, values=None, interval=None, region=(None, None), unit="") -> dict:
        if (value is None) == (values is None):
            raise ValueError(f"claim {slug}: give either value or values")
        try:
            number = interval_of(value if values is None else values, unit, "", interval)
        except ValueError as error:
            raise ValueError(f"claim {slug}: {error}") from None
        limits = [None if end is None or math.isinf(end) else float(end) for end in region]
        return {"number": asdict(number), "region": limits, "status": status(number.interval, tuple(limits))}

    def _box(self, slug: str, rows: dict, judged: str | None, statement: str) -> str:
        why = "smoke run" if self.scale == "smoke" else "the reader's own model or data" if self.own else "run by hand"
        lines = [f"> **Claim {slug.split('-')[0]}.** {statement}".rstrip(), ">"]
        for name, row in rows.items():
            low, high = row["region"]
            ends = [f"at least {fmt(low)}"] * (low is not None) + [f"at most {fmt(high)}"] * (high is not None)
            part = f"{name}: " if name else ""
            lines.append(f"> {part}measured **{Number(**row['number'])}**; claimed: {' and '.join(ends) or 'any value'}"
                         + (f" → {row['status']}" if name and row["status"] else "") + "  ")
        lines.append(f"> Status: **{judged}**" if judged else f"> No status: {why}.")
        return "\n".join(lines)

    # ---- figures ----

    def figure(self, fig: Any, name: str, *, alt: str, shows: str = "") -> None:
        """Save as SVG, show once with its alt text, then say what it shows."""
        if not alt.strip():
            raise ValueError(f"figure {name!r}: write an alt text that says what is to be seen")
        import matplotlib.pyplot as plt

        text, file = svg(fig), f"figures/{self.number_of}-{name}.svg"
        write_whole(self.run_dir / "results" / file, text)
        plt.close(fig)
        self.figures[name] = {"file": file, "alt": alt}
        show(alt, {"image/svg+xml": text}, {"mipo": {"alt": alt, "file": Path(file).name}})
        if shows:
            show(shows)

    # ---- what later notebooks need ----

    def artifact(self, name: str, path: str | Path) -> Path:
        """Tell later notebooks where a file or folder of this run lies."""
        path, index = Path(path).resolve(), self.run_dir / "artifacts" / f"{self.name}.json"
        if not path.exists():
            raise ValueError(f"artifact {name!r}: {path} does not exist")
        kept = read_json(index) if index.exists() else {}
        base = self.run_dir.resolve()
        kept[name] = str(path.relative_to(base) if path.is_relative_to(base) else path)
        write_whole(index, dumps(kept))
        return path

    def need(self, notebook: str, name: str) -> Path:
        """The file or folder an earlier notebook left; the error says how to make it."""
        index = self.run_dir / "artifacts" / f"{notebook}.json"
        kept = read_json(index) if index.exists() else {}
        path = self.run_dir / kept.get(name, "missing")
        if name in kept and path.exists():
            return path
        out = f"{self.given_run_dir}/notebooks/{notebook}.ipynb"
        raise FileNotFoundError(
            f"{self.name} needs {name!r} from {notebook}; {self.given_run_dir} does not hold it. Make it with:\n"
            f"  mkdir -p {self.given_run_dir}/notebooks && papermill notebooks/{notebook}.ipynb {out} "
            f"-p run_dir {self.given_run_dir}")

    def close(self) -> Path:
        """Write results/<notebook>.json: numbers, claims, figures, provenance, hashes of the code it used."""
        wall = time.perf_counter() - self.start
        source = project_root() / "notebooks" / f"{self.name}.ipynb"
        cells = read_json(source)["cells"] if source.exists() else []
        text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
        code = [name for name in imported(text) if not name.startswith("mipo.figures")]
        out = {"notebook": self.name, "scale": self.scale, "own": self.own,
               "numbers": {name: asdict(number) for name, number in self.numbers.items()},
               "claims": self.claims, "figures": self.figures, "seconds": round(wall, 1),
               "seconds_cold": round(wall + sum(SPENT_BEFORE[self.loaded:]), 1),
               "code": code_hashes(sorted(code)), **provenance()}
        return write_whole(self.run_dir / "results" / f"{self.name}.json", dumps(out))
