"""Selective prediction: risk, coverage, and what a run records of them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertfit.errors import ConfigError, DataError
from bertfit.evaluation.selective import (
    check_abstain_below,
    expect,
    keep_curve,
    rank_rows,
    risk_area,
    risk_coverage_curve,
    share_mistakes,
    weigh_mistakes,
)

rows = st.lists(
    st.tuples(st.sampled_from([0.3, 0.5, 0.9, 0.93, 0.99]), st.booleans()), min_size=1, max_size=60
)


def mean_risk(confidences, is_right) -> float:
    return float(risk_coverage_curve(confidences, is_right)[1].mean())


def test_the_curve_answers_the_most_confident_first():
    coverages, risks = risk_coverage_curve([0.6, 0.9, 0.8, 0.7], [False, True, True, False])
    assert coverages.tolist() == [0.25, 0.5, 0.75, 1.0]
    assert risks.tolist() == pytest.approx([0, 0, 1 / 3, 0.5])


def test_the_area_of_a_perfect_order_is_the_smallest_and_of_none_the_error_rate():
    is_right = np.arange(100) < 80
    perfect = mean_risk(np.linspace(1, 0.5, 100), is_right)
    reverse = mean_risk(np.linspace(0.5, 1, 100), is_right)
    assert perfect < mean_risk([0.7] * 100, is_right) < reverse
    assert mean_risk([0.7] * 100, is_right) == pytest.approx(0.2)


@given(rows)
def test_the_area_is_a_sum_over_mistakes(drawn):
    confidences, is_right = (np.array(column) for column in zip(*drawn, strict=True))
    ranked = rank_rows(confidences, is_right)
    weights = weigh_mistakes(ranked)
    assert weights.mean() == pytest.approx(1)
    assert (weights * ~is_right).mean() == pytest.approx(risk_area(share_mistakes(ranked)))


def test_a_row_that_is_drawn_twice_counts_twice():
    ranked = rank_rows(np.array([0.9, 0.9, 0.5]), np.array([False, True, True]))
    assert share_mistakes(ranked, np.array([2, 1, 1])).tolist() == [2 / 3, 2 / 3, 2 / 3, 0]


def test_rows_are_drawn_by_their_numbers_whatever_their_ranks():
    ranked = rank_rows(np.array([0.5, 0.9, 0.7]), np.array([False, True, True]))
    assert share_mistakes(ranked, np.array([2, 1, 0])).tolist() == [0, 1, 1]


@given(rows)
def test_the_last_risk_is_the_error_rate(drawn):
    confidences, is_right = zip(*drawn, strict=True)
    assert risk_coverage_curve(confidences, is_right)[1][-1] == pytest.approx(1 - np.mean(is_right))


@given(rows, st.randoms(use_true_random=False))
def test_equal_confidences_in_any_order_give_one_area(drawn, random):
    shuffled = random.sample(drawn, len(drawn))
    areas = [mean_risk(*zip(*some, strict=True)) for some in (drawn, shuffled)]
    assert areas[0] == pytest.approx(areas[1])


@given(rows, st.sampled_from([0.5, 0.85, 0.9, 0.93, 0.99]))
def test_the_kept_curve_counts_rows_that_are_answered(drawn, abstain_below):
    confidences, is_right = map(np.asarray, zip(*drawn, strict=True))
    expectation = expect(keep_curve(confidences, is_right), abstain_below)
    answered = confidences >= abstain_below
    assert expectation.confidence == abstain_below
    assert expectation.coverage == pytest.approx(answered.mean())
    if answered.any():
        assert expectation.accuracy == pytest.approx(is_right[answered].mean())
        assert expectation.interval.low <= expectation.accuracy <= expectation.interval.high
    else:
        assert expectation.accuracy is None


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (0.9, 0.9),
        (0.905, 0.9),
        (0.998, 0.995),
        (1.0, 0.9999),
        (0.01, 0.0),
        (0.39, 0.3),
        (0.59, 0.55),
        (0.7 + 0.2, 0.9),  # the sum is a little less
    ],
)
def test_between_kept_confidences_the_lower_is_told(asked, told):
    assert expect(keep_curve([0.95], [True]), asked).confidence == told


def test_a_curve_is_small_in_json():
    curve = keep_curve(np.linspace(0.5, 1, 1000), np.ones(1000, dtype=bool))
    assert len(json.dumps(curve.to_json())) < 600


@pytest.mark.parametrize("value", [0, -0.1, 1.1, float("nan"), "0.9", True])
def test_a_confidence_out_of_range_is_refused(value):
    with pytest.raises(ConfigError) as caught:
        check_abstain_below(value)
    assert caught.value.message == (
        f"abstain_below: expected a confidence above 0 and at most 1, got {value!r}"
    )


@pytest.mark.parametrize(("confidences", "is_right"), [([], []), ([0.5], [True, False])])
def test_rows_that_do_not_fit_are_refused(confidences, is_right):
    with pytest.raises(DataError, match="expected a confidence and a right or wrong"):
        risk_coverage_curve(confidences, is_right)


def test_the_highest_confidence_that_may_be_asked_for_is_one():
    assert check_abstain_below(1) == 1.0
