"""Tries a loaded model on two short texts, before anything is trained or predicted with it.

A model of a family that was never tried here may fail in its forward pass. Or it may read the
padding of a row, so that its answer to a text depends on the texts in the same batch: FNet has no
attention mask, XLNet answers from the last position, ConvBERT's convolutions look beyond the end.
Such a model gets only rows of equal length at once.

Shapes: B rows, T tokens.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from bertfit.errors import BertfitError, ModelError, find_first_line, is_out_of_memory
from bertfit.modeling.fast_path import ATTENTION_FAMILIES, copy_for_work, give_up_copy
from bertfit.modeling.forward import compute_logits
from bertfit.modeling.input_limits import check_token_ids, find_length_limit
from bertfit.modeling.tokenizer_files import fast_tokenizer
from bertfit.modeling.torch_defaults import evaluating, usual_torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from bertfit.modeling.classifier import LoadedClassifier
    from bertfit.modeling.precision import Precision

_TEXTS = ("a", "a text that is longer than the other one, which is padded beside it")
_TOLERANCE = 1e-4
"""Of the logits, relative to the largest of both texts: rounding gives up to 2e-6, ConvBERT's
padding 4e-4."""
UNFIT = (
    "bertfit is for encoders such as BERT. Its configuration may not fit its kind, or its "
    "tokenizer may be that of another model."
)
"""What to do about a model that fails, if the type of the arithmetic is not the cause."""
_MARK = "bertfit_reads_padding"
"""Attribute of a model that reads padding."""
_MOST_THREADS = 4
"""For so short a text. Rows are checked and kernels compiled meanwhile, and each operation waits
for the last of its threads to get a core: with 16, BERT-base took 2 seconds."""


@usual_torch()
def try_model(loaded: LoadedClassifier, name: str) -> None:
    """Check that a model computes, and find out whether padding changes its answers.

    If only the padding token of its configuration is not that of its tokenizer, this is corrected.

    Args:
        loaded: The model as loaded, on a CPU, with its tokenizer.
        name: Its name, for errors.

    Raises:
        ModelError: The tokenizer has no fast form or gives tokens that the model does not know, or
            the forward pass fails, or gives numbers that are not finite.
    """
    model, tokenizer = loaded.model, fast_tokenizer(loaded.tokenizer)
    limit = find_length_limit(model, loaded.tokenizer)
    with explain_failure(name), evaluating(model), _few_threads():
        short_T, long_T = (np.array(tokenizer.encode(text).ids[:limit] or [0]) for text in _TEXTS)
        rows_BT = np.full((2, len(long_T)), loaded.tokenizer.pad_token_id or 0)
        rows_BT[0, : len(short_T)], rows_BT[1] = short_T, long_T
        mask_BT = np.arange(len(long_T)) < [[len(short_T)], [len(long_T)]]
        check_token_ids(model, rows_BT)
        alone = _give_logits(model, short_T[None], np.ones((1, len(short_T))))[0]
        if not alone.isfinite().all():
            raise ModelError(
                f"the model {name!r} answers a text with numbers that are not finite",
                hint="Some of its weights are damaged. Get a good copy of it, or use another.",
            )
        reads_it = _differ(alone, _give_logits(model, rows_BT, mask_BT))
        known, given = model.config.pad_token_id, loaded.tokenizer.pad_token_id
        if reads_it and given not in {None, known}:
            # The head of a decoder looks for the token that its configuration names.
            model.config.pad_token_id = given
            reads_it = _differ(alone, _give_logits(model, rows_BT, mask_BT))
            if reads_it:
                model.config.pad_token_id = known
    mark_padding(model, reads_it=reads_it)


@torch.random.fork_rng(devices=[])
def find_type_fault(loaded: LoadedClassifier, precision: Precision) -> str | None:
    """Return why a model cannot be trained in a type of 16 bits, by trying it, or None.

    FNet's Fourier transform has none in bfloat16, for one, and others mix types. Families that take
    bertfit's attention are known to compute in it, and not tried; nor is a model at fault that
    fails in float32, too.

    Raises:
        RuntimeError: Memory ran out.
    """
    if loaded.model.config.model_type in ATTENTION_FAMILIES:
        return None
    fault = _fail(loaded, precision)
    exact = dataclasses.replace(precision, dtype=torch.float32)
    return None if fault is None or _fail(loaded, exact) is not None else fault


def _fail(loaded: LoadedClassifier, precision: Precision) -> str | None:
    """Return what goes wrong in a training step with one text, or None."""
    model, tokenizer = loaded.model.to(precision.device), fast_tokenizer(loaded.tokenizer)
    limit = find_length_limit(model, loaded.tokenizer)
    work = copy_for_work(model, precision)
    if work is model:  # in float32
        work = copy.deepcopy(model)
    work.train()
    token_ids_BT = np.array([tokenizer.encode(_TEXTS[1]).ids[:limit] or [0]], dtype=np.int64)
    try:
        logits = compute_logits(work, token_ids_BT, None, precision=precision)
        logits.sum().backward()
    except Exception as error:
        if is_out_of_memory(error):
            raise
        return f"{type(error).__name__}: {find_first_line(error)[:100]}"
    finally:
        give_up_copy(work)
    return None


def _differ(alone_C: torch.Tensor, padded_BC: torch.Tensor) -> bool:
    """Return whether the first text's logits, padded beside another, are not those of it alone."""
    # Also relative to the other text: logits of one text may cancel out to almost nothing.
    largest = torch.maximum(alone_C.abs().max(), padded_BC.abs().max())
    return bool((padded_BC[0] - alone_C).abs().max() > _TOLERANCE * largest)


def mark_padding(model: PreTrainedModel, *, reads_it: bool) -> None:
    """Set whether a model reads padding."""
    setattr(model, _MARK, reads_it)


def reads_padding(model: PreTrainedModel) -> bool:
    """Return whether a model's answers depend on padding, as far as it was tried."""
    return bool(getattr(model, _MARK, False))


def _give_logits(
    model: PreTrainedModel, token_ids_BT: np.ndarray, mask_BT: np.ndarray
) -> torch.Tensor:
    arrays = {"input_ids": token_ids_BT, "attention_mask": mask_BT}
    inputs = {name: torch.from_numpy(of.astype(np.int64)) for name, of in arrays.items()}
    logits: torch.Tensor = model(**inputs).logits
    return logits.float()


def _few_threads() -> AbstractContextManager[object]:
    """Limit the threads of what this thread computes; `torch.set_num_threads` is for all."""
    num_threads = torch.get_num_threads()  # its first call would undo the limit
    limit: AbstractContextManager[object] = threadpool_limits(
        min(num_threads, _MOST_THREADS), user_api="openmp"
    )
    return limit


@contextmanager
def explain_failure(name: str, *, hint: str = UNFIT) -> Iterator[None]:
    """Turn what a model's own code raises into a ModelError, except memory that ran out.

    Args:
        name: Name of the model.
        hint: What to do.
    """
    from torch._dynamo.exc import TorchDynamoException

    try:
        yield
    except (BertfitError, TorchDynamoException):  # the latter says that compiling failed
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        told = f"{type(error).__name__}: {find_first_line(error)[:300]}"
        raise ModelError(
            f"the model {name!r} cannot be computed: {told}",
            hint=hint,
        ) from error
