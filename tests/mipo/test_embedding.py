"""Sentences as vectors: the definition by hand, and the packaged encoder."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from mipo import network, packaged
from mipo.evaluate import embedding
from mipo.evaluate.embedding import cosines, embed, nearest_credit

WORDS = ["a", "cat", "dog", "sat", "ran", "the", "."]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


@pytest.fixture(scope="module")
def tiny_bert(tmp_path_factory):
    """Folder of a BERT of two layers, with random weights and seven words."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("hub") / "tiny-bert"
    folder.mkdir()
    vocabulary = {word: i for i, word in enumerate(SPECIAL + WORDS)}
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=300,
        initializer_range=0.5,
    )
    BertModel(config).save_pretrained(folder)
    BertTokenizerFast(vocab=vocabulary).save_pretrained(folder)
    return folder


def by_hand(folder, ids):
    """The definition: mean of the last layer over the tokens, to length 1."""
    from transformers import BertModel

    model = BertModel.from_pretrained(folder, trust_remote_code=False).eval()
    with torch.no_grad():
        hidden = model(torch.tensor([ids])).last_hidden_state[0].double().numpy()
    mean = sum(hidden) / len(hidden)
    return mean / sum(x * x for x in mean) ** 0.5


def test_a_text_is_the_mean_of_its_tokens_whatever_it_is_read_with(tiny_bert):
    """[CLS] 2, words from 5 on, [SEP] 3; the shorter text is padded, and pads count not."""
    vectors = embed(["the cat sat.", "a dog"], tiny_bert)
    assert vectors.shape == (2, 16)
    assert vectors.dtype == np.float32
    assert_allclose(vectors[0], by_hand(tiny_bert, [2, 10, 6, 8, 11, 3]), atol=1e-6)
    assert_allclose(vectors[1], by_hand(tiny_bert, [2, 5, 7, 3]), atol=1e-6)


def test_batches_do_not_matter(tiny_bert):
    texts = ["the cat sat.", "a dog", "ran", ""]
    alone = embed(texts, tiny_bert, batch_size=1)
    assert_allclose(embed(texts, tiny_bert), alone, atol=1e-6)
    assert_allclose(np.linalg.norm(alone, axis=1), 1, atol=1e-6)
    assert embed([], tiny_bert).shape == (0, 16)


def test_a_text_is_read_up_to_256_tokens(tiny_bert):
    """With [CLS] and [SEP] 254 words; the 255th is not seen, the 254th is."""
    long = ["cat"] * 254
    seen, cut, other = embed(
        [" ".join(long), " ".join([*long, "dog"]), " ".join([*long[:-1], "dog"])],
        tiny_bert,
    )
    assert_allclose(seen, cut, atol=1e-6)
    assert np.abs(seen - other).max() > 1e-4


def test_cosines_are_with_each_text_s_own_candidates(tiny_bert):
    texts = ["the cat", "a dog ran"]
    candidates = [["a dog", "cat sat"], ["cat sat", "the dog."]]
    found = cosines(texts, candidates, tiny_bert)
    assert found.shape == (2, 2)
    for i, row in enumerate(candidates):
        expected = embed(row, tiny_bert) @ embed([texts[i]], tiny_bert)[0]
        assert_allclose(found[i], expected, atol=1e-6)


def test_a_text_lies_nearest_to_itself(tiny_bert):
    """Its own first: credit 1; its own not: 0; twice the same: a half."""
    crowds = [["cat", "dog"], ["dog", "cat"], ["cat", "cat"]]
    assert nearest_credit(["cat"] * 3, crowds, tiny_bert).tolist() == [1, 0, 0.5]


@pytest.fixture(scope="module")
def encoder():
    """The packaged encoder; without it and without a network its tests are skipped."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("HF_HUB_OFFLINE")
        try:
            return packaged.folder(packaged.ENCODER)
        except network.Unavailable as error:
            pytest.skip(f"tests on the encoder are skipped: {error}")


@pytest.mark.slow
def test_the_packaged_encoder_has_the_published_cosines(encoder):
    """Source: the first page of sbert.net's documentation (Quickstart), this model."""
    texts = [
        "The weather is lovely today.",
        "It's so sunny outside!",
        "He drove to the stadium.",
    ]
    vectors = embed(texts)
    expected = [[1, 0.6660, 0.1046], [0.6660, 1, 0.1411], [0.1046, 0.1411, 1]]
    assert vectors.shape == (3, 384)
    assert_allclose(vectors @ vectors.T, expected, atol=1e-4)
    assert embedding.LONGEST == 256
