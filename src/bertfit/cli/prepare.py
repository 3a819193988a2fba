"""bertfit prepare."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import typer

from bertfit.cli.options import Json, Overwrite


def prepare(
    dataset: Annotated[Literal["imdb"], typer.Argument(help="Name of the data set: imdb.")],
    source: Annotated[
        str, typer.Option(help="aclImdb_v1.tar.gz, the extracted aclImdb folder, or hub.")
    ],
    output: Annotated[str, typer.Option(help="Folder for the files.")],
    text_format: Annotated[
        Literal["text", "tokens"],
        typer.Option("--format", help="text, or tokens: the notebook's lower-cased words."),
    ] = "text",
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Convert a public data set to files that bertfit train reads."""
    from bertfit.cli.terminal import Terminal, console, error_console
    from bertfit.data.imdb import prepare_imdb

    assert dataset == "imdb"
    with Terminal(error_console if as_json else console) as terminal:
        counts = prepare_imdb(
            source, output, text_format=text_format, report=terminal.progress, overwrite=overwrite
        )
    from bertfit.cli.results import print_json, show_imdb_counts

    if as_json:
        print_json(dataclasses.asdict(counts))
    else:
        show_imdb_counts(console, counts, Path(output))
