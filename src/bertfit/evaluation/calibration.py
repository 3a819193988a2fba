"""Measure calibration: calibration error and Brier score.

Scaling, which improves it, is in scaling.py; ranking by confidence is in selective.py.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bertfit.evaluation.interval import (
    Interval,
    allow_for_mistakes,
    cut,
    have_few_units,
    intervals_to_json,
    stretch,
)
from bertfit.evaluation.metrics import check_predictions, row_log_losses
from bertfit.evaluation.resampling import resample_intervals
from bertfit.evaluation.selective import rank_rows, risk_area, share_mistakes, weigh_mistakes
from bertfit.evaluation.units import are_rows, count_even_units, number_units

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

_MAX_BINS = 15
"""Bins of the calibration error if there are enough rows."""
_MIN_BIN_ROWS = 10
_NOISE_QUANTILE = 0.95
_NUM_NOISE_DRAWS = 1000
_LEAST_NOISE_DRAWS = 200
_NOISE_NUMBERS = 50_000_000
"""Random numbers of all draws together, which take half a second; of more rows, draws are fewer."""


@dataclass(frozen=True, slots=True)
class CalibrationScores:
    """Calibration scores of n rows."""

    ece: float
    """Expected calibration error in [0, 1]: mean gap between confidence and accuracy over bins of
    about equally many rows."""
    ece_noise: float
    """95 % quantile of the `ece` of a perfectly calibrated model on as many rows, or groups of
    rows: a lower `ece` is no evidence of miscalibration."""
    brier: float
    """Mean squared error of the probabilities; in [0, 1] for two classes, otherwise in [0, 2]."""
    log_loss: float
    """Mean over the rows, in nats."""


@dataclass(frozen=True, slots=True)
class ConfidenceScores:
    """Scores of a model's confidence on n rows."""

    calibration: CalibrationScores
    uncalibrated: CalibrationScores | None
    """The same scores before calibration; None if the model was not calibrated."""
    aurc: float
    """Area under the risk-coverage curve, in [0, 1]: mean error rate over all coverages."""
    error_rate: float
    """The `aurc` of an uninformative confidence."""
    intervals: dict[str, Interval]
    """95 % bootstrap intervals of brier and aurc."""

    def to_json(self) -> dict[str, Any]:
        """Return plain numbers and dicts."""
        return {
            **asdict(self.calibration),
            "aurc": self.aurc,
            "intervals": intervals_to_json(self.intervals),
            "uncalibrated": asdict(self.uncalibrated) if self.uncalibrated else None,
        }


def score_calibration(
    probabilities: ArrayLike,
    label_ids: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    seed: int = 0,
) -> CalibrationScores:
    """Compute the calibration scores of the rows.

    Args:
        probabilities: (n, C), each row summing to 1.
        label_ids: (n,) integers in [0, C).
        groups: (n,) group of each row, whose rows may be right or wrong together; or None.
        seed: Seed of the draws for `ece_noise`.

    Raises:
        DataError: The rows are not as above.
    """
    probabilities, label_ids = check_predictions(probabilities, label_ids)
    confidences, is_right = take_best(probabilities, label_ids)
    return CalibrationScores(
        ece=expected_calibration_error(confidences, is_right),
        ece_noise=_draw_noise(
            confidences, is_right, number_units(groups, len(label_ids)), seed=seed
        ),
        brier=float(row_brier_scores(probabilities, label_ids).mean()),
        log_loss=float(row_log_losses(probabilities, label_ids).mean()),
    )


