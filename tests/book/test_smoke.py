"""Every chapter runs at scale smoke, in this process; `make slow` has the chain do it, and builds the book."""

import pytest
from building import ROOT, results_of, run_cells

from mipo_study.book import plan

pytestmark = pytest.mark.long

NAMES = sorted(file.stem for file in (ROOT / "notebooks").glob("*.ipynb"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One for all: later chapters need what earlier ones leave."""
    return tmp_path_factory.mktemp("smoke")


@pytest.mark.parametrize("name", NAMES)
def test_chapter_runs(name, folder, monkeypatch):
    monkeypatch.setenv("MIPO_ROOT", str(ROOT))
    run_cells(name, folder, scale="smoke", **plan.steps("smoke")[name].parameters)
    results = results_of(name, folder)
    assert results["numbers"] or results["skipped"]
    assert {claim["status"] for claim in results["claims"].values()} <= {None}
