"""Files that are written completely or not at all, and where bertfit keeps its own."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import stat
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from bertfit.errors import ConfigError


def as_path(name: str | Path, argument: str = "path") -> Path:
    """Return a path as it was given, but for a leading ~, which is the user's home.

    Args:
        name: What a caller gave.
        argument: What an error calls it.

    Raises:
        ConfigError: It is of a type that no path has.
    """
    try:
        # Where there is no such user the name stays as it is, which pathlib makes an error of.
        return Path(os.path.expanduser(name))  # noqa: PTH111 (as said above)
    except TypeError:
        raise ConfigError(f"{argument}: expected a path, got {type(name).__name__}") from None


@contextlib.contextmanager
def open_atomically(path: Path) -> Iterator[IO[str]]:
    """Open a UTF-8 text file that appears under its name only when the block ends without error.

    What UTF-8 cannot hold, such as a stray byte of a file's name, is written as a backslash escape.

    Raises:
        OSError: The folder cannot be written to, or the disk is full; nothing is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")  # as `is_part` knows it
    try:
        with part.open("x", encoding="utf-8", errors="backslashreplace", newline="") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException as error:
        part.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:  # where the disk is full
            error.filename = str(path)
        raise


def is_part(name: str) -> bool:
    """Tell whether a file is the beginning of one, left by a process that was killed."""
    return re.fullmatch(r"\..+\.[0-9a-f]{8}\.part", name) is not None


def check_folders(path: Path) -> None:
    """Check that something can be written at `path`, whose folders need not be there yet.

    It is asked before long work, at the end of which it would be too late, and leaves nothing.

    Raises:
        OSError: A folder above it is none, or may not be written to.
    """
    folder = next(one for one in path.absolute().parents if os.path.lexists(one))
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(folder)) from None


def check_output(
    path: Path, suffixes: Sequence[str], *, overwrite: bool, source: Path | None = None
) -> None:
    """Check that a file of this name can be written.

    Args:
        path: What --output names.
        suffixes: The endings that it may have.
        overwrite: Whether a file that is there may be replaced.
        source: The file that is read, where one is; it is never replaced.

    Raises:
        ConfigError: It has another ending, is a folder, or is there and may not be replaced.
        OSError: Nothing can be written there.
    """
    if path.suffix.lower() not in suffixes:
        expected = ", ".join(suffixes)
        raise ConfigError(f"--output: expected a name ending in {expected}, got {path.name!r}")
    if path.is_dir():
        raise ConfigError(f"--output: {path} is a folder")
    if source is not None and path.exists() and source.exists() and path.samefile(source):
        raise ConfigError(
            f"--output: {path} is the file that is read, and would be lost",
            hint="Choose another --output.",
        )
    if path.exists() and not overwrite:
        raise ConfigError(
            f"--output: {path} exists", hint="Choose another --output, or add --overwrite."
        )
    check_folders(path)


def write_json(path: Path, value: Any) -> None:  # noqa: ANN401 (JSON is of any type)
    """Write `value` as indented JSON, whole or not at all. NaN is refused: it is not JSON."""
    with open_atomically(path) as file:
        json.dump(value, file, indent=2, ensure_ascii=False, allow_nan=False)
        file.write("\n")


def find_cache(kind: str) -> Path:
    """Return the folder of what is kept for later: in $BERTFIT_CACHE, else in the user's cache."""
    chosen = os.environ.get("BERTFIT_CACHE")
    if chosen:
        return Path(chosen) / kind
    cache = as_path(os.environ.get("XDG_CACHE_HOME", ""))
    # By its specification a relative one does not count: each folder would have a cache of its own.
    return (cache if cache.is_absolute() else as_path("~/.cache")) / "bertfit" / kind


def make_readable(folder: Path) -> None:
    """Give a folder and its files the permissions that new ones have.

    Writers that go through a temporary file leave it readable by its owner alone, and a server
    that runs under another name could then not load the model.
    """
    probe = folder / f".{secrets.token_hex(4)}.probe"
    probe.touch(exist_ok=False)  # to ask for the umask a process would have to change it
    mode = stat.S_IMODE(probe.stat().st_mode)
    probe.unlink()
    folder.chmod(mode | 0o100 | (mode & 0o044) >> 2)  # who may read it may enter it
    for path in folder.iterdir():
        if path.is_file():
            path.chmod(mode)
