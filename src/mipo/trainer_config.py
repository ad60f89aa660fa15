"""Settings of `mipo.trainer.PreferenceTrainer`, checked before any work."""

from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import TrainingArguments

from mipo.lm.loss_inputs import MARGINALS
from mipo.logprobs import FIRST_TOKEN
from mipo.losses.declaration import check


def _setting(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass
class PreferenceConfig(TrainingArguments):
    """``transformers.TrainingArguments`` plus what a preference loss needs.

    Parameters
    ----------
    loss : str
        A function of `mipo.losses`.
    loss_kwargs : dict, optional
        Its keywords; None: DPO takes beta 0.1, as TRL's.
    max_length : int, optional
        Tokens of prompt and reply; a longer reply is cut. None: no cut, and what
        exceeds the model's positions is an error.
    first_token : {"start", "drop", "released"}
        How the first token of a reply is scored without its prompt: see
        `mipo.logprobs.response_pmi`.
    marginal : {"policy", "frozen", "shuffled", "none"}
        What RMiPO's margin takes for log pi(y). "policy": the reply alone under the
        policy as it is now. Controls: "frozen", under the policy before training;
        "shuffled", another pair's of the batch; "none", no marginal at all, so that the
        margin follows the log-prob gap itself.
    margin_warmup : float
        Share of the steps over which RMiPO's margin grows linearly from 0 to its value.
    share_prompts : bool
        Compute a prompt once for all its replies, where the model allows it exactly;
        same numbers.
    compare_sharing : bool, optional
        When training starts, time a step with and without, and keep the faster way.
        None: on a GPU, where a dense mask may cost more than it saves. In one process
        only, and not with `batch_tokens`.
    batch_tokens : int, optional
        Tokens per batch instead of a number of rows (the longest set's times the number
        of sets): sets of similar length go together, and a batch of short ones holds
        more. Each batch counts as one step.
    ref_batch_size : int
        Rows per batch when reference log-probs are computed.
    ref_cache_dir : str, optional
        Folder of cached reference log-probs, keyed by content; None:
        ``<output_dir>/ref-logps``.
    disable_dropout : bool
        As TRL: log-ratios against the reference should not be noisy.
    model_init_kwargs : dict
        Keywords of `mipo.models.load_model` where the model is given by name.
    learning_rate, logging_steps, save_strategy, report_to
        As in transformers, with TRL's defaults; nothing is saved or reported.

    Raises
    ------
    ValueError
        For a setting that is unknown, impossible, or of no use to the loss.
    """

    loss: str = "dpo"
    loss_kwargs: dict | None = None
    max_length: int | None = None
    first_token: str = "start"
    marginal: str = "policy"
    margin_warmup: float = 0.0
    share_prompts: bool = True
    compare_sharing: bool | None = None
    batch_tokens: int | None = None
    ref_batch_size: int = 64
    ref_cache_dir: str | None = None
    disable_dropout: bool = True
    model_init_kwargs: dict = field(default_factory=dict)
    learning_rate: float = _setting(1e-6, "Initial learning rate, as TRL's for DPO.")
    logging_steps: float = _setting(10, "Log every so many steps, as TRL.")
    save_strategy: str = _setting("no", "When to save: no, steps or epoch.")
    report_to: str | list[str] | None = _setting("none", "Trackers to report to.")

    def __post_init__(self):
        self.remove_unused_columns = False  # the data are token rows by then
        pins = self.dataloader_pin_memory and torch.cuda.is_available()
        self.dataloader_pin_memory = pins
        super().__post_init__()
        if self.loss_kwargs is None:
            self.loss_kwargs = {"beta": 0.1} if self.loss == "dpo" else {}
        loss = check(self.loss, self.loss_kwargs)
        for name, known in (("first_token", FIRST_TOKEN), ("marginal", MARGINALS)):
            value = getattr(self, name)
            if value not in known:
                raise ValueError(
                    f"{name} must be one of {', '.join(known)}; got {value!r}"
                )
        if not 0 <= self.margin_warmup <= 1:
            raise ValueError(
                f"margin_warmup must be between 0 and 1; got {self.margin_warmup!r}"
            )
        if self.batch_tokens is not None and self.batch_tokens < 1:
            raise ValueError(
                f"batch_tokens must be at least 1; got {self.batch_tokens!r}"
            )
        asks_for_marginal = self.marginal != "policy" or self.margin_warmup != 0
        if asks_for_marginal and "marginal" not in loss.needs:
            raise ValueError(
                f"loss {self.loss!r} has no marginal; "
                "leave out marginal and margin_warmup"
            )

    @property
    def compares_sharing(self) -> bool:
        """Whether both ways of computing prompts are timed when training starts."""
        if self.world_size > 1 or self.batch_tokens is not None:
            return False
        if self.compare_sharing is None:
            return self.device.type == "cuda"
        return self.compare_sharing

    @property
    def n_gpu(self) -> int:
        """At most 1: one process trains on one GPU, however many the machine has.

        `accelerate launch` uses several. transformers would spread each batch over all
        of them by DataParallel, which multiplies the batch size in silence.
        """
        return min(1, super().n_gpu)
