"""Runs of the chapter on reasoning as records: a base model of the word problems, its pairs, training, examination."""

import hashlib
import itertools
import json
from dataclasses import asdict

import numpy as np
import torch
from datasets import Dataset

from mipo import cache, files, logprobs, models
from mipo.baselines.verifier import train_verifier
from mipo.data import render
from mipo.evaluate.answers import log_odds, majority
from mipo.lm import sampling
from mipo.pairs import flip_by_coin, synthesise_pairs
from mipo.worlds import word_problem_law, word_problems
from mipo.worlds.word_problems import KINDS, TYPES

PARTIAL_SHARE = 0.2  # of training examples lack the sentence of one operand
UNPROMPTED_SHARE = 0.06  # are replies alone, so that the model knows how likely a reply is whatever was asked
MAX_NEW_TOKENS = 16
NEGATIVES = {
    "sft": "random_prompt",
    "mipo": "random_prompt",
    "mipo-partial": "partial",
}  # of each arm


def training_examples(tokenizer, *, replies=4):
    """A function (rng, n) -> n fresh pairs (prompt, reply) of the exact law; each prompt is answered `replies` times."""

    def examples(rng, n):
        found = []
        while len(found) < n:
            asked, u = word_problems.problem(rng), rng.random()
            hidden = (
                int(rng.integers(len(asked.operands))) if u < PARTIAL_SHARE else None
            )
            prompt = render(tokenizer, asked.text(without=hidden))
            if u > 1 - UNPROMPTED_SHARE:
                prompt = tokenizer.eos_token
            found += [
                (prompt, word_problem_law.sample(asked, rng, without=hidden))
                for _ in range(replies)
            ]
        return found[:n]

    return examples


