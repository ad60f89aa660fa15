"""The chain: wrong settings are said first, content decides what runs, killed it goes on."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import nbformat
import psutil
import pytest
from building import ROOT, chain, environment, notebook, small_project

from mipo.files import write_whole
from mipo_study.book import plan
from mipo_study.book import run as chain_module

pytestmark = pytest.mark.long

AWKWARD = "it's a bök"  # a space, an apostrophe and an umlaut in the path


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project of two notebooks of which nothing has been run."""
    monkeypatch.setenv("MIPO_ROOT", str(tmp_path / AWKWARD))
    return small_project(tmp_path / AWKWARD)


@pytest.fixture(scope="module")
def once(tmp_path_factory):
    """The small project, run and built as `make book` does."""
    folder = small_project(tmp_path_factory.mktemp("once") / AWKWARD)
    (folder / "quick").touch()
    tools = tmp_path_factory.mktemp("tools")
    for name in ("bash", "make", "sh"):  # no git: the README asks for make and Python
        (tools / name).symlink_to(shutil.which(name))
    done = make(folder, "book", PATH=str(tools))
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture
def finished(once, tmp_path, monkeypatch):
    """A copy of the finished project, to be spoilt."""
    monkeypatch.setenv("MIPO_ROOT", str(tmp_path / AWKWARD))
    ignore = shutil.ignore_patterns(".venv")
    return shutil.copytree(once, tmp_path / AWKWARD, ignore=ignore)


def borrow_environment(folder):
    """This test's virtual environment in another folder, whose name is in all its paths."""
    (folder / "bin").mkdir(parents=True, exist_ok=True)
    places = {"bin/python": sys.executable}
    if sys.prefix != sys.base_prefix:
        names = ("lib", "share", "pyvenv.cfg")
        places |= {name: os.path.join(sys.prefix, name) for name in names}
    for name, target in places.items():
        if not (folder / name).exists():
            (folder / name).symlink_to(target)


def make(folder, *arguments, **variables):
    """This project's Makefile with this test's Python."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, folder / name)
    borrow_environment(folder / ".venv")
    (folder / ".venv" / ".book").touch()
    return subprocess.run(
        ["make", "--no-print-directory", *arguments],
        cwd=folder,
        env=environment(MIPO_ROOT=str(folder), **variables),
        capture_output=True,
        text=True,
        check=False,
    )


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
            "beta is 'high', text; it takes a number above 0",
        ),
        ("01-first:\n  beta: 1e-3\n", "write 1.0e-3"),
        (
            "01-first:\n  steps: 2.5\n",
            "steps is 2.5, a number; it takes a whole number from 1",
        ),
        (
            "01-first:\n  steps: true\n",
            "steps is True, true/false; it takes a whole number",
        ),
        (
            "01-first:\n  seeds: 3\n",
            "seeds is 3, a whole number; it takes a list of whole numbers",
        ),
        ("01-first:\n  scale: full\n", "'scale' is set by the chain"),
        ("01-first:\n  threads: 0\n", "threads is 0; it takes a whole number from 1"),
        ("01-first:\n  threads: -1\n", "threads is -1; it takes a whole number from 1"),
        ("01-first:\n  threads:\n", "threads is None; it takes a whole number from 1"),
        ("01-first:\n  threads: 1000000000\n", "to 1024"),
        ("01-first:\n  seeds: [a]\n", r"seeds is \['a'\]; it takes a list of whole"),
        ("01-first:\n  beta: .nan\n", "beta is nan; it takes a number above 0"),
        ("01-first:\n  beta: .inf\n", "beta is inf; it takes a number above 0"),
        ("01-first:\n  beta: 0\n", "beta is 0, a whole number; it takes a number abo"),
        ("01-first:\n  7: 1\n", "unknown parameter 7"),
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
        ("- 1\n", "laptop.yml: expected names and values, not a list"),
        ("01-first: [1]\n", "section 01-first: expected names and values, not a list"),
        ("01-first: 3\n", "expected names and values, not a whole number"),
        ("expected: [1]\n", "section expected: expected names and values, not a list"),
        ("7: {}\n", "section 7 names no notebook"),
        ("expected: {01-first: 3}\n", "expected, 01-first: expected names and val"),
        (
            "expected: {01-first: {minuts: 3}}\n",
            "expected, 01-first: unknown parameter 'minuts'; did you mean 'minutes'",
        ),
        ("expected: {01-first: {minutes: -3}}\n", "minutes is -3.*at least 0"),
        ("expected: {01-first: {download: 3}}\n", "download is 3.*it takes text"),
        (
            "01-first:\n  beta: 1\n  beta: 2\n",
            "laptop.yml: 'beta' stands twice, again in line 3",
        ),
        ("01-first: {}\n01-first: {}\n", "'01-first' stands twice, again in line 2"),
        ("a: &a {b: *a}\n", "configs/laptop.yml cannot be read"),
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


@pytest.mark.parametrize("jobs", ["0", "-1", "two", "1.5"])
@pytest.mark.parametrize("dry", [[], ["DRY=1"]], ids=["run", "dry"])
def test_wrong_jobs_are_one_line(project, jobs, dry):
    done = make(project, "book", f"JOBS={jobs}", *dry)
    said = [line for line in done.stderr.splitlines() if not line.startswith("make")]
    assert said == [f"Error: JOBS={jobs}: give the number of cores to fill, at least 1"]
    assert done.returncode and not (project / "runs").exists()


def test_a_dry_run_refuses_what_a_run_would(project):
    configure(project, "01-first:\n  threads: 0\n")
    done = make(project, "book", "DRY=1")
    assert done.returncode and "Error: " in done.stderr
    assert "threads is 0" in done.stderr and "Traceback" not in done.stderr


# ---- content decides ----


def results(project, name="01-first"):
    file = project / "runs" / "laptop" / "results" / f"{name}.json"
    return json.loads(file.read_text(encoding="utf-8"))


def beta(project, value):
    """Set chapter 1's beta in the config."""
    file = project / "configs" / "laptop.yml"
    file.write_text(
        re.sub(r"(01-first:\n  beta: ).*", rf"\g<1>{value}", file.read_text())
    )


