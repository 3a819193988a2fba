"""Labels with few training rows are left out of all parts, and it is known which."""

from __future__ import annotations

import pytest

from bertfit.data.checks import check_training_data
from bertfit.data.dataset import Columns
from bertfit.data.rare_labels import LeftOut, leave_out_rare_labels
from bertfit.errors import DataError


def make(*labels):
    return [{"text": f"text {number}", "label": label} for number, label in enumerate(labels)]


def leave_out(min_rows, **sources):
    return leave_out_rare_labels(check_training_data(**sources, columns=Columns()), min_rows)


def test_labels_of_few_training_rows_are_left_out_of_every_part():
    train, test = make("a", "b", "a", "c", "b", "a"), make("c", "a", "b", "c")
    left, left_out = leave_out(2, train=train, validation=make("a", "b"), test=test)
    assert left.label_names == ("a", "b")
    assert (left.train.labels, left.train.lines) == (["a", "b", "a", "b", "a"], [1, 2, 3, 5, 6])
    assert (left.validation.labels, left.test.labels) == (["a", "b"], ["a", "b"])
    assert left_out == LeftOut(("c",), {"train": 1, "test": 2})


def test_where_none_is_rare_nothing_changes():
    checked = check_training_data(make("a", "b", "a", "b"), columns=Columns())
    for min_rows in (1, 2):
        left, left_out = leave_out_rare_labels(checked, min_rows)
        assert left is checked
        assert left_out == LeftOut()


@pytest.mark.parametrize(("min_rows", "left"), [(2, "1 label"), (3, "0 labels")])
def test_two_labels_are_needed(min_rows, left):
    with pytest.raises(DataError, match=f"{left} of rows would be left, and 2 are needed: the"):
        leave_out(min_rows, train=make("a", "a", "b"))


@pytest.mark.parametrize(("test", "left"), [("cd", "0 labels"), ("aac", "1 label")])
def test_a_part_needs_two_labels(test, left):
    """It had two, or it would have been refused."""
    with pytest.raises(DataError, match=f"{left} of rows would be left, and 2 are needed to tell"):
        leave_out(2, train=make(*"aabbcd"), test=make(*test))


def test_the_labels_are_in_their_order():
    train = make("1", "1", "2", "2", "10", "7")
    assert leave_out(2, train=train)[1].labels == ("7", "10")
