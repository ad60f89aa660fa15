"""The chain: check, lock, let Snakemake run the notebooks through papermill, then build the book.

python -m mipo_study.book.run book --scale laptop        what `make book` calls
python -m mipo_study.book.run notebook NAME --scale S    what a Snakemake rule calls
python -m mipo_study.book.run publish --scale full       copy a run's numbers and figures to results/
"""

from __future__ import annotations

import argparse
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO

from mipo.cache import STARTED
from mipo.files import project_root, read_json, write_whole
from mipo_study.book import plan as planning
from mipo_study.book.plan import Step, minutes_text


def say(text: str) -> None:
    print(text, flush=True)


# ---- one run at a time ----


def holders(lock: Path) -> list[int]:
    """The children of a run: they hold the lock file as standard input (Linux; elsewhere none are found).

    Another `make book` that waits for the lock has it open elsewhere, and must not be taken for one of them.
    """
    found = []
    for link in Path("/proc").glob("[0-9]*/fd/0"):
        try:
            if os.path.samefile(link, lock):
                found.append(int(link.parts[2]))
        except OSError:
            continue
    return sorted(set(found) - {os.getpid()})


def take_lock(lock: Path, patience: float = 15.0) -> IO[str]:
    """Hold the lock as long as this process or a child that has it as standard input lives.

    A killed run leaves children behind that still hold it: they are stopped, since all they could
    write is written whole or not at all. A run whose first process lives is left alone.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    file = open(lock, "a+")  # noqa: SIM115  closed by the end of the process
    end = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            file.seek(0)
            leader = file.read().strip()
            others = holders(lock)
            if (
                (leader.isdigit() and Path(f"/proc/{leader}").exists())
                or not others
                or time.monotonic() > end
            ):
                who = leader or " ".join(map(str, others))
                raise SystemExit(
                    f"Another run at scale {lock.parent.name} is under way (process {who}). "
                    f"Wait for it to end, or stop it with: kill {who}"
                ) from None
            say(
                f"A killed run left processes behind ({', '.join(map(str, others))}); stopping them."
            )
            for pid in others:
                stop(
                    pid,
                    signal.SIGTERM
                    if time.monotonic() < end - patience / 2
                    else signal.SIGKILL,
                )
            time.sleep(1.0)
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file


def stop(pid: int, how: int) -> None:
    try:
        os.kill(pid, how)
    except ProcessLookupError:
        pass


# ---- one notebook ----


class Ticker(threading.Thread):
    """Says how far a notebook is: on a terminal every second in place, else a line each half minute."""

    def __init__(self, head: str, minutes: float | None, cells: list):
        super().__init__(daemon=True)
        self.head, self.minutes, self.cells = head, minutes, cells
        self.start_time, self.done = time.monotonic(), threading.Event()
        self.tty = sys.stdout.isatty()

    def line(self) -> str:
        finished = sum(
            cell.metadata.get("papermill", {}).get("status") == "completed"
            for cell in self.cells
        )
        seconds = int(time.monotonic() - self.start_time)
        about = (
            f" of about {minutes_text(self.minutes)} min"
            if self.minutes is not None
            else ""
        )
        return f"{self.head}  cell {finished}/{len(self.cells)}  {seconds // 60}:{seconds % 60:02d}{about}"

    def run(self) -> None:
        while not self.done.wait(1.0 if self.tty else 30.0):
            print(
                f"\r\033[K{self.line()}" if self.tty else self.line(),
                end="" if self.tty else "\n",
                flush=True,
            )

    def stop(self) -> None:
        self.done.set()
        if self.tty:
            print("\r\033[K", end="", flush=True)


def cores() -> int:
    """Processor cores that this process may use."""
    return (
        len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count() or 1
    )


def settle(step: Step) -> dict:
    """The step's parameters, with no more workers than this machine's cores hold; and an environment in which the libraries
    below numpy and the tokenizers keep to as many threads as torch."""
    threads = int(step.parameters.get("threads", 1))
    for library in ("OMP", "OPENBLAS", "MKL", "RAYON"):
        os.environ[f"{library}_NUM_THREADS"] = str(threads)
    os.environ |= {"TOKENIZERS_PARALLELISM": "false", STARTED: str(time.time())}
    if "workers" not in step.parameters:
        return step.parameters
    return step.parameters | {
        "workers": max(1, min(int(step.parameters["workers"]), cores() // threads))
    }


def execute(step: Step, head: str) -> None:
    """Papermill writes NAME.partial.ipynb from the project's root; renamed only when all of it ran."""
    import papermill
    from papermill.engines import NBClientEngine, papermill_engines

    class Watched(NBClientEngine):
        @classmethod
        def execute_managed_notebook(cls, nb_man, kernel_name, **kwargs):
            ticker = Ticker(head, planning.expected_minutes(step), nb_man.nb.cells)
            ticker.start()
            try:
                return super().execute_managed_notebook(nb_man, kernel_name, **kwargs)
            finally:
                ticker.stop()

    papermill_engines.register("watched", Watched)
    partial, output = Path(step.partial), Path(step.output)
    partial.parent.mkdir(parents=True, exist_ok=True)
    partial.unlink(missing_ok=True)
    began = time.time()
    os.environ["JUPYTER_PREFER_ENV_PATH"] = (
        "1"  # this environment's kernel, not one of the user's
    )
    try:
        papermill.execute_notebook(
            step.notebook,
            str(partial),
            {**settle(step), "run_dir": step.run_dir, "scale": step.scale},
            engine_name="watched",
            kernel_name="python3",
            progress_bar=False,
            cwd=".",
            autosave_cell_every=0,
            extra_arguments=["--log-level=50"],
        )
    except papermill.PapermillExecutionError as error:
        raise SystemExit(
            f"{head}  FAILED in cell {error.exec_count}: {error.ename}: {error.evalue}\n"
            f"  read it in {step.partial}; `make book SCALE={step.scale}` goes on from here"
        ) from None
    result = Path(step.result)
    if not result.exists() or result.stat().st_mtime < began:
        raise SystemExit(
            f"{head}  wrote no {step.result}: its last cell must call nb.close()"
        )
    os.replace(partial, output)


