"""Whether Triton kernels are available on a device, and how many programs fill it."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
from collections.abc import Mapping
from contextlib import AbstractContextManager
from types import MappingProxyType
from typing import Any

import torch

from bertfit.errors import ModelError, find_first_line, is_out_of_memory

_LEAST_CAPABILITY = (8, 0)
_PROGRAMS_PER_PROCESSOR, _FEWER_PROGRAMS, _FEW_ROWS = 4, 2, 4096
"""With few rows, summing is quick, but folding the programs' partial sums costs the same."""
FOLDED_ROWS = 128
"""Programs whose partial sums are folded in one round."""
LAUNCH_OPTIONS: Mapping[str, Any] = MappingProxyType({"enable_fp_fusion": True})
"""Of all kernels. A product and a sum may become one instruction, which rounds once: Triton 3.9
warns at each launch that does not say so, and announces that 3.10 does it only where asked."""
_PROGRAMS_ON_A_CPU = 3
"""In Triton's interpreter, for tests: more than one, and not a divisor of the tests' sizes."""


@functools.lru_cache
def find_kernel_obstacle(device: torch.device) -> str | None:
    """Return why Triton kernels are not available on a device, or None if they are."""
    if device.type != "cuda":
        return "they are for a CUDA GPU"
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    if torch.cuda.get_device_capability(device) < _LEAST_CAPABILITY:
        return "this GPU is older than bfloat16 (Ampere)"
    return _find_failure(device)


def _find_failure(device: torch.device) -> str | None:
    """Return how Triton fails to compile and launch a small kernel, or None if it succeeds.

    Triton builds a C extension for that, so it needs a compiler and Python's headers.
    """
    from bertfit.modeling.kernels.elementwise import activate  # it imports this module

    try:
        with on_device(device):
            activate(torch.ones(1, 8, device=device))
            torch.cuda.synchronize(device)
    except Exception as error:  # noqa: BLE001 (Triton's have no common base class)
        return f"Triton fails here: {name_failure(error, device)}"
    return None


def name_failure(error: Exception, device: torch.device) -> str:
    """Return the type and first line of an error that kernels raised on a device.

    Raises:
        RuntimeError: Memory ran out; the error itself.
        ModelError: The GPU does nothing more for this process, as after a read of wrong memory.
    """
    if is_out_of_memory(error):
        raise error
    told = f"{type(error).__name__}: {find_first_line(error)}"
    if not _still_works(device):
        raise ModelError(
            f"bertfit's Triton kernels made {device} unusable for this process ({told})",
            hint="Without them: train with --set fast_path=off, or use --dtype float32.",
        ) from error
    return told


def _still_works(device: torch.device) -> bool:
    """Return whether a device still computes."""
    try:
        return torch.ones(1, device=device).item() == 1
    except RuntimeError:
        return False


def on_device(device: torch.device) -> AbstractContextManager[object]:
    """Return a context in which kernels launch on a device, which need not be the current one."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


def count_programs(device: torch.device, num_rows: int) -> int:
    """Return how many programs share the rows of a tensor if each sums its own."""
    if device.type != "cuda":
        return _PROGRAMS_ON_A_CPU
    is_few = num_rows <= _FEW_ROWS
    programs = _count_processors(device) * (_FEWER_PROGRAMS if is_few else _PROGRAMS_PER_PROCESSOR)
    # The partial sums of an H100's last 8 or 16 programs would cost a whole round of folding.
    left_over = programs % FOLDED_ROWS
    return programs - left_over if left_over < programs // 20 else programs


@functools.lru_cache
def _count_processors(device: torch.device) -> int:
    processors: int = torch.cuda.get_device_properties(device).multi_processor_count
    return processors
