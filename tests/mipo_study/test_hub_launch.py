"""Several processes: how a batch is cut, what is started, which errors come back."""

import os
import re
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser

from mipo import files
from mipo_study.hub import download, launch, protocol, runs, train
from mipo_study.hub.download import Place

pytestmark = pytest.mark.long

DPO = ("dpo", protocol.setting_of("preferences", "dpo"))
TWO = "configs/accelerate/two-cpus.yaml"
# each launch starts two processes that import torch and transformers: 15 seconds;
# `make test` has one that fails here, and one that trains in test_hub_runs.py
launches = pytest.mark.slow


@pytest.mark.parametrize(
    "batch, micro, cards, want",
    [
        (4, 2, 1, (1, 2, 2)),
        (4, 2, 8, (4, 1, 1)),
        (128, 2, 8, (8, 2, 8)),
        (3, 2, 1, (1, 1, 3)),
        (6, 4, 4, (3, 2, 1)),
        (5, 8, 2, (1, 5, 1)),
    ],
)
def test_a_batch_is_cut_evenly_and_stays_what_it_is(batch, micro, cards, want):
    found = train.pieces(batch, micro, cards)
    assert found == want and found[0] * found[1] * found[2] == batch


def test_nothing_cannot_be_cut():
    with pytest.raises(ValueError, match="micro_batch=0.*at least 1"):
        train.pieces(4, 0)


def test_the_shipped_files_work_on_a_box_with_eight_cards(monkeypatch):
    """At the defaults, 4 pairs a step and 2 at once: four cards take one pair each."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    assert launch.spread("", 4, 2) == (1, 1)
    assert launch.spread("configs/accelerate/ddp.yaml", 4, 2) == (4, 1)
    assert launch.spread("configs/accelerate/fsdp.yaml", 4, 2) == (4, 4)
    assert launch.spread(TWO, 4, 2) == (2, 1)  # what a file says is the most
    with pytest.raises(ValueError, match="no such file.*ddp.yaml"):
        launch.spread("configs/accelerate/dpp.yaml", 4, 2)


@pytest.mark.parametrize("name, kind", [("ddp", "MULTI_GPU"), ("fsdp", "FSDP")])
def test_accelerate_takes_the_shipped_files(name, kind):
    """Its own reader refuses unknown keys; each option of FSDP is its launcher's."""
    found = load_config_from_file(str(files.resolve(f"configs/accelerate/{name}.yaml")))
    assert (found.distributed_type, found.mixed_precision, found.use_cpu) == (
        kind,
        "bf16",
        False,
    )
    assert set(found.fsdp_config or {}) <= set(
        vars(launch_command_parser().parse_args(["x.py"]))
    )
    assert bool(found.fsdp_config) == (name == "fsdp")


# ---- what comes back ----

LONG = 600  # seconds
SPEC = {"batch_size": 4, "micro_batch": 2, "progress": False}


def raises_memory(spec):
    if int(os.environ["RANK"]) == 1:
        raise torch.OutOfMemoryError("CUDA out of memory")
    time.sleep(LONG)


def raises_value(spec):
    raise ValueError("no keyword betta:\ntry beta")


def raises_key(spec):
    raise KeyError("x")


def dies(spec):
    os._exit(9)


@pytest.fixture
def failed(tmp_path, monkeypatch):
    """The error that a launch ends with whose processes run this worker.

    The other process is stopped at once: it would sleep on. What the launcher does on
    SIGTERM does not stay.
    """

    def error_of(worker):
        handler = signal.getsignal(signal.SIGTERM)
        monkeypatch.setattr(train, "worker", worker)
        start = time.monotonic()
        with pytest.raises(Exception) as caught:
            launch.run(SPEC | {"folder": str(tmp_path)}, TWO)
        assert time.monotonic() - start < LONG / 2
        assert signal.getsignal(signal.SIGTERM) is handler
        return caught.value

    return error_of


@pytest.mark.parametrize(
    "worker, kind, text",
    [
        (raises_value, ValueError, "^no keyword betta:\ntry beta$"),
        pytest.param(raises_key, RuntimeError, "^KeyError: 'x'$", marks=launches),
        pytest.param(
            dies,
            RuntimeError,
            "two-cpus.yaml ended without a word .code 9;",
            marks=launches,
        ),
    ],
)
def test_an_error_in_a_process_comes_back_as_what_it_is(worker, kind, text, failed):
    error = failed(worker)
    assert type(error) is kind and re.search(text, str(error))


@launches
def test_out_of_memory_in_a_process_has_the_same_way_out(failed):
    error = failed(raises_memory)
    assert type(error) is torch.OutOfMemoryError
    assert str(error) == "CUDA out of memory"
    with pytest.raises(download.Unavailable, match="micro_batch.*lora_rank"):
        with download.explained("training dpo", kind="training"):
            raise error


