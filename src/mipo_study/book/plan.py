"""What a scale runs: its notebooks in order, what each depends on, what is out of date.

Content decides, never dates. Each step keeps a *stamp* beside its output: the digests
of all that went into it (notebook, parameters, modules, results of the notebooks it
needs) and of all that came out (executed notebook, results, figures). A step is stale
when a digest differs from today's, so "delete it and run again" always works.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from mipo import packaged
from mipo.cache import closure, find, imported, source_hash
from mipo.files import digest, dumps, project_root, write_whole
from mipo.parameters import SCALES, check_parameters, kind_of, suggestion

GIVEN = ("run_dir", "scale")  # set by the chain, never by a config
# What a config may say of a notebook under `expected`; see `parameters.RULES`.
EXPECTED = {"minutes": 1.0, "memory_gb": 1.0, "disk_mb": 1.0, "download": "none"}


def clone() -> Path:
    """The folder of the clone, whose notebooks, configs and results no wheel holds.

    Raises
    ------
    ValueError
        Where the project's root is no clone.
    """
    root = project_root()
    if not (root / "notebooks").is_dir():
        raise ValueError(
            f"{root} is no clone of this study, it has no notebooks/; "
            "run this inside a clone, or set MIPO_ROOT to one"
        )
    return root


def file_digest(path: Path) -> str:
    """sha256 of a file; empty for one that is missing or cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


