"""Which sampler is taken, and that transformers' continuous batching, where it runs, answers as ours does."""

import time

import pytest
import torch
from transformers import GenerationConfig

from mipo import models, sampling, serving

PROMPTS = ["<|im_start|>user\nRecommend a book.<|im_end|>\n<|im_start|>assistant\n", "<|im_start|>user\nHi<|im_end|>\n"]


@pytest.fixture(scope="module")
def loaded(tiny_qwen2):
    return models.load_model(tiny_qwen2, device="cpu")


def test_without_a_gpu_it_is_our_own_sampler(loaded):
    settings = dict(max_new_tokens=5, temperature=1.0, top_p=0.9, seed=3)
    said, engine = serving.generate(*loaded, PROMPTS, **settings)
    assert engine == "batched" and said == sampling.generate(*loaded, PROMPTS, **settings)


def test_unknown_engines_and_models_without_one(loaded):
    with pytest.raises(ValueError, match="choose one of auto, batched, continuous"):
        serving.generate(*loaded, PROMPTS, engine="fast")
    with pytest.raises(ValueError, match="no continuous batching"):
        serving.generate(torch.nn.Linear(1, 1), None, PROMPTS, engine="continuous")


def test_the_second_run_of_each_counts_and_what_fails_loses(caplog):
    runs = {"slow start": 0, "steady": 0}

    def slow_start():  # as compiling or capturing graphs
        runs["slow start"] += 1
        time.sleep(0.2 if runs["slow start"] == 1 else 0.0)

    def steady():
        runs["steady"] += 1
        time.sleep(0.05)

    def broken():
        raise RuntimeError("not for this model")

    assert serving.faster({"steady": steady, "slow start": slow_start, "broken": broken}) == "slow start"
    assert runs == {"slow start": 2, "steady": 2} and "broken does not work here: not for this model" in caplog.text
    with pytest.raises(RuntimeError, match="none of broken"):
        serving.faster({"broken": broken})


def test_continuous_keeps_the_order_and_the_settings(loaded, monkeypatch):
    """With a stand-in for generate_batch, which needs a GPU to be worth anything."""
    model, tokenizer = loaded
    seen = {}

    class Out:
        def __init__(self, tokens):
            self.generated_tokens = tokens

    def generate_batch(inputs, generation_config, continuous_batching_config, progress_bar):
        seen.update(config=generation_config, seed=continuous_batching_config.seed)
        return {f"req_{i}": Out(ids[-2:]) for i, ids in enumerate(inputs)}

    monkeypatch.setattr(model, "generate_batch", generate_batch, raising=False)
    said, engine = serving.generate(model, tokenizer, PROMPTS, engine="continuous", max_new_tokens=7, temperature=0.5,
                                    top_p=0.9, seed=4)
    ids = [tokenizer(p)["input_ids"] for p in PROMPTS]
    assert engine == "continuous" and said == [tokenizer.decode(x[-2:], skip_special_tokens=True) for x in ids]
    config = seen["config"]
    assert isinstance(config, GenerationConfig)
    assert (config.max_new_tokens, config.temperature, config.top_p) == (7, 0.5, 0.9)
    assert config.do_sample and config.top_k == 0 and seen["seed"] == 4 and config.eos_token_id == tokenizer.eos_token_id
    serving.generate(model, tokenizer, PROMPTS, engine="continuous", temperature=0.0)
    assert not seen["config"].do_sample
    monkeypatch.setattr(model, "generate_batch", lambda **_: {}, raising=False)
    with pytest.raises(RuntimeError, match="0 replies to 2 prompts"):
        serving.generate(model, tokenizer, PROMPTS, engine="continuous")
