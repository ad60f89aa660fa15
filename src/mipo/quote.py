"""Text of people and models, shown as it is: never markup, mathematics, a directive."""

from __future__ import annotations

import re

SPECIAL = set("&<>`|{}$[]*_~\\#^")
_BREAK = re.compile(r"\s*(?:\r\n|[\n\r\v\f\x85\u2028\u2029])\s*")
# What makes a line a list, a heading's underline or a fence is harmless elsewhere.
_OPENING = re.compile(r"^(?:\d{1,9}(?=[.)])|)[-+=:.)]")


def quote(text: str, limit: int | None = None) -> str:
    r"""Foreign text for a page of Markdown or MyST, also inside a cell of a table.

    Parameters
    ----------
    text : str
        A reply, a prompt, a statement: whatever we did not write ourselves.
    limit : int, optional
        Longer texts are cut after so many characters, with an ellipsis.

    Returns
    -------
    str
        One line. Special characters are character references (``<`` is ``&#60;``),
        which Markdown shows and never obeys; line breaks are ``⏎``; what cannot be
        printed is ``\ufffd``.

    Examples
    --------
    >>> quote("a|b <b>\n*c*")
    'a&#124;b &#60;b&#62; ⏎ &#42;c&#42;'
    """
    line = _BREAK.sub(" ⏎ ", text.strip())
    if limit is not None and len(line) > limit:
        line = line[:limit].rstrip() + " …"
    opening = _OPENING.match(line)
    last = opening.end() - 1 if opening else -1
    return "".join(_shown(char, i == last) for i, char in enumerate(line))


def _shown(char: str, opens: bool) -> str:
    if char in SPECIAL or opens:
        return f"&#{ord(char)};"
    if char.isprintable():
        return char
    return " " if char.isspace() else "\ufffd"
