"""Models and tokenizers: text to tokens and back, what is saved is loaded, and errors that name the missing part."""

import json
import math
import shutil

import numpy as np
import pytest
import torch

from mipo import logprobs, models
from mipo.data import render
from mipo.lm import tokens

TEXTS = ["Ask Sam, please: is it 300 metres?", "A well-run shop.\n\nIt isn't."]


@pytest.fixture(scope="module")
def tokenizer():
    return models.build_tokenizer(TEXTS)


def small(tokenizer, **settings):
    return models.small_model(
        tokenizer,
        **{"hidden": 16, "layers": 1, "heads": 2, "max_length": 64, **settings},
    )


def test_tokenizer_is_exactly_invertible(tokenizer):
    for text in TEXTS:
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer.unk_token_id in tokenizer("Unheard of")["input_ids"]


def test_tokenizer_has_special_tokens_and_a_chat_template(tokenizer):
    assert (tokenizer.eos_token, tokenizer.pad_token, tokenizer.bos_token) == (
        "<|end|>",
        "<|pad|>",
        None,
    )
    assert (
        render(tokenizer, "Is it?", "Sam.")
        == "<|user|>Sam.\n\nIs it?<|end|><|assistant|>"
    )
    assert tokenizer("<|user|>Ask<|end|>")["input_ids"][::2] == [
        tokenizer.convert_tokens_to_ids("<|user|>"),
        tokenizer.eos_token_id,
    ]


def test_a_phrase_is_one_token_and_the_longest_wins():
    tokenizer = models.build_tokenizer(
        ["a chess clock", "a chess set", "clocks"], phrases=["a chess", "a chess clock"]
    )
    assert [
        len(tokenizer(t)["input_ids"]) for t in ("a chess clock", "a chess set")
    ] == [1, 2]


def test_small_model_follows_its_seed(tokenizer):
    one, two, other = (small(tokenizer, seed=s).state_dict() for s in (3, 3, 4))
    assert all(torch.equal(one[k], two[k]) for k in one)
    assert not torch.equal(
        one["model.embed_tokens.weight"], other["model.embed_tokens.weight"]
    )


@pytest.mark.parametrize("hidden, heads", [(63, 3), (64, 3), (6, 6)])
def test_a_width_that_does_not_part_into_even_heads_is_refused(
    tokenizer, hidden, heads
):
    """Rotary positions turn pairs of numbers: 63 in 3 heads leaves one over in each."""
    with pytest.raises(ValueError, match=f"hidden={hidden} with heads={heads}"):
        small(tokenizer, hidden=hidden, heads=heads)


def test_pretrain_starts_near_the_entropy_of_guessing_and_learns_one_sentence(
    tokenizer,
):
    def examples(rng, n):
        return [("<|user|>Ask<|end|><|assistant|>", "Ask Sam, please:")] * n

    model = small(tokenizer)
    losses = models.pretrain(
        model, tokenizer, examples, steps=60, batch_size=4, lr=1e-2, progress=False
    )
    assert (
        len(losses) == 60
        and losses[-1] < 0.2 < losses[0] < math.log(len(tokenizer)) + 1
    )
    assert not model.training


