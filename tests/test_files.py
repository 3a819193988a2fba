"""Files are written atomically."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest

from bertfit.errors import ConfigError
from bertfit.files import (
    as_path,
    check_folders,
    check_output,
    keep_apart,
    keep_beside,
    make_readable,
    open_atomically,
    raising_system_errors,
    read_array,
    read_json,
    refuse_hidden,
    write_array,
    write_json,
)
from bertfit.places import check_replaceable
from tests.limits import limiting_files


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


@pytest.mark.parametrize("character", ["a", "é", "中", "𝄞"])
def test_the_longest_name_can_be_written(tmp_path, character):
    path = tmp_path / (character * (255 // len(character.encode())))
    with open_atomically(path) as file:
        file.write("text")
    assert list(tmp_path.iterdir()) == [path]


def test_the_content_is_on_the_disk_before_the_file_takes_its_name(tmp_path, monkeypatch):
    """Else a power failure could leave an empty file in the place of the old one."""
    path, sizes = tmp_path / "a.txt", []

    def sync(descriptor):
        assert not path.exists()
        sizes.append(os.fstat(descriptor).st_size)

    monkeypatch.setattr(os, "fsync", sync)
    with open_atomically(path) as file:
        file.write("whole")
    assert sizes == [5]


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


def test_folders_made_for_a_file_that_failed_are_removed(tmp_path):
    (tmp_path / "a").mkdir()
    path = tmp_path / "a" / "b" / "c" / "d.txt"
    with pytest.raises(RuntimeError), open_atomically(path) as file:
        fail_after(file.write("new"))
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]
    assert not list((tmp_path / "a").iterdir())


def test_a_file_of_the_current_folder_can_be_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in (Path(), Path("file")):
        check_folders(path)
    assert list(tmp_path.iterdir()) == []


def test_folders_on_the_way_to_one_that_cannot_be_made_are_removed(tmp_path):
    with pytest.raises(OSError), open_atomically(tmp_path / "new" / ("x" * 300) / "a.txt"):
        pass
    assert not list(tmp_path.iterdir())


def test_a_folder_that_holds_what_is_kept_of_a_file_stays(tmp_path):
    path, kept = tmp_path / "b" / "c" / "d.txt", tmp_path / "b" / "kept.txt"
    with pytest.raises(RuntimeError), open_atomically(path, on_failure=kept.hardlink_to) as file:
        fail_after(file.write("new"))
    assert list((tmp_path / "b").iterdir()) == [kept]


def test_an_error_names_the_file_and_not_the_part_that_is_moved_there(tmp_path):
    (tmp_path / "a.txt").mkdir()
    with pytest.raises(OSError, match=r"a\.txt") as caught, open_atomically(tmp_path / "a.txt"):
        pass
    assert (caught.value.filename, caught.value.filename2) == (str(tmp_path / "a.txt"), None)


def test_a_whole_file_that_cannot_take_its_place_is_no_loss(tmp_path, monkeypatch):
    """As where the old one is another user's, which shows when all work is done."""
    path, kept = tmp_path / "out.csv", []

    def keep(part):
        kept.append(keep_beside(part, path))

    def write():
        with open_atomically(path, on_failure=keep) as file:
            file.write("rows")

    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    path.write_text("old")
    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(PermissionError, match=r"out\.csv"):
        write()
    assert kept == [tmp_path / "out.unfinished.csv"]
    assert kept[0].read_text() == "rows"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.csv", "out.unfinished.csv"]


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


