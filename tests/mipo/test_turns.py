"""What is said is what is scored: one way from a conversation to tokens, whatever the model's template."""

import json
from datetime import datetime

import chat_tokenizers
import pytest
import torch
from chat_tokenizers import KINDS, TOKENS, build

from mipo import logprobs, losses, models, pairs, preference_data
from mipo.baselines import reinforce
from mipo.data import render
from mipo.lm import batches, prompts, sampling, tokens

REPLY = "Yes, I do."
OTHER = {"role": "assistant", "content": "No, never."}
every_kind = pytest.mark.parametrize("kind", KINDS)


def by_template(tokenizer, query, reply):
    """Ids of prompt and reply as the template itself has them, the reply to its end.

    The whole conversation is tokenised at once, by transformers; the reply is what the
    generation prompt does not hold, up to the token that ends the turn.
    """
    talk = [{"role": "user", "content": query}]
    answer = [{"role": "assistant", "content": reply}]
    head = tokenizer.apply_chat_template(
        talk, add_generation_prompt=True, return_dict=False
    )
    whole = tokenizer.apply_chat_template(talk + answer, return_dict=False)
    assert whole[: len(head)] == head
    tail = whole[len(head) :]
    return head, tail[: tail.index(turn_end(tokenizer)) + 1]


def turn_end(tokenizer):
    kind = next(
        k for k in KINDS if tokenizer.chat_template == chat_tokenizers.TEMPLATES[k]
    )
    return tokenizer.convert_tokens_to_ids(TOKENS[kind][2])


@every_kind
@pytest.mark.parametrize("adds_end", [False, True])
def test_text_has_the_ids_of_the_same_conversation(kind, adds_end):
    """A tokenizer that closes every text changes nothing: one start, one end.

    Reports: transformers 26891, FastChat 3006 (the word start); vllm 7491, trl 5555 (the added end).
    """
    want = by_template(build(kind), "What is a loan?", REPLY)
    tokenizer = build(kind, adds_end=adds_end)
    prompt = render(tokenizer, "What is a loan?")
    assert tokens.encode(tokenizer, prompt, REPLY) == want
    assert tokens.token_ids(tokenizer, [prompt]) == [want[0]]


@every_kind
@pytest.mark.parametrize("adds_end", [False, True])
def test_messages_train_the_ids_of_the_same_text(kind, adds_end):
    """Reports: unsloth 3110, trl 5824 (an empty thought before the last reply)."""
    tokenizer = build(kind, adds_end=adds_end)

    def turn(role, text):
        return [{"role": role, "content": text}]

    queries = ["What is a loan?", "Recommend a book."]
    talk = [
        {
            "prompt": turn("user", query),
            "chosen": turn("assistant", REPLY),
            "rejected": turn("assistant", "No, never."),
        }
        for query in queries
    ]
    text = [
        {"prompt": render(tokenizer, query), "chosen": REPLY, "rejected": "No, never."}
        for query in queries
    ]
    model = type("Model", (), {"config": type("Config", (), {})()})()
    common = {"name": "pairs", "max_length": None, "reference": lambda rows: None}
    sets = [
        batches.prepare(rows, tokenizer, model, losses.get("simpo"), **common).sets
        for rows in (talk, text)
    ]
    assert sets[0] == sets[1]
    assert sets[0][0][0] == by_template(build(kind), queries[0], REPLY)


@every_kind
def test_a_preference_file_of_messages_has_the_ids_of_the_conversation(kind):
    tokenizer = build(kind)
    row = {
        "prompt": [{"role": "user", "content": "What is a loan?"}],
        "chosen": [{"role": "assistant", "content": REPLY}],
        "rejected": [{"role": "assistant", "content": "No, never."}],
        "read_from": "line 1",
    }
    (text,) = preference_data.as_text([row], tokenizer)
    want = by_template(tokenizer, "What is a loan?", REPLY)
    assert tokens.encode(tokenizer, text["prompt"], text["chosen"]) == want


