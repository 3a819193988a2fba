"""Files are written whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from bertfit.files import make_readable, open_atomically, write_json


def permissions(path: Path) -> int:
    return path.stat().st_mode & 0o777


def fail_after(_written: int) -> None:
    raise RuntimeError


def usual_permissions(folder: Path) -> int:
    path = folder / "plain"
    path.touch()
    mode = permissions(path)
    path.unlink()
    return mode


def test_the_file_is_not_there_before_the_end(tmp_path):
    path = tmp_path / "a.txt"
    with open_atomically(path) as file:
        file.write("text")
        assert not path.exists()
    assert path.read_text() == "text"


def test_after_an_error_nothing_is_left(tmp_path):
    with pytest.raises(RuntimeError), open_atomically(tmp_path / "a.txt") as file:
        fail_after(file.write("half"))
    assert list(tmp_path.iterdir()) == []


def test_after_an_interruption_nothing_is_left(tmp_path):
    with pytest.raises(KeyboardInterrupt), open_atomically(tmp_path / "a.txt"):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_after_an_error_the_old_file_stands(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), open_atomically(path) as file:
        fail_after(file.write("new"))
    assert path.read_text() == "old"


def test_missing_folders_are_made(tmp_path):
    with open_atomically(tmp_path / "a" / "b" / "c.txt") as file:
        file.write("x")
    assert (tmp_path / "a" / "b" / "c.txt").read_text() == "x"


def test_the_file_has_the_permissions_of_any_new_file(tmp_path):
    """A temporary file is its owner's alone; a server under another name could not read it."""
    path = tmp_path / "a.txt"
    with open_atomically(path):
        pass
    assert permissions(path) == usual_permissions(tmp_path)


def test_make_readable_gives_the_permissions_of_any_new_file(tmp_path):
    path = tmp_path / "a.txt"
    path.touch(mode=0o600)
    make_readable(tmp_path)
    assert permissions(path) == usual_permissions(tmp_path)


def test_finding_the_umask_leaves_it_as_it_was(tmp_path):
    before = os.umask(0o027)
    try:
        write_json(tmp_path / "a.json", 1)
        assert permissions(tmp_path / "a.json") == 0o640
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)


def test_json_is_written_as_utf8_and_ends_with_a_newline(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"name": "käse"})
    text = path.read_text(encoding="utf-8")
    assert text == '{\n  "name": "käse"\n}\n'
    assert json.loads(text) == {"name": "käse"}


def test_nan_is_refused_because_it_is_not_json(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", float("nan"))
    assert list(tmp_path.iterdir()) == []
