"""Scores of a classifier from its probabilities: accuracy, precision, recall, F1, log loss, AUROC.

Owns the definition of all scores: the epoch lists, the final scores and the bootstrap use the same
functions. Intervals are in intervals.py, the display of scores in reporting. Agreement with
scikit-learn is tested.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bertfit.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

PROBABILITY_FLOOR = 1e-7
"""Lower bound of probabilities in the log loss."""
WORST_LOG_LOSS = -math.log(PROBABILITY_FLOOR)
"""Maximum log loss of a row, 16.1 nats."""

_SUM_TOLERANCE = 0.02
"""Tolerance for the sum of a row, enough for probabilities rounded to bfloat16."""


@dataclass(frozen=True, slots=True)
class ClassScores:
    """Scores of one class, each in [0, 1]; 0 if the denominator is 0, as in scikit-learn.

    So a class without rows has a recall of 0 here; tables show a dash instead.
    """

    precision: float
    recall: float
    f1: float
    support: int
    """Number of rows with this label."""


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores of one set of rows.

    The macro averages are over the classes that occur among the labels or predictions of these
    rows, as in scikit-learn by default: a class without any does not lower the average, but one
    without rows that is predicted counts as 0.
    """

    num_rows: int
    accuracy: float
    macro_precision: float
    macro_recall: float
    macro_f1: float
    log_loss: float
    """Mean over the rows, in nats; bounded by `PROBABILITY_FLOOR`."""
    auroc: float | None
    """Area under the ROC curve of the second class; None unless there are two classes, both
    with rows."""
    per_class: dict[str, ClassScores]
    """All classes of the model, by label name, in the order of `label_names`."""
    confusion: list[list[int]]
    """(C, C) counts; row = true class, column = predicted class."""
    label_names: list[str]

    def to_json(self) -> dict[str, Any]:
        """Return plain numbers, strings, lists and dicts."""
        return asdict(self)


def score(
    probabilities: ArrayLike,
    label_ids: ArrayLike,
    label_names: Sequence[str],
    *,
    predicted_ids: ArrayLike | None = None,
) -> Scores:
    """Compute all scores of the rows.

    Args:
        probabilities: (n, C), each row summing to 1.
        label_ids: (n,) integers in [0, C).
        label_names: The C names, in the order of the columns.
        predicted_ids: (n,) predicted classes; None takes the (first) most probable class.

    Raises:
        DataError: There are no rows, or the shapes, ids, names or probabilities are not as above.

    Example:
        >>> scores = score([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]], [0, 1, 1], ["neg", "pos"])
        >>> scores.confusion, round(scores.macro_f1, 4), scores.auroc
        ([[1, 0], [1, 1]], 0.6667, 1.0)
    """
    probabilities, label_ids = check_predictions(probabilities, label_ids)
    if len(label_names) != probabilities.shape[1]:
        message = (
            f"expected a name for each of {probabilities.shape[1]} classes, "
            f"got {len(label_names)} names"
        )
        raise DataError(message)
    predicted_ids = probabilities.argmax(axis=1) if predicted_ids is None else predicted_ids
    confusion = count_confusion(predicted_ids, label_ids, num_labels=len(label_names))
    macro = macro_scores(ClassCounts.of_confusion(confusion))
    return Scores(
        num_rows=len(label_ids),
        accuracy=float(macro.accuracy),
        macro_precision=float(macro.precision),
        macro_recall=float(macro.recall),
        macro_f1=float(macro.f1),
        log_loss=float(row_log_losses(probabilities, label_ids).mean()),
        auroc=_auroc(probabilities, label_ids),
        per_class=_score_classes(confusion, label_names),
        confusion=confusion.tolist(),
        label_names=list(label_names),
    )


def accuracy_and_macro_f1(
    predicted_ids: ArrayLike, label_ids: ArrayLike, num_labels: int
) -> tuple[float, float]:
    """Return accuracy and macro F1; cheap enough for every epoch.

    Args:
        predicted_ids: (n,) integers in [0, num_labels).
        label_ids: (n,) integers in [0, num_labels).
        num_labels: C.

    Raises:
        DataError: There are no rows, the lengths differ, or an id is out of range.

    Example:
        >>> accuracy_and_macro_f1([0, 1, 1, 1], [0, 0, 1, 1], 2)
        (0.75, 0.7333333333333334)
    """
    predicted_ids, label_ids = _check_pairs(predicted_ids, label_ids, num_labels)
    weights = np.ones(len(label_ids))
    macro = macro_scores(count_classes(predicted_ids, label_ids, weights, num_labels=num_labels))
    return float(macro.accuracy), float(macro.f1)


def collapsed_class(predicted_ids: ArrayLike, label_ids: ArrayLike) -> int | None:
    """Return the class if all predictions are of one class and the labels are not, or None.

    Example:
        >>> collapsed_class([1, 1, 1], [0, 1, 0]), collapsed_class([1, 1, 1], [1, 1, 1])
        (1, None)
    """
    predicted = np.unique(np.asarray(predicted_ids))
    has_several_labels = np.unique(np.asarray(label_ids)).size > 1
    return int(predicted[0]) if predicted.size == 1 and has_several_labels else None


