"""Starts a module of bertfit in a second process, for work that is also done here if it fails."""

from __future__ import annotations

import subprocess
import sys
from typing import Any


def start_module(
    name: str,
    *arguments: str,
    **options: Any,  # noqa: ANN401 (of subprocess.Popen)
) -> subprocess.Popen[bytes] | None:
    """Return the process, or None if none can be started.

    It imports nothing from the current folder, and its errors are not shown.

    Args:
        name: The module, such as "bertfit.data.gate_process".
        arguments: Arguments of the module.
        options: Of `subprocess.Popen`.
    """
    if not sys.executable:  # Python is part of another program
        return None
    command = [sys.executable, "-P", "-m", name, *arguments]
    try:
        return subprocess.Popen(command, stderr=subprocess.DEVNULL, **options)  # noqa: S603 (a list)
    except OSError:
        return None
