"""The mutual-information reward: by hand, its gradient by enumeration, a tiny model trained to the optimum."""

import copy
import itertools
import math

import pytest
import torch
from torch.testing import assert_close

from mipo import models
from mipo.baselines import pmi_reward, reinforce
from mipo.data import render

EXAMPLES = [
    {"query": "Drink?", "context": "Ann."},
    {"query": "Drink?", "context": "Bob."},
]
TASTE = {
    "Ann.": {"tea": 0.7, "milk": 0.2, "water": 0.1},
    "Bob.": {"tea": 0.1, "milk": 0.2, "water": 0.7},
}


def T(*values):
    return torch.tensor(values, dtype=torch.float64)


# ---- formulas --------------------------------------------------------------------------------------------------------


def test_leave_one_out_by_hand():
    got = reinforce.leave_one_out(torch.stack([T(1, 2, 6), T(5, 5, 5)]))
    assert_close(got, torch.stack([T(1 - 4, 2 - 3.5, 6 - 1.5), T(0, 0, 0)]))


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
    for ys in itertools.product(range(len(r)), repeat=k):
        ys = torch.tensor(ys)
        weight = logps[ys].sum().exp().detach()
        total = (
            total
            + weight
            * reinforce.surrogate(
                logps[ys][None], ref[ys][None], r[ys][None], beta=beta
            )[0]
        )
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
    best = (1 + 1 / beta) * ref - q / beta  # log π*, up to a constant
    assert_close(
        expected_gradient(best, ref, ref - q, beta, 2), T(0, 0, 0), atol=1e-12, rtol=0
    )
    log_z = torch.logsumexp(ref + (ref - q) / beta, -1)
    assert_close(objective(best, ref, ref - q, beta), beta * log_z)  # KL(π ‖ π*) is 0


# ---- a model of two people and three drinks --------------------------------------------------------------------------


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
        found = []
        for _ in range(n):
            who = rng.choice(list(TASTE))
            reply = rng.choice(list(TASTE[who]), p=list(TASTE[who].values()))
            found.append(
                (
                    render(tokenizer, "Drink?", "" if rng.random() < 0.2 else str(who)),
                    str(reply),
                )
            )
        return found

    models.pretrain(
        model, tokenizer, examples, steps=150, batch_size=64, lr=1e-2, progress=False
    )
    return model, tokenizer


