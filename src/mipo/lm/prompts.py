"""Turns as a model reads and writes them, in its tokenizer's chat template."""

from __future__ import annotations

import re
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


DAY = datetime(2024, 7, 26)  # which Llama's templates fall back on
_TODAY = re.compile(r"""strftime_now\(\s*(['"])(?P<format>.*?)\1\s*\)""")


def on_one_day(template: str) -> str:
    """A chat template without today's date.

    Parameters
    ----------
    template : str
        Of any model. Some write today's date into every prompt (Llama 3.2, Mistral
        Small).

    Returns
    -------
    str
        The same, always on 26 July 2024, lest prompts, their digests and all that was
        sampled and scored change overnight.

    Raises
    ------
    ValueError
        Where the format of a date is not written out.
    """

    def fixed(call: re.Match[str]) -> str:
        return repr(DAY.strftime(call["format"]))

    dated = _TODAY.sub(fixed, template)
    if "strftime_now(" in dated:
        raise ValueError(
            "the chat template writes today's date in a format that cannot be read; "
            "replace strftime_now(...) by a date in tokenizer.chat_template"
        )
    return dated


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
    tokenizer: PreTrainedTokenizerBase,
    messages: list[dict],
    where: str = "",
    **options: Any,
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
    **options
        What the template is given beside the messages, as ``tools``; a template that
        writes today's date is given 26 July 2024, unless these say otherwise.

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
    text = _asked(tokenizer, messages, where, add_generation_prompt=True, **options)
    return _with_one_start(tokenizer, text)


def turn_behind(
    tokenizer: PreTrainedTokenizerBase,
    messages: list[dict],
    reply: list[dict],
    around: Wrapping,
    where: str = "",
    **options: Any,
) -> str:
    """What a conversation in messages has behind its prompt.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
        With a chat template.
    messages, reply : list of dict
        The prompt, and what the assistant replies.
    around : Wrapping
        Of the tokenizer.
    where : str
        File and line, or row, for errors.
    **options
        As in `render_messages`.

    Returns
    -------
    str
        The reply as the template writes it, up to the end of its turn.

    Raises
    ------
    ValueError
        Where the template refuses, or writes the prompt differently once a reply
        follows.
    """
    head = _asked(tokenizer, messages, where, add_generation_prompt=True, **options)
    whole = _asked(tokenizer, messages + reply, where, **options)
    return closed(tail_of(head, whole, where), around)


def without_nulls(value: Any) -> Any:
    """Messages without what a table puts in for the fields of other messages.

    Parameters
    ----------
    value : Any
        Messages, tools, or lists and texts among them.

    Returns
    -------
    Any
        The same, where no field is null but a message's content, which may be so of
        itself. Llama's template asks which fields there are.
    """
    if isinstance(value, list):
        return [without_nulls(part) for part in value]
    if isinstance(value, dict):
        return {
            name: without_nulls(part)
            for name, part in value.items()
            if part is not None or name == "content"
        }
    return value


def _asked(
    tokenizer: PreTrainedTokenizerBase,
    messages: list[dict],
    where: str,
    **options: Any,
) -> str:
    """The template's text; a ValueError where it refuses the conversation."""
    try:
        text = _by_template(tokenizer, messages, **options)
    except Exception as error:  # templates raise what they like
        raise ValueError(
            f"{_at(where)}the model's chat template refuses this conversation ({error})"
        ) from None
    return text


def _by_template(
    tokenizer: PreTrainedTokenizerBase, messages: list[dict], **options: Any
) -> str:
    """The one call of a chat template, on the same day for all."""
    own = options.pop("chat_template", None)
    template = tokenizer.get_chat_template(own, tools=options.get("tools"))
    text = tokenizer.apply_chat_template(
        messages, chat_template=on_one_day(template), tokenize=False, **options
    )
    return str(text)


def _at(where: str) -> str:
    return f"{where}: " if where else ""


