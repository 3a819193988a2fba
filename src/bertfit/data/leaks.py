"""Findings across two parts: texts, near-duplicates and groups that are in both."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bertfit.data.dataset import TextDataset
from bertfit.data.duplicates import find_shared
from bertfit.data.findings import Finding, Severity, show_rows, tell_rows
from bertfit.data.near_duplicates import (
    SHINGLE_SIZE,
    THRESHOLD,
    NearDuplicate,
    find_near_duplicates,
)
from bertfit.data.profiles import PartProfile, choose_comparable
from bertfit.data.words import drop_addresses
from bertfit.labels import match_spelling
from bertfit.wording import format_count, list_some

_MOST_GROUPS_NAMED = 3


@dataclass(frozen=True, slots=True)
class Overlap:
    """Rows of one part that overlap with another part."""

    part: PartProfile
    """The part that is checked: test or validation."""
    other: PartProfile
    """The part that the model learned from, or that chose the epoch."""
    shared: tuple[tuple[int, int], ...]
    """Rows of `part`, each with the first row of `other` with the same text."""
    near: tuple[NearDuplicate, ...]
    """Rows of `part` with a near-duplicate in `other`."""
    grouped: tuple[int, ...]
    """Rows of `part` whose group is also in `other`."""
    is_split: bool = False
    """Whether validation was split off the training rows."""

    @property
    def place(self) -> str:
        """The place from which the user can remove rows."""
        is_split_off = self.is_split and self.other.name == "validation"
        return (
            "the training rows, of which validation is a part" if is_split_off else self.other.name
        )

    @property
    def severity(self) -> Severity:
        """A leak if the checked part is test, otherwise serious."""
        return "leak" if self.part.name == "test" else "serious"


def find_overlap(part: PartProfile, other: PartProfile, *, is_split: bool = False) -> Overlap:
    """Compare two parts; a row with an equal text is not also reported as a near-duplicate."""
    groups = set(other.rows.groups)
    # A table with a missing number is saved with 7.0 for 7, the other one is not.
    part_groups = match_spelling(part.rows.groups, sorted(groups))
    return Overlap(
        part=part,
        other=other,
        shared=tuple(find_shared(part.fingerprints, other.fingerprints)),
        near=tuple(_find_near(part, other)),
        grouped=tuple(row for row, group in enumerate(part_groups) if group in groups),
        is_split=is_split,
    )


def describe_overlap(overlap: Overlap) -> Iterator[Finding]:
    """Yield a finding for each way in which the parts overlap."""
    if overlap.shared:
        yield _describe_shared(overlap)
    if overlap.near:
        yield _describe_near(overlap)
    if overlap.grouped:
        yield _describe_groups(overlap)


def _find_near(part: PartProfile, other: PartProfile) -> list[NearDuplicate]:
    assert part.signatures is not None
    assert other.signatures is not None
    known = set(other.fingerprints)
    firsts = choose_comparable(part, without=known, least_words=SHINGLE_SIZE)
    near = find_near_duplicates(
        part.rows.texts,
        other.rows.texts,
        signatures=part.signatures,
        other_signatures=other.signatures,
        rows=firsts,
        other_rows=choose_comparable(other, without=(), least_words=SHINGLE_SIZE),
    )
    return _repeat_for_duplicates(near, part.fingerprints)


def _repeat_for_duplicates(
    near: Sequence[NearDuplicate], fingerprints: Sequence[bytes]
) -> list[NearDuplicate]:
    """Repeat the finding of the first row with a text for the other rows with that text."""
    of_text = {fingerprints[found.row]: found for found in near}
    return [
        NearDuplicate(row, of_text[fingerprint].other, of_text[fingerprint].similarity)
        for row, fingerprint in enumerate(fingerprints)
        if fingerprint in of_text
    ]


def _describe_shared(overlap: Overlap) -> Finding:
    part, other, pairs = overlap.part, overlap.other, overlap.shared
    labels = defaultdict[bytes, set[str]](set)
    for fingerprint, label in zip(other.fingerprints, other.rows.labels, strict=True):
        labels[fingerprint].add(label)
    num_other_label = sum(
        bool(labels[part.fingerprints[row]] - {part.rows.labels[row]}) for row, _ in pairs
    )
    which = "" if num_other_label == len(pairs) else f", {num_other_label:,} of them"
    differ = f"{which} with another label" if num_other_label else ""
    verb = "has" if len(pairs) == 1 else "have"
    return Finding(
        kind="shared_texts",
        severity=overlap.severity,
        part=part.name,
        other=other.name,
        count=len(pairs),
        num_rows=len(part.rows),
        message=(
            f"{tell_rows(len(pairs), part.name, len(part.rows))} {verb} a text that is also in "
            f"{other.name}{differ}."
        ),
        examples=show_rows(
            part.rows,
            [row for row, _ in pairs],
            notes=[f"as {other.name} line {other.rows.lines[at]}" for _, at in pairs],
        ),
        advice=_advise_removal(overlap, _tell_dropping(overlap, num_other_label)),
    )


def _describe_near(overlap: Overlap) -> Finding:
    part, other = overlap.part, overlap.other
    near = sorted(overlap.near, key=lambda found: -found.similarity)
    verb = "is" if len(near) == 1 else "are"
    texts = [part.rows.texts[found.row] for found in near]
    aside = ", links and mentions aside" if any(drop_addresses(one) != one for one in texts) else ""
    return Finding(
        kind="near_duplicates",
        severity=overlap.severity,
        part=part.name,
        other=other.name,
        count=len(near),
        num_rows=len(part.rows),
        message=(
            f"{tell_rows(len(near), part.name, len(part.rows))} {verb} nearly a text of "
            f"{other.name}: {100 * THRESHOLD:.0f} % or more of the "
            f"{SHINGLE_SIZE}-word sequences of both are the same{aside}."
        ),
        examples=show_rows(
            part.rows,
            [found.row for found in near],
            notes=[
                f"{found.similarity:.2f} as {other.name} line {other.rows.lines[found.other]}"
                for found in near
            ],
        ),
        advice=_advise_removal(overlap, "They are not dropped automatically: review them."),
    )


def describe_learned(name: str, rows: TextDataset, numbers: Sequence[int], *, base: str) -> Finding:
    """Return the finding for rows of a part that the run `base` was trained on.

    The training starts from that run: it has learned them, whatever is trained on now.
    """
    verb = "has" if len(numbers) == 1 else "have"
    harm = "" if name == "test" else " These rows choose the epoch, as if learned by heart."
    return Finding(
        kind="learned_texts",
        severity="leak" if name == "test" else "serious",
        part=name,
        count=len(numbers),
        num_rows=len(rows),
        message=(
            f"{tell_rows(len(numbers), name, len(rows))} {verb} a text on which "
            f"{base}, from which the training starts, was trained."
        ),
        examples=show_rows(rows, numbers, notes=[f"learned by {base}"] * len(numbers)),
        advice=f"Start from another model, or give {name} rows that it has not seen.{harm}",
    )


def _advise_removal(overlap: Overlap, how: str) -> str:
    if overlap.part.name == "test":
        return f"Remove the copies from {overlap.place}; leave test as it is. {how}"
    return f"Remove the copies from {overlap.place}: they reward memorising. {how}"


def _tell_dropping(overlap: Overlap, num_other_label: int) -> str:
    """Return whether --drop-duplicates helps: it drops training rows only, before the split."""
    if overlap.other.name == "validation" and not overlap.is_split:
        return "bertfit train --drop-duplicates does not: it drops training rows only."
    if overlap.is_split and overlap.part.name == "validation" and num_other_label:
        return "bertfit train --drop-duplicates does that, except for texts with two labels."
    return "bertfit train --drop-duplicates does that."


def _describe_groups(overlap: Overlap) -> Finding:
    part, other = overlap.part, overlap.other
    groups = sorted({part.rows.groups[row] for row in overlap.grouped})
    named = list_some(groups, _MOST_GROUPS_NAMED)
    subject = f"{format_count(len(groups), 'group')} ({named})"
    verb = "is" if len(groups) == 1 else "are"
    return Finding(
        kind="shared_groups",
        severity=overlap.severity,
        part=part.name,
        other=other.name,
        count=len(overlap.grouped),
        num_rows=len(part.rows),
        message=(
            f"{subject} of {part.name} {verb} also in {other.name}: "
            f"{tell_rows(len(overlap.grouped), part.name, len(part.rows))}."
        ),
        examples=show_rows(
            part.rows,
            overlap.grouped,
            notes=[f"group {part.rows.groups[row]}" for row in overlap.grouped],
        ),
        advice=f"Remove the rows of these groups from {overlap.place}, or split again by group.",
    )
