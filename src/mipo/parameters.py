"""The one place where the value of a notebook's parameter is checked.

Papermill, a hand in JupyterLab and the configs set the same parameters; each value is
held against `RULES` before anything runs. What `RULES` does not name takes what its
default takes.
"""

from __future__ import annotations

import ast
import difflib
import json
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mipo.files import project_root, read_json

SCALES = ("smoke", "laptop", "full", "gpu")
HUGE = sys.float_info.max  # finite: beyond it is infinity, and nan is on no side


@dataclass(frozen=True)
class Rule:
    """What a parameter takes.

    Attributes
    ----------
    like : Any
        An example. Its type is the parameter's: an int takes whole numbers, a float
        whole numbers too, a list elements like its first.
    low, high : float
        Ends of the range, included; of every number in a list.
    above, below : float or None
        Ends of the range, excluded.
    choices : tuple of str
        The texts that are taken; () is any.
    also : tuple
        Numbers out of the range that have a meaning, such as 0 for "as published".
    empty : bool
        Whether a list or a text may be empty.
    distinct : bool
        Whether no element may come twice: a seed that counts twice is no second sample.
    """

    like: Any
    low: float = -HUGE
    high: float = HUGE
    above: float | None = None
    below: float | None = None
    choices: tuple[str, ...] = ()
    also: tuple[float, ...] = ()
    empty: bool = False
    distinct: bool = False

    def takes(self, value: Any) -> bool:
        """Whether a value has the type and lies in the range."""
        return self._fits(value, self.like)

    def _fits(self, value: Any, like: Any) -> bool:
        if isinstance(like, list):
            return self._fits_list(value, like)
        if isinstance(like, bool) or isinstance(value, bool):
            return isinstance(like, bool) and isinstance(value, bool)
        if isinstance(like, str):
            return isinstance(value, str) and self._fits_text(value)
        wanted = (int, float) if isinstance(like, float) else int
        return isinstance(value, wanted) and self._inside(value)

    def _fits_list(self, value: Any, like: list) -> bool:
        if not isinstance(value, (list, tuple)):
            return False
        if like is not self.like:  # an element: as many parts as the example has
            pairs = zip(value, like, strict=False)
            return len(value) == len(like) and all(self._fits(*p) for p in pairs)
        if not value and not self.empty:
            return False
        twice = len({str(item) for item in value}) < len(value)
        whole = all(self._fits(item, like[0]) for item in value)
        return whole and not (self.distinct and twice)

    def _fits_text(self, value: str) -> bool:
        if isinstance(self.like, list):
            return True
        known = not self.choices or value in self.choices
        return known and (self.empty or bool(value.strip()))

    def _inside(self, value: float) -> bool:
        if value in self.also:
            return True
        above = self.above is None or value > self.above
        below = self.below is None or value < self.below
        return self.low <= value <= self.high and above and below

    def __str__(self) -> str:
        """In words: "a list of whole numbers from 0 to 4294967295, not empty"."""
        if not isinstance(self.like, list):
            return self._words(self.like, many=False)
        element = self.like[0]
        if isinstance(element, list):
            words = f"a list of lists like {element!r}" + self._range()
        else:
            words = f"a list of {self._words(element, many=True)}"
        twice = ", none twice" if self.distinct else ""
        return words + twice + ("" if self.empty else ", not empty")

    def _words(self, like: Any, many: bool) -> str:
        if isinstance(like, bool):
            return "True or False"
        if isinstance(like, str):
            if self.choices:
                return f"one of {', '.join(self.choices)}"
            return "texts" if many else "text" + ("" if self.empty else ", not empty")
        kind = "number" if isinstance(like, float) else "whole number"
        words = f"{kind}s" if many else f"a {kind}"
        also = "".join(f", or {number:g}" for number in self.also)
        return words + self._range() + also

    def _range(self) -> str:
        ends = []
        if self.above is not None:
            ends.append(f"above {self.above:g}")
        if self.below is not None:
            ends.append(f"below {self.below:g}")
        low, high = self.low > -HUGE, self.high < HUGE
        if low and high:
            ends.append(f"from {self.low:.15g} to {self.high:.15g}")
        elif low or high:
            ends.append(f"at least {self.low:g}" if low else f"at most {self.high:g}")
        return f" {' and '.join(ends)}" if ends else ""


