"""Classifiers of the lexical baselines, fitted to n-gram counts.

Owns TF-IDF with logistic regression and NB-SVM, and their settings. Tuning is in tuning.py, their
use in baseline.py, counting in ngrams.py.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np

from bertfit.evaluation.metrics import row_log_losses
from bertfit.evaluation.ngrams import Counts

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix
    from sklearn.feature_extraction.text import TfidfTransformer
    from sklearn.linear_model import LogisticRegression

MAX_ITERATIONS = 300
"""Maximum number of iterations; Newton's method needs about 7, L-BFGS about 50."""
USUAL_REGULARIZATION = 10.0
"""C without tuning."""
CHARACTER_WEIGHTS = (0.0, 0.5)
"""Weights of character n-grams relative to word n-grams; 0 disables them."""

MAX_WEIGHTS = 2**22
"""Most weights, n-grams times classes, of a logistic regression of TF-IDF. A fit takes some 200
bytes for each, so beyond that only the n-grams in most texts are used."""
MAX_WEIGHTS_OF_NAIVE_BAYES = 2**24
"""The same for NB-SVM, which takes 8 bytes for each and some 20 more during a fit."""

_Weighting: TypeAlias = (
    "tuple[TfidfTransformer, TfidfTransformer | None, float, NDArray[np.int64] | None]"
)
"""Transformers of words and of characters, the weight of the latter, and the n-grams used (None:
all)."""
LabelledCounts = tuple[Counts, "NDArray[np.int64]"]
"""Counts of n texts, and (n,) label ids."""


class Lexical(Protocol):
    """A fitted classifier of counts."""

    @property
    def settings(self) -> Mapping[str, float]:
        """The tuned settings, by name."""

    @property
    def converged(self) -> bool:
        """Whether all fits converged."""

    @property
    def note(self) -> str | None:
        """What was left out, in words, or None."""

    def predict_probabilities(self, counts: Counts) -> NDArray[np.float64]:
        """Return (n, C) probabilities, zero for classes without training rows."""


@dataclass(frozen=True, slots=True)
class TfidfClassifier:
    """TF-IDF of word and character n-grams, with logistic regression."""

    words: TfidfTransformer
    characters: TfidfTransformer | None
    """None if character n-grams are not used."""
    character_weight: float
    columns: NDArray[np.int64] | None
    """Sorted columns of the n-grams used; None if all are."""
    regression: LogisticRegression
    num_labels: int
    converged: bool

    @property
    def settings(self) -> Mapping[str, float]:
        """The tuned settings, by name."""
        return {"C": self.regression.C, "character_weight": self.character_weight}

    @property
    def note(self) -> str | None:
        """What was left out, in words, or None."""
        return _describe_columns(self.columns, len(self.regression.classes_))

    def predict_probabilities(self, counts: Counts) -> NDArray[np.float64]:
        """Return (n, C) probabilities, zero for classes without training rows."""
        weighting = (self.words, self.characters, self.character_weight, self.columns)
        return _predict_classes(self.regression, _weigh(counts, weighting), self.num_labels)


@dataclass(frozen=True, slots=True)
class Trial:
    """A classifier fitted with one choice of settings, and its validation loss."""

    classifier: Lexical
    loss: float
    """Mean log loss on the validation rows."""
    seconds: float
    """Wall-clock time of the fit."""


TryOut = Callable[[float], Trial]
"""Fits and scores a classifier for a given inverse regularization C."""


def fit_tfidf(train: LabelledCounts, *, num_labels: int) -> TfidfClassifier:
    """Fit TF-IDF of words with logistic regression without tuning: C is `USUAL_REGULARIZATION`.

    Call it inside `without_warnings`.

    Source:
        Manning, Raghavan & Schütze 2008, section 6.4.1 (sublinear term frequency).
    """
    weighting = _learn_weights(train, 0.0)
    features = (_weigh(train[0], weighting), train[1])
    return _fit_tfidf(weighting, features, num_labels, USUAL_REGULARIZATION)


