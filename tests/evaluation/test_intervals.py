"""Intervals agree with brute force and with scipy, and have the stated coverage."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.special import expit

from bertfit.errors import ConfigError, DataError
from bertfit.evaluation import resampling
from bertfit.evaluation.calibration import score_confidence
from bertfit.evaluation.comparison import compare_predictions, compare_with_baseline
from bertfit.evaluation.few_differences import allow_for_alike
from bertfit.evaluation.interval import (
    Interval,
    allow_for_certain,
    allow_for_long_tail,
    allow_for_mistakes,
    average_exact,
    count_effective,
    exact_interval,
    has_few,
    have_few_units,
    stretch,
)
from bertfit.evaluation.intervals import (
    bootstrap_intervals,
    mcnemar_p_value,
    paired_difference_interval,
)
from bertfit.evaluation.metrics import WORST_LOG_LOSS, Scores, accuracy_and_macro_f1, score

SCORE_NAMES = ("accuracy", "macro_precision", "macro_recall", "macro_f1", "log_loss")


def draw_rows(
    num_rows: int, num_labels: int = 2, *, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Return probabilities, rounded so that scores tie, and label ids that they know a bit of."""
    rng = np.random.default_rng(seed)
    label_ids = rng.integers(num_labels, size=num_rows)
    logits = rng.normal(size=(num_rows, num_labels)).round(1)
    logits[np.arange(num_rows), label_ids] += 1
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return probabilities, label_ids


def resample_by_hand(
    probabilities: np.ndarray, label_ids: np.ndarray, *, num_resamples: int, seed: int
) -> list[Scores]:
    """Draw rows in the order that the library does, and score each resample from its rows."""
    rng = np.random.default_rng(seed)
    names = [str(label_id) for label_id in range(probabilities.shape[1])]
    draws = [rng.integers(len(label_ids), size=len(label_ids)) for _ in range(num_resamples)]
    return [score(probabilities[drawn], label_ids[drawn], names) for drawn in draws]


def find_interval_by_hand(
    whole: float, resampled: Sequence[Scores], label_ids: np.ndarray, name: str
) -> Interval:
    values = [value for one in resampled if (value := getattr(one, name)) is not None]
    low, high = np.quantile(values, [0.025, 0.975])
    if name.startswith("macro"):
        back = whole - np.mean(values)
        low, high = low + back + min(0.0, back), high + back + max(0.0, back)
    num_rows = len(label_ids)
    stretch = stats.t.ppf(0.975, num_rows - 1) / stats.norm.ppf(0.975)
    stretch *= np.sqrt(num_rows / (num_rows - 1))
    ends = whole + stretch * (np.array([low, high]) - whole)
    if name == "auroc":
        reach = stats.t.ppf(0.975, np.bincount(label_ids).min() - 1)
        away = reach * np.std(values) / (whole * (1 - whole)) * np.array([-1, 1])
        odds = 1 / (1 + (1 - whole) / whole * np.exp(-away))
        ends = np.array([min(ends[0], odds[0]), max(ends[1], odds[1])])
    if name == "log_loss":
        times = np.exp(stats.t.ppf(0.975, num_rows - 1) * np.std(values) / whole)
        ends = np.array([min(ends[0], whole / times), max(ends[1], whole * times)])
    ends = ends.clip(0, None if name == "log_loss" else 1)
    return Interval(float(ends[0]), float(ends[1]))


@pytest.mark.parametrize("num_labels", [2, 5])
def test_intervals_equal_those_of_resamples_scored_one_by_one(num_labels: int) -> None:
    probabilities, label_ids = draw_rows(80, num_labels)
    found = bootstrap_intervals(probabilities, label_ids, num_resamples=100, seed=3)
    names = (*SCORE_NAMES, "auroc") if num_labels == 2 else SCORE_NAMES
    assert tuple(sorted(found)) == tuple(sorted(names))
    resampled = resample_by_hand(probabilities, label_ids, num_resamples=100, seed=3)
    whole = score(probabilities, label_ids, [str(label_id) for label_id in range(num_labels)])
    for name in names:
        expected = find_interval_by_hand(getattr(whole, name), resampled, label_ids, name)
        assert (found[name].low, found[name].high) == pytest.approx((expected.low, expected.high))


def test_intervals_of_other_scores_are_made_in_the_same_way() -> None:
    probabilities, label_ids = draw_rows(80, 5)
    answers = probabilities.argmax(axis=1)

    def score_resample(counts: np.ndarray) -> tuple[float, float]:
        drawn = np.repeat(np.arange(80), counts)
        return accuracy_and_macro_f1(answers[drawn], label_ids[drawn], 5)

    options = {"num_resamples": 100, "seed": 3}
    found = resampling.resample_intervals(
        score_resample, 80, biased=[1], within=[(0, 1), (0, 1)], **options
    )
    expected = bootstrap_intervals(probabilities, label_ids, **options)
    for one, name in zip(found, ("accuracy", "macro_f1"), strict=True):
        assert (one.low, one.high) == pytest.approx((expected[name].low, expected[name].high))


def test_over_groups_the_trailing_end_stays_where_the_resamples_have_it() -> None:
    """The share of the rows that were drawn is 1 of all, and 0.63 of the resamples."""

    def find(groups: np.ndarray | None, biased: Sequence[int]) -> Interval:
        (found,) = resampling.resample_intervals(
            lambda counts: [float((counts > 0).mean())],
            60,
            groups=groups,
            num_resamples=100,
            biased=biased,
            within=[(0.0, 2.0)],
        )
        return found

    pairs = np.arange(60) // 2
    assert find(pairs, [0]).low == find(pairs, []).low < 0.6
    assert find(pairs, [0]).high > find(pairs, []).high + 0.6
    assert find(None, [0]).low > find(None, []).low + 0.3


def test_over_groups_macro_averages_keep_the_low_end_of_their_resamples() -> None:
    """Of ten classes of six rows, in groups, resamples are too low, and their low end stays."""
    probabilities, label_ids = draw_rows(60, 10)
    answers, groups = probabilities.argmax(axis=1), np.arange(60) // 2
    options = {"groups": groups, "num_resamples": 100, "seed": 3}

    def score_resample(counts: np.ndarray) -> list[float]:
        drawn = np.repeat(np.arange(60), counts)
        return [accuracy_and_macro_f1(answers[drawn], label_ids[drawn], 10)[1]]

    (plain,) = resampling.resample_intervals(score_resample, 60, within=[(0, 1)], **options)
    found = bootstrap_intervals(probabilities, label_ids, **options)["macro_f1"]
    assert found.low <= plain.low + 1e-12


