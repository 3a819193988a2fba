"""Ends the process at once when a command is done."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import threading
from typing import NoReturn

from bertfit.cli.streams import discard_output
from bertfit.training.interruption import ignore_interrupts

_NUM_TOOLS = 6
"""How many tools may watch a process at once through `sys.monitoring`."""


def leave(code: int) -> NoReturn:
    """End the process with an exit code, without freeing one by one all objects that it made.

    The system frees their memory at once; Python takes more than a second after torch and
    transformers were imported. What was to be done at the end is done, and streams are written out;
    if that fails, 0 becomes 1. If threads still run, or the process is profiled or debugged, Python
    ends it in its own way.
    """
    with ignore_interrupts():
        atexit._run_exitfuncs()  # noqa: SLF001 (Python has no public name; each runs only once)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            code = code or 1
            with contextlib.suppress(OSError, ValueError):
                # Otherwise Python would try again, and exit with 120.
                discard_output(stream)
    if threading.active_count() > 1 or _is_watched():
        sys.exit(code)
    os._exit(code)


def _is_watched() -> bool:
    """Return whether the process is profiled or debugged."""
    if sys.getprofile() is not None or sys.gettrace() is not None:
        return True
    monitoring = getattr(sys, "monitoring", None)  # what cProfile uses from Python 3.12 on
    return monitoring is not None and any(map(monitoring.get_tool, range(_NUM_TOOLS)))
