"""Loss functions against TRL 1.16, on one batch to 1e-5: CPO, SimPO and AlphaPO, ORPO, KTO.

TRL tokenises, scores and averages by itself; ours are computed from the same texts by `mipo.lm.tokens` and
`mipo.logprobs`. Where the two define a term differently, the test says how.
"""

# ruff: noqa: F811
import copy
import inspect

import pytest
import torch
from test_trl_parity import COMMON, base, pairs, shake, tokenizer  # noqa: F401
from torch.testing import assert_close
from trl import KTOConfig, KTOTrainer

from mipo import losses
from mipo.lm.tokens import encode_many
from mipo.logprobs import score_rows

pytestmark = pytest.mark.long

N = 6  # pairs in the batch


@pytest.fixture(scope="module")
def policy(base):
    model = copy.deepcopy(base).eval()
    shake(model)
    return model


def settings(tmp_path, **more):
    return {
        **COMMON,
        "output_dir": str(tmp_path),
        "bf16": False,
        "gradient_checkpointing": False,
        **more,
    }


def experimental(kind, tmp_path, policy, tokenizer, rows, **more):
    """TRL's CPOTrainer or ORPOTrainer, and its batch of the first N pairs."""
    module = pytest.importorskip(f"trl.experimental.{kind.lower()}")
    trainer = getattr(module, f"{kind}Trainer")(
        model=copy.deepcopy(policy),
        args=getattr(module, f"{kind}Config")(**settings(tmp_path, **more)),
        train_dataset=rows.select_columns(["prompt", "chosen", "rejected"]),
        processing_class=tokenizer,
    )
    items = [trainer.train_dataset[i] for i in range(N)]
    return trainer, items, trainer.data_collator(items)


def score(model, tokenizer, rows, items=None):
    """Our log-probs of the first N chosen and rejected replies; their tokens must be those of TRL's items."""
    found = []
    for which in ("chosen", "rejected"):
        ids = encode_many(tokenizer, rows["prompt"][:N], rows[which][:N])
        for (head, tail), item in zip(ids, items or [], strict=bool(items)):
            assert head + tail == item[f"{which}_input_ids"]
        found.append(score_rows(model, ids))
    return found


@pytest.fixture(scope="module")
def rows(pairs):
    """Without the pair whose rejected reply is empty."""
    return pairs.filter(lambda row: row["rejected"] != "")


LIKE_CPO = {  # TRL's settings, ours and its keywords
    "cpo": ({"beta": 0.3, "cpo_alpha": 0.0}, {"beta": 0.3, "alpha": 0}),
    "simpo": (
        {"loss_type": "simpo", "cpo_alpha": 0.0, "beta": 2.0, "simpo_gamma": 0.5},
        {"beta": 2.0, "gamma": 0.5},
    ),
    "alphapo": (
        {"loss_type": "alphapo", "alpha": 0.25, "beta": 2.5, "simpo_gamma": 0.1},
        {},
    ),
}


@pytest.mark.parametrize("name", LIKE_CPO)
def test_cpo_simpo_and_alphapo_equal_trl(policy, tokenizer, rows, tmp_path, name):
    theirs, kwargs = LIKE_CPO[name]
    trainer, items, batch = experimental(
        "CPO", tmp_path, policy, tokenizer, rows, **theirs
    )
    found = score(policy, tokenizer, rows, items)
    loss = losses.get(name)
    logps = [x.mean if loss.logps == "mean" else x.summed for x in found]
    value = loss(
        *logps, *([found[0].tokens] if "lengths" in loss.needs else []), **kwargs
    )
    with torch.no_grad():
        chosen, rejected, *_ = trainer.concatenated_forward(trainer.model, batch)
        assert_close(
            value, trainer.cpo_loss(chosen, rejected)[0], atol=1e-5, rtol=0
        )  # pair by pair
        assert_close(
            value.mean(), trainer.compute_loss(trainer.model, batch), atol=1e-5, rtol=0
        )


