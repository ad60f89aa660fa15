"""The reader of JSONL: what is read, and that each fault is one error with its place."""

import json

import pytest

from mipo import data, jsonl, preference_data

FINE = '{"query": "fine?"}'


def write(tmp_path, *lines):
    path = tmp_path / "mine.jsonl"
    path.write_bytes(
        b"\n".join(x if isinstance(x, bytes) else x.encode() for x in lines)
    )
    return path


def test_lines_keep_their_numbers_and_what_json_says(tmp_path):
    path = write(tmp_path, '\ufeff{"a": [1, 2.5]}\r', "", '{"b": "\\ud83d\\ude00"}')
    assert list(jsonl.read(path)) == [
        (f"{path}, line 1", {"a": [1, 2.5]}),
        (f"{path}, line 3", {"b": "😀"}),  # a whole surrogate pair is a character
    ]
    assert jsonl.rows(path) == [{"a": [1, 2.5]}, {"b": "😀"}]


def test_a_line_separator_inside_a_text_is_no_new_line(tmp_path):
    row = {"query": "one\u2028two\x85three"}
    path = write(tmp_path, json.dumps(row, ensure_ascii=False))
    assert jsonl.rows(path) == [row]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_every_line_end_ends_a_line(tmp_path, end):
    """Lone CR as well, which JSON allows within no text."""
    path = write(tmp_path, end.join(['{"a": "x\\ry"}', "", '{"b": 2}', ""]))
    assert list(jsonl.read(path)) == [
        (f"{path}, line 1", {"a": "x\ry"}),
        (f"{path}, line 3", {"b": 2}),
    ]


FAULTS = {
    "levels": ('{"x": ' + "[" * 100_000 + "]" * 100_000 + "}", "in each other"),
    "levels below Python's limit": (
        '{"x": ' + "[" * 200 + "]" * 200 + "}",
        'field "x": more than 64',
    ),
    "integer": ('{"x": ' + "9" * 5000 + "}", 'field "x": a number that is'),
    "65 bits": ('{"x": [{"y": 18446744073709551616}]}', 'field "x": a number'),
    "nan": ('{"x": NaN}', 'field "x": a number that is NaN'),
    "infinity": ('{"x": {"y": [-Infinity]}}', 'field "x": a number'),
    "overflow": ('{"x": 1e400}', 'field "x": a number'),
    "surrogate": ('{"x": "\\ud800"}', 'field "x": half a surrogate pair'),
    "surrogate in a name": ('{"\\udc00": 1}', "half a surrogate pair"),
    "surrogate deep": ('{"x": {"\\udc00": 1}}', 'field "x": half a surrogate'),
    "twice": ('{"x": {"y": 1, "y": 2}}', 'field "y" is given twice'),
    "text": ("three", "not JSON"),
    "two objects": ('{"a": 1} {"b": 2}', "not JSON"),
    "array": ("[1]", "expected a JSON object"),
    "NUL": ('{"x": "\0"}', "NUL"),
    "Latin-1": ('{"x": "é"}'.encode("latin-1"), "not UTF-8"),
}


@pytest.mark.parametrize("line, message", FAULTS.values(), ids=FAULTS)
def test_a_fault_is_one_error_with_file_line_and_field(tmp_path, line, message):
    path = write(tmp_path, FINE, line, FINE)
    with pytest.raises(ValueError) as error:
        list(jsonl.read(path))
    assert str(error.value).startswith(f"{path}, line 2: ") and message in str(
        error.value
    )
    assert str(error.value).encode()  # it can be printed


@pytest.mark.parametrize(
    "number", [2**63 - 1, -(2**63) + 1, 1.7e308, 0, True, None, 5e-324]
)
def test_numbers_that_fit_are_kept(tmp_path, number):
    path = write(tmp_path, json.dumps({"x": number}))
    assert jsonl.rows(path) == [{"x": number}]


@pytest.mark.parametrize(
    "text", ["", " \t", "\u200b", "\u2060\ufeff \u200d", "\u0301", "\u00a0"]
)
def test_what_cannot_be_seen_is_empty(tmp_path, text):
    assert jsonl.is_blank(text)
    path = write(tmp_path, FINE, json.dumps({"query": text}))
    with pytest.raises(ValueError, match='line 2: field "query" is empty'):
        data.read_jsonl(path)
    row = {"prompt": "Ask", "chosen": text, "rejected": "b"}
    path = write(tmp_path, json.dumps(row))
    with pytest.raises(ValueError, match='line 1: field "chosen" is empty'):
        preference_data.read(path)


@pytest.mark.parametrize("text", ["a", "é", "👩‍🚀", "?", "中"])
def test_what_can_be_seen_is_not(text):
    assert not jsonl.is_blank(text)


def test_both_formats_are_read_by_the_same_reader(tmp_path):
    """A fault that only `jsonl.read` knows of is found in examples and preferences."""
    path = write(tmp_path, FINE, '{"query": "a", "extra": 1e999}')
    for read in (data.read_jsonl, preference_data.read):
        with pytest.raises(ValueError, match='line 2: field "extra"|line 1: column'):
            read(path)
    path = write(tmp_path, '{"prompt": "a", "chosen": "b", "rejected": "c", "x": NaN}')
    with pytest.raises(ValueError, match='line 1: field "x": a number that is NaN'):
        preference_data.read(path)


def test_a_file_with_an_odd_name_is_read_and_named(tmp_path):
    """Space, hash and accent, which an address would write in another way."""
    path = tmp_path / "a b#é.jsonl"
    rows = [{"prompt": f"Ask {i}", "chosen": "b", "rejected": "c"} for i in range(2)]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    read = preference_data.read(str(path))
    assert read[1] == {**rows[1], "read_from": f"{path}, line 2"}
    path.write_text(FINE + "\n" + FINE.replace("query", "qery"), encoding="utf-8")
    with pytest.raises(ValueError) as error:
        data.load(str(path))
    assert str(error.value).startswith(f'{path}, line 2: unknown field "qery"')
    path.write_text(FINE, encoding="utf-8")
    [example] = data.load(str(path))
    assert example["query"] == "fine?"
    assert example["read_from"].endswith("a b#é.jsonl, line 1")
