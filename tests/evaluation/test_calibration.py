"""Calibration scores: their values, and what chance alone gives."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from scipy.stats import norm, t
from sklearn.metrics import brier_score_loss, log_loss

from bertfit.errors import DataError
from bertfit.evaluation.calibration import (
    _count_draws,
    _draw_noise_of_groups,
    count_bins,
    expected_calibration_error,
    row_brier_scores,
    score_calibration,
    score_confidence,
)
from bertfit.evaluation.interval import count_effective, exact_interval
from bertfit.evaluation.selective import rank_rows, risk_area, share_mistakes


@pytest.mark.parametrize("num_labels", [2, 5])
def test_the_brier_score_is_that_of_scikit_learn(draw_logits, num_labels):
    logits, label_ids = draw_logits(200, num_labels)
    probabilities = softmax(logits, axis=1)
    expected = brier_score_loss(
        label_ids,
        probabilities[:, 1] if num_labels == 2 else probabilities,
        labels=range(num_labels),
    )
    assert row_brier_scores(probabilities, label_ids).mean() == pytest.approx(expected)


def test_the_error_of_one_bin_is_the_gap_of_confidence_and_accuracy():
    """Fewer than 20 rows have one bin, in which gaps of either sign cancel."""
    confidences, is_right = [0.85] * 10 + [1.0] * 5, [True] * 12 + [False] * 3
    assert expected_calibration_error(confidences, is_right) == pytest.approx(0.1)


def test_bins_keep_their_gaps_apart():
    """Over- and under-confidence must not cancel, in none of the 15 bins."""
    confidences = np.repeat(np.linspace(0.5, 0.95, 15), 10)
    is_right = np.repeat(np.arange(15) % 2 == 0, 10)
    expected = np.abs(confidences - is_right).mean()
    assert expected_calibration_error(confidences, is_right) == pytest.approx(expected)


@settings(max_examples=25)
@given(st.lists(st.sampled_from([0.5, 0.6, 0.8, 0.99]), min_size=1, max_size=80), st.integers())
def test_the_order_of_rows_does_not_matter(confidences, seed):
    rng = np.random.default_rng(abs(seed))
    is_right = rng.random(len(confidences)) < 0.7
    order = rng.permutation(len(confidences))
    shuffled = expected_calibration_error(np.asarray(confidences)[order], is_right[order])
    assert expected_calibration_error(confidences, is_right) == pytest.approx(shuffled)


@pytest.mark.parametrize("seed", range(5))
def test_true_probabilities_stay_near_the_noise_and_others_do_not(draw_logits, seed):
    logits, label_ids = draw_logits(2000, 3, seed=seed)
    true = score_calibration(softmax(logits, axis=1), label_ids)
    bold = score_calibration(softmax(3 * logits, axis=1), label_ids)
    assert true.ece < 1.5 * true.ece_noise
    assert bold.ece > 3 * bold.ece_noise
    assert (bold.brier, bold.log_loss) > (true.brier, true.log_loss)
    assert true.log_loss == pytest.approx(log_loss(label_ids, softmax(logits, axis=1)))


def test_the_noise_falls_with_more_rows(draw_logits):
    noises = [
        score_calibration(softmax(logits, axis=1), label_ids).ece_noise
        for logits, label_ids in (draw_logits(200, 2), draw_logits(20_000, 2))
    ]
    assert noises[1] < noises[0] / 5


def test_confidence_scores_lie_in_their_intervals_and_are_json(draw_logits):
    logits, label_ids = draw_logits(300, 2, temperature=3)
    probabilities = softmax(logits, axis=1)
    scores = score_confidence(
        softmax(logits / 3, axis=1), label_ids, uncalibrated=probabilities, num_resamples=200
    )
    value = json.loads(json.dumps(scores.to_json()))
    for name in ("brier", "aurc"):
        interval = value["intervals"][name]
        assert interval["low"] < value[name] < interval["high"]
    assert value["uncalibrated"]["log_loss"] > value["log_loss"]
    assert value["aurc"] < scores.error_rate
    assert score_confidence(probabilities, label_ids, num_resamples=10).uncalibrated is None


def test_groups_make_the_intervals_wider():
    """Rows of a group are all right or all wrong: there are fewer independent ones than rows."""
    probabilities = np.tile([0.2, 0.8], (200, 1))
    groups = np.repeat(np.arange(20), 10)
    label_ids = (groups % 4 > 0).astype(int)
    by_row = score_confidence(probabilities, label_ids, num_resamples=300)
    by_group = score_confidence(probabilities, label_ids, groups=groups, num_resamples=300)
    widths = [
        scores.intervals["brier"].high - scores.intervals["brier"].low
        for scores in (by_row, by_group)
    ]
    assert widths[1] > 2 * widths[0]


def test_chance_is_that_of_the_groups_before_and_after_calibration(draw_logits):
    logits, label_ids = draw_logits(200, 2, temperature=2)
    before, after = softmax(logits, axis=1), softmax(logits / 2, axis=1)
    groups = np.repeat(np.arange(10), 20)
    scores = score_confidence(
        after, label_ids, uncalibrated=before, groups=groups, num_resamples=10
    )
    for found, probabilities in ((scores.calibration, after), (scores.uncalibrated, before)):
        of_groups = score_calibration(probabilities, label_ids, groups=groups).ece_noise
        assert found.ece_noise == pytest.approx(of_groups)
        assert of_groups > 1.01 * score_calibration(probabilities, label_ids).ece_noise


def test_groups_count_by_their_rows_in_the_brier_score():
    rng = np.random.default_rng(0)
    of_second, label_ids = rng.uniform(size=60), rng.integers(2, size=60)
    probabilities = np.stack([1 - of_second, of_second], axis=1)
    groups = np.repeat(np.arange(10, 30), [1, 5] * 10)
    rng = np.random.default_rng(3)
    members = [np.flatnonzero(groups == group) for group in range(10, 30)]
    scores = row_brier_scores(probabilities, label_ids)
    values = [
        scores[np.concatenate([members[unit] for unit in rng.integers(20, size=20)])].mean()
        for _ in range(100)
    ]
    ends = np.quantile(values, [0.025, 0.975])
    num_even = 60**2 / (10 + 10 * 25)  # groups of one size that would tell as much
    away = t.ppf(0.975, num_even - 1)
    further = away / norm.ppf(0.975) * np.sqrt(num_even / (num_even - 1))
    found = score_confidence(
        probabilities, label_ids, groups=groups, num_resamples=100, seed=3
    ).intervals["brier"]
    expected = scores.mean() + further * (ends - scores.mean())
    times = np.exp(away * np.std(values) / scores.mean())
    assert found.low == pytest.approx(min(expected[0], scores.mean() / times))
    assert found.high == pytest.approx(max(expected[1], scores.mean() * times))


def test_what_is_answered_decides_the_risk():
    """A threshold answers a class that is not the most probable one."""
    probabilities = [[0.6, 0.4], [0.9, 0.1]]
    scores = score_confidence(probabilities, [1, 0], predicted_ids=[1, 0], num_resamples=10)
    assert (scores.aurc, scores.error_rate) == (0, 0)
    assert score_confidence(probabilities, [1, 0], num_resamples=10).error_rate == 0.5


def test_rows_are_ranked_by_the_probability_of_what_is_answered():
    """A threshold answers the second class of the first row, and wrongly: that comes last."""
    probabilities = [[0.6, 0.4], [0.55, 0.45]]
    scores = score_confidence(probabilities, [0, 0], predicted_ids=[1, 0], num_resamples=10)
    assert scores.aurc == (0 + 1 / 2) / 2


def test_intervals_end_where_scores_do_and_one_row_tells_nothing() -> None:
    scores = score_confidence([[0.9, 0.1]] * 12, [1] * 11 + [0], num_resamples=200)
    assert scores.intervals["aurc"].high <= 1
    assert scores.intervals["brier"].high <= 1
    alone = score_confidence([[0.6, 0.4]], [0], num_resamples=10).intervals
    assert all((interval.low, interval.high) == (0, 1) for interval in alone.values())


def test_an_interval_that_allows_for_mistakes_ends_where_its_score_does() -> None:
    """With three rows, one of them wrong, it allowed for more than all."""
    scores = score_confidence([[0.99, 0.01], [0.6, 0.4], [0.55, 0.45]], [1, 0, 0])
    assert scores.intervals["aurc"].high == 1.0
    assert 0.0 <= scores.intervals["brier"].low <= scores.intervals["brier"].high <= 1.0


def test_a_label_must_be_one_of_the_classes():
    with pytest.raises(DataError, match="expected label ids from 0 to 1, got -1 to -1"):
        score_confidence([[0.9, 0.1]], [-1])


def test_logits_are_not_taken_for_probabilities():
    with pytest.raises(DataError, match="expected probabilities"):
        score_confidence([[2.0, -1.0]], [0])


def test_rows_of_equal_confidence_keep_their_doubt() -> None:
    """Which of them are wrong differs from draw to draw, though their order does not."""
    rng = np.random.default_rng(0)
    probabilities, num_hits, truth = np.tile([0.2, 0.8], (200, 1)), 0, 0.2
    for trial in range(100):
        label_ids = (rng.random(200) > truth).astype(int)
        interval = score_confidence(
            probabilities, label_ids, num_resamples=100, seed=trial
        ).intervals["aurc"]
        num_hits += interval.low <= truth <= interval.high
    assert num_hits >= 88


@pytest.mark.parametrize("num_labels", [2, 4])
def test_a_model_without_a_mistake_may_make_some(num_labels: int) -> None:
    """As many as accuracy's exact interval has; of 100 rows 3.6, and not none at all."""
    label_ids = np.arange(100) % num_labels
    probabilities = softmax(8 * np.eye(num_labels)[label_ids], axis=1)
    found = score_confidence(probabilities, label_ids)
    most = 1 - 0.025 ** (1 / 100)
    assert found.aurc == found.intervals["aurc"].low == 0
    assert found.intervals["aurc"].high == pytest.approx(most)
    wrong = row_brier_scores(probabilities, (label_ids + 1) % num_labels).mean()
    expected = most * wrong + (1 - most) * found.calibration.brier
    assert found.intervals["brier"].high == pytest.approx(expected)


