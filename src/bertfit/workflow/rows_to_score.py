"""Rows that a run is to score: read, checked, and compared with those that it knows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertfit.data.checks import check_evaluation_data
from bertfit.data.dataset import Columns, TextDataset
from bertfit.errors import Fault
from bertfit.files import as_path
from bertfit.inference.predictor import TextClassifier
from bertfit.progress import Listener
from bertfit.reporting.summary import list_chosen
from bertfit.reporting.text import note_columns
from bertfit.wording import list_some
from bertfit.workflow.learned import (
    Learned,
    describe_leaks,
    find_known_rows,
    find_part,
    note_unknown,
)

if TYPE_CHECKING:
    from bertfit.config import OnBadRow

_LINES_SHOWN = 5
"""Lines that a warning names."""


@dataclass(frozen=True, slots=True)
class RowsToScore:
    """Checked rows for a run to score."""

    dataset: TextDataset
    skipped: tuple[Fault, ...]
    learned: Learned | None
    """On which of them the run was trained; None if on none, as far as known."""
    known: Sequence[int]
    """Numbers of those rows, and of those that chose the run."""
    is_own_test: bool
    """Whether they are the run's test rows, of which others may have leaked."""
    warning: str | None
    """Why its scores are too good, in a sentence or two; None if they are not, as far as known."""

    @property
    def leaves_some(self) -> bool:
        """Whether scores without the known rows say more; not if all of these only chose."""
        return self.learned is not None or len(self.known) < len(self.dataset)

    @property
    def knows_more(self) -> bool:
        """Whether the run knows more of the rows than those on which it was trained."""
        num_learned = 0 if self.learned is None else len(self.learned.rows)
        return self.warning is not None and (not num_learned or len(self.known) > num_learned)


def read_rows(
    run: str | Path,
    classifier: TextClassifier,
    data: Any,  # noqa: ANN401 (as in evaluate)
    *,
    columns: Columns,
    on_bad_row: OnBadRow,
    listener: Listener,
) -> RowsToScore:
    """Read and check rows, and note what the run has to do with them, and their columns."""
    dataset, skipped = check_evaluation_data(
        data,
        columns,
        classifier.label_names,
        on_bad_row,
        names_may_change=not classifier.record,
        on_progress=partial(listener.progress, "reading"),
    )
    record = classifier.record
    is_own_test = find_part(record, dataset) == "test"
    learned, choosing = find_known_rows(as_path(run), dataset)
    chosen = list_chosen(record, None) if record else ""
    choosing = choosing if chosen else []
    leaks = describe_leaks([(as_path(run), record)]) if is_own_test else None
    warning = _warn_of_known_rows(run, dataset, learned, choosing, leaks, chosen=chosen)
    if warning is not None:
        listener.note(f"WARNING: {warning}")
    elif not is_own_test:
        note_unknown(as_path(run), listener, of="these rows")
    comparison = (record.get("scores") or {}).get("comparison")
    if is_own_test and comparison:
        listener.note(f"With these rows, the training of {run} found: {comparison['verdict']}")
    note_columns({"rows": dataset.columns}, listener)
    known = sorted({*(() if learned is None else learned.rows), *choosing})
    return RowsToScore(dataset, skipped, learned, known, is_own_test, warning)


def _warn_of_known_rows(
    run: str | Path,
    dataset: TextDataset,
    learned: Learned | None,
    choosing: Sequence[int],
    leaks: str | None,
    *,
    chosen: str,
) -> str | None:
    """Return why the scores are too good, or None.

    Args:
        run: The run.
        dataset: The rows.
        learned: Those that it was trained on.
        choosing: Numbers of those that are its validation rows.
        leaks: How many it had seen if they are its own test rows, from `describe_leaks`.
        chosen: What the validation rows chose, in words.
    """
    told: list[str] = []
    if learned is not None:
        told.append(f"{run} was trained {learned.told}, so its scores are too good.")
        told.append(_show_known("Learned", learned.rows, dataset, "it has not seen"))
    if len(choosing) == len(dataset):
        told.append(
            f"these are the validation rows of {run}, which chose {chosen}, so its scores are too "
            "good. Evaluate it on rows that chose nothing."
        )
    elif choosing:
        other = "" if learned is None else " other" if len(choosing) == 1 else " others"
        are = "is a validation row" if len(choosing) == 1 else "are validation rows"
        told.append(
            f"{len(choosing):,}{other} of these {len(dataset):,} texts {are} of {run}, which chose "
            f"{chosen}: scores of them are too good."
        )
        told.append(_show_known("Validation", choosing, dataset, "chose nothing"))
    if leaks is not None:  # with near copies, and groups
        told.append(f"{leaks} bertfit inspect shows those without them.")
    return " ".join(told) if told else None


def _show_known(what: str, rows: Sequence[int], dataset: TextDataset, which: str) -> str:
    """Return where the known rows are, if there are others, or which rows to take instead."""
    if len(rows) == len(dataset):
        return f"Evaluate it on rows that {which}."
    lines = list_some((dataset.lines[row] for row in rows), _LINES_SHOWN)
    return f"{what}: {dataset.source}:{lines}."
