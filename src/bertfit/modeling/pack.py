"""What a pack is: one row of tokens in which several texts are laid end to end.

Also holds the pack that is currently being computed. transformers does not pass such a thing to all
places that need it (a mask is made before the layers, a norm gets a tensor and nothing else), so it
is in a context variable while a model runs.

Shapes: S texts, N tokens of all texts, B rows, T tokens of a row, D numbers per token.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from bertfit.modeling.transfer import to_device


@dataclass(frozen=True, slots=True, eq=False)
class Pack:
    """Where the texts of one row begin and end, on the device and off it."""

    cu_seqlens: torch.Tensor
    """(S + 1,) int32 on the device: text s has the tokens from cu_seqlens[s] to cu_seqlens[s + 1].

    The name is that of torch's variable-length attention.
    """
    longest: int
    """Tokens of the longest text, or more."""
    runs: tuple[tuple[int, int], ...] | None
    """(texts, tokens of each) of every run of neighbours of one length, in their order.

    None where only the device knows: what is recorded for packs to come reads `cu_seqlens` alone.
    """

    @classmethod
    def build(cls, cu_seqlens: np.ndarray, device: torch.device) -> Pack:
        """Return the pack of (S + 1,) int32 offsets, from 0 to N, for a device."""
        lengths = np.diff(cu_seqlens)
        ends = np.append(np.flatnonzero(np.diff(lengths)), len(lengths) - 1)
        counts = np.diff(ends, prepend=-1)
        runs = tuple(zip(counts.tolist(), lengths[ends].tolist(), strict=True))
        return cls(to_device(cu_seqlens, device), int(lengths.max()), runs)

    @property
    def num_texts(self) -> int:
        """S."""
        return len(self.cu_seqlens) - 1

    @property
    def firsts(self) -> torch.Tensor:
        """(S,) int64: the place of each text's first token."""
        return self.cu_seqlens[:-1].long()

    @property
    def lengths(self) -> torch.Tensor:
        """(S,) tokens of each text."""
        return self.cu_seqlens.diff()


_current: contextvars.ContextVar[Pack | None] = contextvars.ContextVar("pack", default=None)


@contextlib.contextmanager
def computing(pack: Pack) -> Iterator[None]:
    """Let the model that is called inside take its one row of tokens as this pack."""
    token = _current.set(pack)
    try:
        yield
    finally:
        _current.reset(token)


def current_pack() -> Pack | None:
    """Return the pack that is being computed; None where the batch is a padded one."""
    return _current.get()


def first_tokens(hidden_BTD: torch.Tensor) -> torch.Tensor:
    """Return the states of each text's first token: (B, 1, D), of a pack (S, 1, D)."""
    pack = _current.get()
    if pack is None:
        return hidden_BTD[:, :1]
    return hidden_BTD.squeeze(0).index_select(0, pack.firsts).unsqueeze(1)


def mean_tokens(hidden_1ND: torch.Tensor, pack: Pack) -> torch.Tensor:
    """Return the mean state of each text of a pack, (S, 1, D)."""
    num_tokens = hidden_1ND.shape[1]
    texts = torch.arange(pack.num_texts, device=hidden_1ND.device)
    # The size is given, or a GPU would be waited for to learn it.
    text_of_token = texts.repeat_interleave(pack.lengths, output_size=num_tokens)
    # In float32: a sum of some hundred tokens kept in bfloat16 stops growing.
    hidden_ND = hidden_1ND.squeeze(0).float()
    sums_SD = hidden_ND.new_zeros(pack.num_texts, hidden_ND.shape[-1])
    means_SD = sums_SD.index_add(0, text_of_token, hidden_ND) / pack.lengths.unsqueeze(1)
    return means_SD.unsqueeze(1).to(hidden_1ND.dtype)
