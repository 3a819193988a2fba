"""Files that are written whole or not at all, and where bertfit keeps its own."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any


@contextlib.contextmanager
def open_atomically(path: Path) -> Iterator[IO[str]]:
    """Open a UTF-8 text file that appears under its name only when the block ends without error.

    Raises:
        OSError: The folder cannot be written to, or the disk is full; nothing is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    part = Path(name)
    try:
        with open(descriptor, "w", encoding="utf-8", newline="") as file:  # noqa: PTH123 (a descriptor)
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.chmod(0o666 & ~_umask())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


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
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "bertfit" / kind


def make_readable(folder: Path) -> None:
    """Give a folder and its files the permissions that new ones have.

    Writers that go through a temporary file leave it readable by its owner alone, and a server
    that runs under another name could then not load the model.
    """
    folder.chmod(0o777 & ~_umask())
    for path in folder.iterdir():
        if path.is_file():
            path.chmod(0o666 & ~_umask())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
