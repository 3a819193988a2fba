"""Intervals of differences between two models that differ on few rows, where resamples fall short.

Resamples contain only the few rows that differ, so that they vary too little: if only A is right
on three rows and B on none, no resample has one for B. Here the share of each kind of rows gets its
exact interval.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from bertfit.evaluation.interval import (
    FEW,
    Interval,
    allow_for_mistakes,
    count_effective,
    cut,
    exact_interval,
    have_few_units,
)
from bertfit.evaluation.metrics import count_classes, log_losses_if, row_log_losses
from bertfit.evaluation.units import number_units

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


def allow_for_alike(
    interval: Interval,
    differences: NDArray[np.int64],
    units: NDArray[np.int64],
    *,
    gains: tuple[NDArray[np.float64], float] | None = None,
) -> Interval:
    """Widen the interval of a difference of two scores if resamples vary too little.

    They do if (nearly) all rows have the same difference: if fewer than 10 rows, or groups, have an
    exception. The interval is then at least that of the difference of two shares,
    those of the rows that only A and only B gets right, each times what such a row is worth: the
    mean of those seen and of one more, whose worth is the average row's. With groups, the shares
    are of as many rows as the exceptions tell (`interval.count_effective`). For accuracy, if one
    model alone is right on all rows, it is also at least the exact interval of a share from 0 to 1,
    spread over the range from -1 to 1.

    Args:
        interval: Bootstrap interval of the difference.
        differences: (n,) 1 if only A is right, -1 if only B is, else 0.
        units: (n,) resampling unit of each row: the number of its group, or of the row.
        gains: (n,) what each row adds to the difference, which is their sum, and what the average
            row would add; None for accuracy, to which each adds 1/n.

    Source:
        Zou & Donner 2008, Statistics in Medicine 27, section 2 (limits of a difference).
    """
    are_usual = [differences == usual for usual in (-1, 0, 1)]
    counts = [len(np.unique(units[~is_usual])) for is_usual in are_usual]
    if min(counts) >= FEW:
        return interval
    num_rows = len(units)
    num_told = count_effective(are_usual[int(np.argmin(counts))], units)
    added, one_more = (differences / num_rows, 1 / num_rows) if gains is None else gains
    difference = float(added.sum())
    shares, worths = [], []
    for only in (1, -1):
        rows = differences == only
        shares.append(float(rows.mean()))
        total = abs(float(added[rows].sum())) + one_more
        worths.append(num_rows * total / (np.count_nonzero(rows) + 1))
    a, b = (exact_interval(share * num_told, num_told) for share in shares)
    down = np.hypot((shares[0] - a.low) * worths[0], (b.high - shares[1]) * worths[1])
    up = np.hypot((a.high - shares[0]) * worths[0], (shares[1] - b.low) * worths[1])
    ends = [interval, Interval(difference - float(down), difference + float(up))]
    if gains is None and max(shares) == 1:
        share = exact_interval(shares[0] * num_told, num_told)
        ends.append(Interval(2 * share.low - 1, 2 * share.high - 1))
    return Interval(min(one.low for one in ends), max(one.high for one in ends))


def widen_where_alike(
    intervals: Sequence[Interval],
    predicted_ids: tuple[NDArray[np.int64], NDArray[np.int64]],
    label_ids: NDArray[np.int64],
    groups: ArrayLike | None,
) -> list[Interval]:
    """Widen the intervals of accuracy and macro F1 if (nearly) all rows have the same difference.

    If no answer differs, each class's F1 may still differ by the share of its units (rows or
    groups) that its number allows; the shares are combined as for a mean of independent ones. If
    one model alone is right on all rows, each unit that differs may cost twice as much.

    Args:
        intervals: Intervals of the differences in accuracy, macro F1 and log loss.
        predicted_ids: (n,) answers of A, and of B.
        label_ids: (n,).
        groups: (n,) group of each row, or None.
    """
    (a, b), (accuracy, macro_f1, log_loss) = predicted_ids, intervals
    units = number_units(groups, len(label_ids))
    differences = (a == label_ids).astype(np.int64) - (b == label_ids)
    accuracy = allow_for_alike(accuracy, differences, units)
    reach = _reach_of_macro_f1(label_ids, units)
    if np.array_equal(a, b):
        macro_f1 = Interval(-reach, reach)
    elif abs(int(differences.sum())) == len(differences):
        macro_f1 = Interval(macro_f1.low - 2 * reach, macro_f1.high + 2 * reach)
    else:
        gains = find_f1_gains((a, b), label_ids)
        macro_f1 = allow_for_alike(macro_f1, differences, units, gains=gains)
    return [cut(accuracy, low=-1.0), cut(macro_f1, low=-1.0), log_loss]


def widen_where_few_mistakes(
    interval: Interval,
    of_each: Sequence[Interval],
    pair: Sequence[tuple[NDArray[np.float64], NDArray[np.int64]]],
    label_ids: NDArray[np.int64],
    groups: ArrayLike | None,
) -> Interval:
    """Widen the interval of a difference in log loss if either model has few mistakes, or few hits.

    Each further mistake costs much. The interval is then at least that of the difference of the two
    log losses, each with its own interval, as if they were independent; or, if both models answer
    alike, that of what the same mistakes cost the one more than the other.

    Args:
        interval: Bootstrap interval of the difference.
        of_each: Bootstrap intervals of both log losses.
        pair: (n, C) probabilities and (n,) answers of A, and of B.
        label_ids: (n,).
        groups: (n,) group of each row, or None.

    Source:
        Zou & Donner 2008, Statistics in Medicine 27, section 2 (limits of a difference).
    """
    units = number_units(groups, len(label_ids))
    if not any(have_few_units(answers == label_ids, units) for _, answers in pair):
        return interval
    costs = [log_losses_if(probabilities, label_ids, answers) for probabilities, answers in pair]
    is_right = [answers == label_ids for _, answers in pair]
    if np.array_equal(pair[0][1], pair[1][1]):
        further = (costs[0][0] - costs[1][0], costs[0][1] - costs[1][1])
        return allow_for_mistakes(interval, is_right[0], further, units)
    means = [float(row_log_losses(probabilities, label_ids).mean()) for probabilities, _ in pair]
    a, b = (
        allow_for_mistakes(own, right, cost, units)
        for own, right, cost in zip(of_each, is_right, costs, strict=True)
    )
    difference = means[0] - means[1]
    down = float(np.hypot(means[0] - a.low, b.high - means[1]))
    up = float(np.hypot(a.high - means[0], means[1] - b.low))
    return Interval(min(interval.low, difference - down), max(interval.high, difference + up))


def _reach_of_macro_f1(label_ids: NDArray[np.int64], units: NDArray[np.int64]) -> float:
    """Return by how much macro F1 may differ if it does on no unit that was seen."""
    most = [
        exact_interval(0, len(np.unique(units[label_ids == label]))).high
        for label in np.unique(label_ids)
    ]
    return float(np.linalg.norm(most)) / len(most)


def find_f1_gains(
    predicted_ids: tuple[NDArray[np.int64], NDArray[np.int64]], label_ids: NDArray[np.int64]
) -> tuple[NDArray[np.float64], float]:
    """Return (n,) what each row adds to macro F1 of A minus that of B, and the average row's worth.

    F1 of a class is 2 hits / size, where size counts its rows and its answers. Its difference is
    then exactly (2 (hits of A - hits of B) - F1 (answers of A - answers of B)) / size, with F1 and
    size halfway between A and B: a sum over rows. The mean is over the classes of both models, so
    the sum is not exact if only one of them answers a class without rows. The average row is one
    that A answers rightly and B by another class, the mean over rows and classes.
    """
    num_labels = 1 + max(int(ids.max()) for ids in (*predicted_ids, label_ids))
    ones = np.ones(len(label_ids), dtype=np.int64)
    counts = [count_classes(one, label_ids, ones, num_labels=num_labels) for one in predicted_ids]
    sizes = [np.maximum(one.labelled + one.predicted, 1) for one in counts]
    f1 = sum(2 * one.hits / size for one, size in zip(counts, sizes, strict=True)) / 2
    size = sum(sizes) / 2
    num_there = np.count_nonzero(counts[0].labelled + counts[0].predicted + counts[1].predicted)

    def worth(answers: NDArray[np.int64]) -> NDArray[np.float64]:
        each: NDArray[np.float64] = (2.0 * (answers == label_ids) - f1[answers]) / size[answers]
        return each

    a, b = (worth(answers) for answers in predicted_ids)
    lost = f1 / size  # by answering a class wrongly
    others = (lost.sum() - lost[label_ids]) / max(1, num_there - 1)
    one_more = float((worth(label_ids) + others).mean())
    return (a - b) / num_there, one_more / num_there
