"""How the released scripts optimise: schedule and Adam's settings, by paper."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.nn import Module
    from torch.optim import AdamW
    from torch.optim.lr_scheduler import LambdaLR

MIPO: dict[str, Any] = {
    "adam_beta1": 0.9,
    "adam_beta2": 0.95,
    "max_grad_norm": 1.0,
    "warmup_steps": 0.03,
    "lr_scheduler_type": "cosine_with_min_lr",
    "lr_scheduler_kwargs": {"min_lr_rate": 0.1},
}
RMIPO: dict[str, Any] = {
    "adam_beta1": 0.9,
    "adam_beta2": 0.999,
    "max_grad_norm": 1.0,
    "warmup_steps": 0.1,
    "lr_scheduler_type": "cosine",
}
RECIPES = {"mipo": MIPO, "rmipo": RMIPO}


def optimiser(
    model: Module, *, lr: float, steps: int, recipe: dict[str, Any] = MIPO
) -> tuple[AdamW, LambdaLR]:
    """AdamW without weight decay and its schedule, for loops that are not a Trainer.

    Parameters
    ----------
    model : torch.nn.Module
        Its trainable weights are optimised.
    lr : float
        The highest learning rate, reached after the warm-up.
    steps : int
        Optimiser steps of the whole training.
    recipe : dict
        One of `RECIPES` whose schedule ends at a share of the learning rate.

    Returns
    -------
    (torch.optim.AdamW, torch.optim.lr_scheduler.LambdaLR)
    """
    import torch
    from transformers import get_cosine_with_min_lr_schedule_with_warmup

    weights = [p for p in model.parameters() if p.requires_grad]
    betas = (recipe["adam_beta1"], recipe["adam_beta2"])
    adam = torch.optim.AdamW(weights, lr=lr, betas=betas, weight_decay=0.0)
    warmup = math.ceil(recipe["warmup_steps"] * steps)
    lowest = recipe["lr_scheduler_kwargs"]["min_lr_rate"]
    schedule = get_cosine_with_min_lr_schedule_with_warmup(
        adam, warmup, steps, min_lr_rate=lowest
    )
    return adam, schedule


def rates(lr: float, steps: int, recipe: dict[str, Any]) -> list[float]:
    """The learning rate of each step of a `transformers.Trainer` with a recipe.

    Parameters
    ----------
    lr : float
        The highest learning rate, reached after the warm-up.
    steps : int
        Optimiser steps of the whole training.
    recipe : dict
        One of `RECIPES`.

    Returns
    -------
    list of float
        The warm-up takes one step at least, and its first rate is 0: a training of one
        step changes nothing.
    """
    import torch
    from transformers import get_scheduler

    schedule: Any = get_scheduler(
        recipe["lr_scheduler_type"],
        torch.optim.SGD([torch.zeros(1)], lr=lr),
        num_warmup_steps=math.ceil(recipe["warmup_steps"] * steps),
        num_training_steps=steps,
        scheduler_specific_kwargs=recipe.get("lr_scheduler_kwargs"),
    )
    share = schedule.lr_lambdas[0]
    return [lr * share(step) for step in range(steps)]
