"""Every score agrees with scikit-learn, and edge cases have a value instead of a warning."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from bertfit.errors import DataError
from bertfit.evaluation.metrics import (
    PROBABILITY_FLOOR,
    ClassCounts,
    accuracy_and_macro_f1,
    collapsed_class,
    count_classes,
    count_confusion,
    count_predictions,
    list_confused,
    log_losses_if,
    macro_scores,
    score,
)


def draw_rows(num_rows: int, num_labels: int, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    label_ids = rng.integers(num_labels, size=num_rows)
    probabilities = rng.dirichlet(np.ones(num_labels), size=num_rows)
    return probabilities, label_ids


def name_classes(num_labels: int) -> list[str]:
    return [f"class {label_id}" for label_id in range(num_labels)]


@settings(max_examples=40, deadline=None)
@given(
    num_rows=st.integers(1, 60), num_labels=st.sampled_from([2, 3, 7, 77]), seed=st.integers(0, 999)
)
def test_scores_agree_with_scikit_learn(num_rows: int, num_labels: int, seed: int) -> None:
    probabilities, label_ids = draw_rows(num_rows, num_labels, seed=seed)
    predicted_ids = probabilities.argmax(axis=1)
    scores = score(probabilities, label_ids, name_classes(num_labels))

    present = sorted({*label_ids.tolist(), *predicted_ids.tolist()})
    macro = sklearn_metrics.precision_recall_fscore_support(
        label_ids, predicted_ids, labels=present, average="macro", zero_division=0
    )
    assert macro[:3] == pytest.approx(
        (scores.macro_precision, scores.macro_recall, scores.macro_f1)
    )
    assert scores.accuracy == pytest.approx(
        sklearn_metrics.accuracy_score(label_ids, predicted_ids)
    )
    every = range(num_labels)
    assert np.array_equal(
        scores.confusion, sklearn_metrics.confusion_matrix(label_ids, predicted_ids, labels=every)
    )
    by_class = sklearn_metrics.precision_recall_fscore_support(
        label_ids, predicted_ids, labels=every, zero_division=0
    )
    ours = [(one.precision, one.recall, one.f1, one.support) for one in scores.per_class.values()]
    assert np.allclose(np.transpose(by_class), ours)
    clipped = np.clip(probabilities, PROBABILITY_FLOOR, 1)
    clipped /= clipped.sum(axis=1, keepdims=True)  # scikit-learn warns of sums that are not 1
    expected = sklearn_metrics.log_loss(label_ids, clipped, labels=every)
    assert scores.log_loss == pytest.approx(expected, abs=1e-4)


@settings(max_examples=25, deadline=None)
@given(num_rows=st.integers(1, 60), seed=st.integers(0, 999))
def test_epoch_scores_equal_the_final_scores(num_rows: int, seed: int) -> None:
    probabilities, label_ids = draw_rows(num_rows, 3, seed=seed)
    scores = score(probabilities, label_ids, name_classes(3))
    accuracy, macro_f1 = accuracy_and_macro_f1(probabilities.argmax(axis=1), label_ids, 3)
    assert (accuracy, macro_f1) == (scores.accuracy, scores.macro_f1)


def test_many_confusions_are_scored_as_each_alone() -> None:
    confusions = np.random.default_rng(0).integers(0, 5, size=(20, 4, 4))
    confusions[:5, :, 2] = 0  # never predicted
    confusions[3:9, 1] = 0  # never true
    together = macro_scores(ClassCounts.of_confusion(confusions))
    alone = [macro_scores(ClassCounts.of_confusion(confusion)) for confusion in confusions]
    for name in ("accuracy", "precision", "recall", "f1"):
        assert getattr(together, name).tolist() == [float(getattr(one, name)) for one in alone]


@pytest.mark.parametrize(("num_rows", "num_labels"), [(50, 4), (5, 40)])
def test_rows_may_count_more_often_with_few_classes_and_with_many(num_rows, num_labels) -> None:
    rng = np.random.default_rng(1)
    predicted, labels = rng.integers(num_labels, size=(2, num_rows))
    labels[::2] = predicted[::2]
    weights = rng.integers(0, 4, size=(3, num_rows))
    together = count_classes(predicted, labels, weights, num_labels=num_labels)
    for place, of_set in enumerate(weights):
        repeated = (np.repeat(ids, of_set) for ids in (predicted, labels))
        alone = ClassCounts.of_confusion(count_confusion(*repeated, num_labels=num_labels))
        for name in ("hits", "labelled", "predicted"):
            assert getattr(together, name)[place].tolist() == getattr(alone, name).tolist()


def test_macro_leaves_out_classes_that_do_not_occur() -> None:
    assert accuracy_and_macro_f1([0, 1], [0, 1], 77) == (1.0, 1.0)


def test_macro_counts_a_class_that_is_predicted_but_never_true() -> None:
    assert accuracy_and_macro_f1([0, 1], [0, 0], 2) == (0.5, pytest.approx(1 / 3))


def test_auroc_takes_the_second_class_as_positive_and_ties_as_half() -> None:
    probabilities = [[0.5, 0.5], [0.5, 0.5], [0.9, 0.1]]
    assert score(probabilities, [0, 1, 0], ["neg", "pos"]).auroc == 0.75


def test_auroc_is_none_where_the_rows_hold_one_class() -> None:
    assert score([[0.4, 0.6], [0.3, 0.7]], [1, 1], ["neg", "pos"]).auroc is None


def test_auroc_is_none_for_three_classes() -> None:
    probabilities, label_ids = draw_rows(30, 3, seed=0)
    assert score(probabilities, label_ids, name_classes(3)).auroc is None


def test_one_row_has_scores() -> None:
    scores = score([[0.2, 0.8]], [1], ["neg", "pos"])
    assert (scores.num_rows, scores.accuracy, scores.macro_f1) == (1, 1.0, 1.0)
    assert scores.log_loss == pytest.approx(-np.log(0.8))
    assert scores.per_class["neg"].support == 0


def test_a_class_without_rows_counts_as_0_if_it_is_predicted() -> None:
    """As docs/judging.md and the warnings of reports say."""
    label_ids, predicted_ids = [0, 0, 1, 1], [0, 2, 1, 1]
    scores = score(np.eye(4)[predicted_ids], label_ids, name_classes(4))
    assert scores.macro_recall == pytest.approx((0.5 + 1 + 0) / 3)
    assert count_predictions(scores.confusion) == [1, 2, 1, 0]


def test_a_tie_goes_to_the_first_class() -> None:
    assert score([[0.5, 0.5]], [0], ["neg", "pos"]).accuracy == 1.0


def test_log_loss_of_a_certain_mistake_is_finite() -> None:
    assert score([[1.0, 0.0]], [1], ["neg", "pos"]).log_loss == pytest.approx(16.118, abs=1e-3)


def test_probabilities_in_low_precision_are_taken() -> None:
    probabilities = np.asarray([[0.3, 0.701], [0.6, 0.399]], dtype=np.float16)
    scores = score(probabilities, [1, 0], ["neg", "pos"])
    assert scores.accuracy == 1.0
    in_sum_1 = probabilities.astype(float) / probabilities.astype(float).sum(axis=1, keepdims=True)
    assert scores.log_loss == pytest.approx(-np.log([in_sum_1[0, 1], in_sum_1[1, 0]]).mean())


def test_scores_survive_json() -> None:
    probabilities, label_ids = draw_rows(20, 2, seed=1)
    scores = score(probabilities, label_ids, ["neg", "pos"])
    loaded = json.loads(json.dumps(scores.to_json()))
    assert loaded == scores.to_json()
    assert loaded["per_class"]["pos"]["support"] == int(label_ids.sum())


@pytest.mark.parametrize(
    ("probabilities", "label_ids", "message"),
    [
        (np.empty((0, 2)), [], "expected probabilities as (rows, classes), got shape (0, 2)"),
        (np.empty((2, 0)), [0, 0], "expected probabilities as (rows, classes), got shape (2, 0)"),
        ([0.1, 0.9], [0, 1], "expected probabilities as (rows, classes), got shape (2,)"),
        ([[0.1, 0.9]], [2], "expected label ids from 0 to 1, got 2 to 2"),
        ([[0.1, 0.9]], [-1], "expected label ids from 0 to 1, got -1 to -1"),
        ([[0.1, 0.9]], [0.0], "expected label ids as integers, got float64"),
        ([[0.1, 0.9]], [0, 1], "expected 1 label ids, one per row, got 2"),
        ([[0.1, 0.9], [2.0, -1.0]], [0, 1], "got [2.0, -1.0] in row 1 (1 such rows)"),
        ([[float("nan"), 0.9]], [0], "got [nan, 0.9] in row 0"),
        ([[0.53, 0.5], [0.51, 0.5]], [0, 1], "got [0.53, 0.5] in row 0 (1 such rows)"),
    ],
)
def test_wrong_rows_are_refused_in_words(
    probabilities: object, label_ids: list[float], message: str
) -> None:
    with pytest.raises(DataError) as caught:
        score(probabilities, label_ids, ["neg", "pos"])
    assert message in str(caught.value)


def test_logits_in_place_of_probabilities_get_a_hint() -> None:
    with pytest.raises(DataError, match="softmax of the logits"):
        score([[3.0, -2.0]], [0], ["neg", "pos"])


def test_names_must_be_one_per_class() -> None:
    with pytest.raises(DataError, match="expected a name for each of 2 classes, got 3 names"):
        score([[0.1, 0.9]], [0], ["a", "b", "c"])


def test_a_prediction_must_be_one_of_the_classes() -> None:
    with pytest.raises(DataError, match="expected predicted ids from 0 to 1, got 0 to 2"):
        accuracy_and_macro_f1([0, 2], [0, 1], 2)


def test_predictions_and_labels_must_be_equally_many() -> None:
    with pytest.raises(DataError, match="expected a prediction per label, got 2 and 1"):
        accuracy_and_macro_f1([0, 1], [0], 2)


@pytest.mark.parametrize(
    ("predicted_ids", "label_ids", "expected"),
    [
        ([2, 2, 2], [0, 1, 2], 2),
        ([2, 2, 2], [2, 2, 2], None),
        ([0, 0, 1], [0, 1, 1], None),
        ([0], [1], None),
        ([], [], None),
    ],
)
def test_collapse_is_one_class_for_labels_of_several(
    predicted_ids: list[int], label_ids: list[int], expected: int | None
) -> None:
    assert collapsed_class(predicted_ids, label_ids) == expected


def test_given_predictions_are_scored_and_checked() -> None:
    rows = ([[0.4, 0.6], [0.9, 0.1]], [0, 0], ["neg", "pos"])
    assert score(*rows).accuracy == 0.5
    assert score(*rows, predicted_ids=[0, 0]).confusion == [[2, 0], [0, 0]]
    with pytest.raises(DataError, match="expected predicted ids from 0 to 1, got 0 to 2"):
        score(*rows, predicted_ids=[0, 2])
    with pytest.raises(DataError, match="expected a prediction per label, got 1 and 2"):
        score(*rows, predicted_ids=[0])


def test_a_mistake_that_was_seen_costs_what_it_cost() -> None:
    """Another one costs the mean of the other classes."""
    probabilities = np.array([[0.6, 0.3, 0.1], [0.6, 0.3, 0.1]])
    if_right, if_wrong = log_losses_if(probabilities, np.array([1, 0]), np.array([0, 0]))
    assert if_right == pytest.approx(-np.log([0.6, 0.6]))
    assert if_wrong == pytest.approx(-np.log([0.3, 0.2]))


def test_a_model_of_one_class_has_no_other_that_a_mistake_could_be() -> None:
    _, if_wrong = log_losses_if(np.ones((2, 1)), np.zeros(2, int), np.zeros(2, int))
    assert if_wrong == pytest.approx(-np.log([PROBABILITY_FLOOR] * 2))


def test_pairs_confused_equally_often_are_in_the_order_of_the_classes() -> None:
    confusion = [[9, 1, 2], [1, 9, 0], [0, 2, 9]]
    assert list_confused(confusion) == [(2, 0, 2), (2, 2, 1), (1, 0, 1), (1, 1, 0)]
