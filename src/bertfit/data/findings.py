"""Findings of the data checks: one dataclass for all kinds, ordered by severity."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from bertfit.data.dataset import TextDataset
from bertfit.word_pattern import find_cut
from bertfit.wording import format_count, format_share

Severity = Literal["leak", "serious", "minor"]
"""leak: the test score overstates the model. serious: the labels or the choice of the epoch
cannot be trusted. minor: worth fixing."""

KINDS = (
    "shared_texts",
    "learned_texts",
    "near_duplicates",
    "shared_groups",
    "giveaway",
    "more_giveaways",
    "swallowed_rows",
    "alike_labels",  # first what others follow from: such labels conflict, and are imbalanced
    "indivisible_labels",
    "joined_labels",
    "conflicting_labels",
    "missing_labels",
    "null_labels",
    "number_texts",
    "unknown_tokens",
    "unread_signs",
    "no_tokens",
    "mojibake",
    "replacement_characters",
    "skipped_rows",
    "duplicates",
    "imbalance",
    "rare_labels",
    "c1_characters",
    "control_characters",
    "csv_quotes",
    "html_tags",
    "html_breaks",
    "short_texts",
    "long_texts",
)
"""All kinds; within one severity, the more harmful ones come first."""

NO_TEST_SET = "No test set was given, so leaks into it were not checked."
NUM_EXAMPLES = 3
_SEVERITIES = ("leak", "serious", "minor")
_EXAMPLE_CHARACTERS = 60
_CHARACTERS_BEFORE = 20
_PLAIN = "\t\n\r\u200c\u200d"
"""Characters that are shown as they are: white space, and what joins letters and emoji or not."""


@dataclass(frozen=True, slots=True)
class Example:
    """A row that illustrates a finding."""

    source: str
    line: int
    text: str
    """The text on one line, shortened around the finding."""
    note: str = ""
    """Details, such as the row that it equals, its similarity, or its label."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing about the data that its owner should know."""

    kind: str
    """One of `KINDS`."""
    severity: Severity
    part: str
    """The part with the rows: train, validation or test; "all" for skipped rows."""
    other: str | None = None
    """The part that they are shared with, if any."""
    count: int
    """Number of affected rows."""
    num_rows: int
    """Number of rows of the part."""
    message: str
    """One sentence with the count and share."""
    examples: tuple[Example, ...] = ()
    advice: str
    """What to do."""

    @property
    def share(self) -> float:
        """Share of affected rows in the part, in [0, 1]."""
        return self.count / max(self.num_rows, 1)

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {**asdict(self), "share": self.share}


def order_findings(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Sort findings by severity (leaks first), kind and share."""
    return tuple(
        sorted(
            findings,
            key=lambda finding: (
                _SEVERITIES.index(finding.severity),
                KINDS.index(finding.kind),
                -finding.share,
            ),
        )
    )


def show_rows(
    rows: TextDataset, indices: Sequence[int], *, notes: Sequence[str] = ()
) -> tuple[Example, ...]:
    """Return the first few of `indices` as examples, with their notes."""
    padded = [*notes[:NUM_EXAMPLES], *[""] * NUM_EXAMPLES]
    return tuple(
        show_row(rows, index, note=note)
        for index, note in zip(indices[:NUM_EXAMPLES], padded, strict=False)
    )


def show_row(rows: TextDataset, index: int, *, note: str = "", offset: int = 0) -> Example:
    """Return a row as an example, its text shortened around `offset`."""
    text = shorten_around(rows.texts[index], offset)
    return Example(source=rows.source, line=rows.lines[index], text=text, note=note)


def shorten_around(text: str, offset: int = 0) -> str:
    r"""Return an excerpt of the text on one line, with unprintable characters escaped.

    Example:
        >>> shorten_around("one\ntwo\x85 three")
        'one two\\x85 three'
    """
    start = max(offset - _CHARACTERS_BEFORE, 0)
    if len(text) - start < _EXAMPLE_CHARACTERS:
        start = max(len(text) - _EXAMPLE_CHARACTERS, 0)
    start, end = find_cut(text, start), find_cut(text, start + _EXAMPLE_CHARACTERS)
    # Escape before collapsing white space: U+0085 counts as white space and would be lost.
    piece = "".join(_escape(character) for character in text[start:end])
    shown = " ".join(piece.split())
    return f"{'…' if start else ''}{shown}{'…' if end < len(text) else ''}"


def tell_rows(count: int, part: str, num_rows: int) -> str:
    """Return a number of rows of a part, with its share.

    Example:
        >>> tell_rows(1, "test", 8)
        '1 row of test (12.5 %)'
    """
    return f"{format_count(count, 'row')} of {part} ({format_share(count, num_rows)})"


def _escape(character: str) -> str:
    if character.isprintable() or character in _PLAIN:
        return character
    if unicodedata.category(character) == "Zs":  # a space that does not break, for example
        return " "
    return character.encode("unicode_escape").decode("ascii")
