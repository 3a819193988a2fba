"""bertfit train."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bertfit.cli.options import (
    Device,
    Dtype,
    GroupColumn,
    Json,
    LabelColumn,
    OnBadRow,
    Overwrite,
    TextColumn,
)


def train(
    data: Annotated[
        Path, typer.Argument(metavar="TRAIN", help="CSV, TSV, JSONL (each also .gz) or Parquet.")
    ],
    output: Annotated[Path, typer.Option(help="Folder of the run to make.")],
    validation: Annotated[
        Path | None, typer.Option(help="Rows that choose the epoch to keep.")
    ] = None,
    validation_fraction: Annotated[
        float | None, typer.Option(help="Share split off TRAIN without a file (0.1).")
    ] = None,
    test: Annotated[
        Path | None, typer.Option(help="Rows scored once at the end; they choose nothing.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Hub name, local folder, or embedded (default).")
    ] = None,
    recipe: Annotated[str, typer.Option(help="default or notebook.")] = "default",
    epochs: Annotated[int | None, typer.Option(help="Passes over the rows.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Rows per step.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    max_length: Annotated[int | None, typer.Option(help="Tokens per text.")] = None,
    truncation: Annotated[
        str | None, typer.Option(help="head, tail or head+tail of longer texts.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random.")] = None,
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
    group_column: GroupColumn = None,
    on_bad_row: OnBadRow = None,
    device: Device = None,
    dtype: Dtype = None,
    config: Annotated[Path | None, typer.Option(help="TOML file of settings.")] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any setting; see bertfit settings."),
    ] = None,
    baseline: Annotated[
        bool, typer.Option(help="Fit a TF-IDF baseline on the same rows for --test.")
    ] = True,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Fine-tune a model on labelled text and leave a run."""
    from bertfit.config import resolve_settings

    options = {
        "validation_fraction": validation_fraction,
        "model": model,
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "max_length": max_length,
        "truncation": truncation,
        "seed": seed,
        "text_column": text_column,
        "label_column": label_column,
        "group_column": group_column,
        "on_bad_row": on_bad_row,
        "device": device,
        "dtype": dtype,
    }
    settings = resolve_settings(
        options, recipe=recipe, config_file=config, assignments=tuple(assignments or ())
    )
    from bertfit.cli.results import print_json, show_training
    from bertfit.cli.terminal import Terminal, console, error_console
    from bertfit.workflow.training import train as run_training

    with Terminal(error_console if as_json else console) as terminal:
        result = run_training(
            data,
            output,
            validation=validation,
            test=test,
            settings=settings,
            overwrite=overwrite,
            baseline=baseline,
            listener=terminal,
        )
    if as_json:
        from bertfit.run_directory import read_record

        print_json({"run": str(result.run), **read_record(result.run)})
    else:
        show_training(console, result)
