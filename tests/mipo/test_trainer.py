"""PreferenceTrainer: every loss trains, reference log-probs are cached, formats agree, and bad input is named."""

import copy
import os

import pytest
import torch
from datasets import Dataset
from peft import AdaptionPromptConfig, LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch.testing import assert_close
from transformers import AutoModelForCausalLM, AutoTokenizer

from mipo import files, logprobs, losses, preference_data
from mipo.data import render
from mipo.lm import batches as preferences
from mipo.lm import reply_logps, shared_prompt, tokens
from mipo.lm.loss_inputs import apply_loss
from mipo.trainer import PreferenceConfig, PreferenceTrainer

pytestmark = pytest.mark.long


def example(name):
    """The keywords with which a loss is declared to be tried; none for one unknown."""
    return dict(losses.LOSSES[name].example) if name in losses.LOSSES else {}


@pytest.fixture(scope="module")
def tokenizer(tiny_llama):
    return AutoTokenizer.from_pretrained(tiny_llama, trust_remote_code=False)


@pytest.fixture(scope="module")
def base(tiny_llama):
    return AutoModelForCausalLM.from_pretrained(
        tiny_llama, dtype=torch.float32, trust_remote_code=False
    )


@pytest.fixture(scope="module")
def rows(tokenizer, examples_list):
    found = []
    for i, r in enumerate(examples_list):
        other = examples_list[(7 * i + 3) % 20]
        found.append(
            {
                "prompt": render(tokenizer, r["query"], r["context"]),
                "chosen": f"{r['context']} Yes.",
                "rejected": other["query"],
                "rejected_prompt": render(
                    tokenizer, r["query"], other["context"] or "x"
                ),
            }
        )
    return found


def k_negatives(rows, k):
    def column(i, key):
        return [rows[(i + j) % len(rows)][key] for j in range(k)]

    return [
        {
            **r,
            "rejected": column(i, "rejected"),
            "rejected_prompt": column(i, "rejected_prompt"),
        }
        for i, r in enumerate(rows)
    ]


@pytest.fixture
def make(base, tokenizer, tmp_path):
    def make(
        data,
        loss="dpo",
        model=None,
        peft_config=None,
        eval_dataset=None,
        kwargs=None,
        processing_class=None,
        **settings,
    ):
        args = PreferenceConfig(
            **{
                "output_dir": str(tmp_path / "run"),
                "loss": loss,
                "loss_kwargs": kwargs or example(loss),
                "per_device_train_batch_size": 5,
                "max_steps": 6,
                "learning_rate": 2e-3,
                "logging_steps": 1,
                "use_cpu": True,
                "disable_tqdm": True,
                **settings,
            }
        )
        return PreferenceTrainer(
            model=model or copy.deepcopy(base),
            args=args,
            train_dataset=data,
            eval_dataset=eval_dataset,
            processing_class=processing_class or tokenizer,
            peft_config=peft_config,
        )

    return make


def log(trainer, key="loss"):
    return [row[key] for row in trainer.state.log_history if key in row]


# ---- it trains -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(losses.LOSSES))
def test_every_loss_goes_down_on_its_own_batch(make, rows, name):
    trainer = make(rows[:5], name, max_steps=12, lr_scheduler_type="constant")
    trainer.train()
    if losses.get(
        name
    ).frozen:  # its margin moves with the log-probs: what must grow is the gap
        assert log(trainer, "rewards/margins")[-1] > log(trainer, "rewards/margins")[0]
    else:
        assert log(trainer)[-1] < log(trainer)[0]


@pytest.mark.parametrize("name", ["infonca", "sami", "context_infonce", "sft"])
def test_k_negatives_start_at_the_declared_value(make, rows, name):
    trainer = make(k_negatives(rows, 3), name)
    trainer.train()
    if name == "infonca":  # policy = reference: log 4 exactly
        assert log(trainer)[0] == pytest.approx(
            torch.tensor(4.0).log().item(), abs=1e-5
        )
    n = {"infonca": 4, "sft": 1}.get(name, 16)
    assert len(trainer.train_dataset[0]["rows"]) == n


