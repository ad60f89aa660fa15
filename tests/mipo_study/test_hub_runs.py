"""Runs of real models in miniature: training in one process and two, resuming, adapters, replies, pairs, verdicts."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import chat_tokenizers
import pytest
import torch
from hub_fixtures import parrot, roomy
from safetensors.torch import load_file

from mipo import cache, files
from mipo.evaluate import reference_free
from mipo.lm import batches
from mipo.lm.sampling import Reply
from mipo.losses import simpo
from mipo_study import methods
from mipo_study.hub import benchmarks, download, protocol, scores, serving, train
from mipo_study.hub import runs as real
from mipo_study.hub.download import Place

pytestmark = pytest.mark.long

DPO, RMIPO = (
    (name, protocol.setting_of("preferences", name)) for name in ("dpo", "rmipo")
)
MIPO = ("dpo", protocol.setting_of("people", "mipo-random"))
TALK = {"chosen": "Yes, I will bring bread.", "rejected": "No."}
SETTINGS = dict(
    lr=1e-3,
    epochs=2,
    batch_size=4,
    micro_batch=2,
    max_length=200,
    lora_rank=0,
    seed=0,
    save_every=100,
    progress=False,
)
HI = {"query": "Hi", "context": ""}
GREEDY = {"temperature": 0.0, "top_p": 1.0, "max_new_tokens": 5}


@pytest.fixture
def base(tiny_model_dir):
    return Place(str(tiny_model_dir), tiny_model_dir)


@pytest.fixture
def made(tmp_path):
    rows = [
        {
            "prompt": [{"role": "user", "content": f"Bring bread {i}?"}],
            "chosen": [
                {"role": "assistant", "content": TALK["chosen"] + "!" * (i % 3)}
            ],
            "rejected": [{"role": "assistant", "content": TALK["rejected"] + "." * i}],
        }
        for i in range(12)
    ]
    return real.labelled_pairs(tmp_path / "run", rows)


def weights(record):
    return load_file(record.path / "model" / "model.safetensors")


def losses(record):
    return [row["loss"] for row in json.loads((record.path / "log.json").read_text())]


def test_training_starts_at_log_2_and_is_found_again(base, made, tmp_path):
    first = real.train_policy(tmp_path / "run", *DPO, base, made, **SETTINGS)
    assert (
        first.fresh
        and first.metrics["steps"] == 6
        and first.metrics["first_loss"] == pytest.approx(0.6931, abs=1e-4)
    )
    assert losses(first)[-1] < losses(first)[0] and not list(
        (tmp_path / "run" / "checkpoints").glob("*/checkpoint-*")
    )
    smaller = {
        **SETTINGS,
        "micro_batch": 1,
        "checkpointing": False,
    }  # how it is computed is not part of the key
    assert not real.train_policy(tmp_path / "run", *DPO, base, made, **smaller).fresh
    assert real.train_policy(
        tmp_path / "run",
        *DPO,
        base,
        made,
        **{**SETTINGS, "seed": 1},
    ).fresh


def test_smaller_pieces_give_the_same_run(tiny_qwen2, made, tmp_path):
    """Tolerance: sums of float32 in another order, over six steps."""
    base, runs = Place(str(tiny_qwen2), tiny_qwen2), []
    for i, pieces in enumerate(
        (
            {"micro_batch": 4},
            {"micro_batch": 1},
            {"micro_batch": 2, "checkpointing": False},
        )
    ):
        runs.append(
            real.train_policy(
                tmp_path / f"{i}",
                *RMIPO,
                base,
                made,
                **{**SETTINGS, **pieces},
            )
        )
    for other in runs[1:]:
        assert losses(other) == pytest.approx(losses(runs[0]), abs=2e-4)


def test_a_cut_run_goes_on_from_its_checkpoint(tiny_qwen2, made, tmp_path, monkeypatch):
    base = Place(str(tiny_qwen2), tiny_qwen2)
    whole = real.train_policy(tmp_path / "whole", *DPO, base, made, **SETTINGS)
    steps, original = [], train.PreferenceTrainer.training_step

    def count(self, *args, **kwargs):
        steps.append(self.state.global_step)
        if len(steps) == 9:  # in the fifth of six steps
            raise KeyboardInterrupt
        return original(self, *args, **kwargs)

    monkeypatch.setattr(train.PreferenceTrainer, "training_step", count)
    settings = {**SETTINGS, "save_every": 2}
    with pytest.raises(KeyboardInterrupt):
        real.train_policy(tmp_path / "run", *DPO, base, made, **settings)
    assert not list((tmp_path / "run" / "runs").glob("train-*"))
    kept = list((tmp_path / "run" / "checkpoints").glob("*/checkpoint-*"))
    assert [p.name for p in kept] == ["checkpoint-4"]
    (kept[0].parent / "checkpoint-9").mkdir()  # cut while it was written
    again = real.train_policy(tmp_path / "run", *DPO, base, made, **settings)
    assert steps[9:] == [4, 4, 5, 5] and again.metrics["steps"] == 6
    assert not list((tmp_path / "run" / "checkpoints").glob("*/checkpoint-*"))
    for name, value in weights(whole).items():
        torch.testing.assert_close(weights(again)[name], value, atol=1e-6, rtol=0)


def test_two_processes_do_as_one(tiny_llama, made, tmp_path):
    """DDP on two CPU processes, each with half of the batch, against one with all of it: losses within 1e-4 nats, weights
    within 1e-4 (Adam divides by gradients near zero, where the order of sums shows)."""
    base = Place(str(tiny_llama), tiny_llama)
    one = real.train_policy(tmp_path / "one", *DPO, base, made, **SETTINGS)
    two = real.train_policy(
        tmp_path / "two",
        *DPO,
        base,
        made,
        **SETTINGS,
        launcher="configs/accelerate/two-cpus.yaml",
    )
    assert (one.metrics["processes"], two.metrics["processes"]) == (1, 2)
    assert one.metrics["steps"] == two.metrics["steps"] == 6
    assert losses(two) == pytest.approx(losses(one), abs=1e-4)
    for name, value in weights(one).items():
        torch.testing.assert_close(weights(two)[name], value, atol=1e-4, rtol=0)


def test_adapters_are_saved_alone_and_put_on_again(tiny_qwen2, made, tmp_path):
    base = Place(str(tiny_qwen2), tiny_qwen2)
    tuned = real.train_policy(
        tmp_path / "run", *RMIPO, base, made, **{**SETTINGS, "lora_rank": 4, "lr": 1e-2}
    )
    assert (tuned.path / "model" / "adapter_config.json").is_file() and not (
        tuned.path / "model" / "config.json"
    ).exists()
    model, tokenizer = train.load(tuned.path / "model", dtype="float32", device="cpu")
    before, _ = train.load(tiny_qwen2, dtype="float32", device="cpu")
    ids = tokenizer("Bring bread", return_tensors="pt")
    assert (model(**ids).logits - before(**ids).logits).abs().max() > 1e-3
    with model.disable_adapter():
        torch.testing.assert_close(model(**ids).logits, before(**ids).logits)


def test_a_run_that_diverges_is_a_result(tiny_qwen2, made, tmp_path):
    base = Place(str(tiny_qwen2), tiny_qwen2)
    gone = real.train_policy(tmp_path, *DPO, base, made, **{**SETTINGS, "lr": 1e38})
    assert (
        "learning rate" in gone.metrics["failed"] and not (gone.path / "model").exists()
    )


def test_steps_that_bfloat16_rounds_away():
    """Weights of 1.0 lie 2^-7 apart above one: a quarter of that is lost, and 2^-7 itself is kept whole."""
    one, tiny, step = (torch.nn.Linear(4, 4, bias=False) for _ in range(3))
    for layer, value in ((one, 1.0), (tiny, 1 + 2**-9), (step, 1 + 2**-7)):
        torch.nn.init.constant_(layer.weight, value)
    assert (
        train.kept_update(one, tiny) == 0
        and train.kept_update(one, step) == 1
        and train.kept_update(one, one) == 1
    )


@pytest.mark.parametrize("kind", ["random_context", "missing_context", "random_prompt"])
def test_negatives(kind):
    examples = [{"query": f"q{i}", "context": f"c{i % 4}"} for i in range(40)]
    drawn = real.negatives_of(examples, kind, seed=1)
    assert drawn == real.negatives_of(examples, kind, seed=1) and len(drawn) == 40
    if kind == "random_prompt":
        assert all(d != e for d, e in zip(drawn, examples, strict=True))
        assert all(d in examples for d in drawn)
        return
    assert [d["query"] for d in drawn] == [e["query"] for e in examples]
    contexts = {d["context"] for d in drawn}
    assert contexts == ({""} if kind == "missing_context" else {"c0", "c1", "c2", "c3"})
    if kind == "random_context":  # the own context is allowed: about a quarter
        own = [d["context"] == e["context"] for d, e in zip(drawn, examples)]
        assert 3 <= sum(own) <= 20


def test_two_examples_are_the_least_for_random_prompts():
    with pytest.raises(ValueError, match="more than 1 examples, got 1"):
        real.negatives_of([{"query": "q", "context": ""}], "random_prompt", 0)


def test_pairs_replies_and_measures(tiny_qwen2, examples_list, tmp_path, monkeypatch):
    """Sampled pairs of people train, their replies are measured, and everything is found again."""
    base = Place(str(tiny_qwen2), tiny_qwen2)
    examples = [
        {**r, "wishes": [r["context"]], "person": r["context"]} for r in examples_list
    ]
    common = dict(seed=0, progress=False)
    sampling = {"temperature": 1.0, "top_p": 1.0, "max_new_tokens": 5}
    made = real.make_pairs(
        tmp_path, base, examples, "random_context", sampling=sampling, **common
    )
    rows = real.read_pairs(made)
    assert made.metrics["pairs"] + made.metrics["left_out"] == 20 and rows[0]["prompt"][
        0
    ]["content"].endswith(examples[0]["query"])
    _, tokenizer = real.model_of(base)
    text = train.rows_of(made.path / real.PAIRS, tokenizer)
    for row, trained in zip(rows, text, strict=True):
        for side in ("chosen", "rejected"):
            said = tokenizer.decode(row[f"{side}_tokens"], skip_special_tokens=True)
            assert said == row[side][0]["content"] == trained[side]
            assert trained[f"{side}_tokens"] == row[f"{side}_tokens"]
    tuned = real.train_policy(tmp_path, *MIPO, base, made, **SETTINGS)
    answered = real.make_replies(tmp_path, tuned, examples, sampling=sampling, **common)
    assert len(real.read_replies(answered)) == 20
    _, tokenizer = real.model_of(tuned)
    ends = [tokenizer.eos_token_id]
    unfinished = [ids[-1] not in ends for ids in real.read_ids(answered)]
    assert answered.metrics["cut"] == sum(unfinished) / 20 > 0
    assert 0 <= answered.metrics["respelt"] <= 1
    found = scores.measure(
        tmp_path, tuned, base, examples, answered, contexts=3, **common
    )
    assert (
        found.metrics["chance"] == pytest.approx(1 / 3)
        and max(found.metrics["pmi"], found.metrics["pmi_base"]) <= 1.0987
    )
    assert not scores.measure(
        tmp_path, tuned, base, examples, answered, contexts=3, **common
    ).fresh
    asked, original = [], reference_free.under_contexts
    monkeypatch.setattr(
        reference_free,
        "under_contexts",
        lambda *args, **how: asked.append(1) or original(*args, **how),
    )
    plain = scores.measure(
        tmp_path, base, base, examples, answered, contexts=3, **common
    ).metrics
    assert (
        len(asked) == 1
        and plain["pmi"] == plain["pmi_base"] == found.metrics["pmi_base"]
    )  # one yardstick, used once
    assert (
        files.read_json(found.path / "scores.json")["pmi"]
        != files.read_json(found.path / "scores.json")["pmi_base"]
    )


def test_what_was_measured_is_found_without_the_files(
    tiny_qwen2, examples_list, tmp_path, monkeypatch
):
    """The folders are gone, as on another machine: no model is loaded, none trained."""
    base = Place(str(tiny_qwen2), tiny_qwen2)
    examples = [{**e, "person": e["context"]} for e in examples_list]
    sampling = {"temperature": 1.0, "top_p": 1.0, "max_new_tokens": 5}
    how = {"seed": 0, "sampling": sampling, "progress": False}

    def study():
        pairs = real.make_pairs(tmp_path, base, examples, "random_context", **how)
        policy = real.train_policy(tmp_path, *MIPO, base, pairs, **SETTINGS)
        replies = real.make_replies(tmp_path, policy, examples, **how)
        run = scores.measure(
            tmp_path, policy, base, examples, replies, contexts=3, progress=False
        )
        return policy, real.read_replies(replies), run.read("scores.json")

    first, *texts = study()
    shutil.rmtree(tmp_path / "runs")
    real.release()
    with monkeypatch.context() as patch:
        patch.setattr(train, "load_model", lambda *_, **__: 1 / 0)
        again, *same = study()
    assert same == texts and again.metrics == first.metrics
    assert json.loads(again.read("log.json"))[-1]["loss"] == first.metrics["last_loss"]
    assert (again.path / "model").is_dir(), "asked for, it is made again"
    assert weights(again).keys()


def test_rank_is_the_share_of_pairs_in_order(tiny_qwen2, tmp_path):
    base = Place(str(tiny_qwen2), tiny_qwen2)
    rows = [
        {
            "prompt": [{"role": "user", "content": "Hi"}],
            "chosen": [{"role": "assistant", "content": a}],
            "rejected": [{"role": "assistant", "content": b}],
            "read_from": "r",
        }
        for a, b in (("Yes.", "No, never."), ("No, never.", "Yes."))
    ]
    found = scores.rank(tmp_path, base, rows, progress=False)
    mean = files.read_json(found.path / "scores.json")["mean"]
    assert (
        mean[0] == pytest.approx(mean[1][::-1], abs=1e-5)
        and found.metrics["accuracy"] == 0.5
    )
    assert not scores.rank(tmp_path, base, rows, progress=False).fresh
    many = scores.rank(tmp_path, base, rows * 250, progress=False)
    assert (
        len(files.read_json(many.path / "scores.json")["mean"]) == 500
    )  # none is left out


def test_a_talk_is_asked_and_judged_whole(tiny_qwen2):
    talk = [
        {"role": "user", "content": "Hi, I am Ann."},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "Who am I?"},
    ]
    (asked,) = real.as_examples([{"prompt": talk, "read_from": "row 0"}], "preferences")
    _, tokenizer = train.load(tiny_qwen2, dtype="float32", device="cpu")
    text = real.prompt_text(tokenizer, asked)
    assert [m["content"] in text for m in talk] == [True] * 3 and text.count(
        "assistant"
    ) == 2
    assert (
        "I am Ann" in asked["query"] and "Who am I" in asked["query"]
    )  # what the judge reads
    one = {"query": "Hi", "context": "c"}
    assert real.as_examples([one], "people") == [one] and "c\n\nHi" in real.prompt_text(
        tokenizer, one
    )


def test_a_judge_out_of_form_says_so_and_what_it_said_is_kept(
    tiny_qwen2, examples_list, tmp_path
):
    place = Place("tiny", roomy(tiny_qwen2, tmp_path / "judge"))
    base = Place(str(tiny_qwen2), tiny_qwen2)
    examples = [{**r, "wishes": ["short"], "person": "p"} for r in examples_list[:3]]
    sides = [
        real.make_replies(
            tmp_path,
            base,
            examples,
            seed=s,
            progress=False,
            sampling={"temperature": 1.0, "top_p": 1.0, "max_new_tokens": 4},
        )
        for s in (0, 1)
    ]
    with pytest.raises(
        ValueError, match="judge .*answers are not in the form.*-p judge"
    ):
        scores.judged(tmp_path, place, examples, *sides, progress=False)
    assert (
        sum(len(f.read_text().splitlines()) for f in (tmp_path / "verdicts").iterdir())
        == 6
    )


def test_a_corrected_gold_reply_is_judged_anew(tiny_qwen2, examples_list, tmp_path):
    """What the judge said is cached by its text; the record of it knows the gold replies that it was compared with."""
    place, base = (
        Place("parrot", parrot(tiny_qwen2, tmp_path / "judge")),
        Place(str(tiny_qwen2), tiny_qwen2),
    )
    examples = [{**r, "wishes": ["short"], "gold": "Good."} for r in examples_list[:2]]
    sides = [
        real.make_replies(
            tmp_path, base, examples, seed=s, progress=False, sampling=GREEDY
        )
        for s in (0, 1)
    ]
    common = dict(rated=True, missing=0, progress=False)
    assert scores.judged(tmp_path, place, examples, *sides, **common).fresh
    assert not scores.judged(tmp_path, place, examples, *sides, **common).fresh
    for field, value in (("gold", "Better."), ("wishes", ["long"])):
        assert scores.judged(
            tmp_path, place, [{**r, field: value} for r in examples], *sides, **common
        ).fresh, field


def test_one_model_is_held_at_a_time_and_loaded_once(
    tiny_qwen2, tiny_llama, tmp_path, monkeypatch
):
    loads, original = [], train.load
    monkeypatch.setattr(
        train, "load", lambda path, **how: loads.append(path) or original(path, **how)
    )
    real.release()
    places = [Place(str(folder), folder) for folder in (tiny_qwen2, tiny_llama)]
    for place in (places[0], places[0], places[1], places[0]):
        real.model_of(place)
    assert loads == [tiny_qwen2, tiny_llama, tiny_qwen2]
    local = shutil.copytree(tiny_qwen2, tmp_path / "m")
    first = real.model_of(Place("m", local))
    assert len(loads) == 3  # a copy is the same model
    (local / "generation_config.json").write_text("{}")  # now it is another
    assert real.model_of(Place("m", local)) is not first and loads[3:] == [local]


def test_weights_that_were_changed_do_not_go_on_from_old_checkpoints(
    tiny_qwen2, made, tmp_path, monkeypatch
):
    """A run was cut; the model in its folder is replaced, the pairs are the same: the next run starts at its first step."""
    local = Path(shutil.copytree(tiny_qwen2, tmp_path / "m"))
    settings, original, steps = (
        {**SETTINGS, "save_every": 2},
        train.PreferenceTrainer.training_step,
        [],
    )

    def cut(self, *args, **kwargs):
        steps.append(self.state.global_step)
        if len(steps) == 7:  # two pieces a step: in the fourth of six
            raise KeyboardInterrupt
        return original(self, *args, **kwargs)

    monkeypatch.setattr(train.PreferenceTrainer, "training_step", cut)
    with pytest.raises(KeyboardInterrupt):
        real.train_policy(tmp_path / "run", *DPO, Place("m", local), made, **settings)
    model, _ = train.load(local, dtype="float32", device="cpu")
    with torch.no_grad():
        model.lm_head.weight.mul_(1.5)
    model.save_pretrained(local)
    real.train_policy(tmp_path / "run", *DPO, Place("m", local), made, **settings)
    assert steps[7:] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]


def test_out_of_memory_is_one_message(base, examples_list, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise torch.cuda.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 20.00 MiB"
        )

    real.release()  # another test may have asked for this model
    monkeypatch.setattr(train, "load", full)
    with pytest.raises(
        download.Unavailable, match="out of memory.*sample_batch.*Finished work is kept"
    ):
        real.make_replies(
            tmp_path, base, examples_list, seed=0, sampling=GREEDY, progress=False
        )


def test_the_engine_is_chosen_once_and_is_part_of_what_a_reply_is(
    base, examples_list, tmp_path, monkeypatch
):
    timed, used = [], []
    monkeypatch.setattr(
        serving,
        "choose",
        lambda *_, **how: timed.append(how["names"][0]) or "continuous",
    )
    monkeypatch.setattr(
        serving,
        "sample",
        lambda model, tokenizer, prompts, *, engine, **_: (
            used.append(engine) or [Reply(engine, [1], True)] * len(prompts)
        ),
    )
    common = dict(sampling=GREEDY, batch_size=2)
    assert [
        real.engine_of(tmp_path, base, examples_list, **common) for _ in range(2)
    ] == ["continuous"] * 2
    smaller = dict(
        common, batch_size=1
    )  # who runs out of memory keeps the engine, and with it the replies
    assert real.engine_of(tmp_path, base, examples_list, **smaller) == "continuous"
    assert (
        timed == ["example 0"]
        and real.engine_of(tmp_path, base, examples_list, engine="batched", **common)
        == "batched"
    )
    ways = [
        real.make_replies(
            tmp_path,
            base,
            examples_list,
            seed=0,
            progress=False,
            sampling=GREEDY | {"engine": engine},
        )
        for engine in ("batched", "continuous", "batched")
    ]
    assert (
        used == ["batched", "continuous"] and ways[0].key == ways[2].key != ways[1].key
    )
    with pytest.raises(ValueError, match="choose one of auto, batched, continuous"):
        real.engine_of(tmp_path, base, examples_list, engine="fast", **common)


@pytest.mark.parametrize(
    "full", ["train.jsonl", "replies.json", "log.json", "run.json"]
)
def test_a_full_disk_is_one_message_wherever_it_strikes(
    full, base, made, examples_jsonl, tmp_path, fill_disk
):
    fill_disk(full)
    steps = {
        "data": lambda: real.data(tmp_path, str(examples_jsonl), n_train=0, n_test=6),
        "replies": lambda: real.make_replies(
            tmp_path, base, [HI], seed=0, sampling=GREEDY, progress=False
        ),
        "labelled": lambda: real.labelled_pairs(
            tmp_path / "new", [{"prompt": "p", "chosen": "c", "rejected": "r"}]
        ),
        "train": lambda: real.train_policy(tmp_path, *DPO, base, made, **SETTINGS),
    }
    struck = {
        "train.jsonl": ("data", "labelled"),
        "replies.json": ("replies",),
        "log.json": ("train",),
        "run.json": ("data", "replies", "labelled", "train"),
    }
    for step in struck[full]:
        with pytest.raises(
            download.Unavailable, match="disk is full.*run_dir.*Finished work is kept"
        ):
            steps[step]()


def test_what_has_no_room_is_left_out_and_counted(tiny_qwen2):
    """One token less of room at each limit in turn; what a text comes to is counted by the tokenizer itself."""
    _, tokenizer = train.load(tiny_qwen2, dtype="float32", device="cpu")

    def row(words, reply="Yes."):
        return {
            "prompt": [{"role": "user", "content": "book " * words}],
            "chosen": [{"role": "assistant", "content": reply}],
            "rejected": [{"role": "assistant", "content": "No."}],
            "read_from": "r",
        }

    def count(text):
        return len(tokenizer(text)["input_ids"])

    short, long, talkative = row(4), row(40), row(4, "Yes! " * 60)
    asked, most = (
        count(real.prompt_text(tokenizer, real.as_examples([r], "preferences")[0]))
        for r in (short, long)
    )
    told = count(talkative["chosen"][0]["content"]) + 1  # and the end
    assert most + 10 < asked + told
    rows = benchmarks.Data(
        "preferences", [short, long, talkative], [short, long, talkative], {"repo": "x"}
    )

    def kept(found=rows, *room, new=10, max_length=10_000):
        fitted = real.that_fit(
            found, tokenizer, *room, max_new_tokens=new, max_length=max_length
        )
        assert fitted.source == {
            "repo": "x",
            "no_room": {
                "train": len(found.train) - len(fitted.train),
                "test": len(found.test) - len(fitted.test),
            },
        }
        return fitted.train, fitted.test

    assert kept() == (rows.train, rows.test)  # nothing is known of the contexts
    assert (
        kept(max_length=most) == ([short, talkative], rows.test)
        and kept(max_length=most + 1)[0] == rows.train
    )
    assert (
        kept(rows, most + 10)[0] == rows.train
    )  # replies to train on are sampled, or cut
    assert kept(rows, most + 9)[0] == [short, talkative]
    assert kept(rows, asked + told)[1] == rows.test and kept(rows, asked + told - 1)[
        1
    ] == [short, long]
    judge = int(1.25 * (asked + 20) + 301)
    assert kept(rows, None, judge) == (
        rows.train,
        [short, talkative],
    )  # the judge reads the test only
    with pytest.raises(
        ValueError,
        match="no train prompt leaves room for 10 tokens.*max_length 5.*raise max_length",
    ):
        kept(max_length=5)


@pytest.mark.parametrize("kind", ["qwen3", "llama2", "phi"])
def test_rows_count_as_they_are_trained_on(kind):
    """An empty thought, or a space before the end, takes room as well."""
    tokenizer = chat_tokenizers.build(kind, adds_end=True)
    row = {
        "prompt": [{"role": "user", "content": "What is a loan?"}],
        "chosen": [{"role": "assistant", "content": "Yes, I do."}],
        "rejected": [{"role": "assistant", "content": "No."}],
        "read_from": "r",
    }
    (rows,) = batches.prepare(
        [row],
        tokenizer,
        SimpleNamespace(config=SimpleNamespace()),
        simpo,
        name="pairs",
        max_length=None,
        reference=lambda rows: None,
    ).sets
    head, longest = rows[0][0], max(len(tail) for _, tail in rows)
    found = benchmarks.Data("preferences", [row], [row], {})
    how = dict(max_new_tokens=1, max_length=len(head) + 1)
    room = len(head) + longest
    assert real.that_fit(found, tokenizer, room, **how).test == [row]
    with pytest.raises(ValueError, match="no test prompt"):
        real.that_fit(found, tokenizer, room - 1, **how)
    with pytest.raises(ValueError, match="no train prompt"):
        real.that_fit(found, tokenizer, room, max_new_tokens=1, max_length=len(head))


def test_people_need_room_for_two_contexts(tiny_qwen2):
    """Each message is asked in another person's context as well, which may be longer than its own."""
    _, tokenizer = train.load(tiny_qwen2, dtype="float32", device="cpu")
    one = {"query": "Hi", "context": "a nurse", "person": "a"}
    asked = len(tokenizer(real.prompt_text(tokenizer, one))["input_ids"])
    found = benchmarks.Data("people", [one], [one], {})
    how = dict(max_new_tokens=7, max_length=asked + 1)
    assert real.that_fit(found, tokenizer, 2 * asked + 7, **how).train == [one]
    with pytest.raises(ValueError, match="no train prompt"):
        real.that_fit(found, tokenizer, 2 * asked + 6, **how)


