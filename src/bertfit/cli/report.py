"""bertfit report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bertfit.cli.options import Json, read_path
from bertfit.garbage import pause_collection


def report(
    run: Annotated[Path, typer.Argument(parser=read_path, metavar="RUN", help="Folder of a run.")],
    output: Annotated[
        Path | None,
        typer.Option(parser=read_path, help="Write this HTML file instead of RUN/report.html."),
    ] = None,
    no_texts: Annotated[
        bool, typer.Option("--no-texts", help="Leave all texts out of the page.")
    ] = False,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite", help="Replace an existing --output, or an edited RUN/README.md."
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Rewrite a run's report.html and its model card."""
    with pause_collection():
        from bertfit.cli.results import print_json
        from bertfit.cli.terminal import console
        from bertfit.workflow.reporting import report as run_report

    written = run_report(run, output=output, with_texts=not no_texts, overwrite=overwrite)
    if as_json:
        print_json({"page": str(written.page), "card": written.card and str(written.card)})
        return
    console.print(f"The report is in {written.page}.", soft_wrap=True)
    if written.card is not None:
        console.print(f"The model card is in {written.card}.", soft_wrap=True)
    elif output is None:
        console.print(
            "README.md is not as this version writes it, so it was kept; --overwrite replaces it."
        )