def test_mistakes_that_were_seen_cost_what_they_cost() -> None:
    """Of the two that are wrong, one was all but right; no other class is as likely."""
    probabilities = np.tile([0.8, 0.1, 0.1], (100, 1))
    probabilities[:2] = [0.5, 0.49, 0.01], [0.5, 0.01, 0.49]
    label_ids = np.array([1, 2] + [0] * 98)
    found = score_confidence(probabilities, label_ids, num_resamples=10).intervals["brier"]
    if_right = row_brier_scores(probabilities, np.zeros(100, int))
    if_wrong = row_brier_scores(probabilities, np.array([1, 2] + [1] * 98))
    each = ((if_wrong - if_right)[:2].sum() + (if_wrong - if_right).mean()) / 3
    assert found.high == pytest.approx(if_right.mean() + exact_interval(2, 100).high * each)


def test_ten_mistakes_of_one_group_are_as_doubtful_as_those_of_few() -> None:
    """Resamples have this group up to four times; the exact interval reaches further."""
    is_right, groups = np.arange(200) >= 10, np.arange(200) // 10
    probabilities = np.tile([0.8, 0.2], (200, 1))
    found = score_confidence(probabilities, (~is_right).astype(int), groups=groups).intervals
    num_effective = count_effective(is_right, groups)
    most = exact_interval(0.05 * num_effective, num_effective).high
    assert found["aurc"].high == pytest.approx(most)
    assert found["brier"].high == pytest.approx(0.04 + 0.6 * most)