def test_a_model_s_own_context_is_the_most_a_pair_may_have(tiny_qwen2, tmp_path):
    """256 positions: a reply is cut there though max_length allows more."""
    base = Place(str(tiny_qwen2), tiny_qwen2)
    rows = [
        {
            "prompt": [{"role": "user", "content": "Hi"}],
            "chosen": [{"role": "assistant", "content": "Yes! " * 300}],
            "rejected": [{"role": "assistant", "content": "No."}],
        }
    ] * 4
    made = real.labelled_pairs(tmp_path, rows)
    tuned = real.train_policy(
        tmp_path,
        *DPO,
        base,
        made,
        **{**SETTINGS, "epochs": 1, "max_length": 4096},
    )
    assert tuned.metrics["steps"] == 1 and tuned.metrics["lr"] == 1e-3


def test_adapters_take_ten_times_the_published_rate(
    tiny_qwen2, made, tmp_path, monkeypatch
):
    rates, base = [], Place(str(tiny_qwen2), tiny_qwen2)

    def train_policy(*_, lr, **__):
        rates.append(lr)
        return cache.Run({"lr": lr}, tmp_path, "key", 0.0, True)

    monkeypatch.setattr(real, "train_policy", train_policy)
    rows = benchmarks.Data(
        "preferences", [{"prompt": "p", "chosen": "c", "rejected": "r"}], []
    )
    for rank, lr in ((0, 0.0), (16, 0.0), (16, 0.25)):
        run = real.train_method(
            tmp_path,
            base,
            rows,
            "rmipo",
            seed=0,
            sampling=GREEDY,
            lr=lr,
            lora_rank=rank,
            progress=False,
        )
        assert run.metrics["pairs"] == 1 and run.metrics["left_out"] == 0
    assert rates == pytest.approx([1e-6, 1e-5, 0.25])


