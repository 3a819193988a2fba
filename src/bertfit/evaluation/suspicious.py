"""Rank labels that are probably wrong, from out-of-sample probabilities.

The caller chooses the source of the probabilities. It must not be a model that was trained on these
labels, because it would confirm them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bertfit.evaluation.metrics import check_predictions

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True, slots=True)
class SuspiciousLabels:
    """All n rows in the order in which to review them, as parallel columns."""

    rows: NDArray[np.int64]
    """(n,) row numbers, the most suspicious first."""
    suggested_ids: NDArray[np.int64]
    """(n,) the class suggested by the probabilities; may be the label itself."""
    margins: NDArray[np.float64]
    """(n,) probability of the given label minus that of the best other class, in [-1, 1]."""
    confidences: NDArray[np.float64]
    """(n,) probability of the suggested class."""
    num_issues: int
    """Number of leading rows that confident learning counts as wrong."""
    thresholds: NDArray[np.float64]
    """(C,) mean probability of each class over the rows with its label; NaN without rows."""


def rank_suspicious_labels(probabilities: ArrayLike, label_ids: ArrayLike) -> SuspiciousLabels:
    """Rank labels by the evidence of the probabilities against them.

    A row counts as wrong if its most probable class is not its label, and its probability of
    another class reaches the mean probability of that class over the rows with its label: classes
    that the model is less certain about need less. Such rows come first; ties in both parts are
    ordered by the normalized margin, the lowest first.

    Args:
        probabilities: (n, C), out of sample: from models not trained on these rows' labels.
        label_ids: (n,) the given labels, integers in [0, C).

    Raises:
        DataError: The rows are not as above.

    Source:
        Northcutt, Jiang & Chuang 2021, arXiv 1911.00068, section 3.1 (thresholds and the
        confident joint), section 3.2 (ranking by normalized margin). The requirement that the most
        probable class is not the label is an addition: without it, a model that is certain of
        nothing would doubt all rows of a class.

    Example:
        >>> probabilities = [[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.9, 0.1], [0.2, 0.8]]
        >>> ranked = rank_suspicious_labels(probabilities, [0, 0, 1, 1, 1])
        >>> ranked.rows[: ranked.num_issues].tolist(), ranked.suggested_ids[0]
        ([3], np.int64(0))
    """
    probabilities, label_ids = check_predictions(probabilities, label_ids)
    num_rows = len(label_ids)
    of_label = probabilities[np.arange(num_rows), label_ids]
    thresholds = _mean_self_confidence(of_label, label_ids, num_labels=probabilities.shape[1])
    # Classes without rows have the threshold NaN, so they are never counted.
    confident = np.where(probabilities >= thresholds - 1e-12, probabilities, -1.0)
    counted_ids = confident.argmax(axis=1)
    is_counted = (confident.max(axis=1) >= 0) & (counted_ids != label_ids)
    is_issue = is_counted & (probabilities.argmax(axis=1) != label_ids)
    others = probabilities.copy()
    others[np.arange(num_rows), label_ids] = -1.0
    best_other_ids = others.argmax(axis=1)
    margins = of_label - others.max(axis=1) if probabilities.shape[1] > 1 else of_label
    suggested = np.where(margins < 0, best_other_ids, label_ids)
    suggested = np.where(is_issue, counted_ids, suggested)
    rows = np.lexsort((np.arange(num_rows), margins, ~is_issue))
    return SuspiciousLabels(
        rows=rows,
        suggested_ids=suggested[rows],
        margins=margins[rows],
        confidences=probabilities[rows, suggested[rows]],
        num_issues=int(is_issue.sum()),
        thresholds=thresholds,
    )


def _mean_self_confidence(
    of_label: NDArray[np.float64], label_ids: NDArray[np.int64], *, num_labels: int
) -> NDArray[np.float64]:
    counts = np.bincount(label_ids, minlength=num_labels)
    sums = np.bincount(label_ids, weights=of_label, minlength=num_labels)
    means = np.full(num_labels, np.nan)
    np.divide(sums, counts, out=means, where=counts > 0)
    return means
