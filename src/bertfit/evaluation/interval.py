"""Confidence intervals: exact ones for proportions, and corrections of bootstrap intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bertfit.evaluation.units import are_rows

if TYPE_CHECKING:
    from numpy.typing import NDArray

LEVEL = 0.95
"""Confidence level of all intervals."""
FEW = 10
"""With fewer mistakes or hits, resamples are not reliable."""


@dataclass(frozen=True, slots=True)
class Interval:
    """Both ends of a confidence interval, in the unit of the score."""

    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether zero lies outside."""
        return not self.low <= 0 <= self.high


def intervals_to_json(intervals: Mapping[str, Interval]) -> dict[str, dict[str, float]]:
    """Return 95 % intervals, by score name, as plain values."""
    return {
        name: {"low": interval.low, "high": interval.high, "level": LEVEL}
        for name, interval in intervals.items()
    }


def read_interval(ends: Mapping[str, float] | None) -> Interval | None:
    """Return an interval that was written as plain values; None if there is none."""
    return None if ends is None else Interval(ends["low"], ends["high"])


def exact_interval(num_right: float, num_trials: float) -> Interval:
    """Return the exact binomial interval of a share; the counts need not be whole, as for F1.

    Source:
        Clopper & Pearson 1934.
    """
    from scipy.stats import beta

    tail, num_wrong = (1 - LEVEL) / 2, num_trials - num_right
    low = float(beta.ppf(tail, num_right, num_wrong + 1)) if num_right > 0 else 0.0
    high = float(beta.ppf(1 - tail, num_right + 1, num_wrong)) if num_wrong > 0 else 1.0
    return Interval(low, high)


def average_exact(trials: Sequence[tuple[float, float]]) -> Interval:
    """Return the interval of a mean of independent shares, each given as (hits, trials).

    Source:
        Zou & Donner 2008, Statistics in Medicine 27, section 2.
    """
    shares = np.array([hits / num for hits, num in trials])
    exact = [exact_interval(hits, num) for hits, num in trials]
    below = shares - [one.low for one in exact]
    above = [one.high for one in exact] - shares
    mean = float(shares.mean())
    down, up = (float(np.linalg.norm(part)) / len(trials) for part in (below, above))
    return Interval(mean - down, mean + up)


def has_few(is_right: NDArray[np.bool_], units: NDArray[np.int64]) -> bool:
    """Return whether mistakes or hits are too few: below `FEW` without groups, 0 with groups."""
    fewest = min(int(is_right.sum()), int((~is_right).sum()))
    return fewest == 0 or (are_rows(units) and fewest < FEW)


def have_few_units(is_right: NDArray[np.bool_], units: NDArray[np.int64]) -> bool:
    """Return whether fewer than `FEW` units, rows or groups, have a mistake, or have a hit.

    Example:
        >>> is_right = np.arange(100) >= 12
        >>> have_few_units(is_right, np.arange(100)), have_few_units(is_right, np.arange(100) // 2)
        (False, True)
    """
    return min(len(np.unique(units[is_right])), len(np.unique(units[~is_right]))) < FEW


def count_effective(is_right: NDArray[np.bool_], units: NDArray[np.int64]) -> float:
    """Return as how many independent rows the rows tell the share of mistakes.

    Without groups, these are the rows. With groups, as many rows as would give the variance between
    the groups, as far as that is known: their number counts as much as a mistake, or a hit.

    Source:
        Korn & Graubard 1998, Survey Methodology 24, section 2 (the exact interval with the
        effective sample size, adjusted for the number of groups).
    """
    num_rows, num_units = len(units), len(np.unique(units))
    share = float((~is_right).mean())
    if num_units == num_rows:
        return num_rows
    if share in {0.0, 1.0} or num_units == 1:
        return num_units
    sums = np.bincount(np.unique(units, return_inverse=True)[1], weights=~is_right - share)
    of_groups = num_units / (num_units - 1) * float((sums**2).sum()) / num_rows**2
    of_rows = share * (1 - share) / (num_rows - 1)
    reach = find_reach(num_units) / find_reach(num_rows)
    found = min(float(num_rows), num_rows * of_rows / max(of_groups, 1e-300) / reach**2)
    # A single mistake says nothing of whether those of a group come together.
    num_telling = min(int(is_right.sum()), int((~is_right).sum()))
    return (min(found, num_units) + (num_telling - 1) * found) / num_telling


def allow_for_mistakes(
    interval: Interval,
    is_right: NDArray[np.bool_],
    costs: tuple[NDArray[np.float64], NDArray[np.float64]],
    units: NDArray[np.int64],
) -> Interval:
    """Widen the interval of a mean cost if there are too few mistakes or hits.

    They are if fewer than `FEW` rows, or groups, have one. The exact interval gives the possible
    shares of mistakes. A mistake costs the mean over the observed ones and one more in any row,
    because the model's own confidence is not trusted.

    Args:
        interval: Bootstrap interval of the mean cost.
        is_right: (n,).
        costs: (n,) cost of each row if its prediction is right, and (n,) if it is wrong; or what
            two models differ by in both cases.
        units: (n,) resampling unit of each row: the number of its group, or of the row.
    """
    if len(np.unique(units)) == 1 or not have_few_units(is_right, units):
        return interval
    if_right, further = costs[0], costs[1] - costs[0]
    num_wrong = int((~is_right).sum())
    each = (float(further[~is_right].sum()) + float(further.mean())) / (num_wrong + 1)
    num_effective = count_effective(is_right, units)
    share = exact_interval(num_wrong / len(is_right) * num_effective, num_effective)
    ends = [float(if_right.mean()) + end * each for end in (share.low, share.high)]
    return Interval(min(interval.low, *ends), max(interval.high, *ends))


