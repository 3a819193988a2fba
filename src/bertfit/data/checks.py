"""Check data before training and evaluation; report all problems of all files at once.

Also computes statistics of a dataset. Does not change any text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from bertfit.config import OnBadRow
from bertfit.data.cleaning import find_html_break
from bertfit.data.columns import list_names
from bertfit.data.dataset import Columns, ReadColumn, TextDataset
from bertfit.data.lines import NOT_UTF8
from bertfit.data.readers import (
    ROWS_PER_REPORT,
    RowProgress,
    Source,
    iter_rows,
    name_source,
    read_dataset,
)
from bertfit.data.records import SourceError
from bertfit.errors import ConfigError, DataError, Fault
from bertfit.labels import are_unnamed, guess_label, match_spelling, sort_label_names
from bertfit.word_pattern import count_words
from bertfit.wording import format_count, join_words, shorten_name

_FEWEST_SWAPPED = 20
"""Rows from which on few texts with many labels are taken for labels read as texts."""
_MOST_GUESSED, _MOST_COMPARED = 100, 20_000
"""Unknown labels for which a known one is suggested, the first ones; and how many known labels they
are compared with together, some 10 µs each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedData:
    """Datasets that can be trained on: every row has a text and a known label."""

    train: TextDataset
    validation: TextDataset | None
    test: TextDataset | None
    label_names: tuple[str, ...]
    """The labels of the training rows, in the order of `labels.sort_label_names`."""
    skipped: tuple[Fault, ...]
    """The skipped rows; empty unless `on_bad_row` is "skip"."""

    @property
    def columns(self) -> dict[str, Mapping[str, ReadColumn]]:
        """Which columns of each part were read."""
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: part.columns for name, part in parts.items() if part is not None}


@dataclass(slots=True)
class _Part:
    """A source that is being checked."""

    source: str
    dataset: TextDataset | None = None
    """The good rows; None if the source cannot be read at all."""
    row_faults: list[Fault] = field(default_factory=list)
    source_faults: list[Fault] = field(default_factory=list)
    """Faults that skipping rows does not fix."""

    @property
    def is_all_bad(self) -> bool:
        """Whether skipping rows would leave none."""
        return bool(self.row_faults) and self.dataset is not None and not len(self.dataset)


def check_training_data(
    train: Source | TextDataset,
    *,
    validation: Source | None = None,
    test: Source | None = None,
    columns: Columns,
    on_bad_row: OnBadRow = "error",
    verb: str = "trained",
    on_progress: RowProgress | None = None,
) -> CheckedData:
    """Read and check the data of a training run; rows that were read are only checked.

    Only the source that the model is judged on needs the slice columns: the test set, otherwise
    the validation set, otherwise the rows that validation is split off from. `verb` is used in
    error messages ("nothing was trained"), `on_progress` for each large source in turn.

    Raises:
        DataError: The data has problems that may not or cannot be skipped; all are listed.
        ConfigError: `on_bad_row` is neither "error" nor "skip".
    """
    _check_choice(on_bad_row)
    unsliced = replace(columns, slices=())
    judges = [place for place, source in enumerate((validation, test), 1) if source is not None]
    sliced = max(judges, default=0)
    train_part = _read(train, unsliced if judges else columns, on_progress)
    parts = [
        None
        if source is None
        else _read(source, columns if place == sliced else unsliced, on_progress)
        for place, source in enumerate((validation, test), 1)
    ]
    label_names = _find_label_names(train_part)
    for part in parts:
        if part is not None and label_names:
            as_given = part.dataset
            _drop_unknown_labels(part, label_names, "does not occur in the training data")
            # A misspelt label is reported as such, not as a missing class.
            _check_labels_differ(part, part.dataset if on_bad_row == "skip" else as_given)
    skipped = _settle([train_part, *(part for part in parts if part)], on_bad_row, verb=verb)
    assert train_part.dataset is not None  # else _settle had raised
    validation_set, test_set = (None if part is None else part.dataset for part in parts)
    return CheckedData(
        train=train_part.dataset,
        validation=validation_set,
        test=test_set,
        label_names=label_names,
        skipped=skipped,
    )


def check_evaluation_data(
    source: Source | TextDataset,
    columns: Columns,
    label_names: Sequence[str],
    on_bad_row: OnBadRow = "error",
    *,
    verb: str = "evaluated",
    names_may_change: bool = False,
    on_progress: RowProgress | None = None,
) -> tuple[TextDataset, tuple[Fault, ...]]:
    """Read and check the rows to score a trained model on; those that were read are only checked.

    `verb` is used in error messages ("nothing was evaluated"), `on_progress` for a large source.
    `names_may_change` says that the model is no run, whose record has the names as well.

    Returns:
        The good rows, and the faults of the skipped rows.

    Raises:
        DataError: The data has problems that may not or cannot be skipped; all are listed.
        ConfigError: `on_bad_row` is neither "error" nor "skip".
    """
    _check_choice(on_bad_row)
    part = _read(source, columns, on_progress)
    told = "is not known to the model"
    _drop_unknown_labels(part, label_names, told, names_may_change=names_may_change)
    skipped = _settle([part], on_bad_row, verb=verb)
    assert part.dataset is not None  # else _settle had raised
    return part.dataset, skipped


