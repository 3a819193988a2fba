"""bertfit settings."""

from __future__ import annotations


def settings() -> None:
    """List every setting of training: its type, default and meaning."""
    from rich.table import Table

    from bertfit.cli.terminal import console
    from bertfit.config import describe_settings

    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("setting", "default", "meaning"):
        table.add_column(heading, no_wrap=heading != "meaning")
    for name, (_kind, default, text) in describe_settings().items():
        table.add_row(name, default.lower() if default == "None" else default, text)
    console.print(table)