def check_predictions(
    probabilities: ArrayLike, label_ids: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return probabilities (n, C), rescaled to sum to 1, and label ids (n,).

    Raises:
        DataError: They are not n ≥ 1 rows of C ≥ 1 probabilities with n ids in [0, C).
    """
    probabilities = np.asarray(probabilities, dtype=np.float64)
    if probabilities.ndim != 2 or 0 in probabilities.shape:
        message = f"expected probabilities as (rows, classes), got shape {probabilities.shape}"
        raise DataError(message)
    label_ids = _check_ids(label_ids, probabilities.shape[1], what="label ids")
    if len(label_ids) != len(probabilities):
        message = f"expected {len(probabilities)} label ids, one per row, got {len(label_ids)}"
        raise DataError(message)
    sums = probabilities.sum(axis=1)
    is_wrong = ~(np.abs(sums - 1) <= _SUM_TOLERANCE) | ~(probabilities >= 0).all(axis=1)
    if is_wrong.any():
        row = int(is_wrong.argmax())
        message = (
            "expected probabilities of at least 0 that sum to 1 in each row, got "
            f"{probabilities[row, :5].tolist()} in row {row} ({is_wrong.sum()} such rows)"
        )
        raise DataError(message, hint="Give probabilities (softmax of the logits), not logits.")
    return probabilities / sums[:, np.newaxis], label_ids


def row_log_losses(
    probabilities: NDArray[np.float64], label_ids: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return (n,) the negative log of each label's probability, in nats."""
    of_label = probabilities[np.arange(len(label_ids)), label_ids]
    return -np.log(np.clip(of_label, PROBABILITY_FLOOR, 1.0))


def log_losses_if(
    probabilities: NDArray[np.float64], label_ids: NDArray[np.int64], answers: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return (n,) log losses if all predictions were right, and (n,) if all were wrong.

    For rows that are right, the latter uses the mean probability of the other classes.
    """
    of_answer = probabilities[np.arange(len(answers)), answers]
    others = np.clip((1 - of_answer) / max(probabilities.shape[1] - 1, 1), PROBABILITY_FLOOR, 1.0)
    losses = row_log_losses(probabilities, label_ids)
    if_wrong = np.where(answers == label_ids, -np.log(others), losses)
    return row_log_losses(probabilities, answers), if_wrong


def weighted_aurocs(
    is_positive: NDArray[np.bool_], weights: NDArray[np.float64], tie_starts: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return (R,) the share of positive-negative pairs in the right order; ties count half.

    Rows must be sorted by score; NaN for resamples with only one class.

    Source:
        Hanley & McNeil 1982 (the area is the Mann-Whitney statistic).
    """
    positives = np.add.reduceat(weights * is_positive, tie_starts, axis=1)
    negatives = np.add.reduceat(weights * ~is_positive, tie_starts, axis=1)
    num_below = np.cumsum(negatives, axis=1) - negatives / 2
    num_ordered = np.einsum("rt,rt->r", positives, num_below)
    num_pairs = positives.sum(axis=1) * negatives.sum(axis=1)
    aurocs = np.full(len(weights), np.nan)
    np.divide(num_ordered, num_pairs, out=aurocs, where=num_pairs > 0)
    return aurocs


def count_confusion(
    predicted_ids: ArrayLike, label_ids: ArrayLike, *, num_labels: int
) -> NDArray[np.int64]:
    """Return (C, C) counts; row = true class, column = predicted class.

    Raises:
        DataError: There are no rows, the lengths differ, or an id is out of range.
    """
    predicted_ids, label_ids = _check_pairs(predicted_ids, label_ids, num_labels)
    cells = np.bincount(label_ids * num_labels + predicted_ids, minlength=num_labels**2)
    return cells.reshape(num_labels, num_labels)


def list_confused(confusion: Sequence[Sequence[int]]) -> list[tuple[int, int, int]]:
    """Return (rows, true class, predicted class) of each pair that was confused, most rows first.

    Example:
        >>> list_confused([[5, 1], [2, 0]])
        [(2, 1, 0), (1, 0, 1)]
    """
    pairs = [
        (count, true, predicted)
        for true, row in enumerate(confusion)
        for predicted, count in enumerate(row)
        if count and true != predicted
    ]
    return sorted(pairs, key=lambda pair: -pair[0])


def count_predictions(confusion: Sequence[Sequence[int]]) -> list[int]:
    """Return (C,) how often each class was predicted.

    Args:
        confusion: (C, C) counts; row = true class, column = predicted class.

    Example:
        >>> count_predictions([[3, 1], [0, 0]])
        [3, 1]
    """
    counts: list[int] = np.asarray(confusion).sum(axis=0).tolist()
    return counts


@dataclass(frozen=True, slots=True)
class MacroScores:
    """Accuracy and macro averages, of one set of rows or of many, (…)."""

    accuracy: NDArray[np.float64]
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    f1: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ClassCounts:
    """The numbers of rows that the rates of each class need, of one set of rows or of many."""

    hits: NDArray[Any]
    """(…, C) right predictions, the diagonal of the confusion matrix."""
    labelled: NDArray[Any]
    """(…, C) rows of the class."""
    predicted: NDArray[Any]
    """(…, C) predictions of the class."""

    @classmethod
    def of_confusion(cls, confusion: NDArray[Any]) -> ClassCounts:
        """Take the counts from confusion matrices (…, C, C)."""
        hits = np.diagonal(confusion, axis1=-2, axis2=-1)
        return cls(hits, confusion.sum(axis=-1), confusion.sum(axis=-2))


def count_classes(
    predicted_ids: NDArray[np.int64],
    label_ids: NDArray[np.int64],
    weights: NDArray[Any],
    *,
    num_labels: int,
) -> ClassCounts:
    """Return the counts of each class, if rows count as often as their weights say.

    Args:
        predicted_ids: (n,) integers in [0, num_labels).
        label_ids: (n,) the same.
        weights: (…, n).
        num_labels: C.
    """
    num_cells = num_labels**2
    if num_cells <= 2 * len(label_ids):
        cells = _sum_by_id(label_ids * num_labels + predicted_ids, weights, num_cells)
        return ClassCounts.of_confusion(cells.reshape(*weights.shape[:-1], num_labels, num_labels))
    # With many classes, most of a matrix would be zero.
    is_right = predicted_ids == label_ids
    return ClassCounts(
        _sum_by_id(label_ids[is_right], weights[..., is_right], num_labels),
        _sum_by_id(label_ids, weights, num_labels),
        _sum_by_id(predicted_ids, weights, num_labels),
    )


def _sum_by_id(ids: NDArray[np.int64], weights: NDArray[Any], num_ids: int) -> NDArray[np.float64]:
    """Return (…, num_ids) the sums of weights (…, n) by id (n,)."""
    if weights.ndim == 1:
        return np.bincount(ids, weights=weights, minlength=num_ids).astype(np.float64, copy=False)
    return np.stack([_sum_by_id(ids, of_set, num_ids) for of_set in weights])


def macro_scores(counts: ClassCounts) -> MacroScores:
    """Return accuracy and macro averages.

    The averages are over the classes with rows or predictions.
    """
    precision, recall, f1 = _class_rates(counts)
    num_classes = (counts.labelled + counts.predicted > 0).sum(axis=-1)
    return MacroScores(
        accuracy=counts.hits.sum(axis=-1) / counts.labelled.sum(axis=-1),
        precision=precision.sum(axis=-1) / num_classes,
        recall=recall.sum(axis=-1) / num_classes,
        f1=f1.sum(axis=-1) / num_classes,
    )


def _class_rates(
    counts: ClassCounts,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return precision, recall and F1 of each class, (…, C), with 0/0 = 0."""
    precision = counts.hits / np.maximum(counts.predicted, 1)
    recall = counts.hits / np.maximum(counts.labelled, 1)
    f1 = 2 * counts.hits / np.maximum(counts.labelled + counts.predicted, 1)
    return precision, recall, f1


def _score_classes(
    confusion: NDArray[np.int64], label_names: Sequence[str]
) -> dict[str, ClassScores]:
    columns = [rate.tolist() for rate in _class_rates(ClassCounts.of_confusion(confusion))]
    support = confusion.sum(axis=1).tolist()
    rows = zip(*columns, support, strict=True)
    return {name: ClassScores(*row) for name, row in zip(label_names, rows, strict=True)}


def _auroc(probabilities: NDArray[np.float64], label_ids: NDArray[np.int64]) -> float | None:
    if probabilities.shape[1] != 2 or np.unique(label_ids).size != 2:
        return None
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(label_ids, probabilities[:, 1]))


def _check_pairs(
    predicted_ids: ArrayLike, label_ids: ArrayLike, num_labels: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    predicted_ids = _check_ids(predicted_ids, num_labels, what="predicted ids")
    label_ids = _check_ids(label_ids, num_labels, what="label ids")
    if len(predicted_ids) != len(label_ids):
        message = f"expected a prediction per label, got {len(predicted_ids)} and {len(label_ids)}"
        raise DataError(message)
    return predicted_ids, label_ids


def _check_ids(ids: ArrayLike, num_labels: int, *, what: str) -> NDArray[np.int64]:
    array = np.asarray(ids)
    if array.ndim != 1 or array.size == 0:
        message = f"expected {what} as a list of at least one, got shape {array.shape}"
        raise DataError(message)
    if not np.issubdtype(array.dtype, np.integer):
        message = f"expected {what} as integers, got {array.dtype}"
        raise DataError(message)
    if array.min() < 0 or array.max() >= num_labels:
        span = f"{array.min()} to {array.max()}"
        message = f"expected {what} from 0 to {num_labels - 1}, got {span}"
        raise DataError(message)
    return array.astype(np.int64)
