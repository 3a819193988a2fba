"""The sizes to which packs are filled, so that few of them have to be recorded.

Before the passes of a size are replayed, they run once eagerly and once to be recorded, which for
BERT-base took about as long as 28 replays with 2,048 tokens. So a pack that fits into a size
already known is filled up to it. The padding costs something, too: it is counted for each smaller
size that would have done, and once it is worth a recording, such a size is added. Nothing need be
known of the packs to come; this is how to decide when to buy skis that can be rented.

Shapes: S rows of a pack and N tokens, both including padding.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from bertfit.data.batching import Pack

TOKENS_STEP, ROWS_STEP = 128, 8
"""A size's tokens are a multiple of the first, its rows of the second if it has padding: a GPU's
matmuls and attention use tiles of 128 tokens, and rows cost something only in the head. The step is
256 above 8,192 tokens and 512 above 16,384, to limit the sizes."""
_STEPS_DOUBLE_AT = (8_192, 16_384)
_WORTH = 2**25
"""Tokens of padding that are worth a recording, times the tokens of the size: 16,384 of them for a
size of 2,048 tokens, 2,048 for one of 16,384. Recording takes the CPU the same time for each, but
running eagerly delays small packs more than large ones."""


class PackSize(NamedTuple):
    """What the recorded passes depend on; smaller ones come first."""

    num_tokens: int
    num_rows: int
    longest: int
    """Tokens of the longest row, rounded up."""
    is_first: bool
    """Whether the pack is the first of its step, so that its gradients overwrite the old ones."""

    @classmethod
    def of(cls, pack: Pack, *, is_first: bool) -> PackSize:
        """Return the size of a pack as it is."""
        longest = int(np.diff(pack.cu_seqlens).max())
        return cls(pack.num_tokens, len(pack.cu_seqlens) - 1, _round_up(longest), is_first)

    def takes(self, other: PackSize) -> bool:
        """Return whether rows of padding, of at least one token each, fill a pack to this size."""
        rows, tokens = self.num_rows - other.num_rows, self.num_tokens - other.num_tokens
        return rows <= tokens <= rows * self.longest and other.longest <= self.longest

    def is_like(self, other: PackSize) -> bool:
        """Return whether the same kernels compute both; attention's are others for long texts."""
        are_short = [size.longest <= TOKENS_STEP for size in (self, other)]
        return self.is_first == other.is_first and are_short[0] == are_short[1]


class PackSizes:
    """Chooses the sizes of packs, one pack after the other."""

    def __init__(self) -> None:
        """Start without any."""
        self.worth: float = _WORTH
        """Tokens of padding for which a size is added, times the tokens of that size."""
        self._seen: set[PackSize] = set()
        self._wasted: Counter[PackSize] = Counter()

    def choose(
        self,
        pack: Pack,
        *,
        is_first: bool,
        known: Collection[PackSize],
        may_add: bool = True,
    ) -> PackSize:
        """Return the size to which a pack is to be filled.

        Args:
            pack: Some rows of a step, without padding.
            is_first: See `PackSize`.
            known: Sizes whose passes were run already.
            may_add: Whether another one may become known.
        """
        bare = PackSize.of(pack, is_first=is_first)
        own = _round_size(bare)
        self._seen.add(own)
        fitting = [size for size in known if size.is_like(own) and size.takes(bare)]
        if not fitting:
            return own
        chosen = min(fitting)
        smaller = [
            size
            for size in self._seen
            if size.num_tokens < chosen.num_tokens and size.is_like(own) and size.takes(bare)
        ]
        if not smaller or not may_add:
            return chosen
        for size in smaller:
            self._wasted[size] += chosen.num_tokens - size.num_tokens
        best = max(smaller, key=lambda size: self._wasted[size])
        if self._wasted[best] * best.num_tokens <= self.worth:
            return chosen
        for size in [size for size in self._wasted if size < chosen and size.is_like(best)]:
            del self._wasted[size]  # from now on, less is wasted
        return best


def _round_size(size: PackSize) -> PackSize:
    """Return the smallest size for a pack of this one: the same, or one with rows of padding."""
    step = TOKENS_STEP * 2 ** sum(size.num_tokens > limit for limit in _STEPS_DOUBLE_AT)
    # If no row had two tokens, kernels would leave the gradients of the last layer elsewhere.
    has_longer = size.num_tokens > size.num_rows
    if size.num_tokens % step == 0 and has_longer:
        return size
    num_added = ROWS_STEP - size.num_rows % ROWS_STEP
    least = num_added + (not has_longer)
    num_fillers = least + -(size.num_tokens + least) % step
    return PackSize(
        size.num_tokens + num_fillers,
        size.num_rows + num_added,
        max(size.longest, _round_up(-(-num_fillers // num_added))),
        size.is_first,
    )


def _round_up(longest: int) -> int:
    return -(-longest // TOKENS_STEP) * TOKENS_STEP
