"""Replies under the clock: every contestant answers, ratios by hand, and what the page shows."""

import copy
import json

import pytest
import torch

from mipo import models, packaged
from mipo.lm import sampling
from mipo_study.bench import replies
from mipo_study.book import tables

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIPO_CACHE", str(tmp_path_factory.mktemp("cache")))
        return models.load_model(packaged.STAND_IN, device="cpu")


def test_prompts_begin_alike_as_far_as_the_page_says(tiny):
    model, tokenizer = tiny
    cases = replies.prompts_of(tokenizer)
    for case, alike in (
        ("questions", "<|im_end|>\n<|im_start|>user\n"),
        ("worked examples", "New question: Ann has "),
    ):
        ids = [tokenizer(prompt)["input_ids"] for prompt in cases[case]]
        shared = sampling.common_prefix(model, ids)
        assert tokenizer.decode(ids[0][:shared]).endswith(alike)


def test_ratios_are_within_a_repetition():
    """Two repetitions: 3/1 and 2/2, so a median of 2; the precision alone makes 1 and 2."""
    seconds = {
        (name, dtype): [1.0, 2.0]
        for name in replies.CONTESTANTS
        for dtype in replies.DTYPES
    }
    seconds["generate", "float32"] = [3.0, 2.0]
    found = replies.summary(seconds)
    assert found["ratios"]["generate / ours, float32"] == [2.0, 1.0, 3.0]
    assert found["ratios"]["ours, float32 / bfloat16"] == [1.0, 1.0, 1.0]
    assert found["tokens per second"]["generate, float32"] == 1 / 2.5


def test_every_contestant_takes_part_and_the_page_shows_it(tiny, tmp_path, monkeypatch):
    model, tokenizer = tiny
    light = copy.deepcopy(model)
    light.to(torch.bfloat16)
    how = {"repetitions": 1, "max_new_tokens": 2, "progress": False}
    cases = replies.measure(model, light, tokenizer, **how)
    assert set(cases) == {"questions", "worked examples"}
    assert all(set(found["ratios"]) == set(replies.RATIOS) for found in cases.values())
    apart = replies.apart(model, light, tokenizer, ["Hello there."])
    assert 0 < apart["mean"] <= apart["largest"] < 0.5
    about = {"device": "d", "model": "m", "machine": "x", "threads": 1, "commit": "c"}
    run = about | {"cases": cases, "bfloat16_apart": apart, "load_before": 0.5}
    folder = tmp_path / "results" / "bench" / "real"
    folder.mkdir(parents=True)
    (folder / "d.json").write_text(json.dumps(run | {"date": "2026-11-27T00:00"}))
    monkeypatch.setenv("MIPO_ROOT", str(tmp_path))
    shown = tables.bench_replies()
    assert "| 16 questions | generate / ours, float32 |" in shown
    assert "load 0.5" in shown