def score_confidence(
    probabilities: ArrayLike,
    label_ids: ArrayLike,
    *,
    predicted_ids: ArrayLike | None = None,
    uncalibrated: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    num_resamples: int = 1000,
    seed: int = 0,
) -> ConfidenceScores:
    """Compute calibration scores and the area under the risk-coverage curve, with intervals.

    Args:
        probabilities: (n, C), each row summing to 1.
        label_ids: (n,) integers in [0, C).
        predicted_ids: (n,) predicted classes; None takes the most probable class.
        uncalibrated: (n, C) probabilities before calibration, or None.
        groups: (n,) group of each row, resampled whole; or None.
        num_resamples: Number of bootstrap resamples.
        seed: Seed of all draws.

    Raises:
        DataError: The rows are not as above.
    """
    probabilities, label_ids = check_predictions(probabilities, label_ids)
    answered = probabilities.argmax(axis=1) if predicted_ids is None else np.asarray(predicted_ids)
    confidences = probabilities[np.arange(len(label_ids)), answered]
    brier_scores = row_brier_scores(probabilities, label_ids)
    is_right = answered == label_ids
    ranked, units = rank_rows(confidences, is_right), number_units(groups, len(label_ids))

    def score_resample(counts: NDArray[np.int64]) -> tuple[float, float]:
        brier = float(counts @ brier_scores) / int(counts.sum())
        return brier, risk_area(share_mistakes(ranked, counts))

    ranges = [(0.0, 1.0 if probabilities.shape[1] == 2 else 2.0), (0.0, 1.0)]
    brier, aurc = resample_intervals(
        score_resample,
        len(label_ids),
        groups=groups,
        num_resamples=num_resamples,
        seed=seed,
        costs=() if have_few_units(is_right, units) else (0, 1),
        within=ranges,
    )
    weights = weigh_mistakes(ranked)
    of_brier = _brier_scores_if(probabilities, brier_scores, answered, is_right)
    brier = allow_for_mistakes(brier, is_right, of_brier, units)
    aurc = allow_for_mistakes(aurc, is_right, (np.zeros_like(weights), weights), units)
    before = None
    if uncalibrated is not None:
        before = score_calibration(uncalibrated, label_ids, groups=groups, seed=seed)
    return ConfidenceScores(
        calibration=score_calibration(probabilities, label_ids, groups=groups, seed=seed),
        uncalibrated=before,
        aurc=risk_area(share_mistakes(ranked)),
        error_rate=float((~is_right).mean()),
        intervals={"brier": cut(brier, *ranges[0]), "aurc": cut(aurc, *ranges[1])},
    )


def expected_calibration_error(confidences: ArrayLike, is_right: ArrayLike) -> float:
    """Return the mean gap between confidence and accuracy over bins of about equally many rows.

    There are up to 15 bins, one for every 10 rows. Rows of equal confidence share a bin, so that
    the order of rows does not matter.

    Args:
        confidences: (n,) n ≥ 1 probabilities of the predictions.
        is_right: (n,) whether each prediction is right.

    Source:
        Guo et al. 2017, arXiv 1706.04599, section 2 (the error); Nguyen & O'Connor 2015,
        arXiv 1508.05154, section 3 (bins of equally many rows).

    Example:
        >>> round(expected_calibration_error([0.8] * 10, [True] * 6 + [False] * 4), 4)
        0.2
    """
    confidences = np.asarray(confidences, dtype=np.float64)
    bins = _assign_bins(confidences)
    gaps = np.bincount(bins, weights=confidences - np.asarray(is_right, dtype=np.float64))
    return float(np.abs(gaps).sum() / len(confidences))