@every_kind
def test_a_reply_that_has_its_end_gets_no_second(kind):
    tokenizer = build(kind)
    prompt = render(tokenizer, "What is a loan?")
    want = tokens.encode(tokenizer, prompt, REPLY)
    eos, end = TOKENS[kind][1:3]
    around = prompts.wrapping(tokenizer)
    for ends in (eos, end, end + eos, around.after):
        assert tokens.encode(tokenizer, prompt, REPLY + ends) == want


@pytest.mark.parametrize("kind", ["llama3", "mistral", "llama2", "gemma"])
def test_a_start_that_the_text_writes_is_not_doubled(kind):
    """As in a preference file whose prompts were rendered elsewhere.

    Reports: axolotl 1616, reward-bench 164.
    """
    tokenizer, start = build(kind), TOKENS[kind][0]
    prompt = render(tokenizer, "What is a loan?").removeprefix(start)
    plain = tokens.encode(tokenizer, prompt, REPLY)
    assert tokens.encode(tokenizer, start + prompt, REPLY) == plain
    assert plain[0].count(tokenizer.bos_token_id) == 1


@every_kind
def test_other_text_is_joined_as_trl_joins_it(kind):
    """No template rendered it, so nothing is put before the reply, and EOS behind it."""
    tokenizer = build(kind)
    head, tail = tokens.encode(tokenizer, "Write a loan.", " Yes, I do.")
    eos = tokenizer.eos_token
    joint = tokenizer("Write a loan. Yes, I do." + eos)["input_ids"]
    assert head + tail == joint and tail[-1] == tokenizer.eos_token_id


@every_kind
def test_the_first_end_is_that_of_the_turn(kind):
    """Report: trl 7039."""
    tokenizer = build(kind)
    config = type("G", (), {"eos_token_id": [tokenizer.eos_token_id, 7]})()
    model = type("M", (), {"generation_config": config})()
    ends = tokens.end_ids(tokenizer, model)
    assert ends[0] == turn_end(tokenizer)
    assert set(ends) == {turn_end(tokenizer), tokenizer.eos_token_id, 7}
    assert tokens.end_ids(tokenizer)[0] == ends[0]


@every_kind
def test_a_prompt_that_begins_the_reply_ends_its_turn(kind):
    """Its template is the model's, though the prompt does not end as a turn opens."""
    tokenizer = build(kind)
    prompt = render(tokenizer, "What is a loan?") + " Well,"
    _, tail = tokens.encode(tokenizer, prompt, " yes.")
    assert tail[-1] == turn_end(tokenizer)


ZEPHYR = (
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}{{ eos_token }}\n"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


@pytest.mark.parametrize("kind", ["llama2", "mistral", "llama3"])
def test_a_start_that_only_the_tokenizer_writes_stands_before_text_and_messages(kind):
    """As of Zephyr and TinyLlama: the template begins with the user's turn."""
    tokenizer = build(kind)
    tokenizer.chat_template = ZEPHYR
    talk = {
        "prompt": [{"role": "user", "content": "Do you?"}],
        "chosen": [{"role": "assistant", "content": REPLY}],
        "rejected": [{"role": "assistant", "content": "No."}],
    }
    prompt = render(tokenizer, "Do you?")
    text = {"prompt": prompt, "chosen": REPLY, "rejected": "No."}
    rows = [trained_rows([row], tokenizer) for row in (talk, text)]
    head, tail = rows[0][0][0]
    assert rows[0] == rows[1]
    assert head == tokens.token_ids(tokenizer, [prompt])[0]
    assert head[0] == tokenizer.bos_token_id and tokenizer.bos_token_id not in head[1:]
    whole = f"<|user|>\nDo you?{{0}}\n<|assistant|>\n{REPLY}{{0}}"
    assert head + tail == tokenizer(whole.format(tokenizer.eos_token))["input_ids"]


