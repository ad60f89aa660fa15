"""Small tokenizers of seven kinds that write turns in their own ways, with their chat templates in brief.

Each template keeps what matters of its model's: what opens a turn, what stands around a
reply, which token ends it, who writes the beginning of a sequence.
"""

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

TEXTS = [
    "Write a short email to my neighbour.",
    "Explain what a loan is. Yes, I do. No, never.",
    "Recommend a book for the weekend, user, assistant, model, system.",
]
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEMPLATES = {
    # Qwen2.5: a system turn that nobody asked for
    "qwen2.5": "<|im_start|>system\nYou are helpful.<|im_end|>\n" + CHATML,
    # Qwen3: an empty thought before the last reply
    "qwen3": (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
        "{% if m['role'] == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}"
        "{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    # Llama 3: template and tokenizer both write BOS; contents are trimmed
    "llama3": (
        "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}"
        "<|end_header_id|>\n\n{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
        "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n"
        "{% endif %}"
    ),
    # Mistral: no opening of its own; a space before the reply
    "mistral": (
        "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}"
        "[INST] {{ m['content'] }} [/INST]{% else %} {{ m['content'] | trim }}"
        "{{ eos_token }}{% endif %}{% endfor %}"
    ),
    # Llama 2: a space before the end as well
    "llama2": (
        "{% for m in messages %}{% if m['role'] == 'user' %}{{ bos_token }}"
        "[INST] {{ m['content'] | trim }} [/INST]{% else %} {{ m['content'] | trim }} "
        "{{ eos_token }}{% endif %}{% endfor %}"
    ),
    # Gemma: the turn's end is not the sequence's
    "gemma": (
        "{{ bos_token }}{% for m in messages %}<start_of_turn>"
        "{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n"
        "{{ m['content'] | trim }}<end_of_turn>\n{% endfor %}"
        "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
    ),
    # Phi: two ends behind the last reply
    "phi": (
        "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}<|end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|assistant|>\n"
        "{% else %}{{ eos_token }}{% endif %}"
    ),
}
# kind: (BOS or None, EOS, the turn's end, further special tokens)
TOKENS = {
    "qwen2.5": (None, "<|im_end|>", "<|im_end|>", ["<|im_start|>", "<|endoftext|>"]),
    "qwen3": (None, "<|im_end|>", "<|im_end|>", ["<|im_start|>", "<|endoftext|>"]),
    "llama3": (
        "<|begin_of_text|>",
        "<|eot_id|>",
        "<|eot_id|>",
        ["<|start_header_id|>", "<|end_header_id|>", "<|end_of_text|>"],
    ),
    "mistral": ("<s>", "</s>", "</s>", ["[INST]", "[/INST]"]),
    "llama2": ("<s>", "</s>", "</s>", ["[INST]", "[/INST]"]),
    "gemma": ("<bos>", "<eos>", "<end_of_turn>", ["<start_of_turn>"]),
    "phi": (None, "<|endoftext|>", "<|end|>", ["<|user|>", "<|assistant|>"]),
}
KINDS = tuple(TEMPLATES)
METASPACE = (
    "mistral",
    "llama2",
    "gemma",
)  # words begin with ▁; the others work on bytes


def build(kind, *, adds_end=False):
    """The tokenizer of a kind; adds_end: saved with a post-processor BOS $A EOS."""
    start, end, turn_end, more = TOKENS[kind]
    special = list(dict.fromkeys(filter(None, (start, end, turn_end, *more, "<pad>"))))
    unknown = "<unk>" if kind in METASPACE else None
    core = Tokenizer(models.BPE(unk_token=unknown))
    if kind in METASPACE:
        first = "never" if kind == "gemma" else "first"
        core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=first)
        core.decoder = decoders.Metaspace(prepend_scheme=first)
        alphabet = sorted({*"".join(TEXTS), *"▁\n?-'", *map(chr, range(33, 127))})
        special.append(unknown)
    else:
        core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        core.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=special,
        show_progress=False,
        initial_alphabet=alphabet,
    )
    core.train_from_iterator(TEXTS, trainer)
    around = [start] if start else []
    pieces = [*around, "$A", *([end] if adds_end else [])]
    if len(pieces) > 1:
        core.post_processor = TemplateProcessing(
            single=" ".join(pieces),
            special_tokens=[(t, core.token_to_id(t)) for t in pieces if t != "$A"],
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=start,
        eos_token=end,
        pad_token="<pad>",
        unk_token=unknown,
        additional_special_tokens=[t for t in (turn_end, *more) if t != end],
        chat_template=TEMPLATES[kind],
        clean_up_tokenization_spaces=False,
    )
