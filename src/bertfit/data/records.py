"""Records, into which every format is read (a line number and named values), and their stream.

Owns the error for a source that cannot be read at all. Does not know which columns matter, nor any
file format.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from bertfit.errors import DataError, Fault


class SourceError(DataError):
    """A whole source cannot be read; no row of it can be used, so nothing can be skipped."""

    def __init__(self, source: str, message: str, *, line: int | None = None) -> None:
        """Keep the fault, so that it can be listed beside the faults of other sources."""
        self.fault = Fault(source, line, message)
        super().__init__(str(self.fault))


@dataclass(frozen=True, slots=True)
class Record:
    """The values of one row by column name, before anything is made of them."""

    line: int
    """1-based line of the file where the row starts (1-based row of a table)."""
    values: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class RecordStream:
    """A source that has been opened: its columns are known, its rows are still to be read."""

    source: str
    names: Sequence[str]
    """Column names as they stand in the source (JSON lines: the keys of the first objects)."""
    read: Callable[[Sequence[str]], Iterator[Record | Fault]]
    """Yields the rows, once; the argument names the columns that are wanted."""
    has_header_line: bool = False
    """The names come from the first line of the file."""


def check_names_differ(names: Sequence[str], source: str) -> None:
    """Refuse column names that occur twice; empty names (trailing commas) may.

    Raises:
        SourceError: A name occurs twice, so that it does not say which column is meant.
    """
    seen: set[str] = set()
    for name in names:
        if name and name in seen:
            raise SourceError(source, f"column {name!r} occurs twice; column names must differ")
        seen.add(name)
