"""The hub, without it: pins, a cache on disk, one message for each trouble."""

import errno
import json
import shutil
from types import SimpleNamespace

import httpx
import huggingface_hub
import pytest
import torch
from datasets.exceptions import DatasetNotFoundError, NonMatchingChecksumError
from huggingface_hub import constants
from huggingface_hub import errors as hub_errors

from mipo import files, models
from mipo_study.hub import download

SHA = "0123456789abcdef0123456789abcdef01234567"


def raised(name, *bases, text="details", **attributes):
    """An instance of an exception class of that name, as another library would raise it."""
    error = type(name, bases or (Exception,), {})(text)
    for key, value in attributes.items():
        setattr(error, key, value)
    return error


def refused(kind):
    """What the hub's client makes of an answer that refuses."""
    request = httpx.Request("GET", "https://huggingface.co/api/models/org/name")
    return kind("details", response=httpx.Response(403, request=request))


def test_every_pin_is_a_full_commit():
    assert all(len(sha) == 40 and int(sha, 16) for sha in download.PINNED.values())
    assert download.commit("openai/gsm8k") == download.PINNED["openai/gsm8k"]
    assert download.commit("openai/gsm8k", SHA) == SHA


@pytest.mark.parametrize("moving", ["main", "v1.0", SHA[:12]])
def test_a_revision_that_moves_is_refused(moving):
    with pytest.raises(ValueError, match="full commit hash"):
        download.commit("org/name", moving)


def test_an_unpinned_name_is_asked_for_once_and_kept(tmp_path, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(download, "_newest", lambda repo: asked.append(repo) or SHA)
    assert (
        download.commit("org/new", run_dir=tmp_path)
        == download.commit("org/new", run_dir=tmp_path)
        == SHA
    )
    assert asked == ["org/new"] and SHA in capsys.readouterr().out
    assert json.loads((tmp_path / "revisions.json").read_text()) == {"org/new": SHA}


@pytest.fixture
def cache(tmp_path, monkeypatch, tiny_qwen2):
    """The hub's cache with the tiny model as org/tiny at SHA."""
    place = tmp_path / "cache" / "models--org--tiny"
    shutil.copytree(tiny_qwen2, place / "snapshots" / SHA)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(SHA)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return place


def test_what_was_downloaded_before_is_found_without_network(cache, tmp_path):
    found = download.model("org/tiny", run_dir=tmp_path)
    assert (
        found.revision == SHA
        and found.key == f"org/tiny@{SHA}"
        and found.path.name == SHA
    )
    assert models.load_model(found.path, device="cpu")[1].chat_template


def test_a_model_that_is_not_here_says_how_to_get_it(cache, tmp_path):
    (
        cache / "snapshots" / SHA / "model.safetensors"
    ).unlink()  # a download that broke off
    with pytest.raises(
        download.Unavailable,
        match="org/tiny is not whole.*HF_HUB_OFFLINE.*hf download org/tiny",
    ):
        download.model("org/tiny", SHA, run_dir=tmp_path)
    shutil.rmtree(cache)
    with pytest.raises(
        download.Unavailable,
        match="org/tiny is not on this machine and HF_HUB_OFFLINE.*hf download org/tiny",
    ):
        download.model("org/tiny", SHA, run_dir=tmp_path)
    with pytest.raises(download.Unavailable, match="neither a folder here nor a name"):
        download.model("no such model", run_dir=tmp_path)


def test_a_folder_is_taken_as_it_is(tiny_llama):
    place = download.model(str(tiny_llama))
    assert (
        place.path == tiny_llama
        and place.revision == ""
        and place.key == files.content_hash(tiny_llama)
    )


def test_a_packaged_model_is_known_by_its_edition(tmp_path, monkeypatch):
    keys = []
    for place in ("a", "b"):
        monkeypatch.setenv("MIPO_CACHE", str(tmp_path / place))
        found = download.model("smollm2-stand-in")
        assert found.path.is_relative_to(tmp_path / place)
        assert download.config("smollm2-stand-in") == found.path
        assert download.tokenizer("smollm2-stand-in").eos_token == "<|im_end|>"
        keys.append(found.key)
    assert keys == ["smollm2-stand-in@bytes-1"] * 2


def test_complete_reads_the_index(tmp_path, tiny_llama):
    folder = tmp_path / "m"
    shutil.copytree(tiny_llama, folder)
    assert download.complete(folder)
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "model.safetensors", "b": "two"}})
    )
    assert not download.complete(folder)
    (folder / "two").touch()
    assert download.complete(folder) and not download.complete(tmp_path)


