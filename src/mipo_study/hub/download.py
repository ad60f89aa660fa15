"""Models and data sets of the Hugging Face hub: pinned to a commit, and one clear error for each thing that can go wrong."""

import contextlib
import errno
import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from mipo import files
from mipo.network import offline

# Commits read in public code and on the hub's own pages; a name that is not here is asked for once and then kept.
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
WEIGHTS = (
    "*.json",
    "*.safetensors",
    "*.txt",
    "*.jinja",
    "tokenizer*",
    "*.model",
)  # no pickles, no code
WORDS = tuple(p for p in WEIGHTS if p != "*.safetensors")
KEPT = "Finished work is kept: run the same command again."


class Unavailable(ValueError):
    """Something that was to be downloaded is not there, with the way out."""


@dataclass(frozen=True)
class Place:
    """A model on this machine. `key` names it in records: name@commit, or a folder, known by its content."""

    name: str
    path: Path
    revision: str = ""

    @property
    def key(self):
        return (
            f"{self.name}@{self.revision}"
            if self.revision
            else files.content_hash(self.path)
        )


def commit(repo, wanted="", *, run_dir=None):
    """The full commit hash that a model is read at: `wanted`, else PINNED, else what the hub says now, asked once.

    An answer of the hub is printed and kept in run_dir/revisions.json, so that the next run reads the same files.
    errors  ValueError where `wanted` is not a full hash (a branch or a tag moves); Unavailable as in `explained`
    """
    if wanted and not re.fullmatch(r"[0-9a-f]{40}", wanted):
        raise ValueError(
            f"revision {wanted!r} of {repo}: give the full commit hash (40 hexadecimal digits), which never "
            "moves; the hub shows it under Files and versions, History"
        )
    if wanted or repo in PINNED:
        return wanted or PINNED[repo]
    file = files.resolve(run_dir) / "revisions.json" if run_dir else None
    kept = files.read_json(file) if file and file.exists() else {}
    if repo not in kept:
        kept[repo] = _ask(repo)
        print(f"{repo}: no commit is pinned; reading {kept[repo]} from now on")
        if file:
            with explained(repo):
                files.write_whole(file, files.dumps(kept))
    return kept[repo]


def _ask(repo):
    import huggingface_hub

    with explained(repo):
        if offline():  # the newest one that was downloaded before
            return Path(
                huggingface_hub.snapshot_download(repo, local_files_only=True)
            ).name
        return huggingface_hub.HfApi().repo_info(repo).sha


def model(name, revision="", *, run_dir=None):
    """The Place of a model: a local folder as it is, or a hub name, downloaded unless it was before (safetensors only).

    errors  Unavailable as in `explained`, or where the disk has less room than the download needs
    """
    import huggingface_hub

    if Path(name).is_dir():
        return Place(str(name), Path(name))
    sha = _commit_of_model(name, revision, run_dir)
    with explained(name):
        try:
            path = huggingface_hub.snapshot_download(
                name, revision=sha, allow_patterns=WEIGHTS, local_files_only=True
            )
            whole = complete(path)
        except huggingface_hub.errors.LocalEntryNotFoundError:
            whole = False
        if not whole:
            check_room(megabytes(name, sha) or 0, name)
            path = huggingface_hub.snapshot_download(
                name, revision=sha, allow_patterns=WEIGHTS
            )
    if not complete(path):  # without network the hub's client returns what it has
        why = (
            "HF_HUB_OFFLINE is set, so that the rest cannot be fetched"
            if offline()
            else "the repository has no model.safetensors"
        )
        raise Unavailable(
            f"{name} is not whole on this machine, and {why}; run `hf download {name}` where there is a "
            f"network. {KEPT}"
        )
    return Place(name, Path(path), sha)