def _with_one_start(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    start = tokenizer.bos_token
    if not start or not text.startswith(start):
        return text
    twice = [tokenizer.bos_token_id] * 2
    return text[len(start) :] if tokenizer(text)["input_ids"][:2] == twice else text


class Wrapping(NamedTuple):
    """What a chat template writes around an assistant's reply.

    Attributes
    ----------
    head : str
        A question, ready for a reply; "" where the template does not keep it once a
        reply follows.
    opening : str
        What ends any prompt that is ready for a reply; "" where that is not known.
    before : str
        Between the opening and the reply: a space (Mistral), an empty thought (Qwen3),
        or nothing.
    end : str
        The token that ends the turn; "" where there is none.
    after : str
        All that follows the reply, the end in it: often a line break behind it, which
        no model writes before it stops.
    marks : tuple of str
        Tokens of the opening that no text of people holds.
    """

    head: str = ""
    opening: str = ""
    before: str = ""
    end: str = ""
    after: str = ""
    marks: tuple[str, ...] = ()


# columns of a data set that TRL hands to the template beside the messages
TEMPLATE_COLUMNS = ("tools", "chat_template_kwargs")
NO_END = "the tokenizer has no end-of-sequence token; set tokenizer.eos_token"
_QUESTION = {"role": "user", "content": "mipo-question"}  # stands for any
_REPLY = "mipo-reply"


def wrapping(tokenizer: PreTrainedTokenizerBase) -> Wrapping:
    """What the tokenizer's chat template writes around a reply.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
        Without a chat template, or with one that refuses a bare question, a reply is
        followed by the end-of-sequence token.

    Returns
    -------
    Wrapping
    """
    eos = str(tokenizer.eos_token or "")
    try:
        head, whole = _written(tokenizer), _written(tokenizer, _REPLY)
    except Exception:  # templates raise what they like
        return Wrapping(end=eos)
    question = str(_QUESTION["content"])
    if whole.count(_REPLY) != 1 or head.count(question) != 1:
        return Wrapping(end=eos)
    opening, after = head.partition(question)[2], whole.partition(_REPLY)[2]
    special = _special(tokenizer)
    ends = [token for token in special if token in after]
    end = min(ends, key=after.index) if ends else eos
    marks = tuple(token for token in special if token in opening)
    if not whole.startswith(head):  # a thought is opened that a reply does not keep
        return Wrapping("", opening, "", end, after, marks)
    before = whole[len(head) :].partition(_REPLY)[0]
    return Wrapping(head, opening, before, end, after, marks)


def _special(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The added tokens that can be seen."""
    added = [token.content for token in tokenizer.added_tokens_decoder.values()]
    return [token for token in added if token.strip()]


def _written(tokenizer: PreTrainedTokenizerBase, reply: str | None = None) -> str:
    """A question ready for a reply, or the question with that reply."""
    talk = [_QUESTION]
    if reply is not None:
        talk = [_QUESTION, {"role": "assistant", "content": reply}]
    return _by_template(tokenizer, talk, add_generation_prompt=reply is None)


def tail_of(head: str, whole: str, where: str = "") -> str:
    """What a conversation adds to its prompt.

    Parameters
    ----------
    head, whole : str
        The prompt, ready for a reply, and the conversation with that reply.
    where : str
        File and line, or row, for the error.

    Returns
    -------
    str

    Raises
    ------
    ValueError
        Where the template writes the prompt differently once a reply follows.
    """
    if not whole.startswith(head):
        raise ValueError(
            f"{_at(where)}the chat template writes the prompt differently once a reply "
            "follows; render the prompts yourself and use the standard format (text "
            "columns)"
        )
    return whole[len(head) :]


def reply_text(
    tokenizer: PreTrainedTokenizerBase, prompt: str, reply: str, around: Wrapping
) -> str:
    """What stands behind a prompt where a reply is scored or trained.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
        Of the model.
    prompt : str
        Rendered by the tokenizer's template, or any text.
    reply : str
        One that has the turn's end, or the sequence's, gets no second.
    around : Wrapping
        Of the tokenizer.

    Returns
    -------
    str
        Behind a rendered prompt, the reply as the template writes it (which may trim
        it, or put an empty thought before it) up to the end of the turn. Behind another
        prompt that has the template's marks, the reply and the end of the turn. Behind
        other text, the reply and the end of the sequence, as TRL has it.

    Raises
    ------
    ValueError
        Where neither template nor tokenizer has an end.
    """
    eos = str(tokenizer.eos_token or around.end)
    if not eos:
        raise ValueError(NO_END)
    bare = _without_ends(reply, around, eos)
    if around.opening.strip() and prompt.endswith(around.opening):
        if not around.head:
            return bare + around.end
        if around.before.strip():
            bare = bare.removeprefix(around.before)
        return closed(tail_of(around.head, _written(tokenizer, bare)), around)
    if any(mark in prompt for mark in around.marks):
        return bare + around.end
    return bare + eos


def _without_ends(reply: str, around: Wrapping, eos: str) -> str:
    if around.end in around.after:
        reply = reply.removesuffix(around.after)
    while reply.endswith((around.end, eos)):
        reply = reply.removesuffix(around.end).removesuffix(eos)
    return reply


def closed(turn: str, around: Wrapping) -> str:
    """A turn as the template writes it, without what follows its end.

    A turn that the template ends in another way than a reply's is left as it is.
    """
    if not turn.endswith(around.after):
        return turn
    if around.end not in around.after:
        return turn + around.end
    close = around.after.partition(around.end)[0] + around.end
    return turn.removesuffix(around.after) + close
