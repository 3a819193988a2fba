"""How many tokens a micro-batch may have if it was not set; measured if that pays.

The result of training does not depend on the budget (see `training.loop`); time and memory do.
"""

from __future__ import annotations

from collections.abc import Callable

from bertfit.errors import is_out_of_memory
from bertfit.inference.scoring import TOKENS_ON_GPU

DEFAULT_TOKENS = 2048
"""At least as fast as 4,096 on a CPU (docs/performance.md); on a GPU the search starts here."""
_COMPILED_TOKENS, _COMPILED_NUMBERS = 8192, 3 * 2**20
"""Limits on tokens, and on numbers in a hidden state, with compiled operators, which keep no
attention weights: 8,192 tokens of MiniLM, 4,096 of BERT-base were fastest (no result was kept)."""
_MOST_TOKENS = 2**18
_CLEARLY_FASTER = 1.03
"""The budget is doubled for a gain of at least 3 %: less is not worth the memory."""


def starting_budget(asked: int | str | None) -> int:
    """Return the tokens per micro-batch that a setting stands for before any measurement."""
    return asked if isinstance(asked, int) else DEFAULT_TOKENS


def scoring_budget(of_steps: int, asked: int | str | None, *, on_gpu: bool) -> int:
    """Return the tokens per micro-batch in validation: on a GPU, more than a small step has.

    Args:
        of_steps: Tokens per micro-batch in training; fewer than at first if memory ran out.
        asked: The setting.
        on_gpu: Whether the device is a CUDA GPU.
    """
    ran_out = of_steps < starting_budget(asked)
    return max(of_steps, TOKENS_ON_GPU) if on_gpu and not ran_out else of_steps


def default_tokens(hidden_size: int, *, is_compiled: bool) -> int:
    """Return the default tokens per micro-batch on a CPU.

    Args:
        hidden_size: Numbers per token.
        is_compiled: Whether compiled operators are used.
    """
    if not is_compiled:
        return DEFAULT_TOKENS
    return max(DEFAULT_TOKENS, min(_COMPILED_TOKENS, _COMPILED_NUMBERS // hidden_size))


def find_fastest_budget(rate_of: Callable[[int], float], *, enough: int) -> int:
    """Return the budget, doubled from 2,048 while a step fits into memory and gets faster.

    Args:
        rate_of: Takes a step with a budget and returns its tokens per second; raises RuntimeError
            if memory runs out.
        enough: The most tokens that a step has, padding included; a larger budget would
            change nothing.
    """
    best, best_rate = DEFAULT_TOKENS, _rate_within_memory(rate_of, DEFAULT_TOKENS)
    if best_rate is None:
        return best  # the loop halves it as needed
    while best < min(enough, _MOST_TOKENS):
        rate = _rate_within_memory(rate_of, 2 * best)
        if rate is None or rate < _CLEARLY_FASTER * best_rate:
            break
        best, best_rate = 2 * best, rate
    return best


def _rate_within_memory(rate_of: Callable[[int], float], max_tokens: int) -> float | None:
    """Return the tokens per second with a budget, or None if a step does not fit into memory."""
    try:
        return rate_of(max_tokens)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    return None
