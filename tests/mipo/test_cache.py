"""Runs: kept by content, whole or not at all, checked when read, and found again from what they measured."""

import ast
import json
import math
import os
import pickle
import shutil
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from mipo import cache, files


def run(where, config=None, make=None, name="arm", **more):
    make = make or make_one
    settings = config or {"beta": 1.0}
    return cache.run_or_load(where, name, settings, make, code=["mipo.losses"], **more)


def never(folder):
    pytest.fail("it was kept")


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project of its own, so that nothing is found in this one's results."""
    monkeypatch.setenv("MIPO_ROOT", str(tmp_path))
    return tmp_path


# ---- made once, whole or not at all ----


def make_one(folder):
    (folder / "weights.txt").write_text("w" * 100)
    return {"loss": 0.25, "none": None}


def test_a_run_is_made_once_then_loaded(tmp_path):
    first = run(tmp_path)
    second = run(tmp_path, make=lambda folder: pytest.fail("it was kept"))
    assert (first.fresh, second.fresh) == (True, False)
    assert second.metrics == first.metrics == {"loss": 0.25, "none": None}
    assert (second.path / "weights.txt").read_text() == "w" * 100
    assert second.seconds == first.seconds


def test_the_key_follows_name_config_and_inputs(tmp_path):
    data = tmp_path / "data.txt"
    data.write_text("one")
    keys = [
        run(tmp_path).key,
        run(tmp_path, {"beta": 2.0}).key,
        run(tmp_path, name="other").key,
        run(tmp_path, inputs={"data": data}).key,
        run(tmp_path, inputs={"model": "org/model"}).key,
    ]
    data.write_text("two")
    keys.append(run(tmp_path, inputs={"data": data}).key)
    assert len(set(keys)) == len(keys)
    data.write_text("one")  # content counts, not dates
    assert run(tmp_path, inputs={"data": data}).key == keys[3]


def test_unknown_module_is_named(tmp_path):
    with pytest.raises(ValueError, match="mipo.lossses"):
        cache.run_or_load(tmp_path, "x", {}, make_one, code=["mipo.lossses"])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_diverged_run_is_refused_and_the_field_named(tmp_path, bad):
    with pytest.raises(ValueError, match=r"arm: metrics\.loss\[1\]"):
        run(tmp_path, make=lambda folder: {"loss": [1.0, bad]})


def start_slow(where):
    code = textwrap.dedent(f"""
        import time
        from mipo import cache
        def make(folder):
            (folder / "weights.txt").write_text("half")
            print("started", flush=True)
            time.sleep(60)
        cache.run_or_load({str(where)!r}, "arm", {{"beta": 1.0}}, make, code=["mipo.losses"])""")
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "started\n"
    return process


def test_killed_in_the_middle_of_writing_then_made_anew(tmp_path):
    process = start_slow(tmp_path)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert list((tmp_path / "runs").glob(".arm-*.partial"))
    again = run(tmp_path)
    assert again.fresh and (again.path / "weights.txt").read_text() == "w" * 100
    assert not list((tmp_path / "runs").glob(".arm-*.partial"))


def test_a_second_process_waits_for_the_first(tmp_path):
    process = start_slow(tmp_path)
    code = f"""from mipo import cache
print(cache.run_or_load({str(tmp_path)!r}, "arm", {{"beta": 1.0}}, lambda f: {{}}, code=["mipo.losses"]).fresh)"""
    waiting = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True
    )
    time.sleep(1.5)
    assert waiting.poll() is None  # neither reads the half nor writes over it
    process.kill()
    process.wait()
    assert waiting.communicate(timeout=60)[0] == "True\n"


def test_a_failed_run_leaves_nothing(tmp_path):
    def fails(folder):
        (folder / "weights.txt").write_text("half")
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        run(tmp_path, make=fails)
    left = [path.name for path in (tmp_path / "runs").iterdir()]
    assert left == [".locks"] and not (tmp_path / "measured").exists()
    assert run(tmp_path).fresh


def test_what_a_killed_run_of_another_name_left_is_removed(tmp_path):
    left = tmp_path / "runs" / ".gone-0123456789abcdef.partial"
    left.mkdir(parents=True)
    run(tmp_path)
    assert not left.exists()


def test_the_state_of_the_code_is_asked_before_the_work(tmp_path, monkeypatch):
    """What goes wrong there, git missing once did, may not cost hours of training."""

    def fails():
        raise OSError("no git")

    monkeypatch.setattr(cache, "source_state", fails)
    with pytest.raises(OSError, match="no git"):
        run(tmp_path, make=never)


