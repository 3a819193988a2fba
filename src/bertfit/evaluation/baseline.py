"""The lexical baselines: what word counts alone reach, so that an encoder must earn its cost.

Owns which baselines there are (the majority class, TF-IDF with logistic regression, NB-SVM) and the
choice of the best one by validation. The verdict on a model beside it is in comparison.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from bertfit.errors import ConfigError, DataError
from bertfit.evaluation.intervals import Interval, bootstrap_intervals, intervals_to_json
from bertfit.evaluation.lexical import (
    MAX_ITERATIONS,
    LabelledCounts,
    Lexical,
    fit_naive_bayes,
    fit_tfidf,
)
from bertfit.evaluation.metrics import Scores, score
from bertfit.evaluation.ngrams import SHORT_ORDER, Counts, NgramCounter, learn_ngrams

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

BASELINE_NAME = "TF-IDF + logistic regression"
NAIVE_BAYES_NAME = "NB-SVM"
MAJORITY_NAME = "majority class"
MAX_ROWS = 100_000
"""More training rows than this are sampled down: n-grams gain little beyond, and cost memory."""
MAX_CLASSES_OF_NAIVE_BAYES = 200
"""NB-SVM fits a classifier for each class; with more classes it is left out."""

_CHUNK_SIZE = 8192
"""Texts counted at once while scoring; bounds the memory."""


@dataclass(frozen=True, slots=True)
class LexicalBaseline:
    """A fitted baseline, ready to score texts."""

    name: str
    class_shares: NDArray[np.float64]
    """Share of each class among the training rows, (C,)."""
    counter: NgramCounter | None = None
    classifier: Lexical | None = None
    """None where nothing could be learned; the class shares are then the answer."""
    note: str | None = None
    """What was not done as usual, in words for the reader; None where all was."""
    seconds: float = 0.0
    """Wall-clock time of the fit, counting of n-grams left out."""

    def predict_probabilities(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Return (n, C) probabilities; a class that no training row had gets zero."""
        return predict_with_baselines([self], texts)[0]

    def settings(self) -> Mapping[str, float]:
        """Return what was tuned, by name."""
        return {} if self.classifier is None else self.classifier.settings


@dataclass(frozen=True, slots=True)
class BaselineResult:
    """What a baseline said of the validation and the test rows."""

    name: str
    settings: Mapping[str, float]
    note: str | None
    seconds: float
    """Of the fit."""
    validation: Scores
    test: Scores | None
    """None where there are no test rows."""
    test_probabilities: NDArray[np.float64] | None = field(repr=False)
    """(n_test, C), rows in the order of the texts, columns in the order of label ids."""
    test_intervals: Mapping[str, Interval] = field(default_factory=dict)
    """95 % bootstrap intervals of accuracy and macro F1 on the test rows."""

    def to_json(self) -> dict[str, Any]:
        """Return the name, settings and headline scores as plain values."""
        return {
            "name": self.name,
            "settings": dict(self.settings),
            "note": self.note,
            "seconds": round(self.seconds, 1),
            "validation": _headline(self.validation),
            "test": None
            if self.test is None
            else {**_headline(self.test), "intervals": intervals_to_json(self.test_intervals)},
        }


@dataclass(frozen=True, slots=True)
class BaselineResults:
    """All baselines on the same rows."""

    results: tuple[BaselineResult, ...]
    """The best on validation first."""
    seconds: float
    """Wall-clock time of counting, fitting, tuning and scoring."""

    @property
    def best(self) -> BaselineResult:
        """The baseline of the highest validation accuracy; equal ones by their log loss."""
        return self.results[0]

    def to_json(self) -> dict[str, Any]:
        """Return what baselines.json holds."""
        return {
            "best": self.best.name,
            "chosen_by": "validation accuracy",
            "seconds": round(self.seconds, 1),
            "baselines": [result.to_json() for result in self.results],
        }


def fit_baseline(
    texts: Sequence[str],
    label_ids: ArrayLike,
    *,
    num_labels: int,
    seed: int,
    max_rows: int | None = MAX_ROWS,
) -> LexicalBaseline:
    """Fit TF-IDF of word 1- and 2-grams with logistic regression, untuned, on one core.

    Where the texts hold no words, character n-grams take their place; where they hold no
    characters either, or only one class has rows, the class shares do. `note` then says so.

    Args:
        texts: n training texts.
        label_ids: (n,) integers in [0, num_labels).
        num_labels: C, classes of the model; not all of them need a row.
        seed: Picks the rows where `max_rows` cuts.
        max_rows: Fit on this many rows at most, each class in proportion.

    Raises:
        ConfigError: `max_rows` is below 1.
        DataError: There are no rows, or not one label per text, or an id is out of range.
    """
    rows = _check_rows(texts, label_ids, num_labels=num_labels)
    texts, label_ids, note = _cut_rows(*rows, max_rows=max_rows, seed=seed)
    shares = _share_classes(label_ids, num_labels)
    counter, counts = learn_ngrams(texts, characters=False, max_order=SHORT_ORDER)
    obstacle = _find_obstacle(counter, shares)
    if obstacle is not None:
        return LexicalBaseline(MAJORITY_NAME, shares, note=obstacle)
    pair = ((counts, label_ids), None)
    return _fit(BASELINE_NAME, fit_tfidf, counter, pair, shares, note)


