"""Keeps memory that is freed between two layers for the next one.

A training step allocates and frees a few hundred megabytes in pieces of some megabytes each. glibc
takes pieces of that size from the kernel and returns them at once, and the kernel fills each page
with zeros when it is next touched: 36,000 page faults and a tenth of a step (MiniLM, 16 rows of 128
tokens). Here glibc is told to keep them. Other allocators and systems are left alone.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# From glibc's malloc.h, with the values that malloc starts with (mallopt(3)).
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
_DEFAULT_TRIM_THRESHOLD, _DEFAULT_MMAP_MAX = 128 * 1024, 65536
_NEVER = 2**31 - 1


_MOST_GROWTH = 1.5
_STATM = Path("/proc/self/statm")

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


@dataclass(slots=True)
class Fragments:
    """Watches this process grow by fragments, and returns freed memory when it has grown by half.

    Returning it every 32 steps took 7 % of a training on a virtual machine, where a page fault is
    dear (docs/performance.md).
    """

    settled_bytes: int | None = None
    """Memory in use at the first look, or at the first one after memory was returned."""

    def look(self) -> None:
        """Return freed memory where too much has come together; call it every few dozen steps."""
        resident = measure_resident()
        if resident is None:
            return_freed_memory()
        elif self.settled_bytes is None:
            self.settled_bytes = resident
        elif resident > _MOST_GROWTH * self.settled_bytes:
            return_freed_memory()
            self.settled_bytes = None


def measure_resident() -> int | None:
    """Return the bytes of memory that this process has now, or None where Linux does not tell."""
    try:
        pages = int(_STATM.read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


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