def test_a_file_system_without_permissions_does_not_stop_a_run(tmp_path, monkeypatch):
    (tmp_path / "a.txt").touch()

    def refuse(path, mode):
        raise PermissionError(1, "Operation not permitted", str(path))

    monkeypatch.setattr(type(tmp_path), "chmod", refuse)
    make_readable(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


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


@pytest.mark.parametrize(
    "content", [b"{", b"", b"\xff{}", b"1" * 5000, b"[" * 100_000, b'{"a":' * 100_000]
)
def test_what_is_not_json_is_always_the_same_error(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"Expecting|utf-8|digits|nested too deeply"):
        read_json(tmp_path / "a.json")


def test_a_tilde_is_the_home_of_the_user(monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    assert as_path("~/run") == Path("/home/somebody/run")
    assert as_path("a/~b") == Path("a/~b")
    assert as_path("~no-such-user/run") == Path("~no-such-user/run")


@pytest.mark.parametrize("value", [None, 5, b"run", ["run"]], ids=repr)
def test_what_is_no_path_is_refused(value):
    with pytest.raises(ConfigError) as caught:
        as_path(value, "output")
    assert str(caught.value) == f"output: expected a path, got {type(value).__name__}"


def test_an_empty_string_is_not_the_current_folder():
    with pytest.raises(ConfigError, match="run: expected a path, got an empty string"):
        as_path("", "run")
    assert as_path(Path()) == Path()


def test_what_utf8_cannot_hold_is_escaped_rather_than_lost(tmp_path):
    """A file's name may have bytes that are not UTF-8; it is no reason to lose a training."""
    write_json(tmp_path / "a.json", {"source": "caf\udce9.csv"})
    assert json.loads((tmp_path / "a.json").read_bytes()) == {"source": "caf\udce9.csv"}


def test_a_file_is_replaced_only_when_asked(tmp_path):
    old = tmp_path / "out.CSV"
    old.write_text("mine")
    with pytest.raises(ConfigError, match=r"out\.CSV exists\n.*add --overwrite"):
        check_output(old, (".csv",), overwrite=False)
    check_output(old, (".csv",), overwrite=True, source=tmp_path / "gone")


def test_an_output_that_cannot_be_written_is_refused_before_the_work(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError) as caught:
        check_output(tmp_path / "file" / "a" / "out.csv", (".csv",), overwrite=True)
    assert caught.value.filename == str(tmp_path / "file")
    check_output(tmp_path / "new" / "out.csv", (".csv",), overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_full_disk_is_told_with_the_file(tmp_path):
    with pytest.raises(OSError, match="No space") as caught, open_atomically(tmp_path / "a.txt"):
        raise OSError(28, "No space left on device")
    assert caught.value.filename == str(tmp_path / "a.txt")


def test_a_folder_is_no_output(tmp_path):
    (tmp_path / "out.csv").mkdir()
    with pytest.raises(ConfigError, match=r"out\.csv is a folder"):
        check_output(tmp_path / "out.csv", (".csv",), overwrite=True)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes with names")
def test_a_pipe_is_no_output(tmp_path):
    """A file would take its place, and whoever reads it would wait."""
    os.mkfifo(tmp_path / "out.csv")
    with pytest.raises(ConfigError, match=r"out\.csv is no regular file"):
        check_output(tmp_path / "out.csv", (".csv",), overwrite=True)


def test_what_cannot_be_replaced_is_refused_before_the_work(tmp_path, monkeypatch):
    (tmp_path / "out.csv").touch()
    check_output(tmp_path / "out.csv", (".csv",), overwrite=True)
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path).name == "out.csv")
    with pytest.raises(OSError, match=r"mount point.*out\.csv"):
        check_output(tmp_path / "out.csv", (".csv",), overwrite=True)
    check_output(tmp_path / "other.csv", (".csv",), overwrite=True)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="there are no owners")
def test_a_file_of_another_user_in_a_folder_of_all_cannot_be_replaced(tmp_path, monkeypatch):
    """As in /tmp: who may write there may replace only what is their own."""
    path, own = tmp_path / "out.csv", os.geteuid()
    path.touch()
    for mode, user, may in ((0o777, own + 1, True), (0o1777, own + 1, False), (0o1777, own, True)):
        tmp_path.chmod(mode)
        monkeypatch.setattr(os, "geteuid", lambda user=user: user)
        if may:
            check_replaceable(path)
        else:
            with pytest.raises(PermissionError, match="another user's"):
                check_replaceable(path)


def test_the_file_that_is_read_is_never_replaced(tmp_path):
    """Its labels would be lost, also by another name of it."""
    file, link = tmp_path / "labelled.csv", tmp_path / "link.csv"
    file.write_text("text,label")
    link.symlink_to(file)
    for output in (file, link):
        with pytest.raises(ConfigError, match="is the file that is read, and would be lost"):
            check_output(output, (".csv",), overwrite=True, source=file)


def test_lists_of_numbers_take_one_line_and_nothing_changes_its_value(tmp_path):
    value = {
        "confusion": [[1, 0], [0, 2]],
        "mixed": [1.5e-07, None, True, -3],
        "texts": ["[\n1,\n2\n]", "a [ 1 ]"],
        "nested": [{"empty": [], "of": [1]}],
    }
    write_json(tmp_path / "a.json", value)
    written = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads(written) == value
    assert "    [1, 0],\n    [0, 2]\n" in written
    assert '"mixed": [1.5e-07, null, true, -3],\n' in written


@pytest.mark.parametrize("name", ["none", "a\0b", 300 * "x"])
def test_what_cannot_exist_is_not_hidden(tmp_path, name):
    refuse_hidden(tmp_path / name)


def test_a_symlink_stays_and_its_target_is_replaced(tmp_path):
    target, link = tmp_path / "kept" / "target.txt", tmp_path / "link.txt"
    target.parent.mkdir()
    link.symlink_to(target)
    for text in ("new", "newer"):  # at first, the target is missing
        with open_atomically(link) as file:
            # Beside the target, which may be on another disk than the link.
            assert any(part.suffix == ".part" for part in target.parent.iterdir())
            file.write(text)
        assert link.is_symlink()
        assert target.read_text() == text
    assert [path.name for path in target.parent.iterdir()] == ["target.txt"]


