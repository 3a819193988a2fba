"""Pauses Python's search for garbage where there is none to find."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

from bertfit.process_wide import ProcessWide


@contextlib.contextmanager
def pause_collection() -> Iterator[None]:
    """Stop looking for garbage for a moment, such as while libraries are imported.

    torch and transformers make half a million objects that all stay, and Python goes through them
    again and again: a third of the time that their import takes. If collection was off already, it
    stays off.
    """
    with _collection.changed():
        yield


def _stop() -> bool:
    was_on = gc.isenabled()
    gc.disable()
    return was_on


def _go_on(was_on: bool) -> None:  # noqa: FBT001 (called by `ProcessWide` alone)
    if was_on:
        gc.enable()


_collection = ProcessWide(_stop, _go_on)
