"""The options of `train`, and those that several verbs share, each written once."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

import typer

TextColumn = Annotated[
    str | None,
    typer.Option(help="Column of the text; found by itself if named text, sentence, review…"),
]
LabelColumn = Annotated[
    str | None,
    typer.Option(help="Column of the label; found by itself if named label, sentiment, class…"),
]
GroupColumn = Annotated[
    str | None, typer.Option(help="Rows equal in this column are not split apart.")
]
SliceColumns = Annotated[
    list[str] | None,
    typer.Option("--slice", metavar="COLUMN", help="Also judge slices by this column; repeatable."),
]
PartGroupColumn = Annotated[
    str | None,
    typer.Option("--group-column", help="Rows equal in this column must not stand in two parts."),
]
IntervalGroupColumn = Annotated[
    str | None,
    typer.Option("--group-column", help="Rows equal in this column are resampled together."),
]
OnBadRow = Annotated[
    Literal["error", "skip"] | None,
    typer.Option(help="Stop at bad rows (default), or leave them out and list them."),
]
Strict = Annotated[
    bool | None,
    typer.Option(
        "--strict", help="Stop where test rows stand in the other rows too (exit code 8)."
    ),
]
DropDuplicates = Annotated[
    bool | None,
    typer.Option(
        "--drop-duplicates", help="Leave repeated and leaked texts out of the training rows."
    ),
]
KeepTexts = Annotated[
    bool | None,
    typer.Option("--keep-texts/--no-texts", help="Keep texts of errors for the report (default)."),
]
Device = Annotated[str | None, typer.Option(help="auto (default), cpu, cuda, cuda:N or mps.")]
Dtype = Annotated[
    Literal["auto", "float32", "bfloat16"] | None,
    typer.Option(help="Type of the arithmetic (auto: bfloat16 where it is quick)."),
]
RunDtype = Annotated[
    Literal["auto", "float32", "bfloat16"] | None,
    typer.Option(help="Type of the arithmetic (that of the training, where it is quick)."),
]
Packing = Annotated[
    Literal["auto", "on", "off"] | None,
    typer.Option(help="Texts end to end instead of padded; auto (default) packs on a GPU."),
]
Compile = Annotated[
    Literal["auto", "on", "off"] | None,
    typer.Option(help="torch.compile the layers; auto (default): long trainings on a GPU."),
]
TokenBudget = Annotated[
    str | None,
    typer.Option(
        "--token-budget", metavar="N|auto", help="Tokens per piece of a step; auto measures."
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an existing result.")]
Json = Annotated[bool, typer.Option("--json", help="Write one JSON object to standard output.")]
Run = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")]
Epochs = Annotated[
    int | None, typer.Option(help="Passes over the rows (2 to 20, by their number).")
]
BatchSize = Annotated[int | None, typer.Option(help="Rows per step (32).")]
LearningRate = Annotated[
    float | None, typer.Option(help="Peak learning rate (1e-4 if small, 5e-5).")
]
MaxLength = Annotated[
    int | None, typer.Option(help="Tokens per text (the model's limit, or the longest text's).")
]
TruncationOption = Annotated[
    str | None,
    typer.Option("--truncation", help="head (default), tail or head+tail of longer texts."),
]
Seed = Annotated[int | None, typer.Option(help="Seed of everything random (0).")]
Seeds = Annotated[
    int | None,
    typer.Option(help="Train this many times, seed by seed, and keep the best on validation."),
]
Model = Annotated[str | None, typer.Option(help="Hub name, local folder, or embedded (default).")]
Recipe = Annotated[str, typer.Option(help="default or notebook.")]
Validation = Annotated[Path | None, typer.Option(help="Rows that choose the epoch to keep.")]
ValidationFraction = Annotated[
    float | None, typer.Option(help="Share split off TRAIN without a file (0.1).")
]
Test = Annotated[
    Path | None, typer.Option(help="Rows scored once at the end; they choose nothing.")
]
Config = Annotated[Path | None, typer.Option(help="TOML file of settings.")]
Assignments = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Any setting; see bertfit settings."),
]
Baseline = Annotated[bool, typer.Option(help="Fit lexical baselines on the same rows.")]
Output = Annotated[Path, typer.Option(help="Folder of the run to make.")]
TrainFile = Annotated[
    Path, typer.Argument(metavar="TRAIN", help="CSV, TSV, JSONL (each also .gz) or Parquet.")
]


def read_number(text: str | None) -> int | str | None:
    """Return a whole number where the text is one, else the text, for the settings to judge."""
    is_number = text is not None and re.fullmatch(r"-?[0-9]+", text)
    return int(text) if is_number and text is not None else text
