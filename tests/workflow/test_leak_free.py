"""Scores without leaked rows: decided and resampled as those of all test rows."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from bertfit.evaluation.intervals import bootstrap_intervals
from bertfit.workflow.leak_free import score_without

GROUPS = [f"g{at // 5}" for at in range(60)]
THRESHOLD = 0.05  # the more probable class is another for many rows


@pytest.fixture
def evaluation():
    """Give an evaluation of 60 rows of which whole groups are right or wrong."""
    rng = np.random.default_rng(0)
    label_ids = np.repeat(rng.integers(2, size=12), 5)
    is_right = np.repeat(rng.random(12) < 0.7, 5)
    high = np.where(is_right == label_ids, 0.9, 0.1)
    return SimpleNamespace(
        probabilities=np.column_stack([1 - high, high]),
        label_ids=label_ids,
        predicted_ids=(high >= THRESHOLD).astype(int),
        scores=SimpleNamespace(label_names=("neg", "pos")),
        dataset=SimpleNamespace(known_groups=np.asarray(GROUPS)),
    )


def test_intervals_without_leaked_rows_resample_the_groups(evaluation):
    num_left_out = 5
    found = score_without(evaluation, range(num_left_out))
    label_ids, predicted_ids = (
        column[num_left_out:] for column in (evaluation.label_ids, evaluation.predicted_ids)
    )
    expected = bootstrap_intervals(
        evaluation.probabilities[num_left_out:],
        label_ids,
        predicted_ids=predicted_ids,
        groups=GROUPS[num_left_out:],
        with_auroc=False,
    )
    assert (found.num_leaked, found.num_rows) == (num_left_out, 60 - num_left_out)
    assert found.accuracy == (predicted_ids == label_ids).mean()
    assert found.intervals == {name: expected[name] for name in ("accuracy", "macro_f1")}


def test_without_leaked_rows_there_is_no_other_score(evaluation):
    assert score_without(evaluation, ()) is None


def test_if_all_rows_leaked_nothing_is_scored(evaluation):
    found = score_without(evaluation, range(60))
    assert (found.num_leaked, found.num_rows, found.accuracy, found.intervals) == (60, 0, None, {})
