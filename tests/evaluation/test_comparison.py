"""Two models on the same rows: the difference, its interval, and its wording."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from scipy.stats import binomtest, norm, t

from bertfit.errors import DataError
from bertfit.evaluation.comparison import (
    Difference,
    compare_predictions,
    compare_with_baseline,
)
from bertfit.evaluation.interval import Interval
from bertfit.evaluation.intervals import (
    bootstrap_intervals,
    mcnemar_p_value,
    paired_difference_interval,
)
from bertfit.evaluation.metrics import WORST_LOG_LOSS, score
from bertfit.evaluation.verdicts import describe_against_baseline, describe_difference

NAME = "TF-IDF + logistic regression"


def as_probabilities(predicted_ids: np.ndarray, num_labels: int = 2) -> np.ndarray:
    return np.eye(num_labels)[predicted_ids] * 0.8 + 0.2 / num_labels


def test_a_better_model_beats_the_baseline_in_words() -> None:
    label_ids = np.arange(1000) % 2
    good = np.where(np.arange(1000) % 10 == 0, 1 - label_ids, label_ids)
    bad = np.where(np.arange(1000) % 5 == 0, 1 - label_ids, label_ids)
    comparison = compare_with_baseline(
        as_probabilities(good), as_probabilities(bad), label_ids, baseline_name=NAME
    )
    assert comparison.difference == pytest.approx(0.1)
    assert comparison.p_value < 1e-6
    assert comparison.verdict.startswith(
        "The model beats TF-IDF + logistic regression by 10.0 points of accuracy (95 % interval "
    )
    reverse = compare_with_baseline(
        as_probabilities(bad), as_probabilities(good), label_ids, baseline_name=NAME
    )
    assert reverse.verdict.startswith(
        "The model LOSES to TF-IDF + logistic regression by 10.0 points of accuracy (95 % interval "
    )
    assert "More data or epochs, another model or, where texts" in reverse.verdict
    assert "where texts are cut, a longer max length" in reverse.verdict
    span = reverse.verdict.partition("interval ")[2].partition(")")[0]
    assert span == comparison.verdict.partition("interval ")[2].partition(")")[0]
    assert json.loads(json.dumps(comparison.to_json()))["interval"]["low"] > 0


def test_a_model_that_finds_the_rare_class_is_not_told_to_give_way_to_one_that_never_does() -> None:
    label_ids = np.arange(1000) % 20 == 0  # 50 of 1,000
    finds = np.where(np.arange(1000) % 14 == 0, True, label_ids & (np.arange(1000) % 100 > 0))
    never = np.zeros(1000, dtype=int)
    verdict = compare_with_baseline(
        as_probabilities(finds.astype(int)),
        as_probabilities(never),
        label_ids.astype(int),
        baseline_name="majority class",
    ).verdict
    assert verdict.startswith("The model loses to majority class by ")
    assert verdict.endswith(
        ", but has the higher macro F1, 75.0 % against 48.7 %, in which rare classes count as much "
        "as common ones."
    )
    reverse = compare_with_baseline(
        as_probabilities(never),
        as_probabilities(finds.astype(int)),
        label_ids.astype(int),
        baseline_name=NAME,
    ).verdict
    assert ", but has the lower macro F1, 48.7 % against 75.0 %. These rows do not show " in reverse


def test_a_difference_that_is_no_chance_is_never_told_as_nothing() -> None:
    label_ids = np.arange(100_000) % 2
    worse = np.where(np.arange(100_000) < 12, 1 - label_ids, label_ids)
    verdict = compare_with_baseline(
        as_probabilities(label_ids), as_probabilities(worse), label_ids, baseline_name=NAME
    ).verdict
    assert verdict == (
        f"The model beats {NAME} by 0.01 points of accuracy (95 % interval 0.01 to 0.02)."
    )


def test_three_rows_never_tell_models_apart() -> None:
    """The bootstrap of three equal differences has no width, which said 100.0 to 100.0."""
    right, wrong = as_probabilities(np.ones(3, dtype=int)), as_probabilities(np.zeros(3, dtype=int))
    comparison = compare_with_baseline(right, wrong, [1, 1, 1], baseline_name="the majority")
    assert comparison.verdict == (
        "The model and the majority cannot be told apart on these rows: the difference is "
        "+100.0 points (95 % interval -41.5 to 100.0, McNemar p = 0.25)."
    )


def test_an_interval_without_zero_is_not_enough_to_tell_models_apart() -> None:
    """The verdict then says what the exact test finds, as the interval alone contradicts it."""
    label_ids, model = np.ones(80, dtype=int), np.ones(80, dtype=int)
    baseline = model.copy()
    model[:2], baseline[2:11] = 0, 0
    found = compare_with_baseline(
        as_probabilities(model), as_probabilities(baseline), label_ids, baseline_name=NAME
    )
    assert found.interval.low > 0
    assert "cannot be told apart" in found.verdict
    told = "The interval leaves out 0, but McNemar's test does not exclude chance."
    assert found.verdict.endswith(f", McNemar p = 0.065). {told}")


@pytest.mark.parametrize("num_rows", [1, 5, 6, 30])
def test_one_model_alone_right_on_all_rows_has_an_interval(num_rows: int) -> None:
    """It excludes zero where McNemar's exact test rejects, and never has no width."""
    label_ids = np.arange(num_rows) % 2
    pair = (as_probabilities(label_ids), as_probabilities(1 - label_ids))
    comparison = compare_predictions(*pair, label_ids, num_resamples=100)
    found = compare_with_baseline(*pair, label_ids, baseline_name=NAME, num_resamples=100)
    for interval in (comparison.scores["accuracy"].interval, found.interval):
        assert (interval.low > 0) == (num_rows >= 6) == (found.p_value < 0.05)
        assert interval.low < 0.8
        assert interval.high == 1
    assert comparison.scores["macro_f1"].interval.low < 0.8
    assert comparison.scores["macro_f1"].interval.high == 1
    reverse = compare_predictions(*pair[::-1], label_ids, num_resamples=100)
    assert reverse.scores["macro_f1"].interval.low == -1


