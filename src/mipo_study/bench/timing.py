"""Training steps under the clock: seconds, operations and bytes of `ch12_cost.WORK`.

A step is what `PreferenceTrainer` does with a batch: loss, gradient, AdamW. Rows are random tokens of equal length, so
nothing is padded and only the lengths of prompt and reply differ from one batch to another.
"""

import contextlib
import copy
import gc
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mipo import models
from mipo.cache import run_or_load
from mipo.lm.batches import TokenSets, collate_sets
from mipo.lm.shared_prompt import why_not
from mipo.lm.tokens import check_lengths, max_positions
from mipo.logprobs import marginal_row, sequence_logps, start_token
from mipo.trainer import PreferenceConfig, PreferenceTrainer
from mipo_study.ch12_cost import WORK, Work, shape_of, step_flops, work
from mipo_study.methods import setting


def synthetic(*, hidden=128, layers=4, heads=4, vocabulary=400, positions=1024, seed=0):
    """(model, tokenizer): a Llama with random weights over a vocabulary of invented words."""
    if vocabulary <= len(models.SPECIAL):
        raise ValueError(
            f"vocabulary={vocabulary} must be above {len(models.SPECIAL)}, the number of special tokens"
        )
    tokenizer = models.build_tokenizer(
        [" ".join(f"w{i}" for i in range(vocabulary - len(models.SPECIAL)))]
    )
    model = models.small_model(
        tokenizer,
        hidden=hidden,
        layers=layers,
        heads=heads,
        max_length=positions,
        seed=seed,
    )
    return model, tokenizer


class Bench:
    """One batch of random pairs, and for each method the step that trains on it. All share one model and one AdamW.

    prompt, reply   tokens of each            pairs   pairs in the batch
    share           compute the prompt once for both replies, where the model allows it; else each has its own
    errors          ValueError for an unknown method, numbers below 1 and rows longer than the model's positions
    """

    def __init__(
        self,
        model,
        tokenizer,
        *,
        prompt,
        reply,
        pairs,
        methods=tuple(WORK),
        seed=0,
        share=False,
    ):
        if min(prompt, reply, pairs) < 1:
            raise ValueError(
                f"prompt={prompt}, reply={reply}, pairs={pairs}: each must be at least 1"
            )
        known = {name: work(name) for name in methods}
        self.model, self.pairs, self.device = (
            model,
            pairs,
            next(model.parameters()).device,
        )
        self.sets = _random_pairs(len(tokenizer), prompt, reply, pairs, seed)
        check_lengths(
            [row for group in self.sets for row in group], max_positions(model)
        )
        start = start_token(tokenizer)
        self.alone = TokenSets(
            [[marginal_row(tail, start) for _, tail in group] for group in self.sets]
        )
        self.optimiser = torch.optim.AdamW(model.parameters(), lr=1e-6)
        self.reference = (
            copy.deepcopy(model).eval()
            if any(m.passes == 4 for m in known.values())
            else None
        )
        self.steps = {
            name: self._step(m, tokenizer, share) for name, m in known.items()
        }
        model.train()

    def _step(self, m: Work, tokenizer, share: bool) -> Callable[[], None]:
        if not m.method:
            items = [{"rows": group, "ref": None} for group in self.sets]
            rows = collate_sets(items, 0, share and why_not(self.model) is None)
            return lambda: self._score(self.model, rows)
        trainer = _trainer(self.model, tokenizer, m, self.device, share)
        ref = (
            torch.zeros(self.pairs, m.replies)
            if "reference" in trainer.loss_fn.needs
            else None
        )
        sets = [group[: m.replies] for group in self.sets]
        data = TokenSets(sets, ref, {"marginal": self.alone} if m.alone else None)
        batch = trainer._prepare_inputs(
            trainer._collate([data[i] for i in range(len(data))])
        )

        def step():
            if m.passes == 4:
                batch["ref"] = self._score(self.reference, batch)
            trainer.compute_loss(self.model, batch).backward()
            self.optimiser.step()
            self.optimiser.zero_grad()
            trainer.metrics["train"].clear()

        return step

    @torch.no_grad()
    def _score(self, model, batch) -> torch.Tensor:
        """Summed log-probs of a collated batch of pairs: (2, B)."""
        batch = {
            k: v.to(self.device) if isinstance(v, torch.Tensor) else v
            for k, v in batch.items()
        }
        return sequence_logps(model, batch)[0].reshape(2, -1)

    def sync(self) -> None:
        """Wait for what was handed to the GPU."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def clock(self) -> float:
        """Seconds: of processor time on a CPU, where other programs then take no part; of wall time with a GPU."""
        return time.process_time() if self.device.type == "cpu" else time.perf_counter()

    def flops(self, name: str) -> float:
        """Floating-point operations of one step per pair, as torch counts them.

        Attention is written out in matrix products for that: torch 2.13 counts its fused attention on a CPU as nothing.
        """
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            self.steps[name]()
        return counter.get_total_flops() / self.pairs

    def memory(self, name: str) -> tuple[int, int]:
        """Bytes (kept from step to step, held at the peak of one).

        Kept are weights, those of the reference where it is scored live, and AdamW's state; gradients and activations
        come on top.
        """
        m = WORK[name]
        held = [self.model] + [self.reference] * (m.passes == 4)
        tensors = [t for part in held for t in (*part.parameters(), *part.buffers())]
        if m.method:
            tensors += [
                t
                for s in self.optimiser.state.values()
                for t in s.values()
                if isinstance(t, torch.Tensor)
            ]
        kept = sum(t.numel() * t.element_size() for t in tensors)
        return kept, kept + peak_bytes(self.steps[name], self.device)


def _random_pairs(vocabulary, prompt, reply, pairs, seed):
    """Sets of two rows (prompt ids, reply ids) after one random prompt each; the first ids, special, are left out."""
    rng = np.random.default_rng(seed)

    def draw(n):
        return rng.integers(len(models.SPECIAL), vocabulary, n).tolist()

    return [
        [(head, draw(reply)) for _ in range(2)]
        for head in (draw(prompt) for _ in range(pairs))
    ]


def _trainer(model, tokenizer, m: Work, device, share: bool) -> PreferenceTrainer:
    with tempfile.TemporaryDirectory() as folder:
        args = PreferenceConfig(
            output_dir=folder,
            **setting(m.method),
            share_prompts=share,
            disable_tqdm=True,
            use_cpu=device.type == "cpu",
        )
        nothing = TokenSets([[([0], [0])]])
        return PreferenceTrainer(
            model=model, args=args, train_dataset=nothing, processing_class=tokenizer
        )


def interleaved(
    steps: Mapping[str, Callable],
    repetitions: int,
    *,
    clock=time.perf_counter,
    sync=lambda: None,
) -> dict:
    """Seconds of every step in every repetition: {name: [repetitions]}.

    Each repetition runs every step once, so that a machine that slows down slows all alike, and begins one step later
    than the one before, so that none always follows the same. Before the first, every step runs once untimed.
    """
    names, found = list(steps), {name: [] for name in steps}
    for name in names:
        steps[name]()
    for i in range(repetitions):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            sync()
            begin = clock()
            steps[name]()
            sync()
            found[name].append(clock() - begin)
    return found


def peak_bytes(step: Callable[[], None], device=torch.device("cpu")) -> int:
    """The most that torch's allocator held during a step beyond what it held before, in bytes.

    What an earlier step left in circles of references goes first: freed during this one, it would hide what this one takes.
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        step()
        return torch.cuda.max_memory_allocated(device) - before
    cpu = [torch.profiler.ProfilerActivity.CPU]
    with (
        _quiet(),
        torch.profiler.profile(activities=cpu, profile_memory=True) as profile,
    ):
        step()
    events = [
        e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"
    ]
    changes = [
        e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())
    ]  # freed: below 0
    return int(np.cumsum([0, *changes]).max())


