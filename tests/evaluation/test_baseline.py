"""The baseline learns from words, predicts for any text, and never warns."""

from __future__ import annotations

import dataclasses
import gzip
import json
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics import log_loss

from bertfit.errors import DataError
from bertfit.evaluation import lexical, ngrams, threads, tuning
from bertfit.evaluation.baseline import (
    BASELINE_NAME,
    MAJORITY_NAME,
    MAX_LOGITS,
    MAX_ROWS,
    NAIVE_BAYES_NAME,
    LexicalBaseline,
    _choose,
    _choose_rows,
    fit_baselines,
    foresee_long_fits,
    predict_with_baselines,
    run_baselines,
)

TEXTS = ["a good film", "a bad film", "good plot and good acting", "bad plot", "good", "bad"]
LABEL_IDS = [1, 0, 1, 0, 1, 0]


def fit_baseline(texts, label_ids, *, num_labels: int = 2, **settings) -> LexicalBaseline:
    """TF-IDF tuned on the very rows it learned from; the majority class where there is no other."""
    rows = (texts, label_ids)
    return fit_baselines(rows, rows, num_labels=num_labels, seed=0, **settings)[:2][-1]


def test_baseline_learns_the_words_that_tell() -> None:
    baseline = fit_baseline(TEXTS, LABEL_IDS)
    probabilities = predict_with_baselines([baseline], ["bad, BAD!", "Good one"])[0]
    assert baseline.name == BASELINE_NAME
    assert baseline.note is None
    assert probabilities.argmax(axis=1).tolist() == [0, 1]
    assert probabilities.sum(axis=1) == pytest.approx([1.0, 1.0])


def test_bigrams_tell_what_words_alone_do_not() -> None:
    texts = ["not good", "not bad really bad", "good not", "bad bad not really"] * 10
    label_ids = [0, 0, 1, 1] * 10
    baseline = fit_baseline(texts, label_ids)
    assert (predict_with_baselines([baseline], texts)[0].argmax(axis=1) == label_ids).all()


def test_classes_without_rows_keep_their_column_and_get_zero() -> None:
    baseline = fit_baseline(TEXTS, [3, 1, 3, 1, 3, 1], num_labels=5)
    probabilities = predict_with_baselines([baseline], ["good", "bad"])[0]
    assert probabilities.argmax(axis=1).tolist() == [3, 1]
    assert probabilities[:, [0, 2, 4]].tolist() == [[0.0] * 3] * 2


def test_naive_bayes_weighs_a_word_by_the_ratio_of_its_frequencies() -> None:
    """Each count starts at 1, and each text has the length 1, however many words it has."""
    present = csr_matrix(np.array([[1, 1, 0], [1, 0, 1], [0, 1, 1]], dtype=np.float32))
    ratio = lexical._log_count_ratio(present, np.array([True, True, False]))
    expected = np.log(np.array([3, 2, 2]) / 7) - np.log(np.array([1, 2, 2]) / 5)
    assert ratio == pytest.approx(expected, abs=1e-6)
    weighted = lexical._weigh_by_ratio(present, ratio).toarray()
    assert weighted[0] == pytest.approx([*(ratio[:2] / np.hypot(*ratio[:2])), 0.0])


@pytest.mark.parametrize("num_labels", [7, pytest.param(77, marks=pytest.mark.slow)])
def test_many_classes_are_learned(num_labels: int) -> None:
    label_ids = np.arange(num_labels).repeat(3)
    texts = [f"intent{label_id} please" for label_id in label_ids]
    baseline = fit_baseline(texts, label_ids, num_labels=num_labels)
    assert (predict_with_baselines([baseline], texts)[0].argmax(axis=1) == label_ids).all()


def test_words_of_one_letter_count() -> None:
    baseline = fit_baseline(["a a", "b", "a", "b b"], [0, 1, 0, 1])
    assert baseline.note is None
    assert predict_with_baselines([baseline], ["a", "b"])[0].argmax(axis=1).tolist() == [0, 1]


def test_chinese_is_read_by_character() -> None:
    texts = ["这部电影很好看", "这部电影很难看", "好看极了", "真是难看"]
    baseline = fit_baseline(texts, [1, 0, 1, 0])
    assert predict_with_baselines([baseline], ["很好", "太难"])[0].argmax(axis=1).tolist() == [1, 0]