def test_two_groups_never_tell_models_apart() -> None:
    """Forty rows of two movies, all right by one model alone, are two equal differences."""
    label_ids, groups = np.ones(40, dtype=int), np.repeat(["one", "two"], 20)
    pair = (as_probabilities(label_ids), as_probabilities(1 - label_ids))
    grouped = compare_with_baseline(*pair, label_ids, groups=groups, baseline_name=NAME)
    assert "cannot be told apart" in grouped.verdict


def test_the_interval_covers_a_difference_in_nearly_all_rows() -> None:
    """With 0.9 and 10 rows, plain resampling covered the truth in 66 of 100 draws."""
    rng = np.random.default_rng(3)
    covered = 0
    for _ in range(100):
        right = rng.random(10) < 0.9
        found = paired_difference_interval(right, np.zeros(10, dtype=bool), num_resamples=200)
        covered += found.low <= 0.9 <= found.high
    assert covered >= 95


def test_the_interval_covers_a_difference_in_few_rows() -> None:
    """Of 20 rows, 1 or 2 differ: plain resampling covered the truth in 81 of 100 draws."""
    rng = np.random.default_rng(4)
    covered = 0
    for _ in range(200):
        drawn = rng.random(20)
        pair = (drawn < 0.05, (drawn >= 0.05) & (drawn < 0.08))
        found = paired_difference_interval(*pair, num_resamples=200)
        covered += found.low <= 0.02 <= found.high
    assert covered >= 190


@pytest.mark.parametrize(
    ("num_rows", "only_a", "only_b"),
    [(6, 6, 0), (10, 8, 1), (15, 8, 0), (20, 6, 0), (200, 8, 1)],
)
def test_the_interval_agrees_with_the_exact_test_on_few_rows(
    num_rows: int, only_a: int, only_b: int
) -> None:
    a, b = np.zeros((2, num_rows), dtype=bool)
    a[:only_a], b[only_a : only_a + only_b] = True, True
    found = paired_difference_interval(a, b, num_resamples=500)
    assert mcnemar_p_value(a, b) < 0.05
    assert 0 < found.low < (only_a - only_b) / num_rows


