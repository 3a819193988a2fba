"""Lexical baselines: what word counts alone achieve, to judge whether an encoder is worth its cost.

Owns the list of baselines (majority class, TF-IDF with logistic regression, NB-SVM) and the choice
of the best one on validation. The comparison of a model with it is in comparison.py.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from bertfit.errors import DataError
from bertfit.evaluation.interval import Interval, intervals_to_json
from bertfit.evaluation.intervals import bootstrap_intervals
from bertfit.evaluation.lexical import (
    CHARACTER_WEIGHTS,
    MAX_ITERATIONS,
    LabelledCounts,
    Lexical,
    Trial,
    TryOut,
    prepare_naive_bayes,
    prepare_tfidf,
)
from bertfit.evaluation.metrics import Scores, score
from bertfit.evaluation.ngrams import Counts, NgramCounter, learn_ngrams
from bertfit.evaluation.threads import run_in_threads
from bertfit.evaluation.tuning import FitProgress, tune

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

BASELINE_NAME = "TF-IDF + logistic regression"
NAIVE_BAYES_NAME = "NB-SVM"
MAJORITY_NAME = "majority class"
MAX_ROWS = 100_000
"""More training rows are subsampled: they improve n-grams little, and cost memory."""
MAX_LOGITS = 2**24
"""Most logits, rows times classes, of a fit, which computes all of them in each iteration. With
more than 167 classes, fewer rows are used: a fit of 90,000 rows and 500 classes took a minute."""
LONG_WORK = 50_000_000
"""Characters of the fitted texts times classes: with more, all fits take minutes on one core."""
MAX_CLASSES_OF_NAIVE_BAYES = 200
"""NB-SVM fits one classifier per class; it is skipped if there are more classes."""

_CHUNK_SIZE = 2048
"""Texts per task in scoring; bounds the memory."""


@dataclass(frozen=True, slots=True)
class LexicalBaseline:
    """A fitted baseline, ready to score texts."""

    name: str
    class_shares: NDArray[np.float64]
    """Share of each class among the training rows, (C,)."""
    counter: NgramCounter | None = None
    classifier: Lexical | None = None
    """None if nothing could be learned; the class shares are then predicted."""
    note: str | None = None
    """What was unusual, in words for the reader, or None."""
    seconds: float = 0.0
    """Total time of all fits of the tuning, as if run sequentially; excludes counting."""

    def settings(self) -> Mapping[str, float]:
        """Return the tuned settings, by name."""
        return {} if self.classifier is None else self.classifier.settings


@dataclass(frozen=True, slots=True, eq=False)
class BaselineResult:
    """Scores of a baseline on the validation and test rows; equal only if they are the same."""

    name: str
    settings: Mapping[str, float]
    note: str | None
    seconds: float
    """Total time of all fits of the tuning, as if run sequentially."""
    validation: Scores
    test: Scores | None
    """None if there are no test rows."""
    test_probabilities: NDArray[np.float64] | None = field(repr=False)
    """(n_test, C), in the order of the texts and the label ids."""
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


@dataclass(frozen=True, slots=True, eq=False)
class BaselineResults:
    """All baselines on the same rows; equal only if they are the same."""

    results: tuple[BaselineResult, ...]
    """The best on validation first."""
    seconds: float
    """Wall-clock time of counting, fitting, tuning and scoring."""

    @property
    def best(self) -> BaselineResult:
        """The baseline with the highest validation accuracy; ties are broken by log loss."""
        return self.results[0]

    def to_json(self) -> dict[str, Any]:
        """Return the content of baselines.json."""
        return {
            "best": self.best.name,
            "chosen_by": "validation accuracy",
            "seconds": round(self.seconds, 1),
            "baselines": [result.to_json() for result in self.results],
        }


def foresee_long_fits(train: tuple[Sequence[str], ArrayLike]) -> str | None:
    """Return a sentence with the rows and classes if fitting the baselines takes minutes, or None.

    Args:
        train: Texts and (n,) label ids.
    """
    texts, label_ids = train
    num_classes = len(np.unique(label_ids))
    num_rows = min(len(texts), MAX_ROWS, MAX_LOGITS // max(num_classes, 1))
    num_characters = sum(map(len, texts)) * num_rows // max(len(texts), 1)
    if num_characters * (1 if num_classes == 2 else num_classes) <= LONG_WORK:
        return None
    return f"Fitting the baselines may take minutes ({num_rows:,} rows of {num_classes:,} classes)."


def run_baselines(
    train: tuple[Sequence[str], ArrayLike],
    validation: tuple[Sequence[str], ArrayLike],
    *,
    test: tuple[Sequence[str], ArrayLike] | None,
    label_names: Sequence[str],
    seed: int,
    test_groups: ArrayLike | None = None,
    on_progress: Callable[[int, int | None], None] | None = None,
) -> BaselineResults:
    """Fit all baselines, tune them on the validation rows, and score the validation and test rows.

    The baselines are the majority class; TF-IDF of word 1- and 2-grams and character 3- and 4-grams
    with logistic regression; and NB-SVM, naive-Bayes weighted word 1- to 3-grams with a linear
    classifier. The test rows are not used for any choice.

    Args:
        train: Texts and (n,) label ids.
        validation: Texts and label ids, for tuning and the choice of the best baseline.
        test: Texts and label ids, or None.
        label_names: The C names, in the order of their ids.
        seed: Seed for subsampling.
        test_groups: (n_test,) group of each test row, resampled whole for the intervals; or None.
        on_progress: Called with (done, total) fits, of which the total may grow, and the scoring;
            before the fits are known, with (0, None).

    Raises:
        DataError: A set of rows is empty, or has not one label per text, or an id is out of range.

    Source:
        Wang & Manning 2012, "Baselines and Bigrams".
    """
    start, progress = time.perf_counter(), FitProgress(on_progress)
    progress.begin()
    num_labels = len(label_names)
    parts = [validation] if test is None else [validation, test]
    judging = [_check_rows(*part, num_labels=num_labels) for part in parts]
    baselines = fit_baselines(
        train,
        judging[0],
        num_labels=num_labels,
        seed=seed,
        on_progress=progress.tell,
    )
    scored = [predict_with_baselines(baselines, texts) for texts, _ in judging]
    ids_of_parts = [label_ids for _, label_ids in judging]
    results = [
        _judge(baseline, [part[place] for part in scored], ids_of_parts, label_names, test_groups)
        for place, baseline in enumerate(baselines)
    ]
    results.sort(key=lambda one: (-one.validation.accuracy, one.validation.log_loss))
    progress.end()
    return BaselineResults(tuple(results), time.perf_counter() - start)


def fit_baselines(
    train: tuple[Sequence[str], ArrayLike],
    validation: tuple[Sequence[str], ArrayLike],
    *,
    num_labels: int,
    seed: int,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> list[LexicalBaseline]:
    """Fit all baselines, each tuned on the validation rows; the majority class comes first.

    If the texts have no words, n-grams of characters replace them; if they are empty, or only one
    class has rows, only the majority class is returned. In both cases, `note` says so. Fits run in
    parallel, one per core.

    Arguments, errors and sources are those of `run_baselines`, but `on_progress` is that of `tune`.
    """
    rows = _check_rows(*train, num_labels=num_labels)
    texts, label_ids, cut = _cut_rows(*rows, seed=seed)
    judging = _check_rows(*validation, num_labels=num_labels)
    shares: NDArray[np.float64] = np.bincount(label_ids, minlength=num_labels) / len(label_ids)
    counter, counts = learn_ngrams(texts)
    obstacle = _find_obstacle(counter, shares)
    majority = LexicalBaseline(MAJORITY_NAME, shares, note=obstacle)
    if obstacle is not None:
        return [majority]
    labelled = ((counts, label_ids), (counter.count(judging[0]), judging[1]))
    searches = _list_searches(*labelled, num_labels=num_labels)
    found = tune(list(run_in_threads(prepare for _, prepare in searches)), on_progress=on_progress)
    trials: dict[str, list[Trial]] = {}
    for (name, _), tried in zip(searches, found, strict=True):
        trials.setdefault(name, []).extend(tried)
    notes = [note for note in (counter.note, cut) if note]
    return [
        majority,
        *(_choose(name, tried, counter, shares, notes) for name, tried in trials.items()),
    ]


def predict_with_baselines(
    baselines: Sequence[LexicalBaseline], texts: Sequence[str]
) -> list[NDArray[np.float64]]:
    """Return (n, C) probabilities of each baseline; n-grams are counted only once.

    The baselines must have been fitted on the same rows.
    """
    counter = next((one.counter for one in baselines if one.counter is not None), None)

    def predict(chunk: Sequence[str]) -> list[NDArray[np.float64]]:
        counts = counter.count(chunk) if counter is not None and len(chunk) else None
        return [_predict(baseline, counts, len(chunk)) for baseline in baselines]

    starts = range(0, max(1, len(texts)), _CHUNK_SIZE)
    chunks = (texts[start : start + _CHUNK_SIZE] for start in starts)
    pieces = run_in_threads(functools.partial(predict, chunk) for chunk in chunks)
    return [np.concatenate(piece) for piece in zip(*pieces, strict=True)]


def _list_searches(
    train: LabelledCounts, validation: LabelledCounts, *, num_labels: int
) -> list[tuple[str, Callable[[], TryOut]]]:
    """Return (baseline name, function that prepares the search for its settings) pairs.

    The longest fits come first, so that threads finish at about the same time.
    """
    rows = (train, validation)
    weights = sorted(CHARACTER_WEIGHTS if train[0].characters is not None else (0.0,), reverse=True)
    searches: list[tuple[str, Callable[[], TryOut]]] = [
        (
            BASELINE_NAME,
            functools.partial(prepare_tfidf, *rows, num_labels=num_labels, character_weight=weight),
        )
        for weight in weights
    ]
    if len(np.unique(train[1])) <= MAX_CLASSES_OF_NAIVE_BAYES:
        prepare = functools.partial(prepare_naive_bayes, *rows, num_labels=num_labels)
        searches.insert(1, (NAIVE_BAYES_NAME, prepare))
    return searches


def _choose(
    name: str,
    trials: Sequence[Trial],
    counter: NgramCounter,
    shares: NDArray[np.float64],
    notes: Sequence[str],
) -> LexicalBaseline:
    """Return the baseline with the lowest validation loss."""
    classifier = min(trials, key=lambda trial: trial.loss).classifier
    notes = [*notes, *([classifier.note] if classifier.note else [])]
    if not classifier.converged:
        notes = [*notes, f"the fit was stopped after {MAX_ITERATIONS} iterations"]
    seconds = sum(trial.seconds for trial in trials)
    return LexicalBaseline(name, shares, counter, classifier, "; ".join(notes) or None, seconds)


def _judge(
    baseline: LexicalBaseline,
    probabilities: Sequence[NDArray[np.float64]],
    label_ids: Sequence[NDArray[np.int64]],
    label_names: Sequence[str],
    test_groups: ArrayLike | None,
) -> BaselineResult:
    """Score a baseline on the validation rows, and on the test rows if there are any."""
    told = (baseline.name, baseline.settings(), baseline.note, baseline.seconds)
    scores = [score(*part, label_names) for part in zip(probabilities, label_ids, strict=True)]
    if len(scores) == 1:
        return BaselineResult(*told, scores[0], None, None)
    found = bootstrap_intervals(
        probabilities[1], label_ids[1], groups=test_groups, with_auroc=False
    )
    intervals = {name: found[name] for name in ("accuracy", "macro_f1")}
    return BaselineResult(*told, scores[0], scores[1], probabilities[1], intervals)


def _predict(
    baseline: LexicalBaseline, counts: Counts | None, num_rows: int
) -> NDArray[np.float64]:
    if baseline.classifier is None or counts is None:
        return np.tile(baseline.class_shares, (num_rows, 1))
    return baseline.classifier.predict_probabilities(counts)


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
    texts: Sequence[str], label_ids: NDArray[np.int64], *, seed: int
) -> tuple[Sequence[str], NDArray[np.int64], str | None]:
    """Return at most `MAX_ROWS` rows, fewer with many classes, and a note if there were more."""
    most = min(MAX_ROWS, MAX_LOGITS // len(np.unique(label_ids)))
    chosen = _choose_rows(label_ids, most, seed=seed)
    if len(chosen) == len(texts):
        return texts, label_ids, None
    note = f"fitted on {len(chosen):,} of {len(texts):,} rows"
    return [texts[row] for row in chosen], label_ids[chosen], note


def _choose_rows(label_ids: NDArray[np.int64], most: int, *, seed: int) -> NDArray[np.int64]:
    """Return sorted row numbers, stratified by class; every class keeps a row if possible."""
    num_rows = len(label_ids)
    if num_rows <= most:
        return np.arange(num_rows)
    shuffled = np.random.default_rng(seed).permutation(num_rows)
    turn = np.empty(num_rows)  # rank within the class, as a share of the class
    by_label = shuffled[np.argsort(label_ids[shuffled], kind="stable")]
    for members in np.split(by_label, np.cumsum(np.bincount(label_ids))[:-1]):
        turn[members] = np.arange(len(members)) / max(len(members), 1)
    return np.sort(shuffled[np.argsort(turn[shuffled], kind="stable")][:most])
