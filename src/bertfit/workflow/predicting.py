"""Predict rows of a file or of standard input: streamed, in order, in constant memory."""

from __future__ import annotations

import collections
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple, TypeAlias

from bertfit.data.dataset import Columns
from bertfit.data.delimited import USUAL_FORM, CsvForm, open_csv_writer
from bertfit.data.readers import iter_rows
from bertfit.data.rows import describe_surrogate
from bertfit.errors import BertfitError, DataError, Fault, WorkLeft
from bertfit.files import as_path, check_output, keep_beside, open_atomically
from bertfit.labels import is_missing
from bertfit.run_files import TEST_NAME, VALIDATION_NAME, is_run

if TYPE_CHECKING:
    from bertfit.config import OnBadRow
    from bertfit.inference.prediction import Prediction
    from bertfit.inference.predictor import TextClassifier

_Read: TypeAlias = tuple[int, str, Mapping[str, object]]
"""1-based line or number, the text, and the values of the kept columns."""
_OWN_COLUMNS = ("line", "text", "label", "confidence", "probabilities")
"""Names in an output, besides those of the probabilities in a table."""
SUFFIXES = (".jsonl", ".json", ".csv", ".tsv")
"""Suffixes that a file of predictions may have."""


class PredictedRow(NamedTuple):
    """A text with its prediction."""

    line: int
    """1-based line or number."""
    text: str
    prediction: Prediction
    kept: Mapping[str, object]
    """Values of the kept columns, by the name that they have in an output."""


@dataclass(slots=True)
class PredictionCount:
    """Counts of what happened to the rows of a prediction."""

    num_rows: int = 0
    num_abstained: int = 0
    """Rows that got no label."""
    num_truncated: int = 0
    """Rows that lost tokens."""
    num_unread: int = 0
    """Rows of which the model read nothing, or mostly its unknown token."""
    num_blank: int = 0
    """Blank lines, which are skipped."""
    num_quoted: int = 0
    """Texts that begin with a quotation mark, after which some readers of TSV lose rows."""
    skipped: list[Fault] = field(default_factory=list)


def predict_rows(
    classifier: TextClassifier,
    source: Any,  # noqa: ANN401 (a path, a table or a list of dicts)
    count: PredictionCount,
    *,
    columns: Columns | None = None,
    on_bad_row: OnBadRow = "error",
    abstain_below: float | None = None,
) -> Iterator[PredictedRow]:
    """Yield each row of `source` with its prediction, in order, in constant memory.

    Args:
        classifier: A loaded model.
        source: What `bertfit.data.readers` reads; labels are not needed.
        count: Counts the rows, and keeps the faults of skipped ones.
        columns: Which column holds the text, and which ones are kept.
        on_bad_row: "skip" leaves bad rows out.
        abstain_below: Rows whose confidence is below this, in (0, 1], get no label; None labels
            all.

    Raises:
        ConfigError: `abstain_below` is out of range.
        DataError: A row has a fault and `on_bad_row` is "error".
    """
    names = name_kept(columns, classifier.label_names)

    def good_rows() -> Iterator[_Read]:
        for row in iter_rows(source, classifier.known_columns(columns), need_label=False):
            if isinstance(row, Fault):
                _skip_or_raise(row, count, on_bad_row)
            else:
                yield row.line, row.text, dict(zip(names, row.kept, strict=True))

    return _predict_numbered(classifier, good_rows(), count, abstain_below)


def predict_lines(
    classifier: TextClassifier,
    lines: Iterable[str | Fault],
    count: PredictionCount,
    *,
    on_bad_row: OnBadRow = "error",
    abstain_below: float | None = None,
) -> Iterator[PredictedRow]:
    """Yield each text with its prediction; blank ones are counted and skipped.

    Raises:
        ConfigError: `abstain_below` is out of range.
        DataError: A line is a fault and `on_bad_row` is "error".
    """

    def good_lines() -> Iterator[_Read]:
        for number, line in enumerate(lines, 1):
            if isinstance(line, Fault):
                _skip_or_raise(line, count, on_bad_row)
            elif (surrogate := describe_surrogate(line)) is not None:  # a stray byte
                message = f"the text is not UTF-8: it has {surrogate}"
                _skip_or_raise(Fault("TEXT", number, message), count, on_bad_row)
            elif line.strip():
                yield number, line, {}
            else:
                count.num_blank += 1

    return _predict_numbered(classifier, good_lines(), count, abstain_below)


def name_kept(columns: Columns | None, label_names: Sequence[str]) -> list[str]:
    """Return the name of each kept column in an output, which has columns of its own.

    Example:
        >>> name_kept(Columns(kept=("id", "label")), ["neg", "pos"])
        ['id', 'column label']
    """
    taken = {*_OWN_COLUMNS, *map(_name_share, label_names)}
    names: list[str] = []
    for name in dict.fromkeys(columns.kept if columns is not None else ()):
        shown = name
        while shown in taken:
            shown = f"column {shown}"
        taken.add(shown)
        names.append(shown)
    return names


def _skip_or_raise(fault: Fault, count: PredictionCount, on_bad_row: OnBadRow) -> None:
    if on_bad_row != "skip":
        raise DataError(
            "a row cannot be predicted",
            faults=[fault],
            hint="Fix the row, or skip such rows with --on-bad-row skip.",
        )
    count.skipped.append(fault)


