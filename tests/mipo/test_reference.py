"""Cached reference log-probs: what comes back is what was put in, or is made anew."""

import shutil

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from mipo.lm import tokens
from mipo.lm.reference import Reference
from mipo.trainer import PreferenceConfig

ROWS = [([3, 4, 5], [6, 7]), ([3, 4, 5], [8]), ([9], [10, 11, 12])]


@pytest.fixture(scope="module")
def model(tiny_llama):
    loaded = AutoModelForCausalLM.from_pretrained(
        tiny_llama, dtype=torch.float32, trust_remote_code=False
    )
    return loaded.eval()


@pytest.fixture
def make(model, tmp_path):
    def reference():
        args = PreferenceConfig(output_dir=str(tmp_path), use_cpu=True, report_to=[])
        return Reference(model, 0, args)

    return reference


def by_hand(model):
    """Summed log-softmax of each reply's tokens, one row at a time."""
    sums = []
    for head, tail in ROWS:
        logits = model(torch.tensor([head + tail])).logits[0, len(head) - 1 : -1]
        logs = torch.log_softmax(logits, -1)
        sums.append(logs[range(len(tail)), tail].sum())
    return torch.stack(sums).detach()


def file_of(folder):
    (file,) = (folder / "ref-logps").iterdir()
    return file


def test_values_by_hand_and_again_from_the_file(make, model, tmp_path):
    first = make()(ROWS)
    torch.testing.assert_close(first, by_hand(model), atol=1e-5, rtol=0)
    again = make()
    again.closed = True  # nothing may be computed
    assert torch.equal(again(ROWS), first)
    assert torch.equal(load_file(file_of(tmp_path))["summed"], first)


def flip_a_bit(file):
    data = bytearray(file.read_bytes())
    data[-2] ^= 1  # of the last number's exponent
    file.write_bytes(data)


def cut(file):
    file.write_bytes(file.read_bytes()[:-3])


def rewrite(file):
    """Other numbers under the old digest."""
    with safe_open(file, "pt") as old:
        metadata = old.metadata()
    save_file({"summed": torch.zeros(3)}, file, metadata)


def drop_digest(file):
    save_file(load_file(file), file)


def rename_tensor(file):
    with safe_open(file, "pt") as old:
        metadata = old.metadata()
    save_file({"other": torch.zeros(3)}, file, metadata)


@pytest.mark.parametrize(
    "spoil", [flip_a_bit, cut, rewrite, drop_digest, rename_tensor]
)
def test_a_spoilt_file_is_made_anew(make, tmp_path, spoil):
    first = make()(ROWS)
    file = file_of(tmp_path)
    whole = file.read_bytes()
    spoil(file)
    assert file.read_bytes() != whole
    assert torch.equal(make()(ROWS), first)
    assert file_of(tmp_path).read_bytes() == whole


def test_a_file_of_other_rows_does_not_stand_for_these(make, tmp_path):
    first = make()(ROWS)
    file = file_of(tmp_path)
    other = make()(ROWS[::-1])
    (wrong,) = set((tmp_path / "ref-logps").iterdir()) - {file}
    shutil.copy(wrong, file)
    assert torch.equal(make()(ROWS), first)
    assert torch.equal(other, first.flip(0))


def test_once_training_has_begun_nothing_new_is_computed(make):
    reference = make()
    reference(ROWS)
    reference.closed = True
    reference(ROWS)
    with pytest.raises(ValueError, match="trained since"):
        reference(ROWS[:2])


def test_the_key_follows_weights_rows_and_precision(make, model, tmp_path):
    reference = make()
    key = reference._key(ROWS)
    assert make()._key(ROWS) == key
    moved = [(head + tail[:1], tail[1:]) for head, tail in ROWS]
    keys = {key, reference._key(moved), reference._key(ROWS[::-1])}
    args = PreferenceConfig(output_dir=str(tmp_path), use_cpu=True, bf16=True)
    keys.add(Reference(model, 0, args)._key(ROWS))
    weight = model.get_output_embeddings().weight
    with torch.no_grad():
        weight[0, 0] += 1e-3
        keys.add(make()._key(ROWS))
        weight[0, 0] -= 1e-3
    assert len(keys) == 5


def test_rows_are_those_of_the_tokenizer(make, model, tiny_llama):
    """A row of text gives the same number as its ids."""
    from mipo.models import load_model

    _, tokenizer = load_model(tiny_llama, device="cpu")
    rows = tokens.encode_many(tokenizer, ["I am"], [" a baker."])
    ids = torch.tensor([rows[0][0] + rows[0][1]])
    logs = torch.log_softmax(model(ids).logits[0], -1).detach()
    start = len(rows[0][0])
    expected = sum(logs[i - 1, ids[0, i]] for i in range(start, ids.shape[1]))
    assert float(make()(rows)) == pytest.approx(float(expected), abs=1e-4)
