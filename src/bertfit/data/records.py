"""Records (a line number and named values), the common form of all formats, and their stream.

Owns the error for a source that cannot be read at all. Knows neither the roles of columns nor any
file format.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bertfit.errors import DataError, Fault

TABLE_NAMES = frozenset({"rows", "DataFrame", "Table", "Dataset"})
"""Names that `readers.name_source` gives to tables in memory; they do not identify a table."""


class SourceError(DataError):
    """A whole source cannot be read, so no row of it can be used or skipped."""

    def __init__(self, source: str, message: str, *, line: int | None = None) -> None:
        """Keep the fault, so that it can be listed with the faults of other sources."""
        self.fault = Fault(source, line, message)
        super().__init__(str(self.fault))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle what made it, so that it can come from another process."""
        make = functools.partial(type(self), line=self.fault.line)
        return make, (self.fault.source, self.fault.message)


@dataclass(frozen=True, slots=True)
class Record:
    """The raw values of one row by column name."""

    line: int
    """1-based line of the file where the row starts (1-based row of a table)."""
    values: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class RecordStream:
    """An opened source: its columns are known, its rows have not been read."""

    source: str
    names: Sequence[str]
    """Column names as in the source (for JSON lines, the keys of the first objects)."""
    read: Callable[[Sequence[str]], Iterator[Record | Fault]]
    """Yields the rows, once; the argument lists the columns to read."""
    has_header_line: bool = False
    """The names come from the first line of the file."""

    @property
    def is_in_memory(self) -> bool:
        """Whether it is a table that was given from Python, where there are no options."""
        return self.source in TABLE_NAMES


def check_names_differ(names: Sequence[str], source: str) -> None:
    """Reject duplicate column names, except empty ones (from trailing commas).

    Raises:
        SourceError: A name occurs twice.
    """
    seen: set[str] = set()
    for name in names:
        if name and name in seen:
            raise SourceError(source, f"column {name!r} occurs twice; column names must differ")
        seen.add(name)
