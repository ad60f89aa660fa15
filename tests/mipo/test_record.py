"""Records: kept by content, whole or not at all; numbers, claims and figures of a notebook."""

import hashlib
import importlib.util
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from mipo import cache, files, provenance, record
from mipo import cache as sources
from mipo.numbers import Number, fmt, interval_of, status, together


def make_one(folder):
    (folder / "weights.txt").write_text("w" * 100)
    return {"loss": 0.25, "none": None}


def run(where, config=None, make=make_one, name="arm", **more):
    return record.run_or_load(
        where, name, config or {"beta": 1.0}, make, code=["mipo.losses"], **more
    )


# ---- run_or_load ----


def test_a_run_is_made_once_then_loaded(tmp_path):
    first = run(tmp_path)
    second = run(tmp_path, make=lambda folder: pytest.fail("it was kept"))
    assert (first.fresh, second.fresh) == (True, False)
    assert second.metrics == first.metrics == {"loss": 0.25, "none": None}
    assert (second.path / "weights.txt").read_text() == "w" * 100
    assert second.seconds == first.seconds


def test_the_key_follows_name_config_and_inputs(tmp_path):
    data = tmp_path / "data.txt"
    data.write_text("one")
    keys = [
        run(tmp_path).key,
        run(tmp_path, {"beta": 2.0}).key,
        run(tmp_path, name="other").key,
        run(tmp_path, inputs={"data": data}).key,
        run(tmp_path, inputs={"model": "org/model"}).key,
    ]
    data.write_text("two")
    keys.append(run(tmp_path, inputs={"data": data}).key)
    assert len(set(keys)) == len(keys)
    data.write_text("one")  # content counts, not dates
    assert run(tmp_path, inputs={"data": data}).key == keys[3]


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of three modules: a imports b, c stands alone."""
    folder = tmp_path / "mipo"
    folder.mkdir()
    for name, text in [
        ("__init__", ""),
        ("a", "from mipo import b\nx = 1\n"),
        ("b", '"""Doc."""\ny = 2\n'),
        ("c", "z = 3\n"),
    ]:
        (folder / f"{name}.py").write_text(text)
    monkeypatch.setattr(sources, "PACKAGE", folder)
    return folder


def test_the_key_follows_the_code_and_what_it_imports_but_no_comment(package):
    before = sources.code_hashes(["a"])
    assert sorted(before) == ["mipo.a", "mipo.b"]
    (package / "c.py").write_text("z = 4\n")
    (package / "b.py").write_text('"""Another docstring."""\n# a comment\ny = 2\n')
    assert sources.code_hashes(["a"]) == before
    (package / "b.py").write_text("y = 3\n")
    assert sources.code_hashes(["a"])["mipo.b"] != before["mipo.b"]


def test_advice_and_launching_are_in_no_key_but_what_they_serve_is():
    """A word in a message of `hub` must not make hours on a GPU anew."""
    found = sources.code_hashes(["real", "real_scores"])
    assert not {"mipo_study.hub.download", "mipo_study.hub.launch", "mipo.cache"} & set(
        found
    )
    assert {
        "mipo_study.hub.runs",
        "mipo_study.hub.scores",
        "mipo_study.hub.train",
        "mipo.trainer",
        "mipo_study.hub.benchmarks",
    } <= set(found)


def test_a_file_is_hashed_once_until_it_changes(tmp_path, monkeypatch):
    file, read, original = tmp_path / "weights", [], cache.hashlib.file_digest
    monkeypatch.setattr(
        cache.hashlib,
        "file_digest",
        lambda opened, how: read.append(1) or original(opened, how),
    )
    file.write_text("one")
    first = files.content_hash(file)
    assert (
        files.content_hash(file) == files.content_hash(tmp_path / "weights") == first
        and len(read) == 1
    )
    os.replace(file, tmp_path / "old")
    file.write_text("two")  # as long as before
    assert (
        files.content_hash(file) != first
        and files.content_hash(tmp_path / "old") == first
    )
    text = (
        b"\0" + hashlib.sha256(b"one").digest()
    )  # by hand: no name for a lone file, then the hash of its bytes
    assert first == hashlib.sha256(text).hexdigest()


@pytest.mark.parametrize(
    "line",
    [
        "import mipo.b",
        "from mipo.b import y",
        "from . import b",
        "from .b import y",
        "def f():\n    from mipo import b",
    ],
)
def test_every_way_to_import_is_seen(package, line):
    assert sources.imported(line, "mipo.a") - {"mipo"} == {"mipo.b"}


def test_unknown_module_is_named(tmp_path):
    with pytest.raises(ValueError, match="mipo.lossses"):
        record.run_or_load(tmp_path, "x", {}, make_one, code=["mipo.lossses"])


def test_a_failed_run_leaves_nothing_that_could_be_read(tmp_path):
    def fails(folder):
        (folder / "weights.txt").write_text("half")
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        run(tmp_path, make=fails)
    assert not list((tmp_path / "records").glob("arm-*"))
    assert run(tmp_path).fresh


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_diverged_run_is_refused_and_the_field_named(tmp_path, bad):
    with pytest.raises(ValueError, match=r"arm: metrics\.loss\[1\]"):
        run(tmp_path, make=lambda folder: {"loss": [1.0, bad]})


@pytest.mark.parametrize(
    "file, text",
    [("weights.txt", "w"), ("weights.txt", None), ("record.json", '{"metrics"')],
)
def test_a_cut_record_is_made_anew(tmp_path, file, text):
    cut = run(tmp_path).path / file
    cut.unlink() if text is None else cut.write_text(text)
    again = run(tmp_path)
    assert again.fresh and (again.path / "weights.txt").read_text() == "w" * 100


def start_slow(where):
    code = textwrap.dedent(f"""
        import time
        from mipo import record
        def make(folder):
            (folder / "weights.txt").write_text("half")
            print("started", flush=True)
            time.sleep(60)
        record.run_or_load({str(where)!r}, "arm", {{"beta": 1.0}}, make, code=["mipo.losses"])""")
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "started\n"
    return process


def test_killed_in_the_middle_of_writing_then_made_anew(tmp_path):
    process = start_slow(tmp_path)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert list((tmp_path / "records").glob(".arm-*.partial"))
    again = run(tmp_path)
    assert again.fresh and (again.path / "weights.txt").read_text() == "w" * 100
    assert not list((tmp_path / "records").glob(".arm-*.partial"))


def test_a_second_process_waits_for_the_first(tmp_path):
    process = start_slow(tmp_path)
    code = f"""from mipo import record
