"""Ctrl-C during training: the first requests a clean end, the second ends at once.

SIGTERM, the SIGHUP of a closed terminal and the signals by which batch systems announce the end of
a job act like Ctrl-C. One `catch_interrupts` spans a training from its first step to its published
run, so that no Ctrl-C falls between two blocks. Work that may be skipped runs within
`Interruption.raise_first`.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType

from bertfit.errors import WorkLeft

HANG_UP: int | None = getattr(signal, "SIGHUP", None)
"""The signal of a closed terminal, which sends it twice; Windows has SIGBREAK for it."""
ENDING_SIGNALS = tuple(
    number
    for number in (signal.SIGINT, signal.SIGTERM, HANG_UP, getattr(signal, "SIGBREAK", None))
    if number is not None
)
"""What asks a command to end: Ctrl-C, a service manager, a closed terminal."""
BATCH_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGXCPU", "SIGUSR1") if hasattr(signal, name)
)
"""What tells a job that its time is nearly over. A program may use them for something else."""
HEARD_ONCE = frozenset({HANG_UP, *BATCH_SIGNALS})
"""Signals that may come again on their own: a job over its time gets one each second."""


_SECONDS_TOGETHER = 1.0


class FirstInterrupt(KeyboardInterrupt):
    """The first Ctrl-C, if it ends a piece of work. The second is a plain KeyboardInterrupt."""


class TrainingLeft(WorkLeft):
    """Ctrl-C ended a training that is to go on later; its state was left."""


@dataclass(slots=True)
class Interruption:
    """Whether an end was requested, and what the first Ctrl-C does."""

    requested: bool = False
    _first_raises: bool = False
    _alone_from: float = 0.0
    """When, by the monotonic clock, what came with the first signal is over."""

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

        Those of `HEARD_ONCE` are never the second, nor is what comes with them: service managers
        send SIGTERM and SIGHUP at once, and Python handles the lower number, SIGHUP, first.
        """
        if self.requested:
            if signal_number in HEARD_ONCE or time.monotonic() < self._alone_from:
                return
            raise KeyboardInterrupt
        self.requested = True
        if signal_number in HEARD_ONCE:
            self._alone_from = time.monotonic() + _SECONDS_TOGETHER
        if self._first_raises:
            raise FirstInterrupt


@contextlib.contextmanager
def catch_interrupts() -> Iterator[Interruption]:
    """Within the block, let the first ending signal set a flag and the second raise.

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


@contextlib.contextmanager
def ignore_interrupts() -> Iterator[None]:
    """Ignore Ctrl-C and its like in the block: the second of two would keep processes from ending.

    Outside the main thread, where Python cannot handle signals, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.signal(number, signal.SIG_IGN) for number in find_heard_signals()}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def find_heard_signals() -> list[int]:
    """Return the ending signals that are neither ignored nor handled outside Python.

    Signals of batch systems are only meant if nobody else handles them.
    """
    unheard = (signal.SIG_IGN, None)
    heard = [number for number in ENDING_SIGNALS if signal.getsignal(number) not in unheard]
    return heard + [number for number in BATCH_SIGNALS if _is_free(signal.getsignal(number))]


def _is_free(handler: object) -> bool:
    """Return whether a signal has no handler, or one of ours."""
    is_own = str(getattr(handler, "__module__", "")).startswith("bertfit.")
    return handler is signal.SIG_DFL or is_own
