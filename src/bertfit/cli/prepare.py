"""bertfit prepare."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from bertfit.cli.options import Overwrite


def prepare(
    dataset: Annotated[Literal["imdb"], typer.Argument(help="Name of the data set: imdb.")],
    source: Annotated[
        str, typer.Option(help="aclImdb_v1.tar.gz, the extracted aclImdb folder, or hub.")
    ],
    output: Annotated[Path, typer.Option(help="Folder for the files.")],
    text_format: Annotated[
        Literal["text", "tokens"],
        typer.Option("--format", help="text, or tokens: the notebook's lower-cased words."),
    ] = "text",
    overwrite: Overwrite = False,
) -> None:
    """Convert a public data set to files that bertfit train reads."""
    from bertfit.cli.terminal import Terminal, console
    from bertfit.data.imdb import prepare_imdb

    assert dataset == "imdb"
    with Terminal(console) as terminal:
        counts = prepare_imdb(
            source, output, text_format=text_format, report=terminal.progress, overwrite=overwrite
        )
    from bertfit.cli.results import show_imdb_counts

    show_imdb_counts(console, counts, output)
