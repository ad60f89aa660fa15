"""Replies that share a prompt's row: the same log-probs and gradients as separate rows, for all shapes."""

import copy

import peft
import pytest
import torch
from peft import LoraConfig, PrefixTuningConfig, get_peft_model
from torch.testing import assert_close
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3NextConfig,
    Qwen3NextForCausalLM,
)

from mipo import logprobs
from mipo.lm import reply_logps, row_scores, shared_prompt
from mipo.lm.shared_prompt import collate_shared, groups_of, pays, sharing, why_not
from mipo.lm.tokens import collate

pytestmark = pytest.mark.long

SIZE = dict(
    vocab_size=60,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=128,
)
MODELS = {
    "llama": (LlamaForCausalLM, LlamaConfig),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config),
    "mistral": (MistralForCausalLM, MistralConfig),
}


@pytest.fixture(params=list(MODELS))
def model(request):
    torch.manual_seed(0)
    kind, config = MODELS[request.param]
    more = {"qwen3": {"head_dim": 16}, "mistral": {"sliding_window": None}}.get(
        request.param, {}
    )
    return kind(config(**SIZE, **more)).float()


def ids(n, seed):
    return torch.randint(
        3, 60, (n,), generator=torch.Generator().manual_seed(seed)
    ).tolist()


def sets_of(k, prompts=(20, 3, 11), replies=(4, 1, 6, 2, 9, 3, 5, 7, 2)):
    """Three sets of k + 1 replies of unequal lengths, one-token replies among them."""
    return [
        [(ids(p, 10 + i), ids(replies[(i + j) % 9], 100 * i + j)) for j in range(k + 1)]
        for i, p in enumerate(prompts)
    ]


def separate(sets):
    return collate([sets[i][j] for j in range(len(sets[0])) for i in range(len(sets))])


def gradients(model, batch):
    """Summed log-probs, and the gradient of a sum in which every reply has another weight."""
    model.zero_grad()
    summed, tokens = logprobs.sequence_logps(model, batch)
    (summed * torch.linspace(-1, 1, len(summed))).sum().backward()
    return (
        summed.detach(),
        tokens,
        {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None},
    )


def assert_same(model, sets):
    want, lengths, slopes = gradients(model, separate(sets))
    got, tokens, grads = gradients(model, collate_shared(groups_of(sets)))
    assert tokens.tolist() == lengths.tolist()
    assert_close(got, want, atol=1e-5, rtol=1e-6)
    assert grads.keys() == slopes.keys()
    for name, slope in slopes.items():
        assert (grads[name] - slope).norm() <= 1e-4 * slope.norm() + 1e-7, name


@pytest.fixture(params=[0, shared_prompt.SHORT], ids=["long", "short"])
def kind_of_prompt(request, monkeypatch):
    """Prompts count as long, with two calls of attention, or as short, with one."""
    monkeypatch.setattr(shared_prompt, "SHORT", request.param)


@pytest.mark.parametrize("k", [1, 4, 8])
def test_values_and_gradients_equal_separate_rows(model, k, kind_of_prompt):
    assert_same(model, sets_of(k))


@pytest.mark.parametrize("lengths", [(20, 3, 11), (2, 2, 2), (40, 1, 1), (1, 1, 1)])
def test_prompts_of_any_length(model, lengths, kind_of_prompt):
    assert_same(model, sets_of(4, prompts=lengths, replies=(9, 1, 3, 4, 5, 6, 7, 8, 2)))