def test_without_git_a_run_is_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert run(tmp_path).fresh and not run(tmp_path, make=never).fresh
    about = files.unseal(run(tmp_path).path / "run.json")
    assert about["commit"] == "no commit"


# ---- what is read is what was written ----


def flip(file):
    """Change one bit: the size stays."""
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))


def spoil(file, how):
    about = json.loads(file.read_text()) if file.suffix == ".json" else {}
    texts = {
        "cut": "w",
        "null": "null",
        "list": "[]",
        "deep": "[" * 100_000,
        "half": '{"metrics"',
        "files": json.dumps(about | {"files": []}),
        "seconds": json.dumps(about | {"seconds": None}),
        "metrics": json.dumps(about | {"metrics": {"loss": 9.25, "none": None}}),
        "code": json.dumps(about | {"code": {}}),
    }
    if how == "flip":
        flip(file)
    elif how == "gone":
        file.unlink()
    elif how == "folder":
        file.unlink()
        file.mkdir()
    else:
        file.write_text(texts[how])


@pytest.mark.parametrize("how", ["cut", "flip", "gone", "folder"])
def test_a_run_with_a_changed_file_is_made_anew_and_the_file_named(
    how, tmp_path, capsys
):
    spoil(run(tmp_path).path / "weights.txt", how)
    again = run(tmp_path)
    assert again.fresh and (again.path / "weights.txt").read_text() == "w" * 100
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "weights.txt" in said and "made anew" in said


@pytest.mark.parametrize(
    "how",
    "cut null list deep half files seconds metrics code flip gone folder".split(),
)
def test_a_run_whose_json_was_changed_is_made_anew(how, tmp_path, capsys):
    spoil(run(tmp_path).path / "run.json", how)
    again = run(tmp_path)
    assert again.fresh and again.metrics == {"loss": 0.25, "none": None}
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "run.json" in said


def block(place, how, elsewhere):
    files.remove(place)
    if how == "file":
        place.write_text("x")
    else:
        place.symlink_to(elsewhere)


@pytest.mark.parametrize("how", ["file", "dangling link"])
@pytest.mark.parametrize("which", ["folder", "partial"])
def test_what_stands_in_the_way_is_removed(which, how, tmp_path):
    folder = run(tmp_path).path
    shutil.rmtree(tmp_path / "measured")
    partial = folder.with_name(f".{folder.name}.partial")
    files.remove(folder)
    block(folder if which == "folder" else partial, how, tmp_path / "nowhere")
    again = run(tmp_path)
    assert again.fresh and (again.path / "weights.txt").is_file()
    assert not os.path.lexists(partial)


def test_a_link_is_removed_and_not_what_it_leads_to(tmp_path):
    folder = run(tmp_path).path
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "mine.txt").write_text("mine")
    files.remove(folder)
    folder.symlink_to(elsewhere)
    assert run(tmp_path).fresh and (elsewhere / "mine.txt").read_text() == "mine"


def test_a_path_in_a_run_counts_by_its_run_and_is_checked(tmp_path):
    one = run(tmp_path)
    given = [one / "weights.txt", str(one.path / "weights.txt")]
    keys = {run(tmp_path, name="next", inputs={"one": value}).key for value in given}
    assert len(keys) == 1
    flip(one.path / "weights.txt")
    with pytest.raises(ValueError, match="weights.txt was changed"):
        run(tmp_path, name="next", inputs={"one": given[1]})


def test_run_dir_that_is_a_file_is_one_error(tmp_path):
    (tmp_path / "taken").write_text("x")
    with pytest.raises(OSError, match="run_dir .*taken cannot be written"):
        run(tmp_path / "taken")


# ---- what was measured is enough ----


def cached(name, **more):
    """`cache.cached`, as if the function stood in a module of the package."""

    def decorate(make):
        make.__module__ = "mipo.losses"
        run = cache.cached(name, **more)(make)
        run.__module__ = __name__
        return run

    return decorate


@cached("base-{seed}", keep=["log.json"])
def base(folder, *, seed, progress):
    MADE.append("base")
    (folder / "model").mkdir()
    (folder / "model" / "weights.txt").write_text(str(seed))
    (folder / "log.json").write_text(json.dumps([{"loss": 2.0}, {"loss": 1.0}]))
    return {"loss": 1.0 + seed}


@cached("pairs-{seed}", inputs=["base"])
def pairs(folder, *, base, seed, progress):
    MADE.append("pairs")
    weights = (base.path / "model" / "weights.txt").read_text()
    (folder / "pairs.jsonl").write_text(weights * 3)
    return {"pairs": 3}