def test_texts_without_words_are_read_by_character() -> None:
    baseline = fit_baseline([":-)", ":-(", ":)", ":("], [1, 0, 1, 0])
    assert baseline.note == "no words in the texts: n-grams of characters were counted instead"
    assert predict_with_baselines([baseline], ["=)", "=("])[0].argmax(axis=1).tolist() == [1, 0]


def test_empty_texts_leave_the_class_shares() -> None:
    baseline = fit_baseline(["", "", "", ""], [1, 0, 1, 1])
    assert (baseline.name, baseline.note) == (MAJORITY_NAME, "the texts are empty")
    assert predict_with_baselines([baseline], ["anything"])[0].tolist() == [[0.25, 0.75]]


def test_one_class_is_answered_with_itself() -> None:
    baseline = fit_baseline(["a", "b"], [2, 2], num_labels=3)
    assert baseline.note == "the training rows hold one class"
    assert predict_with_baselines([baseline], ["c"])[0].tolist() == [[0.0, 0.0, 1.0]]


def test_no_texts_get_no_rows() -> None:
    baseline = fit_baseline(TEXTS, LABEL_IDS)
    assert predict_with_baselines([baseline], [])[0].shape == (0, 2)


def test_a_fit_that_stops_early_is_noted_and_not_warned_of(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lexical, "MAX_ITERATIONS", 1)
    baseline = fit_baseline(TEXTS, LABEL_IDS)
    assert baseline.note is not None
    assert baseline.note.startswith("the fit was stopped after")


def test_rare_ngrams_are_dropped_from_many_rows_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ngrams, "MIN_ROWS_FOR_PRUNING", 6)
    baseline = fit_baseline(TEXTS, LABEL_IDS)
    assert baseline.counter is not None
    assert "acting" not in baseline.counter.columns


def test_pruning_that_leaves_nothing_is_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ngrams, "MIN_ROWS_FOR_PRUNING", 1)
    baseline = fit_baseline(["one", "two"], [0, 1])
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


def test_of_classes_that_cannot_all_be_kept_those_that_are_do_not_come_first() -> None:
    chosen = [_choose_rows(np.arange(100), 20, seed=seed).tolist() for seed in (0, 1)]
    assert chosen[0] != chosen[1]
    assert all(len(one) == 20 and one[-1] > 50 for one in chosen)


@pytest.fixture(scope="module")
def results():
    """All baselines on texts whose second half of rows only pairs of words can tell."""
    texts = ["not good at all", "not bad at all", "good", "bad", "so good", "so bad"] * 20
    label_ids = [0, 1, 1, 0, 1, 0] * 20
    return run_baselines(
        (texts, label_ids),
        (texts[:30], label_ids[:30]),
        test=(texts[:12], label_ids[:12]),
        label_names=["neg", "pos"],
        seed=0,
    )


def test_every_baseline_is_scored_on_validation_and_test(results) -> None:
    assert {one.name for one in results.results} == {BASELINE_NAME, NAIVE_BAYES_NAME, MAJORITY_NAME}
    for one in results.results:
        assert one.validation.num_rows == 30
        assert one.test.num_rows == 12
        assert one.test_probabilities.shape == (12, 2)
        assert one.test_probabilities.sum(axis=1) == pytest.approx(np.ones(12))


def test_the_test_scores_have_intervals_over_groups() -> None:
    texts, label_ids = TEXTS * 10, LABEL_IDS * 10
    wrong = [1 - label_id if at % 5 == 0 else label_id for at, label_id in enumerate(label_ids)]
    rows = (texts, label_ids)
    by_row, by_group = (
        run_baselines(
            rows, rows, test=(texts, wrong), label_names=["neg", "pos"], seed=0, test_groups=groups
        ).best
        for groups in (None, [f"g{at // 20}" for at in range(60)])
    )
    accuracy = by_row.test.accuracy
    low, high = by_row.test_intervals["accuracy"].low, by_row.test_intervals["accuracy"].high
    assert low < accuracy < high
    told = by_row.to_json()["test"]["intervals"]
    assert told["accuracy"] == {"low": low, "high": high, "level": 0.95}
    assert set(told) == {"accuracy", "macro_f1"}
    assert by_group.test.accuracy == accuracy
    assert by_group.test_intervals["accuracy"] != by_row.test_intervals["accuracy"]


