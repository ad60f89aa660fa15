"""Several processes: how a batch is cut, what is started, and that errors and interrupts arrive as what they are."""

import json
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser

from mipo import cache, files
from mipo_study.hub import download, launch, recipes, runs, train
from mipo_study.hub.download import Place

TWO = "configs/accelerate/two-cpus.yaml"


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
    """At the notebook's defaults, 4 pairs a step and 2 at once: four cards take one pair each."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    assert launch.spread("", 4, 2) == (1, 1)
    assert launch.spread("configs/accelerate/ddp.yaml", 4, 2) == (4, 1)
    assert launch.spread("configs/accelerate/fsdp.yaml", 4, 2) == (4, 4)
    assert launch.spread(TWO, 4, 2) == (2, 1)  # what a file says is the most
    started = launch.command("configs/accelerate/ddp.yaml", 4)
    assert "accelerate.commands.launch" in started and started[-2:] == [
        "--num_processes",
        "4",
    ]
    with pytest.raises(ValueError, match="no such file.*ddp.yaml"):
        launch.spread("configs/accelerate/dpp.yaml", 4, 2)


@pytest.mark.parametrize("name, kind", [("ddp", "MULTI_GPU"), ("fsdp", "FSDP")])
def test_accelerate_takes_the_shipped_files(name, kind):
    """Its own reader, which refuses unknown keys; and each option of FSDP is one of its launcher's."""
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


def failed(folder, error, monkeypatch, rank=0):
    """The started process's own main, with a run that raises."""

    def run(spec):
        raise error

    monkeypatch.setattr(train, "run", run)
    spec = files.write_whole(folder / "spec.json", json.dumps({"folder": str(folder)}))
    monkeypatch.setattr(sys, "argv", ["fit", str(spec)])
    monkeypatch.setenv("RANK", str(rank))
    with pytest.raises(type(error)):
        train.main()


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        FloatingPointError("the loss is nan"),
        ValueError("no keyword betta"),
    ],
)
def test_an_error_in_a_process_comes_back_as_what_it_is(error, tmp_path, monkeypatch):
    assert launch.found(tmp_path) is None
    failed(tmp_path, error, monkeypatch, rank=1)
    back = launch.found(tmp_path)
    assert type(back) is type(error) and str(back) == str(error)


def test_the_first_error_is_the_cause(tmp_path, monkeypatch):
    failed(tmp_path, KeyError("x"), monkeypatch, rank=1)
    failed(tmp_path, FloatingPointError("follows"), monkeypatch, rank=0)
    os.utime(tmp_path / "error-1.json", (1, 1))
    assert (
        str(launch.found(tmp_path)) == "KeyError: 'x'"
        and type(launch.found(tmp_path)) is RuntimeError
    )


def test_out_of_memory_in_a_process_has_the_same_way_out(tmp_path, monkeypatch):
    failed(tmp_path, torch.OutOfMemoryError("CUDA out of memory"), monkeypatch)
    monkeypatch.setattr(launch, "watched", lambda *args, **kwargs: (1, ""))
    spec = {
        "batch_size": 4,
        "micro_batch": 2,
        "folder": str(tmp_path),
        "progress": False,
    }
    with (
        pytest.raises(download.Unavailable, match="micro_batch.*lora_rank"),
        download.explained("training dpo", kind="training"),
    ):
        launch.run(spec, TWO)


def test_a_process_that_says_nothing_leaves_its_last_lines(tmp_path, monkeypatch):
    monkeypatch.setattr(
        launch,
        "command",
        lambda *_: [
            sys.executable,
            "-c",
            "import os; print('was here', flush=True); os._exit(9)",
        ],
    )
    spec = {
        "batch_size": 4,
        "micro_batch": 2,
        "folder": str(tmp_path),
        "progress": False,
    }
    with pytest.raises(
        RuntimeError, match=r"(?s)two-cpus.yaml ended without a word \(code 9.*was here"
    ):
        launch.run(spec, TWO)


def test_progress_is_passed_on_as_it_is_written(capfd):
    say = [sys.executable, "-c", "import sys; sys.stderr.write('1 of 2\\r2 of 2\\n')"]
    assert launch.watched(say, env=dict(os.environ), show=True) == (
        0,
        "1 of 2\r2 of 2\n",
    )
    assert capfd.readouterr().err == "1 of 2\r2 of 2\n"
    launch.watched(say, env=dict(os.environ), show=False)
    assert capfd.readouterr().err == ""


