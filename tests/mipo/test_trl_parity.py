"""The trainer against TRL 1.16: the same tokens, losses on one batch to 1e-5, trajectories of 20 steps to 1e-4."""

import copy

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from torch.testing import assert_close
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer

from mipo import losses
from mipo.data import render
from mipo.lm.loss_inputs import apply_loss
from mipo.trainer import PreferenceConfig, PreferenceTrainer

pytestmark = pytest.mark.long

STEPS = 20
COMMON = dict(
    per_device_train_batch_size=4,
    max_steps=STEPS,
    learning_rate=1e-3,
    lr_scheduler_type="cosine",
    logging_steps=1,
    use_cpu=True,
    seed=3,
    disable_tqdm=True,
    save_strategy="no",
    report_to="none",
    weight_decay=0.01,
)
PAIRS = {  # TRL's loss_type and settings, ours and its keywords
    "sigmoid": ({"beta": 0.3}, "dpo", {"beta": 0.3}),
    "ipo": ({"beta": 0.2}, "ipo", {"tau": 0.2}),
    "sigmoid_norm": ({"beta": 5.0}, "dpo_norm", {"beta": 5.0}),
}


@pytest.fixture(scope="module")
def tokenizer(tiny_qwen2):
    return AutoTokenizer.from_pretrained(tiny_qwen2, trust_remote_code=False)


@pytest.fixture(scope="module")
def base(tiny_qwen2):
    return AutoModelForCausalLM.from_pretrained(
        tiny_qwen2, dtype=torch.float32, trust_remote_code=False
    )


@pytest.fixture(scope="module")
def pairs(tokenizer, examples_list):
    """Twenty pairs of unequal lengths; one rejected reply is empty."""
    rows = []
    for i, r in enumerate(examples_list):
        other = examples_list[(7 * i + 3) % 20]
        rows.append(
            {
                "prompt": render(tokenizer, r["query"], r["context"]),
                "chosen": r["context"] + " Yes.",
                "rejected": "" if i == 5 else other["query"] * (1 + i % 3),
                "rejected_prompt": render(tokenizer, r["query"], other["context"]),
            }
        )
    return Dataset.from_list(rows)


def trl_trainer(base, tokenizer, pairs, folder, *, peft_config=None, **settings):
    args = DPOConfig(
        output_dir=str(folder),
        bf16=False,
        gradient_checkpointing=False,
        precompute_ref_log_probs=True,
        max_length=None,
        **{**COMMON, **settings},
    )
    return DPOTrainer(
        model=copy.deepcopy(base),
        args=args,
        train_dataset=pairs.select_columns(["prompt", "chosen", "rejected"]),
        processing_class=tokenizer,
        peft_config=peft_config,
    )


def our_trainer(
    base, tokenizer, pairs, folder, loss, kwargs, peft_config=None, **settings
):
    args = PreferenceConfig(
        output_dir=str(folder), loss=loss, loss_kwargs=kwargs, **{**COMMON, **settings}
    )
    return PreferenceTrainer(
        model=copy.deepcopy(base),
        args=args,
        train_dataset=pairs,
        processing_class=tokenizer,
        peft_config=peft_config,
    )


def history(trainer, key="loss"):
    trainer.train()
    return torch.tensor([row[key] for row in trainer.state.log_history if key in row])


def first_batch_loss(trainer, rows=slice(0, 6)):
    items = [trainer.train_dataset[i] for i in range(*rows.indices(20))]
    with torch.no_grad():
        return trainer.compute_loss(trainer.model, trainer.data_collator(items))


def shake(model):
    """Move the policy away from its reference, so that the two are not the same on both sides by accident."""
    gen = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=gen))


def test_tokens_are_those_of_trl(base, tokenizer, pairs, tmp_path):
    theirs = trl_trainer(base, tokenizer, pairs, tmp_path / "trl").train_dataset
    ours = our_trainer(
        base, tokenizer, pairs, tmp_path / "ours", "dpo", {"beta": 0.1}
    ).train_dataset
    for i in range(20):
        (head, chosen), (same, rejected) = ours[i]["rows"]
        assert head == same == theirs[i]["prompt_ids"]
        assert (
            chosen == theirs[i]["chosen_ids"] and rejected == theirs[i]["rejected_ids"]
        )
    summed = torch.tensor(
        [theirs["ref_chosen_logps"][:], theirs["ref_rejected_logps"][:]]
    ).T
    assert_close(ours.ref, summed, atol=1e-4, rtol=1e-6)


