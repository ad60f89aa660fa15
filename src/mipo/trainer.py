"""Train a causal language model with any loss of `mipo.losses` on preference data.

Called like TRL's ``DPOTrainer``, with data in TRL's format. Two differences are
deliberate: reference log-probs are always a column, computed once before training with
the model as it was given, so that no second model is ever held; and nothing is saved
during training unless ``save_strategy`` asks for it.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    set_seed,
)
from transformers.trainer import DEFAULT_PROGRESS_CALLBACK
from transformers.trainer_callback import PrinterCallback
from transformers.trainer_utils import EvalLoopOutput

from mipo import files
from mipo.lm import loss_inputs, shared_prompt
from mipo.lm.batches import Reference, TokenBatches, TokenSets, collate_sets, prepare
from mipo.lm.callbacks import CompareSharing
from mipo.lm.loss_inputs import apply_loss
from mipo.lm.progress import ProgressBar
from mipo.lm.training_metrics import (
    RowMetrics,
    margin_metrics,
    preference_metrics,
)
from mipo.logprobs import first_tokens, sum_rows, token_logps
from mipo.losses.declaration import check, keyword
from mipo.trainer_config import PreferenceConfig

LOG = logging.getLogger(__name__)

Model = PreTrainedModel | str | os.PathLike
MOMENTS = "moments.json"  # in a checkpoint: what a loss keeps between steps


class PreferenceTrainer(Trainer):
    """A ``transformers.Trainer`` for preference pairs and sets.

    Parameters
    ----------
    model : PreTrainedModel, str or path
        A model, or its name or folder; the policy that it is now is the reference.
    args : PreferenceConfig, optional
        Settings; None: DPO with TRL's defaults.
    data_collator : callable, optional
        In place of the trainer's own.
    train_dataset, eval_dataset : Dataset, list of dict, or dict of these, optional
        Columns ``prompt``, ``chosen``, ``rejected`` (a list of K replies for K
        negatives), text or messages; losses that need "cross" also read
        ``rejected_prompt``. Columns ``ref_chosen_logps`` and ``ref_rejected_logps``
        (summed, nats) are used where present.
    processing_class : PreTrainedTokenizerBase, optional
        The tokenizer; None: the one saved with the model.
    callbacks, optimizers
        As in ``transformers.Trainer``.
    peft_config : peft.PeftConfig, optional
        Trains a new adapter; the base model stays as it is.
    **kwargs
        Further arguments of ``transformers.Trainer``.

    Raises
    ------
    ValueError
        For wrong settings and data, before training.
    FloatingPointError
        For a loss that is not finite.
    """

    # set by Trainer: a PreferenceConfig, a model that may be wrapped or have adapters,
    # and TokenSets
    args: Any
    model: Any
    train_dataset: Any

    def __init__(
        self,
        model: Model,
        args: PreferenceConfig | None = None,
        data_collator: Any = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        callbacks: list | None = None,
        optimizers: tuple = (None, None),
        peft_config: Any = None,
        **kwargs: Any,
    ):
        args = args or PreferenceConfig(output_dir="preference")
        if args.batch_tokens is not None and args.world_size > 1:
            raise ValueError(
                "batch_tokens works in one process only; leave it out with several"
            )
        set_seed(args.seed)  # adapters start from random weights
        model, tokenizer = _load(model, processing_class, args)
        if args.disable_dropout:
            _disable_dropout(model)
        self.args = args
        self.loss_fn = check(args.loss, args.loss_kwargs or {})
        self.tokenizer, self.pad_id = tokenizer, _pad_id(tokenizer)
        self.metrics = RowMetrics()
        self.moments = loss_inputs.Moments()
        self.reference = Reference(model, self.pad_id, args)
        train_dataset = self._prepare(train_dataset, "train_dataset")
        eval_dataset = self._prepare(eval_dataset, "eval_dataset")
        if peft_config is not None:
            model = _adapt(model, peft_config, args)
        self.shares_prompts = args.share_prompts and _can_share(model)
        super().__init__(
            model=model,
            args=args,
            data_collator=data_collator or self._collate,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=tokenizer,
            callbacks=callbacks,
            optimizers=optimizers,
            **kwargs,
        )
        self._leave_out_a_lone_pair()
        # our loss is a mean over rows: average it over accumulated batches
        self.model_accepts_loss_kwargs = False
        self._add_callbacks()

    def _leave_out_a_lone_pair(self) -> None:
        """Of each epoch, where a pair needs another of its batch."""
        size, rows = self.args.train_batch_size, len(self.train_dataset or ())
        lone = size > 1 and rows > 1 and rows % size == 1
        if self.args.marginal == "shuffled" and lone and self.eval_dataset is None:
            LOG.warning(
                "one pair of each epoch is left out: it would be alone in its batch, "
                "and marginal='shuffled' takes another's"
            )
            self.args.dataloader_drop_last = True

    def _add_callbacks(self) -> None:
        if self.args.disable_tqdm:
            self.remove_callback(PrinterCallback)
        else:
            self.remove_callback(DEFAULT_PROGRESS_CALLBACK)
            self.add_callback(ProgressBar)
        if self.shares_prompts and self.args.compares_sharing:
            self.add_callback(CompareSharing(self))

    # ---- data ----

    def _prepare(self, dataset: Any, name: str) -> Any:
        """Token sets of a data set, or of each in a dict of data sets."""
        if isinstance(dataset, dict):
            return {
                key: self._prepare(value, f"{name}[{key!r}]")
                for key, value in dataset.items()
            }
        if dataset is None or isinstance(dataset, TokenSets):
            return dataset
        return prepare(
            dataset,
            self.tokenizer,
            self.reference.model,
            self.loss_fn,
            name=name,
            max_length=self.args.max_length,
            reference=self.reference,
            first_token=self.args.first_token,
            frozen_marginal=self.args.marginal == "frozen",
        )

    def _collate(self, items: list[dict]) -> dict[str, Any]:
        return collate_sets(items, self.pad_id, self.shares_prompts)

    def get_train_dataloader(self) -> torch.utils.data.DataLoader:
        """As ``Trainer``'s, or batches of ``batch_tokens`` tokens."""
        if self.args.batch_tokens is None:
            return super().get_train_dataloader()
        lengths = self.train_dataset.lengths(self.shares_prompts)
        batches = TokenBatches(lengths, self.args.batch_tokens, self.args.seed)
        loader = torch.utils.data.DataLoader(
            self.train_dataset, batch_sampler=batches, collate_fn=self.data_collator
        )
        return self.accelerator.prepare(loader)

    # ---- training ----

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As ``Trainer.train``; from now on the reference is closed."""
        self.reference.closed = True
        return super().train(*args, **kwargs)

    def get_batch_samples(
        self, epoch_iterator: Iterator, num_batches: int, device: torch.device
    ) -> tuple[list, Any]:
        """As ``Trainer``'s; every row of a step counts the same.

        The batches whose gradients are accumulated may differ in size (the last of an
        epoch, and those of ``batch_tokens``).
        """
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        sizes = [len(batch["tokens"]) / batch["members"] for batch in batches]
        for batch, size in zip(batches, sizes, strict=True):
            batch["weight"] = len(sizes) * size / sum(sizes)
        return batches, items

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Mean of the loss over the batch; keeps the metrics that TRL logs.

        Parameters
        ----------
        model : torch.nn.Module
            The policy, as wrapped for training.
        inputs : dict of Tensor
            A batch of `mipo.lm.batches.collate_sets`.
        return_outputs : bool
            Return the summed log-probs (B, members) as well.
        num_items_in_batch
            Not used: the loss is a mean over rows.

        Returns
        -------
        Tensor, or (Tensor, dict)
            The loss, and {"logps": ...} if asked for.

        Raises
        ------
        FloatingPointError
            For a loss that is not finite; names the pairs and the step.
        """
        # autocast: the LM head has the precision that it had for the reference
        with self.accelerator.autocast():
            sides = loss_inputs.score_sides(model, inputs, self.args.marginal)
            logps, rows = token_logps(model, inputs)  # (M,)
        shape = (inputs["members"], -1)
        summed = sum_rows(logps, rows, inputs).reshape(shape)  # (members, B)
        tokens = inputs["tokens"].reshape(shape)
        first = first_tokens(logps, rows, inputs).detach().reshape(shape)
        ref, values = inputs.get("ref"), summed.detach()
        extra = self._extras(inputs, sides, values, tokens, first)
        losses = apply_loss(
            self.loss_fn, self._keywords(), summed, tokens, ref, **extra
        )
        loss = losses.mean() * inputs.get("weight", 1.0)
        if not torch.isfinite(loss):
            raise FloatingPointError(self._why_not_finite(loss, values))
        self.metrics.add({"loss": losses})
        self._keep_metrics(values, tokens, ref, extra)
        return (loss, {"logps": values.T}) if return_outputs else loss

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """As ``Trainer``'s, and what the loss keeps between steps."""
        super()._save_optimizer_and_scheduler(output_dir)
        if self.moments.values is not None and self.args.should_save:
            moments = self.moments.values.tolist()
            files.write_whole(Path(output_dir) / MOMENTS, files.dumps(moments))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        file = Path(checkpoint or "") / MOMENTS
        if checkpoint and file.is_file():
            moments = torch.tensor(files.read_json(file))
            self.moments.values = moments.to(self.args.device)

    def _keywords(self) -> dict[str, Any]:
        """The loss's keywords, with the margin as far as its warm-up has come."""
        keywords = dict(self.args.loss_kwargs or {})
        step, last = self.state.global_step, self._warmup_steps()
        if not self.model.training or step >= last:
            return keywords
        for name in ("gamma_min", "gamma_max"):
            keywords[name] = step / last * keyword(self.loss_fn, name, keywords)
        return keywords

    def _warmup_steps(self) -> float:
        return self.args.margin_warmup * self.state.max_steps

    def _extras(
        self,
        inputs: dict[str, Any],
        sides: dict[str, Tensor],
        summed: Tensor,
        tokens: Tensor,
        first: Tensor,
    ) -> dict[str, Tensor]:
        """What the loss needs beyond log-probs of the policy and the reference.

        Each (B,), and without gradient.
        """
        extras, needs = {}, self.loss_fn.needs
        if "marginal" in needs:
            rows = inputs["marginal"]
            extras["delta_pmi"] = loss_inputs.delta_pmi(
                sides.get("marginal", rows.get("ref")),
                rows["tokens"].reshape(summed.shape),
                summed,
                tokens,
                first,
                marginal=self.args.marginal,
                first_token=self.args.first_token,
            )
        if "mismatched" in needs:
            extras["kl"] = sides["mismatched"][0] - inputs["mismatched"]["ref"][0]
        if "moments" in needs:
            chosen, rejected = (summed - inputs["ref"]) / tokens
            extras["gap_mean"], extras["gap_std"] = self.moments(
                chosen - rejected, update=self.model.training
            )
        return extras

    def _why_not_finite(self, loss: Tensor, summed: Tensor) -> str:
        pairs = (~torch.isfinite(summed)).any(dim=0).nonzero().flatten().tolist()
        culprits = (
            f"; the policy's own log-probs of pairs {pairs} of the batch are not finite"
        )
        return (
            f"the loss is {loss.item()}{culprits if pairs else ''}, "
            f"at step {self.state.global_step + 1} "
            f"(loss {self.args.loss!r}, {self.args.loss_kwargs}, "
            f"learning rate {self.args.learning_rate:g}); "
            "lower the learning rate, or check the model's weights and the reference "
            "log-probs"
        )

    # ---- logs and evaluation ----

    def _keep_metrics(
        self,
        summed: Tensor,
        tokens: Tensor,
        ref: Tensor | None,
        extra: dict[str, Tensor],
    ) -> None:
        given = self.args.loss_kwargs or {}
        metrics = preference_metrics(self.loss_fn, given, summed, tokens, ref)
        if "delta_pmi" in extra:
            now = self._keywords()
            metrics |= margin_metrics(self.loss_fn, now, extra["delta_pmi"])
        self.metrics.add(metrics)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As ``Trainer.log``, with metrics: means over the rows since the last one."""
        if self.model.training:
            means = self.metrics.means()
            loss = means.pop("loss", None)  # none where a subclass computes its own
            if loss is not None and "loss" in logs and self.args.world_size == 1:
                logs["loss"] = loss  # over rows, where Trainer's is over steps
            logs |= means
            self.metrics.clear()
        super().log(logs, start_time)

    def evaluation_loop(
        self,
        dataloader: torch.utils.data.DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """As ``Trainer``'s, with the metrics of this data set under its own names."""
        of_training, self.metrics = self.metrics, RowMetrics()
        try:
            output = super().evaluation_loop(
                dataloader,
                description,
                prediction_loss_only,
                ignore_keys,
                metric_key_prefix,
            )
            means = self.metrics.means()
        finally:
            self.metrics = of_training
        named = {f"{metric_key_prefix}_{name}": mean for name, mean in means.items()}
        return output._replace(metrics={**(output.metrics or {}), **named})

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Evaluation is the same loss without gradient: the data have no labels."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            loss, outputs = self.compute_loss(model, inputs, return_outputs=True)
        return loss, None if prediction_loss_only else outputs["logps"], None

    def evaluate(self, eval_dataset: Any = None, *args: Any, **kwargs: Any) -> Any:
        """As ``Trainer.evaluate``.

        A new data set needs reference columns once training began.
        """
        if eval_dataset is not None and not isinstance(eval_dataset, str):
            eval_dataset = self._prepare(eval_dataset, "eval_dataset")
        return super().evaluate(eval_dataset, *args, **kwargs)


