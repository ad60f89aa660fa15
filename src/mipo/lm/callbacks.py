"""Callbacks of a training run: whether sharing prompts pays."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback

from mipo.lm import shared_prompt
from mipo.lm.batches import collate_sets

if TYPE_CHECKING:
    from mipo.trainer import PreferenceTrainer


class CompareSharing(TrainerCallback):
    """Share prompts or not, whichever is faster on the first rows of the data.

    Compares when the model is ready to train: on its device, in its precision, with
    checkpointing. No weight, gradient, metric or random stream is changed by it.

    Parameters
    ----------
    trainer : PreferenceTrainer
        Whose ``shares_prompts`` is decided.
    """

    def __init__(self, trainer: PreferenceTrainer):
        self.trainer = trainer

    def on_train_begin(
        self, args: Any, state: Any, control: Any, **kwargs: Any
    ) -> None:
        """Time both ways, and keep the faster one."""
        trainer = self.trainer
        on_gpu = trainer.args.device.type == "cuda"
        moments = copy.copy(trainer.moments)
        devices = [trainer.args.device] if on_gpu else []
        wait = torch.cuda.synchronize if on_gpu else None
        try:
            with torch.random.fork_rng(devices):  # dropout of adapters draws
                trainer.shares_prompts = shared_prompt.pays(self._step, wait)
        finally:
            trainer.model.zero_grad()
            trainer.metrics.clear()
            trainer.moments = moments

    def _step(self, share: bool) -> None:
        """One step's forward and backward pass as training does them."""
        trainer = self.trainer
        size = min(trainer.args.train_batch_size, len(trainer.train_dataset))
        items = [trainer.train_dataset[i] for i in range(size)]
        batch = collate_sets(items, trainer.pad_id, share)
        trainer.model.train()
        inputs = trainer._prepare_inputs(batch)
        loss = trainer.compute_loss(trainer.model_wrapped, inputs)
        trainer.accelerator.backward(loss)
