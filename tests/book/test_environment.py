"""One environment, listed once: pyproject.toml names the packages, constraints.txt their tested versions."""

import ast
import importlib.metadata
import json
import re
import subprocess
import sys
import tomllib

import pytest
import yaml
from building import ROOT, environment
from packaging.requirements import Requirement

import mipo

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))[
    "project"
]
WANTED = [Requirement(line) for line in PROJECT["dependencies"]]
EXTRAS = {
    name: [
        Requirement(line) for line in lines if not line.startswith("mipo[")
    ]  # dev holds all of gpu
    for name, lines in PROJECT["optional-dependencies"].items()
}
PINS = [
    Requirement(line)
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
]


def plain(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def test_one_version_everywhere():
    """The newest heading of the changelog is the package's version, and the one cited."""
    newest = re.search(
        r"^## (\d+\.\d+\.\d+)",
        (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"),
        re.M,
    ).group(1)
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))[
        "version"
    ]
    assert PROJECT["version"] == mipo.__version__ == cited == newest


def test_the_nine_packages_that_the_study_is_about_are_dependencies():
    nine = "jupyter papermill jupyter-book torch transformers trl peft matplotlib"
    listed = {plain(one.name) for one in WANTED + EXTRAS["book"]}
    assert {*nine.split(), "datasets"} <= listed


def test_no_package_is_listed_twice():
    names = [
        plain(one.name)
        for one in WANTED + [one for extra in EXTRAS.values() for one in extra]
    ]
    assert sorted(names) == sorted(set(names))
    pins = [plain(pin.name) for pin in PINS]
    assert sorted(pins) == sorted(set(pins))


def test_conda_lists_python_pip_and_this_project_only():
    file = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    *plain_lines, pip = file["dependencies"]
    assert [re.split("[=<>]", line)[0] for line in plain_lines] == ["python", "pip"]
    assert pip == {"pip": ["-c constraints.txt", '-e ".[book]"']}


def test_every_wanted_package_has_a_tested_version_that_fits():
    pins = {plain(pin.name): next(iter(pin.specifier)) for pin in PINS}
    for want in WANTED + [one for extra in EXTRAS.values() for one in extra]:
        pin = pins[plain(want.name)]
        assert pin.operator == "==" and want.specifier.contains(pin.version), want


def test_the_installed_versions_are_the_tested_ones():
    pins = {plain(pin.name): next(iter(pin.specifier)).version for pin in PINS}
    for want in WANTED + EXTRAS["book"] + EXTRAS["dev"] + EXTRAS["gpu"]:
        installed = importlib.metadata.version(want.name).split("+")[
            0
        ]  # torch's CPU build is 2.13.0+cpu
        assert installed == pins[plain(want.name)], f"{want.name}: run make setup"


def sources():
    """The code of both packages and of the notebooks, these without magics."""
    for file in (ROOT / "src").rglob("*.py"):
        yield file.read_text(encoding="utf-8")
    for file in (ROOT / "notebooks").glob("*.ipynb"):
        cells = json.loads(file.read_bytes())["cells"]
        code = ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]
        yield re.sub(r"^\s*[%!].*", "", "\n".join(code), flags=re.M)


def imports():
    """Top-level names that the packages and the notebooks import."""
    names = set()
    for source in sources():
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names.add(node.module.split(".")[0])
    return names


def test_what_is_imported_is_listed_and_what_is_listed_is_imported():
    names = {"yaml": "pyyaml", "IPython": "ipython", "jupyter_book": "jupyter-book"}
    third = {
        names.get(name, plain(name))
        for name in imports() - set(sys.stdlib_module_names) - {"mipo", "mipo_study"}
    }
    listed = {plain(one.name) for one in WANTED}
    assert (
        listed - third - {"accelerate"} == set()
    )  # transformers.Trainer asks for accelerate
    assert (
        third - listed - {plain(one.name) for one in EXTRAS["book"] + EXTRAS["gpu"]}
        == set()
    )


def test_versions_in_the_readme_are_the_tested_ones():
    torch = next(
        iter(next(pin for pin in PINS if pin.name == "torch").specifier)
    ).version
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert (
        f"pip install torch=={torch} --index-url https://download.pytorch.org/whl/cpu"
        in readme
    )


@pytest.mark.parametrize(
    "file",
    [
        "LICENSE",
        "CITATION.cff",
        ".ci/run",
        ".github/workflows/test.yml",
        ".github/workflows/pages.yml",
    ],
)
def test_files_that_must_be_there(file):
    text = (ROOT / file).read_text(encoding="utf-8")
    assert text
    if file.endswith((".yml", ".cff")):
        assert yaml.safe_load(text)


def test_make_refuses_an_old_python(tmp_path):
    old = tmp_path / "python-old"
    old.write_text(
        '#!/bin/sh\ncase "$1" in --version) echo "Python 3.9.1";; *) exit 1;; esac\n'
    )
    old.chmod(0o755)
    (tmp_path / "Makefile").write_text((ROOT / "Makefile").read_text())
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).touch()
    done = subprocess.run(
        ["make", "book", f"PYTHON={old}"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (
        done.returncode
        and "needs Python 3.11 or newer" in done.stdout
        and "Python 3.9.1" in done.stdout
    )
    assert not (tmp_path / ".venv").exists()
