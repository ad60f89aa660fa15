"""Provenance is true wherever the tree lies, and git may be missing."""

import subprocess
import sys

import pytest

from mipo import files, provenance


def test_provenance_names_the_gpu(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H200")
    assert provenance.provenance()["gpu"] == "NVIDIA H200"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert provenance.provenance()["gpu"] is None
    monkeypatch.delitem(
        sys.modules, "torch"
    )  # a process that computes nothing need not import it
    assert provenance.provenance()["gpu"] is None and "torch" not in sys.modules


def test_claims_and_versions_are_plain_json():
    assert set(provenance.versions()) >= {"python", "torch", "transformers", "trl"}
    assert (files.project_root() / "pyproject.toml").exists()
    assert "cores" in provenance.machine()


def git(where, *arguments):
    names = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    done = subprocess.run(
        ["git", *names, *arguments], cwd=where, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A project in a repository of its own, with one commit."""
    root = tmp_path / "project"
    (root / "src" / "mipo").mkdir(parents=True)
    (root / "src" / "mipo" / "a.py").write_text("x = 1")
    git(root, "init", "-q")
    git(root, "add", ".")
    git(root, "commit", "-q", "-m", "first")
    monkeypatch.setenv("MIPO_ROOT", str(root))
    monkeypatch.setattr(provenance, "SOURCE", root / "src")
    return root


def test_the_commit_is_this_projects(tree):
    head = git(tree, "rev-parse", "HEAD")
    assert provenance.source_state() == {"commit": head[:12], "dirty": False}


@pytest.mark.parametrize("file", ["src/mipo/a.py", "src/mipo/new.py"])
def test_a_changed_or_an_added_source_makes_it_dirty(file, tree):
    (tree / file).write_text("x = 2")
    assert provenance.source_state()["dirty"]


def test_an_untracked_file_elsewhere_changes_no_number(tree):
    (tree / "notes.txt").write_text("mine")
    assert not provenance.source_state()["dirty"]


def test_a_tree_in_somebody_elses_repository_has_no_commit(tree, monkeypatch):
    inner = tree / "vendor" / "study"
    (inner / "src").mkdir(parents=True)
    monkeypatch.setenv("MIPO_ROOT", str(inner))
    monkeypatch.setattr(provenance, "SOURCE", inner / "src")
    nothing = {"commit": "no commit", "dirty": False}
    assert provenance.source_state() == nothing


def test_code_installed_elsewhere_has_not_the_commit_of_the_folder(tree, monkeypatch):
    monkeypatch.setattr(provenance, "SOURCE", tree.parent / "site-packages")
    assert provenance.source_state()["commit"] == "no commit"


def test_an_unpacked_archive_has_no_commit(tmp_path, monkeypatch):
    monkeypatch.setenv("MIPO_ROOT", str(tmp_path))
    assert provenance.source_state()["commit"] == "no commit"


def test_the_repository_of_a_git_hook_is_not_ours(tree, monkeypatch):
    head = git(tree, "rev-parse", "HEAD")
    monkeypatch.setenv("GIT_DIR", str(tree.parent / "nowhere"))
    assert provenance.source_state()["commit"] == head[:12]


def test_without_git_there_is_no_commit_and_no_error(tree, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert provenance.source_state() == {"commit": "no commit", "dirty": False}
    assert provenance.provenance()["commit"] == "no commit"


def test_what_is_given_is_not_asked_again(monkeypatch):
    monkeypatch.setattr(provenance, "source_state", lambda: pytest.fail("asked"))
    given = {"commit": "abc", "dirty": True}
    assert provenance.provenance(given)["commit"] == "abc"


def test_peak_memory_remembers_what_was_given_back():
    code = (
        "from mipo.provenance import peak_memory; held = bytearray(600 << 20); "
        "held[::4096] = held[::4096]; del held; print(peak_memory())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert 0.58 < float(done.stdout) < 60  # 600 MiB are 0.586 GiB