def test_dpo_starts_at_log_2_and_logs_trls_names(make, rows):
    trainer = make(rows)
    trainer.train()
    assert log(trainer)[0] == pytest.approx(0.693147, abs=1e-5)
    first = trainer.state.log_history[0]
    assert {
        f"rewards/{x}" for x in ("chosen", "rejected", "margins", "accuracies")
    } <= set(first)
    assert {"logps/chosen", "logps/rejected"} <= set(first)
    assert first["rewards/margins"] == pytest.approx(0, abs=1e-4)
    assert log(trainer, "rewards/margins")[-1] > 0.05


def test_cross_losses_see_every_reply_after_every_prompt(make, rows, tokenizer):
    (a, b, c, d) = make(rows, "sami").train_dataset[0]["rows"]
    own, other = (
        tokenizer(rows[0][k])["input_ids"] for k in ("prompt", "rejected_prompt")
    )
    assert [a[0], b[0], c[0], d[0]] == [own, own, other, other]
    assert a[1] == c[1] and b[1] == d[1] and a[1] != b[1]


def test_same_seed_same_numbers_other_seed_other_numbers(make, rows):
    runs = []
    for seed in (1, 1, 2):
        trainer = make(rows, seed=seed)
        trainer.train()
        runs.append(log(trainer))
    assert runs[0] == runs[1] != runs[2]


def test_dropout_is_off_unless_asked_for(base, make, rows):
    model = copy.deepcopy(base)
    model.add_module("extra", torch.nn.Dropout(0.5))
    assert make(rows, model=model, disable_dropout=False).model.extra.p == 0.5
    assert make(rows, model=model).model.extra.p == 0.0


# ---- the reference ---------------------------------------------------------------------------------------------------


def test_reference_is_the_initial_policy_and_is_scored_once(
    make, rows, base, tokenizer, monkeypatch
):
    replies = [[r["chosen"], r["rejected"]] for r in rows]
    want = logprobs.response_logps(
        base, tokenizer, [r["prompt"] for r in rows], replies
    )
    first = make(rows)
    assert_close(first.train_dataset.ref, want.summed, atol=1e-4, rtol=1e-6)
    monkeypatch.setattr(
        "mipo.lm.reference.score_rows", lambda *a, **k: pytest.fail("scored again")
    )
    second = make(rows)
    assert torch.equal(first.train_dataset.ref, second.train_dataset.ref)
    make(rows, "simpo")  # has no reference: must not score either


def test_cache_notices_other_weights_and_other_data(make, rows, base):
    make(rows)
    folder = make(rows).reference.folder
    assert len(list(folder.iterdir())) == 1
    moved = copy.deepcopy(base)
    with torch.no_grad():
        moved.model.layers[0].mlp.up_proj.weight[0, 0] += 1e-3
    make(rows, model=moved)
    make([{**r, "chosen": r["chosen"] + "!"} for r in rows])
    assert len(list(folder.iterdir())) == 3
    assert all(
        p.suffix == ".safetensors" for p in folder.iterdir()
    )  # nothing half-written is left


def test_cache_notices_another_template_and_another_precision(
    make, examples_list, tokenizer
):
    talk = [
        {
            "prompt": [{"role": "user", "content": r["query"]}],
            "chosen": [{"role": "assistant", "content": "Yes."}],
            "rejected": [{"role": "assistant", "content": "No."}],
        }
        for r in examples_list
    ]
    folder = make(talk).reference.folder
    make(talk, bf16=True)
    assert len(list(folder.iterdir())) == 2
    before = tokenizer.chat_template
    try:
        tokenizer.chat_template = before.replace("<|eot_id|>", "!<|eot_id|>", 1)
        make(talk)
    finally:
        tokenizer.chat_template = before
    assert len(list(folder.iterdir())) == 3


def test_a_broken_cache_file_is_made_anew(make, rows):
    first = make(rows)
    (path,) = first.reference.folder.iterdir()
    path.write_bytes(path.read_bytes()[:20])
    assert torch.equal(make(rows).train_dataset.ref, first.train_dataset.ref)


