"""Measures of a reader's own model and examples: closed forms on tables, then tiny models in hub format end to end."""

import numpy as np
import pytest

from mipo import data, models
from mipo.data import render
from mipo.evaluate import reference_free
from mipo.logprobs import response_logps


def test_groups_have_the_own_context_first_and_no_repeats(examples_list):
    found = reference_free.groups(examples_list, 3, seed=1)
    assert [g[0] for g in found] == [r["context"] for r in examples_list]
    assert all(len(set(g)) == 3 for g in found)
    assert (
        found
        == reference_free.groups(examples_list, 3, seed=1)
        != reference_free.groups(examples_list, 3, seed=2)
    )
    assert all(
        len(g) == 5 for g in reference_free.groups(examples_list, 8)
    )  # five people are all there are


def test_groups_need_two_people_and_two_contexts(examples_list):
    with pytest.raises(ValueError, match="at least two people"):
        reference_free.groups(examples_list[:4], 3)
    with pytest.raises(ValueError, match="contexts=1"):
        reference_free.groups(examples_list, 1)


def test_alike_compares_replies_to_one_query_only():
    rows = [{"query": q} for q in "aabb"]
    same, other = (
        "the quick brown fox jumps over it",
        "a completely different reply comes from here",
    )
    assert reference_free.alike([same, same, other, other], rows) == pytest.approx(100)
    assert reference_free.alike([same, other, same, other], rows) < 20
    assert reference_free.alike(
        [same, same], [{"query": "a"}, {"query": "b"}]
    ) == pytest.approx(100)  # no shared query: all


def test_measure_on_tiny_hub_models(tiny_model_dir, examples_jsonl):
    examples = data.read_jsonl(examples_jsonl)
    model, tokenizer = models.load_model(tiny_model_dir, device="cpu")
    found = reference_free.measure(
        model, tokenizer, examples, seed=3, max_new_tokens=6, contexts=3
    )
    assert found["chance"] == pytest.approx(1 / 3) and 0 <= found["retrieval"] <= 1
    assert len(found["pmi"]) == len(found["replies"]) == len(found["tokens"]) == 20
    assert np.isfinite(found["pmi"]).all() and max(found["pmi"]) <= np.log(3) + 1e-6
    assert (
        0 <= found["self_bleu"] <= 100
        and max(found["tokens"]) <= 18
        and 0 <= found["empty"] <= 1
    )
    # six tokens may be six broken bytes, which come back as three tokens each
    golds = [r for r in examples if r["gold"]]
    assert len(found["gold_logp"]) == len(found["gold_pmi"]) == len(golds) == 15
    prompt = render(tokenizer, golds[0]["query"], golds[0]["context"])
    direct = response_logps(model, tokenizer, [prompt], [golds[0]["gold"]]).mean
    assert found["gold_logp"][0] == pytest.approx(float(direct[0]), abs=1e-4)
    again = reference_free.measure(
        model, tokenizer, examples, seed=3, max_new_tokens=6, contexts=3
    )
    assert again == found


def test_measure_without_gold_says_so(tiny_qwen2, examples_list):
    model, tokenizer = models.load_model(tiny_qwen2, device="cpu")
    rows = [{k: v for k, v in r.items() if k != "gold"} for r in examples_list[:8]]
    found = reference_free.measure(model, tokenizer, rows, max_new_tokens=3, contexts=2)
    assert found["gold_logp"] is None and found["gold_pmi"] is None


def test_under_contexts_puts_the_own_context_first(tiny_llama, examples_list):
    model, tokenizer = models.load_model(tiny_llama, device="cpu")
    rows, replies = examples_list[:6], [f"I say {i}." for i in range(6)]
    crowd = reference_free.groups(rows, 2, seed=0)
    found = reference_free.under_contexts(model, tokenizer, rows, replies, crowd)
    for column in range(2):
        prompts = [
            render(tokenizer, r["query"], g[column])
            for r, g in zip(rows, crowd, strict=True)
        ]
        direct = (
            response_logps(model, tokenizer, prompts, replies).summed.double().numpy()
        )
        np.testing.assert_allclose(found[:, column], direct, atol=1e-4)
