"""Small data sets in the hub's own layout (README.md with configurations, JSONL files) and with the hub's columns."""

import json
import shutil

import torch
from transformers import AutoConfig

from mipo_study.hub import train

TRAITS = (
    "values",
    "creativity",
    "fluency",
    "factuality",
    "diversity",
    "safety",
    "personalisation",
    "helpfulness",
)


def write(folder, files, configs):
    """files {name: rows}; configs [(configuration, split, file)]."""
    folder.mkdir(parents=True)
    for name, rows in files.items():
        (folder / name).write_text(
            "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8"
        )
    named = {}
    for config, split, file in configs:
        named.setdefault(config, []).append(f"  - split: {split}\n    path: {file}")
    lines = [
        f"- config_name: {config}\n  data_files:\n" + "\n".join(parts)
        for config, parts in named.items()
    ]
    (folder / "README.md").write_text(
        "---\nconfigs:\n" + "\n".join(lines) + "\n---\n", encoding="utf-8"
    )
    return folder


def prism(folder, people=6, each=3):
    survey = [
        {
            "user_id": f"u{i}",
            "system_string": f"Talk like a {w}." if i % 3 else "",
            "stated_prefs": {
                **{t: 10 * ((i + k) % 8) for k, t in enumerate(TRAITS)},
                "other": None,
            },
        }
        for i, w in zip(
            range(people), "friend teacher poet clerk sailor cook".split(), strict=True
        )
    ]
    talks = [
        {
            "conversation_id": f"c{i}-{j}",
            "user_id": f"u{i}",
            "conversation_history": [
                {"turn": 0, "role": "user", "content": f"Question {j} of {i}?"},
                {
                    "turn": 0,
                    "role": "model",
                    "content": "No.",
                    "score": 20,
                    "if_chosen": False,
                },
                {
                    "turn": 0,
                    "role": "model",
                    "content": f"Yes, {i}.",
                    "score": 90,
                    "if_chosen": True,
                },
                {"turn": 1, "role": "user", "content": "Later?"},
            ],
        }
        for i in range(people)
        for j in range(each)
    ]
    return write(
        folder,
        {"survey.jsonl": survey, "conversations.jsonl": talks},
        [
            ("survey", "train", "survey.jsonl"),
            ("conversations", "train", "conversations.jsonl"),
        ],
    )


def community(folder, people=4, each=3):
    rows = [
        {
            "annotator_id": f"a{i}",
            "assigned_lang": "en" if j or i else "fr",
            "first_turn_prompt": f"Ask {j}?",
            "first_turn_preferred_response": "response_b",
            "first_turn_feedback": f"{i} likes {j}",
            **{
                f"first_turn_response_{x}": f"{x} {i} {j}<|end_of_text|>"
                for x in "abcd"
            },
        }
        for i in range(people)
        for j in range(each)
    ]
    return write(folder, {"train.jsonl": rows}, [("default", "train", "train.jsonl")])


def multifaceted(folder, n=6):
    rows = [
        {
            "source": "x",
            "system": f"You advise person {i}.",
            "prompt": f"What about {i}?",
            "rubrics": [],
            "reference_answer": f"Do {i}.",
            "preference_set": [{"dimension": "style", "preference": f"tone {i}"}],
        }
        for i in range(n)
    ]
    return write(folder, {"train.jsonl": rows}, [("default", "train", "train.jsonl")])


def gsm8k(folder, n=8):
    """A test item that stands in the training part, too."""

    def row(i):
        return {
            "question": f"Ann has {i} pens and gets {i + 1000}. How many?",
            "answer": f"x\n#### {2 * i + 1000:,}",
        }

    return write(
        folder,
        {
            "train.jsonl": [row(i) for i in range(n)],
            "test.jsonl": [row(i) for i in range(n - 1, n + 4)],
        },
        [("main", "train", "train.jsonl"), ("main", "test", "test.jsonl")],
    )