@pytest.mark.slow
def test_intervals_of_a_sure_model_cover_the_truth() -> None:
    """Log odds of normal rows, of which 1 in 160 is wrong: by resamples 4 and 40 times in 100."""

    def draw(num_rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        label_ids = np.arange(num_rows) % 2
        log_odds = 2 * np.random.default_rng(seed).normal(size=num_rows) + 10 * (label_ids - 0.5)
        return softmax(np.column_stack([-log_odds, log_odds]), axis=1), label_ids

    whole = score_confidence(*draw(200_000, 0), num_resamples=1)
    found = [score_confidence(*draw(100, 1 + seed), num_resamples=100) for seed in range(100)]
    for name, truth in (("aurc", whole.aurc), ("brier", whole.calibration.brier)):
        intervals = [one.intervals[name] for one in found]
        assert sum(one.low <= truth <= one.high for one in intervals) >= 90


def test_the_noise_is_what_one_true_model_in_twenty_exceeds() -> None:
    rng = np.random.default_rng(0)
    confidences = rng.uniform(0.5, 1, 300)
    probabilities = np.stack([confidences, 1 - confidences], axis=1)
    noise = score_calibration(probabilities, np.zeros(300, int)).ece_noise
    errors = [
        expected_calibration_error(confidences, rng.random(300) < confidences) for _ in range(400)
    ]
    assert 0.01 < np.mean(np.array(errors) > noise) < 0.1


def test_in_the_area_a_mistake_of_a_confident_row_costs_more() -> None:
    """It counts at all coverages from its rank on: here at all of 20, or at the last alone."""
    confidences = np.linspace(0.95, 0.55, 20)
    probabilities = np.stack([confidences, 1 - confidences], axis=1)
    highs = []
    for wrong in (0, 19):
        found = score_confidence(probabilities, (np.arange(20) == wrong).astype(int))
        highs.append(found.intervals["aurc"].high)
    share = exact_interval(1, 20).high
    of_first = sum(1 / rank for rank in range(1, 21))
    assert highs[0] == pytest.approx(share * (of_first + 1) / 2)
    assert highs[1] < 0.4 * highs[0]


def test_chance_explains_more_if_rows_of_a_group_are_right_or_wrong_together() -> None:
    """Calibrated by construction, in 15 groups: rows alone raise a false alarm in 19 of 100."""
    groups, alarms = np.repeat(np.arange(15), 100), []
    for seed in range(40):
        random = np.random.default_rng(seed)
        confidences = 0.5 + 0.5 * random.beta(4, 1, size=1500)
        latent = np.sqrt(0.1) * random.normal(size=15)[groups]
        latent += np.sqrt(0.9) * random.normal(size=1500)
        is_right = norm.cdf(latent) < confidences
        label_ids = random.integers(2, size=1500)
        answers = np.where(is_right, label_ids, 1 - label_ids)
        probabilities = np.where(np.arange(2) == answers[:, None], 1.0, -1.0)
        probabilities = 0.5 + probabilities * (confidences - 0.5)[:, None]
        of_groups = score_calibration(probabilities, label_ids, groups=groups)
        of_rows = score_calibration(probabilities, label_ids)
        assert of_groups.ece == of_rows.ece
        assert of_groups.ece_noise >= of_rows.ece_noise
        alarms.append([scores.ece > scores.ece_noise for scores in (of_groups, of_rows)])
    of_groups, of_rows = np.mean(alarms, axis=0)
    assert of_groups < 0.1 < of_rows


def test_chance_explains_as_much_if_all_rows_of_a_group_have_one_confidence() -> None:
    """A bin then has few groups, whose rows are right or wrong together."""
    groups, alarms = np.repeat(np.arange(30), 20), []
    for seed in range(20):
        random = np.random.default_rng(seed)
        positive = random.uniform(0.5, 1.0, size=30)[groups]
        latent = np.sqrt(0.3) * random.normal(size=30)[groups]
        latent += np.sqrt(0.7) * random.normal(size=600)
        label_ids = (norm.cdf(latent) < positive).astype(int)
        probabilities = np.stack([1 - positive, positive], axis=1)
        scores = score_calibration(probabilities, label_ids, groups=groups)
        alarms.append(scores.ece > scores.ece_noise)
    assert np.mean(alarms) < 0.2


def test_the_chance_of_few_groups_is_stretched_as_an_interval_is() -> None:
    """Signs of three equal gaps agree in a quarter of all draws: the quantile is theirs."""
    gaps, units = np.full(12, 0.1), np.arange(12) // 4
    found = _draw_noise_of_groups(gaps, np.zeros(12, int), units, np.random.default_rng(0))
    assert found == pytest.approx(0.1 * t.ppf(0.975, 2) / norm.ppf(0.975) * np.sqrt(3 / 2))


def test_the_chance_of_uneven_groups_is_stretched_as_that_of_fewer_even_ones() -> None:
    """Three of twelve have a gap, and all have one row or three."""
    units, gaps = np.repeat(np.arange(12), [1, 3] * 6), np.zeros(24)
    gaps[[0, 1, 4]] = 0.8
    found = _draw_noise_of_groups(gaps, np.zeros(24, int), units, np.random.default_rng(0))
    num_even = 24**2 / (6 + 6 * 9)
    further = t.ppf(0.975, num_even - 1) / norm.ppf(0.975) * np.sqrt(num_even / (num_even - 1))
    assert found == pytest.approx(0.1 * further)


def test_rows_that_are_their_own_groups_change_nothing() -> None:
    random = np.random.default_rng(0)
    probabilities = random.dirichlet([1, 1], size=50)
    label_ids = random.integers(2, size=50)
    assert score_calibration(probabilities, label_ids) == score_calibration(
        probabilities, label_ids, groups=np.arange(50)
    )


def test_the_interval_of_a_brier_score_of_many_classes_may_end_above_1() -> None:
    probabilities = np.tile([0.9, 0.05, 0.05], (60, 1))
    label_ids = np.where(np.arange(60) % 10 == 0, 0, 1)
    scores = score_confidence(probabilities, label_ids, num_resamples=200)
    assert 1 < scores.intervals["brier"].low < scores.calibration.brier < 2
    assert scores.calibration.brier < scores.intervals["brier"].high <= 2


def test_rows_at_the_edge_of_two_bins_are_in_the_lower_one() -> None:
    """The edge is the median, 0.6; in one bin, the gaps of -4.4 and 3.1 would cancel."""
    confidences, is_right = [0.6] * 11 + [0.9] * 9, [True] * 16 + [False] * 4
    found = expected_calibration_error(confidences, is_right)
    assert found == pytest.approx((4.4 + 3.1) / 20)


@pytest.mark.parametrize(
    ("num_rows", "num_bins"), [(1, 1), (19, 1), (20, 2), (149, 14), (150, 15), (9999, 15)]
)
def test_there_is_a_bin_for_every_ten_rows_up_to_fifteen(num_rows: int, num_bins: int) -> None:
    assert count_bins(num_rows) == num_bins


def test_the_noise_is_the_quantile_of_one_in_twenty() -> None:
    """Of rows of one confidence, which share a bin, it is that of a normal deviation."""
    probabilities = np.tile([0.8, 0.2], (2000, 1))
    noise = score_calibration(probabilities, np.zeros(2000, int)).ece_noise
    assert noise == pytest.approx(norm.ppf(0.975) * np.sqrt(0.8 * 0.2 / 2000), rel=0.08)


@pytest.mark.parametrize(
    ("num_rows", "num_draws"), [(1, 1000), (50_000, 1000), (100_000, 500), (10**7, 200)]
)
def test_many_rows_are_drawn_less_often_but_200_times_at_least(
    num_rows: int, num_draws: int
) -> None:
    assert _count_draws(num_rows) == num_draws


def test_groups_never_make_the_noise_less_than_that_of_rows() -> None:
    """In each of these, as many are right as the model is sure of, and no gap is left."""
    probabilities = np.tile([0.8, 0.2], (200, 1))
    label_ids, groups = (np.arange(200) % 5 == 0).astype(int), np.arange(200) // 10
    by_row, by_group = (
        score_calibration(probabilities, label_ids, groups=one).ece_noise for one in (None, groups)
    )
    assert by_group == by_row > 0.01


def test_the_seed_is_that_of_all_draws(draw_logits) -> None:
    logits, label_ids = draw_logits(100, 2, temperature=2)
    before, after = softmax(logits, axis=1), softmax(logits / 2, axis=1)
    scores = score_confidence(after, label_ids, uncalibrated=before, num_resamples=10, seed=7)
    for found, probabilities in ((scores.calibration, after), (scores.uncalibrated, before)):
        assert found == score_calibration(probabilities, label_ids, seed=7)
        assert found != score_calibration(probabilities, label_ids)


def test_rows_of_equal_confidence_share_their_mistakes_in_the_area() -> None:
    probabilities = [[0.8, 0.2], [0.8, 0.2]]
    for label_ids in ([0, 1], [1, 0]):
        assert score_confidence(probabilities, label_ids, num_resamples=10).aurc == 0.5


def test_the_interval_of_the_area_reaches_as_far_as_that_of_its_logarithm() -> None:
    rng = np.random.default_rng(0)
    confidences, is_right = rng.uniform(0.5, 1, 60), np.arange(60) % 5 > 0
    probabilities = np.stack([confidences, 1 - confidences], axis=1)
    found = score_confidence(probabilities, (~is_right).astype(int), num_resamples=100, seed=3)
    ranked, rng = rank_rows(confidences, is_right), np.random.default_rng(3)
    draws = [np.bincount(rng.integers(60, size=60), minlength=60) for _ in range(100)]
    spread = np.std([risk_area(share_mistakes(ranked, counts)) for counts in draws])
    times = np.exp(t.ppf(0.975, 59) * spread / found.aurc)
    assert found.intervals["aurc"].high == pytest.approx(found.aurc * times)