@cached("policy", inputs=["base", "pairs"])
def policy(folder, *, base, pairs, progress):
    MADE.append("policy")
    (folder / "weights.txt").write_text((pairs.path / "pairs.jsonl").read_text())
    return {"steps": 3}


@cached("scores", inputs=["policy"], keep=["scores.json"])
def scores(folder, *, policy, progress):
    MADE.append("scores")
    values = [float(digit) for digit in (policy.path / "weights.txt").read_text()]
    (folder / "scores.json").write_text(json.dumps(values))
    return {"mean": sum(values) / len(values)}


MADE: list[str] = []


def chapter(run_dir):
    """Base model, pairs, policy, scores: what a chapter trains."""
    start = base(run_dir, seed=7)
    made = pairs(run_dir, base=start, seed=7)
    trained = policy(run_dir, base=start, pairs=made)
    return start, made, trained, scores(run_dir, policy=trained)


def test_a_chapter_is_rebuilt_from_what_was_measured(project):
    MADE.clear()
    first = chapter("runs/full")
    assert MADE == ["base", "pairs", "policy", "scores"]
    shutil.rmtree(project / "runs" / "full" / "runs")
    second = chapter("runs/full")
    assert MADE == ["base", "pairs", "policy", "scores"]  # nothing was made
    assert [run.metrics for run in second] == [run.metrics for run in first]
    assert second[3].metrics == {"mean": 7.0}
    assert second[3].read("scores.json") == "[7.0, 7.0, 7.0]"
    assert json.loads(second[0].read("log.json"))[1] == {"loss": 1.0}
    assert not any(run.fresh for run in second) and len(MADE) == 4

    assert (second[2].path / "weights.txt").read_text() == "777"
    assert MADE[4:] == ["policy", "base", "pairs"] or MADE[4:] == [
        "policy",
        "pairs",
        "base",
    ]  # each once: the policy, and what it is made of
    assert second[2].path and second[0].path and len(MADE) == 7


def test_a_chapter_is_rebuilt_from_what_is_committed(project):
    first = chapter("runs/full")
    committed = project / "results" / "full" / "measured"
    shutil.copytree(project / "runs" / "full" / "measured", committed)
    shutil.rmtree(project / "runs")
    MADE.clear()
    second = chapter("runs/laptop")  # elsewhere, at another scale: the same keys
    assert [run.metrics for run in second] == [run.metrics for run in first]
    assert MADE == []
    assert (second[0] / "model").key == (first[0] / "model").key and MADE == []
    assert os.path.isdir(second[0] / "model") and MADE == ["base"]


def test_a_changed_measurement_is_not_used(project, capsys):
    one = base("runs/full", seed=1)
    shutil.rmtree(project / "runs" / "full" / "runs")
    file = project / "runs" / "full" / "measured" / f"{one.folder.name}.json"
    file.write_text(file.read_text().replace('"loss": 2.0', '"loss": 3.0'))
    assert base("runs/full", seed=1).fresh
    assert f"{file.name} was changed" in capsys.readouterr().err


def test_files_that_come_out_otherwise_are_said(project, capsys):
    values = iter([1.0, 2.0])
    make = lambda folder: {"loss": next(values)}  # noqa: E731
    run(project, make=make)
    shutil.rmtree(project / "runs")
    again = run(project, make=make)
    assert again.metrics == {"loss": 1.0} and again.path.is_dir()
    assert "numbers differ" in capsys.readouterr().err


def test_other_files_with_the_same_numbers_are_said(project, capsys):
    """As pairs have that another machine draws: the numbers of both are equal."""
    texts = iter(["first", "second", "second"])

    def make(folder):
        (folder / "pairs.txt").write_text(next(texts))
        return {"n": 1}

    first = run(project, make=make)
    shutil.rmtree(project / "runs")
    second = run(project, make=make)
    assert second.content == first.content and second.path.is_dir()
    assert "its files differ" in capsys.readouterr().err
    remade = run(project, make=make)
    assert remade.content != first.content
    shutil.rmtree(project / "runs")
    assert run(project, make=make).path.is_dir()
    assert "differ" not in capsys.readouterr().err


def test_a_run_keeps_which_files_it_was_made_from(project):
    made = chapter("runs/full")[2]
    about = cache.read_run(made.folder)
    start = parts("runs/full")
    assert about["read"] == {name: part.content for name, part in start.items()}
    assert len(set(about["read"].values())) == 2
    kept = project / "runs" / "full" / "measured" / f"{made.folder.name}.json"
    assert json.loads(kept.read_text())["content"] == made.content


