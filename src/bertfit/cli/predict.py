"""bertfit predict."""

from __future__ import annotations

import dataclasses
import math
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from bertfit.cli.options import (
    Device,
    Encoding,
    OnBadRow,
    Run,
    RunDtype,
    RunTextColumn,
    check_output_option,
    read_columns,
    read_path,
)
from bertfit.files import refuse_hidden
from bertfit.garbage import pause_collection

if TYPE_CHECKING:
    from bertfit.config import OnBadRow as OnBadRowPolicy
    from bertfit.data.dataset import Columns
    from bertfit.errors import Fault
    from bertfit.inference.predictor import TextClassifier
    from bertfit.workflow.predicting import PredictedRow, PredictionCount

_LABEL_WIDTH = 60
_SECONDS_BETWEEN_COUNTS = 0.2
"""Rows come in chunks; told one by one, they would seem as fast as the last chunk is written."""
_Texts = Annotated[
    list[str] | None,
    typer.Argument(metavar="TEXT", help="Texts; none, or -: the lines of standard input."),
]

_File = Annotated[
    Path | None,
    typer.Option(
        parser=read_path, help="Classify the rows of a CSV, TSV, JSON (also .gz) or Parquet file."
    ),
]
_Output = Annotated[
    Path | None,
    typer.Option(
        parser=read_path,
        help="Write a .jsonl or .json (both one object a line), .csv, or .tsv (tabs become "
        "spaces).",
    ),
]
_Keep = Annotated[
    list[str] | None,
    typer.Option(
        metavar="COLUMN",
        help="Also write this column of the file; repeatable. One named as a column of the output, "
        "such as label, becomes 'column label'.",
    ),
]


def predict(
    run: Run,
    texts: _Texts = None,
    file: _File = None,
    output: _Output = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace --output.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Write one JSON object a line.")] = False,
    abstain_below: Annotated[
        float | None,
        typer.Option(metavar="P", help="Give no label if the confidence is below P."),
    ] = None,
    text_column: RunTextColumn = None,
    keep: _Keep = None,
    encoding: Encoding = None,
    on_bad_row: OnBadRow = None,
    device: Device = None,
    dtype: RunDtype = None,
) -> None:
    """Classify texts, a file or standard input, in input order."""
    with pause_collection():
        from bertfit.data.delimited import find_csv_form
        from bertfit.workflow.predicting import PredictionCount, name_kept, write_predictions

    _check_arguments(texts, file, abstain_below, encoding)
    texts = None if texts == ["-"] else texts
    columns = read_columns(text_column, kept=keep, encoding=encoding)
    _check_combination(file, output, columns=columns, as_json=as_json, overwrite=overwrite)
    _refuse_own_file(output, run)
    classifier = _load(run, "auto" if device is None else device, dtype=dtype)
    _tell_expectation(classifier, abstain_below)
    count, policy = PredictionCount(), on_bad_row or "error"
    source = file or texts or _decode_stdin(columns.encoding)
    predictions = _predict(classifier, source, count, columns, policy, abstain_below)
    if output is None:
        for row in predictions:
            _print_prediction(row, as_json=as_json)
    else:
        names = classifier.label_names
        watched = _watch(predictions, count, _count_rows(classifier, file, columns, policy))
        write_predictions(
            watched,
            output,
            label_names=names,
            kept=name_kept(columns, names),
            form=find_csv_form(file, columns.encoding),
        )
    _tell_outcome(count, output, classifier)


def _predict(
    classifier: TextClassifier,
    source: Path | Iterable[str | Fault],
    count: PredictionCount,
    columns: Columns,
    on_bad_row: OnBadRowPolicy,
    abstain_below: float | None,
) -> Iterator[PredictedRow]:
    """Yield predictions of a file's rows, or of texts."""
    from bertfit.workflow.predicting import predict_lines, predict_rows

    if not isinstance(source, Path):
        return predict_lines(
            classifier, source, count, on_bad_row=on_bad_row, abstain_below=abstain_below
        )
    return predict_rows(
        classifier,
        source,
        count,
        columns=columns,
        on_bad_row=on_bad_row,
        abstain_below=abstain_below,
    )


def _load(
    run: Path, device: str, *, dtype: Literal["auto", "float32", "bfloat16"] | None
) -> TextClassifier:
    from bertfit.cli.terminal import Terminal, error_console
    from bertfit.inference.predictor import TextClassifier

    return TextClassifier.load(run, device=device, dtype=dtype, tell=Terminal(error_console).note)