def test_the_best_on_validation_stands_first(results) -> None:
    ranks = [(-one.validation.accuracy, one.validation.log_loss) for one in results.results]
    assert ranks == sorted(ranks)
    assert ranks[0][0] == ranks[1][0]  # so that the loss has decided
    assert results.best.test.accuracy == 1.0
    assert results.results[-1].name == MAJORITY_NAME
    assert results.results[-1].test.accuracy == 0.5


def test_what_is_right_more_often_is_better_than_what_is_surer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def predict(baselines, texts):
        sure = np.where(np.arange(2) == np.array(LABEL_IDS)[:, np.newaxis], 0.99, 0.01)
        sure[0] = sure[0, ::-1] * 0.2 + 0.4  # wrong, if hardly
        unsure = np.where(np.arange(2) == np.array(LABEL_IDS)[:, np.newaxis], 0.51, 0.49)
        return [unsure, *[sure] * (len(baselines) - 1)]

    monkeypatch.setattr("bertfit.evaluation.baseline.predict_with_baselines", predict)
    rows = (TEXTS, LABEL_IDS)
    found = run_baselines(rows, rows, test=None, label_names=["neg", "pos"], seed=0).results
    assert found[0].name == MAJORITY_NAME
    assert found[0].validation.log_loss > 3 * found[1].validation.log_loss


def test_what_was_tuned_is_told(results) -> None:
    by_name = {one.name: one for one in results.results}
    chosen = by_name[NAIVE_BAYES_NAME].settings["C"]
    assert tuning.LEAST_INVERSE <= chosen <= tuning.MOST_INVERSE
    assert set(by_name[BASELINE_NAME].settings) == {"C", "character_weight"}
    assert by_name[MAJORITY_NAME].settings == {}


@pytest.mark.parametrize(
    ("best", "tried"),
    [
        (10.0, [1.0, 10.0, 100.0]),
        (1.0, [1.0, 10.0, 100.0, 0.1]),
        (0.1, [1.0, 10.0, 100.0, 0.1, 0.01]),
        (1e-9, [1.0, 10.0, 100.0, 0.1, 0.01]),
        (1000.0, [1.0, 10.0, 100.0, 1000.0, 10_000.0]),
        (1e9, [1.0, 10.0, 100.0, 1000.0, 10_000.0]),
    ],
)
def test_the_search_goes_on_where_the_best_stands_at_an_end(best: float, tried) -> None:
    seen: list[float] = []

    def try_out(inverse: float) -> lexical.Trial:
        seen.append(inverse)
        return lexical.Trial(None, loss=abs(np.log(inverse / best)), seconds=0.0)

    (trials,) = tuning.tune([try_out])
    assert sorted(seen) == pytest.approx(sorted(tried))
    assert len(trials) == len(tried)


@pytest.mark.parametrize(("num_noisy", "is_strong"), [(0, True), (45, False)])
def test_each_baseline_is_tuned_beyond_its_first_choices(num_noisy: int, is_strong: bool) -> None:
    """Clean labels want a C above 100; labels that are mostly noise want one below 1."""
    rng = np.random.default_rng(0)
    label_ids = rng.integers(0, 2, 400)
    texts = [
        f"{('bad', 'good')[label_id]} {' '.join(rng.choice(list('abcdefgh'), 4))}"
        for label_id in label_ids
    ]
    noisy = label_ids ^ (rng.random(400) < num_noisy / 100)
    results = run_baselines(
        (texts[:300], noisy[:300]),
        (texts[300:], noisy[300:]),
        test=None,
        label_names=["n", "p"],
        seed=0,
    )
    tuned = [one.settings["C"] for one in results.results if one.settings]
    assert len(tuned) == 2
    assert (
        all(inverse > 100 for inverse in tuned)
        if is_strong
        else all(inverse < 1 for inverse in tuned)
    )


