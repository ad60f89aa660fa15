"""How varied a set of texts is, and how long its texts are: no model, no judge."""

from __future__ import annotations

import random
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def self_bleu(texts: Sequence[str], sample: int | None = 100, seed: int = 0) -> float:
    """Mean over texts of the sentence BLEU of one text against all the others.

    Parameters
    ----------
    texts : sequence of str
        At least 2.
    sample : int, optional
        At most so many texts, drawn without replacement (the cost is quadratic); None
        takes all.
    seed : int
        Of the draw.

    Returns
    -------
    float
        0: all different, 100: all alike. Rises with the number of texts and with their
        length: compare equal numbers only.

    Raises
    ------
    ValueError
        For fewer than 2 texts and what is no text.

    Notes
    -----
    BLEU by sacrebleu, settings in `self_bleu_signature`. Source: Zhu et al. 2018,
    arXiv:1802.01886.
    """
    texts = _texts(texts, 2)
    if sample is not None and sample < len(texts):
        texts = random.Random(seed).sample(texts, max(sample, 2))
    bleu = _bleu()
    scores = []
    for i, text in enumerate(texts):
        others = texts[:i] + texts[i + 1 :]
        scores.append(bleu.sentence_score(text, others).score)
    return min(float(np.mean(scores)), 100.0)  # rounding can end a hair above 100


def self_bleu_signature() -> str:
    """Return sacrebleu's description of its settings, to be stored with the number."""
    bleu = _bleu()
    bleu.corpus_score(["a"], [["a"]])
    return bleu.get_signature().format().replace("nrefs:1", "nrefs:others")


def _bleu():
    from sacrebleu.metrics import BLEU  # late: only diversity needs it

    return BLEU(effective_order=True)  # short replies are scored up to their own length


def distinct_n(texts: Sequence[str], n: int = 2) -> float:
    """Different n-grams divided by all n-grams of the texts together.

    Parameters
    ----------
    texts : sequence of str
        Words split at white space.
    n : int
        Words in a row.

    Returns
    -------
    float
        1: none repeats. Falls as more or longer texts are given: compare equal numbers
        only.

    Raises
    ------
    ValueError
        Where no text has n words in a row.

    Notes
    -----
    Source: Li et al. 2016, arXiv:1510.03055.
    """
    grams = []
    for text in _texts(texts):
        words = text.split()
        grams += [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    if n < 1 or not grams:
        raise ValueError(
            f"distinct_n: no text has {n} words in a row; "
            "give longer texts or a smaller n >= 1"
        )
    return len(set(grams)) / len(grams)


def compression_ratio(texts: Sequence[str]) -> float:
    """UTF-8 bytes of the texts, one per line, divided by their bytes after zlib.

    Returns
    -------
    float
        Higher: more repetitive. Level 9; other zlib builds may differ in the third
        digit.

    Raises
    ------
    ValueError
        Where all texts are empty.

    Notes
    -----
    Source: Shaib et al. 2024, arXiv:2403.00553.
    """
    raw = "\n".join(_texts(texts)).encode()
    if not raw:
        raise ValueError("compression_ratio: all texts are empty")
    return len(raw) / len(zlib.compress(raw, 9))


def token_lengths(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase | None = None
) -> np.ndarray:
    """Return the length of each text, (n,).

    Parameters
    ----------
    texts : sequence of str
        Texts.
    tokenizer : PreTrainedTokenizerBase, optional
        Counts its tokens, without special ones; None: words split at white space.
    """
    texts = _texts(texts)
    if tokenizer is None:
        return np.array([len(text.split()) for text in texts])
    encoded = tokenizer(texts, add_special_tokens=False)["input_ids"]
    return np.array([len(ids) for ids in encoded])


def _texts(texts: Sequence[str], least: int = 1) -> list[str]:
    if isinstance(texts, str):
        raise ValueError("texts is one string; give a list of texts")
    texts = list(texts)
    if len(texts) < least:
        raise ValueError(f"texts has {len(texts)} entries; give at least {least}")
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(f"texts[{i}] is {type(text).__name__}, not a string")
    return texts