print(record.run_or_load({str(tmp_path)!r}, "arm", {{"beta": 1.0}}, lambda f: {{}}, code=["mipo.losses"]).fresh)"""
    waiting = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True
    )
    time.sleep(1.5)
    assert waiting.poll() is None  # neither reads the half nor writes over it
    process.kill()
    process.wait()
    assert waiting.communicate(timeout=60)[0] == "True\n"


def test_write_whole_keeps_the_old_file_when_it_cannot_write(tmp_path):
    file = files.write_whole(tmp_path / "a.json", "old")
    with pytest.raises(TypeError):
        files.write_whole(file, object())
    assert file.read_text() == "old"


# ---- numbers and status ----


@pytest.mark.parametrize(
    "interval, region, word",
    [
        ((0.1, 0.2), (0, None), "holds"),
        ((0.0, 0.2), (0, None), "holds"),
        ((-0.1, 0.2), (0, None), "undecided"),
        ((0.0, 0.0), (0, None), "undecided"),
        ((0.0, 0.0), (None, 0), "undecided"),
        ((0.0, 0.0), (0, 0), "holds"),
        ((0.0, 0.0), (-1, 1), "holds"),
        ((-0.2, -0.1), (0, None), "fails"),
        ((0.1, 0.2), (None, 0.05), "fails"),
        ((0.1, 0.2), (0.15, 0.3), "undecided"),
        (None, (0, None), "undecided"),
        ((None, None), (0, None), "undecided"),
    ],
)
def test_status(interval, region, word):
    assert status(interval, region) == word


def test_status_refuses_what_is_upside_down():
    with pytest.raises(ValueError, match="region"):
        status((0, 1), (2, 1))
    with pytest.raises(ValueError, match="interval"):
        status((1, 0), (0, 1))


@pytest.mark.parametrize(
    "parts, word",
    [
        (["holds", "holds"], "holds"),
        (["fails", "fails"], "fails"),
        (["holds", "fails"], "in part"),
        (["holds", "undecided"], "in part"),
        (["fails", "undecided"], "undecided"),
    ],
)
def test_together(parts, word):
    assert together(parts) == word


def test_interval_over_seeds():
    number = interval_of(
        [1.0, 2.0, 3.0], "nats"
    )  # t(0.975; 2) = 4.3027, s = 1: half width 4.3027 / sqrt(3) = 2.4841
    assert number.mean == 2.0 and number.low == pytest.approx(2 - 2.4841, abs=1e-4)
    assert number.high == pytest.approx(2 + 2.4841, abs=1e-4) and number.n == 3


def test_one_seed_has_no_interval_and_an_exact_number_is_its_own():
    assert interval_of([0.5]).interval == (None, None)
    assert interval_of(0.5).interval == (0.5, 0.5)
    assert interval_of(0.5, interval=(0.4, 0.7)).interval == (0.4, 0.7)


@pytest.mark.parametrize(
    "x, text",
    [
        (0.12345, "0.123"),
        (12.0, "12"),
        (1234.6, "1235"),
        (0.0, "0"),
        (None, "–"),
        (1.5e-9, "1.5e-09"),
    ],
)
def test_fmt(x, text):
    assert fmt(x) == text


def test_number_reads_well():
    assert (
        str(Number(0.5, 0.25, 0.75, 3, [0.25, 0.5, 0.75], "nats"))
        == "0.5 [0.25, 0.75] nats"
    )
    assert repr(Number(0.5, 0.5, 0.5, 1, [0.5], "nats")) == "0.5 nats"
    assert float(Number(0.5, None, None, 1, [0.5])) == 0.5


# ---- Notebook ----


def notebook(where, scale="laptop", **more):
    return record.Notebook("06-mipo-training", run_dir=where, scale=scale, **more)


def test_claims_get_a_status_only_from_judged_runs(tmp_path, capsys):
    words = {}
    for scale, own in [
        ("laptop", False),
        ("full", False),
        ("smoke", False),
        ("hand", False),
        ("full", True),
    ]:
        nb = notebook(tmp_path, scale, own=own)
        words[scale, own] = nb.claim(
            "c06-personalises",
            values=[0.1, 0.11, 0.12],
            region=(0.03, None),
            unit="share",
        )
    assert words == {
        ("laptop", False): "holds",
        ("full", False): "holds",
        ("smoke", False): None,
        ("hand", False): None,
        ("full", True): None,
    }
    assert "No status: smoke run" in capsys.readouterr().out


def test_a_finding_that_fails_does_not_raise_and_an_identity_does(tmp_path):
    nb = notebook(tmp_path)
    assert nb.claim("c06-personalises", value=-1.0, region=(0, None)) == "fails"
    with pytest.raises(AssertionError, match="c03"):
        nb.claim("c03-dpo-is-infonce", value=1e-3, region=(0, 1e-6), kind="identity")
    with pytest.raises(AssertionError):  # also in a smoke run
        notebook(tmp_path, "smoke").claim(
            "c03-dpo-is-infonce", value=1e-3, region=(0, 1e-6), kind="identity"
        )


def test_parts(tmp_path):
    nb = notebook(tmp_path)
    parts = {
        "noisy": {"values": [0.1, 0.11], "region": (0, None)},
        "conflicting": {"value": -0.1, "region": (0, None)},
    }
    assert nb.claim("c14-imperfect-contexts", parts=parts) == "in part"
    assert nb.claims["c14-imperfect-contexts"]["parts"]["noisy"]["status"] == "holds"


@pytest.mark.parametrize(
    "given, message",
    [
        ({}, "either value or values"),
        ({"value": math.nan}, "c06"),
        ({"value": 1.0, "kind": "guess"}, "guess"),
    ],
)
def test_claim_errors_name_the_claim(tmp_path, given, message):
    with pytest.raises(ValueError, match=message):
        notebook(tmp_path).claim("c06-personalises", **given)


def test_close_writes_everything_and_published_reads_it(tmp_path, monkeypatch):
    monkeypatch.setenv("MIPO_ROOT", str(tmp_path))
    nb = notebook("runs/full", "full")
    nb.number("gain", [0.1, 0.2, 0.3], "share")
    nb.claim(
        "c06-personalises",
        values=[0.1, 0.2, 0.3],
        region=(0, None),
        unit="share",
        figure="gain",
    )
    kept = json.loads(nb.close().read_text())
    assert kept["numbers"]["gain"]["mean"] == pytest.approx(0.2)
    assert kept["claims"]["c06-personalises"]["region"] == [0.0, None]
    assert {
        "commit",
        "date",
        "machine",
        "gpu",
        "versions",
        "seconds_cold",
        "code",
        "memory_gb",
    } <= set(kept)
    assert str(tmp_path) not in json.dumps(kept)  # no path of this machine
    published = tmp_path / "results" / "full" / "06-mipo-training.json"
    assert notebook("runs/laptop").published("gain") is None
    published.parent.mkdir(parents=True)
    published.write_text(json.dumps(kept))
    assert notebook("runs/laptop").published("gain").mean == pytest.approx(0.2)
    assert notebook("runs/laptop").published("loss") is None


def test_skip_shows_the_published_run_and_claims_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MIPO_ROOT", str(tmp_path))
    import matplotlib.pyplot as plt

    nb = notebook("runs/laptop")
    kept = json.loads(nb.skip("The votes are not here.").read_text())
    assert (
        kept["skipped"] == "The votes are not here."
        and "no published run yet" in capsys.readouterr().out
    )
    full = notebook("runs/full", "full")
    full.claim(
        "c06-personalises",
        values=[0.19, 0.2, 0.21],
        region=(0, None),
        unit="share",
        figure="gain",
    )
    fig, ax = plt.subplots()
    full.figure(fig, "gain", alt="A line.")
    full.close()
    shutil.copytree(
        tmp_path / "runs" / "full" / "results", tmp_path / "results" / "full"
    )
    capsys.readouterr()
    nb = notebook("runs/laptop")
    kept = json.loads(nb.skip("The votes are not here.").read_text())
    shown = capsys.readouterr().out
    assert (
        "Status: **holds**" in shown
        and "measured **0.2 [" in shown
        and "A line." in shown
    )
    assert (
        kept["claims"] == {}
        and (
            tmp_path / "runs" / "laptop" / "results" / kept["figures"]["gain"]["file"]
        ).exists()
    )


def test_provenance_names_the_gpu(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H200")
    assert provenance.provenance()["gpu"] == "NVIDIA H200"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert provenance.provenance()["gpu"] is None
    monkeypatch.delitem(
        sys.modules, "torch"
    )  # a process that computes nothing need not import it
    assert provenance.provenance()["gpu"] is None and "torch" not in sys.modules


def test_cold_seconds_count_what_was_loaded(tmp_path):
    folder = run(tmp_path).path
    kept = json.loads((folder / "record.json").read_text()) | {"seconds": 100.0}
    (folder / "record.json").write_text(json.dumps(kept))
    cache.USED.clear()  # as in a new process
    nb = notebook(tmp_path)
    run(tmp_path)
    run(tmp_path)  # a record that is read twice took its time once
    result = json.loads(nb.close().read_text())
    assert result["seconds"] < 50 and result["seconds_cold"] == pytest.approx(
        100 + result["seconds"], abs=0.2
    )
    assert result["seconds_outside"] == pytest.approx(
        result["seconds"], abs=0.2
    )  # made before the notebook began
    assert list(result["work"].values()) == [100.0] and list(result["work"]) == [
        folder.name.split("-")[0]
    ]
    assert (
        json.loads(notebook(tmp_path).close().read_text())["work"] == {}
    )  # the next notebook's own


def test_what_is_made_while_the_notebook_runs_is_not_the_notebooks_own_time(
    tmp_path, monkeypatch
):
    """The chain started the kernel 30 s ago; a record of 0.3 s is made."""
    monkeypatch.setenv(cache.STARTED, str(time.time() - 30))
    nb = notebook(tmp_path)
    cache.run_or_load(
        tmp_path, "slow", {}, lambda folder: time.sleep(0.3) or {}, code=[]
    )
    result = json.loads(nb.close().read_text())
    assert result["seconds"] == pytest.approx(30.3, abs=0.2) == result["seconds_cold"]
    assert result["seconds_cold"] - result["seconds_outside"] == pytest.approx(
        0.3, abs=0.11
    )


@pytest.mark.parametrize(
    "spans, seconds",
    [
        ([], 0),
        ([(5, 8)], 3),
        ([(5, 8), (0, 2)], 5),
        ([(0, 4), (3, 6)], 6),
        ([(0, 9), (2, 3), (4, 5)], 9),
        ([(0, 4), (0, 4)], 4),
    ],
)
def test_time_that_runs_share_counts_once(spans, seconds):
    assert cache.covered(spans) == seconds


def test_the_same_figure_gives_the_same_bytes(tmp_path):
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    texts = []
    for where in (tmp_path / "a", tmp_path / "b"):
        fig, ax = plt.subplots()
        ax.plot([1, 2], label="x")
        ax.legend()
        nb = notebook(where)
        nb.figure(fig, "gain", alt="A line that rises from one to two")
        texts.append((where / "results" / "figures" / "06-gain.svg").read_bytes())
        assert nb.figures["gain"] == {
            "file": "figures/06-gain.svg",
            "alt": "A line that rises from one to two",
        }
    assert texts[0] == texts[1] and b"<svg" in texts[0]
    assert not plt.get_fignums()  # closed
    with pytest.raises(ValueError, match="alt"):
        nb.figure(fig, "gain", alt=" ")


def test_need_finds_an_artifact_or_says_how_to_make_it(tmp_path, monkeypatch):
    monkeypatch.setenv("MIPO_ROOT", str(tmp_path))
    made = tmp_path / "runs" / "hand" / "records" / "base"
    made.mkdir(parents=True)
    record.Notebook("04-small-world").artifact("base-0", made)
    nb = record.Notebook("06-mipo-training")
    assert nb.need("04-small-world", "base-0") == made
    with pytest.raises(
        FileNotFoundError,
        match=r"papermill notebooks/04-small-world\.ipynb runs/hand/notebooks",
    ):
        nb.need("04-small-world", "base-1")
    with pytest.raises(ValueError, match="does not exist"):
        nb.artifact("gone", tmp_path / "gone")
    made.rmdir()
    with pytest.raises(FileNotFoundError, match="base-0"):
        nb.need("04-small-world", "base-0")


def test_import_is_fast_and_takes_no_torch():
    code = (
        "import time; t = time.perf_counter(); import mipo; s = time.perf_counter() - t; import sys; "
        "from mipo import record, plan; print(s < 0.5, 'torch' in sys.modules, 'matplotlib' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout == "True False False\n"


def test_claims_and_versions_are_plain_json():
    assert set(provenance.versions()) >= {"python", "torch", "transformers", "trl"}
    assert (
        importlib.util.find_spec("mipo")
        and Path(files.project_root() / "pyproject.toml").exists()
    )
    assert "cores" in provenance.machine()