def arc(folder, n=6):
    def row(i):
        labels = list("ABCD") if i % 2 else list("1234")
        return {
            "id": f"q{i}",
            "question": f"Which is {i}?",
            "answerKey": labels[i % 4],
            "choices": {"text": [f"t{i}{k}" for k in range(4)], "label": labels},
        }

    return write(
        folder,
        {
            "train.jsonl": [row(i) for i in range(n)],
            "test.jsonl": [row(i) for i in range(n, 2 * n)],
        },
        [
            ("ARC-Challenge", "train", "train.jsonl"),
            ("ARC-Challenge", "test", "test.jsonl"),
        ],
    )


def ultrafeedback(folder, n=10):
    def row(i, same=False):
        ask = {"role": "user", "content": f"Say {i}."}
        good, bad = f"Here is {i}, with care.", f"{i}"
        return {
            "prompt": ask["content"],
            "chosen": [ask, {"role": "assistant", "content": good}],
            "rejected": [ask, {"role": "assistant", "content": good if same else bad}],
            "score_chosen": 8.0,
        }

    rows = {
        "train.jsonl": [row(i, same=i == 0) for i in range(n)],
        "test.jsonl": [row(i + 100) for i in range(5)],
    }
    return write(
        folder,
        rows,
        [
            ("default", "train_prefs", "train.jsonl"),
            ("default", "test_prefs", "test.jsonl"),
        ],
    )


def svamp(folder, n=8):
    def row(i):
        return {
            "ID": f"chal-{i}",
            "Body": f"Tom has {i} cups and buys {i + 1}.",
            "Question": "How many are there?",
            "Answer": f"{2 * i + 1}.0",
            "Equation": f"( {i}.0 + {i + 1}.0 )",
        }

    return write(
        folder,
        {
            "train.jsonl": [row(i) for i in range(n)],
            "test.jsonl": [row(i) for i in range(n, n + 4)],
        },
        [("default", "train", "train.jsonl"), ("default", "test", "test.jsonl")],
    )


def mmlu(folder, n=8):
    def row(i):
        return {
            "question": f"What is {i}?",
            "choices": [f"t{i}{k}" for k in range(4)],
            "answer": i % 4,
            "subject": ("anatomy", "virology")[i % 2],
        }

    return write(
        folder,
        {
            "val.jsonl": [row(i) for i in range(n)],
            "test.jsonl": [row(i) for i in range(n, n + 4)],
        },
        [("all", "validation", "val.jsonl"), ("all", "test", "test.jsonl")],
    )


def roomy(folder, target, positions=8192):
    """The tiny model with room for long prompts; its positions are rotary, so that nothing else changes."""
    shutil.copytree(folder, target)
    config = AutoConfig.from_pretrained(target, trust_remote_code=False)
    config.max_position_embeddings = positions
    config.save_pretrained(target)
    return target


def parrot(folder, target, says=("A", " ", "1"), *, firmly=1.0):
    """A judge that says "A 1" to everything: it takes what it reads first, and rates it 1. Or who mostly says `says`.

    Its layers add nothing, so that the last token alone decides the next one: line break, A, space, 1, end.
    """
    model, tokenizer = train.load(roomy(folder, target), dtype="float32", device="cpu")
    tokenizer.add_tokens([text for text in says if len(text) > 1])  # one token each
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.config.tie_word_embeddings = False
    model.lm_head = torch.nn.Linear(32, len(tokenizer), bias=False)
    chain = [
        tokenizer("user\n")["input_ids"][-1],
        *(tokenizer(t)["input_ids"][0] for t in says),
    ]
    words = model.get_input_embeddings().weight
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.lm_head.weight.zero_()
        for last, following in zip(
            chain, [*chain[1:], tokenizer.eos_token_id], strict=True
        ):
            model.lm_head.weight[following] = firmly * words[last] / words[last].norm()
    for part in (model, tokenizer):
        part.save_pretrained(target)
    return target
