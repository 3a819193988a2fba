"""Signals that end a command: Ctrl-C, SIGTERM, a closed terminal, the end of a batch job's time.

Each raises KeyboardInterrupt, except while `training.interruption` handles it.
"""

from __future__ import annotations

import _thread
import contextlib
import functools
import math
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType

from bertfit.training.interruption import ENDING_SIGNALS, HEARD_ONCE, find_heard_signals

_LEAST_SECONDS_BETWEEN = 1.0
"""A signal that comes sooner after another one is not heard."""


def hear_signals() -> None:
    """Let each signal that is not ignored interrupt the command, also where Python discards it."""
    interrupter = _Interrupter()
    with contextlib.suppress(ValueError):  # outside the main thread there are no signals
        for number in find_heard_signals():
            signal.signal(number, interrupter.hear)
    sys.unraisablehook = functools.partial(_repeat_interrupt, interrupter, sys.unraisablehook)


@dataclass(slots=True)
class _Interrupter:
    """Raises KeyboardInterrupt when a signal comes, but not twice in quick succession.

    The second of two would come while files are removed, or the message is written.
    """

    _last: float = -math.inf

    def hear(self, signal_number: int, _frame: FrameType | None) -> None:
        """Handle a signal; that of a closed terminal, for example, is heard only once."""
        if signal_number in HEARD_ONCE:
            signal.signal(signal_number, signal.SIG_IGN)
        now = time.monotonic()
        if now - self._last >= _LEAST_SECONDS_BETWEEN:
            self._last = now
            raise KeyboardInterrupt

    def forget(self) -> None:
        """Hear the next signal whenever it comes."""
        self._last = -math.inf


def _repeat_interrupt(
    interrupter: _Interrupter,
    otherwise: Callable[[sys.UnraisableHookArgs], object],
    lost: sys.UnraisableHookArgs,
) -> None:
    """Send a signal again that Python discarded, as it came in a callback of the import system."""
    if not issubclass(lost.exc_type, KeyboardInterrupt):
        otherwise(lost)
        return
    interrupter.forget()
    # A shell's background jobs ignore SIGINT. Any other that is heard does the same.
    number = next((one for one in ENDING_SIGNALS if callable(signal.getsignal(one))), None)
    if number is not None:
        # Later, as here it would be discarded again.
        if hasattr(signal, "pthread_kill"):
            again = threading.Timer(0.05, signal.pthread_kill, (threading.get_ident(), number))
        else:  # on Windows
            again = threading.Timer(0.05, _thread.interrupt_main, (number,))
        again.daemon = True
        again.start()
