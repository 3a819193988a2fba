"""bertfit import."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bertfit.cli.options import Overwrite, read_path
from bertfit.garbage import pause_collection


def import_(
    folder: Annotated[
        Path,
        typer.Argument(
            parser=read_path, metavar="DIR", help="Folder with model.pth and tokenizer/."
        ),
    ],
    output: Annotated[Path, typer.Option(parser=read_path, help="Folder to save the run in.")],
    label_names: Annotated[
        str, typer.Option(help="Classes in the order of their ids, comma-separated.")
    ] = "neg,pos",
    max_length: Annotated[int, typer.Option(min=4, help="Tokens per text in the notebook.")] = 128,
    num_heads: Annotated[
        int | None, typer.Option(min=1, help="Attention heads (default: as published BERTs).")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Make a run of a notebook's model.pth, without running its code."""
    with pause_collection():
        from bertfit.cli.terminal import Terminal, console
        from bertfit.workflow.importing import import_notebook

    with Terminal(console) as terminal:
        run = import_notebook(
            folder,
            output,
            label_names=tuple(name.strip() for name in label_names.split(",")),
            max_length=max_length,
            num_heads=num_heads,
            overwrite=overwrite,
            listener=terminal,
        )
    console.print(
        "The weights do not say what the linear layer reads; the pooled output (pooler_output) was "
        "assumed. For a notebook that reads last_hidden_state, every prediction is wrong: train it "
        "again with bertfit train FILE --recipe notebook --output RUN."
    )
    console.print(f"The run is in {run}.", soft_wrap=True)