def test_a_run_goes_to_another_process_with_a_maker_that_has_a_name(project):
    chapter("runs/full")
    lone = run("runs/full")
    shutil.rmtree(project / "runs" / "full" / "runs")
    MADE.clear()
    sent = pickle.loads(pickle.dumps(policy("runs/full", **parts("runs/full"))))
    assert (sent.path / "weights.txt").read_text() == "777" and "policy" in MADE
    lone = pickle.loads(pickle.dumps(lone))
    assert lone.metrics["loss"] == 0.25
    with pytest.raises(FileNotFoundError, match="ask the function that made it"):
        _ = lone.path


def parts(run_dir):
    start = base(run_dir, seed=7)
    return {"base": start, "pairs": pairs(run_dir, base=start, seed=7)}


@pytest.fixture
def elsewhere(project):
    """Label of a policy of which only the measurement is here, as of all it is made of."""
    label = chapter("runs/full")[2].folder.name
    shutil.rmtree(project / "runs" / "full" / "runs")
    MADE.clear()
    return label


@pytest.mark.parametrize("sent", [False, True], ids=["here", "in another process"])
def test_a_run_that_was_found_by_name_makes_its_files(elsewhere, sent):
    """A later notebook opens it: no earlier one has to run for that."""
    found = cache.find("runs/full", elsewhere)
    found = pickle.loads(pickle.dumps(found)) if sent else found
    assert found.metrics == {"steps": 3} and MADE == []
    assert (found.path / "weights.txt").read_text() == "777"
    assert sorted(MADE) == ["base", "pairs", "policy"]
    assert found.path and len(MADE) == 3


@pytest.mark.parametrize("lost", ["code", "input", "function"])
def test_a_run_that_cannot_be_made_again_says_what_to_do(
    project, elsewhere, lost, monkeypatch
):
    if lost == "code":  # the function is another now, so it would make another run
        monkeypatch.setattr(cache, "function_code", lambda make: {"mipo.x": "new"})
    elif lost == "function":
        monkeypatch.setattr(cache, "MAKERS", {})
    else:
        (file,) = (project / "runs" / "full" / "measured").glob("pairs-*.json")
        file.unlink()
    found = cache.find("runs/full", elsewhere, "run chapter 6")
    with pytest.raises(FileNotFoundError, match="run chapter 6"):
        _ = found.path
    assert MADE == []
    monkeypatch.undo()
    monkeypatch.setenv("MIPO_ROOT", str(project))
    chapter("runs/full")  # the chapter that made it knows that its files are wanted
    assert "policy" in MADE and found.path.is_dir()


def test_only_what_the_results_used_is_published(project):
    one, other = base("runs/full", seed=1), base("runs/full", seed=2)
    results = project / "runs" / "full" / "results"
    files.write_whole(results / "04.json", files.seal({"runs": [one.folder.name]}))
    listed = cache.measured("runs/full")
    assert [file.name for file in listed] == [f"{one.folder.name}.json"]
    assert other.folder.name != one.folder.name
    target = project / "results" / "full" / "measured" / listed[0].name
    files.write_whole(target, listed[0].read_bytes())
    shutil.rmtree(project / "runs" / "full" / "measured")
    assert cache.measured("runs/full") == [target]  # as it was committed
    assert cache.measured("runs/laptop") == []


