"""Resampling units: each row, or the group that it belongs to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bertfit.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray


def number_units(groups: ArrayLike | None, num_rows: int) -> NDArray[np.int64]:
    """Return (n,) the unit of each row: its group, or the row itself if it has none.

    If all rows have the same group, each row is a unit.
    """
    if groups is None:
        return np.arange(num_rows)
    names = [
        f"row {row}" if _is_missing(group) else f"group {group}"
        for row, group in enumerate(np.asarray(groups, dtype=object))
    ]
    if len(names) != num_rows:
        message = f"expected a group for each of {num_rows} rows, got {len(names)}"
        raise DataError(message)
    # Not numpy's unique: an array of names takes for each as much as the longest does.
    number_of = {name: number for number, name in enumerate(sorted(set(names)))}
    if len(number_of) == 1:
        return np.arange(num_rows)
    return np.array([number_of[name] for name in names])


def count_units(groups: ArrayLike | None, num_rows: int) -> int:
    """Return the number of units of `number_units`."""
    return int(number_units(groups, num_rows).max()) + 1


def count_even_units(units: NDArray[np.int64]) -> float:
    """Return how many units of one size would tell as much as these, which may differ in size.

    It is not called less than 5, if there are 5: a group that has nearly all rows says little of
    how much groups differ, but resamples with it and without it differ much already.

    Source:
        Kish 1965, "Survey Sampling", section 11.7 (the effective number of unequal weights).

    Example:
        >>> even, uneven = np.repeat(np.arange(50), 2), np.repeat(np.arange(50), np.arange(50) + 1)
        >>> count_even_units(even), round(count_even_units(uneven), 1)
        (50.0, 37.9)
        >>> count_even_units(np.repeat(np.arange(9), [92, *[1] * 8]))
        5.0
    """
    sizes = np.unique(units, return_counts=True)[1]
    return max(float(sizes.sum() ** 2 / (sizes**2).sum()), min(5.0, float(len(sizes))))


def are_rows(units: NDArray[np.int64]) -> bool:
    """Return whether each row is a unit of its own.

    Example:
        >>> are_rows(number_units(None, 3)), are_rows(number_units(["a", "a", "b"], 3))
        (True, False)
    """
    return len(np.unique(units)) == len(units)


def are_one_group(groups: Sequence[object] | NDArray[Any] | None) -> bool:
    """Return whether rows, two or more, all have the same group: then each row is a unit.

    Example:
        >>> are_one_group(["a", "a"]), are_one_group(["a", "b"]), are_one_group([None, None])
        (True, False, False)
    """
    if groups is None or len(groups) < 2:
        return False
    return not _is_missing(groups[0]) and len(set(groups)) == 1


def _is_missing(group: object) -> bool:
    """Return whether a group is None, an empty string or NaN."""
    return group is None or group == "" or group != group  # noqa: PLR0124 (the test for NaN)