def test_threads_change_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "count_threads", lambda _: 3)
    side_by_side = run_baselines(
        (TEXTS * 20, LABEL_IDS * 20), (TEXTS, LABEL_IDS), test=None, label_names=["n", "p"], seed=0
    )
    monkeypatch.setattr(threads, "count_threads", lambda _: 1)
    in_turn = run_baselines(
        (TEXTS * 20, LABEL_IDS * 20), (TEXTS, LABEL_IDS), test=None, label_names=["n", "p"], seed=0
    )
    assert [one.validation for one in side_by_side.results] == [
        one.validation for one in in_turn.results
    ]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Give the time that progress is measured by, which only stands or is set."""
    now = [0.0]
    monkeypatch.setattr(tuning, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


@pytest.mark.parametrize("most_classes", [1, 2])
def test_progress_counts_the_fits_that_are_done_and_the_scoring(
    monkeypatch: pytest.MonkeyPatch, clock: list[float], most_classes: int
) -> None:
    """NB-SVM is skipped with more classes than it takes; counting, which is quick, is no fit."""
    fits, told, try_out = [], [], lexical._try

    def count(*args):
        fits.append(args)
        return try_out(*args)

    monkeypatch.setattr(lexical, "_try", count)
    monkeypatch.setattr("bertfit.evaluation.baseline.MAX_CLASSES_OF_NAIVE_BAYES", most_classes)
    rows = (TEXTS, LABEL_IDS)
    results = run_baselines(
        rows,
        rows,
        test=rows,
        label_names=["neg", "pos"],
        seed=0,
        on_progress=lambda *counts: told.append(counts),
    )
    assert len(results.results) == 1 + most_classes
    num_searches = 1 + most_classes
    assert told[:2] == [(0, None), (0, 3 * num_searches + 1)]
    assert told[-1] == (len(fits) + 1, len(fits) + 1)
    assert len(fits) > 3 * num_searches  # one of the searches went on
    assert [done for done, _ in told[1:]] == list(range(len(fits) + 2))
    totals = [total for _, total in told[1:]]
    assert totals == sorted(totals)
    assert all(done < total for done, total in told[1:-1])


def test_progress_ends_where_nothing_is_fitted() -> None:
    told, rows = [], (["", " "], [0, 1])
    run_baselines(
        rows,
        rows,
        test=None,
        label_names=["neg", "pos"],
        seed=0,
        on_progress=lambda *counts: told.append(counts),
    )
    assert told == [(0, None), (1, 1)]


def test_fits_that_end_together_are_reported_together(clock: list[float]) -> None:
    """Two threads end two fits of 70 seconds within one, which is no fit a second."""
    told: list[tuple[int, int | None]] = []
    progress = tuning.FitProgress(lambda *counts: told.append(counts))
    clock[0] = 1000.0
    progress.tell(0, 6)
    for done, ended in enumerate([70, 71, 140, 141, 210, 211], start=1):
        clock[0] = 1000.0 + ended
        progress.tell(done, 6)
    progress.end()
    assert told == [(0, 7), (1, 7), (3, 7), (5, 7), (7, 7)]


@pytest.mark.parametrize(("ended", "is_told"), [(90.0, False), (94.0, True)])
def test_half_the_mean_time_of_a_fit_lies_between_two_reports(
    clock: list[float], ended: float, is_told: bool
) -> None:
    told: list[int] = []
    progress = tuning.FitProgress(lambda done, _: told.append(done))
    for done, at in enumerate([1000.0, 1070.0, 1000.0 + ended]):
        clock[0] = at
        progress.tell(done, 6)
    assert told == ([0, 1, 2] if is_told else [0, 1])


def test_fits_that_end_evenly_are_all_reported(clock: list[float]) -> None:
    told: list[int] = []
    progress = tuning.FitProgress(lambda done, _: told.append(done))
    for done in range(7):
        clock[0] = 8.0 * done
        progress.tell(done, 6)
    assert told == list(range(7))


def test_a_search_that_goes_on_raises_the_total_before_its_end_is_told() -> None:
    told: list[tuple[int, int]] = []

    def try_out(inverse: float) -> lexical.Trial:
        return lexical.Trial(None, loss=abs(np.log(inverse / 1000.0)), seconds=0.0)

    tuning.tune([try_out], on_progress=lambda *counts: told.append(counts))
    assert told == [(0, 3), (1, 3), (2, 3), (3, 4), (4, 5), (5, 5)]


def test_results_can_be_written_as_json(results) -> None:
    value = json.loads(json.dumps(results.to_json()))
    assert value["best"] == value["baselines"][0]["name"] == results.best.name
    assert value["baselines"][0]["test"]["accuracy"] == 1.0


def test_the_test_rows_choose_nothing() -> None:
    rows = (TEXTS * 5, LABEL_IDS * 5)
    names = ["neg", "pos"]
    wrong = (TEXTS, [1 - label_id for label_id in LABEL_IDS])
    runs = [
        run_baselines(rows, rows, test=test, label_names=names, seed=0)
        for test in (rows, wrong, None)
    ]
    chosen = {(run.best.name, tuple(run.best.settings.items())) for run in runs}
    assert len(chosen) == 1
    assert runs[2].best.test is None
    assert runs[1].best.test.accuracy == 0.0


def test_three_classes_and_one_without_rows() -> None:
    texts, label_ids = ["red rose", "blue sky", "green grass"] * 10, [0, 2, 3] * 10
    results = run_baselines(
        (texts, label_ids),
        (texts[:6], label_ids[:6]),
        test=(texts, label_ids),
        label_names=["a", "b", "c", "d"],
        seed=0,
    )
    for one in results.results:
        assert (one.test_probabilities[:, 1] == 0).all()
        assert one.test_probabilities.sum(axis=1) == pytest.approx(np.ones(30))
        if one.name != MAJORITY_NAME:
            assert one.test.accuracy == 1.0


def test_misspelt_words_are_known_by_their_characters() -> None:
    texts = [f"{word} {filler}" for word in ("wonderful", "terrible") for filler in "abcdefghij"]
    label_ids = [1] * 10 + [0] * 10
    misspelt = ["wonderfulx", "terriblex", "xwonderful", "xterrible"]
    results = run_baselines(
        (texts, label_ids),
        (misspelt, [1, 0, 1, 0]),
        test=(misspelt, [1, 0, 1, 0]),
        label_names=["neg", "pos"],
        seed=0,
    )
    tfidf = next(one for one in results.results if one.name == BASELINE_NAME)
    assert tfidf.settings["character_weight"] > 0
    assert tfidf.test.accuracy == 1.0


def test_nothing_to_learn_leaves_the_majority_class_with_the_reason() -> None:
    results = run_baselines(
        (["", " "], [0, 1]), (["a"], [1]), test=None, label_names=["neg", "pos"], seed=0
    )
    assert [(one.name, one.note) for one in results.results] == [
        (MAJORITY_NAME, "the texts are empty")
    ]


def test_many_rows_are_cut_and_the_cut_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bertfit.evaluation.baseline.MAX_ROWS", 10)
    rows = (TEXTS * 5, LABEL_IDS * 5)
    results = run_baselines(rows, rows, test=None, label_names=["neg", "pos"], seed=0)
    assert {one.note for one in results.results} == {None, "fitted on 10 of 30 rows"}


def test_with_many_classes_fewer_rows_are_fitted_as_evenly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A fit computes a logit for each row and class: 90,000 rows of 500 classes took a minute."""
    monkeypatch.setattr("bertfit.evaluation.baseline.MAX_LOGITS", 4 * 8 + 3)
    label_ids = np.arange(40) % 4 + 1  # of the six classes, four have rows
    rows = ([f"word{label_id} and" for label_id in label_ids], label_ids)
    for max_rows, num_fitted in ((100, 8), (4, 4)):
        monkeypatch.setattr("bertfit.evaluation.baseline.MAX_ROWS", max_rows)
        _, *fitted = fit_baselines(rows, rows, num_labels=6, seed=0)
        assert {one.note for one in fitted} == {f"fitted on {num_fitted} of 40 rows"}
        assert fitted[0].class_shares.tolist() == [0, 0.25, 0.25, 0.25, 0.25, 0]


