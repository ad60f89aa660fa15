"""A reader's preference file: both formats, errors that name the line, whole prompts."""

import json

import pytest

from mipo import models, preference_data

PLAIN = {
    "prompt": "What is a loan?",
    "chosen": "Money to be paid back.",
    "rejected": "A fish.",
}
TALK = {
    "prompt": [{"role": "user", "content": "What is a loan?"}],
    "chosen": [{"role": "assistant", "content": "Money to be paid back."}],
    "rejected": [{"role": "assistant", "content": "A fish."}],
}
USER, BOT = (
    {"role": "user", "content": "Hello."},
    {"role": "assistant", "content": "Hi."},
)


def write(path, rows):
    path.write_bytes(
        b"".join(
            row if isinstance(row, bytes) else json.dumps(row).encode() + b"\n"
            for row in rows
        )
    )
    return path


def many(row, n=6):
    """n rows that ask about different things, in the format of `row`."""

    def ask(value, i):
        return (
            f"{value} {i}"
            if isinstance(value, str)
            else [{**m, "content": f"{m['content']} {i}"} for m in value]
        )

    return [row | {"prompt": ask(row["prompt"], i)} for i in range(n)]


@pytest.mark.parametrize("row", [PLAIN, TALK], ids=["standard", "conversational"])
def test_both_formats_are_read_and_further_columns_left_out(tmp_path, row):
    rows = preference_data.read(
        write(tmp_path / "p.jsonl", [*(r | {"score": 3} for r in many(row)), b"\n"])
    )
    assert [{k: v for k, v in r.items() if k != "read_from"} for r in rows] == many(row)
    assert rows[2]["read_from"].endswith("p.jsonl, line 3")


@pytest.mark.parametrize(
    "broken, message",
    [
        ({**TALK, "tools": [{"name": "f"}]}, 'column "tools" would change the prompt'),
        (
            {**TALK, "chat_template_kwargs": {"enable_thinking": False}},
            'column "chat_template_kwargs" would change the prompt',
        ),
        (b"{not json}\n", "not JSON"),
        (b'["a", "b"]\n', "expected a JSON object"),
        (
            {k: v for k, v in PLAIN.items() if k != "rejected"},
            'column "rejected" is missing; the line has prompt, chosen',
        ),
        (PLAIN | {"rejected": PLAIN["chosen"]}, '"chosen" equals "rejected"'),
        (TALK | {"rejected": TALK["chosen"]}, '"chosen" equals "rejected"'),
        (PLAIN | {"chosen": " \n"}, '"chosen" is empty'),
        (PLAIN | {"prompt": ""}, '"prompt" is empty'),
        (
            TALK | {"chosen": [{"role": "assistant", "content": ""}]},
            '"chosen: content" is empty',
        ),
        (PLAIN | {"chosen": 3}, '"chosen" must be text, got a number'),
        (PLAIN | {"chosen": TALK["chosen"]}, '"prompt" must be one too'),
        (
            TALK | {"chosen": "Money."},
            '"prompt" is a list of messages, so "chosen" must be one too',
        ),
        (TALK | {"chosen": []}, "and not empty"),
        (TALK | {"prompt": [{"content": "Hello."}]}, 'needs "role" and "content"'),
        (
            TALK | {"prompt": [USER, BOT]},
            "must end with a message of the user; its roles are user, assistant",
        ),
        (
            TALK | {"chosen": [USER, BOT]},
            "must be one message of the assistant; its roles are user, assistant",
        ),
        (
            b'{"prompt": "a", "prompt": "b", "chosen": "c", "rejected": "d"}\n',
            '"prompt" is given twice',
        ),
        (
            PLAIN | {"prompt": json.dumps(TALK["prompt"])},
            '"prompt" is a list of messages written as text',
        ),
        (  # as Python prints it, in a column of a table
            PLAIN | {"chosen": str(TALK["chosen"])},
            '"chosen" is a list of messages written as text',
        ),
        ('{"prompt": "café"}\n'.encode("latin-1"), "not UTF-8"),
        (json.dumps(PLAIN).encode("utf-16-le") + b"\n", "UTF-16"),
    ],
)
def test_each_fault_is_one_error_with_file_and_line(tmp_path, broken, message):
    path = write(tmp_path / "p.jsonl", [*many(PLAIN, 2), broken, *many(TALK, 2)])
    with pytest.raises(ValueError) as error:
        preference_data.read(path)
    assert message in str(error.value) and "p.jsonl, line 3" in str(error.value)


