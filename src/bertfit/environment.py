"""The versions and the hardware with which a run was made, or something was measured."""

from __future__ import annotations

import platform
from importlib import metadata
from pathlib import Path
from typing import Any

_PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "scikit-learn", "safetensors")
_OPTIONAL = ("triton",)
"""Recorded where they are installed: Triton comes with torch for CUDA."""


def describe_environment() -> dict[str, Any]:
    """Return versions and hardware, as recorded in a run."""
    import joblib

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
            # Those that this process may use: affinity and a container's limit are respected.
            "num_cores": joblib.cpu_count(),
            "system": platform.system(),
        },
    }


def _find_version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _processor_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
