"""Ctrl-C during training: the first asks for a clean end, the second ends at once.

One `catch_interrupts` spans a training from its first step to its published run, so that no Ctrl-C
falls between two blocks. What may be left out says so by `Interruption.raise_first`.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType


class FirstInterrupt(KeyboardInterrupt):
    """The first Ctrl-C, where it ends a piece of work. The second is a plain KeyboardInterrupt."""


@dataclass(slots=True)
class Interruption:
    """Whether an end was asked for, and what the first Ctrl-C does."""

    requested: bool = False
    _first_raises: bool = False

    @contextlib.contextmanager
    def raise_first(self) -> Iterator[None]:
        """Within the block, let the first signal raise FirstInterrupt as well.

        Catch it outside the block: it may come as the block is entered or left.
        """
        self._first_raises = True
        try:
            yield
        finally:
            self._first_raises = False

    def raise_if_requested(self) -> None:
        """Raise FirstInterrupt where an end was asked for before.

        In a block of `raise_first`, no signal falls between this and the work.
        """
        if self.requested:
            raise FirstInterrupt

    def hear(self, _signal_number: int, _frame: FrameType | None) -> None:
        """Set the flag at the first signal, and raise at the second: the handler of signals."""
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        if self._first_raises:
            raise FirstInterrupt


@contextlib.contextmanager
def catch_interrupts() -> Iterator[Interruption]:
    """Within the block, let the first SIGINT or SIGTERM set a flag and the second raise.

    A block within another one counts for itself. Outside the main thread, where Python cannot
    handle signals, the flag stays off.

    Raises:
        KeyboardInterrupt: A second signal came.
    """
    interruption = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield interruption
        return

    numbers = (signal.SIGINT, signal.SIGTERM)
    previous = [signal.signal(number, interruption.hear) for number in numbers]
    try:
        yield interruption
    finally:
        for number, handler in zip(numbers, previous, strict=True):
            signal.signal(number, handler)
