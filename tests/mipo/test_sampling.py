"""Sampling: the right distribution, one stream per prompt, padding that changes nothing, context-aware decoding."""

import numpy as np
import pytest
import torch
from scipy import stats
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

from mipo import models
from mipo.lm import sampling

pytestmark = pytest.mark.long

TEXTS = ["\n\nsay a b c d e f.", "say a", " a b c d e f g. h? i!", "Role: x. Tone: y."]


@pytest.fixture(scope="module")
def tiny():
    tokenizer = models.build_tokenizer(TEXTS)
    return models.small_model(
        tokenizer, hidden=16, layers=2, heads=2, max_length=48, seed=3
    ), tokenizer


def prompts(n):
    words = [" a", " b", " c", " d", " e", " f"]
    return [
        "<|user|>say"
        + "".join(words[(i * j) % 6] for j in range(i % 5))
        + "<|end|><|assistant|>"
        for i in range(n)
    ]


def test_pick_inverts_the_cumulative_distribution():
    """Probabilities 0.5, 0.3, 0.2: a uniform below 0.5 gives the first, below 0.8 the second, else the third."""
    logits = torch.log(torch.tensor([[0.2, 0.5, 0.3]], dtype=torch.float64)).expand(
        5, -1
    )
    uniform = torch.tensor([0.0, 0.49, 0.51, 0.79, 0.999999999], dtype=torch.float64)
    assert sampling.pick(logits, uniform).tolist() == [1, 1, 2, 2, 0]
    assert sampling.pick(logits, uniform, top_p=0.7).tolist() == [
        1,
        1,
        1,
        2,
        2,
    ]  # 0.5 / 0.8 = 0.625; the third is cut
    assert sampling.pick(logits, uniform, temperature=0).tolist() == [1] * 5


def test_pick_samples_the_softmax_at_a_temperature():
    logits = torch.tensor([[0.3, -1.0, 1.2, 0.0]], dtype=torch.float64)
    uniform = torch.tensor(np.random.default_rng(0).random(20000))
    counts = np.bincount(
        sampling.pick(logits.expand(20000, -1), uniform, temperature=0.7).numpy(),
        minlength=4,
    )
    assert (
        stats.chisquare(
            counts, 20000 * torch.softmax(logits[0] / 0.7, 0).numpy()
        ).pvalue
        > 1e-3
    )