def test_groups_of_uneven_size_reach_as_far_in_log_odds_as_fewer_even_ones() -> None:
    groups = np.repeat(np.arange(10, 30), [1, 5] * 10)
    is_right = np.ones(60, dtype=bool)
    is_right[[3, 5]] = False
    probabilities = np.where(is_right[:, np.newaxis], [0.9, 0.1], [0.2, 0.8])
    options = {"groups": groups, "num_resamples": 100, "seed": 3}
    found = bootstrap_intervals(probabilities, np.zeros(60, dtype=int), **options)["accuracy"]
    members = [np.flatnonzero(groups == group) for group in range(10, 30)]
    rng = np.random.default_rng(3)
    values = [
        is_right[np.concatenate([members[unit] for unit in rng.integers(20, size=20)])].mean()
        for _ in range(100)
    ]
    num_even, share = 60**2 / (10 + 10 * 25), 58 / 60
    away = stats.t.ppf(0.975, num_even - 1) * np.std(values) / (share * (1 - share))
    assert found.low == pytest.approx(expit(np.log(share / (1 - share)) - away))


def test_a_log_loss_of_uneven_groups_reaches_as_far_as_that_of_fewer_even_ones() -> None:
    """Every third row is wrong, if hardly, and one of them surely."""
    groups = np.repeat(np.arange(10, 30), [1, 5] * 10)
    of_label = np.where(np.arange(60) % 3 == 0, 0.45, 0.95)
    of_label[3] = 1e-4
    probabilities = np.stack([of_label, 1 - of_label], axis=1)
    options = {"groups": groups, "num_resamples": 100, "seed": 3}
    found = bootstrap_intervals(probabilities, np.zeros(60, dtype=int), **options)["log_loss"]
    members = [np.flatnonzero(groups == group) for group in range(10, 30)]
    rng, losses = np.random.default_rng(3), -np.log(of_label)
    values = [
        losses[np.concatenate([members[unit] for unit in rng.integers(20, size=20)])].mean()
        for _ in range(100)
    ]
    num_even, mean = 60**2 / (10 + 10 * 25), losses.mean()
    away = stats.t.ppf(0.975, num_even - 1) * np.std(values) / mean
    assert found.high == pytest.approx(mean * np.exp(away))


def test_only_the_scores_that_are_costs_get_the_interval_of_their_logarithm() -> None:
    def score_resample(counts: np.ndarray) -> list[float]:
        return [float(counts[:3].sum() / counts.sum())] * 2

    options = {"num_resamples": 100, "within": [(0.0, 1.0)] * 2}
    share, cost = resampling.resample_intervals(score_resample, 60, costs=[1], **options)
    plain, _ = resampling.resample_intervals(score_resample, 60, **options)
    assert share == plain
    assert cost.high > share.high


def test_resamples_of_one_class_do_not_hide_how_the_others_differ() -> None:
    """Some 11 in 100 have none of the two rows of the second class, and no AUROC."""
    label_ids = np.array([0] * 10 + [1] * 2)
    of_second = np.array([0.1, 0.2, 0.3, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.8, 0.7, 0.9])
    rows = np.stack([1 - of_second, of_second], axis=1), label_ids
    found = bootstrap_intervals(*rows, num_resamples=100, seed=3)["auroc"]
    resampled = resample_by_hand(*rows, num_resamples=100, seed=3)
    assert any(one.auroc is None for one in resampled)
    whole = score(*rows, ["a", "b"]).auroc
    expected = find_interval_by_hand(whole, resampled, label_ids, "auroc")
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_resamples_of_one_class_alone_tell_nothing() -> None:
    assert resampling.percentile_interval(np.full(5, np.nan)) == Interval(0.0, 1.0)


def test_groups_count_by_their_rows() -> None:
    """A resample's mean is over its rows, of which there are more where large groups are drawn.

    Groups of 1 and 5 rows tell as much as fewer of one size.
    """
    probabilities, label_ids = draw_rows(60)
    groups = np.repeat(np.arange(10, 30), [1, 5] * 10)
    rng = np.random.default_rng(3)
    members = [np.flatnonzero(groups == group) for group in range(10, 30)]
    drawn = [
        np.concatenate([members[unit] for unit in rng.integers(20, size=20)]) for _ in range(100)
    ]
    right = probabilities.argmax(axis=1) == label_ids
    other = np.random.default_rng(0).permutation(right)
    other[:20] = True
    options = {"groups": groups, "num_resamples": 100, "seed": 3}
    losses = -np.log(probabilities[np.arange(60), label_ids])
    num_even = 60**2 / (10 + 10 * 25)
    further = stats.t.ppf(0.975, num_even - 1) / stats.norm.ppf(0.975)
    further *= np.sqrt(num_even / (num_even - 1))
    for values, found in (
        (losses, bootstrap_intervals(probabilities, label_ids, **options)["log_loss"]),
        (right.astype(int) - other, paired_difference_interval(right, other, **options)),
    ):
        ends = np.quantile([values[rows].mean() for rows in drawn], [0.025, 0.975])
        expected = values.mean() + further * (ends - values.mean())
        assert (found.low, found.high) == pytest.approx(tuple(expected))


def test_the_order_of_rows_changes_no_interval_over_groups() -> None:
    rng = np.random.default_rng(0)
    values, groups, order = rng.random(60), np.arange(60) // 3, rng.permutation(60)
    ends = []
    for rows in (np.arange(60), order):
        (found,) = resampling.resample_intervals(
            lambda counts, rows=rows: [float(counts @ values[rows] / counts.sum())],
            60,
            groups=groups[rows],
            num_resamples=50,
            within=[(0.0, 1.0)],
        )
        ends.append((found.low, found.high))
    assert ends[0] == pytest.approx(ends[1])


def test_two_groups_are_stretched_as_three_are() -> None:
    for num_units in (2, 3):
        found = stretch(Interval(0.4, 0.7), 0.5, num_units=num_units)
        further = stats.t.ppf(0.975, num_units - 1) / stats.norm.ppf(0.975)
        further *= np.sqrt(num_units / (num_units - 1))
        assert (found.low, found.high) == pytest.approx((0.5 - 0.1 * further, 0.5 + 0.2 * further))


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.1, 0.2, True), (-0.2, -0.1, True), (-0.1, 0.1, False), (0.0, 0.1, False), (-0.1, 0, False)],
)
def test_an_end_at_zero_does_not_exclude_it(low: float, high: float, expected: bool) -> None:
    assert Interval(low, high).excludes_zero is expected