def table(model, tokenizer, context):
    """log p(drink, end | context) of the three drinks, from full logits one row at a time: (3,), float64."""
    head = tokenizer(render(tokenizer, "Drink?", context))["input_ids"]
    found = []
    for drink in TASTE["Ann."]:
        tail = [*tokenizer(drink)["input_ids"], tokenizer.eos_token_id]
        with torch.no_grad():
            logps = (
                model(torch.tensor([head + tail])).logits[0].double().log_softmax(-1)
            )
        found.append(sum(logps[len(head) - 1 + t, y] for t, y in enumerate(tail)))
    return torch.stack(found)


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
        own, got = pmi_reward.score_pmi(
            model, tokenizer, EXAMPLES, rows, [contexts, contexts]
        )
        for i, (_, tail) in enumerate(rows):
            y = [tokenizer(d)["input_ids"][0] for d in TASTE["Ann."]].index(tail[0])
            mine = p[EXAMPLES[i // 3]["context"]][y]
            want = mine - (sum(p[c][y].exp() for c in contexts) / len(contexts)).log()
            assert_close(
                [own[i].double(), got[i].double()], [mine, want], atol=1e-5, rtol=1e-5
            )


def test_training_reaches_the_optimum(base):
    model, tokenizer = copy.deepcopy(base[0]), base[1]
    log = pmi_reward.train_mi_reward(
        model,
        tokenizer,
        EXAMPLES,
        beta=1.0,
        lr=1e-3,
        steps=60,
        batch_size=8,
        k=8,
        contexts_per_marginal=8,
        max_new_tokens=4,
        seed=0,
        progress=False,
    )
    got, start = (
        torch.stack([table(m, tokenizer, c) for c in TASTE]).exp()
        for m in (model, base[0])
    )
    want = optimum(base, 1.0)
    assert (want - start).abs().max() > 0.1
    assert_close(got, want, atol=0.07, rtol=0)
    pmi = (start / start.mean(dim=0)).log()
    before, after, best = (
        (p * pmi).sum(dim=1).mean() for p in (start, got, want)
    )  # E_π[r], nats
    assert after - before > 0.6 * (best - before) > 0.05
    assert [row["step"] for row in log] == list(range(1, 61))
    assert all(row["loss"] == row["kl"] - row["reward"] for row in log)
    assert abs(log[0]["kl"]) < 1e-5 and sum(row["kl"] for row in log[-20:]) > 0
    assert (
        abs(log[0]["reward"] - before) < 0.35
    )  # one batch of 64 replies, r between -1.4 and 0.6 nats


def test_same_seed_same_run_and_the_model_is_trained_in_place(base):
    runs = []
    for seed in (1, 1, 2):
        model = copy.deepcopy(base[0])
        log = pmi_reward.train_mi_reward(
            model,
            base[1],
            EXAMPLES,
            beta=1,
            lr=1e-3,
            steps=3,
            batch_size=4,
            k=2,
            marginal="missing",
            max_new_tokens=4,
            seed=seed,
            progress=False,
        )
        runs.append((log, table(model, base[1], "Ann.")))
    assert runs[0][0] == runs[1][0] and torch.equal(runs[0][1], runs[1][1])
    assert runs[0][0] != runs[2][0]
    assert not torch.equal(runs[0][1], table(*base, "Ann."))
    assert all(p.requires_grad for p in base[0].parameters())


def test_a_reply_that_was_cut_is_scored_without_an_end(base):
    model, tokenizer = base
    rows = reinforce.sample_rows(model, tokenizer, EXAMPLES, 2, 1, seed=0)
    assert all(len(tail) == 1 and tail[0] != tokenizer.eos_token_id for _, tail in rows)
    rows = reinforce.sample_rows(model, tokenizer, EXAMPLES, 2, 4, seed=0)
    assert all(tail[-1] == tokenizer.eos_token_id for _, tail in rows)


# ---- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"beta": 0}, "beta must be a finite number above 0"),
        ({"beta": -1.0}, "beta"),
        ({"beta": math.nan}, "beta"),
        ({"beta": None}, "beta"),
        ({"lr": 0.0}, "lr"),
        ({"steps": 0}, "steps"),
        ({"k": 1}, "k must be .* at least 2"),
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
        ({"max_new_tokens": 40}, "context of 16"),
    ],
)
def test_bad_settings(base, change, message):
    settings = {
        "examples": EXAMPLES,
        "beta": 1.0,
        "lr": 1e-3,
        "steps": 1,
        "max_new_tokens": 4,
    } | change
    examples = settings.pop("examples")
    with pytest.raises(ValueError, match=message):
        pmi_reward.train_mi_reward(
            base[0], base[1], examples, progress=False, **settings
        )


def test_nan_weights_and_a_diverging_run_are_named(base):
    settings = {
        "beta": 1.0,
        "steps": 3,
        "batch_size": 2,
        "k": 2,
        "max_new_tokens": 4,
        "progress": False,
    }
    broken = copy.deepcopy(base[0])
    broken.model.norm.weight.data[0] = math.nan
    with pytest.raises(FloatingPointError, match="not finite when sampling"):
        pmi_reward.train_mi_reward(broken, base[1], EXAMPLES, lr=1e-3, **settings)
    with pytest.raises(FloatingPointError, match="not finite"):
        pmi_reward.train_mi_reward(
            copy.deepcopy(base[0]), base[1], EXAMPLES, lr=1e37, **settings
        )