def count_good_rows(
    source: Source,
    columns: Columns,
    on_bad_row: OnBadRow,
    *,
    verb: str,
    on_progress: RowProgress | None = None,
) -> int:
    """Read and check rows that need no labels, keep none of them, and return how many are good.

    `verb` is used in error messages, `on_progress` is called every `ROWS_PER_REPORT` rows.

    Raises:
        DataError: Rows have faults and `on_bad_row` is "error", or none can be used; all faults are
            listed.
    """
    part, num_read, num_good = _Part(source=name_source(source)), 0, 0
    try:
        for num_read, row in enumerate(iter_rows(source, columns, need_label=False), start=1):
            if isinstance(row, Fault):
                part.row_faults.append(row)
            else:
                num_good += 1
            if on_progress is not None and num_read % ROWS_PER_REPORT == 0:
                on_progress(num_read, None)
    except SourceError as error:
        part.source_faults.append(error.fault)
    else:
        part.dataset = None if num_good else TextDataset(part.source, (), (), (), ())
    if on_progress is not None and num_read >= ROWS_PER_REPORT:
        on_progress(num_read, num_read)
    _settle([part], on_bad_row, verb=verb)
    return num_good


def describe(dataset: TextDataset, label_names: Sequence[str]) -> dict[str, Any]:
    """Return statistics of a dataset, as JSON values.

    Returns:
        num_rows, num_per_label (in the order of `label_names`), num_groups, num_with_html_breaks,
        and words_median, words_p95, words_max.
    """
    counts = Counter(dataset.labels)
    num_words = np.array([count_words(text) for text in dataset.texts] or [0])
    return {
        "num_rows": len(dataset),
        "num_per_label": {name: counts[name] for name in label_names},
        "num_groups": len(set(dataset.groups)),
        "num_with_html_breaks": sum(find_html_break(text) is not None for text in dataset.texts),
        "words_median": round(float(np.median(num_words)), 1),
        "words_p95": round(float(np.percentile(num_words, 95)), 1),
        "words_max": int(num_words.max()),
    }


def _check_choice(on_bad_row: object) -> None:
    if not isinstance(on_bad_row, str) or on_bad_row not in {"error", "skip"}:
        message = f"on_bad_row is {on_bad_row!r}; 'error' or 'skip' was expected"
        raise ConfigError(message)


def _read(source: Source | TextDataset, columns: Columns, on_progress: RowProgress | None) -> _Part:
    if isinstance(source, TextDataset):
        return _Part(source=source.source, dataset=source)
    part = _Part(source=name_source(source))
    try:
        part.dataset, part.row_faults = read_dataset(source, columns, on_progress=on_progress)
    except SourceError as error:
        # The other sources are still read, so that their faults are in the same message.
        part.row_faults = list(error.faults)
        part.source_faults.append(error.fault)
    return part


def _find_label_names(train: _Part) -> tuple[str, ...]:
    if train.dataset is None:
        return ()
    label_names = tuple(sort_label_names(train.dataset.labels))
    if _tell_swapped(train, len(label_names)):
        return ()  # no other part's labels are compared with these texts
    if len(label_names) == 1:
        message = f"all rows have the label {label_names[0]!r}; at least 2 labels are needed"
        train.source_faults.append(Fault(train.source, None, message))
    return label_names


def _tell_swapped(part: _Part, num_labels: int) -> bool:
    """Make a fault of labels that are mostly distinct if the texts are the ones that repeat."""
    assert part.dataset is not None
    num_rows, num_texts = len(part.dataset), len(set(part.dataset.texts))
    if num_rows < _FEWEST_SWAPPED or max(2 * num_texts, num_rows / 2) > num_labels:
        return False
    message = (
        f"the labels have {num_labels:,} values in {num_rows:,} rows, and the texts only "
        f"{num_texts:,}, as if the columns were swapped"
    )
    if part.dataset.columns:
        text, label = (join_words([part.dataset.columns[role].name]) for role in ("text", "label"))
        message += f". Name them the other way round: --text-column {label} --label-column {text}"
    part.source_faults.append(Fault(part.source, None, message))
    return True