def test_up_to_167_classes_the_classes_cut_no_row() -> None:
    assert MAX_LOGITS // 168 < MAX_ROWS <= MAX_LOGITS // 167


@pytest.mark.parametrize(
    ("num_texts", "num_classes", "told"),
    [
        (1000, 2, None),  # of two classes, only one has weights
        (1001, 2, "1,001 rows of 2 classes"),
        (333, 3, None),
        (334, 3, "334 rows of 3 classes"),
        (5000, 3, "2,000 rows of 3 classes"),
    ],
)
def test_fits_of_much_text_and_many_classes_are_foreseen_to_be_long(
    monkeypatch: pytest.MonkeyPatch, num_texts: int, num_classes: int, told: str | None
) -> None:
    monkeypatch.setattr("bertfit.evaluation.baseline.LONG_WORK", 1000 * len("a film"))
    monkeypatch.setattr("bertfit.evaluation.baseline.MAX_ROWS", 3000)
    monkeypatch.setattr("bertfit.evaluation.baseline.MAX_LOGITS", 6000)
    sentence = None if told is None else f"Fitting the baselines may take minutes ({told})."
    train = (["a film"] * num_texts, np.arange(num_texts) % num_classes)
    assert foresee_long_fits(train) == sentence


def test_the_text_of_rows_that_are_not_fitted_makes_no_fit_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("bertfit.evaluation.baseline.LONG_WORK", 1000 * len("a film"))
    monkeypatch.setattr("bertfit.evaluation.baseline.MAX_ROWS", 1000)
    assert foresee_long_fits((["a film"] * 1500, np.arange(1500) % 2)) is None


