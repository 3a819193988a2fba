"""Resampling: draws of units, and bootstrap intervals of arbitrary scores.

Scores are defined in metrics.py; corrections for specific scores are in intervals.py.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from bertfit.errors import ConfigError
from bertfit.evaluation.interval import (
    LEVEL,
    Interval,
    allow_for_long_tail,
    cut,
    stretch,
    take_out_bias,
)
from bertfit.evaluation.units import are_rows, count_even_units, number_units

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

_CHUNK_NUMBERS = 2_000_000
"""Array elements per chunk of resamples: 16 MB each for weights and for confusion matrices."""


def resample_intervals(
    score_resample: Callable[[NDArray[np.int64]], Sequence[float]],
    num_rows: int,
    *,
    groups: ArrayLike | None = None,
    num_resamples: int = 1000,
    seed: int = 0,
    biased: Collection[int] = (),
    costs: Collection[int] = (),
    within: Sequence[tuple[float, float]],
) -> list[Interval]:
    """Return bootstrap intervals of arbitrary scores of the same rows, corrected for few units.

    Args:
        score_resample: Called with how often each row was drawn, (n,); returns the scores.
        num_rows: n, at least 1.
        groups: (n,) group of each row, resampled whole; or None.
        num_resamples: Number of resamples.
        seed: Seed of the draws.
        biased: Indices of scores whose intervals are corrected for the bias of the resamples, as
            those of macro averages in `bootstrap_intervals`.
        costs: Indices of scores that are mean costs, as for `interval.allow_for_long_tail`.
        within: Range of each score, which is also its interval if there is only one unit.

    Raises:
        ConfigError: `num_resamples` is out of range.
        DataError: There is not one group per row.
    """
    check_settings(num_resamples)
    units = number_units(groups, num_rows)
    num_units = int(units.max()) + 1
    draws = draw_counts(num_units, num_resamples, seed=seed, num_numbers=num_rows)
    scores = [score_resample(counts[units].astype(np.int64)) for chunk in draws for counts in chunk]
    whole = score_resample(np.ones(num_rows, dtype=np.int64))
    num_even, is_grouped = count_even_units(units), not are_rows(units)
    intervals = []
    for place, column in enumerate(np.asarray(scores).T):
        interval = percentile_interval(column)
        if place in biased:
            bias = float(column.mean() - whole[place])
            interval = take_out_bias(interval, bias, is_grouped=is_grouped)
        score = float(whole[place])
        interval = stretch(interval, score, num_units=num_even)
        if place in costs:
            deviation = float(column.std())
            interval = allow_for_long_tail(interval, score, deviation=deviation, num_units=num_even)
        low, high = within[place]
        intervals.append(Interval(low, high) if num_units == 1 else cut(interval, low, high))
    return intervals


def draw_counts(
    num_units: int, num_resamples: int, *, seed: int, num_numbers: int
) -> Iterator[NDArray[np.float64]]:
    """Yield (resamples, units) how often each unit was drawn, in chunks of bounded size.

    `num_numbers` is the size, per resample, of the largest array that the caller computes.
    """
    rng = np.random.default_rng(seed)
    chunk_size = max(1, _CHUNK_NUMBERS // num_numbers)
    for start in range(0, num_resamples, chunk_size):
        size = min(chunk_size, num_resamples - start)
        counts = np.empty((size, num_units))
        for draw in range(size):
            drawn = rng.integers(num_units, size=num_units)
            counts[draw] = np.bincount(drawn, minlength=num_units)
        yield counts


def percentile_interval(values: NDArray[np.float64]) -> Interval:
    """Return the central interval of the resampled values, ignoring NaN."""
    values = values[~np.isnan(values)]
    if not len(values):  # a few resamples may all have one class alone
        return Interval(0.0, 1.0)
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(low), float(high))


def check_settings(num_resamples: int) -> None:
    """Check the settings of the bootstrap.

    Raises:
        ConfigError: `num_resamples` is out of range.
    """
    if num_resamples < 1:
        message = f"expected at least 1 resample, got {num_resamples}"
        raise ConfigError(message)
