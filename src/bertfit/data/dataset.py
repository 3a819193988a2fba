"""Labelled text in memory, column by column; each row knows its line number."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bertfit.errors import ConfigError
from bertfit.text_encoding import find_encoding_problem

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Row:
    """One row as a reader yields it."""

    line: int
    """1-based line of the file (1-based row of a table)."""
    text: str
    label: str | None
    group: str | None
    slices: tuple[object, ...] = ()
    """Raw values of the slice columns; None if missing."""
    kept: tuple[object, ...] = ()
    """Raw values of the kept columns; None if missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Column names by role, and the encoding of the files that have them.

    None looks for the usual names (see `columns.USUAL_NAMES`).
    """

    text: str | None = None
    label: str | None = None
    group: str | None = None
    """None means no grouping: a group column is never guessed."""
    slices: tuple[str, ...] = ()
    """Further columns, whose values divide the rows into slices."""
    kept: tuple[str, ...] = ()
    """Further columns, whose values are passed on with the predictions of a file."""
    trained_text: str | None = None
    """The text column used in training; preferred to the usual names if present."""
    trained_label: str | None = None
    """The label column used in training; likewise."""
    encoding: str = "utf-8"
    """Of CSV, TSV and JSON lines; a byte order mark overrules it."""


def as_columns(columns: object) -> Columns:
    """Return an argument that is `Columns` or None, which stands for the usual names.

    Raises:
        ConfigError: It is neither, or a name in it is not a string.
    """
    if columns is None:
        return Columns()
    if not isinstance(columns, Columns):
        raise ConfigError(
            f"columns: expected bertfit.Columns(text=…, label=…), got {type(columns).__name__}"
        )
    for role in ("text", "label", "group"):
        name = getattr(columns, role)
        if name is not None and not isinstance(name, str):
            raise ConfigError(
                f"columns: {role}: expected the name of a column, a string, got {name!r}",
                hint="Names of a table that are not strings are read as str(name).",
            )
    if not isinstance(columns.encoding, str):
        raise ConfigError(
            f"columns: encoding: expected the name of one, a string, got {columns.encoding!r}"
        )
    problem = find_encoding_problem(columns.encoding)
    if problem is not None:
        raise ConfigError(f"columns: encoding: {problem}")
    for role in ("slices", "kept"):
        names: object = getattr(columns, role)
        if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
            raise ConfigError(
                f"columns: {role}: expected a tuple of names of columns, got {names!r}"
            )
    return columns


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadColumn:
    """The column of a source that was read as its text, or as its label."""

    name: str
    is_given: bool
    """Whether the user named it; False if it was found by a usual name."""
    others: tuple[str, ...] = ()
    """Other columns with a usual name; empty if the column was named by the user."""


@dataclass(frozen=True, slots=True)
class TextDataset:
    """Labelled text: parallel columns of equal length n."""

    source: str
    texts: Sequence[str] = field(repr=False)
    labels: Sequence[str] = field(repr=False)
    """Label names; empty if the source has none."""
    groups: Sequence[str] = field(repr=False)
    """Group names; empty if there is no group column."""
    lines: Sequence[int] = field(repr=False)
    slices: Mapping[str, Sequence[object]] = field(default_factory=dict, repr=False)
    """n raw values per slice column, by column name."""
    columns: Mapping[str, ReadColumn] = field(default_factory=dict)
    """The columns that were read, by "text" and "label"; empty if the source had none."""

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.texts)

    @property
    def known_groups(self) -> NDArray[Any] | None:
        """(n,) groups for resampling; None without a group column."""
        import numpy as np

        return np.asarray(self.groups, dtype=object) if self.groups else None

    def select(self, indices: Sequence[int]) -> TextDataset:
        """Return the rows at `indices`, in that order."""
        return TextDataset(
            source=self.source,
            texts=[self.texts[index] for index in indices],
            labels=[self.labels[index] for index in indices] if self.labels else (),
            groups=[self.groups[index] for index in indices] if self.groups else (),
            lines=[self.lines[index] for index in indices],
            slices={
                name: [values[index] for index in indices] for name, values in self.slices.items()
            },
            columns=self.columns,
        )

    def fingerprint(self) -> str:
        """Return the SHA-256 of the texts and labels in order."""
        digest = hashlib.sha256()
        for index, text in enumerate(self.texts):
            label = self.labels[index] if self.labels else ""
            for part in (text, label):
                encoded = part.encode("utf-8", "surrogatepass")
                digest.update(len(encoded).to_bytes(8, "big"))
                digest.update(encoded)
        return digest.hexdigest()