@pytest.mark.parametrize("k", [1, 4, 8])
@pytest.mark.parametrize("lora", [True, False], ids=["lora", "full"])
def test_lora_and_activation_checkpointing(model, kind_of_prompt, k, lora):
    """On, which computes every layer twice and leaves none of the last one out, and off again."""
    if lora:
        targets = ["q_proj", "v_proj", "o_proj", "down_proj"]
        model = get_peft_model(
            model, LoraConfig(r=4, target_modules=targets, init_lora_weights=False)
        )
        model.enable_input_require_grads()
    model.train()
    assert_same(model, sets_of(k))
    model.gradient_checkpointing_enable({"use_reentrant": False})
    inner = model.get_base_model() if lora else model
    calls = []
    handle = (
        inner.get_decoder()
        .layers[0]
        .input_layernorm.register_forward_hook(lambda *_: calls.append(1))
    )
    assert_same(model, sets_of(k))
    handle.remove()
    assert len(calls) == 4, "two passes, each computed again for its gradient"
    model.gradient_checkpointing_disable()
    assert_same(model, sets_of(k))


ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "down_proj"]
ADAPTERS = {
    "LoRA": lambda: peft.LoraConfig(r=4, target_modules=ALL),
    "DoRA": lambda: peft.LoraConfig(r=4, target_modules=ALL, use_dora=True),
    "rsLoRA": lambda: peft.LoraConfig(r=4, target_modules=ALL, use_rslora=True),
    "AdaLoRA": lambda: peft.AdaLoraConfig(
        init_r=4, target_r=2, total_step=10, target_modules=ALL
    ),
    "LoHa": lambda: peft.LoHaConfig(r=4, target_modules=ALL),
    "LoKr": lambda: peft.LoKrConfig(r=4, target_modules=ALL),
    "VeRA": lambda: peft.VeraConfig(r=4, target_modules=["q_proj", "o_proj"]),
    "IA3": lambda: peft.IA3Config(
        target_modules=["k_proj", "v_proj", "down_proj"],
        feedforward_modules=["down_proj"],
    ),
    "OFT": lambda: peft.OFTConfig(oft_block_size=4, target_modules=ALL),
    "HRA": lambda: peft.HRAConfig(r=4, target_modules=ALL),
    "LN tuning": lambda: peft.LNTuningConfig(target_modules=["input_layernorm"]),
}


@pytest.mark.parametrize("model", ["llama"], indirect=True)
@pytest.mark.parametrize("kind", ADAPTERS)
def test_adapters_of_every_kind_share_prompts(model, kind, kind_of_prompt):
    """Their weights are drawn: most kinds begin as no change at all."""
    plain = logprobs.sequence_logps(model, separate(sets_of(4)))[0].detach()
    adapted = get_peft_model(model, ADAPTERS[kind]())
    gen = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weights in adapted.parameters():
            if weights.requires_grad:
                weights.add_(0.1 * torch.randn(weights.shape, generator=gen))
    assert why_not(adapted) is None
    assert_same(adapted, sets_of(4))
    moved = logprobs.sequence_logps(adapted, separate(sets_of(4)))[0].detach()
    assert (moved - plain).abs().max() > 1e-3  # so the adapter is at work


@pytest.mark.parametrize("k", [1, 8])
def test_bfloat16(model, kind_of_prompt, k):
    """Rounding to 8 bits: a token's log-prob is off by about 2**-8 of its size, and as often up as down.

    So both ways are held against float32: sums of at most nine tokens within 0.15 nats, gradients within a tenth, and the
    shared rows no further off than separate ones, with a factor of two for chance.
    """
    exact = copy.deepcopy(model)
    model.to(torch.bfloat16)
    exact.load_state_dict(model.state_dict())
    want, _, slopes = gradients(exact, separate(sets_of(k)))
    off, bent = [], []
    for batch in (separate(sets_of(k)), collate_shared(groups_of(sets_of(k)))):
        got, _, grads = gradients(model, batch)
        assert got.dtype == torch.float32  # summed in float32
        off.append((got - want).abs().max().item())
        bent.append(
            sum((grads[n].float() - s).square().sum() for n, s in slopes.items())
            .sqrt()
            .item()
            / sum(s.square().sum() for s in slopes.values()).sqrt().item()
        )
    assert off[1] <= 0.15 and bent[1] <= 0.1, (off, bent)
    assert off[1] <= 2 * off[0] + 0.01 and bent[1] <= 2 * bent[0], (off, bent)


def test_two_prompts_in_a_set_make_two_rows(model):
    (a, b), (c, d) = sets_of(1)[:2]
    cross = [
        [a, b, (c[0], a[1]), (c[0], b[1])]
    ]  # every reply after every prompt, as the cross losses need them
    assert collate_shared(groups_of(cross))["spread"].shape[0] == 2
    assert_same(model, cross)


def test_first_tokens_are_found(model):
    sets = sets_of(3)
    found = []
    for batch in (separate(sets), collate_shared(groups_of(sets))):
        logps, rows = logprobs.token_logps(model, batch)
        assert (rows.diff() >= 0).all()
        found.append(logprobs.first_tokens(logps, rows, batch).detach())
    assert_close(*found, atol=1e-5, rtol=1e-6)


