"""The machinery of the lexical baselines: counts of n-grams to fitted classifiers.

Owns TF-IDF with logistic regression and NB-SVM, their settings, and how these are tuned. When to
use them, and what for, is in baseline.py; the counting is in ngrams.py.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from bertfit.evaluation.metrics import row_log_losses
from bertfit.evaluation.ngrams import Counts

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix
    from sklearn.feature_extraction.text import TfidfTransformer
    from sklearn.linear_model import LogisticRegression

MAX_ITERATIONS = 300
"""Steps of L-BFGS; IMDB needs about 30."""
INVERSE_REGULARIZATIONS = (1.0, 10.0, 100.0)
"""C of the logistic regression, tried in turn where there are validation rows."""
USUAL_REGULARIZATION = 10.0
"""C where nothing can be tuned."""
CHARACTER_WEIGHTS = (0.0, 0.5)
"""How much n-grams of characters count beside those of words; 0 leaves them out."""

LabelledCounts = tuple[Counts, "NDArray[np.int64]"]
"""Counts of n texts, and (n,) label ids."""


class Lexical(Protocol):
    """A fitted classifier of counts."""

    @property
    def settings(self) -> Mapping[str, float]:
        """What was tuned, by name."""

    @property
    def converged(self) -> bool:
        """Whether no fit was stopped early."""

    def predict_probabilities(self, counts: Counts) -> NDArray[np.float64]:
        """Return (n, C) probabilities, zero for a class that no training row had."""


@dataclass(frozen=True, slots=True)
class TfidfClassifier:
    """TF-IDF of n-grams of words, and of characters, with logistic regression."""

    words: TfidfTransformer
    characters: TfidfTransformer | None
    """None where they are left out."""
    character_weight: float
    regression: LogisticRegression
    num_labels: int
    converged: bool

    @property
    def settings(self) -> Mapping[str, float]:
        """What was tuned, by name."""
        return {"C": self.regression.C, "character_weight": self.character_weight}

    def predict_probabilities(self, counts: Counts) -> NDArray[np.float64]:
        """Return (n, C) probabilities, zero for a class that no training row had."""
        weighting = (self.words, self.characters, self.character_weight)
        return _predict_classes(self.regression, _weigh(counts, weighting), self.num_labels)


def fit_tfidf(
    train: LabelledCounts, validation: LabelledCounts | None, *, num_labels: int
) -> TfidfClassifier:
    """Fit TF-IDF with logistic regression; the lowest validation log loss chooses the settings.

    Without validation rows, words alone are taken, and `USUAL_REGULARIZATION`.

    Source:
        Manning, Raghavan & Schütze 2008, section 6.4.1 (sublinear term frequency).
    """
    has_characters = train[0].characters is not None and validation is not None
    best: tuple[float, TfidfClassifier] | None = None
    for character_weight in CHARACTER_WEIGHTS if has_characters else (0.0,):
        weighting = _learn_weights(train[0], character_weight)
        features = _weigh(train[0], weighting)
        seen = None if validation is None else _weigh(validation[0], weighting)
        for inverse in _choices(validation):
            regression, converged = _fit_regression(features, train[1], inverse)
            found = TfidfClassifier(*weighting, regression, num_labels, converged)
            if validation is None or seen is None:
                return found
            probabilities = _predict_classes(regression, seen, num_labels)
            loss = float(row_log_losses(probabilities, validation[1]).mean())
            if best is None or loss < best[0]:
                best = (loss, found)
    assert best is not None  # there is at least one choice
    return best[1]


@dataclass(frozen=True, slots=True)
class NaiveBayesClassifier:
    """N-grams weighted by their naive-Bayes ratio, one linear classifier for each class.

    Two classes need one classifier, that of the second.
    """

    class_ids: NDArray[np.int64]
    """(K,) the classes that had training rows."""
    ratios: NDArray[np.float32]
    """(D, V) log-count ratio of each n-gram for each classifier; D is K, or 1 for two classes."""
    weights: NDArray[np.float32]
    """(D, V)"""
    biases: NDArray[np.float32]
    """(D,)"""
    inverse_regularization: float
    num_labels: int
    converged: bool

    @property
    def settings(self) -> Mapping[str, float]:
        """What was tuned, by name."""
        return {"C": self.inverse_regularization}

    def predict_probabilities(self, counts: Counts) -> NDArray[np.float64]:
        """Return (n, C) probabilities, zero for a class that no training row had."""
        present = _binarize(counts.words)
        # Rows have length 1 after weighting; dividing here spares a weighted copy per class.
        lengths = np.sqrt(present @ np.square(self.ratios).T)
        decisions = present @ (self.ratios * self.weights).T / np.maximum(lengths, 1e-12)
        return _join_decisions(decisions + self.biases, self.class_ids, num_labels=self.num_labels)


def fit_naive_bayes(
    train: LabelledCounts, validation: LabelledCounts | None, *, num_labels: int
) -> NaiveBayesClassifier:
    """Fit naive-Bayes weighted n-grams; the lowest validation log loss chooses C for all classes.

    The linear classifier is a logistic regression, as probabilities are wanted, and each weighted
    row is brought to length 1, which on IMDB gives 0.1 to 0.2 points more.

    Source:
        Wang & Manning 2012, "Baselines and Bigrams", section 2.3 (binarized counts, smoothed
        by 1); Mesnil et al. 2015, arXiv 1412.5335 (n-grams of up to three words).
    """
    counts, label_ids = train
    present, class_ids = _binarize(counts.words), np.unique(label_ids)
    targets = [label_ids == class_id for class_id in class_ids]
    targets = targets[1:] if len(targets) == 2 else targets
    ratios = np.stack([_log_count_ratio(present, target) for target in targets])
    choices = _choices(validation)
    fits: list[list[tuple[Any, bool]]] = [[] for _ in choices]
    for ratio, target in zip(ratios, targets, strict=True):
        features = _weigh_by_ratio(present, ratio)
        for place, inverse in enumerate(choices):
            fits[place].append(_fit_regression(features, target, inverse))
    found = [
        NaiveBayesClassifier(
            class_ids,
            ratios,
            np.concatenate([regression.coef_ for regression, _ in fit]).astype(np.float32),
            np.concatenate([regression.intercept_ for regression, _ in fit]).astype(np.float32),
            inverse,
            num_labels,
            all(converged for _, converged in fit),
        )
        for inverse, fit in zip(choices, fits, strict=True)
    ]
    return found[0] if validation is None else min(found, key=lambda one: _loss(one, validation))


def _choices(validation: LabelledCounts | None) -> Sequence[float]:
    return INVERSE_REGULARIZATIONS if validation is not None else (USUAL_REGULARIZATION,)


def _loss(classifier: Lexical, rows: LabelledCounts) -> float:
    return float(row_log_losses(classifier.predict_probabilities(rows[0]), rows[1]).mean())


def _learn_weights(
    counts: Counts, character_weight: float
) -> tuple[TfidfTransformer, TfidfTransformer | None, float]:
    from sklearn.feature_extraction.text import TfidfTransformer

    words = TfidfTransformer(sublinear_tf=True).fit(counts.words[:, : counts.num_short])
    if not character_weight:
        return words, None, character_weight
    return words, TfidfTransformer(sublinear_tf=True).fit(counts.characters), character_weight


def _weigh(
    counts: Counts, weighting: tuple[TfidfTransformer, TfidfTransformer | None, float]
) -> csr_matrix:
    from scipy.sparse import hstack

    words, characters, character_weight = weighting
    features: csr_matrix = words.transform(counts.words[:, : counts.num_short])
    if characters is None:
        return features
    beside = characters.transform(counts.characters)
    beside.data *= np.float32(character_weight)
    return hstack([features, beside], format="csr")


def _binarize(words: csr_matrix) -> csr_matrix:
    from scipy.sparse import csr_matrix

    return csr_matrix((np.ones_like(words.data), words.indices, words.indptr), shape=words.shape)


def _log_count_ratio(present: csr_matrix, is_class: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return (V,) the log of how much more often each n-gram stands in the class than outside."""
    inside = 1 + present[is_class].sum(axis=0).A1
    outside = 1 + present[~is_class].sum(axis=0).A1
    ratio = np.log(inside / inside.sum()) - np.log(outside / outside.sum())
    return np.asarray(ratio, dtype=np.float32)