def _commit_of_model(name, revision, run_dir):
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", str(name)):
        raise Unavailable(
            f"model {str(name)!r} is neither a folder here nor a name on the hub, which looks like "
            "Qwen/Qwen2.5-0.5B-Instruct"
        )
    return commit(name, revision, run_dir=run_dir)


def config(name, revision="", *, run_dir=None):
    """The folder of a model's config.json: a local model's own, or a few kB from the hub, before its weights are asked for.

    errors  Unavailable as in `explained`
    """
    import huggingface_hub

    if Path(name).is_dir():
        return Path(name)
    sha = _commit_of_model(name, revision, run_dir)
    with explained(name):
        return Path(
            huggingface_hub.hf_hub_download(name, "config.json", revision=sha)
        ).parent


def tokenizer(name, revision="", *, run_dir=None):
    """The tokenizer of a model, a few MB, before its weights are asked for.

    errors  ValueError where it has no chat template; Unavailable as in `explained`
    """
    import huggingface_hub
    from transformers import AutoTokenizer

    folder = name
    if not Path(name).is_dir():
        sha = _commit_of_model(name, revision, run_dir)
        with explained(name):
            folder = huggingface_hub.snapshot_download(
                name, revision=sha, allow_patterns=WORDS
            )
    found = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    if found.chat_template is None:
        raise ValueError(
            f"the tokenizer of {name} has no chat template: use an instruction-tuned model, "
            "or set tokenizer.chat_template and save it again"
        )
    return found


def complete(folder):
    """Whether a model folder has its configuration and every weight file that its index names."""
    folder = Path(folder)
    index = folder / "model.safetensors.index.json"
    if not (folder / "config.json").is_file():
        return False
    if not index.is_file():
        return (folder / "model.safetensors").is_file()
    return all(
        (folder / file).is_file()
        for file in set(json.loads(index.read_text())["weight_map"].values())
    )


def megabytes(repo, revision):
    """What is left to download, MB, by the hub's own list of files; None where the hub cannot be asked.

    What the cache holds does not count, nor what has arrived of a file whose download broke off: its place is used again.
    """
    import fnmatch

    import huggingface_hub
    from huggingface_hub import constants, file_download

    try:
        files = (
            huggingface_hub.HfApi()
            .repo_info(repo, revision=revision, files_metadata=True)
            .siblings
        )
    except Exception:  # only a forecast: the download itself says what is wrong
        return None
    wanted = [f for f in files if any(fnmatch.fnmatch(f.rfilename, p) for p in WEIGHTS)]
    cache = Path(constants.HF_HUB_CACHE) / file_download.repo_folder_name(
        repo_id=repo, repo_type="model"
    )
    missing = [
        f for f in wanted if not (cache / "snapshots" / revision / f.rfilename).exists()
    ]
    return max(
        0.0,
        sum(f.size or 0 for f in missing) / 1e6
        - held(*cache.glob("blobs/*.incomplete")),
    )


def held(*places):
    """MB of the files in these places, which may be files themselves."""
    files = [
        f
        for place in map(Path, places)
        for f in (place.rglob("*") if place.is_dir() else [place])
        if f.is_file()
    ]
    return sum(f.stat().st_size for f in files) / 1e6


def check_room(needed_mb, what, *, folder=None):
    """Unavailable if the disk that the hub's cache lies on has less than `needed_mb` left, and a tenth more."""
    from huggingface_hub import constants

    place = Path(folder or constants.HF_HUB_CACHE)
    there = next(p for p in (place, *place.parents) if p.exists())
    free = shutil.disk_usage(there).free / 1e6
    if free < 1.1 * needed_mb:
        raise Unavailable(
            f"{what} needs {needed_mb / 1000:.1f} GB, but the disk of {place} has {free / 1000:.1f} GB left; "
            "make room, or take a larger disk (HF_HOME for downloads, run_dir for results). "
            + KEPT
        )


