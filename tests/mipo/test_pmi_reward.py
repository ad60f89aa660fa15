"""The mutual-information reward.

By hand, its gradient by enumeration, and a tiny model trained to the optimum.
"""

import copy
import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from mipo import models
from mipo.baselines import pmi_reward, reinforce
from mipo.baselines.reinforce import ReinforceConfig
from mipo.data import render

pytestmark = pytest.mark.long

EXAMPLES = [
    {"query": "Drink?", "context": "Ann."},
    {"query": "Drink?", "context": "Bob."},
]
TASTE = {
    "Ann.": {"tea": 0.7, "milk": 0.2, "water": 0.1},
    "Bob.": {"tea": 0.1, "milk": 0.2, "water": 0.7},
}


SHORT = ReinforceConfig(
    beta=1.0,
    lr=1e-3,
    steps=3,
    batch_size=4,
    k=2,
    max_new_tokens=4,
    progress=False,
)


def T(*values):
    return torch.tensor(values, dtype=torch.float64)


# ---- formulas ----


def test_leave_one_out_by_hand():
    """Each reward less the mean of the two others."""
    rewards = torch.stack([T(1, 2, 6), T(5, 5, 5)])
    want = torch.stack([T(1 - 4, 2 - 3.5, 6 - 1.5), T(0, 0, 0)])
    assert_close(reinforce.leave_one_out(rewards), want)


def test_leave_one_out_needs_two():
    with pytest.raises(ValueError, match="at least 2"):
        reinforce.leave_one_out(torch.zeros(3, 1))


def objective(logits, ref, r, beta):
    """E_π[r] - β·KL(π ‖ ref), all replies enumerated."""
    p = logits.softmax(-1)
    return (p * (r - beta * (p.log() - ref))).sum()


def expected_gradient(logits, ref, r, beta, k):
    """E of the surrogate's gradient over all k-tuples of replies."""
    logits = logits.clone().requires_grad_()
    logps = logits.log_softmax(-1)
    total = 0.0
    for replies in itertools.product(range(len(r)), repeat=k):
        ys = list(replies)
        chance = logps[ys].sum().exp().detach()
        one_prompt = logps[ys][None], ref[ys][None], r[ys][None]
        total += chance * reinforce.surrogate(*one_prompt, beta=beta)[0]
    return torch.autograd.grad(total, logits)[0]


@pytest.mark.parametrize(("k", "beta"), [(2, 1.0), (3, 0.3), (4, 2.0)])
def test_gradient_is_unbiased(k, beta):
    logits, ref, r = T(0.3, -0.8, 1.1), T(0.5, 0.2, 0.3).log(), T(0.9, -0.4, -1.3)
    free = logits.clone().requires_grad_()
    exact = torch.autograd.grad(-objective(free, ref, r, beta), free)[0]
    assert exact.abs().max() > 0.1
    assert_close(expected_gradient(logits, ref, r, beta, k), exact)


def test_optimum_is_that_of_mipo():
    ref, q, beta = T(0.6, 0.3, 0.1).log(), T(0.2, 0.5, 0.3).log(), 0.5
    pmi = ref - q
    best = (1 + 1 / beta) * ref - q / beta  # log π*, up to a constant
    gradient = expected_gradient(best, ref, pmi, beta, 2)
    assert_close(gradient, T(0, 0, 0), atol=1e-12, rtol=0)
    log_z = torch.logsumexp(ref + pmi / beta, -1)
    assert_close(objective(best, ref, pmi, beta), beta * log_z)  # KL(π ‖ π*) is 0


# ---- a model of two people and three drinks ----


@pytest.fixture(scope="module")
def base():
    torch.set_num_threads(1)
    tokenizer = models.build_tokenizer(
        ["Ann.\n\nDrink?", "Bob.\n\nDrink?", "Drink?", *TASTE["Ann."]]
    )
    model = models.small_model(
        tokenizer, hidden=32, layers=2, heads=2, max_length=16, init=0.1, seed=0
    )

    def examples(rng, n):
        pairs = []
        for _ in range(n):
            who = rng.choice(list(TASTE))
            reply = rng.choice(list(TASTE[who]), p=list(TASTE[who].values()))
            context = "" if rng.random() < 0.2 else str(who)
            pairs.append((render(tokenizer, "Drink?", context), str(reply)))
        return pairs

    models.pretrain(
        model, tokenizer, examples, steps=150, batch_size=64, lr=1e-2, progress=False
    )
    return model, tokenizer


