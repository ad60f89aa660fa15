"""From text to token rows: the prompt keeps its tokens, the end comes once, and what does not fit is named."""

import pytest
from chat_tokenizers import build
from transformers import AutoTokenizer

from mipo.data import render
from mipo.lm import tokens

LONG = "Write a short email to my neighbour, the retired teacher with two children."


@pytest.fixture
def tokenizer(tiny_model_dir):
    return AutoTokenizer.from_pretrained(tiny_model_dir, trust_remote_code=False)


@pytest.fixture
def prompts(tokenizer):
    return [render(tokenizer, "Explain what a loan is.", "I am a nurse.")]


def test_encode_appends_the_end_once(tokenizer, prompts):
    head, tail = tokens.encode(tokenizer, prompts[0], "I am a baker.")
    assert head == tokenizer(prompts[0])["input_ids"]
    assert (
        tail[-1] == tokenizer.eos_token_id and tail.count(tokenizer.eos_token_id) == 1
    )
    assert tokens.encode(
        tokenizer, prompts[0], "I am a baker." + tokenizer.eos_token
    ) == (head, tail)
    assert tokenizer.decode(tail[:-1]) == "I am a baker."
    if tokenizer.bos_token_id is not None:
        assert head.count(tokenizer.bos_token_id) == 1


def test_encode_keeps_the_prompt_where_tokens_would_merge(tokenizer):
    """A token would span the boundary: the prompt must keep the tokens that the reply was sampled after."""
    text = "I am a retired teacher who cycles to work"

    def merges(i):
        head = tokenizer(text[:i])["input_ids"]
        return tokenizer(text)["input_ids"][: len(head)] != head

    i = next(i for i in range(10, len(text)) if merges(i))  # a place inside a token
    head, tail = tokens.encode(tokenizer, text[:i], text[i:])
    assert head == tokenizer(text[:i])["input_ids"]
    assert tokenizer.decode(tail[:-1]) == text[i:]


def test_max_length_cuts_replies_and_names_a_prompt_that_is_too_long(
    tokenizer, prompts
):
    head, tail = tokens.encode(tokenizer, prompts[0], LONG)
    assert tokens.encode(tokenizer, prompts[0], LONG, len(head) + 2) == (head, tail[:2])
    with pytest.raises(
        ValueError,
        match=rf"row 0: the prompt has {len(head)} tokens and max_length is {len(head)}",
    ):
        tokens.encode(tokenizer, prompts[0], LONG, len(head))


def test_texts_without_tokens_and_a_tokenizer_without_an_end_are_named(tokenizer):
    with pytest.raises(ValueError, match="row 0: the prompt has no token"):
        tokens.join(build("qwen2.5"), [""], ["a"])  # it writes no start
    with pytest.raises(ValueError, match="row 0: the reply has no token"):
        tokens.join(tokenizer, ["a"], [""])
    tokenizer.eos_token = tokenizer.chat_template = None
    with pytest.raises(ValueError, match="no end-of-sequence token"):
        tokens.encode(tokenizer, "a", "b")
    with pytest.raises(ValueError, match="no end-of-sequence token"):
        tokens.end_ids(tokenizer)