@pytest.mark.parametrize("column", ["prompt", "chosen", "rejected"])
@pytest.mark.parametrize("value", [None, [], [None]])
def test_messages_that_are_none_are_named_with_their_row(column, value):
    row = {
        "prompt": [{"role": "user", "content": "Do you?"}],
        "chosen": [{"role": "assistant", "content": REPLY}],
        "rejected": [{"role": "assistant", "content": "No."}],
    }
    rows = [row, row | {column: value}]
    with pytest.raises(ValueError, match="row 1 of pairs: "):
        trained_rows(rows, build("gemma"))


def test_what_a_template_refuses_is_named_with_its_row():
    """Gemma's has no system turn; another takes only turns that alternate."""
    tokenizer = build("gemma")
    tokenizer.chat_template = (
        "{% if messages[-1]['content'] == 'No.' %}"
        "{{ raise_exception('no such reply') }}{% endif %}"
    ) + tokenizer.chat_template
    row = {
        "prompt": [{"role": "user", "content": "Do you?"}],
        "chosen": [{"role": "assistant", "content": REPLY}],
        "rejected": [{"role": "assistant", "content": "Never."}],
    }
    for column, role in (("prompt", "user"), ("rejected", "assistant")):
        wrong = row | {column: [{"role": role, "content": "No."}]}
        what = r"row 1 of pairs: the model's chat template refuses .*\(no such reply\)"
        with pytest.raises(ValueError, match=what):
            trained_rows([row, wrong], tokenizer)


THINKS = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)
REFUSES = "{{ raise_exception('a system turn must come first') }}"


def test_a_template_that_opens_a_thought_ends_turns_all_the_same():
    """The prompt is written differently once a reply follows (QwQ, DeepSeek-R1)."""
    tokenizer = build("qwen2.5")
    tokenizer.chat_template = THINKS
    prompt = render(tokenizer, "Do you?")
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    head, tail = tokens.encode(tokenizer, prompt, "Yes.</think> Yes.")
    assert tokenizer.decode(head) == prompt
    assert tokenizer.decode(tail) == "Yes.</think> Yes.<|im_end|>"
    assert tokens.end_ids(tokenizer)[0] == end


@pytest.mark.parametrize("template", [None, REFUSES, "no {{ 'place' }} for a reply"])
def test_without_a_template_that_can_be_asked_text_ends_with_the_sequence(template):
    tokenizer = build("gemma")
    tokenizer.chat_template = template
    _, tail = tokens.encode(tokenizer, "Write a loan.", " Yes.")
    assert tail[-1] == tokenizer.eos_token_id
    assert tokens.end_ids(tokenizer) == [tokenizer.eos_token_id]


DATED = (
    "{% if not date_string is defined %}"
    "{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    "<|im_start|>system\nToday: {{ date_string }}<|im_end|>\n"
) + chat_tokenizers.CHATML


def test_a_prompt_does_not_depend_on_the_day(monkeypatch):
    """Llama 3.2's template writes today's date (sglang 3296 has what it falls back on)."""
    from transformers.utils import chat_template_utils

    class Clock:
        day = 1

        @classmethod
        def now(cls):
            return datetime(2031, 5, cls.day)

    monkeypatch.setattr(chat_template_utils, "datetime", Clock)
    tokenizer = build("qwen2.5")
    tokenizer.chat_template = DATED
    talk = [{"role": "user", "content": "Do you?"}]
    reply = [{"role": "assistant", "content": REPLY}]
    rows = [{"prompt": talk, "chosen": reply, "rejected": [OTHER]}]
    model = type("Model", (), {"config": type("Config", (), {})()})()

    def seen(day):
        Clock.day = day
        todays = tokenizer.apply_chat_template(talk, tokenize=False)
        sets = batches.prepare(
            rows,
            tokenizer,
            model,
            losses.get("simpo"),
            name="pairs",
            max_length=None,
            reference=lambda rows: None,
        ).sets
        ours = render(tokenizer, "Do you?")
        return todays, ours, prompts.wrapping(tokenizer).head, sets

    first, second = seen(1), seen(2)
    assert "01 May 2031" in first[0] and "02 May 2031" in second[0]
    assert first[1:] == second[1:]
    assert "Today: 26 Jul 2024" in first[1]
    given = prompts.render_messages(tokenizer, talk, date_string="1 Jan 2000")
    assert "Today: 1 Jan 2000" in given  # the reader's own
    tokenizer.chat_template = DATED.replace("'%d %b %Y'", "bos_token")
    with pytest.raises(ValueError, match="in a format that cannot be read"):
        render(tokenizer, "Do you?")


