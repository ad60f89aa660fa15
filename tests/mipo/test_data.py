"""Records and prompts: what is read, what is refused and in which words, and that no prompt has two BOS."""

import json
import os

import numpy as np
import pandas as pd
import pytest

from mipo import data


def _write(tmp_path, content):
    path = tmp_path / "mine.jsonl"
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return path


def test_read_jsonl_twenty_examples(examples_jsonl, examples_list):
    examples = data.load(examples_jsonl)
    assert len(examples) == 20
    assert examples[0] == {**examples_list[0], "read_from": f"{examples_jsonl}, line 1"}
    assert examples[3]["gold"] is None  # left out in the file
    assert data.load(str(examples_jsonl)) == examples  # a path as text is the same


def test_read_jsonl_keeps_extra_fields_blank_lines_and_bom(tmp_path):
    lines = '\ufeff{"query": "a?", "person": 3}\r\n\r\n{"query": "é?", "context": null, "gold": "ü"}'
    file = _write(tmp_path, lines)
    assert data.read_jsonl(file) == [
        {
            "query": "a?",
            "person": 3,
            "context": "",
            "gold": None,
            "read_from": f"{file}, line 1",
        },
        {"query": "é?", "context": "", "gold": "ü", "read_from": f"{file}, line 3"},
    ]


def test_read_jsonl_reads_what_pandas_writes(tmp_path):
    """`DataFrame.to_json(orient="records", lines=True)`: slashes escaped, null for nothing."""
    table = pd.DataFrame(
        {"query": ["a/b?", "é\u2028?"], "context": [None, "x"], "age": [3, np.nan]}
    )
    table.to_json(tmp_path / "mine.jsonl", orient="records", lines=True)
    assert "\\/" in (tmp_path / "mine.jsonl").read_text()
    first, second = data.read_jsonl(tmp_path / "mine.jsonl")
    assert (first["query"], first["context"], first["age"]) == ("a/b?", "", 3)
    assert (second["query"], second["context"]) == ("é\u2028?", "x")
    assert second["age"] is None


GOOD = '{"query": "fine?"}\n'


@pytest.mark.parametrize(
    "content, words",
    [
        (GOOD + '{"context": "x"}', ["line 2", '"query" is missing']),
        (GOOD + '{"prompt": "x"}', ["line 2", 'rename "prompt" to "query"']),
        (GOOD + '{"query": "  "}', ["line 2", '"query" is empty']),
        (GOOD + '{"query": "x"', ["line 2", "not JSON"]),
        (GOOD + "{'query': 'x'}", ["line 2", "not JSON"]),
        (GOOD + '["query"]', ["line 2", "expected a JSON object", "an array"]),
        (GOOD + "3", ["line 2", "a number"]),
        ("", ["no example"]),
        ("\n \n", ["no example"]),
        (GOOD + '{"query": 3}', ["line 2", '"query" must be text', "a number"]),
        (GOOD + '{"query": null}', ["line 2", '"query" must be text', "null"]),
        (
            GOOD + '{"query": "x", "context": ["a"]}',
            ["line 2", '"context" must be text', "an array"],
        ),
        (
            GOOD + '{"query": "x", "gold": true}',
            ["line 2", '"gold" must be text', "true"],
        ),
        (
            GOOD + '{"query": "x", "contex": "a"}',
            ["line 2", 'unknown field "contex"', 'did you mean "context"'],
        ),
        (
            GOOD + '{"Query": "x"}',
            ["line 2", 'unknown field "Query"', 'did you mean "query"'],
        ),
        (GOOD + '{"query": "x", "golden": "a"}', ["line 2", 'did you mean "gold"']),
        (GOOD + '{"query": "x", "query": "y"}', ["line 2", "given twice"]),
        # as pandas writes numbers, and what is missing in a column of text
        (GOOD + '{"query": "x", "gold": 4.0}', ["line 2", '"gold" must be text']),
        (GOOD + '{"query": "x", "context": NaN}', ["line 2", '"context": a number']),
        (
            GOOD + '{"query": "x", "context": "nan"}',
            ["line 2", 'field "context" is "nan", which pandas writes'],
        ),
        (
            GOOD + '{"query": "x", "person": "NaN"}',
            ["line 2", 'field "person" is "NaN"', "write null"],
        ),
        (GOOD.encode() + '{"query": "é"}'.encode("latin-1"), ["line 2", "not UTF-8"]),
        (GOOD.encode("utf-16"), ["line 1", "not UTF-8"]),
        (GOOD.encode("utf-16-le"), ["line 1", "not UTF-8"]),
    ],
)
def test_read_jsonl_refuses_naming_file_and_line(tmp_path, content, words):
    path = _write(tmp_path, content)
    with pytest.raises(ValueError) as error:
        data.read_jsonl(path)
    for word in ["mine.jsonl", *words]:
        assert word in str(error.value)


