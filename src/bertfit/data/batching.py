"""Assign rows to steps, and cut each step into micro-batches, padded or packed.

A step always has the same number of rows. The token budget only decides how a step is cut, so it
does not affect what is learned. Rows of similar length are batched together to keep padding low;
a pack concatenates its rows and needs no padding.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from bertfit.data.encoding import EncodedTexts

_POOL_STEPS = 50
"""Rows are sorted by length within a random pool of this many steps: enough to keep padding below
a few per cent, few enough to keep the batches random."""


@dataclass(frozen=True, slots=True)
class Batch:
    """B rows, padded to the longest."""

    token_ids: np.ndarray
    """(B, T) int64."""
    attention_mask: np.ndarray | None
    """(B, T) int64, 1 for tokens and 0 for padding; None if nothing is padded."""
    indices: np.ndarray
    """(B,) indices of the rows in the data set."""

    @property
    def num_tokens(self) -> int:
        """Number of tokens, excluding padding."""
        size = self.token_ids.size
        return size if self.attention_mask is None else int(self.attention_mask.sum())

    @property
    def num_cells(self) -> int:
        """Number of tokens, including padding."""
        return self.token_ids.size


@dataclass(frozen=True, slots=True)
class Pack:
    """S rows, concatenated: N tokens and no padding."""

    token_ids: np.ndarray
    """(N,) int64."""
    cu_seqlens: np.ndarray
    """(S + 1,) int32: row s is token_ids[cu_seqlens[s]:cu_seqlens[s + 1]]."""
    positions: np.ndarray
    """(N,) int64: 0, 1, 2, … within each row."""
    indices: np.ndarray
    """(S,) indices of the rows in the data set."""

    @property
    def num_tokens(self) -> int:
        """N."""
        return len(self.token_ids)

    @property
    def num_cells(self) -> int:
        """N: there is no padding."""
        return len(self.token_ids)


class PlannedEpochs:
    """The rows of each step of each epoch, planned when asked for: patience may end them early."""

    def __init__(self, lengths: np.ndarray, batch_size: int, *, seed: int, num_epochs: int) -> None:
        """Plan `num_epochs` epochs; the other arguments are those of `plan_epoch`."""
        self.num_steps = -(-len(lengths) // batch_size)
        """Steps of each epoch."""
        self._num_epochs = num_epochs
        self._plan = functools.partial(plan_epoch, lengths, batch_size, seed=seed)

    def __len__(self) -> int:
        """Return the number of epochs."""
        return self._num_epochs

    def __getitem__(self, epoch: int) -> list[np.ndarray]:
        """Return the rows of each step of an epoch."""
        return self._plan(epoch=range(self._num_epochs)[epoch])

    def __iter__(self) -> Iterator[list[np.ndarray]]:
        """Plan one epoch after the other."""
        return (self._plan(epoch=epoch) for epoch in range(self._num_epochs))


def plan_epoch(lengths: np.ndarray, batch_size: int, *, seed: int, epoch: int) -> list[np.ndarray]:
    """Return the rows of each step of an epoch: every row once, `batch_size` per step.

    The plan depends only on the lengths, the seed and the epoch. One step may be smaller than the
    others; like all steps, it is at a random position in the epoch.

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
    indices: Sequence[int] | np.ndarray, lengths: np.ndarray, max_tokens: int, *, pads: bool = True
) -> list[np.ndarray]:
    """Cut rows into micro-batches of similar length, at most `max_tokens` tokens after padding.

    A row longer than the budget gets a batch of its own. The longest rows come first, so that a
    batch that does not fit into memory fails immediately. Without `pads`, the rows of a batch have
    equal lengths.

    Example:
        >>> cut_by_tokens([0, 1, 2], np.array([4, 2, 2]), 4)
        [array([0]), array([1, 2])]
        >>> cut_by_tokens([0, 1, 2], np.array([4, 2, 2]), 12, pads=False)
        [array([0]), array([1, 2])]
    """
    rows = np.asarray(indices)
    rows = rows[np.argsort(-lengths[rows], kind="stable")]
    pieces = []
    start = 0
    while start < len(rows):
        longest = int(lengths[rows[start]])
        num_rows = max(1, max_tokens // max(longest, 1))
        piece = rows[start : start + num_rows]
        if not pads:
            piece = piece[lengths[piece] == longest]
        pieces.append(piece)
        start += len(piece)
    return pieces


def cut_into_packs(
    indices: Sequence[int] | np.ndarray, lengths: np.ndarray, max_tokens: int
) -> list[np.ndarray]:
    """Cut rows into packs of at most `max_tokens` tokens.

    A row longer than the budget gets a pack of its own. The longest rows come first, as in
    `cut_by_tokens`, and rows of equal length are adjacent.

    Example:
        >>> cut_into_packs([0, 1, 2], np.array([2, 4, 3]), 5)
        [array([1]), array([2, 0])]
    """
    rows = np.asarray(indices)
    rows = rows[np.argsort(-lengths[rows], kind="stable")]
    ends = np.cumsum(lengths[rows])
    pieces = []
    start = num_before = 0
    while start < len(rows):
        fitting = int(np.searchsorted(ends, num_before + max_tokens, side="right"))
        end = max(start + 1, fitting)
        pieces.append(rows[start:end])
        start, num_before = end, int(ends[end - 1])
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


def pack_rows(encoded: EncodedTexts, indices: np.ndarray) -> Pack:
    """Concatenate rows, at least one."""
    lengths = encoded.offsets[indices + 1] - encoded.offsets[indices]
    cu_seqlens = np.concatenate([[0], np.cumsum(lengths)])
    positions = np.arange(cu_seqlens[-1]) - np.repeat(cu_seqlens[:-1], lengths)
    token_ids = encoded.gather(indices).astype(np.int64)
    return Pack(token_ids, cu_seqlens.astype(np.int32), positions, indices)


def fill_pack(pack: Pack, *, pad_id: int, num_tokens: int, num_rows: int) -> Pack:
    """Append padding rows to a pack, so that it has so many tokens and rows.

    The added rows share the padding, at least one token each, all at position 0, which every model
    has. `indices` lists the pack's own rows only. A pack of this size is returned unchanged.

    Args:
        pack: Fewer rows, and at least as many tokens fewer.
        pad_id: The padding token.
        num_tokens: Tokens of the filled pack.
        num_rows: Rows of the filled pack.
    """
    num_fillers, num_added = num_tokens - pack.num_tokens, num_rows - len(pack.indices)
    if num_fillers == num_added == 0:
        return pack
    assert 1 <= num_added <= num_fillers, "each row of padding has a token"
    ends = pack.num_tokens + np.arange(1, num_added + 1) * num_fillers // num_added
    return Pack(
        np.append(pack.token_ids, np.full(num_fillers, pad_id)),
        np.append(pack.cu_seqlens, ends).astype(np.int32),
        np.append(pack.positions, np.zeros(num_fillers, dtype=np.int64)),
        pack.indices,
    )


def iter_batches(
    encoded: EncodedTexts,
    indices: Sequence[int] | np.ndarray,
    *,
    max_tokens: int,
    pad_id: int,
    pads: bool = True,
) -> Iterator[Batch]:
    """Yield the micro-batches of `indices`, longest rows first; see `cut_by_tokens`."""
    for piece in cut_by_tokens(indices, encoded.lengths, max_tokens, pads=pads):
        yield pad_rows(encoded, piece, pad_id=pad_id)


def iter_packs(
    encoded: EncodedTexts, indices: Sequence[int] | np.ndarray, *, max_tokens: int
) -> Iterator[Pack]:
    """Yield the packs of `indices`, longest rows first."""
    for piece in cut_into_packs(indices, encoded.lengths, max_tokens):
        yield pack_rows(encoded, piece)
