"""The baseline learns what words can tell, answers for every kind of text, and never warns."""

from __future__ import annotations

import json

import numpy as np
import pytest

from bertfit.errors import ConfigError, DataError
from bertfit.evaluation import lexical
from bertfit.evaluation.baseline import (
    BASELINE_NAME,
    MAJORITY_NAME,
    _choose_rows,
    compare_with_baseline,
    fit_baseline,
    majority_accuracy,
    run_baseline,
)

TEXTS = ["a good film", "a bad film", "good plot and good acting", "bad plot", "good", "bad"]
LABEL_IDS = [1, 0, 1, 0, 1, 0]


def as_probabilities(predicted_ids: np.ndarray, num_labels: int = 2) -> np.ndarray:
    return np.eye(num_labels)[predicted_ids] * 0.8 + 0.2 / num_labels


def test_baseline_learns_the_words_that_tell() -> None:
    baseline = fit_baseline(TEXTS, LABEL_IDS, num_labels=2, seed=0)
    probabilities = baseline.predict_probabilities(["bad, BAD!", "Good one"])
    assert baseline.name == BASELINE_NAME
    assert baseline.note is None
    assert probabilities.argmax(axis=1).tolist() == [0, 1]
    assert probabilities.sum(axis=1) == pytest.approx([1.0, 1.0])


def test_bigrams_tell_what_words_alone_do_not() -> None:
    texts = ["not good", "not bad really bad", "good not", "bad bad not really"] * 10
    label_ids = [0, 0, 1, 1] * 10
    baseline = fit_baseline(texts, label_ids, num_labels=2, seed=0)
    assert (baseline.predict_probabilities(texts).argmax(axis=1) == label_ids).all()


def test_classes_without_rows_keep_their_column_and_get_zero() -> None:
    baseline = fit_baseline(TEXTS, [3, 1, 3, 1, 3, 1], num_labels=5, seed=0)
    probabilities = baseline.predict_probabilities(["good", "bad"])
    assert probabilities.argmax(axis=1).tolist() == [3, 1]
    assert probabilities[:, [0, 2, 4]].tolist() == [[0.0] * 3] * 2


def test_77_classes_are_learned() -> None:
    label_ids = np.arange(77).repeat(3)
    texts = [f"intent{label_id} please" for label_id in label_ids]
    baseline = fit_baseline(texts, label_ids, num_labels=77, seed=0)
    assert (baseline.predict_probabilities(texts).argmax(axis=1) == label_ids).all()


def test_words_of_one_letter_count() -> None:
    baseline = fit_baseline(["a a", "b", "a", "b b"], [0, 1, 0, 1], num_labels=2, seed=0)
    assert baseline.note is None
    assert baseline.predict_probabilities(["a", "b"]).argmax(axis=1).tolist() == [0, 1]


def test_chinese_is_read_by_character() -> None:
    texts = ["这部电影很好看", "这部电影很难看", "好看极了", "真是难看"]
    baseline = fit_baseline(texts, [1, 0, 1, 0], num_labels=2, seed=0)
    assert baseline.predict_probabilities(["很好", "太难"]).argmax(axis=1).tolist() == [1, 0]


def test_texts_without_words_are_read_by_character() -> None:
    baseline = fit_baseline([":-)", ":-(", ":)", ":("], [1, 0, 1, 0], num_labels=2, seed=0)
    assert baseline.note == "no words in the texts: n-grams of characters were counted instead"
    assert baseline.predict_probabilities(["=)", "=("]).argmax(axis=1).tolist() == [1, 0]


def test_empty_texts_leave_the_class_shares() -> None:
    baseline = fit_baseline(["", "", "", ""], [1, 0, 1, 1], num_labels=2, seed=0)
    assert (baseline.name, baseline.note) == (MAJORITY_NAME, "the texts are empty")
    assert baseline.predict_probabilities(["anything"]).tolist() == [[0.25, 0.75]]


def test_one_class_is_answered_with_itself() -> None:
    baseline = fit_baseline(["a", "b"], [2, 2], num_labels=3, seed=0)
    assert baseline.note == "the training rows hold one class"
    assert baseline.predict_probabilities(["c"]).tolist() == [[0.0, 0.0, 1.0]]


def test_no_texts_get_no_rows() -> None:
    baseline = fit_baseline(TEXTS, LABEL_IDS, num_labels=2, seed=0)
    assert baseline.predict_probabilities([]).shape == (0, 2)


def test_a_fit_that_stops_early_is_noted_and_not_warned_of(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lexical, "MAX_ITERATIONS", 1)
    baseline = fit_baseline(TEXTS, LABEL_IDS, num_labels=2, seed=0)
    assert baseline.note is not None
    assert baseline.note.startswith("the fit was stopped after")


def test_rare_ngrams_are_dropped_from_many_rows_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lexical, "MIN_ROWS_FOR_PRUNING", 6)
    baseline = fit_baseline(TEXTS, LABEL_IDS, num_labels=2, seed=0)
    assert baseline.vectorizer is not None
    assert "acting" not in baseline.vectorizer.vocabulary_