def lessons(tokenizer, *, replies=4):
    """As `training_examples`, for the first steps: multiple choice without errors, so that letters are looked up early.

    One reply to a prompt, n / `replies` prompts: a step then sees as many problems as later on.
    """

    def examples(rng, n):
        found = []
        for _ in range(-(-n // replies)):
            asked = word_problems.problem(rng, choice=True)
            reply = word_problems.write(
                KINDS[asked.kind].operations,
                asked.operands,
                asked.results(),
                asked.gold,
            )
            found.append((render(tokenizer, asked.text()), reply))
        return found

    return examples


@torch.no_grad()
def prime(model, tokenizer):
    """Let the token of an option, " (B: 12)", start near that of its number.

    Then a result finds its option by likeness, in one layer; separate tokens need two, and 600 steps did not teach them.
    """
    weights, at = model.get_input_embeddings().weight, tokenizer.convert_tokens_to_ids
    for x, i in itertools.product(
        word_problems.LETTERS, range(word_problems.HIGHEST + 1)
    ):
        weights[at(word_problems.option(x, i))] += weights[at(f" {i}")]


def train_base(*, steps, batch_size=64, lr=2e-3, seed=0, hidden=128, progress=True):
    """(model, tokenizer, losses): a Llama trained from scratch on the habits; a quarter of the steps are `lessons`."""
    tokenizer = word_problems.build_tokenizer()
    model = models.small_model(
        tokenizer,
        hidden=hidden,
        layers=2,
        heads=4,
        inner=2 * hidden,
        max_length=64,
        init=0.06,
        seed=seed,
    )
    prime(model, tokenizer)
    losses = models.pretrain(
        model,
        tokenizer,
        training_examples(tokenizer),
        lessons=lessons(tokenizer),
        steps=steps,
        batch_size=batch_size,
        lr=lr,
        embedding_rate=10.0,
        lesson_share=0.25,
        seed=seed,
        progress=progress,
    )
    return model, tokenizer, losses


def base_model(
    run_dir, *, seed, steps, batch_size=64, lr=2e-3, hidden=128, progress=True
):
    """Record of a base model, in `path / "model"`; metrics: losses, parameters."""
    config = {
        "steps": steps,
        "batch_size": batch_size,
        "lr": lr,
        "seed": seed,
        "hidden": hidden,
    }

    def make(folder):
        model, tokenizer, losses = train_base(**config, progress=progress)
        _keep(model, tokenizer, folder)
        return {"losses": losses, "parameters": model.num_parameters()}

    return cache.run_or_load(
        run_dir,
        f"base-sums-{seed}",
        config,
        make,
        code=["mipo_study.ch08_word_problems"],
    )


def _keep(model, tokenizer, folder):
    for part in (model, tokenizer):
        part.save_pretrained(folder / "model")


def hidden_operand(problems, seed):
    """Which operand each partial prompt hides, drawn once per problem: (n,)."""
    rng = np.random.default_rng((seed, 9))
    return [int(rng.integers(len(p.operands))) for p in problems]


def partial_pairs(
    model, tokenizer, problems, chosen, *, seed, max_new_tokens=MAX_NEW_TOKENS
):
    """Pairs whose rejected reply answers the problem without the sentence of one operand, in TRL's standard format."""
    prompts = [render(tokenizer, p.text()) for p in problems]
    asked = [
        render(tokenizer, p.text(without=j))
        for p, j in zip(problems, hidden_operand(problems, seed), strict=True)
    ]
    rejected = sampling.generate(
        model, tokenizer, asked, max_new_tokens=max_new_tokens, seed=seed + 1_000_003
    )
    return Dataset.from_list(
        [
            {
                "prompt": x,
                "chosen": w,
                "rejected": u,
                "rejected_prompt": a,
                "identical": w == u,
            }
            for x, w, u, a in zip(prompts, chosen, rejected, asked, strict=True)
        ]
    )


def synthesise(
    run_dir, base, problems, *, negatives, seed, placebo=False, progress=True
):
    """Record of MIPO's pairs from a base model's replies at temperature 1, in pairs/train.jsonl.

    negatives  "random_prompt": the reply to another problem; "partial": a reply to the problem with one operand hidden
    placebo    chosen and rejected are assigned by coin
    metrics    pairs, identical
    """
    if negatives not in ("random_prompt", "partial"):
        raise ValueError(
            f"negatives={negatives!r}: choose 'random_prompt' or 'partial'"
        )
    config = {
        "negatives": negatives,
        "seed": seed,
        "placebo": placebo,
        "problems": _digest(problems),
    }

    def make(folder):
        model, tokenizer = models.load_model(base)
        records = [word_problems.record_of(p) for p in problems]
        chosen = sampling.generate(
            model,
            tokenizer,
            [render(tokenizer, r["query"]) for r in records],
            seed=seed,
            max_new_tokens=MAX_NEW_TOKENS,
            progress=progress,
        )
        made = (
            synthesise_pairs(
                model, tokenizer, records, negatives=negatives, chosen=chosen, seed=seed
            )
            if negatives == "random_prompt"
            else partial_pairs(model, tokenizer, problems, chosen, seed=seed)
        )
        made = flip_by_coin(made, seed) if placebo else made
        (folder / "pairs").mkdir()
        made.to_json(folder / "pairs" / "train.jsonl")
        return {"pairs": len(made), "identical": int(sum(made["identical"]))}

    return cache.run_or_load(
        run_dir,
        f"pairs-sums-{negatives}-{seed}",
        config,
        make,
        code=["mipo_study.ch08_word_problems"],
        inputs={"base": base},
    )


def _digest(problems):
    return hashlib.sha256(
        files.dumps([asdict(p) for p in problems]).encode()
    ).hexdigest()


def reinforce(
    run_dir,
    base,
    problems,
    *,
    lr,
    beta,
    epochs=1.0,
    batch_size=8,
    k=4,
    seed=0,
    progress=True,
):
    """Record of training on a verifier's reward; `path / "model"` is the policy, log.json what each step logged.

    A run that diverged is a result too: its metrics are {"failed": why}, and it has no model.
    """
    config = {
        "lr": lr,
        "beta": beta,
        "epochs": epochs,
        "batch_size": batch_size,
        "k": k,
        "seed": seed,
        "problems": _digest(problems),
    }

    def make(folder):
        model, tokenizer = models.load_model(base)
        try:
            log = train_verifier(
                model,
                tokenizer,
                problems,
                beta=beta,
                lr=lr,
                batch_size=batch_size,
                k=k,
                seed=seed,
                steps=round(epochs * len(problems) / batch_size),
                progress=progress,
            )
        except FloatingPointError as error:
            return {"failed": str(error)}
        _keep(model, tokenizer, folder)
        (folder / "log.json").write_text(json.dumps(log))
        return {
            "steps": len(log),
            "first_reward": log[0]["reward"],
            "last_reward": log[-1]["reward"],
        }

    return cache.run_or_load(
        run_dir,
        "train-verifier",
        config,
        make,
        code=["mipo_study.ch08_word_problems"],
        inputs={"base": base},
    )


def examine(
    run_dir,
    policy,
    *,
    split,
    n_problems,
    seed,
    k=1,
    temperature=1.0,
    alpha=0.0,
    contrast="alone",
    progress=True,
):
    """Record of k replies to each of n problems of a split, graded: graded.json has types (n, k) and answers (n, k).

    temperature  0 is greedy        alpha  above 0: context-aware decoding against no prompt ("alone") or a partial one
    metrics      accuracy, and the share of each type. The same seed asks the same problems of every policy.
    """
    config = {
        "split": split,
        "n_problems": n_problems,
        "seed": seed,
        "k": k,
        "temperature": temperature,
        "alpha": alpha,
        "contrast": contrast if alpha else "",
    }

    def make(folder):
        model, tokenizer = models.load_model(policy)
        problems = [
            p
            for p in word_problems.problems(n_problems, split=split, seed=seed)
            for _ in range(k)
        ]
        against = {}
        if alpha:
            bare = [
                p.text(without=j)
                for p, j in zip(problems, hidden_operand(problems, seed), strict=True)
            ]
            against = {
                "alpha": alpha,
                "contrast_prompts": [tokenizer.eos_token] * len(bare)
                if contrast == "alone"
                else [render(tokenizer, text) for text in bare],
            }
        said = sampling.generate(
            model,
            tokenizer,
            [render(tokenizer, p.text()) for p in problems],
            seed=seed,
            max_new_tokens=MAX_NEW_TOKENS,
            temperature=temperature,
            progress=progress,
            **against,
        )
        types = [
            TYPES.index(word_problems.grade(y, p))
            for y, p in zip(said, problems, strict=True)
        ]
        stated = [word_problems.answer_of(y) for y in said]
        rows = {
            "types": np.reshape(types, (-1, k)).tolist(),
            "answers": [stated[i : i + k] for i in range(0, len(stated), k)],
        }
        (folder / "graded.json").write_text(files.dumps(rows))
        shares = np.bincount(types, minlength=len(TYPES)) / len(types)
        return {"accuracy": float(word_problem_law.accuracy(shares))} | dict(
            zip(TYPES, shares.tolist(), strict=True)
        )

    return cache.run_or_load(
        run_dir,
        f"examine-sums-{split}",
        config,
        make,
        code=["mipo_study.ch08_word_problems"],
        inputs={"policy": policy},
    )


def weigh_sums(run_dir, policy, *, split, n_problems, seed, progress=True):
    """Record of p(every result right | the right sum is written), no sampling, per problem in sums.json.

    Metrics: open, the mean over the problems that ask for a number; with options the letter still reads the problem.
    """
    config = {"split": split, "n_problems": n_problems, "seed": seed}

    def make(folder):
        model, tokenizer = models.load_model(policy)
        problems = [
            p
            for p in word_problems.problems(n_problems, split=split, seed=seed)
            if not p.options
        ]
        rows = [
            (i, *row)
            for i, p in enumerate(problems)
            for row in result_rows(tokenizer, p)
        ]
        logps = logprobs.score_rows(
            model,
            [row[1:] for row in rows],
            pad_id=tokenizer.pad_token_id,
            batch_size=256,
            progress=progress,
        ).summed
        total = np.bincount([row[0] for row in rows], logps.double().numpy())
        files.write_whole(folder / "sums.json", files.dumps(np.exp(total).tolist()))
        return {"open": float(np.exp(total).mean())}

    return cache.run_or_load(
        run_dir,
        f"weigh-sums-{split}",
        config,
        make,
        code=["mipo_study.ch08_word_problems"],
        inputs={"policy": policy},
    )


def result_rows(tokenizer, asked):
    """(ids up to the equals sign, ids of the right result) for each step of the right work."""
    prompt, plan = render(tokenizer, asked.text()), KINDS[asked.kind].operations
    work = word_problems.write(plan, asked.operands, asked.results())
    steps = work.split(" = ")  # ["So 7 + 5", "12, 12 - 3", "9"]
    cuts = [" = ".join(steps[: i + 1]) + " =" for i in range(len(plan))]
    return [
        (tokenizer(prompt + cut)["input_ids"], tokenizer(f" {r}")["input_ids"])
        for cut, r in zip(cuts, asked.results(), strict=True)
    ]


class Marked:
    """What `examine` found, problem by problem: types (n, k) as indices into TYPES, answers, and the problems themselves.

    which  sort, kind and manner of the problems that count, as in `word_problems.Problem.fits`; none: all
    """

    def __init__(self, record, *, split, n_problems, seed):
        kept = files.read_json(record.path / "graded.json")
        self.types, self.answers = np.array(kept["types"]), kept["answers"]
        self.problems = word_problems.problems(n_problems, split=split, seed=seed)

    @property
    def correct(self):
        """(n, k) of booleans."""
        return self.types <= TYPES.index("lucky")

    def where(self, **which):
        """(n,) of booleans."""
        return np.array([p.fits(**which) for p in self.problems])

    def counts(self, **which):
        """How many replies are of each type: (8,)."""
        return np.bincount(
            self.types[self.where(**which)].ravel(), minlength=len(TYPES)
        )

    def shares(self, **which):
        """Share of each type: (8,)."""
        counts = self.counts(**which)
        return counts / max(1, counts.sum())

    def accuracy(self, **which):
        return float(word_problem_law.accuracy(self.shares(**which)))

    def odds(self, name, **which):
        """Log-odds of a right reply against one of type `name`, nats."""
        counts = self.counts(**which)
        return log_odds(
            counts[TYPES.index("right")], counts[TYPES.index(name)], counts.sum()
        )

    def vote(self, **which):
        """Share of the problems whose majority answers right."""
        return float(
            np.mean(
                [
                    a == p.gold
                    for a, p in zip(majority(self.answers), self.problems, strict=True)
                    if p.fits(**which)
                ]
            )
        )