def read_or_empty(path: Path) -> dict:
    """A JSON object, or an empty one where there is none that can be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


@dataclass(frozen=True)
class Step:
    """One notebook at one scale.

    Paths count from the project's root, so that nothing names a machine.

    Attributes
    ----------
    name, scale : str
        The notebook's file without its ending, and a name of `SCALES`.
    parameters : dict
        The notebook's section of the config.
    expected : dict
        What the config says of minutes, memory_gb, disk_mb and download.
    """

    name: str
    scale: str
    parameters: dict = field(hash=False)
    expected: dict = field(hash=False)

    @property
    def run_dir(self) -> str:
        """The folder of the scale's runs."""
        return f"runs/{self.scale}"

    @property
    def notebook(self) -> str:
        """The notebook as it is committed."""
        return f"notebooks/{self.name}.ipynb"

    @property
    def output(self) -> str:
        """The executed notebook."""
        return f"{self.run_dir}/notebooks/{self.name}.ipynb"

    @property
    def partial(self) -> str:
        """The notebook that is being executed, or that failed."""
        return f"{self.run_dir}/notebooks/{self.name}.partial.ipynb"

    @property
    def result(self) -> str:
        """Its numbers, claims and figures."""
        return f"{self.run_dir}/results/{self.name}.json"

    @property
    def artifacts(self) -> str:
        """Where it notes what it leaves for later notebooks."""
        return f"{self.run_dir}/artifacts/{self.name}.json"

    @property
    def stamp(self) -> str:
        """Digests of what went in and what came out."""
        return f"{self.run_dir}/stamps/{self.name}.json"

    @property
    def number(self) -> str:
        """The chapter's number, two digits."""
        return self.name.split("-")[0]

    @property
    def threads(self) -> int:
        """Cores that the step fills: threads of each worker."""
        threads = self.parameters.get("threads", 1)
        return threads * self.parameters.get("workers", 1)

    @cached_property
    def cells(self) -> list[dict]:
        """The notebook's code cells."""
        text = (project_root() / self.notebook).read_text(encoding="utf-8")
        try:
            cells = json.loads(text)["cells"]
        except (ValueError, KeyError, TypeError):
            raise ValueError(f"{self.notebook} is no notebook (not JSON)") from None
        return [cell for cell in cells if cell["cell_type"] == "code"]

    @cached_property
    def code(self) -> str:
        """The code cells as one source, without magics."""
        lines = "\n".join("".join(cell["source"]) for cell in self.cells).splitlines()
        return "\n".join(line for line in lines if line.lstrip()[:1] not in ("%", "!"))

    @cached_property
    def defaults(self) -> dict[str, Any]:
        """What the parameters cell sets: literals; another expression is left out."""
        cells = [c for c in self.cells if "parameters" in c["metadata"].get("tags", [])]
        source = "\n".join("".join(cell["source"]) for cell in cells)
        values = {}
        for node in ast.parse(source).body:
            if not isinstance(node, ast.Assign):
                continue
            try:
                values[ast.unparse(node.targets[0])] = ast.literal_eval(node.value)
            except ValueError:
                continue
        return values

    @cached_property
    def needs(self) -> list[str]:
        """The earlier notebooks it takes artifacts from: its nb.need("04-...", ...)."""
        try:
            nodes = list(ast.walk(ast.parse(self.code)))
        except SyntaxError as error:
            raise ValueError(f"{self.notebook}: {error}") from None
        calls = [node for node in nodes if isinstance(node, ast.Call)]
        calls = [call for call in calls if getattr(call.func, "attr", "") == "need"]
        first = [call.args[0] for call in calls if call.args]
        values = [node.value for node in first if isinstance(node, ast.Constant)]
        return sorted({value for value in values if isinstance(value, str)})

    def votes_at_hand(self) -> bool:
        """Whether this machine has the votes: with them, a skipped chapter runs."""
        from mipo.worlds import polis

        default = self.defaults.get("conversation", "")
        return polis.at_hand(self.parameters.get("conversation") or default)

    def inputs(self) -> dict[str, str]:
        """{what it is made from: digest}; a comment in a module does not count."""
        root, modules = project_root(), closure(imported(self.code))
        inputs = {
            "the notebook": file_digest(root / self.notebook),
            "its parameters": digest(self.parameters),
        }
        for scale in {"full", "gpu"} - {self.scale}:
            file = root / "results" / scale / f"{self.name}.json"
            inputs[f"results/{scale}"] = file_digest(file)
        if "mipo.worlds.polis" in modules:
            inputs["the votes"] = str(self.votes_at_hand())
        inputs |= {name: source_hash(file) for name, file in modules.items()}
        for need in self.needs:
            earlier = Step(need, self.scale, {}, {}).read_stamp()
            inputs[f"results of {need}"] = digest(earlier.get("outputs"))
        return inputs

    def outputs(self) -> dict[str, str]:
        """{file it wrote: digest}: executed notebook, results, artifacts, figures."""
        root = project_root()
        figures = read_or_empty(root / self.result).get("figures", {}).values()
        files = [f"{self.run_dir}/results/{figure['file']}" for figure in figures]
        files += [self.output, self.result]
        if (root / self.artifacts).exists():
            files.append(self.artifacts)
        return {file: file_digest(root / file) for file in files}

    def read_stamp(self) -> dict:
        """The stamp of the last run; empty where there is none."""
        return read_or_empty(project_root() / self.stamp)

    def write_stamp(self, **content: Any) -> None:
        """Write the stamp: run, and inputs and outputs, or error."""
        write_whole(project_root() / self.stamp, dumps(content))

    def last_result(self) -> dict:
        """The last run here, else the published run of this scale, else nothing."""
        published = Path("results") / self.scale / f"{self.name}.json"
        here = read_or_empty(project_root() / self.result)
        return here or read_or_empty(project_root() / published)

    def minutes(self) -> float | None:
        """Minutes from nothing, as last measured, else as the config says."""
        seconds = self.last_result().get("seconds_cold")
        return self.expected.get("minutes") if seconds is None else seconds / 60


# ---- what is to be run ----


