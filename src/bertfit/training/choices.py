"""Defaults that depend on the data or the model: epochs, learning rate, metric."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from bertfit.config import TrainSettings

_BALANCED_SHARE = 0.8
"""Classes count as balanced when the rarest has at least this share of the commonest one's rows."""
_SMALL_HIDDEN_SIZE = 384
_LEAST_STEPS, _STEPS_PER_CLASS = 600, 40
_STEPS_OF_TWO_EPOCHS = 1200
"""If two epochs have this many steps, a third only memorizes the rows."""


def choose_epochs(settings: TrainSettings, num_rows: int, *, num_labels: int) -> int:
    """Return the number of epochs given, else 3, or as many, up to 20, as make enough steps.

    Enough is at least 600 steps, and at least 40 for each class: a head with many classes learns
    slowly, because most rows of a step say nothing about a given class. Two epochs are used if they
    have 1,200 steps (docs/decisions/0005-epochs-for-few-rows.md).

    Source: Mosbach et al. 2021, arXiv 2006.04884, section 6: on small data sets three epochs are
    too few steps, runs fail, and training for 20 epochs makes them stable.

    Example:
        >>> from bertfit.config import TrainSettings
        >>> sizes = ((400, 2), (4_000, 2), (12_000, 2), (25_000, 2), (10_000, 77))
        >>> [choose_epochs(TrainSettings(), rows, num_labels=labels) for rows, labels in sizes]
        [20, 5, 3, 2, 10]
    """
    if settings.epochs is not None:
        return settings.epochs
    epoch_steps = math.ceil(num_rows / settings.batch_size)
    fewest = 2 if 2 * epoch_steps >= _STEPS_OF_TWO_EPOCHS else 3
    enough = math.ceil(max(_LEAST_STEPS, _STEPS_PER_CLASS * num_labels) / epoch_steps)
    return min(20, max(fewest, enough))


def choose_learning_rate(settings: TrainSettings, hidden_size: int) -> float:
    """Return the peak learning rate given, else 1e-4 for a small encoder, 5e-5 for others.

    Small means a hidden size of at most 384, like MiniLM's (docs/decisions/0009-learning-rate.md).

    Source: README of google-research/bert: its 24 small models use the best of 3e-4, 1e-4, 5e-5
    and 3e-5, whereas BERT-base was given 5e-5 at most.

    Example:
        >>> from bertfit.config import TrainSettings
        >>> [choose_learning_rate(TrainSettings(), size) for size in (384, 768)]
        [0.0001, 5e-05]
    """
    if settings.learning_rate is not None:
        return settings.learning_rate
    return 1e-4 if hidden_size <= _SMALL_HIDDEN_SIZE else 5e-5


def choose_selection_metric(settings: TrainSettings, label_ids: np.ndarray) -> str:
    """Return the metric that chooses the epoch: accuracy for balanced classes, else macro F1."""
    if settings.selection_metric != "auto":
        return settings.selection_metric
    counts = np.bincount(label_ids)
    return "accuracy" if counts.min() >= _BALANCED_SHARE * counts.max() else "macro_f1"
