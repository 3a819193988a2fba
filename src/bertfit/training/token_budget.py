"""How many tokens a micro-batch may have: measured where that is worth it, less where memory ends.

What is learned does not depend on the budget (see `training.loop`); time and memory do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

DEFAULT_TOKENS = 2048
"""On a CPU as quick as 4,096 or quicker (docs/performance.md); a GPU's measuring starts here."""
_MOST_TOKENS = 2**18
_CLEARLY_FASTER = 1.03
"""A doubled budget is taken for a gain of at least 3 %: below, it costs memory for nothing."""


@dataclass(slots=True)
class TokenBudget:
    """Tokens per micro-batch, which shrink for good when memory runs out."""

    tokens: int

    def halve(self, longest: int) -> bool:
        """Halve the budget, though not below the longest row; return whether that lowered it."""
        smaller = max(self.tokens // 2, longest)
        if smaller >= self.tokens:
            return False
        self.tokens = smaller
        return True


def find_fastest_budget(rate_of: Callable[[int], float], *, enough: int) -> int:
    """Return the budget, doubled from 2,048 while a step fits into memory and gets faster.

    Args:
        rate_of: Takes a step with a budget and returns its tokens a second; raises
            `torch.OutOfMemoryError` where the step does not fit.
        enough: Tokens that a step has at most; a larger budget would change nothing.
    """
    best = DEFAULT_TOKENS
    try:
        best_rate = rate_of(best)
    except torch.OutOfMemoryError:
        return best  # the loop halves it as far as it must
    while best < min(enough, _MOST_TOKENS):
        try:
            rate = rate_of(2 * best)
        except torch.OutOfMemoryError:
            break
        if rate < _CLEARLY_FASTER * best_rate:
            break
        best, best_rate = 2 * best, rate
    return best
