"""Train a causal language model with any loss of ``mipo.losses`` on preference data in TRL's format.

Called like TRL's ``DPOTrainer``. Two differences are deliberate: reference log-probs are always a column, computed once
before training with the model as it was given, so that no second model is ever held; and nothing is saved during
training unless ``save_strategy`` asks for it.
"""

import copy
import logging
import os
import warnings
from collections import defaultdict

import torch
from torch import Tensor
from transformers import AutoTokenizer, Trainer, set_seed
from transformers.trainer import DEFAULT_PROGRESS_CALLBACK
from transformers.trainer_callback import PrinterCallback, TrainerCallback

from mipo import losses
from mipo.lm import batches as preferences
from mipo.lm import loss_inputs, shared_prompt
from mipo.lm.loss_inputs import apply_loss
from mipo.lm.progress import ProgressBar
from mipo.logprobs import first_tokens, sum_rows, token_logps
from mipo.losses.declaration import check, keyword
from mipo.trainer_config import PreferenceConfig

LOG = logging.getLogger(__name__)


class PreferenceTrainer(Trainer):
    """A ``transformers.Trainer`` for preference pairs and sets.

    model             model, or name or folder of one; the policy that it is now is the reference
    train_dataset     columns ``prompt``, ``chosen``, ``rejected`` (a list of K replies for K negatives), text or
                      messages; losses that need "cross" also read ``rejected_prompt``; columns ``ref_chosen_logps`` and
                      ``ref_rejected_logps`` (summed, nats) are used where present
    processing_class  the tokenizer; by default the one saved with the model
    peft_config       trains a new adapter; the base model stays as it is
    errors            ValueError for wrong settings and data before training, FloatingPointError for a loss that is NaN
    """

    def __init__(
        self,
        model,
        args: PreferenceConfig | None = None,
        data_collator=None,
        train_dataset=None,
        eval_dataset=None,
        processing_class=None,
        callbacks=None,
        optimizers=(None, None),
        peft_config=None,
        **kwargs,
    ):
        args = args or PreferenceConfig(output_dir="preference")
        if args.batch_tokens is not None and args.world_size > 1:
            raise ValueError(
                "batch_tokens works in one process only; leave it out with several"
            )
        set_seed(args.seed)  # adapters start from random weights
        model, tokenizer = _load(model, processing_class, args)
        if args.disable_dropout:
            for module in model.modules():
                if isinstance(module, torch.nn.Dropout):
                    module.p = 0.0
        self.loss_fn = check(args.loss, args.loss_kwargs)
        self._pad_id = (
            tokenizer.pad_token_id
            if tokenizer.pad_token_id is not None
            else tokenizer.eos_token_id
        )
        self._tokenizer, self._metrics = (
            tokenizer,
            {"train": defaultdict(list), "eval": defaultdict(list)},
        )
        self._reference = preferences.Reference(model, self._pad_id, args)
        self._moments = loss_inputs.Moments()
        self.args = args
        train_dataset = self._prepare(train_dataset, "train_dataset")
        eval_dataset = self._prepare(eval_dataset, "eval_dataset")
        if peft_config is not None:
            model = _adapt(model, peft_config, args)
        obstacle = shared_prompt.why_not(model) if args.share_prompts else None
        if obstacle:
            LOG.warning(
                "every reply is computed with its own prompt, since this model does not share them: %s",
                obstacle,
            )
        self._shares = args.share_prompts and not obstacle
        compares = (
            args.device.type == "cuda"
            if args.compare_sharing is None
            else args.compare_sharing
        )
        self._compares = compares and args.world_size == 1 and args.batch_tokens is None
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
        self.model_accepts_loss_kwargs = (
            False  # our loss is a mean over rows: average it over accumulated batches
        )
        self.remove_callback(
            PrinterCallback if args.disable_tqdm else DEFAULT_PROGRESS_CALLBACK
        )
        if not args.disable_tqdm:
            self.add_callback(ProgressBar)
        self.add_callback(_ChooseRows(self))

    def _prepare(self, dataset, name):
        """Token sets of a data set, or of each in a dict of data sets."""
        if isinstance(dataset, dict):
            return {
                key: self._prepare(value, f"{name}[{key!r}]")
                for key, value in dataset.items()
            }
        if dataset is None or isinstance(dataset, preferences.TokenSets):
            return dataset
        return preferences.prepare(
            dataset,
            self._tokenizer,
            self._reference.model,
            self.loss_fn,
            name=name,
            max_length=self.args.max_length,
            reference=self._reference,
            first_token=self.args.first_token,
            frozen_marginal=self.args.marginal == "frozen",
        )

    def train(self, *args, **kwargs):
        self._reference.closed = True
        return super().train(*args, **kwargs)

    def choose_rows(self):
        """Share prompts or not, whichever is faster on the first rows of the data, where that is to be compared."""
        if not (self._shares and self._compares):
            return
        moments = copy.copy(self._moments)
        here = [self.args.device] if self.args.device.type == "cuda" else []
        try:
            with torch.random.fork_rng(here):  # dropout of adapters draws
                self._shares = shared_prompt.pays(
                    self._try, torch.cuda.synchronize if here else None
                )
        finally:
            self.model.zero_grad()
            self._metrics["train"].clear()
            self._moments = moments

    def _try(self, share: bool):
        """One step's forward and backward pass as training does them; no weight changes."""
        rows = range(min(self.args.train_batch_size, len(self.train_dataset)))
        batch = preferences.collate_sets(
            [self.train_dataset[i] for i in rows], self._pad_id, share
        )
        self.model.train()
        loss = self.compute_loss(self.model_wrapped, self._prepare_inputs(batch))
        self.accelerator.backward(loss)

    def get_train_dataloader(self):
        """As ``Trainer``'s, or batches of ``batch_tokens`` tokens."""
        if self.args.batch_tokens is None:
            return super().get_train_dataloader()
        batches = preferences.TokenBatches(
            self.train_dataset.lengths(self._shares),
            self.args.batch_tokens,
            self.args.seed,
        )
        loader = torch.utils.data.DataLoader(
            self.train_dataset, batch_sampler=batches, collate_fn=self.data_collator
        )
        return self.accelerator.prepare(loader)

    def _collate(self, items):
        return preferences.collate_sets(items, self._pad_id, self._shares)

    def compute_loss(
        self, model, inputs, return_outputs=False, num_items_in_batch=None
    ):
        """Mean of the loss over the batch; keeps the metrics that TRL logs."""
        with (
            self.accelerator.autocast()
        ):  # so that the LM head has the precision that it had for the reference
            sides = loss_inputs.score_sides(model, inputs, self.args.marginal)
            logps, rows = token_logps(model, inputs)  # (M,)
        shape = (inputs["members"], -1)
        summed = sum_rows(logps, rows, inputs).reshape(shape)  # (n, B)
        tokens = inputs["tokens"].reshape(shape)
        first = first_tokens(logps, rows, inputs).detach().reshape(shape)
        ref = inputs.get("ref")
        extra = self._extras(inputs, sides, summed.detach(), tokens, first)
        loss = apply_loss(
            self.loss_fn, self._kwargs(), summed, tokens, ref, **extra
        ).mean()
        if not torch.isfinite(loss):
            off = (~torch.isfinite(summed)).any(dim=0).nonzero().flatten().tolist()
            whose = (
                f"; the policy's own log-probs of pairs {off} of the batch are not finite"
                if off
                else ""
            )
            raise FloatingPointError(
                f"the loss is {loss.item()}{whose}, at step {self.state.global_step + 1} (loss {self.args.loss!r},"
                f" {self.args.loss_kwargs}, learning rate {self.args.learning_rate:g}); lower the learning rate, or"
                " check the model's weights and the reference log-probs"
            )
        self._measure(
            summed.detach(), tokens, ref, extra, "train" if model.training else "eval"
        )
        return (loss, {"logps": summed.detach().T}) if return_outputs else loss

    def _kwargs(self) -> dict:
        """The loss's keywords, with the margin as far as its warm-up has come."""
        kwargs, last = (
            self.args.loss_kwargs,
            self.args.margin_warmup * self.state.max_steps,
        )
        if not self.model.training or self.state.global_step >= last:
            return kwargs
        share = self.state.global_step / last
        return kwargs | {
            k: share * keyword(self.loss_fn, k, kwargs)
            for k in ("gamma_min", "gamma_max")
        }

    def _extras(self, inputs, sides, summed, tokens, first) -> dict[str, Tensor]:
        """What the loss needs beyond log-probs of the policy and the reference, each (B,) and without gradient."""
        found, needs = {}, self.loss_fn.needs
        if "marginal" in needs:
            alone = sides.get("marginal", inputs["marginal"].get("ref"))
            found["delta_pmi"] = loss_inputs.delta_pmi(
                alone,
                inputs["marginal"]["tokens"].reshape(summed.shape),
                summed,
                tokens,
                first,
                marginal=self.args.marginal,
                first_token=self.args.first_token,
            )
        if "mismatched" in needs:
            found["kl"] = sides["mismatched"][0] - inputs["mismatched"]["ref"][0]
        if "moments" in needs:
            ratio = (summed - inputs["ref"]) / tokens
            found["gap_mean"], found["gap_std"] = self._moments(
                ratio[0] - ratio[1], update=self.model.training
            )
        return found

    def _measure(self, summed, tokens, ref, extra, mode):
        """TRL's names; delta_pmi and its margin. Rewards: beta times the summed log-ratio, or without a reference times
        the loss's own log-prob."""
        k = 1 if self.loss_fn.takes == "chosen" else summed.shape[0]
        if "cross" in self.loss_fn.needs:
            k = round(k**0.5)  # the replies to the row's own prompt come first
        found = {"logps/chosen": summed[0].mean()}
        if k > 1:
            beta = self.args.loss_kwargs.get(
                "beta", self.args.loss_kwargs.get("tau", 1.0)
            )
            base = summed / tokens if self.loss_fn.logps == "mean" else summed
            rewards = beta * ((base if ref is None else summed - ref)[:k])
            found |= {
                "logps/rejected": summed[1:k].mean(),
                "rewards/chosen": rewards[0].mean(),
                "rewards/rejected": rewards[1:].mean(),
                "rewards/accuracies": (rewards[0] > rewards[1:].amax(dim=0))
                .float()
                .mean(),
                "rewards/margins": (rewards[0] - rewards[1:].mean(dim=0)).mean(),
            }
        if "delta_pmi" in extra:
            names = ("gamma_min", "gamma_max", "scale")
            kwargs = {k: keyword(self.loss_fn, k, self._kwargs()) for k in names}
            gamma = losses.gamma_decay(extra["delta_pmi"], **kwargs)
            found |= {
                "margin/gamma": gamma.mean(),
                "margin/gamma_std": gamma.std(correction=0),
                "margin/delta_pmi": extra["delta_pmi"].mean(),
                "margin/delta_pmi_std": extra["delta_pmi"].std(correction=0),
            }
        for key, value in found.items():
            self._metrics[mode][key].append(value)

    def log(self, logs, start_time=None):
        mode = "train" if self.model.training else "eval"
        prefix = "eval_" if mode == "eval" else ""
        logs.update(
            {
                prefix + k: torch.stack(v).mean().item()
                for k, v in self._metrics[mode].items()
            }
        )
        self._metrics[mode].clear()
        super().log(logs, start_time)

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """Evaluation is the same loss without gradient: the data have no labels."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            loss, outputs = self.compute_loss(model, inputs, return_outputs=True)
        return (
            (loss, None, None)
            if prediction_loss_only
            else (loss, outputs["logps"], None)
        )

    def evaluate(self, eval_dataset=None, *args, **kwargs):
        """As ``Trainer.evaluate``; a new data set needs reference columns once training began."""
        if eval_dataset is not None and not isinstance(eval_dataset, str):
            eval_dataset = self._prepare(eval_dataset, "eval_dataset")
        return super().evaluate(eval_dataset, *args, **kwargs)


class _ChooseRows(TrainerCallback):
    """Compares when the model is ready to train: on its device, in its precision, with checkpointing."""

    def __init__(self, trainer):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        self.trainer.choose_rows()


def _load(model, tokenizer, args):
    """Model and tokenizer, loaded by name where needed, on the device that will train."""
    if isinstance(model, str | os.PathLike):
        from mipo.models import load_model

        model, loaded = load_model(
            str(model), device=str(args.device), **args.model_init_kwargs
        )
        tokenizer = tokenizer or loaded
    if tokenizer is None:
        name = getattr(model.config, "_name_or_path", "")
        if not name:
            raise ValueError(
                "the model has no name to load a tokenizer by; pass processing_class=tokenizer"
            )
        tokenizer = AutoTokenizer.from_pretrained(name)
    if getattr(model, "hf_device_map", None) is None:
        model.to(args.device)
    return model, tokenizer


def _adapt(model, peft_config, args):
    """The model with a new PEFT adapter."""
    from peft import PeftModel, get_peft_model

    if isinstance(model, PeftModel):
        raise ValueError(
            "the model already has an adapter; merge it first, or leave out peft_config to train it on"
        )
    with (
        warnings.catch_warnings()
    ):  # PEFT reads a property that transformers has renamed
        warnings.filterwarnings(
            "ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning
        )
        model = get_peft_model(model, peft_config)
    if args.activation_checkpointing or args.gradient_checkpointing:
        model.enable_input_require_grads()
    return model