def test_needs_and_defaults_are_read_from_the_notebook(project):
    steps = plan.steps("laptop")
    assert [step.needs for step in steps.values()] == [[], ["01-first"]]
    assert steps["01-first"].defaults["seeds"] == [0, 1]


def test_nothing_is_stale_after_a_run_whatever_the_dates(finished):
    assert plan.stale(plan.steps("laptop")) == {}
    for day in (0, 4e9):  # 1970 and 2096
        for file in finished.rglob("*"):
            os.utime(file, (day, day))
        assert plan.stale(plan.steps("laptop")) == {}


def test_what_changed_is_named_and_so_is_what_comes_after(finished):
    beta(finished, 0.8)
    assert plan.stale(plan.steps("laptop")) == {
        "01-first": "changed: its parameters",
        "02-second": "after 01-first",
    }
    beta(finished, 0.7)
    assert plan.stale(plan.steps("laptop")) == {}
    file = finished / "notebooks" / "02-second.ipynb"
    file.write_text(file.read_text().replace("Words.", "Other words."))
    assert plan.stale(plan.steps("laptop")) == {"02-second": "changed: the notebook"}


def test_a_changed_module_makes_stale_what_imports_it(finished, monkeypatch):
    source_hash = plan.source_hash
    monkeypatch.setattr(
        plan,
        "source_hash",
        lambda file: "new" if file.stem == "record" else source_hash(file),
    )
    assert plan.stale(plan.steps("laptop")) == {
        "01-first": "changed: mipo.record",
        "02-second": "after 01-first",
    }


def test_an_earlier_notebook_that_ran_alone_makes_the_later_stale(finished):
    step = plan.steps("laptop")["01-first"]
    file = finished / step.result
    file.write_text(file.read_text().replace("0.7", "0.75"))
    step.write_stamp(run="x", inputs=step.inputs(), outputs=step.outputs())
    why = plan.stale(plan.steps("laptop"))
    assert why == {"02-second": "changed: results of 01-first"}


SPOILT = [
    ("results/01-first.json", lambda text: text.replace("0.7", "0.9")),
    ("results/01-first.json", lambda text: text[:40]),
    ("results/01-first.json", None),
    ("notebooks/01-first.ipynb", lambda text: text[:100]),
    ("notebooks/01-first.ipynb", None),
    ("artifacts/01-first.json", lambda text: "{}"),
    ("results/figures/01-line.svg", lambda text: text + " "),
    ("stamps/01-first.json", lambda text: text[:50]),
    ("stamps/01-first.json", lambda text: "[]"),
    ("stamps/01-first.json", None),
]


def spoil(file, how):
    text = file.read_text(encoding="utf-8")
    file.unlink()
    if how:
        file.write_text(how(text), encoding="utf-8")


