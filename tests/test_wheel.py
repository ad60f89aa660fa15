"""The wheel: built from a copy, installed beside its dependencies, used outside a clone."""

import os
import shutil
import subprocess
import sys

import pytest
from building import ROOT

pytestmark = pytest.mark.long

IN_THE_WHEEL = ("src", "pyproject.toml", "README.md", "LICENSE")
IMPORT_ALL = """
import importlib, pkgutil
import mipo, mipo_study
for name in mipo.__all__:
    getattr(mipo, name)
count = 0
for package in (mipo, mipo_study):
    print(package.__file__)
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
        count += 1
print(count)
"""
DATA = """
from importlib.resources import files
print(files("mipo_study").joinpath("hub/tasks/svamp_cot.yaml").read_text())
print(files("mipo").joinpath("py.typed").is_file())
"""


def run(*command, **more):
    return subprocess.run(command, capture_output=True, text=True, check=False, **more)


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Folder into which the wheel was installed, with nothing of the clone in it."""
    copy = tmp_path_factory.mktemp("copy")
    for name in IN_THE_WHEEL:
        source = ROOT / name
        skip = shutil.ignore_patterns("__pycache__", "*.egg-info")
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=skip)
        else:
            shutil.copy(source, copy / name)
    pip = (sys.executable, "-m", "pip")
    offline = ("--no-deps", "--no-index", "--disable-pip-version-check")
    wheels = ("--no-build-isolation", "--wheel-dir", str(copy / "wheels"))
    built = run(*pip, "wheel", str(copy), *offline, *wheels)
    assert built.returncode == 0, built.stderr
    (wheel,) = (copy / "wheels").glob("mipo-*.whl")
    target = tmp_path_factory.mktemp("installed")
    done = run(*pip, "install", *offline, "--target", str(target), str(wheel))
    assert done.returncode == 0, done.stderr
    return target


@pytest.fixture
def outside(installed, tmp_path):
    """Run Python in an empty folder, where only the wheel holds the packages."""
    hidden = ("MIPO_ROOT", "PYTHONPATH")
    env = {name: value for name, value in os.environ.items() if name not in hidden}
    env["PYTHONPATH"] = str(installed)

    def python(*arguments):
        return run(sys.executable, *arguments, cwd=tmp_path, env=env)

    return python


def test_every_module_and_public_name_imports(installed, outside):
    done = outside("-c", IMPORT_ALL)
    assert done.returncode == 0, done.stderr
    mipo, study, count = done.stdout.split()
    assert mipo.startswith(str(installed)) and study.startswith(str(installed))
    files = [file for file in (ROOT / "src").rglob("*.py") if "egg" not in str(file)]
    assert int(count) == len(files) - 2  # all but the two packages themselves


def test_data_files_are_in_it(outside):
    done = outside("-c", DATA)
    assert done.returncode == 0, done.stderr
    assert "svamp" in done.stdout and done.stdout.split()[-1] == "True"


@pytest.mark.parametrize(
    "command",
    [
        ("mipo_study.book.run", "book", "--scale", "smoke"),
        ("mipo_study.book.run", "notebook", "01-information", "--scale", "smoke"),
        ("mipo_study.book.compare", "--scale", "smoke"),
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_what_needs_a_clone_says_so(outside, command, tmp_path):
    done = outside("-m", *command)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert "is no clone of this study" in last and "MIPO_ROOT" in last
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
