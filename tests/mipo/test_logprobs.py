"""Log-probs and PMI against a naive log-softmax: one row at a time, all positions, no padding."""

import copy

import pytest
import torch
from peft import PromptTuningConfig, get_peft_model
from torch.testing import assert_close
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
)

from mipo import logprobs
from mipo.data import render
from mipo.lm import tokens

REPLIES = [
    "I am a baker.",
    "a",
    "",
    "Write a short email to my neighbour, the retired teacher with two children.",
]


@pytest.fixture
def loaded(tiny_model_dir):
    model = AutoModelForCausalLM.from_pretrained(
        tiny_model_dir, dtype=torch.float32, trust_remote_code=False
    ).eval()
    return model, AutoTokenizer.from_pretrained(tiny_model_dir, trust_remote_code=False)


@pytest.fixture
def prompts(loaded):
    contexts = [
        "I am a nurse.",
        "",
        "I am a farmer from the north with two children",
        "x",
    ]
    return [render(loaded[1], "Explain what a loan is.", c) for c in contexts]


def naive(model, tokenizer, prompt, reply):
    """sum_t log softmax(logits)[token t] over the reply, from the full logits of one unpadded row."""
    head = tokenizer(prompt)["input_ids"]
    row = tokenizer(prompt + reply + tokenizer.eos_token)["input_ids"]
    with torch.no_grad():
        logps = model(torch.tensor([row])).logits[0].double().log_softmax(-1)
    return sum(logps[t - 1, row[t]].item() for t in range(len(head), len(row))), len(
        row
    ) - len(head)


def test_response_logps_equal_naive(loaded, prompts):
    model, tokenizer = loaded
    got = logprobs.response_logps(model, tokenizer, prompts, REPLIES, batch_size=3)
    want = [
        naive(model, tokenizer, p, r) for p, r in zip(prompts, REPLIES, strict=True)
    ]
    assert_close(
        got.summed.double(),
        torch.tensor([w for w, _ in want], dtype=torch.float64),
        atol=1e-5,
        rtol=1e-6,
    )
    assert got.tokens.tolist() == [n for _, n in want]
    assert_close(got.mean, got.summed / got.tokens)
    assert got.tokens[2] == 1  # an empty reply is its end-of-sequence token


def test_response_logps_of_several_replies_keep_order_and_shape(loaded, prompts):
    model, tokenizer = loaded
    groups = [[REPLIES[i], REPLIES[3 - i]] for i in range(4)]
    got = logprobs.response_logps(model, tokenizer, prompts, groups, batch_size=2)
    assert got.summed.shape == got.tokens.shape == (4, 2)
    for j in range(2):
        one = logprobs.response_logps(model, tokenizer, prompts, [g[j] for g in groups])
        assert_close(got.summed[:, j], one.summed, atol=1e-5, rtol=1e-6)
        assert got.tokens[:, j].tolist() == one.tokens.tolist()


def test_batch_size_and_padding_change_nothing(loaded, prompts):
    model, tokenizer = loaded
    alone, together = (
        logprobs.response_logps(model, tokenizer, prompts, REPLIES, batch_size=b).summed
        for b in (1, 4)
    )
    assert_close(alone, together, atol=1e-5, rtol=1e-6)
    rows = tokens.encode_many(tokenizer, prompts, REPLIES)
    zero, one = (
        logprobs.sequence_logps(model, tokens.collate(rows, pad_id=p))[0]
        for p in (0, 1)
    )
    assert torch.equal(zero, one)  # what pads the rows is never looked at


def test_gradient_equals_naive(loaded, prompts):
    model, tokenizer = loaded
    other = copy.deepcopy(model)
    rows = tokens.encode_many(tokenizer, prompts, REPLIES)
    logprobs.sequence_logps(model, tokens.collate(rows))[0].sum().backward()
    for head, tail in rows:
        logps = other(torch.tensor([head + tail])).logits[0].log_softmax(-1)
        logps[len(head) - 1 : -1].gather(
            1, torch.tensor(tail)[:, None]
        ).sum().backward()
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert_close(a.grad, b.grad, atol=2e-4, rtol=1e-3)