def table(model, tokenizer, context):
    """log p(drink, end | context) of the three drinks, from full logits: (3,)."""
    head = tokenizer(render(tokenizer, "Drink?", context))["input_ids"]
    drinks = []
    for drink in TASTE["Ann."]:
        tail = [*tokenizer(drink)["input_ids"], tokenizer.eos_token_id]
        with torch.no_grad():
            logits = model(torch.tensor([head + tail])).logits[0]
        logps = logits.double().log_softmax(-1)
        before = len(head) - 1  # the position that predicts the first token of the tail
        drinks.append(sum(logps[before + t, token] for t, token in enumerate(tail)))
    return torch.stack(drinks)


def optimum(base, beta):
    """π* for (Ann, Bob), from the base's own tables: (2, 3)."""
    p = torch.stack([table(*base, c) for c in TASTE])
    q = torch.logsumexp(p, dim=0) - math.log(2)
    return ((1 + 1 / beta) * p - q / beta).softmax(-1)


def test_rewards_of_replies_equal_the_pmi(base):
    model, tokenizer = base
    p = {c: table(model, tokenizer, c) for c in (*TASTE, "")}
    rows = reinforce.sample_rows(model, tokenizer, EXAMPLES, 3, 4, seed=0)
    for contexts in (["Ann.", "Bob."], ["Bob.", "Bob.", "Ann."], [""]):
        batch = EXAMPLES, rows, [contexts, contexts]
        logps, rewards = pmi_reward.score_pmi(model, tokenizer, *batch)
        for i, (_, tail) in enumerate(rows):
            y = [tokenizer(d)["input_ids"][0] for d in TASTE["Ann."]].index(tail[0])
            own = p[EXAMPLES[i // 3]["context"]][y]
            marginal = sum(p[c][y].exp() for c in contexts) / len(contexts)
            got = [logps[i].double(), rewards[i].double()]
            assert_close(got, [own, own - marginal.log()], atol=1e-5, rtol=1e-5)


@pytest.fixture(scope="module")
def trained(base):
    model, tokenizer = copy.deepcopy(base[0]), base[1]
    config = ReinforceConfig(
        beta=1.0,
        lr=1e-3,
        steps=60,
        batch_size=8,
        k=8,
        max_new_tokens=4,
        progress=False,
    )
    log = pmi_reward.train_mi_reward(model, tokenizer, EXAMPLES, config)
    return model, log


def probabilities(model, tokenizer):
    """Of the drinks for Ann and for Bob: (2, 3)."""
    return torch.stack([table(model, tokenizer, context) for context in TASTE]).exp()


def test_training_reaches_the_optimum(base, trained):
    """In probabilities, and in E_π[r], nats."""
    start = probabilities(*base)
    got = probabilities(trained[0], base[1])
    want = optimum(base, 1.0)
    assert (want - start).abs().max() > 0.1
    assert_close(got, want, atol=0.07, rtol=0)

    pmi = (start / start.mean(dim=0)).log()
    before, after, best = ((p * pmi).sum(dim=1).mean() for p in (start, got, want))
    assert after - before > 0.6 * (best - before) > 0.05


def test_the_log_of_training(base, trained):
    """The first batch has 64 replies, with rewards between -1.4 and 0.6 nats."""
    log = trained[1]
    assert [row["step"] for row in log] == list(range(1, 61))
    for row in log:
        assert row["loss"] == row["kl"] - row["reward"]
    assert abs(log[0]["kl"]) < 1e-5
    assert sum(row["kl"] for row in log[-20:]) > 0

    start = probabilities(*base)
    pmi = (start / start.mean(dim=0)).log()
    mean_reward = (start * pmi).sum(dim=1).mean()
    assert abs(log[0]["reward"] - mean_reward) < 0.35


def test_same_seed_same_run_and_the_model_is_trained_in_place(base):
    runs = []
    for seed in (1, 1, 2):
        model = copy.deepcopy(base[0])
        config = replace(SHORT, seed=seed)
        log = pmi_reward.train_mi_reward(
            model, base[1], EXAMPLES, config, marginal="missing"
        )
        runs.append((log, table(model, base[1], "Ann.")))
    (log, weights), (same_log, same_weights), (other_log, _) = runs
    assert log == same_log
    assert torch.equal(weights, same_weights)
    assert log != other_log
    assert not torch.equal(weights, table(*base, "Ann."))
    assert all(p.requires_grad for p in base[0].parameters())


@pytest.mark.parametrize("marginal, n", [("missing", 1), ("contexts", 5)])
def test_the_marginal_is_over_no_context_or_over_drawn_ones(
    base, monkeypatch, marginal, n
):
    contexts_of_steps = []

    def score(reference, tokenizer, batch, rows, contexts):
        contexts_of_steps.extend(contexts)
        return torch.zeros(len(rows)), torch.zeros(len(rows))

    monkeypatch.setattr(pmi_reward, "score_pmi", score)
    model = copy.deepcopy(base[0])
    pmi_reward.train_mi_reward(
        model, base[1], EXAMPLES, SHORT, marginal=marginal, contexts_per_marginal=5
    )
    assert len(contexts_of_steps) == SHORT.steps * SHORT.batch_size
    assert {len(contexts) for contexts in contexts_of_steps} == {n}
    drawn = {context for contexts in contexts_of_steps for context in contexts}
    assert drawn == ({""} if marginal == "missing" else set(TASTE))


def test_a_reply_that_was_cut_is_scored_without_an_end(base):
    model, tokenizer = base
    rows = reinforce.sample_rows(model, tokenizer, EXAMPLES, 2, 1, seed=0)
    assert all(len(tail) == 1 and tail[0] != tokenizer.eos_token_id for _, tail in rows)
    rows = reinforce.sample_rows(model, tokenizer, EXAMPLES, 2, 4, seed=0)
    assert all(tail[-1] == tokenizer.eos_token_id for _, tail in rows)


# ---- bad input ----


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"beta": 0}, "beta must be a finite number above 0"),
        ({"beta": -1.0}, "beta"),
        ({"beta": math.nan}, "beta"),
        ({"beta": None}, "beta"),
        ({"lr": 0.0}, "lr"),
        ({"lr": -1.0}, "lr"),
        ({"steps": 0}, "steps"),
        ({"steps": True}, "steps"),
        ({"batch_size": 2.0}, "batch_size"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"k": 1}, "k must be .* at least 2"),
    ],
)
def test_bad_config(change, message):
    with pytest.raises(ValueError, match=message):
        replace(SHORT, **change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"contexts_per_marginal": 0}, "contexts_per_marginal"),
        ({"marginal": "none"}, "'contexts' or 'missing'"),
        ({"examples": []}, "at least one example"),
        ({"examples": [{"context": "Ann."}]}, 'example 0: field "query"'),
        ({"examples": EXAMPLES[:1] * 3}, "same context"),
        (
            {
                "examples": [{"query": "Drink?", "context": None}] * 2,
                "marginal": "missing",
            },
            "same context",
        ),
        ({"config": {"max_new_tokens": 40}}, "context of 16"),
    ],
)
def test_bad_settings(base, change, message):
    settings = {"examples": EXAMPLES, **change}
    settings["config"] = replace(SHORT, **settings.get("config", {}))
    with pytest.raises(ValueError, match=message):
        pmi_reward.train_mi_reward(*base, **settings)


def test_nan_weights_and_a_diverging_run_are_named(base):
    model, tokenizer = base
    broken = copy.deepcopy(model)
    broken.model.norm.weight.data[0] = math.nan
    with pytest.raises(FloatingPointError, match="not finite when sampling"):
        pmi_reward.train_mi_reward(broken, tokenizer, EXAMPLES, SHORT)

    too_fast = replace(SHORT, lr=1e37)
    diverging = copy.deepcopy(model)
    with pytest.raises(FloatingPointError, match="not finite"):
        pmi_reward.train_mi_reward(diverging, tokenizer, EXAMPLES, too_fast)
