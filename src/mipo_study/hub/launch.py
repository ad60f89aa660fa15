"""Training in several processes: how many there will be, starting them by accelerate, and what went wrong in them."""

import collections
import contextlib
import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import torch
import yaml

from mipo import files
from mipo_study.hub import train

PATIENCE = 30  # seconds that the processes have to end by themselves
ERRORS = {
    "FloatingPointError": FloatingPointError,
    "OutOfMemoryError": torch.OutOfMemoryError,
    "ValueError": ValueError,
}


def read(launch):
    """A configuration of accelerate as a dict; ValueError where there is no such file."""
    file = files.resolve(launch)
    if not file.is_file():
        raise ValueError(
            f"launch={launch!r}: there is no such file; configs/accelerate holds ddp.yaml and fsdp.yaml"
        )
    return yaml.safe_load(file.read_text(encoding="utf-8"))


def cards(launch):
    """How many processes there may be: one without `launch`, else what its file says, else one for each card seen here."""
    return (
        read(launch).get("num_processes") or max(torch.cuda.device_count(), 1)
        if launch
        else 1
    )


def spread(launch, batch_size, micro_batch):
    """(cards that a batch is trained on, cards among which they share the weights, which is one but for FSDP)."""
    processes = train.pieces(batch_size, micro_batch, cards(launch))[0]
    return processes, processes if launch and read(launch)[
        "distributed_type"
    ] == "FSDP" else 1


def run(spec, launch=""):
    """`train.run`, here or in as many processes as share the batch (see `train.pieces`); raises what was raised in them."""
    processes, _ = spread(launch, spec["batch_size"], spec["micro_batch"])
    if processes == 1:
        return train.run(spec)
    file = files.write_whole(
        Path(spec["folder"]) / "spec.json", files.dumps(spec | {"starter": os.getpid()})
    )
    paths = os.pathsep.join(
        p for p in (str(files.SOURCE), os.environ.get("PYTHONPATH", "")) if p
    )
    code, last = watched(
        [*command(launch, processes), "-m", "mipo_study.hub.train", str(file)],
        env=os.environ | {"PYTHONPATH": paths},
        show=spec["progress"],
    )
    if code:
        raise found(file.parent) or RuntimeError(
            f"the processes of {launch} ended without a word (code {code}; -9 or 137: "
            f"main memory ran out). Their last lines:\n{last}"
        )
    return files.read_json(file.parent / "metrics.json")


def command(launch, processes):
    """Without GPUs (distributed_type MULTI_CPU) accelerate would need MPI, so torch's own launcher starts them."""
    if read(launch)["distributed_type"] == "MULTI_CPU":
        return [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node",
            str(processes),
        ]
    return [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--config_file",
        str(files.resolve(launch)),
        "--num_processes",
        str(processes),
    ]


def watched(command, *, env, show):
    """(exit code, last lines) of a command; `show` passes on what it writes. Whatever stops us stops it and its children."""
    last = collections.deque(maxlen=15)
    with subprocess.Popen(
        command,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    ) as process:
        try:
            for line in io.TextIOWrapper(
                process.stdout, errors="replace", newline=""
            ):  # a bar ends its lines with \r
                last.append(line)
                if show:
                    print(line, end="", file=sys.stderr, flush=True)
        except BaseException:
            stop(process)
            raise
    return process.returncode, "".join(last)


def stop(process):
    """SIGTERM, upon which a launcher ends its own processes; SIGKILL after `PATIENCE`, which they notice (train.end_with)."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(process.pid, number)
            process.wait(PATIENCE)
            return


def found(folder):
    """The error that was written first, with its type where `ERRORS` has it; the others follow from it. None: none was."""
    files = sorted(folder.glob("error-*.json"), key=lambda f: f.stat().st_mtime_ns)
    if not files:
        return None
    said = files.read_json(files[0])
    kind = ERRORS.get(said["type"])
    return (
        kind(said["message"])
        if kind
        else RuntimeError(f"{said['type']}: {said['message']}")
    )
