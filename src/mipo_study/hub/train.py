"""One training of a hub model, in this process or as one of several.

Full fine-tuning holds float32 weights and computes in bfloat16: with bfloat16 weights a
step of 5e-7 would be rounded away. What is saved after that is bfloat16, as its matrix
products have seen the weights. LoRA holds the base in bfloat16 and saves the adapter
alone. Checkpoints lie outside the run's folder and are gone once it is written.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.process
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import PartialState
from datasets import Dataset

from mipo import files, jsonl
from mipo.lm import checkpoints
from mipo.lm.sampling import TOKEN_COLUMNS
from mipo.lm.tokens import max_positions
from mipo.models import load_model, require_finite
from mipo.preference_data import as_text
from mipo.recipes import RECIPES
from mipo.trainer import PreferenceConfig, PreferenceTrainer
from mipo_study.experiment import lora

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def load(
    place: str | Path, *, dtype: str = "bfloat16", device: str | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model and tokenizer of any model folder; an adapter is put on its base.

    Parameters
    ----------
    place : path
        A folder that `run` saved, the path of a Place, or any folder in hub format.
    dtype, device
        See `mipo.models.load_model`.

    Returns
    -------
    model : PreTrainedModel
        Or a PeftModel around one, which passes on all that is asked of it.
    tokenizer : PreTrainedTokenizerBase
    """
    folder = Path(place)
    adapter = folder / "adapter_config.json"
    if not adapter.is_file():
        return load_model(folder, dtype=dtype, device=device)
    base = files.read_json(adapter)["base_model_name_or_path"]
    model, tokenizer = load_model(base, dtype=dtype, device=device)
    return checkpoints.load_adapter(model, folder), tokenizer


def best_dtype() -> str:
    """bfloat16 on a GPU that has it, else float32."""
    able = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    return "bfloat16" if able else "float32"


def pieces(batch_size: int, micro_batch: int, cards: int = 1) -> tuple[int, int, int]:
    """A batch cut evenly, over as many of the cards as divide it.

    Parameters
    ----------
    batch_size : int
        Pairs of a step: a setting of the method, never changed.
    micro_batch : int
        The most that one card is given at once.
    cards : int
        That there are.

    Returns
    -------
    (int, int, int)
        Processes, pairs at once in each, and pieces that are summed up.

    Raises
    ------
    ValueError
        For a number below 1.
    """
    if min(batch_size, micro_batch, cards) < 1:
        raise ValueError(
            f"batch_size={batch_size}, micro_batch={micro_batch}, {cards} card(s): "
            "each must be at least 1"
        )
    processes = max(n for n in range(1, cards + 1) if batch_size % n == 0)
    share = batch_size // processes
    at_once = max(n for n in range(1, micro_batch + 1) if share % n == 0)
    return processes, at_once, share // at_once


def arguments(spec: Mapping[str, Any], processes: int) -> PreferenceConfig:
    """PreferenceConfig of a training, by the recipe that its method names.

    Parameters
    ----------
    spec : dict
        See `run`.
    processes : int
        That share a batch.

    Returns
    -------
    PreferenceConfig

    Raises
    ------
    ValueError
        Where they cannot share it evenly.
    """
    wanted, at_once, summed = pieces(spec["batch_size"], spec["micro_batch"], processes)
    if wanted != processes:
        raise ValueError(
            f"batch_size={spec['batch_size']} cannot be shared by {processes} "
            f"processes; start {wanted}"
        )
    return PreferenceConfig(
        output_dir=spec["checkpoints"],
        loss=spec["loss"],
        loss_kwargs=spec["loss_kwargs"],
        learning_rate=spec["lr"],
        num_train_epochs=spec["epochs"],
        per_device_train_batch_size=at_once,
        seed=spec["seed"],
        gradient_accumulation_steps=summed,
        max_length=spec["max_length"],
        bf16=best_dtype() == "bfloat16",
        activation_checkpointing=spec["checkpointing"],
        activation_checkpointing_kwargs={"use_reentrant": False},
        logging_steps=1,
        use_cpu=not torch.cuda.is_available(),
        disable_tqdm=not spec["progress"],
        save_strategy="steps",
        save_steps=spec["save_every"],
        save_total_limit=1,
        ref_cache_dir=str(Path(spec["checkpoints"]) / "ref-logps"),
        ddp_find_unused_parameters=False,
        **RECIPES[spec["recipe"]],
    )