def test_only_reply_positions_reach_the_head(loaded, prompts):
    model, tokenizer = loaded
    seen = []
    handle = model.get_output_embeddings().register_forward_hook(
        lambda m, args, out: seen.append(out.shape[:2])
    )
    rows = tokens.encode_many(tokenizer, prompts, REPLIES)
    logprobs.sequence_logps(model, tokens.collate(rows))
    handle.remove()
    assert seen == [(1, sum(len(tail) for _, tail in rows))]


@pytest.mark.parametrize("family", ["gemma2", "gpt2"])
def test_models_with_capped_logits_or_absolute_positions(family):
    """Gemma 2 caps its logits after the head, GPT-2 learns positions: both must equal their own full forward."""
    torch.manual_seed(0)
    if family == "gemma2":
        sizes = dict(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            head_dim=16,
        )
        model = Gemma2ForCausalLM(
            Gemma2Config(
                vocab_size=50,
                num_key_value_heads=1,
                final_logit_softcapping=0.5,
                **sizes,
            )
        )
    else:
        model = GPT2LMHeadModel(
            GPT2Config(vocab_size=50, n_embd=32, n_layer=2, n_head=2, n_positions=32)
        )
    model.eval()
    rows = [([1, 2, 3], [4, 5]), ([6], [7, 8, 9, 10]), ([11, 12], [13])]
    got, _ = logprobs.sequence_logps(model, tokens.collate(rows))
    for value, (head, tail) in zip(got, rows, strict=True):
        logps = model(torch.tensor([head + tail])).logits[0].log_softmax(-1)
        want = logps[len(head) - 1 : -1].gather(1, torch.tensor(tail)[:, None]).sum()
        assert_close(value, want, atol=1e-5, rtol=1e-5)


def test_a_head_out_of_reach_falls_back_to_full_logits(loaded, prompts):
    model, tokenizer = loaded

    class Wrapped(torch.nn.Module):  # has no get_output_embeddings
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, **kwargs):
            return self.inner(**kwargs)

    batch = tokens.collate(tokens.encode_many(tokenizer, prompts, REPLIES))
    for a, b in zip(
        logprobs.sequence_logps(Wrapped(), batch),
        logprobs.sequence_logps(model, batch),
        strict=True,
    ):
        assert_close(a, b, atol=1e-5, rtol=1e-6)


@pytest.mark.parametrize("target", [["q_proj"], ["q_proj", "lm_head"]])
def test_peft_adapters_count_also_on_the_head(loaded, prompts, target):
    from peft import LoraConfig, get_peft_model

    model, tokenizer = loaded
    model.config.tie_word_embeddings = (
        False  # or PEFT warns about an adapter on a tied head
    )
    before = logprobs.response_logps(model, tokenizer, prompts, REPLIES).summed
    torch.manual_seed(0)
    config = LoraConfig(r=4, target_modules=target, init_lora_weights=False)
    adapted = get_peft_model(model, config).eval()
    got = logprobs.response_logps(adapted, tokenizer, prompts, REPLIES).summed
    want = torch.tensor(
        [
            naive(adapted, tokenizer, p, r)[0]
            for p, r in zip(prompts, REPLIES, strict=True)
        ]
    )
    assert_close(got, want, atol=1e-4, rtol=1e-5)
    assert (got - before).abs().max() > 1e-3  # the adapter does something
    with adapted.disable_adapter():
        assert_close(
            logprobs.response_logps(adapted, tokenizer, prompts, REPLIES).summed,
            before,
            atol=1e-5,
            rtol=1e-6,
        )


def test_scoring_leaves_the_mode_and_takes_no_gradient(loaded, prompts):
    model, tokenizer = loaded
    model.train()
    assert not logprobs.response_logps(
        model, tokenizer, prompts, REPLIES
    ).summed.requires_grad
    assert model.training
    assert logprobs.response_logps(model, tokenizer, [], []).summed.shape == (0,)


# ---- bad input ----


def test_a_row_longer_than_the_model_is_named(loaded, prompts):
    model, tokenizer = loaded
    with pytest.raises(
        ValueError,
        match=r"row 1: prompt \(\d+ tokens\) and reply \(\d+ tokens\).*256 positions",
    ):
        logprobs.response_logps(model, tokenizer, prompts[:2], ["short", "long " * 300])