@pytest.mark.parametrize(
    "error, advice",
    [
        (refused(hub_errors.GatedRepoError), "gated.*accept its terms.*HF_TOKEN"),
        (refused(hub_errors.RepositoryNotFoundError), "not on the hub, or is private"),
        (refused(hub_errors.RevisionNotFoundError), "no such commit"),
        (DatasetNotFoundError("x"), "not on the hub, or is private"),
        (raised("ConnectError"), "cannot be reached|HF_HUB_OFFLINE"),
        (hub_errors.OfflineModeIsEnabled("x"), "HF_HUB_OFFLINE"),
        (OSError(errno.ENOSPC, "No space left on device"), "disk is full.*HF_HOME"),
        (
            raised("RemoteProtocolError", type("TransportError", (Exception,), {})),
            "download broke off",
        ),
        (NonMatchingChecksumError("x"), "download broke off"),
        (
            RuntimeError(
                "[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"
            ),
            "disk is full",
        ),  # torch.save
        (
            raised(
                "SafetensorError",
                text="Error while serializing: I/O error: No space left on device (os error 28)",
            ),
            "disk is full.*run_dir",
        ),
        (
            RuntimeError(
                "CUDA error: out of memory\nCUDA kernel errors might be reported later"
            ),
            "out of memory",
        ),
        (
            RuntimeError(
                "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"
            ),
            "out of memory",
        ),
        (
            RuntimeError(
                "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"
            ),
            "out of memory",
        ),
        (MemoryError(), "out of memory, on the card or of the machine"),
        (
            RuntimeError("MemoryError: "),
            "out of memory",
        ),  # as mipo_study.hub.launch passes it on
        (
            OSError(
                "Not enough disk space. Needed: 650.00 MiB (download: Unknown size)"
            ),
            "disk is full.*HF_HOME",
        ),  # datasets
    ],
)
def test_each_trouble_has_one_message_with_the_way_out(error, advice):
    with (
        pytest.raises(
            download.Unavailable,
            match=f"(?s)org/name.*({advice}).*Finished work is kept",
        ),
        download.explained("org/name"),
    ):
        raise error
    with (
        pytest.raises(download.Unavailable, match=advice),
        download.explained("org/name"),
    ):
        try:
            raise error
        except Exception as cause:  # libraries wrap what went wrong
            raise RuntimeError("outer") from cause


@pytest.mark.parametrize(
    "kind, advice",
    [
        ("training", "micro_batch.*lora_rank"),
        ("sampling", "sample_batch"),
        ("scoring", "score_batch"),
        ("judging", "score_batch.*smaller judge"),
    ],
)
def test_out_of_memory_names_what_makes_that_step_smaller(kind, advice):
    with (
        pytest.raises(download.Unavailable, match=f"out of memory.*{advice}") as error,
        download.explained("org/name", kind=kind),
    ):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")
    assert (kind == "training") == ("micro_batch" in str(error.value))


def test_work_that_lacks_a_file_says_which_and_never_to_download_the_work():
    with (
        pytest.raises(
            download.Unavailable, match="needs something from the hub.*org/other"
        ) as error,
        download.explained("the harness", kind="scoring"),
    ):
        raise hub_errors.OfflineModeIsEnabled(
            "cannot reach https://huggingface.co/org/other"
        )
    assert "hf download" not in str(error.value)


def test_an_unknown_error_stays_what_it_is():
    with pytest.raises(KeyError), download.explained("org/name"):
        raise KeyError("x")


def test_the_configuration_comes_without_the_weights(cache, tmp_path):
    (cache / "snapshots" / SHA / "model.safetensors").unlink()
    assert (
        download.config("org/tiny", SHA, run_dir=tmp_path) / "config.json"
    ).is_file()
    assert download.config(str(tmp_path)) == tmp_path
    with pytest.raises(download.Unavailable, match="neither a folder here nor a name"):
        download.config("gpt2", run_dir=tmp_path)


def test_a_model_without_a_chat_template_is_refused_before_its_weights(cache, tmp_path):
    folder = cache / "snapshots" / SHA
    (folder / "model.safetensors").unlink()
    assert download.tokenizer("org/tiny", SHA, run_dir=tmp_path)("Hi")["input_ids"]
    (folder / "chat_template.jinja").unlink()
    for name in ("org/tiny", str(folder)):
        with pytest.raises(
            ValueError,
            match=f"tokenizer of {name} has no chat template: use an instruction-tuned model",
        ):
            download.tokenizer(name, SHA, run_dir=tmp_path)


def test_what_is_left_to_download_is_what_the_dry_run_says(monkeypatch):
    """Two files of 8 MB of which one is here; no size is known of the third."""
    asked = []

    def dry(repo, **how):
        asked.append((repo, how))
        sizes = [(8_000_000, True), (8_000_000, False), (None, True)]
        return [SimpleNamespace(file_size=s, will_download=w) for s, w in sizes]

    monkeypatch.setattr(huggingface_hub, "snapshot_download", dry)
    assert download.megabytes("org/tiny", SHA) == 8
    ((repo, how),) = asked
    assert repo == "org/tiny" and how["revision"] == SHA and how["dry_run"]
    assert "*.safetensors" in how["allow_patterns"]
    assert not any("bin" in p or "py" in p for p in how["allow_patterns"])


def test_without_network_nothing_is_said_of_sizes():
    assert download.megabytes("org/tiny", SHA) == 0


def test_held_counts_files_wherever_they_are(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c").write_bytes(b"0" * 3_000_000)
    (tmp_path / "d").write_bytes(b"0" * 1_000_000)
    assert (
        download.held(tmp_path / "a", tmp_path / "d", tmp_path / "none")
        == pytest.approx(4)
        and download.held() == 0
    )


def test_a_full_disk_is_explained_where_a_commit_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(download, "_newest", lambda *_: SHA)
    monkeypatch.setattr(
        files,
        "write_whole",
        lambda *_: exec("raise OSError(28, 'No space left on device')"),
    )
    with pytest.raises(download.Unavailable, match="disk is full"):
        download.commit("org/new", run_dir=tmp_path)


def test_room_on_the_disk(tmp_path):
    download.check_room(1, "org/name", folder=tmp_path)
    with pytest.raises(
        download.Unavailable, match="needs 1000000.0 GB, but the disk .* GB left"
    ):
        download.check_room(1e9, "org/name", folder=tmp_path / "not" / "yet")