def test_groups_can_take_the_certainty_away() -> None:
    """Forty reviews of two movies, one of which the model alone gets right, are two rows' worth."""
    label_ids, groups = np.ones(40, dtype=int), np.repeat(["one", "two"], 20)
    model, baseline = as_probabilities(label_ids), as_probabilities((groups == "one").astype(int))
    assert "beats" in compare_with_baseline(model, baseline, label_ids, baseline_name=NAME).verdict
    grouped = compare_with_baseline(model, baseline, label_ids, groups=groups, baseline_name=NAME)
    assert "cannot be told apart" in grouped.verdict
    told = "McNemar's test, which takes rows as independent, excludes chance, but the interval "
    assert grouped.verdict.endswith(f"e-06 for single rows). {told}includes 0.")


def test_groups_of_a_row_each_are_rows_in_the_verdict() -> None:
    a, _, label_ids = draw_pair(30)
    plain, grouped = (
        compare_with_baseline(a, a, label_ids, groups=groups, baseline_name=NAME).verdict
        for groups in (None, np.arange(30))
    )
    assert plain.endswith("McNemar p = 1).")
    assert grouped == plain


def test_the_exact_test_can_take_the_certainty_away_too() -> None:
    """11 rows that the model alone gets right against 3: the interval is just above zero."""
    label_ids = np.arange(200) % 2
    model = as_probabilities(np.where(np.arange(200) < 3, 1 - label_ids, label_ids))
    baseline = as_probabilities(np.where(np.arange(200) >= 189, 1 - label_ids, label_ids))
    found = compare_with_baseline(model, baseline, label_ids, baseline_name=NAME)
    assert found.interval.low > 0
    assert 0.05 < found.p_value < 0.06
    assert "cannot be told apart" in found.verdict


def test_the_difference_in_macro_f1_allows_for_the_bias_of_resamples() -> None:
    """Resamples lack rows of rare classes, so most differences are below that of the rows."""
    label_ids = np.repeat(np.arange(40), 3)
    good = np.where(np.arange(120) % 4 == 0, (label_ids + 1) % 40, label_ids)
    bad = (label_ids + 1) % 40
    probabilities = (as_probabilities(one, 40) for one in (good, bad))
    found = compare_predictions(*probabilities, label_ids, num_resamples=200)
    macro = found.scores["macro_f1"]
    below, above = (
        abs(end - macro.difference) for end in (macro.interval.low, macro.interval.high)
    )
    assert above > below


def test_probabilities_and_labels_must_be_of_the_same_rows() -> None:
    with pytest.raises(DataError, match="expected 2 label ids, one per row, got 3"):
        compare_with_baseline(np.eye(2), np.eye(2), [0, 1, 1], baseline_name=NAME)


def draw_pair(num_rows: int = 600, *, seed: int = 0):
    """Two models of three classes; the first is the better one."""
    rng = np.random.default_rng(seed)
    label_ids = rng.integers(3, size=num_rows)
    models = []
    for strength in (2.5, 1.0):
        logits = rng.normal(size=(num_rows, 3))
        logits[np.arange(num_rows), label_ids] += strength
        models.append(np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True))
    return *models, label_ids


def test_the_scores_of_both_are_those_of_metrics() -> None:
    a, b, label_ids = draw_pair()
    comparison = compare_predictions(a, b, label_ids, num_resamples=50)
    for name, difference in comparison.scores.items():
        of_a, of_b = (getattr(score(one, label_ids, ["x", "y", "z"]), name) for one in (a, b))
        assert (difference.a, difference.b) == pytest.approx((of_a, of_b))
        assert difference.difference == pytest.approx(of_a - of_b)
        assert difference.interval.low < difference.difference < difference.interval.high
    widths = {name: one.interval.high - one.interval.low for name, one in comparison.scores.items()}
    assert widths["macro_f1"] == pytest.approx(widths["accuracy"], rel=0.15)  # classes are balanced


def test_every_row_is_counted_once() -> None:
    a, b, label_ids = draw_pair()
    comparison = compare_predictions(a, b, label_ids, num_resamples=10)
    right_a, right_b = (one.argmax(axis=1) == label_ids for one in (a, b))
    assert comparison.num_only_a_right == int((right_a & ~right_b).sum())
    assert comparison.num_disagreeing == int((a.argmax(axis=1) != b.argmax(axis=1)).sum())
    counts = (
        comparison.num_both_right,
        comparison.num_only_a_right,
        comparison.num_only_b_right,
        comparison.num_both_wrong,
    )
    assert sum(counts) == comparison.num_rows == len(label_ids)


