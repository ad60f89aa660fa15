"""The chain: parameters checked, only what changed runs, killed anywhere it goes on, failures are kept for reading."""

import os
import re
import signal
import subprocess
import sys
import time

import nbformat
import pytest
from building import ROOT, chain, notebook, small_project, smoke_book

from mipo_study.book import plan
from mipo_study.book import run as chain_module


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.setenv("MIPO_ROOT", str(tmp_path / "project"))
    return small_project(tmp_path / "project")


def configure(project, text):
    (project / "configs" / "laptop.yml").write_text(text)
    return plan.steps("laptop")


# ---- what is wrong is said before anything runs ----


@pytest.mark.parametrize(
    "text, message",
    [
        (
            "01-first:\n  betta: 1\n",
            "laptop.yml, section 01-first: unknown parameter 'betta'; did you mean 'beta'",
        ),
        (
            "01-first:\n  beta: high\n",
            "beta is 'high', a text; the notebook expects a number, like 0.5",
        ),
        ("01-first:\n  beta: 1e-3\n", "write 1.0e-3"),
        (
            "01-first:\n  steps: 2.5\n",
            "steps is 2.5, a number; the notebook expects a whole number",
        ),
        ("01-first:\n  steps: true\n", "a true/false"),
        ("01-first:\n  seeds: 3\n", "a whole number; the notebook expects a list"),
        ("01-first:\n  scale: full\n", "'scale' is set by the chain"),
        ("02-second: {}\n", "02-second needs 01-first"),
    ],
)
def test_wrong_configs(project, text, message):
    steps = configure(project, text)
    with pytest.raises(ValueError, match=message):
        plan.check(steps)


@pytest.mark.parametrize(
    "text, message",
    [
        (
            "01-frist: {}\n",
            "section '01-frist' names no notebook; did you mean '01-first'",
        ),
        ("- 1\n", "expected one section per notebook, found list"),
        ("a: [\n", "configs/laptop.yml cannot be read"),
    ],
)
def test_unreadable_configs(project, text, message):
    with pytest.raises(ValueError, match=message):
        configure(project, text)


def test_right_configs_pass(project):
    plan.check(
        configure(
            project,
            "01-first:\n  beta: 1\n  model: org/name\n  seeds: [0]\n02-second:\n",
        )
    )


def test_unknown_scale(project):
    with pytest.raises(
        ValueError, match="SCALE=labtop is no scale; did you mean 'laptop'"
    ):
        plan.steps("labtop")


# ---- what runs ----


def test_needs_are_read_from_the_notebook(project):
    steps = plan.steps("laptop")
    assert [step.needs for step in steps.values()] == [[], ["01-first"]]


def executed(project):
    """Pretend that both notebooks ran."""
    steps = plan.steps("laptop")
    plan.write_markers(steps)
    for age, step in zip((20, 10), steps.values(), strict=True):
        file = project / step.output
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("{}")
        os.utime(project / step.marker, (time.time() - 30,) * 2)
        os.utime(file, (time.time() - age,) * 2)
    return steps


def test_only_what_changed_is_stale(project):
    assert plan.stale(plan.steps("laptop")) == {
        "01-first": "not run yet",
        "02-second": "not run yet",
    }
    executed(project)
    assert plan.stale(plan.steps("laptop")) == {}
    (project / "notebooks" / "01-first.ipynb").touch()
    assert plan.stale(plan.steps("laptop")) == {}  # a new date alone is no change
    steps = configure(project, "01-first:\n  beta: 0.7\n02-second:\n  beta: 2\n")
    assert list(plan.stale(steps)) == ["02-second"]
    steps = configure(project, "01-first:\n  beta: 0.8\n02-second:\n  beta: 1\n")
    assert plan.stale(steps) == {
        "01-first": "notebook, code or parameters changed",
        "02-second": "after 01-first",
    }
    plan.write_markers(steps)  # as after a kill between the marker and the run
    assert list(plan.stale(steps)) == ["01-first", "02-second"]


def test_markers_keep_their_date_unless_something_changed(project):
    steps = executed(project)
    before = (project / steps["01-first"].marker).stat().st_mtime
    plan.write_markers(plan.steps("laptop"))
    assert (project / steps["01-first"].marker).stat().st_mtime == before


def test_what_most_waits_for_is_most_urgent(project):
    """02 takes 3 minutes and waits for 01, which takes 2: five minutes from 01 to the end, on however many cores."""
    steps = configure(
        project,
        "expected:\n  01-first: {minutes: 2}\n  02-second: {minutes: 3}\n"
        "01-first: {}\n02-second: {}\n",
    )
    assert plan.urgency(steps) == {"01-first": 5.0, "02-second": 3.0}
    assert plan.forecast(steps, 1) == plan.forecast(steps, 2) == 5.0


def test_forecast_fills_the_cores(project):
    """Three steps of 2 minutes that wait for nobody: 6 minutes on one core, 3 on two; 6 again if each takes both."""
    step = configure(project, "expected:\n  01-first: {minutes: 2}\n01-first: {}\n")[
        "01-first"
    ]
    three = dict.fromkeys("abc", step)
    assert [plan.forecast(three, jobs) for jobs in (1, 2)] == [6.0, 3.0]
    step.parameters["workers"] = 2
    assert [plan.forecast(three, jobs) for jobs in (1, 2)] == [6.0, 6.0]


