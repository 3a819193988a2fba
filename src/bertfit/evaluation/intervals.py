"""Uncertainty of scores: bootstrap intervals, and paired tests of two models.

Owns the intervals of all scores; draws are in resampling.py, scores are defined in metrics.py.
Does not use any model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bertfit.errors import DataError
from bertfit.evaluation.few_differences import allow_for_alike
from bertfit.evaluation.interval import (
    Interval,
    allow_for_certain,
    allow_for_long_tail,
    allow_for_mistakes,
    allow_for_skew,
    average_exact,
    cut,
    exact_interval,
    has_few,
    have_few_units,
    stretch,
    take_out_bias,
)
from bertfit.evaluation.metrics import (
    WORST_LOG_LOSS,
    check_predictions,
    count_classes,
    log_losses_if,
    macro_scores,
    row_log_losses,
    weighted_aurocs,
)
from bertfit.evaluation.resampling import check_settings, draw_counts, percentile_interval
from bertfit.evaluation.units import are_rows, count_even_units, number_units

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

MACRO_NAMES = ("macro_precision", "macro_recall", "macro_f1")


@dataclass(frozen=True, slots=True)
class _Rows:
    """Rows as the bootstrap needs them; sorted by score if AUROC is computed."""

    label_ids: NDArray[np.int64]
    predicted_ids: NDArray[np.int64]
    log_losses: NDArray[np.float64]
    log_losses_if: tuple[NDArray[np.float64], NDArray[np.float64]]
    """(n,) if the predictions were right, and (n,) if they were wrong."""
    units: NDArray[np.int64]
    """(n,) resampling unit of each row: its group, or itself."""
    num_labels: int
    tie_starts: NDArray[np.int64] | None
    """Start of each run of equal scores; None if AUROC is not requested or not defined."""


def bootstrap_intervals(
    probabilities: ArrayLike,
    label_ids: ArrayLike,
    *,
    predicted_ids: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    with_auroc: bool = True,
    num_resamples: int = 2000,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, Interval]:
    """Return percentile bootstrap intervals of the scores of `metrics.score`.

    With groups, whole groups are drawn (a cluster bootstrap): reviews of one movie are not
    independent, so drawing rows would give too narrow intervals. With one group, rows are drawn.

    Resamples lack some rows of every class, which biases macro averages of classes with few rows
    downwards. Their intervals are shifted by that bias (mean of the resamples minus score) and
    extended as far again, because the score is also biased if rows were drawn at random. With few
    groups (or rows), both ends are moved away from the score by the ratio of Student's to the
    normal quantile.

    With no mistakes (or hits), or fewer than 10 without groups, resamples vary too little. Then
    accuracy gets at least the exact binomial interval, and macro averages that of a mean of exact
    ones; log loss, with fewer than 10 rows or groups that have one, the cost of as many mistakes,
    else at least the interval of its logarithm. A class that is all right, or all wrong, always
    adds its exact interval. AUROC, and with groups accuracy and macro averages, get at least that
    of their log odds; an AUROC of 0 or 1, an exact one by rows of the smaller class.

    Args:
        probabilities: (n, C), each row summing to 1.
        label_ids: (n,) integers in [0, C).
        predicted_ids: (n,) predicted classes; None takes the most probable class.
        groups: (n,) group of each row; a row with group None or "" is its own group.
        with_auroc: Whether to compute AUROC, which takes most of the time.
        num_resamples: Number of resamples; 1,000 or more give stable ends.
        seed: Seed of the draws; the same seed gives the same intervals.
        on_progress: Called now and then with the resamples that are done, and their number.

    Returns:
        By name: accuracy, macro_precision, macro_recall, macro_f1, log_loss, and auroc if requested
        and there are two classes, both with rows (resamples of one class only are excluded).

    Raises:
        ConfigError: `num_resamples` is out of range.
        DataError: The rows are not as above.

    Source:
        Efron & Tibshirani 1993, "An Introduction to the Bootstrap", chapters 10, 13; Davison &
        Hinkley 1997, section 3.8 (groups); Obuchowski & Lieber 2002, Academic Radiology 9 (AUROC).
    """
    check_settings(num_resamples)
    probabilities, label_ids = check_predictions(probabilities, label_ids)
    answers = probabilities.argmax(axis=1) if predicted_ids is None else predicted_ids
    rows = _prepare_rows(probabilities, label_ids, answers, groups, with_auroc=with_auroc)
    numbers, num_units = max(len(label_ids), rows.num_labels), int(rows.units.max()) + 1
    draws = draw_counts(num_units, num_resamples, seed=seed, num_numbers=numbers)
    values = _score_draws(rows, draws, num_resamples, on_progress=on_progress)
    intervals = _take_intervals(rows, values)
    return intervals | _widen_where_few(rows, intervals)


def paired_difference_interval(
    correct_a: ArrayLike,
    correct_b: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    num_resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Return the percentile bootstrap interval of accuracy of A minus accuracy of B.

    Both models are scored on the same resamples, so the difficulty of rows that they share cancels.
    If (nearly) all rows have the same difference, see `few_differences.allow_for_alike`.

    Args:
        correct_a: (n,) whether A is right on each row.
        correct_b: (n,) the same for B.
        groups: (n,) group of each row, resampled whole; or None.
        num_resamples: Number of resamples.
        seed: Seed of the draws.

    Raises:
        ConfigError: `num_resamples` is out of range.
        DataError: The arrays differ in length or are empty.
    """
    check_settings(num_resamples)
    correct_a, correct_b = _check_pair(correct_a, correct_b)
    units = number_units(groups, len(correct_a))
    differences = correct_a.astype(np.int64) - correct_b.astype(np.int64)
    unit_sums = np.bincount(units, weights=differences)
    unit_sizes = np.bincount(units)
    num_units = len(unit_sizes)
    draws = draw_counts(num_units, num_resamples, seed=seed, num_numbers=num_units)
    values = [(counts @ unit_sums) / (counts @ unit_sizes) for counts in draws]
    interval = percentile_interval(np.concatenate(values))
    interval = stretch(interval, float(differences.mean()), num_units=count_even_units(units))
    interval = allow_for_alike(interval, differences, units)
    return cut(interval, low=-1.0, high=1.0)


