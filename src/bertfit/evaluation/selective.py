"""Selective prediction: how much accuracy is gained by abstaining at low confidence.

Owns the risk-coverage curve, its area, and the short form of the curve that is kept in a run.
"""

from __future__ import annotations

import numbers
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bertfit.errors import ConfigError, DataError
from bertfit.evaluation.interval import Interval, exact_interval

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

KEPT_CONFIDENCES = (
    *(step / 10 for step in range(5)),
    *(step / 20 for step in range(10, 18)),
    *(step / 100 for step in range(90, 100)),
    *(0.995, 0.999, 0.9995, 0.9999),
)
"""Confidences for which a run records coverage and accuracy."""


@dataclass(frozen=True, slots=True)
class Expectation:
    """Coverage and accuracy on the validation rows when abstaining below a confidence."""

    confidence: float
    """The recorded confidence of these figures: the requested one or the next lower one."""
    coverage: float
    """Share of answered rows, in [0, 1]."""
    accuracy: float | None
    """Accuracy of the answered rows, in [0, 1]; None if no row was answered."""
    interval: Interval | None
    """95 % interval of the accuracy, assuming independent rows."""
    num_rows: int
    """Number of validation rows, answered or not."""


@dataclass(frozen=True, slots=True)
class SelectiveCurve:
    """Coverage and accuracy of n validation rows at a few confidences, as counts."""

    num_rows: int
    confidences: tuple[float, ...]
    num_answered: tuple[int, ...]
    """For each of `confidences`, the rows with at least that confidence."""
    num_right: tuple[int, ...]
    """Number of these that are right."""

    def to_json(self) -> dict[str, Any]:
        """Return plain numbers and lists."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}


def keep_curve(confidences: ArrayLike, is_right: ArrayLike) -> SelectiveCurve:
    """Return the short form of the curve.

    Args:
        confidences: (n,) probabilities of the predictions.
        is_right: (n,) whether each prediction is right.
    """
    confidences, is_right = _check_rows(confidences, is_right)
    answered = [confidences >= confidence for confidence in KEPT_CONFIDENCES]
    return SelectiveCurve(
        num_rows=len(confidences),
        confidences=KEPT_CONFIDENCES,
        num_answered=tuple(int(rows.sum()) for rows in answered),
        num_right=tuple(int((rows & is_right).sum()) for rows in answered),
    )


def expect(curve: SelectiveCurve, abstain_below: float) -> Expectation:
    """Return the figures of the highest recorded confidence not above `abstain_below`.

    From there to `abstain_below`, coverage falls and accuracy mostly rises.
    """
    at = int(np.searchsorted(curve.confidences, abstain_below + 1e-9, side="right")) - 1
    num_answered, num_right = curve.num_answered[at], curve.num_right[at]
    return Expectation(
        confidence=curve.confidences[at],
        coverage=num_answered / curve.num_rows,
        accuracy=num_right / num_answered if num_answered else None,
        interval=exact_interval(num_right, num_answered) if num_answered else None,
        num_rows=curve.num_rows,
    )


def check_abstain_below(value: Any) -> float:  # noqa: ANN401 (any argument of a caller)
    """Check and return the confidence below which the model abstains.

    Raises:
        ConfigError: It is not in (0, 1].
    """
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not is_number or not 0 < value <= 1:
        message = f"abstain_below: expected a confidence above 0 and at most 1, got {value!r}"
        raise ConfigError(message, hint="0.9 leaves texts without a label where p < 0.9.")
    return float(value)


def find_least(abstain_below: float | None) -> float:
    """Return the least confidence that gets a label: 0 if all do.

    Raises:
        ConfigError: As in `check_abstain_below`.
    """
    return 0.0 if abstain_below is None else check_abstain_below(abstain_below)


def risk_coverage_curve(
    confidences: ArrayLike, is_right: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return coverages (n,), increasing to 1, and the error rate of the answered rows for each.

    The most confident rows are answered first; rows of equal confidence share their mistakes, as
    if they were in random order.

    Args:
        confidences: (n,) probabilities of the predictions.
        is_right: (n,) whether each prediction is right.

    Raises:
        DataError: There are no rows, or the lengths differ.

    Source:
        Geifman & El-Yaniv 2017, arXiv 1705.08500, section 2.

    Example:
        >>> coverages, risks = risk_coverage_curve([0.9, 0.6], [True, False])
        >>> coverages.tolist(), risks.tolist()
        ([0.5, 1.0], [0.0, 0.5])
    """
    confidences, is_right = _check_rows(confidences, is_right)
    mistakes = share_mistakes(rank_rows(confidences, is_right))
    num_answered = np.arange(1, len(mistakes) + 1)
    return num_answered / len(mistakes), np.cumsum(mistakes) / num_answered


class RankedRows(NamedTuple):
    """Rows sorted by confidence, the most confident first."""

    order: NDArray[np.int64]
    """(n,) row numbers."""
    ties: NDArray[np.int64]
    """(n,) 0-based number of each row's confidence; rows of equal confidence share it."""
    is_wrong: NDArray[np.bool_]
    """(n,)."""


def rank_rows(confidences: NDArray[np.float64], is_right: NDArray[np.bool_]) -> RankedRows:
    """Return the rows, most confident first."""
    order = np.argsort(-confidences, kind="stable")
    _, ties = np.unique(-confidences[order], return_inverse=True)
    return RankedRows(order, ties, ~is_right[order])


def share_mistakes(
    ranked: RankedRows, counts: NDArray[np.int64] | None = None
) -> NDArray[np.float64]:
    """Return the mistakes of the ranked rows, averaged over rows of equal confidence.

    Args:
        ranked: n rows.
        counts: (n,) how often each row was drawn, by row number; None means once.
    """
    if counts is None:
        counts = np.ones(len(ranked.order), dtype=np.int64)
    weights = counts[ranked.order]
    totals = np.bincount(ranked.ties, weights=weights)
    shares = np.bincount(ranked.ties, weights=weights * ranked.is_wrong) / np.maximum(totals, 1)
    return np.repeat(shares, totals.astype(np.int64))


def weigh_mistakes(ranked: RankedRows) -> NDArray[np.float64]:
    """Return (n,) how much a mistake in each row adds to n times AURC, by row number.

    The mean is 1, as for n times the error rate.
    """
    num_rows = len(ranked.order)
    by_rank = np.cumsum(1 / np.arange(num_rows, 0, -1))[::-1]
    shared = np.bincount(ranked.ties, weights=by_rank) / np.bincount(ranked.ties)
    weights = np.empty(num_rows)
    weights[ranked.order] = shared[ranked.ties]
    return weights


def risk_area(mistakes: NDArray[np.float64]) -> float:
    """Return AURC, the mean error rate of ranked rows over all coverages, in [0, 1].

    Source:
        Geifman, Uziel & El-Yaniv 2019, arXiv 1805.08206, section 3, on the curve of 2017.
    """
    return float((np.cumsum(mistakes) / np.arange(1, len(mistakes) + 1)).mean())


def _check_rows(
    confidences: ArrayLike, is_right: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    confidences = np.asarray(confidences, dtype=np.float64)
    is_right = np.asarray(is_right, dtype=bool)
    if confidences.ndim != 1 or confidences.shape != is_right.shape or confidences.size == 0:
        message = (
            "expected a confidence and a right or wrong for each of at least one row, got shapes "
            f"{confidences.shape} and {is_right.shape}"
        )
        raise DataError(message)
    return confidences, is_right
