"""Standard output and error for output that does not go through the consoles.

Control characters in data are escaped, so that a terminal does not interpret them.
"""

from __future__ import annotations

import codecs
import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any, TextIO, cast

from bertfit.reporting.control_characters import escape_controls


class VisibleStream:
    """A text stream that escapes control characters.

    Predictions, JSON, usage errors, warnings and tracebacks contain data and are written here. The
    consoles, whose styles and bars need control characters, escape their input themselves and write
    to the wrapped stream.
    """

    def __init__(self, stream: TextIO) -> None:
        """Write to `stream`."""
        self._stream = stream

    @property
    def rich_proxied_file(self) -> TextIO:
        """The wrapped stream, under the name that a rich console looks up."""
        return self._stream

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 (whatever the stream has)
        """Return an attribute of the wrapped stream."""
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write the text with its control characters escaped."""
        self._stream.write(escape_controls(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write every line."""
        for line in lines:
            self.write(line)


def write_json(value: Any, *, indent: int | None = None) -> None:  # noqa: ANN401 (JSON is of any type)
    r"""Write JSON and a line end to standard output.

    Where standard output is not UTF-8, other characters than ASCII are escaped as JSON does it. The
    stream's own escapes of what its encoding lacks (`\xe9`) are not JSON.
    """
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    is_utf8 = codecs.lookup(encoding).name == "utf-8"
    sys.stdout.write(json.dumps(value, ensure_ascii=not is_utf8, indent=indent) + "\n")


def discard_output(stream: IO[str]) -> None:
    """Let a stream that can no longer be written to lose all further output silently."""
    with Path(os.devnull).open("wb") as sink:
        os.dup2(sink.fileno(), stream.fileno())


def guard_streams() -> None:
    """Wrap standard output and error in a `VisibleStream`, unless already wrapped."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if not isinstance(stream, VisibleStream):
            setattr(sys, name, cast("TextIO", VisibleStream(stream)))