def _check_arguments(
    texts: list[str] | None,
    file: Path | None,
    abstain_below: float | None,
    encoding: str | None,
) -> None:
    """Refuse invalid arguments before the model is loaded."""
    from bertfit.errors import ConfigError, DataError
    from bertfit.evaluation.selective import check_abstain_below

    if abstain_below is not None:
        check_abstain_below(abstain_below)
    if file is not None and texts:
        raise ConfigError("give texts or --file, but not both")
    if texts and "-" in texts and len(texts) > 1:
        raise ConfigError("give texts, or - for standard input, but not both")
    _refuse_paths(texts or [])
    if encoding is not None and texts and texts != ["-"]:
        raise ConfigError("--encoding: it is for --file and standard input; texts were given")
    if file is None and (not texts or texts == ["-"]) and sys.stdin.isatty():
        raise ConfigError("expected TEXT, --file FILE, or text on standard input")
    if file == Path("-"):
        raise ConfigError(
            "--file: expected the name of a file, got '-'",
            hint="Without --file, the lines of standard input are predicted, each as one text.",
        )
    if file is not None and file.is_dir():
        raise ConfigError(f"--file: {file} is a folder")
    if file is not None and not file.exists():
        refuse_hidden(file)
        raise DataError(f"--file: {file} does not exist")


def _refuse_paths(texts: Sequence[str]) -> None:
    """Refuse names of files and paths of folders, which were hardly meant as texts."""
    from bertfit.errors import ConfigError

    for text in texts:
        kind = _find_kind(text)
        if kind is not None:
            raise ConfigError(
                f"expected TEXT, got {text!r}, which is a {kind} here",
                hint=_advise_on(Path(text), kind),
            )


def _advise_on(path: Path, kind: Literal["file", "folder"]) -> str:
    """Return what to do with a path that was given as a text."""
    from bertfit.data.readers import EXTENSIONS
    from bertfit.run_files import is_run
    from bertfit.wording import quote_path

    shown = quote_path(path)
    name_itself = "to classify the name itself, pipe it in."
    if kind == "folder":
        if is_run(path):
            return f"The run comes first: bertfit predict {shown} TEXT, or --file FILE."
        return f"--file {quote_path(path / 'FILE')} predicts its rows; {name_itself}"
    if path.name.lower().endswith(EXTENSIONS):
        return f"--file {shown} predicts its rows; {name_itself}"
    return f"bertfit predict RUN < {shown} predicts its lines; {name_itself}"


def _find_kind(text: str) -> Literal["file", "folder"] | None:
    """Return what a text names here; a folder only as a path, as its name may be a word: good."""
    try:
        path = Path(text)
        if path.is_file():
            return "file"
        is_path = any(separator in text for separator in (os.sep, os.altsep) if separator)
        return "folder" if is_path and path.is_dir() else None
    except (OSError, ValueError):  # too long for a file name, or with characters that none can have
        return None


def _check_combination(
    file: Path | None,
    output: Path | None,
    *,
    columns: Columns,
    as_json: bool,
    overwrite: bool,
) -> None:
    """Refuse options that would have no effect, and an output that cannot be written."""
    from bertfit.errors import ConfigError
    from bertfit.workflow.predicting import SUFFIXES

    for option, given in (("--text-column", columns.text), ("--keep", columns.kept)):
        if given and file is None:
            raise ConfigError(f"{option}: only the rows of a --file have columns")
    if columns.kept and output is None and not as_json:
        raise ConfigError("--keep: the columns go to --output, or with --json to the screen")
    if as_json and output is not None and output.suffix.lower() not in {".jsonl", ".json"}:
        raise ConfigError(f"--json writes JSON lines, but --output names {output.name}")
    check_output_option(output, SUFFIXES, overwrite=overwrite, source=file)


def _refuse_own_file(output: Path | None, run: Path) -> None:
    """Refuse an output that would replace a file of the run that predicts."""
    from bertfit.errors import ConfigError
    from bertfit.workflow.predicting import is_part_of_run

    if output is not None and is_part_of_run(output, run):
        raise ConfigError(
            f"--output: {output} is a file of the run, and would be lost",
            hint="Choose another --output.",
        )


def _tell_expectation(classifier: TextClassifier, abstain_below: float | None) -> None:
    """Print to standard error, before the first prediction, what to expect of abstaining."""
    if abstain_below is None:
        return
    from bertfit.cli.terminal import error_console
    from bertfit.reporting.confidence import describe_expectation

    expectation = classifier.expect_selective(abstain_below)
    told = describe_expectation(abstain_below, expectation)
    error_console.print(told)