@contextlib.contextmanager
def _quiet():
    """Nothing on file descriptor 2: the profiler's C++ part reports there that it starts and stops."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def measure(
    model,
    tokenizer,
    *,
    prompt,
    reply,
    pairs,
    repetitions,
    methods=tuple(WORK),
    seed=0,
) -> dict:
    """{"seconds": {method: [per repetition]}, "flops", "predicted", "kept", "peak": {method: number}}.

    Seconds and operations, counted and predicted, are per pair; kept and peak are bytes of the whole batch.
    """
    bench = Bench(
        model,
        tokenizer,
        prompt=prompt,
        reply=reply,
        pairs=pairs,
        methods=methods,
        seed=seed,
    )
    seconds = interleaved(bench.steps, repetitions, clock=bench.clock, sync=bench.sync)
    memory = {name: bench.memory(name) for name in methods}
    shape = shape_of(model)
    return {
        "seconds": {
            name: [t / pairs for t in times] for name, times in seconds.items()
        },
        "flops": {name: bench.flops(name) for name in methods},
        "predicted": {name: step_flops(shape, name, prompt, reply) for name in methods},
        "kept": {name: kept for name, (kept, _) in memory.items()},
        "peak": {name: peak for name, (_, peak) in memory.items()},
    }


def measured(run_dir, model, tokenizer, *, about: Mapping, **keywords) -> dict:
    """`measure`, made once and then found again.

    Parameters
    ----------
    run_dir : path
        Where runs are kept.
    about : mapping
        What the model is, and on which machine it was measured.
    keywords
        Of `measure`.
    """
    return run_or_load(
        run_dir,
        f"cost-{keywords['prompt']}-{keywords['reply']}",
        {**keywords, **about},
        lambda folder: measure(model, tokenizer, **keywords),
        code=[__name__],
    ).metrics
