"""Judges a kept model: scores the test rows, fits the baselines, and compares the two."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import numpy as np

from bertfit.evaluation.baseline import (
    BaselineResult,
    BaselineResults,
    foresee_long_fits,
    run_baselines,
)
from bertfit.evaluation.comparison import Comparison, compare_with_baseline
from bertfit.evaluation.interval import intervals_to_json
from bertfit.labels import encode_labels
from bertfit.progress import Listener
from bertfit.reporting.summary import WITHOUT_THRESHOLD
from bertfit.reporting.text import format_percent
from bertfit.training.interruption import FirstInterrupt, Interruption
from bertfit.wording import format_count, format_seconds
from bertfit.workflow.evaluating import Evaluation, evaluate_classifier
from bertfit.workflow.leak_free import score_without
from bertfit.workflow.preparing import PreparedModel
from bertfit.workflow.recording import ScoredTest
from bertfit.workflow.rows import PreparedRows

BaselineFitter: TypeAlias = Callable[[Listener], BaselineResults]
"""Fits the baselines, or returns them if already fitted."""


@dataclass(slots=True)
class Judged:
    """Results for a kept model; some may be missing after Ctrl-C."""

    evaluation: Evaluation | None = None
    baselines: BaselineResults | None = None
    interrupted: bool = False
    """Whether Ctrl-C had come before the end of the judging."""


def judge(
    rows: PreparedRows,
    model: PreparedModel,
    *,
    fit_baselines: BaselineFitter | None,
    listener: Listener,
    interruption: Interruption,
) -> Judged:
    """Score the test rows and fit the baselines; the first Ctrl-C skips what is not done yet."""
    judged, told = Judged(), _OpenBars(listener)
    try:
        with interruption.raise_first():
            interruption.raise_if_requested()
            if rows.test is not None:
                judged.evaluation = evaluate_classifier(
                    model.classifier, rows.test, name="test", listener=told
                )
            if fit_baselines is not None:
                judged.baselines = fit_baselines(told)
                _note_baselines(judged.baselines, listener)
    except FirstInterrupt:
        judged.interrupted = True
        if fit_baselines is not None and judged.baselines is None:
            listener.note("Interrupted: the baselines were not fitted.")
        if rows.test is not None and judged.evaluation is None:
            listener.note("Interrupted: the test rows were not scored; bertfit evaluate does that.")
        told.end()
    return judged


class _OpenBars:
    """A listener that passes everything on, and ends the bars of work that Ctrl-C left undone.

    They would stand there, and seem to go on, while the run is written.
    """

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._done: dict[str, int] = {}

    def note(self, text: str) -> None:
        self._listener.note(text)

    def progress(self, task: str, done: int, total: int | None, detail: str = "") -> None:
        self._done[task] = done
        self._listener.progress(task, done, total, detail)
        if done == total:
            del self._done[task]

    def end(self) -> None:
        for task, done in self._done.items():
            self._listener.progress(task, done, done, "interrupted")


def baseline_fitter(rows: PreparedRows, seed: int) -> BaselineFitter:
    """Return a function that fits the baselines on its first call, and caches them."""
    found: list[BaselineResults] = []

    def fit_baselines(listener: Listener) -> BaselineResults:
        if found:
            return found[0]
        parts = [rows.train, rows.validation, *([rows.test] if rows.test is not None else [])]
        labelled = [(part.texts, encode_labels(part.labels, rows.label_names)) for part in parts]
        if (foreseen := foresee_long_fits(labelled[0])) is not None:
            listener.note(f"{foreseen} --no-baseline leaves them out.")
        results = run_baselines(
            labelled[0],
            labelled[1],
            test=labelled[2] if rows.test is not None else None,
            label_names=rows.label_names,
            seed=seed,
            test_groups=(rows.test.groups or None) if rows.test is not None else None,
            on_progress=partial(listener.progress, "baselines"),
        )
        found.append(results)
        return results

    return fit_baselines


def _note_baselines(baselines: BaselineResults, listener: Listener) -> None:
    best = baselines.best
    listener.note(
        f"Baselines ({format_seconds(baselines.seconds)}): the best on validation is {best.name}, "
        f"accuracy {best.validation.accuracy:.4f}."
    )
    for result in baselines.results:
        if result.note:
            listener.note(f"The baseline {result.name}: {result.note}.")


def compare_on_test(
    evaluation: Evaluation, baselines: BaselineResults | None, rows: PreparedRows
) -> ScoredTest:
    """Compare the model with the baseline chosen on validation; also score it without leaks.

    With leaks, the verdict is that on the other rows.
    """
    grouped = rows.report.grouped_test_rows
    clean = (
        score_without(evaluation, rows.report.leaked_test_rows),
        score_without(evaluation, rows.report.known_test_rows if grouped else ()),
    )
    best = baselines.best if baselines is not None else None
    if best is None or best.test is None or best.test_probabilities is None:
        return ScoredTest(evaluation, None, None, *clean)
    comparison = _compare(evaluation, best, np.arange(len(evaluation.label_ids)))
    verdict, without_leaks = comparison.verdict, None
    if known := rows.report.known_test_rows:
        new = np.setdiff1d(np.arange(len(evaluation.label_ids)), known)
        without_leaks = _compare(evaluation, best, new) if len(new) else None
        which = "without leaks or known groups" if grouped else "without leaks"
        rows_left = f"{format_count(len(new), 'test row')} {which}"
        verdict = _word_without_leaks(comparison, without_leaks, rows_left)
    if evaluation.threshold is not None:
        verdict = f"{verdict} {WITHOUT_THRESHOLD}"
    comparison = dataclasses.replace(comparison, verdict=verdict)
    scores = {**best.test.to_json(), "intervals": intervals_to_json(best.test_intervals)}
    return ScoredTest(evaluation, comparison, scores, *clean, without_leaks)


def _compare(evaluation: Evaluation, baseline: BaselineResult, kept: np.ndarray) -> Comparison:
    """Compare the model with a baseline on these test rows."""
    assert baseline.test_probabilities is not None  # else it is not compared
    groups = evaluation.dataset.known_groups
    return compare_with_baseline(
        evaluation.probabilities[kept],
        baseline.test_probabilities[kept],
        evaluation.label_ids[kept],
        groups=None if groups is None else groups[kept],
        baseline_name=baseline.name,
    )


def _word_without_leaks(of_all: Comparison, of_new: Comparison | None, rows: str) -> str:
    """Return the verdict on the rows that are new to both.

    Who learns texts by heart wins on leaked rows, and word counts often do.
    """
    if of_new is None:
        return f"{of_all.verdict} All these rows leaked, so it may be otherwise with new text."
    accuracies = (of_new.model_accuracy, of_new.baseline_accuracy)
    shares = " against ".join(map(format_percent, accuracies))
    verdict = f"{of_new.verdict[0].lower()}{of_new.verdict[1:]}"
    return f"On the {rows} (accuracy {shares}): {verdict}"
