"""bertfit compare."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bertfit.cli.options import (
    Device,
    Encoding,
    IntervalGroupColumn,
    Json,
    OnBadRow,
    RunDtype,
    RunLabelColumn,
    RunTextColumn,
    read_columns,
    read_path,
)
from bertfit.garbage import pause_collection

_MOST_SHOWN = 5
_RunA = Annotated[Path, typer.Argument(parser=read_path, metavar="RUN_A", help="Folder of a run.")]
_RunB = Annotated[
    Path, typer.Argument(parser=read_path, metavar="RUN_B", help="Folder of another run.")
]


def compare(
    run_a: _RunA,
    run_b: _RunB,
    data: Annotated[
        Path | None,
        typer.Option(
            parser=read_path,
            help="Labelled rows to score both on (default: the test rows both kept).",
        ),
    ] = None,
    top: Annotated[
        int | None,
        typer.Option(min=0, help="Disagreements to show (default: 5; all with --json)."),
    ] = None,
    as_json: Json = False,
    text_column: RunTextColumn = None,
    label_column: RunLabelColumn = None,
    group_column: IntervalGroupColumn = None,
    encoding: Encoding = None,
    on_bad_row: OnBadRow = None,
    device: Device = None,
    dtype: RunDtype = None,
) -> None:
    """Say whether two runs differ by more than chance."""
    with pause_collection():
        from bertfit.cli.results import print_json
        from bertfit.cli.terminal import Terminal, console, error_console, show_skipped
        from bertfit.reporting.comparison import disagreement_table, paired_table
        from bertfit.workflow.comparing import compare as run_comparison

    with Terminal(error_console) as terminal:
        result = run_comparison(
            run_a,
            run_b,
            data=data,
            columns=read_columns(text_column, label_column, group_column, encoding),
            on_bad_row=on_bad_row or "error",
            device="auto" if device is None else device,
            dtype=dtype,
            listener=terminal,
        )
    value = result.to_json()
    if top is not None or not as_json:
        value["disagreements"] = value["disagreements"][: _MOST_SHOWN if top is None else top]
    if as_json:
        print_json(value)
        return
    console.print(f"Compared on {result.rows}.", soft_wrap=True)
    console.print(paired_table(result.comparison, result.name_a, result.name_b))
    console.print(result.verdict, style="bold")
    console.print(
        "This compares these two models. bertfit train --seeds 5 shows how much the seed matters."
    )
    if value["disagreements"]:
        console.print()
        console.print(disagreement_table(value["disagreements"]))
    show_skipped(console, result.skipped)
