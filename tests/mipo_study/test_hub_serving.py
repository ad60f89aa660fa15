"""Which sampler is taken, and that transformers' continuous batching, where it runs, answers as ours does."""

import types

import pytest
import torch
from transformers import GenerationConfig

from mipo import models
from mipo.lm import sampling
from mipo.lm.tokens import end_ids
from mipo_study.hub import serving

PROMPTS = [
    "<|im_start|>user\nRecommend a book.<|im_end|>\n<|im_start|>assistant\n",
    "<|im_start|>user\nHi<|im_end|>\n",
]


@pytest.fixture(scope="module")
def loaded(tiny_qwen2):
    return models.load_model(tiny_qwen2, device="cpu")


@pytest.fixture
def on_gpu(loaded, monkeypatch):
    """The tiny model, which claims to lie on a GPU; `took` are the seconds of each engine, {engine: time}."""
    model, tokenizer = loaded
    weight = types.SimpleNamespace(is_cuda=True, device=torch.device("cpu"))
    monkeypatch.setattr(model, "parameters", lambda: iter([weight]))
    monkeypatch.setattr(model, "generate_batch", lambda **_: {}, raising=False)
    took, clock, ours = {"batched": 1.0, "continuous": 2.0}, [0.0], sampling.sample

    def batched(*args, **kwargs):
        clock[0] += took["batched"]
        return ours(*args, **kwargs)

    def continuous(model, tokenizer, prompts, **kwargs):
        clock[0] += took["continuous"]
        return ["yes"] * len(prompts)

    monkeypatch.setattr(serving.sampling, "sample", batched)
    monkeypatch.setattr(serving, "continuous", continuous)
    monkeypatch.setattr(serving.time, "perf_counter", lambda: clock[0])
    return model, tokenizer, took


MANY = PROMPTS * 3
NAMES = [f"case {i}" for i in range(len(MANY))]
SMALL = dict(batch_size=2, max_new_tokens=3, names=NAMES)


def test_without_a_gpu_it_is_our_own_sampler(loaded):
    settings = dict(max_new_tokens=5, temperature=1.0, top_p=0.9, seed=3)
    assert serving.choose(*loaded, MANY, batch_size=2) == "batched"
    assert serving.sample(*loaded, PROMPTS, **settings) == sampling.sample(
        *loaded, PROMPTS, **settings
    )


@pytest.mark.parametrize(
    "seconds, engine", [((1.0, 2.0), "batched"), ((2.0, 1.0), "continuous")]
)
def test_on_a_gpu_it_is_the_faster(on_gpu, seconds, engine):
    model, tokenizer, took = on_gpu
    took.update(zip(serving.ENGINES, seconds, strict=True))
    assert serving.choose(model, tokenizer, MANY, **SMALL) == engine
    assert (
        serving.choose(model, tokenizer, MANY[:4], **SMALL) == "batched"
    )  # too few to be worth the trial


def test_what_the_model_cannot_do_loses_but_our_own_errors_stop(
    on_gpu, monkeypatch, caplog
):
    model, tokenizer, took = on_gpu
    took["continuous"] = 0.1

    def broken(*args, **kwargs):
        raise RuntimeError("not for this model")

    monkeypatch.setattr(serving, "continuous", broken)
    assert serving.choose(model, tokenizer, MANY, **SMALL) == "batched"
    assert "continuous batching does not work here: not for this model" in caplog.text
    with pytest.raises(
        ValueError, match="case 0: the prompt has .* more than the model's context"
    ):
        serving.choose(model, tokenizer, MANY, **SMALL | {"max_new_tokens": 300})

    def full(*args, **kwargs):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(serving.sampling, "sample", full)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        serving.choose(model, tokenizer, MANY, **SMALL)


def test_unknown_engines_and_models_without_one(loaded):
    with pytest.raises(ValueError, match="choose one of auto, batched, continuous"):
        serving.sample(*loaded, PROMPTS, engine="fast")
    with pytest.raises(ValueError, match="no continuous batching"):
        serving.sample(torch.nn.Linear(1, 1), None, PROMPTS, engine="continuous")


def test_continuous_keeps_the_order_and_the_settings(loaded, monkeypatch):
    """With a stand-in for generate_batch, which needs a GPU to be worth anything."""
    model, tokenizer = loaded
    seen = {}

    class Out:
        def __init__(self, tokens):
            self.generated_tokens = tokens

    def generate_batch(
        inputs, generation_config, continuous_batching_config, progress_bar
    ):
        seen.update(config=generation_config, seed=continuous_batching_config.seed)
        end = generation_config.eos_token_id[0]
        return {
            f"req_{i}": Out([*ids[-4:-2], end, ids[0]]) for i, ids in enumerate(inputs)
        }

    monkeypatch.setattr(model, "generate_batch", generate_batch, raising=False)
    said = serving.sample(
        model,
        tokenizer,
        PROMPTS,
        engine="continuous",
        max_new_tokens=7,
        temperature=0.5,
        top_p=0.9,
        seed=4,
    )
    ids = [tokenizer(p)["input_ids"] for p in PROMPTS]
    assert [reply.text for reply in said] == [
        tokenizer.decode(x[-4:-2], skip_special_tokens=True) for x in ids
    ]
    end = end_ids(tokenizer, model)[0]
    assert [reply.ids for reply in said] == [[*x[-4:-2], end] for x in ids]
    assert all(reply.finished for reply in said)
    config = seen["config"]
    assert isinstance(config, GenerationConfig)
    assert (config.max_new_tokens, config.temperature, config.top_p) == (7, 0.5, 0.9)
    assert (
        config.do_sample
        and config.top_k == 0
        and seen["seed"] == 4
        and config.eos_token_id == end_ids(tokenizer, model)
    )
    serving.sample(model, tokenizer, PROMPTS, engine="continuous", temperature=0.0)
    assert not seen["config"].do_sample
    monkeypatch.setattr(model, "generate_batch", lambda **_: {}, raising=False)
    with pytest.raises(RuntimeError, match="0 replies to 2 prompts"):
        serving.sample(model, tokenizer, PROMPTS, engine="continuous")