def _weigh_by_ratio(present: csr_matrix, ratio: NDArray[np.float32]) -> csr_matrix:
    from scipy.sparse import csr_matrix
    from sklearn.preprocessing import normalize

    weighted = csr_matrix((ratio[present.indices], present.indices, present.indptr), present.shape)
    return normalize(weighted, copy=False)


def _fit_regression(
    features: csr_matrix, targets: NDArray[Any], inverse: float
) -> tuple[LogisticRegression, bool]:
    """Return the regression, and whether it converged; nothing is warned of."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    regression = LogisticRegression(C=inverse, max_iter=MAX_ITERATIONS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        regression.fit(features, targets)
    return regression, bool(np.max(regression.n_iter_) < MAX_ITERATIONS)


def _predict_classes(
    regression: LogisticRegression, features: csr_matrix, num_labels: int
) -> NDArray[np.float64]:
    probabilities = np.zeros((features.shape[0], num_labels))
    probabilities[:, regression.classes_] = regression.predict_proba(features)
    return probabilities


def _join_decisions(
    decisions: NDArray[Any], class_ids: NDArray[np.int64], *, num_labels: int
) -> NDArray[np.float64]:
    """Return (n, C) probabilities from one-against-rest decisions (n, D)."""
    from scipy.special import expit

    learned = expit(decisions.astype(np.float64))
    if len(class_ids) == 2:
        learned = np.concatenate([1 - learned, learned], axis=1)
    probabilities = np.zeros((len(decisions), num_labels))
    probabilities[:, class_ids] = learned / learned.sum(axis=1, keepdims=True)
    return probabilities