def _count_rows(
    classifier: TextClassifier, file: Path | None, columns: Columns, policy: OnBadRowPolicy
) -> int | None:
    """Check all rows, before hours of work that a fault in the last would end; return their number.

    None if the file can be read only once.
    """
    from bertfit.cli.terminal import Terminal, error_console
    from bertfit.data.checks import count_good_rows

    if file is None or not file.is_file():  # a pipe
        return None
    with Terminal(error_console) as terminal:
        return count_good_rows(
            file,
            classifier.known_columns(columns),
            policy,
            verb="predicted",
            on_progress=partial(terminal.progress, "reading"),
        )


def _watch(
    predictions: Iterator[PredictedRow], count: PredictionCount, num_rows: int | None
) -> Iterator[PredictedRow]:
    """Yield predictions while showing their number; raise if there are none."""
    from bertfit.cli.terminal import Terminal, error_console

    told = -math.inf
    with Terminal(error_console) as terminal:
        for prediction in predictions:
            if time.monotonic() - told >= _SECONDS_BETWEEN_COUNTS:
                terminal.progress("predicting", count.num_rows, num_rows)
                told = time.monotonic()
            yield prediction
        terminal.progress("predicting", count.num_rows, count.num_rows)
    _refuse_nothing(count)


def _refuse_nothing(count: PredictionCount) -> None:
    from bertfit.errors import DataError

    if count.num_rows == 0:
        raise DataError("there was no text to predict", faults=count.skipped)


def _print_prediction(row: PredictedRow, *, as_json: bool) -> None:
    from bertfit.cli.streams import write_json
    from bertfit.reporting.control_characters import put_on_one_line
    from bertfit.reporting.text import shorten
    from bertfit.word_pattern import find_cut
    from bertfit.workflow.predicting import row_to_json

    if as_json:
        write_json(row_to_json(row))
    else:
        shown, prediction = put_on_one_line(row.text), row.prediction
        shown = shown if len(shown) <= 60 else f"{shown[: find_cut(shown, 57)]}…"
        label = None if prediction.label is None else shorten(prediction.label, _LABEL_WIDTH)
        answer = dataclasses.replace(prediction, label=label)
        sys.stdout.write(f"{answer}\t{shown}\n")


def _tell_outcome(count: PredictionCount, output: Path | None, classifier: TextClassifier) -> None:
    from bertfit.cli.terminal import error_console, show_skipped
    from bertfit.wording import format_count, format_share, name_kept_part

    _refuse_nothing(count)
    if output is not None:
        told = "1 prediction is" if count.num_rows == 1 else f"{count.num_rows:,} predictions are"
        error_console.print(f"{told} in {output}.", soft_wrap=True)
        if count.num_quoted and output.suffix.lower() == ".tsv":
            texts = format_count(count.num_quoted, "text")
            begin = "begins" if count.num_quoted == 1 else "begin"
            error_console.print(
                f"{texts} {begin} with a quotation mark, which is an ordinary character in .tsv: "
                "read the file without quoting, as in pandas quoting=3, or write .csv."
            )
    if count.num_abstained:
        share = format_share(count.num_abstained, count.num_rows)
        told = f"No label: {count.num_abstained:,} of {count.num_rows:,} texts ({share})."
        error_console.print(told)
    if count.num_truncated:
        share, rule = format_share(count.num_truncated, count.num_rows), classifier.rule
        keeps = "is longer than {} tokens and keeps its {}."
        keep = "are longer than {} tokens and keep their {}."
        told = (keeps if count.num_truncated == 1 else keep).format(
            rule.max_length, name_kept_part(rule.truncation)
        )
        told = f"Truncated: {count.num_truncated:,} of {count.num_rows:,} texts ({share}) {told}"
        error_console.print(told)
    if count.num_unread:
        share = format_share(count.num_unread, count.num_rows)
        error_console.print(
            f"WARNING: the model cannot read {count.num_unread:,} of {count.num_rows:,} texts "
            f"({share}), as nothing or little of them is in its vocabulary: such an answer says "
            "nothing."
        )
    if count.num_blank:
        told = (
            "1 blank text was" if count.num_blank == 1 else f"{count.num_blank:,} blank texts were"
        )
        error_console.print(f"{told} skipped.")
    show_skipped(error_console, count.skipped)


def _decode_stdin(encoding: str) -> Iterator[str | Fault]:
    from bertfit.data.lines import decode_lines

    for line in decode_lines(sys.stdin.buffer, "standard input", encoding):
        yield line.text.rstrip("\r\n") if line.fault is None else line.fault
