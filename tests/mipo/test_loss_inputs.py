"""The named inputs of a loss: what Δpmi is made of, its controls, and running moments."""

import copy
import functools

import pytest
import torch
from torch.testing import assert_close
from transformers import AutoModelForCausalLM, AutoTokenizer

from mipo import losses
from mipo.data import render
from mipo.lm.loss_inputs import MARGINALS, Moments, apply_loss
from mipo.logprobs import prompt_pmi, response_logps
from mipo.losses.declaration import inputs_of
from mipo.trainer import PreferenceConfig, PreferenceTrainer

pytestmark = pytest.mark.long

REPLIES = [
    ("Yes, I am a baker.", "No."),
    ("a", "Two children and a retired teacher."),
    ("", "It is late."),
    ("b", "c"),
]


@pytest.fixture(scope="module")
def tokenizer(tiny_qwen2):
    return AutoTokenizer.from_pretrained(tiny_qwen2, trust_remote_code=False)


@pytest.fixture(scope="module")
def base(tiny_qwen2):
    return AutoModelForCausalLM.from_pretrained(
        tiny_qwen2, dtype=torch.float32, trust_remote_code=False
    )


@pytest.fixture(scope="module")
def rows(tokenizer, examples_list):
    prompts = [render(tokenizer, r["query"], r["context"]) for r in examples_list]
    return [
        {"prompt": p, "chosen": w, "rejected": u}
        for p, (w, u) in zip(prompts, REPLIES * 2, strict=False)
    ]


@pytest.fixture
def make(base, tokenizer, rows, tmp_path):
    def make(loss="rmipo", **settings):
        args = PreferenceConfig(
            **{
                "output_dir": str(tmp_path),
                "loss": loss,
                "loss_kwargs": {},
                "per_device_train_batch_size": 4,
                "max_steps": 6,
                "learning_rate": 1e-3,
                "logging_steps": 1,
                "use_cpu": True,
                "disable_tqdm": True,
                **settings,
            }
        )
        return PreferenceTrainer(
            model=copy.deepcopy(base),
            args=args,
            train_dataset=rows,
            processing_class=tokenizer,
        )

    return make


def extras(trainer, shift=0.0):
    """What the trainer hands to its loss for the first four rows, with weights moved by `shift` since it was made."""
    gen = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in trainer.model.parameters():
            p.add_(shift * torch.randn(p.shape, generator=gen))
    seen, real = {}, trainer.loss_fn

    @functools.wraps(real)  # keeps what the loss declares, and its signature
    def spy(*args, **kwargs):
        seen.update(zip(inputs_of(real), args, strict=True))
        return real(*args, **kwargs)

    trainer.loss_fn = spy
    trainer.compute_loss(
        trainer.model, trainer._collate([trainer.train_dataset[i] for i in range(4)])
    )
    trainer.loss_fn = real
    return seen


@pytest.mark.parametrize("first_token", ["start", "drop", "released"])
def test_delta_pmi_is_that_of_the_current_policy(make, tokenizer, rows, first_token):
    trainer = make(first_token=first_token)
    seen = extras(trainer, shift=0.05)
    prompts = [r["prompt"] for r in rows[:4]]
    chosen, rejected = (
        prompt_pmi(
            trainer.model,
            tokenizer,
            prompts,
            [r[side] for r in rows[:4]],
            first_token=first_token,
        )
        for side in ("chosen", "rejected")
    )
    assert_close(seen["delta_pmi"], chosen - rejected, atol=1e-5, rtol=1e-5)
    assert not seen["delta_pmi"].requires_grad and seen["chosen_logps"].requires_grad
    assert torch.isfinite(
        seen["delta_pmi"]
    ).all()  # replies of one token are among them


def test_controls_of_the_marginal(make, tokenizer, rows, base):
    """Each differs from the policy's own in the one thing that it changes."""
    prompts = [r["prompt"] for r in rows[:4]]
    found = {m: extras(make(marginal=m), shift=0.05) for m in MARGINALS}
    own = found["policy"]
    gap = own["chosen_logps"] - own["rejected_logps"]
    assert_close(found["none"]["delta_pmi"], gap.detach())
    moved = make()
    extras(moved, shift=0.05)

    def alone(model):  # mean log-prob without the prompt: what prompt_pmi takes off
        means = [
            response_logps(model, tokenizer, prompts, [r[s] for r in rows[:4]]).mean
            for s in ("chosen", "rejected")
        ]
        pmis = [
            prompt_pmi(model, tokenizer, prompts, [r[s] for r in rows[:4]])
            for s in ("chosen", "rejected")
        ]
        return [m - p for m, p in zip(means, pmis, strict=True)]

    before, now = alone(base), alone(moved.model)
    assert_close(
        found["frozen"]["delta_pmi"],
        gap - (before[0] - before[1]),
        atol=1e-5,
        rtol=1e-4,
    )
    assert_close(
        found["shuffled"]["delta_pmi"],
        gap - (now[0] - now[1]).roll(1),
        atol=1e-5,
        rtol=1e-4,
    )
    for other in ("frozen", "shuffled", "none"):
        assert not torch.allclose(
            found[other]["delta_pmi"], own["delta_pmi"], atol=1e-3
        )


