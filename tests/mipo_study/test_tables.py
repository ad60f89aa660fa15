"""The table writer: a cell shows what was put in, and nothing of it is markup."""

import numpy as np
import pandas as pd
import pytest
from markdown_it import MarkdownIt

from mipo_study import tables


def test_numbers_texts_and_gaps():
    frame = pd.DataFrame(
        {
            "method": ["base", "MIPO"],
            "share": [0.25, np.nan],
            "steps": [12, 1200],
            "interval": [(0.1, 0.4), None],
        }
    )
    assert tables.markdown(frame, {"share": ".0%", "interval": "+.1f"}) == (
        "| method | share | steps | interval |\n"
        "| --- | ---: | ---: | --- |\n"
        "| base | 25% | 12 | [+0.1, +0.4] |\n"
        "| MIPO | – | 1200 | – |"
    )


def test_the_index_is_a_column_where_it_is_asked_for():
    frame = pd.DataFrame({"x": [1.5]}, index=pd.Index(["a"], name="method"))
    table = tables.markdown(frame, index=True)
    assert table.splitlines()[0] == "| method | x |"
    assert table.splitlines()[2] == "| a | 1.5 |"


def test_a_reply_stays_in_its_cell():
    reply = "a | b\n<script>x</script> *c*"
    page = MarkdownIt("commonmark").enable("table")
    html = page.render(tables.markdown(pd.DataFrame({"reply": [reply], "n": [1]})))
    assert "<td>a | b ⏎ &lt;script&gt;x&lt;/script&gt; *c*</td>" in html
    assert html.count("<td") == 2


def test_a_misspelt_column_is_refused():
    with pytest.raises(ValueError, match="no column 'shares'; the table has share"):
        tables.markdown(pd.DataFrame({"share": [1.0]}), {"shares": ".0%"})
