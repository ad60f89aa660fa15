"""The baseline that knows the answers: on-policy reinforcement of replies that a verifier finds right.

A sampled reply earns 1 if its answer is right, else 0. The objective E_π[r] - β·KL(π ‖ π_ref) has the optimum
π* ∝ π_ref·exp(r/β): the odds of each right reply against each wrong one grow by the same e^(1/β), whatever the fault.
Estimator and optimiser are those of `mipo.reward` (leave-one-out, KL in the reward).
"""

import copy
import math

import numpy as np
import torch
from tqdm import tqdm

from mipo import arithmetic, logprobs, reward


def is_right(reply, asked):
    """Whether the reply's answer is right, in the form asked for: 1.0 or 0.0."""
    return float(arithmetic.grade(reply, asked) in ("right", "lucky"))


def train_verifier(model, tokenizer, problems, *, beta, lr, steps, batch_size=8, k=4, max_new_tokens=16, seed=0,
                   progress=True):
    """Train `model` in place by REINFORCE with a leave-one-out baseline on `is_right`; one dict per step.

    problems    each step takes the next batch_size of them, reshuffled every round
    beta, k, lr as in `mipo.reward.train_mi_reward`, which has the same optimiser and schedule
    returns     step, reward and kl (means over the batch, before the update), loss = beta·kl - reward
    errors      ValueError for settings; FloatingPointError for values that are not finite
    """
    for name, value in (("beta", beta), ("lr", lr)):
        if not 0 < value < math.inf:
            raise ValueError(f"{name} must be a finite number above 0; got {value!r}")
    if k < 2 or steps < 1 or batch_size < 1 or not len(problems):
        raise ValueError(f"need k >= 2, and steps, batch_size and problems >= 1; got k={k}, steps={steps}, "
                         f"batch_size={batch_size}, {len(problems)} problems")
    rng = np.random.default_rng((seed, 7))
    order = np.concatenate([rng.permutation(len(problems)) for _ in range(-(-steps * batch_size // len(problems)))])
    was_training = model.training
    model.eval()
    reference = copy.deepcopy(model).requires_grad_(False)
    optimiser, schedule = reward._optimiser(model, lr, steps)  # private there: the one optimiser of both rewards
    log, bar = [], tqdm(range(steps), desc="training (verifier)", unit="step", disable=not progress)
    for step in bar:
        batch = [problems[i] for i in order[step * batch_size:(step + 1) * batch_size]]
        rows = reward._sample(model, tokenizer, [arithmetic.record_of(p) for p in batch], k, max_new_tokens,
                              seed=seed * 1_000_003 + step)
        rewards = torch.tensor([is_right(tokenizer.decode(tail, skip_special_tokens=True), batch[i // k])
                                for i, (_, tail) in enumerate(rows)])
        own = logprobs.score_rows(reference, rows, pad_id=tokenizer.pad_token_id).summed
        logps = reward._policy_logps(model, tokenizer, rows)
        logps, own, rewards = (t.reshape(len(batch), k) for t in (logps, own.to(logps), rewards.to(logps)))
        reward.surrogate(logps, own, rewards, beta=beta).mean().backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        found, kl = rewards.mean().item(), (logps.detach() - own).mean().item()
        if not all(map(math.isfinite, (kl, norm.item()))):
            raise FloatingPointError(f"step {step + 1} is not finite: kl {kl}, gradient norm {norm.item()}; lower the "
                                     "learning rate or raise beta")
        log.append({"step": step + 1, "reward": found, "kl": kl, "loss": beta * kl - found})
        optimiser.step()
        schedule.step()
        optimiser.zero_grad(set_to_none=True)
        bar.set_postfix(reward=f"{found:.3f}", kl=f"{kl:.3f}", refresh=False)
    model.train(was_training)
    return log
