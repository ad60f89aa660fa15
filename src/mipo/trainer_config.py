"""Settings of ``mipo.trainer.PreferenceTrainer``, checked before any work."""

from dataclasses import dataclass, field

import torch
from transformers import TrainingArguments

from mipo.lm.loss_inputs import MARGINALS
from mipo.logprobs import FIRST_TOKEN
from mipo.losses.declaration import check


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
    batch_tokens        tokens per batch instead of a number of rows (the longest set's times the number of sets): sets of
                        similar length go together, and a batch of short ones holds more. Each batch counts as one step
    share_prompts       compute a prompt once for all its replies, where the model allows it exactly; same numbers
    compare_sharing     when training starts, time a step with and without and keep the faster way; None: on a GPU, where
                        a dense mask may cost more than it saves. In one process only, and not with batch_tokens
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
    compare_sharing: bool | None = None
    batch_tokens: int | None = None
    ref_batch_size: int = 64
    ref_cache_dir: str | None = None
    disable_dropout: bool = True
    model_init_kwargs: dict = field(default_factory=dict)
    learning_rate: float = field(
        default=1e-6, metadata={"help": "Initial learning rate, TRL's default for DPO."}
    )
    logging_steps: float = field(
        default=10, metadata={"help": "Log every so many steps, as TRL."}
    )
    save_strategy: str = field(
        default="no",
        metadata={"help": "When to write checkpoints: no, steps or epoch."},
    )
    report_to: str | list[str] | None = field(
        default="none", metadata={"help": "Trackers to report to."}
    )

    def __post_init__(self):
        self.remove_unused_columns = False  # the data are token rows by then
        self.dataloader_pin_memory = (
            self.dataloader_pin_memory and torch.cuda.is_available()
        )
        super().__post_init__()
        if self.loss_kwargs is None:
            self.loss_kwargs = {"beta": 0.1} if self.loss == "dpo" else {}
        loss = check(self.loss, self.loss_kwargs)
        for name, known in (("first_token", FIRST_TOKEN), ("marginal", MARGINALS)):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"{name} must be one of {', '.join(known)}; got {getattr(self, name)!r}"
                )
        if not 0 <= self.margin_warmup <= 1:
            raise ValueError(
                f"margin_warmup must be between 0 and 1; got {self.margin_warmup!r}"
            )
        if self.batch_tokens is not None and self.batch_tokens < 1:
            raise ValueError(
                f"batch_tokens must be at least 1; got {self.batch_tokens!r}"
            )
        if "marginal" not in loss.needs and (self.marginal, self.margin_warmup) != (
            "policy",
            0.0,
        ):
            raise ValueError(
                f"loss {self.loss!r} has no marginal; leave out marginal and margin_warmup"
            )

    @property
    def n_gpu(self) -> int:
        """At most 1: one process trains on one GPU, however many the machine has; `accelerate launch` uses several.

        transformers would spread each batch over all of them by DataParallel, which multiplies the batch size in silence.
        """
        return min(1, super().n_gpu)
