"""Rank labels that are probably wrong, from out-of-sample probabilities.

The caller chooses the source of the probabilities. It must not be a model that was trained on these
labels, because it would confirm them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bertfit.evaluation.metrics import check_predictions
from bertfit.evaluation.scaling import fit_temperature

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

_MOST_NUMBERS = 1_000_000
"""A temperature is fitted to as many probabilities: more cost seconds, and change it little."""


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
    num_expected: float | None
    """How many rows it would count, on average, if all labels were right: the errors of the model,
    as far as its probabilities tell. Too few if the model is surer than right; too many if it has
    learned from wrong labels to be unsure. None with more than two classes: of 77 it was four times
    what was found."""


def rank_suspicious_labels(probabilities: ArrayLike, label_ids: ArrayLike) -> SuspiciousLabels:
    """Rank labels by the evidence of the probabilities against them.

    A row counts as wrong if its most probable class is not its label, and is as probable as it is
    on average in the rows with its label: classes that the model is less certain about need less.
    Such rows come first; ties in both parts are ordered by the normalized margin, the lowest first.

    Args:
        probabilities: (n, C), out of sample: from models not trained on these rows' labels.
        label_ids: (n,) the given labels, integers in [0, C).

    Raises:
        DataError: The rows are not as above.

    Source:
        Northcutt, Jiang & Chuang 2021, arXiv 1911.00068, section 3.1 (thresholds and the
        confident joint), section 3.2 (ranking by normalized margin). There, any class may be the
        one that is as probable as in its own rows. That it must be the most probable one is an
        addition: without it, a model that is certain of nothing would doubt all rows of a class,
        and rare classes would be suggested where they are nearly impossible.

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
    best_ids = probabilities.argmax(axis=1)
    is_issue = _are_confident(probabilities, best_ids, thresholds) & (best_ids != label_ids)
    others = probabilities.copy()
    others[np.arange(num_rows), label_ids] = -1.0
    best_other_ids = others.argmax(axis=1)
    margins = of_label - others.max(axis=1) if probabilities.shape[1] > 1 else of_label
    suggested = np.where(margins < 0, best_other_ids, label_ids)
    suggested = np.where(is_issue, best_ids, suggested)
    has_two = probabilities.shape[1] <= 2
    rows = np.lexsort((np.arange(num_rows), margins, ~is_issue))
    return SuspiciousLabels(
        rows=rows,
        suggested_ids=suggested[rows],
        margins=margins[rows],
        confidences=probabilities[rows, suggested[rows]],
        num_issues=int(is_issue.sum()),
        num_expected=_expect_issues(probabilities, label_ids) if has_two else None,
    )


def _are_confident(
    probabilities: NDArray[np.float64],
    best_ids: NDArray[np.int64],
    thresholds: NDArray[np.float64],
) -> NDArray[np.bool_]:
    """Return (n,) whether the most probable class reaches its threshold."""
    best = probabilities[np.arange(len(best_ids)), best_ids]
    # Classes without rows have the threshold NaN, which nothing reaches.
    reached: NDArray[np.bool_] = best >= thresholds[best_ids] - 1e-12
    return reached


def _expect_issues(probabilities: NDArray[np.float64], label_ids: NDArray[np.int64]) -> float:
    """Return how many rows would count as wrong, on average, if all labels were right.

    Right labels are drawn from the probabilities; the mean of such draws has a closed form, given
    their mean thresholds. A model that is right more often than it is sure, as regularized word
    counts are, is sharpened first, by a temperature. One that is sure more often than right is left
    as it is: wrong labels would look the same.
    """
    from scipy.special import softmax

    logits = np.log(np.clip(probabilities, 1e-300, 1))
    drawn = _draw_rows(len(logits), max(1, _MOST_NUMBERS // logits.shape[1]))
    weight = fit_temperature(logits[drawn], label_ids[drawn]).weights[0]
    chances = softmax(max(1.0, weight) * logits, axis=1)
    sums, counts = (chances * probabilities).sum(axis=0), chances.sum(axis=0)
    thresholds = np.full(len(counts), np.nan)
    np.divide(sums, counts, out=thresholds, where=counts > 0)
    best_ids, rows = probabilities.argmax(axis=1), np.arange(len(probabilities))
    is_confident = _are_confident(probabilities, best_ids, thresholds)
    return float((1 - chances[rows, best_ids])[is_confident].sum())


def _draw_rows(num_rows: int, most: int) -> NDArray[np.int64]:
    """Return all rows, or `most` drawn ones: every other row may have one label alone."""
    if num_rows <= most:
        return np.arange(num_rows)
    return np.random.default_rng(0).choice(num_rows, most, replace=False)


def _mean_self_confidence(
    of_label: NDArray[np.float64], label_ids: NDArray[np.int64], *, num_labels: int
) -> NDArray[np.float64]:
    counts = np.bincount(label_ids, minlength=num_labels)
    sums = np.bincount(label_ids, weights=of_label, minlength=num_labels)
    means = np.full(num_labels, np.nan)
    np.divide(sums, counts, out=means, where=counts > 0)
    return means