def test_bad_input_is_named(loaded, prompts):
    model, tokenizer = loaded
    with pytest.raises(ValueError, match="2 prompts but 1 replies"):
        logprobs.response_logps(model, tokenizer, prompts[:2], ["a"])
    with pytest.raises(ValueError, match="row 1: the reply must be text"):
        logprobs.response_logps(model, tokenizer, prompts[:2], ["a", None])
    with pytest.raises(ValueError, match="same number of replies"):
        logprobs.response_logps(model, tokenizer, prompts[:2], [["a", "b"], ["a"]])


# ---- pointwise mutual information ------------------------------------------------------------------------------------


def examples():
    contexts = ["I am a nurse.", "I am a farmer.", "I am a nurse."]
    return [{"query": "Explain what a loan is.", "context": c} for c in contexts]


def test_conditional_pmi_against_the_average_over_contexts(loaded):
    model, tokenizer = loaded
    got = logprobs.conditional_pmi(model, tokenizer, examples(), REPLIES[:3])
    for value, record, reply in zip(got, examples(), REPLIES, strict=False):
        under = [
            naive(model, tokenizer, render(tokenizer, r["query"], r["context"]), reply)[
                0
            ]
            for r in examples()
        ]
        mean = (
            torch.tensor(under, dtype=torch.float64).exp().mean().log()
        )  # the nurse counts twice
        own = naive(
            model,
            tokenizer,
            render(tokenizer, record["query"], record["context"]),
            reply,
        )[0]
        assert_close(value.double(), own - mean, atol=2e-5, rtol=0)


def test_conditional_pmi_against_a_missing_context(loaded):
    model, tokenizer = loaded
    got = logprobs.conditional_pmi(model, tokenizer, examples(), REPLIES[:3], "missing")
    for value, record, reply in zip(got, examples(), REPLIES, strict=False):
        prompts = [
            render(tokenizer, record["query"], c) for c in (record["context"], "")
        ]
        own, none = (naive(model, tokenizer, p, reply)[0] for p in prompts)
        assert_close(
            value.double(),
            torch.tensor(own - none, dtype=torch.float64),
            atol=2e-5,
            rtol=0,
        )


def test_conditional_pmi_of_one_context_is_zero(loaded):
    model, tokenizer = loaded
    got = logprobs.conditional_pmi(model, tokenizer, examples()[:1], REPLIES[:1])
    assert_close(got, torch.zeros(1), atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="marginal must be"):
        logprobs.conditional_pmi(model, tokenizer, examples()[:1], REPLIES[:1], "none")
    with pytest.raises(ValueError, match="3 examples but 1 replies"):
        logprobs.conditional_pmi(model, tokenizer, examples(), REPLIES[:1])


def nats(*values):
    return torch.tensor(values, dtype=torch.float64).log()


def test_pmi_over_contexts_by_hand():
    own = nats(0.6, 0.1)
    under = torch.stack(
        [nats(0.6, 0.2), nats(0.1, 0.3)]
    )  # even means 0.4 and 0.2; weighted 3 to 1: 0.5 and 0.15
    assert_close(logprobs.pmi_over_contexts(own, under), nats(1.5, 0.5))
    assert_close(
        logprobs.pmi_over_contexts(own, under, torch.tensor([3.0, 1.0])),
        nats(0.6 / 0.5, 0.1 / 0.15),
    )
    assert_close(
        logprobs.pmi_over_contexts(own, nats(0.3, 0.4)[:, None]), nats(2.0, 0.25)
    )  # one context


def test_pmi_over_contexts_is_zero_where_context_says_nothing_and_log_k_at_most():
    own = torch.tensor([-3.0, -1e5], dtype=torch.float64)
    assert_close(
        logprobs.pmi_over_contexts(own, own[:, None].expand(2, 5)),
        torch.zeros(2, dtype=torch.float64),
    )
    alone = torch.tensor([[-5.0, -2e3, -2e3, -2e3]], dtype=torch.float64)
    assert_close(
        logprobs.pmi_over_contexts(alone[:, 0], alone), nats(4.0)
    )  # the bound is reached