def run(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Train a policy and save it in folder/model.

    A training that was cut goes on from its last checkpoint, with the same batches in
    the same order.

    Parameters
    ----------
    spec : dict
        JSON settings as `runs.train_policy` makes them, with the paths base, pairs,
        folder and checkpoints.

    Returns
    -------
    dict
        JSON metrics: steps, lr, first_loss, last_loss, processes, peak_gb, kept_update.
    """
    state = PartialState(cpu=not torch.cuda.is_available())
    rank, dtype = spec["lora_rank"], best_dtype()
    model, tokenizer = load_model(
        spec["base"], dtype=dtype if rank else "float32", device=str(state.device)
    )
    model.config.use_cache = False
    longest = min(spec["max_length"], max_positions(model) or spec["max_length"])
    trainer = PreferenceTrainer(
        model=model,
        args=arguments({**spec, "max_length": longest}, state.num_processes),
        train_dataset=rows_of(spec["pairs"], tokenizer),
        processing_class=tokenizer,
        peft_config=lora(rank) if rank else None,
    )
    trainer.train(resume_from_checkpoint=last_checkpoint(spec["checkpoints"]))
    # On every process: with FSDP each holds a part of the weights.
    require_finite(trainer.model, spec["loss"], spec["lr"])
    kept = None
    if not rank and dtype == "bfloat16" and not trainer.is_fsdp_enabled:
        kept = rounded(trainer.model, spec["base"], main=state.is_main_process)
    folder = Path(spec["folder"])
    trainer.save_model(str(folder / "model"))
    if state.is_main_process:
        tokenizer.save_pretrained(folder / "model")
        log = [row for row in trainer.state.log_history if "loss" in row]
        metrics = {
            "steps": trainer.state.global_step,
            "lr": spec["lr"],
            "first_loss": log[0]["loss"],
            "last_loss": log[-1]["loss"],
            "processes": state.num_processes,
            "peak_gb": peak_gb(),
            "kept_update": kept,
        }
        files.write_whole(folder / "log.json", files.dumps(log))
        files.write_whole(folder / "metrics.json", files.dumps(metrics))
    state.wait_for_everyone()
    return files.read_json(folder / "metrics.json")


def rows_of(
    path: str | Path, tokenizer: PreTrainedTokenizerBase
) -> Dataset | list[dict]:
    """Pairs of a file as text, those of a conversational file by the chat template.

    Replies that were sampled keep the ids that the file has beside them.
    """
    pairs = jsonl.rows(path)
    if isinstance(pairs[0]["prompt"], str):
        return Dataset.from_list(pairs)
    name = Path(path).name
    named = [pair | {"read_from": f"{name}, row {i}"} for i, pair in enumerate(pairs)]
    sampled = [{c: pair[c] for c in TOKEN_COLUMNS if c in pair} for pair in pairs]
    texts = as_text(named, tokenizer)
    return [text | ids for text, ids in zip(texts, sampled, strict=True)]


def peak_gb() -> float | None:
    """The most memory that the card has held, GB; None without one."""
    if not torch.cuda.is_available():
        return None
    return torch.cuda.max_memory_allocated() / 1e9


def rounded(model: torch.nn.Module, base: str | Path, *, main: bool) -> float | None:
    """Round a model to bfloat16, in place.

    Parameters
    ----------
    model : Module
        As training left it.
    base : path
        What it was before.
    main : bool
        Whether this is the main process.

    Returns
    -------
    float or None
        In the main process its `kept_update`.
    """
    share = kept_update(load_model(base, device="cpu")[0], model) if main else None
    model.to(torch.bfloat16)
    return share


def kept_update(before: torch.nn.Module, after: torch.nn.Module) -> float:
    r"""Share of a full update that is left once weights are rounded to bfloat16.

    :math:`\sum |r(b) - r(a)| / \sum |b - a|` over weights a before and b after. Small
    steps round away (0) or up; 1.0 where nothing changed.
    """
    left = total = 0.0
    for old, new in zip(before.parameters(), after.parameters(), strict=True):
        a, b = old.detach().float().cpu(), new.detach().float().cpu()
        left += (b.bfloat16() - a.bfloat16()).float().abs().sum().item()
        total += (b - a).abs().sum().item()
    return left / total if total else 1.0


def last_checkpoint(folder: str | Path) -> str | None:
    """The newest whole checkpoint of a training that was cut, or None."""
    whole = [
        place
        for place in Path(folder).glob("checkpoint-*")
        if (place / "trainer_state.json").is_file()
    ]
    newest = max(whole, key=lambda place: int(place.name.rsplit("-", 1)[1]), default="")
    return str(newest) or None


def worker(spec: Mapping[str, Any]) -> None:
    """What each of several processes does; it ends when whoever started it is gone."""
    starter = multiprocessing.parent_process()
    threading.Thread(target=_end_after, args=[starter], daemon=True).start()
    run(spec)


def _end_after(starter: multiprocessing.process.BaseProcess) -> None:
    """Else a killed notebook's processes would share the checkpoints with the next."""
    starter.join()
    os._exit(1)