def test_warmup_grows_the_margin_from_zero(make):
    trainer = make(margin_warmup=0.5, logging_steps=1)
    trainer.train()
    gammas = [
        row["margin/gamma"]
        for row in trainer.state.log_history
        if "margin/gamma" in row
    ]
    plain = make()
    plain.train()
    full = [
        row["margin/gamma"] for row in plain.state.log_history if "margin/gamma" in row
    ]
    assert (
        gammas[0] == 0 and gammas[1] < gammas[2] < gammas[3] and 0.3 <= gammas[3] <= 1.6
    )
    assert gammas[1] == pytest.approx(full[1] / 3, rel=0.1)  # step 1 of 3
    assert all(0.3 <= g <= 1.6 for g in full)


def test_kto_compares_with_replies_to_other_prompts(make, tokenizer, rows, base):
    trainer = make("kto")
    kl = extras(trainer, shift=0.05)["kl"]
    prompts, moved = (
        [r["prompt"] for r in rows[:4]],
        [rows[i - 1]["chosen"] for i in range(4)],
    )
    now, before = (
        response_logps(m, tokenizer, prompts, moved).summed
        for m in (trainer.model, base)
    )
    assert_close(kl, now - before, atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="'kto' needs at least 2 rows"):
        trainer._prepare(rows[:1], "train_dataset")


def test_a_partner_is_never_of_the_same_prompt(make, rows):
    """Else KTO's z0 would be estimated on replies to the very prompt."""
    trainer = make("kto")
    several = [rows[0], rows[1], rows[1] | {"chosen": "c"}, rows[2]]
    sides = trainer._prepare(several, "train_dataset")
    partners = [rows[0][1] for rows in sides.sides["mismatched"].sets]
    chosen = [rows[0][1] for rows in sides.sets]
    assert partners == [chosen[3], chosen[0], chosen[0], chosen[2]]
    with pytest.raises(ValueError, match="2 rows with different prompts"):
        trainer._prepare(several[1:3], "train_dataset")


def test_a_pair_alone_in_its_batch_has_no_other_pairs_marginal(make, caplog):
    """It would be its own, and the control no control."""
    trainer = make(marginal="shuffled", per_device_train_batch_size=1)
    with pytest.raises(ValueError, match="a batch size that leaves none alone"):
        trainer.train()
    trainer = make(
        marginal="shuffled",
        per_device_train_batch_size=7,  # of eight
        max_steps=-1,
        num_train_epochs=2,
    )
    trainer.train()
    assert trainer.state.global_step == 2
    assert "one pair of each epoch is left out" in caplog.text


def test_moments_by_hand():
    moments = Moments(momentum=0.9)
    mean, std = moments(
        torch.tensor([1.0, 3.0])
    )  # the first batch is its own history: mean 2, deviation sqrt 2
    assert_close(torch.stack([mean[0], std[1]]), torch.tensor([2.0, 2**0.5]))
    mean, std = moments(torch.tensor([12.0, 12.0]), update=False)
    assert mean.tolist() == [2.0, 2.0]  # what was before this batch
    moments(torch.tensor([12.0, 12.0]))
    mean, std = moments(torch.tensor([0.0, 0.0]))
    assert_close(
        torch.stack([mean[0], std[0]]), torch.tensor([0.9 * 2 + 0.1 * 12, 0.9 * 2**0.5])
    )
    alone = Moments()(torch.tensor([5.0]))
    assert [a.item() for a in alone] == [5.0, 1.0]  # one pair has no deviation


def test_apply_loss_hands_over_by_name():
    logps, tokens = torch.tensor([[-4.0], [-6.0]]), torch.tensor([[2], [3]])
    ref = torch.tensor([[-5.0], [-5.0]])
    kwargs = {"beta": 0.5, "alpha": 0.1}
    got = apply_loss(losses.rdpo, kwargs, logps, tokens, ref)
    assert_close(
        got, torch.nn.functional.softplus(torch.tensor([-(0.5 * 2.0 + 0.1 * (2 - 3))]))
    )  # h = 1 - (-1)
    got = apply_loss(
        losses.rmipo, {}, logps, tokens, None, delta_pmi=torch.tensor([0.5])
    )
    assert_close(
        got,
        losses.rmipo(torch.tensor([-2.0]), torch.tensor([-2.0]), torch.tensor([0.5])),
    )


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"marginal": "mine"}, "marginal must be one of policy, frozen"),
        ({"first_token": "bos"}, "first_token must be"),
        ({"margin_warmup": 2.0}, "between 0 and 1"),
        (
            {
                "loss": "simpo",
                "loss_kwargs": {"beta": 1.0, "gamma": 0.5},
                "margin_warmup": 0.5,
            },
            "'simpo' has no marginal",
        ),
        ({"loss_kwargs": {"gamma_min": 2.0}}, "gamma_min must be at most gamma_max"),
    ],
)
def test_wrong_settings_are_named(make, settings, words):
    with pytest.raises(ValueError, match=words):
        make(**settings)
