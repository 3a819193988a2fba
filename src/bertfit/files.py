"""Files that are written completely or not at all, JSON, and where bertfit keeps its own."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import json
import os
import re
import secrets
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import IO, TYPE_CHECKING, Any

from bertfit.errors import ConfigError
from bertfit.places import check_replaceable

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MOST_BYTES = 255
"""Of a file's name, on most file systems."""
_ARRAY_START = b"\x93NUMPY"
"""How a file of an array begins."""
_LONGEST_PATH = 4096
"""Bytes, on most systems."""
_NUMBERS = re.compile(r"\[\n([-+.\w,\s]+)\]")
"""A list of numbers, true, false or null in indented JSON."""


def as_path(name: str | Path, argument: str = "path") -> Path:
    """Return a path as given, with a leading ~ expanded.

    Args:
        name: The path as given.
        argument: Name of the argument, for the error.

    Raises:
        ConfigError: `name` is not of a type that can be a path, an empty string, which would be the
            current folder, or one that no path can be: with a NUL, or too long.
    """
    if name == "":
        raise ConfigError(f"{argument}: expected a path, got an empty string")
    try:
        # For an unknown user this leaves the name as it is; pathlib raises an error.
        path = Path(os.path.expanduser(name))  # noqa: PTH111 (see above)
    except TypeError:
        raise ConfigError(f"{argument}: expected a path, got {type(name).__name__}") from None
    _refuse_impossible(str(path), argument)
    return path


def _refuse_impossible(path: str, argument: str) -> None:
    """Refuse what no system takes for a path, such as the content of a file instead of its name."""
    if "\0" in path:
        raise ConfigError(f"{argument}: expected a path, got one with a NUL character")
    encoded = path.encode("utf-8", "surrogatepass")
    if max(map(len, encoded.split(os.sep.encode()))) > _MOST_BYTES or len(encoded) > _LONGEST_PATH:
        raise ConfigError(
            f"{argument}: expected a path, got {len(path):,} characters, beginning with "
            f"{path[:40]!r}",
            hint="Rows themselves are given as a list of dicts or a table."
            if "\n" in path
            else None,
        )


@contextlib.contextmanager
def open_atomically(
    path: Path, *, on_failure: Callable[[Path], object] = lambda _part: None
) -> Iterator[IO[str]]:
    """Open a UTF-8 text file that appears under its name only when the block ends without error.

    If Ctrl-C or an error ends it, except an OSError in the block, `on_failure` is called with the
    partial file, which is removed afterwards unless it was moved.

    What UTF-8 cannot encode, such as a stray byte of a file name, is written as a backslash escape.
    A file that is replaced keeps its permissions, and a symlink stays: its target is replaced.

    Raises:
        OSError: The folder cannot be written to, or the disk is full; nothing is left behind.
    """
    target = Path(os.path.realpath(path))
    missing = [folder for folder in target.parents if not os.path.lexists(folder)]
    part, is_written = part_of(target), False
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with part.open("x", encoding="utf-8", errors="backslashreplace", newline="") as file:
            _take_permissions(target, part)
            yield file
            file.flush()
            os.fsync(file.fileno())
        is_written = True
        part.replace(target)
    except BaseException as error:
        if (is_written or not isinstance(error, OSError)) and part.exists():
            on_failure(part)  # if that fails, the part stays: it is all that there is
        with contextlib.suppress(OSError):  # it may have no folder
            part.unlink()
        _remove_empty(missing)
        if isinstance(error, OSError) and error.filename in {None, str(part)}:  # None: disk full
            error.filename, error.filename2 = str(path), None
        raise


def _remove_empty(folders: Iterable[Path]) -> None:
    """Remove those of the folders that are there and hold nothing; innermost first."""
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()


def find_free_names(path: Path, end: str, *, suffix: str = "") -> Iterator[Path]:
    """Return the free names next to a path, such as RUN.old, RUN.old-2, …, each with a suffix.

    A name that would be too long is cut.
    """
    ends = itertools.chain([end], (f"{end}-{number}" for number in itertools.count(2)))
    for one in ends:
        tail = f".{one}{suffix}"
        room = _MOST_BYTES - len(os.fsencode(tail))
        name = os.fsencode(path.name)[:room].decode(errors="ignore")
        place = path.with_name(f"{name}{tail}")
        if not place.exists():
            yield place