def mcnemar_p_value(correct_a: ArrayLike, correct_b: ArrayLike) -> float:
    """Return the exact two-sided p-value of "A and B are right equally often".

    Only rows on which exactly one is right count; without such rows, the p-value is 1.0.

    Args:
        correct_a: (n,) whether A is right on each row.
        correct_b: (n,) the same for B.

    Raises:
        DataError: The arrays differ in length or are empty.

    Source:
        McNemar 1947; the exact form as in Dietterich 1998, section 3.1.

    Example:
        >>> mcnemar_p_value([True] * 5, [False] * 5)
        0.0625
    """
    from scipy.stats import binomtest

    correct_a, correct_b = _check_pair(correct_a, correct_b)
    num_only_a = int((correct_a & ~correct_b).sum())
    num_discordant = int((correct_a != correct_b).sum())
    return float(binomtest(num_only_a, num_discordant).pvalue) if num_discordant else 1.0


def _score_draws(
    rows: _Rows,
    draws: Iterable[NDArray[np.float64]],
    num_resamples: int,
    *,
    on_progress: Callable[[int, int], None] | None,
) -> dict[str, NDArray[np.float64]]:
    """Return the scores of all resamples, given in chunks how often each unit was drawn."""
    chunks, num_done = [], 0
    for counts in draws:
        chunks.append(_score_resamples(rows, counts[:, rows.units]))
        num_done += len(counts)
        if on_progress is not None:
            on_progress(num_done, num_resamples)
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}


def _take_intervals(rows: _Rows, values: Mapping[str, NDArray[np.float64]]) -> dict[str, Interval]:
    """Return the interval of each score from its resampled values."""
    whole = _score_resamples(rows, np.ones((1, len(rows.label_ids))))
    intervals, trials, is_grouped = {}, _list_trials(rows), not are_rows(rows.units)
    num_even = count_even_units(rows.units)
    have_few = have_few_units(rows.predicted_ids == rows.label_ids, rows.units)
    for name, each in values.items():
        interval, score = percentile_interval(each), float(whole[name][0])
        if name in MACRO_NAMES:
            interval = take_out_bias(interval, float(each.mean()) - score, is_grouped=is_grouped)
        interval = stretch(interval, score, num_units=num_even)
        if name in MACRO_NAMES:
            interval = allow_for_certain(interval, score, trials[name])
        if name == "auroc" or (is_grouped and name != "log_loss"):
            num_precise = _count_smaller(rows) if name == "auroc" else num_even
            deviation = float(np.nanstd(each))
            interval = allow_for_skew(interval, score, deviation=deviation, num_units=num_precise)
        if name == "log_loss" and not have_few:
            deviation = float(each.std())
            interval = allow_for_long_tail(interval, score, deviation=deviation, num_units=num_even)
        if name == "log_loss" and num_even == 1:  # a single row says nothing about others
            interval = Interval(0.0, WORST_LOG_LOSS)
        interval = cut(interval, high=WORST_LOG_LOSS if name == "log_loss" else 1.0)
        intervals[name] = Interval(min(interval.low, score), max(interval.high, score))
    return intervals