def test_rows_are_laid_out_as_described():
    batch = collate_shared(
        groups_of(
            [
                [([5, 6, 7, 8, 9], [1, 2]), ([5, 6, 7, 8, 9], [3])],
                [([8, 9, 4, 4, 4], [4, 5]), ([8, 9, 4, 4, 4], [6])],
            ]
        )
    )
    assert (
        batch["input_ids"].tolist() == [[5, 6, 7, 8, 8, 9, 4, 4, 9, 1, 4, 4, 9, 4]]
        and batch["prompts"] == 8
    )
    assert batch["position_ids"].tolist() == [
        [0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 4, 5, 4, 4]
    ]
    assert batch["spread"].tolist() == [
        [0, 1, 2, 3, 8, 9, 12],
        [4, 5, 6, 7, 10, 11, 13],
    ]
    assert batch["gather"].tolist() == [0, 1, 2, 3, 7, 8, 9, 10, 4, 5, 11, 12, 6, 13]
    assert batch["target"].tolist() == [1, 2, 4, 5, 3, 6] and batch["row"].tolist() == [
        0,
        0,
        1,
        1,
        2,
        3,
    ]
    mask = batch["shared_mask"][0, 0].int().tolist()
    assert mask[4:] == [
        [1, 1, 1, 1, 1, 0, 0],
        [1, 1, 1, 1, 1, 1, 0],
        [1, 1, 1, 1, 0, 0, 1],
    ]
    assert mask[:4] == [
        [1, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0],
    ]


def test_nothing_is_padded():
    """Two prompts of 4 and 2 tokens, replies of 3, 1 and 2: 3 + 1 prompt tokens and 6 reply tokens."""
    batch = collate_shared(
        [([1, 2, 3, 4], [(0, [2, 3, 4]), (2, [9])]), ([1, 2], [(1, [2, 3])])]
    )
    assert (
        batch["input_ids"].shape == (1, 10)
        and batch["spread"].shape == (2, 7)
        and batch["tokens"].tolist() == [3, 2, 1]
    )
    assert collate_shared([([1], [(0, [5, 6])]), ([1], [(1, [7])])])[
        "input_ids"
    ].tolist() == [[1, 5, 1]]  # alone
    empty = collate_shared(
        [([1], [(0, [])]), ([1], [(1, [])])]
    )  # one-token replies without their first
    logps, rows = logprobs.token_logps(None, empty)
    assert len(logps) == len(rows) == 0 and logprobs.sum_rows(
        logps, rows, empty
    ).tolist() == [0, 0]


def test_models_that_cannot_share_say_why(model):
    assert why_not(model) is None
    virtual = get_peft_model(
        copy.deepcopy(model),
        PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2),
    )
    assert "virtual tokens" in why_not(virtual)
    assert "'gemma2'" in why_not(Gemma2ForCausalLM(Gemma2Config(**SIZE, head_dim=8)))
    linear = Qwen3NextConfig(
        **SIZE, head_dim=8, num_experts=2, layer_types=["linear_attention"] * 3
    )
    assert "'qwen3_next'" in why_not(Qwen3NextForCausalLM(linear))  # linear attention
    assert (
        why_not(MistralForCausalLM(MistralConfig(**SIZE, sliding_window=None))) is None
    )
    for sliding in (
        MistralForCausalLM(MistralConfig(**SIZE, sliding_window=16)),
        Qwen2ForCausalLM(
            Qwen2Config(
                **SIZE, use_sliding_window=True, sliding_window=16, max_window_layers=1
            )
        ),
    ):
        assert "sliding window" in why_not(sliding)
    model.hf_device_map = {"model.layers.0": 0, "model.layers.1": "cpu"}
    assert "several devices" in why_not(model)
    model.hf_device_map = {"": 0}
    assert why_not(model) is None
    model.set_attn_implementation("eager")
    assert "'eager'" in why_not(model)


