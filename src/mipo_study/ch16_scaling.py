"""Models of 0.3 M to 100 M parameters in small worlds of any width: rules of training, and their records.

Everything is float32 on every device: the largest model needs no less, and distances of a hundredth of a nat stay exact.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch

from mipo import cache, models
from mipo.data import render
from mipo.logprobs import conditional_pmi, pmi_over_contexts, response_logps
from mipo.models import load_model
from mipo.world import World
from mipo.worlds import population, scoring, wide
from mipo.worlds.language_model import sample_replies
from mipo_study import labelled, runs
from mipo_study.ch16_gains import tilted_mean

LESSONS, LESSON_BETA, WIDE = (
    0.25,
    0.25,
    256,
)  # chapter 4's share of lessons, their β, and the width of its model


@dataclass(frozen=True)
class Method:
    """A way to train on: a loss on MIPO's own pairs (checked False), or on preferences that the checker labelled.

    lr  the learning rate at 1 M parameters, chosen on people set apart in chapters 6 and 9
    """

    label: str
    loss: str
    lr: float
    beta: float
    checked: bool = False


METHODS = {
    "mipo": Method("MIPO", "dpo", 1.5e-4, 1.0),
    "dpo": Method("DPO, checked", "dpo", 4.5e-4, 0.1, True),
    "rmipo": Method("RMiPO, checked", "rmipo", 4.5e-4, 2.0, True),
}


@dataclass(frozen=True)
class Size:
    """Shape of a Llama with heads of 64 and feed-forward layers as wide as the model: about 7·layers·hidden² parameters."""

    hidden: int
    layers: int


SIZES = {
    "0.1M": Size(64, 2),
    "0.3M": Size(128, 2),
    "1M": Size(256, 2),
    "3M": Size(384, 3),
    "10M": Size(576, 4),
    "30M": Size(832, 6),
    "100M": Size(1344, 8),
}


def size_of(name):
    """The Size of that name; ValueError names the known ones."""
    if name not in SIZES:
        raise ValueError(f"there is no size {name!r}; sizes are {', '.join(SIZES)}")
    return SIZES[name]


def method_of(name):
    """The Method of that name; ValueError names the known ones."""
    if name not in METHODS:
        raise ValueError(
            f"there is no method {name!r}; choose from {', '.join(METHODS)}"
        )
    return METHODS[name]


def checked(grid, methods):
    """[(size, width), …] from small to large, narrow worlds first; ValueError for what does not exist, or without mipo."""
    for size, width in grid:
        size_of(size)
        wide.check_width(width)
    for name in methods:
        method_of(name)
    if "mipo" not in methods:
        raise ValueError(
            f"methods={methods}: mipo must be among them, the question is about its gain"
        )
    return sorted(map(tuple, grid), key=lambda cell: (cell[1], size_of(cell[0]).hidden))


def rule(name, *, lr=1.2e-3, embedding_lr=0.048, init=0.06):
    """{lr, embedding_rate, init} of a size: chapter 4's values carried to other widths h as μP does (hidden layers, Adam).

    lr ∝ 1/h, so that a step moves what a layer computes as much at every width; init ∝ 1/√h, so that it starts at one
    scale; embeddings, whose input is one token whatever h, keep their rate.        source  arXiv:2203.03466
    Not μP's: embeddings, tied to the output, start at 1/√h as well, and no factor stands before the output.
    """
    ratio = WIDE / size_of(name).hidden
    return {
        "lr": lr * ratio,
        "embedding_rate": embedding_lr / (lr * ratio),
        "init": init * math.sqrt(ratio),
    }


def carried(lr, name):
    """A learning rate chosen at 1 M parameters, for training all weights of another size: lr · 256/h, three digits."""
    return float(f"{lr * WIDE / size_of(name).hidden:.3g}")


def steps_of(width, steps):
    """Training steps in a world of this width, `steps` · √width: the same at every size, so that all read the same text."""
    return round(steps * math.sqrt(width))


def build(name, width, *, seed=0):
    """(model, tokenizer) with random weights."""
    size, tokenizer = size_of(name), wide.build_tokenizer(width)
    model = models.small_model(
        tokenizer,
        hidden=size.hidden,
        layers=size.layers,
        heads=size.hidden // 64,
        inner=size.hidden,
        init=rule(name)["init"],
        max_length=wide.positions(width),
        seed=seed,
    )
    return model, tokenizer


# ---- records ----


def device_name(device=None):
    """What computes: the GPU's name, or "CPU"."""
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return torch.cuda.get_device_name() if str(device).startswith("cuda") else "CPU"