def test_accuracy_interval_agrees_with_scipy() -> None:
    probabilities, label_ids = draw_rows(300)
    correct = probabilities.argmax(axis=1) == label_ids
    expected = stats.bootstrap(
        (correct,), np.mean, method="percentile", n_resamples=4000, rng=np.random.default_rng(0)
    ).confidence_interval
    found = bootstrap_intervals(probabilities, label_ids, num_resamples=4000)["accuracy"]
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.008)


@pytest.mark.parametrize("chunk_numbers", [70, 10])
def test_the_chunk_size_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, chunk_numbers: int
) -> None:
    """Not even if a single resample has more numbers than a chunk may."""
    probabilities, label_ids = draw_rows(30)
    whole = bootstrap_intervals(probabilities, label_ids, num_resamples=50)
    monkeypatch.setattr(resampling, "_CHUNK_NUMBERS", chunk_numbers)
    in_chunks = bootstrap_intervals(probabilities, label_ids, num_resamples=50)
    for name, interval in whole.items():
        assert (interval.low, interval.high) == pytest.approx(
            (in_chunks[name].low, in_chunks[name].high)
        )


def test_the_same_seed_gives_the_same_intervals() -> None:
    rows = draw_rows(50)
    first = bootstrap_intervals(*rows, num_resamples=50, seed=1)
    assert first == bootstrap_intervals(*rows, num_resamples=50, seed=1)
    assert first != bootstrap_intervals(*rows, num_resamples=50, seed=2)


@settings(max_examples=25, deadline=None)
@given(
    num_rows=st.integers(1, 40), num_labels=st.sampled_from([2, 3, 77]), seed=st.integers(0, 999)
)
def test_intervals_are_ordered_and_in_range(num_rows: int, num_labels: int, seed: int) -> None:
    rows = draw_rows(num_rows, num_labels, seed=seed)
    for name, interval in bootstrap_intervals(*rows, num_resamples=40).items():
        assert 0 <= interval.low <= interval.high
        assert name == "log_loss" or interval.high <= 1 + 1e-12


def test_intervals_cover_the_truth_about_as_often_as_they_promise() -> None:
    rng = np.random.default_rng(5)
    truth, num_hits, num_trials = 0.8, 0, 150
    for trial in range(num_trials):
        correct = rng.random(150) < truth
        probabilities = np.where(correct[:, np.newaxis], [0.1, 0.9], [0.9, 0.1])
        labels = np.ones(150, dtype=int)
        found = bootstrap_intervals(probabilities, labels, num_resamples=200, seed=trial)
        num_hits += found["accuracy"].low <= truth <= found["accuracy"].high
    assert 0.88 <= num_hits / num_trials <= 0.99


@pytest.mark.slow
@pytest.mark.parametrize(
    ("num_labels", "rows_each", "by_class"),
    [
        pytest.param(40, 8, False, id="drawn by chance"),
        pytest.param(40, 8, True, id="so many of each"),
        pytest.param(77, 5, False, id="77 drawn by chance"),
        pytest.param(77, 5, True, id="so many of each of 77"),
    ],
)
def test_intervals_of_macro_f1_cover_the_truth_where_classes_have_few_rows(
    num_labels: int, rows_each: int, by_class: bool
) -> None:
    """Each class is right in its own share of rows, and else taken for the next one.

    Of 200 draws of 77 classes by chance, 95 in 100 cover it; moved by the bias of the resamples
    only once it would be 81, and unmoved 47.
    """
    rng = np.random.default_rng(3)
    num_trials, num_hits, num_missed = 60, 0, 0
    rates = rng.uniform(0.4, 0.95, num_labels)
    next_rates = np.roll(rates, 1)  # of the class that is taken for this one
    truth = float(np.mean(2 * rates / (1 + rates + 1 - next_rates)))
    for trial in range(num_trials):
        label_ids = np.repeat(np.arange(num_labels), rows_each)
        if not by_class:
            label_ids = rng.integers(num_labels, size=num_labels * rows_each)
        is_right = rng.random(len(label_ids)) < rates[label_ids]
        predicted = np.where(is_right, label_ids, (label_ids + 1) % num_labels)
        probabilities = np.eye(num_labels)[predicted]
        found = bootstrap_intervals(probabilities, label_ids, num_resamples=100, seed=trial)
        interval = found["macro_f1"]
        num_hits += interval.low <= truth <= interval.high
        num_missed += interval.high < truth
    assert num_hits / num_trials >= 0.85
    assert num_missed / num_trials <= 0.15


def test_what_is_always_right_is_not_certain() -> None:
    """With 3 rows of a class nothing is known of it, though all of them are right."""
    label_ids = np.array([0] * 97 + [1] * 3)
    found = bootstrap_intervals(np.eye(2)[label_ids], label_ids, num_resamples=50)
    low = (stats.binomtest(97, 97).proportion_ci(0.95).low, 0.025 ** (1 / 3))
    for name in ("macro_precision", "macro_recall", "macro_f1"):
        assert found[name].low == pytest.approx(1 - np.linalg.norm(1 - np.array(low)) / 2)
        assert found[name].high == 1.0
    wrong = bootstrap_intervals(np.eye(2)[1 - label_ids], label_ids, num_resamples=50)
    assert wrong["macro_recall"].low == 0.0
    assert wrong["macro_recall"].high > 0.3


def draw_two_classes(
    rng: np.random.Generator, num_negative: int, num_positive: int, *, apart: float
) -> tuple[np.ndarray, np.ndarray]:
    """Draw rows of log odds that are normal in both classes, and 2 · `apart` apart."""
    label_ids = np.repeat([0, 1], [num_negative, num_positive])
    log_odds = 2 * rng.normal(size=len(label_ids)) + 2 * apart * (label_ids - 0.5)
    return expit(np.column_stack([-log_odds, log_odds])), label_ids


def count_covered(
    name: str, truth: float, sizes: tuple[int, int], *, apart: float, num_trials: int = 100
) -> int:
    num_hits = 0
    for trial in range(num_trials):
        rows = draw_two_classes(np.random.default_rng(trial), *sizes, apart=apart)
        found = bootstrap_intervals(
            *rows, num_resamples=100, seed=trial, with_auroc=name == "auroc"
        )[name]
        num_hits += found.low <= truth <= found.high
    return num_hits