def test_pairing_narrows_the_interval_of_like_models() -> None:
    a, _, label_ids = draw_pair()
    like = 0.9 * a + 0.1 / 3
    paired = compare_predictions(a, like, label_ids, num_resamples=200).scores["log_loss"].interval
    alone = bootstrap_intervals(a, label_ids, num_resamples=200)["log_loss"]
    assert paired.high - paired.low < (alone.high - alone.low) / 2


@pytest.mark.slow
def test_the_interval_covers_the_true_difference() -> None:
    """Of 60 experiments with a known difference of 10 points, about 95 % must cover it."""
    rng = np.random.default_rng(3)
    covered = 0
    for _ in range(60):
        label_ids = np.zeros(300, dtype=int)
        models = [as_probabilities((rng.random(300) < share).astype(int)) for share in (0.15, 0.25)]
        scores = compare_predictions(*models, label_ids, num_resamples=100).scores
        interval = scores["accuracy"].interval
        covered += interval.low <= 0.1 <= interval.high
    assert 52 <= covered <= 60


def test_a_clear_difference_is_said_to_be_hardly_chance() -> None:
    a, b, label_ids = draw_pair()
    comparison = compare_predictions(a, b, label_ids, num_resamples=200)
    assert not comparison.could_be_chance
    told = describe_difference(comparison, "new", "old")
    assert told.startswith("new is better than old by ")
    assert told.endswith("hardly chance.")
    turned = describe_difference(
        compare_predictions(b, a, label_ids, num_resamples=200), "old", "new"
    )
    assert turned == told


def test_a_small_difference_is_said_to_be_possible_chance() -> None:
    a, _, label_ids = draw_pair()
    other = a.copy()
    other[:3] = other[:3, ::-1]
    comparison = compare_predictions(a, other, label_ids, num_resamples=200)
    assert comparison.could_be_chance
    told = describe_difference(comparison, "new", "old")
    assert told.startswith("The difference in accuracy could be chance: new minus ")


def test_the_same_predictions_are_said_to_be_the_same() -> None:
    a, _, label_ids = draw_pair()
    comparison = compare_predictions(a, a, label_ids, num_resamples=10)
    assert comparison.could_be_chance
    assert comparison.p_value == 1.0
    told = describe_difference(comparison, "new", "old")
    assert told == "new and old predict the same class for every row."
    # In other rows they may not.
    most = [binomtest(0, num).proportion_ci(0.95).high for num in np.bincount(label_ids)]
    expected = {"accuracy": binomtest(0, 600).proportion_ci(0.95).high}
    expected["macro_f1"] = np.linalg.norm(most) / 3
    for name, high in expected.items():
        interval = comparison.scores[name].interval
        assert (interval.low, interval.high) == pytest.approx((-high, high))


def test_two_groups_are_two_rows_worth() -> None:
    label_ids, groups = np.ones(40, dtype=int), np.repeat(["one", "two"], 20)
    a, b = as_probabilities(label_ids), as_probabilities((groups == "one").astype(int))
    by_row, by_group = (compare_predictions(a, b, label_ids, groups=one) for one in (None, groups))
    assert (by_row.could_be_chance, by_group.could_be_chance) == (False, True)
    assert (by_row.grouped, by_group.grouped) == (False, True)
    assert "e-06):" in describe_difference(by_row, "A", "B")
    assert "e-06 for single rows)." in describe_difference(by_group, "A", "B")


def test_a_comparison_can_be_written_as_json() -> None:
    a, b, label_ids = draw_pair(60)
    value = json.loads(json.dumps(compare_predictions(a, b, label_ids).to_json()))
    assert value["scores"]["accuracy"]["interval"]["low"] <= 1
    assert value["could_be_chance"] is False


def test_one_row_tells_nothing_of_a_difference() -> None:
    comparison = compare_predictions([[0.2, 0.8]], [[0.3, 0.7]], [1], num_resamples=10)
    found = comparison.scores["log_loss"].interval
    assert (found.low, found.high) == (-WORST_LOG_LOSS, WORST_LOG_LOSS)
    assert comparison.scores["accuracy"].interval.high > 0.9