def test_pruning_that_leaves_nothing_is_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lexical, "MIN_ROWS_FOR_PRUNING", 1)
    baseline = fit_baseline(["one", "two"], [0, 1], num_labels=2, seed=0)
    assert baseline.name == BASELINE_NAME
    assert baseline.note is None


def test_a_cut_keeps_every_class_and_its_share() -> None:
    label_ids = np.repeat([0, 1, 2], [900, 99, 1])
    chosen = label_ids[_choose_rows(label_ids, 100, seed=0)]
    counts = np.bincount(chosen, minlength=3)
    assert counts.sum() == 100
    assert counts[2] == 1
    assert 88 <= counts[0] <= 90


def test_the_same_seed_cuts_the_same_rows() -> None:
    label_ids = np.arange(50) % 3
    first = _choose_rows(label_ids, 20, seed=4).tolist()
    assert first == sorted(set(first))
    assert first == _choose_rows(label_ids, 20, seed=4).tolist()
    assert first != _choose_rows(label_ids, 20, seed=5).tolist()


def test_a_run_gives_probabilities_and_seconds() -> None:
    result = run_baseline(TEXTS, LABEL_IDS, test_texts=["good"], num_labels=2, seed=0, max_rows=4)
    assert result.name == BASELINE_NAME
    assert result.probabilities.shape == (1, 2)
    assert result.seconds > 0


@pytest.mark.parametrize(
    ("texts", "label_ids", "message"),
    [
        ([], [], "expected a label per text, got 0 labels for 0 texts"),
        (["a", "b"], [0], "expected a label per text, got 1 labels for 2 texts"),
        (["a", "b"], [0, 2], "expected label ids from 0 to 1, got 0 to 2"),
    ],
)
def test_wrong_training_rows_are_refused(
    texts: list[str], label_ids: list[int], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        fit_baseline(texts, label_ids, num_labels=2, seed=0)


def test_a_cut_to_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected max_rows of at least 1, got 0"):
        fit_baseline(TEXTS, LABEL_IDS, num_labels=2, seed=0, max_rows=0)


def test_majority_accuracy_is_the_largest_share() -> None:
    assert majority_accuracy([2, 2, 0, 1]) == 0.5
    with pytest.raises(DataError, match="expected at least one row"):
        majority_accuracy([])


def test_a_better_model_beats_the_baseline_in_words() -> None:
    label_ids = np.arange(1000) % 2
    good = np.where(np.arange(1000) % 10 == 0, 1 - label_ids, label_ids)
    bad = np.where(np.arange(1000) % 5 == 0, 1 - label_ids, label_ids)
    comparison = compare_with_baseline(as_probabilities(good), as_probabilities(bad), label_ids)
    assert comparison.difference == pytest.approx(0.1)
    assert comparison.p_value < 1e-6
    assert comparison.verdict.startswith(
        "The model beats TF-IDF + logistic regression by 10.0 points (95 % interval "
    )
    reverse = compare_with_baseline(as_probabilities(bad), as_probabilities(good), label_ids)
    assert reverse.verdict.startswith(
        "The model LOSES to TF-IDF + logistic regression by 10.0 points (95 % interval "
    )
    assert "use the baseline, or give the model more text" in reverse.verdict
    span = reverse.verdict.partition("interval ")[2].partition(")")[0]
    assert span == comparison.verdict.partition("interval ")[2].partition(")")[0]
    assert json.loads(json.dumps(comparison.to_json()))["interval"]["low"] > 0


def test_three_rows_never_tell_models_apart() -> None:
    """The bootstrap of three equal differences has no width; the exact test knows better."""
    right, wrong = as_probabilities(np.ones(3, dtype=int)), as_probabilities(np.zeros(3, dtype=int))
    comparison = compare_with_baseline(right, wrong, [1, 1, 1], baseline_name="the majority")
    assert comparison.verdict == (
        "The model and the majority cannot be told apart on these rows: the difference is "
        "+100.0 points (95 % interval 100.0 to 100.0)."
    )


def test_groups_can_take_the_certainty_away() -> None:
    """Forty reviews of two movies, one of which the model alone gets right, are two rows' worth."""
    label_ids, groups = np.ones(40, dtype=int), np.repeat(["one", "two"], 20)
    model, baseline = as_probabilities(label_ids), as_probabilities((groups == "one").astype(int))
    assert "beats" in compare_with_baseline(model, baseline, label_ids).verdict
    grouped = compare_with_baseline(model, baseline, label_ids, groups=groups)
    assert "cannot be told apart" in grouped.verdict


def test_probabilities_and_labels_must_be_of_the_same_rows() -> None:
    with pytest.raises(DataError, match=r"got shapes \(2, 2\) and \(3,\)"):
        compare_with_baseline(np.eye(2), np.eye(2), [0, 1, 1])
