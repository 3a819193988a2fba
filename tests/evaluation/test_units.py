"""Resampling units: groups, or rows without one."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from bertfit.errors import DataError
from bertfit.evaluation.units import are_one_group, count_units, number_units


def test_a_row_without_a_group_is_a_unit_of_its_own() -> None:
    units = number_units(["b", None, "a", "b", "", float("nan")], 6).tolist()
    assert units[0] == units[3]
    assert len(set(units)) == count_units(["b", None, "a", "b", "", float("nan")], 6) == 5


@pytest.mark.parametrize("missing", [None, "", float("nan")])
def test_two_rows_without_a_group_are_not_of_one(missing: object) -> None:
    assert count_units(["a", missing, missing, "a"], 4) == 3


def test_a_group_named_like_a_row_is_not_that_row() -> None:
    assert count_units(["row 1", None, "row 1"], 3) == 2


@pytest.mark.parametrize("groups", [None, ["a"] * 3])
def test_without_groups_that_differ_each_row_is_a_unit(groups: list[str] | None) -> None:
    assert number_units(groups, 3).tolist() == [0, 1, 2]


def test_there_must_be_a_group_for_each_row() -> None:
    with pytest.raises(DataError, match="expected a group for each of 3 rows, got 2"):
        number_units(["a", "b"], 3)


def test_a_long_name_takes_no_more_memory_for_the_others() -> None:
    """As an array of names, all would be as long."""
    groups = np.array(["x" * 10_000, *(f"g{row}" for row in range(1000))], dtype=object)
    tracemalloc.start()
    try:
        assert len(set(number_units(groups, 1001).tolist())) == 1001
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("groups", [None, [], ["a"], ["", ""], ["a", "a", None]])
def test_a_group_of_all_rows_has_two_at_least(groups: list[str | None] | None) -> None:
    assert not are_one_group(groups)