def test_reference_columns_are_used_as_they_are(make, rows):
    given = [
        {**r, "ref_chosen_logps": -float(i), "ref_rejected_logps": -2.0 * i}
        for i, r in enumerate(rows)
    ]
    ref = make(given).train_dataset.ref
    assert ref[3].tolist() == [-3.0, -6.0]
    with pytest.raises(ValueError, match="one number per rejected reply"):
        make([{**r, "ref_rejected_logps": [0.0, 0.0]} for r in given])
    with pytest.raises(ValueError, match="has 'ref_chosen_logps' alone"):
        make([{**r, "ref_chosen_logps": 0.0} for r in rows])


def test_lora_trains_the_adapter_only_and_its_reference_is_the_base(make, rows, base):
    lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    trainer = make(rows, peft_config=lora)
    assert torch.equal(trainer.train_dataset.ref, make(rows).train_dataset.ref)
    before = {n: p.clone() for n, p in trainer.model.named_parameters()}
    trainer.train()
    changed = {
        n for n, p in trainer.model.named_parameters() if not torch.equal(p, before[n])
    }
    assert changed and all("lora_" in n for n in changed)
    with pytest.raises(ValueError, match="already has an adapter"):
        make(rows, model=trainer.model, peft_config=lora)


@pytest.mark.parametrize("share", [True, False])
def test_an_adapter_that_replaces_the_attention_trains(make, rows, share, caplog):
    """Its layers have no projections to cut, so each reply has its own prompt."""
    adapter = AdaptionPromptConfig(
        adapter_len=4, adapter_layers=1, task_type="CAUSAL_LM"
    )
    trainer = make(rows, peft_config=adapter, share_prompts=share)
    trainer.train()
    assert log(trainer)[0] == pytest.approx(0.693147, abs=1e-4)
    assert ("in the place of its attention" in caplog.text) == share


def test_the_reference_keeps_to_separate_rows_where_the_policy_does(
    make, rows, monkeypatch
):
    shared = []
    monkeypatch.setattr(
        "mipo.lm.row_scores.collate_shared", lambda groups: shared.append(groups)
    )
    make(rows, share_prompts=False)
    assert not shared


def test_an_adapter_that_arrives_trained_is_its_own_reference(make, rows, base):
    torch.manual_seed(0)
    lora = LoraConfig(
        r=4, target_modules=["q_proj"], task_type="CAUSAL_LM", init_lora_weights=False
    )
    trainer = make(rows, model=get_peft_model(copy.deepcopy(base), lora))
    trainer.train()
    assert log(trainer)[0] == pytest.approx(0.693147, abs=1e-4)


# ---- formats and ways in ---------------------------------------------------------------------------------------------


def test_conversational_format_gives_the_same_sequences_as_its_text(
    make, tokenizer, examples_list
):
    def turn(role, text):
        return [{"role": role, "content": text}]

    talk = [
        {
            "prompt": turn("user", r["query"]),
            "chosen": turn("assistant", "Yes."),
            "rejected": turn("assistant", "No, " + r["query"]),
        }
        for r in examples_list
    ]
    sets = make(talk).train_dataset
    for i, r in enumerate(examples_list):
        for (head, tail), reply in zip(
            sets[i]["rows"], ("Yes.", "No, " + r["query"]), strict=True
        ):
            assert (head, tail) == tokens.encode(
                tokenizer, render(tokenizer, r["query"]), reply
            )
    many = [
        {**t, "rejected": [t["rejected"], turn("assistant", "Maybe.")]} for t in talk
    ]
    assert len(make(many, "infonca").train_dataset[0]["rows"]) == 3