def _prepare_rows(
    probabilities: NDArray[np.float64],
    label_ids: NDArray[np.int64],
    predicted_ids: ArrayLike,
    groups: ArrayLike | None,
    *,
    with_auroc: bool,
) -> _Rows:
    predicted_ids = np.asarray(predicted_ids)
    units = number_units(groups, len(label_ids))
    log_losses = row_log_losses(probabilities, label_ids)
    if_right, if_wrong = log_losses_if(probabilities, label_ids, predicted_ids)
    tie_starts = None
    if with_auroc and probabilities.shape[1] == 2 and np.unique(label_ids).size == 2:
        order = np.argsort(probabilities[:, 1], kind="stable")
        scores = probabilities[order, 1]
        tie_starts = np.flatnonzero(np.diff(scores, prepend=-1.0))
        label_ids, predicted_ids = label_ids[order], predicted_ids[order]
        log_losses, units = log_losses[order], units[order]
        if_right, if_wrong = if_right[order], if_wrong[order]
    return _Rows(
        label_ids,
        predicted_ids,
        log_losses,
        (if_right, if_wrong),
        units,
        num_labels=probabilities.shape[1],
        tie_starts=tie_starts,
    )


def _score_resamples(rows: _Rows, weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Return the scores (R,) of the resamples, given how often each row was drawn, (R, n)."""
    counts = count_classes(rows.predicted_ids, rows.label_ids, weights, num_labels=rows.num_labels)
    macro = macro_scores(counts)
    scores = {
        "accuracy": macro.accuracy,
        "macro_precision": macro.precision,
        "macro_recall": macro.recall,
        "macro_f1": macro.f1,
        "log_loss": (weights @ rows.log_losses) / weights.sum(axis=1),
    }
    if rows.tie_starts is not None:
        scores["auroc"] = weighted_aurocs(rows.label_ids == 1, weights, rows.tie_starts)
    return scores


def _widen_where_few(rows: _Rows, intervals: Mapping[str, Interval]) -> dict[str, Interval]:
    """Return wider intervals of the scores whose resamples vary too little (few mistakes)."""
    is_right = rows.predicted_ids == rows.label_ids
    costs, log_loss = rows.log_losses_if, intervals["log_loss"]
    log_loss = allow_for_mistakes(log_loss, is_right, costs, rows.units)
    wider = {"log_loss": cut(log_loss, high=WORST_LOG_LOSS)}
    if has_few(is_right, rows.units):
        for name, exact in _exact_intervals(rows).items():
            found = intervals[name]
            wider[name] = Interval(min(found.low, exact.low), max(found.high, exact.high))
    auroc = intervals.get("auroc")
    if auroc is not None and auroc.low == auroc.high and auroc.low in {0.0, 1.0}:
        smaller = _count_smaller(rows)
        bound = exact_interval(smaller, smaller).low
        wider["auroc"] = Interval(bound, 1.0) if auroc.low == 1 else Interval(0.0, 1 - bound)
    return wider


def _count_smaller(rows: _Rows) -> int:
    """Return the number of rows, or groups, of the smaller of two classes."""
    return min(len(np.unique(rows.units[rows.label_ids == label])) for label in (0, 1))


def _exact_intervals(rows: _Rows) -> dict[str, Interval]:
    """Return the exact interval of accuracy; for macro averages, that of a mean of exact ones.

    With groups, in which case all rows are right or all are wrong, each group counts once.
    """
    num_units = len(np.unique(rows.units))
    share = float((rows.predicted_ids == rows.label_ids).mean())
    found = {"accuracy": exact_interval(share * num_units, num_units)}
    return found | {name: average_exact(trials) for name, trials in _list_trials(rows).items()}


def _list_trials(rows: _Rows) -> dict[str, list[tuple[float, float]]]:
    """Return (hits, trials) of each class with rows, by macro average; each group counts once."""
    trials: dict[str, list[tuple[float, float]]] = {name: [] for name in MACRO_NAMES}
    for label in np.unique(rows.label_ids):
        is_label, is_answer = rows.label_ids == label, rows.predicted_ids == label
        weight = len(np.unique(rows.units[is_label])) / int(is_label.sum())
        hits = weight * int((is_label & is_answer).sum())
        num_true, num_answered = weight * int(is_label.sum()), weight * int(is_answer.sum())
        of_f1 = (num_true + num_answered) / 2
        for name, num in zip(MACRO_NAMES, (num_answered, num_true, of_f1), strict=True):
            trials[name].append((hits, num or num_true))
    return trials


def _check_pair(
    correct_a: ArrayLike, correct_b: ArrayLike
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    correct_a, correct_b = np.asarray(correct_a), np.asarray(correct_b)
    if correct_a.shape != correct_b.shape or correct_a.ndim != 1 or correct_a.size == 0:
        message = (
            "expected both models scored on the same rows, at least one, got shapes "
            f"{correct_a.shape} and {correct_b.shape}"
        )
        raise DataError(message)
    return correct_a.astype(bool), correct_b.astype(bool)