def test_methods_by_name():
    assert protocol.methods_for("people") == ["mipo-random"] and protocol.methods_for(
        "reasoning", ["all"]
    ) == ["mipo", "sft"]
    both = ["mipo-missing", "rmipo"]  # for sets of two kinds
    assert protocol.methods_for("people", both) == [
        "mipo-missing"
    ] and protocol.methods_for("preferences", both) == ["rmipo"]
    with pytest.raises(
        ValueError,
        match=r"\['mipo-randon'\]: people data take mipo-random, mipo-missing, sft",
    ):
        protocol.methods_for("people", ["mipo-randon", "sft"])
    with pytest.raises(ValueError, match="reasoning data take mipo, sft"):
        protocol.methods_for("reasoning", ["dpo"])


def test_data_is_a_run(examples_jsonl, tmp_path):
    first = real.data(tmp_path, str(examples_jsonl), n_train=0, n_test=6)
    again = real.data(tmp_path, str(examples_jsonl), n_train=0, n_test=6)
    assert (
        first.train == again.train
        and first.kind == "people"
        and first.source["people"] == 5
    )
    assert not {r["person"] for r in first.train} & {r["person"] for r in first.test}


def test_a_judge_that_takes_the_first_and_rates_all_alike(
    tiny_qwen2, examples_list, tmp_path
):
    place, base = (
        Place("parrot", parrot(tiny_qwen2, tmp_path / "judge")),
        Place(str(tiny_qwen2), tiny_qwen2),
    )
    examples = [
        {**r, "wishes": ["short", "kind"], "person": "p"} for r in examples_list[:4]
    ]
    sides = [
        real.make_replies(
            tmp_path,
            base,
            examples,
            seed=s,
            progress=False,
            sampling={"temperature": 1.0, "top_p": 1.0, "max_new_tokens": 4},
        )
        for s in (0, 1)
    ]
    found = scores.judged(tmp_path, place, examples, *sides, rated=True, progress=False)
    assert (
        found.metrics["tie"],
        found.metrics["position"],
        found.metrics["agreement"],
    ) == (1, 1, 0)
    assert (
        found.metrics["released"] == found.metrics["released_base"] == 1
    )  # all rated 1: ties, which win as released
    assert found.metrics["unformed"] == 0
    assert not scores.judged(
        tmp_path, place, examples, *sides, rated=True, progress=False
    ).fresh