def test_model_by_name_datasets_and_saving(make, rows, tiny_llama, tmp_path):
    args = PreferenceConfig(
        output_dir=str(tmp_path / "named"), max_steps=1, use_cpu=True, disable_tqdm=True
    )
    trainer = PreferenceTrainer(
        str(tiny_llama), args, train_dataset=Dataset.from_list(rows)
    )
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    again = AutoModelForCausalLM.from_pretrained(
        tmp_path / "saved", trust_remote_code=False
    )
    for a, b in zip(again.parameters(), trainer.model.parameters(), strict=True):
        assert torch.equal(a, b)
    assert AutoTokenizer.from_pretrained(
        tmp_path / "saved", trust_remote_code=False
    ).chat_template


def test_evaluation(make, rows):
    trainer = make(
        rows[:10], eval_dataset=rows[10:], eval_strategy="steps", eval_steps=3
    )
    start = trainer.evaluate()
    assert start["eval_loss"] == pytest.approx(0.693147, abs=1e-5)
    assert start["eval_rewards/margins"] == pytest.approx(0, abs=1e-4)
    trainer.train()
    assert len(log(trainer, "eval_loss")) == 2
    with pytest.raises(ValueError, match="policy has been trained since"):
        trainer.evaluate(rows[:4])
    given = [
        {**r, "ref_chosen_logps": 0.0, "ref_rejected_logps": 0.0} for r in rows[:4]
    ]
    assert "eval_loss" in trainer.evaluate(given)
    assert "eval_loss" in trainer.evaluate(
        rows[:10]
    )  # the training rows: their reference is cached


def test_progress_bar_respects_disable_tqdm(make, rows, capsys):
    make(rows).train()
    quiet = capsys.readouterr()
    assert quiet.out == quiet.err == ""
    make(rows, disable_tqdm=False).train()
    shown = capsys.readouterr()
    assert shown.out == "" and "training (dpo)" in shown.err and "6/6" in shown.err


# ---- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "loss, kwargs, words",
    [
        ("doo", {}, "unknown loss 'doo'"),
        ("dpo", {"betta": 1.0}, "no keyword 'betta'"),
        ("dpo", {"beta": 0}, "beta must be"),
        ("dpo", {"beta": -0.1}, "beta must be"),
        ("ipo", {}, "needs the keyword 'tau'"),
    ],
)
def test_wrong_settings_fail_at_construction(tmp_path, loss, kwargs, words):
    with pytest.raises(ValueError, match=words):
        PreferenceConfig(output_dir=str(tmp_path), loss=loss, loss_kwargs=kwargs)


def test_wrong_data_is_named(make, rows):
    def without(key):
        return [{k: v for k, v in r.items() if k != key} for r in rows]

    with pytest.raises(ValueError, match="train_dataset is empty"):
        make([])
    for key, loss in (
        ("prompt", "dpo"),
        ("chosen", "sft"),
        ("rejected", "simpo"),
        ("rejected_prompt", "sami"),
    ):
        with pytest.raises(ValueError, match=f"no column '{key}'"):
            make(without(key), loss)
    make(without("rejected"), "sft")  # what a loss does not need may be missing
    with pytest.raises(ValueError, match="must be a datasets.Dataset"):
        make({"prompt": ["a"]}.items())
    with pytest.raises(
        ValueError, match="takes one rejected reply per row.*has 2.*infonca"
    ):
        make(k_negatives(rows, 2))
    with pytest.raises(ValueError, match="row 1 of train_dataset: 1 entries"):
        make(
            [{**r, "rejected": ["a", "b"][: 2 - i]} for i, r in enumerate(rows[:2])],
            "infonca",
        )
    with pytest.raises(ValueError, match="all pairs are identical"):
        make([{**r, "rejected": r["chosen"]} for r in rows])
    with pytest.raises(ValueError, match="rejected_prompt equals prompt"):
        make([{**r, "rejected_prompt": r["prompt"]} for r in rows], "sami")
    with pytest.raises(
        ValueError, match="row 2 of train_dataset: the reply must be text"
    ):
        make(
            [
                {**r, "chosen": None if i == 2 else r["chosen"]}
                for i, r in enumerate(rows)
            ]
        )