def test_models_of_other_classes_cannot_be_compared() -> None:
    with pytest.raises(DataError, match=r"got shapes \(2, 2\) and \(2, 3\)"):
        compare_predictions(np.eye(2), np.eye(3)[:2], [0, 1])


def test_zero_has_no_sign() -> None:
    """An end of an interval that rounds to zero from below was written as -0.0."""
    none = Difference(0.9, 0.9, -1e-5, Interval(-1e-5, 0.013))
    comparison = dataclasses.replace(
        compare_predictions(*np.eye(2)[np.newaxis].repeat(2, axis=0), [0, 1]),
        scores={"accuracy": none},
        num_disagreeing=1,
        p_value=0.5,
    )
    told = describe_difference(comparison, "new", "old")
    assert "new minus old is +0.0 points" in told
    assert "interval 0.0 to 1.3," in told


def test_fewer_rows_than_classes_are_compared_with_a_baseline() -> None:
    label_ids = np.asarray([0, 5])
    pair = (as_probabilities(label_ids, 7), as_probabilities(label_ids[::-1], 7))
    comparison = compare_with_baseline(*pair, label_ids, baseline_name=NAME, num_resamples=100)
    assert (comparison.model_accuracy, comparison.model_macro_f1) == (1.0, 1.0)


def test_the_intervals_of_the_model_are_those_of_its_groups() -> None:
    a, b, label_ids = draw_pair(120)
    drawn = {"groups": np.arange(120) // 4, "num_resamples": 50, "seed": 3}
    found = compare_with_baseline(a, b, label_ids, baseline_name=NAME, **drawn).model_intervals
    expected = bootstrap_intervals(a, label_ids, **drawn)
    assert found == {name: expected[name] for name in ("accuracy", "macro_f1")}


def test_groups_count_by_their_rows_in_the_difference_of_log_losses() -> None:
    a, b, label_ids = draw_pair(120)
    groups = np.repeat(np.arange(10, 50), [1, 5] * 20)
    rng = np.random.default_rng(3)
    members = [np.flatnonzero(groups == group) for group in range(10, 50)]
    losses = np.log(b / a)[np.arange(120), label_ids]
    drawn = [
        np.concatenate([members[unit] for unit in rng.integers(40, size=40)]) for _ in range(50)
    ]
    ends = np.quantile([losses[rows].mean() for rows in drawn], [0.025, 0.975])
    num_even = 120**2 / (20 + 20 * 25)
    further = t.ppf(0.975, num_even - 1) / norm.ppf(0.975) * np.sqrt(num_even / (num_even - 1))
    options = {"groups": groups, "num_resamples": 50, "seed": 3}
    found = compare_predictions(a, b, label_ids, **options).scores["log_loss"].interval
    expected = losses.mean() + further * (ends - losses.mean())
    assert (found.low, found.high) == pytest.approx(tuple(expected))


def test_a_macro_f1_that_is_hardly_lower_is_not_worth_a_word() -> None:
    """The model misses 80 of 200 rare rows, the baseline finds all with 120 false alarms."""
    rows, label_ids = np.arange(4000), (np.arange(4000) < 200).astype(int)
    pair = (as_probabilities((rows < end).astype(int)) for end in (120, 320))
    found = compare_with_baseline(*pair, label_ids, baseline_name=NAME, num_resamples=100)
    assert 0.005 < found.baseline_macro_f1 - found.model_macro_f1 < 0.01
    assert found.verdict.startswith(f"The model beats {NAME} by 1.0 points of accuracy (")
    assert found.verdict.endswith(").")


@pytest.mark.parametrize("wrong", [[0.6, 0.6], [np.nan, 0.5], [1.5, -0.5]])
def test_the_probabilities_of_both_models_are_checked(wrong: list[float]) -> None:
    right, bad = np.eye(2), np.array([wrong, [0.0, 1.0]])
    for pair in ((right, bad), (bad, right)):
        with pytest.raises(DataError, match="expected probabilities"):
            compare_predictions(*pair, [0, 1])


def test_the_difference_in_accuracy_has_the_interval_of_right_and_wrong_rows() -> None:
    a, b, label_ids = draw_pair(200)
    are_right = [one.argmax(axis=1) == label_ids for one in (a, b)]
    for groups in (None, np.arange(200) // 4):
        options = {"groups": groups, "num_resamples": 100, "seed": 3}
        found = compare_predictions(a, b, label_ids, **options).scores["accuracy"].interval
        expected = paired_difference_interval(*are_right, **options)
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_a_difference_that_the_exact_test_does_not_find_could_be_chance() -> None:
    """As in the comparison with a baseline, and both are told."""
    label_ids = np.arange(200) % 2
    a = as_probabilities(np.where(np.arange(200) < 3, 1 - label_ids, label_ids))
    b = as_probabilities(np.where(np.arange(200) >= 189, 1 - label_ids, label_ids))
    found = compare_predictions(a, b, label_ids)
    assert found.scores["accuracy"].interval.excludes_zero
    assert found.could_be_chance
    told = describe_difference(found, "new", "old")
    assert told.endswith(" The interval leaves out 0, but McNemar's test does not exclude chance.")


def test_models_that_are_right_equally_often_need_not_predict_the_same() -> None:
    label_ids = np.arange(40) % 2
    answers = [np.where(np.arange(40) == wrong, 1 - label_ids, label_ids) for wrong in (0, 1)]
    found = compare_predictions(*map(as_probabilities, answers), label_ids, num_resamples=50)
    told = describe_difference(found, "new", "old")
    assert told.startswith("The difference in accuracy could be chance: new minus old is +0.0 ")


def test_log_losses_above_1_are_within_the_intervals_by_which_differences_widen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: list[Interval] = []

    def widen(interval: Interval, of_each: tuple[Interval, Interval], *_: object) -> Interval:
        given.extend(of_each)
        return interval

    monkeypatch.setattr("bertfit.evaluation.comparison.widen_where_few_mistakes", widen)
    label_ids = np.arange(40) % 2
    answers = [np.where(np.arange(40) < wrong, 1 - label_ids, label_ids) for wrong in (30, 35)]
    models = [np.clip(np.eye(2)[one], 0.01, 0.99) for one in answers]
    found = compare_predictions(*models, label_ids, num_resamples=100).scores["log_loss"]
    assert min(found.a, found.b) > 1
    of_a, of_b = given
    assert of_a.low < found.a < of_a.high
    assert of_b.low < found.b < of_b.high


@pytest.mark.parametrize(("share", "is_told"), [(0.5, True), (0.9, False)])
def test_a_model_that_may_have_guessed_is_said_to(share: float, is_told: bool) -> None:
    """As good as a baseline that learned nothing either, it got a neutral verdict."""
    rng = np.random.default_rng(1)
    label_ids = rng.integers(2, size=200)
    pair = [
        as_probabilities(np.where(rng.random(200) < share, label_ids, 1 - label_ids))
        for _ in range(2)
    ]
    verdict = compare_with_baseline(*pair, label_ids, baseline_name=NAME).verdict
    told = (
        "These rows do not show that the model is better than guessing, whose macro recall is 50 %"
    )
    assert (told in verdict) == is_told
    one = compare_with_baseline(*pair, np.zeros(200, int), baseline_name=NAME).verdict
    assert "guessing" not in one


def test_whoever_finds_most_of_a_rare_class_did_not_guess_however_low_its_f1_is() -> None:
    """It calls 30 % of the other rows rare as well: the macro F1 is 0.47, the recall 0.8."""
    label_ids = (np.arange(1000) < 20).astype(int)
    found = np.where(np.arange(1000) % 10 < 3, 1, label_ids)
    found[:2] = 0
    pair = as_probabilities(found), as_probabilities(np.zeros(1000, int))
    comparison = compare_with_baseline(*pair, label_ids, baseline_name=NAME, num_resamples=200)
    assert comparison.model_intervals["macro_f1"].low < 0.5
    assert "guessing" not in comparison.verdict


@pytest.mark.parametrize(("low", "is_told"), [(0.5, True), (0.501, False)])
def test_a_recall_that_may_be_just_that_of_guessing_may_be_guessed(low, is_told) -> None:
    label_ids = np.arange(40) % 2
    pair = [as_probabilities(label_ids)] * 2
    found = compare_with_baseline(*pair, label_ids, baseline_name=NAME, num_resamples=20)
    recall = Interval(low, 0.9)
    verdict = describe_against_baseline(found, grouped=False, recall=recall, num_labels=2)
    assert ("better than guessing" in verdict) == is_told
