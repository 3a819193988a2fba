"""The machinery of the lexical baselines: counts of n-grams to fitted classifiers.

Owns TF-IDF with logistic regression and NB-SVM, their settings, and how these are tuned. When to
use them, and what for, is in baseline.py; the counting is in ngrams.py.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar

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
"""C of the logistic regression, all tried where there are validation rows; where the best of them
stands at an end, further ones beyond that end are tried, each ten times the last or a tenth of it.
"""
LEAST_INVERSE, MOST_INVERSE = 0.01, 10_000.0
"""No C beyond these is tried: what it costs to fit grows with C, and the loss hardly changes."""
USUAL_REGULARIZATION = 10.0
"""C where nothing can be tuned."""
CHARACTER_WEIGHTS = (0.0, 0.5)
"""How much n-grams of characters count beside those of words; 0 leaves them out."""

Fitted = TypeVar("Fitted")
_Weighting: TypeAlias = "tuple[TfidfTransformer, TfidfTransformer | None, float]"
"""Of words, of characters, and how much the latter count."""
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
    counts, label_ids = train
    if validation is None:
        weighting = _learn_weights(counts, 0.0)
        fitted = _fit_regression(_weigh(counts, weighting), label_ids, USUAL_REGULARIZATION)
        return TfidfClassifier(*weighting, fitted[0], num_labels, fitted[1])
    best: list[tuple[float, TfidfClassifier]] = []
    for character_weight in CHARACTER_WEIGHTS if counts.characters is not None else (0.0,):
        weighting = _learn_weights(counts, character_weight)
        fitting, judging = ((_weigh(part, weighting), ids) for part, ids in (train, validation))
        try_out = functools.partial(_try_tfidf, weighting, fitting, judging, num_labels)
        best.append(_tune(try_out))
    return min(best, key=lambda one: one[0])[1]


def _try_tfidf(
    weighting: _Weighting,
    train: tuple[csr_matrix, NDArray[np.int64]],
    validation: tuple[csr_matrix, NDArray[np.int64]],
    num_labels: int,
    inverses: Sequence[float],
) -> Iterator[tuple[float, TfidfClassifier]]:
    """Yield the validation loss of each C, and what was fitted with it."""
    for inverse in inverses:
        regression, converged = _fit_regression(*train, inverse)
        probabilities = _predict_classes(regression, validation[0], num_labels)
        loss = float(row_log_losses(probabilities, validation[1]).mean())
        yield loss, TfidfClassifier(*weighting, regression, num_labels, converged)


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

    def fit(inverses: Sequence[float]) -> list[NaiveBayesClassifier]:
        fits: list[list[tuple[Any, bool]]] = [[] for _ in inverses]
        for ratio, target in zip(ratios, targets, strict=True):
            features = _weigh_by_ratio(present, ratio)
            for place, inverse in enumerate(inverses):
                fits[place].append(_fit_regression(features, target, inverse))
        return [
            NaiveBayesClassifier(
                class_ids,
                ratios,
                np.concatenate([regression.coef_ for regression, _ in fit]).astype(np.float32),
                np.concatenate([regression.intercept_ for regression, _ in fit]).astype(np.float32),
                inverse,
                num_labels,
                all(converged for _, converged in fit),
            )
            for inverse, fit in zip(inverses, fits, strict=True)
        ]

    if validation is None:
        return fit([USUAL_REGULARIZATION])[0]
    return _tune(lambda inverses: [(_loss(one, validation), one) for one in fit(inverses)])[1]


def _tune(
    try_out: Callable[[Sequence[float]], Iterable[tuple[float, Fitted]]],
) -> tuple[float, Fitted]:
    """Return the lowest loss, and what was fitted with the C that gave it.

    Args:
        try_out: Takes values of C; gives for each its validation loss and what was fitted.
    """
    losses: dict[float, float] = {}
    best: tuple[float, Fitted] | None = None
    waiting: Sequence[float] = INVERSE_REGULARIZATIONS
    while waiting:
        for inverse, (loss, fitted) in zip(waiting, try_out(waiting), strict=True):
            losses[inverse] = loss
            if best is None or loss < best[0]:
                best = (loss, fitted)
        waiting = _look_beyond(losses)
    assert best is not None  # there is at least one choice
    return best


def _look_beyond(losses: Mapping[float, float]) -> list[float]:
    """Return the next C to try: none where the best so far stands between two others.

    Example:
        >>> _look_beyond({1.0: 0.3, 10.0: 0.2, 100.0: 0.1})
        [1000.0]
        >>> _look_beyond({1.0: 0.3, 10.0: 0.2, 100.0: 0.4})
        []
    """
    best = min(losses, key=losses.__getitem__)
    beyond = {min(losses): best / 10, max(losses): best * 10}.get(best)
    is_tried = beyond is not None and LEAST_INVERSE <= beyond <= MOST_INVERSE
    return [beyond] if beyond is not None and is_tried else []


def _loss(classifier: Lexical, rows: LabelledCounts) -> float:
    return float(row_log_losses(classifier.predict_probabilities(rows[0]), rows[1]).mean())


def _learn_weights(counts: Counts, character_weight: float) -> _Weighting:
    from sklearn.feature_extraction.text import TfidfTransformer

    words = TfidfTransformer(sublinear_tf=True).fit(counts.words[:, : counts.num_short])
    if not character_weight:
        return words, None, character_weight
    return words, TfidfTransformer(sublinear_tf=True).fit(counts.characters), character_weight


def _weigh(counts: Counts, weighting: _Weighting) -> csr_matrix:
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