@pytest.mark.parametrize("name, how", SPOILT)
def test_what_is_cut_edited_or_deleted_is_made_again(finished, name, how):
    spoil(finished / "runs" / "laptop" / name, how)
    why = plan.stale(plan.steps("laptop"))
    assert list(why) == ["01-first", "02-second"]
    assert name in why["01-first"] or why["01-first"] == "not run yet"


def artifact_of(project):
    """(folder, name): the run that the first notebook left, and its file."""
    runs = project / "runs" / "laptop"
    places = json.loads((runs / "artifacts" / "01-first.json").read_text())
    place = runs / places["thing"]
    return place.parent, place.name


def test_a_lost_artifact_is_made_again(finished):
    folder, name = artifact_of(finished)
    (folder / name).unlink()
    assert f"{folder.name}/{name}" in plan.stale(plan.steps("laptop"))["01-first"]


def test_a_changed_artifact_is_made_again(finished):
    """Else the chapter that needs it would fail, and the one that makes it never run."""
    folder, name = artifact_of(finished)
    (folder / name).write_text("hALF")  # as long as before
    assert f"{folder.name}/{name}" in plan.stale(plan.steps("laptop"))["01-first"]


def test_what_was_measured_of_an_artifact_is_enough(finished):
    folder, name = artifact_of(finished)
    shutil.rmtree(folder)
    assert plan.stale(plan.steps("laptop")) == {}
    runs = finished / "runs" / "laptop"
    (runs / "wanted").mkdir()
    (runs / "wanted" / folder.name).touch()  # somebody could not make its files
    assert f"{folder.name}/{name}" in plan.stale(plan.steps("laptop"))["01-first"]
    (runs / "wanted" / folder.name).unlink()
    (runs / "measured" / f"{folder.name}.json").unlink()
    assert f"{folder.name}/{name}" in plan.stale(plan.steps("laptop"))["01-first"]


def date_in_the_future(folder):
    for file in folder.rglob("*"):
        os.utime(file, (4e9, 4e9))


def test_a_spoilt_output_from_the_future_is_made_again(finished):
    runs = finished / "runs" / "laptop"
    before = (runs / "notebooks" / "02-second.ipynb").read_bytes()
    spoil(runs / "notebooks" / "02-second.ipynb", lambda text: text[:100])
    date_in_the_future(runs)
    done = chain("book", root=finished)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 of 2 notebooks to run" in done.stdout
    assert "02-second  done" in done.stdout and "Building" in done.stdout
    assert len((runs / "notebooks" / "02-second.ipynb").read_bytes()) > len(before) / 2


def test_two_reasons_to_run_and_a_skipped_chapter_which_is_said_at_the_end(finished):
    """01 has another parameter, 02 now skips; all outputs are dated in the future."""
    book = notebook("02-second", "c02-two")
    skip = 'nb.skip("There are no votes on this machine.")'
    cell = nbformat.v4.new_code_cell(book.cells[2].source + skip)
    book.cells = [*book.cells[:2], cell]
    nbformat.write(book, finished / "notebooks" / "02-second.ipynb")
    beta(finished, 0.8)
    date_in_the_future(finished / "runs" / "laptop")
    done = chain("book", root=finished)
    assert done.returncode == 0, done.stdout + done.stderr
    assert results(finished)["numbers"]["beta"]["mean"] == 0.8
    assert plan.stale(plan.steps("laptop")) == {}
    assert "02-second  skipped in" in done.stdout
    said = "skipped: 02-second: There are no votes on this machine."
    assert said in done.stdout.split("Building the book")[1]


def test_an_announced_step_that_does_not_run_is_an_error(finished):
    """Snakemake says all is well, and the outputs are there: the stamps know better."""
    snakefile = finished / "Snakefile"
    command = snakefile.read_text().index('"{sys.executable:q}')
    snakefile.write_text(snakefile.read_text()[:command] + '"touch {output:q}"\n')
    beta(finished, 0.8)
    done = chain("book", root=finished)
    assert done.returncode
    assert "01-first: did not run: it was not started or was stopped" in done.stdout
    assert "02-second: did not run: it needs 01-first" in done.stdout
    assert "Building" not in done.stdout


