"""Pauses Python's search for garbage where there is none to find."""

from __future__ import annotations

import contextlib
import gc
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass(slots=True)
class _Pauses:
    """How many pauses there are, in all threads, and whether Python collected before the first."""

    count: int = 0
    was_on: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)


_pauses = _Pauses()


@contextlib.contextmanager
def pause_collection() -> Iterator[None]:
    """Stop looking for garbage for a moment, such as while libraries are imported.

    torch and transformers make half a million objects that all stay, and Python goes through them
    again and again: a third of the time that their import takes. If collection was off already, it
    stays off.
    """
    with _pauses.lock:
        if _pauses.count == 0:
            _pauses.was_on = gc.isenabled()
        _pauses.count += 1
        gc.disable()
    try:
        yield
    finally:
        with _pauses.lock:
            _pauses.count = max(_pauses.count - 1, 0)  # 0 before in a forked process
            _end_last()


def _end_last() -> None:
    """Collect again if no pause is left, and Python did before."""
    if _pauses.count == 0 and _pauses.was_on:
        _pauses.was_on = False
        gc.enable()


def _begin_anew() -> None:
    """Collect in a forked process, in which the threads are missing that would end their pauses."""
    _pauses.count, _pauses.lock = 0, threading.Lock()
    _end_last()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)