def test_no_text_at_all_is_not_foreseen_to_be_long() -> None:
    """The fitting refuses it, in words."""
    assert foresee_long_fits(([], [])) is None


def test_with_many_classes_the_commonest_ngrams_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fit needs memory for each n-gram and class: 1,000 classes took gigabytes."""
    texts = [f"the {word} {word}" for word in ("good", "bad", "odd") for _ in range(4)]
    label_ids = [0] * 4 + [1] * 4 + [2] * 4
    for name in ("MAX_WEIGHTS", "MAX_WEIGHTS_OF_NAIVE_BAYES"):
        monkeypatch.setattr(lexical, name, 3 * 5)
    baselines = fit_baselines((texts, label_ids), (texts, label_ids), num_labels=3, seed=0)
    by_name = {one.name: one for one in baselines}
    tfidf, bayes = by_name[BASELINE_NAME], by_name[NAIVE_BAYES_NAME]
    assert tfidf.classifier.regression.coef_.shape == bayes.classifier.weights.shape == (3, 5)
    for one in (tfidf, bayes):
        assert one.note == "with 3 classes, only the 5 n-grams that occur in most texts are used"
        assert predict_with_baselines([one], texts)[0].argmax(axis=1).tolist() == label_ids
    counts = tfidf.counter.count(texts)
    alone = lexical.fit_tfidf((counts, np.array(label_ids)), num_labels=3)
    assert (counts.words[:, alone.columns] > 0).sum(axis=0).tolist() == [[12, 4, 4, 4, 4]]


def test_two_classes_share_the_weights_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lexical, "MAX_WEIGHTS", 6)
    _, counts = ngrams.learn_ngrams(TEXTS)
    assert lexical.fit_tfidf((counts, np.array(LABEL_IDS)), num_labels=2).columns.size == 6


def test_scoring_in_pieces_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    baseline = fit_baseline(TEXTS, LABEL_IDS)
    (whole,) = predict_with_baselines([baseline], TEXTS)
    monkeypatch.setattr("bertfit.evaluation.baseline._CHUNK_SIZE", 2)
    (pieces,) = predict_with_baselines([baseline], TEXTS)
    np.testing.assert_allclose(whole, pieces)


@pytest.mark.slow
@pytest.mark.timeout(600)  # minutes on two slow cores
def test_imdb_gives_the_published_accuracy(data_dir) -> None:
    """Wang & Manning report 91.2 % for NB-SVM with pairs of words on the whole training set."""
    train, test = (read_imdb(data_dir, part) for part in ("train", "test"))
    order = np.random.default_rng(0).permutation(25_000)
    held_out, rest = order[:2500], order[2500:]
    results = run_baselines(
        ([train[0][row] for row in rest], train[1][rest]),
        ([train[0][row] for row in held_out], train[1][held_out]),
        test=test,
        label_names=["neg", "pos"],
        seed=0,
    )
    accuracies = {one.name: one.test.accuracy for one in results.results}
    assert accuracies[NAIVE_BAYES_NAME] == pytest.approx(0.917, abs=0.005)
    assert accuracies[BASELINE_NAME] == pytest.approx(0.907, abs=0.006)
    assert accuracies[MAJORITY_NAME] == 0.5


def read_imdb(data_dir, part: str) -> tuple[list[str], np.ndarray]:
    with gzip.open(data_dir / "imdb" / f"imdb_{part}_raw.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return [row["text"] for row in rows], np.array([int(row["label"] == "pos") for row in rows])


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
        fit_baseline(texts, label_ids)


def count_texts(texts=TEXTS, label_ids=LABEL_IDS) -> lexical.LabelledCounts:
    return ngrams.learn_ngrams(texts)[1], np.array(label_ids)


def test_a_choice_of_settings_is_judged_by_all_validation_rows() -> None:
    train = count_texts()
    trial = lexical.prepare_tfidf(train, train, num_labels=2, character_weight=0.0)(1.0)
    expected = log_loss(LABEL_IDS, trial.classifier.predict_probabilities(train[0]))
    assert trial.loss == pytest.approx(expected)


def test_how_often_a_text_repeats_an_ngram_is_nothing_to_nb_svm() -> None:
    counts, label_ids = count_texts()
    words = counts.words.copy()
    words.data = 1.0 + np.arange(words.nnz, dtype=np.float32) % 3
    repeated = dataclasses.replace(counts, words=words)
    fitted, again = (
        lexical.prepare_naive_bayes((one, label_ids), (one, label_ids), num_labels=2)(1.0)
        for one in (counts, repeated)
    )
    expected = fitted.classifier.predict_probabilities(counts)
    assert again.classifier.predict_probabilities(counts).tolist() == expected.tolist()
    assert fitted.classifier.predict_probabilities(repeated).tolist() == expected.tolist()


def test_ngrams_of_characters_are_weighted_as_by_scikit_learn() -> None:
    texts = ["papapapa mama", "papa lala papa", "mama", "lalala"]
    train = count_texts(texts, [0, 1, 0, 1])
    trial = lexical.prepare_tfidf(train, train, num_labels=2, character_weight=0.5)(1.0)
    found = trial.classifier.characters.transform(train[0].characters).toarray()
    options = {"analyzer": "char_wb", "ngram_range": ngrams.CHARACTER_ORDERS}
    expected = TfidfVectorizer(**options, sublinear_tf=True).fit_transform(texts).toarray()
    np.testing.assert_allclose(np.sort(found), np.sort(expected), rtol=1e-6)


def test_nb_svm_has_converged_if_the_fits_of_all_classes_have(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fit, converged = lexical._fit_regression, [True, True, False]
    monkeypatch.setattr(lexical, "_fit_regression", lambda *of: (fit(*of)[0], converged.pop(0)))
    train = count_texts(label_ids=[0, 0, 1, 1, 2, 2])
    trial = lexical.prepare_naive_bayes(train, train, num_labels=3)(1.0)
    assert not converged
    assert not trial.classifier.converged


def test_the_seed_decides_which_of_many_rows_are_fitted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bertfit.evaluation.baseline.MAX_ROWS", 20)
    texts = [f"{'good' if row % 2 else 'bad'} film n{row % 7} m{row % 11}" for row in range(80)]
    rows, names = (texts, np.arange(80) % 2), ["neg", "pos"]
    first, again, other = (
        [
            one.validation.log_loss
            for one in run_baselines(rows, rows, test=None, label_names=names, seed=seed).results
        ]
        for seed in (0, 0, 1)
    )
    assert first == again != other


def test_the_time_of_a_baseline_is_that_of_all_its_fits() -> None:
    classifier = SimpleNamespace(note=None, converged=True)
    trials = [lexical.Trial(classifier, loss=0.5 - at, seconds=2.0**at) for at in range(3)]
    assert _choose("one", trials, None, np.ones(1), []).seconds == 7.0


def test_nb_svm_reads_a_text_as_those_that_it_was_fitted_to() -> None:
    counts, label_ids = count_texts()
    fitted = lexical.prepare_naive_bayes((counts, label_ids), (counts, label_ids), num_labels=2)
    classifier = fitted(10.0).classifier
    weighted = lexical._weigh_by_ratio(lexical._binarize(counts.words), classifier.ratios[0])
    decisions = weighted @ classifier.weights[0] + classifier.biases[0]
    found = classifier.predict_probabilities(counts)[:, 1]
    assert found == pytest.approx(1 / (1 + np.exp(-decisions)), rel=1e-5)


def test_without_tuning_c_is_10_and_characters_are_left_out() -> None:
    found = lexical.fit_tfidf(count_texts(), num_labels=2)
    assert found.settings == {"C": 10.0, "character_weight": 0.0}