@pytest.mark.slow
def test_a_rare_class_that_is_all_right_is_not_certain() -> None:
    """20 of 1,000 rows: their recall is 0.98, and 40 mistakes among the others do not tell it.

    In resamples it never fails; such intervals held the truth 33 times in 100.
    """
    truth = float(stats.norm.cdf(2.0))
    assert count_covered("macro_recall", truth, (980, 20), apart=4.0) >= 90


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(190, 10), (980, 20)])
def test_intervals_of_auroc_cover_the_truth_where_one_class_is_rare(
    sizes: tuple[int, int],
) -> None:
    """Percentiles alone covered it 72 and 85 times in 100."""
    truth = float(stats.norm.cdf(2.5 / np.sqrt(2)))
    assert count_covered("auroc", truth, sizes, apart=2.5) >= 88


@pytest.mark.slow
def test_log_loss_of_few_mistakes_covers_the_truth() -> None:
    """A model that errs once in 150 rows, and is sure: its mistakes cost all that there is."""
    rng = np.random.default_rng(0)
    rows = draw_two_classes(rng, 100_000, 100_000, apart=5.0)
    truth = score(*rows, ["a", "b"]).log_loss
    assert count_covered("log_loss", truth, (50, 50), apart=5.0) >= 90


@pytest.mark.parametrize("num_rows", [50, 200, 1000])
def test_a_few_mistakes_are_no_surer_than_none(num_rows: int) -> None:
    label_ids = np.arange(num_rows) % 2
    lows = []
    for num_wrong in range(10):
        answers = label_ids.copy()
        answers[:num_wrong] = 1 - answers[:num_wrong]
        found = bootstrap_intervals(np.eye(2)[answers], label_ids, num_resamples=500)
        lows.append((found["accuracy"].low, found["macro_f1"].low))
    for earlier, later in itertools.pairwise(lows):
        assert later[0] < earlier[0]
        assert later[1] < earlier[1]


@pytest.mark.slow
def test_intervals_of_a_sure_model_cover_the_truth() -> None:
    rng = np.random.default_rng(2)
    num_hits, label_ids = 0, np.ones(200, dtype=int)
    for trial in range(200):
        answers = (rng.random(200) < 0.98).astype(int)
        found = bootstrap_intervals(
            np.eye(2)[answers], label_ids, num_resamples=100, seed=trial, with_auroc=False
        )
        num_hits += found["accuracy"].low <= 0.98 <= found["accuracy"].high
    assert num_hits >= 186


@pytest.mark.slow
@pytest.mark.parametrize("num_groups", [3, 5, 12])
def test_intervals_over_few_groups_cover_the_truth(num_groups: int) -> None:
    """Groups whose rates differ, as many rows in each: with 3 of them, a bootstrap covers 70 %."""
    rng = np.random.default_rng(num_groups)
    groups, label_ids = np.repeat(np.arange(num_groups), 60), np.ones(60 * num_groups, dtype=int)
    num_hits, num_trials = 0, 200
    for trial in range(num_trials):
        rates = rng.beta(9.6, 2.4, num_groups)  # 0.8 on average
        answers = (rng.random(len(groups)) < np.repeat(rates, 60)).astype(int)
        options = {"groups": groups, "num_resamples": 100, "seed": trial, "with_auroc": False}
        found = bootstrap_intervals(np.eye(2)[answers], label_ids, **options)["accuracy"]
        num_hits += found.low <= 0.8 <= found.high
    assert num_hits / num_trials >= 0.9


@pytest.mark.parametrize("num_groups", [3, pytest.param(8, marks=pytest.mark.slow)])
def test_equally_good_models_seldom_differ_over_few_groups(num_groups: int) -> None:
    rng = np.random.default_rng(num_groups)
    groups, num_certain, num_trials = np.repeat(np.arange(num_groups), 60), 0, 200
    for trial in range(num_trials):
        rates = rng.beta(9.6, 2.4, (2, num_groups))
        right = rng.random((2, len(groups))) < np.repeat(rates, 60, axis=1)
        found = paired_difference_interval(*right, groups=groups, num_resamples=200, seed=trial)
        num_certain += not found.low <= 0 <= found.high
    assert num_certain / num_trials <= 0.1


def test_intervals_over_groups_cover_the_truth_where_those_over_rows_do_not() -> None:
    """Rows of a group share its difficulty: 40 groups of 10 rows, each group with its own rate."""
    rng = np.random.default_rng(7)
    truth, num_trials, hits = 0.8, 100, {"group": 0, "row": 0}
    groups = np.repeat(np.arange(40), 10)
    for trial in range(num_trials):
        correct = rng.random(400) < np.repeat(rng.beta(4 * truth, 4 * (1 - truth), 40), 10)
        probabilities = np.where(correct[:, np.newaxis], [0.1, 0.9], [0.9, 0.1])
        labels = np.ones(400, dtype=int)
        for name, units in (("group", groups), ("row", None)):
            options = {"groups": units, "num_resamples": 100, "seed": trial}
            found = bootstrap_intervals(probabilities, labels, **options)["accuracy"]
            hits[name] += found.low <= truth <= found.high
    assert 0.88 <= hits["group"] / num_trials <= 0.99
    assert hits["row"] / num_trials < 0.85


def test_groups_of_alike_rows_widen_the_interval() -> None:
    """Ten copies of each row say no more than one: the width is that of the rows without copies."""
    probabilities, label_ids = draw_rows(60)
    copies = (np.repeat(probabilities, 10, axis=0), np.repeat(label_ids, 10))
    groups = np.repeat([f"tt{number}" for number in range(60)], 10)
    alone = bootstrap_intervals(probabilities, label_ids, num_resamples=1000)
    grouped = bootstrap_intervals(*copies, groups=groups, num_resamples=1000)
    ungrouped = bootstrap_intervals(*copies, num_resamples=1000)
    for name in (*SCORE_NAMES, "auroc"):
        widths = [one[name].high - one[name].low for one in (alone, grouped, ungrouped)]
        assert widths[1] == pytest.approx(widths[0], rel=0.15), name
        assert widths[2] < widths[0] / 2, name


def test_rows_without_a_group_stand_alone() -> None:
    rows = draw_rows(40)
    ungrouped = bootstrap_intervals(*rows, num_resamples=300)
    missing = bootstrap_intervals(*rows, groups=[None] * 20 + [""] * 10 + [float("nan")] * 10)
    width = ungrouped["accuracy"].high - ungrouped["accuracy"].low
    assert missing["accuracy"].high - missing["accuracy"].low == pytest.approx(width, rel=0.2)


def test_a_single_group_falls_back_to_rows() -> None:
    rows = draw_rows(40)
    assert bootstrap_intervals(*rows, groups=[7] * 40) == bootstrap_intervals(*rows)


