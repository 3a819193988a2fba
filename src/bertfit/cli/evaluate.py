"""bertfit evaluate."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from bertfit.cli.options import (
    Device,
    Encoding,
    IntervalGroupColumn,
    Json,
    OnBadRow,
    Run,
    RunDtype,
    RunLabelColumn,
    RunTextColumn,
    SliceColumns,
    read_columns,
    read_path,
)
from bertfit.garbage import pause_collection


def evaluate(
    run: Run,
    data: Annotated[
        Path, typer.Argument(parser=read_path, metavar="FILE", help="File of labelled rows.")
    ],
    slices: SliceColumns = None,
    errors: Annotated[
        int, typer.Option(min=0, help="Show this many wrong rows, with their texts.")
    ] = 0,
    as_json: Json = False,
    text_column: RunTextColumn = None,
    label_column: RunLabelColumn = None,
    group_column: IntervalGroupColumn = None,
    encoding: Encoding = None,
    on_bad_row: OnBadRow = None,
    device: Device = None,
    dtype: RunDtype = None,
) -> None:
    """Score a run on labelled rows, with 95 % intervals."""
    with pause_collection():
        from bertfit.cli.results import print_json, show_evaluation, show_weaknesses
        from bertfit.cli.terminal import Terminal, console, error_console
        from bertfit.workflow.evaluating import evaluate as run_evaluation

    with Terminal(error_console if as_json else console) as terminal:
        evaluation = run_evaluation(
            run,
            data,
            columns=read_columns(text_column, label_column, group_column, encoding),
            slice_columns=slices or (),
            on_bad_row=on_bad_row or "error",
            device="auto" if device is None else device,
            dtype=dtype,
            listener=terminal,
        )
    if as_json:
        worst = [asdict(row) for row in evaluation.worst_errors(errors)]
        print_json(evaluation.to_json() | ({"errors": worst} if errors else {}))
        return
    show_evaluation(console, evaluation, title=str(data))
    show_weaknesses(console, evaluation, num_errors=errors)
