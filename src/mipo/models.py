"""Models and tokenizers: small ones built and trained here from scratch, or any causal model in hub format."""

import math
import re
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from tqdm import tqdm
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from mipo import data, logprobs
from mipo.lm import tokens
from mipo.lm.shared_prompt import collate_shared, groups_of

# One token is a word with the space before it and the mark after it, or a line break; joining tokens gives the text back.
WORD = r" ?[\w'+-]+[.,:?]?|\n+| ?[^\w\s]"
SPECIAL = ("<|pad|>", "<|unk|>", "<|user|>", "<|assistant|>", "<|end|>")
TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def build_tokenizer(texts, phrases=()):
    """Tokenizer over the words of `texts`, with a chat template; decode(encode(t)) == t for known words.

    Each of `phrases` is one token wherever it stands (the longest that fits); all other text is cut into words.
    """
    split = Regex(
        "|".join(
            [*map(_literally, sorted(set(phrases), key=lambda p: (-len(p), p))), WORD]
        )
    )
    cut = pre_tokenizers.Split(
        split, "isolated"
    )  # made once: with hundreds of phrases the pattern is slow to compile
    words = sorted({w for text in texts for w, _ in cut.pre_tokenize_str(text)})
    vocab = {token: i for i, token in enumerate((*SPECIAL, *words))}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<|unk|>"))
    tokenizer.pre_tokenizer = cut
    tokenizer.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|pad|>",
        unk_token="<|unk|>",
        eos_token="<|end|>",
        additional_special_tokens=["<|user|>", "<|assistant|>"],
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = TEMPLATE
    return fast


def _literally(phrase):
    """Regex of a phrase that does not end inside a word."""
    return re.escape(phrase) + (r"(?!\w)" if phrase[-1].isalnum() else "")


def small_model(
    tokenizer,
    *,
    hidden=128,
    layers=4,
    heads=4,
    inner=None,
    max_length=256,
    init=0.02,
    seed=0,
):
    """A Llama with random weights of standard deviation `init`; `inner` is the width of its feed-forward layers."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=inner or int(8 * hidden / 3) // 8 * 8,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        initializer_range=init,
        max_position_embeddings=max_length,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    return LlamaForCausalLM(config).float()


def pretrain(
    model,
    tokenizer,
    examples,
    *,
    steps,
    batch_size=64,
    lr=3e-3,
    embedding_rate=1.0,
    lessons=None,
    lesson_share=0.25,
    seed=0,
    device="cpu",
    progress=True,
):
    """Maximum likelihood on replies, -mean_t log p(y_t | prompt, y_<t); returns the loss of each step (nats per token).

    `examples(rng, n)` gives n pairs (prompt, reply), rng a numpy Generator; fresh ones at each step, so there is nothing
    to overfit. Neighbours with the same prompt share one row (`shared_loss`), which costs the prompt only once.
    `lessons` are easier examples for the first `lesson_share` of the steps. AdamW, linear warm-up over 5 % of the steps,
    then cosine decay to zero; embeddings learn `embedding_rate` times as fast.
    """
    model.to(device).train()
    optimiser, rates, rng = (
        *_adam(model, lr, embedding_rate),
        np.random.default_rng((seed, 4)),
    )
    look = (
        1 if torch.device(device).type == "cpu" else 50
    )  # reading the loss at each step would keep a GPU waiting
    warm, losses, bar = (
        max(1, steps // 20),
        [],
        tqdm(range(steps), desc="pretraining", unit="step", disable=not progress),
    )
    for step in bar:
        scale = (
            min(1.0, (step + 1) / warm) * 0.5 * (1 + math.cos(math.pi * step / steps))
        )
        for group, rate in zip(optimiser.param_groups, rates, strict=True):
            group["lr"] = rate * scale
        draw = lessons if lessons and step < lesson_share * steps else examples
        rows = tokens.encode_many(tokenizer, *zip(*draw(rng, batch_size), strict=True))
        loss = shared_loss(model, rows)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        losses.append(loss.detach())
        if step % look == look - 1:
            now = losses[-1].item()
            if not math.isfinite(now):
                raise FloatingPointError(
                    f"pretraining: the loss is {now} at step {step + 1}; lower lr (now {lr:g})"
                )
            bar.set_postfix(nats_per_token=f"{now:.3f}", refresh=False)
    require_finite(model, "pretraining", lr)
    model.eval()
    return torch.stack(losses).tolist()


def _adam(model, lr, embedding_rate):
    """(AdamW, the learning rates of its two groups): embeddings learn `embedding_rate` times as fast as the rest."""
    embeddings = list(model.get_input_embeddings().parameters())
    others = [p for p in model.parameters() if all(p is not e for e in embeddings)]
    groups = [{"params": others}, {"params": embeddings}]
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98), weight_decay=0), (
        lr,
        lr * embedding_rate,
    )


def require_finite(model, what, lr):
    """FloatingPointError if a weight is NaN or infinite: the last step's loss may still have been fine."""
    if not all(torch.isfinite(p).all() for p in model.parameters()):
        raise FloatingPointError(
            f"{what}: the last step left weights that are not finite; lower the learning rate ({lr:g})"
        )


def shared_loss(model, rows):
    """Mean -log p per reply token, nats, over rows (prompt ids, reply ids); neighbours with equal prompts share its cost."""
    batch = {
        k: v.to(model.device) if torch.is_tensor(v) else v
        for k, v in collate_shared(groups_of([rows])).items()
    }
    return -logprobs.token_logps(model, batch)[0].mean()


def load_model(name_or_path, *, dtype="float32", device=None):
    """Model and tokenizer from a hub name or a local folder; raises ValueError with the way out if a part is missing.

    Weights must be safetensors and no code from the repository is run. On a GPU pass dtype="bfloat16".
    """
    name = str(name_or_path)
    folder = Path(name)
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise ValueError(
            f"{name} has no config.json: it is not a model folder in hub format"
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{name} has no tokenizer that can be loaded (tokenizer.json is missing?) "
            f"or is neither a folder nor a model on the hub{_offline()}: {_first_line(error)}"
        ) from error
    if tokenizer.chat_template is None:
        raise ValueError(
            f"the tokenizer of {name} has no chat template: use an instruction-tuned model, "
            "or set tokenizer.chat_template and save it again"
        )
    if tokenizer.eos_token_id is None:
        raise ValueError(f"the tokenizer of {name} has no end-of-sequence token")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    try:
        model = AutoModelForCausalLM.from_pretrained(
            name, dtype=getattr(torch, dtype), use_safetensors=True
        )
    except (
        OSError,
        ValueError,
        KeyError,
        RuntimeError,
        SafetensorError,
    ) as error:  # cut short, or of another shape
        raise ValueError(
            f"the model of {name} could not be loaded{_offline()}: {_first_line(error)}"
        ) from error
    return model.to(
        device or ("cuda" if torch.cuda.is_available() else "cpu")
    ).eval(), tokenizer


def _first_line(error):
    return (
        str(error).strip().splitlines()[0]
        if str(error).strip()
        else type(error).__name__
    )


def _offline():
    return " (HF_HUB_OFFLINE is set)" if data.offline() else ""