def allow_for_certain(
    interval: Interval, score: float, trials: Sequence[tuple[float, float]]
) -> Interval:
    """Widen the interval of a mean of shares by the uncertainty of those that are 0 or 1.

    These are constant in resamples, as if a class whose 20 rows are all right never had an error.

    Args:
        interval: Bootstrap interval of the mean.
        score: The mean.
        trials: (hits, trials) of each share.

    Source:
        Zou & Donner 2008, Statistics in Medicine 27, section 2 (limits of a sum).
    """
    certain = [(hits / num, exact_interval(hits, num)) for hits, num in trials]
    certain = [(share, exact) for share, exact in certain if share in {0.0, 1.0}]
    down = np.linalg.norm([share - exact.low for share, exact in certain]) / len(trials)
    up = np.linalg.norm([exact.high - share for share, exact in certain]) / len(trials)
    return Interval(
        score - float(np.hypot(max(0.0, score - interval.low), down)),
        score + float(np.hypot(max(0.0, interval.high - score), up)),
    )


def allow_for_skew(
    interval: Interval, score: float, *, deviation: float, num_units: float
) -> Interval:
    """Widen the interval of a score near 1 (or 0) to at least that of its log odds.

    Resamples of few units contain the same few hard ones, so they do not reach as far from 1 as
    new samples would.

    Args:
        interval: Bootstrap interval.
        score: In [0, 1]; at 0 and 1 the interval is not changed.
        deviation: Standard deviation of the resampled scores.
        num_units: Units that limit the precision, as of one size: for AUROC, those of the smaller
            class.

    Source:
        Pepe 2003, "The Statistical Evaluation of Medical Tests", section 5.2 (the log odds).
    """
    from scipy.special import expit, logit

    if not 0 < score < 1:
        return interval
    away = find_reach(num_units) * deviation / (score * (1 - score))
    low, high = expit(logit(score) - away), expit(logit(score) + away)
    return Interval(min(interval.low, float(low)), max(interval.high, float(high)))


def allow_for_long_tail(
    interval: Interval, score: float, *, deviation: float, num_units: float
) -> Interval:
    """Widen the interval of a mean cost, at least 0, to at least that of its logarithm.

    Few rows cost much and most nothing, so resamples do not reach as far up as new samples would.
    With very few, this reaches too far; see `allow_for_mistakes`.

    Args:
        interval: Bootstrap interval.
        score: At least 0; at 0 the interval is not changed.
        deviation: Standard deviation of the resampled scores.
        num_units: Number of rows, or groups, as of one size.

    Source:
        DiCiccio & Efron 1996, Statistical Science 11, section 2 (intervals on another scale).
    """
    if score <= 0:
        return interval
    times = float(np.exp(min(find_reach(num_units) * deviation / score, 700.0)))
    return Interval(min(interval.low, score / times), max(interval.high, score * times))


def find_reach(num_units: float) -> float:
    """Return how many standard deviations an interval reaches to each side: Student's quantile."""
    from scipy.stats import norm, t

    tail = (1 + LEVEL) / 2
    return float(t.ppf(tail, num_units - 1) if num_units > 1 else norm.ppf(tail))


def stretch(interval: Interval, score: float, *, num_units: float) -> Interval:
    """Move both ends away from the score, to correct for few units.

    A bootstrap uses the spread of the sample, which is too small by sqrt((n - 1) / n) and itself
    uncertain, as Student's distribution accounts for.

    Source:
        Hesterberg 2015, The American Statistician 69, on expanded percentile intervals.
    """
    from scipy.stats import norm

    if num_units < 2:
        return interval
    of_few = find_reach(num_units) * np.sqrt(num_units / (num_units - 1))
    further = float(of_few / norm.ppf((1 + LEVEL) / 2)) - 1
    return Interval(
        interval.low - further * max(0.0, score - interval.low),
        interval.high + further * max(0.0, interval.high - score),
    )


def take_out_bias(interval: Interval, bias: float, *, is_grouped: bool) -> Interval:
    """Shift both ends against the bias of the resamples, and the leading end by as much again.

    The score itself has that bias if rows were drawn at random, as in resampling, and none if a
    fixed number was drawn per class. Which one holds is unknown, so the interval covers both.

    If groups were drawn, the trailing end stays: where one group has most of the rows, resamples
    without it have another score, and that is no bias of the score.

    Example:
        >>> take_out_bias(Interval(0.25, 0.5), bias=-0.125, is_grouped=False)
        Interval(low=0.375, high=0.75)
        >>> take_out_bias(Interval(0.25, 0.5), bias=-0.125, is_grouped=True)
        Interval(low=0.25, high=0.75)
    """
    down, up = min(0.0, -bias), max(0.0, -bias)
    if is_grouped:
        return Interval(interval.low + 2 * down, interval.high + 2 * up)
    return Interval(interval.low + up + 2 * down, interval.high + down + 2 * up)


def cut(interval: Interval, low: float = 0.0, high: float = 1.0) -> Interval:
    """Clip an interval to the range of its score."""
    return Interval(max(low, interval.low), min(high, interval.high))
