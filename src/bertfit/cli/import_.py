"""bertfit import."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bertfit.cli.options import Overwrite


def import_(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Holds model.pth and tokenizer/.")],
    output: Annotated[Path, typer.Option(help="Folder of the run to make.")],
    label_names: Annotated[
        str, typer.Option(help="Classes in order of their ids, comma-separated.")
    ] = "neg,pos",
    max_length: Annotated[int, typer.Option(min=4, help="Tokens per text of the notebook.")] = 128,
    num_heads: Annotated[
        int | None, typer.Option(min=1, help="Attention heads (default: width / 64).")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Turn a notebook's model.pth into a run, without unpickling code."""
    from bertfit.cli.terminal import Terminal, console
    from bertfit.workflow.importing import import_notebook

    run = import_notebook(
        folder,
        output,
        label_names=tuple(name.strip() for name in label_names.split(",")),
        max_length=max_length,
        num_heads=num_heads,
        overwrite=overwrite,
        listener=Terminal(console),
    )
    if num_heads is None:
        console.print(
            "The weights do not tell the number of attention heads: one for each 64 of the width "
            "was taken. If that is wrong, so is every prediction; --num-heads gives another."
        )
    console.print(f"The run is in {run}.", soft_wrap=True)