def read_config(scale: str) -> dict:
    """configs/<scale>.yml.

    Returns
    -------
    dict
        {section: names and values}.

    Raises
    ------
    ValueError
        For an unknown scale, and a file that cannot be read or holds something else.
    """
    import yaml

    if scale not in SCALES:
        raise ValueError(f"SCALE={scale} is no scale{suggestion(scale, SCALES)}")
    name = f"configs/{scale}.yml"
    try:
        text = (clone() / name).read_text(encoding="utf-8")
        config = yaml.safe_load(text) or {}
        twice = _written_twice(yaml.compose(text, yaml.SafeLoader))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ValueError(f"{name} cannot be read: {error}") from None
    if twice:
        raise ValueError(f"{name}: {twice}; of two values only one would count")
    _require_mapping(config, name)
    for section, values in config.items():
        _require_mapping(values, f"{name}, section {section}")
    for step, values in (config.get("expected") or {}).items():
        where = f"{name}, section expected, {step}"
        _require_mapping(values, where)
        check_parameters(EXPECTED, values or {}, where, notebook="expected")
    return config


def _require_mapping(value: Any, where: str) -> None:
    if not isinstance(value, dict | None):
        kind = kind_of(value)
        raise ValueError(f"{where}: expected names and values, not {kind}")


def _written_twice(node: Any) -> str:
    """The first name that a mapping of a YAML document holds twice, and its line.

    YAML itself takes the last one without a word.
    """
    pairs = node.value if node is not None and node.id == "mapping" else []
    names = [key.value for key, _ in pairs]
    for i, (key, value) in enumerate(pairs):
        if key.value in names[:i]:
            return (
                f"{key.value!r} stands twice, again in line {key.start_mark.line + 1}"
            )
        deeper = _written_twice(value)
        if deeper:
            return deeper
    return ""


def steps(scale: str) -> dict[str, Step]:
    """The notebooks that a config has a section for.

    Returns
    -------
    dict
        {name: Step}, in order.

    Raises
    ------
    ValueError
        For a section that names no notebook; see also `read_config`.
    """
    config = read_config(scale)
    expected = config.pop("expected", None) or {}
    files = sorted((project_root() / "notebooks").glob("[0-9]*.ipynb"))
    names = [file.stem for file in files]
    for name in [*config, *expected]:
        if name not in names:
            where = f"configs/{scale}.yml: section {name!r} names no notebook"
            raise ValueError(where + suggestion(str(name), names))
    return {
        name: Step(name, scale, config[name] or {}, expected.get(name) or {})
        for name in names
        if name in config
    }


def check_step(step: Step) -> None:
    """Compare names and types with the notebook's parameters cell.

    Raises
    ------
    ValueError
        Names the section, the parameter, and what is wrong with it.
    """
    known = step.defaults
    where = f"configs/{step.scale}.yml, section {step.name}"
    for name in GIVEN:
        if name not in known:
            raise ValueError(f"{step.notebook}: its parameters cell must set {name!r}")
        if name in step.parameters:
            raise ValueError(f"{where}: {name!r} is set by the chain, take it out")
    check_parameters(known, step.parameters, where, notebook=step.name)


def check(plan: Mapping[str, Step]) -> None:
    """Look for all that can be wrong before the first notebook starts.

    Raises
    ------
    ValueError
        See `check_step`; and for a step that needs a notebook without a section.
    """
    for step in plan.values():
        check_step(step)
        for need in step.needs:
            if need not in plan:
                where = f"configs/{step.scale}.yml"
                raise ValueError(f"{where}: {step.name} needs {need}; add a section")


# ---- what is out of date ----


def stale(plan: Mapping[str, Step]) -> dict[str, str]:
    """{name: why} of what has to run."""
    why: dict[str, str] = {}
    for step in plan.values():
        reason = reason_to_run(step, why)
        if reason:
            why[step.name] = reason
    return why


def reason_to_run(step: Step, stale_before: Iterable[str]) -> str:
    """Why a step has to run; empty if what it has is what it would make."""
    root, stamp = project_root(), step.read_stamp()
    behind = [need for need in step.needs if need in stale_before]
    if "error" in stamp:
        return f"failed: {stamp['error']}"
    if (root / step.partial).exists():
        return "stopped half-way"
    if not stamp:
        return "not run yet"
    if behind:
        return f"after {', '.join(behind)}"
    changed = different(stamp.get("inputs"), step.inputs())
    if changed:
        return f"changed: {few(changed)}"
    outputs = stamp.get("outputs") or {}
    lost = different(outputs, {file: file_digest(root / file) for file in outputs})
    lost = lost or absent_artifacts(step)
    return f"missing or changed since: {few(lost)}" if lost else ""


