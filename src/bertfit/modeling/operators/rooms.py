"""Output tensors for operators, allocated in a small set of sizes.

Texts of many lengths produce activations of many sizes; memory freed by one rarely fits the next,
so it fragments. Rounding sizes up to three leading bits makes them recur, at the cost of at most a
quarter more memory.
"""

from __future__ import annotations

import math

import torch


def make_room(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    """Return an uninitialized contiguous tensor of this shape on the CPU."""
    size = math.prod(shape)
    # Resized, it is no view, which a model could not change in place (Longformer its queries).
    return torch.empty(round_size(size), dtype=dtype).resize_(shape)


def make_room_like(values: torch.Tensor) -> torch.Tensor:
    """Return an uninitialized contiguous tensor with the shape and dtype of `values`."""
    return make_room(*values.shape, dtype=values.dtype)


def round_size(size: int) -> int:
    """Round up to a number with at most three significant bits.

    Example:
        >>> [round_size(size) for size in (0, 1, 7, 8, 9, 17, 1000)]
        [0, 1, 7, 8, 10, 20, 1024]
    """
    unit = 1 << max(size.bit_length() - 3, 0)
    return -(-size // unit) * unit
