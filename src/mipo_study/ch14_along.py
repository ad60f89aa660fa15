"""Chapter 14, the run along one training: the policy is asked on the way."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback

from mipo.cache import Run, cached
from mipo.files import dumps, write_whole
from mipo.models import load_model
from mipo.recipes import RECIPES
from mipo.trainer import PreferenceConfig, PreferenceTrainer
from mipo_study import ch14_wishes, experiment

if TYPE_CHECKING:
    from mipo.lm.sampling import Reply


class Asking(TrainerCallback):
    """Asks the policy before the first step and after every so many.

    Parameters
    ----------
    ask : callable
        Takes the policy and gives its replies.
    every : int
        Steps.
    """

    def __init__(self, ask: Any, every: int) -> None:
        self.ask, self.every = ask, every
        self.replies: dict[int, list[Reply]] = {}

    def on_train_begin(
        self, args: Any, state: Any, control: Any, **kwargs: Any
    ) -> None:
        """Ask the policy as it was."""
        self.replies[0] = self._answers(kwargs["model"])

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Ask it on the way."""
        step = state.global_step
        if step % self.every == 0 or step == state.max_steps:
            self.replies[step] = self._answers(kwargs["model"])

    def _answers(self, model: Any) -> list[Reply]:
        was_training = model.training
        model.eval()
        replies = self.ask(model)
        model.train(was_training)
        return replies


@cached("wishes-along-{seed}", inputs=["base", "pairs"], keep=["scores.json"])
def along(
    folder: Path,
    *,
    base: str,
    pairs: Run,
    seed: int,
    setting: Mapping[str, Any],
    request: Mapping[str, Any],
    lr: float,
    epochs: float,
    lora_rank: int,
    n_pairs: int,
    every: int,
    progress: bool,
) -> dict[str, Any]:
    """Run of one training whose policy is asked on the way.

    Parameters
    ----------
    base, pairs, seed, setting, lr, epochs, lora_rank, n_pairs
        See `ch14_wishes.trial`. It trains and samples in float32.
    request : dict
        What is asked; see `ch14_wishes.ask`.
    every : int
        Steps from one asking to the next; the untrained policy and the last are asked
        as well.

    Returns
    -------
    Run
        Metrics: steps, and loss, the training's own, by step. File scores.json:
        {step: {column: values}}, see `ch14_wishes.measure`.
    """
    rows = experiment.read_pairs(pairs)
    rows = rows.select(range(min(n_pairs, len(rows))))
    model, tokenizer = load_model(base)
    examples = ch14_wishes.ask(request, seed)

    def ask(policy: Any) -> list[Reply]:
        return ch14_wishes.reply_to(
            policy, tokenizer, examples, request, seed, {}, progress=False
        )

    asking = Asking(ask, every)
    config = PreferenceConfig(
        output_dir=str(folder / "trainer"),
        learning_rate=lr,
        num_train_epochs=epochs,
        per_device_train_batch_size=ch14_wishes.PAIRS_PER_STEP,
        seed=seed,
        logging_steps=1,
        disable_tqdm=not progress,
        use_cpu=not torch.cuda.is_available(),
        **RECIPES["mipo"],
        **setting,
    )
    trainer = PreferenceTrainer(
        model=model,
        args=config,
        train_dataset=rows,
        processing_class=tokenizer,
        peft_config=experiment.lora(lora_rank) if lora_rank else None,
        callbacks=[asking],
    )
    trainer.train()
    shutil.rmtree(folder / "trainer", ignore_errors=True)
    scores = _scores(base, examples, asking.replies, request, seed)
    write_whole(folder / "scores.json", dumps(scores))
    log = trainer.state.log_history
    losses = [row["loss"] for row in log if "loss" in row]
    return {"steps": list(asking.replies), "loss": losses}


def _scores(
    base: str,
    examples: Sequence[Mapping[str, Any]],
    replies: Mapping[int, Sequence[Reply]],
    request: Mapping[str, Any],
    seed: int,
) -> dict[int, dict[str, list]]:
    """What the untrained model makes of the replies of every step."""
    model, tokenizer = load_model(base)
    return {
        step: ch14_wishes.columns_of(
            ch14_wishes.measure(model, tokenizer, examples, answers, request, seed)
        )
        for step, answers in replies.items()
    }
