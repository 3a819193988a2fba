"""Predict rows of a file or of standard input: streamed, in order, in constant memory."""

from __future__ import annotations

import collections
import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeAlias

from bertfit.data.dataset import Columns
from bertfit.data.readers import iter_rows
from bertfit.data.rows import describe_surrogate
from bertfit.errors import DataError, Fault
from bertfit.evaluation.predictions import TEST_NAME, VALIDATION_NAME
from bertfit.files import as_path, check_output, open_atomically

if TYPE_CHECKING:
    from bertfit.config import OnBadRow
    from bertfit.inference.predictor import Prediction, TextClassifier

NumberedPrediction: TypeAlias = "tuple[int, str, Prediction]"
"""1-based line or number, the text, and its prediction."""
SUFFIXES = (".jsonl", ".json", ".csv", ".tsv")
"""Suffixes that a file of predictions may have."""


@dataclass(slots=True)
class PredictionCount:
    """Counts of what happened to the rows of a prediction."""

    num_rows: int = 0
    num_abstained: int = 0
    """Rows that got no label."""
    num_truncated: int = 0
    """Rows that lost tokens."""
    num_blank: int = 0
    """Blank lines, which are skipped."""
    skipped: list[Fault] = field(default_factory=list)


def predict_rows(
    classifier: TextClassifier,
    source: Any,  # noqa: ANN401 (a path, a table or a list of dicts)
    count: PredictionCount,
    *,
    columns: Columns | None = None,
    on_bad_row: OnBadRow = "error",
    abstain_below: float | None = None,
) -> Iterator[NumberedPrediction]:
    """Yield (line, text, prediction) for each row of `source`, in order, in constant memory.

    Args:
        classifier: A loaded model.
        source: What `bertfit.data.readers` reads; labels are not needed.
        count: Counts the rows, and keeps the faults of skipped ones.
        columns: Which column holds the text.
        on_bad_row: "skip" leaves bad rows out.
        abstain_below: Rows whose confidence is below this, in (0, 1], get no label; None labels
            all.

    Raises:
        ConfigError: `abstain_below` is out of range.
        DataError: A row has a fault and `on_bad_row` is "error".
    """

    def good_rows() -> Iterator[tuple[int, str]]:
        for row in iter_rows(source, classifier.known_columns(columns), need_label=False):
            if isinstance(row, Fault):
                _skip_or_raise(row, count, on_bad_row)
            else:
                yield row.line, row.text

    return _predict_numbered(classifier, good_rows(), count, abstain_below)


def predict_lines(
    classifier: TextClassifier,
    lines: Iterable[str | Fault],
    count: PredictionCount,
    *,
    on_bad_row: OnBadRow = "error",
    abstain_below: float | None = None,
) -> Iterator[NumberedPrediction]:
    """Yield (number, text, prediction) for each text; blank ones are counted and skipped.

    Raises:
        ConfigError: `abstain_below` is out of range.
        DataError: A line is a fault and `on_bad_row` is "error".
    """

    def good_lines() -> Iterator[tuple[int, str]]:
        for number, line in enumerate(lines, 1):
            if isinstance(line, Fault):
                _skip_or_raise(line, count, on_bad_row)
            elif (surrogate := describe_surrogate(line)) is not None:  # a stray byte
                message = f"the text is not UTF-8: it has {surrogate}"
                _skip_or_raise(Fault("TEXT", number, message), count, on_bad_row)
            elif line.strip():
                yield number, line
            else:
                count.num_blank += 1

    return _predict_numbered(classifier, good_lines(), count, abstain_below)


def _skip_or_raise(fault: Fault, count: PredictionCount, on_bad_row: OnBadRow) -> None:
    if on_bad_row != "skip":
        raise DataError(
            "a row cannot be predicted",
            faults=[fault],
            hint="Fix the row, or skip such rows with --on-bad-row skip.",
        )
    count.skipped.append(fault)


def write_predictions(
    predictions: Iterable[NumberedPrediction], output: Path, *, label_names: Sequence[str]
) -> None:
    """Write predictions to a file that appears only once it is complete.

    If the model abstained, the label is null in JSON and empty in tables. A TSV file is written as
    bertfit reads it: quotes are ordinary characters, and a tab or a line break inside a text or a
    name becomes a space.

    Args:
        predictions: Lines, texts and predictions.
        output: .jsonl, .json (JSON lines), .csv or .tsv.
        label_names: Classes in order of their ids.

    Raises:
        ConfigError: The output's suffix is unknown, or it is a folder.
        OSError: The file cannot be written.
    """
    check_output(output, SUFFIXES, overwrite=True)  # the caller has checked
    with open_atomically(output) as file:
        write = _open_writer(file, output.suffix.lower(), label_names)
        for line, text, prediction in predictions:
            write(line, text, prediction)


def is_part_of_run(output: Path, run: Path) -> bool:
    """Return whether a file is one of a run, or of another model's folder: not predictions in it.

    Of the names that predictions may have, these end in .json, or are those that a training keeps.
    """
    is_in_run = output.exists() and as_path(run).is_dir() and output.parent.samefile(as_path(run))
    return is_in_run and (
        output.suffix.lower() == ".json" or output.name in {TEST_NAME, VALIDATION_NAME}
    )


def prediction_to_json(text: str, prediction: Prediction) -> dict[str, Any]:
    """Return a prediction as one JSON object; its label is null if the model abstained."""
    return {
        "text": text,
        "label": prediction.label,
        "confidence": prediction.confidence,
        "probabilities": prediction.probabilities,
    }


def _predict_numbered(
    classifier: TextClassifier,
    rows: Iterator[tuple[int, str]],
    count: PredictionCount,
    abstain_below: float | None,
) -> Iterator[NumberedPrediction]:
    # The classifier reads texts in chunks, and at most two chunks are waiting.
    waiting: collections.deque[tuple[int, str]] = collections.deque()

    def texts() -> Iterator[str]:
        for line, text in rows:
            waiting.append((line, text))
            yield text

    for prediction in classifier.predict_stream(texts(), abstain_below=abstain_below):
        line, text = waiting.popleft()
        count.num_rows += 1
        count.num_abstained += prediction.label is None
        count.num_truncated += prediction.is_truncated
        yield line, text, prediction


def _open_writer(
    file: IO[str], suffix: str, label_names: Iterable[str]
) -> Callable[[int, str, Prediction], None]:
    if suffix in {".jsonl", ".json"}:

        def write_json_line(line: int, text: str, prediction: Prediction) -> None:
            value = {"line": line, **prediction_to_json(text, prediction)}
            file.write(json.dumps(value, ensure_ascii=False) + "\n")

        return write_json_line
    write_fields = _write_tsv_row if suffix == ".tsv" else _write_csv_row
    names = list(label_names)
    write_fields(file, ["line", "text", "label", "confidence", *(f"p_{name}" for name in names)])

    def write_row(line: int, text: str, prediction: Prediction) -> None:
        shares = [f"{prediction.probabilities[name]:.6f}" for name in names]
        label = prediction.label or ""
        write_fields(file, [str(line), text, label, f"{prediction.confidence:.6f}", *shares])

    return write_row


def _write_csv_row(file: IO[str], fields: Sequence[str]) -> None:
    csv.writer(file).writerow(fields)


def _write_tsv_row(file: IO[str], fields: Sequence[str]) -> None:
    """Write unquoted fields; tabs and line breaks inside a field become spaces."""
    file.write("\t".join(re.sub(r"\r\n|[\t\r\n]", " ", field) for field in fields) + "\n")
