"""Pauses Python's search for garbage where there is none to find."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def pause_collection() -> Iterator[None]:
    """Stop looking for garbage for a moment, such as while libraries are imported.

    torch and transformers make half a million objects that all stay, and Python goes through them
    again and again: a third of the time that their import takes. If collection was off already, it
    stays off.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