def test_an_end_need_not_be_special():
    """A token that was added to the vocabulary ends the turn as well."""
    tokenizer = build("gemma")
    tokenizer.add_tokens(["<over>"])
    tokenizer.chat_template = tokenizer.chat_template.replace("<end_of_turn>", "<over>")
    _, tail = tokens.encode(tokenizer, render(tokenizer, "Do you?"), REPLY)
    assert tail[-1] == tokenizer.convert_tokens_to_ids("<over>")


def test_one_token_for_start_end_and_unknown_words_is_no_unknown_word():
    """GPT-2 has one for all three."""
    tokenizer = build("qwen2.5")
    tokenizer.unk_token = tokenizer.eos_token
    row = ([tokenizer.eos_token_id], [tokenizer.eos_token_id])
    tokens.check_vocabulary([row], tokenizer, object(), "pairs")


def test_tools_are_read_and_have_no_fields_of_other_rows():
    """As JSON text, or as objects that a table has filled up with nulls."""
    tools = [{"name": "f", "takes": {"x": {"type": "text"}}}]
    other = [{"name": "g", "takes": {"y": {"enum": ["a", "b"]}}}]
    rows = batches.Dataset.from_list([{"tools": tools}, {"tools": other}])
    found = batches._template_options(rows, "pairs")
    assert found == [{"tools": tools}, {"tools": other}]
    text = batches.Dataset.from_list([{"tools": json.dumps(tools)}])
    assert batches._template_options(text, "pairs") == [{"tools": tools}]
    cut = batches.Dataset.from_list([{"tools": "[]"}, {"tools": "[{"}])
    with pytest.raises(ValueError, match="row 1 of pairs: 'tools': "):
        batches._template_options(cut, "pairs")


CALLS = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if 'tool_calls' in m %}{{ m['tool_calls'] | tojson }}{% endif %}"
    "{{ m['content'] or '' }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_messages_have_no_fields_of_other_messages():
    """A table fills them up with nulls, and Llama's template asks which fields there are."""
    tokenizer = build("qwen2.5")
    tokenizer.chat_template = CALLS

    def turn(role, text, **more):
        return {"role": role, "content": text, **more}

    rows = []
    for arguments in ({"x": 1}, {"y": "a"}):
        call = {"name": "f", "arguments": arguments}
        prompt = [turn("user", "Do you?"), turn("assistant", None, tool_calls=[call])]
        rows.append(
            {
                "prompt": [*prompt, turn("user", "And?")],
                "chosen": [turn("assistant", REPLY)],
                "rejected": [OTHER],
            }
        )
    model = type("Model", (), {"config": type("Config", (), {})()})()
    common = {"name": "pairs", "max_length": None, "reference": lambda rows: None}
    data = batches.prepare(rows, tokenizer, model, losses.get("simpo"), **common)
    for row, of_row in zip(rows, data.sets, strict=True):
        head = tokenizer.apply_chat_template(
            row["prompt"], add_generation_prompt=True, return_dict=False
        )
        assert of_row[0][0] == head
        assert tokenizer.decode(head).count("arguments") == 1


@every_kind
def test_without_a_padding_token_the_replies_are_the_same(kind):
    """Nothing attends to what fills a batch up, be it the end of the sequence."""
    from mipo import models

    tokenizer = build(kind)
    model = models.small_model(tokenizer, hidden=16, layers=1, heads=2)
    queries = ["Do you?", "What is a loan, and who would take one for the weekend?"]
    asked = [render(tokenizer, query) for query in queries]
    plain = sampling.generate(model, tokenizer, asked, max_new_tokens=6)
    for token in (None, tokenizer.eos_token):
        tokenizer.pad_token = token
        again = sampling.generate(model, tokenizer, asked, max_new_tokens=6)
        assert again == plain