def test_pairs_that_are_equal_after_the_cut_are_refused(make, rows, caplog):
    """Their texts differ, the tokens that are trained on do not. Reports: trl 6548 and 3382."""
    long = "Yes. " * 30
    same = [{**r, "chosen": f"{long}good", "rejected": f"{long}bad"} for r in rows]
    longest = max(len(head) for (head, _), _ in make(same).train_dataset.sets)
    with pytest.raises(ValueError, match="identical.*up to max_length"):
        make(same, max_length=longest + 1)
    other = [{**r, "chosen": "No.", "rejected": "Yes."} for r in rows]
    make([*same[:3], *other[3:]], max_length=longest + 1)
    assert f"3 of {len(rows)} pairs of train_dataset teach nothing" in caplog.text


@pytest.mark.parametrize("rendered", [True, False], ids=["rendered", "plain"])
def test_a_beginning_written_in_a_file_is_not_doubled(
    make, rows, tokenizer, tmp_path, rendered
):
    """The tokenizer adds one of its own. Reports: axolotl 1616, reward-bench 164."""
    start = tokenizer.bos_token
    assert not any(row["prompt"].startswith(start) for row in rows)
    bare = [
        {
            "prompt": row["prompt"] if rendered else f"What about {i}?",
            "chosen": row["chosen"],
            "rejected": row["rejected"],
        }
        for i, row in enumerate(rows)
    ]
    written = [row | {"prompt": start + row["prompt"]} for row in bare]
    sets = []
    for name, data in {"bare": bare, "written": written}.items():
        file = tmp_path / f"{name}.jsonl"
        file.write_text(files.lines(data), encoding="utf-8")
        read = preference_data.as_text(preference_data.read(file), tokenizer)
        assert [row["prompt"] for row in read] == [row["prompt"] for row in data]
        sets.append(make(read).train_dataset.sets)
    assert sets[0] == sets[1]
    for row, members in zip(bare, sets[1], strict=True):
        text = tokenizer(row["prompt"], add_special_tokens=False)["input_ids"]
        for head, tail in members:
            assert head == [tokenizer.bos_token_id, *text]
            assert tokenizer.bos_token_id not in tail


def test_text_beside_messages_is_named(make, rows):
    """The advice was another loss."""
    talk = [{"role": "assistant", "content": "Yes."}]
    data = [{**r, "chosen": talk, "rejected": talk} for r in rows]
    with pytest.raises(
        ValueError, match="row 0 of train_dataset: 'chosen' is not text"
    ):
        make(data)


def test_tools_and_template_options_reach_the_template(make, tokenizer, examples_list):
    """As with TRL, whose prompt has them. Report: axolotl 3824."""
    rows = [
        {
            "prompt": [{"role": "user", "content": e["query"]}],
            "chosen": [{"role": "assistant", "content": "Yes."}],
            "rejected": [{"role": "assistant", "content": "No."}],
            "tools": [{"name": "look_up"}],
            "chat_template_kwargs": {"mood": "calm"},
        }
        for e in examples_list
    ]
    before = tokenizer.chat_template
    opening = "{% for t in tools or [] %}[{{ t['name'] }}]{% endfor %}{{ mood }}"
    try:
        tokenizer.chat_template = before.replace("{% for m", opening + "{% for m", 1)
        head, _ = make(rows).train_dataset.sets[0][0]
        assert "[look_up]calm" in tokenizer.decode(head)
    finally:
        tokenizer.chat_template = before


def test_a_token_without_an_embedding_is_named(make, rows, tokenizer):
    longer = copy.deepcopy(tokenizer)
    longer.add_tokens(["<new>"])
    data = [{**r, "chosen": "Yes <new>"} for r in rows]
    with pytest.raises(ValueError, match="'<new>' has id .*resize_token_embeddings"):
        make(data, processing_class=longer)


def test_some_identical_pairs_are_fine(make, rows):
    trainer = make(
        [
            {**r, "rejected": r["chosen"] if i else r["rejected"]}
            for i, r in enumerate(rows)
        ]
    )
    trainer.train()
    assert log(trainer)[0] == pytest.approx(0.693147, abs=1e-4)