def write_predictions(
    predictions: Iterable[PredictedRow],
    output: Path,
    *,
    label_names: Sequence[str],
    kept: Sequence[str] = (),
    form: CsvForm = USUAL_FORM,
) -> None:
    """Write predictions to a file that appears only once it is complete.

    If Ctrl-C or a bad row ends this, or the file cannot take the place of an earlier one, the
    predictions made so far are kept in a file beside it, such as out.unfinished.csv. If the model
    abstained, the label is null in JSON and empty in tables. A TSV file is written as bertfit reads
    it: quotes are ordinary characters, and a tab or a line break inside a text or a name becomes a
    space.

    Args:
        predictions: From `predict_rows` or `predict_lines`.
        output: .jsonl, .json (JSON lines), .csv or .tsv.
        label_names: Classes in order of their ids.
        kept: Names of the kept columns, from `name_kept`.
        form: How a CSV file is written.

    Raises:
        ConfigError: The output's suffix is unknown, or it is a folder.
        OSError: The file cannot be written.
        WorkLeft: Ctrl-C came after the first prediction.
        DataError, ModelError: As in `predict_rows`; the hint tells which predictions are kept.
    """
    check_output(output, SUFFIXES, overwrite=True)  # the caller has checked
    num_written, left = 0, list[Path]()

    def keep_rows(part: Path) -> None:
        if num_written:
            left.append(keep_beside(part, output))

    try:
        with open_atomically(output, on_failure=keep_rows) as file:
            write = _open_writer(file, output.suffix.lower(), form, label_names, kept)
            for row in predictions:
                write(row)
                num_written += 1
    except (KeyboardInterrupt, Exception) as error:
        if not left:
            raise
        are = "1 prediction is" if num_written == 1 else f"{num_written:,} predictions are"
        told = f"{are} in {left[0]}"
        if isinstance(error, KeyboardInterrupt):
            raise WorkLeft(told) from error
        if not isinstance(error, BertfitError):  # memory that ran out, for example
            error.add_note(f"{told}.")
            raise
        error.hint = f"{told}." if error.hint is None else f"{error.hint}\n{told}."
        raise


def is_part_of_run(output: Path, run: Path) -> bool:
    """Return whether a file is one of a run or of the model's folder: not predictions in it.

    Of the names that predictions may have, these end in .json, or are those that a training keeps.
    """
    if not output.exists():
        return False
    place = output.resolve()  # what a link leads to would be replaced
    is_own = as_path(run).is_dir() and place.parent.samefile(as_path(run))
    return (is_own or is_run(place.parent)) and (
        place.suffix.lower() == ".json" or place.name in {TEST_NAME, VALIDATION_NAME}
    )


def row_to_json(row: PredictedRow) -> dict[str, Any]:
    """Return a row as one JSON object; its label is null if the model abstained."""
    return {
        "line": row.line,
        **{name: _to_plain(value) for name, value in row.kept.items()},
        "text": row.text,
        "label": row.prediction.label,
        "confidence": row.prediction.confidence,
        "probabilities": row.prediction.probabilities,
    }


def _to_plain(value: object) -> object:
    """Return a kept value as JSON has it: what JSON does not know, such as a date, as text."""
    if is_missing(value):
        return None
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        if isinstance(value, Mapping):
            return {str(name): _to_plain(one) for name, one in value.items()}
        if isinstance(value, list | tuple):
            return [_to_plain(one) for one in value]
        return str(value)
    return value


def _to_cell(value: object) -> str:
    """Return a kept value as a table has it: lists and objects as JSON."""
    plain = _to_plain(value)
    if plain is None:
        return ""
    return json.dumps(plain, ensure_ascii=False) if isinstance(plain, list | dict) else str(plain)


def _predict_numbered(
    classifier: TextClassifier,
    rows: Iterator[_Read],
    count: PredictionCount,
    abstain_below: float | None,
) -> Iterator[PredictedRow]:
    # The classifier reads texts in chunks, and at most two chunks are waiting.
    waiting: collections.deque[_Read] = collections.deque()

    def texts() -> Iterator[str]:
        for row in rows:
            waiting.append(row)
            yield row[1]

    for prediction in classifier.predict_stream(texts(), abstain_below=abstain_below):
        line, text, kept = waiting.popleft()
        count.num_rows += 1
        count.num_abstained += prediction.label is None
        count.num_truncated += prediction.is_truncated
        count.num_unread += prediction.is_unread
        count.num_quoted += text.startswith('"')
        yield PredictedRow(line, text, prediction, kept)


def _open_writer(
    file: IO[str], suffix: str, form: CsvForm, label_names: Iterable[str], kept: Iterable[str]
) -> Callable[[PredictedRow], None]:
    if suffix in {".jsonl", ".json"}:

        def write_json_line(row: PredictedRow) -> None:
            file.write(json.dumps(row_to_json(row), ensure_ascii=False) + "\n")

        return write_json_line
    write_fields = (
        partial(_write_tsv_row, file) if suffix == ".tsv" else open_csv_writer(file, form)
    )
    names = list(label_names)
    shares = map(_name_share, names)
    write_fields(["line", *kept, "text", "label", "confidence", *shares])

    def write_row(row: PredictedRow) -> None:
        own = row.prediction
        fields = [
            str(row.line),
            *map(_to_cell, row.kept.values()),
            row.text,
            own.label or "",
            f"{own.confidence:.6f}",
            *(f"{own.probabilities[name]:.6f}" for name in names),
        ]
        write_fields(fields)

    return write_row


def _name_share(label: str) -> str:
    """Return the column of a table with the probabilities of a label."""
    return f"p_{label}"


def _write_tsv_row(file: IO[str], fields: Sequence[str]) -> None:
    """Write unquoted fields; tabs and line breaks inside a field become spaces."""
    file.write("\t".join(re.sub(r"\r\n|[\t\r\n]", " ", field) for field in fields) + "\n")
