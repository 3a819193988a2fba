"""Predict rows of a file or of standard input: streamed, in their order, in constant memory."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from bertfit.data.dataset import Columns
from bertfit.data.readers import iter_rows
from bertfit.errors import ConfigError, DataError, Fault
from bertfit.files import open_atomically

if TYPE_CHECKING:
    from bertfit.config import OnBadRow
    from bertfit.inference.predictor import Prediction, TextClassifier

_SUFFIXES = (".jsonl", ".json", ".csv", ".tsv")


@dataclass(slots=True)
class PredictionCount:
    """What a prediction of many rows came to."""

    num_rows: int = 0
    skipped: list[Fault] = field(default_factory=list)


def predict_file(
    classifier: TextClassifier,
    source: Any,  # noqa: ANN401 (a path, a DataFrame, an Arrow table or a list of dicts)
    output: Path,
    *,
    columns: Columns | None = None,
    on_bad_row: OnBadRow = "error",
    on_progress: Callable[[int], None] | None = None,
) -> PredictionCount:
    """Predict every row of `source` into `output`, which appears only when it is whole.

    Args:
        classifier: A loaded model.
        source: What `bertfit.data.readers` reads; labels are not needed.
        output: .jsonl, .json (JSON lines), .csv or .tsv.
        columns: Which column holds the text.
        on_bad_row: "skip" leaves bad rows out and counts them.
        on_progress: Called with the number of rows done.

    Raises:
        ConfigError: The output's suffix is unknown.
        DataError: A row has a fault and `on_bad_row` is "error".
    """
    check_output(output)
    count = PredictionCount()
    with open_atomically(output) as file:
        write = _open_writer(file, output.suffix, classifier.label_names)
        for line, text, prediction in predict_rows(
            classifier, source, count, columns=columns, on_bad_row=on_bad_row
        ):
            write(line, text, prediction)
            count.num_rows += 1
            if on_progress is not None:
                on_progress(count.num_rows)
    return count


def check_output(output: Path) -> None:
    """Check that predictions can be written to a file of this name.

    Raises:
        ConfigError: The suffix is unknown, or the path is a folder.
    """
    if output.suffix not in _SUFFIXES:
        raise ConfigError(
            f"--output: expected a name ending in {', '.join(_SUFFIXES)}, got {output.name!r}"
        )
    if output.is_dir():
        raise ConfigError(f"--output: {output} is a folder")


def predict_rows(
    classifier: TextClassifier,
    source: Any,  # noqa: ANN401 (as predict_file)
    count: PredictionCount,
    *,
    columns: Columns | None = None,
    on_bad_row: OnBadRow = "error",
) -> Iterator[tuple[int, str, Prediction]]:
    """Yield (line, text, prediction) for each row of `source`, in order.

    Raises:
        DataError: A row has a fault and `on_bad_row` is "error".
    """
    waiting: list[tuple[int, str]] = []

    def texts() -> Iterator[str]:
        for row in iter_rows(source, classifier.known_columns(columns), need_label=False):
            if isinstance(row, Fault):
                if on_bad_row == "error":
                    raise DataError(
                        "a row cannot be predicted; nothing was written",
                        faults=[row],
                        hint="Mend the row, or leave such rows out with --on-bad-row skip.",
                    )
                count.skipped.append(row)
                continue
            waiting.append((row.line, row.text))
            yield row.text

    # The classifier takes texts a chunk at a time, so `waiting` never holds more than a chunk.
    taken = 0
    for prediction in classifier.predict_stream(texts()):
        line, text = waiting[taken]
        taken += 1
        yield line, text, prediction
        if taken == len(waiting):
            waiting.clear()
            taken = 0


def prediction_to_json(text: str, prediction: Prediction) -> dict[str, Any]:
    """Return a prediction as one JSON object."""
    return {
        "text": text,
        "label": prediction.label,
        "confidence": prediction.confidence,
        "probabilities": prediction.probabilities,
    }


def _open_writer(
    file: IO[str], suffix: str, label_names: Iterable[str]
) -> Callable[[int, str, Prediction], None]:
    if suffix in {".jsonl", ".json"}:

        def write_json_line(line: int, text: str, prediction: Prediction) -> None:
            value = {"line": line, **prediction_to_json(text, prediction)}
            file.write(json.dumps(value, ensure_ascii=False) + "\n")

        return write_json_line
    writer = csv.writer(file, delimiter="\t" if suffix == ".tsv" else ",")
    names = list(label_names)
    writer.writerow(["line", "text", "label", "confidence", *(f"p_{name}" for name in names)])

    def write_row(line: int, text: str, prediction: Prediction) -> None:
        shares = [f"{prediction.probabilities[name]:.6f}" for name in names]
        writer.writerow([line, text, prediction.label, f"{prediction.confidence:.6f}", *shares])

    return write_row