def run_notebook(name: str, scale: str) -> None:
    steps = planning.steps(scale)
    if name not in steps:
        raise ValueError(
            f"notebook {name!r} is not part of scale {scale}{planning.suggestion(name, steps)}"
        )
    step = steps[name]
    planning.check_parameters(step)
    minutes = planning.expected_minutes(step)
    head = f"[{list(steps).index(name) + 1}/{len(steps)}] {name}"
    say(
        f"{head}  started"
        + (f", about {minutes_text(minutes)} min" if minutes is not None else "")
    )
    start = time.monotonic()
    execute(step, head)
    say(f"{head}  done in {minutes_text((time.monotonic() - start) / 60)} min")


# ---- the whole chain ----


def snakemake(scale: str, jobs: int, lock: IO[str]) -> int:
    """Notebooks of one thread run side by side, as far as `jobs` cores go.

    The lock travels as standard input: unlike other open files it reaches the children of children.
    """
    command = [
        sys.executable,
        "-m",
        "snakemake",
        "--snakefile",
        "Snakefile",
        "--config",
        f"scale={scale}",
        "--cores",
        str(jobs),
        "--nolock",
        "--rerun-incomplete",
        "--rerun-triggers",
        "mtime",
        "--quiet",
        "all",
    ]
    process = subprocess.Popen(command, stdin=lock)
    try:
        return process.wait()
    except KeyboardInterrupt:  # the terminal has told the children as well
        process.wait()
        raise SystemExit(
            "\nStopped. What was finished is kept; the same command goes on from here."
        ) from None


def book(scale: str, jobs: int) -> None:
    from mipo_study.book import stage

    plan = planning.steps(scale)
    if planning.stale(plan):  # else nothing changed since the last check
        planning.check(plan)
    lock = take_lock(Path(f"runs/{scale}/.lock"))
    why = planning.stale(plan)
    planning.write_markers(plan)
    if why:
        total = planning.forecast({name: plan[name] for name in why}, jobs)
        say(
            f"{len(why)} of {len(plan)} notebooks to run at scale {scale}"
            + (f", about {minutes_text(total)} min" if total else "")
            + "."
        )
        if snakemake(scale, jobs, lock):
            raise SystemExit(
                f"Stopped. What was finished is kept; `make book SCALE={scale}` goes on from here."
            )
    index = stage.index_page(scale)
    if not why and stage.up_to_date(scale, plan):
        say(
            f"Nothing to do: every notebook and the book are up to date at scale {scale}.\n  {index}"
        )
        return
    say("Building the book ...")
    stage.build(scale, plan)
    say(
        f"The book: {index}\nLook first at {index.with_name('book')}/claims.html: what holds, what fails, what is open."
        f"\nThen `make compare SCALE={scale}`: do your numbers agree with the published ones?"
    )


def publish(scale: str) -> None:
    """Copy what a finished run found to results/<scale>: numbers, claims, figures."""
    plan = planning.steps(scale)
    target, why = Path("results") / scale, planning.stale(plan)
    for step in plan.values():
        result = read_json(step.result) if Path(step.result).exists() else {}
        if step.name in why or not result or result["skipped"]:
            say(
                f"{step.name}: left as it was ({why.get(step.name) or result['skipped']})"
            )
            continue
        figures = {figure["file"] for figure in result["figures"].values()}
        for file in [*sorted(figures), f"{step.name}.json"]:
            write_whole(
                target / file, (Path(step.run_dir) / "results" / file).read_bytes()
            )
        for old in (target / "figures").glob(f"{planning.number_of(step.name)}-*.svg"):
            if f"figures/{old.name}" not in figures:
                old.unlink()
        say(
            f"{step.name}: {len(result['numbers'])} numbers, {len(result['claims'])} claims, "
            f"{len(result['figures'])} figures -> {target}"
        )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m mipo_study.book.run", description=__doc__.splitlines()[0]
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for command in ("book", "notebook", "publish"):
        sub = commands.add_parser(command)
        if command == "notebook":
            sub.add_argument("name")
        sub.add_argument("--scale", default="laptop")
        if command == "book":
            sub.add_argument("--dry", action="store_true", help="list what would run")
            sub.add_argument(
                "--jobs",
                type=int,
                default=min(2, cores()),
                help="cores to fill: notebooks of one thread run side by side",
            )
    given = parser.parse_args(arguments)
    os.chdir(project_root())
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        if given.command == "notebook":
            run_notebook(given.name, given.scale)
        elif given.command == "publish":
            publish(given.scale)
        elif given.dry:
            say(planning.dry_run(given.scale))
        else:
            book(given.scale, given.jobs)
    except ValueError as error:
        raise SystemExit(f"Error: {error}") from None


if __name__ == "__main__":
    main()