def test_load_unknown_names(tmp_path):
    with pytest.raises(ValueError, match='did you mean "polis"'):
        data.load("pollis")
    with pytest.raises(ValueError, match="ends in .jsonl"):
        data.load(tmp_path / "x.csv")
    with pytest.raises(ValueError, match="no such file"):
        data.load(tmp_path / "nowhere.jsonl")


def _tokenizer(folder):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)


def test_render_is_one_user_turn(tiny_qwen2):
    tok = _tokenizer(tiny_qwen2)
    expected = "<|im_start|>user\nI am a baker.\n\nWhat is a loan?<|im_end|>\n<|im_start|>assistant\n"
    assert data.render(tok, "What is a loan?", "I am a baker.") == expected
    assert data.render(tok, "What is a loan?") == expected.replace(
        "I am a baker.\n\n", ""
    )


def test_render_never_two_bos(tiny_llama):
    tok = _tokenizer(tiny_llama)
    whole = tok.apply_chat_template(
        [{"role": "user", "content": "c\n\nq"}],
        tokenize=False,
        add_generation_prompt=True,
    )
    assert tok(whole)["input_ids"][:2] == [tok.bos_token_id] * 2  # the trap is there
    ids = tok(data.render(tok, "q", "c"))["input_ids"]
    assert (
        ids == tok(whole, add_special_tokens=False)["input_ids"]
    )  # what the template's author meant
    assert ids.count(tok.bos_token_id) == 1


def test_render_keeps_bos_that_nobody_else_adds(tiny_llama):
    tok = _tokenizer(tiny_llama)
    tok.backend_tokenizer.post_processor = None  # this tokenizer adds no BOS
    ids = tok(data.render(tok, "q", "c"))["input_ids"]
    assert ids[0] == tok.bos_token_id and ids.count(tok.bos_token_id) == 1


def test_render_needs_template_and_text(tiny_qwen2):
    tok = _tokenizer(tiny_qwen2)
    with pytest.raises(ValueError, match="query must be text"):
        data.render(tok, None)
    with pytest.raises(ValueError, match="context must be text"):
        data.render(tok, "q", ["c"])
    tok.chat_template = None
    with pytest.raises(ValueError, match="no chat template"):
        data.render(tok, "q")


def test_tiny_models_load_and_answer(tiny_model_dir):
    import torch
    from transformers import AutoModelForCausalLM

    tok = _tokenizer(tiny_model_dir)
    model = AutoModelForCausalLM.from_pretrained(
        tiny_model_dir, trust_remote_code=False
    )
    assert sorted(
        p.suffix for p in tiny_model_dir.iterdir() if p.stat().st_size > 50_000
    ) == [".safetensors"]
    assert (
        tok.decode(tok("Dear neighbour, ça va?", add_special_tokens=False)["input_ids"])
        == "Dear neighbour, ça va?"
    )
    batch = tok([data.render(tok, "Explain what a loan is.")], return_tensors="pt")
    out = model.generate(
        **{k: batch[k] for k in ("input_ids", "attention_mask")},
        max_new_tokens=3,
        do_sample=False,
    )
    assert (
        out.shape[1] <= batch["input_ids"].shape[1] + 3
        and torch.isfinite(model(out).logits).all()
    )


def test_environment_is_offline(examples_jsonl):
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    assert (
        len([json.loads(line) for line in examples_jsonl.read_text().splitlines()])
        == 20
    )