# ---- which code counts ----


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of three modules: a imports b, c stands alone."""
    folder = tmp_path / "mipo"
    folder.mkdir()
    texts = {"__init__": "", "a": "from mipo import b\nx = 1\n"}
    texts |= {"b": '"""Doc."""\ny = 2\n', "c": "z = 3\n"}
    for name, text in texts.items():
        (folder / f"{name}.py").write_text(text)
    monkeypatch.setattr(cache, "SOURCE", tmp_path)
    return folder


def test_the_key_follows_the_code_and_what_it_imports_but_no_comment(package):
    before = cache.code_hashes(["mipo.a"])
    assert sorted(before) == ["mipo.a", "mipo.b"]
    (package / "c.py").write_text("z = 4\n")
    (package / "b.py").write_text('"""Another docstring."""\n# a comment\ny = 2\n')
    assert cache.code_hashes(["mipo.a"]) == before
    (package / "b.py").write_text("y = 3\n")
    assert cache.code_hashes(["mipo.a"])["mipo.b"] != before["mipo.b"]


@pytest.mark.parametrize(
    "line",
    [
        "import mipo.b",
        "from mipo.b import y",
        "from . import b",
        "from .b import y",
        "def f():\n    from mipo import b",
    ],
)
def test_every_way_to_import_is_seen(package, line):
    assert cache.imported(line, "mipo.a") - {"mipo"} == {"mipo.b"}


def test_advice_and_launching_are_in_no_key_but_what_they_serve_is():
    """A word in a message must not make hours on a GPU anew."""
    found = set(cache.code_hashes(["mipo_study.hub.runs", "mipo_study.hub.scores"]))
    assert not found & set(cache.KEEPERS)
    served = {"hub.runs", "hub.scores", "hub.train", "hub.benchmarks"}
    assert {f"mipo_study.{name}" for name in served} | {"mipo.trainer"} <= found


def test_modules_that_keep_but_do_not_compute_exist():
    assert [name for name in cache.KEEPERS if cache.module_file(name) is None] == []


SOURCE = '''
"""Words that do not count."""
import re as regex

def label(name: str, *rest, width=3, **more) -> str:
    """Nor do these."""
    said = f"{name!r:>{width}}" u"and" f" {more["a"] if (n := len(rest)) else 0:.3f}"
    match rest:
        case [first, *_] if first:
            return "a" "b" + f"{first}é\u2028"
        case {"x": 1.0, **others}:
            return said
    return None

@property
class Thing(dict, metaclass=type):
    x: int = -1
    y = [b"ab", 1e-3, ..., True, None, 2j]
'''
# f"{more["a"]}" is no Python 3.11; there the inner quotes are others, the tree is one.
OLDER = SOURCE.replace('more["a"]', "more['a']")
# By Python 3.11, 3.12 and 3.13: no version may have another.
EXPECTED = "6b2c7d325fd24beae405cbd9d0e2cb504f2a9c1284a57a8cad3cef91b9e1e4d0"


def test_the_hash_of_a_source_is_the_same_on_every_python():
    assert cache._hash_of(OLDER) == EXPECTED
    if sys.version_info >= (3, 12):
        assert cache._hash_of(SOURCE) == EXPECTED


def test_how_a_python_cuts_an_f_string_does_not_count():
    """Python 3.12 ends a format that holds a field with an empty text."""
    whole = ast.parse('f"ab{x:>{w}}"', mode="eval").body
    parts = [*map(ast.Constant, "ab"), *whole.values[1:], ast.Constant("")]
    assert cache.canonical(ast.JoinedStr(parts)) == cache.canonical(whole)
    turned = [*map(ast.Constant, "ba"), *whole.values[1:]]
    assert cache.canonical(ast.JoinedStr(turned)) != cache.canonical(whole)


@pytest.mark.parametrize(
    "old, new",
    [
        ("width=3", "width=4"),
        (":.3f}", ":.4f}"),
        ("!r:", "!s:"),
        ("-1", "+1"),
        ("-1", "1"),
        ("n :=", "m :="),
        ("1e-3", "0.0010000000000000002"),
        ("True", "1"),
        ("@property", "@classmethod"),
        ("**others", "**more"),
        ('u"and"', "'or'"),
        ("regex", "rex"),
        ("return None", "return"),
    ],
)
def test_the_hash_follows_what_the_code_does(old, new):
    assert old in OLDER
    assert cache._hash_of(OLDER.replace(old, new)) != EXPECTED


@pytest.mark.parametrize(
    "old, new",
    [
        ("Words that do not count.", "Other words."),
        ('    """Nor do these."""\n', ""),
        ("import re as regex", "# why\nimport re as regex\n\n"),
        ('u"and" f"', 'f"and'),
        ('"a" "b"', '"ab"'),
        ("1e-3", "0.001"),
    ],
)
def test_layout_docstrings_and_comments_do_not_count(old, new):
    assert old in OLDER
    assert cache._hash_of(OLDER.replace(old, new)) == EXPECTED


def test_the_hints_of_a_function_do_not_count_but_a_field_of_a_class_does():
    hinted = "def f(a: int, *b: str, c: float = 1) -> list[int]:\n    return a"
    assert cache._hash_of(hinted) == cache._hash_of("def f(a, *b, c=1): return a")
    assert cache._hash_of(hinted) != cache._hash_of("def f(a, *b, c=2): return a")
    one, other = "class A:\n    x: int", "class A:\n    x: str"
    assert cache._hash_of(one) != cache._hash_of(other)


# ---- times ----


@pytest.mark.parametrize(
    "spans, seconds",
    [
        ([], 0),
        ([(5, 8)], 3),
        ([(5, 8), (0, 2)], 5),
        ([(0, 4), (3, 6)], 6),
        ([(0, 9), (2, 3), (4, 5)], 9),
        ([(0, 4), (0, 4)], 4),
    ],
)
def test_time_that_runs_share_counts_once(spans, seconds):
    assert cache.covered(spans) == seconds
