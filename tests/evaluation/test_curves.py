"""Curves have few points, keep their ends, and agree with their scores."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import auc, roc_auc_score

from bertfit.evaluation.calibration import expected_calibration_error
from bertfit.evaluation.curves import (
    MAX_POINTS,
    precision_recall_points,
    reliability_points,
    risk_coverage_points,
    roc_points,
    thin_curve,
)
from bertfit.evaluation.selective import risk_coverage_curve


@pytest.fixture
def rows():
    generator = np.random.default_rng(0)
    scores = generator.random(5000)
    return scores, generator.random(5000) < scores


def test_roc_has_its_ends_few_points_and_nearly_its_area(rows):
    points = roc_points(*rows)
    assert points[0] == (0, 0)
    assert points[-1] == (1, 1)
    assert len(points) <= MAX_POINTS
    assert auc(*zip(*points, strict=True)) == pytest.approx(
        roc_auc_score(rows[1], rows[0]), abs=2e-3
    )


def test_precision_recall_rises_in_recall_to_all(rows):
    recalls, precisions = zip(*precision_recall_points(*rows), strict=True)
    assert list(recalls) == sorted(recalls)
    assert recalls[-1] == 1
    assert precisions[-1] == pytest.approx(rows[1].mean(), abs=1e-4)


def test_reliability_has_the_bins_of_the_calibration_error(rows):
    """15 bins of equally many rows: their mean gap is the error."""
    confidences, is_right = rows[0] ** 2, rows[1]
    points = np.array(reliability_points(confidences, is_right))
    assert len(points) == 15
    error = expected_calibration_error(confidences, is_right)
    assert np.abs(points[:, 0] - points[:, 1]).mean() == pytest.approx(error, abs=1e-3)


@pytest.mark.parametrize("is_right", [[True], [False], [True, True]])
def test_reliability_of_few_rows_of_one_kind(is_right):
    assert reliability_points([0.9] * len(is_right), is_right) == [(0.9, float(is_right[0]))]


def test_risk_coverage_ends_at_the_error_rate(rows):
    points = np.array(risk_coverage_points(*rows))
    assert points[-1].tolist() == pytest.approx([1, 1 - rows[1].mean()], abs=1e-4)
    area = risk_coverage_curve(*rows)[1].mean()
    assert np.trapezoid(points[:, 1], points[:, 0]) == pytest.approx(area, abs=0.01)


def test_short_curves_are_left_alone():
    assert thin_curve(np.array([0.0, 1.0]), np.array([0.5, 0.25])) == [(0.0, 0.5), (1.0, 0.25)]


def test_precision_recall_begins_at_the_most_probable_row_and_not_with_a_precision_of_1():
    points = precision_recall_points([0.9, 0.8, 0.1], [False, True, True])
    assert points == [(0.0, 0.0), (0.5, 0.5), (1.0, pytest.approx(2 / 3, abs=1e-5))]


def test_as_many_points_as_there_may_be_are_left_alone():
    x = np.linspace(0, 1, MAX_POINTS) ** 3
    assert thin_curve(x, np.ones(MAX_POINTS)) == [(round(at, 5), 1.0) for at in x.tolist()]


def test_the_points_that_are_left_lie_equally_far_apart_where_the_curve_is_steep():
    """As an ROC curve is at its beginning: up, and then to the right."""
    rising, ones = np.linspace(0, 1, 500), np.ones(500)
    points = np.array(thin_curve(np.append(0 * ones, rising), np.append(rising, ones)))
    assert np.hypot(*np.diff(points, axis=0).T).max() < 1.5 * 2 / MAX_POINTS


def test_a_confidence_that_rounding_made_larger_than_1_is_1():
    assert reliability_points([np.nextafter(1, 2)] * 3, [True] * 3) == [(1.0, 1.0)]
