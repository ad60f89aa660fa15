"""Foreign text on a page: markdown-it, the parser of MyST, shows it, obeys none of it."""

import html
import re

import pytest
from markdown_it import MarkdownIt
from mdit_py_plugins.dollarmath import dollarmath_plugin
from mdit_py_plugins.myst_role import myst_role_plugin

from mipo.quote import quote

HOSTILE = [
    "<script>alert(1)</script>",
    "{ref}`here`",
    "$5,000 for you, $10,000 for me",
    "a|b",
    "**bold** _thin_ ~~gone~~ `code`",
    "[link](http://x.invalid) ![picture](file:///x)",
    "# heading",
    "1. item",
    "- item",
    "+ item",
    "===",
    ":::{raw} html",
    "&lt;b&gt; \\alpha \\(x\\)",
    "```",
    "> quoted",
    "<!-- hidden -->",
]


def rendered(markdown):
    page = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    return page.use(dollarmath_plugin).use(myst_role_plugin).render(markdown)


@pytest.mark.parametrize("text", HOSTILE)
def test_it_is_shown_as_it_is(text):
    """Reports: jupyter-book 750, mystmd 2477."""
    assert rendered(quote(text)) == f"<p>{html.escape(text, quote=False)}</p>\n"


@pytest.mark.parametrize("text", HOSTILE)
def test_in_a_table_it_stays_one_cell(text):
    page = rendered(f"| a | b |\n|---|---|\n| {quote(text)} | end |")
    cells = re.findall(r"<td>(.*?)</td>", page)
    assert cells == [html.escape(text, quote=False), "end"]


def test_line_breaks_open_no_block():
    text = "First.\n\n```{raw} html\n:file: /etc/hostname\n```\r\n- item\u2028# head"
    page = rendered(quote(text))
    assert page.startswith("<p>First. ⏎ ```{raw} html ⏎ :file:")
    assert page.count("<") == 2, "one paragraph and nothing else"


def test_a_long_text_is_cut_before_it_is_escaped():
    assert quote("<" * 10, limit=2) == "&#60;&#60; …"
    assert quote("abc", limit=3) == "abc"


def test_what_cannot_be_printed_is_seen():
    assert quote("a\0b\u202ec") == "a\ufffdb\ufffdc"
