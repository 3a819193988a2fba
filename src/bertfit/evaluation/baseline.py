"""The lexical baseline: what word counts alone reach, so that an encoder must earn its cost.

Owns the baselines (n-grams with logistic regression, the majority class) and the verdict on a
model beside them. Does not know encoders: a model comes as an array of probabilities.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bertfit.errors import ConfigError, DataError
from bertfit.evaluation.intervals import (
    Interval,
    mcnemar_p_value,
    paired_difference_interval,
)
from bertfit.evaluation.lexical import MAX_ITERATIONS, fit_classifier, vectorize

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

BASELINE_NAME = "TF-IDF + logistic regression"
MAJORITY_NAME = "majority class"


@dataclass(frozen=True, slots=True)
class LexicalBaseline:
    """A fitted baseline, ready to score texts."""

    name: str
    class_shares: NDArray[np.float64]
    """Share of each class among the training rows, (C,)."""
    vectorizer: TfidfVectorizer | None = None
    classifier: LogisticRegression | None = None
    """None where nothing could be learned; the class shares are then the answer."""
    note: str | None = None
    """What was not done as usual, in words for the reader; None where all was."""

    def predict_probabilities(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Return (n, C) probabilities; a class that no training row had gets zero."""
        num_labels = len(self.class_shares)
        if self.vectorizer is None or self.classifier is None or len(texts) == 0:
            return np.tile(self.class_shares, (len(texts), 1))
        probabilities = np.zeros((len(texts), num_labels))
        learned = self.classifier.predict_proba(self.vectorizer.transform(texts))
        probabilities[:, self.classifier.classes_] = learned
        return probabilities


@dataclass(frozen=True, slots=True)
class BaselineResult:
    """What a baseline said of the test rows."""

    name: str
    probabilities: NDArray[np.float64]
    """(n_test, C), rows in the order of the texts, columns in the order of label ids."""
    seconds: float
    """Wall-clock time of fitting and scoring."""
    note: str | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """How a model stands to the baseline on the same rows."""

    baseline_name: str
    model_accuracy: float
    baseline_accuracy: float
    difference: float
    """Accuracy of the model less that of the baseline, in [-1, 1]."""
    interval: Interval
    """Of the difference."""
    p_value: float
    """Exact McNemar test, rows taken as independent."""
    verdict: str
    """One sentence, ready to print."""

    def to_json(self) -> dict[str, Any]:
        """Return plain numbers, strings and dicts."""
        return asdict(self)


def fit_baseline(
    texts: Sequence[str],
    label_ids: ArrayLike,
    *,
    num_labels: int,
    seed: int,
    max_rows: int | None = None,
) -> LexicalBaseline:
    """Fit TF-IDF of word 1- and 2-grams with logistic regression, on one core.

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

    Source:
        Wang & Manning 2012, "Baselines and Bigrams" (why bigrams); Manning, Raghavan & Schütze
        2008, section 6.4.1 (sublinear term frequency).
    """
    label_ids = _check_label_ids(label_ids, len(texts), num_labels=num_labels)
    chosen = _choose_rows(label_ids, max_rows, seed=seed)
    texts, label_ids = [texts[row] for row in chosen], label_ids[chosen]
    class_shares = np.bincount(label_ids, minlength=num_labels) / len(label_ids)
    if np.count_nonzero(class_shares) == 1:
        return LexicalBaseline(MAJORITY_NAME, class_shares, note="the training rows hold one class")
    vectorizer, features, note = vectorize(texts)
    if vectorizer is None or features is None:
        return LexicalBaseline(MAJORITY_NAME, class_shares, note=note)
    classifier, converged = fit_classifier(features, label_ids)
    if not converged:
        notes = [note, f"the fit was stopped after {MAX_ITERATIONS} iterations"]
        note = "; ".join(part for part in notes if part)
    return LexicalBaseline(BASELINE_NAME, class_shares, vectorizer, classifier, note)


def run_baseline(
    texts: Sequence[str],
    label_ids: ArrayLike,
    *,
    test_texts: Sequence[str],
    num_labels: int,
    seed: int,
    max_rows: int | None = None,
) -> BaselineResult:
    """Fit the baseline, score `test_texts` with it, and say how long both took.

    Raises:
        ConfigError: As in `fit_baseline`.
        DataError: As in `fit_baseline`.
    """
    start = time.perf_counter()
    baseline = fit_baseline(texts, label_ids, num_labels=num_labels, seed=seed, max_rows=max_rows)
    probabilities = baseline.predict_probabilities(test_texts)
    seconds = time.perf_counter() - start
    return BaselineResult(baseline.name, probabilities, seconds, baseline.note)


