"""What a notebook leaves: numbers, claims, figures, artifacts."""

import json
import math
import shlex
import shutil
import time

import pytest

from mipo import cache, files, record


def run(where):
    def make(folder):
        return {"loss": 0.25}

    return cache.run_or_load(where, "arm", {"beta": 1.0}, make, code=["mipo.losses"])


@pytest.fixture(autouse=True)
def chain(monkeypatch):
    """As the chain starts a notebook: it may write to runs/laptop."""
    monkeypatch.setenv(cache.STARTED, str(time.time()))


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


def test_cold_seconds_count_what_was_loaded(tmp_path):
    folder = run(tmp_path).path
    about = files.unseal(folder / "run.json") | {"seconds": 100.0}
    about["begun"] -= 200  # made before the notebook began
    (folder / "run.json").write_text(files.seal(about))
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
    began = time.time() - 30
    monkeypatch.setenv(cache.STARTED, str(began))
    nb = notebook(tmp_path)
    slow = cache.run_or_load(
        tmp_path, "slow", {}, lambda folder: time.sleep(0.3) or {}, code=[]
    )
    result = json.loads(nb.close().read_text())
    passed = time.time() - began  # more on a busy machine
    assert 30.25 <= result["seconds"] == result["seconds_cold"] <= passed + 0.1
    assert result["seconds_cold"] - result["seconds_outside"] == pytest.approx(
        slow.seconds, abs=0.11
    )


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


def test_nothing_to_say_shows_nothing(tmp_path, capsys):
    nb = record.Notebook("demo", run_dir=tmp_path)
    nb.say("")
    assert capsys.readouterr().out == ""
    nb.say("A line.")
    assert "A line." in capsys.readouterr().out


def test_need_finds_an_artifact_or_says_how_to_make_it(tmp_path, monkeypatch):
    monkeypatch.setenv("MIPO_ROOT", str(tmp_path))
    made = tmp_path / "runs" / "hand" / "models" / "base"
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


def test_an_earlier_notebooks_run_serves_by_its_measurement(tmp_path, monkeypatch):
    """Its files are gone: it is an input all the same, and an error when it is opened."""
    monkeypatch.setenv("MIPO_ROOT", str(tmp_path))
    calls = []

    def make(folder):
        calls.append(1)
        (folder / "model.txt").write_text("weights")
        return {"loss": 0.25}

    def base():
        return cache.run_or_load("runs/hand", "base", {}, make, code=["mipo.losses"])

    def score(policy):
        inputs = {"policy": policy}
        return cache.run_or_load(
            "runs/hand", "score", {}, make, code=["mipo.losses"], inputs=inputs
        )

    one = base()
    record.Notebook("04-small-world").artifact("base-0", one / "model.txt")
    nb = record.Notebook("06-mipo-training")
    there = nb.need("04-small-world", "base-0")
    assert there == one.path / "model.txt"
    first = score(there)
    shutil.rmtree(tmp_path / "runs" / "hand" / "runs")
    lazy = nb.need("04-small-world", "base-0")
    assert score(lazy).key == first.key and len(calls) == 2
    with pytest.raises(FileNotFoundError, match="papermill notebooks/04-small-world"):
        open(lazy)
    assert base().fresh and len(calls) == 3  # wanted: its chapter makes it again
    assert nb.need("04-small-world", "base-0").read_text() == "weights"
    (one.path / "model.txt").write_text("WEIGHTS")
    with pytest.raises(ValueError, match="model.txt was changed.*04-small-world"):
        nb.need("04-small-world", "base-0")


@pytest.mark.parametrize("where", ["runs/mine", "runs/it's mine", "2024", "1e5"])
def test_the_line_that_makes_what_is_needed_can_be_pasted(where, tmp_path, monkeypatch):
    """Quoted for a shell; -r, since -p would pass 2024 as a number."""
    monkeypatch.setenv("MIPO_ROOT", str(tmp_path))
    with pytest.raises(FileNotFoundError) as error:
        record.Notebook("06-mipo-training", run_dir=where).need("04-small-world", "x")
    words = shlex.split(str(error.value).split("Make it with:\n")[1])
    assert words[words.index("-r") :] == ["-r", "run_dir", where]
    assert words[words.index("papermill") + 2].startswith(f"{where}/notebooks/")


def test_what_the_chain_lacks_the_chain_makes(tmp_path, monkeypatch):
    """Papermill would be refused there: the folder is the chain's."""
    monkeypatch.setenv("MIPO_ROOT", str(tmp_path))
    nb = record.Notebook("06-mipo-training", run_dir="runs/laptop", scale="laptop")
    with pytest.raises(FileNotFoundError, match="  make book SCALE=laptop$"):
        nb.need("04-small-world", "base-0")
