"""Options that several verbs share, written once."""

from __future__ import annotations

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
OnBadRow = Annotated[
    Literal["error", "skip"] | None,
    typer.Option(help="Stop at bad rows (default), or leave them out and list them."),
]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]
Dtype = Annotated[
    Literal["auto", "float32", "bfloat16"] | None, typer.Option(help="Type of the arithmetic.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an existing result.")]
Json = Annotated[bool, typer.Option("--json", help="Write one JSON object to standard output.")]
Run = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")]
