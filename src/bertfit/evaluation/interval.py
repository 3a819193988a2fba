"""An interval: exact ones for proportions, and corrections of bootstrap intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Interval:
    """Both ends of a confidence interval, in the unit of the score."""

    low: float
    high: float


def intervals_to_json(intervals: Mapping[str, Interval]) -> dict[str, dict[str, float]]:
    """Return 95 % intervals, by the name of their score, as plain values."""
    return {
        name: {"low": interval.low, "high": interval.high, "level": 0.95}
        for name, interval in intervals.items()
    }


def exact_interval(num_right: float, num_trials: float, *, level: float = 0.95) -> Interval:
    """Return the exact binomial interval of a share; F1 is one of trials that need not be whole.

    Source:
        Clopper & Pearson 1934.
    """
    from scipy.stats import beta

    tail, num_wrong = (1 - level) / 2, num_trials - num_right
    low = float(beta.ppf(tail, num_right, num_wrong + 1)) if num_right > 0 else 0.0
    high = float(beta.ppf(1 - tail, num_right + 1, num_wrong)) if num_wrong > 0 else 1.0
    return Interval(low, high)


def average_exact(trials: Sequence[tuple[float, float]], *, level: float) -> Interval:
    """Return the interval of a mean of independent shares, each of (hits, trials).

    Source:
        Zou & Donner 2008, Statistics in Medicine 27, section 2.
    """
    shares = np.array([hits / num for hits, num in trials])
    exact = [exact_interval(hits, num, level=level) for hits, num in trials]
    below = shares - [one.low for one in exact]
    above = [one.high for one in exact] - shares
    mean = float(shares.mean())
    down, up = (float(np.linalg.norm(part)) / len(trials) for part in (below, above))
    return Interval(mean - down, mean + up)


def stretch(interval: Interval, score: float, *, num_units: int, level: float) -> Interval:
    """Move both ends away from the score, as far as so few units make it less certain.

    A bootstrap takes the spread of the units in hand for that of all: it is too small by
    sqrt((n - 1) / n), and unsure itself, which is what Student's distribution is for.

    Source:
        Hesterberg 2015, The American Statistician 69, on expanded percentile intervals.
    """
    from scipy.stats import norm, t

    if num_units < 2:
        return interval
    of_few = t.ppf((1 + level) / 2, num_units - 1) * np.sqrt(num_units / (num_units - 1))
    further = float(of_few / norm.ppf((1 + level) / 2)) - 1
    return Interval(
        interval.low - further * max(0.0, score - interval.low),
        interval.high + further * max(0.0, interval.high - score),
    )


def take_out_bias(interval: Interval, bias: float) -> Interval:
    """Move both ends against the bias of the resamples, and the one in front as far again.

    The score has that bias itself where rows were drawn by chance, as resamples draw them, and none
    where so many were drawn of each class. Which it was is not known, so both are allowed for.

    Example:
        >>> take_out_bias(Interval(0.25, 0.5), bias=-0.125)
        Interval(low=0.375, high=0.75)
    """
    back = -bias
    return Interval(interval.low + back + min(0.0, back), interval.high + back + max(0.0, back))


def cut(interval: Interval, low: float = 0.0, high: float = 1.0) -> Interval:
    """Leave nothing of an interval that its score cannot be."""
    return Interval(max(low, interval.low), min(high, interval.high))
