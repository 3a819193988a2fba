"""Flipped labels are at the top of the ranking."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest

from bertfit.errors import ConfigError, DataError
from bertfit.evaluation import suspicious
from bertfit.evaluation.folds import _cut_folds, predict_by_folds
from bertfit.evaluation.suspicious import rank_suspicious_labels


def draw_flipped(num_rows: int = 2000, num_labels: int = 4, *, seed: int = 0):
    """Probabilities of a good model, and labels of which 5 % were flipped at random."""
    rng = np.random.default_rng(seed)
    true_ids = rng.integers(num_labels, size=num_rows)
    logits = rng.normal(size=(num_rows, num_labels))
    logits[np.arange(num_rows), true_ids] += 4
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    is_flipped = rng.random(num_rows) < 0.05
    shift = rng.integers(1, num_labels, size=num_rows)
    label_ids = np.where(is_flipped, (true_ids + shift) % num_labels, true_ids)
    return probabilities, label_ids, true_ids, is_flipped


def test_the_top_holds_the_flipped_labels() -> None:
    probabilities, label_ids, true_ids, is_flipped = draw_flipped()
    ranked = rank_suspicious_labels(probabilities, label_ids)
    hits = is_flipped[ranked.rows]
    num_flipped = int(is_flipped.sum())
    assert hits[:50].mean() == 1.0
    assert hits[:num_flipped].mean() > 0.9
    assert hits[: ranked.num_issues].sum() > 0.85 * num_flipped
    suggested = ranked.suggested_ids[:num_flipped]
    assert (suggested == true_ids[ranked.rows[:num_flipped]]).mean() > 0.9


def test_every_row_is_ranked_once() -> None:
    probabilities, label_ids, _, _ = draw_flipped(200)
    assert sorted(rank_suspicious_labels(probabilities, label_ids).rows) == list(range(200))


def test_a_class_that_is_always_unsure_is_not_suspected_for_it() -> None:
    """The threshold of a class is what its own rows reach, not one half."""
    probabilities = [[0.95, 0.05]] * 10 + [[0.5, 0.5]] * 10
    ranked = rank_suspicious_labels(probabilities, [0] * 10 + [1] * 10)
    assert ranked.num_issues == 0


def test_a_class_without_rows_is_never_suggested_as_an_issue() -> None:
    probabilities = [[0.1, 0.1, 0.8]] * 3 + [[0.1, 0.8, 0.1]] * 3
    ranked = rank_suspicious_labels(probabilities, [0] * 3 + [1] * 3)
    assert ranked.num_issues == 0


def test_a_rare_class_is_not_suggested_where_it_is_nearly_impossible() -> None:
    """Class 2 is as probable in the first row as in its own, but class 1 is the likely one.

    Class 1 is far less probable there than in its own rows.
    """
    probabilities = [[0.2, 0.6, 0.2], [0.9, 0.05, 0.05], [0.05, 0.9, 0.05], [0.45, 0.35, 0.2]]
    ranked = rank_suspicious_labels(probabilities, [0, 0, 1, 2])
    assert ranked.num_issues == 0
    (place,) = np.flatnonzero(ranked.rows == 0)
    assert (ranked.suggested_ids[place], ranked.confidences[place]) == (1, 0.6)


@pytest.mark.parametrize("seed", range(5))
def test_what_is_suggested_for_a_wrong_label_is_the_most_probable_class(seed: int) -> None:
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.full(6, 0.5), 300)
    label_ids = (rng.random(300) ** 3 * 6).astype(int)  # the last classes are rare
    ranked = rank_suspicious_labels(probabilities, label_ids)
    first = ranked.rows[: ranked.num_issues]
    assert len(first) > 20
    best_ids = probabilities.argmax(axis=1)[first]
    np.testing.assert_array_equal(ranked.suggested_ids[: len(first)], best_ids)
    assert (best_ids != label_ids[first]).all()


def test_wrong_probabilities_are_refused() -> None:
    with pytest.raises(DataError, match="sum to 1"):
        rank_suspicious_labels([[2.0, 3.0]], [0])


def make_rows(num_rows: int = 400, *, seed: int = 0):
    rng = np.random.default_rng(seed)
    label_ids = np.arange(num_rows) % 2
    fillers = np.array(["a", "the", "film", "plot", "of", "was", "very"])
    texts = [
        " ".join([*rng.choice(fillers, 6), "good" if label_id else "bad", f"n{row}"])
        for row, label_id in enumerate(label_ids)
    ]
    return texts, label_ids


def test_folds_of_the_lexical_baseline_find_flipped_labels() -> None:
    texts, true_ids = make_rows()
    is_flipped = np.random.default_rng(1).random(400) < 0.05
    label_ids = np.where(is_flipped, 1 - true_ids, true_ids)
    told = []
    predicted = predict_by_folds(
        texts, label_ids, num_labels=2, on_progress=lambda *progress: told.append(progress)
    )
    assert told == [(done, 5) for done in range(6)]
    ranked = rank_suspicious_labels(predicted.probabilities, label_ids)
    assert predicted.is_judged.all()
    assert is_flipped[ranked.rows[: is_flipped.sum()]].all()
    assert 14 <= ranked.num_issues <= is_flipped.sum() == 19


def test_a_row_is_never_judged_by_a_copy_of_itself() -> None:
    """A text that occurs often with a wrong label would else be defended by its copies."""
    texts, label_ids = make_rows(200)
    texts += ["good zork"] * 8
    label_ids = np.append(label_ids, [0] * 8)
    predicted = predict_by_folds(texts, label_ids, num_labels=2)
    assert (predicted.probabilities[-8:, 1] > 0.5).all()


def test_groups_stay_in_one_fold() -> None:
    texts, label_ids = make_rows(100)
    groups = [f"g{row // 4}" for row in range(100)]
    marked = [f"{text} only{groups[row]}" for row, text in enumerate(texts)]
    plain = predict_by_folds(texts, label_ids, num_labels=2, units=groups).probabilities
    seen = predict_by_folds(marked, label_ids, num_labels=2, units=groups).probabilities
    assert (plain.argmax(axis=1) == seen.argmax(axis=1)).all()


def test_folds_of_texts_are_stratified_and_copies_stay_together() -> None:
    rng = np.random.default_rng(0)
    label_ids = np.minimum(rng.integers(12, size=1000), 3)
    units = [*range(990), *range(10)]  # ten texts occur twice
    folds = _cut_folds(units, label_ids, num_folds=5, units_are="texts", seed=0)
    assert sorted(np.concatenate(folds).tolist()) == list(range(1000))
    counts = np.array([np.bincount(label_ids[fold]) for fold in folds])
    assert (np.ptp(counts, axis=0) <= 6).all()
    assert all(
        (np.isin(range(10), fold) == np.isin(range(990, 1000), fold)).all() for fold in folds
    )


def test_folds_of_groups_are_stratified_and_none_is_empty() -> None:
    rng = np.random.default_rng(0)
    groups = rng.integers(100, size=2000)
    label_ids = rng.integers(2, size=2000)
    folds = _cut_folds(groups.tolist(), label_ids, num_folds=4, units_are="groups", seed=0)
    assert sum(len(set(groups[fold].tolist())) for fold in folds) == 100
    assert all(200 <= count <= 300 for fold in folds for count in np.bincount(label_ids[fold]))
    few = _cut_folds(["a"] * 9 + ["b", "c"], np.zeros(11, int), num_folds=3, units_are="", seed=0)
    assert sorted(fold.tolist() for fold in few) == [list(range(9)), [9], [10]]


def test_a_fold_that_gets_no_group_is_left_out() -> None:
    """Where rounding decides, scikit-learn puts two of five groups into one of five folds."""
    sizes = [3, 6, 3, 3, 3]
    groups, label_ids = np.arange(5).repeat(sizes), np.repeat([0, 1, 4, 3, 2], sizes)
    folds = _cut_folds(groups.tolist(), label_ids, num_folds=5, units_are="groups", seed=8)
    assert all(len(fold) for fold in folds)
    assert sorted(np.concatenate(folds).tolist()) == list(range(18))


def test_folds_are_cut_where_no_label_has_as_many_texts() -> None:
    """Four copies of one text and as many of another are rows enough of a label, but two units."""
    units = ["a"] * 4 + ["b"] * 4 + list("cdefghij")
    label_ids = np.array([0] * 8 + list(range(1, 9)))
    folds = _cut_folds(units, label_ids, num_folds=5, units_are="texts", seed=0)
    assert sorted(np.concatenate(folds).tolist()) == list(range(16))


def test_another_seed_cuts_other_folds() -> None:
    options = {"num_folds": 2, "units_are": "texts"}
    cuts = [_cut_folds(range(50), np.arange(50) % 2, **options, seed=seed) for seed in (0, 0, 1)]
    first, again, other = ({tuple(fold.tolist()) for fold in cut} for cut in cuts)
    assert first == again != other


def test_the_only_row_of_a_label_is_not_judged() -> None:
    texts, label_ids = make_rows(60)
    predicted = predict_by_folds([*texts, "odd"], [*label_ids, 2], num_labels=3)
    assert not predicted.is_judged[-1]
    assert predicted.is_judged[:-1].all()


@pytest.mark.parametrize("usual", [0, 1])
def test_where_other_folds_have_one_label_alone_it_is_predicted(usual: int) -> None:
    texts, _ = make_rows(60)
    predicted = predict_by_folds([*texts, "odd"], [usual] * 60 + [1 - usual], num_labels=2)
    assert predicted.probabilities[-1].tolist() == [1 - usual, usual]
    assert predicted.is_judged.tolist() == [True] * 60 + [False]


@pytest.mark.parametrize(
    ("num_rows", "num_folds", "error", "message"),
    [
        (10, 1, ConfigError, "expected at least 2 folds, got 1"),
        (6, 5, DataError, "5 folds need at least as many different texts"),
    ],
)
def test_folds_that_cannot_be_are_refused(num_rows, num_folds, error, message) -> None:
    texts, label_ids = make_rows(num_rows)
    with pytest.raises(error, match=message):
        predict_by_folds(texts, label_ids, num_labels=2, num_folds=num_folds)


def test_texts_without_anything_are_refused() -> None:
    with pytest.raises(DataError, match="nothing to learn from"):
        predict_by_folds([" ", "\n", "\t", "  "] * 2, [0, 1] * 4, num_labels=2, num_folds=2)


def test_a_judge_that_agrees_with_a_label_does_not_call_it_wrong() -> None:
    """Of one that is sure of nothing, every second row reaches the mean of the other class."""
    rng = np.random.default_rng(0)
    second = 0.4 + 0.02 * rng.random(200)
    probabilities = np.stack([1 - second, second], axis=1)
    label_ids = np.arange(200) % 2
    ranked = rank_suspicious_labels(probabilities, label_ids)
    assert ranked.num_issues > 0
    assert (label_ids[ranked.rows[: ranked.num_issues]] == 1).all()
    assert (ranked.margins[: ranked.num_issues] < 0).all()


@pytest.mark.slow
def test_flipped_labels_of_imdb_are_found(data_dir) -> None:
    """5,000 reviews, 5 % flipped: seen were 0.86 among the first 50, 0.81 among 100."""
    path = data_dir / "imdb" / "imdb_train_raw.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    rng = np.random.default_rng(0)
    chosen = [rows[row] for row in rng.permutation(len(rows))[:5000]]
    is_flipped = rng.random(5000) < 0.05
    true_ids = np.array([int(row["label"] == "pos") for row in chosen])
    label_ids = np.where(is_flipped, 1 - true_ids, true_ids)
    predicted = predict_by_folds(
        [row["text"] for row in chosen],
        label_ids,
        num_labels=2,
        units=[row["movie"] for row in chosen],
    )
    hits = is_flipped[rank_suspicious_labels(predicted.probabilities, label_ids).rows]
    assert hits[:50].mean() > 0.8
    assert hits[:100].mean() > 0.75
    assert hits[: is_flipped.sum()].mean() > 0.5


def draw_right(scale: float, *, sharper: float = 1.0, shift: float = 0.0, num_rows: int = 4000):
    """Right labels, drawn from the chances of two classes, and the probabilities of a model."""
    rng = np.random.default_rng(0)
    logits = rng.normal(shift, scale, size=num_rows)
    label_ids = (rng.random(num_rows) < 1 / (1 + np.exp(-logits))).astype(int)
    second = 1 / (1 + np.exp(-sharper * logits))
    return np.column_stack([1 - second, second]), label_ids


@pytest.mark.parametrize("sharper", [1.0, 0.5])
def test_as_many_labels_look_wrong_as_are_expected_if_all_are_right(sharper: float) -> None:
    """Of a calibrated model, and of one that is right more often than it is sure."""
    ranked = rank_suspicious_labels(*draw_right(1.5, sharper=sharper))
    assert ranked.num_issues > 300
    assert ranked.num_expected == pytest.approx(ranked.num_issues, rel=0.1)


def test_what_is_expected_is_the_mean_of_right_labels_drawn_from_the_probabilities() -> None:
    rng = np.random.default_rng(0)
    logits = 2 * rng.normal(size=(2000, 2))
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    found, expected = [], []
    for _ in range(20):
        label_ids = (rng.random(2000) < probabilities[:, 1]).astype(int)
        ranked = rank_suspicious_labels(probabilities, label_ids)
        found.append(ranked.num_issues)
        expected.append(ranked.num_expected)
    assert np.mean(expected) == pytest.approx(np.mean(found), rel=0.05)


def test_more_labels_look_wrong_than_expected_if_some_are_or_the_model_is_too_sure() -> None:
    probabilities, label_ids = draw_right(4.0)
    right = rank_suspicious_labels(probabilities, label_ids)
    is_flipped = np.arange(4000) % 20 == 0
    ranked = rank_suspicious_labels(probabilities, np.where(is_flipped, 1 - label_ids, label_ids))
    assert ranked.num_expected == pytest.approx(right.num_expected, rel=0.1)
    assert ranked.num_issues > 1.8 * ranked.num_expected
    bold = rank_suspicious_labels(*draw_right(1.5, sharper=2.0))
    assert bold.num_expected < 0.5 * bold.num_issues


def test_with_more_than_two_classes_nothing_is_expected() -> None:
    """Their probabilities are less to be trusted, one by one, than those of two."""
    probabilities = [[0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.1, 0.2, 0.7], [0.5, 0.3, 0.2]]
    assert rank_suspicious_labels(probabilities, [0, 1, 2, 0]).num_expected is None
    assert rank_suspicious_labels(probabilities, [0, 1, 1, 0]).num_expected is None  # of three


def test_certain_probabilities_expect_nothing() -> None:
    assert rank_suspicious_labels([[1.0, 0.0], [0.0, 1.0]], [0, 1]).num_expected == 0


def test_of_many_rows_a_part_tells_how_unsure_the_model_should_be(monkeypatch) -> None:
    drawn = draw_right(1.5, sharper=0.5)
    expected = rank_suspicious_labels(*drawn).num_expected
    monkeypatch.setattr(suspicious, "_MOST_NUMBERS", 2000)  # a quarter of the rows
    assert rank_suspicious_labels(*drawn).num_expected == pytest.approx(expected, rel=0.25)


def test_the_part_that_tells_it_has_all_labels_whatever_the_order_of_rows(monkeypatch) -> None:
    """Every fourth row was of one label, after which the model seemed right whenever unsure."""
    probabilities, label_ids = draw_right(1.5, sharper=0.5)
    ones = np.flatnonzero(label_ids)[:1000]
    others = np.setdiff1d(np.arange(len(label_ids)), ones)
    order = np.insert(others, np.arange(0, 3000, 3), ones)
    assert set(label_ids[order][::4]) == {1}
    expected = rank_suspicious_labels(probabilities, label_ids).num_expected
    monkeypatch.setattr(suspicious, "_MOST_NUMBERS", 2000)
    ranked = rank_suspicious_labels(probabilities[order], label_ids[order])
    assert ranked.num_expected == pytest.approx(expected, rel=0.25)


def test_the_part_of_rows_sorted_by_label_has_rows_of_both(monkeypatch) -> None:
    """Those of the more frequent label alone make the model seem right whenever it is unsure."""
    probabilities, label_ids = draw_right(1.5, sharper=0.5, shift=-1.0)
    order = np.argsort(label_ids, kind="stable")
    expected = rank_suspicious_labels(probabilities, label_ids).num_expected
    monkeypatch.setattr(suspicious, "_MOST_NUMBERS", 2000)
    ranked = rank_suspicious_labels(probabilities[order], label_ids[order])
    assert ranked.num_expected == pytest.approx(expected, rel=0.25)


def test_a_row_does_not_count_whose_most_probable_class_is_less_probable_than_in_its_own() -> None:
    """Of the second kind of rows, class 0 is the most probable, but reaches only 0.6 of 0.8."""
    probabilities = [[0.95, 0.05]] * 200 + [[0.6, 0.4]] * 200
    label_ids = [0] * 190 + [1] * 10 + [0] * 120 + [1] * 80
    ranked = rank_suspicious_labels(probabilities, label_ids)
    assert ranked.num_issues == 10
    assert ranked.num_expected == pytest.approx(10, rel=0.1)


def test_rows_that_count_as_wrong_come_before_those_of_a_lower_margin() -> None:
    """Class 1 is more probable in row 4 than its label, and as probable as in its own rows."""
    first, second = [0.95, 0.05, 0.0], [0.7, 0.02, 0.28]
    rest = [[0.1, 0.45, 0.45], [0.42, 0.48, 0.1], [0.1, 0.5, 0.4], [0.3, 0.45, 0.25]]
    probabilities = [first, first, second, *rest, [0.2, 0.2, 0.6]]
    ranked = rank_suspicious_labels(probabilities, [0, 0, 2, 1, 0, 1, 1, 2])
    assert ranked.num_issues == 1
    assert ranked.rows[:2].tolist() == [4, 2]
    assert ranked.margins[0] > ranked.margins[1]


def test_the_margin_is_over_the_best_other_class() -> None:
    ranked = rank_suspicious_labels([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3]], [0, 1, 1])
    assert ranked.rows.tolist() == [2, 1, 0]
    assert ranked.margins == pytest.approx([-0.4, 0.6, 0.8])


def test_a_row_as_probable_as_those_of_the_other_label_counts_and_that_label_is_suggested() -> None:
    ranked = rank_suspicious_labels([[0.5, 0.5]] * 4, [0, 0, 1, 1])
    assert (ranked.num_issues, ranked.rows[:2].tolist()) == (2, [2, 3])
    assert ranked.suggested_ids.tolist() == [0, 0, 0, 0]


def test_a_row_exactly_as_probable_as_those_of_the_other_label_counts() -> None:
    """The mean of seven times 0.9 is a little more than 0.9."""
    probabilities = [[0.9, 0.1]] * 8 + [[0.2, 0.8]] * 3
    ranked = rank_suspicious_labels(probabilities, [0] * 7 + [1] * 4)
    assert ranked.rows[: ranked.num_issues].tolist() == [7]


def test_of_one_class_alone_the_margin_is_its_probability() -> None:
    ranked = rank_suspicious_labels([[1.0], [1.0]], [0, 0])
    assert (ranked.margins.tolist(), ranked.num_issues) == ([1.0, 1.0], 0)


def test_the_part_of_the_rows_has_none_twice() -> None:
    assert len(set(suspicious._draw_rows(100, 60).tolist())) == 60


@pytest.mark.parametrize("seed", range(5))
def test_large_groups_are_stratified_by_all_their_labels(seed: int) -> None:
    """All begin with the same label, and in every second one no other row has it."""
    groups = np.arange(20).repeat(10)
    label_ids = groups % 2 * (np.arange(200) % 10 > 0)
    folds = _cut_folds(groups.tolist(), label_ids, num_folds=5, units_are="groups", seed=seed)
    assert [int(label_ids[fold].sum()) for fold in folds] == [18] * 5