def test_a_disk_whose_clock_is_behind_costs_no_good_run(project, monkeypatch):
    """Each run writes the same bytes with the same date, long before it began."""
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.chdir(project)
    step = plan.steps("laptop")["01-first"]

    def executed(notebook, partial, *arguments, **options):
        (project / partial).write_text("{}")
        write_whole(project / step.result, "{}")
        os.utime(project / step.result, (0, 0))

    monkeypatch.setattr("papermill.execute_notebook", executed)
    for _ in range(3):
        chain_module.execute(step)
        assert (project / step.output).exists()
    monkeypatch.setattr("papermill.execute_notebook", lambda *_, **__: None)
    with pytest.raises(chain_module.Failure, match="wrote no .*01-first.json"):
        chain_module.execute(step)


def test_a_notebook_that_writes_no_results_is_an_error(project):
    book = notebook("01-first", "c01-one")
    book.cells = [cell for cell in book.cells if "nb.close" not in cell.source]
    nbformat.write(book, project / "notebooks" / "01-first.ipynb")
    (project / "quick").touch()
    done = chain("notebook", "01-first", root=project)
    assert "its last cell must call nb.close()" in done.stderr
    assert "failed: wrote no" in plan.stale(plan.steps("laptop"))["01-first"]


# ---- what is said before a run ----


def test_what_most_waits_for_is_most_urgent(project):
    """02 takes 3 minutes and waits for 01, which takes 2: five from 01 to the end."""
    steps = configure(
        project,
        "expected:\n  01-first: {minutes: 2}\n  02-second: {minutes: 3}\n"
        "01-first: {}\n02-second: {}\n",
    )
    assert plan.urgency(steps) == {"01-first": 5.0, "02-second": 3.0}


def test_dry_run_lists_minutes_memory_disk_and_downloads(project):
    configure(
        project,
        "expected:\n  01-first: "
        "{minutes: 2, memory_gb: 1.5, disk_mb: 30, download: 3 MB of votes}\n"
        "01-first: {}\n02-second: {}\n",
    )
    text = plan.dry_run("laptop")
    row = r"01-first +not run yet +2\.0 +1\.5 GB +30 MB +3 MB of votes"
    assert re.search(row, text)
    assert "2 of 2 notebooks would run, about 2.0 minutes" in text
    assert not (project / "runs").exists()


def test_a_packaged_model_is_a_download_where_it_is_not_here(
    project, tmp_path, monkeypatch
):
    """93 MB is what the package index says of the wheel (92,871,040 bytes)."""
    from mipo import packaged

    step = plan.Step("14", "laptop", {"model": "smollm2-135m"}, {"download": "votes"})
    monkeypatch.setenv("MIPO_CACHE", str(tmp_path / "cache"))
    assert plan.download_text(step) == "votes; 93 MB, smollm2-135m, once"
    alone = plan.Step("14", "laptop", {"model": "smollm2-135m"}, {})
    assert plan.download_text(alone) == "93 MB, smollm2-135m, once"
    (tmp_path / "cache" / "models").mkdir(parents=True)
    (tmp_path / "cache" / "models" / packaged.WHEELS[packaged.SMOLLM2].file).touch()
    assert plan.download_text(alone) == "none"
    other = plan.Step("14", "laptop", {"model": "some/folder"}, {})
    assert plan.download_text(other) == "none"


# ---- killed, stopped, failed ----


def start(project):
    return subprocess.Popen(
        [sys.executable, "-m", "mipo_study.book.run", "book"],
        cwd=project,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=hang_up_by_default,
    )


