"""Committed results: read where they are, None where nothing was run."""

import json

from mipo_study import results


def test_what_was_not_run_is_none_and_what_was_is_read(tmp_path, monkeypatch):
    monkeypatch.setenv("MIPO_ROOT", str(tmp_path))
    assert results.committed("16-scaling", "gpu") is None
    (tmp_path / "results" / "gpu").mkdir(parents=True)
    (tmp_path / "results" / "gpu" / "16-scaling.json").write_text(
        json.dumps({"scale": "gpu"})
    )
    assert results.committed("16-scaling", "gpu") == {"scale": "gpu"}