@pytest.mark.parametrize(("groups", "num_units"), [(None, 20), ([*"a" * 10, *"b" * 10], 2)])
def test_a_perfect_accuracy_keeps_its_doubt(groups: list[str] | None, num_units: int) -> None:
    """Resampling 20 right rows gives 100 % each time; the exact interval starts at 83 %."""
    probabilities, label_ids = np.tile([0.1, 0.9], (20, 1)), np.ones(20, dtype=int)
    found = bootstrap_intervals(probabilities, label_ids, groups=groups, num_resamples=20)
    low = 0.025 ** (1 / num_units)
    assert (found["accuracy"].low, found["accuracy"].high) == pytest.approx((low, 1.0))
    assert found["log_loss"].high == pytest.approx(-low * np.log(0.9) - (1 - low) * np.log(0.1))


def test_no_right_row_is_the_mirror_of_a_perfect_accuracy() -> None:
    probabilities, label_ids = np.tile([0.9, 0.1], (20, 1)), np.ones(20, dtype=int)
    found = bootstrap_intervals(probabilities, label_ids, num_resamples=20)["accuracy"]
    assert (found.low, found.high) == pytest.approx((0.0, 1 - 0.025 ** (1 / 20)))


def test_one_row_has_intervals() -> None:
    found = bootstrap_intervals([[0.2, 0.8]], [1], num_resamples=10)
    assert found["accuracy"].low == pytest.approx(0.025)
    assert (found["log_loss"].low, found["log_loss"].high) == (0.0, WORST_LOG_LOSS)  # all of it
    assert "auroc" not in found


def test_a_score_that_is_the_same_in_all_resamples_keeps_its_doubt() -> None:
    """Whoever answers one class alone has a macro recall of 50 % in any 60 rows with both."""
    label_ids = np.repeat([0, 1], 30)
    found = bootstrap_intervals(np.tile([0.2, 0.8], (60, 1)), label_ids, num_resamples=50)
    assert found["macro_recall"].low < 0.48
    assert found["macro_recall"].high > 0.52


def test_every_interval_holds_its_score() -> None:
    """Of rows of one class alone, among three that are answered, resamples are all below it."""
    predicted = np.array([0] * 90 + [1] * 5 + [2] * 5)
    rows = (np.eye(3)[predicted] * 0.94 + 0.02, np.zeros(100, dtype=int))
    found = bootstrap_intervals(*rows, num_resamples=100)
    scores = score(*rows, ["a", "b", "c"])
    for name in ("macro_precision", "macro_recall", "macro_f1"):
        assert found[name].low <= getattr(scores, name) <= found[name].high


def test_resamples_of_one_class_are_left_out_of_the_auroc() -> None:
    """What is left is always in order, and one row of each class tells nothing."""
    found = bootstrap_intervals([[0.9, 0.1], [0.2, 0.8]], [0, 1], num_resamples=200)
    assert (found["auroc"].low, found["auroc"].high) == pytest.approx((0.025, 1.0))


def test_a_perfect_order_is_as_doubtful_as_the_smaller_class() -> None:
    scores = np.linspace(0, 1, 50)
    rows = (np.stack([1 - scores, scores], axis=1), (scores > 0.6).astype(int))
    found = bootstrap_intervals(*rows, num_resamples=100)["auroc"]
    assert (found.low, found.high) == pytest.approx((0.025 ** (1 / 20), 1.0))
    found = bootstrap_intervals(rows[0][:, ::-1], rows[1], num_resamples=100)["auroc"]
    assert (found.low, found.high) == pytest.approx((0.0, 1 - 0.025 ** (1 / 20)))


def test_scores_that_are_all_equal_order_nothing() -> None:
    rows = (np.tile([0.4, 0.6], (20, 1)), np.arange(20) % 2)
    assert bootstrap_intervals(*rows, num_resamples=50)["auroc"] == Interval(0.5, 0.5)


def test_rows_of_two_of_three_classes_have_no_auroc() -> None:
    rows = (np.tile([0.2, 0.3, 0.5], (20, 1)), np.arange(20) % 2)
    assert "auroc" not in bootstrap_intervals(*rows, num_resamples=10)


def test_progress_counts_the_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resampling, "_CHUNK_NUMBERS", 50)
    heard: list[tuple[int, int]] = []
    bootstrap_intervals(
        *draw_rows(5), num_resamples=25, on_progress=lambda *counts: heard.append(counts)
    )
    assert heard == [(10, 25), (20, 25), (25, 25)]


@pytest.mark.parametrize(
    ("num_labels", "groups", "size"), [(2, [*"aabbb"], 10), (10, None, 5), (10, [*"aabbb"], 5)]
)
def test_the_memory_of_resamples_is_bounded_by_their_rows_and_classes(
    monkeypatch: pytest.MonkeyPatch, num_labels: int, groups: list[str] | None, size: int
) -> None:
    """Of two groups, so many resamples at once that each has a weight for all rows."""
    monkeypatch.setattr(resampling, "_CHUNK_NUMBERS", 50)
    heard: list[int] = []
    bootstrap_intervals(
        *draw_rows(5, num_labels),
        groups=groups,
        num_resamples=20,
        on_progress=lambda done, _: heard.append(done),
    )
    assert heard == list(range(size, 21, size))


def test_a_wrong_number_of_groups_is_refused() -> None:
    with pytest.raises(DataError, match="expected a group for each of 5 rows, got 3"):
        bootstrap_intervals(*draw_rows(5), groups=["a", "b", "c"])


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match="expected at least 1 resample, got 0"):
        bootstrap_intervals(*draw_rows(5), num_resamples=0)
    with pytest.raises(ConfigError, match="expected at least 1 resample, got 0"):
        resampling.resample_intervals(lambda _: [1.0], 5, num_resamples=0, within=[(0, 1)])


def test_paired_interval_agrees_with_scipy() -> None:
    rng = np.random.default_rng(0)
    correct_a, correct_b = rng.random(400) < 0.8, rng.random(400) < 0.7
    differences = correct_a.astype(int) - correct_b.astype(int)
    expected = stats.bootstrap(
        (differences,), np.mean, method="percentile", n_resamples=4000, rng=np.random.default_rng(0)
    ).confidence_interval
    found = paired_difference_interval(correct_a, correct_b, num_resamples=4000)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.008)


def test_paired_interval_of_grouped_copies_is_that_of_the_rows() -> None:
    rng = np.random.default_rng(1)
    correct_a, correct_b = rng.random(80) < 0.8, rng.random(80) < 0.6
    alone = paired_difference_interval(correct_a, correct_b)
    copies = paired_difference_interval(
        np.repeat(correct_a, 5), np.repeat(correct_b, 5), groups=np.repeat(np.arange(80), 5)
    )
    assert (copies.low, copies.high) == pytest.approx((alone.low, alone.high), abs=0.03)


