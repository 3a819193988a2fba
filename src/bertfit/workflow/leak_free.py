"""Scores without the rows that a model had seen in its training, or was chosen by."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bertfit.evaluation.interval import Interval
from bertfit.evaluation.intervals import bootstrap_intervals
from bertfit.evaluation.metrics import score

if TYPE_CHECKING:
    from bertfit.workflow.evaluating import Evaluation


@dataclass(frozen=True, slots=True)
class LeakFreeScores:
    """The score on the rows that the model had not seen."""

    num_leaked: int
    """Rows left out. Of a test set: their text (or nearly) or their group also occurs in the
    training or validation rows, or was learned by the run that the training started from. Of other
    rows: the run was trained on their text or chosen by it."""
    num_rows: int
    """Remaining rows."""
    accuracy: float | None
    """None if no row remains."""
    macro_f1: float | None
    intervals: dict[str, Interval]
    """95 % bootstrap intervals of both scores."""

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return dataclasses.asdict(self)


def score_without(evaluation: Evaluation, leaked: Sequence[int]) -> LeakFreeScores | None:
    """Score the rows that are not among `leaked`, numbers of rows; return None if that is empty."""
    if not leaked:
        return None
    kept = np.setdiff1d(np.arange(len(evaluation.label_ids)), leaked)
    if not len(kept):
        return LeakFreeScores(len(leaked), 0, None, None, {})
    probabilities, label_ids = evaluation.probabilities[kept], evaluation.label_ids[kept]
    predicted_ids = evaluation.predicted_ids[kept]
    scores = score(
        probabilities, label_ids, evaluation.scores.label_names, predicted_ids=predicted_ids
    )
    groups = evaluation.dataset.known_groups
    intervals = bootstrap_intervals(
        probabilities,
        label_ids,
        predicted_ids=predicted_ids,
        groups=None if groups is None else groups[kept],
        with_auroc=False,
    )
    return LeakFreeScores(
        num_leaked=len(leaked),
        num_rows=len(kept),
        accuracy=scores.accuracy,
        macro_f1=scores.macro_f1,
        intervals={name: intervals[name] for name in ("accuracy", "macro_f1")},
    )