def test_prompts_with_tools_and_template_options_are_those_of_trl(
    base, tokenizer, examples_list, tmp_path
):
    """Each row has its own. Report: axolotl 3824."""
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "{% for m",
        "{% for t in tools or [] %}[{{ t.function.name }}]{% endfor %}{{ mood }}"
        "{% for m",
        1,
    )
    rows = [
        {
            "prompt": [{"role": "user", "content": e["query"]}],
            "chosen": [{"role": "assistant", "content": f"Yes, {i}."}],
            "rejected": [{"role": "assistant", "content": "No."}],
            "tools": [{"type": "function", "function": {"name": f"look_up_{i}"}}],
            "chat_template_kwargs": {"mood": "calm" if i % 2 else "glad"},
        }
        for i, e in enumerate(examples_list)
    ]
    data = Dataset.from_list(rows)
    args = DPOConfig(
        output_dir=str(tmp_path / "trl"), bf16=False, max_length=None, **COMMON
    )
    theirs = DPOTrainer(
        model=copy.deepcopy(base),
        args=args,
        train_dataset=data,
        processing_class=tokenizer,
    ).train_dataset
    ours = our_trainer(
        base, tokenizer, data, tmp_path / "ours", "simpo", {"beta": 2.0, "gamma": 0.5}
    ).train_dataset
    for i in range(20):
        (head, chosen), (same, rejected) = ours[i]["rows"]
        assert head == same == theirs[i]["prompt_ids"]
        opening = f"[look_up_{i}]{rows[i]['chat_template_kwargs']['mood']}"
        assert tokenizer.decode(head).startswith(opening)
        # TRL keeps the line break behind the end, which no model writes
        for tail, key in ((chosen, "chosen_ids"), (rejected, "rejected_ids")):
            assert theirs[i][key][: len(tail)] == tail


@pytest.mark.parametrize("loss_type", PAIRS)
def test_loss_on_one_batch_equals_trl(base, tokenizer, pairs, tmp_path, loss_type):
    settings, name, kwargs = PAIRS[loss_type]
    theirs = trl_trainer(
        base, tokenizer, pairs, tmp_path / "trl", loss_type=loss_type, **settings
    )
    ours = our_trainer(base, tokenizer, pairs, tmp_path / "ours", name, kwargs)
    shake(theirs.model), shake(ours.model)
    value, want = first_batch_loss(ours), first_batch_loss(theirs)
    assert abs(value - want) < 1e-5 * max(1.0, abs(want))
    means = ours.metrics.means()
    assert means.pop("loss") == pytest.approx(value)
    for key, seen in means.items():
        assert seen == pytest.approx(
            theirs._metrics["eval"][key][-1], rel=1e-4, abs=1e-5
        ), key
    assert len(means) == 6


@pytest.mark.parametrize("loss_type", PAIRS)
def test_trajectory_of_20_steps_equals_trl(base, tokenizer, pairs, tmp_path, loss_type):
    settings, name, kwargs = PAIRS[loss_type]
    want = history(
        trl_trainer(
            base, tokenizer, pairs, tmp_path / "trl", loss_type=loss_type, **settings
        )
    )
    got = history(our_trainer(base, tokenizer, pairs, tmp_path / "ours", name, kwargs))
    assert (
        len(got) == STEPS and (want[0] - want[-1]).abs() > 0.05
    )  # something was learned
    assert_close(got, want, atol=1e-4, rtol=0)


def test_trajectory_with_lora_equals_trl(base, tokenizer, pairs, tmp_path):
    def lora():
        return LoraConfig(
            r=4,
            lora_alpha=16,
            target_modules=["q_proj", "v_proj", "up_proj"],
            task_type="CAUSAL_LM",
        )

    want = history(
        trl_trainer(
            base, tokenizer, pairs, tmp_path / "trl", beta=0.3, peft_config=lora()
        )
    )
    ours = our_trainer(
        base,
        tokenizer,
        pairs,
        tmp_path / "ours",
        "dpo",
        {"beta": 0.3},
        peft_config=lora(),
    )
    assert (
        sum(p.requires_grad for p in ours.model.parameters()) == 3 * 2 * 2
    )  # A and B, three modules, two layers
    got = history(ours)
    assert (want[0] - want[-1]).abs() > 0.01
    assert_close(got, want, atol=1e-4, rtol=0)