def few(names: list[str]) -> str:
    """The first two names and how many more there are."""
    more = f" and {len(names) - 2} more" if len(names) > 2 else ""
    return ", ".join(names[:2]) + more


def different(then: Any, now: dict[str, str]) -> list[str]:
    """The names whose digests differ, or that only one of the two has."""
    then = then if isinstance(then, dict) else {}
    return sorted(name for name in then | now if then.get(name) != now.get(name))


def absent_artifacts(step: Step) -> list[str]:
    """What the step left for later notebooks and is gone, was changed or is wanted."""
    places = read_or_empty(project_root() / step.artifacts).values()
    return [str(place) for place in places if not is_there(step.run_dir, str(place))]


def is_there(run_dir: str, place: str) -> bool:
    """Whether a later notebook can have a file or folder of this name.

    A run need not have its files: what it measured is enough to make them again.
    """
    home = project_root() / run_dir
    folder, label, *_ = *Path(place).parts, ""
    if folder != "runs":
        return (home / place).exists()
    if (home / "wanted" / label).exists():
        return False
    try:
        run = find(run_dir, label)
    except ValueError:
        return False
    return run is not None and (not run.folder.is_dir() or (home / place).exists())


# ---- what is said before a run ----


def urgency(plan: dict[str, Step]) -> dict[str, float]:
    """Minutes from a step's start to the end of the longest line that waits for it."""
    line: dict[str, float] = {}
    for name, step in reversed(plan.items()):  # who needs a step comes later
        behind = [line[other] for other in line if name in plan[other].needs]
        line[name] = (step.minutes() or 0.0) + max(behind, default=0.0)
    return line


def dry_run(scale: str) -> str:
    """A table of what would run, with minutes, memory, downloads and disk."""
    import pandas

    plan = steps(scale)
    check(plan)
    why = stale(plan)
    frame = pandas.DataFrame(
        dry_row(step, why.get(step.name)) for step in plan.values()
    )
    widths = [frame[name].str.len().max() for name in frame]
    left = [f"{{:<{width}}}".format for width in widths]
    table = frame.to_string(index=False, justify="left", formatters=left)
    minutes = sum(plan[name].minutes() or 0.0 for name in why)
    return (
        f"{table}\n{len(why)} of {len(plan)} notebooks would run, "
        f"about {minutes_text(minutes)} minutes one after another, as last measured"
        " (a run that is already kept is loaded, not repeated)."
    )


def dry_row(step: Step, reason: str | None) -> dict[str, str]:
    """A step's line of `dry_run`; without a reason it would not run."""
    memory = step.last_result().get("memory_gb") or step.expected.get("memory_gb")
    disk = step.expected.get("disk_mb")
    return {
        "notebook": step.name,
        "would run": reason or "no: up to date",
        "minutes": minutes_text(step.minutes()),
        "memory": f"{memory} GB" if memory else "?",
        "disk": f"{disk} MB" if disk else "?",
        "download": download_text(step),
    }


def download_text(step: Step) -> str:
    """What a step would download: what its config says, and a packaged model's wheel.

    The wheel is not said where the model is on this machine already.
    """
    said = step.expected.get("download", "none")
    model = str(step.parameters.get("model", ""))
    if not packaged.is_packaged(model) or packaged.at_hand(model):
        return said
    wheel = f"{packaged.WHEELS[packaged.SMOLLM2].megabytes} MB, {model}, once"
    return wheel if said == "none" else f"{said}; {wheel}"


def minutes_text(minutes: float | None) -> str:
    """Minutes in words: below 10 with a digit, "?" where they are not known."""
    if minutes is None:
        return "?"
    return f"{minutes:.1f}" if minutes < 10 else f"{minutes:.0f}"
