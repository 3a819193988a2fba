"""Checks a loaded model on two short texts, before anything is trained or predicted with it.

A model of a family that was never tried may fail in its forward pass, or read the padding of a row,
so that its answer to a text depends on the texts in the same batch (FNet has no attention mask).

Shapes: B rows, T tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch

from bertfit.errors import ModelError, is_out_of_memory
from bertfit.modeling.classifier import check_token_ids, fast_tokenizer, find_length_limit

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from bertfit.modeling.classifier import LoadedClassifier

_TEXTS = ("a short text", "a text that is longer than the other one, which is padded beside it")
_TOLERANCE = 1e-3
"""Of the logits, relative to the largest: allows for rounding."""


def check_sound(loaded: LoadedClassifier, name: str) -> None:
    """Check that a model computes, and that padding does not change its answers.

    Args:
        loaded: The model as loaded, on a CPU, with its tokenizer.
        name: Its name, for errors.

    Raises:
        ModelError: The tokenizer has no fast form or gives tokens that the model does not know, the
            forward pass fails, or answers depend on padding.
    """
    model, tokenizer = loaded.model, fast_tokenizer(loaded.tokenizer)
    limit = find_length_limit(model, loaded.tokenizer)
    short_T, long_T = (np.array(tokenizer.encode(text).ids[:limit] or [0]) for text in _TEXTS)
    rows_BT = np.full((2, len(long_T)), loaded.tokenizer.pad_token_id or 0)
    rows_BT[0, : len(short_T)], rows_BT[1] = short_T, long_T
    mask_BT = np.arange(len(long_T)) < [[len(short_T)], [len(long_T)]]
    with _explaining(name), _evaluating(model):
        check_token_ids(model, rows_BT)
        alone = _give_logits(model, short_T[None], np.ones((1, len(short_T))))[0]
        padded = _give_logits(model, rows_BT, mask_BT)[0]
    if (padded - alone).abs().max() > _TOLERANCE * alone.abs().max():
        raise ModelError(
            f"the model {name!r} reads padding: expected the same answer to a text alone and next "
            "to a longer one, got another",
            hint="Choose a model whose attention leaves padding out, such as BERT.",
        )


def _give_logits(
    model: PreTrainedModel, token_ids_BT: np.ndarray, mask_BT: np.ndarray
) -> torch.Tensor:
    arrays = {"input_ids": token_ids_BT, "attention_mask": mask_BT}
    inputs = {name: torch.from_numpy(of.astype(np.int64)) for name, of in arrays.items()}
    logits: torch.Tensor = model(**inputs).logits
    return logits.float()


@contextmanager
def _evaluating(model: PreTrainedModel) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)


@contextmanager
def _explaining(name: str) -> Iterator[None]:
    """Turn what a model's own code raises into a ModelError."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        first_line = str(error).strip().partition("\n")[0]
        raise ModelError(
            f"the model {name!r} cannot be computed: {type(error).__name__}: {first_line[:300]}",
            hint="bertfit is for encoders such as BERT. Its configuration may not fit its kind, or "
            "its tokenizer may be that of another model.",
        ) from error