def test_dry_run_lists_minutes_memory_disk_and_downloads(project):
    configure(
        project,
        "expected:\n  01-first: {minutes: 2, memory_gb: 1.5, disk_mb: 30, download: 3 MB of votes}\n"
        "01-first: {}\n02-second: {}\n",
    )
    text = plan.dry_run("laptop")
    assert re.search(
        r"01-first +not run yet +2\.0 +1\.5 GB +30 MB +3 MB of votes", text
    )
    assert "2 of 2 notebooks would run, about 2.0 minutes" in text
    assert not (project / "runs").exists()


def start(project):
    return subprocess.Popen(
        [sys.executable, "-m", "mipo_study.book.run", "book"],
        cwd=project,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for(check, seconds=120):
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.2)


def test_killed_then_resumed_then_nothing_to_do(project):
    """SIGKILL while a record is half written: its children are stopped, nothing half is read, the rest goes on."""
    first = start(project)
    halves = project / "runs" / "laptop" / "records"
    wait_for(lambda: list(halves.glob(".slow-*.partial/x.txt")))
    second = chain("book", root=project)  # the first still lives: left alone
    assert second.returncode and f"under way (process {first.pid})" in second.stderr
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    assert not list(halves.glob("slow-*"))
    (project / "quick").touch()
    done = chain("book", root=project)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "killed run left processes behind" in done.stdout
    assert (
        "[1/2] 01-first  started" in done.stdout
        and "[2/2] 02-second  done" in done.stdout
    )
    assert len(list(halves.glob("slow-*"))) == 2 and not list(halves.glob(".slow*"))
    index = (
        project / "runs" / "laptop" / "book" / "_build" / "html" / "book" / "index.html"
    )
    text = re.sub(r"<[^>]+>", "", index.read_text())
    assert (
        "3 claims: holds 2, open 1. Beta is 0.7 1/nats, 70 %; (no number yet)." in text
    )
    page = (index.parents[1] / "notebooks" / "01-first.html").read_text()
    assert "This run: scale laptop, commit" in page and "to stderr" not in page
    assert 'alt="A line [straight] from 1 to 2"' in page and "It rises" in page
    before = time.monotonic()
    again = chain("book", root=project)
    assert "Nothing to do" in again.stdout and time.monotonic() - before < 10
    assert chain("publish", "--scale", "laptop", root=project).returncode == 0
    published = project / "results" / "laptop"
    assert (published / "figures" / "01-line.svg").exists()
    (published / "01-first.json").write_text("{}")
    configs = project / "configs" / "laptop.yml"
    configs.write_text(configs.read_text().replace("0.7", "0.8"))
    told = chain("publish", "--scale", "laptop", root=project).stdout
    assert (
        "01-first: left as it was (notebook, code or parameters changed)" in told
    )  # a stale run is not published
    assert (published / "01-first.json").read_text() == "{}"


def test_a_failed_notebook_is_named_and_kept_for_reading(project):
    (project / "quick").touch()
    nbformat.write(
        notebook(
            "02-second",
            "c02-two",
            need="01-first",
            extra="raise RuntimeError('no luck')",
        ),
        project / "notebooks" / "02-second.ipynb",
    )
    done = chain("book", root=project)
    assert done.returncode and "02-second  FAILED" in done.stdout + done.stderr
    assert "RuntimeError: no luck" in done.stdout + done.stderr
    partial = project / "runs" / "laptop" / "notebooks" / "02-second.partial.ipynb"
    assert "runs/laptop/notebooks/02-second.partial.ipynb" in done.stdout + done.stderr
    assert (
        "no luck" in partial.read_text()
        and not partial.with_name("02-second.ipynb").exists()
    )
    assert (project / "runs" / "laptop" / "notebooks" / "01-first.ipynb").exists()


def test_papermill_alone_and_its_misspelt_parameter(project):
    (project / "quick").touch()
    command = [
        sys.executable,
        "-m",
        "papermill",
        "notebooks/01-first.ipynb",
        "out.ipynb",
        "--no-progress-bar",
        "-p",
        "beta",
        "0.9",
    ]
    done = subprocess.run(
        command, cwd=project, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (project / "runs" / "hand" / "results" / "01-first.json").exists()
    command[-2] = "betta"
    done = subprocess.run(
        command, cwd=project, capture_output=True, text=True, check=False
    )
    assert (
        done.returncode
        and "unknown parameter 'betta': did you mean 'beta'?" in done.stderr
    )


# ---- the real book ----


def test_the_book_builds_at_smoke_scale_and_then_has_nothing_to_do():
    smoke_book()
    again = chain("book", "--scale", "smoke")
    assert again.returncode == 0 and "Nothing to do" in again.stdout


@pytest.mark.parametrize("scale", plan.SCALES)
def test_every_config_fits_its_notebooks(scale, monkeypatch):
    monkeypatch.setenv("MIPO_ROOT", str(ROOT))
    plan.check(plan.steps(scale))


@pytest.mark.parametrize("cores, workers", [(1, 1), (2, 2), (3, 2)])
def test_no_more_processes_than_cores_and_one_thread_each(monkeypatch, cores, workers):
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setattr(chain_module, "cores", lambda: cores)
    step = plan.steps("full")["06-mipo-training"]
    assert chain_module.settle(step)["workers"] == workers
    assert os.environ["OPENBLAS_NUM_THREADS"] == os.environ["RAYON_NUM_THREADS"] == "1"
    step.parameters["threads"] = 2
    assert chain_module.settle(step)["workers"] == 1
    assert os.environ["OMP_NUM_THREADS"] == "2"
