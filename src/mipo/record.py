"""What a notebook leaves: numbers with intervals, claims, figures, artifacts."""

from __future__ import annotations

import io
import math
import os
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mipo import cache
from mipo.cache import STARTED, USED, Run, code_hashes, covered, imported, run_or_load
from mipo.files import (
    dumps,
    project_root,
    read_json,
    resolve,
    seal,
    unseal,
    write_whole,
)
from mipo.numbers import Number, fmt, interval_of, status, together
from mipo.parameters import SCALES, check_notebook, check_parameters
from mipo.provenance import peak_memory, provenance, source_state

__all__ = [
    "Notebook",
    "Number",
    "Run",
    "check_parameters",
    "fmt",
    "interval_of",
    "run_or_load",
    "status",
    "together",
]

JUDGED = (
    "laptop",
    "full",
    "gpu",
)  # smoke draws no conclusion; by hand, parameters are the reader's


def show(
    markdown: str,
    data: Mapping[str, Any] | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> None:
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
        fig.savefig(
            buffer,
            format="svg",
            metadata={"Date": None, "Creator": None},
            facecolor="white",
            bbox_inches="tight",
        )
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + "\n"


def sentence(slug: str) -> str:
    """The claim's words, which stand once, in book/claims.yml."""
    import yaml

    file = project_root() / "book" / "claims.yml"
    claims = yaml.safe_load(file.read_text(encoding="utf-8")) if file.exists() else []
    return next((claim["claim"] for claim in claims if claim["slug"] == slug), "")


def scale_of(run_dir: str | Path) -> str:
    """The scale whose folder this is or lies in, "" where it is none of the chain's."""
    folder, runs = resolve(run_dir).resolve(), (project_root() / "runs").resolve()
    inside = folder.relative_to(runs).parts if folder.is_relative_to(runs) else ()
    return inside[0] if inside and inside[0] in SCALES else ""


def refuse_the_chains_folder(run_dir: str | Path, scale: str) -> None:
    """Keep a run by hand from writing over what the chain made.

    Raises
    ------
    ValueError
        Where `run_dir` is the chain's, runs/<scale>, or lies within it, and the chain
        has not started this notebook at that scale.
    """
    owner = scale_of(run_dir)
    by_chain = STARTED in os.environ and scale == owner
    if owner and not by_chain:
        raise ValueError(
            f"run_dir {run_dir} belongs to `make book SCALE={owner}`, and this notebook "
            f"was started otherwise (scale {scale!r}); leave run_dir as it is, "
            "runs/hand, or name a folder of your own, such as runs/mine"
        )


class Notebook:
    """Collects what one notebook finds and writes it, whole, on close().

    own=True (the reader's model or records): numbers and figures are kept, claims get no status.
    published: the scale whose committed results are the published ones.
    """

    def __init__(
        self,
        name: str,
        *,
        run_dir: str | Path = "runs/hand",
        scale: str = "hand",
        own: bool = False,
        published: str = "full",
    ):
        check_notebook(name)
        given = {"run_dir": str(run_dir), "scale": scale}
        check_parameters(given, given, name)
        refuse_the_chains_folder(run_dir, scale)
        self.name, self.number_of, self.scale, self.own = (
            name,
            name.split("-")[0],
            scale,
            own,
        )
        self.run_dir, self.given_run_dir = resolve(run_dir), str(run_dir)
        self.published_in = project_root() / "results" / published
        self.numbers: dict[str, Number] = {}
        self.claims: dict[str, dict] = {}
        self.figures: dict[str, dict] = {}
        self.skipped = ""  # why nothing was run
        self.start, self.before = float(os.environ.get(STARTED, time.time())), set(USED)
        self.state = source_state()  # the code as it is before the work

    # ---- numbers and words ----

    def number(
        self,
        name: str,
        values: Any,
        unit: str,
        *,
        note: str = "",
        interval: Sequence[float] | None = None,
    ) -> Number:
        """Keep a number: a float is exact, a list is one value per seed (t interval), or give its interval."""
        try:
            self.numbers[name] = interval_of(values, unit, note, interval)
        except ValueError as error:
            raise ValueError(f"number {name!r}: {error}") from None
        return self.numbers[name]

    def say(self, markdown: str) -> None:
        """Show Markdown with computed numbers in it."""
        show(markdown)

    def _published_run(self, notebook: str = "") -> dict:
        file = self.published_in / f"{notebook or self.name}.json"
        return (
            unseal(file, must=False)
            if file.exists()
            else {"numbers": {}, "claims": {}, "figures": {}}
        )

    def _published_svg(self, figure: Mapping) -> str:
        return (self.published_in / figure["file"]).read_text(encoding="utf-8")

    def published(self, name: str, notebook: str = "") -> Number | None:
        """A number of this notebook, or another, in the published run; None when it is not there."""
        kept = self._published_run(notebook)["numbers"].get(name)
        return Number(**kept) if kept else None

    def show_published(self, name: str, notebook: str) -> bool:
        """Show a figure of another notebook's published run; False when it is not there."""
        figure = self._published_run(notebook)["figures"].get(name)
        if figure:
            text = self._published_svg(figure)
            about = {
                "alt": figure["alt"],
                "file": f"{self.number_of}-{name}-published.svg",
            }
            show(figure["alt"], {"image/svg+xml": text}, {"mipo": about})
        return bool(figure)

    def skip(self, why: str) -> Path:
        """Say why this notebook cannot run here, show what the published run found instead, and close."""
        kept, self.skipped = self._published_run(), why
        show(
            f"**{why}** Nothing was run. Below is what the published run found."
            if kept["claims"]
            else f"**{why}** Nothing was run, and there is no published run yet."
        )
        for slug, claim in kept["claims"].items():
            show(
                self._box(
                    slug,
                    claim.get("parts", {"": claim}),
                    claim["status"],
                    claim["statement"],
                )
            )
        for name, figure in kept["figures"].items():
            self._keep_figure(
                name, self._published_svg(figure), figure["file"], figure["alt"]
            )
        return self.close()

    # ---- claims ----

    def judged(self) -> bool:
        return self.scale in JUDGED and not self.own

    def claim(
        self,
        slug: str,
        *,
        value: Any = None,
        values: Any = None,
        interval: Sequence[float] | None = None,
        region: tuple[float | None, float | None] = (None, None),
        unit: str = "",
        figure: str | None = None,
        parts: Mapping[str, Mapping] | None = None,
        kind: str = "finding",
        statement: str = "",
    ) -> str | None:
        """Hold a measurement against the claimed region; show it; keep it. Returns the status, None when not judged.

        value: exact number or Number · values: one per seed · interval: with value · parts: {name: these keywords}.
        An identity that does not hold raises; a finding never does.
        """
        if kind not in ("identity", "finding"):
            raise ValueError(
                f"claim {slug}: kind {kind!r} is neither 'identity' nor 'finding'"
            )
        statement = statement or sentence(slug)
        own_part = (
            {}
            if parts
            else {
                "": {
                    "value": value,
                    "values": values,
                    "interval": interval,
                    "region": region,
                    "unit": unit,
                }
            }
        )
        rows = {
            name: self._measure(slug, **part)
            for name, part in (parts or own_part).items()
        }
        found = together([row["status"] for row in rows.values()])
        if kind == "identity" and found != "holds":
            raise AssertionError(f"{slug} is an identity and must hold: {rows}")
        judged = found if self.judged() else None
        for row in rows.values():
            row["status"] = row["status"] if self.judged() else None
        first = next(iter(rows.values()))
        self.claims[slug] = {
            **({"parts": rows} if parts else first),
            "status": judged,
            "kind": kind,
            "figure": figure,
            "statement": statement,
        }
        show(self._box(slug, rows, judged, statement))
        return judged

    def _measure(
        self,
        slug: str,
        *,
        value=None,
        values=None,
        interval=None,
        region=(None, None),
        unit="",
    ) -> dict:
        if (value is None) == (values is None):
            raise ValueError(f"claim {slug}: give either value or values")
        try:
            number = interval_of(
                value if values is None else values, unit, "", interval
            )
        except ValueError as error:
            raise ValueError(f"claim {slug}: {error}") from None
        limits = [
            None if end is None or math.isinf(end) else float(end) for end in region
        ]
        return {
            "number": asdict(number),
            "region": limits,
            "status": status(number.interval, (limits[0], limits[1])),
        }

    def _box(self, slug: str, rows: dict, judged: str | None, statement: str) -> str:
        why = (
            "smoke run"
            if self.scale == "smoke"
            else "the reader's own model or data"
            if self.own
            else "run by hand"
        )
        lines = [f"> **Claim {slug.split('-')[0]}.** {statement}".rstrip(), ">"]
        for name, row in rows.items():
            low, high = row["region"]
            ends = [f"at least {fmt(low)}"] * (low is not None) + [
                f"at most {fmt(high)}"
            ] * (high is not None)
            part = f"{name}: " if name else ""
            lines.append(
                f"> {part}measured **{Number(**row['number'])}**; claimed: {' and '.join(ends) or 'any value'}"
                + (f" → {row['status']}" if name and row["status"] else "")
                + "  "
            )
        lines.append(f"> Status: **{judged}**" if judged else f"> No status: {why}.")
        return "\n".join(lines)

    # ---- figures ----

    def figure(self, fig: Any, name: str, *, alt: str, shows: str = "") -> None:
        """Save as SVG, show once with its alt text, then say what it shows."""
        if not alt.strip():
            raise ValueError(
                f"figure {name!r}: write an alt text that says what is to be seen"
            )
        import matplotlib.pyplot as plt

        self._keep_figure(name, svg(fig), f"figures/{self.number_of}-{name}.svg", alt)
        plt.close(fig)
        if shows:
            show(shows)

    def _keep_figure(self, name: str, text: str, file: str, alt: str) -> None:
        write_whole(self.run_dir / "results" / file, text)
        self.figures[name] = {"file": file, "alt": alt}
        show(
            alt,
            {"image/svg+xml": text},
            {"mipo": {"alt": alt, "file": Path(file).name}},
        )

    # ---- what later notebooks need ----

    def artifact(self, name: str, path: str | Path | cache.RunFile) -> Path:
        """Tell later notebooks where a file or folder lies.

        A file of a run, `run / "model"`, need not be there: it is known by its run.
        """
        index = self.run_dir / "artifacts" / f"{self.name}.json"
        if isinstance(path, cache.RunFile):
            place = path.run.folder.resolve() / path.name
        else:
            place = Path(path).resolve()
            if not place.exists():
                raise ValueError(f"artifact {name!r}: {place} does not exist")
        base = self.run_dir.resolve()
        inside = place.is_relative_to(base)
        told = place.relative_to(base).as_posix() if inside else str(place)
        known = read_json(index) if index.exists() else {}
        write_whole(index, dumps({**known, name: told}))
        return place

    def need(self, notebook: str, name: str) -> Path | cache.RunFile:
        """The file or folder an earlier notebook left; the error says how to make it.

        Returns
        -------
        Path or RunFile
            A RunFile where only the measurement of its run is here: it serves as an
            input of other runs, and is an error only when it is opened.

        Raises
        ------
        FileNotFoundError
            Where the notebook has not left it, with the command that makes it.
        ValueError
            Where a file of its run was changed, with the same command.
        """
        index = self.run_dir / "artifacts" / f"{notebook}.json"
        places = read_json(index) if index.exists() else {}
        advice = (
            f"{self.name} needs {name!r} from {notebook}; {self.given_run_dir} does "
            f"not hold it. Make it with:\n  {self._command(notebook)}"
        )
        place = places.get(name)
        if place is None:
            raise FileNotFoundError(advice)
        top, _, rest = place.partition("/")
        if top == "runs":
            label, _, inside = rest.partition("/")
            try:
                run = cache.find(self.run_dir, label, advice)
            except ValueError as error:
                raise ValueError(f"{error}; {advice}") from None
            if run is not None and not run.folder.is_dir():
                return run / inside
        path = self.run_dir / place
        if not path.exists():
            raise FileNotFoundError(advice)
        return path

    def _command(self, notebook: str) -> str:
        """The line that runs another notebook into this one's run_dir."""
        scale = scale_of(self.run_dir)
        if scale:
            return f"make book SCALE={scale}"
        folder = shlex.quote(self.given_run_dir)
        out = shlex.quote(f"{self.given_run_dir}/notebooks/{notebook}.ipynb")
        return (
            f"mkdir -p {folder}/notebooks && "
            f"papermill notebooks/{notebook}.ipynb {out} -r run_dir {folder}"
        )

    def close(self) -> Path:
        """Write results/<notebook>.json: numbers, claims, figures, provenance, hashes of the code it used."""
        own = (self.start, time.time())
        source = project_root() / "notebooks" / f"{self.name}.ipynb"
        cells = read_json(source)["cells"] if source.exists() else []
        text = "\n".join(
            "".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"
        )
        code = [
            name for name in imported(text) if not name.startswith("mipo_study.figures")
        ]
        spans = {name: USED[name] for name in USED.keys() - self.before}
        # seconds of its runs by kind, the first word of their names
        work: dict[str, float] = {}
        for name, (begun, ended) in spans.items():
            kind = name.split("-")[0]
            work[kind] = round(work.get(kind, 0) + ended - begun, 1)
        cold = covered([own, *spans.values()])
        out = {
            "notebook": self.name,
            "scale": self.scale,
            "own": self.own,
            "skipped": self.skipped,
            "numbers": {name: asdict(number) for name, number in self.numbers.items()},
            "claims": self.claims,
            "figures": self.figures,
            "seconds": round(covered([own]), 1),
            "seconds_cold": round(cold, 1),
            "work": work,
            "seconds_outside": round(cold - covered(spans.values()), 1),
            "runs": sorted(spans),
            "memory_gb": peak_memory(),
            "code": code_hashes(sorted(code)),
            **provenance(self.state),
        }
        return write_whole(self.run_dir / "results" / f"{self.name}.json", seal(out))
