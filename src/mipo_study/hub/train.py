"""One training run of a hub model: in one process, or in several started by `accelerate launch -m mipo_study.hub.train spec.json`.

Full fine-tuning holds float32 weights and computes in bfloat16: with bfloat16 weights a step of 5e-7 would be rounded away.
What is saved after that is bfloat16, as its matrix products have seen the weights. LoRA holds the base in bfloat16 and
saves the adapter alone. Checkpoints lie outside the record and are gone once it is written.
"""

import json
import os
import sys
import threading
import time
from pathlib import Path

import psutil
import torch
from accelerate import PartialState

from mipo import files
from mipo.lm.tokens import max_positions
from mipo.models import load_model, require_finite
from mipo.preference_data import as_text
from mipo.trainer import PreferenceConfig, PreferenceTrainer
from mipo_study.arms import adapter
from mipo_study.runs import read_pairs


def load(place, *, dtype="bfloat16", device=None):
    """(model, tokenizer) of a folder that `run` saved, of a Place's path, or of any model folder; adapters are put on."""
    folder = Path(place)
    if (folder / "adapter_config.json").is_file():
        from peft import PeftModel

        base = json.loads((folder / "adapter_config.json").read_text())[
            "base_model_name_or_path"
        ]
        model, tokenizer = load_model(base, dtype=dtype, device=device)
        return PeftModel.from_pretrained(model, str(folder)).eval(), tokenizer
    return load_model(folder, dtype=dtype, device=device)


def best_dtype():
    """bfloat16 on a GPU that has it, else float32."""
    return (
        "bfloat16"
        if torch.cuda.is_available() and torch.cuda.is_bf16_supported()
        else "float32"
    )


def pieces(batch_size, micro_batch, cards=1):
    """(processes, pairs at once in each, pieces summed up): a batch cut evenly, over as many of the cards as divide it.

    A batch is a setting of the method and never changed; `micro_batch` is the most that one card is given at once.
    """
    if min(batch_size, micro_batch, cards) < 1:
        raise ValueError(
            f"batch_size={batch_size}, micro_batch={micro_batch}, {cards} card(s): each must be at least 1"
        )
    processes = max(n for n in range(1, cards + 1) if batch_size % n == 0)
    share = batch_size // processes
    at_once = max(n for n in range(1, micro_batch + 1) if share % n == 0)
    return processes, at_once, share // at_once


def arguments(spec, processes):
    """PreferenceConfig of a run: MIPO's release where `recipe` is "mipo", RMiPO's where it is "rmipo" (methods' tables)."""
    wanted, at_once, summed = pieces(spec["batch_size"], spec["micro_batch"], processes)
    if wanted != processes:
        raise ValueError(
            f"batch_size={spec['batch_size']} cannot be shared by {processes} processes; start {wanted}"
        )
    recipes = {
        "mipo": {
            "adam_beta2": 0.95,
            "warmup_steps": 0.03,
            "lr_scheduler_type": "cosine_with_min_lr",
            "lr_scheduler_kwargs": {"min_lr_rate": 0.1},
        },
        "rmipo": {"warmup_steps": 0.1, "lr_scheduler_type": "cosine"},
    }
    half = best_dtype() == "bfloat16"
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
        bf16=half,
        activation_checkpointing=spec["checkpointing"],
        activation_checkpointing_kwargs={"use_reentrant": False},
        max_grad_norm=1.0,
        logging_steps=1,
        use_cpu=not torch.cuda.is_available(),
        disable_tqdm=not spec["progress"],
        save_strategy="steps",
        save_steps=spec["save_every"],
        save_total_limit=1,
        ref_cache_dir=str(Path(spec["checkpoints"]) / "ref-logps"),
        ddp_find_unused_parameters=False,
        **recipes[spec["recipe"]],
    )


