"""Files written whole, JSON that is sealed, hashes of content."""

import hashlib
import json
import os
import subprocess
import sys

import pytest

from mipo import files


def test_a_file_is_hashed_once_until_it_changes(tmp_path, monkeypatch):
    file, read, original = tmp_path / "weights", [], files.hashlib.file_digest
    monkeypatch.setattr(
        files.hashlib,
        "file_digest",
        lambda opened, how: read.append(1) or original(opened, how),
    )
    file.write_text("one")
    first = files.content_hash(file)
    assert (
        files.content_hash(file) == files.content_hash(tmp_path / "weights") == first
        and len(read) == 1
    )
    os.replace(file, tmp_path / "old")
    file.write_text("two")  # as long as before
    assert (
        files.content_hash(file) != first
        and files.content_hash(tmp_path / "old") == first
    )
    text = (
        b"\0" + hashlib.sha256(b"one").digest()
    )  # by hand: no name for a lone file, then the hash of its bytes
    assert first == hashlib.sha256(text).hexdigest()


def test_write_whole_keeps_the_old_file_when_it_cannot_write(tmp_path):
    file = files.write_whole(tmp_path / "a.json", "old")
    with pytest.raises(TypeError):
        files.write_whole(file, object())
    assert file.read_text() == "old"


def test_import_is_fast_and_takes_no_torch():
    code = (
        "import time; t = time.perf_counter(); import mipo; s = time.perf_counter() - t; import sys; "
        "from mipo import record; print(s < 0.5, 'torch' in sys.modules, 'matplotlib' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout == "True False False\n"


def test_halves_of_a_killed_writer_are_removed_and_of_a_living_one_are_not(tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    names = [f".a.json.{pid}.partial" for pid in (gone.pid, os.getppid())]
    names.append(f".b.json.{gone.pid}.partial")  # another file's
    for name in names:
        (tmp_path / name).write_text("half")
    files.write_whole(tmp_path / "a.json", "whole")
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"a.json", *names[1:]}


def test_what_was_not_written_leaves_no_half(tmp_path):
    with pytest.raises(TypeError):
        files.write_whole(tmp_path / "a.json", object())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("old, new", [("1.5", "9.5"), ("b", "c"), ("{", "[{")])
def test_a_sealed_file_that_was_changed_is_refused_by_name(old, new, tmp_path):
    document = {"b": [1.5, None, "é"], "x": {2: 1e-9, 10: 3}}
    file = files.write_whole(tmp_path / "a.json", files.seal(document))
    assert files.unseal(file) == {
        "b": [1.5, None, "é"],
        "x": {"2": 1e-9, "10": 3},
    }
    file.write_text(file.read_text(encoding="utf-8").replace(old, new, 1))
    with pytest.raises(ValueError, match="a.json"):
        files.unseal(file)


@pytest.mark.parametrize("text", ["[]", "null", "3", "[" * 100_000, "", "{", "{}"])
def test_what_is_no_sealed_object_is_one_error(text, tmp_path):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match="a.json"):
        files.unseal(tmp_path / "a.json")


def test_a_file_of_before_may_be_read_without_a_seal(tmp_path):
    (tmp_path / "a.json").write_text('{"x": 1}')
    assert files.unseal(tmp_path / "a.json", must=False) == {"x": 1}
    changed = json.loads(files.seal({"x": 1})) | {"x": 2}
    (tmp_path / "a.json").write_text(json.dumps(changed))
    with pytest.raises(ValueError, match="changed"):
        files.unseal(tmp_path / "a.json", must=False)


def test_content_counts_names_and_bytes_of_a_folder(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "b").write_text("two")
    first = files.content_hash(tmp_path)
    by_hand = hashlib.sha256(b"in/b\0" + hashlib.sha256(b"two").digest())
    assert first == by_hand.hexdigest()
    (tmp_path / "in" / "b").rename(tmp_path / "in" / "c")
    assert files.content_hash(tmp_path) != first
