"""The confidence entries of a run are read back, or rejected if damaged."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from bertfit.errors import RunError
from bertfit.evaluation.scaling import Scaling
from bertfit.evaluation.selective import keep_curve
from bertfit.inference.confidence import ConfidenceRules, read_confidence

CURVE = keep_curve([0.6, 0.9], [False, True])
GOOD = {
    "calibration": {"kind": "vector", "weights": [0.5, 1.0], "biases": [0.0, 0.1]},
    "threshold": {"value": 0.4},
    "selective": CURVE.to_json(),
}


def read(record, num_labels=2):
    return read_confidence(record, num_labels=num_labels, run=Path("run"))


def test_what_was_recorded_is_read():
    scaling = Scaling("vector", (0.5, 1.0), (0.0, 0.1))
    assert read(GOOD) == ConfidenceRules(scaling, 0.4, CURVE)


@pytest.mark.parametrize(
    "record", [{}, {"calibration": None, "threshold": None, "selective": None}]
)
def test_a_run_without_them_has_none(record):
    assert read(record) == ConfidenceRules()


def test_a_calibration_that_changed_nothing_is_none():
    assert read({"calibration": {"kind": "none"}}).scaling is None


@pytest.mark.parametrize(
    "damage",
    [
        {"calibration": 3},
        {"calibration": {"kind": "vector", "weights": [1.0], "biases": [0.0]}},
        {"calibration": {"kind": "vector", "weights": [1.0, 0.0], "biases": [0.0, 0.0]}},
        {"calibration": {"kind": "vector", "weights": [1.0, math.inf], "biases": [0.0, 0.0]}},
        {"calibration": {"kind": "vector", "weights": [1.0, 1.0], "biases": [math.nan, 0.0]}},
        {"calibration": {"kind": "magic", "weights": [1.0, 1.0], "biases": [0.0, 0.0]}},
        {"threshold": {"value": 2}},
        {"threshold": {"value": "x"}},
        {"threshold": {}},
        {"selective": {**GOOD["selective"], "num_rows": 0}},
        {"selective": GOOD["selective"] | {"confidences": [0, *[0.9, 0.5] * 11]}},
        {"selective": GOOD["selective"] | {"confidences": [0.5] * 23}},
        {"selective": {**GOOD["selective"], "num_right": [1]}},
        {"selective": {**GOOD["selective"], "num_right": [3] * 23}},
        {"selective": {**GOOD["selective"], "num_right": [float("inf")] * 23}},
        {"selective": {**GOOD["selective"], "num_answered": [3] * 23}},
        {"selective": {**GOOD["selective"], "num_answered": [1], "num_right": [1]}},
    ],
)
def test_a_damaged_entry_is_refused(damage):
    with pytest.raises(RunError) as caught:
        read(GOOD | damage)
    assert caught.value.message.startswith(
        f"{Path('run') / 'bertfit.json'} is damaged: its calibration, threshold or selective curve "
        "cannot be read ("
    )


def test_a_threshold_for_three_classes_is_refused():
    with pytest.raises(RunError, match=r"threshold 0\.4 for 3 classes"):
        read({"threshold": {"value": 0.4}}, num_labels=3)
