"""Intervals of differences between models that differ on few rows."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from scipy.special import expit

from bertfit.evaluation.comparison import compare_predictions
from bertfit.evaluation.few_differences import (
    allow_for_alike,
    find_f1_gains,
    widen_where_alike,
    widen_where_few_mistakes,
)
from bertfit.evaluation.interval import (
    Interval,
    allow_for_mistakes,
    count_effective,
    exact_interval,
)
from bertfit.evaluation.metrics import accuracy_and_macro_f1, log_losses_if


def answer(label_ids, num_labels, *, only_a=(), only_b=()):
    """Two models that are right on all rows but these, each wrong by the next class."""
    a, b = label_ids.copy(), label_ids.copy()
    for answers, rows in ((b, list(only_a)), (a, list(only_b))):
        answers[rows] = (label_ids[rows] + 1) % num_labels
    return a, b


def compare(answers, label_ids, num_labels, **options):
    certain = (np.eye(num_labels)[one] for one in answers)
    return compare_predictions(*certain, label_ids, num_resamples=200, **options).scores


def test_the_gains_of_the_rows_add_up_to_the_difference_in_macro_f1() -> None:
    rng = np.random.default_rng(0)
    label_ids, *answers = rng.integers(4, size=(3, 50))
    gains, _ = find_f1_gains((answers[0], answers[1]), label_ids)
    macro_f1 = [accuracy_and_macro_f1(one, label_ids, 5)[1] for one in answers]
    assert gains.sum() == pytest.approx(macro_f1[0] - macro_f1[1], abs=1e-12)


@pytest.mark.parametrize(
    ("label_ids", "a", "b"),
    [
        pytest.param([0, 0, 1, 1], [2, 0, 1, 1], [0, 2, 0, 1], id="both answer one without rows"),
        pytest.param([0, 0, 1], [0, 0, 1], [0, 0, 0], id="one row, which B answers wrongly"),
    ],
)
def test_the_gains_of_rare_classes_add_up_as_well(label_ids, a, b) -> None:
    label_ids, a, b = map(np.array, (label_ids, a, b))
    gains, _ = find_f1_gains((a, b), label_ids)
    macro_f1 = [accuracy_and_macro_f1(one, label_ids, 3)[1] for one in (a, b)]
    assert gains.sum() == pytest.approx(macro_f1[0] - macro_f1[1], abs=1e-12)


def test_one_more_row_is_worth_the_mean_over_rows_and_classes() -> None:
    rng = np.random.default_rng(1)
    label_ids = rng.permutation(np.repeat(np.arange(3), (500, 300, 200)))
    _, one_more = find_f1_gains((label_ids, label_ids), label_ids)
    tried = []
    for label in range(3):
        for other in {0, 1, 2} - {label}:
            wrong = label_ids.copy()
            wrong[np.flatnonzero(label_ids == label)[0]] = other
            lost = 1 - accuracy_and_macro_f1(wrong, label_ids, 3)[1]
            tried.append((lost, (label_ids == label).mean() / 2))
    assert one_more == pytest.approx(sum(lost * share for lost, share in tried), rel=0.01)


def test_few_differences_widen_macro_f1_as_they_do_accuracy() -> None:
    """Of two classes of equally many rows, a row is worth as much to both scores."""
    label_ids = np.arange(200) % 2
    scores = compare(answer(label_ids, 2, only_a=(0, 1, 2)), label_ids, 2)
    accuracy, macro_f1 = scores["accuracy"].interval, scores["macro_f1"].interval
    assert macro_f1.low == pytest.approx(accuracy.low, rel=0.05)
    assert macro_f1.high == pytest.approx(accuracy.high, rel=0.05)
    exact = exact_interval(3, 200)
    assert accuracy.high == pytest.approx(exact.high)
    assert accuracy.low == pytest.approx(
        0.015 - np.hypot(0.015 - exact.low, exact_interval(0, 200).high)
    )


def test_a_difference_on_a_rare_class_reaches_further_in_macro_f1() -> None:
    label_ids = (np.arange(200) < 10).astype(int)
    scores = compare(answer(label_ids, 2, only_a=(0, 1)), label_ids, 2)
    rare, usual = scores["macro_f1"].interval, scores["accuracy"].interval
    assert rare.high - rare.low > 3 * (usual.high - usual.low)
    assert rare.low < 0 < scores["macro_f1"].difference < rare.high


def test_what_few_differences_allow_for_depends_on_the_class() -> None:
    label_ids = (np.arange(200) < 10).astype(int)
    answers, start = answer(label_ids, 2, only_a=(0, 1)), [Interval(0.01, 0.01)] * 3
    accuracy, macro_f1, _ = widen_where_alike(start, answers, label_ids, None)
    assert macro_f1.high - macro_f1.low > 3 * (accuracy.high - accuracy.low)


def test_ten_differences_leave_the_interval_of_the_resamples() -> None:
    differences, units = np.zeros(200, dtype=np.int64), np.arange(200)
    differences[:10] = 1
    interval, gains = Interval(0.03, 0.08), (differences / 200, 1 / 200)
    assert allow_for_alike(interval, differences, units, gains=gains) == interval
    differences[0] = 0
    assert allow_for_alike(interval, differences, units, gains=gains) != interval


def test_with_groups_a_difference_tells_less_of_macro_f1() -> None:
    label_ids, units = np.arange(40) % 2, np.arange(40) // 2
    answers = answer(label_ids, 2, only_a=(0,))
    by_row = compare(answers, label_ids, 2)["macro_f1"].interval
    by_group = compare(answers, label_ids, 2, groups=units)["macro_f1"].interval
    assert by_group.low < by_row.low < -0.05
    assert by_group.high > by_row.high


@pytest.mark.slow
@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.9, 0.1), (0.4, 0.3, 0.2, 0.1)])
def test_the_interval_of_macro_f1_covers_no_difference_of_models_that_differ_rarely(
    shares,
) -> None:
    """Each model alone is right on 1 % of the rows; the resamples alone cover 0 in 88 to 90 %."""
    rng, num_labels, covered = np.random.default_rng(2), len(shares), 0
    for _ in range(100):
        label_ids = rng.choice(num_labels, 200, p=shares)
        alone = rng.permutation(200)[: rng.binomial(200, 0.02)]
        is_a = rng.random(len(alone)) < 0.5
        answers = answer(label_ids, num_labels, only_a=alone[is_a], only_b=alone[~is_a])
        found = compare(answers, label_ids, num_labels)["macro_f1"].interval
        covered += found.low <= 0 <= found.high
    assert covered >= 95


def draw_sure(rng, noise, label_ids, *, sureness):
    """Probabilities that are right on 99 % of the rows, and calibrated if the sureness is 1."""
    away = stats.norm.ppf(0.99)
    positive = expit(sureness * 2 * away * (away * (2 * label_ids - 1) + noise))
    return np.stack([1 - positive, positive], axis=1)


def test_the_interval_of_log_loss_covers_what_a_surer_model_loses_by_rare_mistakes() -> None:
    """Of 200 rows, 2 are mistaken on average: the resamples alone cover it in 73 %."""
    rng = np.random.default_rng(0)
    label_ids, noise = rng.integers(2, size=400_000), rng.normal(size=400_000)
    surer, calibrated = (draw_sure(rng, noise, label_ids, sureness=one) for one in (3, 1))
    rows = np.arange(len(label_ids))
    ratio = calibrated[rows, label_ids] / np.maximum(surer[rows, label_ids], 1e-7)
    truth, covered = float(np.log(ratio).mean()), 0
    for _ in range(40):
        labels, of_a = rng.integers(2, size=200), rng.normal(size=200)
        of_b = 0.7 * of_a + np.sqrt(1 - 0.49) * rng.normal(size=200)
        a = draw_sure(rng, of_a, labels, sureness=3)
        b = draw_sure(rng, of_b, labels, sureness=1)
        found = compare_predictions(a, b, labels, num_resamples=100).scores["log_loss"].interval
        covered += found.low <= truth <= found.high
    assert covered >= 37


def test_ten_mistakes_and_hits_of_both_leave_the_interval_of_log_loss() -> None:
    label_ids, rng = np.arange(40) % 2, np.random.default_rng(0)
    interval, of_each = Interval(0.0, 0.1), (Interval(0.0, 9.0), Interval(0.0, 9.0))
    positive = rng.uniform(0.1, 0.9, size=40)
    probabilities = np.stack([1 - positive, positive], axis=1)
    for num_wrong, is_wider in ((9, True), (10, False)):
        answers = np.where(np.arange(40) < num_wrong, 1 - label_ids, label_ids)
        pair = ((probabilities, answers), (probabilities, np.where(answers, 0, 1)))
        found = widen_where_few_mistakes(interval, of_each, pair, label_ids, None)
        assert (found != interval) == is_wider


def test_exceptions_of_both_kinds_tell_together_how_many_rows_the_groups_are() -> None:
    """A alone is right on all rows but three: of one pair neither is, and B alone on another."""
    differences, pairs = np.ones(120, dtype=np.int64), np.arange(120) // 2
    differences[[0, 1]], differences[4] = 0, -1
    found = allow_for_alike(Interval(0.9, 0.9), differences, pairs)
    num_told = count_effective(differences == 1, pairs)
    a, b = (exact_interval(share * num_told, num_told) for share in (117 / 120, 1 / 120))
    down, up = np.hypot(117 / 120 - a.low, b.high - 1 / 120), a.high - 117 / 120
    assert found.low == pytest.approx(116 / 120 - down)
    assert found.high == pytest.approx(116 / 120 + np.hypot(up, 1 / 120 - b.low))


@pytest.mark.parametrize("difference", [-1, 0, 1])
def test_copies_of_rows_within_groups_make_no_difference_surer(difference) -> None:
    start, units = Interval(difference, difference), np.arange(12)
    alone = allow_for_alike(start, np.full(12, difference), units)
    copied = allow_for_alike(start, np.full(60, difference), units.repeat(5))
    assert (copied.low, copied.high) == pytest.approx((alone.low, alone.high), rel=1e-12)


def test_swapping_the_models_mirrors_the_interval_of_macro_f1() -> None:
    label_ids = (np.arange(200) < 10).astype(int)
    answers = answer(label_ids, 2, only_a=(0, 1), only_b=(50, 51, 52))
    start = [Interval(0.0, 0.0)] * 3
    found = widen_where_alike(start, answers, label_ids, None)[1]
    swapped = widen_where_alike(start, answers[::-1], label_ids, None)[1]
    assert (swapped.low, swapped.high) == pytest.approx((-found.high, -found.low), rel=1e-12)


def test_what_the_same_mistakes_cost_both_makes_no_difference() -> None:
    label_ids, rng = np.arange(200) % 2, np.random.default_rng(0)
    of_label = np.where(np.arange(200) < 3, 0.1, rng.uniform(0.8, 1.0, size=200))
    a = np.where(np.arange(2) == label_ids[:, None], of_label[:, None], 1 - of_label[:, None])
    found = compare_predictions(a, a, label_ids, num_resamples=100).scores["log_loss"].interval
    assert (found.low, found.high) == (0.0, 0.0)
    b = 0.9999 * a + 0.0001 / 2
    found = compare_predictions(a, b, label_ids, num_resamples=100).scores["log_loss"].interval
    assert found.high - found.low < 0.001
    a_little = 0.3 * a + 0.7 / 2  # much less sure of the same answers
    found = compare_predictions(a, a_little, label_ids, num_resamples=100).scores["log_loss"]
    assert found.interval.high < -0.25


def test_swapping_two_models_of_which_one_is_right_on_all_rows_mirrors_macro_f1() -> None:
    label_ids = np.arange(12) % 3
    answers = (label_ids, (label_ids + 1) % 3)
    found = widen_where_alike([Interval(1.0, 1.0)] * 3, answers, label_ids, None)[1]
    swapped = widen_where_alike([Interval(-1.0, -1.0)] * 3, answers[::-1], label_ids, None)[1]
    assert found.low < 0.5 < found.high == 1.0
    assert (swapped.low, swapped.high) == (-found.high, -found.low)


def draw_mistakes(label_ids, num_wrong):
    """Probabilities of the label, that is answered on all but the last `num_wrong` rows."""
    rng, num_rows = np.random.default_rng(num_wrong), len(label_ids)
    is_right = np.arange(num_rows) < num_rows - num_wrong
    of_label = np.where(is_right, rng.uniform(0.8, 1.0, num_rows), rng.uniform(0.0, 0.2, num_rows))
    of_each = np.where(np.arange(2) == label_ids[:, None], of_label[:, None], 1 - of_label[:, None])
    return of_each, of_each.argmax(axis=1)


@pytest.mark.parametrize("numbers_wrong", [(2, 20), (20, 2), (2, 5)])
def test_the_log_losses_of_both_bound_their_difference_if_either_has_few_mistakes(
    numbers_wrong,
) -> None:
    label_ids, units = np.arange(60) % 2, np.arange(60)
    pair = [draw_mistakes(label_ids, num_wrong) for num_wrong in numbers_wrong]
    means = [float(-np.log(each[units, label_ids]).mean()) for each, _ in pair]
    difference, of_each = means[0] - means[1], [Interval(mean, mean + 0.1) for mean in means]
    a, b = (
        allow_for_mistakes(
            own, answers == label_ids, log_losses_if(each, label_ids, answers), units
        )
        for own, (each, answers) in zip(of_each, pair, strict=True)
    )
    start = Interval(difference, difference)
    found = widen_where_few_mistakes(start, of_each, pair, label_ids, None)
    assert found.low == pytest.approx(difference - np.hypot(means[0] - a.low, b.high - means[1]))
    assert found.high == pytest.approx(difference + np.hypot(a.high - means[0], means[1] - b.low))


def test_copies_of_rows_within_groups_make_no_difference_in_log_loss_surer() -> None:
    label_ids = np.arange(60) % 2
    a, b = (draw_mistakes(label_ids, num_wrong)[0] for num_wrong in (2, 1))
    alone = compare_predictions(a, b, label_ids, num_resamples=100).scores["log_loss"].interval
    groups = np.repeat([f"{row:02}" for row in range(60)], 2)
    copies = (np.repeat(one, 2, axis=0) for one in (a, b, label_ids))
    copied = compare_predictions(*copies, groups=groups, num_resamples=100).scores["log_loss"]
    found = copied.interval
    assert (found.low, found.high) == pytest.approx((alone.low, alone.high), abs=0.02)


def test_copies_of_rows_within_groups_make_the_same_answers_no_surer_in_macro_f1() -> None:
    label_ids, start = np.arange(12) % 3, [Interval(0.0, 0.0)] * 3
    alone = widen_where_alike(start, (label_ids, label_ids), label_ids, None)[1]
    copies, groups = label_ids.repeat(5), np.arange(12).repeat(5)
    assert widen_where_alike(start, (copies, copies), copies, groups)[1] == alone


def test_a_class_that_one_model_alone_answers_counts_whichever_that_is() -> None:
    label_ids, other = np.array([0, 0, 1, 1]), np.array([0, 2, 1, 1])
    gains, one_more = find_f1_gains((label_ids, other), label_ids)
    mirrored, as_much = find_f1_gains((other, label_ids), label_ids)
    assert gains == pytest.approx(-mirrored)
    assert one_more == pytest.approx(as_much)
