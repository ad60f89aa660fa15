"""Train a causal language model with any loss of ``mipo.losses`` on preference data in TRL's format.

Called like TRL's ``DPOTrainer``. Two differences are deliberate: reference log-probs are always a column, computed once
before training with the model as it was given, so that no second model is ever held; and nothing is saved during
training unless ``save_strategy`` asks for it.
"""

import logging
import os
import warnings
from collections import defaultdict
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import AutoTokenizer, Trainer, TrainingArguments, set_seed
from transformers.trainer import DEFAULT_PROGRESS_CALLBACK
from transformers.trainer_callback import PrinterCallback

from mipo import loss_inputs, losses, preferences, shared_prompt
from mipo.logprobs import FIRST_TOKEN, first_tokens, sum_rows, token_logps
from mipo.loss_inputs import MARGINALS, apply_loss
from mipo.progress import ProgressBar

LOG = logging.getLogger(__name__)


@dataclass
class PreferenceConfig(TrainingArguments):
    """``transformers.TrainingArguments`` plus what a preference loss needs. Settings are checked here, before any work.

    loss, loss_kwargs   a function of ``mipo.losses`` and its keywords; without keywords DPO takes beta 0.1, as TRL's
    max_length          tokens of prompt and reply; a longer reply is cut. None: no cut, and what exceeds the model's
                        positions is an error
    first_token         how the first token of a reply is scored without its prompt: see `logprobs.response_pmi`
    marginal            what RMiPO's margin takes for log pi(y): "policy", the reply alone under the policy as it is now;
                        controls: "frozen", under the policy before training; "shuffled", another pair's of the
                        batch; "none", no marginal at all, so that the margin follows the log-prob gap itself
    margin_warmup       share of the steps over which RMiPO's margin grows linearly from 0 to its value
    batch_tokens        tokens per batch, padding included, instead of a number of rows: rows of similar length go
                        together, and a batch of short ones holds more. Each batch still counts as one step
    share_prompts       compute a prompt once for all its replies, where the model allows it exactly; same numbers
    ref_batch_size      rows per batch when reference log-probs are computed
    ref_cache_dir       folder of cached reference log-probs, keyed by content; None: ``<output_dir>/ref-logps``
    disable_dropout     as TRL: log-ratios against the reference should not be noisy
    model_init_kwargs   keywords of ``mipo.models.load_model`` where the model is given by name
    """

    loss: str = "dpo"
    loss_kwargs: dict | None = None
    max_length: int | None = None
    first_token: str = "start"
    marginal: str = "policy"
    margin_warmup: float = 0.0
    share_prompts: bool = True
    batch_tokens: int | None = None
    ref_batch_size: int = 64
    ref_cache_dir: str | None = None
    disable_dropout: bool = True
    model_init_kwargs: dict = field(default_factory=dict)
    learning_rate: float = field(default=1e-6, metadata={"help": "Initial learning rate, TRL's default for DPO."})
    logging_steps: float = field(default=10, metadata={"help": "Log every so many steps, as TRL."})
    save_strategy: str = field(default="no", metadata={"help": "When to write checkpoints: no, steps or epoch."})
    report_to: str | list[str] | None = field(default="none", metadata={"help": "Trackers to report to."})

    def __post_init__(self):
        self.remove_unused_columns = False  # the data are token rows by then
        self.dataloader_pin_memory = self.dataloader_pin_memory and torch.cuda.is_available()
        super().__post_init__()
        if self.loss_kwargs is None:
            self.loss_kwargs = {"beta": 0.1} if self.loss == "dpo" else {}
        loss = losses.check(self.loss, self.loss_kwargs)
        for name, known in (("first_token", FIRST_TOKEN), ("marginal", MARGINALS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}; got {getattr(self, name)!r}")
        if not 0 <= self.margin_warmup <= 1:
            raise ValueError(f"margin_warmup must be between 0 and 1; got {self.margin_warmup!r}")
        if self.batch_tokens is not None and self.batch_tokens < 1:
            raise ValueError(f"batch_tokens must be at least 1; got {self.batch_tokens!r}")
        if "marginal" not in loss.needs and (self.marginal, self.margin_warmup) != ("policy", 0.0):
            raise ValueError(f"loss {self.loss!r} has no marginal; leave out marginal and margin_warmup")


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
        self, model, args: PreferenceConfig | None = None, data_collator=None, train_dataset=None, eval_dataset=None,
        processing_class=None, callbacks=None, optimizers=(None, None), peft_config=None, **kwargs,
    ):  # fmt: skip
        args = args or PreferenceConfig(output_dir="preference")
        set_seed(args.seed)  # adapters start from random weights
        model, tokenizer = _load(model, processing_class, args)
        if args.disable_dropout:
            for module in model.modules():
                if isinstance(module, torch.nn.Dropout):
                    module.p = 0.0
        self.loss_fn = losses.check(args.loss, args.loss_kwargs)
        self._pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        self._tokenizer, self._metrics = tokenizer, {"train": defaultdict(list), "eval": defaultdict(list)}
        self._reference = preferences.Reference(model, self._pad_id, args)
        self._moments = loss_inputs.Moments()
        self.args = args
        train_dataset = self._prepare(train_dataset, "train_dataset")
        eval_dataset = self._prepare(eval_dataset, "eval_dataset")
        if peft_config is not None:
            model = _adapt(model, peft_config, args)
        obstacle = shared_prompt.why_not(model) if args.share_prompts else None
        if obstacle:
            LOG.warning("every reply is computed with its own prompt, since this model does not share them: %s", obstacle)
        self._shares = args.share_prompts and not obstacle
        super().__init__(
            model=model, args=args, data_collator=data_collator or self._collate, train_dataset=train_dataset,
            eval_dataset=eval_dataset, processing_class=tokenizer, callbacks=callbacks, optimizers=optimizers, **kwargs,
        )  # fmt: skip
        self.model_accepts_loss_kwargs = False  # our loss is a mean over rows: average it over accumulated batches
        self.remove_callback(PrinterCallback if args.disable_tqdm else DEFAULT_PROGRESS_CALLBACK)
        if not args.disable_tqdm:
            self.add_callback(ProgressBar)

    def _prepare(self, dataset, name):
        """Token sets of a data set, or of each in a dict of data sets."""
        if isinstance(dataset, dict):
            return {key: self._prepare(value, f"{name}[{key!r}]") for key, value in dataset.items()}
        if dataset is None or isinstance(dataset, preferences.TokenSets):
            return dataset
        return preferences.prepare(
            dataset, self._tokenizer, self._reference.model, self.loss_fn,
            name=name, max_length=self.args.max_length, reference=self._reference,
            first_token=self.args.first_token, frozen_marginal=self.args.marginal == "frozen",
        )  # fmt: skip

    def train(self, *args, **kwargs):
        self._reference.closed = True
        return super().train(*args, **kwargs)

    def get_train_dataloader(self):
        """As ``Trainer``'s, or batches of ``batch_tokens`` tokens."""
        if self.args.batch_tokens is None:
            return super().get_train_dataloader()
        if self.args.world_size > 1:
            raise ValueError("batch_tokens works in one process only; leave it out with several")
        batches = preferences.TokenBatches(self.train_dataset.lengths(), self.args.batch_tokens, self.args.seed)
        loader = torch.utils.data.DataLoader(self.train_dataset, batch_sampler=batches, collate_fn=self.data_collator)
        return self.accelerator.prepare(loader)

    def _collate(self, items):
        return preferences.collate_sets(items, self._pad_id, self._shares)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Mean of the loss over the batch; keeps the metrics that TRL logs."""
        sides = loss_inputs.score_sides(model, inputs, self.args.marginal)
        logps, rows = token_logps(model, inputs)  # (M,)
        shape = (inputs["members"], -1)
        summed = sum_rows(logps, rows, inputs).reshape(shape)  # (n, B)
        tokens = inputs["tokens"].reshape(shape)
        first = first_tokens(logps, rows, inputs).detach().reshape(shape)
        ref = inputs.get("ref")
        extra = self._extras(inputs, sides, summed.detach(), tokens, first)
        loss = apply_loss(self.loss_fn, self._kwargs(), summed, tokens, ref, **extra).mean()
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"the loss is {loss.item()} at step {self.state.global_step + 1} (loss {self.args.loss!r},"
                f" {self.args.loss_kwargs}, learning rate {self.args.learning_rate:g}); lower the learning rate, or"
                " check the model's weights and the reference log-probs"
            )
        self._measure(summed.detach(), tokens, ref, extra, "train" if model.training else "eval")
        return (loss, {"logps": summed.detach().T}) if return_outputs else loss

    def _kwargs(self) -> dict:
        """The loss's keywords, with the margin as far as its warm-up has come."""
        kwargs, last = self.args.loss_kwargs, self.args.margin_warmup * self.state.max_steps
        if not self.model.training or self.state.global_step >= last:
            return kwargs
        share = self.state.global_step / last
        return kwargs | {k: share * losses.default(self.loss_fn, k, kwargs) for k in ("gamma_min", "gamma_max")}

    def _extras(self, inputs, sides, summed, tokens, first) -> dict[str, Tensor]:
        """What the loss needs beyond log-probs of the policy and the reference, each (B,) and without gradient."""
        found, needs = {}, self.loss_fn.needs
        if "marginal" in needs:
            alone = sides.get("marginal", inputs["marginal"].get("ref"))
            found["delta_pmi"] = loss_inputs.delta_pmi(
                alone, inputs["marginal"]["tokens"].reshape(summed.shape), summed, tokens, first,
                marginal=self.args.marginal, first_token=self.args.first_token,
            )  # fmt: skip
        if "mismatched" in needs:
            found["kl"] = sides["mismatched"][0] - inputs["mismatched"]["ref"][0]
        if "moments" in needs:
            ratio = (summed - inputs["ref"]) / tokens
            found["gap_mean"], found["gap_std"] = self._moments(ratio[0] - ratio[1], update=self.model.training)
        return found

    def _measure(self, summed, tokens, ref, extra, mode):
        """TRL's names; delta_pmi and its margin. Rewards: beta times the summed log-ratio, or without a reference times
        the loss's own log-prob."""
        k = 1 if self.loss_fn.takes == "chosen" else summed.shape[0]
        if "cross" in self.loss_fn.needs:
            k = round(k**0.5)  # the replies to the row's own prompt come first
        found = {"logps/chosen": summed[0].mean()}
        if k > 1:
            beta = self.args.loss_kwargs.get("beta", self.args.loss_kwargs.get("tau", 1.0))
            base = summed / tokens if self.loss_fn.logps == "mean" else summed
            rewards = beta * ((base if ref is None else summed - ref)[:k])
            found |= {
                "logps/rejected": summed[1:k].mean(),
                "rewards/chosen": rewards[0].mean(),
                "rewards/rejected": rewards[1:].mean(),
                "rewards/accuracies": (rewards[0] > rewards[1:].amax(dim=0)).float().mean(),
                "rewards/margins": (rewards[0] - rewards[1:].mean(dim=0)).mean(),
            }
        if "delta_pmi" in extra:
            names = ("gamma_min", "gamma_max", "scale")
            kwargs = {k: losses.default(self.loss_fn, k, self._kwargs()) for k in names}
            gamma = losses.gamma_decay(extra["delta_pmi"], **kwargs)
            found |= {"margin/gamma": gamma.mean(), "margin/gamma_std": gamma.std(correction=0),
                      "margin/delta_pmi": extra["delta_pmi"].mean(),
                      "margin/delta_pmi_std": extra["delta_pmi"].std(correction=0)}  # fmt: skip
        for key, value in found.items():
            self._metrics[mode][key].append(value)

    def log(self, logs, start_time=None):
        mode = "train" if self.model.training else "eval"
        prefix = "eval_" if mode == "eval" else ""
        logs.update({prefix + k: torch.stack(v).mean().item() for k, v in self._metrics[mode].items()})
        self._metrics[mode].clear()
        super().log(logs, start_time)

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """Evaluation is the same loss without gradient: the data have no labels."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            loss, outputs = self.compute_loss(model, inputs, return_outputs=True)
        return (loss, None, None) if prediction_loss_only else (loss, outputs["logps"], None)

    def evaluate(self, eval_dataset=None, *args, **kwargs):
        """As ``Trainer.evaluate``; a new data set needs reference columns once training began."""
        if eval_dataset is not None and not isinstance(eval_dataset, str):
            eval_dataset = self._prepare(eval_dataset, "eval_dataset")
        return super().evaluate(eval_dataset, *args, **kwargs)


def _load(model, tokenizer, args):
    """Model and tokenizer, loaded by name where needed, on the device that will train."""
    if isinstance(model, str | os.PathLike):
        from mipo.models import load_model

        model, loaded = load_model(str(model), device=str(args.device), **args.model_init_kwargs)
        tokenizer = tokenizer or loaded
    if tokenizer is None:
        name = getattr(model.config, "_name_or_path", "")
        if not name:
            raise ValueError("the model has no name to load a tokenizer by; pass processing_class=tokenizer")
        tokenizer = AutoTokenizer.from_pretrained(name)
    if args.n_gpu > 1:
        raise ValueError(f"one process sees {args.n_gpu} GPUs; use accelerate launch, or set CUDA_VISIBLE_DEVICES=0")
    if getattr(model, "hf_device_map", None) is None:
        model.to(args.device)
    return model, tokenizer


def _adapt(model, peft_config, args):
    """The model with a new PEFT adapter."""
    from peft import PeftModel, get_peft_model

    if isinstance(model, PeftModel):
        raise ValueError("the model already has an adapter; merge it first, or leave out peft_config to train it on")
    with warnings.catch_warnings():  # PEFT reads a property that transformers has renamed
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
        model = get_peft_model(model, peft_config)
    if args.activation_checkpointing or args.gradient_checkpointing:
        model.enable_input_require_grads()
    return model
