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
from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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

# Scales whose claims get a status: smoke draws no conclusion, and by hand the
# parameters are the reader's.
JUDGED = ("laptop", "full", "gpu")
Region = tuple[float | None, float | None]  # ends included; None is no limit


def show(
    markdown: str,
    data: Mapping[str, Any] | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Display rich output in a kernel, plain text elsewhere.

    Parameters
    ----------
    markdown : str
        What is shown where `data` cannot be.
    data : dict, optional
        {MIME type: content}; None: the text as Markdown.
    metadata : dict, optional
        Of the output.
    """
    from IPython import get_ipython
    from IPython.display import display

    if get_ipython() is None:
        print(markdown)
    else:
        bundle = {"text/plain": markdown, **(data or {"text/markdown": markdown})}
        display(bundle, raw=True, metadata=dict(metadata or {}))


def svg(fig: Figure) -> str:
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
            f"run_dir {run_dir} belongs to `make book SCALE={owner}`, and this "
            f"notebook was started otherwise (scale {scale!r}); leave run_dir as it "
            "is, runs/hand, or name a folder of your own, such as runs/mine"
        )


class Notebook:
    """Collects what one notebook finds and writes it, whole, on close().

    Parameters
    ----------
    name : str
        Of the notebook, without folder and ending.
    run_dir : path
        Where results, figures and runs go; relative to the project's root.
    scale : str
        "smoke", "laptop", "full", "gpu", or "hand".
    own : bool
        The model or the examples are the reader's: numbers and figures are kept, claims
        get no status.
    published : str
        The scale whose committed results are the published ones.

    Raises
    ------
    ValueError
        For a parameter of the notebook that does not exist or takes no such value, and
        for a folder that belongs to the chain.
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
        self.name = name
        self.number_of = name.split("-")[0]
        self.scale = scale
        self.own = own
        self.run_dir = resolve(run_dir)
        self.given_run_dir = str(run_dir)
        self.published_in = project_root() / "results" / published
        self.numbers: dict[str, Number] = {}
        self.claims: dict[str, dict] = {}
        self.figures: dict[str, dict] = {}
        self.skipped = ""  # why nothing was run
        self.start = float(os.environ.get(STARTED, time.time()))
        self.before = set(USED)
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
        """Keep a number.

        Parameters
        ----------
        name : str
            By which pages quote it.
        values, unit, note, interval
            See `mipo.numbers.interval_of`.

        Returns
        -------
        Number

        Raises
        ------
        ValueError
            Naming the number, for NaN, infinity, and no value at all.
        """
        try:
            self.numbers[name] = interval_of(values, unit, note, interval)
        except ValueError as error:
            raise ValueError(f"number {name!r}: {error}") from None
        return self.numbers[name]

    def say(self, markdown: str) -> None:
        """Show Markdown with computed numbers in it; nothing where it is empty."""
        if markdown:
            show(markdown)

    def _published_run(self, notebook: str = "") -> dict:
        file = self.published_in / f"{notebook or self.name}.json"
        if not file.exists():
            return {"numbers": {}, "claims": {}, "figures": {}}
        return unseal(file, must=False)

    def _published_svg(self, figure: Mapping) -> str:
        return (self.published_in / figure["file"]).read_text(encoding="utf-8")

    def published(self, name: str, notebook: str = "") -> Number | None:
        """A number of the published run.

        Parameters
        ----------
        name : str
            Of the number.
        notebook : str
            Whose; "" is this one.

        Returns
        -------
        Number or None
            None where it is not there.
        """
        fields = self._published_run(notebook)["numbers"].get(name)
        return Number(**fields) if fields else None

    def show_published(self, name: str, notebook: str) -> bool:
        """Show a figure of another notebook's published run.

        Parameters
        ----------
        name : str
            Of the figure.
        notebook : str
            Whose.

        Returns
        -------
        bool
            Whether it is there.
        """
        figure = self._published_run(notebook)["figures"].get(name)
        if figure:
            text, file = self._published_svg(figure), f"{name}-published.svg"
            about = {"alt": figure["alt"], "file": f"{self.number_of}-{file}"}
            show(figure["alt"], {"image/svg+xml": text}, {"mipo": about})
        return bool(figure)

    def skip(self, why: str) -> Path:
        """Say why nothing can run here, show what was published, and close.

        Parameters
        ----------
        why : str
            A sentence.

        Returns
        -------
        Path
            As `close` gives it.
        """
        self.skipped = why
        published = self._published_run()
        if published["claims"]:
            show(f"**{why}** Nothing was run. Below is what the published run found.")
        else:
            show(f"**{why}** Nothing was run, and there is no published run yet.")
        for slug, claim in published["claims"].items():
            rows = claim.get("parts", {"": claim})
            show(self._box(slug, rows, claim["status"], claim["statement"]))
        for name, figure in published["figures"].items():
            text = self._published_svg(figure)
            self._keep_figure(name, text, figure["file"], figure["alt"])
        return self.close()

    # ---- claims ----

    def judged(self) -> bool:
        """Whether claims get a status."""
        return self.scale in JUDGED and not self.own

    def claim(
        self,
        slug: str,
        *,
        value: Any = None,
        values: Any = None,
        interval: Sequence[float] | None = None,
        region: Region = (None, None),
        unit: str = "",
        figure: str | None = None,
        parts: Mapping[str, Mapping] | None = None,
        kind: str = "finding",
        statement: str = "",
    ) -> str | None:
        """Hold a measurement against the claimed region; show it; keep it.

        Parameters
        ----------
        slug : str
            Of the claim, as in book/claims.yml.
        value : float or Number, optional
            An exact number, or one with its interval; either this or `values`.
        values : sequence of float, optional
            One per seed.
        interval : (low, high), optional
            Of the value, instead of its own.
        region : (low, high)
            What the claim says; ends included, None is no limit.
        unit : str
            Of the number.
        figure : str, optional
            Name of the figure that shows it.
        parts : dict, optional
            {part: keywords from `value` to `unit`} of a claim that has several.
        kind : str
            "finding", or "identity", which must hold.
        statement : str
            The claim's words; "" takes those of book/claims.yml.

        Returns
        -------
        str or None
            The status, see `mipo.numbers.status` and `together`; None where this run is
            not judged.

        Raises
        ------
        AssertionError
            For an identity that does not hold. A finding never raises.
        ValueError
            For another kind, for a part without a number or with two, and for numbers
            that are not finite.
        """
        if kind not in ("identity", "finding"):
            raise ValueError(
                f"claim {slug}: kind {kind!r} is neither 'identity' nor 'finding'"
            )
        statement = statement or sentence(slug)
        if parts:
            measured = {n: self._measure(slug, **part) for n, part in parts.items()}
        else:
            whole = self._measure(slug, value, values, interval, region, unit)
            measured = {"": whole}
        word = together([part["status"] for part in measured.values()])
        if kind == "identity" and word != "holds":
            raise AssertionError(f"{slug} is an identity and must hold: {measured}")
        if not self.judged():
            word = None
            for part in measured.values():
                part["status"] = None
        self.claims[slug] = {
            **({"parts": measured} if parts else measured[""]),
            "status": word,
            "kind": kind,
            "figure": figure,
            "statement": statement,
        }
        show(self._box(slug, measured, word, statement))
        return word

    def _measure(
        self,
        slug: str,
        value: Any = None,
        values: Any = None,
        interval: Sequence[float] | None = None,
        region: Region = (None, None),
        unit: str = "",
    ) -> dict:
        """Number, region and status of a claim or a part of one."""
        if (value is None) == (values is None):
            raise ValueError(f"claim {slug}: give either value or values")
        values = value if values is None else values
        try:
            number = interval_of(values, unit, "", interval)
        except ValueError as error:
            raise ValueError(f"claim {slug}: {error}") from None
        low, high = (_limit(end) for end in region)
        return {
            "number": asdict(number),
            "region": [low, high],
            "status": status(number.interval, (low, high)),
        }

    def _box(self, slug: str, parts: dict, word: str | None, statement: str) -> str:
        """What the page shows of a claim: words, numbers, regions, status."""
        lines = [f"> **Claim {slug.split('-')[0]}.** {statement}".rstrip(), ">"]
        for name, part in parts.items():
            number = Number(**part["number"])
            line = f"measured **{number}**; claimed: {_region_text(*part['region'])}"
            if name:
                line = f"{name}: {line}"
            if name and part["status"]:
                line = f"{line} → {part['status']}"
            lines.append(f"> {line}  ")
        if word:
            lines.append(f"> Status: **{word}**")
        else:
            lines.append(f"> No status: {self._why_not_judged()}.")
        return "\n".join(lines)

    def _why_not_judged(self) -> str:
        if self.scale == "smoke":
            return "smoke run"
        return "the reader's own model or data" if self.own else "run by hand"

    # ---- figures ----

    def figure(self, fig: Figure, name: str, *, alt: str, shows: str = "") -> None:
        """Save as SVG, show once with its alt text, then say what it shows.

        Parameters
        ----------
        fig : Figure
            Closed afterwards.
        name : str
            By which claims and pages name it.
        alt : str
            What is to be seen, for who cannot see it.
        shows : str
            Markdown below it.

        Raises
        ------
        ValueError
            Without an alt text.
        """
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
        about = {"alt": alt, "file": Path(file).name}
        show(alt, {"image/svg+xml": text}, {"mipo": about})

    # ---- what later notebooks need ----

    def artifact(self, name: str, path: str | Path | cache.RunFile) -> Path:
        """Tell later notebooks where a file or folder lies.

        Parameters
        ----------
        name : str
            What they ask for.
        path : path
            Where it lies. A file of a run, `run / "model"`, need not be there: it is
            known by its run.

        Returns
        -------
        Path

        Raises
        ------
        ValueError
            Where it does not exist.
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
        address = place.relative_to(base).as_posix() if inside else str(place)
        others = read_json(index) if index.exists() else {}
        write_whole(index, dumps({**others, name: address}))
        return place

    def need(self, notebook: str, name: str) -> Path | cache.RunFile:
        """The file or folder an earlier notebook left; the error says how to make it.

        Parameters
        ----------
        notebook : str
            The earlier one.
        name : str
            As it gave it to `artifact`.

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
                remedy = f"{notebook} makes it again:\n  {self._command(notebook)}"
                raise ValueError(f"{error}; {remedy}") from None
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
        """Write results/<notebook>.json, and return where it lies.

        It holds numbers, claims, figures, provenance, and hashes of the code it used.
        """
        own = (self.start, time.time())
        source = project_root() / "notebooks" / f"{self.name}.ipynb"
        cells = read_json(source)["cells"] if source.exists() else []
        sources = ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]
        modules = imported("\n".join(sources))
        code = [m for m in modules if not m.startswith("mipo_study.figures")]
        spans = {name: USED[name] for name in USED.keys() - self.before}
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
            "work": _seconds_by_kind(spans),
            "seconds_outside": round(cold - covered(spans.values()), 1),
            "runs": sorted(spans),
            "memory_gb": peak_memory(),
            "code": code_hashes(sorted(code)),
            **provenance(self.state),
        }
        return write_whole(self.run_dir / "results" / f"{self.name}.json", seal(out))


def _limit(end: float | None) -> float | None:
    """An end of a region, None for an infinite one."""
    return None if end is None or math.isinf(end) else float(end)


def _region_text(low: float | None, high: float | None) -> str:
    ends = []
    if low is not None:
        ends.append(f"at least {fmt(low)}")
    if high is not None:
        ends.append(f"at most {fmt(high)}")
    return " and ".join(ends) or "any value"


def _seconds_by_kind(spans: Mapping[str, tuple[float, float]]) -> dict[str, float]:
    """Seconds of runs by kind, the first word of their names."""
    work: dict[str, float] = {}
    for name, (begun, ended) in spans.items():
        kind = name.split("-")[0]
        work[kind] = round(work.get(kind, 0) + ended - begun, 1)
    return work