def base_model(run_dir, *, size, width, seed, steps, batch_size=32, progress=True):
    """Record of a base model, in `path / "model"`; metrics: losses, parameters, device. `steps` are those at width 1.

    On a CPU, size 1M at width 1 is chapter 4's own base model, and its record.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    found, total = rule(size), steps_of(width, steps)
    if (size, width, device) == ("1M", 1, "cpu"):
        return runs.base_model(
            run_dir,
            seed=seed,
            steps=steps,
            batch_size=batch_size,
            lr=found["lr"],
            progress=progress,
        )
    shape = size_of(size)
    config = {
        "hidden": shape.hidden,
        "layers": shape.layers,
        "width": width,
        "steps": total,
        "batch_size": batch_size,
        "seed": seed,
        "device": device,
        **found,
    }

    def make(folder):
        model, tokenizer = build(size, width, seed=seed)
        examples, lessons = (
            wide.training_examples(
                World(), tokenizer, width, seed=1000 + seed, sharp=s, replies=4
            )
            for s in (None, LESSON_BETA)
        )
        losses = models.pretrain(
            model,
            tokenizer,
            examples,
            lessons=lessons,
            lesson_share=LESSONS,
            steps=total,
            batch_size=batch_size,
            lr=found["lr"],
            embedding_rate=found["embedding_rate"],
            seed=seed,
            device=device,
            progress=progress,
        )
        for part in (model, tokenizer):
            part.save_pretrained(folder / "model")
        return {
            "losses": losses,
            "parameters": model.num_parameters(),
            "device": device_name(device),
        }

    return cache.run_or_load(
        run_dir,
        f"base-{size}-{width}-{seed}",
        config,
        make,
        code=["mipo_study.ch16_scaling"],
    )


def asked(n_people, width, *, split, seed, per_task=1, wordings="seen"):
    """Records of people of a split in lives of `width` places."""
    people = population.records(
        n_people, split=split, per_task=per_task, wordings=wordings, seed=seed
    )
    return wide.widen(people, width, split=split, seed=seed)


def examine(run_dir, policy, *, width, split, n_people, seed, progress=True):
    """Record of a policy's exact scores on people of a split; the same seed asks the same people at every width.

    Metrics: adherence, valid (shares), law_distance: Monte Carlo KL(exact law ‖ policy), nats per reply, on one reply of
    the law to each prompt.
    """
    config = {"width": width, "split": split, "n_people": n_people, "seed": seed}

    def make(folder):
        model, tokenizer = load_model(policy)
        records = asked(
            n_people, width, split=split, seed=7000 + seed, wordings="unseen"
        )
        replies = sample_replies(
            model, tokenizer, records, seed=seed, progress=progress
        )
        scores = scoring.score(replies, records)
        return {
            "adherence": float(scores["adherence"].mean()),
            "valid": float(scores["valid"].mean()),
            "law_distance": law_distance(model, tokenizer, records, seed=seed),
        }

    return cache.run_or_load(
        run_dir,
        f"examine-{split}",
        config,
        make,
        code=["mipo_study.ch16_scaling"],
        inputs={"policy": policy},
    )


def law_distance(model, tokenizer, records, *, seed=0):
    """KL(p ‖ π) = E_p[log p(y|x,c) - log π(y|x,c)], nats per reply, over one draw of the exact law p per record."""
    world, rng = World(), np.random.default_rng((seed, 8))
    replies = [
        world.sample(r["task"], scoring.as_person(r), r["topic"], rng) for r in records
    ]
    exact = [
        world.log_prob(y, r["task"], scoring.as_person(r))
        for y, r in zip(replies, records, strict=True)
    ]
    prompts = [render(tokenizer, r["query"], r["context"]) for r in records]
    ours = response_logps(model, tokenizer, prompts, replies, batch_size=256).summed
    return float(np.mean(np.array(exact) - ours.double().numpy()))


def prospect(
    run_dir,
    base,
    *,
    width,
    split,
    n_people,
    seed,
    beta,
    draws=16,
    contexts=24,
    progress=True,
):
    """Record of what a base model could become: its information, and adherence at the optimum of its *own* law.

    Each of the people asks each task once; `draws` replies are sampled to each prompt and weighted by exp(PMI/β), PMI under
    the base model against `contexts` strangers' profiles. Metrics: information (nats per reply, too high by what
    `excess_of_prospect` finds), adherence (as sampled), own_optimum (`tilted_mean`).
    """
    config = {
        "width": width,
        "split": split,
        "n_people": n_people,
        "seed": seed,
        "beta": beta,
        "draws": draws,
        "contexts": contexts,
    }

    def make(folder):
        model, tokenizer = load_model(base)
        records = asked(
            n_people, width, split=split, seed=7000 + seed, wordings="unseen"
        )
        strangers = [
            r["context"] for r in _strangers(contexts, width, split=split, seed=seed)
        ]
        rows = [r for r in records for _ in range(draws)]  # (P·K,)
        replies = sample_replies(
            model, tokenizer, rows, seed=1000 + seed, progress=progress
        )
        worth = scoring.score(replies, rows)["adherence"].reshape(-1, draws)
        pmi = (
            conditional_pmi(
                model, tokenizer, rows, replies, contexts=strangers, batch_size=512
            )
            .double()
            .numpy()
        )
        return {
            "information": float(pmi.mean()),
            "adherence": float(worth.mean()),
            "own_optimum": tilted_mean(worth, pmi.reshape(-1, draws), beta),
        }

    return cache.run_or_load(
        run_dir,
        f"examine-own-{split}",
        config,
        make,
        code=["mipo_study.ch16_scaling"],
        inputs={"policy": base},
    )


def _strangers(n, width, *, split, seed):
    """One record of each of n people whom `prospect` does not ask."""
    others = asked(n, width, split=split, seed=8000 + seed)
    return list({r["person"]: r for r in others}.values())


def excess_of_prospect(*, split, n_people, seed, beta, draws=16, contexts=24):
    """By how much `prospect` misses the truth of a model that knows the exact law: {information, own_optimum}.

    The mean over a few strangers is an unbiased estimate of p(y|x), but its logarithm is too small on average (Jensen), so
    information comes out too high; few draws pull the optimum towards the plain mean. Both are as large at every width.
    """
    world, rng, found = World(), np.random.default_rng((seed, 9)), []
    strangers = [
        scoring.as_person(r) for r in _strangers(contexts, 1, split=split, seed=seed)
    ]
    for r in asked(n_people, 1, split=split, seed=7000 + seed, wordings="unseen"):
        task, who = r["task"], scoring.as_person(r)
        law, marginal = world.law(task, who), world.marginal(task)
        said = [law.sample(rng) for _ in range(draws)]
        own = torch.tensor([law.log_prob(y) for y in said])
        under = torch.tensor(
            [[world.law(task, other).log_prob(y) for other in strangers] for y in said]
        )
        pmi = pmi_over_contexts(own, under).numpy()  # (K,), as a model's is measured
        true = own.numpy() - [marginal.log_prob(y) for y in said]
        slots = [
            (i, slot.attribute)
            for i, slot in enumerate(law.task.slots)
            if slot.relevant
        ]
        worth = [
            np.mean([y[i] == who[attribute] for i, attribute in slots]) for y in said
        ]
        goal = world.optimum(task, who, beta).adherence(who)
        found.append((np.mean(pmi - true), tilted_mean([worth], [pmi], beta) - goal))
    return dict(
        zip(("information", "own_optimum"), np.mean(found, 0).tolist(), strict=True)
    )


def pairs_of(
    run_dir,
    base,
    method,
    *,
    width,
    seed,
    n_people,
    per_task,
    placebo=False,
    progress=True,
):
    """Record of the pairs a method learns from: MIPO's own, as in chapter 5, or labelled by the checker, as in chapter 9.

    placebo  chosen and rejected of MIPO's pairs are assigned by coin; checked pairs have no placebo
    """
    if METHODS[method].checked:
        records = asked(n_people, width, split="mipo", seed=seed)
        return labelled.preferences(
            run_dir, base, records, seed=seed, progress=progress
        )
    records = asked(n_people, width, split="mipo", seed=seed, per_task=per_task)
    return runs.synthesise(
        run_dir,
        base,
        records,
        negatives="random_context",
        seed=seed,
        placebo=placebo,
        k=1,
        temperature=1.0,
        top_p=1.0,
        max_new_tokens=40,
        progress=progress,
    )


def attempt(
    run_dir,
    base,
    *,
    method,
    size,
    width,
    seed,
    split,
    n_asked,
    n_people,
    per_task=4,
    factor=1.0,
    epochs=1.0,
    batch_size=24,
    placebo=False,
    progress=True,
):
    """Metrics of `examine` of one training run from a base model; its learning rate is `factor` times the rule's.

    A run that diverged answers nothing: adherence and valid 0, law_distance None, and `failed` says why.
    """
    how = method_of(method)
    pairs = pairs_of(
        run_dir,
        base,
        method,
        width=width,
        seed=seed,
        n_people=n_people,
        per_task=per_task,
        placebo=placebo,
        progress=progress,
    )
    made, failed = _train(
        run_dir,
        how,
        base,
        str(pairs.path / "pairs" / "train.jsonl"),
        seed=seed,
        epochs=epochs,
        lr=carried(factor * how.lr, size),
        batch_size=batch_size,
        progress=progress,
    )
    if failed:
        return {"adherence": 0.0, "valid": 0.0, "law_distance": None, "failed": failed}
    return examine(
        run_dir,
        str(made.path / "model"),
        width=width,
        split=split,
        n_people=n_asked,
        seed=seed,
        progress=progress,
    ).metrics


def _train(run_dir, how, base, pairs, **settings):
    """(record, "") of a training run, or (None, why) where it diverged. MIPO's runs are chapter 6's where settings agree."""
    if how.checked:
        made = labelled.train(
            run_dir, how.loss, base, pairs, loss_kwargs={"beta": how.beta}, **settings
        )
        return made, made.metrics.get("failed", "")
    try:
        return runs.train(
            run_dir, "mipo-random", base, pairs, beta=how.beta, **settings
        ), ""
    except FloatingPointError as error:
        return None, str(error)
