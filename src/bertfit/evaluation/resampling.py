"""Resampling: how often each unit is drawn, and intervals of any scores of the resamples.

Does not define any score (metrics.py), nor what one asks beyond its resamples (intervals.py).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from bertfit.errors import ConfigError
from bertfit.evaluation.interval import Interval, cut, stretch, take_out_bias
from bertfit.evaluation.units import number_units

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

_CHUNK_NUMBERS = 2_000_000
"""Numbers held at once in a chunk of resamples: 16 MB each for weights and for confusions."""


def resample_intervals(
    score_resample: Callable[[NDArray[np.int64]], Sequence[float]],
    num_rows: int,
    *,
    groups: ArrayLike | None = None,
    num_resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    biased: Collection[int] = (),
    within: Sequence[tuple[float, float]],
) -> list[Interval]:
    """Return bootstrap intervals of any scores of the same rows, wider where units are few.

    Args:
        score_resample: Gets how often each row was drawn, (n,), and returns the scores.
        num_rows: n, at least 1.
        groups: (n,) group of each row, drawn whole; or None.
        num_resamples: Draws.
        seed: Of the draws.
        level: Confidence, in (0, 1).
        biased: Places of scores whose intervals allow for the bias of the resamples, as those of
            macro averages do in `bootstrap_intervals`.
        within: The least and the most that each score can be, which is all that one unit tells.

    Raises:
        ConfigError: `num_resamples` or `level` is out of range.
        DataError: There is not one group per row.
    """
    check_settings(num_resamples, level=level)
    units = number_units(groups, num_rows)
    num_units = int(units.max()) + 1
    draws = draw_counts(num_units, num_resamples, seed=seed, num_numbers=num_rows)
    scores = [score_resample(counts[units].astype(np.int64)) for chunk in draws for counts in chunk]
    whole = score_resample(np.ones(num_rows, dtype=np.int64))
    intervals = []
    for place, column in enumerate(np.asarray(scores).T):
        interval = percentile_interval(column, level=level)
        if place in biased:
            interval = take_out_bias(interval, float(column.mean() - whole[place]))
        interval = stretch(interval, float(whole[place]), num_units=num_units, level=level)
        low, high = within[place]
        intervals.append(Interval(low, high) if num_units == 1 else cut(interval, low, high))
    return intervals


def draw_counts(
    num_units: int, num_resamples: int, *, seed: int, num_numbers: int
) -> Iterator[NDArray[np.float64]]:
    """Yield (resamples, units) how often each unit was drawn, in chunks of bounded size.

    A resample will take `num_numbers` in the largest array that is made of it.
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


def percentile_interval(values: NDArray[np.float64], *, level: float) -> Interval:
    """Return where the middle of the resamples' values ends, those left out that are NaN."""
    values = values[~np.isnan(values)]
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


def check_settings(num_resamples: int, *, level: float) -> None:
    """Refuse what no interval can be made with.

    Raises:
        ConfigError: `num_resamples` or `level` is out of range.
    """
    if num_resamples < 1:
        message = f"expected at least 1 resample, got {num_resamples}"
        raise ConfigError(message)
    if not 0 < level < 1:
        message = f"expected a confidence level between 0 and 1, got {level}"
        raise ConfigError(message)