def test_an_interrupt_ends_the_processes_too(monkeypatch):
    """A process and its child, as accelerate and its workers; both are gone after an interrupt here."""
    pids = []

    def interrupt(text):
        pids.extend(map(int, text.split()))
        raise KeyboardInterrupt

    monkeypatch.setattr(
        sys, "stderr", SimpleNamespace(write=interrupt, flush=lambda: None)
    )
    both = (
        "import os, subprocess, time; child = subprocess.Popen(['sleep', '60'])\n"
        "print(os.getpid(), child.pid, flush=True); time.sleep(60)"
    )
    with pytest.raises(KeyboardInterrupt):
        launch.watched([sys.executable, "-c", both], env=dict(os.environ), show=True)
    end = time.monotonic() + 10
    while any(map(running, pids)) and time.monotonic() < end:
        time.sleep(0.05)
    assert len(pids) == 2 and not any(map(running, pids))


def test_a_process_that_does_not_listen_is_killed(monkeypatch):
    pids = []

    def interrupt(text):
        pids.append(int(text))
        raise KeyboardInterrupt

    monkeypatch.setattr(launch, "PATIENCE", 0.5)
    monkeypatch.setattr(
        sys, "stderr", SimpleNamespace(write=interrupt, flush=lambda: None)
    )
    deaf = (
        "import os, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print(os.getpid(), flush=True); time.sleep(30)"
    )
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        launch.watched([sys.executable, "-c", deaf], env=dict(os.environ), show=True)
    assert time.monotonic() - start < 20 and not running(pids[0])


@pytest.mark.parametrize("killed", ["starter", "launcher"])
def test_nothing_goes_on_training_once_its_starter_or_launcher_is_gone(
    killed, tmp_path
):
    """Three processes, each started by the one before and in a session of its own, as torch's launcher does."""
    worker = (
        f"import os, sys, time; from mipo import fit; train.end_with(int(sys.argv[1]), every=0.05)\n"
        f"open({str(tmp_path / 'pids')!r}, 'w').write(f'{{sys.argv[1]}} {{os.getppid()}} {{os.getpid()}}\\n')\n"
        "time.sleep(60)"
    )
    launcher = (
        "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[2], sys.argv[1]], "
        "start_new_session=True)"
    )
    starter = (
        "import os, subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1], str(os.getpid()), "
        "sys.argv[2]], start_new_session=True)"
    )
    env = os.environ | {"PYTHONPATH": str(cache.PACKAGE.parent)}
    top = subprocess.Popen([sys.executable, "-c", starter, launcher, worker], env=env)
    until = time.monotonic() + 120
    while not (
        (tmp_path / "pids").exists() and (tmp_path / "pids").read_text().endswith("\n")
    ):
        assert top.poll() is None and time.monotonic() < until
        time.sleep(0.05)
    pids = list(map(int, (tmp_path / "pids").read_text().split()))
    try:
        time.sleep(0.3)
        assert all(map(running, pids))  # as long as all are there
        os.kill(pids[("starter", "launcher").index(killed)], signal.SIGKILL)
        until = time.monotonic() + 20
        while running(pids[2]) and time.monotonic() < until:
            time.sleep(0.05)
        assert not running(pids[2])
    finally:
        for pid in filter(running, pids):
            os.kill(pid, signal.SIGKILL)
        top.wait()


def running(pid):
    try:
        return open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


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
    return runs.labelled(tmp_path / "run", rows)


def test_divergence_in_two_processes_is_a_result(tiny_llama, made, tmp_path):
    base = Place(str(tiny_llama), tiny_llama)
    gone = runs.train(
        tmp_path, recipes.PREFERENCES["dpo"], base, made, **SETTINGS, launch=TWO
    )
    assert "learning rate" in gone.metrics["failed"]


def test_every_process_checks_its_part_of_the_weights(
    tiny_llama, made, tmp_path, monkeypatch
):
    """One that is not the main one: with FSDP the check is a sum over all, and would wait for it for ever."""
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