def keep_apart(part: Path, places: Iterable[Path]) -> Path:
    """Give a partial file the first name that no other process takes meanwhile; return it."""
    for place in places:
        try:
            os.link(part, place)  # unlike a rename, it replaces nothing
        except FileExistsError:
            continue
        except OSError:  # there are no links, as on FAT
            part.replace(place)
        return place
    raise AssertionError("the names do not end")


def keep_beside(part: Path, output: Path) -> Path:
    """Give a partial file a free name next to the output, as out.unfinished.csv; return it."""
    place = Path(os.path.realpath(output))
    return keep_apart(
        part, find_free_names(place.with_suffix(""), "unfinished", suffix=place.suffix)
    )


def part_of(path: Path) -> Path:
    """Return a new name for a partial file that will replace `path`; `is_part` knows it."""
    # A name may have 255 bytes, and a character up to 4 of them.
    return path.with_name(f".{path.name[:60]}.{secrets.token_hex(4)}.part")


def _take_permissions(target: Path, part: Path) -> None:
    """Give a partial file the owner and permissions of the file that it replaces, if there is one.

    Only root may give a file to another owner, and a file system may have no permissions at all.
    """
    with contextlib.suppress(OSError):
        before = target.stat()
        if hasattr(os, "chown"):  # else there are no owners
            with contextlib.suppress(OSError):
                os.chown(part, before.st_uid, before.st_gid)
        part.chmod(stat.S_IMODE(before.st_mode))


@contextlib.contextmanager
def raising_system_errors(place: Path) -> Iterator[None]:
    """Raise an OSError that names the place where a library failed to write.

    Those in Rust (tokenizers, safetensors) raise errors of their own kind, and only the text has
    the system's error code, if anything has it. An OSError of writing to an open file has no name.

    Args:
        place: What was to be written, or its folder; it is named in the error.

    Raises:
        OSError: The disk is full, for example.
    """
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(place)
        raise
    except Exception as error:
        found = re.search(r"\(os error (\d+)\)", str(error))
        if found is None and type(error).__name__ != "SafetensorError":
            raise
        code = errno.EIO if found is None else int(found[1])
        raise OSError(code, os.strerror(code), str(place)) from error


def digest_file(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits, as `sha256sum` prints it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_part(name: str) -> bool:
    """Return whether a file name is that of a partial file, left by a process that was killed."""
    return re.fullmatch(r"\..+\.[0-9a-f]{8}\.part", name) is not None


def check_folders(path: Path) -> None:
    """Check that something can be written at `path`, whose folders need not exist yet.

    Called before long work, so that it does not fail at its end. Leaves nothing behind.

    Raises:
        OSError: A parent is not a folder, or may not be written to.
    """
    parents = path.parents or path.absolute().parents  # "." has none
    folder = next(one for one in parents if os.path.lexists(one))
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(folder)) from None


def refuse_hidden(path: Path) -> None:
    """Refuse a path that a folder without permission hides, before it is said not to exist.

    From Python 3.14 on, `Path.exists` and the like are false for such a path.

    Raises:
        PermissionError: A folder on the way may not be entered.
    """
    try:
        path.stat()
    except PermissionError:
        raise
    except (OSError, ValueError):  # ValueError: not a valid path
        return


def check_output(
    path: Path, suffixes: Sequence[str], *, overwrite: bool, source: Path | None = None
) -> None:
    """Check that a file of this name can be written.

    Args:
        path: The value of --output.
        suffixes: The suffixes allowed.
        overwrite: Whether an existing file may be replaced.
        source: The file that is read, if any; it is never replaced.

    Raises:
        ConfigError: `path` has another suffix, is no file, or exists and may not be replaced.
        OSError: Nothing can be written there.
    """
    if path.suffix.lower() not in suffixes:
        expected = ", ".join(suffixes)
        raise ConfigError(f"output: expected a name ending in {expected}, got {path.name!r}")
    if path.is_dir():
        raise ConfigError(f"output: {path} is a folder")
    if path.exists() and not path.is_file():
        raise ConfigError(f"output: {path} is no regular file")
    source = None if source is None else as_path(source)
    if source is not None and path.exists() and source.exists() and path.samefile(source):
        raise ConfigError(
            f"output: {path} is the file that is read, and would be lost",
            hint="Choose another --output.",
        )
    if path.exists() and not overwrite:
        raise ConfigError(
            f"output: {path} exists", hint="Choose another --output, or add --overwrite."
        )
    check_folders(path)
    if path.exists():
        check_replaceable(path.resolve())