def test_cpo_with_its_likelihood_equals_trl(policy, tokenizer, rows, tmp_path):
    """TRL averages the likelihood over the batch's tokens, ours over each reply's: one where lengths are equal."""
    same = rows.map(lambda row: {"chosen": "Dear friend, yes."})
    trainer, items, batch = experimental(
        "CPO", tmp_path, policy, tokenizer, same, beta=0.3, cpo_alpha=0.7
    )
    w, u = score(policy, tokenizer, same, items)
    assert len(set(w.tokens.tolist())) == 1 < len(set(u.tokens.tolist()))
    value = losses.cpo(w.summed, u.summed, w.tokens, beta=0.3, alpha=0.7)
    with torch.no_grad():
        assert_close(
            value.mean(), trainer.compute_loss(trainer.model, batch), atol=1e-5, rtol=0
        )


def test_orpo_equals_trl(policy, tokenizer, rows, tmp_path):
    """TRL's likelihood covers the prompt too, so its own log-probs of the reply stand in for that term."""
    trainer, items, batch = experimental(
        "ORPO", tmp_path, policy, tokenizer, rows, beta=0.4
    )
    w, u = score(policy, tokenizer, rows, items)
    value = losses.orpo(w.mean, u.mean, beta=0.4)
    with torch.no_grad():
        chosen, rejected, _, _, prompt_too = trainer.concatenated_forward(
            trainer.model, batch
        )
        odds = -trainer.odds_ratio_loss(chosen, rejected)[0]
        whole = trainer.compute_loss(trainer.model, batch)
    assert_close(value, odds - chosen, atol=1e-5, rtol=0)
    assert_close(value.mean(), whole - prompt_too - chosen.mean(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("moved", ["policy", "reference"])
def test_kto_equals_trl(base, policy, tokenizer, rows, tmp_path, moved):
    """TRL has a row per reply: chosen ones, then rejected. Its kl scores a prompt with the reply of the row before."""
    model, ref = (policy, base) if moved == "policy" else (base, policy)
    kwargs = {"beta": 0.3, "desirable_weight": 1.3, "undesirable_weight": 0.6}
    few = rows.select(range(N)).select_columns(["prompt", "chosen", "rejected"])
    trainer = KTOTrainer(
        model=copy.deepcopy(model),
        ref_model=copy.deepcopy(ref),
        train_dataset=few,
        processing_class=tokenizer,
        args=KTOConfig(
            **settings(tmp_path, **{**kwargs, "per_device_train_batch_size": 2 * N})
        ),
    )
    items = [trainer.train_dataset[i] for i in range(2 * N)]
    with torch.no_grad():
        want = trainer.compute_loss(trainer.model, trainer.data_collator(items))

    prompts, replies = 2 * few["prompt"][:], few["chosen"][:] + few["rejected"][:]
    right, wrong = (
        encode_many(tokenizer, prompts, some)
        for some in (replies, replies[-1:] + replies[:-1])
    )
    for mine, mixed, item in zip(right, wrong, items, strict=True):
        assert mine == (item["prompt_ids"], item["completion_ids"])
        assert mixed == (item["prompt_ids"], item["KL_completion_ids"])
    logps, refs = (score_rows(m, right).summed.reshape(2, N) for m in (model, ref))
    kl = (
        (score_rows(model, wrong).summed - score_rows(ref, wrong).summed)
        .reshape(2, N)
        .mean(dim=0)
    )
    assert (
        (kl.mean() > 0.1) if moved == "reference" else (kl.mean() < -0.1)
    )  # z is used in one case, cut in the other
    assert_close(
        losses.kto(*logps, *refs, kl, **kwargs).mean(), want, atol=1e-5, rtol=0
    )


def test_defaults_that_are_trls(tmp_path):
    def default(name):
        return {
            p.name: p.default
            for p in inspect.signature(losses.get(name)).parameters.values()
        }

    cpo, orpo = (
        pytest.importorskip(f"trl.experimental.{kind}") for kind in ("cpo", "orpo")
    )
    cpo, orpo, kto = (
        c(str(tmp_path), use_cpu=True, bf16=False)
        for c in (cpo.CPOConfig, orpo.ORPOConfig, KTOConfig)
    )
    assert (default("cpo")["beta"], default("cpo")["alpha"]) == (
        cpo.beta,
        cpo.cpo_alpha,
    )
    assert default("orpo")["beta"] == orpo.beta
    for key in ("beta", "desirable_weight", "undesirable_weight"):
        assert default("kto")[key] == getattr(kto, key)