def test_a_file_that_is_replaced_keeps_its_permissions(tmp_path):
    """What only its owner may read stays so."""
    path = tmp_path / "a.txt"
    path.touch()
    path.chmod(0o600)
    with open_atomically(path) as file:
        assert {permissions(part) for part in tmp_path.iterdir()} == {0o600}
        file.write("x")
    assert permissions(path) == 0o600


def test_a_file_is_replaced_where_there_are_no_permissions(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def refuse(*_arguments):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "chmod", refuse)
    with open_atomically(path) as file:
        file.write("new")
    assert path.read_text() == "new"


def test_a_disk_too_full_to_find_the_umask_does_not_stop_a_run(tmp_path, monkeypatch):
    def refuse(path, **_options):
        raise OSError(errno.EDQUOT, "Disk quota exceeded", str(path))

    monkeypatch.setattr(type(tmp_path), "touch", refuse)
    make_readable(tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files to others")
def test_a_file_that_is_replaced_stays_its_owners(tmp_path):
    """What is readable by its owner alone would be lost to them."""
    path = tmp_path / "a.txt"
    path.touch(mode=0o600)
    os.chown(path, 65534, 65533)
    with open_atomically(path) as file:
        file.write("x")
    assert (path.stat().st_uid, path.stat().st_gid, permissions(path)) == (65534, 65533, 0o600)


@pytest.mark.parametrize("has_links", [True, False])
def test_what_is_kept_apart_takes_the_place_of_no_other_file(tmp_path, monkeypatch, has_links):
    """Another process may take the name after it was found to be free."""

    def refuse(*_places):
        raise PermissionError(errno.EPERM, "no links")

    part, taken, free = (tmp_path / name for name in ("part", "taken", "free"))
    part.write_text("mine")
    if has_links:
        taken.write_text("another's")
        assert keep_apart(part, [taken, free]) == free
        assert taken.read_text() == "another's"
    else:
        monkeypatch.setattr(os, "link", refuse)
        assert keep_apart(part, [free]) == free
    assert free.read_text() == "mine"


def test_a_part_that_cannot_be_kept_apart_stays(tmp_path):
    def fail(_part):
        raise OSError(28, "No space left on device")

    def write_and_interrupt():
        with open_atomically(tmp_path / "out.csv", on_failure=fail) as file:
            file.write("rows")
            raise KeyboardInterrupt

    with pytest.raises(OSError, match="No space"):
        write_and_interrupt()
    (left,) = tmp_path.iterdir()
    assert left.read_text() == "rows"


@pytest.mark.parametrize("limit", [10, 140])
def test_an_array_that_cannot_be_written_is_told_by_its_name(tmp_path, limit):
    """Nor is it cut short without a word, as numpy does where the last bytes do not fit."""
    with limiting_files(limit), pytest.raises(OSError, match="File too large") as caught:
        write_array(tmp_path / "a.npy", np.zeros(3))
    assert (caught.value.filename, caught.value.errno) == (str(tmp_path / "a.npy"), errno.EFBIG)


@pytest.mark.parametrize("values", [np.arange(6.0).reshape(2, 3).T, np.zeros((0, 3), np.uint64)])
def test_an_array_is_read_as_it_was_written(tmp_path, values):
    write_array(tmp_path / "a.npy", values)
    found = read_array(tmp_path / "a.npy")
    assert found.dtype == values.dtype
    np.testing.assert_array_equal(found, values)


@pytest.mark.parametrize(
    "content", [b"PK\x03\x04junk", b"\x93NUMPY\x01\x00v\x00" + b"{[]:1}".ljust(117) + b"\n"]
)
def test_what_is_no_array_is_told_as_that(tmp_path, content):
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(ValueError):
        read_array(tmp_path / "a.npy")


def test_a_system_error_without_a_name_gets_one(tmp_path):
    with pytest.raises(OSError, match="No space") as caught, raising_system_errors(tmp_path):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.filename == str(tmp_path)
    named = OSError(errno.ENOSPC, "No space left on device", "config.json")
    with pytest.raises(OSError, match="No space") as caught, raising_system_errors(tmp_path):
        raise named
    assert caught.value.filename == "config.json"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_json_is_not_awaited_from_a_pipe_or_a_device(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/zero")
    for name in ("pipe", "device"):
        with pytest.raises(ValueError, match="is not a regular file"):
            read_json(tmp_path / name)


def test_what_a_link_leads_to_keeps_its_permissions(tmp_path):
    own, other = tmp_path / "folder", tmp_path / "other"
    own.mkdir()
    other.touch(mode=0o600)
    (own / "link").symlink_to(other)
    make_readable(own)
    assert other.stat().st_mode & 0o777 == 0o600
