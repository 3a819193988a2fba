"""A pack: one row of tokens in which several texts are concatenated.

Also holds the pack that is currently being computed, in a context variable: transformers would not
pass it to every place that needs it (the mask is made before the layers, a norm gets only a
tensor).

Shapes: S texts, N tokens of all texts, B rows, T tokens per row, hidden size D.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch

from bertfit.modeling.backlog import Backlog
from bertfit.modeling.transfer import to_device

_LAYERS = 32
"""Layers for which seeds are drawn at once."""


@dataclass(frozen=True, slots=True, eq=False)
class Pack:
    """Where the texts of one row begin and end, as a device tensor and as Python integers."""

    cu_seqlens: torch.Tensor
    """(S + 1,) int32 on the device: text s spans tokens cu_seqlens[s] to cu_seqlens[s + 1].

    Named as in torch's variable-length attention.
    """
    longest: int
    """Tokens of the longest text, or an upper bound."""
    runs: tuple[tuple[int, int], ...] | None
    """(number of texts, tokens per text) for each run of adjacent texts of equal length, in order.

    None if only the device knows the lengths: a recorded pass, replayed for other packs, reads only
    `cu_seqlens`.
    """
    by_id: torch.Tensor | None = None
    """(2, N) int32 on the device: tokens sorted by id, and where each id ends; None if not known.

    For the gradient of token embeddings (`training.gpu_embedding_rows`).
    """
    seeds: list[torch.Tensor] = field(default_factory=list)
    """Seeds drawn for layers to come."""
    backlog: Backlog | None = None
    """Where layers may leave what they need not wait for; who sets it also finishes it."""

    @classmethod
    def build(cls, cu_seqlens: np.ndarray, device: torch.device) -> Pack:
        """Build the pack with these (S + 1,) int32 offsets, from 0 to N, for a device."""
        lengths = np.diff(cu_seqlens)
        ends = np.append(np.flatnonzero(np.diff(lengths)), len(lengths) - 1)
        counts = np.diff(ends, prepend=-1)
        runs = tuple(zip(counts.tolist(), lengths[ends].tolist(), strict=True))
        return cls(to_device(cu_seqlens, device), int(lengths.max()), runs)

    def draw_seeds(self) -> torch.Tensor:
        """Return seeds for the dropout of a layer, (4,) int64 on the device, each time others.

        They come from torch's generator, for many layers at once; replayed passes draw new ones.
        """
        if not self.seeds:
            drawn = torch.empty(_LAYERS, 4, dtype=torch.int64, device=self.cu_seqlens.device)
            self.seeds.extend(drawn.random_().unbind())
        return self.seeds.pop()

    @property
    def num_texts(self) -> int:
        """The number of texts, S."""
        return len(self.cu_seqlens) - 1

    @property
    def firsts(self) -> torch.Tensor:
        """(S,) int64: index of each text's first token."""
        return self.cu_seqlens[:-1].long()

    @property
    def lengths(self) -> torch.Tensor:
        """(S,): number of tokens of each text."""
        return self.cu_seqlens.diff()


_current: contextvars.ContextVar[Pack | None] = contextvars.ContextVar("pack", default=None)


@contextlib.contextmanager
def computing(pack: Pack) -> Iterator[None]:
    """Make a model called in this context treat its single row of tokens as this pack."""
    token = _current.set(pack)
    try:
        yield
    finally:
        _current.reset(token)


def current_pack() -> Pack | None:
    """Return the pack being computed, or None for a padded batch."""
    return _current.get()


def first_tokens(hidden_BTD: torch.Tensor) -> torch.Tensor:
    """Return the hidden state of each text's first token: (B, 1, D), or (S, 1, D) for a pack."""
    pack = _current.get()
    if pack is None:
        return hidden_BTD[:, :1]
    return hidden_BTD.squeeze(0).index_select(0, pack.firsts).unsqueeze(1)


def mean_tokens(hidden_1ND: torch.Tensor, pack: Pack) -> torch.Tensor:
    """Return the mean hidden state of each text of a pack, (S, 1, D)."""
    num_tokens = hidden_1ND.shape[1]
    texts = torch.arange(pack.num_texts, device=hidden_1ND.device)
    # Without output_size, torch would synchronize with the GPU to find it out.
    text_of_token = texts.repeat_interleave(pack.lengths, output_size=num_tokens)
    # In float32: in bfloat16, a running sum of a few hundred tokens stops growing.
    hidden_ND = hidden_1ND.squeeze(0).float()
    sums_SD = hidden_ND.new_zeros(pack.num_texts, hidden_ND.shape[-1])
    means_SD = sums_SD.index_add(0, text_of_token, hidden_ND) / pack.lengths.unsqueeze(1)
    return means_SD.unsqueeze(1).to(hidden_1ND.dtype)
