"""Standard output and error for output that does not go through the consoles.

Control characters in data are shown escaped, so that a terminal does not obey them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any, TextIO, cast

from bertfit.reporting.control_characters import escape_controls


class VisibleStream:
    """A text stream that shows control characters escaped.

    Predictions, JSON, usage errors, warnings and tracebacks hold data and come this way. The
    consoles, whose styles and bars are control characters, escape what they are given and write to
    the stream below.
    """

    def __init__(self, stream: TextIO) -> None:
        """Write to `stream`."""
        self._stream = stream

    @property
    def rich_proxied_file(self) -> TextIO:
        """The stream below, under the name by which a console of rich asks for it."""
        return self._stream

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 (whatever the stream has)
        """Return what the stream below has."""
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write the text with its control characters escaped."""
        self._stream.write(escape_controls(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write every line."""
        for line in lines:
            self.write(line)


def guard_streams() -> None:
    """Let nothing reach standard output and error from here on but through a `VisibleStream`."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if not isinstance(stream, VisibleStream):
            setattr(sys, name, cast("TextIO", VisibleStream(stream)))
