"""Reference log-probs: those of the policy before training, cached by content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from mipo import files
from mipo.lm.row_scores import score_rows

if TYPE_CHECKING:
    from transformers import PreTrainedModel

REFERENCE_COLUMNS = ("ref_chosen_logps", "ref_rejected_logps")
_VOLATILE = ("_name_or_path", "transformers_version")  # parts of a model's config


class Reference:
    """Summed log-probs of token rows under a policy as it is before training.

    Parameters
    ----------
    model : PreTrainedModel
        The policy.
    pad_id : int
        Token id that fills up batches.
    args : PreferenceConfig
        ``ref_cache_dir`` or ``output_dir``, ``ref_batch_size``, ``share_prompts``,
        precision and device.

    Attributes
    ----------
    closed : bool
        Set once training has begun: from then on only what is cached can be had.

    Notes
    -----
    A file's name covers weights, model config, precision, token ids and where each
    reply begins; the chat template acts through the ids. Files are written whole, and
    each carries a digest of its numbers: one that was cut or changed is made anew.
    """

    def __init__(self, model: PreTrainedModel, pad_id: int, args: Any) -> None:
        self.model, self.pad_id, self.args = model, pad_id, args
        self.weights: str | None = None
        self.closed = False
        self.folder = Path(args.ref_cache_dir or Path(args.output_dir) / "ref-logps")

    def __call__(self, rows: Sequence[tuple[list[int], list[int]]]) -> Tensor:
        """Summed log-probs of each row's reply, nats.

        Parameters
        ----------
        rows : sequence of (prompt ids, reply ids)

        Returns
        -------
        Tensor, shape (R,)

        Raises
        ------
        ValueError
            Where nothing is cached and the policy has been trained since.
        """
        key = self._key(rows)
        path = self.folder / f"{key}.safetensors"
        cached = _read(path, key)
        if cached is not None:
            return cached
        if self.closed:
            raise ValueError(
                "the policy has been trained since, so reference log-probs of new data "
                "cannot be computed any more; pass the data as eval_dataset when the "
                f"trainer is made, or with the columns {REFERENCE_COLUMNS}"
            )
        summed = self._score(rows)
        metadata = {"sha256": _digest(summed, key)}
        files.write_whole(path, save({"summed": summed}, metadata))
        return summed

    def _score(self, rows: Sequence[tuple[list[int], list[int]]]) -> Tensor:
        args = self.args
        dtype = torch.bfloat16 if args.bf16 else torch.float16
        half = bool(args.bf16 or args.fp16)
        with torch.autocast(args.device.type, dtype=dtype, enabled=half):
            return score_rows(
                self.model,
                rows,
                pad_id=self.pad_id,
                batch_size=args.ref_batch_size,
                share=args.share_prompts,
                progress=not args.disable_tqdm,
            ).summed

    def _key(self, rows: Sequence[tuple[list[int], list[int]]]) -> str:
        self.weights = self.weights or _weights_hash(self.model)
        half = [bool(self.args.bf16), bool(self.args.fp16)]
        text = json.dumps([self.weights, half, rows])
        return hashlib.sha256(text.encode()).hexdigest()[:32]


def _read(path: Path, key: str) -> Tensor | None:
    """Cached log-probs; None where the file is missing, cut, or not what was put in."""
    try:
        with safe_open(path, "pt") as file:
            summed, metadata = file.get_tensor("summed"), file.metadata() or {}
    except (OSError, SafetensorError):
        return None
    return summed if metadata.get("sha256") == _digest(summed, key) else None


def _digest(summed: Tensor, key: str) -> str:
    """sha256 of a file's numbers and of its name, so that none stands for another."""
    head = f"{key} {summed.dtype} {tuple(summed.shape)} "
    return hashlib.sha256(head.encode() + summed.cpu().numpy().tobytes()).hexdigest()


def _weights_hash(model: PreTrainedModel) -> str:
    config = {k: v for k, v in model.config.to_dict().items() if k not in _VOLATILE}
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy())
    return digest.hexdigest()
