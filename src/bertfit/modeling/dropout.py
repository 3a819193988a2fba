"""Dropout with cheap random numbers, for a CPU.

torch draws a floating-point number for every element, on one core. Here, four elements share one
64-bit word: each compares its own 16 bits with a threshold, so the rate is accurate to 1/65,536.
torch's generator draws only the first block of words; each further block is derived from the
previous one, lane by lane, by three shifts that run on all cores and stay in the cache.

Sources: Srivastava et al. 2014, JMLR 15, section 4 (dropout itself, scaled while training);
Marsaglia 2003, Journal of Statistical Software 8(14), section 3 (the shifts 13, 7 and 17).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from bertfit.modeling.compilation import leave_out

_LEVELS = 2**16
_ELEMENTS_PER_WORD = 4
_LANES = 2**16
"""Words per block: half a megabyte, which fits into a core's cache with its shifted copy."""


class CheapDropout(torch.nn.Dropout):
    """Drop-in for `torch.nn.Dropout` with the same rate and scale and cheaper random numbers."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 (torch's own name)
        """Return the input with elements zeroed with probability `p`, the rest scaled up."""
        if not self.training or self.p == 0.0:
            return input
        return _drop(input, self.p)


def draw_mask(like: torch.Tensor, rate: float) -> torch.Tensor:
    """Return a mask with the shape and dtype of `like`: 0 with probability `rate`, else 1.

    Args:
        like: Any floating-point tensor on the CPU.
        rate: In [0, 1); accurate to 1/65,536.
    """
    num_words = -(-like.numel() // _ELEMENTS_PER_WORD)
    num_lanes = min(num_words, _LANES)
    # With an explicit lower bound: plain random_() never sets the sign bit.
    words = torch.empty(num_lanes, dtype=torch.int64).random_(torch.iinfo(torch.int64).min, None)
    shifted = torch.empty_like(words)
    threshold = round(rate * _LEVELS) - _LEVELS // 2
    mask = torch.empty(num_words * _ELEMENTS_PER_WORD, dtype=like.dtype)
    for place in range(0, num_words, _LANES):
        if place:
            _shift_on(words, shifted)
        block = mask[place * _ELEMENTS_PER_WORD : (place + num_lanes) * _ELEMENTS_PER_WORD]
        # Written as numbers directly: creating booleans first costs more than the comparison.
        torch.ge(words.view(torch.int16)[: len(block)], threshold, out=block)
    return mask[: like.numel()].view(like.shape)


def _shift_on(words: torch.Tensor, shifted: torch.Tensor) -> None:
    """Advance each word to the next of its sequence (xorshift64); `shifted` is scratch."""
    words ^= torch.bitwise_left_shift(words, 13, out=shifted)
    # torch's right shift is arithmetic; the copies of the sign bit are masked out.
    torch.bitwise_right_shift(words, 7, out=shifted)
    words ^= torch.bitwise_and(shifted, 2**57 - 1, out=shifted)
    words ^= torch.bitwise_left_shift(words, 17, out=shifted)


def exchange_dropout(model: torch.nn.Module) -> int:
    """Replace every `torch.nn.Dropout` by `CheapDropout`; return how many were replaced."""
    num_exchanged = 0
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is torch.nn.Dropout:
                setattr(module, name, CheapDropout(child.p).train(child.training))
                num_exchanged += 1
    return num_exchanged


class _Drop(torch.autograd.Function):
    """Multiplies by a mask of zeros and ones, then by the exact scale.

    If the mask contained the scale, bfloat16 would round it (1.1111 to 1.1094), making everything
    that passes through 0.15 % too small.
    """

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, rate: float) -> torch.Tensor:  # noqa: ANN401 (torch's context has no public type)
        mask = draw_mask(values, rate)
        ctx.save_for_backward(mask)
        ctx.scale = 1.0 / (1.0 - rate)
        return (values * mask).mul_(ctx.scale)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:  # noqa: ANN401 (as above)
        (mask,) = ctx.saved_tensors
        return (grad * mask).mul_(ctx.scale), None


_drop: Callable[[torch.Tensor, float], torch.Tensor] = leave_out(_Drop.apply)
