"""Leaves out labels with too few training rows, from all parts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from bertfit.data.checks import CheckedData
from bertfit.data.dataset import TextDataset
from bertfit.errors import DataError
from bertfit.wording import format_count


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Labels that were left out, and their rows."""

    labels: tuple[str, ...] = ()
    rows: Mapping[str, int] = field(default_factory=dict)
    """Numbers of rows by part, without parts that lost none."""


def leave_out_rare_labels(checked: CheckedData, min_rows: int) -> tuple[CheckedData, LeftOut]:
    """Return the data without labels of fewer training rows than `min_rows`, and what was left out.

    Raises:
        DataError: Fewer than two labels would be left, of all rows or of a part.
    """
    counts = Counter(checked.train.labels)
    rare = {name for name in checked.label_names if counts[name] < min_rows}
    if not rare:
        return checked, LeftOut()
    label_names = tuple(name for name in checked.label_names if name not in rare)
    if len(label_names) < 2:
        raise DataError(
            f"{format_count(len(label_names), 'label')} of {checked.train.source} would be left, "
            f"and 2 are needed: the others have fewer than {format_count(min_rows, 'row')}",
            hint="Lower min_label_rows.",
        )
    lost: dict[str, int] = {}

    def keep_others(name: str, part: TextDataset) -> TextDataset:
        kept = part.select([row for row, label in enumerate(part.labels) if label not in rare])
        if len(set(kept.labels)) < 2:  # one that always answers so would be perfect
            raise DataError(
                f"{format_count(len(set(kept.labels)), 'label')} of {part.source} would be left, "
                "and 2 are needed to tell a good model from one that always answers the same: the "
                f"others have fewer than {format_count(min_rows, 'training row')}",
                hint="Lower min_label_rows.",
            )
        if len(kept) < len(part):
            lost[name] = len(part) - len(kept)
        return kept

    validation, test = checked.validation, checked.test
    left = replace(
        checked,
        train=keep_others("train", checked.train),
        validation=None if validation is None else keep_others("validation", validation),
        test=None if test is None else keep_others("test", test),
        label_names=label_names,
    )
    return left, LeftOut(tuple(name for name in checked.label_names if name in rare), lost)
