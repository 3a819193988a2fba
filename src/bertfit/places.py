"""Whether something can be put in the place of a file or folder, asked before long work."""

from __future__ import annotations

import errno
import os
import re
import stat
from pathlib import Path

_MOUNTS = Path("/proc/self/mountinfo")
"""Linux's list of what is mounted: the fifth field of a line is the place, as octal escapes."""


def check_replaceable(path: Path) -> None:
    """Check that a file or folder can be replaced, as far as that shows; its folder is writable.

    Raises:
        OSError: It is a mount point, as a volume of a container, or in a sticky folder such as /tmp
            and another user's.
    """
    if is_mounted(path):
        raise OSError(errno.EBUSY, "it is a mount point, which cannot be replaced", str(path))
    own = getattr(os, "geteuid", lambda: 0)()
    folder = path.parent.stat()
    if folder.st_mode & stat.S_ISVTX and own not in {0, folder.st_uid, path.lstat().st_uid}:
        raise OSError(errno.EPERM, "it is another user's, in a folder of all users", str(path))


def is_mounted(path: Path) -> bool:
    """Return whether a path is a mount point, also one of something of the same file system."""
    if os.path.ismount(path):
        return True
    try:
        mounts = _MOUNTS.read_bytes().splitlines()
    except OSError:  # only Linux has it
        return False
    escaped = re.sub(rb"[ \t\n\\]", lambda found: b"\\%03o" % ord(found[0]), os.fsencode(path))
    return any(mount.split()[4:5] == [escaped] for mount in mounts)
