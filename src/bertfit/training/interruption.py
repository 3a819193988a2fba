"""Ctrl-C during training: the first asks for a clean end, the second ends at once."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType


@dataclass(slots=True)
class Interruption:
    """Whether an end was asked for."""

    requested: bool = False


@contextlib.contextmanager
def catch_interrupts() -> Iterator[Interruption]:
    """Within the block, let the first SIGINT or SIGTERM set a flag and the second raise.

    Outside the main thread, where Python cannot handle signals, the flag stays off.

    Raises:
        KeyboardInterrupt: A second signal came.
    """
    interruption = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield interruption
        return

    def handle(_signal_number: int, _frame: FrameType | None) -> None:
        if interruption.requested:
            raise KeyboardInterrupt
        interruption.requested = True

    numbers = (signal.SIGINT, signal.SIGTERM)
    previous = [signal.signal(number, handle) for number in numbers]
    try:
        yield interruption
    finally:
        for number, handler in zip(numbers, previous, strict=True):
            signal.signal(number, handler)
