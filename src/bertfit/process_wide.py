"""Changes something of the whole process while any of its threads needs that."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

_Found = TypeVar("_Found")


class ProcessWide(Generic[_Found]):
    """A setting that all threads share: the first that needs another one changes it.

    The last one that does undoes the change.
    """

    def __init__(self, change: Callable[[], _Found], undo: Callable[[_Found], object]) -> None:
        """Take how to change the setting.

        Args:
            change: Changes it, and returns how it was found; called by each thread.
            undo: Gets what the first of them found.
        """
        self._change, self._undo = change, undo
        self._found: list[_Found] = []
        """An entry for each block; the first, which is popped last, is from before the change."""
        self._lock = threading.Lock()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._begin_anew)

    @contextlib.contextmanager
    def changed(self) -> Iterator[None]:
        """Within the block, keep the setting changed."""
        with self._lock:
            self._found.append(self._change())
        try:
            yield
        finally:
            with self._lock:
                if self._found:  # none in a process that was forked within the block
                    found = self._found.pop()
                    if not self._found:
                        self._undo(found)

    def _begin_anew(self) -> None:
        """Undo the change in a forked process, which lacks the threads that would."""
        self._lock = threading.Lock()
        if self._found:
            self._undo(self._found[0])
            self._found.clear()