def read_json(path: Path) -> Any:  # noqa: ANN401 (JSON is of any type)
    """Return the content of a JSON file.

    Raises:
        OSError: There is no such file, or it cannot be read.
        ValueError: It is not JSON in UTF-8, or nested too deeply; or it is a pipe or a device, of
            which there might be no end.
    """
    if path.exists() and not path.is_file():
        message = f"{path} is not a regular file"
        raise ValueError(message)
    return parse_json(path.read_text(encoding="utf-8"))


def parse_json(text: str, decode: Callable[[str], Any] = json.loads) -> Any:  # noqa: ANN401 (JSON is of any type)
    """Return the value that JSON stands for, as `decode` has it.

    Raises:
        JSONDecodeError: It is not JSON.
        ValueError: It is nested too deeply, or a number has thousands of digits.
    """
    try:
        return decode(text)
    except RecursionError:  # a thousand brackets
        message = "it is nested too deeply"
        raise ValueError(message) from None


def read_array(path: Path) -> NDArray[Any]:
    """Return an array that numpy saved, mapped into memory; objects in it are not unpickled.

    Raises:
        OSError: There is no such file, or it cannot be read.
        ValueError: It is damaged, or holds something else.
    """
    import numpy as np

    with path.open("rb") as file:
        if file.read(len(_ARRAY_START)) != _ARRAY_START:
            raise ValueError("it is not one array of numpy")
    try:
        found: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 (numpy reads a header as Python, which fails anyhow)
        raise ValueError(str(error) or type(error).__name__) from None
    return found


def write_array(path: Path, values: NDArray[Any]) -> None:
    """Save an array as numpy does, for `read_array`.

    Raises:
        OSError: It cannot be written; the error names the file.
    """
    import numpy as np

    try:
        with path.open("wb") as file:
            # Not by the file itself: numpy would write past Python, and not hear of a full disk.
            writer = SimpleNamespace(write=file.write)
            np.lib.format.write_array(writer, np.asanyarray(values), allow_pickle=False)
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def write_json(path: Path, value: Any) -> None:  # noqa: ANN401 (JSON is of any type)
    """Write `value` as indented JSON, completely or not at all. NaN is refused: not valid JSON."""
    with open_atomically(path) as file:
        file.write(f"{_format_json(value)}\n")


def _format_json(value: Any) -> str:  # noqa: ANN401 (JSON is of any type)
    """Return indented JSON with each list of numbers on one line.

    With a number a line, the confusion matrix of 1,000 classes would take a million lines.

    Example:
        >>> print(_format_json({"a": [1, 2.5], "b": []}))
        {
          "a": [1, 2.5],
          "b": []
        }
    """
    indented = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    # In a string, line breaks are escaped: what matches is a list, never a part of a text.
    return _NUMBERS.sub(lambda found: f"[{' '.join(found[1].split())}]", indented)


def find_cache(kind: str) -> Path | None:
    """Return the cache folder for `kind`: in $BERTFIT_CACHE, else in the user's cache.

    A user without a home, as some of a container are, has none.
    """
    chosen = os.environ.get("BERTFIT_CACHE")
    if chosen:
        return as_path(chosen) / kind
    # The XDG specification ignores relative paths, which would give each folder its own cache.
    for place in (os.environ.get("XDG_CACHE_HOME") or "~/.cache", "~/.cache"):
        if (cache := as_path(place)).is_absolute():
            return cache / "bertfit" / kind
    return None  # no folder by the name "~"


def make_readable(folder: Path) -> None:
    """Give a folder and its files the default permissions of new ones.

    Writers that use a temporary file leave it readable only by its owner, and a server that runs as
    another user could then not load the model. A file system that has no permissions may refuse it,
    and a full disk the file that tells what they are; both leave the folder as it is.
    """
    probe = part_of(folder / "probe")
    with contextlib.suppress(OSError):
        probe.touch(exist_ok=False)  # a process cannot read the umask without changing it
        mode = stat.S_IMODE(probe.stat().st_mode)
        probe.unlink()
        folder.chmod(mode | 0o100 | (mode & 0o044) >> 2)  # whoever may read it may enter it
        for path in folder.iterdir():
            if path.is_file() and not path.is_symlink():  # what a link leads to is not ours
                path.chmod(mode)
