"""Compare two models on the same rows: how much they differ, and whether it could be chance.

Compares a model with a baseline, or two models. Tests and resampling are in intervals.py, the words
of the verdict in verdicts.py. Models are given as arrays of probabilities.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bertfit.errors import DataError
from bertfit.evaluation.few_differences import widen_where_alike, widen_where_few_mistakes
from bertfit.evaluation.interval import LEVEL, Interval, intervals_to_json
from bertfit.evaluation.intervals import (
    bootstrap_intervals,
    mcnemar_p_value,
    paired_difference_interval,
)
from bertfit.evaluation.metrics import (
    WORST_LOG_LOSS,
    accuracy_and_macro_f1,
    check_predictions,
    count_classes,
    macro_scores,
    row_log_losses,
)
from bertfit.evaluation.resampling import resample_intervals
from bertfit.evaluation.units import count_units
from bertfit.evaluation.verdicts import describe_against_baseline

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import ArrayLike, NDArray

SCORE_NAMES = ("accuracy", "macro_f1", "log_loss")
"""The scores by which two models are compared."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """A model and a baseline on the same rows; both predict the most probable class."""

    baseline_name: str
    model_accuracy: float
    model_macro_f1: float
    model_intervals: dict[str, Interval]
    """Bootstrap intervals of its accuracy and macro F1."""
    baseline_accuracy: float
    baseline_macro_f1: float
    difference: float
    """Accuracy of the model minus that of the baseline, in [-1, 1]."""
    interval: Interval
    """Interval of the difference."""
    p_value: float
    """Exact McNemar test, assuming independent rows."""
    verdict: str
    """One sentence, ready to print."""

    def to_json(self) -> dict[str, Any]:
        """Return plain numbers, strings and dicts."""
        return {**asdict(self), "model_intervals": intervals_to_json(self.model_intervals)}


@dataclass(frozen=True, slots=True)
class Difference:
    """A score of two models on the same rows."""

    a: float
    b: float
    difference: float
    """Score of A minus score of B."""
    interval: Interval
    """Interval of the difference."""


@dataclass(frozen=True, slots=True)
class PairedComparison:
    """Two models compared on the same rows."""

    num_rows: int
    scores: dict[str, Difference]
    """The scores of `SCORE_NAMES`, by name."""
    p_value: float
    """Exact McNemar test of the accuracies, assuming independent rows."""
    num_both_right: int
    num_only_a_right: int
    num_only_b_right: int
    num_both_wrong: int
    num_disagreeing: int
    """Rows for which the predicted classes differ."""
    num_units: int
    """Number of rows or groups that were resampled."""

    @property
    def grouped(self) -> bool:
        """Whether whole groups were resampled."""
        return self.num_units < self.num_rows

    @property
    def could_be_chance(self) -> bool:
        """Whether the difference in accuracy could be chance.

        It is not chance only if the interval, which accounts for groups, excludes zero, and the
        exact test, which is valid for few rows, rejects.
        """
        return self.p_value >= 1 - LEVEL or not self.scores["accuracy"].interval.excludes_zero

    def to_json(self) -> dict[str, Any]:
        """Return plain numbers, strings and dicts."""
        further = {"could_be_chance": self.could_be_chance, "grouped": self.grouped, "level": LEVEL}
        return {**asdict(self), **further}


def compare_predictions(
    probabilities_a: ArrayLike,
    probabilities_b: ArrayLike,
    label_ids: ArrayLike,
    *,
    predicted_ids: tuple[ArrayLike, ArrayLike] | None = None,
    groups: ArrayLike | None = None,
    num_resamples: int = 2000,
    seed: int = 0,
) -> PairedComparison:
    """Compare two models on the same rows, with paired bootstrap intervals and McNemar's test.

    Both are scored on the same resamples, so the difficulty of rows that they share cancels.

    Args:
        probabilities_a: (n, C).
        probabilities_b: (n, C), same rows, same order of classes.
        label_ids: (n,) integers in [0, C).
        predicted_ids: (n,) predicted classes of A and of B; None takes the most probable classes.
        groups: (n,) group of each row, resampled whole; a row with group None is its own group.
        num_resamples: Number of bootstrap resamples.
        seed: Seed of the bootstrap.

    Raises:
        ConfigError: `num_resamples` is out of range.
        DataError: The rows are not as above.

    Source: Efron & Tibshirani 1993, chapter 13; Dietterich 1998, section 3.1 (McNemar's test).
    """
    probabilities_a, label_ids = check_predictions(probabilities_a, label_ids)
    probabilities_b, label_ids = check_predictions(probabilities_b, label_ids)
    if probabilities_a.shape != probabilities_b.shape:
        shapes = f"{probabilities_a.shape} and {probabilities_b.shape}"
        raise DataError(f"expected both models on the same rows and classes, got shapes {shapes}")
    pair = (probabilities_a, probabilities_b)
    given_a, given_b = predicted_ids or tuple(one.argmax(axis=1) for one in pair)
    answers = (np.asarray(given_a, dtype=np.int64), np.asarray(given_b, dtype=np.int64))
    scorers = [
        _make_scorer(probabilities, predicted, label_ids)
        for probabilities, predicted in zip(pair, answers, strict=True)
    ]
    *intervals, loss_a, loss_b = _resample_pair(
        scorers, len(label_ids), groups=groups, num_resamples=num_resamples, seed=seed
    )
    intervals = widen_where_alike(intervals, answers, label_ids, groups)
    models = list(zip(pair, answers, strict=True))
    intervals[-1] = widen_where_few_mistakes(
        intervals[-1], (loss_a, loss_b), models, label_ids, groups
    )
    values = [scorer(np.ones(len(label_ids), dtype=np.int64)).tolist() for scorer in scorers]
    scores = {
        name: Difference(a, b, a - b, interval)
        for name, a, b, interval in zip(SCORE_NAMES, *values, intervals, strict=True)
    }
    return _count_agreement(answers, label_ids, scores, groups)


def _resample_pair(
    scorers: Sequence[Callable[[NDArray[np.int64]], NDArray[np.float64]]],
    num_rows: int,
    *,
    groups: ArrayLike | None,
    num_resamples: int,
    seed: int,
) -> list[Interval]:
    """Return the intervals of the differences in `SCORE_NAMES`, and of the log loss of A and of B.

    Args:
        scorers: From `_make_scorer`, of A and of B.
        num_rows: n.
        groups: (n,) group of each row, or None.
        num_resamples: Number of resamples.
        seed: Seed of the draws.
    """

    def score_resample(weights: NDArray[np.int64]) -> list[float]:
        a, b = (scorer(weights) for scorer in scorers)
        return [*(a - b).tolist(), *(float(one[SCORE_NAMES.index("log_loss")]) for one in (a, b))]

    losses = (0.0, WORST_LOG_LOSS)
    return resample_intervals(
        score_resample,
        num_rows,
        groups=groups,
        num_resamples=num_resamples,
        seed=seed,
        biased=[SCORE_NAMES.index("macro_f1")],
        within=[(-1.0, 1.0), (-1.0, 1.0), (-WORST_LOG_LOSS, WORST_LOG_LOSS), losses, losses],
    )


def compare_with_baseline(
    model_probabilities: ArrayLike,
    baseline_probabilities: ArrayLike,
    label_ids: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    baseline_name: str,
    num_resamples: int = 2000,
    seed: int = 0,
) -> Comparison:
    """Compare a model with a baseline on the same rows, and word the verdict.

    Both predict the most probable class, because a threshold chosen for recall, for example, gives
    up accuracy on purpose.

    The model is called better or worse only if both the bootstrap interval of the difference, which
    accounts for groups, excludes zero, and McNemar's exact test, valid for few rows, rejects.

    Args:
        model_probabilities: (n, C).
        baseline_probabilities: (n, C), same rows.
        label_ids: (n,).
        groups: (n,) group of each row (such as a movie), or None if rows are independent.
        baseline_name: Name of the baseline in the verdict.
        num_resamples: Number of bootstrap resamples.
        seed: Seed of the bootstrap.

    Raises:
        DataError: The arrays differ in length or have no rows.
    """
    both = (model_probabilities, baseline_probabilities)
    checked = [check_predictions(each, label_ids) for each in both]
    are_right = [probabilities.argmax(axis=1) == ids for probabilities, ids in checked]
    drawn: dict[str, Any] = {"groups": groups, "num_resamples": num_resamples, "seed": seed}
    interval = paired_difference_interval(*are_right, **drawn)
    intervals = bootstrap_intervals(model_probabilities, label_ids, with_auroc=False, **drawn)
    of_model, of_baseline = (_score_most_probable(*each) for each in checked)
    comparison = Comparison(
        baseline_name=baseline_name,
        model_accuracy=of_model[0],
        model_macro_f1=of_model[1],
        model_intervals={name: intervals[name] for name in ("accuracy", "macro_f1")},
        baseline_accuracy=of_baseline[0],
        baseline_macro_f1=of_baseline[1],
        difference=of_model[0] - of_baseline[0],
        interval=interval,
        p_value=mcnemar_p_value(*are_right),
        verdict="",
    )
    grouped = count_units(groups, len(are_right[0])) < len(are_right[0])
    verdict = describe_against_baseline(
        comparison,
        grouped=grouped,
        recall=intervals["macro_recall"],
        num_labels=len(np.unique(checked[0][1])),
    )
    return replace(comparison, verdict=verdict)


def _score_most_probable(
    probabilities: NDArray[np.float64], label_ids: NDArray[np.int64]
) -> tuple[float, float]:
    """Return accuracy and macro F1 of the most probable classes."""
    return accuracy_and_macro_f1(probabilities.argmax(axis=1), label_ids, probabilities.shape[1])


def _make_scorer(
    probabilities: NDArray[np.float64],
    predicted_ids: NDArray[np.int64],
    label_ids: NDArray[np.int64],
) -> Callable[[NDArray[np.int64]], NDArray[np.float64]]:
    """Return a function from row weights to the scores of `SCORE_NAMES`."""
    num_labels = probabilities.shape[1]
    losses = row_log_losses(probabilities, label_ids)

    def score_rows(weights: NDArray[np.int64]) -> NDArray[np.float64]:
        counts = count_classes(predicted_ids, label_ids, weights, num_labels=num_labels)
        macro = macro_scores(counts)
        log_loss = float(weights @ losses) / int(weights.sum())
        return np.array([float(macro.accuracy), float(macro.f1), log_loss])

    return score_rows


def _count_agreement(
    predicted_ids: tuple[NDArray[np.int64], NDArray[np.int64]],
    label_ids: NDArray[np.int64],
    scores: dict[str, Difference],
    groups: ArrayLike | None,
) -> PairedComparison:
    predicted_a, predicted_b = predicted_ids
    right_a, right_b = predicted_a == label_ids, predicted_b == label_ids
    return PairedComparison(
        num_rows=len(label_ids),
        scores=scores,
        p_value=mcnemar_p_value(right_a, right_b),
        num_both_right=int((right_a & right_b).sum()),
        num_only_a_right=int((right_a & ~right_b).sum()),
        num_only_b_right=int((~right_a & right_b).sum()),
        num_both_wrong=int((~right_a & ~right_b).sum()),
        num_disagreeing=int((predicted_a != predicted_b).sum()),
        num_units=count_units(groups, len(label_ids)),
    )
