"""Labelled text in memory, column by column; each row knows its line number."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Row:
    """One row as a reader yields it."""

    line: int
    """1-based line of the file (1-based row of a table)."""
    text: str
    label: str | None
    group: str | None
    slices: tuple[object, ...] = ()
    """Values of the columns that cut slices, as they stand in the source; None where missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Which columns hold what; None finds the usual names (see `columns.USUAL_NAMES`)."""

    text: str | None = None
    label: str | None = None
    group: str | None = None
    """None means no grouping: a group column is never guessed."""
    slices: tuple[str, ...] = ()
    """Further columns, whose values cut the rows into slices."""
    trained_text: str | None = None
    """The text column of the training, which goes before the usual names where it is present."""
    trained_label: str | None = None
    """The label column of the training, likewise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadColumn:
    """The column of a source that was read as its text, or as its label."""

    name: str
    is_given: bool
    """Whether it was named, and not found."""
    others: tuple[str, ...] = ()
    """Where it was found: further columns that have a usual name."""


@dataclass(frozen=True, slots=True)
class TextDataset:
    """Labelled text: parallel columns of equal length n."""

    source: str
    texts: Sequence[str]
    labels: Sequence[str]
    """Label names; empty where the source has none."""
    groups: Sequence[str]
    """Group names; empty where there is no group column."""
    lines: Sequence[int]
    slices: Mapping[str, Sequence[object]] = field(default_factory=dict)
    """By column that cuts slices, n values as they stand in the source."""
    columns: Mapping[str, ReadColumn] = field(default_factory=dict)
    """Which columns of the source were read, by "text" and "label"; empty where it had none."""

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.texts)

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
        """Return a SHA-256 of texts and labels in their order: the same rows give the same one."""
        digest = hashlib.sha256()
        for index, text in enumerate(self.texts):
            label = self.labels[index] if self.labels else ""
            for part in (text, label):
                encoded = part.encode("utf-8", "surrogatepass")
                digest.update(len(encoded).to_bytes(8, "big"))
                digest.update(encoded)
        return digest.hexdigest()
