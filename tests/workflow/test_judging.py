"""Comparison with the baseline on the test rows: groups are resampled whole, with leaks or not."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from bertfit.data.gate import GateReport
from bertfit.evaluation.metrics import score
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
    test = SimpleNamespace(groups=groups)
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
    assert found.comparison.verdict.startswith("On the 3 test rows without leaks (accuracy ")


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


@pytest.mark.parametrize("leaked", [(), (1,)])
def test_that_no_threshold_is_applied_is_told_after_the_verdict(leaked):
    plain, decided = (
        compare_on_test(groups=GROUPS, leaked=leaked, threshold=threshold).comparison.verdict
        for threshold in (None, 0.3)
    )
    assert plain.startswith("On the 5 test rows without leaks ") == bool(leaked)
    told = "Both predict the more probable class here; the model's threshold is not applied."
    assert decided == f"{plain} {told}"