def test_a_difference_over_few_groups_ends_at_one() -> None:
    """Stretched for them, its interval would end further off."""
    right, wrong = np.repeat([True, True, False], 10), np.repeat(False, 30)
    groups = np.repeat([*"abc"], 10)
    assert paired_difference_interval(right, wrong, groups=groups).high == 1.0
    assert paired_difference_interval(wrong, right, groups=groups).low == -1.0


def test_two_models_that_agree_on_few_rows_may_differ_on_others() -> None:
    correct = np.arange(50) % 3 == 0
    found = paired_difference_interval(correct, correct)
    most = stats.binomtest(0, 50).proportion_ci(0.95).high
    assert (found.low, found.high) == pytest.approx((-most, most))
    assert mcnemar_p_value(correct, correct) == 1.0


@settings(max_examples=25, deadline=None)
@given(pairs=st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=30))
def test_mcnemar_is_symmetric_and_the_binomial_tail(pairs: list[tuple[bool, bool]]) -> None:
    correct_a, correct_b = np.transpose(pairs)
    p_value = mcnemar_p_value(correct_a, correct_b)
    assert p_value == pytest.approx(mcnemar_p_value(correct_b, correct_a))
    num_a, num_b = (correct_a & ~correct_b).sum(), (correct_b & ~correct_a).sum()
    tail = 2 * stats.binom.cdf(min(num_a, num_b), num_a + num_b, 0.5)
    assert p_value == pytest.approx(min(1.0, tail))


@pytest.mark.parametrize(("correct_a", "correct_b"), [([True], [True, False]), ([], [])])
def test_pairs_must_be_of_the_same_rows(correct_a: list[bool], correct_b: list[bool]) -> None:
    with pytest.raises(DataError, match="expected both models scored on the same rows"):
        mcnemar_p_value(correct_a, correct_b)


def test_a_mistake_costs_the_mean_of_those_seen_and_of_one_more() -> None:
    is_right, units = np.arange(20) >= 2, np.arange(20)
    costs = np.zeros(20), np.where(is_right, 1.0, 4.0)  # one more costs 1.3 on average
    share = exact_interval(2, 20)
    found = allow_for_mistakes(Interval(0.4, 0.4), is_right, costs, units)
    each = (4 + 4 + 1.3) / 3
    assert (found.low, found.high) == pytest.approx((share.low * each, share.high * each))


def test_mistakes_that_save_as_much_mirror_the_interval_of_those_that_cost() -> None:
    """Of two models that answer alike, either may lose more by a mistake."""
    is_right, units = np.arange(20) >= 2, np.arange(20)
    further = np.where(is_right, 1.0, 4.0)
    found, mirrored = (
        allow_for_mistakes(Interval(0.0, 0.0), is_right, (np.zeros(20), each), units)
        for each in (further, -further)
    )
    assert found.high > 0.5
    assert (mirrored.low, mirrored.high) == (-found.high, -found.low)