def test_one_token_and_empty_replies_train(make, rows):
    data = [
        {**r, "chosen": "a" if i % 2 else "", "rejected": "b"}
        for i, r in enumerate(rows)
    ]
    for name in ("dpo", "simpo"):
        trainer = make(data, name)
        trainer.train()
        assert all(torch.isfinite(torch.tensor(log(trainer))))


def test_a_row_that_exceeds_the_model_is_named_and_max_length_cuts_it(make, rows):
    long = [{**r, "chosen": "long " * 400} if i == 7 else r for i, r in enumerate(rows)]
    with pytest.raises(
        ValueError,
        match="row 7 of train_dataset: prompt.*256 positions.*max_length=256",
    ):
        make(long)
    head, tail = make(long, max_length=256).train_dataset[7]["rows"][0]
    assert len(head) + len(tail) == 256
    with pytest.raises(ValueError, match="row 0 of train_dataset: the prompt has"):
        make(long, max_length=8)


def test_nan_names_the_step_and_keeps_what_was_logged(make, rows):
    trainer, steps = make(rows), []
    trainer.create_optimizer()

    def poison_after_three_steps(*args, **kwargs):
        steps.append(1)
        if len(steps) == 3:
            with torch.no_grad():
                trainer.model.model.norm.weight.fill_(float("nan"))

    trainer.optimizer.register_step_post_hook(poison_after_three_steps)
    with pytest.raises(
        FloatingPointError,
        match=r"loss is nan; the policy's own .* at step 4 .loss 'dpo'.*learning rate",
    ):
        trainer.train()
    assert len(log(trainer)) == 3


def test_a_model_without_a_name_needs_its_tokenizer(base, rows, tmp_path):
    model = copy.deepcopy(base)
    model.config._name_or_path = ""
    args = PreferenceConfig(output_dir=str(tmp_path), use_cpu=True)
    with pytest.raises(ValueError, match="pass processing_class=tokenizer"):
        PreferenceTrainer(model=model, args=args, train_dataset=rows)


def test_checkpointing_activations_changes_memory_and_not_numbers(make, rows):
    lora = LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM")
    plain, saving = (
        make(rows, peft_config=lora),
        make(rows, peft_config=lora, activation_checkpointing=True),
    )
    plain.train(), saving.train()
    assert saving.model.is_activation_checkpointing
    assert_close(torch.tensor(log(saving)), torch.tensor(log(plain)), atol=1e-5, rtol=0)


def test_training_with_an_adapter_warns_of_nothing(make, rows, recwarn):
    make(
        rows,
        peft_config=LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM"),
    ).train()
    assert [str(w.message) for w in recwarn] == []


def test_nothing_is_written_but_the_reference_cache(make, rows, tmp_path):
    make(rows, "simpo").train()
    assert not [f for _, _, files in os.walk(tmp_path) for f in files]
    make(rows, "dpo", ref_cache_dir=str(tmp_path / "shared")).train()
    assert [f for _, _, files in os.walk(tmp_path) for f in files] == [
        p.name for p in (tmp_path / "shared").iterdir()
    ]


@pytest.mark.parametrize("how", ["flipped", "cut", "without a digest"])
def test_cached_log_probs_that_were_changed_are_computed_anew(
    how, make, rows, tmp_path
):
    make(rows, "dpo", ref_cache_dir=str(tmp_path / "shared")).train()
    (file,) = (tmp_path / "shared").iterdir()
    whole = load_file(file)["summed"].clone()  # not mapped from the file
    data = bytearray(file.read_bytes())
    data[-1] ^= 1  # one bit of the last number: as long as before
    spoiled = {"flipped": bytes(data), "cut": bytes(data[:-4])}
    if how in spoiled:
        file.write_bytes(spoiled[how])
    else:
        save_file({"summed": whole + 1}, file)
    make(rows, "dpo", ref_cache_dir=str(tmp_path / "shared")).train()
    assert torch.equal(load_file(file)["summed"], whole)


