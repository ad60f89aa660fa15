"""Fills the prose pages and the README: they are Jinja templates.

{{ number("06-mipo-training/adherence-base", "percent") }}    a number of a chapter
{{ status("c22") }}                                           a claim's status
{{ figure("06-mipo-training/headline") }}                     a figure of a chapter
{{ claims() }} {{ claims_summary() }} {{ times() }} ...       see `Page.functions`

python -m mipo_study.book.fill      writes README.md from book/README.md.jinja
"""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Callable
from pathlib import Path

import jinja2

from mipo.files import project_root, write_whole
from mipo.numbers import Number, fmt
from mipo_study.book import tables
from mipo_study.book.plan import suggestion
from mipo_study.book.results import Results, claim_status, load_claims, results_in
from mipo_study.book.tables import NOTHING, Staged
from mipo_study.results import committed

PUBLISHED = ("full", "gpu")
README = "book/README.md.jinja"


class Page:
    """What a page may ask for: numbers, figures and tables of these results.

    Parameters
    ----------
    name : str
        The page's file, as seen from the book's root.
    results : dict
        {notebook: its result file}.
    scale : str
        Whose runs the book is built of.
    staged : dict
        {notebook: its figures} of the pages that the book has.
    """

    def __init__(self, name: str, results: Results, scale: str, staged: Staged):
        self.name, self.results, self.scale, self.staged = name, results, scale, staged

    def functions(self) -> dict[str, Callable[..., str]]:
        """{name in a template: function}."""
        own = results_in(project_root() / "runs" / self.scale / "results")
        return {
            "number": self.number,
            "status": self.status,
            "figure": self.figure,
            "claims": lambda: tables.claims(self.results, self.staged),
            "claims_summary": lambda: tables.claims_summary(self.results),
            "times": lambda: tables.times(self.results),
            "work": lambda: tables.work(own),  # of this run, not of the published one
            "versions": lambda: tables.versions(self.results),
            "bench": tables.bench,
            "bench_replies": tables.bench_replies,
            "real_models": tables.real_models,
            "real_models_sentence": tables.real_models_sentence,
        }

    def entry(self, place: str, kind: str) -> dict | None:
        """One entry of a chapter's results.

        Parameters
        ----------
        place : str
            "chapter/name".
        kind : str
            "numbers" or "figures".

        Returns
        -------
        dict or None
            None where the chapter was not run.

        Raises
        ------
        ValueError
            For a chapter that does not exist, and a name that published results do not
            have: it is misspelt.
        """
        chapter, _, name = place.partition("/")
        if not (project_root() / "notebooks" / f"{chapter}.ipynb").exists():
            raise ValueError(f"{place!r}: there is no notebook {chapter!r}")
        result = self.results.get(chapter, {})
        entries = result.get(kind, {})
        if name not in entries and result.get("scale") in PUBLISHED:
            hint = suggestion(name, entries)
            raise ValueError(f"{place!r}: no such entry among its {kind}{hint}")
        return entries.get(name)

    def number(self, place: str, form: str = "") -> str:
        """A number of a chapter.

        Parameters
        ----------
        place : str
            "chapter/name".
        form : str
            "": mean, interval and unit; "mean", "low" or "high" alone; "percent" or
            "percent1" (one digit more) of the mean; "range": the interval in percent.

        Raises
        ------
        ValueError
            For another form; see also `entry`.
        """
        number = self.entry(place, "numbers")
        if number is None:
            return NOTHING
        if form == "":
            return str(Number(**number))
        if form in ("percent", "percent1"):
            return f"{100 * number['mean']:.{int(form == 'percent1')}f} %"
        if form == "range" and number["low"] is None:
            return NOTHING
        if form == "range":
            return f"{100 * number['low']:.0f} to {100 * number['high']:.0f} %"
        if form in ("mean", "low", "high"):
            return fmt(number[form])
        raise ValueError(f"{place!r}: {form!r} is no form of a number")

    def status(self, claim: str) -> str:
        """A claim's status by its number, as in status("c22")."""
        rows = {row["slug"].split("-")[0]: row for row in load_claims()}
        if claim not in rows:
            raise ValueError(f"there is no claim {claim!r}{suggestion(claim, rows)}")
        status, measurement = claim_status(rows[claim], self.results)
        return status if measurement else "not judged yet"

    def figure(self, place: str) -> str:
        """An image with its own alt text, from where the staging puts figures."""
        figure = self.entry(place, "figures")
        if figure is None:
            return "*(the figure comes with the first full run)*"
        chapter = place.split("/")[0]
        folder = "published" if committed(chapter, "full") else "figures"
        file = f"{folder}/{Path(figure['file']).name}"
        return image(os.path.relpath(file, Path(self.name).parent), figure["alt"])


def image(target: str, alt: str) -> str:
    """An image whose alt text is taken as it is, whatever Markdown would make of it."""
    text = json.dumps(" ".join(alt.split()), ensure_ascii=False)
    return f"```{{image}} {target}\n:alt: {text}\n```"


def fill(text: str, page: Page) -> str:
    """A page's text with its numbers.

    Parameters
    ----------
    text : str
        A Jinja template.
    page : Page
        What it may ask for.

    Raises
    ------
    ValueError
        Names the line of what is asked wrongly.
    """
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        loader=jinja2.FunctionLoader(lambda name: (text, name, None)),
        keep_trailing_newline=True,
        comment_start_string="{##",  # {#name} is an anchor in MyST
        comment_end_string="##}",
    )
    environment.globals.clear()  # nothing but what the page may ask for
    functions = page.functions()
    try:
        return environment.get_template(page.name, globals=functions).render()
    except jinja2.TemplateSyntaxError as error:
        line, what = error.lineno, error.message
    except (ValueError, TypeError, jinja2.UndefinedError) as error:
        frames = traceback.extract_tb(error.__traceback__)
        line = [frame.lineno for frame in frames if frame.filename == page.name][-1]
        what = str(error)
    names = ", ".join(functions)
    raise ValueError(f"{page.name}, line {line}: {what} (a page has {names})")


def readme() -> str:
    """README.md with the published numbers."""
    root = project_root()
    results = results_in(root / "results" / "full")
    text = (root / README).read_text(encoding="utf-8")
    return fill(text, Page(README, results, "full", {}))


def main() -> None:
    """Write README.md."""
    write_whole(project_root() / "README.md", readme())


if __name__ == "__main__":
    main()