MANY = 10**9
COUNT = Rule(1, low=1, high=MANY)
COUNT_OR_NONE = Rule(1, low=0, high=MANY)
SEED = Rule(0, low=0, high=2**32 - 1)
SEEDS = Rule([0], low=0, high=2**32 - 1, distinct=True)
MAYBE_SEEDS = Rule([0], low=0, high=2**32 - 1, distinct=True, empty=True)
SWITCH = Rule(False)
SHARE = Rule(0.5, low=0, high=1)
POSITIVE = Rule(0.1, above=0)
POSITIVE_OR_DEFAULT = Rule(0.1, above=0, also=(0,))
NOT_NEGATIVE = Rule(0.1, low=0)
POSITIVES = Rule([0.1], above=0)
MAYBE_POSITIVES = Rule([0.1], above=0, empty=True)
NAME = Rule("")
MAYBE_NAME = Rule("", empty=True)
NAMES = Rule([""])
MAYBE_NAMES = Rule([""], empty=True)

# By name; "15-gpu-models.beta" is of that notebook, where it takes something else.
RULES: dict[str, Rule] = {
    # of the chain
    "run_dir": NAME,
    "scale": Rule("", choices=(*SCALES, "hand")),
    "threads": Rule(1, low=1, high=1024),
    "workers": Rule(1, low=1, high=1024),
    # seeds
    "seed": SEED,
    "seeds": SEEDS,
    "01-information.seeds": COUNT,
    "02-dpo-is-pmi.seeds": COUNT,
    "base_seeds": SEEDS,
    "default_seeds": MAYBE_SEEDS,
    "search_seeds": SEEDS,
    "sweep_seeds": SEEDS,
    "truth_seeds": SEEDS,
    # how many
    "bases": COUNT,
    "base_steps": COUNT,
    "batch_size": COUNT,
    "15-gpu-models.batch_size": COUNT_OR_NONE,
    "contexts": COUNT,
    "critics": COUNT,
    "dpo_settings": COUNT,
    "draws": COUNT,
    "12-cost.epochs": COUNT,
    "harness": COUNT_OR_NONE,
    "heads": COUNT,
    "hidden": COUNT,
    "k": COUNT,
    "layers": COUNT,
    "lora_rank": Rule(0, low=0, high=4096),
    "max_length": COUNT,
    "max_new_tokens": COUNT,
    "15-gpu-models.max_new_tokens": COUNT_OR_NONE,
    "max_examples": COUNT,
    "micro_batch": COUNT,
    "min_votes": COUNT,
    "n_checked": COUNT,
    "n_exact": COUNT,
    "n_extra": COUNT,
    "n_inside": COUNT,
    "n_known": COUNT_OR_NONE,
    "n_labelled": COUNT_OR_NONE,
    "n_pairs": COUNT,
    "n_people": COUNT,
    "n_along": COUNT_OR_NONE,
    "n_rates": COUNT_OR_NONE,
    "n_reasoning": COUNT_OR_NONE,
    "n_search": COUNT_OR_NONE,
    "n_select": COUNT,
    "n_test": COUNT,
    "n_train": COUNT,
    "n_trl": COUNT_OR_NONE,
    "15-gpu-models.n_test": COUNT_OR_NONE,
    "15-gpu-models.n_train": COUNT_OR_NONE,
    "n_unseen": COUNT,
    "pairs": COUNT,
    "per_task": COUNT,
    "questions": COUNT,
    "12-cost.rates": COUNT,
    "repetitions": Rule(6, low=6, high=MANY),  # for an interval of the median
    "sample_batch": COUNT,
    "save_every": COUNT,
    "score_batch": COUNT,
    "shots": COUNT_OR_NONE,
    "simpo_settings": COUNT,
    "steps": COUNT,
    "vocabulary": COUNT,
    # numbers
    "allowed": SHARE,
    "alphas": MAYBE_POSITIVES,
    "base_lr": POSITIVE,
    "beta": POSITIVE,
    "15-gpu-models.beta": POSITIVE_OR_DEFAULT,
    "betas": MAYBE_POSITIVES,
    "11-tuning-free.betas": POSITIVES,
    "13-real-people.betas": POSITIVES,
    "common_rate": POSITIVE,
    "decay_scale": POSITIVE,
    "dpo_betas": POSITIVES,
    "epochs": POSITIVE,
    "factors": POSITIVES,
    "flips": Rule([0.1], low=0, below=0.5, empty=True),
    "follow": SHARE,
    "gamma_max": NOT_NEGATIVE,
    "gamma_min": NOT_NEGATIVE,
    "grid": Rule([["0.3M", 1]], low=1),
    "held_out": Rule(0.1, above=0, below=1),
    "hot_rates": MAYBE_POSITIVES,
    "label": SHARE,
    "learning_rate": POSITIVE,
    "18-own-users.learning_rate": POSITIVE_OR_DEFAULT,
    "learning_rates": POSITIVES,
    "lengths": Rule([[96, 32]], low=1),
    "lora_rates": POSITIVES,
    "lr": POSITIVE,
    "15-gpu-models.lr": POSITIVE_OR_DEFAULT,
    "margins": Rule([[0.3, 1.6, 1.0]], low=0),
    "more_lengths": Rule([[96, 32]], low=1, empty=True),
    "prior_gap": Rule(0.5),
    "rates": MAYBE_POSITIVES,
    "ratio": NOT_NEGATIVE,
    "ratios": Rule([0.5], low=0),
    "row_rates": POSITIVES,
    "second": SHARE,
    "strength": NOT_NEGATIVE,
    "temperature": NOT_NEGATIVE,
    "15-gpu-models.temperature": Rule(1.0, low=0, also=(-1,)),
    "temperatures": MAYBE_POSITIVES,
    "top_p": Rule(1.0, above=0, high=1),
    "verifier_betas": Rule([0.1], low=0),
    "verifier_epochs": POSITIVE,
    "verifier_rates": MAYBE_POSITIVES,
    "vote_rates": POSITIVES,
    "within": SHARE,
    # switches
    "checkpointing": SWITCH,
    "mipo_pairs": SWITCH,
    "placebo": SWITCH,
    "search": SWITCH,
    "warm": SWITCH,
    # names, of which each notebook knows its own
    "arms": NAMES,
    "closely": NAMES,
    "controls": MAYBE_NAMES,
    "conversation": NAME,
    "data_dir": MAYBE_NAME,
    "dataset": NAME,
    "decoded": MAYBE_NAMES,
    "dtype": Rule("", choices=("float32", "bfloat16")),
    "engine": Rule("", choices=("auto", "batched", "continuous")),
    "judge": MAYBE_NAME,
    "launch": MAYBE_NAME,
    "losses": NAMES,
    "main_arm": NAME,
    "methods": NAMES,
    "15-gpu-models.methods": MAYBE_NAMES,
    "model": MAYBE_NAME,
    "14-real-model.model": NAME,
    "more": Rule([["", ""]], empty=True),
    "negatives": NAMES,
    "plugs": MAYBE_NAMES,
    "preferences": MAYBE_NAME,
    "revision": MAYBE_NAME,
    "scope": Rule("", choices=("first", "all")),
    "users": MAYBE_NAME,
    "vote_losses": NAMES,
    # what a config expects of a notebook
    "expected.minutes": NOT_NEGATIVE,
    "expected.memory_gb": NOT_NEGATIVE,
    "expected.disk_mb": NOT_NEGATIVE,
}


