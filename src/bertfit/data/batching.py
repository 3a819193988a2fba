"""Which rows form a step, and how a step is cut and padded.

A step always has the same number of rows, so what is learned does not depend on the token budget,
which only decides how a step is cut into micro-batches. Rows of like length stand together, so
that little padding is needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from bertfit.data.encoding import EncodedTexts

_POOL_STEPS = 50
"""Rows are sorted by length within a random pool of this many steps: enough to take padding below
a few per cent, few enough that the batches stay random."""


@dataclass(frozen=True, slots=True)
class Batch:
    """B rows, padded to the longest of them."""

    token_ids: np.ndarray
    """(B, T) int64."""
    attention_mask: np.ndarray | None
    """(B, T) int64, 1 where a token is; None where nothing is padded."""
    indices: np.ndarray
    """(B,) the rows' places in the data set."""

    @property
    def num_tokens(self) -> int:
        """Tokens without padding."""
        size = self.token_ids.size
        return size if self.attention_mask is None else int(self.attention_mask.sum())


def plan_epoch(lengths: np.ndarray, batch_size: int, *, seed: int, epoch: int) -> list[np.ndarray]:
    """Return the rows of each step of an epoch: every row once, `batch_size` to a step.

    The plan depends on the lengths, the seed and the epoch alone. The last step in the plan's
    making may be smaller; its place in the epoch is random, like that of any other.

    Args:
        lengths: (n,) tokens per row.
        batch_size: Rows per step.
        seed: Seed of the run.
        epoch: 0-based epoch.
    """
    generator = np.random.default_rng((seed, epoch))
    order = generator.permutation(len(lengths))
    pool_size = batch_size * _POOL_STEPS
    steps: list[np.ndarray] = []
    for start in range(0, len(order), pool_size):
        pool = order[start : start + pool_size]
        pool = pool[np.argsort(lengths[pool], kind="stable")]
        steps.extend(pool[at : at + batch_size] for at in range(0, len(pool), batch_size))
    return [steps[place] for place in generator.permutation(len(steps))]


def cut_by_tokens(
    indices: Sequence[int] | np.ndarray, lengths: np.ndarray, max_tokens: int
) -> list[np.ndarray]:
    """Cut rows into micro-batches of like length with at most `max_tokens` tokens after padding.

    A row longer than the budget stands alone. The longest rows come first, so that a batch that
    does not fit into memory fails at once.

    Example:
        >>> cut_by_tokens([0, 1, 2], np.array([4, 2, 2]), 4)
        [array([0]), array([1, 2])]
    """
    rows = np.asarray(indices)
    rows = rows[np.argsort(-lengths[rows], kind="stable")]
    pieces = []
    start = 0
    while start < len(rows):
        num_rows = max(1, max_tokens // max(int(lengths[rows[start]]), 1))
        pieces.append(rows[start : start + num_rows])
        start += num_rows
    return pieces


def pad_rows(encoded: EncodedTexts, indices: np.ndarray, *, pad_id: int) -> Batch:
    """Gather rows into one (B, T) array, padded on the right to the longest."""
    starts, ends = encoded.offsets[indices], encoded.offsets[indices + 1]
    lengths = ends - starts
    longest = int(lengths.max())
    token_ids = np.full((len(indices), longest), pad_id, dtype=np.int64)
    for row, (start, end) in enumerate(zip(starts, ends, strict=True)):
        token_ids[row, : end - start] = encoded.token_ids[start:end]
    if int(lengths.min()) == longest:
        return Batch(token_ids, None, indices)
    mask = (np.arange(longest)[None, :] < lengths[:, None]).astype(np.int64)
    return Batch(token_ids, mask, indices)


def iter_batches(
    encoded: EncodedTexts, indices: Sequence[int] | np.ndarray, *, max_tokens: int, pad_id: int
) -> Iterator[Batch]:
    """Yield the micro-batches of `indices`, longest rows first."""
    for piece in cut_by_tokens(indices, encoded.lengths, max_tokens):
        yield pad_rows(encoded, piece, pad_id=pad_id)
