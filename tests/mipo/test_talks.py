"""A talk that is read once gives every turn the log-prob that reading it alone gives."""

import pytest
import torch
from numpy.testing import assert_allclose
from transformers import AutoModelForCausalLM, AutoTokenizer

from mipo.lm.prompts import render_messages
from mipo.lm.talks import turn_logps
from mipo.logprobs import response_logps

TALK = [
    {"role": "user", "content": "I am a baker. Hi!"},
    {"role": "assistant", "content": "Hello, what is a loan?"},
    {"role": "user", "content": "A book."},
    {"role": "assistant", "content": "Yes."},
    {"role": "user", "content": "When?"},
    {"role": "assistant", "content": "For the weekend, my friend."},
    {"role": "user", "content": "Not heard by anybody."},
]
# Writes a thought into all replies but the last, as templates of thinking models do.
CHANGING = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['role'] == 'assistant' and not loop.last %}was {% endif %}"
    "{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def loaded(folder):
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=False)
    return model, AutoTokenizer.from_pretrained(folder, trust_remote_code=False)


def one_by_one(model, tokenizer):
    places = [1, 3, 5]
    prompts = [render_messages(tokenizer, TALK[:i]) for i in places]
    return response_logps(
        model, tokenizer, prompts, [TALK[i]["content"] for i in places]
    )


def test_turns_are_scored_as_if_alone(tiny_model_dir):
    model, tokenizer = loaded(tiny_model_dir)
    found, expected = turn_logps(model, tokenizer, TALK), one_by_one(model, tokenizer)
    assert_allclose(found.summed, expected.summed, atol=1e-4)
    assert found.tokens.tolist() == expected.tokens.tolist()


def test_one_pass_is_enough(tiny_qwen2, monkeypatch):
    model, tokenizer = loaded(tiny_qwen2)
    passes = []
    forward = model.forward
    monkeypatch.setattr(
        model, "forward", lambda *a, **k: passes.append(1) or forward(*a, **k)
    )
    turn_logps(model, tokenizer, TALK)
    assert len(passes) == 1


def test_a_template_that_rewrites_earlier_turns_is_read_turn_by_turn(tiny_qwen2):
    model, tokenizer = loaded(tiny_qwen2)
    tokenizer.chat_template = CHANGING
    found, expected = turn_logps(model, tokenizer, TALK), one_by_one(model, tokenizer)
    assert_allclose(found.summed, expected.summed, atol=1e-4)


def test_dropout_is_off_and_the_model_left_as_it_was(tiny_qwen2):
    model, tokenizer = loaded(tiny_qwen2)
    still = turn_logps(model, tokenizer, TALK).summed
    model.train()
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.9
    assert torch.equal(turn_logps(model, tokenizer, TALK).summed, still)
    assert model.training


def test_a_talk_without_an_answer_is_refused(tiny_qwen2):
    model, tokenizer = loaded(tiny_qwen2)
    with pytest.raises(ValueError, match="no turn of the assistant"):
        turn_logps(model, tokenizer, TALK[:1])


def test_a_talk_longer_than_the_model_is_refused(tiny_qwen2):
    model, tokenizer = loaded(tiny_qwen2)
    long = [*TALK[:5], {"role": "assistant", "content": "book " * 300}]
    with pytest.raises(ValueError, match="exceed the model's 256 positions"):
        turn_logps(model, tokenizer, long)
