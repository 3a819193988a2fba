"""Output tensors for operators, in a few sizes.

Texts of many lengths make activations of as many sizes, and memory freed by one rarely fits the
next, so it fragments. Sizes are rounded up to three leading bits, so that they recur, at the cost
of at most a seventh more memory.
"""

from __future__ import annotations

import math

import torch


def make_room(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    """Return a contiguous tensor of that shape on the CPU, not filled."""
    size = math.prod(shape)
    return torch.empty(round_size(size), dtype=dtype)[:size].view(*shape)


def make_room_like(values: torch.Tensor) -> torch.Tensor:
    """Return a contiguous tensor of the shape and type of `values`, not filled."""
    return make_room(*values.shape, dtype=values.dtype)


def round_size(size: int) -> int:
    """Round up to a number of which only the first three bits are set.

    Example:
        >>> [round_size(size) for size in (0, 1, 7, 8, 9, 17, 1000)]
        [0, 1, 7, 8, 10, 20, 1024]
    """
    unit = 1 << max(size.bit_length() - 3, 0)
    return -(-size // unit) * unit
