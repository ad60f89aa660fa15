"""The baseline "a mutual-information reward": on-policy reinforcement of the PMI that MIPO reaches offline.

A sampled reply y earns r(x, c, y) = log π_ref(y|x,c) - log π_ref(y|x), in nats (`logprobs.pmi_over_contexts`; one column
for the missing context). The objective of one prompt is, with
π* = π_ref·exp(r/β) / Z,

    E_π[r] - β·KL(π ‖ π_ref) = -β·E_π[log π - log π_ref - r/β] = -β·KL(π ‖ π*) + β·log Z.

So its optimum is π* ∝ π_ref(y|x,c)^(1+1/β)·π_ref(y|x)^(-1/β), that of DPO on MIPO's pairs; only the way there differs.

MIPO's released code masks the whole prompt when it scores replies, by mistake: its reward is near 0, save for the first
reply token.

Why not `trl.RLOOTrainer`: at its defaults it has the same estimator (KL in the reward, per reply; advantages not
normalised), but it draws from one global random stream where the study has one per prompt, hands replies to the reward
as text, so that a reply that was cut is scored with an end it never sampled, and needs π_ref twice, for the reward and
for the KL.
"""

import copy
import math

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from mipo import logprobs, recipes
from mipo.lm import tokens
from mipo.lm.prompts import render
from mipo.lm.sampling import generate


def leave_one_out(rewards: Tensor) -> Tensor:
    """Reward minus the mean reward of the other k - 1 replies to the prompt: (B, k) -> (B, k), nats, not normalised.

    Dividing by the standard deviation would change the objective, so the optimum would no longer be π*.
    source  Kool et al. 2019; Ahmadian et al., arXiv:2402.14740
    """
    if rewards.dim() != 2 or rewards.shape[1] < 2:
        raise ValueError(
            f"need rewards of shape (B, k) with k of at least 2; got {tuple(rewards.shape)}"
        )
    k = rewards.shape[1]
    return (rewards - rewards.mean(dim=1, keepdim=True)) * (k / (k - 1))


def surrogate(
    logps: Tensor, ref_logps: Tensor, rewards: Tensor, *, beta: float
) -> Tensor:
    r"""-(1/k) Σ_i A_i·log π(y_i), A = leave_one_out(r - β·(log π - log π_ref)) without gradient: (B, k) each -> (B,).

    In expectation its gradient is that of -(E_π[r] - β·KL(π ‖ π_ref)); its value means nothing. The KL acts on whole
    replies, through the reward: the further term in its gradient, β·E_π[∇log π], is 0.
    shapes  logps, ref_logps: summed over reply tokens     units  nats
    """
    advantages = leave_one_out((rewards - beta * (logps - ref_logps)).detach())
    return -(advantages * logps).mean(dim=1)


def train_mi_reward(
    model,
    tokenizer,
    records: list[dict],
    *,
    beta: float,
    lr: float,
    steps: int,
    batch_size: int = 16,
    k: int = 4,
    contexts_per_marginal: int = 8,
    marginal: str = "contexts",
    max_new_tokens: int = 64,
    seed: int = 0,
    progress: bool = True,
) -> list[dict]:
    """Train `model` in place by REINFORCE with a leave-one-out baseline; one dict per step.

    records     dicts with query and context; each step takes the next batch_size of them, reshuffled every round
    beta        weight of KL(π ‖ π_ref), π_ref being the model as given (a frozen copy is held)
    k           replies sampled per prompt at temperature 1; one cut at max_new_tokens is scored without an end
    marginal    "contexts": π_ref(y|x) is a mean over `contexts_per_marginal` contexts, drawn for each prompt from
                those of all records, its own allowed; "missing": what the model says without context
    optimiser   as in the other arms: Adam betas 0.9 / 0.95, warm-up 3 %, cosine to a tenth, clip norm 1; no dropout
    returns     step, reward and kl (nats per reply, means over the batch, before the update), loss = beta * kl - reward
    errors      ValueError for settings and records; FloatingPointError for values that are not finite
    """
    _check(
        records,
        beta,
        lr,
        marginal,
        steps=(steps, 1),
        batch_size=(batch_size, 1),
        k=(k, 2),
        contexts_per_marginal=(contexts_per_marginal, 1),
        max_new_tokens=(max_new_tokens, 1),
    )
    rng = np.random.default_rng((seed, 6))
    order = shuffled(rng, len(records), steps * batch_size)
    pool = [r.get("context") or "" for r in records]

    def score(reference, batch, rows):
        drawn = rng.integers(len(pool), size=(batch_size, contexts_per_marginal))
        contexts = [
            [""] if marginal == "missing" else [pool[i] for i in row] for row in drawn
        ]
        return _score(reference, tokenizer, batch, rows, contexts)

    return reinforce(
        model,
        tokenizer,
        [records[i] for i in order],
        score,
        beta=beta,
        lr=lr,
        steps=steps,
        k=k,
        max_new_tokens=max_new_tokens,
        seed=seed,
        progress=progress,
        name="mi_reward",
    )


