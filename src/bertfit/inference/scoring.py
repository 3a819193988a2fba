"""Logits of encoded text: computed in micro-batches by length, returned in input order.

Validation, evaluation and prediction all score through here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch

from bertfit.inference.micro_batches import TokenBudget, iter_logits_within_memory
from bertfit.modeling.allocation import keep_freed_memory
from bertfit.modeling.fast_path import copy_for_work, give_up_copy, is_compiled, takes_operators
from bertfit.modeling.operators.loading import load_operators
from bertfit.modeling.torch_defaults import usual_torch
from bertfit.modeling.transfer import LateValues, stay_ahead

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from bertfit.data.encoding import EncodedTexts
    from bertfit.modeling.precision import Precision

_BYTES_PER_MICRO_BATCH = 4096
"""Micro-batches of 1,024 tokens in float32 and 2,048 in bfloat16 were the fastest or as fast as
any (docs/performance.md has those in float32)."""

_COMPILED_TOKENS = 8192
"""With compiled operators: up to a tenth faster than 4,096 (docs/performance.md)."""

_ROWS_WORTH_BUILDING = 256
"""For fewer texts, the operators are used if already built; building them takes seconds."""

TOKENS_ON_GPU = 2**14
"""As few as fit a processor's cache leave a GPU idle: for 2,500 reviews of 128 tokens, an H100 took
2.3 s in packs of 2,048 tokens, and 0.4 s in these."""


@keep_freed_memory()
@usual_torch()
def score_texts(
    model: PreTrainedModel,
    encoded: EncodedTexts,
    *,
    precision: Precision,
    pad_id: int,
    max_tokens: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    on_halved: Callable[[int], None] | None = None,
) -> np.ndarray:
    """Return logits (n, C) in float32, row i for text i; more columns if the model returns more.

    A micro-batch that does not fit into a GPU's memory is repeated in smaller pieces.

    Args:
        model: A sequence classifier; put into eval mode, and back into the mode it had.
        encoded: n texts.
        precision: Device and dtype of the computation.
        pad_id: Token id that pads short rows.
        max_tokens: Tokens per micro-batch, padding included; None takes as many as keep the widest
            activations of a small encoder in a processor's cache, and on a GPU 16,384.
        on_progress: Called with (rows done, n) after each micro-batch.
        on_halved: Called with the new `max_tokens` if memory ran out.

    Raises:
        RuntimeError: Memory ran out: not even the longest text fits alone.
        ModelError: The model cannot compute some of the texts.
    """
    if takes_operators(model, precision):
        load_operators(build=len(encoded) >= _ROWS_WORTH_BUILDING)
    if max_tokens is None:
        max_tokens = _choose_tokens(model, precision)
    logits = np.empty((len(encoded), model.config.num_labels), dtype=np.float32)
    num_done = 0
    with _answering(model, precision) as working, torch.inference_mode():
        scored = iter_logits_within_memory(
            working,
            encoded,
            budget=TokenBudget(max_tokens),
            pad_id=pad_id,
            precision=precision,
            on_halved=on_halved,
        )
        queued = ((rows, LateValues.send(of_rows)) for rows, of_rows in scored)
        for rows, late in stay_ahead(queued, precision.device):
            (of_rows,) = late.wait()
            if of_rows.shape[1] != logits.shape[1]:  # as `calibration_folding.widened` does
                logits = np.empty((len(encoded), of_rows.shape[1]), dtype=np.float32)
            logits[rows] = of_rows
            num_done += len(rows)
            if on_progress is not None:
                on_progress(num_done, len(encoded))
    return logits


@contextmanager
def _answering(model: PreTrainedModel, precision: Precision) -> Iterator[PreTrainedModel]:
    """Give a model in the dtype of the computation and in eval mode, itself or a copy."""
    working = copy_for_work(model, precision)
    was_training = working.training
    if was_training:  # else another thread, which scores with the same model, would notice
        working.eval()
    try:
        yield working
    finally:
        if was_training:
            working.train()
        if working is not model:
            give_up_copy(working)


def _choose_tokens(model: PreTrainedModel, precision: Precision) -> int:
    if precision.device.type == "cuda":
        return TOKENS_ON_GPU
    if is_compiled(model, precision):
        return _COMPILED_TOKENS
    return _BYTES_PER_MICRO_BATCH // precision.weight_dtype.itemsize


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return probabilities (n, C) in float64, each row summing to 1."""
    from scipy import special

    probabilities: np.ndarray = special.softmax(logits.astype(np.float64), axis=1)
    return probabilities