def run_baselines(
    train: tuple[Sequence[str], ArrayLike],
    validation: tuple[Sequence[str], ArrayLike],
    *,
    test: tuple[Sequence[str], ArrayLike] | None,
    label_names: Sequence[str],
    seed: int,
    test_groups: ArrayLike | None = None,
    max_rows: int | None = MAX_ROWS,
    on_progress: Callable[[int, int], None] | None = None,
) -> BaselineResults:
    """Fit all baselines, tune them on the validation rows, and score all rows with them.

    They are the majority class; TF-IDF of word 1- and 2-grams and character 3- and 4-grams with
    logistic regression; and NB-SVM, naive-Bayes weighted word 1- to 3-grams with a linear
    classifier. The test rows choose nothing.

    Args:
        train: Texts and (n,) label ids.
        validation: Texts and label ids; they tune, and choose the best baseline.
        test: Texts and label ids, or None.
        label_names: The C names, in order of their ids.
        seed: Picks the rows where `max_rows` cuts.
        test_groups: (n_test,) group of each test row, resampled whole for the intervals; or None.
        max_rows: Fit on this many rows at most, each class in proportion.
        on_progress: Called with (done, total) after each piece of the work.

    Raises:
        ConfigError: `max_rows` is below 1.
        DataError: A set of rows is empty, or not one label per text, or an id is out of range.

    Source:
        Wang & Manning 2012, "Baselines and Bigrams".
    """
    start = time.perf_counter()
    num_labels = len(label_names)
    parts = [train, validation] if test is None else [train, validation, test]
    checked = [_check_rows(*part, num_labels=num_labels) for part in parts]
    tell = on_progress or (lambda _done, _total: None)
    baselines = _fit_all(
        _cut_rows(*checked[0], max_rows=max_rows, seed=seed), checked[1], num_labels, tell
    )
    scored = [predict_with_baselines(baselines, texts) for texts, _ in checked[1:]]
    results = []
    for place, baseline in enumerate(baselines):
        scores = [
            score(probabilities[place], ids, label_names)
            for probabilities, (_, ids) in zip(scored, checked[1:], strict=True)
        ]
        told = (baseline.name, baseline.settings(), baseline.note, baseline.seconds)
        if test is None:
            results.append(BaselineResult(*told, scores[0], None, None))
            continue
        found = bootstrap_intervals(scored[1][place], checked[2][1], groups=test_groups)
        intervals = {name: found[name] for name in ("accuracy", "macro_f1")}
        results.append(BaselineResult(*told, scores[0], scores[1], scored[1][place], intervals))
    results.sort(key=lambda one: (-one.validation.accuracy, one.validation.log_loss))
    tell(1, 1)
    return BaselineResults(tuple(results), time.perf_counter() - start)


def predict_with_baselines(
    baselines: Sequence[LexicalBaseline], texts: Sequence[str]
) -> list[NDArray[np.float64]]:
    """Return (n, C) probabilities of each baseline; n-grams are counted once for all.

    The baselines must have learned from the same rows.
    """
    counter = next((one.counter for one in baselines if one.counter is not None), None)
    pieces: list[list[NDArray[np.float64]]] = [[] for _ in baselines]
    for start in range(0, max(1, len(texts)), _CHUNK_SIZE):
        chunk = texts[start : start + _CHUNK_SIZE]
        counts = counter.count(chunk) if counter is not None and len(chunk) else None
        for piece, baseline in zip(pieces, baselines, strict=True):
            piece.append(_predict(baseline, counts, len(chunk)))
    return [np.concatenate(piece) for piece in pieces]


