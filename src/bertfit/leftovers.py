"""Work folders: locked while in use, and found if abandoned.

The lock is on the folder itself, and the system releases it when the process ends, however it ends.
No lock file can be left behind, the lock stays with the folder when it is renamed, and a process
cannot be mistaken for another one with the same id.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from pathlib import Path


def make_held_folder(place: Path, prefix: str) -> tuple[Path, contextlib.ExitStack]:
    """Make a folder with a unique name, locked until the stack is closed or this process ends.

    If folders cannot be locked (on Windows, and on some network file systems), it is not locked,
    and `find_leftovers` finds nothing there. A forked child holds the lock too: if it outlives its
    parent, the folder is found only once the child has ended.

    Raises:
        OSError: The folder cannot be made.
    """
    folder, hold = Path(tempfile.mkdtemp(prefix=prefix, dir=place)), contextlib.ExitStack()
    with contextlib.suppress(ImportError, OSError):
        import fcntl

        descriptor = os.open(folder, os.O_RDONLY)
        hold.callback(os.close, descriptor)
        # This waits briefly if another process is just testing the lock.
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    return folder, hold


def hold_folder(folder: Path) -> contextlib.ExitStack | None:
    """Lock a folder that was left, until the stack is closed; None if it is or may be in use."""
    try:
        import fcntl

        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except (ImportError, OSError):
        return None
    hold = contextlib.ExitStack()
    hold.callback(os.close, descriptor)
    try:
        # The same kind of lock as the holder's. An error means held, or locks are unsupported.
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        hold.close()
        return None
    return hold


def find_leftovers(place: Path, prefix: str) -> list[Path]:
    """Return folders from `make_held_folder` that no process on this machine locks any more.

    Empty ones are left out, so that a folder is not found between being made and locked.
    """
    made = re.compile(re.escape(prefix) + "[a-z0-9_]+")  # no dot: `.a.b-x.b-y` is not one of `.a`
    try:
        folders = sorted(path for path in place.iterdir() if made.fullmatch(path.name))
    except OSError:
        return []
    # A folder that its holder has just moved away has size 0 under this name.
    return [path for path in folders if not may_be_held(path) and measure_folder(path)]


def measure_folder(folder: Path) -> int:
    """Return the total size in bytes of all files in a folder; 0 if there is no such folder."""
    size = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):  # it was just removed
                size += (Path(place) / name).lstat().st_size
    return size


def may_be_held(folder: Path) -> bool:
    """Return whether a folder is locked, or that cannot be known."""
    hold = hold_folder(folder)
    if hold is not None:
        hold.close()
    return hold is None
