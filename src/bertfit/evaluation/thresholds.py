"""Choose the threshold of a binary classifier for an aim, and measure what it achieves.

The second class is the positive one: it is predicted if its probability is at least the threshold.
The probabilities do not change.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bertfit.errors import DataError
from bertfit.evaluation.interval import Interval, exact_interval
from bertfit.evaluation.metrics import check_predictions
from bertfit.threshold_aim import ThresholdAim, parse_threshold_aim

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True, slots=True)
class Rates:
    """Rates of the second class on n rows with a threshold; 0 if the denominator is 0."""

    num_rows: int
    accuracy: float
    num_called: int
    """Rows for which the second class is predicted: precision is a share of these."""
    precision: float
    precision_interval: Interval | None
    """95 % interval, optimistic on the rows that chose the threshold; None without predicted
    positives."""
    recall: float
    recall_interval: Interval | None
    """95 % interval; None without positive rows."""
    f1: float
    cost: float | None
    """Mean cost per row if the aim is a cost."""


@dataclass(frozen=True, slots=True)
class Threshold:
    """A threshold, and the aim it was chosen for."""

    value: float
    """The second class is predicted if its probability is at least this, in [0, 1]."""
    aim: str
    validation: Rates
    """Rates on the rows that chose it."""
    undecided: Rates
    """Rates on the same rows without it, that is, of the most probable class."""

    def to_json(self) -> dict[str, Any]:
        """Return plain numbers and dicts."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Counts:
    """Counts at each candidate, (k,)."""

    candidates: NDArray[np.float64]
    true_positives: NDArray[np.int64]
    false_positives: NDArray[np.int64]
    num_positive: int
    """Rows of the second class."""


def choose_threshold(probabilities: ArrayLike, label_ids: ArrayLike, aim: str) -> Threshold:
    """Choose the best threshold for an aim on these rows.

    - f1: the highest F1 of the second class.
    - precision>=P: the highest recall of the second class among the thresholds that reach P.
    - recall>=R: the highest precision among the thresholds that reach R.
    - cost:FP,FN: the lowest total cost.

    Ties are broken by the distance to 0.5. Candidates are the midpoints of adjacent distinct
    probabilities of the rows, 0, and, below 1, one above all of them.

    Args:
        probabilities: (n, 2), each row summing to 1.
        label_ids: (n,) 0 or 1.
        aim: In the syntax of `bertfit.threshold_aim`.

    Raises:
        ConfigError: The aim is malformed.
        DataError: The rows are not as above or of one class, or no threshold reaches the precision.
    """
    parsed = parse_threshold_aim(aim)
    probabilities, label_ids = check_predictions(probabilities, label_ids)
    if probabilities.shape[1] != 2:
        message = f"expected two classes to choose a threshold for, got {probabilities.shape[1]}"
        raise DataError(message)
    if np.unique(label_ids).size < 2:
        message = "expected rows of both classes to choose a threshold by, got one class"
        raise DataError(message)
    counts = _count_at_candidates(probabilities[:, 1], label_ids == 1)
    merit = _weigh(counts, parsed)
    if np.isneginf(merit.max()):
        best = float(_precisions(counts).max())
        message = f"no threshold reaches precision {parsed.rate:g}; the highest is {best:.4f}"
        raise DataError(message)
    best_rows = np.flatnonzero(np.isclose(merit, merit.max(), rtol=1e-12, atol=0))
    value = min(counts.candidates[best_rows].tolist(), key=lambda candidate: abs(candidate - 0.5))
    rated = [
        _rate(predicted_ids, label_ids, parsed)
        for predicted_ids in (decide(probabilities, value), probabilities.argmax(axis=1))
    ]
    return Threshold(value, aim.strip(), *rated)


def decide(probabilities: NDArray[np.float64], threshold: float | None) -> NDArray[np.int64]:
    """Return (n,) predicted classes: by the threshold if there is one, or the most probable ones.

    Args:
        probabilities: (n, C); with a threshold, (n, 2).
        threshold: The second class is predicted if its probability is at least this; or None.
    """
    if threshold is None:
        best: NDArray[np.int64] = probabilities.argmax(axis=1)
        return best
    decided: NDArray[np.int64] = (probabilities[:, 1] >= threshold).astype(np.int64)
    return decided


def _count_at_candidates(scores: NDArray[np.float64], is_positive: NDArray[np.bool_]) -> _Counts:
    distinct, at = np.unique(scores, return_inverse=True)
    positives = np.bincount(at, weights=is_positive).astype(np.int64)
    negatives = np.bincount(at, weights=~is_positive).astype(np.int64)
    # Candidate i predicts positive from the i-th distinct score on; the last one never does.
    above_all = [(distinct[-1] + 1) / 2] if distinct[-1] < 1 else []
    halfway = (distinct[1:] + distinct[:-1]) / 2
    halfway = np.maximum(halfway, np.nextafter(distinct[:-1], 2))  # rounding must not merge two
    candidates = np.concatenate([[0.0], halfway, above_all])
    num_kept = len(candidates)
    return _Counts(
        candidates,
        _sum_from(positives)[:num_kept],
        _sum_from(negatives)[:num_kept],
        int(is_positive.sum()),
    )


def _sum_from(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return (k + 1,) suffix sums, ending with 0."""
    sums: NDArray[np.int64] = np.append(np.cumsum(counts[::-1])[::-1], 0)
    return sums


def _weigh(counts: _Counts, aim: ThresholdAim) -> NDArray[np.float64]:
    """Return (k,) the merit of each candidate; minus infinity if it misses the required rate."""
    hits, alarms, num_positive = counts.true_positives, counts.false_positives, counts.num_positive
    recalls = hits / max(num_positive, 1)
    if aim.kind == "f1":
        f1: NDArray[np.float64] = 2 * hits / np.maximum(num_positive + hits + alarms, 1)
        return f1
    if aim.kind == "cost":
        # Only their ratio matters; of any size, they could overflow.
        most = max(aim.false_positive_cost, aim.false_negative_cost)
        costs = (aim.false_positive_cost / most) * alarms
        return -(costs + (aim.false_negative_cost / most) * (num_positive - hits))
    reached = {"precision": _precisions(counts), "recall": recalls}[aim.kind]
    gained = {"precision": recalls, "recall": _precisions(counts)}[aim.kind]
    return np.where(reached >= aim.rate, gained, -math.inf)


def _precisions(counts: _Counts) -> NDArray[np.float64]:
    num_called = counts.true_positives + counts.false_positives
    precisions: NDArray[np.float64] = counts.true_positives / np.maximum(num_called, 1)
    return precisions


def _rate(
    predicted_ids: NDArray[np.int64], label_ids: NDArray[np.int64], aim: ThresholdAim
) -> Rates:
    hits = int(((predicted_ids == 1) & (label_ids == 1)).sum())
    num_called, num_positive = int(predicted_ids.sum()), int(label_ids.sum())
    num_rows = len(label_ids)
    cost = aim.false_positive_cost * ((num_called - hits) / num_rows)
    cost += aim.false_negative_cost * ((num_positive - hits) / num_rows)
    return Rates(
        num_rows=num_rows,
        accuracy=float((predicted_ids == label_ids).mean()),
        num_called=num_called,
        precision=hits / max(num_called, 1),
        precision_interval=exact_interval(hits, num_called) if num_called else None,
        recall=hits / max(num_positive, 1),
        recall_interval=exact_interval(hits, num_positive) if num_positive else None,
        f1=2 * hits / max(num_called + num_positive, 1),
        cost=cost if aim.kind == "cost" else None,
    )
