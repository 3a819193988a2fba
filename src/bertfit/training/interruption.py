"""Ctrl-C during training: the first requests a clean end, the second ends at once.

SIGTERM, and the SIGHUP of a closed terminal, act like Ctrl-C. One `catch_interrupts` spans a
training from its first step to its published run, so that no Ctrl-C falls between two blocks. Work
that may be skipped runs within `Interruption.raise_first`.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType

HANG_UP: int | None = getattr(signal, "SIGHUP", None)
"""The signal of a closed terminal, which sends it twice; Windows has none."""
ENDING_SIGNALS = tuple(
    number for number in (signal.SIGINT, signal.SIGTERM, HANG_UP) if number is not None
)
"""What asks a command to end: Ctrl-C, a service manager, a closed terminal."""


class FirstInterrupt(KeyboardInterrupt):
    """The first Ctrl-C, if it ends a piece of work. The second is a plain KeyboardInterrupt."""


@dataclass(slots=True)
class Interruption:
    """Whether an end was requested, and what the first Ctrl-C does."""

    requested: bool = False
    _first_raises: bool = False

    @contextlib.contextmanager
    def raise_first(self) -> Iterator[None]:
        """Within the block, let the first signal raise FirstInterrupt as well.

        Catch it outside the block: it may be raised as the block is entered or left.
        """
        before, self._first_raises = self._first_raises, True
        try:
            yield
        finally:
            self._first_raises = before

    def raise_if_requested(self) -> None:
        """Raise FirstInterrupt if an end was requested before.

        Within `raise_first`, no signal can get lost between this check and the work.
        """
        if self.requested:
            raise FirstInterrupt

    def hear(self, signal_number: int, _frame: FrameType | None) -> None:
        """Handle a signal: set the flag at the first one, raise at the second.

        A closed terminal is never the second.
        """
        if self.requested:
            if signal_number == HANG_UP:
                return
            raise KeyboardInterrupt
        self.requested = True
        if self._first_raises:
            raise FirstInterrupt


@contextlib.contextmanager
def catch_interrupts() -> Iterator[Interruption]:
    """Within the block, let the first of `ENDING_SIGNALS` set a flag and the second raise.

    A signal that is ignored, as under `nohup`, remains so. Nested blocks count separately. Outside
    the main thread, where Python cannot handle signals, the flag stays off.

    Raises:
        KeyboardInterrupt: A second signal came.
    """
    interruption = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield interruption
        return

    previous = {number: signal.getsignal(number) for number in find_heard_signals()}
    for number in previous:
        signal.signal(number, interruption.hear)
    try:
        yield interruption
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def find_heard_signals() -> list[int]:
    """Return those of `ENDING_SIGNALS` that are neither ignored nor handled outside Python."""
    unheard = (signal.SIG_IGN, None)
    return [number for number in ENDING_SIGNALS if signal.getsignal(number) not in unheard]
