"""bertfit check."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bertfit.assets import EMBEDDED
from bertfit.cli import options
from bertfit.cli.options import read_path
from bertfit.garbage import pause_collection

if TYPE_CHECKING:
    from bertfit.data.gate import GateReport


def check(
    data: options.TrainFile,
    validation: options.Validation = None,
    test: options.Test = None,
    model: Annotated[
        str | None, typer.Option(help="Model whose tokenizer counts tokens (default: embedded).")
    ] = None,
    max_length: Annotated[
        int | None, typer.Option(help="Also show the share of texts longer than this many tokens.")
    ] = None,
    strict: options.Strict = None,
    run: Annotated[
        Path | None,
        typer.Option(
            "--with",
            parser=read_path,
            metavar="RUN",
            help="Also list labels of TRAIN that look wrong to this run, or to word counts if it "
            "has learned them.",
        ),
    ] = None,
    text_column: options.TextColumn = None,
    label_column: options.LabelColumn = None,
    group_column: options.PartGroupColumn = None,
    encoding: options.Encoding = None,
    on_bad_row: options.OnBadRow = None,
    as_json: options.Json = False,
) -> None:
    """Find leaks, duplicates and damaged text before training."""
    with pause_collection():
        from bertfit.cli.results import print_json, show_suspects
        from bertfit.cli.terminal import Terminal, console, error_console
        from bertfit.reporting.findings import findings_text, labels_table, lengths_table
        from bertfit.workflow.checking import check as run_check

    with Terminal(error_console) as terminal:
        result = run_check(
            data,
            validation=validation,
            test=test,
            model=EMBEDDED if model is None else model,
            max_length=max_length,
            columns=options.read_columns(text_column, label_column, group_column, encoding),
            on_bad_row=on_bad_row or "error",
            run=run,
            listener=terminal,
        )
    if as_json:
        print_json(result.to_json())
    else:
        console.print(findings_text(result.summary, result.findings))
        console.print()
        console.print(labels_table(result.parts))
        console.print(lengths_table(result.parts))
        if result.suspects is not None:
            show_suspects(console, result.suspects)
    if strict:  # only after the findings are shown, which say what to fix
        _refuse_leaks(result.report, has_test=test is not None)


def _refuse_leaks(report: GateReport, *, has_test: bool) -> None:
    from bertfit.cli.terminal import error_console
    from bertfit.data.gate import NO_TEST_ROWS, refuse_leaks

    if not has_test:
        error_console.print(f"--strict changes nothing: {NO_TEST_ROWS}.")
    refuse_leaks(report)