def test_pretrain_is_maximum_likelihood_on_reply_tokens_only(tokenizer):
    """The first loss is the mean over reply tokens and <|end|> of -log softmax, by hand; the prompt does not count."""
    prompt, reply, model = (
        "<|user|>Ask<|end|><|assistant|>",
        "Ask Sam, please:",
        small(tokenizer),
    )
    ids = tokenizer(prompt + reply + "<|end|>", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        logs = torch.log_softmax(model(ids).logits[0, :-1], -1).gather(
            -1, ids[0, 1:, None]
        )[:, 0]
    expected = -float(logs[len(tokenizer(prompt)["input_ids"]) - 1 :].mean())
    examples = lambda rng, n: [(prompt, reply)] * n  # noqa: E731
    found = models.pretrain(
        model, tokenizer, examples, steps=1, batch_size=2, progress=False
    )
    assert found[0] == pytest.approx(expected, rel=1e-5)


def test_pretraining_that_diverges_is_an_error(tokenizer):
    model = models.small_model(tokenizer, hidden=16, layers=1, heads=2)
    with pytest.raises(FloatingPointError, match="pretraining: .* lower"):
        models.pretrain(
            model,
            tokenizer,
            lambda rng, n: [("Ask", "Sam")] * n,
            steps=3,
            batch_size=2,
            lr=1e30,
            progress=False,
        )


def test_save_and_load_give_the_same_logits(tokenizer, tmp_path):
    model = small(tokenizer)
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "model")
    again, read = models.load_model(tmp_path / "model", device="cpu")
    ids = read(TEXTS[0], return_tensors="pt")["input_ids"]
    assert (
        ids.tolist() == tokenizer(TEXTS[0], return_tensors="pt")["input_ids"].tolist()
    )
    np.testing.assert_allclose(
        again(ids).logits.detach(), model.eval()(ids).logits.detach(), atol=1e-6
    )
    assert list((tmp_path / "model").glob("*.safetensors")) and not list(
        (tmp_path / "model").glob("*.bin")
    )


def test_load_model_reads_hub_format(tiny_model_dir):
    model, tokenizer = models.load_model(tiny_model_dir, device="cpu")
    assert (
        not model.training
        and tokenizer.pad_token_id is not None
        and tokenizer.chat_template
    )


def broken(folder, tmp_path, *, remove=(), config=None):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    for name in remove:
        (copy / name).unlink(missing_ok=True)
    if config:
        file = copy / "tokenizer_config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **config}))
    return copy


@pytest.mark.parametrize(
    "remove, config, message",
    [
        (["config.json"], None, "no config.json"),
        (["tokenizer.json", "tokenizer_config.json"], None, "tokenizer"),
        (["chat_template.jinja"], {"chat_template": None}, "no chat template"),
        (
            ["chat_template.jinja"],
            {"chat_template": None, "eos_token": None},
            "chat template",
        ),
        (["model.safetensors"], None, "could not be loaded"),
    ],
)
def test_a_missing_part_is_named(tiny_llama, tmp_path, remove, config, message):
    with pytest.raises(ValueError, match=message):
        models.load_model(broken(tiny_llama, tmp_path, remove=remove, config=config))


def test_a_name_that_is_nowhere_says_so():
    with pytest.raises(ValueError, match="neither a folder nor a model on the hub"):
        models.load_model("nobody/nothing-of-that-name")


def test_replies_that_share_a_prompt_cost_and_count_the_same():
    """shared_loss against separate rows: value and every gradient, for groups of 1, 2 and 3 replies."""
    tokenizer = models.build_tokenizer(["a b c d e f g", " a b c d e f g"])
    model = models.small_model(
        tokenizer, hidden=16, layers=2, heads=2, max_length=32, init=0.3, seed=0
    )
    pairs = [
        ("a b", " c d"),
        ("a b", " e"),
        ("a b", " f g a"),
        ("g", " a b"),
        ("c d e f", " g"),
        ("c d e f", " a a"),
    ]
    rows = tokens.encode_many(tokenizer, *zip(*pairs, strict=True))
    shared = models.shared_loss(model, rows)
    summed, lengths = logprobs.sequence_logps(
        model, tokens.collate(rows, tokenizer.pad_token_id)
    )
    apart = -summed.sum() / lengths.sum()
    torch.testing.assert_close(shared, apart, atol=1e-6, rtol=0)
    for a, b in zip(
        *(
            torch.autograd.grad(loss, list(model.parameters()))
            for loss in (shared, apart)
        ),
        strict=True,
    ):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)


def test_a_weight_file_cut_short_is_named(tokenizer, tmp_path):
    models.small_model(tokenizer, hidden=16, layers=1, heads=2).save_pretrained(
        tmp_path
    )
    tokenizer.save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ValueError, match="could not be loaded"):
        models.load_model(tmp_path)
