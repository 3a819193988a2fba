"""bertfit settings."""

from __future__ import annotations


def settings() -> None:
    """List every training setting with its default and meaning."""
    from rich.table import Table

    from bertfit.cli.terminal import console
    from bertfit.config import describe_settings

    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("setting", "default", "meaning"):
        table.add_column(heading, no_wrap=heading != "meaning")
    for name, (default, text) in describe_settings().items():
        # As --set and TOML expect them.
        shown = default.lower() if default in {"None", "True", "False"} else default
        shown = "none" if shown == "()" else shown
        table.add_row(name, shown, text)
    console.print(table)
