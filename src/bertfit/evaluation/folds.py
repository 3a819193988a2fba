"""Out-of-fold probabilities: every row is predicted by a model that has not seen its label.

Owns the folds, and fits a lexical classifier for each.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bertfit.errors import ConfigError, DataError
from bertfit.evaluation.lexical import fit_tfidf, without_warnings
from bertfit.evaluation.ngrams import SHORT_ORDER, Counts, learn_ngrams
from bertfit.evaluation.threads import run_in_threads
from bertfit.wording import format_count

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

DEFAULT_FOLDS = 5


@dataclass(frozen=True, slots=True)
class FoldPredictions:
    """Predictions for each row by a model that has not seen it."""

    probabilities: NDArray[np.float64]
    """(n, C)"""
    is_judged: NDArray[np.bool_]
    """(n,) False if the label of the row only occurs in its own fold, so that no model knew it."""


def predict_by_folds(
    texts: Sequence[str],
    label_ids: ArrayLike,
    *,
    num_labels: int,
    units: Sequence[Hashable] | None = None,
    units_are: str = "different texts",
    num_folds: int = DEFAULT_FOLDS,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> FoldPredictions:
    """Predict each fold with TF-IDF and logistic regression fitted on the others.

    Rows of one unit are in the same fold: copies would confirm each other's wrong label. The
    n-grams are learned from all texts at once, which does not leak labels.

    Args:
        texts: n texts.
        label_ids: (n,) integers in [0, num_labels).
        num_labels: C.
        units: n units, or None if these are the texts.
        units_are: What the units are, in messages.
        num_folds: At least 2.
        seed: Seed of the folds.
        on_progress: Called with (done, total) folds: first with 0, then after each.

    Raises:
        ConfigError: There are fewer than 2 folds.
        DataError: There are fewer units or rows of the most frequent label than folds, or the texts
            are empty.
    """
    label_ids = np.asarray(label_ids, dtype=np.int64)
    tell = on_progress or (lambda _done, _total: None)
    units = texts if units is None else units
    folds = _cut_folds(units, label_ids, num_folds=num_folds, units_are=units_are, seed=seed)
    tell(0, len(folds))
    counter, counts = learn_ngrams(texts, characters=False, max_order=SHORT_ORDER)
    if not counter.num_ngrams:
        raise DataError("the texts hold nothing to learn from: no words and no characters")
    probabilities = np.zeros((len(texts), num_labels))
    is_judged = np.zeros(len(texts), dtype=bool)
    tasks = [
        functools.partial(_judge_fold, counts, label_ids, fold, num_labels=num_labels)
        for fold in folds
    ]
    with without_warnings():
        for number, (fold, judged) in enumerate(zip(folds, run_in_threads(tasks), strict=True), 1):
            probabilities[fold], is_judged[fold] = judged
            tell(number, len(folds))
    return FoldPredictions(probabilities, is_judged)


def _judge_fold(
    counts: Counts, label_ids: NDArray[np.int64], fold: NDArray[np.int64], *, num_labels: int
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return (n, C) predictions for a fold, and (n,) whether its labels occur in other folds."""
    others = np.setdiff1d(np.arange(len(label_ids)), fold)
    known_ids = np.unique(label_ids[others])
    is_judged = np.isin(label_ids[fold], known_ids)
    if len(known_ids) == 1:
        certain = np.zeros((len(fold), num_labels))
        certain[:, known_ids[0]] = 1.0
        return certain, is_judged
    classifier = fit_tfidf((counts.select(others), label_ids[others]), num_labels=num_labels)
    return classifier.predict_probabilities(counts.select(fold)), is_judged


def _cut_folds(
    units: Sequence[Hashable],
    label_ids: NDArray[np.int64],
    *,
    num_folds: int,
    units_are: str,
    seed: int,
) -> list[NDArray[np.int64]]:
    """Return the rows of each fold, stratified by label; no unit is divided.

    Where most units are a single row, as texts are, they are stratified by their first label: to
    weigh all labels of each unit took scikit-learn longer than all fits.
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    if num_folds < 2:
        raise ConfigError(f"num_folds: expected at least 2 folds, got {num_folds}")
    number_of_unit: dict[Hashable, int] = {}
    numbers = np.array([number_of_unit.setdefault(unit, len(number_of_unit)) for unit in units])
    num_units = len(number_of_unit)
    most = int(np.bincount(label_ids).max())
    if min(num_units, most) < num_folds:
        raise DataError(
            f"{num_folds} folds need at least as many {units_are}, and as many rows of a label; "
            f"got {num_units} {units_are}, and {format_count(most, 'row')} of the most frequent "
            "label",
            hint="Add rows." if num_folds == 2 else "Add rows, or ask for fewer --folds.",
        )
    options = {"n_splits": num_folds, "shuffle": True, "random_state": seed}
    with warnings.catch_warnings():
        # Warns of labels with fewer rows than folds; is_judged reports those.
        warnings.simplefilter("ignore", UserWarning)
        firsts = np.unique(numbers, return_index=True)[1]
        of_units = label_ids[firsts]
        if 2 * num_units > len(numbers) and np.bincount(of_units).max() >= num_folds:
            parts = StratifiedKFold(**options).split(firsts, of_units)
            return [np.flatnonzero(np.isin(numbers, part)) for _, part in parts]
        parts = StratifiedGroupKFold(**options).split(label_ids, label_ids, groups=numbers)
        return [part for _, part in parts if len(part)]
