"""bertfit predict."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bertfit.cli.options import Device, Dtype, OnBadRow, Run, TextColumn

if TYPE_CHECKING:
    from bertfit.inference.predictor import TextClassifier


def predict(
    run: Run,
    texts: Annotated[
        list[str] | None,
        typer.Argument(metavar="[TEXT]...", help="Texts; none reads lines from standard input."),
    ] = None,
    file: Annotated[
        Path | None, typer.Option(help="Predict the rows of a CSV, TSV, JSONL or Parquet file.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Write to this .jsonl, .csv or .tsv file.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per line.")] = False,
    text_column: TextColumn = None,
    on_bad_row: OnBadRow = None,
    device: Device = None,
    dtype: Dtype = None,
) -> None:
    """Predict texts, a file or standard input, in input order."""
    from bertfit.errors import ConfigError

    if file is not None and texts:
        raise ConfigError("give texts or --file, but not both")
    if file is None and not texts and sys.stdin.isatty():
        raise ConfigError("expected TEXT, --file FILE, or text on standard input")
    if output is not None:
        from bertfit.workflow.predicting import check_output

        check_output(output)
    if file is not None and not file.is_file():
        raise ConfigError(f"--file: {file} does not exist")
    from bertfit.inference.predictor import TextClassifier

    classifier = TextClassifier.load(run, device=device or "auto", dtype=dtype or "float32")
    if file is not None:
        _predict_file(
            classifier,
            file,
            output,
            text_column=text_column,
            skip=on_bad_row == "skip",
            as_json=as_json,
        )
        return
    lines = texts or (line.rstrip("\r\n") for line in _decode_stdin())
    if output is not None:
        _predict_rows_to(classifier, lines, output)
        return
    _print_predictions(classifier, lines, as_json=as_json)


def _predict_file(
    classifier: TextClassifier,
    file: Path,
    output: Path | None,
    *,
    text_column: str | None,
    skip: bool,
    as_json: bool,
) -> None:
    from bertfit.cli.terminal import Terminal, error_console
    from bertfit.data.dataset import Columns
    from bertfit.workflow.predicting import PredictionCount, predict_file, predict_rows

    columns = Columns(text=text_column)
    if output is None:
        count = PredictionCount()
        rows = predict_rows(
            classifier, file, count, columns=columns, on_bad_row="skip" if skip else "error"
        )
        for _line, text, prediction in rows:
            _print_one(text, prediction, as_json=as_json)
    else:
        with Terminal(error_console) as terminal:
            count = predict_file(
                classifier,
                file,
                output,
                columns=columns,
                on_bad_row="skip" if skip else "error",
                on_progress=lambda done: terminal.progress("predicting", done, None),
            )
        error_console.print(f"{count.num_rows:,} predictions are in {output}.", soft_wrap=True)
    if count.skipped:
        error_console.print(f"Skipped {len(count.skipped):,} bad rows:", style="yellow")
        for fault in count.skipped[:20]:
            error_console.print(f"  {fault}", markup=False, soft_wrap=True)


def _predict_rows_to(classifier: TextClassifier, lines: Iterable[str], output: Path) -> None:
    from bertfit.cli.terminal import error_console
    from bertfit.workflow.predicting import predict_file

    rows = [{"text": line} for line in lines]
    count = predict_file(classifier, rows, output)
    error_console.print(f"{count.num_rows:,} predictions are in {output}.", soft_wrap=True)


def _print_predictions(classifier: TextClassifier, lines: Iterable[str], *, as_json: bool) -> None:
    from bertfit.errors import DataError

    num_lines = 0
    seen: list[str] = []

    def remembered() -> Iterable[str]:
        for line in lines:
            if line.strip():
                seen.append(line)
                yield line

    for prediction in classifier.predict_stream(remembered()):
        _print_one(seen[num_lines], prediction, as_json=as_json)
        num_lines += 1
        if num_lines == len(seen):
            seen.clear()
            num_lines = 0
    if not seen and num_lines == 0 and not _anything_printed:
        raise DataError("there was no text to predict: every line is empty")


_anything_printed: list[bool] = []


def _print_one(text: str, prediction: object, *, as_json: bool) -> None:
    from bertfit.inference.predictor import Prediction
    from bertfit.workflow.predicting import prediction_to_json

    assert isinstance(prediction, Prediction)
    _anything_printed.append(True)
    if as_json:
        sys.stdout.write(
            json.dumps(prediction_to_json(text, prediction), ensure_ascii=False) + "\n"
        )
    else:
        shown = " ".join(text.split())
        shown = shown if len(shown) <= 60 else f"{shown[:57]}…"
        sys.stdout.write(f"{prediction}\t{shown}\n")


def _decode_stdin() -> Iterable[str]:
    from bertfit.errors import DataError

    for number, line in enumerate(sys.stdin.buffer, 1):
        try:
            yield line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(
                f"standard input:{number}: the line is not UTF-8 (byte {error.start + 1})"
            ) from None
