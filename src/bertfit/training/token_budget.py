"""How many tokens a micro-batch may have if nobody set it; measured where that pays.

What is learned does not depend on the budget (see `training.loop`); time and memory do.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

DEFAULT_TOKENS = 2048
"""On a CPU as quick as 4,096 or quicker (docs/performance.md); a GPU's measuring starts here."""
_COMPILED_TOKENS, _COMPILED_NUMBERS = 8192, 3 * 2**20
"""The most tokens, and numbers of a hidden state, where operators are compiled and keep no weights
of attention: 8,192 tokens of MiniLM, 4,096 of BERT-base were the quickest (docs/performance.md)."""
_MOST_TOKENS = 2**18
_CLEARLY_FASTER = 1.03
"""A doubled budget is taken for a gain of at least 3 %: below, it costs memory for nothing."""


def starting_budget(asked: int | str | None) -> int:
    """Return the tokens per micro-batch that a setting means before anything was measured."""
    return asked if isinstance(asked, int) else DEFAULT_TOKENS


def default_tokens(hidden_size: int, *, is_compiled: bool) -> int:
    """Return the tokens per micro-batch on a CPU where none were asked for.

    Args:
        hidden_size: Numbers per token.
        is_compiled: Whether compiled operators do the arithmetic.
    """
    if not is_compiled:
        return DEFAULT_TOKENS
    return max(DEFAULT_TOKENS, min(_COMPILED_TOKENS, _COMPILED_NUMBERS // hidden_size))


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
