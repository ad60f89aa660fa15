"""Prompts as a model reads them: turns written out in its tokenizer's chat template."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def render(tokenizer: PreTrainedTokenizerBase, query: str, context: str = "") -> str:
    r"""The prompt of an example as text, ready for a reply.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
        With a chat template.
    query : str
        What the model is asked.
    context : str
        Who asks; stands before the query, in the same turn of the user.

    Returns
    -------
    str
        One user turn, ``{context}\n\n{query}``, and what opens the assistant's.

    Raises
    ------
    ValueError
        Where query or context is not text, or the tokenizer has no chat template.
    """
    for name, value in (("query", query), ("context", context)):
        if not isinstance(value, str):
            raise ValueError(f"render: {name} must be text, got {type(value).__name__}")
    content = f"{context}\n\n{query}" if context else query
    return render_messages(tokenizer, [{"role": "user", "content": content}])


def render_messages(
    tokenizer: PreTrainedTokenizerBase, messages: list[dict], where: str = ""
) -> str:
    """A conversation as text, ready for the assistant's reply.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
        With a chat template.
    messages : list of dict
        Each with "role" and "content"; the last is the user's.
    where : str
        File and line, for the error of a template that refuses the conversation.

    Returns
    -------
    str
        Such that ``tokenizer(text)`` gives the ids that the template's author meant:
        where tokenizing would add a second beginning-of-sequence token to the one that
        the template writes (Llama 3 does both), the template's own is cut.

    Raises
    ------
    ValueError
        Where the tokenizer has no chat template, or the template refuses.
    """
    if not getattr(tokenizer, "chat_template", None):
        name = getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__
        raise ValueError(
            f"tokenizer {name} has no chat template, so a prompt cannot be written as "
            "a user's turn; use an Instruct model, or set tokenizer.chat_template"
        )
    try:
        text = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
    except Exception as error:  # templates raise what they like
        place = f"{where}: " if where else ""
        raise ValueError(
            f"{place}the model's chat template refuses this prompt ({error})"
        ) from None
    return _with_one_start(tokenizer, str(text))


def _with_one_start(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    start = tokenizer.bos_token
    if not start or not text.startswith(start):
        return text
    twice = [tokenizer.bos_token_id] * 2
    return text[len(start) :] if tokenizer(text)["input_ids"][:2] == twice else text