def test_decoding_keeps_spaces():
    tokenizer = build("qwen2.5")
    text = " Yes , I  do n't . No ?\n\n"
    ids = tokenizer(text)["input_ids"]
    ends = tokens.end_ids(tokenizer)
    assert sampling.reply_of(tokenizer, [*ids, ends[0]], ends).text == text


def test_word_start_and_empty_thought_by_hand():
    """Reports: transformers 26891, unsloth 3110."""
    assert prompts.wrapping(build("mistral")).before == " "
    assert prompts.wrapping(build("qwen3")).before == "<think>\n\n</think>\n\n"
    assert prompts.wrapping(build("phi")).end == "<|end|>"
    tokenizer = build("mistral")
    _, tail = tokens.encode(tokenizer, render(tokenizer, "Do you?"), REPLY)
    assert tokenizer.convert_ids_to_tokens(tail[0]).startswith("▁")


class Spells:
    """A model that says these tokens, then anything."""

    device, training = torch.device("cpu"), False

    def __init__(self, ids, size, ends):
        self.ids, self.size, self.said = ids, size, 0
        self.config = type("Config", (), {})()
        self.generation_config = type("G", (), {"eos_token_id": ends})()

    def eval(self):
        return self

    def train(self, mode):
        return self

    def __call__(self, input_ids, **_):
        logits = torch.full((len(input_ids), 1, self.size), -30.0)
        logits[:, :, self.ids[min(self.said, len(self.ids) - 1)]] = 30.0
        self.said += 1
        return type("Out", (), {"logits": logits, "past_key_values": None})()


@every_kind
@pytest.mark.parametrize("which", ["turn", "sequence", "named"])
def test_a_reply_ends_at_each_of_the_ends(kind, which):
    """Not in an invented next turn, which would be trained, judged and measured.

    Reports: lighteval 1278 and 1279, trl 7039 (Gemma, Phi).
    """
    tokenizer = build(kind)
    prompt = render(tokenizer, "Do you?")
    _, tail = tokens.encode(tokenizer, prompt, REPLY)
    further = tokenizer.convert_tokens_to_ids("<pad>")
    end = {"turn": tail[-1], "sequence": tokenizer.eos_token_id, "named": further}[
        which
    ]
    said = [*tail[:-1], end, *tokenizer("user No, never.")["input_ids"]]
    model = Spells(said, len(tokenizer), [tokenizer.eos_token_id, further])
    (reply,) = sampling.generate(model, tokenizer, [prompt], temperature=0)
    assert reply.removeprefix("<think>\n\n</think>\n\n").strip() == REPLY
    assert model.said == len(tail), "asked on after the end"


@every_kind
def test_a_finished_reply_keeps_its_end_and_a_cut_one_has_none(kind):
    """Here the text is written in the tokens that were sampled, so both ways agree."""
    tokenizer = build(kind)
    prompt = render(tokenizer, "Do you?")
    _, tail = tokens.encode(tokenizer, prompt, REPLY)

    def said(longest):
        model = Spells([*tail, 5], len(tokenizer), [])
        how = {"temperature": 0, "max_new_tokens": longest}
        (reply,) = sampling.sample(model, tokenizer, [prompt], **how)
        return reply, sampling.respelt(tokenizer, [prompt], [reply])

    whole, changed = said(len(tail) + 3)
    assert (whole.ids, whole.finished, changed) == (tail, True, [False])
    cut, changed = said(len(tail) - 1)
    assert (cut.ids, cut.finished, changed) == (tail[:-1], False, [False])
    assert cut.text == whole.text
    row = {"prompt": prompt, "chosen": whole.text, "rejected": cut.text}
    row |= {"chosen_tokens": whole.ids, "rejected_tokens": cut.ids}
    assert trained([row], tokenizer) == [[tail, tail[:-1]]]
    del row["rejected_tokens"]  # known as text alone, it is a whole reply
    row["rejected"] = "No, never."
    assert trained([row], tokenizer)[0][1][-1] == tail[-1]