def hang_up_by_default():
    """As in a terminal, also where these tests were started by nohup or by &."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def wait_for(check, seconds=120):
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.2)


def half_written(project):
    """A notebook is in the middle of a training run."""
    return list((project / "runs" / "laptop").glob("*/.slow-*.partial/x.txt"))


def kept_runs(project):
    return list((project / "runs" / "laptop").glob("runs/slow-*"))


def text_of(page):
    return re.sub(r"<[^>]+>", "", page.read_text(encoding="utf-8"))


def test_killed_then_started_at_once_then_nothing_to_do(project):
    """SIGKILL while a run is half written: its children are stopped, the rest goes on."""
    first = start(project)
    wait_for(lambda: half_written(project))
    second = chain("book", root=project)  # the first still lives: left alone
    assert second.returncode and f"under way (process {first.pid};" in second.stderr
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    (project / "quick").touch()
    done = chain("book", root=project)  # at once, while the children still run
    assert done.returncode == 0, done.stdout + done.stderr
    assert "killed run left processes behind" in done.stdout
    assert "[1/2] 01-first  started" in done.stdout
    assert "[2/2] 02-second  done" in done.stdout
    assert len(kept_runs(project)) == 2 and not half_written(project)
    html = project / "runs" / "laptop" / "book" / "_build" / "html"
    summary = "3 claims: holds 2, open 1. Beta is 0.7 1/nats, 70 %; (no number yet)."
    assert summary in text_of(html / "book" / "index.html")
    page = (html / "notebooks" / "01-first.html").read_text()
    assert "This run: scale laptop, " in page and "to stderr" not in page
    assert 'alt="A line [straight] from 1 to 2"' in page and "It rises" in page
    before = time.monotonic()
    again = chain("book", root=project)
    assert "Nothing to do" in again.stdout and time.monotonic() - before < 10


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_stopped_by_a_signal_nothing_goes_on(project, how):
    first = start(project)
    wait_for(lambda: half_written(project))
    folder = project / "runs" / "laptop"
    assert len(chain_module.members(folder)) >= 3  # snakemake, papermill, kernel
    first.send_signal(how)
    said, _ = first.communicate(timeout=30)
    assert first.returncode and chain_module.members(folder) == []
    assert "goes on from here" in said and "Traceback" not in said


def test_a_process_number_that_is_used_again_is_not_named(tmp_path):
    leader, me = tmp_path / ".leader.json", psutil.Process()
    content = {"pid": me.pid, "created": me.create_time()}
    leader.write_text(json.dumps(content))
    assert f"(process {me.pid}; stop it with: kill {me.pid})" in chain_module.named(
        leader
    )
    leader.write_text(json.dumps(content | {"created": me.create_time() - 60}))
    assert chain_module.named(leader) == ""
    for text in ("", "[]", '{"pid": "x", "created": 1}', '{"pid": -1, "created": 1}'):
        leader.write_text(text)
        assert chain_module.named(leader) == ""


def add_third(project):
    """A third notebook, which waits for nobody."""
    file = project / "notebooks" / "03-third.ipynb"
    nbformat.write(notebook("03-third", "c01-one"), file)
    config = project / "configs" / "laptop.yml"
    config.write_text(config.read_text() + "03-third:\n")


def fail(project, name, extra, **more):
    (project / "quick").touch()
    book = notebook(name, "c01-one", extra=extra, **more)
    nbformat.write(book, project / "notebooks" / f"{name}.ipynb")
    return chain("book", "--jobs", "1", root=project)


def test_one_failure_does_not_cost_the_others(project):
    add_third(project)
    done = fail(project, "01-first", "raise RuntimeError('no luck')")
    assert done.returncode and "03-third  done" in done.stdout
    summary = done.stdout.split("Not all of it ran:")[1].splitlines()
    assert re.match(r"  01-first: cell \d+: RuntimeError: no luck; read it", summary[1])
    assert summary[2] == "  02-second: did not run: it needs 01-first"
    partial = project / "runs" / "laptop" / "notebooks" / "01-first.partial.ipynb"
    assert "no luck" in partial.read_text()
    assert not partial.with_name("01-first.ipynb").exists()
    assert "failed: cell" in plan.stale(plan.steps("laptop"))["01-first"]


def test_a_killed_kernel_is_one_line_with_a_word_on_memory(project):
    done = fail(project, "01-first", "import os; os.kill(os.getpid(), 9)")
    assert done.returncode and "Traceback" not in done.stdout + done.stderr
    assert (
        "most likely for want of memory" in done.stderr and "GB are free" in done.stderr
    )


def runs_used(folder, number):
    [file] = folder.glob(f"{number}-*.json")
    return json.loads(file.read_text(encoding="utf-8"))["runs"]


def test_publish_copies_what_is_up_to_date(finished):
    assert chain("publish", root=finished).returncode == 0
    published = finished / "results" / "laptop"
    assert (published / "figures" / "01-line.svg").exists()
    runs = {name for step in ("01", "02") for name in runs_used(published, step)}
    measured = published / "measured"
    assert {file.stem for file in measured.glob("*")} == runs and len(runs) == 2
    unused = measured / "train-0123456789abcdef.json"
    unused.write_text("{}")
    assert chain("publish", root=finished).returncode == 0 and not unused.exists()
    (published / "01-first.json").write_text("{}")
    beta(finished, 0.8)
    unused.write_text("{}")  # of a run that is not finished yet, perhaps
    said = chain("publish", root=finished).stdout
    assert unused.exists()
    assert "01-first: left as it was (changed: its parameters)" in said
    assert (published / "01-first.json").read_text() == "{}"


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
        and "unknown parameter 'betta'; did you mean 'beta'?" in done.stderr
    )


# ---- the real book ----


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