def test_fields_that_pandas_fills_with_null_are_no_fields(tmp_path):
    null = {"name": None, "tool_calls": None}
    rows = [
        {column: [message | null for message in talk] for column, talk in row.items()}
        for row in many(TALK, 2)
    ]
    read = preference_data.read(write(tmp_path / "p.jsonl", rows))
    assert [{k: row[k] for k in TALK} for row in read] == many(TALK, 2)


def test_replies_that_hold_their_prompt_are_refused(tmp_path):
    """As in files of whole texts; one reply that quotes its question is fine."""

    def whole(row):
        return row | {k: f"{row['prompt']} {row[k]}" for k in ("chosen", "rejected")}

    rows = many(PLAIN, 3)
    path = write(tmp_path / "p.jsonl", [whole(row) for row in rows])
    with pytest.raises(ValueError, match='begin with "prompt" in every row'):
        preference_data.read(path)
    assert preference_data.read(write(path, [whole(rows[0]), *rows[1:]]))


@pytest.mark.parametrize(
    "rows", [[], [PLAIN], [PLAIN, PLAIN | {"rejected": "A bird."}]]
)
def test_fewer_than_two_prompts_are_an_error(tmp_path, rows):
    with pytest.raises(
        ValueError, match=f"{len(rows)} row.*at least 2 different prompts"
    ):
        preference_data.read(write(tmp_path / "p.jsonl", rows))


def test_no_such_file(tmp_path):
    with pytest.raises(ValueError, match="no such file"):
        preference_data.read(tmp_path / "p.jsonl")


def test_split_keeps_prompts_together_and_the_seed_decides():
    rows = [
        row | {"rejected": f"Fish {k}."} for row in many(PLAIN, 20) for k in range(3)
    ]
    train, unseen = preference_data.split(rows, share=0.2, seed=1)
    assert len(train) == 48 and len(unseen) == 12
    assert not {r["prompt"] for r in train} & {r["prompt"] for r in unseen}
    assert [r for r in rows if r in unseen] == unseen  # in the file's order
    assert preference_data.split(rows, share=0.2, seed=1) == (train, unseen)
    assert preference_data.split(rows, share=0.2, seed=2)[1] != unseen
    assert (
        len(preference_data.split(many(PLAIN, 2), share=0.01)[1]) == 1
    )  # at least one is held out
    assert (
        len(preference_data.split(many(PLAIN, 2), share=0.99)[0]) == 1
    )  # and one is left to train on
    with pytest.raises(ValueError, match="share=1"):
        preference_data.split(rows, share=1)
    with pytest.raises(ValueError, match="2 different prompts"):
        preference_data.split([PLAIN], share=0.5)


def test_messages_become_the_tokens_of_the_chat_template(tiny_model_dir):
    """Expected: the template's own rendering of the whole conversation, up to the end of the reply."""
    _, tokenizer = models.load_model(tiny_model_dir, device="cpu")
    row = TALK | {
        "prompt": [{"role": "system", "content": "Be brief."}, *TALK["prompt"]],
        "read_from": "here",
    }
    text = preference_data.as_text([row], tokenizer)[0]
    whole = tokenizer.apply_chat_template(row["prompt"] + row["chosen"], tokenize=False)
    ours = tokenizer(text["prompt"] + text["chosen"] + tokenizer.eos_token)["input_ids"]
    theirs = tokenizer(whole, add_special_tokens=False)["input_ids"]
    assert (
        ours == theirs[: len(ours)] and len(theirs) - len(ours) <= 1
    )  # at most the line break after the end


def test_a_template_that_refuses_names_the_line(tiny_qwen2):
    _, tokenizer = models.load_model(tiny_qwen2, device="cpu")
    tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(ValueError, match="p.jsonl, line 7.*roles must alternate"):
        preference_data.as_text([TALK | {"read_from": "p.jsonl, line 7"}], tokenizer)