# ---- what the trainer starts from ----


def _load(
    model: Model,
    tokenizer: PreTrainedTokenizerBase | None,
    args: PreferenceConfig,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model and tokenizer, loaded by name where needed, on the training device."""
    if isinstance(model, str | os.PathLike):
        from mipo.models import load_model

        device = str(args.device)
        model, loaded = load_model(str(model), device=device, **args.model_init_kwargs)
        tokenizer = tokenizer or loaded
    if tokenizer is None:
        tokenizer = _saved_tokenizer(model)
    if getattr(model, "hf_device_map", None) is None:
        nn.Module.to(model, args.device)
    return model, tokenizer


def _saved_tokenizer(model: PreTrainedModel) -> Any:
    name = getattr(model.config, "_name_or_path", "")
    if not name:
        raise ValueError(
            "the model has no name to load a tokenizer by; "
            "pass processing_class=tokenizer"
        )
    return AutoTokenizer.from_pretrained(name, trust_remote_code=False)


def _pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    if tokenizer.pad_token_id is None:
        return tokenizer.eos_token_id
    return tokenizer.pad_token_id


def _disable_dropout(model: PreTrainedModel) -> None:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0


def _can_share(model: PreTrainedModel) -> bool:
    obstacle = shared_prompt.why_not(model)
    if obstacle:
        LOG.warning(
            "every reply is computed with its own prompt, "
            "since this model does not share them: %s",
            obstacle,
        )
    return not obstacle


def _adapt(
    model: PreTrainedModel, peft_config: Any, args: PreferenceConfig
) -> PreTrainedModel:
    """The model with a new PEFT adapter."""
    from peft import PeftModel, get_peft_model

    if isinstance(model, PeftModel):
        raise ValueError(
            "the model already has an adapter; merge it first, "
            "or leave out peft_config to train it on"
        )
    with warnings.catch_warnings():  # PEFT reads what transformers has renamed
        warnings.filterwarnings(
            "ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning
        )
        adapted: Any = get_peft_model(model, peft_config)
    if args.activation_checkpointing or args.gradient_checkpointing:
        adapted.enable_input_require_grads()
    return adapted
