"""Curves of a classifier as few points: ROC, precision-recall, reliability, risk-coverage.

Owns which points a drawing needs. The areas and errors that belong to the curves are scores, and
come from metrics.py, calibration.py and selective.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from bertfit.evaluation.calibration import count_bins
from bertfit.evaluation.selective import risk_coverage_curve

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

Points: TypeAlias = list[tuple[float, float]]
"""(x, y) in the order in which a line joins them."""

MAX_POINTS = 200
"""Points that a curve keeps: more would not be seen."""
_NUM_DIGITS = 5


def roc_points(scores: ArrayLike, is_positive: ArrayLike) -> Points:
    """Return (false positive rate, true positive rate) of the second of two classes.

    Args:
        scores: (n,) probabilities of the class.
        is_positive: (n,) whether a row is of the class; some are and some are not.
    """
    from sklearn.metrics import roc_curve

    false_rates, true_rates, _ = roc_curve(is_positive, scores)
    return thin_curve(false_rates, true_rates)


def precision_recall_points(scores: ArrayLike, is_positive: ArrayLike) -> Points:
    """Return (recall, precision) of the second of two classes, recall rising.

    Args:
        scores: (n,) probabilities of the class.
        is_positive: (n,) whether a row is of the class; some are.
    """
    from sklearn.metrics import precision_recall_curve

    precisions, recalls, _ = precision_recall_curve(is_positive, scores)
    # The last point, recall 0 at precision 1, stands for no threshold.
    return thin_curve(recalls[-2::-1], precisions[-2::-1])


def reliability_points(confidences: ArrayLike, is_right: ArrayLike) -> Points:
    """Return (mean confidence, accuracy) of bins of about equally many rows.

    Args:
        confidences: (n,) n ≥ 1 probabilities of what was answered.
        is_right: (n,) whether the answer was right.

    Example:
        >>> reliability_points([0.8] * 10, [True] * 6 + [False] * 4)
        [(0.8, 0.6)]
    """
    from sklearn.calibration import calibration_curve

    confidences = np.clip(np.asarray(confidences, dtype=np.float64), 0, 1)
    accuracies, means = calibration_curve(
        np.asarray(is_right, dtype=bool),
        confidences,
        n_bins=count_bins(len(confidences)),
        strategy="quantile",
    )
    return _to_points(means, accuracies)


def risk_coverage_points(confidences: ArrayLike, is_right: ArrayLike) -> Points:
    """Return (coverage, error rate) of the rows that are answered, coverage rising to 1."""
    return thin_curve(*risk_coverage_curve(confidences, is_right))


def thin_curve(x: NDArray[np.float64], y: NDArray[np.float64]) -> Points:
    """Return at most `MAX_POINTS` points at about equal distances along the line, both ends kept.

    Example:
        >>> len(thin_curve(np.linspace(0, 1, 5000), np.linspace(0, 1, 5000)))
        200
    """
    if len(x) <= MAX_POINTS:
        return _to_points(x, y)
    lengths = np.concatenate([[0.0], np.cumsum(np.hypot(np.diff(x), np.diff(y)))])
    places = np.searchsorted(lengths, np.linspace(0, lengths[-1], MAX_POINTS))
    chosen = np.unique(np.concatenate([[0], places[1:-1], [len(x) - 1]]))
    return _to_points(x[chosen], y[chosen])


def _to_points(x: NDArray[np.float64], y: NDArray[np.float64]) -> Points:
    columns = (np.round(values, _NUM_DIGITS).tolist() for values in (x, y))
    return list(zip(*columns, strict=True))
