"""Thresholds: the best candidate for each aim is chosen, and its figures are correct."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score, precision_score, recall_score

from bertfit.errors import ConfigError, DataError
from bertfit.evaluation.interval import exact_interval
from bertfit.evaluation.thresholds import choose_threshold, decide

scored = st.lists(
    st.tuples(st.floats(0, 1).map(lambda p: round(p, 2)), st.integers(0, 1)),
    min_size=2,
    max_size=10,
).filter(lambda drawn: {label for _, label in drawn} == {0, 1})


def as_rows(drawn):
    scores, label_ids = map(np.asarray, zip(*drawn, strict=True))
    return np.column_stack([1 - scores, scores]), label_ids


def all_predictions(probabilities):
    """Give what every threshold that makes a difference answers."""
    scores = np.unique(probabilities[:, 1])
    return [(probabilities[:, 1] >= score).astype(int) for score in (*scores, 2.0)]


@given(scored)
def test_no_threshold_has_a_higher_f1(drawn):
    probabilities, label_ids = as_rows(drawn)
    found = choose_threshold(probabilities, label_ids, "f1")
    best = max(f1_score(label_ids, ids, zero_division=0) for ids in all_predictions(probabilities))
    assert found.validation.f1 == pytest.approx(best)


@given(scored, st.sampled_from([0.5, 0.8, 1.0]))
def test_of_those_that_reach_a_recall_the_most_precise_is_taken(drawn, rate):
    probabilities, label_ids = as_rows(drawn)
    found = choose_threshold(probabilities, label_ids, f"recall>={rate}").validation
    best = max(
        precision_score(label_ids, ids, zero_division=0)
        for ids in all_predictions(probabilities)
        if recall_score(label_ids, ids) >= rate
    )
    assert found.recall >= rate
    assert found.precision == pytest.approx(best)


@given(scored, st.sampled_from([0.5, 0.8, 1.0]))
def test_of_those_that_reach_a_precision_the_highest_recall_is_taken(drawn, rate):
    probabilities, label_ids = as_rows(drawn)
    possible = all_predictions(probabilities)
    precisions = [precision_score(label_ids, ids, zero_division=0) for ids in possible]
    reached = [
        recall_score(label_ids, ids)
        for ids, precision in zip(possible, precisions, strict=True)
        if precision >= rate
    ]
    if reached:
        found = choose_threshold(probabilities, label_ids, f"precision>={rate}").validation
        assert found.precision >= rate
        assert found.recall == pytest.approx(max(reached))
    else:
        highest = f"{rate:g}; the highest is {max(precisions):.4f}"
        with pytest.raises(DataError, match=f"no threshold reaches precision {highest}"):
            choose_threshold(probabilities, label_ids, f"precision>={rate}")


@given(scored, st.sampled_from([(1, 1), (1, 5), (5, 1), (0, 1)]))
def test_no_threshold_costs_less(drawn, costs):
    probabilities, label_ids = as_rows(drawn)
    found = choose_threshold(probabilities, label_ids, f"cost:{costs[0]},{costs[1]}")

    def cost_of(ids):
        missed = ((ids == 0) & (label_ids == 1)).sum()
        return costs[0] * ((ids == 1) & (label_ids == 0)).sum() + costs[1] * missed

    # A threshold lies in [0, 1]: a row of probability 1 is always answered positive.
    possible = [
        ids for ids in all_predictions(probabilities) if ids[probabilities[:, 1] == 1].all()
    ]
    best = min(map(cost_of, possible)) / len(label_ids)
    assert found.validation.cost == pytest.approx(best)


@pytest.mark.parametrize("unit", ["e-15", "e-300", "e307"])
def test_only_the_ratio_of_the_costs_matters(unit):
    label_ids = [0, 1, 0, 1, 1, 0]
    positive = np.array([0.1, 0.2, 0.3, 0.4, 0.6, 0.7])
    probabilities = np.stack([1 - positive, positive], axis=1)
    plain = choose_threshold(probabilities, label_ids, "cost:3,15")
    found = choose_threshold(probabilities, label_ids, f"cost:3{unit},15{unit}")
    assert found.value == plain.value == pytest.approx(0.15)
    assert found.validation.cost == pytest.approx(plain.validation.cost * float(f"1{unit}"))


@given(scored, st.sampled_from(["f1", "recall>=0.7", "cost:2,1"]))
def test_the_figures_are_those_of_deciding_by_the_threshold(drawn, aim):
    probabilities, label_ids = as_rows(drawn)
    found = choose_threshold(probabilities, label_ids, aim)
    predicted_ids = decide(probabilities, found.value)
    assert 0 <= found.value <= 1
    assert found.validation.accuracy == pytest.approx((predicted_ids == label_ids).mean())
    assert found.undecided.f1 == pytest.approx(
        f1_score(label_ids, decide(probabilities, None), zero_division=0)
    )


def test_among_equals_the_one_nearest_to_one_half_is_taken():
    probabilities = np.column_stack([[0.9, 0.8, 0.1], [0.1, 0.2, 0.9]])
    assert choose_threshold(probabilities, [0, 0, 1], "f1").value == pytest.approx(0.55)


def test_rounding_does_not_merge_neighbours():
    scores = np.array([0.5, np.nextafter(0.5, 1)])
    found = choose_threshold(np.column_stack([1 - scores, scores]), [0, 1], "f1")
    assert found.validation.f1 == 1


def test_rates_have_intervals_and_everything_is_json():
    probabilities = np.column_stack([[0.9, 0.8, 0.1], [0.1, 0.2, 0.9]])
    value = json.loads(json.dumps(choose_threshold(probabilities, [0, 0, 1], "f1").to_json()))
    assert value["aim"] == "f1"
    assert value["validation"]["precision_interval"]["high"] == 1
    assert value["validation"]["cost"] is None


def test_without_a_threshold_the_most_probable_class_is_answered():
    assert decide(np.asarray([[0.2, 0.3, 0.5], [0.5, 0.4, 0.1]]), None).tolist() == [2, 0]


def test_three_classes_have_no_threshold():
    with pytest.raises(DataError, match="expected two classes to choose a threshold for, got 3"):
        choose_threshold(np.eye(3), [0, 1, 2], "f1")


def test_one_class_alone_chooses_no_threshold():
    with pytest.raises(DataError, match="expected rows of both classes"):
        choose_threshold([[0.4, 0.6], [0.3, 0.7]], [1, 1], "f1")


def test_a_malformed_aim_is_refused():
    with pytest.raises(ConfigError, match="expected f1, precision"):
        choose_threshold([[0.4, 0.6]], [1], "f2")


@pytest.mark.parametrize(
    ("scores", "value"), [([0.1, 0.3, 0.3, 0.6], 0.45), ([0.4, 0.7, 0.7, 0.9], 0.55)]
)
def test_of_equally_good_thresholds_the_one_next_to_a_half_is_taken(scores, value):
    """A step to either side of the middle score costs one mistake: a false alarm, or a miss."""
    probabilities = np.stack([1 - np.array(scores), scores], axis=1)
    found = choose_threshold(probabilities, [0, 0, 1, 1], "cost:1,1")
    assert found.value == pytest.approx(value)


def test_precision_is_a_share_of_the_called_rows_and_recall_of_the_positive_ones():
    scores = np.array([0.1, 0.3, 0.2, 0.4])
    probabilities = np.stack([1 - scores, scores], axis=1)
    found = choose_threshold(probabilities, [0, 0, 1, 1], "recall>=1").validation
    assert (found.num_called, found.precision, found.recall) == (3, 2 / 3, 1)
    assert found.precision_interval == exact_interval(2, 3)
    assert found.recall_interval == exact_interval(2, 2)


def test_no_threshold_pretends_to_spare_a_row_of_probability_1():
    found = choose_threshold([[0.5, 0.5], [0.0, 1.0]], [1, 0], "cost:100,1")
    assert (found.value, found.validation.cost) == (0.0, 50.0)


def test_a_rate_that_is_nearly_reached_is_not():
    scores = np.array([0.1, 0.5, 0.6, 0.7, 0.8, 0.9])
    probabilities, label_ids = np.stack([1 - scores, scores], axis=1), [0, 0, 1, 1, 1, 1]
    assert choose_threshold(probabilities, label_ids, "precision>=0.8").value == pytest.approx(0.55)
    label_ids = [1, 0, 1, 1, 1, 1]
    found = choose_threshold(probabilities, label_ids, "precision>=0.83333333333334").validation
    assert (found.precision, found.recall) == (1.0, 0.8)


def test_a_cost_a_billion_times_smaller_still_decides():
    scores = np.array([0.2, 0.6, 0.8, 0.9])
    probabilities = np.stack([1 - scores, scores], axis=1)
    found = choose_threshold(probabilities, [0, 0, 0, 1], "cost:1,1e9")
    assert found.value == pytest.approx(0.85)


def test_a_threshold_above_all_rows_is_halfway_to_1_and_has_no_precision():
    found = choose_threshold([[0.7, 0.3], [0.4, 0.6]], [1, 0], " cost:100,1 ")
    assert (found.value, found.aim) == (pytest.approx(0.8), "cost:100,1")
    rates = found.validation
    assert (rates.num_called, rates.precision, rates.precision_interval) == (0, 0.0, None)
