"""The versions and the hardware with which a run was made, or something was measured."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

_PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "scikit-learn", "safetensors")
_CPUINFO = Path("/proc/cpuinfo")
_OPTIONAL = ("triton",)
"""Recorded where they are installed: Triton comes with torch for CUDA."""


def describe_environment() -> dict[str, Any]:
    """Return versions and hardware, as recorded in a run."""
    return {
        "versions": {
            "bertfit": metadata.version("bertfit"),
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in _PACKAGES},
            **{name: found for name in _OPTIONAL if (found := _find_version(name)) is not None},
        },
        "hardware": {
            "machine": platform.machine(),
            "processor": _processor_name(),
            "num_cores": count_cores(),
            "system": platform.system(),
        },
    }


def count_cores() -> int:
    """Return how many cores this process may use, by its affinity and a container's limit too."""
    import joblib

    try:
        return int(joblib.cpu_count())
    except ValueError:  # LOKY_MAX_CPU_COUNT is no number
        affinity = getattr(os, "sched_getaffinity", None)  # macOS and Windows have none
        return len(affinity(0)) if affinity else os.cpu_count() or 1


def _find_version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _processor_name() -> str:
    try:
        lines = _CPUINFO.read_text(encoding="utf-8").splitlines()
    except OSError:  # only Linux has it
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
