"""bertfit suspects."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bertfit.cli.options import (
    Device,
    Encoding,
    FoldGroupColumn,
    Json,
    LabelColumn,
    OnBadRow,
    Overwrite,
    Seed,
    TextColumn,
    check_output_option,
    read_columns,
    read_path,
)
from bertfit.garbage import pause_collection

_Data = Annotated[
    Path, typer.Argument(parser=read_path, metavar="DATA", help="File of labelled rows.")
]
_Judge = Annotated[
    Path | None,
    typer.Option(
        "--with",
        parser=read_path,
        metavar="RUN",
        help="Run trained on other rows, which judges these.",
    ),
]


def suspects(
    data: _Data,
    run: _Judge = None,
    folds: Annotated[
        int | None,
        typer.Option(help="Folds of the word-count models, without --with (default: 5)."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(parser=read_path, help="Write all suspects to this .csv file, for editing."),
    ] = None,
    top: Annotated[
        int | None, typer.Option(min=1, help="Rows to show (default: 10; all with --json).")
    ] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
    group_column: FoldGroupColumn = None,
    encoding: Encoding = None,
    on_bad_row: OnBadRow = None,
    seed: Seed = None,
    device: Device = None,
) -> None:
    """Find labels that are probably wrong, for you to review."""
    with pause_collection():
        from bertfit.cli.results import print_json, show_suspects
        from bertfit.cli.terminal import Terminal, console, error_console, show_skipped
        from bertfit.data.delimited import USUAL_FORM, find_csv_form
        from bertfit.workflow.suspecting import find_suspects, write_suspects

    check_output_option(output, (".csv",), overwrite=overwrite, source=data)
    columns = read_columns(text_column, label_column, group_column, encoding)
    form = USUAL_FORM if output is None else find_csv_form(data, columns.encoding)
    with Terminal(error_console) as terminal:
        report = find_suspects(
            data,
            run=run,
            num_folds=folds,
            columns=columns,
            on_bad_row=on_bad_row or "error",
            seed=seed,
            device="auto" if device is None else device,
            listener=terminal,
        )
    if output is not None:
        write_suspects(output, report, overwrite=overwrite, form=form)
    if as_json:
        value = report.to_json()
        print_json(value | {"suspects": value["suspects"][:top]})
    else:
        show_suspects(console, report, top=top, output=output)
        show_skipped(console, report.skipped)