def row_brier_scores(
    probabilities: NDArray[np.float64], label_ids: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return (n,) the squared error of each row's probabilities.

    For two classes, the error of one of them, in [0, 1]; for more, the sum over classes, in [0, 2].

    Source:
        Brier 1950, "Verification of forecasts expressed in terms of probability"; halved for two
        classes, as is usual.
    """
    num_rows, num_labels = probabilities.shape
    errors = probabilities.copy()
    errors[np.arange(num_rows), label_ids] -= 1
    squares: NDArray[np.float64] = np.square(errors).sum(axis=1)
    return squares / 2 if num_labels == 2 else squares


def _brier_scores_if(
    probabilities: NDArray[np.float64],
    brier_scores: NDArray[np.float64],
    answers: NDArray[np.int64],
    is_right: NDArray[np.bool_],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return (n,) Brier scores if all predictions were right, and (n,) if all were wrong.

    For rows that are right, the latter is the mean over the other classes as true class.
    """
    if_right = row_brier_scores(probabilities, answers)
    num_others = max(probabilities.shape[1] - 1, 1)
    of_answer = probabilities[np.arange(len(answers)), answers]
    further = 2 * (of_answer - (1 - of_answer) / num_others) / (2 if num_others == 1 else 1)
    return if_right, np.where(is_right, if_right + further, brier_scores)


def take_best(
    probabilities: NDArray[np.float64], label_ids: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the probability of each row's most probable class, and whether it is right, (n,)."""
    is_right: NDArray[np.bool_] = probabilities.argmax(axis=1) == label_ids
    confidences: NDArray[np.float64] = probabilities.max(axis=1)
    return confidences, is_right


def count_bins(num_rows: int) -> int:
    """Return the number of calibration bins for a number of rows."""
    return max(1, min(_MAX_BINS, num_rows // _MIN_BIN_ROWS))


def _assign_bins(confidences: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return (n,) the 0-based bin of each row."""
    num_bins = count_bins(len(confidences))
    edges = np.quantile(confidences, np.arange(1, num_bins) / num_bins)
    bins: NDArray[np.int64] = np.searchsorted(np.unique(edges), confidences, side="left")
    return bins


def _draw_noise(
    confidences: NDArray[np.float64],
    is_right: NDArray[np.bool_],
    units: NDArray[np.int64],
    *,
    seed: int,
) -> float:
    """Return the upper quantile of the calibration error of a perfectly calibrated model.

    Source:
        Bröcker & Smith 2007, "Increasing the reliability of reliability diagrams", section 3
        (labels drawn from the forecast itself).
    """
    rng = np.random.default_rng(seed)
    bins = _assign_bins(confidences)
    errors = np.empty(_count_draws(len(confidences)))
    for draw in range(len(errors)):
        drawn = rng.random(len(confidences)) < confidences
        errors[draw] = np.abs(np.bincount(bins, weights=confidences - drawn)).sum()
    noise = float(np.quantile(errors, _NOISE_QUANTILE) / len(confidences))
    if are_rows(units):
        return noise
    return max(noise, _draw_noise_of_groups(confidences - is_right, bins, units, rng))


def _count_draws(num_numbers: int) -> int:
    """Return how many draws of so many numbers are made."""
    return max(_LEAST_NOISE_DRAWS, min(_NUM_NOISE_DRAWS, _NOISE_NUMBERS // num_numbers))


def _draw_noise_of_groups(
    gaps: NDArray[np.float64],
    bins: NDArray[np.int64],
    units: NDArray[np.int64],
    rng: np.random.Generator,
) -> float:
    """Return the same if the rows of a group are right or wrong together, as far as they are here.

    The gaps (n,) of each group get a random sign in each draw: their mean is 0 if the model is
    calibrated. Less the mean of their bin, they would vary too little where it has few groups.

    Source:
        Cameron, Gelbach & Miller 2008, "Bootstrap-based improvements for inference with clustered
        errors", section 3 (the wild cluster bootstrap).
    """
    num_units, num_bins = int(units.max()) + 1, int(bins.max()) + 1
    cells = np.bincount(units * num_bins + bins, weights=gaps, minlength=num_units * num_bins)
    cells, errors = cells.reshape(num_units, num_bins), np.empty(_count_draws(num_units))
    for draw in range(len(errors)):
        errors[draw] = np.abs(rng.choice([-1.0, 1.0], num_units) @ cells).sum()
    noise = Interval(0.0, float(np.quantile(errors, _NOISE_QUANTILE)) / len(gaps))
    return stretch(noise, 0.0, num_units=count_even_units(units)).high
