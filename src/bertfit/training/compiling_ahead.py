"""Starts compiling the kernels of a GPU training in a second process, before torch is imported.

Triton compiles for a type of GPU and caches the result on disk. The first training of its kind
waits several seconds for this, and a thread would not help, because Triton holds the GIL while it
compiles. The second process (`kernel_compiling`) needs no GPU. The training then finds its kernels
in the cache. Anything missing there is compiled as usual, so nothing depends on the second process.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
import hashlib
import importlib.util
import json
import os
import signal
import subprocess
from pathlib import Path

from bertfit.config import TrainSettings
from bertfit.second_process import start_module

_LEAST_CAPABILITY = 80
"""As in `modeling.kernels.launching`, which imports torch."""
_MAJOR, _MINOR = 75, 76
"""What the driver calls the two parts of a compute capability (`CUdevice_attribute`)."""
_TRAINING = Path(__file__).parent
_KERNELS = _TRAINING.parent / "modeling" / "kernels"
"""Folders with the source of the optimizer kernels and of the layer kernels."""

_started: dict[Path, subprocess.Popen[bytes]] = {}
"""By the mark of its job."""


def start_compiling(settings: TrainSettings) -> subprocess.Popen[bytes] | None:
    """Start the second process, if the training will need kernels that are not in the cache.

    It ends on its own, or with this process. Return it, also if this process started it before, or
    None if none is needed, or no longer.

    Args:
        settings: Settings of the training.
    """
    capability = _find_capability_wanted(settings)
    if capability is None:
        return None
    job = json.dumps(
        {"model": settings.model, "dropout": settings.dropout, "capability": capability}
    )
    mark = _find_mark(job)
    try:
        mark.stat()  # from Python 3.14 on, `exists` hides errors
    except FileNotFoundError:
        pass
    except OSError:  # a cache that cannot be used, such as in another user's home
        return None
    else:
        return None
    if mark in _started:
        return _started[mark]
    nothing = subprocess.DEVNULL
    process = start_module(
        "bertfit.training.kernel_compiling",
        *(job, str(mark)),
        stdin=nothing,
        stdout=nothing,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"},
        start_new_session=True,  # so that its forks end with it
    )
    if process is None:
        return None
    atexit.register(_end, process)
    _started[mark] = process
    return process


def _find_capability_wanted(settings: TrainSettings) -> int | None:
    """Return the compute capability to compile for, or None if no kernels will be used."""
    kind, _, index = settings.device.partition(":")
    will_be_used = (
        kind in {"auto", "cuda"}
        and settings.dtype in {"auto", "bfloat16"}
        and settings.fast_path == "auto"
        and settings.packing != "off"
        and _find_triton() is not None
    )
    if not will_be_used:
        return None
    capability = _ask_driver(int(index) if index.isdecimal() else 0)
    return capability if capability is not None and capability >= _LEAST_CAPABILITY else None


@functools.cache
def _ask_driver(index: int) -> int | None:
    """Return the compute capability of an NVIDIA GPU, such as 90; None if there is none.

    The driver answers at once, and torch would have to be imported first.
    """
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    gpu, major, minor = (ctypes.c_int() for _ in range(3))
    answers = (
        driver.cuInit(0)
        or driver.cuDeviceGet(ctypes.byref(gpu), index)
        or driver.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, gpu)
        or driver.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, gpu)
    )
    return None if answers else 10 * major.value + minor.value


def _find_triton() -> Path | None:
    """Return Triton's first file, which says its version, without importing it.

    Its distribution has several names (triton, pytorch-triton), so its metadata may not be found.
    """
    found = importlib.util.find_spec("triton")
    return None if found is None or found.origin is None else Path(found.origin)


def _find_mark(job: str) -> Path:
    """Return the file in Triton's cache whose presence marks a job as done."""
    digest = hashlib.blake2b(job.encode(), digest_size=10)
    triton = _find_triton()
    assert triton is not None
    of_steps = [path for kind in ("adamw", "embedding") for path in _TRAINING.glob(f"*{kind}*.py")]
    for source in (triton, *sorted([*_KERNELS.glob("*.py"), *of_steps])):
        digest.update(source.read_bytes())
    home = os.environ.get("TRITON_HOME") or os.path.expanduser("~")  # noqa: PTH111 (never fails)
    cache = os.environ.get("TRITON_CACHE_DIR") or Path(home, ".triton", "cache")
    return Path(cache, f"bertfit_{digest.hexdigest()}")


def _end(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    process.wait()
