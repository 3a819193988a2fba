"""From rows to logits, a micro-batch at a time: training and scoring both go this way.

Owns the choice between padding and packing, which is the model's: one that was set up for packs
(`modeling.packing`) gets packs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from bertfit.data.batching import Batch, Pack, iter_batches, iter_packs
from bertfit.modeling.forward import compute_logits, compute_packed_logits
from bertfit.modeling.packing import takes_packs

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from bertfit.data.encoding import EncodedTexts
    from bertfit.modeling.precision import Precision


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
        pad_id: Token id that fills short rows where rows are padded.
        precision: Device and type of the arithmetic.
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
    for batch in iter_batches(encoded, indices, max_tokens=max_tokens, pad_id=pad_id):
        yield (
            batch,
            compute_logits(model, batch.token_ids, batch.attention_mask, precision=precision),
        )
