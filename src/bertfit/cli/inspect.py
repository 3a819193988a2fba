"""bertfit inspect."""

from __future__ import annotations

from typing import Annotated

import typer

from bertfit.cli.options import Json


def inspect(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Hub name, folder, run, or embedded.")
    ],
    depth: Annotated[int | None, typer.Option(min=0, help="Levels to show.")] = None,
    num_labels: Annotated[int | None, typer.Option(min=2, help="Classes of the head.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows for the memory estimate.")] = 32,
    num_tokens: Annotated[int, typer.Option(min=1, help="Tokens for the estimate.")] = 128,
    as_json: Json = False,
) -> None:
    """Draw a model, or the model of a run, as a tree."""
    from bertfit.cli.results import print_json
    from bertfit.cli.terminal import console
    from bertfit.reporting.tree import describe_memory, draw_tree
    from bertfit.workflow.inspecting import inspect as run_inspection

    inspection = run_inspection(
        model, depth=depth, num_labels=num_labels, batch_size=batch_size, num_tokens=num_tokens
    )
    if as_json:
        print_json(inspection.to_json())
        return
    console.print(draw_tree(inspection.tree))
    console.print(
        f"{inspection.num_parameters:,} parameters, {inspection.num_trainable:,} of them trained."
    )
    if inspection.memory is not None:
        console.print(describe_memory(inspection.memory))
    if inspection.record:
        from bertfit.cli.results import show_record

        show_record(console, inspection.record)