def writes_and_waits(spec):
    """A worker as `train.worker`, whose training is a long sleep."""
    train.run = lambda spec: time.sleep(LONG)
    (Path(spec["folder"]) / f"{os.getpid()}.pid").write_text("")
    train.worker(spec)


STARTER = """
import signal
import sys
from mipo_study.hub import launch, train
import test_hub_launch as test

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # as in a kernel
    train.worker = test.writes_and_waits
    launch.run(test.SPEC | {"folder": sys.argv[1]}, test.TWO)
"""


@launches
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_end_of_the_starter_ends_its_processes(how, tmp_path):
    """An interrupt of the notebook, the end of its kernel, a kernel that is killed."""
    (tmp_path / "start.py").write_text(STARTER)
    paths = [str(files.SOURCE), str(Path(__file__).parent), *sys.path]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    line = [sys.executable, str(tmp_path / "start.py"), str(tmp_path)]
    starter = psutil.Popen(line, env=env)
    until = time.monotonic() + LONG / 2
    while len(list(tmp_path.glob("*.pid"))) < 2:
        assert starter.poll() is None and time.monotonic() < until
        time.sleep(0.05)
    workers = [psutil.Process(int(f.stem)) for f in tmp_path.glob("*.pid")]
    try:
        starter.send_signal(how)
        _, alive = psutil.wait_procs(workers, timeout=40)
        assert not alive
    finally:
        for process in filter(psutil.Process.is_running, [starter, *workers]):
            process.kill()
        starter.wait()


def test_the_processes_see_what_accelerate_would_tell_them():
    given = launch.environment("configs/accelerate/fsdp.yaml", 2)
    assert given["ACCELERATE_USE_FSDP"] == "true" and given["FSDP_VERSION"] == "2"
    assert given["FSDP_AUTO_WRAP_POLICY"] == "TRANSFORMER_BASED_WRAP"
    assert given["ACCELERATE_MIXED_PRECISION"] == "bf16"
    given = launch.environment("configs/accelerate/ddp.yaml", 2)
    assert "ACCELERATE_USE_FSDP" not in given
    assert given["ACCELERATE_MIXED_PRECISION"] == "bf16"


# ---- a run that diverges, in two processes and in one of many ----

SETTINGS = dict(
    lr=1e38,
    epochs=1,
    batch_size=4,
    micro_batch=2,
    max_length=200,
    lora_rank=0,
    seed=0,
    save_every=100,
    progress=False,
)


@pytest.fixture
def made(tmp_path):
    rows = [
        {
            "prompt": [{"role": "user", "content": f"Bring bread {i}?"}],
            "chosen": [{"role": "assistant", "content": "Yes, I will."}],
            "rejected": [{"role": "assistant", "content": "No."}],
        }
        for i in range(8)
    ]
    return runs.labelled_pairs(tmp_path / "run", rows)


@launches
def test_divergence_in_two_processes_is_a_result(tiny_llama, made, tmp_path):
    base = Place(str(tiny_llama), tiny_llama)
    gone = runs.train_policy(tmp_path, *DPO, base, made, **SETTINGS, launcher=TWO)
    assert "learning rate" in gone.metrics["failed"]


def test_every_process_checks_its_part_of_the_weights(
    tiny_llama, made, tmp_path, monkeypatch
):
    """Also one that is not the main one: with FSDP the check is a sum over all."""
    checked = []
    monkeypatch.setattr(
        train, "require_finite", lambda model, *_: checked.append(model)
    )
    monkeypatch.setattr(
        train,
        "PartialState",
        lambda **_: SimpleNamespace(
            device=torch.device("cpu"),
            num_processes=1,
            is_main_process=False,
            wait_for_everyone=lambda: None,
        ),
    )
    spec = {
        **SETTINGS,
        "lr": 1e-4,
        "loss": "dpo",
        "loss_kwargs": {"beta": 0.1},
        "recipe": "mipo",
        "base": str(tiny_llama),
        "pairs": str(made.path / "pairs" / "train.jsonl"),
        "folder": str(tmp_path / "f"),
        "checkpointing": False,
        "checkpoints": str(tmp_path / "c"),
    }
    with pytest.raises(
        FileNotFoundError, match="metrics.json"
    ):  # which the main process writes
        train.run(spec)
    assert len(checked) == 1


def test_only_the_main_process_reads_the_base_again(tiny_llama, monkeypatch):
    read = []
    model, _ = train.load_model(tiny_llama, device="cpu")
    original = train.load_model
    monkeypatch.setattr(
        train,
        "load_model",
        lambda *args, **kwargs: read.append(args) or original(*args, **kwargs),
    )
    assert train.rounded(model, tiny_llama, main=False) is None and not read
    assert next(model.parameters()).dtype == torch.bfloat16
    assert train.rounded(model, tiny_llama, main=True) is not None and len(read) == 1
