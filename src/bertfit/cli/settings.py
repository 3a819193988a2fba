"""bertfit settings."""

from __future__ import annotations

import dataclasses

from bertfit.cli.options import Json

_LEAST_WIDTH = 50
"""Columns into which names, defaults and the longest words of the sentences fit."""


def settings(as_json: Json = False) -> None:
    """List every training setting with its default and meaning."""
    from bertfit.config import TrainSettings, describe_settings

    if as_json:
        from bertfit.cli.results import print_json

        defaults = dataclasses.asdict(TrainSettings())
        print_json(
            {
                name: {"default": defaults[name], "meaning": text}
                for name, (_, text) in describe_settings().items()
            }
        )
        return
    from rich.table import Table

    from bertfit.cli.terminal import console

    # Sentences may be wrapped, so it shrinks further than tables of numbers.
    table = Table(box=None, padding=(0, 2, 0, 0), min_width=_LEAST_WIDTH)
    for heading in ("setting", "default", "meaning"):
        table.add_column(heading, no_wrap=heading != "meaning")
    for name, (default, text) in describe_settings().items():
        # As --set and TOML expect them.
        shown = default.lower() if default in {"None", "True", "False"} else default
        shown = "none" if shown == "()" else shown
        table.add_row(name, shown, text)
    console.print(table)
