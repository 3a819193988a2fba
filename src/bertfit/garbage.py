"""Pauses Python's search for garbage where there is none to find."""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(slots=True)
class _Pause:
    """Whether a pause is on that will end by collecting again."""

    is_on: bool = False


_pause = _Pause()


@contextlib.contextmanager
def pause_collection() -> Iterator[None]:
    """Stop looking for garbage for a moment, such as while libraries are imported.

    torch and transformers make half a million objects that all stay, and Python goes through them
    again and again: a third of the time that their import takes. If collection was off already, it
    stays off.
    """
    was_enabled = gc.isenabled()
    if was_enabled:
        _pause.is_on = True
        gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            _go_on()


def _go_on() -> None:
    """Collect again: at the end of a pause, or in a forked process, which may have none to come."""
    if _pause.is_on:
        _pause.is_on = False
        gc.enable()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_go_on)
