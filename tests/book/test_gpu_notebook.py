"""Chapter 15 by Papermill, as a reader would run it: tiny models, small files in the hub's layout, no network, no GPU."""

import json
import os
import signal
import subprocess
import sys
import time

import hub_fixtures
import pytest
import torch
from building import ROOT, results_of, run_cells
from building import run_notebook as run
from hub_fixtures import parrot, roomy

pytestmark = pytest.mark.long

# Each of these trains, samples and scores several policies, some in processes of their
# own: half a minute to a minute. `make test` runs every method and every kind of data
# once, and what stops before any work.
thorough = pytest.mark.slow
SMALL = {
    "judge": "",
    "seeds": [0, 1],
    "n_train": 8,
    "n_test": 4,
    "max_new_tokens": 6,
    "batch_size": 4,
    "micro_batch": 2,
    "max_length": 4096,
    "contexts": 3,
    "lr": 0.001,
    "temperature": 1.0,
    "harness": 0,
    "shots": 1,
    "threads": 1,
}
NAME = "15-gpu-models"


def data(folder, *names):
    """Fixtures of several data sets, each in a folder of its name."""
    make = {
        "prism": hub_fixtures.prism,
        "gsm8k": hub_fixtures.gsm8k,
        "svamp": hub_fixtures.svamp,
        "mmlu": hub_fixtures.mmlu,
        "arc-challenge": hub_fixtures.arc,
        "ultrafeedback": hub_fixtures.ultrafeedback,
        "community-alignment": hub_fixtures.community,
        "multifaceted-bench": hub_fixtures.multifaceted,
    }
    for name in names:
        make[name](folder / name)
    return str(folder)


def test_every_claim_at_scale_gpu(tiny_qwen2, tmp_path):
    """All methods on the three kinds of data, judged: the judge takes what it reads first and rates all alike, so in both
    orders nothing is won, and as the papers count everything is."""
    model = str(roomy(tiny_qwen2, tmp_path / "m"))
    sure = str(
        parrot(tiny_qwen2, tmp_path / "c", ["The answer is: D"], firmly=1.2)
    )  # right by chance, now and then
    found = run(
        NAME,
        tmp_path,
        scale="gpu",
        model=model,
        dataset="prism",
        methods=["all"],
        more=[[sure, "arc-challenge"], [model, "ultrafeedback"]],
        data_dir=data(tmp_path / "data", "prism", "arc-challenge", "ultrafeedback"),
        **SMALL
        | {
            "judge": str(parrot(tiny_qwen2, tmp_path / "judge")),
            "harness": 2,
            "n_test": 6,
            "seeds": [0],
        },
    )
    claims, numbers = (
        found["claims"],
        {k: v["mean"] for k, v in found["numbers"].items()},
    )
    personal = claims["c06-personalises"]["parts"]
    assert len(personal) == 4 and not any(
        "SFT" in name for name in personal
    )  # two arms of MIPO, two ways to count
    assert {p["number"]["mean"] for p in personal.values()} == {0} and {
        p["region"][0] for p in personal.values()
    } == {0.03}
    assert claims["c06-personalises"]["status"] == "fails"
    assert (
        len(claims["c10-diversity"]["parts"]) == 2 and claims["c10-diversity"]["status"]
    )
    rivals = claims["c20-rmipo-beats-kin"]
    assert len(rivals["parts"]) == 2 and all(
        p["number"]["mean"] == 0 for p in rivals["parts"].values()
    )
    assert list(claims["c11-reasoning"]["parts"]) == [
        "MIPO, other question, c, arc-challenge: gain in accuracy"
    ]
    assert (
        claims["c11-reasoning"]["status"]
        and numbers["accuracy-base-c-arc-challenge"] > 0
    )
    assert (
        numbers["net-wins-sft-m-prism"] == 0 and numbers["overlap-prism"] == 0
    )  # the words around a message do not count
    assert {
        "pmi-base-m-prism",
        "retrieval-sft-m-prism",
        "self-bleu-base-m-prism",
        "accuracy-any-form-mipo-c-arc-challenge",
        "accuracy-gain-any-form-mipo-c-arc-challenge",
        "accuracy-released-base-c-arc-challenge",
        "harness-gain-sft-c-arc-challenge",
        "ranked-base-m-ultrafeedback",
        "ranked-by-rise-dpo-m-ultrafeedback",
        "net-wins-over-base-m-ultrafeedback",
        "training-minutes",
        "tokens-rmipo-m-ultrafeedback",
    } <= set(numbers)
    assert {"people", "length", "verdicts", "errors", "ranked", "duels"} == set(
        found["figures"]
    ) and not found["skipped"]