def prepare_tfidf(
    train: LabelledCounts,
    validation: LabelledCounts,
    *,
    num_labels: int,
    character_weight: float,
) -> TryOut:
    """Return a function that fits TF-IDF for a given C; a weight of 0 excludes characters."""
    weighting = _learn_weights(train, character_weight)
    features = (_weigh(train[0], weighting), train[1])

    def try_out(inverse: float) -> Trial:
        return _try(lambda: _fit_tfidf(weighting, features, num_labels, inverse), validation)

    return try_out


def _fit_tfidf(
    weighting: _Weighting,
    train: tuple[csr_matrix, NDArray[np.int64]],
    num_labels: int,
    inverse: float,
) -> TfidfClassifier:
    regression, converged = _fit_regression(*train, inverse)
    return TfidfClassifier(*weighting, regression, num_labels, converged)


@dataclass(frozen=True, slots=True)
class NaiveBayesClassifier:
    """N-grams weighted by their naive-Bayes ratio, with one linear classifier per class.

    Two classes need only one classifier, that of the second class.
    """

    class_ids: NDArray[np.int64]
    """(K,) the classes with training rows."""
    ratios: NDArray[np.float32]
    """(D, V) log-count ratio of each n-gram for each classifier; D is K, or 1 for two classes."""
    weights: NDArray[np.float32]
    """(D, V)"""
    biases: NDArray[np.float32]
    """(D,)"""
    columns: NDArray[np.int64] | None
    """(V,) sorted columns of the n-grams used; None if all are."""
    inverse_regularization: float
    num_labels: int
    converged: bool

    @property
    def settings(self) -> Mapping[str, float]:
        """The tuned settings, by name."""
        return {"C": self.inverse_regularization}

    @property
    def note(self) -> str | None:
        """What was left out, in words, or None."""
        return _describe_columns(self.columns, len(self.class_ids))

    def predict_probabilities(self, counts: Counts) -> NDArray[np.float64]:
        """Return (n, C) probabilities, zero for classes without training rows."""
        present = _take(_binarize(counts.words), self.columns)
        # Weighted rows have unit norm; dividing here avoids a weighted copy per class.
        lengths = np.sqrt(present @ np.square(self.ratios).T)
        decisions = present @ (self.ratios * self.weights).T / np.maximum(lengths, 1e-12)
        return _join_decisions(decisions + self.biases, self.class_ids, num_labels=self.num_labels)