@pytest.mark.parametrize("shapes", [((2,), (2,)), ((2,), (3, 4)), ((2, 1), (2, 4))])
def test_pmi_over_contexts_shapes(shapes):
    with pytest.raises(ValueError, match="shapes"):
        logprobs.pmi_over_contexts(torch.zeros(shapes[0]), torch.zeros(shapes[1]))


# ---- PMI per token, the reply alone ----------------------------------------------------------------------------------


def test_response_pmi_by_hand():
    """Three tokens with prompt: -1, -2, -3; alone after a start: -2, -3, -4; without the first: -5, -6."""
    summed, tokens_, first = (
        torch.tensor([-6.0]),
        torch.tensor([3]),
        torch.tensor([-1.0]),
    )
    alone = {"start": -9.0, "drop": -11.0, "released": -11.0}
    want = {"start": -2 + 3, "drop": -5 / 2 + 11 / 2, "released": -2 + 11 / 2}
    for name, value in want.items():
        got = logprobs.response_pmi(
            summed, tokens_, first, torch.tensor([alone[name]]), first_token=name
        )
        assert got.item() == pytest.approx(value)


@pytest.mark.parametrize("first_token", logprobs.FIRST_TOKEN)
def test_prompt_pmi_equals_naive(loaded, prompts, first_token):
    """The reply's tokens one by one from full logits, with and without the prompt; a one-token reply is finite."""
    model, tokenizer = loaded
    got = logprobs.prompt_pmi(
        model, tokenizer, prompts, REPLIES, first_token=first_token
    )

    def nats_of(ids, begin):
        with torch.no_grad():
            logps = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
        return [logps[t - 1, ids[t]].item() for t in range(begin, len(ids))]

    for value, prompt, reply in zip(got, prompts, REPLIES, strict=True):
        head, tail = tokens.encode(tokenizer, prompt, reply)
        after = nats_of(head + tail, len(head))
        if first_token == "start":
            alone = nats_of([logprobs.start_token(tokenizer), *tail], 1)
            want = sum(after) / len(after) - sum(alone) / len(alone)
        elif len(tail) == 1:
            want = 0.0
        else:
            alone, with_prompt = (
                nats_of(tail, 1),
                after[1:] if first_token == "drop" else after,
            )
            want = sum(with_prompt) / len(with_prompt) - sum(alone) / len(alone)
        assert value.item() == pytest.approx(want, abs=1e-5)


def test_the_released_first_token_biases_by_length():
    """A reply whose tokens are as likely with prompt as without (-1 each), but for a first token of -4 with the prompt.

    "drop" sees no PMI; "released" compares -(L + 3)/L with -1: -3/L, which shrinks with length and does not cancel.
    """
    for length in (2, 4, 30):
        args = (
            torch.tensor([-(length + 3.0)]),
            torch.tensor([length]),
            torch.tensor([-4.0]),
            torch.tensor([1.0 - length]),
        )
        assert logprobs.response_pmi(*args, first_token="drop").item() == pytest.approx(
            0
        )
        assert logprobs.response_pmi(
            *args, first_token="released"
        ).item() == pytest.approx(-3 / length, abs=1e-6)


def test_an_unknown_first_token_is_named():
    with pytest.raises(
        ValueError, match="first_token must be one of start, drop, released; got 'bos'"
    ):
        logprobs.marginal_row([1, 2], 0, "bos")


def test_virtual_tokens_of_an_adapter_stand_before_the_prompt(tiny_llama):
    """Prompt tuning puts three tokens in front: the reply's logits lie three later."""
    base = AutoModelForCausalLM.from_pretrained(tiny_llama, trust_remote_code=False)
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    model = get_peft_model(base, config).eval()
    prompt, reply = [5, 6, 7, 8], [9, 10]
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([prompt + reply])).logits[0]
        scored = logprobs.token_logps(model, tokens.collate([(prompt, reply)]))[0]
    assert len(logits) == 3 + 6
    first_reply = 3 + len(prompt)
    by_hand = logits.log_softmax(-1)
    expected = [by_hand[first_reply - 1, 9], by_hand[first_reply, 10]]
    torch.testing.assert_close(scored, torch.stack(expected))