def trained_rows(rows, tokenizer, model=None, loss="simpo"):
    """Prompt ids and reply ids, as a training has them."""
    model = model or Spells([0], len(tokenizer), [])
    common = {"name": "pairs", "max_length": None}
    common["reference"] = lambda rows: torch.zeros(len(rows))
    return batches.prepare(rows, tokenizer, model, losses.get(loss), **common).sets


def trained(rows, tokenizer, model=None, loss="simpo"):
    """Reply ids of each row, as a training has them."""
    sets = trained_rows(rows, tokenizer, model, loss)
    return [[tail for _, tail in rows] for rows in sets]


@every_kind
@pytest.mark.parametrize("k", [1, 2])
def test_a_sampled_pair_trains_the_tokens_that_were_sampled(kind, k):
    """Random weights say what no tokenizer would write so: the ids win."""
    tokenizer = build(kind)
    model = models.small_model(tokenizer, hidden=16, layers=1, heads=2, seed=1)
    people = ["I am a nurse.", "I bake.", "I farm."]
    examples = [{"query": "What is a loan?", "context": c} for c in people]
    made = pairs.synthesise_pairs(model, tokenizer, examples, k=k, max_new_tokens=6)
    rejected_prompts = [
        prompt
        for row in made["rejected_prompt"]
        for prompt in (row if k > 1 else [row])
    ]
    chosen, rejected = (
        [
            reply.ids
            for reply in sampling.sample(
                model, tokenizer, prompts, max_new_tokens=6, seed=seed
            )
        ]
        for prompts, seed in (
            (made["prompt"][:], 0),
            (rejected_prompts, pairs.REJECTED_STREAM),
        )
    )
    want = [[ids, *rejected[k * i : k * i + k]] for i, ids in enumerate(chosen)]
    assert sum(made["respelt"]) > 0
    loss = "simpo" if k == 1 else "infonca"
    assert trained(made, tokenizer, model, loss) == want
    if k > 1:
        return
    talk = [
        {
            "prompt": [{"role": "user", "content": f"{c}\n\nWhat is a loan?"}],
            **{
                side: [{"role": "assistant", "content": row[side]}]
                for side in ("chosen", "rejected")
            },
            **{column: row[column] for column in sampling.TOKEN_COLUMNS},
        }
        for c, row in zip(people, made, strict=True)
    ]
    assert trained(talk, tokenizer, model) == want


@every_kind
def test_sampled_ids_score_what_they_had_while_they_were_sampled(kind, monkeypatch):
    """At temperature 1: the sum of log softmax at each step, with the end that came."""
    tokenizer = build(kind)
    model = models.small_model(tokenizer, hidden=16, layers=2, heads=2, seed=2)
    ends = tokens.end_ids(tokenizer, model)
    steps, pick = [], sampling.pick

    def noted(logits, *how):
        logits[:, ends] += 3  # so that some replies end
        token = pick(logits, *how)
        logits[:, ends] -= 3
        law = torch.log_softmax(logits, -1)
        steps.append(law.gather(-1, token[:, None]).item())
        return token

    monkeypatch.setattr(sampling, "pick", noted)
    said, sums = [], []
    prompts = [render(tokenizer, f"Do you? {'Yes, I do. ' * i}") for i in range(12)]
    for i, prompt in enumerate(prompts):
        steps.clear()
        said += sampling.sample(model, tokenizer, [prompt], max_new_tokens=12, seed=i)
        sums.append(sum(steps))
    assert 0 < sum(reply.finished for reply in said) < len(said)
    assert all((reply.ids[-1] in ends) == reply.finished for reply in said)
    ids = [reply.ids for reply in said]
    found = logprobs.response_logps(model, tokenizer, prompts, ids)
    assert found.summed.tolist() == pytest.approx(sums, abs=1e-4)
    assert found.tokens.tolist() == [len(row) for row in ids]
    both = [[row, row[:1]] for row in ids]
    twice = logprobs.response_logps(model, tokenizer, prompts, both)
    assert twice.summed[:, 0].tolist() == pytest.approx(sums, abs=1e-4)
    assert twice.tokens[:, 1].tolist() == [1] * len(ids)


