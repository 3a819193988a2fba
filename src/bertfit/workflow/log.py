"""Keeps what a training says, for its train.log."""

from __future__ import annotations

import datetime as dt
import math
import time
from collections.abc import Mapping
from typing import Any

from bertfit.files import open_atomically
from bertfit.progress import Listener
from bertfit.reporting.control_characters import escape_controls
from bertfit.run_directory import Staging
from bertfit.run_files import LOG_NAME


class LogKeeper:
    """A listener that passes everything on and keeps the notes, with their time, for the log."""

    def __init__(self, listener: Listener) -> None:
        """Pass on to `listener`."""
        self._listener = listener
        self.lines: list[str] = []
        self._started = time.perf_counter()

    def count_seconds(self) -> float:
        """Return how long ago the training began, rounded as in bertfit.json."""
        return round(time.perf_counter() - self._started, 1)

    def keep(self) -> dict[str, Any]:
        """Return the notes and the seconds so far, for `go_on_from`."""
        return {"lines": list(self.lines), "seconds": self.count_seconds()}

    def go_on_from(self, kept: Mapping[str, Any]) -> None:
        """Put the notes of an earlier process before those of this one, and add its seconds."""
        self.lines[:0] = kept["lines"]
        self._started -= kept["seconds"]

    def note(self, text: str) -> None:
        """Log the sentence and pass it on."""
        now = dt.datetime.now(tz=dt.UTC).isoformat(timespec="seconds")
        # Or a name with a line break could be followed by what looks like another note.
        told = "\n    ".join(escape_controls(text).splitlines())
        self.lines.append(f"{now} {told}")
        self._listener.note(text)

    def progress(self, task: str, done: int, total: int | None, detail: str = "") -> None:
        """Pass progress on."""
        self._listener.progress(task, done, total, detail)


def write_log(staging: Staging, log: LogKeeper) -> None:
    """Write all notes so far."""
    with open_atomically(staging.folder / LOG_NAME) as file:
        file.writelines(f"{line}\n" for line in log.lines)


def check_kept(kept: Mapping[str, Any]) -> None:
    """Check that this is what `LogKeeper.keep` returned.

    Raises:
        KeyError: An entry is missing.
        ValueError: An entry is of a wrong type.
    """
    lines, seconds = kept["lines"], kept["seconds"]
    are_lines = isinstance(lines, list) and all(isinstance(line, str) for line in lines)
    if not are_lines or not isinstance(seconds, float) or not math.isfinite(seconds):
        message = "the log is damaged"
        raise ValueError(message)