def shuffled(rng, n, wanted):
    """`wanted` numbers below n, round after round of all of them, each round in another order."""
    return np.concatenate([rng.permutation(n) for _ in range(-(-wanted // n))])[:wanted]


def reinforce(
    model,
    tokenizer,
    records,
    score,
    *,
    beta,
    lr,
    steps,
    k,
    max_new_tokens,
    seed,
    progress,
    name,
):
    """The loop of every reward: sample k replies to each prompt, reward them, step down `surrogate`; one dict per step.

    records  as they are asked, an equal part of them at each step
    score    (π_ref, records of the step, rows) -> log π_ref(y|x,c) and reward of each row, without gradient: (B·k,) both
    """
    size, was_training = len(records) // steps, model.training
    model.eval()  # no dropout: replies are scored by the policy that sampled them
    reference = copy.deepcopy(model).requires_grad_(False)
    optimiser, schedule = recipes.optimiser(model, lr=lr, steps=steps)
    log, bar = (
        [],
        tqdm(
            range(steps), desc=f"training ({name})", unit="step", disable=not progress
        ),
    )
    for step in bar:
        batch = records[step * size : (step + 1) * size]
        rows = _sample(
            model, tokenizer, batch, k, max_new_tokens, seed=seed * 1_000_003 + step
        )
        own, rewards = score(reference, batch, rows)
        logps = _policy_logps(model, tokenizer, rows)
        logps, own, rewards = (
            t.reshape(size, k) for t in (logps, own, rewards)
        )  # nats
        surrogate(logps, own, rewards, beta=beta).mean().backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        reward, kl = rewards.mean().item(), (logps.detach() - own).mean().item()
        if not all(map(math.isfinite, (reward, kl, norm.item()))):
            _diverged(
                f"step {step + 1} is not finite: reward {reward}, kl {kl}, gradient norm {norm.item()}"
            )
        log.append(
            {"step": step + 1, "reward": reward, "kl": kl, "loss": beta * kl - reward}
        )
        optimiser.step()
        schedule.step()
        optimiser.zero_grad(set_to_none=True)
        bar.set_postfix(reward=f"{reward:.3f}", kl=f"{kl:.3f}", refresh=False)
    _check_finite(model, rows[0][0], f"after step {steps}")
    model.train(was_training)
    return log


def _check(records, beta, lr, marginal, **counts):
    for name, value in (("beta", beta), ("lr", lr)):
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not 0 < value < math.inf
        ):
            raise ValueError(f"{name} must be a finite number above 0; got {value!r}")
    for name, (value, least) in counts.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(
                f"{name} must be a whole number of at least {least}; got {value!r}"
            )
    if marginal not in ("contexts", "missing"):
        raise ValueError(f"marginal must be 'contexts' or 'missing'; got {marginal!r}")
    if not len(records):
        raise ValueError("need at least one record")
    for i, record in enumerate(records):
        if not isinstance(record.get("query"), str):
            raise ValueError(f'record {i}: field "query" is missing or not text')
    contexts = {r.get("context") or "" for r in records}
    if contexts == {""} or (marginal == "contexts" and len(contexts) == 1):
        raise ValueError(
            "every record has the same context, so the reward is 0 for every reply; give each its own"
        )


def _diverged(what):
    raise FloatingPointError(
        f"{what}; lower the learning rate or raise beta, or check the model's weights"
    )


@torch.no_grad()
def _check_finite(model, ids, when):
    if not torch.isfinite(
        model(input_ids=torch.tensor([ids], device=model.device)).logits
    ).all():
        _diverged(f"the model's logits are not finite {when}")


def _sample(model, tokenizer, batch, k, max_new_tokens, seed):
    """Token rows (prompt ids, reply ids) of k sampled replies to each record, prompt after prompt."""
    prompts = [
        render(tokenizer, r["query"], r.get("context") or "")
        for r in batch
        for _ in range(k)
    ]
    _check_finite(model, tokenizer(prompts[0])["input_ids"], "when sampling")
    replies = generate(
        model, tokenizer, prompts, max_new_tokens=max_new_tokens, seed=seed
    )
    rows = tokens.encode_many(tokenizer, prompts, replies)
    return [
        (head, tail[:max_new_tokens]) for head, tail in rows
    ]  # a reply that was cut did not sample its end


def _score(reference, tokenizer, batch, rows, contexts):
    """(log π_ref(y|x,c), reward) of each row, without gradient: (B·k,) both, nats. `contexts`: K per record."""
    k, n = len(rows) // len(batch), len(contexts[0])
    prompts = [
        render(tokenizer, r["query"], c)
        for r, cs in zip(batch, contexts, strict=True)
        for c in cs
    ]
    heads = [
        head for head, _ in tokens.encode_many(tokenizer, prompts, [""] * len(prompts))
    ]  # (B·K,)
    under = [
        (head, tail)
        for i, (_, tail) in enumerate(rows)
        for head in heads[i // k * n : (i // k + 1) * n]
    ]
    names = [f"{j} under another record's context" for j in range(len(under))]
    tokens.check_lengths(under, tokens.max_positions(reference), names)
    pad = tokenizer.pad_token_id or 0
    own = logprobs.score_rows(reference, rows, pad_id=pad).summed
    others = logprobs.score_rows(reference, under, pad_id=pad).summed.reshape(
        len(rows), n
    )
    return own, logprobs.pmi_over_contexts(own, others)


def _policy_logps(model, tokenizer, rows):
    """log π(y|x,c) of each row, with gradient: (B·k,), nats."""
    batch = tokens.collate(rows, tokenizer.pad_token_id or 0)
    return logprobs.sequence_logps(
        model, {key: value.to(model.device) for key, value in batch.items()}
    )[0].cpu()