@contextlib.contextmanager
def explained(what, *, kind="model"):
    """Turns what can go wrong with the hub, the disk or the card into one Unavailable that says what to do.

    kind   "model" or "dataset": `what` is fetched from the hub; else the work at hand, a key of `SMALLER`
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


# Which parameters make a step of the work smaller.
SMALLER = {
    "training": "lower micro_batch or max_length, keep checkpointing on, set lora_rank 16, or take a smaller model",
    "sampling": "lower sample_batch or max_new_tokens, or take a smaller model",
    "scoring": "lower score_batch, or take a smaller model",
    "judging": "lower score_batch, or take a smaller judge",
}
# What torch, safetensors and datasets write where they do not pass the system's error on.
FULL = re.compile(
    r"No space left on device|Disk quota exceeded|Not enough disk space|PytorchStreamWriter failed|"
    r"inline_container\.cc.*unexpected pos"
)
# The same for memory, of the card and of the machine: not all of it comes as torch.OutOfMemoryError.
TIGHT = re.compile(
    r"CUDA out of memory|CUDA error: out of memory|CUBLAS_STATUS_ALLOC_FAILED|"
    r"DefaultCPUAllocator: .*allocate memory|Cannot allocate memory|MemoryError"
)


def advice(error, what, kind="model"):
    """The way out of an error that is known, None for any other. Causes are searched as well as the error itself."""
    chain, names = [error], set()
    while (
        deeper := chain[-1].__cause__ or chain[-1].__context__
    ) is not None and deeper not in chain:
        chain.append(deeper)
    for e in chain:
        names |= {c.__name__ for c in type(e).__mro__}
    page = f"https://huggingface.co/{'datasets/' if kind == 'dataset' else ''}{what}"
    if any(
        isinstance(e, OSError)
        and e.errno in (errno.ENOSPC, errno.EDQUOT)
        or FULL.search(str(e))
        for e in chain
    ):
        return f"{what}: the disk is full; make room, or set HF_HOME (downloads) or run_dir (results) to a larger disk."
    if names & {"GatedRepoError"}:
        return (
            f"{what} is gated: accept its terms at {page}, then give a token (`hf auth login`, or the environment "
            "variable HF_TOKEN); or take an open model, such as Qwen/Qwen2.5-1.5B-Instruct."
        )
    if names & {"OutOfMemoryError", "MemoryError"} or any(
        TIGHT.search(str(e)) for e in chain
    ):
        return f"{what}: out of memory, on the card or of the machine; {SMALLER.get(kind, 'take a smaller model')}."
    if names & {"RevisionNotFoundError"}:
        return f"{what} has no such commit; leave the revision out, or copy the full hash from {page}/commits/main."
    if names & {
        "OfflineModeIsEnabled",
        "LocalEntryNotFoundError",
        "ConnectError",
        "ConnectionError",
        "ConnectTimeout",
    }:
        return _offline(what, kind, error)
    if names & {"RepositoryNotFoundError", "DatasetNotFoundError"}:
        return f"{what} is not on the hub, or is private: check the spelling at {page}, or give a token (`hf auth login`)."
    if names & {
        "TransportError",
        "ChunkedEncodingError",
        "IncompleteRead",
        "IncompleteSnapshotError",
        "XetDownloadError",
        "NonMatchingChecksumError",
        "NonMatchingSplitsSizesError",
        "ExpectedMoreDownloadedFilesError",
    }:
        return f"{what}: the download broke off; what has arrived is kept and the rest is fetched the next time."
    return None


def _offline(what, kind, error):
    why = "HF_HUB_OFFLINE is set" if offline() else "the hub cannot be reached"
    if kind in SMALLER:  # the work needs a file whose name only the error knows
        return f"{what} needs something from the hub that is not on this machine, and {why}: {error}"
    return (
        f"{what} is not on this machine and {why}; download it where there is a network "
        f"(`hf download {what}{' --repo-type dataset' if kind == 'dataset' else ''}`), or give a local folder."
    )
