"""Sentences as vectors, and whose context a reply lies nearest to: a yardstick.

The encoder, all-MiniLM-L6-v2, was trained to put sentences of like meaning near each
other. It knows nothing of the model that is measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from mipo import packaged
from mipo.evaluate.comparisons import retrieval_credit

LONGEST = 256  # tokens of a text that are read, as the encoder's card has it
AS_NEAR = 1e-6  # cosines that differ by less are equal: it is float32's rounding
Encoder = str | Path


@torch.no_grad()
def embed(
    texts: Sequence[str], encoder: Encoder = packaged.ENCODER, *, batch_size: int = 64
) -> np.ndarray:
    """Vectors of length 1 of some texts.

    Parameters
    ----------
    texts : sequence of str, length n
        Each is read up to `LONGEST` tokens.
    encoder : str or Path
        The packaged one, or the folder of another in hub format.
    batch_size : int
        Texts that are read together.

    Returns
    -------
    ndarray of float32, shape (n, d)

    Raises
    ------
    mipo.network.Unavailable
        Where the packaged encoder must be fetched and cannot be.

    Notes
    -----
    Mean of the last layer over the tokens that are no padding, divided by its Euclidean
    norm. Source: the card of sentence-transformers/all-MiniLM-L6-v2.
    """
    tokenizer, model = _loaded(_folder(encoder))
    parts = [np.zeros((0, model.config.hidden_size), np.float32)]
    for start in range(0, len(texts), batch_size):
        batch = tokenizer(
            list(texts[start : start + batch_size]),
            padding=True,
            truncation=True,
            max_length=LONGEST,
            return_tensors="pt",
        )
        hidden = model(**batch).last_hidden_state  # (B, T, d)
        mask = batch["attention_mask"].unsqueeze(-1)  # (B, T, 1)
        means = (hidden * mask).sum(1) / mask.sum(1)
        parts.append(F.normalize(means).numpy())
    return np.concatenate(parts)


def cosines(
    texts: Sequence[str],
    candidates: Sequence[Sequence[str]],
    encoder: Encoder = packaged.ENCODER,
) -> np.ndarray:
    """How near each text lies to each of its candidates.

    Parameters
    ----------
    texts : sequence of str, length n
        Such as replies.
    candidates : sequence of sequence of str, (n, K)
        Such as contexts, as `mipo.evaluate.reference_free.groups` draws them.
    encoder : str or Path
        See `embed`.

    Returns
    -------
    ndarray, shape (n, K)
        Cosines, -1..1.
    """
    distinct = list(dict.fromkeys(c for crowd in candidates for c in crowd))
    place = {text: i for i, text in enumerate(distinct)}
    columns = np.array([[place[c] for c in crowd] for crowd in candidates])  # (n, K)
    known = embed(distinct, encoder)[columns]  # (n, K, d)
    return np.einsum("nd,nkd->nk", embed(texts, encoder), known)


def nearest_credit(
    texts: Sequence[str],
    candidates: Sequence[Sequence[str]],
    encoder: Encoder = packaged.ENCODER,
) -> np.ndarray:
    """Credit per text for lying nearest to its own candidate.

    Parameters
    ----------
    texts, candidates, encoder
        See `cosines`; a text's own candidate comes first.

    Returns
    -------
    ndarray, shape (n,)
        See `mipo.evaluate.retrieval_credit`; chance is 1/K.
    """
    return retrieval_credit(cosines(texts, candidates, encoder), tol=AS_NEAR)


def _folder(encoder: Encoder) -> Path:
    packed = encoder == packaged.ENCODER
    return packaged.folder(packaged.ENCODER) if packed else Path(encoder)


@lru_cache(maxsize=1)
def _loaded(folder: Path) -> tuple[Any, Any]:
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    model = AutoModel.from_pretrained(
        folder, trust_remote_code=False, dtype=torch.float32
    )
    return tokenizer, model.eval()
