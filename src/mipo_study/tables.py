"""The one writer of tables: a DataFrame as Markdown, text quoted, gaps as dashes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from numbers import Real
from typing import TYPE_CHECKING

import pandas as pd

from mipo.numbers import Number
from mipo.quote import quote

if TYPE_CHECKING:
    from mipo.record import Notebook

MISSING = "–"


def markdown(
    frame: pd.DataFrame,
    formats: Mapping[str, str] | None = None,
    *,
    index: bool = False,
    limit: int | None = None,
    markup: Collection[str] = (),
) -> str:
    """A table for a page of the book.

    Parameters
    ----------
    frame : pandas.DataFrame
        One row of the table each. Headings are ours and stand as they are; text in
        cells may be anybody's and is quoted (see `mipo.quote.quote`).
    formats : mapping, optional
        How numbers are written, by column: ``{"accuracy": ".1%"}``; ``"g"`` elsewhere.
    index : bool
        Whether the index is the first column.
    limit : int, optional
        Longer texts are cut after so many characters.
    markup : collection of str
        Columns of our own Markdown (links, bold), which stands as it is.

    Returns
    -------
    str
        Markdown; numbers stand at the right, text at the left.

    Raises
    ------
    ValueError
        For a format of a column that the frame does not have.
    """
    shown = frame.reset_index() if index else frame
    formats = dict(formats or {})
    strange = [name for name in formats if name not in shown.columns]
    if strange:
        known = ", ".join(map(str, shown.columns))
        raise ValueError(f"no column {strange[0]!r}; the table has {known}")
    rules = [
        "---:" if pd.api.types.is_numeric_dtype(shown[name]) else "---"
        for name in shown.columns
    ]
    columns = []
    for name in shown.columns:
        form = formats.get(name, "g")
        if name in markup:
            texts = [str(value).replace("|", r"\|") for value in shown[name]]
        else:
            texts = [cell(value, form, limit=limit) for value in shown[name]]
        columns.append(texts)
    rows = [map(str, shown.columns), rules, *zip(*columns, strict=True)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def cell(value: object, form: str = "g", *, limit: int | None = None) -> str:
    """One value as a table shows it: a number in its format, foreign text quoted.

    Parameters
    ----------
    value : object
        A number, a text, a (low, high) interval, or None.
    form : str
        Format of numbers, as in ``format(value, form)``.
    limit : int, optional
        Longer texts are cut after so many characters.

    Returns
    -------
    str
    """
    if isinstance(value, tuple):
        return f"[{', '.join(cell(end, form) for end in value)}]"
    if value is None or value is pd.NA or value != value:
        return MISSING
    if isinstance(value, Real) and not isinstance(value, bool):
        return format(value, form)
    return quote(str(value), limit)


def listed(values: Mapping | pd.Series, form: str = "g") -> str:
    """Named numbers in a line of prose: ``tone 0.32, hobby 0.14``.

    Parameters
    ----------
    values : mapping or Series
        {name: number}; underscores in names are shown as spaces.
    form : str
        Format of the numbers.

    Returns
    -------
    str
    """
    words = [(str(name).replace("_", " "), value) for name, value in values.items()]
    return ", ".join(f"{name} {cell(value, form)}" for name, value in words)


def measures(
    nb: Notebook,
    rows: Mapping[str, str],
    columns: Mapping[str, str],
    *,
    by: str = "method",
) -> pd.DataFrame:
    """Means of a notebook's numbers, of this run or else of the published one.

    Parameters
    ----------
    nb : Notebook
        Its number `<measure>-<name>` fills a cell; None where nobody has it.
    rows : mapping
        {label: name}.
    columns : mapping
        {heading: measure}.
    by : str
        What the rows are: the name of the index.

    Returns
    -------
    pandas.DataFrame
    """
    means = {
        heading: [_mean(nb, f"{measure}-{name}") for name in rows.values()]
        for heading, measure in columns.items()
    }
    return pd.DataFrame(means, index=pd.Index(rows, name=by), dtype=float)


def number_of(nb: Notebook, name: str) -> Number | None:
    """A number of this run or, where it has none, of the published one."""
    return nb.numbers.get(name) or nb.published(name)


def _mean(nb: Notebook, name: str) -> float | None:
    number = number_of(nb, name)
    return number.mean if number else None
