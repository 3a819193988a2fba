"""The options of `train`, and those that several verbs share, each defined once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from bertfit.data.dataset import Columns


def read_path(given: str) -> Path:
    """Return the path of an option or argument; see `as_path`.

    Raises:
        typer.BadParameter: It cannot be one; typer would take an empty one for the current folder.
    """
    from bertfit.errors import ConfigError
    from bertfit.files import as_path

    try:
        return as_path(given)
    except ConfigError as error:
        raise typer.BadParameter(error.message.removeprefix("path: ")) from None


TextColumn = Annotated[
    str | None,
    typer.Option(help="Text column (default: text, sentence, review or content)."),
]
LabelColumn = Annotated[
    str | None,
    typer.Option(help="Label column (default: label, sentiment, category, target or class)."),
]
RunTextColumn = Annotated[
    str | None,
    typer.Option(
        "--text-column",
        help="Text column (default: as in the training, else text, sentence, review or content).",
    ),
]
RunLabelColumn = Annotated[
    str | None,
    typer.Option(
        "--label-column",
        help="Label column (default: as in the training, else label, sentiment, category, target "
        "or class).",
    ),
]
GroupColumn = Annotated[
    str | None, typer.Option(help="Keep rows with the same value in this column together.")
]
FoldGroupColumn = Annotated[
    str | None,
    typer.Option(
        "--group-column",
        help="Keep rows with the same value in this column in one fold, without --with.",
    ),
]
SliceColumns = Annotated[
    list[str] | None,
    typer.Option("--slice", metavar="COLUMN", help="Also score slices by this column; repeatable."),
]
PartGroupColumn = Annotated[
    str | None,
    typer.Option("--group-column", help="Report values of this column that occur in two parts."),
]
IntervalGroupColumn = Annotated[
    str | None,
    typer.Option(
        "--group-column", help="Resample rows with the same value in this column together."
    ),
]
Encoding = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Encoding of the files, such as cp1252 (default: utf-8; utf-16 if a mark says so).",
    ),
]
OnBadRow = Annotated[
    Literal["error", "skip"] | None,
    typer.Option(help="Stop at bad rows (default), or skip and list them."),
]
Strict = Annotated[
    bool | None,
    typer.Option(
        "--strict",
        help="Stop if texts or groups of the test rows also occur in other rows (exit code 8).",
    ),
]
DropDuplicates = Annotated[
    bool | None,
    typer.Option(
        "--drop-duplicates", help="Drop training rows whose text is repeated, or in another part."
    ),
]
KeepTexts = Annotated[
    bool | None,
    typer.Option(
        "--keep-texts/--no-texts", help="Keep texts of rows in the run (default), or none."
    ),
]
Device = Annotated[str | None, typer.Option(help="auto (default), cpu, cuda, cuda:N or mps.")]
Dtype = Annotated[
    Literal["auto", "float32", "bfloat16"] | None,
    typer.Option(help="Type of the arithmetic (auto: bfloat16 where it is fast)."),
]
RunDtype = Annotated[
    Literal["auto", "float32", "bfloat16"] | None,
    typer.Option(help="Type of the arithmetic (default: as in training, where it is fast)."),
]
Packing = Annotated[
    Literal["auto", "on", "off"] | None,
    typer.Option(
        help="Lay texts end to end instead of padding, for speed; auto (default): on a GPU."
    ),
]
Compile = Annotated[
    Literal["auto", "on", "off"] | None,
    typer.Option(help="Use torch.compile, for speed; auto (default): in long trainings on a GPU."),
]
TokenBudget = Annotated[
    str | None,
    typer.Option(
        "--token-budget",
        metavar="N|auto",
        help="Most tokens computed at once, for speed (setting micro_batch_tokens).",
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an existing result.")]
Resume = Annotated[
    bool,
    typer.Option("--resume", help="Go on with this training if it was killed or interrupted."),
]
Json = Annotated[bool, typer.Option("--json", help="Write one JSON object to standard output.")]
Run = Annotated[
    Path,
    typer.Argument(
        parser=read_path, metavar="RUN", help="Folder of a run, or of a Hugging Face classifier."
    ),
]
Epochs = Annotated[
    int | None, typer.Option(help="Passes over the rows (default: 2 to 20, depending on the data).")
]
BatchSize = Annotated[int | None, typer.Option(help="Rows per step (default: 32).")]
LearningRate = Annotated[
    float | None,
    typer.Option(help="Peak learning rate (default: 1e-4 for small encoders, else 5e-5)."),
]
MaxLength = Annotated[
    int | None,
    typer.Option(help="Tokens per text (default: the model's limit)."),
]
TruncationOption = Annotated[
    str | None,
    typer.Option(
        "--truncation", help="Part of longer texts to keep: head (default), tail or head+tail."
    ),
]
Seed = Annotated[int | None, typer.Option(help="Random seed (default: 0).")]
Seeds = Annotated[
    int | None,
    typer.Option(help="Train with this many seeds and keep the best on validation."),
]
Model = Annotated[str | None, typer.Option(help="Hub name, local folder, or embedded (default).")]
Recipe = Annotated[str, typer.Option(help="Preset of settings: default or notebook.")]
Validation = Annotated[
    Path | None, typer.Option(parser=read_path, help="File of rows that choose the epoch to keep.")
]
ValidationFraction = Annotated[
    float | None, typer.Option(help="Share of TRAIN held out if no file is given (default: 0.1).")
]
Test = Annotated[
    Path | None,
    typer.Option(
        parser=read_path, help="File of rows scored once at the end; they choose nothing."
    ),
]
Config = Annotated[Path | None, typer.Option(parser=read_path, help="TOML file of settings.")]
Assignments = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Any setting; bertfit settings lists them."),
]
Baseline = Annotated[bool, typer.Option(help="Fit word-count baselines on the same rows.")]
Output = Annotated[Path, typer.Option(parser=read_path, help="Folder to save the run in.")]
TrainFile = Annotated[
    Path,
    typer.Argument(
        parser=read_path, metavar="TRAIN", help="CSV, TSV, JSON (each also .gz) or Parquet file."
    ),
]


def read_columns(
    text: str | None,
    label: str | None = None,
    group: str | None = None,
    encoding: str | None = None,
    kept: Sequence[str] | None = None,
) -> Columns:
    """Return the columns that options name, and the encoding of the files that have them.

    Raises:
        ConfigError: There is no such encoding.
    """
    from bertfit.data.dataset import Columns
    from bertfit.errors import ConfigError
    from bertfit.text_encoding import find_encoding_problem

    encoding = "utf-8" if encoding is None else encoding
    problem = find_encoding_problem(encoding)
    if problem is not None:
        raise ConfigError(f"--encoding: {problem}")
    return Columns(text=text, label=label, group=group, encoding=encoding, kept=tuple(kept or ()))


def check_output_option(
    output: Path | None, suffixes: Sequence[str], *, overwrite: bool, source: Path | None
) -> None:
    """Check that --output can be written, and that --overwrite has something to replace.

    Raises:
        ConfigError: As in `check_output`; or --overwrite was given without --output.
        OSError: Nothing can be written there.
    """
    from bertfit.errors import ConfigError
    from bertfit.files import check_output

    if output is not None:
        check_output(output, suffixes, overwrite=overwrite, source=source)
    elif overwrite:
        raise ConfigError("--overwrite replaces the file of --output, which was not given")