def _fit_all(
    train: tuple[Sequence[str], NDArray[np.int64], str | None],
    validation: tuple[Sequence[str], NDArray[np.int64]],
    num_labels: int,
    tell: Callable[[int, int], None],
) -> list[LexicalBaseline]:
    """Return the fitted baselines; the majority class alone where nothing can be learned."""
    texts, label_ids, note = train
    shares = _share_classes(label_ids, num_labels)
    tell(0, 4)
    counter, counts = learn_ngrams(texts)
    tell(1, 4)
    obstacle = _find_obstacle(counter, shares)
    majority = LexicalBaseline(MAJORITY_NAME, shares, note=obstacle)
    if obstacle is not None:
        return [majority]
    pair = ((counts, label_ids), (counter.count(validation[0]), validation[1]))
    tell(2, 4)
    fitted = [majority, _fit(BASELINE_NAME, fit_tfidf, counter, pair, shares, note)]
    tell(3, 4)
    if np.count_nonzero(shares) <= MAX_CLASSES_OF_NAIVE_BAYES:
        fitted.append(_fit(NAIVE_BAYES_NAME, fit_naive_bayes, counter, pair, shares, note))
    return fitted


def _fit(
    name: str,
    fit: Callable[..., Lexical],
    counter: NgramCounter,
    rows: tuple[LabelledCounts, LabelledCounts | None],
    shares: NDArray[np.float64],
    note: str | None,
) -> LexicalBaseline:
    start = time.perf_counter()
    classifier = fit(*rows, num_labels=len(shares))
    seconds = time.perf_counter() - start
    stopped = f"the fit was stopped after {MAX_ITERATIONS} iterations"
    notes = (counter.note, note, None if classifier.converged else stopped)
    said = "; ".join(part for part in notes if part) or None
    return LexicalBaseline(name, shares, counter, classifier, said, seconds)


def _predict(
    baseline: LexicalBaseline, counts: Counts | None, num_rows: int
) -> NDArray[np.float64]:
    if baseline.classifier is None or counts is None:
        return np.tile(baseline.class_shares, (num_rows, 1))
    return baseline.classifier.predict_probabilities(counts)


def _share_classes(label_ids: NDArray[np.int64], num_labels: int) -> NDArray[np.float64]:
    shares: NDArray[np.float64] = np.bincount(label_ids, minlength=num_labels) / len(label_ids)
    return shares


def _find_obstacle(counter: NgramCounter, shares: NDArray[np.float64]) -> str | None:
    """Return why nothing can be learned, or None."""
    if np.count_nonzero(shares) == 1:
        return "the training rows hold one class"
    return None if counter.num_ngrams else "the texts are empty"


def _headline(scores: Scores) -> dict[str, float]:
    names = ("num_rows", "accuracy", "macro_f1", "log_loss")
    return {name: getattr(scores, name) for name in names}


def _check_rows(
    texts: Sequence[str], label_ids: ArrayLike, *, num_labels: int
) -> tuple[Sequence[str], NDArray[np.int64]]:
    label_ids = np.asarray(label_ids, dtype=np.int64)
    if len(texts) == 0 or label_ids.shape != (len(texts),):
        message = f"expected a label per text, got {label_ids.size} labels for {len(texts)} texts"
        raise DataError(message)
    if label_ids.min() < 0 or label_ids.max() >= num_labels:
        span = f"{label_ids.min()} to {label_ids.max()}"
        message = f"expected label ids from 0 to {num_labels - 1}, got {span}"
        raise DataError(message)
    return texts, label_ids


def _cut_rows(
    texts: Sequence[str], label_ids: NDArray[np.int64], *, max_rows: int | None, seed: int
) -> tuple[Sequence[str], NDArray[np.int64], str | None]:
    """Return at most `max_rows` rows, and a note where there were more."""
    chosen = _choose_rows(label_ids, max_rows, seed=seed)
    if len(chosen) == len(texts):
        return texts, label_ids, None
    note = f"fitted on {len(chosen):,} of {len(texts):,} rows"
    return [texts[row] for row in chosen], label_ids[chosen], note


def _choose_rows(
    label_ids: NDArray[np.int64], max_rows: int | None, *, seed: int
) -> NDArray[np.int64]:
    """Return sorted row numbers; the first row of every class comes before any second one."""
    num_rows = len(label_ids)
    if max_rows is not None and max_rows < 1:
        message = f"expected max_rows of at least 1, got {max_rows}"
        raise ConfigError(message)
    if max_rows is None or num_rows <= max_rows:
        return np.arange(num_rows)
    shuffled = np.random.default_rng(seed).permutation(num_rows)
    turn = np.empty(num_rows)  # rank inside the class, as a share of the class
    for label_id in np.unique(label_ids):
        members = shuffled[label_ids[shuffled] == label_id]
        turn[members] = np.arange(len(members)) / len(members)
    return np.sort(shuffled[np.argsort(turn[shuffled], kind="stable")][:max_rows])
