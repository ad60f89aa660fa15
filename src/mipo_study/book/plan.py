"""What a scale would run: notebooks in order, parameters checked, what each depends on, what is out of date."""

from __future__ import annotations

import ast
import difflib
import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from mipo.cache import closure, imported, source_hash
from mipo.files import dumps, project_root, read_json, write_whole

SCALES = ("smoke", "laptop", "full", "gpu")
GIVEN = ("run_dir", "scale")  # set by the chain, never by a config


@dataclass(frozen=True)
class Step:
    """One notebook at one scale. Paths count from the project's root, so that nothing names a machine."""

    name: str
    scale: str
    parameters: dict = field(hash=False)
    expected: dict = field(hash=False)

    @property
    def run_dir(self) -> str:
        return f"runs/{self.scale}"

    @property
    def notebook(self) -> str:
        return f"notebooks/{self.name}.ipynb"

    @property
    def output(self) -> str:
        return f"{self.run_dir}/notebooks/{self.name}.ipynb"

    @property
    def partial(self) -> str:
        return f"{self.run_dir}/notebooks/{self.name}.partial.ipynb"

    @property
    def result(self) -> str:
        return f"{self.run_dir}/results/{self.name}.json"

    @property
    def marker(self) -> str:
        return f"{self.run_dir}/inputs/{self.name}.json"

    @property
    def threads(self) -> int:
        return int(self.parameters.get("threads", 1)) * int(
            self.parameters.get("workers", 1)
        )

    @cached_property
    def code(self) -> str:
        """The notebook's code cells as one source, without magics."""
        cells = read_json(project_root() / self.notebook)["cells"]
        text = "\n".join(
            "".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"
        )
        return "\n".join(
            line
            for line in text.splitlines()
            if not line.lstrip().startswith(("%", "!"))
        )

    @cached_property
    def needs(self) -> list[str]:
        """The earlier notebooks it takes artifacts from: the literals in nb.need("04-small-world", ...)."""
        calls = [
            node
            for node in ast.walk(ast.parse(self.code))
            if isinstance(node, ast.Call)
        ]
        named = {
            call.args[0].value
            for call in calls
            if isinstance(call.func, ast.Attribute)
            and call.func.attr == "need"
            and call.args
            and isinstance(call.args[0], ast.Constant)
        }
        return sorted(named)

    def votes_at_hand(self) -> bool:
        """Whether the votes are on this machine: a chapter that had to do without them is run again once they are."""
        from mipo.worlds import polis

        default = re.search(r'^conversation = "([^"]+)"', self.code, re.M)
        return polis.at_hand(
            self.parameters.get("conversation") or (default.group(1) if default else "")
        )

    def content(self) -> str:
        """Everything that decides what the notebook would do; a changed comment in a module is no change."""
        modules = closure(imported(self.code))
        files = [
            project_root() / "results" / scale / f"{self.name}.json"
            for scale in ("full", "gpu")
        ]
        published = [
            file for file in files if file.exists() and file.parent.name != self.scale
        ]
        return dumps(
            {
                "notebook": hashlib.sha256(
                    (project_root() / self.notebook).read_bytes()
                ).hexdigest(),
                "parameters": self.parameters,
                "code": {
                    name: source_hash(file) for name, file in sorted(modules.items())
                },
                "data": "mipo.worlds.polis" in modules and self.votes_at_hand(),
                "published": hashlib.sha256(
                    b"".join(file.read_bytes() for file in published)
                ).hexdigest()
                if published
                else "",
            }
        )


def read_config(scale: str) -> dict:
    """configs/<scale>.yml as a dict, or one clear error."""
    import yaml

    if scale not in SCALES:
        raise ValueError(f"SCALE={scale} is no scale{suggestion(scale, SCALES)}")
    file = project_root() / "configs" / f"{scale}.yml"
    try:
        config = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"configs/{scale}.yml cannot be read: {error}") from None
    if not isinstance(config, dict):
        raise ValueError(
            f"configs/{scale}.yml: expected one section per notebook, found {kind_of(config)}"
        )
    return config


def steps(scale: str) -> dict[str, Step]:
    """{name: Step} of the notebooks that configs/<scale>.yml has a section for, in reading order."""
    config = read_config(scale)
    expected = config.pop("expected", None) or {}
    there = sorted(
        file.stem for file in (project_root() / "notebooks").glob("[0-9]*.ipynb")
    )
    for name in [*config, *expected]:
        if name not in there:
            raise ValueError(
                f"configs/{scale}.yml: section {name!r} names no notebook"
                + suggestion(name, there)
            )
    return {
        name: Step(
            name, scale, dict(config[name] or {}), dict(expected.get(name) or {})
        )
        for name in there
        if name in config
    }


def suggestion(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), 1, cutoff=0.5)
    return (
        f"; did you mean {close[0]!r}?"
        if close
        else f"; it has {', '.join(sorted(known))}"
    )


def kind_of(value: Any) -> str:
    """bool, number, text, list or mapping: what a parameter may be exchanged for. An int serves as a float."""
    kinds = {
        bool: "true/false",
        int: "whole number",
        float: "number",
        str: "text",
        list: "list",
        tuple: "list",
        dict: "mapping",
        type(None): "none",
    }
    return kinds.get(type(value), type(value).__name__)


