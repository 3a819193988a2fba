"""Autograd functions for attention, using the compiled operators.

All tensors are bfloat16 on the CPU. The library must be loaded first.

Shapes: B texts, H heads, Q queries, T keys, head size D.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from typing import Any

import torch

from bertfit.modeling.gradients import draw_seed
from bertfit.modeling.operators.loading import BLOCK, call
from bertfit.modeling.operators.rooms import make_room, make_room_like

_LOWEST = -1e38
_LOG2_E = math.log2(math.e)

_Long = ctypes.c_int64


class _Sizes(ctypes.Structure):
    _fields_ = tuple((name, _Long) for name in ("texts", "heads", "queries", "keys", "width"))


class _Mask(ctypes.Structure):
    _fields_ = (("numbers", ctypes.c_void_p), ("text", _Long), ("query", _Long))


class Attention(ctypes.Structure):
    """Mirrors `struct Attention` in attention.h."""

    _fields_ = (
        ("sizes", _Sizes),
        ("mask", _Mask),
        ("scale", ctypes.c_float),
        ("rate", ctypes.c_float),
        ("seed", ctypes.c_uint64),
    )


def attend(
    query_BHQD: torch.Tensor,
    key_BHTD: torch.Tensor,
    value_BHTD: torch.Tensor,
    mask: torch.Tensor | None,
    *,
    scaling: float,
    dropout: float,
) -> torch.Tensor:
    """Return softmax(Q K' · scaling + mask) V as (B, Q, H, D), with dropout of the weights.

    Args:
        query_BHQD: Queries.
        key_BHTD: Keys.
        value_BHTD: Values.
        mask: Added to the scores; (1 or B, 1, 1 or Q, T).
        scaling: Factor of the scores.
        dropout: Probability of dropping a weight, in [0, 1).
    """
    states = (states.transpose(1, 2) for states in (query_BHQD, key_BHTD, value_BHTD))
    padded = pad_mask(mask, num_keys=key_BHTD.shape[2])
    attended: torch.Tensor = _apply_attend(*states, padded, scaling, dropout)
    return attended


class Attend(torch.autograd.Function):
    """Attention of all heads, with dropout of the weights."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 (torch's context has no public type)
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        scaling: float,
        dropout: float,
    ) -> torch.Tensor:
        """Run the forward pass."""
        query, key, value = query.contiguous(), key.contiguous(), value.contiguous()
        num_texts, num_queries, num_heads, width = query.shape
        output = make_room_like(query)
        log_sums = make_room(num_texts, num_heads, num_queries, dtype=torch.float32)
        sizes = (num_texts, num_heads, num_queries, key.shape[1], width)
        asked = describe_attention(sizes, mask, scaling=scaling, dropout=dropout)
        call("attention_forward", ctypes.byref(asked), query, key, value, output, log_sums)
        ctx.save_for_backward(query, key, value, output, log_sums, mask)
        ctx.asked = asked
        return output

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # noqa: ANN401 (as above)
        """Run the backward pass."""
        *states, log_sums, _mask = ctx.saved_tensors  # the mask is saved to stay alive
        gradients = [make_room_like(of) for of in states[:3]]
        call(
            "attention_backward", ctypes.byref(ctx.asked), *states, gradient.contiguous(),
            log_sums, *gradients,
        )  # fmt: skip
        return (*gradients, None, None, None)


def describe_attention(
    sizes: tuple[int, int, int, int, int],
    mask: torch.Tensor | None,
    *,
    scaling: float,
    dropout: float = 0.0,
) -> Attention:
    """Return the operators' arguments, with a pointer to the mask, which must be kept alive.

    Args:
        sizes: B, H, Q, T and D.
        mask: As returned by `pad_mask`.
        scaling: Factor of the scores.
        dropout: Probability of dropping a weight, in [0, 1).
    """
    seed = draw_seed() if dropout else 0
    return Attention(_Sizes(*sizes), _describe_mask(mask), scaling, dropout, seed)


def pad_mask(mask: torch.Tensor | None, *, num_keys: int) -> torch.Tensor | None:
    """Return the mask in float32 as (1 or B, 1 or Q, T rounded up to 32), or None if not needed."""
    num_missing = -num_keys % BLOCK
    if mask is None:
        if not num_missing:
            return None
        mask = torch.zeros(1, 1, 1, num_keys)
    rows = mask.float().squeeze(1) * _LOG2_E  # the operator computes powers of 2
    return torch.nn.functional.pad(rows, (0, num_missing), value=_LOWEST).contiguous()


def _describe_mask(mask: torch.Tensor | None) -> _Mask:
    if mask is None:
        return _Mask(None, 0, 0)
    text, query = (
        stride if size > 1 else 0
        for size, stride in zip(mask.shape[:2], mask.stride()[:2], strict=True)
    )
    return _Mask(mask.data_ptr(), text, query)


_apply_attend: Callable[..., torch.Tensor] = Attend.apply
