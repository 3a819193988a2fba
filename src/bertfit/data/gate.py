"""The data gate: everything questionable about labelled rows, found before training.

Combines the findings of the other modules of this package, and summarizes leaks into the test set.
Faults that prevent training are found earlier, in `checks`. Does not change any row.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, combinations
from typing import TypeAlias, TypeVar

import numpy as np

from bertfit.config import TextCleaning
from bertfit.data.cleaning import choose_cleaning
from bertfit.data.dataset import TextDataset
from bertfit.data.findings import (
    NO_TEST_SET,
    NUM_EXAMPLES,
    Example,
    Finding,
    order_findings,
)
from bertfit.data.giveaways import WordCounts, find_giveaways
from bertfit.data.label_faults import describe_indivisible, describe_labels
from bertfit.data.leaks import Overlap, describe_learned, describe_overlap, find_overlap
from bertfit.data.part_faults import (
    describe_giveaway,
    describe_lengths,
    describe_more_giveaways,
    describe_numbers,
    describe_repeats,
    describe_text_faults,
)
from bertfit.data.profiles import PartProfile, profile_part
from bertfit.data.words import make_vocabulary
from bertfit.errors import Fault, LeakError
from bertfit.labels import encode_labels
from bertfit.wording import format_count, format_share

NO_TEST_ROWS = "there are no test rows, and nothing can leak into them"
_MOST_GIVEAWAYS = 10
"""Words that get a finding each: if one giveaway is in the texts, adjacent words often are too."""

TaskProgress: TypeAlias = Callable[[str, int, int], None]
"""Called with a task, how many of its units are done, and how many there are."""
_Found = TypeVar("_Found")


@dataclass(frozen=True, slots=True, kw_only=True)
class GateReport:
    """Findings in the rows of a training run."""

    findings: tuple[Finding, ...]
    """Sorted by severity, leaks into the test set first."""
    num_test: int | None
    """Number of test rows; None if there is no test set."""
    shared_test_rows: tuple[int, ...]
    """Test rows whose text is in train or validation."""
    near_test_rows: tuple[int, ...]
    """Test rows with a near-duplicate in train or validation."""
    grouped_test_rows: tuple[int, ...]
    """Test rows whose group is in train or validation."""
    learned_test_rows: tuple[int, ...] = ()
    """Test rows whose text was learned by the run from which the training starts."""

    @property
    def leaked_test_rows(self) -> tuple[int, ...]:
        """Test rows whose text, or a near-duplicate of it, the model has seen."""
        seen = {*self.shared_test_rows, *self.near_test_rows, *self.learned_test_rows}
        return tuple(sorted(seen))

    @property
    def known_test_rows(self) -> tuple[int, ...]:
        """Test rows whose text, or a near-duplicate of it, or whose group the model has seen."""
        return tuple(sorted({*self.leaked_test_rows, *self.grouped_test_rows}))


def choose_cleaning_of(report: GateReport) -> tuple[TextCleaning, float]:
    """Return how the texts of a training should be cleaned, and the share of rows that need it."""
    found = (one for one in report.findings if (one.kind, one.part) == ("html_breaks", "train"))
    share = next((one.share for one in found), 0.0)
    return choose_cleaning(share), share


def inspect_rows(
    train: TextDataset,
    *,
    validation: TextDataset | None = None,
    test: TextDataset | None = None,
    is_split: bool = False,
    label_names: Sequence[str],
    skipped: Sequence[Fault] = (),
    on_progress: TaskProgress | None = None,
) -> GateReport:
    """Find problems within each part and across parts.

    Args:
        train: Training rows, each with a label of `label_names`; at least one.
        validation: Rows that choose the epoch; None if they are still to be split off.
        test: Rows that are scored at the end.
        is_split: Whether validation was split off the training rows.
        label_names: All labels.
        skipped: Faults of the unusable rows that were skipped.
        on_progress: Called with ("comparing", done, total) rows, then ("checks", done, total).
    """
    named = {"train": train, "validation": validation, "test": test}
    parts = {name: rows for name, rows in named.items() if rows is not None and len(rows)}
    vocabulary = make_vocabulary()
    counts = WordCounts(np.asarray(encode_labels(train.labels, label_names), dtype=np.int64))
    profiles = _profile_parts(parts, vocabulary, counts, on_progress)
    pairs = list(combinations(profiles, 2))
    checks = _Checks(len(pairs) + len(profiles) + 1, on_progress)
    overlaps = [checks.count(find_overlap(part, other, is_split=is_split)) for other, part in pairs]
    of_parts = [
        checks.count(list(_describe_part(profile, label_names, train=profiles[0])))
        for profile in profiles
    ]
    if not validation:
        of_parts.append(list(describe_indivisible(profiles[0])))
    words = checks.count(find_giveaways(counts, list(vocabulary), label_names))
    findings = [
        *(finding for overlap in overlaps for finding in describe_overlap(overlap)),
        *(describe_giveaway(profiles[0], giveaway) for giveaway in words[:_MOST_GIVEAWAYS]),
        *describe_more_giveaways(profiles[0], words[_MOST_GIVEAWAYS:], num_told=_MOST_GIVEAWAYS),
        *chain.from_iterable(of_parts),
        *_describe_skipped(skipped, sum(map(len, parts.values()))),
    ]
    return _report(findings, overlaps, None if test is None else len(test))


def add_learned(
    report: GateReport,
    parts: Mapping[str, TextDataset | None],
    learned: Mapping[str, Sequence[int]],
    base: str,
) -> GateReport:
    """Add findings on rows that the run from which the training starts was trained on.

    Args:
        report: From `inspect_rows`.
        parts: The rows of each part.
        learned: Numbers of such rows, by the name of the part.
        base: The run.
    """
    named = ((name, rows, learned.get(name, ())) for name, rows in parts.items())
    found = [
        describe_learned(name, rows, numbers, base=base)
        for name, rows, numbers in named
        if rows is not None and numbers
    ]
    return replace(
        report,
        findings=order_findings([*report.findings, *found]),
        learned_test_rows=tuple(learned.get("test", ())),
    )


def summarize_leaks(report: GateReport) -> str:
    """Return the headline of the report: whether there are leaks into the test set."""
    if report.num_test is None:
        return NO_TEST_SET
    num_leaked, num_test = len(report.leaked_test_rows), report.num_test
    num_near = num_leaked - len({*report.shared_test_rows, *report.learned_test_rows})
    told = []
    if num_leaked:
        near = f" ({num_near:,} nearly)" if num_near else ""
        share = format_share(num_leaked, num_test)
        told.append(f"{num_leaked:,} of {num_test:,} test rows ({share}) seen before{near}")
    if report.grouped_test_rows:
        num_grouped = len(report.grouped_test_rows)
        of_test = "" if num_leaked else f" of {num_test:,} test rows"
        told.append(f"{num_grouped:,}{of_test} in groups seen before")
    if not told:
        return f"No leak into the test set was found ({format_count(num_test, 'row')})."
    return f"LEAK: {'; '.join(told)}"


def refuse_leaks(report: GateReport) -> None:
    """Raise if there are leaks into the test set.

    Raises:
        LeakError: There is a leak; its faults list the first rows.
    """
    leaks = [finding for finding in report.findings if finding.severity == "leak"]
    if leaks:
        advice = dict.fromkeys(f"{_name_kind(leak)}: {leak.advice}" for leak in leaks)
        without = (
            "Or train without --strict; test scores are then given with and without these rows."
        )
        raise LeakError(
            f"strict, and the test set leaks. {summarize_leaks(report)}",
            faults=[_to_fault(example, leak) for leak in leaks for example in leak.examples],
            hint="\n".join([*advice, without]),
        )


class _Checks:
    """Counts the checks of all rows together: of each pair of parts, each part, and the words."""

    def __init__(self, total: int, on_progress: TaskProgress | None) -> None:
        self._done, self._total, self._on_progress = 0, total, on_progress
        self._tell()

    def count(self, found: _Found) -> _Found:
        """Count one more, and return what it found."""
        self._done += 1
        self._tell()
        return found

    def _tell(self) -> None:
        if self._on_progress is not None:
            self._on_progress("checks", self._done, self._total)


def _profile_parts(
    parts: Mapping[str, TextDataset],
    vocabulary: defaultdict[str, int],
    counts: WordCounts,
    on_progress: TaskProgress | None,
) -> list[PartProfile]:
    """Return the profile of each part; the words of the training rows are counted in `counts`."""
    total, done = sum(map(len, parts.values())), 0
    profiles: list[PartProfile] = []
    for name, rows in parts.items():
        profiles.append(
            profile_part(
                name,
                rows,
                vocabulary,
                with_signatures=len(parts) > 1,
                counts=counts if name == "train" else None,
                on_progress=_shift(on_progress, done, total),
            )
        )
        done += len(rows)
    return profiles


def _shift(
    on_progress: TaskProgress | None, before: int, total: int
) -> Callable[[int, int], None] | None:
    """Offset the progress of one part by the rows of the parts before it."""
    if on_progress is None:
        return None
    return lambda done, _: on_progress("comparing", before + done, total)


def _describe_part(
    profile: PartProfile, label_names: Sequence[str], *, train: PartProfile
) -> Iterator[Finding]:
    yield from describe_repeats(profile)
    yield from describe_labels(profile, label_names, train=train)
    yield from describe_lengths(profile)
    yield from describe_numbers(profile, train=train)
    yield from describe_text_faults(profile, label_names)


def _describe_skipped(skipped: Sequence[Fault], num_kept: int) -> Iterator[Finding]:
    if skipped:
        num_rows = num_kept + len(skipped)
        yield Finding(
            kind="skipped_rows",
            severity="minor",
            part="all",
            count=len(skipped),
            num_rows=num_rows,
            message=(
                f"{format_count(len(skipped), 'row')} ({format_share(len(skipped), num_rows)}) "
                f"cannot be used and {'was' if len(skipped) == 1 else 'were'} left out."
            ),
            examples=tuple(
                Example(fault.source, fault.line or 0, fault.message)
                for fault in skipped[:NUM_EXAMPLES]
            ),
            advice="Fix them: rows that are left out may not be a random sample.",
        )


def _report(
    findings: Sequence[Finding], overlaps: Sequence[Overlap], num_test: int | None
) -> GateReport:
    of_test = [overlap for overlap in overlaps if overlap.part.name == "test"]
    shared = {row for overlap in of_test for row, _ in overlap.shared}
    near = {found.row for overlap in of_test for found in overlap.near}
    grouped = {row for overlap in of_test for row in overlap.grouped}
    return GateReport(
        findings=order_findings(findings),
        num_test=num_test,
        shared_test_rows=tuple(sorted(shared)),
        near_test_rows=tuple(sorted(near)),
        grouped_test_rows=tuple(sorted(grouped)),
    )


def _to_fault(example: Example, leak: Finding) -> Fault:
    return Fault(
        example.source, example.line, f"{_name_kind(leak)} ({example.note}): {example.text}"
    )


def _name_kind(leak: Finding) -> str:
    return leak.kind.replace("_", " ")
