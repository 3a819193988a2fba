"""What is resampled: each row, or the group that it belongs to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bertfit.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


def number_units(groups: ArrayLike | None, num_rows: int) -> NDArray[np.int64]:
    """Return (n,) the number of each row's group, or of the row where it has none."""
    if groups is None:
        return np.arange(num_rows)
    names = [
        f"row {row}" if _is_missing(group) else f"group {group}"
        for row, group in enumerate(np.asarray(groups, dtype=object))
    ]
    if len(names) != num_rows:
        message = f"expected a group for each of {num_rows} rows, got {len(names)}"
        raise DataError(message)
    distinct, units = np.unique(names, return_inverse=True)
    return units if distinct.size > 1 else np.arange(num_rows)


def count_units(groups: ArrayLike | None, num_rows: int) -> int:
    """Return how many units are drawn: groups, or rows where there are none."""
    return int(number_units(groups, num_rows).max()) + 1


def _is_missing(group: object) -> bool:
    """Tell None, an empty string, and NaN, which alone does not equal itself."""
    return group is None or group == "" or group != group  # noqa: PLR0124 (the test for NaN)
