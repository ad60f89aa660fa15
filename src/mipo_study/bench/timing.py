"""Training steps under the clock: seconds, operations and bytes of `ch12_cost.WORK`.

A step is what `PreferenceTrainer` does with a batch: loss, gradient, AdamW. Rows are
random tokens of equal length, so nothing is padded and only the lengths of prompt and
reply differ from one batch to another.
"""

from __future__ import annotations

import contextlib
import copy
import gc
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
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

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Row = tuple[list[int], list[int]]  # prompt ids, reply ids
CPU = torch.device("cpu")


def synthetic(
    *,
    hidden: int = 128,
    layers: int = 4,
    heads: int = 4,
    vocabulary: int = 400,
    positions: int = 1024,
    seed: int = 0,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A Llama with random weights over invented words, and its tokenizer.

    Parameters
    ----------
    hidden, layers, heads, seed
        See `mipo.models.small_model`.
    vocabulary : int
        Tokens, the special ones among them.
    positions : int
        Tokens of a sequence, at most.

    Raises
    ------
    ValueError
        For a vocabulary of special tokens only.
    """
    special = len(models.SPECIAL)
    if vocabulary <= special:
        raise ValueError(
            f"vocabulary={vocabulary} must be above {special}, "
            "the number of special tokens"
        )
    words = " ".join(f"w{i}" for i in range(vocabulary - special))
    tokenizer = models.build_tokenizer([words])
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
    """One batch of random pairs, and for each method the step that trains on it.

    All methods share one model and one AdamW.

    Parameters
    ----------
    model, tokenizer
        What is trained.
    prompt, reply : int
        Tokens of each.
    pairs : int
        Pairs in the batch.
    methods : sequence of str
        Keys of `ch12_cost.WORK`.
    seed : int
        Of the tokens.
    share : bool
        Compute the prompt once for both replies, where the model allows it; else each
        reply has its own.

    Raises
    ------
    ValueError
        For an unknown method, numbers below 1, and rows longer than the model's
        positions.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        prompt: int,
        reply: int,
        pairs: int,
        methods: Sequence[str] = tuple(WORK),
        seed: int = 0,
        share: bool = False,
    ):
        if min(prompt, reply, pairs) < 1:
            sizes = f"prompt={prompt}, reply={reply}, pairs={pairs}"
            raise ValueError(f"{sizes}: each must be at least 1")
        jobs = {name: work(name) for name in methods}
        self.model, self.pairs = model, pairs
        self.device = next(model.parameters()).device
        self.sets = _random_pairs(len(tokenizer), prompt, reply, pairs, seed)
        rows = [row for group in self.sets for row in group]
        check_lengths(rows, max_positions(model))
        start = start_token(tokenizer)
        self.alone = TokenSets(
            [[marginal_row(tail, start) for _, tail in group] for group in self.sets]
        )
        self.optimiser = torch.optim.AdamW(model.parameters(), lr=1e-6)
        live = any(job.passes == 4 for job in jobs.values())
        self.reference = copy.deepcopy(model).eval() if live else None
        self.steps = {
            name: self._step(job, tokenizer, share) for name, job in jobs.items()
        }
        model.train()

    def _step(
        self, job: Work, tokenizer: PreTrainedTokenizerBase, share: bool
    ) -> Callable[[], Any]:
        if not job.method:
            items = [{"rows": group, "ref": None} for group in self.sets]
            rows = collate_sets(items, 0, share and why_not(self.model) is None)
            return lambda: self._score(self.model, rows)
        trainer = _trainer(self.model, tokenizer, job, self.device, share)
        ref = None
        if "reference" in trainer.loss_fn.needs:
            ref = torch.zeros(self.pairs, job.replies)
        sets = [group[: job.replies] for group in self.sets]
        data = TokenSets(sets, ref, {"marginal": self.alone} if job.alone else None)
        items = [data[i] for i in range(len(data))]
        batch = trainer._prepare_inputs(trainer._collate(items))

        def step() -> None:
            if job.passes == 4:
                batch["ref"] = self._score(self.reference, batch)
            trainer.compute_loss(self.model, batch).backward()
            self.optimiser.step()
            self.optimiser.zero_grad()
            trainer.metrics.clear()

        return step

    @torch.no_grad()
    def _score(self, model: Any, batch: Mapping[str, Any]) -> Tensor:
        """Summed log-probs of a collated batch of pairs, shape (2, B)."""
        there = {
            name: value.to(self.device) if isinstance(value, Tensor) else value
            for name, value in batch.items()
        }
        return sequence_logps(model, there)[0].reshape(2, -1)

    def sync(self) -> None:
        """Wait until the GPU is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def clock(self) -> float:
        """Seconds.

        On a CPU of processor time, in which other programs take no part; with a GPU of
        wall time.
        """
        cpu = self.device.type == "cpu"
        return time.process_time() if cpu else time.perf_counter()

    def flops(self, name: str) -> float:
        """Floating-point operations of one step per pair, as torch counts them.

        Attention is written out in matrix products for that: torch 2.13 counts its
        fused attention on a CPU as nothing.
        """
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            self.steps[name]()
        return counter.get_total_flops() / self.pairs

    def memory(self, name: str) -> tuple[int, int]:
        """Bytes that a method's step needs.

        Parameters
        ----------
        name : str
            A method of this bench. AdamW's state comes with the first step of any.

        Returns
        -------
        kept : int
            From step to step: weights, those of the reference where it is scored live,
            and AdamW's state.
        peak : int
            Kept, and gradients and activations on top.
        """
        job = WORK[name]
        networks = [self.model]
        if self.reference is not None and job.passes == 4:
            networks.append(self.reference)
        tensors = [
            tensor
            for network in networks
            for tensor in (*network.parameters(), *network.buffers())
        ]
        if job.method:
            states = self.optimiser.state.values()
            values = [value for state in states for value in state.values()]
            tensors += [value for value in values if isinstance(value, Tensor)]
        kept = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        return kept, kept + peak_bytes(self.steps[name], self.device)


def _random_pairs(
    vocabulary: int, prompt: int, reply: int, pairs: int, seed: int
) -> list[list[Row]]:
    """Sets of two rows after one random prompt each.

    The first ids are left out: they are special.
    """
    rng = np.random.default_rng(seed)

    def draw(n: int) -> list[int]:
        return rng.integers(len(models.SPECIAL), vocabulary, n).tolist()

    heads = (draw(prompt) for _ in range(pairs))  # lazily: each before its replies
    return [[(head, draw(reply)) for _ in range(2)] for head in heads]


def _trainer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    job: Work,
    device: torch.device,
    share: bool,
) -> PreferenceTrainer:
    with tempfile.TemporaryDirectory() as folder:
        args = PreferenceConfig(
            output_dir=folder,
            **setting(job.method),
            share_prompts=share,
            disable_tqdm=True,
            use_cpu=device.type == "cpu",
        )
        nothing = TokenSets([[([0], [0])]])
        return PreferenceTrainer(
            model=model, args=args, train_dataset=nothing, processing_class=tokenizer
        )


def interleaved(
    steps: Mapping[str, Callable[[], Any]],
    repetitions: int,
    *,
    clock: Callable[[], float] = time.perf_counter,
    sync: Callable[[], None] = lambda: None,
) -> dict[str, list[float]]:
    """Time steps in turns.

    Each repetition runs every step once, so that a machine that slows down slows all
    alike, and begins one step later than the one before, so that none always follows
    the same. Before the first, every step runs once untimed.

    Parameters
    ----------
    steps : dict
        {name: what is timed}.
    repetitions : int
        How often.
    clock : callable
        Gives the time in seconds.
    sync : callable
        Waits until what a step began is done.

    Returns
    -------
    dict
        {name: seconds of each repetition}.
    """
    names = list(steps)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for name in names:
        steps[name]()
    for i in range(repetitions):
        first = i % len(names)
        for name in names[first:] + names[:first]:
            sync()
            begin = clock()
            steps[name]()
            sync()
            seconds[name].append(clock() - begin)
    return seconds


def peak_bytes(step: Callable[[], Any], device: torch.device = CPU) -> int:
    """The most that torch's allocator held during a step beyond what it held before.

    What an earlier step left in circles of references goes first: freed during this
    one, it would hide what this one takes.

    Parameters
    ----------
    step : callable
        Run once.
    device : torch.device
        Where it allocates.

    Returns
    -------
    int
        Bytes.
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
    # pyrefly: ignore[missing-attribute]  # None only before profiling begins
    events = profile.profiler.kineto_results.events()
    memory = [event for event in events if event.name() == "[memory]"]
    memory.sort(key=lambda event: event.start_ns())
    changes = [event.nbytes() for event in memory]  # freed: below 0
    return int(np.cumsum([0, *changes]).max())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Nothing on file descriptor 2.

    The profiler's C++ part reports there that it starts and stops.
    """
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
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    prompt: int,
    reply: int,
    pairs: int,
    repetitions: int,
    methods: Sequence[str] = tuple(WORK),
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """What a training step of each method costs.

    Parameters
    ----------
    model, tokenizer, prompt, reply, pairs, methods, seed
        See `Bench`.
    repetitions : int
        Of the clock.

    Returns
    -------
    dict
        seconds, {method: per pair, of each repetition}; flops and predicted, {method:
        operations per pair}, counted and by formula; kept and peak, {method: bytes of
        the whole batch}.
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
            name: [each / pairs for each in times] for name, times in seconds.items()
        },
        "flops": {name: bench.flops(name) for name in methods},
        "predicted": {name: step_flops(shape, name, prompt, reply) for name in methods},
        "kept": {name: kept for name, (kept, _) in memory.items()},
        "peak": {name: peak for name, (_, peak) in memory.items()},
    }


def measured(
    run_dir: str | Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    about: Mapping[str, Any],
    **settings: Any,
) -> dict[str, dict[str, Any]]:
    """`measure`, made once and then found again.

    Parameters
    ----------
    run_dir : path
        Where runs are kept.
    model, tokenizer
        See `measure`.
    about : dict
        What the model is, and on which machine it was measured.
    **settings
        Further keywords of `measure`.
    """
    return run_or_load(
        run_dir,
        f"cost-{settings['prompt']}-{settings['reply']}",
        {**settings, **about},
        lambda folder: measure(model, tokenizer, **settings),
        code=[__name__],
    ).metrics
