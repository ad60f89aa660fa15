"""Training in several processes: accelerate's settings, started by torch's launcher."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import threading
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate.utils import patch_environment
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from mipo import files
from mipo_study.hub import train

ERRORS = {
    "FloatingPointError": FloatingPointError,
    "torch.OutOfMemoryError": torch.OutOfMemoryError,
    "OutOfMemoryError": torch.OutOfMemoryError,
    "ValueError": ValueError,
}


def read(launcher: str) -> dict[str, Any]:
    """A configuration of accelerate; ValueError where there is no such file."""
    file = files.resolve(launcher)
    if not file.is_file():
        raise ValueError(
            f"launch={launcher!r}: there is no such file; configs/accelerate holds "
            "ddp.yaml and fsdp.yaml"
        )
    return yaml.safe_load(file.read_text(encoding="utf-8"))


def cards(launcher: str) -> int:
    """How many processes there may be: what the file says, else one for each card."""
    if not launcher:
        return 1
    return read(launcher).get("num_processes") or max(torch.cuda.device_count(), 1)


def spread(launcher: str, batch_size: int, micro_batch: int) -> tuple[int, int]:
    """Over how many cards a batch and the weights are spread.

    Parameters
    ----------
    launcher : str
        See `run`.
    batch_size, micro_batch : int
        See `train.pieces`.

    Returns
    -------
    (int, int)
        Cards that a batch is trained on, and cards that share the weights: 1 but for
        FSDP.
    """
    processes = train.pieces(batch_size, micro_batch, cards(launcher))[0]
    shared = launcher and read(launcher)["distributed_type"] == "FSDP"
    return processes, processes if shared else 1


def run(spec: Mapping[str, Any], launcher: str = "") -> dict[str, Any]:
    """`train.run`, here or in as many processes as share the batch.

    Parameters
    ----------
    spec : dict
        Of the training, see `train.run`.
    launcher : str
        A configuration of accelerate; "" is this process.

    Returns
    -------
    dict
        Metrics, see `train.run`.

    Raises
    ------
    Exception
        What the first process that failed has raised; RuntimeError for a type that is
        not in `ERRORS`, or where it ended without a word.
    """
    processes, _ = spread(launcher, spec["batch_size"], spec["micro_batch"])
    if processes == 1:
        return train.run(spec)
    start = elastic_launch(settings(processes), train.worker)
    with patch_environment(**environment(launcher, processes)), own_handlers():
        try:
            start(dict(spec))
        except ChildFailedError as error:
            raise cause_of(error, launcher) from error
    return files.read_json(Path(spec["folder"]) / "metrics.json")


def settings(processes: int) -> LaunchConfig:
    """One machine, a free port, no second try; an interrupt is left to Python."""
    return LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        signals_to_handle="SIGTERM",
    )


def environment(launcher: str, processes: int) -> dict[str, str]:
    """Variables that `accelerate launch` would set for the processes.

    Parameters
    ----------
    launcher : str
        A configuration of accelerate.
    processes : int
        How many.

    Returns
    -------
    dict
        {name: value}, without those that are set already.

    Notes
    -----
    Without GPUs (MULTI_CPU) there are none: accelerate would start them by MPI.
    """
    if read(launcher)["distributed_type"] == "MULTI_CPU":
        return {"ACCELERATE_USE_CPU": "true"}
    from accelerate.commands.launch import (
        _validate_launch_command,
        launch_command_parser,
    )
    from accelerate.utils.launch import prepare_multi_gpu_env

    line = ["--config_file", str(files.resolve(launcher))]
    line += ["--num_processes", str(processes), "--main_process_port", "0", "train.py"]
    options, *_ = _validate_launch_command(launch_command_parser().parse_args(line))
    wanted = prepare_multi_gpu_env(options)
    return {name: text for name, text in wanted.items() if text != os.getenv(name)}


@contextlib.contextmanager
def own_handlers() -> Iterator[None]:
    """Keep what this process does on SIGTERM; the launcher leaves its own there."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler)


def cause_of(error: ChildFailedError, launcher: str) -> Exception:
    """The error that was raised first; the others follow from it.

    Parameters
    ----------
    error : ChildFailedError
        Of torch's launcher.
    launcher : str
        What the message calls it.

    Returns
    -------
    Exception
        Of its own type where `ERRORS` has it, else a RuntimeError.
    """
    _, failure = error.get_first_failure()
    report = failure.error_file_data or {}
    text = report.get("message", {})
    text = text.get("message", "") if isinstance(text, dict) else str(text)
    match = re.match(r"([\w.]+): (.*)", text, re.DOTALL)
    if not match:
        return RuntimeError(
            f"a process of {launcher} ended without a word (code {failure.exitcode}; "
            "-9 or 137: main memory ran out)"
        )
    name, message = match.groups()
    return ERRORS[name](message) if name in ERRORS else RuntimeError(text)
