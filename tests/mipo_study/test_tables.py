"""The table writer: a cell shows what was put in, and nothing of it is markup."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from markdown_it import MarkdownIt

from mipo.numbers import interval_of
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


def test_measures_are_of_this_run_else_of_the_published_one():
    here = {"adherence-dpo": interval_of([0.5, 0.7]), "broken-dpo": interval_of(0.0)}
    there = {"adherence-dpo": interval_of(0.9), "adherence-ipo": interval_of(0.4)}
    nb = SimpleNamespace(numbers=here, published=there.get)
    columns = {"adherence": "adherence", "outside": "broken"}
    table = tables.measures(nb, {"DPO": "dpo", "IPO": "ipo"}, columns)
    assert table.loc["DPO"].to_list() == pytest.approx([0.6, 0.0])
    assert table.loc["IPO", "adherence"] == 0.4
    assert np.isnan(table.loc["IPO", "outside"])
    shown = tables.markdown(table, {"adherence": ".2f"}, index=True)
    assert shown.splitlines()[2:] == ["| DPO | 0.60 | 0 |", "| IPO | 0.40 | – |"]