def test_the_model_is_left_as_it_was(model, tiny_llama):
    batch = collate_shared(groups_of(sets_of(2)))
    before = model.config._attn_implementation
    with pytest.raises(RuntimeError), sharing(model, batch):
        assert model.config._attn_implementation != before
        raise RuntimeError
    assert model.config._attn_implementation == before
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())
    loaded = AutoModelForCausalLM.from_pretrained(tiny_llama, trust_remote_code=False)
    ids_ = torch.tensor([ids(9, 1)])
    plain = loaded(ids_).logits
    loaded.config._attn_implementation = (
        "shared_prompt"  # what activation checkpointing leaves behind
    )
    assert_close(loaded(ids_).logits, plain)
    mask = torch.tensor([[0, 0, 1, 1, 1, 1, 1, 1, 1]])
    want = AutoModelForCausalLM.from_pretrained(tiny_llama, trust_remote_code=False)(
        ids_, attention_mask=mask
    ).logits
    assert_close(loaded(ids_, attention_mask=mask).logits[:, 2:], want[:, 2:])


@pytest.mark.parametrize("shared", [True, False])
def test_large_logits_are_made_in_chunks(model, monkeypatch, shared):
    sets = sets_of(2)
    batch = collate_shared(groups_of(sets)) if shared else separate(sets)
    want, _, slopes = gradients(model, batch)
    monkeypatch.setattr(reply_logps, "LARGE", 10)
    monkeypatch.setattr(reply_logps, "CHUNK", 60 * 4)  # four positions at a time
    sizes = []
    model.get_output_embeddings().register_forward_hook(
        lambda m, args, out: sizes.append(out.shape[-2])
    )
    got, _, grads = gradients(model, batch)
    assert max(sizes) == 4 and len(sizes) > 5
    assert_close(got, want, atol=1e-5, rtol=1e-6)
    for name, slope in slopes.items():
        assert (grads[name] - slope).norm() <= 1e-4 * slope.norm() + 1e-7, name


def test_capped_logits_are_never_taken_past_their_cap(monkeypatch):
    torch.manual_seed(0)
    model = Gemma2ForCausalLM(
        Gemma2Config(**SIZE, head_dim=8, final_logit_softcapping=0.5)
    ).eval()
    want = logprobs.sequence_logps(model, separate(sets_of(1)))[0]
    monkeypatch.setattr(reply_logps, "LARGE", 10)
    assert_close(logprobs.sequence_logps(model, separate(sets_of(1)))[0], want)


def test_scoring_many_rows_shares_prompts_and_keeps_their_order(model, monkeypatch):
    """Eleven replies to one prompt, three to another and a few alone, shuffled."""
    rows = [(ids(30, 1), ids(2 + i % 4, 50 + i)) for i in range(11)] + [
        (ids(9, 2), ids(3, 70 + i)) for i in range(3)
    ]
    rows += [(ids(5 + i, 80 + i), ids(4, 90 + i)) for i in range(4)]
    order = torch.randperm(
        len(rows), generator=torch.Generator().manual_seed(0)
    ).tolist()
    rows = [rows[i] for i in order]
    got = logprobs.score_rows(model, rows, batch_size=7)
    calls = []
    monkeypatch.setattr(row_scores, "why_not", lambda m: calls.append(1) or "no")
    want = logprobs.score_rows(model, rows, batch_size=1)
    assert calls and got.tokens.tolist() == want.tokens.tolist() == [
        len(tail) for _, tail in rows
    ]
    assert_close(got.summed, want.summed, atol=1e-5, rtol=1e-6)


@pytest.mark.parametrize(
    "seconds, shared", [({True: 1, False: 2}, True), ({True: 2, False: 1}, False)]
)
def test_the_faster_way_is_taken(seconds, shared):
    now, steps = [0.0], []

    def step(share):
        now[0] += (
            seconds[share] if steps.count(share) else 100
        )  # the first of each is slow, as on a GPU
        steps.append(share)

    assert pays(step, clock=lambda: now[0]) is shared
    assert steps == 4 * [True, False]


def test_a_way_that_needs_too_much_memory_is_not_taken():
    def step(share):
        if not share:
            raise torch.OutOfMemoryError("too much")

    assert pays(step) is True


def test_two_ways_that_need_too_much_memory_say_what_to_do():
    def step(share):
        raise torch.OutOfMemoryError("too much")

    with pytest.raises(
        torch.OutOfMemoryError, match="lower per_device_train_batch_size"
    ):
        pays(step)


def test_a_forward_that_was_put_into_a_layer_is_put_back(model):
    """accelerate does that to a model which it has placed."""
    layer = model.model.layers[-1]
    layer.forward = mine = type(layer).forward.__get__(layer)
    logprobs.sequence_logps(model, collate_shared(groups_of(sets_of(1))))
    assert vars(layer)["forward"] is mine
