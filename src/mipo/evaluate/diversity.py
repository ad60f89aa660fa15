"""How varied a set of texts is, and how long its texts are: no model, no judge."""

import random
import zlib
from collections.abc import Sequence

import numpy as np


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


def self_bleu(texts: Sequence[str], sample: int | None = 100, seed: int = 0) -> float:
    """Mean over texts of the sentence BLEU of one text against all the others: 0 all different, 100 all alike.

    sample  at most this many texts, drawn without replacement with `seed` (the cost is quadratic); None takes all.
            The score rises with the number of texts and with their length: compare equal numbers only.
    source  Zhu et al. 2018, arXiv:1802.01886; BLEU by sacrebleu, settings in `self_bleu_signature()`
    """
    texts = _texts(texts, 2)
    if sample is not None and sample < len(texts):
        texts = random.Random(seed).sample(texts, max(sample, 2))
    bleu = _bleu()
    scores = [
        bleu.sentence_score(t, texts[:i] + texts[i + 1 :]).score
        for i, t in enumerate(texts)
    ]
    return min(float(np.mean(scores)), 100.0)  # rounding can end a hair above 100


def _bleu():
    from sacrebleu.metrics import BLEU  # late: only diversity needs it

    return BLEU(effective_order=True)  # short replies are scored up to their own length


def self_bleu_signature() -> str:
    """sacrebleu's description of its settings and version, to be stored beside the number."""
    bleu = _bleu()
    bleu.corpus_score(["a"], [["a"]])
    return bleu.get_signature().format().replace("nrefs:1", "nrefs:others")


def distinct_n(texts: Sequence[str], n: int = 2) -> float:
    """Different n-grams divided by all n-grams of the texts together; words split at white space; 1: none repeats.

    Falls as more or longer texts are given: compare equal numbers only.        source  Li et al. 2016, arXiv:1510.03055
    """
    words = [text.split() for text in _texts(texts)]
    grams = [tuple(w[i : i + n]) for w in words for i in range(len(w) - n + 1)]
    if n < 1 or not grams:
        raise ValueError(
            f"distinct_n: no text has {n} words in a row; give longer texts or a smaller n >= 1"
        )
    return len(set(grams)) / len(grams)


def compression_ratio(texts: Sequence[str]) -> float:
    """UTF-8 bytes of the texts, one per line, divided by their bytes after zlib level 9; higher = more repetitive.

    source  Shaib et al. 2024, arXiv:2403.00553. Other zlib builds may differ in the third digit.
    """
    raw = "\n".join(_texts(texts)).encode()
    if not raw:
        raise ValueError("compression_ratio: all texts are empty")
    return len(raw) / len(zlib.compress(raw, 9))


def token_lengths(texts: Sequence[str], tokenizer=None) -> np.ndarray:
    """Length of each text, (n,): the tokenizer's tokens without special ones, or words split at white space."""
    texts = _texts(texts)
    if tokenizer is None:
        return np.array([len(t.split()) for t in texts])
    return np.array(
        [len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]
    )