def majority_accuracy(label_ids: ArrayLike) -> float:
    """Return the accuracy of always naming the class that occurs most often in these rows.

    Raises:
        DataError: There are no rows.

    Example:
        >>> majority_accuracy([0, 1, 1, 1])
        0.75
    """
    label_ids = np.asarray(label_ids)
    if label_ids.size == 0:
        message = "expected at least one row to find the majority class of, got none"
        raise DataError(message)
    return float(np.unique(label_ids, return_counts=True)[1].max() / label_ids.size)


def compare_with_baseline(
    model_probabilities: ArrayLike,
    baseline_probabilities: ArrayLike,
    label_ids: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    baseline_name: str = BASELINE_NAME,
    num_resamples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Comparison:
    """Say in words whether the model is better than the baseline on the same rows.

    It is called better or worse only where both the bootstrap interval of the difference (which
    knows the groups) excludes zero and McNemar's exact test (which holds for few rows) rejects.

    Args:
        model_probabilities: (n, C).
        baseline_probabilities: (n, C), same rows.
        label_ids: (n,).
        groups: (n,) group of each row (a movie), or None where rows are independent.
        baseline_name: What the verdict calls it.
        num_resamples: Of the bootstrap.
        seed: Of the bootstrap.
        level: Confidence of the interval, in (0, 1); the test rejects below 1 - level.

    Raises:
        DataError: The arrays differ in length or hold no rows.
    """
    model_correct = _find_correct(model_probabilities, label_ids)
    baseline_correct = _find_correct(baseline_probabilities, label_ids)
    interval = paired_difference_interval(
        model_correct,
        baseline_correct,
        groups=groups,
        num_resamples=num_resamples,
        seed=seed,
        level=level,
    )
    p_value = mcnemar_p_value(model_correct, baseline_correct)
    difference = float(model_correct.mean() - baseline_correct.mean())
    is_certain = p_value < 1 - level and not interval.low <= 0 <= interval.high
    verdict = _word_verdict(
        difference, interval, baseline_name=baseline_name, is_certain=is_certain, level=level
    )
    return Comparison(
        baseline_name=baseline_name,
        model_accuracy=float(model_correct.mean()),
        baseline_accuracy=float(baseline_correct.mean()),
        difference=difference,
        interval=interval,
        p_value=p_value,
        verdict=verdict,
    )


def _find_correct(probabilities: ArrayLike, label_ids: ArrayLike) -> NDArray[np.bool_]:
    probabilities, label_ids = np.asarray(probabilities), np.asarray(label_ids)
    if probabilities.ndim != 2 or label_ids.shape != probabilities.shape[:1]:
        message = (
            "expected probabilities (rows, classes) and a label id per row, got shapes "
            f"{probabilities.shape} and {label_ids.shape}"
        )
        raise DataError(message)
    is_correct: NDArray[np.bool_] = probabilities.argmax(axis=1) == label_ids
    return is_correct


def _word_verdict(
    difference: float, interval: Interval, *, baseline_name: str, is_certain: bool, level: float
) -> str:
    low, high = 100 * interval.low, 100 * interval.high
    points = f"{100 * abs(difference):.1f} points"
    if not is_certain:
        return (
            f"The model and {baseline_name} cannot be told apart on these rows: the difference is "
            f"{100 * difference:+.1f} points ({100 * level:g} % interval {low:.1f} to {high:.1f})."
        )
    if difference > 0:
        span = f"({100 * level:g} % interval {low:.1f} to {high:.1f})"
        return f"The model beats {baseline_name} by {points} {span}."
    span = f"({100 * level:g} % interval {-high:.1f} to {-low:.1f})"
    return (
        f"The model LOSES to {baseline_name} by {points} {span}: use the baseline, or give the "
        "model more text (a longer max length), more data or more epochs."
    )


def _check_label_ids(label_ids: ArrayLike, num_texts: int, *, num_labels: int) -> NDArray[np.int64]:
    label_ids = np.asarray(label_ids, dtype=np.int64)
    if num_texts == 0 or label_ids.shape != (num_texts,):
        message = f"expected a label per text, got {label_ids.size} labels for {num_texts} texts"
        raise DataError(message)
    if label_ids.min() < 0 or label_ids.max() >= num_labels:
        span = f"{label_ids.min()} to {label_ids.max()}"
        message = f"expected label ids from 0 to {num_labels - 1}, got {span}"
        raise DataError(message)
    return label_ids


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
