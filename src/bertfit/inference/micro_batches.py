"""From rows to logits, one micro-batch at a time, for both training and scoring.

The exception is packs whose passes are recorded in a GPU training (`training.recorded_passes`).

Chooses between padding and packing: a model that was set up for packs (`modeling.packing`) gets
packs. Also owns the token budget of a micro-batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from bertfit.data.batching import Batch, Pack, iter_batches, iter_packs
from bertfit.errors import is_out_of_memory
from bertfit.modeling.allocation import return_cached_memory
from bertfit.modeling.forward import compute_logits, compute_packed_logits
from bertfit.modeling.packing import takes_packs
from bertfit.modeling.soundness import explain_failure, reads_padding

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from bertfit.data.encoding import EncodedTexts
    from bertfit.modeling.precision import Precision


SMALLER_PIECES = (
    "Out of memory in scoring: texts are scored in smaller pieces from here on, with the same "
    "result."
)
"""Said once if scoring ran out of memory and continued."""
_FAILS_ON_SOME = "If it fails on some texts only, such as empty ones, leave those out."


@dataclass(slots=True)
class TokenBudget:
    """Tokens per micro-batch, permanently lowered when memory runs out."""

    tokens: int

    def halve(self, longest: int) -> bool:
        """Halve the budget, but not below the longest row; return whether that lowered it."""
        smaller = max(self.tokens // 2, longest)
        if smaller >= self.tokens:
            return False
        self.tokens = smaller
        return True


def iter_logits(
    model: PreTrainedModel,
    encoded: EncodedTexts,
    indices: Sequence[int] | np.ndarray,
    *,
    max_tokens: int,
    pad_id: int,
    precision: Precision,
) -> Iterator[tuple[Batch | Pack, torch.Tensor]]:
    """Yield each micro-batch of `indices`, longest rows first, with its logits (rows, C).

    Args:
        model: A sequence classifier, in the mode (train or eval) that the caller wants.
        encoded: The data set.
        indices: Rows of it.
        max_tokens: Tokens per micro-batch, padding included.
        pad_id: Token id that pads short rows, if rows are padded.
        precision: Device and dtype of the computation.
    """
    if takes_packs(model):
        for pack in iter_packs(encoded, indices, max_tokens=max_tokens):
            yield (
                pack,
                compute_packed_logits(
                    model, pack.token_ids, pack.cu_seqlens, pack.positions, precision=precision
                ),
            )
        return
    for batch in iter_batches(
        encoded, indices, max_tokens=max_tokens, pad_id=pad_id, pads=not reads_padding(model)
    ):
        yield (
            batch,
            compute_logits(model, batch.token_ids, batch.attention_mask, precision=precision),
        )


def iter_logits_within_memory(
    model: PreTrainedModel,
    encoded: EncodedTexts,
    *,
    budget: TokenBudget,
    pad_id: int,
    precision: Precision,
    on_halved: Callable[[int], None] | None = None,
) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
    """Yield the rows of each micro-batch of all texts with their logits (rows, C), for scoring.

    If memory runs out, the budget is halved, and the remaining rows are scored with that.

    Args:
        model: As in `iter_logits`, like `encoded`, `pad_id` and `precision`.
        encoded: The data set.
        budget: Tokens per micro-batch.
        pad_id: Token id that pads short rows.
        precision: Device and dtype of the computation.
        on_halved: Called with the new budget whenever it was halved.

    Raises:
        RuntimeError: Memory ran out: not even the longest remaining row fits alone.
        ModelError: The model cannot compute some of the texts.
    """
    is_left = np.ones(len(encoded), dtype=bool)
    while is_left.any():
        left = np.flatnonzero(is_left)
        try:
            with explain_failure(type(model).__name__, hint=_FAILS_ON_SOME):
                for batch, logits in iter_logits(
                    model,
                    encoded,
                    left,
                    max_tokens=budget.tokens,
                    pad_id=pad_id,
                    precision=precision,
                ):
                    is_left[batch.indices] = False
                    yield batch.indices, logits
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if not budget.halve(int(encoded.lengths[is_left].max())):
                raise
        else:
            return
        # Outside the except clause: the error kept the tensors of the failed micro-batch alive.
        return_cached_memory(precision.device)
        if on_halved is not None:
            on_halved(budget.tokens)