def rule_of(name: str, default: Any, notebook: str = "") -> Rule | None:
    """The rule of a parameter, declared or by its default; None takes anything.

    Parameters
    ----------
    name : str
        The parameter.
    default : Any
        What the parameters cell sets.
    notebook : str
        Name of the notebook, such as "15-gpu-models".
    """
    declared = RULES.get(f"{notebook}.{name}") or RULES.get(name)
    # A default of None, and a list without elements, do not say what they take.
    if declared is not None or default is None or default == []:
        return declared
    return Rule(default, empty=True)


def check_parameters(
    defaults: Mapping[str, Any],
    given: Mapping[str, Any],
    where: str,
    *,
    notebook: str = "",
    papermill: bool = False,
) -> None:
    """Hold given values against what their parameters take.

    Parameters
    ----------
    defaults : dict
        {name: value} of the parameters cell.
    given : dict
        {name: value} that is to be used.
    where : str
        Begins the message: a notebook, a config and its section.
    notebook : str
        Name of the notebook, since some names take something else in some chapters.
    papermill : bool
        Whether the message says how papermill passes such a value.

    Raises
    ------
    ValueError
        For the first name that is unknown and the first value of another type or out
        of range.
    """
    for name, value in given.items():
        if name not in defaults:
            hint = suggestion(str(name), defaults)
            raise ValueError(f"{where}: unknown parameter {name!r}{hint}")
        if value is None and defaults[name] is None:
            continue  # a default that says nothing, left as it is
        rule = rule_of(name, defaults[name], notebook)
        if rule is not None and not rule.takes(value):
            hint = _hint(name, value, rule, papermill)
            got = _short(value)
            if value is not None and type(value) is not type(rule.like):
                got += f", {kind_of(value)}"
            raise ValueError(f"{where}: {name} is {got}; it takes {rule}{hint}")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _hint(name: str, value: Any, rule: Rule, papermill: bool) -> str:
    text = isinstance(value, str)
    if text and not papermill and re.fullmatch(r"[-+]?\d+e[-+]?\d+", value):
        return " (YAML reads 1e-3 as text; write 1.0e-3)"
    if not papermill:
        return ""
    if isinstance(rule.like, list):
        return f" (papermill: -y '{name}: {json.dumps(rule.like)}')"
    if isinstance(rule.like, str):
        return f" (papermill: -r {name} {rule.choices[0] if rule.choices else 'TEXT'})"
    return f" (papermill: -p {name} {rule.like})"