@thorough
def test_the_other_data_sets_with_adapters(tiny_llama, tmp_path):
    model = str(roomy(tiny_llama, tmp_path / "m"))
    rest = ["arc-challenge", "mmlu", "community-alignment", "multifaceted-bench"]
    found = run(
        NAME,
        tmp_path,
        model=model,
        dataset="svamp",
        more=[[model, d] for d in rest],
        lora_rank=4,
        data_dir=data(tmp_path / "data", "svamp", *rest),
        **SMALL | {"seeds": [0], "n_test": 3, "harness": 2},
    )
    for d in ("svamp", "arc-challenge", "mmlu"):
        assert {f"accuracy-gain-mipo-m-{d}", f"harness-gain-mipo-m-{d}"} <= set(
            found["numbers"]
        )
    logs = list((tmp_path / "run" / "runs").glob("harness-*/samples.jsonl"))
    assert len(logs) == 6 and all(
        f.read_text().count('"resps"') for f in logs
    )  # base and adapters on each set
    assert {f"retrieval-mipo-random-m-{d}" for d in rest[2:]} <= set(
        found["numbers"]
    ) and not found["claims"]
    assert not list(
        (tmp_path / "run" / "runs").glob("train-*/model/model.safetensors")
    )  # adapters alone


@thorough
def test_ones_own_people_beside_prism_in_two_processes(
    tiny_llama, examples_jsonl, tmp_path
):
    """One set of the reader's own is enough for no claim to get a status."""
    model = str(roomy(tiny_llama, tmp_path / "m"))
    found = run(
        NAME,
        tmp_path,
        scale="gpu",
        model=model,
        dataset="prism",
        more=[[model, str(examples_jsonl)]],
        launch="configs/accelerate/two-cpus.yaml",
        data_dir=data(tmp_path / "data", "prism"),
        **SMALL | {"seeds": [0]},
    )
    assert {f"retrieval-mipo-random-m-{d}" for d in ("prism", "examples_jsonl")} <= set(
        found["numbers"]
    )
    assert found["own"] and not found["claims"]
    runs = [
        json.loads(f.read_text())["metrics"]
        for f in (tmp_path / "run" / "runs").glob("train-*/run.json")
    ]
    assert [m["processes"] for m in runs] == [2, 2] and found["numbers"][
        "first-loss-apart"
    ]["mean"] < 0.02


@thorough
def test_runs_that_all_diverge_leave_the_base_model_s_numbers(tiny_qwen2, tmp_path):
    model = str(roomy(tiny_qwen2, tmp_path / "m"))
    found = run(
        NAME,
        tmp_path,
        scale="gpu",
        model=model,
        dataset="gsm8k",
        more=[[model, "ultrafeedback"]],
        methods=["all"],
        data_dir=data(tmp_path / "data", "gsm8k", "ultrafeedback"),
        **SMALL | {"lr": 1e38, "seeds": [0]},
    )
    assert {"accuracy-base-m-gsm8k", "ranked-base-m-ultrafeedback"} <= set(
        found["numbers"]
    )
    assert not found["claims"] and "training-minutes" not in found["numbers"]


@thorough
def test_what_was_done_survives_a_kill(tiny_qwen2, tmp_path):
    """The process is killed after its first training run; the same command goes on, and that run is not made again."""
    how = {
        "model": str(roomy(tiny_qwen2, tmp_path / "m")),
        "dataset": "gsm8k",
        "data_dir": data(tmp_path / "data", "gsm8k"),
        **SMALL,
    }
    given = [
        x
        for k, v in (how | {"run_dir": str(tmp_path / "run")}).items()
        for x in ("-y", f"{k}: {json.dumps(v)}")
    ]
    command = [
        sys.executable,
        "-m",
        "papermill",
        f"notebooks/{NAME}.ipynb",
        str(tmp_path / "cut.ipynb"),
        *given,
    ]
    started = subprocess.Popen(
        command,
        cwd=ROOT,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        until = time.monotonic() + 300
        while not (kept := list((tmp_path / "run" / "runs").glob("train-*/run.json"))):
            assert started.poll() is None and time.monotonic() < until, (
                "it ended, or hung, before a training run was kept"
            )
            time.sleep(0.05)
    finally:
        os.killpg(started.pid, signal.SIGKILL)
        started.wait()
    made = {f: f.stat().st_mtime_ns for f in kept}
    found = run(NAME, tmp_path, **how)
    assert {"accuracy-base", "accuracy-gain-mipo", "accuracy-released-mipo"} <= set(
        found["numbers"]
    )
    assert {f: f.stat().st_mtime_ns for f in kept} == made
    assert len(list((tmp_path / "run" / "runs").glob("train-*/run.json"))) == 2
    drawn = [
        f.read_text() for f in (tmp_path / "run" / "runs").glob("data-*/test.jsonl")
    ]
    assert len(drawn) == 2 and drawn[0] != drawn[1]  # each seed tests on its own items


def test_by_hand_nothing_is_run_without_a_model(tmp_path):
    run_cells(NAME, tmp_path)
    found = results_of(NAME, tmp_path)
    assert found["skipped"] == "No model was given."
    assert not found["numbers"] and not found["claims"]


def test_an_unknown_data_set_stops_first(tmp_path):
    with pytest.raises(Exception, match="expected one of prism"):
        run_cells(NAME, tmp_path, dataset="prisma", threads=1)


def test_a_misspelt_method_stops_first(tmp_path):
    with pytest.raises(Exception, match="people data take mipo-random"):
        run_cells(NAME, tmp_path, methods=["mipo-randon"], threads=1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_model_that_does_not_fit_stops_before_the_download(tmp_path):
    with pytest.raises(
        Exception,
        match="about [0-9]{4} GB, and this machine has no GPU and.*a smaller model",
    ):
        run_cells(NAME, tmp_path, model="org/Model-400B-Instruct", judge="")