def test_a_token_without_embedding_is_named_wherever_ids_are_taken():
    """Else: "index out of range in self"."""
    tokenizer = build("qwen2.5")
    model = models.small_model(tokenizer, hidden=16, layers=1, heads=2)
    tokenizer.add_tokens(["<new>"])
    ask, new = render(tokenizer, "Do you?"), render(tokenizer, "<new>")
    wrong = "token '<new>' has id .*; call model.resize_token_embeddings"
    for prompt, reply in ((new, REPLY), (ask, "<new>"), (ask, [len(tokenizer) - 1])):
        with pytest.raises(ValueError, match=f"prompts and replies: {wrong}"):
            logprobs.response_logps(model, tokenizer, [prompt], [reply])
    with pytest.raises(ValueError, match=f"prompts and replies: {wrong}"):
        logprobs.prompt_pmi(model, tokenizer, [new], [REPLY])
    with pytest.raises(ValueError, match=f"prompts: {wrong}"):
        sampling.sample(model, tokenizer, [ask, new])


@every_kind
@pytest.mark.parametrize("adds_end", [False, True])
def test_reinforce_samples_and_scores_after_the_same_ids(kind, adds_end, monkeypatch):
    tokenizer = build(kind, adds_end=adds_end)
    model = models.small_model(tokenizer, hidden=16, layers=1, heads=2)
    asked = []
    monkeypatch.setattr(
        reinforce, "_check_finite", lambda model, ids, when: asked.append(ids)
    )
    examples = [{"query": "Do you?"}, {"query": "What is a loan?"}]
    rows = reinforce.sample_rows(model, tokenizer, examples, 2, 5, seed=3)
    prompts = [render(tokenizer, e["query"]) for e in examples for _ in range(2)]
    said = sampling.sample(model, tokenizer, prompts, max_new_tokens=5, seed=3)
    heads = [tokens.encode(tokenizer, prompt, REPLY)[0] for prompt in prompts]
    assert asked == heads[:1]
    assert rows == [(head, reply.ids) for head, reply in zip(heads, said, strict=True)]


def test_ids_that_say_something_else_are_refused():
    """The reply was changed, or sampled by a model with another tokenizer."""
    tokenizer = build("qwen2.5")
    prompt = render(tokenizer, "Do you?")
    _, ids = tokens.encode(tokenizer, prompt, REPLY)
    row = {"prompt": prompt, "chosen": REPLY, "rejected": "No.", "chosen_tokens": ids}
    assert trained([row], tokenizer)[0][0] == ids
    for wrong in ({"chosen": "Yes!"}, {"chosen_tokens": ids[1:]}):
        with pytest.raises(ValueError, match="row 1 of pairs: the ids in chosen_tok"):
            trained([row, row | wrong], tokenizer)
    many = {"rejected": ["No.", "Never."], "rejected_tokens": [ids]}
    with pytest.raises(ValueError, match="the ids of 1 replies, and 'rejected' has 2"):
        trained([row | many], tokenizer, loss="infonca")


def test_texts_in_words_that_the_tokenizer_does_not_know_are_refused():
    """The small world's 263 words turn everything else into one token.

    Else the loss stays at log 2 for ever, without a word.
    """
    tokenizer = models.build_tokenizer(["the small world knows few words"])
    model = models.small_model(tokenizer, hidden=16, layers=1, heads=2)
    row = {"prompt": "What is a loan?", "chosen": REPLY, "rejected": "No, never."}
    with pytest.raises(ValueError, match="% of the tokens of pairs are unknown"):
        batches.prepare(
            [row],
            tokenizer,
            model,
            losses.get("simpo"),
            name="pairs",
            max_length=None,
            reference=None,
        )
