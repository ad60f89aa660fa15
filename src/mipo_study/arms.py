"""The methods that the study compares in the small world: loss, pairs and settings of each, all trained alike."""

import json
import math
import shutil
from dataclasses import dataclass
from pathlib import Path

from mipo.baselines.pmi_reward import train_mi_reward
from mipo.models import load_model, require_finite
from mipo.trainer import PreferenceConfig, PreferenceTrainer


@dataclass(frozen=True)
class Arm:
    """One method: a loss of `mipo.losses` and how its rejected replies are made. `takes_beta`: the loss has a β."""

    loss: str
    negatives: str = "random_context"
    takes_beta: bool = False


ARMS = {
    "sft": Arm("sft"),
    "mipo-random": Arm("dpo", takes_beta=True),
    "mipo-missing": Arm("dpo", "missing_context", takes_beta=True),
    "context-infonce": Arm("context_infonce"),
    "sami": Arm("sami"),
    "mi-reward": Arm(
        "mi_reward", takes_beta=True
    ),  # on-policy: makes its own replies while it trains
}


def settings(
    folder, *, loss, lr, epochs=1, batch_size=32, seed=0, loss_kwargs=None, **more
):
    """PreferenceConfig of every offline arm, in the small world and on real people; intermediate files in `folder`.

    Published settings of MIPO's release: Adam betas 0.9 / 0.95, cosine to a tenth of the learning rate, warm-up 3 %, clip
    norm 1.
    """
    return PreferenceConfig(
        output_dir=str(Path(folder) / "trainer"),
        loss=loss,
        loss_kwargs=loss_kwargs or {},
        learning_rate=lr,
        num_train_epochs=epochs,
        per_device_train_batch_size=batch_size,
        seed=seed,
        adam_beta1=0.9,
        adam_beta2=0.95,
        max_grad_norm=1.0,
        warmup_steps=0.03,
        logging_steps=1,
        lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr_rate": 0.1},
        **more,
    )


def adapter(rank):
    """LoRA on every linear layer, alpha twice the rank."""
    from peft import LoraConfig  # only LoRA needs it

    return LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear")


def train_arm(
    name,
    base,
    pairs,
    folder,
    *,
    lr,
    beta=None,
    epochs=1,
    batch_size=32,
    seed=0,
    lora_rank=0,
    cache=None,
    progress=True,
    records=None,
):
    """Train the base model with one arm; saves the model (adapters merged) in `folder`, returns JSON metrics.

    Every arm has the same number of optimiser steps, len(pairs) · epochs / batch_size, and the same `settings`. Metrics:
    steps, first and last loss (the first is log 2 for DPO); log.json has all of them. `records` are those of the pairs,
    for the arm that samples as it trains.
    """
    if name not in ARMS:
        raise ValueError(f"no arm {name!r}; arms are {', '.join(ARMS)}")
    arm = ARMS[name]
    if name != "mi-reward":
        return train_loss(
            arm.loss,
            base,
            pairs,
            folder,
            lr=lr,
            loss_kwargs={"beta": beta} if arm.takes_beta else {},
            epochs=epochs,
            batch_size=batch_size,
            seed=seed,
            lora_rank=lora_rank,
            cache=cache,
            progress=progress,
        )
    model, tokenizer = load_model(base)
    steps = math.ceil(len(records) / batch_size * epochs)
    log = train_mi_reward(
        model,
        tokenizer,
        records,
        beta=beta,
        lr=lr,
        steps=steps,
        k=4,
        batch_size=max(1, batch_size // 4),
        seed=seed,
        progress=progress,
    )
    return _save(model, tokenizer, log, folder, name, lr)


def train_loss(
    loss,
    base,
    pairs,
    folder,
    *,
    lr,
    loss_kwargs,
    epochs=1,
    batch_size=32,
    seed=0,
    lora_rank=0,
    cache=None,
    progress=True,
    **more,
):
    """Train the base model on pairs with a loss of `mipo.losses`; saves and returns as `train_arm`.

    more   further settings of `PreferenceConfig`
    """
    model, tokenizer = load_model(base)
    args = settings(
        folder,
        loss=loss,
        loss_kwargs=loss_kwargs,
        lr=lr,
        epochs=epochs,
        batch_size=batch_size,
        seed=seed,
        ref_cache_dir=str(cache) if cache else None,
        disable_tqdm=not progress,
        **more,
    )
    lora = adapter(lora_rank) if lora_rank else None
    trainer = PreferenceTrainer(
        model=model,
        args=args,
        train_dataset=pairs,
        processing_class=tokenizer,
        peft_config=lora,
    )
    trainer.train()
    model = trainer.model.merge_and_unload() if lora else trainer.model
    shutil.rmtree(Path(folder) / "trainer", ignore_errors=True)
    return _save(
        model,
        tokenizer,
        [row for row in trainer.state.log_history if "loss" in row],
        folder,
        loss,
        lr,
    )


def _save(model, tokenizer, log, folder, name, lr):
    require_finite(model, name, lr)
    model.save_pretrained(Path(folder) / "model")
    tokenizer.save_pretrained(Path(folder) / "model")
    (Path(folder) / "log.json").write_text(json.dumps(log))
    return {
        "steps": len(log),
        "first_loss": log[0]["loss"],
        "last_loss": log[-1]["loss"],
    }
