"""The public functions: what is exported, and messages for arguments of a wrong type."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

import bertfit
from bertfit.data.dataset import TextDataset
from bertfit.errors import ConfigError, DataError, RunError
from bertfit.progress import Silent

ROWS = [{"text": "good film", "label": "pos"}, {"text": "bad film", "label": "neg"}]


def test_every_public_name_is_listed_before_it_is_loaded():
    code = "import bertfit; print(*dir(bertfit))"
    command = [sys.executable, "-c", code]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert set(bertfit.__all__) <= set(listed)
    assert "__doc__" in listed
    assert "annotations" not in listed  # nor what was imported
    assert listed == sorted(listed)


def test_a_checker_of_types_knows_the_names_and_refuses_others(tmp_path):
    uses = [f"bertfit.{name}" for name in bertfit.__all__]
    script = tmp_path / "uses.py"
    script.write_text("\n".join(["import bertfit", *uses, "bertfit.trian()"]), encoding="utf-8")
    config = tmp_path / "mypy.ini"
    config.write_text("[mypy]\nfollow_imports = skip\n", encoding="utf-8")  # all would take long
    options = ["--cache-dir", str(tmp_path / "cache"), "--config-file", str(config)]
    files = [bertfit.__file__, str(script)]
    command = [sys.executable, "-m", "mypy", *options, "--no-error-summary", *files]
    told = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    (line,) = [line for line in told.splitlines() if "error:" in line]
    assert 'Module has no attribute "trian"' in line


def test_results_do_not_show_every_row(tmp_path):
    dataset = TextDataset("a.csv", ["secret"], ["pos"], (), [2])
    assert "secret" not in repr(dataset)
    rows = [{**row, "text": f"{row['text']} {number}"} for number in range(20) for row in ROWS]
    report = bertfit.find_suspects([*rows, {"text": "secret good film", "label": "neg"}])
    assert any(one.text.startswith("secret") for one in report.suspects)
    assert "secret" not in repr(report)


def test_columns_are_named_one_by_one_to_train(tmp_path):
    with pytest.raises(ConfigError, match="columns: train takes the names") as caught:
        bertfit.train(ROWS, tmp_path / "run", columns=bertfit.Columns(text="text"))
    assert caught.value.hint is not None
    assert "text_column" in caught.value.hint


@pytest.mark.parametrize("name", ["errors.DataError", "config.resolve_settings"])
def test_the_modules_that_are_named_can_be_had_at_once(name):
    command = [sys.executable, "-c", f"import bertfit; bertfit.{name}"]
    subprocess.run(command, check=True)


def test_how_processes_start_is_left_to_the_caller():
    code = """
