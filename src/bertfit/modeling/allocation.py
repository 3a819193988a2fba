"""Memory that is freed between two layers, kept for the next one.

A training step asks for and gives back a few hundred megabytes in pieces of some megabytes each.
glibc takes pieces of that size from the kernel and returns them at once, and the kernel fills each
page with zeros when it is next touched: 36,000 page faults and a tenth of a step (MiniLM, 16 rows
of 128 tokens). Here glibc is asked to keep them. Other allocators and systems are left alone.
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections.abc import Iterator

# From glibc's malloc.h, with the values that malloc starts with (mallopt(3)).
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
_DEFAULT_TRIM_THRESHOLD, _DEFAULT_MMAP_MAX = 128 * 1024, 65536
_NEVER = 2**31 - 1


_lock = threading.Lock()
_num_holders = 0


@contextlib.contextmanager
def keep_freed_memory() -> Iterator[None]:
    """Let the process keep the memory that it frees; at the end, return it to the system.

    May be nested and used from several threads: the outermost and the last one ends it. Where
    pieces of many sizes come and go, free memory is cut into ever smaller fragments that nothing
    fits into: whoever works for long calls `return_freed_memory` now and then.
    """
    libc = _find_glibc()
    if libc is None:
        yield
        return
    _count(libc, 1)
    try:
        yield
    finally:
        _count(libc, -1)


def return_freed_memory() -> None:
    """Return to the system what is free now; the next step takes it again, page by page."""
    libc = _find_glibc()
    if libc is not None:
        libc.malloc_trim(0)


def can_keep_freed_memory() -> bool:
    """Tell whether this process has an allocator that can be asked."""
    return _find_glibc() is not None


def _count(libc: ctypes.CDLL, change: int) -> None:
    """Note one holder more or less; the first one sets malloc, the last one sets it back."""
    global _num_holders
    with _lock:
        before, _num_holders = _num_holders, _num_holders + change
        if before == 0:
            libc.mallopt(_MMAP_MAX, 0)
            libc.mallopt(_TRIM_THRESHOLD, _NEVER)
        elif _num_holders == 0:
            libc.mallopt(_MMAP_MAX, _DEFAULT_MMAP_MAX)
            libc.mallopt(_TRIM_THRESHOLD, _DEFAULT_TRIM_THRESHOLD)
            libc.malloc_trim(0)


def _find_glibc() -> ctypes.CDLL | None:
    """Return the C library of this process, where it has glibc's calls."""
    try:
        libc = ctypes.CDLL(None)
    except (OSError, TypeError):  # Windows has no library of the process itself
        return None
    return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None
