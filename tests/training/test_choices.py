"""Choices that a training makes for unspecified settings."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertfit.config import TrainSettings
from bertfit.training.choices import (
    choose_epochs,
    choose_learning_rate,
    choose_selection_metric,
)


@pytest.mark.parametrize(
    ("num_rows", "num_labels", "epochs"),
    [(100, 2, 20), (6_400, 2, 3), (19_168, 2, 3), (19_169, 2, 2), (9_002, 77, 11), (10**6, 77, 2)],
)
def test_epochs_make_enough_steps_and_not_many_more(num_rows, num_labels, epochs):
    assert choose_epochs(TrainSettings(), num_rows, num_labels=num_labels) == epochs


@given(st.integers(1, 10**6), st.integers(2, 200), st.integers(1, 256))
def test_no_data_get_less_than_two_epochs_or_more_than_twenty(num_rows, num_labels, batch_size):
    settings = TrainSettings(batch_size=batch_size)
    assert 2 <= choose_epochs(settings, num_rows, num_labels=num_labels) <= 20


def test_what_is_asked_for_is_done():
    settings = TrainSettings(epochs=7, learning_rate=0.5)
    assert choose_epochs(settings, 10**6, num_labels=2) == 7
    assert choose_learning_rate(settings, 384) == 0.5


@pytest.mark.parametrize(("num_rare", "metric"), [(7, "macro_f1"), (8, "accuracy")])
def test_classes_are_balanced_from_four_fifths_on(num_rare, metric):
    label_ids = np.array([0] * 10 + [1] * num_rare)
    assert choose_selection_metric(TrainSettings(), label_ids) == metric


def test_small_encoders_learn_faster():
    rates = [choose_learning_rate(TrainSettings(), size) for size in (128, 384, 385, 1024)]
    assert rates == [1e-4, 1e-4, 5e-5, 5e-5]
