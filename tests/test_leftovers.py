"""Unfinished folders: found only once no process holds them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bertfit import leftovers
from bertfit.leftovers import find_leftovers, make_held_folder, measure_folder

PREFIX = ".run.incomplete-"


@pytest.fixture
def held(tmp_path):
    """Give a held folder with five bytes in it, and what holds it."""
    folder, hold = make_held_folder(tmp_path, PREFIX)
    (folder / "weights").write_text("12345")
    with hold:
        yield folder, hold


def test_a_folder_is_found_when_nobody_holds_it_any_more(held, tmp_path):
    folder, hold = held
    assert find_leftovers(tmp_path, PREFIX) == []
    hold.close()
    assert find_leftovers(tmp_path, PREFIX) == [folder]
    assert measure_folder(folder) == 5


def test_holding_leaves_nothing_in_the_folder(held):
    assert [path.name for path in held[0].iterdir()] == ["weights"]


def test_a_hold_may_be_given_up_twice(held):
    """The number of a file that was opened in between must not be closed."""
    held[1].close()
    with Path(__file__).open(encoding="utf-8") as file:
        held[1].close()
        assert file.read(3) == '"""'


def test_a_killed_process_holds_nothing(tmp_path):
    code = f"""if True:
        import pathlib, sys
        from bertfit.leftovers import make_held_folder
        folder, hold = make_held_folder(pathlib.Path({str(tmp_path)!r}), {PREFIX!r})
        (folder / "weights").write_text("12345")
        print(folder, flush=True)
        sys.stdin.read()"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            folder = Path(process.stdout.readline().strip())
            assert folder.is_dir()
            assert find_leftovers(tmp_path, PREFIX) == []
        finally:
            process.kill()
    assert find_leftovers(tmp_path, PREFIX) == [folder]


def test_a_child_that_was_started_holds_nothing(held, tmp_path):
    """Such as a compiler, which may outlive who started it."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, close_fds=False) as child:
        held[1].close()
        assert child.poll() is None
        assert find_leftovers(tmp_path, PREFIX) == [held[0]]
        child.stdin.close()


def test_looking_does_not_hold(held, tmp_path):
    held[1].close()
    assert find_leftovers(tmp_path, PREFIX) == find_leftovers(tmp_path, PREFIX) == [held[0]]


def test_a_folder_without_content_is_not_found(tmp_path):
    """It may just have been made, and about to be held."""
    (tmp_path / f"{PREFIX}abcd1234" / "empty").mkdir(parents=True)
    assert find_leftovers(tmp_path, PREFIX) == []


@pytest.mark.parametrize(
    "name",
    [
        ".run.incomplete-abcd1234.incomplete-abcd1234",  # of a run named run.incomplete-abcd1234
        ".run.incomplete-",
        ".run.unfinished",
        ".runs.incomplete-abcd1234",
        ".rXn.incomplete-abcd1234",
        "x.run.incomplete-abcd1234",
    ],
)
def test_only_names_that_were_given_are_found(tmp_path, name):
    (tmp_path / name).mkdir()
    (tmp_path / name / "file").write_text("mine")
    assert find_leftovers(tmp_path, PREFIX) == []
    assert find_leftovers(tmp_path, ".r.n.incomplete-") == []


def test_a_file_or_a_link_is_not_found(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_text("mine")
    (tmp_path / f"{PREFIX}file").write_text("mine")
    (tmp_path / f"{PREFIX}link").symlink_to(tmp_path / "folder")
    assert find_leftovers(tmp_path, PREFIX) == []


def test_a_place_that_is_not_there_has_no_leftovers(tmp_path):
    assert find_leftovers(tmp_path / "none", PREFIX) == []


def test_where_locks_are_unknown_folders_are_made_and_none_is_found(tmp_path, monkeypatch):
    """Windows has no fcntl: who works there cannot be told from who was killed."""
    monkeypatch.setitem(sys.modules, "fcntl", None)
    folder, hold = make_held_folder(tmp_path, PREFIX)
    (folder / "weights").write_text("12345")
    hold.close()
    assert find_leftovers(tmp_path, PREFIX) == []


def test_where_a_lock_is_refused_folders_are_made_and_none_is_found(tmp_path, monkeypatch):
    """As some network file systems do."""

    def refuse(_descriptor, _how):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", refuse)
    folder, hold = make_held_folder(tmp_path, PREFIX)
    (folder / "weights").write_text("12345")
    hold.close()
    assert find_leftovers(tmp_path, PREFIX) == []


def test_a_folder_that_its_holder_has_just_moved_away_is_not_found(held, tmp_path, monkeypatch):
    """Between a look at the lock, which went with it, and a look at the content."""
    held[1].close()

    def move(folder):
        folder.rename(tmp_path / "run")
        return False

    monkeypatch.setattr(leftovers, "may_be_held", move)
    assert find_leftovers(tmp_path, PREFIX) == []


def test_of_a_link_its_own_size_counts(tmp_path):
    (tmp_path / "large").write_text(1000 * "x")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path / "large")
    (folder / "dangling").symlink_to("none")
    sizes = [(folder / name).lstat().st_size for name in ("link", "dangling")]
    assert measure_folder(folder) == sum(sizes) < 1000
