"""Accuracy of a slice where the rows of a group are right or wrong together: a test, an interval.

Both are of log odds, by the influence that each group has on them. On the scale of shares, a few
groups that are nearly all right would make the rest of the rows look certain.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bertfit.evaluation.interval import Interval, exact_interval, find_reach

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class _LogOdds:
    """Log odds of the accuracy of some rows, in nats."""

    value: float
    influences: NDArray[np.float64]
    """(G,) how much the log odds change by leaving out each group, scaled so that the sum of
    squares is their variance; without meaning if there are fewer than two groups."""
    least_variance: float
    """What independent rows would have, which counts where groups are all right or all wrong."""
    num_groups: int
    """Groups with any of the rows."""


class GroupedRows:
    """All rows of an evaluation, by group.

    Source:
        Efron & Stein 1981, Annals of Statistics 9 (variance by leaving out groups); Bell &
        McCaffrey 2002, Survey Methodology 28 (few groups); Pepe 2003, "The Statistical Evaluation
        of Medical Tests", section 5.2 (log odds).
    """

    def __init__(self, units: NDArray[np.int64], is_right: NDArray[np.bool_]) -> None:
        """Count rows and hits of each group; `units` (n,) are from `units.number_units`."""
        self._units, self._is_right = units, is_right
        self._sizes = np.bincount(units)
        self._hits = np.bincount(units, weights=is_right)

    def judge(self, members: NDArray[np.int64]) -> tuple[float, Interval]:
        """Return the two-sided p-value of a slice against all other rows, and its 95 % interval.

        Args:
            members: Row numbers of the slice, neither none nor all.
        """
        num_groups = len(self._sizes)
        sizes = np.bincount(self._units[members], minlength=num_groups)
        right = self._is_right[members]
        hits = np.bincount(self._units[members], weights=right, minlength=num_groups)
        inside = _measure_log_odds(sizes, hits)
        rest = _measure_log_odds(self._sizes - sizes, self._hits - hits)
        share = float(hits.sum() / sizes.sum())
        return _compare(inside, rest), _find_interval(inside, share)


def _measure_log_odds(sizes: NDArray[np.int64], hits: NDArray[Any]) -> _LogOdds:
    """Return the log odds from rows and hits, (G,) each, of all groups."""
    num_rows, num_hits, num_groups = int(sizes.sum()), float(hits.sum()), int((sizes > 0).sum())
    odds = (num_hits + 0.5) / (num_rows - num_hits + 0.5)
    slope = (1 + odds) ** 2 / odds  # of the log odds by the share
    others = np.maximum(1, num_rows - sizes)  # 0 only where all rows are of one group
    scale = slope * np.sqrt((num_groups - 1) / num_groups)
    return _LogOdds(
        value=float(np.log(odds)),
        influences=scale * (hits - num_hits / num_rows * sizes) / others,
        least_variance=float(slope / num_rows),
        num_groups=num_groups,
    )


def _compare(a: _LogOdds, b: _LogOdds) -> float:
    """Return the two-sided p-value of equal log odds; 1 if either has only one group."""
    from scipy.stats import t

    fewest = min(a.num_groups, b.num_groups)
    if fewest < 2:
        return 1.0
    # A group that is in both makes both better or worse, which cancels.
    variance = float(((a.influences - b.influences) ** 2).sum())
    deviation = np.sqrt(max(variance, a.least_variance + b.least_variance))
    return float(2 * t.sf(abs(a.value - b.value) / deviation, fewest - 1))


def _find_interval(one: _LogOdds, share: float) -> Interval:
    """Return the 95 % interval of a share; exact, each group counting once, if all are alike."""
    from scipy.special import expit

    if one.num_groups < 2 or share in {0.0, 1.0}:
        return exact_interval(share * one.num_groups, one.num_groups)
    variance = max(float((one.influences**2).sum()), one.least_variance)
    away = find_reach(one.num_groups) * np.sqrt(variance)
    return Interval(float(expit(one.value - away)), float(expit(one.value + away)))
