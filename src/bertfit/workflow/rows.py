"""Reads and checks the rows of a training, without torch: it is imported in the meantime."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from bertfit.config import TrainSettings
from bertfit.data.checks import CheckedData, check_training_data
from bertfit.data.dataset import Columns, TextDataset
from bertfit.data.duplicates import Dropped, drop_duplicates
from bertfit.data.gate import GateReport, refuse_leaks, summarize_leaks
from bertfit.data.gate_process import Finish, start_inspection
from bertfit.data.rare_labels import LeftOut, leave_out_rare_labels
from bertfit.data.splits import split_off
from bertfit.errors import tell_faults
from bertfit.progress import Listener
from bertfit.reporting.control_characters import put_on_one_line
from bertfit.reporting.findings import brief_lines
from bertfit.reporting.text import note_columns
from bertfit.wording import format_count, list_some, shorten_name
from bertfit.workflow.learned import add_known_to_base

_MOST_NOTED = 3
_MUCH_MORE = 1.5
"""Times the share of validation rows asked for, from which on it is told."""
_MOST_SKIPPED_TOLD = 20
_MOST_LABELS_TOLD = 20


@dataclass(frozen=True, slots=True)
class PreparedRows:
    """Checked rows, by part."""

    train: TextDataset
    validation: TextDataset
    test: TextDataset | None
    checked: CheckedData
    """The training rows as read; the others without labels that were left out."""
    left_out: LeftOut
    """Labels with too few training rows."""
    dropped: Dropped
    """What was dropped from the training rows before the split."""
    report: GateReport
    """What the gate found in the parts."""

    @property
    def label_names(self) -> tuple[str, ...]:
        """Classes in order of their ids."""
        return self.checked.label_names


@dataclass(frozen=True, slots=True)
class StartedRows:
    """Rows that were read and split, while the gate still looks at them."""

    train: TextDataset
    validation: TextDataset
    checked: CheckedData
    left_out: LeftOut
    dropped: Dropped
    finish: Finish


def start_rows(
    data: Any,  # noqa: ANN401 (a path, a table or a list of dicts)
    *,
    validation: Any,  # noqa: ANN401 (as data)
    test: Any,  # noqa: ANN401 (as data)
    settings: TrainSettings,
    listener: Listener,
) -> StartedRows:
    """Read all rows, split off validation rows if none are given, and start the gate.

    Raises:
        DataError: The data has faults; all are listed.
    """
    columns = Columns(
        text=settings.text_column,
        label=settings.label_column,
        group=settings.group_column,
        slices=settings.slice_columns,
        encoding=settings.encoding,
    )
    checked = check_training_data(
        data,
        validation=validation,
        test=test,
        columns=columns,
        on_bad_row=settings.on_bad_row,
        on_progress=partial(listener.progress, "reading"),
    )
    train, dropped = _drop_copies(checked, settings, listener)
    left, left_out = leave_out_rare_labels(replace(checked, train=train), settings.min_label_rows)
    _note_left_out(left_out, settings.min_label_rows, listener)
    train, checked = left.train, replace(left, train=checked.train)
    if checked.validation is not None:
        held_out = checked.validation
    else:
        train, held_out = split_off(train, settings.validation_fraction, seed=settings.seed)
    finish = start_inspection(
        {"train": train, "validation": held_out, "test": checked.test},
        is_split=checked.validation is None,
        label_names=checked.label_names,
        skipped=checked.skipped,
    )
    return StartedRows(train, held_out, checked, left_out, dropped, finish)


def finish_rows(
    started: StartedRows, settings: TrainSettings, *, listener: Listener
) -> PreparedRows:
    """Wait for the gate, and note its findings, leaks first, and how many rows there are.

    Raises:
        LeakError: `settings.strict` is on, and the test set leaks.
    """
    parts = {"validation": started.validation, "test": started.checked.test}
    report = add_known_to_base(
        started.finish(listener.progress), settings.model, parts, listener=listener
    )
    if settings.strict:
        refuse_leaks(report)
    leaks = [finding for finding in report.findings if finding.severity == "leak"]
    if leaks:
        listener.note(summarize_leaks(report))
    for line in brief_lines(report.findings[len(leaks) :], most=_MOST_NOTED):
        listener.note(line)
    checked = started.checked
    rows = PreparedRows(
        started.train,
        started.validation,
        checked.test,
        checked,
        started.left_out,
        started.dropped,
        report,
    )
    _note_rows(rows, settings, listener)
    return rows


def _note_left_out(left_out: LeftOut, min_rows: int, listener: Listener) -> None:
    if not left_out.labels:
        return
    labels = f"{format_count(len(left_out.labels), 'label')} with fewer than {min_rows:,}"
    shown = (shorten_name(put_on_one_line(name)) for name in left_out.labels)
    named = list_some(shown, _MOST_LABELS_TOLD)
    rows = ", ".join(f"{count:,} {part}" for part, count in left_out.rows.items())
    listener.note(f"Left out: {labels} training rows ({named}); rows: {rows}.")


def _drop_copies(
    checked: CheckedData, settings: TrainSettings, listener: Listener
) -> tuple[TextDataset, Dropped]:
    """Drop repeated and leaked texts from the training rows, if `settings.drop_duplicates`.

    This is done before the split, so that no text is in both parts, except one that has two labels:
    of it, a row of each is kept.

    Raises:
        DataError: A label would have no rows left, and none is to be left out.
    """
    if not settings.drop_duplicates:
        return checked.train, Dropped()
    others = (checked.validation, checked.test)
    may_lose_labels = settings.min_label_rows > 1
    train, dropped = drop_duplicates(checked.train, others, may_lose_labels=may_lose_labels)
    listener.note(
        f"Dropped from the training rows: {format_count(dropped.duplicates, 'duplicate')}, and "
        f"{format_count(dropped.in_other_parts, 'row')} whose text is also in validation or test."
    )
    return train, dropped


def _note_rows(rows: PreparedRows, settings: TrainSettings, listener: Listener) -> None:
    note_columns(rows.checked.columns, listener)
    listener.note(f"Labels: {_list_labels(rows.label_names)}.")
    if rows.checked.validation is not None:
        how = "given"
    elif rows.train.groups:
        how = f"split off, stratified, grouped by {settings.group_column}"
    else:
        how = "split off, stratified"
    num_test = "no" if rows.test is None else f"{len(rows.test):,}"
    listener.note(
        f"Rows: {len(rows.train):,} train, {len(rows.validation):,} validation ({how}), "
        f"{num_test} test."
    )
    share = len(rows.validation) / (len(rows.train) + len(rows.validation))
    if rows.checked.validation is None and share > _MUCH_MORE * settings.validation_fraction:
        listener.note(
            f"Validation has {100 * share:.0f} % of these rows, more than the "
            f"{100 * settings.validation_fraction:g} % asked for: it takes a row of each class "
            "that has two, and whole groups."
        )
    if rows.checked.skipped:
        skipped = rows.checked.skipped
        listener.note(f"Skipped {format_count(len(skipped), 'bad row')}:")
        if not settings.keep_texts:
            skipped = tuple(fault.without_values() for fault in skipped)
        lines, num_more = tell_faults(skipped, _MOST_SKIPPED_TOLD)
        for line in lines:
            listener.note(f"  {line}")
        if num_more:
            listener.note(f"  … and {num_more:,} more, which bertfit.json lists")


def _list_labels(names: tuple[str, ...]) -> str:
    shown = names if len(names) <= _MOST_LABELS_TOLD else names[: _MOST_LABELS_TOLD // 2]
    told = ", ".join(f"{put_on_one_line(name)} → {index}" for index, name in enumerate(shown))
    num_more = len(names) - len(shown)
    return f"{told} and {num_more} more, which bertfit.json lists" if num_more else told
