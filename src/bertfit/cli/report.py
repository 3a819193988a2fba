"""bertfit report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bertfit.cli.options import Json, Run


def report(
    run: Run,
    output: Annotated[
        Path | None, typer.Option(help="HTML file to write instead of RUN/report.html.")
    ] = None,
    no_texts: Annotated[
        bool, typer.Option("--no-texts", help="Leave every text of a row out of the page.")
    ] = False,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Replace --output, or RUN/README.md, where it exists."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Write a run's report.html and its model card anew."""
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
            "README.md has other words, perhaps of yours, and was kept; --overwrite replaces it."
        )
