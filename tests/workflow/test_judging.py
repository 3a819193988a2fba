"""Judging: what Ctrl-C leaves, and the comparison with the baseline, with groups and leaks."""

from __future__ import annotations

import signal
from types import SimpleNamespace

import numpy as np
import pytest

from bertfit.data.gate import GateReport
from bertfit.evaluation import baseline
from bertfit.evaluation.metrics import score
from bertfit.training.interruption import Interruption
from bertfit.workflow import judging

NAMES = ("neg", "pos")
GROUPS = ["x", "x", "y", "y", "z", "z"]


@pytest.fixture
def compared(monkeypatch):
    """Give a list of the label ids and groups that the model and the baseline are compared on."""
    kept, compare = [], judging.compare_with_baseline

    def keep(ours, theirs, label_ids, *, groups, **options):
        kept.append((label_ids.tolist(), None if groups is None else groups.tolist()))
        return compare(ours, theirs, label_ids, groups=groups, **options)

    monkeypatch.setattr(judging, "compare_with_baseline", keep)
    return kept


def compare_on_test(*, groups, leaked=(), grouped=(), threshold=None):
    """Compare two models of six rows."""
    label_ids, high = np.array([0, 1, 1, 0, 0, 1]), np.array([0.1, 0.9, 0.2, 0.3, 0.6, 0.8])
    probabilities = np.column_stack([1 - high, high])
    scores = score(probabilities, label_ids, NAMES)
    test = SimpleNamespace(known_groups=np.asarray(groups) if len(groups) else None)
    evaluation = SimpleNamespace(
        probabilities=probabilities,
        label_ids=label_ids,
        predicted_ids=probabilities.argmax(axis=1),
        scores=scores,
        dataset=test,
        threshold=threshold,
    )
    best = SimpleNamespace(
        name="counts", test=scores, test_probabilities=probabilities[::-1], test_intervals={}
    )
    report = GateReport(
        findings=(),
        num_test=len(probabilities),
        shared_test_rows=tuple(leaked),
        near_test_rows=(),
        grouped_test_rows=tuple(grouped),
    )
    rows = SimpleNamespace(test=test, report=report)
    return judging.compare_on_test(evaluation, SimpleNamespace(best=best), rows)


def test_the_comparison_with_the_baseline_resamples_the_groups(compared):
    found = compare_on_test(groups=GROUPS)
    assert compared == [([0, 1, 1, 0, 0, 1], GROUPS)]
    assert found.comparison_without_leaks is None


def test_on_the_rows_without_leaks_their_own_groups_are_resampled(compared):
    found = compare_on_test(groups=GROUPS, leaked=(1,), grouped=(2, 3))
    assert compared == [([0, 1, 1, 0, 0, 1], GROUPS), ([0, 0, 1], ["x", "z", "z"])]
    start = "On the 3 test rows without leaks or known groups (accuracy "
    assert found.comparison.verdict.startswith(start)


def test_the_verdict_without_leaks_is_that_of_both_on_the_same_rows():
    """Of the last five rows, the model has 3 right and the baseline 2."""
    found = compare_on_test(groups=(), leaked=(0,))
    clean = found.comparison_without_leaks
    assert (clean.model_accuracy, clean.baseline_accuracy) == (0.6, 0.4)
    told = f"{clean.verdict[0].lower()}{clean.verdict[1:]}"
    assert "the difference is +20.0 points" in told
    assert found.comparison.verdict == (
        f"On the 5 test rows without leaks (accuracy 60.0 % against 40.0 %): {told}"
    )


def test_rows_without_groups_are_resampled_one_by_one(compared):
    compare_on_test(groups=(), leaked=(1,))
    assert compared == [([0, 1, 1, 0, 0, 1], None), ([0, 1, 0, 0, 1], None)]


def test_a_single_row_without_leaks_is_compared_too():
    found = compare_on_test(groups=(), leaked=range(5))
    assert (found.comparison_without_leaks.model_accuracy, found.without_leaks.num_rows) == (1.0, 1)
    assert found.comparison.verdict.startswith("On the 1 test row without leaks (accuracy 100.0 % ")


@pytest.mark.parametrize("threshold", [0.0, 0.3])
@pytest.mark.parametrize("leaked", [(), (1,)])
def test_that_no_threshold_is_applied_is_told_after_the_verdict(leaked, threshold):
    plain, decided = (
        compare_on_test(groups=GROUPS, leaked=leaked, threshold=one).comparison.verdict
        for one in (None, threshold)
    )
    assert plain.startswith("On the 5 test rows without leaks ") == bool(leaked)
    told = "Both predict the more probable class here; the model's threshold is not applied."
    assert decided == f"{plain} {told}"


class Recorder:
    """A listener that keeps what it hears."""

    def __init__(self):
        self.notes, self.told = [], []

    def note(self, text):
        self.notes.append(text)

    def progress(self, task, done, total, detail=""):
        self.told.append((task, done, total))


@pytest.mark.parametrize("last", [("baselines", 0, None), ("baselines", 2, 7)])
def test_baselines_that_ctrl_c_ends_leave_no_bar(last):
    """It would stand there, and seem to go on, while the run is written."""
    listener, interruption = Recorder(), Interruption()

    def fit(told):
        told.progress("baselines", 0, None)
        told.progress(*last)
        interruption.hear(signal.SIGINT, None)

    rows = SimpleNamespace(test=None)
    judged = judging.judge(
        rows, None, fit_baselines=fit, listener=listener, interruption=interruption
    )
    assert judged.interrupted
    assert listener.notes == ["Interrupted: the baselines were not fitted."]
    assert listener.told[-2:] == [last, ("baselines", last[1], last[1])]


def test_only_the_bar_of_work_that_ctrl_c_ends_is_left_to_end(monkeypatch):
    listener, interruption = Recorder(), Interruption()

    def score_rows(_classifier, _test, *, name, listener):
        assert name == "test"
        listener.note("Scoring.")
        listener.progress("encoding", 5, 5)
        listener.progress("scoring", 3, 5)
        interruption.hear(signal.SIGINT, None)

    monkeypatch.setattr(judging, "evaluate_classifier", score_rows)
    model, rows = SimpleNamespace(classifier=None), SimpleNamespace(test=object())
    judging.judge(rows, model, fit_baselines=None, listener=listener, interruption=interruption)
    assert listener.notes[0] == "Scoring."
    assert listener.told == [("encoding", 5, 5), ("scoring", 3, 5), ("scoring", 3, 3)]


@pytest.mark.parametrize("most", [1, 10_000])
def test_before_long_fits_it_is_told_how_to_leave_them_out(monkeypatch, most):
    listener, at = Recorder(), []
    monkeypatch.setattr(baseline, "LONG_WORK", most)
    monkeypatch.setattr(
        judging, "run_baselines", lambda *_, **options: at.append(len(listener.notes))
    )
    part = SimpleNamespace(texts=["a", "b"], labels=["n", "p"], groups=[])
    rows = SimpleNamespace(train=part, validation=part, test=None, label_names=("n", "p"))
    judging.baseline_fitter(rows, 0)(listener)
    told = "Fitting the baselines may take minutes (2 rows of 2 classes)."
    noted = [f"{told} --no-baseline leaves them out."] if most == 1 else []
    assert listener.notes == noted
    assert at == [len(noted)]  # before, not after