def prepare_naive_bayes(
    train: LabelledCounts, validation: LabelledCounts, *, num_labels: int
) -> TryOut:
    """Return a function that fits NB-SVM for a given C, the same for all classes.

    The linear classifier is a logistic regression, because probabilities are needed. Weighted rows
    are normalized to unit length, which gains 0.1 to 0.2 points on IMDB.

    Source:
        Wang & Manning 2012, "Baselines and Bigrams", section 2.3 (binarized counts, smoothed
        by 1); Mesnil et al. 2015, arXiv 1412.5335 (n-grams of up to three words).
    """
    counts, label_ids = train
    present, class_ids = _binarize(counts.words), np.unique(label_ids)
    targets = [label_ids == class_id for class_id in class_ids]
    targets = targets[1:] if len(targets) == 2 else targets
    columns = _choose_columns(present, MAX_WEIGHTS_OF_NAIVE_BAYES // len(targets))
    present = _take(present, columns)
    ratios = np.stack([_log_count_ratio(present, target) for target in targets])

    def fit(inverse: float) -> NaiveBayesClassifier:
        # One class at a time: the weighted rows of all classes would not fit into memory.
        fits = [
            _fit_regression(_weigh_by_ratio(present, ratio), target, inverse)
            for ratio, target in zip(ratios, targets, strict=True)
        ]
        return NaiveBayesClassifier(
            class_ids,
            ratios,
            np.concatenate([regression.coef_ for regression, _ in fits]).astype(np.float32),
            np.concatenate([regression.intercept_ for regression, _ in fits]).astype(np.float32),
            columns,
            inverse,
            num_labels,
            all(converged for _, converged in fits),
        )

    return lambda inverse: _try(lambda: fit(inverse), validation)


@contextmanager
def without_warnings() -> Iterator[None]:
    """Suppress scikit-learn's warnings of fits that did not converge, which `converged` reports.

    So is its guess that two rows of each class are not meant to be classes.
    Not to be used within threads, because warning filters are global.
    """
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("ignore", message="Line Search failed")
        warnings.filterwarnings("ignore", message="The number of unique classes is greater")
        yield


def _try(fit: Callable[[], Lexical], validation: LabelledCounts) -> Trial:
    start = time.perf_counter()
    classifier = fit()
    seconds = time.perf_counter() - start
    losses = row_log_losses(classifier.predict_probabilities(validation[0]), validation[1])
    return Trial(classifier, float(losses.mean()), seconds)


def _learn_weights(train: LabelledCounts, character_weight: float) -> _Weighting:
    from sklearn.feature_extraction.text import TfidfTransformer

    counts, label_ids = train
    words = TfidfTransformer(sublinear_tf=True).fit(counts.words[:, : counts.num_short])
    characters = None
    if character_weight:
        characters = TfidfTransformer(sublinear_tf=True).fit(counts.characters)
    whole = (words, characters, character_weight, None)
    num_classes = len(np.unique(label_ids))
    most = MAX_WEIGHTS // (1 if num_classes == 2 else num_classes)
    num_ngrams = counts.num_short
    if characters is not None and counts.characters is not None:
        num_ngrams += counts.characters.shape[1]
    if num_ngrams <= most:
        return whole
    return (*whole[:3], _choose_columns(_weigh(counts, whole), most))


def _choose_columns(features: csr_matrix, most: int) -> NDArray[np.int64] | None:
    """Return the sorted columns of the n-grams in most texts, or None if all may be used."""
    if features.shape[1] <= most:
        return None
    return np.sort(np.argsort(-features.getnnz(axis=0), kind="stable")[:most])


def _take(features: csr_matrix, columns: NDArray[np.int64] | None) -> csr_matrix:
    return features if columns is None else features[:, columns]


def _describe_columns(columns: NDArray[np.int64] | None, num_classes: int) -> str | None:
    if columns is None:
        return None
    many = f"with {num_classes:,} classes, only the {len(columns):,} n-grams"
    return f"{many} that occur in most texts are used"


def _weigh(counts: Counts, weighting: _Weighting) -> csr_matrix:
    from scipy.sparse import hstack

    words, characters, character_weight, columns = weighting
    features: csr_matrix = words.transform(counts.words[:, : counts.num_short])
    if characters is not None:
        beside = characters.transform(counts.characters)
        beside.data *= np.float32(character_weight)
        features = hstack([features, beside], format="csr")
    return _take(features, columns)


def _binarize(words: csr_matrix) -> csr_matrix:
    from scipy.sparse import csr_matrix

    return csr_matrix((np.ones_like(words.data), words.indices, words.indptr), shape=words.shape)


def _log_count_ratio(present: csr_matrix, is_class: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return (V,) the log ratio of the frequency of each n-gram in the class to that outside it."""
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
    """Return the regression, and whether it converged.

    Two classes are fitted by Newton's method with conjugate gradients, which on IMDB is faster and
    closer to the optimum than L-BFGS; with 77 classes it is the other way round.
    """
    from sklearn.linear_model import LogisticRegression

    solver = "newton-cg" if np.unique(targets).size == 2 else "lbfgs"
    regression = LogisticRegression(C=inverse, max_iter=MAX_ITERATIONS, solver=solver)
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
    """Return (n, C) probabilities from one-vs-rest decisions (n, D)."""
    from scipy.special import expit

    learned = expit(decisions.astype(np.float64))
    if len(class_ids) == 2:
        learned = np.concatenate([1 - learned, learned], axis=1)
    probabilities = np.zeros((len(decisions), num_labels))
    probabilities[:, class_ids] = learned / learned.sum(axis=1, keepdims=True)
    return probabilities