def run(spec):
    """Train as `spec` says (see `mipo_study.hub.runs.train`) and save the policy in spec["folder"]/model; returns JSON metrics.

    A run that was cut goes on from its last checkpoint, with the same batches in the same order.
    """
    state = PartialState(cpu=not torch.cuda.is_available())
    rank = spec["lora_rank"]
    half = best_dtype()
    model, tokenizer = load_model(
        spec["base"], dtype=half if rank else "float32", device=str(state.device)
    )
    model.config.use_cache = False
    longest = min(spec["max_length"], max_positions(model) or spec["max_length"])
    args = arguments(spec | {"max_length": longest}, state.num_processes)
    pairs = read_pairs(spec["pairs"])
    if not isinstance(pairs[0]["prompt"], str):
        pairs = [
            row | {"read_from": f"{Path(spec['pairs']).name}, row {i}"}
            for i, row in enumerate(pairs)
        ]
        pairs = as_text(pairs, tokenizer)
    trainer = PreferenceTrainer(
        model=model,
        args=args,
        train_dataset=pairs,
        processing_class=tokenizer,
        peft_config=adapter(rank) if rank else None,
    )
    trainer.train(resume_from_checkpoint=last_checkpoint(spec["checkpoints"]))
    require_finite(
        trainer.model, spec["loss"], spec["lr"]
    )  # on every process: with FSDP each holds a part of the weights
    target = Path(spec["folder"]) / "model"
    kept = None
    if not rank and half == "bfloat16" and not trainer.is_fsdp_enabled:
        kept = rounded(trainer.model, spec["base"], main=state.is_main_process)
    trainer.save_model(str(target))
    log = [row for row in trainer.state.log_history if "loss" in row]
    if state.is_main_process:
        tokenizer.save_pretrained(target)
        files.write_whole(Path(spec["folder"]) / "log.json", files.dumps(log))
        peak = (
            torch.cuda.max_memory_allocated() / 1e9
            if torch.cuda.is_available()
            else None
        )
        found = {
            "steps": trainer.state.global_step,
            "lr": spec["lr"],
            "first_loss": log[0]["loss"],
            "last_loss": log[-1]["loss"],
            "processes": state.num_processes,
            "peak_gb": peak,
            "kept_update": kept,
        }
        files.write_whole(Path(spec["folder"]) / "metrics.json", files.dumps(found))
    state.wait_for_everyone()
    return files.read_json(Path(spec["folder"]) / "metrics.json")


def rounded(model, base, *, main):
    """Round a model to bfloat16; returns `kept_update`, on the main process only, since it takes the base once more."""
    kept = kept_update(load_model(base, device="cpu")[0], model) if main else None
    model.to(torch.bfloat16)
    return kept


def kept_update(before, after):
    """Share of a full update that is left once weights are rounded to bfloat16: sum |round(b) - round(a)| over sum |b - a|.

    Small steps round away (0) or up; 1.0 where nothing changed.
    """
    left = total = 0.0
    for a, b in zip(before.parameters(), after.parameters(), strict=True):
        a, b = a.detach().float().cpu(), b.detach().float().cpu()
        left += (b.bfloat16() - a.bfloat16()).float().abs().sum().item()
        total += (b - a).abs().sum().item()
    return left / total if total else 1.0


def last_checkpoint(folder):
    """The newest whole checkpoint of a run that was cut, or None."""
    found = [
        p
        for p in Path(folder).glob("checkpoint-*")
        if (p / "trainer_state.json").is_file()
    ]
    return (
        str(max(found, key=lambda p: int(p.name.rsplit("-", 1)[1]))) if found else None
    )


def end_with(starter, every=1.0):
    """Ends this process once its launcher is gone, or the process `starter` that started the launcher: whoever was killed
    can stop nobody, and the next start would share the checkpoints with what was left running."""

    def watch():
        while True:
            try:
                if psutil.Process(os.getppid()).ppid() != starter:
                    os._exit(1)
            except psutil.Error:
                os._exit(1)
            time.sleep(every)

    threading.Thread(target=watch, daemon=True).start()


def main():
    """What each started process does. An error is left as error-RANK.json for `mipo_study.hub.launch`, which knows what to do."""
    spec = files.read_json(sys.argv[1])
    if "starter" in spec:
        end_with(spec["starter"])
    try:
        run(spec)
    except Exception as error:
        said = {"type": type(error).__name__, "message": str(error)}
        files.write_whole(
            Path(spec["folder"]) / f"error-{os.environ.get('RANK', 0)}.json",
            files.dumps(said),
        )
        raise


if __name__ == "__main__":
    main()