def test_three_contexts_put_each_replys_own_context_first():
    """'contexts' losses over a 3 x 3 matrix of prompt i and reply j: reply j's own context is i = j, the others follow."""
    logps = -(torch.arange(1.0, 10)[:, None] ** 1.5)  # (9, 1), prompt by prompt
    got = apply_loss(
        losses.context_infonce, {"temperature": 2.0}, logps, torch.ones(9, 1), None
    )
    matrix = logps.reshape(3, 3) / 2.0
    by_hand = [torch.logsumexp(matrix[:, j], 0) - matrix[j, j] for j in range(3)]
    assert_close(got, torch.stack(by_hand))


# ---- batches by tokens -----------------------------------------------------------------------------------------------


def test_token_batches_hold_every_row_once_and_keep_the_budget():
    lengths = [3, 50, 7, 7, 120, 9, 4, 30, 31, 8] * 20
    batches = preferences.TokenBatches(lengths, budget=60, seed=1, window=100)
    first, second = list(batches), list(batches)
    for epoch in (first, second):
        assert sorted(i for batch in epoch for i in batch) == list(range(200))
        assert all(
            len(b) * max(lengths[i] for i in b) <= 60 for b in epoch if len(b) > 1
        )
    assert first != second and len(batches) == len(first)
    assert (
        list(preferences.TokenBatches(lengths, budget=60, seed=1, window=100)) == first
    )
    padded = sum(len(b) * max(lengths[i] for i in b) for b in first)
    assert padded < 1.1 * sum(lengths)  # little is padding


@pytest.mark.parametrize("share", [True, False])
def test_the_budget_counts_what_is_computed(make, rows, share):
    """Shared: each prompt once. Separate: every reply with its own, padded to the batch's longest."""
    trainer = make(
        k_negatives(rows, 3), "infonca", batch_tokens=300, share_prompts=share
    )
    sizes = [
        batch["input_ids"].numel()
        for batch in trainer.get_train_dataloader()
        if len(batch["tokens"]) > 4
    ]
    assert sizes and max(sizes) <= 300


def test_training_by_tokens(make, rows):
    trainer = make(rows, batch_tokens=120, max_steps=-1, num_train_epochs=2)
    trainer.train()
    sizes = [len(b) for b in trainer.get_train_dataloader().batch_sampler]
    assert len(log(trainer)) >= 2 * len(sizes) - 2 and min(sizes) < max(sizes)
    assert log(trainer)[0] == pytest.approx(0.693147, abs=1e-4)
    with pytest.raises(ValueError, match="batch_tokens must be at least 1"):
        make(rows, batch_tokens=0)


@pytest.mark.parametrize("faster", [True, False])
def test_comparing_both_ways_leaves_no_trace_but_the_faster_way(
    make, rows, monkeypatch, faster
):
    """As on a GPU; a loss with running moments and an adapter with dropout, so that a trace would show."""
    lora = LoraConfig(
        r=4, target_modules=["q_proj"], task_type="CAUSAL_LM", lora_dropout=0.3
    )

    def trained(**settings):
        trainer = make(
            rows, "alphadpo", peft_config=lora, disable_dropout=False, **settings
        )
        trainer.train()
        return trainer, torch.cat(
            [p.detach().flatten() for p in trainer.model.parameters()]
        )

    def pays(step, sync):
        step(True)
        step(False)
        return faster

    monkeypatch.setattr(shared_prompt, "pays", pays)
    plain, want = trained(compare_sharing=False, share_prompts=faster)
    tried, got = trained(compare_sharing=True)
    assert plain.shares_prompts is tried.shares_prompts is faster
    assert_close(got, want, rtol=0, atol=0)
    assert log(plain) == log(tried)


def test_what_is_timed_is_what_trains(make, rows, caplog):
    """With the model's own precision and checkpointing, and with nothing replaced."""
    trainer, seen = (
        make(rows, compare_sharing=True, bf16=True, activation_checkpointing=True),
        [],
    )
    model = trainer.model
    layer = model.model.layers[0].mlp.up_proj
    layer.register_forward_hook(
        lambda module, args, out: seen.append(
            (out.dtype, model.is_activation_checkpointing)
        )
    )
    trainer.train()
    assert set(seen) == {(torch.bfloat16, True)}
    assert "s with shared prompts and" in caplog.text


