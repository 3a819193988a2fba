"""Find equal texts within a part, with conflicting labels, and across parts.

Two texts are equal if they differ only in white space, case, HTML line breaks, which are read as
spaces, invisible characters, and in whether an accent is a character of its own, which few
tokenizers tell apart. They are compared by 128-bit digests, to avoid a second copy in memory.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from bertfit.data.cleaning import clean_text
from bertfit.data.dataset import TextDataset
from bertfit.errors import DataError, Fault

_DIGEST_BYTES = 16
_INVISIBLE = dict.fromkeys(map(ord, "\u00ad\u200b\u200e\u200f\u2060\ufeff"))
"""Soft hyphens, spaces without width, marks of direction: what copying from pages brings along."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """Numbers of training rows that were dropped, by reason."""

    duplicates: int = 0
    """Rows with the text and the label of an earlier row."""
    in_other_parts: int = 0
    """Rows whose text is also in the validation or test set."""


def fingerprint_texts(texts: Sequence[str]) -> list[bytes]:
    r"""Return a digest of each text; equal texts have the same digest.

    Example:
        >>> a, b, c, d = fingerprint_texts(["A  film", "a film ", "a<br />film", "a film!"])
        >>> a == b == c, a == d
        (True, False)
        >>> composed, decomposed = fingerprint_texts(["caf\u00e9", "cafe\u0301"])
        >>> composed == decomposed
        True
    """
    return [_digest(clean_text(text, "html_breaks")) for text in texts]


def list_earlier_digests(text: str) -> set[bytes]:
    """Return the other digests of a text that earlier runs may have kept.

    HTML line breaks were compared as they are until 29 November 2026, accents and invisible
    characters until 1 December. Texts with the same earlier digest have the same digest now.
    """
    with_breaks = {_fold(text)} if "<" in text else set()
    if text.isascii():
        return {_hash(earlier) for earlier in with_breaks}
    without = _fold(clean_text(text, "html_breaks"))
    folded = {*with_breaks, without, unicodedata.normalize("NFC", without)}
    return {_hash(earlier) for earlier in folded}


def _digest(text: str) -> bytes:
    if not text.isascii():
        text = text.translate(_INVISIBLE)
    return _hash(unicodedata.normalize("NFC", _fold(text)))


def _fold(text: str) -> str:
    return " ".join(text.split()).casefold()


def _hash(folded: str) -> bytes:
    content = folded.encode("utf-8", "surrogatepass")
    return hashlib.blake2b(content, digest_size=_DIGEST_BYTES).digest()


def find_repeats(fingerprints: Sequence[bytes]) -> list[tuple[int, int]]:
    """Return each row whose text occurred before, with the row of its first occurrence.

    Example:
        >>> find_repeats([b"x", b"y", b"x", b"x"])
        [(2, 0), (3, 0)]
    """
    firsts: dict[bytes, int] = {}
    return [
        (row, first)
        for row, fingerprint in enumerate(fingerprints)
        if (first := firsts.setdefault(fingerprint, row)) != row
    ]


def find_conflicts(fingerprints: Sequence[bytes], labels: Sequence[str]) -> list[list[int]]:
    """Return the rows of each text that has more than one label.

    Example:
        >>> find_conflicts([b"x", b"y", b"x"], ["neg", "neg", "pos"])
        [[0, 2]]
    """
    rows_of_text: dict[bytes, list[int]] = defaultdict(list)
    repeated = {fingerprints[row] for row, _ in find_repeats(fingerprints)}
    for row, fingerprint in enumerate(fingerprints):
        if fingerprint in repeated:
            rows_of_text[fingerprint].append(row)
    return [rows for rows in rows_of_text.values() if len({labels[row] for row in rows}) > 1]


def find_shared(fingerprints: Sequence[bytes], others: Sequence[bytes]) -> list[tuple[int, int]]:
    """Return each row whose text is in another part, with its first row there.

    Example:
        >>> find_shared([b"x", b"y", b"x"], [b"z", b"x"])
        [(0, 1), (2, 1)]
    """
    firsts: dict[bytes, int] = {}
    for other, fingerprint in enumerate(others):
        firsts.setdefault(fingerprint, other)
    return [
        (row, firsts[fingerprint])
        for row, fingerprint in enumerate(fingerprints)
        if fingerprint in firsts
    ]


def drop_duplicates(
    train: TextDataset,
    others: Sequence[TextDataset | None],
    *,
    may_lose_labels: bool = False,
) -> tuple[TextDataset, Dropped]:
    """Drop training rows whose text occurred before or is in another part.

    A text with two labels keeps one row of each, because only its owner can tell which is right.

    Args:
        train: Labelled rows.
        others: Validation and test rows, which are not changed.
        may_lose_labels: Whether a label may have no rows left.

    Returns:
        The remaining rows of `train`, and the numbers of dropped rows.

    Raises:
        DataError: A label would have no rows left, and may not.
    """
    taken = {
        fingerprint
        for part in others
        if part is not None
        for fingerprint in fingerprint_texts(part.texts)
    }
    fingerprints = fingerprint_texts(train.texts)
    leaked = {row for row, fingerprint in enumerate(fingerprints) if fingerprint in taken}
    keys = [
        fingerprint + label.encode("utf-8", "surrogatepass")
        for fingerprint, label in zip(fingerprints, train.labels, strict=True)
    ]
    repeats = {row for row, _ in find_repeats(keys)} - leaked
    rest = train.select([row for row in range(len(train)) if row not in leaked | repeats])
    if not may_lose_labels:
        _check_labels_left(train, rest)
    return rest, Dropped(duplicates=len(repeats), in_other_parts=len(leaked))


def _check_labels_left(train: TextDataset, rest: TextDataset) -> None:
    lost: Collection[str] = sorted(set(train.labels) - set(rest.labels))
    if lost:
        message = "no row is left after dropping those whose text is also in another part"
        faults = [Fault(train.source, None, f"label {name!r}: {message}") for name in lost]
        raise DataError(
            "duplicates cannot be dropped from the training rows",
            faults=faults,
            hint="Train on other rows than those of the validation and the test.",
        )