@pytest.mark.parametrize("coarse", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("top_p", [1.0, 0.9, 0.3])
@pytest.mark.parametrize("spread", [0.0, 0.5, 5.0])
def test_looking_at_the_likeliest_first_changes_no_token(
    coarse, temperature, top_p, spread
):
    """Held against a stable sort of every token; bfloat16 has many equal logits."""
    torch.manual_seed(0)
    logits = torch.randn(64, 3000) * spread
    logits = (logits.bfloat16() if coarse else logits).double()
    uniform = torch.rand(64, dtype=torch.float64)
    drawn = sampling.pick(logits, uniform, temperature, top_p)
    law = torch.softmax(logits / temperature, -1)
    probs, tokens = law.sort(dim=-1, descending=True, stable=True)
    for row, u in enumerate(uniform):
        kept = probs[row] * ((probs[row].cumsum(0) - probs[row]) < top_p)
        sought = u * kept.sum()
        [first] = (kept.cumsum(0) > sought).nonzero()[0]
        assert drawn[row] == tokens[row, first]


def family(kind, config, tokenizer, **more):
    torch.manual_seed(0)
    return kind(
        config(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=48,
            initializer_range=0.3,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            **more,
        )
    )


@pytest.fixture(params=["llama", "qwen2", "qwen3"])
def model_of(request, tiny):
    model, tokenizer = tiny
    kinds = {
        "qwen2": (Qwen2ForCausalLM, Qwen2Config, {}),
        "qwen3": (Qwen3ForCausalLM, Qwen3Config, {"head_dim": 8}),
    }
    if request.param in kinds:
        kind, config, more = kinds[request.param]
        model = family(kind, config, tokenizer, **more)
    return model, tokenizer


@pytest.mark.parametrize(
    "how", [{}, {"top_p": 0.8}, {"temperature": 0.5}, {"alpha": 1.0}], ids=str
)
def test_same_reply_whatever_the_batch(model_of, how):
    if how.get("alpha"):
        how = how | {"contrast_prompts": ["<|user|>say<|end|><|assistant|>"] * 12}
    said = [
        sampling.generate(
            *model_of, prompts(12), max_new_tokens=8, seed=5, batch_size=size, **how
        )
        for size in (1, 3, 7, 12)
    ]
    assert said[0] == said[1] == said[2] == said[3] and len(set(said[0])) > 4
    assert (
        sampling.generate(*model_of, prompts(12), max_new_tokens=8, seed=6, **how)
        != said[0]
    )


def test_greedy_equals_transformers_generate(tiny):
    model, tokenizer = tiny
    ours = sampling.generate(
        model, tokenizer, prompts(6), max_new_tokens=7, temperature=0
    )
    for prompt, reply in zip(prompts(6), ours, strict=True):
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
        out = model.generate(
            ids, do_sample=False, max_new_tokens=7, attention_mask=torch.ones_like(ids)
        )
        assert reply == tokenizer.decode(
            out[0, ids.shape[1] :], skip_special_tokens=True
        )


def test_contrast_is_the_naive_combination_of_two_models_outputs(tiny):
    """First token of greedy context-aware decoding against logits (1 + α)·a - α·b computed row by row."""
    model, tokenizer = tiny
    left, right = prompts(6)[1:], prompts(6)[:-1]
    replies = sampling.generate(
        model,
        tokenizer,
        left,
        contrast_prompts=right,
        alpha=3.0,
        max_new_tokens=1,
        temperature=0,
    )
    for a, b, reply in zip(left, right, replies, strict=True):
        la, lb = (
            model(tokenizer(p, return_tensors="pt")["input_ids"]).logits[0, -1]
            for p in (a, b)
        )
        assert reply == tokenizer.decode(
            [int((4 * la - 3 * lb).argmax())], skip_special_tokens=True
        )


def test_clear_errors(tiny):
    model, tokenizer = tiny
    with pytest.raises(
        ValueError, match=r"prompt 1: the prompt has 4\d tokens.*context of 48"
    ):
        sampling.generate(
            model, tokenizer, ["say", "say" + " a" * 42], max_new_tokens=8
        )
    with pytest.raises(ValueError, match="prompt 0: the prompt is empty"):
        sampling.generate(model, tokenizer, [""])
    with pytest.raises(ValueError, match="mine.jsonl, line 7: the prompt is empty"):
        sampling.generate(model, tokenizer, [""], names=["mine.jsonl, line 7"])
    with pytest.raises(ValueError, match="top_p"):
        sampling.generate(model, tokenizer, ["say"], top_p=0)


# ---- what is computed once, and what no longer ----


def long_prompts(n):
    """Prompts that begin with the same 20 tokens."""
    start = "<|user|>say" + " a b c d e f" * 3
    return [prompt.replace("<|user|>say", start) for prompt in prompts(n)]


@pytest.fixture
def shapes_read(monkeypatch):
    """The shapes of all that a model is given: shapes_read(model) -> list."""

    def watch(model):
        shapes, forward = [], model.forward

        def noted(*args, **kwargs):
            shapes.append(tuple(kwargs["input_ids"].shape))
            return forward(*args, **kwargs)

        monkeypatch.setattr(model, "forward", noted)
        return shapes

    return watch


def test_what_all_prompts_begin_with_is_read_once(model_of, shapes_read):
    model, tokenizer = model_of
    ids = [tokenizer(prompt)["input_ids"] for prompt in long_prompts(12)]
    assert sampling.common_prefix(model, ids) == 20  # and the word they go on with
    how = {"max_new_tokens": 4, "seed": 5}
    alone = sampling.sample(model, tokenizer, long_prompts(12), batch_size=1, **how)
    shapes = shapes_read(model)
    together = sampling.sample(model, tokenizer, long_prompts(12), **how)
    longest = max(map(len, ids))
    assert shapes[:2] == [(1, 20), (12, longest - 20)]
    assert together == alone


@pytest.mark.parametrize(
    "ids, length",
    [
        ([list(range(30)), list(range(25)) + [0] * 9], 25),
        ([list(range(30)), list(range(30))], 29),  # a token of each is left over
        ([list(range(30)), list(range(20))], 19),
        ([list(range(16)) + [0], list(range(15)) + [0, 0]], 0),  # 15: too short
        ([list(range(30))], 0),  # one prompt shares nothing
    ],
)
def test_the_common_prefix_by_hand(tiny, ids, length):
    assert sampling.common_prefix(tiny[0], ids) == length


def test_models_that_look_by_place_share_no_prefix(tiny):
    _, tokenizer = tiny
    sliding = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 0}
    model = family(Qwen2ForCausalLM, Qwen2Config, tokenizer, **sliding)
    ids = [tokenizer(prompt)["input_ids"] for prompt in long_prompts(12)]
    assert sampling.common_prefix(model, ids) == 0


def test_the_next_token_has_the_same_law_with_a_prefix_as_alone(model_of):
    model, tokenizer = model_of
    ids = [tokenizer(prompt)["input_ids"] for prompt in long_prompts(5)]
    pad = tokenizer.pad_token_id
    with torch.no_grad():
        together = sampling._State(model, ids, pad)
        assert together.cache is not None  # the prefix is there already
        found = together.logits()
        alone = [model(torch.tensor([row])).logits[0, -1] for row in ids]
    torch.testing.assert_close(found.float(), torch.stack(alone), rtol=0, atol=1e-5)


def test_rows_that_are_done_are_computed_no_longer(model_of, shapes_read):
    model, tokenizer = model_of
    how = {"max_new_tokens": 16, "seed": 5, "temperature": 1.5}
    alone = sampling.sample(model, tokenizer, prompts(24), batch_size=1, **how)
    lengths = [len(reply.ids) for reply in alone]
    shapes = shapes_read(model)
    together = sampling.sample(model, tokenizer, prompts(24), **how)
    assert together == alone
    for step, (rows, _) in enumerate(shapes):
        going = sum(length > step for length in lengths)
        assert going <= rows <= max(going / (1 - sampling.DROPPED), going + 1)
    assert shapes[-1][0] < 24
