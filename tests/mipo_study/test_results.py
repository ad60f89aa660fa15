"""Results: read where they are, None where nothing was run, refused where they were changed."""

import json

import pytest

from mipo import files, record
from mipo_study import results
from mipo_study.book import compare
from mipo_study.book import results as pages


def test_what_was_not_run_is_none_and_what_was_is_read(tmp_path, monkeypatch):
    monkeypatch.setenv("MIPO_ROOT", str(tmp_path))
    assert results.committed("16-scaling", "gpu") is None
    (tmp_path / "results" / "gpu").mkdir(parents=True)
    (tmp_path / "results" / "gpu" / "16-scaling.json").write_text(
        json.dumps({"scale": "gpu"})
    )
    assert results.committed("16-scaling", "gpu") == {"scale": "gpu"}


READERS = {
    "a later chapter": lambda: results.committed("16-scaling", "full"),
    "its own chapter": lambda: record.Notebook("16-scaling").published("gain"),
    "the pages": lambda: pages.best_results("laptop"),
    "make compare": lambda: compare.compare("laptop"),
}


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A published result, and a run at scale laptop that found the same."""
    monkeypatch.setenv("MIPO_ROOT", str(tmp_path))
    number = {"mean": 0.125, "low": 0.1, "high": 0.15, "n": 3, "values": [0.125]}
    content = {"numbers": {"gain": number}, "date": "2026-11-27", "code": {}}
    text = files.seal(content | {"claims": {}, "figures": {}, "skipped": ""})
    for folder in ("runs/laptop/results", "results/full"):
        files.write_whole(tmp_path / folder / "16-scaling.json", text)
    return tmp_path / "results" / "full" / "16-scaling.json"


@pytest.mark.parametrize("reader", READERS)
def test_a_digit_that_was_changed_is_in_no_page_and_no_chapter(published, reader):
    assert READERS[reader]()
    published.write_text(published.read_text().replace("0.125", "0.925"))
    with pytest.raises(ValueError, match="16-scaling.json was changed after it"):
        READERS[reader]()


@pytest.mark.parametrize("reader", ["the pages", "make compare"])
@pytest.mark.parametrize("how", ["edited", "cut"])
def test_ones_own_changed_results_are_named_with_what_to_do(published, reader, how):
    own = published.parents[2] / "runs" / "laptop" / "results" / published.name
    text = own.read_text()
    own.write_text(text[:40] if how == "cut" else text.replace("0.125", "0.925"))
    with pytest.raises(ValueError, match="16-scaling.json .*run (its chapter )?again"):
        READERS[reader]()