def test_a_judge_in_a_folder_is_known_by_its_content(
    tiny_qwen2, examples_list, tmp_path
):
    """The same folder with other weights is another judge: what the first one said does not count for it."""
    place, base = (
        Place("parrot", parrot(tiny_qwen2, tmp_path / "judge")),
        Place(str(tiny_qwen2), tiny_qwen2),
    )
    examples = [{**r, "wishes": ["short"], "person": "p"} for r in examples_list[:2]]
    sides = [
        real.make_replies(
            tmp_path,
            base,
            examples,
            seed=s,
            progress=False,
            sampling={"temperature": 1.0, "top_p": 1.0, "max_new_tokens": 4},
        )
        for s in (0, 1)
    ]
    scores.judged(tmp_path, place, examples, *sides, progress=False)
    (place.path / "notes.txt").write_text("another version")
    assert scores.judged(tmp_path, place, examples, *sides, progress=False).fresh
    assert len(list((tmp_path / "verdicts").iterdir())) == 2


def test_a_rate_that_was_not_published_is_asked_for_before_anything_runs(
    tmp_path, monkeypatch
):
    rows = benchmarks.Data("preferences", [], [])
    monkeypatch.setattr(protocol, "setting_of", lambda *_: methods.Setting())
    with pytest.raises(ValueError, match="^dpo: no learning rate .* give lr$"):
        real.train_method(tmp_path, None, rows, "dpo", seed=0, sampling={})
    assert not [*tmp_path.iterdir()]