@pytest.mark.parametrize(("num_wrong", "expected"), [(0, True), (9, True), (10, False)])
def test_fewer_than_ten_mistakes_or_hits_are_few(num_wrong: int, expected: bool) -> None:
    is_right = np.arange(100) >= num_wrong
    assert has_few(is_right, np.arange(100)) is expected
    assert has_few(~is_right, np.arange(100)) is expected
    assert has_few(is_right, np.arange(100) // 2) is (num_wrong == 0)


def test_with_groups_those_with_a_mistake_or_a_hit_are_counted() -> None:
    is_right, pairs = np.arange(100) >= 19, np.arange(100) // 2
    assert not have_few_units(is_right, pairs)  # ten pairs have a mistake
    assert have_few_units(np.arange(100) >= 18, pairs)
    assert have_few_units(is_right, np.arange(100) // 20)  # there are only five groups


def test_the_effective_rows_lie_between_the_groups_and_the_rows() -> None:
    is_right = np.random.default_rng(0).random(2000) < 0.9
    assert count_effective(is_right, np.arange(2000)) == 2000
    one_pair = np.maximum(np.arange(2000), 1)
    assert count_effective(is_right, one_pair) == pytest.approx(2000, rel=0.01)
    alike = np.repeat(is_right, 5)  # the rows of a group are right or wrong together
    assert count_effective(alike, np.arange(10_000) // 5) == pytest.approx(2000, rel=0.01)
    shuffled = np.random.default_rng(1).permutation(alike)
    assert count_effective(shuffled, np.arange(10_000) // 5) > 9000
    groups = np.arange(1000) // 50
    mistakes = [0, 60, 120, 180]  # each in a group of its own
    counts = [
        count_effective(~np.isin(np.arange(1000), mistakes[:num]), groups) for num in range(5)
    ]
    assert counts[:2] == [20, 20]  # a single one tells nothing of whether they come together
    assert counts == sorted(counts)
    assert count_effective(np.ones(60, bool), np.arange(60) // 3) == 20


def test_two_rows_of_one_group_do_not_narrow_the_intervals_of_few_mistakes() -> None:
    """They did, for all rows: a single pair of 200 made it 82 % that were covered of 95."""
    rng = np.random.default_rng(0)
    label_ids = rng.integers(2, size=200)
    of_label = np.where(np.arange(200) < 2, 0.02, 0.98)
    probabilities = np.where(np.arange(2) == label_ids[:, None], of_label[:, None], 0.0)
    probabilities += np.where(np.arange(2) == label_ids[:, None], 0.0, 1 - of_label[:, None])
    pair = [0, 0, *range(1, 199)]
    for groups in (None, pair):
        found = bootstrap_intervals(probabilities, label_ids, groups=groups, num_resamples=200)
        assert found["log_loss"].high > 0.13  # the exact interval of 2 of 200 ends at 3.6 %
        of_confidence = score_confidence(
            probabilities, label_ids, groups=groups, num_resamples=200
        ).intervals
        assert of_confidence["brier"].high > 0.033
        assert of_confidence["aurc"].high > 0.01


def test_an_exception_among_rows_and_groups_widens_the_interval_by_what_they_tell() -> None:
    """A pair that shares a group among single rows took the correction away from all of them."""
    differences, interval = np.array([1] + [0] * 39), Interval(0.0, 0.06)
    pair = np.array([0, 0, *range(1, 39)])
    by_row, by_pair, by_group = (
        allow_for_alike(interval, differences, units)
        for units in (np.arange(40), pair, np.arange(40) // 2)
    )
    assert -0.1 < by_row.low < -0.05
    assert 0.1 < by_row.high < 0.15
    assert by_pair.low == pytest.approx(by_row.low, abs=0.005)
    assert by_pair.high == pytest.approx(by_row.high, abs=0.005)
    assert by_group.low < 1.5 * by_row.low
    many = np.array([1] * 10 + [0] * 30)
    assert allow_for_alike(interval, many, np.arange(40)) == interval
    in_two_groups = allow_for_alike(interval, many, np.arange(40) // 5)
    assert in_two_groups.high > 0.5


def test_a_group_counts_once_in_the_doubt_of_macro_averages_and_auroc() -> None:
    """Ten reviews of one movie that are all right tell as much as one."""
    label_ids = np.arange(12) % 2
    alone = bootstrap_intervals(np.eye(2)[label_ids], label_ids)
    rows = np.repeat(label_ids, 10)
    groups = np.repeat(np.arange(12), 10).astype(str)
    grouped = bootstrap_intervals(np.eye(2)[rows], rows, groups=groups)
    for name in ("macro_f1", "macro_recall", "macro_precision", "auroc"):
        assert grouped[name].low == pytest.approx(alone[name].low, abs=1e-9)


def test_a_class_that_is_never_predicted_has_the_doubt_of_its_rows() -> None:
    label_ids = np.repeat([0, 1], [100, 5])
    found = bootstrap_intervals(np.eye(2)[np.zeros(105, int)], label_ids)["macro_precision"]
    up = np.hypot(exact_interval(0, 5).high, exact_interval(100, 105).high - 100 / 105) / 2
    assert found.high == pytest.approx(100 / 210 + up, abs=0.001)


def test_the_auroc_changes_no_other_interval() -> None:
    """It needs the rows in order of their scores, and the costs of mistakes have to go along."""
    label_ids = np.arange(60) % 2
    sure = np.random.default_rng(0).uniform(0.6, 0.99, 60)
    sure[:2] = 0.1  # two mistakes, so that their cost counts
    of_second = np.where(label_ids == 1, sure, 1 - sure)
    probabilities = np.stack([1 - of_second, of_second], axis=1)
    options = {"num_resamples": 100, "seed": 3}
    found = bootstrap_intervals(probabilities, label_ids, **options)
    plain = bootstrap_intervals(probabilities, label_ids, with_auroc=False, **options)
    for name, interval in plain.items():
        assert (found[name].low, found[name].high) == pytest.approx((interval.low, interval.high))


def test_the_interval_of_an_answer_that_is_always_right_is_exact() -> None:
    label_ids = np.arange(20) % 2
    found = bootstrap_intervals(np.eye(2)[label_ids], label_ids)["accuracy"]
    assert found == exact_interval(20, 20)


def test_one_model_alone_right_on_all_rows_is_as_doubtful_as_the_other_would_be() -> None:
    right, wrong = [True] * 12, [False] * 12
    found, mirrored = (
        paired_difference_interval(*pair, num_resamples=20)
        for pair in ((right, wrong), (wrong, right))
    )
    assert (found.low, found.high) == pytest.approx((-mirrored.high, -mirrored.low), rel=1e-12)
    assert found == Interval(2 * exact_interval(12, 12).low - 1, 1.0)


def test_a_few_groups_with_most_of_the_mistakes_are_allowed_for() -> None:
    """The bootstrap alone, even stretched, was wholly above the true accuracy in 13 % of draws."""
    truth, above = 0.934, []  # the mean of the groups' accuracies, over two million groups
    for seed in range(120):
        random = np.random.default_rng(seed)
        accuracies = 1 / (1 + np.exp(-(3.5 + 1.5 * random.normal(size=12))))
        groups = np.repeat(np.arange(12), 30)
        label_ids = random.integers(2, size=360)
        is_right = random.random(360) < accuracies[groups]
        answers = np.where(is_right, label_ids, 1 - label_ids)
        found = bootstrap_intervals(
            np.eye(2)[answers] * 0.8 + 0.1,
            label_ids,
            groups=groups,
            with_auroc=False,
            num_resamples=300,
        )
        above.append([found[name].low > truth for name in ("accuracy", "macro_f1")])
    assert max(np.mean(above, axis=0)) < 0.1


def test_intervals_are_of_the_predictions_that_are_given() -> None:
    """As those of a threshold, by which other classes are predicted than the most probable."""
    probabilities, label_ids = np.tile([0.6, 0.4], (40, 1)), np.arange(40) % 4 // 3
    given = bootstrap_intervals(probabilities, label_ids, predicted_ids=[1] * 40)
    most_probable = bootstrap_intervals(probabilities, label_ids)
    assert given["accuracy"].high < 0.5 < most_probable["accuracy"].low


def test_classes_without_a_mistake_or_a_hit_add_their_part_of_the_mean() -> None:
    score = (1.0 + 0.8 + 0.0) / 3
    found = allow_for_certain(Interval(score, score), score, [(10, 10), (8, 10), (0, 10)])
    part = (1 - 0.025 ** (1 / 10)) / 3
    assert (found.low, found.high) == pytest.approx((score - part, score + part))


@pytest.mark.parametrize("seed", range(5))
def test_an_interval_of_one_resample_holds_its_score(seed: int) -> None:
    rows = draw_rows(60, 3)
    found = bootstrap_intervals(*rows, num_resamples=1, seed=seed)
    scores = score(*rows, ["a", "b", "c"])
    for name in SCORE_NAMES:
        assert found[name].low - 1e-12 <= getattr(scores, name) <= found[name].high + 1e-12, name


@pytest.mark.parametrize("num_right", [0, 1, 9, 10])
def test_exact_intervals_are_those_of_scipy(num_right: int) -> None:
    found, expected = exact_interval(num_right, 10), stats.binomtest(num_right, 10)
    expected = expected.proportion_ci(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-6)


def test_the_effective_rows_are_those_of_the_variance_between_the_groups() -> None:
    """Of eight groups of three rows, four have a mistake, two have two, and two have none."""
    mistakes = np.array([1, 1, 1, 1, 2, 2, 0, 0])
    is_right = (np.arange(3) >= mistakes[:, np.newaxis]).ravel()
    of_groups = np.var(mistakes / 3, ddof=1) / 8
    of_rows = np.var(~is_right, ddof=1) / 24
    reach = stats.t.ppf(0.975, 7) / stats.t.ppf(0.975, 23)
    expected = 24 * of_rows / of_groups / reach**2
    assert 8 < expected < 24
    telling = (8 + 7 * expected) / 8  # there are eight mistakes; the number of groups is as one
    assert count_effective(is_right, np.arange(24) // 3) == pytest.approx(telling)


def test_a_few_hits_tell_as_much_as_a_few_mistakes() -> None:
    is_right, groups = np.isin(np.arange(200), [0, 1, 50, 120]), np.arange(200) // 10
    assert count_effective(is_right, groups) == pytest.approx(count_effective(~is_right, groups))


def test_groups_that_vary_less_than_rows_tell_no_more_than_these() -> None:
    """Each has one mistake, as they never would if their rows were drawn at random."""
    is_right, pairs = np.arange(40) % 2 == 0, np.arange(40) // 2
    assert count_effective(is_right, pairs) == pytest.approx((20 + 19 * 40) / 20)


def test_a_group_with_most_of_the_rows_tells_less_than_there_are_groups() -> None:
    """All of its 30 rows are wrong, and right are the 20 that have no other in their group."""
    is_right, groups = np.arange(50) >= 30, np.maximum(np.arange(50) - 29, 0)
    of_groups = 21 / 20 * (30**2 * 0.4**2 + 20 * 0.6**2) / 50**2
    reach = stats.t.ppf(0.975, 20) / stats.t.ppf(0.975, 49)
    expected = 50 * (0.4 * 0.6 / 49) / of_groups / reach**2
    assert expected < 5
    assert count_effective(is_right, groups) == pytest.approx(expected)


def test_certain_classes_add_to_what_the_resamples_say_of_the_others() -> None:
    found = allow_for_certain(Interval(0.8, 0.97), 0.9, [(10, 10), (8, 10)])
    part = (1 - 0.025 ** (1 / 10)) / 2
    assert (found.low, found.high) == pytest.approx((0.9 - np.hypot(0.1, part), 0.97))
    mirrored = allow_for_certain(Interval(0.03, 0.2), 0.1, [(0, 10), (2, 10)])
    assert (mirrored.low, mirrored.high) == pytest.approx((0.03, 0.1 + np.hypot(0.1, part)))


def test_the_logarithm_of_a_cost_of_one_group_in_many_does_not_overflow() -> None:
    """A small group that costs much, among large ones that cost nothing."""
    found = allow_for_long_tail(Interval(0.0, 9.0), 1e-3, deviation=1.0, num_units=20)
    assert found.low == 0.0
    assert 9.0 < found.high < np.inf


def test_an_interval_beside_its_score_is_stretched_at_its_far_end_alone() -> None:
    further = stats.t.ppf(0.975, 2) / stats.norm.ppf(0.975) * np.sqrt(3 / 2)
    above = stretch(Interval(0.5, 0.7), 0.4, num_units=3)
    assert (above.low, above.high) == pytest.approx((0.5, 0.7 + (further - 1) * 0.3))
    below = stretch(Interval(0.1, 0.3), 0.4, num_units=3)
    assert (below.low, below.high) == pytest.approx((0.1 - (further - 1) * 0.3, 0.3))


@pytest.mark.parametrize(
    ("draw", "num_resamples"),
    [
        (bootstrap_intervals, 2000),
        (paired_difference_interval, 2000),
        (compare_predictions, 2000),
        (compare_with_baseline, 2000),
        (score_confidence, 1000),
    ],
)
def test_so_many_resamples_are_drawn_unless_asked_otherwise(draw, num_resamples: int) -> None:
    """As docs/judging.md says."""
    assert inspect.signature(draw).parameters["num_resamples"].default == num_resamples


def test_the_interval_of_a_log_loss_ends_where_the_worst_one_does() -> None:
    """All but one of 13 rows are wrong and certain, and that one is right among 77 unsure ones."""
    probabilities = np.full((13, 77), 1e-9)
    probabilities[:12, 0] = 1.0
    probabilities[12] = 1.0
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    label_ids = np.array([1] * 12 + [0])
    found = bootstrap_intervals(probabilities, label_ids, num_resamples=50)["log_loss"]
    assert found.high == WORST_LOG_LOSS


def test_the_exact_interval_does_not_narrow_that_of_the_resamples() -> None:
    """Of ten rows of which two are wrong, the latter reaches further to both sides."""
    answers = (np.arange(10) >= 2).astype(int)
    found = bootstrap_intervals(np.eye(2)[answers], np.ones(10, dtype=int))["accuracy"]
    exact = exact_interval(8, 10)
    assert found.low < exact.low
    assert exact.high < found.high


def test_few_mistakes_give_macro_f1_the_exact_interval_of_rows_and_answers() -> None:
    """F1 is a share of the mean of a class's rows and its answers."""
    label_ids = np.arange(20) % 2
    answers = np.where(np.arange(20) == 0, 1, label_ids)
    found = bootstrap_intervals(np.eye(2)[answers], label_ids)["macro_f1"]
    assert found.low == pytest.approx(average_exact([(9, 9.5), (10, 10.5)]).low)


def test_intervals_of_other_scores_end_where_these_do() -> None:
    (found,) = resampling.resample_intervals(
        lambda counts: [float(counts[1:].sum() / counts.sum())], 3, within=[(0.0, 1.0)]
    )
    assert found == Interval(0.0, 1.0)


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.5, 0.8])
def test_macro_f1_is_covered_where_one_group_has_most_of_the_rows(share: float) -> None:
    """The correction for the bias of the resamples moved both ends: 72 to 87 % were covered."""
    rng, covered, with_verdict = np.random.default_rng(4), 0, 0
    sizes = np.full(60, 5)
    sizes[0] = round(sizes[1:].sum() * share / (1 - share))
    groups = np.repeat(np.arange(60), sizes)
    for draw in range(100):
        label_ids = rng.integers(2, size=len(groups))
        # The models are equally good, and each has groups that it finds hard.
        noise = rng.normal(size=(2, len(groups))) + 0.7 * rng.normal(size=(2, 60))[:, groups]
        is_right = noise / np.sqrt(1 + 0.7**2) < stats.norm.ppf(0.85)
        answers = np.where(is_right, label_ids, 1 - label_ids)
        pair = [np.eye(2)[ids] * 0.8 + 0.1 for ids in answers]
        options = {"groups": groups, "num_resamples": 200, "seed": draw}
        found = bootstrap_intervals(pair[0], label_ids, with_auroc=False, **options)["macro_f1"]
        covered += found.low <= 0.85 <= found.high
        with_verdict += not compare_predictions(*pair, label_ids, **options).could_be_chance
    assert covered >= 93
    assert with_verdict <= 5
