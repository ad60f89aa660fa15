"""The layers: `mipo` never imports `mipo_study`, and no two modules import each other.

Nor is anything imported that Windows or macOS lacks. All is read from the source, not by
importing, so that imports inside functions count too.
"""

import ast
from functools import cache
from pathlib import Path

import pytest

pytestmark = pytest.mark.fast
SRC = Path(__file__).resolve().parents[1] / "src"
PACKAGES = ("mipo", "mipo_study")
# Modules of the standard library that Windows or macOS lacks.
UNIX_ONLY = {"fcntl", "grp", "pty", "pwd", "resource", "spwd", "syslog", "termios"}


def module_name(file, src=SRC):
    """`src/mipo/losses/__init__.py` is `mipo.losses`."""
    parts = file.relative_to(src).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def source_files(src=SRC):
    """{module name: file} of both packages."""
    files = [file for name in PACKAGES for file in sorted((src / name).rglob("*.py"))]
    return {module_name(file, src): file for file in files}


def is_type_checking(node):
    """Whether a statement is `if TYPE_CHECKING:`, whose body never runs."""
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def statements(node):
    """Every node below `node` that can run."""
    for child in ast.iter_child_nodes(node):
        if is_type_checking(child):
            continue
        yield child
        yield from statements(child)


def written_base(node, package):
    """What stands between `from` and `import`, relative or not, as a full name."""
    above = package.split(".") if node.level else []
    above = above[: len(above) + 1 - node.level] if node.level else above
    return ".".join([*above, *([node.module] if node.module else [])])


def targets(node, package):
    """(module, name or None) for everything that one node imports."""
    if isinstance(node, ast.Import):
        return [(alias.name, None) for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = written_base(node, package)
        return [(base, alias.name) for alias in node.names]
    if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
        first = node.args[0]
        is_text = isinstance(first, ast.Constant) and isinstance(first.value, str)
        return [(first.value, None)] if is_text else []
    return []


def imports(name, file):
    """Every (module, name or None) that a file imports, in or out of a function."""
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return {target for node in statements(tree) for target in targets(node, package)}


def arrows(src=SRC):
    """{module: modules of ours that it imports}; `from a import b` may mean a.b."""
    files = source_files(src)
    graph = {}
    for name, file in files.items():
        pairs = imports(name, file)
        full = [f"{base}.{part}" for base, part in pairs]
        nearest = [
            one if one in files else base
            for one, (base, _) in zip(full, pairs, strict=True)
        ]
        graph[name] = {one for one in nearest if one in files} - {name}
    return graph


def reach(graph, start):
    """Every module that `start` imports, directly or not."""
    seen, todo = set(), [start]
    while todo:
        new = graph[todo.pop()] - seen
        seen |= new
        todo += new
    return seen


def circles(graph):
    """Lists of modules that import each other, each list once."""
    below = {name: reach(graph, name) for name in graph}
    looped = [name for name in graph if name in below[name]]
    rings = {
        tuple(
            other for other in looped if other in below[name] and name in below[other]
        )
        for name in looped
    }
    return [list(ring) for ring in sorted(rings)]


def levels(graph):
    """Length of the longest chain of imports; only where there is no circle."""

    @cache
    def height(name):
        return 1 + max((height(below) for below in graph[name]), default=0)

    return max(height(name) for name in graph)


@pytest.fixture(scope="module")
def graph():
    return arrows()


def test_the_method_knows_nothing_of_the_study(graph):
    upward = {
        name: sorted(target for target in below if target.startswith("mipo_study"))
        for name, below in graph.items()
        if not name.startswith("mipo_study")
    }
    culprits = {name: targets for name, targets in upward.items() if targets}
    assert culprits == {}


def test_no_two_modules_import_each_other(graph):
    assert circles(graph) == []


def test_nothing_is_imported_that_windows_or_macos_lacks():
    culprits = {
        name: sorted(
            {base.split(".")[0] for base, _ in imports(name, file)} & UNIX_ONLY
        )
        for name, file in source_files().items()
    }
    culprits = {name: lacks for name, lacks in culprits.items() if lacks}
    # It asks only behind a check of the platform: psutil knows no peak on Unix.
    assert set(culprits) <= {"mipo.provenance"}, culprits


def test_the_number_of_levels(graph):
    """The first edition had 17; `pytest -s` shows how many there are."""
    count = levels(graph)
    print(f"{len(graph)} modules on {count} levels")
    assert count <= 13


def write(folder, files):
    for name, text in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")


def test_the_check_itself_sees_every_kind_of_import(tmp_path):
    """A circle through a function, a relative import, a string; not one for types."""
    study = "from mipo import low\n"
    low = "def later():\n    from mipo_study import top\n"
    kin = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import mipo.low\n"
    dynamic = (
        "import importlib\nimportlib.import_module('mipo.low')\nfrom . import kin\n"
    )
    write(
        tmp_path,
        {
            "mipo/__init__.py": "",
            "mipo/low.py": low,
            "mipo/kin.py": kin,
            "mipo/dynamic.py": dynamic,
            "mipo_study/__init__.py": "",
            "mipo_study/top.py": study,
        },
    )
    graph = arrows(tmp_path)
    assert graph["mipo.low"] == {"mipo_study.top"}
    assert graph["mipo.kin"] == set()
    assert graph["mipo.dynamic"] == {"mipo.low", "mipo.kin"}
    assert circles(graph) == [["mipo.low", "mipo_study.top"]]