import bertfit, multiprocessing
words = ("good", "bad")
rows = [{"text": f"{word} film {at}", "label": word} for at in range(20) for word in words]
bertfit.find_suspects(rows)
assert multiprocessing.get_start_method(allow_none=True) is None
multiprocessing.set_start_method("spawn")
bertfit.find_suspects(rows)
assert multiprocessing.get_start_method() == "spawn"
"""
    for num_threads in ("1", "2"):
        settings = {**os.environ, "OMP_NUM_THREADS": num_threads}
        subprocess.run([sys.executable, "-c", code], check=True, env=settings)


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("text,label\n" * 40, "got 440 characters, beginning with 'text,label"),
        ("x" * 300, "got 300 characters"),
        ("a/" * 3_000, "got 5,999 characters"),
        ("é" * 100 + "/é" * 1_500, "got 3,100 characters"),
        ("a\0b", "got one with a NUL character"),
    ],
    ids=["rows", "name", "path", "bytes", "NUL"],
)
@pytest.mark.parametrize(
    "use",
    [
        lambda path, _folder: bertfit.train(path, "run"),
        lambda path, _folder: bertfit.train(ROWS, path),
        lambda path, _folder: bertfit.train_seeds(ROWS, path, num_seeds=2),
        lambda path, _folder: bertfit.check(path),
        lambda path, _folder: bertfit.find_suspects(path),
        lambda path, _folder: bertfit.evaluate(path, ROWS),
        lambda path, folder: bertfit.import_notebook(folder, path),
        lambda path, folder: bertfit.report(folder, output=path),
        lambda path, _folder: bertfit.TextClassifier.load(path),
    ],
    ids=[
        *("train", "train to", "seeds to", "check", "suspects", "evaluate", "import to"),
        *("report to", "load"),
    ],
)
def test_what_can_be_no_path_is_told_briefly(use, path, told, tmp_path):
    with pytest.raises(ConfigError) as caught:
        use(path, tmp_path)
    assert f"expected a path, {told}" in caught.value.message
    assert len(caught.value.message) < 200
    hint = "Rows themselves are given as a list of dicts or a table."
    assert caught.value.hint == (hint if "\n" in path else None)


def test_a_name_that_utf8_cannot_write_is_no_more_than_missing():
    with pytest.raises(DataError, match="no such file"):
        bertfit.check("\ud800x.csv")
    with pytest.raises(RunError, match="does not exist"):
        bertfit.TextClassifier.load("\ud800")


def test_check_takes_what_train_takes(tiny_model_dir):
    found = bertfit.check(ROWS, model=tiny_model_dir, max_length=np.int64(7))
    assert found.model == str(tiny_model_dir)
    assert "7" in found.parts["train"]["tokens"]["cut_shares"]


def test_every_public_name_can_be_had():
    assert all(getattr(bertfit, name) is not None for name in bertfit.__all__)


@pytest.mark.parametrize("data", [None, 5, {"text": ["a"], "label": ["b"]}])
@pytest.mark.parametrize(
    "use",
    [
        lambda data, folder: bertfit.train(data, folder / "run"),
        lambda data, folder: bertfit.train_seeds(data, folder / "run", num_seeds=2),
        lambda data, _folder: bertfit.check(data),
        lambda data, _folder: bertfit.find_suspects(data),
    ],
    ids=["train", "train_seeds", "check", "find_suspects"],
)
def test_what_holds_no_rows_is_refused(use, data, tmp_path):
    with pytest.raises(DataError, match=f"cannot read rows from {type(data).__name__}; a path, "):
        use(data, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [None, 5, b"run", bertfit.Columns()], ids=repr)
@pytest.mark.parametrize(
    ("argument", "use"),
    [
        ("output", lambda value: bertfit.train(ROWS, value)),
        ("output", lambda value: bertfit.train_seeds(ROWS, value, num_seeds=2)),
        ("output", lambda value: bertfit.import_notebook("nb", value, max_length=9)),
        ("run", bertfit.TextClassifier.load),
        ("run", lambda value: bertfit.evaluate(value, ROWS)),
        ("run", bertfit.report),
        ("run_b", lambda value: bertfit.compare("a", value)),
        ("source", lambda value: bertfit.prepare_imdb(value, "no-such-folder")),
        ("output_dir", lambda value: bertfit.prepare_imdb("aclImdb", value)),
    ],
    ids=[
        *("train", "train_seeds", "import_notebook", "load", "evaluate", "report", "compare"),
        *("prepare_imdb from", "prepare_imdb to"),
    ],
)
def test_what_is_no_path_is_refused_by_the_name_of_its_argument(argument, use, value):
    with pytest.raises(ConfigError) as caught:
        use(value)
    assert str(caught.value) == f"{argument}: expected a path, got {type(value).__name__}"


@pytest.mark.parametrize("value", ["yes", "no", 1, None])
@pytest.mark.parametrize(
    ("flag", "use"),
    [
        ("overwrite", lambda flag, place: bertfit.train(ROWS, place, **flag)),
        ("baseline", lambda flag, place: bertfit.train(ROWS, place, **flag)),
        ("overwrite", lambda flag, place: bertfit.train_seeds(ROWS, place, num_seeds=2, **flag)),
        ("baseline", lambda flag, place: bertfit.train_seeds(ROWS, place, num_seeds=2, **flag)),
        ("overwrite", lambda flag, place: bertfit.import_notebook("nb", place, **flag)),
        ("overwrite", lambda flag, place: bertfit.prepare_imdb("aclImdb", place, **flag)),
        ("overwrite", lambda flag, place: bertfit.report(place, **flag)),
        ("with_texts", lambda flag, place: bertfit.report(place, **flag)),
        ("strict", lambda flag, _place: bertfit.check(ROWS, **flag)),
        ("folds_if_learned", lambda flag, _place: bertfit.find_suspects(ROWS, **flag)),
    ],
    ids=[
        *("train over", "train beside", "train_seeds over", "train_seeds beside"),
        *("import_notebook", "prepare_imdb", "report over", "report with", "check", "suspects"),
    ],
)
def test_what_is_neither_true_nor_false_is_refused(flag, use, value, tmp_path):
    """The text "no" counts as true wherever Python asks."""
    with pytest.raises(ConfigError) as caught:
        use({flag: value}, tmp_path / "run")
    assert str(caught.value) == f"{flag}: expected true or false, got {value!r}"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", ["text", {"text": "text"}])
@pytest.mark.parametrize(
    "use",
    [
        lambda columns: bertfit.check(ROWS, columns=columns),
        lambda columns: bertfit.find_suspects(ROWS, columns=columns),
        lambda columns: bertfit.compare("a", "b", columns=columns),
    ],
    ids=["check", "find_suspects", "compare"],
)
def test_columns_of_another_type_are_refused(use, value):
    with pytest.raises(ConfigError) as caught:
        use(value)
    expected = f"expected bertfit.Columns(text=…, label=…), got {type(value).__name__}"
    assert str(caught.value) == f"columns: {expected}"


@pytest.mark.parametrize("value", [0, 3, ["label"]])
@pytest.mark.parametrize("role", ["text", "label", "group"])
def test_a_name_of_a_column_that_is_no_string_is_refused(role, value):
    with pytest.raises(ConfigError) as caught:
        bertfit.check(ROWS, columns=bertfit.Columns(**{role: value}))
    told = f"columns: {role}: expected the name of a column, a string, got {value!r}"
    assert caught.value.message == told
    assert "read as str(name)" in caught.value.hint


@pytest.mark.parametrize("role", ["slices", "kept"])
@pytest.mark.parametrize("value", ["label", 5, None, ("label", 3)], ids=repr)
def test_further_columns_that_are_no_names_are_refused(role, value):
    """The letters of a string were taken for names."""
    with pytest.raises(ConfigError) as caught:
        bertfit.check(ROWS, columns=bertfit.Columns(**{role: value}))
    expected = f"columns: {role}: expected a tuple of names of columns, got {value!r}"
    assert str(caught.value) == expected


@pytest.mark.parametrize("value", ["3", 2.5, 2.0, None, True])
def test_what_is_no_whole_number_is_refused(value, tmp_path):
    with pytest.raises(ConfigError) as caught:
        bertfit.train_seeds(ROWS, tmp_path / "run", num_seeds=value)
    assert str(caught.value) == f"num_seeds: expected a whole number, at least 2, got {value!r}"
    if value is not None:
        with pytest.raises(ConfigError) as caught:
            bertfit.find_suspects(ROWS, num_folds=value)
        assert str(caught.value) == f"num_folds: expected a whole number, at least 2, got {value!r}"
        with pytest.raises(ConfigError, match=f"seed: expected a whole number .*, got {value!r}"):
            bertfit.find_suspects(ROWS, seed=value)


def test_a_whole_number_of_numpy_is_one(tmp_path):
    with pytest.raises(DataError):
        bertfit.train_seeds(None, tmp_path / "run", num_seeds=np.int64(2))
    with pytest.raises(DataError):  # not an OverflowError: 1,000 is no int8
        bertfit.train_seeds(None, tmp_path / "run", num_seeds=np.int8(2), seed=1000)
    with pytest.raises(DataError):
        bertfit.find_suspects(None, num_folds=np.int64(2), seed=np.uint32(1))


def test_a_bool_of_numpy_is_a_bool(tmp_path):
    with pytest.raises(DataError):
        bertfit.train(None, tmp_path / "run", overwrite=np.bool_(True), baseline=np.bool_(False))


class Half:
    """Receives notes, but no progress."""

    def note(self, text):
        """Receive a sentence."""


@pytest.mark.parametrize(
    "value",
    [print, "log", 5, Half(), Silent],
    ids=["a function", "a string", "a number", "without progress", "a class"],
)
@pytest.mark.parametrize(
    "use",
    [
        lambda place, **of: bertfit.train(ROWS, place, **of),
        lambda place, **of: bertfit.train_seeds(ROWS, place, num_seeds=2, **of),
        lambda place, **of: bertfit.import_notebook("nb", place, **of),
        lambda place, **of: bertfit.evaluate(place, ROWS, **of),
        lambda _place, **of: bertfit.compare("a", "b", **of),
        lambda _place, **of: bertfit.check(ROWS, **of),
        lambda _place, **of: bertfit.find_suspects(ROWS, **of),
    ],
    ids=[
        "train",
        "train_seeds",
        "import_notebook",
        "evaluate",
        "compare",
        "check",
        "find_suspects",
    ],
)
def test_what_is_no_listener_is_refused_at_once(use, value, tmp_path):
    with pytest.raises(ConfigError) as caught:
        use(tmp_path / "run", listener=value)
    methods = "note(text) and progress(task, done, total, detail)"
    expected = f"listener: expected an object with the methods {methods}, got {value!r}"
    assert str(caught.value) == expected
    assert list(tmp_path.iterdir()) == []


def test_a_listener_that_counts_as_false_is_heard():
    """Such as a list of what it heard, which is empty at first."""

    class Heard(list):
        note = list.append

        def progress(self, task, done, total, detail=""):
            self.append(task)

    heard = Heard()
    rows = [{**row, "text": f"{row['text']} {place}"} for place in range(4) for row in ROWS]
    bertfit.find_suspects(rows, num_folds=2, listener=heard)
    assert "folds" in heard