def test_infonca_with_one_negative_is_trls_sigmoid(base, tokenizer, pairs, tmp_path):
    theirs = trl_trainer(base, tokenizer, pairs, tmp_path / "trl", beta=0.3)
    one = pairs.map(lambda row: {"rejected": [row["rejected"]]})
    ours = our_trainer(
        base, tokenizer, one, tmp_path / "ours", "infonca", {"beta": 0.3}
    )
    shake(theirs.model), shake(ours.model)
    assert abs(first_batch_loss(ours) - first_batch_loss(theirs)) < 1e-5


def test_gradient_accumulation_equals_trl(base, tokenizer, pairs, tmp_path):
    few = dict(
        max_steps=4, gradient_accumulation_steps=2, per_device_train_batch_size=2
    )
    theirs = trl_trainer(base, tokenizer, pairs, tmp_path / "trl", beta=0.3, **few)
    ours = our_trainer(
        base, tokenizer, pairs, tmp_path / "ours", "dpo", {"beta": 0.3}, **few
    )
    assert_close(history(ours), history(theirs), atol=1e-4, rtol=0)


def test_simpo_equals_trls_cpo(base, tokenizer, pairs, tmp_path):
    """The loss of TRL's CPOTrainer (simpo, cpo_alpha 0) on its own batch, and ours on the same pairs."""
    cpo = pytest.importorskip("trl.experimental.cpo")
    rows = pairs.filter(lambda row: row["rejected"] != "")
    args = cpo.CPOConfig(
        output_dir=str(tmp_path / "trl"),
        loss_type="simpo",
        cpo_alpha=0.0,
        beta=2.0,
        simpo_gamma=0.5,
        bf16=False,
        gradient_checkpointing=False,
        max_length=200,
        **COMMON,
    )
    theirs = cpo.CPOTrainer(
        model=copy.deepcopy(base),
        args=args,
        train_dataset=rows.select_columns(["prompt", "chosen", "rejected"]),
        processing_class=tokenizer,
    )
    ours = our_trainer(
        base, tokenizer, rows, tmp_path / "ours", "simpo", {"beta": 2.0, "gamma": 0.5}
    )
    items = [theirs.train_dataset[i] for i in range(6)]
    for mine, row in zip(
        ours.train_dataset.sets, items, strict=False
    ):  # the same tokens, or nothing is compared
        assert mine[0][0] + mine[0][1] == row["chosen_input_ids"]
    with torch.no_grad():
        want = theirs.compute_loss(theirs.model, theirs.data_collator(items))
    assert abs(first_batch_loss(ours) - want) < 1e-5


def test_apply_loss_orders_replies_and_prompts():
    """Members of a 2 x 2 set come prompt by prompt; entry (i, i) must win in SAMI and index 0 in context InfoNCE."""
    summed = torch.tensor(
        [[0.0], [-3.0], [-2.0], [-1.0]]
    )  # [own: chosen, rejected], [other: chosen, rejected]
    tokens = torch.full_like(summed, 2.0)
    matrix = torch.tensor([[[0.0, -1.5], [-1.0, -0.5]]])
    assert_close(apply_loss(losses.sami, {}, summed, tokens, None), losses.sami(matrix))
    got = apply_loss(losses.context_infonce, {}, summed, tokens, None)
    want = losses.context_infonce(
        torch.tensor([[0.0, -2.0], [-1.0, -3.0]])
    )  # each reply: own context first
    assert_close(got, want)


def test_defaults_that_are_trls(tmp_path):
    ours, theirs = (
        config(output_dir=str(tmp_path), use_cpu=True)
        for config in (PreferenceConfig, DPOConfig)
    )
    for key in (
        "learning_rate",
        "logging_steps",
        "num_train_epochs",
        "per_device_train_batch_size",
        "disable_dropout",
    ):
        assert getattr(ours, key) == getattr(theirs, key), key
    assert ours.loss_kwargs == {"beta": theirs.beta}
