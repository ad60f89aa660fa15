"""The chain: check, let Snakemake run the notebooks through papermill, build the book.

python -m mipo_study.book.run book --scale laptop        what `make book` calls
python -m mipo_study.book.run notebook NAME --scale S    what a Snakemake rule calls
python -m mipo_study.book.run publish --scale full       copy a run to results/
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from mipo.cache import STARTED, measured
from mipo.files import dumps, project_root, unseal, write_whole
from mipo_study.book import plan as planning
from mipo_study.book.plan import Step, minutes_text

CHAIN = "MIPO_CHAIN"  # environment of all that a run starts: the folder it writes to
RUN = "MIPO_RUN"  # environment of all that a run starts: which run it is
PATIENCE = 5.0  # seconds
# minutes from which a notebook is saved after each cell, so that it can be looked at
# while it runs: a short one would take as long to save as to run
WATCHED = 3


def say(text: str) -> None:
    """Print at once, also into a file."""
    print(text, flush=True)


# ---- one run at a time ----


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; stop what a killed run has left running in it.

    What such a run writes is written whole or not at all. A run whose first process
    lives is left alone.

    Raises
    ------
    SystemExit
        Where another run has the lock; says how to stop it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    leader = folder / ".leader.json"
    try:
        lock = FileLock(folder / ".lock").acquire(timeout=PATIENCE)
    except Timeout:
        raise SystemExit(
            f"Another run at scale {folder.name} is under way{named(leader)}."
        ) from None
    with lock:
        left = members(folder)
        if left:
            pids = ", ".join(str(process.pid) for process in left)
            say(f"A killed run left processes behind ({pids}); stopping them.")
            stop(left)
        me = psutil.Process()
        write_whole(leader, dumps({"pid": me.pid, "created": me.create_time()}))
        try:
            yield
        finally:
            leader.unlink(missing_ok=True)


def named(leader: Path) -> str:
    """Which process leads a run and how to stop it; nothing if that cannot be known.

    A process number is used again: it is the same process if it began at that time.
    """
    who = planning.read_or_empty(leader)
    try:
        process = psutil.Process(who["pid"])
        same = abs(process.create_time() - who["created"]) < 1
    except (KeyError, TypeError, ValueError, psutil.Error):
        return ""
    return f" (process {process.pid}; stop it with: kill {process.pid})" if same else ""


def members(folder: Path) -> list[psutil.Process]:
    """All processes that a run in this folder has started, kernels included."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(CHAIN) == str(folder):
                found.append(process)
    return [process for process in found if process.pid != os.getpid()]


def stop(processes: list[psutil.Process]) -> None:
    """End processes: first politely, after `PATIENCE` seconds in any case."""
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.terminate()
    _, alive = psutil.wait_procs(processes, timeout=PATIENCE)
    for process in alive:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(alive, timeout=PATIENCE)


# ---- one notebook ----


class Failure(Exception):
    """Why a notebook did not run to its end, in a line."""


@contextlib.contextmanager
def heartbeat(head: str, minutes: float | None) -> Iterator[None]:
    """A line each half minute; on a terminal papermill's own bar says how far it is."""
    start, done = time.monotonic(), threading.Event()
    about = "" if minutes is None else f" (last time {minutes_text(minutes)} min)"

    def beat() -> None:
        while not done.wait(30.0):
            passed = (time.monotonic() - start) / 60
            say(f"{head}  running for {minutes_text(passed)} min{about}")

    if not sys.stdout.isatty():
        threading.Thread(target=beat, daemon=True).start()
    try:
        yield
    finally:
        done.set()


def cores() -> int:
    """Processor cores that this process may use."""
    return len(psutil.Process().cpu_affinity()) if psutil.LINUX else os.cpu_count() or 1