def kind_of(value: Any) -> str:
    """What a value is, in words."""
    kinds = {
        bool: "true/false",
        int: "a whole number",
        float: "a number",
        str: "text",
        list: "a list",
        tuple: "a list",
        dict: "a mapping",
        type(None): "nothing",
    }
    return kinds.get(type(value), type(value).__name__)


FEW = 12  # choices that a message can list


def suggestion(word: str, known: Iterable[str]) -> str:
    """The known word that is probably meant; all there are, where they are few."""
    known = list(known)
    close = difflib.get_close_matches(word, known, 1)
    if not close:
        return f"; choose from {', '.join(known)}"
    few = f" There are {', '.join(known)}" if len(known) <= FEW else ""
    return f"; did you mean {close[0]!r}?{few}"


# ---- in a notebook ----


def assigned(source: str) -> dict[str, Any]:
    """{name: value} that a cell assigns; None where the value is no literal."""
    values = {}
    for node in ast.parse(source).body:
        if not isinstance(node, (ast.Assign, ast.AnnAssign)):
            continue
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        for target in targets:
            if isinstance(target, ast.Name):
                values[target.id] = _literal(node.value)
    return values


def _literal(node: ast.expr | None) -> Any:
    try:
        return ast.literal_eval(node) if node is not None else None
    except ValueError:
        return None


def parameters_cell(notebook: str) -> str:
    """Source of the cell tagged `parameters`; "" where the notebook is not here."""
    file = project_root() / "notebooks" / f"{notebook}.ipynb"
    cells = read_json(file)["cells"] if file.exists() else []
    for cell in cells:
        if "parameters" in cell["metadata"].get("tags", []):
            return "".join(cell["source"])
    return ""


def check_notebook(notebook: str) -> None:
    """Check the parameters of the notebook that runs in this kernel.

    Papermill puts a cell of its own, "# Parameters", behind the parameters cell, which
    may be that of a reader's copy; without one, names are those of the notebook itself.
    Values are those that hold now, whoever set them.

    Raises
    ------
    ValueError
        See `check_parameters`.
    """
    from IPython import get_ipython

    shell = get_ipython()
    if shell is None:
        return
    cells = [cell for cell in shell.user_ns.get("In", []) if cell.strip()]
    injected = [i for i, cell in enumerate(cells) if cell.startswith("# Parameters\n")]
    if injected:
        at = injected[-1]
        defaults = assigned(cells[at - 1]) if at else {}
        names = [*defaults, *assigned(cells[at])]
    else:
        defaults = assigned(parameters_cell(notebook))
        names = list(defaults)
    values = {name: shell.user_ns[name] for name in names if name in shell.user_ns}
    check_parameters(defaults, values, notebook, notebook=notebook, papermill=True)