def test_a_comparison_that_runs_out_of_memory_leaves_no_trace(make, rows, monkeypatch):
    def pays(step, sync):
        step(True)
        raise torch.OutOfMemoryError("too much")

    monkeypatch.setattr(shared_prompt, "pays", pays)
    trainer = make(rows, "alphadpo", compare_sharing=True)
    with pytest.raises(torch.OutOfMemoryError):
        trainer.train()
    assert trainer.moments.values is None and not trainer.metrics.means()
    assert all(p.grad is None for p in trainer.model.parameters())


@pytest.mark.parametrize(
    "settings", [{}, {"activation_checkpointing": True}], ids=["plain", "checkpointing"]
)
@pytest.mark.parametrize("loss", ["rmipo", "infonca", "dpo-lora"])
def test_shared_prompts_train_as_separate_rows_do(make, rows, loss, settings):
    lora = (
        LoraConfig(r=4, target_modules=["q_proj", "o_proj"], task_type="CAUSAL_LM")
        if "lora" in loss
        else None
    )
    data, name = (
        (k_negatives(rows, 4) if loss == "infonca" else rows),
        loss.removesuffix("-lora"),
    )
    shared, apart = (
        make(data, name, peft_config=lora, share_prompts=share, **settings)
        for share in (True, False)
    )
    for trainer in (shared, apart):
        trainer.train()
    assert shared.shares_prompts and not apart.shares_prompts
    assert_close(
        torch.tensor(log(shared)), torch.tensor(log(apart)), atol=1e-4, rtol=1e-4
    )
    for (name, a), b in zip(
        shared.model.named_parameters(), apart.model.parameters(), strict=True
    ):
        assert_close(
            a, b, atol=2e-4, rtol=0, msg=name
        )  # six steps of at most 2e-3 each


def test_a_model_that_cannot_share_trains_with_separate_rows_and_says_so(
    make, rows, base, caplog
):
    eager = copy.deepcopy(base)
    eager.set_attn_implementation("eager")
    trainer = make(rows, model=eager)
    assert (
        "every reply is computed with its own prompt" in caplog.text
        and "'eager'" in caplog.text
    )
    trainer.train()
    assert (
        log(trainer)[0] == pytest.approx(0.693147, abs=1e-5) and log(trainer)[-1] < 0.69
    )


@pytest.mark.parametrize("large", [False, True])
def test_half_precision_starts_at_log_2(make, rows, monkeypatch, large):
    """Policy and reference round alike, the LM head too, whether in one piece or in chunks: off by less than 1e-3."""
    if large:
        monkeypatch.setattr(reply_logps, "LARGE", 10)
        monkeypatch.setattr(reply_logps, "CHUNK", 4 * 400)
    dtypes = []
    trainer = make(rows, bf16=True, max_steps=1)
    trainer.model.get_output_embeddings().register_forward_hook(
        lambda module, args, out: dtypes.append(out.dtype)
    )
    trainer.train()
    assert set(dtypes) == {torch.bfloat16}
    assert log(trainer)[0] == pytest.approx(0.693147, abs=1e-3)


# ---- several GPUs ----------------------------------------------------------------------------------------------------


def test_a_box_with_eight_gpus_trains_on_one(make, rows):
    """As where one process sees eight cards: transformers counts them in `_n_gpu`, and would multiply the batch by it."""
    one, eight = make(rows[:10]), make(rows[:10])
    eight.args._n_gpu = 8
    assert eight.args.n_gpu == 1 and eight.args.train_batch_size == 5
    for trainer in (one, eight):
        trainer.train()
    assert not isinstance(eight.model_wrapped, torch.nn.DataParallel) and log(
        eight
    ) == log(one)
    eight.args._n_gpu = 0
    assert eight.args.n_gpu == 0
