"""Writes a measurement to a file: the values, the hardware, the versions, the command."""

from __future__ import annotations

import datetime as dt
import os
import re
import shlex
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from bertfit.environment import describe_environment
from bertfit.files import write_json
from bertfit.workflow.runtime import list_instructions

RESULTS = Path(__file__).parent / "results"


def summarize(values: Sequence[float]) -> dict[str, Any]:
    """Return median, minimum, maximum and all values in the order of measurement."""
    return {
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
        "values": list(values),
    }


def write_result(
    name: str, measured: Mapping[str, Any], *, output: Path = RESULTS, gpu: str | None = None
) -> Path:
    """Write results/<date>_<name>_<processor>-<instructions>.json, or _<GPU>; return its path."""
    environment = describe_environment()
    hardware = environment["hardware"]
    hardware["instructions"] = list_instructions()
    now = dt.datetime.now(tz=dt.UTC)
    widest = hardware["instructions"][-1:]
    processor = _slug(gpu or " ".join([hardware["processor"] or hardware["machine"], *widest]))
    path = output / f"{now:%Y-%m-%d}_{name}_{processor}.json"
    arguments = [Path(sys.argv[0]).name, *map(_without_folder, _without_output(sys.argv[1:]))]
    write_json(
        path,
        {
            "name": name,
            "date": now.isoformat(timespec="seconds"),
            "command": f"python benchmarks/{shlex.join(arguments)}",
            "source": _describe_source(),
            "num_threads": torch.get_num_threads(),
            "load_average": [round(load, 2) for load in os.getloadavg()],
            **measured,
            **environment,
        },
    )
    print(f"Written: {path}")
    return path


def _describe_source() -> str | None:
    """Return the commit of the source, and whether it was changed; None outside a clone."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        told = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return told.stdout.strip()


def _without_output(arguments: Sequence[str]) -> list[str]:
    """Return the arguments without the result's folder, which does not affect the result."""
    kept = [one for one in arguments if not one.startswith("--output=")]
    if "--output" in kept:
        at = kept.index("--output")
        del kept[at : at + 2]
    return kept


def _without_folder(argument: str) -> str:
    """Return only the name of an absolute path, also after an option's =: its folder is private.

    Example:
        >>> [_without_folder(one) for one in ("/home/me/run", "--before=/home/me/src", "a/b")]
        ['run', '--before=src', 'a/b']
    """
    option, equals, path = argument.rpartition("=")
    return f"{option}{equals}{Path(path).name}" if Path(path).is_absolute() else argument


def _slug(processor: str) -> str:
    """Return a processor's name as part of a file name.

    Example:
        >>> _slug("Intel(R) Xeon(R) Processor @ 2.10GHz")
        'intel-xeon-processor-2-10ghz'
    """
    plain = re.sub(r"\((r|tm|c)\)", "", processor.lower())
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-") or "unknown"