def _check_labels_differ(part: _Part, dataset: TextDataset | None) -> None:
    """Reject a part with only one class: a model that always predicts it would be perfect."""
    if dataset is None or len(set(dataset.labels)) != 1:
        return
    message = (
        f"all rows have the label {dataset.labels[0]!r}: a part with one class only cannot "
        "tell a good model from one that always answers so. Mix the rows before cutting parts off"
    )
    part.source_faults.append(Fault(part.source, None, message))


def _drop_unknown_labels(
    part: _Part, label_names: Sequence[str], unknown_is: str, *, names_may_change: bool = False
) -> None:
    """Make faults of the rows with unknown labels; the first of them lists the known ones."""
    if part.dataset is None:
        return
    part.dataset = replace(part.dataset, labels=match_spelling(part.dataset.labels, label_names))
    unknown = list(_find_unknown_labels(part.dataset, set(label_names)))
    if not unknown:
        return
    told = _tell_unknown_labels(
        [label for _, label in unknown],
        label_names,
        unknown_is,
        names_may_change=names_may_change,
    )
    for (index, _), (message, kind) in zip(unknown, told, strict=True):
        line = part.dataset.lines[index]
        part.row_faults.append(Fault(part.source, line, message, kind=kind))
    part.row_faults.sort(key=lambda fault: fault.line or 0)
    dropped = {index for index, _ in unknown}
    part.dataset = part.dataset.select(
        [index for index in range(len(part.dataset)) if index not in dropped]
    )


def _find_unknown_labels(dataset: TextDataset, known: Collection[str]) -> Iterator[tuple[int, str]]:
    return ((index, label) for index, label in enumerate(dataset.labels) if label not in known)


def _tell_unknown_labels(
    unknown: Sequence[str], label_names: Sequence[str], unknown_is: str, *, names_may_change: bool
) -> Iterator[tuple[str, str]]:
    """Yield the message of each row, and what is told of all rows with its label."""
    first, distinct = unknown[0], list(dict.fromkeys(unknown))
    num_guessed = min(_MOST_GUESSED, 1 + _MOST_COMPARED // max(1, len(label_names)))
    guesses = {label: guess_label(label, label_names) for label in distinct[:num_guessed]}

    def tell(label: str, known: str = "") -> str:
        return f"label {shorten_name(label)!r} {unknown_is}{known}.{guesses.get(label, '')}"

    messages = {label: tell(label) for label in distinct}
    which = f", which has {list_names(label_names)}"
    if names_may_change and are_unnamed(label_names):
        which += ", as nobody named them: write the names of your labels into its config.json"
    kinds = messages | {first: tell(first, which)}
    yield kinds[first], kinds[first]
    yield from ((messages[label], kinds[label]) for label in unknown[1:])


def _settle(parts: Sequence[_Part], on_bad_row: OnBadRow, *, verb: str) -> tuple[Fault, ...]:
    """Return the faults of the skipped rows, or raise all faults together."""
    for part in parts:
        _check_not_empty(part)
    row_faults = [fault for part in parts for fault in part.row_faults]
    source_faults = [fault for part in parts for fault in part.source_faults]
    if not source_faults and (on_bad_row == "skip" or not row_faults):
        return tuple(row_faults)
    faults = [fault for part in parts for fault in (*part.source_faults, *part.row_faults)]
    num_problems = len(faults) - sum(part.is_all_bad for part in parts)  # that is no further one
    raise DataError(
        f"{format_count(num_problems, 'problem')} in the data: nothing was {verb}",
        faults=faults,
        hint=_advise(
            len(row_faults),
            len(source_faults),
            on_bad_row,
            leaves_none=any(part.is_all_bad for part in parts),
            num_undecodable=sum(fault.kind == NOT_UTF8 for fault in row_faults),
        ),
    )


def _check_not_empty(part: _Part) -> None:
    if part.dataset is None or len(part.dataset):
        return
    num_faults = len(part.row_faults)
    have = "its only one has a fault" if num_faults == 1 else f"all {num_faults:,} have faults"
    message = f"no row can be used: {have}" if num_faults else "has no rows"
    part.source_faults.append(Fault(part.source, None, message))


def _advise(
    num_row_faults: int,
    num_source_faults: int,
    on_bad_row: OnBadRow,
    *,
    leaves_none: bool,
    num_undecodable: int,
) -> str | None:
    if on_bad_row == "skip" or not num_row_faults:
        return None
    if 2 * num_undecodable > num_row_faults and num_undecodable > 1:
        return "Say the encoding, as above: to skip these rows leaves out nearly all but English."
    if leaves_none:
        return "Fix the data: without the bad rows, none would be left."
    rows = format_count(num_row_faults, "row")
    advice = f"Fix the data, or skip {rows} with --on-bad-row skip."
    if num_source_faults:
        others = "problem" if num_source_faults == 1 else f"{num_source_faults} problems"
        advice += f" The other {others} must be fixed in any case."
    return advice