def settle(step: Step) -> dict:
    """The step's parameters, with no more workers than this machine's cores hold.

    The libraries below numpy and the tokenizers keep to as many threads as torch.
    """
    threads = step.parameters.get("threads", 1)
    for library in ("OMP", "OPENBLAS", "MKL", "RAYON"):
        os.environ[f"{library}_NUM_THREADS"] = str(threads)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    for library in ("HUB", "DATASETS"):  # nobody watches bars in a page of the book
        os.environ[f"HF_{library}_DISABLE_PROGRESS_BARS"] = "1"
    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"  # not a kernel of the user's own
    os.environ[STARTED] = str(time.time())
    parameters = {**step.parameters, "run_dir": step.run_dir, "scale": step.scale}
    if "workers" in parameters:
        room = max(1, cores() // threads)
        parameters["workers"] = min(parameters["workers"], room)
    return parameters


def execute(step: Step) -> None:
    """Run a notebook by papermill.

    It writes NAME.partial.ipynb, which is renamed only when all of it ran.

    Raises
    ------
    Failure
        Names the cell and its error, or what else stopped it.
    """
    # jsonschema would build a grammar of international addresses at each import, for
    # 1.5 seconds; no notebook has one to be checked
    # pyrefly: ignore[no-matching-overload]  # None: "cannot be imported", says Python
    sys.modules.setdefault("rfc3987_syntax", None)
    import papermill
    from nbclient.exceptions import DeadKernelError

    partial, result = Path(step.partial), Path(step.result)
    partial.parent.mkdir(parents=True, exist_ok=True)
    before = identity(result)
    try:
        papermill.execute_notebook(
            step.notebook,
            str(partial),
            settle(step),
            kernel_name="python3",
            language="python",  # papermill asks, where a notebook names no kernel
            progress_bar=sys.stdout.isatty(),
            cwd=".",
            extra_arguments=["--log-level=50"],
            request_save_on_cell_execute=step.expected.get("minutes", 0) >= WATCHED,
        )
    except papermill.PapermillExecutionError as error:
        cell, what = error.exec_count, f"{error.ename}: {error.evalue}"
        raise Failure(f"cell {cell}: {what}; read it in {step.partial}") from None
    except DeadKernelError:
        raise Failure(out_of_memory(step)) from None
    except OSError as error:
        raise Failure(f"{error}; make room, then run again") from None
    if identity(result) == before:
        raise Failure(f"wrote no {step.result}: its last cell must call nb.close()")
    os.replace(partial, step.output)


def identity(file: Path) -> tuple[int, int] | None:
    """Which file stands there: another one after each write, whatever the clock."""
    if not file.exists():
        return None
    state = file.stat()
    return state.st_ino, state.st_mtime_ns


def out_of_memory(step: Step) -> str:
    """What to say of a kernel that was killed."""
    free = psutil.virtual_memory().available / 1e9
    wanted = step.last_result().get("memory_gb") or step.expected.get("memory_gb")
    last = f"; last time it took {wanted} GB" if wanted else ""
    return (
        "its kernel was killed, most likely for want of memory "
        f"({free:.1f} GB are free now{last})"
    )


def run_notebook(name: str, scale: str) -> None:
    """Run one notebook of a scale, and stamp what it was made from.

    Raises
    ------
    ValueError
        For a notebook without a section in the config, and wrong parameters.
    SystemExit
        Where it fails; the stamp says why.
    """
    plan = planning.steps(scale)
    if name not in plan:
        hint = planning.suggestion(name, plan)
        raise ValueError(f"notebook {name!r} is not part of scale {scale}{hint}")
    step, run = plan[name], os.environ.get(RUN, "by hand")
    planning.check_step(step)
    inputs = step.inputs()  # before: what is edited meanwhile counts the next time
    head = f"[{list(plan).index(name) + 1}/{len(plan)}] {name}"
    say(f"{head}  started")
    start = time.monotonic()
    try:
        with heartbeat(head, step.minutes()):
            execute(step)
    except Failure as error:
        step.write_stamp(run=run, error=str(error))
        raise SystemExit(f"{head}  FAILED: {error}") from None
    except Exception as error:  # a fault of ours or of a library: its trace is wanted
        step.write_stamp(run=run, error=f"{type(error).__name__}: {error}")
        raise
    step.write_stamp(run=run, inputs=inputs, outputs=step.outputs())
    skipped = step.last_result().get("skipped")
    minutes = minutes_text((time.monotonic() - start) / 60)
    say(f"{head}  {'skipped' if skipped else 'done'} in {minutes} min")


# ---- the whole chain ----


def snakemake(scale: str, jobs: int, outputs: list[str], more: list[str]) -> list[str]:
    """The command of a run; the digests have chosen the outputs, nothing else decides.

    Parameters
    ----------
    scale : str
        See `plan.steps`.
    jobs : int
        Cores to fill.
    outputs : list of str
        Executed notebooks to make anew.
    more : list of str
        Further options of snakemake.
    """
    return [
        *(sys.executable, "-m", "snakemake", "--snakefile", "Snakefile"),
        *("--config", f"scale={scale}", "--cores", str(jobs)),
        *("--nolock", "--ignore-incomplete", "--rerun-triggers", "mtime"),
        *("--keep-going", "--quiet", "all", "--forcerun", *outputs),
        *more,
    ]


def run_steps(
    plan: Mapping[str, Step], names: list[str], jobs: int, more: list[str]
) -> None:
    """Run steps side by side.

    Parameters
    ----------
    plan : dict
        All steps of the scale.
    names : list of str
        Those to run.
    jobs, more
        See `snakemake`.

    Raises
    ------
    SystemExit
        Names each step that has not really run now, and why.
    """
    scale, run = next(iter(plan.values())).scale, uuid.uuid4().hex
    folder = project_root() / "runs" / scale
    now = time.time()
    for name in plan.keys() - set(names):  # up to date, so no date may say otherwise
        os.utime(plan[name].output, (now, now))
    outputs = [plan[name].output for name in names]
    process = subprocess.Popen(
        snakemake(scale, jobs, outputs, more),
        env={**os.environ, CHAIN: str(folder), RUN: run},
        start_new_session=True,  # Ctrl-C reaches this process only, which tells them
    )
    try:
        code = process.wait()
    except BaseException:
        stop([psutil.Process(process.pid), *members(folder)])
        say(f"\nStopped. What was finished is kept; {go_on(scale)}")
        raise
    lines = failures(plan, names, run)
    if lines or code:
        lines = lines or [f"snakemake ended with exit status {code}"]
        say("\nNot all of it ran:\n" + "\n".join(f"  {line}" for line in lines))
        raise SystemExit(f"What was finished is kept; {go_on(scale)}")


def go_on(scale: str) -> str:
    """How to go on after a run that stopped."""
    return f"`make book SCALE={scale}` goes on from here."


def failures(plan: Mapping[str, Step], names: list[str], run: str) -> list[str]:
    """A line for each step that did not run to its end in this run.

    Parameters
    ----------
    plan : dict
        All steps of the scale.
    names : list of str
        Those that were to run.
    run : str
        What their stamps call this run.
    """
    lines, failed = [], set()
    for name in names:
        stamp = plan[name].read_stamp()
        ran = stamp.get("run") == run
        if ran and "error" not in stamp:
            continue
        failed.add(name)
        behind = ", ".join(failed & set(plan[name].needs))
        why = f"it needs {behind}" if behind else "it was not started or was stopped"
        lines.append(f"{name}: {stamp['error'] if ran else f'did not run: {why}'}")
    return lines


def book(scale: str, jobs: int, more: list[str]) -> None:
    """Run what is out of date, and build the book if anything in it changed.

    Parameters
    ----------
    scale, jobs, more
        See `snakemake`.

    Raises
    ------
    ValueError
        Before anything runs, for what `plan.check` finds; for a book with warnings.
    SystemExit
        Where not all of it ran.
    """
    from mipo_study.book import stage

    plan = planning.steps(scale)
    with alone(project_root() / "runs" / scale):
        why = planning.stale(plan)
        if why:
            planning.check(plan)
            say(f"{len(why)} of {len(plan)} notebooks to run at scale {scale}.")
            run_steps(plan, list(why), jobs, more)
        built = stage.up_to_date(scale, plan)
        if not built:
            say("Building the book ...")
            stage.build(scale, plan)
    for step in plan.values():
        if step.last_result().get("skipped"):
            say(f"skipped: {step.name}: {step.last_result()['skipped']}")
    index = stage.index_page(scale)
    if built and not why:
        say("Nothing to do: every notebook and the book are up to date.")
    say(
        f"The book: {index}\n"
        f"Look first at {index.with_name('book')}/claims.html: what holds, what fails, "
        f"what is open.\nThen `make compare SCALE={scale}`: do your numbers agree with "
        "the published ones?"
    )


def publish(scale: str) -> None:
    """Copy what a finished run found to results/<scale>: numbers, claims, figures."""
    plan = planning.steps(scale)
    why = planning.stale(plan)
    for step in plan.values():
        result = planning.read_or_empty(project_root() / step.result)
        reason = why.get(step.name) or result["skipped"]
        say(f"{step.name}: {f'left as it was ({reason})' if reason else copy(step)}")
    say(copy_measured(scale, sweep=not why))


def copy(step: Step) -> str:
    """Publish one step; old figures of the chapter go."""
    result = unseal(step.result)
    target = Path("results") / step.scale
    figures = {figure["file"] for figure in result["figures"].values()}
    for file in [*sorted(figures), f"{step.name}.json"]:
        source = Path(step.run_dir) / "results" / file
        write_whole(target / file, source.read_bytes())
    for old in (target / "figures").glob(f"{step.number}-*.svg"):
        if f"figures/{old.name}" not in figures:
            old.unlink()
    counts = [f"{len(result[what])} {what}" for what in ("numbers", "claims")]
    return f"{', '.join(counts)}, {len(figures)} figures -> {target}"


def copy_measured(scale: str, *, sweep: bool) -> str:
    """Publish what each training run measured, so that no reader trains it again.

    Parameters
    ----------
    scale : str
    sweep : bool
        Whether those go on which no published result stands: not while a chapter's run
        is still to be finished.
    """
    target = Path("results") / scale / "measured"
    for file in measured(f"runs/{scale}"):
        write_whole(target / file.name, file.read_bytes())
    used = {run for file in target.parent.glob("*.json") for run in runs_of(file)}
    for file in target.glob("*.json") if sweep else ():
        if file.stem not in used:
            file.unlink()
    return f"{len(list(target.glob('*.json')))} measured runs -> {target}"


def runs_of(result: Path) -> list[str]:
    """The runs that a result file stands on."""
    return planning.read_or_empty(result).get("runs", [])


# ---- the command line ----


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line's arguments; None takes this process's."""
    summary = __doc__.splitlines()[0]
    parser = argparse.ArgumentParser("python -m mipo_study.book.run", None, summary)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("notebook")
    one.add_argument("name")
    every = commands.add_parser("book")
    every.add_argument("--dry", action="store_true", help="list what would run")
    every.add_argument("--jobs", default=str(min(2, cores())), help="cores to fill")
    every.add_argument("more", nargs="*", help="after --: options of snakemake")
    for command in (one, every, commands.add_parser("publish")):
        command.add_argument("--scale", default="laptop")
    return parser.parse_args(arguments)


def whole_number(text: str) -> int:
    """Cores to fill, or a ValueError."""
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"JOBS={text}: give the number of cores to fill, at least 1")
    return int(text)


def end(number: int, frame: object) -> None:
    """SIGTERM and a closed terminal stop a run as Ctrl-C does."""
    raise SystemExit(128 + number)


def main(arguments: list[str] | None = None) -> None:
    """Run ``python -m mipo_study.book.run``."""
    given = parse(arguments)
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number and signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, end)
    os.chdir(project_root())
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        if given.command == "notebook":
            run_notebook(given.name, given.scale)
        elif given.command == "publish":
            publish(given.scale)
        else:
            jobs = whole_number(given.jobs)
            if given.dry:
                say(planning.dry_run(given.scale))
            else:
                book(given.scale, jobs, given.more)
    except (ValueError, OSError, SyntaxError) as error:
        raise SystemExit(f"Error: {error}") from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
