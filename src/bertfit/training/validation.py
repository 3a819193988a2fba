"""Scores the validation rows with the weights in training."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from bertfit.errors import TrainingError, is_out_of_memory
from bertfit.inference.micro_batches import SMALLER_PIECES
from bertfit.inference.scoring import score_texts, softmax
from bertfit.modeling.allocation import return_cached_memory
from bertfit.modeling.compilation import run_as_written
from bertfit.training.reports import advise_smaller_steps
from bertfit.training.token_budget import scoring_budget

if TYPE_CHECKING:
    from bertfit.config import TrainSettings
    from bertfit.modeling.precision import Precision
    from bertfit.progress import Listener
    from bertfit.training.loop import TrainingData
    from bertfit.training.state import Progress
    from bertfit.training.weights import TrainedWeights


def score_validation(
    weights: TrainedWeights,
    rows: TrainingData,
    *,
    settings: TrainSettings,
    precision: Precision,
    progress: Progress,
    listener: Listener,
    on_forgotten: Callable[[], None],
) -> np.ndarray:
    """Return the probabilities (n, C) of the validation rows.

    Args:
        weights: Settled, of a training in progress.
        rows: The validation rows.
        settings: Of the training.
        precision: Device and dtype of the computation.
        progress: Keeps the tokens per micro-batch once memory has run out.
        listener: Hears of progress, and that memory ran out.
        on_forgotten: Called after recorded passes were dropped to free memory.

    Raises:
        TrainingError: A logit is not finite.
    """

    def heed_memory(tokens: int) -> None:
        if progress.scoring_tokens is None:
            listener.note(SMALLER_PIECES)
        progress.scoring_tokens = tokens

    before, on_gpu = progress.scoring_tokens, precision.device.type == "cuda"

    def score() -> np.ndarray:
        asked = settings.micro_batch_tokens
        budget = scoring_budget(progress.max_tokens, asked, on_gpu=on_gpu)
        return score_texts(
            weights.working,
            rows.encoded,
            precision=precision,
            pad_id=rows.pad_id,
            max_tokens=min(budget, progress.scoring_tokens or budget),
            on_progress=partial(listener.progress, "validating"),
            on_halved=heed_memory,
        )

    with run_as_written():
        try:
            logits = score()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or not weights.forget_recorded():
                raise
            logits = None
        if logits is None:  # outside the except clause: the error kept tensors alive
            progress.scoring_tokens = before  # with the memory of recordings, more may fit again
            on_forgotten()
            return_cached_memory(precision.device)
            logits = score()
    _check_finite(logits, precision)
    return softmax(logits)


def _check_finite(logits: np.ndarray, precision: Precision) -> None:
    if not np.isfinite(logits).all():
        raise TrainingError(
            "the model gives logits that are not finite on the validation rows",
            hint=f"{advise_smaller_steps(precision)}.",
        )
