"""Keeps memory freed by one layer for the next, or returns it to the system.

A training step allocates and frees a few hundred megabytes in blocks of a few megabytes. glibc maps
blocks of that size and unmaps them when freed, and the kernel zeroes each page when it is next
touched: 36,000 page faults and a tenth of a step (MiniLM, 16 rows of 128 tokens). This module tells
glibc to keep them. Other allocators and systems are not affected. For a GPU, torch does the same.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch

# From glibc's malloc.h, with malloc's defaults (mallopt(3)).
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
_DEFAULT_TRIM_THRESHOLD, _DEFAULT_MMAP_MAX = 128 * 1024, 65536
_NEVER = 2**31 - 1


_MOST_GROWTH = 1.5
_MOST_LEFT = 128 * 2**20
"""Bytes by which the process may have grown when the last holder ends without returning them: that
a service which predicts one text at a time need not go through its whole heap after each."""
_STATM = Path("/proc/self/statm")


@dataclass(slots=True)
class _Holders:
    """Who needs freed memory kept; and the least memory in use since it was last returned."""

    num: int = 0
    least_bytes: int | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)


_holders = _Holders()


@contextlib.contextmanager
def keep_freed_memory() -> Iterator[None]:
    """Make the process keep the memory that it frees; return it to the system at the end, if much.

    May be nested and used from several threads; it ends when the last context exits. Allocations of
    many different sizes fragment the free memory, so long-running work should call
    `return_freed_memory` occasionally.
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
    """Return free memory to the system; the next step faults it in again, page by page."""
    libc = _find_glibc()
    if libc is not None:
        libc.malloc_trim(0)
        _holders.least_bytes = None


def return_cached_memory(device: torch.device) -> None:
    """Return a GPU's memory that torch keeps for later; nothing is kept on other devices.

    Memory that ran out may be in pieces, and that of dropped recordings is not used for others.
    """
    if device.type == "cuda":
        torch.cuda.empty_cache()


@dataclass(slots=True)
class Fragments:
    """Returns freed memory once fragmentation has made the process grow by half.

    Returning it every 32 steps took 7 % of the training time on a virtual machine, where page
    faults are expensive (docs/performance.md).
    """

    settled_bytes: int | None = None
    """Memory in use at the first look, or at the first one after memory was last returned."""

    def look(self) -> None:
        """Return freed memory if too much has accumulated; call this every few dozen steps."""
        resident = measure_resident()
        if resident is None:
            return_freed_memory()
        elif self.settled_bytes is None:
            self.settled_bytes = resident
        elif resident > _MOST_GROWTH * self.settled_bytes:
            return_freed_memory()
            self.settled_bytes = None


def measure_resident() -> int | None:
    """Return the resident memory of this process in bytes, or None if Linux does not report it."""
    try:
        pages = int(_STATM.read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def can_keep_freed_memory() -> bool:
    """Return whether this process has an allocator that can be told to keep memory."""
    return _find_glibc() is not None


def _count(libc: ctypes.CDLL, change: int) -> None:
    """Count holders up or down; the first one configures malloc, the last one restores it."""
    with _holders.lock:
        before, _holders.num = _holders.num, max(_holders.num + change, 0)
        if before == 0 and change > 0:
            libc.mallopt(_MMAP_MAX, 0)
            libc.mallopt(_TRIM_THRESHOLD, _NEVER)
            _note_growth()
        elif _holders.num == 0:
            libc.mallopt(_MMAP_MAX, _DEFAULT_MMAP_MAX)
            libc.mallopt(_TRIM_THRESHOLD, _DEFAULT_TRIM_THRESHOLD)
            if _note_growth() > _MOST_LEFT:
                libc.malloc_trim(0)
                _holders.least_bytes = measure_resident()


def _note_growth() -> float:
    """Return by how many bytes the process has grown since its least; much if that is not known."""
    resident = measure_resident()
    if resident is None:
        return float("inf")
    least = resident if _holders.least_bytes is None else min(_holders.least_bytes, resident)
    _holders.least_bytes = least
    return resident - least


def _forget_holders() -> None:
    """Begin anew in a forked process, which has none of the threads that were holders."""
    _holders.num, _holders.least_bytes, _holders.lock = 0, None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_holders)


def _find_glibc() -> ctypes.CDLL | None:
    """Return the C library of this process if it has glibc's functions."""
    try:
        libc = ctypes.CDLL(None)
    except (OSError, TypeError):  # Windows has no handle for the process itself
        return None
    return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None
