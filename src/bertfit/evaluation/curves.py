"""Reduce curves to few points: ROC, precision-recall, reliability, risk-coverage.

Owns the choice of points for plots. The scores of the curves (areas and errors) are in metrics.py,
calibration.py and selective.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from bertfit.evaluation.calibration import count_bins
from bertfit.evaluation.selective import risk_coverage_curve

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

Points: TypeAlias = list[tuple[float, float]]
"""(x, y) in the order in which a line connects them."""

MAX_POINTS = 200
"""Maximum number of points of a curve; more would not be visible."""
_NUM_DIGITS = 5


def roc_points(scores: ArrayLike, is_positive: ArrayLike) -> Points:
    """Return (false positive rate, true positive rate) of the second of two classes.

    Args:
        scores: (n,) probabilities of the class.
        is_positive: (n,) whether each row is of the class; both must occur.
    """
    from sklearn.metrics import roc_curve

    false_rates, true_rates, _ = roc_curve(is_positive, scores)
    return thin_curve(false_rates, true_rates)


def precision_recall_points(scores: ArrayLike, is_positive: ArrayLike) -> Points:
    """Return (recall, precision) of the second of two classes, by increasing recall.

    Args:
        scores: (n,) probabilities of the class.
        is_positive: (n,) whether each row is of the class; at least one must be.
    """
    from sklearn.metrics import precision_recall_curve

    precisions, recalls, _ = precision_recall_curve(is_positive, scores)
    # The last point, recall 0 at precision 1, does not belong to any threshold.
    return thin_curve(recalls[-2::-1], precisions[-2::-1])


def reliability_points(confidences: ArrayLike, is_right: ArrayLike) -> Points:
    """Return (mean confidence, accuracy) of bins of about equally many rows.

    Args:
        confidences: (n,) n ≥ 1 probabilities of the predictions.
        is_right: (n,) whether each prediction is right.

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
    """Return (coverage, error rate) of the answered rows, by increasing coverage up to 1."""
    return thin_curve(*risk_coverage_curve(confidences, is_right))


def thin_curve(x: NDArray[np.float64], y: NDArray[np.float64]) -> Points:
    """Return at most `MAX_POINTS` points about equally spaced along the curve, with both ends.

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