def check_parameters(step: Step) -> None:
    """Compare names and types with the notebook's parameters cell; papermill itself only warns."""
    from papermill import inspect_notebook

    known = inspect_notebook(str(project_root() / step.notebook))
    where = f"configs/{step.scale}.yml, section {step.name}"
    for name in GIVEN:
        if name not in known:
            raise ValueError(f"{step.notebook}: its parameters cell must set {name!r}")
        if name in step.parameters:
            raise ValueError(f"{where}: {name!r} is set by the chain, take it out")
    for name, value in step.parameters.items():
        if name not in known:
            raise ValueError(
                f"{where}: unknown parameter {name!r}{suggestion(name, known)}"
            )
        try:
            default = ast.literal_eval(known[name]["default"])
        except (ValueError, SyntaxError):
            continue  # not a literal: nothing to compare with
        given, wanted = kind_of(value), kind_of(default)
        fits = (
            given == wanted
            or "none" in (given, wanted)
            or (given, wanted) == ("whole number", "number")
        )
        if not fits:
            hint = (
                " (YAML reads 1e-3 as text; write 1.0e-3)"
                if given == "text" and wanted == "number"
                else ""
            )
            raise ValueError(
                f"{where}: {name} is {value!r}, a {given}; the notebook expects a {wanted}, "
                f"like {default!r}{hint}"
            )


def check(plan: dict[str, Step]) -> None:
    """Everything that can be wrong before the first notebook starts."""
    for step in plan.values():
        check_parameters(step)
        for need in step.needs:
            if need not in plan:
                raise ValueError(
                    f"configs/{step.scale}.yml: {step.name} needs {need}; add a section for it"
                )


def write_markers(plan: dict[str, Step]) -> None:
    """Write each step's content to its marker, only where it changed: its date then says when something changed."""
    for step in plan.values():
        marker, content = project_root() / step.marker, step.content()
        if not marker.exists() or marker.read_text(encoding="utf-8") != content:
            write_whole(marker, content)


def stale(plan: dict[str, Step]) -> dict[str, str]:
    """{name: why} of what would run, without writing anything."""
    why: dict[str, str] = {}
    root = project_root()
    for step in plan.values():
        output, marker = root / step.output, root / step.marker
        older = [
            need
            for need in step.needs
            if need in why
            or (
                output.exists()
                and (root / plan[need].output).exists()
                and (root / plan[need].output).stat().st_mtime > output.stat().st_mtime
            )
        ]
        if not output.exists():
            why[step.name] = (
                "not run yet"
                if not (root / step.partial).exists()
                else "stopped half-way"
            )
        elif (
            not marker.exists() or marker.read_text(encoding="utf-8") != step.content()
        ):
            why[step.name] = "notebook, code or parameters changed"
        elif marker.stat().st_mtime > output.stat().st_mtime:
            why[step.name] = "notebook, code or parameters changed"
        elif older:
            why[step.name] = f"after {', '.join(older)}"
    return why


def last_result(step: Step) -> dict:
    """The last run here, else the published run of this scale, else nothing."""
    for file in (
        project_root() / step.result,
        project_root() / "results" / step.scale / f"{step.name}.json",
    ):
        if file.exists():
            return read_json(file)
    return {}


def expected_minutes(step: Step) -> float | None:
    """Minutes from nothing, as last measured, else what the config says."""
    last = last_result(step)
    return last["seconds_cold"] / 60 if last else step.expected.get("minutes")


def urgency(plan: dict[str, Step]) -> dict[str, float]:
    """Minutes from each step's start to the end of the longest line of steps that wait for one another behind it."""
    found: dict[str, float] = {}
    for name, step in reversed(
        plan.items()
    ):  # who needs a step comes later in reading order
        behind = [found[other] for other in found if name in plan[other].needs]
        found[name] = (expected_minutes(step) or 0.0) + max(behind, default=0.0)
    return found


def forecast(plan: dict[str, Step], jobs: int) -> float:
    """Minutes of all steps on `jobs` cores, if no core ever waits but for the longest line of steps."""
    busy = sum(
        (expected_minutes(step) or 0.0) * min(step.threads, jobs)
        for step in plan.values()
    )
    return max([busy / jobs, *urgency(plan).values()])


def dry_run(scale: str) -> str:
    """A table of what would run, with minutes, memory, downloads and disk."""
    plan = steps(scale)
    check(plan)
    why, total = stale(plan), 0.0
    lines = [
        f"{'notebook':22} {'would run':38} {'minutes':>8} {'memory':>8} {'disk':>8}  download"
    ]
    for step in plan.values():
        minutes, runs = expected_minutes(step), step.name in why
        total += (minutes or 0) * runs
        memory = last_result(step).get("memory_gb") or step.expected.get("memory_gb")
        disk = step.expected.get("disk_mb")
        lines.append(
            f"{step.name:22} {why.get(step.name, 'no: up to date'):38} {minutes_text(minutes):>8} "
            f"{f'{memory} GB' if memory else '?':>8} {f'{disk} MB' if disk else '?':>8}  "
            f"{step.expected.get('download', 'none')}"
        )
    lines.append(
        f"{len(why)} of {len(plan)} notebooks would run, about {minutes_text(total)} minutes one after another"
        " (a run that is already kept is loaded, not repeated)."
    )
    return "\n".join(lines)


def minutes_text(minutes: float | None) -> str:
    return (
        "?"
        if minutes is None
        else f"{minutes:.1f}"
        if minutes < 10
        else f"{minutes:.0f}"
    )


def number_of(name: str) -> str:
    return re.match(r"\d+", name).group()
