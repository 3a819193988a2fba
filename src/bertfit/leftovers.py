"""Work folders: locked while in use, and found when they were abandoned.

The lock is on the folder itself, and the system releases it when the process ends, however it ends.
So there is no lock file that could be left behind, the lock moves along when the folder is renamed,
and no process is mistaken for another one with the same id.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from pathlib import Path


def make_held_folder(place: Path, prefix: str) -> tuple[Path, contextlib.ExitStack]:
    """Make a folder of a name of its own, held until the stack is closed or this process ends.

    Where folders cannot be locked (on Windows, and on some network file systems) nothing is held,
    and `find_leftovers` finds nothing there. A child by fork holds it too: where it outlives its
    parent, the folder is found later.

    Raises:
        OSError: The folder cannot be made.
    """
    folder, hold = Path(tempfile.mkdtemp(prefix=prefix, dir=place)), contextlib.ExitStack()
    with contextlib.suppress(ImportError, OSError):
        import fcntl

        descriptor = os.open(folder, os.O_RDONLY)
        hold.callback(os.close, descriptor)
        # It waits where somebody is just looking whether it is held, which takes a moment.
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    return folder, hold


def find_leftovers(place: Path, prefix: str) -> list[Path]:
    """Return the folders that `make_held_folder` made and nobody on this machine holds any more.

    Those without content are not among them, so that none is found between being made and held.
    """
    made = re.compile(re.escape(prefix) + "[a-z0-9_]+")  # no dot: `.a.b-x.b-y` is not one of `.a`
    try:
        folders = sorted(path for path in place.iterdir() if made.fullmatch(path.name))
    except OSError:
        return []
    # What its holder has moved to its place meanwhile has no size under this name.
    return [path for path in folders if not _may_be_held(path) and measure_folder(path)]


def measure_folder(folder: Path) -> int:
    """Return the bytes of all files in a folder."""
    size = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):  # it has just gone
                size += (Path(place) / name).lstat().st_size
    return size


def _may_be_held(folder: Path) -> bool:
    """Tell whether somebody holds a folder, or that cannot be known."""
    try:
        import fcntl

        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except (ImportError, OSError):
        return True
    try:
        # As its holder did: where that cannot be had, nobody could hold it, and nothing is known.
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False
